#include "worker/worker_priv.h"
#include "kernels/group.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "topology/gpus.h"
#include "worker/measure.h"
#include "worker/rate.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum {
    STOP_CHECK_US = 100000,
    BACKOFF_FIRST_US = 200000,
    RENEW_CHECK_US = 1000000,
    BACKOFF_MAX_US = 5000000,
};

// -- open and close --

static err_t check_name(const char *name, struct err_text *why)
{
    const size_t n = name ? strlen(name) : 0;
    if (n >= 1 && n <= 63 && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == n) return OK;
    return err_say(why, ERR_CONFIG, "worker name \"%s\": 1 to 63 of a-z, 0-9 and -",
                   name ? name : "");
}

static char *copy(const char *s)
{
    return s ? strdup(s) : NULL;
}

static err_t copy_config(struct worker *w, const struct worker_config *c, struct err_text *why)
{
    w->config = *c;
    w->config.models = NULL;
    kernels_group_trust(c->devices);
    w->config.name = copy(c->name);
    w->config.device = copy(c->device);
    w->config.transports = copy(c->transports);
    w->config.devices = copy(c->devices);
    w->config.store_dir = copy(c->store_dir);
    const bool ok = w->config.name && !w->config.device == !c->device &&
                    !w->config.transports == !c->transports && !w->config.devices == !c->devices &&
                    !w->config.store_dir == !c->store_dir;
    return ok ? OK : err_say(why, ERR_MEMORY, "no memory for a worker");
}

static err_t open_store(struct worker *w, struct err_text *why)
{
    const char *dir = w->config.store_dir;
    err_t e = store_lock(dir, &w->store_fd, why);
    if (e) return e;
    store_tidy(dir);
    models_add_store(&w->models, dir);
    return OK;
}

// What a GPU of this name can do at most, as its management library lets one derive; zeros: nobody
// says.
static struct kernels_peaks peaks_of(const char *name)
{
    struct kernels_peaks p = {0};
    struct gpus *g = calloc(1, sizeof *g);
    const int32_t n = g && gpus_read(NULL, g, NULL) == OK ? g->n : 0;
    for (int32_t i = 0; i < n && p.read_bytes_per_s == 0; i++)
        if (!strcmp(g->at[i].name, name))
            p = (struct kernels_peaks){.read_bytes_per_s = g->at[i].read_bytes_per_s,
                                       .int8_ops_per_s = g->at[i].int8_ops_per_s,
                                       .f32_flops_per_s = g->at[i].f32_flops_per_s};
    free(g);
    return p;
}

// A device that cannot be measured is planned by what its data sheet says.
static void measure_device(struct worker *w, const struct worker_config *c)
{
    const struct measure_ask ask = {
        .dir = c->measured_dir, .isa = w->isa, .device = c->device, .n_threads = 1};
    struct err_text why = {0};
    struct measure m;
    w->peaks = peaks_of(w->budget.name);
    if (w->budget.is_emulated) return; // its speed means nothing
    err_t e = measure_machine(&w->probe, &ask, &m, &why);
    if (!e) w->peaks = m.peaks;
    if (!e && c->rate) e = rate_machine(&w->probe, &ask, &w->rates, &why);
    if (e) log_warn("the device is not measured: %s", why.s);
    if (w->models.n) w->disk_bytes_per_s = measure_disk(w->models.files[0].path, c->measured_dir);
}

static err_t look_around(struct worker *w, const struct worker_config *c, struct err_text *why)
{
    err_t e = probe_read(&w->probe, why);
    if (!e) e = measure_isa(c->device, w->isa, why);
    if (!e) e = models_scan(c->models, &w->models, why);
    if (!e && c->store_dir) e = open_store(w, why);
    if (e) return e;
    w->n_threads = c->n_threads > 0 ? c->n_threads : w->probe.n_usable;
    if (w->n_threads < 1) w->n_threads = 1;
    // Threads that take turns on a processor wait for each other at the end of each operation.
    if (w->n_threads > w->probe.n_usable && w->probe.n_usable > 0) {
        log_warn("%d compute threads are asked for, %d are used: there are no more processors for "
                 "this process",
                 w->n_threads, w->probe.n_usable);
        w->n_threads = w->probe.n_usable;
    }
    e = budget_read(c->device, c->device_memory, &w->budget, why);
    if (e) return e;
    const struct budget *b = &w->budget;
    if (c->mem_max_bytes > b->total_bytes)
        return err_say(why, ERR_CONFIG, "%llu bytes of memory are to be used, this %s has %llu",
                       (unsigned long long)c->mem_max_bytes, b->is_host ? "machine" : "device",
                       (unsigned long long)b->total_bytes);
    w->mem_max_bytes = b->free_bytes < b->most_bytes ? b->free_bytes : b->most_bytes;
    if (c->mem_max_bytes) w->mem_max_bytes = c->mem_max_bytes;
    if (getrandom(&w->instance, sizeof w->instance, 0) != (ssize_t)sizeof w->instance)
        return err_say(why, ERR_SYSTEM, "no random numbers");
    w->random = (uint32_t)w->instance | 1;
    if (!c->measure) return OK;
    if (!b->is_host) {
        measure_device(w, c);
        return OK;
    }
    const struct measure_ask ask = {
        .dir = c->measured_dir, .isa = w->isa, .n_threads = w->n_threads};
    struct measure_ask all = ask;
    struct measure m;
    all.n_threads = w->probe.n_usable > w->n_threads ? w->probe.n_usable : w->n_threads;
    e = measure_machine(&w->probe, &ask, &m, why);
    if (!e) w->peaks = m.peaks;
    if (!e) e = measure_machine(&w->probe, &all, &m, why);
    if (e) return e;
    w->host_read_bytes_per_s = m.peaks.read_bytes_per_s;
    if (c->rate) e = rate_machine(&w->probe, &ask, &w->rates, why);
    if (e) return e;
    if (w->models.n) w->disk_bytes_per_s = measure_disk(w->models.files[0].path, c->measured_dir);
    return OK;
}

err_t worker_open(const struct worker_config *c, struct worker **out, struct err_text *why)
{
    err_t e = check_name(c->name, why);
    if (e) return e;
    struct worker *w = calloc(1, sizeof *w);
    if (!w) return err_say(why, ERR_MEMORY, "no memory for a worker");
    w->store_fd = -1;
    w->fetch_id = 1;
    e = copy_config(w, c, why);
    if (!e) e = look_around(w, c, why);
    if (e)
        worker_close(w);
    else
        *out = w;
    return e;
}

void worker_close(struct worker *w)
{
    if (!w) return;
    link_close(w->link);
    surveyor_close(w->surveyor);
    worker_end_role(w);
    compute_held_free(&w->held);
    compute_parcel_free(w->welcome);
    compute_parcel_free(w->parcel);
    models_free(&w->models);
    if (w->store_fd >= 0) {
        store_tidy(w->config.store_dir);
        close(w->store_fd);
    }
    free((char *)w->config.store_dir);
    buf_fini(&w->out);
    free((char *)w->config.name);
    free((char *)w->config.device);
    free((char *)w->config.transports);
    free((char *)w->config.devices);
    free(w);
}

// -- the loop --

// Doubles from 0.2 s to 5 s, give or take a quarter, so that many workers do not come at once.
static int64_t next_backoff(struct worker *w)
{
    w->backoff_us = w->backoff_us ? w->backoff_us * 2 : BACKOFF_FIRST_US;
    if (w->backoff_us > BACKOFF_MAX_US) w->backoff_us = BACKOFF_MAX_US;
    w->random ^= w->random << 13;
    w->random ^= w->random >> 17;
    w->random ^= w->random << 5;
    return w->backoff_us * 3 / 4 + w->backoff_us / 2 * (w->random % 1024) / 1024;
}

static err_t dial(struct worker *w, struct err_text *why)
{
    err_t e = w->config.dial(w->config.dial_arg, &w->link, why);
    const int64_t now = clock_now_us();
    if (e) {
        w->link = NULL;
        w->dial_us = now + next_backoff(w);
        if (e != ERR_END) log_warn("cannot reach the coordinator: %s", why->s);
        return e;
    }
    w->dial_us = now + next_backoff(w); // in case it does not hold
    w->heard_us = now;
    worker_hello(w);
    return OK;
}

static void keep_time(struct worker *w)
{
    const int64_t now = clock_now_us();
    if (w->link && now - w->heard_us > WORKER_SILENCE_US) worker_lose(w, "it fell silent");
    if (w->link && w->is_welcome && now >= w->beat_us) {
        w->beat_us += WIRE_HEARTBEAT_MS * 1000;
        if (w->beat_us < now) w->beat_us = now + WIRE_HEARTBEAT_MS * 1000;
        worker_beat(w);
    }
    if (w->link && w->is_welcome && now >= w->renew_us) {
        w->renew_us = now + RENEW_CHECK_US;
        worker_renew(w);
    }
}

static void rest(struct worker *w)
{
    const int64_t now = clock_now_us();
    int64_t until = now + STOP_CHECK_US;
    if (w->link && w->is_welcome && w->beat_us < until) until = w->beat_us;
    if (!w->link && w->dial_us < until) until = w->dial_us;
    struct pollfd fds[4];
    nfds_t n = 0;
    if (w->link) {
        fds[n].fd = link_poll_fd(w->link, &fds[n].events);
        n++;
    }
    if (w->surveyor) fds[n++] = (struct pollfd){.fd = surveyor_fd(w->surveyor), .events = POLLIN};
    if (w->fetch) fds[n++] = (struct pollfd){.fd = store_fetch_fd(w->fetch), .events = POLLIN};
    if (w->compute) fds[n++] = (struct pollfd){.fd = compute_fd(w->compute), .events = POLLIN};
    poll(fds, n, until > now ? (int)((until - now + 999) / 1000) : 0);
}

err_t worker_run(struct worker *w, atomic_int *stop, struct err_text *why)
{
    bool has_more = false;
    while (!atomic_load(stop)) {
        if (w->is_drained) return OK; // what still runs ends with worker_close
        if (!w->link && clock_now_us() >= w->dial_us) {
            struct err_text reason = {0};
            if (dial(w, &reason) == ERR_END) return OK;
        }
        if (!has_more) rest(w);
        worker_pump(w);
        has_more = worker_hear(w);
        keep_time(w);
        if (w->is_refused) return err_say(why, w->refuse_code, "%s", w->refuse_why.s);
    }
    return OK;
}
