// act: element-wise operations. Shares begin at multiples of 8, so vectors fall alike; it would not
// matter, since every element stands alone.
#include "kernels/cpu/cpu.h"

enum { ACT_GRAIN = 1 << 13, ADD_GRAIN = 1 << 15 };

struct act_call {
    enum glu_kind kind;
    const float *a, *b;
    float *out;
    float s;
};

static void glu_range(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    const struct act_call *g = arg;
    c->isa->glu(g->kind, g->a + from, g->b + from, to - from, g->out + from);
}

void act_glu(struct kernels *k, enum glu_kind kind, const float *gate, const float *up, int64_t n,
             float *out)
{
    struct act_call g = {.kind = kind, .a = gate, .b = up, .out = out};
    cpu_for(cpu_of(k), n, ACT_GRAIN, glu_range, &g);
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
