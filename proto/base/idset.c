#include "proto/base/idset.h"

#include <string.h>

enum { IDSET_BITS, IDSET_RUNS };

// The first id from `i` on whose bit is `value`, or n.
static uint32_t find_bit(const uint64_t *bits, uint32_t n, uint32_t i, bool value)
{
    while (i < n) {
        const uint64_t word = (value ? bits[i / 64] : ~bits[i / 64]) >> (i % 64);
        if (word) {
            i += (uint32_t)__builtin_ctzll(word);
            return i < n ? i : n;
        }
        i = (i / 64 + 1) * 64;
    }
    return n;
}

static size_t put_number(uint8_t *out, uint32_t v)
{
    size_t n = 0;
    for (; v >= 0x80; v >>= 7)
        out[n++] = (uint8_t)(v | 0x80);
    out[n++] = (uint8_t)v;
    return n;
}

// False: not a number below 2^32 in its shortest form.
static bool get_number(const uint8_t *set, size_t len, size_t *at, uint32_t *out)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 35 && *at < len; shift += 7) {
        const uint8_t byte = set[(*at)++];
        v |= (uint64_t)(byte & 0x7f) << shift;
        if (byte & 0x80) continue;
        *out = (uint32_t)v;
        return v <= UINT32_MAX && (byte || !shift);
    }
    return false;
}

// The set as runs, if that takes fewer bytes than `most`; else 0.
static size_t pack_runs(const uint64_t *bits, uint32_t n, uint8_t *out, size_t most)
{
    size_t len = 1;
    out[0] = IDSET_RUNS;
    for (uint32_t at = 0; at < n;) {
        const uint32_t from = find_bit(bits, n, at, true), to = find_bit(bits, n, from, false);
        if (from == n) break;
        if (len + 10 > most) return 0; // two numbers take no more
        len += put_number(out + len, from - at);
        len += put_number(out + len, to - from);
        at = to;
    }
    return len;
}

size_t idset_pack(const uint64_t *bits, uint32_t n, uint8_t *out)
{
    const size_t bound = idset_bound(n);
    size_t len = pack_runs(bits, n, out, bound);
    if (len) return len;
    out[0] = IDSET_BITS;
    len = 1;
    for (uint32_t i = 0; i < n; i += 8) {
        uint8_t byte = (uint8_t)(bits[i / 64] >> (i % 64));
        if (n - i < 8) byte &= (uint8_t)((1u << (n - i)) - 1);
        out[len++] = byte;
    }
    while (len > 1 && !out[len - 1])
        len--;
    return len;
}

bool idset_next(struct idset_runs *r, uint32_t *from, uint32_t *to)
{
    if (r->set[0] == IDSET_RUNS) {
        uint32_t gap, n;
        if (!r->at) r->at = 1;
        if (r->at >= r->len || !get_number(r->set, r->len, &r->at, &gap) ||
            !get_number(r->set, r->len, &r->at, &n))
            return false;
        *from = r->next + gap;
        *to = r->next = *from + n;
        return true;
    }
    const uint8_t *bytes = r->set + 1;
    const uint32_t n = (uint32_t)(r->len - 1) * 8;
    uint32_t i = r->next;
    while (i < n && !(bytes[i / 8] >> (i % 8)))
        i = (i / 8 + 1) * 8;
    if (i >= n) return false;
    i += (uint32_t)__builtin_ctz(bytes[i / 8] >> (i % 8));
    *from = i;
    while (i < n && bytes[i / 8] >> (i % 8) & 1)
        i = i % 8 == 0 && bytes[i / 8] == 0xff ? i + 8 : i + 1;
    *to = r->next = i;
    return true;
}

static bool runs_ok(const uint8_t *set, size_t len, uint32_t n)
{
    uint64_t end = 0;
    for (size_t at = 1; at < len;) {
        uint32_t gap, run;
        if (!get_number(set, len, &at, &gap) || !get_number(set, len, &at, &run)) return false;
        if (run == 0 || (end && !gap)) return false;
        end += (uint64_t)gap + run;
        if (end > n) return false;
    }
    return end;
}

bool idset_ok(const uint8_t *set, size_t len, uint32_t n)
{
    if (len < 2 || len > IDSET_BYTES_MAX || set[0] > IDSET_RUNS) return false;
    if (set[0] == IDSET_RUNS) return runs_ok(set, len, n);
    // The last byte is the last with an id.
    const uint8_t last = set[len - 1];
    return last && (len - 2) * 8 + 31 - (unsigned)__builtin_clz(last) < n;
}

bool idset_has(const uint8_t *set, size_t len, uint32_t id)
{
    if (set[0] == IDSET_BITS) return id / 8 + 1 < len && set[1 + id / 8] >> (id % 8) & 1;
    struct idset_runs r = {.set = set, .len = len};
    uint32_t from, to;
    while (idset_next(&r, &from, &to))
        if (id < to) return id >= from;
    return false;
}
