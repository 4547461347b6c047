// cuda_products_bench: products on a device at the sizes of real models: time, bytes of weights and
// floating-point operations per second, and the share of what a copy on the device reaches (read
// and written bytes together). Each product reads other weights than the one before, more than the
// caches hold; they are recorded and repeated, as a step's are.
//
//     cuda_products_bench [--device cuda:N] [--tiny]   (tiny: to see that it works)
#include "kernels/kernels.h"
#include "proto/base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 5 };

struct bench {
    struct kernels *k;
    bool tiny;
    double copy_bytes_per_s;
    float *x, *y; // (512, 14336), (512, 128256)
    uint64_t key;
};

static void *take(struct bench *b, uint64_t bytes)
{
    struct err_text why;
    void *p;
    if (b->k->ops->take(b->k, bytes, "a benchmark", &p, &why)) {
        printf("%s\n", why.s);
        exit(2);
    }
    return p;
}

// Numbers that keep the units as busy as real ones do.
static void fill(void *p, uint64_t bytes)
{
    uint64_t r = 88172645463325252u;
    for (uint64_t i = 0; i + 4 <= bytes; i += 4) {
        r ^= r >> 12;
        r ^= r << 25;
        r ^= r >> 27;
        const uint32_t v = (uint32_t)(r * 0x2545f4914f6cdd1d >> 32);
        memcpy((char *)p + i, &v, 4);
    }
}

static void wait_all(struct bench *b)
{
    float one;
    b->k->ops->get(b->k, &one, b->y, sizeof one);
}

typedef void work_fn(struct bench *b, void *arg);

// Least seconds of a few rounds of `work`, recorded in the first.
static double seconds_of(struct bench *b, work_fn *work, void *arg, int n_tok)
{
    struct kernels_step s = {.n_tok = n_tok, .page_tok = 16, .key = ++b->key};
    double best = 1e9;
    for (int i = 0; i < ROUNDS + 2; i++) {
        wait_all(b);
        const int64_t from = clock_now_ns();
        if (!b->k->ops->enter(b->k, &s)) {
            work(b, arg);
            b->k->ops->leave(b->k);
        }
        wait_all(b);
        const double t = (double)(clock_now_ns() - from) * 1e-9;
        if (i >= 2 && t < best) best = t;
    }
    return best;
}

struct copy_work {
    float *from, *to;
    int64_t n;
};
static void copy_once(struct bench *b, void *arg)
{
    const struct copy_work *w = arg;
    b->k->ops->copy(b->k, w->to, w->n, w->from, w->n, 1, w->n);
}

static void measure_copy(struct bench *b)
{
    struct copy_work w = {.n = b->tiny ? 1 << 16 : 1 << 28};
    w.from = take(b, (uint64_t)w.n * 4);
    w.to = take(b, (uint64_t)w.n * 4);
    const double t = seconds_of(b, copy_once, &w, 1);
    b->copy_bytes_per_s = 2.0 * 4.0 * (double)w.n / t;
    printf("# copy %.0f GB/s (read and written)\n", b->copy_bytes_per_s / 1e9);
    b->k->ops->give(b->k, w.from, (uint64_t)w.n * 4);
    b->k->ops->give(b->k, w.to, (uint64_t)w.n * 4);
}

struct product_work {
    struct view *w;
    int n, n_tok;
};
static void products_once(struct bench *b, void *arg)
{
    const struct product_work *p = arg;
    for (int i = 0; i < p->n; i++) {
        const struct gemm_job job = {&p->w[i], NULL, b->y, p->w[i].shape[0], false};
        b->k->ops->gemm(b->k, b->x, p->n_tok, (int32_t)p->w[i].shape[1], &job, 1);
    }
}

static void bench_products(struct bench *b, enum dtype t, int64_t rows, int64_t cols)
{
    static const int toks[] = {1, 4, 8, 16, 32, 64, 512};
    const struct kernels_ops *ops = b->k->ops;
    const uint64_t bytes = (ops->weight_bytes(b->k, t, rows, cols) + 255) / 256 * 256;
    const uint64_t most = b->tiny ? bytes : (uint64_t)512 << 20;
    const int n = bytes > most ? 1 : (int)(most / bytes > 64 ? 64 : most / bytes);
    const uint64_t file = (uint64_t)rows * dtype_row_bytes(t, (uint64_t)cols);
    char *data = take(b, bytes * (uint64_t)n);
    struct view *w = calloc((size_t)n, sizeof *w);
    void *src = malloc(file);
    if (!src || !w) exit(2);
    fill(src, file);
    for (int i = 0; i < n; i++) {
        w[i] = (struct view){.dtype = t, .layout = LAYOUT_PACKED, .n_dim = 2};
        w[i].data = data + bytes * (uint64_t)i;
        w[i].shape[0] = rows;
        w[i].shape[1] = cols;
        if (i == 0)
            ops->weight_pack(b->k, src, 0, rows, &w[0]);
        else
            ops->copy(b->k, w[i].data, 0, w[0].data, 0, 1, (int64_t)bytes / 4);
    }
    for (size_t i = 0; i < sizeof toks / sizeof *toks; i++) {
        struct product_work p = {w, n, toks[i]};
        if (b->tiny && toks[i] > 16) break;
        const double s = seconds_of(b, products_once, &p, toks[i]) / n;
        printf("%s,%lld,%lld,%d,%.2f,%.1f,%.3f,%.2f\n", dtype_info(t)->name, (long long)rows,
               (long long)cols, toks[i], s * 1e6, (double)bytes / s / 1e9,
               (double)bytes / s / b->copy_bytes_per_s,
               2e-12 * (double)rows * (double)cols * toks[i] / s);
        fflush(stdout);
    }
    free(src);
    free(w);
    wait_all(b);
    ops->give(b->k, data, bytes * (uint64_t)n);
}

int main(int argc, char **argv)
{
    static const enum dtype types[] = {DT_Q4_K,   DT_Q4_0, DT_INT4, DT_MXFP4, DT_NVFP4,
                                       DT_IQ4_XS, DT_Q6_K, DT_Q8_0, DT_FP8,   DT_BF16};
    static const int64_t shapes[][2] = {{4096, 4096}, {14336, 4096}, {4096, 14336},
                                        {2048, 2048}, {8192, 2048},  {128256, 4096}};
    struct bench b = {0};
    const char *device = "cuda";
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--tiny"))
            b.tiny = true;
        else if (!strcmp(argv[i], "--device") && i + 1 < argc)
            device = argv[++i];
    }
    const struct kernels_limits limits = {.n_threads = 1,
                                          .precision = PRECISION_FAST,
                                          .max_tok = b.tiny ? 16 : 512,
                                          .max_cols = b.tiny ? 512 : 14336,
                                          .max_rows = b.tiny ? 512 : 128256,
                                          .max_head = 1,
                                          .max_head_dim = 2,
                                          .max_ctx = 16};
    struct err_text why;
    if (kernels_open(device, &limits, &b.k, &why)) {
        printf("%s\n", why.s);
        return 77;
    }
    const uint64_t n_x = (uint64_t)limits.max_tok * (uint64_t)limits.max_cols;
    float *x = calloc(n_x, sizeof *x);
    if (!x) return 2;
    for (uint64_t i = 0; i < n_x; i++)
        x[i] = (float)(i * 7919 % 2003) / 1001 - 1;
    b.x = take(&b, n_x * 4);
    b.y = take(&b, (uint64_t)limits.max_tok * (uint64_t)limits.max_rows * 4);
    b.k->ops->put(b.k, b.x, x, n_x * 4);
    measure_copy(&b);
    printf("type,rows,cols,n_tok,us,weights_gb_per_s,share_of_copy,tflops\n");
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (size_t i = 0; i < (b.tiny ? 1 : sizeof shapes / sizeof *shapes); i++)
            bench_products(&b, types[t], b.tiny ? 512 : shapes[i][0], b.tiny ? 512 : shapes[i][1]);
    const err_t e = b.k->ops->status(b.k, &why);
    if (e) printf("%s\n", why.s);
    free(x);
    b.k->ops->close(b.k);
    return e ? 1 : 0;
}
