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
    COLS = 1024,      // of what is not a product
    POINT_US = 12000, // for one figure; of the CPU in SWEEPS pieces, seconds apart
    SWEEPS = 2,
    ALL_US = 3000000, // of a device for all; what is left then is taken to be as fast as its like
    PASSES_MAX = 64,  // of them
    HEADS = 16,
    KV_HEADS = 4,
    HEAD_DIM = 64,
    FFN = 3072,
    SEQS = 16, // rows of sequences of their own
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

// Matrices are streamed through as much memory as no cache holds, and are so large that their
// reading and not their beginning is what counts.
struct sizes {
    int32_t rows, cols; // of one matrix
    int32_t many_rows;  // at TOK_MAX rows of input
    int32_t pool_mib;
    int32_t depth; // tokens that attention looks back on
    int32_t chunk; // rows of a prompt
};
static const struct sizes of_cpu = {2048, 1024, 2048 / 8, 64, 1024, 64};
static const struct sizes of_device = {8192, 4096, 8192, 512, 4096, 512};
static const struct sizes of_emulated = {64, 256, 64, 1, 64, 4}; // for tests

struct bench {
    struct kernels *k;
    struct sizes size;
    int64_t end_us; // of a device
    int32_t repeat; // calls in one step of a device
    uint64_t key;   // of the last step
    uint32_t slots[SEQS];
    uint8_t *weights; // size.pool_mib
    float *x, *y;     // (TOK_MAX, size.rows) each
    float *a, *b;     // (TOK_MAX, FFN)
    float *logits;    // (VOCAB)
    struct view matrix;
    int32_t n_matrix, rows, at; // matrices in the pool, rows of input, the next matrix
    struct kv_view kv;
    int32_t n_page;
    int32_t *pages;
    struct attn_run runs[SEQS];
    int32_t n_run;
    struct rope rope;
    int32_t *pos;
    float *cos_sin;
    bool is_finite;
    double one, seqs, many; // seconds of other_work, the least so far
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

// One step of a device, of the same call again and again; recorded, as a decoding step is, where
// all runs have one token.
static double step_of(struct bench *b, bench_fn *fn)
{
    const struct kernels_ops *o = b->k->ops;
    struct kernels_step s = {.pos = b->pos,
                             .runs = {b->runs},
                             .slots = {b->slots},
                             .n_run = {b->n_run},
                             .n_list = 1,
                             .page_tok = PAGE_TOK,
                             .key = b->key};
    for (int32_t i = 0; i < b->n_run; i++) {
        s.n_tok += b->runs[i].n_tok;
        if (b->runs[i].n_tok > 1) s.key = 0;
    }
    const uint64_t before = o->busy_ns(b->k);
    if (!o->enter(b->k, &s))
        for (int32_t i = 0; i < b->repeat; i++)
            fn(b);
    o->leave(b->k);
    return (double)(o->busy_ns(b->k) - before) * 1e-9 / b->repeat;
}

static bool is_late(const struct bench *b)
{
    return b->end_us && clock_now_us() > b->end_us;
}

static double device_time_of(struct bench *b, bench_fn *fn)
{
    double t[PASSES_MAX];
    int n = 0;
    const int64_t begin = clock_now_us();
    b->key++;
    for (int i = 0; i < 2 && !is_late(b); i++)
        step_of(b, fn); // as it comes, which loads what it needs, and recorded
    while (n < 1 || (n < PASSES_MAX && !is_late(b) && clock_now_us() - begin < POINT_US))
        t[n++] = step_of(b, fn);
    qsort(t, (size_t)n, sizeof *t, by_value);
    return t[n / 4];
}

// Seconds of a call, of the fastest quarter: what the machine does when nobody else is at it.
static double time_of(struct bench *b, bench_fn *fn)
{
    if (!b->k->is_host) return device_time_of(b, fn);
    double t[PASSES_MAX];
    int n = 0;
    const int64_t begin = clock_now_us();
    fn(b); // brings in what it needs
    while (n < 3 || (n < PASSES_MAX && clock_now_us() - begin < POINT_US / SWEEPS)) {
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
    b->n_matrix = (int32_t)(((uint64_t)b->size.pool_mib << 20) / (uint64_t)b->matrix.stride[0]);
    b->at = 0;
    return b->n_matrix > 0;
}

static void measure_types(struct bench *b, struct rates *out)
{
    set_matrix(b, DT_Q8_0, 64, 64);
    b->runs[0] = (struct attn_run){.n_tok = 1, .pages = b->pages};
    b->n_run = 1;
    b->rows = 1;
    b->n_matrix = 1;
    out->product_us = time_of(b, some_products) / 8 * 1e6;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        struct rates_type *r = &out->types[out->n_type];
        if (is_late(b) || !set_matrix(b, types[i], b->size.rows, b->size.cols)) continue;
        r->dtype = types[i];
        for (int p = 0; p < RATES_POINTS; p++) {
            if (p && is_late(b)) {
                r->mul_per_s[p] = r->mul_per_s[p - 1];
                continue;
            }
            b->rows = rates_rows[p];
            if (b->rows == TOK_MAX) set_matrix(b, types[i], b->size.many_rows, b->size.cols);
            double s = b->rows > 16 ? time_of(b, one_product) : time_of(b, some_products) / 8;
            const double own = s - out->product_us * 1e-6;
            const double work = (double)b->rows * (double)b->matrix.shape[0] * b->size.cols;
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
    b->runs[0] = (struct attn_run){.n_tok = rows, .pos_from = b->size.depth, .pages = b->pages};
    b->n_run = 1;
    const double seen = b->size.depth + 0.5 * (rows + 1);
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
    o->zero(b->k, b->x, (uint64_t)n * COLS * sizeof *b->x); // keeps the numbers finite
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
    out->attn_many_flops_per_s = attention_rate(b, b->size.chunk);
    b->one = fmin(b->one, other_seconds(b, 1, true));
    b->seqs = fmin(b->seqs, other_seconds(b, SEQS, true));
    b->many = fmin(b->many, other_seconds(b, b->size.chunk, false));
    const double row = fmax(b->many - b->one, 0) / (b->size.chunk - 1);
    out->layer_us = b->one * 1e6;
    out->float_ns = row * 1e9 / floats;
    out->seq_us = fmax((b->seqs - b->one) / (SEQS - 1) - row, 0) * 1e6;
    out->logit_ns = time_of(b, one_choice) * 1e9 / VOCAB;
}

// ---- opening

// n elements in the backend's memory.
static bool take(struct bench *b, uint64_t n, uint64_t size, void *out)
{
    return b->k->ops->take(b->k, n * size, "measuring speeds", out, NULL) == OK;
}

static bool take_floats(struct bench *b, int64_t n, float **out)
{
    float *p = malloc((size_t)n * sizeof *p);
    for (int64_t i = 0; p && i < n; i++)
        p[i] = (float)(i % 251 - 125) / 500;
    const bool ok = p && take(b, (uint64_t)n, sizeof *p, out);
    if (ok) b->k->ops->put(b->k, *out, p, (uint64_t)n * sizeof *p);
    free(p);
    return ok;
}

// The content does not matter to the speed: such bytes are small numbers in every type.
static bool take_bytes(struct bench *b, uint64_t n, void *out)
{
    enum { PIECE = 1 << 20 };
    void *p = malloc(PIECE);
    const bool ok = p && take(b, n, 1, out);
    if (p) memset(p, 0x11, PIECE);
    for (uint64_t at = 0; ok && at < n; at += PIECE)
        b->k->ops->put(b->k, *(char **)out + at, p, n - at < PIECE ? n - at : PIECE);
    free(p);
    return ok;
}

static int32_t max_of(int32_t x, int32_t y)
{
    return x > y ? x : y;
}

// Elements of x and y: of rows of products, and of what other_work does.
static int64_t n_float(const struct bench *b)
{
    return (int64_t)TOK_MAX * max_of(max_of(b->size.rows, b->size.cols), HEADS * HEAD_DIM);
}

static bool take_memory(struct bench *b)
{
    b->n_page = (b->size.depth + TOK_MAX) / PAGE_TOK + 1;
    b->kv = (struct kv_view){.page_tok = PAGE_TOK,
                             .n_head_kv = KV_HEADS,
                             .head_dim = HEAD_DIM,
                             .head_dim_v = HEAD_DIM,
                             .dtype = DT_F16};
    b->kv.page_bytes = (int64_t)b->k->ops->kv_page_bytes(b->k, &b->kv);
    b->pages = calloc((size_t)b->n_page, sizeof *b->pages);
    b->pos = calloc(TOK_MAX, sizeof *b->pos);
    const bool ok =
        b->pages && b->pos && take_floats(b, n_float(b), &b->x) &&
        take_floats(b, n_float(b), &b->y) && take_floats(b, (int64_t)TOK_MAX * FFN, &b->a) &&
        take_floats(b, (int64_t)TOK_MAX * FFN, &b->b) && take_floats(b, VOCAB, &b->logits) &&
        take_floats(b, (int64_t)TOK_MAX * HEAD_DIM, &b->cos_sin) &&
        take_bytes(b, (uint64_t)b->size.pool_mib << 20, &b->weights) &&
        take_bytes(b, (uint64_t)(b->n_page * b->kv.page_bytes), &b->kv.data);
    for (int32_t i = 0; ok && i < b->n_page; i++)
        b->pages[i] = i;
    b->rope = (struct rope){
        .kind = ROPE_NEOX, .n_rot = HEAD_DIM, .theta = 10000, .freq_scale = 1, .attn_factor = 1};
    return ok;
}

static void give_memory(struct bench *b)
{
    const struct {
        void *data;
        uint64_t bytes;
    } all[] = {{b->x, (uint64_t)n_float(b) * 4},
               {b->y, (uint64_t)n_float(b) * 4},
               {b->a, (uint64_t)TOK_MAX * FFN * 4},
               {b->b, (uint64_t)TOK_MAX * FFN * 4},
               {b->logits, (uint64_t)VOCAB * 4},
               {b->cos_sin, (uint64_t)TOK_MAX * HEAD_DIM * 4},
               {b->weights, (uint64_t)b->size.pool_mib << 20},
               {b->kv.data, (uint64_t)(b->n_page * b->kv.page_bytes)}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].data) b->k->ops->give(b->k, all[i].data, all[i].bytes);
    free(b->pages);
    free(b->pos);
}

static struct sizes sizes_of(const struct kernels_about *a)
{
    struct sizes s = a->is_host ? of_cpu : a->is_emulated ? of_emulated : of_device;
    const uint64_t cached = 8 * a->l2_bytes >> 20; // so much does not stay in a device's cache
    if (!a->is_host && !a->is_emulated && cached > (uint64_t)s.pool_mib && cached < 4096)
        s.pool_mib = (int32_t)cached;
    return s;
}

static void keep_greater(double *to, double from)
{
    if (from > *to) *to = from;
}

static void keep_less(double *to, double from)
{
    if (from < *to) *to = from;
}

// What others took of the machine while one sweep was at a figure they hardly took of the next one:
// the better of each is the machine's.
static void keep_better(struct rates *r, const struct rates *more)
{
    for (int32_t i = 0; i < r->n_type && i < more->n_type; i++)
        for (int p = 0; p < RATES_POINTS; p++)
            keep_greater(&r->types[i].mul_per_s[p], more->types[i].mul_per_s[p]);
    keep_greater(&r->attn_one_flops_per_s, more->attn_one_flops_per_s);
    keep_greater(&r->attn_many_flops_per_s, more->attn_many_flops_per_s);
    keep_less(&r->product_us, more->product_us);
    keep_less(&r->logit_ns, more->logit_ns);
    r->layer_us = more->layer_us; // of the least of all sweeps
    r->float_ns = more->float_ns;
    r->seq_us = more->seq_us;
}

static void sweep(struct bench *b, struct rates *out)
{
    measure_rest(b, out);
    measure_types(b, out);
}

err_t rate_measure(const char *device, int32_t n_threads, struct rates *out, struct err_text *why)
{
    struct kernels_about about;
    err_t e = kernels_about(device, &about, why);
    if (e) return e;
    struct bench b = {.size = sizes_of(&about),
                      .repeat = about.is_emulated ? 1 : 16,
                      .one = INFINITY,
                      .seqs = INFINITY,
                      .many = INFINITY};
    const struct kernels_limits l = {.n_threads = n_threads,
                                     .precision = PRECISION_FAST,
                                     .max_tok = TOK_MAX,
                                     .max_cols = max_of(COLS, b.size.cols),
                                     .max_rows = VOCAB,
                                     .max_head = HEADS,
                                     .max_head_dim = HEAD_DIM,
                                     .max_ctx = b.size.depth + TOK_MAX};
    struct rates r = {0};
    e = kernels_open(device, &l, &b.k, why);
    if (e) return e;
    if (take_memory(&b)) {
        if (!about.is_host) b.end_us = clock_now_us() + ALL_US;
        sweep(&b, &r);
        for (int i = 1; about.is_host && i < SWEEPS; i++) {
            struct rates more = {0};
            sweep(&b, &more);
            keep_better(&r, &more);
        }
        e = b.k->ops->status(b.k, why);
    } else {
        e = err_say(why, ERR_MEMORY, "no memory to measure speeds in");
    }
    give_memory(&b);
    b.k->ops->close(b.k);
    if (!e) *out = r;
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

// For kernels_open. The CPU's backend calls itself "cpu avx2".
static const char *device_of(const struct measure_ask *ask)
{
    if (ask->device) return ask->device;
    static const char before[] = "cpu ";
    const size_t n = sizeof before - 1;
    return ask->isa && !strncmp(ask->isa, before, n) ? ask->isa + n : NULL;
}

static err_t measure_or_find(const struct probe *p, const struct measure_ask *ask,
                             struct rates *out, struct err_text *why)
{
    char key[MEASURE_KEY_BYTES];
    if (!ask->dir) return rate_measure(device_of(ask), ask->n_threads, out, why);
    measure_key(p, ask, key);
    if (!ask->refresh && kept_rates(ask->dir, key, out)) return OK;
    const int lock = measure_lock(ask->dir);
    err_t e = OK;
    if (ask->refresh || !kept_rates(ask->dir, key, out)) {
        e = rate_measure(device_of(ask), ask->n_threads, out, why);
        if (!e) keep_rates(ask->dir, key, out);
    }
    measure_unlock(lock);
    return e;
}

err_t rate_machine(const struct probe *p, const struct measure_ask *ask, struct rates *out,
                   struct err_text *why)
{
    err_t e = measure_or_find(p, ask, out, why);
    if (!e && !ask->device) rates_scale(out, probe_part(p, ask->n_threads));
    return e;
}
