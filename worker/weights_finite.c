#include "worker/weights.h"

#include <string.h>

// Where a block keeps its scale, and after it perhaps an offset: halves (ggml-common.h). Of some
// types special_is_finite looks for it. Everything else in a block is small integers and cannot be
// wrong in this way.
static const struct {
    int16_t half; // byte offset, -1: none
    bool is_pair, is_special;
} scales[DT_COUNT] = {
    [DT_Q4_0] = {0, false, false},    [DT_Q4_1] = {0, true, false},
    [DT_Q5_0] = {0, false, false},    [DT_Q5_1] = {0, true, false},
    [DT_Q8_0] = {0, false, false},    [DT_Q2_K] = {80, true, false},
    [DT_Q3_K] = {108, false, false},  [DT_Q4_K] = {0, true, false},
    [DT_Q5_K] = {0, true, false},     [DT_Q6_K] = {208, false, false},
    [DT_IQ4_NL] = {0, false, false},  [DT_IQ4_XS] = {0, false, false},
    [DT_IQ2_XXS] = {0, false, false}, [DT_IQ2_XS] = {0, false, false},
    [DT_IQ2_S] = {0, false, false},   [DT_IQ3_XXS] = {0, false, false},
    [DT_IQ3_S] = {0, false, false},   [DT_IQ1_S] = {0, false, false},
    [DT_IQ1_M] = {-1, false, true},   [DT_TQ1_0] = {52, false, false},
    [DT_TQ2_0] = {64, false, false},  [DT_MXFP4] = {-1, false, true},
    [DT_NVFP4] = {-1, false, true},   [DT_INT4] = {0, false, false},
    [DT_INT8] = {-1, false, true},    [DT_FP8] = {-1, false, true},
};

static bool halves_are_finite(const uint8_t *p, uint64_t n, uint16_t exponent)
{
    bool bad = false;
    for (uint64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, 2);
        bad |= (h & exponent) == exponent;
    }
    return !bad;
}

// The half at p, and in every other of n blocks; where is_pair, the next half too. One is added to
// each exponent: it overflows into the sign's place where all its bits are set.
static bool scales_are_finite(const uint8_t *p, uint64_t n, uint64_t stride, bool is_pair)
{
    uint32_t bad = 0, x = 0;
    for (uint64_t i = 0; is_pair && i < n; i++, p += stride) {
        memcpy(&x, p, 4);
        bad |= (x & 0x7c007c00) + 0x04000400;
    }
    for (uint64_t i = 0; !is_pair && i < n; i++, p += stride) {
        memcpy(&x, p, 2);
        bad |= (x & 0x7c00) + 0x0400;
    }
    return !(bad & 0x80008000);
}

static bool words_are_finite(const uint8_t *p, uint64_t n)
{
    bool bad = false;
    for (uint64_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, p + 4 * i, 4);
        bad |= (u & 0x7f800000) == 0x7f800000;
    }
    return !bad;
}

// E4M3 has no infinity and one NaN of each sign.
static bool f8_are_finite(const uint8_t *p, uint64_t n)
{
    uint8_t bad = 0;
    for (uint64_t i = 0; i < n; i++)
        bad |= (p[i] & 0x7f) == 0x7f;
    return !bad;
}

// What a table of offsets cannot say: scales of one byte, codes that are floats, scattered halves.
static bool special_is_finite(enum dtype t, const uint8_t *p)
{
    switch (t) {
    case DT_MXFP4:
        return *p != 255;
    case DT_NVFP4:
        return f8_are_finite(p, 4);
    case DT_INT8:
        return words_are_finite(p, 1);
    case DT_FP8:
        return words_are_finite(p, 1) && f8_are_finite(p + 4, 32);
    case DT_IQ1_M: // four bits each of the half at the top of the last four halves
        return !((p[55] >> 4 & 7) == 7 && (p[53] >> 4 & 12) == 12);
    default:
        return true;
    }
}

bool weights_are_finite(enum dtype t, const void *data, uint64_t bytes)
{
    const uint8_t *p = data;
    if (t == DT_F32) return words_are_finite(p, bytes / 4);
    if (t == DT_F16) return halves_are_finite(p, bytes / 2, 0x7c00);
    if (t == DT_BF16) return halves_are_finite(p, bytes / 2, 0x7f80);
    const struct dtype_info *info = dtype_info(t);
    if (!info->is_quantised) return true;
    const uint64_t n = bytes / info->bytes;
    bool good = true;
    if (scales[t].half >= 0)
        good = scales_are_finite(p + scales[t].half, n, info->bytes, scales[t].is_pair);
    for (uint64_t b = 0; scales[t].is_special && b < n; b++)
        good &= special_is_finite(t, p + b * info->bytes);
    return good;
}
