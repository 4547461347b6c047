#include "coordinator/text/expr.h"
#include "proto/base/utf8.h"

#include <string.h>

struct parse {
    struct nfa *a;
    const char *at, *end;
};

static struct expr *alternatives(struct parse *p, int depth);

static struct expr *fail(struct parse *p, err_t code, const char *what)
{
    nfa_fail(p->a, code, "regular expression: %s", what);
    return NULL;
}

// -- characters --

static uint32_t next_char(struct parse *p)
{
    const size_t n = utf8_len(p->at, (size_t)(p->end - p->at));
    const uint8_t *s = (const uint8_t *)p->at;
    if (n == 0) {
        fail(p, ERR_INVALID, "it is not UTF-8");
        p->at = p->end;
        return 0;
    }
    p->at += n;
    if (n == 1) return s[0];
    uint32_t c = s[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++)
        c = c << 6 | (s[i] & 0x3f);
    return c;
}

// \d \w \s and their opposites; false if the letter is none of them.
static bool add_named(struct parse *p, char letter, struct nfa_class *out)
{
    static const struct nfa_range digits[] = {{'0', '9'}},
                                  word[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}},
                                  space[] = {{'\t', '\r'},     {' ', ' '},       {0xa0, 0xa0},
                                             {0x1680, 0x1680}, {0x2000, 0x200a}, {0x2028, 0x2029},
                                             {0x202f, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000},
                                             {0xfeff, 0xfeff}};
    const struct nfa_range *r;
    size_t n;
    switch (letter | 0x20) {
    case 'd':
        r = digits;
        n = sizeof digits / sizeof *digits;
        break;
    case 'w':
        r = word;
        n = sizeof word / sizeof *word;
        break;
    case 's':
        r = space;
        n = sizeof space / sizeof *space;
        break;
    default:
        return false;
    }
    struct nfa_class c = {0};
    for (size_t i = 0; i < n; i++)
        nfa_class_add(p->a, &c, r[i].lo, r[i].hi);
    if (!(letter & 0x20)) nfa_class_negate(p->a, &c);
    for (uint32_t i = 0; i < c.n; i++)
        nfa_class_add(p->a, out, c.at[i].lo, c.at[i].hi);
    return true;
}

static uint32_t unicode_escape(struct parse *p)
{
    uint32_t c;
    if (p->at < p->end && *p->at == '{') {
        const char *close = memchr(p->at, '}', (size_t)(p->end - p->at));
        if (!close || close - p->at < 2 || close - p->at > 7) return NFA_CHAR_MAX + 1;
        p->at++;
        c = expr_hex(&p->at, close, (int)(close - p->at));
        p->at = close + 1;
        return c;
    }
    c = expr_hex(&p->at, p->end, 4);
    if (c < 0xd800 || c > 0xdbff || p->end - p->at < 6 || p->at[0] != '\\' || p->at[1] != 'u')
        return c;
    const char *low_at = p->at + 2;
    const uint32_t low = expr_hex(&low_at, p->end, 4);
    if (low < 0xdc00 || low > 0xdfff) return c;
    p->at = low_at;
    return 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
}

// What stands after a backslash and is one character.
static uint32_t escaped_char(struct parse *p)
{
    const uint32_t c = next_char(p);
    const char *from = "tnrfv0", *to = "\t\n\r\f\v\0";
    const char *k = c && c < 0x80 ? strchr(from, (int)c) : NULL;
    uint32_t v = c;
    if (k) return (uint32_t)to[k - from];
    if (c == 'x') v = expr_hex(&p->at, p->end, 2);
    if (c == 'u') v = unicode_escape(p);
    const bool is_letter =
        (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    if (v > NFA_CHAR_MAX || (is_letter && c != 'x' && c != 'u')) {
        nfa_fail(p->a, is_letter ? ERR_UNSUPPORTED : ERR_INVALID,
                 "regular expression: '\\%c' is not supported (back references, boundaries and "
                 "properties are not)",
                 c < 0x80 && c >= 0x20 ? (char)c : '?');
        return 0;
    }
    return v;
}

// One end of a range, or a named class that is added at once (then *named).
static uint32_t class_char(struct parse *p, struct nfa_class *out, bool *named)
{
    *named = false;
    if (*p->at != '\\') return next_char(p);
    p->at++;
    if (p->at == p->end) {
        fail(p, ERR_INVALID, "it ends with a backslash");
        return 0;
    }
    if (*p->at == 'b') {
        p->at++;
        return '\b';
    }
    *named = add_named(p, *p->at, out);
    if (*named) p->at++;
    return *named ? 0 : escaped_char(p);
}

static struct expr *class_of(struct parse *p)
{
    struct expr *e = expr_new(p->a, EXPR_CLASS);
    if (!e) return NULL;
    p->at++;
    const bool negate = p->at < p->end && *p->at == '^';
    p->at += negate;
    for (bool first = true; nfa_ok(p->a); first = false) {
        bool named, named_hi;
        if (p->at == p->end) return fail(p, ERR_INVALID, "a '[' without its ']'");
        if (*p->at == ']' && !first) break;
        const uint32_t lo = class_char(p, &e->chars, &named);
        uint32_t hi = lo;
        if (!named && p->end - p->at > 1 && p->at[0] == '-' && p->at[1] != ']') {
            p->at++;
            hi = class_char(p, &e->chars, &named_hi);
            if (named_hi || hi < lo) return fail(p, ERR_INVALID, "a range that runs backwards");
        }
        if (!named) nfa_class_add(p->a, &e->chars, lo, hi);
    }
    p->at++;
    nfa_class_close(&e->chars);
    if (negate) nfa_class_negate(p->a, &e->chars);
    return e;
}

static struct expr *one_char(struct parse *p, uint32_t c)
{
    struct expr *e = expr_new(p->a, EXPR_CLASS);
    if (e) nfa_class_add(p->a, &e->chars, c, c);
    return e;
}

static struct expr *any_char(struct parse *p)
{
    struct expr *e = expr_new(p->a, EXPR_CLASS);
    if (!e) return NULL;
    nfa_class_add(p->a, &e->chars, '\n', '\n');
    nfa_class_add(p->a, &e->chars, '\r', '\r');
    nfa_class_negate(p->a, &e->chars);
    return e;
}

static struct expr *escape(struct parse *p)
{
    struct nfa_class c = {0};
    p->at++;
    if (p->at == p->end) return fail(p, ERR_INVALID, "it ends with a backslash");
    if (!add_named(p, *p->at, &c)) return one_char(p, escaped_char(p));
    p->at++;
    struct expr *e = expr_new(p->a, EXPR_CLASS);
    if (!e) return NULL;
    nfa_class_close(&c);
    e->chars = c;
    return e;
}

// -- structure --

// After "(?": only what groups without meaning for the match is known.
static bool group_opens(struct parse *p)
{
    const size_t left = (size_t)(p->end - p->at);
    if (left == 0 || *p->at != '?') return true;
    if (left > 1 && p->at[1] == ':') {
        p->at += 2;
        return true;
    }
    const char *name = p->at + (left > 1 && p->at[1] == 'P' ? 2 : 1);
    const char *close = name < p->end ? memchr(name, '>', (size_t)(p->end - name)) : NULL;
    if (name < p->end && *name == '<' && close && name[1] != '=' && name[1] != '!') {
        p->at = close + 1;
        return true;
    }
    fail(p, ERR_UNSUPPORTED, "look-around, flags and conditions '(?...' are not supported");
    return false;
}

static struct expr *group(struct parse *p, int depth)
{
    p->at++;
    if (depth >= EXPR_DEPTH_MAX) {
        nfa_fail(p->a, ERR_TOO_LARGE, "regular expression: more than %d groups inside one another",
                 EXPR_DEPTH_MAX);
        return NULL;
    }
    if (!group_opens(p)) return NULL;
    struct expr *e = alternatives(p, depth + 1);
    if (!e) return NULL;
    if (p->at == p->end || *p->at != ')') return fail(p, ERR_INVALID, "a '(' without its ')'");
    p->at++;
    return e;
}

static struct expr *atom(struct parse *p, int depth)
{
    const char c = *p->at;
    switch (c) {
    case '(':
        return group(p, depth);
    case '[':
        return class_of(p);
    case '\\':
        return escape(p);
    case '.':
        p->at++;
        return any_char(p);
    case '*':
    case '+':
    case '?':
    case '{':
        return expr_quantified(p->a, NULL, &p->at, p->end);
    default:
        return one_char(p, next_char(p));
    }
}

static struct expr *sequence(struct parse *p, int depth)
{
    struct expr *seq = expr_new(p->a, EXPR_SEQ);
    while (nfa_ok(p->a) && p->at < p->end && *p->at != '|' && *p->at != ')') {
        struct expr *e;
        if (*p->at == '^' || *p->at == '$') {
            e = expr_new(p->a, *p->at++ == '^' ? EXPR_BEGIN : EXPR_FINISH);
            if (p->at < p->end && strchr("*+?{", *p->at) && *p->at)
                return fail(p, ERR_INVALID, "a repetition of '^' or '$'");
        } else {
            e = atom(p, depth);
            const char *before = p->at;
            if (e) e = expr_quantified(p->a, e, &p->at, p->end);
            const bool repeats = p->at > before;
            // Lazy matching finds other places, not other texts.
            if (repeats && p->at < p->end && *p->at == '?') p->at++;
            if (repeats && p->at < p->end && strchr("*+{", *p->at) && *p->at)
                return fail(p, ERR_INVALID, "a repetition of a repetition");
        }
        expr_add(seq, e);
    }
    return nfa_ok(p->a) ? expr_only(seq) : NULL;
}

static struct expr *alternatives(struct parse *p, int depth)
{
    struct expr *alt = expr_new(p->a, EXPR_ALT);
    for (;;) {
        expr_add(alt, sequence(p, depth));
        if (!nfa_ok(p->a)) return NULL;
        if (p->at == p->end || *p->at != '|') break;
        p->at++;
    }
    return expr_only(alt);
}

struct expr *expr_regex(struct nfa *a, const char *s, size_t len)
{
    struct parse p = {.a = a, .at = s, .end = s + len};
    struct expr *e = alternatives(&p, 0);
    if (e && p.at < p.end) return fail(&p, ERR_INVALID, "a ')' without its '('");
    return e;
}

struct expr *expr_regex_str(struct nfa *a, const char *s)
{
    return expr_regex(a, s, strlen(s));
}

// -- ends --

static struct expr *any_text(struct nfa *a)
{
    struct expr *all = expr_new(a, EXPR_CLASS), *times = expr_new(a, EXPR_TIMES);
    if (!all || !times) return NULL;
    nfa_class_add(a, &all->chars, 0, NFA_CHAR_MAX);
    times->max = NFA_NO_MAX;
    expr_add(times, all);
    return times;
}

// Takes ^ from the front and $ from the back of a sequence.
static void strip(struct expr *seq, bool *begins, bool *ends)
{
    *begins = *ends = false;
    while (seq->child && seq->child->kind == EXPR_BEGIN) {
        *begins = true;
        seq->child = seq->child->next;
    }
    if (!seq->child) seq->last = NULL;
    struct expr *before = NULL, *tail = NULL; // tail: the first of a run of $ at the end
    for (struct expr *c = seq->child, *prev = NULL; c; prev = c, c = c->next) {
        if (c->kind != EXPR_FINISH) {
            tail = NULL;
        } else if (!tail) {
            tail = c;
            before = prev;
        }
    }
    if (!tail) return;
    *ends = true;
    if (before)
        before->next = NULL;
    else
        seq->child = NULL;
    seq->last = before;
}

bool expr_regex_anchored(struct expr *e)
{
    if (e->kind != EXPR_SEQ || !e->child || e->child->kind != EXPR_BEGIN ||
        e->last->kind != EXPR_FINISH)
        return false;
    bool begins, ends;
    strip(e, &begins, &ends);
    return true;
}

static uint32_t emit_branch(struct nfa *a, struct expr *e, bool whole, bool in_json, uint32_t next)
{
    bool begins = false, ends = false;
    struct expr *seq = e;
    if (e->kind == EXPR_BEGIN || e->kind == EXPR_FINISH) {
        seq = expr_new(a, EXPR_SEQ);
        expr_add(seq, e);
    }
    if (!seq) return 0;
    // Siblings of the branch are others' business.
    seq->next = NULL;
    if (seq->kind == EXPR_SEQ) strip(seq, &begins, &ends);
    if (!whole && !ends) next = expr_emit(a, any_text(a), in_json, next);
    next = expr_emit(a, seq, in_json, next);
    if (!whole && !begins) next = expr_emit(a, any_text(a), in_json, next);
    return next;
}

uint32_t expr_regex_emit(struct nfa *a, struct expr *e, bool whole, bool in_json, uint32_t next)
{
    uint32_t way = 0, n = 0;
    if (!e) return 0;
    if (e->kind != EXPR_ALT) return emit_branch(a, e, whole, in_json, next);
    for (struct expr *c = e->child, *after; c && nfa_ok(a); c = after) {
        after = c->next;
        const uint32_t one = emit_branch(a, c, whole, in_json, next);
        way = n++ ? nfa_split(a, way, one) : one;
    }
    return way;
}
