#include "worker/layer.h"

void layer_ffn(struct pass *p, const struct part *w, int32_t index, int32_t layer)
{
    (void)index; // no state of its own
    (void)layer; // all layers alike
    struct kernels *k = p->k;
    const struct kernels_ops *op = k->ops;
    const struct model_shape *s = p->shape;

    // h = norm(x); gate, up = h Wg, h Wu
    op->rms_norm(k, p->x, part_vector(w, SLOT_FFN_NORM), p->n_tok, s->dim, s->norm_eps, p->h);
    const struct gemm_job wide[] = {
        {.w = part_matrix(w, SLOT_FFN_GATE), .y = p->gate, .ldy = s->ffn_dim},
        {.w = part_matrix(w, SLOT_FFN_UP), .y = p->up, .ldy = s->ffn_dim},
    };
    op->gemm(k, p->h, p->n_tok, s->dim, wide, 2);

    // x += norm((act(gate) up) Wd)
    op->glu(k, p->arch->glu, p->gate, p->up, (int64_t)p->n_tok * s->ffn_dim, p->gate);
    const struct gemm_job down = {.w = part_matrix(w, SLOT_FFN_DOWN), .y = p->h, .ldy = s->dim};
    op->gemm(k, p->gate, p->n_tok, s->ffn_dim, &down, 1);
    const float *post = part_vector(w, SLOT_FFN_POST_NORM); // (dim)
    if (post) op->rms_norm(k, p->h, post, p->n_tok, s->dim, s->norm_eps, p->h);
    op->add(k, p->x, p->h, (int64_t)p->n_tok * s->dim);
}
