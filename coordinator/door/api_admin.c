#include "coordinator/door/api_admin.h"
#include "coordinator/door/exchange.h"
#include "proto/base/json.h"

#include <string.h>

enum { BODY_TREE_BYTES = 64 << 10, DRAIN_GRACE_MAX_S = 86400 };

static void answer(struct exchange *x, int status, const char *json)
{
    struct buf out = {0};
    buf_str(&out, json);
    exchange_json(x, status, &out);
}

void api_admin_livez(struct exchange *x)
{
    answer(x, 200, "{\"status\":\"ok\"}");
}

void api_admin_readyz(struct exchange *x)
{
    static const char *const words[] = {
        [ENGINE_LOADING] = "loading",   [ENGINE_READY] = "ok",
        [ENGINE_DEGRADED] = "degraded", [ENGINE_NO_CAPACITY] = "no_capacity",
        [ENGINE_DRAINING] = "draining",
    };
    struct engine *e = x->door->engine;
    const char *reason = NULL;
    enum engine_state state = e->ops->state(e, &reason);
    if (x->door->draining) state = ENGINE_DRAINING;
    struct buf out = {0};
    buf_printf(&out, "{\"status\":\"%s\"", words[state]);
    if (state != ENGINE_READY) {
        buf_str(&out, ",\"reason\":");
        if (reason)
            buf_json_str(&out, reason, strlen(reason));
        else
            buf_str(&out, "null");
        x->no.retry_after_s = 5;
    }
    buf_char(&out, '}');
    exchange_json(x, state == ENGINE_READY ? 200 : 503, &out);
}

void api_admin_ping(struct exchange *x)
{
    answer(x, 200, "{\"status\":\"ok\"}");
}

void api_admin_version(struct exchange *x)
{
    answer(x, 200, "{\"version\":\"" TRIREME_VERSION "\"}");
}

void api_admin_root(struct exchange *x)
{
    answer(x, 200, "{\"name\":\"trireme\",\"status\":\"ok\"}");
}

static void put_metric(struct buf *out, const char *name, const char *kind, uint64_t value)
{
    buf_printf(out, "# TYPE trireme_http_%s %s\ntrireme_http_%s %llu\n", name, kind, name,
               (unsigned long long)value);
}

static void put_limited(struct buf *out, const struct auth *a)
{
    if (a->n == 0) return;
    buf_str(out, "# HELP trireme_http_limited_total Requests refused by the limits of their key.\n"
                 "# TYPE trireme_http_limited_total counter\n");
    for (size_t i = 0; i < a->n; i++)
        buf_printf(out, "trireme_http_limited_total{key=\"%s\"} %llu\n", a->keys[i].name,
                   (unsigned long long)a->keys[i].limit.n_refused);
}

static void put_replay(struct buf *out, struct replay *r)
{
    const struct replay_stats s = replay_stats_get(r);
    buf_printf(
        out,
        "# HELP trireme_replayed_turns_total Turns with calls that came back, by whether the "
        "model's own tokens took their place.\n"
        "# TYPE trireme_replayed_turns_total counter\n"
        "trireme_replayed_turns_total{how=\"exact\"} %llu\n"
        "trireme_replayed_turns_total{how=\"rendered\"} %llu\n"
        "# TYPE trireme_replay_turns gauge\ntrireme_replay_turns %llu\n"
        "# TYPE trireme_replay_bytes gauge\ntrireme_replay_bytes %llu\n",
        (unsigned long long)s.n_exact, (unsigned long long)s.n_rendered,
        (unsigned long long)s.n_turn, (unsigned long long)s.bytes);
}

static void put_grammars(struct buf *out, const struct engine_model *m)
{
    if (!m) return; // it is being loaded
    uint32_t n_grammar;
    const struct grammar_stats s = grammar_book_stats(m->grammars);
    const size_t bytes = grammar_book_bytes(m->grammars, &n_grammar);
    buf_printf(
        out,
        "# HELP trireme_grammars_total Forms of answers that were asked for, by whether they "
        "were compiled already.\n"
        "# TYPE trireme_grammars_total counter\n"
        "trireme_grammars_total{cache=\"hit\"} %llu\n"
        "trireme_grammars_total{cache=\"miss\"} %llu\n"
        "# TYPE trireme_grammar_masks_total counter\n"
        "trireme_grammar_masks_total{cache=\"hit\"} %llu\n"
        "trireme_grammar_masks_total{cache=\"miss\"} %llu\n"
        "# HELP trireme_grammar_mask_seconds_total Time in masks that were not known.\n"
        "# TYPE trireme_grammar_mask_seconds_total counter\n"
        "trireme_grammar_mask_seconds_total %.6f\n"
        "# TYPE trireme_grammar_cached gauge\ntrireme_grammar_cached %u\n"
        "# TYPE trireme_grammar_bytes gauge\ntrireme_grammar_bytes %zu\n",
        (unsigned long long)s.n_found, (unsigned long long)s.n_compiled,
        (unsigned long long)s.n_known, (unsigned long long)s.n_made, (double)s.make_us / 1e6,
        n_grammar, bytes);
}

void api_admin_metrics(struct exchange *x)
{
    const struct door *d = x->door;
    struct buf out = {0};
    d->engine->ops->metrics(d->engine, &out);
    buf_str(&out, "# TYPE trireme_http_answers_total counter\n");
    for (int i = 2; i < 6; i++)
        buf_printf(&out, "trireme_http_answers_total{class=\"%dxx\"} %llu\n", i,
                   (unsigned long long)d->stats.by_class[i]);
    buf_str(&out, "# TYPE trireme_role_repairs_total counter\n");
    for (int i = 0; i < REPAIR_RULES; i++)
        buf_printf(&out, "trireme_role_repairs_total{rule=\"%s\"} %llu\n", repair_names[i],
                   (unsigned long long)d->stats.repaired[i]);
    buf_printf(&out,
               "# TYPE trireme_tool_parse_fallback_total counter\n"
               "trireme_tool_parse_fallback_total %llu\n",
               (unsigned long long)d->stats.garbled);
    put_replay(&out, d->replay);
    put_grammars(&out, d->engine->ops->model(d->engine));
    put_metric(&out, "connections", "gauge", d->n_conn);
    put_metric(&out, "requests", "gauge", d->n_exchange);
    put_metric(&out, "connections_total", "counter", d->stats.accepted);
    put_metric(&out, "connections_refused_total", "counter", d->stats.refused);
    put_metric(&out, "hang_ups_total", "counter", d->stats.hang_ups);
    put_metric(&out, "too_slow_total", "counter", d->stats.too_slow);
    ledger_metrics(&d->ledger, &out);
    put_limited(&out, &d->auth);
    exchange_text(x, 200, "text/plain; version=0.0.4; charset=utf-8", &out);
}

void api_admin_cluster(struct exchange *x)
{
    struct engine *e = x->door->engine;
    struct buf out = {0};
    e->ops->cluster(e, &out);
    exchange_json(x, 200, &out);
}

void api_admin_experts(struct exchange *x)
{
    struct engine *e = x->door->engine;
    struct buf out = {0};
    e->ops->experts(e, &out);
    exchange_json(x, 200, &out);
}

// {"name": worker or lane, "grace_s": seconds}
void api_admin_drain(struct exchange *x)
{
    struct engine *e = x->door->engine;
    struct arena a;
    struct err_text why;
    const struct json *body;
    const char *code;
    arena_init(&a, BODY_TREE_BYTES);
    if (json_read(x->body.data ? x->body.data : "", x->body.len, &a, &body, &code, &why) != OK) {
        refusal_set(&x->no, 400, code, "%s", why.s);
    } else {
        const struct json *name = json_get(body, "name");
        const double grace_s = json_number(json_get(body, "grace_s"), 0);
        if (!name || name->kind != J_STR)
            refusal_field(&x->no, "name", "'name' must be the name of a worker or lane");
        else if (!(grace_s >= 0 && grace_s <= DRAIN_GRACE_MAX_S))
            refusal_field(&x->no, "grace_s", "'grace_s' must be from 0 to %d", DRAIN_GRACE_MAX_S);
        else if (e->ops->drain(e, name->str.s, (uint32_t)grace_s, &why) != OK)
            refusal_set(&x->no, 404, "not_found", "%s", why.s);
    }
    arena_fini(&a);
    if (x->no.status)
        exchange_refuse(x);
    else
        answer(x, 200, "{\"status\":\"draining\"}");
}
