// arena: memory that lives and dies together (one per request, one per step, one per message).
// Bump allocation in chunks; a budget bounds what outside bytes can make us allocate.
// Not thread-safe: one owner at a time.
#pragma once
#include "proto/base/err.h"
#include <stdbool.h>

struct arena_chunk;
struct arena {
    struct arena_chunk *chunks; // newest first
    size_t used_bytes;          // handed out so far
    size_t max_bytes;           // budget; 0: none
};

// Never fails; allocates nothing until the first take.
void arena_init(struct arena *a, size_t max_bytes);
// Gives everything back to the system.
void arena_fini(struct arena *a);
// Forgets all contents, keeps the largest chunk: the steady state allocates nothing.
void arena_reset(struct arena *a);

// `bytes` of zeroed memory aligned to 16, or NULL when the budget or the system refuses.
// A take of 0 bytes returns a valid, unique-enough pointer.
void *arena_take(struct arena *a, size_t bytes);
// n * size with the overflow checked.
void *arena_take_n(struct arena *a, size_t n, size_t size);
// Copies; the result of arena_copy_str has a NUL after it (len may hold NULs inside).
void *arena_copy(struct arena *a, const void *p, size_t bytes);
char *arena_copy_str(struct arena *a, const char *s, size_t len);
char *arena_printf(struct arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
