#include "coordinator/schedule/pages.h"

#include <string.h>

struct pages_entry {
    uint64_t id; // 0: not listed
    uint64_t before, tenant, hash;
    uint32_t next;                  // in the bucket
    uint32_t attached[PAGES_KINDS]; // PAGES_GLOBAL: not used
};

static const struct pages_entry unlisted = {.attached = {POOL_NONE, POOL_NONE, POOL_NONE}};

static err_t init_cache(struct pages *p, struct arena *a)
{
    uint32_t n_page = p->pool[PAGES_GLOBAL].n, n_bucket = 16;
    while (n_bucket < n_page && n_bucket < 1u << 30)
        n_bucket *= 2;
    p->mask = n_bucket - 1;
    p->entry = arena_take_n(a, n_page, sizeof *p->entry);
    p->ids = arena_take_n(a, (size_t)n_page * p->page_tok, sizeof *p->ids);
    p->bucket = arena_take_n(a, n_bucket, sizeof *p->bucket);
    if (!p->entry || !p->ids || !p->bucket) return ERR_MEMORY;
    for (uint32_t i = 0; i < n_page; i++)
        p->entry[i] = unlisted;
    memset(p->bucket, 0xff, n_bucket * sizeof *p->bucket);
    return OK;
}

err_t pages_init(struct pages *p, struct arena *a, const struct pages_config *c)
{
    struct pages n = {.page_tok = c->page_tok};
    for (int kind = 0; kind < PAGES_KINDS; kind++)
        if (pool_init(&n.pool[kind], a, c->n[kind])) return ERR_MEMORY;
    err_t e = c->cache ? init_cache(&n, a) : OK;
    if (!e) *p = n;
    return e;
}

// -- the list --

// Takes a page off the list; the pool knows already, or does not need to.
static void unlist(struct pages *p, uint32_t page)
{
    struct pages_entry *e = &p->entry[page];
    uint32_t *at = &p->bucket[e->hash & p->mask];
    while (*at != page) {
        BUG_ON(*at == POOL_NONE);
        at = &p->entry[*at].next;
    }
    *at = e->next;
    for (int kind = PAGES_LOCAL; kind < PAGES_KINDS; kind++)
        if (e->attached[kind] != POOL_NONE) pool_release(&p->pool[kind], e->attached[kind]);
    *e = unlisted;
}

bool pages_take(struct pages *p, enum pages_kind kind, uint32_t *got)
{
    uint32_t keeper;
    if (!pool_take(&p->pool[kind], got, &keeper)) return false;
    if (keeper == POOL_NONE) return true;
    if (kind == PAGES_GLOBAL)
        unlist(p, *got);
    else
        p->entry[keeper].attached[kind] = POOL_NONE;
    return true;
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
    for (uint32_t i = p->bucket[hash & p->mask]; i != POOL_NONE; i = p->entry[i].next) {
        const struct pages_entry *e = &p->entry[i];
        if (e->hash == hash && e->before == k->last && e->tenant == k->tenant &&
            !memcmp(p->ids + (size_t)i * p->page_tok, ids, p->page_tok * sizeof *ids))
            return i;
    }
    return POOL_NONE;
}

uint32_t pages_find(const struct pages *p, struct pages_key *k, const int32_t *ids)
{
    if (!p->entry) return POOL_NONE;
    uint32_t got = lookup(p, k, ids, key_hash(p, k, ids));
    if (got != POOL_NONE) k->last = p->entry[got].id;
    return got;
}

uint32_t pages_attached(const struct pages *p, uint32_t page, enum pages_kind kind)
{
    return p->entry[page].attached[kind];
}

uint32_t pages_list(struct pages *p, struct pages_key *k, const int32_t *ids, uint32_t page)
{
    BUG_ON(p->entry[page].id);
    uint64_t hash = key_hash(p, k, ids);
    uint32_t found = lookup(p, k, ids, hash);
    if (found == POOL_NONE) {
        uint32_t *first = &p->bucket[hash & p->mask];
        struct pages_entry *e = &p->entry[page];
        *e = unlisted;
        e->id = ++p->last_id;
        e->before = k->last;
        e->tenant = k->tenant;
        e->hash = hash;
        e->next = *first;
        memcpy(p->ids + (size_t)page * p->page_tok, ids, p->page_tok * sizeof *ids);
        *first = found = page;
        pool_keep(&p->pool[PAGES_GLOBAL], page, page);
    }
    k->last = p->entry[found].id;
    return found;
}

bool pages_attach(struct pages *p, uint32_t page, enum pages_kind kind, uint32_t i)
{
    BUG_ON(!p->entry[page].id);
    if (p->entry[page].attached[kind] != POOL_NONE) return false;
    pool_keep(&p->pool[kind], i, page);
    p->entry[page].attached[kind] = i;
    return true;
}

void pages_unlist(struct pages *p, uint32_t page)
{
    if (!p->entry || !p->entry[page].id) return;
    unlist(p, page);
    pool_release(&p->pool[PAGES_GLOBAL], page);
}

// -- check --

static const char *check_entry(const struct pages *p, uint32_t page, uint32_t *n_attached)
{
    const struct pages_entry *e = &p->entry[page];
    const uint32_t keeper = pool_keeper(&p->pool[PAGES_GLOBAL], page);
    if (e->id ? keeper != page : keeper != POOL_NONE) return "listed is not kept";
    for (int kind = PAGES_LOCAL; kind < PAGES_KINDS; kind++) {
        if (e->attached[kind] == POOL_NONE) continue;
        if (!e->id) return "something is attached to a page that is not listed";
        if (pool_keeper(&p->pool[kind], e->attached[kind]) != page)
            return "what is attached is not kept by its page";
        n_attached[kind]++;
    }
    return NULL;
}

static const char *check_cache(const struct pages *p)
{
    uint32_t n_listed = 0, n = 0, n_attached[PAGES_KINDS] = {0};
    for (uint32_t i = 0; i < p->pool[PAGES_GLOBAL].n; i++) {
        const char *e = check_entry(p, i, n_attached);
        if (e) return e;
        n_listed += p->entry[i].id != 0;
    }
    for (uint32_t b = 0; b <= p->mask; b++)
        for (uint32_t i = p->bucket[b]; i != POOL_NONE; i = p->entry[i].next) {
            if (!p->entry[i].id || (p->entry[i].hash & p->mask) != b) return "bucket: wrong page";
            if (++n > p->pool[PAGES_GLOBAL].n) return "bucket: a cycle";
        }
    if (n != n_listed) return "buckets: a listed page is missing";
    for (int kind = PAGES_LOCAL; kind < PAGES_KINDS; kind++)
        for (uint32_t i = 0; i < p->pool[kind].n; i++)
            n_attached[kind] -= pool_keeper(&p->pool[kind], i) != POOL_NONE;
    return n_attached[PAGES_LOCAL] || n_attached[PAGES_SNAPSHOT] ? "something is kept by nobody"
                                                                 : NULL;
}

const char *pages_check(const struct pages *p)
{
    for (int kind = 0; kind < PAGES_KINDS; kind++) {
        const char *e = pool_check(&p->pool[kind]);
        if (e) return e;
    }
    return p->entry ? check_cache(p) : NULL;
}
