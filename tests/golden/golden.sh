#!/bin/sh
# Every golden model of the fixtures, in both precisions, whole and split; and the real models where
# they are there. golden.sh PROGRAM [MODELS_DIR]; exit 0 good, 1 a difference, 77 no fixtures.
set -u
cd "$(dirname "$0")/../.."
golden=${1:?usage: golden.sh PROGRAM [MODELS_DIR]}
models=${2:-build/models}
fixtures=${TRIREME_FIXTURES:-../shared/fixtures}
if [ ! -d "$fixtures/gguf" ]; then
    echo "SKIPPED: no golden models at $fixtures/gguf (set TRIREME_FIXTURES)"
    exit 77
fi
bad=0 compared=0
check() {
    "$golden" "$@"
    case $? in
    0) compared=$((compared + 1)) ;;
    77) ;; # a kind of model that this build refuses, and says so
    *) bad=$((bad + 1)) ;;
    esac
}
for precision in exact fast; do
    for dir in "$fixtures"/gguf/*/; do
        check --precision $precision --stages 3 --threads 2 "${dir%/}"
    done
    for answers in "$fixtures"/real/*.json; do
        model=$models/$(basename "$answers" .json).gguf
        if [ -f "$model" ]; then
            check --precision $precision --threads 2 --real "$answers" "$model"
        else
            echo "SKIPPED: no $model (deploy/models.sh fetches it)"
        fi
    done
done
echo "$compared comparisons good, $bad bad"
[ "$bad" = 0 ] && [ "$compared" -gt 0 ]
