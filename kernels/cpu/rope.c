// rope: rotary positions (Su et al. 2021). Angles are made in double: a float angle at position
// 100,000 is off by 0.004.
#include "kernels/cpu/cpu.h"

#include <math.h>

struct table_call {
    const struct rope *r;
    const double *freq;
    const int32_t *pos;
    float *cos_sin;
};

static void table_rows(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    (void)c;
    const struct table_call *t = arg;
    const int32_t half = t->r->n_rot / 2;
    for (int64_t i = from; i < to; i++)
        for (int32_t j = 0; j < half; j++) {
            double a = t->pos[i] * t->freq[j], s, co;
            sincos(a, &s, &co);
            float *out = t->cos_sin + (i * half + j) * 2;
            out[0] = (float)(co * t->r->attn_factor);
            out[1] = (float)(s * t->r->attn_factor);
        }
}

void rope_table(struct kernels *k, const struct rope *r, const int32_t *pos, int32_t n_tok,
                float *cos_sin)
{
    struct cpu *c = cpu_of(k);
    BUG_ON(r->n_rot % 2 || r->n_rot > c->lim.max_head_dim);
    for (int32_t j = 0; j < r->n_rot / 2; j++) {
        c->freq[j] = r->freq_scale * pow(r->theta, -2.0 * j / r->n_rot);
        if (r->freq_factors) c->freq[j] /= r->freq_factors[j];
    }
    struct table_call t = {r, c->freq, pos, cos_sin};
    cpu_for(c, n_tok, 64, table_rows, &t);
}

struct turn_call {
    const struct rope *r;
    const float *cos_sin;
    int32_t n_head, head_dim;
    float *x;
};

static void turn_rows(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    const struct turn_call *t = arg;
    for (int64_t i = from; i < to; i++)
        c->isa->rope(t->r, t->cos_sin + i * t->r->n_rot, t->n_head, t->head_dim,
                     t->x + i * t->n_head * t->head_dim);
}

void rope_turn(struct kernels *k, const struct rope *r, const float *cos_sin, int32_t n_tok,
               int32_t n_head, int32_t head_dim, float *x)
{
    struct turn_call t = {r, cos_sin, n_head, head_dim, x};
    BUG_ON(r->n_rot > head_dim);
    cpu_for(cpu_of(k), n_tok, (1 << 14) / ((int64_t)n_head * head_dim), turn_rows, &t);
}
