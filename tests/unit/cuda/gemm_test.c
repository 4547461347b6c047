// Products of every type of weights on a device, against the weights as the CPU reads them and sums
// in double: rows, columns and numbers of rows of x that fit no tile; jobs, stacks and experts.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#pragma GCC diagnostic ignored "-Wunused-function"
#include "tests/unit/kernels/blocks.h"
#include "tests/unit/cuda/rig.h"
#include "kernels/cuda/host.h"

enum { ROWS = 69, TOK = 130, N = 5, S_ROWS = 42 };
static const int toks[] = {1, 2, 16, 7, TOK, 33}; // under a sanitizer each second one

static const struct kernels_limits limits = {.n_threads = 1,
                                             .max_tok = TOK,
                                             .max_cols = 512,
                                             .max_rows = 256,
                                             .max_head = 1,
                                             .max_head_dim = 2,
                                             .max_ctx = 16,
                                             .max_expert_rows = 200};

static int cols_of(enum dtype t)
{
    const uint32_t block = dtype_info(t)->block;
    return block == 1 ? 165 : block == 256 ? 512 : block == 64 ? 320 : 288;
}

// A weight on a backend, or a stack of n.
static struct view pack(struct kernels *k, enum dtype t, const uint8_t *src, int n, int rows)
{
    const int cols = cols_of(t);
    const uint64_t row = dtype_row_bytes(t, (uint64_t)cols);
    const uint64_t bytes = (k->ops->weight_bytes(k, t, rows, cols) + 63) / 64 * 64;
    struct view v = {.dtype = t, .layout = LAYOUT_PACKED, .n_dim = n ? 3 : 2};
    v.shape[0] = n ? n : rows;
    v.shape[1] = n ? rows : cols;
    v.shape[2] = n ? cols : 0;
    v.stride[0] = (int64_t)bytes;
    v.data = rig_take(k, bytes * (uint64_t)(n ? n : 1));
    for (int i = 0; i < (n ? n : 1); i++) {
        struct view one = n ? view_of_stack(&v, i) : v;
        for (int from = 0; from < rows; from += 64)
            k->ops->weight_pack(k, src + (uint64_t)(i * rows + from) * row, from,
                                rows - from < 64 ? rows - from : 64, &one);
    }
    return v;
}

// What the CPU reads: (rows, cols).
static float *values_of(struct kernels *cpu, enum dtype t, const uint8_t *src, int rows)
{
    const int cols = cols_of(t);
    struct view w = pack(cpu, t, src, 0, rows);
    float *v = rig_take(cpu, (uint64_t)(rows * cols) * sizeof *v);
    int32_t *ids = malloc((size_t)rows * sizeof *ids);
    assert_non_null(ids);
    for (int i = 0; i < rows; i++)
        ids[i] = i;
    cpu->ops->embed(cpu, &w, ids, rows, v);
    free(ids);
    cpu->ops->give(cpu, w.data, 0);
    return v;
}

// |y - (w x * factor + bias)| by the lengths of w and x.
static double product_error(const float *w, const float *x, int cols, double factor, double bias,
                            float y)
{
    double sum = 0, nx = 0, nw = 0;
    for (int c = 0; c < cols; c++) {
        sum += (double)w[c] * (double)x[c];
        nx += (double)x[c] * (double)x[c];
        nw += (double)w[c] * (double)w[c];
    }
    const double e = fabs((double)y - (sum * factor + bias));
    return e / (sqrt(nx * nw) * fabs(factor) + 1e-30);
}

static double allowed_of(enum precision p, bool fine)
{
    return p == PRECISION_EXACT ? 1e-6 : fine ? 2e-5 : 2e-3;
}

// -- gemm and embed --

struct weight_test {
    struct kernels *k;
    enum precision p;
    enum dtype t;
    struct view w;
    const float *values, *x, *bias; // on the host
    float *dx, *dbias, *dy;         // on the device
};

enum { LDY = 3 * ROWS + 1 };

// Three jobs side by side in the rows of y: plain; with factor and bias; fine.
static void run_jobs(const struct weight_test *o, int n_tok, float *y)
{
    struct view scaled = o->w;
    scaled.factor = -0.75f;
    const struct gemm_job jobs[3] = {{&o->w, NULL, o->dy, LDY, false},
                                     {&scaled, o->dbias, o->dy + ROWS, LDY, false},
                                     {&o->w, o->dbias, o->dy + 2 * ROWS, LDY, true}};
    o->k->ops->gemm(o->k, o->dx, n_tok, cols_of(o->t), jobs, 3);
    o->k->ops->get(o->k, y, o->dy, (uint64_t)n_tok * LDY * sizeof *y);
}

static void check_values(const struct weight_test *o, int n_tok, const float *y)
{
    const int cols = cols_of(o->t);
    double worst[3] = {0};
    char what[96];
    for (int i = 0; i<n_tok; i += n_tok> 20 ? 9 : 1)
        for (int r = 0; r < ROWS; r++)
            for (int j = 0; j < 3; j++) {
                const double e =
                    product_error(o->values + r * cols, o->x + i * cols, cols, j == 1 ? -0.75 : 1,
                                  j ? (double)o->bias[r] : 0, y[i * LDY + j * ROWS + r]);
                worst[j] = e > worst[j] || isnan(e) ? e : worst[j];
            }
    for (int j = 0; j < 3; j++) {
        snprintf(what, sizeof what, "gemm %s %s %d rows of x, job %d", dtype_info(o->t)->name,
                 o->p == PRECISION_EXACT ? "exact" : "fast", n_tok, j);
        rig_expect(what, worst[j], allowed_of(o->p, j == 2));
    }
}

static void check_gemm(const struct weight_test *o)
{
    float *y = rig_floats(TOK * LDY), *first = rig_floats(TOK * LDY);
    char what[96];
    run_jobs(o, TOK, first);
    for (int i = 0; i < (int)(sizeof toks / sizeof *toks); i += always_brief ? 2 : 1) {
        run_jobs(o, toks[i], y);
        check_values(o, toks[i], y);
        if (o->p != PRECISION_EXACT) continue;
        double differ = 0; // the gap at the end of a row is nobody's
        for (int r = 0; r < toks[i]; r++)
            differ += memcmp(y + r * LDY, first + r * LDY, 3 * ROWS * sizeof *y) != 0;
        snprintf(what, sizeof what, "gemm %s: the same bits for %d rows", dtype_info(o->t)->name,
                 toks[i]);
        rig_expect(what, differ, 0);
    }
    free(y);
    free(first);
}

static void check_embed(const struct weight_test *o)
{
    const int cols = cols_of(o->t);
    int32_t ids[ROWS];
    char what[96];
    float *out = rig_take(o->k, (uint64_t)(ROWS * cols) * sizeof *out),
          *got = rig_floats(ROWS * cols);
    for (int i = 0; i < ROWS; i++)
        ids[i] = i * 31 % ROWS;
    o->k->ops->embed(o->k, &o->w, ids, ROWS, out);
    o->k->ops->get(o->k, got, out, (uint64_t)(ROWS * cols) * sizeof *got);
    double differ = 0;
    for (int i = 0; i < ROWS; i++)
        for (int c = 0; c < cols; c++)
            differ += got[i * cols + c] != o->values[ids[i] * cols + c];
    snprintf(what, sizeof what, "embed %s: the CPU's values", dtype_info(o->t)->name);
    rig_expect(what, differ, 0);
    rig_give(o->k, out, ROWS * cols);
    free(got);
}

static void check_weight(struct kernels *cpu, struct kernels *k, enum dtype t, enum precision p)
{
    const int cols = cols_of(t);
    rng_seed(t);
    uint8_t *src = random_weight(t, ROWS, cols);
    float *x = rig_floats(TOK * cols), *bias = rig_floats(ROWS), *v = values_of(cpu, t, src, ROWS);
    struct weight_test o = {.k = k, .p = p, .t = t, .w = pack(k, t, src, 0, ROWS)};
    o.values = v;
    o.x = x;
    o.bias = bias;
    o.dx = rig_put(k, x, TOK * cols);
    o.dbias = rig_put(k, bias, ROWS);
    o.dy = rig_take(k, TOK * LDY * sizeof *o.dy);
    check_gemm(&o);
    if (p == PRECISION_EXACT) check_embed(&o);
    rig_status(k);
    rig_give(k, o.dx, TOK * cols);
    rig_give(k, o.dbias, ROWS);
    rig_give(k, o.dy, TOK * LDY);
    k->ops->give(k, o.w.data, 0);
    cpu->ops->give(cpu, v, 0);
    free(src);
    free(x);
    free(bias);
}

static void test_weights(void **state)
{
    (void)state;
    rig_failed = 0;
    for (int p = PRECISION_FAST; p <= PRECISION_EXACT; p++) {
        simt_set_order(p == PRECISION_FAST ? SIMT_SHUFFLED : SIMT_DESCENDING, 7);
        struct kernels *cpu = rig_open(false, &limits, PRECISION_EXACT);
        struct kernels *k = rig_open(true, &limits, (enum precision)p);
        for (int i = 0; i < N_TYPE; i++)
            check_weight(cpu, k, types[i], (enum precision)p);
        k->ops->close(k);
        cpu->ops->close(cpu);
    }
    assert_int_equal(rig_failed, 0);
}

// -- stacks --

struct stack_test {
    struct kernels *k;
    enum precision p;
    enum dtype t;
    struct view w;
    const float *values, *x;
    float *dx, *dy;
};

static void check_each(const struct stack_test *o, int n_tok)
{
    const int cols = cols_of(o->t);
    float *y = rig_floats(TOK * N * S_ROWS);
    double worst = 0;
    char what[96];
    o->k->ops->gemm_each(o->k, &o->w, o->dx, n_tok, o->dy);
    o->k->ops->get(o->k, y, o->dy, (uint64_t)(n_tok * N * S_ROWS) * sizeof *y);
    for (int i = 0; i < n_tok * N; i++)
        for (int r = 0; r < S_ROWS; r++) {
            const double e = product_error(o->values + (i % N * S_ROWS + r) * cols, o->x + i * cols,
                                           cols, 1, 0, y[i * S_ROWS + r]);
            worst = e > worst || isnan(e) ? e : worst;
        }
    snprintf(what, sizeof what, "each %s %d rows of x", dtype_info(o->t)->name, n_tok);
    rig_expect(what, worst, allowed_of(o->p, false));
    free(y);
}

// n products: expert 1 has none, expert 3 most of them.
static void check_experts(const struct stack_test *o, int n, bool plain)
{
    const int cols = cols_of(o->t), n_x = 70;
    const float factors[N] = {1, 7, 0, -0.75f, 3};
    int32_t row[200], expert[200];
    float *bias = rig_floats(N * S_ROWS), *y = rig_floats(n * S_ROWS);
    for (int i = 0; i < n; i++) {
        row[i] = (i * 29 + n) % n_x;
        expert[i] = n < 4 ? 2 * i % N : i == 0 ? 0 : i < n / 8 + 1 ? 2 : i < n - 2 ? 3 : 4;
    }
    for (int i = 1; i < n; i++)
        if (expert[i] < expert[i - 1]) expert[i] = expert[i - 1];
    int32_t *drow = rig_take(o->k, sizeof row), *dexpert = rig_take(o->k, sizeof expert);
    float *dbias = rig_put(o->k, bias, N * S_ROWS), *dfactors = rig_put(o->k, factors, N);
    o->k->ops->put(o->k, drow, row, sizeof row);
    o->k->ops->put(o->k, dexpert, expert, sizeof expert);
    const struct expert_gemm g = {.w = &o->w,
                                  .factors = plain ? NULL : dfactors,
                                  .bias = plain ? NULL : dbias,
                                  .x = o->dx,
                                  .n = n,
                                  .n_x = n_x,
                                  .row = drow,
                                  .expert = dexpert,
                                  .y = o->dy};
    o->k->ops->gemm_experts(o->k, &g);
    o->k->ops->get(o->k, y, o->dy, (uint64_t)(n * S_ROWS) * sizeof *y);
    double worst = 0;
    for (int i = 0; i < n; i++)
        for (int r = 0; r < S_ROWS; r++) {
            const float f = plain || factors[expert[i]] == 0 ? 1 : factors[expert[i]];
            const double e = product_error(
                o->values + (expert[i] * S_ROWS + r) * cols, o->x + row[i] * cols, cols, (double)f,
                plain ? 0 : (double)bias[expert[i] * S_ROWS + r], y[i * S_ROWS + r]);
            worst = e > worst || isnan(e) ? e : worst;
        }
    char what[96];
    snprintf(what, sizeof what, "experts %s %d products", dtype_info(o->t)->name, n);
    rig_expect(what, worst, allowed_of(o->p, false));
    rig_give(o->k, drow, 200);
    rig_give(o->k, dexpert, 200);
    rig_give(o->k, dbias, N * S_ROWS);
    rig_give(o->k, dfactors, N);
    free(bias);
    free(y);
}

static void check_stack(struct kernels *cpu, struct kernels *k, enum dtype t, enum precision p)
{
    static const int each[] = {1, 9, 20}, n[] = {1, 3, 17, 64, 65, 200};
    const int cols = cols_of(t);
    rng_seed(t);
    uint8_t *src = random_weight(t, N * S_ROWS, cols);
    float *x = rig_floats(TOK * N * cols), *v = values_of(cpu, t, src, N * S_ROWS);
    struct stack_test o = {.k = k, .p = p, .t = t, .w = pack(k, t, src, N, S_ROWS)};
    o.values = v;
    o.x = x;
    o.dx = rig_put(k, x, TOK * N * cols);
    o.dy = rig_take(k, TOK * N * S_ROWS * sizeof *o.dy);
    for (size_t i = 0; i < sizeof each / sizeof *each; i++)
        check_each(&o, each[i]);
    for (size_t i = 0; i < sizeof n / sizeof *n; i++)
        check_experts(&o, n[i], i % 2);
    rig_status(k);
    rig_give(k, o.dx, TOK * N * cols);
    rig_give(k, o.dy, TOK * N * S_ROWS);
    k->ops->give(k, o.w.data, 0);
    cpu->ops->give(cpu, v, 0);
    free(src);
    free(x);
}

static void test_stacks(void **state)
{
    (void)state;
    static const enum dtype some[] = {DT_Q4_K, DT_MXFP4, DT_BF16, DT_FP8};
    rig_failed = 0;
    for (int p = PRECISION_FAST; p <= PRECISION_EXACT; p++) {
        simt_set_order(p == PRECISION_FAST ? SIMT_ASCENDING : SIMT_SHUFFLED, 9);
        struct kernels *cpu = rig_open(false, &limits, PRECISION_EXACT);
        struct kernels *k = rig_open(true, &limits, (enum precision)p);
        for (size_t i = 0; i < sizeof some / sizeof *some; i++)
            check_stack(cpu, k, some[i], (enum precision)p);
        k->ops->close(k);
        cpu->ops->close(cpu);
    }
    assert_int_equal(rig_failed, 0);
}

// -- sizes --

// Weights stay packed, every type of weights has a form, and rows of a multiple of 16 begin where
// weight_bytes says.
static void test_sizes(void **state)
{
    (void)state;
    struct kernels_limits l = limits;
    l.max_cols = 1024;
    struct kernels *k = rig_open(true, &l, PRECISION_EXACT);
    for (int t = 0; t < DT_COUNT; t++) {
        const uint64_t packed = k->ops->weight_bytes(k, (enum dtype)t, 64, 1024);
        assert_int_equal(packed > 0, dtype_is_weight((enum dtype)t));
        if (!packed) continue;
        const uint64_t file = 64 * dtype_row_bytes((enum dtype)t, 1024);
        const uint64_t most = is_grid((enum dtype)t) || t == DT_TQ1_0 ? 64 * 1024 * 5 / 8 : file;
        assert_true(packed <= most + most / 20);
        assert_int_equal(packed % 64, 0);
        assert_int_equal(k->ops->weight_bytes(k, (enum dtype)t, 16, 1024) * 4, packed);
        assert_int_equal(k->ops->weight_bytes(k, (enum dtype)t, 65, 1024), packed / 4 * 5);
        const uint32_t block = dtype_info((enum dtype)t)->block;
        if (block > 1) assert_int_equal(k->ops->weight_bytes(k, (enum dtype)t, 64, block + 1), 0);
    }
    k->ops->close(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sizes), cmocka_unit_test(test_weights),
                                       cmocka_unit_test(test_stacks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
