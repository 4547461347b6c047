// coordinator_priv: the coordinator's inside, shared by coordinator.c (its life) and flow.c (its
// work: requests in, steps out, results in, events to their listeners).
#pragma once
#include "coordinator/cluster_json.h"
#include "coordinator/coordinator.h"
#include <pthread.h>

enum {
    COORDINATOR_POLL_MS = 50,      // looks at *stop
    COORDINATOR_MOVES_MAX = 3,     // losses a request may see without a new token between them
    COORDINATOR_PARTING_MS = 1000, // after the last request: for the door to write its answers
    COORDINATOR_RETRY_S = 5,
    COORDINATOR_JOINS_MAX = 64, // links waiting to be taken by the loop
};

// What the coordinator keeps of a request; lives in the request's arena.
struct flow_live {
    const struct engine_listener *listener;
    bool is_cancelled; // tokens still in the queue are not told
    err_t failed;      // other than OK: all its events become one on_error
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
    struct sched *sched;
    struct fleet *fleet;
    struct door *door;
    struct place_want want;
    struct metrics metrics;
    int64_t started_us;
    uint32_t n_taken; // of config.local

    bool is_serving; // between on_serve and on_suspend
    bool is_draining;
    bool has_canary;        // canary.c's request is under way
    int64_t result_us;      // last result, or when serving began
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
extern const struct fleet_listener flow_listener; // arg: the coordinator
// Ends every request with this error.
void flow_fail_all(struct coordinator *c, err_t code, const char *sentence, uint32_t retry_after_s);
bool flow_is_idle(const struct coordinator *c);
