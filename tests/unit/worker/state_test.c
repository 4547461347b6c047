// Places of recurrent state: apart from each other, zeroed, saved and restored.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/unit/worker/exact_kernels.h"
#include "worker/state.h"

#include <string.h>

enum { CONV = 3 * (2 * 2 * 8 + 4 * 16), DELTA = 4 * 8 * 16 };

static struct plan_settings settings = {.n_slot = 3, .n_snapshot = 2};
static struct model_shape shape;
static struct kernels *kernels;

static struct state_config config(void)
{
    memset(&shape, 0, sizeof shape);
    shape.n_layer = 5;
    shape.delta =
        (struct model_delta){.n_head_k = 2, .n_head_v = 4, .dim_k = 8, .dim_v = 16, .n_tap = 4};
    for (int i = 0; i < 5; i++)
        shape.layers[i].mixer = i % 2 ? MIXER_ATTN : MIXER_DELTA;
    return (struct state_config){
        .settings = &settings, .shape = &shape, .layer_from = 1, .layer_to = 5, .kernels = kernels};
}

// Layers 2 and 4 are recurrent: indices 1 and 3.
static void fill(const struct state *st, uint32_t slot, float v)
{
    for (int32_t i = 1; i < 4; i += 2) {
        for (int32_t k = 0; k < CONV; k++)
            state_conv(st, i, slot)[k] = v + (float)(i * 10000 + k);
        for (int32_t k = 0; k < DELTA; k++)
            state_delta(st, i, slot)[k] = -v - (float)(i * 10000 + k);
    }
}

static bool holds(const struct state *st, uint32_t slot, float v)
{
    bool all = true;
    for (int32_t i = 1; i < 4; i += 2) {
        for (int32_t k = 0; k < CONV; k++)
            all &= state_conv(st, i, slot)[k] == (v == 0 ? 0 : v + (float)(i * 10000 + k));
        for (int32_t k = 0; k < DELTA; k++)
            all &= state_delta(st, i, slot)[k] == (v == 0 ? 0 : -v - (float)(i * 10000 + k));
    }
    return all;
}

static void test_places(void **state)
{
    (void)state;
    struct state_config c = config();
    struct state st;
    assert_int_equal(state_open(&st, &c, NULL), OK);
    assert_int_equal(state_bytes(&c), 5 * st.place_bytes);
    assert_int_equal(st.places.bytes, state_bytes(&c));
    assert_true(st.place_bytes >= 2 * sizeof(float) * (CONV + DELTA));
    assert_int_equal((uintptr_t)state_delta(&st, 3, 2) % 64, 0);
    for (uint32_t slot = 0; slot < 3; slot++)
        fill(&st, slot, (float)(slot + 1) * 0.25f);
    for (uint32_t slot = 0; slot < 3; slot++)
        assert_true(holds(&st, slot, (float)(slot + 1) * 0.25f));

    // Save two, overwrite all, restore them crosswise.
    state_save(&st, &(struct step_row){.slot = 0, .snapshot = 2});
    state_save(&st, &(struct step_row){.slot = 1, .snapshot = 1});
    state_save(&st, &(struct step_row){.slot = 2});
    for (uint32_t slot = 0; slot < 3; slot++) {
        assert_true(holds(&st, slot, (float)(slot + 1) * 0.25f));
        fill(&st, slot, 7);
    }
    state_bind(&st, &(struct step_bind){.slot = 1, .snapshot = 2});
    assert_true(holds(&st, 1, 0.25f));
    state_bind(&st, &(struct step_bind){.slot = 2, .snapshot = 1});
    assert_true(holds(&st, 2, 0.5f));
    state_bind(&st, &(struct step_bind){.slot = 0, .snapshot = 1}); // again
    assert_true(holds(&st, 0, 0.5f));
    state_bind(&st, &(struct step_bind){.slot = 2});
    assert_true(holds(&st, 2, 0));
    assert_true(holds(&st, 1, 0.25f));
    state_close(&st);
}

static void test_rules(void **state)
{
    (void)state;
    struct state_config c = config();
    struct state st;
    struct err_text why;
    struct step_row row = {.slot = 1, .pos = 32, .n_tok = 4, .snapshot = 2};
    struct step_bind bind = {.slot = 1, .snapshot = 1};
    assert_int_equal(state_open(&st, &c, NULL), OK);
    assert_int_equal(state_check_row(&st, &row, NULL, &why), OK);
    assert_int_equal(state_check_row(&st, &row, &bind, &why), OK);
    row.snapshot = 3;
    assert_int_equal(state_check_row(&st, &row, NULL, &why), ERR_LINK_PROTOCOL);
    assert_non_null(strstr(why.s, "snapshot 3 of 2"));
    row.snapshot = 0;
    bind.snapshot = UINT32_MAX;
    assert_int_equal(state_check_row(&st, &row, &bind, &why), ERR_LINK_PROTOCOL);
    bind.snapshot = 0; // in the middle, out of nothing
    assert_int_equal(state_check_row(&st, &row, &bind, &why), ERR_LINK_PROTOCOL);
    assert_non_null(strstr(why.s, "position 32"));
    row.pos = 0;
    assert_int_equal(state_check_row(&st, &row, &bind, &why), OK);
    bind.snapshot = 2;
    assert_int_equal(state_check_row(&st, &row, &bind, &why), ERR_LINK_PROTOCOL);
    state_close(&st);
}

// A stage without recurrent layers holds nothing and agrees to what the others do.
static void test_none(void **state)
{
    (void)state;
    struct state_config c = config();
    struct state st;
    struct err_text why;
    c.layer_to = 2;
    assert_int_equal(state_bytes(&c), 0);
    assert_int_equal(state_open(&st, &c, &why), OK);
    assert_null(st.places.data);
    struct step_row row = {.slot = 1, .pos = 32, .n_tok = 4, .snapshot = 2};
    assert_int_equal(state_check_row(&st, &row, &(struct step_bind){.snapshot = 1}, &why), OK);
    assert_int_equal(state_check_row(&st, &row, &(struct step_bind){.snapshot = 0}, &why), OK);
    row.snapshot = 3;
    assert_int_equal(state_check_row(&st, &row, NULL, &why), ERR_LINK_PROTOCOL);
    state_bind(&st, &(struct step_bind){.slot = 1, .snapshot = 2});
    state_save(&st, &(struct step_row){.slot = 1, .snapshot = 2});
    state_close(&st);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_none),
    };
    kernels = open_kernels();
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    kernels->ops->close(kernels);
    return failed;
}
