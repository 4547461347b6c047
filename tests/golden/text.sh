#!/bin/sh
# Tokenizers and chat templates of the fixtures against their references.
set -u
fixtures=${TRIREME_FIXTURES:-../shared/fixtures}
bin=${TRIREME_BUILD:-build}/tests
if [ ! -d "$fixtures/tokenizers" ]; then
    echo "SKIPPED: no fixtures at $fixtures"
    exit 77
fi
bad=0
dirs=""
for d in "$fixtures"/tokenizers/*/; do
    [ -f "$d/vocab.gguf" ] && dirs="$dirs $d"
done
# shellcheck disable=SC2086
"$bin/tokenizer_cases" $dirs || bad=1
gemma=build/models/gemma-3-270m-q4_k_m.gguf
if [ -f $gemma ]; then
    "$bin/tokenizer_cases" --vocab $gemma "$fixtures/tokenizers/gemma3" || bad=1
fi
"$bin/template_cases" "$fixtures"/chat_templates/*/ || bad=1
exit $bad
