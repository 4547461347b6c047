#include "coordinator/door/messages.h"
#include "proto/base/buf.h"

#include <stdio.h>
#include <string.h>

struct reading {
    struct arena *arena;
    struct refusal *no;
    size_t i;       // message
    char param[96]; // of the last param_of
};

static const char *param_of(struct reading *r, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

static const char *param_of(struct reading *r, const char *fmt, ...)
{
    int n = snprintf(r->param, sizeof r->param, "messages[%zu]", r->i);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r->param + n, sizeof r->param - (size_t)n, fmt, ap);
    va_end(ap);
    return r->param;
}

static err_t no_memory(struct reading *r)
{
    return refusal_set(r->no, 400, "json_too_large", "the messages need too much memory");
}

static struct json text(const char *s, size_t len)
{
    return (struct json){.kind = J_STR, .str = {.s = s, .len = len}};
}

static bool given(const struct json *j)
{
    return j && j->kind != J_NULL;
}

static err_t refuse_part(struct reading *r, const struct json *part, size_t j)
{
    const struct json *type = json_get(part, "type");
    const char *param = param_of(r, ".content[%zu]", j);
    if (!type || type->kind != J_STR)
        return refusal_field(r->no, param, "'%s' must be an object with a 'type'", param);
    const struct json *url = json_get(json_get(part, "image_url"), "url");
    bool remote = url && url->kind == J_STR && strncmp(url->str.s, "data:", 5) != 0;
    err_t err = refusal_field(r->no, param,
                              remote ? "'%s' of type '%.40s': remote media are never fetched"
                                     : "'%s' has type '%.40s'; this model takes 'text' only",
                              param, type->str.s);
    if (remote) r->no->code = "remote_media_not_allowed";
    return err;
}

static err_t join_parts(struct reading *r, const struct json *parts, struct json *out)
{
    size_t len = 0;
    for (size_t j = 0; j < parts->arr.n; j++) {
        const struct json *part = &parts->arr.items[j], *t = json_get(part, "text");
        if (part->kind != J_OBJ || !json_is(json_get(part, "type"), "text"))
            return refuse_part(r, part, j);
        if (!t || t->kind != J_STR) {
            const char *param = param_of(r, ".content[%zu].text", j);
            return refusal_field(r->no, param, "'%s' must be a string", param);
        }
        len += t->str.len;
    }
    char *s = arena_take(r->arena, len + 1);
    if (!s) return no_memory(r);
    size_t at = 0;
    for (size_t j = 0; j < parts->arr.n; j++) {
        const struct json *t = json_get(&parts->arr.items[j], "text");
        memcpy(s + at, t->str.s, t->str.len);
        at += t->str.len;
    }
    *out = text(s, len);
    return OK;
}

static err_t read_content(struct reading *r, const struct json *m, bool may_lack, struct json *out)
{
    const struct json *c = json_get(m, "content");
    if (given(c) && c->kind == J_STR) {
        *out = *c;
        return OK;
    }
    if (given(c) && c->kind == J_ARR) return join_parts(r, c, out);
    if (given(c) || !may_lack) {
        const char *param = param_of(r, ".content");
        return refusal_field(r->no, param, "'%s' must be a string or an array of parts%s", param,
                             may_lack ? " or null" : "");
    }
    *out = text("", 0);
    return OK;
}

// Appends a member; the caller took room for it.
static void put(struct json *obj, const char *key, struct json value)
{
    obj->obj.members[obj->obj.n++] =
        (struct json_member){.key = key, .key_len = strlen(key), .value = value};
}

static struct json object(struct arena *a, size_t n_max)
{
    return (struct json){.kind = J_OBJ,
                         .obj = {.members = arena_take_n(a, n_max, sizeof(struct json_member))}};
}

// Templates walk arguments as an object; what is no object (a model may have written anything) is
// replayed as it is.
static struct json read_arguments(struct reading *r, const struct json *args)
{
    const struct json *parsed;
    if (!given(args)) return object(r->arena, 1);
    if (args->kind != J_STR) return *args;
    if (json_read(args->str.s, args->str.len, r->arena, &parsed, NULL, NULL) == OK &&
        parsed->kind == J_OBJ)
        return *parsed;
    return *args;
}

static err_t read_call(struct reading *r, const struct json *call, size_t j, struct json *out)
{
    const struct json *fn = json_get(call, "function"), *name = json_get(fn, "name");
    if (!name || name->kind != J_STR) {
        const char *param = param_of(r, ".tool_calls[%zu].function.name", j);
        return refusal_field(r->no, param, "'%s' must be a string", param);
    }
    struct json f = object(r->arena, 2), c = object(r->arena, 3);
    struct json args = read_arguments(r, json_get(fn, "arguments"));
    if (!f.obj.members || !c.obj.members || (args.kind == J_OBJ && !args.obj.members))
        return no_memory(r);
    put(&f, "name", *name);
    put(&f, "arguments", args);
    const struct json *id = json_get(call, "id");
    if (given(id)) {
        if (id->kind != J_STR) {
            const char *param = param_of(r, ".tool_calls[%zu].id", j);
            return refusal_field(r->no, param, "'%s' must be a string", param);
        }
        put(&c, "id", *id);
    }
    put(&c, "type", text("function", 8));
    put(&c, "function", f);
    *out = c;
    return OK;
}

static err_t read_calls(struct reading *r, const struct json *calls, struct json *out)
{
    if (calls->kind != J_ARR) {
        const char *param = param_of(r, ".tool_calls");
        return refusal_field(r->no, param, "'%s' must be an array", param);
    }
    struct json list = {.kind = J_ARR};
    list.arr.items = arena_take_n(r->arena, calls->arr.n, sizeof(struct json));
    if (!list.arr.items) return no_memory(r);
    for (; list.arr.n < calls->arr.n; list.arr.n++) {
        err_t err =
            read_call(r, &calls->arr.items[list.arr.n], list.arr.n, &list.arr.items[list.arr.n]);
        if (err) return err;
    }
    *out = list;
    return OK;
}

// Copies an optional string member.
static err_t read_str(struct reading *r, const struct json *m, const char *key,
                      const struct json **out)
{
    const struct json *v = json_get(m, key);
    *out = NULL;
    if (!given(v)) return OK;
    if (v->kind != J_STR) {
        const char *param = param_of(r, ".%s", key);
        return refusal_field(r->no, param, "'%s' must be a string", param);
    }
    *out = v;
    return OK;
}

static err_t read_role(struct reading *r, const struct json *m, const char **out)
{
    static const struct {
        const char *sent, *as;
    } roles[] = {{"system", "system"},       {"developer", "system"}, {"user", "user"},
                 {"assistant", "assistant"}, {"tool", "tool"},        {"function", "tool"}};
    const struct json *role = json_get(m, "role");
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        if (!json_is(role, roles[i].sent)) continue;
        *out = roles[i].as;
        return OK;
    }
    const char *param = param_of(r, ".role");
    return refusal_field(r->no, param,
                         "'%s' must be one of system, developer, user, assistant, tool", param);
}

static err_t read_assistant(struct reading *r, const struct json *m, struct json *out)
{
    const struct json *thought, *other, *calls = json_get(m, "tool_calls");
    err_t err = read_str(r, m, "reasoning_content", &thought);
    if (!err) err = read_str(r, m, "reasoning", &other);
    if (err) return err;
    if (!thought) thought = other;
    if (thought) {
        put(out, "reasoning_content", *thought);
        put(out, "reasoning", *thought);
    }
    if (!given(calls) || (calls->kind == J_ARR && calls->arr.n == 0)) return OK;
    struct json list;
    err = read_calls(r, calls, &list);
    if (!err) put(out, "tool_calls", list);
    return err;
}

static err_t read_tool(struct reading *r, const struct json *m, struct json *out)
{
    const struct json *id;
    err_t err = read_str(r, m, "tool_call_id", &id);
    if (err) return err;
    if (!id && json_is(json_get(m, "role"), "tool")) {
        const char *param = param_of(r, ".tool_call_id");
        return refusal_field(r->no, param, "'%s' is missing", param);
    }
    if (id) put(out, "tool_call_id", *id);
    return OK;
}

static err_t read_message(struct reading *r, const struct json *m, struct json *out)
{
    const char *role = "";
    const struct json *name;
    struct json content;
    if (m->kind != J_OBJ) {
        const char *param = param_of(r, "%s", "");
        return refusal_field(r->no, param, "'%s' must be an object", param);
    }
    err_t err = read_role(r, m, &role);
    if (err) return err;
    bool assistant = strcmp(role, "assistant") == 0;
    bool may_lack =
        assistant && (given(json_get(m, "tool_calls")) || given(json_get(m, "reasoning_content")) ||
                      given(json_get(m, "reasoning")) || given(json_get(m, "refusal")));
    err = read_content(r, m, may_lack, &content);
    if (!err) err = read_str(r, m, "name", &name);
    if (err) return err;
    struct json to = object(r->arena, 6);
    if (!to.obj.members) return no_memory(r);
    put(&to, "role", text(role, strlen(role)));
    put(&to, "content", content);
    if (name) put(&to, "name", *name);
    if (assistant)
        err = read_assistant(r, m, &to);
    else if (strcmp(role, "tool") == 0)
        err = read_tool(r, m, &to);
    if (!err) *out = to;
    return err;
}

err_t messages_read(const struct json *messages, struct arena *arena, const struct json **out,
                    struct refusal *no)
{
    if (!messages) return refusal_field(no, "messages", "'messages' is missing");
    if (messages->arr.n == 0 || messages->arr.n > MESSAGES_MAX)
        return refusal_field(no, "messages", "'messages' must hold 1 to %d messages, not %zu",
                             MESSAGES_MAX, messages->arr.n);
    struct reading r = {.arena = arena, .no = no};
    struct json *list = arena_take(arena, sizeof *list);
    struct json *items = arena_take_n(arena, messages->arr.n, sizeof *items);
    if (!list || !items) return no_memory(&r);
    for (; r.i < messages->arr.n; r.i++) {
        err_t err = read_message(&r, &messages->arr.items[r.i], &items[r.i]);
        if (err) return err;
    }
    *list = (struct json){.kind = J_ARR, .arr = {.items = items, .n = messages->arr.n}};
    *out = list;
    return OK;
}

int messages_repeat(const struct json *messages)
{
    for (size_t i = 1; i < messages->arr.n; i++) {
        const struct json *role = json_get(&messages->arr.items[i], "role");
        const struct json *before = json_get(&messages->arr.items[i - 1], "role");
        bool turn = json_is(role, "user") || json_is(role, "assistant");
        if (turn && before && json_is(before, role->str.s)) return (int)i;
    }
    return -1;
}
