// quant_grid: decodes the types that stay as in the file. The 2- and 3-bit ones hold numbers of
// grid points, each the levels of 8 or 4 columns, beside signs and scales (GGML's ggml-common.h
// has the layouts).
#include "kernels/cpu/packed.h"
#include "kernels/cpu/quant_tables.h"

#include <pthread.h>
#include <string.h>

// The grids with a byte per column, and which bytes a set of signs negates: 34 KB, made once, when
// the first backend is opened, and only read from then on.
static struct {
    uint64_t iq2_xxs[256], iq2_xs[512], iq2_s[1024], iq1[2][2048]; // iq1: moved up, down
    uint32_t iq3_xxs[256], iq3_s[512];
    uint64_t signs[256]; // 0xff in byte i if bit i is set
    uint64_t even[128];  // signs of 7 bits; the eighth makes their number even
} grids;

static uint16_t u16_at(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}
static uint32_t u32_at(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}
static uint64_t bytes_of(uint64_t b)
{
    return b * 0x0101010101010101u;
}

// 8 levels of 2 bits, a byte each.
static uint64_t spread2(uint64_t x)
{
    x = (x | x << 24) & 0x000000ff000000ff;
    x = (x | x << 12) & 0x000f000f000f000f;
    return (x | x << 6) & 0x0303030303030303;
}

// 4 levels of 3 bits, a byte each.
static uint32_t spread3(uint32_t x)
{
    x = (x | x << 10) & 0x003f003f;
    return (x | x << 5) & 0x07070707;
}

// IQ2: levels 8, 25, 43.
static uint64_t iq2_point(uint16_t point)
{
    uint64_t x = spread2(point);
    return bytes_of(8) + 17 * x + (x >> 1 & bytes_of(1));
}

static void make_grids(void)
{
    for (int i = 0; i < 256; i++) {
        const uint64_t one = bytes_of((uint64_t)i) & 0x8040201008040201;
        grids.signs[i] = ((one + bytes_of(0x7f)) >> 7 & bytes_of(1)) * 0xff;
        grids.iq2_xxs[i] = iq2_point(quant_iq2_xxs[i]);
        const uint32_t x = spread3(quant_iq3_xxs[i]); // levels 4, 12, .. 52, 62
        grids.iq3_xxs[i] = 0x04040404 + 8 * x + ((x & x >> 1 & x >> 2 & 0x01010101) << 1);
    }
    for (int i = 0; i < 128; i++)
        grids.even[i] = grids.signs[i | __builtin_parity((unsigned)i) << 7];
    for (int i = 0; i < 512; i++) {
        grids.iq2_xs[i] = iq2_point(quant_iq2_xs[i]);
        grids.iq3_s[i] = 0x01010101 + 2 * spread3(quant_iq3_s[i]); // levels 1, 3, .. 15
    }
    for (int i = 0; i < 1024; i++)
        grids.iq2_s[i] = iq2_point(quant_iq2_s[i]);
    // Levels -1, 0, 1, moved by 1/8 up or down; times 8.
    for (int i = 0; i < 2 * 2048; i++)
        grids.iq1[i / 2048][i % 2048] =
            (bytes_of(i < 2048 ? 121 : 119) + 8 * spread2(quant_iq1[i % 2048])) ^ bytes_of(128);
}

void quant_grid_open(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_grids);
}

// Negates the bytes that `mask` has 0xff in. No byte of v is 0.
static inline uint64_t negate(uint64_t v, uint64_t mask)
{
    return (v ^ mask) + (mask & bytes_of(1));
}

// Codes and the two scales of sub-block `sub` of the block at p. What is written is for row 0 of
// the decoded form: 4 columns, then those 32 bytes further.
typedef void decode_fn(const uint8_t *p, int sub, uint8_t *out, uint8_t sc[2]);

// Columns 8 * l to 8 * l + 7.
static inline void put_8(uint8_t *out, int l, uint64_t v)
{
    const uint32_t lo = (uint32_t)v, hi = (uint32_t)(v >> 32);
    memcpy(out + 64 * l, &lo, 4);
    memcpy(out + 64 * l + 32, &hi, 4);
}

static void iq2_xxs(const uint8_t *p, int sub, uint8_t *out, uint8_t sc[2])
{
    const uint8_t *q = p + 2 + 8 * sub;
    const uint32_t s = u32_at(q + 4);
    for (int l = 0; l < 4; l++)
        put_8(out, l, negate(grids.iq2_xxs[q[l]], grids.even[s >> 7 * l & 127]));
    sc[0] = sc[1] = (uint8_t)(2 * (s >> 28) + 1);
}

static void iq2_xs(const uint8_t *p, int sub, uint8_t *out, uint8_t sc[2])
{
    for (int l = 0; l < 4; l++) {
        const uint16_t q = u16_at(p + 2 + 8 * sub + 2 * l);
        put_8(out, l, negate(grids.iq2_xs[q & 511], grids.even[q >> 9]));
    }
    sc[0] = (uint8_t)(2 * (p[66 + sub] & 15) + 1);
    sc[1] = (uint8_t)(2 * (p[66 + sub] >> 4) + 1);
}

static void iq2_s(const uint8_t *p, int sub, uint8_t *out, uint8_t sc[2])
{
    for (int l = 0; l < 4; l++) {
        const int point = p[2 + 4 * sub + l] | (p[66 + sub] >> 2 * l & 3) << 8;
        put_8(out, l, negate(grids.iq2_s[point], grids.signs[p[34 + 4 * sub + l]]));
    }
    sc[0] = (uint8_t)(2 * (p[74 + sub] & 15) + 1);
    sc[1] = (uint8_t)(2 * (p[74 + sub] >> 4) + 1);
}

static void iq3_xxs(const uint8_t *p, int sub, uint8_t *out, uint8_t sc[2])
{
    const uint8_t *q = p + 2 + 8 * sub;
    const uint32_t s = u32_at(p + 66 + 4 * sub);
    for (int l = 0; l < 4; l++) {
        const uint64_t v = grids.iq3_xxs[q[2 * l]] | (uint64_t)grids.iq3_xxs[q[2 * l + 1]] << 32;
        put_8(out, l, negate(v, grids.even[s >> 7 * l & 127]));
    }
    sc[0] = sc[1] = (uint8_t)(2 * (s >> 28) + 1);
}

static void iq3_s(const uint8_t *p, int sub, uint8_t *out, uint8_t sc[2])
{
    const uint8_t *q = p + 2 + 8 * sub;
    const int h = p[66 + sub];
    for (int l = 0; l < 4; l++) {
        const int a = q[2 * l] | (h << (8 - 2 * l) & 256);
        const int b = q[2 * l + 1] | (h << (7 - 2 * l) & 256);
        const uint64_t v = grids.iq3_s[a] | (uint64_t)grids.iq3_s[b] << 32;
        put_8(out, l, negate(v, grids.signs[p[74 + 4 * sub + l]]));
    }
    sc[0] = sc[1] = (uint8_t)(2 * (p[106 + sub / 2] >> 4 * (sub % 2) & 15) + 1);
}

static void iq1_s(const uint8_t *p, int sub, uint8_t *out, uint8_t sc[2])
{
    const uint32_t h = u16_at(p + 34 + 2 * sub);
    for (int l = 0; l < 4; l++)
        put_8(out, l, grids.iq1[h >> 15][p[2 + 4 * sub + l] | (h >> 3 * l & 7) << 8]);
    sc[0] = sc[1] = (uint8_t)(2 * (h >> 12 & 7) + 1);
}

static void iq1_m(const uint8_t *p, int sub, uint8_t *out, uint8_t sc[2])
{
    for (int l = 0; l < 4; l++) {
        const uint32_t h = (uint32_t)p[32 + 2 * sub + l / 2] >> 4 * (l % 2);
        put_8(out, l, grids.iq1[h >> 3 & 1][p[4 * sub + l] | (h & 7) << 8]);
    }
    const uint32_t s = (uint32_t)u16_at(p + 48 + 2 * (sub / 2)) >> 6 * (sub % 2);
    sc[0] = (uint8_t)(2 * (s & 7) + 1);
    sc[1] = (uint8_t)(2 * (s >> 3 & 7) + 1);
}

// Digit n of the ternary numbers in n_byte bytes, less 1. 3^n times a byte, modulo 256, has it at
// the top.
static inline void tq1_digit(const uint8_t *p, int n_byte, int n, uint8_t *code)
{
    static const uint8_t power[5] = {1, 3, 9, 27, 81};
    for (int i = 0; i < n_byte; i++) {
        const uint8_t q = (uint8_t)(p[i] * power[n]);
        code[i] = (uint8_t)((q * 3 >> 8) - 1);
    }
}

// 160 columns in the five digits of 32 bytes, 80 in those of 16, 16 in four digits of 4.
static void tq1_0(const uint8_t *p, int sub, uint8_t *out, uint8_t sc[2])
{
    uint8_t code[32];
    if (sub < 5) {
        tq1_digit(p, 32, sub, code);
    } else if (sub < 7) {
        tq1_digit(p + 32, 16, 2 * sub - 10, code);
        tq1_digit(p + 32, 16, 2 * sub - 9, code + 16);
    } else {
        tq1_digit(p + 32, 16, 4, code);
        for (int n = 0; n < 4; n++)
            tq1_digit(p + 48, 4, n, code + 16 + 4 * n);
    }
    for (int j = 0; j < 8; j++)
        memcpy(out + 32 * j, code + 4 * j, 4);
    sc[0] = sc[1] = 1;
}

static uint16_t iq1_m_scale(const uint8_t *p)
{
    int d = 0;
    for (int i = 0; i < 4; i++)
        d |= (u16_at(p + 48 + 2 * i) >> 12) << 4 * i;
    return (uint16_t)d;
}

static inline void decode(decode_fn *fn, uint32_t bytes, const uint8_t *run, uint8_t *out)
{
    for (int sub = 0; sub < RUN_BLOCKS; sub++, out += CODES_BLOCK)
        for (uint32_t r = 0; r < PANEL_ROWS; r++)
            fn(run + r * bytes, sub, out + 16 + 4 * r, out + 2 * r);
}

void quant_decode(enum dtype t, const uint8_t *run, uint8_t out[CODES_BYTES])
{
    const uint32_t bytes = dtype_info(t)->bytes, d_at = t == DT_TQ1_0 ? 52 : 0;
    const float unit = t == DT_TQ1_0 || t == DT_IQ3_S ? 1.0f : t == DT_IQ3_XXS ? 0.25f : 0.125f;
    for (uint32_t r = 0; r < PANEL_ROWS; r++) {
        const uint8_t *p = run + r * bytes;
        const float d = dtype_f16_to_f32(t == DT_IQ1_M ? iq1_m_scale(p) : u16_at(p + d_at)) * unit;
        memcpy(out + 4 * r, &d, 4);
    }
    switch (t) {
#define DECODE(T, fn)                                                                              \
    case T:                                                                                        \
        decode(fn, bytes, run, out + CODES_HEAD);                                                  \
        break;
        DECODE(DT_IQ2_XXS, iq2_xxs)
        DECODE(DT_IQ2_XS, iq2_xs)
        DECODE(DT_IQ2_S, iq2_s)
        DECODE(DT_IQ3_XXS, iq3_xxs)
        DECODE(DT_IQ3_S, iq3_s)
        DECODE(DT_IQ1_S, iq1_s)
        DECODE(DT_IQ1_M, iq1_m)
        DECODE(DT_TQ1_0, tq1_0)
    default:
        BUG("type that is not decoded");
    }
}
