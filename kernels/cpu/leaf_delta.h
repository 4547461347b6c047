// leaf_delta: bodies of what carries state from token to token: the short convolution and the gated
// delta rule. Included by leaf_ISA.c after leaf_elem.h.
#pragma once
#include <string.h>

// 8 floats, or the n < 8 that there are and zeros.
LEAF_INLINE v8 leaf_load_n(const float *p, int32_t n)
{
    return n >= 8 ? v8_load(p) : v8_load_part(p, n, 0.0f);
}
LEAF_INLINE void leaf_store_n(float *p, v8 a, int32_t n)
{
    if (n >= 8)
        v8_store(p, a);
    else
        v8_store_part(p, a, n);
}

// Order of one element: bias, then the taps ascending, each by fma.
static void leaf_conv_block(const struct leaf_conv *c)
{
    const int32_t past = c->n_tap - 1;
    float w[CONV_TAPS_MAX * LEAF_CONV], bias[LEAF_CONV] = {0};
    for (int32_t i = 0; i < c->n; i++) {
        for (int32_t j = 0; j < c->n_tap; j++)
            w[j * LEAF_CONV + i] = c->w[(int64_t)i * c->n_tap + j];
        if (c->bias) bias[i] = c->bias[i];
    }
    for (int32_t t = 0; t < c->n_tok; t++) {
        const float *row[CONV_TAPS_MAX];
        for (int32_t j = 0; j < c->n_tap; j++) {
            int32_t at = t - past + j;
            row[j] = at < 0 ? c->state + (at + past) * c->ld : c->x + at * c->ld;
        }
        for (int32_t i = 0; i < c->n; i += 8) {
            v8 s = v8_load(bias + i);
            for (int32_t j = 0; j < c->n_tap; j++)
                s = v8_fma(v8_load(w + j * LEAF_CONV + i), leaf_load_n(row[j] + i, c->n - i), s);
            leaf_store_n(c->out + t * c->ld + i, leaf_silu(s), c->n - i);
        }
    }
    for (int32_t i = 0; i < past; i++) {
        int32_t at = i + c->n_tok - past; // row of x
        const float *from = at < 0 ? c->state + (at + past) * c->ld : c->x + at * c->ld;
        memmove(c->state + i * c->ld, from, (size_t)c->n * sizeof(float));
    }
}

// log(1 + e^x) = max(x, 0) + 2 atanh(y / (2 + y)) with y = e^-|x|, by its series to the 15th power
// (error 1e-9).
LEAF_INLINE v8 leaf_softplus(v8 x)
{
    const v8 zero = v8_set(0.0f);
    v8 minus = v8_sub(zero, x), y = v8_exp(v8_min(minus, x));
    v8 s = v8_div(y, v8_add(v8_set(2.0f), y)), s2 = v8_mul(s, s);
    v8 p = v8_fma(v8_set(1.0f / 15), s2, v8_set(1.0f / 13));
    p = v8_fma(p, s2, v8_set(1.0f / 11));
    p = v8_fma(p, s2, v8_set(1.0f / 9));
    p = v8_fma(p, s2, v8_set(1.0f / 7));
    p = v8_fma(p, s2, v8_set(1.0f / 5));
    p = v8_fma(p, s2, v8_set(1.0f / 3));
    p = v8_fma(p, s2, v8_set(1.0f));
    return v8_fma(v8_add(s, s), p, v8_max(zero, x));
}

// What the rule needs of 8 tokens besides the vectors: e^g, beta, the factors that bring k and q to
// their lengths, and the product of the two so brought.
struct leaf_delta_toks {
    float decay[8], beta[8], k_len[8], q_len[8], kq[8];
};

static void leaf_delta_look(const struct leaf_delta *d, int32_t t0, struct leaf_delta_toks *o)
{
    const int32_t n = d->n_tok - t0 < 8 ? d->n_tok - t0 : 8;
    float a[8] = {0}, b[8] = {0}, kk[8] = {0}, qq[8] = {0}, kq[8] = {0};
    for (int32_t t = 0; t < n; t++) {
        const float *k = d->k + (t0 + t) * d->ld, *q = d->q + (t0 + t) * d->ld;
        v8 s = v8_set(0.0f), u = s, w = s;
        for (int32_t i = 0; i < d->dim_k; i += 8) {
            v8 x = leaf_load_n(k + i, d->dim_k - i), y = leaf_load_n(q + i, d->dim_k - i);
            s = v8_fma(x, x, s);
            u = v8_fma(y, y, u);
            w = v8_fma(x, y, w);
        }
        kk[t] = v8_hsum(s);
        qq[t] = v8_hsum(u);
        kq[t] = v8_hsum(w);
        a[t] = d->a[(t0 + t) * d->ld_ab];
        b[t] = d->b[(t0 + t) * d->ld_ab];
    }
    v8 g = leaf_softplus(v8_add(v8_load(a), v8_set(d->dt_bias)));
    v8_store(o->decay, v8_exp(v8_mul(v8_set(d->a_neg), g)));
    v8_store(o->beta, leaf_sigmoid_of(v8_load(b)));
    for (int32_t t = 0; t < n; t++) {
        o->k_len[t] = 1.0f / __builtin_sqrtf(kk[t] + 1e-6f);
        o->q_len[t] = 1.0f / __builtin_sqrtf((qq[t] + 1e-6f) * (float)d->dim_k);
        o->kq[t] = kq[t] * o->k_len[t] * o->q_len[t];
    }
}

// The update that a token leaves for the pass over the state that the next one makes.
struct leaf_delta_wait {
    const float *k;
    float decay;
    v8 add[LEAF_DELTA / 8];
};

struct leaf_delta_seen {
    v8 k[LEAF_DELTA / 8], q[LEAF_DELTA / 8]; // S^T k, S^T q
};

// One pass over D vectors of columns of the state: S = decay S + k add of the token before
// (update), and S^T k, S^T q of the present one (look).
LEAF_INLINE void leaf_delta_pass(int D, bool update, bool look, const struct leaf_delta *d,
                                 const struct leaf_delta_wait *wait, const float *k, const float *q,
                                 struct leaf_delta_seen *seen)
{
    v8 u[4], o[4], c[4];
    const v8 decay = v8_set(wait->decay);
    const float *kw = wait->k;
    float *s = d->scratch;
    LEAF_UNROLL(4)
    for (int j = 0; j < D; j++) {
        u[j] = o[j] = v8_set(0.0f);
        c[j] = wait->add[j];
    }
    for (int32_t i = 0; i < d->dim_k; i++, s += 8 * D) {
        LEAF_UNROLL(4)
        for (int j = 0; j < D; j++) {
            v8 x = v8_load(s + 8 * j);
            if (update) {
                x = v8_fma(v8_set(kw[i]), c[j], v8_mul(decay, x));
                v8_store(s + 8 * j, x);
            }
            if (look) {
                u[j] = v8_fma(v8_set(k[i]), x, u[j]);
                o[j] = v8_fma(v8_set(q[i]), x, o[j]);
            }
        }
    }
    LEAF_UNROLL(4)
    for (int j = 0; j < D && look; j++) {
        seen->k[j] = u[j];
        seen->q[j] = o[j];
    }
}

// The n columns from c0 on, D vectors of them, in scratch (dim_k, 8 D).
LEAF_INLINE void leaf_delta_columns(int D, const struct leaf_delta *d, int32_t c0)
{
    const int32_t n = d->n - c0 < 8 * D ? d->n - c0 : 8 * D;
    struct leaf_delta_wait wait = {.k = d->k};
    struct leaf_delta_toks toks;
    struct leaf_delta_seen seen;
    for (int32_t i = 0; i < d->dim_k; i++)
        for (int j = 0; j < D; j++)
            v8_store(d->scratch + 8 * (i * D + j),
                     leaf_load_n(d->state + i * d->ld_state + c0 + 8 * j, n - 8 * j));
    for (int j = 0; j < D; j++)
        wait.add[j] = v8_set(0.0f);
    for (int32_t t = 0; t < d->n_tok; t++) {
        const int i = t % 8;
        const float *k = d->k + t * d->ld, *q = d->q + t * d->ld;
        if (i == 0) leaf_delta_look(d, t, &toks);
        if (t == 0)
            leaf_delta_pass(D, false, true, d, &wait, k, q, &seen);
        else
            leaf_delta_pass(D, true, true, d, &wait, k, q, &seen);
        wait.k = k;
        wait.decay = toks.decay[i];
        const v8 had = v8_set(toks.k_len[i] * wait.decay), beta = v8_set(toks.beta[i]);
        const v8 got = v8_set(toks.q_len[i] * wait.decay);
        for (int j = 0; j < D; j++) {
            const int32_t at = c0 + 8 * j, left = n - 8 * j;
            v8 v = leaf_load_n(d->v + t * d->ld + at, left);
            v8 e = v8_mul(beta, v8_sub(v, v8_mul(had, seen.k[j])));
            wait.add[j] = v8_mul(v8_set(toks.k_len[i]), e);
            v8 y = v8_fma(v8_set(toks.kq[i]), e, v8_mul(got, seen.q[j]));
            leaf_store_n(d->out + t * d->ld_out + at, y, left);
        }
    }
    leaf_delta_pass(D, true, false, d, &wait, d->k, d->q, &seen);
    for (int32_t i = 0; i < d->dim_k; i++)
        for (int j = 0; j < D; j++)
            leaf_store_n(d->state + i * d->ld_state + c0 + 8 * j,
                         v8_load(d->scratch + 8 * (i * D + j)), n - 8 * j);
}

// Token after token; a token's update of the state is made by the next one's pass over it, which
// changes no bits. The lengths of k and q are single factors, so they are applied to sums.
static void leaf_delta_block(const struct leaf_delta *d)
{
    int32_t c = 0;
    for (; c + 32 <= d->n && 32 * d->dim_k <= LEAF_DELTA_FLOATS; c += 32)
        leaf_delta_columns(4, d, c);
    for (; c < d->n; c += 8)
        leaf_delta_columns(1, d, c);
}
