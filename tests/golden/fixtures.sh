#!/bin/sh
# The tiny GGUF checkpoints of the fixtures whose architecture and types this build computes, in both
# precisions, whole and in 2 stages.
set -u
fixtures=${TRIREME_FIXTURES:-../shared/fixtures}
golden=${TRIREME_BUILD:-build}/tests/golden
if [ ! -d "$fixtures/gguf" ]; then
    echo "SKIPPED: no fixtures at $fixtures"
    exit 77
fi
bad=0
for t in F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q4_K_M; do
    for precision in exact fast; do
        "$golden" --precision $precision --stages 2 "$fixtures/gguf/llama-$t" || bad=1
    done
done
exit $bad
