// norm: RMS normalisation (Zhang and Sennrich 2019). Short rows (heads) take a warp each, long ones
// a block. The order of a row's sum depends on its length alone.
#include "kernels/cuda/cuda.h"

enum { NORM_WARPS = 4, NORM_WARP_DIM = 512, NORM_BLOCK = 256 };

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
    const int64_t row = (int64_t)blockIdx.x * NORM_WARPS + threadIdx.x / 32;
    if (row < n_row)
        norm_row<32>(x + row * dim, w, dim, eps, y + row * dim, (int)threadIdx.x % 32, NULL);
}

static __global__ void __launch_bounds__(NORM_BLOCK)
    norm_blocks(const float *x, const float *w, int dim, float eps, float *y)
{
    __shared__ float part[32];
    const int64_t row = blockIdx.x;
    norm_row<NORM_BLOCK>(x + row * dim, w, dim, eps, y + row * dim, (int)threadIdx.x, part);
}

void cuda_norm_rms(struct kernels *k, const float *x, const float *w, int64_t n_row, int32_t dim,
                   float eps, float *y)
{
    struct cuda *c = cuda_of(k);
    if (n_row < 1) return;
    if (dim <= NORM_WARP_DIM)
        LAUNCH(norm_warps, (unsigned)cuda_ceil(n_row, NORM_WARPS), NORM_WARPS * 32, 0, c->stream, x,
               w, n_row, dim, eps, y);
    else
        LAUNCH(norm_blocks, (unsigned)n_row, NORM_BLOCK, 0, c->stream, x, w, dim, eps, y);
}
