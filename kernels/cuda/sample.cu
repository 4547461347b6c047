// sample: reductions over the vocabulary. A row is reduced in chunks by as many blocks, and the
// chunks are merged in order; the host waits for the numbers.
#include "kernels/cuda/cuda.h"

#include <stdlib.h>

enum { SAMPLE_CHUNK = 4096, SAMPLE_BLOCK = 256 };

struct best {
    float value;
    int32_t at; // INT32_MAX: none
};
struct cuda_sample {
    struct best *best; // (max_tok, chunks of max_rows)
    double *sum;       // the same
    double *out;       // (max_tok) of 8 bytes, on the device
};

static int64_t chunks_of(int64_t n)
{
    return (n - 1) / SAMPLE_CHUNK + 1;
}

err_t cuda_sample_open(struct cuda *c, struct err_text *why)
{
    struct cuda_sample *s = (struct cuda_sample *)calloc(1, sizeof *s);
    if (!s) return err_say(why, ERR_MEMORY, "cuda: no memory");
    c->sample = s;
    const uint64_t n_tok = (uint64_t)c->lim.max_tok;
    const uint64_t n = n_tok * (uint64_t)chunks_of(c->lim.max_rows);
    err_t e = cuda_take(c, n * sizeof *s->best, "reductions", (void **)&s->best, why);
    if (!e) e = cuda_take(c, n * sizeof *s->sum, "reductions", (void **)&s->sum, why);
    if (!e) e = cuda_take(c, n_tok * sizeof *s->out, "reductions", (void **)&s->out, why);
    return e;
}

void cuda_sample_close(struct cuda *c)
{
    if (!c->sample) return;
    device_give(c->dev, c->sample->best);
    device_give(c->dev, c->sample->sum);
    device_give(c->dev, c->sample->out);
    free(c->sample);
    c->sample = NULL;
}

static __device__ __forceinline__ struct best better(struct best a, struct best b)
{
    return b.value > a.value || (b.value == a.value && b.at < a.at) ? b : a;
}

static __device__ __forceinline__ struct best warp_best(struct best a)
{
    for (int m = 16; m; m >>= 1) {
        struct best b;
        b.value = __shfl_xor_sync(SIMT_FULL, a.value, m);
        b.at = __shfl_xor_sync(SIMT_FULL, a.at, m);
        a = better(a, b);
    }
    return a;
}

static __device__ __forceinline__ double block_sum_double(double x, double *part)
{
    const int warp = (int)threadIdx.x >> 5, lane = (int)threadIdx.x & 31;
    x = warp_sum(x);
    if (!lane) part[warp] = x;
    __syncthreads();
    return warp_sum(lane < (int)blockDim.x >> 5 ? part[lane] : 0.0);
}

// Block b: chunk b % chunks of row b / chunks.
static __global__ void __launch_bounds__(SAMPLE_BLOCK)
    sample_chunks(const float *x, int64_t n, int chunks, bool with_sum, struct best *best,
                  double *sum)
{
    __shared__ float value[32];
    __shared__ int32_t at[32];
    __shared__ double part[32];
    simt_follow();
    const int64_t from = (int64_t)(blockIdx.x % (unsigned)chunks) * SAMPLE_CHUNK;
    const int64_t to = from + SAMPLE_CHUNK < n ? from + SAMPLE_CHUNK : n;
    const int warp = (int)threadIdx.x >> 5, lane = (int)threadIdx.x & 31;
    x += blockIdx.x / (unsigned)chunks * n;
    struct best b = {-INFINITY, INT32_MAX};
    for (int64_t i = from + threadIdx.x; i < to; i += SAMPLE_BLOCK)
        b = better(b, {x[i], (int32_t)i});
    b = warp_best(b);
    if (!lane) {
        value[warp] = b.value;
        at[warp] = b.at;
    }
    __syncthreads();
    b = {-INFINITY, INT32_MAX};
    if (lane < SAMPLE_BLOCK / 32) b = {value[lane], at[lane]};
    b = warp_best(b);
    if (!threadIdx.x) best[blockIdx.x] = b;
    if (!with_sum) return;
    const float top = isfinite(b.value) ? b.value : 0.0f;
    double s = 0;
    for (int64_t i = from + threadIdx.x; i < to; i += SAMPLE_BLOCK)
        s += (double)expf(x[i] - top);
    s = block_sum_double(s, part);
    if (!threadIdx.x) sum[blockIdx.x] = s;
}

// A warp for each row.
static __global__ void __launch_bounds__(32)
    sample_best(const struct best *best, int chunks, int32_t *out)
{
    simt_follow();
    best += (int64_t)blockIdx.x * chunks;
    struct best b = {-INFINITY, INT32_MAX};
    for (int i = (int)threadIdx.x; i < chunks; i += 32)
        b = better(b, best[i]);
    b = warp_best(b);
    if (!threadIdx.x) out[blockIdx.x] = b.at == INT32_MAX ? 0 : b.at; // only NaN: the first
}

static __device__ __forceinline__ double base_of(float x)
{
    return isfinite(x) ? (double)x : 0.0;
}

static __global__ void sample_merge(const struct best *best, const double *sum, int n_row,
                                    int chunks, double *out)
{
    simt_follow();
    const int row = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (row >= n_row) return;
    best += (int64_t)row * chunks;
    sum += (int64_t)row * chunks;
    float top = best[0].value;
    for (int i = 1; i < chunks; i++)
        top = best[i].value > top ? best[i].value : top;
    const double base = base_of(top);
    double all = 0;
    for (int i = 0; i < chunks; i++)
        all += sum[i] * exp(base_of(best[i].value) - base);
    out[row] = base + log(all);
}

static int reduce(struct cuda *c, const float *x, int32_t n_row, int64_t n, bool with_sum)
{
    BUG_ON(n < 1 || n > c->lim.max_rows || n_row > c->lim.max_tok);
    const int chunks = (int)chunks_of(n);
    LAUNCH_NEXT(c, sample_chunks, (unsigned)n_row * (unsigned)chunks, SAMPLE_BLOCK, 0, x, n, chunks,
                with_sum, c->sample->best, c->sample->sum);
    return chunks;
}

void cuda_sample_argmax(struct kernels *k, const float *x, int32_t n_row, int64_t n, int32_t *out)
{
    struct cuda *c = cuda_of(k);
    if (n_row < 1) return;
    const int chunks = reduce(c, x, n_row, n, false);
    int32_t *to = (int32_t *)(void *)c->sample->out;
    LAUNCH_NEXT(c, sample_best, (unsigned)n_row, 32, 0, c->sample->best, chunks, to);
    cuda_step_get(k, out, to, (uint64_t)n_row * sizeof *out);
}

void cuda_sample_logsumexp(struct kernels *k, const float *x, int32_t n_row, int64_t n, double *out)
{
    struct cuda *c = cuda_of(k);
    if (n_row < 1) return;
    const int chunks = reduce(c, x, n_row, n, true);
    LAUNCH_NEXT(c, sample_merge, (unsigned)cuda_ceil(n_row, 32), 32, 0, c->sample->best,
                c->sample->sum, n_row, chunks, c->sample->out);
    cuda_step_get(k, out, c->sample->out, (uint64_t)n_row * sizeof *out);
}

static __global__ void __launch_bounds__(SAMPLE_BLOCK)
    sample_all_finite(const float *x, int64_t n, uint8_t *out)
{
    __shared__ float part[32];
    simt_follow();
    x += (int64_t)blockIdx.x * n;
    float bad = 0;
    for (int64_t i = threadIdx.x; i < n; i += SAMPLE_BLOCK)
        if (!isfinite(x[i])) bad = 1;
    bad = block_max(bad, part);
    if (!threadIdx.x) out[blockIdx.x] = bad == 0;
}

void cuda_sample_finite(struct kernels *k, const float *x, int32_t n_row, int64_t n, bool *out)
{
    struct cuda *c = cuda_of(k);
    static_assert(sizeof(bool) == 1, "out is bytes");
    if (n_row < 1) return;
    uint8_t *to = (uint8_t *)(void *)c->sample->out;
    LAUNCH_NEXT(c, sample_all_finite, (unsigned)n_row, SAMPLE_BLOCK, 0, x, n, to);
    cuda_step_get(k, out, to, (uint64_t)n_row);
}
