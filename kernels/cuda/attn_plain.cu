// attn_plain: attention in float with any head dimension and type of pages, and the joining of
// partial softmaxes. PRECISION_EXACT always, PRECISION_FAST where attn_mma has no kernel.
//
// A block of threads takes PLAIN_ROWS query rows. Scores: a lane is a key, a warp two rows; keys
// come through shared memory PLAIN_DIMS dimensions at a time. Outputs: a thread is a column of the
// values, or several, for all rows; values are read from where they lie, each once.
#include "kernels/cuda/attn.h"

static const int32_t PLAIN_DIMS = 64, PLAIN_THREADS = 128, COMBINE_THREADS = 128;
static const int32_t PLAIN_WARP_ROWS = ATTN_PLAIN_ROWS / (PLAIN_THREADS / 32);

struct plain_shared {
    float q[ATTN_PLAIN_ROWS][ATTN_DIM_MAX];
    float k[ATTN_PLAIN_TOK][PLAIN_DIMS + 1];
    float p[ATTN_PLAIN_TOK][ATTN_PLAIN_ROWS];
    float shrink[ATTN_PLAIN_ROWS], m[ATTN_PLAIN_ROWS], l[ATTN_PLAIN_ROWS];
};

// Products of the warp's rows with the lane's key of the tile at `seg`; dimensions ascending.
template <class T>
static __device__ __forceinline__ void
plain_products(const struct attn_dev *a, const struct attn_block *b, struct plain_shared *sh,
               int32_t seg, float s[PLAIN_WARP_ROWS])
{
    const int32_t lane = (int32_t)threadIdx.x % 32, warp = (int32_t)threadIdx.x / 32;
    for (int r = 0; r < PLAIN_WARP_ROWS; r++)
        s[r] = 0.0f;
    for (int32_t d0 = 0; d0 < a->head_dim; d0 += PLAIN_DIMS) {
        const int32_t n = a->head_dim - d0 < PLAIN_DIMS ? a->head_dim - d0 : PLAIN_DIMS;
        __syncthreads();
        for (int32_t i = (int32_t)threadIdx.x; i < ATTN_PLAIN_TOK * PLAIN_DIMS;
             i += PLAIN_THREADS) {
            const int32_t pos = seg + i / PLAIN_DIMS, d = i % PLAIN_DIMS;
            float x = 0.0f;
            if (pos >= b->lo && pos < b->hi && d < n) {
                const char *page = attn_page(a, b, pos);
                const int32_t at = pos & (a->page_tok - 1);
                x = attn_load((const T *)page + at * a->k_ld,
                              (const float *)(page + a->k_scale_at) + at * a->k_scales, d0 + d);
            }
            sh->k[i / PLAIN_DIMS][d] = x;
        }
        __syncthreads();
        for (int32_t d = 0; d < n; d++)
            for (int r = 0; r < PLAIN_WARP_ROWS; r++)
                s[r] = fmaf(sh->q[warp * PLAIN_WARP_ROWS + r][d0 + d], sh->k[lane][d], s[r]);
    }
}

// The tile's scores become weights in sh->p; the rows' running maxima and sums go on.
static __device__ __forceinline__ void plain_softmax(const struct attn_dev *a,
                                                     const struct attn_block *b,
                                                     struct plain_shared *sh, int32_t seg,
                                                     const float *s, float *m, float *l)
{
    const int32_t lane = (int32_t)threadIdx.x % 32, warp = (int32_t)threadIdx.x / 32;
    for (int r = 0; r < PLAIN_WARP_ROWS; r++) {
        const int32_t row = warp * PLAIN_WARP_ROWS + r, key = seg + lane;
        bool sees = row < b->n_row && key >= b->lo && key < b->hi;
        if (sees) {
            const int32_t pos = attn_row_pos(b, row);
            sees = key <= pos && key >= attn_sight(a, pos);
        }
        const float x = sees ? attn_score(a, s[r]) : -INFINITY;
        const float top = fmaxf(m[r], warp_max(x));
        const float p = sees ? expf(x - top) : 0.0f;
        const float shrink = top > -INFINITY ? expf(m[r] - top) : 1.0f;
        l[r] = fmaf(l[r], shrink, warp_sum(p));
        m[r] = top;
        sh->p[lane][row] = p;
        if (lane == 0) sh->shrink[row] = shrink;
    }
}

// o (rows, COLS columns threadIdx.x + PLAIN_THREADS * c) = o * shrink + p v over the tile.
template <class T, int COLS>
static __device__ __forceinline__ void
plain_weigh(const struct attn_dev *a, const struct attn_block *b, const struct plain_shared *sh,
            int32_t seg, float o[ATTN_PLAIN_ROWS][COLS])
{
    const int32_t from = b->lo > seg ? b->lo - seg : 0;
    const int32_t to = b->hi < seg + ATTN_PLAIN_TOK ? b->hi - seg : ATTN_PLAIN_TOK;
    SIMT_UNROLL
    for (int r = 0; r < ATTN_PLAIN_ROWS; r++)
        SIMT_UNROLL
    for (int c = 0; c < COLS; c++)
        o[r][c] *= sh->shrink[r];
    for (int32_t i = from; i < to; i++) {
        const char *page = attn_page(a, b, seg + i);
        const int32_t at = (seg + i) & (a->page_tok - 1);
        const T *v = (const T *)(page + a->v_at) + at * a->v_ld;
        const float *scale = (const float *)(page + a->v_scale_at) + at * a->v_scales;
        SIMT_UNROLL
        for (int c = 0; c < COLS; c++) {
            const int32_t d = (int32_t)threadIdx.x + PLAIN_THREADS * c;
            const float x = d < a->head_dim_v ? attn_load(v, scale, d) : 0.0f;
            SIMT_UNROLL
            for (int r = 0; r < ATTN_PLAIN_ROWS; r++)
                o[r][c] = fmaf(sh->p[i][r], x, o[r][c]);
        }
    }
}

template <class T, int COLS>
static __global__ void __launch_bounds__(PLAIN_THREADS) plain_kernel(struct attn_dev a)
{
    __shared__ struct plain_shared sh;
    simt_follow();
    const struct attn_block b = attn_block_of(&a, (int32_t)blockIdx.y);
    if (b.n_row == 0) return;
    const int32_t warp = (int32_t)threadIdx.x / 32;
    float m[PLAIN_WARP_ROWS], l[PLAIN_WARP_ROWS], o[ATTN_PLAIN_ROWS][COLS];
    for (int32_t i = (int32_t)threadIdx.x; i < ATTN_PLAIN_ROWS * a.head_dim; i += PLAIN_THREADS) {
        const int32_t r = i / a.head_dim, d = i % a.head_dim;
        sh.q[r][d] = r < b.n_row ? a.q[attn_row_at(&a, &b, r) * a.head_dim + d] : 0.0f;
    }
    for (int r = 0; r < PLAIN_WARP_ROWS; r++) {
        m[r] = -INFINITY;
        l[r] = 0.0f;
    }
    SIMT_UNROLL
    for (int r = 0; r < ATTN_PLAIN_ROWS; r++)
        SIMT_UNROLL
    for (int c = 0; c < COLS; c++)
        o[r][c] = 0.0f;
    for (int32_t seg = b.lo / ATTN_PLAIN_TOK * ATTN_PLAIN_TOK; seg < b.hi; seg += ATTN_PLAIN_TOK) {
        float s[PLAIN_WARP_ROWS];
        plain_products<T>(&a, &b, &sh, seg, s);
        plain_softmax(&a, &b, &sh, seg, s, m, l);
        __syncthreads();
        plain_weigh<T, COLS>(&a, &b, &sh, seg, o);
    }
    for (int r = 0; r < PLAIN_WARP_ROWS && threadIdx.x % 32 == 0; r++) {
        sh.m[warp * PLAIN_WARP_ROWS + r] = m[r];
        sh.l[warp * PLAIN_WARP_ROWS + r] = l[r];
    }
    __syncthreads();
    SIMT_UNROLL
    for (int r = 0; r < ATTN_PLAIN_ROWS; r++) {
        if (r >= b.n_row) continue;
        const struct attn_out out = attn_out_of(&a, &b, r, sh.m[r], sh.l[r]);
        if (threadIdx.x == 0) attn_put_sums(&out, sh.m[r], sh.l[r]);
        if (attn_is_nothing(&out, sh.m[r])) continue;
        SIMT_UNROLL
        for (int c = 0; c < COLS; c++) {
            const int32_t d = (int32_t)threadIdx.x + PLAIN_THREADS * c;
            if (d < a.head_dim_v) attn_put(&out, d, o[r][c]);
        }
    }
}

// One row: blockIdx.y is its number in the block.
static __global__ void __launch_bounds__(COMBINE_THREADS) combine_kernel(struct attn_dev a)
{
    __shared__ float weight[ATTN_SPLITS_MAX], total;
    simt_follow();
    const int32_t row = (int32_t)blockIdx.y;
    const struct attn_block b = attn_block_of(&a, 0);
    if (row >= b.n_row || b.n_piece == 1) return;
    const float *part = attn_part_at(&a, b.part + row, 0);
    const int64_t ld = attn_part_ld(a.head_dim_v), at = attn_row_at(&a, &b, row);
    const float sink = a.sinks ? a.sinks[at % a.n_head] : -INFINITY;
    if (threadIdx.x < 32) {
        float top = sink;
        for (int32_t i = (int32_t)threadIdx.x; i < b.n_piece; i += 32)
            top = fmaxf(top, part[i * ld]);
        top = warp_max(top);
        for (int32_t i = (int32_t)threadIdx.x; i < b.n_piece; i += 32)
            weight[i] = attn_weight(part[i * ld], top);
        __syncwarp(0xffffffffu);
        float sum = 0.0f;
        for (int32_t i = 0; i < b.n_piece; i++)
            sum = __fmaf_rn(part[i * ld + 1], weight[i], sum);
        if (threadIdx.x == 0) total = __fadd_rn(sum, attn_weight(sink, top));
    }
    __syncthreads();
    for (int32_t d = (int32_t)threadIdx.x; d < a.head_dim_v; d += COMBINE_THREADS) {
        float o = 0.0f;
        for (int32_t i = 0; i < b.n_piece; i++)
            if (weight[i] > 0.0f) o = __fmaf_rn(part[i * ld + ATTN_PART_HEAD + d], weight[i], o);
        a.out[at * a.head_dim_v + d] = __fmul_rn(o, 1.0f / total);
    }
}

template <class T> static struct attn_kernel plain_kernel_of(int32_t head_dim_v)
{
    struct attn_kernel k;
    k.fn = head_dim_v <= PLAIN_THREADS       ? plain_kernel<T, 1>
           : head_dim_v <= 2 * PLAIN_THREADS ? plain_kernel<T, 2>
                                             : plain_kernel<T, 5>;
    k.block_rows = ATTN_PLAIN_ROWS;
    k.threads = PLAIN_THREADS;
    k.tile = ATTN_PLAIN_TOK;
    k.shared = 0;
    return k;
}

struct attn_kernel attn_plain_kernel(const struct kv_view *kv)
{
    switch (kv->dtype) {
    case DT_F16:
        return plain_kernel_of<__half>(kv->head_dim_v);
    case DT_BF16:
        return plain_kernel_of<__nv_bfloat16>(kv->head_dim_v);
    case DT_Q8_0:
        return plain_kernel_of<int8_t>(kv->head_dim_v);
    case DT_F8_E4M3:
        return plain_kernel_of<uint8_t>(kv->head_dim_v);
    default:
        return plain_kernel_of<float>(kv->head_dim_v);
    }
}

void attn_plain_combine(struct cuda *c, const struct attn_dev *a, int32_t n_block, int32_t n_head,
                        int32_t n_row)
{
    LAUNCH_NEXT(c, combine_kernel, dim3(n_block, n_row, n_head), COMBINE_THREADS, 0, *a);
}
