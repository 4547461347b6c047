// depot: the model's files, for workers that copy ranges of them. Files are read on the loop's
// thread pool, few at a time, so that neither the loop nor the text's work waits for a disk;
// workers get their turn one after the other. Everything else runs on the loop's thread.
//
// What one worker can have on its way is bounded: DEPOT_QUEUE_MAX requests, each of WIRE_CHUNK_MAX
// bytes when it is answered.
#pragma once
#include "proto/wire/wire.h"
#include "topology/model.h"
#include <uv.h>

enum {
    DEPOT_QUEUE_MAX = 64, // requests of one worker
    DEPOT_READS_MAX = 2,  // at once, of all workers: half of the thread pool
    DEPOT_WORKERS_MAX = 1024,
};

struct depot;

struct depot_config {
    uv_loop_t *loop;
    const struct model *model; // outlives it
    uint32_t n_worker;         // their numbers are below
    // An answer; c->data lives during the call.
    void (*on_chunk)(void *arg, uint32_t worker, const struct msg_chunk *c);
    void *arg;
};

struct depot_stats {
    uint64_t chunks, bytes; // read and handed over
};

// A made-up model has no files: nothing is offered then. ERR_MODEL, ERR_SYSTEM, ERR_MEMORY.
err_t depot_open(const struct depot_config *c, struct depot **out, struct err_text *why);
// Fills in hash and files, which live as long as the depot.
void depot_offer(const struct depot *d, struct msg_welcome *out);
bool depot_has_files(const struct depot *d);
// A worker asks. ERR_LINK_PROTOCOL: it asks for what there is not, or for too much at once.
err_t depot_take(struct depot *d, uint32_t worker, const struct msg_fetch *m, struct err_text *why);
// The worker is gone: nothing that it asked for is answered.
void depot_forget(struct depot *d, uint32_t worker);
struct depot_stats depot_stats_get(const struct depot *d);
// Reads under way end while the loop runs on; no more answers come.
void depot_close(struct depot *d);
