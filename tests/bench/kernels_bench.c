// kernels_bench: speed of the products against the measured peaks of this machine, and the time of
// one token of a model's shape from the kernels alone.
//
//     kernels_bench [THREADS...]   (default 1 2)
#include "kernels/kernels.h"
#include "proto/base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const enum dtype types[] = {
    DT_Q4_0,    DT_Q4_1,   DT_Q5_0,   DT_Q5_1,  DT_Q8_0,  DT_Q2_K, DT_Q3_K, DT_Q4_K, DT_Q5_K,
    DT_Q6_K,    DT_IQ4_NL, DT_IQ4_XS, DT_MXFP4, DT_NVFP4, DT_INT4, DT_INT8, DT_FP8,  DT_TQ2_0,
    DT_IQ2_XXS, DT_IQ3_S,  DT_IQ1_S,  DT_TQ1_0, DT_F16,   DT_BF16, DT_F32};

static void *need(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) exit(2);
    memset(p, 0x11, bytes);
    return p;
}

static struct kernels *open_with(int threads, enum precision p)
{
    struct kernels_limits l = {.n_threads = threads,
                               .precision = p,
                               .max_tok = 512,
                               .max_cols = 8192,
                               .max_rows = 1 << 20,
                               .max_head = 64,
                               .max_head_dim = 256,
                               .max_ctx = 8192};
    struct kernels *k;
    if (kernels_open_cpu(NULL, &l, &k, NULL)) exit(2);
    return k;
}

// The content does not matter to the speed: 0x11 bytes are small positive numbers in every type.
static struct view weight(struct kernels *k, enum dtype t, int64_t rows, int64_t cols)
{
    struct view v = {.dtype = t, .layout = LAYOUT_PACKED, .n_dim = 2, .shape = {rows, cols}};
    v.data = need(k->ops->weight_bytes(k, t, rows, cols));
    return v;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Median seconds of 5 or more calls.
static double time_gemm(struct kernels *k, const struct view *w, int m, const float *x, float *y)
{
    double t[64];
    int n = 0;
    struct gemm_job job = {w, NULL, y, w->shape[0], false};
    int64_t begin = clock_now_us();
    while (n < 5 || (n < 64 && clock_now_us() - begin < 400000)) {
        int64_t a = clock_now_us();
        k->ops->gemm(k, x, m, (int32_t)w->shape[1], &job, 1);
        t[n++] = (double)(clock_now_us() - a) * 1e-6;
    }
    qsort(t, (size_t)n, sizeof *t, by_value);
    return t[n / 2];
}

static void bench_gemm(int threads, enum precision prec, const struct kernels_peaks *peak)
{
    struct kernels *k = open_with(threads, prec);
    float *x = need(512 * 8192 * sizeof(float)), *y = need(512 * 8192 * sizeof(float));
    for (int i = 0; i < 512 * 8192; i++)
        x[i] = (float)(i % 255 - 127) / 64;
    printf("%d threads, %s\n", threads, prec == PRECISION_FAST ? "fast" : "exact");
    printf("type   M=1 GB/s  of read    M=4 GOP/s   M=8      M=512    of peak\n");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        const struct dtype_info *d = dtype_info(types[i]);
        int64_t cols = 2048, rows = (int64_t)(200e6 / (cols * d->bytes / d->block)) / 64 * 64;
        struct view w = weight(k, types[i], rows, cols), small = w;
        float *wide = need((size_t)rows * sizeof(float));
        double bytes = (double)k->ops->weight_bytes(k, types[i], rows, cols);
        double s = time_gemm(k, &w, 1, x, wide), ops[3];
        const int ms[] = {4, 8, 512};
        for (int j = 0; j < 3; j++) {
            small.shape[0] = 1024;
            ops[j] = 2.0 * 1024 * 2048 * ms[j] / time_gemm(k, &small, ms[j], x, y);
        }
        bool is_int = prec == PRECISION_FAST && d->is_quantised;
        double top = is_int ? peak->int8_ops_per_s : peak->f32_flops_per_s;
        printf("%-6s %8.1f  %5.0f %%  %9.0f  %9.0f  %9.0f   %5.0f %%\n", d->name, bytes / s / 1e9,
               100 * bytes / s / peak->read_bytes_per_s, ops[0] / 1e9, ops[1] / 1e9, ops[2] / 1e9,
               100 * ops[2] / top);
        free(w.data);
        free(wide);
    }
    free(x);
    free(y);
    k->ops->close(k);
}

struct shape {
    const char *name;
    enum dtype t, head_t;
    int dim, ffn, vocab, layers, heads, kv, hd;
};

// One token's worth of kernels, or a prompt's, at a depth; weights of every layer distinct.
struct step {
    const struct shape *s;
    struct kernels *k;
    int m;
    struct view (*w)[7], head; // q k v out gate up down
    double bytes;
    float *x, *h, *q, *key, *v, *a, *logits, *norm, *cos_sin;
    int32_t *pages, *pos;
    struct attn_run run;
    struct attn_args attn;
    struct rope rope;
    double attn_us, glu_us, head_us;
};

static void step_open(struct step *t, int ctx)
{
    const struct shape *s = t->s;
    const struct kernels_ops *o = t->k->ops;
    const int qd = s->heads * s->hd, kd = s->kv * s->hd, n_page = (ctx + t->m) / 64 + 1;
    const int shapes[7][2] = {{qd, s->dim},     {kd, s->dim},     {kd, s->dim},    {s->dim, qd},
                              {s->ffn, s->dim}, {s->ffn, s->dim}, {s->dim, s->ffn}};
    t->w = need((size_t)s->layers * sizeof *t->w);
    t->head = weight(t->k, s->head_t, s->vocab, s->dim);
    t->bytes = (double)o->weight_bytes(t->k, s->head_t, s->vocab, s->dim);
    for (int l = 0; l < s->layers; l++)
        for (int j = 0; j < 7; j++) {
            t->w[l][j] = weight(t->k, s->t, shapes[j][0], shapes[j][1]);
            t->bytes += (double)o->weight_bytes(t->k, s->t, shapes[j][0], shapes[j][1]);
        }
    float **all[] = {&t->x, &t->h, &t->q, &t->key, &t->v, &t->a, &t->norm, &t->cos_sin};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        *all[i] = need((size_t)(t->m * (s->ffn > qd ? s->ffn : qd)) * sizeof(float));
    t->logits = need((size_t)s->vocab * sizeof(float));
    t->pages = need((size_t)n_page * 4);
    t->pos = need((size_t)t->m * 4);
    for (int i = 0; i < n_page; i++)
        t->pages[i] = i;
    for (int i = 0; i < t->m; i++)
        t->pos[i] = ctx + i;
    t->run = (struct attn_run){0, t->m, ctx, t->pages};
    t->attn = (struct attn_args){
        .q = t->q, .out = t->a, .n_head = s->heads, .runs = &t->run, .n_run = 1, .scale = 0.1f};
    t->attn.kv = (struct kv_view){.page_tok = 64,
                                  .n_head_kv = s->kv,
                                  .head_dim = s->hd,
                                  .head_dim_v = s->hd,
                                  .dtype = DT_F16};
    t->attn.kv.page_bytes = (int64_t)o->kv_page_bytes(t->k, &t->attn.kv);
    t->attn.kv.data = need((size_t)(n_page * t->attn.kv.page_bytes));
    t->rope = (struct rope){
        .kind = ROPE_NEOX, .n_rot = s->hd, .theta = 10000, .freq_scale = 1, .attn_factor = 1};
}

static void step_layer(struct step *t, struct view *w)
{
    const struct shape *s = t->s;
    const struct kernels_ops *o = t->k->ops;
    const int m = t->m, qd = s->heads * s->hd, kd = s->kv * s->hd;
    o->rms_norm(t->k, t->x, t->norm, m, s->dim, 1e-5f, t->h);
    struct gemm_job qkv[3] = {{&w[0], NULL, t->q, qd, false},
                              {&w[1], NULL, t->key, kd, false},
                              {&w[2], NULL, t->v, kd, false}};
    o->gemm(t->k, t->h, m, s->dim, qkv, 3);
    int64_t from = clock_now_us();
    o->rope(t->k, &t->rope, t->cos_sin, m, s->heads, s->hd, t->q);
    o->rope(t->k, &t->rope, t->cos_sin, m, s->kv, s->hd, t->key);
    o->kv_store(t->k, &t->attn.kv, &t->run, 1, t->key, t->v);
    o->attention(t->k, &t->attn);
    t->attn_us += (double)(clock_now_us() - from);
    struct gemm_job out = {&w[3], NULL, t->h, s->dim, false};
    o->gemm(t->k, t->a, m, qd, &out, 1);
    o->add(t->k, t->x, t->h, (int64_t)m * s->dim);
    o->rms_norm(t->k, t->x, t->norm, m, s->dim, 1e-5f, t->h);
    struct gemm_job up[2] = {{&w[4], NULL, t->q, s->ffn, false},
                             {&w[5], NULL, t->key, s->ffn, false}};
    o->gemm(t->k, t->h, m, s->dim, up, 2);
    from = clock_now_us();
    const struct glu silu = {.kind = GLU_SILU};
    o->glu(t->k, &silu, t->q, t->key, (int64_t)m * s->ffn, t->q);
    t->glu_us += (double)(clock_now_us() - from);
    struct gemm_job down = {&w[6], NULL, t->h, s->dim, false};
    o->gemm(t->k, t->q, m, s->ffn, &down, 1);
    o->add(t->k, t->x, t->h, (int64_t)m * s->dim);
    memset(t->x, 0, (size_t)(m * s->dim) * sizeof(float)); // keeps the numbers finite
}

static void bench_step(int threads, const struct shape *s, int m, int ctx)
{
    enum { PASSES = 12 };
    struct step t = {.s = s, .k = open_with(threads, PRECISION_FAST), .m = m};
    const struct kernels_ops *o = t.k->ops;
    double us[PASSES];
    step_open(&t, ctx);
    for (int i = 0; i < PASSES; i++) {
        int32_t id;
        int64_t from = clock_now_us(), head_from;
        o->rope_table(t.k, &t.rope, t.pos, m, t.cos_sin);
        for (int l = 0; l < s->layers; l++)
            step_layer(&t, t.w[l]);
        head_from = clock_now_us();
        struct gemm_job head = {&t.head, NULL, t.logits, s->vocab, false};
        o->gemm(t.k, t.x, 1, s->dim, &head, 1);
        o->argmax(t.k, t.logits, 1, s->vocab, &id);
        us[i] = (double)(clock_now_us() - from);
        t.head_us += (double)(clock_now_us() - head_from);
    }
    qsort(us, PASSES, sizeof *us, by_value);
    double mid = us[PASSES / 2];
    printf("%-20s %d threads, %3d rows at %4d: %8.0f us (best %.0f), %6.1f tok/s, %4.1f GB/s; "
           "attention %.0f, glu %.0f, head %.0f us\n",
           s->name, threads, m, ctx, mid, us[0], m * 1e6 / mid, t.bytes / mid / 1e3,
           t.attn_us / PASSES, t.glu_us / PASSES, t.head_us / PASSES);
    for (int i = 0; i < s->layers * 7; i++)
        free(t.w[i / 7][i % 7].data);
    void *all[] = {t.w, t.head.data, t.x,    t.h,       t.q,     t.key, t.v,
                   t.a, t.logits,    t.norm, t.cos_sin, t.pages, t.pos, t.attn.kv.data};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    o->close(t.k);
}

int main(int argc, char **argv)
{
    static const struct shape shapes[] = {
        {"smollm2-135m q4_1", DT_Q4_1, DT_Q8_0, 576, 1536, 49152, 30, 9, 3, 64},
        {"gemma3-270m q5_0", DT_Q5_0, DT_Q8_0, 640, 2048, 262144, 18, 4, 1, 256},
    };
    const int def[] = {1, 2};
    for (int i = 0; i < (argc > 1 ? argc - 1 : 2); i++) {
        int threads = argc > 1 ? atoi(argv[i + 1]) : def[i];
        struct kernels_peaks p;
        if (kernels_measure_peaks(threads, 300, &p)) return 2;
        printf("%d threads: read %.1f GB/s, int8 %.0f GOP/s, f32 %.0f GFLOP/s\n", threads,
               p.read_bytes_per_s / 1e9, p.int8_ops_per_s / 1e9, p.f32_flops_per_s / 1e9);
        bench_gemm(threads, PRECISION_FAST, &p);
        if (threads == 1) bench_gemm(threads, PRECISION_EXACT, &p);
        for (int s = 0; s < 2; s++) {
            bench_step(threads, &shapes[s], 1, 16);
            bench_step(threads, &shapes[s], 1, 1000);
            bench_step(threads, &shapes[s], 512, 0);
        }
    }
    return 0;
}
