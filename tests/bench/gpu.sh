#!/bin/sh
# Proves and measures the CUDA backend on a machine with a device, which may have no network and
# none of our libraries.
#
#   tests/bench/gpu.sh pack [BUILD]   where everything is built (BUILD: build, with TRIREME_CUDA=ON):
#                                     gathers programs, module and libraries in BUILD/gpu
#   tests/bench/gpu.sh run [PACK]     on the device's machine, from the repository's root (PACK:
#                                     build/gpu). Where there is no PACK, kernels, module and
#                                     benchmarks are built there, which needs CUDA and CMake only
#
# Results go to OUT (tests/bench/results if it is not set): one folder per device and date, with what
# each part printed and a summary. Exit 1 if a part failed.
set -u
cd "$(dirname "$0")/../.." || exit
mode=${1:-run}

pack() {
    build=${1:-build}
    to=$build/gpu
    rm -rf "$to"
    mkdir -p "$to/tests" "$to/lib"
    for f in "$build"/libtrireme-cuda.so "$build"/tests/golden "$build"/trireme \
        "$build"/tests/unit_cuda_*_test "$build"/tests/*_bench; do
        [ -f "$f" ] || { echo "not built: $f"; exit 1; }
        case $f in
        */tests/*) cp "$f" "$to/tests/" ;;
        *) cp "$f" "$to/" ;;
        esac
    done
    strip --strip-debug "$to"/trireme "$to"/tests/* "$to"/libtrireme-cuda.so
    # Libraries of ours; the C library and CUDA's belong to the machine.
    for f in "$to"/trireme "$to"/tests/*; do ldd "$f"; done | awk '$3 ~ /^\// { print $3 }' |
        sort -u | grep -vE '/(libc|libm|libpthread|libdl|librt|ld-linux[^/]*)\.so' |
        while read -r lib; do cp -L "$lib" "$to/lib/"; done
    du -sh "$to"
}

failed=0
# part NAME COMMAND...: runs it, keeps what it prints
part() {
    name=$1
    shift
    start=$(date +%s)
    timeout 900 "$@" >"$out/$name.txt" 2>&1
    code=$?
    verdict=ok
    [ $code = 0 ] || { verdict="FAILED ($code)"; failed=1; }
    printf '%-28s %-14s %4d s\n' "$name" "$verdict" $(($(date +%s) - start)) | tee -a "$out/summary.txt"
}

run() {
    nvidia-smi >/dev/null 2>&1 || { echo "no device here: nvidia-smi does not run"; exit 1; }
    device=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | tr ' /' '--')
    out=${OUT:-tests/bench/results}/$device-$(date +%Y-%m-%d)
    mkdir -p "$out"
    nvidia-smi -q >"$out/device.txt"
    pack=${1:-build/gpu}
    if [ ! -d "$pack" ]; then
        pack=build/kernels
        part build sh -c "cmake -S . -B $pack -DTRIREME_KERNELS_ONLY=ON -DTRIREME_CUDA=ON &&
            cmake --build $pack -j"
    fi
    export LD_LIBRARY_PATH="$PWD/$pack/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    export TRIREME_CUDA="$PWD/$pack/libtrireme-cuda.so" TRIREME_BUILD="$pack"
    cuda=$(dirname "$(dirname "$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)")")
    LD_LIBRARY_PATH="$LD_LIBRARY_PATH:$cuda/lib64"
    if [ -x "$pack/tests/golden" ]; then
        # Those that open the module that TRIREME_CUDA names; the others run kernels on the host.
        for test in attn gemm; do part "unit-$test" "$pack/tests/unit_cuda_${test}_test"; done
        part golden env TRIREME_TEST_ALL=1 tests/golden/cuda.sh
        if command -v compute-sanitizer >/dev/null; then
            for tool in memcheck racecheck initcheck; do
                part "sanitizer-$tool" compute-sanitizer --tool "$tool" --error-exitcode 9 \
                    "$pack/tests/golden" --device cuda --threads 1 \
                    ../shared/fixtures/arch/llama/ ../shared/fixtures/arch/qwen3_next/
            done
        fi
    fi
    bench=$(find "$pack" -name cuda_products_bench -type f | head -1)
    [ -n "$bench" ] && part products "$bench" --device cuda
    [ -n "$bench" ] && command -v ncu >/dev/null &&
        part profile ncu --target-processes all --launch-count 40 --section SpeedOfLight \
            --section Occupancy "$bench" --device cuda --tiny
    part torch python3 - <<'PY'
# What the vendor's library reaches here, to compare products with: FP16 and BF16, by rows.
import torch
def seconds(f):
    for _ in range(5): f()
    best = []
    for _ in range(20):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record(); f(); b.record(); torch.cuda.synchronize()
        best.append(a.elapsed_time(b) / 1e3)
    return sorted(best)[len(best) // 2]
x = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").random_()
y = torch.empty_like(x)
print("copy GB/s, read and written: %.0f" % (2 * x.numel() / seconds(lambda: y.copy_(x)) / 1e9))
del x, y
for dtype in (torch.float16, torch.bfloat16):
    for rows, cols in ((4096, 4096), (14336, 4096), (4096, 14336)):
        w = [torch.randn(rows, cols, device="cuda", dtype=dtype) for _ in range(6)]
        for m in (1, 16, 64, 512, 4096):
            a = torch.randn(m, cols, device="cuda", dtype=dtype)
            def f(i=[0]):
                i[0] += 1
                return a @ w[i[0] % len(w)].T
            t = seconds(f)
            print("%-14s %5d x %5d x %5d  %8.1f us  %7.1f TFLOP/s  %6.0f GB/s" %
                  (dtype, m, rows, cols, t * 1e6, 2 * m * rows * cols / t / 1e12, 2 * rows * cols / t / 1e9))
PY
    cat "$out/summary.txt"
    exit $failed
}

case $mode in
pack) shift && pack "$@" ;;
run) shift 2>/dev/null; run "$@" ;;
*) sed -n '2,14p' "$0"; exit 2 ;;
esac
