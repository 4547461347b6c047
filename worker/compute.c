#include "worker/compute_priv.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "worker/profile.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

enum {
    NAP_MS = 100,            // the loop's counter moves at least this often, also when idle
    BLAME_WAIT_US = 1000000, // see wait_for_the_cause
    SPARE_LETTERS = 64,
    PROFILE_US = 10 * 1000000,
};

void compute_held_free(struct compute_held *h)
{
    stage_close(h->stage);
    if (h->model) model_close(h->model);
    *h = (struct compute_held){0};
}

// -- parcels and letters --

struct compute_parcel *compute_parcel_new(void)
{
    struct compute_parcel *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    list_init(&p->list);
    arena_init(&p->arena, WIRE_ARENA_MAX);
    return p;
}

void compute_parcel_free(struct compute_parcel *p)
{
    if (!p) return;
    arena_fini(&p->arena);
    free(p);
}

static struct compute_parcel *parcel_of(struct list *l)
{
    return l ? list_item(l, struct compute_parcel, list) : NULL;
}

static struct compute_letter *letter_of(struct list *l)
{
    return l ? list_item(l, struct compute_letter, list) : NULL;
}

struct compute_letter *compute_letter_new(void)
{
    struct compute_letter *l = calloc(1, sizeof *l);
    if (l) list_init(&l->list);
    return l;
}

void compute_letter_free(struct compute_letter *l)
{
    if (!l) return;
    buf_fini(&l->bytes);
    free(l);
}

struct compute_parcel *compute_hand(struct compute *c, struct compute_parcel *p)
{
    mailbox_push(&c->in, &p->list);
    struct compute_parcel *spare = parcel_of(mailbox_pop(&c->spent_in));
    return spare ? spare : compute_parcel_new();
}

void compute_spend(struct compute *c, struct compute_parcel *p)
{
    arena_reset(&p->arena);
    mailbox_push(&c->spent_in, &p->list);
}

static struct compute_letter *new_letter(struct compute *c)
{
    struct compute_letter *l = letter_of(mailbox_pop(&c->spent_out));
    return l ? l : compute_letter_new();
}

err_t compute_post(struct compute *c, const struct msg *m, struct err_text *why)
{
    struct compute_letter *l = new_letter(c);
    if (!l) return err_say(why, ERR_MEMORY, "no memory for a message");
    buf_clear(&l->bytes);
    err_t e = wire_pack(m, &l->bytes);
    if (e) {
        compute_letter_free(l);
        return err_say(why, e, "%s does not fit a message", wire_kind_name(m->kind));
    }
    l->kind = m->kind;
    mailbox_push(&c->out, &l->list);
    return OK;
}

int compute_fd(const struct compute *c)
{
    return c->out.fd;
}

struct compute_letter *compute_letter(struct compute *c)
{
    return letter_of(mailbox_next(&c->out));
}

void compute_letter_done(struct compute *c, struct compute_letter *l)
{
    if (l->is_end || atomic_load(&c->spent_out.n) >= SPARE_LETTERS)
        compute_letter_free(l);
    else
        mailbox_push(&c->spent_out, &l->list);
}

// -- waiting --

static void publish_ports(struct compute *c)
{
    struct port *ports[] = {c->port, compute_group_port(c)};
    uint64_t out = 0, in = 0;
    for (size_t i = 0; i < 2; i++) {
        if (!ports[i]) continue;
        const struct port_stats s = port_stats_get(ports[i]);
        out += s.bytes_out;
        in += s.bytes_in;
    }
    atomic_store(&c->bytes_out, out);
    atomic_store(&c->bytes_in, in);
}

err_t compute_progress(struct compute *c, struct err_text *why)
{
    atomic_fetch_add(&c->loops, 1);
    if (atomic_load(&c->stop)) return err_say(why, ERR_CANCELLED, "asked to stop");
    err_t e = c->port ? port_progress(c->port, why) : OK;
    struct port *group = compute_group_port(c);
    if (!e && group) e = port_progress(group, why);
    for (enum near_way way = NEAR_BEFORE; way < NEAR_WAYS && !e; way++)
        if (c->near[way].side) e = port_progress(group_link_port(c->near[way].side), why);
    return e;
}

// A large frame goes in several turns of both sides: neither shall wait until the other has
// computed a whole step. What is wrong with the port is said when something is waited for.
void compute_tick(void *arg)
{
    enum { LOOK_US = 500 };
    struct compute *c = arg;
    if (!c->port) return;
    const int64_t now = clock_now_us();
    if (!port_is_sending(c->port) && now < c->looked_us + LOOK_US) return;
    c->looked_us = now;
    struct err_text why;
    (void)port_progress(c->port, &why);
}

void compute_nap(struct compute *c, int64_t until_us, int64_t now_us)
{
    struct port *ports[] = {c->port, compute_group_port(c)};
    struct pollfd fds[3] = {{.fd = c->in.fd, .events = POLLIN}};
    nfds_t n = 1;
    for (size_t i = 0; i < 2; i++) {
        if (!ports[i]) continue;
        if (port_arm(ports[i])) return; // there is work already
        fds[n++] = (struct pollfd){.fd = port_fd(ports[i]), .events = POLLIN};
    }
    publish_ports(c);
    int64_t ms = NAP_MS;
    if (until_us && (until_us - now_us) / 1000 < ms) ms = (until_us - now_us) / 1000 + 1;
    poll(fds, n, (int)ms);
    if (fds[0].revents) mailbox_hush(&c->in);
}

err_t compute_rest(struct compute *c, const struct compute_wait *w, struct err_text *why)
{
    const int64_t now = clock_now_us();
    if (w->deadline_us && now >= w->deadline_us)
        return err_say(why, ERR_TIMEOUT, "%s: waited too long", w->what);
    if (now >= w->spin_until_us) compute_nap(c, w->deadline_us, now);
    return OK;
}

err_t compute_take(struct compute *c, struct compute_parcel **out, struct err_text *why)
{
    const struct compute_wait wait = {.spin_until_us = clock_now_us() + COMPUTE_SPIN_US};
    for (;;) {
        err_t e = compute_progress(c, why);
        if (e) return e;
        *out = parcel_of(mailbox_pop(&c->in));
        if (*out) return OK;
        e = compute_rest(c, &wait, why);
        if (e) return e;
    }
}

// -- the thread --

// With config.profile: a line every PROFILE_US in which steps ran.
static void tell_profile(struct compute *c)
{
    const int64_t now = clock_now_us();
    const struct compute_told last = c->told;
    if (now - last.at_us < PROFILE_US) return;
    c->told = (struct compute_told){now, atomic_load(&c->busy_us), atomic_load(&c->wait_us),
                                    atomic_load(&c->exchange_us)};
    struct kernels_profile p;
    stage_profile(c->held.stage, &p);
    if (!last.at_us) return; // the line before has no beginning
    const struct profile_times t = {.all_us = (uint64_t)(now - last.at_us),
                                    .busy_us = c->told.busy_us - last.busy_us,
                                    .wait_us = c->told.wait_us - last.wait_us,
                                    .exchange_us = c->told.exchange_us - last.exchange_us};
    struct buf line = {0};
    profile_line(&p, &t, &line);
    if (buf_ok(&line)) log_info("profile: %s", line.data);
    buf_fini(&line);
}

static err_t next_step(struct compute *c, struct err_text *why)
{
    struct compute_parcel *p;
    err_t e = compute_take(c, &p, why);
    if (e) return e;
    if (p->msg.kind != MSG_STEP)
        e = err_say(why, ERR_LINK_PROTOCOL, "%s between steps", wire_kind_name(p->msg.kind));
    else
        e = compute_step(c, &p->msg.step, why);
    compute_spend(c, p);
    if (!e && c->config.profile) tell_profile(c);
    return e ? e : compute_usage_post(c, why);
}

// A peer that dies takes our port down before the coordinator has heard of it. Reporting at once
// would look like a failure of ours; the new plan, or the stop, mostly comes within this time.
static err_t wait_for_the_cause(struct compute *c, err_t failed)
{
    const struct compute_wait wait = {.deadline_us = clock_now_us() + BLAME_WAIT_US};
    while (!atomic_load(&c->stop)) {
        atomic_fetch_add(&c->loops, 1);
        const int64_t now = clock_now_us();
        if (now >= wait.deadline_us) return failed;
        struct pollfd fd = {.fd = c->in.fd, .events = POLLIN};
        poll(&fd, 1, (int)((wait.deadline_us - now) / 1000) + 1);
        mailbox_hush(&c->in);
    }
    return ERR_CANCELLED;
}

static void post_end(struct compute *c, err_t e, const struct err_text *why)
{
    const uint64_t epoch = c->config.plan.epoch;
    if (e != ERR_CANCELLED) {
        log_error("epoch %llu: %s: %s", (unsigned long long)epoch, err_name(e), why->s);
        const struct msg m = {.kind = MSG_FAILED,
                              .failed = {.epoch = epoch, .code = e, .why = why->s}};
        err_t posted = compute_post(c, &m, NULL);
        if (posted) log_error("epoch %llu: cannot report the failure", (unsigned long long)epoch);
    }
}

static void *compute_main(void *arg)
{
    struct compute *c = arg;
    struct err_text why = {0};
    err_t e = compute_prepare(c, &why);
    if (!e) e = compute_link(c, &why);
    while (!e)
        e = next_step(c, &why);
    if (err_is_link(e) && e != ERR_LINK_PROTOCOL) e = wait_for_the_cause(c, e);
    post_end(c, e, &why);
    atomic_store(&c->running, NULL);
    publish_ports(c);
    port_close(c->port);
    c->port = NULL;
    compute_group_close(c);
    mailbox_push(&c->out, &c->end->list);
    return NULL;
}

// -- from the control thread --

static err_t init(struct compute *c, struct err_text *why)
{
    struct mailbox *all[] = {&c->in, &c->out, &c->spent_in, &c->spent_out};
    for (size_t i = 0; i < 4; i++) {
        err_t e = mailbox_init(all[i], why);
        if (!e) continue;
        while (i-- > 0)
            mailbox_fini(all[i]);
        return e;
    }
    return OK;
}

static void drop_letters(struct compute *c)
{
    for (struct list *l; (l = mailbox_pop(&c->in));)
        compute_parcel_free(parcel_of(l));
    for (struct list *l; (l = mailbox_pop(&c->spent_in));)
        compute_parcel_free(parcel_of(l));
    for (struct list *l; (l = mailbox_pop(&c->out));)
        compute_letter_free(letter_of(l));
    for (struct list *l; (l = mailbox_pop(&c->spent_out));)
        compute_letter_free(letter_of(l));
}

static void fini(struct compute *c)
{
    drop_letters(c);
    struct mailbox *all[] = {&c->in, &c->out, &c->spent_in, &c->spent_out};
    for (size_t i = 0; i < 4; i++)
        mailbox_fini(all[i]);
    arena_fini(&c->arena);
    free(c->x);
    free(c->chained);
    free(c->pairs);
    free(c->draws);
    free(c->model_path);
    free(c->tables);
    free(c->usage);
    free(c);
}

// The plan's tables lie in the message that brought it.
static bool copy_tables(struct compute *c)
{
    struct msg_plan *p = &c->config.plan;
    const size_t n_owner = (size_t)(p->layer_to - p->layer_from) * p->n_expert;
    const size_t n_replica = 3 * sizeof *p->replicas * p->n_replica;
    c->tables = malloc(n_replica + n_owner + 1);
    if (!c->tables) return false;
    if (n_replica) memcpy(c->tables, p->replicas, n_replica);
    if (n_owner) memcpy(c->tables + n_replica, p->owner, n_owner);
    p->replicas = (const uint32_t *)c->tables;
    p->owner = c->tables + n_replica;
    return true;
}

static err_t make(const struct compute_config *cfg, struct compute **out, struct err_text *why)
{
    struct compute *c = calloc(1, sizeof *c);
    if (!c) return err_say(why, ERR_MEMORY, "no memory for an epoch");
    err_t e = init(c, why);
    if (e) {
        free(c);
        return e;
    }
    arena_init(&c->arena, 0);
    c->config = *cfg;
    c->config.plan.model = NULL;
    c->config.held = (struct compute_held){0};
    c->held = cfg->held;
    c->model_path = strdup(cfg->model_path);
    c->end = calloc(1, sizeof *c->end);
    if (copy_tables(c) && c->model_path && c->end) {
        list_init(&c->end->list);
        c->end->is_end = true;
        *out = c;
        return OK;
    }
    free(c->end);
    fini(c);
    return err_say(why, ERR_MEMORY, "no memory for an epoch");
}

err_t compute_start(struct compute_config *cfg, struct compute **out, struct err_text *why)
{
    struct compute *c = NULL;
    err_t e = make(cfg, &c, why);
    if (!e && pthread_create(&c->thread, NULL, compute_main, c)) {
        free(c->end);
        fini(c);
        e = err_say(why, ERR_SYSTEM, "cannot start the compute thread");
    }
    if (e)
        compute_held_free(&cfg->held);
    else
        *out = c;
    cfg->held = (struct compute_held){0};
    return e;
}

struct compute_stats compute_stats_get(const struct compute *c)
{
    const struct stage *running = atomic_load(&c->running);
    return (struct compute_stats){
        .step_done = atomic_load(&c->step_done),
        .step_now = atomic_load(&c->step_now),
        .progress = atomic_load(&c->loops) + atomic_load(&c->load.pieces) +
                    (running ? stage_progress(running) : 0),
        .frame_bytes_out = atomic_load(&c->bytes_out),
        .frame_bytes_in = atomic_load(&c->bytes_in),
        .busy_us = atomic_load(&c->busy_us),
        .wait_us = atomic_load(&c->wait_us),
        .exchange_us = atomic_load(&c->exchange_us),
        .steps_queued = atomic_load(&c->in.n),
    };
}

void compute_stop(struct compute *c)
{
    atomic_store(&c->stop, true);
    mailbox_ring(&c->in);
}

void compute_cancel(struct compute *c)
{
    atomic_store(&c->load.cancel, true);
    compute_stop(c);
}

void compute_join(struct compute *c, struct compute_held *out)
{
    pthread_join(c->thread, NULL);
    *out = c->held;
    fini(c);
}
