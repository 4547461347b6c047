// POST /v1/messages: Anthropic's dialect. A body becomes one of chat completions; answers are
// blocks (text, thinking, tool_use), one open at a time. Facts: Anthropic's description of the
// Messages API and of its streaming.
#include "coordinator/door/api.h"
#include "coordinator/door/tree.h"

#include <stdio.h>
#include <string.h>

// -- bodies --

struct reading {
    struct tree tree;
    struct refusal *no;
    struct json messages; // of the chat
    size_t i;             // message being read
};

static err_t refuse(struct reading *r, const char *where, const char *what)
{
    char param[96];
    snprintf(param, sizeof param, "messages[%zu].%s", r->i, where);
    return refusal_field(r->no, param, "'%s' %s", param, what);
}

static bool is_type(const struct json *block, const char *type)
{
    return json_is(json_get(block, "type"), type);
}

// Claude Code's billing line differs from call to call: it would spoil every prefix.
static bool is_billing(const struct json *text)
{
    static const char start[] = "x-anthropic-billing-header";
    return text && text->kind == J_STR && strncmp(text->str.s, start, sizeof start - 1) == 0;
}

// Text blocks joined; other blocks are refused by name, those of `skip` passed over.
static err_t join_text(struct reading *r, const struct json *content, const char *skip,
                       struct json *out)
{
    struct buf text = {0};
    err_t err = OK;
    if (!tree_given(content)) content = NULL;
    if (content && content->kind == J_STR) {
        *out = *content;
        return OK;
    }
    for (size_t i = 0; content && content->kind == J_ARR && i < content->arr.n && !err; i++) {
        const struct json *b = &content->arr.items[i], *t = json_get(b, "text");
        if (is_type(b, "text") && t && t->kind == J_STR) {
            if (!is_billing(t)) buf_add(&text, t->str.s, t->str.len);
        } else if (!skip || !is_type(b, skip)) {
            err = refuse(r, "content", "holds a block that this model cannot take: text only");
        }
    }
    *out = tree_copy(&r->tree, text.data, text.len);
    buf_fini(&text);
    return err;
}

static void add_message(struct reading *r, const char *role, struct json content)
{
    struct json m = tree_object(&r->tree, 2);
    tree_put(&m, "role", tree_word(role));
    tree_put(&m, "content", content);
    tree_add(&r->messages, m);
}

static err_t add_result(struct reading *r, const struct json *block)
{
    const struct json *id = json_get(block, "tool_use_id");
    struct json text, m = tree_object(&r->tree, 3);
    if (!id || id->kind != J_STR)
        return refuse(r, "content", "has a tool_result without tool_use_id");
    err_t err = join_text(r, json_get(block, "content"), "tool_reference", &text);
    if (err) return err;
    tree_put(&m, "role", tree_word("tool"));
    tree_put(&m, "tool_call_id", *id);
    tree_put(&m, "content", text);
    tree_add(&r->messages, m);
    return OK;
}

// Results of tools come first, as messages of their own, then what the user says beside them.
static err_t read_user(struct reading *r, const struct json *content)
{
    struct json text;
    bool any = false;
    for (size_t i = 0; i < content->arr.n; i++) {
        if (!is_type(&content->arr.items[i], "tool_result")) {
            any = true;
            continue;
        }
        err_t err = add_result(r, &content->arr.items[i]);
        if (err) return err;
    }
    if (!any) return OK;
    err_t err = join_text(r, content, "tool_result", &text);
    if (!err) add_message(r, "user", text);
    return err;
}

static struct json call_of(struct reading *r, const struct json *block)
{
    struct json call = tree_object(&r->tree, 3), f = tree_object(&r->tree, 2);
    tree_put_given(&f, "name", json_get(block, "name"));
    tree_put_given(&f, "arguments", json_get(block, "input"));
    tree_put_given(&call, "id", json_get(block, "id"));
    tree_put(&call, "type", tree_word("function"));
    tree_put(&call, "function", f);
    return call;
}

// Blocks of tools that another provider has run; like those tools they are passed over.
static bool is_hosted(const struct json *block)
{
    static const char end[] = "_tool_result";
    const struct json *type = json_get(block, "type");
    if (!type || type->kind != J_STR) return false;
    const size_t len = type->str.len, n = sizeof end - 1;
    return json_is(type, "server_tool_use") || json_is(type, "mcp_tool_use") ||
           (len > n && strcmp(type->str.s + len - n, end) == 0);
}

static err_t read_assistant(struct reading *r, const struct json *content)
{
    struct json m = tree_object(&r->tree, 4), calls = tree_list(&r->tree, content->arr.n);
    struct buf text = {0}, thoughts = {0};
    err_t err = OK;
    for (size_t i = 0; i < content->arr.n && !err; i++) {
        const struct json *b = &content->arr.items[i];
        const struct json *t = json_get(b, is_type(b, "thinking") ? "thinking" : "text");
        const bool has_text = t && t->kind == J_STR;
        if (is_type(b, "text") && has_text)
            buf_add(&text, t->str.s, t->str.len);
        else if (is_type(b, "thinking") && has_text)
            buf_add(&thoughts, t->str.s, t->str.len);
        else if (is_type(b, "tool_use"))
            tree_add(&calls, call_of(r, b));
        else if (!is_type(b, "redacted_thinking") && !is_hosted(b))
            err = refuse(r, "content", "holds a block that an assistant cannot have written");
    }
    tree_put(&m, "role", tree_word("assistant"));
    tree_put(&m, "content", tree_copy(&r->tree, text.data, text.len));
    if (thoughts.len)
        tree_put(&m, "reasoning_content", tree_copy(&r->tree, thoughts.data, thoughts.len));
    if (calls.arr.n) tree_put(&m, "tool_calls", calls);
    tree_add(&r->messages, m);
    buf_fini(&text);
    buf_fini(&thoughts);
    return err;
}

static err_t read_message(struct reading *r, const struct json *m)
{
    const struct json *role = json_get(m, "role"), *content = json_get(m, "content");
    const bool is_user = json_is(role, "user"), is_assistant = json_is(role, "assistant");
    if (!is_user && !is_assistant && !json_is(role, "system"))
        return refuse(r, "role", "must be user, assistant or system");
    if (!content || (content->kind != J_STR && content->kind != J_ARR))
        return refuse(r, "content", "must be a string or an array of blocks");
    if (content->kind == J_ARR && is_user) return read_user(r, content);
    if (content->kind == J_ARR && is_assistant) return read_assistant(r, content);
    struct json text;
    err_t err = join_text(r, content, NULL, &text);
    if (!err) add_message(r, role->str.s, text);
    return err;
}

static err_t read_messages(struct reading *r, const struct json *body)
{
    const struct json *list = json_get(body, "messages"), *system = json_get(body, "system");
    size_t n = 1;
    if (!list || list->kind != J_ARR)
        return refusal_field(r->no, "messages", "'messages' must be an array");
    for (size_t i = 0; i < list->arr.n; i++) {
        const struct json *c = json_get(&list->arr.items[i], "content");
        n += 1 + (c && c->kind == J_ARR ? c->arr.n : 0);
    }
    r->messages = tree_list(&r->tree, n);
    if (tree_given(system)) {
        struct json text;
        err_t err = join_text(r, system, NULL, &text);
        if (err) return refusal_field(r->no, "system", "'system' must be text");
        if (is_billing(&text)) { // a line before the rest
            const char *end = memchr(text.str.s, '\n', text.str.len);
            const size_t cut = end ? (size_t)(end + 1 - text.str.s) : text.str.len;
            text = tree_text(text.str.s + cut, text.str.len - cut);
        }
        if (text.str.len) add_message(r, "system", text);
    }
    for (; r->i < list->arr.n; r->i++) {
        err_t err = read_message(r, &list->arr.items[r->i]);
        if (err) return err;
    }
    return OK;
}

// Tools that the caller's provider would run (they have a type of their own) are passed over.
static struct json tools_of(struct reading *r, const struct json *tools)
{
    struct json list = tree_list(&r->tree, tools->arr.n);
    for (size_t i = 0; i < tools->arr.n; i++) {
        const struct json *t = &tools->arr.items[i], *schema = json_get(t, "input_schema");
        if (!schema) continue;
        struct json f = tree_object(&r->tree, 4), tool = tree_object(&r->tree, 2);
        tree_put_given(&f, "name", json_get(t, "name"));
        tree_put_given(&f, "description", json_get(t, "description"));
        tree_put_given(&f, "parameters", schema);
        tree_put_given(&f, "strict", json_get(t, "strict"));
        tree_put(&tool, "type", tree_word("function"));
        tree_put(&tool, "function", f);
        tree_add(&list, tool);
    }
    return list;
}

static void put_choice(struct reading *r, const struct json *choice, struct json *out)
{
    const struct json *alone = json_get(choice, "disable_parallel_tool_use");
    if (is_type(choice, "tool")) {
        struct json named = tree_object(&r->tree, 2), f = tree_object(&r->tree, 1);
        tree_put_given(&f, "name", json_get(choice, "name"));
        tree_put(&named, "type", tree_word("function"));
        tree_put(&named, "function", f);
        tree_put(out, "tool_choice", named);
    } else if (is_type(choice, "any")) {
        tree_put(out, "tool_choice", tree_word("required"));
    } else if (is_type(choice, "none")) {
        tree_put(out, "tool_choice", tree_word("none"));
    }
    if (alone && alone->kind == J_BOOL && alone->b)
        tree_put(out, "parallel_tool_calls", tree_bool(false));
}

static void put_thinking(struct reading *r, const struct json *body, struct json *out)
{
    const struct json *thinking = json_get(body, "thinking");
    const struct json *config = json_get(body, "output_config"),
                      *format = json_get(config, "format");
    if (!tree_given(format)) format = json_get(body, "output_format"); // its older name
    const struct json *effort = json_get(config, "effort");
    if (json_is(effort, "max")) // our highest has another name
        tree_put(out, "reasoning_effort", tree_word("xhigh"));
    else
        tree_put_given(out, "reasoning_effort", effort);
    if (is_type(format, "json_schema")) {
        struct json f = tree_object(&r->tree, 2), s = tree_object(&r->tree, 2);
        tree_put(&s, "name", tree_word("answer"));
        tree_put_given(&s, "schema", json_get(format, "schema"));
        tree_put(&f, "type", tree_word("json_schema"));
        tree_put(&f, "json_schema", s);
        tree_put(out, "response_format", f);
    }
    const struct json *type = json_get(thinking, "type");
    if (!type || type->kind != J_STR) return;
    if (json_is(type, "enabled"))
        tree_put_given(out, "thinking_budget", json_get(thinking, "budget_tokens"));
    struct json kwargs = tree_object(&r->tree, 2);
    tree_put(&kwargs, "enable_thinking", tree_bool(!json_is(type, "disabled")));
    tree_put(&kwargs, "thinking", tree_bool(!json_is(type, "disabled")));
    tree_put(out, "chat_template_kwargs", kwargs);
}

// The answer goes on with a last message of the assistant's.
static bool is_continued(const struct json *messages)
{
    const size_t n = messages->arr.n;
    return n && api_chat_can_continue(&messages->arr.items[n - 1]);
}

static err_t translate(const struct json *body, struct arena *a, const struct json **out,
                       struct refusal *no)
{
    static const char *const same[] = {"model", "max_tokens", "temperature", "top_p",
                                       "top_k", "stream",     "strict",      "seed"};
    struct reading r = {.tree = {.arena = a}, .no = no};
    if (body->kind != J_OBJ) return refusal_field(no, "", "the body must be an object");
    err_t err = read_messages(&r, body);
    if (err) return err;
    struct json chat = tree_object(&r.tree, 20);
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        tree_put_given(&chat, same[i], json_get(body, same[i]));
    tree_put_given(&chat, "stop", json_get(body, "stop_sequences"));
    tree_put_given(&chat, "user", json_get(json_get(body, "metadata"), "user_id"));
    tree_put(&chat, "messages", r.messages);
    if (!r.tree.broken && is_continued(&r.messages))
        tree_put(&chat, "continue_final_message", tree_bool(true));
    const struct json *tools = json_get(body, "tools");
    if (tools && tools->kind == J_ARR) tree_put(&chat, "tools", tools_of(&r, tools));
    put_choice(&r, json_get(body, "tool_choice"), &chat);
    put_thinking(&r, body, &chat);
    *out = tree_keep(&r.tree, chat);
    return r.tree.broken ? refusal_set(no, 400, "json_too_large", "the body needs too much memory")
                         : OK;
}

// -- answers --

static void begin_event(const char *type, struct buf *out)
{
    buf_printf(out, "event: %s\ndata: {\"type\":\"%s\"", type, type);
}

static void end_event(struct buf *out)
{
    buf_str(out, "}\n\n");
}

// Tokens that were there already are not counted as input.
static void put_usage(const struct reply *r, struct buf *out)
{
    const struct reply_usage u = reply_usage_get(r);
    buf_printf(out,
               ",\"usage\":{\"input_tokens\":%llu,\"cache_creation_input_tokens\":0,"
               "\"cache_read_input_tokens\":%llu,\"output_tokens\":%llu}",
               (unsigned long long)(u.prompt - u.cached), (unsigned long long)u.cached,
               (unsigned long long)u.made);
}

static void put_head(const struct reply *r, struct buf *out)
{
    buf_printf(out,
               "\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", r->p.id);
    buf_json_str(out, r->p.name, strlen(r->p.name));
}

static void put_end(const struct reply_choice *c, struct buf *out)
{
    static const char *const words[] = {[REPLY_STOP] = "end_turn",
                                        [REPLY_STOP_TEXT] = "stop_sequence",
                                        [REPLY_LENGTH] = "max_tokens",
                                        [REPLY_CALLS] = "tool_use"};
    buf_printf(out, "\"stop_reason\":\"%s\",\"stop_sequence\":", words[reply_end_of(c)]);
    if (c->stop)
        buf_json_str(out, c->stop, c->stop_len);
    else
        buf_str(out, "null");
}

static void message_begin(struct reply *r, struct buf *out)
{
    begin_event("message_start", out);
    buf_str(out, ",\"message\":{");
    put_head(r, out);
    buf_str(out, ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null");
    put_usage(r, out);
    buf_char(out, '}');
    end_event(out);
}

// Thoughts carry a signature that callers send back and nobody checks: they are not secret here.
static const char signature[] = "trireme";

static void close_block(struct reply *r, bool is_cut, struct buf *out)
{
    (void)is_cut; // blocks look the same
    if (r->open.kind < 0) return;
    if (r->open.kind == TURN_REASONING) {
        begin_event("content_block_delta", out);
        buf_printf(out,
                   ",\"index\":%u,\"delta\":{\"type\":\"signature_delta\",\"signature\":\"%s\"}",
                   r->open.n_block, signature);
        end_event(out);
    }
    begin_event("content_block_stop", out);
    buf_printf(out, ",\"index\":%u", r->open.n_block);
    end_event(out);
    r->open.n_block++;
    r->open.kind = -1;
}

static void put_call_id(const struct reply_event *e, struct buf *out)
{
    buf_printf(out, "toolu_%s", e->id + strlen("call_"));
}

static void open_block(struct reply *r, const struct reply_choice *c, const struct reply_event *e,
                       struct buf *out)
{
    r->open.kind = e->kind;
    begin_event("content_block_start", out);
    buf_printf(out, ",\"index\":%u,\"content_block\":", r->open.n_block);
    if (e->kind == TURN_CALL) {
        buf_str(out, "{\"type\":\"tool_use\",\"id\":\"");
        put_call_id(e, out);
        buf_str(out, "\",\"name\":");
        buf_json_str(out, c->text.data + e->at, e->len);
        buf_str(out, ",\"input\":{}}");
    } else if (e->kind == TURN_REASONING) {
        buf_str(out, "{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}");
    } else {
        buf_str(out, "{\"type\":\"text\",\"text\":\"\"}");
    }
    end_event(out);
}

static void put_delta(struct reply *r, const struct reply_choice *c, const struct reply_event *e,
                      struct buf *out)
{
    static const char *const types[] = {
        [TURN_TEXT] = "\"text_delta\",\"text\"",
        [TURN_REASONING] = "\"thinking_delta\",\"thinking\"",
        [TURN_ARGUMENTS] = "\"input_json_delta\",\"partial_json\"",
    };
    begin_event("content_block_delta", out);
    buf_printf(out, ",\"index\":%u,\"delta\":{\"type\":%s:", r->open.n_block, types[e->kind]);
    buf_json_str(out, c->text.data + e->at, e->len);
    buf_char(out, '}');
    end_event(out);
}

static const struct reply_blocks blocks = {open_block, put_delta, close_block};

static void message_flush(struct reply *r, bool is_final, struct buf *out)
{
    const struct reply_choice *c = &r->choices[0];
    reply_put_blocks(r, &blocks, is_final, out);
    if (!is_final) return;
    begin_event("message_delta", out);
    buf_str(out, ",\"delta\":{");
    put_end(c, out);
    buf_char(out, '}');
    put_usage(r, out);
    end_event(out);
    begin_event("message_stop", out);
    end_event(out);
}

// One word per status, as Anthropic's clients tell them apart.
static const char *error_type(int status)
{
    static const struct {
        int status;
        const char *type;
    } types[] = {{400, "invalid_request_error"}, {401, "authentication_error"},
                 {403, "permission_error"},      {404, "not_found_error"},
                 {413, "request_too_large"},     {429, "rate_limit_error"},
                 {503, "overloaded_error"},      {529, "overloaded_error"}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].status == status) return types[i].type;
    return status < 500 ? "invalid_request_error" : "api_error";
}

static void put_error(const struct refusal *no, struct buf *out)
{
    buf_printf(out, "\"error\":{\"type\":\"%s\",\"message\":", error_type(no->status));
    if (no->n_ctx) {
        buf_printf(out, "\"prompt is too long: %u tokens > %u maximum\"", no->n_prompt_tokens,
                   no->n_ctx);
    } else {
        buf_json_str(out, no->text.s, strlen(no->text.s));
    }
    buf_char(out, '}');
}

static void message_failed(struct reply *r, struct buf *out)
{
    buf_str(out, "event: error\ndata: {\"type\":\"error\",");
    put_error(&r->failed, out);
    end_event(out);
}

static void message_refused(const struct refusal *no, const char *request_id, struct buf *out)
{
    buf_str(out, "{\"type\":\"error\",");
    put_error(no, out);
    buf_printf(out, ",\"request_id\":\"%s\"}", request_id);
}

static void message_keep_alive(struct reply *r, struct buf *out)
{
    (void)r;
    begin_event("ping", out);
    end_event(out);
}

static void put_block(const struct reply_choice *c, size_t i, struct buf *out)
{
    const struct reply_event *e = &c->events[i];
    struct buf arguments = {0};
    const char *s = c->text.data + e->at;
    switch (e->kind) {
    case TURN_CALL:
        buf_str(out, "{\"type\":\"tool_use\",\"id\":\"");
        put_call_id(e, out);
        buf_str(out, "\",\"name\":");
        buf_json_str(out, s, e->len);
        buf_str(out, ",\"input\":");
        reply_join(c, TURN_ARGUMENTS, e->call, &arguments);
        reply_put_object(&arguments, out);
        break;
    case TURN_REASONING:
        buf_str(out, "{\"type\":\"thinking\",\"thinking\":");
        buf_json_str(out, s, e->len);
        buf_printf(out, ",\"signature\":\"%s\"", signature);
        break;
    default:
        buf_str(out, "{\"type\":\"text\",\"text\":");
        buf_json_str(out, s, e->len);
    }
    buf_char(out, '}');
    buf_fini(&arguments);
}

static void message_body(struct reply *r, struct buf *out)
{
    const struct reply_choice *c = &r->choices[0];
    bool any = false;
    buf_char(out, '{');
    put_head(r, out);
    buf_str(out, ",\"content\":[");
    for (size_t i = 0; i < c->n_event; i++) {
        if (c->events[i].kind >= TURN_ARGUMENTS) continue;
        if (any) buf_char(out, ',');
        put_block(c, i, out);
        any = true;
    }
    buf_str(out, "],");
    put_end(c, out);
    put_usage(r, out);
    buf_char(out, '}');
}

static const struct dialect dialect_messages = {
    .begin = message_begin,
    .flush = message_flush,
    .failed = message_failed,
    .keep_alive = message_keep_alive,
    .body = message_body,
    .refused = message_refused,
    .status_503 = 529, // "overloaded", which Anthropic's clients wait for
};

static void put_count(const struct prepared *p, struct buf *out)
{
    buf_printf(out, "{\"input_tokens\":%u}", p->prompts[0].req->n_prompt);
}

const struct api api_messages = {
    .id_prefix = "msg_",
    .prompt_field = "messages",
    .fields = FIELD_CHAT,
    .has_turns = true,
    .read = api_chat_read,
    .encode = api_chat_encode,
    .translate = translate,
    .dialect = &dialect_messages,
};

const struct api api_messages_count = {
    .id_prefix = "msg_",
    .prompt_field = "messages",
    .fields = FIELD_CHAT,
    .has_turns = true,
    .read = api_chat_read,
    .encode = api_chat_encode,
    .translate = translate,
    .count = put_count,
    .dialect = &dialect_messages,
};
