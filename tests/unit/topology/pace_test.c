// Measured steps: what is fitted to them predicts them again, alone and in parts.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/unit/topology/cost_make.h"

#include <math.h>
#include <stdlib.h>

static const struct pace_times measured = {
    .layer_to = 4,
    .kv_elem_bits = 16,
    .depth = {40, 40, 40, 40},
    .decode_s = {8e-3, 9e-3, 11e-3, 14e-3},
    .choose_s = {9e-3, 10.5e-3, 13e-3, 17e-3},
    .chunk_s = {20e-3, 90e-3, 190e-3, 400e-3},
};

static struct cost_model *some_model(void)
{
    struct cost_model *m = calloc(1, sizeof *m);
    assert_non_null(m);
    m->n_layer = 4;
    m->dim = 1024;
    m->n_vocab = 1024;
    m->n_head = 8;
    m->n_head_kv = 8;
    for (int32_t i = 0; i < m->n_layer; i++) {
        add_matrix(m, i, COST_IN, SHARE_HEADS, 1 << 20);
        add_matrix(m, i, COST_DOWN, SHARE_MIDDLE, 2 << 20);
    }
    m->head = matrix(COST_LOGITS, SHARE_VOCAB, 1 << 19);
    return m;
}

static double seconds(const struct cost_model *m, const struct cluster_device *d,
                      const struct cost_step *s)
{
    const struct cost_group g = cost_group_alone(d);
    return 1e-9 * (double)cost_time_of(m, &g, s, 0, m->n_layer).ns;
}

static void assert_near(double a, double b)
{
    if (!(fabs(a / b - 1) < 1e-3)) fail_msg("%g s, expected %g s", a, b);
}

static void measured_steps_are_predicted(void **state)
{
    (void)state;
    struct cost_model *m = some_model();
    struct cluster c = {0};
    set_device(&c, 0, 10e9, 1e10);
    struct cluster_device *d = &c.devices[0];
    const struct cost_step one = {.rows = 1, .n_seq = 1, .depth = 40, .kv_elem_bits = 16};
    const double bare = seconds(m, d, &one);
    assert_true(bare < measured.decode_s[0]);
    d->pace = pace_fit(m, d, &measured);
    for (int i = 0; i < PACE_POINTS; i++) {
        const int32_t rows = pace_decode_rows[i];
        struct cost_step s = {.rows = rows, .n_seq = rows, .depth = 40, .kv_elem_bits = 16};
        s.logit_rows = rows;
        assert_near(seconds(m, d, &s), measured.choose_s[i]);
        if (rows == 1) { // of more rows the last layer goes on with the one that is asked for
            s.logit_rows = 0;
            assert_near(seconds(m, d, &s), measured.decode_s[i]);
        }
    }
    // Of a device with a pace the same is fitted: the pace it has is not counted twice.
    const struct pace again = pace_fit(m, d, &measured);
    assert_true(again.decode_s[0] == d->pace.decode_s[0]);
    // Half of a device's time takes twice as long, beyond the operations.
    pace_scale(&d->pace, 0.5);
    assert_near(seconds(m, d, &one), 2 * measured.decode_s[0] - bare);
    free(m);
}

static void between_points_it_is_linear(void **state)
{
    (void)state;
    const struct pace p = {.is_known = true,
                           .decode_s = {1, 4, 8, 16},
                           .chunk_s = {32, 64, 96, 128},
                           .head_s = {1, 2, 3, 5}};
    assert_true(pace_layer_s(&p, 1, 1) == 1 && pace_layer_s(&p, 10, 10) == 10);
    assert_true(pace_layer_s(&p, 32, 1) == 32 && pace_layer_s(&p, 80, 1) == 48);
    assert_true(pace_layer_s(&p, 16, 1) == 16); // between one row and the first chunk
    assert_true(pace_head_s(&p, 28) == 8);
    const struct pace none = {.decode_s = {1, 1, 1}};
    assert_true(pace_layer_s(&none, 4, 4) == 0 && pace_head_s(&none, 4) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(measured_steps_are_predicted),
                                       cmocka_unit_test(between_points_it_is_linear)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
