#include "worker/worker_priv.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "worker/mem.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

// A number that all workers of this process and no others have: the one piece of global state here,
// since that is what it is about.
static pthread_once_t process_once = PTHREAD_ONCE_INIT;
static uint64_t process_number;

static void number_process(void)
{
    if (getrandom(&process_number, sizeof process_number, 0) != (ssize_t)sizeof process_number)
        process_number = (uint64_t)getpid() << 32 ^ (uint64_t)clock_now_us();
}

// -- out --

// Ends the epoch that runs, and forgets the plan that waits for that.
static void stop_role(struct worker *w)
{
    compute_parcel_free(w->plan);
    w->plan = NULL;
    if (!w->compute) return;
    compute_stop(w->compute);
    w->is_stopping = true;
}

void worker_lose(struct worker *w, const char *reason)
{
    if (!w->link) return;
    log_warn("lost the coordinator: %s", reason);
    link_close(w->link);
    w->link = NULL;
    w->is_welcome = false;
    w->epoch = 0; // another coordinator may count from elsewhere
    stop_role(w);
}

static void send_bytes(struct worker *w, const struct buf *b)
{
    if (!w->link) return;
    err_t e = link_send(w->link, b->data, b->len);
    if (e == ERR_AGAIN) worker_lose(w, "it does not read");
    if (e && w->link) worker_lose(w, err_name(e));
}

void worker_send(struct worker *w, const struct msg *m)
{
    buf_clear(&w->out);
    err_t e = wire_pack(m, &w->out);
    if (e) {
        log_error("cannot pack %s: %s", wire_kind_name(m->kind), err_name(e));
        worker_lose(w, "nothing can be said to it");
        return;
    }
    send_bytes(w, &w->out);
}

static void send_failed(struct worker *w, uint64_t epoch, err_t code, const struct err_text *why)
{
    const struct msg m = {.kind = MSG_FAILED,
                          .failed = {.epoch = epoch, .code = code, .why = why->s}};
    worker_send(w, &m);
}

void worker_hello(struct worker *w)
{
    pthread_once(&process_once, number_process);
    const struct msg_device device = {
        .name = w->probe.cpu,
        .kind = "cpu",
        .isa = w->isa,
        .threads = (uint32_t)w->n_threads,
        .mem_bytes = w->probe.mem_total_bytes,
        .mem_free_bytes = w->mem_max_bytes, // for a plan: what is held now may be given up for it
        .read_bytes_per_s = w->peaks.read_bytes_per_s,
        .int8_ops_per_s = w->peaks.int8_ops_per_s,
        .f32_flops_per_s = w->peaks.f32_flops_per_s,
    };
    struct msg_model models[WIRE_MODELS_MAX];
    for (uint32_t i = 0; i < w->models.n; i++) {
        models[i].name = w->models.files[i].name;
        memcpy(models[i].hash, w->models.files[i].hash, sizeof models[i].hash);
    }
    struct msg m = {.kind = MSG_HELLO};
    m.hello = (struct msg_hello){
        .version = WIRE_VERSION,
        .build = TRIREME_VERSION,
        .name = w->config.name,
        .instance = w->instance,
        .host = w->probe.host,
        .pid = (uint32_t)getpid(),
        .devices = &device,
        .n_device = 1,
        .models = models,
        .n_model = w->models.n,
        .roads = ROAD_LOCAL | ROAD_UCX,
        .process = process_number,
    };
    if (w->held.stage) {
        const struct stage_config *c = stage_config_get(w->held.stage);
        memcpy(m.hello.held_hash, c->model->hash, sizeof m.hello.held_hash);
        m.hello.held_from = c->layer_from;
        m.hello.held_to = c->layer_to;
        m.hello.held_embed = c->embed;
        m.hello.held_head = c->head;
    }
    worker_send(w, &m);
}

void worker_beat(struct worker *w)
{
    struct msg m = {.kind = MSG_HEARTBEAT, .heartbeat = {.mem_used_bytes = mem_used_bytes()}};
    struct probe now = {0};
    if (!probe_limits("", &now, NULL)) m.heartbeat.mem_free_bytes = now.mem_available_bytes;
    if (w->compute) {
        const struct compute_stats s = compute_stats_get(w->compute);
        m.heartbeat.epoch = w->running.epoch;
        m.heartbeat.step_done = s.step_done;
        m.heartbeat.step_now = s.step_now;
        m.heartbeat.progress = s.progress;
        m.heartbeat.frame_bytes_out = s.frame_bytes_out;
        m.heartbeat.frame_bytes_in = s.frame_bytes_in;
        m.heartbeat.busy_us = s.busy_us;
        m.heartbeat.wait_us = s.wait_us;
        m.heartbeat.steps_queued = s.steps_queued;
    }
    worker_send(w, &m);
}

// -- plans --

static void start_plan(struct worker *w, const struct msg_plan *p)
{
    struct err_text why = {0};
    const struct models_file *file = models_find(&w->models, p->model_hash);
    if (!file) {
        err_say(&why, ERR_NOT_FOUND, "worker %s has no file of model %s with this hash",
                w->config.name, p->model);
        log_error("epoch %llu: %s", (unsigned long long)p->epoch, why.s);
        send_failed(w, p->epoch, ERR_MODEL, &why);
        return;
    }
    log_info("epoch %llu: stage %u of %u of %s, layers %u to %u", (unsigned long long)p->epoch,
             p->stage, p->n_stage, file->name, p->layer_from, p->layer_to);
    struct compute_config c = {
        .plan = *p,
        .model_path = file->path,
        .held = w->held,
        .n_threads = w->n_threads,
        .isa = w->config.isa,
        .transports = w->config.transports,
        .devices = w->config.devices,
        .mem_max_bytes = w->mem_max_bytes,
    };
    w->held = (struct compute_held){0};
    err_t e = compute_start(&c, &w->compute, &why);
    if (e) {
        log_error("epoch %llu: %s", (unsigned long long)p->epoch, why.s);
        send_failed(w, p->epoch, e, &why);
        return;
    }
    w->running = *p;
    w->running.model = NULL;
    w->is_stopping = false;
}

// True: the parcel is kept.
static bool on_plan(struct worker *w)
{
    const struct msg_plan *p = &w->parcel->msg.plan;
    if (p->epoch <= w->epoch) return false;
    w->epoch = p->epoch;
    if (!w->compute) {
        start_plan(w, p);
        return false;
    }
    stop_role(w);
    // Layers of another model are of no use to the new plan.
    if (memcmp(p->model_hash, w->running.model_hash, sizeof p->model_hash))
        compute_cancel(w->compute);
    w->plan = w->parcel;
    return true;
}

void worker_pump(struct worker *w)
{
    struct compute_letter *l;
    while (w->compute && (l = compute_letter(w->compute))) {
        const bool is_end = l->is_end;
        // What a stopped epoch still says is of no use to anybody.
        if (!is_end && !w->is_stopping) send_bytes(w, &l->bytes);
        compute_letter_done(w->compute, l);
        if (!is_end) continue;
        compute_join(w->compute, &w->held);
        w->compute = NULL;
        w->is_stopping = false;
        if (!w->plan) continue;
        struct compute_parcel *next = w->plan;
        w->plan = NULL;
        start_plan(w, &next->msg.plan);
        compute_parcel_free(next);
    }
}

// -- in --

static void refuse_step(struct worker *w, uint64_t epoch, const char *what)
{
    log_error("epoch %llu: %s", (unsigned long long)epoch, what);
    worker_lose(w, what);
}

// CONNECT and STEP: for the compute thread of their epoch; those of an older one are dropped. True:
// the parcel was handed over.
static bool on_work(struct worker *w, uint64_t epoch)
{
    if (epoch > w->epoch) {
        refuse_step(w, epoch, "work for an epoch without a plan");
        return false;
    }
    if (!w->compute || w->is_stopping || epoch != w->running.epoch) return false;
    if (compute_stats_get(w->compute).steps_queued >
        w->running.settings.in_flight + WORKER_SPARE_STEPS) {
        refuse_step(w, epoch, "more steps than the plan allows");
        return false;
    }
    w->parcel = compute_hand(w->compute, w->parcel);
    return true;
}

static void on_welcome(struct worker *w, const struct msg_welcome *m)
{
    w->is_welcome = true;
    w->backoff_us = 0;
    w->beat_us = clock_now_us();
    log_info("joined %s as worker %u", m->cluster, m->worker);
}

static void on_refuse(struct worker *w, const struct msg_refuse *m)
{
    if (m->is_final) {
        w->is_refused = true;
        w->refuse_code = m->code ? m->code : ERR_DENIED;
        err_say(&w->refuse_why, OK, "%s", m->why);
    }
    worker_lose(w, m->why);
}

// True: the parcel is somebody else's now, and w->parcel was replaced if there was memory.
static bool act(struct worker *w)
{
    const struct msg *m = &w->parcel->msg;
    switch (m->kind) {
    case MSG_WELCOME:
        on_welcome(w, &m->welcome);
        return false;
    case MSG_REFUSE:
        on_refuse(w, &m->refuse);
        return false;
    case MSG_PLAN:
        if (!on_plan(w)) return false;
        w->parcel = compute_parcel_new();
        return true;
    case MSG_CONNECT:
        return on_work(w, m->connect.epoch);
    case MSG_STEP:
        return on_work(w, m->step.epoch);
    case MSG_HEARTBEAT:
        return false;
    case MSG_DRAIN:
        log_info("the coordinator is closing down");
        stop_role(w);
        return false;
    default:
        log_error("a coordinator may not say %s", wire_kind_name(m->kind));
        worker_lose(w, "it broke the protocol");
        return false;
    }
}

bool worker_hear(struct worker *w)
{
    for (int i = 0; w->link && i < WORKER_HEAR_MAX; i++) {
        const void *data;
        size_t len;
        struct err_text why = {0};
        err_t e = link_recv(w->link, &data, &len, &why);
        if (e == ERR_AGAIN) return false;
        if (e) {
            worker_lose(w, e == ERR_END ? "it closed the link" : why.s);
            return false;
        }
        w->heard_us = clock_now_us();
        if (!w->parcel) w->parcel = compute_parcel_new();
        if (!w->parcel) {
            worker_lose(w, "no memory to read what it says");
            return false;
        }
        e = wire_unpack(data, len, &w->parcel->arena, &w->parcel->msg, &why);
        if (e) {
            log_error("the coordinator broke the protocol: %s", why.s);
            worker_lose(w, "it broke the protocol");
            return false;
        }
        if (!act(w)) arena_reset(&w->parcel->arena);
    }
    return w->link != NULL;
}
