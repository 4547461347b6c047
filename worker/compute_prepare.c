#include "worker/compute_priv.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "topology/probe.h"

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

static err_t check_plan(const struct msg_plan *p, const struct model *m, struct err_text *why)
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
    return OK;
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
static uint64_t memory_now(const struct compute *c)
{
    struct probe now = {0};
    uint64_t most = c->config.mem_max_bytes;
    if (probe_limits("", &now, NULL)) return most;
    uint64_t free_bytes = now.mem_available_bytes;
    if (c->held.stage) {
        const struct stage_sizes held = stage_sizes_get(c->held.stage);
        free_bytes += held.weight_bytes + held.kv_bytes + held.work_bytes;
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
    if (c->config.plan.n_stage > 1) sizes->work_bytes += 2 * n_frame_of(s) * frame;
    if (stage->embed) sizes->work_bytes += frame;
    const uint64_t sum = sizes->weight_bytes + sizes->kv_bytes + sizes->work_bytes;
    const uint64_t most = memory_now(c);
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

static err_t open_stage(struct compute *c, struct stage_sizes *sizes, struct err_text *why)
{
    const struct msg_plan *p = &c->config.plan;
    const struct stage_config stage = {
        .model = c->held.model,
        .layer_from = p->layer_from,
        .layer_to = p->layer_to,
        .embed = p->embed,
        .head = p->head,
        .settings = p->settings,
        .n_threads = c->config.n_threads,
        .isa = c->config.isa,
        .load = &c->load,
    };
    err_t e = check_memory(c, &stage, sizes, why);
    if (e) return e; // what is held stays
    struct stage *reuse = c->held.stage;
    c->held.stage = NULL;
    e = stage_open(&stage, reuse, &c->held.stage, why);
    if (e) return e;
    stage_reset(c->held.stage);
    c->step_bytes = sizes->weight_bytes;
    atomic_store(&c->running, c->held.stage);
    return OK;
}

static err_t open_buffers(struct compute *c, struct err_text *why)
{
    const struct plan_settings *s = &c->config.plan.settings;
    const size_t x_bytes = frame_bytes_of(s, c->held.model);
    bool ok = true;
    if (compute_is_first(c)) {
        c->x = aligned_alloc(64, (x_bytes + 63) / 64 * 64);
        if (c->x) memset(c->x, 0, x_bytes);
        c->chained = calloc(s->max_rows, sizeof *c->chained);
        c->draws = calloc(s->n_slot, sizeof *c->draws);
        ok = c->x && c->chained && c->draws;
    }
    if (compute_is_last(c)) {
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
    return p->n_stage > 1 ? port_open(&port, &c->port, why) : OK;
}

err_t compute_prepare(struct compute *c, struct err_text *why)
{
    const struct msg_plan *p = &c->config.plan;
    const int64_t from = clock_now_us();
    struct stage_sizes sizes;
    err_t e = open_model(c, why);
    if (!e) e = check_plan(p, c->held.model, why);
    if (!e) e = open_stage(c, &sizes, why);
    if (!e) e = open_buffers(c, why);
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
    log_info("epoch %llu: stage %u of %u ready: layers %u to %u, weights %.1f MiB, KV %.1f MiB, "
             "work %.1f MiB, %u ms",
             (unsigned long long)p->epoch, p->stage, p->n_stage, p->layer_from, p->layer_to,
             mib(sizes.weight_bytes), mib(sizes.kv_bytes), mib(sizes.work_bytes),
             m.prepared.load_ms);
    return compute_post(c, &m, why);
}

// -- linking --

// A stage sends to the next one, and the last to the first.
static err_t connect_peers(struct compute *c, const struct msg_connect *m, struct err_text *why)
{
    const struct msg_plan *p = &c->config.plan;
    const uint32_t to = compute_is_last(c) ? 0 : p->stage + 1;
    if (m->n_peer != p->n_stage)
        return err_say(why, ERR_LINK_PROTOCOL, "connect: %u addresses for %u stages", m->n_peer,
                       p->n_stage);
    for (uint32_t i = 0; c->port && i < m->n_peer; i++)
        if (m->peers[i].stage == to)
            return port_connect(c->port, to, m->peers[i].address, m->peers[i].n_address, why);
    return c->port ? err_say(why, ERR_LINK_PROTOCOL, "connect: no address of stage %u", to) : OK;
}

// A peer that has not come as far answers late or never; that is for status only and no reason to
// fail. While we measure, the port answers the pings of the stage before us, so no ring of waits
// can close.
static void measure(struct compute *c, struct msg_linked *out)
{
    if (!c->port || compute_is_last(c)) return;
    double latency_us = 0, bytes_per_s = 0;
    err_t e =
        port_measure(c->port, c->config.plan.stage + 1, MEASURE_MS, &latency_us, &bytes_per_s);
    if (e) {
        log_warn("epoch %llu: cannot measure the link to stage %u: %s",
                 (unsigned long long)c->config.plan.epoch, c->config.plan.stage + 1, err_name(e));
        return;
    }
    out->next_latency_us = latency_us;
    out->next_bytes_per_s = bytes_per_s;
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
                    .linked = {.epoch = c->config.plan.epoch,
                               .transport = c->port ? port_transport(c->port) : "none"}};
    measure(c, &m.linked);
    return compute_post(c, &m, why);
}
