// rope: rotary positions (Su et al. 2021). Angles are made in double: a float angle at position
// 100,000 is off by 0.004.
#include "kernels/cuda/cuda.h"

enum { ROPE_BLOCK = 128, ROPE_FREQ = 256 };

struct rope_freq { // by value: nothing on the host is read later
    double f[ROPE_FREQ];
};

// Pairs [from, from + n) of each token's `pairs`.
static __global__ void rope_angles(const struct rope_freq freq, const int32_t *pos, int n_tok,
                                   int pairs, int from, int n, double factor, float2 *cos_sin)
{
    simt_follow();
    const int at = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (at >= n_tok * n) return;
    const int tok = at / n, j = at % n;
    double s, c;
    sincos((double)pos[tok] * freq.f[j], &s, &c);
    cos_sin[(int64_t)tok * pairs + from + j] =
        make_float2((float)(c * factor), (float)(s * factor));
}

void cuda_rope_table(struct kernels *k, const struct rope *r, const int32_t *pos, int32_t n_tok,
                     float *cos_sin)
{
    struct cuda *c = cuda_of(k);
    BUG_ON(r->n_rot % 2 || r->n_rot > c->lim.max_head_dim);
    const int pairs = r->n_rot / 2;
    const int32_t *where = cuda_ints_of(c, pos, n_tok);
    for (int from = 0; from < pairs && n_tok; from += ROPE_FREQ) {
        const int n = pairs - from < ROPE_FREQ ? pairs - from : ROPE_FREQ;
        struct rope_freq freq = {};
        for (int j = 0; j < n; j++) {
            freq.f[j] = r->freq_scale * pow(r->theta, -2.0 * (from + j) / r->n_rot);
            if (r->freq_factors) freq.f[j] /= r->freq_factors[from + j];
        }
        LAUNCH_NEXT(c, rope_angles, (unsigned)cuda_ceil((int64_t)n_tok * n, ROPE_BLOCK), ROPE_BLOCK,
                    0, freq, where, n_tok, pairs, from, n, r->attn_factor, (float2 *)cos_sin);
    }
}

static __global__ void rope_pairs(const float2 *cos_sin, int64_t n, int pairs, int n_head,
                                  int head_dim, int step, int far, float *x)
{
    simt_follow();
    const int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= n) return;
    const int64_t head = at / pairs;
    const int i = (int)(at % pairs);
    const float2 cs = cos_sin[head / n_head * pairs + i];
    float *p = x + head * head_dim + step * i;
    const float u = p[0], v = p[far];
    p[0] = u * cs.x - v * cs.y;
    p[far] = u * cs.y + v * cs.x;
}

void cuda_rope_turn(struct kernels *k, const struct rope *r, const float *cos_sin, int32_t n_tok,
                    int32_t n_head, int32_t head_dim, float *x)
{
    struct cuda *c = cuda_of(k);
    BUG_ON(r->n_rot > head_dim);
    const int pairs = r->n_rot / 2;
    const bool neox = r->kind == ROPE_NEOX;
    const int64_t n = (int64_t)n_tok * n_head * pairs;
    if (n)
        LAUNCH_NEXT(c, rope_pairs, (unsigned)cuda_ceil(n, ROPE_BLOCK), ROPE_BLOCK, 0,
                    (const float2 *)cos_sin, n, pairs, n_head, head_dim, neox ? 1 : 2,
                    neox ? pairs : 1, x);
}
