// POST /v1/chat/completions.
#include "coordinator/door/api.h"
#include "coordinator/door/constrain.h"
#include "coordinator/door/history.h"
#include "coordinator/door/messages.h"
#include "coordinator/door/repair.h"
#include "coordinator/door/tree.h"
#include "proto/base/fnv.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

enum { TOOLS_MAX = 1024 };

static const char white[] = " \t\r\n";

// none, auto, required, or one function by its name: whether there must be a call, and which.
static err_t read_choice(struct prepare *p, struct refusal *no)
{
    const struct json *choice = p->p.tool_choice, *tools = p->tools;
    const struct json *name = json_get(json_get(choice, "function"), "name");
    if (!choice || json_is(choice, "none") || json_is(choice, "auto")) return OK;
    p->must_call = true;
    if (json_is(choice, "required") && tools) return OK;
    if (!tools) return refusal_field(no, "tool_choice", "'tool_choice' needs 'tools'");
    if (!json_is(json_get(choice, "type"), "function") || !name || name->kind != J_STR)
        return refusal_field(no, "tool_choice",
                             "'tool_choice' must be none, auto, required or a function's name");
    for (size_t i = 0; i < tools->arr.n; i++) {
        const struct json *f = json_get(&tools->arr.items[i], "function");
        if (json_is(json_get(f, "name"), name->str.s)) p->must_name = name->str.s;
    }
    return p->must_name
               ? OK
               : refusal_field(no, "tool_choice", "'tools' has no function '%.100s'", name->str.s);
}

static err_t read_tools(struct prepare *p, struct refusal *no)
{
    const struct json *tools = p->p.tools;
    if (!tools || tools->arr.n == 0) return OK;
    if (tools->arr.n > TOOLS_MAX)
        return refusal_field(no, "tools", "'tools' must hold at most %d tools, not %zu", TOOLS_MAX,
                             tools->arr.n);
    for (size_t i = 0; i < tools->arr.n; i++) {
        const struct json *t = &tools->arr.items[i];
        const struct json *name = json_get(json_get(t, "function"), "name");
        if (!json_is(json_get(t, "type"), "function") || !name || name->kind != J_STR)
            return refusal_field(no, "tools",
                                 "'tools[%zu]' must be of type 'function' and have a name", i);
    }
    if (!json_is(p->p.tool_choice, "none")) p->tools = tools;
    return OK;
}

// Variables of the templates that know them; what the caller gave as such counts more.
static err_t put_kwargs(struct prepare *p, const struct json_member *more, size_t n,
                        struct refusal *no)
{
    static const struct json none = {.kind = J_OBJ};
    const struct json *given = p->p.kwargs ? p->p.kwargs : &none;
    struct tree t = {.arena = &p->scratch};
    struct json all = tree_object(&t, given->obj.n + n);
    for (size_t i = 0; i < given->obj.n && !t.broken; i++)
        tree_put(&all, given->obj.members[i].key, given->obj.members[i].value);
    for (size_t i = 0; i < n; i++)
        if (!json_get(given, more[i].key)) tree_put(&all, more[i].key, more[i].value);
    p->kwargs = tree_keep(&t, all);
    return t.broken ? refusal_set(no, 500, "internal_error", "out of memory") : OK;
}

// Whether and how long to think.
static err_t read_kwargs(struct prepare *p, struct refusal *no)
{
    static const char *const efforts[] = {"none", "minimal", "low", "medium", "high", "xhigh"};
    const struct json *effort = p->p.reasoning_effort, *on = p->p.enable_thinking;
    const struct json *budget = json_get(p->p.kwargs, "thinking_budget");
    struct json_member more[3];
    size_t n = 0;
    p->kwargs = p->p.kwargs;
    if (p->p.thinking_budget < 0 && budget && budget->kind == J_INT && budget->i >= 0)
        p->p.thinking_budget = budget->i;
    if (on) more[n++] = (struct json_member){.key = "enable_thinking", .value = *on};
    if (on) more[n++] = (struct json_member){.key = "thinking", .value = *on};
    if (!effort) return n ? put_kwargs(p, more, n, no) : OK;
    bool known = false;
    for (size_t i = 0; i < sizeof efforts / sizeof *efforts; i++)
        known |= json_is(effort, efforts[i]);
    if (!known)
        return refusal_field(
            no, "reasoning_effort",
            "'reasoning_effort' must be none, minimal, low, medium, high or xhigh");
    more[n++] = (struct json_member){.key = "reasoning_effort", .value = *effort};
    return put_kwargs(p, more, n, no);
}

bool api_chat_can_continue(const struct json *message)
{
    const struct json *content = json_get(message, "content");
    return json_is(json_get(message, "role"), "assistant") && !json_get(message, "tool_calls") &&
           content && content->kind == J_STR && content->str.s[strspn(content->str.s, white)] != 0;
}

// The last message when the answer is to go on with it.
static err_t read_continued(struct prepare *p, struct refusal *no)
{
    const struct json *m = &p->messages->arr.items[p->messages->arr.n - 1];
    if (!p->p.continues) return OK;
    if (p->p.generation_prompt && p->p.generation_prompt->b)
        return refusal_field(no, "continue_final_message",
                             "'continue_final_message' and 'add_generation_prompt' exclude each "
                             "other");
    if (!api_chat_can_continue(m))
        return refusal_field(no, "continue_final_message",
                             "'continue_final_message' needs a last message of the assistant's "
                             "with text and without calls");
    p->continued = json_get(m, "content");
    return OK;
}

err_t api_chat_read(struct prepare *p, struct prepared *out, struct refusal *no)
{
    unsigned changed;
    err_t err = messages_read(p->p.messages, &p->scratch, &p->messages, no);
    if (!err && p->p.merge_roles &&
        repair_apply(p->messages, REPAIR_MERGE, &p->scratch, &p->messages, &changed))
        err = refusal_set(no, 400, "json_too_large", "the messages need too much memory");
    if (!err) err = read_continued(p, no);
    if (!err) err = read_tools(p, no);
    if (!err) err = read_choice(p, no);
    if (!err) err = read_kwargs(p, no);
    if (err) return err;
    if (p->p.add_special && p->p.add_special->b)
        return refusal_field(no, "add_special_tokens",
                             "'add_special_tokens': the chat template writes them already");
    bool logprobs = p->p.logprobs && p->p.logprobs->b;
    if (!logprobs && p->p.top_logprobs > 0)
        return refusal_field(no, "top_logprobs", "'top_logprobs' needs 'logprobs': true");
    if (logprobs) out->n_logprobs = p->p.top_logprobs > 0 ? (int32_t)p->p.top_logprobs : 0;
    return OK;
}

static int64_t local_now(void)
{
    struct tm tm;
    time_t now = time(NULL);
    localtime_r(&now, &tm);
    return now + tm.tm_gmtoff;
}

// The sentence of a template that refuses, on the message that it probably means.
static err_t refuse_messages(const struct prepare *p, const struct err_text *why,
                             struct refusal *no)
{
    int i = messages_repeat(p->messages);
    refusal_field(no, "messages", "%s", why->s);
    if (i >= 0) snprintf(no->param, sizeof no->param, "messages[%d].role", i);
    return ERR_INVALID;
}

// The template refused the conversation as it is: what the smallest change that it takes gives.
static bool render_repaired(struct prepare *p, struct template_input *in,
                            struct template_output *text, unsigned *repaired)
{
    bool tried[1 << REPAIR_RULES] = {true};
    unsigned rules, changed;
    for (size_t i = 0; (rules = repair_way(i)) != 0; i++) {
        if (prepare_unwanted(p->in)) return false;
        if (repair_apply(p->messages, rules, &p->scratch, &in->messages, &changed) != OK)
            return false;
        if (tried[changed]) continue;
        tried[changed] = true;
        *repaired = changed;
        if (template_render(p->in->model->template, in, text, NULL) == OK) return true;
    }
    return false;
}

static err_t render(struct prepare *p, struct template_input *in, struct template_output *text,
                    unsigned *repaired, struct refusal *no)
{
    const struct engine_model *m = p->in->model;
    *in = (struct template_input){
        .messages = p->messages,
        .tools = p->tools,
        .kwargs = p->kwargs,
        .bos_token = m->bos,
        .eos_token = m->eos,
        .add_generation_prompt =
            !p->continued && (!p->p.generation_prompt || p->p.generation_prompt->b),
        .now_s = local_now(),
    };
    struct err_text why;
    if (!m->template)
        return refusal_set(no, 400, "no_chat_template",
                           "The model '%.100s' is a base model without a chat template; use "
                           "/v1/completions",
                           m->id);
    *repaired = 0;
    err_t err = template_render(m->template, in, text, &why);
    if (!err) return OK;
    bool may = err == ERR_INVALID && !p->p.strict && !p->in->strict;
    if (may && render_repaired(p, in, text, repaired)) return OK;
    *repaired = 0;
    return refuse_messages(p, &why, no);
}

// Cuts off what the template wrote behind the message that is to be continued. Templates may trim
// it, and some write a little of the input behind it.
static err_t cut_continued(const struct prepare *p, struct template_output *text,
                           struct refusal *no)
{
    enum { SPANS_MAX = 8 };
    const char *s = p->continued->str.s + strspn(p->continued->str.s, white);
    const char *const end = p->continued->str.s + p->continued->str.len;
    size_t len = (size_t)(end - s);
    while (len && strchr(white, s[len - 1]))
        len--;
    for (size_t i = text->n_plain; i-- > 0 && i + SPANS_MAX >= text->n_plain;) {
        struct text_span *span = &text->plain[i];
        size_t to = span->to;
        while (to > span->from && strchr(white, text->text.data[to - 1]))
            to--;
        if (to - span->from < len || memcmp(text->text.data + to - len, s, len) != 0) continue;
        for (const char *more = s + len; more < end && to < span->to; more++, to++)
            if (text->text.data[to] != *more) break;
        span->to = text->text.len = to;
        text->n_plain = i + 1;
        return OK;
    }
    return refusal_field(no, "continue_final_message",
                         "the chat template changes the last message, so it cannot be continued");
}

// What a turn's parser must know; the body's trees go, so the functions are copied.
static err_t keep_turn(const struct prepare *p, const struct template_output *text,
                       struct prepared *out, struct refusal *no)
{
    enum { TAIL_MAX = 2048 };
    // The template's own words before the answer: behind the last message, or before the one that
    // is continued.
    const size_t n = text->n_plain - (p->continued ? 1 : 0);
    const size_t from = n ? text->plain[n - 1].to : 0;
    const size_t to = p->continued ? text->plain[n].from : text->text.len;
    const bool is_whole = to - from <= TAIL_MAX;
    out->tail_len = is_whole ? to - from : TAIL_MAX;
    const char *all = text->text.data ? text->text.data : ""; // a template may write nothing
    out->replay = p->tools && is_whole && !p->continued ? p->in->replay : NULL;
    out->tenant = p->in->tenant;
    out->before = from;
    if (out->replay) out->before_hash = fnv_add(FNV_BEGIN, all, from);
    out->tail = arena_copy_str(&out->arena, all + to - out->tail_len, out->tail_len);
    out->format = p->in->model->format;
    // A template that knows no calls lets the model write them in the commonest way.
    if (p->tools && !turn_format_has_calls(out->format)) out->format = turn_format_named("hermes");
    out->one_call = p->p.parallel_calls && !p->p.parallel_calls->b;
    bool ok = out->tail;
    if (ok && p->tools) {
        struct buf copy = {0};
        json_write(&copy, p->tools);
        ok = buf_ok(&copy) &&
             json_read(copy.data, copy.len, &out->arena, &out->tools, NULL, NULL) == OK;
        buf_fini(&copy);
    }
    return ok ? OK : refusal_set(no, 500, "internal_error", "out of memory");
}

err_t api_chat_encode(struct prepare *p, struct prepared *out, struct refusal *no)
{
    struct template_input in;
    struct template_output text = {0};
    struct history history;
    struct ids ids = {0};
    err_t err = history_adapt(p, &history, no);
    if (!err) err = render(p, &in, &text, &out->repaired, no);
    if (!err && p->continued) err = cut_continued(p, &text, no);
    if (!err) err = keep_turn(p, &text, out, no);
    if (!err) err = constrain_open(p, out, no);
    if (!err && prepare_unwanted(p->in)) err = ERR_CANCELLED;
    out->prompts = arena_take(&out->arena, sizeof *out->prompts);
    if (!err && !out->prompts) err = refusal_set(no, 500, "internal_error", "out of memory");
    // The template writes its own BOS.
    if (!err && history_encode(p, &history, &in, &text, &ids) != OK)
        err = refusal_set(no, 500, "internal_error", "the prompt could not be tokenised");
    const struct json whole = tree_text(text.text.data ? text.text.data : "", text.text.len);
    if (!err) err = prepare_add(p, out, &ids, p->api->keeps_text ? &whole : NULL, no);
    ids_fini(&ids);
    template_output_fini(&text);
    return err;
}

static void put_token(const struct reply *r, int32_t id, float logprob, struct buf *out)
{
    size_t len;
    const char *s = api_token(r, id, &len);
    buf_str(out, "{\"token\":");
    if (r->p.tokens_as_ids)
        buf_printf(out, "\"token_id:%d\"", id);
    else
        buf_json_str(out, s, len);
    buf_str(out, ",\"logprob\":");
    buf_json_num(out, logprob);
    buf_str(out, ",\"bytes\":[");
    for (size_t i = 0; i < len; i++)
        buf_printf(out, i ? ",%u" : "%u", (unsigned)(unsigned char)s[i]);
    buf_char(out, ']');
}

void api_put_token(const struct reply *r, const struct reply_choice *c, const struct reply_token *t,
                   struct buf *out)
{
    put_token(r, t->id, t->logprob, out);
    buf_str(out, ",\"top_logprobs\":[");
    for (uint32_t k = 0; k < t->n_top; k++) {
        const struct token_prob *top = &c->top[t->top + k];
        if (k) buf_char(out, ',');
        put_token(r, top->id, top->logprob, out);
        buf_char(out, '}');
    }
    buf_str(out, "]}");
}

static void put_logprobs(const struct reply *r, const struct reply_choice *c, struct buf *out)
{
    if (r->p.n_logprobs < 0) {
        buf_str(out, ",\"logprobs\":null");
        return;
    }
    buf_str(out, ",\"logprobs\":{\"content\":[");
    for (size_t i = 0; i < c->n_token; i++) {
        if (i) buf_char(out, ',');
        api_put_token(r, c, &c->tokens[i], out);
    }
    buf_str(out, "],\"refusal\":null}");
}

static void chat_first(const struct reply *r, const struct reply_choice *c, struct buf *out)
{
    (void)r;
    buf_printf(out,
               "{\"index\":%u,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
               "\"logprobs\":null,\"finish_reason\":null}",
               c->index);
}

// Both spellings of thoughts: clients know one or the other.
static void put_delta(const struct reply_choice *c, const struct reply_event *e, struct buf *out)
{
    const char *s = e ? c->text.data + e->at : "";
    const size_t len = e ? e->len : 0;
    switch (e ? e->kind : TURN_TEXT) {
    case TURN_REASONING:
        buf_str(out, "{\"reasoning_content\":");
        buf_json_str(out, s, len);
        buf_str(out, ",\"reasoning\":");
        break;
    case TURN_CALL:
        buf_printf(out,
                   "{\"tool_calls\":[{\"index\":%u,\"id\":\"%s\",\"type\":\"function\","
                   "\"function\":{\"name\":",
                   e->call, e->id);
        buf_json_str(out, s, len);
        buf_str(out, ",\"arguments\":\"\"}}]}");
        return;
    case TURN_ARGUMENTS:
        buf_printf(out, "{\"tool_calls\":[{\"index\":%u,\"function\":{\"arguments\":", e->call);
        buf_json_str(out, s, len);
        buf_str(out, "}}]}");
        return;
    default:
        buf_str(out, "{\"content\":");
    }
    buf_json_str(out, s, len);
    buf_char(out, '}');
}

static void chat_piece(const struct reply *r, const struct reply_choice *c,
                       const struct reply_event *e, struct buf *out)
{
    buf_printf(out, "{\"index\":%u,\"delta\":", c->index);
    put_delta(c, e, out);
    put_logprobs(r, c, out);
    buf_str(out, ",\"finish_reason\":null");
    api_extensions(r, c, out);
    buf_char(out, '}');
}

static void chat_last(const struct reply *r, const struct reply_choice *c, struct buf *out)
{
    buf_printf(out, "{\"index\":%u,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"%s\"",
               c->index, api_finish_reason(c));
    api_extensions(r, c, out);
    buf_char(out, '}');
}

static void put_joined(const struct reply_choice *c, enum turn_kind kind, uint32_t call,
                       struct buf *out)
{
    struct buf text = {0};
    reply_join(c, kind, call, &text);
    buf_json_str(out, text.data ? text.data : "", text.len);
    if (!buf_ok(&text)) out->broken = true;
    buf_fini(&text);
}

static bool has(const struct reply_choice *c, enum turn_kind kind)
{
    for (size_t i = 0; i < c->n_event; i++)
        if (c->events[i].kind == kind) return true;
    return false;
}

static void put_calls(const struct reply_choice *c, struct buf *out)
{
    buf_str(out, ",\"tool_calls\":[");
    for (size_t i = 0; i < c->n_event; i++) {
        const struct reply_event *e = &c->events[i];
        if (e->kind != TURN_CALL) continue;
        buf_printf(out, "%s{\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":",
                   e->call ? "," : "", e->id);
        buf_json_str(out, c->text.data + e->at, e->len);
        buf_str(out, ",\"arguments\":");
        put_joined(c, TURN_ARGUMENTS, e->call, out);
        buf_str(out, "}}");
    }
    buf_char(out, ']');
}

static void chat_whole(const struct reply *r, const struct reply_choice *c, struct buf *out)
{
    buf_printf(out, "{\"index\":%u,\"message\":{\"role\":\"assistant\",\"content\":", c->index);
    if (c->n_call && !has(c, TURN_TEXT))
        buf_str(out, "null");
    else
        put_joined(c, TURN_TEXT, 0, out);
    if (has(c, TURN_REASONING)) {
        buf_str(out, ",\"reasoning_content\":");
        put_joined(c, TURN_REASONING, 0, out);
        buf_str(out, ",\"reasoning\":");
        put_joined(c, TURN_REASONING, 0, out);
    }
    if (c->n_call) put_calls(c, out);
    buf_str(out, ",\"refusal\":null}");
    put_logprobs(r, c, out);
    buf_printf(out, ",\"finish_reason\":\"%s\"", api_finish_reason(c));
    api_extensions(r, c, out);
    buf_char(out, '}');
}

const struct api api_chat = {
    .id_prefix = "chatcmpl-",
    .object = "chat.completion",
    .chunk_object = "chat.completion.chunk",
    .prompt_field = "messages",
    .fields = FIELD_CHAT,
    .has_turns = true,
    .dialect = &dialect_chunks,
    .read = api_chat_read,
    .encode = api_chat_encode,
    .first = chat_first,
    .piece = chat_piece,
    .last = chat_last,
    .whole = chat_whole,
};

void api_chat_count(const struct prepared *p, struct buf *out)
{
    buf_printf(out, "{\"object\":\"response.input_tokens\",\"input_tokens\":%u}",
               p->prompts[0].req->n_prompt);
}

const struct api api_chat_count_only = {
    .id_prefix = "chatcmpl-",
    .prompt_field = "messages",
    .fields = FIELD_CHAT,
    .has_turns = true,
    .read = api_chat_read,
    .encode = api_chat_encode,
    .count = api_chat_count,
    .dialect = &dialect_chunks,
};

static void put_prompt(const struct prepared *p, struct buf *out)
{
    buf_str(out, "{\"prompt\":");
    buf_json_str(out, p->prompts[0].text, p->prompts[0].text_len);
    buf_char(out, '}');
}

const struct api api_chat_apply = {
    .id_prefix = "chatcmpl-",
    .prompt_field = "messages",
    .fields = FIELD_CHAT,
    .has_turns = true,
    .keeps_text = true,
    .read = api_chat_read,
    .encode = api_chat_encode,
    .count = put_prompt,
    .dialect = &dialect_chunks,
};
