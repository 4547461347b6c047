// port: one worker's end of the data road during one epoch: it receives frames from any worker of
// its lane and sends to those it was connected to. All memory is taken when it opens; send and find
// allocate nothing. Owned by the compute thread.
//
// link_local: queues in one process. link_ucx: UCX active messages over shared memory, TCP or RDMA.
// A port is thrown away whole with its epoch: UCX is not a failure detector (it never notices a
// stopped peer), so nothing here waits without the caller's deadline.
#pragma once
#include "proto/wire/frame.h"

struct port;

enum { PORT_PEERS_MAX = 64 }; // as many as a lane has workers

struct port_config {
    uint32_t road; // enum road of wire.h
    uint64_t epoch;
    uint8_t key[FRAME_KEY_BYTES];
    uint32_t n_frame;       // frames held at once, each way
    uint64_t max_bytes;     // largest payload
    const char *transports; // UCX_TLS, NULL: "self,posix,tcp" (add rc if RDMA is trusted)
    const char *devices;    // UCX_NET_DEVICES, NULL: "lo": only trusted interfaces
};

struct port_stats {
    uint64_t bytes_out, bytes_in, frames_out, frames_in, dropped; // dropped: old epoch, bad MAC
};

err_t port_open(const struct port_config *c, struct port **out, struct err_text *why);
void port_close(struct port *p);
// Bytes a peer needs to connect to this port; borrowed until close.
void port_address(const struct port *p, const uint8_t **data, uint32_t *len);
// Peers have numbers that the caller gives them, below PORT_PEERS_MAX; here they only tell one from
// another. (On a lane's data road: all stages' members, counted through; in a group: the member.)
err_t port_connect(struct port *p, uint32_t peer, const uint8_t *address, uint32_t len,
                   struct err_text *why);
// Copies payload and sends. ERR_AGAIN: all send buffers are in flight; progress and try again.
err_t port_send(struct port *p, uint32_t peer, const struct frame *f);
// The same, but the payload is written by `fill`, straight into the frame that leaves (f->payload
// is not looked at). It is called before this returns, or not at all.
typedef void port_fill_fn(void *arg, void *payload, uint64_t bytes);
err_t port_send_filled(struct port *p, uint32_t peer, const struct frame *f, port_fill_fn *fill,
                       void *arg);
// True while a sent frame still needs port_progress to get out of the house.
bool port_is_sending(const struct port *p);
// Moves bytes; cheap when there is nothing to do. Answers pings by itself. ERR_LINK if a peer's
// endpoint failed (why names it).
err_t port_progress(struct port *p, struct err_text *why);
// A received frame of this kind and step, or NULL. It stays the caller's until port_give.
struct frame *port_find(struct port *p, enum frame_kind kind, uint64_t step);
// The first received frame, in order of arrival, to which `want` says yes; NULL: none. `want` runs
// under the port's lock, on each frame before that one too.
typedef bool port_want_fn(void *arg, const struct frame *f);
struct frame *port_find_if(struct port *p, port_want_fn *want, void *arg);
void port_give(struct port *p, struct frame *f);
// Before sleeping in poll(): returns ERR_AGAIN if there is work now, else OK, and then the
// descriptor becomes readable when there is.
err_t port_arm(struct port *p);
int port_fd(const struct port *p);
struct port_stats port_stats_get(const struct port *p);
// Half of the smallest round trip of pings of 64 bytes, and bytes/s of a run of large ones; for
// status and the planner. In between a large one comes back and is compared with what was sent.
// Takes up to one and a half of budget_ms. ERR_TIMEOUT, ERR_LINK; ERR_LINK_PROTOCOL: bytes arrive
// wrong, and the sentence names the first of them.
err_t port_measure(struct port *p, uint32_t peer, int budget_ms, double *latency_us,
                   double *bytes_per_s, struct err_text *why);
// What a connected peer is reached by: "local", "ucx shm", "ucx tcp".
const char *port_transport(const struct port *p, uint32_t peer);
// Version of the UCX library that this process runs with.
const char *port_version(void);
