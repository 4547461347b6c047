// What port.c and the roads below it share; nobody else includes it.
#pragma once
#include "proto/base/list.h"
#include "proto/link/port.h"
#include <pthread.h>

// A received frame and its memory.
struct port_slot {
    struct frame frame; // first: callers of port_find hold its address
    struct list list; // in the pool's `free` or `ready`, or linked to itself: being filled or held
    uint8_t header[FRAME_HEADER_BYTES];
    void *memory;        // max_bytes, aligned to 64
    uint64_t from_local; // where a ping came from: the number of a local port,
    void *reply;         // or a UCX endpoint: also of what is being filled
    bool is_filling;     // UCX writes into it
    void *owner;         // the UCX port that it belongs to
};

// The frames of one port, all allocated when it opens. The lock is for the local road, where
// senders fill from their threads; over UCX nobody competes for it.
struct port_pool {
    pthread_mutex_t lock;
    struct list free, ready; // ready: in order of arrival
    struct port_slot *slots;
    uint8_t *memory;
    uint32_t n_frame;
    uint64_t max_bytes;
    uint64_t pong_from; // answers to measuring pings before this one came too late
    struct port_stats stats;
};

// After init, failed or not, fini is due.
err_t port_pool_init(struct port_pool *pool, uint32_t n_frame, uint64_t max_bytes);
void port_pool_fini(struct port_pool *pool);
// n blocks of `bytes` rounded up to 64, aligned to 64, and touched, so that the memory is really
// there. NULL: refused.
uint8_t *port_pool_memory(uint32_t n, uint64_t bytes);
uint64_t port_pool_stride(uint64_t bytes); // from one block to the next
// All of these take the lock. take: NULL if every frame is in use.
struct port_slot *port_pool_take(struct port_pool *pool);
void port_pool_give(struct port_pool *pool, struct port_slot *s);
bool port_pool_has_room(struct port_pool *pool);
// The slot is filled: counted and made visible to port_find.
void port_pool_ready(struct port_pool *pool, struct port_slot *s);
// First ready ping, taken out; NULL: none.
struct port_slot *port_pool_ping(struct port_pool *pool);
void port_pool_dropped(struct port_pool *pool);

struct port_ops {
    void (*close)(struct port *p);
    void (*address)(const struct port *p, const uint8_t **data, uint32_t *len);
    err_t (*connect)(struct port *p, uint32_t peer, const uint8_t *address, uint32_t len,
                     struct err_text *why);
    err_t (*send)(struct port *p, uint32_t peer, const struct frame *f, port_fill_fn *fill,
                  void *arg);
    err_t (*progress)(struct port *p, struct err_text *why);
    void (*given)(struct port *p); // a frame became free; may be NULL
    err_t (*arm)(struct port *p);
    int (*fd)(const struct port *p);
    bool (*is_sending)(const struct port *p); // NULL: never
    const char *(*transport)(const struct port *p, uint32_t peer);
};

struct port {
    const struct port_ops *ops;
    uint64_t epoch;
    uint8_t key[FRAME_KEY_BYTES];
    struct port_pool *pool;
    uint64_t ping_next; // step number of the next measuring ping
};

// Measuring pings have step numbers that no step has.
static const uint64_t PORT_PING_STEPS = UINT64_C(1) << 63;

err_t port_local_open(const struct port_config *c, struct port **out, struct err_text *why);
err_t link_ucx_open(const struct port_config *c, struct port **out, struct err_text *why);
