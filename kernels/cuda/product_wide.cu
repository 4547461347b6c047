// product_wide: 9 to 64 rows of x at a time on the matrix units. The rows lie ready as bf16, each
// group of four columns as 0, 2, 1, 3 (gemm_prepare), 16 bytes for the two groups of a lane; they
// come through the first cache, which the 8 warps of a block share, each with a tile of its own.
#include "kernels/cuda/product.h"
#include "kernels/cuda/simt_mma.h"

// Both groups of one block of 32 columns, unpacked, with their scales.
template <int t> struct wide_block {
    uint32_t a[2][4], rest[2][4];
    struct product_scale<t> scale[2]; // one for each 16 columns, or the first
};

template <int t>
static __device__ __forceinline__ void wide_unpack(const struct product_args &p,
                                                   const struct form_chunk<t> &r, int u, int pair,
                                                   struct wide_block<t> *o)
{
    SIMT_UNROLL
    for (int i = 0; i < 2; i++) {
        form_operand<t>(r, p.levels, u, 2 * pair + i, o->a[i], o->rest[i]);
        if (form<t>::KIND < FORM_BF16 && (i == 0 || form<t>::scale::COLS == 16))
            product_scales<t>(r, form_block<t>(u, 2 * pair + i), &o->scale[i]);
    }
}

// 32 columns of 8 rows of x: those at q, and if they are asked for what those miss at r.
template <int t>
static __device__ __forceinline__ void wide_add(const struct wide_block<t> &w, const uint4 *q,
                                                const uint4 *r, float acc[4])
{
    typedef form<t> f;
    constexpr bool has_x = f::scale::HAS_ZERO || f::scale::HAS_LEAST;
    constexpr bool has_scale = f::KIND < FORM_BF16;
    const uint32_t ones[4] = {0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80};
    float c[4] = {0, 0, 0, 0}, x[4] = {0, 0, 0, 0};
    const uint4 v = *q;
    uint4 vr = make_uint4(0, 0, 0, 0);
    if (r) vr = *r;
    SIMT_UNROLL
    for (int i = 0; i < 2; i++) {
        const uint32_t b[2] = {i ? v.z : v.x, i ? v.w : v.y};
        float *to = has_scale ? c : acc;
        mma_m16n8k16_bf16(to, w.a[i], b);
        if (f::KIND == FORM_F16) mma_m16n8k16_bf16(to, w.rest[i], b);
        if (has_x) mma_m16n8k16_bf16(x, ones, b);
        if (r) {
            const uint32_t br[2] = {i ? vr.z : vr.x, i ? vr.w : vr.y};
            mma_m16n8k16_bf16(to, w.a[i], br);
            if (f::KIND == FORM_F16) mma_m16n8k16_bf16(to, w.rest[i], br);
            if (has_x) mma_m16n8k16_bf16(x, ones, br);
        }
        if (!has_scale || (f::scale::COLS == 32 && i == 0)) continue;
        product_add<t>(acc, w.scale[f::scale::COLS == 16 ? i : 0], c, x);
        SIMT_UNROLL
        for (int k = 0; k < 4; k++)
            c[k] = x[k] = 0;
    }
}

// Where each of a lane's rows of x begins, in 16 bytes; rows that are not there are those of row 0,
// and what comes of them is not stored.
template <int n_8> struct wide_rows {
    int32_t at[n_8];
};

template <int t, int n_8>
static __device__ __forceinline__ void
wide_chunk(const struct product_args &p, const struct product &o, int chunk,
           const struct form_chunk<t> &r, const struct wide_rows<n_8> &x, float acc[n_8][4])
{
    const int n_unit = product_units(p, chunk);
    SIMT_UNROLL
    for (int u = 0; u < UNITS; u++) {
        if (u >= n_unit) break;
        SIMT_UNROLL
        for (int pair = 0; pair < 2; pair++) {
            struct wide_block<t> w;
            wide_unpack<t>(p, r, u, pair, &w);
            const int at = (chunk * UNITS + u) * 8 + pair * 4 + (int)(threadIdx.x & 3);
            SIMT_UNROLL
            for (int i = 0; i < n_8; i++) {
                if (i * 8 >= o.n) break;
                wide_add<t>(w, p.xq + x.at[i] + at, o.is_fine ? p.xr + x.at[i] + at : NULL, acc[i]);
            }
        }
    }
}

// The blocks that share these rows put down their sums; the last one adds them up in order.
template <int n_8>
static __device__ __forceinline__ void wide_reduce(const struct product_args &p,
                                                   const struct product &o, float acc[n_8][4])
{
    __shared__ unsigned order;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int64_t size = WIDE_ROWS * 8 * n_8; // (token, row)
    float *all = p.partial + blockIdx.x * p.n_split * size;
    float *mine = all + blockIdx.y * size + warp * TILE_ROWS + lane / 4;
    SIMT_UNROLL
    for (int i = 0; i < n_8; i++)
        for (int k = 0; k < 4; k++)
            mine[(i * 8 + lane % 4 * 2 + k % 2) * WIDE_ROWS + k / 2 * 8] = acc[i][k];
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) order = atomicAdd(p.arrived + blockIdx.x, 1u);
    __syncthreads();
    if (order != (unsigned)p.n_split - 1) return;
    __threadfence();
    if (threadIdx.x == 0) p.arrived[blockIdx.x] = 0; // for the next product
    for (int i = (int)threadIdx.x; i < o.n * WIDE_ROWS; i += (int)blockDim.x) {
        float sum = __ldcg(all + i);
        for (int k = 1; k < p.n_split; k++)
            sum += __ldcg(all + k * size + i);
        product_store(o, i / WIDE_ROWS, o.block * WIDE_ROWS + i % WIDE_ROWS, sum);
    }
}

// One block does all the sums of an order, which are added up in shared memory.
template <int n_8>
static __device__ __forceinline__ void wide_keep(float acc[n_8][4], bool is_first, bool is_last,
                                                 float *kept)
{
    SIMT_UNROLL
    for (int i = 0; i < 4 * n_8; i++) {
        float *all = kept + i * 32 * PRODUCT_WARPS + threadIdx.x;
        const float sum = is_first ? acc[i / 4][i % 4] : *all + acc[i / 4][i % 4];
        *all = sum;
        acc[i / 4][i % 4] = is_last ? sum : 0.0f;
    }
}

template <int t, int n_8>
static __global__ void __launch_bounds__(32 * PRODUCT_WARPS, 1)
    wide(const __grid_constant__ struct product_args p)
{
    SIMT_DYNAMIC_SHARED(float, kept); // (4 n_8, threads) where wide_keep is used
    simt_follow();
    struct product o;
    if (!product_at(p, (int)blockIdx.x, (int)gridDim.x / p.n_block, 8 * n_8, &o)) return;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, g = lane / 4;
    const int tile = o.block * PRODUCT_WARPS + warp;
    float acc[n_8][4];
    struct wide_rows<n_8> x;
    SIMT_UNROLL
    for (int i = 0; i < n_8; i++) {
        const int tok = 8 * i + g < o.n ? 8 * i + g : 0;
        x.at[i] = o.q_at + (o.row ? o.row[tok] : tok) * p.ldq;
        acc[i][0] = acc[i][1] = acc[i][2] = acc[i][3] = 0;
    }
    for (int k = (int)blockIdx.y; k < p.n_order; k += p.n_split) {
        for (int chunk = k; chunk < p.n_chunk && tile * TILE_ROWS < o.rows; chunk += p.n_order) {
            struct form_chunk<t> r;
            form_chunk_load<t>(&r, o.w + tile * p.tile_bytes + (int64_t)chunk * form<t>::CHUNK,
                               lane, product_units(p, chunk));
            wide_chunk<t, n_8>(p, o, chunk, r, x, acc);
        }
        if (p.n_order != p.n_split) wide_keep<n_8>(acc, k == 0, k + 1 == p.n_order, kept);
    }
    if (p.n_split > 1) {
        wide_reduce<n_8>(p, o, acc);
        return;
    }
    SIMT_UNROLL
    for (int i = 0; i < n_8; i++)
        for (int k = 0; k < 4; k++)
            product_store(o, i * 8 + lane % 4 * 2 + k % 2, tile * TILE_ROWS + g + k / 2 * 8,
                          acc[i][k]);
}

void product_wide(struct cuda *c, enum dtype form, const struct product_args *p, int32_t n_z)
{
    const dim3 grid((unsigned)(p->n_block * n_z), (unsigned)p->n_split);
    const bool is_small = !p->expert && p->n_tok <= 16;
    const size_t sums = (is_small ? 2 : 8) * 4 * 32 * PRODUCT_WARPS * sizeof(float);
    const size_t shared = p->n_order == p->n_split ? 0 : sums;
    switch (form) {
#define CASE(t)                                                                                    \
    case t:                                                                                        \
        if (is_small)                                                                              \
            LAUNCH_NEXT(c, (wide<t, 2>), grid, dim3(32 * PRODUCT_WARPS), shared, *p);              \
        else                                                                                       \
            LAUNCH_NEXT(c, (wide<t, 8>), grid, dim3(32 * PRODUCT_WARPS), shared, *p);              \
        break;
        FORM_EACH_FAST(CASE)
#undef CASE
    default:
        BUG("product of a type without a form");
    }
}
