// delta: what the two kernels of the gated delta rule share: the call as the device sees it, and
// what the rule needs of a token besides its vectors.
#pragma once
#include "kernels/cuda/cuda.h"

struct delta_dev {
    const float *q, *k, *v, *a, *b, *a_neg, *dt_bias;
    const struct cuda_run *runs;
    float *state, *out;
    int64_t ld, state_ld;
    int32_t n_head_k, n_head_v, dim_k, dim_v;
    int32_t tok_min, tok_max; // of the runs that this launch takes
    bool tiled;
};

enum { DELTA_CHUNK = 32 }; // tokens that the chunked kernel takes at a time

// delta_chunk.cu: the runs of [tok_min, tok_max] tokens, of n_run, in chunks. False: the device has
// no room for keys of this length.
bool delta_chunk_run(struct cuda *c, const struct delta_dev *d, int32_t n_run);

static __device__ __forceinline__ float delta_softplus(float x)
{
    return x > 20.0f ? x : log1pf(expf(x));
}
// log of the decay of row `at` of a and b
static __device__ __forceinline__ float delta_log_decay(const struct delta_dev *a, int32_t head,
                                                        int64_t at)
{
    return a->a_neg[head] * delta_softplus(a->a[at] + a->dt_bias[head]);
}
static __device__ __forceinline__ float delta_beta(const struct delta_dev *a, int64_t at)
{
    return 1.0f / (1.0f + expf(-a->b[at]));
}
static __device__ __forceinline__ int32_t delta_key_head(const struct delta_dev *a, int32_t head)
{
    return a->tiled ? head % a->n_head_k : head / (a->n_head_v / a->n_head_k);
}
