// bench_predict: what the cost model says of this machine, to be held against what is measured on
// it: worker processes that are the stages of a lane, or the members of one group.
#pragma once
#include "topology/cost.h"
#include "worker/step_times.h"

struct bench_predict_ask {
    enum share_split split;       // SPLIT_NONE: stages
    uint32_t n_worker, n_threads; // of each
    uint32_t batch, n_prompt, n_decode;
    uint32_t kv_elem_bits;
    bool is_served;   // over the front door, whose share of the cores counts, to clients of this
                      // machine
    struct rates all; // of all the machine's cores at work together
    struct cluster_link link; // between workers; bytes_per_s 0: what two of a host usually have
    // Measured steps, [i] while i + 1 workers compute; n_times 0: none, the operations count alone.
    const struct pace_times *times;
    uint32_t n_times;
};

struct bench_predict {
    double decode_tok_s; // of all requests together
    double prompt_tok_s; // of one prompt
};

// This machine's device as it computes with so many threads while the rest of the machine rests;
// measured now (`refresh`), or as kept from before.
err_t bench_predict_device(uint32_t n_threads, bool refresh, struct cluster_device *out,
                           struct err_text *why);
// Steps of this model's own layers, measured now or as kept from before.
err_t bench_predict_times(const struct step_times_ask *ask, bool refresh, struct pace_times *out,
                          struct err_text *why);
err_t bench_predict(const struct cost_model *m, const struct cluster_device *d,
                    const struct bench_predict_ask *ask, struct bench_predict *out,
                    struct err_text *why);
