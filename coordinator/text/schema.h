// schema: JSON Schema (2020-12, and what older drafts spell differently) -> a graph of the JSON
// texts that it allows. What the graph lets through is valid; not all that is valid gets through:
//
//   properties come in the order of the schema, listed ones first; where `properties` is there and
//   `additionalProperties` is not, no others come; a name comes in one spelling
//   oneOf is anyOf; numbers have at most 18 digits before and behind the point
//   between tokens of JSON: nothing, one space, or a line break with an indentation
//   formats that are not among those of schema_string.c, like annotations, change nothing
//
// A keyword that has a meaning and cannot be kept is refused by name, with its place
// (ERR_UNSUPPORTED); what is no schema is ERR_INVALID; what is over a budget ERR_TOO_LARGE.
#pragma once
#include "coordinator/text/expr.h"
#include "proto/base/json.h"

enum {
    SCHEMA_DEPTH_MAX = 128,
    SCHEMA_PATH_MAX = 200,
    SCHEMA_WAYS_MAX = 256,
    SCHEMA_WORK_MAX = 1 << 22
};

// root: what "#" in references is. Both may be gone after nfa_close. The graph goes on with `next`.
uint32_t schema_emit(struct nfa *a, const struct json *schema, const struct json *root,
                     uint32_t next);
uint32_t schema_any_object(struct nfa *a, uint32_t next);

// -- the inside, shared by schema*.c --

struct schema_ref {
    const struct json *target;
    uint32_t rule;
};
struct schema {
    struct nfa *a;
    const struct json *root;
    struct schema_ref *refs; // rules to be made of schemas
    uint32_t n_ref, cap_ref;
    char path[SCHEMA_PATH_MAX]; // where we are, for sentences
    size_t path_len;
    int depth;
    uint32_t work; // comparisons of merging, about
};
// Fails the builder with the place in front. 0.
uint32_t schema_fail(struct schema *s, err_t code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
// One more step of the path; returns what schema_leave is to be given.
size_t schema_enter(struct schema *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void schema_leave(struct schema *s, size_t was);

uint32_t schema_value(struct schema *s, const struct json *j, uint32_t next);
// The rule of a schema, made later, once for all who ask.
uint32_t schema_rule(struct schema *s, const struct json *j);
// A keyword's count (lengths, numbers of items), `otherwise` if it is not there.
uint32_t schema_count(struct schema *s, const struct json *j, const char *key, uint32_t otherwise);

enum schema_shared { SHARED_SPACE, SHARED_ESCAPE, SHARED_STRING, SHARED_NUMBER, SHARED_ANY };
uint32_t schema_space(struct nfa *a, uint32_t next);
uint32_t schema_any(struct nfa *a, uint32_t next);        // any JSON value
uint32_t schema_any_string(struct nfa *a, uint32_t next); // schema_string.c
uint32_t schema_any_number(struct nfa *a, uint32_t next); // schema_number.c
// A string of a schema; of objects' keys too.
uint32_t schema_string(struct schema *s, const struct json *j, uint32_t next);
uint32_t schema_number(struct schema *s, const struct json *j, bool is_integer, uint32_t next);
uint32_t schema_object(struct schema *s, const struct json *j, uint32_t next);
uint32_t schema_array(struct schema *s, const struct json *j, uint32_t next);
// Texts as JSON has them, quoted, in the builder's work memory.
struct nfa_word schema_word(struct nfa *a, const struct json *value);

// -- schema_merge.c --

bool schema_says_something(const struct json *j, const char *but);
// The schema without a member.
const struct json *schema_without(struct schema *s, const struct json *j, const char *key);
// What satisfies both. NULL: failed.
const struct json *schema_merge(struct schema *s, const struct json *a, const struct json *b);
// What "#/..." names; NULL: failed.
const struct json *schema_resolve(struct schema *s, const struct json *ref);
