// The use of experts: counts add up and fade, strangers' are refused, tables and the picture
// follow.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "coordinator/fleet/usage.h"
#include "proto/base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 4, EXPERTS = 128 };

static struct model *model;
static struct usage *usage;
static struct place place;
static uint32_t counts[LAYERS * EXPERTS];

static int setup(void **state)
{
    (void)state;
    struct err_text why;
    if (model_open("shape:qwen3-30b-a3b@layers=4", &model, &why)) fail_msg("%s", why.s);
    assert_int_equal(model->shape.n_layer, LAYERS);
    assert_int_equal(model->shape.moe.n_expert, EXPERTS);
    assert_int_equal(usage_open(model, &usage, &why), OK);
    assert_non_null(usage);
    // One stage of two members, one of one.
    place = (struct place){.n_stage = 2, .n_member = 3};
    place.stages[0] = (struct place_stage){.layer_to = 3, .split = SPLIT_EXPERTS, .n_member = 2};
    place.stages[1] = (struct place_stage){.layer_from = 3, .layer_to = 4, .first = 2};
    place.stages[1].n_member = 1;
    for (uint32_t i = 0; i < 3; i++)
        place.members[i] = (struct place_member){.worker = 10 + i, .stage = i == 2};
    place.members[0].part = SHARE_TOTAL / 4;
    place.members[1].part = SHARE_TOTAL / 4 * 3;
    place.members[2].part = SHARE_TOTAL;
    memset(counts, 0, sizeof counts);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    usage_close(usage);
    model_close(model);
    return 0;
}

static err_t add(uint32_t layer_from, uint32_t n_layer, uint32_t n_expert, int64_t now_us)
{
    struct err_text why;
    const struct msg_usage m = {.epoch = 1,
                                .layer_from = layer_from,
                                .n_layer = n_layer,
                                .n_expert = n_expert,
                                .count = counts};
    return usage_add(usage, &m, now_us, &why);
}

static void counts_add_up_and_fade(void **state)
{
    (void)state;
    assert_true(usage_mean(usage, 5) == 0);
    for (int i = 0; i < LAYERS * EXPERTS; i++)
        counts[i] = 8;
    assert_int_equal(add(0, 3, EXPERTS, 1000), OK);
    assert_int_equal(add(3, 1, EXPERTS, 1000), OK);
    assert_true(usage_mean(usage, 1000) == 8);
    assert_true(usage_mean(usage, 0) == 8); // a clock that lags
    const double half = usage_mean(usage, 1000 + USAGE_HALF_LIFE_US);
    assert_true(half > 3.999 && half < 4.001);
    assert_int_equal(add(0, LAYERS, EXPERTS, 1000 + USAGE_HALF_LIFE_US), OK);
    const double more = usage_mean(usage, 1000 + USAGE_HALF_LIFE_US);
    assert_true(more > 11.999 && more < 12.001);
}

static void what_the_model_has_not_is_refused(void **state)
{
    (void)state;
    assert_int_equal(add(0, LAYERS + 1, EXPERTS, 0), ERR_LINK_PROTOCOL);
    assert_int_equal(add(LAYERS, 1, EXPERTS, 0), ERR_LINK_PROTOCOL);
    assert_int_equal(add(UINT32_MAX, 1, EXPERTS, 0), ERR_LINK_PROTOCOL);
    assert_int_equal(add(0, 1, EXPERTS - 1, 0), ERR_LINK_PROTOCOL);
    assert_true(usage_mean(usage, 0) == 0);
    struct model *dense;
    struct usage *none;
    struct err_text why;
    struct arena a;
    struct experts_plan plan;
    arena_init(&a, 0);
    if (model_open("shape:smollm2-135m", &dense, &why)) fail_msg("%s", why.s);
    assert_int_equal(usage_open(dense, &none, &why), OK);
    assert_null(none);
    const struct msg_usage m = {.n_layer = 1, .n_expert = 1, .count = counts};
    assert_int_equal(usage_add(NULL, &m, 0, &why), ERR_LINK_PROTOCOL);
    assert_int_equal(usage_place(NULL, &place, NULL, &a, &plan), ERR_NOT_FOUND);
    assert_true(usage_mean(NULL, 0) == 0);
    usage_close(none);
    model_close(dense);
    arena_fini(&a);
}

static const char *name_of(void *arg, uint32_t worker)
{
    assert_ptr_equal(arg, &place);
    static const char *const names[] = {"ada", "bob", "cy\"d"};
    return names[worker - 10];
}

static const struct json *picture(struct arena *a)
{
    struct buf b = {0};
    const struct json *j;
    struct err_text why;
    usage_json(usage, &place, name_of, &place, &b);
    assert_true(buf_ok(&b));
    if (json_read(b.data, b.len, a, &j, NULL, &why)) fail_msg("%s: %s", why.s, b.data);
    buf_fini(&b);
    return j;
}

static double number(const struct json *j, const char *key)
{
    const struct json *v = json_get(j, key);
    if (!v) fail_msg("no number %s", key);
    return json_number(v, -1);
}

static const struct json *worker_at(const struct json *j, size_t i)
{
    const struct json *list = json_get(j, "workers");
    assert_true(list && list->kind == J_ARR && list->arr.n == 3);
    return &list->arr.items[i];
}

static void a_table_follows_the_counts(void **state)
{
    (void)state;
    struct arena a;
    struct experts_plan plan;
    uint64_t spare[3] = {0};
    arena_init(&a, 0);
    for (int i = 0; i < LAYERS * EXPERTS; i++)
        counts[i] = 10;
    assert_int_equal(add(0, LAYERS, EXPERTS, 0), OK);
    assert_int_equal(usage_place(usage, &place, spare, &a, &plan), OK);
    assert_int_equal(plan.n_moved, 0); // as the parts say
    assert_null(place.experts);

    // All the warm ones lie with the first member, which is the slower one.
    for (int l = 0; l < LAYERS; l++)
        for (int e = 0; e < 16; e++)
            counts[l * EXPERTS + e] = 1000;
    assert_int_equal(add(0, LAYERS, EXPERTS, 0), OK);
    const struct json *before = picture(&a);
    assert_true(number(worker_at(before, 0), "load") > 0.8);
    assert_int_equal(number(worker_at(before, 0), "slowest"), 3);
    assert_int_equal(number(worker_at(before, 1), "slowest"), 0);
    assert_int_equal(number(worker_at(before, 0), "experts"), 3 * EXPERTS / 4);
    assert_int_equal(usage_place(usage, &place, spare, &a, &plan), OK); // swaps
    assert_true(plan.n_moved > 0 && experts_gain(&plan) > 1);
    assert_int_equal(plan.table.n_layer, LAYERS);
    place.experts = &plan.table;
    const struct json *after = picture(&a);
    assert_true(number(worker_at(after, 0), "load") < 0.3);
    assert_int_equal(number(worker_at(after, 0), "experts"), 3 * EXPERTS / 4); // no room for more
    assert_true(number(worker_at(after, 0), "load") + number(worker_at(after, 1), "load") > 0.999);
    arena_fini(&a);
}

static void the_picture_is_whole(void **state)
{
    (void)state;
    struct arena a;
    struct experts_plan plan;
    const uint64_t spare[3] = {(uint64_t)1 << 40, (uint64_t)1 << 40, 0};
    arena_init(&a, 0);
    counts[1 * EXPERTS + 5] = 3000; // nearly the only one
    counts[3 * EXPERTS + 7] = 1000;
    assert_int_equal(add(0, LAYERS, EXPERTS, 0), OK);
    assert_int_equal(usage_place(usage, &place, spare, &a, &plan), OK);
    assert_int_equal(plan.table.n_replica, 1);
    place.experts = &plan.table;
    const struct json *j = picture(&a);
    assert_int_equal(number(j, "n_expert"), EXPERTS);
    assert_int_equal(number(j, "products"), 4000);
    assert_string_equal(json_get(worker_at(j, 2), "worker")->str.s, "cy\"d");
    assert_int_equal(number(worker_at(j, 2), "load"), 1);
    assert_int_equal(number(worker_at(j, 2), "stage"), 1);
    assert_int_equal(number(worker_at(j, 2), "slowest"), 1);
    assert_int_equal(number(worker_at(j, 0), "copies") + number(worker_at(j, 1), "copies"), 1);
    const struct json *layers = json_get(j, "layers");
    assert_int_equal(layers->arr.n, LAYERS);
    const struct json *l = &layers->arr.items[1];
    assert_true(json_number(&json_get(l, "use")->arr.items[5], 0) == 1);
    assert_int_equal(json_get(l, "owner")->arr.n, EXPERTS);
    const struct json *copies = json_get(l, "copies");
    assert_int_equal(copies->arr.n, 1);
    assert_int_equal(json_number(&copies->arr.items[0].arr.items[0], 0), 5);
    assert_int_not_equal(json_number(&copies->arr.items[0].arr.items[1], -1),
                         json_number(&json_get(l, "owner")->arr.items[5], -1));
    arena_fini(&a);
}

static void parts_are_what_was_chosen(void **state)
{
    (void)state;
    double part[3];
    assert_false(usage_parts(usage, &place, part));
    assert_false(usage_parts(NULL, &place, part));
    for (int i = 0; i < LAYERS * EXPERTS; i++)
        counts[i] = 8;
    assert_int_equal(add(0, LAYERS, EXPERTS, 1000), OK);
    assert_true(usage_parts(usage, &place, part));
    assert_true(part[0] > 0.249 && part[0] < 0.251 && part[1] > 0.749 && part[1] < 0.751);
    counts[0] = 128 * 8; // an expert of the first member's
    assert_int_equal(add(0, LAYERS, EXPERTS, 1000), OK);
    assert_true(usage_parts(usage, &place, part));
    assert_true(part[0] > 0.3 && part[0] + part[1] > 0.999);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(counts_add_up_and_fade, setup, teardown),
        cmocka_unit_test_setup_teardown(what_the_model_has_not_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_table_follows_the_counts, setup, teardown),
        cmocka_unit_test_setup_teardown(the_picture_is_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(parts_are_what_was_chosen, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
