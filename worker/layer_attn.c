#include "worker/layer.h"

// Heads of this member: of a layer whose heads do not stand alone (norms over all of them), all.
struct heads {
    struct share_range q, kv;
    int32_t n_q, n_kv;
    bool is_cut;
};

static struct heads heads_of(const struct share *share, const struct model_shape *s,
                             const struct model_layer *kind)
{
    struct heads h = {.q = share_heads(share, share->member, s, kind),
                      .kv = share_kv_heads(share, share->member, s, kind)};
    h.n_q = (int32_t)(h.q.to - h.q.from);
    h.n_kv = (int32_t)(h.kv.to - h.kv.from);
    h.is_cut = share_axis_of(s, kind, SLOT_ATTN_Q, share->split) == SHARE_HEADS;
    return h;
}

void layer_attn_carve(struct attn_work *w, const struct pass_limits *l, struct mem_carver *c)
{
    const struct model_shape *s = l->shape;
    const struct model_layer attn = {.mixer = MIXER_ATTN};
    const struct heads h = heads_of(l->share, s, &attn);
    const uint64_t per_head = l->max_tok * (uint64_t)s->head_dim;
    w->q = mem_carve(c, per_head * (uint64_t)h.n_q, sizeof(float));
    w->key = mem_carve(c, per_head * (uint64_t)h.n_kv, sizeof(float));
    w->val = mem_carve(c, per_head * (uint64_t)h.n_kv, sizeof(float));
    w->gate = mem_carve(c, per_head * (uint64_t)h.n_q, sizeof(float));
    w->att = mem_carve(c, per_head * (uint64_t)h.n_q, sizeof(float));
    w->all = h.is_cut ? mem_carve(c, per_head * (uint64_t)s->n_head, sizeof(float)) : w->att;
}

// Norms of the whole projections, where heads do not stand alone (Henry et al. 2020).
static void norm_all(struct pass *p, const struct part *w, const struct heads *h)
{
    const struct model_shape *s = p->shape;
    const float *q_norm = part_vector(w, SLOT_ATTN_Q_NORM);
    const float *k_norm = part_vector(w, SLOT_ATTN_K_NORM);
    if (s->qk_norm != QK_NORM_ALL) return;
    if (q_norm)
        p->k->ops->rms_norm(p->k, p->attn.q, q_norm, p->n_tok, h->n_q * s->head_dim, s->norm_eps,
                            p->attn.q);
    if (k_norm)
        p->k->ops->rms_norm(p->k, p->attn.key, k_norm, p->n_tok, h->n_kv * s->head_dim, s->norm_eps,
                            p->attn.key);
}

// Norms of heads, rotation, and what goes with it or stands in for it (llama4: unit heads after the
// rotation, queries that grow with the position where there is none); keys and values are stored.
static void place(struct pass *p, const struct part *w, const struct model_layer *kind,
                  const struct heads *h, const struct attn_args *args)
{
    const struct model_shape *s = p->shape;
    const bool each = s->qk_norm != QK_NORM_ALL;
    const int sight = kind->is_local ? PASS_LOCAL : PASS_GLOBAL;
    const bool grows = s->q_beta != 0 && (kind->no_rope || !s->q_no_rope_only);
    const struct attn_place a = {
        .q = p->attn.q,
        .key = p->attn.key,
        .value = p->attn.val,
        .n_tok = p->n_tok,
        .n_head = h->n_q,
        .q_norm = each ? part_vector(w, SLOT_ATTN_Q_NORM) : NULL,
        .k_norm = each ? part_vector(w, SLOT_ATTN_K_NORM) : NULL,
        .eps = s->norm_eps,
        .rope = kind->no_rope ? NULL : &p->rope[sight],
        .cos_sin = p->cos_sin[sight],
        .is_unit = !kind->no_rope && s->qk_norm == QK_NORM_L2,
        .q_scale = grows ? p->q_scale : NULL,
        .kv = args->kv,
        .runs = args->runs,
        .n_run = args->n_run,
    };
    p->k->ops->place(p->k, &a);
}

// att (n_tok, n_q, head_dim) = softmax(scale q key^T) val over each row's sequence, then
// sigmoid(gate) of it; q, key, val, gate = h Wq, h Wk, h Wv, h Wg
static void attend(struct pass *p, const struct part *w, int32_t index,
                   const struct model_layer *kind, const struct heads *h)
{
    struct kernels *k = p->k;
    const struct kernels_ops *op = k->ops;
    const struct model_shape *s = p->shape;
    const struct attn_work *b = &p->attn;
    const int64_t q_dim = (int64_t)h->n_q * s->head_dim, kv_dim = (int64_t)h->n_kv * s->head_dim;
    const struct weight *gate = part_weight(w, SLOT_ATTN_GATE); // (q_dim, dim)
    const bool has_gate = gate->view.data;
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
    norm_all(p, w, h);

    const int32_t group = s->n_head / s->n_head_kv;
    const struct attn_args args = {
        .q = b->q,
        .out = b->att,
        .n_head = h->n_q,
        .group = group,
        .head_from = (int32_t)(h->q.from - h->kv.from * group),
        .kv = *kv_layer(p->kv, index),
        .runs = p->runs[kind->is_local ? PASS_LOCAL : PASS_GLOBAL],
        .n_run = p->n_run,
        .scale = s->attn_scale,
        .softcap = s->attn_softcap,
        .window = kind->is_local ? s->window : 0,
        .chunk = kind->is_local ? s->chunk : 0,
        .sinks = part_vector(w, SLOT_ATTN_SINKS),
    };
    place(p, w, kind, h, &args);
    op->attention(k, &args);
    if (has_gate) op->gate(k, b->att, b->gate, p->n_tok * q_dim);
}

void layer_attn(struct pass *p, const struct part *w, int32_t index, const struct model_layer *kind)
{
    const struct model_shape *s = p->shape;
    const struct attn_work *b = &p->attn;
    const struct heads h = heads_of(p->share, s, kind);
    const int64_t q_dim = (int64_t)h.n_q * s->head_dim, all = (int64_t)s->n_head * s->head_dim;

    if (h.n_q) attend(p, w, index, kind, &h);
    if (h.is_cut) {
        p->k->ops->copy(p->k, b->all + h.q.from * s->head_dim, all, b->att, q_dim, p->n_tok, q_dim);
        layer_gather(p, CUT_HEADS, b->all, p->n_tok);
    }

    // x += norm(att Wo)
    const struct projection out = {
        .w = part_weight(w, SLOT_ATTN_OUT), .bias = part_vector(w, SLOT_ATTN_OUT_BIAS), .y = p->h};
    layer_narrow(p, b->all, all);
    layer_out(p, &out, b->all, (int32_t)all, h.is_cut);
    layer_add_mixed(p, w, &(struct sum){.y = p->h});
}
