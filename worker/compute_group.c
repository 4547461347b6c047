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

// The widest row that members hand each other.
static uint64_t row_bytes_of(const struct model *m)
{
    const struct share alone = share_alone();
    const struct model_layer attn = {.mixer = MIXER_ATTN};
    const enum slot slots[] = {SLOT_ATTN_Q, SLOT_FFN_DOWN, SLOT_FFN_GATE, SLOT_SHARED_GATE,
                               SLOT_HEAD};
    int64_t most = m->shape.dim;
    for (size_t i = 0; i < sizeof slots / sizeof *slots; i++) {
        const int64_t cols = share_of(&alone, 0, &m->shape, &attn, slots[i]).to;
        most = cols > most ? cols : most;
    }
    return (uint64_t)most * sizeof(float);
}

static bool is_on_device(const struct compute *c)
{
    struct kernels_about about;
    return !kernels_about(c->config.device, &about, NULL) && !about.is_host;
}

// Experts' rows go to one member alone, which peers do not do.
static uint32_t roads_of(const struct compute *c)
{
    static const uint32_t roads[] = {[WORKER_GROUP_AUTO] = KERNELS_ROAD_NCCL | KERNELS_ROAD_PEERS,
                                     [WORKER_GROUP_NCCL] = KERNELS_ROAD_NCCL,
                                     [WORKER_GROUP_PEERS] = KERNELS_ROAD_PEERS,
                                     [WORKER_GROUP_PORT] = 0};
    const bool is_tensor = c->config.plan.split == SPLIT_TENSOR;
    return roads[c->config.group] & (is_tensor ? ~0u : (uint32_t)KERNELS_ROAD_NCCL);
}

uint64_t compute_group_bytes(const struct compute *c, const struct model *m)
{
    const struct msg_plan *p = &c->config.plan;
    if (is_alone(p)) return 0;
    const uint64_t near = roads_of(c) && is_on_device(c) ? kernels_group_bytes(row_bytes_of(m)) : 0;
    return group_link_bytes((int32_t)compute_members_of(p, p->stage), frame_bytes_of(m)) + near;
}

static err_t rest(void *arg, struct port *port, int64_t since_us, struct err_text *why)
{
    struct compute *c = arg;
    (void)port; // compute_nap knows it
    atomic_fetch_add(&c->loops, 1);
    if (atomic_load(&c->stop)) return err_say(why, ERR_CANCELLED, "asked to stop");
    err_t e = c->port ? port_progress(c->port, why) : OK;
    if (!e && c->near.inner) e = c->near.inner->ops->progress(c->near.inner, why);
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

// -- from device to device --
//
// A group's address is a count, as many bytes of the port's, and then what this member's device
// offers, or nothing. All members see all addresses, so they know who can, and try it together; the
// port tells whether it worked everywhere.

// Waits for the device call this.
static err_t rest_on_device(void *arg, int64_t since_us, struct err_text *why)
{
    (void)since_us;
    return compute_progress(arg, why);
}

static err_t open_near(struct compute *c, struct err_text *why)
{
    const struct msg_plan *p = &c->config.plan;
    const struct kernels_group_config g = {
        .n_member = (int32_t)compute_members_of(p, p->stage),
        .member = (int32_t)p->member,
        .roads = roads_of(c),
        .row_bytes = row_bytes_of(c->held.model),
        .deadline_us = compute_patience_us(c, p->settings.max_tok),
        .rest = rest_on_device,
        .rest_arg = c,
    };
    if (!g.roads) return err_say(why, ERR_UNSUPPORTED, "not wanted");
    return kernels_group_open(stage_kernels(c->held.stage), &g, &c->near.offered, why);
}

err_t compute_group_offer(struct compute *c, const uint8_t **data, uint32_t *len,
                          struct err_text *why)
{
    const uint8_t *address;
    uint32_t n;
    struct err_text said = {0};
    if (!c->group) return OK;
    const err_t e = open_near(c, &said);
    if (e && e != ERR_UNSUPPORTED) return err_say(why, e, "%s", said.s);
    if (e) snprintf(c->near.why, sizeof c->near.why, "%.150s", said.s);
    group_link_address(c->group, &address, &n);
    uint8_t *out = c->near.address;
    if (sizeof n + n + KERNELS_OFFER_BYTES > sizeof c->near.address)
        return err_say(why, ERR_TOO_LARGE, "a group's address of %u bytes", n);
    memcpy(out, &n, sizeof n);
    memcpy(out + sizeof n, address, n);
    *data = out;
    *len = (uint32_t)sizeof n + n;
    if (!c->near.offered) return OK;
    c->near.offered->ops->offer(c->near.offered, out + *len);
    *len += KERNELS_OFFER_BYTES;
    return OK;
}

// Takes an address apart. offer: NULL where there is none.
static err_t part_address(const struct msg_peer *peer, uint32_t *len, const uint8_t **offer,
                          struct err_text *why)
{
    const uint32_t all = peer->n_group_address;
    uint32_t n = 0;
    if (all >= sizeof n) memcpy(&n, peer->group_address, sizeof n);
    const uint64_t used = sizeof n + (uint64_t)n;
    if (all < sizeof n || (all != used && all != used + KERNELS_OFFER_BYTES))
        return err_say(why, ERR_LINK_PROTOCOL, "connect: the address of member %u is damaged",
                       peer->member);
    *len = n;
    *offer = all == used ? NULL : peer->group_address + used;
    return OK;
}

// Whether all members say yes, over the port.
static err_t agree(void *arg, bool mine, bool *all)
{
    struct compute *c = arg;
    struct group *g = c->group;
    float y[GROUP_MEMBERS_MAX] = {0};
    int64_t from[GROUP_MEMBERS_MAX + 1];
    for (int32_t i = 0; i <= g->n_member; i++)
        from[i] = i;
    y[g->member] = mine;
    g->ops->gather(g, y, 1, g->n_member, from, -1);
    *all = true;
    for (int32_t i = 0; i < g->n_member; i++)
        *all &= y[i] == 1;
    return g->ops->status(g, NULL);
}

static const char *near_name(uint32_t roads)
{
    if (roads == KERNELS_ROAD_NCCL) return "nccl";
    return roads == KERNELS_ROAD_PEERS ? "peers" : "nccl, peers";
}

// offers: of all members, or has_all is false.
static err_t connect_near(struct compute *c, const uint8_t (*offers)[KERNELS_OFFER_BYTES],
                          bool has_all, struct err_text *why)
{
    struct kernels_group *inner = c->near.offered;
    struct err_text said = {0};
    err_t e = OK;
    if (inner && !has_all) snprintf(c->near.why, sizeof c->near.why, "another member offers none");
    if (!inner) return OK;
    c->near.offered = NULL;
    e = has_all ? inner->ops->connect(inner, offers, agree, c, &said) : ERR_UNSUPPORTED;
    if (!e) {
        e = group_device_open(inner, c->group, &c->near.group, why);
        if (e) return e;
        c->near.inner = inner;
        stage_join(c->held.stage, c->near.group);
        return OK;
    }
    inner->ops->close(inner);
    if (e != ERR_UNSUPPORTED) return err_say(why, e, "group: %s", said.s[0] ? said.s : err_name(e));
    if (has_all) snprintf(c->near.why, sizeof c->near.why, "%.150s", said.s);
    return OK;
}

struct group *compute_group_now(const struct compute *c)
{
    return c->near.group ? c->near.group : c->group;
}

const char *compute_group_transport(struct compute *c)
{
    if (c->near.inner) return near_name(c->near.inner->ops->roads(c->near.inner));
    return port_transport(group_link_port(c->group), compute_is_lead(c));
}

// -- connecting --

err_t compute_group_connect(struct compute *c, const struct msg_connect *m, struct err_text *why)
{
    const struct msg_plan *p = &c->config.plan;
    uint8_t offers[GROUP_MEMBERS_MAX][KERNELS_OFFER_BYTES] = {{0}};
    bool has_all = c->near.offered;
    uint32_t n = 1; // ourselves
    if (c->near.offered) c->near.offered->ops->offer(c->near.offered, offers[p->member]);
    for (uint32_t i = 0; c->group && i < m->n_peer; i++) {
        const struct msg_peer *peer = &m->peers[i];
        if (peer->stage != p->stage || peer->member == p->member) continue;
        const uint8_t *offer = NULL;
        uint32_t len = 0;
        err_t e = part_address(peer, &len, &offer, why);
        if (!e)
            e = group_link_connect(c->group, (int32_t)peer->member,
                                   peer->group_address + sizeof len, len, why);
        if (e) return e;
        if (offer) memcpy(offers[peer->member], offer, KERNELS_OFFER_BYTES);
        has_all &= offer != NULL;
        n++;
    }
    if (!c->group) return OK;
    if (n != compute_members_of(p, p->stage))
        return err_say(why, ERR_LINK_PROTOCOL, "connect: %u of %u members of stage %u", n,
                       compute_members_of(p, p->stage), p->stage);
    err_t e = connect_near(c, (const uint8_t(*)[KERNELS_OFFER_BYTES])offers, has_all, why);
    if (e || stage_kernels(c->held.stage)->is_host) return e;
    log_info("epoch %llu: %u members hand each other activations over %s%s%s",
             (unsigned long long)p->epoch, n, compute_group_transport(c),
             c->near.group ? "" : ", through the host: ", c->near.group ? "" : c->near.why);
    return OK;
}

struct port *compute_group_port(struct compute *c)
{
    return c->group ? group_link_port(c->group) : NULL;
}

void compute_group_close(struct compute *c)
{
    if (c->near.offered) c->near.offered->ops->close(c->near.offered);
    group_close(c->near.group);
    c->near.offered = c->near.inner = NULL;
    c->near.group = NULL;
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
