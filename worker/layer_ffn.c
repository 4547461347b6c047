#include "worker/layer.h"

void layer_gated_carve(struct ffn_work *w, const struct pass_limits *l, enum slot gate,
                       struct mem_carver *c)
{
    const struct model_layer dense = {.ffn = FFN_DENSE};
    const struct share_range r = share_of(l->share, l->share->member, l->shape, &dense, gate);
    const uint64_t n = l->max_tok * (uint64_t)(r.to - r.from);
    w->gate = mem_carve(c, n, sizeof(float));
    w->up = mem_carve(c, n, sizeof(float));
    w->all = w->gate;
    if (l->share->split != SPLIT_TENSOR) return;
    const struct share alone = share_alone();
    const struct share_range all = share_of(&alone, 0, l->shape, &dense, gate);
    w->all = mem_carve(c, l->max_tok * (uint64_t)all.to, sizeof(float));
}

void layer_gated(struct pass *p, const struct part *w, const struct gated *g)
{
    const struct model_shape *s = p->shape;
    const struct ffn_work *b = g->work;
    const struct share_range mine = pass_mine(p, g->cut);
    const int64_t n = mine.to - mine.from, all = pass_all(p, g->cut);

    // gate, up (n_tok, n) = h Wg, h Wu
    struct projection in[PROJECTIONS_MAX] = {
        {.w = part_weight(w, g->gate), .y = b->gate, .rows = n},
        {.w = part_weight(w, g->up), .y = b->up, .rows = n},
    };
    if (g->beside) in[2] = *g->beside;
    layer_project(p->k, p->ordered, p->h, p->n_tok, s->dim, in, g->beside ? 3 : 2);

    // y = (act(gate) up) Wd
    const struct glu glu = layer_glu(s);
    p->k->ops->glu(p->k, &glu, b->gate, b->up, p->n_tok * n, b->gate);
    if (pass_gathers(p)) {
        p->k->ops->copy(p->k, b->all + mine.from, all, b->gate, n, p->n_tok, n);
        layer_gather(p, g->cut, b->all);
    }
    const struct projection down = {.w = part_weight(w, g->down), .y = g->y};
    layer_out(p, &down, b->all, (int32_t)all, true);
}

void layer_ffn_carve(struct ffn_work *w, const struct pass_limits *l, struct mem_carver *c)
{
    layer_gated_carve(w, l, SLOT_FFN_GATE, c);
}

void layer_ffn(struct pass *p, const struct part *w, int32_t index, const struct model_layer *kind)
{
    (void)index; // no state of its own
    (void)kind;  // all layers alike

    // x += norm((act(h Wg) h Wu) Wd), h = norm(x)
    const struct gated g = {.gate = SLOT_FFN_GATE,
                            .up = SLOT_FFN_UP,
                            .down = SLOT_FFN_DOWN,
                            .cut = CUT_MIDDLE,
                            .work = &p->ffn,
                            .y = p->h};
    layer_norm(p, w, SLOT_FFN_NORM);
    layer_gated(p, w, &g);
    layer_add(p, w, SLOT_FFN_POST_NORM, p->h);
}
