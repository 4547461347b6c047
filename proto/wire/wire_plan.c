// wire_plan: the messages around a plan: what it says, that it is prepared, who is connected to
// whom.
#include "proto/base/dtype.h"
#include "proto/wire/wire_priv.h"

#include <string.h>

// -- in --

static err_t settings_in(struct wire_in *in, const char *what, const Trireme__Settings *s,
                         struct plan_settings *out)
{
    WIRE_NEED(in, s, "%s: no settings", what);
    const struct {
        const char *name;
        uint32_t v, min, max;
    } rules[] = {
        {"ctx", s->ctx, 1, INT32_MAX},
        {"page_tok", s->page_tok, 1, STEP_TOKENS_MAX},
        {"n_page", s->n_page, 1, STEP_PAGES_MAX},
        {"n_slot", s->n_slot, 1, STEP_SLOTS_MAX},
        {"max_tok", s->max_tok, 1, STEP_TOKENS_MAX},
        {"max_rows", s->max_rows, 1, STEP_ROWS_MAX},
        {"in_flight", s->in_flight, 1, WIRE_IN_FLIGHT_MAX},
        {"kv_dtype", s->kv_dtype, 1, DT_COUNT - 1},
        {"precision", s->precision, 0, 255},
        {"n_page_local", s->n_page_local, 0, STEP_PAGES_MAX},
        {"n_snapshot", s->n_snapshot, 0, STEP_SNAPSHOTS_MAX},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        WIRE_NEED(in, rules[i].v >= rules[i].min && rules[i].v <= rules[i].max,
                  "%s: %s is %u, must be %u to %u", what, rules[i].name, rules[i].v, rules[i].min,
                  rules[i].max);
    *out = (struct plan_settings){
        .ctx = s->ctx,
        .page_tok = s->page_tok,
        .n_page = s->n_page,
        .n_slot = s->n_slot,
        .max_tok = s->max_tok,
        .max_rows = s->max_rows,
        .in_flight = s->in_flight,
        .kv_dtype = s->kv_dtype,
        .precision = s->precision,
        .n_page_local = s->n_page_local,
        .n_snapshot = s->n_snapshot,
    };
    return OK;
}

// Members of every stage; without the list, each stage is one worker's alone.
static err_t members_in(struct wire_in *in, const Trireme__Plan *p, struct msg_plan *out)
{
    WIRE_NEED(in, p->n_n_member == 0 || p->n_n_member == p->n_stage,
              "plan: members of %zu stages, there are %u", p->n_n_member, p->n_stage);
    uint32_t sum = 0;
    for (uint32_t i = 0; i < p->n_stage; i++) {
        uint32_t n = p->n_n_member ? p->n_member[i] : 1;
        WIRE_NEED(in, n >= 1 && n <= WIRE_MEMBERS_MAX, "plan: stage %u of %u members, limit %d", i,
                  n, WIRE_MEMBERS_MAX);
        out->n_member[i] = n;
        sum += n;
    }
    WIRE_NEED(in, sum <= WIRE_LANE_MAX, "plan: stages of %u members in all, limit %d", sum,
              WIRE_LANE_MAX);
    uint32_t n = out->n_member[p->stage];
    WIRE_NEED(in, p->split <= UINT8_MAX, "plan: unknown split %u", p->split);
    WIRE_NEED(in, p->member < n, "plan: member %u of %u", p->member, n);
    WIRE_NEED(in, p->n_part == (n > 1 ? n : 0), "plan: %zu parts for %u members", p->n_part, n);
    for (size_t i = 0; i < p->n_part; i++) {
        WIRE_NEED(in, p->part[i] >= 1 && p->part[i] <= WIRE_PART_MAX,
                  "plan: part %u of member %zu, must be 1 to %d", p->part[i], i, WIRE_PART_MAX);
        out->part[i] = p->part[i];
    }
    return OK;
}

static err_t experts_in(struct wire_in *in, const Trireme__Plan *p, struct msg_plan *out)
{
    const uint32_t n_member = out->n_member[p->stage];
    const uint64_t n = (uint64_t)(p->layer_to - p->layer_from) * p->n_expert;
    WIRE_NEED(in, n <= WIRE_EXPERTS_MAX, "plan: %llu experts of a stage, limit %d",
              (unsigned long long)n, WIRE_EXPERTS_MAX);
    WIRE_NEED(in, p->owner.len == n, "plan: owners of %zu experts, there are %llu", p->owner.len,
              (unsigned long long)n);
    for (size_t i = 0; i < p->owner.len; i++)
        WIRE_NEED(in, p->owner.data[i] < n_member, "plan: an expert of member %u of %u",
                  p->owner.data[i], n_member);
    WIRE_NEED(in, p->n_replica % 3 == 0 && p->n_replica / 3 <= WIRE_REPLICAS_MAX,
              "plan: %zu numbers for replicas, limit %d of 3", p->n_replica, WIRE_REPLICAS_MAX);
    const uint32_t *before = NULL;
    for (size_t i = 0; i < p->n_replica; i += 3) {
        const uint32_t *r = p->replica + i, layer = r[0], expert = r[1], member = r[2];
        WIRE_NEED(in,
                  layer >= p->layer_from && layer < p->layer_to && expert < p->n_expert &&
                      member < n_member,
                  "plan: a copy of expert %u of layer %u at member %u", expert, layer, member);
        WIRE_NEED(
            in, p->owner.data[(size_t)(layer - p->layer_from) * p->n_expert + expert] != member,
            "plan: member %u owns expert %u of layer %u and has a copy too", member, expert, layer);
        WIRE_NEED(in,
                  !before || before[0] < layer ||
                      (before[0] == layer &&
                       (before[1] < expert || (before[1] == expert && before[2] < member))),
                  "plan: copies of experts are not in order at expert %u of layer %u", expert,
                  layer);
        before = r;
    }
    out->n_expert = p->n_expert;
    out->owner = n ? p->owner.data : NULL;
    out->replicas = p->n_replica ? p->replica : NULL;
    out->n_replica = (uint32_t)(p->n_replica / 3);
    return OK;
}

err_t wire_plan_in(struct wire_in *in, const Trireme__Envelope *env, struct msg *out)
{
    const Trireme__Plan *p = env->plan;
    WIRE_NEED(in, p->epoch, "plan: epochs start at 1");
    WIRE_NEED(in, wire_text_ok(p->model, WIRE_NAME_BYTES_MAX, WIRE_ONE_LINE),
              "plan: bad model name");
    WIRE_NEED(in, p->n_stage >= 1 && p->n_stage <= WIRE_STAGES_MAX && p->stage < p->n_stage,
              "plan: stage %u of %u", p->stage, p->n_stage);
    WIRE_NEED(in, p->layer_from <= p->layer_to, "plan: layers %u to %u", p->layer_from,
              p->layer_to);
    WIRE_NEED(in, p->road == ROAD_LOCAL || p->road == ROAD_UCX, "plan: unknown road %u", p->road);
    WIRE_NEED(in, p->key.len == 16, "plan: key of %zu bytes instead of 16", p->key.len);
    struct msg_plan *o = &out->plan;
    *o = (struct msg_plan){
        .epoch = p->epoch,
        .model = p->model,
        .stage = p->stage,
        .n_stage = p->n_stage,
        .layer_from = p->layer_from,
        .layer_to = p->layer_to,
        .embed = p->embed,
        .head = p->head,
        .road = p->road,
        .lane = p->lane,
        .split = p->split,
        .member = p->member,
    };
    memcpy(o->key, p->key.data, sizeof o->key);
    err_t e = wire_hash_in(in, "plan: plan hash", p->plan_hash, o->plan_hash);
    if (!e) e = wire_hash_in(in, "plan: model hash", p->model_hash, o->model_hash);
    if (!e) e = settings_in(in, "plan", p->settings, &o->settings);
    if (!e) e = members_in(in, p, o);
    if (!e) e = experts_in(in, p, o);
    return e;
}

static err_t addresses_in(struct wire_in *in, const char *what, ProtobufCBinaryData port,
                          ProtobufCBinaryData group)
{
    WIRE_NEED(in, port.len <= WIRE_ADDRESS_MAX && group.len <= WIRE_ADDRESS_MAX,
              "%s: addresses of %zu and %zu bytes, limit %d", what, port.len, group.len,
              WIRE_ADDRESS_MAX);
    return OK;
}

err_t wire_prepared_in(struct wire_in *in, const Trireme__Envelope *env, struct msg *out)
{
    const Trireme__Prepared *p = env->prepared;
    WIRE_NEED(in, p->epoch, "prepared: epochs start at 1");
    err_t e = addresses_in(in, "prepared", p->address, p->group_address);
    if (e) return e;
    out->prepared = (struct msg_prepared){
        .epoch = p->epoch,
        .weight_bytes = p->weight_bytes,
        .kv_bytes = p->kv_bytes,
        .work_bytes = p->work_bytes,
        .load_ms = p->load_ms,
        .address = p->address.data,
        .n_address = (uint32_t)p->address.len,
        .group_address = p->group_address.data,
        .n_group_address = (uint32_t)p->group_address.len,
    };
    return settings_in(in, "prepared", p->settings, &out->prepared.settings);
}

err_t wire_connect_in(struct wire_in *in, const Trireme__Envelope *env, struct msg *out)
{
    const Trireme__Connect *c = env->connect;
    WIRE_NEED(in, c->epoch, "connect: epochs start at 1");
    WIRE_NEED(in, c->n_peers <= WIRE_LANE_MAX, "connect: %zu peers, limit %d", c->n_peers,
              WIRE_LANE_MAX);
    struct msg_peer *to = arena_take_n(in->arena, c->n_peers, sizeof *to);
    if (!to) return err_say(in->why, ERR_MEMORY, "connect: no memory for its peers");
    uint16_t seen[WIRE_STAGES_MAX] = {0}; // a bit for each member
    _Static_assert(WIRE_MEMBERS_MAX <= 16, "one bit each");
    for (size_t i = 0; i < c->n_peers; i++) {
        const Trireme__Peer *p = c->peers[i];
        WIRE_NEED(in, p->stage < WIRE_STAGES_MAX && p->member < WIRE_MEMBERS_MAX,
                  "connect: stage %u, member %u is out of range", p->stage, p->member);
        WIRE_NEED(in, !(seen[p->stage] >> p->member & 1),
                  "connect: stage %u, member %u is named twice", p->stage, p->member);
        err_t e = addresses_in(in, "connect", p->address, p->group_address);
        if (e) return e;
        seen[p->stage] |= (uint16_t)(1u << p->member);
        to[i] = (struct msg_peer){
            .stage = p->stage,
            .member = p->member,
            .address = p->address.data,
            .n_address = (uint32_t)p->address.len,
            .group_address = p->group_address.data,
            .n_group_address = (uint32_t)p->group_address.len,
        };
    }
    out->connect = (struct msg_connect){c->epoch, to, (uint32_t)c->n_peers};
    return OK;
}

err_t wire_linked_in(struct wire_in *in, const Trireme__Envelope *env, struct msg *out)
{
    const Trireme__Linked *l = env->linked;
    WIRE_NEED(in, l->epoch, "linked: epochs start at 1");
    WIRE_NEED(in, wire_speed_ok(l->next_latency_us) && wire_speed_ok(l->next_bytes_per_s),
              "linked: a latency or speed that is negative or not finite");
    WIRE_NEED(in, wire_text_ok(l->transport, WIRE_LABEL_BYTES_MAX, WIRE_ONE_LINE),
              "linked: bad transport name");
    out->linked = (struct msg_linked){
        .epoch = l->epoch,
        .next_latency_us = l->next_latency_us,
        .next_bytes_per_s = l->next_bytes_per_s,
        .transport = l->transport,
    };
    return OK;
}

err_t wire_usage_in(struct wire_in *in, const Trireme__Envelope *env, struct msg *out)
{
    const Trireme__Usage *u = env->usage;
    WIRE_NEED(in, u->epoch, "usage: epochs start at 1");
    WIRE_NEED(in, u->n_count && u->n_count <= WIRE_EXPERTS_MAX, "usage: of %zu experts, limit %d",
              u->n_count, WIRE_EXPERTS_MAX);
    WIRE_NEED(in, u->n_expert && u->n_count % u->n_expert == 0,
              "usage: of %zu experts with %u in a layer", u->n_count, u->n_expert);
    const uint32_t n_layer = (uint32_t)u->n_count / u->n_expert;
    WIRE_NEED(in, u->layer_from <= UINT32_MAX - n_layer, "usage: layers from %u", u->layer_from);
    out->usage = (struct msg_usage){u->epoch, u->layer_from, n_layer, u->n_expert, u->count};
    return OK;
}

// -- out --

static Trireme__Settings *settings_out(struct arena *a, const struct plan_settings *s)
{
    Trireme__Settings *out = arena_take(a, sizeof *out);
    if (!out) return NULL;
    trireme__settings__init(out);
    out->ctx = s->ctx;
    out->page_tok = s->page_tok;
    out->n_page = s->n_page;
    out->n_slot = s->n_slot;
    out->max_tok = s->max_tok;
    out->max_rows = s->max_rows;
    out->in_flight = s->in_flight;
    out->kv_dtype = s->kv_dtype;
    out->precision = s->precision;
    out->n_page_local = s->n_page_local;
    out->n_snapshot = s->n_snapshot;
    return out;
}

// A plan that is out of bounds is refused by who reads it.
static uint32_t members_of(const struct msg_plan *p, uint32_t stage)
{
    return stage < WIRE_STAGES_MAX && p->n_member[stage] ? p->n_member[stage] : 1;
}

bool wire_plan_out(struct arena *a, const struct msg *m, Trireme__Envelope *env)
{
    const struct msg_plan *p = &m->plan;
    Trireme__Plan *out = env->plan;
    out->epoch = p->epoch;
    out->plan_hash = wire_bytes_out(p->plan_hash, sizeof p->plan_hash);
    out->model_hash = wire_bytes_out(p->model_hash, sizeof p->model_hash);
    out->model = wire_text_out(p->model);
    out->stage = p->stage;
    out->n_stage = p->n_stage;
    out->layer_from = p->layer_from;
    out->layer_to = p->layer_to;
    out->embed = p->embed;
    out->head = p->head;
    out->road = p->road;
    out->key = wire_bytes_out(p->key, sizeof p->key);
    out->lane = p->lane;
    out->split = p->split;
    out->member = p->member;
    out->n_expert = p->n_expert;
    const size_t n_layer = p->layer_to > p->layer_from ? p->layer_to - p->layer_from : 0;
    out->owner = wire_bytes_out(p->owner, n_layer * p->n_expert);
    out->replica = (uint32_t *)p->replicas;
    out->n_replica = 3 * (size_t)p->n_replica;
    for (uint32_t i = 0; i < p->n_stage; i++) // left out: each stage is one worker's alone
        if (members_of(p, i) > 1) out->n_n_member = p->n_stage;
    if (out->n_n_member) {
        out->n_member = arena_take_n(a, p->n_stage, sizeof *out->n_member);
        if (!out->n_member) return false;
        for (uint32_t i = 0; i < p->n_stage; i++)
            out->n_member[i] = members_of(p, i);
    }
    out->part = (uint32_t *)p->part;
    const uint32_t n = members_of(p, p->stage);
    if (n > 1) out->n_part = n < WIRE_MEMBERS_MAX ? n : WIRE_MEMBERS_MAX;
    out->settings = settings_out(a, &p->settings);
    return out->settings;
}

bool wire_prepared_out(struct arena *a, const struct msg *m, Trireme__Envelope *env)
{
    const struct msg_prepared *p = &m->prepared;
    Trireme__Prepared *out = env->prepared;
    out->epoch = p->epoch;
    out->weight_bytes = p->weight_bytes;
    out->kv_bytes = p->kv_bytes;
    out->work_bytes = p->work_bytes;
    out->load_ms = p->load_ms;
    out->address = wire_bytes_out(p->address, p->n_address);
    out->group_address = wire_bytes_out(p->group_address, p->n_group_address);
    out->settings = settings_out(a, &p->settings);
    return out->settings;
}

bool wire_connect_out(struct arena *a, const struct msg *m, Trireme__Envelope *env)
{
    const struct msg_connect *c = &m->connect;
    Trireme__Peer *peers = arena_take_n(a, c->n_peer, sizeof *peers);
    env->connect->peers = arena_take_n(a, c->n_peer, sizeof *env->connect->peers);
    if (!peers || !env->connect->peers) return false;
    env->connect->epoch = c->epoch;
    env->connect->n_peers = c->n_peer;
    for (uint32_t i = 0; i < c->n_peer; i++) {
        const struct msg_peer *p = &c->peers[i];
        trireme__peer__init(env->connect->peers[i] = &peers[i]);
        peers[i].stage = p->stage;
        peers[i].member = p->member;
        peers[i].address = wire_bytes_out(p->address, p->n_address);
        peers[i].group_address = wire_bytes_out(p->group_address, p->n_group_address);
    }
    return true;
}

bool wire_linked_out(struct arena *a, const struct msg *m, Trireme__Envelope *env)
{
    (void)a;
    env->linked->epoch = m->linked.epoch;
    env->linked->next_latency_us = m->linked.next_latency_us;
    env->linked->next_bytes_per_s = m->linked.next_bytes_per_s;
    env->linked->transport = wire_text_out(m->linked.transport);
    return true;
}

bool wire_usage_out(struct arena *a, const struct msg *m, Trireme__Envelope *env)
{
    (void)a;
    const struct msg_usage *u = &m->usage;
    env->usage->epoch = u->epoch;
    env->usage->layer_from = u->layer_from;
    env->usage->n_expert = u->n_expert;
    env->usage->count = (uint32_t *)u->count;
    env->usage->n_count = (size_t)u->n_layer * u->n_expert;
    return true;
}
