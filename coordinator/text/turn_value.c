#include "coordinator/text/turn_priv.h"

#include <string.h>

size_t turn_value_scan(struct turn_value *v, const char *s, size_t len)
{
    size_t i = 0;
    for (; i < len && !v->is_over; i++) {
        const char c = s[i];
        if (v->quote) {
            if (v->is_escaped)
                v->is_escaped = false;
            else if (c == '\\')
                v->is_escaped = true;
            else if (c == v->quote) {
                v->quote = 0;
                v->is_over = v->depth == 0;
            }
            continue;
        }
        if (v->is_word && (c == ',' || c == '}' || c == ']' || turn_is_space(c))) {
            v->is_over = true;
            return i;
        }
        if (c == '"' || (c == '\'' && v->has_quotes))
            v->quote = c;
        else if (c == '{' || c == '[')
            v->depth++;
        else if (c == '}' || c == ']')
            v->is_over = --v->depth <= 0;
        else if (v->depth == 0)
            v->is_word = true;
        v->is_begun = true;
    }
    return i;
}

// -- literals --

struct reader {
    const char *s;
    size_t at, len;
    enum turn_words words;
    struct buf *out;
};

static void space(struct reader *r)
{
    while (r->at < r->len && turn_is_space(r->s[r->at]))
        r->at++;
}

static bool takes(struct reader *r, const char *word)
{
    const size_t n = strlen(word);
    if (r->len - r->at < n || memcmp(r->s + r->at, word, n)) return false;
    r->at += n;
    return true;
}

static const char gemma_quote[] = "<|\"|>";

static bool marked_string(struct reader *r)
{
    const size_t n = sizeof gemma_quote - 1;
    const char *end = memmem(r->s + r->at, r->len - r->at, gemma_quote, n);
    if (!end) return false;
    const size_t len = (size_t)(end - r->s) - r->at;
    buf_json_str(r->out, r->s + r->at, len);
    r->at += len + n;
    return true;
}

// What stands behind a backslash in Python, as JSON has it.
static bool escape(struct reader *r)
{
    static const char same[] = "nrtbf\\\"/";
    const char c = r->s[r->at];
    if (strchr(same, c)) {
        buf_printf(r->out, "\\%c", c);
    } else if (c == '\'') {
        buf_char(r->out, c);
    } else if ((c == 'u' && r->len - r->at >= 5) || (c == 'x' && r->len - r->at >= 3)) {
        const size_t n = c == 'u' ? 4 : 2;
        if (strspn(r->s + r->at + 1, "0123456789abcdefABCDEF") < n) return false;
        buf_printf(r->out, "\\u%s%.*s", n == 2 ? "00" : "", (int)n, r->s + r->at + 1);
        r->at += n;
    } else {
        buf_str(r->out, "\\\\"); // Python keeps a backslash that means nothing
        return true;
    }
    r->at++;
    return true;
}

static bool quoted_string(struct reader *r, char quote)
{
    buf_char(r->out, '"');
    while (r->at < r->len && r->s[r->at] != quote) {
        const size_t from = r->at;
        while (r->at < r->len && r->s[r->at] != quote && r->s[r->at] != '\\')
            r->at++;
        turn_value_escape(r->out, r->s + from, r->at - from);
        if (r->at == r->len || r->s[r->at] == quote) break;
        if (++r->at == r->len || !escape(r)) return false;
    }
    buf_char(r->out, '"');
    return r->at++ < r->len;
}

static bool word(struct reader *r)
{
    static const struct {
        const char *word, *json;
    } words[] = {{"True", "true"}, {"False", "false"}, {"None", "null"},
                 {"true", "true"}, {"false", "false"}, {"null", "null"}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (takes(r, words[i].word)) {
            buf_str(r->out, words[i].json);
            return true;
        }
    const size_t n = strspn(r->s + r->at, "+-0123456789.eE");
    struct buf number = {0};
    buf_add(&number, r->s + r->at, n < r->len - r->at ? n : r->len - r->at);
    struct arena a;
    arena_init(&a, 4096);
    const struct json *j;
    const bool ok = number.len && number.len < 64 &&
                    json_read(number.data, number.len, &a, &j, NULL, NULL) == OK;
    if (ok) buf_add(r->out, number.data, number.len);
    r->at += number.len;
    arena_fini(&a);
    buf_fini(&number);
    return ok;
}

static bool key(struct reader *r)
{
    if (r->words == TURN_WORDS_BRACES && takes(r, gemma_quote)) return marked_string(r);
    if (takes(r, "\"")) return quoted_string(r, '"');
    if (takes(r, "'")) return quoted_string(r, '\'');
    const char *colon = memchr(r->s + r->at, ':', r->len - r->at);
    if (r->words != TURN_WORDS_BRACES || !colon) return false;
    size_t n = (size_t)(colon - r->s) - r->at;
    buf_json_str(r->out, r->s + r->at, n);
    r->at += n;
    return n && n <= TURN_NAME_MAX;
}

static bool value(struct reader *r, int depth);

// The members of an object or the items of a list, the opening bracket being read.
static bool members(struct reader *r, char close, int depth)
{
    buf_char(r->out, close == '}' ? '{' : '[');
    for (bool first = true;; first = false) {
        space(r);
        if (r->at >= r->len) return false;
        if (r->s[r->at] == close) break;
        if (!first) {
            if (r->s[r->at++] != ',') return false;
            space(r);
            if (r->at < r->len && r->s[r->at] == close) break; // Python allows a last comma
            buf_char(r->out, ',');
        }
        if (close == '}') {
            if (!key(r)) return false;
            space(r);
            if (!takes(r, ":")) return false;
            buf_char(r->out, ':');
        }
        if (!value(r, depth + 1)) return false;
    }
    r->at++;
    buf_char(r->out, close);
    return true;
}

static bool value(struct reader *r, int depth)
{
    space(r);
    if (depth > TURN_DEPTH_MAX || r->at >= r->len) return false;
    if (r->words == TURN_WORDS_BRACES && takes(r, gemma_quote)) return marked_string(r);
    if (takes(r, "{")) return members(r, '}', depth);
    if (takes(r, "[")) return members(r, ']', depth);
    if (takes(r, "\"")) return quoted_string(r, '"');
    if (takes(r, "'")) return quoted_string(r, '\'');
    return word(r);
}

size_t turn_value_literal(enum turn_words words, const char *s, size_t len, struct buf *out)
{
    struct reader r = {.s = s, .len = len, .words = words, .out = out};
    return value(&r, 0) && buf_ok(out) ? r.at : 0;
}

// -- values between tags --

static bool names(const struct json *type, const char *name)
{
    if (type && type->kind == J_ARR) {
        for (size_t i = 0; i < type->arr.n; i++)
            if (json_is(&type->arr.items[i], name)) return true;
        return false;
    }
    return json_is(type, name);
}

bool turn_value_is_string(const struct json *schema)
{
    const struct json *type = json_get(schema, "type");
    return json_is(type, "string");
}

// Where text is allowed too, a number or a word is that text.
static bool stays_text(const struct json *type, enum json_kind kind)
{
    if (!type) return kind == J_STR;
    return names(type, "string") && kind != J_OBJ && kind != J_ARR && kind != J_NULL;
}

void turn_value_typed(const struct json *schema, const char *s, size_t len, struct buf *out)
{
    const struct json *type = json_get(schema, "type"), *j = NULL;
    struct buf literal = {0};
    struct arena a;
    arena_init(&a, 64 * (len + 1024));
    const bool is_json = len && json_read(s, len, &a, &j, NULL, NULL) == OK;
    const bool is_text = is_json ? stays_text(type, j->kind) : !type || names(type, "string");
    if (is_json && !is_text)
        buf_add(out, s, len);
    else if (!is_text && turn_value_literal(TURN_WORDS_PYTHON, s, len, &literal) == len)
        buf_add(out, literal.data, literal.len);
    else
        buf_json_str(out, s, len);
    buf_fini(&literal);
    arena_fini(&a);
}

void turn_value_escape(struct buf *out, const char *s, size_t len)
{
    struct buf quoted = {0};
    buf_json_str(&quoted, s, len);
    if (quoted.len > 2) buf_add(out, quoted.data + 1, quoted.len - 2);
    if (!buf_ok(&quoted)) out->broken = true;
    buf_fini(&quoted);
}
