// conv: short causal convolutions. Channels know nothing of each other, so they are the shares; a
// share walks its run token after token.
#include "kernels/cpu/cpu.h"

struct conv_call {
    const struct conv_args *a;
    int32_t n_block; // of LEAF_CONV channels
};

static void conv_blocks(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    const struct conv_call *call = arg;
    const struct conv_args *a = call->a;
    const int64_t ld = a->n_channel;
    for (int64_t i = from; i < to; i++) {
        const int64_t r = i / call->n_block, at = i % call->n_block * LEAF_CONV;
        const int64_t row = a->runs[r].tok_from * ld + at;
        const struct leaf_conv l = {
            .x = a->x + row,
            .w = a->w + at * a->n_tap,
            .bias = a->bias ? a->bias + at : NULL,
            .state = a->state + a->slots[r] * a->state_ld + at,
            .out = a->out + row,
            .ld = ld,
            .n = (int32_t)(ld - at < LEAF_CONV ? ld - at : LEAF_CONV),
            .n_tap = a->n_tap,
            .n_tok = a->runs[r].n_tok,
        };
        c->isa->conv(&l);
    }
}

void conv_run(struct kernels *k, const struct conv_args *a)
{
    struct conv_call call = {a, (a->n_channel + LEAF_CONV - 1) / LEAF_CONV};
    BUG_ON(a->n_tap < 2 || a->n_tap > CONV_TAPS_MAX);
    cpu_for(cpu_of(k), (int64_t)a->n_run * call.n_block, 4, conv_blocks, &call);
}
