// gemm: which kernel does a product, and what the kernels need besides (cuda.h has the operations).
#pragma once
#include "kernels/cuda/blas.h"
#include "kernels/cuda/product.h"

enum {
    GEMM_PANEL_BYTES = 64 << 20, // of weights expanded to bf16 at a time
    GEMM_LARGE = 128,            // rows of x from which expanding the weights pays
    GEMM_SPLIT_MAX = 8
};

struct cuda_gemm {
    struct blas *blas;
    uint4 *xq, *xr;    // rows of x as bf16, and what those miss
    int64_t xq_size;   // of each, in 16 bytes
    void *panel;       // GEMM_PANEL_BYTES
    float *partial;    // sums of blocks that share rows
    unsigned *arrived; // (n_shared) how many of them have come
    int32_t n_shared;  // blocks that can share
    int4 *tiles;       // (max_expert_rows)
    int32_t *n_list;
};

// quant.cu: rows [row_from, row_from + n_row) of w (rows, cols) as bf16, row after row; row_from is
// a multiple of 16.
void quant_expand(struct cuda *c, const struct view *w, int64_t row_from, int64_t n_row, void *out);
struct form_levels quant_levels(enum dtype t);
