#include "deploy/bench_predict.h"

#include "deploy/here.h"
#include "topology/crowd.h"
#include "topology/plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    CHUNK = 512,      // rows of a prefill step, as the server's
    BALANCE_ROWS = 4, // as coordinator/fleet/place cuts the layers
};
// What coordinator, front door and the workers' control threads take of the cores for a step and
// for each row of it (measured: /proc/PID/task/*/schedstat, workers that are processes).
static const double CONTROL_US = 120, CONTROL_ROW_US = 30;

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

// ---- the lane

// Workers that compute at the same time, and where its stages are cut.
struct lane {
    const struct cost_model *m;
    struct cluster cluster; // as measured, each worker alone
    struct cluster busy;    // as they are when `n_busy` compute at once
    struct plan plan;       // its cuts
    uint32_t n_stage;
};

static uint32_t ceil_div(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

static void fill_cluster(struct cluster *c, const struct cluster_device *d, uint32_t n)
{
    c->n_device = (int32_t)n;
    for (uint32_t i = 0; i < n; i++) {
        c->devices[i] = *d;
        snprintf(c->devices[i].name, sizeof c->devices[i].name, "worker-%u", i);
        for (uint32_t k = 0; k < n; k++)
            if (i != k) c->links[i][k] = cluster_same_host;
    }
}

static void crowd(struct lane *l, uint32_t n_busy)
{
    l->busy = l->cluster;
    crowd_apply(&l->busy, (int32_t)n_busy);
}

// As coordinator/fleet/place does it.
static err_t cut(struct lane *l, const struct bench_predict_ask *ask, struct err_text *why)
{
    const bool is_group = ask->split != SPLIT_NONE && ask->n_worker > 1;
    const uint32_t len = ask->n_prompt + ask->n_decode;
    l->n_stage = is_group ? 1 : ask->n_worker;
    crowd(l, 0);
    const struct plan_ask pa = {.goal = PLAN_THROUGHPUT,
                                .n_stage_min = (int32_t)l->n_stage,
                                .n_stage_max = (int32_t)l->n_stage,
                                .split = is_group ? ask->split : SPLIT_NONE,
                                .n_member = is_group ? (int32_t)ask->n_worker : 1,
                                .cost = {.kv_tokens = (int64_t)len * ask->batch,
                                         .depth = len / 4,
                                         .batch = BALANCE_ROWS,
                                         .chunk = CHUNK,
                                         .kv_elem_bits = ask->kv_elem_bits}};
    return plan_make(l->m, &l->busy, &pa, &l->plan, why);
}

// A step through all stages, and its longest one.
struct passage {
    double sum_us, longest_us;
};

static struct passage pass(const struct lane *l, const struct cost_step *s)
{
    struct passage p = {0};
    for (uint32_t i = 0; i < l->n_stage; i++) {
        const struct plan_stage *st = &l->plan.stages[i];
        struct cost_group g = {.share = {.split = st->split, .n_member = st->n_member},
                               .link = cluster_same_host};
        for (int32_t k = 0; k < st->n_member; k++) {
            g.devices[k] = &l->busy.devices[st->members[k].device];
            g.share.part[k] = st->members[k].part;
        }
        const struct cost_time t = cost_time_of(l->m, &g, s, st->layer_from, st->layer_to);
        const double us = (double)t.ns / 1e3;
        p.sum_us += us;
        p.longest_us = fmax(p.longest_us, us);
        if (l->n_stage > 1) p.sum_us += (double)cost_hop_ns(l->m, &cluster_same_host, s) / 1e3;
    }
    return p;
}

// The scheduler deals the running requests out to as many steps as there are stages. While one is
// in a stage the others are in other stages; each must go round before its requests' next tokens.
static double decode_tok_s(struct lane *l, const struct bench_predict_ask *ask, double n_core)
{
    const uint32_t rows = ceil_div(ask->batch, l->n_stage), n_step = ceil_div(ask->batch, rows);
    const struct cost_step s = {.rows = (int32_t)rows,
                                .n_seq = (int32_t)rows,
                                .logit_rows = (int32_t)rows,
                                .depth = ask->n_prompt + ask->n_decode / 2,
                                .kv_elem_bits = ask->kv_elem_bits};
    crowd(l, l->n_stage > 1 ? n_step : 0);
    const struct passage p = pass(l, &s);
    double round_us = fmax(p.sum_us, n_step * p.longest_us);
    const uint32_t n_busy = l->n_stage > 1 ? n_step : ask->n_worker;
    // With all cores busy what else is to be done is done instead.
    if (n_busy * ask->n_threads >= n_core)
        round_us += n_step * (CONTROL_US + CONTROL_ROW_US * rows) / n_core;
    return ask->batch * 1e6 / round_us;
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

// Pieces follow each other through the stages; only the last draws a token.
static double prompt_tok_s(struct lane *l, const struct bench_predict_ask *ask, double n_core)
{
    const uint32_t most = piece_of(l, ask->n_prompt), n_piece = ceil_div(ask->n_prompt, most);
    double us = 0;
    crowd(l, n_piece < l->n_stage ? n_piece : 0);
    for (uint32_t i = 0; i < n_piece; i++) {
        const uint32_t from = i * most, rows = i + 1 < n_piece ? most : ask->n_prompt - from;
        const struct cost_step s = {.rows = (int32_t)rows,
                                    .n_seq = 1,
                                    .logit_rows = i + 1 == n_piece,
                                    .depth = from,
                                    .kv_elem_bits = ask->kv_elem_bits};
        const struct passage p = pass(l, &s);
        us += i + 1 < n_piece ? p.longest_us : p.sum_us;
        us += (CONTROL_US + CONTROL_ROW_US) / n_core;
    }
    return ask->n_prompt * 1e6 / us;
}

err_t bench_predict(const struct cost_model *m, const struct cluster_device *d,
                    const struct bench_predict_ask *ask, struct bench_predict *out,
                    struct err_text *why)
{
    struct lane *l = calloc(1, sizeof *l);
    if (!l) return err_say(why, ERR_MEMORY, "out of memory");
    l->m = m;
    fill_cluster(&l->cluster, d, ask->n_worker);
    err_t e = cut(l, ask, why);
    if (!e)
        *out = (struct bench_predict){decode_tok_s(l, ask, d->host_cores),
                                      prompt_tok_s(l, ask, d->host_cores)};
    free(l);
    return e;
}
