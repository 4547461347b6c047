// What store.c (the folder and its bytes) and store_map.c (which of them are here) share.
#pragma once
#include "worker/store.h"

enum { STORE_PATH_MAX = 4096, STORE_FILE_MAX = STORE_PATH_MAX + 300 }; // of folders, of files
#define STORE_MAP_NAME ".map"
#define STORE_PART ".part" // at the end of the name of a copy that is not whole

struct store {
    char dir[STORE_PATH_MAX], model_path[STORE_FILE_MAX];
    struct arena arena;
    struct offer offer;
    uint64_t *first; // (n_file + 1) first unit of each file; the last: number of units
    int *fds;        // (n_file) for writing; -1: not open
    bool *is_dirty;  // (n_file) written since the last sync
    uint64_t n_byte; // of each map; a bit for each unit
    uint8_t *need, *asked, *have;
    uint64_t need_bytes, have_bytes; // have: of what is needed
    uint64_t cursor;                 // no unit before it is wanted
    bool is_saved;                   // the map on disk says the same
};

// The folder of a copy: DIR/HASH, or DIR/HASH.part.
void store_name_folder(char out[STORE_PATH_MAX], const char *dir, const uint8_t hash[32],
                       bool is_whole);
// Replaces the map in the folder. The files were synced.
err_t store_map_write(const struct store *s, struct err_text *why);
// Fills s->have. False: there is no map, or it is not of these files, or damaged: nothing is here.
bool store_map_read(struct store *s);
// Bytes that the maps of all unfinished copies in DIR claim.
uint64_t store_map_sum(const char *dir);
