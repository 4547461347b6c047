// conv: short causal convolutions. A thread has one channel and CONV_TOK tokens of a run, with the
// tokens before them in registers. Order of one element: bias, then the taps ascending, by fma.
#include "kernels/cuda/cuda.h"

static const int32_t CONV_THREADS = 128, CONV_TOK = 32;

struct conv_dev {
    const float *x, *w, *bias;
    const struct cuda_run *runs;
    float *state, *out;
    int64_t state_ld;
    int32_t n_channel;
};

// The TAPS - 1 tokens before token t of a run, oldest first; before the run they are in its state.
template <int TAPS>
static __device__ __forceinline__ void conv_past(const struct conv_dev *a,
                                                 const struct cuda_run *run, const float *state,
                                                 int32_t channel, int32_t t, float past[TAPS])
{
    SIMT_UNROLL
    for (int j = 0; j < TAPS - 1; j++) {
        const int32_t at = t - (TAPS - 1) + j;
        past[j] = at < 0 ? state[(at + TAPS - 1) * (int64_t)a->n_channel + channel]
                         : a->x[(int64_t)(run->tok_from + at) * a->n_channel + channel];
    }
}

// grid (channels, tokens, runs). Of one block of tokens: the state as well.
template <int TAPS>
static __global__ void __launch_bounds__(CONV_THREADS) conv_kernel(struct conv_dev a)
{
    simt_follow();
    const int32_t c = (int32_t)(blockIdx.x * CONV_THREADS + threadIdx.x);
    const struct cuda_run run = a.runs[blockIdx.z];
    const int32_t from = (int32_t)blockIdx.y * CONV_TOK, to = min(from + CONV_TOK, run.n_tok);
    if (c >= a.n_channel || from >= to) return;
    float *state = a.state + run.slot * a.state_ld;
    float w[TAPS], x[TAPS];
    SIMT_UNROLL
    for (int j = 0; j < TAPS; j++)
        w[j] = a.w[(int64_t)c * TAPS + j];
    const float bias = a.bias ? a.bias[c] : 0.0f;
    conv_past<TAPS>(&a, &run, state, c, from, x);
    for (int32_t t = from; t < to; t++) {
        const int64_t at = (int64_t)(run.tok_from + t) * a.n_channel + c;
        float s = bias;
        x[TAPS - 1] = a.x[at];
        SIMT_UNROLL
        for (int j = 0; j < TAPS; j++)
            s = fmaf(w[j], x[j], s);
        a.out[at] = s / (1.0f + expf(-s));
        SIMT_UNROLL
        for (int j = 0; j < TAPS - 1; j++)
            x[j] = x[j + 1];
    }
    if (gridDim.y > 1) return;
    SIMT_UNROLL
    for (int j = 0; j < TAPS - 1; j++)
        state[(int64_t)j * a.n_channel + c] = x[j];
}

// grid (channels, 1, runs). After conv_kernel of several blocks of tokens, which read the old
// state.
template <int TAPS>
static __global__ void __launch_bounds__(CONV_THREADS) conv_state_kernel(struct conv_dev a)
{
    simt_follow();
    const int32_t c = (int32_t)(blockIdx.x * CONV_THREADS + threadIdx.x);
    const struct cuda_run run = a.runs[blockIdx.z];
    if (c >= a.n_channel || run.n_tok == 0) return;
    float *state = a.state + run.slot * a.state_ld, x[TAPS];
    conv_past<TAPS>(&a, &run, state, c, run.n_tok, x);
    SIMT_UNROLL
    for (int j = 0; j < TAPS - 1; j++)
        state[(int64_t)j * a.n_channel + c] = x[j];
}

template <int TAPS>
static void conv_launch(struct cuda *c, const struct conv_dev *a, int32_t n_run, int32_t most)
{
    const unsigned blocks = (unsigned)cuda_ceil(a->n_channel, CONV_THREADS);
    const dim3 grid(blocks, (unsigned)cuda_ceil(most, CONV_TOK), (unsigned)n_run);
    LAUNCH_NEXT(c, conv_kernel<TAPS>, grid, CONV_THREADS, 0, *a);
    if (grid.y > 1)
        LAUNCH_NEXT(c, conv_state_kernel<TAPS>, dim3(blocks, 1, (unsigned)n_run), CONV_THREADS, 0,
                    *a);
}

void cuda_conv_run(struct kernels *k, const struct conv_args *a)
{
    static void (*const launch[])(struct cuda *, const struct conv_dev *, int32_t, int32_t) = {
        conv_launch<2>, conv_launch<3>, conv_launch<4>, conv_launch<5>,
        conv_launch<6>, conv_launch<7>, conv_launch<8>};
    struct cuda *c = cuda_of(k);
    int32_t most = 0;
    for (int32_t i = 0; i < a->n_run; i++)
        most = max(most, a->runs[i].n_tok);
    if (most == 0) return;
    BUG_ON(a->n_tap < 2 || a->n_tap > 8);
    const struct conv_dev d = {.x = a->x,
                               .w = a->w,
                               .bias = a->bias,
                               .runs = cuda_list_of(c, a->runs, a->n_run, 0, a->slots).runs,
                               .state = a->state,
                               .out = a->out,
                               .state_ld = a->state_ld,
                               .n_channel = a->n_channel};
    launch[a->n_tap - 2](c, &d, a->n_run, most);
}
