// quant_grid: decodes the types that stay as in the file. The 2- and 3-bit ones hold numbers of
// grid points, each the levels of 8 or 4 columns, beside signs and scales (GGML's ggml-common.h
// has the layouts). Levels are made bytes by arithmetic on eight at once.
#include "kernels/cpu/packed.h"
#include "kernels/cpu/quant_tables.h"

#include <string.h>

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
    return b * 0x0101010101010101;
}

// 8 levels of 2 bits, a byte each.
static uint64_t spread2(uint64_t x)
{
    x = (x | x << 24) & 0x000000ff000000ff;
    x = (x | x << 12) & 0x000f000f000f000f;
    return (x | x << 6) & 0x0303030303030303;
}

// 4 and 4 levels of 3 bits, a byte each.
static uint64_t spread3(uint64_t a, uint64_t b)
{
    uint64_t x = a | b << 32;
    x = (x | x << 10) & 0x003f003f003f003f;
    return (x | x << 5) & 0x0707070707070707;
}

// Negates byte i where bit i of signs is set. No byte of v is 0.
static uint64_t with_signs(uint64_t v, uint32_t signs)
{
    uint64_t one = bytes_of(signs) & 0x8040201008040201;
    one = (one + bytes_of(0x7f)) >> 7 & bytes_of(1);
    return (v ^ one * 0xff) + one;
}

// The eighth of the signs of IQ2_XXS, IQ2_XS and IQ3_XXS makes their number even.
static uint32_t even_signs(uint32_t s)
{
    s &= 127;
    return s | (uint32_t)__builtin_parity(s) << 7;
}

// IQ2: levels 8, 25, 43.
static uint64_t iq2_point(uint16_t point, uint32_t signs)
{
    uint64_t x = spread2(point);
    return with_signs(bytes_of(8) + 17 * x + (x >> 1 & bytes_of(1)), signs);
}

// IQ3_XXS: levels 4, 12, .. 52, 62. IQ3_S: 1, 3, .. 15.
static uint64_t iq3_xxs_points(uint16_t a, uint16_t b, uint32_t signs)
{
    uint64_t x = spread3(a, b);
    return with_signs(bytes_of(4) + 8 * x + ((x & x >> 1 & x >> 2 & bytes_of(1)) << 1), signs);
}
static uint64_t iq3_s_points(uint16_t a, uint16_t b, uint32_t signs)
{
    return with_signs(bytes_of(1) + 2 * spread3(a, b), signs);
}

// IQ1: levels -1, 0, 1, moved by 1/8 up or down; times 8.
static uint64_t iq1_point(uint16_t point, uint32_t is_down)
{
    return (bytes_of(is_down ? 119 : 121) + 8 * spread2(point)) ^ bytes_of(128);
}

// Codes of the 32 columns of sub-block `sub` of the block at p, and the two scales.
typedef void decode_fn(const uint8_t *p, int sub, uint64_t w[4], uint8_t sc[2]);

static void iq2_xxs(const uint8_t *p, int sub, uint64_t w[4], uint8_t sc[2])
{
    const uint8_t *q = p + 2 + 8 * sub;
    const uint32_t s = u32_at(q + 4);
    for (int l = 0; l < 4; l++)
        w[l] = iq2_point(quant_iq2_xxs[q[l]], even_signs(s >> 7 * l));
    sc[0] = sc[1] = (uint8_t)(2 * (s >> 28) + 1);
}

static void iq2_xs(const uint8_t *p, int sub, uint64_t w[4], uint8_t sc[2])
{
    for (int l = 0; l < 4; l++) {
        const uint16_t q = u16_at(p + 2 + 8 * sub + 2 * l);
        w[l] = iq2_point(quant_iq2_xs[q & 511], even_signs(q >> 9));
    }
    sc[0] = (uint8_t)(2 * (p[66 + sub] & 15) + 1);
    sc[1] = (uint8_t)(2 * (p[66 + sub] >> 4) + 1);
}

static void iq2_s(const uint8_t *p, int sub, uint64_t w[4], uint8_t sc[2])
{
    for (int l = 0; l < 4; l++) {
        const int point = p[2 + 4 * sub + l] | (p[66 + sub] >> 2 * l & 3) << 8;
        w[l] = iq2_point(quant_iq2_s[point], p[34 + 4 * sub + l]);
    }
    sc[0] = (uint8_t)(2 * (p[74 + sub] & 15) + 1);
    sc[1] = (uint8_t)(2 * (p[74 + sub] >> 4) + 1);
}

static void iq3_xxs(const uint8_t *p, int sub, uint64_t w[4], uint8_t sc[2])
{
    const uint8_t *q = p + 2 + 8 * sub;
    const uint32_t s = u32_at(p + 66 + 4 * sub);
    for (int l = 0; l < 4; l++)
        w[l] = iq3_xxs_points(quant_iq3_xxs[q[2 * l]], quant_iq3_xxs[q[2 * l + 1]],
                              even_signs(s >> 7 * l));
    sc[0] = sc[1] = (uint8_t)(2 * (s >> 28) + 1);
}

static void iq3_s(const uint8_t *p, int sub, uint64_t w[4], uint8_t sc[2])
{
    const uint8_t *q = p + 2 + 8 * sub;
    const int h = p[66 + sub];
    for (int l = 0; l < 4; l++) {
        const int a = q[2 * l] | (h >> 2 * l & 1) << 8, b = q[2 * l + 1] | (h >> (2 * l + 1) & 1) << 8;
        w[l] = iq3_s_points(quant_iq3_s[a], quant_iq3_s[b], p[74 + 4 * sub + l]);
    }
    sc[0] = sc[1] = (uint8_t)(2 * (p[106 + sub / 2] >> 4 * (sub % 2) & 15) + 1);
}

static void iq1_s(const uint8_t *p, int sub, uint64_t w[4], uint8_t sc[2])
{
    const uint32_t h = u16_at(p + 34 + 2 * sub);
    for (int l = 0; l < 4; l++)
        w[l] = iq1_point(quant_iq1[p[2 + 4 * sub + l] | (h >> 3 * l & 7) << 8], h & 0x8000);
    sc[0] = sc[1] = (uint8_t)(2 * (h >> 12 & 7) + 1);
}

static void iq1_m(const uint8_t *p, int sub, uint64_t w[4], uint8_t sc[2])
{
    for (int l = 0; l < 4; l++) {
        const uint32_t h = (uint32_t)p[32 + 2 * sub + l / 2] >> 4 * (l % 2);
        w[l] = iq1_point(quant_iq1[p[4 * sub + l] | (h & 7) << 8], h & 8);
    }
    const uint32_t s = (uint32_t)u16_at(p + 48 + 2 * (sub / 2)) >> 6 * (sub % 2);
    sc[0] = (uint8_t)(2 * (s & 7) + 1);
    sc[1] = (uint8_t)(2 * (s >> 3 & 7) + 1);
}

// Five ternary digits to a byte: 3^n times it, modulo 256, has digit n at the top. 160 columns in
// the digits of 32 bytes, 80 in those of 16, 16 in four digits of 4.
static void tq1_0(const uint8_t *p, int sub, uint64_t w[4], uint8_t sc[2])
{
    static const uint8_t power[5] = {1, 3, 9, 27, 81};
    uint8_t code[32];
    for (int i = 0; i < 32; i++) {
        const int c = 32 * sub + i;
        const int at = c < 160 ? c % 32 : c < 240 ? 32 + c % 16 : 48 + c % 4;
        const int digit = c < 160 ? c / 32 : c < 240 ? (c - 160) / 16 : (c - 240) / 4;
        const uint8_t q = (uint8_t)(p[at] * power[digit]);
        code[i] = (uint8_t)((q * 3 >> 8) - 1);
    }
    memcpy(w, code, 32);
    sc[0] = sc[1] = 1;
}

static uint16_t iq1_m_scale(const uint8_t *p)
{
    int d = 0;
    for (int i = 0; i < 4; i++)
        d |= (u16_at(p + 48 + 2 * i) >> 12) << 4 * i;
    return (uint16_t)d;
}

void quant_decode(enum dtype t, const uint8_t *run, uint8_t out[CODES_BYTES])
{
    static const struct {
        decode_fn *fn;
        uint8_t d_at; // of the block's scale
        float unit;
    } all[DT_COUNT] = {
        [DT_IQ2_XXS] = {iq2_xxs, 0, 0.125f}, [DT_IQ2_XS] = {iq2_xs, 0, 0.125f},
        [DT_IQ2_S] = {iq2_s, 0, 0.125f},     [DT_IQ3_XXS] = {iq3_xxs, 0, 0.25f},
        [DT_IQ3_S] = {iq3_s, 0, 1.0f},       [DT_IQ1_S] = {iq1_s, 0, 0.125f},
        [DT_IQ1_M] = {iq1_m, 0, 0.125f},     [DT_TQ1_0] = {tq1_0, 52, 1.0f},
    };
    const uint32_t bytes = dtype_info(t)->bytes;
    for (uint32_t r = 0; r < PANEL_ROWS; r++) {
        const uint8_t *p = run + r * bytes;
        const uint16_t d = t == DT_IQ1_M ? iq1_m_scale(p) : u16_at(p + all[t].d_at);
        const float f = dtype_f16_to_f32(d) * all[t].unit;
        memcpy(out + 4 * r, &f, 4);
        for (int sub = 0; sub < RUN_BLOCKS; sub++) {
            uint8_t *block = out + CODES_HEAD + sub * CODES_BLOCK;
            uint64_t w[4];
            all[t].fn(p, sub, w, block + 2 * r);
            for (int j = 0; j < 8; j++)
                memcpy(block + 16 + 32 * j + 4 * r, (const char *)w + 4 * j, 4);
        }
    }
}
