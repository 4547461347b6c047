#include "topology/plan_rank.h"

#include "topology/crowd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *plan_kind_name(enum plan_kind kind)
{
    static const char *const names[PLAN_KINDS] = {"one device",   "layers", "tensor group",
                                                  "expert group", "groups", "lanes"};
    return names[kind];
}

// ---- one plan of each kind

// Smaller is better.
static double value_of(const struct plan_ask *ask, const struct plan_option *o)
{
    if (ask->goal == PLAN_THROUGHPUT) return 1 / o->total_tok_s;
    double used = 0;
    for (int32_t i = 0; ask->goal == PLAN_FIT && i < o->lanes[0].n_stage; i++)
        used += o->lanes[0].stages[i].n_member * 1e12;
    return used + o->decode_us;
}

static void sum_up(struct plan_option *o)
{
    o->stream_tok_s = o->total_tok_s = o->prefill_tok_s = 0;
    for (int32_t i = 0; i < o->n_lane; i++) {
        const struct plan *p = &o->lanes[i];
        if (i == 0 || p->decode_us < o->decode_us) {
            o->decode_us = p->decode_us;
            o->stream_tok_s = p->stream_tok_s;
        }
        o->total_tok_s += p->total_tok_s;
        o->prefill_tok_s += p->prefill_tok_s;
    }
}

// Keeps the plan for `ask` if it is better than the one that is there.
static err_t try_plan(const struct cost_model *m, const struct cluster *c,
                      const struct plan_ask *ask, struct plan_option *o, struct err_text *why)
{
    struct plan_option one = {.kind = o->kind, .n_lane = 1, .lanes = malloc(sizeof *one.lanes)};
    err_t e = one.lanes ? plan_make(m, c, ask, one.lanes, why)
                        : err_say(why, ERR_MEMORY, "no memory for planning");
    if (!e) sum_up(&one);
    if (e || (o->n_lane && value_of(ask, o) <= value_of(ask, &one))) {
        free(one.lanes);
        return e;
    }
    free(o->lanes);
    *o = one;
    return OK;
}

// Of every size of group that is asked for or possible, worth it or not: the number tells.
static err_t try_groups(const struct cost_model *m, const struct cluster *c,
                        const struct plan_ask *ask, struct plan_option *o, struct err_text *why)
{
    const int32_t most = c->n_device < SHARE_MEMBERS_MAX ? c->n_device : SHARE_MEMBERS_MAX;
    struct plan_ask one = *ask;
    err_t e = ERR_CAPACITY;
    one.n_stage_min = one.n_stage_max = 1;
    one.split = o->kind == PLAN_TENSOR ? SPLIT_TENSOR : SPLIT_EXPERTS;
    one.divides_dense &= ask->split == SPLIT_EXPERTS; // else that is a kind of its own
    if (one.split == SPLIT_EXPERTS && !m->n_expert)
        return err_say(why, ERR_CAPACITY, "the model has no experts");
    if (most < 2) return err_say(why, ERR_CAPACITY, "there is one device only");
    for (one.n_member = 2; one.n_member <= most; one.n_member++) {
        if (ask->n_member > 1 && ask->n_member != one.n_member) continue;
        if (try_plan(m, c, &one, o, why) == OK) e = OK;
    }
    return e;
}

static err_t try_lanes(const struct cost_model *m, const struct cluster *c,
                       const struct plan_ask *ask, struct plan_option *o, struct err_text *why)
{
    struct plan_ask any = *ask;
    struct plan *lanes = calloc((size_t)c->n_device, sizeof *lanes);
    int32_t n = 0;
    any.n_member = 0;
    err_t e = lanes ? plan_lanes(m, c, &any, lanes, &n, why)
                    : err_say(why, ERR_MEMORY, "no memory for planning");
    if (!e && n < 2)
        e = err_say(why, ERR_CAPACITY,
                    "there is room for one copy, or one gives more than several");
    if (e) {
        free(lanes);
        return e;
    }
    o->lanes = lanes;
    o->n_lane = n;
    sum_up(o);
    return OK;
}

static bool has_group(const struct plan *p)
{
    for (int32_t i = 0; i < p->n_stage; i++)
        if (p->stages[i].n_member > 1) return true;
    return false;
}

static err_t try_kind(const struct cost_model *m, const struct cluster *c,
                      const struct plan_ask *ask, struct plan_option *o, struct err_text *why)
{
    struct plan_ask one = *ask;
    one.split = SPLIT_NONE;
    one.n_member = 0;
    switch (o->kind) {
    case PLAN_ALONE:
        one.n_stage_min = one.n_stage_max = 1;
        break;
    case PLAN_LAYERS:
        if (c->n_device < 2) return err_say(why, ERR_CAPACITY, "there is one device only");
        if (one.n_stage_min < 2) one.n_stage_min = 2;
        if (one.n_stage_max == 1) one.n_stage_max = 2;
        break;
    case PLAN_TENSOR:
    case PLAN_EXPERTS:
        return try_groups(m, c, ask, o, why);
    case PLAN_LANES:
        return try_lanes(m, c, ask, o, why);
    default:
        if (c->n_device < 3) return err_say(why, ERR_CAPACITY, "there are fewer than 3 devices");
        one.split = ask->split;
        if (one.n_stage_min < 2) one.n_stage_min = 2;
    }
    err_t e = try_plan(m, c, &one, o, why);
    if (!e && o->kind == PLAN_MIXED && !has_group(o->lanes)) {
        free(o->lanes);
        o->lanes = NULL;
        o->n_lane = 0;
        e = err_say(why, ERR_CAPACITY, "with several stages no group is better than one device");
    }
    return e;
}

// ---- why

static double exchange_ms(const struct plan *p)
{
    double us = 0;
    for (int32_t i = 0; i < p->n_stage; i++)
        us += p->stages[i].exchange_us;
    return us / 1e3;
}

static double hops_ms(const struct plan *p)
{
    double us = 0;
    for (int32_t i = 0; i < p->n_stage; i++)
        us += p->stages[i].hop_us;
    return us / 1e3;
}

static void say_latency(struct plan_option *o, const struct plan_option *best)
{
    const struct plan *p = o->lanes;
    const double ms = o->decode_us / 1e3, more = (o->decode_us - best->decode_us) / 1e3;
    switch (o->kind) {
    case PLAN_ALONE:
        snprintf(o->why, sizeof o->why, "it does all the work: %.3f ms a step, %.3f more", ms,
                 more);
        break;
    case PLAN_LAYERS:
        snprintf(o->why, sizeof o->why,
                 "stages wait for each other: %.3f ms of work and %.3f of hops, %.3f more",
                 ms - hops_ms(p), hops_ms(p), more);
        break;
    case PLAN_LANES:
        snprintf(o->why, sizeof o->why,
                 "a lane serves its requests alone: the fastest takes %.3f ms a step, %.3f more",
                 ms, more);
        break;
    default:
        snprintf(o->why, sizeof o->why,
                 "%.3f ms of work, %.3f of hops and %.3f of waiting for other members, %.3f more",
                 ms - hops_ms(p) - exchange_ms(p), hops_ms(p), exchange_ms(p), more);
    }
}

static void say_throughput(struct plan_option *o, const struct plan_option *best)
{
    const struct plan *p = o->lanes;
    if (o->kind == PLAN_LANES)
        snprintf(o->why, sizeof o->why, "its %d lanes give %.1f tokens/s in all, %.1f less",
                 o->n_lane, o->total_tok_s, best->total_tok_s - o->total_tok_s);
    else
        snprintf(o->why, sizeof o->why,
                 "its slowest stage or link takes %.3f ms a step: %.1f tokens/s, %.1f less",
                 p->bottleneck_us / 1e3, o->total_tok_s, best->total_tok_s - o->total_tok_s);
}

static int32_t n_used(const struct plan *p)
{
    int32_t n = 0;
    for (int32_t i = 0; i < p->n_stage; i++)
        n += p->stages[i].n_member;
    return n;
}

static void say_why(const struct plan_ask *ask, struct plan_option *o,
                    const struct plan_option *best)
{
    if (ask->goal == PLAN_THROUGHPUT)
        say_throughput(o, best);
    else if (ask->goal == PLAN_FIT && n_used(o->lanes) > n_used(best->lanes))
        snprintf(o->why, sizeof o->why, "it takes %d devices, %d would do", n_used(o->lanes),
                 n_used(best->lanes));
    else
        say_latency(o, best);
}

static void give_verdict(const struct cluster *c, const struct plan_ask *ask,
                         struct plan_ranking *r)
{
    const struct plan_option *best = &r->options[0], *alone = NULL, *split = NULL;
    const bool total = ask->goal == PLAN_THROUGHPUT;
    for (int32_t i = 0; i < r->n && r->options[i].n_lane; i++) {
        if (r->options[i].kind == PLAN_ALONE) alone = &r->options[i];
        if (r->options[i].kind != PLAN_ALONE && r->options[i].kind != PLAN_LANES && !split)
            split = &r->options[i];
    }
    const char *unit = total ? "tokens/s in all" : "tokens/s a stream";
#define RATE(o) (total ? (o)->total_tok_s : (o)->stream_tok_s)
    if (best->kind == PLAN_ALONE && split)
        snprintf(r->verdict, sizeof r->verdict,
                 "do not split: %s alone gives %.1f %s, the best split (%s) %.1f",
                 c->devices[best->lanes->stages[0].members[0].device].name, RATE(best), unit,
                 plan_kind_name(split->kind), RATE(split));
    else if (best->kind == PLAN_LANES && split)
        snprintf(r->verdict, sizeof r->verdict,
                 "do not split: %d whole copies give %.1f %s, the best split (%s) %.1f",
                 best->n_lane, RATE(best), unit, plan_kind_name(split->kind), RATE(split));
    else if (best->kind == PLAN_ALONE)
        snprintf(r->verdict, sizeof r->verdict, "one device, nothing to split");
    else if (alone)
        snprintf(r->verdict, sizeof r->verdict,
                 "split (%s): %.1f %s, %.2f times what the best device alone gives",
                 plan_kind_name(best->kind), RATE(best), unit, RATE(best) / RATE(alone));
    else
        snprintf(r->verdict, sizeof r->verdict,
                 "split (%s), because no device holds the model alone: %.1f %s",
                 plan_kind_name(best->kind), RATE(best), unit);
#undef RATE
}

// ---- ranking

// Best first, then those that do not exist; among equals the simpler kind.
static void sort_options(const struct plan_ask *ask, struct plan_ranking *r)
{
    for (int32_t i = 1; i < r->n; i++)
        for (int32_t k = i; k > 0; k--) {
            struct plan_option *a = &r->options[k - 1], *b = &r->options[k];
            if (!b->n_lane || (a->n_lane && value_of(ask, a) <= value_of(ask, b))) break;
            const struct plan_option moved = *a;
            *a = *b;
            *b = moved;
        }
}

// Kinds that the ask does not want are not shown.
static bool is_wanted(const struct plan_ask *ask, enum plan_kind kind)
{
    const bool only_one = ask->n_stage_max == 1, several = ask->n_stage_min > 1;
    const bool grouped = kind == PLAN_TENSOR || kind == PLAN_EXPERTS || kind == PLAN_MIXED;
    if (grouped && ask->split == SPLIT_NONE) return false;
    if (kind == PLAN_ALONE) return !several && ask->n_member <= 1;
    if (kind == PLAN_LAYERS) return !only_one && ask->n_member <= 1;
    if (kind == PLAN_TENSOR) return !several && ask->split != SPLIT_EXPERTS;
    if (kind == PLAN_EXPERTS) return !several && ask->split != SPLIT_TENSOR;
    if (kind == PLAN_MIXED) return !only_one;
    return !several && !only_one && ask->n_member <= 1;
}

// Devices of one host that compute at the same time: all in groups, lanes and full pipelines; of
// one stream's stages one after the other.
static void crowd_for(const struct plan_ask *ask, enum plan_kind kind, struct cluster *c)
{
    const bool in_turn = kind == PLAN_LAYERS && ask->goal != PLAN_THROUGHPUT;
    crowd_apply(c, kind == PLAN_ALONE || in_turn ? 1 : 0);
}

static err_t try_crowded(const struct cost_model *m, const struct cluster *c,
                         const struct plan_ask *ask, struct plan_option *o, struct err_text *why)
{
    struct cluster *crowded = malloc(sizeof *crowded);
    if (!crowded) return err_say(why, ERR_MEMORY, "no memory for planning");
    *crowded = *c;
    crowd_for(ask, o->kind, crowded);
    err_t e = try_kind(m, crowded, ask, o, why);
    free(crowded);
    return e;
}

err_t plan_rank(const struct cost_model *m, const struct cluster *c, const struct plan_ask *ask,
                struct plan_ranking **out, struct err_text *why)
{
    struct plan_ranking *r = calloc(1, sizeof *r);
    if (!r) return err_say(why, ERR_MEMORY, "no memory for planning");
    err_t e = OK, first = OK;
    struct err_text first_why = {{0}};
    for (int k = 0; k < PLAN_KINDS; k++) {
        if (!is_wanted(ask, (enum plan_kind)k)) continue;
        struct plan_option *o = &r->options[r->n++];
        struct err_text text = {{0}};
        o->kind = (enum plan_kind)k;
        e = try_crowded(m, c, ask, o, &text);
        snprintf(o->why, sizeof o->why, "%s", text.s);
        if (e && e != ERR_CAPACITY) {
            plan_rank_free(r);
            return err_say(why, e, "%s", text.s);
        }
        // What layers say about memory counts for all; a group's or one device's own is narrower.
        if (e && (!first || k == PLAN_LAYERS)) {
            first = e;
            first_why = text;
        }
    }
    sort_options(ask, r);
    if (!r->n || !r->options[0].n_lane) {
        plan_rank_free(r);
        return err_say(why, first ? first : ERR_CAPACITY, "%s",
                       first ? first_why.s : "no kind of plan is asked for");
    }
    r->options[0].why[0] = 0;
    for (int32_t i = 1; i < r->n && r->options[i].n_lane; i++)
        say_why(ask, &r->options[i], &r->options[0]);
    give_verdict(c, ask, r);
    *out = r;
    return OK;
}

void plan_rank_free(struct plan_ranking *r)
{
    for (int32_t i = 0; i < r->n; i++)
        free(r->options[i].lanes);
    free(r);
}
