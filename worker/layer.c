#include "worker/layer.h"

#include <string.h>

static layer_fn *const mixers[] = {
    [MIXER_ATTN] = layer_attn,
    [MIXER_MLA] = layer_mla,
    [MIXER_DELTA] = layer_delta,
};
static layer_fn *const ffns[] = {
    [FFN_DENSE] = layer_ffn,
    [FFN_MOE] = layer_moe,
};

void layer_mix(struct pass *p, const struct part *w, int32_t index, const struct model_layer *kind)
{
    mixers[kind->mixer](p, w, index, kind);
}

void layer_run(struct pass *p, const struct part *w, int32_t index, const struct model_layer *kind)
{
    layer_mix(p, w, index, kind);
    ffns[kind->ffn](p, w, index, kind);
    if (p->watch && p->watch->hidden) p->watch->hidden(p->watch->arg, w->id, p->n_tok, p->x);
}

// -- work space --

struct kinds {
    bool attn, mla, delta, ffn, moe;
};

static void add_kind(struct kinds *k, const struct model_layer *l)
{
    k->attn |= l->mixer == MIXER_ATTN;
    k->mla |= l->mixer == MIXER_MLA;
    k->delta |= l->mixer == MIXER_DELTA;
    k->ffn |= l->ffn == FFN_DENSE;
    k->moe |= l->ffn == FFN_MOE;
}

// Every kind starts at the same place; the largest decides where the next piece begins. But that of
// experts lies behind the others where rows may be at their experts while others are at attention
// (stage_halves). Owners of experts need no other.
void layer_carve(struct pass *p, const struct pass_limits *l, struct mem_carver *c)
{
    const struct model_shape *s = l->shape;
    struct kinds k = {0};
    for (int32_t i = 0; i < s->n_layer; i++)
        add_kind(&k, &s->layers[i]);
    if (s->has_mtp) add_kind(&k, &s->mtp);
    if (!share_is_dense(l->share, l->share->member)) k = (struct kinds){.moe = k.moe};

    struct mem_carver each[4] = {*c, *c, *c, *c}, moe = *c;
    if (k.attn) layer_attn_carve(&p->attn, l, &each[0]);
    if (k.mla) layer_mla_carve(&p->mla, l, &each[1]);
    if (k.delta) layer_delta_carve(&p->delta, l, &each[2]);
    if (k.ffn) layer_ffn_carve(&p->ffn, l, &each[3]);
    for (int i = 0; i < 4; i++)
        if (each[i].used > c->used) c->used = each[i].used;
    if (l->share->split == SPLIT_EXPERTS) moe = *c;
    if (k.moe) layer_moe_carve(&p->moe, l, &moe);
    if (moe.used > c->used) c->used = moe.used;
}

// -- what the kinds share --

void layer_project(struct kernels *k, float *ordered, const float *x, int32_t n_tok, int32_t cols,
                   const struct projection *list, int32_t n)
{
    struct gemm_job jobs[PROJECTIONS_MAX];
    int32_t n_job = 0;
    for (int32_t i = 0; i < n; i++) {
        const struct projection *one = &list[i];
        const struct gemm_job job = {.w = &one->w->view,
                                     .bias = one->bias,
                                     .y = one->y,
                                     .ldy = one->ld ? one->ld : one->rows,
                                     .fine = one->fine};
        if (one->rows == 0) continue;
        if (!one->w->order) {
            jobs[n_job++] = job;
            continue;
        }
        k->ops->gather(k, x, one->w->order, n_tok, cols, ordered);
        k->ops->gemm(k, ordered, n_tok, cols, &job, 1);
    }
    if (n_job) k->ops->gemm(k, x, n_tok, cols, jobs, n_job);
}

void layer_columns(float *dst, int64_t dst_stride, const float *src, int64_t src_stride,
                   int64_t n_row, int64_t n)
{
    for (int64_t i = 0; i < n_row; i++)
        memcpy(dst + i * dst_stride, src + i * src_stride, (size_t)n * sizeof *dst);
}

void layer_norm(struct pass *p, const struct part *w, enum slot norm)
{
    const struct model_shape *s = p->shape;
    p->k->ops->rms_norm(p->k, p->x, part_vector(w, norm), p->n_tok, s->dim, s->norm_eps, p->h);
}

void layer_add(struct pass *p, const struct part *w, enum slot post_norm, float *y)
{
    const struct kernels_ops *op = p->k->ops;
    const struct model_shape *s = p->shape;
    const int64_t n = (int64_t)p->n_tok * s->dim;
    const float *post = part_vector(w, post_norm); // (dim)
    if (post) op->rms_norm(p->k, y, post, p->n_tok, s->dim, s->norm_eps, y);
    if (s->residual_scale != 1) op->scale(p->k, y, s->residual_scale, n);
    op->add(p->k, p->x, y, n);
}

struct glu layer_glu(const struct model_shape *s)
{
    static const enum glu_kind kinds[] = {
        [ACT_SILU] = GLU_SILU,
        [ACT_GELU_TANH] = GLU_GELU_TANH,
        [ACT_GELU] = GLU_GELU,
        [ACT_SWIGLU_OAI] = GLU_SWIGLU_OAI,
    };
    return (struct glu){.kind = kinds[s->act], .alpha = s->act_alpha, .limit = s->act_limit};
}

// -- members --

void layer_gather(struct pass *p, enum pass_cut cut, float *y)
{
    p->group->ops->gather(p->group, y, p->n_tok, pass_all(p, cut), p->cut[cut], -1);
}

void layer_out(struct pass *p, const struct projection *out, const float *x, int32_t cols,
               bool is_cut)
{
    struct projection mine = *out;
    mine.ld = mine.rows = p->shape->dim;
    if (is_cut) {
        const struct share_range r = pass_mine(p, CUT_DIM);
        mine.y += r.from;
        mine.rows = r.to - r.from;
    }
    layer_project(p->k, p->ordered, x, p->n_tok, cols, &mine, 1);
    if (is_cut && pass_gathers(p)) layer_gather(p, CUT_DIM, out->y);
}
