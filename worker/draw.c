#include "worker/draw.h"

#include <math.h>

// How much sums of the backend may miss of ours, in parts of them: where both start from the same
// largest value only the order of the sum is another; else each weight is rounded elsewhere.
static const double SLACK_SAME = 1e-9, SLACK_OTHER = 1e-4;

struct pool {
    struct sample_cand *c; // by rank, all that are known and can be drawn
    int32_t n, n_sure;     // of the first n_sure the rank among all ids is known
    bool is_all;           // nothing else can be drawn
    float best, per_t;
};

static struct pool pool_of(const struct draw *d)
{
    struct pool p = {.c = d->cands,
                     .best = -INFINITY,
                     .is_all = d->is_all,
                     .per_t = sample_per_temperature(d->s)};
    if (d->n) p.best = d->value[0];
    for (int32_t i = 0; i < d->n_extra; i++)
        if (d->extra[i].logit > p.best) p.best = d->extra[i].logit;
    for (int32_t i = 0; i < d->n; i++)
        p.n += sample_weigh(d->value[i], d->id[i], p.best, p.per_t, &p.c[p.n]);
    p.is_all |= p.n < d->n; // who ranks behind cannot be drawn either
    for (int32_t i = 0; i < d->n_extra; i++)
        p.n += sample_weigh(d->extra[i].logit, d->extra[i].id, p.best, p.per_t, &p.c[p.n]);
    if (d->n_extra) sample_sort_ranks(p.c, p.n);
    p.n_sure = p.n;
    if (p.is_all) return p;
    const struct sample_cand least = {.logit = d->value[d->n - 1], .id = d->id[d->n - 1]};
    while (p.n_sure && sample_ranks_before(&least, &p.c[p.n_sure - 1]))
        p.n_sure--;
    return p;
}

// -- by weight --

static int32_t n_chunk(const struct draw *d)
{
    return (d->n_vocab + KERNELS_TOP_CHUNK - 1) / KERNELS_TOP_CHUNK;
}

struct masses {
    double all, slack;
};

// d->mass becomes what all ids of each chunk weigh beside the best.
static struct masses masses_of(const struct draw *d, const struct pool *p)
{
    struct masses m = {0};
    double scale = 1;
    if (d->n) scale = exp(((double)d->value[0] - (double)p->best) * (double)p->per_t);
    for (int32_t i = 0; i < n_chunk(d); i++)
        d->mass[i] = d->n ? d->mass[i] * scale : 0;
    for (int32_t i = 0; i < d->n_extra; i++) {
        const struct sample_cand *e = &d->extra[i];
        struct sample_cand c;
        if (sample_weigh(e->logit, e->id, p->best, p->per_t, &c))
            d->mass[e->id / KERNELS_TOP_CHUNK] += c.weight;
    }
    for (int32_t i = 0; i < n_chunk(d); i++)
        m.all += d->mass[i];
    m.slack = m.all * (scale == 1 ? SLACK_SAME : SLACK_OTHER);
    return m;
}

static struct drawn done(const struct draw *d, int32_t id)
{
    struct drawn out = {.kind = DRAW_DONE, .id = id};
    for (int32_t i = 0; i < d->n; i++)
        if (d->id[i] == id) out.logit = d->value[i];
    return out;
}

// The fewest ids by rank whose weights reach top_p of all: none is sure if the sum might be
// another.
static struct drawn draw_top_p(const struct draw *d, struct pool *p)
{
    const struct masses m = masses_of(d, p);
    const double top_p = d->s->top_p, low = (m.all - m.slack) * top_p;
    const double high = (m.all + m.slack) * top_p;
    double in = 0;
    for (int32_t i = 0; i < p->n_sure; i++) {
        in += p->c[i].weight;
        if (in >= high) return done(d, sample_pick_left(p->c, i + 1, d->s, d->position));
        if (in >= low) break;
    }
    return (struct drawn){.kind = DRAW_ROW};
}

// All ids take part, but those less likely than min_p of the best.
static struct drawn draw_min_p(const struct draw *d, struct pool *p)
{
    if (p->n_sure == 0 || p->c[p->n_sure - 1].weight >= d->s->min_p)
        return (struct drawn){.kind = DRAW_ROW};
    sample_sort_ids(p->c, p->n_sure);
    return done(d, sample_pick_left(p->c, p->n_sure, d->s, d->position));
}

// In the order of ids: the chunk that the point falls into.
static struct drawn draw_any(const struct draw *d, const struct pool *p)
{
    const struct masses m = masses_of(d, p);
    struct drawn out = {.kind = DRAW_CHUNK, .best = p->best};
    out.at = sample_uniform(d->s, d->position) * m.all;
    out.slack = 3 * m.slack;
    for (; out.chunk < n_chunk(d); out.chunk++) {
        if (out.at < out.before + d->mass[out.chunk]) return out;
        out.before += d->mass[out.chunk];
    }
    return (struct drawn){.kind = DRAW_ROW};
}

struct drawn draw_from_chunk(const struct draw *d, const struct drawn *from, const float *logits)
{
    const float per_t = sample_per_temperature(d->s);
    const int32_t first = from->chunk * KERNELS_TOP_CHUNK, left = d->n_vocab - first;
    double sum = from->before;
    for (int32_t i = 0; i < KERNELS_TOP_CHUNK && i < left; i++) {
        struct sample_cand c;
        if (!sample_weigh(logits[i], first + i, from->best, per_t, &c)) continue;
        const double next = sum + c.weight;
        if (from->at + from->slack < next) { // not one behind it; nor before it?
            if (sum > 0 && from->at - from->slack < sum) break;
            return (struct drawn){.kind = DRAW_DONE, .id = first + i, .logit = logits[i]};
        }
        if (from->at - from->slack < next) break;
        sum = next;
    }
    return (struct drawn){.kind = DRAW_ROW};
}

struct drawn draw_short(const struct draw *d)
{
    const struct sampling *s = d->s;
    struct pool p = pool_of(d);
    if (p.n == 0) return (struct drawn){.kind = DRAW_ROW};
    if (s->temperature == 0)
        return p.n_sure ? done(d, p.c[0].id) : (struct drawn){.kind = DRAW_ROW};
    if (p.is_all) {
        sample_sort_ids(p.c, p.n);
        return done(d, sample_pick(p.c, p.n, s, d->position));
    }
    // Which of top-k's are left does not depend on those behind them, if there are any.
    if (s->top_k > 0)
        return s->top_k < p.n_sure ? done(d, sample_pick(p.c, p.n_sure, s, d->position))
                                   : (struct drawn){.kind = DRAW_ROW};
    if (s->top_p < 1) return draw_top_p(d, &p);
    return s->min_p > 0 ? draw_min_p(d, &p) : draw_any(d, &p);
}
