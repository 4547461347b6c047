// The lane's state machine by script: one event after the other, with the time in hand.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "coordinator/fleet/lane.h"

enum { S = 1000000, LAYERS = 12 };

struct bench {
    struct lane lane;
    int64_t now;
    uint64_t epochs;
    uint32_t least;   // workers a placement needs
    uint32_t members; // of each stage
    char log[2048];   // what the lane did since it was last asked
};

// Splits LAYERS evenly over as many stages as wanted, or as there are workers for.
static err_t place(void *arg, const uint32_t *workers, uint32_t n, struct place *out,
                   struct err_text *why)
{
    struct bench *b = arg;
    if (n < b->least) return err_say(why, ERR_CAPACITY, "needs %u workers, has %u", b->least, n);
    uint32_t most = b->lane.config.n_wanted < n ? b->lane.config.n_wanted : n;
    const uint32_t m = b->members ? b->members : 1;
    memset(out, 0, sizeof *out);
    out->n_stage = most / m;
    for (uint32_t i = 0; i < out->n_stage; i++) {
        out->stages[i] = (struct place_stage){.layer_from = LAYERS * i / out->n_stage,
                                              .layer_to = LAYERS * (i + 1) / out->n_stage,
                                              .first = i * m,
                                              .n_member = m};
        for (uint32_t k = 0; k < m; k++)
            out->members[out->n_member++] =
                (struct place_member){.worker = workers[i * m + k], .stage = i};
    }
    out->settings = (struct plan_settings){.ctx = 64, .page_tok = 32, .n_page = 8, .in_flight = 2};
    return OK;
}

static void bench_init(struct bench *b, uint32_t n_expect, uint32_t n_stage, uint32_t least)
{
    memset(b, 0, sizeof *b);
    b->least = least;
    struct lane_config c = {.n_expect = n_expect,
                            .n_wanted = n_stage,
                            .grace_us = 10 * S,
                            .last_epoch = &b->epochs,
                            .place = place,
                            .place_arg = b};
    lane_init(&b->lane, &c, b->now);
}

// The actions so far, one letter and the worker each: P1 plan, C connect, L left, D drop, X struck,
// S suspend, V serve, G give up.
static const char *took(struct bench *b)
{
    struct lane_action a;
    b->log[0] = 0;
    while (lane_next(&b->lane, &a)) {
        size_t n = strlen(b->log);
        if (a.kind >= LANE_SUSPEND)
            snprintf(b->log + n, sizeof b->log - n, "%c ", "PCLDXSVG"[a.kind]);
        else
            snprintf(b->log + n, sizeof b->log - n, "%c%u ", "PCLDXSVG"[a.kind], a.worker);
    }
    return b->log;
}

static void beat(struct bench *b, uint32_t worker, uint64_t progress, uint64_t step_done)
{
    struct msg_heartbeat m = {.epoch = b->lane.epoch, .progress = progress, .step_done = step_done};
    lane_beat(&b->lane, worker, &m, b->now);
}

// Time passes with all of `workers` (a bit mask) beating; `moving` of them with progress.
static void pass(struct bench *b, int64_t us, uint32_t workers, uint32_t moving, bool is_busy)
{
    static uint64_t progress = 1;
    for (int64_t end = b->now + us; b->now < end; b->now += 125000) {
        progress++;
        for (uint32_t i = 0; i < 8; i++)
            if (workers >> i & 1)
                beat(b, i, moving >> i & 1 ? progress : b->lane.workers[i].progress,
                     b->lane.workers[i].step_done);
        lane_tick(&b->lane, is_busy, b->now);
    }
}

static void prepare(struct bench *b, uint32_t worker)
{
    struct msg_prepared m = {.epoch = b->lane.epoch, .settings = b->lane.place.settings};
    lane_prepared(&b->lane, worker, &m, b->now);
}

static void link(struct bench *b, uint32_t worker)
{
    struct msg_linked m = {.epoch = b->lane.epoch};
    lane_linked(&b->lane, worker, &m, b->now);
}

static void give_up(struct bench *b, uint32_t worker)
{
    struct msg_failed m = {.epoch = b->lane.epoch, .code = ERR_MODEL, .why = "bad tensor"};
    lane_failed(&b->lane, worker, &m, b->now);
}

// Two workers, two stages, serving as epoch 1.
static void bring_up(struct bench *b, uint32_t least)
{
    bench_init(b, 2, 2, least);
    lane_join(&b->lane, 0, true, b->now);
    assert_string_equal(took(b), "");
    assert_int_equal(b->lane.state, LANE_WAITING);
    lane_join(&b->lane, 1, true, b->now);
    assert_string_equal(took(b), "P0 P1 ");
    prepare(b, 0);
    assert_string_equal(took(b), "");
    prepare(b, 1);
    assert_string_equal(took(b), "C0 C1 ");
    link(b, 1);
    link(b, 0);
    assert_string_equal(took(b), "V ");
    assert_int_equal(b->lane.state, LANE_READY);
    assert_int_equal(b->lane.epoch, 1);
}

static void serves(struct bench *b, const char *plan)
{
    assert_string_equal(took(b), plan);
    assert_int_equal(b->lane.state, LANE_LOADING);
    uint32_t n = b->lane.place.n_member;
    for (uint32_t i = 0; i < n; i++)
        prepare(b, b->lane.place.members[i].worker);
    took(b);
    for (uint32_t i = 0; i < n; i++)
        link(b, b->lane.place.members[i].worker);
    assert_string_equal(took(b), "V ");
}

static void test_worker_lost(void **state)
{
    (void)state;
    struct bench b;
    bring_up(&b, 1);
    lane_lost(&b.lane, 0, "reset", b.now);
    serves(&b, "L0 S P1 ");
    assert_int_equal(b.lane.epoch, 2);
    assert_int_equal(b.lane.place.n_stage, 1);
    // It comes back: used only when nothing runs.
    lane_join(&b.lane, 0, true, b.now);
    pass(&b, 1 * S, 3, 3, true);
    assert_string_equal(took(&b), "");
    pass(&b, 125000, 3, 3, false);
    serves(&b, "S P0 P1 ");
    assert_int_equal(b.lane.place.n_stage, 2);
}

static void test_no_capacity(void **state)
{
    (void)state;
    struct bench b;
    bring_up(&b, 2);
    lane_lost(&b.lane, 1, "reset", b.now);
    assert_string_equal(took(&b), "L1 S ");
    assert_int_equal(b.lane.state, LANE_NO_CAPACITY);
    assert_string_equal(b.lane.why.s, "needs 2 workers, has 1");
    pass(&b, 10 * S, 1, 1, true);
    assert_string_equal(took(&b), "");
    pass(&b, S / 2, 1, 1, true);
    assert_string_equal(took(&b), "G "); // once
    pass(&b, 20 * S, 1, 1, true);
    assert_string_equal(took(&b), "");
    lane_join(&b.lane, 3, true, b.now);
    serves(&b, "P0 P3 ");
}

static void test_silence(void **state)
{
    (void)state;
    struct bench b;
    bring_up(&b, 1);
    pass(&b, 1 * S, 1, 1, true); // worker 1 stops for a second: nothing
    beat(&b, 1, 7, 0);
    assert_string_equal(took(&b), "");
    int64_t stopped = b.now;
    while (b.lane.state == LANE_READY)
        pass(&b, 125000, 1, 1, true);
    assert_in_range(b.now - stopped, 2 * S, 3 * S);
    assert_string_equal(took(&b), "D1 S P0 ");
}

static void test_own_pause_blames_nobody(void **state)
{
    (void)state;
    struct bench b;
    bring_up(&b, 1);
    pass(&b, 1 * S, 3, 3, true);
    b.now += 30 * S; // the coordinator was stopped
    lane_tick(&b.lane, true, b.now);
    assert_string_equal(took(&b), "");
    pass(&b, 1 * S, 0, 0, true);
    assert_string_equal(took(&b), "");
}

static void test_stuck_step(void **state)
{
    (void)state;
    struct bench b;
    bring_up(&b, 1);
    lane_sent(&b.lane, 1, b.now);
    beat(&b, 0, 50, 1); // stage 0 is through, stage 1 stands
    int64_t sent = b.now;
    while (b.lane.state == LANE_READY && b.now < sent + 60 * S)
        pass(&b, 125000, 3, 1, true);
    assert_in_range(b.now - sent, 5 * S, 6 * S);
    assert_string_equal(took(&b), "D1 S P0 ");
}

static void test_slow_step_is_not_stuck(void **state)
{
    (void)state;
    struct bench b;
    bring_up(&b, 1);
    lane_sent(&b.lane, 1, b.now);
    pass(&b, 100 * S, 3, 3, true);
    assert_string_equal(took(&b), "");
    pass(&b, 250 * S, 3, 3, true); // but for ever is too long
    assert_string_equal(took(&b), "D0 S P1 ");
}

static void test_result_withheld(void **state)
{
    (void)state;
    struct bench b;
    bring_up(&b, 1);
    lane_sent(&b.lane, 1, b.now);
    beat(&b, 0, 50, 1);
    beat(&b, 1, 50, 1);
    int64_t sent = b.now;
    while (b.lane.state == LANE_READY && b.now < sent + 60 * S)
        pass(&b, 125000, 3, 3, true);
    assert_in_range(b.now - sent, 8 * S, 9 * S);
    assert_string_equal(took(&b), "D1 S P0 ");
}

static void test_three_strikes(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, 1, 1);
    lane_join(&b.lane, 0, true, b.now);
    assert_string_equal(took(&b), "P0 ");
    give_up(&b, 0);
    assert_string_equal(took(&b), "X0 P0 ");
    give_up(&b, 0);
    assert_string_equal(took(&b), "X0 P0 ");
    give_up(&b, 0);
    assert_string_equal(took(&b), "X0 ");
    assert_int_equal(b.lane.workers[0].role, LANE_OUT);
    assert_int_equal(b.lane.state, LANE_NO_CAPACITY);
    assert_int_equal(b.lane.why_code, ERR_MODEL);
    assert_non_null(strstr(b.lane.why.s, "bad tensor"));
    // Another worker is used; the first again once it has reconnected.
    lane_join(&b.lane, 1, true, b.now);
    assert_string_equal(took(&b), "P1 ");
    lane_lost(&b.lane, 0, "closed", b.now);
    assert_string_equal(took(&b), "L0 ");
    lane_join(&b.lane, 0, true, b.now);
    lane_lost(&b.lane, 1, "closed", b.now);
    assert_string_equal(took(&b), "L1 P0 ");
}

static void test_slow_strikes_are_forgiven(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, 1, 1);
    lane_join(&b.lane, 0, true, b.now);
    for (int i = 0; i < 10; i++) {
        give_up(&b, 0);
        pass(&b, 31 * S, 1, 1, true);
    }
    assert_int_equal(b.lane.state, LANE_LOADING);
}

static void test_deadlines(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 2, 2, 1);
    lane_join(&b.lane, 0, true, b.now);
    lane_join(&b.lane, 1, true, b.now);
    prepare(&b, 0);
    took(&b);
    pass(&b, 599 * S, 3, 3, true);
    assert_string_equal(took(&b), "");
    pass(&b, 2 * S, 3, 3, true);
    assert_string_equal(took(&b), "D1 P0 ");
    prepare(&b, 0);
    assert_string_equal(took(&b), "C0 ");
    pass(&b, 11 * S, 1, 1, true);
    assert_string_equal(took(&b), "X0 P0 ");
}

// A member that copies the model takes as long as bytes come, and ten minutes more.
static void test_copying_may_take_long(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 2, 2, 1);
    lane_join(&b.lane, 0, true, b.now);
    lane_join(&b.lane, 1, true, b.now);
    assert_string_equal(took(&b), "P0 P1 ");
    prepare(&b, 0);
    struct msg_heartbeat m = {.epoch = b.lane.epoch, .progress = 5, .fetch_bytes = 100};
    for (int minute = 0; minute < 30; minute++) {
        m.progress++;
        lane_beat(&b.lane, 1, &m, b.now);
        pass(&b, 60 * (int64_t)S, 3, 1, false);
        assert_string_equal(took(&b), "");
    }
    pass(&b, 10 * 60 * (int64_t)S, 3, 1, false);
    assert_string_equal(took(&b), "D1 P0 ");
}

static void test_old_epochs_change_nothing(void **state)
{
    (void)state;
    struct bench b;
    bring_up(&b, 1);
    lane_lost(&b.lane, 0, "reset", b.now);
    took(&b);
    struct msg_prepared p = {.epoch = 1};
    struct msg_linked l = {.epoch = 1};
    struct msg_failed f = {.epoch = 1, .why = "late"};
    lane_prepared(&b.lane, 1, &p, b.now);
    lane_linked(&b.lane, 1, &l, b.now);
    lane_failed(&b.lane, 1, &f, b.now);
    assert_false(lane_result(&b.lane, 1, 1, 1, b.now));
    assert_string_equal(took(&b), "");
    assert_int_equal(b.lane.state, LANE_LOADING);
    assert_int_equal(b.lane.workers[1].role, LANE_LOADER);
}

static void test_violations(void **state)
{
    (void)state;
    struct bench b;
    bring_up(&b, 1); // a result of a step that was not sent
    assert_false(lane_result(&b.lane, 1, 1, 1, b.now));
    assert_string_equal(took(&b), "D1 S P0 ");
    bring_up(&b, 1); // from a stage that is not the last
    lane_sent(&b.lane, 1, b.now);
    assert_false(lane_result(&b.lane, 0, 1, 1, b.now));
    assert_string_equal(took(&b), "D0 S P1 ");
    bring_up(&b, 1); // twice
    lane_sent(&b.lane, 1, b.now);
    lane_sent(&b.lane, 2, b.now);
    assert_true(lane_result(&b.lane, 1, 1, 1, b.now));
    assert_false(lane_result(&b.lane, 1, 1, 1, b.now));
    assert_string_equal(took(&b), "D1 S P0 ");
    bring_up(&b, 1); // out of order
    lane_sent(&b.lane, 1, b.now);
    lane_sent(&b.lane, 2, b.now);
    assert_false(lane_result(&b.lane, 1, 1, 2, b.now));
    assert_string_equal(took(&b), "D1 S P0 ");
    bring_up(&b, 1); // from the future
    lane_sent(&b.lane, 1, b.now);
    assert_false(lane_result(&b.lane, 1, 2, 1, b.now));
    assert_string_equal(took(&b), "D1 S P0 ");
    bring_up(&b, 1); // PREPARED while serving
    prepare(&b, 0);
    assert_string_equal(took(&b), "D0 S P1 ");
}

static void test_effective_settings(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, 1, 1);
    lane_join(&b.lane, 0, true, b.now);
    took(&b);
    struct msg_prepared m = {.epoch = b.lane.epoch, .settings = b.lane.place.settings};
    m.settings.n_page--;
    lane_prepared(&b.lane, 0, &m, b.now);
    struct lane_action a;
    assert_true(lane_next(&b.lane, &a));
    assert_int_equal(a.kind, LANE_DROP);
    assert_true(a.is_final);
    assert_non_null(strstr(a.why.s, "n_page"));
    assert_false(lane_next(&b.lane, &a));
    assert_int_equal(b.lane.state, LANE_NO_CAPACITY);
}

static void test_workers_without_the_model(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 2, 2, 1);
    lane_join(&b.lane, 0, true, b.now);
    lane_join(&b.lane, 1, false, b.now);
    assert_string_equal(took(&b), "");
    assert_int_equal(b.lane.state, LANE_WAITING);
    lane_join(&b.lane, 2, true, b.now);
    assert_string_equal(took(&b), "P0 P2 ");
    lane_lost(&b.lane, 1, "closed", b.now);
    assert_string_equal(took(&b), "L1 ");
}

static void test_two_at_once(void **state)
{
    (void)state;
    struct bench b;
    bring_up(&b, 1);
    lane_join(&b.lane, 2, true, b.now);
    while (b.lane.state == LANE_READY)
        pass(&b, 125000, 4, 4, true);
    // One new plan, which names no dead worker.
    assert_string_equal(took(&b), "D0 D1 S P2 ");
}

static void test_step_times(void **state)
{
    (void)state;
    struct bench b;
    bring_up(&b, 1);
    for (uint64_t i = 1; i <= 200; i++) {
        lane_sent(&b.lane, i, b.now);
        b.now += i % 2 ? 1000 : 3000;
        assert_true(lane_result(&b.lane, 1, 1, i, b.now));
    }
    assert_in_range(lane_median_us(&b.lane), 1000, 3000);
    int64_t since;
    assert_int_equal(lane_oldest(&b.lane, &since), 0);
    lane_sent(&b.lane, 201, b.now);
    lane_sent(&b.lane, 202, b.now);
    b.now += 5000;
    assert_true(lane_result(&b.lane, 1, 1, 201, b.now));
    assert_int_equal(lane_oldest(&b.lane, &since), 202);
    assert_int_equal(since, b.now); // it could not be answered before the one in front of it
}

// Two stages of two, serving as epoch 1; worker 0 and 1 are the first stage, 0 and 2 lead.
static void bring_up_groups(struct bench *b)
{
    bench_init(b, 4, 4, 2);
    b->members = 2;
    for (uint32_t i = 0; i < 4; i++)
        lane_join(&b->lane, i, true, b->now);
    serves(b, "P0 P1 P2 P3 ");
}

static void test_groups(void **state)
{
    (void)state;
    struct bench b;
    bring_up_groups(&b);
    lane_sent(&b.lane, 1, b.now);
    assert_true(lane_result(&b.lane, 2, 1, 1, b.now)); // the lead of the last stage
    lane_sent(&b.lane, 2, b.now);
    assert_false(lane_result(&b.lane, 3, 1, 2, b.now)); // the other one may not
    assert_string_equal(took(&b), "D3 S P0 P1 ");
    bring_up_groups(&b); // any member's loss is the lane's
    lane_lost(&b.lane, 1, "reset", b.now);
    assert_string_equal(took(&b), "L1 S P0 P2 ");
    assert_int_equal(b.lane.place.n_stage, 1);
    lane_join(&b.lane, 1, true, b.now); // three are no two groups: nothing better comes of it
    took(&b);
}

// The members of a stage wait for each other: the one that stands is the one to drop.
static void test_stuck_member(void **state)
{
    (void)state;
    for (uint32_t stuck = 0; stuck < 2; stuck++) {
        struct bench b;
        bring_up_groups(&b);
        lane_sent(&b.lane, 1, b.now);
        int64_t sent = b.now;
        while (b.lane.state == LANE_READY && b.now < sent + 60 * S)
            pass(&b, 125000, 15, 15 & ~(1u << stuck), true);
        assert_in_range(b.now - sent, 5 * S, 6 * S);
        char expected[32];
        snprintf(expected, sizeof expected, "D%u S P%u P2 ", stuck, 1 - stuck);
        assert_string_equal(took(&b), expected);
    }
}

static void test_changing_lanes(void **state)
{
    (void)state;
    struct bench b;
    bring_up(&b, 1);
    lane_join(&b.lane, 2, true, b.now); // a spare one goes: nothing happens
    lane_dismiss(&b.lane, 2, b.now);
    assert_string_equal(took(&b), "");
    assert_int_equal(b.lane.workers[2].role, LANE_ABSENT);
    lane_spare(&b.lane, 1); // it works on, until a plan is made
    assert_string_equal(took(&b), "");
    lane_renew(&b.lane, b.now);
    assert_string_equal(took(&b), "S P0 ");
    prepare(&b, 0);
    link(&b, 0);
    took(&b);
    lane_dismiss(&b.lane, 0, b.now); // the last one: none may be planned with
    assert_string_equal(took(&b), "S ");
    assert_int_equal(b.lane.state, LANE_NO_CAPACITY);
    // What it says of another lane's newer epoch is no offence when it comes here.
    b.epochs = 9;
    lane_join(&b.lane, 4, true, b.now);
    assert_int_equal(b.lane.epoch, 10);
    assert_string_equal(took(&b), "P4 ");
    b.epochs = 12;
    struct msg_failed f = {.epoch = 11, .why = "elsewhere"};
    lane_failed(&b.lane, 4, &f, b.now);
    assert_string_equal(took(&b), "");
}

static void test_expecting_and_holding(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 3, 3, 1);
    lane_join(&b.lane, 0, true, b.now);
    lane_join(&b.lane, 1, true, b.now);
    assert_string_equal(took(&b), "");
    lane_hold(&b.lane, true, b.now);
    lane_expect(&b.lane, 1, 2, b.now); // the others became lanes of their own
    assert_string_equal(took(&b), "");
    struct err_text said;
    lane_describe(&b.lane, &said);
    assert_string_equal(said.s, "measures the links between 2 workers");
    lane_hold(&b.lane, false, b.now);
    serves(&b, "P0 P1 ");
    lane_hold(&b.lane, true, b.now);
    lane_lost(&b.lane, 1, "reset", b.now); // losses wait for nothing
    serves(&b, "L1 S P0 ");
    lane_join(&b.lane, 1, true, b.now);
    pass(&b, 1 * S, 3, 3, false);
    assert_string_equal(took(&b), "");
    lane_hold(&b.lane, false, b.now);
    pass(&b, 125000, 3, 3, false);
    serves(&b, "S P0 P1 ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_worker_lost),
        cmocka_unit_test(test_no_capacity),
        cmocka_unit_test(test_silence),
        cmocka_unit_test(test_own_pause_blames_nobody),
        cmocka_unit_test(test_stuck_step),
        cmocka_unit_test(test_slow_step_is_not_stuck),
        cmocka_unit_test(test_result_withheld),
        cmocka_unit_test(test_three_strikes),
        cmocka_unit_test(test_slow_strikes_are_forgiven),
        cmocka_unit_test(test_deadlines),
        cmocka_unit_test(test_copying_may_take_long),
        cmocka_unit_test(test_old_epochs_change_nothing),
        cmocka_unit_test(test_violations),
        cmocka_unit_test(test_effective_settings),
        cmocka_unit_test(test_workers_without_the_model),
        cmocka_unit_test(test_two_at_once),
        cmocka_unit_test(test_step_times),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_stuck_member),
        cmocka_unit_test(test_changing_lanes),
        cmocka_unit_test(test_expecting_and_holding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
