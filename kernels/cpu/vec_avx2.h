// vec, AVX2 + FMA + F16C: see vec.h for what each function means.
#pragma once
#include <immintrin.h>

typedef __m256 v8;
typedef __m256i v8i;
typedef __m256i q32;
typedef struct {
    __m256i even, odd, pair;
} k6s;

#define VEC static inline __attribute__((always_inline, unused))

VEC v8 v8_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
VEC void v8_store(float *p, v8 a)
{
    _mm256_storeu_ps(p, a);
}
VEC v8 v8_set(float x)
{
    return _mm256_set1_ps(x);
}
VEC v8 v8_add(v8 a, v8 b)
{
    return _mm256_add_ps(a, b);
}
VEC v8 v8_sub(v8 a, v8 b)
{
    return _mm256_sub_ps(a, b);
}
VEC v8 v8_mul(v8 a, v8 b)
{
    return _mm256_mul_ps(a, b);
}
VEC v8 v8_div(v8 a, v8 b)
{
    return _mm256_div_ps(a, b);
}
VEC v8 v8_fma(v8 a, v8 b, v8 c)
{
    return _mm256_fmadd_ps(a, b, c);
}
VEC v8 v8_min(v8 a, v8 b)
{
    return _mm256_min_ps(a, b);
}
VEC v8 v8_max(v8 a, v8 b)
{
    return _mm256_max_ps(a, b);
}
VEC v8 v8_zero_below(v8 a, v8 x, float limit)
{
    return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(limit), _CMP_LT_OQ), a);
}
VEC v8 v8_scale2(v8 a, v8 n)
{
    __m256i e = _mm256_slli_epi32(_mm256_castps_si256(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), e));
}
VEC float v8_hsum(v8 a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
VEC float v8_hmax(v8 a)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}
VEC v8 v8_load_f16(const void *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128(p));
}
VEC void v8_store_f16(void *p, v8 a)
{
    _mm_storeu_si128(p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
VEC v8 v8_load_bf16(const void *p)
{
    __m256i w = _mm256_cvtepu16_epi32(_mm_loadu_si128(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
}
VEC v8 v8_load_u8(const void *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p)));
}
VEC v8 v8_load_s8(const void *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p)));
}
VEC v8 v8_load_s16(const void *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128(p)));
}
// E4M3 has the fields of a half; the half's exponent has one bit more and its bias is 8 greater.
VEC v8 v8_load_f8(const void *p)
{
    __m128i h = _mm_slli_epi16(_mm_cvtepi8_epi16(_mm_loadl_epi64(p)), 7);
    h = _mm_and_si128(h, _mm_set1_epi16((short)0xbfff));
    return _mm256_cvtph_ps(h);
}
VEC v8 v8_load_e8(const void *p)
{
    const __m256i e = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p));
    __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
    __m256i small = _mm256_sllv_epi32(_mm256_set1_epi32(0x200000), e); // e < 2
    __m256i is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(normal, small, is_small));
}
VEC v8i v8i_add_sums(v8i a, int32_t n, int k, int l)
{
    const __m256i kl = _mm256_set1_epi32(k | l << 16);
    return _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_set1_epi32(n), kl));
}
VEC v8 v8_of_int(v8i a)
{
    return _mm256_cvtepi32_ps(a);
}
VEC void v8_add_f64(double acc[8], v8 a)
{
    __m256d lo = _mm256_cvtps_pd(_mm256_castps256_ps128(a));
    __m256d hi = _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1));
    _mm256_storeu_pd(acc, _mm256_add_pd(_mm256_loadu_pd(acc), lo));
    _mm256_storeu_pd(acc + 4, _mm256_add_pd(_mm256_loadu_pd(acc + 4), hi));
}

VEC q32 q32_load(const void *p)
{
    return _mm256_loadu_si256(p);
}
VEC q32 q32_or(q32 a, q32 b)
{
    return _mm256_or_si256(a, b);
}
VEC q32 q32_field(q32 a, int shift, uint8_t mask)
{
    __m256i s = shift >= 0 ? _mm256_slli_epi16(a, shift) : _mm256_srli_epi16(a, -shift);
    return _mm256_and_si256(s, _mm256_set1_epi8((char)mask));
}
VEC q32 q32_table(q32 a, const uint8_t t[16])
{
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)t)), a);
}
VEC v8 q32_column_u8(q32 a, int i)
{
    return _mm256_cvtepi32_ps(
        _mm256_and_si256(_mm256_srli_epi32(a, 8 * i), _mm256_set1_epi32(0xff)));
}
VEC v8 q32_column_s8(q32 a, int i)
{
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(a, 24 - 8 * i), 24));
}

// Four columns of x for all rows.
VEC __m256i q32_bcast(const int8_t *x, int j)
{
    int32_t v;
    __builtin_memcpy(&v, x + 4 * j, 4);
    return _mm256_set1_epi32(v);
}
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
VEC k6s k6_of(__m128i sc)
{
    k6s k;
    k.pair = _mm256_cvtepi8_epi16(sc);
    const __m256i even = _mm256_set1_epi32(0x01000100), odd = _mm256_set1_epi32(0x03020302),
                  at = _mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c, 0, 0x04040404,
                                         0x08080808, 0x0c0c0c0c);
    k.even = _mm256_shuffle_epi8(k.pair, _mm256_add_epi8(even, at));
    k.odd = _mm256_shuffle_epi8(k.pair, _mm256_add_epi8(odd, at));
    return k;
}
VEC k6s k6_scales(const void *p)
{
    return k6_of(_mm_loadu_si128(p));
}
VEC k6s k6_low(const void *p)
{
    return k6_of(_mm_and_si128(_mm_loadu_si128(p), _mm_set1_epi8(15)));
}
VEC k6s k6_high(const void *p)
{
    return k6_of(_mm_and_si128(_mm_srli_epi16(_mm_loadu_si128(p), 4), _mm_set1_epi8(15)));
}
VEC v8 k6_scale_of(k6s k, int half)
{
    __m256i s = half ? k.odd : k.even;
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(s, 16));
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

VEC v8i k6_sums(k6s k, int32_t n)
{
    return _mm256_madd_epi16(k.pair, _mm256_set1_epi32(n));
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
#define VEC_QUAD 1 // has dot_quad_u4, _u5, _s8, _halves, _k3, _k6

// Keeps eight sums in registers: gcc would make trees of the terms of all steps and spill them.
VEC void quad_keep(__m256i s[8])
{
    __asm__("" : "+x"(s[0]), "+x"(s[1]), "+x"(s[2]), "+x"(s[3]));
    __asm__("" : "+x"(s[4]), "+x"(s[5]), "+x"(s[6]), "+x"(s[7]));
}
// 16-bit sums of columns 4 * from to 4 * to - 1.
VEC void quad_sum16(__m256i s[8], const q32 *a, const q32 *b, const int8_t *x, int from, int to)
{
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        s[i] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int j = from; j < to; j++) {
        const __m256i wa = q32_load(&a[j]), wb = q32_load(&b[j]);
#pragma GCC unroll 4
        for (int t = 0; t < 4; t++) {
            __m256i v = q32_bcast(x + 32 * t, j);
            s[2 * t] = _mm256_add_epi16(s[2 * t], _mm256_maddubs_epi16(wa, v));
            s[2 * t + 1] = _mm256_add_epi16(s[2 * t + 1], _mm256_maddubs_epi16(wb, v));
        }
        quad_keep(s);
    }
}
VEC void dot_quad_u4(const q32 *a, const q32 *b, const int8_t *x, v8i out[8])
{
    __m256i s[8];
    quad_sum16(s, a, b, x, 0, 8);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        out[i] = _mm256_madd_epi16(s[i], _mm256_set1_epi16(1));
}
VEC void dot_quad_u5(const q32 *a, const q32 *b, const int8_t *x, v8i out[8])
{
    __m256i s[8];
    quad_sum16(s, a, b, x, 0, 4);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        out[i] = _mm256_madd_epi16(s[i], _mm256_set1_epi16(1));
    quad_sum16(s, a, b, x, 4, 8);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        out[i] = _mm256_add_epi32(out[i], _mm256_madd_epi16(s[i], _mm256_set1_epi16(1)));
}
VEC void dot_quad_s8(const q32 *a, const q32 *b, const int8_t *x, v8i out[8])
{
    __m256i s[8];
    const __m256i one = _mm256_set1_epi16(1);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        s[i] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        const __m256i wa = q32_load(&a[j]), wb = q32_load(&b[j]);
        const __m256i ua = _mm256_abs_epi8(wa), ub = _mm256_abs_epi8(wb);
#pragma GCC unroll 4
        for (int t = 0; t < 4; t++) {
            __m256i v = q32_bcast(x + 32 * t, j);
            __m256i p = _mm256_maddubs_epi16(ua, _mm256_sign_epi8(v, wa));
            __m256i q = _mm256_maddubs_epi16(ub, _mm256_sign_epi8(v, wb));
            s[2 * t] = _mm256_add_epi32(s[2 * t], _mm256_madd_epi16(p, one));
            s[2 * t + 1] = _mm256_add_epi32(s[2 * t + 1], _mm256_madd_epi16(q, one));
        }
        quad_keep(s);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        out[i] = s[i];
}
VEC void dot_quad_halves(const q32 *a, const q32 *b, const int8_t *x, v8i out[2][8])
{
    __m256i s[8];
    quad_sum16(s, a, b, x, 0, 4);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        out[0][i] = _mm256_madd_epi16(s[i], _mm256_set1_epi16(1));
    quad_sum16(s, a, b, x, 4, 8);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        out[1][i] = _mm256_madd_epi16(s[i], _mm256_set1_epi16(1));
}
VEC void dot_quad_k3(const q32 *a, const q32 *b, const k6s *ka, const k6s *kb, const int8_t *x,
                     v8i out[8])
{
    __m256i s[8];
    quad_sum16(s, a, b, x, 0, 4);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        out[i] = _mm256_madd_epi16(s[i], i % 2 ? kb->even : ka->even);
    quad_sum16(s, a, b, x, 4, 8);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        out[i] = _mm256_add_epi32(out[i], _mm256_madd_epi16(s[i], i % 2 ? kb->odd : ka->odd));
}
// neg_sums: of the four rows, as dot_k6 takes them.
VEC void dot_quad_k6(const q32 *a, const q32 *b, const k6s *ka, const k6s *kb, const int8_t *x,
                     const uint8_t *neg_sums, v8i out[8])
{
    __m256i s[8];
    const __m256i ca = _mm256_slli_epi16(ka->pair, 5), cb = _mm256_slli_epi16(kb->pair, 5);
#pragma GCC unroll 4
    for (int t = 0; t < 4; t++) {
        __m256i n = q32_bcast((const int8_t *)neg_sums, t);
        s[2 * t] = _mm256_madd_epi16(ca, n);
        s[2 * t + 1] = _mm256_madd_epi16(cb, n);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 8; j += 2) {
        const __m256i sa = j < 4 ? ka->even : ka->odd, sb = j < 4 ? kb->even : kb->odd;
        const q32 wa[2] = {q32_load(&a[j]), q32_load(&a[j + 1])};
        const q32 wb[2] = {q32_load(&b[j]), q32_load(&b[j + 1])};
#pragma GCC unroll 4
        for (int t = 0; t < 4; t++) {
            __m256i v = q32_bcast(x + 32 * t, j), w = q32_bcast(x + 32 * t, j + 1);
            __m256i p = _mm256_add_epi16(_mm256_maddubs_epi16(wa[0], v),
                                         _mm256_maddubs_epi16(wa[1], w));
            __m256i q = _mm256_add_epi16(_mm256_maddubs_epi16(wb[0], v),
                                         _mm256_maddubs_epi16(wb[1], w));
            s[2 * t] = _mm256_add_epi32(s[2 * t], _mm256_madd_epi16(p, sa));
            s[2 * t + 1] = _mm256_add_epi32(s[2 * t + 1], _mm256_madd_epi16(q, sb));
        }
        quad_keep(s);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        out[i] = s[i];
}
VEC uint32_t v8_abs_bits_max(v8 a, v8 b, v8 c, v8 d)
{
    const __m256i m = _mm256_set1_epi32(0x7fffffff);
    __m256i s = _mm256_max_epu32(_mm256_and_si256(_mm256_castps_si256(a), m),
                                 _mm256_and_si256(_mm256_castps_si256(b), m));
    __m256i t = _mm256_max_epu32(_mm256_and_si256(_mm256_castps_si256(c), m),
                                 _mm256_and_si256(_mm256_castps_si256(d), m));
    s = _mm256_max_epu32(s, t);
    __m128i h = _mm_max_epu32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
    h = _mm_max_epu32(h, _mm_unpackhi_epi64(h, h));
    h = _mm_max_epu32(h, _mm_shuffle_epi32(h, 1));
    return (uint32_t)_mm_cvtsi128_si32(h);
}
VEC void v8_round_s8(v8 a, v8 b, v8 c, v8 d, int8_t q[32], int32_t sums[2])
{
    __m256i ab = _mm256_packs_epi32(_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b));
    __m256i cd = _mm256_packs_epi32(_mm256_cvtps_epi32(c), _mm256_cvtps_epi32(d));
    __m256i v = _mm256_packs_epi16(ab, cd); // 4-byte groups a0 b0 c0 d0 a1 b1 c1 d1
    v = _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)q, v);
    __m256i s = _mm256_maddubs_epi16(_mm256_set1_epi8(1), v);
    s = _mm256_madd_epi16(s, _mm256_set1_epi16(1));
    s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, 0x4e));
    s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, 0xb1));
    sums[0] = _mm256_extract_epi32(s, 0);
    sums[1] = _mm256_extract_epi32(s, 4);
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
VEC __m256i vec_read_64(const char *p)
{
    return _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)p),
                            _mm256_loadu_si256((const __m256i *)p + 1));
}
VEC uint64_t vec_read(const char *p, int64_t bytes)
{
    const int64_t n = bytes / 4;
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (int64_t i = 0; i < n; i += 64) {
        a = _mm256_xor_si256(a, vec_read_64(p + i));
        b = _mm256_xor_si256(b, vec_read_64(p + n + i));
        c = _mm256_xor_si256(c, vec_read_64(p + 2 * n + i));
        d = _mm256_xor_si256(d, vec_read_64(p + 3 * n + i));
    }
    a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
    return (uint64_t)_mm256_extract_epi64(a, 0) ^ (uint64_t)_mm256_extract_epi64(a, 2);
}
