// Who goes first: priorities, callers side by side, and what of the prefix cache goes first.
#include "tests/unit/schedule/rig.h"

static struct job *submit_as(struct rig *g, int32_t kind, uint32_t n_prompt, int32_t priority,
                             uint64_t tenant, uint64_t session)
{
    struct job *j = make(g, kind, n_prompt, 4, 1);
    j->req->priority = priority;
    j->req->tenant = tenant;
    j->req->session = session;
    assert_int_equal(sched_submit(g->s, j->req, 10, NULL), OK);
    return j;
}

static bool runs(const struct job *j)
{
    return j->req && j->req->choices[0].slot >= 0;
}

// Runs everything; the order in which the jobs got their slots.
static void run_in_order(struct rig *g, struct job **jobs, uint32_t n, uint32_t *order)
{
    uint32_t n_seen = 0;
    bool seen[JOBS] = {false};
    for (int i = 0; i < 10000; i++) {
        while (send_one(g))
            ;
        for (uint32_t k = 0; k < n; k++) {
            if (seen[k] || !runs(jobs[k])) continue;
            seen[k] = true;
            order[n_seen++] = k;
        }
        if (!g->lane.n_queue) break;
        bring_one(g);
    }
    assert_int_equal(n_seen, n);
}

static void test_priorities(void **state)
{
    (void)state;
    static const int32_t priorities[] = {0, 5, 0, -3, 5, -3, 0};
    static const uint32_t want[] = {3, 5, 0, 2, 6, 1, 4};
    struct rig g;
    struct sched_config c = plain;
    struct job *jobs[7];
    uint32_t order[7];
    c.n_slot = 1;
    open_rig(&g, c);
    for (uint32_t i = 0; i < 7; i++)
        jobs[i] = submit_as(&g, (int32_t)i * 7, 30, priorities[i], 0, 0);
    run_in_order(&g, jobs, 7, order);
    for (uint32_t i = 0; i < 7; i++)
        assert_int_equal(order[i], want[i]);
    close_rig(&g);
}

// One caller's crowd does not keep the others waiting; within a caller it is by arrival.
static void test_callers_side_by_side(void **state)
{
    (void)state;
    enum { CROWD = 12, N = CROWD + 3 };
    struct rig g;
    struct sched_config c = plain;
    struct job *jobs[N];
    uint32_t order[N];
    c.n_slot = 2;
    open_rig(&g, c);
    for (uint32_t i = 0; i < CROWD; i++)
        jobs[i] = submit_as(&g, (int32_t)i * 7, 30, 0, 1, 0);
    jobs[CROWD] = submit_as(&g, 400, 30, 0, 2, 0);
    jobs[CROWD + 1] = submit_as(&g, 410, 30, 0, 2, 77); // another conversation of the same key
    jobs[CROWD + 2] = submit_as(&g, 420, 30, 0, 2, 0);
    run_in_order(&g, jobs, N, order);
    uint32_t place[N], crowd = 0;
    for (uint32_t i = 0; i < N; i++)
        place[order[i]] = i;
    for (uint32_t i = 0; i < N; i++)
        if (order[i] < CROWD) assert_int_equal(order[i], crowd++);
    assert_in_range(place[CROWD], 1, 2);
    assert_in_range(place[CROWD + 1], 1, 5);
    assert_in_range(place[CROWD + 2], 2, 7);
    assert_true(place[CROWD] < place[CROWD + 2]);
    close_rig(&g);
}

// When pages run out, the last by priority gives way, though it came first.
static void test_the_last_by_priority_gives_way(void **state)
{
    (void)state;
    struct rig g;
    struct sched_config c = plain;
    c.n_page = 11;
    open_rig(&g, c);
    struct job *low = make(&g, 1, 50, 60, 1), *high = make(&g, 300, 50, 60, 1);
    low->req->priority = 1;
    assert_int_equal(sched_submit(g.s, low->req, 10, NULL), OK);
    assert_true(send_one(&g));
    assert_int_equal(sched_submit(g.s, high->req, 10, NULL), OK);
    bool gave_way = false;
    for (int i = 0; i < 10000; i++) {
        while (send_one(&g))
            ;
        if (high->req && low->req && runs(high) && !runs(low) && low->n_seen[0]) gave_way = true;
        if (!g.lane.n_queue) break;
        bring_one(&g);
    }
    assert_true(gave_way && low->is_over[0] && high->is_over[0]);
    close_rig(&g);
}

// -- what stays in the prefix cache --

// A turn of a conversation whose prompt begins with the turns before.
static uint32_t turn(struct rig *g, uint32_t n_prompt)
{
    struct job *j = make(g, 3, n_prompt, 2, 1);
    assert_int_equal(sched_submit(g->s, j->req, 10, NULL), OK);
    while (send_one(g))
        ;
    const uint32_t n_cached = j->req->n_cached;
    run_out(g);
    return n_cached;
}

// Titles and checks beside a conversation that takes nearly all pages, before it ever came back
// and after: not a page of it is lost; nor the snapshots and pages in sight of other kinds of
// model.
static void test_side_requests_push_out_nothing(void **state)
{
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        struct rig g;
        struct sched_config c = plain;
        c.n_page = 64;
        if (kind == 1) {
            c.recurrent = true;
            c.n_snapshot = 6;
        }
        if (kind == 2) {
            c.window = 64;
            c.n_page_local = (uint32_t)sched_local_pages(&c, 2) + 8;
        }
        open_rig(&g, c);
        assert_int_equal(turn(&g, 800), 0);
        for (int round = 1; round < 4; round++) {
            for (int i = 0; i < 10; i++) {
                submit(&g, 10 + 20 * round + i, 40, 3, 1);
                run_out(&g);
            }
            const uint32_t n = 800 + 32 * (uint32_t)round;
            // The conversation before this turn, as whole pages, has been computed.
            assert_in_range(turn(&g, n), (n - 32) / 16 * 16 - 16, n);
        }
        close_rig(&g);
    }
}

// What was used once goes before what came back, however large it is.
static void test_passers_by_push_out_passers_by(void **state)
{
    (void)state;
    struct rig g;
    struct sched_config c = plain;
    c.n_page = 64;
    open_rig(&g, c);
    assert_int_equal(turn(&g, 400), 0);
    assert_int_equal(turn(&g, 432), 400);
    for (int i = 0; i < 8; i++) {
        submit(&g, 50 + i, 300, 3, 1);
        run_out(&g);
    }
    assert_in_range(turn(&g, 464), 400, 432);
    close_rig(&g);
}

// But nothing stays for ever: conversations that are over make room for those that go on.
static void test_old_conversations_make_room(void **state)
{
    (void)state;
    struct rig g;
    struct sched_config c = plain;
    c.n_page = 64;
    open_rig(&g, c);
    for (int round = 0; round < 3; round++)
        turn(&g, 480 + 16 * (uint32_t)round);
    for (int other = 0; other < 3; other++) {
        uint32_t n_cached = 0;
        for (uint32_t k = 0; k < 3; k++) {
            struct job *j = submit(&g, 40 + other, 480 + 16 * k, 2, 1);
            while (send_one(&g))
                ;
            n_cached = j->req->n_cached;
            run_out(&g);
        }
        assert_true(n_cached >= 464);
    }
    close_rig(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_priorities),
        cmocka_unit_test(test_callers_side_by_side),
        cmocka_unit_test(test_the_last_by_priority_gives_way),
        cmocka_unit_test(test_side_requests_push_out_nothing),
        cmocka_unit_test(test_passers_by_push_out_passers_by),
        cmocka_unit_test(test_old_conversations_make_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
