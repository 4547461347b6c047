#!/bin/sh
# Builds the kernels for AArch64 and runs kernels_check under an emulator. Its digest must be the
# one this machine's own build prints. Exit status 77 if the tools are absent.
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
flags="-std=gnu11 -D_GNU_SOURCE -I. -ffp-contract=off -fno-math-errno -O2 -static"
kernels=$(ls kernels/*.c kernels/cpu/*.c 2>/dev/null | grep -v _avx2.c)
$CROSS $flags tests/unit/kernels/kernels_check.c $kernels $base -lm -lpthread -o "$dir/check"
"$QEMU" "$dir/check" -t 2 neon | tee "$dir/neon"

native=$(ls kernels/*.c kernels/cpu/*.c 2>/dev/null | grep -v -e _avx2.c -e _neon.c)
if [ "$(uname -m)" = x86_64 ]; then
    cc $flags -O3 -mavx2 -mfma -mf16c -c kernels/cpu/leaf_avx2.c -o "$dir/avx2.o"
    cc $flags tests/unit/kernels/kernels_check.c $native "$dir/avx2.o" $base -lm -lpthread \
        -o "$dir/native"
    "$dir/native" -t 1 avx2 | tee "$dir/avx2"
    if [ "$(sed -n 's/.*digest //p' "$dir/neon")" != "$(sed -n 's/.*digest //p' "$dir/avx2")" ]; then
        echo "neon and avx2 give different bits"
        exit 1
    fi
    echo "neon and avx2 give the same bits"
fi
