// The cache holds one key per token, [latent, turned], which all heads share, and whose first part
// is the value too. A head's own key is K_B latent: its product with the query's unturned part is
// (K_B^T q) latent, so K_B is absorbed into the query, and V_B is applied to what attention gives.
#include "worker/layer.h"

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

void layer_mla_carve(struct mla_work *w, const struct pass_limits *l, struct mem_carver *c)
{
    const struct model_mla *m = &l->shape->mla;
    const uint64_t rank = (uint64_t)m->kv_rank, rope = (uint64_t)m->rope_dim;
    const uint64_t nope = (uint64_t)m->nope_dim, v = (uint64_t)m->v_dim;
    const uint64_t n = l->max_tok, heads = n * (uint64_t)l->shape->n_head;
    w->q_a = mem_carve(c, n * (uint64_t)m->q_rank, sizeof(float));
    w->kv = mem_carve(c, n * (rank + rope), sizeof(float));
    w->latent = mem_carve(c, n * rank, sizeof(float));
    w->q = mem_carve(c, heads * larger(nope + rope, v), sizeof(float));
    w->q_wide = mem_carve(c, heads * larger(nope, rank + rope), sizeof(float));
    w->att = mem_carve(c, heads * rank, sizeof(float));
}

// q (n_tok, n_head, nope + rope) of h, compressed on the way where the model does so.
static void queries(struct pass *p, const struct part *w)
{
    const struct model_shape *s = p->shape;
    const struct mla_work *b = &p->mla;
    const int32_t q_dim = s->n_head * (s->mla.nope_dim + s->mla.rope_dim), rank = s->mla.q_rank;
    if (rank == 0) {
        const struct projection q = {.w = part_weight(w, SLOT_ATTN_Q),
                                     .bias = part_vector(w, SLOT_ATTN_Q_BIAS),
                                     .y = b->q,
                                     .rows = q_dim};
        layer_project(p->k, p->ordered, p->h, p->n_tok, s->dim, &q, 1);
        return;
    }
    const struct projection down = {.w = part_weight(w, SLOT_MLA_Q_A), .y = b->q_a, .rows = rank};
    const struct projection up = {.w = part_weight(w, SLOT_MLA_Q_B), .y = b->q, .rows = q_dim};
    layer_project(p->k, p->ordered, p->h, p->n_tok, s->dim, &down, 1);
    p->k->ops->rms_norm(p->k, b->q_a, part_vector(w, SLOT_MLA_Q_A_NORM), p->n_tok, rank,
                        s->norm_eps, b->q_a);
    layer_project(p->k, p->ordered, b->q_a, p->n_tok, rank, &up, 1);
}

// kv (n_tok, kv_rank + rope) of h: the latent part normed, the other turned.
static void keys(struct pass *p, const struct part *w, int sight)
{
    const struct model_shape *s = p->shape;
    const struct mla_work *b = &p->mla;
    const int32_t rank = s->mla.kv_rank, wide = rank + s->mla.rope_dim;
    const struct projection kv = {
        .w = part_weight(w, SLOT_MLA_KV_A), .y = b->kv, .rows = wide, .fine = true};
    layer_project(p->k, p->ordered, p->h, p->n_tok, s->dim, &kv, 1);
    p->k->ops->copy(p->k, b->latent, rank, b->kv, wide, p->n_tok, rank);
    p->k->ops->rms_norm(p->k, b->latent, part_vector(w, SLOT_MLA_KV_NORM), p->n_tok, rank,
                        s->norm_eps, b->latent);
    p->k->ops->copy(p->k, b->kv, wide, b->latent, rank, p->n_tok, rank);
    p->k->ops->rope(p->k, &p->rope[sight], p->cos_sin[sight], p->n_tok, 1, wide, b->kv + rank);
}

// q_wide (n_tok, n_head, kv_rank + rope) = [K_B q's unturned part, q's turned part]
static void absorb(struct pass *p, const struct part *w)
{
    const struct model_shape *s = p->shape;
    const struct mla_work *b = &p->mla;
    const int32_t rank = s->mla.kv_rank, rope = s->mla.rope_dim, nope = s->mla.nope_dim;
    const int64_t n = (int64_t)p->n_tok * s->n_head;
    p->k->ops->copy(p->k, b->q_wide, nope, b->q, nope + rope, n, nope);
    p->k->ops->gemm_each(p->k, part_matrix(w, SLOT_MLA_K_B), b->q_wide, p->n_tok, b->att);
    p->k->ops->copy(p->k, b->q_wide, rank + rope, b->att, rank, n, rank);
    p->k->ops->copy(p->k, b->q_wide + rank, rank + rope, b->q + nope, nope + rope, n, rope);
    if (s->q_beta != 0)
        p->k->ops->scale_rows(p->k, b->q_wide, p->q_scale, p->n_tok, s->n_head * (rank + rope));
}

void layer_mla(struct pass *p, const struct part *w, int32_t index, const struct model_layer *kind)
{
    struct kernels *k = p->k;
    const struct kernels_ops *op = k->ops;
    const struct model_shape *s = p->shape;
    const struct mla_work *b = &p->mla;
    const int sight = kind->is_local ? PASS_LOCAL : PASS_GLOBAL;
    const int32_t head_dim = s->mla.nope_dim + s->mla.rope_dim;

    // the keys of h; its queries, turned and brought into the space of the keys
    keys(p, w, sight);
    queries(p, w);
    op->rope(k, &p->rope[sight], p->cos_sin[sight], p->n_tok, s->n_head, head_dim,
             b->q + s->mla.nope_dim);
    absorb(p, w);

    // att (n_tok, n_head, kv_rank) = softmax(scale q_wide kv^T) latent
    const struct attn_args args = {
        .q = b->q_wide,
        .out = b->att,
        .n_head = s->n_head,
        .kv = *kv_layer(p->kv, index),
        .runs = p->runs[sight],
        .n_run = p->n_run,
        .scale = s->attn_scale,
        .softcap = s->attn_softcap,
        .window = kind->is_local ? s->window : 0,
        .chunk = kind->is_local ? s->chunk : 0,
    };
    op->kv_store(k, &args.kv, args.runs, p->n_run, b->kv, NULL);
    op->attention(k, &args);

    // x += norm((V_B att) Wo)
    layer_narrow(p, b->att, (int64_t)s->n_head * s->mla.kv_rank);
    op->gemm_each(k, part_matrix(w, SLOT_MLA_V_B), b->att, p->n_tok, b->q);
    const struct projection out = {
        .w = part_weight(w, SLOT_ATTN_OUT), .bias = part_vector(w, SLOT_ATTN_OUT_BIAS), .y = p->h};
    layer_out(p, &out, b->q, s->n_head * s->mla.v_dim, false);
    layer_add_mixed(p, w, &(struct sum){.y = p->h});
}
