// product_thin: up to 8 rows of x: a block has a tile of rows, or one of each of two weights
// (pair), and its warps share the columns. There are no more blocks than the device runs at once;
// each takes every n-th tile, and asks for the first weights of the next one before it adds up the
// sums of the one that is done, so that memory always has something to bring.
#include "kernels/cuda/thin.h"

enum { THIN_WARPS = 16 }; // of a multiprocessor: what registers suffice for

template <int t>
static __global__ void __launch_bounds__(32 * PRODUCT_WARPS, THIN_WARPS / PRODUCT_WARPS)
    thin(const __grid_constant__ struct product_args p, int n_z)
{
    SIMT_DYNAMIC_SHARED(float, part); // (warp, token, row)
    const int warp = (int)threadIdx.x / 32, n_warp = (int)blockDim.x / 32;
    struct product o;
    struct form_chunk<t> r;
    thin_begin(p, threadIdx.x || p.expert ? NULL : product_tile(p, (int)blockIdx.x, n_z));
    if (!product_at(p, (int)blockIdx.x, n_z, THIN_TOK, &o)) return;
    thin_load<t>(p, o.w + o.block * p.tile_bytes, warp, &r);
    for (int at = (int)blockIdx.x;;) {
        thin_sum<t>(p, o, warp, n_warp, r, part + warp * THIN_PART);
        at += (int)gridDim.x;
        const bool is_last = at >= p.n_block * n_z;
        if (!is_last) thin_load<t>(p, product_tile(p, at, n_z), warp, &r);
        __syncthreads();
        for (int i = (int)threadIdx.x; i < o.n * TILE_ROWS; i += (int)blockDim.x)
            product_store(o, i / TILE_ROWS, o.block * TILE_ROWS + i % TILE_ROWS,
                          thin_add(part, n_warp, i));
        if (is_last) return;
        __syncthreads();
        product_at(p, at, n_z, THIN_TOK, &o);
    }
}

template <int t>
static __global__ void __launch_bounds__(64 * PRODUCT_WARPS, THIN_WARPS / 2 / PRODUCT_WARPS)
    pair(const __grid_constant__ struct product_args p, int n_z, const struct op_glu glu)
{
    SIMT_DYNAMIC_SHARED(float, part);
    const int at = (int)threadIdx.x / 32, n_warp = (int)blockDim.x / 64;
    const int half = at / n_warp, warp = at - half * n_warp;
    struct product o;
    struct form_chunk<t> r;
    const bool asks = !p.expert && warp == 0 && threadIdx.x % 32 == 0;
    thin_begin(p, asks ? p.jobs[half].w + (int)blockIdx.x * p.tile_bytes : NULL);
    if (!product_pick(p, half, (int)blockIdx.x / n_z, (int)blockIdx.x % n_z, THIN_TOK, &o)) return;
    thin_load<t>(p, o.w + o.block * p.tile_bytes, warp, &r);
    for (int b = (int)blockIdx.x;;) {
        thin_sum<t>(p, o, warp, n_warp, r, part + at * THIN_PART);
        b += (int)gridDim.x;
        const bool is_last = b >= p.n_block * n_z; // else n_z is 1
        if (!is_last) thin_load<t>(p, p.jobs[half].w + b * p.tile_bytes, warp, &r);
        thin_pair_end(o, glu, half, n_warp, part);
        if (is_last) return;
        __syncthreads();
        product_pick(p, half, b, 0, THIN_TOK, &o);
    }
}

// Blocks of so many warps: of experts, who may have none, one for each tile.
static unsigned blocks_of(const struct cuda *c, const struct product_args *p, int32_t n_z,
                          unsigned n_warp)
{
    const unsigned all = (unsigned)(p->n_block * n_z);
    const unsigned at_once = (unsigned)c->n_sm * (THIN_WARPS / n_warp);
    return p->expert || all < at_once ? all : at_once;
}

void product_thin(struct cuda *c, enum dtype form, const struct product_args *p, int32_t n_z)
{
    const unsigned n_warp = product_warps(p), shared = n_warp * THIN_PART * 4;
    const unsigned grid = blocks_of(c, p, n_z, n_warp);
    switch (form) {
#define CASE(t)                                                                                    \
    case t:                                                                                        \
        LAUNCH_NEXT(c, thin<t>, grid, dim3(32 * n_warp), shared, *p, n_z);                         \
        break;
        FORM_EACH_FAST(CASE)
#undef CASE
    default:
        BUG("product of a type without a form");
    }
}

void product_pair(struct cuda *c, enum dtype form, const struct product_args *p, int32_t n_z,
                  const struct glu *glu)
{
    const unsigned n_warp = 2 * product_warps(p), shared = n_warp * THIN_PART * 4;
    const unsigned grid = blocks_of(c, p, n_z, n_warp);
    BUG_ON(!p->expert && n_z != 1);
    switch (form) {
#define CASE(t)                                                                                    \
    case t:                                                                                        \
        LAUNCH_NEXT(c, pair<t>, grid, dim3(32 * n_warp), shared, *p, n_z, glu_of(glu));            \
        break;
        FORM_EACH_FAST(CASE)
#undef CASE
    default:
        BUG("product of a type without a form");
    }
}
