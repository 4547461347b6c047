// kernels_check: products of every weight type x shape x instruction set of this machine against
// plain double arithmetic, and against itself: the same bits however the work is cut, and the same
// bits on every instruction set (the digest line of two machines can be compared).
//
//     kernels_check [-b] [-t THREADS] [ISA...]    prints what failed; exit status 1 if a check did
//
// Needs no test framework, so that it runs as a static program under an emulator.
#include "tests/unit/kernels/blocks.h"
#include "tests/unit/kernels/check.h"

// -- opening --

static const struct kernels_limits base_limits = {.n_threads = 1,
                                                  .precision = PRECISION_FAST,
                                                  .max_tok = 384,
                                                  .max_cols = 2048,
                                                  .max_rows = 40000,
                                                  .max_head = 16,
                                                  .max_head_dim = 256,
                                                  .max_ctx = 4096,
                                                  .max_expert_rows = 512};

static struct kernels *open_isa(int n_threads, enum precision p)
{
    return open_limits(base_limits, n_threads, p);
}

static struct view pack(struct kernels *k, enum dtype t, const uint8_t *src, int64_t rows,
                        int64_t cols)
{
    uint64_t bytes = k->ops->weight_bytes(k, t, rows, cols);
    struct view v = {.dtype = t, .layout = LAYOUT_PACKED, .n_dim = 2, .shape = {rows, cols}};
    v.data = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!bytes || !v.data) exit(2);
    uint64_t row = dtype_row_bytes(t, (uint64_t)cols);
    for (int64_t from = 0; from < rows; from += 64)
        k->ops->weight_pack(k, src + (uint64_t)from * row, from,
                            rows - from < 64 ? rows - from : 64, &v);
    return v;
}

// -- gemm and embed --

enum { G_ROWS = 69, G_TOK = 128 };
static const int gemm_toks[] = {1, 2, 3, 4, 5, 8, 17, 33, 64, 65, 128};

static void check_gemm_values(enum dtype t, const uint8_t *src, int64_t cols, const float *x,
                              const float *bias, const float *y, double allowed)
{
    char what[64];
    double worst = 0;
    for (int i = 0; i < G_TOK; i += 9)
        for (int r = 0; r < G_ROWS; r++) {
            const uint8_t *row = src + (uint64_t)r * dtype_row_bytes(t, (uint64_t)cols);
            double sum = 0, nx = 0, nw = 0;
            for (int64_t c = 0; c < cols; c++) {
                double w = value_of(t, row, c), v = (double)x[i * cols + c];
                sum += w * v;
                nx += v * v;
                nw += w * w;
            }
            double e = fabs((double)y[i * G_ROWS + r] - (sum + (double)bias[r]));
            e /= sqrt(nx) * sqrt(nw) + 1e-30;
            worst = e > worst || isnan(e) ? e : worst;
        }
    snprintf(what, sizeof what, "%s %dx%dx%d", dtype_info(t)->name, G_TOK, G_ROWS, (int)cols);
    verdict("gemm", what, worst, allowed);
}

// Rows in calls of m rows each, and once more in a different place of another call.
static void check_gemm_cuts(struct kernels *k, const struct view *w, const float *x,
                            const float *bias, const float *want, const char *what)
{
    const int64_t cols = w->shape[1];
    float *y = floats(2 * G_TOK * G_ROWS), *y2 = y + G_TOK * G_ROWS;
    for (size_t i = 0; i < sizeof gemm_toks / sizeof *gemm_toks; i++) {
        if (is_brief && i % 3 != 1) continue;
        const int m = gemm_toks[i], from = m == G_TOK ? 0 : 61;
        const int rows = m + from > G_TOK ? G_TOK - m : from;
        struct gemm_job jobs[2] = {{w, bias, y, G_ROWS, false}, {w, bias, y2, G_ROWS, false}};
        k->ops->gemm(k, x + rows * cols, m, (int32_t)cols, jobs, 2);
        same_bits("gemm", what, y, want + rows * G_ROWS, (size_t)m * G_ROWS * 4);
        same_bits("gemm", what, y2, want + rows * G_ROWS, (size_t)m * G_ROWS * 4);
    }
    free(y);
}

static void check_embed(struct kernels *k, enum dtype t, const struct view *w, const uint8_t *src)
{
    const int64_t cols = w->shape[1];
    int32_t ids[G_ROWS];
    float *out = floats(G_ROWS * cols);
    double worst = 0;
    for (int i = 0; i < G_ROWS; i++)
        ids[i] = (i * 31) % G_ROWS;
    k->ops->embed(k, w, ids, G_ROWS, out);
    for (int i = 0; i < G_ROWS; i++)
        for (int64_t c = 0; c < cols; c++) {
            uint64_t row = dtype_row_bytes(t, (uint64_t)cols);
            double want = value_of(t, src + (uint64_t)ids[i] * row, c);
            double e = fabs((double)out[i * cols + c] - (double)(float)want);
            worst = e > worst || isnan(e) ? e : worst;
        }
    verdict("embed", dtype_info(t)->name, worst, 0);
    free(out);
}

static void check_gemm_type(enum dtype t, enum precision p)
{
    const int64_t cols = dtype_info(t)->is_quantised ? 512 : 165;
    rng_seed(t);
    uint8_t *src = random_weight(t, G_ROWS, cols);
    float *x = floats(G_TOK * cols), *bias = floats(G_ROWS), *want = floats(G_TOK * G_ROWS);
    char what[64];
    for (int n = 1; n <= (is_brief ? 1 : most_threads); n++) {
        struct kernels *k = open_isa(n, p);
        struct view w = pack(k, t, src, G_ROWS, cols);
        if (n == 1) {
            // The truth is one row at a time on one thread.
            for (int i = 0; i < G_TOK; i++) {
                struct gemm_job job = {&w, bias, want + i * G_ROWS, G_ROWS, false};
                k->ops->gemm(k, x + i * cols, 1, (int32_t)cols, &job, 1);
            }
            bool exact = p == PRECISION_EXACT || !dtype_info(t)->is_quantised || t == DT_FP8;
            if (!is_grid(t)) {
                check_gemm_values(t, src, cols, x, bias, want, exact ? 1e-6 : 1e-2);
                check_embed(k, t, &w, src);
            }
            digest_add(want, (size_t)G_TOK * G_ROWS * 4);
        }
        snprintf(what, sizeof what, "%s %s, %d threads: cuts", dtype_info(t)->name,
                 p == PRECISION_FAST ? "fast" : "exact", n);
        check_gemm_cuts(k, &w, x, bias, want, what);
        free(w.data);
        k->ops->close(k);
    }
    free(src);
    free(x);
    free(bias);
    free(want);
}

static void extreme_block(enum dtype t, uint8_t *p)
{
    const struct dtype_info *d = dtype_info(t);
    const float f = 0.5f;
    memset(p, t == DT_Q8_0 || t == DT_INT8 ? 0x80 : 0xff, d->bytes);
    if (scale_at(t) >= 0) put_half(p + scale_at(t), f);
    switch (t) {
    case DT_Q4_1:
    case DT_Q5_1:
    case DT_Q4_K:
    case DT_Q5_K:
        put_half(p + 2, 0.25f);
        break;
    case DT_Q2_K:
        put_half(p + 82, 0.25f);
        break;
    case DT_Q3_K: // scale -32, value -4
        memset(p, 0, 108);
        break;
    case DT_Q6_K:
        memset(p + 192, 0x80, 16);
        break;
    case DT_IQ4_NL: // -127
        memset(p + 2, 0, 16);
        break;
    case DT_IQ4_XS: // scale -32, value -127
        memset(p + 2, 0, 134);
        break;
    case DT_MXFP4:
    case DT_NVFP4: // 6, the largest
        memset(p, 0x77, d->bytes);
        break;
    case DT_INT4:
        p[2] = 255;
        break;
    case DT_INT8: // z 32767
        memcpy(p, &f, 4);
        p[4] = 0xff;
        p[5] = 0x7f;
        break;
    case DT_FP8:
        memset(p, 0x7e, d->bytes);
        memcpy(p, &f, 4);
        break;
    default:
        break;
    }
}

// Extremes of the integer paths: every value at its largest, x at +-127 of its scale.
static void check_gemm_extremes(enum dtype t)
{
    enum { COLS = 256, ROWS = 16 };
    const struct dtype_info *d = dtype_info(t);
    rng_seed(t);
    uint8_t *src = random_weight(t, ROWS, COLS);
    struct kernels *k = open_isa(1, PRECISION_FAST);
    float x[COLS], y[ROWS];
    for (int sign = 0; sign < 2; sign++) {
        uint64_t n = ROWS * dtype_row_bytes(t, COLS);
        for (uint64_t i = 0; i < n; i += d->bytes) {
            extreme_block(t, src + i);
        }
        for (int c = 0; c < COLS; c++)
            x[c] = sign ? -127.0f : 127.0f;
        struct view w = pack(k, t, src, ROWS, COLS);
        struct gemm_job job = {&w, NULL, y, ROWS, false};
        k->ops->gemm(k, x, 1, COLS, &job, 1);
        double want = 0;
        for (int c = 0; c < COLS; c++)
            want += value_of(t, src, c) * (double)x[c];
        for (int r = 0; r < ROWS; r++)
            if (!is_grid(t))
                verdict("gemm", "extremes", fabs((double)y[r] - want), fabs(want) * 1e-6);
        free(w.data);
    }
    // A NaN or an infinity in x must not turn into a number.
    x[40] = NAN;
    struct view w = pack(k, t, src, ROWS, COLS);
    struct gemm_job job = {&w, NULL, y, ROWS, false};
    k->ops->gemm(k, x, 1, COLS, &job, 1);
    verdict("gemm", "NaN in x shows", isnan(y[0]) ? 0 : 1, 0);
    free(w.data);
    k->ops->close(k);
    free(src);
}

// -- stacks: gemm_each and gemm_experts against plain gemm, bit for bit --

enum { S_N = 5, S_ROWS = 42, S_TOK = 70 };

// S_N weights of S_ROWS rows, packed side by side.
static struct view pack_stack(struct kernels *k, enum dtype t, const uint8_t *src, int64_t cols)
{
    const uint64_t bytes = k->ops->weight_bytes(k, t, S_ROWS, cols);
    struct view v = {.dtype = t, .layout = LAYOUT_PACKED, .n_dim = 3, .shape = {S_N, S_ROWS, cols}};
    v.stride[0] = (int64_t)((bytes + 63) / 64 * 64);
    v.data = aligned_alloc(64, (size_t)(S_N * v.stride[0]));
    if (!v.data) exit(2);
    for (int i = 0; i < S_N; i++) {
        struct view w = view_of_stack(&v, i);
        k->ops->weight_pack(k, src + (uint64_t)(i * S_ROWS) * dtype_row_bytes(t, (uint64_t)cols), 0,
                            S_ROWS, &w);
    }
    return v;
}

static void check_each(struct kernels *k, const struct view *w, const float *x, int n_tok,
                       const char *what)
{
    const int64_t cols = w->shape[2];
    float *y = floats(n_tok * S_N * S_ROWS), want[S_ROWS];
    k->ops->gemm_each(k, w, x, n_tok, y);
    for (int i = 0; i < n_tok * S_N; i++) {
        const struct view one = view_of_stack(w, i % S_N);
        struct gemm_job job = {&one, NULL, want, S_ROWS, false};
        k->ops->gemm(k, x + i * cols, 1, (int32_t)cols, &job, 1);
        same_bits("each", what, want, y + i * S_ROWS, sizeof want);
    }
    free(y);
}

// `n` products; expert 1 has none, expert 3 most of them.
static void check_experts(struct kernels *k, const struct view *w, const float *x, int n,
                          const char *what)
{
    const int64_t cols = w->shape[2];
    float *y = floats(n * S_ROWS), *bias = floats(S_N * S_ROWS), want[S_ROWS];
    const float factors[S_N] = {1, 7, 0, -0.75f, 3};
    int32_t row[512], expert[512];
    for (int i = 0; i < n; i++) {
        row[i] = (i * 29 + n) % S_TOK;
        expert[i] = n < 4 ? 2 * i % S_N : i == 0 ? 0 : i < n / 8 + 1 ? 2 : i < n - 2 ? 3 : 4;
    }
    for (int i = 1; i < n; i++)
        if (expert[i] < expert[i - 1]) expert[i] = expert[i - 1];
    struct expert_gemm g = {.w = w,
                            .factors = factors,
                            .bias = bias,
                            .x = x,
                            .n = n,
                            .n_x = S_TOK,
                            .row = row,
                            .expert = expert,
                            .y = y};
    for (int plain = 0; plain < 2; plain++) {
        if (plain) g.factors = g.bias = NULL;
        k->ops->gemm_experts(k, &g);
        for (int i = 0; i < n; i++) {
            struct view one = view_of_stack(w, expert[i]);
            if (!plain) one.factor = factors[expert[i]];
            struct gemm_job job = {&one, plain ? NULL : bias + expert[i] * S_ROWS, want, S_ROWS,
                                   false};
            k->ops->gemm(k, x + row[i] * cols, 1, (int32_t)cols, &job, 1);
            same_bits("experts", what, want, y + i * S_ROWS, sizeof want);
        }
    }
    free(y);
    free(bias);
}

static void check_stacks(enum dtype t, enum precision p)
{
    const int sizes[] = {1, 2, 3, 8, 17, 64, 65, 200};
    const int64_t cols = dtype_info(t)->is_quantised ? 256 : 80;
    rng_seed(t);
    uint8_t *src = random_weight(t, S_N * S_ROWS, cols);
    float *x = floats(S_TOK * S_N * cols);
    for (int n = 1; n <= (is_brief ? 1 : most_threads); n++) {
        struct kernels *k = open_isa(n, p);
        struct view w = pack_stack(k, t, src, cols);
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            if (is_brief ? i != 3 : n > 1 && i % 2 == 0) continue;
            if (sizes[i] <= S_TOK) check_each(k, &w, x, sizes[i], dtype_info(t)->name);
            check_experts(k, &w, x, sizes[i], dtype_info(t)->name);
        }
        free(w.data);
        k->ops->close(k);
    }
    free(src);
    free(x);
}

// Rounds: fewer weights' rows at a time than there are weights.
static void check_each_rounds(void)
{
    struct kernels_limits l = base_limits;
    l.max_cols = 512;
    l.max_tok = 70;
    rng_seed(3);
    struct kernels *k = open_limits(l, 2, PRECISION_FAST);
    uint8_t *src = random_weight(DT_Q8_0, S_N * S_ROWS, 256);
    float *x = floats(S_TOK * S_N * 256);
    struct view w = pack_stack(k, DT_Q8_0, src, 256);
    check_each(k, &w, x, 70, "rounds");
    free(w.data);
    free(src);
    free(x);
    k->ops->close(k);
}

// The factor multiplies the finished sum, before the bias; embedded rows too.
static void check_factor(enum precision p)
{
    enum { COLS = 96, ROWS = 11 };
    rng_seed(5);
    struct kernels *k = open_isa(2, p);
    uint8_t *src = random_weight(DT_Q4_0, ROWS, COLS);
    float *x = floats(3 * COLS), *bias = floats(ROWS), y[2][3 * ROWS], row[2][COLS];
    struct view w = pack(k, DT_Q4_0, src, ROWS, COLS);
    const int32_t id = 9;
    for (int i = 0; i < 2; i++) {
        struct gemm_job job = {&w, i ? bias : NULL, y[i], ROWS, false};
        w.factor = i ? 0.3f : 0.0f;
        k->ops->gemm(k, x, 3, COLS, &job, 1);
        k->ops->embed(k, &w, &id, 1, row[i]);
    }
    for (int i = 0; i < 3 * ROWS; i++)
        y[0][i] = y[0][i] * 0.3f + bias[i % ROWS];
    for (int i = 0; i < COLS; i++)
        row[0][i] *= 0.3f;
    same_bits("gemm", "factor", y[0], y[1], sizeof y[0]);
    same_bits("embed", "factor", row[0], row[1], sizeof row[0]);
    free(w.data);
    free(src);
    free(x);
    free(bias);
    k->ops->close(k);
}

// Jobs that are fine: near the float product, the same bits in every cut, and the same bits for
// their neighbours as without them.
static void check_fine(enum dtype t, const float *x)
{
    enum { COLS = 512 };
    rng_seed(t);
    struct kernels *k = open_isa(2, PRECISION_FAST);
    uint8_t *src = random_weight(t, G_ROWS, COLS);
    float *bias = floats(G_ROWS), *y = floats(4 * G_TOK * G_ROWS);
    float *want = y + G_TOK * G_ROWS, *plain = want + G_TOK * G_ROWS,
          *other = plain + G_TOK * G_ROWS;
    struct view w = pack(k, t, src, G_ROWS, COLS);
    struct gemm_job alone = {&w, bias, plain, G_ROWS, false};
    k->ops->gemm(k, x, G_TOK, COLS, &alone, 1);
    for (int i = 0; i < G_TOK; i++) {
        struct gemm_job job = {&w, bias, want + i * G_ROWS, G_ROWS, true};
        k->ops->gemm(k, x + i * COLS, 1, COLS, &job, 1);
    }
    check_gemm_values(t, src, COLS, x, bias, want, 5e-5);
    struct gemm_job jobs[2] = {{&w, bias, other, G_ROWS, false}, {&w, bias, y, G_ROWS, true}};
    k->ops->gemm(k, x, G_TOK, COLS, jobs, 2);
    same_bits("gemm", "fine: cuts", y, want, (size_t)(G_TOK * G_ROWS) * 4);
    same_bits("gemm", "fine: neighbour", other, plain, (size_t)(G_TOK * G_ROWS) * 4);
    digest_add(want, (size_t)(G_TOK * G_ROWS) * 4);
    free(w.data);
    free(src);
    free(bias);
    free(y);
    k->ops->close(k);
}

static void check_gather(void)
{
    enum { TOK = 41, COLS = 530 };
    rng_seed(6);
    struct kernels *k = open_isa(2, PRECISION_FAST);
    float *x = floats(TOK * COLS), *y = floats(TOK * COLS);
    int32_t order[COLS];
    for (int c = 0; c < COLS; c++)
        order[c] = c * 37 % COLS;
    k->ops->gather(k, x, order, TOK, COLS, y);
    int wrong = 0;
    for (int i = 0; i < TOK * COLS; i++)
        wrong += y[i] != x[i / COLS * COLS + order[i % COLS]];
    verdict("gather", "values", wrong, 0);
    free(x);
    free(y);
    k->ops->close(k);
}

// -- refusals --

static uint64_t page_bytes(struct kernels *k, int page_tok, int head_dim, int head_dim_v,
                           enum dtype t)
{
    const struct kv_view kv = {.page_tok = page_tok,
                               .n_head_kv = 1,
                               .head_dim = head_dim,
                               .head_dim_v = head_dim_v,
                               .dtype = t};
    return k->ops->kv_page_bytes(k, &kv);
}

static void check_limits(void)
{
    struct kernels *k = NULL;
    struct err_text why;
    struct kernels_limits l = base_limits;
    l.n_threads = 0;
    verdict("open", "0 threads refused", kernels_open_cpu(isa_name, &l, &k, &why) != ERR_CONFIG, 0);
    l = base_limits;
    l.max_cols = 1 << 30;
    verdict("open", "2^30 cols refused", kernels_open_cpu(isa_name, &l, &k, &why) != ERR_CONFIG, 0);
    verdict("open", "isa \"z80\" refused",
            kernels_open_cpu("z80", &base_limits, &k, &why) != ERR_UNSUPPORTED, 0);
    verdict("open", "nothing written", k != NULL, 0);
    k = open_isa(2, PRECISION_FAST);
    const struct kernels_ops *o = k->ops;
    uint64_t sum = o->weight_bytes(k, DT_I32, 8, 32) + o->weight_bytes(k, DT_Q4_K, 8, 32) +
                   o->weight_bytes(k, DT_F32, 0, 32) + o->weight_bytes(k, DT_F32, 8, 1 << 20) +
                   page_bytes(k, 24, 64, 64, DT_F16) + page_bytes(k, 512, 64, 64, DT_F16) +
                   page_bytes(k, 16, 64, 64, DT_I8) + page_bytes(k, 16, 9999, 64, DT_F16) +
                   page_bytes(k, 16, 64, 65, DT_F16) + page_bytes(k, 16, 64, 0, DT_F16);
    verdict("limits", "sizes refused", (double)sum, 0);
    uint64_t before = o->progress(k);
    float x[8] = {0};
    o->scale(k, x, 1, 8);
    verdict("progress", "moves", o->progress(k) <= before, 0);
    o->close(k);
}

static inline void check_isa(void)
{
    for (int i = 0; i < N_TYPE; i++) {
        check_gemm_type(types[i], PRECISION_FAST);
        check_stacks(types[i], PRECISION_FAST);
        if (!dtype_info(types[i])->is_quantised) continue;
        check_gemm_type(types[i], PRECISION_EXACT);
        check_gemm_extremes(types[i]);
    }
    check_stacks(DT_Q4_K, PRECISION_EXACT);
    check_stacks(DT_IQ2_S, PRECISION_EXACT);
    check_each_rounds();
    check_factor(PRECISION_FAST);
    check_factor(PRECISION_EXACT);
    check_gather();
    rng_seed(7);
    float *x = floats(G_TOK * 512);
    const enum dtype fine[] = {DT_Q4_K, DT_Q6_K, DT_Q8_0, DT_TQ1_0, DT_NVFP4, DT_F16};
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++)
        check_fine(fine[i], x);
    free(x);
    check_limits();
}

#ifndef KERNELS_CHECK_NO_MAIN
int main(int argc, char **argv)
{
    return check_main(argc, argv, check_isa);
}
#endif
