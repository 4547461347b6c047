// norm: RMS normalisation (Zhang and Sennrich 2019).
#include "kernels/cpu/cpu.h"

struct norm_call {
    const float *x, *w;
    float *y;
    int32_t dim;
    float eps;
};

static void norm_rows(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    const struct norm_call *n = arg;
    for (int64_t i = from; i < to; i++)
        c->isa->rms_norm(n->x + i * n->dim, n->w, n->dim, n->eps, n->y + i * n->dim);
}

void norm_rms(struct kernels *k, const float *x, const float *w, int64_t n_row, int32_t dim,
              float eps, float *y)
{
    struct norm_call n = {x, w, y, dim, eps};
    cpu_for(cpu_of(k), n_row, (1 << 14) / (int64_t)dim, norm_rows, &n);
}
