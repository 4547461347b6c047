#!/bin/sh
# Tokenizers and chat templates of the fixtures against their references. Vocabularies that are not
# in the fixtures come from where their info.json says: a Gemma 3 GGUF, the Python package
# mistral-common.
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
    for f in vocab.gguf tokenizer.json tokenizer.model tekken.json; do
        if [ -f "$d/$f" ]; then
            dirs="$dirs $d"
            break
        fi
    done
done
# shellcheck disable=SC2086
"$bin/tokenizer_cases" $dirs || bad=1

gemma=build/models/gemma-3-270m-q4_k_m.gguf
if [ -f $gemma ]; then
    "$bin/tokenizer_cases" --vocab $gemma "$fixtures/tokenizers/gemma3" || bad=1
else
    echo "SKIPPED: gemma3: no $gemma"
fi

tekken=build/models/tekken
if [ ! -f $tekken/tekken.json ]; then
    work=$(mktemp -d)
    python3 -m pip download --quiet --no-deps --disable-pip-version-check -d "$work" \
        mistral-common==1.13.1 >/dev/null 2>&1 &&
        mkdir -p $tekken && python3 - "$work" $tekken/tekken.json <<'PY'
import glob, sys, zipfile
wheel = zipfile.ZipFile(glob.glob(sys.argv[1] + "/*.whl")[0])
with open(sys.argv[2], "wb") as f:
    f.write(wheel.read("mistral_common/data/tekken_240911.json"))
PY
    rm -rf "$work"
fi
if [ -f $tekken/tekken.json ]; then
    "$bin/tokenizer_cases" --vocab $tekken "$fixtures/tokenizers/mistral-tekken" || bad=1
else
    echo "SKIPPED: mistral-tekken: the package mistral-common cannot be had"
fi
"$bin/template_cases" "$fixtures"/chat_templates/*/ tests/golden/templates/*/ || bad=1
exit $bad
