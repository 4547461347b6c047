#include "worker/compute_near.h"
#include "topology/near.h"
#include "worker/compute_priv.h"
#include "worker/worker.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SIDE_FRAME_BYTES = 1024, SIDE_NAP_US = 50 };

// -- who takes part --

// Members of a stage that take part in a step from its start.
static int32_t n_dense(const struct msg_plan *p, uint32_t stage)
{
    return p->split == SPLIT_EXPERTS ? 1 : (int32_t)compute_members_of(p, stage);
}

// The stage that gives activations away; of NEAR_GROUP: ours.
static uint32_t giver_of(const struct msg_plan *p, enum near_way way)
{
    return way == NEAR_BEFORE ? p->stage - 1 : p->stage;
}

static bool is_there(const struct compute *c, enum near_way way)
{
    if (way == NEAR_GROUP) return compute_members_of(&c->config.plan, c->config.plan.stage) > 1;
    if (way == NEAR_BEFORE) return !compute_is_first(c) && compute_is_dense(c);
    return !compute_is_last(c) && compute_is_lead(c);
}

static int32_t n_member_of(const struct msg_plan *p, enum near_way way)
{
    if (way == NEAR_GROUP) return (int32_t)compute_members_of(p, p->stage);
    return 1 + n_dense(p, giver_of(p, way) + 1);
}

// A worker's number on the way, or -1.
static int32_t number_of(const struct msg_plan *p, enum near_way way, uint32_t stage,
                         uint32_t member)
{
    const uint32_t giver = giver_of(p, way);
    if (way == NEAR_GROUP) return stage == giver ? (int32_t)member : -1;
    if (stage == giver) return member ? -1 : 0;
    return stage == giver + 1 && (int32_t)member < n_dense(p, stage) ? 1 + (int32_t)member : -1;
}

static uint32_t roads_wanted(const struct compute *c)
{
    static const uint32_t roads[] = {[WORKER_GROUP_AUTO] = KERNELS_ROAD_NCCL | KERNELS_ROAD_PEERS,
                                     [WORKER_GROUP_NCCL] = KERNELS_ROAD_NCCL,
                                     [WORKER_GROUP_PEERS] = KERNELS_ROAD_PEERS,
                                     [WORKER_GROUP_PORT] = 0};
    return roads[c->config.group];
}

// Experts' rows go to one member alone, which peers do not do.
static uint32_t roads_of(const struct compute *c, enum near_way way)
{
    const bool only_nccl = way == NEAR_GROUP && c->config.plan.split != SPLIT_TENSOR;
    return roads_wanted(c) & (only_nccl ? (uint32_t)KERNELS_ROAD_NCCL : ~0u);
}

// -- what it takes --

// Waits for the device call this.
static err_t rest_on_device(void *arg, int64_t since_us, struct err_text *why)
{
    (void)since_us;
    return compute_progress(arg, why);
}

static struct kernels_group_config config_of(const struct compute *c, enum near_way way,
                                             const struct model *m)
{
    const struct msg_plan *p = &c->config.plan;
    const uint64_t row = (uint64_t)m->shape.dim * sizeof(float);
    return (struct kernels_group_config){
        .n_member = n_member_of(p, way),
        .member = number_of(p, way, p->stage, p->member),
        .roads = roads_of(c, way),
        .row_bytes = way == NEAR_GROUP ? near_row_bytes(&m->shape) : row,
        .queue_bytes = way == NEAR_GROUP ? 0 : group_bytes_queue(p->settings.max_tok, row),
        .deadline_us = compute_patience_us(c, p->settings.max_tok),
        .rest = rest_on_device,
    };
}

static bool is_on_device(const struct compute *c)
{
    struct kernels_about about;
    return !kernels_about(c->config.device, &about, NULL) && !about.is_host;
}

uint64_t compute_near_bytes(const struct compute *c, const struct stage_config *stage)
{
    const struct model_shape *s = &stage->model->shape;
    const uint32_t roads = roads_wanted(c);
    const struct near_stage n = {.share = &stage->share,
                                 .is_first = compute_is_first(c),
                                 .is_last = compute_is_last(c),
                                 .wide_bytes = near_row_bytes(s),
                                 .row_bytes = (uint64_t)s->dim * sizeof(float),
                                 .max_tok = c->config.plan.settings.max_tok,
                                 .nccl = roads & KERNELS_ROAD_NCCL,
                                 .peers = roads & KERNELS_ROAD_PEERS};
    return is_on_device(c) ? near_bytes(&n) : 0;
}

// -- opening --

static err_t rest_aside(void *arg, struct port *port, int64_t since_us, struct err_text *why)
{
    (void)port; // the group moves its bytes
    if (since_us > COMPUTE_SPIN_US) usleep(SIDE_NAP_US);
    return compute_progress(arg, why);
}

// All of a lane may try their ways one after the other.
static err_t open_side(struct compute *c, const struct kernels_group_config *k, struct group **out,
                       struct err_text *why)
{
    const struct msg_plan *p = &c->config.plan;
    struct group_link_config g = {
        .port = {.road = p->road,
                 .epoch = p->epoch,
                 .transports = c->config.transports,
                 .devices = c->config.devices},
        .n_member = k->n_member,
        .member = k->member,
        .frame_bytes = SIDE_FRAME_BYTES,
        .deadline_us = (int64_t)p->n_stage * k->deadline_us,
        .rest = rest_aside,
        .rest_arg = c,
    };
    memcpy(g.port.key, p->key, sizeof g.port.key);
    return group_link_open(&g, out, why);
}

static err_t open_way(struct compute *c, enum near_way way, struct err_text *why)
{
    struct compute_near *n = &c->near[way];
    struct kernels_group_config g = config_of(c, way, c->held.model);
    g.rest_arg = c;
    if (!g.roads) return err_say(why, ERR_UNSUPPORTED, "not wanted");
    if (g.n_member > KERNELS_MEMBERS_MAX)
        return err_say(why, ERR_UNSUPPORTED, "%d devices are too many", g.n_member);
    err_t e = kernels_group_open(stage_kernels(c->held.stage), &g, &n->offered, why);
    if (e || way == NEAR_GROUP) return e;
    e = open_side(c, &g, &n->side, why);
    if (!e) return OK;
    n->offered->ops->close(n->offered);
    n->offered = NULL;
    return e;
}

err_t compute_near_open(struct compute *c, struct err_text *why)
{
    c->near[NEAR_GROUP].side = c->group;
    for (enum near_way way = NEAR_GROUP; way < NEAR_WAYS; way++) {
        struct err_text said = {0};
        if (!is_there(c, way)) continue;
        const err_t e = open_way(c, way, &said);
        if (e && e != ERR_UNSUPPORTED) return err_say(why, e, "%s", said.s);
        if (e) snprintf(c->near[way].why, sizeof c->near[way].why, "%.150s", said.s);
    }
    return OK;
}

// -- what the others are told --

static uint32_t write_record(const struct compute_near *n, uint8_t *out, uint32_t cap)
{
    const uint8_t *address = NULL;
    uint32_t lens[2] = {0, n->offered ? KERNELS_OFFER_BYTES : 0};
    if (n->side) group_link_address(n->side, &address, &lens[0]);
    if (sizeof lens + lens[0] + lens[1] > cap) return 0;
    memcpy(out, lens, sizeof lens);
    if (lens[0]) memcpy(out + sizeof lens, address, lens[0]);
    if (lens[1]) n->offered->ops->offer(n->offered, out + sizeof lens + lens[0]);
    return (uint32_t)sizeof lens + lens[0] + lens[1];
}

uint32_t compute_near_address(struct compute *c, uint8_t *out, uint32_t cap)
{
    const struct compute_near none = {0};
    uint32_t len = 0;
    bool any = false;
    for (int way = 0; way < NEAR_WAYS; way++) {
        const uint32_t rest = 2 * sizeof(uint32_t) * (uint32_t)(NEAR_WAYS - 1 - way);
        uint32_t n = write_record(&c->near[way], out + len, cap - len - rest);
        if (!n) n = write_record(&none, out + len, cap - len - rest);
        len += n;
        any |= c->near[way].side != NULL;
    }
    return any ? len : 0;
}

err_t compute_near_record(const struct msg_peer *peer, enum near_way way, struct near_record *out,
                          struct err_text *why)
{
    uint64_t at = 0;
    const uint64_t all = peer->n_group_address;
    struct near_record record = {0};
    if (!all) {
        *out = record;
        return OK;
    }
    for (int i = 0; i < NEAR_WAYS; i++) {
        uint32_t lens[2] = {0, 1};
        if (at + sizeof lens <= all) memcpy(lens, peer->group_address + at, sizeof lens);
        at += sizeof lens + (uint64_t)lens[0] + lens[1];
        if (at > all || (lens[1] && lens[1] != KERNELS_OFFER_BYTES) ||
            (i + 1 == NEAR_WAYS && at != all))
            return err_say(why, ERR_LINK_PROTOCOL, "connect: the address of member %u is damaged",
                           peer->member);
        const uint8_t *end = peer->group_address + at;
        if (i == (int)way)
            record = (struct near_record){.side = lens[0] ? end - lens[1] - lens[0] : NULL,
                                          .offer = lens[1] ? end - lens[1] : NULL,
                                          .n_side = lens[0]};
    }
    *out = record;
    return OK;
}

// -- connecting --

struct near_members {
    int32_t n; // that offer the way
    uint8_t offers[KERNELS_MEMBERS_MAX][KERNELS_OFFER_BYTES];
    struct near_record records[KERNELS_MEMBERS_MAX];
};

static err_t find_members(struct compute *c, enum near_way way, const struct msg_connect *m,
                          struct near_members *out, struct err_text *why)
{
    const struct msg_plan *p = &c->config.plan;
    struct compute_near *n = &c->near[way];
    *out = (struct near_members){0};
    if (n->offered)
        n->offered->ops->offer(n->offered, out->offers[number_of(p, way, p->stage, p->member)]);
    out->n = n->offered != NULL;
    for (uint32_t i = 0; i < m->n_peer; i++) {
        const struct msg_peer *peer = &m->peers[i];
        const int32_t who = number_of(p, way, peer->stage, peer->member);
        if (who < 0 || (peer->stage == p->stage && peer->member == p->member)) continue;
        if (who >= KERNELS_MEMBERS_MAX) return OK;
        const bool gives = peer->stage == giver_of(p, way);
        const enum near_way theirs = way == NEAR_GROUP ? way : gives ? NEAR_AFTER : NEAR_BEFORE;
        err_t e = compute_near_record(peer, theirs, &out->records[who], why);
        if (e) return e;
        const struct near_record *r = &out->records[who];
        if (!r->offer || !r->side) continue;
        memcpy(out->offers[who], r->offer, KERNELS_OFFER_BYTES);
        out->n++;
    }
    return OK;
}

static err_t connect_side(struct compute_near *n, const struct near_members *m,
                          struct err_text *why)
{
    err_t e = OK;
    for (int32_t i = 0; i < n->side->n_member && !e; i++)
        if (i != n->side->member)
            e = group_link_connect(n->side, i, m->records[i].side, m->records[i].n_side, why);
    return e;
}

err_t compute_near_connect(struct compute *c, enum near_way way, const struct msg_connect *m,
                           struct err_text *why)
{
    struct compute_near *n = &c->near[way];
    struct kernels_group *offered = n->offered;
    struct near_members members;
    struct err_text said = {0};
    err_t e = find_members(c, way, m, &members, why);
    if (e || !offered) return e;
    const bool has_all = members.n == n_member_of(&c->config.plan, way);
    if (has_all && way != NEAR_GROUP) e = connect_side(n, &members, why);
    if (e) return e;
    n->offered = NULL;
    if (!has_all) err_say(&said, ERR_UNSUPPORTED, "another member offers none");
    e = has_all
            ? offered->ops->connect(offered, (const uint8_t(*)[KERNELS_OFFER_BYTES])members.offers,
                                    group_agree, n->side, &said)
            : ERR_UNSUPPORTED;
    if (!e) {
        n->inner = offered;
        return OK;
    }
    offered->ops->close(offered);
    if (e != ERR_UNSUPPORTED)
        return err_say(why, e, "from device to device: %s", said.s[0] ? said.s : err_name(e));
    snprintf(n->why, sizeof n->why, "%.150s", said.s);
    return OK;
}

const char *compute_near_name(const struct compute_near *n)
{
    const uint32_t roads = n->inner->ops->roads(n->inner);
    if (roads == KERNELS_ROAD_NCCL) return "nccl";
    return roads == KERNELS_ROAD_PEERS ? "peers" : "nccl, peers";
}

// -- later --

uint64_t compute_near_wait_us(struct compute *c)
{
    uint64_t ns = c->near_ns;
    for (int way = NEAR_BEFORE; way < NEAR_WAYS; way++)
        if (c->near[way].inner) ns = c->near[way].inner->ops->queue_ns(c->near[way].inner);
    const uint64_t more = ns > c->near_ns ? ns - c->near_ns : 0;
    c->near_ns += more;
    return more / 1000;
}

err_t compute_near_progress(struct compute *c, struct err_text *why)
{
    err_t e = OK;
    for (int way = 0; way < NEAR_WAYS && !e; way++)
        if (c->near[way].inner) e = c->near[way].inner->ops->progress(c->near[way].inner, why);
    return e;
}

void compute_near_end(struct compute *c)
{
    for (int way = 0; way < NEAR_WAYS; way++) {
        struct compute_near *n = &c->near[way];
        if (n->offered) n->offered->ops->end(n->offered);
        if (n->inner) n->inner->ops->end(n->inner);
    }
}

void compute_near_close(struct compute *c, enum near_way way)
{
    struct compute_near *n = &c->near[way];
    if (n->offered) n->offered->ops->close(n->offered);
    if (n->inner) n->inner->ops->close(n->inner);
    if (way != NEAR_GROUP) group_close(n->side);
    *n = (struct compute_near){0};
}
