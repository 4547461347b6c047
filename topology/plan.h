// plan: which devices run which layers, alone or as a group (share.h). Exact dynamic programming
// over (layers done, devices used, last group): of all orders of the devices, all contiguous cuts
// of the layers and all groups allowed, the one that is best for the goal by the figures of cost.h.
// Equal devices count as one class, so clusters of many alike machines stay cheap. Pure: no I/O, no
// clock.
#pragma once
#include "topology/cost.h"
#include "topology/share.h"

struct buf;

enum plan_goal {
    PLAN_LATENCY,    // shortest decode step of one batch: sum of stages and hops
    PLAN_THROUGHPUT, // many batches in flight: shortest longest stage or busy link
    PLAN_FIT,        // fewest stages
};

enum { PLAN_HOP_US = 5000 }; // links slower than this are for lanes, not for stages

struct plan_ask {
    enum plan_goal goal;
    int32_t n_stage_min, n_stage_max; // 0: no bound; both n: exactly n stages
    double hop_us_max;                // 0: PLAN_HOP_US; stages never meet over a slower link
    // Groups: the split that may be used (SPLIT_NONE: none; SPLIT_COUNT: whichever is best), and
    // how many members each stage has (0: the planner's choice; SPLIT_NONE: 1).
    enum share_split split;
    int32_t n_member;
    // With SPLIT_EXPERTS: where a group's devices are alike each may have its rows of every matrix,
    // as in a tensor group (SPLIT_TENSOR), if that is faster than whole experts and a lead that has
    // all the rest. Not where parts are given: they are meant for the experts.
    bool divides_dense;
    uint32_t part[SHARE_MEMBERS_MAX]; // of each member, in the order of devices; all 0: by speed
    struct cost_ask cost;
};

struct plan_member {
    int32_t device;               // index in the cluster
    uint32_t part;                // of SHARE_TOTAL
    double decode_us, prefill_us; // its own work of one step
    struct cost_memory memory;
};

struct plan_stage {
    int32_t layer_from, layer_to; // [from, to)
    enum share_split split;
    int32_t n_member; // members[0] is the lead
    struct plan_member members[SHARE_MEMBERS_MAX];
    double decode_us, prefill_us; // one step, what members hand each other included
    double exchange_us;           // of decode_us, that
    double kinds_us[COST_KINDS];  // what decode_us is made of
    double hop_us;                // decode frame to the next stage, 0 after the last
};

struct plan {
    enum plan_goal goal;
    int32_t n_stage;
    struct plan_stage stages[CLUSTER_DEVICES_MAX];
    double decode_us;     // a decode step from first stage to last, hops included
    double bottleneck_us; // its longest stage or busy link
    double prefill_us;    // the same of a prefill step
    double stream_tok_s;  // of each request of a batch, one batch in flight
    double total_tok_s;   // of all, with as many batches in flight as keep every stage busy
    double prefill_tok_s; // prompt tokens, chunks following each other through the stages
    bool order_as_listed; // too many different devices to try all orders: took the given one
    uint8_t hash[32];     // SHA-256 of the assignment, the ask and the model's hash
};

// ERR_CAPACITY if no placement exists: the sentence says what is short and by how many bytes.
// ERR_INVALID if the ask or the cluster is not sensible.
err_t plan_make(const struct cost_model *m, const struct cluster *c, const struct plan_ask *ask,
                struct plan *out, struct err_text *why);

// Lanes: disjoint sets of devices, each with a placement of the whole model, chosen so that the sum
// of what they give (total_tok_s) is largest. Devices beyond hop_us_max of each other are never in
// one. The goal and the bounds of stages do not count. out: room for c->n_device plans.
err_t plan_lanes(const struct cost_model *m, const struct cluster *c, const struct plan_ask *ask,
                 struct plan *out, int32_t *n_lane, struct err_text *why);

// Steps on their way at once that keep a lane busy: one in every stage, one more so that none waits
// for the coordinator, and as many more as the slowest stage could compute while a frame is on its
// way round (road_us: the links' latencies from each stage to the next, and back to the first).
enum { PLAN_ROAD_STEPS_MAX = 16 };
uint32_t plan_steps_in_flight(uint32_t n_stage, double slowest_us, double road_us);
// The fewest prompt tokens of a step that keep a device as busy as more would.
uint32_t plan_piece_tok(const struct cost_model *m, bool has_gpu);

// For people: every device on its own (the baseline), then the plan with its sums of memory and
// its speed. `p` NULL (plan_make found none): only the baseline, with what each device is short of.
void plan_text(const struct cost_model *m, const struct cluster *c, const struct plan_ask *ask,
               const struct plan *p, struct buf *out);
