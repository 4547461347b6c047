// orders: carries out what a lane's state machine decided: plans and connections go to its workers,
// losses are told and forgotten, the owner hears when steps may be sent.
#include "coordinator/fleet/fleet_priv.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

// What the table says of one stage's layers: its replicas are in the order of the layers.
static void fill_experts(struct msg_plan *m, const struct share_experts *e)
{
    uint32_t from = 0, to;
    while (from < e->n_replica && e->replicas[from].layer < m->layer_from)
        from++;
    for (to = from; to < e->n_replica && e->replicas[to].layer < m->layer_to;)
        to++;
    m->n_expert = (uint32_t)e->n_expert;
    m->owner = e->owner + (size_t)m->layer_from * m->n_expert;
    m->replicas = from < to ? &e->replicas[from].layer : NULL;
    m->n_replica = to - from;
}

static void tell_plan(const struct fleet_worker *w, const struct msg_plan *m,
                      const struct place_member *planned)
{
    char group[48] = "";
    if (m->n_member[m->stage] > 1)
        snprintf(group, sizeof group, " (%s, %u of %u, %.0f%%)",
                 share_split_name((enum share_split)m->split), m->member + 1, m->n_member[m->stage],
                 100.0 * planned->part / SHARE_TOTAL);
    log_info("%s epoch %llu stage %u of %u: worker %s gets layers %u-%u%s%s%s, %.1f MiB planned",
             fleet_lane_of(w)->name, (unsigned long long)m->epoch, m->stage, m->n_stage,
             w->hello.name, m->layer_from, m->layer_to - 1, m->embed ? ", embedding" : "",
             m->head ? ", head" : "", group,
             (double)(planned->weight_bytes + planned->kv_bytes + planned->work_bytes) / (1 << 20));
}

static void new_key(struct fleet_lane *fl)
{
    if (fl->key_epoch == fl->lane.epoch) return;
    // Never short and never interrupted for so few bytes (getrandom(2)).
    if (getrandom(fl->key, sizeof fl->key, 0) != sizeof fl->key) BUG("getrandom");
    fl->key_epoch = fl->lane.epoch;
}

static void send_plan(struct fleet_lane *fl, struct fleet_worker *w)
{
    const struct lane *l = &fl->lane;
    const struct place *p = &l->place;
    const uint32_t at = l->workers[w->number].member;
    const struct place_member *member = &p->members[at];
    const struct place_stage *s = &p->stages[member->stage];
    const struct model *model = fl->want.model;
    new_key(fl);
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
                             .lane = fl->number,
                             .split = s->split,
                             .member = at - s->first}};
    memcpy(m.plan.plan_hash, p->hash, sizeof m.plan.plan_hash);
    memcpy(m.plan.model_hash, model->hash, sizeof m.plan.model_hash);
    memcpy(m.plan.key, fl->key, sizeof m.plan.key);
    for (uint32_t i = 0; i < p->n_stage; i++)
        m.plan.n_member[i] = p->stages[i].n_member;
    for (uint32_t i = 0; i < s->n_member; i++)
        m.plan.part[i] = p->members[s->first + i].part;
    if (p->experts && s->n_member > 1) fill_experts(&m.plan, p->experts);
    fl->fleet->stats.plans += at == 0;
    tell_plan(w, &m.plan, member);
    fleet_tell(w, &m);
}

static void send_connect(struct fleet_lane *fl, struct fleet_worker *w)
{
    const struct place *p = &fl->lane.place;
    struct msg_peer peers[WIRE_STAGES_MAX];
    for (uint32_t i = 0; i < p->n_member; i++) {
        const struct fleet_worker *peer = &fl->fleet->workers[p->members[i].worker];
        const uint32_t stage = p->members[i].stage;
        peers[i] = (struct msg_peer){.stage = stage,
                                     .member = i - p->stages[stage].first,
                                     .address = peer->address,
                                     .n_address = peer->n_address,
                                     .group_address = peer->group_address,
                                     .n_group_address = peer->n_group_address};
    }
    struct msg m = {.kind = MSG_CONNECT,
                    .connect = {.epoch = fl->lane.epoch, .peers = peers, .n_peer = p->n_member}};
    fleet_tell(w, &m);
}

// The one line that every death gets.
static void tell_loss(struct fleet_lane *fl, const struct fleet_worker *w,
                      const struct lane_action *a)
{
    struct err_text held = {"it held nothing"}, next;
    if (a->had_stage)
        err_say(&held, OK, "it held stage %u, layers %u-%u (%.1f MiB of weights)", a->stage,
                a->layer_from, a->layer_to - 1, (double)w->weight_bytes / (1 << 20));
    lane_describe(&fl->lane, &next);
    log_warn("worker %s (pid %u on %s) %s: %s; %s, %.1f GiB free there; %s now: %s", w->hello.name,
             w->hello.pid, w->hello.host,
             a->kind == LANE_LEFT   ? "left"
             : a->kind == LANE_DROP ? "dropped"
                                    : "failed",
             a->why.s, held.s, (double)w->beat.mem_free_bytes / (1 << 30), fl->name, next.s);
}

static void lose(struct fleet_lane *fl, struct fleet_worker *w, const struct lane_action *a)
{
    tell_loss(fl, w, a);
    fl->fleet->stats.deaths++;
    if (a->kind == LANE_DROP) {
        struct msg m = {.kind = MSG_REFUSE,
                        .refuse = {.code = a->code, .why = a->why.s, .is_final = a->is_final}};
        fleet_pack_send(fl->fleet, w->tether, &m); // if it cannot hear it, closing says enough
    }
    fleet_forget(w);
}

static void serve(struct fleet_lane *fl)
{
    const struct lane *l = &fl->lane;
    const struct fleet_listener *up = &fl->fleet->config.listener;
    log_info("%s epoch %llu serves: %u stage%s, %u worker%s, %u KV tokens, %u sequences", fl->name,
             (unsigned long long)l->epoch, l->place.n_stage, l->place.n_stage == 1 ? "" : "s",
             l->place.n_member, l->place.n_member == 1 ? "" : "s",
             l->place.settings.n_page * l->place.settings.page_tok, l->place.settings.n_slot);
    up->on_serve(up->arg, fl->number, &l->place, l->epoch);
}

static void carry_out(struct fleet_lane *fl, const struct lane_action *a)
{
    const struct fleet_listener *up = &fl->fleet->config.listener;
    struct fleet_worker *w = &fl->fleet->workers[a->worker];
    switch (a->kind) {
    case LANE_SEND_PLAN:
        send_plan(fl, w);
        break;
    case LANE_SEND_CONNECT:
        send_connect(fl, w);
        break;
    case LANE_LEFT:
    case LANE_DROP:
        lose(fl, w, a);
        break;
    case LANE_STRUCK:
        tell_loss(fl, w, a);
        break;
    case LANE_SUSPEND:
        up->on_suspend(up->arg, fl->number);
        break;
    case LANE_SERVE:
        serve(fl);
        break;
    case LANE_GIVE_UP:
        up->on_give_up(up->arg, fl->number, fl->lane.why.s);
        break;
    }
}

void orders_carry_out(struct fleet_lane *fl)
{
    struct lane_action a;
    while (lane_next(&fl->lane, &a))
        carry_out(fl, &a);
    if (fl->lane.state == LANE_NO_CAPACITY && fl->lane.since_us != fl->told_us) {
        fl->told_us = fl->lane.since_us;
        log_warn("%s: no placement of the model: %s", fl->name, fl->lane.why.s);
    }
}
