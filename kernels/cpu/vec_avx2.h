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
VEC v8i k6_sums(k6s k, int32_t n)
{
    return _mm256_madd_epi16(k.pair, _mm256_set1_epi32(n));
}

#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
#include "kernels/cpu/vec_dot_vnni.h"
#else
#include "kernels/cpu/vec_dot_avx2.h"
#endif

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
VEC void v8_round_s8(v8 a, v8 b, v8 c, v8 d, int8_t q[32], int16_t sums[2][2])
{
    __m256i ab = _mm256_packs_epi32(_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b));
    __m256i cd = _mm256_packs_epi32(_mm256_cvtps_epi32(c), _mm256_cvtps_epi32(d));
    __m256i v = _mm256_packs_epi16(ab, cd); // 4-byte groups a0 b0 c0 d0 a1 b1 c1 d1
    v = _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)q, v);
    __m256i s = _mm256_maddubs_epi16(_mm256_set1_epi8(1), v);
    s = _mm256_add_epi16(s, _mm256_shuffle_epi32(s, 0x4e));
    s = _mm256_add_epi16(s, _mm256_shuffle_epi32(s, 0xb1));
    const int32_t lo = _mm256_extract_epi32(s, 0), hi = _mm256_extract_epi32(s, 4);
    __builtin_memcpy(sums[0], &lo, 4);
    __builtin_memcpy(sums[1], &hi, 4);
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
