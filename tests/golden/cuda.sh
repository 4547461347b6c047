#!/bin/sh
# Golden fixtures on the CUDA backend: on the module that runs on the host, or the one that
# TRIREME_CUDA names (on a machine with a device). A sample of them; TRIREME_TEST_ALL=1: all.
set -u
fixtures=${TRIREME_FIXTURES:-../shared/fixtures}
build=${TRIREME_BUILD:-build}
export TRIREME_CUDA="${TRIREME_CUDA:-$build/libtrireme-cuda-host.so}"
case $TRIREME_CUDA in */*) ;; *) TRIREME_CUDA=./$TRIREME_CUDA ;; esac
if [ ! -d "$fixtures/arch" ]; then
    echo "SKIPPED: no fixtures at $fixtures"
    exit 77
fi
bad=0
golden() {
    "$build/tests/golden" --device cuda --threads 1 "$@" || bad=1
}
if [ "${TRIREME_TEST_ALL:-0}" = 0 ]; then
    golden --alone "$fixtures"/arch/gpt_oss/ "$fixtures"/arch/qwen3_next/ "$fixtures"/arch/deepseek_v3/ \
        "$fixtures"/quant/llama-gptq-int4/
else
    golden "$fixtures"/arch/*/ "$fixtures"/quant/*/ "$fixtures"/gguf/*/
    golden --stages 2 --split tensor --members 2 "$fixtures"/arch/*/
    golden --precision deterministic "$fixtures"/gguf/llama-Q4_K_M/ "$fixtures"/gguf/qwen3moe-Q4_K_M/
    for kv in BF16 Q8_0 F8_E4M3; do
        golden --alone --precision fast --kv $kv "$fixtures"/arch/llama/ "$fixtures"/arch/gemma3/ \
            "$fixtures"/arch/gpt_oss/ "$fixtures"/arch/deepseek_v3/
    done
fi
exit $bad
