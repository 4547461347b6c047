#include "deploy/bench_predict.h"

#include "deploy/here.h"
#include "topology/plan.h"

#include <stdio.h>
#include <stdlib.h>

enum { CHUNK = 512 }; // rows of a prefill step, as the server's
// What coordinator, front door and the workers' control threads take of the cores for a step and
// for each row of it (measured: /proc/PID/task/*/schedstat, workers that are processes).
static const double CONTROL_US = 120, CONTROL_ROW_US = 30;

err_t bench_predict_device(uint32_t n_threads, struct cluster_device *out, struct err_text *why)
{
    char isa[32];
    struct probe p;
    struct measure m;
    struct rates r;
    err_t e = probe_read(&p, why);
    if (!e) e = measure_isa(NULL, isa, why);
    const struct measure_ask ask = {.dir = here_dir(), .isa = isa, .n_threads = (int32_t)n_threads};
    if (!e) e = measure_machine(&p, &ask, &m, why);
    if (!e) e = rate_machine(&p, &ask, &r, why);
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
        .rates = r,
    };
    return OK;
}

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

// As the scheduler cuts a prompt for its stages.
static uint32_t piece_of(const struct cost_model *m, const struct bench_predict_ask *ask)
{
    enum { PIECES = 4 };
    uint32_t piece = ask->n_prompt;
    if (ask->n_worker > 1) {
        const uint32_t least = plan_piece_tok(m, false);
        piece = ceil_div(ask->n_prompt, PIECES * ask->n_worker);
        if (piece < least) piece = least;
        if (piece > ask->n_prompt) piece = ask->n_prompt;
    }
    return piece < CHUNK ? piece : CHUNK;
}

// A prompt in chunks that follow each other through the stages.
static double prompt_seconds(const struct plan *p, uint32_t n_chunk)
{
    double longest = 0;
    for (int32_t i = 0; i < p->n_stage; i++)
        if (p->stages[i].prefill_us > longest) longest = p->stages[i].prefill_us;
    return (p->prefill_us + (n_chunk - 1) * longest) * 1e-6;
}

err_t bench_predict(const struct cost_model *m, const struct cluster_device *d,
                    const struct bench_predict_ask *ask, struct bench_predict *out,
                    struct err_text *why)
{
    struct cluster *c = calloc(1, sizeof *c);
    struct plan *p = calloc(1, sizeof *p);
    // The scheduler deals the running requests out to as many steps as there are stages.
    const uint32_t n = ask->n_worker, rows = ceil_div(ask->batch, n);
    const uint32_t n_step = ask->batch < n ? ask->batch : n;
    const uint32_t len = ask->n_prompt + ask->n_decode;
    struct plan_ask pa = {.goal = PLAN_THROUGHPUT,
                          .n_stage_min = (int32_t)n,
                          .n_stage_max = (int32_t)n,
                          .cost = {.kv_tokens = (int64_t)len * ask->batch,
                                   .depth = ask->n_prompt + ask->n_decode / 2,
                                   .batch = (int32_t)rows,
                                   .chunk = (int32_t)piece_of(m, ask),
                                   .kv_elem_bits = ask->kv_elem_bits}};
    err_t e = c && p ? OK : err_say(why, ERR_MEMORY, "out of memory");
    if (!e) {
        fill_cluster(c, d, n);
        e = plan_make(m, c, &pa, p, why);
    }
    struct bench_predict r = {0};
    if (!e) {
        // A step ends every decode_us / n_step, but not before the longest stage is through; and
        // workers that share cores take turns.
        const double busy = (double)(n_step * ask->n_threads) / ask->n_core;
        double us = p->decode_us / n_step;
        if (us < p->bottleneck_us) us = p->bottleneck_us;
        us *= busy > 1 ? busy : 1;
        if (busy >= 1) us += (CONTROL_US + CONTROL_ROW_US * rows) / ask->n_core;
        // Some steps have a row less than the largest, by which the time goes.
        r.decode_tok_s = ask->batch * 1e6 / (us * n_step);
        pa.cost.depth = ask->n_prompt > CHUNK ? (ask->n_prompt - CHUNK) / 2 : 0;
        e = plan_make(m, c, &pa, p, why);
    }
    if (!e) {
        r.prompt_tok_s =
            ask->n_prompt / prompt_seconds(p, ceil_div(ask->n_prompt, piece_of(m, ask)));
        *out = r;
    }
    free(c);
    free(p);
    return e;
}
