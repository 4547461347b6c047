// blas on the host: a kernel with a thread for each number.
#include "kernels/cuda/blas.h"

#include <stdlib.h>

struct blas {
    struct device *device;
};

err_t blas_open(struct device *d, struct blas **out, struct err_text *why)
{
    struct blas *b = (struct blas *)calloc(1, sizeof *b);
    if (!b) return err_say(why, ERR_MEMORY, "no memory");
    b->device = d;
    *out = b;
    return OK;
}

void blas_close(struct blas *b)
{
    free(b);
}

static __global__ void product(struct blas_call c)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (int64_t)c.n_tok * c.rows) return;
    const __nv_bfloat16 *x = (const __nv_bfloat16 *)c.x + i / c.rows * c.cols;
    const __nv_bfloat16 *w = (const __nv_bfloat16 *)c.w + i % c.rows * c.cols;
    float sum = 0;
    for (int k = 0; k < c.cols; k++)
        sum += __bfloat162float(x[k]) * __bfloat162float(w[k]);
    c.y[i / c.rows * c.ldy + i % c.rows] = sum * c.factor;
}

bool blas_run(struct blas *b, const struct blas_call *call)
{
    LAUNCH(product, (unsigned)(((int64_t)call->n_tok * call->rows + 31) / 32), 32, 0,
           device_stream(b->device), *call);
    return true;
}
