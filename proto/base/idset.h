// idset: a set of token ids in few bytes, as it travels with a step: which ids may be drawn. The
// first byte says how the rest is written, whichever is shorter:
//
//   0  a bit per id, lowest first (id i: byte 1 + i / 8, bit i % 8)
//   1  lengths of runs, LEB128: of ids that are not in the set (may be 0), of ids that are, of ids
//      that are not, ...; every run but the first has at least one id
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    IDSET_BYTES_MAX = 1 << 16, // of one set
    IDSET_IDS_MAX = (IDSET_BYTES_MAX - 1) * 8,
};

// Bytes that a set of ids below n takes at most.
static inline size_t idset_bound(uint32_t n)
{
    return 1 + ((size_t)n + 7) / 8;
}
// bits: (n + 63) / 64 words, bit i % 64 of word i / 64 is id i; bits from n on are ignored.
// n <= IDSET_IDS_MAX. Returns the length; out has room for idset_bound(n).
size_t idset_pack(const uint64_t *bits, uint32_t n, uint8_t *out);
// Well-formed, holds an id, and none from n on.
bool idset_ok(const uint8_t *set, size_t len, uint32_t n);

// Goes through a well-formed set as runs of ids, ascending. Zero-initialise all but set and len.
struct idset_runs {
    const uint8_t *set;
    size_t len;
    size_t at;     // bytes, or of bits: ids looked at
    uint32_t next; // id
};
// Ids [*from, *to) are in the set. False: no more.
bool idset_next(struct idset_runs *r, uint32_t *from, uint32_t *to);
bool idset_has(const uint8_t *set, size_t len, uint32_t id);
