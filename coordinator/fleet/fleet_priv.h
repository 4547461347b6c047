// fleet_priv: what fleet.c (workers, lane, timers) and guest.c (connections that are no workers
// yet) share.
#pragma once
#include "coordinator/fleet/fleet.h"
#include "proto/base/list.h"
#include "proto/link/identity.h"

enum {
    FLEET_TICK_MS = 125,
    FLEET_TICKS_PER_BEAT = WIRE_HEARTBEAT_MS / FLEET_TICK_MS,
    FLEET_BATCH = 64,           // messages of one worker before the others get their turn
    FLEET_GUESTS_MAX = 80,      // connections that said nothing yet
    FLEET_STRANGERS_MAX = 16,   // of these, without a certificate
    FLEET_GUEST_US = 5000000,   // to say HELLO or to take the certificate
    FLEET_GRUMBLE_US = 1000000, // at most one line per second about refused strangers
};

struct fleet {
    struct fleet_config config;
    struct lane lane;
    struct fleet_worker workers[LANE_WORKERS_MAX];
    struct fleet_stats stats;
    struct arena arena; // of the message being handled
    struct buf packed;  // of the message being sent
    uint64_t key_epoch;
    uint8_t key[16]; // frames of key_epoch
    int64_t told_us; // NO_CAPACITY since then was logged
    uint32_t n_tick;
    uv_timer_t timer;
    uv_idle_t later;         // runs while a worker is doomed or has more to read
    uv_handle_t *handles[3]; // that close with the fleet
    uint32_t n_handle;

    struct identity *identity;
    struct link_listener *listener;
    uv_poll_t listen_poll;
    struct list guests;
    uint32_t n_guest, n_stranger;
    int64_t grumbled_us;
    uint32_t n_hushed;
};

// The handle closes with the fleet, and the fleet's memory lives until it has.
void fleet_own_handle(struct fleet *f, uv_handle_t *h);
err_t fleet_pack_send(struct fleet *f, struct tether *c, const struct msg *m);
// A HELLO came over c: makes it a worker, or refuses it and closes c.
void fleet_welcome(struct fleet *f, struct tether *c, const struct msg_hello *h);

err_t guest_open(struct fleet *f, struct err_text *why);
void guest_close(struct fleet *f);
// Takes the link. is_own: a worker of this process.
err_t guest_add(struct fleet *f, struct link *link, bool is_own);
void guest_tick(struct fleet *f, int64_t now_us);
