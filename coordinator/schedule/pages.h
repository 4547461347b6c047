// pages: who holds which KV page and which snapshot, and which of them hold what. Numbers only; the
// bytes are the stages'. Three pools (pool.h): pages of layers that see everything, pages of layers
// that see a window or chunk (local), snapshots of recurrent state.
//
// A full page whose tokens were committed can be listed in the prefix cache and is then found by
// its tokens and everything before them. To a listed page others can be attached: the local page of
// the same tokens, and a snapshot of the state after its last one. A listed page is kept by itself,
// what is attached by the page it is attached to; each pool gives up its own idle ones when it
// needs room, the oldest first. A listed page that goes lets go of what is attached to it.
//
// Invariants (pages_check): those of the pools; listed are exactly the pages kept, each in its hash
// bucket; what a page has attached is kept by it, and nothing else is kept.
//
// A page is listed under (tenant, id of the listed page before it, its tokens). Ids are never used
// twice and all three are compared, so a hash collision costs a comparison and never gives wrong
// content. A page is given back after the pages that follow it, so an unused prefix is lost from
// its end.
//
// What is given back may be taken for a later step at once, even while older steps that use it are
// on their way: every stage runs steps in order.
#pragma once
#include "coordinator/schedule/pool.h"

enum pages_kind { PAGES_GLOBAL, PAGES_LOCAL, PAGES_SNAPSHOT, PAGES_KINDS };

struct pages_config {
    uint32_t n[PAGES_KINDS]; // PAGES_GLOBAL at least 1
    uint32_t page_tok;
    bool cache;
};

struct pages_entry;
struct pages {
    struct pool pool[PAGES_KINDS];
    uint32_t page_tok;
    // prefix cache; NULL without
    struct pages_entry *entry; // (n_page)
    int32_t *ids;              // (n_page, page_tok) tokens of listed pages
    uint32_t *bucket;          // (mask + 1) first page
    uint32_t mask;
    uint64_t last_id;
};

// Where one is in a chain of pages: `last` is the id of the listed page before the next one.
struct pages_key {
    uint64_t tenant;
    uint64_t last; // 0: at the start
};

// Takes its memory from the arena and lives as long. ERR_MEMORY.
err_t pages_init(struct pages *p, struct arena *a, const struct pages_config *c);
// How many of a kind can be taken now.
static inline uint32_t pages_room(const struct pages *p, enum pages_kind kind)
{
    return pool_room(&p->pool[kind]);
}
// One of a kind, one reference. False: none left.
bool pages_take(struct pages *p, enum pages_kind kind, uint32_t *got);
static inline void pages_hold(struct pages *p, enum pages_kind kind, uint32_t i)
{
    pool_hold(&p->pool[kind], i);
}
static inline void pages_give(struct pages *p, enum pages_kind kind, uint32_t i, bool is_spare)
{
    pool_give(&p->pool[kind], i, is_spare);
}

// The page that follows `k` and holds ids (page_tok); k moves on. POOL_NONE: there is none.
uint32_t pages_find(const struct pages *p, struct pages_key *k, const int32_t *ids);
// What a listed page has attached, or POOL_NONE.
uint32_t pages_attached(const struct pages *p, uint32_t page, enum pages_kind kind);
// Lists a held page as the one that follows `k`; k moves on. Returns the page that will be found:
// if an equal one is listed already, that one stays. Only with a cache.
uint32_t pages_list(struct pages *p, struct pages_key *k, const int32_t *ids, uint32_t page);
// Attaches what is held and not attached elsewhere to a listed page. False: it has one already.
bool pages_attach(struct pages *p, uint32_t page, enum pages_kind kind, uint32_t i);
// No longer to be found, nor what is attached (its bytes may be bad).
void pages_unlist(struct pages *p, uint32_t page);

// NULL, or which invariant is broken. For tests: linear.
const char *pages_check(const struct pages *p);
