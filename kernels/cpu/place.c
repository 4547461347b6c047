// place: what lies between the projections of a token and attention, out of its operations.
#include "kernels/cpu/cpu.h"

void place_run(struct kernels *k, const struct attn_place *a)
{
    const int64_t n_q = (int64_t)a->n_tok * a->n_head, n_k = (int64_t)a->n_tok * a->kv.n_head_kv;
    const int32_t dim = a->kv.head_dim;
    if (a->q_norm) norm_rms(k, a->q, a->q_norm, n_q, dim, a->eps, a->q);
    if (a->k_norm) norm_rms(k, a->key, a->k_norm, n_k, dim, a->eps, a->key);
    if (a->rope) {
        rope_turn(k, a->rope, a->cos_sin, a->n_tok, a->n_head, dim, a->q);
        rope_turn(k, a->rope, a->cos_sin, a->n_tok, a->kv.n_head_kv, dim, a->key);
    }
    if (a->is_unit) {
        norm_rms(k, a->q, NULL, n_q, dim, a->eps, a->q);
        norm_rms(k, a->key, NULL, n_k, dim, a->eps, a->key);
    }
    if (a->q_scale) act_scale_rows(k, a->q, a->q_scale, a->n_tok, a->n_head * dim);
    attn_kv_store(k, &a->kv, a->runs, a->n_run, a->key, a->value);
}
