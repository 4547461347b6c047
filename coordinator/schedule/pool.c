#include "coordinator/schedule/pool.h"

struct pool_item {
    uint32_t ref, keeper;
    uint32_t older, newer; // among the idle
    bool is_spare;
};

err_t pool_init(struct pool *p, struct arena *a, uint32_t n)
{
    struct pool q = {.n = n, .n_free = n, .oldest = POOL_NONE, .newest = POOL_NONE};
    q.free = arena_take_n(a, n, sizeof *q.free);
    q.items = arena_take_n(a, n, sizeof *q.items);
    if (!q.free || !q.items) return ERR_MEMORY;
    for (uint32_t i = 0; i < n; i++) {
        // The lowest number is taken first: a quiet system touches little memory.
        q.free[i] = n - 1 - i;
        q.items[i] = (struct pool_item){.keeper = POOL_NONE};
    }
    *p = q;
    return OK;
}

static void idle_add(struct pool *p, uint32_t i, bool is_spare)
{
    struct pool_item *it = &p->items[i];
    it->is_spare = is_spare;
    it->older = is_spare ? POOL_NONE : p->newest;
    it->newer = is_spare ? p->oldest : POOL_NONE;
    if (it->older == POOL_NONE)
        p->oldest = i;
    else
        p->items[it->older].newer = i;
    if (it->newer == POOL_NONE)
        p->newest = i;
    else
        p->items[it->newer].older = i;
    p->n_idle++;
}

static void idle_remove(struct pool *p, uint32_t i)
{
    const struct pool_item *it = &p->items[i];
    if (it->older == POOL_NONE)
        p->oldest = it->newer;
    else
        p->items[it->older].newer = it->newer;
    if (it->newer == POOL_NONE)
        p->newest = it->older;
    else
        p->items[it->newer].older = it->older;
    p->n_idle--;
}

bool pool_has_spare(const struct pool *p)
{
    return p->n_free || (p->n_idle && p->items[p->oldest].is_spare);
}

bool pool_take(struct pool *p, uint32_t *got, uint32_t *keeper)
{
    uint32_t i;
    if (p->n_free) {
        i = p->free[--p->n_free];
    } else if (p->n_idle) {
        i = p->oldest;
        idle_remove(p, i);
    } else {
        return false;
    }
    *keeper = p->items[i].keeper;
    *got = i;
    p->items[i].keeper = POOL_NONE;
    p->items[i].ref = 1;
    return true;
}

void pool_hold(struct pool *p, uint32_t i)
{
    struct pool_item *it = &p->items[i];
    BUG_ON(i >= p->n || (!it->ref && it->keeper == POOL_NONE));
    if (!it->ref++) idle_remove(p, i);
}

void pool_give(struct pool *p, uint32_t i, bool is_spare)
{
    BUG_ON(i >= p->n || !p->items[i].ref);
    if (--p->items[i].ref) return;
    if (p->items[i].keeper != POOL_NONE)
        idle_add(p, i, is_spare);
    else
        p->free[p->n_free++] = i;
}

void pool_keep(struct pool *p, uint32_t i, uint32_t keeper)
{
    BUG_ON(i >= p->n || !p->items[i].ref || p->items[i].keeper != POOL_NONE);
    p->items[i].keeper = keeper;
}

void pool_release(struct pool *p, uint32_t i)
{
    struct pool_item *it = &p->items[i];
    BUG_ON(i >= p->n || it->keeper == POOL_NONE);
    it->keeper = POOL_NONE;
    if (it->ref) return;
    idle_remove(p, i);
    p->free[p->n_free++] = i;
}

uint32_t pool_keeper(const struct pool *p, uint32_t i)
{
    return p->items[i].keeper;
}

uint32_t pool_refs(const struct pool *p, uint32_t i)
{
    return p->items[i].ref;
}

const char *pool_check(const struct pool *p)
{
    uint32_t n_held = 0, n = 0, older = POOL_NONE;
    for (uint32_t i = 0; i < p->n; i++)
        n_held += p->items[i].ref > 0;
    if (n_held + p->n_free + p->n_idle != p->n) return "free + idle + held is not all";
    for (uint32_t i = 0; i < p->n_free; i++) {
        uint32_t f = p->free[i];
        if (f >= p->n || p->items[f].ref || p->items[f].keeper != POOL_NONE)
            return "free list: something that is held or kept";
    }
    for (uint32_t i = p->oldest; i != POOL_NONE; i = p->items[i].newer, n++) {
        const struct pool_item *it = &p->items[i];
        if (it->older != older) return "idle list: links disagree";
        if (it->ref || it->keeper == POOL_NONE) return "idle list: something held or not kept";
        if (n == p->n) return "idle list: a cycle";
        older = i;
    }
    return n == p->n_idle ? NULL : "idle list: wrong count";
}
