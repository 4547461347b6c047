// Groups and lanes in the planner: equal to trying everything, never over a member's memory, worth
// it only where the links are near, and quick on large clusters.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/base/buf.h"
#include "tests/unit/soon.h"
#include "tests/unit/topology/cost_make.h"
#include "topology/plan_priv.h"

#include <math.h>
#include <stdlib.h>

// ---- a model with everything that a group divides, or does not

static void add_attention(struct cost_model *m, int32_t layer, uint64_t bytes)
{
    add_matrix(m, layer, COST_IN, SHARE_HEADS, bytes / 2)->unit = (int32_t)(bytes / 1024 / 16);
    add_matrix(m, layer, COST_IN, SHARE_KV, bytes / 8)->unit = (int32_t)(bytes / 4096 / 4);
    add_matrix(m, layer, COST_OUT, SHARE_DIM, bytes / 2);
}

static struct cost_model mixed_model(int32_t n_layer, uint64_t layer_bytes, int32_t n_expert)
{
    struct cost_model m = model_of(n_layer, 0);
    m.n_head = 16;
    m.n_head_kv = 4;
    m.n_expert = n_expert;
    m.n_used = n_expert ? 4 : 0;
    for (int32_t l = 0; l < n_layer; l++) {
        m.layers[l].n_matrix = 0;
        add_attention(&m, l, layer_bytes / 4);
        if (n_expert) {
            add_matrix(&m, l, COST_ROUTER, SHARE_WHOLE, 16 * 1024 / 2);
            add_experts(&m, l, layer_bytes * 3);
            add_matrix(&m, l, COST_SHARED_DOWN, SHARE_DIM, layer_bytes / 8);
        } else {
            add_matrix(&m, l, COST_UP, SHARE_MIDDLE, layer_bytes / 2);
            add_matrix(&m, l, COST_DOWN, SHARE_DIM, layer_bytes / 4);
        }
    }
    m.embed_bytes = layer_bytes / 2;
    m.head = matrix(COST_LOGITS, SHARE_VOCAB, layer_bytes / 2);
    return m;
}

// ---- trying everything

struct trial {
    const struct cost_model *m;
    const struct cluster *c;
    const struct plan_ask *ask;
    struct plan_units *u; // to ask for parts and neighbours
    struct cost_step step;
    bool found;
    int64_t ns, latency_ns;
    int32_t n_device;
};

struct path {
    uint32_t used;
    int32_t last, layer, n_stage; // last: the lead
    int64_t sum, longest;
};

static void keep_better(struct trial *t, const struct path *p)
{
    const int32_t n = __builtin_popcount(p->used);
    if (t->ask->n_stage_min > p->n_stage) return;
    if (t->ask->n_stage_max && t->ask->n_stage_max < p->n_stage) return;
    const int64_t ns = t->ask->goal == PLAN_THROUGHPUT ? p->longest : p->sum;
    bool better = ns < t->ns || (ns == t->ns && n < t->n_device) ||
                  (ns == t->ns && n == t->n_device && p->sum < t->latency_ns);
    if (t->ask->goal == PLAN_FIT)
        better = n < t->n_device || (n == t->n_device && p->sum < t->latency_ns);
    if (t->found && !better) return;
    t->found = true;
    t->ns = ns;
    t->latency_ns = p->sum;
    t->n_device = n;
}

static void try_all(struct trial *t, const struct path *p);

// All stages that this group can make next.
static void try_group(struct trial *t, const struct path *p, enum share_split split,
                      const int32_t *devices, const uint32_t *part, int32_t n)
{
    const struct cost_group g = plan_unit_group(t->c, split, devices, part, n);
    struct path q = *p;
    int64_t hop = 0, busy = 0;
    if (p->last >= 0) {
        const struct cluster_link *l = &t->c->links[p->last][devices[0]];
        if (l->bytes_per_s <= 0 || l->latency_us > PLAN_HOP_US) return;
        const int64_t frame = cost_hop_busy_ns(t->m, l, &t->step);
        busy = frame * (split == SPLIT_EXPERTS ? 1 : n);
        hop = cost_hop_ns(t->m, l, &t->step) + busy - frame;
    }
    for (int32_t i = 0; i < n; i++)
        q.used |= 1u << devices[i];
    q.last = devices[0];
    q.n_stage++;
    for (q.layer = p->layer + 1; q.layer <= t->m->n_layer; q.layer++) {
        struct share s = g.share;
        bool fits = true;
        for (s.member = 0; s.member < n; s.member++) {
            struct cost_memory mem =
                cost_memory_share(t->m, &t->ask->cost, g.devices[s.member], p->layer, q.layer, &s);
            fits &= cost_memory_sum(&mem) <= g.devices[s.member]->mem_free_bytes;
        }
        if (!fits) continue;
        const int64_t ns = cost_time_of(t->m, &g, &t->step, p->layer, q.layer).ns;
        q.sum = p->sum + hop + ns;
        q.longest = p->longest > ns ? p->longest : ns;
        if (busy > q.longest) q.longest = busy;
        try_all(t, &q);
    }
}

// The devices of `mask` as a group that `lead` leads, in every way they may share.
static void try_mask(struct trial *t, const struct path *p, uint32_t mask, int32_t lead)
{
    int32_t devices[5] = {lead}, n = 1;
    uint8_t class[5];
    uint32_t parts[PLAN_PARTS_MAX][SHARE_MEMBERS_MAX];
    for (int32_t k = 0; k < t->u->classes.n; k++)
        for (int32_t i = 0; i < t->u->classes.n_member[k]; i++) {
            const int32_t d = t->u->classes.member[k][i];
            if (d != lead && mask >> d & 1) devices[n++] = d;
        }
    for (int32_t i = 0; i < n; i++)
        class[i] = (uint8_t)t->u->classes.of[devices[i]];
    for (int split = SPLIT_TENSOR; n > 1 && split < SPLIT_COUNT; split++) {
        const enum share_split sp = (enum share_split)split;
        if (t->ask->split != SPLIT_COUNT && t->ask->split != sp) continue;
        if (t->ask->n_member && t->ask->n_member != n) continue;
        if (!plan_unit_may(t->u, sp, class, n)) continue;
        const int32_t n_way = plan_unit_parts(t->u, sp, class, n, parts);
        for (int32_t i = 0; i < n_way; i++)
            try_group(t, p, sp, devices, parts[i], n);
    }
    const uint32_t all = SHARE_TOTAL;
    if (n == 1 && t->ask->n_member <= 1) try_group(t, p, SPLIT_NONE, devices, &all, 1);
}

static void try_all(struct trial *t, const struct path *p)
{
    if (p->layer == t->m->n_layer) {
        keep_better(t, p);
        return;
    }
    const uint32_t everyone = (1u << t->c->n_device) - 1;
    for (uint32_t mask = 1; mask <= everyone; mask++) {
        if (mask & p->used) continue;
        for (int32_t lead = 0; lead < t->c->n_device; lead++)
            if (mask >> lead & 1) try_mask(t, p, mask, lead);
    }
}

// What must hold of any plan: all layers once, devices once, parts that sum up, memory of each.
static void check_plan(const struct cost_model *m, const struct cluster *c, const struct plan *p)
{
    uint64_t used = 0;
    int32_t layer = 0;
    double sum = 0;
    for (int32_t i = 0; i < p->n_stage; i++) {
        const struct plan_stage *st = &p->stages[i];
        uint64_t parts = 0;
        double kinds = 0;
        assert_int_equal(st->layer_from, layer);
        assert_true(st->layer_to > layer);
        layer = st->layer_to;
        for (int32_t k = 0; k < st->n_member; k++) {
            const struct plan_member *one = &st->members[k];
            assert_false(used >> one->device & 1);
            used |= (uint64_t)1 << one->device;
            parts += one->part;
            assert_true(cost_memory_sum(&one->memory) <= c->devices[one->device].mem_free_bytes);
            assert_true(one->decode_us <= st->decode_us + 1); // whole nanoseconds are summed
        }
        for (int k = 0; k < COST_KINDS; k++)
            kinds += st->kinds_us[k];
        assert_int_equal(parts, SHARE_TOTAL);
        assert_true(fabs(kinds - st->decode_us) < 1e-3);
        sum += st->decode_us + st->hop_us;
    }
    assert_int_equal(layer, m->n_layer);
    assert_true(fabs(sum - p->decode_us) < 1e-3);
}

static void random_case(struct cost_model *m, struct cluster *c, struct plan_ask *ask)
{
    const bool has_experts = random_to(2);
    const int32_t n = 2 + (int32_t)random_to(4);
    *m = mixed_model(2 + (int32_t)random_to(n > 4 ? 1 : 2), (8 + random_to(64)) << 20, has_experts);
    const double all = (double)m->n_layer * (double)m->embed_bytes * (has_experts ? 7 : 2.5);
    memset(c, 0, sizeof *c);
    for (int32_t i = 0; i < n; i++) {
        set_device(c, i, 1e9 * (double)(1 + random_to(20)),
                   all * (0.15 + (double)random_to(100) / 80) + 60e6);
        if (i == 0 || random_to(3)) continue;
        char name[32];
        snprintf(name, sizeof name, "d%d", i);
        c->devices[i] = c->devices[i - 1];
        memcpy(c->devices[i].name, name, sizeof name);
    }
    const bool uniform = random_to(3);
    for (int32_t a = 0; a < n; a++)
        for (int32_t b = 0; b < n; b++)
            if (a != b)
                c->links[a][b] =
                    uniform ? (struct cluster_link){10, 4e9}
                            : (struct cluster_link){(double)random_to(random_to(2) ? 60 : 8000),
                                                    1e8 * (double)random_to(40)};
    *ask = ask_of((enum plan_goal)random_to(3));
    ask->cost.chunk = 1 + (int32_t)random_to(64);
    ask->split = random_to(3)                  ? SPLIT_COUNT
                 : has_experts && random_to(2) ? SPLIT_EXPERTS
                                               : SPLIT_TENSOR;
    if (random_to(5) == 0) ask->n_member = 1 + (int32_t)random_to(2);
    const int32_t most = n < m->n_layer ? n : m->n_layer;
    if (random_to(3) == 0) ask->n_stage_min = 1 + (int32_t)random_to((uint64_t)most);
    if (random_to(3) == 0) ask->n_stage_max = ask->n_stage_min;
    if (ask->split == SPLIT_EXPERTS && !has_experts) ask->n_member = 0;
}

static void equals_brute_force(void **state)
{
    (void)state;
    static struct cluster c;
    int n_plan = 0, n_none = 0, n_group = 0, n_tensor = 0;
    for (int i = 0; i < 600; i++) {
        struct cost_model m;
        struct plan_ask ask;
        static struct plan p;
        struct err_text why = {{0}};
        random_case(&m, &c, &ask);
        struct trial t = {.m = &m, .c = &c, .ask = &ask, .step = cost_decode_step(&ask.cost)};
        assert_int_equal(plan_units_open(&m, &c, &ask, false, 1, &t.u), OK);
        try_all(&t, &(struct path){.last = -1});
        plan_units_close(t.u);
        err_t e = plan_make(&m, &c, &ask, &p, &why);
        if (!t.found) {
            assert_int_equal(e, ERR_CAPACITY);
            n_none++;
            continue;
        }
        if (e) fail_msg("case %d: %s", i, why.s);
        check_plan(&m, &c, &p);
        assert_false(p.order_as_listed);
        if (fabs(p.decode_us - (double)t.latency_ns / 1000) > 1e-3)
            fail_msg("case %d: %f us, best is %f", i, p.decode_us, (double)t.latency_ns / 1000);
        if (ask.goal == PLAN_THROUGHPUT)
            assert_true(fabs(p.bottleneck_us - (double)t.ns / 1000) < 1e-3);
        n_plan++;
        for (int32_t k = 0; k < p.n_stage; k++) {
            n_group += p.stages[k].n_member > 1;
            n_tensor += p.stages[k].split == SPLIT_TENSOR;
        }
    }
    print_message("%d plans with %d groups (%d tensor), %d without any\n", n_plan, n_group,
                  n_tensor, n_none);
    assert_true(n_group - n_tensor > 20 && n_tensor > 20 && n_none > 10);
}

// ---- known answers

// Two near devices halve a step; the same two over a slow link do not.
static void tensor_groups_need_near_links(void **state)
{
    (void)state;
    static struct cluster c;
    struct cost_model m = mixed_model(16, 200 << 20, 0);
    struct plan_ask ask = ask_of(PLAN_LATENCY);
    static struct plan alone, pair;
    memset(&c, 0, sizeof c);
    set_device(&c, 0, 20e9, 16e9);
    set_device(&c, 1, 20e9, 16e9);
    all_links(&c, 5, 20e9);
    assert_int_equal(plan_make(&m, &c, &ask, &alone, NULL), OK);
    assert_int_equal(alone.stages[0].n_member, 1);
    ask.split = SPLIT_TENSOR;
    assert_int_equal(plan_make(&m, &c, &ask, &pair, NULL), OK);
    check_plan(&m, &c, &pair);
    assert_int_equal(pair.n_stage, 1);
    assert_int_equal(pair.stages[0].n_member, 2);
    assert_int_equal(pair.stages[0].members[0].part, SHARE_TOTAL / 2);
    assert_true(pair.stages[0].exchange_us > 16 * 4 * 5);
    assert_true(pair.decode_us < 0.6 * alone.decode_us);
    // 4 x 16 x 4000 us is more than half of the step alone.
    all_links(&c, 4000, 20e9);
    assert_int_equal(plan_make(&m, &c, &ask, &pair, NULL), OK);
    assert_int_equal(pair.stages[0].n_member, 1);
    ask.n_member = 2; // on demand
    assert_int_equal(plan_make(&m, &c, &ask, &pair, NULL), OK);
    assert_int_equal(pair.stages[0].n_member, 2);
    assert_true(pair.decode_us > alone.decode_us);
}

// A fast device that cannot hold the experts, and a slow one with much memory: attention stays on
// the fast one, and as many experts as fit there.
static void experts_go_where_there_is_room(void **state)
{
    (void)state;
    static struct cluster c;
    struct cost_model m = mixed_model(16, 200 << 20, 128);
    struct plan_ask ask = {.goal = PLAN_LATENCY, .cost = cost_ask_of(2048, 1)};
    static struct plan layers, group;
    memset(&c, 0, sizeof c);
    set_device(&c, 0, 900e9, 5e9);
    set_device(&c, 1, 60e9, 32e9);
    all_links(&c, 10, 20e9);
    assert_int_equal(plan_make(&m, &c, &ask, &layers, NULL), OK);
    ask.split = SPLIT_COUNT;
    assert_int_equal(plan_make(&m, &c, &ask, &group, NULL), OK);
    check_plan(&m, &c, &group);
    assert_int_equal(group.n_stage, 1);
    assert_int_equal(group.stages[0].split, SPLIT_EXPERTS);
    assert_int_equal(group.stages[0].members[0].device, 0);
    assert_true(group.stages[0].members[0].part > SHARE_TOTAL / 4);
    assert_int_equal(group.stages[0].members[1].memory.kv, 0);
    assert_true(group.decode_us < layers.decode_us);
}

static void parts_can_be_given(void **state)
{
    (void)state;
    static struct cluster c;
    struct cost_model m = mixed_model(8, 50 << 20, 16);
    struct plan_ask ask = ask_of(PLAN_THROUGHPUT);
    static struct plan p;
    struct err_text why = {{0}};
    memset(&c, 0, sizeof c);
    set_device(&c, 0, 10e9, 8e9);
    set_device(&c, 1, 10e9, 8e9);
    all_links(&c, 5, 4e9);
    ask.split = SPLIT_EXPERTS;
    ask.n_member = 2;
    ask.part[0] = SHARE_TOTAL / 4 * 3;
    ask.part[1] = SHARE_TOTAL / 4;
    assert_int_equal(plan_make(&m, &c, &ask, &p, NULL), OK);
    check_plan(&m, &c, &p);
    for (int32_t k = 0; k < 2; k++) {
        assert_int_equal(p.stages[0].members[k].device, k);
        assert_int_equal(p.stages[0].members[k].part, ask.part[k]);
    }
    ask.part[1]--;
    assert_int_equal(plan_make(&m, &c, &ask, &p, &why), ERR_INVALID);
    assert_non_null(strstr(why.s, "sum to 65535"));
    ask.part[1] = 0;
    assert_int_equal(plan_make(&m, &c, &ask, &p, &why), ERR_INVALID);
    struct cost_model dense = mixed_model(8, 50 << 20, 0);
    ask.part[0] = 0;
    assert_int_equal(plan_make(&dense, &c, &ask, &p, &why), ERR_INVALID);
    assert_non_null(strstr(why.s, "no experts"));
}

// A group of experts among equals near each other divides attention and head too.
static void equals_divide_the_dense_work(void **state)
{
    (void)state;
    static struct cluster c;
    struct cost_model m = mixed_model(8, 50 << 20, 16);
    struct plan_ask ask = ask_of(PLAN_THROUGHPUT);
    static struct plan led, p;
    memset(&c, 0, sizeof c);
    set_device(&c, 0, 10e9, 8e9);
    set_device(&c, 1, 10e9, 8e9);
    all_links(&c, 5, 4e9);
    ask.split = SPLIT_EXPERTS;
    ask.n_member = 2;
    assert_int_equal(plan_make(&m, &c, &ask, &led, NULL), OK);
    assert_int_equal(led.stages[0].split, SPLIT_EXPERTS);
    ask.divides_dense = true;
    assert_int_equal(plan_make(&m, &c, &ask, &p, NULL), OK);
    check_plan(&m, &c, &p);
    assert_int_equal(p.stages[0].split, SPLIT_TENSOR);
    assert_true(p.bottleneck_us < led.bottleneck_us);
    // Not if parts are given, members differ, or handing over costs more than it saves.
    ask.part[0] = ask.part[1] = SHARE_TOTAL / 2;
    assert_int_equal(plan_make(&m, &c, &ask, &p, NULL), OK);
    assert_int_equal(p.stages[0].split, SPLIT_EXPERTS);
    ask.part[0] = ask.part[1] = 0;
    all_links(&c, 4000, 4e9);
    assert_int_equal(plan_make(&m, &c, &ask, &p, NULL), OK);
    assert_int_equal(p.stages[0].split, SPLIT_EXPERTS);
    all_links(&c, 5, 4e9);
    set_device(&c, 1, 9e9, 8e9);
    assert_int_equal(plan_make(&m, &c, &ask, &p, NULL), OK);
    assert_int_equal(p.stages[0].split, SPLIT_EXPERTS);
}

// Two stages of two members each, as asked.
static void groups_make_a_pipeline(void **state)
{
    (void)state;
    static struct cluster c;
    struct cost_model m = mixed_model(8, 50 << 20, 0);
    struct plan_ask ask = ask_of(PLAN_THROUGHPUT);
    static struct plan p;
    memset(&c, 0, sizeof c);
    for (int32_t i = 0; i < 5; i++)
        set_device(&c, i, 10e9 + 1e8 * i, 8e9);
    all_links(&c, 5, 4e9);
    ask.split = SPLIT_TENSOR;
    ask.n_member = 2;
    ask.n_stage_min = ask.n_stage_max = 2;
    assert_int_equal(plan_make(&m, &c, &ask, &p, NULL), OK);
    check_plan(&m, &c, &p);
    assert_int_equal(p.n_stage, 2);
    assert_int_equal(p.stages[0].n_member, 2);
    assert_int_equal(p.stages[1].n_member, 2);
    assert_true(p.stages[0].hop_us > 5);
    ask.n_stage_min = ask.n_stage_max = 3; // six members of five devices
    assert_int_equal(plan_make(&m, &c, &ask, &p, NULL), ERR_CAPACITY);
}

// ---- lanes

static void far_devices_are_lanes_of_their_own(void **state)
{
    (void)state;
    static struct cluster c;
    struct cost_model m = model_of(8, 100 << 20);
    struct plan_ask ask = ask_of(PLAN_THROUGHPUT);
    static struct plan lanes[CLUSTER_DEVICES_MAX];
    int32_t n = 0;
    memset(&c, 0, sizeof c);
    set_device(&c, 0, 10e9, 1e9); // 0 and 1 hold it together only
    set_device(&c, 1, 10e9, 1e9);
    set_device(&c, 2, 30e9, 8e9);
    all_links(&c, 20, 1e9);
    for (int32_t i = 0; i < 2; i++)
        set_link(&c, i, 2, 15000, 12e6);
    assert_int_equal(plan_lanes(&m, &c, &ask, lanes, &n, NULL), OK);
    assert_int_equal(n, 2);
    const struct plan *far = lanes[0].n_stage == 1 ? &lanes[0] : &lanes[1];
    const struct plan *near = far == &lanes[0] ? &lanes[1] : &lanes[0];
    assert_int_equal(far->stages[0].members[0].device, 2);
    assert_int_equal(near->n_stage, 2);
    check_plan(&m, &c, near);
    check_plan(&m, &c, far);
    // Alike devices that each hold the model: a lane each, nothing to wait for.
    for (int32_t i = 0; i < 2; i++)
        set_device(&c, i, 10e9, 8e9);
    assert_int_equal(plan_lanes(&m, &c, &ask, lanes, &n, NULL), OK);
    assert_int_equal(n, 3);
}

// The sum over lanes is the best there is: against every way to deal devices out.
static double best_sum(const struct cost_model *m, const struct cluster *c,
                       const struct plan_ask *ask, const double *rate, uint32_t left)
{
    double best = 0;
    for (uint32_t set = left; set; set = (set - 1) & left) {
        if (!(rate[set] > 0)) continue;
        const double sum = rate[set] + best_sum(m, c, ask, rate, left & ~set);
        best = sum > best ? sum : best;
    }
    return best;
}

static void lanes_equal_brute_force(void **state)
{
    (void)state;
    static struct cluster c, some;
    static struct plan lanes[CLUSTER_DEVICES_MAX], p;
    int n_several = 0;
    for (int i = 0; i < 60; i++) {
        struct cost_model m;
        struct plan_ask ask;
        double rate[32] = {0};
        random_case(&m, &c, &ask);
        const int32_t n = c.n_device;
        for (int32_t d = 0; d < n; d++)
            c.devices[d].mem_free_bytes = c.devices[d].mem_bytes *= 1 + (uint64_t)random_to(3);
        struct plan_ask any = ask;
        any.goal = PLAN_THROUGHPUT;
        any.n_stage_min = any.n_stage_max = 0;
        for (uint32_t set = 1; set < 1u << n; set++) {
            memset(&some, 0, sizeof some);
            int32_t at[8];
            for (int32_t d = 0; d < n; d++)
                if (set >> d & 1) {
                    at[some.n_device] = d;
                    some.devices[some.n_device++] = c.devices[d];
                }
            for (int32_t a = 0; a < some.n_device; a++)
                for (int32_t b = 0; b < some.n_device; b++)
                    some.links[a][b] = c.links[at[a]][at[b]];
            if (any.n_member > some.n_device) continue;
            if (plan_make(&m, &some, &any, &p, NULL) == OK) rate[set] = p.total_tok_s;
        }
        int32_t n_lane = 0;
        double sum = 0;
        err_t e = plan_lanes(&m, &c, &any, lanes, &n_lane, NULL);
        const double want = best_sum(&m, &c, &any, rate, (1u << n) - 1);
        if (!(want > 0)) {
            assert_int_equal(e, ERR_CAPACITY);
            continue;
        }
        assert_int_equal(e, OK);
        for (int32_t k = 0; k < n_lane; k++) {
            check_plan(&m, &c, &lanes[k]);
            sum += lanes[k].total_tok_s;
        }
        assert_true(fabs(sum / want - 1) < 1e-9);
        n_several += n_lane > 1;
    }
    assert_true(n_several > 10);
}

// ---- size

static void plan_soon(const char *what, const struct cost_model *m, const struct cluster *c,
                      const struct plan_ask *ask)
{
    static struct plan p;
    struct err_text why = {{0}};
    const int64_t from = soon_now_us();
    if (plan_make(m, c, ask, &p, &why)) fail_msg("%s: %s", what, why.s);
    print_message("%s: %.1f ms\n", what, (double)(soon_now_us() - from) / 1e3);
    assert_true(soon_is(from, 50000));
    check_plan(m, c, &p);
}

static void large_clusters_are_quick(void **state)
{
    (void)state;
    static struct cluster c;
    struct cost_model m = mixed_model(96, 100 << 20, 16);
    for (int goal = 0; goal < 3; goal++) {
        struct plan_ask ask = ask_of((enum plan_goal)goal);
        ask.split = SPLIT_COUNT;
        memset(&c, 0, sizeof c);
        for (int32_t i = 0; i < 16; i++)
            set_device(&c, i, 10e9, 8e9);
        all_links(&c, 5, 20e9);
        plan_soon("96 layers, 16 alike", &m, &c, &ask);
        for (int32_t i = 0; i < 16; i++)
            set_device(&c, i, i < 6 ? 10e9 : i < 12 ? 20e9 : 40e9, 8e9);
        plan_soon("96 layers, 3 classes", &m, &c, &ask);
        for (int32_t i = 0; i < 16; i++)
            set_device(&c, i, 10e9 + 1e9 * i, 8e9);
        plan_soon("96 layers, 16 different", &m, &c, &ask);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_brute_force),
        cmocka_unit_test(tensor_groups_need_near_links),
        cmocka_unit_test(experts_go_where_there_is_room),
        cmocka_unit_test(parts_can_be_given),
        cmocka_unit_test(equals_divide_the_dense_work),
        cmocka_unit_test(groups_make_a_pipeline),
        cmocka_unit_test(far_devices_are_lanes_of_their_own),
        cmocka_unit_test(lanes_equal_brute_force),
        cmocka_unit_test(large_clusters_are_quick),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
