#include "coordinator/door/repair.h"
#include "proto/base/buf.h"

#include <string.h>

const char *const repair_names[REPAIR_RULES] = {"tools_as_text", "fold_later_system", "fold_system",
                                                "merge_roles", "bridge_tool"};

unsigned repair_way(size_t i)
{
    static const unsigned ways[] = {
        REPAIR_MERGE,
        REPAIR_LATER,
        REPAIR_SYSTEM,
        REPAIR_BRIDGE,
        REPAIR_LATER | REPAIR_MERGE,
        REPAIR_SYSTEM | REPAIR_MERGE,
        REPAIR_MERGE | REPAIR_BRIDGE,
        REPAIR_LATER | REPAIR_BRIDGE,
        REPAIR_SYSTEM | REPAIR_BRIDGE,
        REPAIR_LATER | REPAIR_MERGE | REPAIR_BRIDGE,
        REPAIR_SYSTEM | REPAIR_MERGE | REPAIR_BRIDGE,
        REPAIR_TOOLS,
        REPAIR_TOOLS | REPAIR_MERGE,
        REPAIR_TOOLS | REPAIR_LATER | REPAIR_MERGE,
        REPAIR_TOOLS | REPAIR_SYSTEM | REPAIR_MERGE,
    };
    return i < sizeof ways / sizeof *ways ? ways[i] : 0;
}

struct repair {
    struct arena *arena;
    struct json *items; // messages so far
    size_t n;
    unsigned changed;
    bool full; // the arena is
};

static struct json str(const char *s, size_t len)
{
    return (struct json){.kind = J_STR, .str = {.s = s, .len = len}};
}

static bool is_role(const struct json *m, const char *role)
{
    return json_is(json_get(m, "role"), role);
}

// A copy of the message with one member put in, replaced or (NULL) left out.
static struct json with(struct repair *r, const struct json *m, const char *key,
                        const struct json *value)
{
    struct json made = {.kind = J_OBJ};
    made.obj.members = arena_take_n(r->arena, m->obj.n + 1, sizeof *made.obj.members);
    if (!made.obj.members) {
        r->full = true;
        return *m;
    }
    bool put = !value;
    for (size_t i = 0; i < m->obj.n; i++) {
        const struct json_member *old = &m->obj.members[i];
        bool same = strcmp(old->key, key) == 0;
        if (same && !value) continue;
        struct json_member *new = &made.obj.members[made.obj.n++];
        *new = *old;
        if (!same) continue;
        new->value = *value;
        put = true;
    }
    if (!put)
        made.obj.members[made.obj.n++] =
            (struct json_member){.key = key, .key_len = strlen(key), .value = *value};
    return made;
}

static struct json message(struct repair *r, const char *role, struct json content)
{
    struct json empty = {.kind = J_OBJ}, name = str(role, strlen(role));
    struct json m = with(r, &empty, "role", &name);
    return with(r, &m, "content", &content);
}

// What n messages hold under `key`, with empty lines between; empty texts do not count.
static struct json joined(struct repair *r, const struct json *m, size_t n, const char *key)
{
    struct json one = str("", 0);
    size_t len = 0, n_text = 0, at = 0;
    for (size_t i = 0; i < n; i++) {
        const struct json *t = json_get(&m[i], key);
        if (!t || t->str.len == 0) continue;
        one = *t;
        len += t->str.len + 2;
        n_text++;
    }
    if (n_text < 2) return one;
    char *s = arena_take(r->arena, len + 1);
    if (!s) {
        r->full = true;
        return one;
    }
    for (size_t i = 0; i < n; i++) {
        const struct json *t = json_get(&m[i], key);
        if (!t || t->str.len == 0) continue;
        memcpy(s + at, t->str.s, t->str.len);
        memcpy(s + at + t->str.len, "\n\n", 2);
        at += t->str.len + 2;
    }
    s[at - 2] = 0;
    return str(s, at - 2);
}

// --- tools as text ----------------------------------------------------------------------------

static struct json told_calls(struct repair *r, const struct json *m)
{
    const struct json *calls = json_get(m, "tool_calls"), *content = json_get(m, "content");
    struct buf text = {0};
    if (content) buf_add(&text, content->str.s, content->str.len);
    for (size_t i = 0; i < calls->arr.n; i++) {
        const struct json *f = json_get(&calls->arr.items[i], "function");
        if (text.len) buf_str(&text, i ? "\n" : "\n\n");
        if (f) json_write(&text, f);
    }
    char *s = buf_ok(&text) ? arena_copy_str(r->arena, text.data ? text.data : "", text.len) : NULL;
    struct json told = str(s ? s : "", s ? text.len : 0);
    r->full |= !s;
    buf_fini(&text);
    struct json plain = with(r, m, "tool_calls", NULL);
    return with(r, &plain, "content", &told);
}

static struct json as_text(struct repair *r, const struct json *m)
{
    if (json_get(m, "tool_calls")) {
        r->changed |= REPAIR_TOOLS;
        return told_calls(r, m);
    }
    if (!is_role(m, "tool")) return *m;
    const struct json *content = json_get(m, "content");
    r->changed |= REPAIR_TOOLS;
    return message(r, "user", content ? *content : str("", 0));
}

static void tell_tools(struct repair *r)
{
    for (size_t i = 0; i < r->n; i++)
        r->items[i] = as_text(r, &r->items[i]);
}

// --- system -----------------------------------------------------------------------------------

// What a system message says goes in front of what the user says next; if somebody else speaks
// next, the user says it.
static void fold_system(struct repair *r, unsigned rule)
{
    bool begun = false;
    size_t n = 0, n_held = 0; // held are those just before message i
    for (size_t i = 0; i < r->n; i++) {
        struct json m = r->items[i];
        const bool system = is_role(&m, "system");
        begun |= !system;
        if (system && (begun || rule == REPAIR_SYSTEM)) {
            n_held++;
            r->changed |= rule;
            continue;
        }
        if (n_held && is_role(&m, "user")) {
            const struct json all = joined(r, &r->items[i - n_held], n_held + 1, "content");
            m = with(r, &m, "content", &all);
        } else if (n_held) { // there is room: what is held is gone
            r->items[n++] = message(r, "user", joined(r, &r->items[i - n_held], n_held, "content"));
        }
        n_held = 0;
        r->items[n++] = m;
    }
    if (n_held)
        r->items[n++] = message(r, "user", joined(r, &r->items[r->n - n_held], n_held, "content"));
    r->n = n;
}

// --- neighbours -------------------------------------------------------------------------------

static bool any_has(const struct json *m, size_t n, const char *key)
{
    for (size_t i = 0; i < n; i++)
        if (json_get(&m[i], key)) return true;
    return false;
}

static struct json joined_calls(struct repair *r, const struct json *m, size_t n)
{
    struct json all = {.kind = J_ARR};
    size_t n_call = 0;
    for (size_t i = 0; i < n; i++) {
        const struct json *calls = json_get(&m[i], "tool_calls");
        n_call += calls ? calls->arr.n : 0;
    }
    all.arr.items = arena_take_n(r->arena, n_call, sizeof *all.arr.items);
    if (!all.arr.items) {
        r->full = true;
        return all;
    }
    for (size_t i = 0; i < n; i++) {
        const struct json *calls = json_get(&m[i], "tool_calls");
        if (!calls) continue;
        memcpy(all.arr.items + all.arr.n, calls->arr.items,
               calls->arr.n * sizeof *calls->arr.items);
        all.arr.n += calls->arr.n;
    }
    return all;
}

// n messages as one: the first, with what the others say.
static struct json merged(struct repair *r, const struct json *m, size_t n)
{
    static const char *const texts[] = {"content", "reasoning_content", "reasoning"};
    struct json one = *m;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (!any_has(m + 1, n - 1, texts[i])) continue;
        const struct json text = joined(r, m, n, texts[i]);
        one = with(r, &one, texts[i], &text);
    }
    if (!any_has(m + 1, n - 1, "tool_calls")) return one;
    const struct json calls = joined_calls(r, m, n);
    return with(r, &one, "tool_calls", &calls);
}

static void merge_roles(struct repair *r)
{
    size_t n = 0;
    for (size_t i = 0, to; i < r->n; i = to) {
        const struct json *m = &r->items[i], *role = json_get(m, "role");
        for (to = i + 1; to < r->n && !is_role(m, "tool"); to++)
            if (!is_role(&r->items[to], role->str.s)) break;
        if (to - i > 1) r->changed |= REPAIR_MERGE;
        r->items[n++] = to - i > 1 ? merged(r, m, to - i) : *m;
    }
    r->n = n;
}

static void bridge_tools(struct repair *r)
{
    struct json *items = arena_take_n(r->arena, 2 * r->n, sizeof *items);
    size_t n = 0;
    if (!items) {
        r->full = true;
        return;
    }
    for (size_t i = 0; i < r->n; i++) {
        if (i && is_role(&r->items[i - 1], "tool") && is_role(&r->items[i], "user")) {
            items[n++] = message(r, "assistant", str("OK.", 3));
            r->changed |= REPAIR_BRIDGE;
        }
        items[n++] = r->items[i];
    }
    r->items = items;
    r->n = n;
}

err_t repair_apply(const struct json *messages, unsigned rules, struct arena *arena,
                   const struct json **out, unsigned *changed)
{
    struct repair r = {.arena = arena, .n = messages->arr.n};
    struct json *list = arena_take(arena, sizeof *list);
    r.items = arena_copy(arena, messages->arr.items, r.n * sizeof *r.items);
    if (!list || !r.items) return ERR_MEMORY;
    if (rules & REPAIR_TOOLS) tell_tools(&r);
    if (!r.full && rules & REPAIR_LATER) fold_system(&r, REPAIR_LATER);
    if (!r.full && rules & REPAIR_SYSTEM) fold_system(&r, REPAIR_SYSTEM);
    if (!r.full && rules & REPAIR_MERGE) merge_roles(&r);
    if (!r.full && rules & REPAIR_BRIDGE) bridge_tools(&r);
    if (r.full) return ERR_MEMORY;
    *list = (struct json){.kind = J_ARR, .arr = {.items = r.items, .n = r.n}};
    *out = list;
    *changed = r.changed;
    return OK;
}
