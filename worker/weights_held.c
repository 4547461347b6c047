#include "worker/source.h"
#include "worker/weights_priv.h"

enum { OTHERS_MAX = 4 }; // parts besides the layers

static bool is_dense(const struct stage_config *c)
{
    return share_is_dense(&c->share, c->share.member);
}

// Whether the embedding table is held for the rows that enter, not for the output alone.
static bool embeds(const struct stage_config *c)
{
    return c->embed || c->mtp;
}

// The other parts a stage needs besides its layers. A tied head is the embedding table; what
// predicts the token after the next embeds the next.
static int32_t other_parts(const struct stage_config *c, int32_t out[OTHERS_MAX])
{
    int32_t n = 0;
    if (!is_dense(c)) return 0;
    if (embeds(c) || (c->head && c->model->shape.tied_head)) out[n++] = PART_EMBED;
    if (c->head) out[n++] = PART_HEAD;
    if (c->mtp) out[n++] = PART_MTP;
    out[n++] = PART_SHARED;
    return n;
}

int32_t weights_n_part(const struct stage_config *c)
{
    int32_t others[OTHERS_MAX];
    return (int32_t)(c->layer_to - c->layer_from) + other_parts(c, others);
}

int32_t weights_part_id(const struct stage_config *c, int32_t i)
{
    int32_t others[OTHERS_MAX] = {0};
    const int32_t n_layer = (int32_t)(c->layer_to - c->layer_from);
    other_parts(c, others);
    return i < n_layer ? (int32_t)c->layer_from + i : others[i - n_layer];
}

static const struct model_layer *layer_of(const struct stage_config *c,
                                          const struct model_weight *w)
{
    if (w->part == PART_MTP) return &c->model->shape.mtp;
    return w->part >= 0 ? &c->model->shape.layers[w->part] : NULL;
}

// What the weight is for here: a tied table that nobody embeds with is an output matrix.
static enum slot slot_of(const struct stage_config *c, const struct model_weight *w)
{
    return w->slot == SLOT_EMBED && !embeds(c) ? SLOT_HEAD : w->slot;
}

struct share_range weights_rows(const struct stage_config *c, const struct model_weight *w)
{
    const struct share *s = &c->share;
    const struct model_layer *layer = layer_of(c, w);
    const enum slot slot = slot_of(c, w);
    const enum share_axis axis = share_axis_of(&c->model->shape, layer, slot, s->split);
    if (axis != SHARE_EXPERTS && !is_dense(c)) return (struct share_range){0, 0};
    if (axis == SHARE_WHOLE || axis == SHARE_EXPERTS)
        return (struct share_range){0, source_n_row(w)};
    return share_of(s, s->member, &c->model->shape, layer, slot);
}

bool weights_is_by_expert(const struct stage_config *c, const struct model_weight *w)
{
    return share_axis_of(&c->model->shape, layer_of(c, w), w->slot, c->share.split) ==
           SHARE_EXPERTS;
}

bool weights_holds(const struct stage_config *c, const struct model_weight *w, int64_t i)
{
    return !weights_is_by_expert(c, w) ||
           share_owns(&c->share, c->share.member, w->part, (int32_t)i, (int32_t)w->n);
}

err_t weights_each(const struct stage_config *c, weights_each_fn *fn, void *arg)
{
    const int32_t n_part = weights_n_part(c);
    err_t e = OK;
    for (int32_t x = 0; x < c->model->n_weight && !e; x++) {
        const struct model_weight *w = &c->model->weights[x];
        bool is_mine = false;
        for (int32_t i = 0; i < n_part && !is_mine; i++)
            is_mine = weights_part_id(c, i) == w->part;
        if (!is_mine) continue;
        const struct share_range r = weights_rows(c, w);
        for (int64_t i = 0; i < w->n && r.from < r.to && !e; i++)
            if (weights_holds(c, w, i)) e = fn(arg, w, i, r.from, r.to - r.from);
    }
    return e;
}
