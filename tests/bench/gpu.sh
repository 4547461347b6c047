#!/bin/sh
# Proves and measures the CUDA backend on a machine with a device, which may have no network and
# none of our libraries.
#
#   tests/bench/gpu.sh pack [BUILD]       where everything is built (BUILD: build, with
#                                         -DTRIREME_CUDA=ON; -DTRIREME_CUDA_TARGETS=90 for one kind
#                                         of device only): program, module, tests, libraries and
#                                         fixtures in BUILD/gpu.tar.xz
#   tests/bench/gpu.sh run [PACK] [PART]  on the device's machine, from the repository's root (PACK:
#                                         build/gpu.tar.xz, or a folder). Where there is no PACK,
#                                         kernels, module and benchmarks are built there, which needs
#                                         CUDA and CMake only, and the other parts are left out.
#                                         PART: words of the list below, for machines on which a
#                                         command may not take long; without it, all of them
#   tests/bench/gpu.sh run --host BUILD   every part once, tiny, on the module that runs on the host
#
#   part         minutes  what, most wanted first
#   check        1        tests of products and attention, three golden fixtures
#   models       5        G1 G2 G4 G7 G8: decoding, graphs, idle time, whole models
#   kernels      3        G3 G5 G6: products and attention beside their limits and the vendor's library
#   serve        2        a server on the device and a client
#   prove        4        all golden fixtures
#   load         1        from disk to device, beside dd
#   profile      4        ncu's (or nsys's) word for what limits the products, attention, a step
#   sanitize     5        compute-sanitizer: memcheck, racecheck, synccheck, initcheck
#
# Results go to OUT (tests/bench/results if it is not set): a folder for each device and date with
# what each part printed, and summary.md, which has the goals of specs/performance.md. Both are
# written after every part, and so is BUNDLE, if it is set: all of the folder as one .tar.gz. A part
# that is run again replaces its own files. After BUDGET seconds (1740) nothing is begun any more, and
# what runs is ended. Exit 1 if a part failed; a missed goal is no failure, a part that fails does
# not keep the others.
set -u
cd "$(dirname "$0")/../.." || exit
mode=${1:-run}

pack() {
    build=${1:-build}
    to=$build/gpu
    fixtures=${TRIREME_FIXTURES:-../shared/fixtures}
    rm -rf "$to" "$build/gpu.tar.xz"
    mkdir -p "$to/tests" "$to/lib/ucx" "$to/fixtures"
    for f in "$build"/libtrireme-cuda.so "$build"/trireme "$build"/tests/golden \
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
    # Of UCX's parts what a machine without its libraries can load; the rest it has built in.
    ucx=$(dirname "$(ldconfig -p | awk '/libucp\.so\.0/ { print $NF; exit }')")/ucx
    for part in cma; do cp -L "$ucx/libuct_$part.so.0" "$to/lib/ucx/libuct_$part.so" 2>/dev/null; done
    for f in arch quant gguf; do [ -d "$fixtures/$f" ] && cp -r "$fixtures/$f" "$to/fixtures/"; done
    tar -C "$build" -cf - gpu | xz -T0 -6 >"$build/gpu.tar.xz"
    bytes=$(stat -c %s "$build/gpu.tar.xz")
    echo "$build/gpu.tar.xz: $((bytes >> 20)) MiB"
    rm -rf "$to"
}

# ---- on the device's machine

failed=0
# part NAME SECONDS COMMAND...: runs it, keeps what it prints
part() {
    name=$1
    limit=$2
    shift 2
    start=$(date +%s)
    left=$((until - start))
    [ "$limit" -le "$left" ] || limit=$left
    if [ "$limit" -lt 5 ]; then
        code=78
    else
        timeout -k 5 "$limit" "$@" >"$out/$name.txt" 2>"$out/$name.err"
        code=$?
    fi
    took=$(($(date +%s) - start))
    case $code in
    0) verdict=ok ;;
    77) verdict="left out" ;;
    78) verdict="no time" ;;
    124 | 137) verdict="ended after $limit s" failed=1 ;;
    *) verdict="FAILED ($code)" failed=1 ;;
    esac
    [ -s "$out/$name.err" ] || rm -f "$out/$name.err"
    [ $code = 0 ] || tail -3 "$out/$name.err" 2>/dev/null
    printf '%-24s %-18s %4d s\n' "$name" "$verdict" "$took"
    printf '%s\t%s\t%s\n' "$name" "$verdict" "$took" >"$out/$name.part"
    keep_results
}

keep_results() {
    python3 tests/bench/gpu_summary.py "$out" || failed=1
    [ -z "${BUNDLE:-}" ] || tar -C "$(dirname "$out")" -czf "$BUNDLE" "$(basename "$out")" || failed=1
}

# The place of a program of the pack, or of what was built here; nothing: it is not there.
place() {
    for p in "$pack/tests/$1" "$pack/$1"; do [ -x "$p" ] && echo "$p" && return; done
}

bench() { # NAME MODEL OPTIONS...
    name=$1
    shift
    [ -z "$program" ] || part "bench-$name" 150 "$program" bench "$@" --device cuda --json --threads "$threads"
}

do_check() {
    for test in gemm attn; do # those that open the module that TRIREME_CUDA names
        p=$(place "unit_cuda_${test}_test")
        [ -z "$p" ] || [ -n "$host" ] || part "unit-$test" 100 "$p"
    done
    [ -z "$golden" ] || part golden-few 60 "$golden" $few
}

do_prove() {
    [ -z "$golden" ] || [ -n "$host" ] || part golden 420 env TRIREME_TEST_ALL=1 tests/golden/cuda.sh
}

do_sanitize() {
    p=$(place cuda_products_bench)
    for tool in memcheck racecheck synccheck initcheck; do
        if ! command -v compute-sanitizer >/dev/null; then
            part "sanitizer-$tool" 5 sh -c "echo no compute-sanitizer here; exit 77"
        elif [ -n "$golden" ]; then
            part "sanitizer-$tool" 140 compute-sanitizer --tool "$tool" --error-exitcode 9 "$golden" $few
        elif [ -n "$p" ]; then
            part "sanitizer-$tool" 140 compute-sanitizer --tool "$tool" --error-exitcode 9 "$p" --device cuda --tiny
        fi
    done
}

do_kernels() {
    for b in products attn; do
        p=$(place "cuda_${b}_bench")
        [ -z "$p" ] || part "$b" 240 "$p" --device cuda $tiny
    done
    [ -z "$program" ] || part ops 60 "$program" bench --ops --device cuda --json
    part torch 120 python3 tests/bench/gpu_torch.py $tiny
}

do_models() {
    if [ -n "$host" ]; then
        small="shape:smollm2-135m@layers=1:Q4_0"
        bench tiny "$small" --batch 1 --prompt 4 --tokens 3
        bench tiny-eager "$small" --batch 1 --prompt 4 --tokens 3 --graphs off
        return
    fi
    bench small shape:qwen3-0.6b --batch 1,64 --prompt 128 --tokens 256
    bench small-eager shape:qwen3-0.6b --batch 1 --prompt 128 --tokens 256 --graphs off
    bench 8b-int4 shape:llama-3.1-8b:Q4_0 --batch 1,16 --prompt 512 --tokens 128
    bench 8b-bf16 shape:llama-3.1-8b --batch 1 --prompt 2048 --tokens 128
    bench 1b shape:llama-3.2-1b --batch 1 --prompt 128 --tokens 256
    bench moe shape:qwen3-30b-a3b:Q4_0 --batch 1 --prompt 512 --tokens 128
    bench 8b-q4k shape:llama-3.1-8b:Q4_K --batch 1 --prompt 512 --tokens 128
    bench oss shape:gpt-oss-20b --batch 1 --prompt 512 --tokens 128
    [ -z "$program" ] || part step 120 "$program" bench shape:llama-3.1-8b:Q4_0 --batch 1 --prompt 512 --tokens 32 \
        --profile --no-limits --device cuda
}

do_load() {
    [ -z "$program" ] || part load 120 python3 tests/bench/gpu_load.py "$program" $tiny
}

do_profile() {
    p=$(place cuda_products_bench)
    a=$(place cuda_attn_bench)
    if command -v ncu >/dev/null; then
        what="--target-processes all --section SpeedOfLight --section Occupancy --section MemoryWorkloadAnalysis"
        [ -z "$p" ] || part profile-products 120 ncu $what --launch-count 40 "$p" --device cuda --tiny
        [ -z "$a" ] || part profile-attn 120 ncu $what --launch-count 40 "$a" --device cuda --tiny
        [ -z "$program" ] || part profile-step 150 ncu $what --launch-skip 600 --launch-count 40 "$program" bench \
            shape:llama-3.1-8b@layers=2:Q4_0 --batch 1 --prompt 64 --tokens 8 --graphs off --no-limits --device cuda
    elif command -v nsys >/dev/null && [ -n "$program" ]; then
        part profile-step 150 nsys profile --stats=true -o "$out/step" -f true "$program" bench shape:qwen3-0.6b \
            --batch 1 --prompt 64 --tokens 64 --no-limits --device cuda
    else
        part profile-step 5 sh -c "echo neither ncu nor nsys here; exit 77"
    fi
}

do_serve() {
    [ -z "$program" ] || part serve 110 python3 tests/bench/gpu_serve.py "$program" $tiny
}

run() {
    host= tiny= threads=$(nproc) until=$(($(date +%s) + ${BUDGET:-1740}))
    if [ "${1:-}" = --host ]; then
        host=1 tiny=--tiny threads=2
        shift
        pack=${1:-build}
        device=host
        export TRIREME_CUDA="$PWD/$pack/libtrireme-cuda-host.so"
        case $pack in /*) TRIREME_CUDA=$pack/libtrireme-cuda-host.so ;; esac
        [ $# = 0 ] || shift
    else
        nvidia-smi >/dev/null 2>&1 || { echo "no device here: nvidia-smi does not run"; exit 1; }
        device=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | tr ' /' '--')
        pack=build/gpu.tar.xz
        case ${1:-} in */* | *.xz) pack=$1; shift ;; esac
    fi
    out=${OUT:-tests/bench/results}/$device-$(date +%Y-%m-%d)
    mkdir -p "$out"
    [ -n "$host" ] || nvidia-smi -q >"$out/device.txt"
    if [ -f "$pack" ]; then # a machine that stays may have it still
        there=/tmp/trireme-gpu-$(stat -c %s-%Y "$pack")
        [ -d "$there" ] || { mkdir -p "$there" && tar -C "$there" -xf "$pack"; } || exit 1
        pack=$there/gpu
    elif [ ! -d "$pack" ]; then
        pack=build/kernels
        targets=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
        part build 580 sh -c "cmake -S . -B $pack -DTRIREME_KERNELS_ONLY=ON -DTRIREME_CUDA=ON \
            -DTRIREME_CUDA_TARGETS=$targets && cmake --build $pack -j $threads"
    fi
    case $pack in /*) ;; *) pack=$PWD/$pack ;; esac
    if [ -z "$host" ]; then
        cuda=$(dirname "$(dirname "$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)")")
        export TRIREME_CUDA="$pack/libtrireme-cuda.so"
        export LD_LIBRARY_PATH="$pack/lib:$cuda/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
        export UCX_MODULE_DIR="$pack/lib/ucx"
        [ ! -d "$pack/fixtures" ] || export TRIREME_FIXTURES="$pack/fixtures"
    fi
    export TRIREME_BUILD="$pack" TRIREME_FIXTURES="${TRIREME_FIXTURES:-../shared/fixtures}"
    program=$(place trireme)
    golden=$(place golden)
    few="--device cuda --threads 1 --alone $TRIREME_FIXTURES/arch/llama/"
    [ -n "$host" ] || few="$few $TRIREME_FIXTURES/arch/gpt_oss/ $TRIREME_FIXTURES/arch/qwen3_next/"
    for p in ${*:-check models kernels serve prove load profile sanitize}; do
        case $p in
        check | models | kernels | serve | prove | load | profile | sanitize) "do_$p" ;;
        *) echo "no part $p"; exit 2 ;;
        esac
    done
    keep_results
    cat "$out/summary.md"
    exit $failed
}

case $mode in
pack) shift && pack "$@" ;;
run) shift 2>/dev/null; run "$@" ;;
*) sed -n '2,36p' "$0"; exit 2 ;;
esac
