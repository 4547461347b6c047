#include "coordinator/schedule/pool.h"

struct pool_item {
    uint32_t ref, keeper;
    uint32_t older, newer; // among the idle
    bool is_spare;
    bool is_proven; // it was taken up again
    bool is_second; // among the proven idle
};

err_t pool_init(struct pool *p, struct arena *a, uint32_t n)
{
    const struct pool_idle none = {.oldest = POOL_NONE, .newest = POOL_NONE};
    struct pool q = {.n = n, .n_free = n, .idle = {none, none}};
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

static void idle_link(struct pool *p, uint32_t i, bool is_second, bool is_spare)
{
    struct pool_item *it = &p->items[i];
    struct pool_idle *l = &p->idle[is_second];
    it->is_spare = is_spare;
    it->is_second = is_second;
    it->older = is_spare ? POOL_NONE : l->newest;
    it->newer = is_spare ? l->oldest : POOL_NONE;
    if (it->older == POOL_NONE)
        l->oldest = i;
    else
        p->items[it->older].newer = i;
    if (it->newer == POOL_NONE)
        l->newest = i;
    else
        p->items[it->newer].older = i;
    l->n++;
}

static void idle_unlink(struct pool *p, uint32_t i)
{
    const struct pool_item *it = &p->items[i];
    struct pool_idle *l = &p->idle[it->is_second];
    if (it->older == POOL_NONE)
        l->oldest = it->newer;
    else
        p->items[it->older].newer = it->newer;
    if (it->newer == POOL_NONE)
        l->newest = it->older;
    else
        p->items[it->newer].older = it->older;
    l->n--;
}

static void idle_add(struct pool *p, uint32_t i, bool is_spare)
{
    struct pool_idle *proven = &p->idle[1];
    const bool is_proven = p->items[i].is_proven;
    p->n_idle++;
    idle_link(p, i, is_proven, is_spare && !is_proven);
    if (proven->n <= p->n - p->n / 2) return;
    const uint32_t oldest = proven->oldest;
    idle_unlink(p, oldest);
    p->items[oldest].is_proven = false;
    idle_link(p, oldest, false, false);
}

static void idle_remove(struct pool *p, uint32_t i)
{
    idle_unlink(p, i);
    p->n_idle--;
}

bool pool_has_spare(const struct pool *p)
{
    return p->n_free || (p->idle[0].n && p->items[p->idle[0].oldest].is_spare);
}

bool pool_take(struct pool *p, uint32_t *got, uint32_t *keeper)
{
    uint32_t i;
    if (p->n_free) {
        i = p->free[--p->n_free];
    } else if (p->n_idle) {
        i = p->idle[p->idle[0].n ? 0 : 1].oldest;
        idle_remove(p, i);
    } else {
        return false;
    }
    *keeper = p->items[i].keeper;
    *got = i;
    p->items[i].keeper = POOL_NONE;
    p->items[i].ref = 1;
    p->items[i].is_proven = false;
    return true;
}

void pool_hold(struct pool *p, uint32_t i)
{
    struct pool_item *it = &p->items[i];
    BUG_ON(i >= p->n || (!it->ref && it->keeper == POOL_NONE));
    if (it->ref++) return;
    idle_remove(p, i);
    it->is_proven = true;
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
    if (!it->ref) idle_remove(p, i);
    it->is_proven = false;
    if (it->ref) return;
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

static const char *check_idle(const struct pool *p, bool is_second)
{
    const struct pool_idle *l = &p->idle[is_second];
    uint32_t n = 0, older = POOL_NONE;
    for (uint32_t i = l->oldest; i != POOL_NONE; i = p->items[i].newer, n++) {
        const struct pool_item *it = &p->items[i];
        if (it->older != older) return "idle list: links disagree";
        if (it->ref || it->keeper == POOL_NONE) return "idle list: something held or not kept";
        if (it->is_second != is_second || it->is_proven != is_second) return "the wrong idle list";
        if (n == p->n) return "idle list: a cycle";
        older = i;
    }
    return n == l->n ? NULL : "idle list: wrong count";
}

const char *pool_check(const struct pool *p)
{
    uint32_t n_held = 0;
    for (uint32_t i = 0; i < p->n; i++)
        n_held += p->items[i].ref > 0;
    if (n_held + p->n_free + p->n_idle != p->n) return "free + idle + held is not all";
    if (p->idle[0].n + p->idle[1].n != p->n_idle) return "idle lists: not all";
    for (uint32_t i = 0; i < p->n_free; i++) {
        uint32_t f = p->free[i];
        if (f >= p->n || p->items[f].ref || p->items[f].keeper != POOL_NONE)
            return "free list: something that is held or kept";
    }
    const char *e = check_idle(p, false);
    return e ? e : check_idle(p, true);
}
