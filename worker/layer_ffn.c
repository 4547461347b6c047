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

// Whether this member has all of it, with every matrix's columns in their own order.
static bool is_plain(const struct pass *p, const struct part *w, const struct gated *g)
{
    const bool is_ordered = part_weight(w, g->gate)->order || part_weight(w, g->up)->order ||
                            part_weight(w, g->down)->order || (g->beside && g->beside->w->order);
    return !pass_gathers(p) && !is_ordered;
}

static struct gemm_job job_of(const struct weight *w, float *y)
{
    return (struct gemm_job){.w = &w->view, .y = y, .ldy = w->view.shape[0]};
}

static void run_plain(struct pass *p, const struct part *w, const struct gated *g)
{
    const struct ffn_work *b = g->work;
    const struct projection *one = g->beside;
    struct gemm_job beside = {0};
    if (one) {
        beside = job_of(one->w, one->y);
        beside.bias = one->bias;
        beside.fine = one->fine;
    }
    const struct ffn f = {.x = p->h,
                          .cols = p->shape->dim,
                          .gate = job_of(part_weight(w, g->gate), b->gate),
                          .up = job_of(part_weight(w, g->up), b->up),
                          .beside = one ? &beside : NULL,
                          .glu = layer_glu(p->shape),
                          .down = job_of(part_weight(w, g->down), g->y)};
    p->k->ops->ffn(p->k, &f, p->n_tok);
}

void layer_gated(struct pass *p, const struct part *w, const struct gated *g)
{
    const struct model_shape *s = p->shape;
    const struct ffn_work *b = g->work;
    const struct share_range mine = pass_mine(p, g->cut);
    const int64_t n = mine.to - mine.from, all = pass_all(p, g->cut);

    if (is_plain(p, w, g)) {
        run_plain(p, w, g);
        return;
    }

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
        layer_gather(p, g->cut, b->all, p->n_tok);
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

    // x += norm((act(h Wg) h Wu) Wd)
    const struct gated g = {.gate = SLOT_FFN_GATE,
                            .up = SLOT_FFN_UP,
                            .down = SLOT_FFN_DOWN,
                            .cut = CUT_MIDDLE,
                            .work = &p->ffn,
                            .y = p->h};
    layer_gated(p, w, &g);
    layer_add_ffn(p, w, &(struct sum){.y = p->h});
}
