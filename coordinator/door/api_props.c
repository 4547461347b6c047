#include "coordinator/door/api_props.h"
#include "coordinator/door/exchange.h"
#include "coordinator/door/llama.h"

#include <string.h>

// The model, or a refusal while there is none.
static const struct engine_model *model_of(struct exchange *x)
{
    struct engine *e = x->door->engine;
    const struct engine_model *m = e->ops->model(e);
    if (m) return m;
    refusal_set(&x->no, 503, "model_loading", "the model is being loaded");
    x->no.retry_after_s = 5;
    exchange_refuse(x);
    return NULL;
}

static void put_string(struct buf *out, const char *name, const char *s, size_t len)
{
    buf_printf(out, ",\"%s\":", name);
    buf_json_str(out, s, len);
}

void api_props_get(struct exchange *x)
{
    const struct engine_model *m = model_of(x);
    const struct params usual = fields_usual(FIELD_LLAMA);
    struct buf out = {0};
    if (!m) return;
    buf_printf(&out, "{\"default_generation_settings\":{\"n_ctx\":%u,\"params\":", m->ctx);
    llama_put_settings(&usual, NULL, &out);
    buf_printf(&out, "},\"total_slots\":%u", m->n_slot);
    put_string(&out, "model_alias", m->id, strlen(m->id));
    put_string(&out, "model_path", m->file, strlen(m->file)); // where it lies is nobody's business
    size_t len = 0;
    const char *source = m->template ? template_source(m->template, &len) : "";
    put_string(&out, "chat_template", source, len);
    put_string(&out, "bos_token", m->bos, strlen(m->bos));
    put_string(&out, "eos_token", m->eos, strlen(m->eos));
    buf_str(&out, ",\"modalities\":{\"vision\":false,\"audio\":false},"
                  "\"build_info\":\"trireme-" TRIREME_VERSION "\",\"is_sleeping\":false}");
    exchange_json(x, 200, &out);
}

void api_props_adapters(struct exchange *x)
{
    struct buf out = {0};
    buf_str(&out, "[]");
    exchange_json(x, 200, &out);
}

// A choice that the engine is at.
static bool is_running(const struct reply_choice *c, const struct choice *ch)
{
    return !c->finish && (ch->state == CHOICE_PREFILL || ch->state == CHOICE_DECODE);
}

static void put_slot(struct buf *out, uint32_t id, uint32_t ctx, const struct choice *ch)
{
    buf_printf(out, "%s{\"id\":%u,\"n_ctx\":%u,\"speculative\":false,\"is_processing\":%s",
               id ? "," : "", id, ctx, ch ? "true" : "false");
    if (ch)
        buf_printf(out,
                   ",\"n_prompt_tokens\":%u,\"next_token\":[{\"has_next_token\":true,"
                   "\"n_remain\":%u,\"n_decoded\":%u}]",
                   ch->req->n_prompt, ch->req->max_tokens - ch->n_generated, ch->n_generated);
    buf_char(out, '}');
}

// At most `n_max` of what runs.
static uint32_t put_running(struct exchange *x, uint32_t n_max, uint32_t ctx, struct buf *out)
{
    uint32_t n = 0;
    list_each(at, &x->door->conns)
    {
        const struct conn *c = list_item(at, struct conn, node);
        const struct reply *r = c->x ? c->x->reply : NULL;
        for (uint32_t i = 0; r && i < r->n_choice && n < n_max; i++) {
            const struct reply_request *q = &r->requests[r->choices[i].prompt];
            const struct choice *ch = q->req ? &q->req->choices[i % r->p.n_choice] : NULL;
            if (ch && is_running(&r->choices[i], ch)) put_slot(out, n++, ctx, ch);
        }
    }
    return n;
}

void api_props_slots(struct exchange *x)
{
    const struct engine_model *m = model_of(x);
    struct buf out = {0};
    if (!m) return;
    const char *fails =
        MHD_lookup_connection_value(x->mhd, MHD_GET_ARGUMENT_KIND, "fail_on_no_slot");
    buf_char(&out, '[');
    const uint32_t n = put_running(x, m->n_slot, m->ctx, &out);
    if (n == m->n_slot && fails && *fails && strcmp(fails, "0") != 0) {
        buf_fini(&out);
        refusal_set(&x->no, 503, "no_slot", "all %u slots are taken", n);
        x->no.retry_after_s = 1;
        exchange_refuse(x);
        return;
    }
    for (uint32_t i = n; i < m->n_slot; i++)
        put_slot(&out, i, m->ctx, NULL);
    buf_char(&out, ']');
    exchange_json(x, 200, &out);
}

void api_props_no_slot(struct exchange *x)
{
    refusal_set(&x->no, 501, "not_supported",
                "slots cannot be saved, restored or erased; prefixes are kept by themselves");
    exchange_refuse(x);
}

void api_props_no_rank(struct exchange *x)
{
    refusal_set(&x->no, 501, "not_supported", "models that rank are not supported");
    exchange_refuse(x);
}
