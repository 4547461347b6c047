#include "topology/plan_priv.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    CELLS_MAX = 1 << 21, // of the table: 32 MiB
    WORK_MAX = 70000000, // inner steps at worst; mostly a tenth of them is done
    LANE_CODES_MAX = 2048,
};

// What the search does with the costs of stages and hops; COUNT: of devices only.
enum fold { SUM, MAX, COUNT };

// Back pointer of a cell: the stage is run by `unit` and the one before ended in `node` at `layer`.
// node -1: this is the first stage.
struct from {
    int32_t node;
    int16_t layer, unit;
};

// A node is "these devices are used, the last stage's lead is of this class": code * n_class +
// lead. Two ways to number the codes, both ascending along every path:
//   sets:   mixed radix of how many of each class are used, and of how many stages there are where
//           that matters
//   listed: how many devices (or stages) are used, and how far behind its lead the last unit ends;
//           only later devices may follow
struct plan_search {
    const struct cost_model *m;
    const struct cluster *c;
    const struct plan_ask *ask;
    struct plan_units *u;
    int32_t n_layer, n_class, n_code;
    int32_t n_stage_min, n_stage_max;
    int32_t used_max;    // by no more devices
    int32_t unit_size;   // members of every unit, 0: they differ
    bool counts_stages;  // a digit of the code does
    int64_t stage_radix; // of that digit
    int64_t radix[CLUSTER_DEVICES_MAX];
    int32_t reach; // listed: of the last unit behind its lead, at most, and 1
    int64_t hop_ns[CLUSTER_DEVICES_MAX][CLUSTER_DEVICES_MAX]; // PLAN_NONE: not allowed
    int64_t busy_ns[CLUSTER_DEVICES_MAX][CLUSTER_DEVICES_MAX];
    bool prunes;                           // what is worse than `bound` is left out
    int64_t bound;                         // of a complete placement that is known
    int64_t rest_ns[MODEL_LAYERS_MAX + 1]; // the layers from there on take at least
    int64_t rest[MODEL_LAYERS_MAX + 1];    // what they add at least to a path of this fold
    // Work is counted in a measure in which every device does `weight` per nanosecond: the layers
    // from there on are at least so much work, whoever does them.
    double rest_work[MODEL_LAYERS_MAX + 1];
    double weight[CLUSTER_DEVICES_MAX]; // by class
    int64_t *best;                      // [node][layer + 1]
    struct from *from;
    bool *reached; // [code]
};

// ---- numbering

static bool is_bounded(const struct plan_search *s)
{
    return s->n_stage_min > 1 || s->n_stage_max < s->c->n_device;
}

static int32_t size_of_all(const struct plan_units *u)
{
    for (int32_t i = 1; i < u->n; i++)
        if (u->at[i].n_member != u->at[0].n_member) return 0;
    return u->n ? u->at[0].n_member : 1;
}

// The share of all sets after which a unit may still come.
static double room_for(const struct plan_search *s, const struct plan_unit *x)
{
    int32_t need[CLUSTER_DEVICES_MAX] = {0};
    double share = 1;
    for (int32_t i = 0; i < x->n_member; i++) {
        const double n = s->u->classes.n_member[x->class[i]];
        share *= fmax(0, n - need[x->class[i]]) / (n + 1 - need[x->class[i]]);
        need[x->class[i]]++;
    }
    return share;
}

// Inner steps at worst if there are so many codes.
static double work_of(const struct plan_search *s, double n_code)
{
    double n = 0;
    for (int32_t i = 0; i < s->u->n; i++)
        n += s->u->is_listed ? s->n_class / 2.0 : room_for(s, &s->u->at[i]);
    return n_code * n * s->n_layer * s->n_layer / 4;
}

// Number of codes, or -1 if the table or the work would be too large.
static int32_t count_codes(struct plan_search *s)
{
    const struct plan_units *u = s->u;
    int64_t n = 1;
    s->unit_size = size_of_all(u);
    s->counts_stages = is_bounded(s) && !s->unit_size;
    s->n_class = u->classes.n;
    if (u->is_listed) {
        s->reach = 1;
        for (int32_t i = 0; i < u->n; i++)
            if (u->at[i].last - u->at[i].class[0] >= s->reach)
                s->reach = u->at[i].last - u->at[i].class[0] + 1;
        n = (int64_t)(s->c->n_device + 1) * s->reach;
    } else {
        for (int32_t k = 0; k < s->n_class; k++) {
            s->radix[k] = n;
            n *= u->classes.n_member[k] + 1;
            if (n * s->n_class > CELLS_MAX) return -1;
        }
        s->stage_radix = n;
        if (s->counts_stages) n *= s->n_stage_max + 1;
    }
    const bool fits = n * s->n_class * (s->n_layer + 1) <= CELLS_MAX;
    return fits && work_of(s, (double)n) <= WORK_MAX ? (int32_t)n : -1;
}

// The richest choice that can be searched in time: any groups, then smaller ones, then devices in
// the order listed.
static err_t choose_units(struct plan_search *s)
{
    static const struct {
        bool is_listed;
        int32_t largest;
    } ways[] = {
        {false, SHARE_MEMBERS_MAX}, {false, 4}, {false, 2}, {true, 4}, {true, 2}, {true, 1}};
    const int32_t n_way = sizeof ways / sizeof *ways;
    for (int32_t i = 0; i < n_way; i++) {
        err_t e = plan_units_open(s->m, s->c, s->ask, ways[i].is_listed, ways[i].largest, &s->u);
        if (e == ERR_TOO_LARGE) continue;
        if (e) return e;
        s->n_code = count_codes(s);
        if (s->n_code >= 0) return plan_units_fill(s->u);
        plan_units_close(s->u);
        s->u = NULL;
    }
    return ERR_TOO_LARGE;
}

static int32_t digit(const struct plan_search *s, int64_t code, int32_t class)
{
    return (int32_t)(code / s->radix[class] % (s->u->classes.n_member[class] + 1));
}

// Devices used; of a listed code that counts stages, these.
static int32_t n_used(const struct plan_search *s, int32_t code)
{
    if (s->u->is_listed) return code / s->reach;
    int32_t n = 0;
    for (int32_t k = 0; k < s->n_class; k++)
        n += digit(s, code, k);
    return n;
}

// 0: it does not matter.
static int32_t n_stage(const struct plan_search *s, int32_t code)
{
    if (s->counts_stages)
        return s->u->is_listed ? code / s->reach : (int32_t)(code / s->stage_radix);
    return s->unit_size ? n_used(s, code) / s->unit_size : 0;
}

static bool may_end(const struct plan_search *s, int32_t code)
{
    const int32_t n = n_stage(s, code);
    return !n || (n >= s->n_stage_min && n <= s->n_stage_max);
}

// The code after `code`, whose last lead is `lead`, when a unit comes next, or -1. lead -1: nothing
// used yet.
static int32_t next_code(const struct plan_search *s, int32_t code, int32_t lead,
                         const struct plan_unit *x)
{
    if (s->u->is_listed) {
        const int32_t end = lead < 0 ? 0 : lead + 1 + code % s->reach;
        const int32_t n = lead < 0 ? 0 : code / s->reach;
        if (x->first < end) return -1;
        return (n + (s->counts_stages ? 1 : x->n_member)) * s->reach + x->last - x->class[0];
    }
    int64_t to = lead < 0 ? 0 : code;
    for (int32_t i = 0; i < x->n_member; i++) {
        if (digit(s, to, x->class[i]) == s->u->classes.n_member[x->class[i]]) return -1;
        to += s->radix[x->class[i]];
    }
    return (int32_t)(s->counts_stages ? to + s->stage_radix : to);
}

// ---- costs

// Some pair of a class and a class; of one class with a single member there is none.
static void fill_hops(struct plan_search *s, int32_t a, int32_t b)
{
    const struct plan_classes *k = &s->u->classes;
    const struct cost_step step = cost_decode_step(&s->ask->cost);
    s->hop_ns[a][b] = s->busy_ns[a][b] = PLAN_NONE;
    if (a == b && k->n_member[a] < 2) return;
    const struct cluster_link *l = &s->c->links[k->member[a][0]][k->member[b][a == b ? 1 : 0]];
    const double max_us = s->ask->hop_us_max > 0 ? s->ask->hop_us_max : PLAN_HOP_US;
    if (l->bytes_per_s <= 0 || l->latency_us > max_us) return;
    s->hop_ns[a][b] = cost_hop_ns(s->m, l, &step);
    s->busy_ns[a][b] = cost_hop_busy_ns(s->m, l, &step);
}

static double weight_of(const struct plan_search *s, const struct plan_unit *x)
{
    double sum = 0;
    for (int32_t i = 0; i < x->n_member; i++)
        sum += s->weight[x->class[i]];
    return sum;
}

static void fill_rest(struct plan_search *s)
{
    for (int32_t k = 0; k < s->n_class; k++)
        s->weight[k] = s->c->devices[s->u->classes.member[k][0]].read_bytes_per_s;
    for (int32_t l = s->n_layer - 1; l >= 0; l--) {
        int64_t least = PLAN_NONE;
        double least_work = INFINITY;
        for (int32_t i = 0; i < s->u->n; i++) {
            const struct plan_unit *x = &s->u->at[i];
            const int64_t ns = x->layers_ns[l + 1] - x->layers_ns[l];
            if (ns < least) least = ns;
            least_work = fmin(least_work, (double)ns * weight_of(s, x));
        }
        s->rest_ns[l] = s->rest_ns[l + 1] + (s->u->n ? least : 0);
        s->rest_work[l] = s->rest_work[l + 1] + (s->u->n ? least_work : 0);
    }
}

// Of the devices that a code leaves after a unit. In a listed code those behind it.
static double weight_left(const struct plan_search *s, int32_t code, const struct plan_unit *x)
{
    double left = 0;
    for (int32_t k = s->u->is_listed ? x->last + 1 : 0; k < s->n_class; k++)
        left +=
            s->weight[k] * (s->u->classes.n_member[k] - (s->u->is_listed ? 0 : digit(s, code, k)));
    return left;
}

// ---- the search

// Paths that end where the next unit could begin, the best of each layer.
struct entry {
    int64_t ns[MODEL_LAYERS_MAX + 1]; // hop to the unit included
    int32_t node[MODEL_LAYERS_MAX + 1];
    int32_t first, last; // layers with any
};

static int64_t folded(enum fold fold, int64_t a, int64_t b)
{
    return fold != MAX ? a + b : a > b ? a : b;
}

// The first layer that a path must have reached when it comes to `code`, or the devices that are
// left could not do the rest with no stage over `limit`.
static int32_t least_reach(const struct plan_search *s, int64_t limit, int32_t code,
                           const struct plan_unit *x)
{
    if (limit == PLAN_NONE) return 0;
    const double most = (double)limit * weight_left(s, code, x) * (1 + 1e-9);
    int32_t lo = 0, hi = s->n_layer;
    while (lo < hi) {
        const int32_t mid = lo + (hi - lo) / 2;
        if (s->rest_work[mid] <= most)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

// All stages of a unit after the paths of `e`, which make `to_code`. No stage over `limit`.
static void extend(struct plan_search *s, enum fold fold, int64_t limit, int32_t unit,
                   int32_t to_code, const struct entry *e)
{
    const struct plan_unit *x = &s->u->at[unit];
    const int64_t *sums = x->layers_ns;
    const int32_t n = s->n_layer, to_node = to_code * s->n_class + x->class[0];
    int64_t *best = &s->best[(int64_t)to_node * (n + 1)];
    struct from *back = &s->from[(int64_t)to_node * (n + 1)];
    if (fold == MAX && s->bound < limit) limit = s->bound;
    const int32_t to_min = least_reach(s, limit, to_code, x);
    // What codes count.
    const int64_t count = s->u->is_listed && s->counts_stages ? 1 : x->n_member;
    s->reached[to_code] = true;
    for (int32_t f = e->first; f <= e->last; f++) {
        const int64_t before = e->ns[f], base = sums[f] - (f == 0 ? x->embed_ns : 0);
        if (before == PLAN_NONE) continue;
        const struct from from = {e->node[f], (int16_t)f, (int16_t)unit};
        const int32_t to_max = x->to_max[f] < n ? x->to_max[f] : n - 1;
        for (int32_t to = to_min > f ? to_min : f + 1; to <= to_max; to++) {
            const int64_t own = sums[to] - base;
            const int64_t t = folded(fold, before, fold == COUNT ? count : own);
            if (own > limit || t + s->rest[to] > s->bound) break;
            if (t >= best[to]) continue;
            best[to] = t;
            back[to] = from;
        }
        const int64_t own = sums[n] - base + x->head_ns;
        const int64_t t = folded(fold, before, fold == COUNT ? count : own);
        if (!x->fits_last[f] || own > limit || t >= best[n]) continue;
        best[n] = t;
        back[n] = from;
        if (s->prunes && t < s->bound && may_end(s, to_code)) s->bound = t;
    }
}

// Paths of a code whose last lead is of class [from, to), with the hop to a unit.
static bool enter(const struct plan_search *s, enum fold fold, int64_t limit, int32_t code,
                  int32_t from, int32_t to, const struct plan_unit *x, struct entry *e)
{
    const int32_t n = s->n_layer, b = x->class[0];
    for (int32_t l = 0; l <= n; l++)
        e->ns[l] = PLAN_NONE;
    e->first = n;
    e->last = 0;
    for (int32_t a = from; a < to; a++) {
        if (s->hop_ns[a][b] == PLAN_NONE) continue;
        const int64_t frame = s->busy_ns[a][b], busy = frame * x->n_dense;
        const int64_t hop = fold == SUM ? s->hop_ns[a][b] + busy - frame : fold == MAX ? busy : 0;
        const int64_t *best = &s->best[((int64_t)code * s->n_class + a) * (n + 1)];
        if (busy > limit) continue;
        for (int32_t l = 1; l < n; l++) {
            if (best[l] == PLAN_NONE || folded(fold, best[l], hop) >= e->ns[l]) continue;
            e->ns[l] = folded(fold, best[l], hop);
            e->node[l] = code * s->n_class + a;
            if (l < e->first) e->first = l;
            if (l > e->last) e->last = l;
        }
    }
    return e->first <= e->last;
}

// Everything that can follow a code whose last lead is of class [from, to).
static void follow(struct plan_search *s, enum fold fold, int64_t limit, int32_t code, int32_t from,
                   int32_t to)
{
    struct entry e;
    const struct plan_unit *of = NULL;
    bool any = false;
    for (int32_t i = 0; i < s->u->n; i++) {
        const struct plan_unit *x = &s->u->at[i];
        const int32_t to_code = next_code(s, code, from, x);
        if (to_code < 0 || n_used(s, to_code) > s->used_max) continue;
        if (!of || of->class[0] != x->class[0] || of->n_dense != x->n_dense)
            any = enter(s, fold, limit, code, from, to, of = x, &e);
        if (any) extend(s, fold, limit, i, to_code, &e);
    }
}

// Fills best and from. No stage and no busy link over `limit`.
static void search_run(struct plan_search *s, enum fold fold, int64_t limit)
{
    const int32_t n = s->n_layer, step = s->u->is_listed ? 1 : s->n_class;
    struct entry start = {.ns = {0}, .node = {-1}};
    s->bound = PLAN_NONE;
    for (int32_t l = 0; l <= n; l++)
        s->rest[l] = fold == SUM                           ? s->rest_ns[l]
                     : fold == COUNT && limit != PLAN_NONE ? s->rest_ns[l] / (limit > 0 ? limit : 1)
                                                           : 0;
    memset(s->reached, 0, (size_t)s->n_code * sizeof *s->reached);
    for (int64_t i = 0; i < (int64_t)s->n_code * s->n_class * (n + 1); i++)
        s->best[i] = PLAN_NONE;
    for (int32_t i = 0; i < s->u->n; i++) {
        const int32_t code = next_code(s, 0, -1, &s->u->at[i]);
        if (n_used(s, code) <= s->used_max) extend(s, fold, limit, i, code, &start);
    }
    for (int32_t code = 0; code < s->n_code; code++) {
        if (!s->reached[code] || n_stage(s, code) >= s->n_stage_max) continue;
        if (n_used(s, code) >= s->used_max) continue;
        for (int32_t lead = 0; lead < s->n_class; lead += step)
            follow(s, fold, limit, code, lead, lead + step);
    }
}

static int64_t whole_ns(const struct plan_search *s, int32_t node)
{
    return s->best[(int64_t)node * (s->n_layer + 1) + s->n_layer];
}

// The complete placement with the smallest (value, devices); -1 if none.
static int32_t best_node(const struct plan_search *s)
{
    int32_t found = -1, found_used = 0;
    int64_t found_ns = PLAN_NONE;
    for (int32_t node = 0; node < s->n_code * s->n_class; node++) {
        const int32_t code = node / s->n_class;
        const int64_t ns = whole_ns(s, node);
        if (ns == PLAN_NONE || !may_end(s, code)) continue;
        const int32_t used = n_used(s, code);
        if (ns > found_ns || (ns == found_ns && used >= found_used)) continue;
        found = node;
        found_used = used;
        found_ns = ns;
    }
    return found;
}

// The shortest placement on as few devices as there are placements for, no stage over `limit`.
static int32_t fewest_devices(struct plan_search *s, int64_t limit)
{
    search_run(s, COUNT, limit);
    int32_t node = best_node(s);
    if (node < 0) return -1;
    s->used_max = (int32_t)whole_ns(s, node);
    search_run(s, SUM, limit);
    node = best_node(s);
    s->used_max = s->c->n_device;
    return node;
}

// Equal bottlenecks are told apart by number of devices, then by latency: a second search below the
// first one's result, because a maximum alone forgets its smaller parts.
static int32_t search_goal(struct plan_search *s)
{
    s->prunes = true;
    if (s->ask->goal == PLAN_FIT) return fewest_devices(s, PLAN_NONE);
    search_run(s, s->ask->goal == PLAN_THROUGHPUT ? MAX : SUM, PLAN_NONE);
    const int32_t node = best_node(s);
    if (node < 0 || s->ask->goal != PLAN_THROUGHPUT) return node;
    return fewest_devices(s, whole_ns(s, node));
}

// ---- the result

// Walks back from the last stage; devices of a class are taken in the order they are listed.
static void place_stages(const struct plan_search *s, int32_t node, struct plan *p)
{
    int16_t units[CLUSTER_DEVICES_MAX];
    int32_t taken[CLUSTER_DEVICES_MAX] = {0}, to = s->n_layer;
    for (int32_t at = node; at >= 0; p->n_stage++) {
        const struct from f = s->from[(int64_t)at * (s->n_layer + 1) + to];
        units[p->n_stage] = f.unit;
        p->stages[p->n_stage] = (struct plan_stage){.layer_from = f.layer, .layer_to = to};
        at = f.node;
        to = f.layer;
    }
    for (int32_t i = 0; i < p->n_stage / 2; i++) {
        const struct plan_stage stage = p->stages[i];
        const int16_t unit = units[i];
        p->stages[i] = p->stages[p->n_stage - 1 - i];
        units[i] = units[p->n_stage - 1 - i];
        p->stages[p->n_stage - 1 - i] = stage;
        units[p->n_stage - 1 - i] = unit;
    }
    for (int32_t i = 0; i < p->n_stage; i++) {
        const struct plan_unit *x = &s->u->at[units[i]];
        p->stages[i].split = x->split;
        p->stages[i].n_member = x->n_member;
        for (int32_t k = 0; k < x->n_member; k++) {
            const int32_t class = x->class[k];
            p->stages[i].members[k] = (struct plan_member){
                .device = s->u->classes.member[class][taken[class]++], .part = x->part[k]};
        }
    }
}

bool plan_search_best(struct plan_search *s, struct plan *out)
{
    const int32_t node = search_goal(s);
    if (node < 0) return false;
    memset(out, 0, sizeof *out);
    out->goal = s->ask->goal;
    out->order_as_listed = s->u->is_listed;
    place_stages(s, node, out);
    return true;
}

// ---- lanes

// Steps per second of a set of devices, its longest stage deciding.
static double rate_of(const struct plan_search *s, int32_t code)
{
    int64_t ns = PLAN_NONE;
    for (int32_t a = 0; a < s->n_class; a++) {
        const int64_t t = whole_ns(s, code * s->n_class + a);
        if (t < ns) ns = t;
    }
    return ns == PLAN_NONE ? 0 : 1e9 / (double)(ns > 0 ? ns : 1);
}

static bool is_subset(const struct plan_search *s, int32_t part, int32_t code)
{
    for (int32_t k = 0; k < s->n_class; k++)
        if (digit(s, part, k) > digit(s, code, k)) return false;
    return true;
}

// best[code]: the most that the devices of a code give, and the set that is one lane of it.
static void best_lanes(const struct plan_search *s, double *best, int32_t *lane)
{
    for (int32_t code = 0; code < s->n_code; code++) {
        best[code] = 0;
        lane[code] = 0;
        for (int32_t part = 1; part <= code; part++) {
            if (!s->reached[part] || !is_subset(s, part, code)) continue;
            const double rate = rate_of(s, part);
            if (!(rate > 0) || rate + best[code - part] <= best[code]) continue;
            best[code] = rate + best[code - part];
            lane[code] = part;
        }
    }
}

static int32_t deal_lanes(const struct plan_search *s, const int32_t *lane_of_code, int32_t *lane)
{
    int32_t taken[CLUSTER_DEVICES_MAX] = {0}, n = 0;
    int32_t code = s->n_code - 1;
    for (; lane_of_code[code]; code -= lane_of_code[code], n++)
        for (int32_t k = 0; k < s->n_class; k++)
            for (int32_t i = 0; i < digit(s, lane_of_code[code], k); i++)
                lane[s->u->classes.member[k][taken[k]++]] = n;
    return n;
}

// Too many sets to try: whoever can hold the model alone is a lane, the rest together another.
static int32_t lanes_as_listed(const struct plan_search *s, int32_t *lane)
{
    int32_t n = 0, n_rest = 0;
    for (int32_t i = 0; i < s->u->n; i++)
        if (s->u->at[i].n_member == 1 && s->u->at[i].fits_last[0])
            for (int32_t d = 0; d < s->c->n_device; d++)
                if (s->u->classes.of[d] == s->u->at[i].class[0]) lane[d] = n++;
    for (int32_t d = 0; d < s->c->n_device; d++)
        if (lane[d] < 0) {
            lane[d] = n;
            n_rest++;
        }
    return n_rest ? n + 1 : n;
}

int32_t plan_search_lanes(struct plan_search *s, int32_t *lane)
{
    for (int32_t i = 0; i < s->c->n_device; i++)
        lane[i] = -1;
    if (s->u->is_listed || s->n_code > LANE_CODES_MAX || s->counts_stages)
        return lanes_as_listed(s, lane);
    double best[LANE_CODES_MAX];
    int32_t lane_of_code[LANE_CODES_MAX];
    s->prunes = false; // every set counts
    search_run(s, MAX, PLAN_NONE);
    best_lanes(s, best, lane_of_code);
    return deal_lanes(s, lane_of_code, lane);
}

// ---- opening

err_t plan_search_open(const struct cost_model *m, const struct cluster *c,
                       const struct plan_ask *ask, struct plan_search **out)
{
    struct plan_search *s = calloc(1, sizeof *s);
    if (!s) return ERR_MEMORY;
    s->m = m;
    s->c = c;
    s->ask = ask;
    s->n_layer = m->n_layer;
    s->n_stage_min = ask->n_stage_min > 1 ? ask->n_stage_min : 1;
    s->n_stage_max = c->n_device;
    s->used_max = c->n_device;
    if (ask->n_stage_max > 0 && ask->n_stage_max < c->n_device) s->n_stage_max = ask->n_stage_max;
    err_t e = choose_units(s);
    if (e) {
        plan_search_close(s);
        return e;
    }
    const size_t cells = (size_t)s->n_code * (size_t)s->n_class * ((size_t)m->n_layer + 1);
    s->best = calloc(cells, sizeof *s->best);
    s->from = calloc(cells, sizeof *s->from);
    s->reached = calloc((size_t)s->n_code, sizeof *s->reached);
    if (!s->best || !s->from || !s->reached) {
        plan_search_close(s);
        return ERR_MEMORY;
    }
    for (int32_t a = 0; a < s->n_class; a++)
        for (int32_t b = 0; b < s->n_class; b++)
            fill_hops(s, a, b);
    fill_rest(s);
    *out = s;
    return OK;
}

void plan_search_close(struct plan_search *s)
{
    if (s->u) plan_units_close(s->u);
    free(s->best);
    free(s->from);
    free(s->reached);
    free(s);
}
