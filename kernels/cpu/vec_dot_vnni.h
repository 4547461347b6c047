// vec_dot_vnni: the integer products of AVX512-VNNI, on vectors of 256 bits, and of 512 bits where
// two panels are at hand; included by vec_avx2.h. Sums of four products are added to 32 bits at
// once.
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

// -- two panels against four rows: out[2t + p] is panel p and row t; x (4, 32) --
#define VEC_QUAD 1 // has dot_quad_*

// A panel's block made ready: signed w as w + 128.
struct quad_panel {
    q32 w[8];
};
VEC void quad_prepare(const q32 w[8], bool is_signed, struct quad_panel *o)
{
    const __m256i middle = _mm256_set1_epi8(is_signed ? -128 : 0);
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++)
        o->w[j] = _mm256_xor_si256(w[j], middle);
}
// Sums of (w - k) * x over columns 4 * from to 4 * to - 1, both panels in one vector. n: negated
// sums of x times XQ_TIMES or XQ_TIMES_HALF, two int16 for each of the four rows.
VEC void quad_sum(const struct quad_panel p[2], const int8_t *x, int from, int to, const uint8_t *n,
                  int k, v8i out[8])
{
    const int times = to - from == 8 ? XQ_TIMES : XQ_TIMES_HALF;
    __m512i s[4];
#pragma GCC unroll 4
    for (int t = 0; t < 4; t++) {
        int16_t v[2];
        __builtin_memcpy(v, n + 4 * t, 4);
        s[t] = _mm512_set1_epi32((v[0] + v[1]) / times * k);
    }
#pragma GCC unroll 8
    for (int j = from; j < to; j++) {
        const __m512i w = _mm512_inserti64x4(_mm512_castsi256_si512(p[0].w[j]), p[1].w[j], 1);
#pragma GCC unroll 4
        for (int t = 0; t < 4; t++) {
            int32_t v;
            __builtin_memcpy(&v, x + 32 * t + 4 * j, 4);
            s[t] = _mm512_dpbusd_epi32(s[t], w, _mm512_set1_epi32(v));
        }
    }
#pragma GCC unroll 4
    for (int t = 0; t < 4; t++) {
        out[2 * t] = _mm512_castsi512_si256(s[t]);
        out[2 * t + 1] = _mm512_extracti64x4_epi64(s[t], 1);
    }
}
VEC void dot_quad_u4(const struct quad_panel p[2], const int8_t *x, const uint8_t *n, v8i out[8])
{
    quad_sum(p, x, 0, 8, n, 0, out);
}
VEC void dot_quad_s8(const struct quad_panel p[2], const int8_t *x, const uint8_t *n, v8i out[8])
{
    quad_sum(p, x, 0, 8, n, 128, out);
}
VEC void dot_quad_middle(const struct quad_panel p[2], const int8_t *x, const uint8_t *n, int k,
                         v8i out[8])
{
    quad_sum(p, x, 0, 8, n, k, out);
}
VEC void dot_quad_half(const struct quad_panel p[2], const int8_t *x, int from, const uint8_t *n,
                       int k, v8i out[8])
{
    quad_sum(p, x, from, from + 4, n, k, out);
}
// Of w - middle; n, m: of the halves.
VEC void quad_scaled(const struct quad_panel p[2], const k6s *ka, const k6s *kb, const int8_t *x,
                     const uint8_t *n, const uint8_t *m, int middle, v8i out[8])
{
    v8i a[8], b[8];
    quad_sum(p, x, 0, 4, n, middle, a);
    quad_sum(p, x, 4, 8, m, middle, b);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        out[i] = k6_scaled(i % 2 ? *kb : *ka, a[i], b[i]);
}
VEC void dot_quad_k3(const struct quad_panel p[2], const k6s *ka, const k6s *kb, const int8_t *x,
                     const uint8_t *n, const uint8_t *m, v8i out[8])
{
    quad_scaled(p, ka, kb, x, n, m, 0, out);
}
VEC void dot_quad_k6(const struct quad_panel p[2], const k6s *ka, const k6s *kb, const int8_t *x,
                     const uint8_t *n, const uint8_t *m, v8i out[8])
{
    quad_scaled(p, ka, kb, x, n, m, 32, out);
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
