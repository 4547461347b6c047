// dtype: the element and block types of tensors. Quantised types store `block` elements of one row
// in `bytes` bytes. Layouts follow GGML (https://github.com/ggml-org/ggml, ggml-common.h).
#pragma once
#include "proto/base/err.h"
#include <stdbool.h>

enum dtype {
    DT_NONE,
    DT_F32,
    DT_F16,
    DT_BF16,
    DT_I8,
    DT_I32,
    DT_U8,
    DT_Q4_0,
    DT_Q4_1,
    DT_Q5_0,
    DT_Q5_1,
    DT_Q8_0,
    DT_Q4_K,
    DT_Q5_K,
    DT_Q6_K,
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
