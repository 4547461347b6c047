// act: element-wise operations; each element stands alone. Threads take four neighbours at once
// where addresses and sizes allow it.
#include "kernels/cuda/act.h"
#include "kernels/cuda/cuda.h"

enum { ACT_BLOCK = 256 };

struct op_gate {
    __device__ __forceinline__ float operator()(float x, float g) const
    {
        return x * sigmoid_of(g);
    }
};
struct op_add {
    __device__ __forceinline__ float operator()(float x, float y) const
    {
        return x + y;
    }
};
struct op_scale {
    float s;
    __device__ __forceinline__ float operator()(float x, float) const
    {
        return x * s;
    }
};
struct op_softcap {
    float cap;
    __device__ __forceinline__ float operator()(float x, float) const
    {
        return cap * tanhf(x / cap);
    }
};

// out[i] = op(a[i], b[i]); out may be a or b.
template <class Op>
static __global__ void act_each(Op op, const float *a, const float *b, int64_t n, float *out)
{
    simt_follow();
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step)
        out[i] = op(a[i], b[i]);
}
template <class Op>
static __global__ void act_fours(Op op, const float4 *a, const float4 *b, int64_t n, float4 *out)
{
    simt_follow();
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        const float4 x = a[i], y = b[i];
        out[i] = make_float4(op(x.x, y.x), op(x.y, y.y), op(x.z, y.z), op(x.w, y.w));
    }
}

static unsigned blocks_of(const struct cuda *c, int64_t n)
{
    const int64_t blocks = (n + ACT_BLOCK - 1) / ACT_BLOCK, most = (int64_t)c->n_sm * 16;
    return (unsigned)(blocks < most ? blocks : most);
}

template <class Op>
static void each(struct kernels *k, Op op, const float *a, const float *b, int64_t n, float *out)
{
    struct cuda *c = cuda_of(k);
    if (n < 1) return;
    if (!(n % 4) && !(((uintptr_t)a | (uintptr_t)b | (uintptr_t)out) % 16))
        LAUNCH_NEXT(c, act_fours<Op>, blocks_of(c, n / 4), ACT_BLOCK, 0, op, (const float4 *)a,
                    (const float4 *)b, n / 4, (float4 *)out);
    else
        LAUNCH_NEXT(c, act_each<Op>, blocks_of(c, n), ACT_BLOCK, 0, op, a, b, n, out);
}

void cuda_act_glu(struct kernels *k, const struct glu *kind, const float *gate, const float *up,
                  int64_t n, float *out)
{
    each(k, op_glu{(int)kind->kind, kind->alpha, kind->limit}, gate, up, n, out);
}
void cuda_act_gate(struct kernels *k, float *x, const float *gate, int64_t n)
{
    each(k, op_gate{}, x, gate, n, x);
}
void cuda_act_add(struct kernels *k, float *x, const float *y, int64_t n)
{
    each(k, op_add{}, x, y, n, x);
}
void cuda_act_scale(struct kernels *k, float *x, float s, int64_t n)
{
    each(k, op_scale{s}, x, x, n, x);
}
void cuda_act_softcap(struct kernels *k, float *x, float cap, int64_t n)
{
    each(k, op_softcap{cap}, x, x, n, x);
}

template <bool with_sigmoid>
static __global__ void act_rows(float *x, const float *s, int64_t n, int dim)
{
    simt_follow();
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        const float f = s[i / dim];
        x[i] *= with_sigmoid ? sigmoid_of(f) : f;
    }
}

void cuda_act_gate_rows(struct kernels *k, float *x, const float *gate, int32_t n_tok, int32_t dim)
{
    struct cuda *c = cuda_of(k);
    const int64_t n = (int64_t)n_tok * dim;
    if (n) LAUNCH_NEXT(c, act_rows<true>, blocks_of(c, n), ACT_BLOCK, 0, x, gate, n, dim);
}
void cuda_act_scale_rows(struct kernels *k, float *x, const float *s, int32_t n_tok, int32_t dim)
{
    struct cuda *c = cuda_of(k);
    const int64_t n = (int64_t)n_tok * dim;
    if (n) LAUNCH_NEXT(c, act_rows<false>, blocks_of(c, n), ACT_BLOCK, 0, x, s, n, dim);
}

// out[i][c] = x[row ? row[i] : i][order[(expert ? expert[i] : 0) * cols + c]]
static __global__ void act_gather(const float *x, const int32_t *row, const int32_t *order,
                                  const int32_t *expert, int64_t n, int cols, float *out)
{
    simt_follow();
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; at < n; at += step) {
        const int64_t i = at / cols, col = at % cols;
        const int32_t *o = expert ? order + (int64_t)expert[i] * cols : order;
        out[at] = x[(row ? row[i] : i) * cols + o[col]];
    }
}

void cuda_act_gather(struct kernels *k, const float *x, const int32_t *order, int32_t n_tok,
                     int32_t cols, float *out)
{
    cuda_act_gather_experts(k, x, NULL, order, NULL, n_tok, cols, out);
}
void cuda_act_gather_experts(struct kernels *k, const float *x, const int32_t *row,
                             const int32_t *order, const int32_t *expert, int32_t n, int32_t cols,
                             float *out)
{
    struct cuda *c = cuda_of(k);
    const int64_t all = (int64_t)n * cols;
    if (all)
        LAUNCH_NEXT(c, act_gather, blocks_of(c, all), ACT_BLOCK, 0, x, row, order, expert, all,
                    cols, out);
}
