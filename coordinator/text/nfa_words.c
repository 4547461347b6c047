#include "coordinator/text/nfa.h"

#include <stdlib.h>
#include <string.h>

static int by_bytes(const void *x, const void *y)
{
    const struct nfa_word *a = x, *b = y;
    const size_t n = a->len < b->len ? a->len : b->len;
    const int c = n ? memcmp(a->s, b->s, n) : 0;
    if (c) return c;
    return a->len < b->len ? -1 : a->len > b->len;
}

// A trie of sorted words, walked from position `at` on: those from `from` to `to` agree before it.
// At most as deep as there are words of which one begins the other.
struct walk {
    struct nfa *a;
    const struct nfa_word *words;
    uint32_t next;
    // nfa_other_words: any more of a string and its end; a character beyond ASCII, or an escape,
    // and then that.
    uint32_t rest, wide, escape;
};

static size_t group_end(const struct walk *w, size_t from, size_t to, size_t at)
{
    const char c = w->words[from].s[at];
    size_t i = from + 1;
    while (i < to && w->words[i].s[at] == c)
        i++;
    return i;
}

// Where first and last of sorted words differ, all between have differed too.
static size_t common_end(const struct walk *w, size_t from, size_t to, size_t at)
{
    const struct nfa_word *first = &w->words[from], *last = &w->words[to - 1];
    while (at < first->len && at < last->len && first->s[at] == last->s[at])
        at++;
    return at;
}

static uint32_t words(const struct walk *w, size_t from, size_t to, size_t at)
{
    const size_t start = at;
    const char *s = w->words[from].s;
    uint32_t way = 0;
    if (!nfa_ok(w->a)) return 0;
    at = common_end(w, from, to, at);
    for (size_t i = from, end; i < to; i = end) {
        uint32_t one;
        if (w->words[i].len == at) { // equal words follow one another
            one = w->next;
            end = i + 1;
        } else {
            end = group_end(w, i, to, at);
            one = words(w, i, end, at + 1);
            one = nfa_byte(w->a, (uint8_t)w->words[i].s[at], (uint8_t)w->words[i].s[at], one);
        }
        way = i > from ? nfa_split(w->a, way, one) : one;
    }
    return nfa_text(w->a, s + start, at - start, way);
}

uint32_t nfa_words(struct nfa *a, struct nfa_word *list, size_t n, uint32_t next)
{
    if (n == 0) return nfa_never(a);
    qsort(list, n, sizeof *list, by_bytes);
    size_t kept = 1;
    for (size_t i = 1; i < n; i++)
        if (by_bytes(&list[i], &list[kept - 1]) != 0) list[kept++] = list[i];
    struct walk w = {.a = a, .words = list, .next = next};
    return words(&w, 0, kept, 0);
}

// -- all but some --

enum { OTHER_LEN_MAX = 256 };

// A byte with which a character of a string begins, or the letter of an escape, but those `taken`.
static uint32_t other_bytes(struct nfa *a, const bool taken[256], bool escaped, uint32_t rest)
{
    struct nfa_set s = {{0}};
    if (escaped) {
        for (const char *p = "\"\\bfnrt"; *p; p++)
            if (!taken[(uint8_t)*p]) s.bits[*p / 64] |= UINT64_C(1) << (*p % 64);
    } else {
        for (uint32_t c = 0x20; c < 0x80; c++)
            if (nfa_plain(c) && !taken[c]) s.bits[c / 64] |= UINT64_C(1) << (c % 64);
    }
    return nfa_bytes_of(a, &s, rest);
}

static uint32_t others(const struct walk *w, size_t from, size_t to, size_t at, bool escaped)
{
    struct nfa *a = w->a;
    bool taken[256] = {false}, is_word = false, any_wide = false;
    uint32_t way = 0;
    if (!nfa_ok(a)) return 0;
    for (size_t i = from, end; i < to && nfa_ok(a); i = end) {
        if (w->words[i].len == at) {
            is_word = true;
            end = i + 1;
            continue;
        }
        const uint8_t c = (uint8_t)w->words[i].s[at];
        end = group_end(w, i, to, at);
        taken[c] = true;
        any_wide |= c >= 0x80;
        // Where a word goes on with a character beyond ASCII or a \\u escape, all of those are left
        // out: what is allowed is less than could be, never more.
        if (c >= 0x80 || (escaped && c == 'u')) continue;
        const uint32_t on = others(w, i, end, at + 1, !escaped && c == '\\');
        const uint32_t one = nfa_byte(a, c, c, on);
        way = way ? nfa_split(a, way, one) : one;
    }
    uint32_t out = other_bytes(a, taken, escaped, w->rest);
    if (way) out = nfa_split(a, out, way);
    if (escaped) return out;
    if (!taken['\\']) out = nfa_split(a, out, w->escape);
    if (!any_wide) out = nfa_split(a, out, w->wide);
    return is_word ? out : nfa_split(a, out, nfa_byte(a, '"', '"', w->next));
}

uint32_t nfa_other_words(struct nfa *a, struct nfa_word *list, size_t n, uint32_t next)
{
    const bool none[256] = {false};
    struct nfa_class all = {0}, wide = {0};
    nfa_class_add(a, &all, 1, NFA_CHAR_MAX);
    nfa_class_add(a, &wide, 0x80, NFA_CHAR_MAX);
    const uint32_t rest = nfa_hub(a);
    const uint32_t more = nfa_char(a, &all, true, NFA_LOOP_STAR, rest);
    nfa_hub_set(a, rest, more, nfa_byte(a, '"', '"', next));
    for (size_t i = 0; i < n; i++)
        if (list[i].len > OTHER_LEN_MAX)
            return nfa_fail(a, ERR_TOO_LARGE,
                            "the name of a property is longer than %d bytes beside others",
                            OTHER_LEN_MAX);
    if (n == 0) return rest;
    qsort(list, n, sizeof *list, by_bytes);
    struct walk w = {.a = a, .words = list, .next = next, .rest = rest};
    w.wide = nfa_char(a, &wide, false, NFA_LOOP_NONE, rest);
    w.escape = nfa_byte(a, '\\', '\\', other_bytes(a, none, true, rest));
    return others(&w, 0, n, 0, false);
}

// -- until --

// The automaton of Knuth, Morris and Pratt 1977: at node k the last k bytes are the first of `s`.
uint32_t nfa_until(struct nfa *a, const char *s, size_t len, bool is_avoided, uint32_t next)
{
    enum { LEN_MAX = 64 };
    uint32_t at[LEN_MAX + 1], fail[LEN_MAX + 1] = {0};
    if (len == 0 || len > LEN_MAX)
        return nfa_fail(a, ERR_INVALID, "a text to wait for has 1 to %d bytes, not %zu", LEN_MAX,
                        len);
    for (size_t i = 1, k = 0; i < len; i++) {
        while (k && s[i] != s[k])
            k = fail[k];
        if (s[i] == s[k]) k++;
        fail[i + 1] = (uint32_t)k;
    }
    for (size_t k = 0; k < len; k++)
        at[k] = nfa_hub(a);
    for (size_t k = 0; k < len; k++) {
        struct nfa_set rest = {{UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX}};
        // Bytes that lead to another node than the first: those that continue some border.
        uint32_t way = nfa_control(a, -1, at[0]);
        for (size_t border = k;; border = fail[border]) {
            const uint8_t c = (uint8_t)s[border];
            const uint64_t bit = UINT64_C(1) << (c % 64);
            if (rest.bits[c / 64] & bit) {
                rest.bits[c / 64] &= ~bit;
                const bool found = border + 1 == len;
                const uint32_t to = found ? next : at[border + 1];
                if (!found || !is_avoided) way = nfa_split(a, nfa_byte(a, c, c, to), way);
            }
            if (border == 0) break;
        }
        way = nfa_split(a, nfa_bytes_of(a, &rest, at[0]), way);
        nfa_hub_set(a, at[k], way, is_avoided ? next : way);
    }
    return at[0];
}
