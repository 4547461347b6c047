// pages: who holds which KV page, and which pages hold which tokens. Page numbers only; the bytes
// are the stages'. A page has a reference count; a full page whose tokens were committed can be
// listed in the prefix cache and is then found by its tokens and everything before them.
//
//   free --take--> held --give--> free            (not listed)
//                   ^  `--give--> idle            (listed: stays until somebody needs the room)
//                   |              |  |
//                   +----find------+  +--take (oldest idle first)--> held, no longer listed
//
// Invariants (pages_check): free + idle + held = n_page; idle pages are exactly the listed ones
// without references; every listed page is in its hash bucket.
//
// A page is listed under (tenant, id of the listed page before it, its tokens). Ids are never used
// twice and all three are compared, so a hash collision costs a comparison and never gives wrong
// content. A page is given back after the pages that follow it, so an unused prefix is lost from
// its end.
//
// A page given back may be taken for a later step at once, even while older steps that use it are
// on their way: every stage runs steps in order.
#pragma once
#include "proto/base/arena.h"

struct pages_entry;
struct pages {
    uint32_t n_page, page_tok;
    uint32_t *ref;  // (n_page)
    uint32_t *free; // stack
    uint32_t n_free, n_idle;
    // prefix cache; NULL without
    struct pages_entry *entry; // (n_page)
    int32_t *ids;              // (n_page, page_tok) tokens of listed pages
    uint32_t *bucket;          // (mask + 1) first page
    uint32_t mask;
    uint32_t oldest, newest; // idle pages
    uint64_t last_id;
};

// Where one is in a chain of pages: `last` is the id of the listed page before the next one.
struct pages_key {
    uint64_t tenant;
    uint64_t last; // 0: at the start
};

// Takes its memory from the arena and lives as long. ERR_MEMORY.
err_t pages_init(struct pages *p, struct arena *a, uint32_t n_page, uint32_t page_tok, bool cache);
// Pages that can be taken now.
static inline uint32_t pages_room(const struct pages *p)
{
    return p->n_free + p->n_idle;
}
// One page, one reference. False: none left.
bool pages_take(struct pages *p, uint32_t *page);
// Gives one reference back.
void pages_give(struct pages *p, uint32_t page);

// The page that follows `k` and holds ids (page_tok): one more reference, k moves on.
bool pages_find(struct pages *p, struct pages_key *k, const int32_t *ids, uint32_t *page);
// Lists a held page as the one that follows `k`; k moves on. If an equal one is listed already,
// that one stays the one to be found.
void pages_list(struct pages *p, struct pages_key *k, const int32_t *ids, uint32_t page);
// No longer to be found (its bytes may be bad).
void pages_unlist(struct pages *p, uint32_t page);

// NULL, or which invariant is broken. For tests: linear.
const char *pages_check(const struct pages *p);
