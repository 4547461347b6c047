#include "proto/link/port_priv.h"
#include "proto/link/room.h"

#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/wire/wire.h"

#include <errno.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <ucp/api/ucp.h>
#include <ucs/config/global_opts.h>
#include <ucs/debug/debug.h>
#include <ucs/debug/log_def.h>
#include <unistd.h>

// How this uses UCX 1.13, and why (measured; tests/unit/link/ucx_test.c measures again):
//
// - A frame is one active message: our 64-byte header as the user header, the payload as the data.
//   Short payloads are copied along (eager); others wait at the sender until the receiver, having
//   checked the header, names the buffer (rendezvous). So a long frame that nobody has room for
//   stays where it is, and of the short ones at most n_frame are kept waiting, the rest dropped.
// - Endpoints are in UCP_ERR_HANDLING_MODE_PEER: without it, nothing ends the requests to a dead
//   peer, and closing by force is not allowed. Of the shared memory transports only posix can live
//   with that mode, and only when told so (MM_ERROR_HANDLING); sysv is left out by UCX. Neither
//   latency nor bandwidth suffers from it.
// - Nothing is sent from our memory directly (ZCOPY_THRESH): with it, closing by force while such a
//   send is under way fails an assertion inside UCX ("comp->count > 0"), which ends the process.
//   The large TCP segments make up for the copy.
// - A peer of the same machine that does not share /dev/shm or the network namespace (room.h) looks
//   reachable by shared memory to UCX, and is not. We send to it out of a second context that has
//   no such transport, opened when the first one of them is connected; it answers to there by
//   itself.
// - UCX notices a killed peer (TCP: at once; shared memory: at the next keepalive round), a stopped
//   one never. Nothing here waits for it: closing is bounded, and everything else returns.

enum {
    AM_FRAME = 1,
    // Over TCP a frame of 16 KB takes 14 us one way as eager and 26 us by rendezvous; above 64 KB
    // there is no difference. (In shared memory the receiving UCX allocates above 32 KB.)
    EAGER_MAX = 65536,
    PROGRESS_ROUNDS_MAX = 64, // work is left for the next call after this, so that none takes long
    FLUSH_MS = 50,            // port_close: for sends that may still go out
    CANCEL_MS = 30,           // and for UCX to return the requests of endpoints closed by force
};

struct ucx_port;

struct ucx_send {
    struct ucx_port *port;
    struct list list; // in send_free, or linked to itself: in flight
    ucp_ep_h ep;      // of what is in flight, else NULL
    uint8_t header[FRAME_HEADER_BYTES];
    uint8_t *payload;
};

struct ucx_peer {
    struct ucx_port *port;
    ucp_ep_h ep; // NULL: not connected
    ucs_status_t failed;
};

// A context of UCX with the port's transports, or with those that need no shared memory.
struct ucx_road {
    struct ucx_port *port;
    ucp_context_h context;
    ucp_worker_h worker; // NULL: not opened
    int fd;
};
enum { ROAD_ANY, ROAD_NO_MEMORY, ROADS };

// A frame that came while every buffer was in use; UCX holds its bytes.
struct ucx_waiting {
    struct ucx_road *road;
    struct frame frame;
    uint8_t header[FRAME_HEADER_BYTES];
    void *desc;
    ucp_ep_h reply;
    bool is_rndv;
};

struct ucx_port {
    struct port port;
    struct port_pool pool;
    struct ucx_road roads[ROADS];
    struct room room;
    char *transports, *devices;        // of ROAD_NO_MEMORY, if it is needed
    uint8_t address[WIRE_ADDRESS_MAX]; // a frame: header; as its payload the room, UCX's address
    uint32_t address_len;
    int fd; // of the first road, or an epoll of both
    struct ucx_peer peers[PORT_PEERS_MAX];
    struct ucx_send *sends;
    uint8_t *send_memory;
    struct list send_free;
    uint32_t n_sending;
    struct ucx_waiting *waiting; // ring
    uint32_t waiting_at, n_waiting;
    uint32_t n_receiving; // rendezvous into our buffers under way
    uint32_t n_failed;    // peers
    bool is_closing;
};

// -- process-wide settings of UCX --

static ucs_log_func_rc_t ucx_log(const char *file, unsigned line, const char *function,
                                 ucs_log_level_t level, const ucs_log_component_config_t *conf,
                                 const char *message, va_list ap)
{
    (void)function, (void)conf;
    char text[400];
    vsnprintf(text, sizeof text, message, ap);
    if (level <= UCS_LOG_LEVEL_WARN) {
        const char *base = strrchr(file, '/');
        log_write(LOG_WARN, "ucx: %s (%s:%u)", text, base ? base + 1 : file, line);
    }
    return UCS_LOG_FUNC_RC_STOP;
}

// UCX installs handlers for SIGSEGV and its like when it is loaded, prints to stdout and reads
// UCX_* variables that were meant for other programs on the machine. The first two end here; the
// settings that matter are set explicitly below, whatever the environment says.
static void ucx_tame(void)
{
    static const int signals[] = {SIGILL, SIGSEGV, SIGBUS, SIGFPE};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        ucs_debug_disable_signal(signals[i]);
    ucs_global_opts_set_value("HANDLE_ERRORS", "none");
    ucs_global_opts_set_value("WARN_UNUSED_ENV_VARS", "n");
    ucs_log_push_handler(ucx_log);
}

// -- sending --

static void on_peer_error(void *arg, ucp_ep_h ep, ucs_status_t status)
{
    (void)ep;
    struct ucx_peer *peer = arg;
    if (!peer->failed) peer->port->n_failed++;
    peer->failed = status == UCS_OK ? UCS_ERR_CONNECTION_RESET : status;
}

static struct ucx_send *send_take(struct ucx_port *p)
{
    if (list_empty(&p->send_free)) return NULL;
    struct ucx_send *s = list_item(p->send_free.next, struct ucx_send, list);
    list_remove(&s->list);
    p->n_sending++;
    return s;
}

static void send_give(struct ucx_send *s)
{
    s->port->n_sending--;
    s->ep = NULL;
    list_push_front(&s->port->send_free, &s->list);
}

static void send_done(void *request, ucs_status_t status, void *arg)
{
    (void)status; // a failure reaches the endpoint's error handler too
    ucp_request_free(request);
    send_give(arg);
}

static ucs_status_t send_start(struct ucx_send *s, ucp_ep_h ep, uint64_t bytes, uint32_t flags)
{
    ucp_request_param_t param = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
                        UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_MEMORY_TYPE,
        .cb.send = send_done,
        .user_data = s,
        .flags = flags,
        .memory_type = UCS_MEMORY_TYPE_HOST,
    };
    s->ep = ep;
    ucs_status_ptr_t r =
        ucp_am_send_nbx(ep, AM_FRAME, s->header, sizeof s->header, s->payload, bytes, &param);
    if (UCS_PTR_IS_PTR(r)) return UCS_OK;
    send_give(s);
    return UCS_PTR_STATUS(r);
}

static err_t ucx_send(struct port *port, uint32_t to, const struct frame *f, port_fill_fn *fill,
                      void *arg)
{
    struct ucx_port *p = (struct ucx_port *)port;
    struct ucx_peer *peer = &p->peers[to];
    if (!peer->ep) return ERR_NOT_FOUND;
    if (peer->failed) return ERR_LINK;
    struct ucx_send *s = send_take(p);
    if (!s) return ERR_AGAIN;
    struct frame mine = *f;
    mine.payload = s->payload;
    if (fill) fill(arg, s->payload, f->bytes);
    frame_pack(&mine, port->key, s->header);
    const bool is_long = f->bytes > EAGER_MAX;
    uint32_t flags = is_long ? UCP_AM_SEND_FLAG_RNDV : UCP_AM_SEND_FLAG_EAGER;
    if (is_long || f->kind == FRAME_PING) flags |= UCP_AM_SEND_FLAG_REPLY;
    ucs_status_t st = send_start(s, peer->ep, f->bytes, flags);
    if (st == UCS_OK) return OK;
    on_peer_error(peer, peer->ep, st);
    return ERR_LINK;
}

// Pings are answered where they arrive: there the reply endpoint is alive for certain. One with a
// row asks for its payload.
static void ping_answer(struct ucx_port *p, const struct frame *ping, ucp_ep_h reply)
{
    struct ucx_send *s = p->is_closing ? NULL : send_take(p);
    struct frame pong = *ping;
    pong.kind = FRAME_PONG;
    if (ping->n_row == 0) pong.bytes = 0;
    if (s && pong.bytes) memcpy(s->payload, ping->payload, pong.bytes);
    pong.payload = s ? s->payload : NULL;
    if (s) frame_pack(&pong, p->port.key, s->header);
    if (!s || send_start(s, reply, pong.bytes, UCP_AM_SEND_FLAG_EAGER) != UCS_OK)
        port_pool_dropped(&p->pool);
}

// -- receiving --

static void recv_end(struct port_slot *s, bool is_whole)
{
    struct ucx_port *p = s->owner;
    // Pings and pongs are compared byte by byte by whoever measures.
    const bool is_measured = s->frame.kind == FRAME_PING || s->frame.kind == FRAME_PONG;
    is_whole = is_whole && (is_measured || frame_check(s->header, s->memory, s->frame.bytes));
    if (is_whole && s->frame.kind != FRAME_PING) {
        port_pool_ready(&p->pool, s);
        return;
    }
    if (is_whole)
        ping_answer(p, &s->frame, s->reply);
    else
        port_pool_dropped(&p->pool);
    port_pool_give(&p->pool, s);
}

static void recv_done(void *request, ucs_status_t status, size_t length, void *arg)
{
    struct port_slot *s = arg;
    ((struct ucx_port *)s->owner)->n_receiving--;
    s->is_filling = false;
    recv_end(s, status == UCS_OK && length == s->frame.bytes);
    ucp_request_free(request);
}

// Brings the sender's payload into the slot. The descriptor is used up.
static void recv_start(struct ucx_road *road, struct port_slot *s, void *desc)
{
    ucp_request_param_t param = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
                        UCP_OP_ATTR_FIELD_MEMORY_TYPE,
        .cb.recv_am = recv_done,
        .user_data = s,
        .memory_type = UCS_MEMORY_TYPE_HOST,
    };
    ucs_status_ptr_t r =
        ucp_am_recv_data_nbx(road->worker, desc, s->memory, s->frame.bytes, &param);
    s->is_filling = UCS_PTR_IS_PTR(r);
    if (s->is_filling)
        road->port->n_receiving++;
    else
        recv_end(s, UCS_PTR_STATUS(r) == UCS_OK);
}

static void slot_fill(struct ucx_port *p, struct port_slot *s, const struct frame *f,
                      const uint8_t *header, ucp_ep_h reply)
{
    s->frame = *f;
    s->frame.payload = s->memory;
    s->owner = p;
    s->reply = reply;
    memcpy(s->header, header, sizeof s->header);
}

static ucs_status_t wait_for_room(struct ucx_road *road, const struct frame *f,
                                  const uint8_t *header, ucp_ep_h reply, void *data, bool is_rndv)
{
    struct ucx_port *p = road->port;
    if (p->n_waiting == p->pool.n_frame || f->kind == FRAME_PING) {
        port_pool_dropped(&p->pool);
        return UCS_OK;
    }
    struct ucx_waiting *w = &p->waiting[(p->waiting_at + p->n_waiting++) % p->pool.n_frame];
    *w = (struct ucx_waiting){
        .road = road, .frame = *f, .desc = data, .reply = reply, .is_rndv = is_rndv};
    memcpy(w->header, header, sizeof w->header);
    return UCS_INPROGRESS;
}

static void waiting_serve(struct ucx_port *p)
{
    while (p->n_waiting) {
        struct port_slot *s = port_pool_take(&p->pool);
        if (!s) return;
        struct ucx_waiting *w = &p->waiting[p->waiting_at];
        p->waiting_at = (p->waiting_at + 1) % p->pool.n_frame;
        p->n_waiting--;
        slot_fill(p, s, &w->frame, w->header, w->reply);
        if (w->is_rndv) {
            recv_start(w->road, s, w->desc);
        } else {
            if (w->frame.bytes) memcpy(s->memory, w->desc, w->frame.bytes);
            ucp_am_data_release(w->road->worker, w->desc);
            recv_end(s, true);
        }
    }
}

static ucs_status_t on_frame(void *arg, const void *header, size_t header_len, void *data,
                             size_t len, const ucp_am_recv_param_t *param)
{
    struct ucx_road *road = arg;
    struct ucx_port *p = road->port;
    bool is_rndv = param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV;
    ucp_ep_h reply = param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP ? param->reply_ep : NULL;
    struct frame f;
    if (p->is_closing || header_len != FRAME_HEADER_BYTES ||
        frame_unpack(header, p->port.key, &f, NULL) || f.epoch != p->port.epoch || f.bytes != len ||
        len > p->pool.max_bytes || (f.kind == FRAME_PING && !reply)) {
        port_pool_dropped(&p->pool);
        return UCS_OK;
    }
    struct port_slot *s = p->n_waiting ? NULL : port_pool_take(&p->pool);
    if (!s) return wait_for_room(road, &f, header, reply, data, is_rndv);
    slot_fill(p, s, &f, header, reply);
    if (is_rndv) {
        recv_start(road, s, data);
        return UCS_INPROGRESS;
    }
    if (len) memcpy(s->memory, data, len);
    recv_end(s, true);
    return UCS_OK;
}

// -- port --

static unsigned progress(struct ucx_port *p)
{
    unsigned n = 0;
    for (int i = 0; i < ROADS; i++)
        if (p->roads[i].worker) n += ucp_worker_progress(p->roads[i].worker);
    return n;
}

static err_t ucx_progress(struct port *port, struct err_text *why)
{
    struct ucx_port *p = (struct ucx_port *)port;
    if (p->n_waiting) waiting_serve(p);
    for (int i = 0; i < PROGRESS_ROUNDS_MAX && progress(p); i++)
        ;
    if (!p->n_failed) return OK;
    for (uint32_t i = 0; i < PORT_PEERS_MAX; i++)
        if (p->peers[i].failed)
            return err_say(why, ERR_LINK, "data road to peer %u failed: %s", i,
                           ucs_status_string(p->peers[i].failed));
    return OK;
}

static err_t ucx_arm(struct port *port)
{
    struct ucx_port *p = (struct ucx_port *)port;
    if (p->n_waiting && port_pool_has_room(&p->pool)) return ERR_AGAIN;
    for (int i = 0; i < ROADS; i++)
        if (p->roads[i].worker && ucp_worker_arm(p->roads[i].worker) != UCS_OK) return ERR_AGAIN;
    return OK;
}

static int ucx_fd(const struct port *port)
{
    return ((const struct ucx_port *)port)->fd;
}

static void ucx_address(const struct port *port, const uint8_t **data, uint32_t *len)
{
    const struct ucx_port *p = (const struct ucx_port *)port;
    *data = p->address;
    *len = p->address_len;
}

// -- contexts --

static bool has_transport(const char *transports, const char *name)
{
    return strstr(transports, name) || strstr(transports, "all");
}

static ucs_status_t context_open(struct ucx_road *road, const char *transports, const char *devices)
{
    const struct {
        const char *name, *value, *only_for; // UCX complains about settings that nothing uses
    } settings[] = {
        {"TLS", transports, NULL},
        {"NET_DEVICES", devices, NULL},
        {"KEEPALIVE_INTERVAL", "1s", NULL},
        {"ZCOPY_THRESH", "inf", NULL},
        {"RNDV_SCHEME", "am", NULL},
        {"MM_ERROR_HANDLING", "y", "posix"},
        // 2 MB for the 64 elements of the queue. With the usual 8 KB a large frame needs many more
        // turns of both processes, which on a busy machine is 2 to 10 times slower. From 64 KB on
        // UCX cuts lengths off.
        {"MM_SEG_SIZE", "32kb", "posix"},
        {"CONN_NB", "y", "tcp"}, // otherwise connecting to a silent host blocks
        {"TX_SEG_SIZE", "128kb", "tcp"},
        {"RX_SEG_SIZE", "256kb", "tcp"},
    };
    ucp_config_t *config;
    ucs_status_t st = ucp_config_read(NULL, NULL, &config);
    if (st != UCS_OK) return st;
    for (size_t i = 0; st == UCS_OK && i < sizeof settings / sizeof *settings; i++)
        if (!settings[i].only_for || has_transport(transports, settings[i].only_for))
            st = ucp_config_modify(config, settings[i].name, settings[i].value);
    ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES,
                           .features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP};
    if (st == UCS_OK) st = ucp_init(&params, config, &road->context);
    ucp_config_release(config);
    return st;
}

static ucs_status_t worker_open(struct ucx_road *road)
{
    ucp_worker_params_t params = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                  .thread_mode = UCS_THREAD_MODE_SINGLE};
    ucs_status_t st = ucp_worker_create(road->context, &params, &road->worker);
    if (st != UCS_OK) return st;
    ucp_am_handler_param_t handler = {
        .field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                      UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG,
        .id = AM_FRAME,
        .flags = UCP_AM_FLAG_WHOLE_MSG | UCP_AM_FLAG_PERSISTENT_DATA,
        .cb = on_frame,
        .arg = road,
    };
    st = ucp_worker_set_am_recv_handler(road->worker, &handler);
    return st == UCS_OK ? ucp_worker_get_efd(road->worker, &road->fd) : st;
}

static ucs_status_t road_open(struct ucx_road *road, const char *transports, const char *devices)
{
    ucs_status_t st = context_open(road, transports, devices);
    return st == UCS_OK ? worker_open(road) : st;
}

static void road_close(struct ucx_road *road)
{
    if (road->worker) ucp_worker_destroy(road->worker);
    if (road->context) ucp_cleanup(road->context);
    *road = (struct ucx_road){.port = road->port};
}

// -- peers --

// From now on two descriptors are one. 0, or the system's error.
static int poll_both(struct ucx_port *p)
{
    const int all = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event readable = {.events = EPOLLIN};
    if (all < 0) return errno;
    for (int i = 0; i < ROADS; i++) {
        if (epoll_ctl(all, EPOLL_CTL_ADD, p->roads[i].fd, &readable) == 0) continue;
        const int error = errno;
        close(all);
        return error;
    }
    p->fd = all;
    return 0;
}

static err_t road_to(struct ucx_port *p, uint32_t to, const uint8_t *room, struct ucx_road **out,
                     struct err_text *why)
{
    struct ucx_road *road = &p->roads[ROAD_NO_MEMORY];
    struct room theirs;
    memcpy(&theirs, room, sizeof theirs);
    *out = road;
    if (!room_is_next_door(&p->room, &theirs) || !p->transports) {
        *out = &p->roads[ROAD_ANY];
        return OK;
    }
    if (road->worker) return OK;
    ucs_status_t st = road_open(road, p->transports, p->devices);
    const int failed = st == UCS_OK ? poll_both(p) : 0;
    if (st == UCS_OK && !failed) {
        log_info("peer %u is on this machine but shares no memory with us: %s", to, p->transports);
        return OK;
    }
    road_close(road);
    return err_say(why, ERR_LINK, "peer %u shares no memory with us, and %s cannot be used: %s", to,
                   p->transports, failed ? strerror(failed) : ucs_status_string(st));
}

// UCX believes an address, and aborts on some that are cut short or altered. So only addresses
// that a member of this epoch made, and that arrived whole, reach it.
static err_t address_check(const struct ucx_port *p, uint32_t to, const uint8_t *address,
                           uint32_t len, struct err_text *why)
{
    struct frame f;
    if (len <= FRAME_HEADER_BYTES + ROOM_BYTES || len > WIRE_ADDRESS_MAX)
        return err_say(why, ERR_LINK_PROTOCOL, "peer %u: not the address of a ucx port", to);
    err_t e = frame_unpack(address, p->port.key, &f, NULL);
    if (e) return err_say(why, e, "peer %u: not the address of a ucx port of this epoch", to);
    if (f.epoch != p->port.epoch || f.bytes != len - FRAME_HEADER_BYTES ||
        !frame_check(address, address + FRAME_HEADER_BYTES, f.bytes))
        return err_say(why, ERR_LINK_PROTOCOL, "peer %u: its address is damaged", to);
    return OK;
}

static err_t ucx_connect(struct port *port, uint32_t to, const uint8_t *address, uint32_t len,
                         struct err_text *why)
{
    struct ucx_port *p = (struct ucx_port *)port;
    struct ucx_peer *peer = &p->peers[to];
    if (peer->ep) return err_say(why, ERR_INVALID, "peer %u is connected already", to);
    err_t e = address_check(p, to, address, len, why);
    if (e) return e;
    struct ucx_road *road;
    e = road_to(p, to, address + FRAME_HEADER_BYTES, &road, why);
    if (e) return e;
    // UCX addresses do not carry their length: a wrong one would be read past its end.
    const uint32_t before = FRAME_HEADER_BYTES + ROOM_BYTES;
    uint8_t padded[2 * WIRE_ADDRESS_MAX] = {0};
    memcpy(padded, address + before, len - before);
    ucp_ep_params_t params = {
        .field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER,
        .address = (const ucp_address_t *)padded,
        .err_mode = UCP_ERR_HANDLING_MODE_PEER,
        .err_handler = {on_peer_error, peer},
    };
    peer->port = p;
    ucs_status_t st = ucp_ep_create(road->worker, &params, &peer->ep);
    if (st == UCS_OK) return OK;
    peer->ep = NULL;
    return err_say(why, ERR_LINK, "data road to peer %u: %s", to, ucs_status_string(st));
}

static bool ucx_is_sending(const struct port *port)
{
    return ((const struct ucx_port *)port)->n_sending > 0;
}

static const char *ucx_transport(const struct port *port, uint32_t peer)
{
    static const struct {
        const char *sign, *name;
    } signs[] = {
        {"rc_", "ucx rdma"}, {"dc_", "ucx rdma"},  {"posix/", "ucx shm"},
        {"tcp/", "ucx tcp"}, {"sysv/", "ucx shm"}, {"self/", "ucx self"},
    };
    const struct ucx_port *p = (const struct ucx_port *)port;
    const char *name = "ucx";
    char *text = NULL;
    size_t len;
    FILE *f = p->peers[peer].ep ? open_memstream(&text, &len) : NULL;
    if (!f) return name;
    ucp_ep_print_info(p->peers[peer].ep, f);
    fclose(f);
    for (size_t k = sizeof signs / sizeof *signs; k-- > 0;)
        if (text && strstr(text, signs[k].sign)) name = signs[k].name;
    free(text);
    return name;
}

// -- closing --

static void progress_until(struct ucx_port *p, const uint32_t *count, int ms)
{
    int64_t deadline = clock_now_us() + ms * 1000;
    while (*count && clock_now_us() < deadline)
        progress(p);
}

static void on_closed(void *request, ucs_status_t status, void *arg)
{
    (void)status;
    --*(uint32_t *)arg;
    ucp_request_free(request);
}

struct ucx_closing {
    const ucp_request_param_t *param;
    uint32_t *n_closing;
    ucp_ep_h done[2 * PORT_PEERS_MAX];
    uint32_t n_done;
};

static void close_once(struct ucx_closing *c, ucp_ep_h ep)
{
    for (uint32_t i = 0; i < c->n_done; i++)
        if (c->done[i] == ep) return;
    if (!ep || c->n_done == sizeof c->done / sizeof *c->done) return;
    c->done[c->n_done++] = ep;
    if (UCS_PTR_IS_PTR(ucp_ep_close_nbx(ep, c->param))) ++*c->n_closing;
}

// Besides our own endpoints there are those that UCX made for peers that connected to us.
// Destroying them while a rendezvous or a pong is under way fails an assertion inside UCX
// ("proto_reqs"), which ends the process; closing them by force before does not. Over a link with a
// delay that is usual.
static void peers_close(struct ucx_port *p)
{
    uint32_t n_closing = 0;
    ucp_request_param_t param = {
        .op_attr_mask =
            UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
        .flags = UCP_EP_CLOSE_FLAG_FORCE,
        .cb.send = on_closed,
        .user_data = &n_closing,
    };
    struct ucx_closing c = {.param = &param, .n_closing = &n_closing};
    for (uint32_t i = 0; i < PORT_PEERS_MAX; i++)
        close_once(&c, p->peers[i].ep);
    for (uint32_t i = 0; p->sends && i < p->pool.n_frame; i++) {
        close_once(&c, p->sends[i].ep);
        if (p->pool.slots[i].is_filling) close_once(&c, p->pool.slots[i].reply);
    }
    // Both: the requests of a stopped peer are returned only by later rounds.
    progress_until(p, &n_closing, CANCEL_MS);
    progress_until(p, &p->n_sending, CANCEL_MS);
    progress_until(p, &p->n_receiving, CANCEL_MS);
}

static void ucx_close(struct port *port)
{
    struct ucx_port *p = (struct ucx_port *)port;
    if (p->roads[ROAD_ANY].worker) {
        progress_until(p, &p->n_sending, FLUSH_MS);
        p->is_closing = true;
        for (; p->n_waiting; p->n_waiting--, p->waiting_at++) {
            const struct ucx_waiting *w = &p->waiting[p->waiting_at % p->pool.n_frame];
            ucp_am_data_release(w->road->worker, w->desc);
        }
        peers_close(p);
    }
    // Buffers last: until here a transport may still know them.
    if (p->fd != p->roads[ROAD_ANY].fd) close(p->fd);
    for (int i = 0; i < ROADS; i++)
        road_close(&p->roads[i]);
    free(p->transports);
    free(p->devices);
    port_pool_fini(&p->pool);
    free(p->sends);
    free(p->send_memory);
    free(p->waiting);
    free(p);
}

// -- opening --

static const struct port_ops ucx_ops = {
    .close = ucx_close,
    .address = ucx_address,
    .connect = ucx_connect,
    .send = ucx_send,
    .progress = ucx_progress,
    .arm = ucx_arm,
    .fd = ucx_fd,
    .is_sending = ucx_is_sending,
    .transport = ucx_transport,
};

static ucs_status_t address_get(struct ucx_port *p)
{
    ucp_address_t *address;
    size_t len;
    ucp_worker_h worker = p->roads[ROAD_ANY].worker;
    ucs_status_t st = ucp_worker_get_address(worker, &address, &len);
    if (st != UCS_OK) return st;
    if (len <= sizeof p->address - FRAME_HEADER_BYTES - ROOM_BYTES) {
        uint8_t *payload = p->address + FRAME_HEADER_BYTES;
        memcpy(payload, &p->room, ROOM_BYTES);
        memcpy(payload + ROOM_BYTES, address, len);
        struct frame f = {.kind = FRAME_PING,
                          .dtype = DT_F32,
                          .epoch = p->port.epoch,
                          .bytes = ROOM_BYTES + len,
                          .payload = payload};
        frame_pack(&f, p->port.key, p->address);
        p->address_len = (uint32_t)(FRAME_HEADER_BYTES + f.bytes);
    } else {
        st = UCS_ERR_EXCEEDS_LIMIT;
    }
    ucp_worker_release_address(worker, address);
    return st;
}

static err_t buffers_open(struct ucx_port *p, const struct port_config *c)
{
    err_t e = port_pool_init(&p->pool, c->n_frame, c->max_bytes);
    if (e) return e;
    uint64_t each = port_pool_stride(c->max_bytes);
    p->sends = calloc(c->n_frame, sizeof *p->sends);
    p->send_memory = port_pool_memory(c->n_frame, c->max_bytes);
    p->waiting = calloc(c->n_frame, sizeof *p->waiting);
    if (!p->sends || !p->send_memory || !p->waiting) return ERR_MEMORY;
    for (uint32_t i = 0; i < c->n_frame; i++) {
        p->sends[i].port = p;
        p->sends[i].payload = p->send_memory + i * each;
        list_push_back(&p->send_free, &p->sends[i].list);
    }
    return OK;
}

const char *port_version(void)
{
    return ucp_get_version_string();
}

// UCX would only warn and go on without a network.
static err_t devices_check(const char *devices, struct err_text *why)
{
    char name[IF_NAMESIZE];
    for (const char *at = devices; *at;) {
        size_t n = strcspn(at, ",");
        // "mlx5_0:1" is a port of an RDMA device, of which the system knows another name.
        if (!memchr(at, ':', n)) {
            snprintf(name, sizeof name, "%.*s", (int)n, at);
            if (n >= sizeof name || if_nametoindex(name) == 0)
                return err_say(why, ERR_CONFIG, "there is no network device %.*s", (int)n, at);
        }
        at += n + (at[n] == ',');
    }
    return OK;
}

// Those of the list that need no shared memory; NULL if all are such.
static bool plain_transports(struct ucx_port *p, const char *transports, const char *devices)
{
    static const char *const shared[] = {"posix", "sysv", "sm",   "shm",
                                         "mm",    "cma",  "knem", "xpmem"};
    char *out = calloc(1, strlen(transports) + sizeof "^sm");
    p->transports = out;
    p->devices = strdup(devices);
    if (!out || !p->devices) return false;
    if (has_transport(transports, "all")) return strcpy(out, "^sm");
    for (const char *at = transports; *at;) {
        const size_t n = strcspn(at, ",");
        bool is_shared = false;
        for (size_t i = 0; i < sizeof shared / sizeof *shared; i++)
            is_shared |= strlen(shared[i]) == n && !memcmp(at, shared[i], n);
        if (!is_shared) snprintf(out + strlen(out), n + 2, "%s%.*s", *out ? "," : "", (int)n, at);
        at += n + (at[n] == ',');
    }
    if (strcmp(out, transports) != 0) return true;
    free(out);
    p->transports = NULL;
    return true;
}

err_t link_ucx_open(const struct port_config *c, struct port **out, struct err_text *why)
{
    static pthread_once_t tame_once = PTHREAD_ONCE_INIT;
    pthread_once(&tame_once, ucx_tame);
    err_t e = c->devices ? devices_check(c->devices, why) : OK;
    if (e) return e;
    struct ucx_port *p = calloc(1, sizeof *p);
    if (!p) return err_say(why, ERR_MEMORY, "port: no memory");
    const char *transports = c->transports ? c->transports : "self,posix,tcp";
    const char *devices = c->devices ? c->devices : "lo";
    list_init(&p->send_free);
    p->room = room_here();
    for (int i = 0; i < ROADS; i++)
        p->roads[i].port = p;
    p->port.ops = &ucx_ops;
    p->port.epoch = c->epoch;
    p->port.pool = &p->pool;
    memcpy(p->port.key, c->key, sizeof p->port.key);
    e = buffers_open(p, c);
    if (!e && !plain_transports(p, transports, devices)) e = ERR_MEMORY;
    if (e) {
        err_say(why, e, "port: no memory for %u frames of %llu bytes", c->n_frame,
                (unsigned long long)c->max_bytes);
    } else {
        struct ucx_road *road = &p->roads[ROAD_ANY];
        ucs_status_t st = road_open(road, transports, devices);
        p->fd = road->fd;
        if (st == UCS_OK) st = address_get(p);
        if (st != UCS_OK) e = err_say(why, ERR_SYSTEM, "port: ucx: %s", ucs_status_string(st));
    }
    if (e) {
        ucx_close(&p->port);
        return e;
    }
    *out = &p->port;
    return OK;
}
