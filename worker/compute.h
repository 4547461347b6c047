// compute: one epoch of a worker on a thread of its own. It loads the plan's stage, opens the data
// port, links to its peers and runs steps in order, until it fails or is asked to stop; then it
// ends and the stage can be taken over by the next epoch.
//
//   LOAD --PREPARED--> (CONNECT) --LINKED--> (STEP) run, RESULT ... --> end: LETTER_ENDED
//     any failure: FAILED, then the end; a stop: straight to the end
//
// Of a stage with several members each has such a thread and gets the same steps. The lead sends
// the activations to every member of the next stage that takes part in a step from its start (all
// of a tensor group, the lead of an experts group), the last stage's lead the ids to those of the
// first; it alone posts results. At the data port, peers are numbered through, stage after stage.
//
// Both directions are mailboxes: parcels (unpacked messages) in, letters (packed messages) out. The
// control thread sleeps on the letters' descriptor; the compute thread on the parcels' and the
// port's. A stop takes effect at once in any wait, otherwise after the step that is being computed.
#pragma once
#include "proto/base/buf.h"
#include "proto/wire/wire.h"
#include "worker/mailbox.h"
#include "worker/stage.h"

struct compute;

// A model and the stage of it that is loaded; NULLs: nothing.
struct compute_held {
    struct model *model;
    struct stage *stage;
};
void compute_held_free(struct compute_held *h);

struct compute_config {
    struct msg_plan plan;     // `model` is not kept, the tables are copied
    const char *model_path;   // copied; where the plan's model lies
    struct compute_held held; // taken over, also on error
    int32_t n_threads;
    const char *device, *transports, *devices; // outlive the epoch
    uint64_t mem_max_bytes;
    double device_memory; // of worker_config
    uint32_t group;       // of worker_config
    bool profile;         // of worker_config
};

// A message for the compute thread; everything lies in its arena.
struct compute_parcel {
    struct list list;
    struct arena arena;
    struct msg msg;
};
struct compute_parcel *compute_parcel_new(void); // NULL: no memory
void compute_parcel_free(struct compute_parcel *p);

struct compute_letter {
    struct list list;
    bool is_end; // the thread is done: compute_join does not wait. No bytes.
    enum msg_kind kind;
    struct buf bytes;
};
struct compute_letter *compute_letter_new(void); // NULL: no memory
void compute_letter_free(struct compute_letter *l);

struct compute_stats {
    uint64_t step_done, step_now, progress;
    uint64_t frame_bytes_out, frame_bytes_in;
    uint64_t busy_us, wait_us;
    uint64_t exchange_us; // of busy_us, waiting for other members of the group
    uint32_t steps_queued;
};

// ERR_CONFIG: no plan of this model.
err_t compute_check_plan(const struct msg_plan *p, const struct model *m, struct err_text *why);
// What of the model a plan gives its worker: layers, parts, settings, share (whose tables stay the
// plan's). The rest is the caller's to fill in.
void compute_stage_config(const struct msg_plan *p, const struct model *m,
                          struct stage_config *out);
err_t compute_start(struct compute_config *c, struct compute **out, struct err_text *why);
// Hands over a STEP or CONNECT of this epoch. An empty parcel comes back for the next message, or
// NULL when there is none to spare.
struct compute_parcel *compute_hand(struct compute *c, struct compute_parcel *p);
int compute_fd(const struct compute *c); // readable: there may be letters
// Next letter or NULL. Given back with compute_letter_done.
struct compute_letter *compute_letter(struct compute *c);
void compute_letter_done(struct compute *c, struct compute_letter *l);
struct compute_stats compute_stats_get(const struct compute *c);
// Both return at once. A stop lets loading finish, so that the next plan finds the layers; a cancel
// ends that too.
void compute_stop(struct compute *c);
void compute_cancel(struct compute *c);
// Waits for the thread, frees the compute, and gives what it holds.
void compute_join(struct compute *c, struct compute_held *out);
