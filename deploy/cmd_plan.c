// trireme plan: how MODEL would be split over a cluster, what it costs, and why. Reads headers
// only.
#include "deploy/cmd.h"
#include "deploy/here.h"
#include "deploy/opts.h"
#include "proto/base/buf.h"
#include "proto/base/hex.h"
#include "topology/plan_rank.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct plan_args {
    const char *path, *cluster_file;
    uint32_t goal, stages, ctx, batch, split;
    bool json, explain;
};

static void json_str(struct buf *b, const char *s)
{
    buf_json_str(b, s, strlen(s));
}

static void json_memory(struct buf *b, const struct cost_memory *m)
{
    buf_printf(b,
               "{\"weights\":%llu,\"kv\":%llu,\"state\":%llu,\"workspace\":%llu,\"frames\":%llu,"
               "\"reserve\":%llu}",
               (unsigned long long)m->weights, (unsigned long long)m->kv,
               (unsigned long long)m->state, (unsigned long long)m->workspace,
               (unsigned long long)m->comms, (unsigned long long)m->reserve);
}

static void json_stage(struct buf *b, const struct cluster *c, const struct plan_stage *s)
{
    static const char *const kinds[COST_KINDS] = {
        [COST_OF_ATTENTION] = "attention_us", [COST_OF_FFN] = "ffn_us",
        [COST_OF_EXPERTS] = "experts_us",     [COST_OF_ENDS] = "ends_us",
        [COST_OF_EXCHANGE] = "exchange_us",
    };
    buf_printf(b,
               "{\"layers\":[%d,%d],\"split\":\"%s\",\"decode_us\":%.1f,\"prefill_us\":%.1f,"
               "\"hop_us\":%.1f",
               s->layer_from, s->layer_to, share_split_name(s->split), s->decode_us, s->prefill_us,
               s->hop_us);
    for (int k = 0; k < COST_KINDS; k++)
        buf_printf(b, ",\"%s\":%.1f", kinds[k], s->kinds_us[k]);
    buf_str(b, ",\"members\":[");
    for (int32_t k = 0; k < s->n_member; k++) {
        const struct plan_member *m = &s->members[k];
        buf_str(b, k ? ",{\"device\":" : "{\"device\":");
        json_str(b, c->devices[m->device].name);
        buf_printf(b, ",\"part\":%.5f,\"decode_us\":%.1f,\"prefill_us\":%.1f,\"memory\":",
                   (double)m->part / SHARE_TOTAL, m->decode_us, m->prefill_us);
        json_memory(b, &m->memory);
        buf_char(b, '}');
    }
    buf_str(b, "]}");
}

static void json_plan(struct buf *b, const struct cluster *c, const struct plan *p)
{
    char hash[65];
    hex_write(p->hash, 32, hash);
    buf_printf(b,
               "{\"hash\":\"%s\",\"decode_us\":%.1f,\"bottleneck_us\":%.1f,\"stream_tok_s\":%.2f,"
               "\"total_tok_s\":%.2f,\"prefill_tok_s\":%.2f,\"stages\":[",
               hash, p->decode_us, p->bottleneck_us, p->stream_tok_s, p->total_tok_s,
               p->prefill_tok_s);
    for (int32_t i = 0; i < p->n_stage; i++) {
        if (i) buf_char(b, ',');
        json_stage(b, c, &p->stages[i]);
    }
    buf_str(b, "]}");
}

static void json_option(struct buf *b, const struct cluster *c, const struct plan_option *o)
{
    buf_str(b, "{\"kind\":");
    json_str(b, plan_kind_name(o->kind));
    if (o->n_lane)
        buf_printf(b,
                   ",\"decode_us\":%.1f,\"stream_tok_s\":%.2f,\"total_tok_s\":%.2f,"
                   "\"prefill_tok_s\":%.2f",
                   o->decode_us, o->stream_tok_s, o->total_tok_s, o->prefill_tok_s);
    buf_str(b, ",\"why\":");
    json_str(b, o->why);
    buf_str(b, ",\"lanes\":[");
    for (int32_t i = 0; i < o->n_lane; i++) {
        if (i) buf_char(b, ',');
        json_plan(b, c, &o->lanes[i]);
    }
    buf_str(b, "]}");
}

static void json_ranking(struct buf *b, const struct cluster *c, const struct plan_ask *ask,
                         const struct plan_ranking *r)
{
    static const char *const goals[] = {"latency", "throughput", "fit"};
    buf_printf(b, "{\"goal\":\"%s\",\"batch\":%d,\"depth\":%lld,\"verdict\":", goals[ask->goal],
               ask->cost.batch, (long long)ask->cost.depth);
    json_str(b, r->verdict);
    buf_str(b, ",\"measured\":{");
    for (int32_t i = 0; i < c->n_device; i++) {
        if (i) buf_char(b, ',');
        json_str(b, c->devices[i].name);
        buf_str(b, c->devices[i].rates.n_type ? ":true" : ":false");
    }
    buf_str(b, "},\"plans\":[");
    for (int32_t i = 0; i < r->n; i++) {
        if (i) buf_char(b, ',');
        json_option(b, c, &r->options[i]);
    }
    buf_str(b, "]}\n");
}

static err_t make(const struct plan_args *a, const struct model *m, const struct cluster *c,
                  struct err_text *why)
{
    static const enum share_split splits[] = {SPLIT_COUNT, SPLIT_NONE, SPLIT_TENSOR, SPLIT_EXPERTS};
    struct cost_model *cost = malloc(sizeof *cost);
    struct plan_ranking *r = NULL;
    struct buf out = {0};
    if (!cost) return err_say(why, ERR_MEMORY, "out of memory");
    cost_of_model(m, cost);
    const int64_t ctx = m->shape.ctx_train < 8192 ? m->shape.ctx_train : 8192;
    const struct plan_ask ask = {.goal = (enum plan_goal)a->goal,
                                 .n_stage_min = (int32_t)a->stages,
                                 .n_stage_max = (int32_t)a->stages,
                                 .split = splits[a->split],
                                 .divides_dense = true,
                                 .cost = cost_ask_of(a->ctx ? a->ctx : ctx, (int32_t)a->batch)};
    err_t err = plan_rank(cost, c, &ask, &r, why);
    if (!err && a->json)
        json_ranking(&out, c, &ask, r);
    else if (!err)
        plan_rank_text(cost, c, &ask, r, a->explain, &out);
    else if (!a->json && err == ERR_CAPACITY)
        plan_text(cost, c, &ask, NULL, &out); // what each device is short of
    if (out.data) fputs(out.data, stdout);
    buf_fini(&out);
    if (r) plan_rank_free(r);
    free(cost);
    return err;
}

int cmd_plan(int argc, char **argv)
{
    struct plan_args a = {.batch = 1};
    const char *args[1];
    const struct opt opts[] = {
        {"cluster", OPT_STR, &a.cluster_file, "FILE", "cluster file (this machine alone)", 0, 0},
        {"goal", OPT_CHOICE, &a.goal, "latency|throughput|fit",
         "what the plan is best at (latency)", 0, 0},
        {"split", OPT_CHOICE, &a.split, "any|layers|tensor|experts",
         "groups to think of besides layers (any)", 0, 0},
        {"stages", OPT_U32, &a.stages, "N", "exactly N stages (whatever is best)", 1,
         CLUSTER_DEVICES_MAX},
        {"ctx", OPT_U32, &a.ctx, "N", "tokens of one sequence (model's, at most 8192)", 16,
         1 << 24},
        {"batch", OPT_U32, &a.batch, "N", "sequences at once (1)", 1, 1024},
        {"explain", OPT_FLAG, &a.explain, NULL, "also where the time of a step goes", 0, 0},
        {"json", OPT_FLAG, &a.json, NULL, "print JSON", 0, 0},
        {0},
    };
    const struct opt_spec spec = {"plan MODEL [options]",
                                  "Shows how MODEL would be split over a cluster, and why.", opts,
                                  1, 1};
    int code = opts_parse(&spec, argc, argv, args);
    if (code >= 0) return code;
    struct err_text why = {0};
    struct model *m = NULL;
    struct cluster *c = NULL;
    err_t err = model_open(args[0], &m, &why);
    if (!err)
        err = a.cluster_file ? cluster_load(a.cluster_file, &c, &why) : here_cluster(&c, &why);
    if (!err) err = make(&a, m, c, &why);
    free(c);
    if (m) model_close(m);
    return err ? cmd_fail(err, &why) : 0;
}
