#include "coordinator/text/schema.h"
#include "proto/base/buf.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

uint32_t schema_fail(struct schema *s, err_t code, const char *fmt, ...)
{
    struct err_text what;
    va_list ap;
    va_start(ap, fmt);
    err_vsay(&what, code, fmt, ap);
    va_end(ap);
    return nfa_fail(s->a, code, "schema at $%.*s: %s", (int)s->path_len, s->path, what.s);
}

size_t schema_enter(struct schema *s, const char *fmt, ...)
{
    const size_t was = s->path_len, left = sizeof s->path - was;
    va_list ap;
    va_start(ap, fmt);
    const int n = vsnprintf(s->path + was, left, fmt, ap);
    va_end(ap);
    if (n > 0) s->path_len = (size_t)n < left ? was + (size_t)n : sizeof s->path - 1;
    return was;
}

void schema_leave(struct schema *s, size_t was)
{
    s->path_len = was;
}

uint32_t schema_count(struct schema *s, const struct json *j, const char *key, uint32_t otherwise)
{
    const struct json *v = json_get(j, key);
    const double d = json_number(v, -1);
    if (!v) return otherwise;
    if (!(d >= 0) || d != floor(d)) {
        schema_fail(s, ERR_INVALID, "'%s' must be a whole number from 0", key);
        return otherwise;
    }
    if (d > NFA_COUNT_MAX) {
        schema_fail(s, ERR_TOO_LARGE, "'%s' is %.0f, at most %d can be counted", key, d,
                    NFA_COUNT_MAX);
        return otherwise;
    }
    return (uint32_t)d;
}

struct nfa_word schema_word(struct nfa *a, const struct json *value)
{
    struct buf b = {.max = NFA_WORK_BYTES};
    struct nfa_word w = {0};
    json_write(&b, value);
    char *copy = buf_ok(&b) ? nfa_take(a, b.len + 1, 1) : NULL;
    if (copy && b.len) memcpy(copy, b.data, b.len);
    if (copy) w = (struct nfa_word){copy, b.len};
    buf_fini(&b);
    return w;
}

// -- what many share --

// Makes the rule at the first call.
static uint32_t shared(struct nfa *a, enum schema_shared which, uint32_t (*make)(struct nfa *a))
{
    if (!a->shared[which] && nfa_ok(a)) {
        a->shared[which] = nfa_rule(a);
        nfa_rule_set(a, a->shared[which], make(a));
    }
    return a->shared[which];
}

static uint32_t make_space(struct nfa *a)
{
    enum { INDENT_MAX = 64 };
    struct nfa_set blank = {{0}};
    blank.bits[0] = UINT64_C(1) << ' ' | UINT64_C(1) << '\t';
    const uint32_t one = nfa_bytes_of(a, &blank, 0);
    const uint32_t indent = nfa_times(a, one, 0, INDENT_MAX, 0);
    const uint32_t way = nfa_split(a, nfa_byte(a, '\n', '\n', indent), nfa_byte(a, ' ', ' ', 0));
    return nfa_split(a, way, 0);
}

uint32_t schema_space(struct nfa *a, uint32_t next)
{
    return nfa_call(a, shared(a, SHARED_SPACE, make_space), next);
}

// "{", members of any name and value, "}".
static uint32_t plain_object(struct nfa *a, uint32_t next)
{
    const uint32_t close = schema_space(a, nfa_str(a, "}", next)), more = nfa_hub(a);
    uint32_t member = nfa_str(a, ":", schema_space(a, schema_any(a, more)));
    member = schema_any_string(a, member);
    nfa_hub_set(a, more, nfa_str(a, ",", schema_space(a, member)), close);
    const uint32_t first = nfa_split(a, member, nfa_str(a, "}", next));
    return nfa_str(a, "{", schema_space(a, first));
}

static uint32_t plain_array(struct nfa *a, uint32_t next)
{
    const uint32_t close = schema_space(a, nfa_str(a, "]", next)), more = nfa_hub(a);
    const uint32_t item = schema_any(a, more);
    nfa_hub_set(a, more, nfa_str(a, ",", schema_space(a, item)), close);
    const uint32_t first = nfa_split(a, item, nfa_str(a, "]", next));
    return nfa_str(a, "[", schema_space(a, first));
}

static uint32_t make_any(struct nfa *a)
{
    uint32_t way = nfa_split(a, plain_object(a, 0), plain_array(a, 0));
    way = nfa_split(a, way, schema_any_string(a, 0));
    way = nfa_split(a, way, schema_any_number(a, 0));
    way = nfa_split(a, way, nfa_str(a, "true", 0));
    way = nfa_split(a, way, nfa_str(a, "false", 0));
    return nfa_split(a, way, nfa_str(a, "null", 0));
}

uint32_t schema_any(struct nfa *a, uint32_t next)
{
    return nfa_call(a, shared(a, SHARED_ANY, make_any), next);
}

uint32_t schema_any_object(struct nfa *a, uint32_t next)
{
    return plain_object(a, next);
}

// -- one schema --

static bool check_keywords(struct schema *s, const struct json *j)
{
    static const char *const refused[] = {"not",
                                          "if",
                                          "then",
                                          "else",
                                          "dependentRequired",
                                          "dependentSchemas",
                                          "dependencies",
                                          "contains",
                                          "minContains",
                                          "maxContains",
                                          "uniqueItems",
                                          "$dynamicRef",
                                          "$recursiveRef"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        const struct json *v = json_get(j, refused[i]);
        if (!v || (v->kind == J_BOOL && !v->b)) continue;
        schema_fail(s, ERR_UNSUPPORTED, "'%s' is not supported", refused[i]);
        return false;
    }
    return true;
}

enum {
    TYPE_NULL = 1,
    TYPE_BOOL = 2,
    TYPE_INT = 4,
    TYPE_NUM = 8,
    TYPE_STR = 16,
    TYPE_ARR = 32,
    TYPE_OBJ = 64,
    TYPE_ANY = 127
};

static unsigned type_named(struct schema *s, const struct json *name)
{
    static const char *const names[] = {"null",   "boolean", "integer", "number",
                                        "string", "array",   "object"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        if (json_is(name, names[i])) return 1u << i;
    if (json_is(name, "any")) return TYPE_ANY;
    schema_fail(s, ERR_INVALID,
                "'type' must be null, boolean, integer, number, string, array, "
                "object, or a list of these");
    return 0;
}

// Types that a schema without `type` is about, by the keywords that it has; 0: none.
static unsigned types_implied(const struct json *j)
{
    static const struct {
        const char *key;
        unsigned type;
    } keys[] = {
        {"properties", TYPE_OBJ},        {"required", TYPE_OBJ},
        {"propertyNames", TYPE_OBJ},     {"additionalProperties", TYPE_OBJ},
        {"minProperties", TYPE_OBJ},     {"maxProperties", TYPE_OBJ},
        {"patternProperties", TYPE_OBJ}, {"items", TYPE_ARR},
        {"prefixItems", TYPE_ARR},       {"minItems", TYPE_ARR},
        {"maxItems", TYPE_ARR},          {"pattern", TYPE_STR},
        {"minLength", TYPE_STR},         {"maxLength", TYPE_STR},
        {"minimum", TYPE_NUM},           {"maximum", TYPE_NUM},
        {"exclusiveMinimum", TYPE_NUM},  {"exclusiveMaximum", TYPE_NUM},
        {"multipleOf", TYPE_NUM},
    };
    unsigned types = 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (json_get(j, keys[i].key)) types |= keys[i].type;
    return types;
}

// 0: not said, or the builder failed.
static unsigned types_of(struct schema *s, const struct json *j)
{
    const struct json *t = json_get(j, "type"), *nullable = json_get(j, "nullable");
    unsigned types = 0;
    if (t && t->kind == J_ARR) {
        for (size_t i = 0; i < t->arr.n; i++)
            types |= type_named(s, &t->arr.items[i]);
        if (!t->arr.n) schema_fail(s, ERR_INVALID, "'type' is an empty list");
    } else if (t) {
        types = type_named(s, t);
    }
    if (types && nullable && nullable->kind == J_BOOL && nullable->b) types |= TYPE_NULL;
    return types;
}

static bool is_of_type(const struct json *v, unsigned types)
{
    static const unsigned of[] = {
        [J_NULL] = TYPE_NULL, [J_BOOL] = TYPE_BOOL, [J_INT] = TYPE_INT | TYPE_NUM,
        [J_REAL] = TYPE_NUM,  [J_STR] = TYPE_STR,   [J_ARR] = TYPE_ARR,
        [J_OBJ] = TYPE_OBJ};
    const bool is_whole = v->kind == J_REAL && v->d == floor(v->d);
    return !types || (of[v->kind] | (is_whole ? TYPE_INT : 0)) & types;
}

static uint32_t one_of_values(struct schema *s, const struct json *j, uint32_t next)
{
    const struct json *all = json_get(j, "enum"), *only = json_get(j, "const");
    const unsigned types = types_of(s, j);
    if (all && all->kind != J_ARR) return schema_fail(s, ERR_INVALID, "'enum' must be a list");
    const size_t n = all ? all->arr.n : 1;
    struct nfa_word *words = nfa_take(s->a, n, sizeof *words);
    size_t kept = 0;
    for (size_t i = 0; i < n && nfa_ok(s->a); i++) {
        const struct json *v = all ? &all->arr.items[i] : only;
        if (!is_of_type(v, types) || (all && only && !json_same(v, only))) continue;
        words[kept++] = schema_word(s->a, v);
    }
    return nfa_ok(s->a) ? nfa_words(s->a, words, kept, next) : 0;
}

static uint32_t of_type(struct schema *s, const struct json *j, unsigned type, uint32_t next)
{
    switch (type) {
    case TYPE_NULL:
        return nfa_str(s->a, "null", next);
    case TYPE_BOOL:
        return nfa_split(s->a, nfa_str(s->a, "true", next), nfa_str(s->a, "false", next));
    case TYPE_INT:
    case TYPE_NUM:
        return schema_number(s, j, type == TYPE_INT, next);
    case TYPE_STR:
        return schema_string(s, j, next);
    case TYPE_ARR:
        return schema_array(s, j, next);
    default:
        return schema_object(s, j, next);
    }
}

static uint32_t by_type(struct schema *s, const struct json *j, uint32_t next)
{
    unsigned types = types_of(s, j);
    uint32_t way = 0;
    if (!types) types = types_implied(j);
    if (!types || (types == TYPE_ANY && !types_implied(j))) return schema_any(s->a, next);
    if (types & TYPE_NUM) types &= ~(unsigned)TYPE_INT;
    for (unsigned t = 1; t <= TYPE_OBJ && nfa_ok(s->a); t <<= 1) {
        if (!(types & t)) continue;
        const uint32_t one = of_type(s, j, t, next);
        way = way ? nfa_split(s->a, way, one) : one;
    }
    return way;
}

// -- combinations --

static uint32_t any_of(struct schema *s, const struct json *j, const char *key, uint32_t next)
{
    const struct json *list = json_get(j, key), *rest = schema_without(s, j, key);
    uint32_t way = 0;
    if (!rest) return 0;
    if (list->kind != J_ARR || !list->arr.n)
        return schema_fail(s, ERR_INVALID, "'%s' must be a list of schemas", key);
    const bool says = schema_says_something(rest, NULL);
    for (size_t i = 0; i < list->arr.n && nfa_ok(s->a); i++) {
        const size_t was = schema_enter(s, ".%s[%zu]", key, i);
        const struct json *branch = &list->arr.items[i];
        if (says) branch = schema_merge(s, rest, branch);
        const uint32_t one = branch ? schema_value(s, branch, next) : 0;
        way = i ? nfa_split(s->a, way, one) : one;
        schema_leave(s, was);
    }
    return way;
}

static uint32_t all_of(struct schema *s, const struct json *j, uint32_t next)
{
    const struct json *list = json_get(j, "allOf"), *all = schema_without(s, j, "allOf");
    if (list->kind != J_ARR || !list->arr.n)
        return schema_fail(s, ERR_INVALID, "'allOf' must be a list of schemas");
    for (size_t i = 0; i < list->arr.n && all; i++) {
        const size_t was = schema_enter(s, ".allOf[%zu]", i);
        all = schema_says_something(all, NULL) ? schema_merge(s, all, &list->arr.items[i])
                                               : &list->arr.items[i];
        schema_leave(s, was);
    }
    return all ? schema_value(s, all, next) : 0;
}

static uint32_t referred(struct schema *s, const struct json *j, uint32_t next)
{
    const struct json *target = schema_resolve(s, json_get(j, "$ref"));
    if (!target) return 0;
    if (!schema_says_something(j, "$ref")) return nfa_call(s->a, schema_rule(s, target), next);
    const struct json *both = schema_without(s, j, "$ref");
    if (both) both = schema_merge(s, target, both);
    return both ? schema_value(s, both, next) : 0;
}

static uint32_t value_of(struct schema *s, const struct json *j, uint32_t next)
{
    if (!check_keywords(s, j)) return 0;
    if (json_get(j, "$ref")) return referred(s, j, next);
    if (json_get(j, "allOf")) return all_of(s, j, next);
    if (json_get(j, "anyOf")) return any_of(s, j, "anyOf", next);
    if (json_get(j, "oneOf")) return any_of(s, j, "oneOf", next);
    if (json_get(j, "enum") || json_get(j, "const")) return one_of_values(s, j, next);
    return by_type(s, j, next);
}

uint32_t schema_value(struct schema *s, const struct json *j, uint32_t next)
{
    if (!nfa_ok(s->a)) return 0;
    if (j->kind == J_BOOL) return j->b ? schema_any(s->a, next) : nfa_never(s->a);
    if (j->kind != J_OBJ)
        return schema_fail(s, ERR_INVALID, "a schema must be an object or a boolean, not %s",
                           json_kind_name(j->kind));
    if (s->depth == SCHEMA_DEPTH_MAX)
        return schema_fail(s, ERR_TOO_LARGE, "nested or combined more than %d deep",
                           SCHEMA_DEPTH_MAX);
    s->depth++;
    const uint32_t way = value_of(s, j, next);
    s->depth--;
    return way;
}

uint32_t schema_rule(struct schema *s, const struct json *j)
{
    for (uint32_t i = 0; i < s->n_ref; i++)
        if (s->refs[i].target == j) return s->refs[i].rule;
    if (s->n_ref == s->cap_ref) {
        const uint32_t cap = s->cap_ref ? 2 * s->cap_ref : 16;
        struct schema_ref *refs = nfa_take(s->a, cap, sizeof *refs);
        if (!refs) return 0;
        if (s->n_ref) memcpy(refs, s->refs, s->n_ref * sizeof *refs);
        s->refs = refs;
        s->cap_ref = cap;
    }
    const uint32_t rule = nfa_rule(s->a);
    s->refs[s->n_ref++] = (struct schema_ref){j, rule};
    return rule;
}

uint32_t schema_emit(struct nfa *a, const struct json *schema, const struct json *root,
                     uint32_t next)
{
    struct schema s = {.a = a, .root = root};
    const uint32_t way = schema_value(&s, schema, next);
    // Rules name further rules.
    for (uint32_t i = 0; i < s.n_ref && nfa_ok(a); i++) {
        const struct schema_ref ref = s.refs[i];
        const size_t was = schema_enter(&s, " (by $ref or as an item)");
        nfa_rule_set(a, ref.rule, schema_value(&s, ref.target, 0));
        schema_leave(&s, was);
    }
    return way;
}
