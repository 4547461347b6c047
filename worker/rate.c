#include "worker/rate.h"

#include "kernels/kernels.h"
#include "proto/base/arena.h"
#include "proto/base/clock.h"
#include "proto/base/json.h"
#include "proto/base/log.h"
#include "worker/sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    COLS = 1024,
    ROWS = 2048,      // of one matrix
    POOL_MIB = 64,    // matrices are streamed through as much memory as no cache holds
    POINT_US = 12000, // for one figure
    PASSES_MAX = 64,  // of them
    HEADS = 16,
    KV_HEADS = 4,
    HEAD_DIM = 64,
    FFN = 3072,
    DEPTH = 1024, // tokens that attention looks back on
    CHUNK = 64,   // rows of a prompt
    SEQS = 16,    // rows of sequences of their own
    PAGE_TOK = 32,
    VOCAB = 1 << 16,
    TOK_MAX = 512,
    ARENA_BYTES = 1 << 20,
};

static const enum dtype types[] = {
    DT_Q4_0, DT_Q4_1,   DT_Q5_0,  DT_Q5_1,  DT_Q8_0, DT_Q3_K, DT_Q4_K, DT_Q5_K,
    DT_Q6_K, DT_IQ4_NL, DT_MXFP4, DT_NVFP4, DT_INT4, DT_FP8,  DT_BF16, DT_F32,
};
_Static_assert(sizeof types / sizeof *types <= RATES_TYPES_MAX, "one table");

struct bench {
    struct kernels *k;
    uint8_t *weights; // POOL_MIB
    float *x, *y;     // (TOK_MAX, ROWS) each
    float *a, *b;     // (TOK_MAX, FFN)
    float *logits;    // (VOCAB)
    struct view matrix;
    int32_t n_matrix, rows, at; // matrices in the pool, rows of input, the next matrix
    struct kv_view kv;
    int32_t *pages;
    struct attn_run runs[SEQS];
    int32_t n_run;
    struct rope rope;
    int32_t *pos;
    float *cos_sin;
    bool is_finite;
};

// ---- timing

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

typedef void bench_fn(struct bench *b);

// Seconds of a call, of the fastest quarter: what the machine does when nobody else is at it.
static double time_of(struct bench *b, bench_fn *fn)
{
    double t[PASSES_MAX];
    int n = 0;
    const int64_t begin = clock_now_us();
    fn(b); // brings in what it needs
    while (n < 5 || (n < PASSES_MAX && clock_now_us() - begin < POINT_US)) {
        const double from = now();
        fn(b);
        t[n++] = now() - from;
    }
    qsort(t, (size_t)n, sizeof *t, by_value);
    return t[n / 4];
}

// ---- products

static void one_product(struct bench *b)
{
    struct view w = b->matrix;
    w.data = b->weights + (int64_t)b->at * b->matrix.stride[0];
    const struct gemm_job job = {.w = &w, .y = b->y, .ldy = w.shape[0]};
    b->k->ops->gemm(b->k, b->x, b->rows, (int32_t)w.shape[1], &job, 1);
    b->at = (b->at + 1) % b->n_matrix;
}

// As many as make a time worth measuring.
static void some_products(struct bench *b)
{
    for (int32_t i = 0; i < 8; i++)
        one_product(b);
}

// False: this backend does not take the type.
static bool set_matrix(struct bench *b, enum dtype t, int64_t rows, int64_t cols)
{
    const uint64_t bytes = b->k->ops->weight_bytes(b->k, t, rows, cols);
    if (!bytes) return false;
    b->matrix = (struct view){.dtype = t,
                              .layout = LAYOUT_PACKED,
                              .n_dim = 2,
                              .shape = {rows, cols},
                              .stride = {(int64_t)((bytes + 63) / 64 * 64)}};
    b->n_matrix = (int32_t)(((uint64_t)POOL_MIB << 20) / (uint64_t)b->matrix.stride[0]);
    b->at = 0;
    return true;
}

static void measure_types(struct bench *b, struct rates *out)
{
    set_matrix(b, DT_Q8_0, 64, 64);
    b->rows = 1;
    b->n_matrix = 1;
    out->product_us = time_of(b, some_products) / 8 * 1e6;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        struct rates_type *r = &out->types[out->n_type];
        if (!set_matrix(b, types[i], ROWS, COLS)) continue;
        r->dtype = types[i];
        for (int p = 0; p < RATES_POINTS; p++) {
            b->rows = rates_rows[p];
            if (b->rows == TOK_MAX) set_matrix(b, types[i], ROWS / 8, COLS); // long enough
            double s = b->rows > 16 ? time_of(b, one_product) : time_of(b, some_products) / 8;
            const double own = s - out->product_us * 1e-6;
            const double work = (double)b->rows * (double)b->matrix.shape[0] * COLS;
            r->mul_per_s[p] = work / (own > s / 4 ? own : s / 4);
        }
        out->n_type++;
    }
}

// ---- the rest of a layer

static void one_attention(struct bench *b)
{
    const struct attn_args a = {.q = b->x,
                                .out = b->y,
                                .n_head = HEADS,
                                .kv = b->kv,
                                .runs = b->runs,
                                .n_run = b->n_run,
                                .scale = 0.125f};
    b->k->ops->attention(b->k, &a);
}

static double attention_rate(struct bench *b, int32_t rows)
{
    b->runs[0] = (struct attn_run){.n_tok = rows, .pos_from = DEPTH, .pages = b->pages};
    b->n_run = 1;
    const double seen = DEPTH + 0.5 * (rows + 1);
    return 4.0 * HEADS * HEAD_DIM * seen * rows / time_of(b, one_attention);
}

// What layer_attn.c and layer_ffn.c do between their products, with next to nothing to attend to.
static void other_work(struct bench *b)
{
    const struct kernels_ops *o = b->k->ops;
    const struct glu silu = {.kind = GLU_SILU};
    const int32_t n = b->rows;
    o->rms_norm(b->k, b->x, b->logits, n, COLS, 1e-5f, b->y);
    o->rope(b->k, &b->rope, b->cos_sin, n, HEADS, HEAD_DIM, b->y);
    o->rope(b->k, &b->rope, b->cos_sin, n, KV_HEADS, HEAD_DIM, b->a);
    o->kv_store(b->k, &b->kv, b->runs, b->n_run, b->a, b->b);
    if (b->runs[0].n_tok == 1) one_attention(b);
    o->add(b->k, b->x, b->y, (int64_t)n * COLS);
    o->rms_norm(b->k, b->x, b->logits, n, COLS, 1e-5f, b->y);
    o->glu(b->k, &silu, b->a, b->b, (int64_t)n * FFN, b->a);
    o->add(b->k, b->x, b->y, (int64_t)n * COLS);
    memset(b->x, 0, (size_t)n * COLS * sizeof *b->x); // keeps the numbers finite
}

// `rows` rows of one sequence, or each of one of its own.
static double other_seconds(struct bench *b, int32_t rows, bool apart)
{
    b->rows = rows;
    b->n_run = apart ? rows : 1;
    for (int32_t i = 0; i < b->n_run; i++)
        b->runs[i] = (struct attn_run){
            .tok_from = i, .n_tok = apart ? 1 : rows, .pages = b->pages + (apart ? i : 0)};
    return time_of(b, other_work);
}

// As worker/head.c does for a row that is drawn greedily.
static void one_choice(struct bench *b)
{
    int32_t id;
    b->k->ops->finite(b->k, b->logits, 1, VOCAB, &b->is_finite);
    b->k->ops->argmax(b->k, b->logits, 1, VOCAB, &id);
}

static void measure_rest(struct bench *b, struct rates *out)
{
    // As cost_model.row_floats counts them.
    const double floats = 4 * COLS + (3 * HEADS + 2 * KV_HEADS) * HEAD_DIM + 2 * FFN;
    out->attn_one_flops_per_s = attention_rate(b, 1);
    out->attn_many_flops_per_s = attention_rate(b, CHUNK);
    const double one = other_seconds(b, 1, true), seqs = other_seconds(b, SEQS, true);
    const double many = other_seconds(b, CHUNK, false);
    const double row = fmax(many - one, 0) / (CHUNK - 1);
    out->layer_us = one * 1e6;
    out->float_ns = row * 1e9 / floats;
    out->seq_us = fmax((seqs - one) / (SEQS - 1) - row, 0) * 1e6;
    out->logit_ns = time_of(b, one_choice) * 1e9 / VOCAB;
}

// ---- opening

static float *floats(int64_t n)
{
    float *p = aligned_alloc(64, ((size_t)n * sizeof *p + 63) / 64 * 64);
    for (int64_t i = 0; p && i < n; i++)
        p[i] = (float)(i % 251 - 125) / 500;
    return p;
}

static bool take_memory(struct bench *b)
{
    const int32_t n_page = (DEPTH + TOK_MAX) / PAGE_TOK + 1;
    b->kv = (struct kv_view){.page_tok = PAGE_TOK,
                             .n_head_kv = KV_HEADS,
                             .head_dim = HEAD_DIM,
                             .head_dim_v = HEAD_DIM,
                             .dtype = DT_F16};
    b->kv.page_bytes = (int64_t)b->k->ops->kv_page_bytes(b->k, &b->kv);
    b->weights = aligned_alloc(4096, (size_t)POOL_MIB << 20);
    b->x = floats(TOK_MAX * ROWS);
    b->y = floats(TOK_MAX * ROWS);
    b->a = floats(TOK_MAX * FFN);
    b->b = floats(TOK_MAX * FFN);
    b->logits = floats(VOCAB);
    b->cos_sin = floats(TOK_MAX * HEAD_DIM);
    b->kv.data = aligned_alloc(4096, ((size_t)(n_page * b->kv.page_bytes) + 4095) / 4096 * 4096);
    b->pages = calloc((size_t)n_page, sizeof *b->pages);
    b->pos = calloc(TOK_MAX, sizeof *b->pos);
    if (!b->weights || !b->x || !b->y || !b->a || !b->b || !b->logits || !b->cos_sin ||
        !b->kv.data || !b->pages || !b->pos)
        return false;
    // The content does not matter to the speed: such bytes are small numbers in every type.
    memset(b->weights, 0x11, (size_t)POOL_MIB << 20);
    memset(b->kv.data, 0x11, (size_t)(n_page * b->kv.page_bytes));
    for (int32_t i = 0; i < n_page; i++)
        b->pages[i] = i;
    b->rope = (struct rope){
        .kind = ROPE_NEOX, .n_rot = HEAD_DIM, .theta = 10000, .freq_scale = 1, .attn_factor = 1};
    return true;
}

static void give_memory(struct bench *b)
{
    void *all[] = {b->weights, b->x,       b->y,       b->a,     b->b,
                   b->logits,  b->cos_sin, b->kv.data, b->pages, b->pos};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

err_t rate_measure(const char *isa, int32_t n_threads, struct rates *out, struct err_text *why)
{
    const struct kernels_limits l = {.n_threads = n_threads,
                                     .precision = PRECISION_FAST,
                                     .max_tok = TOK_MAX,
                                     .max_cols = COLS,
                                     .max_rows = VOCAB,
                                     .max_head = HEADS,
                                     .max_head_dim = HEAD_DIM,
                                     .max_ctx = DEPTH + TOK_MAX};
    struct bench b = {0};
    struct rates r = {0};
    err_t e = kernels_open_cpu(isa, &l, &b.k, why);
    if (e) return e;
    if (take_memory(&b)) {
        measure_types(&b, &r);
        measure_rest(&b, &r);
        *out = r;
    } else {
        e = err_say(why, ERR_MEMORY, "no memory to measure speeds in");
    }
    give_memory(&b);
    b.k->ops->close(b.k);
    return e;
}

// ---- keeping

static void write_rates(const struct rates *r, struct buf *out)
{
    buf_printf(out,
               "{\"attn_one_flops_per_s\":%.6g,\"attn_many_flops_per_s\":%.6g,\"product_us\":%.6g,"
               "\"layer_us\":%.6g,\"float_ns\":%.6g,\"seq_us\":%.6g,\"logit_ns\":%.6g,\"types\":{",
               r->attn_one_flops_per_s, r->attn_many_flops_per_s, r->product_us, r->layer_us,
               r->float_ns, r->seq_us, r->logit_ns);
    for (int32_t i = 0; i < r->n_type; i++) {
        buf_printf(out, "%s\"%s\":[", i ? "," : "", dtype_info(r->types[i].dtype)->name);
        for (int p = 0; p < RATES_POINTS; p++)
            buf_printf(out, "%s%.6g", p ? "," : "", r->types[i].mul_per_s[p]);
        buf_str(out, "]");
    }
    buf_str(out, "}}\n");
}

static void read_type(const struct json *j, enum dtype t, struct rates_type *out)
{
    const bool is_list = j->kind == J_ARR && j->arr.n == RATES_POINTS;
    out->dtype = t;
    for (int p = 0; p < RATES_POINTS; p++)
        out->mul_per_s[p] = is_list ? json_number(&j->arr.items[p], 0) : 0;
}

// False: damaged, measured again.
static bool read_rates(const struct json *j, struct rates *out)
{
    struct rates r = {
        .attn_one_flops_per_s = json_number(json_get(j, "attn_one_flops_per_s"), 0),
        .attn_many_flops_per_s = json_number(json_get(j, "attn_many_flops_per_s"), 0),
        .product_us = json_number(json_get(j, "product_us"), -1),
        .layer_us = json_number(json_get(j, "layer_us"), -1),
        .float_ns = json_number(json_get(j, "float_ns"), -1),
        .seq_us = json_number(json_get(j, "seq_us"), -1),
        .logit_ns = json_number(json_get(j, "logit_ns"), -1),
    };
    const struct json *list = json_get(j, "types");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        const struct json *one = json_get(list, dtype_info(types[i])->name);
        if (one) read_type(one, types[i], &r.types[r.n_type++]);
    }
    if (!r.n_type || rates_check(&r, NULL)) return false;
    *out = r;
    return true;
}

static bool kept_rates(const char *dir, const char *key, struct rates *out)
{
    struct buf text = {0};
    struct arena a;
    const struct json *j = NULL;
    arena_init(&a, ARENA_BYTES);
    const bool found = measure_kept(dir, "rates", key, &text) == OK &&
                       json_read(text.data, text.len, &a, &j, NULL, NULL) == OK &&
                       read_rates(j, out);
    arena_fini(&a);
    buf_fini(&text);
    return found;
}

static void keep_rates(const char *dir, const char *key, const struct rates *r)
{
    struct err_text why = {{0}};
    struct buf text = {0};
    write_rates(r, &text);
    if (measure_keep(dir, "rates", key, &text, &why))
        log_warn("measured speeds are not kept: %s", why.s);
    buf_fini(&text);
}

// The backend calls itself "cpu avx2".
static const char *isa_of(const struct measure_ask *ask)
{
    static const char before[] = "cpu ";
    const size_t n = sizeof before - 1;
    return ask->isa && !strncmp(ask->isa, before, n) ? ask->isa + n : NULL;
}

static err_t measure_or_find(const struct probe *p, const struct measure_ask *ask,
                             struct rates *out, struct err_text *why)
{
    char key[MEASURE_KEY_BYTES];
    if (!ask->dir) return rate_measure(isa_of(ask), ask->n_threads, out, why);
    measure_key(p, ask, key);
    if (!ask->refresh && kept_rates(ask->dir, key, out)) return OK;
    const int lock = measure_lock(ask->dir);
    err_t e = OK;
    if (ask->refresh || !kept_rates(ask->dir, key, out)) {
        e = rate_measure(isa_of(ask), ask->n_threads, out, why);
        if (!e) keep_rates(ask->dir, key, out);
    }
    measure_unlock(lock);
    return e;
}

err_t rate_machine(const struct probe *p, const struct measure_ask *ask, struct rates *out,
                   struct err_text *why)
{
    err_t e = measure_or_find(p, ask, out, why);
    if (!e) rates_scale(out, probe_part(p, ask->n_threads));
    return e;
}
