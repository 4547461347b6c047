// What the compute*.c files share.
#pragma once
#include "proto/link/port.h"
#include "worker/compute.h"

enum { COMPUTE_SPIN_US = 30, COMPUTE_STEP_WAIT_US = 10000000 };

// The id a slot drew last, for rows that chain on it.
struct compute_draw {
    uint64_t step;
    int32_t id;
};

struct compute {
    struct compute_config config;
    char *model_path;
    pthread_t thread;
    struct mailbox in, out;             // parcels; letters
    struct mailbox spent_in, spent_out; // the same, empty, on their way back
    struct compute_letter *end; // the last letter, taken at the start so that it cannot fail
    atomic_bool stop;

    // of the compute thread
    struct compute_held held;
    struct port *port; // NULL while loading, and when there is one stage
    float *x;          // (max_tok, dim) of the first stage; others work in the received frame
    int32_t *chained;  // (max_rows) of the first stage
    int32_t *pairs;    // (max_rows, 2) slot, id of the last stage
    struct compute_draw *draws;           // (n_slot) of the first stage
    uint64_t undrawn[WIRE_IN_FLIGHT_MAX]; // steps whose ids the last stage has not sent yet
    uint32_t n_undrawn;
    uint64_t step_bytes; // weights that one token passes here
    struct arena arena;  // results of the step

    // read by the control thread
    struct stage_load load;
    _Atomic(struct stage *) running; // whose progress counts; NULL while loading
    _Atomic uint64_t loops, step_done, step_now, bytes_out, bytes_in, busy_us, wait_us;
};

static inline bool compute_is_first(const struct compute *c)
{
    return c->config.plan.stage == 0;
}
static inline bool compute_is_last(const struct compute *c)
{
    return c->config.plan.stage + 1 == c->config.plan.n_stage;
}

struct compute_wait {
    int64_t spin_until_us, deadline_us; // deadline 0: none
    const char *what;                   // for the sentence when the deadline passes
};
// A wait looks for what it waits for between these two: moves the port's bytes, and rests (spins,
// then sleeps until something happens). ERR_CANCELLED when asked to stop, ERR_TIMEOUT, ERR_LINK.
err_t compute_progress(struct compute *c, struct err_text *why);
err_t compute_rest(struct compute *c, const struct compute_wait *w, struct err_text *why);
// Waits for the next parcel.
err_t compute_take(struct compute *c, struct compute_parcel **out, struct err_text *why);
void compute_spend(struct compute *c, struct compute_parcel *p);
err_t compute_post(struct compute *c, const struct msg *m, struct err_text *why);

// LOAD to LINKED (compute_prepare.c).
err_t compute_prepare(struct compute *c, struct err_text *why);
err_t compute_link(struct compute *c, struct err_text *why);
// One step (compute_step.c).
err_t compute_step(struct compute *c, const struct step *st, struct err_text *why);
