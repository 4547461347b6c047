// attn_mma: attention on the matrix units: pages of 16 and of 8 bits, float sums. PRECISION_FAST.
//
// Keys and values go through shared memory in tiles, the next one on its way while one is worked
// on; those of 8 bits arrive as they are and become 16-bit floats there. Products of a warp are 16
// query rows by 16 keys at a time; the weights are, as they come out of the scores, the left factor
// of the product with the values (Dao 2023, arXiv 2307.08691). Scores are in units of log 2.
//
//     attn_many_kernel   blocks of rows; a warp has 16 or 32 rows and sees all keys of a tile
//     attn_few_kernel    up to 16 rows (decode: the heads of one KV head); the warps share a tile's
//                        keys, each with sums of its own, joined at the end
//     attn_latent_kernel heads too long for either whose values lie in the keys (MLA): the warps
//                        share the keys for the scores, then the columns of the values
#include "kernels/cuda/attn.h"
#include "kernels/cuda/simt_mma.h"

static const float MMA_LOG2E = 1.44269504f, MMA_LN2 = 0.693147181f;

// What the matrix units get of pages of a type: 16-bit floats of one of two kinds. uint8_t stands
// for both types of 8 bits.
template <class T> struct mma_page {
    static const bool IS_BF16 = false, IS_WIDE = sizeof(T) == 2;
};
template <> struct mma_page<__nv_bfloat16> {
    static const bool IS_BF16 = true, IS_WIDE = true;
};

// A tile of TOK keys and values (of long heads, which have their values in the keys, of keys only)
// in shared memory, for the products and as it arrives (which is the same for pages of 16 bits);
// bytes.
template <int HD, int TOK, class T> struct mma_tile {
    static const int32_t LD = HD + 8; // elements from row to row: no two in the same banks
    static const int32_t SIDES = HD > 256 ? 1 : 2;
    static const int32_t TILE = 2 * SIDES * TOK * LD;
    static const int32_t SCALES = mma_page<T>::IS_WIDE ? 0 : HD / ATTN_Q8_COLS; // of a token
    static const int32_t ROW = mma_page<T>::IS_WIDE ? 2 * LD : HD;              // of a stage
    static const int32_t SCALES_AT = SIDES * TOK * ROW;
    static const int32_t STAGE = SCALES_AT + SIDES * TOK * SCALES * 4;
    static const int32_t SHARED = 2 * STAGE + (mma_page<T>::IS_WIDE ? 0 : TILE);
};
template <int HD> struct mma_shape {
    static const int32_t LD = HD + 8;
    static const int32_t FEW_TOK = HD > 128 ? 32 : 64;
    static const int32_t FEW_WARPS = FEW_TOK / 16;
    static const int32_t MANY_TOK = 32;
    static const int32_t MANY_WARPS = HD > 192 ? 2 : 4;
    static const int32_t MANY_EACH = HD > 128 ? 1 : 2; // 16 rows, of a warp
    static const int32_t MANY_ROWS = 16 * MANY_EACH * MANY_WARPS;
};

template <class T> static __device__ __forceinline__ uint32_t mma_pack(float low, float high)
{
    uint32_t u;
    if constexpr (mma_page<T>::IS_BF16) {
        const __nv_bfloat162 h = __floats2bfloat162_rn(low, high);
        memcpy(&u, &h, sizeof u);
    } else {
        const __half2 h = __floats2half2_rn(low, high);
        memcpy(&u, &h, sizeof u);
    }
    return u;
}
template <class T>
static __device__ __forceinline__ void mma_add(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    if constexpr (mma_page<T>::IS_BF16)
        mma_m16n8k16_bf16(d, a, b);
    else
        mma_m16n8k16_f16(d, a, b);
}

// Fragments: of 16 rows and 16 dimensions (left); of 16 keys and 16 dimensions for scores (two
// right ones, keys 0-7 and 8-15) and for values (two right ones, dimensions 0-7 and 8-15).
static __device__ __forceinline__ void mma_load_left(uint32_t r[4], const uint16_t *p, int32_t ld)
{
    const int32_t lane = (int32_t)threadIdx.x % 32;
    ldmatrix_x4(r, p + (lane % 16) * ld + lane / 16 * 8);
}
static __device__ __forceinline__ void mma_load_keys(uint32_t r[4], const uint16_t *p, int32_t ld)
{
    const int32_t lane = (int32_t)threadIdx.x % 32;
    ldmatrix_x4(r, p + (lane % 8 + lane / 16 * 8) * ld + lane / 8 % 2 * 8);
}
static __device__ __forceinline__ void mma_load_values(uint32_t r[4], const uint16_t *p, int32_t ld)
{
    const int32_t lane = (int32_t)threadIdx.x % 32;
    ldmatrix_x4_trans(r, p + (lane % 16) * ld + lane / 16 * 8);
}

// A block's query rows as 16-bit floats, zeros beyond them, and beyond head_dim.
template <class T>
static __device__ __forceinline__ void mma_load_q(const struct attn_dev *a,
                                                  const struct attn_block *b, uint16_t *q,
                                                  int32_t n_row, int32_t dims)
{
    for (int32_t i = (int32_t)threadIdx.x; i < n_row * dims / 2; i += (int32_t)blockDim.x) {
        const int32_t r = 2 * i / dims, d = 2 * i % dims;
        const bool is = r < b->n_row;
        const float *from = is ? a->q + attn_row_at(a, b, r) * a->head_dim : a->q;
        const uint32_t two = mma_pack<T>(is && d < a->head_dim ? from[d] : 0.0f,
                                         is && d + 1 < a->head_dim ? from[d + 1] : 0.0f);
        memcpy(q + r * (dims + 8) + d, &two, sizeof two);
    }
}

// Sends a tile's keys from position seg on (and values unless they lie in the keys) on their way to
// a stage, and their scales; zeros where the block sees none and beyond a row's end. What is not
// seen has no scale that may be used.
template <int HD, int TOK, class T>
static __device__ __forceinline__ void
mma_fetch(const struct attn_dev *a, const struct attn_block *b, int32_t seg, char *stage)
{
    typedef struct mma_tile<HD, TOK, T> tile;
    enum { EACH = 16 / sizeof(T), N = HD / EACH }; // elements of 16 bytes, such pieces of a row
    for (int32_t i = (int32_t)threadIdx.x; i < TOK * N; i += (int32_t)blockDim.x) {
        const int32_t key = i / N, d = i % N * EACH, pos = seg + key;
        const bool is = pos >= b->lo && pos < b->hi;
        const char *page = is ? attn_page(a, b, pos) : a->kv;
        const int64_t at = is ? pos & (a->page_tok - 1) : 0;
        const bool has_k = is && d < a->k_ld, has_v = is && d < a->v_ld;
        char *to = stage + key * tile::ROW + d * (int32_t)sizeof(T);
        cp_async16(to, page + (has_k ? (at * a->k_ld + d) * (int64_t)sizeof(T) : 0),
                   has_k ? 16 : 0);
        if (!a->v_in_k)
            cp_async16(to + TOK * tile::ROW,
                       page + (has_v ? a->v_at + (at * a->v_ld + d) * (int64_t)sizeof(T) : 0),
                       has_v ? 16 : 0);
    }
    if constexpr (tile::SCALES > 0) { // four tokens' at a time
        const int32_t n = a->k_scales + (a->v_in_k ? 0 : a->v_scales);
        for (int32_t i = (int32_t)threadIdx.x; i < TOK / 4 * n; i += (int32_t)blockDim.x) {
            const int32_t four = i / n * 4, j = i % n, pos = seg + four;
            const bool is_key = j < a->k_scales, is = pos + 3 >= b->lo && pos < b->hi;
            const int32_t each = is_key ? a->k_scales : a->v_scales;
            const int32_t part = is_key ? j : j - a->k_scales;
            const char *page = is ? attn_page(a, b, pos) : a->kv;
            const int64_t from = (is_key ? a->k_scale_at : a->v_scale_at) +
                                 4 * (int64_t)(pos & (a->page_tok - 1)) * each + 16 * part;
            cp_async16(stage + tile::SCALES_AT + (is_key ? 0 : 4 * TOK * tile::SCALES) +
                           4 * four * each + 16 * part,
                       page + (is ? from : 0), is ? 16 : 0);
        }
    }
    cp_async_commit();
}

// Four codes as 16-bit floats, before their scale.
static __device__ __forceinline__ void mma_widen_q8(uint32_t codes, __half2 h[2])
{
    // With the sign turned, a code is the last byte of a float between 1024 and 1280.
    const uint32_t u = codes ^ 0x80808080u;
    const uint32_t w[2] = {__byte_perm(u, 0x64646464u, 0x4140),
                           __byte_perm(u, 0x64646464u, 0x4342)};
    memcpy(h, w, sizeof w);
    const __half2 base = __float2half2_rn(1152.0f);
    h[0] = __hsub2(h[0], base);
    h[1] = __hsub2(h[1], base);
}
static __device__ __forceinline__ void mma_widen_f8(uint32_t codes, __half2 h[2])
{
    // E4M3 in the upper bits of a half is 1/256 of itself, also where it has no leading one.
    uint32_t w[2] = {__byte_perm(codes, 0, 0x1404), __byte_perm(codes, 0, 0x3424)};
    for (int i = 0; i < 2; i++)
        w[i] = (w[i] & 0x80008000u) | (w[i] >> 1 & 0x3f803f80u);
    memcpy(h, w, sizeof w);
}

// A stage of 8 bits becomes a tile: by all threads, between barriers.
template <int HD, int TOK, class T>
static __device__ __forceinline__ void mma_widen(const struct attn_dev *a,
                                                 const struct attn_block *b, int32_t seg,
                                                 const char *stage, uint16_t *out)
{
    typedef struct mma_tile<HD, TOK, T> tile;
    const int32_t n = (a->v_in_k ? 1 : 2) * TOK;
    const float more = a->is_f8 ? 256.0f : 1.0f;
    for (int32_t i = (int32_t)threadIdx.x; i < n * (HD / 8); i += (int32_t)blockDim.x) {
        const int32_t row = i / (HD / 8), d = i % (HD / 8) * 8, key = row % TOK, pos = seg + key;
        const bool is_key = row < TOK;
        const float *scales = (const float *)(stage + tile::SCALES_AT) +
                              (is_key ? 0 : TOK * tile::SCALES) +
                              key * (is_key ? a->k_scales : a->v_scales);
        const bool is = pos >= b->lo && pos < b->hi && d < (is_key ? a->k_ld : a->v_ld);
        const __half2 scale =
            __float2half2_rn(is ? scales[a->is_f8 ? 0 : d / ATTN_Q8_COLS] * more : 0.0f);
        uint32_t codes[2];
        memcpy(codes, stage + row * tile::ROW + d, sizeof codes);
        __half2 h[4];
        for (int j = 0; j < 2; j++) {
            if (a->is_f8)
                mma_widen_f8(codes[j], h + 2 * j);
            else
                mma_widen_q8(codes[j], h + 2 * j);
        }
        for (int j = 0; j < 4; j++)
            h[j] = __hmul2(h[j], scale);
        uint4 four;
        memcpy(&four, h, sizeof four);
        *(uint4 *)(void *)(out + row * tile::LD + d) = four;
    }
}

// The tile of the stage that has arrived, for all threads: it is theirs until the next barrier.
template <int HD, int TOK, class T>
static __device__ __forceinline__ const uint16_t *mma_arrived(const struct attn_dev *a,
                                                              const struct attn_block *b,
                                                              int32_t seg, char *stages, int32_t i)
{
    typedef struct mma_tile<HD, TOK, T> tile;
    const char *stage = stages + i * tile::STAGE;
    cp_async_wait<1>();
    __syncthreads();
    if constexpr (mma_page<T>::IS_WIDE) {
        return (const uint16_t *)(const void *)stage;
    } else {
        uint16_t *out = (uint16_t *)(void *)(stages + 2 * tile::STAGE);
        mma_widen<HD, TOK, T>(a, b, seg, stage, out);
        __syncthreads();
        return out;
    }
}

// Sends the tile at `seg` on its way, if the block sees any of it.
template <int HD, int TOK, class T>
static __device__ __forceinline__ void
mma_send(const struct attn_dev *a, const struct attn_block *b, int32_t seg, char *stages, int32_t i)
{
    if (seg < b->hi)
        mma_fetch<HD, TOK, T>(a, b, seg, stages + i * mma_tile<HD, TOK, T>::STAGE);
    else
        cp_async_commit();
}

// The running softmax of a lane's rows g and g + 8 of 16, g = lane / 4; the four lanes of a row
// have the same maximum and each a part of the sum.
struct mma_rows {
    int32_t lo[2], hi[2]; // keys that each sees in this split
    float m[2], l[2];
};

static __device__ __forceinline__ struct mma_rows
mma_rows_of(const struct attn_dev *a, const struct attn_block *b, int32_t row_from)
{
    struct mma_rows rows;
    SIMT_UNROLL
    for (int i = 0; i < 2; i++) {
        const int32_t row = row_from + (int32_t)threadIdx.x % 32 / 4 + 8 * i;
        rows.lo[i] = rows.hi[i] = 0;
        rows.m[i] = -INFINITY;
        rows.l[i] = 0.0f;
        if (row >= b->n_row) continue;
        const int32_t pos = attn_row_pos(b, row), lo = attn_sight(a, pos);
        rows.lo[i] = lo > b->lo ? lo : b->lo;
        rows.hi[i] = pos + 1 < b->hi ? pos + 1 : b->hi;
    }
    return rows;
}

// Products s of the lane's rows with keys key + 8 j + {0, 1}, N of j, become weights; shrink is
// what earlier sums are to be multiplied by.
template <int N>
static __device__ __forceinline__ void mma_softmax(const struct attn_dev *a, struct mma_rows *rows,
                                                   int32_t key, float s[N][4], float shrink[2])
{
    const float scale = a->scale * MMA_LOG2E;
    SIMT_UNROLL
    for (int i = 0; i < 2; i++) {
        const bool whole = rows->lo[i] <= key && rows->hi[i] >= key + 8 * N - 6;
        float top = rows->m[i], sum = 0.0f;
        SIMT_UNROLL
        for (int j = 0; j < 2 * N; j++) {
            const int32_t at = key + j / 2 * 8 + j % 2;
            float x = s[j / 2][2 * i + j % 2];
            x = a->softcap != 0.0f ? attn_score(a, x) * MMA_LOG2E : x * scale;
            if (!whole && (at < rows->lo[i] || at >= rows->hi[i])) x = -INFINITY;
            s[j / 2][2 * i + j % 2] = x;
            top = fmaxf(top, x);
        }
        top = fmaxf(top, __shfl_xor_sync(SIMT_FULL, top, 1));
        top = fmaxf(top, __shfl_xor_sync(SIMT_FULL, top, 2));
        const float base = top > -INFINITY ? top : 0.0f;
        SIMT_UNROLL
        for (int j = 0; j < 2 * N; j++) {
            const float p = exp2f(s[j / 2][2 * i + j % 2] - base);
            s[j / 2][2 * i + j % 2] = p;
            sum += p;
        }
        shrink[i] = exp2f(rows->m[i] - base);
        rows->l[i] = fmaf(rows->l[i], shrink[i], sum);
        rows->m[i] = top;
    }
}

// The whole sums of the lane's rows; maxima as the other kernels have them.
static __device__ __forceinline__ void mma_rows_end(struct mma_rows *rows)
{
    SIMT_UNROLL
    for (int i = 0; i < 2; i++) {
        rows->l[i] += __shfl_xor_sync(SIMT_FULL, rows->l[i], 1);
        rows->l[i] += __shfl_xor_sync(SIMT_FULL, rows->l[i], 2);
        rows->m[i] *= MMA_LN2;
    }
}

// o (M times 16 rows, n of 8 columns) = o * shrink + p v, p of KEYS keys, v from the first of its
// columns on.
template <class T, int KEYS, int N, int M>
static __device__ __forceinline__ void mma_weigh(float o[M][N][4], const float p[M][KEYS / 8][4],
                                                 const float shrink[M][2], const uint16_t *v,
                                                 int32_t ld, int32_t cols)
{
    SIMT_UNROLL
    for (int m = 0; m < M; m++) {
        if (shrink[m][0] == 1.0f && shrink[m][1] == 1.0f) continue; // as it mostly is
        SIMT_UNROLL
        for (int d = 0; d < N; d++) {
            o[m][d][0] *= shrink[m][0];
            o[m][d][1] *= shrink[m][0];
            o[m][d][2] *= shrink[m][1];
            o[m][d][3] *= shrink[m][1];
        }
    }
    SIMT_UNROLL
    for (int i = 0; i < KEYS / 16; i++) {
        uint32_t left[M][4];
        SIMT_UNROLL
        for (int m = 0; m < M; m++) {
            const float *x = p[m][2 * i], *y = p[m][2 * i + 1];
            left[m][0] = mma_pack<T>(x[0], x[1]);
            left[m][1] = mma_pack<T>(x[2], x[3]);
            left[m][2] = mma_pack<T>(y[0], y[1]);
            left[m][3] = mma_pack<T>(y[2], y[3]);
        }
        SIMT_UNROLL
        for (int d = 0; d < N; d += 2) {
            if (8 * d >= cols) continue;
            uint32_t right[4];
            mma_load_values(right, v + 16 * i * ld + 8 * d, ld);
            SIMT_UNROLL
            for (int m = 0; m < M; m++) {
                mma_add<T>(o[m][d], left[m], right);
                mma_add<T>(o[m][d + 1], left[m], right + 2);
            }
        }
    }
}

// s (M times 16 rows, KEYS keys) = q k^T over HD dimensions.
template <class T, int HD, int KEYS, int M>
static __device__ __forceinline__ void mma_products(float s[M][KEYS / 8][4], const uint16_t *q,
                                                    const uint16_t *k, int32_t ld)
{
    SIMT_UNROLL
    for (int m = 0; m < M; m++)
        SIMT_UNROLL
    for (int j = 0; j < KEYS / 8; j++)
        s[m][j][0] = s[m][j][1] = s[m][j][2] = s[m][j][3] = 0.0f;
    SIMT_UNROLL
    for (int d = 0; d < HD; d += 16) {
        uint32_t left[M][4];
        SIMT_UNROLL
        for (int m = 0; m < M; m++)
            mma_load_left(left[m], q + 16 * m * ld + d, ld);
        SIMT_UNROLL
        for (int j = 0; j < KEYS / 8; j += 2) {
            uint32_t right[4];
            mma_load_keys(right, k + 8 * j * ld + d, ld);
            SIMT_UNROLL
            for (int m = 0; m < M; m++) {
                mma_add<T>(s[m][j], left[m], right);
                mma_add<T>(s[m][j + 1], left[m], right + 2);
            }
        }
    }
}

// All tiles of a block's keys: KEYS keys from key_from on of each for the warp's M times 16 rows at
// q. is_idle: a warp without rows.
template <class T, int HD, int TOK, int KEYS, int M>
static __device__ __forceinline__ void
mma_walk(const struct attn_dev *a, const struct attn_block *b, const uint16_t *q, char *stages,
         int32_t key_from, bool is_idle, struct mma_rows rows[M], float o[M][HD / 8][4])
{
    typedef struct mma_tile<HD, TOK, T> tile;
    const int32_t from = b->lo / TOK * TOK, v_at = a->v_in_k ? 0 : TOK * tile::LD;
    SIMT_UNROLL
    for (int m = 0; m < M; m++)
        SIMT_UNROLL
    for (int d = 0; d < HD / 8; d++)
        o[m][d][0] = o[m][d][1] = o[m][d][2] = o[m][d][3] = 0.0f;
    mma_send<HD, TOK, T>(a, b, from, stages, 0);
    for (int32_t seg = from, i = 0; seg < b->hi; seg += TOK, i ^= 1) {
        mma_send<HD, TOK, T>(a, b, seg + TOK, stages, i ^ 1);
        const uint16_t *k = mma_arrived<HD, TOK, T>(a, b, seg, stages, i) + key_from * tile::LD;
        if (!is_idle) {
            float s[M][KEYS / 8][4], shrink[M][2];
            mma_products<T, HD, KEYS, M>(s, q, k, tile::LD);
            SIMT_UNROLL
            for (int m = 0; m < M; m++)
                mma_softmax<KEYS / 8>(a, &rows[m], seg + key_from + (int32_t)threadIdx.x % 4 * 2,
                                      s[m], shrink[m]);
            mma_weigh<T, KEYS, HD / 8, M>(o, s, shrink, k + v_at, tile::LD, a->head_dim_v);
        }
        __syncthreads();
    }
    cp_async_wait<0>();
    SIMT_UNROLL
    for (int m = 0; m < M; m++)
        mma_rows_end(&rows[m]);
}

// The lane's part of o (16 rows from row_from on, n of 8 columns from column col on) goes out.
template <int N>
static __device__ __forceinline__ void mma_put(const struct attn_dev *a, const struct attn_block *b,
                                               const struct mma_rows *rows, int32_t row_from,
                                               int32_t col, const float o[N][4])
{
    const int32_t lane = (int32_t)threadIdx.x % 32;
    SIMT_UNROLL
    for (int i = 0; i < 2; i++) {
        const int32_t row = row_from + lane / 4 + 8 * i;
        if (row >= b->n_row) continue;
        const struct attn_out out = attn_out_of(a, b, row, rows->m[i], rows->l[i]);
        if (lane % 4 == 0 && col == 0) attn_put_sums(&out, rows->m[i], rows->l[i]);
        if (attn_is_nothing(&out, rows->m[i])) continue;
        SIMT_UNROLL
        for (int d = 0; d < N; d++) {
            const int32_t at = col + 8 * d + lane % 4 * 2;
            if (at < a->head_dim_v) attn_put(&out, at, o[d][2 * i]);
            if (at + 1 < a->head_dim_v) attn_put(&out, at + 1, o[d][2 * i + 1]);
        }
    }
}

template <class T, int HD>
static __global__ void __launch_bounds__(32 * mma_shape<HD>::MANY_WARPS, HD > 128 ? 1 : 2)
    attn_many_kernel(struct attn_dev a)
{
    typedef struct mma_shape<HD> shape;
    const int32_t M = shape::MANY_EACH, ROWS = shape::MANY_ROWS;
    SIMT_DYNAMIC_SHARED(uint16_t, shared);
    simt_follow();
    const struct attn_block b = attn_block_of(&a, (int32_t)blockIdx.y);
    if (b.n_row == 0) return;
    const int32_t row_from = (int32_t)threadIdx.x / 32 * 16 * M;
    struct mma_rows rows[M];
    float o[M][HD / 8][4];
    SIMT_UNROLL
    for (int m = 0; m < M; m++)
        rows[m] = mma_rows_of(&a, &b, row_from + 16 * m);
    mma_load_q<T>(&a, &b, shared, ROWS, HD);
    mma_walk<T, HD, shape::MANY_TOK, shape::MANY_TOK, M>(&a, &b, shared + row_from * shape::LD,
                                                         (char *)(shared + ROWS * shape::LD), 0,
                                                         row_from >= b.n_row, rows, o);
    SIMT_UNROLL
    for (int m = 0; m < M; m++)
        mma_put<HD / 8>(&a, &b, &rows[m], row_from + 16 * m, 0, o[m]);
}

template <class T, int HD>
static __global__ void __launch_bounds__(32 * mma_shape<HD>::FEW_WARPS)
    attn_few_kernel(struct attn_dev a)
{
    typedef struct mma_shape<HD> shape;
    const int32_t WARPS = shape::FEW_WARPS, LD = shape::LD;
    SIMT_DYNAMIC_SHARED(uint16_t, shared);
    simt_follow();
    const struct attn_block b = attn_block_of(&a, (int32_t)blockIdx.y);
    if (b.n_row == 0) return;
    const int32_t warp = (int32_t)threadIdx.x / 32, lane = (int32_t)threadIdx.x % 32;
    char *stages = (char *)(shared + 16 * shape::LD);
    struct mma_rows rows = mma_rows_of(&a, &b, 0);
    float o[1][HD / 8][4];
    mma_load_q<T>(&a, &b, shared, 16, HD);
    mma_walk<T, HD, shape::FEW_TOK, 16, 1>(&a, &b, shared, stages, 16 * warp, false, &rows, o);
    // Each warp's maxima, sums and outputs, where its keys were.
    float *m = (float *)(void *)stages, *l = m + WARPS * 16, *outs = l + WARPS * 16;
    __syncthreads();
    SIMT_UNROLL
    for (int i = 0; i < 2; i++) {
        const int32_t at = warp * 16 + lane / 4 + 8 * i;
        if (lane % 4 == 0) m[at] = rows.m[i];
        if (lane % 4 == 0) l[at] = rows.l[i];
        SIMT_UNROLL
        for (int d = 0; d < HD / 8; d++) {
            outs[at * LD + 8 * d + lane % 4 * 2] = o[0][d][2 * i];
            outs[at * LD + 8 * d + lane % 4 * 2 + 1] = o[0][d][2 * i + 1];
        }
    }
    __syncthreads();
    for (int32_t row = 0; row < b.n_row; row++) {
        float top = m[row], sum = 0.0f, weight[WARPS];
        for (int w = 1; w < WARPS; w++)
            top = fmaxf(top, m[w * 16 + row]);
        SIMT_UNROLL
        for (int w = 0; w < WARPS; w++) {
            weight[w] = attn_weight(m[w * 16 + row], top);
            sum = fmaf(l[w * 16 + row], weight[w], sum);
        }
        const struct attn_out out = attn_out_of(&a, &b, row, top, sum);
        if (threadIdx.x == 0) attn_put_sums(&out, top, sum);
        if (attn_is_nothing(&out, top)) continue;
        for (int32_t d = (int32_t)threadIdx.x; d < a.head_dim_v; d += 32 * WARPS) {
            float x = 0.0f;
            SIMT_UNROLL
            for (int w = 0; w < WARPS; w++)
                x = fmaf(outs[(w * 16 + row) * LD + d], weight[w], x);
            attn_put(&out, d, x);
        }
    }
}

// -- values in keys, up to 576 and 512 dimensions --

enum {
    LATENT_HD = 576,
    LATENT_HD_V = 512,
    LATENT_LD = LATENT_HD + 8,
    LATENT_TOK = 32,
    LATENT_LD_S = LATENT_TOK + 8 // of the scores
};

// Scores of the warp's rows at q with OWN keys at k, 32 dimensions at a time.
template <class T, int OWN>
static __device__ __forceinline__ void latent_products(const uint16_t *q, const uint16_t *k,
                                                       float s[OWN / 8][4])
{
    const int32_t lane = (int32_t)threadIdx.x % 32;
    SIMT_UNROLL
    for (int j = 0; j < OWN / 8; j++)
        s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.0f;
    for (int32_t d = 0; d < LATENT_HD; d += 32) {
        uint32_t left[2][4], right[4];
        mma_load_left(left[0], q + d, LATENT_LD);
        mma_load_left(left[1], q + d + 16, LATENT_LD);
        SIMT_UNROLL
        for (int j = 0; j < OWN / 8; j++) {
            ldmatrix_x4(right, k + (8 * j + lane % 8) * LATENT_LD + d + lane / 8 * 8);
            mma_add<T>(s[j], left[0], right);
            mma_add<T>(s[j], left[1], right + 2);
        }
    }
}

// ROWS groups of 16 rows by COLS groups of columns: a warp each.
template <class T, int ROWS, int COLS>
static __global__ void __launch_bounds__(32 * ROWS * COLS, 1) attn_latent_kernel(struct attn_dev a)
{
    typedef struct mma_tile<LATENT_HD, LATENT_TOK, T> tile;
    enum { OWN = LATENT_TOK / COLS, N = LATENT_HD_V / COLS / 8 };
    SIMT_DYNAMIC_SHARED(uint16_t, shared);
    simt_follow();
    const struct attn_block b = attn_block_of(&a, (int32_t)blockIdx.y);
    if (b.n_row == 0) return;
    const int32_t warp = (int32_t)threadIdx.x / 32, lane = (int32_t)threadIdx.x % 32;
    const int32_t row_from = warp / COLS * 16, part = warp % COLS, col = part * 8 * N;
    char *stages = (char *)(shared + 16 * ROWS * LATENT_LD);
    float *scores = (float *)(void *)(stages + tile::SHARED) + row_from * LATENT_LD_S;
    const uint16_t *q = shared + row_from * LATENT_LD;
    struct mma_rows rows = mma_rows_of(&a, &b, row_from);
    float o[1][N][4];
    SIMT_UNROLL
    for (int d = 0; d < N; d++)
        o[0][d][0] = o[0][d][1] = o[0][d][2] = o[0][d][3] = 0.0f;
    mma_load_q<T>(&a, &b, shared, 16 * ROWS, LATENT_HD);
    const int32_t from = b.lo / LATENT_TOK * LATENT_TOK;
    mma_send<LATENT_HD, LATENT_TOK, T>(&a, &b, from, stages, 0);
    for (int32_t seg = from, i = 0; seg < b.hi; seg += LATENT_TOK, i ^= 1) {
        mma_send<LATENT_HD, LATENT_TOK, T>(&a, &b, seg + LATENT_TOK, stages, i ^ 1);
        const uint16_t *k = mma_arrived<LATENT_HD, LATENT_TOK, T>(&a, &b, seg, stages, i);
        float s[OWN / 8][4], p[1][LATENT_TOK / 8][4], shrink[1][2];
        latent_products<T, OWN>(q, k + part * OWN * LATENT_LD, s);
        SIMT_UNROLL
        for (int j = 0; j < OWN / 8; j++)
            SIMT_UNROLL
        for (int h = 0; h < 4; h++)
            scores[(lane / 4 + h / 2 * 8) * LATENT_LD_S + part * OWN + 8 * j + lane % 4 * 2 +
                   h % 2] = s[j][h];
        __syncthreads();
        SIMT_UNROLL
        for (int j = 0; j < LATENT_TOK / 8; j++)
            SIMT_UNROLL
        for (int h = 0; h < 4; h++)
            p[0][j][h] =
                scores[(lane / 4 + h / 2 * 8) * LATENT_LD_S + 8 * j + lane % 4 * 2 + h % 2];
        mma_softmax<LATENT_TOK / 8>(&a, &rows, seg + lane % 4 * 2, p[0], shrink[0]);
        mma_weigh<T, LATENT_TOK, N, 1>(o, p, shrink, k + col, LATENT_LD, a.head_dim_v - col);
        __syncthreads();
    }
    cp_async_wait<0>();
    mma_rows_end(&rows);
    mma_put<N>(&a, &b, &rows, row_from, col, o[0]);
}

// -- which of them --

template <class T, int HD> static struct attn_kernel mma_kernel_of(bool few)
{
    typedef struct mma_shape<HD> shape;
    const int32_t warps = few ? shape::FEW_WARPS : shape::MANY_WARPS;
    const int32_t rows = few ? 16 : shape::MANY_ROWS;
    struct attn_kernel k;
    k.fn = few ? attn_few_kernel<T, HD> : attn_many_kernel<T, HD>;
    k.block_rows = rows;
    k.threads = 32 * warps;
    k.tile = few ? shape::FEW_TOK : shape::MANY_TOK;
    k.shared = 2 * (size_t)rows * shape::LD;
    k.shared +=
        few ? mma_tile<HD, shape::FEW_TOK, T>::SHARED : mma_tile<HD, shape::MANY_TOK, T>::SHARED;
    return k;
}

template <class T, int ROWS, int COLS> static struct attn_kernel mma_latent_of(void)
{
    struct attn_kernel k;
    k.fn = attn_latent_kernel<T, ROWS, COLS>;
    k.block_rows = 16 * ROWS;
    k.threads = 32 * ROWS * COLS;
    k.tile = LATENT_TOK;
    k.shared = 2 * (size_t)(16 * ROWS * LATENT_LD) + mma_tile<LATENT_HD, LATENT_TOK, T>::SHARED +
               sizeof(float) * 16 * ROWS * LATENT_LD_S;
    return k;
}

// IS_MAIN: heads of 96 and 192 have kernels of their own.
template <class T, bool IS_MAIN>
static struct attn_kernel mma_kernel_for(const struct kv_view *kv, bool few, size_t shared_max)
{
    const int32_t hd = kv->head_dim;
    if (hd <= 64) return mma_kernel_of<T, 64>(few);
    if constexpr (IS_MAIN)
        if (hd <= 96) return mma_kernel_of<T, 96>(few);
    if (hd <= 128) return mma_kernel_of<T, 128>(few);
    if constexpr (IS_MAIN)
        if (hd <= 192) return mma_kernel_of<T, 192>(few);
    if (hd <= 256) return mma_kernel_of<T, 256>(few);
    const struct attn_kernel large = mma_latent_of<T, 4, 2>();
    return large.shared <= shared_max && !few ? large : mma_latent_of<T, 1, 4>();
}

bool attn_mma_kernel(const struct kv_view *kv, bool few, size_t shared_max, struct attn_kernel *out)
{
    const int32_t hd = kv->head_dim;
    if (hd > 256 && (!kv->v_in_k || hd > LATENT_HD || kv->head_dim_v > LATENT_HD_V)) return false;
    if (kv->dtype == DT_F16)
        *out = mma_kernel_for<__half, true>(kv, few, shared_max);
    else if (kv->dtype == DT_BF16)
        *out = mma_kernel_for<__nv_bfloat16, false>(kv, few, shared_max);
    else if (kv->dtype == DT_Q8_0 || kv->dtype == DT_F8_E4M3)
        *out = mma_kernel_for<uint8_t, false>(kv, few, shared_max);
    else
        return false;
    return out->shared <= shared_max;
}
