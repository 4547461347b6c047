#include "proto/base/dtype.h"

#include <string.h>

static const struct dtype_info infos[DT_COUNT] = {
    [DT_NONE] = {"none", 1, 0, -1, false},
    [DT_F32] = {"F32", 1, 4, 0, false},
    [DT_F16] = {"F16", 1, 2, 1, false},
    [DT_BF16] = {"BF16", 1, 2, 30, false},
    [DT_F64] = {"F64", 1, 8, 28, false},
    [DT_F8_E4M3] = {"F8_E4M3", 1, 1, -1, false},
    [DT_F8_E5M2] = {"F8_E5M2", 1, 1, -1, false},
    [DT_BOOL] = {"BOOL", 1, 1, -1, false},
    [DT_I8] = {"I8", 1, 1, 24, false},
    [DT_U8] = {"U8", 1, 1, -1, false},
    [DT_I16] = {"I16", 1, 2, 25, false},
    [DT_U16] = {"U16", 1, 2, -1, false},
    [DT_I32] = {"I32", 1, 4, 26, false},
    [DT_U32] = {"U32", 1, 4, -1, false},
    [DT_I64] = {"I64", 1, 8, 27, false},
    [DT_U64] = {"U64", 1, 8, -1, false},
    [DT_Q4_0] = {"Q4_0", 32, 18, 2, true},
    [DT_Q4_1] = {"Q4_1", 32, 20, 3, true},
    [DT_Q5_0] = {"Q5_0", 32, 22, 6, true},
    [DT_Q5_1] = {"Q5_1", 32, 24, 7, true},
    [DT_Q8_0] = {"Q8_0", 32, 34, 8, true},
    [DT_Q2_K] = {"Q2_K", 256, 84, 10, true},
    [DT_Q3_K] = {"Q3_K", 256, 110, 11, true},
    [DT_Q4_K] = {"Q4_K", 256, 144, 12, true},
    [DT_Q5_K] = {"Q5_K", 256, 176, 13, true},
    [DT_Q6_K] = {"Q6_K", 256, 210, 14, true},
    [DT_IQ4_NL] = {"IQ4_NL", 32, 18, 20, true},
    [DT_IQ4_XS] = {"IQ4_XS", 256, 136, 23, true},
    [DT_IQ2_XXS] = {"IQ2_XXS", 256, 66, 16, true},
    [DT_IQ2_XS] = {"IQ2_XS", 256, 74, 17, true},
    [DT_IQ2_S] = {"IQ2_S", 256, 82, 22, true},
    [DT_IQ3_XXS] = {"IQ3_XXS", 256, 98, 18, true},
    [DT_IQ3_S] = {"IQ3_S", 256, 110, 21, true},
    [DT_IQ1_S] = {"IQ1_S", 256, 50, 19, true},
    [DT_IQ1_M] = {"IQ1_M", 256, 56, 29, true},
    [DT_TQ1_0] = {"TQ1_0", 256, 54, 34, true},
    [DT_TQ2_0] = {"TQ2_0", 256, 66, 35, true},
    [DT_MXFP4] = {"MXFP4", 32, 17, 39, true},
    [DT_NVFP4] = {"NVFP4", 64, 36, 40, true},
    [DT_INT4] = {"INT4", 32, 19, -1, true},
    [DT_INT8] = {"INT8", 32, 38, -1, true},
    [DT_FP8] = {"FP8", 32, 36, -1, true},
};

// Index is the GGML type number; NULL for numbers that were removed.
static const char *const ggml_names[] = {
    "F32",     "F16",   "Q4_0",   "Q4_1",  NULL,    NULL,     "Q5_0", "Q5_1",    "Q8_0",
    "Q8_1",    "Q2_K",  "Q3_K",   "Q4_K",  "Q5_K",  "Q6_K",   "Q8_K", "IQ2_XXS", "IQ2_XS",
    "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8",   "I16",     "I32",
    "I64",     "F64",   "IQ1_M",  "BF16",  NULL,    NULL,     NULL,   "TQ1_0",   "TQ2_0",
    NULL,      NULL,    NULL,     "MXFP4", "NVFP4",
};

const struct dtype_info *dtype_info(enum dtype t)
{
    return &infos[(unsigned)t < DT_COUNT ? t : DT_NONE];
}

enum dtype dtype_of_ggml(uint32_t ggml)
{
    for (int t = DT_NONE + 1; t < DT_COUNT; t++)
        if (infos[t].ggml >= 0 && (uint32_t)infos[t].ggml == ggml) return (enum dtype)t;
    return DT_NONE;
}

const char *dtype_ggml_name(uint32_t ggml)
{
    return ggml < sizeof ggml_names / sizeof *ggml_names ? ggml_names[ggml] : NULL;
}

uint64_t dtype_row_bytes(enum dtype t, uint64_t n)
{
    const struct dtype_info *d = dtype_info(t);
    uint64_t bytes;
    if (n % d->block || __builtin_mul_overflow(n / d->block, (uint64_t)d->bytes, &bytes)) return 0;
    return bytes;
}

bool dtype_is_weight(enum dtype t)
{
    return t == DT_F32 || t == DT_F16 || t == DT_BF16 || dtype_info(t)->is_quantised;
}

float dtype_f8_to_f32(uint8_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x80) << 24, exp = h >> 3 & 15, man = h & 7;
    uint32_t u = sign | (exp + 120) << 23 | man << 20;
    float f;
    if (exp == 15 && man == 7) {
        u = sign | 0x7fc00000;
    } else if (exp == 0) { // subnormal: man * 2^-9
        f = (float)man * 0x1p-9f;
        memcpy(&u, &f, 4);
        u |= sign;
    }
    memcpy(&f, &u, 4);
    return f;
}

// IEEE 754 binary16 by the value's definition; the kernels have faster ones.
float dtype_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = (h >> 10) & 31, man = h & 0x3ff, u;
    if (exp == 31) {
        u = sign | 0x7f800000 | man << 13;
    } else if (exp) {
        u = sign | (exp + 112) << 23 | man << 13;
    } else { // subnormal: man * 2^-24, exact in f32
        float v = (float)man * 0x1p-24f;
        memcpy(&u, &v, 4);
        u |= sign;
    }
    float f;
    memcpy(&f, &u, 4);
    return f;
}

uint16_t dtype_f32_to_f16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    uint16_t sign = (uint16_t)(u >> 16 & 0x8000);
    uint32_t mag = u & 0x7fffffff;
    if (mag > 0x7f800000) return sign | 0x7e00;  // NaN
    if (mag >= 0x477ff000) return sign | 0x7c00; // rounds to infinity
    if (mag < 0x38800000) {                      // subnormal: round mag * 2^24 to an integer
        float v;
        memcpy(&v, &mag, 4);
        float r = v * 0x1p24f + 0x1p23f; // the addition rounds to nearest even at bit 0
        uint32_t bits;
        memcpy(&bits, &r, 4);
        return (uint16_t)(sign | (bits & 0x7ff));
    }
    uint32_t rounded = mag + 0xfff + (mag >> 13 & 1);
    return (uint16_t)(sign | (rounded - 0x38000000) >> 13);
}
