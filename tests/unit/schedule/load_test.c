// Size and speed. The bounds are for sanitizers on a busy machine; the figures are printed.
#include "tests/unit/schedule/rig.h"

#include <time.h>

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void test_many_waiting(void **state)
{
    (void)state;
    enum { N = 10000 };
    struct sched *s = sched_new(N);
    struct sched_config c = plain;
    c.queue_max = N;
    assert_int_equal(sched_configure(s, &c), OK);
    static const int32_t prompt[4] = {1, 2, 3, 4};
    struct request **rs = calloc(N, sizeof *rs);
    double t = now_s();
    for (uint32_t i = 0; i < N; i++) {
        rs[i] = request_new(0);
        rs[i]->prompt = prompt;
        rs[i]->n_prompt = 4;
        rs[i]->max_tokens = 4;
        assert_int_equal(request_init_choices(rs[i], 1), OK);
        assert_int_equal(sched_submit(s, rs[i], 0, NULL), OK);
        struct step st;
        sched_next(s, 0, &st);
    }
    sched_suspend(s);
    assert_int_equal(sched_configure(s, &c), OK);
    assert_null(sched_check(s));
    for (uint32_t i = 0; i < N; i += 2)
        sched_cancel(s, rs[i], 0);
    for (uint32_t i = N - 1; i < N; i -= 2)
        sched_cancel(s, rs[i], 0);
    t = now_s() - t;
    uint32_t n;
    sched_events(s, &n);
    assert_int_equal(n, N);
    assert_null(sched_check(s));
    for (uint32_t i = 0; i < N; i++)
        request_free(rs[i]);
    free(rs);
    sched_free(s);
    printf("%d requests queued and cancelled: %.1f ms\n", N, t * 1e3);
    assert_true(t < 2);
}

static void test_speed(void **state)
{
    (void)state;
    for (uint32_t n_stage = 1; n_stage <= 4; n_stage += 3) {
        struct rig g;
        struct sched_config c = plain;
        c.n_stage = n_stage;
        c.in_flight = n_stage + 1;
        c.n_slot = c.max_rows = 64;
        c.n_page = 8000;
        open_rig(&g, c);
        for (uint32_t i = 0; i < 64; i++)
            submit(&g, (int32_t)i, 50, 500, 1);
        uint32_t n_step = 0;
        double sum = 0;
        while (g.jobs[0]->req) {
            struct step st;
            double t = now_s();
            bool any = sched_next(g.s, 0, &st);
            sum += now_s() - t;
            if (any) {
                lane_send(&g.lane, &st);
                continue;
            }
            struct step_result r = lane_run(&g.lane);
            t = now_s();
            assert_int_equal(sched_commit(g.s, &r, SIM_VOCAB, 0, NULL), OK);
            sum += now_s() - t;
            drain(&g);
            n_step++;
        }
        printf("64 running, %u stages: next + commit %.2f us a step, %.2f us a round of 64\n",
               n_stage, sum / n_step * 1e6, sum / n_step * 1e6 * n_stage);
        assert_true(sum / n_step < 1e-3); // a bound for sanitizers on a busy machine
        run_out(&g);
        close_rig(&g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many_waiting),
        cmocka_unit_test(test_speed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
