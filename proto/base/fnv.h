// fnv: FNV-1a in 64 bits (Fowler, Noll, Vo): for tables and for telling texts apart, where nobody
// gains by two of one number.
#pragma once
#include <stddef.h>
#include <stdint.h>

static const uint64_t FNV_BEGIN = 0xcbf29ce484222325u;

// The hash of what `hash` is of, and s behind it.
static inline uint64_t fnv_add(uint64_t hash, const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ (uint8_t)s[i]) * 0x100000001b3u;
    return hash;
}
