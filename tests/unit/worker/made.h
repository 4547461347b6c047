// Tiny models of every layer kind without a file: their weights are made up at load (SOURCE_MADE).
#pragma once
#include "topology/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum made_kind {
    MADE_WINDOW, // attention: every other layer looks back over 24 tokens; sinks, biases, softcap
    MADE_CHUNK,  // chunks of 32 tokens, unit heads, no rotation in every other layer, weighed input
    MADE_LATENT, // multi-head latent attention, a dense layer, then grouped experts, shared expert
    MADE_HYBRID, // three recurrent layers, then gated attention; experts; a prediction head
    MADE_KINDS
};

enum {
    MADE_LAYERS = 4,
    MADE_DIM = 64,
    MADE_HEADS = 4,
    MADE_KV = 2,
    MADE_HEAD_DIM = 16,
    MADE_FFN = 96,
    MADE_VOCAB = 160,
    MADE_EXPERTS = 8,
    MADE_USED = 3,
    MADE_EXPERT_DIM = 32,
    MADE_MAX = 256
};

struct made {
    struct model model;
    struct model_weight weights[MADE_MAX];
};

static inline void made_add(struct made *m, int32_t part, enum slot slot, int64_t n, int64_t rows,
                            int64_t cols, bool is_matrix)
{
    const enum dtype t = is_matrix && cols % 32 == 0 ? DT_Q8_0 : DT_F32;
    struct model_weight *w = &m->weights[m->model.n_weight++];
    *w = (struct model_weight){
        .slot = slot,
        .part = part,
        .n = n,
        .rows = rows,
        .cols = cols,
        .dtype = t,
        .is_matrix = is_matrix,
        .kind = SOURCE_MADE,
        .take = {{rows > 1 ? rows : cols, 0, rows > 1 ? rows : cols, rows > 1 ? rows : cols, 1}},
        .n_take = 1,
        .bytes = (uint64_t)(n * rows) * dtype_row_bytes(t, (uint64_t)cols),
    };
}

static inline void made_vector(struct made *m, int32_t part, enum slot slot, int64_t n)
{
    made_add(m, part, slot, 1, 1, n, false);
}

static inline void made_matrix(struct made *m, int32_t part, enum slot slot, int64_t rows,
                               int64_t cols)
{
    made_add(m, part, slot, 1, rows, cols, true);
}

static inline void made_attn(struct made *m, int32_t part, enum made_kind kind)
{
    const int64_t q = MADE_HEADS * MADE_HEAD_DIM, kv = MADE_KV * MADE_HEAD_DIM;
    made_matrix(m, part, SLOT_ATTN_Q, q, MADE_DIM);
    made_matrix(m, part, SLOT_ATTN_K, kv, MADE_DIM);
    made_matrix(m, part, SLOT_ATTN_V, kv, MADE_DIM);
    made_matrix(m, part, SLOT_ATTN_OUT, MADE_DIM, q);
    if (kind == MADE_HYBRID) {
        made_matrix(m, part, SLOT_ATTN_GATE, q, MADE_DIM);
        made_vector(m, part, SLOT_ATTN_Q_NORM, MADE_HEAD_DIM);
        made_vector(m, part, SLOT_ATTN_K_NORM, MADE_HEAD_DIM);
    }
    if (kind == MADE_WINDOW) {
        made_vector(m, part, SLOT_ATTN_Q_BIAS, q);
        made_vector(m, part, SLOT_ATTN_SINKS, MADE_HEADS);
        made_vector(m, part, SLOT_ATTN_POST_NORM, MADE_DIM);
    }
}

static inline void made_mla(struct made *m, int32_t part)
{
    const struct model_mla *d = &m->model.shape.mla;
    made_matrix(m, part, SLOT_MLA_Q_A, d->q_rank, MADE_DIM);
    made_vector(m, part, SLOT_MLA_Q_A_NORM, d->q_rank);
    made_matrix(m, part, SLOT_MLA_Q_B, MADE_HEADS * (d->nope_dim + d->rope_dim), d->q_rank);
    made_matrix(m, part, SLOT_MLA_KV_A, d->kv_rank + d->rope_dim, MADE_DIM);
    made_vector(m, part, SLOT_MLA_KV_NORM, d->kv_rank);
    made_add(m, part, SLOT_MLA_K_B, MADE_HEADS, d->kv_rank, d->nope_dim, true);
    made_add(m, part, SLOT_MLA_V_B, MADE_HEADS, d->v_dim, d->kv_rank, true);
    made_matrix(m, part, SLOT_ATTN_OUT, MADE_DIM, MADE_HEADS * d->v_dim);
}

static inline void made_delta(struct made *m, int32_t part)
{
    const struct model_delta *d = &m->model.shape.delta;
    const int64_t v = d->n_head_v * d->dim_v, wide = 2 * d->n_head_k * d->dim_k + v;
    made_matrix(m, part, SLOT_DELTA_QKV, wide, MADE_DIM);
    made_matrix(m, part, SLOT_DELTA_Z, v, MADE_DIM);
    made_matrix(m, part, SLOT_DELTA_A, d->n_head_v, MADE_DIM);
    made_matrix(m, part, SLOT_DELTA_B, d->n_head_v, MADE_DIM);
    made_add(m, part, SLOT_DELTA_CONV, 1, wide, d->n_tap, false);
    made_vector(m, part, SLOT_DELTA_A_NEG, d->n_head_v);
    made_vector(m, part, SLOT_DELTA_DT_BIAS, d->n_head_v);
    made_vector(m, part, SLOT_DELTA_NORM, d->dim_v);
    made_matrix(m, part, SLOT_ATTN_OUT, MADE_DIM, v);
}

static inline void made_moe(struct made *m, int32_t part)
{
    const struct model_moe *d = &m->model.shape.moe;
    made_matrix(m, part, SLOT_MOE_ROUTER, d->n_expert, MADE_DIM);
    made_add(m, part, SLOT_MOE_GATE, d->n_expert, d->dim, MADE_DIM, true);
    made_add(m, part, SLOT_MOE_UP, d->n_expert, d->dim, MADE_DIM, true);
    made_add(m, part, SLOT_MOE_DOWN, d->n_expert, MADE_DIM, d->dim, true);
    if (!d->shared_dim) return;
    made_matrix(m, part, SLOT_SHARED_ROUTER, 1, MADE_DIM);
    made_matrix(m, part, SLOT_SHARED_GATE, d->shared_dim, MADE_DIM);
    made_matrix(m, part, SLOT_SHARED_UP, d->shared_dim, MADE_DIM);
    made_matrix(m, part, SLOT_SHARED_DOWN, MADE_DIM, d->shared_dim);
}

static inline void made_layer(struct made *m, int32_t part, const struct model_layer *l,
                              enum made_kind kind)
{
    made_vector(m, part, SLOT_ATTN_NORM, MADE_DIM);
    if (l->mixer == MIXER_ATTN) made_attn(m, part, kind);
    if (l->mixer == MIXER_MLA) made_mla(m, part);
    if (l->mixer == MIXER_DELTA) made_delta(m, part);
    made_vector(m, part, SLOT_FFN_NORM, MADE_DIM);
    if (l->ffn == FFN_MOE) {
        made_moe(m, part);
        return;
    }
    made_matrix(m, part, SLOT_FFN_GATE, MADE_FFN, MADE_DIM);
    made_matrix(m, part, SLOT_FFN_UP, MADE_FFN, MADE_DIM);
    made_matrix(m, part, SLOT_FFN_DOWN, MADE_DIM, MADE_FFN);
}

static inline void made_shape(struct model_shape *s, enum made_kind kind)
{
    const struct model_rope rope = {
        .theta = 10000, .freq_scale = 1, .attn_factor = 1, .n_rot = MADE_HEAD_DIM};
    const struct model_moe moe = {.n_expert = MADE_EXPERTS,
                                  .n_used = MADE_USED,
                                  .dim = MADE_EXPERT_DIM,
                                  .scale = 1,
                                  .normalise = true};
    *s = (struct model_shape){.arch = "made",
                              .name = "made",
                              .n_layer = MADE_LAYERS,
                              .dim = MADE_DIM,
                              .ffn_dim = MADE_FFN,
                              .n_vocab = MADE_VOCAB,
                              .ctx_train = 4096,
                              .n_head = MADE_HEADS,
                              .n_head_kv = MADE_KV,
                              .head_dim = MADE_HEAD_DIM,
                              .norm_eps = 1e-5f,
                              .attn_scale = 0.25f,
                              .embed_scale = 1,
                              .residual_scale = 1,
                              .logit_scale = 1,
                              .rope = rope,
                              .rope_local = rope};
    for (int i = 0; i < MADE_LAYERS; i++) {
        struct model_layer *l = &s->layers[i];
        l->is_local = kind <= MADE_CHUNK && i % 2 == 0;
        l->no_rope = kind == MADE_CHUNK && i % 2 == 1;
        l->ffn = kind == MADE_WINDOW || (kind == MADE_LATENT && i == 0) ? FFN_DENSE : FFN_MOE;
        if (kind == MADE_LATENT) l->mixer = MIXER_MLA;
        if (kind == MADE_HYBRID && i != 3) l->mixer = MIXER_DELTA;
    }
    if (kind != MADE_WINDOW) s->moe = moe;
    if (kind == MADE_WINDOW) {
        s->window = 24;
        s->attn_softcap = 20;
        s->logit_softcap = 30;
        s->residual_scale = 0.5f;
        s->rope_local.theta = 500;
    } else if (kind == MADE_CHUNK) {
        s->chunk = 32;
        s->qk_norm = QK_NORM_L2;
        s->q_beta = 0.1f;
        s->q_span = 8;
        s->q_no_rope_only = true;
        s->moe.weigh_input = s->moe.sigmoid = true;
        s->moe.normalise = false;
        s->rope.interleaved = s->rope_local.interleaved = true;
    } else if (kind == MADE_LATENT) {
        s->mla = (struct model_mla){
            .q_rank = 32, .kv_rank = 32, .nope_dim = 24, .rope_dim = 8, .v_dim = 20};
        s->head_dim = 0;
        s->rope.n_rot = s->rope_local.n_rot = 8;
        s->moe.n_group = 4;
        s->moe.n_group_used = 2;
        s->moe.sigmoid = s->moe.group_by_two = true;
        s->moe.shared_dim = 64;
    } else {
        s->qk_norm = QK_NORM_HEAD;
        s->rope.n_rot = s->rope_local.n_rot = 4;
        s->delta = (struct model_delta){
            .n_head_k = 2, .n_head_v = 4, .dim_k = 16, .dim_v = 24, .n_tap = 4};
        s->has_mtp = true;
        s->mtp = (struct model_layer){.ffn = FFN_MOE};
        s->moe.shared_dim = 32;
    }
}

static inline struct made *made_new(enum made_kind kind)
{
    struct made *m = calloc(1, sizeof *m);
    if (!m) abort();
    struct model_shape *s = &m->model.shape;
    made_shape(s, kind);
    m->model.path = "shape:made";
    m->model.quant = "Q8_0";
    m->model.hash[0] = (uint8_t)kind;
    m->model.weights = m->weights;
    for (int i = 0; i < MADE_LAYERS; i++)
        made_layer(m, i, &s->layers[i], kind);
    made_matrix(m, PART_EMBED, SLOT_EMBED, MADE_VOCAB, MADE_DIM);
    made_vector(m, PART_HEAD, SLOT_FINAL_NORM, MADE_DIM);
    made_matrix(m, PART_HEAD, SLOT_HEAD, MADE_VOCAB, MADE_DIM);
    made_vector(m, PART_HEAD, SLOT_HEAD_BIAS, MADE_VOCAB);
    if (!s->has_mtp) return m;
    made_vector(m, PART_MTP, SLOT_MTP_EMBED_NORM, MADE_DIM);
    made_vector(m, PART_MTP, SLOT_MTP_HIDDEN_NORM, MADE_DIM);
    made_matrix(m, PART_MTP, SLOT_MTP_FC, MADE_DIM, 2 * MADE_DIM);
    made_vector(m, PART_MTP, SLOT_MTP_NORM, MADE_DIM);
    made_layer(m, PART_MTP, &s->mtp, kind);
    return m;
}
