#include "worker/penalty.h"

#include <string.h>

static uint32_t capacity(uint32_t ctx)
{
    uint32_t cap = 64;
    while (cap < 3 * (uint64_t)ctx)
        cap *= 2; // never full with 2 * ctx ids
    return cap;
}

uint64_t penalty_bytes(uint32_t n_slot, uint32_t ctx)
{
    return (uint64_t)n_slot * (capacity(ctx) * sizeof(struct penalty_entry) + sizeof(uint32_t));
}

err_t penalty_open(struct penalty *p, uint32_t n_slot, uint32_t ctx, struct err_text *why)
{
    *p = (struct penalty){.n_slot = n_slot, .cap = capacity(ctx)};
    err_t e = mem_take(penalty_bytes(n_slot, ctx), "penalty counts", &p->mem, why);
    if (e) return e;
    p->n_used = (uint32_t *)((struct penalty_entry *)p->mem.data + (uint64_t)n_slot * p->cap);
    return OK;
}

void penalty_close(struct penalty *p)
{
    mem_give(&p->mem);
}

static struct penalty_entry *table_of(const struct penalty *p, uint32_t slot)
{
    return (struct penalty_entry *)p->mem.data + (uint64_t)slot * p->cap;
}

void penalty_clear(struct penalty *p, uint32_t slot)
{
    if (!p->n_used[slot]) return;
    memset(table_of(p, slot), 0, p->cap * sizeof(struct penalty_entry));
    p->n_used[slot] = 0;
}

void penalty_add(struct penalty *p, uint32_t slot, int32_t id, bool is_generated)
{
    struct penalty_entry *t = table_of(p, slot);
    const uint32_t key = (uint32_t)id + 1;
    uint32_t at = key * 0x9E3779B1u & (p->cap - 1);
    while (t[at].key && t[at].key != key)
        at = (at + 1) & (p->cap - 1);
    if (!t[at].key) {
        BUG_ON(p->n_used[slot] + 1 >= p->cap);
        t[at].key = key;
        p->n_used[slot]++;
    }
    t[at].n_generated += is_generated;
}

int32_t penalty_next(const struct penalty *p, uint32_t slot, uint32_t *at)
{
    const struct penalty_entry *t = table_of(p, slot);
    while (*at < p->cap && p->n_used[slot]) {
        const uint32_t key = t[(*at)++].key;
        if (key) return (int32_t)key - 1;
    }
    return -1;
}

void penalty_apply(const struct penalty *p, uint32_t slot, const struct sampling *s, float *logits)
{
    const struct penalty_entry *t = table_of(p, slot);
    for (uint32_t i = 0; i < p->cap && p->n_used[slot]; i++) {
        if (!t[i].key) continue;
        float *l = &logits[t[i].key - 1];
        *l = *l > 0 ? *l / s->repetition : *l * s->repetition;
        if (t[i].n_generated) *l -= s->presence + s->frequency * (float)t[i].n_generated;
    }
}
