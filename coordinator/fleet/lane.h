// lane: what happens to one lane (one complete copy of the model over some workers) when workers
// come, load, fail, fall silent and go. A pure state machine: events with the time in, actions out;
// no I/O and no clock, so a simulation can run it through any history. A stage may be several
// workers (a group); whatever happens to any member happens to the lane's epoch.
//
//   WAITING ------- n_expect usable workers are there ---------------> plan
//   plan ---------- a placement fits: epoch+1, PLAN to its members --> LOADING
//        ---------- none fits ---------------------------------------> NO_CAPACITY
//   LOADING ------- every member said PREPARED: CONNECT to all ------> LINKING
//   LINKING ------- every member said LINKED: serve -----------------> READY
//   LOADING, LINKING, READY --- a member is lost or failed ----------> plan
//   READY --------- fewer workers than wanted, one came, idle --------> plan
//   NO_CAPACITY --- a worker came ------------------------------------> plan
//
// Every wait has a deadline: silence LANE_SILENCE_US, loading LANE_LOAD_US (while heartbeats come;
// counted anew while a member copies the model's files),
// linking LANE_LINK_US, a step max(LANE_STEP_US, 10 * median) with a standing compute loop.
// Invariants: epochs only grow, and no two lanes of a coordinator have one in common; a plan's
// messages go to its living members only; whatever carries an older epoch changes nothing; a member
// that breaks the protocol is dropped by name.
#pragma once
#include "coordinator/fleet/place.h"

enum {
    LANE_WORKERS_MAX = WIRE_STAGES_MAX,
    LANE_SILENCE_US = 2200000,
    LANE_LINK_US = 10000000,
    LANE_LOAD_US = 600000000,
    LANE_STEP_US = 5000000,        // least age at which a step is suspicious
    LANE_STAND_US = 3000000,       // compute loop that stands this long is stuck
    LANE_STEP_HARD_US = 300000000, // no step may take longer, moving or not
    LANE_STRIKES = 3,              // failures in LANE_STRIKE_US put a worker out
    LANE_STRIKE_US = 60000000,
    LANE_STEPS_MAX = 128, // steps on their way, at most
    LANE_LATENCIES = 64,
    LANE_ACTIONS_MAX = 2 * LANE_WORKERS_MAX + 32,
};

enum lane_state { LANE_WAITING, LANE_LOADING, LANE_LINKING, LANE_READY, LANE_NO_CAPACITY };

enum lane_role {
    LANE_ABSENT,   // no worker has this number
    LANE_STANDBY,  // connected, no part in the current plan
    LANE_OUT,      // failed LANE_STRIKES times in a minute: not used until it reconnects
    LANE_LOADER,   // PLAN sent
    LANE_PREPARED, // PREPARED received
    LANE_LINKER,   // CONNECT sent
    LANE_SERVER,   // LINKED received
};

struct lane_worker {
    enum lane_role role;
    bool is_fit;     // may take part in new plans
    uint32_t member; // of LOADER and later: index in place.members
    uint32_t n_strike;
    int64_t strike_us[LANE_STRIKES];
    int64_t heard_us; // last message
    uint64_t progress;
    int64_t progress_us; // when progress last moved
    uint64_t step_done;  // of the current epoch, as its heartbeats say
};

enum lane_action_kind {
    LANE_SEND_PLAN,    // to `worker`, from lane.place
    LANE_SEND_CONNECT, // to `worker`
    LANE_LEFT,         // `worker` is gone: tell why
    LANE_DROP,         // `worker` must go: REFUSE(code, why, is_final), close its link, tell why
    LANE_STRUCK,       // `worker` failed this epoch: tell why
    LANE_SUSPEND,      // no steps until LANE_SERVE
    LANE_SERVE,        // lane.place serves as lane.epoch
    LANE_GIVE_UP,      // no placement came back within the grace: running requests end
};

struct lane_action {
    enum lane_action_kind kind;
    uint32_t worker;
    err_t code;
    bool is_final;
    bool had_stage; // what the worker had to do in the plan it left
    uint32_t stage, layer_from, layer_to;
    struct err_text why;
};

// Chooses a placement among the usable workers. Called inside events.
typedef err_t lane_place_fn(void *arg, const uint32_t *workers, uint32_t n, struct place *out,
                            struct err_text *why);

struct lane_config {
    uint32_t n_expect; // >= 1
    uint32_t n_wanted; // members of a whole placement; >= 1
    int64_t grace_us;  // how long NO_CAPACITY may last before running requests end
    // The newest epoch that any lane of this coordinator has begun: workers go from lane to lane,
    // and to them epochs must grow.
    uint64_t *last_epoch;
    lane_place_fn *place;
    void *place_arg;
};

struct lane {
    struct lane_config config;
    enum lane_state state;
    uint64_t epoch;
    struct place place; // of LOADING, LINKING, READY
    struct lane_worker workers[LANE_WORKERS_MAX];
    int64_t deadline_us; // LOADING, LINKING
    int64_t since_us;    // when the state was entered
    int64_t tick_us;     // last tick
    bool was_ready;      // served at least once
    bool gave_up;
    bool is_torn;   // a member was replaced, the plan is yet to be made
    bool has_news;  // a worker came since the last look for a wider placement
    bool is_held;   // see lane_hold
    err_t why_code; // NO_CAPACITY: why no placement fits
    struct err_text why;
    err_t left_code; // the last worker lost since the lane served; OK: none
    struct err_text left;

    uint64_t step_sent, step_done; // numbers within the epoch
    int64_t sent_us[LANE_STEPS_MAX];
    int64_t busy_us;     // since when there was always a step on its way; 0: there is none
    int64_t result_us;   // last result, or the moment READY began
    int64_t all_done_us; // since when every member says that the oldest step is done; 0: not so
    int64_t latency_us[LANE_LATENCIES];
    uint64_t n_latency;

    struct lane_action actions[LANE_ACTIONS_MAX];
    uint32_t n_action, action_at;
};

void lane_init(struct lane *l, const struct lane_config *c, int64_t now_us);

// Events. After each, take the actions with lane_next until there is none.
void lane_join(struct lane *l, uint32_t worker, bool is_fit, int64_t now_us);
// The worker connected again: its old connection is gone, lane_join for the new one follows at
// once.
void lane_replaced(struct lane *l, uint32_t worker, const char *why);
void lane_lost(struct lane *l, uint32_t worker, const char *why, int64_t now_us);
// The worker is no longer this lane's business, with no word of loss: it goes to another lane, or
// home.
void lane_dismiss(struct lane *l, uint32_t worker, int64_t now_us);
// From now on the worker may not take part in new plans; what it does now goes on.
void lane_spare(struct lane *l, uint32_t worker);
// How many workers to wait for, and how many members make a whole placement, are other numbers now.
void lane_expect(struct lane *l, uint32_t n_expect, uint32_t n_wanted, int64_t now_us);
// While held, nothing is begun that could wait: no first plan, no wider one.
void lane_hold(struct lane *l, bool is_held, int64_t now_us);
void lane_violated(struct lane *l, uint32_t worker, err_t code, const char *why, int64_t now_us);
void lane_beat(struct lane *l, uint32_t worker, const struct msg_heartbeat *m, int64_t now_us);
void lane_prepared(struct lane *l, uint32_t worker, const struct msg_prepared *m, int64_t now_us);
void lane_linked(struct lane *l, uint32_t worker, const struct msg_linked *m, int64_t now_us);
void lane_failed(struct lane *l, uint32_t worker, const struct msg_failed *m, int64_t now_us);
// True: the result belongs to the current plan and may be committed. False: it was dropped.
bool lane_result(struct lane *l, uint32_t worker, uint64_t epoch, uint64_t number, int64_t now_us);
// The epoch cannot go on for reasons of our own: the same workers begin a new one.
void lane_renew(struct lane *l, int64_t now_us);
// A step went out. Only in READY, in order.
void lane_sent(struct lane *l, uint64_t number, int64_t now_us);
// At least every 250 ms. is_busy: requests are running or waiting.
void lane_tick(struct lane *l, bool is_busy, int64_t now_us);

bool lane_next(struct lane *l, struct lane_action *out);

uint32_t lane_n_usable(const struct lane *l);
bool lane_is_member(const struct lane *l, uint32_t worker);
int64_t lane_median_us(const struct lane *l); // of the last step times; 0: none yet
// The oldest step on its way and since when it could run; 0: none.
uint64_t lane_oldest(const struct lane *l, int64_t *since_us);
const char *lane_state_name(enum lane_state s);
const char *lane_role_name(enum lane_role r);
// One line: what the lane does now.
void lane_describe(const struct lane *l, struct err_text *out);
