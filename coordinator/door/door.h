// door: what the socket side shares: the door itself, its connections, and the one exchange
// (request and answer) that each may have. All of it runs on the loop's thread; only prepare.c
// works elsewhere, on memory of its own.
//
//   libmicrohttpd polls its sockets in an epoll set; that set is one descriptor of our loop. All
//   its work is done in pump(), before the loop sleeps, so nothing of ours is entered from two
//   sides at once: engine events and timers only mark exchanges ("wake"), pump() moves bytes.
#pragma once
#include "coordinator/door/auth.h"
#include "coordinator/door/gate.h"
#include "coordinator/door/hosts.h"
#include "coordinator/door/http.h"
#include "coordinator/door/ledger.h"
#include "coordinator/door/refusal.h"
#include "coordinator/door/repair.h"
#include "coordinator/door/recall.h"
#include "coordinator/door/replay.h"
#include "proto/base/list.h"
#include <microhttpd.h>
#include <poll.h>

struct exchange;

enum conn_phase {
    CONN_HEADERS, // a request is arriving: header_ms from its first byte
    CONN_BODY,    // body_ms, more for a body that keeps coming
    CONN_WORK,    // nothing to send yet: watched for a hang-up
    CONN_STREAM,  // events go out as they come: watched; write_ms without progress
    CONN_WRITE,   // a whole answer goes out: write_ms
    CONN_IDLE,    // between requests
};

struct conn {
    struct list node;
    struct door *door;
    struct MHD_Connection *mhd;
    int fd;
    struct auth_addr addr;
    enum conn_phase phase;
    int64_t since_us; // the phase began, or of CONN_STREAM: bytes went out
    struct exchange *x;
    bool linger; // closing while the caller may still be sending
    bool ended;  // answered past the library
};

struct door_stats {
    uint64_t by_class[6]; // answers with status 1xx..5xx
    uint64_t accepted, refused, hang_ups, too_slow;
    uint64_t repaired[REPAIR_RULES]; // conversations, by what was done to them
    uint64_t garbled;                // tool calls that a model wrote and nobody can read
};

struct door {
    uv_loop_t *loop;
    struct engine *engine;
    struct MHD_Daemon *mhd;
    uv_poll_t poll;
    uv_prepare_t prepare;
    uv_idle_t busy; // makes the loop come round at once
    uv_timer_t sweep;
    uint32_t n_handle; // not closed yet
    uint32_t n_job;    // given to the pool, not back on the loop yet
    uv_mutex_t pool_lock;
    uv_cond_t pool_idle;
    uint32_t n_pool; // under pool_lock: jobs that may still look at the engine's model
    bool ready, draining, closing;
    int port;
    struct auth auth;
    struct ledger ledger;
    struct hosts hosts;
    size_t max_body;
    bool strict_roles;
    struct replay *replay;
    struct recall *recall; // NULL: not asked for
    uint32_t max_connections, max_per_address;
    int64_t header_us, body_us, write_us;
    bool tls, layout; // layout: the library is the one gate.h describes
    struct list conns, dirty, lingers;
    uint32_t n_conn, n_exchange, n_linger;
    uint64_t n_sweep;
    uint64_t n_callback; // calls of the library into us
    uint32_t idle_runs;  // runs of it, one after the other, that ended in none and asked for more
    struct pollfd *watched; // (max_connections)
    struct conn **watchers;
    struct door_stats stats;
};

// The last of handles and jobs is gone: frees the door.
void door_release(struct door *d);
// Sweeping starts with the first connection and stops by itself.
void door_keep_sweeping(struct door *d);
