#include "topology/experts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MEMBERS = SHARE_MEMBERS_MAX };
static const double clearly = 0.99;      // what a change must bring a layer's slowest member below
static const double swap_worth = 0.98;   // a swap moves two experts: it must beat a move by so much
static const double copy_worth = 0.0003; // of all layers' time, that one more copy must save

struct copy {
    int32_t layer, expert, member;
    int32_t next;  // of the same layer; -1: none
    double amount; // products
};

// A table in the making.
struct placing {
    const struct experts_ask *a;
    uint8_t *owner; // (n_layer, n_expert)
    double *own;    // (n_layer, n_expert) products that the owner itself computes
    double *load;   // (n_layer, MEMBERS) products of each member
    struct copy *copies;
    int32_t *first; // (n_layer) newest copy of each layer
    int32_t n_copy, cap_copy;
    uint64_t *spare; // (n_stage, MEMBERS)
    int32_t *order;  // (n_expert) scratch
};

// One layer of it.
struct row {
    const struct experts_stage *stage;
    uint64_t bytes; // of one expert
    uint8_t *owner;
    double *own, *load;
    uint64_t *spare;
};

static const struct experts_stage *stage_of(const struct experts_ask *a, int32_t layer)
{
    for (int32_t i = 0; i < a->n_stage; i++)
        if (layer >= a->stages[i].layer_from && layer < a->stages[i].layer_to) return &a->stages[i];
    return NULL;
}

// False: the layer has nothing to divide.
static bool row_of(const struct placing *p, int32_t layer, struct row *out)
{
    const struct experts_ask *a = p->a;
    const struct experts_stage *s = stage_of(a, layer);
    if (!s || s->n_member < 2 || !a->expert_bytes[layer]) return false;
    *out = (struct row){.stage = s,
                        .bytes = a->expert_bytes[layer],
                        .owner = p->owner + (int64_t)layer * a->n_expert,
                        .own = p->own + (int64_t)layer * a->n_expert,
                        .load = p->load + (int64_t)layer * MEMBERS,
                        .spare = p->spare + (s - a->stages) * MEMBERS};
    return true;
}

static double time_of(const struct row *r, int32_t member)
{
    return r->load[member] / r->stage->speed[member];
}

static int32_t slowest(const struct row *r)
{
    int32_t at = 0;
    for (int32_t i = 1; i < r->stage->n_member; i++)
        if (time_of(r, i) > time_of(r, at)) at = i;
    return at;
}

// -- the table as it is --

static bool make(struct placing *p, const struct experts_ask *a, struct arena *arena)
{
    const size_t n = (size_t)a->n_layer * (size_t)a->n_expert;
    *p = (struct placing){.a = a, .cap_copy = EXPERTS_REPLICAS_MAX};
    p->owner = arena_take_n(arena, n, sizeof *p->owner);
    p->own = arena_take_n(arena, n, sizeof *p->own);
    p->load = arena_take_n(arena, (size_t)a->n_layer * MEMBERS, sizeof *p->load);
    p->first = arena_take_n(arena, (size_t)a->n_layer, sizeof *p->first);
    p->copies = arena_take_n(arena, (size_t)p->cap_copy, sizeof *p->copies);
    p->spare = arena_take_n(arena, (size_t)a->n_stage * MEMBERS, sizeof *p->spare);
    p->order = arena_take_n(arena, (size_t)a->n_expert, sizeof *p->order);
    for (int32_t i = 0; p->spare && i < a->n_stage; i++)
        memcpy(p->spare + i * MEMBERS, a->stages[i].spare_bytes, sizeof a->stages[i].spare_bytes);
    for (int32_t l = 0; p->first && l < a->n_layer; l++)
        p->first[l] = -1;
    return p->owner && p->own && p->load && p->first && p->copies && p->spare && p->order;
}

static void own_by_part(const struct experts_stage *s, int32_t n_expert, uint8_t *owner)
{
    struct share share = {.split = SPLIT_EXPERTS, .n_member = s->n_member};
    int64_t from[MEMBERS + 1];
    memcpy(share.part, s->part, sizeof share.part);
    share_cut(&share, n_expert, from);
    for (int32_t m = 0; m < s->n_member; m++)
        memset(owner + from[m], m, (size_t)(from[m + 1] - from[m]));
}

static void own_as(struct placing *p, const struct share_experts *t)
{
    const struct experts_ask *a = p->a;
    for (int32_t l = 0; l < a->n_layer; l++) {
        struct row r;
        if (!row_of(p, l, &r)) continue;
        if (t)
            memcpy(r.owner, t->owner + (int64_t)(l - t->layer_from) * t->n_expert,
                   (size_t)a->n_expert);
        else
            own_by_part(r.stage, a->n_expert, r.owner);
        memset(r.load, 0, MEMBERS * sizeof *r.load);
        for (int32_t e = 0; e < a->n_expert; e++) {
            r.own[e] = a->count[(int64_t)l * a->n_expert + e];
            r.load[r.owner[e]] += r.own[e];
        }
    }
}

// -- owners --

struct change {
    int32_t expert, other; // other: of the member it goes to, that comes in exchange; -1: none
    int32_t to;
    double time; // of the slower of the two members afterwards
};

static double time_after(const struct row *r, int32_t from, int32_t to, double load)
{
    const double a = (r->load[from] - load) / r->stage->speed[from];
    const double b = (r->load[to] + load) / r->stage->speed[to];
    return a > b ? a : b;
}

// Experts of a member by load, the largest first, out of `order`.
static int32_t experts_of(const struct placing *p, const struct row *r, int32_t member,
                          int32_t *out)
{
    int32_t n = 0;
    for (int32_t i = 0; i < p->a->n_expert; i++)
        if (r->owner[p->order[i]] == member) out[n++] = p->order[i];
    return n;
}

// The expert in `list` (n, descending by load) whose load is nearest below `load`, or the last.
static int32_t near(const struct row *r, const int32_t *list, int32_t n, double load)
{
    int32_t lo = 0, hi = n - 1;
    while (lo < hi) {
        const int32_t mid = lo + (hi - lo) / 2;
        if (r->own[list[mid]] <= load)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

// Best change between the slowest member and `to`: a move if memory allows, or a swap.
static void look(const struct row *r, const int32_t *mine, int32_t n_mine, const int32_t *theirs,
                 int32_t n_theirs, int32_t to, struct change *best)
{
    const int32_t from = r->owner[mine[0]];
    const double sf = r->stage->speed[from], st = r->stage->speed[to];
    const double wanted = (r->load[from] * st - r->load[to] * sf) / (sf + st);
    for (int32_t i = 0; i < n_mine; i++) {
        const double load = r->own[mine[i]];
        const double moved = time_after(r, from, to, load);
        if (r->spare[to] >= r->bytes && moved < best->time)
            *best = (struct change){mine[i], -1, to, moved};
        if (!n_theirs) continue;
        const int32_t k = near(r, theirs, n_theirs, load - wanted);
        for (int32_t x = k > 0 ? k - 1 : k; x <= k; x++) {
            const double swapped = time_after(r, from, to, load - r->own[theirs[x]]);
            if (swapped < best->time * (best->other < 0 ? swap_worth : 1))
                *best = (struct change){mine[i], theirs[x], to, swapped};
        }
    }
}

static void give(struct row *r, int32_t expert, int32_t to)
{
    const int32_t from = r->owner[expert];
    r->owner[expert] = (uint8_t)to;
    r->load[from] -= r->own[expert];
    r->load[to] += r->own[expert];
    r->spare[from] += r->bytes;
    r->spare[to] -= r->bytes; // of a swap the other one's room comes with the next give
}

// One change for the better; false: there is none.
static bool improve(const struct placing *p, struct row *r, int32_t *mine, int32_t *theirs)
{
    const int32_t from = slowest(r);
    const int32_t n_mine = experts_of(p, r, from, mine);
    double load = 0, speed = 0;
    for (int32_t m = 0; m < r->stage->n_member; m++) {
        load += r->load[m];
        speed += r->stage->speed[m];
    }
    const double now = time_of(r, from);
    if (!n_mine || now * clearly <= load / speed) return false;
    struct change best = {-1, -1, -1, now * clearly};
    for (int32_t to = 0; to < r->stage->n_member; to++)
        if (to != from) look(r, mine, n_mine, theirs, experts_of(p, r, to, theirs), to, &best);
    if (best.expert < 0) return false;
    give(r, best.expert, best.to);
    if (best.other >= 0) give(r, best.other, from);
    return true;
}

struct by_load {
    double load;
    int32_t expert;
};

static int compare_load(const void *a, const void *b)
{
    const struct by_load *x = a, *y = b;
    if (x->load != y->load) return x->load > y->load ? -1 : 1;
    return x->expert - y->expert;
}

static bool balance(struct placing *p, struct arena *arena)
{
    const int32_t n = p->a->n_expert;
    struct by_load *all = arena_take_n(arena, (size_t)n, sizeof *all);
    int32_t *lists = arena_take_n(arena, 2 * (size_t)n, sizeof *lists);
    if (!all || !lists) return false;
    for (int32_t l = 0; l < p->a->n_layer; l++) {
        struct row r;
        if (!row_of(p, l, &r)) continue;
        for (int32_t e = 0; e < n; e++)
            all[e] = (struct by_load){r.own[e], e};
        qsort(all, (size_t)n, sizeof *all, compare_load);
        for (int32_t e = 0; e < n; e++)
            p->order[e] = all[e].expert;
        // Every change lowers the slowest of two members; the count is a bound for ties only.
        for (int32_t i = 0; i < 2 * n && improve(p, &r, lists, lists + n); i++)
            continue;
    }
    return true;
}

// -- copies --

// Who computes an expert, and how many of its products each.
struct spread {
    int32_t n;
    struct {
        int32_t member;
        double amount;
    } at[MEMBERS];
};

static struct spread spread_of(const struct placing *p, const struct row *r, int32_t layer,
                               int32_t expert)
{
    struct spread s = {1, {{r->owner[expert], r->own[expert]}}};
    for (int32_t i = p->first[layer]; i >= 0; i = p->copies[i].next) {
        if (p->copies[i].expert != expert || s.n == MEMBERS) continue;
        s.at[s.n].member = p->copies[i].member;
        s.at[s.n++].amount = p->copies[i].amount;
    }
    return s;
}

static bool holds(const struct spread *s, int32_t member)
{
    for (int32_t i = 0; i < s->n; i++)
        if (s->at[i].member == member) return true;
    return false;
}

// Divides the expert's products so that all that compute some of them end together, and those that
// compute none have more to do anyway.
static void pour(const struct row *r, struct spread *s)
{
    double base[MEMBERS], all = 0;
    bool is_in[MEMBERS];
    for (int32_t i = 0; i < s->n; i++) {
        base[i] = r->load[s->at[i].member] - s->at[i].amount;
        all += s->at[i].amount;
        is_in[i] = true;
    }
    double level = 0;
    for (bool again = true; again;) {
        double load = all, speed = 0;
        for (int32_t i = 0; i < s->n; i++) {
            load += is_in[i] ? base[i] : 0;
            speed += is_in[i] ? r->stage->speed[s->at[i].member] : 0;
        }
        level = load / speed;
        again = false;
        for (int32_t i = 0; i < s->n; i++) {
            if (!is_in[i] || base[i] <= level * r->stage->speed[s->at[i].member]) continue;
            is_in[i] = false;
            again = true;
        }
    }
    for (int32_t i = 0; i < s->n; i++)
        s->at[i].amount = is_in[i] ? level * r->stage->speed[s->at[i].member] - base[i] : 0;
}

// The layer's time, slightly more where several members are nearly as slow as the slowest: what
// helps one of them helps, though the others still set the pace.
static double soft_time(const struct experts_stage *s, const double *load)
{
    double most = 0, sum = 0;
    for (int32_t m = 0; m < s->n_member; m++)
        if (load[m] / s->speed[m] > most) most = load[m] / s->speed[m];
    for (int32_t m = 0; most > 0 && m < s->n_member; m++) {
        double x = load[m] / s->speed[m] / most;
        x *= x; // to the 16th
        x *= x;
        x *= x;
        sum += x * x;
    }
    return most * sqrt(sqrt(sqrt(sqrt(sum))));
}

// How much sooner the layer would be done with one more copy.
static double saved_by(const struct row *r, const struct spread *now, int32_t to)
{
    struct spread s = *now;
    double load[MEMBERS];
    memcpy(load, r->load, sizeof load);
    for (int32_t i = 0; i < s.n; i++)
        load[s.at[i].member] -= s.at[i].amount;
    s.at[s.n].member = to;
    s.at[s.n++].amount = 0;
    pour(r, &s);
    for (int32_t i = 0; i < s.n; i++)
        load[s.at[i].member] += s.at[i].amount;
    return (soft_time(r->stage, r->load) - soft_time(r->stage, load)) * (double)r->bytes;
}

static void add_copy(struct placing *p, int32_t layer, int32_t expert, int32_t to)
{
    struct row r;
    if (!row_of(p, layer, &r)) return;
    p->copies[p->n_copy] = (struct copy){layer, expert, to, p->first[layer], 0};
    p->first[layer] = p->n_copy++;
    r.spare[to] -= r.bytes;
    struct spread now = spread_of(p, &r, layer, expert), s = now;
    pour(&r, &s);
    for (int32_t i = 0; i < s.n; i++) {
        r.load[s.at[i].member] += s.at[i].amount - now.at[i].amount;
        if (s.at[i].member == r.owner[expert]) r.own[expert] = s.at[i].amount;
    }
    for (int32_t i = p->first[layer]; i >= 0; i = p->copies[i].next)
        for (int32_t k = 0; k < s.n; k++)
            if (p->copies[i].expert == expert && p->copies[i].member == s.at[k].member)
                p->copies[i].amount = s.at[k].amount;
}

// What a layer would gain by its best copy.
struct wish {
    int32_t expert, to;
    double saved; // 0: there is none
};

// The expert that gives a member most to do.
static int32_t hottest(const struct placing *p, const struct row *r, int32_t layer, int32_t member)
{
    int32_t hot = -1;
    double most = 0;
    for (int32_t e = 0; e < p->a->n_expert; e++) {
        if (r->owner[e] != member || r->own[e] <= most) continue;
        most = r->own[e];
        hot = e;
    }
    for (int32_t i = p->first[layer]; i >= 0; i = p->copies[i].next) {
        if (p->copies[i].member != member || p->copies[i].amount <= most) continue;
        most = p->copies[i].amount;
        hot = p->copies[i].expert;
    }
    return hot;
}

static struct wish best_copy(const struct placing *p, int32_t layer)
{
    struct wish w = {-1, -1, 0};
    struct row r;
    if (!row_of(p, layer, &r)) return w;
    const int32_t hot = hottest(p, &r, layer, slowest(&r));
    if (hot < 0) return w;
    const struct spread s = spread_of(p, &r, layer, hot);
    for (int32_t to = 0; to < r.stage->n_member; to++) {
        if (r.spare[to] < r.bytes || holds(&s, to)) continue;
        const double saved = saved_by(&r, &s, to);
        if (saved > w.saved) w = (struct wish){hot, to, saved};
    }
    return w;
}

static double cost_of(const struct placing *p)
{
    double sum = 0;
    for (int32_t l = 0; l < p->a->n_layer; l++) {
        struct row r;
        if (row_of(p, l, &r)) sum += time_of(&r, slowest(&r)) * (double)r.bytes;
    }
    return sum;
}

static bool add_copies(struct placing *p, struct arena *arena, double least)
{
    const int32_t n = p->a->n_layer;
    struct wish *wishes = arena_take_n(arena, (size_t)n, sizeof *wishes);
    if (!wishes) return false;
    for (int32_t l = 0; l < n; l++)
        wishes[l] = best_copy(p, l);
    while (n > 0 && p->n_copy < p->cap_copy) {
        int32_t at = 0;
        for (int32_t l = 1; l < n; l++)
            if (wishes[l].saved * (double)p->a->expert_bytes[at] >
                wishes[at].saved * (double)p->a->expert_bytes[l])
                at = l;
        if (wishes[at].saved <= least) break;
        // Room may have gone to another layer since the wish was made.
        const struct wish fresh = best_copy(p, at);
        if (fresh.saved >= wishes[at].saved) add_copy(p, at, fresh.expert, fresh.to);
        wishes[at] = best_copy(p, at);
    }
    return true;
}

// Copies that are there stay while they are of use and fit.
static void keep_copies(struct placing *p, const struct share_experts *now, double least)
{
    for (uint32_t i = 0; now && i < now->n_replica && p->n_copy < p->cap_copy; i++) {
        const int32_t l = (int32_t)now->replicas[i].layer, e = (int32_t)now->replicas[i].expert;
        const int32_t to = (int32_t)now->replicas[i].member;
        struct row r;
        if (!row_of(p, l, &r) || r.spare[to] < r.bytes) continue;
        const struct spread s = spread_of(p, &r, l, e);
        if (!holds(&s, to) && saved_by(&r, &s, to) > least) add_copy(p, l, e, to);
    }
}

// -- tables --

static int compare_copy(const void *a, const void *b)
{
    const struct copy *x = a, *y = b;
    if (x->layer != y->layer) return x->layer - y->layer;
    return x->expert != y->expert ? x->expert - y->expert : x->member - y->member;
}

static err_t write_table(const struct placing *p, struct arena *arena, struct share_experts *out)
{
    struct share_replica *r = arena_take_n(arena, (size_t)p->n_copy, sizeof *r);
    if (!r) return ERR_MEMORY;
    qsort(p->copies, (size_t)p->n_copy, sizeof *p->copies, compare_copy);
    for (int32_t i = 0; i < p->n_copy; i++) {
        const struct copy *c = &p->copies[i];
        r[i] = (struct share_replica){(uint32_t)c->layer, (uint32_t)c->expert, (uint32_t)c->member};
    }
    *out = (struct share_experts){.n_layer = p->a->n_layer,
                                  .n_expert = p->a->n_expert,
                                  .owner = p->owner,
                                  .replicas = r,
                                  .n_replica = (uint32_t)p->n_copy};
    return OK;
}

// The table with its copies at work.
static void run_table(struct placing *p, const struct share_experts *t)
{
    own_as(p, t);
    for (uint32_t i = 0; t && i < t->n_replica && p->n_copy < p->cap_copy; i++)
        add_copy(p, (int32_t)t->replicas[i].layer, (int32_t)t->replicas[i].expert,
                 (int32_t)t->replicas[i].member);
}

// Owners, then copies, from now's owners on; copies of now give their room back first.
static err_t work_out(struct placing *p, struct arena *arena)
{
    const struct share_experts *now = p->a->now;
    own_as(p, now);
    for (uint32_t i = 0; now && i < now->n_replica; i++) {
        struct row r;
        if (row_of(p, (int32_t)now->replicas[i].layer, &r))
            r.spare[now->replicas[i].member] += r.bytes;
    }
    if (!balance(p, arena)) return ERR_MEMORY;
    const double least = cost_of(p) * copy_worth;
    keep_copies(p, now, least);
    return add_copies(p, arena, least) ? OK : ERR_MEMORY;
}

err_t experts_place(const struct experts_ask *a, struct arena *arena, struct experts_plan *out)
{
    struct placing p, now;
    if (!make(&p, a, arena) || !make(&now, a, arena)) return ERR_MEMORY;
    run_table(&now, a->now);
    err_t e = work_out(&p, arena);
    if (e) return e;
    struct experts_plan plan = {.cost = cost_of(&p), .cost_now = cost_of(&now)};
    // Fewer copies may do the same work; more time they must not take.
    const bool is_better = plan.cost < plan.cost_now || p.n_copy < now.n_copy;
    const struct placing *best = is_better && plan.cost <= plan.cost_now ? &p : &now;
    if (best == &now) plan.cost = plan.cost_now;
    const int64_t n = (int64_t)a->n_layer * a->n_expert;
    for (int64_t i = 0; i < n; i++)
        plan.n_moved += best->owner[i] != now.owner[i];
    e = write_table(best, arena, &plan.table);
    if (!e) *out = plan;
    return e;
}

err_t experts_loads(const struct experts_ask *a, const struct share_experts *table,
                    struct arena *arena, double *load)
{
    struct placing p;
    if (!make(&p, a, arena)) return ERR_MEMORY;
    run_table(&p, table);
    memcpy(load, p.load, (size_t)a->n_layer * MEMBERS * sizeof *load);
    return OK;
}
