#include "coordinator/door/api_models.h"
#include "coordinator/door/exchange.h"

#include <stdio.h>
#include <string.h>

static void put_entry(struct buf *out, const struct engine_model *m, const char *id, bool loaded)
{
    buf_str(out, "{\"id\":");
    buf_json_str(out, id, strlen(id));
    buf_printf(out, ",\"object\":\"model\",\"type\":\"model\",\"created\":%lld",
               (long long)m->created_s);
    buf_str(out, ",\"owned_by\":\"trireme\",\"display_name\":");
    buf_json_str(out, id, strlen(id));
    buf_str(out, ",\"root\":");
    buf_json_str(out, m->id, strlen(m->id));
    buf_printf(out,
               ",\"parent\":null,\"max_model_len\":%u,\"context_length\":%u,"
               "\"status\":{\"value\":\"%s\"},\"architecture\":{\"input_modalities\":[\"text\"],"
               "\"output_modalities\":[\"text\"]}}",
               m->ctx, m->ctx, loaded ? "loaded" : "loading");
}

static bool is_loaded(struct engine *e)
{
    const char *reason;
    return e->ops->state(e, &reason) != ENGINE_LOADING;
}

void api_models_list(struct exchange *x)
{
    struct engine *e = x->door->engine;
    const struct engine_model *m = e->ops->model(e);
    struct buf out = {0};
    const char *last = m ? m->id : NULL;
    buf_str(&out, "{\"object\":\"list\",\"data\":[");
    if (m) put_entry(&out, m, m->id, is_loaded(e));
    for (size_t i = 0; m && m->aliases && m->aliases[i]; i++) {
        buf_char(&out, ',');
        put_entry(&out, m, last = m->aliases[i], is_loaded(e));
    }
    buf_str(&out, "],\"has_more\":false,\"first_id\":");
    if (m)
        buf_json_str(&out, m->id, strlen(m->id));
    else
        buf_str(&out, "null");
    buf_str(&out, ",\"last_id\":");
    if (last)
        buf_json_str(&out, last, strlen(last));
    else
        buf_str(&out, "null");
    buf_char(&out, '}');
    exchange_json(x, 200, &out);
}

void api_models_one(struct exchange *x)
{
    struct engine *e = x->door->engine;
    const struct engine_model *m = e->ops->model(e);
    const char *found = m && strcmp(m->id, x->rest) == 0 ? m->id : NULL;
    for (size_t i = 0; m && !found && m->aliases && m->aliases[i]; i++)
        if (strcmp(m->aliases[i], x->rest) == 0) found = m->aliases[i];
    if (!found) {
        refusal_set(&x->no, 404, "model_not_found", "The model '%.100s' does not exist", x->rest);
        snprintf(x->no.param, sizeof x->no.param, "model");
        exchange_refuse(x);
        return;
    }
    struct buf out = {0};
    put_entry(&out, m, found, is_loaded(e));
    exchange_json(x, 200, &out);
}
