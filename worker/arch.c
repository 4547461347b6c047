#include "worker/arch.h"
#include "worker/layer.h"

#include <stdio.h>
#include <string.h>

// Names as in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. GGUF has already added the
// one of Gemma's (1 + w) norms to its norm weights, and stores llama's query and key rows in the
// order in which neighbours turn together.
static const struct arch archs[] = {
    {
        // Touvron et al. 2023; grouped queries: Ainslie et al. 2023
        .name = "llama",
        .rope = ROPE_INTERLEAVED,
        .glu = GLU_SILU,
        .mixer = layer_attn,
        .ffn = layer_ffn,
        .tensors =
            {
                [SLOT_ATTN_NORM] = "blk.%d.attn_norm.weight",
                [SLOT_ATTN_Q] = "blk.%d.attn_q.weight",
                [SLOT_ATTN_K] = "blk.%d.attn_k.weight",
                [SLOT_ATTN_V] = "blk.%d.attn_v.weight",
                [SLOT_ATTN_OUT] = "blk.%d.attn_output.weight",
                [SLOT_FFN_NORM] = "blk.%d.ffn_norm.weight",
                [SLOT_FFN_GATE] = "blk.%d.ffn_gate.weight",
                [SLOT_FFN_UP] = "blk.%d.ffn_up.weight",
                [SLOT_FFN_DOWN] = "blk.%d.ffn_down.weight",
                [SLOT_EMBED] = "token_embd.weight",
                [SLOT_FINAL_NORM] = "output_norm.weight",
                [SLOT_HEAD] = "output.weight",
                [SLOT_ROPE_FREQS] = "rope_freqs.weight",
            },
    },
    {
        // Gemma Team 2025: norms before and after each half, norms on queries and keys
        .name = "gemma3",
        .rope = ROPE_NEOX,
        .glu = GLU_GELU_TANH,
        .mixer = layer_attn,
        .ffn = layer_ffn,
        .tensors =
            {
                [SLOT_ATTN_NORM] = "blk.%d.attn_norm.weight",
                [SLOT_ATTN_Q] = "blk.%d.attn_q.weight",
                [SLOT_ATTN_K] = "blk.%d.attn_k.weight",
                [SLOT_ATTN_V] = "blk.%d.attn_v.weight",
                [SLOT_ATTN_OUT] = "blk.%d.attn_output.weight",
                [SLOT_ATTN_Q_NORM] = "blk.%d.attn_q_norm.weight",
                [SLOT_ATTN_K_NORM] = "blk.%d.attn_k_norm.weight",
                [SLOT_ATTN_POST_NORM] = "blk.%d.post_attention_norm.weight",
                [SLOT_FFN_NORM] = "blk.%d.ffn_norm.weight",
                [SLOT_FFN_GATE] = "blk.%d.ffn_gate.weight",
                [SLOT_FFN_UP] = "blk.%d.ffn_up.weight",
                [SLOT_FFN_DOWN] = "blk.%d.ffn_down.weight",
                [SLOT_FFN_POST_NORM] = "blk.%d.post_ffw_norm.weight",
                [SLOT_EMBED] = "token_embd.weight",
                [SLOT_FINAL_NORM] = "output_norm.weight",
                [SLOT_HEAD] = "output.weight",
            },
    },
};

const struct arch *arch_find(const char *name)
{
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
        if (!strcmp(archs[i].name, name)) return &archs[i];
    return NULL;
}

int32_t arch_slot_part(enum slot s, int32_t layer)
{
    switch (s) {
    case SLOT_EMBED:
        return PART_EMBED;
    case SLOT_FINAL_NORM:
    case SLOT_HEAD:
        return PART_HEAD;
    case SLOT_ROPE_FREQS:
        return PART_SHARED;
    default:
        return layer;
    }
}

bool arch_slot_is_matrix(enum slot s)
{
    switch (s) {
    case SLOT_ATTN_Q:
    case SLOT_ATTN_K:
    case SLOT_ATTN_V:
    case SLOT_ATTN_OUT:
    case SLOT_FFN_GATE:
    case SLOT_FFN_UP:
    case SLOT_FFN_DOWN:
    case SLOT_EMBED:
    case SLOT_HEAD:
        return true;
    default:
        return false;
    }
}

const struct model_tensor *arch_tensor(const struct arch *a, const struct model *m, enum slot s,
                                       int32_t layer)
{
    if (!a->tensors[s]) return NULL;
    char name[96];
    const char *hole = strstr(a->tensors[s], "%d");
    if (hole)
        snprintf(name, sizeof name, "%.*s%d%s", (int)(hole - a->tensors[s]), a->tensors[s], layer,
                 hole + 2);
    else
        snprintf(name, sizeof name, "%s", a->tensors[s]);
    return model_tensor_find(m, name);
}
