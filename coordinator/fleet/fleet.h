// fleet: the workers of this coordinator: their links, their words (proto/wire), and the lanes they
// make up. Carries out what the lanes' state machines decide; hands results up, sends steps down.
// Everything runs on the loop's thread.
//
// A lane is one complete copy of the model. There are `n_lane` home lanes, among which the near
// workers are dealt out; a worker that is far away (the round trip of its control link), or asks
// for it, and can hold the model alone, is a lane of its own for as long as it is here.
#pragma once
#include "coordinator/fleet/lane.h"
#include "coordinator/fleet/tether.h"

struct fleet;

enum {
    FLEET_LANES_MAX = 16, // home lanes first
    FLEET_BEATS_MIN = 4,  // round trips measured before a worker counts as far
};

// What the fleet tells its owner. on_suspend and on_serve bracket the time in which steps may be
// sent to a lane; on_result's error drops the worker that sent it.
struct fleet_listener {
    void *arg;
    void (*on_serve)(void *arg, uint32_t lane, const struct place *p, uint64_t epoch);
    void (*on_suspend)(void *arg, uint32_t lane);
    err_t (*on_result)(void *arg, uint32_t lane, const struct step_result *r, struct err_text *why);
    void (*on_give_up)(void *arg, uint32_t lane, const char *sentence);
    // The lane was one worker's, and that is gone. Not serving any more.
    void (*on_close)(void *arg, uint32_t lane);
    bool (*is_busy)(void *arg, uint32_t lane); // requests are running or waiting there
};

struct fleet_config {
    uv_loop_t *loop;
    const char *cluster;     // name
    const char *state_dir;   // NULL: no workers from outside
    const char *join_listen; // NULL: none
    int64_t life_s;          // of workers' certificates; 0: 90 days
    // Of every lane; n_stage 0: as many as its workers make, n_member 0: its workers divided by
    // the stages.
    struct place_want want;
    uint32_t n_lane;   // home lanes, 1 to FLEET_LANES_MAX
    uint32_t n_expect; // workers to wait for before the first plan
    uint32_t n_home;   // of these, certainly near: started by us
    int64_t far_us;    // round trip over which a worker is far; 0: none is
    int64_t grace_us;
    bool no_rebalance; // experts stay divided by the members' parts
    struct fleet_listener listener;
};

// One connected worker, for status and metrics. Strings live in `arena`.
struct fleet_worker {
    struct fleet *fleet;
    uint32_t number;
    struct tether *tether; // NULL: this number is free
    struct arena arena;
    struct msg_hello hello;
    uint32_t lane;     // it belongs to exactly one
    bool has_model;    // it can read the model, or copy it from us
    bool is_dealt;     // its lane was chosen; until then it waits in the first one, unused
    bool is_far;       // by its round trips
    bool is_leaving;   // to be drained: no part in new plans
    bool is_dismissed; // was told to go
    uint32_t n_trip;   // round trips measured
    int64_t trip_us;   // the shortest
    int64_t leave_us;  // is_leaving: when it must go, ready or not; is_dismissed: since when
    // After it could not get the memory that a plan wanted: plans count on less for a while.
    uint64_t mem_most_bytes; // 0: on what it said
    int64_t mem_until_us;
    int64_t joined_us, beat_us;
    int64_t renewed_us; // when it got another certificate; 0: never
    struct msg_heartbeat beat;
    // Of this epoch, while the lane had steps on their way from beat to beat: how long that was,
    // and how long the compute loop worked (and did not wait for the members of its group).
    uint64_t load_span_us, load_work_us;
    uint64_t recent_span_us, recent_work_us; // the same since straggling.c looked last
    double slow_factor; // its time over the planned, by the others of its lane; 0: as planned
    uint8_t address[WIRE_ADDRESS_MAX]; // of the data port, this epoch
    uint32_t n_address;
    uint8_t group_address[WIRE_ADDRESS_MAX]; // of the group's port
    uint32_t n_group_address;
    uint64_t weight_bytes, kv_bytes, work_bytes; // effective, this epoch
    uint32_t load_ms;
    double next_latency_us, next_bytes_per_s; // measured to the next stage
    char transport[32];
    bool has_more; // its link was left with unread messages
    bool is_doomed;
    struct err_text doom;
};

struct fleet_lane {
    struct fleet *fleet;
    uint32_t number;
    bool is_on;       // home lanes always, others while their worker is here
    bool is_own;      // of one worker, after which it is named
    bool is_draining; // takes no new requests
    char name[64];    // "lane-0", or the worker's
    struct lane lane;
    struct place_want want;
    uint64_t key_epoch;
    uint8_t key[16];         // frames of key_epoch
    int64_t told_us;         // NO_CAPACITY since then was logged
    struct balance *balance; // use of its experts; NULL: nothing was told yet
};

struct fleet_stats {
    uint64_t deaths, refused, enrolled, renewed, plans, results, drained;
};

err_t fleet_open(const struct fleet_config *c, struct fleet **out, struct err_text *why);
int fleet_port(const struct fleet *f); // of the listener; 0: none
// A worker of this process; the link becomes the fleet's. Its peer name is the worker's name.
err_t fleet_add(struct fleet *f, struct link *link);
// Sends one step to every worker of the lane. Only between on_serve and on_suspend. ERR_TOO_LARGE,
// ERR_MEMORY: nothing was sent, and this epoch cannot go on: fleet_renew.
err_t fleet_send(struct fleet *f, uint32_t lane, const struct step *s);
// Begins a new epoch with the same workers.
void fleet_renew(struct fleet *f, uint32_t lane);
// The worker or lane of this name takes no new requests; when what runs there has ended, or grace
// is over, its workers leave for good. ERR_NOT_FOUND.
err_t fleet_drain(struct fleet *f, const char *name, int64_t grace_us, struct err_text *why);
// Closes all links. The loop must turn once more before it is closed itself.
void fleet_close(struct fleet *f);

// Some worker is left that new plans may use.
bool fleet_has_hands(const struct fleet *f);
const struct fleet_lane *fleet_lane(const struct fleet *f, uint32_t number);     // NULL: none
const struct fleet_worker *fleet_worker(const struct fleet *f, uint32_t number); // NULL: free
// Who computes which experts, and how often they are chosen (usage.h); null: nothing is known.
void fleet_experts_json(const struct fleet_lane *l, struct buf *out);
bool fleet_lane_is_far(const struct fleet_lane *l); // its own worker is
struct fleet_stats fleet_stats_get(const struct fleet *f);
uint64_t fleet_epoch(const struct fleet *f); // the newest of any lane
const char *fleet_cluster(const struct fleet *f);
struct survey;
const struct survey *fleet_survey(const struct fleet *f); // links between all workers
// Share of the time with steps on their way in its lane that it had to wait, 0 to 1.
double fleet_worker_bubble(const struct fleet_worker *w);
enum lane_role fleet_worker_role(const struct fleet_worker *w);
// "standby", "serving", "draining": what status calls its state.
const char *fleet_worker_state(const struct fleet_worker *w);
