#include "coordinator/fleet/depot.h"

#include "proto/base/list.h"
#include "proto/base/log.h"
#include "proto/wire/frame.h"
#include "topology/file.h"
#include "topology/offer.h"

#include <stdlib.h>
#include <string.h>

struct customer {
    struct list queue; // requests that wait
    uint32_t n_queued;
    uint64_t visit; // counts depot_forget: answers to an earlier one are dropped
};

struct request {
    struct list node;
    uv_work_t work;
    struct depot *depot;
    uint32_t worker;
    uint64_t visit;
    struct msg_fetch ask;
    // the answer
    err_t err;
    struct err_text why;
    uint32_t checksum;
    uint8_t *data;
};

struct depot {
    struct depot_config config;
    struct arena arena;
    struct offer offer;
    struct msg_file *files; // the same, as they are told
    struct customer *customers;
    uint32_t n_reading;
    uint32_t turn; // whose requests come first
    bool is_closed;
    struct depot_stats stats;
};

static void start_reads(struct depot *d);

// -- reading: on the pool --

static void read_range(uv_work_t *work)
{
    struct request *r = work->data;
    const struct offer_file *f = &r->depot->offer.files[r->ask.file];
    struct file file;
    r->data = malloc(r->ask.bytes);
    if (!r->data) {
        r->err = err_say(&r->why, ERR_MEMORY, "no memory to read %s", f->name);
        return;
    }
    r->err = file_open(f->path, &file, &r->why);
    if (r->err) return;
    if (file.bytes != f->bytes)
        r->err = err_say(&r->why, ERR_MODEL, "%s: has %llu bytes, had %llu when it was opened",
                         file_tail(f->path), (unsigned long long)file.bytes,
                         (unsigned long long)f->bytes);
    else
        r->err = file_read(&file, r->ask.offset, r->data, r->ask.bytes, &r->why);
    file_close(&file);
    if (!r->err) r->checksum = frame_checksum(r->data, r->ask.bytes);
}

// -- answering: on the loop --

static void request_free(struct request *r)
{
    free(r->data);
    free(r);
}

static void depot_free(struct depot *d)
{
    arena_fini(&d->arena);
    free(d);
}

static void answer(struct depot *d, const struct request *r)
{
    struct msg_chunk c = {.id = r->ask.id, .code = r->err, .why = r->why.s};
    if (r->err) {
        log_error("cannot read for a worker: %s", r->why.s);
    } else {
        c.why = "";
        c.checksum = r->checksum;
        c.data = r->data;
        c.n_data = r->ask.bytes;
        d->stats.chunks++;
        d->stats.bytes += c.n_data;
    }
    d->config.on_chunk(d->config.arg, r->worker, &c);
}

static void on_read(uv_work_t *work, int status)
{
    struct request *r = work->data;
    struct depot *d = r->depot;
    (void)status; // never cancelled
    d->n_reading--;
    const bool is_wanted = !d->is_closed && d->customers[r->worker].visit == r->visit;
    if (is_wanted) answer(d, r);
    request_free(r);
    if (!d->is_closed)
        start_reads(d);
    else if (d->n_reading == 0)
        depot_free(d);
}

// The next request, worker by worker; NULL: none waits.
static struct request *next_request(struct depot *d)
{
    for (uint32_t i = 0; i < d->config.n_worker; i++) {
        const uint32_t worker = (d->turn + i) % d->config.n_worker;
        struct customer *c = &d->customers[worker];
        if (list_empty(&c->queue)) continue;
        struct request *r = list_item(c->queue.next, struct request, node);
        list_remove(&r->node);
        c->n_queued--;
        d->turn = worker + 1;
        return r;
    }
    return NULL;
}

static void start_reads(struct depot *d)
{
    struct request *r;
    while (d->n_reading < DEPOT_READS_MAX && (r = next_request(d))) {
        r->work.data = r;
        d->n_reading++;
        if (uv_queue_work(d->config.loop, &r->work, read_range, on_read))
            BUG("uv_queue_work"); // fails for a missing function only
    }
}

// -- asking --

err_t depot_take(struct depot *d, uint32_t worker, const struct msg_fetch *m, struct err_text *why)
{
    struct customer *c = &d->customers[worker];
    if (memcmp(m->model_hash, d->config.model->hash, sizeof m->model_hash) ||
        m->file >= d->offer.n_file)
        return err_say(why, ERR_LINK_PROTOCOL, "fetch: file %u of a model that is not offered",
                       m->file);
    const uint64_t bytes = d->offer.files[m->file].bytes;
    if (m->bytes < 1 || m->bytes > WIRE_CHUNK_MAX || m->offset > bytes ||
        m->bytes > bytes - m->offset)
        return err_say(why, ERR_LINK_PROTOCOL, "fetch: %u bytes from %llu of a file of %llu",
                       m->bytes, (unsigned long long)m->offset, (unsigned long long)bytes);
    if (c->n_queued >= DEPOT_QUEUE_MAX)
        return err_say(why, ERR_LINK_PROTOCOL, "fetch: more than %d requests at once",
                       DEPOT_QUEUE_MAX);
    struct request *r = calloc(1, sizeof *r);
    if (!r) return err_say(why, ERR_MEMORY, "no memory for a request");
    r->depot = d;
    r->worker = worker;
    r->visit = c->visit;
    r->ask = *m;
    list_push_back(&c->queue, &r->node);
    c->n_queued++;
    start_reads(d);
    return OK;
}

void depot_forget(struct depot *d, uint32_t worker)
{
    struct customer *c = &d->customers[worker];
    c->visit++;
    c->n_queued = 0;
    list_each(it, &c->queue)
    {
        list_remove(it);
        request_free(list_item(it, struct request, node));
    }
}

// -- life --

static err_t make_lists(struct depot *d, struct err_text *why)
{
    err_t e = offer_make(d->config.model, &d->arena, &d->offer, why);
    if (e) return e;
    if (d->offer.n_file > WIRE_FILES_MAX) {
        log_warn("the model has %u files; workers can copy models of up to %d only",
                 d->offer.n_file, WIRE_FILES_MAX);
        d->offer.n_file = 0;
    }
    d->files = arena_take_n(&d->arena, d->offer.n_file, sizeof *d->files);
    d->customers = arena_take_n(&d->arena, d->config.n_worker, sizeof *d->customers);
    if (!d->files || !d->customers) return err_say(why, ERR_MEMORY, "out of memory");
    for (uint32_t i = 0; i < d->offer.n_file; i++) {
        const struct offer_file *f = &d->offer.files[i];
        d->files[i] = (struct msg_file){f->name, f->bytes, f->header_bytes};
    }
    for (uint32_t i = 0; i < d->config.n_worker; i++)
        list_init(&d->customers[i].queue);
    return OK;
}

err_t depot_open(const struct depot_config *c, struct depot **out, struct err_text *why)
{
    BUG_ON(c->n_worker < 1 || c->n_worker > DEPOT_WORKERS_MAX);
    struct depot *d = calloc(1, sizeof *d);
    if (!d) return err_say(why, ERR_MEMORY, "out of memory");
    arena_init(&d->arena, 0);
    d->config = *c;
    err_t e = make_lists(d, why);
    if (e) {
        depot_free(d);
        return e;
    }
    *out = d;
    return OK;
}

void depot_offer(const struct depot *d, struct msg_welcome *out)
{
    memcpy(out->model_hash, d->config.model->hash, sizeof out->model_hash);
    out->files = d->files;
    out->n_file = d->offer.n_file;
}

bool depot_has_files(const struct depot *d)
{
    return d->offer.n_file > 0;
}

struct depot_stats depot_stats_get(const struct depot *d)
{
    return d->stats;
}

void depot_close(struct depot *d)
{
    if (!d) return;
    for (uint32_t i = 0; i < d->config.n_worker; i++)
        depot_forget(d, i);
    d->is_closed = true;
    if (d->n_reading == 0) depot_free(d);
}
