#!/bin/sh
# Every tiny checkpoint of the fixtures, in exact precision (whole, then in 2 stages of 2 members)
# and, where weights are quantised, with the fast kernels; the plain ones also as GGUF files, of
# today and of old, and experts whose columns are in orders of their own. The table of what passed lies in build/tests/coverage.tsv afterwards. Then reuse:
# the scheduler over real stages.
set -u
fixtures=${TRIREME_FIXTURES:-../shared/fixtures}
build=${TRIREME_BUILD:-build}
if [ ! -d "$fixtures/arch" ]; then
    echo "SKIPPED: no fixtures at $fixtures"
    exit 77
fi
bad=0
golden() {
    echo "-- $*" | sed 's, [^ ]*/ .*,,; s, [^ ]*/$,,'
    "$build/tests/golden" "$@" || bad=1
}
rm -f "$build/tests/coverage.tsv"
golden --threads 1 --table "$build/tests/coverage.tsv" \
    "$fixtures"/arch/*/ "$fixtures"/quant/*/ "$fixtures"/gguf/*/
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
python3 tests/golden/gguf_made.py "$made/new" "$fixtures"/arch/*/ || bad=1
golden --threads 1 --table "$build/tests/coverage.tsv" "$made"/new/*/
python3 tests/golden/gguf_made.py --old "$made/old" "$fixtures"/arch/deepseek_v[23]/ \
    "$fixtures"/arch/mixtral/ "$fixtures"/arch/qwen3_next/ || bad=1
golden --threads 1 "$made"/old/*/
python3 tests/golden/act_order_made.py "$fixtures/quant/qwen3_moe-autoround-int4" "$made/act-order" || bad=1
golden --threads 1 "$made"/act-order/
golden --threads 1 --split experts --members 2 "$made"/act-order/
golden --threads 2 --stages 2 --split tensor --members 2 "$fixtures"/arch/*/ "$fixtures"/quant/*/
golden --threads 1 --precision fast "$fixtures"/quant/*/ "$fixtures"/gguf/*/
# Keys and values in the types that are not usual.
for kv in BF16 Q8_0 F8_E4M3; do
    golden --threads 1 --alone --precision fast --kv $kv "$fixtures"/arch/llama/ \
        "$fixtures"/arch/gemma3/ "$fixtures"/arch/deepseek_v3/
done
# README's table is about the usual fixtures.
[ -n "${TRIREME_FIXTURES:-}" ] ||
    python3 tests/golden/coverage.py "$build/tests/coverage.tsv" README.md || bad=1
"$build/tests/reuse" --seeds 2 "$fixtures"/arch/*/ || bad=1
exit $bad
