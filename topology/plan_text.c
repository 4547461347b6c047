// The planner's explanation for people: what each device could do alone, the plan and what its
// figures come from, and why others lose.
#include "topology/plan_rank.h"

#include "proto/base/buf.h"

#include <stdlib.h>

static double gib(uint64_t bytes)
{
    return (double)bytes / (double)((uint64_t)1 << 30);
}

static void add_memory(struct buf *out, const struct cost_memory *c, const struct cluster_device *d)
{
    uint64_t sum = cost_memory_sum(c);
    buf_printf(out, "weights %.3f + kv %.3f", gib(c->weights), gib(c->kv));
    if (c->state) buf_printf(out, " + state %.3f", gib(c->state));
    buf_printf(out, " + workspace %.3f + frames %.3f + reserve %.3f = %.3f of %.3f GiB free",
               gib(c->workspace), gib(c->comms), gib(c->reserve), gib(sum), gib(d->mem_free_bytes));
    if (sum > d->mem_free_bytes)
        buf_printf(out, ", short by %llu bytes", (unsigned long long)(sum - d->mem_free_bytes));
}

static void add_speed(struct buf *out, const struct plan *p, const struct cost_ask *a)
{
    buf_printf(out, "decode %.3f ms for %d %s at depth %lld: %.1f tokens/s each",
               p->decode_us / 1e3, a->batch, a->batch == 1 ? "request" : "requests",
               (long long)a->depth, p->stream_tok_s);
    if (p->n_stage > 1)
        buf_printf(out, ", %.1f in all with every stage busy", p->total_tok_s);
    else
        buf_printf(out, ", %.1f in all", p->total_tok_s);
    buf_printf(out, "; prefill %.1f tokens/s", p->prefill_tok_s);
}

// The same model on one device: what splitting has to beat.
static void add_alone(struct buf *out, const struct cost_model *m, const struct cluster *c,
                      const struct plan_ask *ask, int32_t device)
{
    struct cluster *one = calloc(1, sizeof *one);
    struct plan *p = calloc(1, sizeof *p);
    if (one && p) {
        one->n_device = 1;
        one->devices[0] = c->devices[device];
        struct plan_ask just = {.goal = PLAN_FIT, .cost = ask->cost};
        struct cost_memory mem = cost_memory_of(m, &ask->cost, &one->devices[0], 0, m->n_layer);
        buf_printf(out, "  %s alone: ", one->devices[0].name);
        if (plan_make(m, one, &just, p, NULL) == OK) {
            add_speed(out, p, &ask->cost);
            buf_str(out, "\n    ");
        } else {
            buf_str(out, "does not fit: ");
        }
        add_memory(out, &mem, &one->devices[0]);
        buf_char(out, '\n');
    }
    free(one);
    free(p);
}

static void add_head(struct buf *out, const struct cost_model *m, const struct cluster *c,
                     const struct plan_ask *ask)
{
    int32_t n_measured = 0;
    for (int32_t i = 0; i < c->n_device; i++)
        n_measured += c->devices[i].rates.n_type > 0;
    buf_printf(out, "%s: %d layers, room for %lld tokens\n", m->name, m->n_layer,
               (long long)ask->cost.kv_tokens);
    if (n_measured == c->n_device)
        buf_str(out, "  predicted from measured speeds of operations\n");
    else
        buf_printf(out,
                   "  predicted: limits of bandwidth and peak arithmetic, not measured speeds%s\n",
                   n_measured ? ", of some devices" : "");
    for (int32_t i = 0; i < c->n_device; i++)
        add_alone(out, m, c, ask, i);
}

static void add_member(struct buf *out, const struct cluster *c, const struct plan_stage *st,
                       int32_t k)
{
    const struct plan_member *one = &st->members[k];
    const struct cluster_device *d = &c->devices[one->device];
    if (st->n_member > 1)
        buf_printf(out, "    %s%s, %.1f %% of %s: decode %.3f ms, prefill %.3f ms of its own\n",
                   d->name, k ? "" : " (leads)", 100.0 * one->part / SHARE_TOTAL,
                   st->split == SPLIT_EXPERTS ? "the experts" : "the work", one->decode_us / 1e3,
                   one->prefill_us / 1e3);
    buf_str(out, st->n_member > 1 ? "      " : "    ");
    add_memory(out, &one->memory, d);
    buf_char(out, '\n');
}

static void add_stage(struct buf *out, const struct cost_model *m, const struct cluster *c,
                      const struct plan *p, int32_t i)
{
    const struct plan_stage *st = &p->stages[i];
    buf_printf(out, "  stage %d on ", i);
    if (st->n_member > 1)
        buf_printf(out, "%d devices as %s", st->n_member,
                   st->split == SPLIT_EXPERTS ? "an expert group"
                   : m->n_expert              ? "a tensor group with whole experts each"
                                              : "a tensor group");
    else
        buf_str(out, c->devices[st->members[0].device].name);
    buf_printf(out, ": layers %d-%d%s%s, decode %.3f ms, prefill %.3f ms", st->layer_from,
               st->layer_to - 1, st->layer_from == 0 ? " with embedding" : "",
               st->layer_to == m->n_layer ? " with head" : "", st->decode_us / 1e3,
               st->prefill_us / 1e3);
    if (i + 1 < p->n_stage) buf_printf(out, ", then a hop of %.1f us", st->hop_us);
    buf_char(out, '\n');
    for (int32_t k = 0; k < st->n_member; k++)
        add_member(out, c, st, k);
}

static void add_stages(struct buf *out, const struct cost_model *m, const struct cluster *c,
                       const struct plan *p)
{
    for (int32_t i = 0; i < p->n_stage; i++)
        add_stage(out, m, c, p, i);
}

static const char *goal_name(enum plan_goal g)
{
    static const char *const goals[] = {"latency", "throughput", "fit"};
    return goals[g];
}

void plan_text(const struct cost_model *m, const struct cluster *c, const struct plan_ask *ask,
               const struct plan *p, struct buf *out)
{
    add_head(out, m, c, ask);
    if (!p) return;
    buf_printf(out, "plan for %s: %d %s%s\n  ", goal_name(p->goal), p->n_stage,
               p->n_stage == 1 ? "stage" : "stages",
               p->order_as_listed ? ", devices in the order listed (too many to try all)" : "");
    add_speed(out, p, &ask->cost);
    buf_char(out, '\n');
    add_stages(out, m, c, p);
}

// ---- several plans

// Where the time of a decode step goes.
static void add_kinds(struct buf *out, const struct plan *p, bool is_of_experts)
{
    static const char *const names[COST_KINDS] = {
        [COST_OF_ATTENTION] = "attention",
        [COST_OF_FFN] = "feed-forward",
        [COST_OF_EXPERTS] = "experts",
        [COST_OF_ENDS] = "embedding and head",
        [COST_OF_EXCHANGE] = "waiting for members",
    };
    for (int32_t i = 0; i < p->n_stage; i++) {
        const struct plan_stage *st = &p->stages[i];
        buf_printf(out, "    stage %d, a decode step:", i);
        for (int k = 0; k < COST_KINDS; k++)
            if (st->kinds_us[k] > 0) buf_printf(out, " %s %.1f us,", names[k], st->kinds_us[k]);
        buf_printf(out, " hop %.1f us\n", st->hop_us);
        if (st->split == SPLIT_TENSOR && is_of_experts)
            buf_str(out, "    its members are alike: each has its rows of every matrix, experts' "
                         "too, which is predicted faster than whole experts and a lead that has "
                         "all the rest\n");
    }
}

// "ryzen 0-19, core-i5 20-29", groups as "gpu0+gpu1 0-79"
static void add_layout(struct buf *out, const struct cluster *c, const struct plan *p)
{
    for (int32_t i = 0; i < p->n_stage; i++) {
        const struct plan_stage *st = &p->stages[i];
        if (i) buf_str(out, ", ");
        for (int32_t k = 0; k < st->n_member; k++)
            buf_printf(out, "%s%s", k ? "+" : "", c->devices[st->members[k].device].name);
        if (p->n_stage > 1) buf_printf(out, " %d-%d", st->layer_from, st->layer_to - 1);
    }
}

static void add_option(struct buf *out, const struct cluster *c, const struct plan_option *o,
                       int32_t rank)
{
    buf_printf(out, "%d. %s: ", rank, plan_kind_name(o->kind));
    for (int32_t i = 0; i < o->n_lane; i++) {
        if (i) buf_str(out, " | ");
        add_layout(out, c, &o->lanes[i]);
    }
    buf_printf(out, "\n  decode %.3f ms: %.1f tokens/s each, %.1f in all; prefill %.1f tokens/s\n",
               o->decode_us / 1e3, o->stream_tok_s, o->total_tok_s, o->prefill_tok_s);
    if (o->why[0]) buf_printf(out, "  not this one: %s\n", o->why);
}

void plan_rank_text(const struct cost_model *m, const struct cluster *c, const struct plan_ask *ask,
                    const struct plan_ranking *r, bool explain, struct buf *out)
{
    add_head(out, m, c, ask);
    buf_printf(out, "plans for %s, %d %s at depth %lld:\n", goal_name(ask->goal), ask->cost.batch,
               ask->cost.batch == 1 ? "request" : "requests", (long long)ask->cost.depth);
    for (int32_t i = 0; i < r->n; i++) {
        const struct plan_option *o = &r->options[i];
        if (!o->n_lane) {
            buf_printf(out, "-  %s: none: %s\n", plan_kind_name(o->kind), o->why);
            continue;
        }
        add_option(out, c, o, i + 1);
        if (o->lanes->order_as_listed)
            buf_str(out, "  devices in the order listed (too many to try all)\n");
        for (int32_t k = 0; k < o->n_lane; k++) {
            if (i == 0) add_stages(out, m, c, &o->lanes[k]);
            if (explain) add_kinds(out, &o->lanes[k], o->kind == PLAN_EXPERTS);
        }
    }
    buf_printf(out, "%s\n", r->verdict);
}
