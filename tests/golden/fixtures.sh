#!/bin/sh
# Every tiny GGUF checkpoint of the fixtures in both precisions, whole and in 3 stages. A kind of
# model that this build refuses is told and left out; at least one must compare.
set -u
fixtures=${TRIREME_FIXTURES:-../shared/fixtures}
golden=${TRIREME_BUILD:-build}/tests/golden
if [ ! -d "$fixtures/gguf" ]; then
    echo "SKIPPED: no fixtures at $fixtures"
    exit 77
fi
bad=0 compared=0
for dir in "$fixtures"/gguf/*/; do
    for precision in exact fast; do
        "$golden" --precision $precision --stages 3 --threads 2 "${dir%/}"
        case $? in
        0) compared=$((compared + 1)) ;;
        77) ;;
        *) bad=$((bad + 1)) ;;
        esac
    done
done
echo "$compared comparisons good, $bad bad"
[ $bad = 0 ] && [ $compared -gt 0 ]
