#include "coordinator/fleet/place.h"
#include "coordinator/fleet/survey.h"
#include "proto/base/log.h"
#include "topology/crowd.h"
#include "topology/plan.h"
#include "topology/sha256.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Figures of a worker that measured nothing: only their proportions matter, and alike is the best
// guess about two unknowns.
static const double UNMEASURED_READ = 10e9, UNMEASURED_INT8 = 100e9, UNMEASURED_F32 = 50e9;
// Between hosts, before anything is measured: gigabit Ethernet.
static const struct cluster_link GUESSED_LINK = {.latency_us = 100, .bytes_per_s = 110e6};
// Rows of a decode step at which the stages are balanced: a few callers at once.
enum { BALANCE_ROWS = 4 };
// However short memory is, windows and states of as many sequences are kept.
enum { LEAST_SEQS = 4 };

struct placing {
    const struct place_want *want;
    const struct place_worker *workers; // in the order the planner shall prefer
    uint32_t n;
    struct cost_model cost;
    struct cluster cluster; // device i is workers[i]
    struct cost_ask ask;
    bool has_local; // layers whose window is shorter than the context
    bool is_recurrent;
};

// One stage before it is a place_stage: members are indices into placing.workers.
struct cut {
    uint32_t from, to;
    enum share_split split;
    uint32_t n_member, members[WIRE_MEMBERS_MAX], part[WIRE_MEMBERS_MAX];
};

// How the workers are to be arranged.
struct shape {
    uint32_t n_stage, n_member; // of each stage
};

static double figure(double v, double unmeasured)
{
    return v > 0 && !isinf(v) ? v : unmeasured;
}

static void fill_device(const struct place_worker *w, struct cluster_device *d)
{
    *d = (struct cluster_device){
        .kind = w->has_cpu ? CLUSTER_CPU : CLUSTER_CUDA,
        .threads = w->has_cpu ? (int32_t)(w->threads ? w->threads : 1) : 0,
        .mem_bytes = w->mem_bytes > w->mem_free_bytes ? w->mem_bytes : w->mem_free_bytes,
        .mem_free_bytes = w->mem_free_bytes,
        .read_bytes_per_s = figure(w->read_bytes_per_s, UNMEASURED_READ),
        .int8_ops_per_s = figure(w->int8_ops_per_s, UNMEASURED_INT8),
        .f32_flops_per_s = figure(w->f32_flops_per_s, UNMEASURED_F32),
    };
    if (w->rates) d->rates = *w->rates;
    if (w->has_cpu) {
        d->host_cores = w->n_core;
        d->host_read_bytes_per_s = figure(w->host_read_bytes_per_s, 0);
    }
    // Names of a cluster file are shorter than those of workers; the number keeps them apart.
    if (strlen(w->name) < sizeof d->name)
        snprintf(d->name, sizeof d->name, "%s", w->name);
    else
        snprintf(d->name, sizeof d->name, "%.20s-%u", w->name, w->number);
    snprintf(d->host, sizeof d->host, "%.63s", w->host);
}

// Processes of one host report the same free memory, each as if it were alone. What they may take
// together is at most what the host has.
static void share_host_memory(struct placing *p)
{
    struct cluster_device *d = p->cluster.devices;
    uint64_t share[CLUSTER_DEVICES_MAX];
    for (uint32_t i = 0; i < p->n; i++) {
        uint64_t sum = 0;
        for (uint32_t k = 0; k < p->n; k++)
            if (d[k].kind == CLUSTER_CPU && strcmp(d[k].host, d[i].host) == 0)
                sum += d[k].mem_free_bytes;
        share[i] = d[i].mem_free_bytes;
        if (d[i].kind == CLUSTER_CPU && sum > d[i].mem_bytes)
            share[i] = (uint64_t)((double)share[i] * (double)d[i].mem_bytes / (double)sum);
    }
    for (uint32_t i = 0; i < p->n; i++)
        d[i].mem_free_bytes = share[i];
}

static bool is_near(double a, double b, double tolerance)
{
    return a <= b * tolerance && b <= a * tolerance;
}

static bool is_as_fast(const struct cluster_device *a, const struct cluster_device *b)
{
    const double some = 1.15;
    if (a->rates.n_type && b->rates.n_type)
        return is_near(rates_speed(&a->rates), rates_speed(&b->rates), some);
    return is_near(a->read_bytes_per_s, b->read_bytes_per_s, some) &&
           is_near(a->int8_ops_per_s, b->int8_ops_per_s, some) &&
           is_near(a->f32_flops_per_s, b->f32_flops_per_s, some);
}

static bool are_alike(const struct cluster_device *a, const struct cluster_device *b)
{
    const double memory = 1.05;
    return a->kind == b->kind && is_as_fast(a, b) &&
           is_near((double)a->mem_free_bytes, (double)b->mem_free_bytes, memory) &&
           is_near((double)a->mem_bytes, (double)b->mem_bytes, memory);
}

// What is predicted from peaks alone looks faster than what is predicted from measured rates. So of
// devices of one kind, which are to be compared most closely, either all are planned by theirs or
// none.
static void even_rates(struct placing *p)
{
    struct cluster_device *d = p->cluster.devices;
    bool is_missing[CLUSTER_KINDS] = {false};
    for (uint32_t i = 0; i < p->n; i++)
        is_missing[d[i].kind] |= d[i].rates.n_type == 0;
    for (uint32_t i = 0; i < p->n; i++)
        if (is_missing[d[i].kind]) d[i].rates.n_type = 0;
}

static uint64_t lesser(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

// Measurements differ a little every time. Machines that are alike are taken for equal (to the
// first of them, with the least memory), so that the order of the stages, and with it who holds
// what, does not hang on noise; and equal machines are cheap to plan for.
static void level_figures(struct placing *p)
{
    struct cluster_device *d = p->cluster.devices;
    uint32_t first[CLUSTER_DEVICES_MAX];
    for (uint32_t i = 0; i < p->n; i++) {
        uint32_t k = 0;
        while (k < i && (first[k] != k || !are_alike(&d[i], &d[k])))
            k++;
        first[i] = k;
    }
    for (uint32_t i = 0; i < p->n; i++) {
        struct cluster_device *f = &d[first[i]];
        f->mem_free_bytes = lesser(f->mem_free_bytes, d[i].mem_free_bytes);
        f->mem_bytes = lesser(f->mem_bytes, d[i].mem_bytes);
    }
    for (uint32_t i = 0; i < p->n; i++) {
        const struct cluster_device *f = &d[first[i]];
        d[i].read_bytes_per_s = f->read_bytes_per_s;
        d[i].int8_ops_per_s = f->int8_ops_per_s;
        d[i].f32_flops_per_s = f->f32_flops_per_s;
        d[i].rates = f->rates;
        d[i].mem_free_bytes = f->mem_free_bytes;
        d[i].mem_bytes = f->mem_bytes;
    }
}

// Until it is measured: at least as slow as the way to the one that is further from here.
static struct cluster_link guess_link(const struct place_worker *a, const struct place_worker *b)
{
    if (strcmp(a->host, b->host) == 0) return cluster_same_host;
    struct cluster_link l = GUESSED_LINK;
    l.latency_us = fmax(l.latency_us, fmax(a->trip_us, b->trip_us) / 2);
    return l;
}

static struct cluster_link link_of(const struct placing *p, uint32_t a, uint32_t b)
{
    struct cluster_link l;
    const struct place_worker *x = &p->workers[a], *y = &p->workers[b];
    const bool is_known = p->want->survey && survey_link(p->want->survey, x->number, y->number, &l);
    return is_known ? l : guess_link(x, y);
}

// Some link is long enough that steps wait on it: room is needed for all that may.
static bool has_long_road(const struct placing *p)
{
    enum { LONG_US = 1000 };
    for (uint32_t i = 0; i < p->n; i++)
        for (uint32_t k = 0; k < p->n; k++)
            if (i != k && p->cluster.links[i][k].latency_us > LONG_US) return true;
    return false;
}

// What all workers of a host, other lanes' too, leave each other.
static void share_host_time(struct placing *p)
{
    const struct place_want *w = p->want;
    uint32_t n = p->n;
    for (uint32_t i = 0; i < w->n_beside && n < CLUSTER_DEVICES_MAX; i++)
        fill_device(&w->beside[i], &p->cluster.devices[n++]);
    p->cluster.n_device = (int32_t)n;
    crowd_apply(&p->cluster, 0);
    p->cluster.n_device = (int32_t)p->n;
}

static void fill_cluster(struct placing *p)
{
    for (uint32_t i = 0; i < p->n; i++)
        fill_device(&p->workers[i], &p->cluster.devices[i]);
    share_host_memory(p);
    even_rates(p);
    share_host_time(p);
    level_figures(p);
    for (uint32_t i = 0; i < p->n; i++)
        for (uint32_t k = 0; k < p->n; k++)
            p->cluster.links[i][k] = link_of(p, i, k);
}

// -- memory --

static uint64_t page_tokens(uint64_t tokens)
{
    return (tokens + PLACE_PAGE_TOK - 1) / PLACE_PAGE_TOK * PLACE_PAGE_TOK;
}

// What a lane has room for.
struct room {
    uint64_t tokens; // of KV, whole pages
    uint32_t n_seq;  // sequences whose windows and recurrent states are kept
};

// Local pages, 0 if layers with a window need none of their own: sequences never get so long, or
// all of them would hardly have less.
static uint32_t local_pages(const struct placing *p, const struct room *r)
{
    const struct place_want *w = p->want;
    const uint32_t window = (uint32_t)p->cost.window, chunk = (uint32_t)p->cost.chunk;
    if (!p->has_local) return 0;
    const uint64_t n = step_local_pages(r->n_seq, window, chunk, PLACE_PAGE_TOK, w->max_tok);
    return n < r->tokens / PLACE_PAGE_TOK ? (uint32_t)n : 0;
}

static uint32_t snapshots(const struct placing *p, const struct room *r)
{
    return p->is_recurrent ? r->n_seq : 0;
}

// Writes what the room means into the ask.
static void ask_for(struct cost_ask *ask, const struct placing *p, const struct room *r)
{
    const uint32_t n_local = local_pages(p, r);
    ask->kv_tokens = (int64_t)r->tokens;
    ask->local_tokens = n_local ? (int64_t)n_local * PLACE_PAGE_TOK : ask->kv_tokens;
    ask->n_state = (int32_t)(p->want->n_slot + snapshots(p, r));
}

// A table of experts is of groups that deal them out and are as large as wanted; smaller ones
// divide by parts.
static const struct share_experts *experts_of(const struct placing *p, const struct cut *c)
{
    const bool is_meant = c->split == SPLIT_EXPERTS && c->n_member == p->want->n_member;
    return is_meant && c->n_member > 1 ? p->want->experts : NULL;
}

static struct share share_of_member(const struct placing *p, const struct cut *c, uint32_t k)
{
    const struct share_experts *e = experts_of(p, c);
    struct share s = {.split = c->split, .n_member = (int32_t)c->n_member, .member = (int32_t)k};
    if (e) s.experts = *e;
    memcpy(s.part, c->part, c->n_member * sizeof *s.part);
    return s;
}

// Of member k of the cut.
static struct cost_memory memory_of(const struct placing *p, const struct cut *c, uint32_t k,
                                    const struct room *r)
{
    struct cost_ask ask = p->ask;
    const struct share s = share_of_member(p, c, k);
    ask_for(&ask, p, r);
    return cost_memory_share(&p->cost, &ask, &p->cluster.devices[c->members[k]], (int32_t)c->from,
                             (int32_t)c->to, &s);
}

static bool cuts_fit(const struct placing *p, const struct cut *cuts, uint32_t n,
                     const struct room *r)
{
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < cuts[i].n_member; k++) {
            struct cost_memory m = memory_of(p, &cuts[i], k, r);
            if (cost_memory_sum(&m) > p->cluster.devices[cuts[i].members[k]].mem_free_bytes)
                return false;
        }
    return true;
}

static uint32_t most_seqs(const struct place_want *w)
{
    return 2 * w->n_slot;
}

static uint32_t least_seqs(const struct place_want *w)
{
    return w->n_slot < LEAST_SEQS ? w->n_slot : LEAST_SEQS;
}

// One sequence of full length must fit, or requests could be accepted that never finish.
static uint64_t least_tokens(const struct place_want *w)
{
    return page_tokens(w->ctx);
}

// The most KV tokens, up to what is wanted, with which the cuts fit; 0: not even the least.
static uint64_t most_tokens(const struct placing *p, const struct cut *cuts, uint32_t n,
                            uint32_t n_seq)
{
    uint64_t low = least_tokens(p->want), high = page_tokens(p->want->kv_tokens);
    if (!cuts_fit(p, cuts, n, &(struct room){low, n_seq})) return 0;
    while (low < high) {
        uint64_t middle = page_tokens(low + (high - low + 1) / 2);
        if (middle > high) middle = high;
        if (cuts_fit(p, cuts, n, &(struct room){middle, n_seq}))
            low = middle;
        else
            high = middle - PLACE_PAGE_TOK;
    }
    return low;
}

// Fewer sequences are kept as long as that makes room for more of the tokens wanted. tokens 0: does
// not fit.
static struct room most_room(const struct placing *p, const struct cut *cuts, uint32_t n)
{
    const uint64_t wanted = page_tokens(p->want->kv_tokens);
    struct room best = {0};
    for (uint32_t n_seq = most_seqs(p->want);; n_seq = (n_seq + 1) / 2) {
        if (n_seq < least_seqs(p->want)) n_seq = least_seqs(p->want);
        uint64_t tokens = most_tokens(p, cuts, n, n_seq);
        if (tokens > best.tokens) best = (struct room){tokens, n_seq};
        if (best.tokens >= wanted || n_seq == least_seqs(p->want)) return best;
    }
}

// -- cuts --

static bool holds(const struct place_worker *w)
{
    return w->held_from < w->held_to;
}

// The unused worker that holds layers from `at` on (or, with `exact` false, the next one above).
static uint32_t holder(const struct placing *p, const bool *used, uint32_t at, bool exact)
{
    uint32_t best = p->n;
    for (uint32_t i = 0; i < p->n; i++) {
        const struct place_worker *w = &p->workers[i];
        if (used[i] || !holds(w) || (exact ? w->held_from != at : w->held_from <= at)) continue;
        if (best == p->n || w->held_from < p->workers[best].held_from) best = i;
    }
    return best;
}

static uint32_t spare(const struct placing *p, const bool *used)
{
    uint32_t best = p->n;
    for (uint32_t i = 0; i < p->n; i++) {
        if (used[i] || holds(&p->workers[i])) continue;
        if (best == p->n ||
            p->cluster.devices[i].mem_free_bytes > p->cluster.devices[best].mem_free_bytes)
            best = i;
    }
    return best;
}

// Cuts in which every worker keeps the layers it holds, holes being filled by workers that hold
// nothing. 0 if that does not give exactly n_stage stages.
static uint32_t cut_by_holding(const struct placing *p, uint32_t n_stage, struct cut *cuts)
{
    uint32_t n_layer = (uint32_t)p->cost.n_layer, at = 0, n = 0, n_kept = 0;
    bool used[CLUSTER_DEVICES_MAX] = {false};
    while (at < n_layer && n < n_stage) {
        uint32_t i = holder(p, used, at, true), to;
        if (i < p->n) {
            const struct place_worker *w = &p->workers[i];
            to = w->held_to;
            if (to > n_layer || w->held_embed != (at == 0) || w->held_head != (to == n_layer))
                return 0;
            n_kept++;
        } else {
            uint32_t above = holder(p, used, at, false);
            to = above < p->n ? p->workers[above].held_from : n_layer;
            i = spare(p, used);
            if (i == p->n) return 0;
        }
        used[i] = true;
        cuts[n++] = (struct cut){
            .from = at, .to = to, .n_member = 1, .members = {i}, .part = {SHARE_TOTAL}};
        at = to;
    }
    return at == n_layer && n == n_stage && n_kept > 0 ? n : 0;
}

static struct cut cut_of(const struct plan_stage *s)
{
    struct cut c = {.from = (uint32_t)s->layer_from,
                    .to = (uint32_t)s->layer_to,
                    .split = s->n_member > 1 ? s->split : SPLIT_NONE,
                    .n_member = (uint32_t)s->n_member};
    for (uint32_t k = 0; k < c.n_member; k++) {
        c.members[k] = (uint32_t)s->members[k].device;
        c.part[k] = s->members[k].part;
    }
    return c;
}

// Cuts by the planner, for exactly this shape.
static err_t cut_by_plan(struct placing *p, struct shape shape, struct cut *cuts,
                         struct err_text *why)
{
    const struct place_want *w = p->want;
    struct plan_ask ask = {.goal = PLAN_THROUGHPUT,
                           .n_stage_min = (int32_t)shape.n_stage,
                           .n_stage_max = (int32_t)shape.n_stage,
                           .hop_us_max = w->hop_us_max,
                           .split = shape.n_member > 1 ? w->split : SPLIT_NONE,
                           .n_member = (int32_t)shape.n_member,
                           .divides_dense = true,
                           .cost = p->ask};
    if (shape.n_member == w->n_member) memcpy(ask.part, w->part, sizeof ask.part);
    struct room most = {page_tokens(w->kv_tokens), most_seqs(w)};
    struct room least = {least_tokens(w), least_seqs(w)};
    struct plan *plan = malloc(sizeof *plan);
    if (!plan) return err_say(why, ERR_MEMORY, "no memory for planning");
    ask_for(&ask.cost, p, &most);
    err_t err = plan_make(&p->cost, &p->cluster, &ask, plan, NULL);
    if (err) {
        ask_for(&ask.cost, p, &least);
        err = plan_make(&p->cost, &p->cluster, &ask, plan, why);
    }
    for (uint32_t i = 0; !err && i < shape.n_stage; i++)
        cuts[i] = cut_of(&plan->stages[i]);
    free(plan);
    return err;
}

// -- the rest of a placement --

static err_t choose_road(const struct placing *p, struct place *out, const struct cut *cuts,
                         struct err_text *why)
{
    const struct place_worker *first = &p->workers[cuts[0].members[0]];
    bool is_one_process = true;
    for (uint32_t i = 0; i < out->n_stage; i++)
        for (uint32_t k = 0; k < cuts[i].n_member; k++)
            is_one_process &= p->workers[cuts[i].members[k]].process == first->process;
    const uint32_t r = p->want->road ? p->want->road : is_one_process ? ROAD_LOCAL : ROAD_UCX;
    if (r == ROAD_LOCAL && !is_one_process)
        return err_say(why, ERR_CAPACITY, "the local road needs all workers in one process");
    for (uint32_t i = 0; out->n_member > 1 && i < out->n_stage; i++)
        for (uint32_t k = 0; k < cuts[i].n_member; k++)
            if (!(p->workers[cuts[i].members[k]].roads & r))
                return err_say(why, ERR_CAPACITY, "worker %s cannot open the %s road",
                               p->workers[cuts[i].members[k]].name,
                               r == ROAD_UCX ? "ucx" : "local");
    out->road = r;
    return OK;
}

static void hash_place(const struct place_want *want, struct place *p)
{
    struct sha256 h;
    sha256_init(&h);
    sha256_add(&h, want->model->hash, sizeof want->model->hash);
    for (uint32_t i = 0; i < p->n_member; i++) {
        const struct place_member *m = &p->members[i];
        const struct place_stage *s = &p->stages[m->stage];
        uint32_t facts[] = {m->worker, m->part, s->layer_from, s->layer_to, s->split};
        sha256_add(&h, facts, sizeof facts);
    }
    if (p->experts) {
        const struct share_experts *e = p->experts;
        sha256_add(&h, e->owner, (size_t)e->n_layer * (size_t)e->n_expert);
        for (uint32_t i = 0; i < e->n_replica; i++) {
            const struct share_replica *r = &e->replicas[i];
            uint32_t facts[] = {r->layer, r->expert, r->member};
            sha256_add(&h, facts, sizeof facts);
        }
    }
    sha256_add(&h, &p->settings, sizeof p->settings);
    sha256_end(&h, p->hash);
}

static struct cost_group group_of(const struct placing *p, const struct cut *c)
{
    struct cost_group g = {.share = share_of_member(p, c, 0),
                           .link = {.latency_us = 0, .bytes_per_s = INFINITY}};
    for (uint32_t i = 0; i < c->n_member; i++) {
        g.devices[i] = &p->cluster.devices[c->members[i]];
        for (uint32_t k = 0; k < i; k++) {
            const struct cluster_link *l = &p->cluster.links[c->members[i]][c->members[k]];
            g.link.latency_us = fmax(g.link.latency_us, l->latency_us);
            g.link.bytes_per_s = fmin(g.link.bytes_per_s, l->bytes_per_s);
        }
    }
    return g;
}

// Of the layers' experts, as they are dealt out.
static double expert_part(const struct placing *p, const struct cut *c, uint32_t k)
{
    const struct share s = share_of_member(p, c, k);
    const int32_t n_expert = p->cost.n_expert;
    double held = 0;
    if (n_expert == 0 || !share_deals_experts(&s)) return 0;
    for (int32_t i = (int32_t)c->from; i < (int32_t)c->to; i++)
        for (int32_t e = 0; e < n_expert; e++)
            held += share_owns(&s, (int32_t)k, i, e, n_expert);
    return held / ((double)(c->to - c->from) * n_expert);
}

static void fill_stage(const struct placing *p, const struct cut *c, const struct room *r,
                       struct place *out)
{
    const uint32_t at = out->n_stage++;
    struct place_stage *s = &out->stages[at];
    *s = (struct place_stage){.layer_from = c->from,
                              .layer_to = c->to,
                              .embed = c->from == 0,
                              .head = c->to == (uint32_t)p->cost.n_layer,
                              .split = c->split,
                              .first = out->n_member,
                              .n_member = c->n_member};
    const uint32_t first = out->n_member;
    for (uint32_t k = 0; k < c->n_member; k++) {
        const struct cost_memory m = memory_of(p, c, k, r);
        out->members[out->n_member++] =
            (struct place_member){.worker = p->workers[c->members[k]].number,
                                  .stage = at,
                                  .part = c->part[k],
                                  .weight_bytes = m.weights,
                                  .kv_bytes = m.kv + m.state,
                                  .work_bytes = m.workspace + m.comms};
    }
    struct cost_ask one_row = p->ask;
    one_row.batch = 1;
    const struct cost_step step = cost_decode_step(&one_row);
    const struct cost_group g = group_of(p, c);
    const struct cost_time t = cost_time_of(&p->cost, &g, &step, (int32_t)c->from, (int32_t)c->to);
    s->decode_us = (double)t.ns / 1e3;
    for (uint32_t k = 0; k < c->n_member; k++) {
        struct place_member *m = &out->members[first + k];
        m->decode_us = (double)t.own[k] / 1e3;
        m->expert_us = c->n_member > 1 ? (double)t.experts[k] / 1e3 : 0;
        m->expert_part = expert_part(p, c, k);
    }
}

// A step through all stages, and what its longest stage takes.
static void pass(const struct placing *p, const struct cut *cuts, uint32_t n,
                 const struct cost_step *step, double *sum_us, double *longest_us)
{
    *sum_us = *longest_us = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct cost_group g = group_of(p, &cuts[i]);
        const struct cost_time t =
            cost_time_of(&p->cost, &g, step, (int32_t)cuts[i].from, (int32_t)cuts[i].to);
        const uint32_t a = cuts[i].members[0], b = cuts[(i + 1) % n].members[0];
        *sum_us += (double)t.ns / 1e3;
        *longest_us = fmax(*longest_us, (double)t.ns / 1e3);
        if (n > 1) *sum_us += (double)cost_hop_ns(&p->cost, &p->cluster.links[a][b], step) / 1e3;
    }
}

// Of all slots' requests each stage has its share at a time.
static struct place_speed speed_of(const struct placing *p, const struct cut *cuts, uint32_t n)
{
    const uint32_t n_slot = p->want->n_slot, rows = (n_slot + n - 1) / n;
    struct cost_ask ask = p->ask;
    double one_us, all_us, longest_us;
    ask.batch = 1;
    struct cost_step step = cost_decode_step(&ask);
    pass(p, cuts, n, &step, &one_us, &longest_us);
    ask.batch = (int32_t)rows;
    step = cost_decode_step(&ask);
    pass(p, cuts, n, &step, &all_us, &longest_us);
    all_us = fmax(all_us, n * longest_us);
    step = cost_prefill_step(&ask);
    double sum_us;
    pass(p, cuts, n, &step, &sum_us, &longest_us);
    const double row_us = n_slot > 1 ? fmax(all_us - one_us, 0) / (n_slot - 1) : 0;
    return (struct place_speed){.step_us = fmax(one_us - row_us, 1e-3),
                                .row_us = row_us,
                                .prompt_us = longest_us / ask.chunk};
}

static uint32_t steps_in_flight(const struct placing *p, const struct cut *cuts, uint32_t n,
                                const struct place *out)
{
    double slowest_us = 1, road_us = 0;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t a = cuts[i].members[0], b = cuts[(i + 1) % n].members[0];
        slowest_us = fmax(slowest_us, out->stages[i].decode_us);
        if (n > 1) road_us += p->cluster.links[a][b].latency_us;
    }
    return plan_steps_in_flight(n, slowest_us, road_us);
}

static void fill_place(const struct placing *p, const struct cut *cuts, uint32_t n,
                       const struct room *r, struct place *out)
{
    const struct place_want *w = p->want;
    for (uint32_t i = 0; i < n; i++)
        fill_stage(p, &cuts[i], r, out);
    out->settings = (struct plan_settings){
        .ctx = w->ctx,
        .page_tok = PLACE_PAGE_TOK,
        .n_page = (uint32_t)(r->tokens / PLACE_PAGE_TOK),
        .n_page_local = local_pages(p, r),
        .n_snapshot = snapshots(p, r),
        .n_slot = w->n_slot,
        .max_tok = w->max_tok,
        .max_rows = w->n_slot < 2                ? 2
                    : w->n_slot < PLACE_ROWS_MAX ? w->n_slot
                                                 : PLACE_ROWS_MAX,
        .in_flight = steps_in_flight(p, cuts, n, out),
        .kv_dtype = w->kv_dtype,
        .precision = w->precision,
    };
    out->speed = speed_of(p, cuts, n);
    out->window = (uint32_t)p->cost.window;
    out->chunk = (uint32_t)p->cost.chunk;
    out->recurrent = p->is_recurrent;
    bool has_gpu = false;
    for (uint32_t i = 0; i < n; i++)
        has_gpu |= p->cluster.devices[cuts[i].members[0]].kind != CLUSTER_CPU;
    out->piece_tok = plan_piece_tok(&p->cost, has_gpu);
    out->experts = experts_of(p, &cuts[0]);
    hash_place(w, out);
}

static err_t place_on(struct placing *p, struct shape shape, struct place *out,
                      struct err_text *why)
{
    struct cut cuts[WIRE_STAGES_MAX];
    struct room room = {0};
    if (shape.n_member == 1 && cut_by_holding(p, shape.n_stage, cuts))
        room = most_room(p, cuts, shape.n_stage);
    if (!room.tokens) {
        err_t err = cut_by_plan(p, shape, cuts, why);
        if (err) return err;
        room = most_room(p, cuts, shape.n_stage);
        // The planner counts as we do; if it did not, loading would find out too late.
        if (!room.tokens) return err_say(why, ERR_CAPACITY, "the plan does not fit after all");
    }
    struct place place = {0};
    fill_place(p, cuts, shape.n_stage, &room, &place);
    err_t err = choose_road(p, &place, cuts, why);
    if (err) return err;
    if (room.tokens < page_tokens(p->want->kv_tokens))
        log_warn("memory is short: %llu KV tokens instead of %llu", (unsigned long long)room.tokens,
                 (unsigned long long)p->want->kv_tokens);
    *out = place;
    return OK;
}

// The next smaller arrangement: as many workers as possible, of those the one with the largest
// groups. False: there is none.
static bool shrink(const struct place_want *w, struct shape *s)
{
    const uint32_t before = s->n_stage * s->n_member;
    struct shape best = {0};
    for (uint32_t m = 1; m <= w->n_member; m++)
        for (uint32_t n = 1; n <= w->n_stage; n++) {
            const uint32_t all = n * m;
            if (all > before || (all == before && m >= s->n_member)) continue;
            if (all >= best.n_stage * best.n_member) best = (struct shape){n, m};
        }
    *s = best;
    return best.n_stage > 0;
}

// Those that hold layers first, in their order: among equals the planner takes them as listed.
static int by_holding(const void *a, const void *b)
{
    const struct place_worker *x = a, *y = b;
    if (holds(x) != holds(y)) return holds(x) ? -1 : 1;
    if (holds(x) && x->held_from != y->held_from) return x->held_from < y->held_from ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

static void find_kinds(struct placing *p)
{
    const struct cost_model *m = &p->cost;
    for (int32_t i = 0; i < m->n_layer; i++) {
        p->has_local |= m->layers[i].is_local && m->layers[i].kv_elems;
        p->is_recurrent |= m->layers[i].state_bytes != 0;
    }
    const uint32_t never =
        step_sees_from(p->want->ctx - 1, (uint32_t)m->window, (uint32_t)m->chunk);
    p->has_local &= never > 0; // a token of the longest sequence does not see all
}

void place_shape(struct place_want *want, uint32_t n)
{
    const uint32_t n_layer = (uint32_t)want->model->shape.n_layer;
    const bool is_split = want->split != SPLIT_NONE;
    if (n == 0) n = 1;
    if (!want->n_stage) want->n_stage = is_split ? 1 : n < n_layer ? n : n_layer;
    if (!is_split)
        want->n_member = 1;
    else if (!want->n_member)
        want->n_member = n > want->n_stage ? n / want->n_stage : 1;
}

// Tokens before a row where the stages are balanced. Far back attention outweighs the output
// matrix, and the last stage can have more layers; near the beginning it is the other way round. A
// slot's share of the pages is what a request may grow to when all slots run; most end at half of
// that, and are half way there.
static int64_t usual_depth(const struct place_want *w)
{
    const uint64_t share = w->kv_tokens / w->n_slot;
    return (int64_t)(share < w->ctx ? share : w->ctx) / 4;
}

err_t place_make(const struct place_want *want, const struct place_worker *workers, uint32_t n,
                 struct place *out, struct err_text *why)
{
    struct placing *p = calloc(1, sizeof *p);
    struct place_worker *sorted = calloc(n, sizeof *sorted);
    err_t err;
    if (!p || !sorted) {
        err = err_say(why, ERR_MEMORY, "no memory for planning");
        goto end;
    }
    memcpy(sorted, workers, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_holding);
    p->want = want;
    p->workers = sorted;
    p->n = n;
    cost_of_model(want->model, &p->cost);
    find_kinds(p);
    fill_cluster(p);
    p->ask = (struct cost_ask){.depth = usual_depth(want),
                               .batch = BALANCE_ROWS,
                               .chunk = (int32_t)want->max_tok,
                               .in_flight = (int32_t)want->n_stage + 1,
                               .kv_elem_bits = dtype_kv_bits((enum dtype)want->kv_dtype)};
    if (has_long_road(p)) p->ask.in_flight += PLAN_ROAD_STEPS_MAX;
    struct shape shape = {want->n_stage, want->n_member};
    bool is_any = true;
    while (is_any && shape.n_stage * shape.n_member > n)
        is_any = shrink(want, &shape);
    err = place_on(p, shape, out, why);
    while (err == ERR_CAPACITY && shrink(want, &shape))
        if (place_on(p, shape, out, NULL) == OK) err = OK;
end:
    free(p);
    free(sorted);
    return err;
}
