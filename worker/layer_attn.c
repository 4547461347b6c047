#include "worker/layer.h"

void layer_attn_carve(struct attn_work *w, const struct pass_limits *l, struct mem_carver *c)
{
    const struct model_shape *s = l->shape;
    const uint64_t q = l->max_tok * (uint64_t)s->n_head * (uint64_t)s->head_dim;
    const uint64_t kv = l->max_tok * (uint64_t)s->n_head_kv * (uint64_t)s->head_dim;
    w->q = mem_carve(c, q, sizeof(float));
    w->key = mem_carve(c, kv, sizeof(float));
    w->val = mem_carve(c, kv, sizeof(float));
    w->gate = mem_carve(c, q, sizeof(float));
    w->att = mem_carve(c, q, sizeof(float));
}

// Norms of queries and keys before the rotation (Henry et al. 2020): each head by itself, or the
// whole projection as one.
static void norm_heads(struct pass *p, const struct part *w)
{
    const struct model_shape *s = p->shape;
    const float *q_norm = part_vector(w, SLOT_ATTN_Q_NORM);
    const float *k_norm = part_vector(w, SLOT_ATTN_K_NORM);
    const bool whole = s->qk_norm == QK_NORM_ALL;
    const int32_t n_q = whole ? 1 : s->n_head, n_k = whole ? 1 : s->n_head_kv;
    const int32_t q_dim = s->n_head * s->head_dim, k_dim = s->n_head_kv * s->head_dim;
    if (q_norm)
        p->k->ops->rms_norm(p->k, p->attn.q, q_norm, (int64_t)p->n_tok * n_q, q_dim / n_q,
                            s->norm_eps, p->attn.q);
    if (k_norm)
        p->k->ops->rms_norm(p->k, p->attn.key, k_norm, (int64_t)p->n_tok * n_k, k_dim / n_k,
                            s->norm_eps, p->attn.key);
}

// Rotation, and what goes with it or stands in for it (llama4: unit heads after the rotation,
// queries that grow with the position where there is none).
static void place(struct pass *p, const struct model_layer *kind)
{
    const struct kernels_ops *op = p->k->ops;
    const struct model_shape *s = p->shape;
    const int sight = kind->is_local ? PASS_LOCAL : PASS_GLOBAL;
    float *q = p->attn.q, *key = p->attn.key;
    if (!kind->no_rope) {
        const struct rope *r = &p->rope[sight];
        op->rope(p->k, r, p->cos_sin[sight], p->n_tok, s->n_head, s->head_dim, q);
        op->rope(p->k, r, p->cos_sin[sight], p->n_tok, s->n_head_kv, s->head_dim, key);
    }
    if (!kind->no_rope && s->qk_norm == QK_NORM_L2) {
        const int64_t n_q = (int64_t)p->n_tok * s->n_head, n_k = (int64_t)p->n_tok * s->n_head_kv;
        op->rms_norm(p->k, q, NULL, n_q, s->head_dim, s->norm_eps, q);
        op->rms_norm(p->k, key, NULL, n_k, s->head_dim, s->norm_eps, key);
    }
    if (s->q_beta != 0 && (kind->no_rope || !s->q_no_rope_only))
        op->scale_rows(p->k, q, p->q_scale, p->n_tok, s->n_head * s->head_dim);
}

void layer_attn(struct pass *p, const struct part *w, int32_t index, const struct model_layer *kind)
{
    struct kernels *k = p->k;
    const struct kernels_ops *op = k->ops;
    const struct model_shape *s = p->shape;
    const struct attn_work *b = &p->attn;
    const int32_t q_dim = s->n_head * s->head_dim, kv_dim = s->n_head_kv * s->head_dim;
    const struct weight *gate = part_weight(w, SLOT_ATTN_GATE); // (q_dim, dim)
    const bool has_gate = gate->view.data;

    // h = norm(x); q, key, val, gate = h Wq, h Wk, h Wv, h Wg
    layer_norm(p, w, SLOT_ATTN_NORM);
    const struct projection in[] = {
        {.w = part_weight(w, SLOT_ATTN_Q),
         .bias = part_vector(w, SLOT_ATTN_Q_BIAS),
         .y = b->q,
         .rows = q_dim},
        {.w = part_weight(w, SLOT_ATTN_K),
         .bias = part_vector(w, SLOT_ATTN_K_BIAS),
         .y = b->key,
         .rows = kv_dim,
         .fine = true},
        {.w = part_weight(w, SLOT_ATTN_V),
         .bias = part_vector(w, SLOT_ATTN_V_BIAS),
         .y = b->val,
         .rows = kv_dim,
         .fine = true},
        {.w = gate, .y = b->gate, .rows = q_dim},
    };
    layer_project(k, p->ordered, p->h, p->n_tok, s->dim, in, has_gate ? 4 : 3);
    norm_heads(p, w);
    place(p, kind);

    // att = softmax(scale q key^T) val over each row's sequence, then sigmoid(gate) of it
    const struct attn_args args = {
        .q = b->q,
        .out = b->att,
        .n_head = s->n_head,
        .kv = *kv_layer(p->kv, index),
        .runs = p->runs[kind->is_local ? PASS_LOCAL : PASS_GLOBAL],
        .n_run = p->n_run,
        .scale = s->attn_scale,
        .softcap = s->attn_softcap,
        .window = kind->is_local ? s->window : 0,
        .chunk = kind->is_local ? s->chunk : 0,
        .sinks = part_vector(w, SLOT_ATTN_SINKS),
    };
    op->kv_store(k, &args.kv, args.runs, p->n_run, b->key, b->val);
    op->attention(k, &args);
    if (has_gate) op->gate(k, b->att, b->gate, (int64_t)p->n_tok * q_dim);

    // x += norm(att Wo)
    const struct projection out = {.w = part_weight(w, SLOT_ATTN_OUT),
                                   .bias = part_vector(w, SLOT_ATTN_OUT_BIAS),
                                   .y = p->h,
                                   .rows = s->dim};
    layer_project(k, p->ordered, b->att, p->n_tok, q_dim, &out, 1);
    layer_add(p, w, SLOT_ATTN_POST_NORM, p->h);
}
