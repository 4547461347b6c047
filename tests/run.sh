#!/bin/sh
# All tests: installs what they need, lints, builds with warnings as errors (gcc, optimised, in
# build/) and with ASan + UBSan and fuzzers (clang, in build/san), and runs everything with ctest.
#   tests/run.sh          everything
#   tests/run.sh --quick  no sanitizer build, no fuzzing, no nvcc
#   tests/run.sh --all    and every fixture on the CUDA kernels, and each part of what measures a GPU,
#                         tiny, on the host
set -eu
cd "$(dirname "$0")/.."
quick=${1:-}
jobs=$(nproc)
deploy/install.sh build test

echo "== lint"
tests/lint/lint.sh

echo "== build"
cuda=AUTO # where there is an nvcc
[ "$quick" != --quick ] || cuda=OFF
[ "$quick" != --all ] || export TRIREME_TEST_ALL=1
cmake -S . -B build -G Ninja -DTRIREME_TESTS=ON -DTRIREME_CUDA=$cuda >/dev/null
cmake --build build -j "$jobs"
status=0
if [ "$quick" != --quick ]; then
    echo "== build with sanitizers"
    cmake -S . -B build/san -G Ninja -DTRIREME_TESTS=ON -DTRIREME_SANITIZE=ON \
        -DCMAKE_C_COMPILER=clang >/dev/null
    cmake --build build/san -j "$jobs"
fi

echo "== models"
for m in smollm2 gemma3; do
    deploy/models.sh $m build/models >/dev/null ||
        echo "WARNING: cannot fetch model $m: the tests that need it will be SKIPPED"
done

if [ "$quick" != --quick ]; then
    echo "== unit tests and fuzzers under ASan + UBSan"
    ctest --test-dir build/san --output-on-failure -L 'unit|fuzz' -j "$jobs" || status=1
fi
echo "== all tests, optimised build"
ctest --test-dir build --output-on-failure -j "$jobs" || status=1
if [ "$quick" = --all ]; then
    echo "== tests/bench/gpu.sh on the host"
    results=$(mktemp -d)
    OUT=$results tests/bench/gpu.sh run --host build || status=1
    rm -rf "$results"
fi
exit $status
