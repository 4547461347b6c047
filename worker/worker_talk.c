#include "worker/worker_priv.h"
#include "worker/store_keep.h"
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

void worker_lose(struct worker *w, const char *reason)
{
    if (!w->link) return;
    log_warn("lost the coordinator: %s", reason);
    link_close(w->link);
    w->link = NULL;
    w->is_welcome = false;
    w->epoch = 0; // another coordinator may count from elsewhere
    if (w->surveyor) surveyor_shut(w->surveyor);
    worker_stop_role(w);
}

void worker_send_bytes(struct worker *w, const struct buf *b)
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
    worker_send_bytes(w, &w->out);
}

void worker_hello(struct worker *w)
{
    pthread_once(&process_once, number_process);
    const struct msg_device device = {
        .name = w->budget.is_host ? w->probe.cpu : w->budget.name,
        .kind = w->budget.is_host ? "cpu" : "cuda",
        .isa = w->isa,
        .threads = (uint32_t)w->n_threads,
        .mem_bytes = w->budget.total_bytes,
        .unified = w->budget.is_unified,
        .mem_free_bytes = w->mem_max_bytes, // for a plan: what is held now may be given up for it
        .read_bytes_per_s = w->peaks.read_bytes_per_s,
        .int8_ops_per_s = w->peaks.int8_ops_per_s,
        .f32_flops_per_s = w->peaks.f32_flops_per_s,
        .rates = w->rates,
        .n_core = (uint32_t)w->probe.n_core,
        .n_numa = (uint32_t)w->probe.n_numa,
        .l2_bytes = w->probe.l2_bytes,
        .l3_bytes = w->probe.l3_bytes,
        .host_read_bytes_per_s = w->host_read_bytes_per_s,
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
        .disk_bytes_per_s = w->disk_bytes_per_s,
        .own_lane = w->config.own_lane,
    };
    if (w->store_fd >= 0)
        m.hello.store_bytes = store_keep_room(w->config.store_dir, w->config.store_reserve_bytes,
                                              w->config.store_limit_bytes);
    const struct stage_config *c = w->held.stage ? stage_config_get(w->held.stage) : NULL;
    if (c && c->share.n_member <= 1) { // a member's part is no whole layer
        memcpy(m.hello.held_hash, c->model->hash, sizeof m.hello.held_hash);
        m.hello.held_from = c->layer_from;
        m.hello.held_to = c->layer_to;
        m.hello.held_embed = c->embed;
        m.hello.held_head = c->head;
    }
    worker_send(w, &m);
}

static void tell_compute(const struct worker *w, struct msg_heartbeat *h)
{
    const struct compute_stats s = compute_stats_get(w->compute);
    h->epoch = w->running.epoch;
    h->step_done = s.step_done;
    h->step_now = s.step_now;
    h->progress = s.progress;
    h->frame_bytes_out = s.frame_bytes_out;
    h->frame_bytes_in = s.frame_bytes_in;
    h->busy_us = s.busy_us;
    h->wait_us = s.wait_us;
    h->exchange_us = s.exchange_us;
    h->steps_queued = s.steps_queued;
}

static void tell_fetch(const struct worker *w, struct msg_heartbeat *h)
{
    const struct store_fetch_stats s = store_fetch_stats_get(w->fetch);
    h->epoch = w->fetch_plan->msg.plan.epoch;
    h->progress = s.progress;
    h->fetched_bytes = s.done_bytes;
    h->fetch_bytes = s.all_bytes;
}

void worker_beat(struct worker *w)
{
    struct msg m = {.kind = MSG_HEARTBEAT, .heartbeat = {.mem_used_bytes = mem_used_bytes()}};
    struct msg_heartbeat *h = &m.heartbeat;
    struct budget now;
    if (!budget_read(w->config.device, 0, &now, NULL)) h->mem_free_bytes = now.free_bytes;
    if (w->compute) tell_compute(w, h);
    if (w->fetch) tell_fetch(w, h);
    h->sent_us = (uint64_t)clock_now_us();
    h->echo_us = w->echo_us;
    if (w->echo_us) h->echo_age_us = h->sent_us - (uint64_t)w->echo_at_us;
    worker_send(w, &m);
}

void worker_renew(struct worker *w)
{
    const struct worker_config *c = &w->config;
    const char *request = c->renewal ? c->renewal(c->dial_arg) : NULL;
    const struct msg m = {.kind = MSG_RENEW, .renew = {.request_pem = request}};
    if (request) worker_send(w, &m);
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

// True: the parcel is kept, for what it offers.
static bool on_welcome(struct worker *w, const struct msg_welcome *m)
{
    w->is_welcome = true;
    w->backoff_us = 0;
    w->beat_us = clock_now_us();
    log_info("joined %s as worker %u", m->cluster, m->worker);
    compute_parcel_free(w->welcome);
    w->welcome = m->n_file ? w->parcel : NULL;
    return w->welcome != NULL;
}

static void on_heartbeat(struct worker *w, const struct msg_heartbeat *m)
{
    w->echo_us = m->sent_us;
    w->echo_at_us = clock_now_us();
}

// True: the parcel was handed over. Chunks that come when nobody waits any more are dropped.
static bool on_chunk(struct worker *w)
{
    if (!w->fetch) return false;
    w->parcel = store_fetch_hand(w->fetch, w->parcel);
    return true;
}

// Without another certificate this one goes on, and the next request comes by itself.
static void on_renewed(struct worker *w, const struct msg_renewed *m)
{
    const struct worker_config *c = &w->config;
    struct err_text why = {0};
    err_t e = m->code;
    if (e)
        err_say(&why, e, "%s", m->why);
    else if (!c->renewed)
        e = err_say(&why, ERR_LINK_PROTOCOL, "none was asked for");
    else
        e = c->renewed(c->dial_arg, m->certificate_pem, &why);
    if (e) log_warn("the certificate was not renewed: %s", why.s);
}

static void on_drain(struct worker *w)
{
    log_info("the coordinator sends this worker away");
    w->is_drained = true;
    worker_lose(w, "it has no more work for this worker");
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

// True: the parcel was handed over. Without a surveyor nothing is answered, and we are left out.
static bool on_survey(struct worker *w)
{
    const struct surveyor_config c = {.transports = w->config.transports,
                                      .devices = w->config.devices};
    struct err_text why = {0};
    if (!w->surveyor && surveyor_open(&c, &w->surveyor, &why)) {
        log_error("no survey: %s", why.s);
        return false;
    }
    surveyor_hand(w->surveyor, w->parcel);
    w->parcel = compute_parcel_new();
    return true;
}

// True: the parcel is somebody else's now, and w->parcel was replaced if there was memory.
static bool act(struct worker *w)
{
    const struct msg *m = &w->parcel->msg;
    switch (m->kind) {
    case MSG_WELCOME:
        if (!on_welcome(w, &m->welcome)) return false;
        w->parcel = compute_parcel_new();
        return true;
    case MSG_REFUSE:
        on_refuse(w, &m->refuse);
        return false;
    case MSG_PLAN:
        if (m->plan.epoch <= w->epoch) return false;
        worker_on_plan(w);
        return true;
    case MSG_CONNECT:
        return on_work(w, m->connect.epoch);
    case MSG_STEP:
        return on_work(w, m->step.epoch);
    case MSG_CHUNK:
        return on_chunk(w);
    case MSG_SURVEY:
        return on_survey(w);
    case MSG_HEARTBEAT:
        on_heartbeat(w, &m->heartbeat);
        return false;
    case MSG_RENEWED:
        on_renewed(w, &m->renewed);
        return false;
    case MSG_DRAIN:
        on_drain(w);
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
