#include "worker/weights.h"

#include <string.h>

// Where a block keeps its float16 scales and offsets (ggml-common.h). Everything else in a block is
// small integers and cannot be wrong in this way.
static const struct {
    int32_t at[2]; // byte offsets, -1: none
} scales[DT_COUNT] = {
    [DT_Q4_0] = {{0, -1}}, [DT_Q4_1] = {{0, 2}}, [DT_Q5_0] = {{0, -1}}, [DT_Q5_1] = {{0, 2}},
    [DT_Q8_0] = {{0, -1}}, [DT_Q4_K] = {{0, 2}}, [DT_Q5_K] = {{0, 2}},  [DT_Q6_K] = {{208, -1}},
};

static bool half_words_are_finite(const uint8_t *p, uint64_t n, uint16_t exponent)
{
    bool bad = false;
    for (uint64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, 2);
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

bool weights_are_finite(enum dtype t, const void *data, uint64_t bytes)
{
    const uint8_t *p = data;
    if (t == DT_F32) return words_are_finite(p, bytes / 4);
    if (t == DT_F16) return half_words_are_finite(p, bytes / 2, 0x7c00);
    if (t == DT_BF16) return half_words_are_finite(p, bytes / 2, 0x7f80);
    const struct dtype_info *info = dtype_info(t);
    if (!info->is_quantised) return true;
    bool bad = false;
    for (uint64_t b = 0; b + info->bytes <= bytes; b += info->bytes) {
        for (int i = 0; i < 2 && scales[t].at[i] >= 0; i++)
            bad |= !half_words_are_finite(p + b + scales[t].at[i], 1, 0x7c00);
    }
    return !bad;
}
