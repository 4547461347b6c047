// vec_dot_avx2: the integer products of AVX2, with 16-bit sums that are widened as late as they
// allow; included by vec_avx2.h.
#pragma once

// 16-bit sums of pairs, not yet widened. The largest |x| is 127.
VEC __m256i q32_pairs(const q32 *w, const int8_t *x, int j)
{
    return _mm256_maddubs_epi16(w[j], q32_bcast(x, j));
}
VEC v8i dot_u4(const q32 w[8], const int8_t *x)
{
    // 8 * 2 * 15 * 127 = 30480 fits 16 bits: widen once
    __m256i s = q32_pairs(w, x, 0), t = q32_pairs(w, x, 1);
    s = _mm256_add_epi16(s, q32_pairs(w, x, 2));
    t = _mm256_add_epi16(t, q32_pairs(w, x, 3));
    s = _mm256_add_epi16(s, q32_pairs(w, x, 4));
    t = _mm256_add_epi16(t, q32_pairs(w, x, 5));
    s = _mm256_add_epi16(s, q32_pairs(w, x, 6));
    t = _mm256_add_epi16(t, q32_pairs(w, x, 7));
    return _mm256_madd_epi16(_mm256_add_epi16(s, t), _mm256_set1_epi16(1));
}
VEC v8i dot_u5(const q32 w[8], const int8_t *x)
{
    // 4 * 2 * 31 * 127 = 31496 fits 16 bits
    __m256i s = q32_pairs(w, x, 0), t = q32_pairs(w, x, 1), one = _mm256_set1_epi16(1);
    s = _mm256_add_epi16(s, q32_pairs(w, x, 2));
    t = _mm256_add_epi16(t, q32_pairs(w, x, 3));
    s = _mm256_add_epi16(s, q32_pairs(w, x, 4));
    t = _mm256_add_epi16(t, q32_pairs(w, x, 5));
    s = _mm256_add_epi16(s, q32_pairs(w, x, 6));
    t = _mm256_add_epi16(t, q32_pairs(w, x, 7));
    return _mm256_add_epi32(_mm256_madd_epi16(s, one), _mm256_madd_epi16(t, one));
}
VEC __m256i dot_s8_part(const q32 *w, const int8_t *x, int j)
{
    // |w| <= 128: 2 * 128 * 127 = 32512 fits 16 bits, a second pair does not
    __m256i s = _mm256_sign_epi8(q32_bcast(x, j), w[j]);
    return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(w[j]), s), _mm256_set1_epi16(1));
}
VEC v8i dot_s8(const q32 w[8], const int8_t *x)
{
    __m256i s = _mm256_add_epi32(dot_s8_part(w, x, 0), dot_s8_part(w, x, 1));
    s = _mm256_add_epi32(s, _mm256_add_epi32(dot_s8_part(w, x, 2), dot_s8_part(w, x, 3)));
    __m256i t = _mm256_add_epi32(dot_s8_part(w, x, 4), dot_s8_part(w, x, 5));
    t = _mm256_add_epi32(t, _mm256_add_epi32(dot_s8_part(w, x, 6), dot_s8_part(w, x, 7)));
    return _mm256_add_epi32(s, t);
}
VEC void dot_halves(const q32 w[8], const int8_t *x, v8i out[2])
{
    // 4 * 2 * 24 * 127 = 24384 fits 16 bits
    const __m256i one = _mm256_set1_epi16(1);
    __m256i s = _mm256_add_epi16(q32_pairs(w, x, 0), q32_pairs(w, x, 1));
    __m256i t = _mm256_add_epi16(q32_pairs(w, x, 4), q32_pairs(w, x, 5));
    s = _mm256_add_epi16(s, _mm256_add_epi16(q32_pairs(w, x, 2), q32_pairs(w, x, 3)));
    t = _mm256_add_epi16(t, _mm256_add_epi16(q32_pairs(w, x, 6), q32_pairs(w, x, 7)));
    out[0] = _mm256_madd_epi16(s, one);
    out[1] = _mm256_madd_epi16(t, one);
}
VEC v8i dot_k6(const q32 w[8], k6s k, const int8_t *x, int32_t neg_sums)
{
    // 2 * 2 * 63 * 127 = 32004 fits 16 bits; the widening multiplies by the scale
    __m256i a = _mm256_add_epi16(q32_pairs(w, x, 0), q32_pairs(w, x, 1));
    __m256i b = _mm256_add_epi16(q32_pairs(w, x, 2), q32_pairs(w, x, 3));
    __m256i c = _mm256_add_epi16(q32_pairs(w, x, 4), q32_pairs(w, x, 5));
    __m256i d = _mm256_add_epi16(q32_pairs(w, x, 6), q32_pairs(w, x, 7));
    __m256i s = _mm256_slli_epi32(_mm256_madd_epi16(k.pair, _mm256_set1_epi32(neg_sums)), 5);
    a = _mm256_add_epi32(_mm256_madd_epi16(a, k.even), _mm256_madd_epi16(b, k.even));
    c = _mm256_add_epi32(_mm256_madd_epi16(c, k.odd), _mm256_madd_epi16(d, k.odd));
    return _mm256_add_epi32(s, _mm256_add_epi32(a, c));
}

VEC v8i dot_k3(const q32 w[8], k6s k, const int8_t *x)
{
    // 4 * 2 * 7 * 127 = 7112 fits 16 bits; the widening multiplies by the scale
    __m256i s = _mm256_add_epi16(q32_pairs(w, x, 0), q32_pairs(w, x, 1));
    __m256i t = _mm256_add_epi16(q32_pairs(w, x, 4), q32_pairs(w, x, 5));
    s = _mm256_add_epi16(s, _mm256_add_epi16(q32_pairs(w, x, 2), q32_pairs(w, x, 3)));
    t = _mm256_add_epi16(t, _mm256_add_epi16(q32_pairs(w, x, 6), q32_pairs(w, x, 7)));
    return _mm256_add_epi32(_mm256_madd_epi16(s, k.even), _mm256_madd_epi16(t, k.odd));
}
VEC __m256i dot_k8_part(const q32 *w, const int8_t *x, int j)
{
    // |w| <= 62: 2 * 2 * 62 * 127 = 31496 fits 16 bits
    __m256i s = _mm256_sign_epi8(q32_bcast(x, j), w[j]);
    __m256i t = _mm256_sign_epi8(q32_bcast(x, j + 1), w[j + 1]);
    return _mm256_add_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(w[j]), s),
                            _mm256_maddubs_epi16(_mm256_abs_epi8(w[j + 1]), t));
}
VEC v8i dot_k8(const q32 w[8], k6s k, const int8_t *x)
{
    __m256i s = _mm256_madd_epi16(dot_k8_part(w, x, 0), k.even);
    __m256i t = _mm256_madd_epi16(dot_k8_part(w, x, 4), k.odd);
    s = _mm256_add_epi32(s, _mm256_madd_epi16(dot_k8_part(w, x, 2), k.even));
    t = _mm256_add_epi32(t, _mm256_madd_epi16(dot_k8_part(w, x, 6), k.odd));
    return _mm256_add_epi32(s, t);
}

// -- two panels against four rows: out[2t + p] is panel p and row t; x (4, 32) --
#define VEC_QUAD 1 // has dot_quad_*

// A panel's block made ready for four rows and more. Of signed w: its size, where it is below 0,
// and what the sums begin with.
struct quad_panel {
    const q32 *w;
    q32 abs[8], below[8];
    v8i from;
};
VEC void quad_prepare(const q32 w[8], bool is_signed, struct quad_panel *o)
{
    const __m256i zero = _mm256_setzero_si256(), one = _mm256_set1_epi8(1);
    __m256i s = zero;
    o->w = w;
    if (!is_signed) return;
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        o->abs[j] = _mm256_abs_epi8(w[j]);
        o->below[j] = _mm256_cmpgt_epi8(zero, w[j]);
        s = _mm256_add_epi16(s,
                             _mm256_maddubs_epi16(_mm256_and_si256(o->abs[j], o->below[j]), one));
    }
    o->from = _mm256_madd_epi16(s, _mm256_set1_epi16(1));
}
// Keeps eight sums in registers: gcc would make trees of the terms of all steps and spill them.
VEC void quad_keep(__m256i s[8])
{
    __asm__("" : "+x"(s[0]), "+x"(s[1]), "+x"(s[2]), "+x"(s[3]));
    __asm__("" : "+x"(s[4]), "+x"(s[5]), "+x"(s[6]), "+x"(s[7]));
}
VEC void quad_zero(__m256i s[8])
{
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        s[i] = _mm256_setzero_si256();
}
// Sums begin with k / times times n, the four rows' negated sums of x (two int16 each, as the
// 16-bit sums of maddubs lie): so they are those of (w - k) * x. They may wrap around on the way,
// since what comes out fits.
VEC void quad_from(__m256i s[8], const uint8_t *n, int times, int k)
{
    const int two = k & -k;
#pragma GCC unroll 4
    for (int t = 0; t < 4; t++) {
        __m256i v = q32_bcast((const int8_t *)n, t);
        if (two < times) v = _mm256_srai_epi16(v, __builtin_ctz((unsigned)(times / two)));
        if (two == times) __asm__("" : "+x"(v)); // as quad_keep: else gcc spills
        if (k > two) v = _mm256_mullo_epi16(v, _mm256_set1_epi16((short)(k / two)));
        s[2 * t] = s[2 * t + 1] = v;
    }
}
// 16-bit sums of columns 4 * from to 4 * to - 1.
VEC void quad_sum16(__m256i s[8], const struct quad_panel p[2], const int8_t *x, int from, int to)
{
#pragma GCC unroll 8
    for (int j = from; j < to; j++) {
        const __m256i wa = q32_load(&p[0].w[j]), wb = q32_load(&p[1].w[j]);
#pragma GCC unroll 4
        for (int t = 0; t < 4; t++) {
            __m256i v = q32_bcast(x + 32 * t, j);
            s[2 * t] = _mm256_add_epi16(s[2 * t], _mm256_maddubs_epi16(wa, v));
            s[2 * t + 1] = _mm256_add_epi16(s[2 * t + 1], _mm256_maddubs_epi16(wb, v));
        }
        quad_keep(s);
    }
}
VEC void quad_widen(const __m256i s[8], v8i out[8])
{
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        out[i] = _mm256_madd_epi16(s[i], _mm256_set1_epi16(1));
}
VEC void dot_quad_u4(const struct quad_panel p[2], const int8_t *x, const uint8_t *n, v8i out[8])
{
    (void)n;
    __m256i s[8];
    quad_zero(s);
    quad_sum16(s, p, x, 0, 8);
    quad_widen(s, out);
}
// Of w - k: 8 * 2 * 16 * 127 = 32512 fits 16 bits.
VEC void dot_quad_middle(const struct quad_panel p[2], const int8_t *x, const uint8_t *n, int k,
                         v8i out[8])
{
    __m256i s[8];
    quad_from(s, n, XQ_TIMES, k);
    quad_sum16(s, p, x, 0, 8);
    quad_widen(s, out);
}
// The same of columns 4 * from to 4 * from + 15.
VEC void dot_quad_half(const struct quad_panel p[2], const int8_t *x, int from, const uint8_t *n,
                       int k, v8i out[8])
{
    __m256i s[8];
    quad_from(s, n, XQ_TIMES_HALF, k);
    quad_sum16(s, p, x, from, from + 4);
    quad_widen(s, out);
}
// Where w < 0, |w| * ~x is taken, which is w * x - |w|: inverting has twice the multiplier's rate,
// vpsignb has not. Two products fit 16 bits: at most 128 * 126 or at least 128 * -128 each.
VEC void dot_quad_s8(const struct quad_panel w[2], const int8_t *x, const uint8_t *n, v8i out[8])
{
    (void)n;
    const __m256i one = _mm256_set1_epi16(1);
    __m256i s[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        s[i] = w[i % 2].from;
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        const __m256i wa = q32_load(&w[0].abs[j]), wb = q32_load(&w[1].abs[j]);
        const __m256i na = q32_load(&w[0].below[j]), nb = q32_load(&w[1].below[j]);
#pragma GCC unroll 4
        for (int t = 0; t < 4; t++) {
            __m256i v = q32_bcast(x + 32 * t, j);
            __m256i p = _mm256_maddubs_epi16(wa, _mm256_xor_si256(v, na));
            __m256i q = _mm256_maddubs_epi16(wb, _mm256_xor_si256(v, nb));
            s[2 * t] = _mm256_add_epi32(s[2 * t], _mm256_madd_epi16(p, one));
            s[2 * t + 1] = _mm256_add_epi32(s[2 * t + 1], _mm256_madd_epi16(q, one));
        }
        quad_keep(s);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        out[i] = s[i];
}
// 16-bit sums times the scales of a half, added to out unless it is the first.
VEC void quad_scale(const __m256i s[8], __m256i a, __m256i b, bool is_first, v8i out[8])
{
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        const __m256i v = _mm256_madd_epi16(s[i], i % 2 ? b : a);
        out[i] = is_first ? v : _mm256_add_epi32(out[i], v);
    }
}
VEC void dot_quad_k3(const struct quad_panel p[2], const k6s *ka, const k6s *kb, const int8_t *x,
                     const uint8_t *n, const uint8_t *m, v8i out[8])
{
    (void)n;
    (void)m;
    __m256i s[8];
    quad_zero(s);
    quad_sum16(s, p, x, 0, 4);
    quad_scale(s, ka->even, kb->even, true, out);
    quad_zero(s);
    quad_sum16(s, p, x, 4, 8);
    quad_scale(s, ka->odd, kb->odd, false, out);
}
// Of w - 32: 4 * 2 * 32 * 127 = 32512 fits 16 bits. n, m: of the halves, as quad_from takes them.
VEC void dot_quad_k6(const struct quad_panel p[2], const k6s *ka, const k6s *kb, const int8_t *x,
                     const uint8_t *n, const uint8_t *m, v8i out[8])
{
    __m256i s[8];
    quad_from(s, n, XQ_TIMES_HALF, 32);
    quad_sum16(s, p, x, 0, 4);
    quad_scale(s, ka->even, kb->even, true, out);
    quad_from(s, m, XQ_TIMES_HALF, 32);
    quad_sum16(s, p, x, 4, 8);
    quad_scale(s, ka->odd, kb->odd, false, out);
}

// Multiply-adds in eight chains, as many as hide the latency: maddubs + madd + add.
VEC int32_t vec_spin_int8(int64_t n)
{
    __m256i a[8], x = _mm256_set1_epi8(3), one = _mm256_set1_epi16(1);
    for (int i = 0; i < 8; i++)
        a[i] = _mm256_set1_epi8((char)i);
    for (int64_t k = 0; k < n; k += 256)
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            __m256i p = _mm256_madd_epi16(_mm256_maddubs_epi16(a[i], x), one);
            a[i] = _mm256_add_epi32(a[i], p);
        }
    for (int i = 1; i < 8; i++)
        a[0] = _mm256_xor_si256(a[0], a[i]);
    return _mm256_extract_epi32(a[0], 0);
}
