// vec_dot_i8mm: two panels against four rows of x by products of small matrices, 2 x 8 by 8 x 2
// (Armv8.2 I8MM); included by vec_neon.h. out[2t + p] is panel p and row t; x (4, 32).
#pragma once

#define VEC_QUAD 1 // has dot_quad_*

// A panel's block made ready: w[4 * m + r] holds columns 8m to 8m + 7 of rows 2r and 2r + 1.
struct quad_panel {
    int8x16_t w[16];
};
VEC int8x16_t q16_zip1(uint8x16_t a, uint8x16_t b)
{
    return vreinterpretq_s8_u32(vzip1q_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)));
}
VEC int8x16_t q16_zip2(uint8x16_t a, uint8x16_t b)
{
    return vreinterpretq_s8_u32(vzip2q_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)));
}
VEC void quad_prepare(const q32 w[8], bool is_signed, struct quad_panel *o)
{
    (void)is_signed; // unsigned values are below 128
#pragma GCC unroll 4
    for (int m = 0; m < 4; m++) {
        const q32 a = w[2 * m], b = w[2 * m + 1];
        o->w[4 * m] = q16_zip1(a.lo, b.lo);
        o->w[4 * m + 1] = q16_zip2(a.lo, b.lo);
        o->w[4 * m + 2] = q16_zip1(a.hi, b.hi);
        o->w[4 * m + 3] = q16_zip2(a.hi, b.hi);
    }
}
// Columns 8 * m to 8 * m + 7 of two rows of x.
VEC int8x16_t quad_rows(const int8_t *x, int m)
{
    return vcombine_s8(vld1_s8(x + 8 * m), vld1_s8(x + 32 + 8 * m));
}
// Sums of columns 8 * from to 8 * to - 1.
VEC void quad_sum(const struct quad_panel p[2], const int8_t *x, int from, int to, v8i out[8])
{
    int32x4_t s[2][2][4]; // panel, rows of x by two, rows of the panel by two
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        s[i / 8][i / 4 % 2][i % 4] = vdupq_n_s32(0);
#pragma GCC unroll 4
    for (int m = from; m < to; m++) {
        const int8x16_t v[2] = {quad_rows(x, m), quad_rows(x + 64, m)};
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            int32x4_t *sum = &s[i / 8][i / 4 % 2][i % 4];
            *sum = vmmlaq_s32(*sum, p[i / 8].w[4 * m + i % 4], v[i / 4 % 2]);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const int32x4_t *r = s[i % 2][i / 2];
        out[4 * (i / 2) + i % 2] = (v8i){vuzp1q_s32(r[0], r[1]), vuzp1q_s32(r[2], r[3])};
        out[4 * (i / 2) + 2 + i % 2] = (v8i){vuzp2q_s32(r[0], r[1]), vuzp2q_s32(r[2], r[3])};
    }
}
// n: negated sums of the four rows of x times `times`, two int16 each; adds k times both.
VEC void quad_add_sums(v8i out[8], const uint8_t *n, int times, int k)
{
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        int16_t v[2];
        __builtin_memcpy(v, n + 4 * (i / 2), 4);
        const int32x4_t add = vdupq_n_s32((v[0] + v[1]) / times * k);
        out[i] = (v8i){vaddq_s32(out[i].lo, add), vaddq_s32(out[i].hi, add)};
    }
}
VEC void dot_quad_u4(const struct quad_panel p[2], const int8_t *x, const uint8_t *n, v8i out[8])
{
    (void)n;
    quad_sum(p, x, 0, 4, out);
}
VEC void dot_quad_s8(const struct quad_panel p[2], const int8_t *x, const uint8_t *n, v8i out[8])
{
    (void)n;
    quad_sum(p, x, 0, 4, out);
}
// Of w - k.
VEC void dot_quad_middle(const struct quad_panel p[2], const int8_t *x, const uint8_t *n, int k,
                         v8i out[8])
{
    quad_sum(p, x, 0, 4, out);
    quad_add_sums(out, n, XQ_TIMES, k);
}
// The same of columns 4 * from to 4 * from + 15.
VEC void dot_quad_half(const struct quad_panel p[2], const int8_t *x, int from, const uint8_t *n,
                       int k, v8i out[8])
{
    quad_sum(p, x, from / 2, from / 2 + 2, out);
    quad_add_sums(out, n, XQ_TIMES_HALF, k);
}
// Sums of both halves times their scales.
VEC void quad_scale(const v8i a[8], const v8i b[8], const k6s *ka, const k6s *kb, v8i out[8])
{
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        const k6s *k = i % 2 ? kb : ka;
        out[i] = (v8i){vmlaq_s32(vmulq_s32(a[i].lo, k->even_lo), b[i].lo, k->odd_lo),
                       vmlaq_s32(vmulq_s32(a[i].hi, k->even_hi), b[i].hi, k->odd_hi)};
    }
}
VEC void dot_quad_k3(const struct quad_panel p[2], const k6s *ka, const k6s *kb, const int8_t *x,
                     const uint8_t *n, const uint8_t *m, v8i out[8])
{
    (void)n;
    (void)m;
    v8i a[8], b[8];
    quad_sum(p, x, 0, 2, a);
    quad_sum(p, x, 2, 4, b);
    quad_scale(a, b, ka, kb, out);
}
// Of w - 32. n, m: of the halves.
VEC void dot_quad_k6(const struct quad_panel p[2], const k6s *ka, const k6s *kb, const int8_t *x,
                     const uint8_t *n, const uint8_t *m, v8i out[8])
{
    v8i a[8], b[8];
    dot_quad_half(p, x, 0, n, 32, a);
    dot_quad_half(p, x, 4, m, 32, b);
    quad_scale(a, b, ka, kb, out);
}
