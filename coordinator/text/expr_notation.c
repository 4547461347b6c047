#include "coordinator/text/expr.h"
#include "proto/base/utf8.h"

#include <string.h>

// Names of rules, found by hash.
struct name {
    const char *s;
    size_t len;
    uint32_t rule;
    struct expr *body; // NULL: not defined yet
};
enum { NAMES = 1 << 12 };

struct parse {
    struct nfa *a;
    const char *at, *end;
    struct name *names; // (NAMES)
    uint32_t n_name;
};

static struct expr *choices(struct parse *p, int depth);

static struct expr *fail(struct parse *p, const char *what)
{
    char near[24] = "";
    size_t n = (size_t)(p->end - p->at);
    if (n >= sizeof near) n = sizeof near - 1;
    memcpy(near, p->at, n);
    nfa_fail(p->a, ERR_INVALID, "grammar: %s, before '%s'", what, near);
    return NULL;
}

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
}

static void skip(struct parse *p)
{
    for (; p->at < p->end; p->at++) {
        if (*p->at == '#') {
            while (p->at < p->end && *p->at != '\n')
                p->at++;
            if (p->at == p->end) return;
        } else if (!*p->at || !strchr(" \t\r\n", *p->at)) {
            return;
        }
    }
}

static struct name *find(struct parse *p, const char *s, size_t len)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < len; i++)
        h = (h ^ (uint8_t)s[i]) * 16777619u;
    for (h ^= h >> 15;; h++) {
        struct name *n = &p->names[h % NAMES];
        if (n->s && (n->len != len || memcmp(n->s, s, len) != 0)) continue;
        if (n->s) return n;
        if (p->n_name >= NAMES / 2) {
            nfa_fail(p->a, ERR_TOO_LARGE, "grammar: more than %d rules", NAMES / 2);
            return NULL;
        }
        p->n_name++;
        *n = (struct name){.s = s, .len = len, .rule = nfa_rule(p->a)};
        return n;
    }
}

// A name with "::=" after it begins the next rule.
static bool rule_begins(const struct parse *p)
{
    const char *s = p->at;
    while (s < p->end && is_name(*s))
        s++;
    if (s == p->at) return false;
    while (s < p->end && (*s == ' ' || *s == '\t'))
        s++;
    return p->end - s >= 3 && memcmp(s, "::=", 3) == 0;
}

static uint32_t escaped(struct parse *p)
{
    const char c = p->at < p->end ? *p->at++ : 0;
    uint32_t v = NFA_CHAR_MAX + 1;
    switch (c) {
    case 'n':
        return '\n';
    case 't':
        return '\t';
    case 'r':
        return '\r';
    case 'x':
        v = expr_hex(&p->at, p->end, 2);
        break;
    case 'u':
        v = expr_hex(&p->at, p->end, 4);
        break;
    case 'U':
        v = expr_hex(&p->at, p->end, 8);
        break;
    default:
        if (c && strchr("\"\\[]-^'/.", c)) return (uint32_t)c;
    }
    if (v > NFA_CHAR_MAX) fail(p, "an escape that is not known");
    return v > NFA_CHAR_MAX ? 0 : v;
}

static uint32_t character(struct parse *p)
{
    if (*p->at == '\\') {
        p->at++;
        return escaped(p);
    }
    const size_t n = utf8_len(p->at, (size_t)(p->end - p->at));
    if (n == 0) {
        fail(p, "bytes that are not UTF-8");
        return 0;
    }
    const uint8_t *s = (const uint8_t *)p->at;
    uint32_t c = n == 1 ? s[0] : s[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++)
        c = c << 6 | (s[i] & 0x3f);
    p->at += n;
    return c;
}

static struct expr *literal(struct parse *p)
{
    struct expr *seq = expr_new(p->a, EXPR_SEQ);
    p->at++;
    while (nfa_ok(p->a) && p->at < p->end && *p->at != '"') {
        struct expr *one = expr_new(p->a, EXPR_CLASS);
        const uint32_t c = character(p);
        if (one) nfa_class_add(p->a, &one->chars, c, c);
        expr_add(seq, one);
    }
    if (nfa_ok(p->a) && p->at == p->end) return fail(p, "a '\"' without its end");
    p->at++;
    return nfa_ok(p->a) ? expr_only(seq) : NULL;
}

static struct expr *class_of(struct parse *p)
{
    struct expr *e = expr_new(p->a, EXPR_CLASS);
    p->at++;
    const bool negate = p->at < p->end && *p->at == '^';
    p->at += negate;
    while (nfa_ok(p->a) && p->at < p->end && *p->at != ']') {
        const uint32_t lo = character(p);
        uint32_t hi = lo;
        if (p->end - p->at > 1 && p->at[0] == '-' && p->at[1] != ']') {
            p->at++;
            hi = character(p);
        }
        if (hi < lo) return fail(p, "a range that runs backwards");
        if (e) nfa_class_add(p->a, &e->chars, lo, hi);
    }
    if (nfa_ok(p->a) && p->at == p->end) return fail(p, "a '[' without its ']'");
    if (!nfa_ok(p->a)) return NULL;
    p->at++;
    nfa_class_close(&e->chars);
    if (negate) nfa_class_negate(p->a, &e->chars);
    return e;
}

static struct expr *element(struct parse *p, int depth)
{
    const char c = *p->at;
    if (c == '"') return literal(p);
    if (c == '[') return class_of(p);
    if (c == '.') {
        struct expr *e = expr_new(p->a, EXPR_CLASS);
        p->at++;
        if (e) nfa_class_add(p->a, &e->chars, 0, NFA_CHAR_MAX);
        return e;
    }
    if (c == '(') {
        if (depth >= EXPR_DEPTH_MAX) {
            nfa_fail(p->a, ERR_TOO_LARGE, "grammar: more than %d groups inside one another",
                     EXPR_DEPTH_MAX);
            return NULL;
        }
        p->at++;
        struct expr *e = choices(p, depth + 1);
        if (e && (p->at == p->end || *p->at != ')')) return fail(p, "a '(' without its ')'");
        p->at++;
        return e;
    }
    if (!is_name(c)) return fail(p, "a rule's name, text, class or group is missing");
    const char *from = p->at;
    while (p->at < p->end && is_name(*p->at))
        p->at++;
    const struct name *n = find(p, from, (size_t)(p->at - from));
    struct expr *e = n ? expr_new(p->a, EXPR_RULE) : NULL;
    if (e) e->rule = n->rule;
    return e;
}

static struct expr *sequence(struct parse *p, int depth)
{
    struct expr *seq = expr_new(p->a, EXPR_SEQ);
    for (skip(p); nfa_ok(p->a) && p->at < p->end; skip(p)) {
        if (*p->at == '|' || *p->at == ')' || rule_begins(p)) break;
        struct expr *e = element(p, depth);
        skip(p);
        if (e) e = expr_quantified(p->a, e, &p->at, p->end);
        expr_add(seq, e);
    }
    return nfa_ok(p->a) ? expr_only(seq) : NULL;
}

static struct expr *choices(struct parse *p, int depth)
{
    struct expr *alt = expr_new(p->a, EXPR_ALT);
    for (;;) {
        expr_add(alt, sequence(p, depth));
        if (!nfa_ok(p->a)) return NULL;
        if (p->at == p->end || *p->at != '|') return expr_only(alt);
        p->at++;
    }
}

static void rule(struct parse *p)
{
    const char *from = p->at;
    if (!rule_begins(p)) {
        fail(p, "a rule ('name ::= ...') is missing");
        return;
    }
    while (is_name(*p->at))
        p->at++;
    struct name *n = find(p, from, (size_t)(p->at - from));
    p->at = (const char *)memchr(p->at, '=', (size_t)(p->end - p->at)) + 1;
    struct expr *body = n ? choices(p, 0) : NULL;
    if (!body) return;
    if (n->body)
        nfa_fail(p->a, ERR_INVALID, "grammar: rule '%.*s' is there twice", (int)n->len, n->s);
    if (p->at < p->end && *p->at == ')') fail(p, "a ')' without its '('");
    n->body = body;
}

uint32_t expr_notation(struct nfa *a, const char *s, size_t len, uint32_t next)
{
    struct parse p = {
        .a = a, .at = s, .end = s + len, .names = nfa_take(a, NAMES, sizeof *p.names)};
    if (memchr(s, 0, len)) return nfa_fail(a, ERR_INVALID, "grammar: a zero byte");
    for (skip(&p); nfa_ok(a) && p.at < p.end; skip(&p))
        rule(&p);
    const struct name *root = nfa_ok(a) ? find(&p, "root", 4) : NULL;
    if (!root) return 0;
    for (uint32_t i = 0; i < NAMES && nfa_ok(a); i++) {
        const struct name *n = &p.names[i];
        if (n->s && !n->body)
            nfa_fail(a, ERR_INVALID, "grammar: rule '%.*s' is not defined",
                     (int)(n->len < 64 ? n->len : 64), n->s);
        else if (n->s)
            nfa_rule_set(a, n->rule, expr_emit(a, n->body, false, 0));
    }
    return nfa_call(a, root->rule, next);
}
