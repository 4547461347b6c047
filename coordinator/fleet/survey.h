// survey: which links between workers are measured, by whom and when, and what came of it. A pure
// state machine: events with the time in, actions out; no I/O and no clock.
//
// Every pair of workers in different processes is measured, both ways between hosts, once for both
// ways within one (shared memory). A round: each worker with unmeasured links opens a data port
// (ASK_PORT), then pairs of workers that have nothing else to do measure each other (ASK_LINK), as
// many at once as their hosts have cores for, and at the end the ports are closed (END).
//
//   link:  DUE --SURVEYED--> MEASURED, or FAILED (tried SURVEY_TRIES times; plans guess), or
//          BROKEN (wrong bytes arrive: no plan uses it)
//          SHARED: one process, nothing to measure
//   port:  CLOSED --ASK_PORT--> ASKED --address--> OPEN --END, or a round without it--> CLOSED
//          MUTE: did not answer in time, left out until it joins again
//
// Nothing is begun while steps run or weights load (survey_tick says so), and nobody waits for a
// worker: every question has a deadline, and survey_holds, for which first plans wait, is true for
// SURVEY_HOLD_US at most.
#pragma once
#include "proto/wire/wire.h"
#include "topology/cluster.h"

enum {
    SURVEY_WORKERS_MAX = WIRE_STAGES_MAX,
    SURVEY_PORT_US = 2500000, // to open a port, a measurement that nobody waits for included
    SURVEY_LINK_US = 4000000, // to measure one link, a far one included
    SURVEY_HOLD_US = 5000000,
    SURVEY_TRIES = 2,
};

enum survey_state {
    SURVEY_NONE, // one of the two is not here
    SURVEY_DUE,
    SURVEY_SHARED,
    SURVEY_MEASURED,
    SURVEY_FAILED,
    SURVEY_BROKEN,
};

// One direction of a pair.
struct survey_link {
    enum survey_state state;
    uint8_t n_try;
    bool is_told;      // FAILED or BROKEN: SURVEY_TELL was taken
    double latency_us; // one way; of MEASURED, SHARED
    double bytes_per_s;
    char transport[16];
    char why[120]; // of FAILED, BROKEN
};

enum survey_port { SURVEY_CLOSED, SURVEY_ASKED, SURVEY_OPEN, SURVEY_MUTE };

struct survey_worker {
    bool is_here;
    uint64_t instance, process;
    char host[64];
    uint32_t n_core;
    enum survey_port port;
    int32_t with;        // measures, or is measured by, this one; -1: idle
    bool is_measuring;   // of the two it is the one that answers
    bool is_excused;     // it measures one that left: its answer does not count
    int64_t deadline_us; // ASKED, is_measuring, is_excused
    uint8_t address[WIRE_ADDRESS_MAX];
    uint32_t n_address;
};

enum survey_action_kind {
    SURVEY_ASK_PORT, // `worker`: MSG_SURVEY without targets
    SURVEY_ASK_LINK, // `worker`: MSG_SURVEY with the target `to`, whose address is in
                     // survey.workers
    SURVEY_END,      // `worker`: MSG_SURVEY with road 0
    SURVEY_TELL,     // log links[worker][to]
};

struct survey_action {
    enum survey_action_kind kind;
    uint32_t worker, to;
    uint64_t round;
};

struct survey {
    uint32_t n; // numbers below which all workers are that were ever here
    struct survey_worker workers[SURVEY_WORKERS_MAX];
    struct survey_link links[SURVEY_WORKERS_MAX][SURVEY_WORKERS_MAX]; // [from][to]
    uint64_t round;   // of the open ports, or the next
    bool is_open;     // ports were asked for in this round
    bool is_stale;    // a peer of this round is gone: its ports cannot be trusted to go on
    bool may_run;     // by the last tick
    int64_t since_us; // when there began to be something to measure; 0: there is nothing
};

// What the survey must know of a worker.
struct survey_facts {
    uint64_t instance, process;
    const char *host;
    uint32_t n_core; // of its host; 0: unknown
};

// Rounds count from first_round on: random, so that no answer to another coordinator fits.
void survey_init(struct survey *s, uint64_t first_round);
// A worker that comes back with the same instance keeps what is known of its links.
void survey_join(struct survey *s, uint32_t worker, const struct survey_facts *f, int64_t now_us);
void survey_leave(struct survey *s, uint32_t worker);
// ERR_LINK_PROTOCOL: it said what nobody asked, in this round. Answers of other rounds are dropped.
err_t survey_heard(struct survey *s, uint32_t worker, const struct msg_surveyed *m, int64_t now_us,
                   struct err_text *why);
// At least every 250 ms. may_run: no step runs and no weights load.
void survey_tick(struct survey *s, bool may_run, int64_t now_us);
// After each event and tick, until false.
bool survey_next(struct survey *s, int64_t now_us, struct survey_action *out);

// First plans shall wait a little longer.
bool survey_holds(const struct survey *s, int64_t now_us);
// For the planner: what is known of this direction, in steps of a fifth, so that plans do not hang
// on the noise of measuring. A broken link has bytes_per_s 0. False: nothing is known.
bool survey_link(const struct survey *s, uint32_t from, uint32_t to, struct cluster_link *out);
const char *survey_state_name(enum survey_state s); // "measured", "due", ...
