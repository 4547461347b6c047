// profile: where the time of a stage's steps went, in words (kernels_profile).
#pragma once
#include "kernels/kernels.h"
#include "proto/base/buf.h"

// What the operations' times are part of, in microseconds.
struct profile_times {
    uint64_t all_us;      // 0: only steps were measured
    uint64_t busy_us;     // in steps
    uint64_t exchange_us; // of these, waiting for the other members of a group
    uint64_t wait_us;     // of the rest, waiting for activations and drawn ids of other stages
};
// One line for each operation that was called, the dearest first, then the threads' barriers and
// what lies beside the operations.
void profile_table(const struct kernels_profile *p, const struct profile_times *t, struct buf *out);
// One line for the log.
void profile_line(const struct kernels_profile *p, const struct profile_times *t, struct buf *out);
