// Filters on sequences.
#include "coordinator/text/jinja.h"

#include <string.h>

#define FILTER(name)                                                                               \
    static struct jinja_value seq_##name(struct jinja *J, struct jinja_value v,                    \
                                         const struct jinja_args *args)

// A new list with the items of v.
static struct jinja_value list_of(struct jinja *J, struct jinja_value v)
{
    v = jinja_value_seq(J, v);
    size_t n = (size_t)jinja_value_len(J, v);
    struct jinja_value list = jinja_value_new_list(J, n);
    for (size_t i = 0; i < n; i++)
        list.list->items[i] = jinja_value_at(J, v, (int64_t)i);
    return list;
}

// For map, select and their like nothing (none, undefined) is no items.
static struct jinja_value items_of(struct jinja *J, struct jinja_value v)
{
    return jinja_value_truth(J, v) ? list_of(J, v) : jinja_value_new_list(J, 0);
}

// v.a.b for the path "a.b", v[0] for "0"; v itself if there is no path.
static struct jinja_value at_path(struct jinja *J, struct jinja_value v, struct jinja_value path)
{
    if (!jinja_given(path) || path.kind == JINJA_NONE) return v;
    if (path.kind == JINJA_INT) return jinja_value_item(J, v, path);
    struct jinja_str *str = jinja_call_str(J, path);
    const struct jinja_str *s = jinja_str_flat(J, str);
    for (size_t at = 0, end; at <= s->len; at = end + 1) {
        const char *dot = memchr(s->p + at, '.', s->len - at);
        end = dot ? (size_t)(dot - s->p) : s->len;
        bool number = end > at && end - at < 10;
        int64_t index = 0;
        for (size_t i = at; i < end; i++) {
            number = number && s->p[i] >= '0' && s->p[i] <= '9';
            index = number ? index * 10 + (s->p[i] - '0') : 0;
        }
        struct jinja_value key =
            number ? jinja_int(index) : jinja_of_str(jinja_str_slice(J, str, at, end));
        v = jinja_value_item(J, v, key);
    }
    return v;
}

FILTER(list)
{
    (void)args;
    return list_of(J, v);
}

FILTER(first)
{
    (void)args;
    v = jinja_value_seq(J, v);
    return jinja_value_len(J, v) ? jinja_value_at(J, v, 0) : jinja_undef(NULL);
}

FILTER(last)
{
    (void)args;
    v = jinja_value_seq(J, v);
    int64_t n = jinja_value_len(J, v);
    return n ? jinja_value_at(J, v, n - 1) : jinja_undef(NULL);
}

FILTER(reverse)
{
    (void)args;
    bool text = v.kind == JINJA_STR;
    struct jinja_value list = list_of(J, v);
    size_t n = list.list->n;
    for (size_t i = 0; i < n / 2; i++) {
        struct jinja_value other = list.list->items[n - 1 - i];
        list.list->items[n - 1 - i] = list.list->items[i];
        list.list->items[i] = other;
    }
    if (!text) return list;
    struct jinja_text t = {.J = J};
    for (size_t i = 0; i < n; i++)
        jinja_str_add_str(&t, list.list->items[i].s);
    return jinja_of_str(jinja_str_done(&t));
}

FILTER(join)
{
    v = jinja_value_seq(J, v);
    size_t n = (size_t)jinja_value_len(J, v), n_part = 0;
    struct jinja_str **parts = jinja_take(J, n, 2 * sizeof *parts);
    struct jinja_str *sep = jinja_given(args->at[0]) ? jinja_value_str(J, args->at[0]) : NULL;
    for (size_t i = 0; i < n; i++) {
        struct jinja_value item = jinja_value_at(J, v, (int64_t)i);
        if (i && sep) parts[n_part++] = sep;
        parts[n_part++] = jinja_value_str(J, at_path(J, item, args->at[1]));
    }
    return jinja_of_str(jinja_str_cat(J, parts, n_part));
}

// --- order ------------------------------------------------------------------------------------

// What an item is sorted by: its path; strings without regard to case unless `exact`.
static struct jinja_value sort_key(struct jinja *J, struct jinja_value item,
                                   struct jinja_value path, bool exact)
{
    struct jinja_value key = at_path(J, item, path);
    if (exact || key.kind != JINJA_STR) return key;
    return jinja_of_str(jinja_method_case(J, key.s, JINJA_LOWER));
}

// Stable merge sort of items by keys; b_* are of the same size.
static void sort_by(struct jinja *J, struct jinja_entry *a, struct jinja_entry *b, size_t n,
                    bool reverse)
{
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t lo = 0; lo < n; lo += 2 * width) {
            size_t mid = lo + width < n ? lo + width : n, hi = mid + width < n ? mid + width : n;
            size_t i = lo, j = mid;
            for (size_t k = lo; k < hi; k++) {
                bool right = i == mid;
                if (!right && j < hi) {
                    int order = jinja_value_order(J, a[j].key, a[i].key);
                    right = reverse ? order > 0 : order < 0;
                }
                b[k] = right ? a[j++] : a[i++];
            }
        }
        memcpy(a, b, n * sizeof *a);
        jinja_charge(J, n / 8);
    }
}

static struct jinja_value sorted(struct jinja *J, struct jinja_value list, struct jinja_value path,
                                 bool exact, bool reverse)
{
    size_t n = list.list->n;
    struct jinja_entry *entries = jinja_take(J, n, 2 * sizeof *entries);
    for (size_t i = 0; i < n; i++) {
        struct jinja_value item = list.list->items[i];
        entries[i] = (struct jinja_entry){sort_key(J, item, path, exact), item};
    }
    sort_by(J, entries, entries + n, n, reverse);
    for (size_t i = 0; i < n; i++)
        list.list->items[i] = entries[i].value;
    return list;
}

FILTER(sort)
{
    return sorted(J, list_of(J, v), args->at[2], jinja_value_truth(J, args->at[1]),
                  jinja_value_truth(J, args->at[0]));
}

FILTER(dictsort)
{
    struct jinja_args none = {0};
    if (v.kind == JINJA_UNDEF) jinja_value_item(J, v, jinja_none()); // says that it is undefined
    if (v.kind != JINJA_DICT) jinja_fail(J, "dictsort: a mapping is needed");
    int64_t by = 0;
    if (jinja_given(args->at[1])) {
        struct jinja_str *name = jinja_call_str(J, args->at[1]);
        by = jinja_str_is(J, name, "value");
        if (!by && !jinja_str_is(J, name, "key")) jinja_fail(J, "dictsort: by is key or value");
    }
    return sorted(J, jinja_method_items(J, v, &none), jinja_int(by),
                  jinja_value_truth(J, args->at[0]), jinja_value_truth(J, args->at[2]));
}

FILTER(unique)
{
    struct jinja_value list = list_of(J, v), keys = jinja_value_new_list(J, list.list->n);
    size_t n = list.list->n, kept = 0;
    bool exact = jinja_value_truth(J, args->at[0]);
    for (size_t i = 0; i < n; i++) {
        struct jinja_value key = sort_key(J, list.list->items[i], args->at[1], exact);
        size_t k = 0;
        while (k < kept && !jinja_value_equal(J, keys.list->items[k], key))
            k++;
        if (k < kept) continue;
        keys.list->items[kept] = key;
        list.list->items[kept++] = list.list->items[i];
    }
    list.list->n = kept;
    return list;
}

static struct jinja_value extreme(struct jinja *J, struct jinja_value v,
                                  const struct jinja_args *args, int sign)
{
    bool exact = jinja_value_truth(J, args->at[0]);
    v = jinja_value_seq(J, v);
    int64_t n = jinja_value_len(J, v);
    struct jinja_value best = jinja_undef(NULL), best_key = best;
    for (int64_t i = 0; i < n; i++) {
        struct jinja_value item = jinja_value_at(J, v, i);
        struct jinja_value key = sort_key(J, item, args->at[1], exact);
        if (i && jinja_value_order(J, key, best_key) * sign <= 0) continue;
        best = item;
        best_key = key;
    }
    return best;
}

FILTER(min)
{
    return extreme(J, v, args, -1);
}

FILTER(max)
{
    return extreme(J, v, args, 1);
}

FILTER(sum)
{
    v = jinja_value_seq(J, v);
    struct jinja_value sum = jinja_given(args->at[1]) ? args->at[1] : jinja_int(0);
    int64_t n = jinja_value_len(J, v);
    for (int64_t i = 0; i < n; i++)
        sum = jinja_eval_add(J, sum, at_path(J, jinja_value_at(J, v, i), args->at[0]));
    return sum;
}

FILTER(batch)
{
    int64_t size = jinja_call_int(J, args->at[0], 0);
    if (size < 1) jinja_fail(J, "batch: size must be at least 1");
    v = list_of(J, v);
    size_t n = v.list->n, step = (size_t)size;
    struct jinja_value rows = jinja_value_new_list(J, n / step + (n % step > 0));
    for (size_t i = 0; i < rows.list->n; i++) {
        size_t from = i * step, have = n - from < step ? n - from : step;
        size_t len = jinja_given(args->at[1]) ? step : have;
        rows.list->items[i] = jinja_value_new_list(J, len);
        for (size_t k = 0; k < len; k++)
            rows.list->items[i].list->items[k] = k < have ? v.list->items[from + k] : args->at[1];
    }
    return rows;
}

// --- choosing and mapping ---------------------------------------------------------------------

static const struct jinja_builtin *named(struct jinja *J, struct jinja_value name,
                                         const struct jinja_builtin *(*find)(const char *, size_t),
                                         const char *what)
{
    const struct jinja_str *s = jinja_str_flat(J, jinja_call_str(J, name));
    const struct jinja_builtin *fn = find(s->p, s->len);
    if (!fn) jinja_fail(J, "no %s named '%.*s'", what, s->len > 60 ? 60 : (int)s->len, s->p);
    return fn;
}

// map('filter', ...) or map(attribute='a', default=x).
FILTER(map)
{
    struct jinja_value path = {.kind = JINJA_ABSENT}, otherwise = path;
    const struct jinja_builtin *fn = NULL;
    struct jinja_args rest = *args;
    if (args->n) {
        fn = named(J, args->at[0], jinja_filter_find, "filter");
        rest.at++;
        rest.n--;
    }
    for (int k = 0; !fn && k < args->n_kw; k++) {
        if (jinja_str_is(J, args->kw[k], "attribute"))
            path = args->at[k];
        else if (jinja_str_is(J, args->kw[k], "default"))
            otherwise = args->at[k];
        else
            jinja_fail(J, "map: unknown argument");
    }
    if (!fn && !jinja_given(path)) jinja_fail(J, "map: a filter or an attribute is needed");
    v = items_of(J, v);
    for (size_t i = 0; i < v.list->n; i++) {
        struct jinja_value *item = &v.list->items[i];
        if (fn)
            *item = jinja_call(J, fn, *item, &rest);
        else
            *item = at_path(J, *item, path);
        if (!fn && item->kind == JINJA_UNDEF && jinja_given(otherwise)) *item = otherwise;
    }
    return v;
}

// select(test, ...), selectattr(path, test, ...): without a test, what is true stays.
static struct jinja_value choose(struct jinja *J, struct jinja_value v,
                                 const struct jinja_args *args, bool by_attr, bool want)
{
    struct jinja_value path = {.kind = JINJA_ABSENT};
    const struct jinja_builtin *test = NULL;
    struct jinja_args rest = *args;
    if (by_attr) {
        if (rest.n == 0) jinja_fail(J, "an attribute is needed");
        path = *rest.at++;
        rest.n--;
    }
    if (rest.n) {
        test = named(J, *rest.at++, jinja_test_find, "test");
        rest.n--;
    }
    v = items_of(J, v);
    size_t kept = 0;
    for (size_t i = 0; i < v.list->n; i++) {
        struct jinja_value item = at_path(J, v.list->items[i], path);
        if (test) item = jinja_call(J, test, item, &rest);
        if (jinja_value_truth(J, item) == want) v.list->items[kept++] = v.list->items[i];
    }
    v.list->n = kept;
    return v;
}

FILTER(select)
{
    return choose(J, v, args, false, true);
}

FILTER(reject)
{
    return choose(J, v, args, false, false);
}

FILTER(selectattr)
{
    return choose(J, v, args, true, true);
}

FILTER(rejectattr)
{
    return choose(J, v, args, true, false);
}

const struct jinja_builtin jinja_seq_filters[] = {
    {"list", seq_list, 0, 0, {NULL}},
    {"first", seq_first, 0, 0, {NULL}},
    {"last", seq_last, 0, 0, {NULL}},
    {"reverse", seq_reverse, 0, 0, {NULL}},
    {"join", seq_join, 0, 0, {"d", "attribute"}},
    {"sort", seq_sort, 0, 0, {"reverse", "case_sensitive", "attribute"}},
    {"dictsort", seq_dictsort, 0, 0, {"case_sensitive", "by", "reverse"}},
    {"unique", seq_unique, 0, 0, {"case_sensitive", "attribute"}},
    {"min", seq_min, 0, 0, {"case_sensitive", "attribute"}},
    {"max", seq_max, 0, 0, {"case_sensitive", "attribute"}},
    {"sum", seq_sum, 0, 0, {"attribute", "start"}},
    {"batch", seq_batch, 1, 0, {"linecount", "fill_with"}},
    {"map", seq_map, -1, 0, {NULL}},
    {"select", seq_select, -1, 0, {NULL}},
    {"reject", seq_reject, -1, 0, {NULL}},
    {"selectattr", seq_selectattr, -1, 0, {NULL}},
    {"rejectattr", seq_rejectattr, -1, 0, {NULL}},
    {NULL, NULL, 0, 0, {NULL}},
};
