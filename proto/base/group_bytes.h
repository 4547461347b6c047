// group_bytes: what handing activations from device to device (kernels/group.h) takes of a device's
// memory: the backend takes as much, the worker asks for it before it loads, and the planner counts
// it.
#pragma once
#include <stdbool.h>
#include <stdint.h>

// NCCL has for each connection (a ring's, and one with each other member, each GROUP_BYTES_CTAS
// times) a buffer of each of its protocols: 4 MiB (NCCL_BUFFSIZE), 4.7 and 0.5; and tables.
enum {
    GROUP_BYTES_NCCL = 8 << 20, // each of two buffers, or the widest row
    GROUP_BYTES_PEERS = 1 << 20,
    GROUP_BYTES_SLOT = 1 << 20, // one way
    GROUP_BYTES_SLOTS_MIN = 4,
    GROUP_BYTES_CTAS = 8,
    GROUP_BYTES_CONNECTION = 10 << 20,
    GROUP_BYTES_TABLES = 16 << 20,
};
static inline uint64_t group_bytes_buffer(uint64_t least, uint64_t row_bytes)
{
    return ((row_bytes > least ? row_bytes : least) + 255) / 256 * 256;
}
static inline int32_t group_bytes_slots(uint64_t row_bytes, uint64_t queue_bytes)
{
    const uint64_t slot = group_bytes_buffer(GROUP_BYTES_SLOT, row_bytes);
    const uint64_t n = (queue_bytes + slot - 1) / slot;
    return n > (uint64_t)GROUP_BYTES_SLOTS_MIN ? (int32_t)n : (int32_t)GROUP_BYTES_SLOTS_MIN;
}

// The fields of struct kernels_group_config that it depends on.
struct group_bytes_of {
    int32_t n_member;
    bool gives; // one way: member 0
    bool nccl, peers;
    uint64_t row_bytes, queue_bytes;
};
// Of both roads that can be the most.
uint64_t group_bytes(const struct group_bytes_of *g);
// What stages hand on: two steps at once, one that is taken, one in the making.
static inline uint64_t group_bytes_queue(uint64_t max_tok, uint64_t row_bytes)
{
    return 2 * max_tok * row_bytes;
}
