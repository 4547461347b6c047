// quant: how the tensors of a file make one matrix. The tensors decide whether a module is
// quantised, quantization_config (config.json; hf_quant_config.json of modelopt) how: methods
// gptq, auto-round, awq, compressed-tensors, modelopt, fp8, mxfp4; others are refused by name.
// Layouts are in model.h, enum source_kind.
//
// What a scheme needs is found beside the module's name M:
//     plain, GGUF        M.weight, or M itself
//     gptq, awq          M.qweight M.qzeros M.scales M.g_idx
//     compressed-tensors M.weight_packed (ints, NVFP4, MXFP4) or M.weight (INT8, FP8),
//     M.weight_scale
//                        M.weight_zero_point M.weight_g_idx M.weight_global_scale
//     modelopt           M.weight M.weight_scale M.weight_scale_2
//     fp8                M.weight M.weight_scale_inv (or M.weight_scale); M M_scale_inv
//     mxfp4 (gpt-oss)    M_blocks M_scales
// Scales of activations and of the KV cache are not looked at.
#pragma once
#include "topology/tensors.h"

struct quant;

// Of a model without quantisation, and of a GGUF: one that finds plain tensors only. Lives in `a`.
// ERR_MODEL with one sentence: unknown method, value that is not allowed, key that contradicts.
err_t quant_open(const struct tensors *t, struct arena *a, struct quant **out,
                 struct err_text *why);
void quant_close(struct quant *q);
// "gptq int4", "NVFP4", ...; NULL when the model is not quantised by its config.
const char *quant_words(const struct quant *q);

struct quant_want {
    const char *module; // "model.layers.0.mlp.down_proj"
    int64_t n;          // matrices in one tensor, outermost dimension; else 1
    int64_t rows, cols; // of one matrix, as (out, in), before any split into slots
    bool transposed;    // each matrix lies (in, out) in its file: plain tensors only
};

// The fields of struct model_weight with these names.
struct quant_found {
    enum source_kind kind;
    struct model_source source;
    enum dtype dtype; // in memory; columns that do not fit a block type: F32
    uint8_t bits;
    bool zero_is_plus_one, global_divides;
    int32_t block_rows, block_cols; // of integers (0 and) the columns of one scale
};

// By one thread at a time. ERR_NOT_FOUND (why untouched): no tensor of this module at all.
// ERR_MODEL: one is missing, has another type or shape, or contradicts the config.
err_t quant_find(const struct quant *q, const struct tensors *t, const struct quant_want *want,
                 struct quant_found *out, struct err_text *why);
// Equal but for the tensors: one weight can be made of both.
bool quant_same(const struct quant_found *a, const struct quant_found *b);
