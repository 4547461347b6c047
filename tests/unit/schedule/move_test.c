// Requests that change from one scheduler to another, in every state, and go on as if nothing had
// been; and what a scheduler tells of a prompt before it is submitted.
#include "tests/unit/schedule/rig.h"

struct pair {
    struct rig a, b;
    uint64_t last_order;
};

static void pair_open(struct pair *p, struct sched_config a, struct sched_config b)
{
    open_rig(&p->a, a);
    open_rig(&p->b, b);
    p->last_order = 0;
    sched_count_with(p->a.s, &p->last_order);
    sched_count_with(p->b.s, &p->last_order);
}

// Both lanes compute the same jobs; those of `a` are freed.
static void know_all(struct pair *p)
{
    memcpy(p->b.jobs, p->a.jobs, sizeof p->b.jobs);
    p->b.n_job = p->a.n_job;
}

static void pair_close(struct pair *p)
{
    p->b.n_job = 0;
    close_rig(&p->b);
    close_rig(&p->a);
}

static void move(struct pair *p, struct job *j)
{
    struct err_text why;
    sched_release(p->a.s, j->req);
    assert_null(sched_check(p->a.s));
    assert_int_equal(sched_adopt(p->b.s, j->req, &why), OK);
    assert_null(sched_check(p->b.s));
}

static void test_in_every_state(void **state)
{
    (void)state;
    for (uint32_t steps = 0; steps < 12; steps++)
        for (uint32_t brought = 0; brought <= 2; brought++) {
            struct pair p;
            pair_open(&p, plain, plain);
            struct job *moves = submit(&p.a, 1, 300, 6, 3);
            struct job *stays = submit(&p.a, 2, 40, 20, 1);
            know_all(&p);
            for (uint32_t i = 0; i < steps; i++) {
                if (!send_one(&p.a)) bring_one(&p.a);
                if (brought && p.a.lane.n_queue >= brought) bring_one(&p.a);
            }
            drain(&p.a);
            if (!moves->req) { // done already
                run_out(&p.a);
                pair_close(&p);
                continue;
            }
            move(&p, moves);
            run_out(&p.b);
            run_out(&p.a); // rows of it that were on their way come back to nobody
            for (int k = 0; k < 3; k++)
                assert_int_equal(moves->n_seen[k], 6);
            assert_int_equal(stays->n_seen[0], 20);
            pair_close(&p);
        }
}

// It keeps its place: before those that came after it, wherever they came.
static void test_place_in_the_queue(void **state)
{
    (void)state;
    struct pair p;
    struct sched_config one = plain;
    one.n_slot = 1;
    pair_open(&p, one, one);
    struct job *first = submit(&p.a, 1, 20, 4, 1);
    struct job *elder = submit(&p.a, 2, 20, 4, 1);
    know_all(&p);
    struct job *running = submit(&p.b, 3, 20, 4, 1);
    struct job *younger = submit(&p.b, 4, 20, 4, 1);
    memcpy(p.a.jobs, p.b.jobs, sizeof p.a.jobs);
    p.a.n_job = p.b.n_job;
    assert_true(send_one(&p.a) && send_one(&p.b));
    move(&p, elder);
    assert_ptr_equal(sched_request_next(p.b.s, NULL), elder->req);
    bring_one(&p.b);
    while (running->req) {
        if (!send_one(&p.b)) bring_one(&p.b);
    }
    while (!elder->is_over[0]) {
        assert_int_equal(younger->n_seen[0], 0);
        if (!send_one(&p.b)) bring_one(&p.b);
    }
    run_out(&p.b);
    run_out(&p.a);
    assert_int_equal(first->n_seen[0], 4);
    pair_close(&p);
}

static void test_what_never_fits_is_refused(void **state)
{
    (void)state;
    struct pair p;
    struct sched_config small = plain;
    struct err_text why = {""};
    small.n_page = 4;
    small.ctx = 64;
    pair_open(&p, plain, small);
    struct job *j = submit(&p.a, 1, 100, 4, 1);
    know_all(&p);
    sched_release(p.a.s, j->req);
    assert_int_equal(sched_adopt(p.b.s, j->req, &why), ERR_TOO_LARGE);
    assert_true(strlen(why.s) > 0);
    assert_int_equal(sched_adopt(p.a.s, j->req, &why), OK); // back home
    run_out(&p.a);
    assert_int_equal(j->n_seen[0], 4);
    // While suspended nothing is known of the pages: it is found out when they are.
    struct job *k = submit(&p.a, 2, 100, 4, 1);
    memcpy(p.b.jobs, p.a.jobs, sizeof p.b.jobs);
    sched_suspend(p.b.s);
    move(&p, k);
    small.epoch = 2;
    assert_int_equal(sched_configure(p.b.s, &small), OK);
    drain(&p.b);
    assert_true(k->is_over[0]);
    pair_close(&p);
}

static void test_what_is_known(void **state)
{
    (void)state;
    struct rig g;
    open_rig(&g, plain);
    struct job *j = make(&g, 1, 100, 2, 1), *same = make(&g, 1, 100, 2, 1);
    assert_int_equal(sched_known(g.s, same->req), 0);
    assert_int_equal(sched_pages(g.s, same->req), 7); // of 16 tokens, and one token more
    assert_int_equal(sched_submit(g.s, j->req, 10, NULL), OK);
    run_out(&g);
    assert_int_equal(sched_known(g.s, same->req), 96);
    struct job *other = make(&g, 2, 100, 2, 1);
    assert_int_equal(sched_known(g.s, other->req), 0);
    same->req->tenant = 7;
    assert_int_equal(sched_known(g.s, same->req), 0);
    same->req->tenant = 0;
    assert_int_equal(sched_submit(g.s, same->req, 10, NULL), OK);
    assert_int_equal(sched_submit(g.s, other->req, 10, NULL), OK);
    run_out(&g);
    close_rig(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_every_state),
        cmocka_unit_test(test_place_in_the_queue),
        cmocka_unit_test(test_what_never_fits_is_refused),
        cmocka_unit_test(test_what_is_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
