#include "coordinator/text/turn_grammar.h"

#include <string.h>

// A sequence being put together.
struct seq {
    const struct turn_ask *ask;
    struct arena *a;
    struct grammar_spec *parts;
    size_t n, cap;
    bool broken;
};

static void add(struct seq *s, struct grammar_spec part)
{
    if (s->n == s->cap) {
        const size_t cap = s->cap ? 2 * s->cap : 8;
        struct grammar_spec *more = arena_take_n(s->a, cap, sizeof *more);
        s->broken |= !more;
        if (!more) return;
        if (s->n) memcpy(more, s->parts, s->n * sizeof *more);
        s->parts = more;
        s->cap = cap;
    }
    s->parts[s->n++] = part;
}

static struct seq begin(const struct seq *like)
{
    return (struct seq){.ask = like->ask, .a = like->a};
}

static struct grammar_spec end(struct seq *outer, const struct seq *s, enum grammar_kind kind)
{
    outer->broken |= s->broken;
    return (struct grammar_spec){.kind = kind, .parts = s->parts, .n_part = s->n};
}

// Text as tokens write it: control tokens spelled in it are those tokens.
static void add_text(struct seq *s, const char *text, size_t len)
{
    struct ids ids = {0};
    const struct tokenizer *t = s->ask->tokenizer;
    s->broken |= tokenizer_encode(t, text, len, TOKENIZER_SPECIAL, NULL, 0, len + 1, &ids) != OK;
    size_t from = 0, at = 0, n;
    for (size_t i = 0; i < ids.n && !s->broken; i++) {
        tokenizer_piece(t, ids.at[i], false, &n);
        if (n) continue;
        const char *mark = tokenizer_piece(t, ids.at[i], true, &n);
        const char *hit = n ? memmem(text + at, len - at, mark, n) : NULL;
        if (!hit) continue;
        const size_t before = (size_t)(hit - text) - from;
        if (before)
            add(s,
                (struct grammar_spec){.kind = GRAMMAR_LITERAL, .text = text + from, .len = before});
        add(s, (struct grammar_spec){.kind = GRAMMAR_TOKEN, .token = ids.at[i]});
        from = at = (size_t)(hit - text) + n;
    }
    if (from < len)
        add(s,
            (struct grammar_spec){.kind = GRAMMAR_LITERAL, .text = text + from, .len = len - from});
    ids_fini(&ids);
}

static void add_word(struct seq *s, const char *text)
{
    if (text) add_text(s, text, strlen(text));
}

// Free text up to and with a mark, which may be a control token.
static void add_until(struct seq *s, const char *mark)
{
    struct seq one = begin(s);
    add_word(&one, mark);
    s->broken |= one.broken;
    if (one.n == 1 && one.parts[0].kind == GRAMMAR_TOKEN)
        add(s, (struct grammar_spec){.kind = GRAMMAR_UNTIL, .token = one.parts[0].token});
    else
        add(s, (struct grammar_spec){.kind = GRAMMAR_UNTIL, .text = mark, .len = strlen(mark)});
}

static const struct json *parameters(const struct json *f)
{
    const struct json *p = json_get(f, "parameters");
    return p && p->kind == J_OBJ ? p : NULL;
}

static void add_object(struct seq *s, const struct json *f)
{
    const struct json *p = parameters(f);
    add(s, p ? (struct grammar_spec){.kind = GRAMMAR_SCHEMA, .json = p}
             : (struct grammar_spec){.kind = GRAMMAR_OBJECT});
}

// -- arguments between tags --

static bool is_required(const struct json *schema, const char *name)
{
    const struct json *list = json_get(schema, "required");
    for (size_t i = 0; list && list->kind == J_ARR && i < list->arr.n; i++)
        if (json_is(&list->arr.items[i], name)) return true;
    return false;
}

static void add_tag(struct seq *s, const struct json_member *m)
{
    const struct turn_format *f = s->ask->format;
    const char *line = f->value_lines ? "\n" : "";
    char *close = arena_printf(s->a, "%s%s", line, f->value_close);
    char *open =
        arena_printf(s->a, "%s%.*s%s%s%s%s", f->key_open, (int)m->key_len, m->key, f->key_close,
                     f->value_open ? "\n" : "", f->value_open ? f->value_open : "", line);
    if (!open || !close) {
        s->broken = true;
        return;
    }
    add_word(s, open);
    if (json_is(json_get(&m->value, "type"), "string") && !json_get(&m->value, "enum")) {
        add_until(s, close);
    } else if (json_get(&m->value, "enum") && json_is(json_get(&m->value, "type"), "string")) {
        const struct json *values = json_get(&m->value, "enum");
        struct seq any = begin(s);
        for (size_t i = 0; values->kind == J_ARR && i < values->arr.n; i++)
            if (values->arr.items[i].kind == J_STR)
                add(&any, (struct grammar_spec){.kind = GRAMMAR_LITERAL,
                                                .text = values->arr.items[i].str.s,
                                                .len = values->arr.items[i].str.len});
        add(s, end(s, &any, GRAMMAR_ANY));
        add_word(s, close);
    } else {
        add(s, (struct grammar_spec){.kind = GRAMMAR_SCHEMA, .json = &m->value});
        add_word(s, close);
    }
    add_word(s, "\n");
}

// Each argument once and in order; those that are not required may be left out.
static void add_tags(struct seq *s, const struct json *f)
{
    const struct json *p = parameters(f), *list = json_get(p, "properties");
    for (size_t i = 0; list && list->kind == J_OBJ && i < list->obj.n; i++) {
        const struct json_member *m = &list->obj.members[i];
        struct seq one = begin(s);
        add_tag(&one, m);
        const struct grammar_spec tag = end(s, &one, GRAMMAR_SEQ);
        if (is_required(p, m->key)) {
            add(s, tag);
            continue;
        }
        struct seq maybe = begin(s);
        add(&maybe, tag);
        add(&maybe, (struct grammar_spec){.kind = GRAMMAR_SEQ}); // nothing
        add(s, end(s, &maybe, GRAMMAR_ANY));
    }
}

// -- one call --

static void add_named_call(struct seq *s, const struct json *f, const char *name)
{
    const struct turn_format *t = s->ask->format;
    add_word(s, t->call_open);
    add_word(s, t->name_open);
    add_word(s, name);
    add_word(s, t->name_close);
    add_word(s, t->args_open);
    switch (t->args) {
    case TURN_ARGS_TAGS:
        if (strcmp(t->name_close, "\n")) add_word(s, "\n");
        add_tags(s, f);
        add_word(s, t->call_close);
        break;
    case TURN_ARGS_BRACES: // values in words of their own: only where they end is known
        add_until(s, t->call_close);
        break;
    default:
        add_object(s, f);
        if (t->args_open) add_word(s, "\n```");
        add_word(s, t->call_close);
    }
}

static void add_call(struct seq *s, const struct json *f, const char *name)
{
    const struct turn_format *t = s->ask->format;
    const char *open = t->bare || !t->call_close ? "" : "\n";
    char *head = NULL;
    switch (t->name_kind) {
    case TURN_NAME_HEADER:
        head = arena_printf(
            s->a, "<|channel|>commentary to=functions.%s <|constrain|>json<|message|>", name);
        break;
    case TURN_NAME_PYTHON: // arguments as Python writes them: only where they end is known
        head = arena_printf(s->a, "[%s(", name);
        break;
    case TURN_NAME_IN_JSON:
        head = arena_printf(
            s->a, "%s%s{\"name\": \"%s\", \"%s\": ", t->bare || !t->call_close ? "" : t->call_open,
            open, name, t->bare ? "parameters" : "arguments");
        break;
    default:
        add_named_call(s, f, name);
        return;
    }
    if (!head) s->broken = true;
    if (!head) return;
    add_word(s, head);
    if (t->name_kind == TURN_NAME_PYTHON) {
        add_until(s, ")]");
        return;
    }
    add_object(s, f);
    if (t->name_kind == TURN_NAME_HEADER) return; // the call ends with the message
    add_word(s, "}");
    if (t->call_close && !t->bare) {
        add_word(s, open);
        add_word(s, t->call_close);
    }
}

// Any of the functions that may be called.
static struct grammar_spec any_call(struct seq *s, const struct json *tools)
{
    struct seq any = begin(s);
    for (size_t i = 0; i < tools->arr.n; i++) {
        const struct json *f = json_get(&tools->arr.items[i], "function");
        const struct json *name = json_get(f, "name");
        if (!name || name->kind != J_STR) continue;
        if (s->ask->name && !json_is(name, s->ask->name)) continue;
        struct seq one = begin(s);
        add_call(&one, f, name->str.s);
        add(&any, end(&any, &one, GRAMMAR_SEQ));
    }
    return end(s, &any, GRAMMAR_ANY);
}

// -- the turn --

static void add_more(struct seq *s, const struct grammar_spec *call, const char *between)
{
    struct seq again = begin(s);
    add_word(&again, between);
    add(&again, *call);
    struct grammar_spec *one = arena_take(s->a, sizeof *one);
    s->broken |= !one;
    if (!one) return;
    *one = end(s, &again, GRAMMAR_SEQ);
    add(s, (struct grammar_spec){.kind = GRAMMAR_REPEAT, .parts = one, .n_part = 1});
}

static void add_calls(struct seq *s, const struct json *tools)
{
    const struct turn_format *t = s->ask->format;
    const bool in_list = t->name_kind == TURN_NAME_IN_JSON && !t->call_close && !t->bare;
    const bool alone = s->ask->one_call || t->bare || t->name_kind == TURN_NAME_HEADER;
    const struct grammar_spec call = any_call(s, tools);
    if (t->open) {
        add_word(s, t->open);
        if (t->args == TURN_ARGS_TAGS) add_word(s, "\n");
    }
    if (in_list) {
        add_word(s, t->call_open);
        add_word(s, "[");
    }
    add(s, call);
    // Where the mark around calls holds one call each, a second one is a second mark.
    const bool each_marked = t->open && t->value_lines;
    if (!alone && !each_marked)
        add_more(s, &call, in_list ? ", " : t->open || t->call_close ? "\n" : "");
    if (t->open) {
        if (t->args == TURN_ARGS_TAGS) add_word(s, "\n");
        add_word(s, t->close);
    }
    if (in_list) add_word(s, "]");
}

static void add_thoughts(struct seq *s, const struct grammar_spec *calls)
{
    static const char space[] = "\\s{0,4}";
    const struct turn_format *t = s->ask->format;
    const struct grammar_spec gap = {.kind = GRAMMAR_REGEX, .text = space, .len = sizeof space - 1};
    if (!t->think_open) {
        add(s, *calls);
        return;
    }
    struct seq thinks = begin(s), any = begin(s);
    if (!s->ask->is_thinking) add_word(&thinks, t->think_open);
    add_until(&thinks, t->think_close);
    add(&thinks, gap);
    add(&thinks, *calls);
    add(&any, end(s, &thinks, GRAMMAR_SEQ));
    if (!s->ask->is_thinking) add(&any, *calls);
    add(s, end(s, &any, GRAMMAR_ANY));
}

err_t turn_grammar(const struct turn_ask *ask, struct arena *a, const struct grammar_spec **out,
                   struct err_text *why)
{
    struct seq turn = {.ask = ask, .a = a}, calls = turn;
    add_calls(&calls, ask->tools);
    const struct grammar_spec all = end(&turn, &calls, GRAMMAR_SEQ);
    add_thoughts(&turn, &all);
    struct grammar_spec *spec = arena_take(a, sizeof *spec);
    if (turn.broken || !spec) return err_say(why, ERR_MEMORY, "no memory for a grammar of calls");
    *spec = (struct grammar_spec){.kind = GRAMMAR_SEQ, .parts = turn.parts, .n_part = turn.n};
    *out = spec;
    return OK;
}
