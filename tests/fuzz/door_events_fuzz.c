// What is written to callers, from random text of a model: every stream is whole server-sent events
// with JSON in them, and says what the same answer in one body says. All dialects with turns, all
// formats of calls and thoughts. The first bytes choose; the rest is what the model says.
#include "coordinator/door/api.h"
#include "proto/base/log.h"
#include "topology/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// -- an engine that says what it is told --

static const struct engine_listener *listener;
static struct engine_model model;

static err_t submit(struct engine *e, struct request *r, const struct engine_listener *l,
                    uint32_t *retry_after_s, struct err_text *why)
{
    (void)e, (void)r, (void)retry_after_s, (void)why;
    listener = l;
    return OK;
}

static void end(struct choice *c, enum finish reason)
{
    if (c->state == CHOICE_DONE) return;
    c->state = CHOICE_DONE;
    c->finish = reason;
    c->req->n_live = 0;
    listener->on_finish(c->req, c, true);
}

static void finish(struct engine *e, struct choice *c, enum finish reason)
{
    (void)e;
    end(c, reason);
}

static void cancel(struct engine *e, struct request *r)
{
    (void)e;
    end(&r->choices[0], FINISH_CANCELLED);
}

static const struct engine_ops ops = {.submit = submit, .finish = finish, .cancel = cancel};
static struct engine engine = {.ops = &ops};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const int32_t no_ends[1];
    static struct model *m; // kept until the end
    struct tokenizer *t;
    struct err_text why;
    (void)argc, (void)argv;
    log_set_level(LOG_ERROR);
    if (model_open("shape:llama-3.1-8b", &m, &why) || tokenizer_open_model(m, &t, &why)) {
        fprintf(stderr, "%s\n", why.s);
        abort();
    }
    model = (struct engine_model){
        .id = "m", .ctx = 1 << 16, .tokenizer = t, .bos = "", .eos = "", .end_ids = no_ends};
    return 0;
}

// -- one answer --

struct ask {
    const struct api *api;
    const struct turn_format *format;
    const struct json *tools;
    const int32_t *ids;
    uint32_t n;
    bool is_cut, one_call;
    uint32_t every; // tokens between two writes of a stream; 0: one body
};

static struct request *make_request(uint32_t n)
{
    static const int32_t prompt[] = {1};
    struct request *r = request_new(0);
    if (!r) abort();
    r->prompt = prompt;
    r->n_prompt = 1;
    r->max_tokens = n + 1;
    if (request_init_choices(r, 1)) abort();
    r->first_token_us = r->admitted_us = r->arrived_us = 1;
    return r;
}

static void woken(void *owner)
{
    (void)owner;
}

static void answer(const struct ask *a, struct buf *out)
{
    struct prepared p = {.api = a->api,
                         .model = &model,
                         .name = model.id,
                         .id = "x",
                         .stream = a->every != 0,
                         .include_usage = true,
                         .n_logprobs = -1,
                         .format = a->format,
                         .tools = a->tools,
                         .one_call = a->one_call,
                         .tail = "",
                         .n_prompt = 1,
                         .n_choice = 1};
    struct refusal no = {0};
    arena_init(&p.arena, 0);
    p.prompts = arena_take(&p.arena, sizeof *p.prompts);
    struct request *req = make_request(a->n);
    p.prompts[0].req = req;
    struct reply *r = reply_new(&engine, &p, woken, NULL);
    if (!r || reply_start(r, &no)) abort();
    struct choice *c = &req->choices[0];
    for (uint32_t i = 0; i < a->n && !reply_finished(r); i++) {
        const struct step_item item = {.id = a->ids[i]};
        c->generated[c->n_generated++] = item.id;
        listener->on_token(req, c, &item);
        if (a->every && i % a->every == 0) reply_flush(r, out);
    }
    if (!reply_finished(r)) end(c, a->is_cut ? FINISH_LENGTH : FINISH_STOP);
    if (a->every)
        reply_flush(r, out);
    else
        reply_body(r, out);
    reply_free(r);
    if (!buf_ok(out)) abort();
}

// -- what was said --

static void bad(const char *what, const struct buf *b)
{
    fprintf(stderr, "%s:\n%.*s\n", what, (int)b->len, b->data ? b->data : "");
    __builtin_trap();
}

static void add(struct buf *out, const struct json *j)
{
    if (j && j->kind == J_STR) buf_add(out, j->str.s, j->str.len);
}

// Text, thoughts and arguments of calls, wherever a dialect has them.
struct said {
    struct buf text, thoughts, names, arguments;
};

static const struct json *first_of(const struct json *list)
{
    return list && list->kind == J_ARR && list->arr.n ? &list->arr.items[0] : NULL;
}

// A message of chat completions, or a delta of one.
static void hear_chat(const struct json *m, struct said *s)
{
    const struct json *calls = json_get(m, "tool_calls");
    add(&s->text, json_get(m, "content"));
    add(&s->thoughts, json_get(m, "reasoning_content"));
    for (size_t i = 0; calls && calls->kind == J_ARR && i < calls->arr.n; i++) {
        const struct json *f = json_get(&calls->arr.items[i], "function");
        add(&s->names, json_get(f, "name"));
        add(&s->arguments, json_get(f, "arguments"));
    }
}

static void hear_event(const struct json *e, struct said *s)
{
    const struct json *d = json_get(e, "delta"), *type = json_get(e, "type"), *item;
    hear_chat(json_get(first_of(json_get(e, "choices")), "delta"), s);
    if (json_is(type, "content_block_start"))
        add(&s->names, json_get(json_get(e, "content_block"), "name"));
    add(&s->text, json_get(d, "text"));
    add(&s->thoughts, json_get(d, "thinking"));
    if (json_is(type, "response.output_text.delta")) add(&s->text, d);
    if (json_is(type, "response.reasoning_text.delta") ||
        json_is(type, "response.reasoning_summary_text.delta"))
        add(&s->thoughts, d);
    item = json_is(type, "response.output_item.added") ? json_get(e, "item") : NULL;
    add(&s->names, json_get(item, "name"));
}

static void hear_body(const struct json *b, struct said *s)
{
    const struct json *blocks = json_get(b, "content"), *items = json_get(b, "output");
    hear_chat(json_get(first_of(json_get(b, "choices")), "message"), s);
    for (size_t i = 0; blocks && blocks->kind == J_ARR && i < blocks->arr.n; i++) {
        add(&s->text, json_get(&blocks->arr.items[i], "text"));
        add(&s->thoughts, json_get(&blocks->arr.items[i], "thinking"));
        add(&s->names, json_get(&blocks->arr.items[i], "name"));
    }
    for (size_t i = 0; items && items->kind == J_ARR && i < items->arr.n; i++) {
        const struct json *item = &items->arr.items[i], *part = first_of(json_get(item, "content"));
        const bool thinks = json_is(json_get(item, "type"), "reasoning");
        if (thinks && !part) part = first_of(json_get(item, "summary"));
        add(thinks ? &s->thoughts : &s->text, json_get(part, "text"));
        add(&s->names, json_get(item, "name"));
    }
}

// One event: "data: {..}", or "event: TYPE" and then its data, whose type is the same.
static void hear_block(const struct buf *all, const char *s, size_t len, struct said *out)
{
    static const char event[] = "event: ", data[] = "data: ";
    const char *type = NULL, *line = memchr(s, '\n', len);
    const size_t n_type = line ? (size_t)(line - s) : 0;
    struct arena a;
    const struct json *j;
    if (len > 7 && memcmp(s, event, 7) == 0) {
        if (!line) bad("an event without data", all);
        type = s + 7;
        len -= n_type + 1;
        s = line + 1;
    }
    if (len < 6 || memcmp(s, data, 6) != 0 || memchr(s, '\n', len)) bad("no data line", all);
    if (len == 12 && memcmp(s, "data: [DONE]", 12) == 0) return;
    arena_init(&a, 0);
    if (json_read(s + 6, len - 6, &a, &j, NULL, NULL)) bad("no JSON", all);
    const struct json *said = json_get(j, "type");
    if (type && (!said || said->kind != J_STR || said->str.len != n_type - 7 ||
                 memcmp(said->str.s, type, said->str.len) != 0))
        bad("an event of another type", all);
    hear_event(j, out);
    arena_fini(&a);
}

static void hear_stream(const struct buf *b, struct said *out)
{
    const char *s = b->data, *stop = b->data + b->len, *next;
    for (; s < stop; s = next + 2) {
        next = memmem(s, (size_t)(stop - s), "\n\n", 2);
        if (!next) bad("a stream that is cut off", b);
        hear_block(b, s, (size_t)(next - s), out);
    }
}

static void same(const char *what, struct buf *a, struct buf *b, const struct buf *all)
{
    if (a->len != b->len || (a->len && memcmp(a->data, b->data, a->len) != 0)) {
        fprintf(stderr, "%s: '%.*s' and '%.*s'\n", what, (int)a->len, a->data, (int)b->len,
                b->data);
        bad("a stream says something else than the body", all);
    }
    buf_fini(a);
    buf_fini(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct api *const apis[] = {&api_chat, &api_messages, &api_responses};
    static const char tools[] =
        "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"properties\":{"
        "\"a\":{\"type\":\"string\"},\"b\":{\"type\":\"integer\"}}}}}]";
    if (size < 4) return 0;
    char *text = malloc(size);
    if (!text) abort();
    for (size_t i = 4; i < size; i++) // our reader of JSON takes no NUL; the writer's are escaped
        text[i - 4] = data[i] ? (char)data[i] : '?';
    struct arena mem;
    struct ids ids = {0};
    struct ask ask = {.api = apis[data[0] % 3],
                      .format = &turn_formats[data[1] % turn_n_format],
                      .is_cut = data[2] & 1,
                      .one_call = data[2] & 2};
    arena_init(&mem, 0);
    if (data[2] & 4) json_read(tools, sizeof tools - 1, &mem, &ask.tools, NULL, NULL);
    if (tokenizer_encode(model.tokenizer, text, size - 4, 0, NULL, 0, 1 << 15, &ids) == OK) {
        struct buf whole = {0}, stream = {0};
        struct said one = {0}, many = {0};
        const struct json *j;
        ask.ids = ids.at;
        ask.n = (uint32_t)ids.n;
        answer(&ask, &whole);
        if (json_read(whole.data, whole.len, &mem, &j, NULL, NULL)) bad("no JSON", &whole);
        hear_body(j, &one);
        ask.every = 1 + data[3] % 8;
        answer(&ask, &stream);
        hear_stream(&stream, &many);
        same("text", &one.text, &many.text, &stream);
        same("thoughts", &one.thoughts, &many.thoughts, &stream);
        same("names", &one.names, &many.names, &stream);
        same("arguments", &one.arguments, &many.arguments, &stream);
        buf_fini(&whole);
        buf_fini(&stream);
    }
    ids_fini(&ids);
    arena_fini(&mem);
    free(text);
    return 0;
}
