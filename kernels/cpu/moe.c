// moe: which experts a token goes to, the list of what is to be computed, and the sum of what they
// answer.
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

enum { ROUTE_EXPERTS_MAX = 4096, COMBINE_COLS = 512 };

struct route_row {
    float s[ROUTE_EXPERTS_MAX];      // softmax or sigmoid of the logits
    float choice[ROUTE_EXPERTS_MAX]; // what the choice goes by; -inf: not to be chosen
    float group[ROUTE_EXPERTS_MAX];
    int32_t groups[ROUTE_EXPERTS_MAX];
};

// The n_best largest of x[n], best first; of equals the lower number.
static void choose_best(const float *x, int32_t n, int32_t n_best, int32_t *ids)
{
    for (int32_t i = 0, have = 0; i < n; i++) {
        if (have == n_best && !(x[i] > x[ids[have - 1]])) continue;
        int32_t j = have < n_best ? have++ : have - 1;
        for (; j > 0 && x[i] > x[ids[j - 1]]; j--)
            ids[j] = ids[j - 1];
        ids[j] = i;
    }
}

// Experts of groups that stay keep their choice value, the others lose it.
static void choose_groups(const struct route_args *a, struct route_row *r)
{
    const int32_t size = a->n_expert / a->n_group;
    for (int32_t g = 0; g < a->n_group; g++) {
        float best = -INFINITY, second = -INFINITY;
        for (int32_t i = g * size; i < (g + 1) * size; i++) {
            float x = r->choice[i];
            second = x > best ? best : x > second ? x : second;
            best = x > best ? x : best;
        }
        r->group[g] = a->group_by_two && size > 1 ? best + second : best;
    }
    choose_best(r->group, a->n_group, a->n_group_used, r->groups);
    bool stays[ROUTE_EXPERTS_MAX] = {false};
    for (int32_t g = 0; g < a->n_group_used; g++)
        stays[r->groups[g]] = true;
    for (int32_t i = 0; i < a->n_expert; i++)
        if (!stays[i / size]) r->choice[i] = -INFINITY;
}

static void sort_ids(int32_t *ids, int32_t n)
{
    for (int32_t i = 1; i < n; i++) {
        int32_t id = ids[i], j = i;
        for (; j > 0 && ids[j - 1] > id; j--)
            ids[j] = ids[j - 1];
        ids[j] = id;
    }
}

static void route_row(struct cpu *c, const struct route_args *a, int64_t tok)
{
    const float *logits = a->logits + tok * a->n_expert;
    int32_t *ids = a->ids + tok * a->n_used;
    float *weights = a->weights + tok * a->n_used;
    struct route_row r;
    if (a->late_softmax)
        memcpy(r.s, logits, (size_t)a->n_expert * sizeof *logits);
    else if (a->sigmoid)
        c->isa->sigmoid(logits, a->n_expert, r.s);
    else
        c->isa->softmax(logits, a->n_expert, r.s);
    for (int32_t i = 0; i < a->n_expert; i++) {
        float x = a->correction ? r.s[i] + a->correction[i] : r.s[i];
        r.choice[i] = x > -INFINITY ? x : -INFINITY; // NaN is never better than a number
    }
    if (a->n_group > 1) choose_groups(a, &r);
    choose_best(r.choice, a->n_expert, a->n_used, ids);
    sort_ids(ids, a->n_used);
    float sum = 0.0f;
    for (int32_t j = 0; j < a->n_used; j++)
        weights[j] = r.s[ids[j]];
    if (a->late_softmax) c->isa->softmax(weights, a->n_used, weights);
    for (int32_t j = 0; j < a->n_used; j++)
        sum += weights[j];
    for (int32_t j = 0; j < a->n_used; j++)
        weights[j] = (a->normalise ? weights[j] / (sum + 1e-20f) : weights[j]) * a->scale;
}

static void route_rows(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    for (int64_t i = from; i < to; i++)
        route_row(c, arg, i);
}

void moe_route(struct kernels *k, const struct route_args *a, int32_t n_tok)
{
    struct route_args args = *a;
    BUG_ON(a->n_expert < 1 || a->n_expert > ROUTE_EXPERTS_MAX);
    BUG_ON(a->n_used < 1 || a->n_used > a->n_expert);
    BUG_ON(a->n_group > 1 &&
           (a->n_expert % a->n_group || a->n_group_used < 1 || a->n_group_used > a->n_group));
    cpu_for(cpu_of(k), n_tok, 16, route_rows, &args);
    if (a->sort) moe_route_sort(k, a->sort, n_tok);
}

struct combine_call {
    const float *y;
    const int32_t *at;
    const float *weights;
    int32_t n_used, dim, n_block; // of COMBINE_COLS columns
    float *out;
};

static void combine_blocks(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    const struct combine_call *m = arg;
    for (int64_t i = from; i < to; i++) {
        const int64_t tok = i / m->n_block, at = i % m->n_block * COMBINE_COLS;
        const int64_t n = m->dim - at < COMBINE_COLS ? m->dim - at : COMBINE_COLS;
        c->isa->combine(m->y + at, m->dim, m->at + tok * m->n_used, m->weights + tok * m->n_used,
                        m->n_used, n, m->out + tok * m->dim + at);
    }
}

void moe_combine(struct kernels *k, const float *y, const int32_t *at, const float *weights,
                 int32_t n_tok, int32_t n_used, int32_t dim, float *out)
{
    struct combine_call m = {y,  at, weights, n_used, dim, (dim + COMBINE_COLS - 1) / COMBINE_COLS,
                             out};
    cpu_for(cpu_of(k), (int64_t)n_tok * m.n_block, 8, combine_blocks, &m);
}

void moe_route_sort(struct kernels *k, const struct route_sort *a, int32_t n_tok)
{
    (void)k; // a counting sort: short beside the products
    const int32_t n = n_tok * a->n_used;
    int32_t next[ROUTE_EXPERTS_MAX + 1];
    BUG_ON(a->n_expert < 1 || a->n_expert > ROUTE_EXPERTS_MAX);
    memset(next, 0, ((size_t)a->n_expert + 1) * sizeof *next);
    for (int32_t i = 0; i < n; i++)
        next[a->ids[i] + 1]++;
    for (int32_t e = 0; e < a->n_expert; e++) {
        if (a->count) a->count[e] += (uint32_t)next[e + 1];
        next[e + 1] += next[e];
    }
    for (int32_t i = 0; i < n; i++) {
        const int32_t e = a->ids[i], at = next[e]++;
        a->at[i] = at;
        a->row[at] = i / a->n_used;
        a->expert[at] = a->place ? a->place[e] : e;
    }
}

struct spread_call {
    const float *x;
    const int32_t *at;
    float *weights;
    int32_t n_used, dim;
    float *out;
};

static void spread_rows(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    const struct spread_call *s = arg;
    for (int64_t i = from * s->n_used; i < to * s->n_used; i++) {
        float *out = s->out + (int64_t)s->at[i] * s->dim;
        memcpy(out, s->x + i / s->n_used * s->dim, (size_t)s->dim * sizeof *out);
        c->isa->scale(out, s->weights[i], s->dim);
        s->weights[i] = 1;
    }
}

void moe_spread(struct kernels *k, const float *x, const int32_t *at, float *weights, int32_t n_tok,
                int32_t n_used, int32_t dim, float *out)
{
    struct spread_call s = {x, at, weights, n_used, dim, out};
    cpu_for(cpu_of(k), n_tok, 8, spread_rows, &s);
}
