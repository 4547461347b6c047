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

static bool is_strict(const struct json *f)
{
    const struct json *strict = json_get(f, "strict");
    return strict && strict->kind == J_BOOL && strict->b;
}

// The schema can be kept to; of strict functions it must be, and the whole will say if it cannot.
static bool can_keep(const struct seq *s, const struct json *f, const struct grammar_spec *spec)
{
    struct grammar *g;
    if (is_strict(f)) return true;
    if (grammar_open(s->ask->book, spec, &g, NULL) != OK) return false;
    grammar_give(g);
    return true;
}

static void add_object(struct seq *s, const struct json *f)
{
    const struct json *p = parameters(f);
    struct grammar_spec spec = {.kind = GRAMMAR_SCHEMA, .json = p};
    const bool says = json_get(p, "type") || json_get(p, "properties") || json_get(p, "$ref");
    if (!says || !can_keep(s, f, &spec)) spec = (struct grammar_spec){.kind = GRAMMAR_OBJECT};
    add(s, spec);
}

// A schema, or if it cannot be kept to: its type, if it has one; or anything.
static struct grammar_spec value_of(struct seq *s, const struct json *f, const struct json *schema)
{
    static const struct json any = {.kind = J_BOOL, .b = true};
    const struct json *type = json_get(schema, "type");
    struct grammar_spec spec = {.kind = GRAMMAR_SCHEMA, .json = schema, .root = parameters(f)};
    if (can_keep(s, f, &spec)) return spec;
    struct json *bare = arena_take(s->a, sizeof *bare);
    struct json_member *m = arena_take(s->a, sizeof *m);
    spec = (struct grammar_spec){.kind = GRAMMAR_SCHEMA, .json = &any};
    if (!type || !bare || !m) return spec;
    *m = (struct json_member){.key = "type", .key_len = 4, .value = *type};
    *bare = (struct json){.kind = J_OBJ, .obj = {.members = m, .n = 1}};
    const struct grammar_spec typed = {.kind = GRAMMAR_SCHEMA, .json = bare};
    return can_keep(s, f, &typed) ? typed : spec;
}

// What a reference of the usual kind leads to; the schema itself if it is none.
static const struct json *target_of(const struct json *f, const struct json *schema)
{
    static const char *const places[] = {"$defs", "definitions"};
    const struct json *ref = json_get(schema, "$ref");
    for (int i = 0; i < 2 && ref && ref->kind == J_STR; i++) {
        const struct json *list = json_get(parameters(f), places[i]);
        const size_t len = strlen(places[i]);
        const char *s = ref->str.s;
        if (!strncmp(s, "#/", 2) && !strncmp(s + 2, places[i], len) && s[2 + len] == '/')
            return json_get(list, s + len + 3);
    }
    return schema;
}

// A value as JSON writes it, where it is never text. False: it may be.
static bool add_value(struct seq *s, const struct json *f, const struct json *schema)
{
    static const char *const types[] = {"integer", "number", "boolean", "array", "object"};
    const struct json *type = json_get(target_of(f, schema), "type");
    bool is_typed = false;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        is_typed |= json_is(type, types[i]);
    if (is_typed) add(s, value_of(s, f, schema));
    return is_typed;
}

// -- arguments between tags --

static bool is_required(const struct json *schema, const char *name)
{
    const struct json *list = json_get(schema, "required");
    for (size_t i = 0; list && list->kind == J_ARR && i < list->arr.n; i++)
        if (json_is(&list->arr.items[i], name)) return true;
    return false;
}

static void add_tag(struct seq *s, const struct json *fn, const struct json_member *m)
{
    const struct turn_format *f = s->ask->format;
    const struct json *values = json_get(&m->value, "enum");
    const bool is_string = json_is(json_get(&m->value, "type"), "string");
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
    if (is_string && values && values->kind == J_ARR) {
        struct seq any = begin(s);
        for (size_t i = 0; i < values->arr.n; i++)
            if (values->arr.items[i].kind == J_STR)
                add(&any, (struct grammar_spec){.kind = GRAMMAR_LITERAL,
                                                .text = values->arr.items[i].str.s,
                                                .len = values->arr.items[i].str.len});
        add(s, end(s, &any, GRAMMAR_ANY));
        add_word(s, close);
    } else if (add_value(s, fn, &m->value)) {
        add_word(s, close);
    } else {
        add_until(s, close);
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
        add_tag(&one, f, m);
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

// -- arguments as Python writes them --

static void add_keyword(struct seq *s, const struct json *f, const struct json_member *m)
{
    add_word(s, m->key);
    add_word(s, "=");
    add(s, value_of(s, f, &m->value));
}

// Those that are required, and then the others, each of which may be left out.
static void add_keywords(struct seq *s, const struct json *f)
{
    const struct json *p = parameters(f), *list = json_get(p, "properties");
    bool any = false;
    for (int round = 0; round < 2; round++)
        for (size_t i = 0; list && list->kind == J_OBJ && i < list->obj.n; i++) {
            const struct json_member *m = &list->obj.members[i];
            if (is_required(p, m->key) != (round == 0)) continue;
            struct seq one = begin(s);
            if (any) add_word(&one, ", ");
            add_keyword(&one, f, m);
            // With nothing before it for certain, the comma stands behind.
            if (!any && round == 1) add_word(&one, ", ");
            const struct grammar_spec pair = end(s, &one, GRAMMAR_SEQ);
            any |= round == 0;
            if (round == 0) {
                add(s, pair);
                continue;
            }
            struct seq maybe = begin(s);
            add(&maybe, pair);
            add(&maybe, (struct grammar_spec){.kind = GRAMMAR_SEQ});
            add(s, end(s, &maybe, GRAMMAR_ANY));
        }
}

// -- one call --

// `is_open`: the mark that begins the call is there already.
static void add_named_call(struct seq *s, const struct json *f, const char *name, bool is_open)
{
    const struct turn_format *t = s->ask->format;
    if (!is_open) add_word(s, t->call_open);
    add_word(s, t->name_open);
    add_word(s, name);
    if (t->args == TURN_ARGS_BRACES) { // the brace that ends the name begins the object
        add_object(s, f);
        add_word(s, t->call_close);
        return;
    }
    add_word(s, t->name_close);
    add_word(s, t->args_open);
    if (t->args == TURN_ARGS_TAGS) {
        if (strcmp(t->name_close, "\n")) add_word(s, "\n");
        add_tags(s, f);
    } else {
        add_object(s, f);
        if (t->args_open && strncmp(t->args_open, "```", 3) == 0) add_word(s, "\n```");
    }
    add_word(s, t->call_close);
}

static void add_call(struct seq *s, const struct json *f, const char *name, bool is_open)
{
    const struct turn_format *t = s->ask->format;
    const bool is_marked = !t->bare && t->call_close;
    const char *line = is_marked ? "\n" : "";
    char *head = NULL;
    switch (t->name_kind) {
    case TURN_NAME_HEADER:
        head = arena_printf(
            s->a, "<|channel|>commentary to=functions.%s <|constrain|>json<|message|>", name);
        break;
    case TURN_NAME_PYTHON:
        head = arena_printf(s->a, "%s(", name);
        break;
    case TURN_NAME_IN_JSON:
        head = arena_printf(
            s->a, "%s%s{\"name\": \"%s\", \"%s\": ", is_marked && !is_open ? t->call_open : "",
            line, name, t->bare ? "parameters" : "arguments");
        break;
    default:
        add_named_call(s, f, name, is_open);
        return;
    }
    if (!head) s->broken = true;
    if (!head) return;
    add_word(s, head);
    if (t->name_kind == TURN_NAME_PYTHON) {
        add_keywords(s, f);
        add_word(s, ")");
        return;
    }
    add_object(s, f);
    if (t->name_kind == TURN_NAME_HEADER) return; // the call ends with the message
    add_word(s, "}");
    if (is_marked) {
        add_word(s, line);
        add_word(s, t->call_close);
    }
}

// Any of the functions that may be called.
static struct grammar_spec any_call(struct seq *s, const struct json *tools, bool is_open)
{
    struct seq any = begin(s);
    for (size_t i = 0; i < tools->arr.n; i++) {
        const struct json *f = json_get(&tools->arr.items[i], "function");
        const struct json *name = json_get(f, "name");
        if (!name || name->kind != J_STR) continue;
        if (s->ask->name && !json_is(name, s->ask->name)) continue;
        struct seq one = begin(s);
        add_call(&one, f, name->str.s, is_open);
        add(&any, end(&any, &one, GRAMMAR_SEQ));
    }
    return end(s, &any, GRAMMAR_ANY);
}

// -- the turn --

enum { MORE_CALLS_MAX = 15 }; // small models go on for ever

static void add_more(struct seq *s, const struct grammar_spec *call, const char *between)
{
    struct seq again = begin(s);
    add_word(&again, between);
    add(&again, *call);
    struct grammar_spec *one = arena_take(s->a, sizeof *one);
    s->broken |= !one;
    if (!one) return;
    *one = end(s, &again, GRAMMAR_SEQ);
    add(s, (struct grammar_spec){
               .kind = GRAMMAR_REPEAT, .parts = one, .n_part = 1, .max = MORE_CALLS_MAX});
}

// Whether calls stand in brackets, and whether the mark around calls holds one call each.
static bool in_brackets(const struct turn_format *t)
{
    return t->name_kind == TURN_NAME_PYTHON ||
           (t->name_kind == TURN_NAME_IN_JSON && !t->call_close && !t->bare);
}

// What begins a call, or all of them, for certain; NULL: nothing does.
static const char *first_mark(const struct turn_format *t)
{
    if (t->bare || t->name_kind == TURN_NAME_HEADER) return NULL;
    return t->open ? t->open : t->call_open;
}

// `is_open`: the first mark is there already.
static void add_calls(struct seq *s, const struct json *tools, bool is_open)
{
    const struct turn_format *t = s->ask->format;
    const bool brackets = in_brackets(t);
    const bool each_marked = t->open && t->value_lines;
    const bool alone = s->ask->one_call || each_marked || t->name_kind == TURN_NAME_HEADER ||
                       (t->bare && !brackets);
    const bool mark_is_calls = !t->open && !brackets;
    const struct grammar_spec first = any_call(s, tools, is_open && mark_is_calls);
    if (t->open && !is_open) add_word(s, t->open);
    if (t->open && t->args == TURN_ARGS_TAGS) add_word(s, "\n");
    if (brackets) {
        if (!t->bare && !is_open) add_word(s, t->call_open);
        add_word(s, "[");
    }
    add(s, first);
    if (!alone) {
        const struct grammar_spec call = any_call(s, tools, false);
        add_more(s, &call, brackets ? ", " : t->open || t->call_close ? "\n" : "");
    }
    if (t->open) {
        if (t->args == TURN_ARGS_TAGS) add_word(s, "\n");
        add_word(s, t->close);
    }
    if (brackets) add_word(s, "]");
    if (brackets && !t->bare) add_word(s, t->call_close);
}

// The model has a token for the mark, so it may think; others would only spell it by chance.
static bool can_think(const struct seq *s)
{
    struct ids ids = {0};
    const char *mark = s->ask->format->think_open;
    const struct tokenizer *t = s->ask->tokenizer;
    size_t n = 1;
    if (!mark) return false;
    bool can = tokenizer_encode(t, mark, strlen(mark), TOKENIZER_SPECIAL, NULL, 0, 64, &ids) == OK;
    if (can && ids.n) tokenizer_piece(t, ids.at[0], false, &n);
    can = can && (ids.n == 1 || n == 0);
    ids_fini(&ids);
    return can;
}

// Thoughts, then `rest`.
static void add_thoughts(struct seq *s, const char *open, const char *close, const char *behind,
                         const struct grammar_spec *rest)
{
    static const char space[] = "[ \\n]{0,4}";
    struct seq thinks = begin(s);
    add_word(&thinks, open);
    add_until(&thinks, close);
    add_word(&thinks, behind);
    if (!behind)
        add(&thinks,
            (struct grammar_spec){.kind = GRAMMAR_REGEX, .text = space, .len = sizeof space - 1});
    add(&thinks, *rest);
    add(s, end(s, &thinks, GRAMMAR_SEQ));
}

static void add_turn(struct seq *s, const struct grammar_spec *rest)
{
    const struct turn_format *t = s->ask->format;
    struct seq any = begin(s);
    if (t->name_kind == TURN_NAME_HEADER)
        add_thoughts(&any, "<|channel|>analysis<|message|>", "<|end|>", "<|start|>assistant", rest);
    else if (s->ask->is_thinking || can_think(s))
        add_thoughts(&any, s->ask->is_thinking ? NULL : t->think_open, t->think_close, NULL, rest);
    if (!s->ask->is_thinking) add(&any, *rest);
    add(s, end(s, &any, GRAMMAR_ANY));
}

// Any text without a call's mark, or up to the first one and then calls. The mark in thoughts
// counts too: models do not write it there.
static bool add_free(struct seq *s)
{
    const char *mark = first_mark(s->ask->format);
    struct seq until = begin(s), calls = begin(s), any = begin(s);
    if (!mark) return false;
    add_until(&until, mark);
    s->broken |= until.broken;
    if (until.n != 1) return true;
    struct grammar_spec without = until.parts[0];
    without.kind = GRAMMAR_WITHOUT;
    add(&any, without);
    add(&calls, until.parts[0]);
    add_calls(&calls, s->ask->tools, true);
    add(&any, end(&any, &calls, GRAMMAR_SEQ));
    add(s, end(s, &any, GRAMMAR_ANY));
    return true;
}

err_t turn_grammar(const struct turn_ask *ask, struct arena *a, const struct grammar_spec **out,
                   struct err_text *why)
{
    struct seq turn = {.ask = ask, .a = a}, any = turn;
    if (ask->free_text) {
        if (!add_free(&turn)) {
            *out = NULL;
            return OK;
        }
    } else {
        if (ask->tools) {
            struct seq calls = begin(&turn);
            add_calls(&calls, ask->tools, false);
            add(&any, end(&any, &calls, GRAMMAR_SEQ));
        }
        if (ask->answer) {
            struct seq answer = begin(&turn);
            if (ask->format->name_kind == TURN_NAME_HEADER)
                add_word(&answer, "<|channel|>final<|message|>");
            add(&answer, *ask->answer);
            add(&any, end(&any, &answer, GRAMMAR_SEQ));
        }
        const struct grammar_spec all = end(&turn, &any, GRAMMAR_ANY);
        add_turn(&turn, &all);
    }
    struct grammar_spec *spec = arena_take(a, sizeof *spec);
    if (turn.broken || !spec) return err_say(why, ERR_MEMORY, "no memory for a grammar of calls");
    *spec = (struct grammar_spec){.kind = GRAMMAR_SEQ, .parts = turn.parts, .n_part = turn.n};
    *out = spec;
    return OK;
}
