// store: keys and values on their way into pages (attn.cu says how these are laid out), and what is
// done to queries and keys before: a warp has a head of a token, reads it once and writes it once.
#include "kernels/cuda/attn.h"

enum { STORE_WARPS = 4 };

static __device__ __forceinline__ void store_one(float *to, float x)
{
    *to = x;
}
static __device__ __forceinline__ void store_one(__half *to, float x)
{
    *to = __float2half_rn(x);
}
static __device__ __forceinline__ void store_one(__nv_bfloat16 *to, float x)
{
    *to = __float2bfloat16_rn(x);
}

// Where a token's keys, values and scales of a KV head lie, and the number of its row in `key` and
// `value`.
struct store_at {
    char *keys, *values;
    float *k_scales, *v_scales;
    int64_t row; // -1: none
};

// Of the runs' token `number`, by a warp.
static __device__ __forceinline__ struct store_at
store_at_of(const struct attn_dev *a, int32_t number, int32_t head_kv, int32_t elem)
{
    struct store_at s = {NULL, NULL, NULL, NULL, -1};
    struct attn_block b;
    const int32_t r = attn_run_of(a->list.runs, a->n_run, 1, 1, INT32_MAX, 1, &number);
    if (r < 0) return s;
    b.run = a->list.runs[r];
    b.head_kv = head_kv;
    const int32_t pos = b.run.pos_from + number, at = pos & (a->page_tok - 1);
    char *page = (char *)attn_page(a, &b, pos);
    s.keys = page + (int64_t)at * a->k_ld * elem;
    s.values = page + a->v_at + (int64_t)at * a->v_ld * elem;
    s.k_scales = (float *)(page + a->k_scale_at) + at * a->k_scales;
    s.v_scales = (float *)(page + a->v_scale_at) + at * a->v_scales;
    s.row = (int64_t)(b.run.tok_from + number) * a->n_head_kv + b.head_kv;
    return s;
}

// The scale of elements of which the largest has this size, when codes reach to `top`, and what
// they are multiplied by. What is no number makes all of them none.
static __device__ __forceinline__ float store_scale(float most, float top, float *inv)
{
    const bool is = most < INFINITY;
    *inv = is && most > 1e-30f ? top / most : 0.0f;
    return is ? __fmul_rn(most, 1.0f / top) : NAN;
}
// Of x, NaN is the largest.
static __device__ __forceinline__ float store_size(float x)
{
    return x == x ? fabsf(x) : INFINITY;
}

// n elements, by a warp; zeros behind them up to ld, which tiles may read.
template <class T>
static __device__ __forceinline__ void store_row(T *to, float *scales, const float *x, int32_t n,
                                                 int32_t ld)
{
    (void)scales;
    for (int32_t d = (int32_t)threadIdx.x % 32; d < ld; d += 32)
        store_one(to + d, d < n ? x[d] : 0.0f);
}
static __device__ __forceinline__ void store_row(int8_t *to, float *scales, const float *x,
                                                 int32_t n, int32_t ld)
{
    const int32_t lane = (int32_t)threadIdx.x % 32;
    for (int32_t from = 0; from < ld; from += ATTN_Q8_COLS) {
        const int32_t d = from + lane;
        const float y = d < n ? x[d] : 0.0f;
        float inv;
        const float scale = store_scale(warp_max(store_size(y)), 127.0f, &inv);
        if (d < ld) to[d] = (int8_t)(inv != 0.0f ? __float2int_rn(__fmul_rn(y, inv)) : 0);
        if (lane == 0 && from < n) scales[from / ATTN_Q8_COLS] = scale;
    }
}
static __device__ __forceinline__ void store_row(uint8_t *to, float *scales, const float *x,
                                                 int32_t n, int32_t ld)
{
    const int32_t lane = (int32_t)threadIdx.x % 32;
    float most = 0.0f, inv;
    for (int32_t d = lane; d < n; d += 32)
        most = fmaxf(most, store_size(x[d]));
    const float scale = store_scale(warp_max(most), 448.0f, &inv);
    for (int32_t d = lane; d < ld; d += 32)
        to[d] = d < n && inv != 0.0f ? simt_float_to_f8(__fmul_rn(x[d], inv)) : 0;
    if (lane == 0) scales[0] = scale;
}

// One token and KV head: a warp has the key, another one the value.
template <class T>
static __global__ void __launch_bounds__(64)
    store_kernel(struct attn_dev a, const float *key, const float *value)
{
    simt_follow();
    const struct store_at s = store_at_of(&a, (int32_t)blockIdx.x, (int32_t)blockIdx.y, sizeof(T));
    if (s.row < 0) return;
    if (threadIdx.x < 32)
        store_row((T *)s.keys, s.k_scales, key + s.row * a.head_dim, a.head_dim, a.k_ld);
    else
        store_row((T *)s.values, s.v_scales, value + s.row * a.head_dim_v, a.head_dim_v, a.v_ld);
}

// A kernel that is one for each type of keys and values.
#define KERNEL_OF(kernel, dtype)                                                                   \
    (dtype) == DT_F16       ? kernel<__half>                                                       \
    : (dtype) == DT_BF16    ? kernel<__nv_bfloat16>                                                \
    : (dtype) == DT_Q8_0    ? kernel<int8_t>                                                       \
    : (dtype) == DT_F8_E4M3 ? kernel<uint8_t>                                                      \
                            : kernel<float>

static int32_t tokens_of(const struct attn_run *runs, int32_t n_run)
{
    int32_t n = 0;
    for (int32_t i = 0; i < n_run; i++)
        n += runs[i].n_tok;
    return n;
}

void cuda_attn_kv_store(struct kernels *k, const struct kv_view *kv, const struct attn_run *runs,
                        int32_t n_run, const float *key, const float *value)
{
    struct cuda *c = cuda_of(k);
    const unsigned n_tok = (unsigned)tokens_of(runs, n_run);
    if (n_tok == 0) return;
    const struct attn_dev a = attn_dev_of(c, kv, runs, n_run);
    const dim3 grid(n_tok, (unsigned)kv->n_head_kv);
    void (*const kernel)(struct attn_dev, const float *, const float *) =
        KERNEL_OF(store_kernel, kv->dtype);
    LAUNCH_NEXT(c, kernel, grid, kv->v_in_k ? 32 : 64, 0, a, key, value);
}

// -- heads to their place --

struct place_dev {
    struct attn_dev to;
    float *q;
    const float *key, *value;
    const float *q_norm, *k_norm, *q_scale;
    const float2 *cos_sin;
    int32_t n_item, n_head;   // heads of all tokens: queries, keys and values; query heads of one
    int32_t pairs, step, far; // 0: no turning; how far from pair to pair, and within
    float eps;
    bool is_unit;
};

// What multiplies a head whose squares have this sum.
static __device__ __forceinline__ float place_factor(float sum, int32_t dim, float eps)
{
    return 1.0f / sqrtf(warp_sum(sum) / (float)dim + eps);
}

// Reads a head and brings it where it is to be, into `row` (head_dim), shared memory, as is `turn`
// (pairs).
static __device__ __forceinline__ void place_head(const struct place_dev &p, const float *x,
                                                  const float *norm, const float2 *cos_sin,
                                                  float *row, float2 *turn)
{
    const int32_t lane = (int32_t)threadIdx.x % 32, dim = p.to.head_dim;
    float sum = 0;
    for (int32_t d = lane; d < dim; d += 32) {
        const float v = x[d];
        if (d < p.pairs) turn[d] = cos_sin[d];
        row[d] = v;
        sum = fmaf(v, v, sum);
    }
    if (norm) {
        const float k = place_factor(sum, dim, p.eps);
        for (int32_t d = lane; d < dim; d += 32)
            row[d] = row[d] * k * norm[d];
    }
    __syncwarp();
    for (int32_t i = lane; i < p.pairs; i += 32) {
        float *at = row + p.step * i;
        const float u = at[0], v = at[p.far];
        at[0] = u * turn[i].x - v * turn[i].y;
        at[p.far] = u * turn[i].y + v * turn[i].x;
    }
    __syncwarp();
    if (!p.is_unit) return;
    sum = 0;
    for (int32_t d = lane; d < dim; d += 32)
        sum = fmaf(row[d], row[d], sum);
    const float k = place_factor(sum, dim, p.eps);
    for (int32_t d = lane; d < dim; d += 32)
        row[d] *= k;
}

template <class T>
static __global__ void __launch_bounds__(STORE_WARPS * 32)
    place_kernel(const __grid_constant__ struct place_dev p)
{
    SIMT_DYNAMIC_SHARED(float, rows); // (warp, pairs of pairs, then head_dim)
    simt_follow();
    const int32_t warp = (int32_t)threadIdx.x / 32, lane = (int32_t)threadIdx.x % 32;
    const int32_t n_kv = p.to.n_head_kv, dim = p.to.head_dim, each = p.n_head + 2 * n_kv;
    const int32_t item = (int32_t)blockIdx.x * STORE_WARPS + warp;
    if (item >= p.n_item) return;
    const int32_t tok = item / each, head = item % each - p.n_head;
    float2 *turn = (float2 *)(rows + warp * (2 * p.pairs + dim));
    float *row = (float *)(turn + p.pairs);
    if (head < 0) {
        float *q = p.q + ((int64_t)tok * p.n_head + item % each) * dim;
        place_head(p, q, p.q_norm, p.cos_sin + (int64_t)tok * p.pairs, row, turn);
        const float k = p.q_scale ? p.q_scale[tok] : 1.0f;
        for (int32_t d = lane; d < dim; d += 32)
            q[d] = p.q_scale ? row[d] * k : row[d];
        return;
    }
    const struct store_at s = store_at_of(&p.to, tok, head % n_kv, sizeof(T));
    if (s.row < 0) return;
    if (head >= n_kv) {
        store_row((T *)s.values, s.v_scales, p.value + s.row * p.to.head_dim_v, p.to.head_dim_v,
                  p.to.v_ld);
        return;
    }
    place_head(p, p.key + s.row * dim, p.k_norm, p.cos_sin + s.row / n_kv * p.pairs, row, turn);
    store_row((T *)s.keys, s.k_scales, row, dim, p.to.k_ld);
}

void cuda_attn_place(struct kernels *k, const struct attn_place *a)
{
    struct cuda *c = cuda_of(k);
    const struct kv_view *kv = &a->kv;
    const int64_t n_item = (int64_t)a->n_tok * (a->n_head + 2 * kv->n_head_kv);
    BUG_ON(kv->v_in_k || tokens_of(a->runs, a->n_run) != a->n_tok || n_item > INT32_MAX);
    if (a->n_tok == 0) return;
    struct place_dev p = {};
    p.to = attn_dev_of(c, kv, a->runs, a->n_run);
    p.q = a->q;
    p.key = a->key;
    p.value = a->value;
    p.q_norm = a->q_norm;
    p.k_norm = a->k_norm;
    p.q_scale = a->q_scale;
    p.n_item = (int32_t)n_item;
    p.n_head = a->n_head;
    p.eps = a->eps;
    p.is_unit = a->is_unit;
    if (a->rope) {
        const bool neox = a->rope->kind == ROPE_NEOX;
        BUG_ON(a->rope->n_rot > kv->head_dim);
        p.cos_sin = (const float2 *)a->cos_sin;
        p.pairs = a->rope->n_rot / 2;
        p.step = neox ? 1 : 2;
        p.far = neox ? p.pairs : 1;
    }
    void (*const kernel)(struct place_dev) = KERNEL_OF(place_kernel, kv->dtype);
    LAUNCH_NEXT(c, kernel, (unsigned)cuda_ceil(n_item, STORE_WARPS), STORE_WARPS * 32,
                STORE_WARPS * (size_t)(2 * p.pairs + kv->head_dim) * sizeof(float), p);
}
