#include "proto/link/port.h"

#include "proto/base/clock.h"
#include "proto/link/port_priv.h"
#include "proto/wire/wire.h"

#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

// -- pool --

enum { LINE = 64, FRAMES_MAX = 1024 };

uint64_t port_pool_stride(uint64_t bytes)
{
    return (bytes + LINE - 1) & ~(uint64_t)(LINE - 1);
}

uint8_t *port_pool_memory(uint32_t n, uint64_t bytes)
{
    uint64_t all;
    if (bytes > SIZE_MAX / 2) return NULL;
    if (__builtin_mul_overflow(port_pool_stride(bytes), n, &all) || all > SIZE_MAX / 2) return NULL;
    uint8_t *p = aligned_alloc(LINE, all ? all : LINE);
    if (p) memset(p, 0, all);
    return p;
}

err_t port_pool_init(struct port_pool *pool, uint32_t n_frame, uint64_t max_bytes)
{
    *pool = (struct port_pool){
        .n_frame = n_frame, .max_bytes = max_bytes, .pong_from = PORT_PING_STEPS};
    pthread_mutex_init(&pool->lock, NULL);
    list_init(&pool->free);
    list_init(&pool->ready);
    pool->slots = calloc(n_frame, sizeof *pool->slots);
    pool->memory = port_pool_memory(n_frame, max_bytes);
    if (!pool->slots || !pool->memory) return ERR_MEMORY;
    uint64_t each = port_pool_stride(max_bytes);
    for (uint32_t i = 0; i < n_frame; i++) {
        pool->slots[i].memory = pool->memory + i * each;
        list_push_back(&pool->free, &pool->slots[i].list);
    }
    return OK;
}

void port_pool_fini(struct port_pool *pool)
{
    free(pool->slots);
    free(pool->memory);
    pthread_mutex_destroy(&pool->lock);
}

static struct port_slot *slot_of(struct list *node)
{
    return list_item(node, struct port_slot, list);
}

struct port_slot *port_pool_take(struct port_pool *pool)
{
    struct port_slot *s = NULL;
    pthread_mutex_lock(&pool->lock);
    if (!list_empty(&pool->free)) {
        s = slot_of(pool->free.next);
        list_remove(&s->list);
    }
    pthread_mutex_unlock(&pool->lock);
    return s;
}

void port_pool_give(struct port_pool *pool, struct port_slot *s)
{
    pthread_mutex_lock(&pool->lock);
    BUG_ON(list_linked(&s->list));
    list_push_front(&pool->free, &s->list); // its memory is the warmest
    pthread_mutex_unlock(&pool->lock);
}

bool port_pool_has_room(struct port_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    bool has_room = !list_empty(&pool->free);
    pthread_mutex_unlock(&pool->lock);
    return has_room;
}

void port_pool_ready(struct port_pool *pool, struct port_slot *s)
{
    pthread_mutex_lock(&pool->lock);
    bool is_late = s->frame.kind == FRAME_PONG && s->frame.step >= PORT_PING_STEPS &&
                   s->frame.step < pool->pong_from;
    if (is_late) {
        pool->stats.dropped++;
    } else {
        pool->stats.frames_in++;
        pool->stats.bytes_in += FRAME_HEADER_BYTES + s->frame.bytes;
    }
    list_push_back(is_late ? &pool->free : &pool->ready, &s->list);
    pthread_mutex_unlock(&pool->lock);
}

struct port_slot *port_pool_ping(struct port_pool *pool)
{
    struct port_slot *found = NULL;
    pthread_mutex_lock(&pool->lock);
    list_each(it, &pool->ready)
    {
        if (slot_of(it)->frame.kind != FRAME_PING) continue;
        found = slot_of(it);
        list_remove(it);
        break;
    }
    pthread_mutex_unlock(&pool->lock);
    return found;
}

void port_pool_dropped(struct port_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->stats.dropped++;
    pthread_mutex_unlock(&pool->lock);
}

// -- port --

_Static_assert((int)PORT_PEERS_MAX == (int)WIRE_LANE_MAX, "a number for each worker of a lane");

err_t port_open(const struct port_config *c, struct port **out, struct err_text *why)
{
    if (c->n_frame == 0 || c->n_frame > FRAMES_MAX)
        return err_say(why, ERR_INVALID, "port: %u frames, must be 1 to %d", c->n_frame,
                       FRAMES_MAX);
    if (c->road == ROAD_LOCAL) return port_local_open(c, out, why);
    if (c->road == ROAD_UCX) return link_ucx_open(c, out, why);
    return err_say(why, ERR_UNSUPPORTED, "port: unknown road %u", c->road);
}

void port_close(struct port *p)
{
    if (p) p->ops->close(p);
}

void port_address(const struct port *p, const uint8_t **data, uint32_t *len)
{
    p->ops->address(p, data, len);
}

err_t port_connect(struct port *p, uint32_t peer, const uint8_t *address, uint32_t len,
                   struct err_text *why)
{
    if (peer >= PORT_PEERS_MAX)
        return err_say(why, ERR_INVALID, "port: peer %u, limit %d", peer, PORT_PEERS_MAX);
    return p->ops->connect(p, peer, address, len, why);
}

static void copy_payload(void *arg, void *payload, uint64_t bytes)
{
    if (bytes) memcpy(payload, arg, bytes);
}

err_t port_send(struct port *p, uint32_t peer, const struct frame *f)
{
    return port_send_filled(p, peer, f, copy_payload, f->payload);
}

err_t port_send_filled(struct port *p, uint32_t peer, const struct frame *f, port_fill_fn *fill,
                       void *arg)
{
    if (peer >= PORT_PEERS_MAX) return ERR_INVALID;
    if (f->bytes > p->pool->max_bytes) return ERR_TOO_LARGE;
    err_t e = p->ops->send(p, peer, f, fill, arg);
    if (e) return e;
    pthread_mutex_lock(&p->pool->lock);
    p->pool->stats.frames_out++;
    p->pool->stats.bytes_out += FRAME_HEADER_BYTES + f->bytes;
    pthread_mutex_unlock(&p->pool->lock);
    return OK;
}

bool port_is_sending(const struct port *p)
{
    return p->ops->is_sending && p->ops->is_sending(p);
}

err_t port_progress(struct port *p, struct err_text *why)
{
    return p->ops->progress(p, why);
}

struct frame *port_find_if(struct port *p, port_want_fn *want, void *arg)
{
    struct frame *found = NULL;
    pthread_mutex_lock(&p->pool->lock);
    list_each(it, &p->pool->ready)
    {
        struct frame *f = &slot_of(it)->frame;
        if (!want(arg, f)) continue;
        list_remove(it);
        found = f;
        break;
    }
    pthread_mutex_unlock(&p->pool->lock);
    return found;
}

struct of_step {
    enum frame_kind kind;
    uint64_t step;
};

static bool is_of_step(void *arg, const struct frame *f)
{
    const struct of_step *want = arg;
    return f->kind == want->kind && f->step == want->step;
}

struct frame *port_find(struct port *p, enum frame_kind kind, uint64_t step)
{
    return port_find_if(p, is_of_step, &(struct of_step){kind, step});
}

void port_give(struct port *p, struct frame *f)
{
    if (!f) return;
    port_pool_give(p->pool, (struct port_slot *)f);
    if (p->ops->given) p->ops->given(p);
}

err_t port_arm(struct port *p)
{
    return p->ops->arm(p);
}

int port_fd(const struct port *p)
{
    return p->ops->fd(p);
}

struct port_stats port_stats_get(const struct port *p)
{
    pthread_mutex_lock(&p->pool->lock);
    struct port_stats s = p->pool->stats;
    pthread_mutex_unlock(&p->pool->lock);
    return s;
}

const char *port_transport(const struct port *p, uint32_t peer)
{
    return peer < PORT_PEERS_MAX ? p->ops->transport(p, peer) : "none";
}

// -- measuring --

enum {
    PING_BYTES = 64,
    PINGS_MAX = 200,
    PING_WINDOW = 4,
    SPIN_US = 300,
    VERIFY_BYTES = 96 << 10,
    SPAN = 8
};

struct ping_run {
    struct port *port;
    uint32_t peer;
    int64_t deadline_us;
    uint8_t *payload;
};

// is_echo: the payload comes back.
static err_t ping_send(struct ping_run *r, uint64_t bytes, bool is_echo)
{
    // `stage` is the one that is pinged: a port does not know its own.
    struct frame f = {.kind = FRAME_PING,
                      .dtype = DT_F32,
                      .epoch = r->port->epoch,
                      .step = r->port->ping_next,
                      .stage = r->peer,
                      .n_row = is_echo,
                      .bytes = bytes,
                      .payload = r->payload};
    err_t e;
    while ((e = port_send(r->port, r->peer, &f)) == ERR_AGAIN) {
        if (clock_now_us() >= r->deadline_us) return ERR_TIMEOUT;
        e = port_progress(r->port, NULL);
        if (e) return e;
    }
    if (!e) r->port->ping_next++;
    return e;
}

// Spins for a while, since a sleep would be measured too, then sleeps in slices. The pong is the
// caller's until port_give.
static err_t pong_take(struct ping_run *r, uint64_t step, struct frame **out)
{
    int64_t spin_until = clock_now_us() + SPIN_US;
    for (;;) {
        err_t e = port_progress(r->port, NULL);
        if (e) return e;
        struct frame *f = port_find(r->port, FRAME_PONG, step);
        if (f) {
            *out = f;
            return OK;
        }
        int64_t now = clock_now_us();
        if (now >= r->deadline_us) return ERR_TIMEOUT;
        if (now < spin_until || port_arm(r->port)) continue;
        struct pollfd pfd = {.fd = port_fd(r->port), .events = POLLIN};
        poll(&pfd, 1, 1);
    }
}

static err_t pong_wait(struct ping_run *r, uint64_t step)
{
    struct frame *pong;
    err_t e = pong_take(r, step, &pong);
    if (!e) port_give(r->port, pong);
    return e;
}

// The first answer may take until r->deadline_us; then pings go on until `until_us`. In
// nanoseconds: a ping through shared memory can take less than one tick of a clock of microseconds.
static err_t measure_latency(struct ping_run *r, int64_t until_us, double *latency_us)
{
    int64_t best = INT64_MAX;
    for (int i = 0; i < PINGS_MAX && (best == INT64_MAX || clock_now_us() < until_us); i++) {
        int64_t from = clock_now_ns();
        uint64_t step = r->port->ping_next;
        err_t e = ping_send(r, PING_BYTES, false);
        if (!e) e = pong_wait(r, step);
        if (e == ERR_TIMEOUT && best != INT64_MAX)
            break; // a peer that got busy: what we have counts
        if (e) return e;
        int64_t took = clock_now_ns() - from;
        if (took < best) best = took;
    }
    *latency_us = (double)best / 2e3;
    return OK;
}

// Bytes that no short pattern of faults leaves as they are (Marsaglia's xorshift, 2003).
static void scramble(uint8_t *to, uint64_t bytes, uint64_t seed)
{
    uint64_t x = seed | 1;
    for (uint64_t i = 0; i < bytes; i += sizeof x) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        memcpy(to + i, &x, bytes - i < sizeof x ? bytes - i : sizeof x);
    }
}

static err_t compare(const struct frame *pong, const uint8_t *sent, uint64_t bytes,
                     struct err_text *why)
{
    const uint8_t *got = pong->payload;
    if (pong->bytes != bytes)
        return err_say(why, ERR_LINK_PROTOCOL, "of %llu bytes %llu came back",
                       (unsigned long long)bytes, (unsigned long long)pong->bytes);
    if (memcmp(got, sent, bytes) == 0) return OK;
    uint64_t at = 0;
    while (got[at] == sent[at])
        at++;
    return err_say(why, ERR_LINK_PROTOCOL, "byte %llu of %llu came back as 0x%02x, sent was 0x%02x",
                   (unsigned long long)at, (unsigned long long)bytes, got[at], sent[at]);
}

// Whether bytes arrive as they were sent, there and back, in a frame that is large. Checksums do
// not judge it (link_ucx.c): a link that spoils it shall be known by its bytes.
static err_t verify_bytes(struct ping_run *r, struct err_text *why)
{
    const uint64_t max = r->port->pool->max_bytes, bytes = max < VERIFY_BYTES ? max : VERIFY_BYTES;
    const uint64_t step = r->port->ping_next;
    struct frame *pong;
    scramble(r->payload, bytes, step * UINT64_C(0x9e3779b97f4a7c15));
    err_t e = ping_send(r, bytes, true);
    if (!e) e = pong_take(r, step, &pong);
    if (e) return e;
    e = compare(pong, r->payload, bytes, why);
    port_give(r->port, pong);
    return e;
}

static double rate(uint64_t bytes, int64_t us)
{
    return (double)bytes * 1e6 / (double)(us > 0 ? us : 1);
}

// Large pings in a window, each answered when it arrived whole. What counts is the best run of SPAN
// of them, for a processor that was away for a while says nothing about the link; of fewer, their
// mean.
static err_t measure_speed(struct ping_run *r, double *bytes_per_s)
{
    const uint64_t bytes = r->port->pool->max_bytes;
    uint64_t done = r->port->ping_next, n_done = 0;
    // Half of the frames at most: the peer's pool also has to take the pongs of its own pings,
    // which would starve behind ours.
    uint32_t window = r->port->pool->n_frame / 2;
    if (window > PING_WINDOW) window = PING_WINDOW;
    if (window < 1) window = 1;
    const int64_t from = clock_now_us();
    int64_t before[SPAN], last = from; // when the SPAN frames in front of this one were done
    double best = 0;
    for (int i = 0; i < SPAN; i++)
        before[i] = from;
    for (;;) {
        while (r->port->ping_next - done < window && clock_now_us() < r->deadline_us) {
            err_t e = ping_send(r, bytes, false);
            if (e == ERR_TIMEOUT) break;
            if (e) return e;
        }
        if (r->port->ping_next == done) break;
        err_t e = pong_wait(r, done);
        if (e == ERR_TIMEOUT) break;
        if (e) return e;
        last = clock_now_us();
        int64_t *first = &before[n_done % SPAN];
        if (n_done + 1 >= SPAN) best = fmax(best, rate(SPAN * bytes, last - *first));
        *first = last;
        done++;
        n_done++;
    }
    if (n_done == 0) return ERR_TIMEOUT;
    *bytes_per_s = best > 0 ? best : rate(n_done * bytes, last - from);
    return OK;
}

static void pongs_forget(struct port *p)
{
    pthread_mutex_lock(&p->pool->lock);
    p->pool->pong_from = p->ping_next;
    list_each(it, &p->pool->ready)
    {
        struct frame *f = &slot_of(it)->frame;
        if (f->kind != FRAME_PONG || f->step < PORT_PING_STEPS) continue;
        list_remove(it);
        list_push_back(&p->pool->free, it);
    }
    pthread_mutex_unlock(&p->pool->lock);
}

err_t port_measure(struct port *p, uint32_t peer, int budget_ms, double *latency_us,
                   double *bytes_per_s, struct err_text *why)
{
    uint64_t bytes = p->pool->max_bytes;
    if (bytes < PING_BYTES)
        return err_say(why, ERR_INVALID, "port: frames of %llu bytes are too small to measure with",
                       (unsigned long long)bytes);
    if (p->ping_next < PORT_PING_STEPS) p->ping_next = PORT_PING_STEPS;
    struct ping_run r = {.port = p, .peer = peer, .payload = port_pool_memory(1, bytes)};
    if (!r.payload) return err_say(why, ERR_MEMORY, "port: no memory for a frame");
    int64_t now = clock_now_us();
    double latency = 0, speed = 0;
    err_say(why, OK, "nothing came back within %d ms", budget_ms);
    r.deadline_us = now + (int64_t)budget_ms * 1000;
    err_t e = measure_latency(&r, now + (int64_t)budget_ms * 250, &latency);
    if (!e) e = verify_bytes(&r, why);
    r.deadline_us = clock_now_us() + (int64_t)budget_ms * 500;
    if (!e) e = measure_speed(&r, &speed);
    pongs_forget(p);
    free(r.payload);
    if (e != OK && e != ERR_TIMEOUT && e != ERR_LINK_PROTOCOL)
        err_say(why, e, "the data road failed (%s)", err_name(e));
    if (e) return e;
    *latency_us = latency;
    *bytes_per_s = speed;
    return OK;
}
