#include "worker/compute_priv.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "worker/group_device.h"
#include "worker/worker.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Within a layer the others are mostly as far as we are, and a sleep would cost more than the wait:
// of an experts group's owner there is one in each layer, for as long as the lead's attention
// takes. After COMPUTE_SPIN_US whoever else wants the core gets it first: there may be more threads
// than cores.
enum { EXCHANGE_SPIN_US = 5000, USAGE_US = 2000000 };

static bool is_alone(const struct msg_plan *p)
{
    return compute_members_of(p, p->stage) == 1;
}

static uint64_t frame_bytes_of(const struct model *m)
{
    // A row of activations, and what is said about it, is handed over in one piece.
    const uint64_t row = ((uint64_t)m->shape.dim + (uint64_t)m->shape.moe.n_used) * sizeof(float);
    return row > GROUP_LINK_FRAME_BYTES ? row : GROUP_LINK_FRAME_BYTES;
}

uint64_t compute_group_bytes(const struct compute *c, const struct model *m)
{
    const struct msg_plan *p = &c->config.plan;
    if (is_alone(p)) return 0;
    return group_link_bytes((int32_t)compute_members_of(p, p->stage), frame_bytes_of(m));
}

static err_t rest(void *arg, struct port *port, int64_t since_us, struct err_text *why)
{
    struct compute *c = arg;
    (void)port; // compute_nap knows it
    atomic_fetch_add(&c->loops, 1);
    if (atomic_load(&c->stop)) return err_say(why, ERR_CANCELLED, "asked to stop");
    err_t e = c->port ? port_progress(c->port, why) : OK;
    if (!e) e = compute_near_progress(c, why);
    if (e || since_us < COMPUTE_SPIN_US) return e;
    if (since_us < EXCHANGE_SPIN_US)
        sched_yield();
    else
        compute_nap(c, 0, clock_now_us());
    return OK;
}

err_t compute_group_open(struct compute *c, struct err_text *why)
{
    const struct msg_plan *p = &c->config.plan;
    if (is_alone(p)) return OK;
    struct group_link_config g = {
        .port = {.road = p->road,
                 .epoch = p->epoch,
                 .transports = c->config.transports,
                 .devices = c->config.devices},
        .n_member = (int32_t)compute_members_of(p, p->stage),
        .member = (int32_t)p->member,
        .frame_bytes = frame_bytes_of(c->held.model),
        .deadline_us = compute_patience_us(c, p->settings.max_tok),
        .rest = rest,
        .rest_arg = c,
    };
    memcpy(g.port.key, p->key, sizeof g.port.key);
    return group_link_open(&g, &c->group, why);
}

struct group *compute_group_now(const struct compute *c)
{
    return c->near_group ? c->near_group : c->group;
}

const char *compute_group_transport(struct compute *c)
{
    if (c->near_group) return compute_near_name(&c->near[NEAR_GROUP]);
    return port_transport(group_link_port(c->group), compute_is_lead(c));
}

// -- connecting --

static err_t connect_all(struct compute *c, const struct msg_connect *m, struct err_text *why)
{
    const struct msg_plan *p = &c->config.plan;
    uint32_t n = 1; // ourselves
    for (uint32_t i = 0; i < m->n_peer; i++) {
        const struct msg_peer *peer = &m->peers[i];
        struct near_record r;
        if (peer->stage != p->stage || peer->member == p->member) continue;
        err_t e = compute_near_record(peer, NEAR_GROUP, &r, why);
        if (!e && !r.side)
            e = err_say(why, ERR_LINK_PROTOCOL, "connect: the address of member %u is damaged",
                        peer->member);
        if (!e) e = group_link_connect(c->group, (int32_t)peer->member, r.side, r.n_side, why);
        if (e) return e;
        n++;
    }
    if (n == compute_members_of(p, p->stage)) return OK;
    return err_say(why, ERR_LINK_PROTOCOL, "connect: %u of %u members of stage %u", n,
                   compute_members_of(p, p->stage), p->stage);
}

static err_t connect_near(struct compute *c, const struct msg_connect *m, struct err_text *why)
{
    struct compute_near *near = &c->near[NEAR_GROUP];
    err_t e = compute_near_connect(c, NEAR_GROUP, m, why);
    if (e || !near->inner) return e;
    e = group_device_open(near->inner, c->group, &c->near_group, why);
    if (e)
        near->inner = NULL; // it is closed
    else
        stage_join(c->held.stage, c->near_group);
    return e;
}

err_t compute_group_connect(struct compute *c, const struct msg_connect *m, struct err_text *why)
{
    const struct msg_plan *p = &c->config.plan;
    if (!c->group) return OK;
    err_t e = connect_all(c, m, why);
    if (!e) e = connect_near(c, m, why);
    if (e || stage_kernels(c->held.stage)->is_host) return e;
    log_info(
        "epoch %llu: %u members hand each other activations over %s%s%s",
        (unsigned long long)p->epoch, compute_members_of(p, p->stage), compute_group_transport(c),
        c->near_group ? "" : ", through the host: ", c->near_group ? "" : c->near[NEAR_GROUP].why);
    return OK;
}

struct port *compute_group_port(struct compute *c)
{
    return c->group ? group_link_port(c->group) : NULL;
}

void compute_group_close(struct compute *c)
{
    compute_near_end(c);
    if (c->near_group) c->near[NEAR_GROUP].inner = NULL; // closed with its group
    group_close(c->near_group);
    c->near_group = NULL;
    for (enum near_way way = NEAR_GROUP; way < NEAR_WAYS; way++)
        compute_near_close(c, way);
    group_close(c->group);
    c->group = NULL;
}

// -- use of experts --

static size_t n_expert_of(const struct compute *c)
{
    const struct msg_plan *p = &c->config.plan;
    const size_t n = (size_t)c->held.model->shape.moe.n_expert;
    return compute_is_lead(c) ? (p->layer_to - p->layer_from) * n : 0;
}

err_t compute_usage_open(struct compute *c, struct err_text *why)
{
    const size_t n = n_expert_of(c);
    if (!n || n > WIRE_EXPERTS_MAX) return OK; // more than a message holds: not told
    c->usage = calloc(n, sizeof *c->usage);
    return c->usage ? OK : err_say(why, ERR_MEMORY, "no memory for counting experts");
}

err_t compute_usage_post(struct compute *c, struct err_text *why)
{
    const struct msg_plan *p = &c->config.plan;
    const int64_t now = clock_now_us();
    if (!c->usage || now < c->usage_us + USAGE_US) return OK;
    c->usage_us = now;
    if (!stage_usage(c->held.stage, c->usage)) return OK;
    const struct msg m = {.kind = MSG_USAGE,
                          .usage = {.epoch = p->epoch,
                                    .layer_from = p->layer_from,
                                    .n_layer = p->layer_to - p->layer_from,
                                    .n_expert = (uint32_t)c->held.model->shape.moe.n_expert,
                                    .count = c->usage}};
    return compute_post(c, &m, why);
}
