#include "coordinator/door/conn.h"
#include "coordinator/door/exchange.h"
#include "proto/base/clock.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// A body may go on for longer than its deadline while it comes at least this fast.
enum { BODY_BYTES_PER_MS = 64, UNSENT_BYTES = 128 << 10, LINGERS_MAX = 64 };

static struct auth_addr addr_of(const struct sockaddr *sa)
{
    struct auth_addr a = {.b = {0}};
    if (sa && sa->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)sa;
        a.b[10] = a.b[11] = 0xff;
        memcpy(a.b + 12, &in->sin_addr, 4);
        a.loopback = a.b[12] == 127;
    } else if (sa && sa->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)(const void *)sa;
        memcpy(a.b, &in->sin6_addr, 16);
        a.loopback = IN6_IS_ADDR_LOOPBACK(&in->sin6_addr) ||
                     (IN6_IS_ADDR_V4MAPPED(&in->sin6_addr) && a.b[12] == 127);
    }
    return a;
}

enum MHD_Result conn_policy(void *cls, const struct sockaddr *sa, socklen_t len)
{
    struct door *d = cls;
    (void)len;
    d->n_callback++;
    struct auth_addr a = addr_of(sa);
    uint32_t same = 0;
    list_each(it, &d->conns)
    {
        const struct conn *c = list_item(it, struct conn, node);
        same += !a.loopback && memcmp(c->addr.b, a.b, sizeof a.b) == 0;
    }
    if (d->n_conn < d->max_connections && same < d->max_per_address) return MHD_YES;
    d->stats.refused++;
    return MHD_NO;
}

static void opened(struct door *d, struct MHD_Connection *mhd, void **socket_context)
{
    const union MHD_ConnectionInfo *fd, *sa;
    fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    sa = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    struct conn *c = calloc(1, sizeof *c);
    *socket_context = c;
    if (!c) return; // exchange_uri finds no connection and refuses
    c->door = d;
    c->mhd = mhd;
    c->fd = fd ? fd->connect_fd : -1;
    c->addr = addr_of(sa ? sa->client_addr : NULL);
    // What a caller does not take stays here, where it is counted, not in megabytes of the
    // kernel's.
    int unsent = UNSENT_BYTES;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
    conn_set(c, CONN_HEADERS);
    list_push_back(&d->conns, &c->node);
    d->n_conn++;
    d->stats.accepted++;
    door_keep_sweeping(d);
}

// -- lingering close --
// Closing a socket that holds unread bytes makes TCP reset it, and the caller may lose the answer
// that explains why. Such sockets are held for a moment and read empty.

struct lingerer {
    struct list node;
    int fd;
    int64_t until_us;
};

static void linger(struct door *d, int fd)
{
    struct lingerer *l = d->n_linger < LINGERS_MAX ? malloc(sizeof *l) : NULL;
    int copy = l ? dup(fd) : -1;
    if (copy < 0) {
        free(l);
        return;
    }
    *l = (struct lingerer){.fd = copy, .until_us = clock_now_us() + CONN_LINGER_MS * 1000};
    list_push_back(&d->lingers, &l->node);
    d->n_linger++;
}

static void linger_end(struct door *d, struct lingerer *l)
{
    list_remove(&l->node);
    d->n_linger--;
    close(l->fd);
    free(l);
}

static void sweep_lingers(struct door *d, int64_t now_us)
{
    char sink[65536];
    list_each(it, &d->lingers)
    {
        struct lingerer *l = list_item(it, struct lingerer, node);
        ssize_t n = 1;
        for (int i = 0; i < 64 && n > 0; i++)
            n = recv(l->fd, sink, sizeof sink, MSG_DONTWAIT);
        if (n == 0 || now_us > l->until_us) linger_end(d, l);
    }
}

void conn_drop_lingers(struct door *d)
{
    list_each(it, &d->lingers) linger_end(d, list_item(it, struct lingerer, node));
}

void conn_notify(void *cls, struct MHD_Connection *mhd, void **socket_context,
                 enum MHD_ConnectionNotificationCode code)
{
    struct door *d = cls;
    d->n_callback++;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        opened(d, mhd, socket_context);
        return;
    }
    struct conn *c = *socket_context;
    if (!c) return;
    if (c->linger && !d->closing) linger(d, c->fd);
    list_remove(&c->node);
    d->n_conn--;
    free(c);
    *socket_context = NULL;
}

// True if the caller has sent something since the connection became idle: the next request has
// begun, though not a whole line of it came yet.
static bool has_begun(const struct conn *c, int64_t idle_us)
{
    enum { CLOCK_TICK_MS = 20 }; // the kernel counts in ticks
    struct tcp_info t = {0};
    socklen_t len = sizeof t;
    if (getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &t, &len) != 0) return false;
    return t.tcpi_last_data_recv + CLOCK_TICK_MS < idle_us / 1000;
}

void conn_set(struct conn *c, enum conn_phase phase)
{
    c->phase = phase;
    c->since_us = clock_now_us();
}

bool conn_local(const struct conn *c, char *out, size_t cap)
{
    union {
        struct sockaddr sa;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } a;
    socklen_t len = sizeof a;
    if (getsockname(c->fd, &a.sa, &len) != 0) return false;
    const struct in6_addr *v6 = &a.v6.sin6_addr;
    if (a.sa.sa_family == AF_INET) return inet_ntop(AF_INET, &a.v4.sin_addr, out, (socklen_t)cap);
    if (a.sa.sa_family != AF_INET6) return false;
    if (IN6_IS_ADDR_V4MAPPED(v6)) return inet_ntop(AF_INET, v6->s6_addr + 12, out, (socklen_t)cap);
    return inet_ntop(AF_INET6, v6, out, (socklen_t)cap);
}

void conn_send_error(struct conn *c, const struct refusal *no)
{
    if (c->door->tls) return;
    const char *reason = no->status == 408   ? "Request Timeout"
                         : no->status == 413 ? "Content Too Large"
                         : no->status == 431 ? "Request Header Fields Too Large"
                                             : "Bad Request";
    char id[PREPARE_ID_MAX];
    prepare_id("req_", id);
    struct buf body = {0}, out = {0};
    refusal_json(&body, no);
    buf_printf(&out,
               "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
               "x-request-id: %s\r\nConnection: close\r\n\r\n",
               no->status, reason, body.len, c->x ? c->x->id : id);
    buf_add(&out, body.data, body.len);
    // One short write into an empty buffer: what does not go now is not worth waiting for.
    if (buf_ok(&out)) {
        ssize_t n = send(c->fd, out.data, out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
        (void)n;
    }
    c->door->stats.by_class[no->status / 100]++;
    buf_fini(&body);
    buf_fini(&out);
}

static void end_with_error(struct conn *c, int status, const char *sentence)
{
    struct refusal no;
    if (c->ended) return;
    refusal_set(&no, status, status == 408 ? "timeout" : "bad_request", "%s", sentence);
    conn_send_error(c, &no);
    c->ended = c->linger = true;
    shutdown(c->fd, SHUT_RDWR); // the library sees the end of the connection and closes it
}

static const char bad_chunks[] = "the chunked encoding is malformed";

void conn_drop_stuck(struct door *d)
{
    list_each(it, &d->conns)
    {
        struct conn *c = list_item(it, struct conn, node);
        if (c->phase == CONN_BODY && c->x && exchange_is_chunked(c->x))
            end_with_error(c, 400, bad_chunks);
    }
}

void conn_library_says(struct door *d, const char *line)
{
    static const struct {
        const char *words; // of the log line
        enum conn_phase phase;
        bool whole; // the header section is, yet we were not asked about it: there is only one
        int status;
        const char *sentence;
    } rows[] = {
        {"Content-Length", CONN_HEADERS, true, 400, "Content-Length is not a number"},
        {"code is 431", CONN_HEADERS, false, 431, "the header section is too large"},
        {"chunk", CONN_BODY, false, 400, bad_chunks},
    };
    size_t row = 0, n = sizeof rows / sizeof *rows;
    while (row < n && !strstr(line, rows[row].words))
        row++;
    if (row == n) return;
    struct conn *found = NULL;
    list_each(it, &d->conns)
    {
        struct conn *c = list_item(it, struct conn, node);
        if (c->phase != rows[row].phase || !c->x) continue;
        if (c->phase == CONN_BODY && !exchange_is_chunked(c->x)) continue;
        if (rows[row].whole &&
            !MHD_get_connection_info(c->mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE))
            continue;
        if (found) return;
        found = c;
    }
    if (found) end_with_error(found, rows[row].status, rows[row].sentence);
}

// -- the sweep --

static void too_slow(struct conn *c, const char *sentence)
{
    c->door->stats.too_slow += !c->ended;
    end_with_error(c, 408, sentence);
}

static int64_t body_allowed_us(const struct conn *c)
{
    int64_t extra_ms = (int64_t)(exchange_body_bytes(c->x) / BODY_BYTES_PER_MS);
    return c->door->body_us + extra_ms * 1000;
}

static void check_deadline(struct conn *c, int64_t now_us)
{
    struct door *d = c->door;
    int64_t spent = now_us - c->since_us;
    switch (c->phase) {
    case CONN_HEADERS:
        if (spent > d->header_us) too_slow(c, "the header section took too long");
        break;
    case CONN_BODY:
        if (c->x && spent > body_allowed_us(c)) too_slow(c, "the body took too long");
        break;
    case CONN_STREAM:
        if (spent <= d->write_us || !c->x || !exchange_is_stuck(c->x)) break;
        d->stats.too_slow++;
        exchange_abort(c->x);
        break;
    case CONN_WRITE:
        if (spent <= d->write_us) break;
        d->stats.too_slow++;
        shutdown(c->fd, SHUT_RDWR);
        break;
    case CONN_IDLE:
        if (spent > (int64_t)CONN_IDLE_MS * 1000)
            shutdown(c->fd, SHUT_RDWR);
        else if (d->n_sweep % 8 == 0 && has_begun(c, spent))
            conn_set(c, CONN_HEADERS);
        break;
    case CONN_WORK:
        break;
    }
}

// A caller that shuts down its sending side is taken for gone: it cannot be told from one that is.
static void check_hang_ups(struct door *d)
{
    nfds_t n = 0;
    list_each(it, &d->conns)
    {
        struct conn *c = list_item(it, struct conn, node);
        if ((c->phase != CONN_WORK && c->phase != CONN_STREAM) || !c->x) continue;
        if (n == d->max_connections) break;
        d->watchers[n] = c;
        d->watched[n++] = (struct pollfd){.fd = c->fd, .events = POLLRDHUP};
    }
    if (n == 0 || poll(d->watched, n, 0) <= 0) return;
    for (nfds_t i = 0; i < n; i++) {
        if (!d->watched[i].revents) continue;
        d->stats.hang_ups++;
        exchange_abort(d->watchers[i]->x);
    }
}

bool conn_sweep(struct door *d, int64_t now_us)
{
    d->n_sweep++;
    check_hang_ups(d);
    list_each(it, &d->conns)
    {
        struct conn *c = list_item(it, struct conn, node);
        if (c->x) exchange_tick(c->x, now_us);
        check_deadline(c, now_us);
    }
    sweep_lingers(d, now_us);
    return !list_empty(&d->conns) || !list_empty(&d->lingers);
}
