// vec_dot_vnni: the integer products of AVX512-VNNI, on vectors of 256 bits; included by
// vec_avx2.h. Sums of four products are added to 32 bits at once.
#pragma once

VEC __m256i q32_dot(__m256i acc, q32 w, const int8_t *x, int j)
{
    return _mm256_dpbusd_epi32(acc, w, q32_bcast(x, j));
}
// The same, w signed: |w| times what x becomes by w's sign.
VEC __m256i q32_dot_s8(__m256i acc, q32 w, const int8_t *x, int j)
{
    return _mm256_dpbusd_epi32(acc, _mm256_abs_epi8(w), _mm256_sign_epi8(q32_bcast(x, j), w));
}
// Columns 4 * from to 4 * from + 15.
VEC __m256i dot_half(const q32 *w, const int8_t *x, int from)
{
    const __m256i zero = _mm256_setzero_si256();
    __m256i s = q32_dot(zero, w[from], x, from), t = q32_dot(zero, w[from + 1], x, from + 1);
    s = q32_dot(s, w[from + 2], x, from + 2);
    t = q32_dot(t, w[from + 3], x, from + 3);
    return _mm256_add_epi32(s, t);
}
VEC __m256i dot_half_s8(const q32 *w, const int8_t *x, int from)
{
    const __m256i zero = _mm256_setzero_si256();
    __m256i s = q32_dot_s8(zero, w[from], x, from), t = q32_dot_s8(zero, w[from + 1], x, from + 1);
    s = q32_dot_s8(s, w[from + 2], x, from + 2);
    t = q32_dot_s8(t, w[from + 3], x, from + 3);
    return _mm256_add_epi32(s, t);
}
VEC v8i dot_u5(const q32 w[8], const int8_t *x)
{
    return _mm256_add_epi32(dot_half(w, x, 0), dot_half(w, x, 4));
}
VEC v8i dot_u4(const q32 w[8], const int8_t *x)
{
    return dot_u5(w, x);
}
VEC v8i dot_s8(const q32 w[8], const int8_t *x)
{
    return _mm256_add_epi32(dot_half_s8(w, x, 0), dot_half_s8(w, x, 4));
}
VEC void dot_halves(const q32 w[8], const int8_t *x, v8i out[2])
{
    out[0] = dot_half(w, x, 0);
    out[1] = dot_half(w, x, 4);
}
// a times the scales of the first half, plus b times those of the second.
VEC v8i k6_scaled(k6s k, __m256i a, __m256i b)
{
    a = _mm256_mullo_epi32(a, _mm256_srai_epi32(k.even, 16));
    return _mm256_add_epi32(a, _mm256_mullo_epi32(b, _mm256_srai_epi32(k.odd, 16)));
}
VEC v8i dot_k6(const q32 w[8], k6s k, const int8_t *x, int32_t neg_sums)
{
    __m256i s = _mm256_slli_epi32(_mm256_madd_epi16(k.pair, _mm256_set1_epi32(neg_sums)), 5);
    return _mm256_add_epi32(s, k6_scaled(k, dot_half(w, x, 0), dot_half(w, x, 4)));
}
VEC v8i dot_k3(const q32 w[8], k6s k, const int8_t *x)
{
    return k6_scaled(k, dot_half(w, x, 0), dot_half(w, x, 4));
}
VEC v8i dot_k8(const q32 w[8], k6s k, const int8_t *x)
{
    return k6_scaled(k, dot_half_s8(w, x, 0), dot_half_s8(w, x, 4));
}

// Multiply-adds in eight chains, as many as hide the latency.
VEC int32_t vec_spin_int8(int64_t n)
{
    __m256i a[8], x = _mm256_set1_epi8(3);
    for (int i = 0; i < 8; i++)
        a[i] = _mm256_set1_epi8((char)i);
    for (int64_t k = 0; k < n; k += 256)
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++)
            a[i] = _mm256_dpbusd_epi32(a[i], a[i], x);
    for (int i = 1; i < 8; i++)
        a[0] = _mm256_xor_si256(a[0], a[i]);
    return _mm256_extract_epi32(a[0], 0);
}
