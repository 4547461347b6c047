// layer: the forward pass of each layer kind, one file per kind (layer_attn, layer_ffn), and the
// state of one pass that they share.
#pragma once
#include "worker/arch.h"
#include "worker/kv.h"
#include "worker/weights.h"

enum { PASS_GLOBAL, PASS_LOCAL, PASS_ROPES }; // which rotation a layer uses

// One step's rows on their way through this stage's layers. All buffers belong to the stage and
// hold max_tok rows.
struct pass {
    struct kernels *k;
    const struct arch *arch;
    const struct model_shape *shape;
    const struct kv *kv;
    int32_t n_tok;
    const struct attn_run *runs;
    int32_t n_run;
    struct rope rope[PASS_ROPES];
    float *cos_sin[PASS_ROPES]; // (n_tok, n_rot / 2, 2)

    float *x;    // (n_tok, dim) residual stream
    float *h;    // (n_tok, dim) what is between the residual stream and a matrix
    float *q;    // (n_tok, n_head, head_dim)
    float *key;  // (n_tok, n_head_kv, head_dim)
    float *val;  // (n_tok, n_head_kv, head_dim)
    float *att;  // (n_tok, n_head, head_dim)
    float *gate; // (n_tok, ffn_dim)
    float *up;   // (n_tok, ffn_dim)
};

// Self-attention with rotary positions over the pages of the KV cache (Vaswani et al. 2017, Su et
// al. 2021, Ainslie et al. 2023); local layers look back over a window only.
void layer_attn(struct pass *p, const struct part *w, int32_t index, int32_t layer);
// Dense gated feed-forward (Shazeer 2020).
void layer_ffn(struct pass *p, const struct part *w, int32_t index, int32_t layer);
