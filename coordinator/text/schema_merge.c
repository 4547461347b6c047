#include "coordinator/text/schema.h"

#include <stdlib.h>
#include <string.h>

// Not an annotation, nor a place for definitions.
static bool has_meaning(const char *key)
{
    static const char *const silent[] = {"$schema",
                                         "$id",
                                         "$anchor",
                                         "$comment",
                                         "$defs",
                                         "definitions",
                                         "title",
                                         "description",
                                         "default",
                                         "example",
                                         "examples",
                                         "deprecated",
                                         "readOnly",
                                         "writeOnly",
                                         "nullable",
                                         "id",
                                         "discriminator",
                                         "externalDocs",
                                         "xml",
                                         "contentEncoding",
                                         "contentMediaType",
                                         "strict"};
    for (size_t i = 0; i < sizeof silent / sizeof *silent; i++)
        if (strcmp(key, silent[i]) == 0) return false;
    return strncmp(key, "x-", 2) != 0;
}

bool schema_says_something(const struct json *j, const char *but)
{
    for (size_t i = 0; j->kind == J_OBJ && i < j->obj.n; i++) {
        const char *key = j->obj.members[i].key;
        if (has_meaning(key) && (!but || strcmp(key, but) != 0)) return true;
    }
    return false;
}

// -- building --

static struct json *object_of(struct schema *s, size_t most)
{
    struct json *o = nfa_take(s->a, 1, sizeof *o);
    struct json_member *m = nfa_take(s->a, most, sizeof *m);
    if (!o || !m) return NULL;
    *o = (struct json){.kind = J_OBJ, .obj = {.members = m, .n = 0}};
    return o;
}

static struct json *list_of(struct schema *s, size_t most)
{
    struct json *l = nfa_take(s->a, 1, sizeof *l);
    struct json *items = nfa_take(s->a, most, sizeof *items);
    if (!l || !items) return NULL;
    *l = (struct json){.kind = J_ARR, .arr = {.items = items, .n = 0}};
    return l;
}

static void put(struct json *o, const char *key, const struct json *value)
{
    o->obj.members[o->obj.n++] =
        (struct json_member){.key = key, .key_len = strlen(key), .value = *value};
}

const struct json *schema_without(struct schema *s, const struct json *j, const char *key)
{
    struct json *o = object_of(s, j->obj.n);
    for (size_t i = 0; o && i < j->obj.n; i++)
        if (strcmp(j->obj.members[i].key, key) != 0) o->obj.members[o->obj.n++] = j->obj.members[i];
    return o;
}

// -- references --

// One step of a JSON pointer (RFC 6901), with %XX as in URIs. False: a bad escape.
static bool step_of(const char *s, size_t len, char *out, size_t *n)
{
    *n = 0;
    for (size_t i = 0; i < len; i++) {
        char c = s[i];
        if (c == '%') {
            const char *at = s + i + 1;
            const uint32_t v = expr_hex(&at, s + len, 2);
            if (v > 0xff) return false;
            c = (char)v;
            i += 2;
        }
        if (c == '~') {
            if (++i == len || (s[i] != '0' && s[i] != '1')) return false;
            c = s[i] == '0' ? '~' : '/';
        }
        out[(*n)++] = c;
    }
    out[*n] = 0;
    return true;
}

static const struct json *child(const struct json *j, const char *key, size_t len)
{
    if (j->kind == J_OBJ && strlen(key) == len) return json_get(j, key);
    if (j->kind != J_ARR || len == 0 || len > 6) return NULL;
    char *end;
    const unsigned long i = strtoul(key, &end, 10);
    return *end || i >= j->arr.n ? NULL : &j->arr.items[i];
}

const struct json *schema_resolve(struct schema *s, const struct json *ref)
{
    enum { STEP_MAX = 256 };
    const struct json *at = s->root;
    char step[STEP_MAX];
    if (ref->kind != J_STR) {
        schema_fail(s, ERR_INVALID, "'$ref' must be a string");
        return NULL;
    }
    const char *p = ref->str.s;
    if (*p == '#' && p[1] && p[1] != '/') at = NULL;
    if (*p != '#') {
        schema_fail(s, ERR_UNSUPPORTED, "'$ref' to '%.80s': only '#/...' is supported", p);
        return NULL;
    }
    for (p++; *p && at;) {
        const size_t len = strcspn(++p, "/");
        size_t n = 0;
        at = len < STEP_MAX && step_of(p, len, step, &n) ? child(at, step, n) : NULL;
        p += len;
    }
    if (!at) schema_fail(s, ERR_INVALID, "'$ref' to '%.80s', which is not there", ref->str.s);
    return at;
}

// -- both at once --

static bool is_one_of(const char *key, const char *const *keys)
{
    while (*keys && strcmp(key, *keys) != 0)
        keys++;
    return *keys;
}

static bool is_false(const struct json *j)
{
    return j && j->kind == J_BOOL && !j->b;
}

// Everything of the one is compared with everything of the other.
static bool spend(struct schema *s, size_t n, size_t m)
{
    if (n <= SCHEMA_WORK_MAX && m <= SCHEMA_WORK_MAX && n * m <= SCHEMA_WORK_MAX - s->work) {
        s->work += (uint32_t)(n * m);
        return true;
    }
    schema_fail(s, ERR_TOO_LARGE, "schemas that are too large to be combined");
    return false;
}

// Properties of both; one that only one side lists is dropped where the other is closed to it.
static bool merge_properties(struct schema *s, const struct json *a, const struct json *b,
                             struct json *out)
{
    const struct json *pa = json_get(a, "properties"), *pb = json_get(b, "properties");
    const bool a_closed = is_false(json_get(a, "additionalProperties")),
               b_closed = is_false(json_get(b, "additionalProperties"));
    const size_t na = pa && pa->kind == J_OBJ ? pa->obj.n : 0,
                 nb = pb && pb->kind == J_OBJ ? pb->obj.n : 0;
    struct json *all = spend(s, na, nb) ? object_of(s, na + nb) : NULL;
    for (size_t i = 0; all && i < na; i++) {
        const struct json_member *m = &pa->obj.members[i];
        const struct json *other = json_get(pb, m->key), *both = &m->value;
        if (!other && b_closed) continue;
        if (other && !json_same(other, both)) both = schema_merge(s, both, other);
        if (!both) return false;
        put(all, m->key, both);
    }
    for (size_t i = 0; all && i < nb; i++)
        if (!json_get(pa, pb->obj.members[i].key) && !a_closed)
            put(all, pb->obj.members[i].key, &pb->obj.members[i].value);
    if (!all) return false;
    put(out, "properties", all);
    return true;
}

static const struct json *union_of(struct schema *s, const struct json *a, const struct json *b)
{
    struct json *l = list_of(s, a->arr.n + b->arr.n);
    for (size_t i = 0; l && i < a->arr.n; i++)
        l->arr.items[l->arr.n++] = a->arr.items[i];
    for (size_t i = 0; l && i < b->arr.n; i++)
        l->arr.items[l->arr.n++] = b->arr.items[i];
    return l;
}

static const struct json *as_list(struct schema *s, const struct json *j)
{
    struct json *l = j->kind == J_ARR ? NULL : list_of(s, 1);
    if (l) l->arr.items[l->arr.n++] = *j;
    return j->kind == J_ARR ? j : l;
}

// Members of both; of types, an integer is a number too.
static const struct json *common(struct schema *s, const struct json *a, const struct json *b)
{
    a = as_list(s, a);
    b = as_list(s, b);
    struct json *l =
        a && b && spend(s, a->arr.n, b->arr.n) ? list_of(s, a->arr.n + b->arr.n) : NULL;
    for (size_t i = 0; l && i < a->arr.n; i++)
        for (size_t k = 0; k < b->arr.n; k++) {
            const struct json *x = &a->arr.items[i], *y = &b->arr.items[k];
            if (json_same(x, y) || (json_is(x, "integer") && json_is(y, "number"))) {
                l->arr.items[l->arr.n++] = *x;
                break;
            }
            if (json_is(x, "number") && json_is(y, "integer")) {
                l->arr.items[l->arr.n++] = *y;
                break;
            }
        }
    if (l && l->arr.n) return l;
    if (l) schema_fail(s, ERR_INVALID, "combined schemas exclude one another");
    return NULL;
}

// Each way of the one with each of the other.
static const struct json *product(struct schema *s, const struct json *a, const struct json *b)
{
    if (a->kind != J_ARR || b->kind != J_ARR || a->arr.n * b->arr.n > SCHEMA_WAYS_MAX) {
        schema_fail(s, ERR_TOO_LARGE, "anyOf or oneOf combine to more than %d ways",
                    SCHEMA_WAYS_MAX);
        return NULL;
    }
    struct json *l = list_of(s, a->arr.n * b->arr.n);
    for (size_t i = 0; l && i < a->arr.n; i++)
        for (size_t k = 0; k < b->arr.n; k++) {
            const struct json *both = schema_merge(s, &a->arr.items[i], &b->arr.items[k]);
            if (!both) return NULL;
            l->arr.items[l->arr.n++] = *both;
        }
    return l;
}

// The value of a keyword that both have.
static const struct json *merge_value(struct schema *s, const char *key, const struct json *a,
                                      const struct json *b)
{
    static const char *const larger[] = {"minimum",  "exclusiveMinimum", "minLength",
                                         "minItems", "minProperties",    NULL};
    static const char *const smaller[] = {"maximum",  "exclusiveMaximum", "maxLength",
                                          "maxItems", "maxProperties",    NULL};
    static const char *const inside[] = {"items", "additionalProperties", "propertyNames", NULL};
    if (!has_meaning(key) || json_same(a, b)) return a;
    if (is_one_of(key, larger)) return json_number(a, 0) > json_number(b, 0) ? a : b;
    if (is_one_of(key, smaller)) return json_number(a, 0) < json_number(b, 0) ? a : b;
    if (strcmp(key, "type") == 0 ||
        (strcmp(key, "enum") == 0 && a->kind == J_ARR && b->kind == J_ARR))
        return common(s, a, b);
    const bool lists = a->kind == J_ARR && b->kind == J_ARR;
    if (lists && (strcmp(key, "required") == 0 || strcmp(key, "allOf") == 0))
        return union_of(s, a, b);
    if (is_one_of(key, inside)) return schema_merge(s, a, b);
    schema_fail(s, ERR_UNSUPPORTED, "combined schemas with two different '%.40s' are not supported",
                key);
    return NULL;
}

static bool either_has(const struct json *a, const struct json *b, const char *key)
{
    return json_get(a, key) || json_get(b, key);
}

// The ways of anyOf and oneOf of both.
static bool merge_ways(struct schema *s, const struct json *a, const struct json *b,
                       struct json *out)
{
    const struct json *const from[] = {json_get(a, "anyOf"), json_get(a, "oneOf"),
                                       json_get(b, "anyOf"), json_get(b, "oneOf")};
    const struct json *ways = NULL;
    for (int i = 0; i < 4; i++) {
        if (from[i]) ways = ways ? product(s, ways, from[i]) : from[i];
        if (from[i] && !ways) return false;
    }
    if (ways) put(out, "anyOf", ways);
    return true;
}

static const struct json *merge_objects(struct schema *s, const struct json *a,
                                        const struct json *b)
{
    static const char *const apart[] = {"properties", "anyOf", "oneOf", "$ref", NULL};
    struct json *out = spend(s, a->obj.n, b->obj.n) ? object_of(s, a->obj.n + b->obj.n + 3) : NULL;
    const struct json *ra = json_get(a, "$ref"), *rb = json_get(b, "$ref");
    if (!out) return NULL;
    for (size_t i = 0; i < a->obj.n; i++) {
        const struct json_member *m = &a->obj.members[i];
        const struct json *other = json_get(b, m->key), *both = &m->value;
        if (is_one_of(m->key, apart)) continue;
        if (other) both = merge_value(s, m->key, both, other);
        if (!both) return NULL;
        put(out, m->key, both);
    }
    for (size_t i = 0; i < b->obj.n; i++)
        if (!is_one_of(b->obj.members[i].key, apart) && !json_get(a, b->obj.members[i].key))
            put(out, b->obj.members[i].key, &b->obj.members[i].value);
    if (either_has(a, b, "properties") && !merge_properties(s, a, b, out)) return NULL;
    if (!merge_ways(s, a, b, out)) return NULL;
    if (ra) put(out, "$ref", ra);
    if (!ra && rb) put(out, "$ref", rb);
    if (!ra || !rb) return out;
    // A second reference is looked up at once.
    const struct json *target = schema_resolve(s, rb);
    return target ? schema_merge(s, out, target) : NULL;
}

const struct json *schema_merge(struct schema *s, const struct json *a, const struct json *b)
{
    const struct json *both = NULL;
    if (!nfa_ok(s->a)) return NULL;
    if (a->kind == J_BOOL) return a->b ? b : a;
    if (b->kind == J_BOOL) return b->b ? a : b;
    if (a->kind != J_OBJ || b->kind != J_OBJ) {
        schema_fail(s, ERR_INVALID, "a schema must be an object or a boolean");
        return NULL;
    }
    if (s->depth == SCHEMA_DEPTH_MAX) {
        schema_fail(s, ERR_TOO_LARGE, "nested or combined more than %d deep", SCHEMA_DEPTH_MAX);
        return NULL;
    }
    s->depth++;
    both = merge_objects(s, a, b);
    s->depth--;
    return both;
}
