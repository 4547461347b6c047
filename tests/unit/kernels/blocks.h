// blocks: random weights in GGML's layouts and, independently of the kernels, what they mean.
#pragma once
#include "proto/base/dtype.h"

#include <stdlib.h>
#include <string.h>

static uint64_t rng_state; // set by every check, so that its data is its own
static void rng_seed(uint64_t n)
{
    rng_state = 88172645463325252u + n;
}
static uint32_t rng(void) // xorshift64*
{
    rng_state ^= rng_state >> 12;
    rng_state ^= rng_state << 25;
    rng_state ^= rng_state >> 27;
    return (uint32_t)(rng_state * 0x2545f4914f6cdd1d >> 32);
}
static float rng_float(void) // about normal, exact in 16 fraction bits
{
    int32_t s = 0;
    for (int i = 0; i < 4; i++)
        s += (int32_t)(rng() & 0xffff) - 0x8000;
    return (float)s / 0x8000;
}
static float *floats(int64_t n)
{
    float *p = malloc((size_t)n * sizeof *p);
    for (int64_t i = 0; p && i < n; i++)
        p[i] = rng_float();
    if (!p) exit(2);
    return p;
}

// -- weights: random valid blocks and, independently of the kernels, what they mean --

static const enum dtype types[] = {DT_F32,  DT_F16,  DT_BF16, DT_Q8_0, DT_Q4_0, DT_Q4_1,
                                   DT_Q5_0, DT_Q5_1, DT_Q4_K, DT_Q5_K, DT_Q6_K};
enum { N_TYPE = sizeof types / sizeof *types };

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

static uint8_t *random_weight(enum dtype t, int64_t rows, int64_t cols)
{
    const struct dtype_info *d = dtype_info(t);
    uint64_t row = dtype_row_bytes(t, (uint64_t)cols), n = (uint64_t)rows * row;
    uint8_t *w = malloc(n);
    if (!w) exit(2);
    for (uint64_t i = 0; i < n; i++)
        w[i] = (uint8_t)rng();
    for (uint64_t i = 0; i < n; i += d->bytes) {
        float a = rng_float(), b = rng_float();
        uint32_t bits;
        memcpy(&bits, &a, 4);
        switch (t) {
        case DT_F32:
            memcpy(w + i, &a, 4);
            break;
        case DT_F16:
            put_half(w + i, a);
            break;
        case DT_BF16:
            memcpy(w + i, (uint8_t *)&bits + 2, 2);
            break;
        case DT_Q6_K:
            put_half(w + i + 208, a * 0.001f);
            break;
        case DT_Q4_K:
        case DT_Q5_K:
            put_half(w + i, a * 0.001f);
            put_half(w + i + 2, b * 0.01f);
            break;
        default:
            put_half(w + i, a * 0.1f);
            if (t == DT_Q4_1 || t == DT_Q5_1) put_half(w + i + 2, b);
            break;
        }
    }
    return w;
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
    default:
        return k_value(t, p, e);
    }
}
