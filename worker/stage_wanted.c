#include "worker/stage_priv.h"

// The head is all that looks at what the last layer leaves, and it asks about few tokens of a
// prompt. A group's members would have to agree on them, a watch and the prediction head see all.
static bool may_narrow(const struct stage *s)
{
    const struct stage_config *c = &s->config;
    return c->head && !c->mtp && !s->pass.group && !s->pass.watch;
}

void stage_find_wanted(struct stage *s, const struct step *st)
{
    struct pass *p = &s->pass;
    p->wanted = NULL;
    if (!may_narrow(s)) return;
    int32_t n = head_wanted(&s->head, st, s->wanted);
    if (n == 0) s->wanted[n++] = p->n_tok - 1; // so that no operation is asked for no rows
    if (n == p->n_tok) return;
    p->wanted = s->wanted;
    p->n_wanted = n;
}

void stage_run_last(struct stage *s, const struct part *w, int32_t index,
                    const struct model_layer *kind)
{
    struct pass *p = &s->pass;
    const int32_t n_tok = p->n_tok, dim = p->shape->dim;
    p->narrows = p->wanted;
    layer_run(p, w, index, kind);
    p->narrows = NULL;
    // Back to their places, the last ones first: so many at once that none is overwritten unread.
    for (int32_t i = p->wanted ? p->n_wanted : 0, k; i > 0; i -= k) {
        const int32_t by = p->wanted[i - 1] - (i - 1);
        for (k = 1; k < by && k < i && p->wanted[i - 1 - k] - (i - 1 - k) == by;)
            k++;
        if (by)
            p->k->ops->copy(p->k, p->x + (int64_t)p->wanted[i - k] * dim, dim,
                            p->x + (int64_t)(i - k) * dim, dim, k, dim);
    }
    p->n_tok = n_tok;
}
