// product_thin: up to 8 rows of x: a block has one tile of rows, or of two weights (pair), and its
// warps share the columns.
#include "kernels/cuda/thin.h"

template <int t>
static __global__ void __launch_bounds__(32 * PRODUCT_WARPS, 2)
    thin(const __grid_constant__ struct product_args p)
{
    SIMT_DYNAMIC_SHARED(float, part); // (warp, token, row)
    struct product o;
    if (!product_at(p, (int)blockIdx.x, THIN_TOK, &o)) return;
    const int warp = (int)threadIdx.x / 32;
    thin_sum<t>(p, o, warp, (int)blockDim.x / 32, part + warp * THIN_PART);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < o.n * TILE_ROWS; i += (int)blockDim.x)
        product_store(o, i / TILE_ROWS, o.block * TILE_ROWS + i % TILE_ROWS,
                      thin_add(part, (int)blockDim.x / 32, i));
}

template <int t>
static __global__ void __launch_bounds__(64 * PRODUCT_WARPS, 1)
    pair(const __grid_constant__ struct product_args p, const struct op_glu glu)
{
    SIMT_DYNAMIC_SHARED(float, part);
    const int n_z = gridDim.x / p.n_block;
    thin_pair<t>(p, (int)blockIdx.x / n_z, (int)blockIdx.x % n_z, glu, (int)blockDim.x / 64, part);
}

void product_thin(struct cuda *c, enum dtype form, const struct product_args *p, int32_t n_z)
{
    const unsigned n_warp = product_warps(p), shared = n_warp * THIN_PART * 4;
    const dim3 grid((unsigned)(p->n_block * n_z));
    switch (form) {
#define CASE(t)                                                                                    \
    case t:                                                                                        \
        LAUNCH(thin<t>, grid, dim3(32 * n_warp), shared, c->stream, *p);                           \
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
    const dim3 grid((unsigned)(p->n_block * n_z));
    switch (form) {
#define CASE(t)                                                                                    \
    case t:                                                                                        \
        LAUNCH(pair<t>, grid, dim3(32 * n_warp), shared, c->stream, *p, glu_of(glu));              \
        break;
        FORM_EACH_FAST(CASE)
#undef CASE
    default:
        BUG("product of a type without a form");
    }
}
