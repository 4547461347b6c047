// thin: a warp's part of a tile of 16 rows with up to 8 rows of x on the matrix units, straight
// from x in float. It takes every n-th chunk and asks for the next one before it works on one.
#pragma once
#include "kernels/cuda/product.h"
#include "kernels/cuda/simt_mma.h"

// What 128 registers have room for: whether the next chunk is on its way while a warp works on one,
// and how many groups' x are asked for at once.
template <int t> struct thin_size {
    static constexpr int WORDS = (int)(sizeof(struct form_chunk<t>) / sizeof(uint32_t));
    static constexpr bool IS_DOUBLE = form<t>::code::WORDS <= 24 && WORDS < 36;
    static constexpr int X = WORDS < 32 ? 2 : 1;
};

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

template <int t, bool is_new>
static __device__ __forceinline__ void
thin_chunk(const struct product_args &p, const float *x, bool is_fine, int chunk,
           const struct form_chunk<t> &r, struct thin_sums *o)
{
    const int col = chunk * CHUNK_COLS + (threadIdx.x & 3) * 4;
    constexpr int N = thin_size<t>::X;
    const int n_unit = product_units(p, chunk);
    SIMT_UNROLL
    for (int u = 0; u < UNITS; u++) {
        if (u >= n_unit) break;
        SIMT_UNROLL
        for (int s = 0; s < 4; s += N) {
            float4 v[N];
            SIMT_UNROLL
            for (int i = 0; i < N; i++) {
                v[i] = make_float4(0, 0, 0, 0);
                if (x) v[i] = product_x<t, is_new>(p, x, col + u * UNIT_COLS + (s + i) * 16);
            }
            SIMT_UNROLL
            for (int i = 0; i < N; i++)
                thin_group<t>(p, r, is_fine, u, s + i, v[i], o);
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

// Chunks `warp`, warp + n_warp and so on of a tile, of which r holds the first; there are no more
// warps than chunks. x: the row of x of lane / 4, or NULL.
template <int t, bool is_new>
static __device__ __forceinline__ void thin_tile(const struct product_args &p, const uint8_t *tile,
                                                 const float *x, bool is_fine, int warp, int n_warp,
                                                 struct form_chunk<t> &r, struct thin_sums *sums)
{
    for (int chunk = warp; chunk < p.n_chunk;) {
        const int next = chunk + n_warp;
        if (thin_size<t>::IS_DOUBLE) {
            const struct form_chunk<t> now = r;
            if (next < p.n_chunk) thin_load<t>(p, tile, next, &r);
            thin_chunk<t, is_new>(p, x, is_fine, chunk, now, sums);
        } else {
            thin_chunk<t, is_new>(p, x, is_fine, chunk, r, sums);
            if (next < p.n_chunk) thin_load<t>(p, tile, next, &r);
        }
        chunk = next;
    }
}

enum { THIN_PART = (int)THIN_TOK * (int)TILE_ROWS }; // a warp's sums, (token, row)

static __device__ __forceinline__ void thin_put(const struct thin_sums &sums, float *part)
{
    const int lane = (int)threadIdx.x % 32;
    float *mine = part + lane / 4;
    SIMT_UNROLL
    for (int i = 0; i < 4; i++)
        mine[(lane % 4 * 2 + i % 2) * TILE_ROWS + i / 2 * 8] = sums.acc[i];
}

static __device__ __forceinline__ float thin_add(const float *part, int n_warp, int i)
{
    float sum = part[i];
    for (int k = 1; k < n_warp; k++)
        sum += part[k * THIN_PART + i];
    return sum;
}

// What a kernel begins with. The block's first weights, at `tile`, are asked for while the kernel
// before it ends, by one thread: what memory brings in the time of a small kernel, from which all
// blocks together fill a part of the second cache only.
static __device__ __forceinline__ void thin_begin(const struct product_args &p, const uint8_t *tile)
{
    const uint32_t most = 48u << 10;
    simt_let_next();
    if (tile) simt_prefetch(tile, p.tile_bytes < most ? (uint32_t)p.tile_bytes : most);
    simt_wait_before();
}

// A warp's sums of the tile that `o` picks, into part; r holds its first chunk.
template <int t>
static __device__ __forceinline__ void thin_sum(const struct product_args &p,
                                                const struct product &o, int warp, int n_warp,
                                                struct form_chunk<t> &r, float *part)
{
    const int lane = (int)threadIdx.x % 32;
    const float *x = lane / 4 < o.n ? product_row(o, lane / 4) : NULL;
    struct thin_sums sums = {};
    thin_tile<t, false>(p, o.w + o.block * p.tile_bytes, x, o.is_fine, warp, n_warp, r, &sums);
    thin_put(sums, part);
}

// Both halves of a block (2 n_warp warps) have put down their sums of tiles of jobs 0 and 1, which
// are brought to an end here, each in the place of its first warp's sums; then glu of both.
static __device__ __forceinline__ void
thin_pair_end(const struct product &o, const struct op_glu &glu, int half, int n_warp, float *part)
{
    float *mine = part + half * n_warp * THIN_PART;
    const int thread = (int)threadIdx.x - half * n_warp * 32, n = o.n * TILE_ROWS;
    __syncthreads();
    for (int i = thread; i < n && half < 2; i += n_warp * 32) {
        const int row = o.block * TILE_ROWS + i % TILE_ROWS;
        const float sum = thin_add(mine, n_warp, i);
        mine[i] = row < o.rows ? product_end(o, row, sum) : 0.0f;
    }
    __syncthreads();
    for (int i = thread; i < n && !half; i += n_warp * 32) {
        const int row = o.block * TILE_ROWS + i % TILE_ROWS;
        if (row < o.rows)
            o.y[i / TILE_ROWS * o.ldy + row] = glu(mine[i], mine[n_warp * THIN_PART + i]);
    }
}

// Tile b of the jobs 0 and 1 by a whole block, n_warp of its warps for each; part (2 n_warp,
// THIN_PART) is shared memory.
template <int t>
static __device__ __forceinline__ void thin_pair(const struct product_args &p, int b, int z,
                                                 const struct op_glu &glu, int n_warp, float *part)
{
    const int at = (int)threadIdx.x / 32, half = at / n_warp, warp = at - half * n_warp;
    struct product o;
    if (!product_pick(p, half & 1, b, z, THIN_TOK, &o)) return; // so for all threads
    if (half < 2) {
        struct form_chunk<t> r;
        thin_load<t>(p, o.w + o.block * p.tile_bytes, warp, &r);
        thin_sum<t>(p, o, warp, n_warp, r, part + at * THIN_PART);
    }
    thin_pair_end(o, glu, half, n_warp, part);
}
