// Weights without a file (shape:NAME): pseudo-random, the same for everybody who makes them, and of
// the size that a layer's sums stay near one: a matrix has entries of about 1 / sqrt(cols).
#include "worker/source_priv.h"

#include <math.h>
#include <string.h>

// Blocks are random bytes but for their scales. Where those are, and what an entry's size would be
// with a scale of 1 (root of the mean square over random codes).
enum scale_kind { SCALE_HALF, SCALE_FLOAT, SCALE_E8M0 };
struct made_block {
    int8_t kind;
    int16_t at;        // of the scale
    int16_t offset_at; // of a second half that shifts the values, -1: none
    float offset;      // in scales, brings the mean to about 0
    float size;
};
static const struct made_block blocks[DT_COUNT] = {
    [DT_Q4_0] = {SCALE_HALF, 0, -1, 0, 4.6f},   [DT_Q4_1] = {SCALE_HALF, 0, 2, -7.5f, 4.6f},
    [DT_Q5_0] = {SCALE_HALF, 0, -1, 0, 9.2f},   [DT_Q5_1] = {SCALE_HALF, 0, 2, -15.5f, 9.2f},
    [DT_Q8_0] = {SCALE_HALF, 0, -1, 0, 74},     [DT_Q2_K] = {SCALE_HALF, 80, 82, 1.5f, 14},
    [DT_Q3_K] = {SCALE_HALF, 108, -1, 0, 43},   [DT_Q4_K] = {SCALE_HALF, 0, 2, 7.5f, 258},
    [DT_Q5_K] = {SCALE_HALF, 0, 2, 15.5f, 516}, [DT_Q6_K] = {SCALE_HALF, 208, -1, 0, 1369},
    [DT_IQ4_NL] = {SCALE_HALF, 0, -1, 0, 71},   [DT_IQ4_XS] = {SCALE_HALF, 0, -1, 0, 1313},
    [DT_IQ2_XXS] = {SCALE_HALF, 0, -1, 0, 54},  [DT_IQ2_XS] = {SCALE_HALF, 0, -1, 0, 54},
    [DT_IQ2_S] = {SCALE_HALF, 0, -1, 0, 54},    [DT_IQ3_XXS] = {SCALE_HALF, 0, -1, 0, 140},
    [DT_IQ3_S] = {SCALE_HALF, 0, -1, 0, 150},   [DT_IQ1_S] = {SCALE_HALF, 0, -1, 0, 7},
    [DT_IQ1_M] = {SCALE_HALF, -1, -1, 0, 7}, // in the high nibbles of four halves
    [DT_TQ1_0] = {SCALE_HALF, 52, -1, 0, .8f},  [DT_TQ2_0] = {SCALE_HALF, 64, -1, 0, 1.2f},
    [DT_MXFP4] = {SCALE_E8M0, 0, -1, 0, 2.9f},  [DT_INT4] = {SCALE_HALF, 0, -1, 0, 4.6f},
    [DT_INT8] = {SCALE_FLOAT, 0, -1, 0, 74},    [DT_FP8] = {SCALE_FLOAT, 0, -1, 0, .7f},
};
enum { NVFP4_ONE = 0x38 }; // 1 as E4M3; the weight's factor does the rest

static uint64_t next_of(uint64_t *s) // splitmix64 (Steele, Lea and Flood 2014)
{
    uint64_t z = *s += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static uint64_t seed_of(const struct source_piece *p, int64_t row)
{
    uint64_t s = (uint64_t)(p->w->part + 16) << 8 | (uint64_t)p->w->slot;
    s = next_of(&s) + (uint64_t)p->i;
    s = next_of(&s) + (uint64_t)row;
    return next_of(&s);
}

static void put_random(uint64_t seed, uint8_t *dst, uint64_t bytes)
{
    uint64_t at = 0, x;
    for (; at + 8 <= bytes; at += 8) {
        x = next_of(&seed);
        memcpy(dst + at, &x, 8);
    }
    x = next_of(&seed);
    memcpy(dst + at, &x, bytes - at);
}

static float size_of(const struct model_weight *w)
{
    return 1 / sqrtf((float)w->cols);
}

// The top four bits of each of four halves make the scale.
static void put_iq1_m_scale(uint8_t *block, uint16_t half)
{
    for (int i = 0; i < 4; i++)
        block[49 + 2 * i] = (uint8_t)((block[49 + 2 * i] & 15) | (half >> 4 * i & 15) << 4);
}

// The fields of a block that may not be random.
static void put_scales(enum dtype t, const struct made_block *b, float d, uint8_t *block)
{
    const uint16_t half = dtype_f32_to_f16(d);
    if (t == DT_NVFP4)
        memset(block, NVFP4_ONE, 4);
    else if (t == DT_IQ1_M)
        put_iq1_m_scale(block, half);
    else if (b->kind == SCALE_HALF)
        memcpy(block + b->at, &half, 2);
    else if (b->kind == SCALE_FLOAT)
        memcpy(block + b->at, &d, 4);
    else
        block[b->at] = (uint8_t)(127 + lrintf(log2f(d)));
    if (b->offset_at > 0) {
        const uint16_t offset = dtype_f32_to_f16(b->offset * d);
        memcpy(block + b->offset_at, &offset, 2);
    }
    if (t == DT_INT4) block[2] = 8;
    if (t == DT_INT8) memset(block + 4, 0, 2);
    for (int i = 4; t == DT_FP8 && i < 36; i++)
        block[i] &= 0xbf; // below 2, and not NaN
}

// Random signs and fractions, one exponent: 2^e <= |x| < 2^(e + 1).
static void fix_floats(enum dtype t, float size, uint8_t *row, int64_t n)
{
    const int e = (int)floorf(log2f(size / 1.5f) + .5f);
    uint32_t x;
    uint16_t h;
    for (int64_t i = 0; t == DT_F32 && i < n; i++) {
        memcpy(&x, row + 4 * i, 4);
        x = (x & 0x807fffff) | (uint32_t)(e + 127) << 23;
        memcpy(row + 4 * i, &x, 4);
    }
    const uint16_t keep = t == DT_F16 ? 0x83ff : 0x807f;
    const uint16_t exponent = (uint16_t)(t == DT_F16 ? (e + 15) << 10 : (e + 127) << 7);
    for (int64_t i = 0; t != DT_F32 && i < n; i++) {
        memcpy(&h, row + 2 * i, 2);
        h = (h & keep) | exponent;
        memcpy(row + 2 * i, &h, 2);
    }
}

// Vectors: norms near 1, decays below 0, all else small.
static float vector_value(enum slot s, float u) // u in -1..1
{
    switch (s) {
    case SLOT_ATTN_NORM:
    case SLOT_ATTN_Q_NORM:
    case SLOT_ATTN_K_NORM:
    case SLOT_ATTN_POST_NORM:
    case SLOT_MLA_Q_A_NORM:
    case SLOT_MLA_KV_NORM:
    case SLOT_DELTA_NORM:
    case SLOT_FFN_NORM:
    case SLOT_FFN_POST_NORM:
    case SLOT_MTP_EMBED_NORM:
    case SLOT_MTP_HIDDEN_NORM:
    case SLOT_MTP_NORM:
    case SLOT_FINAL_NORM:
        return 1 + u / 8;
    case SLOT_ROPE_FREQS:
    case SLOT_ROPE_FREQS_LONG:
        return 1;
    case SLOT_DELTA_A_NEG:
        return -expf(u);
    case SLOT_DELTA_CONV:
        return u;
    default:
        return u / 8;
    }
}

static void put_vector(const struct source_piece *p, float *dst)
{
    const int64_t n_col = source_n_col(p->w);
    for (int64_t r = 0; r < p->n_row; r++) {
        uint64_t seed = seed_of(p, p->row_from + r);
        for (int64_t c = 0; c < n_col; c++)
            *dst++ = vector_value(p->w->slot, (float)(int64_t)next_of(&seed) * 0x1p-63f);
    }
}

void source_made_rows(const struct source_piece *p, uint8_t *dst)
{
    const struct model_weight *w = p->w;
    if (!w->is_matrix) {
        put_vector(p, (float *)dst);
        return;
    }
    const struct dtype_info *info = dtype_info(w->dtype);
    const struct made_block *b = &blocks[w->dtype];
    const uint64_t row_bytes = dtype_row_bytes(w->dtype, (uint64_t)w->cols);
    const float d = b->size > 0 ? size_of(w) / b->size : 1;
    for (int64_t r = 0; r < p->n_row; r++, dst += row_bytes) {
        put_random(seed_of(p, p->row_from + r), dst, row_bytes);
        if (info->block == 1) fix_floats(w->dtype, size_of(w), dst, w->cols);
        for (uint64_t at = 0; info->block > 1 && at < row_bytes; at += info->bytes)
            put_scales(w->dtype, b, d, dst + at);
    }
}

float source_made_factor(const struct model_weight *w)
{
    return size_of(w) / 2.9f;
}
