// said: what a server's JSON says, with a value for whatever is missing.
#pragma once
#include "proto/base/json.h"

static inline const char *said_str(const struct json *j, const char *key)
{
    const struct json *v = json_get(j, key);
    return v && v->kind == J_STR ? v->str.s : "";
}

static inline double said_num(const struct json *j, const char *key)
{
    return json_number(json_get(j, key), 0);
}

static inline bool said_flag(const struct json *j, const char *key)
{
    const struct json *v = json_get(j, key);
    return v && v->kind == J_BOOL && v->b;
}

// How many; *at: the first.
static inline size_t said_items(const struct json *j, const char *key, const struct json **at)
{
    const struct json *v = json_get(j, key);
    *at = v && v->kind == J_ARR ? v->arr.items : NULL;
    return *at ? v->arr.n : 0;
}
