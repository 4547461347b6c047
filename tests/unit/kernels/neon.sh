#!/bin/sh
# Builds the kernels for AArch64 and runs their check programs under an emulator. The digests must
# be the ones this machine's own build prints. Exit status 77 if the tools are absent.
set -eu
cd "$(dirname "$0")/../../.."
CROSS=${CROSS:-aarch64-linux-gnu-gcc}
QEMU=${QEMU:-qemu-aarch64}
for tool in "$CROSS" "$QEMU"; do
    if ! command -v "$tool" >/dev/null; then
        echo "SKIPPED: neon: $tool is not installed"
        exit 77
    fi
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# base without json.c, which needs a library
base=$(ls proto/base/*.c | grep -v /json.c)
flags="-std=gnu11 -D_GNU_SOURCE -I. -ffp-contract=off -fno-math-errno -O2"

# build CC DIR: the kernels and base as one archive
build() {
    mkdir -p "$2"
    for source in $(ls kernels/*.c kernels/cpu/*.c 2>/dev/null) $base; do
        simd=
        case $1:$source in
        *aarch64*:*_avx2.c | cc:*_neon.c) continue ;;
        *:*_vnni_avx2.c)
            simd="-O3 -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512vnni" ;;
        *:*_avx2.c) simd="-O3 -mavx2 -mfma -mf16c" ;;
        *:*_dotprod_neon.c) simd="-march=armv8.2-a+dotprod" ;;
        esac
        $1 $flags $simd -c "$source" -o "$2/$(echo "$source" | tr / _).o"
    done
    ar rcs "$2/kernels.a" "$2"/*.o
}

build "$CROSS" "$dir/arm"
if [ "$(uname -m)" = x86_64 ]; then build cc "$dir/native"; fi
for check in kernels_check ops_check; do
    source=tests/unit/kernels/$check.c
    $CROSS $flags -static "$source" "$dir/arm/kernels.a" -lm -lpthread -o "$dir/arm/$check"
    # Both instruction sets in one run: it fails if their digests differ.
    "$QEMU" -cpu max "$dir/arm/$check" -b -t 2 neon dotprod > "$dir/both" || { cat "$dir/both"; exit 1; }
    cat "$dir/both"
    grep -q '^dotprod ' "$dir/both" # the emulator has it
    grep '^neon ' "$dir/both" > "$dir/neon"
    [ "$(uname -m)" = x86_64 ] || continue
    cc $flags "$source" "$dir/native/kernels.a" -lm -lpthread -o "$dir/native/$check"
    "$dir/native/$check" -b -t 1 avx2 | tee "$dir/avx2"
    if [ "$(sed -n 's/.*digest //p' "$dir/neon")" != "$(sed -n 's/.*digest //p' "$dir/avx2")" ]; then
        echo "$check: neon and avx2 give different bits"
        exit 1
    fi
    echo "$check: neon and avx2 give the same bits"
done
