#include "coordinator/fleet/fleet_priv.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static void drain(struct fleet *f);

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

// A worker cannot be taken out in the middle of whatever found it broken; the loop's next turn
// does.
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

static void tell(struct fleet_worker *w, const struct msg *m)
{
    err_t err = fleet_pack_send(w->fleet, w->tether, m);
    if (err) doom(w, err);
}

static void tell_packed(struct fleet_worker *w)
{
    struct buf *b = &w->fleet->packed;
    err_t err = tether_send(w->tether, b->data, b->len);
    if (err == OK) err = tether_arm(w->tether);
    if (err) doom(w, err);
}

err_t fleet_send(struct fleet *f, const struct step *s)
{
    const struct place *p = &f->lane.place;
    struct msg m = {.kind = MSG_STEP, .step = *s};
    buf_clear(&f->packed);
    err_t err = wire_pack(&m, &f->packed);
    if (err) return err;
    lane_sent(&f->lane, s->number, clock_now_us());
    for (uint32_t i = 0; i < p->n_member; i++)
        tell_packed(&f->workers[p->members[i].worker]);
    return OK;
}

void fleet_renew(struct fleet *f)
{
    lane_renew(&f->lane, clock_now_us());
    drain(f);
}

// -- what the lane decided --

// The table's entries for the layers of one stage, three numbers each. NULL: no memory.
static uint32_t *replicas_of(const struct share_experts *e, const struct place_stage *s,
                             uint32_t *n)
{
    uint32_t *all = calloc(e->n_replica + 1, 3 * sizeof *all);
    *n = 0;
    for (uint32_t i = 0; all && i < e->n_replica; i++) {
        const struct share_replica *r = &e->replicas[i];
        if (r->layer < s->layer_from || r->layer >= s->layer_to) continue;
        memcpy(all + (size_t)3 * (*n)++, (uint32_t[]){r->layer, r->expert, r->member},
               3 * sizeof *all);
    }
    return all;
}

static void tell_plan(const struct fleet_worker *w, const struct msg_plan *m,
                      const struct place_member *planned)
{
    char group[48] = "";
    if (m->n_member[m->stage] > 1)
        snprintf(group, sizeof group, " (%s, %u of %u, %.0f%%)",
                 share_split_name((enum share_split)m->split), m->member + 1,
                 m->n_member[m->stage], 100.0 * planned->part / SHARE_TOTAL);
    log_info("epoch %llu stage %u of %u: worker %s gets layers %u-%u%s%s%s, %.1f MiB planned",
             (unsigned long long)m->epoch, m->stage, m->n_stage, w->hello.name, m->layer_from,
             m->layer_to - 1, m->embed ? ", embedding" : "", m->head ? ", head" : "", group,
             (double)(planned->weight_bytes + planned->kv_bytes + planned->work_bytes) / (1 << 20));
}

static void send_plan(struct fleet *f, struct fleet_worker *w)
{
    const struct lane *l = &f->lane;
    const struct place *p = &l->place;
    const uint32_t at = l->workers[w->number].member;
    const struct place_member *member = &p->members[at];
    const struct place_stage *s = &p->stages[member->stage];
    if (f->key_epoch != l->epoch) {
        // Never short and never interrupted for so few bytes (getrandom(2)).
        if (getrandom(f->key, sizeof f->key, 0) != sizeof f->key) BUG("getrandom");
        f->key_epoch = l->epoch;
    }
    const struct model *model = f->config.want.model;
    struct msg m = {.kind = MSG_PLAN,
                    .plan = {.epoch = l->epoch,
                             .model = model->shape.name,
                             .stage = member->stage,
                             .n_stage = p->n_stage,
                             .layer_from = s->layer_from,
                             .layer_to = s->layer_to,
                             .embed = s->embed,
                             .head = s->head,
                             .settings = p->settings,
                             .road = p->road,
                             .split = s->split,
                             .member = at - s->first}};
    memcpy(m.plan.plan_hash, p->hash, sizeof m.plan.plan_hash);
    memcpy(m.plan.model_hash, model->hash, sizeof m.plan.model_hash);
    memcpy(m.plan.key, f->key, sizeof m.plan.key);
    for (uint32_t i = 0; i < p->n_stage; i++)
        m.plan.n_member[i] = p->stages[i].n_member;
    for (uint32_t i = 0; i < s->n_member; i++)
        m.plan.part[i] = p->members[s->first + i].part;
    uint32_t *replicas = NULL;
    if (p->experts && s->n_member > 1) {
        replicas = replicas_of(p->experts, s, &m.plan.n_replica);
        if (!replicas) {
            doom(w, ERR_MEMORY);
            return;
        }
        m.plan.replicas = replicas;
        m.plan.n_expert = (uint32_t)p->experts->n_expert;
        m.plan.owner = p->experts->owner + (size_t)s->layer_from * m.plan.n_expert;
    }
    f->stats.plans += at == 0;
    tell_plan(w, &m.plan, member);
    tell(w, &m);
    free(replicas);
}

static void send_connect(struct fleet *f, struct fleet_worker *w)
{
    const struct place *p = &f->lane.place;
    struct msg_peer peers[WIRE_STAGES_MAX];
    for (uint32_t i = 0; i < p->n_member; i++) {
        const struct fleet_worker *peer = &f->workers[p->members[i].worker];
        const uint32_t stage = p->members[i].stage;
        peers[i] = (struct msg_peer){.stage = stage,
                                     .member = i - p->stages[stage].first,
                                     .address = peer->address,
                                     .n_address = peer->n_address,
                                     .group_address = peer->group_address,
                                     .n_group_address = peer->n_group_address};
    }
    struct msg m = {.kind = MSG_CONNECT,
                    .connect = {.epoch = f->lane.epoch, .peers = peers, .n_peer = p->n_member}};
    tell(w, &m);
}

static void forget(struct fleet_worker *w)
{
    tether_close(w->tether);
    arena_fini(&w->arena);
    *w = (struct fleet_worker){.fleet = w->fleet, .number = w->number};
}

// The one line that every death gets.
static void tell_loss(struct fleet *f, const struct fleet_worker *w, const struct lane_action *a)
{
    struct err_text held = {"it held nothing"}, next;
    if (a->had_stage)
        err_say(&held, OK, "it held stage %u, layers %u-%u (%.1f MiB of weights)", a->stage,
                a->layer_from, a->layer_to - 1, (double)w->weight_bytes / (1 << 20));
    lane_describe(&f->lane, &next);
    log_warn("worker %s (pid %u on %s) %s: %s; %s, %.1f GiB free there; now: %s", w->hello.name,
             w->hello.pid, w->hello.host,
             a->kind == LANE_LEFT   ? "left"
             : a->kind == LANE_DROP ? "dropped"
                                    : "failed",
             a->why.s, held.s, (double)w->beat.mem_free_bytes / (1 << 30), next.s);
}

static void lose(struct fleet *f, struct fleet_worker *w, const struct lane_action *a)
{
    tell_loss(f, w, a);
    f->stats.deaths++;
    if (a->kind == LANE_DROP) {
        struct msg m = {.kind = MSG_REFUSE,
                        .refuse = {.code = a->code, .why = a->why.s, .is_final = a->is_final}};
        fleet_pack_send(f, w->tether, &m); // if it cannot hear it, closing says enough
    }
    forget(w);
}

static void serve(struct fleet *f)
{
    const struct lane *l = &f->lane;
    log_info("epoch %llu serves: %u stage%s of %u worker%s, %u KV tokens, %u sequences",
             (unsigned long long)l->epoch, l->place.n_stage, l->place.n_stage == 1 ? "" : "s",
             l->place.n_member, l->place.n_member == 1 ? "" : "s", l->place.settings.n_page * l->place.settings.page_tok, l->place.settings.n_slot);
    f->config.listener.on_serve(f->config.listener.arg, &l->place, l->epoch);
}

static void drain(struct fleet *f)
{
    struct fleet_listener *up = &f->config.listener;
    struct lane_action a;
    while (lane_next(&f->lane, &a)) {
        struct fleet_worker *w = &f->workers[a.worker];
        switch (a.kind) {
        case LANE_SEND_PLAN:
            send_plan(f, w);
            break;
        case LANE_SEND_CONNECT:
            send_connect(f, w);
            break;
        case LANE_LEFT:
        case LANE_DROP:
            lose(f, w, &a);
            break;
        case LANE_STRUCK:
            tell_loss(f, w, &a);
            break;
        case LANE_SUSPEND:
            up->on_suspend(up->arg);
            break;
        case LANE_SERVE:
            serve(f);
            break;
        case LANE_GIVE_UP:
            up->on_give_up(up->arg, f->lane.why.s);
            break;
        }
    }
    if (f->lane.state == LANE_NO_CAPACITY && f->lane.since_us != f->told_us) {
        f->told_us = f->lane.since_us;
        log_warn("no placement of the model: %s", f->lane.why.s);
    }
}

// -- what workers say --

static void on_prepared(struct fleet *f, struct fleet_worker *w, const struct msg_prepared *m,
                        int64_t now)
{
    if (m->epoch == f->lane.epoch && lane_is_member(&f->lane, w->number)) {
        const struct place *p = &f->lane.place;
        const struct place_stage *s =
            &p->stages[p->members[f->lane.workers[w->number].member].stage];
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
        memcpy(w->hello.held_hash, f->config.want.model->hash, sizeof w->hello.held_hash);
    }
    lane_prepared(&f->lane, w->number, m, now);
}

static void on_linked(struct fleet *f, struct fleet_worker *w, const struct msg_linked *m,
                      int64_t now)
{
    if (m->epoch == f->lane.epoch) {
        w->next_latency_us = m->next_latency_us;
        w->next_bytes_per_s = m->next_bytes_per_s;
        snprintf(w->transport, sizeof w->transport, "%s", m->transport ? m->transport : "");
    }
    lane_linked(&f->lane, w->number, m, now);
}

static void on_result(struct fleet *f, struct fleet_worker *w, const struct step_result *r,
                      int64_t now)
{
    if (!lane_result(&f->lane, w->number, r->epoch, r->number, now)) return;
    f->stats.results++;
    struct fleet_listener *up = &f->config.listener;
    struct err_text why;
    if (up->on_result(up->arg, r, &why) != OK)
        lane_violated(&f->lane, w->number, ERR_LINK_PROTOCOL, why.s, now);
}

static void take(struct fleet_worker *w, const void *data, size_t len)
{
    struct fleet *f = w->fleet;
    int64_t now = clock_now_us();
    struct msg m;
    struct err_text why;
    arena_reset(&f->arena);
    if (wire_unpack(data, len, &f->arena, &m, &why) != OK) {
        lane_violated(&f->lane, w->number, ERR_LINK_PROTOCOL, why.s, now);
        drain(f);
        return;
    }
    switch (m.kind) {
    case MSG_PREPARED:
        on_prepared(f, w, &m.prepared, now);
        break;
    case MSG_LINKED:
        on_linked(f, w, &m.linked, now);
        break;
    case MSG_RESULT:
        on_result(f, w, &m.result, now);
        break;
    case MSG_FAILED:
        lane_failed(&f->lane, w->number, &m.failed, now);
        break;
    case MSG_HEARTBEAT:
        w->beat = m.heartbeat;
        w->beat_us = now;
        lane_beat(&f->lane, w->number, &m.heartbeat, now);
        break;
    default:
        err_say(&why, ERR_LINK_PROTOCOL, "a worker may not say %s", wire_kind_name(m.kind));
        lane_violated(&f->lane, w->number, ERR_LINK_PROTOCOL, why.s, now);
    }
    drain(f);
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
            lane_lost(&w->fleet->lane, w->number, why.s, clock_now_us());
            drain(w->fleet);
            return;
        }
        take(w, data, len);
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
            lane_lost(&f->lane, i, w->doom.s, clock_now_us());
            drain(f);
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

static bool has_model(const struct msg_hello *h, const struct model *model)
{
    for (uint32_t i = 0; i < h->n_model; i++)
        if (memcmp(h->models[i].hash, model->hash, sizeof model->hash) == 0) return true;
    return false;
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

static err_t may_join(const struct tether *c, const struct msg_hello *h, struct err_text *why)
{
    if (h->version != WIRE_VERSION)
        return err_say(why, ERR_LINK_VERSION, "it speaks protocol %u (%s), we speak %u", h->version,
                       h->build, WIRE_VERSION);
    if (strcmp(c->link->peer, h->name) != 0)
        return err_say(why, ERR_LINK_AUTH, "it calls itself %s, but its link is that of %s",
                       h->name, c->link->peer);
    if (h->n_device == 0) return err_say(why, ERR_LINK_PROTOCOL, "it has no device");
    if (h->held_from > h->held_to)
        return err_say(why, ERR_LINK_PROTOCOL, "it holds layers %u to %u", h->held_from,
                       h->held_to);
    return OK;
}

void fleet_welcome(struct fleet *f, struct tether *c, const struct msg_hello *h)
{
    struct err_text why;
    err_t err = may_join(c, h, &why);
    struct fleet_worker *w = err ? NULL : find_place(f, h->name);
    if (!err && !w) err = err_say(&why, ERR_BUSY, "there are %u workers already", LANE_WORKERS_MAX);
    if (err) {
        turn_away(f, c, h, err, why.s);
        return;
    }
    if (w->tether) {
        // The message h lies in the arena that the actions of the loss do not touch.
        lane_replaced(&f->lane, w->number, "its name connected again");
        drain(f);
    }
    arena_init(&w->arena, WIRE_ARENA_MAX);
    if (!keep_hello(w, h)) {
        arena_fini(&w->arena);
        *w = (struct fleet_worker){.fleet = f, .number = w->number};
        turn_away(f, c, h, ERR_MEMORY, "out of memory");
        return;
    }
    w->tether = c;
    w->joined_us = w->beat_us = clock_now_us();
    check_held(&w->hello, f->config.want.model);
    c->owner = w;
    c->on_ready = on_ready;
    bool can = has_model(h, f->config.want.model);
    log_info("worker %s (pid %u on %s, %s) joined: %.1f GiB free%s", h->name, h->pid, h->host,
             h->devices[0].isa, (double)h->devices[0].mem_free_bytes / (1 << 30),
             can ? "" : "; it cannot read this model");
    struct msg m = {.kind = MSG_WELCOME,
                    .welcome = {.worker = w->number, .cluster = f->config.cluster}};
    tell(w, &m);
    lane_join(&f->lane, w->number, can, w->joined_us);
    drain(f);
    if (c->link) on_ready(c); // it may have said more
}

static err_t place_workers(void *arg, const uint32_t *usable, uint32_t n, struct place *out,
                           struct err_text *why)
{
    struct fleet *f = arg;
    struct place_worker candidates[LANE_WORKERS_MAX];
    for (uint32_t i = 0; i < n; i++) {
        const struct fleet_worker *w = &f->workers[usable[i]];
        const struct msg_hello *h = &w->hello;
        const struct msg_device *d = &h->devices[0];
        candidates[i] = (struct place_worker){
            .number = w->number,
            .name = h->name,
            .host = h->host,
            .process = h->process,
            .roads = h->roads,
            .threads = d->threads,
            .has_cpu = strcmp(d->kind, "cpu") == 0,
            .mem_bytes = d->mem_bytes,
            .mem_free_bytes = d->mem_free_bytes,
            .read_bytes_per_s = d->read_bytes_per_s,
            .int8_ops_per_s = d->int8_ops_per_s,
            .f32_flops_per_s = d->f32_flops_per_s,
            .held_from = h->held_from,
            .held_to = h->held_to,
            .held_embed = h->held_embed,
            .held_head = h->held_head,
        };
    }
    return place_make(&f->config.want, candidates, n, out, why);
}

// -- time --

static void on_timer(uv_timer_t *t)
{
    struct fleet *f = t->data;
    if (f->n_tick++ % FLEET_TICKS_PER_BEAT == 0) {
        // Of the worker's fields the coordinator has only the epoch to tell; that it beats at all
        // is the message.
        struct msg m = {.kind = MSG_HEARTBEAT, .heartbeat = {.epoch = f->lane.epoch}};
        buf_clear(&f->packed);
        if (wire_pack(&m, &f->packed) == OK)
            for (uint32_t i = 0; i < LANE_WORKERS_MAX; i++)
                if (f->workers[i].tether) tell_packed(&f->workers[i]);
    }
    guest_tick(f, clock_now_us());
    lane_tick(&f->lane, f->config.listener.is_busy(f->config.listener.arg), clock_now_us());
    drain(f);
}

// -- life --

void fleet_own_handle(struct fleet *f, uv_handle_t *h)
{
    h->data = f;
    f->handles[f->n_handle++] = h;
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
    struct lane_config lane = {.n_expect = c->n_expect,
                               .n_wanted = c->want.n_stage * c->want.n_member,
                               .grace_us = c->grace_us,
                               .last_epoch = &f->last_epoch,
                               .place = place_workers,
                               .place_arg = f};
    lane_init(&f->lane, &lane, clock_now_us());
    uv_timer_init(c->loop, &f->timer);
    fleet_own_handle(f, (uv_handle_t *)&f->timer);
    uv_idle_init(c->loop, &f->later);
    fleet_own_handle(f, (uv_handle_t *)&f->later);
    err_t err = guest_open(f, why);
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
        if (f->workers[i].tether) forget(&f->workers[i]);
    for (uint32_t i = 0; i < f->n_handle; i++)
        uv_close(f->handles[i], on_handle_closed);
    guest_close(f);
    arena_fini(&f->arena);
    buf_fini(&f->packed);
}

int fleet_port(const struct fleet *f)
{
    return f->listener ? link_tls_listener_port(f->listener) : 0;
}

const struct lane *fleet_lane(const struct fleet *f)
{
    return &f->lane;
}

const struct fleet_worker *fleet_worker(const struct fleet *f, uint32_t number)
{
    return number < LANE_WORKERS_MAX && f->workers[number].tether ? &f->workers[number] : NULL;
}

struct fleet_stats fleet_stats_get(const struct fleet *f)
{
    return f->stats;
}

const char *fleet_cluster(const struct fleet *f)
{
    return f->config.cluster;
}
