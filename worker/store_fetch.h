// store_fetch: brings the bytes that a plan needs from the coordinator into a store, on a thread of
// its own, before the plan's stage is loaded. First what opening the model reads; then the model is
// opened, its hash compared, and the rows of the plan's layers follow. Several requests are on
// their way at once; a range that arrives damaged is asked for again.
//
//   ASK --CHUNK--> write, sync and map every few seconds --> nothing is missing: LETTER_ENDED
//   any failure, a cancel: save what is here, then the end
//
// Both directions are mailboxes, like compute's: parcels with CHUNKs in, letters with FETCHes out.
#pragma once
#include "worker/compute.h"
#include "worker/store.h"

enum { STORE_FETCH_WINDOW = 8, STORE_FETCH_TRIES = 3 };

struct store_fetch;

struct store_fetch_config {
    const char *dir; // outlives it
    uint64_t reserve_bytes;
    uint64_t limit_bytes;        // of all copies together, others are removed for this one; 0: none
    const struct msg_plan *plan; // with its tables; outlives it
    const struct msg_welcome *offer; // of plan->model_hash; copied
    const struct model *model;       // open already, outlives it; NULL: is opened here
    uint8_t held_hash[32];           // the copy of this model stays, too
    uint64_t first_id;               // of the requests; older chunks are dropped
};

struct store_fetch_stats {
    uint64_t done_bytes, all_bytes; // of what is needed, as far as is known
    uint64_t progress;              // moves while bytes come
};

// What came out of it.
struct store_fetch_result {
    err_t err; // ERR_CANCELLED: it was asked to stop
    struct err_text why;
    char model_path[4096 + 512]; // what model_open takes
    bool is_whole;               // the copy may get its final name
    uint64_t next_id;
    uint64_t fetched_bytes;
};

err_t store_fetch_start(const struct store_fetch_config *c, struct store_fetch **out,
                        struct err_text *why);
// Hands over a CHUNK. An empty parcel comes back, or NULL when there is none to spare.
struct compute_parcel *store_fetch_hand(struct store_fetch *f, struct compute_parcel *p);
int store_fetch_fd(const struct store_fetch *f); // readable: there may be letters
// Next letter or NULL; freed with compute_letter_free.
struct compute_letter *store_fetch_letter(struct store_fetch *f);
struct store_fetch_stats store_fetch_stats_get(const struct store_fetch *f);
void store_fetch_cancel(struct store_fetch *f); // returns at once
// Waits for the thread and frees it.
void store_fetch_join(struct store_fetch *f, struct store_fetch_result *out);
