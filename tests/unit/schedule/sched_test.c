// What the scheduler decides in small, exact situations, and what it refuses.
#include "tests/unit/schedule/rig.h"

static void test_one_stream(void **state)
{
    (void)state;
    struct rig g;
    open_rig(&g, plain);
    struct job *j = submit(&g, 1, 20, 3, 1);
    const struct request *r = j->req;
    assert_ptr_equal(sched_request_next(g.s, NULL), r);
    assert_null(sched_request_next(g.s, r));

    assert_true(send_one(&g));
    assert_int_equal(g.st.number, 1);
    assert_int_equal(g.st.n_bind, 1);
    assert_int_equal(g.st.n_row, 1);
    assert_int_equal(g.st.rows[0].n_tok, 20);
    assert_int_equal(g.st.rows[0].flags, ROW_SAMPLE);
    assert_int_equal(g.st.rows[0].n_page, 2);
    assert_int_equal(r->choices[0].state, CHOICE_PREFILL);

    assert_true(send_one(&g)); // before the first id is known here
    assert_int_equal(g.st.n_bind, 0);
    assert_int_equal(g.st.rows[0].flags, ROW_CHAIN | ROW_SAMPLE);
    assert_int_equal(g.st.rows[0].from_step, 1);
    assert_int_equal(g.st.rows[0].pos, 20);
    assert_int_equal(g.st.rows[0].n_page, 0);
    assert_false(send_one(&g));

    int64_t sent_us = 0;
    assert_int_equal(sched_oldest_step(g.s, &sent_us), 1);
    assert_int_equal(sent_us, 20);
    bring_one(&g);
    assert_int_equal(r->choices[0].state, CHOICE_DECODE);
    assert_int_equal(j->n_seen[0], 1);
    assert_int_equal(r->first_token_us, 30);
    assert_int_equal(r->admitted_us, 20);
    assert_int_equal(r->n_prefilled, 20);

    assert_true(send_one(&g));
    assert_int_equal(g.st.rows[0].from_step, 2);
    bring_one(&g);
    assert_false(send_one(&g)); // the third token is the last: nothing hangs on it
    bring_one(&g);
    assert_true(j->is_over[0]);
    assert_null(j->req);
    assert_int_equal(j->n_seen[0], 3);
    assert_int_equal(sched_oldest_step(g.s, &sent_us), 0);
    close_rig(&g);
}

static void test_end_id(void **state)
{
    (void)state;
    struct rig g;
    open_rig(&g, plain);
    struct job *j = make(&g, 1, 5, 10, 1);
    int32_t end = j->ids[0][5 + 3]; // the fourth, or an earlier one that is the same
    uint32_t n = 0;
    while (j->ids[0][5 + n] != end)
        n++;
    j->req->end_ids = &end;
    j->req->n_end = 1;
    assert_int_equal(sched_submit(g.s, j->req, 0, NULL), OK);
    for (;;) {
        while (send_one(&g))
            ;
        struct step_result r = lane_run(&g.lane);
        assert_int_equal(sched_commit(g.s, &r, SIM_VOCAB, 0, NULL), OK);
        if (j->req->choices[0].state == CHOICE_DONE) break;
        drain(&g);
    }
    assert_int_equal(j->req->choices[0].finish, FINISH_STOP);
    assert_int_equal(j->req->choices[0].n_generated, n + 1);
    assert_int_equal(drain(&g), 1); // only its end
    assert_int_equal(j->n_seen[0], n);
    assert_int_equal(g.lane.n_queue, 1); // a chained row is on its way still
    bring_one(&g);
    run_out(&g);
    close_rig(&g);
}

static void test_refusals(void **state)
{
    (void)state;
    struct rig g;
    struct sched_config c = plain;
    c.n_page = 10; // 160 tokens
    c.ctx = 400;
    c.queue_max = 2;
    open_rig(&g, c);
    struct err_text why;
    assert_int_equal(sched_submit(g.s, make(&g, 1, 390, 11, 1)->req, 0, &why), ERR_TOO_LARGE);
    assert_non_null(strstr(why.s, "401"));
    assert_int_equal(sched_submit(g.s, make(&g, 1, 151, 11, 1)->req, 0, &why), ERR_TOO_LARGE);
    assert_non_null(strstr(why.s, "160"));
    submit(&g, 1, 150, 11, 1); // the last token needs no page
    struct job *three = make(&g, 2, 5, 5, 3);
    assert_int_equal(sched_submit(g.s, three->req, 0, &why), ERR_BUSY);
    submit(&g, 2, 5, 5, 1);
    assert_int_equal(sched_submit(g.s, make(&g, 3, 5, 5, 1)->req, 0, &why), ERR_BUSY);
    assert_int_equal(sched_stats_get(g.s).n_waiting, 2);
    run_out(&g);
    assert_int_equal(sched_submit(g.s, three->req, 0, &why), ERR_BUSY); // never fits this queue
    struct job *biased = make(&g, 3, 5, 5, 1);
    biased->req->sampling.n_bias = STEP_BIAS_MAX + 1;
    assert_int_equal(sched_submit(g.s, biased->req, 0, &why), ERR_TOO_LARGE);

    c.max_rows = 1;
    assert_int_equal(sched_configure(g.s, &c), ERR_INVALID);
    struct step st;
    assert_false(sched_next(g.s, 0, &st));
    close_rig(&g);
}

static void test_choices_share_prompt(void **state)
{
    (void)state;
    struct rig g;
    open_rig(&g, plain);
    struct job *j = submit(&g, 1, 100, 4, 3); // 6 full pages to share
    assert_true(send_one(&g));
    assert_int_equal(g.st.n_row, 1);
    assert_int_equal(sched_stats_get(g.s).n_waiting, 2);
    bring_one(&g);
    assert_true(send_one(&g));
    assert_int_equal(g.st.n_bind, 2);
    assert_int_equal(g.st.n_row, 3);
    for (uint32_t i = 1; i < 3; i++) {
        assert_int_equal(g.st.rows[i].pos, 96);
        assert_int_equal(g.st.rows[i].n_tok, 4);
        assert_int_equal(g.st.rows[i].n_page, 7);
    }
    assert_int_equal(sched_stats_get(g.s).n_page_used, 6 + 3);
    assert_int_equal(g.st.binds[0].sampling.choice + g.st.binds[1].sampling.choice, 3);
    run_out(&g);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(j->n_seen[i], 4);

    j = submit(&g, 2, 10, 4, 3); // shorter than a page: nothing to wait for
    assert_true(send_one(&g));
    assert_int_equal(g.st.n_row, 3);
    run_out(&g);
    close_rig(&g);
}

// The same prompt at the same time, in different requests: the oldest and the next compute it,
// those that have not begun take it over (but for what is on its way when the first two are
// through).
static void test_same_prompt_at_once(void **state)
{
    (void)state;
    struct rig g;
    open_rig(&g, plain);
    for (uint32_t i = 0; i < 8; i++)
        submit(&g, 1, 2000, 2, 1);
    run_out(&g);
    uint64_t n = sched_stats_get(g.s).step_tokens;
    if (n > 2 * 2000 + 2 * 256 + 8 * 17) fail_msg("%llu tokens computed", (unsigned long long)n);
    close_rig(&g);
}

static void test_prefix_and_tenants(void **state)
{
    (void)state;
    struct rig g;
    open_rig(&g, plain);
    submit(&g, 1, 64, 3, 1);
    run_out(&g);
    struct job *j = make(&g, 1, 64, 3, 1);
    assert_int_equal(sched_submit(g.s, j->req, 0, NULL), OK);
    assert_true(send_one(&g));
    assert_int_equal(g.st.rows[0].pos, 48); // the last prompt token is always computed
    assert_int_equal(j->req->n_cached, 48);
    run_out(&g);
    j = make(&g, 1, 64, 3, 1);
    j->tenant = j->req->tenant = 2;
    job_foresee(j);
    assert_int_equal(sched_submit(g.s, j->req, 0, NULL), OK);
    assert_true(send_one(&g));
    assert_int_equal(g.st.rows[0].pos, 0);
    assert_int_equal(sched_stats_get(g.s).prefix_hits, 48);
    run_out(&g);
    close_rig(&g);
}

static void test_history_at_bind(void **state)
{
    (void)state;
    struct rig g;
    open_rig(&g, plain);
    submit(&g, 1, 64, 3, 1);
    run_out(&g);
    struct job *j = make(&g, 1, 70, 3, 1);
    j->req->sampling.presence = 0.5f;
    assert_int_equal(sched_submit(g.s, j->req, 0, NULL), OK);
    assert_true(send_one(&g));
    assert_int_equal(g.st.rows[0].pos, 64);
    assert_int_equal(g.st.binds[0].n_history, 64);
    assert_memory_equal(g.st.binds[0].history, j->ids[0], 64 * sizeof(int32_t));
    run_out(&g);
    close_rig(&g);
}

// Long histories do not all go into one message.
static void test_bind_weight(void **state)
{
    (void)state;
    struct rig g;
    struct sched_config c = plain;
    c.n_page = 4000;
    c.ctx = 32000;
    c.max_tok = 2000;
    open_rig(&g, c);
    submit(&g, 1, 30000, 1, 1);
    run_out(&g);
    for (uint32_t i = 0; i < 4; i++) {
        struct job *j = make(&g, 1, 30000, 2, 1);
        j->req->sampling.repetition = 1.5f;
        assert_int_equal(sched_submit(g.s, j->req, 0, NULL), OK);
    }
    assert_true(send_one(&g));
    assert_int_equal(g.st.n_bind, 2);
    assert_true(send_one(&g));
    assert_int_equal(g.st.n_bind, 2);
    assert_int_equal(g.st.n_row, 4);
    run_out(&g);
    close_rig(&g);
}

static void test_scores(void **state)
{
    (void)state;
    struct rig g;
    struct sched_config c = plain;
    c.max_tok = 16;
    open_rig(&g, c);
    submit(&g, 1, 40, 1, 1);
    run_out(&g);
    struct job *j = make(&g, 1, 40, 1, 1); // its pages are cached, and must not be used
    j->req->score_prompt = true;
    assert_int_equal(sched_submit(g.s, j->req, 0, NULL), OK);
    uint32_t n_row = 0;
    while (j->req) {
        assert_true(send_one(&g));
        const struct step_row *row = &g.st.rows[0];
        assert_int_equal(row->pos, 16 * n_row);
        assert_int_equal(row->flags, n_row < 2 ? ROW_SCORE : ROW_SCORE | ROW_SAMPLE);
        assert_int_equal(row->next_id, n_row < 2 ? j->ids[0][16 * n_row + 16] : -1);
        struct step_result r = lane_run(&g.lane);
        assert_int_equal(sched_commit(g.s, &r, SIM_VOCAB, 0, NULL), OK);
        uint32_t n;
        const struct sched_event *e = sched_events(g.s, &n);
        assert_int_equal(e[0].kind, EVENT_SCORES);
        assert_int_equal(e[0].from, 16 * n_row + 1);
        assert_int_equal(e[0].n_score, n_row < 2 ? 16 : 7);
        if (++n_row < 3) {
            assert_int_equal(n, 1);
            continue;
        }
        assert_int_equal(e[1].kind, EVENT_TOKEN);
        assert_int_equal(e[2].kind, EVENT_FINISH);
        request_free(j->req);
        j->req = NULL;
    }
    close_rig(&g);
}

static uint32_t n_seen(const struct rig *g, uint32_t from, uint32_t to)
{
    uint32_t n = 0;
    for (uint32_t i = from; i < to; i++)
        n += g->jobs[i]->n_seen[0];
    return n;
}

static void test_long_prompt_stalls_nobody(void **state)
{
    (void)state;
    for (uint32_t n_stage = 1; n_stage <= 4; n_stage++) {
        struct rig g;
        struct sched_config c = plain;
        c.n_stage = n_stage;
        c.in_flight = n_stage + 1;
        open_rig(&g, c);
        for (uint32_t i = 0; i < 8; i++)
            submit(&g, (int32_t)i, 20, 400, 1);
        while (n_seen(&g, 0, 8) < 64) {
            while (send_one(&g))
                ;
            bring_one(&g);
        }
        struct job *big = submit(&g, 33, 7000, 5, 1);
        uint32_t last[8] = {0}, idle[8] = {0}, n_step = 0;
        for (uint32_t i = 0; i < 8; i++)
            last[i] = g.jobs[i]->n_seen[0];
        for (; !big->n_seen[0]; n_step++) {
            while (send_one(&g))
                ;
            bring_one(&g);
            for (uint32_t i = 0; i < 8; i++) {
                idle[i] = g.jobs[i]->n_seen[0] == last[i] ? idle[i] + 1 : 0;
                last[i] = g.jobs[i]->n_seen[0];
                if (idle[i] > n_stage)
                    fail_msg("%u stages: a stream waits %u steps", n_stage, idle[i]);
            }
        }
        assert_true(n_step <= 7000 / (256 - 8) + 3 + n_stage);
        run_out(&g);
        close_rig(&g);
    }
}

static void test_short_prompt_passes_long(void **state)
{
    (void)state;
    struct rig g;
    open_rig(&g, plain);
    struct job *big = submit(&g, 1, 7000, 5, 1);
    for (uint32_t i = 0; i < 4; i++) {
        while (send_one(&g))
            ;
        bring_one(&g);
    }
    submit(&g, 3, 7000, 5, 1); // another long one, before it in the queue
    struct job *small = submit(&g, 2, 100, 5, 1);
    uint32_t n_step = 0;
    for (; !small->n_seen[0]; n_step++) {
        while (send_one(&g))
            ;
        bring_one(&g);
    }
    assert_true(n_step <= 3);
    assert_int_equal(big->n_seen[0], 0);
    run_out(&g);
    close_rig(&g);
}

// Short prompts that never end do not keep a long one from its half.
static void test_long_prompt_is_not_starved(void **state)
{
    (void)state;
    struct rig g;
    open_rig(&g, plain);
    struct job *big = submit(&g, 1, 4000, 5, 1);
    uint32_t n_step = 0;
    for (; !big->n_seen[0]; n_step++) {
        assert_true(n_step < 70);
        if (g.n_job < JOBS) submit(&g, (int32_t)n_step + 3, 240, 1, 1);
        while (send_one(&g))
            ;
        bring_one(&g);
    }
    run_out(&g);
    close_rig(&g);
}

static void test_micro_batches(void **state)
{
    (void)state;
    struct rig g;
    struct sched_config c = plain;
    c.n_stage = 4;
    c.in_flight = 5;
    open_rig(&g, c);
    for (uint32_t i = 0; i < 8; i++)
        submit(&g, (int32_t)i, 20, 100, 1);
    for (uint32_t i = 0; i < 12; i++) {
        while (send_one(&g))
            ;
        bring_one(&g);
    }
    // Steady: 2 rows a step, 5 steps on their way, each id 4 steps old when it is needed.
    for (uint32_t i = 0; i < 40; i++) {
        assert_true(send_one(&g));
        assert_int_equal(g.st.n_row, 2);
        for (uint32_t k = 0; k < 2; k++)
            if (g.st.rows[k].flags & ROW_CHAIN)
                assert_true(g.st.rows[k].from_step + 4 <= g.st.number);
        assert_int_equal(g.lane.n_queue, 5);
        assert_false(send_one(&g));
        bring_one(&g);
    }
    run_out(&g);
    close_rig(&g);
}

// Three over two stages: two and one in turn, never a row that hangs on the step just before.
static void test_uneven_batches(void **state)
{
    (void)state;
    struct rig g;
    struct sched_config c = plain;
    c.n_stage = 2;
    c.in_flight = 3;
    open_rig(&g, c);
    for (uint32_t i = 0; i < 3; i++)
        submit(&g, (int32_t)i, 20, 100, 1);
    for (uint32_t i = 0; i < 50; i++) {
        while (send_one(&g)) {
            if (i < 8) continue;
            assert_in_range(g.st.n_row, 1, 2);
            for (uint32_t k = 0; k < g.st.n_row; k++)
                if (g.st.rows[k].flags & ROW_CHAIN)
                    assert_true(g.st.rows[k].from_step + 2 <= g.st.number);
        }
        bring_one(&g);
    }
    run_out(&g);
    close_rig(&g);
}

// As many streams as rows: a new prompt still gets in.
static void test_rows_are_kept_for_prompts(void **state)
{
    (void)state;
    struct rig g;
    struct sched_config c = plain;
    c.max_rows = 4;
    open_rig(&g, c);
    for (uint32_t i = 0; i < 6; i++)
        submit(&g, (int32_t)i, 20, 200, 1);
    for (uint32_t i = 0; i < 10; i++) {
        while (send_one(&g))
            ;
        bring_one(&g);
    }
    struct job *late = submit(&g, 9, 20, 5, 1);
    for (uint32_t i = 0; i < 4; i++) {
        while (send_one(&g))
            ;
        bring_one(&g);
    }
    assert_true(late->n_seen[0] > 0);
    run_out(&g);
    close_rig(&g);
}

// A prompt is let in when its pages are there, not to fight for them.
static void test_admission_waits_for_pages(void **state)
{
    (void)state;
    struct rig g;
    struct sched_config c = plain;
    c.n_page = 20;
    c.max_tok = 32;
    open_rig(&g, c);
    for (uint32_t i = 0; i < 3; i++)
        submit(&g, (int32_t)i, 190, 2, 1); // 12 of the 20 pages each
    while (g.jobs[2]->req) {
        while (send_one(&g))
            assert_int_equal(sched_stats_get(g.s).n_running, 1);
        bring_one(&g);
    }
    assert_int_equal(sched_stats_get(g.s).preemptions, 0);
    close_rig(&g);
}

// What is lost of an unused prefix is its end.
static void test_prefix_is_lost_from_its_end(void **state)
{
    (void)state;
    struct rig g;
    struct sched_config c = plain;
    c.n_page = 20;
    open_rig(&g, c);
    submit(&g, 1, 161, 1, 1); // 10 full pages stay
    run_out(&g);
    submit(&g, 2, 200, 1, 1); // 13 pages: 3 of them are taken from the 10
    run_out(&g);
    struct job *j = submit(&g, 1, 161, 1, 1);
    assert_true(send_one(&g));
    assert_int_equal(j->req->n_cached, 7 * 16);
    run_out(&g);
    close_rig(&g);
}

static void test_events_pile_up(void **state)
{
    (void)state;
    struct rig g;
    open_rig(&g, plain);
    for (uint32_t round = 0; round < 3; round++) {
        uint32_t from = g.n_job;
        for (uint32_t i = 0; i < 30; i++)
            submit(&g, (int32_t)i, 20, 5, 1);
        for (uint32_t i = from; i < g.n_job; i++)
            sched_cancel(g.s, g.jobs[i]->req, 0);
    }
    assert_int_equal(drain(&g), 90);
    assert_int_equal(drain(&g), 0);
    close_rig(&g);
}

// A lone stream over 4 stages still has its next row on its way before its id is here.
static void test_lone_stream_chains(void **state)
{
    (void)state;
    struct rig g;
    struct sched_config c = plain;
    c.n_stage = 4;
    c.in_flight = 5;
    open_rig(&g, c);
    submit(&g, 1, 20, 50, 1);
    while (send_one(&g))
        ;
    for (uint32_t i = 0; i < 20; i++) {
        assert_int_equal(g.lane.n_queue, 2);
        bring_one(&g);
        while (send_one(&g))
            ;
    }
    run_out(&g);
    close_rig(&g);
}

// Without chains a newcomer joins the step of the others instead of taking turns with them.
static void test_newcomer_joins(void **state)
{
    (void)state;
    struct rig g;
    struct sched_config c = plain;
    c.chain = false;
    open_rig(&g, c);
    for (uint32_t i = 0; i < 3; i++)
        submit(&g, (int32_t)i, 20, 100, 1);
    while (send_one(&g))
        ;
    bring_one(&g);
    assert_true(send_one(&g));
    submit(&g, 9, 20, 100, 1);
    assert_true(send_one(&g)); // its prompt, while the others decode
    assert_int_equal(g.st.n_row, 1);
    bring_one(&g);
    assert_false(send_one(&g)); // three of four are ready: wait for the fourth
    bring_one(&g);
    for (uint32_t i = 0; i < 10; i++) {
        assert_true(send_one(&g));
        assert_int_equal(g.st.n_row, 4);
        assert_false(send_one(&g));
        bring_one(&g);
    }
    run_out(&g);
    close_rig(&g);
}

// Of a prompt each stage gets its first piece soon; one stage gets it whole.
static void test_prompts_are_cut_for_stages(void **state)
{
    (void)state;
    struct sched_config c = plain;
    c.piece_tok = 16;
    for (uint32_t n_stage = 1; n_stage <= 2; n_stage++) {
        struct rig g;
        c.n_stage = n_stage;
        c.in_flight = n_stage + 1;
        open_rig(&g, c);
        submit(&g, 1, 240, 2, 1);
        assert_true(send_one(&g));
        assert_int_equal(g.st.rows[0].n_tok, n_stage == 1 ? 240 : 30); // an eighth
        if (n_stage > 1) {
            assert_true(send_one(&g)); // the second stage is still to be kept busy
            assert_int_equal(g.st.rows[0].n_tok, 27);
            run_out(&g);
            submit(&g, 400, 20, 2, 1);
            assert_true(send_one(&g));
            assert_int_equal(g.st.rows[0].n_tok, 16); // the least
        }
        run_out(&g);
        close_rig(&g);
    }
}

static void test_cancel_in_flight(void **state)
{
    (void)state;
    struct rig g;
    open_rig(&g, plain);
    struct job *a = submit(&g, 1, 20, 50, 1), *b = submit(&g, 2, 20, 6, 1);
    while (send_one(&g))
        ;
    assert_int_equal(g.lane.n_queue, 2);
    sched_cancel(g.s, a->req, 40);
    drain(&g);
    assert_null(a->req); // given back at once, freed, its rows are on their way still
    struct job *d = submit(&g, 3, 40, 6, 1); // takes slot and pages
    run_out(&g);
    assert_int_equal(a->n_seen[0], 0);
    assert_int_equal(b->n_seen[0], 6);
    assert_int_equal(d->n_seen[0], 6);
    assert_int_equal(sched_stats_get(g.s).n_page_used, 0);
    close_rig(&g);
}

static void test_recovery(void **state)
{
    (void)state;
    struct rig g;
    struct sched_config c = plain;
    c.n_slot = 2;
    open_rig(&g, c);
    struct job *a = submit(&g, 1, 40, 20, 1), *b = submit(&g, 2, 40, 20, 1);
    struct job *w = submit(&g, 3, 40, 20, 1);
    for (uint32_t i = 0; i < 7; i++) {
        while (send_one(&g))
            ;
        bring_one(&g);
    }
    uint32_t seen = a->n_seen[0];
    assert_true(seen > 3);
    sched_suspend(g.s);
    assert_int_equal(a->req->choices[0].state, CHOICE_QUEUED);
    assert_false(send_one(&g));
    c.epoch = 2;
    c.n_stage = 2;
    assert_int_equal(sched_configure(g.s, &c), OK);
    struct step_result late = {.epoch = 1, .number = 1};
    assert_int_equal(sched_commit(g.s, &late, SIM_VOCAB, 0, NULL), OK);
    lane_fini(&g.lane);
    lane_init(&g.lane, &c, g.jobs);
    assert_true(send_one(&g));
    assert_int_equal(g.st.epoch, 2);
    assert_int_equal(g.st.number, 1);
    assert_int_equal(g.st.n_row, 2); // the two that ran before, history and all, in one row each
    assert_int_equal(g.st.rows[0].n_tok, 40 + seen);
    assert_int_equal(g.st.binds[0].sampling.seed, a->id);
    assert_int_equal(g.st.binds[1].sampling.seed, b->id);
    run_out(&g);
    assert_int_equal(a->n_seen[0], 20);
    assert_int_equal(b->n_seen[0], 20);
    assert_int_equal(w->n_seen[0], 20);

    // A placement too small for one of them: that one ends, with words.
    a = submit(&g, 1, 400, 20, 1);
    b = submit(&g, 2, 40, 20, 1);
    c.epoch = 3;
    c.n_page = 10;
    assert_int_equal(sched_configure(g.s, &c), OK);
    assert_int_equal(a->req->error, ERR_TOO_LARGE);
    drain(&g);
    assert_null(a->req);
    lane_fini(&g.lane);
    lane_init(&g.lane, &c, g.jobs);
    run_out(&g);
    assert_int_equal(b->n_seen[0], 20);
    close_rig(&g);
}

static void test_preemption(void **state)
{
    (void)state;
    struct rig g;
    struct sched_config c = plain;
    c.n_page = 20;
    c.page_tok = 4;
    open_rig(&g, c);
    struct job *j[4]; // each needs 15 of the 20 pages in the end
    for (uint32_t i = 0; i < 4; i++)
        j[i] = submit(&g, (int32_t)i, 8, 52, 1);
    run_out(&g);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(j[i]->n_seen[0], 52);
    assert_true(sched_stats_get(g.s).preemptions > 0);
    close_rig(&g);
}

static void test_request(void **state)
{
    (void)state;
    assert_null(request_new(64));
    struct request *r = request_new(8192);
    static const int32_t prompt[2] = {1, 2};
    r->prompt = prompt;
    r->n_prompt = 2;
    assert_int_equal(request_init_choices(r, 1), ERR_INVALID); // no max_tokens
    r->max_tokens = 1000000;
    assert_int_equal(request_init_choices(r, 8), ERR_MEMORY);
    assert_null(r->choices);
    r->max_tokens = 10;
    assert_int_equal(request_init_choices(r, 0), ERR_INVALID);
    assert_int_equal(request_init_choices(r, 2), OK);
    assert_int_equal(r->n_live, 2);
    r->choices[1].generated[0] = 9;
    r->choices[1].n_generated = 1;
    assert_int_equal(choice_id_at(&r->choices[1], 1), 2);
    assert_int_equal(choice_id_at(&r->choices[1], 2), 9);
    assert_int_equal(choice_n_id(&r->choices[1]), 3);
    request_free(r);
    request_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_request),
        cmocka_unit_test(test_one_stream),
        cmocka_unit_test(test_end_id),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_choices_share_prompt),
        cmocka_unit_test(test_same_prompt_at_once),
        cmocka_unit_test(test_prefix_and_tenants),
        cmocka_unit_test(test_history_at_bind),
        cmocka_unit_test(test_bind_weight),
        cmocka_unit_test(test_scores),
        cmocka_unit_test(test_long_prompt_stalls_nobody),
        cmocka_unit_test(test_short_prompt_passes_long),
        cmocka_unit_test(test_long_prompt_is_not_starved),
        cmocka_unit_test(test_micro_batches),
        cmocka_unit_test(test_uneven_batches),
        cmocka_unit_test(test_rows_are_kept_for_prompts),
        cmocka_unit_test(test_admission_waits_for_pages),
        cmocka_unit_test(test_prefix_is_lost_from_its_end),
        cmocka_unit_test(test_events_pile_up),
        cmocka_unit_test(test_lone_stream_chains),
        cmocka_unit_test(test_newcomer_joins),
        cmocka_unit_test(test_prompts_are_cut_for_stages),
        cmocka_unit_test(test_cancel_in_flight),
        cmocka_unit_test(test_recovery),
        cmocka_unit_test(test_preemption),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
