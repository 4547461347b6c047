// Models with windows and with recurrent state: what is held, what is found again, what is saved.
#include "tests/unit/schedule/rig.h"

static struct sched_config windowed(void)
{
    struct sched_config c = plain;
    c.window = 40; // pages of 16: 5 at most, and 16 for a step's rows
    c.n_page_local = (uint32_t)sched_local_pages(&c, 4);
    return c;
}

static struct sched_config recurrent(uint32_t n_snapshot)
{
    struct sched_config c = plain;
    c.recurrent = true;
    c.n_snapshot = n_snapshot;
    return c;
}

// The next turn of a conversation: its prompt and answer, and n_more tokens.
static struct job *follow(struct rig *g, const struct job *turn, uint32_t n_more,
                          uint32_t max_tokens)
{
    uint32_t n = turn->n_known + n_more;
    int32_t *ids = calloc(n, sizeof *ids);
    for (uint32_t i = 0; i < n; i++)
        ids[i] = i < turn->n_known ? turn->ids[0][i] : (int32_t)(i * 29 % SIM_VOCAB);
    struct job *j = job_new(g->n_job + 1, ids, n, max_tokens, 1);
    free(ids);
    g->jobs[g->n_job++] = j;
    assert_int_equal(sched_submit(g->s, job_request(j), 10, NULL), OK);
    return j;
}

static uint32_t first_pos(struct rig *g)
{
    assert_true(send_one(g));
    return g->st.rows[0].pos;
}

static void test_local_pages_move_along(void **state)
{
    (void)state;
    struct rig g;
    struct sched_config c = windowed();
    c.chain = false;
    open_rig(&g, c);
    submit(&g, 1, 600, 100, 1);
    uint32_t most = 0;
    assert_true(send_one(&g));
    assert_int_equal(g.st.rows[0].n_tok, 256);
    assert_int_equal(g.st.rows[0].local_from, 0);
    assert_int_equal(g.st.rows[0].n_local, 16);
    bring_one(&g);
    // The next token sees 217 to 256.
    assert_int_equal(sched_stats_get(g.s).n_page_local_used, 3);
    assert_true(send_one(&g));
    assert_int_equal(g.st.rows[0].local_from, 16);
    assert_int_equal(g.st.rows[0].n_local, 16);
    bring_one(&g);
    while (send_one(&g)) {
        assert_true(g.st.rows[0].n_local <= 6);
        bring_one(&g);
        uint32_t n = sched_stats_get(g.s).n_page_local_used;
        if (n > most) most = n;
    }
    assert_int_equal(most, 4); // 40 tokens lie in four pages at most
    assert_int_equal(sched_stats_get(g.s).n_page_local_used, 0);
    close_rig(&g);
}

static void test_window_is_found_again(void **state)
{
    (void)state;
    struct rig g;
    open_rig(&g, windowed());
    const struct job *j = submit(&g, 1, 300, 40, 1);
    run_out(&g);
    struct job *next = follow(&g, j, 50, 3);
    assert_int_equal(first_pos(&g), 336); // 339 tokens of the turn were computed
    assert_int_equal(next->req->n_cached, 336);
    assert_int_equal(g.st.rows[0].local_from, 297 / 16);
    assert_int_equal(g.st.rows[0].local_from + g.st.rows[0].n_local, 25);
    run_out(&g);
    // Another conversation takes all local pages: the pages of the first are there still, but not
    // the window before their end. What was computed again is found from then on.
    submit(&g, 2, 2000, 2, 1);
    run_out(&g);
    struct job *again = follow(&g, j, 60, 3);
    assert_int_equal(first_pos(&g), 0);
    run_out(&g);
    assert_int_equal(again->n_seen[0], 3);
    follow(&g, again, 20, 3);
    assert_int_equal(first_pos(&g), 400);
    run_out(&g);
    close_rig(&g);
}

// What fell out of sight goes first: the end of another's sequence outlives a long prompt while
// there is anything else.
static void test_ends_outlive_long_prompts(void **state)
{
    (void)state;
    struct rig g;
    struct sched_config c = windowed();
    c.chain = false;
    open_rig(&g, c);
    const struct job *j = submit(&g, 1, 100, 3, 1);
    run_out(&g);
    for (uint32_t i = 0; i < 3; i++) {
        submit(&g, (int32_t)i + 2, 250, 2, 1);
        run_out(&g);
    }
    follow(&g, j, 50, 3);
    assert_int_equal(first_pos(&g), 96);
    run_out(&g);
    close_rig(&g);
}

static void test_chunks(void **state)
{
    (void)state;
    struct rig g;
    struct sched_config c = plain;
    c.chunk = 64;
    c.n_page_local = (uint32_t)sched_local_pages(&c, 2);
    open_rig(&g, c);
    const struct job *j = submit(&g, 1, 128, 1, 1); // ends where a chunk ends
    run_out(&g);
    follow(&g, j, 30, 3);
    assert_int_equal(first_pos(&g), 128);
    assert_int_equal(g.st.rows[0].local_from, 8); // sees nothing before
    run_out(&g);
    close_rig(&g);
}

static void test_few_local_pages(void **state)
{
    (void)state;
    struct rig g;
    struct sched_config c = windowed();
    c.n_page_local = (uint32_t)sched_local_pages(&c, 1) - 1;
    open_rig(&g, plain);
    assert_int_equal(sched_configure(g.s, &c), ERR_INVALID);
    close_rig(&g);
    // Room for what two see: two run, the third waits.
    c.n_page_local = (uint32_t)sched_local_pages(&c, 2);
    open_rig(&g, c);
    struct job *j[3];
    for (uint32_t i = 0; i < 3; i++)
        j[i] = submit(&g, (int32_t)i, 100, 20, 1);
    assert_true(send_one(&g));
    assert_int_equal(sched_stats_get(g.s).n_running, 2);
    run_out(&g);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(j[i]->n_seen[0], 20);
    assert_int_equal(sched_stats_get(g.s).preemptions, 0);
    close_rig(&g);
}

static void test_snapshot_at_the_end_of_the_prompt(void **state)
{
    (void)state;
    struct rig g;
    open_rig(&g, recurrent(8));
    submit(&g, 1, 100, 3, 1);
    assert_true(send_one(&g));
    assert_int_equal(g.st.binds[0].snapshot, 0);
    assert_int_equal(g.st.rows[0].n_tok, 96);
    assert_true(g.st.rows[0].snapshot >= 1 && g.st.rows[0].snapshot <= 8);
    const uint32_t saved = g.st.rows[0].snapshot;
    assert_true(send_one(&g));
    assert_int_equal(g.st.rows[0].n_tok, 4);
    assert_int_equal(g.st.rows[0].snapshot, 0);
    run_out(&g);
    // The same prompt, and one that only begins like it: to where the snapshot is.
    submit(&g, 1, 100, 3, 1);
    assert_int_equal(first_pos(&g), 96);
    assert_int_equal(g.st.binds[0].snapshot, saved);
    run_out(&g);
    submit(&g, 1, 90, 3, 1);
    assert_int_equal(first_pos(&g), 0);
    run_out(&g);
    submit(&g, 1, 200, 3, 1);
    assert_int_equal(first_pos(&g), 96);
    run_out(&g);
    close_rig(&g);
}

static void test_snapshot_of_the_answer(void **state)
{
    (void)state;
    struct rig g;
    open_rig(&g, recurrent(6));
    const struct job *j = submit(&g, 1, 100, 60, 1);
    run_out(&g);
    // 159 positions were computed; ends of pages at 112, 128, 144, each replacing the one before.
    const struct job *next = follow(&g, j, 40, 60);
    assert_int_equal(first_pos(&g), 144);
    run_out(&g);
    for (uint32_t i = 0; i < 10; i++) {
        next = follow(&g, next, 7, 30);
        uint32_t pos = first_pos(&g), n_before = next->n_prompt - 7 - 1;
        assert_int_equal(pos, n_before / 16 * 16);
        run_out(&g);
    }
    close_rig(&g);
}

// Two prompts that part in the middle: the second finds no snapshot there, but leaves one.
static void test_snapshot_where_others_parted(void **state)
{
    (void)state;
    struct rig g;
    open_rig(&g, recurrent(8));
    for (uint32_t i = 0; i < 3; i++) {
        int32_t ids[120];
        for (uint32_t k = 0; k < 120; k++)
            ids[k] = (int32_t)(k < 50 ? k : k * (i + 2)) % SIM_VOCAB;
        struct job *j = job_new(g.n_job + 1, ids, 120, 2, 1);
        g.jobs[g.n_job++] = j;
        assert_int_equal(sched_submit(g.s, job_request(j), 10, NULL), OK);
        assert_int_equal(first_pos(&g), i < 2 ? 0 : 48);
        if (i == 1) {
            assert_int_equal(g.st.rows[0].n_tok, 48);
            assert_true(g.st.rows[0].snapshot);
        }
        run_out(&g);
    }
    close_rig(&g);
}

// A long prompt takes what is free on its way, but not what others will begin from.
static void test_long_prompts_push_nobody_out(void **state)
{
    (void)state;
    struct rig g;
    open_rig(&g, recurrent(5));
    const struct job *j = submit(&g, 1, 100, 20, 1); // two snapshots worth keeping
    run_out(&g);
    assert_int_equal(sched_stats_get(g.s).n_snapshot_cached, 2);
    submit(&g, 2, 3000, 2, 1);
    uint32_t n = 0;
    for (;;) {
        while (send_one(&g))
            n += g.st.rows[0].snapshot != 0;
        if (!g.lane.n_queue) break;
        bring_one(&g);
    }
    assert_true(n >= 5); // 3000 tokens in steps of 256
    assert_int_equal(sched_stats_get(g.s).n_snapshot_cached, 5);
    follow(&g, j, 30, 2);
    assert_int_equal(first_pos(&g), 112);
    run_out(&g);
    // And where it is cut off, it goes on near there: the newest is among those that stayed.
    submit(&g, 2, 3100, 2, 1);
    assert_int_equal(first_pos(&g), 2992);
    run_out(&g);
    close_rig(&g);
}

static void test_choices_share_the_state(void **state)
{
    (void)state;
    struct rig g;
    struct sched_config c = recurrent(8);
    c.window = 40;
    c.n_page_local = (uint32_t)sched_local_pages(&c, 4);
    open_rig(&g, c);
    struct job *j = submit(&g, 1, 100, 40, 3);
    assert_true(send_one(&g));
    assert_int_equal(g.st.n_row, 1);
    const uint32_t saved = g.st.rows[0].snapshot;
    bring_one(&g);
    assert_true(send_one(&g));
    assert_int_equal(g.st.n_bind, 2);
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(g.st.binds[i].snapshot, saved);
    for (uint32_t i = 1; i < 3; i++) {
        assert_int_equal(g.st.rows[i].pos, 96);
        assert_int_equal(g.st.rows[i].local_from, 57 / 16);
    }
    run_out(&g);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(j->n_seen[i], 40);
    close_rig(&g);
}

static void test_without_snapshots(void **state)
{
    (void)state;
    struct rig g;
    open_rig(&g, recurrent(0));
    for (uint32_t i = 0; i < 2; i++) {
        submit(&g, 1, 100, 3, 1);
        assert_true(send_one(&g));
        assert_int_equal(g.st.rows[0].pos, 0);
        assert_int_equal(g.st.rows[0].n_tok, 100); // nothing to cut for
        assert_int_equal(g.st.rows[0].snapshot, 0);
        run_out(&g);
    }
    assert_int_equal(sched_stats_get(g.s).prefix_hits, 0);
    close_rig(&g);
}

// What a sequence with values that are not finite computed is not found again, whatever it was.
static void test_bad_state_is_not_found(void **state)
{
    (void)state;
    struct rig g;
    struct sched_config c = recurrent(8);
    c.window = 40;
    c.n_page_local = (uint32_t)sched_local_pages(&c, 4);
    open_rig(&g, c);
    struct job *bad = make(&g, 1, 300, 20, 1);
    bad->poison_pos = 310;
    assert_int_equal(sched_submit(g.s, bad->req, 0, NULL), OK);
    run_out(&g);
    assert_true(bad->is_over[0]);
    struct sched_stats t = sched_stats_get(g.s);
    assert_int_equal(t.n_page_cached + t.n_page_local_cached + t.n_snapshot_cached, 0);
    submit(&g, 1, 300, 2, 1);
    assert_int_equal(first_pos(&g), 0);
    run_out(&g);
    close_rig(&g);
}

// A preempted sequence begins again from its newest snapshot.
static void test_preempted_goes_on_from_its_snapshot(void **state)
{
    (void)state;
    struct rig g;
    struct sched_config c = recurrent(8);
    c.n_page = 30;
    c.n_slot = 2;
    open_rig(&g, c);
    struct job *a = submit(&g, 1, 100, 200, 1), *b = submit(&g, 2, 100, 200, 1);
    uint32_t again = 0;
    for (;;) {
        while (send_one(&g))
            for (uint32_t i = 0; i < g.st.n_bind; i++)
                if (g.st.number > 2) again = g.st.rows[g.st.n_row - 1].pos;
        if (!g.lane.n_queue) break;
        bring_one(&g);
    }
    assert_true(sched_stats_get(g.s).preemptions > 0);
    assert_int_equal(a->n_seen[0] + b->n_seen[0], 400);
    assert_true(again >= 96 && again % 16 == 0);
    close_rig(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_local_pages_move_along),
        cmocka_unit_test(test_window_is_found_again),
        cmocka_unit_test(test_ends_outlive_long_prompts),
        cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_few_local_pages),
        cmocka_unit_test(test_snapshot_at_the_end_of_the_prompt),
        cmocka_unit_test(test_snapshot_of_the_answer),
        cmocka_unit_test(test_snapshot_where_others_parted),
        cmocka_unit_test(test_long_prompts_push_nobody_out),
        cmocka_unit_test(test_choices_share_the_state),
        cmocka_unit_test(test_without_snapshots),
        cmocka_unit_test(test_bad_state_is_not_found),
        cmocka_unit_test(test_preempted_goes_on_from_its_snapshot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
