// Placing experts: loads within the bound, memory kept, what is good stays, copies where they help.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "topology/experts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { M = SHARE_MEMBERS_MAX, LAYERS = 6, EXPERTS = 64 };
#define BYTES ((uint64_t)1000)

struct scene {
    struct arena arena;
    struct experts_stage stage;
    double count[LAYERS * EXPERTS];
    uint64_t bytes[LAYERS];
    struct experts_ask ask;
    uint32_t random;
};

static double draw(struct scene *s)
{
    s->random = s->random * 1664525 + 1013904223;
    return (double)(s->random >> 8) / (1 << 24);
}

static void begin(struct scene *s, uint32_t seed, int32_t n_member, const double *speed)
{
    *s = (struct scene){.random = seed};
    arena_init(&s->arena, 0);
    s->stage = (struct experts_stage){.layer_to = LAYERS, .n_member = n_member};
    memcpy(s->stage.speed, speed, (size_t)n_member * sizeof *speed);
    share_parts(speed, n_member, s->stage.part);
    for (int32_t l = 0; l < LAYERS; l++)
        s->bytes[l] = BYTES;
    s->ask = (struct experts_ask){.n_layer = LAYERS,
                                  .n_expert = EXPERTS,
                                  .count = s->count,
                                  .expert_bytes = s->bytes,
                                  .stages = &s->stage,
                                  .n_stage = 1};
}

// Zipf-like, in another order in every layer.
static void skew(struct scene *s)
{
    for (int32_t i = 0; i < LAYERS * EXPERTS; i++)
        s->count[i] = 1000 / (1 + floor(draw(s) * EXPERTS));
}

static struct experts_plan place(struct scene *s)
{
    struct experts_plan p;
    assert_int_equal(experts_place(&s->ask, &s->arena, &p), OK);
    assert_true(p.cost <= p.cost_now * 1.0000001);
    return p;
}

static void end(struct scene *s)
{
    arena_fini(&s->arena);
}

// Bytes of experts at each member by a table (NULL: by part), copies included.
static void bytes_of(const struct scene *s, const struct share_experts *t, uint64_t bytes[M])
{
    struct share share = {.split = SPLIT_EXPERTS, .n_member = s->stage.n_member};
    memcpy(share.part, s->stage.part, sizeof share.part);
    if (t) share.experts = *t;
    memset(bytes, 0, M * sizeof *bytes);
    for (int32_t l = 0; l < LAYERS; l++)
        for (int32_t e = 0; e < EXPERTS; e++)
            for (int32_t m = 0; m < share.n_member; m++)
                bytes[m] += share_owns(&share, m, l, e, EXPERTS) ? s->bytes[l] : 0;
}

static void check_memory(const struct scene *s, const struct share_experts *t)
{
    uint64_t now[M], then[M];
    bytes_of(s, s->ask.now, now);
    bytes_of(s, t, then);
    for (int32_t m = 0; m < s->stage.n_member; m++)
        if (then[m] > now[m] + s->stage.spare_bytes[m])
            fail_msg("member %d: %llu bytes, had %llu and %llu spare", m,
                     (unsigned long long)then[m], (unsigned long long)now[m],
                     (unsigned long long)s->stage.spare_bytes[m]);
}

static void check_table(const struct scene *s, const struct share_experts *t)
{
    assert_int_equal(t->n_layer, LAYERS);
    assert_int_equal(t->n_expert, EXPERTS);
    for (int32_t i = 0; i < LAYERS * EXPERTS; i++)
        assert_true(t->owner[i] < s->stage.n_member);
    for (uint32_t i = 0; i < t->n_replica; i++) {
        const struct share_replica *r = &t->replicas[i], *before = r - 1;
        assert_true(r->layer < LAYERS && r->expert < EXPERTS);
        assert_true(r->member < (uint32_t)s->stage.n_member);
        assert_int_not_equal(t->owner[r->layer * EXPERTS + r->expert], r->member);
        if (i == 0) continue;
        const uint64_t a = ((uint64_t)before->layer << 40) + (before->expert << 8) + before->member;
        assert_true(a < ((uint64_t)r->layer << 40) + (r->expert << 8) + r->member);
    }
}

// Graham's bound of giving out the longest first, for machines of different speeds: with room, in
// every layer.
static void check_balance(const struct scene *s, const struct experts_plan *p)
{
    double total = 0, bound = 0, speed = 0;
    for (int32_t m = 0; m < s->stage.n_member; m++)
        speed += s->stage.speed[m];
    for (int32_t l = 0; l < LAYERS; l++) {
        double load[M] = {0}, sum = 0, max = 0, slowest = 0;
        for (int32_t e = 0; e < EXPERTS; e++) {
            const double n = s->count[l * EXPERTS + e];
            load[p->table.owner[l * EXPERTS + e]] += n;
            sum += n;
            max = n > max ? n : max;
        }
        for (int32_t m = 0; m < s->stage.n_member; m++)
            slowest = fmax(slowest, load[m] / s->stage.speed[m]);
        const double most = (sum + (s->stage.n_member - 1) * max) / speed;
        if (slowest > most * 1.011) fail_msg("layer %d: %g, bound %g", l, slowest, most);
        total += slowest;
        bound += most;
    }
    assert_true(total <= bound * 1.011);
}

static const double even[4] = {1, 1, 1, 1}, uneven[5] = {4, 1, 2, 0.5, 1};

static void loads_follow_speeds(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed <= 40; seed++) {
        struct scene s;
        begin(&s, seed, 2 + (int32_t)(seed % 4), seed % 2 ? uneven : even);
        if (seed % 2 == 0 && s.stage.n_member > 4) continue;
        skew(&s);
        for (int32_t m = 0; m < s.stage.n_member; m++)
            s.stage.spare_bytes[m] = LAYERS * EXPERTS * BYTES;
        const struct experts_plan p = place(&s);
        check_table(&s, &p.table);
        check_memory(&s, &p.table);
        check_balance(&s, &p);
        end(&s);
    }
}

static void memory_is_never_exceeded(void **state)
{
    (void)state;
    double gains = 0;
    for (uint32_t seed = 1; seed <= 40; seed++) {
        struct scene s;
        begin(&s, seed, 3, uneven);
        skew(&s);
        for (int32_t m = 0; m < s.stage.n_member; m++)
            s.stage.spare_bytes[m] = (uint64_t)(draw(&s) * 10) * BYTES * (seed % 3);
        const struct experts_plan p = place(&s);
        check_table(&s, &p.table);
        check_memory(&s, &p.table);
        gains += experts_gain(&p);
        // From the new table on, with the room that is left, nothing worth the journey is found.
        struct experts_stage next = s.stage;
        uint64_t was[M], is[M];
        bytes_of(&s, NULL, was);
        bytes_of(&s, &p.table, is);
        for (int32_t m = 0; m < next.n_member; m++)
            next.spare_bytes[m] = was[m] + s.stage.spare_bytes[m] - is[m];
        s.stage = next;
        s.ask.now = &p.table;
        const struct experts_plan q = place(&s);
        check_memory(&s, &q.table);
        assert_true(experts_gain(&q) < 0.05);
        assert_true(q.n_moved <= LAYERS * EXPERTS / 20);
        end(&s);
    }
    assert_true(gains > 0); // swaps need no room
}

static void what_is_even_stays(void **state)
{
    (void)state;
    for (int32_t n = 2; n <= 4; n++) {
        struct scene s;
        begin(&s, 1, n, even);
        for (int32_t i = 0; i < LAYERS * EXPERTS; i++)
            s.count[i] = 100;
        const struct experts_plan p = place(&s);
        assert_int_equal(p.n_moved, 0);
        assert_int_equal(p.table.n_replica, 0);
        assert_true(experts_gain(&p) == 0);
        // Nobody asked anything of anybody yet.
        memset(s.count, 0, sizeof s.count);
        const struct experts_plan q = place(&s);
        assert_int_equal(q.n_moved, 0);
        assert_int_equal(q.table.n_replica, 0);
        assert_true(experts_gain(&q) == 0);
        end(&s);
    }
}

static void few_experts_travel(void **state)
{
    (void)state;
    struct scene s;
    begin(&s, 1, 2, even);
    for (int32_t i = 0; i < LAYERS * EXPERTS; i++)
        s.count[i] = 100;
    // One member got all of one layer's warm experts: two of the four must go.
    for (int32_t e = 0; e < 4; e++)
        s.count[2 * EXPERTS + e] = 5000;
    s.stage.spare_bytes[0] = s.stage.spare_bytes[1] = BYTES;
    const struct experts_plan p = place(&s);
    assert_in_range(p.n_moved, 2, 4); // moved, or swapped for cold ones
    assert_true(experts_gain(&p) > 0.1);
    for (int32_t i = 0; i < LAYERS * EXPERTS; i++)
        if (i / EXPERTS != 2) assert_int_equal(p.table.owner[i], i % EXPERTS >= EXPERTS / 2);
    end(&s);
}

// One expert that everybody wants cannot be balanced by moving it.
static void a_hot_expert_gets_copies(void **state)
{
    (void)state;
    struct scene s;
    begin(&s, 1, 4, even);
    for (int32_t i = 0; i < LAYERS * EXPERTS; i++)
        s.count[i] = 1;
    s.count[3 * EXPERTS + 7] = 3000;
    const struct experts_plan none = place(&s);
    assert_int_equal(none.table.n_replica, 0); // no room
    for (int32_t m = 0; m < 4; m++)
        s.stage.spare_bytes[m] = 2 * BYTES;
    const struct experts_plan p = place(&s);
    check_table(&s, &p.table);
    check_memory(&s, &p.table);
    assert_true(p.table.n_replica >= 3);
    assert_int_equal(p.table.replicas[0].layer, 3);
    assert_int_equal(p.table.replicas[0].expert, 7);
    // The hot layer takes a quarter, or nearly: it had nearly all of the time.
    assert_true(experts_gain(&p) > 2);

    double load[LAYERS * M];
    assert_int_equal(experts_loads(&s.ask, &p.table, &s.arena, load), OK);
    for (int32_t m = 0; m < 4; m++)
        assert_in_range((uint64_t)load[3 * M + m], 700, 850);

    // It stays with them, and when it has cooled down they give the room back.
    s.ask.now = &p.table;
    memset(s.stage.spare_bytes, 0, sizeof s.stage.spare_bytes);
    const struct experts_plan same = place(&s);
    assert_true(same.table.n_replica >= 3);
    assert_true(experts_gain(&same) < 0.05);
    s.count[3 * EXPERTS + 7] = 1;
    const struct experts_plan cool = place(&s);
    assert_int_equal(cool.table.n_replica, 0);
    end(&s);
}

// Two stages with groups of their own, a dense layer, a stage of one.
static void stages_do_not_mix(void **state)
{
    (void)state;
    struct scene s;
    begin(&s, 9, 2, even);
    skew(&s);
    struct experts_stage stages[3] = {s.stage, s.stage, s.stage};
    stages[0].layer_to = 2;
    stages[1].layer_from = 2;
    stages[1].layer_to = 5;
    stages[1].n_member = 3;
    share_parts(uneven, 3, stages[1].part);
    memcpy(stages[1].speed, uneven, 3 * sizeof *uneven);
    stages[2].layer_from = 5;
    stages[2].n_member = 1;
    for (int i = 0; i < 3; i++)
        for (int m = 0; m < 3; m++)
            stages[i].spare_bytes[m] = 100 * BYTES;
    s.bytes[0] = 0; // a dense layer
    s.ask.stages = stages;
    s.ask.n_stage = 3;
    const struct experts_plan p = place(&s);
    int seen = 0;
    for (int32_t l = 0; l < LAYERS; l++)
        for (int32_t e = 0; e < EXPERTS; e++) {
            const uint8_t m = p.table.owner[l * EXPERTS + e];
            assert_true(m < (l == 0 || l == 5 ? 1 : l < 2 ? 2 : 3));
            seen |= m == 2;
        }
    assert_true(seen);
    for (uint32_t i = 0; i < p.table.n_replica; i++)
        assert_in_range(p.table.replicas[i].layer, 1, 4);
    end(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loads_follow_speeds),      cmocka_unit_test(memory_is_never_exceeded),
        cmocka_unit_test(what_is_even_stays),       cmocka_unit_test(few_experts_travel),
        cmocka_unit_test(a_hot_expert_gets_copies), cmocka_unit_test(stages_do_not_mix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
