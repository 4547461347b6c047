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
if command -v ccache >/dev/null; then CROSS="ccache $CROSS"; fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
checks="kernels_check ops_check"
isas="neon dotprod i8mm" # the emulator has them all
flags="-std=gnu11 -D_GNU_SOURCE -I. -ffp-contract=off -fno-math-errno -O2"
mkdir "$dir/arm"

# The kernels and base (without json.c, which needs a library), two at a time, the largest first. -O1
# takes half the time for the leaves, and bits do not depend on it.
compile() {
    case $1 in
    *_dotprod_neon.c) simd="-O1 -march=armv8.2-a+dotprod" ;;
    *_i8mm_neon.c) simd="-O1 -march=armv8.2-a+dotprod+i8mm" ;;
    *leaf_*) simd=-O1 ;;
    *) simd= ;;
    esac
    $CROSS $flags $simd -c "$1" -o "$dir/arm/$(echo "$1" | tr / _).o" || echo "$1" >> "$dir/failed"
}
half() { # 0 or 1: every other file
    n=0
    for source in $(ls -S kernels/cpu/leaf_*.c kernels/*.c kernels/cpu/[!l]*.c proto/base/*.c |
                    grep -v -e _avx2.c -e /json.c); do
        n=$((1 - n))
        if [ $n = "$1" ]; then compile "$source"; fi
    done
}
half 0 & half 1
wait
if [ -e "$dir/failed" ]; then exit 1; fi
ar rcs "$dir/arm/kernels.a" "$dir"/arm/*.o

# check PROGRAM ISA
check() {
    "$QEMU" -cpu max "$dir/arm/$1" -b -t 2 "$2" > "$dir/$1.$2" 2>&1 || echo "$1 $2" >> "$dir/failed"
}
for name in $checks; do
    $CROSS $flags -static "tests/unit/kernels/$name.c" "$dir/arm/kernels.a" -lm -lpthread -o "$dir/arm/$name"
    for isa in $isas; do check "$name" "$isa" & done
done
wait
digest() { sed -n 's/.*digest //p' "$1"; }
for name in $checks; do
    for isa in $isas; do
        cat "$dir/$name.$isa"
        if [ "$(digest "$dir/$name.$isa")" != "$(digest "$dir/$name.neon")" ]; then
            echo "$name: $isa and neon give different bits"
            exit 1
        fi
    done
done
if [ -e "$dir/failed" ]; then exit 1; fi

# The same on this machine, whose kernels the build has.
[ "$(uname -m)" = x86_64 ] || exit 0
build=${TRIREME_BUILD:-build}
for name in $checks; do
    cc $flags "tests/unit/kernels/$name.c" "$build/libkernels.a" "$build/libbase.a" -lm -lpthread -ldl -ljansson \
        -o "$dir/$name.native"
    "$dir/$name.native" -b -t 1 avx2 | tee "$dir/avx2"
    if [ "$(digest "$dir/$name.neon")" != "$(digest "$dir/avx2")" ]; then
        echo "$name: neon and avx2 give different bits"
        exit 1
    fi
    echo "$name: neon and avx2 give the same bits"
done
