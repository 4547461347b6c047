// attn_mma: attention on the matrix units: pages of 16-bit floats, float sums. PRECISION_FAST.
//
// Keys and values go through shared memory in tiles, the next one on its way while one is worked
// on. Products of a warp are 16 query rows by 16 keys at a time; the weights are, as they come out
// of the scores, the left factor of the product with the values (Dao 2023, arXiv 2307.08691).
// Scores are in units of log 2.
//
//     attn_many_kernel   blocks of rows; a warp has 16 rows and sees all keys of a tile
//     attn_few_kernel    up to 16 rows (decode: the heads of one KV head); the warps share a tile's
//                        keys, each with sums of its own, joined at the end
//     attn_latent_kernel heads too long for either whose values lie in the keys (MLA): the warps
//                        share the keys for the scores, then the columns of the values
#include "kernels/cuda/attn.h"
#include "kernels/cuda/simt_mma.h"

static const float MMA_LOG2E = 1.44269504f, MMA_LN2 = 0.693147181f;

template <int HD> struct mma_shape {
    enum {
        TOK = HD > 128 ? 32 : 64, // keys of a tile
        LD = HD + 8,              // of rows in shared memory: no two in the same banks
        MANY_WARPS = HD > 192 ? 2 : 4,
        FEW_WARPS = TOK / 16,
        STAGE = 2 * TOK * LD // keys and values, in elements
    };
};

static __device__ __forceinline__ uint32_t mma_pack(float low, float high)
{
    const __half2 h = __floats2half2_rn(low, high);
    uint32_t u;
    memcpy(&u, &h, sizeof u);
    return u;
}

// Fragments: of 16 rows and 16 dimensions (left); of 16 keys and 16 dimensions for scores (two
// right ones, keys 0-7 and 8-15) and for values (two right ones, dimensions 0-7 and 8-15).
static __device__ __forceinline__ void mma_load_left(uint32_t r[4], const __half *p, int32_t ld)
{
    const int32_t lane = (int32_t)threadIdx.x % 32;
    ldmatrix_x4(r, p + (lane % 16) * ld + lane / 16 * 8);
}
static __device__ __forceinline__ void mma_load_keys(uint32_t r[4], const __half *p, int32_t ld)
{
    const int32_t lane = (int32_t)threadIdx.x % 32;
    ldmatrix_x4(r, p + (lane % 8 + lane / 16 * 8) * ld + lane / 8 % 2 * 8);
}
static __device__ __forceinline__ void mma_load_values(uint32_t r[4], const __half *p, int32_t ld)
{
    const int32_t lane = (int32_t)threadIdx.x % 32;
    ldmatrix_x4_trans(r, p + (lane % 16) * ld + lane / 16 * 8);
}

// A block's query rows as 16-bit floats, zeros beyond them, and beyond head_dim.
static __device__ __forceinline__ void mma_load_q(const struct attn_dev *a,
                                                  const struct attn_block *b, __half *q,
                                                  int32_t n_row, int32_t dims, int32_t ld)
{
    for (int32_t i = (int32_t)threadIdx.x; i < n_row * dims; i += (int32_t)blockDim.x) {
        const int32_t r = i / dims, d = i % dims;
        const bool is = r < b->n_row && d < a->head_dim;
        q[r * ld + d] = __float2half_rn(is ? a->q[attn_row_at(a, b, r) * a->head_dim + d] : 0.0f);
    }
}

// Sends `tok` keys from position seg on (and values, unless v is NULL) on their way; zeros where
// the block sees none and beyond a row's end.
static __device__ __forceinline__ void mma_fetch(const struct attn_dev *a,
                                                 const struct attn_block *b, int32_t seg,
                                                 int32_t tok, int32_t dims, int32_t ld, __half *k,
                                                 __half *v)
{
    const int32_t each = dims / 8;
    for (int32_t i = (int32_t)threadIdx.x; i < tok * each; i += (int32_t)blockDim.x) {
        const int32_t key = i / each, d = i % each * 8, pos = seg + key;
        const bool is = pos >= b->lo && pos < b->hi;
        const char *page = is ? attn_page(a, b, pos) : a->kv;
        const int64_t at = is ? pos & (a->page_tok - 1) : 0;
        const bool has_k = is && d < a->k_ld, has_v = is && d < a->v_ld;
        cp_async16(k + key * ld + d, page + (has_k ? 2 * (at * a->k_ld + d) : 0), has_k ? 16 : 0);
        if (v)
            cp_async16(v + key * ld + d, page + (has_v ? a->v_at + 2 * (at * a->v_ld + d) : 0),
                       has_v ? 16 : 0);
    }
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

// o (16 rows, n of 8 columns) = o * shrink + p v, p of KEYS keys, v from the first of its columns
// on.
template <int KEYS, int N>
static __device__ __forceinline__ void mma_weigh(float o[N][4], const float p[KEYS / 8][4],
                                                 const float shrink[2], const __half *v, int32_t ld,
                                                 int32_t cols)
{
    SIMT_UNROLL
    for (int d = 0; d < N; d++) {
        o[d][0] *= shrink[0];
        o[d][1] *= shrink[0];
        o[d][2] *= shrink[1];
        o[d][3] *= shrink[1];
    }
    SIMT_UNROLL
    for (int i = 0; i < KEYS / 16; i++) {
        const float *x = p[2 * i], *y = p[2 * i + 1];
        const uint32_t left[4] = {mma_pack(x[0], x[1]), mma_pack(x[2], x[3]), mma_pack(y[0], y[1]),
                                  mma_pack(y[2], y[3])};
        SIMT_UNROLL
        for (int d = 0; d < N; d += 2) {
            if (8 * d >= cols) continue;
            uint32_t right[4];
            mma_load_values(right, v + 16 * i * ld + 8 * d, ld);
            mma_m16n8k16_f16(o[d], left, right);
            mma_m16n8k16_f16(o[d + 1], left, right + 2);
        }
    }
}

// s (16 rows, KEYS keys) = q k^T over HD dimensions.
template <int HD, int KEYS>
static __device__ __forceinline__ void mma_products(float s[KEYS / 8][4], const __half *q,
                                                    const __half *k, int32_t ld)
{
    SIMT_UNROLL
    for (int j = 0; j < KEYS / 8; j++)
        s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.0f;
    SIMT_UNROLL
    for (int d = 0; d < HD; d += 16) {
        uint32_t left[4];
        mma_load_left(left, q + d, ld);
        SIMT_UNROLL
        for (int j = 0; j < KEYS / 8; j += 2) {
            uint32_t right[4];
            mma_load_keys(right, k + 8 * j * ld + d, ld);
            mma_m16n8k16_f16(s[j], left, right);
            mma_m16n8k16_f16(s[j + 1], left, right + 2);
        }
    }
}

// All tiles of a block's keys: KEYS keys from key_from on of each for the warp's 16 rows at q.
template <int HD, int KEYS>
static __device__ __forceinline__ void
mma_walk(const struct attn_dev *a, const struct attn_block *b, const __half *q, __half *stages,
         int32_t key_from, struct mma_rows *rows, float o[HD / 8][4])
{
    typedef struct mma_shape<HD> shape;
    const int32_t from = b->lo / shape::TOK * shape::TOK;
    const int32_t v_at = a->v_in_k ? 0 : shape::TOK * shape::LD;
    SIMT_UNROLL
    for (int d = 0; d < HD / 8; d++)
        o[d][0] = o[d][1] = o[d][2] = o[d][3] = 0.0f;
    if (b->hi)
        mma_fetch(a, b, from, shape::TOK, HD, shape::LD, stages, v_at ? stages + v_at : NULL);
    for (int32_t seg = from, i = 0; seg < b->hi; seg += shape::TOK, i ^= 1) {
        __half *k = stages + i * shape::STAGE, *next = stages + (i ^ 1) * shape::STAGE;
        if (seg + shape::TOK < b->hi)
            mma_fetch(a, b, seg + shape::TOK, shape::TOK, HD, shape::LD, next,
                      v_at ? next + v_at : NULL);
        else
            cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        float s[KEYS / 8][4], shrink[2];
        mma_products<HD, KEYS>(s, q, k + key_from * shape::LD, shape::LD);
        mma_softmax<KEYS / 8>(a, rows, seg + key_from + (int32_t)threadIdx.x % 4 * 2, s, shrink);
        mma_weigh<KEYS, HD / 8>(o, s, shrink, k + v_at + key_from * shape::LD, shape::LD,
                                a->head_dim_v);
        __syncthreads();
    }
    cp_async_wait<0>();
    mma_rows_end(rows);
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
        if (lane % 4 == 0 && col == 0) attn_put_sums(a, &out, rows->m[i], rows->l[i]);
        if (attn_is_nothing(a, rows->m[i])) continue;
        SIMT_UNROLL
        for (int d = 0; d < N; d++) {
            const int32_t at = col + 8 * d + lane % 4 * 2;
            if (at < a->head_dim_v) attn_put(&out, at, o[d][2 * i]);
            if (at + 1 < a->head_dim_v) attn_put(&out, at + 1, o[d][2 * i + 1]);
        }
    }
}

template <int HD>
static __global__ void __launch_bounds__(32 * mma_shape<HD>::MANY_WARPS, HD > 128 ? 1 : 2)
    attn_many_kernel(struct attn_dev a)
{
    typedef struct mma_shape<HD> shape;
    SIMT_DYNAMIC_SHARED(__half, shared);
    const struct attn_block b = attn_block_of(&a, (int32_t)blockIdx.y, shape::TOK);
    if (b.n_row == 0) return;
    const int32_t row_from = (int32_t)threadIdx.x / 32 * 16;
    struct mma_rows rows = mma_rows_of(&a, &b, row_from);
    float o[HD / 8][4];
    mma_load_q(&a, &b, shared, 16 * shape::MANY_WARPS, HD, shape::LD);
    mma_walk<HD, shape::TOK>(&a, &b, shared + row_from * shape::LD,
                             shared + 16 * shape::MANY_WARPS * shape::LD, 0, &rows, o);
    mma_put<HD / 8>(&a, &b, &rows, row_from, 0, o);
}

template <int HD>
static __global__ void __launch_bounds__(32 * mma_shape<HD>::FEW_WARPS)
    attn_few_kernel(struct attn_dev a)
{
    typedef struct mma_shape<HD> shape;
    enum { WARPS = shape::FEW_WARPS, LD = HD + 8 };
    SIMT_DYNAMIC_SHARED(__half, shared);
    const struct attn_block b = attn_block_of(&a, (int32_t)blockIdx.y, shape::TOK);
    if (b.n_row == 0) return;
    const int32_t warp = (int32_t)threadIdx.x / 32, lane = (int32_t)threadIdx.x % 32;
    __half *stages = shared + 16 * shape::LD;
    struct mma_rows rows = mma_rows_of(&a, &b, 0);
    float o[HD / 8][4];
    mma_load_q(&a, &b, shared, 16, HD, shape::LD);
    mma_walk<HD, 16>(&a, &b, shared, stages, 16 * warp, &rows, o);
    // Each warp's maxima, sums and outputs, where its keys were.
    float *m = (float *)stages, *l = m + WARPS * 16, *outs = l + WARPS * 16;
    SIMT_UNROLL
    for (int i = 0; i < 2; i++) {
        const int32_t at = warp * 16 + lane / 4 + 8 * i;
        if (lane % 4 == 0) m[at] = rows.m[i];
        if (lane % 4 == 0) l[at] = rows.l[i];
        SIMT_UNROLL
        for (int d = 0; d < HD / 8; d++) {
            outs[at * LD + 8 * d + lane % 4 * 2] = o[d][2 * i];
            outs[at * LD + 8 * d + lane % 4 * 2 + 1] = o[d][2 * i + 1];
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
        if (threadIdx.x == 0) attn_put_sums(&a, &out, top, sum);
        if (attn_is_nothing(&a, top)) continue;
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
    LATENT_STAGE = LATENT_TOK * LATENT_LD,
    LATENT_LD_S = LATENT_TOK + 8 // of the scores
};

// ROWS groups of 16 rows by COLS groups of columns: a warp each.
template <int ROWS, int COLS>
static __global__ void __launch_bounds__(32 * ROWS * COLS, 1) attn_latent_kernel(struct attn_dev a)
{
    enum { OWN = LATENT_TOK / COLS, N = LATENT_HD_V / COLS / 8 };
    SIMT_DYNAMIC_SHARED(__half, shared);
    const struct attn_block b = attn_block_of(&a, (int32_t)blockIdx.y, LATENT_TOK);
    if (b.n_row == 0) return;
    const int32_t warp = (int32_t)threadIdx.x / 32, lane = (int32_t)threadIdx.x % 32;
    const int32_t row_from = warp / COLS * 16, part = warp % COLS, col = part * 8 * N;
    __half *stages = shared + 16 * ROWS * LATENT_LD;
    float *scores = (float *)(stages + 2 * LATENT_STAGE) + row_from * LATENT_LD_S;
    const __half *q = shared + row_from * LATENT_LD;
    struct mma_rows rows = mma_rows_of(&a, &b, row_from);
    float o[N][4];
    SIMT_UNROLL
    for (int d = 0; d < N; d++)
        o[d][0] = o[d][1] = o[d][2] = o[d][3] = 0.0f;
    mma_load_q(&a, &b, shared, 16 * ROWS, LATENT_HD, LATENT_LD);
    const int32_t from = b.lo / LATENT_TOK * LATENT_TOK;
    if (b.hi) mma_fetch(&a, &b, from, LATENT_TOK, LATENT_HD, LATENT_LD, stages, NULL);
    for (int32_t seg = from, i = 0; seg < b.hi; seg += LATENT_TOK, i ^= 1) {
        const __half *k = stages + i * LATENT_STAGE;
        if (seg + LATENT_TOK < b.hi)
            mma_fetch(&a, &b, seg + LATENT_TOK, LATENT_TOK, LATENT_HD, LATENT_LD,
                      stages + (i ^ 1) * LATENT_STAGE, NULL);
        else
            cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        float s[OWN / 8][4], p[LATENT_TOK / 8][4], shrink[2];
        SIMT_UNROLL
        for (int j = 0; j < OWN / 8; j++)
            s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.0f;
        // 8 keys by 32 dimensions at a time.
        for (int32_t d = 0; d < LATENT_HD; d += 32) {
            uint32_t left[2][4], right[4];
            mma_load_left(left[0], q + d, LATENT_LD);
            mma_load_left(left[1], q + d + 16, LATENT_LD);
            SIMT_UNROLL
            for (int j = 0; j < OWN / 8; j++) {
                const int32_t key = part * OWN + 8 * j + lane % 8;
                ldmatrix_x4(right, k + key * LATENT_LD + d + lane / 8 * 8);
                mma_m16n8k16_f16(s[j], left[0], right);
                mma_m16n8k16_f16(s[j], left[1], right + 2);
            }
        }
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
            p[j][h] = scores[(lane / 4 + h / 2 * 8) * LATENT_LD_S + 8 * j + lane % 4 * 2 + h % 2];
        mma_softmax<LATENT_TOK / 8>(&a, &rows, seg + lane % 4 * 2, p, shrink);
        mma_weigh<LATENT_TOK, N>(o, p, shrink, k + col, LATENT_LD, a.head_dim_v - col);
        __syncthreads();
    }
    cp_async_wait<0>();
    mma_rows_end(&rows);
    mma_put<N>(&a, &b, &rows, row_from, col, o);
}

// -- which of them --

template <int HD> static struct attn_kernel mma_kernel_of(bool few)
{
    typedef struct mma_shape<HD> shape;
    const int32_t warps = few ? shape::FEW_WARPS : shape::MANY_WARPS, rows = few ? 16 : 16 * warps;
    struct attn_kernel k;
    k.fn = few ? attn_few_kernel<HD> : attn_many_kernel<HD>;
    k.block_rows = rows;
    k.threads = 32 * warps;
    k.tile = shape::TOK;
    k.shared = sizeof(__half) * (size_t)(rows * shape::LD + 2 * shape::STAGE);
    return k;
}

template <int ROWS, int COLS> static struct attn_kernel mma_latent_of(void)
{
    struct attn_kernel k;
    k.fn = attn_latent_kernel<ROWS, COLS>;
    k.block_rows = 16 * ROWS;
    k.threads = 32 * ROWS * COLS;
    k.tile = LATENT_TOK;
    k.shared = sizeof(__half) * (size_t)(16 * ROWS * LATENT_LD + 2 * LATENT_STAGE) +
               sizeof(float) * 16 * ROWS * LATENT_LD_S;
    return k;
}

bool attn_mma_kernel(const struct kv_view *kv, int32_t rows, size_t shared_max,
                     struct attn_kernel *out)
{
    const int32_t hd = kv->head_dim;
    if (kv->dtype != DT_F16) return false;
    if (hd > 256 && (!kv->v_in_k || hd > LATENT_HD || kv->head_dim_v > LATENT_HD_V)) return false;
    const bool few = rows <= 16;
    if (hd <= 64)
        *out = mma_kernel_of<64>(few);
    else if (hd <= 96)
        *out = mma_kernel_of<96>(few);
    else if (hd <= 128)
        *out = mma_kernel_of<128>(few);
    else if (hd <= 192)
        *out = mma_kernel_of<192>(few);
    else if (hd <= 256)
        *out = mma_kernel_of<256>(few);
    else if (mma_latent_of<4, 2>().shared <= shared_max && !few)
        *out = mma_latent_of<4, 2>();
    else
        *out = mma_latent_of<1, 4>();
    return out->shared <= shared_max;
}
