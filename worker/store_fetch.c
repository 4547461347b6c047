#include "worker/store_fetch.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/wire/frame.h"
#include "worker/store_keep.h"
#include "worker/store_need.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    NAP_MS = 100,
    SILENCE_US = 60000000, // a coordinator that sends no chunk for so long will send none
    SAVE_US = 5000000,     // between maps
    SAVE_BYTES = 32 << 20,
    TELL_US = 5000000, // between lines in the log
};

struct flying {
    uint64_t id; // 0: free
    struct store_range range;
    int n_try;
};

struct store_fetch {
    struct store_fetch_config config;
    struct arena arena; // of the offer
    uint8_t hash[32];
    struct offer offer;
    pthread_t thread;
    struct mailbox in, out, spent;
    struct compute_letter *end;
    atomic_bool stop;

    // of the thread
    struct store *store;
    struct model *opened;
    struct flying flying[STORE_FETCH_WINDOW];
    uint32_t n_flying;
    int64_t heard_us, saved_us, told_us;
    uint64_t unsaved_bytes, told_bytes;
    struct store_fetch_result result;

    _Atomic uint64_t done_bytes, all_bytes, loops;
};

static double mib(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

// -- asking --

static err_t ask(struct store_fetch *f, struct flying *x, struct err_text *why)
{
    struct compute_letter *l = compute_letter_new();
    if (!l) return err_say(why, ERR_MEMORY, "store: no memory for a message");
    x->id = f->result.next_id++;
    l->kind = MSG_FETCH;
    struct msg m = {
        .kind = MSG_FETCH,
        .fetch = {
            .id = x->id, .file = x->range.file, .offset = x->range.from, .bytes = x->range.bytes}};
    memcpy(m.fetch.model_hash, f->hash, sizeof f->hash);
    err_t e = wire_pack(&m, &l->bytes);
    if (e) {
        compute_letter_free(l);
        return err_say(why, e, "store: a request does not fit a message");
    }
    mailbox_push(&f->out, &l->list);
    return OK;
}

static err_t ask_more(struct store_fetch *f, struct err_text *why)
{
    err_t e = OK;
    for (int i = 0; !e && i < STORE_FETCH_WINDOW; i++) {
        struct flying *x = &f->flying[i];
        if (x->id || !store_next(f->store, &x->range)) continue;
        x->n_try = 1;
        f->n_flying++;
        e = ask(f, x, why);
    }
    return e;
}

// -- what comes --

static struct flying *find_flying(struct store_fetch *f, uint64_t id)
{
    for (int i = 0; i < STORE_FETCH_WINDOW; i++)
        if (f->flying[i].id && f->flying[i].id == id) return &f->flying[i];
    return NULL;
}

static err_t ask_again(struct store_fetch *f, struct flying *x, struct err_text *why)
{
    const char *name = f->offer.files[x->range.file].name;
    if (x->n_try == STORE_FETCH_TRIES)
        return err_say(why, ERR_LINK_PROTOCOL,
                       "store: bytes %llu to %llu of %.80s arrived damaged %d times",
                       (unsigned long long)x->range.from,
                       (unsigned long long)(x->range.from + x->range.bytes), name, x->n_try);
    log_warn("store: bytes %llu to %llu of %.80s arrived damaged; asked for again",
             (unsigned long long)x->range.from,
             (unsigned long long)(x->range.from + x->range.bytes), name);
    x->n_try++;
    return ask(f, x, why);
}

static err_t on_chunk(struct store_fetch *f, const struct msg_chunk *c, struct err_text *why)
{
    if (c->id < f->config.first_id) return OK; // asked for by somebody before us
    struct flying *x = find_flying(f, c->id);
    if (!x)
        return err_say(why, ERR_LINK_PROTOCOL, "store: a chunk that nobody asked for (%llu)",
                       (unsigned long long)c->id);
    f->heard_us = clock_now_us();
    if (c->code)
        return err_say(why, c->code, "the coordinator cannot read %.80s: %s",
                       f->offer.files[x->range.file].name, c->why);
    if (c->n_data != x->range.bytes || c->checksum != frame_checksum(c->data, c->n_data))
        return ask_again(f, x, why);
    err_t e = store_put(f->store, &x->range, c->data, why);
    if (e) return e;
    x->id = 0;
    f->n_flying--;
    f->unsaved_bytes += c->n_data;
    f->result.fetched_bytes += c->n_data;
    atomic_store(&f->done_bytes, store_have_bytes(f->store));
    return OK;
}

static err_t save(struct store_fetch *f, struct err_text *why)
{
    f->saved_us = clock_now_us();
    f->unsaved_bytes = 0;
    return store_save(f->store, why);
}

static err_t keep_time(struct store_fetch *f, struct err_text *why)
{
    const int64_t now = clock_now_us();
    if (atomic_load(&f->stop)) return err_say(why, ERR_CANCELLED, "asked to stop");
    if (now - f->heard_us > SILENCE_US)
        return err_say(why, ERR_TIMEOUT, "store: the coordinator sent nothing for %d s",
                       SILENCE_US / 1000000);
    if (now - f->told_us > TELL_US) {
        const uint64_t done = store_have_bytes(f->store), all = store_need_bytes(f->store);
        log_info("fetching: %.0f %% of %.1f MiB, %.1f MiB/s", 100.0 * (double)done / (double)all,
                 mib(all),
                 mib(f->result.fetched_bytes - f->told_bytes) * 1e6 / (double)(now - f->told_us));
        f->told_us = now;
        f->told_bytes = f->result.fetched_bytes;
    }
    const bool due = now - f->saved_us > SAVE_US || f->unsaved_bytes > SAVE_BYTES;
    return due && f->unsaved_bytes ? save(f, why) : OK;
}

static struct compute_parcel *take(struct store_fetch *f)
{
    struct list *l = mailbox_pop(&f->in);
    return l ? list_item(l, struct compute_parcel, list) : NULL;
}

// Other copies make room for this one, if they must.
static err_t make_room(const struct store_fetch *f, struct err_text *why)
{
    const struct store_fetch_config *c = &f->config;
    const uint64_t missing = store_need_bytes(f->store) - store_have_bytes(f->store);
    uint8_t keep[2][32];
    if (!c->limit_bytes || !missing) return OK;
    memcpy(keep[0], f->hash, sizeof keep[0]);
    memcpy(keep[1], c->held_hash, sizeof keep[1]);
    const uint64_t most = c->limit_bytes > missing ? c->limit_bytes - missing : 0;
    const uint64_t left = store_trim(c->dir, most, (const uint8_t(*)[32])keep, 2);
    if (left <= most && missing <= c->limit_bytes) return OK;
    return err_say(
        why, ERR_SYSTEM,
        "store: %.1f MiB are to be fetched, %.1f MiB are in use; copies in %.80s may take "
        "%.1f MiB",
        mib(missing), mib(left), c->dir, mib(c->limit_bytes));
}

// Until everything that is needed is here.
static err_t copy(struct store_fetch *f, struct err_text *why)
{
    err_t e = make_room(f, why);
    if (!e) e = store_check_room(f->store, f->config.reserve_bytes, why);
    atomic_store(&f->done_bytes, store_have_bytes(f->store));
    atomic_store(&f->all_bytes, store_need_bytes(f->store));
    f->heard_us = f->saved_us = f->told_us = clock_now_us();
    while (!e && !(e = ask_more(f, why)) && f->n_flying) {
        atomic_fetch_add(&f->loops, 1);
        struct compute_parcel *p = take(f);
        if (p) {
            e = on_chunk(f, &p->msg.chunk, why);
            arena_reset(&p->arena);
            mailbox_push(&f->spent, &p->list);
        } else {
            struct pollfd fd = {.fd = f->in.fd, .events = POLLIN};
            poll(&fd, 1, NAP_MS);
            mailbox_hush(&f->in);
        }
        if (!e) e = keep_time(f, why);
    }
    return e;
}

// -- the thread --

static err_t check_model(struct store_fetch *f, struct err_text *why)
{
    struct err_text inner = {0};
    err_t e = model_open(store_model_path(f->store), &f->opened, &inner);
    if (!e && !memcmp(f->opened->hash, f->hash, sizeof f->hash)) return OK;
    store_discard(f->store);
    return err_say(why, ERR_MODEL, "store: what was copied is not the model that was offered%s%s",
                   e ? ": " : "", e ? inner.s : "");
}

static err_t fetch(struct store_fetch *f, struct err_text *why)
{
    const struct store_fetch_config *c = &f->config;
    err_t e = store_open(c->dir, f->hash, &f->offer, &f->store, why);
    if (e) return e;
    snprintf(f->result.model_path, sizeof f->result.model_path, "%s", store_model_path(f->store));
    if (!c->model) {
        store_need_opening(f->store);
        e = copy(f, why);
        if (!e) e = check_model(f, why);
        if (e) return e;
    }
    const struct model *m = c->model ? c->model : f->opened;
    struct stage_config stage;
    e = compute_check_plan(c->plan, m, why);
    if (e) return e;
    compute_stage_config(c->plan, m, &stage);
    e = store_need_stage(f->store, &stage, why);
    if (!e) e = copy(f, why);
    return e;
}

static void *fetch_main(void *arg)
{
    struct store_fetch *f = arg;
    struct store_fetch_result *r = &f->result;
    struct err_text unsaved;
    const int64_t began = clock_now_us();
    r->err = fetch(f, &r->why);
    // What came before a failure counts when it is tried again.
    err_t e = f->store ? store_save(f->store, &unsaved) : OK;
    if (e && !r->err) {
        r->err = e;
        r->why = unsaved;
    }
    if (!r->err && r->fetched_bytes)
        log_info("fetched %.1f MiB in %.1f s", mib(r->fetched_bytes),
                 (double)(clock_now_us() - began) / 1e6);
    r->is_whole = !r->err && store_is_whole(f->store);
    model_close(f->opened);
    store_close(f->store);
    mailbox_push(&f->out, &f->end->list);
    return NULL;
}

// -- from the control thread --

static bool copy_offer(struct store_fetch *f, const struct msg_welcome *w)
{
    struct offer_file *files = arena_take_n(&f->arena, w->n_file, sizeof *files);
    for (uint32_t i = 0; files && i < w->n_file; i++) {
        const struct msg_file *from = &w->files[i];
        files[i] = (struct offer_file){.bytes = from->bytes, .header_bytes = from->header_bytes};
        files[i].name = arena_copy_str(&f->arena, from->name, strlen(from->name));
        if (!files[i].name) return false;
    }
    f->offer = (struct offer){files, w->n_file};
    return files != NULL;
}

static void drop(struct mailbox *m)
{
    for (struct list *l; (l = mailbox_pop(m));)
        compute_parcel_free(list_item(l, struct compute_parcel, list));
    mailbox_fini(m);
}

static void fini(struct store_fetch *f, int n_mailbox)
{
    if (n_mailbox > 0) drop(&f->in);
    if (n_mailbox > 1) drop(&f->spent);
    for (struct list *l; n_mailbox > 2 && (l = mailbox_pop(&f->out));)
        compute_letter_free(list_item(l, struct compute_letter, list));
    if (n_mailbox > 2) mailbox_fini(&f->out);
    arena_fini(&f->arena);
    free(f);
}

err_t store_fetch_start(const struct store_fetch_config *c, struct store_fetch **out,
                        struct err_text *why)
{
    struct store_fetch *f = calloc(1, sizeof *f);
    if (!f) return err_say(why, ERR_MEMORY, "store: no memory");
    arena_init(&f->arena, 0);
    f->config = *c;
    f->config.offer = NULL;
    f->result.next_id = c->first_id;
    memcpy(f->hash, c->offer->model_hash, sizeof f->hash);
    struct mailbox *all[] = {&f->in, &f->spent, &f->out};
    int n = 0;
    err_t e = OK;
    while (!e && n < 3)
        if (!(e = mailbox_init(all[n], why))) n++;
    if (!e && !copy_offer(f, c->offer)) e = err_say(why, ERR_MEMORY, "store: no memory");
    if (!e && !(f->end = compute_letter_new())) e = err_say(why, ERR_MEMORY, "store: no memory");
    if (!e) f->end->is_end = true;
    if (!e && pthread_create(&f->thread, NULL, fetch_main, f))
        e = err_say(why, ERR_SYSTEM, "cannot start the store's thread");
    if (e) {
        free(f->end);
        fini(f, n);
        return e;
    }
    *out = f;
    return OK;
}

struct compute_parcel *store_fetch_hand(struct store_fetch *f, struct compute_parcel *p)
{
    mailbox_push(&f->in, &p->list);
    struct list *spare = mailbox_pop(&f->spent);
    return spare ? list_item(spare, struct compute_parcel, list) : compute_parcel_new();
}

int store_fetch_fd(const struct store_fetch *f)
{
    return f->out.fd;
}

struct compute_letter *store_fetch_letter(struct store_fetch *f)
{
    struct list *l = mailbox_next(&f->out);
    return l ? list_item(l, struct compute_letter, list) : NULL;
}

struct store_fetch_stats store_fetch_stats_get(const struct store_fetch *f)
{
    const uint64_t done = atomic_load(&f->done_bytes);
    return (struct store_fetch_stats){.done_bytes = done,
                                      .all_bytes = atomic_load(&f->all_bytes),
                                      .progress = done / STORE_UNIT_BYTES};
}

void store_fetch_cancel(struct store_fetch *f)
{
    atomic_store(&f->stop, true);
    mailbox_ring(&f->in);
}

void store_fetch_join(struct store_fetch *f, struct store_fetch_result *out)
{
    pthread_join(f->thread, NULL);
    *out = f->result;
    fini(f, 3);
}
