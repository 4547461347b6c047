// delta: the gated delta rule, token after token.
//
// A warp has 8 columns of one head's state in registers for the whole run; its four groups of 8
// lanes share the rows, four neighbours of every 16 each. Keys and queries come through shared
// memory DELTA_TOK tokens at a time. The lengths of k and q are single factors, so they are applied
// to sums; of S^T k and S^T q one pass over the state of the token before is enough, since
//     S'^T q = e^g S^T q + (k.q) beta (v - e^g S^T k).
#include "kernels/cuda/cuda.h"

static const int32_t DELTA_THREADS = 128, DELTA_COLS = 32, DELTA_TOK = 16, DELTA_K_MAX = 256;

struct delta_dev {
    const float *q, *k, *v, *a, *b, *a_neg, *dt_bias;
    const struct cuda_run *runs;
    float *state, *out;
    int64_t ld, state_ld;
    int32_t n_head_k, n_head_v, dim_k, dim_v;
    bool tiled;
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

static __device__ __forceinline__ float delta_softplus(float x)
{
    return x > 20.0f ? x : log1pf(expf(x));
}

// Tokens [t0, t0 + n) of a run into shared memory, zeros beyond dim_k; between barriers.
template <int DIM>
static __device__ __forceinline__ void
delta_load(const struct delta_dev *a, const struct cuda_run *run, int32_t head, int32_t t0,
           int32_t n, struct delta_shared<DIM> *sh)
{
    const int32_t hk = a->tiled ? head % a->n_head_k : head / (a->n_head_v / a->n_head_k);
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
        o.decay = expf(a->a_neg[head] * delta_softplus(a->a[at] + a->dt_bias[head]));
        o.beta = 1.0f / (1.0f + expf(-a->b[at]));
        o.k_len = 1.0f / sqrtf(kk + 1e-6f);
        o.q_len = 1.0f / sqrtf((qq + 1e-6f) * (float)a->dim_k);
        o.kq = kq * o.k_len * o.q_len;
        sh->tok[t] = o;
    }
    __syncthreads();
}

static __device__ __forceinline__ float delta_across(float x) // sum over the lanes of a column
{
    x += __shfl_xor_sync(SIMT_FULL, x, 8);
    return x + __shfl_xor_sync(SIMT_FULL, x, 16);
}

// s, (DIM / 16, 4) of the lane's rows and column, one token on; the output of its column.
template <int DIM>
static __device__ __forceinline__ float delta_step(float s[DIM / 16][4], const float4 *k,
                                                   const float4 *q, const struct delta_tok *tok,
                                                   float v)
{
    const int32_t part = (int32_t)threadIdx.x % 32 / 8;
    float u = 0.0f, o = 0.0f;
    SIMT_UNROLL
    for (int i = 0; i < DIM / 16; i++) {
        const float4 x = k[4 * i + part], y = q[4 * i + part];
        u = fmaf(x.w, s[i][3], fmaf(x.z, s[i][2], fmaf(x.y, s[i][1], fmaf(x.x, s[i][0], u))));
        o = fmaf(y.w, s[i][3], fmaf(y.z, s[i][2], fmaf(y.y, s[i][1], fmaf(y.x, s[i][0], o))));
    }
    u = delta_across(u);
    o = delta_across(o);
    if (DIM > 128) __syncwarp(); // the keys are read again: there are no registers for them
    const float decay = tok->decay, e = tok->beta * (v - tok->k_len * decay * u);
    const float add = tok->k_len * e;
    SIMT_UNROLL
    for (int i = 0; i < DIM / 16; i++) {
        const float4 x = k[4 * i + part];
        s[i][0] = fmaf(x.x, add, decay * s[i][0]);
        s[i][1] = fmaf(x.y, add, decay * s[i][1]);
        s[i][2] = fmaf(x.z, add, decay * s[i][2]);
        s[i][3] = fmaf(x.w, add, decay * s[i][3]);
    }
    return fmaf(tok->kq, e, tok->q_len * decay * o);
}

// grid (columns, heads, runs)
template <int DIM>
static __global__ void __launch_bounds__(DELTA_THREADS, DIM > 128 ? 1 : 3)
    delta_kernel(struct delta_dev a)
{
    __shared__ struct delta_shared<DIM> sh;
    const struct cuda_run run = a.runs[blockIdx.z];
    const int32_t head = (int32_t)blockIdx.y, part = (int32_t)threadIdx.x % 32 / 8;
    const int32_t warp = (int32_t)threadIdx.x / 32;
    const int32_t col = (int32_t)blockIdx.x * DELTA_COLS + warp * 8 + (int32_t)threadIdx.x % 8;
    const bool is = col < a.dim_v;
    const int64_t v_at = (int64_t)head * a.dim_v + col, out_ld = (int64_t)a.n_head_v * a.dim_v;
    float *state = a.state + run.slot * a.state_ld + (int64_t)head * a.dim_k * a.dim_v + col;
    if (run.n_tok == 0) return;
    float s[DIM / 16][4];
    SIMT_UNROLL
    for (int i = 0; i < DIM / 4; i++) {
        const int32_t row = 16 * (i / 4) + 4 * part + i % 4;
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
    for (int i = 0; i < DIM / 4; i++) {
        const int32_t row = 16 * (i / 4) + 4 * part + i % 4;
        if (is && row < a.dim_k) state[(int64_t)row * a.dim_v] = s[i / 4][i % 4];
    }
}

void cuda_delta_run(struct kernels *k, const struct delta_args *a)
{
    struct cuda *c = cuda_of(k);
    BUG_ON(a->dim_k < 1 || a->dim_k > DELTA_K_MAX || a->n_head_v % a->n_head_k);
    if (a->n_run == 0) return;
    const struct delta_dev d = {.q = a->q,
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
                                .tiled = a->tiled};
    const dim3 grid((unsigned)cuda_ceil(a->dim_v, DELTA_COLS), (unsigned)a->n_head_v,
                    (unsigned)a->n_run);
    void (*const kernel)(struct delta_dev) = a->dim_k <= 32    ? delta_kernel<32>
                                             : a->dim_k <= 64  ? delta_kernel<64>
                                             : a->dim_k <= 128 ? delta_kernel<128>
                                                               : delta_kernel<256>;
    LAUNCH(kernel, grid, DELTA_THREADS, 0, c->stream, d);
}
