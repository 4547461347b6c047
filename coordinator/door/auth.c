#include "coordinator/door/auth.h"
#include "proto/base/hex.h"
#include "topology/sha256.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static void digest_of(const char *key, size_t len, uint8_t out[32])
{
    struct sha256 s;
    sha256_init(&s);
    sha256_add(&s, key, len);
    sha256_end(&s, out);
}

// -- lines --

static const char blanks[] = " \t";

struct word {
    const char *s;
    size_t len;
};

// The next word of the line; false at its end, or before a remark.
static bool next_word(const char **at, bool is_first, struct word *out)
{
    const char *s = *at + strspn(*at, blanks);
    *out = (struct word){.s = s, .len = strcspn(s, blanks)};
    *at = s + out->len;
    return out->len > 0 && (is_first || *s != '#');
}

static bool begins(const struct word *w, const char *with, struct word *rest)
{
    size_t n = strlen(with);
    if (w->len < n || memcmp(w->s, with, n) != 0) return false;
    *rest = (struct word){.s = w->s + n, .len = w->len - n};
    return true;
}

static bool is(const struct word *w, const char *what)
{
    return w->len == strlen(what) && memcmp(w->s, what, w->len) == 0;
}

static bool read_name(const struct word *w, char out[AUTH_NAME_MAX + 1])
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    if (w->len == 0 || w->len > AUTH_NAME_MAX || strspn(w->s, allowed) < w->len) return false;
    memcpy(out, w->s, w->len);
    out[w->len] = 0;
    return true;
}

// 1 to max, followed by `unit`.
static bool read_number(const struct word *w, const char *unit, uint32_t max, uint32_t *out)
{
    uint32_t v = 0;
    size_t i = 0;
    for (; i < w->len && w->s[i] >= '0' && w->s[i] <= '9' && v <= max; i++)
        v = v * 10 + (uint32_t)(w->s[i] - '0');
    const struct word rest = {.s = w->s + i, .len = w->len - i};
    if (v < 1 || v > max || !is(&rest, unit)) return false;
    *out = v;
    return true;
}

static bool read_priority(const struct word *w, int32_t *out)
{
    const bool is_minus = w->len && *w->s == '-';
    const struct word digits = {.s = w->s + is_minus, .len = w->len - is_minus};
    uint32_t v = 0;
    if (!is(&digits, "0") && !read_number(&digits, "", AUTH_PRIORITY_MAX, &v)) return false;
    *out = is_minus ? -(int32_t)v : (int32_t)v;
    return true;
}

static bool read_setting(const struct word *w, struct auth_key *k)
{
    struct word v;
    if (is(w, "admin")) {
        k->is_admin = true;
        return true;
    }
    if (begins(w, "name=", &v)) return read_name(&v, k->name);
    if (begins(w, "concurrency=", &v))
        return read_number(&v, "", LIMITS_AT_ONCE_MAX, &k->limit.at_once);
    if (begins(w, "priority=", &v)) return read_priority(&v, &k->priority);
    return begins(w, "rate=", &v) && read_number(&v, "/min", LIMITS_PER_MIN_MAX, &k->limit.per_min);
}

// Sentences never quote a line: any part of it may be part of a secret.
static err_t read_line(const char *line, size_t number, struct auth_key *out, struct err_text *why)
{
    struct auth_key k = {.name = ""};
    struct word w, hex;
    if (!next_word(&line, true, &w))
        return err_say(why, ERR_CONFIG, "API key number %zu is empty", number);
    if (begins(&w, "sha256:", &hex)) {
        if (hex.len != 64 || !hex_read(hex.s, 32, k.digest))
            return err_say(
                why, ERR_CONFIG,
                "API key number %zu: 64 hexadecimal digits belong after sha256:", number);
    } else {
        digest_of(w.s, w.len, k.digest);
    }
    for (int i = 2; next_word(&line, false, &w); i++)
        if (!read_setting(&w, &k))
            return err_say(why, ERR_CONFIG,
                           "API key number %zu: word %d of its line is none of name=WORD, "
                           "concurrency=N, rate=N/min, priority=N and admin",
                           number, i);
    if (!k.name[0]) snprintf(k.name, sizeof k.name, "key-%zu", number);
    memcpy(&k.tenant, k.digest, sizeof k.tenant);
    k.tenant += k.tenant == 0;
    *out = k;
    return OK;
}

static err_t check_twice(const struct auth_key *keys, size_t n, struct err_text *why)
{
    const struct auth_key *k = &keys[n];
    for (size_t i = 0; i < n; i++) {
        if (memcmp(keys[i].digest, k->digest, sizeof k->digest) == 0)
            return err_say(why, ERR_CONFIG, "API keys number %zu and %zu are the same", i + 1,
                           n + 1);
        if (strcmp(keys[i].name, k->name) == 0)
            return err_say(why, ERR_CONFIG, "API keys number %zu and %zu have the same name", i + 1,
                           n + 1);
    }
    return OK;
}

static err_t read_lines(const char *const *lines, size_t n, struct auth_key *keys,
                        struct err_text *why)
{
    bool any_admin = false;
    for (size_t i = 0; i < n; i++) {
        err_t err = read_line(lines[i], i + 1, &keys[i], why);
        if (!err) err = check_twice(keys, i, why);
        if (err) return err;
        any_admin |= keys[i].is_admin;
    }
    for (size_t i = 0; i < n; i++)
        keys[i].is_admin |= !any_admin;
    return OK;
}

err_t auth_open(struct auth *a, const char *const *lines, struct err_text *why)
{
    size_t n = 0;
    while (lines && lines[n])
        n++;
    struct auth_key *keys = n ? calloc(n, sizeof *keys) : NULL;
    if (n && !keys) return err_say(why, ERR_MEMORY, "no memory for API keys");
    err_t err = read_lines(lines, n, keys, why);
    if (err) {
        free(keys);
        return err;
    }
    *a = (struct auth){.keys = keys, .n = n};
    return OK;
}

void auth_close(struct auth *a)
{
    free(a->keys);
    *a = (struct auth){0};
}

// -- addresses --

// A household or a data centre has a whole /64: count that, not single addresses.
static size_t significant(const struct auth_addr *x)
{
    static const uint8_t v4[12] = {[10] = 0xff, [11] = 0xff};
    return memcmp(x->b, v4, sizeof v4) == 0 ? 16 : 8;
}

static size_t slot_of(const struct auth_addr *x)
{
    uint32_t h = 2166136261u; // FNV-1a
    for (size_t i = 0; i < significant(x); i++)
        h = (h ^ x->b[i]) * 16777619u;
    return h % AUTH_ADDRESSES;
}

static bool same(const struct auth_addr *x, const struct auth_addr *y)
{
    return significant(x) == significant(y) && memcmp(x->b, y->b, significant(x)) == 0;
}

bool auth_is_blocked(const struct auth *a, const struct auth_addr *from, int64_t now_us)
{
    const struct auth_wrong *w = &a->wrong[slot_of(from)];
    return w->n >= AUTH_WRONG_MAX && same(&w->addr, from) && now_us - w->since_us < 1000000;
}

void auth_count_wrong(struct auth *a, const struct auth_addr *from, int64_t now_us)
{
    struct auth_wrong *w = &a->wrong[slot_of(from)];
    if (w->n == 0 || !same(&w->addr, from) || now_us - w->since_us >= 1000000)
        *w = (struct auth_wrong){.addr = *from, .since_us = now_us};
    w->n++;
}

// -- checking --

// All digests are looked at, whichever matches. NULL: none.
static struct auth_key *find(const struct auth *a, const char *key)
{
    uint8_t d[32];
    digest_of(key, strlen(key), d);
    size_t found = 0; // its number, from 1
    for (size_t i = 0; i < a->n; i++) {
        volatile uint8_t diff = 0;
        for (size_t j = 0; j < sizeof d; j++)
            diff |= (uint8_t)(d[j] ^ a->keys[i].digest[j]);
        const size_t mask = (size_t)0 - (diff == 0);
        found |= mask & (i + 1);
    }
    return found ? &a->keys[found - 1] : NULL;
}

enum auth_answer auth_check(struct auth *a, const struct auth_addr *from, const char *authorization,
                            const char *api_key, int64_t now_us, struct auth_key **out)
{
    if (a->n == 0) {
        *out = NULL;
        return AUTH_NONE;
    }
    if (auth_is_blocked(a, from, now_us)) return AUTH_TOO_MANY;
    const char *bearer = NULL;
    if (authorization && strncasecmp(authorization, "Bearer ", 7) == 0) bearer = authorization + 7;
    struct auth_key *k = bearer && *bearer ? find(a, bearer) : NULL;
    if (!k && api_key && *api_key) k = find(a, api_key);
    if (k) {
        *out = k;
        return AUTH_OK;
    }
    // A call without any key is refused but is no guess.
    if (authorization || api_key) auth_count_wrong(a, from, now_us);
    return AUTH_WRONG;
}
