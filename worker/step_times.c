#include "worker/step_times.h"

#include "proto/base/clock.h"
#include "worker/stage.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    CACHED_BYTES = 128 << 20, // weights beyond what a cache keeps from step to step
    MOST_BYTES = 1 << 30,
    SLOTS = 16,
    CTX = 512,
    PAGE_TOK = 32,
    SLOT_PAGES = CTX / PAGE_TOK,
    POINT_US = 100000,
    FILL_US = 1000000,
    FEW = 3, // of steps that take long
    FEW_US = 4 * POINT_US,
    REPEATS = 24,
    AT_ONCE_MAX = 64,
};
_Static_assert(2 * PACE_POINTS * REPEATS + PAGE_TOK < CTX, "all decode steps have room");

// All begin a point together.
struct gate {
    atomic_int n_come; // all that ever came
    atomic_bool is_off;
    int n;
};

// One stage and the thread that drives it.
struct driver {
    const struct step_times_ask *ask;
    struct gate *gate;
    pthread_t thread;
    struct stage *stage;
    struct arena arena;
    float *x, *noise; // (CTX, dim)
    uint32_t pages[SLOTS * SLOT_PAGES];
    int32_t ids[CTX];
    uint32_t pos[SLOTS];
    uint64_t step;
    struct pace_times times;
    err_t err;
};

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *t, int n)
{
    qsort(t, (size_t)n, sizeof *t, by_value);
    return n ? t[n / 2] : 0;
}

// ---- steps

// The next n_tok tokens of each of n_seq slots from `first` on, a sequence of its own each, begun
// where its position is 0. Returns seconds.
static double run(struct driver *d, uint32_t first, uint32_t n_seq, uint32_t n_tok, bool chooses)
{
    const struct stage_config *c = stage_config_get(d->stage);
    struct step_row rows[SLOTS] = {0};
    struct step_bind binds[SLOTS];
    struct step_result result;
    struct step st = {
        .epoch = 1, .number = ++d->step, .binds = binds, .rows = rows, .n_row = n_seq};
    for (uint32_t i = 0; i < n_seq; i++) {
        const uint32_t slot = first + i, pos = d->pos[slot];
        const uint32_t from = (pos + PAGE_TOK - 1) / PAGE_TOK;
        const uint32_t to = (pos + n_tok + PAGE_TOK - 1) / PAGE_TOK;
        if (pos == 0)
            binds[st.n_bind++] = (struct step_bind){
                .slot = slot, .sampling = {.top_p = 1, .repetition = 1, .n_logprobs = -1}};
        rows[i] = (struct step_row){.slot = slot,
                                    .flags = chooses ? ROW_SAMPLE : 0,
                                    .pos = pos,
                                    .n_tok = n_tok,
                                    .ids = d->ids + (n_tok == 1 ? (pos + 31 * slot) % CTX : 0),
                                    .next_id = -1,
                                    .page_from = from,
                                    .n_page = to - from,
                                    .pages = d->pages + slot * SLOT_PAGES + from};
        d->pos[slot] = pos + n_tok;
    }
    arena_reset(&d->arena);
    memcpy(d->x, d->noise, (size_t)n_seq * n_tok * (size_t)c->model->shape.dim * sizeof *d->x);
    const int64_t begin = clock_now_ns();
    err_t e = stage_check(d->stage, &st, NULL);
    if (!e) e = stage_run(d->stage, &st, d->x, NULL, &d->arena, &result);
    if (e) d->err = e;
    return (double)(clock_now_ns() - begin) * 1e-9;
}

static bool goes_on(const struct driver *d, int n, int most, int64_t begin)
{
    const int64_t us = clock_now_us() - begin;
    if (d->err || n >= most) return false;
    return n < 1 || us < POINT_US || (n < FEW && us < FEW_US);
}

// Every driver comes here as often as the others, whatever went wrong.
static void meet(struct driver *d)
{
    struct gate *g = d->gate;
    const int mine = atomic_fetch_add(&g->n_come, 1);
    const int all = (mine / g->n + 1) * g->n;
    while (atomic_load(&g->n_come) < all && !atomic_load(&g->is_off))
        sched_yield();
}

// Brings something to look back on into all slots, too.
static double time_first_chunks(struct driver *d)
{
    double t[SLOTS];
    int n = 0;
    meet(d);
    const int64_t begin = clock_now_us();
    for (; n < SLOTS && !d->err && (n < 1 || clock_now_us() - begin < FILL_US); n++)
        t[n] = run(d, (uint32_t)n, 1, PAGE_TOK, false);
    return median(t, n);
}

static double time_chunks(struct driver *d, int32_t rows)
{
    double t[REPEATS];
    int n = 0;
    meet(d);
    const int64_t begin = clock_now_us();
    while (goes_on(d, n, REPEATS, begin)) {
        d->pos[0] = 0;
        t[n++] = run(d, 0, 1, (uint32_t)rows, false);
    }
    return median(t, n);
}

static double time_decode(struct driver *d, int32_t rows, bool chooses)
{
    double t[REPEATS];
    int n = 0;
    run(d, 0, (uint32_t)rows, 1, chooses); // the first of its kind may be slower
    meet(d);
    const int64_t begin = clock_now_us();
    while (goes_on(d, n, REPEATS, begin))
        t[n++] = run(d, 0, (uint32_t)rows, 1, chooses);
    return median(t, n);
}

static double mean_depth(const struct driver *d, int32_t rows)
{
    double sum = 0;
    for (int32_t i = 0; i < rows; i++)
        sum += d->pos[i];
    return sum / rows;
}

static void *drive(void *arg)
{
    struct driver *d = arg;
    struct pace_times *t = &d->times;
    BUG_ON(pace_chunk_rows[0] != PAGE_TOK);
    t->chunk_s[0] = time_first_chunks(d);
    for (int i = 0; i < PACE_POINTS; i++) {
        const int32_t rows = pace_decode_rows[i];
        t->depth[i] = mean_depth(d, rows);
        t->decode_s[i] = time_decode(d, rows, false);
        t->choose_s[i] = time_decode(d, rows, true);
        t->depth[i] = (t->depth[i] + mean_depth(d, rows)) / 2;
    }
    for (int i = 1; i < PACE_POINTS; i++)
        t->chunk_s[i] = time_chunks(d, pace_chunk_rows[i]);
    return NULL;
}

// ---- opening

// The last layers that no cache holds; two at least.
static err_t choose_layers(const struct model *m, int32_t *from, struct err_text *why)
{
    uint64_t bytes = 0;
    int32_t at = m->shape.n_layer;
    if (m->shape.ctx_train < CTX)
        return err_say(why, ERR_UNSUPPORTED, "sequences have %d tokens at most, %d are measured",
                       (int)m->shape.ctx_train, (int)CTX);
    while (at > 0 && (bytes < CACHED_BYTES || at + 2 > m->shape.n_layer))
        bytes += model_part_bytes(m, --at);
    if (bytes + model_part_bytes(m, PART_HEAD) > MOST_BYTES)
        return err_say(why, ERR_UNSUPPORTED, "two layers and the head have %.1f GiB, 1 is measured",
                       (double)(bytes + model_part_bytes(m, PART_HEAD)) / (1 << 30));
    *from = at;
    return OK;
}

static void fill_inputs(struct driver *d, const struct model *m)
{
    const size_t n = (size_t)CTX * (size_t)m->shape.dim;
    uint32_t rnd = 12345;
    for (uint32_t i = 0; i < SLOTS * SLOT_PAGES; i++)
        d->pages[i] = i;
    for (uint32_t i = 0; i < CTX; i++) {
        rnd = rnd * 1664525 + 1013904223;
        d->ids[i] = (int32_t)(rnd >> 8) % m->shape.n_vocab;
    }
    for (size_t i = 0; i < n; i++) {
        rnd = rnd * 1664525 + 1013904223;
        d->noise[i] = (float)(int32_t)rnd * (1.0f / 2147483648.0f);
    }
}

static err_t open_driver(struct driver *d, int32_t from, struct err_text *why)
{
    const struct model *m = d->ask->model;
    const size_t n = (size_t)CTX * (size_t)m->shape.dim;
    const struct stage_config c = {.model = m,
                                   .layer_from = (uint32_t)from,
                                   .layer_to = (uint32_t)m->shape.n_layer,
                                   .embed = from == 0,
                                   .head = true,
                                   .settings = {.ctx = CTX,
                                                .page_tok = PAGE_TOK,
                                                .n_page = SLOTS * SLOT_PAGES,
                                                .n_slot = SLOTS,
                                                .max_tok = CTX,
                                                .max_rows = SLOTS,
                                                .in_flight = 1,
                                                .kv_dtype = d->ask->kv_dtype,
                                                .precision = d->ask->precision},
                                   .n_threads = d->ask->n_threads};
    arena_init(&d->arena, 0);
    d->x = calloc(n, sizeof *d->x);
    d->noise = calloc(n, sizeof *d->noise);
    if (!d->x || !d->noise) return err_say(why, ERR_MEMORY, "no memory to measure steps in");
    fill_inputs(d, m);
    d->times.layer_from = from;
    d->times.layer_to = m->shape.n_layer;
    d->times.kv_elem_bits = (int32_t)dtype_kv_bits((enum dtype)d->ask->kv_dtype);
    return stage_open(&c, NULL, &d->stage, why);
}

static void close_driver(struct driver *d)
{
    if (d->stage) stage_close(d->stage);
    arena_fini(&d->arena);
    free(d->x);
    free(d->noise);
}

static void merge(double *out, const struct driver *all, int32_t n, size_t at)
{
    double t[AT_ONCE_MAX];
    for (int32_t i = 0; i < n; i++)
        t[i] = *(const double *)((const char *)&all[i].times + at);
    qsort(t, (size_t)n, sizeof *t, by_value);
    *out = (t[(n - 1) / 2] + t[n / 2]) / 2;
}

static void merge_times(const struct driver *all, int32_t n, struct pace_times *out)
{
    *out = all[0].times;
    for (size_t i = 0; i < PACE_POINTS; i++) {
        const size_t at = i * sizeof(double);
        merge(&out->depth[i], all, n, offsetof(struct pace_times, depth) + at);
        merge(&out->decode_s[i], all, n, offsetof(struct pace_times, decode_s) + at);
        merge(&out->choose_s[i], all, n, offsetof(struct pace_times, choose_s) + at);
        merge(&out->chunk_s[i], all, n, offsetof(struct pace_times, chunk_s) + at);
    }
}

// All of them, or none.
static err_t drive_all(struct driver *all, int32_t n, struct err_text *why)
{
    int32_t n_started = 1;
    for (; n_started < n; n_started++)
        if (pthread_create(&all[n_started].thread, NULL, drive, &all[n_started])) break;
    atomic_store(&all[0].gate->is_off, n_started < n);
    if (n_started == n) drive(&all[0]);
    for (int32_t i = 1; i < n_started; i++)
        pthread_join(all[i].thread, NULL);
    err_t e = n_started == n ? OK : err_say(why, ERR_SYSTEM, "no thread to measure steps in");
    for (int32_t i = 0; !e && i < n; i++)
        if (all[i].err) e = err_say(why, all[i].err, "a step that is measured fails");
    return e;
}

err_t step_times_measure(const struct step_times_ask *ask, struct pace_times *out,
                         struct err_text *why)
{
    int32_t from = 0, n = ask->n_at_once;
    if (n < 1 || n > AT_ONCE_MAX)
        return err_say(why, ERR_INVALID, "%d stages at once, allowed 1 to %d", n, AT_ONCE_MAX);
    err_t e = choose_layers(ask->model, &from, why);
    if (e) return e;
    struct driver *all = calloc((size_t)n, sizeof *all);
    if (!all) return err_say(why, ERR_MEMORY, "no memory to measure steps in");
    struct gate gate = {.n = n};
    for (int32_t i = 0; !e && i < n; i++) {
        all[i].ask = ask;
        all[i].gate = &gate;
        e = open_driver(&all[i], from, why);
    }
    if (!e) e = drive_all(all, n, why);
    if (!e) merge_times(all, n, out);
    for (int32_t i = 0; i < n; i++)
        close_driver(&all[i]);
    free(all);
    return e;
}
