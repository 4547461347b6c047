// kernels_check: every operation x shape x dtype x instruction set of this machine against plain
// double arithmetic, and against itself: the same bits however the work is cut, and the same bits
// on every instruction set (the digest line of two machines can be compared).
//
//     kernels_check [-t THREADS] [ISA...]    prints what failed; exit status 1 if a check did
//
// KERNELS_CHECK_ALL=1 prints every check with its error and what is allowed.
// Needs no test framework, so that it runs as a static program under an emulator.
#include "kernels/kernels.h"
#include "tests/unit/kernels/blocks.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int n_check, n_failed;
static uint64_t digest; // of the outputs of the instruction set under test
static const char *isa_name;
// The reference is slow and made from the same bodies as the others: fewer cuts, one thread. That
// its bits are theirs is checked by the digest.
static bool is_brief;
static int most_threads = 3;

static void verdict(const char *op, const char *what, double err, double allowed)
{
    bool ok = err <= allowed; // a NaN fails
    n_check++;
    n_failed += !ok;
    if (!ok || getenv("KERNELS_CHECK_ALL"))
        printf("%-10s %-10s %-34s error %-10.3g allowed %-10.3g %s\n", isa_name, op, what, err,
               allowed, ok ? "ok" : "FAILED");
}

static void same_bits(const char *op, const char *what, const void *a, const void *b, size_t bytes)
{
    verdict(op, what, memcmp(a, b, bytes) ? 1 : 0, 0);
}

static void digest_add(const void *p, size_t bytes) // FNV-1a
{
    for (size_t i = 0; i < bytes; i++)
        digest = (digest ^ ((const uint8_t *)p)[i]) * 0x100000001b3;
}

// -- opening --

static const struct kernels_limits base_limits = {.n_threads = 1,
                                                  .precision = PRECISION_FAST,
                                                  .max_tok = 384,
                                                  .max_cols = 2048,
                                                  .max_rows = 40000,
                                                  .max_head = 16,
                                                  .max_head_dim = 256,
                                                  .max_ctx = 4096};

static struct kernels *open_isa(int n_threads, enum precision p)
{
    struct kernels_limits l = base_limits;
    struct kernels *k;
    struct err_text why;
    l.n_threads = n_threads;
    l.precision = p;
    if (kernels_open_cpu(isa_name, &l, &k, &why)) {
        printf("%s\n", why.s);
        exit(2);
    }
    return k;
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
static const int gemm_toks[] = {1, 2, 3, 4, 5, 8, 16, 33, 128};

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
        struct gemm_job jobs[2] = {{w, bias, y, G_ROWS}, {w, bias, y2, G_ROWS}};
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
                struct gemm_job job = {&w, bias, want + i * G_ROWS, G_ROWS};
                k->ops->gemm(k, x + i * cols, 1, (int32_t)cols, &job, 1);
            }
            bool exact = p == PRECISION_EXACT || !dtype_info(t)->is_quantised;
            check_gemm_values(t, src, cols, x, bias, want, exact ? 1e-6 : 1e-2);
            check_embed(k, t, &w, src);
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
            memset(src + i, t == DT_Q8_0 ? 0x80 : 0xff, d->bytes);
            if (t == DT_Q6_K) memset(src + i + 192, 0x80, 16);
            put_half(src + i + (t == DT_Q6_K ? 208 : 0), 0.5f);
            bool has_m = t == DT_Q4_1 || t == DT_Q5_1 || t == DT_Q4_K || t == DT_Q5_K;
            if (has_m) put_half(src + i + 2, 0.25f);
        }
        for (int c = 0; c < COLS; c++)
            x[c] = sign ? -127.0f : 127.0f;
        struct view w = pack(k, t, src, ROWS, COLS);
        struct gemm_job job = {&w, NULL, y, ROWS};
        k->ops->gemm(k, x, 1, COLS, &job, 1);
        double want = 0;
        for (int c = 0; c < COLS; c++)
            want += value_of(t, src, c) * (double)x[c];
        for (int r = 0; r < ROWS; r++)
            verdict("gemm", "extremes", fabs((double)y[r] - want), fabs(want) * 1e-6);
        free(w.data);
    }
    // A NaN or an infinity in x must not turn into a number.
    x[40] = NAN;
    struct view w = pack(k, t, src, ROWS, COLS);
    struct gemm_job job = {&w, NULL, y, ROWS};
    k->ops->gemm(k, x, 1, COLS, &job, 1);
    verdict("gemm", "NaN in x shows", isnan(y[0]) ? 0 : 1, 0);
    free(w.data);
    k->ops->close(k);
    free(src);
}

// -- attention --

enum { A_TOK = 300, A_PAGES = 64 };

struct attn_case {
    enum dtype kv;
    int n_head, n_kv, hd, page_tok, window;
    float softcap;
};

static const struct attn_case attn_cases[] = {
    {DT_F16, 6, 2, 64, 16, 0, 0},    {DT_F32, 6, 2, 64, 32, 0, 0},
    {DT_F16, 4, 1, 256, 64, 100, 0}, {DT_F16, 4, 4, 20, 16, 0, 30.0f},
    {DT_F32, 5, 1, 36, 256, 33, 0},  {DT_F32, 2, 2, 80, 128, 290, 5.0f},
};
enum { N_ATTN = sizeof attn_cases / sizeof *attn_cases };

struct attn_data {
    float *q, *k, *v; // (A_TOK, heads, hd)
    float *out;       // truth
};

static double kv_value(enum dtype t, float f)
{
    return (double)(t == DT_F16 ? dtype_f16_to_f32(dtype_f32_to_f16(f)) : f);
}

static double attn_error(const struct attn_case *c, const struct attn_data *d, int tok, int head)
{
    const int hd = c->hd, kvh = head / (c->n_head / c->n_kv);
    const int lo = c->window && tok >= c->window ? tok - c->window + 1 : 0;
    double s[A_TOK], max = -1e300, sum = 0, worst = 0;
    for (int i = lo; i <= tok; i++) {
        s[i] = 0;
        for (int j = 0; j < hd; j++)
            s[i] += (double)d->q[(tok * c->n_head + head) * hd + j] *
                    kv_value(c->kv, d->k[(i * c->n_kv + kvh) * hd + j]);
        s[i] /= sqrt(hd);
        if (c->softcap != 0) s[i] = (double)c->softcap * tanh(s[i] / (double)c->softcap);
        max = s[i] > max ? s[i] : max;
    }
    for (int i = lo; i <= tok; i++)
        sum += s[i] = exp(s[i] - max);
    for (int j = 0; j < hd; j++) {
        double o = 0;
        for (int i = lo; i <= tok; i++)
            o += s[i] / sum * kv_value(c->kv, d->v[(i * c->n_kv + kvh) * hd + j]);
        double e = fabs(o - (double)d->out[(tok * c->n_head + head) * hd + j]);
        worst = e > worst || isnan(e) ? e : worst;
    }
    return worst;
}

// Two sequences with the same tokens, cut into chunks of `chunk` and of 2 * chunk + 1, step by step
// in shared calls; pages lie in an order of their own. out: of the first sequence.
static void attn_in_chunks(struct kernels *k, const struct attn_case *c, const struct attn_data *d,
                           int chunk, float *out)
{
    const int sizes[2] = {chunk, 2 * chunk + 1}, hd = c->hd;
    struct kv_view kv = {
        .page_tok = c->page_tok, .n_head_kv = c->n_kv, .head_dim = hd, .dtype = c->kv};
    kv.page_bytes = (int64_t)k->ops->kv_page_bytes(k, c->page_tok, c->n_kv, hd, c->kv);
    kv.data = aligned_alloc(64, (size_t)kv.page_bytes * A_PAGES);
    float *q = floats(A_TOK * c->n_head * hd), *o = floats(A_TOK * c->n_head * hd);
    float *key = floats(A_TOK * c->n_kv * hd), *value = floats(A_TOK * c->n_kv * hd);
    if (!kv.data || !kv.page_bytes) exit(2);
    memset(kv.data, 0xff, (size_t)kv.page_bytes * A_PAGES); // NaN: must never be looked at
    int32_t pages[2][A_PAGES];
    for (int i = 0; i < A_PAGES; i++)
        pages[i % 2][i / 2] = (i * 37 + chunk) % A_PAGES;
    for (int at[2] = {0, 0}; at[0] < A_TOK || at[1] < A_TOK;) {
        struct attn_run runs[2];
        int n_run = 0, rows = 0;
        for (int s = 1; s >= 0; s--) {
            int n = A_TOK - at[s] < sizes[s] ? A_TOK - at[s] : sizes[s];
            if (rows + n > A_TOK) n = A_TOK - rows;
            if (!n) continue;
            runs[n_run++] = (struct attn_run){rows, n, at[s], pages[s]};
            memcpy(q + rows * c->n_head * hd, d->q + at[s] * c->n_head * hd,
                   (size_t)(n * c->n_head * hd) * 4);
            memcpy(key + rows * c->n_kv * hd, d->k + at[s] * c->n_kv * hd,
                   (size_t)(n * c->n_kv * hd) * 4);
            memcpy(value + rows * c->n_kv * hd, d->v + at[s] * c->n_kv * hd,
                   (size_t)(n * c->n_kv * hd) * 4);
            rows += n;
        }
        struct attn_args a = {.q = q,
                              .out = o,
                              .n_head = c->n_head,
                              .kv = kv,
                              .runs = runs,
                              .n_run = n_run,
                              .scale = (float)(1 / sqrt(hd)),
                              .softcap = c->softcap,
                              .window = c->window};
        k->ops->kv_store(k, &kv, runs, n_run, key, value);
        k->ops->attention(k, &a);
        for (int r = 0; r < n_run; r++) {
            int s = runs[r].pages == pages[1], w = c->n_head * hd;
            if (!s)
                memcpy(out + at[0] * w, o + runs[r].tok_from * w, (size_t)(runs[r].n_tok * w) * 4);
            at[s] += runs[r].n_tok;
        }
    }
    free(kv.data);
    free(q);
    free(o);
    free(key);
    free(value);
}

static void check_attention(const struct attn_case *c)
{
    const int n = A_TOK * c->n_head * c->hd, chunks[] = {1, 7, 64, A_TOK};
    rng_seed((uint64_t)c->hd);
    struct attn_data d = {.q = floats(n),
                          .k = floats(A_TOK * c->n_kv * c->hd),
                          .v = floats(A_TOK * c->n_kv * c->hd),
                          .out = floats(n)};
    float *out = floats(n);
    bool has_truth = false;
    char what[64];
    for (int t = 1; t <= (is_brief ? 1 : most_threads); t++) {
        struct kernels *k = open_isa(t, PRECISION_FAST);
        for (size_t i = is_brief ? 2 : 0; i < sizeof chunks / sizeof *chunks; i++) {
            snprintf(what, sizeof what, "%s hd %d page %d, chunks of %d", dtype_info(c->kv)->name,
                     c->hd, c->page_tok, chunks[i]);
            attn_in_chunks(k, c, &d, chunks[i], has_truth ? out : d.out);
            if (has_truth) same_bits("attention", what, out, d.out, (size_t)n * 4);
            has_truth = true;
        }
        k->ops->close(k);
    }
    double worst = 0;
    for (int tok = 0; tok < A_TOK; tok += 13)
        for (int h = 0; h < c->n_head; h++) {
            double e = attn_error(c, &d, tok, h);
            worst = e > worst || isnan(e) ? e : worst;
        }
    snprintf(what, sizeof what, "%s hd %d window %d cap %g", dtype_info(c->kv)->name, c->hd,
             c->window, (double)c->softcap);
    verdict("attention", what, worst, 5e-6);
    digest_add(d.out, (size_t)n * 4);
    free(d.q);
    free(d.k);
    free(d.v);
    free(d.out);
    free(out);
}

// -- rows and elements --

static void check_rms_norm(struct kernels *k)
{
    const int dims[] = {576, 64, 20, 1, 7, 2048};
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        const int n = dims[i], rows = 70;
        float *x = floats(rows * n), *w = floats(n), *y = floats(rows * n);
        double worst = 0;
        k->ops->rms_norm(k, x, w, rows, n, 1e-5f, y);
        for (int r = 0; r < rows; r++) {
            double s = 0;
            for (int c = 0; c < n; c++)
                s += (double)x[r * n + c] * (double)x[r * n + c];
            s = 1 / sqrt(s / n + (double)1e-5f);
            for (int c = 0; c < n; c++) {
                double want = (double)x[r * n + c] * s * (double)w[c];
                double e = fabs(want - (double)y[r * n + c]) / (fabs(want) + 1e-6);
                worst = e > worst || isnan(e) ? e : worst;
            }
        }
        verdict("rms_norm", "values", worst, 1e-6);
        k->ops->rms_norm(k, x, w, rows, n, 1e-5f, x);
        same_bits("rms_norm", "in place", x, y, (size_t)(rows * n) * 4);
        k->ops->rms_norm(k, y, w, rows, n, 1e-5f, y);
        k->ops->rms_norm(k, x + (rows - 1) * n, w, 1, n, 1e-5f, x + (rows - 1) * n);
        same_bits("rms_norm", "alone", x + (rows - 1) * n, y + (rows - 1) * n, (size_t)n * 4);
        digest_add(y, (size_t)(rows * n) * 4);
        free(x);
        free(w);
        free(y);
    }
}

static void check_rope(struct kernels *k, enum rope_kind kind, int n_rot, bool with_factors)
{
    enum { TOK = 40, HEADS = 3, HD = 64 };
    float factors[HD / 2], *x = floats(TOK * HEADS * HD), *y = floats(TOK * HEADS * HD);
    float *table = floats(TOK * n_rot);
    int32_t pos[TOK];
    double worst = 0;
    for (int i = 0; i < HD / 2; i++)
        factors[i] = 1.0f + (float)i / 4;
    for (int i = 0; i < TOK; i++)
        pos[i] = i * 1009;
    struct rope r = {.kind = kind,
                     .n_rot = n_rot,
                     .theta = 10000,
                     .freq_scale = 0.5,
                     .attn_factor = 1.25,
                     .freq_factors = with_factors ? factors : NULL};
    memcpy(y, x, sizeof(float) * TOK * HEADS * HD);
    k->ops->rope_table(k, &r, pos, TOK, table);
    k->ops->rope(k, &r, table, TOK, HEADS, HD, y);
    for (int i = 0; i < TOK * HEADS; i++)
        for (int j = 0; j < HD; j++) {
            double want = (double)x[i * HD + j];
            if (j < n_rot) {
                int p = kind == ROPE_NEOX ? j % (n_rot / 2) : j / 2;
                int a = kind == ROPE_NEOX ? p : 2 * p,
                    b = kind == ROPE_NEOX ? p + n_rot / 2 : a + 1;
                double f = pow(10000, -2.0 * p / n_rot) / (with_factors ? (double)factors[p] : 1);
                double w = pos[i / HEADS] * 0.5 * f, u = (double)x[i * HD + a],
                       v = (double)x[i * HD + b];
                want = 1.25 * (j == a ? u * cos(w) - v * sin(w) : u * sin(w) + v * cos(w));
            }
            double e = fabs(want - (double)y[i * HD + j]);
            worst = e > worst || isnan(e) ? e : worst;
        }
    verdict("rope", kind == ROPE_NEOX ? "neox" : "interleaved", worst, 2e-6);
    free(x);
    free(y);
    free(table);
}

static double silu(double x)
{
    return x / (1 + exp(-x));
}
static double gelu(double x)
{
    return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

static void check_glu(struct kernels *k, enum glu_kind kind)
{
    enum { N = 30011 };
    float *g = floats(N), *u = floats(N), *o = floats(N);
    double worst = 0;
    for (int i = 0; i < N; i++)
        g[i] = (float)(i - N / 2) / 500; // -30 .. 30
    k->ops->glu(k, kind, g, u, N, o);
    for (int i = 0; i < N; i++) {
        double x = (double)g[i], want = (kind == GLU_SILU ? silu(x) : gelu(x)) * (double)u[i];
        double e = fabs(want - (double)o[i]) / (1 + fabs(x));
        worst = e > worst || isnan(e) ? e : worst;
    }
    verdict("glu", kind == GLU_SILU ? "silu" : "gelu", worst, 5e-7);
    for (int n = 1; n < 20; n++) { // tails have the bits of vectors
        float t[20];
        k->ops->glu(k, kind, g + 15000, u + 15000, n, t);
        same_bits("glu", "tail", t, o + 15000, (size_t)n * 4);
    }
    k->ops->glu(k, kind, g, u, N, g);
    same_bits("glu", "in place", g, o, N * 4);
    digest_add(o, N * 4);
    free(g);
    free(u);
    free(o);
}

static void check_elements(struct kernels *k)
{
    enum { N = 70001 };
    float *x = floats(N), *y = floats(N), *z = floats(N);
    double worst = 0;
    memcpy(z, x, N * 4);
    k->ops->add(k, z, y, N);
    for (int i = 0; i < N; i++)
        worst += z[i] != x[i] + y[i];
    k->ops->scale(k, z, 25.298f, N);
    for (int i = 0; i < N; i++)
        worst += z[i] != (x[i] + y[i]) * 25.298f;
    verdict("add, scale", "values", worst, 0);
    memcpy(y, z, N * 4);
    k->ops->softcap(k, z, 30, N);
    worst = 0;
    for (int i = 0; i < N; i++) {
        double e = fabs(30 * tanh((double)y[i] / 30) - (double)z[i]);
        worst = e > worst || isnan(e) ? e : worst;
    }
    verdict("softcap", "values", worst, 8e-6);
    k->ops->softcap(k, y + 100, 30, 5);
    same_bits("softcap", "tail", y + 100, z + 100, 5 * 4);
    digest_add(z, N * 4);
    free(x);
    free(y);
    free(z);
}

static void check_argmax(struct kernels *k)
{
    enum { N = 40000 };
    float *x = floats(N * 3);
    int32_t got[3];
    const int at[] = {0, 7, 8, 16383, 16384, 39999};
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        float *row = x + N;
        row[at[i]] = 100;
        if (at[i] + 9 < N) row[at[i] + 9] = 100; // the lower index wins
        row[(at[i] + 20001) % N] = NAN;
        k->ops->argmax(k, x, 3, N, got);
        verdict("argmax", "ties, NaN", abs(got[1] - at[i]), 0);
        for (int j = 0; j < N; j++)
            row[j] = rng_float();
    }
    for (int i = 0; i < N; i++)
        x[i] = NAN;
    for (int i = 0; i < N; i++)
        x[N + i] = -INFINITY;
    for (int i = 0; i < N; i++)
        x[2 * N + i] = i ? NAN : -5;
    x[2 * N + 333] = -4;
    k->ops->argmax(k, x, 3, N, got);
    verdict("argmax", "all NaN, all -inf, mostly NaN",
            abs(got[0]) + abs(got[1]) + abs(got[2] - 333), 0);
    free(x);
}

static void check_logsumexp(struct kernels *k)
{
    enum { N = 39999 };
    float *x = floats(N * 2);
    double got[2], again;
    for (int i = 0; i < N; i++)
        x[i] = x[i] * 20 - 300;
    x[17] = -INFINITY;
    k->ops->logsumexp(k, x, 2, N, got);
    for (int r = 0; r < 2; r++) {
        double max = -1e300, sum = 0;
        for (int i = 0; i < N; i++)
            max = (double)x[r * N + i] > max ? (double)x[r * N + i] : max;
        for (int i = 0; i < N; i++)
            sum += exp((double)x[r * N + i] - max);
        verdict("logsumexp", "values", fabs(got[r] - (max + log(sum))), 1e-5);
    }
    k->ops->logsumexp(k, x + N, 1, N, &again);
    verdict("logsumexp", "alone", again != got[1], 0);
    free(x);
}

// -- refusals --

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
                   o->kv_page_bytes(k, 24, 1, 64, DT_F16) +
                   o->kv_page_bytes(k, 512, 1, 64, DT_F16) + o->kv_page_bytes(k, 16, 1, 64, DT_I8) +
                   o->kv_page_bytes(k, 16, 1, 9999, DT_F16);
    verdict("limits", "sizes refused", (double)sum, 0);
    uint64_t before = o->progress(k);
    float x[8] = {0};
    o->scale(k, x, 1, 8);
    verdict("progress", "moves", o->progress(k) <= before, 0);
    o->close(k);
}

// Runs everything on one instruction set; returns the digest of its outputs.
static uint64_t check_isa(const char *isa)
{
    int checked = n_check, failed = n_failed;
    isa_name = isa;
    is_brief = !strcmp(isa, "reference");
    digest = 0xcbf29ce484222325;
    for (int i = 0; i < N_TYPE; i++) {
        check_gemm_type(types[i], PRECISION_FAST);
        if (!dtype_info(types[i])->is_quantised) continue;
        check_gemm_type(types[i], PRECISION_EXACT);
        check_gemm_extremes(types[i]);
    }
    for (int i = 0; i < N_ATTN; i++)
        check_attention(&attn_cases[i]);
    for (int n = 1; n <= (is_brief ? 1 : most_threads); n++) {
        struct kernels *k = open_isa(n, PRECISION_FAST);
        const uint64_t before = digest;
        rng_seed(1);
        check_rms_norm(k);
        check_rope(k, ROPE_INTERLEAVED, 64, false);
        check_rope(k, ROPE_NEOX, 64, true);
        check_rope(k, ROPE_NEOX, 48, false);
        check_glu(k, GLU_SILU);
        check_glu(k, GLU_GELU_TANH);
        check_elements(k);
        check_argmax(k);
        check_logsumexp(k);
        if (n > 1) digest = before; // counted once
        k->ops->close(k);
    }
    check_limits();
    printf("%-10s %d checks, %d failed, digest %016llx\n", isa, n_check - checked,
           n_failed - failed, (unsigned long long)digest);
    return digest;
}

// Every instruction set of this machine; fails if two digests differ.
static int check_all(const char *const *names, int n)
{
    uint64_t first = 0;
    int n_run = 0;
    n_check = n_failed = 0;
    for (int i = 0; i < n; i++) {
        struct kernels *k;
        if (kernels_open_cpu(names[i], &base_limits, &k, NULL)) continue;
        k->ops->close(k);
        uint64_t d = check_isa(names[i]);
        if (n_run++ == 0) first = d;
        if (d != first) {
            printf("%s gives other bits than %s\n", names[i], names[0]);
            n_failed++;
        }
    }
    if (!n_run) printf("no instruction set to check\n");
    return n_run && !n_failed ? 0 : 1;
}

#ifndef KERNELS_CHECK_NO_MAIN
int main(int argc, char **argv)
{
    static const char *const all[] = {"reference", "avx2", "neon"};
    int i = 1;
    if (argc > 2 && !strcmp(argv[1], "-t")) {
        most_threads = atoi(argv[2]);
        i = 3;
    }
    return argc > i ? check_all((const char *const *)argv + i, argc - i) : check_all(all, 3);
}
#endif
