// Results: nothing a worker can say breaks the scheduler.
#include "tests/unit/schedule/rig.h"

// One field of a right result made wrong. All of them are 4 bytes wide.
struct crime {
    const char *name;
    enum { RESULT, ITEM, TOP } in;
    uint32_t index;
    size_t offset;
    uint32_t value;
};

enum { NOT_A_NUMBER = 0x7fc00000, MINUS_INFINITY = (int)0xff800000 };
// Row 0 only scores, row 1 draws with 2 likely ids, row 2 draws without.
static const struct crime crimes[] = {
    {"wrong number", RESULT, 0, offsetof(struct step_result, number), 2},
    {"old number", RESULT, 0, offsetof(struct step_result, number), 0},
    {"item missing", RESULT, 0, offsetof(struct step_result, n_item), 2},
    {"item more", RESULT, 0, offsetof(struct step_result, n_item), 4},
    {"wrong row", ITEM, 1, offsetof(struct step_item, row), 7},
    {"same row", ITEM, 1, offsetof(struct step_item, row), 0},
    {"another's slot", ITEM, 1, offsetof(struct step_item, slot), 0},
    {"huge slot", ITEM, 0, offsetof(struct step_item, slot), UINT32_MAX},
    {"id large", ITEM, 1, offsetof(struct step_item, id), SIM_VOCAB},
    {"id negative", ITEM, 1, offsetof(struct step_item, id), UINT32_MAX},
    {"drawn unasked", ITEM, 0, offsetof(struct step_item, id), 3},
    {"score missing", ITEM, 0, offsetof(struct step_item, n_score), 20},
    {"score more", ITEM, 0, offsetof(struct step_item, n_score), 60},
    {"score unasked", ITEM, 1, offsetof(struct step_item, n_score), 1},
    {"likely more", ITEM, 1, offsetof(struct step_item, n_top), 3},
    {"likely unasked", ITEM, 2, offsetof(struct step_item, n_top), 1},
    {"likely id large", TOP, 1, offsetof(struct token_prob, id), SIM_VOCAB},
    {"likely id negative", TOP, 0, offsetof(struct token_prob, id), UINT32_MAX},
    {"likely not a number", TOP, 1, offsetof(struct token_prob, logprob), NOT_A_NUMBER},
    {"logprob infinite", ITEM, 1, offsetof(struct step_item, logprob), MINUS_INFINITY},
};

struct rightful { // a result that can be spoilt
    struct step_result result;
    struct step_item items[4];
    struct token_prob top[3];
    float scores[64];
};

static void copy_result(struct rightful *c, const struct step_result *good)
{
    *c = (struct rightful){.result = *good, .top = {{1, -1}, {2, -2}, {3, -3}}};
    memcpy(c->items, good->items, good->n_item * sizeof *c->items);
    memcpy(c->scores, good->items[0].scores, good->items[0].n_score * sizeof *c->scores);
    c->result.items = c->items;
    c->items[0].scores = c->scores;
    c->items[1].top = c->top;
}

static void must_refuse(struct rig *g, const char *name, const struct step_result *bad)
{
    struct sched_stats before = sched_stats_get(g->s);
    struct err_text why = {""};
    err_t e = sched_commit(g->s, bad, SIM_VOCAB, 50, &why);
    if (e != ERR_LINK_PROTOCOL || !why.s[0]) fail_msg("%s: %d %s", name, e, why.s);
    struct sched_stats after = sched_stats_get(g->s);
    assert_int_equal(before.in_flight, after.in_flight);
    assert_int_equal(before.n_page_used, after.n_page_used);
    assert_int_equal(before.n_running, after.n_running);
    assert_int_equal(before.generated_tokens, after.generated_tokens);
    assert_null(sched_check(g->s));
    assert_int_equal(drain(g), 0);
}

static void test_malicious_results(void **state)
{
    (void)state;
    struct rig g;
    struct sched_config c = plain;
    c.max_tok = 64;
    open_rig(&g, c);
    struct job *scored = make(&g, 1, 60, 5, 1), *likely = make(&g, 2, 8, 5, 1);
    scored->req->score_prompt = true;
    likely->req->sampling.n_logprobs = 2;
    assert_int_equal(sched_submit(g.s, scored->req, 0, NULL), OK);
    assert_int_equal(sched_submit(g.s, likely->req, 0, NULL), OK);
    submit(&g, 3, 10, 5, 1);
    assert_true(send_one(&g));
    assert_int_equal(g.st.n_row, 3);
    assert_int_equal(g.st.rows[0].flags, ROW_SCORE);
    assert_true(send_one(&g));
    struct step_result good = lane_run(&g.lane);
    assert_int_equal(good.n_item, 3);
    drain(&g);
    struct rightful spoilt;
    for (size_t i = 0; i < sizeof crimes / sizeof *crimes; i++) {
        const struct crime *k = &crimes[i];
        copy_result(&spoilt, &good);
        void *in = k->in == RESULT ? (void *)&spoilt.result
                   : k->in == ITEM ? (void *)&spoilt.items[k->index]
                                   : (void *)&spoilt.top[k->index];
        memcpy((char *)in + k->offset, &k->value, sizeof k->value);
        must_refuse(&g, k->name, &spoilt.result);
    }
    copy_result(&spoilt, &good);
    spoilt.scores[3] = (float)__builtin_nan("");
    must_refuse(&g, "score not a number", &spoilt.result);
    copy_result(&spoilt, &good);
    spoilt.items[0].scores = NULL;
    must_refuse(&g, "no scores", &spoilt.result);
    copy_result(&spoilt, &good);
    spoilt.items[1].top = NULL;
    must_refuse(&g, "no likely ids", &spoilt.result);
    copy_result(&spoilt, &good);
    spoilt.result.items = NULL;
    must_refuse(&g, "no items", &spoilt.result);
    struct step_result future = good;
    future.epoch = 9;
    assert_int_equal(sched_commit(g.s, &future, SIM_VOCAB, 50, NULL), OK);
    assert_int_equal(sched_commit(g.s, &good, SIM_VOCAB, 50, NULL), OK);
    drain(&g);
    assert_int_equal(sched_commit(g.s, &good, SIM_VOCAB, 50, NULL), ERR_LINK_PROTOCOL); // twice
    run_out(&g);
    assert_int_equal(scored->n_seen[0], 5);
    assert_int_equal(likely->n_seen[0], 5);
    struct step_result none = {.epoch = 1, .number = 1};
    assert_int_equal(sched_commit(g.s, &none, SIM_VOCAB, 50, NULL), ERR_LINK_PROTOCOL);
    close_rig(&g);
}

static void test_nonfinite(void **state)
{
    (void)state;
    struct rig g;
    open_rig(&g, plain);
    struct job *j = submit(&g, 1, 64, 8, 2), *other = submit(&g, 5, 20, 8, 1);
    j->poison_pos = 64 + 3;
    while (other->req) {
        while (send_one(&g))
            ;
        struct step_result r = lane_run(&g.lane);
        assert_int_equal(sched_commit(g.s, &r, SIM_VOCAB, 0, NULL), OK);
        if (j->req && !j->req->n_live) {
            assert_int_equal(j->req->error, ERR_DEVICE);
            assert_int_equal(j->req->choices[0].finish, FINISH_ERROR);
            assert_int_equal(j->req->choices[1].finish, FINISH_ERROR);
            assert_true(j->req->why.s[0]);
        }
        drain(&g);
    }
    assert_null(j->req);
    assert_int_equal(other->n_seen[0], 8);
    submit(&g, 1, 64, 1, 1);
    assert_true(send_one(&g));
    assert_int_equal(g.st.rows[0].pos, 0); // its pages are not found any more
    run_out(&g);
    close_rig(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_malicious_results),
        cmocka_unit_test(test_nonfinite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
