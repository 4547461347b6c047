#include "deploy/bench_predict.h"

#include "deploy/here.h"
#include "proto/base/hex.h"
#include "proto/base/log.h"
#include "topology/crowd.h"
#include "topology/plan.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    CHUNK = 512,      // rows of a prefill step, as the server's
    BALANCE_ROWS = 4, // as coordinator/fleet/place cuts the layers
};
// What others than the computing threads take of the cores for a step and for each row that draws
// a token. Measured 2026-11-23 on two cores of an EPYC (AVX2), SmolLM2, 1, 2 and 3 workers, 1, 4
// and 16 streams: CPU time of threads from /proc/PID/task/*/schedstat.
struct control {
    double step_us, row_us;
};
static const struct control of_coordinator = {190, 40}; // and front door
static const struct control of_last_worker = {150, 10}, of_worker = {75, 5};
static const struct control of_client = {170, 30}; // tests/bench/predict.py: one reads all streams

err_t bench_predict_device(uint32_t n_threads, bool refresh, struct cluster_device *out,
                           struct err_text *why)
{
    char isa[32];
    struct probe p;
    struct measure m, all;
    struct rates r;
    err_t e = probe_read(&p, why);
    if (!e) e = measure_isa(NULL, isa, why);
    struct measure_ask ask = {
        .dir = here_dir(), .isa = isa, .n_threads = (int32_t)n_threads, .refresh = refresh};
    if (!e) e = measure_machine(&p, &ask, &m, why);
    if (!e) e = rate_machine(&p, &ask, &r, why);
    ask.n_threads = p.n_usable;
    if (!e) e = measure_machine(&p, &ask, &all, why);
    if (e) return e;
    *out = (struct cluster_device){
        .host = "here",
        .kind = CLUSTER_CPU,
        .threads = (int32_t)n_threads,
        .mem_bytes = p.mem_total_bytes,
        .mem_free_bytes = p.mem_available_bytes,
        .read_bytes_per_s = m.peaks.read_bytes_per_s,
        .int8_ops_per_s = m.peaks.int8_ops_per_s,
        .f32_flops_per_s = m.peaks.f32_flops_per_s,
        .host_cores = p.n_usable,
        .host_read_bytes_per_s = all.peaks.read_bytes_per_s,
        .rates = r,
    };
    return OK;
}

// ---- measured steps

static const size_t time_lists[] = {
    offsetof(struct pace_times, depth), offsetof(struct pace_times, decode_s),
    offsetof(struct pace_times, choose_s), offsetof(struct pace_times, chunk_s)};

// One line of numbers; whoever changes their order changes the program, whose file is in the key.
static void keep_times(const char *key, const struct pace_times *t)
{
    struct buf text = {0};
    struct err_text why = {{0}};
    buf_printf(&text, "%d %d %d", t->layer_from, t->layer_to, t->kv_elem_bits);
    for (size_t i = 0; i < sizeof time_lists / sizeof *time_lists; i++)
        for (int p = 0; p < PACE_POINTS; p++)
            buf_printf(&text, " %.9g", ((const double *)((const char *)t + time_lists[i]))[p]);
    if (measure_keep(here_dir(), "steps", key, &text, &why))
        log_warn("measured steps are not kept: %s", why.s);
    buf_fini(&text);
}

// False: there are none, or they are damaged.
static bool kept_times(const char *key, const struct model *m, struct pace_times *out)
{
    struct buf text = {0};
    struct pace_times t;
    int n = 0;
    bool ok = measure_kept(here_dir(), "steps", key, &text) == OK;
    buf_char(&text, '\0');
    const char *at = text.data;
    ok = ok && buf_ok(&text) &&
         sscanf(at, "%d %d %d%n", &t.layer_from, &t.layer_to, &t.kv_elem_bits, &n) == 3 &&
         t.layer_from >= 0 && t.layer_from < t.layer_to && t.layer_to == m->shape.n_layer &&
         t.kv_elem_bits > 0 && t.kv_elem_bits <= 32;
    for (size_t i = 0; i < sizeof time_lists / sizeof *time_lists; i++)
        for (int p = 0; ok && p < PACE_POINTS; p++) {
            double *v = (double *)((char *)&t + time_lists[i]) + p;
            at += n;
            ok = sscanf(at, "%lf%n", v, &n) == 1 && *v >= 0 && *v < 1e6;
        }
    if (ok) *out = t;
    buf_fini(&text);
    return ok;
}

err_t bench_predict_times(const struct step_times_ask *ask, bool refresh, struct pace_times *out,
                          struct err_text *why)
{
    char isa[32], hardware[MEASURE_KEY_BYTES], hash[2 * 8 + 1], key[128];
    struct probe p;
    err_t e = probe_read(&p, why);
    if (!e) e = measure_isa(NULL, isa, why);
    if (e) return e;
    const struct measure_ask ma = {.dir = here_dir(), .isa = isa, .n_threads = ask->n_threads};
    measure_key(&p, &ma, hardware);
    hex_write(ask->model->hash, sizeof hash / 2, hash);
    snprintf(key, sizeof key, "%s-%s-%d-%u-%u", hardware, hash, ask->n_at_once, ask->kv_dtype,
             ask->precision);
    if (!refresh && kept_times(key, ask->model, out)) return OK;
    const int lock = measure_lock(ma.dir);
    e = step_times_measure(ask, out, why);
    if (!e) keep_times(key, out);
    measure_unlock(lock);
    return e;
}

// ---- the lane

// Workers that compute at the same time, and where its stages are cut.
struct lane {
    const struct cost_model *m;
    struct cluster cluster; // as measured, each worker alone
    struct cluster busy;    // as they are when `n_busy` compute at once
    struct plan plan;       // its cuts
    uint32_t n_stage;
    struct cluster_link link; // between any two of them
    const struct bench_predict_ask *ask;
};

static uint32_t ceil_div(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

static void fill_cluster(struct cluster *c, const struct cluster_device *d,
                         const struct cluster_link *link, uint32_t n)
{
    c->n_device = (int32_t)n;
    for (uint32_t i = 0; i < n; i++) {
        c->devices[i] = *d;
        snprintf(c->devices[i].name, sizeof c->devices[i].name, "worker-%u", i);
        for (uint32_t k = 0; k < n; k++)
            if (i != k) c->links[i][k] = *link;
    }
}

// Cores that all compute are slower than each by itself (clock, caches, siblings on one core): of
// what they reach together a worker has no more than its part.
static void bound(struct rates *r, const struct rates *all, double part)
{
    for (int32_t i = 0; i < r->n_type && i < all->n_type; i++)
        for (int p = 0; p < RATES_POINTS; p++)
            r->types[i].mul_per_s[p] =
                fmin(r->types[i].mul_per_s[p], part * all->types[i].mul_per_s[p]);
    r->attn_one_flops_per_s = fmin(r->attn_one_flops_per_s, part * all->attn_one_flops_per_s);
    r->attn_many_flops_per_s = fmin(r->attn_many_flops_per_s, part * all->attn_many_flops_per_s);
}

static void crowd_rates(struct lane *l, uint32_t n_busy)
{
    const uint32_t n = n_busy ? n_busy : (uint32_t)l->cluster.n_device;
    l->busy = l->cluster;
    crowd_apply(&l->busy, (int32_t)n_busy);
    for (int32_t i = 0; i < l->busy.n_device; i++) {
        struct cluster_device *d = &l->busy.devices[i];
        if (n * (uint32_t)d->threads >= d->host_cores)
            bound(&d->rates, &l->ask->all, d->threads / fmax(d->host_cores, d->threads));
    }
}

// What n_busy workers (0: all) are when they compute at once: operations as they were measured,
// less what they take from each other; and steps that were measured while as many ran, or as many
// as have cores of their own: more take turns.
static void crowd(struct lane *l, uint32_t n_busy)
{
    const struct bench_predict_ask *a = l->ask;
    const uint32_t n = n_busy ? n_busy : (uint32_t)l->cluster.n_device;
    const uint32_t n_fit = n < a->n_times ? n : a->n_times;
    struct pace pace = {0};
    if (n_fit) {
        crowd_rates(l, n_fit);
        pace = pace_fit(l->m, &l->busy.devices[0], &a->times[n_fit - 1]);
        if (n > n_fit) pace_scale(&pace, (double)n_fit / n);
    }
    crowd_rates(l, n_busy);
    for (int32_t i = 0; i < l->busy.n_device; i++)
        l->busy.devices[i].pace = pace;
}

// As coordinator/fleet/place does it, which knows operations only.
static err_t cut(struct lane *l, const struct bench_predict_ask *ask, struct err_text *why)
{
    const bool is_group = ask->split != SPLIT_NONE && ask->n_worker > 1;
    const uint32_t len = ask->n_prompt + ask->n_decode;
    l->n_stage = is_group ? 1 : ask->n_worker;
    crowd_rates(l, 0);
    const struct plan_ask pa = {.goal = PLAN_THROUGHPUT,
                                .n_stage_min = (int32_t)l->n_stage,
                                .n_stage_max = (int32_t)l->n_stage,
                                .split = is_group ? ask->split : SPLIT_NONE,
                                .n_member = is_group ? (int32_t)ask->n_worker : 1,
                                .divides_dense = true,
                                .cost = {.kv_tokens = (int64_t)len * ask->batch,
                                         .depth = len / 4,
                                         .batch = BALANCE_ROWS,
                                         .chunk = CHUNK,
                                         .kv_elem_bits = ask->kv_elem_bits}};
    return plan_make(l->m, &l->busy, &pa, &l->plan, why);
}

// What a step takes in each stage, and on the way to the next one.
struct passage {
    double stage_us[CLUSTER_DEVICES_MAX], hop_us;
    double sum_us, longest_us;
};

static void pass(const struct lane *l, const struct cost_step *s, struct passage *p)
{
    p->sum_us = p->longest_us = 0;
    p->hop_us = l->n_stage > 1 ? (double)cost_hop_ns(l->m, &l->link, s) / 1e3 : 0;
    for (uint32_t i = 0; i < l->n_stage; i++) {
        const struct plan_stage *st = &l->plan.stages[i];
        struct cost_group g = {.share = {.split = st->split, .n_member = st->n_member},
                               .link = l->link};
        for (int32_t k = 0; k < st->n_member; k++) {
            g.devices[k] = &l->busy.devices[st->members[k].device];
            g.share.part[k] = st->members[k].part;
        }
        const struct cost_time t = cost_time_of(l->m, &g, s, st->layer_from, st->layer_to);
        p->stage_us[i] = (double)t.ns / 1e3;
        p->sum_us += p->stage_us[i];
        p->longest_us = fmax(p->longest_us, p->stage_us[i]);
    }
}

// Stages that compute at once: as many as there are steps and cores for them. Who waits for a step
// leaves its core to others.
static void crowd_stages(struct lane *l, const struct bench_predict_ask *ask, uint32_t n_step,
                         double n_core)
{
    uint32_t n = n_step < l->n_stage ? n_step : l->n_stage;
    while (n > 1 && n * ask->n_threads > n_core)
        n--;
    crowd(l, l->n_stage > 1 ? n : 0);
}

static double control_us(const struct bench_predict_ask *ask, uint32_t n_draw)
{
    const struct control all[] = {of_coordinator, of_last_worker, of_client};
    double us = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        us += all[i].step_us + all[i].row_us * n_draw;
    us += (ask->n_worker - 1) * (of_worker.step_us + of_worker.row_us * n_draw);
    return ask->is_served ? us : 0;
}

// How long a step keeps the cores, which all workers' threads and all others want. Threads of a
// stage wait for each other with their cores in hand, and so do members of a group: what keeps one
// keeps all.
static double work_us(const struct lane *l, const struct bench_predict_ask *ask,
                      const struct passage *p, uint32_t n_draw, double n_core)
{
    const uint32_t n_member = l->n_stage > 1 ? 1 : ask->n_worker;
    const double threads = fmin((double)ask->n_threads * n_member, n_core);
    return (p->sum_us + control_us(ask, n_draw)) * threads / n_core;
}

// The scheduler deals the running requests out to as many steps as there are stages, some with one
// row more than others. While one is in a stage the others are in other stages; each must go round
// before its requests' next tokens. A round takes as long as the longest step's way, all that the
// busiest stage does, or all that the cores do, whichever is longest.
static double decode_tok_s(struct lane *l, const struct bench_predict_ask *ask, double n_core)
{
    const uint32_t n_step = ask->batch < l->n_stage ? ask->batch : l->n_stage;
    double way_us = 0, stage_us = 0, cores_us = 0;
    crowd_stages(l, ask, n_step, n_core);
    for (uint32_t i = 0; i < n_step; i++) {
        const uint32_t rows = ask->batch / n_step + (i < ask->batch % n_step);
        const struct cost_step s = {.rows = (int32_t)rows,
                                    .n_seq = (int32_t)rows,
                                    .logit_rows = (int32_t)rows,
                                    .depth = ask->n_prompt + ask->n_decode / 2,
                                    .kv_elem_bits = ask->kv_elem_bits};
        struct passage p;
        pass(l, &s, &p);
        // The last hop: ids to the first stage.
        way_us = fmax(way_us, p.sum_us + p.hop_us * l->n_stage);
        stage_us += p.longest_us;
        cores_us += work_us(l, ask, &p, rows, n_core);
    }
    return ask->batch * 1e6 / fmax(way_us, fmax(stage_us, cores_us));
}

// As the scheduler cuts a prompt for its stages.
static uint32_t piece_of(const struct lane *l, uint32_t n_prompt)
{
    enum { PIECES = 4 };
    uint32_t piece = n_prompt;
    if (l->n_stage > 1) {
        piece = ceil_div(n_prompt, PIECES * l->n_stage);
        piece = piece < plan_piece_tok(l->m, false) ? plan_piece_tok(l->m, false) : piece;
        if (piece > n_prompt) piece = n_prompt;
    }
    return piece < CHUNK ? piece : CHUNK;
}

// Pieces follow each other through the stages, each when its stage is free; only the last draws a
// token. Not faster than the cores do it all.
static double prompt_tok_s(struct lane *l, const struct bench_predict_ask *ask, double n_core)
{
    const uint32_t most = piece_of(l, ask->n_prompt), n_piece = ceil_div(ask->n_prompt, most);
    double free_us[CLUSTER_DEVICES_MAX] = {0}, all_us = 0; // when a stage is done with its pieces
    crowd_stages(l, ask, n_piece, n_core);
    for (uint32_t i = 0; i < n_piece; i++) {
        const uint32_t from = i * most, rows = i + 1 < n_piece ? most : ask->n_prompt - from;
        const struct cost_step s = {.rows = (int32_t)rows,
                                    .n_seq = 1,
                                    .logit_rows = i + 1 == n_piece,
                                    .depth = from,
                                    .kv_elem_bits = ask->kv_elem_bits};
        struct passage p;
        double us = 0;
        pass(l, &s, &p);
        for (uint32_t k = 0; k < l->n_stage; k++) {
            us = fmax(us + (k ? p.hop_us : 0), free_us[k]) + p.stage_us[k];
            free_us[k] = us;
        }
        all_us += work_us(l, ask, &p, 1, n_core);
    }
    return ask->n_prompt * 1e6 / fmax(all_us, free_us[l->n_stage - 1]);
}

err_t bench_predict(const struct cost_model *m, const struct cluster_device *d,
                    const struct bench_predict_ask *ask, struct bench_predict *out,
                    struct err_text *why)
{
    struct lane *l = calloc(1, sizeof *l);
    if (!l) return err_say(why, ERR_MEMORY, "out of memory");
    l->m = m;
    l->ask = ask;
    l->link = ask->link.bytes_per_s > 0 ? ask->link : cluster_same_host;
    fill_cluster(&l->cluster, d, &l->link, ask->n_worker);
    err_t e = cut(l, ask, why);
    if (!e)
        *out = (struct bench_predict){decode_tok_s(l, ask, d->host_cores),
                                      prompt_tok_s(l, ask, d->host_cores)};
    free(l);
    return e;
}
