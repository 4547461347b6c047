// Which lane a request takes, from figures alone.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "coordinator/steer.h"

enum { LANES = 4 };

struct bench {
    struct steer steer;
    struct steer_lane lanes[LANES];
};

// Open near lanes of 8 slots and 100 pages; the request takes 5 of them.
static void bench_init(struct bench *b)
{
    memset(b, 0, sizeof *b);
    for (int i = 0; i < LANES; i++)
        b->lanes[i] =
            (struct steer_lane){.is_open = true, .n_slot = 8, .n_page_room = 100, .n_page = 5};
}

static uint32_t choose(const struct bench *b, uint64_t session)
{
    const struct steer_ask ask = {.session = session, .n_choice = 1};
    return steer_choose(&b->steer, b->lanes, LANES, &ask);
}

// A request of 1000 prompt tokens that asks for 100.
static uint32_t choose_long(const struct bench *b, uint64_t session)
{
    const struct steer_ask ask = {
        .session = session, .n_choice = 1, .n_prompt = 1000, .n_output = 100};
    return steer_choose(&b->steer, b->lanes, LANES, &ask);
}

static void test_least_loaded(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    assert_int_equal(choose(&b, 0), 0);
    b.lanes[0].n_running = b.lanes[1].n_running = 2;
    b.lanes[2].n_running = 1;
    assert_int_equal(choose(&b, 0), 3);
    b.lanes[3].n_running = 4; // of more slots: less loaded than the first
    b.lanes[3].n_slot = 32;
    b.lanes[2].is_open = false;
    assert_int_equal(choose(&b, 0), 3);
}

static void test_prefix_before_session_before_load(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    b.lanes[1].n_running = 3;
    steer_remember(&b.steer, 77, 1);
    assert_int_equal(choose(&b, 77), 1);
    assert_int_equal(choose(&b, 78), 0);
    assert_int_equal(choose(&b, 0), 0); // of no session
    b.lanes[2].n_known = 64;
    assert_int_equal(choose(&b, 77), 2);
    b.lanes[1].n_known = 64;
    assert_int_equal(choose(&b, 77), 1);
    b.lanes[1].n_running = 8; // full: the next best
    assert_int_equal(choose(&b, 77), 2);
}

static void test_room(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    b.lanes[0].n_running = 6;
    b.lanes[0].n_waiting = 1;
    assert_true(steer_has_room(&b.lanes[0], 1));
    assert_false(steer_has_room(&b.lanes[0], 2));
    assert_false(steer_is_full(&b.lanes[0], 2));
    assert_true(steer_is_full(&b.lanes[0], 3));
    b.lanes[1].n_page_room = 4;
    assert_false(steer_has_room(&b.lanes[1], 1));
    assert_true(steer_is_full(&b.lanes[1], 1));
    b.lanes[2].is_open = false;
    assert_false(steer_has_room(&b.lanes[2], 1));
}

static void test_far_lanes_take_what_is_left(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    b.lanes[0].is_far = b.lanes[1].is_far = true;
    b.lanes[0].n_known = 1000; // however much it knows
    steer_remember(&b.steer, 5, 0);
    b.lanes[2].n_running = b.lanes[3].n_running = 7;
    assert_int_equal(choose(&b, 5), 2);
    b.lanes[2].n_running = b.lanes[3].n_running = 8;
    assert_int_equal(choose(&b, 5), 0);
    b.lanes[0].n_running = b.lanes[1].n_running = 8;
    b.lanes[2].n_waiting = 2; // all are full: the shortest near queue
    b.lanes[3].n_waiting = 1;
    assert_int_equal(choose(&b, 5), 3);
    b.lanes[2].is_open = b.lanes[3].is_open = false;
    assert_int_equal(choose(&b, 5), 0);
    b.lanes[0].is_open = b.lanes[1].is_open = false;
    assert_int_equal(choose(&b, 5), STEER_NONE);
}

static void test_sessions_are_forgotten_for_newer_ones(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    steer_remember(&b.steer, 9, 3);
    steer_remember(&b.steer, 0, 2); // none
    assert_int_equal(choose(&b, 9), 3);
    steer_remember(&b.steer, 9 + STEER_HOMES, 1);
    assert_int_equal(choose(&b, 9), 0);
    assert_int_equal(choose(&b, 9 + STEER_HOMES), 1);
}

// Lanes 0 and 1 alike, 2 three times as fast, 3 closed.
static void speeds_init(struct bench *b)
{
    bench_init(b);
    for (int i = 0; i < 3; i++) {
        const double f = i == 2 ? 3 : 1;
        b->lanes[i].step_us = 3000 / f;
        b->lanes[i].row_us = 600 / f;
        b->lanes[i].prompt_us = 300 / f;
    }
    b->lanes[3].is_open = false;
}

static void test_expected_finish(void **state)
{
    (void)state;
    struct bench b;
    speeds_init(&b);
    const struct steer_ask ask = {.n_choice = 1, .n_prompt = 1000, .n_output = 100};
    assert_true(steer_finish_us(&b.lanes[0], &ask) == 1000 * 300 + 100 * 3600.0);
    // Most go to the fast lane, some to the slow ones.
    uint32_t n[LANES] = {0};
    for (int i = 0; i < 15; i++) {
        const uint32_t at = choose_long(&b, 0);
        n[at]++;
        b.lanes[at].n_running++;
    }
    assert_true(n[2] == b.lanes[2].n_slot && n[0] && n[1] && n[0] + n[1] == 7);
    // All are full: of the queues it takes the one that ends first, as long as it does.
    for (int i = 0; i < 3; i++)
        b.lanes[i].n_running = b.lanes[i].n_slot;
    for (int i = 0; i < 40; i++) {
        const uint32_t at = choose_long(&b, 0);
        b.lanes[at].n_waiting++;
    }
    assert_true(b.lanes[2].n_waiting > 20 && b.lanes[0].n_waiting > 0);
    b.lanes[1].step_us = 0; // not known: shares of the slots count again
    b.lanes[1].n_waiting = 0;
    b.lanes[2].is_open = false;
    assert_int_equal(choose_long(&b, 0), 1);
}

static void test_session_before_speed(void **state)
{
    (void)state;
    struct bench b;
    speeds_init(&b);
    assert_int_equal(choose_long(&b, 7), 2);
    steer_remember(&b.steer, 7, 1);
    assert_int_equal(choose_long(&b, 7), 1);
    b.lanes[0].n_known = 400; // a beginning that many share is only worth its time
    assert_int_equal(choose_long(&b, 7), 1);
    assert_int_equal(choose_long(&b, 0), 2);
    b.lanes[0].n_known = 600; // its own history
    assert_int_equal(choose_long(&b, 7), 0);
    assert_int_equal(choose_long(&b, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_least_loaded),
        cmocka_unit_test(test_prefix_before_session_before_load),
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_far_lanes_take_what_is_left),
        cmocka_unit_test(test_sessions_are_forgotten_for_newer_ones),
        cmocka_unit_test(test_expected_finish),
        cmocka_unit_test(test_session_before_speed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
