// group: what the members of a stage hand each other straight from one device's memory to
// another's, in the order of the backend's operations: over NCCL, and, between devices of one
// machine that reach each other's memory, in one kernel of our own (peers). Nothing here adds
// numbers.
//
// Of a backend in a module only. All members call the same operations in the same order, which are
// given to the device's work like any other: only `status` waits. What goes wrong (a member that
// died, a deadline, a stop) ends the work that is under way, sticks, and is told by `status`; the
// data means nothing then. While a group is open, every wait for the device is one of the group's:
// it calls `rest` and has the deadline. Owned by the compute thread; nothing is allocated after
// connect.
#pragma once
#include "kernels/kernels.h"
#include "proto/base/group_bytes.h"

enum { KERNELS_OFFER_BYTES = 384, KERNELS_MEMBERS_MAX = 16 };
enum { KERNELS_ROAD_NCCL = 1, KERNELS_ROAD_PEERS = 2 };

struct kernels_group_config {
    int32_t n_member, member;
    uint32_t roads;     // those that may be offered
    uint64_t row_bytes; // the widest row that is handed over; the same at all members
    // Not 0: member 0 gives rows to all others, who take them, and nothing else is asked for. About
    // as many bytes can be on their way; the same at all members.
    uint64_t queue_bytes;
    int64_t deadline_us;
    // Called again and again in a wait, to notice a stop (ERR_CANCELLED) and to do what must go on.
    err_t (*rest)(void *arg, int64_t since_us, struct err_text *why);
    void *rest_arg;
};

struct kernels_group {
    const struct kernels_group_ops *ops;
};

struct kernels_group_ops {
    void (*close)(struct kernels_group *g);
    // What the others must know of this member before they connect.
    void (*offer)(const struct kernels_group *g, uint8_t out[KERNELS_OFFER_BYTES]);
    // With the offers of all members, ours included. Each road is tried only where all offer it,
    // must hand over some rows unharmed, and is used only if it did at all of them: `agree` tells
    // whether `mine` was true at every member, ERR_LINK and so on if that cannot be found out.
    // ERR_UNSUPPORTED: no road; the sentence says why. Other errors: the group has failed.
    err_t (*connect)(struct kernels_group *g, const uint8_t (*offers)[KERNELS_OFFER_BYTES],
                     err_t (*agree)(void *arg, bool mine, bool *all), void *arg,
                     struct err_text *why);
    uint32_t (*roads)(const struct kernels_group *g); // in use, since connect

    // As in proto/link/group.h, in the backend's memory; `from` on the host.
    void (*gather)(struct kernels_group *g, float *y, int64_t n_row, int64_t ld,
                   const int64_t *from, int32_t root);
    // Over NCCL only. Rows row[i] of x (.., n_col), or all n_row; the other receives as many.
    void (*send)(struct kernels_group *g, int32_t to, const float *x, const int32_t *row,
                 int64_t n_row, int64_t n_col);
    void (*recv)(struct kernels_group *g, int32_t from, float *y, int64_t n_row, int64_t n_col);
    // One way (queue_bytes): rows (n_row, n_col) of member 0 for all others, each of which takes
    // the same numbers in the same order. Member 0 may be ahead; the others wait.
    void (*give)(struct kernels_group *g, const float *x, int64_t n_row, int64_t n_col);
    void (*take)(struct kernels_group *g, float *y, int64_t n_row, int64_t n_col);
    // How long the device was at give and take, waiting for others, all of its groups together. Of
    // what is done: after status.
    uint64_t (*queue_ns)(const struct kernels_group *g);
    // Whether a gather of so many rows can be part of a recorded step.
    bool (*is_recordable)(const struct kernels_group *g, int64_t n_row, int64_t ld);
    // For waits elsewhere: helps the device on where it needs that, and looks for errors.
    err_t (*progress)(struct kernels_group *g, struct err_text *why);
    // First error; OK: none, and all that was asked for is done.
    err_t (*status)(struct kernels_group *g, struct err_text *why);
    // Ends what is under way; nothing is done any more. Of several groups of a device all are ended
    // before the first is closed.
    void (*end)(struct kernels_group *g);
};

// Takes its memory (proto/base/group_bytes.h), and connects to nobody yet. `k` outlives the group.
// ERR_UNSUPPORTED: no road can be offered (the sentence says why), ERR_MEMORY.
err_t kernels_group_open(struct kernels *k, const struct kernels_group_config *c,
                         struct kernels_group **out, struct err_text *why);
// Version of the machine's NCCL, 22907 for 2.29.7. ERR_UNSUPPORTED: there is none.
//
// Several members on one device: up to 2.29 NCCL refuses two ranks of one host on one device
// ("Duplicate GPU detected"), and knows hosts by name and boot id or by NCCL_HOSTID, so another
// NCCL_HOSTID for each worker passes; such members take each other for machines and go over
// sockets. From 2.30 on NCCL_MULTI_RANK_GPU_ENABLE=1 allows it (experimental, its guide says: two
// ranks by default; GROUP_BYTES_CTAS leaves room for more). Peers need neither.
enum { KERNELS_NCCL_SHARES_GPU = 23000 };
err_t kernels_group_nccl(int32_t *version, struct err_text *why);
// Interfaces and adapters that NCCL may use, from a list such as "lo" or "eth0,mlx5_0:1" (NULL:
// "lo"): through NCCL's own variables, unless they are set. Before there are other threads.
void kernels_group_trust(const char *devices);
