#include "worker/layer.h"

void layer_ffn_carve(struct ffn_work *w, const struct pass_limits *l, struct mem_carver *c)
{
    const uint64_t n = l->max_tok * (uint64_t)l->shape->ffn_dim;
    w->gate = mem_carve(c, n, sizeof(float));
    w->up = mem_carve(c, n, sizeof(float));
}

void layer_ffn(struct pass *p, const struct part *w, int32_t index, const struct model_layer *kind)
{
    (void)index; // no state of its own
    (void)kind;  // all layers alike
    struct kernels *k = p->k;
    const struct model_shape *s = p->shape;
    const struct ffn_work *b = &p->ffn;

    // h = norm(x); gate, up = h Wg, h Wu
    layer_norm(p, w, SLOT_FFN_NORM);
    const struct projection in[] = {
        {.w = part_weight(w, SLOT_FFN_GATE), .y = b->gate, .rows = s->ffn_dim},
        {.w = part_weight(w, SLOT_FFN_UP), .y = b->up, .rows = s->ffn_dim},
    };
    layer_project(k, p->ordered, p->h, p->n_tok, s->dim, in, 2);

    // x += norm((act(gate) up) Wd)
    const struct glu glu = layer_glu(s);
    k->ops->glu(k, &glu, b->gate, b->up, (int64_t)p->n_tok * s->ffn_dim, b->gate);
    const struct projection down = {.w = part_weight(w, SLOT_FFN_DOWN), .y = p->h, .rows = s->dim};
    layer_project(k, p->ordered, b->gate, p->n_tok, s->ffn_dim, &down, 1);
    layer_add(p, w, SLOT_FFN_POST_NORM, p->h);
}
