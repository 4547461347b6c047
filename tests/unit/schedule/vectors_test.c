// Requests that end in a vector instead of tokens.
#include "tests/unit/schedule/rig.h"

#include <math.h>

enum { DIM = 4 };
static const float vector[DIM] = {1, 2, 3, 4};

static struct sched_config config(void)
{
    struct sched_config c = plain;
    c.dim = DIM;
    c.max_tok = 16;
    return c;
}

static struct request *make_pooled(enum pooling kind, uint32_t n_prompt)
{
    struct request *r = request_new(1 << 20);
    assert_non_null(r);
    int32_t *ids = arena_take_n(&r->arena, n_prompt, sizeof *ids);
    for (uint32_t i = 0; i < n_prompt; i++)
        ids[i] = (int32_t)i % SIM_VOCAB;
    r->prompt = ids;
    r->n_prompt = n_prompt;
    r->pooling = kind;
    assert_int_equal(request_init_choices(r, 1), OK);
    return r;
}

// Answers the oldest step with `v` for each row that asks; the number of vectors.
static uint32_t answer(struct sched *s, const struct step *st, const float *v)
{
    struct step_item items[16];
    struct step_result r = {.epoch = st->epoch, .number = st->number, .items = items};
    for (uint32_t i = 0; i < st->n_row; i++) {
        const struct step_row *row = &st->rows[i];
        assert_true(row->flags == 0 || row->flags == ROW_POOL);
        if (row->flags)
            items[r.n_item++] = (struct step_item){
                .row = i, .slot = row->slot, .id = -1, .vector = v, .n_vector = DIM};
    }
    struct err_text why = {0};
    if (sched_commit(s, &r, SIM_VOCAB, 30, &why)) fail_msg("%s", why.s);
    assert_null(sched_check(s));
    return r.n_item;
}

// All of the request, one step after the other; the position at which it began.
static uint32_t run_one(struct sched *s, struct request *r)
{
    struct step st;
    uint32_t from = UINT32_MAX, n_event;
    assert_int_equal(sched_submit(s, r, 10, NULL), OK);
    while (r->n_live) {
        assert_true(sched_next(s, 20, &st));
        assert_int_equal(st.n_row, 1);
        const bool is_last = st.rows[0].pos + st.rows[0].n_tok == r->n_prompt;
        if (from == UINT32_MAX) {
            assert_int_equal(st.n_bind, 1);
            assert_int_equal(st.binds[0].pooling, r->pooling);
            from = st.rows[0].pos;
        }
        assert_int_equal(answer(s, &st, vector), is_last);
        const struct sched_event *e = sched_events(s, &n_event);
        assert_int_equal(n_event, is_last ? 2 : 0);
        if (!is_last) continue;
        assert_int_equal(e[0].kind, EVENT_VECTOR);
        assert_ptr_equal(e[0].item->vector, vector);
        assert_int_equal(e[1].kind, EVENT_FINISH);
        assert_true(e[1].request_done);
    }
    assert_int_equal(r->choices[0].finish, FINISH_STOP);
    assert_int_equal(r->choices[0].n_generated, 0);
    assert_true(r->first_token_us && r->finished_us);
    assert_int_equal(sched_stats_get(s).n_page_used, 0);
    assert_false(sched_next(s, 40, &st));
    request_free(r);
    return from;
}

static void prefixes_are_reused_where_they_can_be(void **state)
{
    (void)state;
    const struct sched_config c = config();
    struct sched *s = sched_new(8);
    assert_int_equal(sched_configure(s, &c), OK);
    assert_int_equal(run_one(s, make_pooled(POOLING_LAST, 40)), 0);
    assert_int_equal(run_one(s, make_pooled(POOLING_MEAN, 40)), 0);
    assert_int_equal(run_one(s, make_pooled(POOLING_FIRST, 40)), 0);
    assert_int_equal(run_one(s, make_pooled(POOLING_LAST, 40)), 32);
    struct request *mean = make_pooled(POOLING_MEAN, 40), *last = make_pooled(POOLING_LAST, 40);
    assert_int_equal(sched_known(s, mean), 0);
    assert_int_equal(sched_known(s, last), 32);
    request_free(mean);
    request_free(last);
    sched_free(s);
}

static void a_prompt_may_fill_the_context(void **state)
{
    (void)state;
    struct sched_config c = config();
    c.ctx = 64;
    c.n_page = 4;
    struct sched *s = sched_new(8);
    assert_int_equal(sched_configure(s, &c), OK);
    assert_int_equal(run_one(s, make_pooled(POOLING_MEAN, 64)), 0);
    struct request *r = make_pooled(POOLING_MEAN, 65);
    assert_int_equal(sched_submit(s, r, 0, NULL), ERR_TOO_LARGE);
    request_free(r);
    c.ctx = 128; // but not the pages
    assert_int_equal(sched_configure(s, &c), OK);
    r = make_pooled(POOLING_MEAN, 65);
    assert_int_equal(sched_submit(s, r, 0, NULL), ERR_TOO_LARGE);
    request_free(r);
    sched_free(s);
}

static void a_step_has_only_so_many_vectors(void **state)
{
    (void)state;
    struct sched_config c = config();
    c.dim = STEP_VECTORS_MAX / 2;
    struct sched *s = sched_new(8);
    assert_int_equal(sched_configure(s, &c), OK);
    float *v = calloc(c.dim, sizeof *v);
    assert_non_null(v);
    struct request *r[5];
    for (int i = 0; i < 5; i++) {
        r[i] = make_pooled(POOLING_MEAN, 3);
        assert_int_equal(sched_submit(s, r[i], 0, NULL), OK);
    }
    uint32_t n_done = 0;
    for (int i = 0; i < 10 && n_done < 5; i++) {
        struct step st;
        assert_true(sched_next(s, 20, &st));
        struct step_item items[16];
        struct step_result res = {.epoch = 1, .number = st.number, .items = items};
        for (uint32_t k = 0; k < st.n_row; k++)
            if (st.rows[k].flags == ROW_POOL)
                items[res.n_item++] = (struct step_item){
                    .row = k, .slot = st.rows[k].slot, .id = -1, .vector = v, .n_vector = c.dim};
        assert_in_range(res.n_item, 1, 2);
        assert_int_equal(sched_commit(s, &res, SIM_VOCAB, 30, NULL), OK);
        n_done += res.n_item;
        uint32_t n;
        sched_events(s, &n);
        assert_int_equal(n, 2 * res.n_item);
    }
    assert_int_equal(n_done, 5);
    for (int i = 0; i < 5; i++)
        request_free(r[i]);
    c.dim = STEP_VECTORS_MAX + 1;
    assert_int_equal(sched_configure(s, &c), OK);
    struct request *never = make_pooled(POOLING_LAST, 3);
    assert_int_equal(sched_submit(s, never, 0, NULL), ERR_TOO_LARGE);
    request_free(never);
    free(v);
    sched_free(s);
}

static void false_vectors_are_refused(void **state)
{
    (void)state;
    const struct sched_config c = config();
    struct sched *s = sched_new(8);
    struct step st;
    struct err_text why;
    const float nan[DIM] = {0, NAN, 0, 0};
    assert_int_equal(sched_configure(s, &c), OK);
    struct request *r = make_pooled(POOLING_LAST, 5);
    assert_int_equal(sched_submit(s, r, 0, NULL), OK);
    assert_true(sched_next(s, 20, &st));
    struct step_item it = {.slot = st.rows[0].slot, .id = -1};
    struct step_result res = {.epoch = 1, .number = 1, .items = &it, .n_item = 1};
    const struct step_item bad[] = {
        {.slot = it.slot, .id = -1},
        {.slot = it.slot, .id = -1, .n_vector = DIM},
        {.slot = it.slot, .id = -1, .vector = vector, .n_vector = DIM - 1},
        {.slot = it.slot, .id = -1, .vector = nan, .n_vector = DIM},
        {.slot = it.slot, .id = 3, .vector = vector, .n_vector = DIM},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        it = bad[i];
        assert_int_equal(sched_commit(s, &res, SIM_VOCAB, 30, &why), ERR_LINK_PROTOCOL);
    }
    it = bad[2];
    it.n_vector = DIM;
    it.nonfinite = true;
    assert_int_equal(sched_commit(s, &res, SIM_VOCAB, 30, &why), OK);
    uint32_t n;
    const struct sched_event *e = sched_events(s, &n);
    assert_int_equal(n, 1);
    assert_int_equal(e[0].kind, EVENT_FINISH);
    assert_int_equal(r->choices[0].finish, FINISH_ERROR);
    assert_int_equal(r->error, ERR_DEVICE);
    request_free(r);
    sched_free(s);
}

// A new placement computes it again, from its start.
static void a_new_epoch_begins_again(void **state)
{
    (void)state;
    struct sched_config c = config();
    struct sched *s = sched_new(8);
    struct step st;
    assert_int_equal(sched_configure(s, &c), OK);
    struct request *r = make_pooled(POOLING_MEAN, 40);
    assert_int_equal(sched_submit(s, r, 0, NULL), OK);
    assert_true(sched_next(s, 20, &st));
    assert_int_equal(answer(s, &st, vector), 0);
    assert_true(sched_next(s, 20, &st));
    c.epoch = 2;
    assert_int_equal(sched_configure(s, &c), OK);
    assert_true(sched_next(s, 30, &st));
    assert_int_equal(st.rows[0].pos, 0);
    assert_int_equal(st.binds[0].pooling, POOLING_MEAN);
    answer(s, &st, vector);
    for (int i = 0; i < 2; i++) {
        assert_true(sched_next(s, 40, &st));
        answer(s, &st, vector);
    }
    assert_int_equal(r->choices[0].finish, FINISH_STOP);
    request_free(r);
    sched_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prefixes_are_reused_where_they_can_be),
        cmocka_unit_test(a_prompt_may_fill_the_context),
        cmocka_unit_test(a_step_has_only_so_many_vectors),
        cmocka_unit_test(false_vectors_are_refused),
        cmocka_unit_test(a_new_epoch_begins_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
