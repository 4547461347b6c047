// fleet_priv: what fleet.c (workers, timers), crewing.c (who is in which lane), orders.c (what the
// lanes decided, carried out) and guest.c (connections that are no workers yet) share.
#pragma once
#include "coordinator/fleet/depot.h"
#include "coordinator/fleet/fleet.h"
#include "coordinator/fleet/survey.h"
#include "proto/base/list.h"
#include "proto/link/identity.h"

enum {
    FLEET_TICK_MS = 125,
    FLEET_TICKS_PER_BEAT = WIRE_HEARTBEAT_MS / FLEET_TICK_MS,
    FLEET_BATCH = 64,            // messages of one worker before the others get their turn
    FLEET_GUESTS_MAX = 80,       // connections that said nothing yet
    FLEET_STRANGERS_MAX = 16,    // of these, without a certificate
    FLEET_GUEST_US = 5000000,    // to say HELLO or to take the certificate
    FLEET_GRUMBLE_US = 1000000,  // at most one line per second about refused strangers
    FLEET_PARTING_US = 10000000, // for a worker that was told to go
    FLEET_MEMORY_US = 60000000,  // that plans count on less memory where there was too little
};

struct fleet {
    struct fleet_config config;
    struct fleet_lane lanes[FLEET_LANES_MAX];
    uint64_t last_epoch; // of all lanes
    struct fleet_worker workers[LANE_WORKERS_MAX];
    struct fleet_stats stats;
    struct depot *depot; // the model's files, for workers that lack them
    struct survey survey;
    uint8_t survey_key[16]; // of survey_round's ports
    uint64_t survey_round;
    struct arena arena; // of the message being handled
    struct buf packed;  // of the message being sent
    uint32_t n_tick;
    uv_timer_t timer;
    uv_idle_t later;         // runs while a worker is doomed or has more to read
    uv_handle_t *handles[3]; // that close with the fleet
    uint32_t n_handle;

    struct identity *identity;
    struct link_listener *listener;
    uv_poll_t listen_poll;
    struct list guests;
    uint32_t n_guest, n_stranger;
    int64_t grumbled_us;
    uint32_t n_hushed;
};

// The handle closes with the fleet, and the fleet's memory lives until it has.
void fleet_own_handle(struct fleet *f, uv_handle_t *h);
err_t fleet_pack_send(struct fleet *f, struct tether *c, const struct msg *m);
// A HELLO came over c: makes it a worker, or refuses it and closes c.
void fleet_welcome(struct fleet *f, struct tether *c, const struct msg_hello *h);
// Sends, or dooms the worker: one cannot be taken out in the middle of whatever found it broken;
// the loop's next turn does.
void fleet_tell(struct fleet_worker *w, const struct msg *m);
// Closes its link; its number is free.
void fleet_forget(struct fleet_worker *w);
static inline struct fleet_lane *fleet_lane_of(const struct fleet_worker *w)
{
    return &w->fleet->lanes[w->lane];
}

// -- orders.c --
// Does what the lane decided, until there is nothing left to do.
void orders_carry_out(struct fleet_lane *l);

// -- crewing.c --
void crewing_open(struct fleet *f, int64_t now_us);
// The worker is new (its lane is chosen or will be), or back in the lane it was in.
void crewing_join(struct fleet_worker *w, bool is_back, int64_t now_us);
// A heartbeat told a round trip.
void crewing_trip(struct fleet_worker *w, int64_t trip_us, int64_t now_us);
// Deals out spare hands, closes lanes without a worker, lets the drained go.
void crewing_tick(struct fleet *f, int64_t now_us);
err_t crewing_drain(struct fleet *f, const char *name, int64_t grace_us, struct err_text *why);
// Placement for one lane among these workers.
err_t crewing_place(const struct fleet *f, const struct place_want *want, const uint32_t *workers,
                    uint32_t n, struct place *out, struct err_text *why);

// -- surveying.c --
void surveying_open(struct fleet *f);
void surveying_join(struct fleet_worker *w, int64_t now_us);
void surveying_leave(struct fleet_worker *w);
err_t surveying_take(struct fleet_worker *w, const struct msg_surveyed *m, int64_t now_us,
                     struct err_text *why);
void surveying_tick(struct fleet *f, int64_t now_us);

// -- balancing.c --
err_t balancing_take(struct fleet_worker *w, const struct msg_usage *m, int64_t now_us,
                     struct err_text *why);
// Placement for the lane among these workers, with its table of experts while that holds.
err_t balancing_place(struct fleet_lane *fl, const uint32_t *workers, uint32_t n, struct place *out,
                      struct err_text *why);
// Begins a new epoch if another table is clearly better and nothing runs.
void balancing_tick(struct fleet_lane *fl, bool is_busy, int64_t now_us);
void balancing_close(struct fleet_lane *fl);
// usage_parts of the lane's placement.
bool balancing_parts(const struct fleet_lane *fl, double *out);
void balancing_json(const struct fleet_lane *fl, struct buf *out);

// -- straggling.c --
// A beat told how long the worker worked while its lane had steps on their way; a new epoch begins.
void straggling_count(struct fleet_worker *w, uint64_t work_us, uint64_t span_us);
void straggling_reset(struct fleet_worker *w);
// Now and then: who has become slow, or fast again, is logged and marked (slow_factor).
void straggling_tick(struct fleet_lane *fl);
// How many times as long as the others (their median) worker `at` takes; ratios (n) are times over
// what was planned. 0: nobody to compare with.
double straggling_factor(const double *ratios, uint32_t n, uint32_t at);

// -- trust.c --
// A worker wants another certificate; a violation if it may not ask.
err_t trust_take(struct fleet_worker *w, const struct msg_renew *m, int64_t now_us,
                 struct err_text *why);

// -- guest.c --
err_t guest_open(struct fleet *f, struct err_text *why);
void guest_close(struct fleet *f);
// Takes the link. is_own: a worker of this process.
err_t guest_add(struct fleet *f, struct link *link, bool is_own);
void guest_tick(struct fleet *f, int64_t now_us);
