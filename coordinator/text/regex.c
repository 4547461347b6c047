#include "coordinator/text/regex.h"
#include "proto/base/buf.h"
#include "proto/base/utf8.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    STEPS_MAX = 10000000, // of one search
    HEAP_KIB_MAX = 65536,
    JIT_STACK_MIN = 32 << 10,
    JIT_STACK_MAX = 1 << 20,
    CLOCK_EVERY = 256 // searches
};

struct regex {
    pcre2_code *code;
};

// --- other dialects ---------------------------------------------------------------------------

#define NO_SPACE                                                                                   \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}!-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"      \
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}"                 \
    "\\x{3001}-\\x{d7ff}\\x{e000}-\\x{10ffff}"
#define RUBY_WORD "\\p{L}\\p{M}\\p{N}\\p{Pc}"
#define RUST_WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}"

// What an escape is in PCRE2, outside and inside brackets; NULL: has no form there.
enum { BOTH = 1 << REGEX_RUBY | 1 << REGEX_RUST };
static const struct escape {
    char letter;
    unsigned dialects;
    const char *outside, *inside;
} escapes[] = {
    {'s', BOTH, "[" REGEX_SPACE "]", REGEX_SPACE},
    {'S', BOTH, "[^" REGEX_SPACE "]", NO_SPACE},
    {'w', 1 << REGEX_RUBY, "[" RUBY_WORD "]", RUBY_WORD},
    {'W', 1 << REGEX_RUBY, "[^" RUBY_WORD "]", NULL},
    {'w', 1 << REGEX_RUST, "[" RUST_WORD "]", RUST_WORD},
    {'W', 1 << REGEX_RUST, "[^" RUST_WORD "]", NULL},
    {'d', BOTH, "\\p{Nd}", "\\p{Nd}"},
    {'D', BOTH, "\\P{Nd}", "\\P{Nd}"},
    {'h', 1 << REGEX_RUBY, "[0-9a-fA-F]", "0-9a-fA-F"},
    {'H', 1 << REGEX_RUBY, "[^0-9a-fA-F]", NULL},
};

struct translation {
    const char *s;
    size_t len, at;
    enum regex_dialect dialect;
    struct buf out;
    struct err_text *why;
};

static err_t refuse(const struct translation *t, const char *what)
{
    return err_say(t->why, ERR_MODEL, "pattern '%.*s', byte %zu: %s is not supported",
                   t->len > 80 ? 80 : (int)t->len, t->s, t->at, what);
}

static bool ahead(const struct translation *t, const char *what)
{
    size_t n = strlen(what);
    return t->len - t->at >= n && memcmp(t->s + t->at, what, n) == 0;
}

static err_t read_escape(struct translation *t, bool inside)
{
    if (t->at + 1 == t->len) return refuse(t, "a backslash at the end");
    char c = t->s[t->at + 1];
    for (size_t i = 0; i < sizeof escapes / sizeof *escapes; i++) {
        if (escapes[i].letter != c || !(escapes[i].dialects & 1u << t->dialect)) continue;
        const char *form = inside ? escapes[i].inside : escapes[i].outside;
        if (!form) return refuse(t, "this escape in brackets");
        buf_str(&t->out, form);
        t->at += 2;
        return OK;
    }
    if (c == 'u' && t->len - t->at >= 6) {
        buf_printf(&t->out, "\\x{%.4s}", t->s + t->at + 2);
        t->at += 6;
        return OK;
    }
    size_t n = 1 + utf8_len(t->s + t->at + 1, t->len - t->at - 1);
    // \p{Lu}, \x{2581}: the braces are no quantifier.
    const char *end = NULL;
    if (strchr("pPxo", c) && t->at + 2 < t->len && t->s[t->at + 2] == '{')
        end = memchr(t->s + t->at, '}', t->len - t->at);
    if (end) n = (size_t)(end - t->s) + 1 - t->at;
    buf_add(&t->out, t->s + t->at, n);
    t->at += n;
    return OK;
}

// One more bracket that may follow "&&".
static err_t read_and(struct translation *t, size_t begin)
{
    struct buf first = {0};
    buf_add(&first, t->out.data + begin, t->out.len - begin);
    t->out.len = begin;
    t->at += 2;
    bool negative = ahead(t, "[^");
    if (!ahead(t, "[") || first.len == 0 || first.data[0] == '^') {
        buf_fini(&first);
        return refuse(t, "this use of &&");
    }
    t->at += negative ? 2 : 1;
    // "[A&&[B]]": a B (or no B) that is also an A. The caller wrote "[" before `begin`.
    t->out.len--;
    buf_str(&t->out, negative ? "(?:(?![" : "(?:(?=[");
    err_t err = OK;
    while (!err && t->at < t->len && t->s[t->at] != ']') {
        if (t->s[t->at] == '[' || ahead(t, "&&")) err = refuse(t, "a bracket in brackets");
        if (err) break;
        if (t->s[t->at] == '\\')
            err = read_escape(t, true);
        else
            buf_char(&t->out, t->s[t->at++]);
    }
    if (!err && !ahead(t, "]]")) err = refuse(t, "this use of &&");
    t->at += 2;
    buf_str(&t->out, "])[");
    buf_add(&t->out, first.data, first.len);
    buf_str(&t->out, "])");
    buf_fini(&first);
    return err;
}

static err_t read_bracket(struct translation *t)
{
    buf_char(&t->out, '[');
    size_t begin = t->out.len;
    t->at++;
    if (ahead(t, "^")) buf_char(&t->out, t->s[t->at++]);
    if (ahead(t, "]")) {
        buf_str(&t->out, "\\]");
        t->at++;
    }
    for (int depth = 1; t->at < t->len;) {
        err_t err = OK;
        if (depth == 1 && ahead(t, "&&")) return read_and(t, begin);
        if (t->s[t->at] == '\\') {
            err = read_escape(t, true);
        } else if (ahead(t, "[:")) {
            const char *end = memmem(t->s + t->at, t->len - t->at, ":]", 2);
            size_t n = end ? (size_t)(end - t->s) + 2 - t->at : 1;
            buf_add(&t->out, t->s + t->at, n);
            t->at += n;
        } else if (t->s[t->at] == '[') {
            if (ahead(t, "[^") || depth > 1) return refuse(t, "a bracket in brackets");
            t->at++; // a union: its members belong to the whole
            depth++;
        } else if (t->s[t->at] == ']') {
            t->at++;
            if (--depth == 0) {
                buf_char(&t->out, ']');
                return OK;
            }
        } else {
            buf_char(&t->out, t->s[t->at++]);
        }
        if (err) return err;
    }
    return refuse(t, "a bracket without end");
}

// "(?mi-x:" : Ruby's m is what others call s.
static err_t read_group(struct translation *t)
{
    if (ahead(t, "(*")) return refuse(t, "(*");
    buf_char(&t->out, t->s[t->at++]);
    if (!ahead(t, "?")) return OK;
    buf_char(&t->out, t->s[t->at++]);
    while (t->at < t->len && strchr("imsx-", t->s[t->at])) {
        char c = t->s[t->at++];
        buf_char(&t->out, c == 'm' && t->dialect == REGEX_RUBY ? 's' : c);
    }
    return OK;
}

static err_t translate(struct translation *t)
{
    err_t err = OK;
    while (!err && t->at < t->len) {
        char c = t->s[t->at];
        if (c == '\\')
            err = read_escape(t, false);
        else if (c == '[')
            err = read_bracket(t);
        else if (c == '(')
            err = read_group(t);
        else if (t->dialect == REGEX_RUBY && ahead(t, "}+"))
            err = refuse(t, "'}+'"); // there greedy of greedy, here possessive
        else
            buf_char(&t->out, t->s[t->at++]);
    }
    if (err) return err;
    return buf_ok(&t->out) ? OK : err_say(t->why, ERR_MEMORY, "pattern: out of memory");
}

// --- compiling --------------------------------------------------------------------------------

static err_t compile(const char *s, size_t len, enum regex_dialect d, struct regex *p,
                     struct err_text *why)
{
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;
    if (d == REGEX_RUBY) options |= PCRE2_MULTILINE;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context) return err_say(why, ERR_MEMORY, "pattern: out of memory");
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(context, 100);
    int code = 0;
    size_t at = 0;
    p->code = pcre2_compile((PCRE2_SPTR)s, len, options, &code, &at, context);
    pcre2_compile_context_free(context);
    if (!p->code) {
        PCRE2_UCHAR text[120] = "";
        pcre2_get_error_message(code, text, sizeof text);
        return err_say(why, ERR_MODEL, "pattern '%.*s', byte %zu: %s", len > 80 ? 80 : (int)len, s,
                       at, (const char *)text);
    }
    pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE); // without it, it is only slower
    return OK;
}

err_t regex_open(const char *s, size_t len, enum regex_dialect d, struct regex **out,
                 struct err_text *why)
{
    // A run of spaces that is not at an end would be tried from each of them. If no part of a run
    // fits from its beginning, none does from the middle.
    static const char at_end[] = "\\s+$", run[] = "(?:\\G|(?<![" REGEX_SPACE "]))\\s+$";
    if (len > REGEX_BYTES_MAX)
        return err_say(why, ERR_MODEL, "pattern: longer than %d bytes", REGEX_BYTES_MAX);
    struct translation t = {.s = s, .len = len, .dialect = d, .why = why};
    if (len == strlen(at_end) && memcmp(s, at_end, len) == 0) {
        t.s = run;
        t.len = strlen(run);
    }
    for (size_t i = 0, n; i < len; i += n) {
        n = utf8_len(s + i, len - i);
        if (n == 0 || s[i] == 0) return err_say(why, ERR_MODEL, "pattern: not valid UTF-8");
    }
    struct regex *p = calloc(1, sizeof *p);
    if (!p) return err_say(why, ERR_MEMORY, "pattern: out of memory");
    err_t err = d == REGEX_PCRE ? OK : translate(&t);
    if (!err && d == REGEX_PCRE) err = compile(s, len, d, p, why);
    if (!err && d != REGEX_PCRE) err = compile(t.out.data ? t.out.data : "", t.out.len, d, p, why);
    buf_fini(&t.out);
    if (err)
        free(p);
    else
        *out = p;
    return err;
}

void regex_close(struct regex *p)
{
    if (!p) return;
    pcre2_code_free(p->code);
    free(p);
}

// --- searching --------------------------------------------------------------------------------

static int64_t cpu_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static err_t begin(struct regex_work *w)
{
    pcre2_match_context *c = pcre2_match_context_create(NULL);
    w->context = c;
    w->data = pcre2_match_data_create(1, NULL);
    w->stack = pcre2_jit_stack_create(JIT_STACK_MIN, JIT_STACK_MAX, NULL);
    if (!w->context || !w->data) return ERR_MEMORY;
    pcre2_set_match_limit(c, STEPS_MAX);
    pcre2_set_heap_limit(c, HEAP_KIB_MAX);
    if (w->stack) pcre2_jit_stack_assign(c, NULL, w->stack);
    w->began_us = cpu_us();
    return OK;
}

void regex_work_fini(struct regex_work *w)
{
    pcre2_match_data_free(w->data);
    pcre2_match_context_free(w->context);
    pcre2_jit_stack_free(w->stack);
    *w = (struct regex_work){0};
}

err_t regex_find(const struct regex *p, struct regex_work *w, const char *text, size_t len,
                 size_t at, bool *found, size_t *from, size_t *to)
{
    err_t err = w->data ? OK : begin(w);
    if (err) return err;
    if (++w->n % CLOCK_EVERY == 0 && cpu_us() - w->began_us > REGEX_CPU_MS_MAX * 1000)
        return ERR_TOO_LARGE;
    const size_t *range = pcre2_get_ovector_pointer(w->data);
    int n =
        pcre2_match(p->code, (PCRE2_SPTR)text, len, at, PCRE2_NO_UTF_CHECK, w->data, w->context);
    if (n == PCRE2_ERROR_JIT_STACKLIMIT)
        n = pcre2_match(p->code, (PCRE2_SPTR)text, len, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                        w->data, w->context);
    if (n < 0 && n != PCRE2_ERROR_NOMATCH)
        return n == PCRE2_ERROR_NOMEMORY ? ERR_MEMORY : ERR_TOO_LARGE;
    *found = n >= 0;
    if (n < 0) return OK;
    *from = range[0];
    *to = range[1];
    // \K in a lookahead can make a match end before it begins.
    if (*to < *from || *from < at) return ERR_INVALID;
    return OK;
}
