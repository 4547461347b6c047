// blas: over cuBLASLt (CUDA 12 and later).
#include "kernels/cuda/blas.h"
#include "proto/base/log.h"

#include <cublasLt.h>
#include <stdlib.h>

enum { BLAS_WORKSPACE = 32 << 20, BLAS_SHAPES = 64 };

// A shape seen before, with the way the library chose for it.
struct blas_shape {
    int64_t ldy;
    int32_t rows, n_tok, cols;
    uint32_t align; // bytes, of every row of y
    bool is_refused;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulAlgo_t algo;
};

struct blas {
    struct device *device;
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    void *workspace;
    struct blas_shape shapes[BLAS_SHAPES];
    int32_t n_shape, next;
};

static void forget(struct blas_shape *s)
{
    if (s->w) cublasLtMatrixLayoutDestroy(s->w);
    if (s->x) cublasLtMatrixLayoutDestroy(s->x);
    if (s->y) cublasLtMatrixLayoutDestroy(s->y);
    *s = {};
}

void blas_close(struct blas *b)
{
    if (!b) return;
    for (int32_t i = 0; i < b->n_shape; i++)
        forget(&b->shapes[i]);
    if (b->desc) cublasLtMatmulDescDestroy(b->desc);
    if (b->handle) cublasLtDestroy(b->handle);
    if (b->workspace) device_give(b->device, b->workspace);
    free(b);
}

err_t blas_open(struct device *d, struct blas **out, struct err_text *why)
{
    struct blas *b = (struct blas *)calloc(1, sizeof *b);
    if (!b) return err_say(why, ERR_MEMORY, "cuda: no memory");
    b->device = d;
    err_t e = device_take(d, BLAS_WORKSPACE, "products", &b->workspace, why);
    if (e) {
        blas_close(b);
        return e;
    }
    if (device_is_counter(d)) {
        *out = b;
        return OK;
    }
    const cublasOperation_t turn = CUBLAS_OP_T;
    cublasStatus_t s = cublasLtCreate(&b->handle);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulDescCreate(&b->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulDescSetAttribute(b->desc, CUBLASLT_MATMUL_DESC_TRANSA, &turn,
                                           sizeof turn);
    if (s != CUBLAS_STATUS_SUCCESS) {
        blas_close(b);
        return err_say(why, ERR_DEVICE, "cuda: cuBLASLt: %s", cublasLtGetStatusString(s));
    }
    *out = b;
    return OK;
}

// Column by column, as the library sees it, y^T (rows, n_tok) = w^T' (rows, cols) * x^T (cols,
// n_tok).
static cublasStatus_t choose(struct blas *b, struct blas_shape *s)
{
    cublasLtMatmulPreference_t p = NULL;
    cublasLtMatmulHeuristicResult_t best;
    const size_t most = BLAS_WORKSPACE;
    int n = 0;
    cublasStatus_t e = cublasLtMatrixLayoutCreate(&s->w, CUDA_R_16BF, (uint64_t)s->cols,
                                                  (uint64_t)s->rows, s->cols);
    if (!e)
        e = cublasLtMatrixLayoutCreate(&s->x, CUDA_R_16BF, (uint64_t)s->cols, (uint64_t)s->n_tok,
                                       s->cols);
    if (!e)
        e = cublasLtMatrixLayoutCreate(&s->y, CUDA_R_32F, (uint64_t)s->rows, (uint64_t)s->n_tok,
                                       s->ldy);
    if (!e) e = cublasLtMatmulPreferenceCreate(&p);
    if (!e)
        e = cublasLtMatmulPreferenceSetAttribute(p, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most,
                                                 sizeof most);
    if (!e)
        e = cublasLtMatmulPreferenceSetAttribute(p, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                                                 &s->align, sizeof s->align);
    if (!e)
        e = cublasLtMatmulPreferenceSetAttribute(p, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
                                                 &s->align, sizeof s->align);
    if (!e)
        e = cublasLtMatmulAlgoGetHeuristic(b->handle, b->desc, s->w, s->x, s->y, s->y, p, 1, &best,
                                           &n);
    if (p) cublasLtMatmulPreferenceDestroy(p);
    if (!e && n == 0) e = CUBLAS_STATUS_NOT_SUPPORTED;
    if (!e) s->algo = best.algo;
    return e;
}

static struct blas_shape *shape_of(struct blas *b, const struct blas_call *c)
{
    const uint32_t align = (uintptr_t)c->y % 16 == 0 && c->ldy % 4 == 0 ? 16 : 4;
    for (int32_t i = 0; i < b->n_shape; i++) {
        struct blas_shape *s = &b->shapes[i];
        if (s->rows == c->rows && s->n_tok == c->n_tok && s->cols == c->cols && s->ldy == c->ldy &&
            s->align == align)
            return s;
    }
    struct blas_shape *s = &b->shapes[b->next];
    b->next = (b->next + 1) % BLAS_SHAPES;
    if (b->n_shape < BLAS_SHAPES) b->n_shape++;
    forget(s);
    s->rows = c->rows;
    s->n_tok = c->n_tok;
    s->cols = c->cols;
    s->ldy = c->ldy;
    s->align = align;
    const cublasStatus_t e = choose(b, s);
    s->is_refused = e != CUBLAS_STATUS_SUCCESS;
    if (s->is_refused)
        log_warn("cuda: cuBLASLt has no product (%d, %d) x (%d, %d): %s; own kernels do it",
                 (int)c->n_tok, (int)c->cols, (int)c->rows, (int)c->cols,
                 cublasLtGetStatusString(e));
    return s;
}

bool blas_run(struct blas *b, const struct blas_call *c)
{
    const struct blas_shape *s = shape_of(b, c);
    const float zero = 0;
    if (s->is_refused) return false;
    const cublasStatus_t e = cublasLtMatmul(b->handle, b->desc, &c->factor, c->w, s->w, c->x, s->x,
                                            &zero, c->y, s->y, c->y, s->y, &s->algo, b->workspace,
                                            BLAS_WORKSPACE, device_stream(b->device));
    if (e != CUBLAS_STATUS_SUCCESS)
        log_warn("cuda: cuBLASLt: %s; own kernels do the product", cublasLtGetStatusString(e));
    return e == CUBLAS_STATUS_SUCCESS;
}
