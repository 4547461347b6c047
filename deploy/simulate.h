// simulate: a trace of requests on a cluster that need not exist. The planner lays out the lanes,
// the router and the schedulers decide as in a running coordinator (they are the same code), and
// the cost model says how long each stage takes for each step. Time is simulated; nothing is
// computed.
//
// What it does not know: time spent in the front door, and failures.
#pragma once
#include "deploy/trace.h"
#include "topology/plan.h"

struct simulate_ask {
    const struct cost_model *model;
    const struct cluster *cluster;
    uint32_t n_copy;          // the cluster so many times, side by side
    const struct plan *lanes; // of one copy
    uint32_t n_lane;
    uint32_t ctx, n_slot, max_tok, queue_max;
    uint64_t kv_tokens; // of each lane
    const struct trace *trace;
    double ttft_s, itl_s; // what counts as good
};

struct simulate_times { // seconds
    double mean, p50, p90, p99, most;
};

struct simulate_lane {
    uint32_t n_request;
    double busy[CLUSTER_DEVICES_MAX]; // of each stage, while its lane had work
};

struct simulate_result {
    uint32_t n_done, n_refused; // requests
    uint64_t prompt_tokens, cached_tokens, output_tokens, steps, preemptions;
    double seconds; // from the first arrival to the last token
    struct simulate_times ttft, itl, end_to_end;
    uint32_t n_good;             // requests that met both targets
    struct simulate_lane *lanes; // (n_copy * n_lane), free()
};

// ERR_INVALID, ERR_MEMORY, or what the scheduler refuses.
err_t simulate(const struct simulate_ask *ask, struct simulate_result *out, struct err_text *why);
