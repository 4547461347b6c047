// norm: RMS normalisation (Zhang and Sennrich 2019). Short rows (heads) take a warp each, long ones
// a block. The order of a row's sum depends on its length alone.
#include "kernels/cuda/gemm.h"

enum { NORM_WARPS = 4, NORM_WARP_DIM = 512, NORM_BLOCK = 256, NORM_WIDE = 1024 };

template <int threads>
static __device__ __forceinline__ void norm_row(const float *x, const float *w, int dim, float eps,
                                                float *y, int thread, float *part)
{
    float sum = 0;
    for (int i = thread; i < dim; i += threads)
        sum = fmaf(x[i], x[i], sum);
    sum = threads == 32 ? warp_sum(sum) : block_sum(sum, part);
    const float k = 1.0f / sqrtf(sum / (float)dim + eps);
    for (int i = thread; i < dim; i += threads)
        y[i] = w ? x[i] * k * w[i] : x[i] * k;
}

static __global__ void __launch_bounds__(NORM_WARPS * 32)
    norm_warps(const float *x, const float *w, int64_t n_row, int dim, float eps, float *y)
{
    simt_follow();
    const int64_t row = (int64_t)blockIdx.x * NORM_WARPS + threadIdx.x / 32;
    if (row < n_row)
        norm_row<32>(x + row * dim, w, dim, eps, y + row * dim, (int)threadIdx.x % 32, NULL);
}

static __global__ void __launch_bounds__(NORM_BLOCK)
    norm_blocks(const float *x, const float *w, int dim, float eps, float *y)
{
    __shared__ float part[32];
    simt_follow();
    const int64_t row = blockIdx.x;
    norm_row<NORM_BLOCK>(x + row * dim, w, dim, eps, y + row * dim, (int)threadIdx.x, part);
}

void cuda_norm_rms(struct kernels *k, const float *x, const float *w, int64_t n_row, int32_t dim,
                   float eps, float *y)
{
    struct cuda *c = cuda_of(k);
    if (n_row < 1) return;
    if (dim <= NORM_WARP_DIM)
        LAUNCH_NEXT(c, norm_warps, (unsigned)cuda_ceil(n_row, NORM_WARPS), NORM_WARPS * 32, 0, x, w,
                    n_row, dim, eps, y);
    else
        LAUNCH_NEXT(c, norm_blocks, (unsigned)n_row, NORM_BLOCK, 0, x, w, dim, eps, y);
}

// -- with the residual stream --

// Four neighbours or one; one row of a decode step is a single block, so many threads, each with
// few elements, which are asked for at once.
struct norm_four {
    typedef float4 type;
    static __device__ __forceinline__ float4 add(float4 a, float4 b, float s)
    {
        return make_float4(a.x + b.x * s, a.y + b.y * s, a.z + b.z * s, a.w + b.w * s);
    }
    static __device__ __forceinline__ float4 times(float4 a, float k, float4 w)
    {
        return make_float4(a.x * k * w.x, a.y * k * w.y, a.z * k * w.z, a.w * k * w.w);
    }
    static __device__ __forceinline__ float4 times(float4 a, float k)
    {
        return make_float4(a.x * k, a.y * k, a.z * k, a.w * k);
    }
    static __device__ __forceinline__ float square(float4 a, float sum)
    {
        return fmaf(a.w, a.w, fmaf(a.z, a.z, fmaf(a.y, a.y, fmaf(a.x, a.x, sum))));
    }
    static __device__ __forceinline__ void put(const struct gemm_next &next, int64_t row, int i,
                                               float4 a)
    {
        const uint2 q = make_uint2(form_bf16x2(a.x, a.z), form_bf16x2(a.y, a.w));
        const int64_t at = gemm_next_at(next, row, i);
        next.xq[at] = q;
        next.xr[at] = make_uint2(form_bf16x2_rest(a.x, a.z, q.x), form_bf16x2_rest(a.y, a.w, q.y));
    }
};
struct norm_one {
    typedef float type;
    static __device__ __forceinline__ float add(float a, float b, float s)
    {
        return a + b * s;
    }
    static __device__ __forceinline__ float times(float a, float k, float w)
    {
        return a * k * w;
    }
    static __device__ __forceinline__ float times(float a, float k)
    {
        return a * k;
    }
    static __device__ __forceinline__ float square(float a, float sum)
    {
        return fmaf(a, a, sum);
    }
    static __device__ __forceinline__ void put(const struct gemm_next &, int64_t, int, float) {}
};

// 1 / sqrt(x), to a unit of the last place and in few registers.
static __device__ __forceinline__ float norm_factor(float x)
{
    const float k = rsqrtf(x);
    return k * (1.5f - 0.5f * x * k * k);
}

// A whole row by one block: what is written is read back by the thread that wrote it. part_of_dim:
// 1 / dim.
template <class V, int threads>
static __global__ void __launch_bounds__(threads)
    norm_add(const struct add_norm a, float part_of_dim, const struct gemm_next next)
{
    typedef typename V::type T;
    __shared__ float part[2][32];
    simt_follow();
    const int64_t at = blockIdx.x * (int64_t)a.dim;
    const int n = a.dim / (int)(sizeof(T) / sizeof(float)), thread = (int)threadIdx.x;
    T *x = (T *)(a.x + at), *y = a.y ? (T *)(a.y + at) : NULL;
    const T *more = a.more ? (const T *)(a.more + at) : NULL;
    const T *post = (const T *)a.post, *w = (const T *)a.w;
    float k = 1, sum = 0;
    if (y && (more || post)) {
        for (int i = thread; i < n; i += threads) {
            const T v = more ? V::add(y[i], more[i], 1.0f) : y[i];
            if (more) y[i] = v;
            sum = V::square(v, sum);
        }
        if (post) k = norm_factor(block_sum(sum, part[0]) * part_of_dim + a.eps);
    }
    sum = 0;
    for (int i = thread; i < n; i += threads) {
        T v = x[i];
        if (y) x[i] = v = V::add(v, post ? V::times(y[i], k, post[i]) : y[i], a.scale);
        sum = V::square(v, sum);
    }
    if (!a.out) return;
    k = norm_factor(block_sum(sum, part[1]) * part_of_dim + a.eps);
    T *out = (T *)(a.out + at);
    for (int i = thread; i < n; i += threads) {
        const T v = w ? V::times(x[i], k, w[i]) : V::times(x[i], k);
        out[i] = v;
        if (next.xq) V::put(next, blockIdx.x, i, v);
    }
}

static bool is_aligned(const struct add_norm *a)
{
    const uintptr_t all = (uintptr_t)a->x | (uintptr_t)a->y | (uintptr_t)a->more |
                          (uintptr_t)a->post | (uintptr_t)a->w | (uintptr_t)a->out;
    return all % 16 == 0 && a->dim % 4 == 0;
}

void cuda_norm_add(struct kernels *k, const struct add_norm *a, int64_t n_row)
{
    struct cuda *c = cuda_of(k);
    const unsigned n = (unsigned)n_row;
    const float part = 1.0f / (float)a->dim;
    const bool is_four = is_aligned(a);
    struct gemm_next next = {};
    if (n_row < 1) return;
    if (is_four && a->out) next = gemm_next_of(c, n_row, a->dim);
    if (!is_four)
        LAUNCH_NEXT(c, (norm_add<norm_one, NORM_BLOCK>), n, NORM_BLOCK, 0, *a, part, next);
    else if (a->dim <= 4 * NORM_BLOCK)
        LAUNCH_NEXT(c, (norm_add<norm_four, NORM_BLOCK>), n, NORM_BLOCK, 0, *a, part, next);
    else
        LAUNCH_NEXT(c, (norm_add<norm_four, NORM_WIDE>), n, NORM_WIDE, 0, *a, part, next);
    if (next.xq) gemm_next_is(c, a->out, n_row, a->dim);
}
