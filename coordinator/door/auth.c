#include "coordinator/door/auth.h"
#include "topology/sha256.h"

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

err_t auth_open(struct auth *a, const char *const *keys, struct err_text *why)
{
    size_t n = 0;
    while (keys && keys[n])
        n++;
    uint8_t(*digests)[32] = n ? calloc(n, sizeof *digests) : NULL;
    if (n && !digests) return err_say(why, ERR_MEMORY, "no memory for API keys");
    for (size_t i = 0; i < n; i++) {
        if (!*keys[i]) {
            free(digests);
            return err_say(why, ERR_CONFIG, "API key number %zu is empty", i + 1);
        }
        digest_of(keys[i], strlen(keys[i]), digests[i]);
    }
    *a = (struct auth){.digests = digests, .n = n};
    return OK;
}

void auth_close(struct auth *a)
{
    free(a->digests);
    *a = (struct auth){0};
}

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

// All digests are looked at, whichever matches.
static bool matches(const struct auth *a, const char *key, uint64_t *tenant)
{
    uint8_t d[32];
    digest_of(key, strlen(key), d);
    bool any = false;
    for (size_t i = 0; i < a->n; i++) {
        volatile uint8_t diff = 0;
        for (size_t j = 0; j < sizeof d; j++)
            diff |= (uint8_t)(d[j] ^ a->digests[i][j]);
        any |= diff == 0;
    }
    if (any) memcpy(tenant, d, sizeof *tenant);
    return any;
}

enum auth_answer auth_check(struct auth *a, const struct auth_addr *from, const char *authorization,
                            const char *api_key, int64_t now_us, uint64_t *tenant)
{
    if (a->n == 0) {
        *tenant = 0;
        return AUTH_NONE;
    }
    if (auth_is_blocked(a, from, now_us)) return AUTH_TOO_MANY;
    const char *bearer = NULL;
    if (authorization && strncasecmp(authorization, "Bearer ", 7) == 0) bearer = authorization + 7;
    bool ok = bearer && *bearer && matches(a, bearer, tenant);
    if (!ok) ok = api_key && *api_key && matches(a, api_key, tenant);
    if (ok) return AUTH_OK;
    // A call without any key is refused but is no guess.
    if (authorization || api_key) auth_count_wrong(a, from, now_us);
    return AUTH_WRONG;
}
