// json: reading JSON from outside into an immutable tree that lives in an arena. The parsing is
// jansson's; the limits, the arena tree and the byte offset in the sentence are ours. Writing goes
// through buf (buf_json_str, buf_json_num): output shapes are fixed, so a tree would add nothing.
#pragma once
#include "proto/base/arena.h"
#include <stdbool.h>

enum json_kind { J_NULL, J_BOOL, J_INT, J_REAL, J_STR, J_ARR, J_OBJ };

struct json {
    enum json_kind kind;
    union {
        bool b;
        int64_t i;
        double d;
        struct {
            const char *s; // UTF-8, NUL after it; may hold NULs inside only if the caller allowed
            size_t len;
        } str;
        struct {
            struct json *items;
            size_t n;
        } arr;
        struct {
            struct json_member *members; // in document order, keys unique
            size_t n;
        } obj;
    };
};

struct json_member {
    const char *key;
    size_t key_len;
    struct json value;
};

enum { JSON_DEPTH_MAX = 64, JSON_NODES_MAX = 1 << 20 };

// Parses one document (nothing but white space may follow). Refuses: depth over JSON_DEPTH_MAX,
// more than JSON_NODES_MAX values, duplicate keys, invalid UTF-8, lone surrogates, integers outside
// int64, NaN/Infinity, comments, byte order marks, NUL in strings.
// ERR_INVALID or ERR_TOO_LARGE with a sentence naming the byte offset; `code` (may be NULL) gets
// one of "invalid_json" "invalid_utf8" "json_too_deep" "json_too_large" "duplicate_key".
err_t json_read(const char *text, size_t len, struct arena *arena, const struct json **out,
                const char **code, struct err_text *why);

// Member of an object, or NULL (also when `j` is NULL or not an object).
const struct json *json_get(const struct json *j, const char *key);
// True if j is a string equal to s.
bool json_is(const struct json *j, const char *s);
// Number as double for J_INT and J_REAL; `otherwise` for the rest and NULL.
double json_number(const struct json *j, double otherwise);
// The same value: 1 and 1.0 are, and members may come in another order (of objects of at most 256
// members; larger ones must agree in it).
bool json_same(const struct json *a, const struct json *b);
const char *json_kind_name(enum json_kind k);
// Compact JSON text of a tree, appended to b (used for tojson and for replaying arguments).
struct buf;
void json_write(struct buf *b, const struct json *j);
