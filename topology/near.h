// near: what a worker's device has in its memory for what it hands others straight from device to
// device: within its stage, and to the stages before and behind it. The worker opens as much, the
// planner counts it.
#pragma once
#include "proto/base/group_bytes.h"
#include "topology/share.h"

// The widest row that the members of a stage hand each other.
uint64_t near_row_bytes(const struct model_shape *s);

struct near_stage {
    const struct share *share; // the worker's, in its stage
    bool is_first, is_last;    // the stage
    uint64_t wide_bytes;       // near_row_bytes
    uint64_t row_bytes;        // a row of activations
    uint64_t max_tok;
    bool nccl, peers; // which roads may be offered
};
// Experts' rows go to one member alone, which peers do not do.
uint64_t near_bytes(const struct near_stage *n);
