#include "worker/pooler.h"

#include <math.h>
#include <string.h>

void pooler_carve(struct pooler *p, uint32_t n_slot, int32_t dim, struct mem_carver *carver)
{
    p->dim = (size_t)dim;
    p->slots = mem_carve(carver, n_slot, sizeof *p->slots);
    p->sums = mem_carve(carver, (uint64_t)n_slot * p->dim, sizeof *p->sums);
}

void pooler_bind(struct pooler *p, const struct step_bind *b)
{
    p->slots[b->slot] = (struct pooler_slot){.kind = b->pooling};
    if (b->pooling) memset(p->sums + b->slot * p->dim, 0, p->dim * sizeof *p->sums);
}

err_t pooler_check_row(const struct pooler *p, const struct step_row *r,
                       const struct step_bind *bind, struct err_text *why)
{
    const struct pooler_slot slot =
        bind ? (struct pooler_slot){.kind = bind->pooling} : p->slots[r->slot];
    const bool needs_all = slot.kind == POOLING_MEAN || slot.kind == POOLING_FIRST;
    if (r->flags & ROW_POOL && !slot.kind)
        return err_say(why, ERR_LINK_PROTOCOL, "step: slot %u has no vector", r->slot);
    if (!needs_all || r->pos == slot.n_seen) return OK;
    return err_say(why, ERR_LINK_PROTOCOL, "step: position %u of slot %u after %u others", r->pos,
                   r->slot, slot.n_seen);
}

struct pooler_part pooler_part_of(const struct pooler *p, const struct step_row *r)
{
    switch (p->slots[r->slot].kind) {
    case POOLING_LAST:
        return (struct pooler_part){r->flags & ROW_POOL ? r->n_tok - 1 : r->n_tok, r->n_tok};
    case POOLING_MEAN:
        return (struct pooler_part){0, r->n_tok};
    case POOLING_FIRST:
        return (struct pooler_part){0, r->pos == 0};
    default:
        return (struct pooler_part){0, 0};
    }
}

struct pooler_part pooler_take(struct pooler *p, const struct step_row *r)
{
    p->slots[r->slot].n_seen = r->pos + r->n_tok;
    return pooler_part_of(p, r);
}

void pooler_add(struct pooler *p, uint32_t slot, const float *h, uint32_t n)
{
    double *sum = p->sums + slot * p->dim;
    for (uint32_t i = 0; i < n; i++, h += p->dim)
        for (size_t k = 0; k < p->dim; k++)
            sum[k] += (double)h[k];
}

bool pooler_give(const struct pooler *p, uint32_t slot, float *out)
{
    const struct pooler_slot *s = &p->slots[slot];
    const double *sum = p->sums + slot * p->dim, n = s->kind == POOLING_MEAN ? s->n_seen : 1;
    bool ok = true;
    for (size_t k = 0; k < p->dim; k++) {
        out[k] = (float)(sum[k] / n);
        ok &= isfinite(out[k]) != 0;
    }
    if (!ok) memset(out, 0, p->dim * sizeof *out);
    return ok;
}
