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

static void add_norm_rows(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    const struct add_norm *a = arg;
    for (int64_t i = from; i < to; i++) {
        float *x = a->x + i * a->dim, *y = a->y ? a->y + i * a->dim : NULL;
        if (y && a->more) c->isa->add(y, a->more + i * a->dim, a->dim);
        if (y && a->post) c->isa->rms_norm(y, a->post, a->dim, a->eps, y);
        if (y && a->scale != 1) c->isa->scale(y, a->scale, a->dim);
        if (y) c->isa->add(x, y, a->dim);
        if (a->out) c->isa->rms_norm(x, a->w, a->dim, a->eps, a->out + i * a->dim);
    }
}

void norm_add(struct kernels *k, const struct add_norm *a, int64_t n_row)
{
    struct add_norm args = *a;
    cpu_for(cpu_of(k), n_row, (1 << 14) / (int64_t)a->dim, add_norm_rows, &args);
}
