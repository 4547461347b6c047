// bench_predict: what the cost model says of this machine, to be held against what is measured on
// it: worker processes that are the stages of a lane, or the members of one group.
#pragma once
#include "topology/cost.h"

struct bench_predict_ask {
    enum share_split split;       // SPLIT_NONE: stages
    uint32_t n_worker, n_threads; // of each
    uint32_t batch, n_prompt, n_decode;
    uint32_t kv_elem_bits;
    struct rates all;         // of all the machine's cores at work together
    struct cluster_link link; // between workers; bytes_per_s 0: what two of a host usually have
};

struct bench_predict {
    double decode_tok_s; // of all requests together
    double prompt_tok_s; // of one prompt
};

// This machine's device as it computes with so many threads while the rest of the machine rests;
// measured now (`refresh`), or as kept from before.
err_t bench_predict_device(uint32_t n_threads, bool refresh, struct cluster_device *out,
                           struct err_text *why);
err_t bench_predict(const struct cost_model *m, const struct cluster_device *d,
                    const struct bench_predict_ask *ask, struct bench_predict *out,
                    struct err_text *why);
