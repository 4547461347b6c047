#include "proto/base/group_bytes.h"

uint64_t group_bytes(const struct group_bytes_of *g)
{
    const bool is_one_way = g->queue_bytes;
    const uint64_t slot = group_bytes_buffer(GROUP_BYTES_SLOT, g->row_bytes);
    const uint64_t slots = (uint64_t)group_bytes_slots(g->row_bytes, g->queue_bytes) * slot;
    uint64_t bytes = 64 << 10; // flags, and what is handed over as a test
    if (g->peers)
        bytes += is_one_way ? (g->gives ? 0 : slots)
                            : 2 * group_bytes_buffer(GROUP_BYTES_PEERS, g->row_bytes);
    if (!g->nccl) return bytes;
    // Connections that bring something.
    const uint64_t n = is_one_way ? !g->gives : (uint64_t)g->n_member;
    if (!is_one_way) bytes += 2 * group_bytes_buffer(GROUP_BYTES_NCCL, g->row_bytes);
    return bytes + n * GROUP_BYTES_CTAS * GROUP_BYTES_CONNECTION + GROUP_BYTES_TABLES;
}
