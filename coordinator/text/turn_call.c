#include "coordinator/text/turn_priv.h"

#include <stdlib.h>
#include <string.h>

// What comes next in an object, or between tags.
enum { OBJECT_OPEN, OBJECT_KEY, OBJECT_COLON, OBJECT_BEFORE, OBJECT_VALUE, OBJECT_COMMA };
enum { TAG_KEY, TAG_OPEN, TAG_FIRST, TAG_VALUE };
enum { MEMBER_OTHER, MEMBER_NAME, MEMBER_ARGS };

// -- calls --

static const struct json *function_of(const struct turn *t, const char *name, size_t len)
{
    const struct json *tools = t->config.tools;
    for (size_t i = 0; tools && tools->kind == J_ARR && i < tools->arr.n; i++) {
        const struct json *f = json_get(&tools->arr.items[i], "function");
        if (!f) f = &tools->arr.items[i];
        const struct json *n = json_get(f, "name");
        if (n && n->kind == J_STR && n->str.len == len && !memcmp(n->str.s, name, len)) return f;
    }
    return NULL;
}

static bool is_tool(const struct turn *t, const char *name, size_t len)
{
    return function_of(t, name, len);
}

void turn_call_begin(struct turn *t)
{
    buf_clear(&t->raw);
    buf_clear(&t->given);
    buf_clear(&t->word);
    buf_clear(&t->early);
    t->value = (struct turn_value){0};
    t->is_named = t->in_list = false;
    t->expect = 0;
}

void turn_call_name(struct turn *t, const char *s, size_t len)
{
    const struct json *f = function_of(t, s, len);
    const struct json *schema = json_get(f, "parameters");
    t->properties = json_get(schema ? schema : json_get(f, "input_schema"), "properties");
    t->is_named = true;
    t->is_fresh = false;
    buf_clear(&t->space);
    buf_clear(&t->raw);
    buf_clear(&t->given);
    turn_give(t, TURN_CALL, s, len);
}

void turn_call_arguments(struct turn *t, const char *s, size_t len)
{
    buf_add(&t->given, s, len);
    turn_give(t, TURN_ARGUMENTS, s, len);
}

static bool is_object(const struct buf *text)
{
    struct arena a;
    arena_init(&a, 64 * (text->len + 1024));
    const struct json *j;
    const bool ok = json_read(text->data, text->len, &a, &j, NULL, NULL) == OK && j->kind == J_OBJ;
    arena_fini(&a);
    return ok;
}

static void over(struct turn *t)
{
    turn_give(t, TURN_CALL_END, "", 0);
    t->n_call++;
    t->is_named = false;
    buf_clear(&t->raw);
}

void turn_call_done(struct turn *t)
{
    if (!t->given.len) turn_call_arguments(t, "{}", 2);
    t->n_garbled += !is_object(&t->given);
    over(t);
}

// What began like a call is none: text again, as far as its name was not given away.
static void garbled(struct turn *t)
{
    t->n_garbled++;
    if (t->is_named) over(t); // its name was given away: a call with the arguments so far
    t->state = TURN_IN_TEXT;
    t->in_section = t->in_list = t->is_fresh = false;
    turn_give_text(t, t->raw.data, t->raw.len);
    buf_clear(&t->raw);
}

// Behind a call's arguments.
static bool finish(struct turn *t)
{
    turn_call_done(t);
    t->state = t->in_list ? TURN_BEFORE_CALL : TURN_AFTER_ARGS;
    return true;
}

static bool begins(const struct turn *t, const char *mark)
{
    return mark && turn_left(t) >= strlen(mark) && !memcmp(turn_here(t), mark, strlen(mark));
}

// What is held is too short to tell.
static bool may_begin(const struct turn *t, const char *mark)
{
    return mark && !t->is_ending && turn_left(t) < strlen(mark) &&
           !memcmp(turn_here(t), mark, turn_left(t));
}

// -- calls in Python's way --

static bool is_name_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '.' || c == '-';
}

static size_t name_len(const char *s, size_t len)
{
    size_t n = 0;
    while (n < len && is_name_byte(s[n]))
        n++;
    return n;
}

static size_t skip(const char *s, size_t len, size_t at, char mark)
{
    while (at < len && (turn_is_space(s[at]) || s[at] == mark))
        at++;
    return at;
}

// key=value, .. up to and with the bracket that closes; 0: it is none of that.
static size_t keywords(const char *s, size_t len, struct buf *out)
{
    size_t at = skip(s, len, 0, ' ');
    buf_char(out, '{');
    for (bool first = true; at < len && s[at] != ')'; first = false) {
        const size_t n = name_len(s + at, len - at);
        size_t value = skip(s, len, at + n, ' ');
        if (!n || value >= len || s[value] != '=') return 0;
        if (!first) buf_char(out, ',');
        buf_json_str(out, s + at, n);
        buf_char(out, ':');
        value++;
        const size_t took = turn_value_literal(TURN_WORDS_PYTHON, s + value, len - value, out);
        if (!took) return 0;
        at = skip(s, len, value + took, ',');
    }
    buf_char(out, '}');
    return at < len ? at + 1 : 0;
}

// The calls in [..]; without `tell` only whether they are such.
static bool python_calls(struct turn *t, bool tell)
{
    const char *s = t->word.data;
    const size_t len = t->word.len;
    struct buf args = {0};
    bool ok = true, any = false;
    size_t at = skip(s, len, 1, ',');
    while (ok && at < len && s[at] != ']') {
        const size_t n = name_len(s + at, len - at);
        const size_t open = at + n;
        buf_clear(&args);
        ok = n && n <= TURN_NAME_MAX && open < len && s[open] == '(';
        const size_t took = ok ? keywords(s + open + 1, len - open - 1, &args) : 0;
        ok = took && buf_ok(&args) && (any || is_tool(t, s + at, n) || !t->is_fresh);
        if (ok && tell) {
            turn_call_name(t, s + at, n);
            turn_call_arguments(t, args.data, args.len);
            turn_call_done(t);
        }
        any = true;
        if (ok) at = skip(s, len, open + 1 + took, ',');
    }
    buf_fini(&args);
    return ok && any && at < len;
}

static bool in_python(struct turn *t)
{
    if (!turn_left(t)) return false;
    if (!t->word.len && *turn_here(t) != '[') {
        garbled(t);
        return true;
    }
    t->value.has_quotes = true;
    const size_t n =
        turn_value_scan(&t->value, turn_here(t), turn_room(t, &t->word, TURN_WHOLE_MAX));
    buf_add(&t->word, turn_here(t), n);
    turn_eat(t, n);
    if (!t->value.is_over && t->word.len <= TURN_WHOLE_MAX) return false;
    if (!t->value.is_over || !python_calls(t, false)) {
        garbled(t);
        return true;
    }
    python_calls(t, true);
    t->state = TURN_AFTER_ARGS;
    return true;
}

// -- calls as objects --

static bool word_is(const struct turn *t, const char *name)
{
    return t->word.len == strlen(name) + 2 && !memcmp(t->word.data + 1, name, strlen(name));
}

// The text of a JSON string.
static bool decode(const struct buf *word, struct buf *out)
{
    struct arena a;
    arena_init(&a, 16 * (word->len + 1024));
    const struct json *j;
    const bool ok = json_read(word->data, word->len, &a, &j, NULL, NULL) == OK && j->kind == J_STR;
    if (ok) buf_add(out, j->str.s, j->str.len);
    arena_fini(&a);
    return ok && buf_ok(out);
}

static bool object_key(struct turn *t)
{
    const char c = *turn_here(t);
    if (!t->value.is_begun && c == '}') {
        turn_eat(t, 1);
        if (t->is_named) return finish(t);
        garbled(t);
        return true;
    }
    if (!t->value.is_begun && c != '"') {
        garbled(t);
        return true;
    }
    const size_t n =
        turn_value_scan(&t->value, turn_here(t), turn_room(t, &t->word, TURN_NAME_MAX));
    buf_add(&t->word, turn_here(t), n);
    turn_eat(t, n);
    if (t->word.len > TURN_NAME_MAX) {
        garbled(t);
        return true;
    }
    if (!t->value.is_over) return false;
    t->member = MEMBER_OTHER;
    if (word_is(t, "name")) t->member = MEMBER_NAME;
    if (word_is(t, "arguments") || word_is(t, "parameters")) t->member = MEMBER_ARGS;
    t->expect = OBJECT_COLON;
    return true;
}

static bool value_over(struct turn *t)
{
    bool ok = true;
    struct buf text = {0};
    t->expect = OBJECT_COMMA;
    if (t->member == MEMBER_NAME && !t->is_named) {
        ok = decode(&t->word, &text) && text.len && text.len <= TURN_NAME_MAX;
        // Without a mark only a function that there is makes a call of it.
        if (ok && t->config.format->bare) ok = is_tool(t, text.data, text.len);
        if (ok) turn_call_name(t, text.data, text.len);
        if (ok && t->early.len) turn_call_arguments(t, t->early.data, t->early.len);
        buf_clear(&t->early);
    } else if (t->member == MEMBER_ARGS && t->is_string) {
        ok = decode(&t->early, &text); // an object as text
        buf_clear(&t->early);
        if (ok && t->is_named)
            turn_call_arguments(t, text.data, text.len);
        else
            buf_add(&t->early, text.data, text.len);
    }
    buf_fini(&text);
    if (!ok) garbled(t);
    return true;
}

static bool object_value(struct turn *t)
{
    const char *s = turn_here(t);
    if (!t->value.is_begun) t->is_string = *s == '"';
    const struct buf *into = t->member == MEMBER_NAME ? &t->word : &t->early;
    const size_t most = t->member == MEMBER_NAME ? TURN_NAME_MAX : TURN_WHOLE_MAX;
    const size_t n = turn_value_scan(&t->value, s, turn_room(t, into, most));
    if (t->member == MEMBER_NAME) buf_add(&t->word, s, n);
    if (t->member == MEMBER_ARGS && t->is_named && !t->is_string)
        turn_call_arguments(t, s, n);
    else if (t->member == MEMBER_ARGS)
        buf_add(&t->early, s, n);
    turn_eat(t, n);
    if (t->word.len > TURN_NAME_MAX || t->early.len > TURN_WHOLE_MAX) {
        garbled(t);
        return true;
    }
    return t->value.is_over ? value_over(t) : false;
}

static bool in_object(struct turn *t)
{
    const bool is_inside =
        (t->expect == OBJECT_KEY || t->expect == OBJECT_VALUE) && t->value.is_begun;
    if (!is_inside) turn_eat_space(t);
    if (!turn_left(t)) return false;
    const char c = *turn_here(t);
    switch (t->expect) {
    case OBJECT_KEY:
        return object_key(t);
    case OBJECT_VALUE:
        return object_value(t);
    case OBJECT_OPEN:
    case OBJECT_COLON:
        if (c == (t->expect == OBJECT_OPEN ? '{' : ':')) {
            t->expect = t->expect == OBJECT_OPEN ? OBJECT_KEY : OBJECT_VALUE;
            break;
        }
        garbled(t);
        return true;
    default:
        if (c == '}') {
            t->expect = OBJECT_KEY;
            t->value = (struct turn_value){0};
            return true;
        }
        t->expect = OBJECT_KEY;
        if (c == ',') break;
        if (t->is_named) return finish(t); // the model forgot how it goes on
        garbled(t);
        return true;
    }
    turn_eat(t, 1);
    t->value = (struct turn_value){0};
    buf_clear(&t->word);
    return true;
}

// -- before and behind calls --

static bool before_call(struct turn *t)
{
    const struct turn_format *f = t->config.format;
    if (f->name_kind == TURN_NAME_PYTHON) return in_python(t);
    turn_eat_space(t);
    if (!turn_left(t)) return false;
    const char c = *turn_here(t);
    if (t->in_section && begins(t, f->call_open)) {
        turn_eat(t, strlen(f->call_open));
        t->state = TURN_IN_NAME;
        return true;
    }
    if (t->in_section && begins(t, f->close)) {
        t->at += strlen(f->close);
        t->in_section = false;
        t->state = TURN_IN_TEXT;
        return true;
    }
    if (t->in_section && (may_begin(t, f->call_open) || may_begin(t, f->close))) return false;
    if (c == '{') {
        buf_clear(&t->early); // of the object before
        t->expect = OBJECT_OPEN;
        t->state = TURN_IN_OBJECT;
        return true;
    }
    if (c == '[' && !t->in_list && !t->in_section) {
        t->in_list = true;
    } else if (t->in_list && c == ']') {
        t->in_list = false;
        t->state = TURN_AFTER_ARGS;
    } else if (!t->in_list || c != ',') {
        garbled(t);
        return true;
    }
    turn_eat(t, 1);
    return true;
}

static bool in_name(struct turn *t)
{
    const struct turn_format *f = t->config.format;
    turn_eat_space(t);
    if (!turn_left(t)) return false;
    if (may_begin(t, f->name_open)) return false;
    if (begins(t, f->name_open)) {
        turn_eat(t, strlen(f->name_open));
        return true;
    }
    if (*turn_here(t) == '[' || *turn_here(t) == '{') { // as objects after all
        t->state = TURN_BEFORE_CALL;
        return true;
    }
    const char *const ends[] = {f->name_close, "[CALL_ID]", f->key_open, f->call_close,
                                f->args == TURN_ARGS_JSON ? "{" : NULL};
    struct turn_hit h = turn_find(t, ends, 5);
    if (h.mark < 0 && turn_left(t) <= TURN_NAME_MAX) return false;
    const char *s = turn_here(t);
    size_t n = h.at;
    while (n && turn_is_space(s[n - 1]))
        n--;
    if (h.mark < 0 || n == 0 || n > TURN_NAME_MAX || name_len(s, n) < n) {
        garbled(t);
        return true;
    }
    turn_call_name(t, s, n);
    turn_eat(t, h.mark == 0 ? h.at + h.len : h.at);
    t->state = f->args == TURN_ARGS_JSON ? TURN_BEFORE_ARGS : TURN_IN_ARGS;
    t->value = (struct turn_value){0};
    return true;
}

static bool before_args(struct turn *t)
{
    const char *const marks[] = {"{", t->config.format->call_close};
    struct turn_hit h = turn_find(t, marks, 2);
    if (h.mark < 0 && turn_left(t) <= TURN_GAP_MAX) return false;
    if (h.mark || h.at > TURN_GAP_MAX) return finish(t); // a call without arguments
    turn_eat(t, h.at);
    t->state = TURN_IN_ARGS;
    return true;
}

static bool after_args(struct turn *t)
{
    const struct turn_format *f = t->config.format;
    const char *close = f->call_close;
    turn_eat_space(t);
    if (!turn_left(t)) return false;
    if (close && (may_begin(t, close) || may_begin(t, "```"))) return false;
    if (close && begins(t, "```")) {
        turn_eat(t, 3);
        return true;
    }
    if (begins(t, close)) t->at += strlen(close);
    t->state = t->in_section ? TURN_BEFORE_CALL : TURN_IN_TEXT;
    t->is_fresh = f->bare;
    buf_clear(&t->raw);
    return true;
}

// -- arguments --

static bool json_args(struct turn *t)
{
    const size_t n = turn_value_scan(&t->value, turn_here(t), turn_left(t));
    turn_call_arguments(t, turn_here(t), n);
    turn_eat(t, n);
    return t->value.is_over ? finish(t) : false;
}

static bool brace_args(struct turn *t)
{
    const char *const close[] = {t->config.format->call_close};
    struct turn_hit h = turn_find(t, close, 1);
    const size_t room = turn_room(t, &t->word, TURN_WHOLE_MAX), n = h.at < room ? h.at : room;
    buf_add(&t->word, turn_here(t), n);
    turn_eat(t, n);
    if (h.mark < 0 && t->word.len <= TURN_WHOLE_MAX) return false;
    struct buf text = {0}, json = {0};
    buf_char(&text, '{');
    buf_add(&text, t->word.data, t->word.len);
    const bool ok = turn_value_literal(TURN_WORDS_BRACES, text.data, text.len, &json);
    const struct buf *given = ok ? &json : &text;
    turn_call_arguments(t, given->data, given->len);
    buf_fini(&text);
    buf_fini(&json);
    return finish(t);
}

static bool tag_args(struct turn *t)
{
    const struct turn_format *f = t->config.format;
    const char *const marks[] = {f->key_open, f->call_close, f->close};
    struct turn_hit h = turn_find(t, marks, 3);
    turn_eat(t, h.at);
    if (h.mark < 0) return false;
    if (h.mark == 0) {
        turn_eat(t, h.len);
        t->expect = TAG_KEY;
        t->state = TURN_IN_VALUE;
        return true;
    }
    if (t->given.len) turn_call_arguments(t, "}", 1);
    return finish(t);
}

static bool tag_key(struct turn *t)
{
    const struct turn_format *f = t->config.format;
    const char *const close[] = {f->key_close};
    struct turn_hit h = turn_find(t, close, 1);
    if (h.mark < 0 && turn_left(t) <= TURN_NAME_MAX) return false;
    if (h.mark < 0 || h.at > TURN_NAME_MAX) { // no key: what stands there is passed over
        t->state = TURN_IN_ARGS;
        return true;
    }
    struct buf key = {0};
    buf_str(&key, t->given.len ? "," : "{");
    buf_json_str(&key, turn_here(t), h.at);
    buf_char(&key, ':');
    char *name = strndup(turn_here(t), h.at);
    const struct json *schema = name ? json_get(t->properties, name) : NULL;
    t->is_string = turn_value_is_string(schema);
    free(name);
    if (t->is_string) buf_char(&key, '"');
    turn_call_arguments(t, key.data, key.len);
    buf_fini(&key);
    t->schema = schema;
    buf_clear(&t->word);
    turn_eat(t, h.at + h.len);
    t->expect = f->value_open ? TAG_OPEN : TAG_FIRST;
    return true;
}

static bool tag_open(struct turn *t)
{
    const char *const open[] = {t->config.format->value_open};
    struct turn_hit h = turn_find(t, open, 1);
    if (h.mark < 0 && turn_left(t) <= TURN_GAP_MAX) return false;
    if (h.mark == 0 && h.at <= TURN_GAP_MAX) turn_eat(t, h.at + h.len);
    t->expect = TAG_FIRST;
    return true;
}

static void value_text(struct turn *t, const char *s, size_t len)
{
    if (!t->is_string) {
        buf_add(&t->word, s, len);
        return;
    }
    struct buf out = {0};
    turn_value_escape(&out, s, len);
    turn_call_arguments(t, out.data, out.len);
    buf_fini(&out);
}

static bool tag_value(struct turn *t)
{
    const struct turn_format *f = t->config.format;
    const char *const marks[] = {f->value_close, f->call_close};
    struct turn_hit h = turn_find(t, marks, 2);
    size_t n = h.at;
    if (f->value_lines && n && turn_here(t)[n - 1] == '\n') n--;
    value_text(t, turn_here(t), n);
    if (h.mark < 0) {
        turn_eat(t, n); // a line's end may be the last one
        return false;
    }
    turn_eat(t, h.mark == 0 ? h.at + h.len : h.at);
    struct buf out = {0};
    if (t->is_string)
        buf_char(&out, '"');
    else
        turn_value_typed(t->schema, t->word.data, t->word.len, &out);
    turn_call_arguments(t, out.data, out.len);
    buf_fini(&out);
    t->state = TURN_IN_ARGS;
    return true;
}

static bool in_value(struct turn *t)
{
    if (!turn_left(t)) return false;
    switch (t->expect) {
    case TAG_KEY:
        return tag_key(t);
    case TAG_OPEN:
        return tag_open(t);
    case TAG_FIRST:
        if (t->config.format->value_lines && *turn_here(t) == '\n') turn_eat(t, 1);
        t->expect = TAG_VALUE;
        return true;
    default:
        return tag_value(t);
    }
}

static bool in_args(struct turn *t)
{
    if (!turn_left(t)) return false;
    switch (t->config.format->args) {
    case TURN_ARGS_TAGS:
        return tag_args(t);
    case TURN_ARGS_BRACES:
        return brace_args(t);
    default:
        return json_args(t);
    }
}

bool turn_call_step(struct turn *t)
{
    switch (t->state) {
    case TURN_BEFORE_CALL:
        return before_call(t);
    case TURN_IN_OBJECT:
        return in_object(t);
    case TURN_IN_NAME:
        return in_name(t);
    case TURN_BEFORE_ARGS:
        return before_args(t);
    case TURN_IN_ARGS:
        return in_args(t);
    case TURN_IN_VALUE:
        return in_value(t);
    default:
        return after_args(t);
    }
}

void turn_call_end(struct turn *t)
{
    if (t->is_named) { // the arguments stay as far as they came
        t->n_garbled += !is_object(&t->given);
        over(t);
        t->at = t->held.len;
        t->state = TURN_AFTER_ARGS;
        return;
    }
    const bool is_behind = t->state == TURN_AFTER_ARGS || t->n_call;
    if (is_behind && t->state <= TURN_BEFORE_CALL) {
        t->state = TURN_IN_TEXT; // the mark that closes all calls is missing
        buf_clear(&t->raw);
        return;
    }
    if (t->state == TURN_AFTER_ARGS) {
        t->state = TURN_IN_TEXT;
        return;
    }
    garbled(t);
}
