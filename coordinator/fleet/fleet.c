#include "coordinator/fleet/fleet_priv.h"
#include "coordinator/fleet/muster.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

// -- sending --

err_t fleet_pack_send(struct fleet *f, struct tether *c, const struct msg *m)
{
    buf_clear(&f->packed);
    err_t err = wire_pack(m, &f->packed);
    if (err == OK) err = tether_send(c, f->packed.data, f->packed.len);
    if (err == OK) err = tether_arm(c);
    return err;
}

static void later(struct fleet *f);

static void doom(struct fleet_worker *w, err_t err)
{
    if (w->is_doomed) return;
    w->is_doomed = true;
    if (err == ERR_AGAIN)
        err_say(&w->doom, ERR_LINK, "it reads nothing: %u MiB are waiting for it",
                LINK_BACKLOG_MAX >> 20);
    else
        err_say(&w->doom, ERR_LINK, "sending to it failed (%s)", err_name(err));
    later(w->fleet);
}

void fleet_tell(struct fleet_worker *w, const struct msg *m)
{
    err_t err = fleet_pack_send(w->fleet, w->tether, m);
    if (err) doom(w, err);
}

// What lies in fleet.packed.
static void tell_packed(struct fleet_worker *w)
{
    struct buf *b = &w->fleet->packed;
    err_t err = tether_send(w->tether, b->data, b->len);
    if (err == OK) err = tether_arm(w->tether);
    if (err) doom(w, err);
}

err_t fleet_send(struct fleet *f, uint32_t lane, const struct step *s)
{
    struct lane *l = &f->lanes[lane].lane;
    struct msg m = {.kind = MSG_STEP, .step = *s};
    buf_clear(&f->packed);
    err_t err = wire_pack(&m, &f->packed);
    if (err) return err;
    lane_sent(l, s->number, clock_now_us());
    for (uint32_t i = 0; i < l->place.n_member; i++)
        tell_packed(&f->workers[l->place.members[i].worker]);
    return OK;
}

void fleet_renew(struct fleet *f, uint32_t lane)
{
    lane_renew(&f->lanes[lane].lane, clock_now_us());
    orders_carry_out(&f->lanes[lane]);
}

err_t fleet_drain(struct fleet *f, const char *name, int64_t grace_us, struct err_text *why)
{
    return crewing_drain(f, name, clock_now_us() + grace_us, why);
}

void fleet_forget(struct fleet_worker *w)
{
    tether_close(w->tether);
    surveying_leave(w);
    depot_forget(w->fleet->depot, w->number);
    arena_fini(&w->arena);
    // Where it belongs is kept for the moment in which it comes back.
    *w = (struct fleet_worker){.fleet = w->fleet,
                               .number = w->number,
                               .lane = w->lane,
                               .is_dealt = w->is_dealt,
                               .is_far = w->is_far,
                               .is_leaving = w->is_leaving,
                               .leave_us = w->leave_us,
                               .n_trip = w->n_trip,
                               .trip_us = w->trip_us};
}

// -- what workers say --

static void on_prepared(struct fleet_worker *w, const struct msg_prepared *m, int64_t now)
{
    struct lane *l = &fleet_lane_of(w)->lane;
    if (m->epoch == l->epoch && lane_is_member(l, w->number)) {
        const struct place *p = &l->place;
        const struct place_stage *s = &p->stages[p->members[l->workers[w->number].member].stage];
        // A worker alone has no data road, a stage of one no group, and so no address.
        if (m->n_address) memcpy(w->address, m->address, m->n_address);
        w->n_address = m->n_address;
        if (m->n_group_address) memcpy(w->group_address, m->group_address, m->n_group_address);
        w->n_group_address = m->n_group_address;
        w->weight_bytes = m->weight_bytes;
        w->kv_bytes = m->kv_bytes;
        w->work_bytes = m->work_bytes;
        w->load_ms = m->load_ms;
        // What a member of a group holds is of no use alone: it does not count as held layers.
        const bool is_whole = s->n_member == 1;
        w->hello.held_from = is_whole ? s->layer_from : 0;
        w->hello.held_to = is_whole ? s->layer_to : 0;
        w->hello.held_embed = is_whole && s->embed;
        w->hello.held_head = is_whole && s->head;
        memcpy(w->hello.held_hash, w->fleet->config.want.model->hash, sizeof w->hello.held_hash);
    }
    lane_prepared(l, w->number, m, now);
}

static void on_linked(struct fleet_worker *w, const struct msg_linked *m, int64_t now)
{
    struct lane *l = &fleet_lane_of(w)->lane;
    if (m->epoch == l->epoch) {
        w->next_latency_us = m->next_latency_us;
        w->next_bytes_per_s = m->next_bytes_per_s;
        snprintf(w->transport, sizeof w->transport, "%s", m->transport ? m->transport : "");
    }
    lane_linked(l, w->number, m, now);
}

static void on_result(struct fleet_worker *w, const struct step_result *r, int64_t now)
{
    struct lane *l = &fleet_lane_of(w)->lane;
    if (!lane_result(l, w->number, r->epoch, r->number, now)) return;
    struct fleet *f = w->fleet;
    struct fleet_listener *up = &f->config.listener;
    f->stats.results++;
    struct err_text why;
    if (up->on_result(up->arg, w->lane, r, &why) != OK)
        lane_violated(l, w->number, ERR_LINK_PROTOCOL, why.s, now);
}

// From beat to beat, while the lane had steps on their way all the time. A step counts when it is
// done, so a single beat says little, and their sums say it.
static void count_load(struct fleet_worker *w, const struct msg_heartbeat *m, int64_t now)
{
    const struct lane *l = &fleet_lane_of(w)->lane;
    const struct msg_heartbeat *before = &w->beat;
    if (m->epoch != before->epoch) {
        w->load_span_us = w->load_work_us = 0;
        straggling_reset(w);
    }
    if (m->epoch != l->epoch || m->epoch != before->epoch) return;
    if (!l->busy_us || l->busy_us > w->beat_us) return;
    if (m->busy_us < before->busy_us || m->exchange_us < before->exchange_us) return;
    const uint64_t busy = m->busy_us - before->busy_us;
    const uint64_t exchange = m->exchange_us - before->exchange_us;
    const uint64_t work = busy > exchange ? busy - exchange : 0;
    const uint64_t span = (uint64_t)(now - w->beat_us);
    w->load_work_us += work;
    w->load_span_us += span;
    straggling_count(w, work, span);
}

double fleet_worker_bubble(const struct fleet_worker *w)
{
    if (w->load_work_us >= w->load_span_us) return 0;
    return 1 - (double)w->load_work_us / (double)w->load_span_us;
}

static void on_heartbeat(struct fleet_worker *w, const struct msg_heartbeat *m, int64_t now)
{
    count_load(w, m, now);
    w->beat = *m;
    w->beat_us = now;
    lane_beat(&fleet_lane_of(w)->lane, w->number, m, now);
    const uint64_t since =
        m->echo_us && m->echo_us <= (uint64_t)now ? (uint64_t)now - m->echo_us : 0;
    if (since && m->echo_age_us <= since) crewing_trip(w, (int64_t)(since - m->echo_age_us), now);
}

// What it had no memory for is not asked of it again: the next plan gives it less.
static void on_failed(struct fleet_worker *w, const struct msg_failed *m, int64_t now)
{
    struct lane *l = &fleet_lane_of(w)->lane;
    if (m->code == ERR_MEMORY && m->epoch == l->epoch && lane_is_member(l, w->number)) {
        const struct place_member *p = &l->place.members[l->workers[w->number].member];
        const uint64_t planned = p->weight_bytes + p->kv_bytes + p->work_bytes;
        w->mem_most_bytes = planned - planned / 8;
        w->mem_until_us = now + FLEET_MEMORY_US;
        log_warn("worker %s has no %.1f MiB: plans count on %.1f MiB there for a minute",
                 w->hello.name, (double)planned / (1 << 20), (double)w->mem_most_bytes / (1 << 20));
    }
    lane_failed(l, w->number, m, now);
}

static void take(struct fleet_worker *w, const void *data, size_t len)
{
    struct fleet *f = w->fleet;
    struct lane *l = &fleet_lane_of(w)->lane;
    int64_t now = clock_now_us();
    struct msg m;
    struct err_text why;
    err_t err;
    arena_reset(&f->arena);
    if (w->is_dismissed) return; // its last words change nothing
    if (wire_unpack(data, len, &f->arena, &m, &why) != OK) {
        lane_violated(l, w->number, ERR_LINK_PROTOCOL, why.s, now);
        return;
    }
    switch (m.kind) {
    case MSG_PREPARED:
        on_prepared(w, &m.prepared, now);
        break;
    case MSG_LINKED:
        on_linked(w, &m.linked, now);
        break;
    case MSG_RESULT:
        on_result(w, &m.result, now);
        break;
    case MSG_FAILED:
        on_failed(w, &m.failed, now);
        break;
    case MSG_HEARTBEAT:
        on_heartbeat(w, &m.heartbeat, now);
        break;
    case MSG_FETCH:
        err = depot_take(f->depot, w->number, &m.fetch, &why);
        if (err) lane_violated(l, w->number, err, why.s, now);
        break;
    case MSG_USAGE:
        err = balancing_take(w, &m.usage, now, &why);
        if (err) lane_violated(l, w->number, err, why.s, now);
        break;
    case MSG_RENEW:
        err = trust_take(w, &m.renew, now, &why);
        if (err) lane_violated(l, w->number, err, why.s, now);
        break;
    case MSG_SURVEYED:
        err = surveying_take(w, &m.surveyed, now, &why);
        if (err) lane_violated(l, w->number, err, why.s, now);
        break;
    default:
        err_say(&why, ERR_LINK_PROTOCOL, "a worker may not say %s", wire_kind_name(m.kind));
        lane_violated(l, w->number, ERR_LINK_PROTOCOL, why.s, now);
    }
}

static void lost(struct fleet_worker *w, const char *why)
{
    struct fleet_lane *fl = fleet_lane_of(w);
    if (w->is_dismissed) {
        log_info("worker %s is gone", w->hello.name);
        fleet_forget(w);
        return;
    }
    lane_lost(&fl->lane, w->number, why, clock_now_us());
    orders_carry_out(fl);
}

static void on_ready(struct tether *c)
{
    struct fleet_worker *w = c->owner;
    const void *data;
    size_t len;
    struct err_text why;
    for (int i = 0; i < FLEET_BATCH; i++) {
        err_t err = tether_recv(c, &data, &len, &why);
        if (err == ERR_AGAIN) {
            if (tether_arm(c) != OK) doom(w, ERR_SYSTEM);
            return;
        }
        if (err) {
            lost(w, why.s);
            return;
        }
        struct fleet_lane *fl = fleet_lane_of(w);
        take(w, data, len);
        orders_carry_out(fl);
        if (!c->link) return; // that was its last word
    }
    w->has_more = true;
    later(w->fleet);
}

static void on_later(uv_idle_t *h)
{
    struct fleet *f = h->data;
    uv_idle_stop(h);
    for (uint32_t i = 0; i < LANE_WORKERS_MAX; i++) {
        struct fleet_worker *w = &f->workers[i];
        if (w->tether && w->is_doomed) {
            lost(w, w->doom.s);
        } else if (w->tether && w->has_more) {
            w->has_more = false;
            on_ready(w->tether);
        }
    }
}

static void later(struct fleet *f)
{
    uv_idle_start(&f->later, on_later);
}

// -- joining --

// That we beat at all is the message; and the worker's next one tells the round trip.
static void beat(struct fleet_worker *w)
{
    const struct msg m = {
        .kind = MSG_HEARTBEAT,
        .heartbeat = {.epoch = fleet_lane_of(w)->lane.epoch, .sent_us = (uint64_t)clock_now_us()}};
    fleet_tell(w, &m);
}

static bool keep_hello(struct fleet_worker *w, const struct msg_hello *h)
{
    struct arena *a = &w->arena;
    w->hello = *h;
    w->hello.name = arena_copy_str(a, h->name, strlen(h->name));
    w->hello.host = arena_copy_str(a, h->host, strlen(h->host));
    w->hello.build = arena_copy_str(a, h->build, strlen(h->build));
    struct msg_device *d = arena_copy(a, h->devices, h->n_device * sizeof *d);
    struct msg_model *m = arena_copy(a, h->models, h->n_model * sizeof *m);
    if (!w->hello.name || !w->hello.host || !w->hello.build || !d || !m) return false;
    w->hello.devices = d;
    w->hello.models = m;
    for (uint32_t i = 0; i < h->n_device; i++) {
        d[i].name = arena_copy_str(a, d[i].name, strlen(d[i].name));
        d[i].kind = arena_copy_str(a, d[i].kind, strlen(d[i].kind));
        d[i].isa = arena_copy_str(a, d[i].isa, strlen(d[i].isa));
        if (!d[i].name || !d[i].kind || !d[i].isa) return false;
    }
    for (uint32_t i = 0; i < h->n_model; i++) {
        m[i].name = arena_copy_str(a, m[i].name, strlen(m[i].name));
        if (!m[i].name) return false;
    }
    return true;
}

// What a worker holds of another model, or claims beyond this one's end, is of no use here.
static void check_held(struct msg_hello *h, const struct model *model)
{
    if (memcmp(h->held_hash, model->hash, sizeof model->hash) == 0 &&
        h->held_to <= (uint32_t)model->shape.n_layer)
        return;
    h->held_from = h->held_to = 0;
    h->held_embed = h->held_head = false;
}

// The number for a new worker: its own if it comes back, else a free one; NULL: all are taken.
static struct fleet_worker *find_place(struct fleet *f, const char *name)
{
    struct fleet_worker *first_free = NULL;
    for (uint32_t i = 0; i < LANE_WORKERS_MAX; i++) {
        struct fleet_worker *w = &f->workers[i];
        if (w->tether && strcmp(w->hello.name, name) == 0) return w;
        if (!w->tether && !first_free) first_free = w;
    }
    return first_free;
}

static void turn_away(struct fleet *f, struct tether *c, const struct msg_hello *h, err_t code,
                      const char *why)
{
    log_warn("worker %s (pid %u on %s) refused: %s", h->name, h->pid, h->host, why);
    f->stats.refused++;
    bool is_final = code != ERR_BUSY && code != ERR_MEMORY;
    struct msg m = {.kind = MSG_REFUSE, .refuse = {.code = code, .why = why, .is_final = is_final}};
    fleet_pack_send(f, c, &m);
    tether_close(c);
}

void fleet_welcome(struct fleet *f, struct tether *c, const struct msg_hello *h)
{
    struct err_text why;
    err_t err = muster_check(c->link->peer, h, &why);
    struct fleet_worker *w = err ? NULL : find_place(f, h->name);
    if (!err && !w) err = err_say(&why, ERR_BUSY, "there are %u workers already", LANE_WORKERS_MAX);
    if (!err) err = muster_check_name(w, h, clock_now_us(), &why);
    if (err) {
        turn_away(f, c, h, err, why.s);
        return;
    }
    const bool is_back = w->tether && w->is_dealt && !w->is_dismissed;
    if (w->tether && !w->is_dismissed) {
        // The message h lies in the arena that the actions of the loss do not touch.
        lane_replaced(&fleet_lane_of(w)->lane, w->number, "its name connected again");
        orders_carry_out(fleet_lane_of(w));
    } else if (w->tether) {
        fleet_forget(w);
    }
    if (!is_back) *w = (struct fleet_worker){.fleet = f, .number = w->number};
    arena_init(&w->arena, WIRE_ARENA_MAX);
    if (!keep_hello(w, h)) {
        arena_fini(&w->arena);
        *w = (struct fleet_worker){.fleet = f, .number = w->number};
        turn_away(f, c, h, ERR_MEMORY, "out of memory");
        return;
    }
    w->tether = c;
    w->joined_us = w->beat_us = clock_now_us();
    w->has_model = !muster_check_model(h, f->config.want.model, depot_has_files(f->depot), &why);
    check_held(&w->hello, f->config.want.model);
    c->owner = w;
    c->on_ready = on_ready;
    log_info("worker %s (pid %u on %s, %s) joined: %.1f GiB free", h->name, h->pid, h->host,
             h->devices[0].isa, (double)h->devices[0].mem_free_bytes / (1 << 30));
    if (!w->has_model) log_warn("worker %s has no part in plans: %s", h->name, why.s);
    struct msg m = {.kind = MSG_WELCOME,
                    .welcome = {.worker = w->number, .cluster = f->config.cluster}};
    depot_offer(f->depot, &m.welcome);
    fleet_tell(w, &m);
    beat(w);
    surveying_join(w, w->joined_us);
    crewing_join(w, is_back, w->joined_us);
    if (c->link) on_ready(c); // it may have said more
}

// -- time --

static void on_timer(uv_timer_t *t)
{
    struct fleet *f = t->data;
    const struct fleet_listener *up = &f->config.listener;
    if (f->n_tick++ % FLEET_TICKS_PER_BEAT == 0)
        for (uint32_t i = 0; i < LANE_WORKERS_MAX; i++)
            if (f->workers[i].tether) beat(&f->workers[i]);
    guest_tick(f, clock_now_us());
    for (uint32_t i = 0; i < FLEET_LANES_MAX; i++) {
        if (!f->lanes[i].is_on) continue;
        lane_tick(&f->lanes[i].lane, up->is_busy(up->arg, i), clock_now_us());
        orders_carry_out(&f->lanes[i]);
        balancing_tick(&f->lanes[i], up->is_busy(up->arg, i), clock_now_us());
        straggling_tick(&f->lanes[i]);
    }
    surveying_tick(f, clock_now_us());
    crewing_tick(f, clock_now_us());
}

// -- life --

void fleet_own_handle(struct fleet *f, uv_handle_t *h)
{
    h->data = f;
    f->handles[f->n_handle++] = h;
}

static void on_chunk(void *arg, uint32_t worker, const struct msg_chunk *c)
{
    struct fleet *f = arg;
    const struct msg m = {.kind = MSG_CHUNK, .chunk = *c};
    if (f->workers[worker].tether) fleet_tell(&f->workers[worker], &m);
}

err_t fleet_open(const struct fleet_config *c, struct fleet **out, struct err_text *why)
{
    struct fleet *f = calloc(1, sizeof *f);
    if (!f) return err_say(why, ERR_MEMORY, "out of memory");
    f->config = *c;
    arena_init(&f->arena, WIRE_ARENA_MAX);
    for (uint32_t i = 0; i < LANE_WORKERS_MAX; i++) {
        f->workers[i].fleet = f;
        f->workers[i].number = i;
    }
    surveying_open(f);
    crewing_open(f, clock_now_us());
    uv_timer_init(c->loop, &f->timer);
    fleet_own_handle(f, (uv_handle_t *)&f->timer);
    uv_idle_init(c->loop, &f->later);
    fleet_own_handle(f, (uv_handle_t *)&f->later);
    const struct depot_config depot = {.loop = c->loop,
                                       .model = c->want.model,
                                       .n_worker = LANE_WORKERS_MAX,
                                       .on_chunk = on_chunk,
                                       .arg = f};
    err_t err = depot_open(&depot, &f->depot, why);
    if (!err) err = guest_open(f, why);
    if (err) {
        fleet_close(f);
        return err;
    }
    uv_timer_start(&f->timer, on_timer, 0, FLEET_TICK_MS);
    *out = f;
    return OK;
}

err_t fleet_add(struct fleet *f, struct link *link)
{
    return guest_add(f, link, true);
}

static void on_handle_closed(uv_handle_t *h)
{
    struct fleet *f = h->data;
    if (--f->n_handle == 0) free(f);
}

void fleet_close(struct fleet *f)
{
    if (!f) return;
    for (uint32_t i = 0; i < LANE_WORKERS_MAX; i++)
        if (f->workers[i].tether) fleet_forget(&f->workers[i]);
    for (uint32_t i = 0; i < FLEET_LANES_MAX; i++)
        balancing_close(&f->lanes[i]);
    for (uint32_t i = 0; i < f->n_handle; i++)
        uv_close(f->handles[i], on_handle_closed);
    guest_close(f);
    depot_close(f->depot);
    f->depot = NULL;
    arena_fini(&f->arena);
    buf_fini(&f->packed);
}

int fleet_port(const struct fleet *f)
{
    return f->listener ? link_tls_listener_port(f->listener) : 0;
}

const struct fleet_lane *fleet_lane(const struct fleet *f, uint32_t number)
{
    return number < FLEET_LANES_MAX && f->lanes[number].is_on ? &f->lanes[number] : NULL;
}

void fleet_experts_json(const struct fleet_lane *l, struct buf *out)
{
    balancing_json(l, out);
}

bool fleet_lane_is_far(const struct fleet_lane *l)
{
    for (uint32_t i = 0; l->is_own && i < LANE_WORKERS_MAX; i++) {
        const struct fleet_worker *w = &l->fleet->workers[i];
        if (w->tether && w->lane == l->number) return w->is_far;
    }
    return false;
}

const struct fleet_worker *fleet_worker(const struct fleet *f, uint32_t number)
{
    return number < LANE_WORKERS_MAX && f->workers[number].tether ? &f->workers[number] : NULL;
}

enum lane_role fleet_worker_role(const struct fleet_worker *w)
{
    return fleet_lane_of(w)->lane.workers[w->number].role;
}

const char *fleet_worker_state(const struct fleet_worker *w)
{
    return w->is_leaving ? "draining" : lane_role_name(fleet_worker_role(w));
}

uint64_t fleet_epoch(const struct fleet *f)
{
    return f->last_epoch;
}

struct fleet_stats fleet_stats_get(const struct fleet *f)
{
    return f->stats;
}

const char *fleet_cluster(const struct fleet *f)
{
    return f->config.cluster;
}
