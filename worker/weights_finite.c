#include "worker/weights.h"

#include <string.h>

// Where a block keeps its scales and offsets: halves (ggml-common.h), and of some types what special_is_finite
// looks at. Everything else in a block is small integers and cannot be wrong in this way.
static const struct {
    int16_t half[2]; // byte offsets, -1: none
    bool is_special;
} scales[DT_COUNT] = {
    [DT_Q4_0] = {{0, -1}, false},   [DT_Q4_1] = {{0, 2}, false},   [DT_Q5_0] = {{0, -1}, false},
    [DT_Q5_1] = {{0, 2}, false},    [DT_Q8_0] = {{0, -1}, false},  [DT_Q2_K] = {{80, 82}, false},
    [DT_Q3_K] = {{108, -1}, false}, [DT_Q4_K] = {{0, 2}, false},   [DT_Q5_K] = {{0, 2}, false},
    [DT_Q6_K] = {{208, -1}, false}, [DT_IQ4_NL] = {{0, -1}, false}, [DT_IQ4_XS] = {{0, -1}, false},
    [DT_IQ2_XXS] = {{0, -1}, false}, [DT_IQ2_XS] = {{0, -1}, false}, [DT_IQ2_S] = {{0, -1}, false},
    [DT_IQ3_XXS] = {{0, -1}, false}, [DT_IQ3_S] = {{0, -1}, false}, [DT_IQ1_S] = {{0, -1}, false},
    [DT_TQ1_0] = {{52, -1}, false}, [DT_TQ2_0] = {{64, -1}, false}, [DT_INT4] = {{0, -1}, false},
    [DT_IQ1_M] = {{-1, -1}, true}, [DT_MXFP4] = {{-1, -1}, true}, [DT_NVFP4] = {{-1, -1}, true},
    [DT_INT8] = {{-1, -1}, true},   [DT_FP8] = {{-1, -1}, true},
};

// n halves, `stride` bytes apart.
static bool halves_are_finite(const uint8_t *p, uint64_t n, uint64_t stride, uint16_t exponent)
{
    bool bad = false;
    for (uint64_t i = 0; i < n; i++, p += stride) {
        uint16_t h;
        memcpy(&h, p, 2);
        bad |= (h & exponent) == exponent;
    }
    return !bad;
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
    if (t == DT_F16) return halves_are_finite(p, bytes / 2, 2, 0x7c00);
    if (t == DT_BF16) return halves_are_finite(p, bytes / 2, 2, 0x7f80);
    const struct dtype_info *info = dtype_info(t);
    if (!info->is_quantised) return true;
    const uint64_t n = bytes / info->bytes;
    bool good = true;
    for (int i = 0; i < 2 && scales[t].half[i] >= 0; i++)
        good &= halves_are_finite(p + scales[t].half[i], n, info->bytes, 0x7c00);
    for (uint64_t b = 0; scales[t].is_special && b < n; b++)
        good &= special_is_finite(t, p + b * info->bytes);
    return good;
}
