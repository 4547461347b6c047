// ops_check: every operation that is not a product of weights, against plain double arithmetic over
// odd sizes, and against itself: the same bits however rows are cut into chunks, shared with others
// and given to threads, and on every instruction set (the digest).
//
//     ops_check [-b] [-t THREADS] [ISA...]    prints what failed; exit status 1 if a check did
//
// Needs no test framework, so that it runs as a static program under an emulator.
#include "tests/unit/kernels/check.h"

static const struct kernels_limits ops_limits = {.n_threads = 1,
                                                 .precision = PRECISION_FAST,
                                                 .max_tok = 384,
                                                 .max_cols = 64,
                                                 .max_rows = 40000,
                                                 .max_head = 32,
                                                 .max_head_dim = 576,
                                                 .max_ctx = 4096};

static struct kernels *open_ops(int n_threads)
{
    return open_limits(ops_limits, n_threads, PRECISION_FAST);
}

static void worse(double *worst, double e)
{
    *worst = e > *worst || isnan(e) ? e : *worst;
}

// -- two sequences of the same tokens, in chunks --

// Cuts two sequences into chunks of `chunk` and of 2 * chunk + 1 tokens, step by step in shared
// calls of at most max_tok rows, the second sequence's rows first.
struct cutter {
    int n_tok, chunk, at[2];
    int n_run, rows;
    struct attn_run runs[2];
    int seq[2]; // of each run
};

static bool cut_next(struct cutter *c)
{
    c->n_run = c->rows = 0;
    for (int s = 1; s >= 0; s--) {
        int n = s ? 2 * c->chunk + 1 : c->chunk, left = c->n_tok - c->at[s];
        n = n < left ? n : left;
        if (c->rows + n > ops_limits.max_tok) n = ops_limits.max_tok - c->rows;
        if (!n) continue;
        c->runs[c->n_run] = (struct attn_run){c->rows, n, c->at[s], NULL};
        c->seq[c->n_run++] = s;
        c->rows += n;
        c->at[s] += n;
    }
    return c->n_run > 0;
}

// Rows of the sequence that a step needs, in the step's order.
static void cut_in(const struct cutter *c, const float *from, int width, float *to)
{
    for (int i = 0; i < c->n_run; i++)
        memcpy(to + c->runs[i].tok_from * width, from + c->runs[i].pos_from * width,
               (size_t)(c->runs[i].n_tok * width) * sizeof *to);
}
// And back: outputs of sequence s.
static void cut_out(const struct cutter *c, const float *from, int width, int s, float *to)
{
    for (int i = 0; i < c->n_run; i++)
        if (c->seq[i] == s)
            memcpy(to + c->runs[i].pos_from * width, from + c->runs[i].tok_from * width,
                   (size_t)(c->runs[i].n_tok * width) * sizeof *to);
}

// -- attention --

enum { A_PAGES = 80, A_TAIL = 64 };

struct attn_case {
    enum dtype kv;
    int n_tok, n_head, n_kv, hd, hd_v, page_tok, window, chunk;
    float softcap;
    bool v_in_k, sinks;
};

// tokens, heads, KV heads, dim of keys, of values, page, window, chunk, cap, in keys, sinks
static const struct attn_case attn_cases[] = {
    {DT_F16, 300, 6, 2, 64, 64, 16, 0, 0, 0, false, false},
    {DT_F32, 300, 6, 2, 64, 64, 32, 0, 0, 0, false, false},
    {DT_F16, 300, 4, 1, 256, 256, 64, 100, 0, 0, false, false},
    {DT_F16, 300, 4, 4, 20, 20, 16, 0, 0, 30.0f, false, false},
    {DT_F32, 300, 5, 1, 36, 36, 256, 33, 0, 0, false, true},
    {DT_F32, 300, 2, 2, 80, 80, 128, 290, 0, 5.0f, false, false},
    {DT_F16, 600, 3, 1, 24, 24, 16, 128, 0, 0, false, true},
    {DT_F16, 600, 8, 2, 96, 24, 64, 0, 0, 0, false, true},
    {DT_F16, 600, 4, 2, 80, 80, 32, 0, 160, 0, false, false},
    {DT_F32, 600, 2, 1, 192, 128, 16, 300, 256, 0, false, true},
    {DT_F16, 520, 8, 1, 576, 512, 64, 0, 0, 0, true, false}, // more than one wave
    {DT_F16, 600, 7, 1, 24, 16, 32, 0, 0, 0, true, false},
    {DT_F32, 600, 6, 2, 28, 21, 16, 77, 0, 0, true, true},
    {DT_F16, 600, 2, 1, 2, 2, 16, 0, 50, 0, true, false},
    {DT_F16, 300, 32, 1, 72, 64, 16, 0, 0, 0, true, false},
    {DT_Q8_0, 300, 6, 2, 64, 64, 16, 0, 0, 0, false, false},
    {DT_Q8_0, 300, 5, 1, 100, 100, 32, 33, 0, 5.0f, false, true},
    {DT_Q8_0, 300, 4, 2, 36, 21, 64, 0, 160, 0, false, false},
    {DT_Q8_0, 300, 8, 1, 96, 70, 16, 0, 0, 0, true, true},
    {DT_BF16, 300, 4, 1, 40, 28, 16, 0, 0, 0, false, true},
    {DT_BF16, 300, 4, 1, 24, 20, 32, 60, 0, 0, true, false},
    {DT_F8_E4M3, 300, 6, 2, 64, 64, 16, 0, 0, 0, false, false},
    {DT_F8_E4M3, 300, 5, 1, 36, 21, 64, 0, 160, 5.0f, false, true},
    {DT_F8_E4M3, 300, 8, 1, 44, 30, 16, 0, 0, 0, true, false},
};
enum { N_ATTN = sizeof attn_cases / sizeof *attn_cases };

struct attn_data {
    float *q, *k, *v; // (n_tok, heads, hd)
    float *out;       // truth
    float sinks[64];
};

static bool attn_sees(const struct attn_case *c, int at, int i)
{
    return i <= at && (!c->window || i > at - c->window) &&
           (!c->chunk || i / c->chunk == at / c->chunk);
}

// The nearest number of so many bits; below 2^-6 those of E4M3 are 2^-9 apart.
static double nearest(float x, int bits)
{
    int e;
    frexp((double)x, &e);
    e = bits == 4 && e < -5 ? -5 : e;
    return ldexp(nearbyint(ldexp((double)x, bits - e)), e - bits);
}

// Element j of a vector of n, as it is kept.
static double kv_value(enum dtype t, const float *x, int n, int j)
{
    if (t == DT_F16) return (double)dtype_f16_to_f32(dtype_f32_to_f16(x[j]));
    if (t == DT_BF16) return nearest(x[j], 8);
    if (t == DT_F8_E4M3) {
        float most = 0;
        for (int i = 0; i < n; i++)
            most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
        return (double)(most * (1.0f / 448)) * nearest(x[j] * (448.0f / most), 4);
    }
    if (t != DT_Q8_0) return (double)x[j];
    float max = 0;
    for (int i = j / 32 * 32; i < n && i < j / 32 * 32 + 32; i++)
        max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
    return (double)(max * (1.0f / 127)) * (double)nearbyintf(x[j] * (127.0f / max));
}

static double attn_value(const struct attn_case *c, const struct attn_data *d, int i, int kvh,
                         int j)
{
    return c->v_in_k ? kv_value(c->kv, d->k + (i * c->n_kv + kvh) * c->hd, c->hd, j)
                     : kv_value(c->kv, d->v + (i * c->n_kv + kvh) * c->hd_v, c->hd_v, j);
}

static double attn_error(const struct attn_case *c, const struct attn_data *d, int tok, int head)
{
    const int hd = c->hd, kvh = head / (c->n_head / c->n_kv);
    double *s = calloc((size_t)c->n_tok, sizeof *s), max = -1e300, sum = 0, worst = 0;
    if (!s) exit(2);
    for (int i = 0; i <= tok; i++) {
        if (!attn_sees(c, tok, i)) continue;
        for (int j = 0; j < hd; j++)
            s[i] += (double)d->q[(tok * c->n_head + head) * hd + j] *
                    kv_value(c->kv, d->k + (i * c->n_kv + kvh) * hd, hd, j);
        s[i] /= sqrt(hd);
        if (c->softcap != 0) s[i] = (double)c->softcap * tanh(s[i] / (double)c->softcap);
        max = s[i] > max ? s[i] : max;
    }
    if (c->sinks) max = (double)d->sinks[head] > max ? (double)d->sinks[head] : max;
    if (c->sinks) sum = exp((double)d->sinks[head] - max);
    for (int i = 0; i <= tok; i++) {
        s[i] = attn_sees(c, tok, i) ? exp(s[i] - max) : 0;
        sum += s[i];
    }
    for (int j = 0; j < c->hd_v; j++) {
        double o = 0;
        for (int i = 0; i <= tok; i++)
            o += s[i] / sum * attn_value(c, d, i, kvh, j);
        worse(&worst, fabs(o - (double)d->out[(tok * c->n_head + head) * c->hd_v + j]));
    }
    free(s);
    return worst;
}

// The page table of a run with -1 wherever none of its queries may look.
static void attn_poison(const struct attn_case *c, const struct attn_run *run, const int32_t *table,
                        int32_t *out)
{
    for (int p = 0; p < A_PAGES / 2; p++) {
        bool seen = false;
        for (int i = p * c->page_tok; i < (p + 1) * c->page_tok; i++)
            for (int t = run->pos_from; t < run->pos_from + run->n_tok && !seen; t++)
                seen = attn_sees(c, t, i);
        out[p] = seen ? table[p] : -1;
    }
}

// `out` of both sequences; of the first only and its last A_TAIL tokens if is_brief. Pages lie in
// an order of their own; the page before the first, where the poison leads, and whatever was not
// stored are NaN.
static void attn_in_chunks(struct kernels *k, const struct attn_case *c, const struct attn_data *d,
                           int chunk, float *const out[2])
{
    const int wq = c->n_head * c->hd, wk = c->n_kv * c->hd, wv = c->n_kv * c->hd_v;
    const int wo = c->n_head * c->hd_v, rows = ops_limits.max_tok;
    struct kv_view kv = {.page_tok = c->page_tok,
                         .n_head_kv = c->n_kv,
                         .head_dim = c->hd,
                         .head_dim_v = c->hd_v,
                         .v_in_k = c->v_in_k,
                         .dtype = c->kv};
    kv.page_bytes = (int64_t)k->ops->kv_page_bytes(k, &kv);
    char *memory = aligned_alloc(64, (size_t)kv.page_bytes * (A_PAGES + 1));
    float *q = floats(rows * wq), *o = floats(rows * wo), *key = floats(rows * wk);
    float *value = c->v_in_k ? NULL : floats(rows * wv);
    if (!memory || !kv.page_bytes) exit(2);
    memset(memory, 0xff, (size_t)kv.page_bytes * (A_PAGES + 1));
    kv.data = memory + kv.page_bytes;
    int32_t pages[2][A_PAGES / 2], seen[2][A_PAGES / 2];
    for (int i = 0; i < A_PAGES; i++)
        pages[i % 2][i / 2] = (i * 37 + chunk) % A_PAGES;
    struct cutter cut = {.n_tok = c->n_tok, .chunk = chunk, .at = {0, is_brief ? c->n_tok : 0}};
    while (cut_next(&cut)) {
        cut_in(&cut, d->q, wq, q);
        cut_in(&cut, d->k, wk, key);
        if (value) cut_in(&cut, d->v, wv, value);
        for (int i = 0; i < cut.n_run; i++) {
            attn_poison(c, &cut.runs[i], pages[cut.seq[i]], seen[i]);
            cut.runs[i].pages = seen[i];
        }
        struct attn_args a = {.q = q,
                              .out = o,
                              .n_head = c->n_head,
                              .kv = kv,
                              .runs = cut.runs,
                              .n_run = cut.n_run,
                              .scale = (float)(1 / sqrt(c->hd)),
                              .softcap = c->softcap,
                              .window = c->window,
                              .chunk = c->chunk,
                              .sinks = c->sinks ? d->sinks : NULL};
        k->ops->kv_store(k, &kv, cut.runs, cut.n_run, key, value);
        if (is_brief && cut.at[0] <= c->n_tok - A_TAIL) continue;
        k->ops->attention(k, &a);
        for (int s = 0; s < 2; s++)
            cut_out(&cut, o, wo, s, out[s]);
    }
    free(memory);
    free(q);
    free(o);
    free(key);
    free(value);
}

// Whether the backend keeps keys and values in the case's type. The CPU keeps them in all.
static bool attn_takes(const struct attn_case *c)
{
    struct kernels *k = open_ops(1);
    const struct kv_view kv = {.page_tok = c->page_tok,
                               .n_head_kv = c->n_kv,
                               .head_dim = c->hd,
                               .head_dim_v = c->hd_v,
                               .v_in_k = c->v_in_k,
                               .dtype = c->kv};
    const bool takes =
        c->kv != DT_Q8_0 || !strncmp(k->ops->name, "cpu", 3) || k->ops->kv_page_bytes(k, &kv);
    if (!takes) printf("%s: no keys and values in %s\n", k->ops->name, dtype_info(c->kv)->name);
    k->ops->close(k);
    return takes;
}

static void check_attention(const struct attn_case *c)
{
    if (!attn_takes(c)) return;
    const int n = c->n_tok * c->n_head * c->hd_v, chunks[] = {1, 7, A_TAIL, c->n_tok};
    rng_seed((uint64_t)c->hd);
    struct attn_data d = {.q = floats(c->n_tok * c->n_head * c->hd),
                          .k = floats(c->n_tok * c->n_kv * c->hd),
                          .v = floats(c->n_tok * c->n_kv * c->hd_v),
                          .out = floats(n)};
    float *out[2] = {floats(n), floats(n)};
    char what[64];
    for (int i = 0; i < 64; i++)
        d.sinks[i] = rng_float() * 3;
    bool has_truth = false;
    for (int t = 1; t <= (is_brief ? 1 : most_threads); t++) {
        struct kernels *k = open_ops(t);
        for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
            if (is_brief ? chunks[i] != A_TAIL : c->hd > 300 && i != 1) continue;
            attn_in_chunks(k, c, &d, chunks[i], out);
            if (!has_truth) memcpy(d.out, out[0], (size_t)n * sizeof(float));
            has_truth = true;
            if (is_brief) continue;
            snprintf(what, sizeof what, "%s hd %d page %d, chunks of %d", dtype_info(c->kv)->name,
                     c->hd, c->page_tok, chunks[i]);
            same_bits("attention", what, out[0], d.out, (size_t)n * 4);
            same_bits("attention", what, out[1], d.out, (size_t)n * 4);
        }
        k->ops->close(k);
    }
    double worst = 0;
    for (int tok = is_brief ? c->n_tok - 1 : 0; tok < c->n_tok; tok += 13)
        for (int h = 0; h < c->n_head; h++)
            worse(&worst, attn_error(c, &d, tok, h));
    snprintf(what, sizeof what, "%s hd %d %d window %d chunk %d", dtype_info(c->kv)->name, c->hd,
             c->hd_v, c->window, c->chunk);
    verdict("attention", what, worst, 5e-6);
    const int tail = A_TAIL * c->n_head * c->hd_v;
    digest_add(d.out + n - tail, (size_t)tail * 4);
    free(d.q);
    free(d.k);
    free(d.v);
    free(d.out);
    free(out[0]);
    free(out[1]);
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
        for (int c = 0; c < n; c++)
            w[c] = 1;
        k->ops->rms_norm(k, y, w, rows, n, 1e-5f, x);
        k->ops->rms_norm(k, y, NULL, rows, n, 1e-5f, y);
        same_bits("rms_norm", "no weights", x, y, (size_t)(rows * n) * 4);
        free(x);
        free(w);
        free(y);
    }
}

static void check_rope(struct kernels *k, enum rope_kind kind, int n_rot, bool with_factors)
{
    enum { TOK = 40, HEADS = 3, HD = 64 };
    double factors[HD / 2];
    float *x = floats(TOK * HEADS * HD), *y = floats(TOK * HEADS * HD);
    float *table = floats(TOK * n_rot);
    int32_t pos[TOK];
    double worst = 0;
    for (int i = 0; i < HD / 2; i++)
        factors[i] = 1 + i / 4.0;
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
                double f = pow(10000, -2.0 * p / n_rot) / (with_factors ? factors[p] : 1);
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

// The last 16 of each head's 40 elements turn as heads of 16 do.
static void check_rope_end(struct kernels *k, enum rope_kind kind)
{
    enum { TOK = 9, HEADS = 3, HD = 40, ROT = 16 };
    float *x = floats(TOK * HEADS * HD), *y = floats(TOK * HEADS * ROT), *table = floats(TOK * ROT);
    const struct rope r = {
        .kind = kind, .n_rot = ROT, .theta = 10000, .freq_scale = 1, .attn_factor = 1};
    float before[TOK * HEADS * HD];
    int32_t pos[TOK];
    double bad = 0;
    for (int i = 0; i < TOK; i++)
        pos[i] = 100 * i;
    for (int i = 0; i < TOK * HEADS; i++)
        memcpy(y + i * ROT, x + i * HD + HD - ROT, ROT * sizeof *y);
    memcpy(before, x, sizeof before);
    k->ops->rope_table(k, &r, pos, TOK, table);
    k->ops->rope(k, &r, table, TOK, HEADS, ROT, y);
    k->ops->rope(k, &r, table, TOK, HEADS, HD, x + HD - ROT);
    for (int i = 0; i < TOK * HEADS; i++) {
        bad += memcmp(x + i * HD + HD - ROT, y + i * ROT, ROT * sizeof *y) != 0;
        bad += memcmp(x + i * HD, before + i * HD, (HD - ROT) * sizeof *x) != 0;
    }
    verdict("rope", "end of a head", bad, 0);
    free(x);
    free(y);
    free(table);
}

static double silu(double x)
{
    return x / (1 + exp(-x));
}
static double glu_value(enum glu_kind kind, double x, double up)
{
    if (kind == GLU_SILU) return silu(x) * up;
    if (kind == GLU_GELU_TANH)
        return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))) * up;
    if (kind == GLU_GELU) return 0.5 * x * (1 + erf(x / sqrt(2))) * up;
    x = x < 7 ? x : 7;
    up = up < -7 ? -7 : up > 7 ? 7 : up;
    return x / (1 + exp(-(double)1.702f * x)) * (up + 1);
}

static void check_glu(struct kernels *k, enum glu_kind kind)
{
    enum { N = 30011 };
    float *g = floats(N), *u = floats(N), *o = floats(N);
    double worst = 0;
    for (int i = 0; i < N; i++)
        g[i] = (float)(i - N / 2) / 500; // -30 .. 30
    const struct glu a = {.kind = kind, .alpha = 1.702f, .limit = 7};
    k->ops->glu(k, &a, g, u, N, o);
    for (int i = 0; i < N; i++) {
        double x = (double)g[i], want = glu_value(kind, x, (double)u[i]);
        double e = fabs(want - (double)o[i]) / (1 + fabs(x));
        worst = e > worst || isnan(e) ? e : worst;
    }
    static const char *const names[] = {"silu", "gelu tanh", "gelu", "swiglu oai"};
    verdict("glu", names[kind], worst, kind == GLU_SWIGLU_OAI ? 2e-6 : 5e-7);
    for (int n = 1; n < 20; n++) { // tails have the bits of vectors
        float t[20];
        k->ops->glu(k, &a, g + 15000, u + 15000, n, t);
        same_bits("glu", "tail", t, o + 15000, (size_t)n * 4);
    }
    k->ops->glu(k, &a, g, u, N, g);
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

// -- recurrences --

static void check_conv(struct kernels *k, int n_channel, int n_tap, bool with_bias)
{
    enum { TOK = 50 };
    const int n = TOK * n_channel, past = (n_tap - 1) * n_channel, chunks[] = {TOK, 1, 2, 7};
    rng_seed((uint64_t)n_channel);
    float *x = floats(n), *w = floats(n_channel * n_tap), *bias = floats(n_channel);
    float *before = floats(past), *states = floats(2 * past), *last = floats(past);
    float *in = floats(2 * n), *o = floats(2 * n), *truth = floats(n), *out = floats(n);
    float *const state[2] = {states, states + past};
    double worst = 0;
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        memcpy(state[0], before, (size_t)past * 4);
        memcpy(state[1], before, (size_t)past * 4);
        for (struct cutter cut = {.n_tok = TOK, .chunk = chunks[i]}; cut_next(&cut);) {
            cut_in(&cut, x, n_channel, in);
            const uint32_t slots[2] = {(uint32_t)cut.seq[0], (uint32_t)cut.seq[1]};
            const struct conv_args a = {.x = in,
                                        .w = w,
                                        .bias = with_bias ? bias : NULL,
                                        .n_channel = n_channel,
                                        .n_tap = n_tap,
                                        .runs = cut.runs,
                                        .n_run = cut.n_run,
                                        .slots = slots,
                                        .state = states,
                                        .state_ld = past,
                                        .out = o};
            k->ops->conv(k, &a);
            cut_out(&cut, o, n_channel, 0, i ? out : truth);
        }
        if (i) same_bits("conv", "chunks", out, truth, (size_t)n * 4);
        if (!i) memcpy(last, state[0], (size_t)past * 4);
        same_bits("conv", "state", state[0], last, (size_t)past * 4);
        same_bits("conv", "state of the other", state[1], last, (size_t)past * 4);
    }
    for (int t = 0; t < TOK; t++)
        for (int c = 0; c < n_channel; c++) {
            double s = with_bias ? (double)bias[c] : 0;
            for (int j = 0; j < n_tap; j++) {
                int at = t - (n_tap - 1) + j;
                float v = at < 0 ? before[(at + n_tap - 1) * n_channel + c] : x[at * n_channel + c];
                s += (double)w[c * n_tap + j] * (double)v;
            }
            double e = fabs(s / (1 + exp(-s)) - (double)truth[t * n_channel + c]);
            worse(&worst, e / (1 + fabs(s)));
        }
    verdict("conv", "values", worst, 2e-6);
    same_bits("conv", "state is the last tokens", last, x + n - past, (size_t)past * 4);
    digest_add(truth, (size_t)n * 4);
    float *all[] = {x, w, bias, before, states, last, in, o, truth, out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

struct delta_case {
    int n_head_k, n_head_v, dim_k, dim_v;
    bool tiled;
};

struct delta_data {
    const struct delta_case *c;
    int n_tok, ld, width, n_state; // of a row of qkv, of out; floats of a state
    float *qkv, *a, *b, *a_neg, *dt_bias, *before;
    float *out, *last; // truth
};

// One head in double; the worst error of its outputs and of its last state.
static void delta_errors(const struct delta_data *d, int h, double *worst_out, double *worst_state)
{
    const struct delta_case *c = d->c;
    const int K = c->dim_k, V = c->dim_v,
              hk = c->tiled ? h % c->n_head_k : h / (c->n_head_v / c->n_head_k);
    double *s = calloc((size_t)(K * V + V), sizeof *s), *e = s + K * V;
    if (!s) exit(2);
    for (int i = 0; i < K * V; i++)
        s[i] = (double)d->before[h * K * V + i];
    for (int t = 0; t < d->n_tok; t++) {
        const float *q = d->qkv + t * d->ld + hk * K, *k = q + c->n_head_k * K;
        const float *v = d->qkv + t * d->ld + 2 * c->n_head_k * K + h * V;
        double z = (double)d->a[t * c->n_head_v + h] + (double)d->dt_bias[h], qq = 1e-6, kk = 1e-6;
        double decay = exp((double)d->a_neg[h] * (z > 30 ? z : log1p(exp(z))));
        double beta = 1 / (1 + exp(-(double)d->b[t * c->n_head_v + h]));
        for (int i = 0; i < K; i++) {
            qq += (double)q[i] * (double)q[i];
            kk += (double)k[i] * (double)k[i];
        }
        for (int j = 0; j < V; j++) {
            double got = 0, o = 0;
            for (int i = 0; i < K; i++)
                got += (s[i * V + j] *= decay) * (double)k[i] / sqrt(kk);
            e[j] = beta * ((double)v[j] - got);
            for (int i = 0; i < K; i++) {
                s[i * V + j] += (double)k[i] / sqrt(kk) * e[j];
                o += s[i * V + j] * (double)q[i] / sqrt(qq * K);
            }
            worse(worst_out, fabs(o - (double)d->out[t * d->width + h * V + j]));
        }
    }
    for (int i = 0; i < K * V; i++)
        worse(worst_state, fabs(s[i] - (double)d->last[h * K * V + i]));
    free(s);
}

static void delta_in_chunks(struct kernels *k, const struct delta_data *d, int chunk, float *out,
                            float *const state[2])
{
    const struct delta_case *c = d->c;
    const int keys = c->n_head_k * c->dim_k, rows = 2 * d->n_tok;
    float *qkv = floats(rows * d->ld), *o = floats(rows * d->width);
    float *a = floats(rows * c->n_head_v), *b = floats(rows * c->n_head_v);
    memcpy(state[0], d->before, (size_t)d->n_state * 4);
    memcpy(state[1], d->before, (size_t)d->n_state * 4);
    for (struct cutter cut = {.n_tok = d->n_tok, .chunk = chunk}; cut_next(&cut);) {
        cut_in(&cut, d->qkv, d->ld, qkv);
        cut_in(&cut, d->a, c->n_head_v, a);
        cut_in(&cut, d->b, c->n_head_v, b);
        const uint32_t slots[2] = {(uint32_t)cut.seq[0], (uint32_t)cut.seq[1]};
        const struct delta_args args = {.q = qkv,
                                        .k = qkv + keys,
                                        .v = qkv + 2 * keys,
                                        .ld = d->ld,
                                        .a = a,
                                        .b = b,
                                        .a_neg = d->a_neg,
                                        .dt_bias = d->dt_bias,
                                        .n_head_k = c->n_head_k,
                                        .n_head_v = c->n_head_v,
                                        .dim_k = c->dim_k,
                                        .dim_v = c->dim_v,
                                        .tiled = c->tiled,
                                        .runs = cut.runs,
                                        .n_run = cut.n_run,
                                        .slots = slots,
                                        .state = state[0],
                                        .state_ld = d->n_state,
                                        .out = o};
        k->ops->delta(k, &args);
        cut_out(&cut, o, d->width, 0, out);
    }
    free(qkv);
    free(o);
    free(a);
    free(b);
}

static void check_delta(struct kernels *k, const struct delta_case *c)
{
    enum { TOK = 60 };
    const int chunks[] = {TOK, 1, 3, 8, 17};
    struct delta_data d = {.c = c, .n_tok = TOK, .width = c->n_head_v * c->dim_v};
    d.ld = 2 * c->n_head_k * c->dim_k + d.width + 5;
    d.n_state = d.width * c->dim_k;
    rng_seed((uint64_t)c->dim_k);
    d.qkv = floats(TOK * d.ld);
    d.a = floats(TOK * c->n_head_v);
    d.b = floats(TOK * c->n_head_v);
    d.a_neg = floats(c->n_head_v);
    d.dt_bias = floats(c->n_head_v);
    d.before = floats(d.n_state);
    d.out = floats(TOK * d.width);
    d.last = floats(d.n_state);
    d.a[3] = 40;   // softplus is linear there
    d.a[7] = -40;  // and nothing there
    d.b[9] = -100; // the token leaves no trace
    for (int h = 0; h < c->n_head_v; h++)
        d.a_neg[h] = -(float)exp((double)d.a_neg[h]);
    memset(d.qkv + 11 * d.ld, 0, (size_t)d.ld * 4); // no direction at all
    float *out = floats(TOK * d.width), *states = floats(2 * d.n_state);
    float *const state[2] = {states, states + d.n_state};
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        delta_in_chunks(k, &d, chunks[i], i ? out : d.out, state);
        if (i) same_bits("delta", "chunks", out, d.out, (size_t)(TOK * d.width) * 4);
        if (!i) memcpy(d.last, state[0], (size_t)d.n_state * 4);
        same_bits("delta", "state", state[0], d.last, (size_t)d.n_state * 4);
        same_bits("delta", "state of the other", state[1], d.last, (size_t)d.n_state * 4);
    }
    double worst = 0, worst_state = 0;
    for (int h = 0; h < c->n_head_v; h++)
        delta_errors(&d, h, &worst, &worst_state);
    verdict("delta", "values", worst, 5e-6);
    verdict("delta", "state values", worst_state, 2e-5);
    digest_add(d.out, (size_t)(TOK * d.width) * 4);
    digest_add(d.last, (size_t)d.n_state * 4);
    float *all[] = {d.qkv, d.a, d.b, d.a_neg, d.dt_bias, d.before, d.out, d.last, out, states};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

// -- experts --

struct route_case {
    int n_expert, n_used, n_group, n_group_used;
    bool sigmoid, late_softmax, normalise, group_by_two, correction;
    float scale, grid; // logits are multiples of `grid`, so that there are ties; 0: any
};

static const struct route_case route_cases[] = {
    {8, 2, 0, 0, false, true, false, false, false, 1, 0},
    {128, 8, 0, 0, false, false, true, false, false, 1, 0},
    {512, 10, 0, 0, false, false, true, false, false, 1, 0.25f},
    {64, 6, 0, 0, false, false, false, false, false, 1, 0.5f},
    {160, 6, 8, 3, false, false, false, false, false, 16, 0.25f},
    {256, 8, 8, 4, true, false, true, true, true, 2.5f, 0},
    {32, 4, 0, 0, false, true, false, false, false, 1, 1.0f},
    {16, 1, 1, 1, true, false, false, false, false, 1, 0},
    {7, 7, 0, 0, true, false, true, false, true, 1.5f, 0.5f},
    {12, 3, 4, 2, true, false, true, true, true, 1, 0},
    {6, 2, 6, 3, true, false, true, true, false, 1, 0},
};
enum { N_ROUTE = sizeof route_cases / sizeof *route_cases, R_TOK = 37 };

// How many of x[n] come before x[i]: the larger ones, and of equals the lower numbers.
static int rank_of(const double *x, int n, int i)
{
    int rank = 0;
    for (int j = 0; j < n; j++)
        rank += x[j] > x[i] || (x[j] == x[i] && j < i);
    return rank;
}

// Expert i's weight, 0 if it is not chosen.
static void route_truth(const struct route_case *c, const float *logits, const float *correction,
                        double *weights)
{
    double s[512], choice[512], group[512], sum = 0, max = -1e300, chosen = 0;
    const int n = c->n_expert, n_group = c->n_group > 1 ? c->n_group : 1, size = n / n_group;
    for (int i = 0; i < n; i++)
        max = (double)logits[i] > max ? (double)logits[i] : max;
    for (int i = 0; i < n; i++)
        sum += exp((double)logits[i] - max);
    for (int i = 0; i < n; i++) {
        s[i] = c->sigmoid ? 1 / (1 + exp(-(double)logits[i])) : exp((double)logits[i] - max) / sum;
        choice[i] = s[i] + (c->correction ? (double)correction[i] : 0);
    }
    for (int g = 0; g < n_group; g++) {
        group[g] = 0;
        for (int i = 0; i < size; i++) {
            int rank = rank_of(choice + g * size, size, i);
            if (rank == 0 || (rank == 1 && c->group_by_two)) group[g] += choice[g * size + i];
        }
    }
    for (int i = 0; i < n; i++)
        if (n_group > 1 && rank_of(group, n_group, i / size) >= c->n_group_used) choice[i] = -1e300;
    for (int i = 0; i < n; i++) {
        weights[i] = rank_of(choice, n, i) < c->n_used ? s[i] : 0;
        chosen += weights[i];
    }
    for (int i = 0; i < n; i++)
        weights[i] *= (double)c->scale / (c->normalise || c->late_softmax ? chosen + 1e-20 : 1);
}

static void check_route(struct kernels *k, const struct route_case *c)
{
    const int n = c->n_expert, used = c->n_used;
    rng_seed((uint64_t)n);
    float *logits = floats(R_TOK * n), *correction = floats(n), *weights = floats(R_TOK * used);
    int32_t ids[R_TOK * 16], id[16];
    float weight[16];
    double worst = 0, want[512], bad = 0;
    for (int i = 0; i < R_TOK * n && c->grid != 0; i++)
        logits[i] = c->grid * (float)round((double)(logits[i] / c->grid));
    struct route_args a = {.logits = logits,
                           .correction = c->correction ? correction : NULL,
                           .n_expert = n,
                           .n_used = used,
                           .n_group = c->n_group,
                           .n_group_used = c->n_group_used,
                           .sigmoid = c->sigmoid,
                           .late_softmax = c->late_softmax,
                           .normalise = c->normalise,
                           .group_by_two = c->group_by_two,
                           .scale = c->scale,
                           .ids = ids,
                           .weights = weights};
    k->ops->route(k, &a, R_TOK);
    for (int t = 0; t < R_TOK; t++) {
        route_truth(c, logits + t * n, correction, want);
        for (int j = 0; j < used; j++) {
            int e = ids[t * used + j];
            bad += e < 0 || e >= n || (j && e <= ids[t * used + j - 1]) || want[e] == 0;
            worse(&worst, fabs((double)weights[t * used + j] - want[e]) / (double)c->scale);
        }
    }
    verdict("route", "choice", bad, 0);
    verdict("route", "weights", worst, 1e-6);
    digest_add(weights, (size_t)(R_TOK * used) * 4);
    a.logits = logits + 20 * n;
    a.ids = id;
    a.weights = weight;
    k->ops->route(k, &a, 1);
    same_bits("route", "alone", id, ids + 20 * used, (size_t)used * 4);
    same_bits("route", "alone", weight, weights + 20 * used, (size_t)used * 4);
    // A broken model's logits still choose experts that there are.
    for (int i = 0; i < n; i++)
        logits[20 * n + i] = i % 3 ? NAN : (float)i;
    k->ops->route(k, &a, 1);
    bad = 0;
    for (int j = 0; j < used; j++)
        bad += id[j] < 0 || id[j] >= n || (j && id[j] <= id[j - 1]);
    verdict("route", "NaN", bad, 0);
    free(logits);
    free(correction);
    free(weights);
}

static void check_combine(struct kernels *k, int dim, int n_used)
{
    enum { TOK = 21 };
    float *y = floats(TOK * n_used * dim), *out = floats(TOK * dim), *one = floats(dim);
    float *weights = floats(TOK * n_used);
    int32_t *at = malloc((size_t)(TOK * n_used) * sizeof *at);
    double worst = 0;
    if (!at) exit(2);
    for (int i = 0; i < TOK * n_used; i++)
        at[i] = (i * 8) % (TOK * n_used);
    k->ops->combine(k, y, at, weights, TOK, n_used, dim, out);
    for (int t = 0; t < TOK; t++)
        for (int c = 0; c < dim; c++) {
            double s = 0;
            for (int j = t * n_used; j < (t + 1) * n_used; j++)
                s += (double)weights[j] * (double)y[at[j] * dim + c];
            worse(&worst, fabs(s - (double)out[t * dim + c]));
        }
    verdict("combine", "values", worst, 2e-6);
    k->ops->combine(k, y, at + 9 * n_used, weights + 9 * n_used, 1, n_used, dim, one);
    same_bits("combine", "alone", one, out + 9 * dim, (size_t)dim * 4);
    digest_add(out, (size_t)(TOK * dim) * 4);
    free(y);
    free(out);
    free(one);
    free(weights);
    free(at);
}

// -- gates --

static void check_gates(struct kernels *k, int n_tok, int dim)
{
    const int n = n_tok * dim;
    float *x = floats(n), *g = floats(n), *y = floats(n), *z = floats(n);
    double worst[3] = {0};
    g[0] = -100;
    memcpy(y, x, (size_t)n * 4);
    k->ops->gate(k, y, g, n);
    for (int i = 0; i < n; i++)
        worse(&worst[0], fabs((double)x[i] / (1 + exp(-(double)g[i])) - (double)y[i]));
    digest_add(y, (size_t)n * 4);
    memcpy(z, x, (size_t)n * 4);
    k->ops->gate(k, z + n / 2, g + n / 2, n - n / 2);
    same_bits("gate", "part", z + n / 2, y + n / 2, (size_t)(n - n / 2) * 4);
    memcpy(y, x, (size_t)n * 4);
    k->ops->gate_rows(k, y, g, n_tok, dim);
    for (int i = 0; i < n; i++)
        worse(&worst[1], fabs((double)x[i] / (1 + exp(-(double)g[i / dim])) - (double)y[i]));
    digest_add(y, (size_t)n * 4);
    memcpy(y, x, (size_t)n * 4);
    k->ops->scale_rows(k, y, g, n_tok, dim);
    for (int i = 0; i < n; i++)
        worst[2] += y[i] != x[i] * g[i / dim];
    verdict("gate", "values", worst[0], 5e-7);
    verdict("gate_rows", "values", worst[1], 5e-7);
    verdict("scale_rows", "values", worst[2], 0);
    free(x);
    free(g);
    free(y);
    free(z);
}

static void check_recurrences(struct kernels *k)
{
    static const struct delta_case deltas[] = {{1, 2, 128, 128, false}, {2, 2, 24, 24, false},
                                               {2, 6, 20, 36, false},   {3, 6, 16, 40, true},
                                               {1, 1, 5, 3, false},     {1, 1, 1030, 40, false}};
    check_conv(k, 200, 4, false);
    check_conv(k, 7, 2, true);
    check_conv(k, 64, 8, true);
    check_conv(k, 1, 3, false);
    for (size_t i = 0; i < sizeof deltas / sizeof *deltas; i++)
        check_delta(k, &deltas[i]);
}

static void check_rows(struct kernels *k)
{
    check_rms_norm(k);
    check_rope(k, ROPE_INTERLEAVED, 64, false);
    check_rope(k, ROPE_NEOX, 64, true);
    check_rope(k, ROPE_NEOX, 48, false);
    check_rope_end(k, ROPE_NEOX);
    check_rope_end(k, ROPE_INTERLEAVED);
    for (int kind = GLU_SILU; kind <= GLU_SWIGLU_OAI; kind++)
        check_glu(k, (enum glu_kind)kind);
    check_gates(k, 300, 123);
    check_gates(k, 1, 3);
    check_elements(k);
    check_argmax(k);
    check_logsumexp(k);
}

static void check_ops(void)
{
    for (int i = 0; i < N_ATTN; i++)
        check_attention(&attn_cases[i]);
    for (int n = 1; n <= (is_brief ? 1 : most_threads); n++) {
        struct kernels *k = open_ops(n);
        const uint64_t before = digest;
        rng_seed(1);
        check_rows(k);
        check_recurrences(k);
        for (int i = 0; i < N_ROUTE; i++)
            check_route(k, &route_cases[i]);
        check_combine(k, 2880, 4);
        check_combine(k, 77, 8);
        check_combine(k, 5, 1);
        if (n > 1) digest = before; // counted once
        k->ops->close(k);
    }
}

#ifndef OPS_CHECK_NO_MAIN
int main(int argc, char **argv)
{
    return check_main(argc, argv, check_ops);
}
#endif
