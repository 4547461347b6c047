// Choices with rules: what may come next travels with the row.
#include "tests/unit/schedule/rig.h"

// Rules that allow the id that will be drawn, and those beside it; with a mask as long as asked.
struct ruling {
    uint32_t n_mask;  // bytes of each mask
    uint32_t over_at; // tokens after which nothing may follow; UINT32_MAX: never
    uint32_t fail_at;
    bool excludes;  // the id that will be drawn
    uint32_t every; // only each such token of a history has a mask; 0: all
    uint32_t n_next, n_free;
};

static err_t next(struct choice *c, struct err_text *why)
{
    struct ruling *r = c->req->ruled;
    const struct job *j = c->req->owner;
    r->n_next++;
    if (c->n_generated == r->over_at) return ERR_END;
    if (c->n_generated == r->fail_at) return err_say(why, ERR_INVALID, "no way on");
    c->may_chain = r->every && (c->n_generated + 2) % r->every != 0;
    c->mask = NULL;
    c->n_mask = 0;
    if (c->n_generated == j->max_tokens || (r->every && (c->n_generated + 1) % r->every)) return OK;
    uint8_t *mask = c->ruled ? c->ruled : arena_take(&c->req->arena, r->n_mask);
    const int32_t id = j->ids[c->index][choice_n_id(c)];
    memset(mask, 0, r->n_mask);
    mask[1 + id / 8] = r->excludes ? (uint8_t) ~(1u << id % 8) : (uint8_t)(1u << id % 8);
    c->ruled = mask;
    c->mask = mask;
    c->n_mask = r->n_mask;
    return OK;
}

static void gone(struct request *req)
{
    struct ruling *r = req->ruled;
    r->n_free++;
}

static const struct request_rules rules = {.next = next, .free = gone};

static struct ruling ruling_of(uint32_t n_mask)
{
    return (struct ruling){.n_mask = n_mask, .over_at = UINT32_MAX, .fail_at = UINT32_MAX};
}

static struct job *submit_ruled(struct rig *g, struct ruling *r, uint32_t n_prompt,
                                uint32_t max_tokens, uint32_t n_choice)
{
    struct job *j = make(g, 5, n_prompt, max_tokens, n_choice);
    j->req->rules = &rules;
    j->req->ruled = r;
    struct err_text why;
    if (sched_submit(g->s, j->req, 10, &why) != OK) fail_msg("%s", why.s);
    return j;
}

// The rows of ruled choices, and no others, have the mask of their history when they draw.
static void check_rows(const struct rig *g, const struct ruling *r)
{
    uint32_t n_mask = 0;
    for (uint32_t i = 0; i < g->st.n_row; i++) {
        const struct step_row *row = &g->st.rows[i];
        const bool ruled = row->mask != NULL;
        n_mask += row->n_mask;
        if (!ruled) continue;
        assert_true(row->flags & ROW_SAMPLE && !(row->flags & ROW_CHAIN));
        assert_int_equal(row->n_mask, r->n_mask);
    }
    assert_true(n_mask <= STEP_MASKS_MAX);
}

static void test_masks_travel_with_rows(void **state)
{
    (void)state;
    for (uint32_t n_stage = 1; n_stage <= 3; n_stage++) {
        struct rig g;
        struct sched_config c = plain;
        c.n_stage = n_stage;
        c.in_flight = n_stage + 1;
        c.max_tok = 32;
        open_rig(&g, c);
        struct ruling r = ruling_of(9);
        submit_ruled(&g, &r, 70, 20, 2);
        const struct job *free = submit(&g, 7, 40, 30, 1);
        uint32_t n_masked = 0, n_chained = 0;
        for (int i = 0; i < 1000; i++) {
            while (send_one(&g)) {
                check_rows(&g, &r);
                for (uint32_t k = 0; k < g.st.n_row; k++) {
                    n_masked += g.st.rows[k].mask != NULL;
                    n_chained += g.st.rows[k].flags & ROW_CHAIN ? 1 : 0;
                }
            }
            if (!g.lane.n_queue) break;
            bring_one(&g);
        }
        assert_int_equal(n_masked, 40); // each draw of both choices
        assert_int_equal(r.n_next, 42); // first masks, and one per token
        assert_true(free->is_over[0] && n_chained > 0);
        assert_int_equal(r.n_free, 1);
        close_rig(&g);
    }
}

// More masks than a message holds: those that do not fit come with the next step, in turn.
static void test_masks_share_a_step(void **state)
{
    (void)state;
    enum { N = 10 };
    struct rig g;
    struct job *jobs[N];
    open_rig(&g, plain);
    struct ruling r = ruling_of(IDSET_BYTES_MAX);
    for (uint32_t i = 0; i < N; i++)
        jobs[i] = submit_ruled(&g, &r, 8 + i, 6, 1);
    for (int i = 0; i < 300; i++) {
        while (send_one(&g)) {
            check_rows(&g, &r);
            assert_true(g.st.n_row <= STEP_MASKS_MAX / IDSET_BYTES_MAX);
        }
        if (!g.lane.n_queue) break;
        bring_one(&g);
        uint32_t least = UINT32_MAX, most = 0;
        for (uint32_t k = 0; k < N; k++) {
            if (jobs[k]->n_seen[0] < least) least = jobs[k]->n_seen[0];
            if (jobs[k]->n_seen[0] > most) most = jobs[k]->n_seen[0];
        }
        assert_true(most - least <= 2);
    }
    for (uint32_t i = 0; i < N; i++)
        assert_true(jobs[i]->is_over[0]);
    close_rig(&g);
}

// Rules that are through end the choice; the token that brought it there is told.
static void test_rules_end_a_choice(void **state)
{
    (void)state;
    struct rig g;
    open_rig(&g, plain);
    struct ruling r = ruling_of(9), at_max = ruling_of(9), lost = ruling_of(9);
    r.over_at = 7;
    at_max.over_at = 5;
    lost.fail_at = 3;
    struct job *a = submit_ruled(&g, &r, 20, 50, 1), *b = submit_ruled(&g, &at_max, 20, 5, 1);
    struct job *c = submit_ruled(&g, &lost, 20, 50, 1);
    const struct job *jobs[3] = {a, b, c};
    enum finish how[3] = {FINISH_NONE, FINISH_NONE, FINISH_NONE};
    while (send_one(&g)) {
        struct step_result res = lane_run(&g.lane);
        assert_int_equal(sched_commit(g.s, &res, SIM_VOCAB, 30, NULL), OK);
        for (int k = 0; k < 3; k++)
            if (jobs[k]->req) how[k] = jobs[k]->req->choices[0].finish;
        if (c->req && how[2] == FINISH_ERROR) assert_string_equal(c->req->why.s, "no way on");
        drain(&g);
    }
    assert_int_equal(how[0], FINISH_STOP);
    assert_int_equal(how[1], FINISH_STOP); // not for its length
    assert_int_equal(how[2], FINISH_ERROR);
    assert_int_equal(a->n_seen[0], 7);
    assert_int_equal(b->n_seen[0], 5);
    assert_int_equal(c->n_seen[0], 3);
    close_rig(&g);
}

static void test_rules_refuse_at_once(void **state)
{
    (void)state;
    struct rig g;
    struct err_text why;
    open_rig(&g, plain);
    struct ruling over = ruling_of(9), lost = ruling_of(9);
    over.over_at = lost.fail_at = 0;
    struct job *a = make(&g, 1, 10, 5, 1), *b = make(&g, 2, 10, 5, 2);
    a->req->rules = b->req->rules = &rules;
    a->req->ruled = &over;
    b->req->ruled = &lost;
    assert_int_equal(sched_submit(g.s, a->req, 0, &why), ERR_INVALID);
    assert_int_equal(sched_submit(g.s, b->req, 0, &why), ERR_INVALID);
    assert_string_equal(why.s, "no way on");
    assert_false(send_one(&g));
    close_rig(&g);
    assert_int_equal(over.n_free + lost.n_free, 2);
}

// A worker that draws what the mask does not let through is refused, and nothing has changed.
static void test_id_outside_the_mask(void **state)
{
    (void)state;
    struct rig g;
    struct err_text why;
    open_rig(&g, plain);
    struct ruling r = ruling_of(9);
    r.excludes = true;
    const struct job *j = submit_ruled(&g, &r, 10, 5, 1);
    assert_true(send_one(&g));
    struct step_result res = lane_run(&g.lane);
    assert_int_equal(sched_commit(g.s, &res, SIM_VOCAB, 30, &why), ERR_LINK_PROTOCOL);
    assert_non_null(strstr(why.s, "mask"));
    assert_int_equal(j->req->choices[0].n_generated, 0);
    close_rig(&g);
}

// A new placement: the mask belongs to the history, and is sent again with it.
static void test_masks_survive_a_new_epoch(void **state)
{
    (void)state;
    struct rig g;
    struct sched_config c = plain;
    open_rig(&g, c);
    struct ruling r = ruling_of(9);
    const struct job *j = submit_ruled(&g, &r, 30, 12, 1);
    for (int i = 0; i < 5; i++) {
        assert_true(send_one(&g));
        bring_one(&g);
    }
    assert_true(send_one(&g)); // on its way when the lane is lost
    const uint32_t n_next = r.n_next;
    c.epoch = 2;
    assert_int_equal(sched_configure(g.s, &c), OK);
    lane_fini(&g.lane);
    lane_init(&g.lane, &c, g.jobs);
    assert_true(send_one(&g));
    assert_int_equal(g.st.rows[0].n_tok, 35);
    assert_non_null(g.st.rows[0].mask);
    assert_int_equal(r.n_next, n_next);
    run_out(&g);
    assert_int_equal(j->n_seen[0], 12);
    close_rig(&g);
}

// Rows are chained where the rules say that any id may come; the others wait for their masks.
static void test_chains_between_masks(void **state)
{
    (void)state;
    for (uint32_t chain = 0; chain < 2; chain++) {
        struct rig g;
        struct sched_config c = plain;
        c.n_stage = 2;
        c.in_flight = 3;
        c.chain = chain;
        open_rig(&g, c);
        struct ruling r = ruling_of(9);
        r.every = 5;
        const struct job *j = submit_ruled(&g, &r, 20, 30, 1);
        uint32_t n_masked = 0, n_chained = 0;
        for (int i = 0; i < 1000; i++) {
            while (send_one(&g)) {
                for (uint32_t k = 0; k < g.st.n_row; k++) {
                    const struct step_row *row = &g.st.rows[k];
                    const uint32_t draws = row->pos + row->n_tok - 20 + 1; // its place, from 1
                    n_chained += (row->flags & ROW_CHAIN) != 0;
                    n_masked += row->mask != NULL;
                    if (row->flags & ROW_SAMPLE)
                        assert_int_equal(row->mask != NULL, draws % 5 == 0);
                    if (draws % 5 == 0) assert_false(row->flags & ROW_CHAIN);
                }
            }
            if (!g.lane.n_queue) break;
            bring_one(&g);
        }
        assert_true(j->is_over[0]);
        assert_int_equal(j->n_seen[0], 30);
        assert_int_equal(n_masked, 6);
        assert_true(chain ? n_chained >= 15 : !n_chained);
        close_rig(&g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_masks_travel_with_rows),
        cmocka_unit_test(test_masks_share_a_step),
        cmocka_unit_test(test_chains_between_masks),
        cmocka_unit_test(test_rules_end_a_choice),
        cmocka_unit_test(test_rules_refuse_at_once),
        cmocka_unit_test(test_id_outside_the_mask),
        cmocka_unit_test(test_masks_survive_a_new_epoch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
