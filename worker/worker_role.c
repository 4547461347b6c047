#include "worker/worker_priv.h"

#include "proto/base/log.h"
#include "worker/store_keep.h"

#include <string.h>

// -- stopping --

void worker_stop_role(struct worker *w)
{
    compute_parcel_free(w->plan);
    w->plan = NULL;
    if (w->fetch) store_fetch_cancel(w->fetch);
    if (w->compute) compute_stop(w->compute);
    w->is_stopping = w->fetch || w->compute;
}

static void take_fetch_result(struct worker *w, struct store_fetch_result *r)
{
    store_fetch_join(w->fetch, r);
    w->fetch = NULL;
    w->fetch_id = r->next_id;
    w->is_stopping = false;
}

void worker_end_role(struct worker *w)
{
    struct store_fetch_result r;
    worker_stop_role(w);
    if (w->fetch) take_fetch_result(w, &r);
    compute_parcel_free(w->fetch_plan);
    w->fetch_plan = NULL;
    if (!w->compute) return;
    compute_cancel(w->compute);
    compute_join(w->compute, &w->held);
    w->compute = NULL;
}

// -- starting --

static void fail_plan(struct worker *w, const struct msg_plan *p, err_t code,
                      const struct err_text *why)
{
    log_error("epoch %llu: %s", (unsigned long long)p->epoch, why->s);
    const struct msg m = {.kind = MSG_FAILED,
                          .failed = {.epoch = p->epoch, .code = code, .why = why->s}};
    worker_send(w, &m);
}

static void start_compute(struct worker *w, const struct msg_plan *p, const char *path)
{
    struct err_text why = {0};
    log_info("epoch %llu: stage %u of %u of %s, layers %u to %u", (unsigned long long)p->epoch,
             p->stage, p->n_stage, p->model, p->layer_from, p->layer_to);
    struct compute_config c = {
        .plan = *p,
        .model_path = path,
        .held = w->held,
        .n_threads = w->n_threads,
        .device = w->config.device,
        .transports = w->config.transports,
        .devices = w->config.devices,
        .mem_max_bytes = w->mem_max_bytes,
        .device_memory = w->config.device_memory,
        .group = w->config.group,
        .profile = w->config.profile,
    };
    w->held = (struct compute_held){0};
    err_t e = compute_start(&c, &w->compute, &why);
    if (e) {
        fail_plan(w, p, e, &why);
        return;
    }
    w->running = *p;
    w->running.model = NULL;
    w->running.owner = NULL;
    w->running.replicas = NULL;
    w->is_stopping = false;
}

// The plan's model, held or as offered by the coordinator, into the store. True: the parcel is kept
// until that has ended.
static bool start_fetch(struct worker *w, struct compute_parcel *parcel, struct err_text *why)
{
    const struct msg_plan *p = &parcel->msg.plan;
    const size_t n = sizeof p->model_hash;
    const struct msg_welcome *offer = w->welcome ? &w->welcome->msg.welcome : NULL;
    if (w->store_fd < 0 || !offer || memcmp(offer->model_hash, p->model_hash, n)) {
        err_say(why, ERR_MODEL, "worker %s has no file of model %s with this hash%s",
                w->config.name, p->model,
                w->store_fd < 0 ? " and no store to copy it into"
                                : ", and the coordinator does not offer it");
        return false;
    }
    const struct model *held = w->held.model;
    struct store_fetch_config c = {
        .dir = w->config.store_dir,
        .reserve_bytes = w->config.store_reserve_bytes,
        .limit_bytes = w->config.store_limit_bytes,
        .plan = p,
        .offer = offer,
        .model = held && !memcmp(held->hash, p->model_hash, n) ? held : NULL,
        .first_id = w->fetch_id,
    };
    if (held) memcpy(c.held_hash, held->hash, n);
    if (store_fetch_start(&c, &w->fetch, why)) return false;
    w->fetch_plan = parcel;
    w->is_stopping = false;
    return true;
}

// Takes the parcel.
static void start_plan(struct worker *w, struct compute_parcel *parcel)
{
    const struct msg_plan *p = &parcel->msg.plan;
    const struct models_file *file = models_find(&w->models, p->model_hash);
    struct err_text why = {0};
    if (file && w->store_fd >= 0) store_used(w->config.store_dir, p->model_hash);
    if (file)
        start_compute(w, p, file->path);
    else if (start_fetch(w, parcel, &why))
        return;
    else
        fail_plan(w, p, ERR_MODEL, &why);
    compute_parcel_free(parcel);
}

void worker_on_plan(struct worker *w)
{
    struct compute_parcel *parcel = w->parcel;
    const struct msg_plan *p = &parcel->msg.plan;
    w->parcel = compute_parcel_new();
    w->epoch = p->epoch;
    if (w->surveyor) surveyor_shut(w->surveyor); // its buffers count against the plan's memory
    if (!w->compute && !w->fetch) {
        start_plan(w, parcel);
        return;
    }
    worker_stop_role(w);
    // Layers of another model are of no use to the new plan.
    if (w->compute && memcmp(p->model_hash, w->running.model_hash, sizeof p->model_hash))
        compute_cancel(w->compute);
    w->plan = parcel;
}

// -- going on --

static void start_next(struct worker *w)
{
    struct compute_parcel *next = w->plan;
    w->plan = NULL;
    if (next) start_plan(w, next);
}

static void pump_compute(struct worker *w)
{
    struct compute_letter *l;
    while (w->compute && (l = compute_letter(w->compute))) {
        const bool is_end = l->is_end;
        // What a stopped epoch still says is of no use to anybody.
        if (!is_end && !w->is_stopping) worker_send_bytes(w, &l->bytes);
        compute_letter_done(w->compute, l);
        if (!is_end) continue;
        compute_join(w->compute, &w->held);
        w->compute = NULL;
        w->is_stopping = false;
        start_next(w);
    }
}

// A copy that became whole gets its final name when nothing reads it under the old one.
static const char *find_copy(struct worker *w, const struct store_fetch_result *r,
                             const uint8_t hash[32])
{
    if (r->is_whole && !w->held.model) {
        store_tidy(w->config.store_dir);
        models_add_store(&w->models, w->config.store_dir);
    }
    const struct models_file *file = models_find(&w->models, hash);
    return file ? file->path : r->model_path;
}

static void end_fetch(struct worker *w)
{
    struct store_fetch_result r;
    struct compute_parcel *parcel = w->fetch_plan;
    const bool was_stopping = w->is_stopping;
    w->fetch_plan = NULL;
    take_fetch_result(w, &r);
    models_drop_missing(&w->models, w->config.store_dir); // copies that had to make room
    const struct msg_plan *p = &parcel->msg.plan;
    if (!was_stopping && r.err) fail_plan(w, p, r.err, &r.why);
    if (!was_stopping && !r.err) start_compute(w, p, find_copy(w, &r, p->model_hash));
    compute_parcel_free(parcel);
    start_next(w);
}

static void pump_fetch(struct worker *w)
{
    struct compute_letter *l;
    while (w->fetch && (l = store_fetch_letter(w->fetch))) {
        const bool is_end = l->is_end;
        if (!is_end && !w->is_stopping) worker_send_bytes(w, &l->bytes);
        compute_letter_free(l);
        if (is_end) end_fetch(w);
    }
}

static void pump_survey(struct worker *w)
{
    struct compute_letter *l;
    while (w->surveyor && (l = surveyor_letter(w->surveyor))) {
        worker_send_bytes(w, &l->bytes);
        compute_letter_free(l);
    }
}

void worker_pump(struct worker *w)
{
    pump_survey(w);
    pump_fetch(w);
    pump_compute(w);
}
