// What worker.c (opening, the loop), worker_talk.c (the conversation) and worker_role.c (plans)
// share.
#pragma once
#include "topology/probe.h"
#include "worker/budget.h"
#include "worker/compute.h"
#include "worker/models.h"
#include "worker/store_fetch.h"
#include "worker/surveyor.h"
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
    struct budget budget; // of the device, at the start
    struct kernels_peaks peaks;
    double host_read_bytes_per_s; // of all processors together
    struct rates rates;
    double disk_bytes_per_s; // of the first model's volume; 0: not measured
    char isa[32];            // the backend's name
    uint64_t instance;
    int store_fd; // the store's lock; -1: no store

    // the conversation; link NULL: dialling
    struct link *link;
    bool is_welcome;
    int64_t heard_us; // last message, or the dial
    int64_t beat_us;  // next heartbeat
    int64_t dial_us;  // next dial
    int64_t renew_us; // next look whether the certificate wants renewing
    int64_t backoff_us;
    uint32_t random;               // jitter
    struct compute_parcel *parcel; // the message being read
    struct buf out;
    uint64_t epoch;                 // newest plan of this connection, 0: none
    struct compute_parcel *welcome; // the model's files as the coordinator offers them; or NULL
    uint64_t echo_us;               // the coordinator's last clock
    int64_t echo_at_us;             // when it came
    struct surveyor *surveyor;      // NULL until the first survey

    // the role: at most one of compute and fetch
    struct compute *compute;   // of `running`; NULL: none
    struct msg_plan running;   // without its tables
    struct store_fetch *fetch; // for the plan in fetch_plan; NULL: none
    struct compute_parcel *fetch_plan;
    uint64_t fetch_id;           // of the next request
    bool is_stopping;            // asked to; its end is awaited
    struct compute_held held;    // what the last epoch left, while there is no compute
    struct compute_parcel *plan; // a PLAN that waits for that end; NULL: none
    bool is_drained;             // sent away: over when the role has ended
    bool is_refused;             // for good
    err_t refuse_code;
    struct err_text refuse_why;
};

// -- worker_talk.c --
// Sends, or loses the link.
void worker_send(struct worker *w, const struct msg *m);
void worker_send_bytes(struct worker *w, const struct buf *b);
void worker_hello(struct worker *w);
void worker_beat(struct worker *w);
// Asks for another certificate, when it is time.
void worker_renew(struct worker *w);
// Closes the link, stops the epoch, keeps what is loaded.
void worker_lose(struct worker *w, const char *reason);
// Reads and acts on what it reads. True: there may be more, which the link's descriptor need not
// tell; a coordinator that never stops talking must not keep us from heartbeats and the stop.
bool worker_hear(struct worker *w);

// -- worker_role.c --
// Ends the epoch that runs, and forgets the plan that waits for that.
void worker_stop_role(struct worker *w);
// Takes w->parcel, a PLAN: it replaces the epoch that runs. w->parcel is another then, or NULL.
void worker_on_plan(struct worker *w);
// Passes on what the role's thread has to say, and starts the next plan when it has ended.
void worker_pump(struct worker *w);
// Lets a role go without a link: for closing.
void worker_end_role(struct worker *w);
