#include "worker/compute_priv.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "worker/budget.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MEASURE_MS = 300,
    SPARE_FRAMES = 2, // beside one per step on its way: a ping, and a frame in the making
};

static double mib(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

// -- the plan --

static err_t check_group(const struct msg_plan *p, const struct model *m, struct err_text *why)
{
    const uint32_t n = compute_members_of(p, p->stage);
    uint64_t sum = 0;
    if (n > WIRE_MEMBERS_MAX || p->member >= n)
        return err_say(why, ERR_CONFIG, "plan: member %u of %u, limit %d", p->member, n,
                       WIRE_MEMBERS_MAX);
    if (p->n_expert && p->n_expert != (uint32_t)m->shape.moe.n_expert)
        return err_say(why, ERR_CONFIG, "plan: %u experts of a model of %d", p->n_expert,
                       m->shape.moe.n_expert);
    if (n == 1) return OK;
    if (p->split != SPLIT_TENSOR && p->split != SPLIT_EXPERTS)
        return err_say(why, ERR_CONFIG, "plan: %u members share a stage by split %u", n, p->split);
    if (p->split == SPLIT_EXPERTS && !m->shape.moe.n_expert)
        return err_say(why, ERR_CONFIG, "plan: experts are divided, the model has none");
    if (p->split == SPLIT_TENSOR && n > (uint32_t)m->shape.n_head)
        return err_say(why, ERR_CONFIG, "plan: %u members for %d heads", n, m->shape.n_head);
    for (uint32_t i = 0; i < n; i++) {
        sum += p->part[i];
        if (p->part[i] < 1)
            return err_say(why, ERR_CONFIG, "plan: nothing of the stage for member %u", i);
    }
    if (sum == SHARE_TOTAL) return OK;
    return err_say(why, ERR_CONFIG, "plan: parts of %llu in all, must be %d",
                   (unsigned long long)sum, SHARE_TOTAL);
}

err_t compute_check_plan(const struct msg_plan *p, const struct model *m, struct err_text *why)
{
    const uint32_t n_layer = (uint32_t)m->shape.n_layer;
    const bool is_first = p->stage == 0, is_last = p->stage + 1 == p->n_stage;
    if (p->n_stage < 1 || p->n_stage > WIRE_STAGES_MAX || p->stage >= p->n_stage)
        return err_say(why, ERR_CONFIG, "plan: stage %u of %u", p->stage, p->n_stage);
    if (p->layer_from >= p->layer_to || p->layer_to > n_layer)
        return err_say(why, ERR_CONFIG, "plan: layers %u to %u of a model of %u", p->layer_from,
                       p->layer_to, n_layer);
    if (p->embed != is_first || p->head != is_last)
        return err_say(why, ERR_CONFIG,
                       "plan: stage %u of %u %s embedding and %s head; the first has the one, the "
                       "last the other",
                       p->stage, p->n_stage, p->embed ? "with" : "without",
                       p->head ? "with" : "without");
    if (is_first != (p->layer_from == 0) || is_last != (p->layer_to == n_layer))
        return err_say(why, ERR_CONFIG, "plan: stage %u of %u has layers %u to %u of %u", p->stage,
                       p->n_stage, p->layer_from, p->layer_to, n_layer);
    return check_group(p, m, why);
}

// Whether activations or ids come here or go from here.
static bool has_port(const struct compute *c)
{
    const struct msg_plan *p = &c->config.plan;
    if (!compute_is_dense(c)) return false;
    return p->n_stage > 1 || (p->split == SPLIT_TENSOR && compute_members_of(p, 0) > 1);
}

// The data port's frames: one per step on its way each way, and some.
static uint32_t n_frame_of(const struct plan_settings *s)
{
    return s->in_flight + SPARE_FRAMES;
}

static uint64_t frame_bytes_of(const struct plan_settings *s, const struct model *m)
{
    const uint64_t x = (uint64_t)s->max_tok * (uint64_t)m->shape.dim * sizeof(float);
    const uint64_t pairs = (uint64_t)s->max_rows * 2 * sizeof(int32_t);
    return x > pairs ? x : pairs;
}

// What was promised, unless the machine has less by now. What is held counts: it is given up first.
// *shared: the host's memory is the same.
static uint64_t memory_now(const struct compute *c, bool *shared)
{
    struct budget now;
    uint64_t most = c->config.mem_max_bytes;
    *shared = true;
    if (budget_read(c->config.device, c->config.device_memory, &now, NULL)) return most;
    *shared = now.is_host || now.is_unified;
    uint64_t free_bytes = now.free_bytes;
    if (now.most_bytes < most) most = now.most_bytes;
    if (c->held.stage) {
        const struct stage_sizes held = stage_sizes_get(c->held.stage);
        free_bytes += held.weight_bytes + held.kv_bytes + held.work_bytes;
        if (*shared) free_bytes += held.host_bytes;
    }
    return free_bytes < most ? free_bytes : most;
}

static err_t check_memory(const struct compute *c, const struct stage_config *stage,
                          struct stage_sizes *sizes, struct err_text *why)
{
    err_t e = stage_sizes(stage, sizes, why);
    if (e) return e;
    const struct plan_settings *s = &stage->settings;
    const uint64_t frame = frame_bytes_of(s, stage->model);
    if (has_port(c)) sizes->work_bytes += 2 * n_frame_of(s) * frame;
    if (stage->embed && compute_is_dense(c)) sizes->work_bytes += frame;
    sizes->work_bytes += compute_group_bytes(c, stage->model) + compute_near_bytes(c, stage);
    bool shared;
    const uint64_t most = memory_now(c, &shared);
    if (shared) sizes->work_bytes += sizes->host_bytes;
    const uint64_t sum = sizes->weight_bytes + sizes->kv_bytes + sizes->work_bytes;
    if (sum <= most) return OK;
    return err_say(
        why, ERR_MEMORY,
        "stage %u does not fit: weights %.1f + KV %.1f + work %.1f = %.1f MiB, available "
        "are %.1f MiB",
        c->config.plan.stage, mib(sizes->weight_bytes), mib(sizes->kv_bytes),
        mib(sizes->work_bytes), mib(sum), mib(most));
}

// -- loading --

static err_t open_model(struct compute *c, struct err_text *why)
{
    const uint8_t *want = c->config.plan.model_hash;
    if (c->held.model && !memcmp(c->held.model->hash, want, sizeof c->held.model->hash)) return OK;
    compute_held_free(&c->held);
    err_t e = model_open(c->model_path, &c->held.model, why);
    if (e) return e;
    if (!memcmp(c->held.model->hash, want, sizeof c->held.model->hash)) return OK;
    return err_say(why, ERR_MODEL, "model file has changed since it was found (%s)", c->model_path);
}

void compute_stage_config(const struct msg_plan *p, const struct model *m, struct stage_config *out)
{
    *out = (struct stage_config){
        .model = m,
        .layer_from = p->layer_from,
        .layer_to = p->layer_to,
        .embed = p->embed,
        .head = p->head,
        .settings = p->settings,
        .share = share_alone(),
    };
    const uint32_t n_member = compute_members_of(p, p->stage);
    if (n_member == 1) return;
    out->share = (struct share){.split = (enum share_split)p->split,
                                .n_member = (int32_t)n_member,
                                .member = (int32_t)p->member};
    memcpy(out->share.part, p->part, n_member * sizeof p->part[0]);
    if (!p->n_expert) return;
    _Static_assert(sizeof *out->share.experts.replicas == 3 * sizeof *p->replicas, "as it comes");
    out->share.experts = (struct share_experts){
        .layer_from = (int32_t)p->layer_from,
        .n_layer = (int32_t)(p->layer_to - p->layer_from),
        .n_expert = (int32_t)p->n_expert,
        .owner = p->owner,
        .replicas = (const struct share_replica *)p->replicas,
        .n_replica = p->n_replica,
    };
}

static err_t open_stage(struct compute *c, struct stage_sizes *sizes, struct err_text *why)
{
    struct stage_config stage;
    compute_stage_config(&c->config.plan, c->held.model, &stage);
    stage.n_threads = c->config.n_threads;
    stage.device = c->config.device;
    stage.profile = c->config.profile;
    stage.tick = compute_tick;
    stage.tick_arg = c;
    stage.load = &c->load;
    err_t e = check_memory(c, &stage, sizes, why);
    if (e) return e; // what is held stays
    c->step_bytes = sizes->weight_bytes;
    e = compute_group_open(c, why);
    if (e) return e;
    stage.group = c->group;
    struct stage *reuse = c->held.stage;
    c->held.stage = NULL;
    e = stage_open(&stage, reuse, &c->held.stage, why);
    if (e) return e;
    stage_reset(c->held.stage);
    atomic_store(&c->running, c->held.stage);
    return OK;
}

static err_t open_buffers(struct compute *c, struct err_text *why)
{
    const struct plan_settings *s = &c->config.plan.settings;
    const size_t x_bytes = frame_bytes_of(s, c->held.model);
    bool ok = true;
    if (compute_is_first(c) && compute_is_dense(c)) {
        c->x = aligned_alloc(64, (x_bytes + 63) / 64 * 64);
        if (c->x) memset(c->x, 0, x_bytes);
        c->chained = calloc(s->max_rows, sizeof *c->chained);
        c->draws = calloc(s->n_slot, sizeof *c->draws);
        ok = c->x && c->chained && c->draws;
    }
    if (compute_draws(c)) {
        c->pairs = calloc(s->max_rows, 2 * sizeof *c->pairs);
        ok = ok && c->pairs;
    }
    return ok ? OK : err_say(why, ERR_MEMORY, "no memory for a step's rows");
}

static err_t open_port(struct compute *c, struct err_text *why)
{
    const struct msg_plan *p = &c->config.plan;
    struct port_config port = {
        .road = p->road,
        .epoch = p->epoch,
        .n_frame = n_frame_of(&p->settings),
        .max_bytes = frame_bytes_of(&p->settings, c->held.model),
        .transports = c->config.transports,
        .devices = c->config.devices,
    };
    memcpy(port.key, p->key, sizeof port.key);
    return has_port(c) ? port_open(&port, &c->port, why) : OK;
}

err_t compute_prepare(struct compute *c, struct err_text *why)
{
    const struct msg_plan *p = &c->config.plan;
    const int64_t from = clock_now_us();
    struct stage_sizes sizes;
    err_t e = open_model(c, why);
    if (!e) e = compute_check_plan(p, c->held.model, why);
    if (!e) e = open_stage(c, &sizes, why);
    if (!e) e = open_buffers(c, why);
    if (!e) e = compute_usage_open(c, why);
    if (!e) e = open_port(c, why);
    if (e) return e;
    struct msg m = {.kind = MSG_PREPARED};
    m.prepared = (struct msg_prepared){
        .epoch = p->epoch,
        .settings = p->settings,
        .weight_bytes = sizes.weight_bytes,
        .kv_bytes = sizes.kv_bytes,
        .work_bytes = sizes.work_bytes,
        .load_ms = (uint32_t)((clock_now_us() - from) / 1000),
    };
    if (c->port) port_address(c->port, &m.prepared.address, &m.prepared.n_address);
    e = compute_near_open(c, why);
    if (e) return e;
    m.prepared.group_address = c->near_address;
    m.prepared.n_group_address = compute_near_address(c, c->near_address, sizeof c->near_address);
    log_info("epoch %llu: stage %u of %u, member %u of %u ready: layers %u to %u, weights %.1f "
             "MiB, KV %.1f MiB, work %.1f MiB, %u ms",
             (unsigned long long)p->epoch, p->stage, p->n_stage, p->member,
             compute_members_of(p, p->stage), p->layer_from, p->layer_to, mib(sizes.weight_bytes),
             mib(sizes.kv_bytes), mib(sizes.work_bytes), m.prepared.load_ms);
    return compute_post(c, &m, why);
}

// -- linking --

// The stage that ours sends to, and its first member's number at the port.
static uint32_t next_stage(const struct compute *c)
{
    return compute_is_last(c) ? 0 : c->config.plan.stage + 1;
}

static uint32_t number_of(const struct msg_plan *p, uint32_t stage)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < stage; i++)
        n += compute_members_of(p, i);
    return n;
}

// Members that have no port take part in no step from its start: nothing is sent to them.
static err_t connect_next(struct compute *c, const struct msg_connect *m, struct err_text *why)
{
    const struct msg_plan *p = &c->config.plan;
    const uint32_t stage = next_stage(c);
    bool has_lead = stage == p->stage;
    for (uint32_t i = 0; i < m->n_peer; i++) {
        const struct msg_peer *peer = &m->peers[i];
        if (peer->stage != stage || !peer->n_address) continue;
        if (peer->stage == p->stage && peer->member == p->member) continue;
        const uint32_t to = number_of(p, stage) + peer->member;
        err_t e = port_connect(c->port, to, peer->address, peer->n_address, why);
        if (e) return e;
        has_lead |= peer->member == 0;
        c->targets[c->n_target++] = to;
    }
    return has_lead ? OK
                    : err_say(why, ERR_LINK_PROTOCOL, "connect: no address of stage %u", stage);
}

// From device to device: with the stage before, then with the next one.
static err_t connect_stages(struct compute *c, const struct msg_connect *m, struct err_text *why)
{
    const struct compute_near *before = &c->near[NEAR_BEFORE], *after = &c->near[NEAR_AFTER];
    err_t e = compute_near_connect(c, NEAR_BEFORE, m, why);
    if (!e) e = compute_near_connect(c, NEAR_AFTER, m, why);
    if (e) return e;
    stage_stay(c->held.stage, before->inner, after->inner);
    if (stage_kernels(c->held.stage)->is_host) return OK;
    if (after->inner || after->why[0])
        log_info("epoch %llu: activations go to stage %u %s%s",
                 (unsigned long long)c->config.plan.epoch, c->config.plan.stage + 1,
                 after->inner ? "from device to device over " : "through the host: ",
                 after->inner ? compute_near_name(after) : after->why);
    return OK;
}

static err_t connect_peers(struct compute *c, const struct msg_connect *m, struct err_text *why)
{
    const struct msg_plan *p = &c->config.plan;
    const uint32_t n = number_of(p, p->n_stage);
    if (m->n_peer != n)
        return err_say(why, ERR_LINK_PROTOCOL, "connect: %u addresses for %u workers", m->n_peer,
                       n);
    for (uint32_t i = 0; i < n; i++)
        if (m->peers[i].stage >= p->n_stage ||
            m->peers[i].member >= compute_members_of(p, m->peers[i].stage))
            return err_say(why, ERR_LINK_PROTOCOL, "connect: there is no member %u of stage %u",
                           m->peers[i].member, m->peers[i].stage);
    err_t e = c->port && compute_is_lead(c) ? connect_next(c, m, why) : OK;
    if (!e) e = compute_group_connect(c, m, why);
    return e ? e : connect_stages(c, m, why);
}

// A peer that has not come as far answers late or never; that is for status only and no reason to
// fail. One that sends other bytes back is. While we measure, the port answers the pings of the
// stage before us, so no ring of waits can close.
static err_t measure(struct compute *c, struct msg_linked *out, struct err_text *why)
{
    if (!c->port || !compute_is_lead(c) || compute_is_last(c)) return OK;
    const struct msg_plan *p = &c->config.plan;
    const uint32_t to = number_of(p, next_stage(c));
    double latency_us = 0, bytes_per_s = 0;
    struct err_text said = {0};
    err_t e = port_measure(c->port, to, MEASURE_MS, &latency_us, &bytes_per_s, &said);
    if (e == ERR_LINK_PROTOCOL)
        return err_say(why, e, "the link to stage %u delivers wrong bytes: %s", p->stage + 1,
                       said.s);
    if (e) {
        log_warn("epoch %llu: cannot measure the link to stage %u: %s",
                 (unsigned long long)p->epoch, p->stage + 1, said.s);
        return OK;
    }
    out->next_latency_us = latency_us;
    out->next_bytes_per_s = bytes_per_s;
    return OK;
}

// To the stage after ours; within the stage, where nothing is sent there, or where it is another.
static const char *transport(struct compute *c)
{
    const char *group = c->group ? compute_group_transport(c) : "none";
    if (!c->n_target) return group;
    const struct compute_near *after = &c->near[NEAR_AFTER];
    const char *next =
        after->inner ? compute_near_name(after) : port_transport(c->port, c->targets[0]);
    if (!c->near_group) return next;
    snprintf(c->transport, sizeof c->transport, "%s; %s", next, group);
    return c->transport;
}

err_t compute_link(struct compute *c, struct err_text *why)
{
    struct compute_parcel *p;
    err_t e = compute_take(c, &p, why);
    if (e) return e;
    if (p->msg.kind != MSG_CONNECT)
        e = err_say(why, ERR_LINK_PROTOCOL, "%s before connect", wire_kind_name(p->msg.kind));
    else
        e = connect_peers(c, &p->msg.connect, why);
    compute_spend(c, p);
    if (e) return e;
    struct msg m = {.kind = MSG_LINKED,
                    .linked = {.epoch = c->config.plan.epoch, .transport = transport(c)}};
    e = measure(c, &m.linked, why);
    return e ? e : compute_post(c, &m, why);
}
