// dtype: the element and block types of tensors. Quantised types store `block` elements of one row
// in `bytes` bytes. Layouts with a GGML number follow GGML (https://github.com/ggml-org/ggml,
// ggml-common.h); those without are ours, made at load from formats that keep scales, zeros and
// values in tensors of their own:
//     INT4   32 elements: half d, u8 z, 16 bytes of nibbles      value = d * (q - z), q in 0..15
//     INT8   32 elements: float d, i16 z, 32 i8                  value = d * (q - z)
//     FP8    32 elements: float d, 32 E4M3 (Micikevicius et al. 2022)       value = d * q
// Nibbles lie as in Q4_0: byte i holds element i (low) and element i + 16 (high).
#pragma once
#include "proto/base/err.h"
#include <stdbool.h>

enum dtype {
    DT_NONE,
    // plain
    DT_F32,
    DT_F16,
    DT_BF16,
    DT_F64,
    DT_F8_E4M3,
    DT_F8_E5M2,
    DT_BOOL,
    DT_I8,
    DT_U8,
    DT_I16,
    DT_U16,
    DT_I32,
    DT_U32,
    DT_I64,
    DT_U64,
    // blocks
    DT_Q4_0,
    DT_Q4_1,
    DT_Q5_0,
    DT_Q5_1,
    DT_Q8_0,
    DT_Q2_K,
    DT_Q3_K,
    DT_Q4_K,
    DT_Q5_K,
    DT_Q6_K,
    DT_IQ4_NL,
    DT_IQ4_XS,
    DT_IQ2_XXS,
    DT_IQ2_XS,
    DT_IQ2_S,
    DT_IQ3_XXS,
    DT_IQ3_S,
    DT_IQ1_S,
    DT_IQ1_M,
    DT_TQ1_0,
    DT_TQ2_0,
    DT_MXFP4,
    DT_NVFP4,
    DT_INT4,
    DT_INT8,
    DT_FP8,
    DT_COUNT
};

struct dtype_info {
    const char *name; // "Q4_K"
    uint32_t block;   // elements per block, 1 for plain types
    uint32_t bytes;   // bytes per block
    int32_t ggml;     // GGML type number, -1 if GGML has none
    bool is_quantised;
};

const struct dtype_info *dtype_info(enum dtype t);
// The type for a GGML type number; DT_NONE if we do not know it.
enum dtype dtype_of_ggml(uint32_t ggml);
// Name of a GGML type number that we may not support, for sentences ("IQ2_XXS"), or NULL.
const char *dtype_ggml_name(uint32_t ggml);
// Bytes of a row of n elements; 0 if n is not a multiple of the block or the product overflows.
uint64_t dtype_row_bytes(enum dtype t, uint64_t n);

// Bits of an element of keys and values that are kept in a type, scales included.
static inline uint32_t dtype_kv_bits(enum dtype t)
{
    return t == DT_F32 ? 32 : t == DT_Q8_0 || t == DT_F8_E4M3 ? 9 : 16;
}

// Weights can be of this type: floats of 16 bits and more, and every block type.
bool dtype_is_weight(enum dtype t);

float dtype_f8_to_f32(uint8_t h); // E4M3; 0x7f and 0xff are NaN
float dtype_f16_to_f32(uint16_t h);
uint16_t dtype_f32_to_f16(float f); // round to nearest even
static inline float dtype_bf16_to_f32(uint16_t h)
{
    union {
        uint32_t u;
        float f;
    } v = {.u = (uint32_t)h << 16};
    return v.f;
}
