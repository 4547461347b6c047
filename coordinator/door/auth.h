// auth: API keys. Only SHA-256 digests of the keys are kept; a presented key is hashed and compared
// with every digest in full, so neither the time of a comparison nor which key matched tells
// anything. An address with AUTH_WRONG_MAX wrong keys within a second is not listened to for the
// rest of that second, right key or not: guessing cannot go faster than that.
#pragma once
#include "proto/base/err.h"
#include <stdbool.h>

enum { AUTH_WRONG_MAX = 5, AUTH_ADDRESSES = 64 };

// Who is calling: IPv6 address, or IPv4 mapped into one.
struct auth_addr {
    uint8_t b[16];
    bool loopback;
};

struct auth {
    uint8_t (*digests)[32];
    size_t n; // 0: no key is asked for
    struct auth_wrong {
        struct auth_addr addr;
        int64_t since_us;
        uint32_t n;
    } wrong[AUTH_ADDRESSES]; // direct-mapped: a collision only forgets
};

enum auth_answer { AUTH_OK, AUTH_NONE, AUTH_WRONG, AUTH_TOO_MANY };

// Hashes the keys. ERR_CONFIG (an empty key), ERR_MEMORY.
err_t auth_open(struct auth *a, const char *const *keys, struct err_text *why);
void auth_close(struct auth *a);
// `authorization` and `api_key` are header values or NULL; either may carry the key. AUTH_NONE: no
// key is configured. The tenant names the key that matched (0: none is configured).
enum auth_answer auth_check(struct auth *a, const struct auth_addr *from, const char *authorization,
                            const char *api_key, int64_t now_us, uint64_t *tenant);
// True if the address is being ignored now.
bool auth_is_blocked(const struct auth *a, const struct auth_addr *from, int64_t now_us);
void auth_count_wrong(struct auth *a, const struct auth_addr *from, int64_t now_us);
