// delta_chunk: the gated delta rule over prompts, DELTA_CHUNK tokens at a time on the matrix units.
// PRECISION_FAST.
//
// Within a chunk that begins with the state S, with d[t] the decay from its beginning up to and
// with token t, the rule's corrections u (tokens, columns) solve (Yang, Kautz and Hatamizadeh 2024,
// arXiv 2412.06464; Yang et al. 2024, arXiv 2406.06484)
//     u[t] = beta[t] (v[t] - d[t] S^T k[t] - sum over i < t of d[t]/d[i] (k[t].k[i]) u[i])
// and then
//     out[t] = d[t] S^T q[t] + sum over i <= t of d[t]/d[i] (q[t].k[i]) u[i]
//     S      = d[last] S + sum over i of d[last]/d[i] k[i] u[i]^T
// Quotients of decays are powers of differences of their logarithms, so none is ever above 1.
//
// A block has CHUNK_COLS columns of one head's state in shared memory for the whole run; a warp has
// 8 of them and the same 8 of the chunk's keys, and nobody else touches its columns. Factors are
// rounded to TF32 (11 bits), sums and the state are floats, and u is solved for in floats.
#include "kernels/cuda/delta.h"
#include "kernels/cuda/simt_mma.h"

static const int32_t CHUNK_COLS = 32, CHUNK_THREADS = 128;
// From row to row: rows of left factors 4 banks apart, of right ones 8.
static const int32_t CHUNK_LD_U = CHUNK_COLS + 8, CHUNK_LD_G = DELTA_CHUNK + 4;
// A decay below e^-40 leaves nothing that a float of the usual size could show.
static const float CHUNK_LOG_MIN = -40.0f;

template <int DIM> struct chunk_shared {
    uint32_t k[DELTA_CHUNK][DIM + 4], q[DELTA_CHUNK][DIM + 4]; // of their lengths, TF32
    float s[DIM][CHUNK_LD_U];                                  // state (rows, columns)
    uint32_t g[DELTA_CHUNK][CHUNK_LD_G];                       // d[t]/d[i] (q[t].k[i]), TF32
    float a[DELTA_CHUNK][CHUNK_LD_G];                          // beta[t] d[t]/d[i] (k[t].k[i])
    float u[DELTA_CHUNK][CHUNK_LD_U];
    float log[DELTA_CHUNK], beta[DELTA_CHUNK]; // log of d
};

// A chunk's tokens from `row` on, n of them, into shared memory; the others leave no trace.
template <int DIM>
static __device__ __forceinline__ void chunk_load(const struct delta_dev *a, int32_t head,
                                                  int64_t row, int32_t n,
                                                  struct chunk_shared<DIM> *sh)
{
    const int32_t lane = (int32_t)threadIdx.x % 32, warp = (int32_t)threadIdx.x / 32;
    const int64_t from = (int64_t)delta_key_head(a, head) * a->dim_k;
    SIMT_UNROLL
    for (int32_t t = warp; t < DELTA_CHUNK; t += CHUNK_THREADS / 32) {
        float k[DIM / 32], q[DIM / 32], kk = 0.0f, qq = 0.0f;
        SIMT_UNROLL
        for (int i = 0; i < DIM / 32; i++) {
            const int32_t d = lane + 32 * i;
            const bool is = t < n && d < a->dim_k;
            k[i] = is ? a->k[(row + t) * a->ld + from + d] : 0.0f;
            q[i] = is ? a->q[(row + t) * a->ld + from + d] : 0.0f;
            kk = fmaf(k[i], k[i], kk);
            qq = fmaf(q[i], q[i], qq);
        }
        const float k_len = 1.0f / sqrtf(warp_sum(kk) + 1e-6f);
        const float q_len = 1.0f / sqrtf((warp_sum(qq) + 1e-6f) * (float)a->dim_k);
        SIMT_UNROLL
        for (int i = 0; i < DIM / 32; i++) {
            sh->k[t][lane + 32 * i] = mma_tf32(k[i] * k_len);
            sh->q[t][lane + 32 * i] = mma_tf32(q[i] * q_len);
        }
    }
    if (warp) return;
    const int64_t at = (row + lane) * a->n_head_v + head;
    float g = lane < n ? fmaxf(delta_log_decay(a, head, at), CHUNK_LOG_MIN) : 0.0f;
    for (int i = 1; i < 32; i *= 2) {
        const float below = __shfl_sync(SIMT_FULL, g, lane >= i ? lane - i : lane);
        if (lane >= i) g += below;
    }
    sh->log[lane] = g;
    sh->beta[lane] = lane < n ? delta_beta(a, at) : 0.0f;
}

// Fragments: rows row.. and columns col.. of p as a left factor (16 x 8); rows and columns of p as
// a right one (8 x 8); the same of p's transpose.
template <class T>
static __device__ __forceinline__ void chunk_left(uint32_t r[4], const T *p, int32_t ld)
{
    const int32_t lane = (int32_t)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    r[0] = p[g * ld + t];
    r[1] = p[(g + 8) * ld + t];
    r[2] = p[g * ld + t + 4];
    r[3] = p[(g + 8) * ld + t + 4];
}
static __device__ __forceinline__ void chunk_left_turned(uint32_t r[4], const uint32_t *p,
                                                         int32_t ld)
{
    const int32_t lane = (int32_t)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    r[0] = p[t * ld + g];
    r[1] = p[t * ld + g + 8];
    r[2] = p[(t + 4) * ld + g];
    r[3] = p[(t + 4) * ld + g + 8];
}
static __device__ __forceinline__ void chunk_right(uint32_t r[2], const float *p, int32_t ld)
{
    const int32_t lane = (int32_t)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    r[0] = mma_tf32(p[t * ld + g]);
    r[1] = mma_tf32(p[(t + 4) * ld + g]);
}
static __device__ __forceinline__ void chunk_right_turned(uint32_t r[2], const uint32_t *p,
                                                          int32_t ld)
{
    const int32_t lane = (int32_t)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    r[0] = p[g * ld + t];
    r[1] = p[g * ld + t + 4];
}

// Products of the chunk's keys and queries, 32 rows, with the warp's 8 columns of the state and its
// 8 keys.
struct chunk_products {
    float ks[2][4], qs[2][4], kk[2][4], qk[2][4];
};

template <int DIM>
static __device__ __forceinline__ void chunk_multiply(const struct chunk_shared<DIM> *sh,
                                                      struct chunk_products *p)
{
    const int32_t warp = (int32_t)threadIdx.x / 32, ld = DIM + 4;
    SIMT_UNROLL
    for (int m = 0; m < 2; m++)
        SIMT_UNROLL
    for (int i = 0; i < 4; i++)
        p->ks[m][i] = p->qs[m][i] = p->kk[m][i] = p->qk[m][i] = 0.0f;
    SIMT_UNROLL
    for (int d = 0; d < DIM; d += 8) {
        uint32_t state[2], keys[2], left[4];
        chunk_right(state, &sh->s[d][8 * warp], CHUNK_LD_U);
        chunk_right_turned(keys, &sh->k[8 * warp][d], ld);
        SIMT_UNROLL
        for (int m = 0; m < 2; m++) {
            chunk_left(left, &sh->k[16 * m][d], ld);
            mma_m16n8k8_tf32(p->ks[m], left, state);
            mma_m16n8k8_tf32(p->kk[m], left, keys);
            chunk_left(left, &sh->q[16 * m][d], ld);
            mma_m16n8k8_tf32(p->qs[m], left, state);
            mma_m16n8k8_tf32(p->qk[m], left, keys);
        }
    }
}

// The factors of the chunk's tokens among each other, the right side of what u solves, and what the
// outputs have of the state (in qs). v is the lane's part of the values.
template <int DIM>
static __device__ __forceinline__ void chunk_factors(struct chunk_shared<DIM> *sh,
                                                     struct chunk_products *p, const float v[2][4])
{
    const int32_t lane = (int32_t)threadIdx.x % 32, col = (int32_t)threadIdx.x / 32 * 8;
    SIMT_UNROLL
    for (int m = 0; m < 2; m++)
        SIMT_UNROLL
    for (int i = 0; i < 4; i++) {
        const int32_t t = 16 * m + lane / 4 + i / 2 * 8, at = col + lane % 4 * 2 + i % 2;
        const float all = expf(sh->log[t]), part = at <= t ? expf(sh->log[t] - sh->log[at]) : 0.0f;
        sh->g[t][at] = mma_tf32(part * p->qk[m][i]);
        sh->a[t][at] = at < t ? sh->beta[t] * part * p->kk[m][i] : 0.0f;
        sh->u[t][at] = sh->beta[t] * (v[m][i] - all * p->ks[m][i]);
        p->qs[m][i] *= all;
    }
}

// u, token after token: a lane is a column. By one warp.
template <int DIM> static __device__ __forceinline__ void chunk_solve(struct chunk_shared<DIM> *sh)
{
    const int32_t lane = (int32_t)threadIdx.x % 32;
    float u[DELTA_CHUNK];
    SIMT_UNROLL
    for (int t = 0; t < DELTA_CHUNK; t++) {
        float x = sh->u[t][lane];
        SIMT_UNROLL
        for (int i = 0; i < t; i++)
            x = fmaf(-sh->a[t][i], u[i], x);
        u[t] = x;
        sh->u[t][lane] = x;
    }
}

// The state after the chunk, the warp's columns.
template <int DIM>
static __device__ __forceinline__ void chunk_advance(struct chunk_shared<DIM> *sh)
{
    const int32_t lane = (int32_t)threadIdx.x % 32, col = (int32_t)threadIdx.x / 32 * 8;
    const float last = sh->log[DELTA_CHUNK - 1], decay = expf(last);
    uint32_t right[DELTA_CHUNK / 8][2];
    SIMT_UNROLL
    for (int i = 0; i < DELTA_CHUNK / 8; i++)
        SIMT_UNROLL
    for (int h = 0; h < 2; h++) {
        const int32_t t = 8 * i + lane % 4 + 4 * h;
        right[i][h] = mma_tf32(expf(last - sh->log[t]) * sh->u[t][col + lane / 4]);
    }
    SIMT_UNROLL
    for (int d = 0; d < DIM; d += 16) {
        float *low = &sh->s[d + lane / 4][col + lane % 4 * 2], *high = low + 8 * CHUNK_LD_U;
        float s[4] = {decay * low[0], decay * low[1], decay * high[0], decay * high[1]};
        SIMT_UNROLL
        for (int i = 0; i < DELTA_CHUNK / 8; i++) {
            uint32_t left[4];
            chunk_left_turned(left, &sh->k[8 * i][d], DIM + 4);
            mma_m16n8k8_tf32(s, left, right[i]);
        }
        low[0] = s[0];
        low[1] = s[1];
        high[0] = s[2];
        high[1] = s[3];
    }
}

// grid (columns, heads, runs)
template <int DIM>
static __global__ void __launch_bounds__(CHUNK_THREADS, DIM > 128 ? 1 : 3)
    chunk_kernel(struct delta_dev a)
{
    SIMT_DYNAMIC_SHARED(struct chunk_shared<DIM>, shared);
    simt_follow();
    struct chunk_shared<DIM> *sh = shared;
    const struct cuda_run run = a.runs[blockIdx.z];
    if (run.n_tok < a.tok_min || run.n_tok > a.tok_max) return;
    const int32_t head = (int32_t)blockIdx.y, col = (int32_t)blockIdx.x * CHUNK_COLS;
    const int32_t lane = (int32_t)threadIdx.x % 32, warp = (int32_t)threadIdx.x / 32;
    const int64_t out_ld = (int64_t)a.n_head_v * a.dim_v, v_at = (int64_t)head * a.dim_v + col;
    float *state = a.state + run.slot * a.state_ld + (int64_t)head * a.dim_k * a.dim_v + col;
    for (int32_t i = (int32_t)threadIdx.x; i < DIM * CHUNK_COLS; i += CHUNK_THREADS) {
        const int32_t d = i / CHUNK_COLS, c = i % CHUNK_COLS;
        const bool is = d < a.dim_k && col + c < a.dim_v;
        sh->s[d][c] = is ? state[(int64_t)d * a.dim_v + c] : 0.0f;
    }
    for (int32_t t0 = 0; t0 < run.n_tok; t0 += DELTA_CHUNK) {
        const int32_t n = min((int32_t)DELTA_CHUNK, run.n_tok - t0);
        const int64_t row = run.tok_from + t0;
        struct chunk_products p;
        float v[2][4];
        SIMT_UNROLL
        for (int i = 0; i < 8; i++) {
            const int32_t t = 16 * (i / 4) + lane / 4 + i / 2 % 2 * 8;
            const int32_t c = 8 * warp + lane % 4 * 2 + i % 2;
            const bool is = t < n && col + c < a.dim_v;
            v[i / 4][i % 4] = is ? a.v[(row + t) * a.ld + v_at + c] : 0.0f;
        }
        chunk_load<DIM>(&a, head, row, n, sh);
        __syncthreads();
        chunk_multiply<DIM>(sh, &p);
        chunk_factors<DIM>(sh, &p, v);
        __syncthreads();
        if (warp == 0) chunk_solve<DIM>(sh);
        __syncthreads();
        SIMT_UNROLL
        for (int i = 0; i < DELTA_CHUNK / 8; i++) {
            uint32_t left[4], right[2];
            chunk_right(right, &sh->u[8 * i][8 * warp], CHUNK_LD_U);
            SIMT_UNROLL
            for (int m = 0; m < 2; m++) {
                chunk_left(left, &sh->g[16 * m][8 * i], CHUNK_LD_G);
                mma_m16n8k8_tf32(p.qs[m], left, right);
            }
        }
        SIMT_UNROLL
        for (int i = 0; i < 8; i++) {
            const int32_t t = 16 * (i / 4) + lane / 4 + i / 2 % 2 * 8;
            const int32_t c = 8 * warp + lane % 4 * 2 + i % 2;
            if (t < n && col + c < a.dim_v)
                a.out[(row + t) * out_ld + v_at + c] = p.qs[i / 4][i % 4];
        }
        chunk_advance<DIM>(sh);
        __syncthreads();
    }
    for (int32_t i = (int32_t)threadIdx.x; i < DIM * CHUNK_COLS; i += CHUNK_THREADS) {
        const int32_t d = i / CHUNK_COLS, c = i % CHUNK_COLS;
        if (d < a.dim_k && col + c < a.dim_v) state[(int64_t)d * a.dim_v + c] = sh->s[d][c];
    }
}

template <int DIM>
static bool chunk_launch(struct cuda *c, const struct delta_dev *d, int32_t n_run)
{
    const size_t bytes = sizeof(struct chunk_shared<DIM>);
    if (bytes > c->info.shared_block_bytes) return false;
    const dim3 grid((unsigned)cuda_ceil(d->dim_v, CHUNK_COLS), (unsigned)d->n_head_v,
                    (unsigned)n_run);
    LAUNCH_NEXT(c, chunk_kernel<DIM>, grid, CHUNK_THREADS, bytes, *d);
    return true;
}

bool delta_chunk_run(struct cuda *c, const struct delta_dev *d, int32_t n_run)
{
    if (d->dim_k <= 64) return chunk_launch<64>(c, d, n_run);
    if (d->dim_k <= 128) return chunk_launch<128>(c, d, n_run);
    return chunk_launch<256>(c, d, n_run);
}
