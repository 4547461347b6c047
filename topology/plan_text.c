// The planner's explanation for people: what each device could do alone, and the plan.
#include "topology/plan.h"

#include "proto/base/buf.h"

static double gib(uint64_t bytes)
{
    return (double)bytes / (double)((uint64_t)1 << 30);
}

static void add_memory(struct buf *out, const struct cost_memory *c, const struct cluster_device *d)
{
    uint64_t sum = cost_memory_sum(c);
    buf_printf(out, "weights %.3f + kv %.3f", gib(c->weights), gib(c->kv));
    if (c->state) buf_printf(out, " + state %.3f", gib(c->state));
    buf_printf(out, " + workspace %.3f + reserve %.3f = %.3f of %.3f GiB free", gib(c->workspace),
               gib(c->reserve), gib(sum), gib(d->mem_free_bytes));
    if (sum > d->mem_free_bytes)
        buf_printf(out, ", short by %llu bytes", (unsigned long long)(sum - d->mem_free_bytes));
}

static void add_speed(struct buf *out, const struct plan *p, const struct cost_ask *a)
{
    buf_printf(out, "decode %.3f ms for %d %s at depth %lld: %.1f tokens/s each",
               p->decode_us / 1e3, a->batch, a->batch == 1 ? "request" : "requests",
               (long long)a->depth, p->stream_tok_s);
    if (p->n_stage > 1)
        buf_printf(out, ", %.1f in all with every stage busy", p->total_tok_s);
    else
        buf_printf(out, ", %.1f in all", p->total_tok_s);
    buf_printf(out, "; prefill %.1f tokens/s", p->prefill_tok_s);
}

// The same model on one device: what splitting has to beat.
static void add_alone(struct buf *out, const struct cost_model *m, const struct cluster *c,
                      const struct plan_ask *ask, int32_t device)
{
    struct cluster one = {.n_device = 1, .devices = {c->devices[device]}};
    struct plan_ask just = {.goal = PLAN_FIT, .cost = ask->cost};
    struct plan p;
    struct cost_memory mem = cost_memory_of(m, &ask->cost, &one.devices[0], 0, m->n_layer);
    buf_printf(out, "  %s alone: ", one.devices[0].name);
    if (plan_make(m, &one, &just, &p, NULL) == OK) {
        add_speed(out, &p, &ask->cost);
        buf_str(out, "\n    ");
    } else {
        buf_str(out, "does not fit: ");
    }
    add_memory(out, &mem, &one.devices[0]);
    buf_char(out, '\n');
}

static void add_stage(struct buf *out, const struct cost_model *m, const struct cluster *c,
                      const struct plan *p, int32_t i)
{
    const struct plan_stage *st = &p->stages[i];
    buf_printf(out, "  stage %d on %s: layers %d-%d%s%s, decode %.3f ms, prefill %.3f ms", i,
               c->devices[st->members[0].device].name, st->layer_from, st->layer_to - 1,
               st->layer_from == 0 ? " with embedding" : "",
               st->layer_to == m->n_layer ? " with head" : "", st->decode_us / 1e3,
               st->prefill_us / 1e3);
    if (i + 1 < p->n_stage) buf_printf(out, ", then a hop of %.1f us", st->hop_us);
    buf_str(out, "\n    ");
    add_memory(out, &st->members[0].memory, &c->devices[st->members[0].device]);
    buf_char(out, '\n');
}

void plan_text(const struct cost_model *m, const struct cluster *c, const struct plan_ask *ask,
               const struct plan *p, struct buf *out)
{
    static const char *const goals[] = {"latency", "throughput", "fit"};
    buf_printf(out, "%s: %d layers, room for %lld tokens\n", m->name, m->n_layer,
               (long long)ask->cost.kv_tokens);
    for (int32_t i = 0; i < c->n_device; i++)
        add_alone(out, m, c, ask, i);
    if (!p) return;
    buf_printf(out, "plan for %s: %d %s%s\n  ", goals[p->goal], p->n_stage,
               p->n_stage == 1 ? "stage" : "stages",
               p->order_as_listed ? ", devices in the order listed (too many to try all)" : "");
    add_speed(out, p, &ask->cost);
    buf_char(out, '\n');
    for (int32_t i = 0; i < p->n_stage; i++)
        add_stage(out, m, c, p, i);
}
