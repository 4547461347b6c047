// arch_weights: which tensors of a file fill which slots of a model.
#pragma once
#include "topology/arch.h"
#include "topology/quant.h"
#include "topology/shape.h"

struct opening {
    struct model *m;
    const struct arch *arch;
    struct arch_needs needs;
    struct config config;
    // the model's files and how they are quantised; of shape:NAME only `made`
    const struct tensors *t;
    const struct quant *quant;
    const struct shape *made;
    const char *prefix; // before "layers.N." and "embed_tokens": "model."
    bool *used;         // of each tensor: some weight is made of it
    struct model_weight *weights;
    int32_t n_weight;
    struct err_text *why;
};

struct arch_text {
    char s[200];
};

// Finds how this file's names begin. No error if nothing fits: what is missing will be named.
void arch_find_prefix(struct opening *o);
// A tensor or module as this file calls it. `number`: of the matrix in a stack.
struct arch_text arch_name_in_file(const struct opening *o, int32_t part, const char *text,
                                   int32_t number);
// The plain tensor that a slot of layer or part would be read from, or NULL.
const struct model_tensor *arch_find_tensor(const struct opening *o, int32_t part, enum slot slot);
// The file has an output matrix of its own.
bool arch_has_head(const struct opening *o);
// Fills o->weights by part, then slot. ERR_MODEL.
err_t arch_fill(struct opening *o);
// What nothing was made of: refused where it would change the result, else one warning.
err_t arch_check_rest(const struct opening *o);
