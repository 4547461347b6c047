#include "proto/base/json.h"
#include "proto/base/buf.h"

#include <jansson.h>
#include <string.h>

// What must be refused before jansson sees it: its own depth limit is far above ours, and it has no
// limit on the number of values. One pass, no recursion, no allocation.
static err_t scan_limits(const char *s, size_t len, const char **code, struct err_text *why)
{
    size_t depth = 0, nodes = 1;
    bool in_str = false;
    for (size_t i = 0; i < len; i++) {
        char c = s[i];
        if (in_str) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_str = false;
            continue;
        }
        if (c == '"')
            in_str = true;
        else if (c == ']' || c == '}')
            depth -= depth > 0;
        else if (c == ',')
            nodes++;
        else if (c == '[' || c == '{') {
            nodes++;
            if (++depth > JSON_DEPTH_MAX) {
                *code = "json_too_deep";
                return err_say(why, ERR_INVALID, "JSON nested deeper than %d at byte %zu",
                               JSON_DEPTH_MAX, i);
            }
        }
        if (nodes > JSON_NODES_MAX) {
            *code = "json_too_large";
            return err_say(why, ERR_TOO_LARGE, "JSON has more than %d values at byte %zu",
                           JSON_NODES_MAX, i);
        }
    }
    return OK;
}

static bool convert(struct arena *a, const json_t *from, struct json *to);

static bool convert_array(struct arena *a, const json_t *from, struct json *to)
{
    to->kind = J_ARR;
    to->arr.n = json_array_size(from);
    to->arr.items = arena_take_n(a, to->arr.n, sizeof *to->arr.items);
    if (!to->arr.items) return false;
    for (size_t i = 0; i < to->arr.n; i++)
        if (!convert(a, json_array_get(from, i), &to->arr.items[i])) return false;
    return true;
}

static bool convert_object(struct arena *a, json_t *from, struct json *to)
{
    to->kind = J_OBJ;
    to->obj.n = json_object_size(from);
    to->obj.members = arena_take_n(a, to->obj.n, sizeof *to->obj.members);
    if (!to->obj.members) return false;
    struct json_member *m = to->obj.members;
    const char *key;
    json_t *value;
    json_object_foreach(from, key, value)
    {
        m->key_len = strlen(key);
        m->key = arena_copy_str(a, key, m->key_len);
        if (!m->key || !convert(a, value, &m->value)) return false;
        m++;
    }
    return true;
}

// Recursion is bounded by JSON_DEPTH_MAX (scan_limits ran first).
static bool convert(struct arena *a, const json_t *from, struct json *to)
{
    switch (json_typeof(from)) {
    case JSON_OBJECT:
        return convert_object(a, (json_t *)(uintptr_t)from, to);
    case JSON_ARRAY:
        return convert_array(a, from, to);
    case JSON_STRING:
        to->kind = J_STR;
        to->str.len = json_string_length(from);
        to->str.s = arena_copy_str(a, json_string_value(from), to->str.len);
        return to->str.s != NULL;
    case JSON_INTEGER:
        *to = (struct json){.kind = J_INT, .i = json_integer_value(from)};
        return true;
    case JSON_REAL:
        *to = (struct json){.kind = J_REAL, .d = json_real_value(from)};
        return true;
    case JSON_TRUE:
    case JSON_FALSE:
        *to = (struct json){.kind = J_BOOL, .b = json_is_true(from)};
        return true;
    case JSON_NULL:
        *to = (struct json){.kind = J_NULL};
        return true;
    }
    return false;
}

static const char *code_of(const json_error_t *e)
{
    switch (json_error_code(e)) {
    case json_error_invalid_utf8:
        return "invalid_utf8";
    case json_error_duplicate_key:
        return "duplicate_key";
    case json_error_stack_overflow:
        return "json_too_deep";
    default:
        return "invalid_json";
    }
}

err_t json_read(const char *text, size_t len, struct arena *arena, const struct json **out,
                const char **code, struct err_text *why)
{
    const char *unused;
    if (!code) code = &unused;
    *code = "invalid_json";
    err_t err = scan_limits(text, len, code, why);
    if (err) return err;
    json_error_t e;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &e);
    if (!root) {
        *code = code_of(&e);
        return err_say(why, ERR_INVALID, "invalid JSON at byte %d: %s", e.position, e.text);
    }
    struct json *j = arena_take(arena, sizeof *j);
    bool ok = j && convert(arena, root, j);
    json_decref(root);
    if (!ok) {
        *code = "json_too_large";
        return err_say(why, ERR_TOO_LARGE, "JSON needs more memory than this request may use");
    }
    *out = j;
    return OK;
}

const struct json *json_get(const struct json *j, const char *key)
{
    if (!j || j->kind != J_OBJ) return NULL;
    size_t len = strlen(key);
    for (size_t i = 0; i < j->obj.n; i++) {
        const struct json_member *m = &j->obj.members[i];
        if (m->key_len == len && memcmp(m->key, key, len) == 0) return &m->value;
    }
    return NULL;
}

bool json_is(const struct json *j, const char *s)
{
    return j && j->kind == J_STR && j->str.len == strlen(s) && memcmp(j->str.s, s, j->str.len) == 0;
}

double json_number(const struct json *j, double otherwise)
{
    if (j && j->kind == J_INT) return (double)j->i;
    if (j && j->kind == J_REAL) return j->d;
    return otherwise;
}

static const struct json *member_like(const struct json *o, size_t at, const struct json_member *m)
{
    enum { SEARCH_MAX = 256 };
    const struct json_member *n = &o->obj.members[at];
    if (n->key_len == m->key_len && memcmp(n->key, m->key, m->key_len) == 0) return &n->value;
    return o->obj.n <= SEARCH_MAX ? json_get(o, m->key) : NULL;
}

bool json_same(const struct json *a, const struct json *b)
{
    const bool numbers =
        (a->kind == J_INT || a->kind == J_REAL) && (b->kind == J_INT || b->kind == J_REAL);
    if (numbers && a->kind != b->kind) return json_number(a, 0) == json_number(b, 0);
    if (a->kind != b->kind) return false;
    switch (a->kind) {
    case J_NULL:
        return true;
    case J_BOOL:
        return a->b == b->b;
    case J_INT:
        return a->i == b->i;
    case J_REAL:
        return a->d == b->d;
    case J_STR:
        return a->str.len == b->str.len && memcmp(a->str.s, b->str.s, a->str.len) == 0;
    case J_ARR:
        for (size_t i = 0; a->arr.n == b->arr.n && i < a->arr.n; i++)
            if (!json_same(&a->arr.items[i], &b->arr.items[i])) return false;
        return a->arr.n == b->arr.n;
    case J_OBJ:
        for (size_t i = 0; a->obj.n == b->obj.n && i < a->obj.n; i++) {
            const struct json *other = member_like(b, i, &a->obj.members[i]);
            if (!other || !json_same(&a->obj.members[i].value, other)) return false;
        }
        return a->obj.n == b->obj.n;
    }
    return false;
}

const char *json_kind_name(enum json_kind k)
{
    static const char *const names[] = {"null",   "boolean", "integer", "number",
                                        "string", "array",   "object"};
    return names[k];
}

void json_write(struct buf *b, const struct json *j)
{
    switch (j->kind) {
    case J_NULL:
        buf_str(b, "null");
        break;
    case J_BOOL:
        buf_str(b, j->b ? "true" : "false");
        break;
    case J_INT:
        buf_printf(b, "%lld", (long long)j->i);
        break;
    case J_REAL:
        buf_json_num(b, j->d);
        break;
    case J_STR:
        buf_json_str(b, j->str.s, j->str.len);
        break;
    case J_ARR:
        buf_char(b, '[');
        for (size_t i = 0; i < j->arr.n; i++) {
            if (i) buf_char(b, ',');
            json_write(b, &j->arr.items[i]);
        }
        buf_char(b, ']');
        break;
    case J_OBJ:
        buf_char(b, '{');
        for (size_t i = 0; i < j->obj.n; i++) {
            if (i) buf_char(b, ',');
            buf_json_str(b, j->obj.members[i].key, j->obj.members[i].key_len);
            buf_char(b, ':');
            json_write(b, &j->obj.members[i].value);
        }
        buf_char(b, '}');
        break;
    }
}
