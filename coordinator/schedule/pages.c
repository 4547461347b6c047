#include "coordinator/schedule/pages.h"

#include <string.h>

static const uint32_t NONE = UINT32_MAX;

struct pages_entry {
    uint64_t id; // 0: not listed
    uint64_t before, tenant, hash;
    uint32_t next;         // in the bucket
    uint32_t older, newer; // among the idle
};

err_t pages_init(struct pages *p, struct arena *a, uint32_t n_page, uint32_t page_tok, bool cache)
{
    struct pages n = {.n_page = n_page, .page_tok = page_tok, .n_free = n_page};
    n.oldest = n.newest = NONE;
    n.ref = arena_take_n(a, n_page, sizeof *n.ref);
    n.free = arena_take_n(a, n_page, sizeof *n.free);
    if (!n.ref || !n.free) return ERR_MEMORY;
    // The lowest number is taken first: a quiet system touches little KV memory.
    for (uint32_t i = 0; i < n_page; i++)
        n.free[i] = n_page - 1 - i;
    if (cache) {
        uint32_t n_bucket = 16;
        while (n_bucket < n_page && n_bucket < 1u << 30)
            n_bucket *= 2;
        n.mask = n_bucket - 1;
        n.entry = arena_take_n(a, n_page, sizeof *n.entry);
        n.ids = arena_take_n(a, (size_t)n_page * page_tok, sizeof *n.ids);
        n.bucket = arena_take_n(a, n_bucket, sizeof *n.bucket);
        if (!n.entry || !n.ids || !n.bucket) return ERR_MEMORY;
        memset(n.bucket, 0xff, n_bucket * sizeof *n.bucket);
    }
    *p = n;
    return OK;
}

static void idle_add(struct pages *p, uint32_t page)
{
    struct pages_entry *e = &p->entry[page];
    e->newer = NONE;
    e->older = p->newest;
    if (p->newest == NONE)
        p->oldest = page;
    else
        p->entry[p->newest].newer = page;
    p->newest = page;
    p->n_idle++;
}

static void idle_remove(struct pages *p, uint32_t page)
{
    struct pages_entry *e = &p->entry[page];
    if (e->older == NONE)
        p->oldest = e->newer;
    else
        p->entry[e->older].newer = e->newer;
    if (e->newer == NONE)
        p->newest = e->older;
    else
        p->entry[e->newer].older = e->older;
    p->n_idle--;
}

static void bucket_remove(struct pages *p, uint32_t page)
{
    uint32_t *at = &p->bucket[p->entry[page].hash & p->mask];
    while (*at != page) {
        BUG_ON(*at == NONE);
        at = &p->entry[*at].next;
    }
    *at = p->entry[page].next;
    p->entry[page].id = 0;
}

bool pages_take(struct pages *p, uint32_t *page)
{
    uint32_t got;
    if (p->n_free) {
        got = p->free[--p->n_free];
    } else if (p->n_idle) {
        got = p->oldest;
        idle_remove(p, got);
        bucket_remove(p, got);
    } else {
        return false;
    }
    p->ref[got] = 1;
    *page = got;
    return true;
}

void pages_give(struct pages *p, uint32_t page)
{
    BUG_ON(page >= p->n_page || !p->ref[page]);
    if (--p->ref[page]) return;
    if (p->entry && p->entry[page].id)
        idle_add(p, page);
    else
        p->free[p->n_free++] = page;
}

// Multiply and fold: every input bit reaches every output bit.
static uint64_t mix(uint64_t a, uint64_t b)
{
    unsigned __int128 m = (unsigned __int128)(a ^ 0x9e3779b97f4a7c15u) * (b ^ 0xd1b54a32d192ed03u);
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

static uint64_t key_hash(const struct pages *p, const struct pages_key *k, const int32_t *ids)
{
    uint64_t h = mix(k->tenant, k->last);
    for (uint32_t i = 0; i < p->page_tok; i++)
        h = mix(h + i, (uint32_t)ids[i]);
    return h;
}

static uint32_t lookup(const struct pages *p, const struct pages_key *k, const int32_t *ids,
                       uint64_t hash)
{
    for (uint32_t i = p->bucket[hash & p->mask]; i != NONE; i = p->entry[i].next) {
        const struct pages_entry *e = &p->entry[i];
        if (e->hash == hash && e->before == k->last && e->tenant == k->tenant &&
            !memcmp(p->ids + (size_t)i * p->page_tok, ids, p->page_tok * sizeof *ids))
            return i;
    }
    return NONE;
}

bool pages_find(struct pages *p, struct pages_key *k, const int32_t *ids, uint32_t *page)
{
    if (!p->entry) return false;
    uint32_t got = lookup(p, k, ids, key_hash(p, k, ids));
    if (got == NONE) return false;
    if (!p->ref[got]++) idle_remove(p, got);
    k->last = p->entry[got].id;
    *page = got;
    return true;
}

void pages_list(struct pages *p, struct pages_key *k, const int32_t *ids, uint32_t page)
{
    if (!p->entry) return;
    BUG_ON(page >= p->n_page || !p->ref[page] || p->entry[page].id);
    uint64_t hash = key_hash(p, k, ids);
    uint32_t same = lookup(p, k, ids, hash);
    if (same == NONE) {
        uint32_t *first = &p->bucket[hash & p->mask];
        p->entry[page] = (struct pages_entry){.id = ++p->last_id,
                                              .before = k->last,
                                              .tenant = k->tenant,
                                              .hash = hash,
                                              .next = *first};
        memcpy(p->ids + (size_t)page * p->page_tok, ids, p->page_tok * sizeof *ids);
        *first = same = page;
    }
    k->last = p->entry[same].id;
}

void pages_unlist(struct pages *p, uint32_t page)
{
    if (!p->entry || !p->entry[page].id) return;
    bucket_remove(p, page);
    if (p->ref[page]) return;
    idle_remove(p, page);
    p->free[p->n_free++] = page;
}

static const char *check_cache(const struct pages *p, uint32_t n_listed)
{
    uint32_t n = 0;
    for (uint32_t i = p->oldest, older = NONE; i != NONE; older = i, i = p->entry[i].newer) {
        if (p->entry[i].older != older) return "idle list: links disagree";
        if (p->ref[i] || !p->entry[i].id) return "idle list: a page that is held or not listed";
        if (++n > p->n_page) return "idle list: a cycle";
    }
    if (n != p->n_idle) return "idle list: wrong count";
    n = 0;
    for (uint32_t b = 0; b <= p->mask; b++)
        for (uint32_t i = p->bucket[b]; i != NONE; i = p->entry[i].next) {
            if (!p->entry[i].id || (p->entry[i].hash & p->mask) != b) return "bucket: wrong page";
            if (++n > p->n_page) return "bucket: a cycle";
        }
    return n == n_listed ? NULL : "buckets: a listed page is missing";
}

const char *pages_check(const struct pages *p)
{
    uint32_t n_held = 0, n_listed = 0;
    for (uint32_t i = 0; i < p->n_page; i++) {
        n_held += p->ref[i] > 0;
        n_listed += p->entry && p->entry[i].id;
    }
    if (n_held + p->n_free + p->n_idle != p->n_page) return "free + idle + held is not n_page";
    for (uint32_t i = 0; i < p->n_free; i++) {
        uint32_t page = p->free[i];
        if (page >= p->n_page || p->ref[page] || (p->entry && p->entry[page].id))
            return "free list: a page that is held or listed";
    }
    return p->entry ? check_cache(p, n_listed) : NULL;
}
