// Methods of strings, mappings, lists and loops.
#include "coordinator/text/jinja.h"

#include <string.h>
#include <utf8proc.h>

#define METHOD(name)                                                                               \
    static struct jinja_value method_##name(struct jinja *J, struct jinja_value self,              \
                                            const struct jinja_args *args)

// --- strip ------------------------------------------------------------------------------------

static bool in_set(int32_t c, const struct jinja_str *set)
{
    if (!set) return jinja_str_is_space(c);
    for (const char *p = set->p, *end = p + set->len; p < end;) {
        int32_t d;
        p = jinja_str_char(p, &d);
        if (c == d) return true;
    }
    return false;
}

static struct jinja_value strip(struct jinja *J, struct jinja_str *str, struct jinja_value chars,
                                int sides)
{
    const struct jinja_str *s = jinja_str_flat(J, str), *set = NULL;
    if (jinja_given(chars) && chars.kind != JINJA_NONE)
        set = jinja_str_flat(J, jinja_call_str(J, chars));
    size_t from = 0, to = s->len;
    int32_t c;
    while ((sides & 1) && from < to) {
        const char *next = jinja_str_char(s->p + from, &c);
        if (!in_set(c, set)) break;
        jinja_charge(J, set ? set->len / 4 + 1 : 0);
        from = (size_t)(next - s->p);
    }
    while ((sides & 2) && to > from) {
        size_t last = to - 1;
        while (last > from && ((unsigned char)s->p[last] & 0xc0) == 0x80)
            last--;
        jinja_str_char(s->p + last, &c);
        if (!in_set(c, set)) break;
        jinja_charge(J, set ? set->len / 4 + 1 : 0);
        to = last;
    }
    jinja_charge_bytes(J, s->len - (to - from));
    return jinja_of_str(jinja_str_slice(J, str, from, to));
}

struct jinja_value jinja_method_strip(struct jinja *J, struct jinja_value self,
                                      const struct jinja_args *args)
{
    return strip(J, self.s, args->at[0], 3);
}

METHOD(lstrip)
{
    return strip(J, self.s, args->at[0], 1);
}

METHOD(rstrip)
{
    return strip(J, self.s, args->at[0], 2);
}

// --- split ------------------------------------------------------------------------------------

struct pieces {
    struct jinja_value list;
    size_t cap;
};

static void add_piece(struct jinja *J, struct pieces *p, struct jinja_str *s)
{
    struct jinja_list *l = p->list.list;
    jinja_charge(J, 1);
    if (l->n == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : 4;
        struct jinja_value *items = jinja_take(J, cap, sizeof *items);
        if (l->n) memcpy(items, l->items, l->n * sizeof *items);
        l->items = items;
        p->cap = cap;
    }
    l->items[l->n++] = jinja_of_str(s);
}

static void split_at(struct jinja *J, struct jinja_str *str, struct jinja_str *sep, int64_t max,
                     struct pieces *out)
{
    size_t from = 0;
    for (; max != 0; max--) {
        size_t hit = jinja_str_find(J, str, sep, from);
        if (hit == SIZE_MAX) break;
        add_piece(J, out, jinja_str_slice(J, str, from, hit));
        from = hit + sep->len;
    }
    add_piece(J, out, jinja_str_slice(J, str, from, str->len));
}

// The separators nearest to the end are used; pieces come in order all the same.
static void rsplit_at(struct jinja *J, struct jinja_str *str, struct jinja_str *sep, int64_t max,
                      struct pieces *out)
{
    const struct jinja_str *s = jinja_str_flat(J, str), *w = jinja_str_flat(J, sep);
    size_t end = s->len;
    for (size_t at = end; max != 0 && at >= w->len; at--) {
        jinja_charge_bytes(J, w->len);
        if (memcmp(s->p + at - w->len, w->p, w->len) != 0) continue;
        add_piece(J, out, jinja_str_slice(J, str, at, end));
        end = at - w->len;
        at = end + 1; // the loop takes one off
        max--;
        if (end < w->len) break;
    }
    add_piece(J, out, jinja_str_slice(J, str, 0, end));
    struct jinja_list *l = out->list.list;
    for (size_t i = 0; i < l->n / 2; i++) {
        struct jinja_value v = l->items[i];
        l->items[i] = l->items[l->n - 1 - i];
        l->items[l->n - 1 - i] = v;
    }
}

static size_t skip(const struct jinja_str *s, size_t at, bool spaces)
{
    while (at < s->len) {
        int32_t c;
        const char *next = jinja_str_char(s->p + at, &c);
        if (jinja_str_is_space(c) != spaces) break;
        at = (size_t)(next - s->p);
    }
    return at;
}

static void split_words(struct jinja *J, struct jinja_str *str, int64_t max, struct pieces *out)
{
    const struct jinja_str *s = jinja_str_flat(J, str);
    jinja_charge_bytes(J, s->len);
    for (size_t from = skip(s, 0, true); from < s->len; max--) {
        size_t to = max == 0 ? s->len : skip(s, from, false);
        add_piece(J, out, jinja_str_slice(J, str, from, to));
        from = skip(s, to, true);
    }
}

static struct jinja_value split_any(struct jinja *J, struct jinja_value self,
                                    const struct jinja_args *args, bool from_right)
{
    struct pieces out = {.list = jinja_value_new_list(J, 0)};
    int64_t max = jinja_call_int(J, args->at[1], -1);
    if (!jinja_given(args->at[0]) || args->at[0].kind == JINJA_NONE) {
        if (from_right && max >= 0) jinja_fail(J, "rsplit() needs a separator here");
        split_words(J, self.s, max, &out);
        return out.list;
    }
    struct jinja_str *sep = jinja_call_str(J, args->at[0]);
    if (sep->len == 0) jinja_fail(J, "empty separator");
    if (from_right && max >= 0)
        rsplit_at(J, self.s, sep, max, &out);
    else
        split_at(J, self.s, sep, max, &out);
    return out.list;
}

METHOD(split)
{
    return split_any(J, self, args, false);
}

METHOD(rsplit)
{
    return split_any(J, self, args, true);
}

METHOD(splitlines)
{
    (void)args;
    struct pieces out = {.list = jinja_value_new_list(J, 0)};
    const struct jinja_str *s = jinja_str_flat(J, self.s);
    jinja_charge_bytes(J, s->len);
    for (size_t at = 0, end; at < s->len; at = end) {
        size_t to = at;
        while (to < s->len && s->p[to] != '\n' && s->p[to] != '\r')
            to++;
        end = to + 1 + (to + 1 < s->len && s->p[to] == '\r' && s->p[to + 1] == '\n');
        add_piece(J, &out, jinja_str_slice(J, self.s, at, to));
    }
    return out.list;
}

// --- search and replace -----------------------------------------------------------------------

static bool has_at_end(struct jinja *J, struct jinja_str *str, struct jinja_str *what, bool end)
{
    if (what->len > str->len) return false;
    if (what->len == 0) return true;
    const struct jinja_str *s = jinja_str_flat(J, str), *w = jinja_str_flat(J, what);
    jinja_charge_bytes(J, w->len);
    return memcmp(end ? s->p + s->len - w->len : s->p, w->p, w->len) == 0;
}

static struct jinja_value any_at_end(struct jinja *J, struct jinja_value self,
                                     struct jinja_value what, bool end)
{
    if (what.kind != JINJA_TUPLE)
        return jinja_bool(has_at_end(J, self.s, jinja_call_str(J, what), end));
    for (size_t i = 0; i < what.list->n; i++)
        if (has_at_end(J, self.s, jinja_call_str(J, what.list->items[i]), end))
            return jinja_bool(true);
    return jinja_bool(false);
}

METHOD(startswith)
{
    return any_at_end(J, self, args->at[0], false);
}

METHOD(endswith)
{
    return any_at_end(J, self, args->at[0], true);
}

METHOD(removeprefix)
{
    struct jinja_str *what = jinja_call_str(J, args->at[0]);
    if (!has_at_end(J, self.s, what, false)) return self;
    return jinja_of_str(jinja_str_slice(J, self.s, what->len, self.s->len));
}

METHOD(removesuffix)
{
    struct jinja_str *what = jinja_call_str(J, args->at[0]);
    if (!has_at_end(J, self.s, what, true)) return self;
    return jinja_of_str(jinja_str_slice(J, self.s, 0, self.s->len - what->len));
}

METHOD(find)
{
    size_t hit = jinja_str_find(J, self.s, jinja_call_str(J, args->at[0]), 0);
    if (hit == SIZE_MAX) return jinja_int(-1);
    return jinja_int(jinja_str_chars(J, jinja_str_slice(J, self.s, 0, hit)));
}

// The last place of `what`; SIZE_MAX: none.
static size_t find_last(struct jinja *J, struct jinja_str *str, struct jinja_str *what)
{
    const struct jinja_str *s = jinja_str_flat(J, str), *w = jinja_str_flat(J, what);
    jinja_charge_bytes(J, s->len);
    if (w->len == 0) return s->len;
    if (w->len > s->len) return SIZE_MAX;
    for (size_t at = s->len - w->len + 1; at-- > 0;) {
        if (s->p[at] != w->p[0]) continue;
        jinja_charge_bytes(J, w->len); // as much as may be looked at, again and again
        if (memcmp(s->p + at, w->p, w->len) == 0) return at;
    }
    return SIZE_MAX;
}

METHOD(rfind)
{
    size_t hit = find_last(J, self.s, jinja_call_str(J, args->at[0]));
    if (hit == SIZE_MAX) return jinja_int(-1);
    return jinja_int(jinja_str_chars(J, jinja_str_slice(J, self.s, 0, hit)));
}

METHOD(index)
{
    struct jinja_value at = method_find(J, self, args);
    if (at.i < 0) jinja_fail(J, "substring not found");
    return at;
}

// (before, separator, after): of the first separator, or the last; without one the text stands at
// that end from which it was looked for.
static struct jinja_value parts(struct jinja *J, struct jinja_str *s, struct jinja_str *sep,
                                bool is_last)
{
    if (sep->len == 0) jinja_fail(J, "empty separator");
    size_t hit = is_last ? find_last(J, s, sep) : jinja_str_find(J, s, sep, 0);
    bool none = hit == SIZE_MAX;
    size_t from = !none ? hit : is_last ? 0 : s->len, to = none ? from : hit + sep->len;
    struct jinja_value v = jinja_value_new_list(J, 3);
    v.list->items[0] = jinja_of_str(jinja_str_slice(J, s, 0, from));
    v.list->items[1] = jinja_of_str(jinja_str_slice(J, s, from, to));
    v.list->items[2] = jinja_of_str(jinja_str_slice(J, s, to, s->len));
    v.kind = JINJA_TUPLE;
    return v;
}

METHOD(partition)
{
    return parts(J, self.s, jinja_call_str(J, args->at[0]), false);
}

METHOD(rpartition)
{
    return parts(J, self.s, jinja_call_str(J, args->at[0]), true);
}

METHOD(count)
{
    struct jinja_str *what = jinja_call_str(J, args->at[0]);
    if (what->len == 0) return jinja_int(jinja_str_chars(J, self.s) + 1);
    int64_t n = 0;
    for (size_t at = 0; (at = jinja_str_find(J, self.s, what, at)) != SIZE_MAX; at += what->len)
        n++;
    return jinja_int(n);
}

// replace(old, new, count): what is kept keeps its marks, `new` brings its own.
struct jinja_value jinja_method_replace(struct jinja *J, struct jinja_value self,
                                        const struct jinja_args *args)
{
    struct jinja_str *s = jinja_value_str(J, self), *old = jinja_call_str(J, args->at[0]);
    struct jinja_str *new = jinja_call_str(J, args->at[1]);
    int64_t max = jinja_call_int(J, args->at[2], -1);
    struct jinja_text t = {.J = J};
    size_t from = 0, hit = 0;
    for (; max != 0 && (hit = jinja_str_find(J, s, old, from)) != SIZE_MAX; max--) {
        int32_t c;
        jinja_str_add_str(&t, jinja_str_slice(J, s, from, hit));
        jinja_str_add_str(&t, new);
        from = hit + old->len;
        if (old->len) continue;
        if (from == s->len) return jinja_of_str(jinja_str_done(&t));
        size_t next = (size_t)(jinja_str_char(s->p + from, &c) - s->p);
        jinja_str_add_str(&t, jinja_str_slice(J, s, from, next)); // '' is between any two
        from = next;
    }
    if (from == 0) return jinja_of_str(s);
    jinja_str_add_str(&t, jinja_str_slice(J, s, from, s->len));
    return jinja_of_str(jinja_str_done(&t));
}

// --- letters ----------------------------------------------------------------------------------

static bool is_letter(int32_t c)
{
    return c < 0x80 ? (c | 32) >= 'a' && (c | 32) <= 'z'
                    : utf8proc_category(c) >= UTF8PROC_CATEGORY_LU &&
                          utf8proc_category(c) <= UTF8PROC_CATEGORY_LO;
}

// Does a new word begin behind c? JINJA_TITLE: str.title(); JINJA_WORDS: Jinja's title filter.
static bool ends_word(int32_t c, enum jinja_case how)
{
    if (how == JINJA_TITLE) return !is_letter(c);
    return how == JINJA_WORDS && (jinja_str_is_space(c) || (c < 0x80 && strchr("-({[<", c)));
}

struct jinja_str *jinja_method_case(struct jinja *J, struct jinja_str *str, enum jinja_case how)
{
    const struct jinja_str *s = jinja_str_flat(J, str);
    struct jinja_text t = {.J = J};
    bool at_word = true;
    for (size_t at = 0, end; at < s->len; at = end) {
        char out[512];
        bool input;
        size_t n = 0;
        end = jinja_str_run(s, at, &input);
        for (size_t i = at; i < end;) {
            int32_t c;
            i = (size_t)(jinja_str_char(s->p + i, &c) - s->p);
            bool up = how == JINJA_UPPER || (how != JINJA_LOWER && at_word);
            at_word = ends_word(c, how);
            c = up ? utf8proc_toupper(c) : utf8proc_tolower(c);
            n += (size_t)utf8proc_encode_char(c, (utf8proc_uint8_t *)out + n);
            if (n + 4 > sizeof out || i >= end) {
                jinja_str_add(&t, out, n, input);
                jinja_charge(J, n / 4);
                n = 0;
            }
        }
    }
    return jinja_str_done(&t);
}

METHOD(upper)
{
    (void)args;
    return jinja_of_str(jinja_method_case(J, self.s, JINJA_UPPER));
}

METHOD(lower)
{
    (void)args;
    return jinja_of_str(jinja_method_case(J, self.s, JINJA_LOWER));
}

METHOD(title)
{
    (void)args;
    return jinja_of_str(jinja_method_case(J, self.s, JINJA_TITLE));
}

METHOD(capitalize)
{
    (void)args;
    return jinja_of_str(jinja_method_case(J, self.s, JINJA_CAPITAL));
}

static bool is_digit(int32_t c)
{
    return c < 0x80 ? c >= '0' && c <= '9' : utf8proc_category(c) == UTF8PROC_CATEGORY_ND;
}

static bool is_letter_or_digit(int32_t c)
{
    return is_letter(c) || is_digit(c);
}

static struct jinja_value all_are(struct jinja *J, struct jinja_str *str, bool (*is)(int32_t c))
{
    const struct jinja_str *s = jinja_str_flat(J, str);
    jinja_charge(J, s->len / 8);
    for (size_t at = 0; at < s->len;) {
        int32_t c;
        at = (size_t)(jinja_str_char(s->p + at, &c) - s->p);
        if (!is(c)) return jinja_bool(false);
    }
    return jinja_bool(s->len > 0);
}

METHOD(isdigit)
{
    (void)args;
    return all_are(J, self.s, is_digit);
}

METHOD(isalpha)
{
    (void)args;
    return all_are(J, self.s, is_letter);
}

METHOD(isalnum)
{
    (void)args;
    return all_are(J, self.s, is_letter_or_digit);
}

METHOD(isspace)
{
    (void)args;
    return all_are(J, self.s, jinja_str_is_space);
}

// s.join(list): unlike the filter, every item must be a string.
METHOD(join)
{
    struct jinja_value seq = jinja_value_seq(J, args->at[0]);
    size_t n = (size_t)jinja_value_len(J, seq), n_part = 0;
    struct jinja_str **parts = jinja_take(J, n, 2 * sizeof *parts);
    for (size_t i = 0; i < n; i++) {
        if (i) parts[n_part++] = self.s;
        parts[n_part++] = jinja_call_str(J, jinja_value_at(J, seq, (int64_t)i));
    }
    return jinja_of_str(jinja_str_cat(J, parts, n_part));
}

// --- mappings, lists, loops -------------------------------------------------------------------

METHOD(get)
{
    const struct jinja_value *have = jinja_value_get(J, self.dict, args->at[0]);
    if (have) return *have;
    return jinja_given(args->at[1]) ? args->at[1] : jinja_none();
}

static struct jinja_value of_entries(struct jinja *J, const struct jinja_dict *d, bool keys,
                                     bool values)
{
    struct jinja_value list = jinja_value_new_list(J, d->n);
    for (size_t i = 0; i < d->n; i++) {
        const struct jinja_entry *e = &d->entries[i];
        list.list->items[i] = !values ? e->key
                              : !keys ? e->value
                                      : jinja_value_new_tuple2(J, e->key, e->value);
    }
    return list;
}

struct jinja_value jinja_method_items(struct jinja *J, struct jinja_value self,
                                      const struct jinja_args *args)
{
    (void)args;
    return of_entries(J, self.dict, true, true);
}

METHOD(keys)
{
    (void)args;
    return of_entries(J, self.dict, true, false);
}

METHOD(values)
{
    (void)args;
    return of_entries(J, self.dict, false, true);
}

METHOD(copy) // mappings and lists never change
{
    (void)J, (void)args;
    return self;
}

METHOD(count_items)
{
    int64_t n = 0;
    for (size_t i = 0; i < self.list->n; i++)
        n += jinja_value_equal(J, self.list->items[i], args->at[0]);
    return jinja_int(n);
}

METHOD(index_of)
{
    for (size_t i = 0; i < self.list->n; i++)
        if (jinja_value_equal(J, self.list->items[i], args->at[0])) return jinja_int((int64_t)i);
    jinja_fail(J, "index(): no such item");
}

METHOD(cycle)
{
    if (args->n == 0 || args->n_kw) jinja_fail(J, "cycle() needs values");
    return args->at[self.loop->at % args->n];
}

METHOD(changed)
{
    struct jinja_value *last = &self.loop->changed;
    bool same = jinja_given(*last) && jinja_value_equal(J, *last, args->at[0]);
    *last = args->at[0];
    return jinja_bool(!same);
}

enum {
    STR = 1 << JINJA_STR,
    DICT = 1 << JINJA_DICT,
    LIST = 1 << JINJA_LIST | 1 << JINJA_TUPLE,
    LOOP = 1 << JINJA_LOOP
};

const struct jinja_builtin *jinja_method_find(enum jinja_kind kind, struct jinja_str *name,
                                              bool *hidden)
{
    static const struct jinja_builtin methods[] = {
        {"strip", jinja_method_strip, 0, STR, {"chars"}},
        {"lstrip", method_lstrip, 0, STR, {"chars"}},
        {"rstrip", method_rstrip, 0, STR, {"chars"}},
        {"split", method_split, 0, STR, {"sep", "maxsplit"}},
        {"rsplit", method_rsplit, 0, STR, {"sep", "maxsplit"}},
        {"splitlines", method_splitlines, 0, STR, {NULL}},
        {"startswith", method_startswith, 1, STR, {"prefix"}},
        {"endswith", method_endswith, 1, STR, {"suffix"}},
        {"replace", jinja_method_replace, 2, STR, {"old", "new", "count"}},
        {"upper", method_upper, 0, STR, {NULL}},
        {"lower", method_lower, 0, STR, {NULL}},
        {"title", method_title, 0, STR, {NULL}},
        {"capitalize", method_capitalize, 0, STR, {NULL}},
        {"find", method_find, 1, STR, {"sub"}},
        {"rfind", method_rfind, 1, STR, {"sub"}},
        {"index", method_index, 1, STR, {"sub"}},
        {"partition", method_partition, 1, STR, {"sep"}},
        {"rpartition", method_rpartition, 1, STR, {"sep"}},
        {"count", method_count, 1, STR, {"sub"}},
        {"join", method_join, 1, STR, {"iterable"}},
        {"format", jinja_format_braces, -1, STR, {NULL}},
        {"removeprefix", method_removeprefix, 1, STR, {"prefix"}},
        {"removesuffix", method_removesuffix, 1, STR, {"suffix"}},
        {"isdigit", method_isdigit, 0, STR, {NULL}},
        {"isalpha", method_isalpha, 0, STR, {NULL}},
        {"isalnum", method_isalnum, 0, STR, {NULL}},
        {"isspace", method_isspace, 0, STR, {NULL}},
        {"get", method_get, 1, DICT, {"key", "default"}},
        {"items", jinja_method_items, 0, DICT, {NULL}},
        {"keys", method_keys, 0, DICT, {NULL}},
        {"values", method_values, 0, DICT, {NULL}},
        {"copy", method_copy, 0, DICT | 1 << JINJA_LIST, {NULL}},
        {"count", method_count_items, 1, LIST, {"value"}},
        {"index", method_index_of, 1, LIST, {"value"}},
        {"cycle", method_cycle, -1, LOOP, {NULL}},
        {"changed", method_changed, 1, LOOP, {"value"}},
        {NULL, NULL, 0, 0, {NULL}},
    };
    // In Python they exist, so they hide a key of that name; the sandbox forbids them.
    static const struct jinja_builtin forbidden[] = {
        {"clear", NULL, 0, DICT, {NULL}},  {"fromkeys", NULL, 0, DICT, {NULL}},
        {"pop", NULL, 0, DICT, {NULL}},    {"popitem", NULL, 0, DICT, {NULL}},
        {"update", NULL, 0, DICT, {NULL}}, {"setdefault", NULL, 0, DICT, {NULL}},
        {NULL, NULL, 0, 0, {NULL}},
    };
    *hidden = false;
    if (kind != JINJA_STR && kind != JINJA_DICT && kind != JINJA_LIST && kind != JINJA_TUPLE &&
        kind != JINJA_LOOP)
        return NULL;
    if (!name->p) return NULL; // a rope: no template makes such a name
    const struct jinja_builtin *m = jinja_call_find(methods, name->p, name->len, 1u << kind);
    if (!m) *hidden = jinja_call_find(forbidden, name->p, name->len, 1u << kind) != NULL;
    return m;
}
