#include "proto/link/port_priv.h"

#include "proto/wire/wire.h"

#include <stdatomic.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

// The receiving half of a port. Senders keep a reference, so its memory outlives the port that
// opened it until the last of them has let go.
struct inbox {
    struct port_pool pool;
    uint64_t id; // random
    uint64_t epoch;
    int fd;
    _Atomic uint32_t refs;
    struct list list; // in the registry
    // Under pool.lock:
    bool is_closed;
    bool is_fresh; // something arrived, or a peer has room again, since the last progress
    bool is_armed; // the owner may sleep: whoever makes it fresh raises fd
    bool starved;  // a sender was refused for want of a free frame
};

struct local_port {
    struct port port;
    struct inbox *inbox;
    struct inbox *peers[PORT_PEERS_MAX];
    uint8_t address[28];
};

// The ports of this process, found by the number in their address: the one piece of global state
// here, because an address is all that two stages have of each other.
static struct {
    pthread_mutex_t lock;
    struct list inboxes;
    uint64_t process; // random, so that a process with our pid elsewhere is not taken for us
} registry = {PTHREAD_MUTEX_INITIALIZER, {&registry.inboxes, &registry.inboxes}, 0};

static const char TAG[8] = "trf-port";

static bool random_u64(uint64_t *out)
{
    return getrandom(out, sizeof *out, 0) == (ssize_t)sizeof *out;
}

static bool process_numbered(void)
{
    pthread_mutex_lock(&registry.lock);
    bool ok = registry.process || random_u64(&registry.process);
    pthread_mutex_unlock(&registry.lock);
    return ok;
}

static void inbox_drop(struct inbox *in)
{
    if (atomic_fetch_sub(&in->refs, 1) != 1) return;
    if (in->fd >= 0) close(in->fd);
    port_pool_fini(&in->pool);
    free(in);
}

// With a reference for the caller, or NULL.
static struct inbox *inbox_find(uint64_t id)
{
    struct inbox *found = NULL;
    pthread_mutex_lock(&registry.lock);
    list_each(it, &registry.inboxes)
    {
        struct inbox *in = list_item(it, struct inbox, list);
        if (in->id != id) continue;
        atomic_fetch_add(&in->refs, 1);
        found = in;
        break;
    }
    pthread_mutex_unlock(&registry.lock);
    return found;
}

static void inbox_wake(struct inbox *in)
{
    uint64_t one = 1;
    pthread_mutex_lock(&in->pool.lock);
    in->is_fresh = true;
    if (in->is_armed && write(in->fd, &one, sizeof one) == (ssize_t)sizeof one)
        in->is_armed = false;
    pthread_mutex_unlock(&in->pool.lock);
}

// Puts f into the inbox, its payload written by `fill`. Frames of another epoch, or too large,
// count as dropped there.
static err_t inbox_put(struct inbox *in, const struct frame *f, uint64_t from, port_fill_fn *fill,
                       void *arg)
{
    pthread_mutex_lock(&in->pool.lock);
    bool is_closed = in->is_closed;
    pthread_mutex_unlock(&in->pool.lock);
    if (is_closed) return ERR_LINK;
    if (f->epoch != in->epoch || f->bytes > in->pool.max_bytes) {
        port_pool_dropped(&in->pool);
        return OK;
    }
    struct port_slot *s = port_pool_take(&in->pool);
    if (!s) {
        pthread_mutex_lock(&in->pool.lock);
        in->starved = true;
        pthread_mutex_unlock(&in->pool.lock);
        s = port_pool_take(&in->pool); // one may have come back before `starved` was seen
        if (!s) return ERR_AGAIN;
    }
    s->frame = *f;
    s->frame.payload = s->memory;
    s->from_local = from;
    if (fill) fill(arg, s->memory, f->bytes);
    port_pool_ready(&in->pool, s);
    inbox_wake(in);
    return OK;
}

// -- port --

static err_t local_send(struct port *port, uint32_t peer, const struct frame *f, port_fill_fn *fill,
                        void *arg)
{
    struct local_port *p = (struct local_port *)port;
    if (!p->peers[peer]) return ERR_NOT_FOUND;
    return inbox_put(p->peers[peer], f, p->inbox->id, fill, arg);
}

static void fill_echo(void *ping, void *payload, uint64_t bytes)
{
    if (bytes) memcpy(payload, ping, bytes);
}

static void answer_pings(struct local_port *p)
{
    struct port_slot *s;
    while ((s = port_pool_ping(p->port.pool))) {
        struct frame pong = s->frame;
        pong.kind = FRAME_PONG;
        if (pong.n_row == 0) pong.bytes = 0; // one with a row asks for its payload
        struct inbox *to = inbox_find(s->from_local);
        if (!to || inbox_put(to, &pong, p->inbox->id, fill_echo, s->frame.payload))
            port_pool_dropped(p->port.pool);
        if (to) inbox_drop(to);
        port_give(&p->port, &s->frame);
    }
}

static err_t local_progress(struct port *port, struct err_text *why)
{
    struct local_port *p = (struct local_port *)port;
    pthread_mutex_lock(&p->inbox->pool.lock);
    bool is_fresh = p->inbox->is_fresh;
    p->inbox->is_fresh = false;
    pthread_mutex_unlock(&p->inbox->pool.lock);
    if (is_fresh) answer_pings(p);
    for (uint32_t i = 0; i < PORT_PEERS_MAX; i++) {
        if (!p->peers[i]) continue;
        pthread_mutex_lock(&p->peers[i]->pool.lock);
        bool is_closed = p->peers[i]->is_closed;
        pthread_mutex_unlock(&p->peers[i]->pool.lock);
        if (is_closed) return err_say(why, ERR_LINK, "peer %u closed its port", i);
    }
    return OK;
}

// Senders that found no room sleep until something arrives; this is what arrives.
static void local_given(struct port *port)
{
    struct local_port *p = (struct local_port *)port;
    pthread_mutex_lock(&p->inbox->pool.lock);
    bool starved = p->inbox->starved;
    p->inbox->starved = false;
    pthread_mutex_unlock(&p->inbox->pool.lock);
    if (!starved) return;
    pthread_mutex_lock(&registry.lock);
    list_each(it, &registry.inboxes)
    {
        inbox_wake(list_item(it, struct inbox, list));
    }
    pthread_mutex_unlock(&registry.lock);
}

static err_t local_arm(struct port *port)
{
    struct inbox *in = ((struct local_port *)port)->inbox;
    uint64_t count;
    pthread_mutex_lock(&in->pool.lock);
    bool is_fresh = in->is_fresh;
    if (!is_fresh) {
        ssize_t n = read(in->fd, &count, sizeof count);
        (void)n;
        in->is_armed = true;
    }
    pthread_mutex_unlock(&in->pool.lock);
    return is_fresh ? ERR_AGAIN : OK;
}

static int local_fd(const struct port *port)
{
    return ((const struct local_port *)port)->inbox->fd;
}

static const char *local_transport(const struct port *port, uint32_t peer)
{
    (void)port, (void)peer;
    return "local";
}

static void local_address(const struct port *port, const uint8_t **data, uint32_t *len)
{
    const struct local_port *p = (const struct local_port *)port;
    *data = p->address;
    *len = sizeof p->address;
}

static void address_make(uint8_t out[28], uint64_t process, uint64_t id)
{
    uint32_t pid = (uint32_t)getpid();
    memcpy(out, TAG, 8);
    memcpy(out + 8, &pid, 4);
    memcpy(out + 12, &process, 8);
    memcpy(out + 20, &id, 8);
}

static err_t local_connect(struct port *port, uint32_t peer, const uint8_t *address, uint32_t len,
                           struct err_text *why)
{
    struct local_port *p = (struct local_port *)port;
    if (len != sizeof p->address || memcmp(address, TAG, sizeof TAG) != 0)
        return err_say(why, ERR_LINK_PROTOCOL, "peer %u: not the address of a local port", peer);
    if (memcmp(address, p->address, 20) != 0)
        return err_say(why, ERR_LINK_PROTOCOL, "peer %u: its port is in another process", peer);
    uint64_t id;
    memcpy(&id, address + 20, sizeof id);
    struct inbox *in = inbox_find(id);
    if (!in) return err_say(why, ERR_LINK, "peer %u: its port is closed", peer);
    if (p->peers[peer]) inbox_drop(p->peers[peer]);
    p->peers[peer] = in;
    return OK;
}

static void local_close(struct port *port)
{
    struct local_port *p = (struct local_port *)port;
    pthread_mutex_lock(&registry.lock);
    list_remove(&p->inbox->list);
    pthread_mutex_unlock(&registry.lock);
    pthread_mutex_lock(&p->inbox->pool.lock);
    p->inbox->is_closed = true;
    pthread_mutex_unlock(&p->inbox->pool.lock);
    for (uint32_t i = 0; i < PORT_PEERS_MAX; i++)
        if (p->peers[i]) inbox_drop(p->peers[i]);
    inbox_drop(p->inbox);
    // Whoever sleeps must see that this peer is gone.
    pthread_mutex_lock(&registry.lock);
    list_each(it, &registry.inboxes)
    {
        inbox_wake(list_item(it, struct inbox, list));
    }
    pthread_mutex_unlock(&registry.lock);
    free(p);
}

static const struct port_ops local_ops = {
    .close = local_close,
    .address = local_address,
    .connect = local_connect,
    .send = local_send,
    .progress = local_progress,
    .given = local_given,
    .arm = local_arm,
    .fd = local_fd,
    .transport = local_transport,
};

static struct inbox *inbox_new(const struct port_config *c, err_t *why_not)
{
    struct inbox *in = calloc(1, sizeof *in);
    *why_not = in ? port_pool_init(&in->pool, c->n_frame, c->max_bytes) : ERR_MEMORY;
    if (*why_not) {
        if (in) port_pool_fini(&in->pool);
        free(in);
        return NULL;
    }
    in->refs = 1;
    in->epoch = c->epoch;
    in->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    list_init(&in->list);
    if (in->fd >= 0 && random_u64(&in->id) && process_numbered()) return in;
    *why_not = ERR_SYSTEM;
    inbox_drop(in);
    return NULL;
}

err_t port_local_open(const struct port_config *c, struct port **out, struct err_text *why)
{
    err_t e = ERR_MEMORY;
    struct local_port *p = calloc(1, sizeof *p);
    if (p) p->inbox = inbox_new(c, &e);
    if (!p || !p->inbox) {
        free(p);
        return err_say(why, e, "port: %u frames of %llu bytes: %s", c->n_frame,
                       (unsigned long long)c->max_bytes,
                       e == ERR_MEMORY ? "no memory" : strerror(errno));
    }
    p->port.ops = &local_ops;
    p->port.epoch = c->epoch;
    p->port.pool = &p->inbox->pool;
    memcpy(p->port.key, c->key, sizeof p->port.key);
    pthread_mutex_lock(&registry.lock);
    list_push_back(&registry.inboxes, &p->inbox->list);
    address_make(p->address, registry.process, p->inbox->id);
    pthread_mutex_unlock(&registry.lock);
    *out = &p->port;
    return OK;
}
