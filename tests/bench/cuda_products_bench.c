// cuda_products_bench: products on a device at the sizes of real models: time, bytes of weights and
// floating-point operations per second, and the share of what a copy on the device reaches (read
// and written bytes together). Each product reads other weights than the one before, more than the
// caches hold; they are recorded and repeated, as a step's are.
//
//     cuda_products_bench [--device cuda:N] [--tiny]   (tiny: to see that it works)
#include "tests/bench/device_bench.h"

#include <string.h>

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

struct product_work {
    const float *x; // (n_tok, cols)
    struct view *w;
    int n, n_tok;
};
static void products_once(struct bench *b, void *arg)
{
    const struct product_work *p = arg;
    for (int i = 0; i < p->n; i++) {
        const struct gemm_job job = {&p->w[i], NULL, b->y, p->w[i].shape[0], false};
        b->k->ops->gemm(b->k, p->x, p->n_tok, (int32_t)p->w[i].shape[1], &job, 1);
    }
}

static void bench_products(struct bench *b, const float *x, enum dtype t, int64_t rows,
                           int64_t cols)
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
        struct product_work p = {x, w, n, toks[i]};
        const struct kernels_step step = {.n_tok = toks[i], .page_tok = 16, .key = ++b->key};
        if (b->tiny && toks[i] > 16) break;
        const double s = seconds_of(b, products_once, &p, step) / n;
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
    float *there = take(&b, n_x * 4);
    b.y = take(&b, (uint64_t)limits.max_tok * (uint64_t)limits.max_rows * 4);
    b.k->ops->put(b.k, there, x, n_x * 4);
    measure_copy(&b);
    printf("type,rows,cols,n_tok,us,weights_gb_per_s,share_of_copy,tflops\n");
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (size_t i = 0; i < (b.tiny ? 1 : sizeof shapes / sizeof *shapes); i++)
            bench_products(&b, there, types[t], b.tiny ? 512 : shapes[i][0],
                           b.tiny ? 512 : shapes[i][1]);
    const err_t e = b.k->ops->status(b.k, &why);
    if (e) printf("%s\n", why.s);
    free(x);
    b.k->ops->close(b.k);
    return e ? 1 : 0;
}
