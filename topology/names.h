// names: from a name to its place in a table in O(1). Open addressing; the hash has a random base,
// so that nobody can prepare names that collide.
#pragma once
#include "proto/base/err.h"
#include <stdbool.h>

struct names {
    uint32_t *slots; // place + 1, 0: empty
    uint64_t mask;   // number of slots - 1
    uint64_t base;
    // Name number `i` of the table, not NUL-terminated.
    const char *(*name_at)(const void *table, uint32_t i, uint64_t *len);
    const void *table;
};

// Empty, with room for n names (n < 2^31). ERR_MEMORY, ERR_SYSTEM (no random bytes).
err_t names_init(struct names *x, const void *table,
                 const char *(*name_at)(const void *table, uint32_t i, uint64_t *len), uint64_t n);
void names_fini(struct names *x);
// Adds name number i of the table; false if the name is there already. At most n names.
bool names_add(struct names *x, uint32_t i);
// Place in the table, or -1.
int64_t names_find(const struct names *x, const char *name, uint64_t len);
