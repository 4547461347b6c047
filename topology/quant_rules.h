// quant_rules: a quantization_config as rules; used by quant*.c only.
#pragma once
#include "topology/pattern.h"
#include "topology/quant.h"

// How a module's tensors are laid out. A rule allows some of them.
enum {
    LAYOUT_GPTQ = 1,
    LAYOUT_AWQ = 2,
    LAYOUT_CT_INT = 4,
    LAYOUT_INT8 = 8,
    LAYOUT_FP8 = 16,
    LAYOUT_NVFP4 = 32,
    LAYOUT_MXFP4 = 64
};

struct quant_scheme {
    uint8_t layouts; // 0: not quantised
    uint8_t bits;    // of integers
    bool symmetric, act_order, zero_is_plus_one, global_divides;
    int32_t group;                  // columns of one scale of integers, -1: all
    int32_t block_rows, block_cols; // of FP8, 0: not in blocks
    bool blocks_assumed;            // the config does not say: one scale will do too
};

// In the order in which they are tried: exact names first (names.h), then patterns.
struct quant_rule {
    const char *name;        // without prefixes; NULL where pattern is set
    struct pattern *pattern; // or NULL
    bool any_prefix;         // what comes before the bare name does not matter to the pattern
    struct quant_scheme scheme;
};

struct quant {
    const char *path;  // for sentences
    const char *words; // NULL: no quantisation
    struct quant_rule *rules;
    int32_t n_rule;
    struct names by_name;          // of rules with a name
    struct quant_scheme otherwise; // of modules that no rule names
    uint64_t *steps_left;          // of matching patterns; questions are asked by one thread
};

// A module's or a config's name without "model.", "language_model." before it.
const char *quant_bare_name(const char *name);
// The scheme of a module; ERR_MODEL when matching its name takes too long.
err_t quant_rules_find(const struct quant *q, const char *module, struct quant_scheme *out,
                       struct err_text *why);
