// store_keep: which copies a store has, and which of them must go when it may not grow further. A
// folder's time of change is when its copy was used last (store_used), or grew. Removing needs the
// store's lock (store_lock).
#pragma once
#include "worker/store.h"

struct store_copy {
    uint8_t hash[32];
    bool is_whole;
    uint32_t n_file;
    uint64_t disk_bytes;  // that it takes on its volume
    uint64_t model_bytes; // of its files when nothing is missing
    int64_t used_s;       // seconds since 1970
    char file[96];        // the first of its files by name, or a part of it
};

enum { STORE_COPIES_MAX = 1024 };

// Copies in DIR, the one that was not used for longest first; as many as *n says at most, more are
// left out. A folder that is missing has none. ERR_SYSTEM.
err_t store_copies(const char *dir, struct store_copy *out, uint32_t *n, struct err_text *why);
// What a model's copy may take: as store_room says, or with a limit (0: none) at most that, other
// copies making room.
uint64_t store_keep_room(const char *dir, uint64_t reserve_bytes, uint64_t limit_bytes);
// The copy is used now.
void store_used(const char *dir, const uint8_t hash[32]);
// ERR_SYSTEM: something of it is still there.
err_t store_remove(const char *dir, const struct store_copy *c, struct err_text *why);
// Removes copies, least recently used first, until those that are left take most_bytes; none of
// `keep` (n_keep hashes), and what cannot be removed is passed over. Returns what is left; that may
// be more.
uint64_t store_trim(const char *dir, uint64_t most_bytes, const uint8_t (*keep)[32],
                    uint32_t n_keep);
