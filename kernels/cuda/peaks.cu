// peaks: a read of more memory than any cache holds, and chains of products in registers. Products
// of 16-bit floats are done by blas too: the largest devices have units that only their vendor's
// library uses, and what it reaches is the limit that counts.
#include "kernels/cuda/peaks.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/simt_mma.h"

enum {
    BLOCK = 256,
    LAUNCHES = 4,  // in one time
    TIMES_MAX = 64 // of one figure
};

static const int TILES = 8; // chains of a thread, so that none waits for itself

struct peaks {
    struct device *d;
    cudaStream_t stream;
    int32_t n_sm;
    bool is_emulated;
    int64_t n;     // uint4 of the buffer
    uint4 *data;   // (n), random
    uint32_t *out; // (1) what keeps the sums from being left out
    int64_t dim;   // of the square matrices in data
    struct blas *blas;
    int32_t steps; // of a chain
};

static __device__ __forceinline__ uint32_t noise(uint32_t x)
{
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

// Pairs of bf16 between -2 and 2, whatever else they are read as.
static __global__ void __launch_bounds__(BLOCK) fill(uint4 *data, int64_t n)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < n; i += step) {
        uint32_t v[4];
        for (uint32_t k = 0; k < 4; k++)
            v[k] = (noise((uint32_t)i * 4 + k) & 0x807f807fu) | 0x3f003f00u;
        data[i] = make_uint4(v[0], v[1], v[2], v[3]);
    }
}

static __device__ __forceinline__ uint32_t fold(const uint4 v)
{
    return v.x ^ v.y ^ v.z ^ v.w;
}

// Four loads of 16 bytes are on their way at once.
static __global__ void __launch_bounds__(BLOCK)
    read_all(const uint4 *data, int64_t n, uint32_t *out)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    uint32_t sum = 0;
    int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    for (; i + 3 * step < n; i += 4 * step) {
        const uint4 a = __ldg(data + i), b = __ldg(data + i + step);
        const uint4 c = __ldg(data + i + 2 * step), d = __ldg(data + i + 3 * step);
        sum += fold(a) ^ fold(b) ^ fold(c) ^ fold(d);
    }
    for (; i < n; i += step)
        sum += fold(__ldg(data + i));
    if (sum == 1) *out = sum;
}

static __global__ void __launch_bounds__(BLOCK) chain_s8(int steps, uint32_t *out)
{
    const uint32_t a[4] = {threadIdx.x, threadIdx.x + 1, threadIdx.x + 2, threadIdx.x + 3};
    const uint32_t b[2] = {threadIdx.x + 4, threadIdx.x + 5};
    int32_t d[TILES][4]; // of different numbers, or one chain would do for all
    SIMT_UNROLL
    for (int t = 0; t < TILES; t++)
        d[t][0] = d[t][1] = d[t][2] = d[t][3] = (int32_t)(t + (int)threadIdx.x);
    for (int s = 0; s < steps; s++)
        SIMT_UNROLL
    for (int t = 0; t < TILES; t++)
        mma_m16n8k32_s8(d[t], a, b);
    int32_t sum = 0;
    SIMT_UNROLL
    for (int t = 0; t < TILES; t++)
        sum += d[t][0] + d[t][1] + d[t][2] + d[t][3];
    if (sum == 1) *out = 1;
}

static __global__ void __launch_bounds__(BLOCK) chain_bf16(int steps, uint32_t *out)
{
    const uint32_t one = 0x3f803f80u + threadIdx.x;
    const uint32_t a[4] = {one, one + 1, one + 2, one + 3}, b[2] = {one + 4, one + 5};
    float d[TILES][4]; // of different numbers, or one chain would do for all
    SIMT_UNROLL
    for (int t = 0; t < TILES; t++)
        d[t][0] = d[t][1] = d[t][2] = d[t][3] = (float)(t + (int)threadIdx.x);
    for (int s = 0; s < steps; s++)
        SIMT_UNROLL
    for (int t = 0; t < TILES; t++)
        mma_m16n8k16_bf16(d[t], a, b);
    float sum = 0;
    SIMT_UNROLL
    for (int t = 0; t < TILES; t++)
        sum += d[t][0] + d[t][1] + d[t][2] + d[t][3];
    if (sum == 1.0f) *out = 1;
}

static __global__ void __launch_bounds__(BLOCK) chain_f32(int steps, uint32_t *out)
{
    const float a = 1.0f + 1e-6f * (float)threadIdx.x, b = 1e-7f * (float)threadIdx.x;
    float d[4 * TILES];
    SIMT_UNROLL
    for (int t = 0; t < 4 * TILES; t++)
        d[t] = (float)t;
    for (int s = 0; s < steps; s++)
        SIMT_UNROLL
    for (int t = 0; t < 4 * TILES; t++)
        d[t] = fmaf(d[t], a, b);
    float sum = 0;
    SIMT_UNROLL
    for (int t = 0; t < 4 * TILES; t++)
        sum += d[t];
    if (sum == 1.0f) *out = 1;
}

// -- what one launch does --

// Operations of `blocks` blocks; ops_of_warp: of a warp's step.
static double chain_ops(const struct peaks *p, int blocks, double ops_of_warp)
{
    const double warps = (double)blocks * (double)(BLOCK / 32);
    return ops_of_warp * (double)p->steps * warps;
}

typedef double launch_fn(struct peaks *p); // how much: bytes, or operations

static double launch_read(struct peaks *p)
{
    LAUNCH(read_all, (unsigned)(8 * p->n_sm), BLOCK, 0, p->stream, p->data, p->n, p->out);
    return 16.0 * (double)p->n;
}
static double launch_s8(struct peaks *p)
{
    const int blocks = 4 * p->n_sm;
    LAUNCH(chain_s8, (unsigned)blocks, BLOCK, 0, p->stream, (int)p->steps, p->out);
    return chain_ops(p, blocks, 2.0 * 16 * 8 * 32 * TILES);
}
static double launch_bf16(struct peaks *p)
{
    const int blocks = 4 * p->n_sm;
    LAUNCH(chain_bf16, (unsigned)blocks, BLOCK, 0, p->stream, (int)p->steps, p->out);
    return chain_ops(p, blocks, 2.0 * 16 * 8 * 16 * TILES);
}
static double launch_f32(struct peaks *p)
{
    const int blocks = 8 * p->n_sm;
    LAUNCH(chain_f32, (unsigned)blocks, BLOCK, 0, p->stream, (int)p->steps, p->out);
    return chain_ops(p, blocks, 2.0 * 4 * TILES * 32);
}
// Two matrices and their product lie one after another.
static double launch_blas(struct peaks *p)
{
    const int64_t n = p->dim;
    char *at = (char *)p->data;
    struct blas_call c = {};
    c.w = at;
    c.x = at + 2 * n * n;
    c.y = (float *)(void *)(at + 4 * n * n);
    c.ldy = n;
    c.rows = c.n_tok = c.cols = (int32_t)n;
    c.factor = 1;
    return blas_run(p->blas, &c) ? 2.0 * (double)n * (double)n * (double)n : 0;
}

// The best of several times.
static double rate_of(struct peaks *p, launch_fn *f, int32_t budget_ms)
{
    const uint64_t budget = (uint64_t)budget_ms * 1000000;
    double best = 0;
    f(p); // loads what has to be loaded
    const uint64_t begin = device_work_ns(p->d, DEVICE_STEPS);
    uint64_t before = begin;
    for (int i = 0; i < TIMES_MAX && (i < 3 || before - begin < budget); i++) {
        double work = 0;
        device_work_begin(p->d, DEVICE_STEPS);
        for (int k = 0; k < LAUNCHES; k++)
            work += f(p);
        device_work_end(p->d, DEVICE_STEPS);
        const uint64_t now = device_work_ns(p->d, DEVICE_STEPS);
        const double rate = work / ((double)(now - before) * 1e-9);
        if (now > before && rate > best) best = rate;
        before = now;
    }
    return best;
}

static err_t take_memory(struct peaks *p, const struct device_info *info, struct err_text *why)
{
    uint64_t bytes = p->is_emulated ? 256 << 10 : (uint64_t)1 << 30;
    if (bytes > info->memory_free / 4) bytes = info->memory_free / 4;
    p->dim = p->is_emulated ? 32 : 4096;
    while (p->dim > 256 && (uint64_t)(8 * p->dim * p->dim) > bytes)
        p->dim /= 2;
    p->n = (int64_t)(bytes / 16);
    p->steps = p->is_emulated ? 2 : 2048;
    err_t e = device_take(p->d, bytes, "measuring", (void **)&p->data, why);
    if (!e) e = device_take(p->d, 256, "measuring", (void **)&p->out, why);
    if (!e) e = blas_open(p->d, &p->blas, why);
    if (!e) LAUNCH(fill, (unsigned)(8 * p->n_sm), BLOCK, 0, p->stream, p->data, p->n);
    return e;
}

err_t peaks_measure(int32_t device, int32_t budget_ms, struct kernels_peaks *out,
                    struct err_text *why)
{
    struct device_info info;
    struct peaks p = {};
    struct kernels_peaks r = {};
    err_t e = budget_ms < 1 ? err_say(why, ERR_CONFIG, "%d ms to measure in", (int)budget_ms) : OK;
    if (!e) e = device_about(device, &info, why);
    if (!e) e = device_open(device, &p.d, why);
    if (e) return e;
    p.stream = device_stream(p.d);
    p.is_emulated = info.is_emulated;
    p.n_sm = info.is_emulated ? 1 : info.n_processor;
    e = take_memory(&p, &info, why);
    if (!e) {
        r.read_bytes_per_s = rate_of(&p, launch_read, budget_ms);
        r.int8_ops_per_s = rate_of(&p, launch_s8, budget_ms);
        r.f32_flops_per_s = rate_of(&p, launch_f32, budget_ms);
        r.half_flops_per_s = rate_of(&p, launch_bf16, budget_ms / 2 + 1);
        const double library = rate_of(&p, launch_blas, budget_ms / 2 + 1);
        if (library > r.half_flops_per_s) r.half_flops_per_s = library;
        e = device_error(p.d, why);
    }
    blas_close(p.blas);
    device_give(p.d, p.data);
    device_give(p.d, p.out);
    device_close(p.d);
    if (!e) *out = r;
    return e;
}
