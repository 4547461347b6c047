#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#define KERNELS_CHECK_NO_MAIN
#include "tests/unit/kernels/kernels_check.c"

// Weights stay packed: no more than 6 % over the file's blocks where no rows are added.
static void test_size(void **state)
{
    (void)state;
    isa_name = NULL;
    struct kernels *k = open_isa(1, PRECISION_FAST);
    for (int i = 0; i < N_TYPE; i++) {
        const uint64_t file = 64 * dtype_row_bytes(types[i], 1024);
        const uint64_t packed = k->ops->weight_bytes(k, types[i], 64, 1024);
        assert_true(packed >= file - file / 50 && packed <= file + file * 6 / 100);
    }
    for (int t = 0; t < DT_COUNT; t++) { // and every type of weights has a form
        assert_int_equal(k->ops->weight_bytes(k, (enum dtype)t, 64, 1024) > 0,
                         dtype_is_weight((enum dtype)t));
        assert_int_equal(kernels_path_of((enum dtype)t) != KERNELS_PATH_NONE,
                         dtype_is_weight((enum dtype)t));
    }
    assert_int_equal(kernels_path_of(DT_Q4_K), KERNELS_PATH_BLOCKS);
    assert_int_equal(kernels_path_of(DT_BF16), KERNELS_PATH_FLOAT);
    assert_int_equal(kernels_path_of(DT_FP8), KERNELS_PATH_FLOAT);
    assert_int_equal(kernels_path_of(DT_IQ2_XXS), KERNELS_PATH_DECODED);
    k->ops->close(k);
}

// One row of `cols` columns whose block at `src` is given, as the row op reads it.
static void row_of(enum dtype t, const uint8_t *src, float *out)
{
    struct kernels *k = open_isa(1, PRECISION_EXACT);
    const int32_t cols = (int32_t)dtype_info(t)->block, id = 0;
    struct view w = pack(k, t, src, 1, cols);
    k->ops->embed(k, &w, &id, 1, out);
    free(w.data);
    k->ops->close(k);
}

static const char *const isas[] = {"reference", NULL};

// Scales of powers of two: all of them are numbers, as GGML has it; 0 is 2^-128 of doubled codes.
static void test_mxfp4_scales(void **state)
{
    (void)state;
    for (int n = 0; n < 2; n++)
        for (int s = 0; s < 256; s++) {
            uint8_t block[17] = {(uint8_t)s};
            float got[32];
            for (int i = 0; i < 16; i++)
                block[1 + i] = (uint8_t)(i | i << 4);
            isa_name = isas[n];
            row_of(DT_MXFP4, block, got);
            for (int i = 0; i < 32; i++) {
                const double want = ldexp(2 * e2m1_value(i % 16), s - 128);
                assert_true((double)got[i] == (double)(float)want);
            }
        }
}

// Scales have no sign; 0x7f means 0.
static void test_nvfp4_scales(void **state)
{
    (void)state;
    for (int n = 0; n < 2; n++)
        for (int s = 0; s < 256; s++) {
            uint8_t block[36] = {(uint8_t)s, 0x38, 0, (uint8_t)s}; // 0x38 is 1
            float got[64];
            for (int i = 0; i < 32; i++)
                block[4 + i] = (uint8_t)(i % 8 | (i % 8 + 8) << 4);
            isa_name = isas[n];
            row_of(DT_NVFP4, block, got);
            for (int i = 0; i < 64; i++) {
                const int b = block[i / 16];
                const double top = b == 0xff ? 480 : (double)dtype_f8_to_f32(b & 0x7f);
                const double scale = b == 0x7f ? 0 : top;
                assert_true((double)got[i] == scale * e2m1_value(i % 16));
            }
        }
}

// Every code of E4M3; one that is no number makes its block none.
static void test_fp8_codes(void **state)
{
    (void)state;
    for (int n = 0; n < 2; n++)
        for (int from = 0; from < 256; from += 32) {
            const float d = 0.37f;
            uint8_t block[36];
            float got[32];
            memcpy(block, &d, 4);
            for (int i = 0; i < 32; i++)
                block[4 + i] = (uint8_t)(from + i);
            isa_name = isas[n];
            row_of(DT_FP8, block, got);
            const bool has_nan = from % 128 == 96;
            for (int i = 0; i < 32; i++)
                assert_true(has_nan ? isnan(got[i])
                                    : got[i] == d * dtype_f8_to_f32((uint8_t)(from + i)));
        }
}

// Integers far from zero and scales near both ends.
static void test_int_scales(void **state)
{
    (void)state;
    static const float scales[] = {0.0f, 1e-38f, -3e-20f, 1.0f, 2e30f};
    static const int16_t zeros[] = {-32768, -128, 0, 77, 32767};
    for (int n = 0; n < 2; n++)
        for (int i = 0; i < 25; i++) {
            uint8_t block[38];
            float got[32];
            memcpy(block, &scales[i / 5], 4);
            memcpy(block + 4, &zeros[i % 5], 2);
            for (int c = 0; c < 32; c++)
                block[6 + c] = (uint8_t)(c * 8);
            isa_name = isas[n];
            row_of(DT_INT8, block, got);
            for (int c = 0; c < 32; c++) {
                const double q = (int8_t)(c * 8) - zeros[i % 5];
                assert_true((double)got[c] == (double)(float)((double)scales[i / 5] * q));
            }
        }
}

// No columns but whole blocks; floats of any width.
static void test_columns(void **state)
{
    (void)state;
    isa_name = NULL;
    struct kernels *k = open_isa(1, PRECISION_FAST);
    for (int i = 0; i < N_TYPE; i++)
        for (int cols = 1; cols < 300; cols += 13) {
            const bool fits = cols % (int)dtype_info(types[i])->block == 0;
            assert_int_equal(k->ops->weight_bytes(k, types[i], 8, cols) > 0, fits);
        }
    for (int cols = 1; cols < 90; cols += 7) {
        rng_seed((uint64_t)cols);
        float *x = floats(3 * cols), y[3];
        uint8_t *src = random_weight(DT_BF16, 1, cols);
        struct view w = pack(k, DT_BF16, src, 1, cols);
        struct gemm_job job = {&w, NULL, y, 1, false};
        k->ops->gemm(k, x, 3, cols, &job, 1);
        for (int t = 0; t < 3; t++) {
            double want = 0;
            for (int c = 0; c < cols; c++)
                want += value_of(DT_BF16, src, c) * (double)x[t * cols + c];
            assert_true(fabs((double)y[t] - want) < 1e-4);
        }
        free(w.data);
        free(src);
        free(x);
    }
    k->ops->close(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_size),         cmocka_unit_test(test_mxfp4_scales),
        cmocka_unit_test(test_nvfp4_scales), cmocka_unit_test(test_fp8_codes),
        cmocka_unit_test(test_int_scales),   cmocka_unit_test(test_columns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
