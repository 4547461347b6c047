// link: a road for control messages between two parties. Messages are whole or not at all, in
// order. Nothing here blocks and nothing runs on threads of its own: one thread owns a link, polls
// its descriptor, and calls send and recv. So the same state machines run over a queue in one
// process (link_local) and over mutually authenticated TLS 1.3 (link_tls).
#pragma once
#include "proto/base/buf.h"
#include "proto/base/err.h"
#include <stdbool.h>
#include <sys/uio.h>

struct link {
    const struct link_ops *ops;
    char peer[64];         // name proven by the peer's certificate, or given (local)
    bool is_authenticated; // false: a TLS peer without a certificate; only ENROLL may be talked
    int64_t expires_s;     // of the certificate that the peer has; 0: none (also local)
};

struct link_ops {
    const char *name; // "local", "tls"
    // Queues one message, which is copied. ERR_AGAIN: more than the backlog limit is unsent (the
    // peer does not read); ERR_TOO_LARGE; ERR_LINK: gone.
    err_t (*send)(struct link *l, const void *data, size_t len);
    // One message, borrowed until the next recv on this link. ERR_AGAIN: none now. ERR_END: the
    // peer closed in order. ERR_LINK*: gone, with `why`. Deadlines (handshake, half a message) and
    // revocations are noticed here only: call it every second or so even without an event.
    err_t (*recv)(struct link *l, const void **data, size_t *len, struct err_text *why);
    // What to poll for: descriptor and POLLIN/POLLOUT bits. Must be asked again after every send
    // and recv; recv must be called until ERR_AGAIN before sleeping.
    int (*poll_fd)(struct link *l, short *events);
    void (*close)(struct link *l); // frees; unsent bytes are tried once
};

static inline err_t link_send(struct link *l, const void *data, size_t len)
{
    return l->ops->send(l, data, len);
}
static inline err_t link_recv(struct link *l, const void **data, size_t *len, struct err_text *why)
{
    return l->ops->recv(l, data, len, why);
}
static inline int link_poll_fd(struct link *l, short *events)
{
    return l->ops->poll_fd(l, events);
}
static inline void link_close(struct link *l)
{
    if (l) l->ops->close(l);
}

enum { LINK_BACKLOG_MAX = 16 << 20 }; // bytes a peer may leave unread

// -- link_local: two ends in one process; each end may belong to another thread --
err_t link_local_pair(const char *name_a, const char *name_b, struct link **a, struct link **b);

// -- link_tls --
struct identity; // proto/link/identity.h; must outlive links and listeners
struct link_listener;
// "host:port"; port 0 picks one. Connections get TLS 1.3 with the identity's server certificate;
// the client certificate, if there is one, must be signed by our CA and not be revoked.
err_t link_tls_listen(const char *address, const struct identity *id, struct link_listener **out,
                      struct err_text *why);
int link_tls_listener_fd(const struct link_listener *l);
int link_tls_listener_port(const struct link_listener *l);
// ERR_AGAIN: nobody there. At most 64 handshakes are open at once (the oldest gives way to a new
// one); one that takes over 5 s fails; both leave a line in the log. Call recv on what comes out
// before polling it: bytes may be inside already. Without a certificate messages are limited to
// 32 KiB.
err_t link_tls_accept(struct link_listener *l, struct link **out);
void link_tls_listener_close(struct link_listener *l);
// Starts connecting to "host:port" (name resolution may block up to its own limits); errors of the
// connection come from recv. `id` of a worker: its client certificate, or, before enrolment, only
// the CA fingerprint of its token, which the server's chain must match. If the coordinator answers
// that the certificate has expired, `id` turns to its token, if it has one.
err_t link_tls_dial(const char *address, struct identity *id, struct link **out,
                    struct err_text *why);
