#include "topology/names.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static uint64_t chunk_at(const char *s, uint64_t n)
{
    uint64_t v = 0;
    memcpy(&v, s, n);
    return v;
}

// Polynomial over 2^61-1 with a random base: two names agree with probability < length / 2^61.
static uint64_t hash_of(const struct names *x, const char *s, uint64_t len)
{
    const uint64_t prime = ((uint64_t)1 << 61) - 1;
    uint64_t h = len + 1;
    for (uint64_t i = 0; i < len; i += 7) {
        unsigned __int128 v =
            (unsigned __int128)h * x->base + chunk_at(s + i, len - i < 7 ? len - i : 7);
        uint64_t folded = (uint64_t)(v & prime) + (uint64_t)(v >> 61);
        h = folded >= prime ? folded - prime : folded;
    }
    return h * 0x9e3779b97f4a7c15 >> 20; // spreads the low bits, which choose the slot
}

// Place of that name in the table, or -1; *slot is where it is or belongs.
static int64_t find(const struct names *x, const char *s, uint64_t len, uint64_t *slot)
{
    for (uint64_t at = hash_of(x, s, len) & x->mask;; at = (at + 1) & x->mask) {
        uint64_t other_len;
        *slot = at;
        if (!x->slots[at]) return -1;
        const char *other = x->name_at(x->table, x->slots[at] - 1, &other_len);
        if (other_len == len && memcmp(other, s, len) == 0) return x->slots[at] - 1;
    }
}

err_t names_init(struct names *x, const void *table,
                 const char *(*name_at)(const void *table, uint32_t i, uint64_t *len), uint64_t n)
{
    uint64_t n_slot = 16, base;
    while (n_slot < 2 * n)
        n_slot *= 2;
    if (getrandom(&base, sizeof base, 0) != sizeof base) return ERR_SYSTEM;
    uint32_t *slots = calloc(n_slot, sizeof *slots);
    if (!slots) return ERR_MEMORY;
    *x = (struct names){.slots = slots,
                        .mask = n_slot - 1,
                        .base = base >> 4, // below the prime
                        .name_at = name_at,
                        .table = table};
    return OK;
}

void names_fini(struct names *x)
{
    free(x->slots);
    *x = (struct names){0};
}

bool names_add(struct names *x, uint32_t i)
{
    uint64_t slot, len;
    const char *name = x->name_at(x->table, i, &len);
    if (find(x, name, len, &slot) >= 0) return false;
    x->slots[slot] = i + 1;
    return true;
}

int64_t names_find(const struct names *x, const char *name, uint64_t len)
{
    uint64_t slot;
    return x->slots ? find(x, name, len, &slot) : -1;
}
