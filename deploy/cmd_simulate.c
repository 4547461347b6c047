// trireme simulate: how a cluster that need not exist would serve a trace of requests.
#include "deploy/cmd.h"
#include "deploy/here.h"
#include "deploy/opts.h"
#include "deploy/simulate.h"
#include "proto/base/buf.h"
#include "topology/crowd.h"

#include <stdio.h>
#include <stdlib.h>

struct simulate_args {
    const char *model, *cluster_file, *trace;
    uint32_t copies, ctx, slots, max_tok, queue, split, ttft_ms, itl_ms;
    uint64_t kv_tokens;
    bool json;
};

enum { LANES_SHOWN = 8 };

static void json_times(struct buf *b, const char *name, const struct simulate_times *t)
{
    buf_printf(b, "\"%s\":{\"mean\":%.6f,\"p50\":%.6f,\"p90\":%.6f,\"p99\":%.6f,\"max\":%.6f},",
               name, t->mean, t->p50, t->p90, t->p99, t->most);
}

static void json_result(struct buf *b, const struct simulate_ask *a,
                        const struct simulate_result *r)
{
    buf_printf(
        b,
        "{\"requests\":%u,\"refused\":%u,\"good\":%u,\"seconds\":%.6f,\"prompt_tokens\":%llu,"
        "\"cached_tokens\":%llu,\"output_tokens\":%llu,\"steps\":%llu,\"preemptions\":%llu,",
        r->n_done, r->n_refused, r->n_good, r->seconds, (unsigned long long)r->prompt_tokens,
        (unsigned long long)r->cached_tokens, (unsigned long long)r->output_tokens,
        (unsigned long long)r->steps, (unsigned long long)r->preemptions);
    json_times(b, "ttft_s", &r->ttft);
    json_times(b, "itl_s", &r->itl);
    json_times(b, "end_to_end_s", &r->end_to_end);
    buf_str(b, "\"lanes\":[");
    for (uint32_t i = 0; i < a->n_copy * a->n_lane; i++) {
        const struct plan *p = &a->lanes[i % a->n_lane];
        buf_printf(b, "%s{\"requests\":%u,\"bubble\":[", i ? "," : "", r->lanes[i].n_request);
        for (int32_t k = 0; k < p->n_stage; k++)
            buf_printf(b, "%s%.4f", k ? "," : "", 1 - r->lanes[i].busy[k]);
        buf_str(b, "]}");
    }
    buf_str(b, "]}\n");
}

static void text_times(struct buf *b, const char *name, const struct simulate_times *t)
{
    buf_printf(b, "%-22s %9.1f %9.1f %9.1f %9.1f %9.1f\n", name, t->mean * 1e3, t->p50 * 1e3,
               t->p90 * 1e3, t->p99 * 1e3, t->most * 1e3);
}

static void text_lane(struct buf *b, const struct simulate_ask *a, const struct simulate_lane *l,
                      uint32_t i)
{
    const struct plan *p = &a->lanes[i % a->n_lane];
    buf_printf(b, "lane %-4u %7u requests, idle while there was work:", i + 1, l->n_request);
    for (int32_t k = 0; k < p->n_stage; k++)
        buf_printf(b, " %s %.0f %%", a->cluster->devices[p->stages[k].members[0].device].name,
                   100 * (1 - l->busy[k]));
    buf_char(b, '\n');
}

static void text_result(struct buf *b, const struct simulate_ask *a,
                        const struct simulate_result *r)
{
    const uint32_t n = a->n_copy * a->n_lane;
    const double cached =
        r->prompt_tokens ? 100.0 * (double)r->cached_tokens / (double)r->prompt_tokens : 0;
    buf_printf(
        b,
        "simulated (times from the cost model, decisions from the real scheduler): %u lanes\n"
        "%u requests in %.1f s, %u refused, %u within %.0f ms to the first token and %.0f ms "
        "between tokens\n"
        "%llu prompt tokens (%.0f %% reused), %llu output tokens: %.1f tok/s in all\n\n"
        "%-22s %9s %9s %9s %9s %9s\n",
        n, r->n_done, r->seconds, r->n_refused, r->n_good, a->ttft_s * 1e3, a->itl_s * 1e3,
        (unsigned long long)r->prompt_tokens, cached, (unsigned long long)r->output_tokens,
        r->seconds > 0 ? (double)r->output_tokens / r->seconds : 0, "milliseconds", "mean", "p50",
        "p90", "p99", "max");
    text_times(b, "first token", &r->ttft);
    text_times(b, "between tokens", &r->itl);
    text_times(b, "whole request", &r->end_to_end);
    buf_char(b, '\n');
    for (uint32_t i = 0; i < n && i < LANES_SHOWN; i++)
        text_lane(b, a, &r->lanes[i], i);
    if (n > LANES_SHOWN) buf_printf(b, "and %u lanes more\n", n - LANES_SHOWN);
}

static err_t make_lanes(const struct simulate_args *a, const struct cost_model *m,
                        const struct cluster *c, struct simulate_ask *ask, struct plan *lanes,
                        struct err_text *why)
{
    static const enum share_split splits[] = {SPLIT_COUNT, SPLIT_NONE, SPLIT_TENSOR, SPLIT_EXPERTS};
    struct plan_ask want = {.goal = PLAN_THROUGHPUT,
                            .split = splits[a->split],
                            .cost = cost_ask_of(ask->ctx, (int32_t)ask->n_slot)};
    int32_t n = 0;
    want.cost.kv_tokens = (int64_t)ask->kv_tokens;
    want.cost.chunk = (int32_t)ask->max_tok;
    err_t e = plan_lanes(m, c, &want, lanes, &n, why);
    ask->lanes = lanes;
    ask->n_lane = (uint32_t)n;
    return e;
}

static err_t run(const struct simulate_args *a, const struct model *m, const struct cluster *c,
                 struct err_text *why)
{
    struct cost_model *cost = malloc(sizeof *cost);
    struct plan *lanes = calloc((size_t)c->n_device, sizeof *lanes);
    struct trace trace = {0};
    struct simulate_result r = {0};
    struct buf out = {0};
    const uint32_t trained = m->shape.ctx_train < 8192 ? (uint32_t)m->shape.ctx_train : 8192;
    struct simulate_ask ask = {.model = cost,
                               .cluster = c,
                               .n_copy = a->copies,
                               .ctx = a->ctx ? a->ctx : trained,
                               .n_slot = a->slots,
                               .max_tok = a->max_tok,
                               .queue_max = a->queue,
                               .trace = &trace,
                               .ttft_s = a->ttft_ms / 1e3,
                               .itl_s = a->itl_ms / 1e3};
    ask.kv_tokens = a->kv_tokens ? a->kv_tokens : (uint64_t)ask.ctx * ask.n_slot;
    err_t e = cost && lanes ? trace_open(a->trace, &trace, why)
                            : err_say(why, ERR_MEMORY, "out of memory");
    if (!e) cost_of_model(m, cost);
    if (!e) e = make_lanes(a, cost, c, &ask, lanes, why);
    if (!e) e = simulate(&ask, &r, why);
    if (!e && a->json)
        json_result(&out, &ask, &r);
    else if (!e)
        text_result(&out, &ask, &r);
    if (out.data) fputs(out.data, stdout);
    buf_fini(&out);
    free(r.lanes);
    trace_close(&trace);
    free(lanes);
    free(cost);
    return e;
}

int cmd_simulate(int argc, char **argv)
{
    struct simulate_args a = {.copies = 1,
                              .slots = 16,
                              .max_tok = 512,
                              .queue = 10000,
                              .trace = "agents:8,10",
                              .ttft_ms = 2000,
                              .itl_ms = 200};
    const struct opt opts[] = {
        {"model", OPT_STR, &a.model, "MODEL", "a model, or shape:NAME", 0, 0},
        {"cluster", OPT_STR, &a.cluster_file, "FILE", "the machines; without: this one", 0, 0},
        {"trace", OPT_STR, &a.trace, "FILE",
         "JSON lines (at, prompt, output, session, common), or agents:N,TURNS", 0, 0},
        {"copies", OPT_U32, &a.copies, "N", "so many such clusters side by side", 1, 100000},
        {"split", OPT_CHOICE, &a.split, "any|layers|tensor|experts", "how lanes are divided", 0, 0},
        {"ctx", OPT_U32, &a.ctx, "N", "tokens of one sequence", 1, 1 << 24},
        {"slots", OPT_U32, &a.slots, "N", "sequences at once in a lane", 1, 1024},
        {"kv-tokens", OPT_SIZE, &a.kv_tokens, "N", "tokens of keys and values in a lane", 0, 0},
        {"max-tokens-per-step", OPT_U32, &a.max_tok, "N", "tokens of one step", 2, 8192},
        {"queue", OPT_U32, &a.queue, "N", "requests that may wait in a lane", 1, 0},
        {"ttft-ms", OPT_U32, &a.ttft_ms, "N", "what counts as a good time to the first token", 1,
         0},
        {"itl-ms", OPT_U32, &a.itl_ms, "N", "and between tokens", 1, 0},
        {"json", OPT_FLAG, &a.json, NULL, "as JSON", 0, 0},
        {0},
    };
    const struct opt_spec spec = {
        .usage = "simulate --model MODEL [--cluster FILE] [--trace TRACE] [options]",
        .about = "Replays a trace of requests through the real planner, router and scheduler, with "
                 "the cost model as the clock.",
        .opts = opts,
    };
    struct err_text why = {.s = ""};
    int code = opts_parse(&spec, argc, argv, NULL);
    if (code >= 0) return code;
    if (!a.model) {
        fprintf(stderr, "error: simulate needs --model\n");
        return 2;
    }
    struct cluster *c = NULL;
    struct model *m = NULL;
    err_t e = a.cluster_file ? cluster_load(a.cluster_file, &c, &why) : here_cluster(&c, &why);
    if (!e) e = model_open(a.model, &m, &why);
    if (!e) crowd_apply(c, 0); // all lanes of a host compute at once
    if (!e) e = run(&a, m, c, &why);
    if (m) model_close(m);
    free(c);
    return e ? cmd_fail(e, &why) : 0;
}
