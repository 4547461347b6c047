#include "worker/layer.h"

// Norms of queries and keys, per head, before the rotation (Henry et al. 2020; gemma3, qwen3).
static void norm_heads(struct pass *p, const struct part *w)
{
    const struct model_shape *s = p->shape;
    const float *q_norm = part_vector(w, SLOT_ATTN_Q_NORM); // (head_dim)
    const float *k_norm = part_vector(w, SLOT_ATTN_K_NORM); // (head_dim)
    if (q_norm)
        p->k->ops->rms_norm(p->k, p->q, q_norm, (int64_t)p->n_tok * s->n_head, s->head_dim,
                            s->norm_eps, p->q);
    if (k_norm)
        p->k->ops->rms_norm(p->k, p->key, k_norm, (int64_t)p->n_tok * s->n_head_kv, s->head_dim,
                            s->norm_eps, p->key);
}

void layer_attn(struct pass *p, const struct part *w, int32_t index, int32_t layer)
{
    struct kernels *k = p->k;
    const struct kernels_ops *op = k->ops;
    const struct model_shape *s = p->shape;
    const bool is_local = s->is_local[layer];
    const int turn = is_local ? PASS_LOCAL : PASS_GLOBAL;
    const int32_t q_dim = s->n_head * s->head_dim, kv_dim = s->n_head_kv * s->head_dim;

    // h = norm(x); q, key, val = h Wq, h Wk, h Wv
    op->rms_norm(k, p->x, part_vector(w, SLOT_ATTN_NORM), p->n_tok, s->dim, s->norm_eps, p->h);
    const struct gemm_job qkv[] = {
        {.w = part_matrix(w, SLOT_ATTN_Q), .y = p->q, .ldy = q_dim},
        {.w = part_matrix(w, SLOT_ATTN_K), .y = p->key, .ldy = kv_dim},
        {.w = part_matrix(w, SLOT_ATTN_V), .y = p->val, .ldy = kv_dim},
    };
    op->gemm(k, p->h, p->n_tok, s->dim, qkv, 3);

    // positions
    norm_heads(p, w);
    op->rope(k, &p->rope[turn], p->cos_sin[turn], p->n_tok, s->n_head, s->head_dim, p->q);
    op->rope(k, &p->rope[turn], p->cos_sin[turn], p->n_tok, s->n_head_kv, s->head_dim, p->key);

    // att = softmax(scale q key^T) val over each row's sequence
    const struct attn_args args = {
        .q = p->q,
        .out = p->att,
        .n_head = s->n_head,
        .kv = kv_layer(p->kv, index),
        .runs = p->runs,
        .n_run = p->n_run,
        .scale = s->attn_scale,
        .softcap = s->attn_softcap,
        .window = is_local ? s->window : 0,
    };
    op->kv_store(k, &args.kv, p->runs, p->n_run, p->key, p->val);
    op->attention(k, &args);

    // x += norm(att Wo)
    const struct gemm_job out = {.w = part_matrix(w, SLOT_ATTN_OUT), .y = p->h, .ldy = s->dim};
    op->gemm(k, p->att, p->n_tok, q_dim, &out, 1);
    const float *post = part_vector(w, SLOT_ATTN_POST_NORM); // (dim)
    if (post) op->rms_norm(k, p->h, post, p->n_tok, s->dim, s->norm_eps, p->h);
    op->add(k, p->x, p->h, (int64_t)p->n_tok * s->dim);
}
