// auth: API keys, and what each of them may. Only SHA-256 digests of the keys are kept; a presented
// key is hashed and compared with every digest in full, so neither the time of a comparison nor
// which key matched tells anything. An address with AUTH_WRONG_MAX wrong keys within a second is
// not listened to for the rest of that second, right key or not: guessing cannot go faster than
// that.
//
// A key is configured as one line:
//
//   KEY        [name=WORD] [concurrency=N] [rate=N/min] [priority=N] [admin] [# remark]
//   sha256:HEX [...]
//
// HEX are the 64 digits that `printf %s KEY | sha256sum` prints. WORD (letters, digits and ._-)
// stands for the key in metrics and the ledger; without it the key is called "key-N" by its place
// among the keys. Where some key says admin, the others do not reach administration. Requests of a
// key with priority=N (lower is earlier, usual is 0) are N or later, whatever they say themselves.
#pragma once
#include "coordinator/door/limits.h"
#include "proto/base/err.h"
#include <stdbool.h>

enum { AUTH_WRONG_MAX = 5, AUTH_ADDRESSES = 64, AUTH_NAME_MAX = 32, AUTH_PRIORITY_MAX = 1000000 };

// Who is calling: IPv6 address, or IPv4 mapped into one.
struct auth_addr {
    uint8_t b[16];
    bool loopback;
};

struct auth_key {
    uint8_t digest[32];
    char name[AUTH_NAME_MAX + 1]; // of its own; needs no escaping anywhere
    int32_t priority;
    bool is_admin;   // may use paths of administration
    uint64_t tenant; // never 0
    struct limit limit;
};

struct auth {
    struct auth_key *keys;
    size_t n; // 0: no key is asked for
    struct auth_wrong {
        struct auth_addr addr;
        int64_t since_us;
        uint32_t n;
    } wrong[AUTH_ADDRESSES]; // direct-mapped: a collision only forgets
};

enum auth_answer { AUTH_OK, AUTH_NONE, AUTH_WRONG, AUTH_TOO_MANY };

// Reads the lines (NULL-terminated, or NULL) and hashes the keys in them; the lines are not needed
// afterwards. ERR_CONFIG says which key is wrong, by its number and without anything of its text;
// ERR_MEMORY.
err_t auth_open(struct auth *a, const char *const *lines, struct err_text *why);
void auth_close(struct auth *a);
// `authorization` and `api_key` are header values or NULL; either may carry the key. AUTH_OK: the
// key that matched, of `a`. AUTH_NONE: no key is configured, the key is NULL.
enum auth_answer auth_check(struct auth *a, const struct auth_addr *from, const char *authorization,
                            const char *api_key, int64_t now_us, struct auth_key **out);
// True if the address is being ignored now.
bool auth_is_blocked(const struct auth *a, const struct auth_addr *from, int64_t now_us);
void auth_count_wrong(struct auth *a, const struct auth_addr *from, int64_t now_us);
