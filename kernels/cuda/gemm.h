// gemm: which kernel does a product, and what the kernels need besides (cuda.h has the operations).
#pragma once
#include "kernels/cuda/blas.h"
#include "kernels/cuda/product.h"

enum {
    GEMM_PANEL_BYTES = 64 << 20, // of weights expanded to bf16 at a time
    GEMM_LARGE = 128,            // rows of x from which expanding the weights pays
    GEMM_SPLIT_MAX = 8
};

// Rows of x as products take them: x, or glu(x, up) where up is not NULL.
struct gemm_rows {
    const float *x, *up;
    struct op_glu glu;
};

// Where whoever writes rows of x puts them for the products that come next as well, so that they
// need not be made ready: the two terms of each as bf16, 8 bytes for four neighbours.
struct gemm_next {
    uint2 *xq, *xr; // NULL: not wanted
    int32_t ldq;    // in 8 bytes
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
    unsigned *few; // FEW_STATE
    struct {       // what lies in xq and xr by gemm_next
        const float *x;
        int64_t n;
        int32_t cols;
        uint64_t when; // n_given when it was written
    } ready;
};

// What ffn.cu makes its parts of.
bool gemm_is_exact(const struct cuda *c, enum dtype t);
// The products of gemm; rows that are not x alone only where they are made ready beforehand: more
// than THIN_TOK, and no job is exact.
void gemm_jobs(struct cuda *c, const struct gemm_rows *rows, int32_t n_tok, int32_t cols,
               const struct gemm_job *jobs, int32_t n_job);
// Arguments of a job on x (.., cols), and of the products of a stack.
struct product_args gemm_args(const struct view *w, const float *x, int64_t ldx, int32_t cols);
void gemm_add_job(struct product_args *p, const struct gemm_job *job);
struct product_args gemm_stack_args(const struct view *w, const float *x, int64_t ldx);
struct product_args gemm_expert_args(const struct expert_gemm *e);
void gemm_number_blocks(struct product_args *p, int32_t rows);
// Cuts the products of experts into tiles of at most `most`: how many there may be at most.
int32_t gemm_find_tiles(struct cuda *c, const struct expert_gemm *e, int32_t most,
                        struct product_args *p);
// How many products of experts go by the kernel of few rows.
bool gemm_is_few(const struct cuda *c, const struct expert_gemm *e);
// Experts by the matrix units, many rows: n_x rows are made ready; and the products.
void gemm_ready(struct cuda *c, const struct gemm_rows *rows, int64_t n, int32_t cols,
                bool is_fine);
// For n rows; and that they are written, by what was given to the stream last.
struct gemm_next gemm_next_of(struct cuda *c, int64_t n, int32_t cols);
void gemm_next_is(struct cuda *c, const float *x, int64_t n, int32_t cols);
// Where four neighbours number i of a row lie (gemm.cu: prepare).
static __device__ __forceinline__ int64_t gemm_next_at(const struct gemm_next &next, int64_t row,
                                                       int i)
{
    const int unit = i / 16, of = i % 16; // pair, half of it, lane
    return row * next.ldq + unit * 16 + of / 8 * 8 + of % 4 * 2 + of / 4 % 2;
}
void gemm_wide(struct cuda *c, enum dtype t, struct product_args *p, int32_t n_z);

// quant.cu: rows [row_from, row_from + n_row) of w (rows, cols) as bf16, row after row; row_from is
// a multiple of 16.
void quant_expand(struct cuda *c, const struct view *w, int64_t row_from, int64_t n_row, void *out);
struct form_levels quant_levels(enum dtype t);
