// moe: which experts a token goes to, their products in order, and the sum of what they answer.
#include "kernels/cuda/cuda.h"

enum { MOE_BLOCK = 256, RANK_MAX = 1024, ROUTE_TOK = 16, SHARED_MOST = 40 << 10 };

// -- route: a warp for each token --

// The best of x[n] that is not taken yet (NaN) is taken; of equals the lower number.
static __device__ __forceinline__ int take_best(float *x, int n, int lane)
{
    int at = INT32_MAX;
    float best = -INFINITY;
    for (int i = lane; i < n; i += 32) {
        const float v = x[i];
        if (v > best || (v == best && at == INT32_MAX)) {
            best = v;
            at = i;
        }
    }
    for (int m = 16; m; m >>= 1) {
        const float v = __shfl_xor_sync(SIMT_FULL, best, m);
        const int i = __shfl_xor_sync(SIMT_FULL, at, m);
        if (v > best || (v == best && i < at)) {
            best = v;
            at = i;
        }
    }
    if (!lane && at < n) x[at] = NAN;
    __syncwarp();
    return at;
}

// In place: softmax or sigmoid of s[n].
static __device__ __forceinline__ void scores_of(const float *logits, int n, bool sigmoid, int lane,
                                                 float *s)
{
    float top = -INFINITY, sum = 0;
    for (int i = lane; i < n && !sigmoid; i += 32)
        top = fmaxf(top, logits[i]);
    top = warp_max(top);
    top = top > -INFINITY ? top : 0;
    for (int i = lane; i < n; i += 32) {
        const float x = logits[i], e = expf(sigmoid ? -x : x - top);
        sum += e;
        s[i] = sigmoid ? 1.0f / (1.0f + e) : e;
    }
    sum = warp_sum(sum);
    for (int i = lane; i < n && !sigmoid; i += 32)
        s[i] /= sum;
    __syncwarp();
}

// Experts of groups that stay keep their choice value, the others lose it.
static __device__ __forceinline__ void choose_groups(const struct route_args a, float *choice,
                                                     float *group, int lane)
{
    const int size = a.n_expert / a.n_group;
    for (int g = lane; g < a.n_group; g += 32) {
        float best = -INFINITY, second = -INFINITY;
        for (int i = g * size; i < (g + 1) * size; i++) {
            const float x = choice[i];
            second = x > best ? best : x > second ? x : second;
            best = x > best ? x : best;
        }
        group[g] = a.group_by_two && size > 1 ? best + second : best;
    }
    __syncwarp();
    for (int j = 0; j < a.n_group_used; j++)
        take_best(group, a.n_group, lane);
    for (int i = lane; i < a.n_expert; i += 32)
        if (group[i / size] == group[i / size]) choice[i] = -INFINITY;
    __syncwarp();
}

// The chosen ones' weights (n_used), by one lane: they are few, and their sum has one order.
static __device__ __forceinline__ void finish_weights(const struct route_args a, float *w)
{
    if (a.late_softmax) {
        float top = -INFINITY, all = 0;
        for (int j = 0; j < a.n_used; j++)
            top = fmaxf(top, w[j]);
        top = top > -INFINITY ? top : 0;
        for (int j = 0; j < a.n_used; j++)
            all += w[j] = expf(w[j] - top);
        for (int j = 0; j < a.n_used; j++)
            w[j] /= all;
    }
    float sum = 0;
    for (int j = 0; j < a.n_used; j++)
        sum += w[j];
    for (int j = 0; j < a.n_used; j++)
        w[j] = (a.normalise ? w[j] / (sum + 1e-20f) : w[j]) * a.scale;
}

// By one warp; s: shared memory for (n_expert) scores, (n_expert) choice, (n_group).
static __device__ __forceinline__ void choose(const struct route_args &a, int64_t tok, float *s)
{
    const int lane = (int)threadIdx.x % 32, n = a.n_expert;
    const float *logits = a.logits + tok * n;
    float *choice = s + n, *w = a.weights + tok * a.n_used;
    int32_t *ids = a.ids + tok * a.n_used;
    if (a.late_softmax)
        for (int i = lane; i < n; i += 32)
            s[i] = logits[i];
    else
        scores_of(logits, n, a.sigmoid, lane, s);
    for (int i = lane; i < n; i += 32) {
        const float x = a.correction ? s[i] + a.correction[i] : s[i];
        choice[i] = x > -INFINITY ? x : -INFINITY; // NaN is never better than a number
    }
    __syncwarp();
    if (a.n_group > 1) choose_groups(a, choice, choice + n, lane);
    for (int j = 0; j < a.n_used; j++)
        take_best(choice, n, lane);
    for (int from = 0, at = 0; from < n; from += 32) { // those taken, in ascending order
        const int i = from + lane;
        const bool is_taken = i < n && choice[i] != choice[i];
        const uint32_t all = __ballot_sync(SIMT_FULL, is_taken);
        if (is_taken) {
            const int j = at + __popc(all & ((1u << lane) - 1));
            ids[j] = i;
            w[j] = s[i];
        }
        at += __popc(all);
    }
    __syncwarp();
    if (!lane) finish_weights(a, w);
}

static __global__ void __launch_bounds__(32) moe_choose(const struct route_args a)
{
    SIMT_DYNAMIC_SHARED(float, s);
    simt_follow();
    choose(a, blockIdx.x, s);
}

// -- route_sort: stable, so that sums over products have one order --

static __device__ __forceinline__ void put_product(const struct route_sort &a, int i, int expert,
                                                   int at)
{
    a.at[i] = at;
    a.row[at] = i / a.n_used;
    a.expert[at] = a.place ? a.place[expert] : expert;
}

// Few products: each finds its rank by looking at all of them. One block.
static __device__ __forceinline__ void rank_all(const struct route_sort &a, int n, int32_t *ids)
{
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x)
        ids[i] = __ldcg(a.ids + i);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) {
        const int id = ids[i];
        int at = 0;
        for (int j = 0; j < n; j++)
            at += ids[j] < id || (ids[j] == id && j < i);
        put_product(a, i, id, at);
        if (a.count) atomicAdd(a.count + id, 1u);
    }
}

static __global__ void __launch_bounds__(RANK_MAX) moe_rank(const struct route_sort a, int n)
{
    __shared__ int32_t ids[RANK_MAX];
    simt_follow();
    rank_all(a, n, ids);
}

// Few tokens: a warp for each chooses, then all of them sort.
static __global__ void __launch_bounds__(32 * ROUTE_TOK)
    moe_choose_sorted(const struct route_args a, const struct route_sort sort, int n)
{
    SIMT_DYNAMIC_SHARED(float, s);
    __shared__ int32_t ids[RANK_MAX];
    simt_follow();
    const int warp = (int)threadIdx.x / 32, n_group = a.n_group > 1 ? a.n_group : 0;
    choose(a, warp, s + warp * (2 * a.n_expert + n_group));
    __syncthreads();
    rank_all(sort, n, ids);
}

// Many: a warp for each expert counts its own, then puts them behind those of lower experts.
static __global__ void __launch_bounds__(32)
    moe_count(const struct route_sort a, int n, int *counts)
{
    simt_follow();
    const int expert = (int)blockIdx.x, lane = (int)threadIdx.x;
    int mine = 0;
    for (int i = lane; i < n; i += 32)
        mine += a.ids[i] == expert;
    mine = warp_sum(mine);
    if (lane) return;
    counts[expert] = mine;
    if (a.count) a.count[expert] += (unsigned)mine;
}
static __global__ void __launch_bounds__(32)
    moe_place(const struct route_sort a, int n, const int *counts)
{
    simt_follow();
    const int expert = (int)blockIdx.x, lane = (int)threadIdx.x;
    int at = 0;
    for (int e = lane; e < expert; e += 32)
        at += counts[e];
    at = warp_sum(at);
    for (int from = 0; from < n; from += 32) {
        const int i = from + lane;
        const bool mine = i < n && a.ids[i] == expert;
        const uint32_t all = __ballot_sync(SIMT_FULL, mine);
        if (mine) put_product(a, i, expert, at + __popc(all & ((1u << lane) - 1)));
        at += __popc(all);
    }
}

void cuda_moe_route_sort(struct kernels *k, const struct route_sort *a, int32_t n_tok)
{
    struct cuda *c = cuda_of(k);
    const int n = n_tok * a->n_used;
    BUG_ON(a->n_expert < 1 || a->n_expert > CUDA_EXPERTS_MAX);
    if (!n) return;
    if (n <= RANK_MAX) {
        LAUNCH_NEXT(c, moe_rank, 1, (unsigned)cuda_ceil(n, 32) * 32, 0, *a, n);
        return;
    }
    LAUNCH_NEXT(c, moe_count, (unsigned)a->n_expert, 32, 0, *a, n, c->counts);
    LAUNCH_NEXT(c, moe_place, (unsigned)a->n_expert, 32, 0, *a, n, c->counts);
}

void cuda_moe_route(struct kernels *k, const struct route_args *a, int32_t n_tok)
{
    struct cuda *c = cuda_of(k);
    BUG_ON(a->n_expert < 1 || a->n_expert > CUDA_EXPERTS_MAX);
    BUG_ON(a->n_used < 1 || a->n_used > a->n_expert);
    BUG_ON(a->n_group > 1 &&
           (a->n_expert % a->n_group || a->n_group_used < 1 || a->n_group_used > a->n_group));
    const int n_group = a->n_group > 1 ? a->n_group : 0;
    const size_t shared = (size_t)(2 * a->n_expert + n_group) * sizeof(float);
    const int n = n_tok * a->n_used;
    if (n_tok == 0) return;
    if (a->sort && n_tok <= ROUTE_TOK && n <= RANK_MAX && shared * (size_t)n_tok <= SHARED_MOST) {
        LAUNCH_NEXT(c, moe_choose_sorted, 1, 32 * (unsigned)n_tok, shared * (size_t)n_tok, *a,
                    *a->sort, n);
        return;
    }
    LAUNCH_NEXT(c, moe_choose, (unsigned)n_tok, 32, shared, *a);
    if (a->sort) cuda_moe_route_sort(k, a->sort, n_tok);
}

// -- what goes in and out of the products --

static __global__ void moe_spread(const float *x, const int32_t *at, float *weights, int n_used,
                                  int dim, float *out)
{
    simt_follow();
    const int64_t i = blockIdx.x; // product
    const float w = weights[i];
    const float *from = x + i / n_used * dim;
    float *to = out + (int64_t)at[i] * dim;
    for (int d = (int)threadIdx.x; d < dim; d += (int)blockDim.x)
        to[d] = from[d] * w;
    __syncthreads(); // all have read the weight
    if (!threadIdx.x) weights[i] = 1.0f;
}

void cuda_moe_spread(struct kernels *k, const float *x, const int32_t *at, float *weights,
                     int32_t n_tok, int32_t n_used, int32_t dim, float *out)
{
    struct cuda *c = cuda_of(k);
    if (n_tok)
        LAUNCH_NEXT(c, moe_spread, (unsigned)(n_tok * n_used), MOE_BLOCK, 0, x, at, weights, n_used,
                    dim, out);
}

static __global__ void moe_sum(const float *y, const int32_t *at, const float *weights, int64_t n,
                               int n_used, int dim, float *out)
{
    simt_follow();
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const int64_t tok = i / dim, col = i % dim;
    float sum = 0;
    for (int64_t j = tok * n_used; j < (tok + 1) * n_used; j++)
        sum = fmaf(weights[j], y[(int64_t)at[j] * dim + col], sum);
    out[i] = sum;
}

void cuda_moe_combine(struct kernels *k, const float *y, const int32_t *at, const float *weights,
                      int32_t n_tok, int32_t n_used, int32_t dim, float *out)
{
    struct cuda *c = cuda_of(k);
    const int64_t n = (int64_t)n_tok * dim;
    if (n)
        LAUNCH_NEXT(c, moe_sum, (unsigned)cuda_ceil(n, MOE_BLOCK), MOE_BLOCK, 0, y, at, weights, n,
                    n_used, dim, out);
}
