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
    # Every kind of layer, every family of weights; then members and stages on devices.
    golden --alone "$fixtures"/arch/gpt_oss/ "$fixtures"/arch/qwen3_next/ "$fixtures"/arch/deepseek_v3/ \
        "$fixtures"/arch/gemma3/ "$fixtures"/arch/llama4_text/ "$fixtures"/arch/qwen3_5_moe/ \
        "$fixtures"/arch/mistral4/ "$fixtures"/arch/glm4_moe/ "$fixtures"/quant/llama-gptq-int4/ \
        "$fixtures"/quant/qwen3-ct-nvfp4/ "$fixtures"/quant/qwen3-fp8-block/ \
        "$fixtures"/quant/llama-ct-mxfp4/ "$fixtures"/quant/qwen3-ct-w8a8/ "$fixtures"/gguf/llama-Q4_K_M/ \
        "$fixtures"/gguf/llama-IQ4_XS/ "$fixtures"/gguf/qwen3moe-MXFP4/
    golden --alone --split tensor --members 2 --group peers "$fixtures"/arch/llama/
    golden --alone --stages 2 --split experts --members 2 --group nccl "$fixtures"/arch/qwen3_moe/
else
    golden "$fixtures"/arch/*/ "$fixtures"/quant/*/ "$fixtures"/gguf/*/
    golden --stages 2 --split tensor --members 2 "$fixtures"/arch/*/
    golden --group both "$fixtures"/arch/llama/ "$fixtures"/arch/gpt_oss/ "$fixtures"/arch/deepseek_v3/ \
        "$fixtures"/arch/qwen3_next/ "$fixtures"/quant/llama-gptq-int4/
    golden --precision deterministic "$fixtures"/gguf/llama-Q4_K_M/ "$fixtures"/gguf/qwen3moe-Q4_K_M/
    for kv in BF16 Q8_0 F8_E4M3; do
        golden --alone --precision fast --kv $kv "$fixtures"/arch/llama/ "$fixtures"/arch/gemma3/ \
            "$fixtures"/arch/gpt_oss/ "$fixtures"/arch/deepseek_v3/
    done
fi
exit $bad
