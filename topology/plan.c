#include "topology/plan.h"

#include "topology/sha256.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CELLS_MAX = 1 << 21,  // of the table: 32 MiB
    WORK_MAX = 400000000, // inner steps: about half a second
};
static const int64_t NONE = INT64_MAX; // no placement

// What the search does with the costs of stages and hops.
enum fold { SUM, MAX };

// Back pointer of a cell: the stage before ended there. node -1: this is the first stage.
struct from {
    int32_t node, layer;
};

// A node is "these devices are used, this one last". Two ways to number them, both ascending along
// every path:
//   sets:   how many of each class are used (mixed radix `code`), and the last class
//   listed: how many devices are used, and the last device; only later ones may follow
struct search {
    const struct cost_model *m;
    const struct cluster *c;
    const struct plan_ask *ask;
    int32_t n_layer, n_class, n_node;
    bool listed;
    int32_t n_stage_min, n_stage_max;
    int32_t member[CLUSTER_DEVICES_MAX][CLUSTER_DEVICES_MAX]; // devices of a class
    int32_t n_member[CLUSTER_DEVICES_MAX];
    int64_t radix[CLUSTER_DEVICES_MAX];
    int64_t embed_ns[CLUSTER_DEVICES_MAX], head_ns[CLUSTER_DEVICES_MAX];
    uint64_t room[CLUSTER_DEVICES_MAX];                       // free bytes less the reserve
    int64_t hop_ns[CLUSTER_DEVICES_MAX][CLUSTER_DEVICES_MAX]; // NONE: not allowed
    int64_t busy_ns[CLUSTER_DEVICES_MAX][CLUSTER_DEVICES_MAX];
    int64_t *layers_ns; // [class][layer + 1], sums from layer 0
    uint64_t *need;     // [from][to], bytes of a stage without the reserve
    int64_t *best;      // [node][layer + 1]
    struct from *from;
};

// ---- classes

static bool same_figures(const struct cluster_device *a, const struct cluster_device *b)
{
    return a->mem_free_bytes == b->mem_free_bytes && cost_reserve(a) == cost_reserve(b) &&
           a->read_bytes_per_s == b->read_bytes_per_s && a->int8_ops_per_s == b->int8_ops_per_s &&
           a->f32_flops_per_s == b->f32_flops_per_s;
}

static bool same_link(const struct cluster_link *a, const struct cluster_link *b)
{
    return a->latency_us == b->latency_us && a->bytes_per_s == b->bytes_per_s;
}

// Exchanging the two leaves the cluster as it is.
static bool are_alike(const struct cluster *c, int32_t a, int32_t b)
{
    if (!same_figures(&c->devices[a], &c->devices[b])) return false;
    if (!same_link(&c->links[a][b], &c->links[b][a])) return false;
    for (int32_t i = 0; i < c->n_device; i++)
        if (i != a && i != b &&
            (!same_link(&c->links[a][i], &c->links[b][i]) ||
             !same_link(&c->links[i][a], &c->links[i][b])))
            return false;
    return true;
}

static void find_classes(struct search *s, bool each_its_own)
{
    s->n_class = 0;
    for (int32_t i = 0; i < s->c->n_device; i++) {
        int32_t k = each_its_own ? s->n_class : 0;
        while (k < s->n_class && !are_alike(s->c, s->member[k][0], i))
            k++;
        if (k == s->n_class) s->n_member[s->n_class++] = 0;
        s->member[k][s->n_member[k]++] = i;
    }
}

// Nodes of the numbering by sets, or -1 if the table or the work would be too large.
static int32_t count_sets(struct search *s)
{
    int64_t n = 1, work_per_node = (int64_t)s->n_class * s->n_layer * s->n_layer / 2;
    for (int32_t k = 0; k < s->n_class; k++) {
        s->radix[k] = n;
        n *= s->n_member[k] + 1;
        if (n * s->n_class > CELLS_MAX) return -1;
    }
    n *= s->n_class;
    bool fits = n * (s->n_layer + 1) <= CELLS_MAX && n * work_per_node <= WORK_MAX;
    return fits ? (int32_t)n : -1;
}

static void choose_numbering(struct search *s)
{
    find_classes(s, false);
    s->n_node = count_sets(s);
    if (s->n_node >= 0) return;
    s->listed = true;
    find_classes(s, true);
    s->n_node = s->n_class * s->n_class;
}

static int32_t class_of(const struct search *s, int32_t node)
{
    return node % s->n_class;
}

static int32_t n_used(const struct search *s, int32_t node)
{
    if (s->listed) return node / s->n_class + 1;
    int64_t code = node / s->n_class;
    int32_t n = 0;
    for (int32_t k = 0; k < s->n_class; k++)
        n += (int32_t)(code / s->radix[k] % (s->n_member[k] + 1));
    return n;
}

// The node after `node` (-1: nothing used yet) when class k comes next, or -1.
static int32_t next_node(const struct search *s, int32_t node, int32_t k)
{
    if (s->listed) {
        if (node < 0) return k;
        return k > class_of(s, node) ? (node / s->n_class + 1) * s->n_class + k : -1;
    }
    int64_t code = node < 0 ? 0 : node / s->n_class;
    if (code / s->radix[k] % (s->n_member[k] + 1) == s->n_member[k]) return -1;
    return (int32_t)(code + s->radix[k]) * s->n_class + k;
}

// ---- costs

// Some pair of a class and a class; of one class with a single member there is none.
static void fill_hops(struct search *s, int32_t a, int32_t b, const struct cost_step *step)
{
    s->hop_ns[a][b] = s->busy_ns[a][b] = NONE;
    if (a == b && s->n_member[a] < 2) return;
    const struct cluster_link *l = &s->c->links[s->member[a][0]][s->member[b][a == b ? 1 : 0]];
    double max_us = s->ask->hop_us_max > 0 ? s->ask->hop_us_max : PLAN_HOP_US;
    if (l->bytes_per_s <= 0 || l->latency_us > max_us) return;
    s->hop_ns[a][b] = cost_hop_ns(s->m, l, step);
    s->busy_ns[a][b] = cost_hop_busy_ns(s->m, l, step);
}

static uint64_t need_of(const struct search *s, int32_t from, int32_t to)
{
    struct cost_memory c = cost_memory_of(s->m, &s->ask->cost, &s->c->devices[0], from, to);
    return cost_memory_sum(&c) - c.reserve;
}

static uint64_t room_of(const struct cluster_device *d)
{
    uint64_t reserve = cost_reserve(d);
    return d->mem_free_bytes > reserve ? d->mem_free_bytes - reserve : 0;
}

static void fill_costs(struct search *s)
{
    struct cost_step step = cost_decode_step(&s->ask->cost);
    int32_t n = s->n_layer;
    for (int32_t from = 0; from < n; from++)
        for (int32_t to = from + 1; to <= n; to++)
            s->need[from * (n + 1) + to] = need_of(s, from, to);
    for (int32_t k = 0; k < s->n_class; k++) {
        const struct cluster_device *d = &s->c->devices[s->member[k][0]];
        int64_t *sum = &s->layers_ns[k * (n + 1)];
        for (int32_t l = 0; l < n; l++)
            sum[l + 1] = sum[l] + cost_layer_ns(s->m, d, &step, l);
        s->embed_ns[k] = cost_embed_ns(s->m, d, &step);
        s->head_ns[k] = cost_head_ns(s->m, d, &step);
        s->room[k] = room_of(d);
        for (int32_t b = 0; b < s->n_class; b++)
            fill_hops(s, k, b, &step);
    }
}

static int64_t stage_ns(const struct search *s, int32_t k, int32_t from, int32_t to)
{
    const int64_t *sum = &s->layers_ns[k * (s->n_layer + 1)];
    return sum[to] - sum[from] + (from == 0 ? s->embed_ns[k] : 0) +
           (to == s->n_layer ? s->head_ns[k] : 0);
}

// ---- the search

// All stages [layer, to) on class k, which makes `to_node`, after a path that costs `before`.
static void extend(struct search *s, enum fold fold, int64_t limit, int32_t to_node,
                   struct from from, int64_t before)
{
    int32_t k = class_of(s, to_node), n = s->n_layer;
    const uint64_t *need = &s->need[from.layer * (n + 1)];
    int64_t *best = &s->best[(int64_t)to_node * (n + 1)];
    struct from *back = &s->from[(int64_t)to_node * (n + 1)];
    for (int32_t to = from.layer + 1; to <= n && need[to] <= s->room[k]; to++) {
        int64_t t = stage_ns(s, k, from.layer, to);
        if (t > limit) break; // longer ones take longer
        t = fold == SUM ? before + t : before > t ? before : t;
        if (t >= best[to]) continue;
        best[to] = t;
        back[to] = from;
    }
}

// Fills best and from. No stage and no busy link over `limit`.
static void search_run(struct search *s, enum fold fold, int64_t limit)
{
    int32_t n = s->n_layer;
    for (int64_t i = 0; i < (int64_t)s->n_node * (n + 1); i++)
        s->best[i] = NONE;
    for (int32_t k = 0; k < s->n_class; k++)
        extend(s, fold, limit, next_node(s, -1, k), (struct from){-1, 0}, 0);
    for (int32_t node = 0; node < s->n_node; node++) {
        int32_t k = class_of(s, node);
        if (s->n_stage_max <= n_used(s, node)) continue;
        for (int32_t b = 0; b < s->n_class; b++) {
            int32_t to_node = next_node(s, node, b);
            if (to_node < 0 || s->hop_ns[k][b] == NONE || s->busy_ns[k][b] > limit) continue;
            for (int32_t layer = 1; layer < n; layer++) {
                int64_t t = s->best[(int64_t)node * (n + 1) + layer];
                if (t == NONE) continue;
                int64_t hop = fold == SUM            ? t + s->hop_ns[k][b]
                              : t > s->busy_ns[k][b] ? t
                                                     : s->busy_ns[k][b];
                extend(s, fold, limit, to_node, (struct from){node, layer}, hop);
            }
        }
    }
}

// The complete placement with the smallest (value, stages), or (stages, value); -1 if none.
static int32_t search_best(const struct search *s, bool stages_first)
{
    int32_t found = -1, found_used = 0;
    int64_t found_ns = NONE;
    for (int32_t node = 0; node < s->n_node; node++) {
        int64_t ns = s->best[(int64_t)node * (s->n_layer + 1) + s->n_layer];
        int32_t used = n_used(s, node);
        if (ns == NONE || used < s->n_stage_min || used > s->n_stage_max) continue;
        bool better = ns < found_ns || (ns == found_ns && used < found_used);
        if (stages_first)
            better = found < 0 || used < found_used || (used == found_used && ns < found_ns);
        if (!better) continue;
        found = node;
        found_used = used;
        found_ns = ns;
    }
    return found;
}

// Equal bottlenecks are told apart by number of stages, then by latency: a second search below the
// first one's result, because a maximum alone forgets its smaller parts.
static int32_t search_goal(struct search *s)
{
    if (s->ask->goal != PLAN_THROUGHPUT) {
        search_run(s, SUM, NONE);
        return search_best(s, s->ask->goal == PLAN_FIT);
    }
    search_run(s, MAX, NONE);
    int32_t node = search_best(s, false);
    if (node < 0) return -1;
    search_run(s, SUM, s->best[(int64_t)node * (s->n_layer + 1) + s->n_layer]);
    return search_best(s, true);
}

static void search_free(struct search *s)
{
    free(s->layers_ns);
    free(s->need);
    free(s->best);
    free(s->from);
    free(s);
}

static err_t search_new(const struct cost_model *m, const struct cluster *c,
                        const struct plan_ask *ask, struct search **out)
{
    struct search *s = calloc(1, sizeof *s);
    if (!s) return ERR_MEMORY;
    s->m = m;
    s->c = c;
    s->ask = ask;
    s->n_layer = m->n_layer;
    s->n_stage_min = ask->n_stage_min > 1 ? ask->n_stage_min : 1;
    s->n_stage_max = ask->n_stage_max > 0 ? ask->n_stage_max : c->n_device;
    choose_numbering(s);
    size_t row = (size_t)m->n_layer + 1;
    s->layers_ns = calloc((size_t)s->n_class * row, sizeof *s->layers_ns);
    s->need = calloc(row * row, sizeof *s->need);
    s->best = calloc((size_t)s->n_node * row, sizeof *s->best);
    s->from = calloc((size_t)s->n_node * row, sizeof *s->from);
    if (!s->layers_ns || !s->need || !s->best || !s->from) {
        search_free(s);
        return ERR_MEMORY;
    }
    fill_costs(s);
    *out = s;
    return OK;
}

// ---- the result

static void plan_hash(const struct cost_model *m, const struct cluster *c,
                      const struct plan_ask *ask, struct plan *p)
{
    struct sha256 sha;
    char line[256];
    sha256_init(&sha);
    sha256_add(&sha, m->hash, sizeof m->hash);
    const struct cost_ask *a = &ask->cost;
    int len = snprintf(line, sizeof line, "kv %lld, %lld x %u states %d batch %d chunk %d\n",
                       (long long)a->kv_tokens, (long long)a->local_tokens, a->kv_elem_bytes,
                       a->n_state, a->batch, a->chunk);
    sha256_add(&sha, line, (size_t)len);
    for (int32_t i = 0; i < p->n_stage; i++) {
        const struct plan_stage *st = &p->stages[i];
        len = snprintf(line, sizeof line, "%.31s %d %d\n", c->devices[st->members[0].device].name,
                       st->layer_from, st->layer_to);
        sha256_add(&sha, line, (size_t)len);
    }
    sha256_end(&sha, p->hash);
}

static double us_of(int64_t ns)
{
    return (double)ns / 1000;
}

static double step_us(const struct cost_model *m, const struct cluster_device *d,
                      const struct cost_step *step, int32_t from, int32_t to)
{
    int64_t ns = from == 0 ? cost_embed_ns(m, d, step) : 0;
    for (int32_t l = from; l < to; l++)
        ns += cost_layer_ns(m, d, step, l);
    return us_of(ns + (to == m->n_layer ? cost_head_ns(m, d, step) : 0));
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

// Memory, times and rates of a plan whose stages are placed.
static void fill_figures(const struct cost_model *m, const struct cluster *c,
                         const struct plan_ask *ask, struct plan *p)
{
    struct cost_step decode = cost_decode_step(&ask->cost), fill = cost_prefill_step(&ask->cost);
    double fill_longest = 0;
    for (int32_t i = 0; i < p->n_stage; i++) {
        struct plan_stage *st = &p->stages[i];
        struct plan_member *lead = &st->members[0];
        const struct cluster_device *d = &c->devices[lead->device];
        lead->memory = cost_memory_of(m, &ask->cost, d, st->layer_from, st->layer_to);
        st->decode_us = step_us(m, d, &decode, st->layer_from, st->layer_to);
        st->prefill_us = step_us(m, d, &fill, st->layer_from, st->layer_to);
        lead->decode_us = st->decode_us;
        lead->prefill_us = st->prefill_us;
        p->bottleneck_us = larger(p->bottleneck_us, st->decode_us);
        fill_longest = larger(fill_longest, st->prefill_us);
        if (i + 1 < p->n_stage) {
            const struct cluster_link *l =
                &c->links[lead->device][p->stages[i + 1].members[0].device];
            st->hop_us = us_of(cost_hop_ns(m, l, &decode));
            p->bottleneck_us = larger(p->bottleneck_us, us_of(cost_hop_busy_ns(m, l, &decode)));
            p->prefill_us += us_of(cost_hop_ns(m, l, &fill));
            fill_longest = larger(fill_longest, us_of(cost_hop_busy_ns(m, l, &fill)));
        }
        p->decode_us += st->decode_us + st->hop_us;
        p->prefill_us += st->prefill_us;
    }
    p->stream_tok_s = 1e6 / larger(p->decode_us, 1e-3);
    p->total_tok_s = 1e6 * ask->cost.batch / larger(p->bottleneck_us, 1e-3);
    p->prefill_tok_s = 1e6 * ask->cost.chunk / larger(fill_longest, 1e-3);
    plan_hash(m, c, ask, p);
}

// Walks back from the last stage; devices of a class are taken in the order they are listed.
static void fill_stages(const struct search *s, int32_t node, struct plan *p)
{
    int32_t taken[CLUSTER_DEVICES_MAX] = {0}, to = s->n_layer;
    p->n_stage = n_used(s, node);
    for (int32_t i = p->n_stage - 1; i >= 0; i--) {
        struct from f = s->from[(int64_t)node * (s->n_layer + 1) + to];
        p->stages[i] = (struct plan_stage){
            .layer_from = f.layer,
            .layer_to = to,
            .split = SPLIT_NONE,
            .n_member = 1,
            .members = {{.device = class_of(s, node), .part = SHARE_TOTAL}},
        };
        node = f.node;
        to = f.layer;
    }
    for (int32_t i = 0; i < p->n_stage; i++) {
        struct plan_member *lead = &p->stages[i].members[0];
        lead->device = s->member[lead->device][taken[lead->device]++];
    }
}

// ---- why not

static uint64_t best_sum_of_rooms(const struct cluster *c)
{
    uint64_t sum = 0;
    for (int32_t i = 0; i < c->n_device; i++)
        sum += room_of(&c->devices[i]);
    return sum;
}

static err_t say_none(const struct cost_model *m, const struct cluster *c,
                      const struct plan_ask *ask, struct err_text *why)
{
    struct cost_memory all = cost_memory_of(m, &ask->cost, &c->devices[0], 0, m->n_layer);
    uint64_t need = cost_memory_sum(&all) - all.reserve, room = best_sum_of_rooms(c);
    if (need > room)
        return err_say(
            why, ERR_CAPACITY,
            "the model does not fit: weights %llu + kv %llu + state %llu + workspace %llu "
            "bytes, "
            "%d devices have %llu free beyond their reserve: short by %llu bytes",
            (unsigned long long)all.weights, (unsigned long long)all.kv,
            (unsigned long long)all.state, (unsigned long long)all.workspace, c->n_device,
            (unsigned long long)room, (unsigned long long)(need - room));
    return err_say(why, ERR_CAPACITY,
                   "no placement of %d layers on %d devices in %d to %d stages: no cut fits every "
                   "device's memory over links of at most %.0f us, though %llu bytes are free in "
                   "all and %llu needed",
                   m->n_layer, c->n_device, ask->n_stage_min > 1 ? ask->n_stage_min : 1,
                   ask->n_stage_max > 0 ? ask->n_stage_max : c->n_device,
                   ask->hop_us_max > 0 ? ask->hop_us_max : PLAN_HOP_US, (unsigned long long)room,
                   (unsigned long long)need);
}

static err_t check_ask(const struct cost_model *m, const struct cluster *c,
                       const struct plan_ask *ask, struct err_text *why)
{
    if (m->n_layer < 1 || m->n_layer > MODEL_LAYERS_MAX)
        return err_say(why, ERR_INVALID, "a model of %d layers, allowed 1 to %d", m->n_layer,
                       MODEL_LAYERS_MAX);
    if (cluster_check(c, why)) return ERR_INVALID;
    err_t e = cost_ask_check(&ask->cost, why);
    if (e) return e;
    int32_t most = c->n_device < m->n_layer ? c->n_device : m->n_layer;
    if (ask->n_stage_min > most || ask->n_stage_min < 0 || ask->n_stage_max < 0 ||
        (ask->n_stage_max && ask->n_stage_max < ask->n_stage_min))
        return err_say(why, ERR_INVALID, "%d to %d stages, allowed 1 to %d", ask->n_stage_min,
                       ask->n_stage_max, most);
    if (!(ask->hop_us_max >= 0))
        return err_say(why, ERR_INVALID, "links of at most %g us, allowed 0 and above",
                       ask->hop_us_max);
    return OK;
}

err_t plan_make(const struct cost_model *m, const struct cluster *c, const struct plan_ask *ask,
                struct plan *out, struct err_text *why)
{
    struct search *s = NULL;
    err_t e = check_ask(m, c, ask, why);
    if (e) return e;
    if ((e = search_new(m, c, ask, &s))) return err_say(why, e, "no memory for planning");
    int32_t node = search_goal(s);
    if (node < 0) {
        e = say_none(m, c, ask, why);
    } else {
        struct plan p = {.goal = ask->goal, .order_as_listed = s->listed};
        fill_stages(s, node, &p);
        fill_figures(m, c, ask, &p);
        *out = p;
    }
    search_free(s);
    return e;
}
