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

// Two texts with an empty line between; an empty one does not count.
static struct json joined(struct repair *r, const struct json *a, const struct json *b)
{
    if (!a || a->str.len == 0) return b ? *b : str("", 0);
    if (!b || b->str.len == 0) return *a;
    char *s = arena_take(r->arena, a->str.len + b->str.len + 3);
    if (!s) {
        r->full = true;
        return *a;
    }
    memcpy(s, a->str.s, a->str.len);
    memcpy(s + a->str.len, "\n\n", 2);
    memcpy(s + a->str.len + 2, b->str.s, b->str.len);
    return str(s, a->str.len + 2 + b->str.len);
}

// --- tools as text ----------------------------------------------------------------------------

static struct json told_calls(struct repair *r, const struct json *m)
{
    const struct json *calls = json_get(m, "tool_calls");
    struct buf text = {0};
    for (size_t i = 0; i < calls->arr.n; i++) {
        const struct json *f = json_get(&calls->arr.items[i], "function");
        if (i) buf_char(&text, '\n');
        if (f) json_write(&text, f);
    }
    char *s = buf_ok(&text) ? arena_copy_str(r->arena, text.data ? text.data : "", text.len) : NULL;
    struct json told = str(s ? s : "", s ? text.len : 0);
    r->full |= !s;
    buf_fini(&text);
    told = joined(r, json_get(m, "content"), &told);
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
    struct json held = {0};
    bool holds = false, begun = false;
    size_t n = 0;
    for (size_t i = 0; i < r->n; i++) {
        struct json m = r->items[i];
        bool system = is_role(&m, "system");
        begun |= !system;
        if (system && (begun || rule == REPAIR_SYSTEM)) {
            held = joined(r, holds ? &held : NULL, json_get(&m, "content"));
            holds = true;
            r->changed |= rule;
            continue;
        }
        if (holds && is_role(&m, "user")) {
            struct json both = joined(r, &held, json_get(&m, "content"));
            m = with(r, &m, "content", &both);
        } else if (holds) {
            r->items[n++] = message(r, "user", held); // a system message was there: there is room
        }
        holds = false;
        r->items[n++] = m;
    }
    if (holds) r->items[n++] = message(r, "user", held);
    r->n = n;
}

// --- neighbours -------------------------------------------------------------------------------

static struct json joined_calls(struct repair *r, const struct json *a, const struct json *b)
{
    struct json all = {.kind = J_ARR};
    all.arr.items = arena_take_n(r->arena, a->arr.n + b->arr.n, sizeof *all.arr.items);
    if (!all.arr.items) {
        r->full = true;
        return *a;
    }
    memcpy(all.arr.items, a->arr.items, a->arr.n * sizeof *a->arr.items);
    memcpy(all.arr.items + a->arr.n, b->arr.items, b->arr.n * sizeof *b->arr.items);
    all.arr.n = a->arr.n + b->arr.n;
    return all;
}

static struct json merged(struct repair *r, const struct json *a, const struct json *b)
{
    static const char *const thoughts[] = {"reasoning_content", "reasoning"};
    struct json text = joined(r, json_get(a, "content"), json_get(b, "content"));
    struct json m = with(r, a, "content", &text);
    for (size_t i = 0; i < 2; i++) {
        const struct json *x = json_get(a, thoughts[i]), *y = json_get(b, thoughts[i]);
        if (!y) continue;
        struct json thought = joined(r, x, y);
        m = with(r, &m, thoughts[i], &thought);
    }
    const struct json *x = json_get(a, "tool_calls"), *y = json_get(b, "tool_calls");
    if (!y) return m;
    struct json calls = x ? joined_calls(r, x, y) : *y;
    return with(r, &m, "tool_calls", &calls);
}

static void merge_roles(struct repair *r)
{
    size_t n = 0;
    for (size_t i = 0; i < r->n; i++) {
        const struct json *m = &r->items[i], *role = json_get(m, "role");
        bool same = n > 0 && is_role(&r->items[n - 1], role->str.s) && !is_role(m, "tool");
        if (same) {
            r->items[n - 1] = merged(r, &r->items[n - 1], m);
            r->changed |= REPAIR_MERGE;
        } else {
            r->items[n++] = *m;
        }
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
