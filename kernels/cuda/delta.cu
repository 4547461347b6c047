// delta: the gated delta rule, token after token: steps of decoding, and every run where the order
// of sums is kept (delta_chunk.cu has the others).
//
// A warp has 8 columns of one head's state in registers for the whole run; its four groups of 8
// lanes share the rows, four neighbours of every 16 each. (Of long keys, for which there would be
// no registers, it has 4 columns and eight groups.) Keys and queries come through shared memory
// DELTA_TOK tokens at a time. The lengths of k and q are single factors, so they are applied
// to sums; of S^T k and S^T q one pass over the state of the token before is enough, since
//     S'^T q = e^g S^T q + (k.q) beta (v - e^g S^T k).
#include "kernels/cuda/delta.h"

static const int32_t DELTA_THREADS = 128, DELTA_TOK = 16, DELTA_K_MAX = 256;
// Runs from so many tokens on go in chunks.
static const int32_t DELTA_FEW = DELTA_CHUNK / 2;

template <int DIM> struct delta_shape {
    static const int32_t PARTS = DIM > 128 ? 8 : 4;        // lanes of a column
    static const int32_t WARP_COLS = 32 / PARTS;           // columns of a warp
    static const int32_t COLS = DELTA_THREADS / PARTS;     // of a block
    static const int32_t EACH = 4 * PARTS, N = DIM / EACH; // rows of all parts, so many of them
};

// What the rule needs of a token besides the vectors: e^g, beta, the factors that bring k and q to
// their lengths, and the product of the two so brought.
struct delta_tok {
    float decay, beta, k_len, q_len, kq;
};

template <int DIM> struct delta_shared {
    float4 k[DELTA_TOK][DIM / 4], q[DELTA_TOK][DIM / 4];
    struct delta_tok tok[DELTA_TOK];
};

// Tokens [t0, t0 + n) of a run into shared memory, zeros beyond dim_k; between barriers.
template <int DIM>
static __device__ __forceinline__ void
delta_load(const struct delta_dev *a, const struct cuda_run *run, int32_t head, int32_t t0,
           int32_t n, struct delta_shared<DIM> *sh)
{
    const int32_t hk = delta_key_head(a, head);
    const int64_t row = run->tok_from + t0;
    float *k = (float *)sh->k, *q = (float *)sh->q;
    __syncthreads();
    for (int32_t i = (int32_t)threadIdx.x; i < n * DIM; i += DELTA_THREADS) {
        const int32_t d = i % DIM;
        const int64_t at = (row + i / DIM) * a->ld + (int64_t)hk * a->dim_k + d;
        k[i] = d < a->dim_k ? a->k[at] : 0.0f;
        q[i] = d < a->dim_k ? a->q[at] : 0.0f;
    }
    __syncthreads();
    for (int32_t t = (int32_t)threadIdx.x / 32; t < n; t += DELTA_THREADS / 32) {
        float kk = 0.0f, qq = 0.0f, kq = 0.0f;
        for (int32_t d = (int32_t)threadIdx.x % 32; d < DIM; d += 32) {
            const float x = k[t * DIM + d], y = q[t * DIM + d];
            kk = fmaf(x, x, kk);
            qq = fmaf(y, y, qq);
            kq = fmaf(x, y, kq);
        }
        kk = warp_sum(kk);
        qq = warp_sum(qq);
        kq = warp_sum(kq);
        if (threadIdx.x % 32) continue;
        const int64_t at = (row + t) * a->n_head_v + head;
        struct delta_tok o;
        o.decay = expf(delta_log_decay(a, head, at));
        o.beta = delta_beta(a, at);
        o.k_len = 1.0f / sqrtf(kk + 1e-6f);
        o.q_len = 1.0f / sqrtf((qq + 1e-6f) * (float)a->dim_k);
        o.kq = kq * o.k_len * o.q_len;
        sh->tok[t] = o;
    }
    __syncthreads();
}

// Sum over the lanes of a column.
template <int DIM> static __device__ __forceinline__ float delta_across(float x)
{
    for (int i = delta_shape<DIM>::WARP_COLS; i < 32; i *= 2)
        x += __shfl_xor_sync(SIMT_FULL, x, i);
    return x;
}

// s, of the lane's rows and column, one token on; the output of its column.
template <int DIM>
static __device__ __forceinline__ float delta_step(float s[delta_shape<DIM>::N][4], const float4 *k,
                                                   const float4 *q, const struct delta_tok *tok,
                                                   float v)
{
    typedef struct delta_shape<DIM> shape;
    const int32_t part = (int32_t)threadIdx.x % 32 / shape::WARP_COLS;
    float u = 0.0f, o = 0.0f;
    SIMT_UNROLL
    for (int i = 0; i < shape::N; i++) {
        const float4 x = k[shape::PARTS * i + part], y = q[shape::PARTS * i + part];
        u = fmaf(x.w, s[i][3], fmaf(x.z, s[i][2], fmaf(x.y, s[i][1], fmaf(x.x, s[i][0], u))));
        o = fmaf(y.w, s[i][3], fmaf(y.z, s[i][2], fmaf(y.y, s[i][1], fmaf(y.x, s[i][0], o))));
    }
    u = delta_across<DIM>(u);
    o = delta_across<DIM>(o);
    const float decay = tok->decay, e = tok->beta * (v - tok->k_len * decay * u);
    const float add = tok->k_len * e;
    SIMT_UNROLL
    for (int i = 0; i < shape::N; i++) {
        const float4 x = k[shape::PARTS * i + part];
        s[i][0] = fmaf(x.x, add, decay * s[i][0]);
        s[i][1] = fmaf(x.y, add, decay * s[i][1]);
        s[i][2] = fmaf(x.z, add, decay * s[i][2]);
        s[i][3] = fmaf(x.w, add, decay * s[i][3]);
    }
    return fmaf(tok->kq, e, tok->q_len * decay * o);
}

// grid (columns, heads, runs)
template <int DIM>
static __global__ void __launch_bounds__(DELTA_THREADS, 3) delta_kernel(struct delta_dev a)
{
    __shared__ struct delta_shared<DIM> sh;
    simt_follow();
    const struct cuda_run run = a.runs[blockIdx.z];
    typedef struct delta_shape<DIM> shape;
    const int32_t head = (int32_t)blockIdx.y, lane = (int32_t)threadIdx.x % 32;
    const int32_t warp = (int32_t)threadIdx.x / 32, part = lane / shape::WARP_COLS;
    const int32_t col =
        (int32_t)blockIdx.x * shape::COLS + warp * shape::WARP_COLS + lane % shape::WARP_COLS;
    const bool is = col < a.dim_v;
    const int64_t v_at = (int64_t)head * a.dim_v + col, out_ld = (int64_t)a.n_head_v * a.dim_v;
    float *state = a.state + run.slot * a.state_ld + (int64_t)head * a.dim_k * a.dim_v + col;
    if (run.n_tok < a.tok_min || run.n_tok > a.tok_max) return;
    float s[shape::N][4];
    SIMT_UNROLL
    for (int i = 0; i < 4 * shape::N; i++) {
        const int32_t row = shape::EACH * (i / 4) + 4 * part + i % 4;
        s[i / 4][i % 4] = is && row < a.dim_k ? state[(int64_t)row * a.dim_v] : 0.0f;
    }
    for (int32_t t0 = 0; t0 < run.n_tok; t0 += DELTA_TOK) {
        const int32_t n = min(DELTA_TOK, run.n_tok - t0);
        const int64_t tok = run.tok_from + t0;
        float v = is ? a.v[tok * a.ld + v_at] : 0.0f;
        delta_load<DIM>(&a, &run, head, t0, n, &sh);
        for (int32_t t = 0; t < n; t++) {
            const float next = is && t + 1 < n ? a.v[(tok + t + 1) * a.ld + v_at] : 0.0f;
            const float o = delta_step<DIM>(s, sh.k[t], sh.q[t], &sh.tok[t], v);
            if (is && part == 0) a.out[(tok + t) * out_ld + v_at] = o;
            v = next;
        }
    }
    SIMT_UNROLL
    for (int i = 0; i < 4 * shape::N; i++) {
        const int32_t row = shape::EACH * (i / 4) + 4 * part + i % 4;
        if (is && row < a.dim_k) state[(int64_t)row * a.dim_v] = s[i / 4][i % 4];
    }
}

template <int DIM>
static void delta_launch(struct cuda *c, const struct delta_dev *d, int32_t n_run)
{
    const dim3 grid((unsigned)cuda_ceil(d->dim_v, delta_shape<DIM>::COLS), (unsigned)d->n_head_v,
                    (unsigned)n_run);
    LAUNCH_NEXT(c, delta_kernel<DIM>, grid, DELTA_THREADS, 0, *d);
}

void cuda_delta_run(struct kernels *k, const struct delta_args *a)
{
    struct cuda *c = cuda_of(k);
    BUG_ON(a->dim_k < 1 || a->dim_k > DELTA_K_MAX || a->n_head_v % a->n_head_k);
    if (a->n_run == 0) return;
    struct delta_dev d = {.q = a->q,
                          .k = a->k,
                          .v = a->v,
                          .a = a->a,
                          .b = a->b,
                          .a_neg = a->a_neg,
                          .dt_bias = a->dt_bias,
                          .runs = cuda_list_of(c, a->runs, a->n_run, 0, a->slots).runs,
                          .state = a->state,
                          .out = a->out,
                          .ld = a->ld,
                          .state_ld = a->state_ld,
                          .n_head_k = a->n_head_k,
                          .n_head_v = a->n_head_v,
                          .dim_k = a->dim_k,
                          .dim_v = a->dim_v,
                          .tok_min = 1,
                          .tok_max = INT32_MAX,
                          .tiled = a->tiled};
    // Chunks are cut from a run's beginning, so who wants each token's sums to depend on it alone
    // has none of them.
    int32_t longest = 0, shortest = INT32_MAX;
    for (int32_t i = 0; i < a->n_run; i++) {
        longest = max(longest, a->runs[i].n_tok);
        shortest = min(shortest, a->runs[i].n_tok);
    }
    const bool serial = c->lim.precision == PRECISION_EXACT || c->lim.deterministic;
    if (!serial && longest >= DELTA_FEW) {
        d.tok_min = DELTA_FEW;
        if (delta_chunk_run(c, &d, a->n_run)) d.tok_max = DELTA_FEW - 1;
        d.tok_min = 1;
        if (shortest > d.tok_max) return;
    }
    if (a->dim_k <= 32)
        delta_launch<32>(c, &d, a->n_run);
    else if (a->dim_k <= 64)
        delta_launch<64>(c, &d, a->n_run);
    else if (a->dim_k <= 128)
        delta_launch<128>(c, &d, a->n_run);
    else
        delta_launch<256>(c, &d, a->n_run);
}
