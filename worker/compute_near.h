// compute_near: what goes from device to device, past the host: between the members of a stage,
// from the stage before to this one, and from this one to the next. Each of these ways is a
// kernels_group of its own, whose members agree over a port beside it (`side`) whether it works at
// all of them; where it does not, the host's road is taken. Owned by the compute thread.
#pragma once
#include "kernels/group.h"
#include "proto/link/group.h"
#include "proto/wire/wire.h"

struct compute;
struct stage_config;

enum near_way { NEAR_GROUP, NEAR_BEFORE, NEAR_AFTER, NEAR_WAYS };

struct compute_near {
    struct kernels_group *offered; // until all are connected; NULL: nothing to offer
    struct kernels_group *inner;   // since then; NULL: over the host
    struct group *side;            // of NEAR_GROUP: the group itself, not ours to close
    char why[160];                 // why over the host; empty: there is no such way here
};

// Of the device, for all ways that will be offered.
uint64_t compute_near_bytes(const struct compute *c, const struct stage_config *stage);
// When the stage is there: takes what will be offered. No way is ERR_UNSUPPORTED: the host's road.
err_t compute_near_open(struct compute *c, struct err_text *why);
// What the others are told: three records, each of two lengths and as many bytes: of the side's
// address, of the offer. At most `cap` bytes; of ways that do not fit nothing is told.
uint32_t compute_near_address(struct compute *c, uint8_t *out, uint32_t cap);
// Takes such a record out of a peer's address. ERR_LINK_PROTOCOL: it is damaged.
struct near_record {
    const uint8_t *side, *offer; // NULL: none
    uint32_t n_side;
};
err_t compute_near_record(const struct msg_peer *peer, enum near_way way, struct near_record *out,
                          struct err_text *why);
// The members of the way that are not the group's connect their sides; then all try the way.
err_t compute_near_connect(struct compute *c, enum near_way way, const struct msg_connect *m,
                           struct err_text *why);
const char *compute_near_name(const struct compute_near *n); // of its roads
// What the device spent waiting in queues since the call before; after their status.
uint64_t compute_near_wait_us(struct compute *c);
// Helps devices on where they need that, and looks for errors.
err_t compute_near_progress(struct compute *c, struct err_text *why);
void compute_near_end(struct compute *c);
void compute_near_close(struct compute *c, enum near_way way);
