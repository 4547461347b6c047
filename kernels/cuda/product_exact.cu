// product_exact: products in float (PRECISION_EXACT, and weights in F32). A warp takes every n-th
// chunk of a tile; a lane keeps a chain of fma for each of its two rows and each row of x, over its
// own columns; 4 lanes times the warps of the block are then added up in order. Nothing of it
// depends on how many rows x has.
#include "kernels/cuda/product.h"

struct exact_sums {
    float row[2][EXACT_TOK];
};

template <int t>
static __device__ __forceinline__ void
exact_chunk(const struct product_args &p, const struct product &o, int chunk, int n_unit,
            const struct form_chunk<t> &r, struct exact_sums *sums)
{
    const int col = chunk * CHUNK_COLS + (threadIdx.x & 3) * 4;
    SIMT_UNROLL
    for (int u = 0; u < UNITS; u++) {
        if (u >= n_unit) break;
        SIMT_UNROLL
        for (int s = 0; s < 4; s++) {
            float w[2][4];
            form_values<t>(r, p.levels, u, s, 0, w[0]);
            form_values<t>(r, p.levels, u, s, 1, w[1]);
            SIMT_UNROLL
            for (int i = 0; i < EXACT_TOK; i++) {
                if (i >= o.n) break;
                const float4 x = product_x<t>(p, product_row(o, i), col + u * UNIT_COLS + s * 16);
                SIMT_UNROLL
                for (int h = 0; h < 2; h++) {
                    float a = sums->row[h][i];
                    a = fmaf(w[h][0], x.x, a);
                    a = fmaf(w[h][1], x.y, a);
                    a = fmaf(w[h][2], x.z, a);
                    sums->row[h][i] = fmaf(w[h][3], x.w, a);
                }
            }
        }
    }
}

template <int t>
static __global__ void __launch_bounds__(32 * PRODUCT_WARPS)
    exact(const __grid_constant__ struct product_args p)
{
    SIMT_DYNAMIC_SHARED(float, part); // (warp, t, token, row)
    simt_follow();
    struct product o;
    if (!product_at(p, (int)blockIdx.x, (int)gridDim.x / p.n_block, EXACT_TOK, &o)) return;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int n_warp = (int)blockDim.x / 32;
    const uint8_t *tile = o.w + o.block * p.tile_bytes;
    struct exact_sums sums;
    SIMT_UNROLL
    for (int i = 0; i < 2 * EXACT_TOK; i++)
        sums.row[i % 2][i / 2] = 0;
    for (int chunk = warp; chunk < p.n_chunk; chunk += n_warp) {
        const int n_unit = product_units(p, chunk);
        struct form_chunk<t> r;
        form_chunk_load<t>(&r, tile + (int64_t)chunk * form<t>::CHUNK, lane, n_unit);
        exact_chunk<t>(p, o, chunk, n_unit, r, &sums);
    }
    float *mine = part + (warp * 4 + lane % 4) * EXACT_TOK * TILE_ROWS + lane / 4;
    SIMT_UNROLL
    for (int i = 0; i < EXACT_TOK; i++)
        for (int h = 0; h < 2; h++)
            mine[i * TILE_ROWS + 8 * h] = sums.row[h][i];
    __syncthreads();
    for (int i = (int)threadIdx.x; i < o.n * TILE_ROWS; i += (int)blockDim.x) {
        float sum = part[i];
        for (int k = 1; k < 4 * n_warp; k++)
            sum += part[k * EXACT_TOK * TILE_ROWS + i];
        product_store(o, i / TILE_ROWS, o.block * TILE_ROWS + i % TILE_ROWS, sum);
    }
}

void product_exact(struct cuda *c, enum dtype form, const struct product_args *p, int32_t n_z)
{
    const unsigned n_warp = product_warps(p), shared = n_warp * 4 * EXACT_TOK * TILE_ROWS * 4;
    const dim3 grid((unsigned)(p->n_block * n_z));
    switch (form) {
#define CASE(t)                                                                                    \
    case t:                                                                                        \
        LAUNCH_NEXT(c, exact<t>, grid, dim3(32 * n_warp), shared, *p);                             \
        break;
        FORM_EACH(CASE)
#undef CASE
    default:
        BUG("product of a type without a form");
    }
}
