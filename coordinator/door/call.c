#include "coordinator/door/call.h"
#include "coordinator/door/api.h"

#include <stdlib.h>

struct call {
    uv_work_t work;
    struct door *door;
    struct exchange *x; // NULL: abandoned
    struct buf body;    // taken from the exchange
    struct prepare_in in;
    atomic_bool unwanted;
    err_t err;
    struct prepared made; // if err is OK
    struct refusal no;    // if not
};

static void leave_pool(struct door *d)
{
    uv_mutex_lock(&d->pool_lock);
    if (--d->n_pool == 0) uv_cond_signal(&d->pool_idle);
    uv_mutex_unlock(&d->pool_lock);
}

static void on_pool(uv_work_t *w)
{
    struct call *c = w->data;
    c->in.body = c->body.data ? c->body.data : "";
    c->in.len = c->body.len;
    c->err = prepare_unwanted(&c->in) ? ERR_CANCELLED : prepare_run(&c->in, &c->made, &c->no);
    buf_fini(&c->body);
    leave_pool(c->door);
}

static void wake(void *owner)
{
    exchange_wake(owner);
}

static void start(struct call *c)
{
    struct exchange *x = c->x;
    if (c->made.api->count) {
        struct buf out = {0};
        c->made.api->count(&c->made, &out);
        prepare_fini(&c->made);
        exchange_json(x, 200, &out);
        return;
    }
    struct reply *r = reply_new(c->door->engine, &c->made, wake, x);
    if (!r) {
        prepare_fini(&c->made);
        refusal_set(&x->no, 500, "internal_error", "out of memory");
        exchange_refuse(x);
        return;
    }
    // From here on the engine may wake the exchange.
    x->reply = r;
    x->repaired = r->p.repaired;
    for (int i = 0; i < REPAIR_RULES; i++)
        c->door->stats.repaired[i] += x->repaired >> i & 1;
    x->streaming = r->p.stream;
    if (reply_start(r, &x->no) != OK) {
        x->reply = NULL;
        x->streaming = false;
        reply_free(r);
        exchange_refuse(x);
    } else if (x->streaming) {
        exchange_stream(x);
    }
}

static void on_loop(uv_work_t *w, int status)
{
    struct call *c = w->data;
    struct door *d = c->door;
    struct exchange *x = c->x;
    // UV_ECANCELED: it was abandoned before the pool came to it.
    bool made = status == 0 && c->err == OK;
    if (x) x->call = NULL;
    if (x && made) {
        start(c);
    } else if (x) {
        x->no = c->no;
        exchange_refuse(x);
    } else if (made) {
        prepare_fini(&c->made);
    }
    buf_fini(&c->body);
    free(c);
    d->n_job--;
    door_release(d);
}

static bool model_ready(struct exchange *x, const struct engine_model **m)
{
    struct engine *e = x->door->engine;
    const char *reason = NULL;
    enum engine_state state = e->ops->state(e, &reason);
    *m = e->ops->model(e);
    if (state == ENGINE_DRAINING || x->door->draining) {
        refusal_set(&x->no, 503, "draining", "the server is shutting down");
        x->close = true;
    } else if (!*m) {
        refusal_set(&x->no, 503, "model_loading", "the model is being loaded%s%s",
                    reason ? ": " : "", reason ? reason : "");
    } else {
        return true;
    }
    x->no.retry_after_s = 5;
    return false;
}

// Who keeps a conversation under one name gets the lane that remembers it.
static const char *session_header(struct exchange *x)
{
    static const char *const names[] = {"x-session-id", "x-claude-code-session-id"};
    const char *s = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names && !s; i++)
        s = MHD_lookup_connection_value(x->mhd, MHD_HEADER_KIND, names[i]);
    return s;
}

static void call_run(struct exchange *x, const struct api *api)
{
    struct door *d = x->door;
    const struct engine_model *m;
    if (!model_ready(x, &m)) {
        exchange_refuse(x);
        return;
    }
    struct call *c = calloc(1, sizeof *c);
    if (c) {
        c->work.data = c;
        c->door = d;
        c->x = x;
        c->in = (struct prepare_in){.api = api,
                                    .model = m,
                                    .n_vocab = tokenizer_n_vocab(m->tokenizer),
                                    .tenant = x->key ? x->key->tenant : 0,
                                    .priority = x->key ? x->key->priority : INT32_MIN,
                                    .session = prepare_session(session_header(x)),
                                    .strict = d->strict_roles,
                                    .replay = d->replay,
                                    .recall = d->recall,
                                    .unwanted = &c->unwanted};
        c->body = x->body;
        x->body = (struct buf){.max = x->body.max};
    }
    uv_mutex_lock(&d->pool_lock);
    d->n_pool++;
    uv_mutex_unlock(&d->pool_lock);
    if (!c || uv_queue_work(d->loop, &c->work, on_pool, on_loop) != 0) {
        leave_pool(d);
        if (c) buf_fini(&c->body);
        free(c);
        refusal_set(&x->no, 500, "internal_error", "out of memory");
        exchange_refuse(x);
        return;
    }
    x->call = c;
    d->n_job++;
}

void call_abandon(struct call *c)
{
    c->x = NULL;
    atomic_store(&c->unwanted, true);
    // Fails, harmlessly, when the pool is already at it.
    if (uv_cancel((uv_req_t *)&c->work) == 0) leave_pool(c->door);
}

void call_wait_all(struct door *d)
{
    uv_mutex_lock(&d->pool_lock);
    while (d->n_pool > 0)
        uv_cond_wait(&d->pool_idle, &d->pool_lock);
    uv_mutex_unlock(&d->pool_lock);
}

void call_api(struct exchange *x)
{
    call_run(x, x->route->api);
}
