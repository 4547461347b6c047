// coordinator_priv: the coordinator's inside, shared by coordinator.c (its life), flow.c (its work:
// requests in, steps out, results in, events to their listeners) and flow_lanes.c (which lane has
// which request).
#pragma once
#include "coordinator/cluster_json.h"
#include "coordinator/coordinator.h"
#include "coordinator/steer.h"
#include <pthread.h>

enum {
    COORDINATOR_POLL_MS = 50,      // looks at *stop
    COORDINATOR_MOVES_MAX = 3,     // losses a request may see without a new token between them
    COORDINATOR_PARTING_MS = 1000, // after the last request: for the door to write its answers
    COORDINATOR_RETRY_S = 5,
    COORDINATOR_JOINS_MAX = 64, // links waiting to be taken by the loop
};

// The requests of one lane of the fleet, which has the same number.
struct flow_lane {
    struct coordinator *owner;
    uint32_t number;
    struct sched *sched;
    bool is_serving;          // between on_serve and on_suspend
    bool has_canary;          // canary.c's request is under way
    struct place_speed speed; // predicted, of the placement that serves
    int64_t result_us;        // last result, or when serving began; 0: never
};

// What the coordinator keeps of a request; lives in the request's arena.
struct flow_live {
    const struct engine_listener *listener;
    struct flow_lane *lane; // that has it now
    bool is_cancelled;      // tokens still in the queue are not told
    err_t failed;           // other than OK: all its events become one on_error
    struct err_text why;
    uint32_t retry_after_s;
    uint32_t n_move;         // losses since the last new token
    int64_t last_token_us[]; // (n_choice)
};

struct coordinator {
    struct engine engine; // first: what the door holds
    struct coordinator_config config;
    uv_loop_t loop;
    struct model *model;
    struct tokenizer *tokenizer;
    struct template *template;
    struct engine_model engine_model;
    struct arena arena; // of the model's names and end ids
    struct flow_lane lanes[FLEET_LANES_MAX];
    uint64_t last_order; // of requests, in all lanes
    struct steer steer;
    struct fleet *fleet;
    struct door *door;
    struct place_want want;
    struct metrics metrics;
    int64_t started_us;
    uint32_t n_taken; // of config.local

    bool is_draining;
    struct err_text reason; // of engine_state
    int32_t n_vocab;

    // Events taken out of the scheduler and not told yet. Never more than three for each choice.
    struct sched_event *events;
    uint32_t n_event, event_at, cap_event;
    uint32_t n_choice; // live ones
    bool is_telling;

    uv_timer_t timer;
    uv_async_t joined;
    pthread_mutex_t join_lock; // guards joins
    struct link *joins[COORDINATOR_JOINS_MAX];
    uint32_t n_join;

    atomic_int *stop;
    int64_t drain_us;   // when draining began; 0: not yet
    int64_t parting_us; // when the last request was gone
    err_t result;       // of coordinator_run
};

extern const struct engine_ops flow_ops;
// Ends every request with this error.
void flow_fail_all(struct coordinator *c, err_t code, const char *sentence, uint32_t retry_after_s);
void flow_fail_lane(struct flow_lane *l, err_t code, const char *sentence, uint32_t retry_after_s);
bool flow_is_idle(const struct coordinator *c);
bool flow_lane_is_idle(const struct flow_lane *l);
// Takes the request into this lane: for canaries. OK, or what sched_submit says.
err_t flow_submit_to(struct flow_lane *l, struct request *r, const struct engine_listener *e,
                     struct err_text *why);
// After anything that may have changed what can run and what is to be told.
void flow_go_on(struct coordinator *c);
// The scheduler's new events are kept for their listeners, who hear them with flow_tell.
void flow_collect(struct flow_lane *l);
void flow_tell(struct coordinator *c);
err_t flow_result(void *arg, uint32_t lane, const struct step_result *r, struct err_text *why);

// -- flow_lanes.c --
extern const struct fleet_listener flow_listener; // arg: the coordinator
// The lane for a new request among those not in `refused` (a bit each): one that is open, or where
// it waits until one is; NULL: all are refused.
struct flow_lane *flow_choose(struct coordinator *c, const struct request *r, uint32_t refused);
// A lane takes new requests now.
bool flow_is_open(const struct flow_lane *l);
// Requests that wait in a full lane while another has room go there.
void flow_level(struct coordinator *c);
