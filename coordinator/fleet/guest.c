// guest: connections that are not workers yet. With a certificate they must say HELLO; without one
// they are strangers, who may only trade a join token for a certificate. Both have 5 seconds; only
// the workers of this process may take their time.
#include "coordinator/fleet/fleet_priv.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include <poll.h>
#include <stdlib.h>

struct guest {
    struct fleet *fleet;
    struct tether *tether;
    struct list node;
    int64_t since_us;
    bool is_stranger, is_own, is_done; // is_done: has its answer, is to hang up
};

// Strangers are many and cheap: their refusals must not fill the log.
static void grumble(struct fleet *f, const char *who, const char *why)
{
    int64_t now = clock_now_us();
    f->stats.refused++;
    if (now - f->grumbled_us < FLEET_GRUMBLE_US) {
        f->n_hushed++;
        return;
    }
    if (f->n_hushed) log_warn("%u more connections were refused", f->n_hushed);
    f->grumbled_us = now;
    f->n_hushed = 0;
    log_warn("connection of %s refused: %s", *who ? who : "a stranger", why);
}

// Forgets the guest; the tether is closed, or kept for its new owner.
static void leave(struct guest *g, bool keep_tether)
{
    struct fleet *f = g->fleet;
    list_remove(&g->node);
    f->n_guest--;
    f->n_stranger -= g->is_stranger;
    if (!keep_tether) tether_close(g->tether);
    free(g);
}

static void refuse(struct guest *g, err_t code, const char *why)
{
    grumble(g->fleet, g->tether->link->peer, why);
    struct msg m = {.kind = MSG_REFUSE, .refuse = {.code = code, .why = why}};
    fleet_pack_send(g->fleet, g->tether, &m);
    leave(g, false);
}

// True: it is still a guest.
static bool enroll(struct guest *g, const struct msg_enroll *m)
{
    struct fleet *f = g->fleet;
    struct buf certificate = {0};
    struct err_text why;
    err_t err = identity_enroll(f->identity, m->secret, m->name, m->public_key_pem, time(NULL),
                                &certificate, &why);
    if (err) {
        buf_fini(&certificate);
        refuse(g, err, why.s);
        return false;
    }
    struct msg reply = {
        .kind = MSG_ENROLLED,
        .enrolled = {.certificate_pem = certificate.data, .ca_pem = identity_ca_pem(f->identity)}};
    err = fleet_pack_send(f, g->tether, &reply);
    buf_fini(&certificate);
    if (err) {
        leave(g, false);
        return false;
    }
    log_info("worker %s got a certificate", m->name);
    f->stats.enrolled++;
    g->is_done = true; // it hangs up when it has read this
    return true;
}

// True: it is still a guest.
static bool take(struct guest *g, const void *data, size_t len)
{
    struct fleet *f = g->fleet;
    struct msg m;
    struct err_text why;
    arena_reset(&f->arena);
    if (wire_unpack(data, len, &f->arena, &m, &why) != OK) {
        refuse(g, ERR_LINK_PROTOCOL, why.s);
        return false;
    }
    enum msg_kind wanted = g->tether->link->is_authenticated ? MSG_HELLO : MSG_ENROLL;
    if (m.kind != wanted || g->is_done || (wanted == MSG_ENROLL && !f->identity)) {
        err_say(&why, ERR_LINK_PROTOCOL, "%s where %s belongs", wire_kind_name(m.kind),
                g->is_done ? "nothing" : wire_kind_name(wanted));
        refuse(g, ERR_LINK_PROTOCOL, why.s);
        return false;
    }
    if (m.kind == MSG_ENROLL) return enroll(g, &m.enroll);
    struct tether *c = g->tether;
    leave(g, true);
    fleet_welcome(f, c, &m.hello);
    return false;
}

static void on_ready(struct tether *c)
{
    struct guest *g = c->owner;
    const void *data;
    size_t len;
    struct err_text why;
    err_t err;
    while ((err = tether_recv(c, &data, &len, &why)) == OK)
        if (!take(g, data, len)) return;
    if (err != ERR_AGAIN) {
        if (!g->is_done && err != ERR_END) grumble(g->fleet, c->link->peer, why.s);
        leave(g, false);
        return;
    }
    if (tether_arm(c) != OK) leave(g, false);
}

err_t guest_add(struct fleet *f, struct link *link, bool is_own)
{
    bool is_stranger = !link->is_authenticated;
    if (f->n_guest >= FLEET_GUESTS_MAX || (is_stranger && f->n_stranger >= FLEET_STRANGERS_MAX)) {
        grumble(f, link->peer, "too many unannounced connections");
        link_close(link);
        return ERR_BUSY;
    }
    struct guest *g = calloc(1, sizeof *g);
    if (!g) {
        link_close(link);
        return ERR_MEMORY;
    }
    err_t err = tether_open(f->config.loop, link, on_ready, g, &g->tether);
    if (err) {
        free(g);
        return err;
    }
    g->fleet = f;
    g->since_us = clock_now_us();
    g->is_own = is_own;
    g->is_stranger = is_stranger;
    f->n_stranger += is_stranger;
    f->n_guest++;
    list_push_back(&f->guests, &g->node);
    on_ready(g->tether); // what it said may be there already
    return OK;
}

static void accept_all(struct fleet *f)
{
    struct link *link;
    for (int i = 0; i < FLEET_BATCH && link_tls_accept(f->listener, &link) == OK; i++)
        guest_add(f, link, false);
}

static void on_listener(uv_poll_t *h, int status, int events)
{
    (void)status, (void)events;
    accept_all(h->data);
}

void guest_tick(struct fleet *f, int64_t now_us)
{
    if (f->listener) accept_all(f); // handshakes have deadlines that no descriptor tells
    list_each(it, &f->guests)
    {
        struct guest *g = list_item(it, struct guest, node);
        if (g->is_own || now_us - g->since_us <= FLEET_GUEST_US) continue;
        if (g->is_done)
            leave(g, false);
        else
            refuse(g, ERR_TIMEOUT, "said nothing for 5 s");
    }
}

err_t guest_open(struct fleet *f, struct err_text *why)
{
    const struct fleet_config *c = &f->config;
    list_init(&f->guests);
    if (!c->join_listen) return OK;
    if (!c->state_dir)
        return err_say(why, ERR_CONFIG, "workers can join at %s only if there is a state folder",
                       c->join_listen);
    err_t err = identity_open_coordinator(c->state_dir, c->cluster, &f->identity, why);
    if (err) return err;
    if (c->life_s) identity_set_life(f->identity, c->life_s);
    err = link_tls_listen(c->join_listen, f->identity, &f->listener, why);
    if (err) return err;
    if (uv_poll_init(c->loop, &f->listen_poll, link_tls_listener_fd(f->listener)) != 0)
        return err_say(why, ERR_SYSTEM, "cannot watch %s", c->join_listen);
    fleet_own_handle(f, (uv_handle_t *)&f->listen_poll);
    uv_poll_start(&f->listen_poll, UV_READABLE, on_listener);
    return OK;
}

void guest_close(struct fleet *f)
{
    list_each(it, &f->guests) leave(list_item(it, struct guest, node), false);
    if (f->listener) link_tls_listener_close(f->listener);
    f->listener = NULL;
    identity_close(f->identity);
    f->identity = NULL;
}
