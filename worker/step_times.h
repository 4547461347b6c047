// step_times: measures steps of a model's own layers on this machine's CPU, through the stage that
// serves them (topology/pace.h says what for). Loads as many of the last layers as no cache holds
// and runs some steps of each size; two to five seconds, less memory than a gigabyte each.
#pragma once
#include "topology/model.h"
#include "topology/pace.h"

struct step_times_ask {
    const struct model *model;
    int32_t n_threads; // of a stage
    int32_t n_at_once; // stages that compute at the same time, as workers of one host do
    uint32_t kv_dtype, precision;
};

// Means; the median of all that compute at once. ERR_UNSUPPORTED: two of its layers are too
// large to be loaded for this. ERR_MEMORY and what stage_open gives.
err_t step_times_measure(const struct step_times_ask *ask, struct pace_times *out,
                         struct err_text *why);
