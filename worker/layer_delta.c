#include "worker/layer.h"

void layer_delta_carve(struct delta_work *w, const struct pass_limits *l, struct mem_carver *c)
{
    const struct model_delta *d = &l->shape->delta;
    const uint64_t k = (uint64_t)d->n_head_k * (uint64_t)d->dim_k;
    const uint64_t v = (uint64_t)d->n_head_v * (uint64_t)d->dim_v;
    const uint64_t n = l->max_tok, heads = n * (uint64_t)d->n_head_v;
    w->qkv = mem_carve(c, n * (2 * k + v), sizeof(float));
    w->mixed = mem_carve(c, n * (2 * k + v), sizeof(float));
    w->z = mem_carve(c, n * v, sizeof(float));
    w->a = mem_carve(c, heads, sizeof(float));
    w->b = mem_carve(c, heads, sizeof(float));
    w->out = mem_carve(c, n * v, sizeof(float));
}

// mixed = silu(convolution over time of qkv), out = the gated delta rule over its parts
static void recur(struct pass *p, const struct part *w, int32_t index)
{
    const struct model_delta *d = &p->shape->delta;
    const struct delta_work *b = &p->delta;
    const int32_t k = d->n_head_k * d->dim_k, wide = 2 * k + d->n_head_v * d->dim_v;
    const struct conv_args conv = {
        .x = b->qkv,
        .w = part_vector(w, SLOT_DELTA_CONV),
        .n_channel = wide,
        .n_tap = d->n_tap,
        .runs = p->runs[PASS_GLOBAL],
        .n_run = p->n_run,
        .slots = p->slots,
        .state = state_conv(p->state, index, 0),
        .state_ld = state_ld(p->state),
        .out = b->mixed,
    };
    p->k->ops->conv(p->k, &conv);
    const struct delta_args delta = {
        .q = b->mixed,
        .k = b->mixed + k,
        .v = b->mixed + 2 * (int64_t)k,
        .ld = wide,
        .a = b->a,
        .b = b->b,
        .a_neg = part_vector(w, SLOT_DELTA_A_NEG),
        .dt_bias = part_vector(w, SLOT_DELTA_DT_BIAS),
        .n_head_k = d->n_head_k,
        .n_head_v = d->n_head_v,
        .dim_k = d->dim_k,
        .dim_v = d->dim_v,
        .tiled = d->tiled,
        .runs = p->runs[PASS_GLOBAL],
        .n_run = p->n_run,
        .slots = p->slots,
        .state = state_delta(p->state, index, 0),
        .state_ld = state_ld(p->state),
        .out = b->out,
    };
    p->k->ops->delta(p->k, &delta);
}

void layer_delta(struct pass *p, const struct part *w, int32_t index,
                 const struct model_layer *kind)
{
    (void)kind; // neither positions nor a window
    struct kernels *k = p->k;
    const struct kernels_ops *op = k->ops;
    const struct model_shape *s = p->shape;
    const struct model_delta *d = &s->delta;
    const struct delta_work *b = &p->delta;
    const int32_t v = d->n_head_v * d->dim_v, wide = 2 * d->n_head_k * d->dim_k + v;

    // qkv, z, a, b = h Wqkv, h Wz, h Wa, h Wb
    const struct projection in[] = {
        {.w = part_weight(w, SLOT_DELTA_QKV), .y = b->qkv, .rows = wide},
        {.w = part_weight(w, SLOT_DELTA_Z), .y = b->z, .rows = v},
        {.w = part_weight(w, SLOT_DELTA_A), .y = b->a, .rows = d->n_head_v, .fine = true},
        {.w = part_weight(w, SLOT_DELTA_B), .y = b->b, .rows = d->n_head_v, .fine = true},
    };
    layer_project(k, p->ordered, p->h, p->n_tok, s->dim, in, 4);
    recur(p, w, index);

    // out = silu(z) * norm(out), each head by itself
    op->rms_norm(k, b->out, part_vector(w, SLOT_DELTA_NORM), (int64_t)p->n_tok * d->n_head_v,
                 d->dim_v, s->norm_eps, b->out);
    const struct glu silu = {.kind = GLU_SILU};
    op->glu(k, &silu, b->z, b->out, (int64_t)p->n_tok * v, b->out);

    // x += norm(out Wo)
    const struct projection out = {.w = part_weight(w, SLOT_ATTN_OUT), .y = p->h};
    layer_narrow(p, b->out, v);
    layer_out(p, &out, b->out, v, false);
    layer_add_mixed(p, w, &(struct sum){.y = p->h});
}
