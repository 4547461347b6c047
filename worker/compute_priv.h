// What the compute*.c files share.
#pragma once
#include "proto/link/port.h"
#include "worker/compute.h"
#include "worker/compute_near.h"

enum { COMPUTE_SPIN_US = 30, COMPUTE_STEP_WAIT_US = 10000000 };

// The id a slot drew last, for rows that chain on it.
struct compute_draw {
    uint64_t step;
    int32_t id;
};

struct compute {
    struct compute_config config; // the plan's tables lie in `tables`
    char *model_path;
    uint8_t *tables;
    pthread_t thread;
    struct mailbox in, out;             // parcels; letters
    struct mailbox spent_in, spent_out; // the same, empty, on their way back
    struct compute_letter *end; // the last letter, taken at the start so that it cannot fail
    atomic_bool stop;

    // of the compute thread
    struct compute_held held;
    struct port *port;   // NULL while loading, and where no activations or ids come or go
    struct group *group; // NULL while loading, and alone
    struct compute_near near[NEAR_WAYS];
    struct group *near_group; // near[NEAR_GROUP] as a group, which owns it; NULL: over the port
    uint8_t near_address[WIRE_ADDRESS_MAX];
    char transport[WIRE_LABEL_BYTES_MAX + 1];
    // Whom activations, or on the last stage ids, are sent to: their numbers at the port.
    uint32_t targets[WIRE_MEMBERS_MAX];
    uint32_t n_target;
    float *x;         // (max_tok, dim) of the first stage; others work in the received frame
    int32_t *chained; // (max_rows) of the first stage
    int32_t *pairs;   // (max_rows, 2) slot, id of the last stage
    struct compute_draw *draws;           // (n_slot) of the first stage
    uint64_t undrawn[WIRE_IN_FLIGHT_MAX]; // steps whose ids the last stage has not sent yet
    uint32_t n_undrawn;
    uint32_t *usage;      // (layers, n_expert) of the lead of a stage with experts
    int64_t usage_us;     // when it was told last
    struct compute_told { // what the last line about the profile had told; clock time of it
        int64_t at_us;
        uint64_t busy_us, wait_us, exchange_us;
    } told;
    int64_t looked_us;   // when compute_tick moved the port's bytes last
    uint64_t step_bytes; // weights that one token passes here
    uint64_t near_ns;    // that the device has waited in queues, as far as it was told
    struct arena arena;  // results of the step

    // read by the control thread
    struct stage_load load;
    _Atomic(struct stage *) running; // whose progress counts; NULL while loading
    _Atomic uint64_t loops, step_done, step_now, bytes_out, bytes_in, busy_us, wait_us, exchange_us;
};

static inline bool compute_is_first(const struct compute *c)
{
    return c->config.plan.stage == 0;
}
static inline bool compute_is_last(const struct compute *c)
{
    return c->config.plan.stage + 1 == c->config.plan.n_stage;
}
// Sends activations on, or draws ids and reports: one of each stage.
static inline bool compute_is_lead(const struct compute *c)
{
    return c->config.plan.member == 0;
}
// Takes part in a step from its start to its end; others own experts only.
static inline bool compute_is_dense(const struct compute *c)
{
    return c->config.plan.split != SPLIT_EXPERTS || compute_is_lead(c);
}
static inline uint32_t compute_members_of(const struct msg_plan *p, uint32_t stage)
{
    return p->n_member[stage] ? p->n_member[stage] : 1;
}
// Draws the ids itself; other dense members of the first stage are sent them.
static inline bool compute_draws(const struct compute *c)
{
    return compute_is_last(c) && compute_is_lead(c);
}

struct compute_wait {
    int64_t spin_until_us, deadline_us; // deadline 0: none
    const char *what;                   // for the sentence when the deadline passes
};
// A wait looks for what it waits for between these two: moves the ports' bytes, and rests (spins,
// then sleeps until something happens). ERR_CANCELLED when asked to stop, ERR_TIMEOUT, ERR_LINK.
err_t compute_progress(struct compute *c, struct err_text *why);
err_t compute_rest(struct compute *c, const struct compute_wait *w, struct err_text *why);
// Between the halves of a step's layers (stage_config.tick): what is on its way through the lane's
// port goes on while this worker computes.
void compute_tick(void *arg);
// Sleeps until something happens, not long. until_us 0: no matter when.
void compute_nap(struct compute *c, int64_t until_us, int64_t now_us);
// When a wait of this step, from now on, has lasted too long for the others to be still computing.
int64_t compute_patience_us(const struct compute *c, uint32_t n_tok);
// Waits for the next parcel.
err_t compute_take(struct compute *c, struct compute_parcel **out, struct err_text *why);
void compute_spend(struct compute *c, struct compute_parcel *p);
err_t compute_post(struct compute *c, const struct msg *m, struct err_text *why);

// LOAD to LINKED (compute_prepare.c).
err_t compute_prepare(struct compute *c, struct err_text *why);
err_t compute_link(struct compute *c, struct err_text *why);
// The road between the members of a stage (compute_group.c). Alone: nothing is opened, OK.
uint64_t compute_group_bytes(const struct compute *c, const struct model *m);
err_t compute_group_open(struct compute *c, struct err_text *why);
// The group that the stage uses; NULL: alone.
struct group *compute_group_now(const struct compute *c);
// How its members reach each other.
const char *compute_group_transport(struct compute *c);
err_t compute_group_connect(struct compute *c, const struct msg_connect *m, struct err_text *why);
struct port *compute_group_port(struct compute *c); // NULL: none
void compute_group_close(struct compute *c);
// Now and then: how often each expert was chosen.
err_t compute_usage_open(struct compute *c, struct err_text *why);
err_t compute_usage_post(struct compute *c, struct err_text *why);
// One step (compute_step.c).
err_t compute_step(struct compute *c, const struct step *st, struct err_text *why);
