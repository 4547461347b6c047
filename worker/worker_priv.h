// What worker.c (opening, the loop) and worker_talk.c (the conversation) share.
#pragma once
#include "topology/probe.h"
#include "worker/compute.h"
#include "worker/models.h"
#include "worker/worker.h"

enum {
    WORKER_SILENCE_US = 5000000, // a coordinator that says nothing for so long is lost
    WORKER_HEAR_MAX = 64,        // messages in one go
    WORKER_SPARE_STEPS = 2,      // queued steps over in_flight that are not yet a violation
};

struct worker {
    // fixed at open
    struct worker_config config; // strings are ours
    int32_t n_threads;
    uint64_t mem_max_bytes;
    struct models models;
    struct probe probe;
    struct kernels_peaks peaks;
    char isa[32]; // the backend's name
    uint64_t instance;

    // the conversation; link NULL: dialling
    struct link *link;
    bool is_welcome;
    int64_t heard_us; // last message, or the dial
    int64_t beat_us;  // next heartbeat
    int64_t dial_us;  // next dial
    int64_t backoff_us;
    uint32_t random;               // jitter
    struct compute_parcel *parcel; // the message being read
    struct buf out;
    uint64_t epoch; // newest plan of this connection, 0: none

    // the role
    struct compute *compute; // of `running`; NULL: none
    struct msg_plan running;
    bool is_stopping;            // asked to; its end is awaited
    struct compute_held held;    // what the last epoch left, while there is no compute
    struct compute_parcel *plan; // a PLAN that waits for that end; NULL: none
    bool is_refused;             // for good
    err_t refuse_code;
    struct err_text refuse_why;
};

// Sends, or loses the link.
void worker_send(struct worker *w, const struct msg *m);
void worker_hello(struct worker *w);
void worker_beat(struct worker *w);
// Closes the link, stops the epoch, keeps what is loaded.
void worker_lose(struct worker *w, const char *reason);
// Reads and acts on what it reads. True: there may be more, which the link's descriptor need not
// tell; a coordinator that never stops talking must not keep us from heartbeats and the stop.
bool worker_hear(struct worker *w);
// Passes on what the compute thread has to say, and starts the next plan when it has ended.
void worker_pump(struct worker *w);
