// leaf_elem: bodies of everything that works element by element or row by row. Included by
// leaf_ISA.c after leaf_attn.h.
#pragma once

// Sum of squares by lane, two chains of vectors in turn, then across.
static void leaf_rms_norm(const float *x, const float *w, int32_t dim, float eps, float *y)
{
    v8 a = v8_set(0.0f), b = a;
    int32_t i = 0;
    for (; i + 16 <= dim; i += 16) {
        v8 u = v8_load(x + i), v = v8_load(x + i + 8);
        a = v8_fma(u, u, a);
        b = v8_fma(v, v, b);
    }
    for (; i < dim; i += 8) {
        v8 u = v8_load_part(x + i, dim - i < 8 ? dim - i : 8, 0.0f);
        a = v8_fma(u, u, a);
    }
    float mean = v8_hsum(v8_add(a, b)) / (float)dim;
    const float k = 1.0f / __builtin_sqrtf(mean + eps);
    if (w)
        for (i = 0; i < dim; i++)
            y[i] = x[i] * k * w[i];
    else
        for (i = 0; i < dim; i++)
            y[i] = x[i] * k;
}

static void leaf_rope(const struct rope *r, const float *cos_sin, int32_t n_head, int32_t head_dim,
                      float *x)
{
    const int32_t half = r->n_rot / 2;
    const int32_t step = r->kind == ROPE_NEOX ? 1 : 2, far = r->kind == ROPE_NEOX ? half : 1;
    for (int32_t h = 0; h < n_head; h++, x += head_dim)
        for (int32_t i = 0; i < half; i++) {
            float c = cos_sin[2 * i], s = cos_sin[2 * i + 1];
            float u = x[step * i], v = x[step * i + far];
            x[step * i] = u * c - v * s;
            x[step * i + far] = u * s + v * c;
        }
}

LEAF_INLINE v8 leaf_sigmoid_of(v8 x)
{
    const v8 one = v8_set(1.0f);
    return v8_div(one, v8_add(one, v8_exp(v8_sub(v8_set(0.0f), x))));
}
LEAF_INLINE v8 leaf_silu(v8 x)
{
    return v8_div(x, v8_add(v8_set(1.0f), v8_exp(v8_sub(v8_set(0.0f), x))));
}
// x (1 + tanh u) / 2 = x / (1 + e^(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3)
LEAF_INLINE v8 leaf_gelu_tanh(v8 x)
{
    const v8 one = v8_set(1.0f);
    v8 u = v8_mul(x, v8_fma(v8_mul(x, x), v8_set(0.044715f), one));
    return v8_div(x, v8_add(one, v8_exp(v8_mul(u, v8_set(-1.59576912f)))));
}
// x (1 + erf(x / sqrt(2))) / 2 = max(x, 0) - |x| h with h = erfc(|x| / sqrt(2)) / 2 after
// Abramowitz and Stegun 1964, 7.1.26 (error 1.5e-7).
LEAF_INLINE v8 leaf_gelu(v8 x)
{
    const v8 one = v8_set(1.0f), zero = v8_set(0.0f);
    v8 abs = v8_max(v8_sub(zero, x), x);
    v8 t = v8_div(one, v8_fma(abs, v8_set(0.3275911f * 0.70710678f), one));
    v8 p = v8_fma(v8_set(0.5f * 1.061405429f), t, v8_set(0.5f * -1.453152027f));
    p = v8_fma(p, t, v8_set(0.5f * 1.421413741f));
    p = v8_fma(p, t, v8_set(0.5f * -0.284496736f));
    p = v8_fma(p, t, v8_set(0.5f * 0.254829592f));
    v8 h = v8_mul(v8_mul(p, t), v8_exp(v8_mul(v8_mul(x, x), v8_set(-0.5f))));
    return v8_sub(v8_max(zero, x), v8_mul(abs, h));
}

LEAF_INLINE v8 leaf_glu_one(const struct glu *a, enum glu_kind kind, v8 gate, v8 up)
{
    if (kind == GLU_SILU) return v8_mul(leaf_silu(gate), up);
    if (kind == GLU_GELU_TANH) return v8_mul(leaf_gelu_tanh(gate), up);
    if (kind == GLU_GELU) return v8_mul(leaf_gelu(gate), up);
    const v8 limit = v8_set(a->limit), one = v8_set(1.0f);
    v8 g = v8_min(limit, gate), u = v8_max(v8_set(-a->limit), v8_min(limit, up));
    v8 e = v8_exp(v8_mul(v8_set(-a->alpha), g));
    return v8_mul(v8_div(g, v8_add(one, e)), v8_add(u, one));
}

LEAF_INLINE void leaf_glu_of(const struct glu *a, enum glu_kind kind, const float *gate,
                             const float *up, int64_t n, float *out)
{
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        v8_store(out + i, leaf_glu_one(a, kind, v8_load(gate + i), v8_load(up + i)));
    int rest = (int)(n - i);
    if (!rest) return;
    v8 g = v8_load_part(gate + i, rest, 0.0f), u = v8_load_part(up + i, rest, 0.0f);
    v8_store_part(out + i, leaf_glu_one(a, kind, g, u), rest);
}

static void leaf_glu(const struct glu *a, const float *gate, const float *up, int64_t n, float *out)
{
    switch (a->kind) {
    case GLU_SILU:
        leaf_glu_of(a, GLU_SILU, gate, up, n, out);
        break;
    case GLU_GELU_TANH:
        leaf_glu_of(a, GLU_GELU_TANH, gate, up, n, out);
        break;
    case GLU_GELU:
        leaf_glu_of(a, GLU_GELU, gate, up, n, out);
        break;
    case GLU_SWIGLU_OAI:
        leaf_glu_of(a, GLU_SWIGLU_OAI, gate, up, n, out);
        break;
    }
}

static void leaf_sigmoid(const float *x, int64_t n, float *out)
{
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        v8_store(out + i, leaf_sigmoid_of(v8_load(x + i)));
    int rest = (int)(n - i);
    if (rest) v8_store_part(out + i, leaf_sigmoid_of(v8_load_part(x + i, rest, 0.0f)), rest);
}

static void leaf_gate(float *x, const float *gate, int64_t n)
{
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        v8_store(x + i, v8_mul(v8_load(x + i), leaf_sigmoid_of(v8_load(gate + i))));
    int rest = (int)(n - i);
    if (!rest) return;
    v8 s = leaf_sigmoid_of(v8_load_part(gate + i, rest, 0.0f));
    v8_store_part(x + i, v8_mul(v8_load_part(x + i, rest, 0.0f), s), rest);
}

// D vectors of columns at a time, so that D chains run side by side.
LEAF_INLINE void leaf_combine_of(int D, const float *y, int64_t ld, const int32_t *at,
                                 const float *weights, int32_t n_used, float *out)
{
    v8 s[4];
    LEAF_UNROLL(4)
    for (int d = 0; d < D; d++)
        s[d] = v8_set(0.0f);
    for (int32_t j = 0; j < n_used; j++) {
        const float *row = y + at[j] * ld;
        const v8 w = v8_set(weights[j]);
        LEAF_UNROLL(4)
        for (int d = 0; d < D; d++)
            s[d] = v8_fma(w, v8_load(row + 8 * d), s[d]);
    }
    LEAF_UNROLL(4)
    for (int d = 0; d < D; d++)
        v8_store(out + 8 * d, s[d]);
}

static void leaf_combine(const float *y, int64_t ld, const int32_t *at, const float *weights,
                         int32_t n_used, int64_t n, float *out)
{
    int64_t c = 0;
    for (; c + 32 <= n; c += 32)
        leaf_combine_of(4, y + c, ld, at, weights, n_used, out + c);
    for (; c + 8 <= n; c += 8)
        leaf_combine_of(1, y + c, ld, at, weights, n_used, out + c);
    int rest = (int)(n - c);
    if (!rest) return;
    v8 s = v8_set(0.0f);
    for (int32_t j = 0; j < n_used; j++)
        s = v8_fma(v8_set(weights[j]), v8_load_part(y + at[j] * ld + c, rest, 0.0f), s);
    v8_store_part(out + c, s, rest);
}

static void leaf_add(float *x, const float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] += y[i];
}

static void leaf_scale(float *x, float s, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] *= s;
}

static void leaf_softcap(float *x, float cap, int64_t n)
{
    const v8 c = v8_set(cap);
    for (int64_t i = 0; i < n; i += 8) {
        int m = n - i < 8 ? (int)(n - i) : 8;
        v8 t = m == 8 ? v8_load(x + i) : v8_load_part(x + i, m, 0.0f);
        t = v8_mul(c, v8_tanh(v8_div(t, c)));
        if (m == 8)
            v8_store(x + i, t);
        else
            v8_store_part(x + i, t, m);
    }
}

static float leaf_max(const float *x, int64_t n)
{
    const float inf = __builtin_inff();
    v8 a = v8_set(-inf), b = a;
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        a = v8_max(v8_load(x + i), a);
        b = v8_max(v8_load(x + i + 8), b);
    }
    float m = v8_hmax(v8_max(a, b));
    for (; i < n; i++)
        m = x[i] > m ? x[i] : m;
    return m;
}

// e^(x - max) / sum, summed by lane (index mod 8), then across; out may be x.
static void leaf_softmax_row(const float *x, int64_t n, float *out)
{
    const float top = leaf_max(x, n), inf = __builtin_inff();
    const v8 m = v8_set(top > -inf ? top : 0.0f);
    v8 sum = v8_set(0.0f);
    for (int64_t i = 0; i < n; i += 8) {
        int k = n - i < 8 ? (int)(n - i) : 8;
        v8 e = v8_exp(v8_sub(k == 8 ? v8_load(x + i) : v8_load_part(x + i, k, -inf), m));
        sum = v8_add(sum, e);
        if (k == 8)
            v8_store(out + i, e);
        else
            v8_store_part(out + i, e, k);
    }
    const float all = v8_hsum(sum);
    for (int64_t i = 0; i < n; i++)
        out[i] /= all;
}

// In double, by lane (index mod 8), then across.
static double leaf_sum_exp(const float *x, float max, int64_t n)
{
    double s[8] = {0};
    const v8 m = v8_set(max);
    for (int64_t i = 0; i < n; i += 8) {
        int k = n - i < 8 ? (int)(n - i) : 8;
        v8 t = k == 8 ? v8_load(x + i) : v8_load_part(x + i, k, -__builtin_inff());
        v8_add_f64(s, v8_exp(v8_sub(t, m)));
    }
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

static float leaf_spin_f32(int64_t n)
{
    v8 a[8];
    for (int i = 0; i < 8; i++)
        a[i] = v8_set((float)i);
    const v8 x = v8_set(0.999f), y = v8_set(0.001f);
    for (int64_t k = 0; k < n; k += 64) {
        LEAF_UNROLL(8)
        for (int i = 0; i < 8; i++)
            a[i] = v8_fma(a[i], x, y);
    }
    v8 s = a[0];
    for (int i = 1; i < 8; i++)
        s = v8_add(s, a[i]);
    return v8_hsum(s);
}
