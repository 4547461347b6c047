#include "coordinator/text/expr.h"

#include <string.h>

struct expr *expr_new(struct nfa *a, enum expr_kind kind)
{
    struct expr *e = nfa_take(a, 1, sizeof *e);
    if (e) e->kind = kind;
    return e;
}

void expr_add(struct expr *parent, struct expr *child)
{
    if (!parent || !child) return;
    if (parent->last)
        parent->last->next = child;
    else
        parent->child = child;
    parent->last = child;
}

struct expr *expr_only(struct expr *e)
{
    return e && e->child && e->child == e->last ? e->child : e;
}

uint32_t expr_hex(const char **at, const char *end, int n)
{
    uint32_t v = 0;
    for (int i = 0; i < n; i++, (*at)++) {
        const char c = *at < end ? **at : 0;
        const int d = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
        if (d < 0 || v > NFA_CHAR_MAX) return NFA_CHAR_MAX + 1;
        v = v * 16 + (uint32_t)d;
    }
    return v > NFA_CHAR_MAX ? NFA_CHAR_MAX + 1 : v;
}

// Up to nine digits; false if there is none.
static bool number(const char **at, const char *end, uint32_t *out)
{
    const char *from = *at;
    uint32_t v = 0;
    while (*at < end && **at >= '0' && **at <= '9' && *at - from < 9)
        v = v * 10 + (uint32_t)(*(*at)++ - '0');
    *out = v;
    return *at > from;
}

static bool braces(const char **at, const char *end, uint32_t *min, uint32_t *max)
{
    const char *p = *at + 1;
    const bool has_min = number(&p, end, min);
    if (!has_min) *min = 0;
    *max = *min;
    if (p < end && *p == ',') {
        p++;
        const bool has_max = number(&p, end, max);
        if (!has_max) *max = NFA_NO_MAX;
        if (!has_min && !has_max) return false;
    } else if (!has_min) {
        return false;
    }
    if (p >= end || *p != '}') return false;
    *at = p + 1;
    return true;
}

struct expr *expr_quantified(struct nfa *a, struct expr *e, const char **at, const char *end)
{
    const char *p = *at;
    uint32_t min = 0, max = NFA_NO_MAX;
    if (p >= end || !strchr("*+?{", *p) || !*p) return e;
    if (!e) {
        nfa_fail(a, ERR_INVALID, "a repetition ('%c') of nothing", *p);
        return NULL;
    }
    if (*p == '{') {
        if (!braces(at, end, &min, &max)) {
            nfa_fail(a, ERR_INVALID, "a '{' that is no repetition like {2} or {2,5}");
            return NULL;
        }
        if (min > max) nfa_fail(a, ERR_INVALID, "a repetition from %u down to %u", min, max);
    } else {
        min = *p == '+';
        max = *p == '?' ? 1 : NFA_NO_MAX;
        (*at)++;
    }
    struct expr *times = expr_new(a, EXPR_TIMES);
    if (!times) return NULL;
    times->min = min;
    times->max = max;
    expr_add(times, e);
    return times;
}

// It can match the empty text.
static bool is_empty(const struct expr *e)
{
    bool all = true, any = false;
    for (const struct expr *c = e->child; c; c = c->next) {
        const bool is = is_empty(c);
        all &= is;
        any |= is;
    }
    switch (e->kind) {
    case EXPR_CLASS:
        return false;
    case EXPR_TEXT:
        return e->len == 0;
    case EXPR_TIMES:
        return e->min == 0 || all;
    case EXPR_ALT:
        return any;
    default: // a rule's is not known yet
        return all;
    }
}

static uint32_t add_capped(uint32_t a, uint32_t b)
{
    return a == NFA_NO_MAX || b == NFA_NO_MAX || a + b < a ? NFA_NO_MAX : a + b;
}

static uint32_t mul_capped(uint32_t a, uint32_t b)
{
    const uint64_t v = (uint64_t)a * b;
    if (a == 0 || b == 0) return 0;
    return a == NFA_NO_MAX || b == NFA_NO_MAX || v >= NFA_NO_MAX ? NFA_NO_MAX : (uint32_t)v;
}

void expr_length(const struct expr *e, uint32_t *min, uint32_t *max)
{
    uint32_t lo = 0, hi = 0, n = 0;
    for (const struct expr *c = e->child; c; c = c->next, n++) {
        uint32_t l, h;
        expr_length(c, &l, &h);
        if (e->kind == EXPR_ALT && n) {
            lo = l < lo ? l : lo;
            hi = h > hi ? h : hi;
        } else {
            lo = add_capped(lo, l);
            hi = add_capped(hi, h);
        }
    }
    if (e->kind == EXPR_CLASS) lo = hi = 1;
    if (e->kind == EXPR_TEXT) lo = hi = (uint32_t)e->len;
    if (e->kind == EXPR_RULE) hi = NFA_NO_MAX;
    if (e->kind == EXPR_TIMES) {
        lo = mul_capped(lo, e->min);
        hi = mul_capped(hi, e->max);
    }
    *min = lo;
    *max = hi;
}

// Nodes it takes, about.
static uint32_t size_of(const struct expr *e)
{
    uint32_t n = 1;
    for (const struct expr *c = e->child; c; c = c->next)
        n = add_capped(n, size_of(c));
    if (e->kind == EXPR_CLASS) n = add_capped(n, e->chars.n);
    if (e->kind == EXPR_TEXT) n = add_capped(n, (uint32_t)e->len);
    return n;
}

static uint32_t emit(struct nfa *a, const struct expr *e, bool in_json, enum nfa_loop loop,
                     uint32_t next);

static uint32_t emit_loop(struct nfa *a, const struct expr *e, bool in_json, uint32_t next)
{
    const uint32_t hub = nfa_hub(a);
    const uint32_t body = emit(a, e->child, in_json, NFA_LOOP_STAR, hub);
    nfa_hub_set(a, hub, body, next);
    return e->min ? body : hub;
}

// Copies one after the other: `min` of them, and then more or a loop.
static uint32_t unroll(struct nfa *a, const struct expr *e, bool in_json, uint32_t next)
{
    uint32_t on = next, n = e->max;
    if (e->max == NFA_NO_MAX) {
        const uint32_t hub = nfa_hub(a);
        nfa_hub_set(a, hub, emit(a, e->child, in_json, NFA_LOOP_STAR, hub), next);
        on = hub;
        n = e->min;
    }
    if (mul_capped(size_of(e->child), n) > EXPR_UNROLL_MAX)
        return nfa_fail(a, ERR_TOO_LARGE,
                        "a repetition %u times of a rule or of what may be empty is too complex",
                        n);
    for (uint32_t i = n; i > 0 && nfa_ok(a); i--) {
        const uint32_t one = emit(a, e->child, in_json, NFA_LOOP_NONE, on);
        on = i > e->min ? nfa_split(a, one, next) : one;
    }
    return on;
}

static uint32_t emit_times(struct nfa *a, const struct expr *e, bool in_json, uint32_t next)
{
    enum { SMALL = 16 };
    if (e->max == 0) return next;
    if (e->max == NFA_NO_MAX && e->min <= 1) return emit_loop(a, e, in_json, next);
    if (is_empty(e->child) ||
        (e->max != NFA_NO_MAX && mul_capped(size_of(e->child), e->max) <= SMALL))
        return unroll(a, e, in_json, next);
    const uint32_t body = emit(a, e->child, in_json, NFA_LOOP_COUNT, 0);
    return nfa_times(a, body, e->min, e->max, next);
}

// From the last child to the first.
static uint32_t emit_seq(struct nfa *a, const struct expr *e, bool in_json, uint32_t next)
{
    uint32_t n = 0;
    for (const struct expr *c = e->child; c; c = c->next)
        n++;
    const struct expr **all = nfa_take(a, n, sizeof *all);
    if (!all) return 0;
    n = 0;
    for (const struct expr *c = e->child; c; c = c->next)
        all[n++] = c;
    while (n-- > 0 && nfa_ok(a))
        next = emit(a, all[n], in_json, NFA_LOOP_NONE, next);
    return next;
}

static uint32_t emit_alt(struct nfa *a, const struct expr *e, bool in_json, uint32_t next)
{
    uint32_t way = 0;
    for (const struct expr *c = e->child; c && nfa_ok(a); c = c->next) {
        const uint32_t one = emit(a, c, in_json, NFA_LOOP_NONE, next);
        way = c == e->child ? one : nfa_split(a, way, one);
    }
    return e->child ? way : nfa_never(a);
}

static uint32_t emit(struct nfa *a, const struct expr *e, bool in_json, enum nfa_loop loop,
                     uint32_t next)
{
    if (!nfa_ok(a)) return 0;
    switch (e->kind) {
    case EXPR_CLASS:
        return nfa_char(a, &e->chars, in_json, loop, next);
    case EXPR_TEXT:
        return nfa_text(a, e->s, e->len, next);
    case EXPR_SEQ:
        return emit_seq(a, e, in_json, next);
    case EXPR_ALT:
        return emit_alt(a, e, in_json, next);
    case EXPR_TIMES:
        return emit_times(a, e, in_json, next);
    case EXPR_RULE:
        return nfa_call(a, e->rule, next);
    case EXPR_BEGIN:
    case EXPR_FINISH:
        break;
    }
    return nfa_fail(a, ERR_UNSUPPORTED, "'%c' stands elsewhere than at an end of the expression",
                    e->kind == EXPR_BEGIN ? '^' : '$');
}

uint32_t expr_emit(struct nfa *a, const struct expr *e, bool in_json, uint32_t next)
{
    return e ? emit(a, e, in_json, NFA_LOOP_NONE, next) : 0;
}
