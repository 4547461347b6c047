// product_few: the feed-forward parts of a few experts in one launch, as a decode step has them: a
// block for each multiprocessor takes tiles by a counter, first those of gate and up, then those of
// down, which wait until all the first ones are done, with their first weights on their way. What
// this saves are the launches, their ragged ends, and the time in which memory has nothing to do.
#include "kernels/cuda/thin.h"

enum { FEW_WARPS = 2 * (int)PRODUCT_WARPS };

// state of few_args
enum { FEW_NEXT, FEW_DONE, FEW_LEFT };

static __device__ __forceinline__ int few_warps(const struct product_args &p)
{
    return p.n_chunk < PRODUCT_WARPS ? p.n_chunk : (int)PRODUCT_WARPS;
}

// A tile of 16 rows of `out`: the sums of one token's products, or of one product. Its columns lie
// as those of thin; warps that are left over begin with the next product.
template <int t>
static __device__ __forceinline__ void few_out(const struct few_args &a, int tile_at, float *part)
{
    const struct product_args &p = a.out;
    const struct product_job &job = p.jobs[0];
    const int n_z = a.n_out / p.n_block, z = tile_at % n_z, block = tile_at / n_z;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int n_warp = few_warps(p);
    const int n_team = FEW_WARPS / n_warp, team = warp / n_warp, mate = warp % n_warp;
    const int n_used = a.at ? a.n_used : 1;
    for (int j = team; j < n_used && team < n_team; j += n_team) {
        const int i = a.at ? a.at[z * n_used + j] : z;
        const uint8_t *tile = job.w + p.expert[i] * p.w_step + (int64_t)block * p.tile_bytes;
        const float *x = lane < 4 ? p.x + i * p.ldx : NULL;
        struct thin_sums sums = {};
        struct form_chunk<t> r;
        thin_load<t>(p, tile, mate, &r);
        simt_wait(a.state + FEW_DONE, (unsigned)a.n_in);
        thin_tile<t, true>(p, tile, x, false, mate, n_warp, r, &sums);
        float *mine = part + (j * n_warp + mate) * TILE_ROWS + lane / 4;
        if (lane % 4 == 0) mine[0] = sums.acc[0];
        if (lane % 4 == 0) mine[8] = sums.acc[2];
    }
    __syncthreads();
    const int row = block * TILE_ROWS + (int)threadIdx.x;
    float all = 0;
    for (int j = 0; j < n_used && threadIdx.x < TILE_ROWS && row < job.rows; j++) {
        const int i = a.at ? a.at[z * n_used + j] : z, expert = p.expert[i];
        const float *mine = part + j * n_warp * TILE_ROWS + threadIdx.x;
        float sum = mine[0];
        for (int k = 1; k < n_warp; k++)
            sum += mine[k * TILE_ROWS];
        const float f = job.factors ? __ldg(job.factors + expert) : job.factor;
        sum *= f == 0.0f ? 1.0f : f;
        if (job.bias) sum += __ldg(job.bias + (int64_t)expert * job.rows + row);
        all = a.at ? fmaf(a.weights[z * n_used + j], sum, all) : sum;
    }
    if (threadIdx.x < TILE_ROWS && row < job.rows) job.y[z * job.ldy + row] = all;
}

template <int t>
static __global__ void __launch_bounds__(32 * FEW_WARPS, 1)
    few(const __grid_constant__ struct few_args a)
{
    SIMT_DYNAMIC_SHARED(float, part);
    __shared__ unsigned taken[2];
    simt_follow();
    if (threadIdx.x == 0) taken[0] = atomicAdd(a.state + FEW_NEXT, 1u);
    for (int turn = 0;; turn ^= 1) {
        __syncthreads();
        const int at = (int)taken[turn], n_z = a.n_in ? a.n_in / a.in.n_block : 1;
        unsigned next = 0;
        if (at >= a.n_in + a.n_out) break;
        if (threadIdx.x == 0) next = atomicAdd(a.state + FEW_NEXT, 1u); // comes while we work
        if (at < a.n_in)
            thin_pair<t>(a.in, at / n_z, at % n_z, a.glu, few_warps(a.in), part);
        else
            few_out<t>(a, at - a.n_in, part);
        __syncthreads();
        if (threadIdx.x == 0) {
            taken[turn ^ 1] = next;
            __threadfence(); // of what the others have written, too
            if ((int)taken[turn] < a.n_in) atomicAdd(a.state + FEW_DONE, 1u); // no register for it
        }
    }
    if (threadIdx.x) return;
    if (atomicAdd(a.state + FEW_LEFT, 1u) != gridDim.x - 1) return;
    for (int i = 0; i < FEW_STATE; i++) // nobody else looks any more
        a.state[i] = 0;
}

void product_few(struct cuda *c, enum dtype form, const struct few_args *a)
{
    const size_t in = 2 * product_warps(&a->in) * THIN_PART;
    const size_t out = (size_t)(a->at ? a->n_used : 1) * product_warps(&a->out) * TILE_ROWS;
    const size_t shared = (in > out ? in : out) * sizeof(float);
    const int n_tile = a->n_in + a->n_out, n_block = n_tile < c->n_sm ? n_tile : c->n_sm;
    switch (form) {
#define CASE(t)                                                                                    \
    case t:                                                                                        \
        LAUNCH_NEXT(c, few<t>, (unsigned)n_block, 32 * FEW_WARPS, shared, *a);                     \
        break;
        FORM_EACH_FAST(CASE)
#undef CASE
    default:
        BUG("product of a type without a form");
    }
}
