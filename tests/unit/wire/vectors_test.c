// Vectors of hidden states on the wire (ROW_POOL).
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/unit/wire/trip.h"

#include <math.h>
#include <stdlib.h>

static const int32_t ids[2] = {4, 5};
static const struct step_bind binds[2] = {
    {.slot = 1, .sampling = {.top_p = 1, .repetition = 1}, .pooling = POOLING_MEAN},
    {.slot = 2, .sampling = {.top_p = 1, .repetition = 1}}};
static const struct step_row rows[2] = {
    {.slot = 1, .flags = ROW_POOL, .n_tok = 2, .ids = ids, .next_id = -1},
    {.slot = 2, .flags = ROW_SAMPLE, .n_tok = 1, .ids = ids, .next_id = -1}};
static const float vectors[5] = {1, -2.5f, 0, 3e38f, 7};
static const struct step_item items[3] = {
    {.row = 0, .slot = 1, .id = -1, .vector = vectors, .n_vector = 3},
    {.row = 1, .slot = 2, .id = 9},
    {.row = 4, .slot = 3, .id = -1, .vector = vectors + 3, .n_vector = 2}};

static struct msg good_step(void)
{
    return (struct msg){
        .kind = MSG_STEP,
        .step = {.epoch = 5, .number = 42, .binds = binds, .n_bind = 2, .rows = rows, .n_row = 2}};
}

static struct msg good_result(void)
{
    return (struct msg){.kind = MSG_RESULT,
                        .result = {.epoch = 1, .number = 2, .items = items, .n_item = 3}};
}

static void test_trips(void **state)
{
    (void)state;
    struct trip t;
    struct msg m = good_step();
    trip_ok(&t, &m);
    assert_int_equal(t.out.step.binds[0].pooling, POOLING_MEAN);
    assert_int_equal(t.out.step.binds[1].pooling, POOLING_NONE);
    assert_int_equal(t.out.step.rows[0].flags, ROW_POOL);
    trip_fini(&t);
    m = good_result();
    trip_ok(&t, &m);
    for (int i = 0; i < 3; i++) {
        const struct step_item *a = &t.out.result.items[i], *b = &items[i];
        assert_int_equal(a->id, b->id);
        assert_int_equal(a->n_vector, b->n_vector);
        assert_true(!a->vector == !b->vector);
        if (b->vector) assert_memory_equal(a->vector, b->vector, 4 * b->n_vector);
    }
    trip_fini(&t);
}

static void test_rules(void **state)
{
    (void)state;
    struct step_bind b[2];
    struct step_row r[2];
    struct step_item it[3];
    float *large = calloc(STEP_VECTORS_MAX + 1, sizeof *large);
    assert_non_null(large);
#define BIND(change) REFUSED(good_step(), (memcpy(b, binds, sizeof b), m.step.binds = b, change))
#define ROW(change) REFUSED(good_step(), (memcpy(r, rows, sizeof r), m.step.rows = r, change))
#define ITEM(change)                                                                               \
    REFUSED(good_result(), (memcpy(it, items, sizeof it), m.result.items = it, change))
    BIND(b[0].pooling = POOLINGS);
    ROW(r[0].flags = ROW_POOL | ROW_SAMPLE);
    ROW(r[0].flags = ROW_POOL | ROW_SCORE);
    ROW((r[0].flags = ROW_POOL | ROW_CHAIN, r[0].n_tok = 1, r[0].from_step = 2));
    ROW(r[0].flags = 2 * ROW_POOL);
    large[7] = NAN;
    ITEM((it[0].vector = large, it[0].n_vector = 8));
    large[7] = INFINITY;
    ITEM((it[0].vector = large, it[0].n_vector = 8));
    large[7] = 0;
    ITEM((it[0].vector = large, it[0].n_vector = STEP_VECTORS_MAX + 1));
    free(large);
}

// As much as a step may have still fits a message.
static void test_most(void **state)
{
    (void)state;
    float *v = calloc(STEP_VECTORS_MAX, sizeof *v);
    struct trip t;
    assert_non_null(v);
    struct step_item it = {.slot = 1, .id = -1, .vector = v, .n_vector = STEP_VECTORS_MAX};
    struct msg m = {.kind = MSG_RESULT,
                    .result = {.epoch = 1, .number = 2, .items = &it, .n_item = 1}};
    trip_ok(&t, &m);
    assert_int_equal(t.out.result.items[0].n_vector, STEP_VECTORS_MAX);
    trip_fini(&t);
    free(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trips),
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_most),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
