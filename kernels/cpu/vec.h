// vec: the few vector operations from which the leaf kernels are written, once, for every
// instruction set. leaf_ISA.c includes vec_ISA.h before this.
//
// v8 is 8 floats, v8i 8 int32, q32 32 bytes. Every operation means the same bits on every
// instruction set: one IEEE operation per lane, and the horizontal ones have a fixed tree.
//     v8_fma(a, b, c)          a * b + c, rounded once
//     v8_min(a, b), v8_max     a < b ? a : b, a > b ? a : b; a NaN in b stays
//     v8_zero_below(a, x, l)   x < l ? 0 : a
//     v8_scale2(a, n)          a * 2^k where n = 1.5 * 2^23 + k, k an integer
//     v8_hsum(a)               ((0+4)+(2+6)) + ((1+5)+(3+7))
//     v8_load_f16, _bf16, _u8, _s8, _s16   8 of these as float
//     v8_store_f16             rounds to nearest even
//     v8_load_f8(p)            8 E4M3, divided by 256, as float (0x7f is 480);  v8_load_e8(p):
//     2^(e-128) v8_of_int(a)             v8i as float v8i_add_sums(a, n, k, l) a + k * n0 + l * n1
//     in every lane, of the two int16 in n v8_add_f64(acc, a)       acc[i] += a[i] in double
//     v8_abs_bits_max(a..d)    largest bit pattern of |x|, so that NaN is above infinity
//     v8_round_s8(a..d, q, s)  q = nearest integers (ties to even) of values in [-127, 127];
//                              s[h][p]: sum over half h of q[c] where c / 2 % 2 == p
//     q32_field(a, s, m)       each byte shifted left by s (right by -s), masked with m
//     q32_table(a, t)          t[byte] of 16 entries, bytes <= 15
//     q32_column_u8(a, i)      bytes 4*row + i as float; _s8: signed
//     dot_u4(w, x)             for each row r the sum over j < 8, i < 4 of w[j][4r + i] * x[4j + i]
//                              with w <= 15; u5: w <= 31; s8: w signed
//     dot_halves(w, x, o)      o[h]: the sum over the j of half h; w <= 24
//     k6_scales(p)             sc[8][2] of a Q6_K block;  k6_low(p), k6_high(p): nibbles of
//     sc[8][2] k6_scale_of(k, half)     as float k6_sums(k, n)            sc[r][0] * n0 + sc[r][1]
//     * n1 of the two int16 in n dot_k3(w, k, x)          sum of sc[r][j / 4] * w[j][4r + i] * x[4j
//     + i], w <= 7; k8: w signed dot_k6(w, k, x, n)       sum of sc[r][j / 4] * (w[j][4r + i] - 32)
//     * x[4j + i]; n holds the
//                              negated sums of x's halves, two int16
//
// An instruction set may define VEC_QUAD: two panels against four rows of x, x (4, 32); out[2t + p]
// is panel p and row t. n, m: negated sums of the rows of x, two int16 each, of all columns times
// XQ_TIMES or of the halves times XQ_TIMES_HALF, as XQ_PAIRS lie.
//     quad_prepare(w, s, o)    a panel's block made ready, once for all rows; s: w is signed
//     dot_quad_u4, _s8(p, x, n, o)     dot_u4, dot_s8
//     dot_quad_middle(p, x, n, k, o)   sum of (w - k) * x: (k, largest w) is (8, 15), (16, 31) or
//                                      (12, 24)
//     dot_quad_half(p, x, from, n, k, o)   the same of columns 4 * from to 4 * from + 15
//     dot_quad_k3, _k6(p, ka, kb, x, n, m, o)   dot_k3, dot_k6; k6s of both panels
#pragma once

VEC v8 v8_load_part(const float *p, int n, float fill)
{
    float t[8];
    for (int i = 0; i < 8; i++)
        t[i] = i < n ? p[i] : fill;
    return v8_load(t);
}
VEC void v8_store_part(float *p, v8 a, int n)
{
    float t[8];
    v8_store(t, a);
    for (int i = 0; i < n; i++)
        p[i] = t[i];
}

// e^x. x = n ln2 + r with |r| <= ln2/2 (Cody and Waite 1980), e^r by Taylor to r^7 (error 6e-9).
// Below -87: 0. Above 88: e^88. NaN stays NaN.
VEC v8 v8_exp(v8 x)
{
    const v8 magic = v8_set(12582912.0f); // 1.5 * 2^23: adding it rounds to an integer
    v8 in = x;
    x = v8_min(v8_set(88.0f), v8_max(v8_set(-87.0f), x));
    v8 k = v8_fma(x, v8_set(1.44269504f), magic);
    v8 n = v8_sub(magic, k); // -n
    v8 r = v8_fma(n, v8_set(0.693359375f), x);
    r = v8_fma(n, v8_set(-2.12194440e-4f), r);
    v8 p = v8_fma(v8_set(1.0f / 5040), r, v8_set(1.0f / 720));
    p = v8_fma(p, r, v8_set(1.0f / 120));
    p = v8_fma(p, r, v8_set(1.0f / 24));
    p = v8_fma(p, r, v8_set(1.0f / 6));
    p = v8_fma(p, r, v8_set(0.5f));
    p = v8_fma(p, r, v8_set(1.0f));
    p = v8_fma(p, r, v8_set(1.0f));
    return v8_zero_below(v8_scale2(p, k), in, -87.0f);
}

// tanh x = 1 - 2 / (e^(2x) + 1); absolute error about 1e-7.
VEC v8 v8_tanh(v8 x)
{
    const v8 one = v8_set(1.0f);
    v8 e = v8_exp(v8_add(x, x));
    return v8_sub(one, v8_div(v8_set(2.0f), v8_add(e, one)));
}

static const float vec_lanes[8] __attribute__((unused)) = {0, 1, 2, 3, 4, 5, 6, 7};
