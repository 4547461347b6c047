#include "coordinator/text/jinja.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *jinja_value_type(struct jinja_value v)
{
    static const char *const names[] = {
        [JINJA_ABSENT] = "Undefined", [JINJA_UNDEF] = "Undefined", [JINJA_NONE] = "NoneType",
        [JINJA_BOOL] = "bool",        [JINJA_INT] = "int",         [JINJA_REAL] = "float",
        [JINJA_STR] = "str",          [JINJA_LIST] = "list",       [JINJA_TUPLE] = "tuple",
        [JINJA_RANGE] = "range",      [JINJA_DICT] = "dict",       [JINJA_NAMESPACE] = "Namespace",
        [JINJA_LOOP] = "LoopContext", [JINJA_MACRO] = "Macro",     [JINJA_BUILTIN] = "function",
        [JINJA_METHOD] = "method",
    };
    return names[v.kind];
}

bool jinja_value_is_int(struct jinja_value v, int64_t *i)
{
    if (v.kind == JINJA_INT)
        *i = v.i;
    else if (v.kind == JINJA_BOOL)
        *i = v.b;
    else
        return false;
    return true;
}

bool jinja_value_is_number(struct jinja_value v, double *d)
{
    int64_t i = 0;
    if (v.kind == JINJA_REAL)
        *d = v.d;
    else if (jinja_value_is_int(v, &i))
        *d = (double)i;
    else
        return false;
    return true;
}

bool jinja_value_truth(struct jinja *J, struct jinja_value v)
{
    switch (v.kind) {
    case JINJA_ABSENT:
    case JINJA_UNDEF:
    case JINJA_NONE:
        return false;
    case JINJA_BOOL:
        return v.b;
    case JINJA_INT:
        return v.i != 0;
    case JINJA_REAL:
        return v.d != 0;
    case JINJA_STR:
        return v.s->len != 0;
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_RANGE:
    case JINJA_DICT:
        return jinja_value_len(J, v) != 0;
    default:
        return true;
    }
}

static bool is_seq(struct jinja_value v)
{
    return v.kind == JINJA_LIST || v.kind == JINJA_TUPLE || v.kind == JINJA_RANGE;
}

static bool equal_items(struct jinja *J, struct jinja_value a, struct jinja_value b)
{
    int64_t n = jinja_value_len(J, a);
    if (a.kind != b.kind || n != jinja_value_len(J, b)) return false;
    for (int64_t i = 0; i < n; i++)
        if (!jinja_value_equal(J, jinja_value_at(J, a, i), jinja_value_at(J, b, i))) return false;
    return true;
}

static bool equal_dicts(struct jinja *J, const struct jinja_dict *a, const struct jinja_dict *b)
{
    if (a->n != b->n) return false;
    for (size_t i = 0; i < a->n; i++) {
        const struct jinja_value *v = jinja_value_get(J, b, a->entries[i].key);
        if (!v || !jinja_value_equal(J, a->entries[i].value, *v)) return false;
    }
    return true;
}

bool jinja_value_equal(struct jinja *J, struct jinja_value a, struct jinja_value b)
{
    double x, y;
    int64_t i, j;
    jinja_charge(J, 1);
    if (jinja_value_is_int(a, &i) && jinja_value_is_int(b, &j)) return i == j;
    if (jinja_value_is_number(a, &x) && jinja_value_is_number(b, &y)) return x == y;
    if (a.kind == JINJA_STR && b.kind == JINJA_STR) return jinja_str_equal(J, a.s, b.s);
    if (a.kind == JINJA_UNDEF || a.kind == JINJA_NONE) return a.kind == b.kind;
    jinja_enter(J);
    bool equal = false;
    if (is_seq(a) && is_seq(b))
        equal = equal_items(J, a, b);
    else if (a.kind == JINJA_DICT && b.kind == JINJA_DICT)
        equal = equal_dicts(J, a.dict, b.dict);
    else if (a.kind == b.kind && a.kind >= JINJA_NAMESPACE)
        equal = a.dict == b.dict;
    jinja_leave(J);
    return equal;
}

static int order_items(struct jinja *J, struct jinja_value a, struct jinja_value b)
{
    int64_t n = jinja_value_len(J, a), m = jinja_value_len(J, b);
    for (int64_t i = 0; i < n && i < m; i++) {
        int order = jinja_value_order(J, jinja_value_at(J, a, i), jinja_value_at(J, b, i));
        if (order) return order;
    }
    return (n > m) - (n < m);
}

int jinja_value_order(struct jinja *J, struct jinja_value a, struct jinja_value b)
{
    double x, y;
    int64_t i, j;
    jinja_charge(J, 1);
    if (jinja_value_is_int(a, &i) && jinja_value_is_int(b, &j)) return (i > j) - (i < j);
    if (jinja_value_is_number(a, &x) && jinja_value_is_number(b, &y)) return (x > y) - (x < y);
    if (a.kind == JINJA_STR && b.kind == JINJA_STR) return jinja_str_order(J, a.s, b.s);
    if (a.kind != b.kind || (a.kind != JINJA_LIST && a.kind != JINJA_TUPLE))
        jinja_fail(J, "'%s' and '%s' cannot be ordered", jinja_value_type(a), jinja_value_type(b));
    jinja_enter(J);
    int order = order_items(J, a, b);
    jinja_leave(J);
    return order;
}

bool jinja_value_contains(struct jinja *J, struct jinja_value in, struct jinja_value what)
{
    if (in.kind == JINJA_STR) {
        if (what.kind != JINJA_STR)
            jinja_fail(J, "'in <string>' needs a string, not '%s'", jinja_value_type(what));
        return jinja_str_find(J, in.s, what.s, 0) != SIZE_MAX;
    }
    if (in.kind == JINJA_DICT) return jinja_value_get(J, in.dict, what) != NULL;
    if (!jinja_value_iterable(in))
        jinja_fail(J, "'in' cannot look into '%s'", jinja_value_type(in));
    int64_t n = in.kind == JINJA_UNDEF ? 0 : jinja_value_len(J, in);
    for (int64_t i = 0; i < n; i++)
        if (jinja_value_equal(J, jinja_value_at(J, in, i), what)) return true;
    return false;
}

// --- containers -------------------------------------------------------------------------------

struct jinja_value jinja_value_new_list(struct jinja *J, size_t n)
{
    struct jinja_list *l = jinja_take(J, 1, sizeof *l);
    l->n = n;
    l->items = jinja_take(J, n, sizeof *l->items);
    jinja_charge(J, n / 8);
    return (struct jinja_value){.kind = JINJA_LIST, .list = l};
}

struct jinja_value jinja_value_new_tuple2(struct jinja *J, struct jinja_value a,
                                          struct jinja_value b)
{
    struct jinja_value v = jinja_value_new_list(J, 2);
    v.kind = JINJA_TUPLE;
    v.list->items[0] = a;
    v.list->items[1] = b;
    return v;
}

struct jinja_value jinja_value_new_dict(struct jinja *J, size_t cap)
{
    struct jinja_dict *d = jinja_take(J, 1, sizeof *d);
    d->entries = jinja_take(J, cap, sizeof *d->entries);
    d->cap = cap;
    return (struct jinja_value){.kind = JINJA_DICT, .dict = d};
}

// Mappings in messages are small: a scan of lengths is faster than hashing. Its cost is charged.
struct jinja_value *jinja_value_get(struct jinja *J, const struct jinja_dict *d,
                                    struct jinja_value key)
{
    jinja_charge(J, d->n / 8);
    for (size_t i = 0; i < d->n; i++) {
        struct jinja_entry *e = &d->entries[i];
        bool equal;
        if (key.kind == JINJA_STR && e->key.kind == JINJA_STR)
            equal = key.s->len == e->key.s->len && jinja_str_equal(J, key.s, e->key.s);
        else
            equal = jinja_value_equal(J, e->key, key);
        if (equal) return &e->value;
    }
    return NULL;
}

void jinja_value_put(struct jinja *J, struct jinja_dict *d, struct jinja_value key,
                     struct jinja_value value)
{
    if (key.kind > JINJA_STR && key.kind != JINJA_TUPLE)
        jinja_fail(J, "unhashable type: '%s'", jinja_value_type(key));
    struct jinja_value *have = jinja_value_get(J, d, key);
    if (have) {
        *have = value;
        return;
    }
    if (d->n == d->cap) {
        size_t cap = d->cap ? d->cap * 2 : 4;
        struct jinja_entry *entries = jinja_take(J, cap, sizeof *entries);
        if (d->n) memcpy(entries, d->entries, d->n * sizeof *entries);
        d->entries = entries;
        d->cap = cap;
    }
    d->entries[d->n++] = (struct jinja_entry){key, value};
}

bool jinja_value_iterable(struct jinja_value v)
{
    return v.kind == JINJA_UNDEF || v.kind == JINJA_STR || v.kind == JINJA_DICT || is_seq(v);
}

int64_t jinja_value_len(struct jinja *J, struct jinja_value v)
{
    switch (v.kind) {
    case JINJA_UNDEF:
        return 0;
    case JINJA_STR:
        return jinja_str_chars(J, v.s);
    case JINJA_LIST:
    case JINJA_TUPLE:
        return (int64_t)v.list->n;
    case JINJA_RANGE:
        return v.range->n;
    case JINJA_DICT:
        return (int64_t)v.dict->n;
    case JINJA_LOOP:
        return v.loop->n;
    default:
        jinja_fail(J, "object of type '%s' has no length", jinja_value_type(v));
    }
}

struct jinja_value jinja_value_at(struct jinja *J, struct jinja_value v, int64_t i)
{
    jinja_charge(J, 1);
    if (v.kind == JINJA_RANGE) return jinja_int(v.range->from + i * v.range->step);
    if (v.kind == JINJA_DICT) return v.dict->entries[i].key;
    if (v.kind != JINJA_STR) return v.list->items[i];
    const struct jinja_str *s = jinja_str_flat(J, v.s);
    jinja_charge_bytes(J, s->len);
    size_t from = jinja_str_offset(s, i);
    size_t to = from + 1;
    while (to < s->len && ((unsigned char)s->p[to] & 0xc0) == 0x80)
        to++;
    return jinja_of_str(jinja_str_slice(J, v.s, from, to));
}

struct jinja_value jinja_value_seq(struct jinja *J, struct jinja_value v)
{
    if (is_seq(v) || v.kind == JINJA_DICT) return v;
    if (!jinja_value_iterable(v)) jinja_fail(J, "'%s' object is not iterable", jinja_value_type(v));
    size_t n = (size_t)jinja_value_len(J, v), at = 0;
    struct jinja_value list = jinja_value_new_list(J, n);
    const struct jinja_str *s = n ? jinja_str_flat(J, v.s) : NULL;
    for (size_t i = 0; i < n; i++) {
        int32_t c;
        jinja_charge(J, 1);
        size_t end = (size_t)(jinja_str_char(s->p + at, &c) - s->p);
        list.list->items[i] = jinja_of_str(jinja_str_slice(J, v.s, at, end));
        at = end;
    }
    return list;
}

static struct jinja_str *key_name(struct jinja_value key)
{
    return key.kind == JINJA_STR ? key.s : NULL;
}

// environment.getitem: the item, else (for a string) the attribute, else undefined.
struct jinja_value jinja_value_item(struct jinja *J, struct jinja_value v, struct jinja_value key)
{
    int64_t i;
    if (v.kind == JINJA_UNDEF) {
        const struct jinja_str *name = v.s ? jinja_str_flat(J, v.s) : NULL;
        int len = !name ? 0 : name->len > 80 ? 80 : (int)name->len;
        jinja_fail(J, "'%.*s' is undefined", len, name ? name->p : "");
    }
    if (v.kind == JINJA_DICT) {
        const struct jinja_value *have = jinja_value_get(J, v.dict, key);
        if (have) return *have;
    } else if ((is_seq(v) || v.kind == JINJA_STR) && jinja_value_is_int(key, &i)) {
        int64_t n = jinja_value_len(J, v);
        if (i < 0) i += n;
        if (i >= 0 && i < n) return jinja_value_at(J, v, i);
    }
    if (key.kind != JINJA_STR) return jinja_undef(NULL);
    bool hidden = false;
    const struct jinja_builtin *fn = jinja_method_find(v.kind, key.s, &hidden);
    if (!fn) return jinja_undef(key_name(key));
    struct jinja_method *m = jinja_take(J, 1, sizeof *m);
    *m = (struct jinja_method){.self = v, .fn = fn};
    return (struct jinja_value){.kind = JINJA_METHOD, .method = m};
}

static struct jinja_value loop_attr(struct jinja *J, const struct jinja_loop *l,
                                    struct jinja_str *name)
{
    const struct {
        const char *name;
        struct jinja_value value;
    } attrs[] = {
        {"index0", jinja_int(l->at)},
        {"index", jinja_int(l->at + 1)},
        {"first", jinja_bool(l->at == 0)},
        {"last", jinja_bool(l->at + 1 == l->n)},
        {"length", jinja_int(l->n)},
        {"revindex", jinja_int(l->n - l->at)},
        {"revindex0", jinja_int(l->n - l->at - 1)},
        {"depth", jinja_int(1)}, // loops are never recursive
        {"depth0", jinja_int(0)},
    };
    for (size_t i = 0; i < sizeof attrs / sizeof *attrs; i++)
        if (jinja_str_is(J, name, attrs[i].name)) return attrs[i].value;
    if (jinja_str_is(J, name, "previtem") && l->at > 0) return jinja_value_at(J, l->seq, l->at - 1);
    if (jinja_str_is(J, name, "nextitem") && l->at + 1 < l->n)
        return jinja_value_at(J, l->seq, l->at + 1);
    return jinja_undef(name);
}

// environment.getattr: the attribute (of ours: a method) wins over the item.
struct jinja_value jinja_value_attr(struct jinja *J, struct jinja_value v, struct jinja_str *name)
{
    bool hidden = false;
    const struct jinja_builtin *fn = jinja_method_find(v.kind, name, &hidden);
    if (fn) {
        struct jinja_method *m = jinja_take(J, 1, sizeof *m);
        *m = (struct jinja_method){.self = v, .fn = fn};
        return (struct jinja_value){.kind = JINJA_METHOD, .method = m};
    }
    if (hidden) return jinja_undef(name);
    if (v.kind == JINJA_LOOP) return loop_attr(J, v.loop, name);
    if (v.kind == JINJA_NAMESPACE) {
        const struct jinja_value *have = jinja_value_get(J, v.dict, jinja_of_str(name));
        return have ? *have : jinja_undef(name);
    }
    return jinja_value_item(J, v, jinja_of_str(name));
}

// Recursion is bounded: json_read limits the depth of a tree.
struct jinja_value jinja_value_of_json(struct jinja *J, const struct json *j)
{
    struct jinja_value v = {.kind = JINJA_NONE};
    switch (j->kind) {
    case J_NULL:
        return v;
    case J_BOOL:
        return jinja_bool(j->b);
    case J_INT:
        return jinja_int(j->i);
    case J_REAL:
        return jinja_real(j->d);
    case J_STR:
        return jinja_of_str(jinja_str_new(J, j->str.s, j->str.len, &jinja_str_marks_all));
    case J_ARR:
        v = jinja_value_new_list(J, j->arr.n);
        for (size_t i = 0; i < j->arr.n; i++)
            v.list->items[i] = jinja_value_of_json(J, &j->arr.items[i]);
        return v;
    case J_OBJ:
        v = jinja_value_new_dict(J, j->obj.n);
        for (size_t i = 0; i < j->obj.n; i++) { // keys are unique: no lookup
            const struct json_member *m = &j->obj.members[i];
            struct jinja_str *key = jinja_str_new(J, m->key, m->key_len, &jinja_str_marks_all);
            v.dict->entries[v.dict->n++] =
                (struct jinja_entry){jinja_of_str(key), jinja_value_of_json(J, &m->value)};
        }
        return v;
    }
    BUG("unknown kind of json");
}

// --- text -------------------------------------------------------------------------------------

// repr(float): the shortest digits that read back, exponents as Python writes them.
void jinja_value_real(char out[40], double d)
{
    char digits[32];
    if (isnan(d) || isinf(d)) {
        snprintf(out, 40, "%s", isnan(d) ? "nan" : d < 0 ? "-inf" : "inf");
        return;
    }
    int prec = 0;
    do {
        snprintf(digits, sizeof digits, "%.*e", prec, d);
    } while (strtod(digits, NULL) != d && ++prec <= 17);
    int exp = atoi(strchr(digits, 'e') + 1);
    if (exp < -4 || exp >= 16) {
        snprintf(out, 40, "%s", digits); // 1e+16, 1.5e-05: as Python
        return;
    }
    int decimals = prec - exp;
    snprintf(out, 40, "%.*f", decimals > 1 ? decimals : 1, d);
}

static void repr_str(struct jinja_text *t, struct jinja_str *str)
{
    const struct jinja_str *s = jinja_str_flat(t->J, str);
    bool single = s->len && memchr(s->p, '\'', s->len), dbl = s->len && memchr(s->p, '"', s->len);
    char quote = single && !dbl ? '"' : '\'';
    jinja_str_add(t, &quote, 1, false);
    for (size_t at = 0; at < s->len;) {
        bool input;
        char esc[8];
        int32_t c;
        size_t end = (size_t)(jinja_str_char(s->p + at, &c) - s->p);
        jinja_str_run(s, at, &input);
        if (c == '\n' || c == '\r' || c == '\t')
            snprintf(esc, sizeof esc, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
        else if (c == '\\' || c == quote)
            snprintf(esc, sizeof esc, "\\%c", (char)c);
        else if (c < 0x20 || (c >= 0x7f && c <= 0xa0) || c == 0xad)
            snprintf(esc, sizeof esc, "\\x%02x", (unsigned)c);
        else
            esc[0] = 0;
        if (esc[0])
            jinja_str_add(t, esc, strlen(esc), input);
        else
            jinja_str_add(t, s->p + at, end - at, input);
        at = end;
    }
    jinja_str_add(t, &quote, 1, false);
}

static void repr_items(struct jinja_text *t, struct jinja_value v)
{
    size_t n = v.list->n;
    jinja_str_add_c(t, v.kind == JINJA_LIST ? "[" : "(");
    for (size_t i = 0; i < n; i++) {
        if (i) jinja_str_add_c(t, ", ");
        jinja_value_repr(t, v.list->items[i]);
    }
    jinja_str_add_c(t, v.kind == JINJA_LIST ? "]" : n == 1 ? ",)" : ")");
}

static void repr_dict(struct jinja_text *t, const struct jinja_dict *d)
{
    jinja_str_add_c(t, "{");
    for (size_t i = 0; i < d->n; i++) {
        if (i) jinja_str_add_c(t, ", ");
        jinja_value_repr(t, d->entries[i].key);
        jinja_str_add_c(t, ": ");
        jinja_value_repr(t, d->entries[i].value);
    }
    jinja_str_add_c(t, "}");
}

static void repr_range(struct jinja_text *t, const struct jinja_range *r)
{
    char text[80];
    long long from = r->from, to = r->from + r->n * r->step, step = r->step;
    if (step == 1)
        snprintf(text, sizeof text, "range(%lld, %lld)", from, to);
    else
        snprintf(text, sizeof text, "range(%lld, %lld, %lld)", from, to, step);
    jinja_str_add_c(t, text);
}

void jinja_value_repr(struct jinja_text *t, struct jinja_value v)
{
    char number[40];
    jinja_enter(t->J);
    switch (v.kind) {
    case JINJA_ABSENT:
    case JINJA_UNDEF:
        jinja_str_add_c(t, "Undefined");
        break;
    case JINJA_NONE:
        jinja_str_add_c(t, "None");
        break;
    case JINJA_BOOL:
        jinja_str_add_c(t, v.b ? "True" : "False");
        break;
    case JINJA_INT:
        snprintf(number, sizeof number, "%lld", (long long)v.i);
        jinja_str_add_c(t, number);
        break;
    case JINJA_REAL:
        jinja_value_real(number, v.d);
        jinja_str_add_c(t, number);
        break;
    case JINJA_STR:
        repr_str(t, v.s);
        break;
    case JINJA_LIST:
    case JINJA_TUPLE:
        repr_items(t, v);
        break;
    case JINJA_RANGE:
        repr_range(t, v.range);
        break;
    case JINJA_DICT:
        repr_dict(t, v.dict);
        break;
    case JINJA_NAMESPACE:
        jinja_str_add_c(t, "<Namespace ");
        repr_dict(t, v.dict);
        jinja_str_add_c(t, ">");
        break;
    default:
        jinja_str_add_c(t, "<");
        jinja_str_add_c(t, jinja_value_type(v));
        jinja_str_add_c(t, ">");
    }
    jinja_leave(t->J);
}

struct jinja_str *jinja_value_str(struct jinja *J, struct jinja_value v)
{
    if (v.kind == JINJA_STR) return v.s;
    struct jinja_text t = {.J = J};
    if (v.kind != JINJA_UNDEF) jinja_value_repr(&t, v);
    return jinja_str_done(&t);
}
