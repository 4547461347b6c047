// POST /v1/responses: OpenAI's newer dialect. A body becomes one of chat completions; answers are
// items (reasoning, message, function_call) that open and close one after the other, every event
// with a number. Nothing is kept between calls: callers send the whole conversation each time.
// Facts: OpenAI's description of the Responses API and of its streaming events.
#include "coordinator/door/api.h"
#include "coordinator/door/messages.h"
#include "coordinator/door/tree.h"

#include <stdio.h>
#include <string.h>

// -- bodies --

struct reading {
    struct tree tree;
    struct refusal *no;
    struct json messages; // of the chat
    const struct json *input;
    // The assistant's turn being put together: thoughts, then text, then calls.
    struct buf thoughts;
    struct json text, calls;
    bool has_text;
    size_t i; // item being read
};

static err_t refuse(struct reading *r, const char *where, const char *what)
{
    char param[96];
    snprintf(param, sizeof param, "input[%zu]%s%s", r->i, *where ? "." : "", where);
    return refusal_field(r->no, param, "'%s' %s", param, what);
}

static bool is_type(const struct json *item, const char *type)
{
    return json_is(json_get(item, "type"), type);
}

static err_t join_text(struct reading *r, const struct json *content, struct json *out)
{
    struct buf text = {0};
    err_t err = OK;
    if (content && content->kind == J_STR) {
        *out = *content;
        return OK;
    }
    for (size_t i = 0; content && content->kind == J_ARR && i < content->arr.n && !err; i++) {
        const struct json *part = &content->arr.items[i], *t = json_get(part, "text");
        if (is_type(part, "refusal")) t = json_get(part, "refusal");
        if (t && t->kind == J_STR)
            buf_add(&text, t->str.s, t->str.len);
        else
            err = refuse(r, "content", "holds a part that this model cannot take: text only");
    }
    *out = tree_copy(&r->tree, text.data, text.len);
    buf_fini(&text);
    return err;
}

// What the assistant said in several items is one message, as it was when the model wrote it.
static void end_turn(struct reading *r)
{
    if (!r->has_text && !r->calls.arr.n && !r->thoughts.len) return;
    struct json m = tree_object(&r->tree, 4);
    tree_put(&m, "role", tree_word("assistant"));
    tree_put(&m, "content", r->has_text ? r->text : tree_word(""));
    if (r->thoughts.len)
        tree_put(&m, "reasoning_content", tree_copy(&r->tree, r->thoughts.data, r->thoughts.len));
    if (r->calls.arr.n) tree_put(&m, "tool_calls", r->calls);
    tree_add(&r->messages, m);
    buf_clear(&r->thoughts);
    r->has_text = false;
    r->calls = (struct json){.kind = J_ARR};
}

static err_t read_message(struct reading *r, const struct json *item)
{
    const struct json *role = json_get(item, "role");
    struct json text, m = tree_object(&r->tree, 2);
    if (!role || role->kind != J_STR) return refuse(r, "role", "must be a string");
    err_t err = join_text(r, json_get(item, "content"), &text);
    if (err) return err;
    if (json_is(role, "assistant")) {
        if (r->has_text || r->calls.arr.n) end_turn(r);
        r->text = text;
        r->has_text = true;
        return OK;
    }
    end_turn(r);
    tree_put(&m, "role", *role);
    tree_put(&m, "content", text);
    tree_add(&r->messages, m);
    return OK;
}

static bool is_call(const struct json *item)
{
    return is_type(item, "function_call") || is_type(item, "custom_tool_call");
}

// Calls of one turn follow each other: whatever stands between them ends it.
static void read_call(struct reading *r, const struct json *item, const char *arguments)
{
    if (!r->calls.arr.n) {
        size_t n = 1;
        while (r->i + n < r->input->arr.n && is_call(&r->input->arr.items[r->i + n]))
            n++;
        r->calls = tree_list(&r->tree, n);
    }
    struct json call = tree_object(&r->tree, 3), f = tree_object(&r->tree, 2);
    tree_put_given(&f, "name", json_get(item, "name"));
    tree_put_given(&f, "arguments", json_get(item, arguments));
    tree_put_given(&call, "id", json_get(item, "call_id"));
    tree_put(&call, "type", tree_word("function"));
    tree_put(&call, "function", f);
    tree_add(&r->calls, call);
}

static bool was_called(const struct reading *r, const struct json *id)
{
    for (size_t i = r->i; i-- > 0;) { // mostly just before
        const struct json *other = json_get(&r->input->arr.items[i], "call_id");
        if (other && id && id->kind == J_STR && json_is(other, id->str.s)) return true;
    }
    return false;
}

static err_t read_output(struct reading *r, const struct json *item)
{
    const struct json *id = json_get(item, "call_id");
    struct json text, m = tree_object(&r->tree, 3);
    if (!was_called(r, id))
        return refuse(r, "call_id",
                      "answers no call of this input: nothing is kept between requests, so "
                      "send the whole conversation");
    err_t err = join_text(r, json_get(item, "output"), &text);
    if (err) return err;
    end_turn(r);
    tree_put(&m, "role", tree_word("tool"));
    tree_put(&m, "tool_call_id", *id);
    tree_put(&m, "content", text);
    tree_add(&r->messages, m);
    return OK;
}

static void read_thoughts(struct reading *r, const struct json *item)
{
    const struct json *list = json_get(item, "content");
    if (r->has_text || r->calls.arr.n) end_turn(r);
    if (!list || list->kind != J_ARR || !list->arr.n) list = json_get(item, "summary");
    for (size_t i = 0; list && list->kind == J_ARR && i < list->arr.n; i++) {
        const struct json *t = json_get(&list->arr.items[i], "text");
        if (t && t->kind == J_STR) buf_add(&r->thoughts, t->str.s, t->str.len);
    }
}

// Items of tools that another provider has run; like those tools they are passed over.
static bool is_hosted(const struct json *item)
{
    static const char *const types[] = {
        "web_search_call",       "file_search_call", "code_interpreter_call",
        "image_generation_call", "mcp_call",         "mcp_list_tools"};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (is_type(item, types[i])) return true;
    return false;
}

static err_t read_item(struct reading *r, const struct json *item)
{
    const struct json *type = json_get(item, "type");
    if (!type || json_is(type, "message")) return read_message(r, item);
    if (json_is(type, "function_call_output") || json_is(type, "custom_tool_call_output"))
        return read_output(r, item);
    if (json_is(type, "function_call"))
        read_call(r, item, "arguments");
    else if (json_is(type, "custom_tool_call"))
        read_call(r, item, "input");
    else if (json_is(type, "reasoning"))
        read_thoughts(r, item);
    else if (!is_hosted(item))
        return refuse(r, "type",
                      "must be message, function_call, function_call_output, custom_tool_call, "
                      "custom_tool_call_output or reasoning");
    return OK;
}

static err_t read_input(struct reading *r, const struct json *body)
{
    const struct json *instructions = json_get(body, "instructions");
    const bool is_text = r->input && r->input->kind == J_STR;
    if (!is_text && (!r->input || r->input->kind != J_ARR))
        return refusal_field(r->no, "input", "'input' must be a string or an array of items");
    if (!is_text && r->input->arr.n > MESSAGES_MAX)
        return refusal_field(r->no, "input", "'input' must hold at most %d items, not %zu",
                             MESSAGES_MAX, r->input->arr.n);
    r->messages = tree_list(&r->tree, 2 + 2 * (is_text ? 1 : r->input->arr.n));
    r->calls = (struct json){.kind = J_ARR};
    if (tree_given(instructions)) {
        struct json m = tree_object(&r->tree, 2);
        tree_put(&m, "role", tree_word("system"));
        tree_put(&m, "content", *instructions);
        tree_add(&r->messages, m);
    }
    if (is_text) {
        struct json m = tree_object(&r->tree, 2);
        tree_put(&m, "role", tree_word("user"));
        tree_put(&m, "content", *r->input);
        tree_add(&r->messages, m);
        return OK;
    }
    for (; r->i < r->input->arr.n; r->i++) {
        err_t err = read_item(r, &r->input->arr.items[r->i]);
        if (err) return err;
    }
    end_turn(r);
    return OK;
}

// Tools of other types are the provider's own; they are passed over.
static struct json tools_of(struct reading *r, const struct json *tools)
{
    static const char *const same[] = {"name", "description", "parameters", "strict"};
    struct json list = tree_list(&r->tree, tools->arr.n);
    for (size_t i = 0; i < tools->arr.n; i++) {
        if (!is_type(&tools->arr.items[i], "function")) continue;
        struct json tool = tree_object(&r->tree, 2), f = tree_object(&r->tree, 4);
        for (size_t k = 0; k < sizeof same / sizeof *same; k++)
            tree_put_given(&f, same[k], json_get(&tools->arr.items[i], same[k]));
        tree_put(&tool, "type", tree_word("function"));
        tree_put(&tool, "function", f);
        tree_add(&list, tool);
    }
    return list;
}

// What is known of the text's tokens is only told where "include" asks for it.
static void put_logprobs(const struct json *body, struct json *out)
{
    const struct json *include = json_get(body, "include");
    for (size_t i = 0; include && include->kind == J_ARR && i < include->arr.n; i++) {
        if (!json_is(&include->arr.items[i], "message.output_text.logprobs")) continue;
        tree_put(out, "logprobs", tree_bool(true));
        tree_put_given(out, "top_logprobs", json_get(body, "top_logprobs"));
        break;
    }
}

static void put_choice(struct reading *r, const struct json *choice, struct json *out)
{
    if (!is_type(choice, "function")) {
        if (choice && choice->kind == J_STR) tree_put(out, "tool_choice", *choice);
        return;
    }
    struct json named = tree_object(&r->tree, 2), f = tree_object(&r->tree, 1);
    tree_put_given(&f, "name", json_get(choice, "name"));
    tree_put(&named, "type", tree_word("function"));
    tree_put(&named, "function", f);
    tree_put(out, "tool_choice", named);
}

static void put_format(struct reading *r, const struct json *format, struct json *out)
{
    if (!format) return;
    struct json f = tree_object(&r->tree, 2);
    tree_put_given(&f, "type", json_get(format, "type"));
    tree_put(&f, "json_schema", *format); // the same names inside
    tree_put(out, "response_format", f);
}

static err_t translate(const struct json *body, struct arena *a, const struct json **out,
                       struct refusal *no)
{
    static const char *const same[] = {"model",  "temperature",         "top_p",  "user",
                                       "stream", "parallel_tool_calls", "strict", "seed"};
    static const char *const states[] = {"previous_response_id", "conversation"};
    if (body->kind != J_OBJ) return refusal_field(no, "", "the body must be an object");
    for (size_t i = 0; i < 2; i++)
        if (tree_given(json_get(body, states[i])))
            return refusal_field(no, states[i],
                                 "'%s' is not supported: nothing is kept between requests, so "
                                 "send the whole conversation as 'input'",
                                 states[i]);
    struct reading r = {.tree = {.arena = a}, .no = no, .input = json_get(body, "input")};
    err_t err = read_input(&r, body);
    buf_fini(&r.thoughts);
    if (err) return err;
    struct json chat = tree_object(&r.tree, 24);
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        tree_put_given(&chat, same[i], json_get(body, same[i]));
    tree_put_given(&chat, "max_completion_tokens", json_get(body, "max_output_tokens"));
    tree_put_given(&chat, "reasoning_effort", json_get(json_get(body, "reasoning"), "effort"));
    if (!tree_given(json_get(body, "user")))
        tree_put_given(&chat, "user", json_get(body, "prompt_cache_key"));
    tree_put(&chat, "messages", r.messages);
    const struct json *tools = json_get(body, "tools");
    if (tools && tools->kind == J_ARR) tree_put(&chat, "tools", tools_of(&r, tools));
    put_choice(&r, json_get(body, "tool_choice"), &chat);
    put_logprobs(body, &chat);
    put_format(&r, json_get(json_get(body, "text"), "format"), &chat);
    *out = tree_keep(&r.tree, chat);
    return r.tree.broken ? refusal_set(no, 400, "json_too_large", "the body needs too much memory")
                         : OK;
}

// -- answers --

static void begin_event(struct reply *r, const char *type, struct buf *out)
{
    buf_printf(out, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%u", type, type,
               r->open.n_event++);
}

static void end_event(struct buf *out)
{
    buf_str(out, "}\n\n");
}

static void put_usage(const struct reply *r, struct buf *out)
{
    const struct reply_usage u = reply_usage_get(r);
    buf_printf(out,
               "{\"input_tokens\":%llu,\"input_tokens_details\":{\"cached_tokens\":%llu},"
               "\"output_tokens\":%llu,\"output_tokens_details\":{\"reasoning_tokens\":%llu},"
               "\"total_tokens\":%llu}",
               (unsigned long long)u.prompt, (unsigned long long)u.cached,
               (unsigned long long)u.made, (unsigned long long)u.reasoning,
               (unsigned long long)(u.prompt + u.made));
}

// The response as it is now; `items`: its finished output.
static void put_response(const struct reply *r, const char *status, const struct buf *items,
                         struct buf *out)
{
    const bool is_over = strcmp(status, "in_progress") != 0;
    buf_printf(out, "{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%lld,\"status\":\"%s\"",
               r->p.id, (long long)r->created_s, status);
    buf_str(out, ",\"model\":");
    buf_json_str(out, r->p.name, strlen(r->p.name));
    buf_str(out, ",\"error\":");
    if (r->failed.status) {
        buf_printf(
            out, "{\"code\":\"%s\",\"message\":", r->failed.code ? r->failed.code : "server_error");
        buf_json_str(out, r->failed.text.s, strlen(r->failed.text.s));
        buf_char(out, '}');
    } else {
        buf_str(out, "null");
    }
    const bool is_cut = is_over && !strcmp(status, "incomplete");
    buf_printf(out, ",\"incomplete_details\":%s",
               is_cut ? "{\"reason\":\"max_output_tokens\"}" : "null");
    buf_printf(out,
               ",\"instructions\":null,\"metadata\":{},\"parallel_tool_calls\":%s,"
               "\"temperature\":null,\"tool_choice\":\"auto\",\"tools\":[],\"top_p\":null,"
               "\"store\":false,\"output\":[",
               r->p.one_call ? "false" : "true");
    if (items && items->len) buf_add(out, items->data, items->len);
    buf_str(out, "],\"usage\":");
    if (is_over && !r->failed.status)
        put_usage(r, out);
    else
        buf_str(out, "null");
    buf_char(out, '}');
}

static void put_response_event(struct reply *r, const char *type, const char *status,
                               const struct buf *items, struct buf *out)
{
    begin_event(r, type, out);
    buf_str(out, ",\"response\":");
    put_response(r, status, items, out);
    end_event(out);
}

static void response_begin(struct reply *r, struct buf *out)
{
    put_response_event(r, "response.created", "in_progress", NULL, out);
    put_response_event(r, "response.in_progress", "in_progress", NULL, out);
}

// The item that is open, or as it was when it closed.
struct item {
    int kind; // enum turn_kind
    const char *id, *call_id, *status;
    const struct buf *name, *text;
    const struct buf *probs; // of its text's tokens, JSON with commas
};

// Those from a byte of the list on.
static void put_probs(const struct buf *items, size_t from, struct buf *out)
{
    buf_str(out, ",\"logprobs\":[");
    if (items->len > from) {
        const size_t comma = items->data[from] == ',';
        buf_add(out, items->data + from + comma, items->len - from - comma);
    }
    buf_char(out, ']');
}

static void put_part(const struct item *it, struct buf *out)
{
    const bool is_message = it->kind == TURN_TEXT;
    buf_printf(out, "{\"type\":\"%s\",\"text\":", is_message ? "output_text" : "reasoning_text");
    buf_json_str(out, it->text->data ? it->text->data : "", it->text->len);
    if (is_message) buf_str(out, ",\"annotations\":[]");
    if (is_message) put_probs(it->probs, 0, out);
    buf_char(out, '}');
}

static void put_item(const struct item *it, struct buf *out)
{
    static const char *const types[] = {
        [TURN_TEXT] = "message", [TURN_REASONING] = "reasoning", [TURN_CALL] = "function_call"};
    const bool is_done = strcmp(it->status, "in_progress") != 0;
    buf_printf(out, "{\"type\":\"%s\",\"id\":\"%s\",\"status\":\"%s\"", types[it->kind], it->id,
               it->status);
    if (it->kind == TURN_CALL) {
        buf_printf(out, ",\"call_id\":\"%s\",\"name\":", it->call_id);
        buf_json_str(out, it->name->data, it->name->len);
        buf_str(out, ",\"arguments\":");
        buf_json_str(out, it->text->data ? it->text->data : "", it->text->len);
        buf_char(out, '}');
        return;
    }
    buf_str(out, it->kind == TURN_TEXT ? ",\"role\":\"assistant\"" : ",\"summary\":[]");
    buf_str(out, ",\"content\":[");
    if (is_done) put_part(it, out);
    buf_str(out, "]}");
}

static struct item open_item(const struct reply *r, const char *status)
{
    return (struct item){.kind = r->open.kind,
                         .id = r->open.id,
                         .call_id = r->open.call_id,
                         .status = status,
                         .name = &r->open.name,
                         .text = &r->open.text,
                         .probs = &r->open.probs};
}

static void put_where(const struct reply *r, bool in_part, struct buf *out)
{
    buf_printf(out, ",\"item_id\":\"%s\",\"output_index\":%u", r->open.id, r->open.n_block);
    if (in_part) buf_str(out, ",\"content_index\":0");
}

static void put_item_event(struct reply *r, const char *type, const struct item *it,
                           struct buf *out)
{
    begin_event(r, type, out);
    buf_printf(out, ",\"output_index\":%u,\"item\":", r->open.n_block);
    put_item(it, out);
    end_event(out);
}

static void put_part_event(struct reply *r, const char *type, const struct item *it,
                           struct buf *out)
{
    begin_event(r, type, out);
    put_where(r, true, out);
    buf_str(out, ",\"part\":");
    put_part(it, out);
    end_event(out);
}

// What the kinds call the text that comes in pieces.
struct words {
    const char *prefix, *delta, *done, *field;
};
static const struct words kinds[] = {
    [TURN_TEXT] = {"msg_", "response.output_text.delta", "response.output_text.done", "text"},
    [TURN_REASONING] = {"rs_", "response.reasoning_text.delta", "response.reasoning_text.done",
                        "text"},
    [TURN_CALL] = {"fc_", "response.function_call_arguments.delta",
                   "response.function_call_arguments.done", "arguments"},
};

static void open_block(struct reply *r, const struct reply_choice *c, const struct reply_event *e,
                       struct buf *out)
{
    r->open.kind = e->kind;
    prepare_id(kinds[e->kind].prefix, r->open.id);
    buf_clear(&r->open.text);
    buf_clear(&r->open.name);
    buf_clear(&r->open.probs);
    if (e->kind == TURN_CALL) {
        memcpy(r->open.call_id, e->id, sizeof r->open.call_id);
        buf_add(&r->open.name, c->text.data + e->at, e->len);
    }
    const struct item it = open_item(r, "in_progress");
    put_item_event(r, "response.output_item.added", &it, out);
    if (e->kind != TURN_CALL) put_part_event(r, "response.content_part.added", &it, out);
}

// Tokens belong to the piece that ends with their text, or goes on behind it: those that only hold
// some of it back, or are marks, to the next or the last.
static void take_probs(struct reply *r, const struct reply_choice *c, const struct reply_event *e)
{
    struct buf *items = &r->open.probs;
    for (; r->open.n_token < c->n_token; r->open.n_token++) {
        const struct reply_token *t = &c->tokens[r->open.n_token];
        if (t->text_end > e->at + e->len) break;
        if (e->kind != TURN_TEXT) continue;
        if (items->len) buf_char(items, ',');
        api_put_token(r, c, t, items);
    }
}

static void put_delta(struct reply *r, const struct reply_choice *c, const struct reply_event *e,
                      struct buf *out)
{
    const char *s = c->text.data + e->at;
    const size_t n_known = r->open.probs.len;
    buf_add(&r->open.text, s, e->len);
    take_probs(r, c, e);
    begin_event(r, kinds[r->open.kind].delta, out);
    put_where(r, r->open.kind != TURN_CALL, out);
    buf_str(out, ",\"delta\":");
    buf_json_str(out, s, e->len);
    if (r->open.kind == TURN_TEXT) put_probs(&r->open.probs, n_known, out);
    end_event(out);
}

static void close_block(struct reply *r, bool is_cut, struct buf *out)
{
    if (r->open.kind < 0) return;
    const struct words *w = &kinds[r->open.kind];
    const struct item it = open_item(r, is_cut ? "incomplete" : "completed");
    begin_event(r, w->done, out);
    put_where(r, r->open.kind != TURN_CALL, out);
    buf_printf(out, ",\"%s\":", w->field);
    buf_json_str(out, r->open.text.data ? r->open.text.data : "", r->open.text.len);
    if (r->open.kind == TURN_TEXT) put_probs(&r->open.probs, 0, out);
    if (r->open.kind == TURN_CALL) {
        buf_str(out, ",\"name\":");
        buf_json_str(out, r->open.name.data, r->open.name.len);
    }
    end_event(out);
    if (r->open.kind != TURN_CALL) put_part_event(r, "response.content_part.done", &it, out);
    put_item_event(r, "response.output_item.done", &it, out);
    if (r->open.items.len) buf_char(&r->open.items, ',');
    put_item(&it, &r->open.items);
    r->open.n_block++;
    r->open.kind = -1;
}

static const char *status_of(const struct reply_choice *c)
{
    return reply_end_of(c) == REPLY_LENGTH ? "incomplete" : "completed";
}

static const struct reply_blocks blocks = {open_block, put_delta, close_block};

static void response_flush(struct reply *r, bool is_final, struct buf *out)
{
    reply_put_blocks(r, &blocks, is_final, out);
    if (!is_final) return;
    const char *status = status_of(&r->choices[0]);
    const bool is_cut = strcmp(status, "incomplete") == 0;
    put_response_event(r, is_cut ? "response.incomplete" : "response.completed", status,
                       &r->open.items, out);
}

static void response_failed(struct reply *r, struct buf *out)
{
    put_response_event(r, "response.failed", "failed", &r->open.items, out);
}

static void response_keep_alive(struct reply *r, struct buf *out)
{
    put_response_event(r, "response.in_progress", "in_progress", NULL, out);
}

static void response_body(struct reply *r, struct buf *out)
{
    struct buf unread = {0};
    reply_put_blocks(r, &blocks, true, &unread); // what counts is the items it leaves
    buf_fini(&unread);
    put_response(r, status_of(&r->choices[0]), &r->open.items, out);
}

static void response_refused(const struct refusal *no, const char *request_id, struct buf *out)
{
    (void)request_id;
    refusal_json(out, no);
}

static const struct dialect dialect_responses = {
    .begin = response_begin,
    .flush = response_flush,
    .failed = response_failed,
    .keep_alive = response_keep_alive,
    .body = response_body,
    .refused = response_refused,
};

const struct api api_responses = {
    .id_prefix = "resp_",
    .prompt_field = "input",
    .fields = FIELD_CHAT,
    .has_turns = true,
    .read = api_chat_read,
    .encode = api_chat_encode,
    .translate = translate,
    .dialect = &dialect_responses,
};

const struct api api_responses_count = {
    .id_prefix = "resp_",
    .prompt_field = "input",
    .fields = FIELD_CHAT,
    .has_turns = true,
    .read = api_chat_read,
    .encode = api_chat_encode,
    .translate = translate,
    .count = api_chat_count,
    .dialect = &dialect_responses,
};
