// tree: building JSON trees in an arena, where one dialect's body becomes another's. An object or a
// list is made with room for as many members as it may get. Memory that is refused shows at the
// end, in tree_ok, as with buf.
#pragma once
#include "proto/base/json.h"

#include <string.h>

struct tree {
    struct arena *arena;
    bool broken;
};

static inline struct json tree_text(const char *s, size_t len)
{
    return (struct json){.kind = J_STR, .str = {.s = s, .len = len}};
}
static inline struct json tree_word(const char *s)
{
    return tree_text(s, strlen(s));
}
static inline struct json tree_bool(bool b)
{
    return (struct json){.kind = J_BOOL, .b = b};
}
static inline struct json tree_object(struct tree *t, size_t n_max)
{
    struct json j = {.kind = J_OBJ};
    j.obj.members = arena_take_n(t->arena, n_max, sizeof *j.obj.members);
    t->broken |= !j.obj.members;
    return j;
}
static inline struct json tree_list(struct tree *t, size_t n_max)
{
    struct json j = {.kind = J_ARR};
    j.arr.items = arena_take_n(t->arena, n_max, sizeof *j.arr.items);
    t->broken |= !j.arr.items;
    return j;
}
static inline void tree_put(struct json *obj, const char *key, struct json value)
{
    if (!obj->obj.members) return;
    obj->obj.members[obj->obj.n++] =
        (struct json_member){.key = key, .key_len = strlen(key), .value = value};
}
// If there is a value and it is not null.
static inline void tree_put_given(struct json *obj, const char *key, const struct json *value)
{
    if (value && value->kind != J_NULL) tree_put(obj, key, *value);
}
static inline void tree_add(struct json *list, struct json value)
{
    if (list->arr.items) list->arr.items[list->arr.n++] = value;
}
static inline const struct json *tree_keep(struct tree *t, struct json value)
{
    struct json *j = arena_copy(t->arena, &value, sizeof value);
    t->broken |= !j;
    return j;
}
static inline bool tree_given(const struct json *j)
{
    return j && j->kind != J_NULL;
}
// What buf holds, as text.
struct buf;
static inline struct json tree_copy(struct tree *t, const char *s, size_t len)
{
    char *copy = arena_copy_str(t->arena, s ? s : "", len);
    t->broken |= !copy;
    return tree_text(copy ? copy : "", copy ? len : 0);
}
