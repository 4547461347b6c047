// tether: a link inside the libuv loop. Owns the link and the poll handle; tells when to read, and
// keeps what is polled for in step with what the link asks.
#pragma once
#include "proto/link/link.h"
#include <uv.h>

struct tether;
// The link may have something to read (or died): call tether_recv until it says other than OK.
typedef void tether_ready_fn(struct tether *c);

struct tether {
    struct link *link; // NULL once closed; the memory lives until the loop has let go of it
    uv_poll_t poll;
    tether_ready_fn *on_ready;
    void *owner;
    int fd, events;
    uint64_t bytes_in, bytes_out;
};

// Takes the link, also on error. ERR_MEMORY, ERR_SYSTEM.
err_t tether_open(uv_loop_t *loop, struct link *link, tether_ready_fn *on_ready, void *owner,
                  struct tether **out);
err_t tether_send(struct tether *c, const void *data, size_t len);
err_t tether_recv(struct tether *c, const void **data, size_t *len, struct err_text *why);
// Polls for what the link asks now. After every batch of sends and receives. ERR_SYSTEM.
err_t tether_arm(struct tether *c);
// At once for the peer; frees itself when the loop turns.
void tether_close(struct tether *c);
