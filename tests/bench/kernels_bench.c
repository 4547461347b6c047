// kernels_bench: speed of the products against the measured peaks of this machine, and the time of
// one token of a model's shape from the kernels alone.
//
//     kernels_bench [THREADS...]   (default 1 2)
#include "kernels/kernels.h"
#include "proto/base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const enum dtype types[] = {DT_Q4_0, DT_Q4_1, DT_Q5_0, DT_Q5_1, DT_Q8_0, DT_Q4_K,
                                   DT_Q5_K, DT_Q6_K, DT_F16,  DT_BF16, DT_F32};

static void *need(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) exit(2);
    memset(p, 0x11, bytes);
    return p;
}

static struct kernels *open_with(int threads, enum precision p)
{
    struct kernels_limits l = {.n_threads = threads, .precision = p, .max_tok = 512,
                               .max_cols = 8192, .max_rows = 1 << 20, .max_head = 64,
                               .max_head_dim = 256, .max_ctx = 8192};
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
    struct gemm_job job = {w, NULL, y, w->shape[0]};
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

// One token's worth of kernels at depth `ctx`, weights of every layer distinct.
static void bench_step(int threads, const struct shape *s, int m, int ctx)
{
    struct kernels *k = open_with(threads, PRECISION_FAST);
    const struct kernels_ops *o = k->ops;
    int qd = s->heads * s->hd, kd = s->kv * s->hd;
    struct view(*w)[7] = calloc((size_t)s->layers, sizeof *w);
    struct view head = weight(k, s->head_t, s->vocab, s->dim);
    double bytes = (double)o->weight_bytes(k, s->head_t, s->vocab, s->dim);
    const int shapes[7][2] = {{qd, s->dim},     {kd, s->dim},     {kd, s->dim},    {s->dim, qd},
                              {s->ffn, s->dim}, {s->ffn, s->dim}, {s->dim, s->ffn}};
    for (int l = 0; l < s->layers; l++)
        for (int j = 0; j < 7; j++) {
            w[l][j] = weight(k, s->t, shapes[j][0], shapes[j][1]);
            bytes += (double)o->weight_bytes(k, s->t, shapes[j][0], shapes[j][1]);
        }
    size_t widest = (size_t)(m * (s->ffn > qd ? s->ffn : qd)) * sizeof(float);
    float *x = need(widest), *h = need(widest), *q = need(widest), *kk = need(widest),
          *v = need(widest), *a = need(widest), *logits = need((size_t)s->vocab * sizeof(float)),
          *norm = need(widest), *cs = need(widest);
    struct kv_view kv = {.page_tok = 64, .n_head_kv = s->kv, .head_dim = s->hd, .dtype = DT_F16};
    kv.page_bytes = (int64_t)o->kv_page_bytes(k, 64, s->kv, s->hd, DT_F16);
    int n_page = (ctx + m) / 64 + 1;
    kv.data = need((size_t)(n_page * kv.page_bytes));
    int32_t *pages = need((size_t)n_page * 4), *pos = need((size_t)m * 4);
    for (int i = 0; i < n_page; i++)
        pages[i] = i;
    for (int i = 0; i < m; i++)
        pos[i] = ctx + i;
    struct attn_run run = {0, m, ctx, pages};
    struct rope rope = {.kind = ROPE_NEOX, .n_rot = s->hd, .theta = 10000, .freq_scale = 1,
                        .attn_factor = 1};
    struct attn_args aa = {.q = q, .out = a, .n_head = s->heads, .kv = kv, .runs = &run, .n_run = 1,
                           .scale = 0.1f};
    int32_t id;
    double t[32], part[4] = {0};
    for (int it = 0; it < 12; it++) {
        int64_t t0 = clock_now_us(), t1;
        o->rope_table(k, &rope, pos, m, cs);
        for (int l = 0; l < s->layers; l++) {
            struct view *lw = w[l];
            o->rms_norm(k, x, norm, m, s->dim, 1e-5f, h);
            struct gemm_job qkv[3] = {{&lw[0], NULL, q, qd}, {&lw[1], NULL, kk, kd},
                                      {&lw[2], NULL, v, kd}};
            o->gemm(k, h, m, s->dim, qkv, 3);
            t1 = clock_now_us();
            o->rope(k, &rope, cs, m, s->heads, s->hd, q);
            o->rope(k, &rope, cs, m, s->kv, s->hd, kk);
            o->kv_store(k, &kv, &run, 1, kk, v);
            o->attention(k, &aa);
            part[0] += (double)(clock_now_us() - t1);
            struct gemm_job out = {&lw[3], NULL, h, s->dim};
            o->gemm(k, a, m, qd, &out, 1);
            o->add(k, x, h, (int64_t)m * s->dim);
            o->rms_norm(k, x, norm, m, s->dim, 1e-5f, h);
            struct gemm_job gu[2] = {{&lw[4], NULL, q, s->ffn}, {&lw[5], NULL, kk, s->ffn}};
            o->gemm(k, h, m, s->dim, gu, 2);
            t1 = clock_now_us();
            o->glu(k, GLU_SILU, q, kk, (int64_t)m * s->ffn, q);
            part[1] += (double)(clock_now_us() - t1);
            struct gemm_job down = {&lw[6], NULL, h, s->dim};
            o->gemm(k, q, m, s->ffn, &down, 1);
            o->add(k, x, h, (int64_t)m * s->dim);
            memset(x, 0, widest);
        }
        t1 = clock_now_us();
        struct gemm_job hj = {&head, NULL, logits, s->vocab};
        o->gemm(k, x, 1, s->dim, &hj, 1);
        o->argmax(k, logits, 1, s->vocab, &id);
        part[2] += (double)(clock_now_us() - t1);
        t[it] = (double)(clock_now_us() - t0);
    }
    qsort(t, 12, sizeof *t, by_value);
    printf("%-22s %d threads, m %3d at %4d: %8.0f us, %6.1f tok/s, %5.1f GB/s "
           "(attention %.0f, glu %.0f, head %.0f us)\n",
           s->name, threads, m, ctx, t[6], m * 1e6 / t[6], bytes / t[6] / 1e3, part[0] / 12,
           part[1] / 12, part[2] / 12);
    for (int l = 0; l < s->layers; l++)
        for (int j = 0; j < 7; j++)
            free(w[l][j].data);
    void *all[] = {w, head.data, x, h, q, kk, v, a, logits, norm, cs, kv.data, pages, pos};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    o->close(k);
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
