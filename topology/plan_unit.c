#include "topology/plan_priv.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

uint64_t plan_room(const struct cluster_device *d)
{
    uint64_t reserve = cost_reserve(d);
    return d->mem_free_bytes > reserve ? d->mem_free_bytes - reserve : 0;
}

// ---- classes

static bool same_rates(const struct rates *a, const struct rates *b)
{
    if (a->n_type != b->n_type) return false;
    if (!a->n_type) return true;
    return a->attn_one_flops_per_s == b->attn_one_flops_per_s &&
           a->attn_many_flops_per_s == b->attn_many_flops_per_s && a->product_us == b->product_us &&
           a->layer_us == b->layer_us && a->float_ns == b->float_ns && a->seq_us == b->seq_us &&
           a->logit_ns == b->logit_ns &&
           memcmp(a->types, b->types, (size_t)a->n_type * sizeof *a->types) == 0;
}

static bool same_figures(const struct cluster_device *a, const struct cluster_device *b)
{
    return a->mem_free_bytes == b->mem_free_bytes && cost_reserve(a) == cost_reserve(b) &&
           a->read_bytes_per_s == b->read_bytes_per_s && a->int8_ops_per_s == b->int8_ops_per_s &&
           a->f32_flops_per_s == b->f32_flops_per_s && same_rates(&a->rates, &b->rates);
}

static bool same_link(const struct cluster_link *a, const struct cluster_link *b)
{
    return a->latency_us == b->latency_us && a->bytes_per_s == b->bytes_per_s;
}

bool plan_unit_alike(const struct cluster *c, int32_t a, int32_t b)
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

static void find_classes(struct plan_classes *k, const struct cluster *c, bool each_its_own)
{
    for (int32_t i = 0; i < c->n_device; i++) {
        int32_t to = each_its_own ? k->n : 0;
        while (to < k->n && !plan_unit_alike(c, k->member[to][0], i))
            to++;
        if (to == k->n) k->n++;
        k->member[to][k->n_member[to]++] = i;
        k->of[i] = to;
    }
}

// ---- groups

// The slowest link between two members that talk.
static struct cluster_link worst_link(const struct cluster *c, enum share_split split,
                                      const int32_t *members, int32_t n)
{
    struct cluster_link worst = {.bytes_per_s = INFINITY};
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < n; j++) {
            if (i == j || (split == SPLIT_EXPERTS && i && j)) continue;
            const struct cluster_link *l = &c->links[members[i]][members[j]];
            worst.latency_us = fmax(worst.latency_us, l->latency_us);
            worst.bytes_per_s = fmin(worst.bytes_per_s, l->bytes_per_s);
        }
    return worst;
}

struct cost_group plan_unit_group(const struct cluster *c, enum share_split split,
                                  const int32_t *devices, const uint32_t *part, int32_t n)
{
    struct cost_group g = {.share = {.split = split, .n_member = n},
                           .link = worst_link(c, split, devices, n)};
    for (int32_t i = 0; i < n; i++) {
        g.devices[i] = &c->devices[devices[i]];
        g.share.part[i] = part[i];
    }
    return g;
}

// Which devices a unit's members could be: the first ones of each class.
static void devices_of(const struct plan_units *u, const uint8_t *class, int32_t n,
                       int32_t *devices)
{
    int32_t taken[CLUSTER_DEVICES_MAX] = {0};
    for (int32_t i = 0; i < n; i++)
        devices[i] = u->classes.member[class[i]][taken[class[i]]++];
}

bool plan_unit_may(const struct plan_units *u, enum share_split split, const uint8_t *class,
                   int32_t n)
{
    int32_t devices[SHARE_MEMBERS_MAX];
    devices_of(u, class, n, devices);
    const struct cluster_link l = worst_link(u->c, split, devices, n);
    const double hop_max = u->ask->hop_us_max > 0 ? u->ask->hop_us_max : PLAN_HOP_US;
    if (l.bytes_per_s <= 0 || l.latency_us > hop_max) return false;
    if (split == SPLIT_EXPERTS) return u->m->n_expert > 0;
    if (u->ask->n_member > 1) return true; // asked for, worth it or not
    double alone_us = INFINITY;
    for (int32_t i = 0; i < n; i++)
        alone_us = fmin(alone_us, u->alone_us[class[i]]);
    return 4.0 * u->m->n_layer * l.latency_us < alone_us / 2;
}

// ---- parts

// What a member's work and bytes grow by from (nearly) no part of a pair's to (nearly) all.
static struct plan_burden burden_of(const struct plan_units *u, const struct cluster_device *d,
                                    enum share_split split, bool is_lead)
{
    const struct cost_model *m = u->m;
    const struct cost_ask *ask = &u->ask->cost;
    const struct cost_step step = cost_decode_step(ask);
    const int32_t me = is_lead ? 0 : 1;
    double seconds[2], bytes[2];
    for (int32_t all = 0; all < 2; all++) {
        struct cost_group g = {.share = {.split = split, .n_member = 2, .member = me},
                               .devices = {d, d},
                               .link = {.bytes_per_s = INFINITY}};
        g.share.part[me] = all ? SHARE_TOTAL - 1 : 1;
        g.share.part[1 - me] = SHARE_TOTAL - g.share.part[me];
        const struct cost_time t = cost_time_of(m, &g, &step, 0, m->n_layer);
        const struct cost_memory mem = cost_memory_share(m, ask, d, 0, m->n_layer, &g.share);
        seconds[all] = (double)t.own[me] * 1e-9;
        bytes[all] = (double)(cost_memory_sum(&mem) - mem.reserve);
    }
    return (struct plan_burden){
        .seconds = seconds[1] - seconds[0], .divided = bytes[1] - bytes[0], .whole = bytes[0]};
}

static void fill_burdens(struct plan_units *u)
{
    const struct cost_step step = cost_decode_step(&u->ask->cost);
    for (int32_t k = 0; k < u->classes.n; k++) {
        const struct cluster_device *d = &u->c->devices[u->classes.member[k][0]];
        const struct cost_group alone = cost_group_alone(d);
        const struct cost_time t = cost_time_of(u->m, &alone, &step, 0, u->m->n_layer);
        u->alone_us[k] = (double)t.ns / 1000;
        for (int split = SPLIT_TENSOR; split < SPLIT_COUNT; split++)
            for (int lead = 0; lead < 2; lead++)
                u->burden[k][split][lead] = burden_of(u, d, (enum share_split)split, lead);
    }
}

// Deals 1 out in proportion to `speed`, to nobody more than his cap. False: the caps are too small.
static bool deal(const double *speed, const double *cap, int32_t n, double *out)
{
    bool is_full[SHARE_MEMBERS_MAX] = {false};
    double left = 1;
    for (int32_t round = 0; round <= n; round++) {
        double sum = 0, given = 0;
        for (int32_t i = 0; i < n; i++)
            sum += is_full[i] ? 0 : speed[i];
        if (!(sum > 0)) return false;
        bool again = false;
        for (int32_t i = 0; i < n; i++) {
            if (is_full[i]) continue;
            out[i] = left * speed[i] / sum;
            if (out[i] <= cap[i]) continue;
            out[i] = cap[i];
            given += cap[i];
            again = is_full[i] = true;
        }
        if (!again) return true;
        left -= given;
        if (!(left > 0)) left = 0;
    }
    return false;
}

// Whole units are dealt out: a member may get half a unit more than its part says.
static double granularity(const struct cost_model *m, enum share_split split)
{
    const double units = split == SPLIT_EXPERTS ? m->n_expert : m->n_head_kv;
    return units > 0 ? 0.5 / units : 0;
}

int32_t plan_unit_parts(const struct plan_units *u, enum share_split split, const uint8_t *class,
                        int32_t n, uint32_t parts[PLAN_PARTS_MAX][SHARE_MEMBERS_MAX])
{
    const struct plan_burden *b[SHARE_MEMBERS_MAX];
    double speed[SHARE_MEMBERS_MAX], cap[SHARE_MEMBERS_MAX], dealt[SHARE_MEMBERS_MAX];
    int32_t n_way = 0;
    if (u->ask->part[0]) {
        memcpy(parts[0], u->ask->part, sizeof *parts);
        return 1;
    }
    for (int32_t i = 0; i < n; i++) {
        b[i] = &u->burden[class[i]][split][i == 0];
        speed[i] = 1 / fmax(b[i]->seconds, 1e-9);
    }
    memset(parts, 0, PLAN_PARTS_MAX * sizeof *parts);
    share_parts(speed, n, parts[n_way++]);
    for (int32_t k = 1; n_way < PLAN_PARTS_MAX && k < PLAN_PARTS_MAX; k++) {
        for (int32_t i = 0; i < n; i++) {
            const int32_t device = u->classes.member[class[i]][0];
            const double room = (double)plan_room(&u->c->devices[device]);
            cap[i] = (room * k - b[i]->whole) / fmax(b[i]->divided, 1);
            cap[i] = fmax(0, cap[i] - granularity(u->m, split));
        }
        if (!deal(speed, cap, n, dealt)) continue;
        share_parts(dealt, n, parts[n_way]);
        bool is_new = true;
        for (int32_t w = 0; w < n_way; w++)
            is_new &= memcmp(parts[w], parts[n_way], sizeof parts[w]) != 0;
        n_way += is_new;
    }
    return n_way;
}

// ---- costs of a unit

static uint64_t needed(const struct cost_memory *c)
{
    return cost_memory_sum(c) - c->reserve;
}

// Narrows to_max and fits_last by what one member has room for.
static void fit_member(const struct plan_units *u, struct share *share, int32_t device,
                       int16_t *to_max, bool *fits_last)
{
    const struct cost_model *m = u->m;
    const struct cost_ask *ask = &u->ask->cost;
    const struct cluster_device *d = &u->c->devices[device];
    const uint64_t room = plan_room(d);
    uint64_t of_kind[MODEL_LAYERS_MAX], end[2][2];
    for (int32_t k = 0; k < u->n_kind; k++) {
        struct cost_memory layer = {0};
        cost_memory_layer(m, ask, share, u->kind_layer[k], &layer);
        of_kind[k] = needed(&layer);
    }
    for (int32_t i = 0; i < 4; i++) {
        struct cost_memory ends = {0};
        cost_memory_ends(m, ask, d, share, i & 1, i & 2, &ends);
        end[i & 1][i >> 1] = needed(&ends);
    }
    uint64_t sum[MODEL_LAYERS_MAX + 1] = {0};
    for (int32_t l = 0; l < m->n_layer; l++)
        sum[l + 1] = sum[l] + of_kind[u->kind[l]];
    for (int32_t from = 0, to = 0; from < m->n_layer; from++) {
        const uint64_t before = sum[from];
        if (to < from) to = from;
        while (to < m->n_layer && sum[to + 1] - before + end[from == 0][0] <= room)
            to++;
        if (to < to_max[from]) to_max[from] = (int16_t)to;
        if (sum[m->n_layer] - before + end[from == 0][1] > room) fits_last[from] = false;
    }
}

static err_t fill_unit(struct plan_units *u, struct plan_unit *x)
{
    const struct cost_model *m = u->m;
    const struct cost_step step = cost_decode_step(&u->ask->cost);
    const size_t n = (size_t)m->n_layer;
    int64_t *sums = arena_take_n(&u->arena, n + 1, sizeof *sums);
    int16_t *to_max = arena_take_n(&u->arena, n, sizeof *to_max);
    bool *fits_last = arena_take_n(&u->arena, n, sizeof *fits_last);
    int32_t members[SHARE_MEMBERS_MAX];
    int64_t of_kind[MODEL_LAYERS_MAX];
    if (!sums || !to_max || !fits_last) return ERR_MEMORY;
    devices_of(u, x->class, x->n_member, members);
    const struct cost_group g = plan_unit_group(u->c, x->split, members, x->part, x->n_member);
    for (int32_t k = 0; k < u->n_kind; k++) {
        struct cost_time t = {0};
        cost_time_layer(m, &g, &step, u->kind_layer[k], &t);
        of_kind[k] = t.ns;
    }
    struct cost_time embed = {0}, head = {0};
    cost_time_embed(m, &g, &step, &embed);
    cost_time_head(m, &g, &step, &head);
    sums[0] = 0;
    for (int32_t l = 0; l < m->n_layer; l++) {
        sums[l + 1] = sums[l] + of_kind[u->kind[l]];
        to_max[l] = (int16_t)m->n_layer;
        fits_last[l] = true;
    }
    struct share share = g.share;
    for (share.member = 0; share.member < x->n_member; share.member++) {
        x->n_dense += share_is_dense(&share, share.member);
        fit_member(u, &share, members[share.member], to_max, fits_last);
    }
    x->embed_ns = embed.ns;
    x->head_ns = head.ns;
    x->layers_ns = sums;
    x->to_max = to_max;
    x->fits_last = fits_last;
    return OK;
}

// ---- the list

static err_t add_unit(struct plan_units *u, struct plan_unit x)
{
    if (u->n == PLAN_UNITS_MAX) return ERR_TOO_LARGE;
    x.first = x.last = x.class[0];
    for (int32_t i = 1; i < x.n_member; i++) {
        if (x.class[i] < x.first) x.first = x.class[i];
        if (x.class[i] > x.last) x.last = x.class[i];
    }
    u->at[u->n++] = x;
    return OK;
}

// All ways to give parts to a group whose members' classes are set, the lead's first.
static err_t add_group(struct plan_units *u, struct plan_unit x)
{
    uint32_t parts[PLAN_PARTS_MAX][SHARE_MEMBERS_MAX];
    if (!plan_unit_may(u, x.split, x.class, x.n_member)) return OK;
    const int32_t n = plan_unit_parts(u, x.split, x.class, x.n_member, parts);
    for (int32_t i = 0; i < n; i++) {
        memcpy(x.part, parts[i], sizeof x.part);
        err_t e = add_unit(u, x);
        if (e) return e;
    }
    return OK;
}

// Each class in turn leads, the others follow as listed. With parts given the first one leads.
static err_t add_leads(struct plan_units *u, const uint8_t *class, int32_t n)
{
    for (int split = SPLIT_TENSOR; split < SPLIT_COUNT; split++) {
        if (u->ask->split != SPLIT_COUNT && (int)u->ask->split != split) continue;
        for (int32_t lead = 0; lead < n; lead++) {
            if (lead && (class[lead] == class[lead - 1] || u->ask->part[0])) continue;
            struct plan_unit x = {
                .split = (enum share_split)split, .n_member = n, .class = {class[lead]}};
            for (int32_t i = 0, to = 1; i < n; i++)
                if (i != lead) x.class[to++] = class[i];
            err_t e = add_group(u, x);
            if (e) return e;
        }
    }
    return OK;
}

// All groups that begin with `class` (n members, ascending) and go on with classes from `next` on.
static err_t add_groups(struct plan_units *u, uint8_t *class, int32_t n, int32_t next,
                        int32_t largest)
{
    const int32_t wanted = u->ask->n_member;
    if (n > 1 && (!wanted || n == wanted)) {
        err_t e = add_leads(u, class, n);
        if (e) return e;
    }
    if (n == largest) return OK;
    for (int32_t k = next; k < u->classes.n; k++) {
        if (u->is_listed && n && k > class[n - 1] + 1) break;
        int32_t had = 0;
        while (had < n && class[n - 1 - had] == k)
            had++;
        if (had == u->classes.n_member[k]) continue;
        class[n] = (uint8_t)k;
        err_t e = add_groups(u, class, n + 1, k, largest);
        if (e) return e;
    }
    return OK;
}

static err_t add_all(struct plan_units *u, int32_t largest)
{
    const int32_t wanted = u->ask->n_member;
    uint8_t class[SHARE_MEMBERS_MAX];
    err_t e = OK;
    for (int32_t k = 0; !e && wanted <= 1 && k < u->classes.n; k++)
        e = add_unit(
            u, (struct plan_unit){.n_member = 1, .class = {(uint8_t)k}, .part = {SHARE_TOTAL}});
    if (!e && u->ask->split != SPLIT_NONE && wanted != 1)
        e = add_groups(u, class, 0, 0, largest < wanted ? wanted : largest);
    return e;
}

static int by_lead(const void *a, const void *b)
{
    const struct plan_unit *x = a, *y = b;
    if (x->class[0] != y->class[0]) return x->class[0] - y->class[0];
    return x->n_dense - y->n_dense;
}

static void find_kinds(struct plan_units *u)
{
    for (int32_t l = 0; l < u->m->n_layer; l++) {
        int32_t k = 0;
        while (k < u->n_kind &&
               memcmp(&u->m->layers[u->kind_layer[k]], &u->m->layers[l], sizeof u->m->layers[l]))
            k++;
        if (k == u->n_kind) u->kind_layer[u->n_kind++] = l;
        u->kind[l] = k;
    }
}

err_t plan_units_open(const struct cost_model *m, const struct cluster *c,
                      const struct plan_ask *ask, bool is_listed, int32_t largest,
                      struct plan_units **out)
{
    struct plan_units *u = calloc(1, sizeof *u);
    if (!u) return ERR_MEMORY;
    *u = (struct plan_units){.m = m, .c = c, .ask = ask, .is_listed = is_listed};
    arena_init(&u->arena, 0);
    find_kinds(u);
    // Parts that are given are given to devices, not to classes.
    find_classes(&u->classes, c, is_listed || ask->part[0]);
    if (ask->split != SPLIT_NONE && ask->n_member != 1) fill_burdens(u);
    u->at = calloc(PLAN_UNITS_MAX, sizeof *u->at);
    err_t e = u->at ? add_all(u, largest) : ERR_MEMORY;
    if (e) {
        plan_units_close(u);
        return e;
    }
    qsort(u->at, (size_t)u->n, sizeof *u->at, by_lead);
    *out = u;
    return OK;
}

err_t plan_units_fill(struct plan_units *u)
{
    err_t e = OK;
    for (int32_t i = 0; !e && i < u->n; i++)
        e = fill_unit(u, &u->at[i]);
    return e;
}

void plan_units_close(struct plan_units *u)
{
    arena_fini(&u->arena);
    free(u->at);
    free(u);
}
