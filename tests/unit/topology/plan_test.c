// The planner: equal to trying everything on small random clusters; memory never exceeded; fast on
// large ones; and what it says is true.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/base/buf.h"
#include "tests/unit/soon.h"
#include "tests/unit/topology/cost_make.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- trying everything

struct best {
    bool found;
    int64_t ns, latency_ns;
    int32_t n_stage;
};

struct trial {
    const struct cost_model *m;
    const struct cluster *c;
    const struct plan_ask *ask;
    struct cost_step step;
    struct best best;
};

static int64_t stage_cost(const struct trial *t, int32_t device, int32_t from, int32_t to)
{
    const struct cluster_device *d = &t->c->devices[device];
    int64_t ns = from == 0 ? cost_embed_ns(t->m, d, &t->step) : 0;
    for (int32_t l = from; l < to; l++)
        ns += cost_layer_ns(t->m, d, &t->step, l);
    return ns + (to == t->m->n_layer ? cost_head_ns(t->m, d, &t->step) : 0);
}

// Smaller is better: the goal's value, then stages, then latency; FIT: stages first.
static void keep_better(struct trial *t, int64_t sum, int64_t longest, int32_t n)
{
    struct best *b = &t->best;
    if (t->ask->n_stage_min > n || (t->ask->n_stage_max && t->ask->n_stage_max < n)) return;
    int64_t ns = t->ask->goal == PLAN_THROUGHPUT ? longest : sum;
    bool better = ns < b->ns || (ns == b->ns && n < b->n_stage) ||
                  (ns == b->ns && n == b->n_stage && sum < b->latency_ns);
    if (t->ask->goal == PLAN_FIT)
        better = n < b->n_stage || (n == b->n_stage && sum < b->latency_ns);
    if (!b->found || better) *b = (struct best){true, ns, sum, n};
}

static void try_all(struct trial *t, uint32_t used, int32_t last, int32_t layer, int64_t sum,
                    int64_t longest)
{
    if (layer == t->m->n_layer) {
        keep_better(t, sum, longest, __builtin_popcount(used));
        return;
    }
    double max_us = t->ask->hop_us_max > 0 ? t->ask->hop_us_max : PLAN_HOP_US;
    for (int32_t d = 0; d < t->c->n_device; d++) {
        if (used >> d & 1) continue;
        int64_t hop = 0, busy = 0;
        if (last >= 0) {
            const struct cluster_link *l = &t->c->links[last][d];
            if (l->bytes_per_s <= 0 || l->latency_us > max_us) continue;
            hop = cost_hop_ns(t->m, l, &t->step);
            busy = cost_hop_busy_ns(t->m, l, &t->step);
        }
        for (int32_t to = layer + 1; to <= t->m->n_layer; to++) {
            struct cost_memory mem =
                cost_memory_of(t->m, &t->ask->cost, &t->c->devices[d], layer, to);
            if (cost_memory_sum(&mem) > t->c->devices[d].mem_free_bytes) continue;
            int64_t ns = stage_cost(t, d, layer, to), most = longest > ns ? longest : ns;
            try_all(t, used | 1u << d, d, to, sum + hop + ns, most > busy ? most : busy);
        }
    }
}

static struct best brute_force(const struct cost_model *m, const struct cluster *c,
                               const struct plan_ask *ask)
{
    struct trial t = {.m = m, .c = c, .ask = ask, .step = cost_decode_step(&ask->cost)};
    try_all(&t, 0, -1, 0, 0, 0);
    return t.best;
}

// What must hold of any plan: all layers once, in order; devices once; memory; sums.
static void check_plan(const struct cost_model *m, const struct cluster *c,
                       const struct plan_ask *ask, const struct plan *p)
{
    uint64_t used = 0;
    double sum = 0;
    int32_t layer = 0;
    for (int32_t i = 0; i < p->n_stage; i++) {
        const struct plan_stage *st = &p->stages[i];
        assert_int_equal(st->layer_from, layer);
        assert_true(st->layer_to > layer);
        assert_false(used >> st->members[0].device & 1);
        used |= (uint64_t)1 << st->members[0].device;
        assert_true(cost_memory_sum(&st->members[0].memory) <=
                    c->devices[st->members[0].device].mem_free_bytes);
        assert_true(st->decode_us <= p->bottleneck_us + 1e-9);
        sum += st->decode_us + st->hop_us;
        layer = st->layer_to;
    }
    assert_int_equal(layer, m->n_layer);
    assert_true(fabs(sum - p->decode_us) < 1e-3);
    assert_true(fabs(p->stream_tok_s * p->decode_us / 1e6 - 1) < 1e-9);
    assert_true(fabs(p->total_tok_s * p->bottleneck_us / 1e6 / ask->cost.batch - 1) < 1e-9);
}

static void random_case(struct cost_model *m, struct cluster *c, struct plan_ask *ask)
{
    *m = model_of(2 + (int32_t)random_to(7), 0);
    m->n_expert = 8;
    m->n_used = 2;
    uint64_t all = 0;
    for (int32_t l = 0; l < m->n_layer; l++) {
        uint64_t bytes = (10 + random_to(40)) << 20;
        struct cost_layer *layer = &m->layers[l];
        layer->n_matrix = 0;
        add_matrix(m, l, COST_UP, SHARE_MIDDLE, bytes);
        if (random_to(2)) add_matrix(m, l, COST_IN, SHARE_WHOLE, bytes / 4)->dtype = DT_F16;
        const uint64_t experts = random_to(3) == 0 ? bytes * 4 : 0;
        if (experts) add_experts(m, l, experts);
        layer->is_local = random_to(2);
        if (random_to(4) == 0) layer->state_bytes = random_to(1 << 22);
        all += bytes + experts;
    }
    m->window = (int32_t)random_to(2) * 256;
    m->tied_head = random_to(2);
    m->embed_bytes = (5 + random_to(60)) << 20;
    m->head = matrix(COST_LOGITS, SHARE_VOCAB, m->embed_bytes);
    m->head_vector_bytes = 4096;
    memset(c, 0, sizeof *c);
    int32_t n = 1 + (int32_t)random_to(4);
    for (int32_t i = 0; i < n; i++) {
        double speed = 1e9 * (double)(1 + random_to(20));
        set_device(c, i, speed, (double)(all / 4 + random_to(all)) + 60e6);
        if (i > 0 && random_to(2)) { // a twin of the one before
            char name[32];
            snprintf(name, sizeof name, "d%d", i);
            c->devices[i] = c->devices[i - 1];
            memcpy(c->devices[i].name, name, sizeof name);
        }
    }
    bool uniform = random_to(2);
    for (int32_t a = 0; a < n; a++)
        for (int32_t b = 0; b < n; b++)
            if (a != b)
                c->links[a][b] = uniform ? (struct cluster_link){40, 1e9}
                                         : (struct cluster_link){(double)random_to(8000),
                                                                 1e7 * (double)random_to(100)};
    *ask = ask_of((enum plan_goal)random_to(3));
    ask->cost.chunk = 1 + (int32_t)random_to(64);
    ask->hop_us_max = random_to(2) ? 3000 : 0;
    int32_t most = n < m->n_layer ? n : m->n_layer;
    if (random_to(2)) ask->n_stage_min = 1 + (int32_t)random_to((uint64_t)most);
    if (random_to(3) == 0) ask->n_stage_max = ask->n_stage_min;
}

static void equals_brute_force(void **state)
{
    (void)state;
    static struct cluster c;
    int n_plan = 0, n_none = 0, n_split = 0;
    for (int i = 0; i < 3000; i++) {
        struct cost_model m;
        struct plan_ask ask;
        struct plan p;
        struct err_text why = {{0}};
        random_case(&m, &c, &ask);
        struct best want = brute_force(&m, &c, &ask);
        err_t e = plan_make(&m, &c, &ask, &p, &why);
        if (!want.found) {
            assert_int_equal(e, ERR_CAPACITY);
            n_none++;
            continue;
        }
        if (e) fail_msg("case %d: %s", i, why.s);
        check_plan(&m, &c, &ask, &p);
        assert_false(p.order_as_listed);
        assert_int_equal(p.n_stage, want.n_stage);
        assert_true(fabs(p.decode_us - (double)want.latency_ns / 1000) < 1e-3);
        if (ask.goal == PLAN_THROUGHPUT)
            assert_true(fabs(p.bottleneck_us - (double)want.ns / 1000) < 1e-3);
        n_plan++;
        n_split += p.n_stage > 1;
    }
    print_message("%d plans (%d split), %d without any\n", n_plan, n_split, n_none);
    assert_true(n_split > 500 && n_none > 100);
}

// ---- known answers

static void one_device_is_best_for_one_stream(void **state)
{
    (void)state;
    static struct cluster c;
    struct cost_model m = model_of(12, 100 << 20);
    struct plan_ask ask = ask_of(PLAN_LATENCY);
    struct plan p;
    memset(&c, 0, sizeof c);
    set_device(&c, 0, 10e9, 8e9);
    set_device(&c, 1, 20e9, 8e9);
    all_links(&c, 50, 1e8);
    assert_int_equal(plan_make(&m, &c, &ask, &p, NULL), OK);
    assert_int_equal(p.n_stage, 1);
    assert_int_equal(p.stages[0].members[0].device, 1);
    ask.n_stage_min = ask.n_stage_max = 2; // on demand
    assert_int_equal(plan_make(&m, &c, &ask, &p, NULL), OK);
    assert_int_equal(p.n_stage, 2);
    check_plan(&m, &c, &ask, &p);
    ask = ask_of(PLAN_THROUGHPUT); // the faster one gets about twice the layers
    assert_int_equal(plan_make(&m, &c, &ask, &p, NULL), OK);
    assert_int_equal(p.n_stage, 2);
    int32_t fast = p.stages[0].members[0].device == 1 ? 0 : 1;
    int32_t n_fast = p.stages[fast].layer_to - p.stages[fast].layer_from;
    assert_true(n_fast == 8 || n_fast == 9 || n_fast == 7);
}

// Equal devices: a fourth stage that does not shorten the longest one is not used.
static void fewer_stages_on_ties(void **state)
{
    (void)state;
    static struct cluster c;
    struct cost_model m = model_of(5, 100 << 20);
    m.head = (struct cost_matrix){0};
    struct plan_ask ask = ask_of(PLAN_THROUGHPUT);
    struct plan p;
    memset(&c, 0, sizeof c);
    for (int32_t i = 0; i < 4; i++)
        set_device(&c, i, 10e9, 8e9);
    all_links(&c, 0, 1e12);
    assert_int_equal(plan_make(&m, &c, &ask, &p, NULL), OK);
    assert_int_equal(p.n_stage, 3); // 1+2+2 and 1+1+1+2 have the same longest stage
    ask.goal = PLAN_FIT;
    assert_int_equal(plan_make(&m, &c, &ask, &p, NULL), OK);
    assert_int_equal(p.n_stage, 1);
}

// Against layers in proportion to memory, as other programs split: a skewed pair, a small memory
// on the fast device.
static void beats_a_split_by_memory(void **state)
{
    (void)state;
    static struct cluster c;
    struct cost_model m = model_of(32, 100 << 20);
    struct plan_ask ask = ask_of(PLAN_THROUGHPUT);
    struct plan p;
    memset(&c, 0, sizeof c);
    set_device(&c, 0, 90e9, 4e9);
    set_device(&c, 1, 30e9, 8e9);
    all_links(&c, 20, 1e9);
    assert_int_equal(plan_make(&m, &c, &ask, &p, NULL), OK);
    check_plan(&m, &c, &ask, &p);
    struct trial t = {.m = &m, .c = &c, .ask = &ask, .step = cost_decode_step(&ask.cost)};
    int64_t a = stage_cost(&t, 0, 0, 11), b = stage_cost(&t, 1, 11, 32); // 4 : 8
    double proportional_us = (double)(a > b ? a : b) / 1000;
    print_message("bottleneck %.0f us, by memory %.0f us: %.2f x\n", p.bottleneck_us,
                  proportional_us, proportional_us / p.bottleneck_us);
    assert_true(proportional_us / p.bottleneck_us >= 1.3);
}

static void slow_links_are_refused(void **state)
{
    (void)state;
    static struct cluster c;
    struct cost_model m = model_of(8, 1000 << 20);
    struct plan_ask ask = ask_of(PLAN_THROUGHPUT);
    struct plan p;
    struct err_text why = {{0}};
    memset(&c, 0, sizeof c);
    set_device(&c, 0, 10e9, 6e9);
    set_device(&c, 1, 10e9, 6e9);
    all_links(&c, 50000, 1e8); // another continent
    assert_int_equal(plan_make(&m, &c, &ask, &p, &why), ERR_CAPACITY);
    assert_non_null(strstr(why.s, "links of at most 5000 us"));
    ask.hop_us_max = 100000; // forced
    assert_int_equal(plan_make(&m, &c, &ask, &p, &why), OK);
    assert_int_equal(p.n_stage, 2);
}

static void says_what_is_short(void **state)
{
    (void)state;
    static struct cluster c;
    struct cost_model m = model_of(8, 1000 << 20);
    struct plan_ask ask = ask_of(PLAN_LATENCY);
    struct plan p;
    struct err_text why = {{0}};
    struct buf text = {0};
    memset(&c, 0, sizeof c);
    set_device(&c, 0, 10e9, 2e9);
    set_device(&c, 1, 10e9, 3e9);
    all_links(&c, 50, 1e8);
    assert_int_equal(plan_make(&m, &c, &ask, &p, &why), ERR_CAPACITY);
    uint64_t room = 2000000000 - 2000000000 / 100 * 8 + 3000000000 - 3000000000 / 100 * 8;
    struct cost_memory all = cost_memory_of(&m, &ask.cost, &c.devices[0], 0, 8);
    char needle[64];
    snprintf(needle, sizeof needle, "short by %llu bytes",
             (unsigned long long)(all.weights + all.kv + all.workspace + all.comms - room));
    assert_non_null(strstr(why.s, needle));
    plan_text(&m, &c, &ask, NULL, &text);
    snprintf(needle, sizeof needle, "short by %llu bytes",
             (unsigned long long)(cost_memory_sum(&all) - 2000000000));
    assert_non_null(strstr(text.data, "d0 alone: does not fit: weights"));
    assert_non_null(strstr(text.data, needle));
    assert_non_null(strstr(text.data, "d1 alone: does not fit"));
    buf_fini(&text);
}

static void explains_itself(void **state)
{
    (void)state;
    static struct cluster c;
    struct cost_model m = model_of(8, 1000 << 20);
    struct plan_ask ask = ask_of(PLAN_LATENCY);
    struct plan p;
    struct buf text = {0};
    memset(&c, 0, sizeof c);
    set_device(&c, 0, 10e9, 64e9);
    set_device(&c, 1, 10e9, 6e9);
    all_links(&c, 50, 1e8);
    ask.n_stage_min = 2;
    assert_int_equal(plan_make(&m, &c, &ask, &p, NULL), OK);
    plan_text(&m, &c, &ask, &p, &text);
    assert_non_null(strstr(text.data, "d0 alone: decode "));
    assert_non_null(strstr(text.data, "d1 alone: does not fit"));
    assert_non_null(strstr(text.data, "plan for latency: 2 stages"));
    assert_non_null(strstr(text.data, "with embedding"));
    assert_non_null(strstr(text.data, "with head"));
    buf_fini(&text);
}

static void refuses_senseless_asks(void **state)
{
    (void)state;
    static struct cluster c;
    struct cost_model m = model_of(4, 1 << 20);
    struct plan p = {.n_stage = 77};
    struct err_text why;
    memset(&c, 0, sizeof c);
    set_device(&c, 0, 10e9, 8e9);
    struct plan_ask ask = ask_of(PLAN_LATENCY);
    ask.n_stage_min = 2;
    assert_int_equal(plan_make(&m, &c, &ask, &p, &why), ERR_INVALID);
    ask = ask_of(PLAN_LATENCY);
    ask.cost.kv_tokens = 0;
    assert_int_equal(plan_make(&m, &c, &ask, &p, &why), ERR_INVALID);
    assert_non_null(strstr(why.s, "kv tokens: 0, allowed 1 to"));
    ask = ask_of(PLAN_LATENCY);
    ask.hop_us_max = NAN;
    assert_int_equal(plan_make(&m, &c, &ask, &p, &why), ERR_INVALID);
    ask = ask_of(PLAN_LATENCY);
    c.devices[0].read_bytes_per_s = NAN;
    assert_int_equal(plan_make(&m, &c, &ask, &p, &why), ERR_INVALID);
    c.devices[0].read_bytes_per_s = 1e9;
    m.n_layer = 0;
    assert_int_equal(plan_make(&m, &c, &ask, &p, &why), ERR_INVALID);
    assert_int_equal(p.n_stage, 77);
}

static void hash_names_the_assignment(void **state)
{
    (void)state;
    static struct cluster c;
    struct cost_model m = model_of(4, 1 << 20);
    struct plan_ask ask = ask_of(PLAN_LATENCY);
    struct plan a, b, other;
    memset(&c, 0, sizeof c);
    set_device(&c, 0, 10e9, 8e9);
    set_device(&c, 1, 10e9, 8e9);
    all_links(&c, 10, 1e9);
    assert_int_equal(plan_make(&m, &c, &ask, &a, NULL), OK);
    assert_int_equal(plan_make(&m, &c, &ask, &b, NULL), OK);
    assert_memory_equal(a.hash, b.hash, 32);
    ask.n_stage_min = 2;
    assert_int_equal(plan_make(&m, &c, &ask, &other, NULL), OK);
    assert_memory_not_equal(a.hash, other.hash, 32);
    ask.n_stage_min = 0;
    m.hash[5] ^= 1;
    assert_int_equal(plan_make(&m, &c, &ask, &other, NULL), OK);
    assert_memory_not_equal(a.hash, other.hash, 32);
}

// ---- size

static double plan_ms(const struct cost_model *m, const struct cluster *c,
                      const struct plan_ask *ask, struct plan *p, int64_t usual_us)
{
    struct err_text why = {{0}};
    const int64_t from = soon_now_us();
    if (plan_make(m, c, ask, p, &why)) fail_msg("%s", why.s);
    const double ms = (double)(soon_now_us() - from) / 1e3;
    assert_true(soon_is(from, usual_us));
    check_plan(m, c, ask, p);
    return ms;
}

static void large_clusters_are_quick(void **state)
{
    (void)state;
    static struct cluster c;
    struct cost_model m = model_of(96, 100 << 20);
    struct plan p;
    for (int goal = 0; goal < 3; goal++) {
        struct plan_ask ask = ask_of((enum plan_goal)goal);
        memset(&c, 0, sizeof c);
        for (int32_t i = 0; i < 16; i++)
            set_device(&c, i, 10e9, 2e9);
        all_links(&c, 20, 1e9);
        double alike = plan_ms(&m, &c, &ask, &p, 50000);
        assert_false(p.order_as_listed);
        for (int32_t i = 0; i < 16; i++)
            set_device(&c, i, i < 6 ? 10e9 : i < 12 ? 20e9 : 40e9, 2e9);
        double three = plan_ms(&m, &c, &ask, &p, 50000);
        assert_false(p.order_as_listed);
        memset(&c, 0, sizeof c);
        for (int32_t i = 0; i < 8; i++)
            set_device(&c, i, 10e9 + 1e9 * i, 3e9);
        all_links(&c, 20, 1e9);
        double eight = plan_ms(&m, &c, &ask, &p, 50000);
        assert_false(p.order_as_listed);
        for (int32_t i = 8; i < 16; i++)
            set_device(&c, i, 10e9 + 1e9 * i, 3e9);
        all_links(&c, 20, 1e9);
        double listed = plan_ms(&m, &c, &ask, &p, 50000);
        assert_true(p.order_as_listed);
        print_message("96 layers: 16 alike %.1f ms, 3 classes %.1f ms, 8 different %.1f ms, "
                      "16 different as listed %.1f ms\n",
                      alike, three, eight, listed);
    }
}

// More different devices than all orders can be tried of: exact for the order given.
static void listed_order_is_exact_too(void **state)
{
    (void)state;
    static struct cluster c;
    struct cost_model m = model_of(96, 100 << 20);
    struct plan_ask ask = ask_of(PLAN_THROUGHPUT);
    struct plan p;
    memset(&c, 0, sizeof c);
    for (int32_t i = 0; i < 16; i++)
        set_device(&c, i, 1e9 * (5 + (i * 7) % 16), 3e9);
    all_links(&c, 20, 1e9);
    ask.n_stage_min = ask.n_stage_max = 16;
    assert_int_equal(plan_make(&m, &c, &ask, &p, NULL), OK);
    assert_true(p.order_as_listed);
    check_plan(&m, &c, &ask, &p);
    // The shortest possible longest stage of this order, by bisection with a greedy fill.
    struct trial t = {.m = &m, .c = &c, .ask = &ask, .step = cost_decode_step(&ask.cost)};
    int64_t lo = 0, hi = (int64_t)1 << 50;
    while (hi - lo > 1) {
        int64_t mid = lo + (hi - lo) / 2;
        int32_t layer = 0;
        for (int32_t d = 0; d < 16; d++) {
            int32_t to = layer + 1, left = 15 - d;
            assert_int_equal(p.stages[d].members[0].device, d);
            while (to < 96 - left && stage_cost(&t, d, layer, to + 1) <= mid) {
                struct cost_memory mem =
                    cost_memory_of(&m, &ask.cost, &c.devices[d], layer, to + 1);
                if (cost_memory_sum(&mem) > c.devices[d].mem_free_bytes) break;
                to++;
            }
            if (stage_cost(&t, d, layer, to) > mid) break;
            layer = to;
        }
        if (layer == 96)
            hi = mid;
        else
            lo = mid;
    }
    assert_true(fabs(p.bottleneck_us - (double)hi / 1000) < 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_brute_force),
        cmocka_unit_test(one_device_is_best_for_one_stream),
        cmocka_unit_test(fewer_stages_on_ties),
        cmocka_unit_test(beats_a_split_by_memory),
        cmocka_unit_test(slow_links_are_refused),
        cmocka_unit_test(says_what_is_short),
        cmocka_unit_test(explains_itself),
        cmocka_unit_test(refuses_senseless_asks),
        cmocka_unit_test(hash_names_the_assignment),
        cmocka_unit_test(large_clusters_are_quick),
        cmocka_unit_test(listed_order_is_exact_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
