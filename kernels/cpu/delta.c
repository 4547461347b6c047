// delta: the gated delta rule. The columns of a head's state know nothing of each other, so blocks
// of them are the shares; a share walks its run token after token.
#include "kernels/cpu/cpu.h"

struct delta_call {
    struct cpu *c;
    const struct delta_args *a;
    int32_t n_block; // of LEAF_DELTA columns, in one head
};

static void delta_item(void *arg, int32_t item, int32_t thread)
{
    const struct delta_call *call = arg;
    const struct delta_args *a = call->a;
    const int32_t at = item % call->n_block * LEAF_DELTA, i = item / call->n_block;
    const int32_t h = i % a->n_head_v, r = i / a->n_head_v;
    const int32_t hk = a->tiled ? h % a->n_head_k : h / (a->n_head_v / a->n_head_k);
    const int64_t tok = a->runs[r].tok_from, ld_out = (int64_t)a->n_head_v * a->dim_v;
    const struct leaf_delta l = {
        .q = a->q + tok * a->ld + (int64_t)hk * a->dim_k,
        .k = a->k + tok * a->ld + (int64_t)hk * a->dim_k,
        .v = a->v + tok * a->ld + (int64_t)h * a->dim_v + at,
        .a = a->a + tok * a->n_head_v + h,
        .b = a->b + tok * a->n_head_v + h,
        .a_neg = a->a_neg[h],
        .dt_bias = a->dt_bias[h],
        .state = a->state + a->slots[r] * a->state_ld + (int64_t)h * a->dim_k * a->dim_v + at,
        .out = a->out + tok * ld_out + (int64_t)h * a->dim_v + at,
        .ld = a->ld,
        .ld_ab = a->n_head_v,
        .ld_state = a->dim_v,
        .ld_out = ld_out,
        .dim_k = a->dim_k,
        .n = a->dim_v - at < LEAF_DELTA ? a->dim_v - at : LEAF_DELTA,
        .n_tok = a->runs[r].n_tok,
        .scratch = call->c->scratch[thread]->delta,
    };
    call->c->isa->delta(&l);
}

void delta_run(struct kernels *k, const struct delta_args *a)
{
    struct cpu *c = cpu_of(k);
    struct delta_call call = {c, a, (a->dim_v + LEAF_DELTA - 1) / LEAF_DELTA};
    BUG_ON(a->dim_k < 1 || a->dim_k > DELTA_K_MAX || a->n_head_v % a->n_head_k);
    pool_run(c->pool, a->n_run * a->n_head_v * call.n_block, delta_item, &call);
}
