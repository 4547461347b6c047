// coordinator: owns the front door, text, token histories, page numbers, the fleet; turns HTTP into
// steps and ids into HTTP. One thread, one libuv loop; template and tokenizer work of large
// requests goes to the loop's thread pool.
#pragma once
#include "coordinator/door/http.h"
#include "proto/link/link.h"
#include <stdatomic.h>

struct coordinator;

struct coordinator_config {
    const char *model;          // path
    const char *const *aliases; // further names callers may use, NULL-terminated or NULL
    struct door_config door;    // door.listen NULL: no front door (engine below is all there is)
    const char *state_dir;      // CA, certificates, tokens; NULL: no workers from outside
    const char *join_listen;    // "127.0.0.1:30001": where workers dial in; NULL: none
    int64_t cert_life_s;        // of workers' certificates; 0: 90 days
    struct link **local;        // links of workers in this process, taken over; peer: worker's name
    uint32_t n_local;
    uint32_t n_expect;  // workers to wait for before the first plan, >= 1
    uint32_t n_home;    // of these, started on this machine
    uint32_t n_lane;    // complete copies of the model that they make; 0: 1
    bool no_rebalance;  // experts stay where they are, however they are used
    uint32_t far_ms;    // round trip over which a worker is far, and a lane of its own; 0: none is
    uint32_t n_stage;   // of a lane; 0: as many as there are workers for; with a split: 1
    uint32_t split;     // enum share_split: each stage is a group that shares it
    uint32_t part[16];  // how much of a stage each member takes; all 0: by speed
    uint32_t ctx;       // tokens per sequence; 0: min(model's, 8192)
    uint64_t kv_tokens; // tokens of KV in all; 0: 4 * ctx, less if memory is short
    uint32_t max_tok;   // tokens of one step; 0: 256
    uint32_t n_slot;    // sequences at once; 0: 32
    uint32_t queue_max; // choices waiting; 0: 256
    uint32_t precision; // as in plan_settings
    uint32_t kv_dtype;  // F16, BF16, F32, Q8_0, F8_E4M3; 0: F16 (F32 when exact)
    uint32_t road;      // enum road; 0: local if all stages share the process, else UCX
    bool no_prefix_cache, no_chain;
    uint32_t grace_ms;  // how long running requests wait for a placement to come back; 0: 10 s
    uint32_t drain_ms;  // SIGTERM: how long streams may finish; 0: 30 s
    uint32_t canary_ms; // nothing ran for so long: one token of our own goes through; 0: 10 s
};

// ERR_MODEL, ERR_CONFIG, ERR_SYSTEM.
err_t coordinator_open(const struct coordinator_config *c, struct coordinator **out,
                       struct err_text *why);
int coordinator_http_port(const struct coordinator *c); // 0: none
int coordinator_join_port(const struct coordinator *c); // 0: none
// What the front door is given; for callers in this process, on the loop's thread.
struct engine *coordinator_engine(struct coordinator *c);
// A worker of this process comes (again): its link, taken over also on error. Any thread.
err_t coordinator_join(struct coordinator *c, struct link *link);
// Runs until *stop is nonzero (checked at least every 100 ms); 1 drains first, 2 leaves at once.
// OK then. If no worker can come from outside and those at hand cannot serve the model at all, it
// returns why (ERR_CAPACITY, or what a worker failed with), which was logged.
err_t coordinator_run(struct coordinator *c, atomic_int *stop);
void coordinator_close(struct coordinator *c);
