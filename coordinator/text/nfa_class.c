#include "coordinator/text/nfa.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void nfa_class_add(struct nfa *a, struct nfa_class *c, uint32_t lo, uint32_t hi)
{
    if (lo > hi || a->err) return;
    if (c->n == c->cap) {
        const uint32_t cap = c->cap ? 2 * c->cap : 8;
        struct nfa_range *at = cap <= NFA_CLASS_MAX ? nfa_take(a, cap, sizeof *at) : NULL;
        if (!at) {
            nfa_fail(a, ERR_TOO_LARGE, "a class of more than %d ranges of characters",
                     NFA_CLASS_MAX);
            return;
        }
        if (c->n) memcpy(at, c->at, c->n * sizeof *at);
        c->at = at;
        c->cap = cap;
    }
    c->at[c->n++] = (struct nfa_range){lo, hi};
}

static int by_lo(const void *x, const void *y)
{
    const struct nfa_range *a = x, *b = y;
    return a->lo < b->lo ? -1 : a->lo > b->lo;
}

void nfa_class_close(struct nfa_class *c)
{
    uint32_t n = 0;
    if (c->n) qsort(c->at, c->n, sizeof *c->at, by_lo);
    for (uint32_t i = 0; i < c->n; i++) {
        if (n && c->at[i].lo <= c->at[n - 1].hi + 1) {
            if (c->at[i].hi > c->at[n - 1].hi) c->at[n - 1].hi = c->at[i].hi;
        } else {
            c->at[n++] = c->at[i];
        }
    }
    c->n = n;
}

void nfa_class_negate(struct nfa *a, struct nfa_class *c)
{
    struct nfa_class out = {0};
    uint32_t from = 0;
    nfa_class_close(c);
    for (uint32_t i = 0; i < c->n; i++) {
        if (c->at[i].lo > from) nfa_class_add(a, &out, from, c->at[i].lo - 1);
        from = c->at[i].hi + 1;
    }
    if (from <= NFA_CHAR_MAX) nfa_class_add(a, &out, from, NFA_CHAR_MAX);
    *c = out;
}

static bool holds(const struct nfa_class *c, uint32_t lo, uint32_t hi)
{
    for (uint32_t i = 0; i < c->n; i++)
        if (c->at[i].lo <= lo && c->at[i].hi >= hi) return true;
    return false;
}

// Holds every plain character.
static bool is_plain(const struct nfa_class *c)
{
    return holds(c, 0x20, '"' - 1) && holds(c, '"' + 1, '\\' - 1) && holds(c, '\\' + 1, 0xd7ff) &&
           holds(c, 0xe000, NFA_CHAR_MAX);
}

// -- UTF-8 --

static int encode(uint32_t c, uint8_t out[4])
{
    if (c < 0x80) {
        out[0] = (uint8_t)c;
        return 1;
    }
    const int n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--, c >>= 6)
        out[i] = (uint8_t)(0x80 | (c & 0x3f));
    out[0] = (uint8_t)((0xf00u >> n & 0xff) | c);
    return n;
}

static uint32_t add_way(struct nfa *a, uint32_t way, uint32_t more)
{
    return way ? nfa_split(a, more, way) : more;
}

// Sequences of n bytes from lo to hi, position by position. Beginnings and ends of the range are
// narrow, what lies between has all continuations.
static uint32_t between(struct nfa *a, const uint8_t *lo, const uint8_t *hi, int n, uint32_t next)
{
    static const uint8_t first[3] = {0x80, 0x80, 0x80}, last[3] = {0xbf, 0xbf, 0xbf};
    if (n == 1) return nfa_byte(a, lo[0], hi[0], next);
    if (lo[0] == hi[0]) return nfa_byte(a, lo[0], lo[0], between(a, lo + 1, hi + 1, n - 1, next));
    const size_t rest = (size_t)(n - 1);
    const bool whole_lo = memcmp(lo + 1, first, rest) == 0, whole_hi = !memcmp(hi + 1, last, rest);
    const int from = lo[0] + !whole_lo, to = hi[0] - !whole_hi;
    uint32_t way = 0;
    if (!whole_lo) way = nfa_byte(a, lo[0], lo[0], between(a, lo + 1, last, n - 1, next));
    if (!whole_hi)
        way = add_way(a, way, nfa_byte(a, hi[0], hi[0], between(a, first, hi + 1, n - 1, next)));
    if (from <= to)
        way = add_way(
            a, way, nfa_byte(a, (uint8_t)from, (uint8_t)to, between(a, first, last, n - 1, next)));
    return way;
}

// Characters from 0x80 on.
static uint32_t wide(struct nfa *a, uint32_t lo, uint32_t hi, uint32_t way, uint32_t next)
{
    static const struct nfa_range lengths[] = {
        {0x80, 0x7ff}, {0x800, 0xd7ff}, {0xe000, 0xffff}, {0x10000, NFA_CHAR_MAX}};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        const uint32_t from = lo > lengths[i].lo ? lo : lengths[i].lo;
        const uint32_t to = hi < lengths[i].hi ? hi : lengths[i].hi;
        uint8_t first[4], last[4];
        if (from > to) continue;
        const int n = encode(from, first);
        encode(to, last);
        way = add_way(a, way, between(a, first, last, n, next));
    }
    return way;
}

static void set_bit(struct nfa_set *s, uint32_t c)
{
    s->bits[c / 64] |= UINT64_C(1) << (c % 64);
}

static bool is_empty(const struct nfa_set *s)
{
    return !(s->bits[0] | s->bits[1] | s->bits[2] | s->bits[3]);
}

// One node for the set: a range, if it is one.
static uint32_t narrow(struct nfa *a, const struct nfa_set *s, uint32_t next)
{
    uint32_t lo = 0, hi = 127;
    while (!(s->bits[lo / 64] >> (lo % 64) & 1))
        lo++;
    while (!(s->bits[hi / 64] >> (hi % 64) & 1))
        hi--;
    for (uint32_t c = lo; c <= hi; c++)
        if (!(s->bits[c / 64] >> (c % 64) & 1)) return nfa_bytes_of(a, s, next);
    return nfa_byte(a, (uint8_t)lo, (uint8_t)hi, next);
}

// -- JSON --

// The shortest escape of a character that cannot stand for itself: its letter, or 0: \u00XX.
static char letter_of(uint32_t c)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *p = c && c < 0x80 ? strchr(from, (int)c) : NULL;
    return p ? to[p - from] : 0;
}

static uint32_t escapes(struct nfa *a, const bool wanted[128], uint32_t next)
{
    struct nfa_set letters = {{0}};
    uint32_t way = 0;
    for (uint32_t high = 0; high < 2; high++) {
        struct nfa_set digits = {{0}};
        for (uint32_t c = 16 * high; c < 16 * high + 16; c++) {
            if (!wanted[c] || letter_of(c)) continue;
            set_bit(&digits, (uint32_t) "0123456789abcdef"[c % 16]);
            if (c % 16 > 9) set_bit(&digits, (uint32_t) "0123456789ABCDEF"[c % 16]);
        }
        if (is_empty(&digits)) continue;
        uint32_t digit = nfa_bytes_of(a, &digits, next);
        way = add_way(a, way, nfa_str(a, high ? "u001" : "u000", digit));
    }
    for (uint32_t c = 1; c < 128; c++)
        if (wanted[c] && letter_of(c)) set_bit(&letters, (uint32_t)letter_of(c));
    if (!is_empty(&letters)) way = add_way(a, way, nfa_bytes_of(a, &letters, next));
    return way ? nfa_byte(a, '\\', '\\', way) : 0;
}

uint32_t nfa_char(struct nfa *a, const struct nfa_class *c, bool in_json, enum nfa_loop loop,
                  uint32_t next)
{
    struct nfa_set ascii = {{0}};
    bool escaped[128] = {false}, any_escaped = false;
    uint32_t way = 0;
    for (uint32_t i = 0; i < c->n && nfa_ok(a); i++) {
        for (uint32_t k = c->at[i].lo; k <= c->at[i].hi && k < 0x80; k++) {
            const bool escape = in_json && !nfa_plain(k);
            if (!escape) set_bit(&ascii, k);
            escaped[k] = escape && k != 0;
            any_escaped |= escaped[k];
        }
        if (c->at[i].hi >= 0x80) way = wide(a, c->at[i].lo, c->at[i].hi, way, next);
    }
    if (any_escaped) way = add_way(a, way, escapes(a, escaped, next));
    if (!is_empty(&ascii)) {
        const uint32_t one = narrow(a, &ascii, next);
        if (nfa_ok(a) && is_plain(c)) a->nodes[one].loop = (uint8_t)loop;
        way = add_way(a, way, one);
    }
    return way ? way : nfa_never(a);
}
