// vec, AArch64 NEON: see vec.h for what each function means.
#pragma once
#include <arm_neon.h>

typedef struct {
    float32x4_t lo, hi;
} v8;
typedef struct {
    int32x4_t lo, hi;
} v8i;
typedef struct {
    uint8x16_t lo, hi;
} q32;
typedef struct {
    int32x4_t even_lo, even_hi, odd_lo, odd_hi;
} k6s;

#define VEC static inline __attribute__((always_inline, unused))

VEC v8 v8_load(const float *p)
{
    return (v8){vld1q_f32(p), vld1q_f32(p + 4)};
}
VEC void v8_store(float *p, v8 a)
{
    vst1q_f32(p, a.lo);
    vst1q_f32(p + 4, a.hi);
}
VEC v8 v8_set(float x)
{
    return (v8){vdupq_n_f32(x), vdupq_n_f32(x)};
}
VEC v8 v8_add(v8 a, v8 b)
{
    return (v8){vaddq_f32(a.lo, b.lo), vaddq_f32(a.hi, b.hi)};
}
VEC v8 v8_sub(v8 a, v8 b)
{
    return (v8){vsubq_f32(a.lo, b.lo), vsubq_f32(a.hi, b.hi)};
}
VEC v8 v8_mul(v8 a, v8 b)
{
    return (v8){vmulq_f32(a.lo, b.lo), vmulq_f32(a.hi, b.hi)};
}
VEC v8 v8_div(v8 a, v8 b)
{
    return (v8){vdivq_f32(a.lo, b.lo), vdivq_f32(a.hi, b.hi)};
}
VEC v8 v8_fma(v8 a, v8 b, v8 c)
{
    return (v8){vfmaq_f32(c.lo, a.lo, b.lo), vfmaq_f32(c.hi, a.hi, b.hi)};
}
VEC v8 v8_min(v8 a, v8 b)
{
    return (v8){vbslq_f32(vcltq_f32(a.lo, b.lo), a.lo, b.lo),
                vbslq_f32(vcltq_f32(a.hi, b.hi), a.hi, b.hi)};
}
VEC v8 v8_max(v8 a, v8 b)
{
    return (v8){vbslq_f32(vcgtq_f32(a.lo, b.lo), a.lo, b.lo),
                vbslq_f32(vcgtq_f32(a.hi, b.hi), a.hi, b.hi)};
}
VEC v8 v8_zero_below(v8 a, v8 x, float limit)
{
    const float32x4_t l = vdupq_n_f32(limit), z = vdupq_n_f32(0.0f);
    return (v8){vbslq_f32(vcltq_f32(x.lo, l), z, a.lo), vbslq_f32(vcltq_f32(x.hi, l), z, a.hi)};
}
VEC float32x4_t v4_scale2(float32x4_t a, float32x4_t n)
{
    int32x4_t e = vshlq_n_s32(vreinterpretq_s32_f32(n), 23);
    return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(a), e));
}
VEC v8 v8_scale2(v8 a, v8 n)
{
    return (v8){v4_scale2(a.lo, n.lo), v4_scale2(a.hi, n.hi)};
}
VEC float v8_hsum(v8 a)
{
    float32x4_t s = vaddq_f32(a.lo, a.hi);
    float32x2_t t = vadd_f32(vget_low_f32(s), vget_high_f32(s));
    return vget_lane_f32(t, 0) + vget_lane_f32(t, 1);
}
VEC float v8_hmax(v8 a)
{
    float f[8], m;
    v8_store(f, a);
    m = f[0];
    for (int i = 1; i < 8; i++)
        m = m > f[i] ? m : f[i];
    return m;
}
VEC v8 v8_load_f16(const void *p)
{
    float16x8_t h = vreinterpretq_f16_u16(vld1q_u16(p));
    return (v8){vcvt_f32_f16(vget_low_f16(h)), vcvt_high_f32_f16(h)};
}
VEC void v8_store_f16(void *p, v8 a)
{
    vst1q_u16(p, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(a.lo), a.hi)));
}
VEC v8 v8_load_bf16(const void *p)
{
    uint16x8_t h = vld1q_u16(p);
    return (v8){vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(h), 16)),
                vreinterpretq_f32_u32(vshll_high_n_u16(h, 16))};
}
VEC v8 v8_load_u8(const void *p)
{
    uint16x8_t h = vmovl_u8(vld1_u8(p));
    return (v8){vcvtq_f32_u32(vmovl_u16(vget_low_u16(h))), vcvtq_f32_u32(vmovl_high_u16(h))};
}
VEC v8 v8_load_s8(const void *p)
{
    int16x8_t h = vmovl_s8(vld1_s8(p));
    return (v8){vcvtq_f32_s32(vmovl_s16(vget_low_s16(h))), vcvtq_f32_s32(vmovl_high_s16(h))};
}
VEC v8 v8_load_s16(const void *p)
{
    int16x8_t h = vreinterpretq_s16_u8(vld1q_u8(p));
    return (v8){vcvtq_f32_s32(vmovl_s16(vget_low_s16(h))), vcvtq_f32_s32(vmovl_high_s16(h))};
}
// E4M3 has the fields of a half; the half's exponent has one bit more and its bias is 8 greater.
VEC v8 v8_load_f8(const void *p)
{
    int16x8_t s = vshlq_n_s16(vmovl_s8(vld1_s8(p)), 7);
    float16x8_t h = vreinterpretq_f16_s16(vandq_s16(s, vdupq_n_s16((int16_t)0xbfff)));
    return (v8){vcvt_f32_f16(vget_low_f16(h)), vcvt_high_f32_f16(h)};
}
VEC float32x4_t v4_of_e8(uint32x4_t e)
{
    uint32x4_t normal = vshlq_n_u32(vsubq_u32(e, vdupq_n_u32(1)), 23);
    uint32x4_t small = vshlq_u32(vdupq_n_u32(0x200000), vreinterpretq_s32_u32(e)); // e < 2
    return vreinterpretq_f32_u32(vbslq_u32(vcltq_u32(e, vdupq_n_u32(2)), small, normal));
}
VEC v8 v8_load_e8(const void *p)
{
    uint16x8_t h = vmovl_u8(vld1_u8(p));
    return (v8){v4_of_e8(vmovl_u16(vget_low_u16(h))), v4_of_e8(vmovl_high_u16(h))};
}
VEC v8i v8i_add_sums(v8i a, int32_t n, int k, int l)
{
    const int32x4_t s = vdupq_n_s32(k * (int16_t)n + l * (n >> 16));
    return (v8i){vaddq_s32(a.lo, s), vaddq_s32(a.hi, s)};
}
VEC v8 v8_of_int(v8i a)
{
    return (v8){vcvtq_f32_s32(a.lo), vcvtq_f32_s32(a.hi)};
}
VEC void v8_add_f64(double acc[8], v8 a)
{
    vst1q_f64(acc, vaddq_f64(vld1q_f64(acc), vcvt_f64_f32(vget_low_f32(a.lo))));
    vst1q_f64(acc + 2, vaddq_f64(vld1q_f64(acc + 2), vcvt_high_f64_f32(a.lo)));
    vst1q_f64(acc + 4, vaddq_f64(vld1q_f64(acc + 4), vcvt_f64_f32(vget_low_f32(a.hi))));
    vst1q_f64(acc + 6, vaddq_f64(vld1q_f64(acc + 6), vcvt_high_f64_f32(a.hi)));
}

VEC q32 q32_load(const void *p)
{
    return (q32){vld1q_u8(p), vld1q_u8((const uint8_t *)p + 16)};
}
VEC q32 q32_or(q32 a, q32 b)
{
    return (q32){vorrq_u8(a.lo, b.lo), vorrq_u8(a.hi, b.hi)};
}
VEC q32 q32_field(q32 a, int shift, uint8_t mask)
{
    const int8x16_t s = vdupq_n_s8((int8_t)shift);
    const uint8x16_t m = vdupq_n_u8(mask);
    return (q32){vandq_u8(vshlq_u8(a.lo, s), m), vandq_u8(vshlq_u8(a.hi, s), m)};
}
VEC q32 q32_table(q32 a, const uint8_t t[16])
{
    const uint8x16_t v = vld1q_u8(t);
    return (q32){vqtbl1q_u8(v, a.lo), vqtbl1q_u8(v, a.hi)};
}
VEC float32x4_t q16_column_u8(uint8x16_t a, int i)
{
    uint32x4_t v = vshlq_u32(vreinterpretq_u32_u8(a), vdupq_n_s32(-8 * i));
    return vcvtq_f32_u32(vandq_u32(v, vdupq_n_u32(0xff)));
}
VEC v8 q32_column_u8(q32 a, int i)
{
    return (v8){q16_column_u8(a.lo, i), q16_column_u8(a.hi, i)};
}
VEC float32x4_t q16_column_s8(uint8x16_t a, int i)
{
    int32x4_t v = vshlq_s32(vreinterpretq_s32_u8(a), vdupq_n_s32(24 - 8 * i));
    return vcvtq_f32_s32(vshrq_n_s32(v, 24));
}
VEC v8 q32_column_s8(q32 a, int i)
{
    return (v8){q16_column_s8(a.lo, i), q16_column_s8(a.hi, i)};
}

// Four columns of x for all rows.
VEC int8x16_t q16_bcast(const int8_t *x, int j)
{
    int32_t v;
    __builtin_memcpy(&v, x + 4 * j, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(v));
}
#if defined(__ARM_FEATURE_DOTPROD)
VEC int32x4_t q16_dot(int32x4_t acc, int8x16_t w, int8x16_t x)
{
    return vdotq_s32(acc, w, x);
}
#else
VEC int32x4_t q16_dot(int32x4_t acc, int8x16_t w, int8x16_t x)
{
    int16x8_t a = vmull_s8(vget_low_s8(w), vget_low_s8(x)), b = vmull_high_s8(w, x);
    return vaddq_s32(acc, vpaddq_s32(vpaddlq_s16(a), vpaddlq_s16(b)));
}
#endif
VEC v8i dot_from_to(const q32 *w, const int8_t *x, int from, int to)
{
    v8i r = {vdupq_n_s32(0), vdupq_n_s32(0)};
#pragma GCC unroll 8
    for (int j = from; j < to; j++) {
        int8x16_t b = q16_bcast(x, j);
        r.lo = q16_dot(r.lo, vreinterpretq_s8_u8(w[j].lo), b);
        r.hi = q16_dot(r.hi, vreinterpretq_s8_u8(w[j].hi), b);
    }
    return r;
}
VEC v8i dot_u4(const q32 w[8], const int8_t *x)
{
    return dot_from_to(w, x, 0, 8);
}
VEC v8i dot_u5(const q32 w[8], const int8_t *x)
{
    return dot_from_to(w, x, 0, 8);
}
VEC v8i dot_s8(const q32 w[8], const int8_t *x)
{
    return dot_from_to(w, x, 0, 8);
}
VEC void dot_halves(const q32 w[8], const int8_t *x, v8i out[2])
{
    out[0] = dot_from_to(w, x, 0, 4);
    out[1] = dot_from_to(w, x, 4, 8);
}
VEC k6s k6_of(int8x16_t s)
{
    int16x8_t lo = vmovl_s8(vget_low_s8(s)), hi = vmovl_high_s8(s);
    int32x4_t a = vreinterpretq_s32_s16(lo), b = vreinterpretq_s32_s16(hi);
    return (k6s){vshrq_n_s32(vshlq_n_s32(a, 16), 16), vshrq_n_s32(vshlq_n_s32(b, 16), 16),
                 vshrq_n_s32(a, 16), vshrq_n_s32(b, 16)};
}
VEC k6s k6_scales(const void *p)
{
    return k6_of(vld1q_s8(p));
}
VEC k6s k6_low(const void *p)
{
    return k6_of(vreinterpretq_s8_u8(vandq_u8(vld1q_u8(p), vdupq_n_u8(15))));
}
VEC k6s k6_high(const void *p)
{
    return k6_of(vreinterpretq_s8_u8(vshrq_n_u8(vld1q_u8(p), 4)));
}
VEC v8 k6_scale_of(k6s k, int half)
{
    return half ? (v8){vcvtq_f32_s32(k.odd_lo), vcvtq_f32_s32(k.odd_hi)}
                : (v8){vcvtq_f32_s32(k.even_lo), vcvtq_f32_s32(k.even_hi)};
}
VEC v8i dot_k6(const q32 w[8], k6s k, const int8_t *x, int32_t neg_sums)
{
    v8i a = dot_from_to(w, x, 0, 4), b = dot_from_to(w, x, 4, 8);
    const int32x4_t n0 = vdupq_n_s32(32 * (int16_t)neg_sums),
                    n1 = vdupq_n_s32(32 * (neg_sums >> 16));
    int32x4_t lo = vmulq_s32(vaddq_s32(a.lo, n0), k.even_lo);
    int32x4_t hi = vmulq_s32(vaddq_s32(a.hi, n0), k.even_hi);
    return (v8i){vmlaq_s32(lo, vaddq_s32(b.lo, n1), k.odd_lo),
                 vmlaq_s32(hi, vaddq_s32(b.hi, n1), k.odd_hi)};
}

VEC v8i k6_sums(k6s k, int32_t n)
{
    const int32x4_t n0 = vdupq_n_s32((int16_t)n), n1 = vdupq_n_s32(n >> 16);
    return (v8i){vmlaq_s32(vmulq_s32(k.even_lo, n0), k.odd_lo, n1),
                 vmlaq_s32(vmulq_s32(k.even_hi, n0), k.odd_hi, n1)};
}
VEC v8i dot_k8(const q32 w[8], k6s k, const int8_t *x)
{
    v8i a = dot_from_to(w, x, 0, 4), b = dot_from_to(w, x, 4, 8);
    return (v8i){vmlaq_s32(vmulq_s32(a.lo, k.even_lo), b.lo, k.odd_lo),
                 vmlaq_s32(vmulq_s32(a.hi, k.even_hi), b.hi, k.odd_hi)};
}
VEC v8i dot_k3(const q32 w[8], k6s k, const int8_t *x)
{
    return dot_k8(w, k, x);
}

#if defined(__ARM_FEATURE_MATMUL_INT8)
#include "kernels/cpu/vec_dot_i8mm.h"
#endif

VEC uint32x4_t v8_abs_bits(v8 a)
{
    const uint32x4_t m = vdupq_n_u32(0x7fffffff);
    return vmaxq_u32(vandq_u32(vreinterpretq_u32_f32(a.lo), m),
                     vandq_u32(vreinterpretq_u32_f32(a.hi), m));
}
VEC uint32_t v8_abs_bits_max(v8 a, v8 b, v8 c, v8 d)
{
    return vmaxvq_u32(vmaxq_u32(vmaxq_u32(v8_abs_bits(a), v8_abs_bits(b)),
                                vmaxq_u32(v8_abs_bits(c), v8_abs_bits(d))));
}
VEC int16x8_t v8_round_s16(v8 a)
{
    return vcombine_s16(vmovn_s32(vcvtnq_s32_f32(a.lo)), vmovn_s32(vcvtnq_s32_f32(a.hi)));
}
VEC void q16_pair_sums(int8x16_t q, int16_t sums[2])
{
    const int16x8_t s = vpaddlq_s8(q);
    sums[0] = vaddv_s16(vget_low_s16(vuzp1q_s16(s, s)));
    sums[1] = vaddv_s16(vget_low_s16(vuzp2q_s16(s, s)));
}
VEC void v8_round_s8(v8 a, v8 b, v8 c, v8 d, int8_t q[32], int16_t sums[2][2])
{
    int8x16_t lo = vcombine_s8(vmovn_s16(v8_round_s16(a)), vmovn_s16(v8_round_s16(b)));
    int8x16_t hi = vcombine_s8(vmovn_s16(v8_round_s16(c)), vmovn_s16(v8_round_s16(d)));
    vst1q_s8(q, lo);
    vst1q_s8(q + 16, hi);
    q16_pair_sums(lo, sums[0]);
    q16_pair_sums(hi, sums[1]);
}

VEC int32_t vec_spin_int8(int64_t n)
{
    int32x4_t a[8];
    const int8x16_t x = vdupq_n_s8(3);
    for (int i = 0; i < 8; i++)
        a[i] = vdupq_n_s32(i);
    for (int64_t k = 0; k < n; k += 128)
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++)
            a[i] = q16_dot(a[i], vreinterpretq_s8_s32(a[i]), x);
    for (int i = 1; i < 8; i++)
        a[0] = veorq_s32(a[0], a[i]);
    return vgetq_lane_s32(a[0], 0);
}
VEC uint64x2_t vec_read_64(const char *p)
{
    const uint64_t *q = (const void *)p;
    return veorq_u64(veorq_u64(vld1q_u64(q), vld1q_u64(q + 2)),
                     veorq_u64(vld1q_u64(q + 4), vld1q_u64(q + 6)));
}
VEC uint64_t vec_read(const char *p, int64_t bytes)
{
    const int64_t n = bytes / 4;
    uint64x2_t a = vdupq_n_u64(0), b = a, c = a, d = a;
    for (int64_t i = 0; i < n; i += 64) {
        a = veorq_u64(a, vec_read_64(p + i));
        b = veorq_u64(b, vec_read_64(p + n + i));
        c = veorq_u64(c, vec_read_64(p + 2 * n + i));
        d = veorq_u64(d, vec_read_64(p + 3 * n + i));
    }
    a = veorq_u64(veorq_u64(a, b), veorq_u64(c, d));
    return vgetq_lane_u64(a, 0) ^ vgetq_lane_u64(a, 1);
}
