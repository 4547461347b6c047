#include "coordinator/door/exchange.h"
#include "coordinator/door/api.h"
#include "coordinator/door/call.h"
#include "coordinator/door/conn.h"
#include "proto/base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

static struct conn *conn_of(struct MHD_Connection *mhd)
{
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return i ? i->socket_context : NULL;
}

void *exchange_uri(void *cls, const char *uri, struct MHD_Connection *mhd)
{
    struct door *d = cls;
    struct conn *c = conn_of(mhd);
    d->n_callback++;
    struct exchange *x = c ? calloc(1, sizeof *x) : NULL;
    if (!x) return NULL; // exchange_access closes the connection
    char path[GATE_URI_MAX + 1];
    x->door = d;
    x->conn = c;
    x->mhd = mhd;
    x->raw_uri = uri;
    x->raw_len = uri ? strlen(uri) : 0;
    x->body.max = d->max_body;
    list_init(&x->dirty);
    prepare_id("req_", x->id);
    if (gate_path(uri ? uri : "", x->raw_len, path, &x->no) == OK) {
        x->path = strdup(path);
        if (!x->path) refusal_set(&x->no, 500, "internal_error", "out of memory");
    }
    c->x = x;
    if (c->phase == CONN_IDLE) conn_set(c, CONN_HEADERS);
    d->n_exchange++;
    return x;
}

// -- answers --

// x-trireme-repaired: what was done to the conversation, in words.
static void repaired_header(struct exchange *x, struct MHD_Response *r)
{
    struct buf words = {0};
    for (int i = 0; i < REPAIR_RULES; i++)
        if (x->repaired >> i & 1) buf_printf(&words, words.len ? ", %s" : "%s", repair_names[i]);
    if (words.len) MHD_add_response_header(r, "x-trireme-repaired", words.data);
    buf_fini(&words);
}

static void page_headers(struct exchange *x, struct MHD_Response *r)
{
    MHD_add_response_header(r, "Content-Security-Policy", x->policy.data);
    MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(r, "Referrer-Policy", "no-referrer");
    MHD_add_response_header(r, "Cache-Control", "no-cache");
}

static void answer_headers(struct exchange *x, struct MHD_Response *r)
{
    char number[16];
    MHD_add_response_header(r, "Content-Type", x->type);
    MHD_add_response_header(r, "x-request-id", x->id);
    MHD_add_response_header(r, "request-id", x->id); // as Anthropic's clients read it
    if (x->streaming) {
        MHD_add_response_header(r, "Cache-Control", "no-cache");
        MHD_add_response_header(r, "X-Accel-Buffering", "no");
    }
    repaired_header(x, r);
    if (x->varies) MHD_add_response_header(r, "Vary", "Accept");
    if (x->policy.len) page_headers(x, r);
    if (x->status == 401) MHD_add_response_header(r, "WWW-Authenticate", "Bearer");
    if (x->status == 405)
        MHD_add_response_header(r, "Allow", x->route && x->route->is_post ? "POST" : "GET, HEAD");
    if (x->no.retry_after_s) {
        snprintf(number, sizeof number, "%u", x->no.retry_after_s);
        MHD_add_response_header(r, "Retry-After", number);
    }
    if (x->origin) {
        MHD_add_response_header(r, "Access-Control-Allow-Origin", x->origin);
        MHD_add_response_header(r, "Vary", "Origin");
        MHD_add_response_header(r, "Access-Control-Expose-Headers",
                                "x-request-id, x-trireme-repaired");
    }
    if (x->origin && x->status == 204) {
        MHD_add_response_header(r, "Access-Control-Allow-Methods", "GET, POST");
        MHD_add_response_header(r, "Access-Control-Allow-Headers",
                                "authorization, content-type, x-api-key");
        MHD_add_response_header(r, "Access-Control-Max-Age", "600");
    }
    if (x->close || x->door->draining) MHD_add_response_header(r, "Connection", "close");
}

static void suspend(struct exchange *x)
{
    x->suspended = true;
    MHD_suspend_connection(x->mhd);
}

// MHD_ContentReaderCallback of a stream.
static ssize_t read_events(void *cls, uint64_t pos, char *to, size_t max)
{
    struct exchange *x = cls;
    (void)pos;
    x->door->n_callback++;
    if (x->dead) return MHD_CONTENT_READER_END_WITH_ERROR;
    size_t n = x->out.len - x->out_at;
    if (n == 0 && x->ended) return MHD_CONTENT_READER_END_OF_STREAM;
    if (n == 0) {
        suspend(x);
        return 0;
    }
    if (n > max) n = max;
    memcpy(to, x->out.data + x->out_at, n);
    x->out_at += n;
    if (x->out_at == x->out.len) {
        buf_clear(&x->out);
        x->out_at = 0;
    }
    x->conn->since_us = clock_now_us();
    return (ssize_t)n;
}

static void leave_limit(struct exchange *x)
{
    if (x->is_limited) limits_leave(&x->key->limit);
    x->is_limited = false;
}

static enum MHD_Result send_answer(struct exchange *x)
{
    struct MHD_Response *r;
    if (x->streaming) {
        r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 4096, read_events, x, NULL);
    } else {
        r = MHD_create_response_from_buffer(x->answer.len, x->answer.data, MHD_RESPMEM_MUST_FREE);
        if (r) x->answer = (struct buf){0};
    }
    if (!r) return MHD_NO;
    answer_headers(x, r);
    x->phase = EXCHANGE_ANSWER;
    // What is left of a whole answer is writing: a caller that has it may come again at once.
    if (!x->streaming) leave_limit(x);
    conn_set(x->conn, x->streaming ? CONN_STREAM : CONN_WRITE);
    x->door->stats.by_class[x->status / 100]++;
    enum MHD_Result ok = MHD_queue_response(x->mhd, (unsigned)x->status, r);
    MHD_destroy_response(r);
    return ok;
}

void exchange_text(struct exchange *x, int status, const char *type, struct buf *text)
{
    if (!buf_ok(text)) {
        buf_fini(text);
        refusal_set(&x->no, 500, "internal_error", "out of memory");
        exchange_refuse(x);
        return;
    }
    x->status = status;
    x->type = type;
    x->answer = *text;
    *text = (struct buf){0};
    exchange_wake(x);
}

void exchange_json(struct exchange *x, int status, struct buf *json)
{
    exchange_text(x, status, "application/json", json);
}

void exchange_refuse(struct exchange *x)
{
    struct buf out = {0};
    const struct api *api = x->route ? x->route->api : NULL;
    x->status = x->no.status;
    if (api) {
        if (x->status == 503 && api->dialect->status_503) x->status = api->dialect->status_503;
        api->dialect->refused(&x->no, x->id, &out);
    } else {
        refusal_json(&out, &x->no);
    }
    x->type = "application/json";
    // A body too large for memory's last bytes is left empty; the status still tells.
    if (!buf_ok(&out)) buf_fini(&out);
    x->answer = out;
    exchange_wake(x);
}

void exchange_stream(struct exchange *x)
{
    x->status = 200;
    x->type = "text/event-stream";
    x->last_out_us = clock_now_us();
    exchange_wake(x);
}

void exchange_wake(struct exchange *x)
{
    if (!list_linked(&x->dirty)) list_push_back(&x->door->dirty, &x->dirty);
}

// -- the first call: may this request come in? --

struct collected {
    struct gate_header h[GATE_HEADERS_MAX];
    size_t n;
};

static enum MHD_Result collect(void *cls, enum MHD_ValueKind kind, const char *name,
                               size_t name_len, const char *value, size_t value_len)
{
    struct collected *c = cls;
    (void)kind;
    if (c->n < GATE_HEADERS_MAX)
        c->h[c->n] = (struct gate_header){.name = name,
                                          .name_len = name_len,
                                          .value = value ? value : "",
                                          .value_len = value ? value_len : 0};
    c->n++;
    return MHD_YES;
}

static err_t pass_gate(struct exchange *x, const char *method, const char *version,
                       struct gate_facts *facts)
{
    struct collected headers = {.n = 0};
    MHD_get_connection_values_n(x->mhd, MHD_HEADER_KIND, collect, &headers);
    const union MHD_ConnectionInfo *size =
        MHD_get_connection_info(x->mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    struct gate_request q = {
        .method = method,
        .version = version,
        .uri = x->raw_uri,
        .uri_len = x->raw_len,
        .headers = headers.h,
        .n = headers.n,
        .section_bytes = x->door->layout && size ? size->header_size : 0,
    };
    // The path's own fault, found when the request line came, goes first.
    return x->no.status ? ERR_INVALID : gate_check(&q, facts, &x->no);
}

static err_t check_host(struct exchange *x, const struct gate_facts *f)
{
    char local[64];
    if (!f->host) return OK; // HTTP/1.0: no browser speaks it
    bool known = conn_local(x->conn, local, sizeof local);
    if (hosts_allow(&x->door->hosts, f->host, known ? local : NULL)) return OK;
    return refusal_set(&x->no, 403, "host_not_allowed", "the name '%.100s' is not served here",
                       f->host);
}

static err_t check_key(struct exchange *x, const struct gate_facts *f, enum route_access access)
{
    struct door *d = x->door;
    const struct auth_addr *from = &x->conn->addr;
    if (access == ROUTE_OPEN) return OK;
    const char *bearer = f->twice ? "" : f->authorization, *key = f->twice ? "" : f->api_key;
    bool asked = f->authorization || f->api_key;
    if (access == ROUTE_HEALTH && from->loopback && !asked) return OK;
    switch (auth_check(&d->auth, from, bearer, key, clock_now_us(), &x->key)) {
    case AUTH_OK:
        if (access != ROUTE_ADMIN || x->key->is_admin) return OK;
        return refusal_set(&x->no, 403, "forbidden", "this API key is not for administration");
    case AUTH_NONE:
        if (access == ROUTE_KEY || from->loopback) return OK;
        return refusal_set(&x->no, 403, "forbidden", "this path answers to this machine only");
    case AUTH_TOO_MANY:
        refusal_set(&x->no, 429, "rate_limit_exceeded", "too many wrong API keys; wait a second");
        x->no.retry_after_s = 1;
        return ERR_INVALID;
    case AUTH_WRONG:
        break;
    }
    return refusal_set(&x->no, 401, "invalid_api_key",
                       asked ? "the API key is not valid" : "an API key is needed");
}

static err_t check_route(struct exchange *x, const struct gate_facts *f, const char *method)
{
    bool is_post = strcmp(method, "POST") == 0;
    x->head = strcmp(method, "HEAD") == 0;
    const struct route *any, *r = route_find(x->path, is_post, &any, &x->rest);
    x->route = any;
    err_t err = check_key(x, f, any ? any->access : ROUTE_KEY);
    if (err) return err;
    if (!any) return refusal_set(&x->no, 404, "not_found", "there is nothing at this path");
    if (!r || (!is_post && !x->head && strcmp(method, "GET") != 0))
        return refusal_set(&x->no, 405, "method_not_allowed", "%.20s is not allowed here", method);
    return OK;
}

// RFC 9110, section 8.3: type/subtype, then parameters; of these only charset=utf-8 says nothing
// new. A web page cannot send this type without the browser asking first.
static bool is_json(const char *type)
{
    size_t n = strlen("application/json");
    if (!type || strncasecmp(type, "application/json", n) != 0) return false;
    type += n + strspn(type + n, " \t");
    if (*type == 0) return true;
    if (*type++ != ';') return false;
    type += strspn(type, " \t");
    if (strncasecmp(type, "charset=", 8) != 0) return false;
    type += 8;
    bool quoted = *type == '"';
    type += quoted;
    return strncasecmp(type, "utf-8", 5) == 0 && strcmp(type + 5, quoted ? "\"" : "") == 0;
}

static err_t check_body(struct exchange *x, const struct gate_facts *f)
{
    if (!x->route->is_post) {
        if (f->body_bytes == 0) return OK;
        return refusal_set(&x->no, 400, "bad_request", "a body has no meaning here");
    }
    if (!is_json(f->content_type))
        return refusal_set(&x->no, 415, "unsupported_media_type",
                           "Content-Type must be application/json");
    if (f->encoded)
        return refusal_set(&x->no, 415, "unsupported_media_type",
                           "Content-Encoding is not supported");
    if (f->body_bytes > (int64_t)x->door->max_body)
        return refusal_set(&x->no, 413, "request_too_large", "the body is larger than %zu bytes",
                           x->door->max_body);
    return OK;
}

// Last, so that only what is let in counts; of all paths only those of a dialect do.
static err_t check_limit(struct exchange *x)
{
    uint32_t retry_after_s;
    const struct limit *l = x->key ? &x->key->limit : NULL;
    if (!l || !x->route->api) return OK;
    switch (limits_enter(&x->key->limit, clock_now_us(), &retry_after_s)) {
    case LIMITS_OK:
        x->is_limited = true;
        return OK;
    case LIMITS_AT_ONCE:
        refusal_set(&x->no, 429, "rate_limit_exceeded",
                    "this API key may have %u requests at once; try again later", l->at_once);
        break;
    case LIMITS_RATE:
        refusal_set(&x->no, 429, "rate_limit_exceeded",
                    "this API key may make %u requests a minute; try again in %u s", l->per_min,
                    retry_after_s);
        break;
    }
    x->no.retry_after_s = retry_after_s;
    return ERR_INVALID;
}

static err_t admit(struct exchange *x, const struct gate_facts *f, const char *method)
{
    err_t err = check_host(x, f);
    if (err) return err;
    x->origin = hosts_origin(&x->door->hosts, f->origin);
    // A preflight carries no key.
    if (x->origin && strcmp(method, "OPTIONS") == 0) {
        x->status = 204;
        x->type = "text/plain";
        return OK;
    }
    err = check_route(x, f, method);
    if (!err) err = check_body(x, f);
    return err ? err : check_limit(x);
}

static enum MHD_Result first_call(struct exchange *x, const char *method, const char *version)
{
    struct gate_facts f = {0};
    err_t err = pass_gate(x, method, version, &f);
    bool broken = err != OK;
    if (!err) err = admit(x, &f, method);
    x->raw_uri = NULL;
    x->chunked = f.body_bytes == GATE_CHUNKED;
    x->phase = EXCHANGE_BODY;
    conn_set(x->conn, CONN_BODY);
    if (!err) return MHD_YES;
    exchange_refuse(x);
    // Without a body the connection can go on: answered in the final call, as the library closes
    // connections whose answer comes earlier.
    if (!broken && f.body_bytes == 0) return MHD_YES;
    x->close = x->conn->linger = true;
    return send_answer(x);
}

// -- later calls --

static enum MHD_Result take_body(struct exchange *x, const char *data, size_t len)
{
    if (x->status) return MHD_YES; // refused already: nobody reads it
    buf_add(&x->body, data, len);
    if (buf_ok(&x->body)) return MHD_YES;
    // Chunked, and over the limit. The library takes no answer in the middle of a body.
    struct refusal no;
    refusal_set(&no, 413, "request_too_large", "the body is larger than %zu bytes",
                x->door->max_body);
    conn_send_error(x->conn, &no);
    x->conn->linger = true;
    return MHD_NO;
}

static enum MHD_Result run(struct exchange *x)
{
    x->phase = EXCHANGE_WORK;
    x->whole_us = clock_now_us();
    conn_set(x->conn, CONN_WORK);
    if (!x->status) x->route->run(x);
    if (x->status) return send_answer(x);
    suspend(x);
    return MHD_YES;
}

enum MHD_Result exchange_access(void *cls, struct MHD_Connection *mhd, const char *url,
                                const char *method, const char *version, const char *upload,
                                size_t *upload_size, void **context)
{
    struct exchange *x = *context;
    struct door *d = cls;
    (void)mhd, (void)url;
    d->n_callback++;
    if (!x || x->dead) return MHD_NO;
    switch (x->phase) {
    case EXCHANGE_NEW:
        return first_call(x, method, version);
    case EXCHANGE_BODY:
        if (*upload_size == 0) return run(x);
        enum MHD_Result ok = take_body(x, upload, *upload_size);
        *upload_size = 0;
        return ok;
    case EXCHANGE_WORK: // resumed
        return x->status ? send_answer(x) : MHD_NO;
    case EXCHANGE_ANSWER:
        break;
    }
    return MHD_YES;
}

// -- the end of a reply --

static enum ledger_finish finish_of(const struct reply *r)
{
    enum ledger_finish f = LEDGER_STOP;
    if (r->failed.status) return LEDGER_FAILED;
    if (!reply_finished(r)) return LEDGER_CANCELLED;
    for (uint32_t i = 0; i < r->n_choice; i++) {
        const enum reply_end end = reply_end_of(&r->choices[i]);
        if (end == REPLY_LENGTH) return LEDGER_LENGTH;
        if (end == REPLY_CALLS) f = LEDGER_TOOL_CALLS;
    }
    return f;
}

static int64_t span(int64_t from_us, int64_t to_us)
{
    return from_us && to_us ? to_us - from_us : LEDGER_NEVER;
}

static void record(const struct exchange *x, const struct reply *r)
{
    const struct reply_usage u = reply_usage_get(r);
    struct ledger_record e = {
        .id = r->p.id,
        .request_id = x->id,
        .key = x->key ? x->key->name : NULL,
        .path = x->route->path,
        .model = r->p.name,
        .finish = finish_of(r),
        .streamed = r->p.stream,
        .prompt = u.prompt,
        .cached = u.cached,
        .output = u.made,
        .reasoning = u.reasoning,
        .queue_us = reply_queue_us(r),
        .ttft_us = span(x->whole_us, r->first_us),
        .total_us = clock_now_us() - x->whole_us,
    };
    // Errors of the caller's making have no code.
    if (e.finish == LEDGER_FAILED) e.reason = r->failed.code ? r->failed.code : r->failed.type;
    ledger_add(&x->door->ledger, &e);
}

// It is over, or nobody wants it any more.
static void end_reply(struct exchange *x)
{
    struct reply *r = x->reply;
    record(x, r);
    x->door->stats.garbled += r->n_garbled;
    x->reply = NULL;
    reply_free(r);
    leave_limit(x);
}

static void drop_work(struct exchange *x)
{
    if (x->call) call_abandon(x->call);
    if (x->reply) end_reply(x);
    x->call = NULL;
}

void exchange_completed(void *cls, struct MHD_Connection *mhd, void **context,
                        enum MHD_RequestTerminationCode why)
{
    struct exchange *x = *context;
    struct door *d = cls;
    (void)mhd, (void)why;
    d->n_callback++;
    if (!x) return;
    struct conn *c = x->conn;
    drop_work(x);
    leave_limit(x);
    // Streams say that they close only by doing so.
    if (x->streaming && x->close) shutdown(c->fd, SHUT_RDWR);
    list_remove(&x->dirty);
    c->x = NULL;
    conn_set(c, CONN_IDLE);
    d->n_exchange--;
    buf_fini(&x->body);
    buf_fini(&x->answer);
    buf_fini(&x->policy);
    buf_fini(&x->out);
    free(x->path);
    free(x);
    *context = NULL;
}

// -- from pump() and the sweep --

static void flush_reply(struct exchange *x)
{
    struct reply *r = x->reply;
    if (x->streaming) {
        size_t before = x->out.len;
        reply_flush(r, &x->out);
        if (x->out.len != before) x->last_out_us = clock_now_us();
        if (!r->ended) return;
        x->ended = true;
        x->close = r->failed.status != 0;
    } else if (!reply_finished(r)) {
        return;
    } else if (r->failed.status) {
        x->no = r->failed;
        exchange_refuse(x);
    } else {
        struct buf body = {0};
        reply_body(r, &body);
        exchange_json(x, 200, &body);
    }
    end_reply(x);
}

void exchange_flush(struct exchange *x)
{
    list_remove(&x->dirty);
    if (x->reply) flush_reply(x);
    list_remove(&x->dirty);
    if (x->out.len - x->out_at > EXCHANGE_OUT_MAX || !buf_ok(&x->out)) exchange_abort(x);
    bool news =
        x->dead || x->ended || x->out.len > x->out_at || (x->phase == EXCHANGE_WORK && x->status);
    if (!x->suspended || !news) return;
    x->suspended = false;
    MHD_resume_connection(x->mhd);
}

void exchange_tick(struct exchange *x, int64_t now_us)
{
    if (!x->streaming || !x->reply || x->dead) return;
    size_t before = x->out.len;
    reply_progress(x->reply, &x->out);
    if (x->out.len != before) x->last_out_us = now_us;
    if (now_us - x->last_out_us >= (int64_t)EXCHANGE_KEEP_ALIVE_MS * 1000) {
        reply_keep_alive(x->reply, &x->out);
        x->last_out_us = now_us;
    }
    if (x->out.len != before) exchange_wake(x);
}

void exchange_abort(struct exchange *x)
{
    if (x->dead) return;
    x->dead = true;
    drop_work(x);
    if (x->suspended)
        exchange_wake(x);
    else
        shutdown(x->conn->fd, SHUT_RDWR);
}

uint64_t exchange_body_bytes(const struct exchange *x)
{
    return x->body.len;
}

bool exchange_is_chunked(const struct exchange *x)
{
    return x->chunked;
}

bool exchange_is_stuck(const struct exchange *x)
{
    return x->out.len > x->out_at;
}
