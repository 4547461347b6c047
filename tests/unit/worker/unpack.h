// Values of the block types that weights are brought into at load, by their definitions.
#pragma once
#include "proto/base/dtype.h"
#include <math.h>
#include <string.h>

static inline float unpack_half(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return dtype_f16_to_f32(h);
}

static inline float unpack_fp4(int code)
{
    static const float v[8] = {0, .5f, 1, 1.5f, 2, 3, 4, 6};
    return code & 8 ? -v[code & 7] : v[code & 7];
}

// Element i of a row.
static inline float unpack_at(enum dtype t, const uint8_t *row, int64_t i)
{
    const struct dtype_info *info = dtype_info(t);
    const uint8_t *p = row + i / info->block * info->bytes;
    const int k = (int)(i % info->block);
    float f;
    int16_t z;
    switch (t) {
    case DT_F32:
        memcpy(&f, p, 4);
        return f;
    case DT_F16:
        return unpack_half(p);
    case DT_BF16:
        return dtype_bf16_to_f32((uint16_t)(p[0] | p[1] << 8));
    case DT_Q4_0:
        return (float)((p[2 + k % 16] >> (k < 16 ? 0 : 4) & 15) - 8) * unpack_half(p);
    case DT_INT4:
        return (float)((p[3 + k % 16] >> (k < 16 ? 0 : 4) & 15) - p[2]) * unpack_half(p);
    case DT_INT8:
        memcpy(&f, p, 4);
        memcpy(&z, p + 4, 2);
        return f * (float)((int8_t)p[6 + k] - z);
    case DT_FP8:
        memcpy(&f, p, 4);
        return f * dtype_f8_to_f32(p[4 + k]);
    case DT_NVFP4:
        return unpack_fp4(p[4 + k / 16 * 8 + k % 8] >> (k % 16 < 8 ? 0 : 4) & 15) *
               dtype_f8_to_f32(p[k / 16]);
    case DT_MXFP4:
        return unpack_fp4(p[1 + k % 16] >> (k < 16 ? 0 : 4) & 15) * ldexpf(1, p[0] - 127);
    default:
        return NAN;
    }
}
