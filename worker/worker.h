// worker: owns devices, weight bytes and KV bytes; turns steps into ids. Two threads besides the
// kernels' pool: the control thread talks to the coordinator (hello, plans, steps in, results out,
// heartbeats), the compute thread runs steps in order and owns the data port. The heartbeat carries
// the compute thread's progress, so it proves that the compute loop moves and not only the process.
//
// States of the worker's role, moved by the control thread:
//
//   DIALING --link up, WELCOME--> IDLE --PLAN--> (FETCHING) --> LOADING --PREPARED sent--> PREPARED
//      ^                            ^                                                  | CONNECT
//      |                            +------ PLAN of a higher epoch (any state) ------ SERVING
//      +--- link lost: steps stop, weights stay, dial again with backoff (0.2 s .. 5 s, jitter)
//
// FETCHING: without the model's file, but with a store, it copies the plan's part of the files that
// the coordinator offered in WELCOME (store_fetch.h). DRAIN ends worker_run.
#pragma once
#include "proto/link/link.h"
#include "proto/wire/wire.h"
#include <stdatomic.h>

struct worker;

// From device to device where all members can, best first; over one of the two roads alone; always
// over the port.
enum { WORKER_GROUP_AUTO, WORKER_GROUP_NCCL, WORKER_GROUP_PEERS, WORKER_GROUP_PORT };

struct worker_config {
    const char *name;          // [a-z0-9-]{1,63}
    const char *const *models; // model files or folders with .gguf files, NULL-terminated
    int32_t n_threads;         // 0: all cores of the affinity mask
    uint64_t mem_max_bytes;    // 0: what is free at start; a plan gets what is free then
    const char *device;        // kernels_open's, NULL: best CPU
    bool profile;              // time every operation, a line in the log every ten seconds of steps
    double device_memory; // share of the device's memory that this worker may use; 0: all of it
    const char *transports, *devices; // of the UCX port, NULL: port.h's defaults
    const char *store_dir;            // where copies of models grow; NULL: no store
    uint64_t store_reserve_bytes;     // of its volume, to stay free
    uint64_t store_limit_bytes; // of all copies; the least recently used ones make room; 0: none
    // Between the members of a stage on devices: WORKER_GROUP_*.
    uint32_t group;
    bool own_lane;            // be a lane of its own, if the whole model fits
    bool measure;             // measure peaks (about 0.7 s, before HELLO); else report 0
    bool rate;                // and the speed of single operations (about 2 s, once a machine)
    const char *measured_dir; // where they are kept (measure.h); NULL: nowhere. Until open returns
    // Connects to the coordinator; called again after a lost link. ERR_END: do not try again.
    err_t (*dial)(void *arg, struct link **out, struct err_text *why);
    // The request for another certificate when it is time to send one (else NULL), and what the
    // coordinator answers to it. Both NULL: nothing expires.
    const char *(*renewal)(void *dial_arg);
    err_t (*renewed)(void *dial_arg, const char *certificate_pem, struct err_text *why);
    void *dial_arg;
};

err_t worker_open(const struct worker_config *c, struct worker **out, struct err_text *why);
// The control thread's loop: returns when *stop becomes nonzero (checked at least every 100 ms),
// when dial says ERR_END, or when the coordinator refused for good or sent us away (DRAIN: OK).
err_t worker_run(struct worker *w, atomic_int *stop, struct err_text *why);
void worker_close(struct worker *w);
