// ffn: whole feed-forward parts, dense and of experts, out of their products.
#include "kernels/cpu/cpu.h"

void ffn_run(struct kernels *k, const struct ffn *f, int32_t n_tok)
{
    struct gemm_job in[3] = {f->gate, f->up};
    if (f->beside) in[2] = *f->beside;
    gemm_run(k, f->x, n_tok, f->cols, in, f->beside ? 3 : 2);
    const int64_t middle = f->gate.w->shape[0];
    act_glu(k, &f->glu, f->gate.y, f->up.y, n_tok * middle, f->gate.y);
    if (f->down.w) gemm_run(k, f->gate.y, n_tok, (int32_t)middle, &f->down, 1);
}

static struct expert_gemm product_of(const struct expert_ffn *f, const struct expert_stack *s,
                                     float *y)
{
    return (struct expert_gemm){.w = s->w,
                                .factors = s->factors,
                                .bias = s->bias,
                                .x = f->x,
                                .n = f->n,
                                .n_x = f->n_x,
                                .row = f->row,
                                .expert = f->expert,
                                .y = y};
}

void ffn_run_experts(struct kernels *k, const struct expert_ffn *f)
{
    const struct expert_gemm in[2] = {product_of(f, &f->gate, f->middle[0]),
                                      product_of(f, &f->up, f->middle[1])};
    struct expert_gemm down = product_of(f, &f->down, f->y);
    gemm_run_experts_of(k, in, 2);
    act_glu(k, &f->glu, f->middle[0], f->middle[1], f->n * f->gate.w->shape[1], f->middle[0]);
    if (!down.w) return;
    down.x = f->middle[0];
    down.n_x = f->n;
    down.row = f->seq;
    gemm_run_experts(k, &down);
    if (f->out)
        moe_combine(k, f->y, f->at, f->weights, f->n_tok, f->n_used, (int32_t)f->down.w->shape[1],
                    f->out);
}
