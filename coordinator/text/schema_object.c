#include "coordinator/text/schema.h"

#include <stdlib.h>
#include <string.h>

// One listed property.
struct member {
    const char *name;
    size_t len;
    const struct json *schema;
    bool required;
};
struct object {
    struct schema *s;
    struct member *members;
    size_t n;
    uint32_t min, max;
    // Others: their names and values; NULL: none may come.
    const struct json *extra, *names;
};

static const struct json any_value = {.kind = J_BOOL, .b = true};

static int by_name(const void *x, const void *y)
{
    const struct nfa_word *a = x, *b = y;
    if (a->len != b->len) return a->len < b->len ? -1 : 1;
    return memcmp(a->s, b->s, a->len);
}

static struct nfa_word *sorted_required(struct schema *s, const struct json *list)
{
    const size_t n = list ? list->arr.n : 0;
    struct nfa_word *names = nfa_take(s->a, n, sizeof *names);
    for (size_t i = 0; i < n && names; i++) {
        if (list->arr.items[i].kind != J_STR) {
            schema_fail(s, ERR_INVALID, "'required' must hold strings");
            return NULL;
        }
        names[i] = (struct nfa_word){list->arr.items[i].str.s, list->arr.items[i].str.len};
    }
    if (names && n) qsort(names, n, sizeof *names, by_name);
    return names;
}

// The listed properties in their order, then those that are required without being listed.
static bool collect(struct object *o, const struct json *j)
{
    struct schema *s = o->s;
    const struct json *list = json_get(j, "properties"), *required = json_get(j, "required");
    if (list && list->kind != J_OBJ) schema_fail(s, ERR_INVALID, "'properties' must be an object");
    // Draft 3 and OpenAPI have it as a boolean inside of properties.
    if (required && required->kind == J_BOOL) required = NULL;
    if (required && required->kind != J_ARR)
        schema_fail(s, ERR_INVALID, "'required' must be a list");
    if (!nfa_ok(s->a)) return false;
    const size_t n_list = list ? list->obj.n : 0, n_req = required ? required->arr.n : 0;
    struct nfa_word *names = sorted_required(s, required);
    bool *listed = nfa_take(s->a, n_req, sizeof *listed);
    o->members = nfa_take(s->a, n_list + n_req, sizeof *o->members);
    if (!nfa_ok(s->a)) return false;
    for (size_t i = 0; i < n_list; i++) {
        const struct json_member *m = &list->obj.members[i];
        const struct nfa_word key = {m->key, m->key_len};
        const struct nfa_word *hit = bsearch(&key, names, n_req, sizeof key, by_name);
        o->members[o->n++] = (struct member){m->key, m->key_len, &m->value, hit};
        // Names that are there twice are next to one another.
        for (size_t k = hit ? (size_t)(hit - names) : n_req; k < n_req; k++) {
            if (by_name(&names[k], &key) != 0) break;
            listed[k] = true;
        }
        for (size_t k = hit ? (size_t)(hit - names) : 0; k-- > 0;) {
            if (by_name(&names[k], &key) != 0) break;
            listed[k] = true;
        }
    }
    const struct json *other = json_get(j, "additionalProperties");
    for (size_t k = 0; k < n_req; k++)
        if (!listed[k] && !(k && by_name(&names[k], &names[k - 1]) == 0))
            o->members[o->n++] =
                (struct member){names[k].s, names[k].len, other ? other : &any_value, true};
    return true;
}

// Which properties may come that are not listed.
static bool find_extra(struct object *o, const struct json *j)
{
    struct schema *s = o->s;
    const struct json *more = json_get(j, "additionalProperties"),
                      *list = json_get(j, "properties"),
                      *patterns = json_get(j, "patternProperties");
    const bool lists = list && list->kind == J_OBJ && list->obj.n;
    if (!more) more = json_get(j, "unevaluatedProperties");
    const bool is_closed = more && more->kind == J_BOOL && !more->b;
    if (more && more->kind != J_BOOL && more->kind != J_OBJ) {
        schema_fail(s, ERR_INVALID, "'additionalProperties' must be a schema");
        return false;
    }
    if (patterns && patterns->kind == J_OBJ && patterns->obj.n) {
        const bool is_simple = !lists && patterns->obj.n == 1 && (is_closed || !more);
        if (!is_simple) {
            schema_fail(s, ERR_UNSUPPORTED,
                        "'patternProperties' is supported with one pattern and nothing beside it");
            return false;
        }
        struct json *name = nfa_take(s->a, 1, sizeof *name);
        struct json_member *rule = nfa_take(s->a, 1, sizeof *rule);
        if (!name || !rule) return false;
        const struct json_member *p = &patterns->obj.members[0];
        *rule =
            (struct json_member){.key = "pattern",
                                 .key_len = 7,
                                 .value = {.kind = J_STR, .str = {.s = p->key, .len = p->key_len}}};
        *name = (struct json){.kind = J_OBJ, .obj = {.members = rule, .n = 1}};
        o->names = name;
        o->extra = &p->value;
        return true;
    }
    o->names = json_get(j, "propertyNames");
    // What is said of names is said of the listed ones too: then no others come.
    if (o->names && lists) return true;
    if (more ? !is_closed : !lists) o->extra = more ? more : &any_value;
    return true;
}

// "name": value
static uint32_t pair(struct object *o, const struct member *m, uint32_t next)
{
    struct schema *s = o->s;
    const struct json name = {.kind = J_STR, .str = {.s = m->name, .len = m->len}};
    const size_t was = schema_enter(s, ".%.60s", m->name);
    const uint32_t value = schema_value(s, m->schema, next);
    const struct nfa_word w = schema_word(s->a, &name);
    schema_leave(s, was);
    if (!nfa_ok(s->a)) return 0;
    return nfa_text(s->a, w.s, w.len, nfa_str(s->a, ":", schema_space(s->a, value)));
}

static uint32_t extra_name(struct object *o, uint32_t next)
{
    struct schema *s = o->s;
    if (o->names) {
        const size_t was = schema_enter(s, ".propertyNames");
        // What is said of names is said of strings.
        const bool is_said = o->names->kind == J_OBJ && !json_get(o->names, "type") &&
                             !json_get(o->names, "enum") && !json_get(o->names, "const") &&
                             !json_get(o->names, "$ref") && !json_get(o->names, "anyOf");
        const uint32_t way =
            is_said ? schema_string(s, o->names, next) : schema_value(s, o->names, next);
        schema_leave(s, was);
        return way;
    }
    if (!o->n) return schema_any_string(s->a, next);
    struct nfa_word *words = nfa_take(s->a, o->n, sizeof *words);
    for (size_t i = 0; i < o->n && nfa_ok(s->a); i++) {
        const struct json name = {.kind = J_STR,
                                  .str = {.s = o->members[i].name, .len = o->members[i].len}};
        words[i] = schema_word(s->a, &name);
        // Without its quotes.
        if (words[i].len >= 2) {
            words[i].s++;
            words[i].len -= 2;
        }
    }
    if (!nfa_ok(s->a)) return 0;
    return nfa_str(s->a, "\"", nfa_other_words(s->a, words, o->n, next));
}

static uint32_t extra_pair(struct object *o, uint32_t next)
{
    struct schema *s = o->s;
    const size_t was = schema_enter(s, ".additionalProperties");
    const uint32_t value = schema_value(s, o->extra, next);
    schema_leave(s, was);
    return extra_name(o, nfa_str(s->a, ":", schema_space(s->a, value)));
}

static uint32_t comma(struct nfa *a, uint32_t next)
{
    return nfa_str(a, ",", schema_space(a, next));
}

// Elements of one kind, min to max of them, then `close`; after the opening bracket and white
// space. `done` is `close` where nothing has come. element(arg, next) makes one.
struct run {
    struct nfa *a;
    uint32_t min, max, close, done;
    uint32_t (*element)(void *arg, uint32_t next);
    void *arg;
};

static uint32_t run_of(const struct run *r)
{
    struct nfa *a = r->a;
    uint32_t way;
    if (r->max == 0) return r->min ? nfa_never(a) : r->done;
    if (r->min <= 1 && r->max == NFA_NO_MAX) {
        const uint32_t more = nfa_hub(a);
        way = r->element(r->arg, more);
        nfa_hub_set(a, more, comma(a, way), r->close);
    } else {
        const uint32_t rule = nfa_rule(a);
        nfa_rule_set(a, rule, r->element(r->arg, 0));
        const uint32_t body = comma(a, nfa_call(a, rule, 0));
        const uint32_t most = r->max == NFA_NO_MAX ? NFA_NO_MAX : r->max - 1;
        way = nfa_call(a, rule, nfa_times(a, body, r->min ? r->min - 1 : 0, most, r->close));
    }
    return r->min ? way : nfa_split(a, way, r->done);
}

static uint32_t extra_element(void *arg, uint32_t next)
{
    return extra_pair(arg, next);
}

// Listed properties in order, each once: reached with nothing before it (no comma), or with.
static uint32_t listed(struct object *o, uint32_t close, uint32_t done)
{
    struct nfa *a = o->s->a;
    uint32_t after = close, first = o->min ? nfa_never(a) : done;
    if (o->extra) {
        const uint32_t more = nfa_hub(a), one = extra_pair(o, more);
        after = more;
        nfa_hub_set(a, more, comma(a, one), close);
        first = nfa_split(a, one, first);
    }
    for (size_t i = o->n; i-- > 0 && nfa_ok(a);) {
        const struct member *m = &o->members[i];
        const uint32_t one = pair(o, m, after), with = comma(a, one);
        after = m->required ? with : nfa_split(a, with, after);
        first = m->required ? one : nfa_split(a, one, first);
    }
    return first;
}

uint32_t schema_object(struct schema *s, const struct json *j, uint32_t next)
{
    struct nfa *a = s->a;
    struct object o = {.s = s};
    if (!find_extra(&o, j) || !collect(&o, j)) return 0;
    o.min = schema_count(s, j, "minProperties", 0);
    o.max = schema_count(s, j, "maxProperties", NFA_NO_MAX);
    size_t n_required = 0;
    for (size_t i = 0; i < o.n; i++)
        n_required += o.members[i].required;
    const uint32_t close = schema_space(a, nfa_str(a, "}", next)), done = nfa_str(a, "}", next);
    uint32_t inside;
    if (o.n == 0) {
        struct run r = {.a = a,
                        .min = o.min,
                        .max = o.extra ? o.max : 0,
                        .close = close,
                        .done = done,
                        .element = extra_element,
                        .arg = &o};
        inside = run_of(&r);
    } else {
        if (o.min <= n_required) o.min = 0;
        if (o.max < o.n || o.min > 1)
            return schema_fail(s, ERR_UNSUPPORTED,
                               "'%s' beside optional 'properties' is not "
                               "supported",
                               o.min > 1 ? "minProperties" : "maxProperties");
        if (o.max != NFA_NO_MAX) o.extra = NULL;
        inside = listed(&o, close, done);
    }
    return nfa_str(a, "{", schema_space(a, inside));
}

// -- arrays --

struct items {
    struct schema *s;
    const struct json *schema;
};

static uint32_t item_element(void *arg, uint32_t next)
{
    struct items *i = arg;
    const size_t was = schema_enter(i->s, ".items");
    const uint32_t way = schema_value(i->s, i->schema, next);
    schema_leave(i->s, was);
    return way;
}

// Items that each have a schema, then any number of others (NULL: none).
static uint32_t positional(struct schema *s, const struct json *list, const struct json *rest,
                           const struct run *all)
{
    struct nfa *a = s->a;
    const size_t n = list->arr.n < all->max ? list->arr.n : all->max;
    const uint32_t min = all->min > n ? all->min - (uint32_t)n : 0;
    const uint32_t most = all->max == NFA_NO_MAX ? NFA_NO_MAX : all->max - (uint32_t)n;
    uint32_t after = all->close;
    if (min && (!rest || most < min)) return nfa_never(a);
    if (rest && most) {
        struct items i = {s, rest};
        const uint32_t rule = nfa_rule(a);
        nfa_rule_set(a, rule, item_element(&i, 0));
        after = nfa_times(a, comma(a, nfa_call(a, rule, 0)), min, most, all->close);
    }
    uint32_t first = all->done;
    for (size_t i = n; i-- > 0 && nfa_ok(a);) {
        const size_t was = schema_enter(s, ".prefixItems[%zu]", i);
        const uint32_t one = schema_value(s, &list->arr.items[i], after);
        schema_leave(s, was);
        after = comma(a, one);
        if (i >= all->min) after = nfa_split(a, after, all->close);
        first = all->min == 0 ? nfa_split(a, one, all->done) : one;
    }
    return first;
}

uint32_t schema_array(struct schema *s, const struct json *j, uint32_t next)
{
    struct nfa *a = s->a;
    const struct json *items = json_get(j, "items"), *list = json_get(j, "prefixItems"),
                      *more = json_get(j, "additionalItems");
    if (items && items->kind == J_ARR) {
        list = items;
        items = more;
    }
    if (list && list->kind != J_ARR)
        return schema_fail(s, ERR_INVALID, "'prefixItems' must be a list of schemas");
    if (!items) items = json_get(j, "unevaluatedItems");
    const bool none = items && items->kind == J_BOOL && !items->b;
    // Nothing said of what follows listed items: nothing follows.
    const struct json *rest = none || (list && !items) ? NULL : items ? items : &any_value;
    struct items each = {s, rest};
    struct run r = {.a = a,
                    .min = schema_count(s, j, "minItems", 0),
                    .max = schema_count(s, j, "maxItems", NFA_NO_MAX),
                    .close = schema_space(a, nfa_str(a, "]", next)),
                    .done = nfa_str(a, "]", next),
                    .element = item_element,
                    .arg = &each};
    if (r.min > r.max) return schema_fail(s, ERR_INVALID, "'minItems' is above 'maxItems'");
    if (list && list->arr.n == 0) list = NULL;
    if (!rest && !list) r.max = 0;
    const uint32_t inside = list ? positional(s, list, rest, &r) : run_of(&r);
    return nfa_str(a, "[", schema_space(a, inside));
}
