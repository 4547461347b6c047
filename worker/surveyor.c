#include "worker/surveyor.h"

#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/link/port.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

enum {
    FRAME_BYTES = 256 << 10, // a prefill chunk's activations are of this size
    N_FRAME = 8,
    NEAR_MS = 60,  // enough between neighbours
    FAR_MS = 2000, // for those that did not answer within it
    FAR_US = 5000, // one way: with this latency and above NEAR_MS saw too few frames
};

struct surveyor {
    struct surveyor_config config;
    pthread_t thread;
    struct mailbox in, out;
    pthread_mutex_t lock;   // holds `shut` together with what `in` has
    atomic_bool stop, shut; // shut: the round is over, but for what is in `in` by now
    // of the thread
    struct port *port; // of `round`; NULL: closed
    uint64_t round;
    bool is_connected[PORT_PEERS_MAX];
    int64_t idle_us; // when silence has lasted long enough
};

// ---- letters

static void post(struct surveyor *s, const struct msg_surveyed *m)
{
    const struct msg out = {.kind = MSG_SURVEYED, .surveyed = *m};
    struct compute_letter *l = compute_letter_new();
    err_t e = l ? wire_pack(&out, &l->bytes) : ERR_MEMORY;
    if (e) {
        // The coordinator's deadline does the rest.
        log_error("survey: cannot answer: %s", err_name(e));
        compute_letter_free(l);
        return;
    }
    l->kind = MSG_SURVEYED;
    mailbox_push(&s->out, &l->list);
}

struct compute_letter *surveyor_letter(struct surveyor *s)
{
    struct list *l = mailbox_next(&s->out);
    return l ? list_item(l, struct compute_letter, list) : NULL;
}

// ---- the round

static void shut(struct surveyor *s)
{
    port_close(s->port);
    s->port = NULL;
    s->round = 0;
    memset(s->is_connected, 0, sizeof s->is_connected);
}

static void open_port(struct surveyor *s, const struct msg_survey *m)
{
    struct port_config c = {.road = m->road,
                            .epoch = m->round,
                            .n_frame = N_FRAME,
                            .max_bytes = FRAME_BYTES,
                            .transports = s->config.transports,
                            .devices = s->config.devices};
    struct msg_surveyed answer = {.round = m->round};
    struct err_text why = {0};
    memcpy(c.key, m->key, sizeof c.key);
    if (s->port && s->round != m->round) shut(s);
    err_t e = s->port ? OK : port_open(&c, &s->port, &why);
    if (e) {
        // Without an address we are left out.
        log_error("survey: %s", why.s);
    } else {
        s->round = m->round;
        port_address(s->port, &answer.address, &answer.n_address);
    }
    post(s, &answer);
}

static bool is_over(const struct surveyor *s)
{
    return atomic_load(&s->stop) || atomic_load(&s->shut);
}

// A link is measured in little time, and again with more of it if it is a long one.
static err_t measure(struct surveyor *s, const struct msg_target *t, struct msg_path *out,
                     struct err_text *why)
{
    if (t->worker >= PORT_PEERS_MAX)
        return err_say(why, ERR_INVALID, "worker %u, limit %d", t->worker, PORT_PEERS_MAX);
    if (!s->is_connected[t->worker]) {
        err_t e = port_connect(s->port, t->worker, t->address, t->n_address, why);
        if (e) return e;
        s->is_connected[t->worker] = true;
    }
    err_t e = port_measure(s->port, t->worker, NEAR_MS, &out->latency_us, &out->bytes_per_s, why);
    const bool is_far = e == ERR_TIMEOUT || (!e && out->latency_us > FAR_US);
    if (is_far && !is_over(s)) {
        struct msg_path again = {0};
        err_t f =
            port_measure(s->port, t->worker, FAR_MS, &again.latency_us, &again.bytes_per_s, why);
        if (e || !f) {
            e = f;
            out->latency_us = again.latency_us;
            out->bytes_per_s = again.bytes_per_s;
        }
    }
    out->transport = port_transport(s->port, t->worker);
    return e;
}

static void measure_all(struct surveyor *s, const struct msg_survey *m)
{
    struct msg_path paths[WIRE_SURVEY_MAX];
    struct err_text why[WIRE_SURVEY_MAX];
    for (uint32_t i = 0; i < m->n_target; i++) {
        why[i] = (struct err_text){{0}};
        paths[i] = (struct msg_path){.worker = m->targets[i].worker, .transport = ""};
        if (s->port && s->round == m->round && !is_over(s))
            paths[i].code = measure(s, &m->targets[i], &paths[i], &why[i]);
        else
            paths[i].code = err_say(&why[i], ERR_LINK, "its port of this round is closed");
        if (paths[i].code) {
            paths[i].latency_us = paths[i].bytes_per_s = 0;
            paths[i].why = why[i].s;
        }
    }
    const struct msg_surveyed answer = {.round = m->round, .paths = paths, .n_path = m->n_target};
    post(s, &answer);
}

static void act(struct surveyor *s, const struct msg_survey *m)
{
    if (m->n_target)
        measure_all(s, m);
    else if (m->road)
        open_port(s, m);
    else
        shut(s);
}

// ---- the thread

// Until there is work.
static void rest(struct surveyor *s)
{
    struct pollfd fds[2] = {{.fd = s->in.fd, .events = POLLIN}};
    nfds_t n = 1;
    int ms = -1;
    if (s->port) {
        const int64_t left_us = s->idle_us - clock_now_us();
        if (port_arm(s->port)) return;
        fds[n++] = (struct pollfd){.fd = port_fd(s->port), .events = POLLIN};
        ms = left_us > 0 ? (int)(left_us / 1000) + 1 : 0;
    }
    poll(fds, n, ms);
    if (fds[0].revents) mailbox_hush(&s->in);
}

static void progress(struct surveyor *s)
{
    struct err_text why;
    if (!s->port) return;
    // A peer that went away is no reason to stop answering the others, but UCX will not say
    // anything else from now on; measuring tells who it was.
    if (port_progress(s->port, &why)) log_debug("survey: %s", why.s);
    if (clock_now_us() >= s->idle_us) shut(s);
}

// The next of `in`. *is_shut: the round that was is over, and this came after it; one of that round
// is always out before.
static struct list *take(struct surveyor *s, bool *is_shut)
{
    pthread_mutex_lock(&s->lock);
    struct list *l = mailbox_pop(&s->in);
    *is_shut = atomic_exchange(&s->shut, false);
    pthread_mutex_unlock(&s->lock);
    return l;
}

static void *surveyor_main(void *arg)
{
    struct surveyor *s = arg;
    while (!atomic_load(&s->stop)) {
        bool is_shut;
        struct list *l = take(s, &is_shut);
        if (is_shut) shut(s);
        if (l) {
            struct compute_parcel *p = list_item(l, struct compute_parcel, list);
            act(s, &p->msg.survey);
            compute_parcel_free(p);
            s->idle_us = clock_now_us() + SURVEYOR_IDLE_MS * 1000LL;
        }
        progress(s);
        if (!l) rest(s);
    }
    shut(s);
    return NULL;
}

// ---- outside

err_t surveyor_open(const struct surveyor_config *c, struct surveyor **out, struct err_text *why)
{
    struct surveyor *s = calloc(1, sizeof *s);
    if (!s) return err_say(why, ERR_MEMORY, "no memory for a surveyor");
    s->config = *c;
    pthread_mutex_init(&s->lock, NULL);
    err_t e = mailbox_init(&s->in, why);
    if (e) {
        pthread_mutex_destroy(&s->lock);
        free(s);
        return e;
    }
    e = mailbox_init(&s->out, why);
    if (!e && pthread_create(&s->thread, NULL, surveyor_main, s)) {
        mailbox_fini(&s->out);
        e = err_say(why, ERR_SYSTEM, "cannot start the surveyor's thread");
    }
    if (e) {
        mailbox_fini(&s->in);
        pthread_mutex_destroy(&s->lock);
        free(s);
        return e;
    }
    *out = s;
    return OK;
}

void surveyor_close(struct surveyor *s)
{
    if (!s) return;
    atomic_store(&s->stop, true);
    mailbox_ring(&s->in);
    pthread_join(s->thread, NULL);
    for (struct list *l; (l = mailbox_pop(&s->in));)
        compute_parcel_free(list_item(l, struct compute_parcel, list));
    for (struct list *l; (l = mailbox_pop(&s->out));)
        compute_letter_free(list_item(l, struct compute_letter, list));
    mailbox_fini(&s->in);
    mailbox_fini(&s->out);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

void surveyor_hand(struct surveyor *s, struct compute_parcel *p)
{
    mailbox_push(&s->in, &p->list);
}

void surveyor_shut(struct surveyor *s)
{
    pthread_mutex_lock(&s->lock);
    for (struct list *l; (l = mailbox_pop(&s->in));) // of the round that ends
        compute_parcel_free(list_item(l, struct compute_parcel, list));
    atomic_store(&s->shut, true);
    pthread_mutex_unlock(&s->lock);
    mailbox_ring(&s->in);
}

int surveyor_fd(const struct surveyor *s)
{
    return s->out.fd;
}
