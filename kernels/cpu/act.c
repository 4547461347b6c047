// act: element-wise operations. Shares begin at multiples of 8, so vectors fall alike; it would not
// matter, since every element stands alone.
#include "kernels/cpu/cpu.h"

enum { ACT_GRAIN = 1 << 13, ADD_GRAIN = 1 << 15 };

struct act_call {
    const struct glu *kind;
    const float *a, *b;
    float *out;
    float s;
    int32_t dim; // of rows
};

static void glu_range(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    const struct act_call *g = arg;
    c->isa->glu(g->kind, g->a + from, g->b + from, to - from, g->out + from);
}

void act_glu(struct kernels *k, const struct glu *kind, const float *gate, const float *up,
             int64_t n, float *out)
{
    struct act_call g = {.kind = kind, .a = gate, .b = up, .out = out};
    cpu_for(cpu_of(k), n, ACT_GRAIN, glu_range, &g);
}

static void gate_range(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    const struct act_call *g = arg;
    c->isa->gate(g->out + from, g->a + from, to - from);
}

void act_gate(struct kernels *k, float *x, const float *gate, int64_t n)
{
    struct act_call g = {.a = gate, .out = x};
    cpu_for(cpu_of(k), n, ACT_GRAIN, gate_range, &g);
}

static void gate_rows_range(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    const struct act_call *g = arg;
    for (int64_t i = from; i < to; i++) {
        float s;
        c->isa->sigmoid(g->a + i, 1, &s);
        c->isa->scale(g->out + i * g->dim, s, g->dim);
    }
}

void act_gate_rows(struct kernels *k, float *x, const float *gate, int32_t n_tok, int32_t dim)
{
    struct act_call g = {.a = gate, .out = x, .dim = dim};
    cpu_for(cpu_of(k), n_tok, ADD_GRAIN / dim, gate_rows_range, &g);
}

static void scale_rows_range(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    const struct act_call *g = arg;
    for (int64_t i = from; i < to; i++)
        c->isa->scale(g->out + i * g->dim, g->a[i], g->dim);
}

void act_scale_rows(struct kernels *k, float *x, const float *s, int32_t n_tok, int32_t dim)
{
    struct act_call g = {.a = s, .out = x, .dim = dim};
    cpu_for(cpu_of(k), n_tok, ADD_GRAIN / dim, scale_rows_range, &g);
}

static void add_range(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    const struct act_call *g = arg;
    c->isa->add(g->out + from, g->a + from, to - from);
}

void act_add(struct kernels *k, float *x, const float *y, int64_t n)
{
    struct act_call g = {.a = y, .out = x};
    cpu_for(cpu_of(k), n, ADD_GRAIN, add_range, &g);
}

static void scale_range(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    const struct act_call *g = arg;
    c->isa->scale(g->out + from, g->s, to - from);
}

void act_scale(struct kernels *k, float *x, float s, int64_t n)
{
    struct act_call g = {.out = x, .s = s};
    cpu_for(cpu_of(k), n, ADD_GRAIN, scale_range, &g);
}

static void softcap_range(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    const struct act_call *g = arg;
    c->isa->softcap(g->out + from, g->s, to - from);
}

void act_softcap(struct kernels *k, float *x, float cap, int64_t n)
{
    struct act_call g = {.out = x, .s = cap};
    cpu_for(cpu_of(k), n, ACT_GRAIN, softcap_range, &g);
}
