#include "proto/link/link.h"

#include "proto/base/clock.h"
#include "proto/base/list.h"
#include "proto/base/log.h"
#include "proto/link/identity_priv.h"
#include "proto/wire/wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

// States of a link. Dialled ones start in CONNECTING, accepted ones in SHAKING; a listener hands
// out only OPEN ones. DEAD keeps the error for whoever asks next.
//
//   CONNECTING --socket connected--> SHAKING --handshake, peer checked--> OPEN
//        any  --error, deadline, close--> DEAD
//
// A message is its length (4 bytes, big endian) and its bytes.
enum tls_state { TLS_CONNECTING, TLS_SHAKING, TLS_OPEN, TLS_DEAD };

enum {
    SHAKE_MS = 5000,              // from the first SYN or accept to the end of the handshake
    MESSAGE_S = 30,               // from the first byte of a message to its last
    REVOKED_MS = 1000,            // how often an open link looks whether its peer was revoked
    STRANGER_MESSAGE_MAX = 32768, // from peers without a certificate
    READ_BYTES = 16384,           // a TLS record
    KEEP_BYTES = 65536,           // read bytes already handed out that may stay in the buffer
    DRAIN_BYTES_MAX = 1 << 18,
    HEAD_BYTES = 4,
    SHAKES_MAX = 64,
    BACKLOG = 512,     // connections the kernel holds while we are busy
    TICK_MS = 100,     // a listener's deadlines
    LOG_WINDOW_S = 10, // at most
    LOG_LINES_MAX = 5, // lines about refused peers in a window
};

// Better than the library's default and the same everywhere: no older version to fall back to.
static const char PRIORITY[] = "SECURE128:-VERS-ALL:+VERS-TLS1.3";

struct tls {
    struct link link;
    struct list list; // among a listener's handshakes
    const struct identity *id;
    struct identity *dialled; // the same, of a link that we opened
    gnutls_session_t session;
    int fd;
    bool is_server;
    enum tls_state state;
    err_t error; // of DEAD
    struct err_text why;
    struct err_text refusal; // what the certificate check said
    struct identity_peer peer;
    int64_t shake_by_us, partial_since_us, revoked_at_us;
    struct addrinfo *addresses, *next_address; // dialling: all, and the next to try
    struct buf in;
    size_t in_at; // bytes of it already handed out
    struct buf out;
    size_t out_at; // bytes of it already taken by gnutls
    bool is_stuck; // gnutls holds a record that the socket did not take
};

static err_t tls_die(struct tls *t, err_t e, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static err_t tls_die(struct tls *t, err_t e, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    t->error = err_vsay(&t->why, e, fmt, ap);
    va_end(ap);
    t->state = TLS_DEAD;
    return e;
}

// -- session --

static int on_certificate(gnutls_session_t session)
{
    struct tls *t = gnutls_session_get_ptr(session);
    unsigned n = 0;
    // A worker that wants to join has no certificate yet: it may talk, but only about that.
    if (t->is_server && !gnutls_certificate_get_peers(session, &n)) return 0;
    err_t e = identity_check_peer(t->id, session, &t->peer, &t->refusal);
    t->link.is_authenticated = e == OK;
    return e ? GNUTLS_E_CERTIFICATE_ERROR : 0;
}

static err_t session_start(struct tls *t)
{
    unsigned flags = (t->is_server ? GNUTLS_SERVER : GNUTLS_CLIENT | GNUTLS_FORCE_CLIENT_CERT) |
                     GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS;
    int rc = gnutls_init(&t->session, flags);
    if (rc < 0) {
        t->session = NULL;
        return tls_die(t, ERR_MEMORY, "tls: %s", gnutls_strerror(rc));
    }
    rc = gnutls_priority_set_direct(t->session, PRIORITY, NULL);
    if (rc >= 0)
        rc =
            gnutls_credentials_set(t->session, GNUTLS_CRD_CERTIFICATE, identity_credentials(t->id));
    if (rc < 0) return tls_die(t, ERR_SYSTEM, "tls: %s", gnutls_strerror(rc));
    if (t->is_server) gnutls_certificate_server_set_request(t->session, GNUTLS_CERT_REQUEST);
    gnutls_handshake_set_max_packet_length(t->session, STRANGER_MESSAGE_MAX);
    gnutls_session_set_ptr(t->session, t);
    gnutls_session_set_verify_function(t->session, on_certificate);
    gnutls_transport_set_int(t->session, t->fd);
    t->state = TLS_SHAKING;
    return OK;
}

static bool is_retry(int rc)
{
    return rc == GNUTLS_E_AGAIN || rc == GNUTLS_E_INTERRUPTED;
}

// What a coordinator answers to a worker whose certificate it does not take any more.
static bool refused_us(struct tls *t)
{
    const gnutls_alert_description_t alert = gnutls_alert_get(t->session);
    if (!t->dialled) return false;
    if (alert == GNUTLS_A_CERTIFICATE_REVOKED) {
        tls_die(t, ERR_LINK_AUTH,
                "the coordinator has revoked this worker (\"trireme trust restore\" there would "
                "take it back)");
        return true;
    }
    if (alert != GNUTLS_A_CERTIFICATE_EXPIRED) return false;
    identity_expired(t->dialled);
    tls_die(t, ERR_LINK_AUTH,
            "this worker's certificate has expired by the coordinator's clock: run \"trireme "
            "token new\" there, and start the worker with --token-file once");
    return true;
}

// A fatal result of a gnutls call, in our terms.
static err_t session_failed(struct tls *t, int rc, const char *during)
{
    if (t->refusal.s[0]) return tls_die(t, ERR_LINK_AUTH, "%s", t->refusal.s);
    if (rc == GNUTLS_E_FATAL_ALERT_RECEIVED && refused_us(t)) return t->error;
    if (rc == GNUTLS_E_FATAL_ALERT_RECEIVED) {
        gnutls_alert_description_t alert = gnutls_alert_get(t->session);
        bool is_auth = alert == GNUTLS_A_BAD_CERTIFICATE || alert == GNUTLS_A_UNKNOWN_CA ||
                       alert == GNUTLS_A_CERTIFICATE_EXPIRED ||
                       alert == GNUTLS_A_CERTIFICATE_UNKNOWN || alert == GNUTLS_A_ACCESS_DENIED ||
                       alert == GNUTLS_A_CERTIFICATE_REVOKED;
        return tls_die(t, is_auth ? ERR_LINK_AUTH : ERR_LINK, "%s: the peer refused us: %s", during,
                       gnutls_alert_get_name(alert));
    }
    if (rc == GNUTLS_E_PREMATURE_TERMINATION || rc == GNUTLS_E_PULL_ERROR ||
        rc == GNUTLS_E_PUSH_ERROR)
        return tls_die(t, ERR_LINK, "%s: the connection broke off", during);
    return tls_die(t, ERR_LINK_PROTOCOL, "%s: %s", during, gnutls_strerror(rc));
}

// -- connecting --

static void socket_settle(int fd)
{
    // Our own heartbeats find dead peers; these keep the address translation of a home router
    // (60 s and less) from forgetting a connection that nobody serves right now.
    const struct {
        int level, name, value;
    } options[] = {
        {IPPROTO_TCP, TCP_NODELAY, 1},   {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, 20}, {IPPROTO_TCP, TCP_KEEPINTVL, 5},
        {IPPROTO_TCP, TCP_KEEPCNT, 3},
    };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(int));
}

static err_t connect_next(struct tls *t)
{
    int error = EADDRNOTAVAIL;
    for (; t->next_address; t->next_address = t->next_address->ai_next) {
        const struct addrinfo *a = t->next_address;
        if (t->fd >= 0) close(t->fd);
        t->fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (t->fd < 0 || (connect(t->fd, a->ai_addr, a->ai_addrlen) != 0 && errno != EINPROGRESS)) {
            error = errno;
            continue;
        }
        socket_settle(t->fd);
        t->next_address = a->ai_next;
        return OK;
    }
    return tls_die(t, ERR_LINK, "%s: %s", t->link.peer, strerror(error));
}

static err_t connect_step(struct tls *t)
{
    struct pollfd p = {.fd = t->fd, .events = POLLOUT};
    int error = 0;
    socklen_t len = sizeof error;
    if (poll(&p, 1, 0) <= 0) return ERR_AGAIN;
    if (getsockopt(t->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0) error = errno;
    if (error == 0) return session_start(t);
    if (t->next_address) {
        err_t e = connect_next(t);
        return e ? e : ERR_AGAIN;
    }
    return tls_die(t, ERR_LINK, "%s: %s", t->link.peer, strerror(error));
}

// -- handshake --

static err_t shake_step(struct tls *t)
{
    int rc = gnutls_handshake(t->session);
    if (is_retry(rc)) return ERR_AGAIN;
    if (rc < 0 && !gnutls_error_is_fatal(rc)) return ERR_AGAIN;
    if (rc < 0) {
        if (t->refusal.s[0])
            gnutls_alert_send(t->session, GNUTLS_AL_FATAL, t->peer.alert);
        else
            gnutls_alert_send_appropriate(t->session, rc);
        return session_failed(t, rc, "handshake");
    }
    // A client has always checked its server here: without a certificate there is no handshake.
    if (!t->is_server && !t->link.is_authenticated)
        return tls_die(t, ERR_LINK_AUTH, "handshake: no certificate");
    if (t->link.is_authenticated) snprintf(t->link.peer, sizeof t->link.peer, "%s", t->peer.name);
    if (t->link.is_authenticated) t->link.expires_s = t->peer.expires_s;
    t->state = TLS_OPEN;
    return OK;
}

// Whatever brings the link on; OK: it is open.
static err_t tls_step(struct tls *t)
{
    err_t e = OK;
    if (t->state == TLS_DEAD) return t->error;
    if (t->state == TLS_OPEN) return OK;
    if (clock_now_us() >= t->shake_by_us)
        return tls_die(t, ERR_LINK, "no handshake within %d s", SHAKE_MS / 1000);
    if (t->state == TLS_CONNECTING) e = connect_step(t);
    if (!e && t->state == TLS_SHAKING) e = shake_step(t);
    return e;
}

// -- messages out --

static err_t tls_flush(struct tls *t)
{
    while (t->out_at < t->out.len) {
        size_t left = t->out.len - t->out_at;
        ssize_t n = t->is_stuck ? gnutls_record_send(t->session, NULL, 0)
                                : gnutls_record_send(t->session, t->out.data + t->out_at, left);
        t->is_stuck = n < 0 && is_retry((int)n);
        if (t->is_stuck) break;
        if (n < 0) return session_failed(t, (int)n, "sending");
        t->out_at += (size_t)n;
    }
    if (t->out_at == t->out.len) {
        buf_clear(&t->out);
        t->out_at = 0;
    } else if (t->out_at > t->out.len / 2) {
        buf_drop(&t->out, t->out_at);
        t->out_at = 0;
    }
    return OK;
}

static err_t tls_send(struct link *l, const void *data, size_t len)
{
    struct tls *t = (struct tls *)l;
    if (len > WIRE_MESSAGE_MAX) return ERR_TOO_LARGE;
    if (t->state == TLS_DEAD) return ERR_LINK;
    if (t->out.len - t->out_at + HEAD_BYTES + len > LINK_BACKLOG_MAX) return ERR_AGAIN;
    uint32_t head = htonl((uint32_t)len);
    if (!buf_reserve(&t->out, HEAD_BYTES + len)) {
        t->out.broken = false; // this message is refused, those before it stand
        return ERR_MEMORY;
    }
    buf_add(&t->out, &head, HEAD_BYTES);
    buf_add(&t->out, data, len);
    // Errors of a connection come from recv; one that broke before tells here.
    if (t->state == TLS_OPEN && tls_flush(t) != OK) return ERR_LINK;
    return OK;
}

// -- messages in --

// OK: a whole message is in the buffer, `len` bytes behind its head.
static err_t in_look(struct tls *t, size_t *len)
{
    size_t have = t->in.len - t->in_at;
    if (have < HEAD_BYTES) return ERR_AGAIN;
    uint32_t head;
    memcpy(&head, t->in.data + t->in_at, HEAD_BYTES);
    head = ntohl(head);
    size_t max = t->link.is_authenticated ? WIRE_MESSAGE_MAX : STRANGER_MESSAGE_MAX;
    if (head > max)
        return tls_die(t, ERR_LINK_PROTOCOL, "a message of %u bytes, limit %zu", head, max);
    if (have - HEAD_BYTES < head) return ERR_AGAIN;
    *len = head;
    return OK;
}

// Reads what is there, at most a record. The buffer grows with what came, not with what was
// promised.
static err_t in_read(struct tls *t)
{
    if (t->in_at == t->in.len) {
        buf_clear(&t->in);
        t->in_at = 0;
    } else if (t->in_at > KEEP_BYTES) {
        buf_drop(&t->in, t->in_at);
        t->in_at = 0;
    }
    if (!buf_reserve(&t->in, READ_BYTES)) return tls_die(t, ERR_MEMORY, "no memory to read");
    ssize_t n = gnutls_record_recv(t->session, t->in.data + t->in.len, READ_BYTES);
    if (n > 0) {
        t->in.len += (size_t)n;
        t->in.data[t->in.len] = 0;
        return OK;
    }
    if (n < 0 && is_retry((int)n)) return ERR_AGAIN;
    if (n < 0) return session_failed(t, (int)n, "receiving");
    if (t->in.len > t->in_at)
        return tls_die(t, ERR_LINK, "the peer closed in the middle of a message");
    return tls_die(t, ERR_END, "the peer closed the link");
}

static err_t watch(struct tls *t)
{
    int64_t now = clock_now_us();
    if (t->in.len == t->in_at)
        t->partial_since_us = 0;
    else if (!t->partial_since_us)
        t->partial_since_us = now;
    else if (now - t->partial_since_us > (int64_t)MESSAGE_S * 1000000)
        return tls_die(t, ERR_LINK, "a message did not arrive whole within %d s", MESSAGE_S);
    if (!t->is_server || !t->link.is_authenticated) return OK;
    if (now - t->revoked_at_us < (int64_t)REVOKED_MS * 1000) return OK;
    t->revoked_at_us = now;
    if (!identity_is_revoked(t->id, &t->peer)) return OK;
    return tls_die(t, ERR_LINK_AUTH, "%s was revoked", t->peer.name);
}

static err_t recv_open(struct tls *t, const void **data, size_t *len)
{
    if (t->out.len && tls_flush(t) != OK) return t->error;
    err_t e;
    while ((e = in_look(t, len)) == ERR_AGAIN && (e = in_read(t)) == OK)
        ;
    if (e == OK) {
        *data = t->in.data + t->in_at + HEAD_BYTES;
        t->in_at += HEAD_BYTES + *len;
        t->partial_since_us = 0; // the next message has its own time
    }
    return e;
}

static err_t tls_recv(struct link *l, const void **data, size_t *len, struct err_text *why)
{
    struct tls *t = (struct tls *)l;
    err_t e = tls_step(t);
    if (!e) e = recv_open(t, data, len);
    // Also with messages coming in: a revoked peer must not be heard because it is loud.
    if (t->state == TLS_OPEN && watch(t) != OK) e = t->error;
    if (t->state == TLS_DEAD && why) *why = t->why;
    return e;
}

static int tls_poll_fd(struct link *l, short *events)
{
    struct tls *t = (struct tls *)l;
    bool wants_out = false;
    if (t->state == TLS_CONNECTING)
        wants_out = true;
    else if (t->state == TLS_SHAKING)
        wants_out = gnutls_record_get_direction(t->session) == 1;
    *events = t->state == TLS_CONNECTING || (t->state == TLS_SHAKING && wants_out) ? 0 : POLLIN;
    if (wants_out || (t->state == TLS_OPEN && t->out_at < t->out.len)) *events |= POLLOUT;
    return t->fd;
}

// -- closing --

// Unread bytes in the socket would turn our closing into a reset, which can destroy the last
// message on its way to the peer.
static void socket_drain(int fd)
{
    char scrap[4096];
    shutdown(fd, SHUT_WR);
    for (size_t n = 0; n < DRAIN_BYTES_MAX; n += sizeof scrap)
        if (recv(fd, scrap, sizeof scrap, MSG_DONTWAIT) <= 0) break;
}

static void tls_close(struct link *l)
{
    struct tls *t = (struct tls *)l;
    if (t->state == TLS_OPEN && tls_flush(t) == OK) gnutls_bye(t->session, GNUTLS_SHUT_WR);
    if (t->session) gnutls_deinit(t->session);
    if (t->fd >= 0) {
        socket_drain(t->fd);
        close(t->fd);
    }
    if (t->addresses) freeaddrinfo(t->addresses);
    buf_fini(&t->in);
    buf_fini(&t->out);
    free(t);
}

static const struct link_ops tls_ops = {
    .name = "tls",
    .send = tls_send,
    .recv = tls_recv,
    .poll_fd = tls_poll_fd,
    .close = tls_close,
};

static struct tls *tls_new(const struct identity *id, int fd)
{
    struct tls *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    t->link.ops = &tls_ops;
    t->id = id;
    t->fd = fd;
    t->shake_by_us = clock_now_us() + (int64_t)SHAKE_MS * 1000;
    t->in.max = WIRE_MESSAGE_MAX + HEAD_BYTES + KEEP_BYTES + 2 * READ_BYTES;
    list_init(&t->list);
    return t;
}

// -- addresses --

// "host:port" or "[v6 address]:port".
static err_t address_find(const char *text, int flags, struct addrinfo **out, struct err_text *why)
{
    char host[256];
    const char *colon = strrchr(text, ':'), *from = text;
    size_t n = colon ? (size_t)(colon - text) : 0;
    if (n >= 2 && text[0] == '[' && colon[-1] == ']') {
        from++;
        n -= 2;
    }
    if (n == 0 || n >= sizeof host || colon[1] == 0)
        return err_say(why, ERR_CONFIG, "%s: an address is host:port", text);
    memcpy(host, from, n);
    host[n] = 0;
    struct addrinfo want = {.ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV};
    int rc = getaddrinfo(host, colon + 1, &want, out);
    if (rc == 0) return OK;
    return err_say(why, rc == EAI_NONAME || rc == EAI_SERVICE ? ERR_CONFIG : ERR_LINK, "%s: %s",
                   text, gai_strerror(rc));
}

err_t link_tls_dial(const char *address, struct identity *id, struct link **out,
                    struct err_text *why)
{
    struct tls *t = tls_new(id, -1);
    if (!t) return err_say(why, ERR_MEMORY, "no memory for a connection");
    t->dialled = id;
    snprintf(t->link.peer, sizeof t->link.peer, "%s", address);
    err_t e = address_find(address, 0, &t->addresses, why);
    t->next_address = t->addresses;
    if (!e && (e = connect_next(t)) != OK && why) *why = t->why;
    if (e) {
        tls_close(&t->link);
        return e;
    }
    *out = &t->link;
    return OK;
}

// -- listening --

struct link_listener {
    const struct identity *id;
    int fd, epoll, timer;
    int port;
    bool is_paused;     // no descriptors left: accepting waits for the next tick
    struct list shakes; // oldest first
    int n_shake;
    int64_t log_since_us;
    int n_logged, n_silent;
};

static void log_refused(struct link_listener *l, const struct tls *t)
{
    int64_t now = clock_now_us();
    if (now - l->log_since_us > (int64_t)LOG_WINDOW_S * 1000000) {
        if (l->n_silent) log_warn("refused %d more connections", l->n_silent);
        l->log_since_us = now;
        l->n_logged = l->n_silent = 0;
    }
    if (l->n_logged++ < LOG_LINES_MAX)
        log_warn("refused a connection from %s: %s", t->link.peer, t->why.s);
    else
        l->n_silent++;
}

static bool watch_fd(struct link_listener *l, int op, int fd, uint32_t events, void *what)
{
    struct epoll_event ev = {.events = events, .data.ptr = what};
    return epoll_ctl(l->epoll, op, fd, &ev) == 0;
}

static void set_ticking(struct link_listener *l, bool on)
{
    struct itimerspec spec = {{0, on ? TICK_MS * 1000000 : 0}, {0, on ? TICK_MS * 1000000 : 0}};
    timerfd_settime(l->timer, 0, &spec, NULL);
}

static void shake_remove(struct link_listener *l, struct tls *t)
{
    watch_fd(l, EPOLL_CTL_DEL, t->fd, 0, NULL);
    list_remove(&t->list);
    l->n_shake--;
}

static void shake_refuse(struct link_listener *l, struct tls *t)
{
    log_refused(l, t);
    shake_remove(l, t);
    tls_close(&t->link);
}

static void peer_name(int fd, char out[64])
{
    struct sockaddr_storage a;
    socklen_t len = sizeof a;
    char host[46], port[8];
    if (getpeername(fd, (struct sockaddr *)&a, &len) != 0 ||
        getnameinfo((struct sockaddr *)&a, len, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        snprintf(out, 64, "somewhere");
    else
        snprintf(out, 64, "%s:%s", host, port);
}

static void shake_begin(struct link_listener *l, int fd)
{
    // Whoever came first and has not finished gives way: a real handshake takes milliseconds.
    if (l->n_shake >= SHAKES_MAX) {
        struct tls *oldest = list_item(l->shakes.next, struct tls, list);
        tls_die(oldest, ERR_LINK, "too many handshakes at once");
        shake_refuse(l, oldest);
    }
    struct tls *t = tls_new(l->id, fd);
    if (!t) {
        close(fd);
        return;
    }
    t->is_server = true;
    socket_settle(fd);
    peer_name(fd, t->link.peer);
    if (session_start(t) != OK || !watch_fd(l, EPOLL_CTL_ADD, fd, EPOLLIN, t)) {
        log_refused(l, t);
        tls_close(&t->link);
        return;
    }
    list_push_back(&l->shakes, &t->list);
    if (l->n_shake++ == 0) set_ticking(l, true);
}

static void accept_all(struct link_listener *l)
{
    for (int i = 0; i < SHAKES_MAX; i++) {
        int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            shake_begin(l, fd);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            // The socket stays readable: without a pause this would spin.
            log_warn("cannot accept a connection: %s", strerror(errno));
            watch_fd(l, EPOLL_CTL_DEL, l->fd, 0, NULL);
            l->is_paused = true;
            set_ticking(l, true);
        }
        if (errno != ECONNABORTED && errno != EINTR) return;
    }
}

static void tick(struct link_listener *l)
{
    uint64_t count;
    ssize_t n = read(l->timer, &count, sizeof count);
    (void)n;
    int64_t now = clock_now_us();
    list_each(it, &l->shakes)
    {
        struct tls *t = list_item(it, struct tls, list);
        if (now < t->shake_by_us) break; // the others came later
        tls_die(t, ERR_LINK, "no handshake within %d s", SHAKE_MS / 1000);
        shake_refuse(l, t);
    }
    if (l->is_paused && watch_fd(l, EPOLL_CTL_ADD, l->fd, EPOLLIN, l)) l->is_paused = false;
    if (l->n_shake == 0 && !l->is_paused) set_ticking(l, false);
}

// The link if its handshake is done.
static struct tls *shake_continue(struct link_listener *l, struct tls *t)
{
    err_t e = tls_step(t);
    if (e == ERR_AGAIN) {
        bool wants_out = gnutls_record_get_direction(t->session) == 1;
        watch_fd(l, EPOLL_CTL_MOD, t->fd, wants_out ? EPOLLOUT : EPOLLIN, t);
        return NULL;
    }
    if (e) {
        shake_refuse(l, t);
        return NULL;
    }
    shake_remove(l, t);
    return t;
}

err_t link_tls_accept(struct link_listener *l, struct link **out)
{
    // One event at a time: whatever it makes happen (the oldest giving way) can not concern an
    // event that was already fetched.
    struct epoll_event ev;
    for (int i = 0; i < 4 * SHAKES_MAX && epoll_wait(l->epoll, &ev, 1, 0) == 1; i++) {
        if (ev.data.ptr == l) {
            accept_all(l);
        } else if (ev.data.ptr == &l->timer) {
            tick(l);
        } else {
            struct tls *t = shake_continue(l, ev.data.ptr);
            if (!t) continue;
            *out = &t->link;
            return OK;
        }
    }
    return ERR_AGAIN;
}

int link_tls_listener_fd(const struct link_listener *l)
{
    return l->epoll;
}

int link_tls_listener_port(const struct link_listener *l)
{
    return l->port;
}

void link_tls_listener_close(struct link_listener *l)
{
    if (!l) return;
    list_each(it, &l->shakes)
    {
        tls_close(&list_item(it, struct tls, list)->link);
    }
    if (l->fd >= 0) close(l->fd);
    if (l->epoll >= 0) close(l->epoll);
    if (l->timer >= 0) close(l->timer);
    free(l);
}

static int listen_on(const struct addrinfo *a, int *port)
{
    int one = 1;
    struct sockaddr_storage bound;
    socklen_t len = sizeof bound;
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, a->ai_addr, a->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0 ||
        getsockname(fd, (struct sockaddr *)&bound, &len) != 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    *port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
                                              : ((struct sockaddr_in *)&bound)->sin_port);
    return fd;
}

err_t link_tls_listen(const char *address, const struct identity *id, struct link_listener **out,
                      struct err_text *why)
{
    struct addrinfo *addresses;
    err_t e = address_find(address, AI_PASSIVE, &addresses, why);
    if (e) return e;
    struct link_listener *l = calloc(1, sizeof *l);
    if (!l) {
        freeaddrinfo(addresses);
        return err_say(why, ERR_MEMORY, "no memory to listen");
    }
    l->id = id;
    list_init(&l->shakes);
    l->fd = -1;
    for (const struct addrinfo *a = addresses; a && l->fd < 0; a = a->ai_next)
        l->fd = listen_on(a, &l->port);
    int saved = errno;
    freeaddrinfo(addresses);
    errno = saved;
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (l->fd < 0 || l->epoll < 0 || l->timer < 0 ||
        !watch_fd(l, EPOLL_CTL_ADD, l->fd, EPOLLIN, l) ||
        !watch_fd(l, EPOLL_CTL_ADD, l->timer, EPOLLIN, &l->timer)) {
        e = err_say(why, ERR_SYSTEM, "listening on %s: %s", address,
                    strerror(l->fd < 0 ? saved : errno));
        link_tls_listener_close(l);
        return e;
    }
    *out = l;
    return OK;
}
