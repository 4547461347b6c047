// blocks: random weights in GGML's layouts and, independently of the kernels, what they mean.
#pragma once
#include "proto/base/dtype.h"
#include "tests/unit/kernels/check.h"

#include <stdlib.h>
#include <string.h>

// -- weights: random valid blocks and, independently of the kernels, what they mean --

static const enum dtype types[] = {
    DT_F32,    DT_F16,   DT_BF16,    DT_Q8_0,  DT_Q4_0,  DT_Q4_1,   DT_Q5_0,   DT_Q5_1,
    DT_Q2_K,   DT_Q3_K,  DT_Q4_K,    DT_Q5_K,  DT_Q6_K,  DT_IQ4_NL, DT_IQ4_XS, DT_IQ2_XXS,
    DT_IQ2_XS, DT_IQ2_S, DT_IQ3_XXS, DT_IQ3_S, DT_IQ1_S, DT_IQ1_M,  DT_TQ1_0,  DT_TQ2_0,
    DT_MXFP4,  DT_NVFP4, DT_INT4,    DT_INT8,  DT_FP8};
enum { N_TYPE = sizeof types / sizeof *types };

// Where the half of a block of a GGML type is that scales the whole block; -1: elsewhere.
static int scale_at(enum dtype t)
{
    switch (t) {
    case DT_Q2_K:
        return 80;
    case DT_Q3_K:
        return 108;
    case DT_Q6_K:
        return 208;
    case DT_TQ1_0:
        return 52;
    case DT_TQ2_0:
        return 64;
    case DT_F32:
    case DT_BF16:
    case DT_IQ1_M:
    case DT_MXFP4:
    case DT_NVFP4:
    case DT_INT8:
    case DT_FP8:
        return -1;
    default:
        return 0;
    }
}

// Types whose meaning only the fixtures tell: their grids are not repeated here.
static inline bool is_grid(enum dtype t)
{
    return t >= DT_IQ2_XXS && t <= DT_IQ1_M;
}

static void put_half(uint8_t *p, float f)
{
    uint16_t h = dtype_f32_to_f16(f);
    memcpy(p, &h, 2);
}
static double half_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return (double)dtype_f16_to_f32(h);
}

// Gives a block of random bytes scales that make values of a sensible size.
static void scale_block(enum dtype t, uint8_t *p)
{
    float a = rng_float(), b = rng_float();
    uint32_t bits;
    memcpy(&bits, &a, 4);
    const bool has_k_scale = dtype_info(t)->block == 256 && t != DT_TQ1_0 && t != DT_TQ2_0;
    if (scale_at(t) >= 0) put_half(p + scale_at(t), a * (has_k_scale ? 0.001f : 0.1f));
    switch (t) {
    case DT_F32:
        memcpy(p, &a, 4);
        break;
    case DT_F16:
        put_half(p, a);
        break;
    case DT_BF16:
        memcpy(p, (uint8_t *)&bits + 2, 2);
        break;
    case DT_Q2_K:
        put_half(p + 82, b * 0.01f);
        break;
    case DT_Q4_K:
    case DT_Q5_K:
        put_half(p + 2, b * 0.01f);
        break;
    case DT_Q4_1:
    case DT_Q5_1:
        put_half(p + 2, b);
        break;
    case DT_IQ1_M: // a half in the upper nibbles of four numbers: 0x2... is small
        p[55] = (uint8_t)(0x20 | (p[55] & 0x8f));
        break;
    case DT_MXFP4:
        p[0] = (uint8_t)(118 + p[0] % 8);
        break;
    case DT_NVFP4:
        for (int i = 0; i < 4; i++)
            p[i] = p[i] % 0x7f;
        break;
    case DT_INT8:
    case DT_FP8:
        a *= 0.01f;
        memcpy(p, &a, 4);
        for (int i = 4; i < 36 && t == DT_FP8; i++)
            if ((p[i] & 0x7f) == 0x7f) p[i] ^= 1;
        if (t == DT_INT8) p[5] = (uint8_t)(p[4] & 0x80 ? 0xff : 0); // z of one byte
        break;
    default:
        break;
    }
}

static uint8_t *random_weight(enum dtype t, int64_t rows, int64_t cols)
{
    const struct dtype_info *d = dtype_info(t);
    uint64_t row = dtype_row_bytes(t, (uint64_t)cols), n = (uint64_t)rows * row;
    uint8_t *w = malloc(n);
    if (!w) exit(2);
    for (uint64_t i = 0; i < n; i++)
        w[i] = (uint8_t)rng();
    for (uint64_t i = 0; i < n; i += d->bytes)
        scale_block(t, w + i);
    return w;
}

static int iq4_step(int q)
{
    static const int step[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                 1,    13,   25,  38,  53,  69,  89,  113};
    return step[q];
}

static double e2m1_value(int q)
{
    static const double level[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    return q & 8 ? -level[q & 7] : level[q & 7];
}

static int nibble(const uint8_t *p, int e) // of 32
{
    return e < 16 ? p[e] & 15 : p[e - 16] >> 4;
}

static double k2_value(enum dtype t, const uint8_t *p, int e)
{
    const uint8_t *q = p + (t == DT_Q2_K ? 16 : t == DT_Q3_K ? 32 : 0);
    const int at = e / 16, lo = q[e / 128 * 32 + e % 32] >> e % 128 / 32 * 2 & 3;
    if (t == DT_TQ2_0) return half_at(p + 64) * (lo - 1);
    if (t == DT_Q2_K) return half_at(p + 80) * (p[at] & 15) * lo - half_at(p + 82) * (p[at] >> 4);
    const uint8_t *s = p + 96;
    const int sc = (at < 8 ? s[at] & 15 : s[at - 8] >> 4) | (s[8 + at % 4] >> at / 4 * 2 & 3) << 4;
    return half_at(p + 108) * (sc - 32) * (lo - (p[e % 32] >> e / 32 & 1 ? 0 : 4));
}

static double tq1_value(const uint8_t *p, int e)
{
    static const int power[5] = {1, 3, 9, 27, 81};
    int q = e < 160   ? p[e % 32] * power[e / 32]
            : e < 240 ? p[32 + (e - 160) % 16] * power[(e - 160) / 16]
                      : p[48 + (e - 240) % 4] * power[(e - 240) / 4];
    return half_at(p + 52) * ((q % 256 * 3 >> 8) - 1);
}

static double k_value(enum dtype t, const uint8_t *p, int e)
{
    int j = e / 32, l = e % 32;
    if (t == DT_Q6_K) {
        int h = e / 128, r = e % 128, k = r / 32, m = r % 32;
        int lo = p[64 * h + 32 * (k % 2) + m], hi = p[128 + 32 * h + m];
        int q = (k < 2 ? lo & 15 : lo >> 4) | (hi >> 2 * k & 3) << 4;
        return half_at(p + 208) * (int8_t)p[192 + e / 16] * (q - 32);
    }
    const uint8_t *s = p + 4;
    int sc = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
    int mn = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | s[j] >> 6 << 4;
    int b = p[(t == DT_Q5_K ? 48 : 16) + 32 * (j / 2) + l], q = j % 2 ? b >> 4 : b & 15;
    if (t == DT_Q5_K) q |= (p[16 + l] >> j & 1) << 4;
    return half_at(p) * sc * q - half_at(p + 2) * mn;
}

static double value_of(enum dtype t, const uint8_t *row, int64_t c)
{
    const struct dtype_info *d = dtype_info(t);
    const uint8_t *p = row + c / d->block * d->bytes;
    int e = (int)(c % d->block), hi = e >= 16;
    float f;
    uint32_t u = 0;
    switch (t) {
    case DT_F32:
        memcpy(&f, p, 4);
        return (double)f;
    case DT_F16:
        return half_at(p);
    case DT_BF16:
        memcpy((uint8_t *)&u + 2, p, 2);
        memcpy(&f, &u, 4);
        return (double)f;
    case DT_Q8_0:
        return half_at(p) * (int8_t)p[2 + e];
    case DT_Q4_0:
        return half_at(p) * ((hi ? p[2 + e - 16] >> 4 : p[2 + e] & 15) - 8);
    case DT_Q4_1:
        return half_at(p) * (hi ? p[4 + e - 16] >> 4 : p[4 + e] & 15) + half_at(p + 2);
    case DT_Q5_0:
    case DT_Q5_1: {
        const uint8_t *h = p + (t == DT_Q5_0 ? 2 : 4);
        int q = (hi ? h[4 + e - 16] >> 4 : h[4 + e] & 15) | (h[e / 8] >> e % 8 & 1) << 4;
        return t == DT_Q5_0 ? half_at(p) * (q - 16) : half_at(p) * q + half_at(p + 2);
    }
    case DT_IQ4_NL:
        return half_at(p) * iq4_step(nibble(p + 2, e));
    case DT_IQ4_XS: {
        int j = e / 32, lo = p[4 + j / 2] >> j % 2 * 4 & 15, high = p[2 + j / 4] >> j % 4 * 2 & 3;
        return half_at(p) * ((lo | high << 4) - 32) * iq4_step(nibble(p + 8 + 16 * j, e % 32));
    }
    case DT_MXFP4:
        return ldexp(e2m1_value(nibble(p + 1, e)), p[0] - 127);
    case DT_NVFP4: {
        int j = e / 16, b = p[4 + 8 * j + e % 8], q = e % 16 < 8 ? b & 15 : b >> 4;
        return (double)dtype_f8_to_f32(p[j]) * e2m1_value(q);
    }
    case DT_INT4:
        return half_at(p) * (nibble(p + 3, e) - p[2]);
    case DT_INT8: {
        int16_t z;
        memcpy(&f, p, 4);
        memcpy(&z, p + 4, 2);
        return (double)f * ((int8_t)p[6 + e] - z);
    }
    case DT_FP8:
        memcpy(&f, p, 4);
        return (double)f * (double)dtype_f8_to_f32(p[4 + e]);
    case DT_Q2_K:
    case DT_Q3_K:
    case DT_TQ2_0:
        return k2_value(t, p, e);
    case DT_TQ1_0:
        return tq1_value(p, e);
    default:
        return k_value(t, p, e);
    }
}
