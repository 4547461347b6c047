#include "coordinator/door/http.h"
#include "coordinator/door/call.h"
#include "coordinator/door/conn.h"
#include "coordinator/door/exchange.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    MEMORY_PER_CONNECTION = 64 << 10, // header section, and the library's part of answers
    RUNS_PER_TURN = 16,
    IDLE_RUNS_MAX = 1000,
    BACKLOG = 1024,
};

// -- the listening socket --

struct listen_addr {
    char host[256], port[8];
    bool loopback;
};

// "host:port" or "[v6]:port"
static err_t split_listen(const char *listen, struct listen_addr *out, struct err_text *why)
{
    const char *colon = strrchr(listen, ':');
    size_t len = colon ? (size_t)(colon - listen) : 0;
    bool bracket = len > 2 && listen[0] == '[' && listen[len - 1] == ']';
    const char *host = bracket ? listen + 1 : listen;
    if (bracket) len -= 2;
    size_t digits = colon ? strspn(colon + 1, "0123456789") : 0;
    if (!colon || len == 0 || len >= sizeof out->host || digits == 0 || digits > 5 ||
        colon[1 + digits] != 0 || strtoul(colon + 1, NULL, 10) > 65535 ||
        (!bracket && memchr(host, ':', len)))
        return err_say(why, ERR_CONFIG, "'%s' is no address to listen at: HOST:PORT is", listen);
    memcpy(out->host, host, len);
    out->host[len] = 0;
    snprintf(out->port, sizeof out->port, "%s", colon + 1);
    return OK;
}

static bool is_loopback(const struct sockaddr *sa)
{
    if (sa->sa_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr);
    const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)sa;
    return (ntohl(in->sin_addr.s_addr) >> 24) == 127;
}

static err_t bind_one(const struct addrinfo *ai, const char *listen_at, int *out,
                      struct err_text *why)
{
    int one = 1, fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return err_say(why, ERR_SYSTEM, "socket: %s", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0) {
        err_say(why, ERR_SYSTEM, "cannot listen at %s: %s", listen_at, strerror(errno));
        close(fd);
        return ERR_SYSTEM;
    }
    *out = fd;
    return OK;
}

// An open door without a key is refused, and so is a key sent in the clear.
static err_t check_public(const struct door_config *c, struct err_text *why)
{
    bool keys = c->api_keys && c->api_keys[0];
    bool tls = c->tls_cert_pem && c->tls_key_pem;
    if (keys && tls) return OK;
    return err_say(why, ERR_CONFIG,
                   "%s is reachable from other machines: that needs %s%s%s; "
                   "or listen at 127.0.0.1",
                   c->listen, keys ? "" : "an API key", keys || tls ? "" : " and ",
                   tls ? "" : "a TLS certificate with its key");
}

static int port_of(int fd)
{
    union {
        struct sockaddr sa;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } a;
    socklen_t len = sizeof a;
    if (getsockname(fd, &a.sa, &len) != 0) return 0;
    return ntohs(a.sa.sa_family == AF_INET6 ? a.v6.sin6_port : a.v4.sin_port);
}

static err_t open_socket(const struct door_config *c, int *out, struct err_text *why)
{
    struct listen_addr at;
    struct addrinfo *list, hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    err_t err = split_listen(c->listen, &at, why);
    if (err) return err;
    int gai = getaddrinfo(at.host, at.port, &hints, &list);
    if (gai != 0)
        return err_say(why, ERR_CONFIG, "cannot listen at %s: %s", c->listen, gai_strerror(gai));
    if (!is_loopback(list->ai_addr)) err = check_public(c, why);
    if (!err) err = bind_one(list, c->listen, out, why);
    freeaddrinfo(list);
    return err;
}

// -- the library --

static void on_library_log(void *cls, const char *fmt, va_list ap)
{
    char line[256];
    vsnprintf(line, sizeof line, fmt, ap);
    line[strcspn(line, "\n")] = 0;
    conn_library_says(cls, line);
    log_debug("http: %s", line);
}

// Paths are decoded by gate.c; the library's own way of it loses what follows a %00.
static size_t no_unescape(void *cls, struct MHD_Connection *c, char *s)
{
    (void)cls, (void)c;
    return strlen(s);
}

static err_t start_library(struct door *d, const struct door_config *c, int fd,
                           struct err_text *why)
{
    unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    struct MHD_OptionItem tls[] = {
        {MHD_OPTION_HTTPS_MEM_CERT, 0, (void *)(uintptr_t)c->tls_cert_pem},
        {MHD_OPTION_HTTPS_MEM_KEY, 0, (void *)(uintptr_t)c->tls_key_pem},
        {MHD_OPTION_END, 0, NULL}};
    d->tls = c->tls_cert_pem && c->tls_key_pem;
    if (d->tls)
        flags |= MHD_USE_TLS;
    else
        tls[0].option = MHD_OPTION_END;
    d->mhd = MHD_start_daemon(
        flags, 0, conn_policy, d, exchange_access, d, MHD_OPTION_EXTERNAL_LOGGER, on_library_log, d,
        MHD_OPTION_ARRAY, tls, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_URI_LOG_CALLBACK,
        exchange_uri, d, MHD_OPTION_NOTIFY_COMPLETED, exchange_completed, d,
        MHD_OPTION_NOTIFY_CONNECTION, conn_notify, d, MHD_OPTION_UNESCAPE_CALLBACK, no_unescape,
        NULL, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)MEMORY_PER_CONNECTION,
        // One more than we admit: the refusing is ours.
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)d->max_connections + 1, MHD_OPTION_STRICT_FOR_CLIENT,
        0, // a missing Host is refused by the gate, as JSON
        MHD_OPTION_END);
    if (d->mhd) return OK;
    return err_say(why, d->tls ? ERR_CONFIG : ERR_SYSTEM, "the HTTP library did not start%s",
                   d->tls ? ": is the TLS certificate valid, and the key its own?" : "");
}

// -- the loop --

static void run_library(struct door *d)
{
    d->ready = true;
    for (int i = 0; i < RUNS_PER_TURN && d->ready; i++) {
        uint64_t before = d->n_callback;
        MHD_UNSIGNED_LONG_LONG wait = 1;
        MHD_run(d->mhd);
        d->ready = MHD_get_timeout(d->mhd, &wait) == MHD_YES && wait == 0;
        d->idle_runs = d->ready && d->n_callback == before ? d->idle_runs + 1 : 0;
    }
    if (d->idle_runs < IDLE_RUNS_MAX) return;
    conn_drop_stuck(d);
    d->idle_runs = 0;
}

static void flush_dirty(struct door *d)
{
    // What becomes dirty meanwhile waits for the next turn.
    struct list now;
    if (list_empty(&d->dirty)) return;
    now = d->dirty;
    now.next->prev = now.prev->next = &now;
    list_init(&d->dirty);
    while (!list_empty(&now))
        exchange_flush(list_item(now.next, struct exchange, dirty));
    d->ready = true;
}

static void on_busy(uv_idle_t *h)
{
    (void)h;
}

static void pump(uv_prepare_t *h)
{
    struct door *d = h->data;
    flush_dirty(d);
    if (d->ready) run_library(d);
    bool again = d->ready || !list_empty(&d->dirty);
    if (again)
        uv_idle_start(&d->busy, on_busy);
    else
        uv_idle_stop(&d->busy);
}

static void on_poll(uv_poll_t *h, int status, int events)
{
    struct door *d = h->data;
    (void)status, (void)events;
    d->ready = true;
}

static void on_sweep(uv_timer_t *t)
{
    struct door *d = t->data;
    if (!conn_sweep(d, clock_now_us())) uv_timer_stop(t);
}

void door_keep_sweeping(struct door *d)
{
    if (!uv_is_active((uv_handle_t *)&d->sweep))
        uv_timer_start(&d->sweep, on_sweep, CONN_SWEEP_MS, CONN_SWEEP_MS);
}

static err_t join_loop(struct door *d, struct err_text *why)
{
    const union MHD_DaemonInfo *i = MHD_get_daemon_info(d->mhd, MHD_DAEMON_INFO_EPOLL_FD);
    if (!i || uv_poll_init(d->loop, &d->poll, i->epoll_fd) != 0)
        return err_say(why, ERR_SYSTEM, "the HTTP library gave no descriptor to wait for");
    uv_prepare_init(d->loop, &d->prepare);
    uv_idle_init(d->loop, &d->busy);
    uv_timer_init(d->loop, &d->sweep);
    d->n_handle = 4;
    d->poll.data = d->prepare.data = d->busy.data = d->sweep.data = d;
    uv_poll_start(&d->poll, UV_READABLE, on_poll);
    uv_prepare_start(&d->prepare, pump);
    return OK;
}

static struct door *door_new(uv_loop_t *loop, const struct door_config *c, struct engine *e)
{
    struct door *d = calloc(1, sizeof *d);
    if (!d) return NULL;
    d->loop = loop;
    d->engine = e;
    d->hosts = (struct hosts){.names = c->hosts, .origins = c->origins};
    d->strict_roles = c->strict_roles;
    d->max_body = c->max_body_bytes ? c->max_body_bytes : 8 << 20;
    d->max_connections = c->max_connections ? c->max_connections : 1024;
    d->max_per_address = c->max_per_address ? c->max_per_address : 64;
    d->header_us = 1000 * (int64_t)(c->header_ms ? c->header_ms : 10000);
    d->body_us = 1000 * (int64_t)(c->body_ms ? c->body_ms : 30000);
    d->write_us = 1000 * (int64_t)(c->write_ms ? c->write_ms : 60000);
    // gate.h says why this version.
    d->layout = strcmp(MHD_get_version(), "0.9.75") == 0;
    list_init(&d->conns);
    list_init(&d->dirty);
    list_init(&d->lingers);
    d->replay = replay_new(c->replay_bytes ? c->replay_bytes : REPLAY_BYTES);
    d->recall = c->log_misses ? recall_new() : NULL;
    d->watched = calloc(d->max_connections, sizeof *d->watched);
    d->watchers = calloc(d->max_connections, sizeof *d->watchers);
    bool lock = uv_mutex_init(&d->pool_lock) == 0;
    bool cond = lock && uv_cond_init(&d->pool_idle) == 0;
    if (d->replay && !d->recall == !c->log_misses && d->watched && d->watchers && cond) return d;
    if (cond) uv_cond_destroy(&d->pool_idle);
    if (lock) uv_mutex_destroy(&d->pool_lock);
    recall_free(d->recall);
    replay_free(d->replay);
    free(d->watched);
    free(d->watchers);
    free(d);
    return NULL;
}

static void door_free(struct door *d)
{
    auth_close(&d->auth);
    ledger_close(&d->ledger);
    recall_free(d->recall);
    replay_free(d->replay);
    uv_cond_destroy(&d->pool_idle);
    uv_mutex_destroy(&d->pool_lock);
    free(d->watched);
    free(d->watchers);
    free(d);
}

void door_release(struct door *d)
{
    if (d->closing && d->n_handle == 0 && d->n_job == 0) door_free(d);
}

err_t door_open(uv_loop_t *loop, const struct door_config *c, struct engine *e, struct door **out,
                struct err_text *why)
{
    int fd = -1;
    struct door *d = door_new(loop, c, e);
    if (!d) return err_say(why, ERR_MEMORY, "no memory for the front door");
    err_t err = auth_open(&d->auth, c->api_keys, why);
    if (!err) err = ledger_open(&d->ledger, c->ledger, why);
    if (!err) err = open_socket(c, &fd, why);
    if (!err) {
        d->port = port_of(fd);
        err = start_library(d, c, fd, why);
        if (err) close(fd);
    }
    if (!err) {
        err = join_loop(d, why);
        if (err) MHD_stop_daemon(d->mhd);
    }
    if (err) {
        door_free(d);
        return err;
    }
    log_info("listening at %s, port %d%s%s", c->listen, d->port, d->tls ? ", tls" : "",
             d->auth.n ? "" : ", no API key asked");
    *out = d;
    return OK;
}

int door_port(const struct door *d)
{
    return d->port;
}

void door_drain(struct door *d)
{
    if (d->draining) return;
    d->draining = true;
    MHD_socket fd = MHD_quiesce_daemon(d->mhd);
    if (fd >= 0) close(fd);
}

uint32_t door_n_active(const struct door *d)
{
    return d->n_exchange;
}

static void on_closed(uv_handle_t *h)
{
    struct door *d = h->data;
    d->n_handle--;
    door_release(d);
}

void door_close(struct door *d)
{
    d->closing = true;
    list_each(it, &d->conns)
    {
        struct conn *c = list_item(it, struct conn, node);
        if (c->x) exchange_abort(c->x);
    }
    // The library must not be stopped while anything is suspended: resumed, dead exchanges end.
    flush_dirty(d);
    run_library(d);
    uv_poll_stop(&d->poll);
    MHD_stop_daemon(d->mhd);
    conn_drop_lingers(d);
    call_wait_all(d);
    uv_close((uv_handle_t *)&d->poll, on_closed);
    uv_close((uv_handle_t *)&d->prepare, on_closed);
    uv_close((uv_handle_t *)&d->busy, on_closed);
    uv_close((uv_handle_t *)&d->sweep, on_closed);
}
