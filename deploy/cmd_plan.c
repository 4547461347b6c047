// trireme plan: how MODEL would be split over a cluster, what it costs, and why. Reads headers
// only.
#include "deploy/cmd.h"
#include "deploy/here.h"
#include "deploy/opts.h"
#include "proto/base/buf.h"
#include "topology/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct plan_args {
    const char *path, *cluster_file;
    uint32_t goal, stages, ctx, batch;
    bool json;
};

static void json_memory(struct buf *b, const struct cost_memory *m)
{
    buf_printf(
        b, "{\"weights\":%llu,\"kv\":%llu,\"state\":%llu,\"workspace\":%llu,\"reserve\":%llu}",
        (unsigned long long)m->weights, (unsigned long long)m->kv, (unsigned long long)m->state,
        (unsigned long long)m->workspace, (unsigned long long)m->reserve);
}

static void json_plan(struct buf *b, const struct cluster *c, const struct plan *p)
{
    static const char *const goals[] = {"latency", "throughput", "fit"};
    buf_printf(b, "{\"goal\":\"%s\",\"hash\":\"", goals[p->goal]);
    for (int i = 0; i < 32; i++)
        buf_printf(b, "%02x", p->hash[i]);
    buf_printf(b,
               "\",\"decode_us\":%.1f,\"bottleneck_us\":%.1f,\"stream_tok_s\":%.2f,"
               "\"total_tok_s\":%.2f,\"prefill_tok_s\":%.2f,\"stages\":[",
               p->decode_us, p->bottleneck_us, p->stream_tok_s, p->total_tok_s, p->prefill_tok_s);
    for (int32_t i = 0; i < p->n_stage; i++) {
        const struct plan_stage *s = &p->stages[i];
        buf_str(b, i ? ",{\"device\":" : "{\"device\":");
        buf_json_str(b, c->devices[s->members[0].device].name, strlen(c->devices[s->members[0].device].name));
        buf_printf(b,
                   ",\"layers\":[%d,%d],\"decode_us\":%.1f,\"prefill_us\":%.1f,\"hop_us\":%.1f,"
                   "\"memory\":",
                   s->layer_from, s->layer_to, s->decode_us, s->prefill_us, s->hop_us);
        json_memory(b, &s->members[0].memory);
        buf_char(b, '}');
    }
    buf_str(b, "]}\n");
}

static err_t make(const struct plan_args *a, const struct model *m, const struct cluster *c,
                  struct err_text *why)
{
    struct cost_model *cost = malloc(sizeof *cost);
    struct plan *p = malloc(sizeof *p);
    struct buf out = {0};
    err_t err = cost && p ? OK : err_say(why, ERR_MEMORY, "out of memory");
    struct plan_ask ask = {.goal = (enum plan_goal)a->goal,
                           .n_stage_min = (int32_t)a->stages,
                           .n_stage_max = (int32_t)a->stages};
    if (!err) {
        cost_of_model(m, cost);
        int64_t ctx = m->shape.ctx_train < 8192 ? m->shape.ctx_train : 8192;
        ask.cost = cost_ask_of(a->ctx ? a->ctx : ctx, (int32_t)a->batch);
        err = plan_make(cost, c, &ask, p, why);
        if (!err && a->json)
            json_plan(&out, c, p);
        else if (!a->json)
            plan_text(cost, c, &ask, err ? NULL : p, &out);
        if (out.data) fputs(out.data, stdout);
    }
    buf_fini(&out);
    free(cost);
    free(p);
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
        {"stages", OPT_U32, &a.stages, "N", "exactly N stages (whatever is best)", 1,
         CLUSTER_DEVICES_MAX},
        {"ctx", OPT_U32, &a.ctx, "N", "tokens of one sequence (model's, at most 8192)", 16,
         1 << 24},
        {"batch", OPT_U32, &a.batch, "N", "sequences at once (1)", 1, 1024},
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
