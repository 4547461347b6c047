// blas: products of dense matrices, for many rows. blas.cu has cuBLASLt (NVIDIA's library), the
// host's build a kernel in its place (blas_host.cc).
#pragma once
#include "kernels/cuda/simt.h"
#include "kernels/cuda/device.h"

struct blas;

// y (n_tok, rows) = factor * x (n_tok, cols) w (rows, cols)^T, x and w bf16, y float with row
// stride ldy. cols is a multiple of 8.
struct blas_call {
    const void *w, *x;
    float *y;
    int64_t ldy;
    int32_t rows, n_tok, cols;
    float factor;
};

// ERR_DEVICE, ERR_MEMORY.
err_t blas_open(struct device *d, struct blas **out, struct err_text *why);
void blas_close(struct blas *b);
// False: the library will not; nothing was done.
bool blas_run(struct blas *b, const struct blas_call *call);
