#include "worker/stage_priv.h"

// Products of an expert and half, on average: with fewer, reading its weights twice costs more than
// there is to gain. So it is for long prompts.
enum { HALF_PRODUCTS = 32 };

bool stage_has_halves(const struct stage *s)
{
    const struct model_moe *m = &s->config.model->shape.moe;
    const int64_t n_prod = (int64_t)s->pass.n_tok * m->n_used;
    return s->config.share.split == SPLIT_EXPERTS && !s->pass.watch &&
           n_prod >= 2 * (int64_t)HALF_PRODUCTS * m->n_expert;
}

// Tokens [from, to) of a run, counted from `from` on; n_tok 0: none of it.
static struct attn_run clip(const struct attn_run *run, int32_t from, int32_t to)
{
    const int32_t end = run->tok_from + run->n_tok;
    const int32_t lo = run->tok_from > from ? run->tok_from : from, hi = end < to ? end : to;
    struct attn_run r = *run;
    r.tok_from = lo - from;
    r.n_tok = hi > lo ? hi - lo : 0;
    r.pos_from += lo - run->tok_from;
    return r;
}

// The runs of tokens [from, to) of the step.
static void cut(const struct pass *p, struct stage_half *h, int32_t from, int32_t to)
{
    h->n_run = 0;
    for (int32_t i = 0; i < p->n_run; i++) {
        for (int s = 0; s < PASS_SIGHTS; s++)
            h->runs[s][h->n_run] = clip(&p->runs[s][i], from, to);
        h->slots[h->n_run] = p->slots[i];
        h->n_run += h->runs[0][h->n_run].n_tok > 0;
    }
}

void stage_cut_halves(struct stage *s)
{
    const int32_t n = s->pass.n_tok;
    cut(&s->pass, &s->halves[0], 0, n / 2);
    cut(&s->pass, &s->halves[1], n / 2, n);
}

// The pass of tokens [from, to) of the step.
static struct pass half_of(const struct pass *p, const struct stage_half *h, int32_t from,
                           int32_t to)
{
    struct pass half = *p;
    half.n_tok = to - from;
    half.n_run = h->n_run;
    half.slots = h->slots;
    half.x += (int64_t)from * p->shape->dim;
    half.q_scale += from;
    for (int s = 0; s < PASS_SIGHTS; s++) {
        half.runs[s] = h->runs[s];
        half.cos_sin[s] += (int64_t)from * p->rope[s].n_rot;
    }
    if (from) half.moe = layer_moe_from(p, from);
    return half;
}

static bool is_moe(const struct stage *s, int32_t index)
{
    return s->config.model->shape.layers[s->weights.parts[index].id].ffn == FFN_MOE;
}

// What of a layer goes before its exchange: of a layer without experts, all.
static void front(struct stage *s, struct pass *p, int32_t index)
{
    const struct part *w = &s->weights.parts[index];
    const struct model_layer *kind = &p->shape->layers[w->id];
    layer_norm(p, w, SLOT_ATTN_NORM);
    layer_mix(p, w, index, kind);
    if (kind->ffn == FFN_MOE)
        layer_moe_route(p, w, index);
    else
        layer_ffn(p, w, index, kind);
}

void stage_run_halves(struct stage *s)
{
    const struct pass *p = &s->pass;
    const int32_t n = (int32_t)(s->config.layer_to - s->config.layer_from), mid = p->n_tok / 2;
    struct pass a = half_of(p, &s->halves[0], 0, mid);
    struct pass b = half_of(p, &s->halves[1], mid, p->n_tok);
    front(s, &a, 0);
    for (int32_t i = 0; i < n; i++) {
        const struct part *w = &s->weights.parts[i];
        const bool has_experts = is_moe(s, i);
        if (has_experts) layer_moe_give(&a, w);
        front(s, &b, i);
        // An owner that still sends must be heard before it is given more.
        if (has_experts) layer_moe_take(&a);
        if (has_experts) layer_moe_give(&b, w);
        if (has_experts) layer_moe_end(&a, w);
        if (i + 1 < n) front(s, &a, i + 1);
        if (has_experts) layer_moe_take(&b);
        if (has_experts) layer_moe_end(&b, w);
    }
}
