#include "worker/layer.h"

#include <string.h>

void layer_moe_carve(struct moe_work *w, const struct pass_limits *l, struct mem_carver *c)
{
    const struct model_shape *s = l->shape;
    const struct model_moe *m = &s->moe;
    const uint64_t n = l->max_tok, n_prod = n * (uint64_t)m->n_used, dim = (uint64_t)s->dim;
    const uint64_t mid = (uint64_t)m->dim;
    w->logits = mem_carve(c, n * (uint64_t)m->n_expert, sizeof(float));
    w->ids = mem_carve(c, n_prod, sizeof *w->ids);
    w->weights = mem_carve(c, n_prod, sizeof(float));
    w->at = mem_carve(c, n_prod, sizeof *w->at);
    w->row = mem_carve(c, n_prod, sizeof *w->row);
    w->expert = mem_carve(c, n_prod, sizeof *w->expert);
    w->seq = mem_carve(c, n_prod, sizeof *w->seq);
    w->from = mem_carve(c, (uint64_t)m->n_expert + 1, sizeof *w->from);
    w->x = m->weigh_input ? mem_carve(c, n_prod * dim, sizeof(float)) : NULL;
    w->gate = mem_carve(c, n_prod * mid, sizeof(float));
    w->up = mem_carve(c, n_prod * mid, sizeof(float));
    w->y = mem_carve(c, n_prod * dim, sizeof(float));
    w->out = mem_carve(c, n * dim, sizeof(float));
    w->shared_gate = mem_carve(c, n * (uint64_t)m->shared_dim, sizeof(float));
    w->shared_up = mem_carve(c, n * (uint64_t)m->shared_dim, sizeof(float));
    w->shared_out = mem_carve(c, n * dim, sizeof(float));
    w->share = mem_carve(c, n, sizeof(float));
}

// ids, weights (n_tok, n_used) of h
static void choose(struct pass *p, const struct part *w)
{
    const struct model_moe *m = &p->shape->moe;
    const struct moe_work *b = &p->moe;
    const struct projection router = {.w = part_weight(w, SLOT_MOE_ROUTER),
                                      .bias = part_vector(w, SLOT_MOE_ROUTER_BIAS),
                                      .y = b->logits,
                                      .rows = m->n_expert,
                                      .fine = true};
    layer_project(p->k, p->ordered, p->h, p->n_tok, p->shape->dim, &router, 1);
    const struct route_args route = {
        .logits = b->logits,
        .correction = part_vector(w, SLOT_MOE_CORRECTION),
        .n_expert = m->n_expert,
        .n_used = m->n_used,
        .n_group = m->n_group,
        .n_group_used = m->n_group_used,
        .sigmoid = m->sigmoid,
        .late_softmax = m->late_softmax,
        .normalise = m->normalise,
        .group_by_two = m->group_by_two,
        .scale = m->scale,
        .ids = b->ids,
        .weights = b->weights,
    };
    p->k->ops->route(p->k, &route, p->n_tok);
    if (p->watch && p->watch->experts)
        p->watch->experts(p->watch->arg, w->id, p->n_tok, b->ids, b->weights);
}

// Sorts the products by expert, tokens in order within each (counting sort).
static void sort_products(struct pass *p)
{
    const struct model_moe *m = &p->shape->moe;
    const struct moe_work *b = &p->moe;
    const int32_t n = p->n_tok * m->n_used;
    memset(b->from, 0, ((size_t)m->n_expert + 1) * sizeof *b->from);
    for (int32_t i = 0; i < n; i++)
        b->from[b->ids[i] + 1]++;
    for (int32_t e = 0; e < m->n_expert; e++)
        b->from[e + 1] += b->from[e];
    for (int32_t i = 0; i < n; i++) {
        const int32_t at = b->from[b->ids[i]]++; // leaves from[e] at the end of e's products
        b->at[i] = at;
        b->row[at] = i / m->n_used;
        b->expert[at] = b->ids[i];
        b->seq[i] = i;
    }
    memmove(b->from + 1, b->from, (size_t)m->n_expert * sizeof *b->from);
    b->from[0] = 0;
}

// Inputs of products that are not their token's h: weighed beforehand (llama4).
static void weigh_inputs(struct pass *p)
{
    const struct moe_work *b = &p->moe;
    const int32_t n_used = p->shape->moe.n_used, n = p->n_tok * n_used, dim = p->shape->dim;
    for (int32_t i = 0; i < n; i++) {
        float *x = b->x + (int64_t)b->at[i] * dim;
        memcpy(x, p->h + (int64_t)(i / n_used) * dim, (size_t)dim * sizeof *x);
        p->k->ops->scale(p->k, x, b->weights[i], dim);
        b->weights[i] = 1;
    }
}

struct products {
    int32_t from, n;    // of the sorted list
    const float *x;     // inputs
    const int32_t *row; // (n) of x
    int32_t n_x;
    float *y; // (n, rows)
};

// y = x W^T (+ bias), each product with its expert's weight
static void multiply(struct pass *p, const struct part *part, enum slot s, enum slot bias,
                     const struct products *a)
{
    const struct moe_work *b = &p->moe;
    const struct weight *w = part_weight(part, s); // (n_expert, rows, cols)
    const struct expert_gemm g = {
        .w = &w->view,
        .factors = w->factors,
        .bias = part_vector(part, bias),
        .x = a->x,
        .n = a->n,
        .n_x = a->n_x,
        .row = a->row,
        .expert = b->expert + a->from,
        .y = a->y,
    };
    p->k->ops->gemm_experts(p->k, &g);
}

// y of the products of experts [first, last): what the owner of that set computes
static void expert_set(struct pass *p, const struct part *w, int32_t first, int32_t last)
{
    const struct model_shape *s = p->shape;
    const struct moe_work *b = &p->moe;
    const int32_t from = b->from[first], n = b->from[last] - from, mid = s->moe.dim;
    if (n == 0) return;
    const bool weighed = s->moe.weigh_input;
    float *gate = b->gate + (int64_t)from * mid, *up = b->up + (int64_t)from * mid;

    // gate, up (n, m) = x Wg, x Wu
    struct products in = {
        .from = from,
        .n = n,
        .x = weighed ? b->x + (int64_t)from * s->dim : p->h,
        .row = weighed ? b->seq : b->row + from,
        .n_x = weighed ? n : p->n_tok,
        .y = gate,
    };
    multiply(p, w, SLOT_MOE_GATE, SLOT_MOE_GATE_BIAS, &in);
    in.y = up;
    multiply(p, w, SLOT_MOE_UP, SLOT_MOE_UP_BIAS, &in);

    // y (n, dim) = (act(gate) up) Wd
    const struct glu glu = layer_glu(s);
    p->k->ops->glu(p->k, &glu, gate, up, (int64_t)n * mid, gate);
    const struct products down = {
        .from = from,
        .n = n,
        .x = gate,
        .row = b->seq,
        .n_x = n,
        .y = b->y + (int64_t)from * s->dim,
    };
    multiply(p, w, SLOT_MOE_DOWN, SLOT_MOE_DOWN_BIAS, &down);
}

// out += the expert that every token passes, its share a sigmoid where it has a router
static void add_shared(struct pass *p, const struct part *w)
{
    const struct kernels_ops *op = p->k->ops;
    const struct model_shape *s = p->shape;
    const struct moe_work *b = &p->moe;
    const int32_t mid = s->moe.shared_dim;
    const struct weight *router = part_weight(w, SLOT_SHARED_ROUTER); // (1, dim)
    const bool has_router = router->view.data;
    const struct projection in[] = {
        {.w = part_weight(w, SLOT_SHARED_GATE), .y = b->shared_gate, .rows = mid},
        {.w = part_weight(w, SLOT_SHARED_UP), .y = b->shared_up, .rows = mid},
        {.w = router, .y = b->share, .rows = 1, .fine = true},
    };
    layer_project(p->k, p->ordered, p->h, p->n_tok, s->dim, in, has_router ? 3 : 2);
    const struct glu glu = layer_glu(s);
    op->glu(p->k, &glu, b->shared_gate, b->shared_up, (int64_t)p->n_tok * mid, b->shared_gate);
    const struct projection down = {
        .w = part_weight(w, SLOT_SHARED_DOWN), .y = b->shared_out, .rows = s->dim};
    layer_project(p->k, p->ordered, b->shared_gate, p->n_tok, mid, &down, 1);
    if (has_router) op->gate_rows(p->k, b->shared_out, b->share, p->n_tok, s->dim);
    op->add(p->k, b->out, b->shared_out, (int64_t)p->n_tok * s->dim);
}

void layer_moe(struct pass *p, const struct part *w, int32_t index, const struct model_layer *kind)
{
    (void)index; // no state of its own
    (void)kind;  // all layers alike
    const struct model_moe *m = &p->shape->moe;
    const struct moe_work *b = &p->moe;

    // h = norm(x); experts of each token
    layer_norm(p, w, SLOT_FFN_NORM);
    choose(p, w);
    sort_products(p);
    if (m->weigh_input) weigh_inputs(p);

    // each set of experts by itself, then every token's sum over its experts in ascending order
    const int32_t n_set = p->n_expert_set;
    for (int32_t i = 0; i < n_set; i++)
        expert_set(p, w, m->n_expert * i / n_set, m->n_expert * (i + 1) / n_set);
    p->k->ops->combine(p->k, b->y, b->at, b->weights, p->n_tok, m->n_used, p->shape->dim, b->out);

    // x += norm(out)
    if (m->shared_dim) add_shared(p, w);
    layer_add(p, w, SLOT_FFN_POST_NORM, b->out);
}
