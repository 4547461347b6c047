// layer: the forward pass of each layer kind, one file per kind, and the state of one pass that
// they share. A layer is a mixer (tokens see each other: layer_attn, layer_mla, layer_delta) and
// then a feed-forward part (each token alone: layer_ffn, layer_moe); struct model_layer says which.
#pragma once
#include "worker/kv.h"
#include "worker/state.h"
#include "worker/weights.h"

// Layers that look back over everything and local ones differ in their pages and their rotation.
enum { PASS_GLOBAL, PASS_LOCAL, PASS_SIGHTS };

// Work space of one layer kind. Kinds are never at work at once: their buffers share memory.
struct attn_work {
    float *q;         // (n_tok, n_head, head_dim)
    float *key, *val; // (n_tok, n_head_kv, head_dim)
    float *gate;      // (n_tok, n_head, head_dim)
    float *att;       // (n_tok, n_head, head_dim)
};
struct mla_work {
    float *q_a;    // (n_tok, q_rank)
    float *kv;     // (n_tok, kv_rank + rope_dim) the keys of the cache: [latent, turned]
    float *latent; // (n_tok, kv_rank)
    float *q;      // (n_tok, n_head, nope_dim + rope_dim), later (n_tok, n_head, v_dim)
    float *q_wide; // (n_tok, n_head, nope_dim), later (n_tok, n_head, kv_rank + rope_dim)
    float *att;    // (n_tok, n_head, kv_rank)
};
struct delta_work {
    float *qkv, *mixed;  // (n_tok, 2 k + v) before and after the convolution
    float *z;            // (n_tok, v)
    float *a, *b;        // (n_tok, n_head_v)
    float *out;          // (n_tok, v)
    float **conv, **sum; // (max_rows) states of the runs
};
struct ffn_work {
    float *gate, *up; // (n_tok, ffn_dim)
};
// A product is one (token, chosen expert); n_prod = n_tok * n_used of them, sorted by expert.
struct moe_work {
    float *logits;                  // (n_tok, n_expert)
    int32_t *ids;                   // (n_tok, n_used)
    float *weights;                 // (n_tok, n_used)
    int32_t *at;                    // (n_tok, n_used) the product's place in the sorted list
    int32_t *row;                   // (n_prod) its token
    int32_t *expert;                // (n_prod) ascending
    int32_t *seq;                   // (n_prod) 0, 1, 2, ...
    int32_t *from;                  // (n_expert + 1) where each expert's products begin
    float *x;                       // (n_prod, dim) inputs weighed beforehand, or NULL
    float *gate, *up;               // (n_prod, m)
    float *y;                       // (n_prod, dim)
    float *out;                     // (n_tok, dim)
    float *shared_gate, *shared_up; // (n_tok, shared_dim)
    float *shared_out;              // (n_tok, dim)
    float *share;                   // (n_tok)
};

// One step's rows on their way through this stage's layers. All buffers belong to the stage and
// hold max_tok rows.
struct pass {
    struct kernels *k;
    const struct model_shape *shape;
    const struct kv *kv;
    const struct state *state;
    const struct stage_watch *watch; // NULL: nobody does
    int32_t n_expert_set;
    int32_t n_tok, n_run;
    struct attn_run *runs[PASS_SIGHTS]; // (n_run) the same runs with the pages of each kind
    uint32_t *slots;                    // (n_run)
    struct rope rope[PASS_SIGHTS];
    float *cos_sin[PASS_SIGHTS]; // (n_tok, n_rot / 2, 2)
    float *q_scale;              // (n_tok), used if shape.q_beta

    float *x;       // (n_tok, dim) residual stream
    float *h;       // (n_tok, dim) what is between the residual stream and a matrix
    float *ordered; // (n_tok, cols) inputs in the order of a weight's columns; NULL: none has one
    struct attn_work attn;
    struct mla_work mla;
    struct delta_work delta;
    struct ffn_work ffn;
    struct moe_work moe;
};

// What the work space must hold.
struct pass_limits {
    const struct model_shape *shape;
    uint64_t max_tok, max_rows;
};

// One half of a layer: adds to p->x (n_tok, dim) what it makes of it. `index` counts the stage's
// own layers from 0.
typedef void layer_fn(struct pass *p, const struct part *w, int32_t index,
                      const struct model_layer *kind);

// Self-attention with rotary positions over the pages of the KV cache (Vaswani et al. 2017, Su et
// al. 2021, Ainslie et al. 2023); local layers look back over a window or a chunk only.
layer_fn layer_attn;
// Multi-head latent attention (DeepSeek-AI 2024, arXiv 2405.04434), always in the absorbed form.
layer_fn layer_mla;
// Gated DeltaNet (Yang, Kautz and Hatamizadeh 2024, arXiv 2412.06464).
layer_fn layer_delta;
// Dense gated feed-forward (Shazeer 2020).
layer_fn layer_ffn;
// A router and experts (Shazeer et al. 2017, arXiv 1701.06538), with or without a shared one.
layer_fn layer_moe;
// Mixer and feed-forward part of one layer.
void layer_run(struct pass *p, const struct part *w, int32_t index, const struct model_layer *kind);

// Sizes or lays out (mem_carve) each kind's work space; layer_carve all that the model needs.
void layer_attn_carve(struct attn_work *w, const struct pass_limits *l, struct mem_carver *c);
void layer_mla_carve(struct mla_work *w, const struct pass_limits *l, struct mem_carver *c);
void layer_delta_carve(struct delta_work *w, const struct pass_limits *l, struct mem_carver *c);
void layer_ffn_carve(struct ffn_work *w, const struct pass_limits *l, struct mem_carver *c);
void layer_moe_carve(struct moe_work *w, const struct pass_limits *l, struct mem_carver *c);
void layer_carve(struct pass *p, const struct pass_limits *l, struct mem_carver *c);

// -- what the kinds share --

// y (n_tok, rows) = x W^T + bias.
struct projection {
    const struct weight *w;
    const float *bias; // (rows) or NULL
    float *y;
    int64_t rows;
    bool fine; // gemm_job.fine: keys, values and gates, whose errors all that follows suffers
};
enum { PROJECTIONS_MAX = 4 };
// All projections of one x (n_tok, cols), at most PROJECTIONS_MAX. `ordered` (n_tok, cols) is
// scratch, needed only if a weight has its columns in another order.
void layer_project(struct kernels *k, float *ordered, const float *x, int32_t n_tok, int32_t cols,
                   const struct projection *list, int32_t n);
// Copies n columns of each of n_row rows; row strides in floats.
void layer_columns(float *dst, int64_t dst_stride, const float *src, int64_t src_stride,
                   int64_t n_row, int64_t n);
// h = norm(x)
void layer_norm(struct pass *p, const struct part *w, enum slot norm);
// x += residual_scale * norm(y); y (n_tok, dim) is spent. The norm is left out where the part has
// none.
void layer_add(struct pass *p, const struct part *w, enum slot post_norm, float *y);
struct glu layer_glu(const struct model_shape *s);
