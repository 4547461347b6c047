// tojson as transformers defines it: json.dumps(x, ensure_ascii=False, indent, separators,
// sort_keys), without the HTML escapes of Jinja's own filter.
#include "coordinator/text/jinja.h"

#include <stdio.h>
#include <string.h>

struct dump {
    struct jinja_text text;
    bool ascii, sort;
    int64_t indent; // -1: one line
    struct jinja_str *item_sep, *key_sep;
};

static void dump_value(struct dump *d, struct jinja_value v, int level);

static void escape_unicode(struct dump *d, int32_t c, bool input)
{
    char out[16];
    int n;
    if (c < 0x10000) {
        n = snprintf(out, sizeof out, "\\u%04x", (unsigned)c);
    } else {
        unsigned pair = (unsigned)c - 0x10000;
        n = snprintf(out, sizeof out, "\\u%04x\\u%04x", 0xd800 + (pair >> 10),
                     0xdc00 + (pair & 0x3ff));
    }
    jinja_str_add(&d->text, out, (size_t)n, input);
}

static void dump_str(struct dump *d, struct jinja_str *str)
{
    static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
    const struct jinja_str *s = jinja_str_flat(d->text.J, str);
    size_t done = 0, run_end = 0;
    bool input = false;
    // The quotes belong to the text that they enclose.
    if (s->len) jinja_str_run(s, 0, &input);
    jinja_str_add(&d->text, "\"", 1, input);
    for (size_t at = 0; at < s->len;) {
        if (at == run_end) {
            jinja_str_add(&d->text, s->p + done, at - done, input);
            done = at;
            run_end = jinja_str_run(s, at, &input);
        }
        int32_t c;
        size_t end = (size_t)(jinja_str_char(s->p + at, &c) - s->p);
        const char *esc = c && c < 0x80 ? strchr(from, c) : NULL;
        if (esc || c < 0x20 || (d->ascii && c >= 0x7f)) {
            jinja_str_add(&d->text, s->p + done, at - done, input);
            done = end;
            if (esc)
                jinja_str_add(&d->text, (char[]){'\\', to[esc - from]}, 2, input);
            else
                escape_unicode(d, c, input);
        }
        at = end;
    }
    jinja_str_add(&d->text, s->p + done, s->len - done, input);
    jinja_str_add(&d->text, "\"", 1, input);
}

static void new_line(struct dump *d, int level)
{
    if (d->indent < 0) return;
    jinja_str_add_c(&d->text, "\n");
    for (int64_t i = 0; i < d->indent * level; i++)
        jinja_str_add_c(&d->text, " ");
}

static void dump_list(struct dump *d, struct jinja_value v, int level)
{
    int64_t n = jinja_value_len(d->text.J, v);
    jinja_str_add_c(&d->text, "[");
    for (int64_t i = 0; i < n; i++) {
        if (i) jinja_str_add_str(&d->text, d->item_sep);
        new_line(d, level + 1);
        dump_value(d, jinja_value_at(d->text.J, v, i), level + 1);
    }
    if (n) new_line(d, level);
    jinja_str_add_c(&d->text, "]");
}

static void dump_key(struct dump *d, struct jinja_value key)
{
    struct jinja *J = d->text.J;
    char number[40];
    if (key.kind == JINJA_STR) {
        dump_str(d, key.s);
        return;
    }
    if (key.kind == JINJA_INT)
        snprintf(number, sizeof number, "%lld", (long long)key.i);
    else if (key.kind == JINJA_REAL)
        jinja_value_real(number, key.d);
    else if (key.kind == JINJA_BOOL)
        snprintf(number, sizeof number, key.b ? "true" : "false");
    else if (key.kind == JINJA_NONE)
        snprintf(number, sizeof number, "null");
    else
        jinja_fail(J, "tojson: keys of type '%s' are not possible", jinja_value_type(key));
    jinja_str_add_c(&d->text, "\"");
    jinja_str_add_c(&d->text, number);
    jinja_str_add_c(&d->text, "\"");
}

// Indices of the entries in the order to write them.
static size_t *entry_order(struct dump *d, const struct jinja_dict *dict)
{
    struct jinja *J = d->text.J;
    size_t *order = jinja_take(J, dict->n, sizeof *order);
    for (size_t i = 0; i < dict->n; i++) {
        size_t at = i;
        for (; d->sort && at > 0; at--) { // each comparison is charged
            if (jinja_value_order(J, dict->entries[order[at - 1]].key, dict->entries[i].key) <= 0)
                break;
            order[at] = order[at - 1];
        }
        order[at] = i;
    }
    return order;
}

static void dump_dict(struct dump *d, const struct jinja_dict *dict, int level)
{
    const size_t *order = d->sort ? entry_order(d, dict) : NULL;
    jinja_str_add_c(&d->text, "{");
    for (size_t i = 0; i < dict->n; i++) {
        const struct jinja_entry *e = &dict->entries[order ? order[i] : i];
        if (i) jinja_str_add_str(&d->text, d->item_sep);
        new_line(d, level + 1);
        dump_key(d, e->key);
        jinja_str_add_str(&d->text, d->key_sep);
        dump_value(d, e->value, level + 1);
    }
    if (dict->n) new_line(d, level);
    jinja_str_add_c(&d->text, "}");
}

static void dump_real(struct dump *d, double v)
{
    char text[40];
    jinja_value_real(text, v);
    const char *name = v != v           ? "NaN"
                       : text[0] == 'i' ? "Infinity"
                       : text[1] == 'i' ? "-Infinity"
                                        : text;
    jinja_str_add_c(&d->text, name);
}

static void dump_value(struct dump *d, struct jinja_value v, int level)
{
    struct jinja *J = d->text.J;
    jinja_enter(J);
    jinja_charge(J, 1);
    switch (v.kind) {
    case JINJA_NONE:
        jinja_str_add_c(&d->text, "null");
        break;
    case JINJA_BOOL:
        jinja_str_add_c(&d->text, v.b ? "true" : "false");
        break;
    case JINJA_INT:
        jinja_value_repr(&d->text, v);
        break;
    case JINJA_REAL:
        dump_real(d, v.d);
        break;
    case JINJA_STR:
        dump_str(d, v.s);
        break;
    case JINJA_LIST:
    case JINJA_TUPLE:
        dump_list(d, v, level);
        break;
    case JINJA_DICT:
        dump_dict(d, v.dict, level);
        break;
    default:
        jinja_fail(J, "tojson: a value of type '%s' cannot be written", jinja_value_type(v));
    }
    jinja_leave(J);
}

static struct jinja_str *literal(struct jinja *J, const char *s)
{
    return jinja_str_new(J, s, strlen(s), NULL);
}

struct jinja_value jinja_json(struct jinja *J, struct jinja_value v, const struct jinja_args *args)
{
    struct jinja_value sep = args->at[2];
    struct dump d = {.text = {.J = J}};
    d.ascii = jinja_value_truth(J, args->at[0]);
    d.indent = jinja_call_int(J, args->at[1], -1);
    d.sort = jinja_value_truth(J, args->at[3]);
    if (d.indent > 64) jinja_fail(J, "tojson: indent is too large");
    if (jinja_given(sep) && sep.kind != JINJA_NONE) {
        if ((sep.kind != JINJA_TUPLE && sep.kind != JINJA_LIST) || sep.list->n != 2)
            jinja_fail(J, "tojson: separators must be a pair of strings");
        d.item_sep = jinja_call_str(J, sep.list->items[0]);
        d.key_sep = jinja_call_str(J, sep.list->items[1]);
    } else {
        d.item_sep = literal(J, d.indent < 0 ? ", " : ",");
        d.key_sep = literal(J, ": ");
    }
    dump_value(&d, v, 0);
    return jinja_of_str(jinja_str_done(&d.text));
}

// from_json, which llama.cpp's templates know: the value that a text spells.
struct jinja_value jinja_json_read(struct jinja *J, struct jinja_value v,
                                   const struct jinja_args *args)
{
    (void)args;
    const struct json *tree;
    struct err_text why = {""};
    const struct jinja_str *s = jinja_str_flat(J, jinja_call_str(J, v));
    jinja_charge_bytes(J, s->len);
    if (json_read(s->p, s->len, J->mem, &tree, NULL, &why) != OK)
        jinja_fail(J, "from_json: %s", why.s);
    return jinja_value_of_json(J, tree);
}
