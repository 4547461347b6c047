// store: copies of models' files that grow range by range. One folder for each model:
//
//   DIR/HASH.part/   its files, sparse, of the right sizes, and .map: which units of them are here
//   DIR/HASH/        the same when nothing is missing any more: what any program may read
//
// The map is replaced after the files were synced, so what it claims survived; what it does not
// claim is fetched again. A copy that was interrupted goes on where the last map was written. One
// process at a time: it holds DIR's lock (store_lock) while it may write.
//
// What is wanted is marked as needed (rounded outward to units), then asked for with store_next and
// brought with store_put. One thread owns a store.
#pragma once
#include "topology/offer.h"

enum {
    STORE_UNIT_BYTES = 64 << 10,
    STORE_RANGE_BYTES = 256 << 10, // of store_next, at most; whole units
    STORE_FILES_MAX = 4096,
};
#define STORE_BYTES_MAX ((uint64_t)1 << 44) // of one model: its maps stay below 100 MiB

struct store;

struct store_range {
    uint32_t file;
    uint64_t from;
    uint32_t bytes;
};

// Whether a folder of DIR is called like a copy: HASH (whole), or HASH.part.
bool store_name_read(const char *name, uint8_t hash[32], bool *is_whole);
// Makes DIR if need be and keeps others out until the descriptor is closed. ERR_BUSY, ERR_SYSTEM.
err_t store_lock(const char *dir, int *fd, struct err_text *why);
// Bytes that copies may still grow by: what the volume has free, less the reserve; and those that
// unfinished copies have already. 0 if there is no telling.
uint64_t store_room(const char *dir, uint64_t reserve_bytes);
// Gives copies that are complete their final names; for a time when nobody reads them.
void store_tidy(const char *dir);

// Opens or begins the copy of these files (their paths are not looked at). Strings are copied.
// ERR_MODEL: names or sizes no model has; ERR_SYSTEM.
err_t store_open(const char *dir, const uint8_t hash[32], const struct offer *files,
                 struct store **out, struct err_text *why);
void store_close(struct store *s);                   // does not save
const char *store_model_path(const struct store *s); // what model_open takes
const struct offer *store_files(const struct store *s);

void store_need(struct store *s, uint32_t file, uint64_t from, uint64_t bytes);
// Of what is needed: all, and what is here. In whole units, cut at the files' ends.
uint64_t store_need_bytes(const struct store *s);
uint64_t store_have_bytes(const struct store *s);
// True if what is missing fits on the volume with the reserve (bytes, and at least a twentieth of
// what is missing) left over; else ERR_SYSTEM with both numbers.
err_t store_check_room(const struct store *s, uint64_t reserve_bytes, struct err_text *why);
// The next range that is needed, not here and not asked for yet. False: none.
bool store_next(struct store *s, struct store_range *out);
// Its bytes. ERR_SYSTEM: the disk is full or fails.
err_t store_put(struct store *s, const struct store_range *r, const void *data,
                struct err_text *why);
// Syncs the files, then the map. ERR_SYSTEM.
err_t store_save(struct store *s, struct err_text *why);
// Everything of every file is here and saved.
bool store_is_whole(const struct store *s);
// Throws the copy away: it turned out not to be the model it should be.
void store_discard(struct store *s);
