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
    SLICE_US = 30000,    // of a kind of step in one round
    SLICE_STEPS = 8,     // at most
    ROUNDS_US = 1800000, // after which no other round begins
    ROUNDS = 6,
    AT_ONCE_MAX = 64,
};
_Static_assert(PAGE_TOK + 2 * PACE_POINTS * (SLICE_STEPS + 1) * ROUNDS < CTX, "decode has room");

// All begin a point together.
struct gate {
    atomic_int n_come; // all that ever came
    atomic_bool is_off;
    atomic_bool goes_on; // whether another round follows: the first driver says so
    int n;
};

// Steps of one kind, over all rounds.
struct kind {
    double s, depth; // sums
    int n;
};

// One stage and the thread that drives it.
struct driver {
    const struct step_times_ask *ask;
    struct gate *gate;
    bool is_first;
    pthread_t thread;
    struct stage *stage;
    struct arena arena;
    float *x, *noise; // (CTX, dim)
    uint32_t pages[SLOTS * SLOT_PAGES];
    int32_t ids[CTX];
    uint32_t pos[SLOTS];
    uint64_t step;
    struct kind decode[PACE_POINTS], choose[PACE_POINTS], chunk[PACE_POINTS];
    struct pace_times times;
    err_t err;
};

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
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

// Every driver comes here as often as the others, whatever went wrong.
static void meet(struct driver *d)
{
    struct gate *g = d->gate;
    const int mine = atomic_fetch_add(&g->n_come, 1);
    const int all = (mine / g->n + 1) * g->n;
    while (atomic_load(&g->n_come) < all && !atomic_load(&g->is_off))
        sched_yield();
}

static double mean_depth(const struct driver *d, int32_t rows)
{
    double sum = 0;
    for (int32_t i = 0; i < rows; i++)
        sum += d->pos[i];
    return sum / rows;
}

static void time_chunk(struct driver *d, uint32_t slot, int32_t rows, struct kind *k)
{
    d->pos[slot] = 0;
    k->s += run(d, slot, 1, (uint32_t)rows, false);
    k->n++;
}

static void time_decode(struct driver *d, int32_t rows, bool chooses, struct kind *k)
{
    run(d, 0, (uint32_t)rows, 1, chooses); // the first of its kind may be slower
    meet(d);
    const int64_t begin = clock_now_us();
    for (int i = 0; i < SLICE_STEPS && (!i || clock_now_us() - begin < SLICE_US) && !d->err; i++) {
        k->depth += mean_depth(d, rows);
        k->s += run(d, 0, (uint32_t)rows, 1, chooses);
        k->n++;
    }
}

// Some steps of every kind: what slows the machine down for a while slows all of them.
static void time_round(struct driver *d)
{
    for (int i = 1; i < PACE_POINTS; i++) {
        meet(d);
        time_chunk(d, 0, pace_chunk_rows[i], &d->chunk[i]);
    }
    meet(d);
    time_chunk(d, 0, pace_chunk_rows[0], &d->chunk[0]); // decode looks back on it
    for (int i = 0; i < PACE_POINTS; i++) {
        time_decode(d, pace_decode_rows[i], false, &d->decode[i]);
        time_decode(d, pace_decode_rows[i], true, &d->choose[i]);
    }
}

// Means, not medians: what holds a step up now and then holds served ones up as often.
static void settle(struct driver *d)
{
    struct pace_times *t = &d->times;
    for (int i = 0; i < PACE_POINTS; i++) {
        const struct kind *one = &d->decode[i], *two = &d->choose[i];
        if (!one->n || !two->n || !d->chunk[i].n) continue; // it failed
        t->decode_s[i] = one->s / one->n;
        t->choose_s[i] = two->s / two->n;
        t->depth[i] = (one->depth + two->depth) / (one->n + two->n);
        t->chunk_s[i] = d->chunk[i].s / d->chunk[i].n;
    }
}

static void *drive(void *arg)
{
    struct driver *d = arg;
    struct gate *g = d->gate;
    const int64_t begin = clock_now_us();
    BUG_ON(pace_chunk_rows[0] != PAGE_TOK);
    for (uint32_t i = 0; i < SLOTS; i++) // something to look back on; the first step is slow
        run(d, i, 1, PAGE_TOK, false);
    for (int i = 0; i < ROUNDS; i++) {
        time_round(d);
        meet(d);
        if (d->is_first) atomic_store(&g->goes_on, clock_now_us() - begin < ROUNDS_US && !d->err);
        meet(d);
        if (!atomic_load(&g->goes_on)) break;
    }
    settle(d);
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
        all[i].is_first = i == 0;
        e = open_driver(&all[i], from, why);
    }
    if (!e) e = drive_all(all, n, why);
    if (!e) merge_times(all, n, out);
    for (int32_t i = 0; i < n; i++)
        close_driver(&all[i]);
    free(all);
    return e;
}
