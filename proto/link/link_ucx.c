#include "proto/link/port_priv.h"

#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/wire/wire.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucp/api/ucp.h>
#include <ucs/config/global_opts.h>
#include <ucs/debug/debug.h>
#include <ucs/debug/log_def.h>

// How this uses UCX 1.13, and why (measured; tests/unit/link/ucx_test.c measures again):
//
// - A frame is one active message: our 64-byte header as the user header, the payload as the data.
//   Short payloads are copied by UCX (eager); others wait at the sender until the receiver, having
//   checked the header, names the buffer (rendezvous). So a frame that nobody has room for stays
//   where it is, and a forged header makes nobody allocate.
// - Endpoints are in UCP_ERR_HANDLING_MODE_PEER: without it, nothing ends the requests to a dead
//   peer, and closing by force is not allowed. Of the shared memory transports only posix can live
//   with that mode, and only when told so (POSIX_ERROR_HANDLING); sysv cannot.
// - UCX notices a killed peer (TCP: at once; shared memory: at the next keepalive round), a stopped
//   one never. Nothing here waits for it: closing is bounded, and everything else returns.

enum {
    AM_FRAME = 1,
    EAGER_MAX = 8000,        // one transport segment, both of shared memory and TCP
    PROGRESS_ROUNDS_MAX = 64, // work is left for the next call after this, so that none takes long
    FLUSH_MS = 50,            // port_close: for sends that may still go out
    CANCEL_MS = 50,           // and for UCX to return the requests of endpoints closed by force
};

struct ucx_port;

struct ucx_send {
    struct ucx_port *port;
    struct list list; // in send_free, or linked to itself: in flight
    uint8_t header[FRAME_HEADER_BYTES];
    uint8_t *payload;
};

struct ucx_peer {
    ucp_ep_h ep; // NULL: not connected
    ucs_status_t failed;
};

// A frame that came while every buffer was in use; UCX holds its bytes.
struct ucx_waiting {
    struct frame frame;
    uint8_t header[FRAME_HEADER_BYTES];
    void *desc;
};

struct ucx_port {
    struct port port;
    struct port_pool pool;
    ucp_context_h context;
    ucp_worker_h worker;
    ucp_address_t *address;
    size_t address_len;
    int fd;
    struct ucx_peer peers[WIRE_STAGES_MAX];
    struct ucx_send *sends;
    uint8_t *send_memory;
    struct list send_free;
    uint32_t n_sending;
    struct ucx_waiting *waiting; // ring
    uint32_t waiting_at, n_waiting;
    uint32_t n_receiving; // rendezvous into our buffers under way
    bool is_closing;
    char transport[32];
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
        log_write(level <= UCS_LOG_LEVEL_ERROR ? LOG_WARN : LOG_DEBUG, "ucx: %s (%s:%u)", text,
                  base ? base + 1 : file, line);
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
        .flags = flags | (bytes <= EAGER_MAX ? UCP_AM_SEND_FLAG_EAGER : UCP_AM_SEND_FLAG_RNDV),
        .memory_type = UCS_MEMORY_TYPE_HOST,
    };
    if (getenv("T_EAGER")) param.flags = flags | (bytes <= (uint64_t)atol(getenv("T_EAGER")) ? UCP_AM_SEND_FLAG_EAGER : UCP_AM_SEND_FLAG_RNDV);
    ucs_status_ptr_t r = ucp_am_send_nbx(ep, AM_FRAME, s->header, sizeof s->header, s->payload,
                                         bytes, &param);
    if (UCS_PTR_IS_PTR(r)) return UCS_OK;
    send_give(s);
    return UCS_PTR_STATUS(r);
}

static err_t ucx_send(struct port *port, uint32_t stage, const struct frame *f)
{
    struct ucx_port *p = (struct ucx_port *)port;
    struct ucx_peer *peer = &p->peers[stage];
    if (!peer->ep) return ERR_NOT_FOUND;
    if (peer->failed) return ERR_LINK;
    struct ucx_send *s = send_take(p);
    if (!s) return ERR_AGAIN;
    frame_pack(f, port->key, s->header);
    if (f->bytes) memcpy(s->payload, f->payload, f->bytes);
    uint32_t flags = f->kind == FRAME_PING ? UCP_AM_SEND_FLAG_REPLY : 0;
    ucs_status_t st = send_start(s, peer->ep, f->bytes, flags);
    if (st == UCS_OK) return OK;
    peer->failed = st;
    return ERR_LINK;
}

// Pings are answered where they arrive: there the reply endpoint is alive for certain.
static void ping_answer(struct ucx_port *p, const struct frame *ping, ucp_ep_h reply)
{
    struct ucx_send *s = p->is_closing ? NULL : send_take(p);
    struct frame pong = *ping;
    pong.kind = FRAME_PONG;
    pong.bytes = 0;
    pong.payload = NULL;
    if (s) frame_pack(&pong, p->port.key, s->header);
    if (!s || send_start(s, reply, 0, 0) != UCS_OK) port_pool_dropped(&p->pool);
}

// -- receiving --

// The payload is in the slot, or will never be.
static void recv_end(struct ucx_port *p, struct port_slot *s, bool is_whole)
{
    if (is_whole && frame_check(s->header, s->memory, s->frame.bytes)) {
        port_pool_ready(&p->pool, s);
        return;
    }
    port_pool_dropped(&p->pool);
    port_pool_give(&p->pool, s);
}

static void recv_done(void *request, ucs_status_t status, size_t length, void *arg)
{
    struct port_slot *s = arg;
    struct ucx_port *p = s->port;
    p->n_receiving--;
    bool is_whole = status == UCS_OK && length == s->frame.bytes;
    if (is_whole && s->frame.kind == FRAME_PING) ping_answer(p, &s->frame, s->reply);
    if (s->frame.kind == FRAME_PING)
        port_pool_give(&p->pool, s);
    else
        recv_end(p, s, is_whole);
    ucp_request_free(request);
}
