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
    for (i = 0; i < dim; i++)
        y[i] = x[i] * k * w[i];
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

LEAF_INLINE v8 leaf_act(enum glu_kind kind, v8 x)
{
    const v8 one = v8_set(1.0f), zero = v8_set(0.0f);
    if (kind == GLU_SILU) return v8_div(x, v8_add(one, v8_exp(v8_sub(zero, x))));
    // x (1 + tanh u) / 2 = x / (1 + e^(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3)
    v8 u = v8_mul(x, v8_fma(v8_mul(x, x), v8_set(0.044715f), one));
    return v8_div(x, v8_add(one, v8_exp(v8_mul(u, v8_set(-1.59576912f)))));
}

LEAF_INLINE void leaf_glu_of(enum glu_kind kind, const float *gate, const float *up, int64_t n,
                             float *out)
{
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        v8_store(out + i, v8_mul(leaf_act(kind, v8_load(gate + i)), v8_load(up + i)));
    int rest = (int)(n - i);
    if (!rest) return;
    v8 g = leaf_act(kind, v8_load_part(gate + i, rest, 0.0f));
    v8_store_part(out + i, v8_mul(g, v8_load_part(up + i, rest, 0.0f)), rest);
}

static void leaf_glu(enum glu_kind kind, const float *gate, const float *up, int64_t n, float *out)
{
    if (kind == GLU_SILU)
        leaf_glu_of(GLU_SILU, gate, up, n, out);
    else
        leaf_glu_of(GLU_GELU_TANH, gate, up, n, out);
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
