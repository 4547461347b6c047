// Filters on one value; those on sequences are in jinja_seq.c.
#include "coordinator/text/jinja.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILTER(name)                                                                               \
    static struct jinja_value filter_##name(struct jinja *J, struct jinja_value v,                 \
                                            const struct jinja_args *args)

FILTER(default)
{
    bool replace =
        v.kind == JINJA_UNDEF || (jinja_value_truth(J, args->at[1]) && !jinja_value_truth(J, v));
    if (!replace) return v;
    return jinja_given(args->at[0]) ? args->at[0] : jinja_of_str(jinja_str_new(J, "", 0, NULL));
}

FILTER(trim)
{
    return jinja_method_strip(J, jinja_of_str(jinja_value_str(J, v)), args);
}

FILTER(string)
{
    (void)args;
    return jinja_of_str(jinja_value_str(J, v));
}

FILTER(upper)
{
    (void)args;
    return jinja_of_str(jinja_method_case(J, jinja_value_str(J, v), JINJA_UPPER));
}

FILTER(lower)
{
    (void)args;
    return jinja_of_str(jinja_method_case(J, jinja_value_str(J, v), JINJA_LOWER));
}

FILTER(title)
{
    (void)args;
    return jinja_of_str(jinja_method_case(J, jinja_value_str(J, v), JINJA_WORDS));
}

FILTER(capitalize)
{
    (void)args;
    return jinja_of_str(jinja_method_case(J, jinja_value_str(J, v), JINJA_CAPITAL));
}

FILTER(escape)
{
    static const struct {
        char c;
        const char *as;
    } entities[] = {{'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'"', "&#34;"}, {'\'', "&#39;"}};
    (void)args;
    struct jinja_str *str = jinja_value_str(J, v);
    const struct jinja_str *s = jinja_str_flat(J, str);
    struct jinja_text t = {.J = J};
    for (size_t at = 0, end; at < s->len; at = end) {
        bool input;
        end = jinja_str_run(s, at, &input);
        size_t done = at;
        for (size_t i = at; i < end; i++) {
            for (size_t k = 0; k < sizeof entities / sizeof *entities; k++) {
                if (s->p[i] != entities[k].c) continue;
                jinja_str_add(&t, s->p + done, i - done, input);
                jinja_str_add(&t, entities[k].as, strlen(entities[k].as), input);
                done = i + 1;
            }
        }
        jinja_str_add(&t, s->p + done, end - done, input);
    }
    return jinja_of_str(jinja_str_done(&t));
}

FILTER(replace)
{
    return jinja_method_replace(J, v, args);
}

// indent(width=4, first=false, blank=false): width may be a string.
FILTER(indent)
{
    struct jinja_str *str = jinja_value_str(J, v), *by;
    if (args->at[0].kind == JINJA_STR) {
        by = args->at[0].s;
    } else {
        static const char spaces[] =
            "                                                                ";
        int64_t width = jinja_call_int(J, args->at[0], 4);
        if (width < 0 || width >= (int64_t)sizeof spaces) jinja_fail(J, "indent() is too wide");
        by = jinja_str_new(J, spaces, (size_t)width, NULL);
    }
    bool first = jinja_value_truth(J, args->at[1]), blank = jinja_value_truth(J, args->at[2]);
    const struct jinja_str *s = jinja_str_flat(J, str);
    struct jinja_text t = {.J = J};
    for (size_t at = 0, end; at < s->len; at = end) {
        const char *nl = memchr(s->p + at, '\n', s->len - at);
        end = nl ? (size_t)(nl - s->p) + 1 : s->len;
        bool empty = s->p[at] == '\n';
        if (at == 0 ? first : blank || !empty) jinja_str_add_str(&t, by);
        jinja_str_add_str(&t, jinja_str_slice(J, str, at, end));
    }
    return jinja_of_str(jinja_str_done(&t));
}

FILTER(wordcount)
{
    (void)args;
    struct jinja_str *str = jinja_value_str(J, v);
    const struct jinja_str *s = jinja_str_flat(J, str);
    int64_t n = 0;
    bool in_word = false;
    jinja_charge_bytes(J, s->len);
    for (size_t at = 0; at < s->len;) {
        int32_t c;
        at = (size_t)(jinja_str_char(s->p + at, &c) - s->p);
        bool space = jinja_str_is_space(c);
        n += !space && !in_word;
        in_word = !space;
    }
    return jinja_int(n);
}

// --- numbers ----------------------------------------------------------------------------------

// The text of a number without white space around it, for strtoll and strtod.
static bool number_text(struct jinja *J, struct jinja_value v, char out[64])
{
    struct jinja_value none = {.kind = JINJA_ABSENT};
    struct jinja_args args = {.at = &none, .n = 1};
    const struct jinja_str *s = jinja_str_flat(J, jinja_method_strip(J, v, &args).s);
    if (s->len == 0 || s->len >= 64) return false;
    for (size_t i = 0; i < s->len; i++)
        if (!strchr("0123456789+-.eE", s->p[i])) return false;
    memcpy(out, s->p, s->len);
    out[s->len] = 0;
    return true;
}

FILTER(int)
{
    char text[64], *end;
    int64_t i;
    struct jinja_value otherwise = jinja_given(args->at[0]) ? args->at[0] : jinja_int(0);
    if (jinja_value_is_int(v, &i)) return jinja_int(i);
    double d = v.kind == JINJA_REAL ? v.d : NAN;
    if (v.kind == JINJA_STR && number_text(J, v, text)) {
        if (jinja_call_int(J, args->at[1], 10) != 10) jinja_fail(J, "int: only base 10");
        long long n = strtoll(text, &end, 10);
        if (!*end && n != INT64_MAX && n != INT64_MIN) return jinja_int(n);
        d = strtod(text, &end);
        if (*end) return otherwise;
    }
    return d > -9.2e18 && d < 9.2e18 ? jinja_int((int64_t)d) : otherwise;
}

FILTER(float)
{
    char text[64], *end;
    double d;
    struct jinja_value otherwise = jinja_given(args->at[0]) ? args->at[0] : jinja_real(0);
    if (jinja_value_is_number(v, &d)) return jinja_real(d);
    if (v.kind != JINJA_STR || !number_text(J, v, text)) return otherwise;
    d = strtod(text, &end);
    return *end ? otherwise : jinja_real(d);
}

FILTER(abs)
{
    (void)args;
    int64_t i;
    if (v.kind == JINJA_REAL) return jinja_real(fabs(v.d));
    if (!jinja_value_is_int(v, &i)) jinja_fail(J, "abs: a number is needed");
    if (i == INT64_MIN) jinja_fail(J, "integer is out of range");
    return jinja_int(i < 0 ? -i : i);
}

FILTER(round)
{
    double d;
    int64_t prec = jinja_call_int(J, args->at[0], 0);
    if (!jinja_value_is_number(v, &d)) jinja_fail(J, "round: a number is needed");
    if (prec < 0 || prec > 15) jinja_fail(J, "round: precision must be 0 to 15");
    struct jinja_str *how = jinja_given(args->at[1]) ? jinja_call_str(J, args->at[1]) : NULL;
    if (how && !jinja_str_is(J, how, "common")) {
        double scale = pow(10, (double)prec);
        if (jinja_str_is(J, how, "ceil")) return jinja_real(ceil(d * scale) / scale);
        if (jinja_str_is(J, how, "floor")) return jinja_real(floor(d * scale) / scale);
        jinja_fail(J, "round: method must be common, ceil or floor");
    }
    if (v.kind != JINJA_REAL) return v;
    char text[400]; // rounds the exact binary value, as Python does
    snprintf(text, sizeof text, "%.*f", (int)prec, d);
    return jinja_real(strtod(text, NULL));
}

// --- lookups ----------------------------------------------------------------------------------

FILTER(length)
{
    (void)args;
    return jinja_int(jinja_value_len(J, v));
}

FILTER(attr)
{
    return jinja_value_attr(J, v, jinja_call_str(J, args->at[0]));
}

FILTER(items)
{
    if (v.kind == JINJA_UNDEF) return jinja_value_new_list(J, 0);
    if (v.kind != JINJA_DICT) jinja_fail(J, "items: a mapping is needed");
    return jinja_method_items(J, v, args);
}

const struct jinja_builtin *jinja_filter_find(const char *name, size_t len)
{
    static const struct jinja_builtin filters[] = {
        {"default", filter_default, 0, 0, {"default_value", "boolean"}},
        {"d", filter_default, 0, 0, {"default_value", "boolean"}},
        {"trim", filter_trim, 0, 0, {"chars"}},
        {"string", filter_string, 0, 0, {NULL}},
        {"safe", filter_string, 0, 0, {NULL}},
        {"upper", filter_upper, 0, 0, {NULL}},
        {"lower", filter_lower, 0, 0, {NULL}},
        {"title", filter_title, 0, 0, {NULL}},
        {"capitalize", filter_capitalize, 0, 0, {NULL}},
        {"escape", filter_escape, 0, 0, {NULL}},
        {"e", filter_escape, 0, 0, {NULL}},
        {"forceescape", filter_escape, 0, 0, {NULL}},
        {"replace", filter_replace, 2, 0, {"old", "new", "count"}},
        {"indent", filter_indent, 0, 0, {"width", "first", "blank"}},
        {"wordcount", filter_wordcount, 0, 0, {NULL}},
        {"format", jinja_format, -1, 0, {NULL}},
        {"int", filter_int, 0, 0, {"default", "base"}},
        {"float", filter_float, 0, 0, {"default"}},
        {"abs", filter_abs, 0, 0, {NULL}},
        {"round", filter_round, 0, 0, {"precision", "method"}},
        {"length", filter_length, 0, 0, {NULL}},
        {"count", filter_length, 0, 0, {NULL}},
        {"attr", filter_attr, 1, 0, {"name"}},
        {"items", filter_items, 0, 0, {NULL}},
        {"from_json", jinja_json_read, 0, 0, {NULL}},
        {"tojson", jinja_json, 0, 0, {"ensure_ascii", "indent", "separators", "sort_keys"}},
        {NULL, NULL, 0, 0, {NULL}},
    };
    const struct jinja_builtin *f = jinja_call_find(filters, name, len, 0);
    return f ? f : jinja_call_find(jinja_seq_filters, name, len, 0);
}
