// product_thin: up to 8 rows of x with the matrix units, straight from x in float. A warp takes
// every n-th chunk of a tile of 16 rows and asks for the next one before it works on one.
#include "kernels/cuda/product.h"
#include "kernels/cuda/simt_mma.h"

// Sums of one block of columns.
struct thin_sums {
    float acc[4], c[4], x[4];
};

template <int t>
static __device__ __forceinline__ void thin_group(const struct product_args &p,
                                                  const struct form_chunk<t> &r, bool is_fine,
                                                  int u, int s, float4 v, struct thin_sums *o)
{
    typedef form<t> f;
    constexpr bool has_x = f::scale::HAS_ZERO || f::scale::HAS_LEAST;
    constexpr bool has_scale = f::KIND < FORM_BF16;
    const uint32_t ones[4] = {0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80};
    uint32_t a[4], rest[4];
    form_operand<t>(r, p.levels, u, s, a, rest);
    const uint32_t b[2] = {form_bf16x2(v.x, v.z), form_bf16x2(v.y, v.w)};
    float *c = has_scale ? o->c : o->acc;
    mma_m16n8k16_bf16(c, a, b);
    if (f::KIND == FORM_F16) mma_m16n8k16_bf16(c, rest, b);
    if (has_x) mma_m16n8k16_bf16(o->x, ones, b);
    if (is_fine) {
        const uint32_t br[2] = {form_bf16x2_rest(v.x, v.z, b[0]), form_bf16x2_rest(v.y, v.w, b[1])};
        mma_m16n8k16_bf16(c, a, br);
        if (f::KIND == FORM_F16) mma_m16n8k16_bf16(c, rest, br);
        if (has_x) mma_m16n8k16_bf16(o->x, ones, br);
    }
    if (!has_scale || (f::scale::COLS == 32 && s % 2 == 0)) return;
    struct product_scale<t> scale;
    product_scales<t>(r, form_block<t>(u, s), &scale);
    product_add<t>(o->acc, scale, o->c, o->x);
    SIMT_UNROLL
    for (int i = 0; i < 4; i++)
        o->c[i] = o->x[i] = 0;
}

template <int t>
static __device__ __forceinline__ void
thin_chunk(const struct product_args &p, const float *x, bool is_fine, int chunk,
           const struct form_chunk<t> &r, struct thin_sums *o)
{
    const int col = chunk * CHUNK_COLS + (threadIdx.x & 3) * 4;
    const int n_unit = product_units(p, chunk);
    SIMT_UNROLL
    for (int u = 0; u < UNITS; u++) {
        if (u >= n_unit) break;
        SIMT_UNROLL
        for (int s = 0; s < 4; s++) {
            float4 v = make_float4(0, 0, 0, 0);
            if (x) v = product_x<t>(p, x, col + u * UNIT_COLS + s * 16);
            thin_group<t>(p, r, is_fine, u, s, v, o);
        }
    }
}

template <int t>
static __device__ __forceinline__ void thin_load(const struct product_args &p, const uint8_t *tile,
                                                 int chunk, struct form_chunk<t> *r)
{
    form_chunk_load<t>(r, tile + (int64_t)chunk * form<t>::CHUNK, (int)threadIdx.x % 32,
                       product_units(p, chunk));
}

template <int t>
static __global__ void __launch_bounds__(32 * PRODUCT_WARPS, 2)
    thin(const __grid_constant__ struct product_args p)
{
    SIMT_DYNAMIC_SHARED(float, part); // (warp, token, row)
    struct product o;
    if (!product_at(p, (int)blockIdx.x, THIN_TOK, &o)) return;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, g = lane / 4;
    const int n_warp = (int)blockDim.x / 32;
    const uint8_t *tile = o.w + o.block * p.tile_bytes;
    const float *x = g < o.n ? product_row(o, g) : NULL;
    struct thin_sums sums = {};
    struct form_chunk<t> r;
    thin_load<t>(p, tile, warp, &r); // there are no more warps than chunks
    for (int chunk = warp; chunk < p.n_chunk;) {
        const int next = chunk + n_warp;
        if (form<t>::code::WORDS <= 24) {
            const struct form_chunk<t> now = r;
            if (next < p.n_chunk) thin_load<t>(p, tile, next, &r);
            thin_chunk<t>(p, x, o.is_fine, chunk, now, &sums);
        } else {
            thin_chunk<t>(p, x, o.is_fine, chunk, r, &sums);
            if (next < p.n_chunk) thin_load<t>(p, tile, next, &r);
        }
        chunk = next;
    }
    float *mine = part + warp * THIN_TOK * TILE_ROWS + g;
    SIMT_UNROLL
    for (int i = 0; i < 4; i++)
        mine[(lane % 4 * 2 + i % 2) * TILE_ROWS + i / 2 * 8] = sums.acc[i];
    __syncthreads();
    for (int i = (int)threadIdx.x; i < o.n * TILE_ROWS; i += (int)blockDim.x) {
        float sum = part[i];
        for (int k = 1; k < n_warp; k++)
            sum += part[k * THIN_TOK * TILE_ROWS + i];
        product_store(o, i / TILE_ROWS, o.block * TILE_ROWS + i % TILE_ROWS, sum);
    }
}

void product_thin(struct cuda *c, enum dtype form, const struct product_args *p, int32_t n_z)
{
    const unsigned n_warp = product_warps(p), shared = n_warp * THIN_TOK * TILE_ROWS * 4;
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
