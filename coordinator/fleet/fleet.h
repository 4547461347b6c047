// fleet: the workers of this coordinator: their links, their words (proto/wire), and the lane they
// make up. Carries out what the lane's state machine decides; hands results up, sends steps down.
// Everything runs on the loop's thread.
#pragma once
#include "coordinator/fleet/tether.h"
#include "coordinator/fleet/lane.h"

struct fleet;

// What the fleet tells its owner. on_suspend and on_serve bracket the time in which steps may be
// sent; on_result's error drops the worker that sent it.
struct fleet_listener {
    void *arg;
    void (*on_serve)(void *arg, const struct place *p, uint64_t epoch);
    void (*on_suspend)(void *arg);
    err_t (*on_result)(void *arg, const struct step_result *r, struct err_text *why);
    void (*on_give_up)(void *arg, const char *sentence);
    bool (*is_busy)(void *arg); // requests are running or waiting
};

struct fleet_config {
    uv_loop_t *loop;
    const char *cluster;     // name
    const char *state_dir;   // NULL: no workers from outside
    const char *join_listen; // NULL: none
    struct place_want want;
    uint32_t n_expect;
    int64_t grace_us;
    struct fleet_listener listener;
};

// One connected worker, for status and metrics. Strings live in `arena`.
struct fleet_worker {
    struct fleet *fleet;
    uint32_t number;
    struct tether *tether; // NULL: this number is free
    struct arena arena;
    struct msg_hello hello;
    int64_t joined_us, beat_us;
    struct msg_heartbeat beat;
    uint8_t address[WIRE_ADDRESS_MAX]; // of the data port, this epoch
    uint32_t n_address;
    uint64_t weight_bytes, kv_bytes, work_bytes; // effective, this epoch
    uint32_t load_ms;
    double next_latency_us, next_bytes_per_s; // measured to the next stage
    char transport[32];
    bool has_more; // its link was left with unread messages
    bool is_doomed;
    struct err_text doom;
};

struct fleet_stats {
    uint64_t deaths, refused, enrolled, plans, results;
};

err_t fleet_open(const struct fleet_config *c, struct fleet **out, struct err_text *why);
int fleet_port(const struct fleet *f); // of the listener; 0: none
// A worker of this process; the link becomes the fleet's. Its peer name is the worker's name.
err_t fleet_add(struct fleet *f, struct link *link);
// Sends one step to every stage. Only between on_serve and on_suspend. ERR_TOO_LARGE, ERR_MEMORY:
// nothing was sent, and this epoch cannot go on: fleet_renew.
err_t fleet_send(struct fleet *f, const struct step *s);
// Begins a new epoch with the same workers.
void fleet_renew(struct fleet *f);
// Closes all links. The loop must turn once more before it is closed itself.
void fleet_close(struct fleet *f);

const struct lane *fleet_lane(const struct fleet *f);
const struct fleet_worker *fleet_worker(const struct fleet *f, uint32_t number); // NULL: free
struct fleet_stats fleet_stats_get(const struct fleet *f);
const char *fleet_cluster(const struct fleet *f);
