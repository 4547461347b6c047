// ops_bench: speed of the operations that are not products of weights, at the sizes of real models,
// beside the measured peaks of this machine.
//
//     ops_bench [THREADS...]   (default 1 2)
#include "kernels/kernels.h"
#include "proto/base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static float *floats(int64_t n)
{
    float *p = aligned_alloc(64, ((size_t)n * sizeof *p + 63) / 64 * 64);
    if (!p) exit(2);
    for (int64_t i = 0; i < n; i++)
        p[i] = (float)(i % 251 - 125) / 500;
    return p;
}

typedef void bench_fn(struct kernels *k, void *arg);

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Best seconds of 3 or more calls: the least disturbed.
static double best_of(struct kernels *k, bench_fn *fn, void *arg)
{
    double t[64];
    int n = 0;
    int64_t begin = clock_now_us();
    while (n < 3 || (n < 64 && clock_now_us() - begin < 200000)) {
        int64_t a = clock_now_us();
        fn(k, arg);
        t[n++] = (double)(clock_now_us() - a) * 1e-6;
    }
    qsort(t, (size_t)n, sizeof *t, by_value);
    return t[0];
}

struct attn_shape {
    const char *name;
    int n_head, n_kv, hd, hd_v;
    bool v_in_k;
};

static void run_attention(struct kernels *k, void *arg)
{
    k->ops->attention(k, arg);
}

static void bench_attention(struct kernels *k, const struct kernels_peaks *peak,
                            const struct attn_shape *s, int rows, int ctx)
{
    struct kv_view kv = {.page_tok = 64,
                         .n_head_kv = s->n_kv,
                         .head_dim = s->hd,
                         .head_dim_v = s->hd_v,
                         .v_in_k = s->v_in_k,
                         .dtype = DT_F16};
    const int n_page = (ctx + rows) / 64 + 1;
    kv.page_bytes = (int64_t)k->ops->kv_page_bytes(k, &kv);
    kv.data = floats(n_page * kv.page_bytes / 4);
    memset(kv.data, 0x11, (size_t)(n_page * kv.page_bytes));
    int32_t *pages = malloc((size_t)n_page * sizeof *pages);
    if (!pages) exit(2);
    for (int i = 0; i < n_page; i++)
        pages[i] = i;
    struct attn_run run = {0, rows, ctx, pages};
    struct attn_args a = {.q = floats((int64_t)rows * s->n_head * s->hd),
                          .out = floats((int64_t)rows * s->n_head * s->hd_v),
                          .n_head = s->n_head,
                          .kv = kv,
                          .runs = &run,
                          .n_run = 1,
                          .scale = 0.1f};
    double t = best_of(k, run_attention, &a);
    double pairs = ((double)ctx + 0.5 * (rows + 1)) * rows * s->n_head;
    double flops = 2 * pairs * (s->hd + s->hd_v), bytes = (double)n_page * (double)kv.page_bytes;
    printf("  attention %-22s %4d rows at %6d: %9.0f us  %6.1f GFLOP/s (%2.0f %%)  %5.1f GB/s "
           "(%2.0f %%)\n",
           s->name, rows, ctx, t * 1e6, flops / t / 1e9, 100 * flops / t / peak->f32_flops_per_s,
           bytes / t / 1e9, 100 * bytes / t / peak->read_bytes_per_s);
    free(kv.data);
    free(pages);
    free((void *)(uintptr_t)a.q);
    free(a.out);
}

struct delta_bench {
    struct delta_args a;
    struct conv_args c;
};

static void run_delta(struct kernels *k, void *arg)
{
    struct delta_bench *b = arg;
    k->ops->delta(k, &b->a);
}
static void run_conv(struct kernels *k, void *arg)
{
    struct delta_bench *b = arg;
    k->ops->conv(k, &b->c);
}

static void bench_delta(struct kernels *k, const struct kernels_peaks *peak, int rows)
{
    enum { KH = 16, VH = 32, DIM = 128, CHANNELS = (2 * KH + VH) * DIM, TAPS = 4 };
    const struct attn_run run = {0, rows, 0, NULL};
    const uint32_t slot = 0;
    float *x = floats((int64_t)rows * CHANNELS), *out = floats((int64_t)rows * CHANNELS);
    float *ab = floats(rows * VH), *head = floats(VH), *w = floats(CHANNELS * TAPS);
    float *state = floats(VH * DIM * DIM), *past = floats(CHANNELS * (TAPS - 1));
    struct delta_bench b = {.a = {.q = x,
                                  .k = x + KH * DIM,
                                  .v = x + 2 * KH * DIM,
                                  .ld = CHANNELS,
                                  .a = ab,
                                  .b = ab,
                                  .a_neg = head,
                                  .dt_bias = head,
                                  .n_head_k = KH,
                                  .n_head_v = VH,
                                  .dim_k = DIM,
                                  .dim_v = DIM,
                                  .runs = &run,
                                  .n_run = 1,
                                  .slots = &slot,
                                  .state = state,
                                  .out = out},
                            .c = {.x = x,
                                  .w = w,
                                  .n_channel = CHANNELS,
                                  .n_tap = TAPS,
                                  .runs = &run,
                                  .n_run = 1,
                                  .slots = &slot,
                                  .state = past,
                                  .out = out}};
    for (int h = 0; h < VH; h++)
        head[h] = -0.5f;
    double t = best_of(k, run_delta, &b);
    // Three multiply-adds and one product for each element of the state.
    double flops = 7.0 * rows * VH * DIM * DIM, bytes = 2.0 * VH * DIM * DIM * 4;
    printf("  delta 32 x 128 x 128, %3d rows: %8.0f us  %6.1f GFLOP/s (%2.0f %%)  %5.1f GB/s "
           "(%2.0f %%)\n",
           rows, t * 1e6, flops / t / 1e9, 100 * flops / t / peak->f32_flops_per_s, bytes / t / 1e9,
           100 * bytes / t / peak->read_bytes_per_s);
    t = best_of(k, run_conv, &b);
    printf("  conv %d x %d, %3d rows: %8.0f us\n", CHANNELS, TAPS, rows, t * 1e6);
    float *all[] = {x, out, ab, head, w, state, past};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

struct moe_bench {
    struct route_args r;
    const float *y;
    int n_tok, dim;
    int32_t *at;
    float *out;
};

static void run_route(struct kernels *k, void *arg)
{
    struct moe_bench *b = arg;
    k->ops->route(k, &b->r, b->n_tok);
}
static void run_combine(struct kernels *k, void *arg)
{
    struct moe_bench *b = arg;
    k->ops->combine(k, b->y, b->at, b->r.weights, b->n_tok, b->r.n_used, b->dim, b->out);
}

static void bench_moe(struct kernels *k, int rows)
{
    enum { EXPERTS = 256, USED = 8, DIM = 2048 };
    int32_t *at = malloc((size_t)(rows * USED) * sizeof *at);
    int32_t *ids = malloc((size_t)(rows * USED) * sizeof *ids);
    float *logits = floats(rows * EXPERTS), *weights = floats(rows * USED);
    float *y = floats((int64_t)rows * USED * DIM), *out = floats(rows * DIM);
    if (!at || !ids) exit(2);
    for (int i = 0; i < rows * USED; i++)
        at[i] = i;
    struct moe_bench b = {.r = {.logits = logits,
                                .n_expert = EXPERTS,
                                .n_used = USED,
                                .normalise = true,
                                .scale = 1,
                                .ids = ids,
                                .weights = weights},
                          .y = y,
                          .n_tok = rows,
                          .dim = DIM,
                          .at = at,
                          .out = out};
    double r = best_of(k, run_route, &b), c = best_of(k, run_combine, &b);
    printf("  route %d of %d, %3d rows: %6.0f us; combine to %d: %6.0f us\n", USED, EXPERTS, rows,
           r * 1e6, DIM, c * 1e6);
    free(at);
    free(ids);
    free(logits);
    free(weights);
    free(y);
    free(out);
}

static void bench_threads(int threads)
{
    static const struct attn_shape shapes[] = {
        {"gqa 32/8 x 128", 32, 8, 128, 128, false},  {"gqa 64/8 x 64", 64, 8, 64, 64, false},
        {"gqa 16/2 x 256", 16, 2, 256, 256, false},  {"mla 128 x 576/512", 128, 1, 576, 512, true},
        {"mla 16 x 576/512", 16, 1, 576, 512, true},
    };
    const struct kernels_limits l = {.n_threads = threads,
                                     .precision = PRECISION_FAST,
                                     .max_tok = 512,
                                     .max_cols = 64,
                                     .max_rows = 64,
                                     .max_head = 128,
                                     .max_head_dim = 576,
                                     .max_ctx = 1 << 17};
    struct kernels_peaks p;
    struct kernels *k;
    if (kernels_measure_peaks(threads, 200, &p) || kernels_open_cpu(NULL, &l, &k, NULL)) exit(2);
    printf("%d threads: read %.1f GB/s, f32 %.0f GFLOP/s\n", threads, p.read_bytes_per_s / 1e9,
           p.f32_flops_per_s / 1e9);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        bench_attention(k, &p, &shapes[i], 1, 16000);
        bench_attention(k, &p, &shapes[i], 64, 4000);
    }
    bench_attention(k, &p, &shapes[0], 1, 200);
    bench_attention(k, &p, &shapes[0], 512, 0);
    bench_delta(k, &p, 1);
    bench_delta(k, &p, 256);
    bench_moe(k, 1);
    bench_moe(k, 256);
    k->ops->close(k);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        bench_threads(atoi(argv[i]));
    if (argc == 1) {
        bench_threads(1);
        bench_threads(2);
    }
    return 0;
}
