// Slow workers: compared with the others of their lane by what was planned.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/fleet/fleet_priv.h"
#include "proto/base/log.h"

static void test_factor(void **state)
{
    (void)state;
    const double pair[] = {1, 3}, three[] = {0.1, 0.1, 0.25}, alone[] = {5};
    assert_true(straggling_factor(pair, 2, 0) < 1);
    assert_true(straggling_factor(pair, 2, 1) == 3);
    assert_true(straggling_factor(three, 3, 0) == 1); // the slow one does not make others fast
    assert_true(straggling_factor(three, 3, 2) == 2.5);
    assert_true(straggling_factor(alone, 1, 0) == 0);
}

struct scene {
    struct fleet *f;
    struct tether tether;
};

// Two stages of which the second has three times the work.
static void scene_init(struct scene *s)
{
    memset(s, 0, sizeof *s);
    s->f = calloc(1, sizeof *s->f);
    assert_non_null(s->f);
    struct fleet_lane *fl = &s->f->lanes[0];
    fl->fleet = s->f;
    fl->lane.state = LANE_READY;
    struct place *p = &fl->lane.place;
    p->n_stage = p->n_member = 2;
    for (uint32_t i = 0; i < 2; i++) {
        p->stages[i] = (struct place_stage){.first = i, .n_member = 1, .decode_us = i ? 300 : 100};
        p->members[i] = (struct place_member){
            .worker = i, .stage = i, .part = SHARE_TOTAL, .decode_us = i ? 300 : 100};
        s->f->workers[i] = (struct fleet_worker){.fleet = s->f,
                                                 .number = i,
                                                 .tether = &s->tether,
                                                 .hello = {.name = i ? "bert" : "anna"}};
    }
}

// Seconds of load, and how much of them each worked.
static void load(struct scene *s, double span, double anna, double bert)
{
    const double parts[] = {anna, bert};
    for (uint32_t i = 0; i < 2; i++)
        straggling_count(&s->f->workers[i], (uint64_t)(span * 1e6 * parts[i]),
                         (uint64_t)(span * 1e6));
    straggling_tick(&s->f->lanes[0]);
}

static void test_slow_and_fast_again(void **state)
{
    (void)state;
    struct scene s;
    scene_init(&s);
    const struct fleet_worker *anna = &s.f->workers[0], *bert = &s.f->workers[1];
    load(&s, 20, 0.3, 0.9);
    assert_true(anna->slow_factor == 0 && bert->slow_factor == 0);
    load(&s, 5, 0.9, 0.9); // too short a time to tell
    assert_true(anna->slow_factor == 0);
    load(&s, 15, 0.9, 0.9);
    assert_true(anna->slow_factor > 2.9 && anna->slow_factor < 3.1);
    assert_true(bert->slow_factor == 0);
    load(&s, 20, 0.51, 0.9); // 1.7: not yet
    assert_true(anna->slow_factor > 1.6);
    load(&s, 20, 0.35, 0.9);
    assert_true(anna->slow_factor == 0);
    load(&s, 20, 0.3, 0.1); // nobody waits for it
    assert_true(anna->slow_factor == 0);
    straggling_reset(&s.f->workers[0]);
    free(s.f);
}

// One stage of a lead and an owner of half the experts each.
static void test_members_of_an_experts_group(void **state)
{
    (void)state;
    struct scene s;
    scene_init(&s);
    struct place *p = &s.f->lanes[0].lane.place;
    p->n_stage = 1;
    p->stages[0] = (struct place_stage){
        .layer_to = 1, .split = SPLIT_EXPERTS, .n_member = 2, .decode_us = 150};
    for (uint32_t i = 0; i < 2; i++)
        p->members[i] = (struct place_member){.worker = i,
                                              .part = SHARE_TOTAL / 2,
                                              .decode_us = i ? 50 : 150,
                                              .expert_us = 50,
                                              .expert_part = 0.5};
    load(&s, 20, 0.9, 0.3);
    assert_true(s.f->workers[0].slow_factor == 0 && s.f->workers[1].slow_factor == 0);
    load(&s, 20, 0.9, 0.9); // three times as long as its half of the experts should take
    assert_true(s.f->workers[1].slow_factor > 2.9 && s.f->workers[1].slow_factor < 3.1);
    free(s.f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_factor),
        cmocka_unit_test(test_slow_and_fast_again),
        cmocka_unit_test(test_members_of_an_experts_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
