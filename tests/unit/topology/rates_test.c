// Measured rates: times between measured points, in the cost model, in cluster files.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/base/buf.h"
#include "tests/unit/topology/cost_make.h"

#include <math.h>
#include <stdlib.h>

static struct rates some_rates(void)
{
    return (struct rates){
        .n_type = 2,
        .types = {{DT_Q4_0, {2e10, 5e10, 7e10, 7.5e10, 7.25e10}},
                  {DT_BF16, {0.5e10, 1e10, 2e10, 2.5e10, 2e10}}},
        .attn_one_flops_per_s = 4e10,
        .attn_many_flops_per_s = 5e10,
        .product_us = 0.5,
        .layer_us = 8,
        .float_ns = 0.25,
        .seq_us = 1.5,
        .logit_ns = 0.125,
    };
}

static bool is_near(double a, double b)
{
    return fabs(a / b - 1) < 1e-9;
}

static void times_are_linear_between_points(void **state)
{
    (void)state;
    const struct rates r = some_rates();
    const struct rates_type *t = rates_find(&r, DT_Q4_0);
    const double n = 1e6;
    for (int i = 0; i < RATES_POINTS; i++)
        assert_true(
            is_near(rates_seconds(t, rates_rows[i], n), rates_rows[i] * n / t->mul_per_s[i]));
    const double a = rates_seconds(t, 4, n), b = rates_seconds(t, 16, n);
    assert_true(is_near(rates_seconds(t, 10, n), (a + b) / 2));
    assert_true(is_near(rates_seconds(t, 1000, n),
                        512 * n / 7.25e10 + 488 * n * (512 / 7.25e10 - 64 / 7.5e10) / 448));
    double before = 0;
    for (double rows = 1; rows < 2000; rows *= 1.07) {
        const double s = rates_seconds(t, rows, n);
        assert_true(s >= before);
        before = s;
    }
}

static void a_type_stands_in_for_its_like(void **state)
{
    (void)state;
    const struct rates r = some_rates();
    assert_int_equal(rates_find(&r, DT_Q4_0)->dtype, DT_Q4_0);
    assert_int_equal(rates_find(&r, DT_Q6_K)->dtype, DT_Q4_0);
    assert_int_equal(rates_find(&r, DT_F32)->dtype, DT_BF16);
    struct rates one = r;
    one.n_type = 1;
    assert_null(rates_find(&one, DT_F16)); // nothing like it: the peaks count
    assert_int_equal(rates_check(&r, NULL), OK);
    one = r;
    one.types[1].dtype = DT_Q4_0;
    assert_int_equal(rates_check(&one, NULL), ERR_CONFIG);
    one = r;
    one.types[0].mul_per_s[3] = NAN;
    assert_int_equal(rates_check(&one, NULL), ERR_CONFIG);
    one = r;
    one.layer_us = -1;
    assert_int_equal(rates_check(&one, NULL), ERR_CONFIG);
}

static void the_cost_model_uses_them(void **state)
{
    (void)state;
    struct cost_model m = model_of(1, 0);
    struct cluster_device d = {.read_bytes_per_s = 1e12,
                               .int8_ops_per_s = 1e15,
                               .f32_flops_per_s = 1e15,
                               .rates = some_rates()};
    const struct cost_step one = {1, 1, 1, 0, 2}, many = {64, 64, 64, 0, 2};
    m.layers[0].kv_elems = 0;
    m.layers[0].seen_flops = 0;
    m.layers[0].n_matrix = 0;
    add_matrix(&m, 0, COST_UP, SHARE_MIDDLE, 512000000); // 1.024e9 elements
    double want = 1.024e9 / 2e10 + (0.5 + 8) * 1e-6;
    assert_true(fabs((double)cost_layer_ns(&m, &d, &one, 0) * 1e-9 - want) < 1e-8);
    want =
        64 * 1.024e9 / 7.5e10 + (0.5 + 8 + 63 * 1.5) * 1e-6 + 63 * 0.25e-9 * (double)m.row_floats;
    assert_true(fabs((double)cost_layer_ns(&m, &d, &many, 0) * 1e-9 - want) < 1e-8);
    m.head = matrix(COST_LOGITS, SHARE_VOCAB, 512000);
    want = 1.024e6 / 2e10 + 0.5e-6 + 0.125e-9 * m.n_vocab;
    assert_true(fabs((double)cost_head_ns(&m, &d, &one) * 1e-9 - want) < 1e-8);
    d.rates.n_type = 0;
    assert_true(cost_layer_ns(&m, &d, &one, 0) < 600000);
}

static void cluster_files_carry_them(void **state)
{
    (void)state;
    static struct cluster c;
    struct cluster *again = NULL;
    struct err_text why = {{0}};
    struct buf text = {0};
    memset(&c, 0, sizeof c);
    set_device(&c, 0, 10e9, 8e9);
    set_device(&c, 1, 20e9, 8e9);
    c.devices[1].rates = some_rates();
    cluster_write(&c, &text);
    if (cluster_read("x", text.data, text.len, &again, &why)) fail_msg("%s", why.s);
    assert_int_equal(again->devices[0].rates.n_type, 0);
    assert_int_equal(again->devices[1].rates.n_type, 2);
    for (int i = 0; i < 2; i++) { // in the order of types
        const struct rates_type *got = &again->devices[1].rates.types[i];
        const struct rates_type *put = rates_find(&c.devices[1].rates, got->dtype);
        assert_memory_equal(got->mul_per_s, put->mul_per_s, sizeof got->mul_per_s);
    }
    assert_true(again->devices[1].rates.seq_us == 1.5);
    free(again);
    const struct {
        const char *from, *to, *said;
    } bad[] = {
        {"Q4_0: 2", "Q4_0: x", "Q4_0 is 'x"},
        {"layer_us: 8", "layer_us: -8", "layer_us is -8, allowed 0 to 1e+06"},
        {"layer_us: 8", "layer_us: 8 9", "allowed: 1 numbers"},
        {"Q4_0: 2", "Q4_7: 2", "Q4_7"},
        {"      seq_us", "      seq_u", "seq_u"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct buf wrong = {0};
        const char *at = strstr(text.data, bad[i].from);
        assert_non_null(at);
        buf_add(&wrong, text.data, (size_t)(at - text.data));
        buf_str(&wrong, bad[i].to);
        buf_str(&wrong, at + strlen(bad[i].from));
        assert_int_equal(cluster_read("x", wrong.data, wrong.len, &again, &why), ERR_CONFIG);
        if (!strstr(why.s, bad[i].said)) fail_msg("%s", why.s);
        buf_fini(&wrong);
    }
    buf_fini(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(times_are_linear_between_points),
        cmocka_unit_test(a_type_stands_in_for_its_like),
        cmocka_unit_test(the_cost_model_uses_them),
        cmocka_unit_test(cluster_files_carry_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
