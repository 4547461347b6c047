// vec, portable C: see vec.h for what each function means. This is the ground truth.
#pragma once
#include "proto/base/dtype.h"
#include <math.h>
#include <string.h>

typedef struct {
    float f[8];
} v8;
typedef struct {
    int32_t i[8];
} v8i;
typedef struct {
    uint8_t b[32];
} q32;
typedef struct {
    int8_t s[8][2];
} k6s;

#define VEC static inline __attribute__((unused))
#define LEAF_INLINE static inline
#define LEAF_UNROLL(n)
#define VEC_EACH for (int i = 0; i < 8; i++)

VEC v8 v8_load(const float *p)
{
    v8 r;
    memcpy(&r, p, sizeof r);
    return r;
}
VEC void v8_store(float *p, v8 a)
{
    memcpy(p, &a, sizeof a);
}
VEC v8 v8_set(float x)
{
    v8 r;
    VEC_EACH r.f[i] = x;
    return r;
}
VEC v8 v8_add(v8 a, v8 b)
{
    VEC_EACH a.f[i] += b.f[i];
    return a;
}
VEC v8 v8_sub(v8 a, v8 b)
{
    VEC_EACH a.f[i] -= b.f[i];
    return a;
}
VEC v8 v8_mul(v8 a, v8 b)
{
    VEC_EACH a.f[i] *= b.f[i];
    return a;
}
VEC v8 v8_div(v8 a, v8 b)
{
    VEC_EACH a.f[i] /= b.f[i];
    return a;
}
VEC v8 v8_fma(v8 a, v8 b, v8 c)
{
    VEC_EACH c.f[i] = fmaf(a.f[i], b.f[i], c.f[i]);
    return c;
}
VEC v8 v8_min(v8 a, v8 b)
{
    VEC_EACH b.f[i] = a.f[i] < b.f[i] ? a.f[i] : b.f[i];
    return b;
}
VEC v8 v8_max(v8 a, v8 b)
{
    VEC_EACH b.f[i] = a.f[i] > b.f[i] ? a.f[i] : b.f[i];
    return b;
}
VEC v8 v8_zero_below(v8 a, v8 x, float limit)
{
    VEC_EACH a.f[i] = x.f[i] < limit ? 0.0f : a.f[i];
    return a;
}
VEC v8 v8_scale2(v8 a, v8 n)
{
    uint32_t x[8], e[8];
    memcpy(x, &a, sizeof x);
    memcpy(e, &n, sizeof e);
    VEC_EACH x[i] += e[i] << 23;
    memcpy(&a, x, sizeof x);
    return a;
}
VEC float v8_hsum(v8 a)
{
    const float *f = a.f;
    return ((f[0] + f[4]) + (f[2] + f[6])) + ((f[1] + f[5]) + (f[3] + f[7]));
}
VEC float v8_hmax(v8 a)
{
    float m = a.f[0];
    VEC_EACH m = m > a.f[i] ? m : a.f[i];
    return m;
}
VEC v8 v8_load_f16(const void *p)
{
    uint16_t h[8];
    v8 r;
    memcpy(h, p, sizeof h);
    VEC_EACH r.f[i] = dtype_f16_to_f32(h[i]);
    return r;
}
VEC void v8_store_f16(void *p, v8 a)
{
    uint16_t h[8];
    VEC_EACH h[i] = dtype_f32_to_f16(a.f[i]);
    memcpy(p, h, sizeof h);
}
VEC v8 v8_load_bf16(const void *p)
{
    uint16_t h[8];
    v8 r;
    memcpy(h, p, sizeof h);
    VEC_EACH r.f[i] = dtype_bf16_to_f32(h[i]);
    return r;
}
VEC v8 v8_load_u8(const void *p)
{
    v8 r;
    VEC_EACH r.f[i] = ((const uint8_t *)p)[i];
    return r;
}
VEC v8 v8_load_s8(const void *p)
{
    v8 r;
    VEC_EACH r.f[i] = ((const int8_t *)p)[i];
    return r;
}
VEC v8 v8_load_s16(const void *p)
{
    int16_t h[8];
    v8 r;
    memcpy(h, p, sizeof h);
    VEC_EACH r.f[i] = h[i];
    return r;
}
VEC v8 v8_load_f8(const void *p)
{
    const uint8_t *b = p;
    v8 r;
    VEC_EACH r.f[i] =
        (b[i] & 0x7f) == 0x7f ? (b[i] & 0x80 ? -480.0f : 480.0f) : dtype_f8_to_f32(b[i]);
    VEC_EACH r.f[i] *= 0x1p-8f;
    return r;
}
VEC v8 v8_load_e8(const void *p)
{
    v8 r;
    VEC_EACH r.f[i] = ldexpf(1.0f, ((const uint8_t *)p)[i] - 128);
    return r;
}
VEC v8i v8i_add_sums(v8i a, int32_t n, int k, int l)
{
    VEC_EACH a.i[i] += k * (int16_t)n + l * (n >> 16);
    return a;
}
VEC v8 v8_of_int(v8i a)
{
    v8 r;
    VEC_EACH r.f[i] = (float)a.i[i];
    return r;
}
VEC void v8_add_f64(double acc[8], v8 a)
{
    VEC_EACH acc[i] += (double)a.f[i];
}

VEC q32 q32_load(const void *p)
{
    q32 r;
    memcpy(&r, p, sizeof r);
    return r;
}
VEC q32 q32_or(q32 a, q32 b)
{
    for (int i = 0; i < 32; i++)
        a.b[i] |= b.b[i];
    return a;
}
VEC q32 q32_field(q32 a, int shift, uint8_t mask)
{
    for (int i = 0; i < 32; i++)
        a.b[i] = (uint8_t)(shift >= 0 ? a.b[i] << shift : a.b[i] >> -shift) & mask;
    return a;
}
VEC q32 q32_table(q32 a, const uint8_t t[16])
{
    for (int i = 0; i < 32; i++)
        a.b[i] = t[a.b[i]];
    return a;
}
VEC v8 q32_column_u8(q32 a, int k)
{
    v8 r;
    VEC_EACH r.f[i] = a.b[4 * i + k];
    return r;
}
VEC v8 q32_column_s8(q32 a, int k)
{
    v8 r;
    VEC_EACH r.f[i] = (int8_t)a.b[4 * i + k];
    return r;
}

VEC v8i dot_u4(const q32 w[8], const int8_t *x)
{
    v8i r = {{0}};
    for (int j = 0; j < 8; j++)
        VEC_EACH for (int k = 0; k < 4; k++) r.i[i] += w[j].b[4 * i + k] * x[4 * j + k];
    return r;
}
VEC v8i dot_u5(const q32 w[8], const int8_t *x)
{
    return dot_u4(w, x);
}
VEC v8i dot_s8(const q32 w[8], const int8_t *x)
{
    v8i r = {{0}};
    for (int j = 0; j < 8; j++)
        VEC_EACH for (int k = 0; k < 4; k++) r.i[i] += (int8_t)w[j].b[4 * i + k] * x[4 * j + k];
    return r;
}
VEC void dot_halves(const q32 w[8], const int8_t *x, v8i out[2])
{
    out[0] = out[1] = (v8i){{0}};
    for (int j = 0; j < 8; j++)
        VEC_EACH for (int k = 0; k < 4; k++) out[j / 4].i[i] += w[j].b[4 * i + k] * x[4 * j + k];
}
VEC k6s k6_scales(const void *p)
{
    k6s k;
    memcpy(&k, p, sizeof k);
    return k;
}
VEC k6s k6_low(const void *p)
{
    k6s k;
    VEC_EACH for (int h = 0; h < 2; h++) k.s[i][h] = ((const uint8_t *)p)[2 * i + h] & 15;
    return k;
}
VEC k6s k6_high(const void *p)
{
    k6s k;
    VEC_EACH for (int h = 0; h < 2; h++) k.s[i][h] = ((const uint8_t *)p)[2 * i + h] >> 4;
    return k;
}
VEC v8 k6_scale_of(k6s k, int half)
{
    v8 r;
    VEC_EACH r.f[i] = k.s[i][half];
    return r;
}
VEC v8i dot_k6(const q32 w[8], k6s s, const int8_t *x, int32_t neg_sums)
{
    (void)neg_sums;
    v8i r = {{0}};
    for (int j = 0; j < 8; j++)
        VEC_EACH for (int k = 0; k < 4; k++) r.i[i] +=
            s.s[i][j / 4] * (w[j].b[4 * i + k] - 32) * x[4 * j + k];
    return r;
}

VEC v8i k6_sums(k6s k, int32_t n)
{
    v8i r;
    VEC_EACH r.i[i] = k.s[i][0] * (int16_t)n + k.s[i][1] * (n >> 16);
    return r;
}
VEC v8i dot_k3(const q32 w[8], k6s s, const int8_t *x)
{
    v8i r = {{0}};
    for (int j = 0; j < 8; j++)
        VEC_EACH for (int k = 0; k < 4; k++) r.i[i] +=
            s.s[i][j / 4] * w[j].b[4 * i + k] * x[4 * j + k];
    return r;
}
VEC v8i dot_k8(const q32 w[8], k6s s, const int8_t *x)
{
    v8i r = {{0}};
    for (int j = 0; j < 8; j++)
        VEC_EACH for (int k = 0; k < 4; k++) r.i[i] +=
            s.s[i][j / 4] * (int8_t)w[j].b[4 * i + k] * x[4 * j + k];
    return r;
}

VEC uint32_t v8_abs_bits_max(v8 a, v8 b, v8 c, v8 d)
{
    uint32_t u[32], m = 0;
    memcpy(u, &a, 32);
    memcpy(u + 8, &b, 32);
    memcpy(u + 16, &c, 32);
    memcpy(u + 24, &d, 32);
    for (int i = 0; i < 32; i++)
        m = (u[i] & 0x7fffffff) > m ? u[i] & 0x7fffffff : m;
    return m;
}
VEC void v8_round_s8(v8 a, v8 b, v8 c, v8 d, int8_t q[32], int16_t sums[2][2])
{
    const v8 x[4] = {a, b, c, d};
    for (int i = 0; i < 4; i++)
        sums[i / 2][i % 2] = 0;
    for (int i = 0; i < 32; i++) {
        // NaN (from a broken model or a malicious stage) must convert to something.
        float v = x[i / 8].f[i % 8];
        v = v < 127 ? v : 127;
        q[i] = (int8_t)nearbyintf(v > -128 ? v : -128);
        sums[i / 16][i / 2 % 2] = (int16_t)(sums[i / 16][i / 2 % 2] + q[i]);
    }
}

VEC int32_t vec_spin_int8(int64_t n)
{
    uint32_t a[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    for (int64_t k = 0; k < n; k += 8)
        VEC_EACH a[i] += (uint32_t)((int8_t)a[i] * 3);
    return (int32_t)(a[0] ^ a[1] ^ a[2] ^ a[3] ^ a[4] ^ a[5] ^ a[6] ^ a[7]);
}
VEC uint64_t vec_read(const char *p, int64_t bytes)
{
    const uint64_t *q = (const void *)p;
    const int64_t n = bytes / 32;
    uint64_t a = 0;
    for (int64_t i = 0; i < n; i++)
        a ^= q[i] ^ q[n + i] ^ q[2 * n + i] ^ q[3 * n + i];
    return a;
}
