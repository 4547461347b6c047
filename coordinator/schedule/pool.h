// pool: numbers 0 .. n - 1 that are taken and given back, counted with sharing. What its last
// holder gives back is free, or, where somebody keeps it, idle: it stays as it is until the room is
// needed.
//
// What was taken up again after it lay idle has proven itself: it goes after all that has not, so
// that what is used once does not push out what is used again and again. Only half of the pool may
// be idle so; the longest idle of it counts as unproven then.
//
//   free --take--> held --give--> free            (nobody keeps it)
//                   ^  `--give--> idle            (kept)
//                   |              |  |
//                   +----hold------+  +--take (oldest first)--> held, no longer kept
//
// What is given as spare, and has not proven itself, becomes the oldest: it is the first to go.
#pragma once
#include "proto/base/arena.h"

static const uint32_t POOL_NONE = UINT32_MAX;

struct pool_item;
struct pool_idle {
    uint32_t n, oldest, newest;
};
struct pool {
    uint32_t n, n_free, n_idle;
    uint32_t *free; // stack
    struct pool_item *items;
    struct pool_idle idle[2]; // what has not proven itself, what has
};

// Takes its memory from the arena and lives as long. n may be 0. ERR_MEMORY.
err_t pool_init(struct pool *p, struct arena *a, uint32_t n);
// What can be taken now.
static inline uint32_t pool_room(const struct pool *p)
{
    return p->n_free + p->n_idle;
}
// Something can be taken that is free or was given as spare.
bool pool_has_spare(const struct pool *p);
// One number, one reference; `keeper` tells who kept it, POOL_NONE if nobody did. False: none left.
bool pool_take(struct pool *p, uint32_t *got, uint32_t *keeper);
void pool_hold(struct pool *p, uint32_t i); // one more reference, of what is held or idle
void pool_give(struct pool *p, uint32_t i, bool is_spare);
void pool_keep(struct pool *p, uint32_t i, uint32_t keeper); // of what is held, and not kept yet
void pool_release(struct pool *p, uint32_t i);               // nobody keeps it any more
uint32_t pool_keeper(const struct pool *p, uint32_t i);      // POOL_NONE: nobody
uint32_t pool_refs(const struct pool *p, uint32_t i);

// NULL, or which invariant is broken. For tests: linear.
const char *pool_check(const struct pool *p);
