#include "coordinator/text/jinja.h"

#include <string.h>

struct lexer {
    struct jinja_parser *P;
    const char *s;
    size_t n, at;
    int line;
    bool line_start; // what was consumed last ended a line (or nothing was consumed yet)
    char open[TEMPLATE_DEPTH_MAX]; // brackets to be closed inside the current tag
    int n_open;
};

static _Noreturn void fail(const struct lexer *L, const char *what)
{
    jinja_stop(&L->P->stop, ERR_MODEL, L->line, "%s", what);
}

static bool space_ascii(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool at(const struct lexer *L, size_t pos, const char *what)
{
    size_t len = strlen(what);
    return pos <= L->n && len <= L->n - pos && memcmp(L->s + pos, what, len) == 0;
}

static struct jinja_token *add(struct lexer *L, enum jinja_tok type, const char *p, size_t len)
{
    struct jinja_parser *P = L->P;
    if (P->n_tok == P->cap_tok) {
        size_t cap = P->cap_tok ? P->cap_tok * 2 : 512;
        struct jinja_token *toks = arena_take_n(&P->scratch, cap, sizeof *toks);
        if (!toks) jinja_stop(&P->stop, ERR_MODEL, 0, "the template has too many parts");
        if (P->n_tok) memcpy(toks, P->toks, P->n_tok * sizeof *toks);
        P->toks = toks;
        P->cap_tok = cap;
    }
    struct jinja_token *t = &P->toks[P->n_tok++];
    *t = (struct jinja_token){.type = type, .line = L->line, .p = p, .len = len};
    return t;
}

// Moves to `to`, counting lines.
static void advance(struct lexer *L, size_t to)
{
    for (size_t i = L->at; i < to; i++)
        L->line += L->s[i] == '\n';
    if (to > L->at) L->line_start = L->s[to - 1] == '\n';
    L->at = to;
}

static size_t skip_spaces(const struct lexer *L, size_t pos)
{
    while (pos < L->n && space_ascii(L->s[pos]))
        pos++;
    return pos;
}

// Text before a tag that begins at `end`: `-` strips all white space in front of the tag,
// otherwise lstrip_blocks strips the blanks between the beginning of the line and a block.
static void text_before(struct lexer *L, size_t end, char sign, bool is_print)
{
    size_t from = L->at, to = end;
    if (sign == '-') {
        while (to > from && space_ascii(L->s[to - 1]))
            to--;
    } else if (sign != '+' && !is_print) {
        size_t bol = to;
        while (bol > from && L->s[bol - 1] != '\n' && space_ascii(L->s[bol - 1]))
            bol--;
        bool starts_line = bol > from ? L->s[bol - 1] == '\n' : L->line_start;
        if (starts_line) to = bol;
    }
    if (to > from) add(L, JINJA_T_TEXT, L->s + from, to - from);
    advance(L, end);
}

// Consumes "X}" with an optional sign in front; true if it is there. trim: a newline after it goes.
static bool tag_end(struct lexer *L, const char *end, bool trim)
{
    char c = L->at < L->n ? L->s[L->at] : 0;
    if (c == '-' && at(L, L->at + 1, end)) {
        advance(L, skip_spaces(L, L->at + 3));
        return true;
    }
    if (trim && c == '+' && at(L, L->at + 1, end)) {
        advance(L, L->at + 3);
        return true;
    }
    if (!at(L, L->at, end)) return false;
    advance(L, L->at + 2 + (trim && at(L, L->at + 2, "\n")));
    return true;
}

static void comment(struct lexer *L)
{
    for (size_t i = L->at + 2; i + 1 < L->n; i++) {
        if (L->s[i] != '#' || L->s[i + 1] != '}') continue;
        bool sign = i > L->at + 2 && (L->s[i - 1] == '-' || L->s[i - 1] == '+');
        advance(L, i - sign);
        tag_end(L, "#}", true);
        return;
    }
    fail(L, "comment is never closed");
}

// At "{%": is this tag exactly `name`? Then `*end` is behind the name and its blanks.
static bool tag_is(const struct lexer *L, size_t pos, const char *name, size_t *end)
{
    pos += 2;
    if (pos < L->n && (L->s[pos] == '-' || L->s[pos] == '+')) pos++;
    pos = skip_spaces(L, pos);
    if (!at(L, pos, name)) return false;
    *end = skip_spaces(L, pos + strlen(name));
    return at(L, *end, "%}") || at(L, *end, "-%}") || at(L, *end, "+%}");
}

// After "{% raw": everything up to "{% endraw %}" is text.
static void raw(struct lexer *L, size_t behind_name)
{
    advance(L, behind_name);
    tag_end(L, "%}", false);
    for (size_t i = L->at; i + 1 < L->n; i++) {
        size_t end;
        if (L->s[i] != '{' || L->s[i + 1] != '%' || !tag_is(L, i, "endraw", &end)) continue;
        text_before(L, i, L->s[i + 2], false);
        advance(L, end);
        tag_end(L, "%}", true);
        return;
    }
    fail(L, "raw block is never closed");
}

static bool name_char(char c, bool first)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           (!first && c >= '0' && c <= '9');
}

static bool digit(const struct lexer *L, size_t pos)
{
    return pos < L->n && L->s[pos] >= '0' && L->s[pos] <= '9';
}

static size_t digits(const struct lexer *L, size_t pos)
{
    while (digit(L, pos) || (pos < L->n && L->s[pos] == '_' && digit(L, pos + 1)))
        pos++;
    return pos;
}

static void number(struct lexer *L)
{
    size_t end = digits(L, L->at);
    enum jinja_tok type = JINJA_T_INT;
    bool after_dot = L->at > 0 && L->s[L->at - 1] == '.';
    if (!after_dot && end < L->n && L->s[end] == '.' && digit(L, end + 1)) {
        type = JINJA_T_REAL;
        end = digits(L, end + 1);
    }
    if (!after_dot && end < L->n && (L->s[end] | 32) == 'e') {
        size_t exp = end + 1;
        if (exp < L->n && (L->s[exp] == '+' || L->s[exp] == '-')) exp++;
        if (digit(L, exp)) {
            type = JINJA_T_REAL;
            end = digits(L, exp);
        }
    }
    add(L, type, L->s + L->at, end - L->at);
    advance(L, end);
}

static void string(struct lexer *L)
{
    char quote = L->s[L->at];
    size_t i = L->at + 1;
    while (i < L->n && L->s[i] != quote)
        i += L->s[i] == '\\' ? 2 : 1;
    if (i >= L->n) fail(L, "string is never closed");
    add(L, JINJA_T_STR, L->s + L->at + 1, i - L->at - 1);
    advance(L, i + 1);
}

static void bracket(struct lexer *L, char c)
{
    if (c == '(' || c == '[' || c == '{') {
        if (L->n_open == (int)sizeof L->open) fail(L, "brackets are nested too deeply");
        L->open[L->n_open++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
        if (L->n_open == 0 || L->open[--L->n_open] != c) fail(L, "bracket closes nothing");
    }
}

static void operator(struct lexer *L)
{
    static const char *const two[] = {"**", "//", "==", "!=", "<=", ">="};
    for (size_t i = 0; i < sizeof two / sizeof *two; i++) {
        if (!at(L, L->at, two[i])) continue;
        add(L, JINJA_T_OP, L->s + L->at, 2)->op = JINJA_OP2(two[i][0], two[i][1]);
        advance(L, L->at + 2);
        return;
    }
    char c = L->s[L->at];
    if (!strchr("+-*/%~<>=.:|,()[]{};", c)) fail(L, "unexpected character");
    bracket(L, c);
    add(L, JINJA_T_OP, L->s + L->at, 1)->op = c;
    advance(L, L->at + 1);
}

// The inside of {% %} or {{ }}, up to its end.
static void inside(struct lexer *L, bool is_print)
{
    const char *end = is_print ? "}}" : "%}";
    L->n_open = 0;
    for (;;) {
        advance(L, skip_spaces(L, L->at));
        if (L->at >= L->n) fail(L, is_print ? "print is never closed" : "tag is never closed");
        int line = L->line;
        if (L->n_open == 0 && tag_end(L, end, !is_print)) {
            add(L, is_print ? JINJA_T_PRINT_END : JINJA_T_TAG_END, NULL, 0)->line = line;
            return;
        }
        char c = L->s[L->at];
        if (name_char(c, true)) {
            size_t i = L->at;
            while (i < L->n && name_char(L->s[i], false))
                i++;
            add(L, JINJA_T_NAME, L->s + L->at, i - L->at);
            advance(L, i);
        } else if (c >= '0' && c <= '9') {
            number(L);
        } else if (c == '"' || c == '\'') {
            string(L);
        } else {
            operator(L);
        }
    }
}

// Jinja reads every kind of line end as \n, and drops one at the end of the template.
static void normalise(struct lexer *L, const char *source, size_t len)
{
    char *s = arena_take(L->P->mem, len + 1);
    if (!s) jinja_stop(&L->P->stop, ERR_MODEL, 0, "the template is too large");
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (source[i] == '\r') {
            s[n++] = '\n';
            i += i + 1 < len && source[i + 1] == '\n';
        } else {
            s[n++] = source[i];
        }
    }
    if (n && s[n - 1] == '\n') n--;
    L->s = s;
    L->n = n;
}

void jinja_lex(struct jinja_parser *P, const char *source, size_t len)
{
    struct lexer lexer = {.P = P, .line = 1, .line_start = true}, *L = &lexer;
    normalise(L, source, len);
    while (L->at < L->n) {
        size_t i = L->at;
        while (i + 1 < L->n && !(L->s[i] == '{' && strchr("{%#", L->s[i + 1]) && L->s[i + 1]))
            i++;
        if (i + 1 >= L->n) {
            add(L, JINJA_T_TEXT, L->s + L->at, L->n - L->at);
            break;
        }
        char kind = L->s[i + 1], sign = i + 2 < L->n ? L->s[i + 2] : 0;
        text_before(L, i, sign, kind == '{');
        size_t end;
        if (kind == '#') {
            comment(L);
        } else if (kind == '%' && tag_is(L, i, "raw", &end)) {
            raw(L, end);
        } else {
            add(L, kind == '{' ? JINJA_T_PRINT : JINJA_T_TAG, NULL, 0);
            advance(L, i + 2 + (sign == '-' || sign == '+'));
            inside(L, kind == '{');
        }
    }
    add(L, JINJA_T_END, NULL, 0);
}
