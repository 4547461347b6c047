#include "coordinator/text/schema.h"

#include <string.h>

// RFC 3339, 4122, 5321 (the usual part), 2673, 4291, 1123, 3986 (the usual part), as far as a
// regular expression goes: the 31st of February passes.
#define DATE "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
#define TIME                                                                                       \
    "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9]" \
    ")"
#define BYTE "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
#define LABEL "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define HEX4 "[0-9a-fA-F]{1,4}"
static const struct {
    const char *name, *regex;
} formats[] = {
    {"date-time", DATE "T" TIME},
    {"date", DATE},
    {"time", TIME},
    {"duration", "P([0-9]{1,9}W|([0-9]{1,9}D)(T([0-9]{1,9}H)?([0-9]{1,9}M)?[0-9]{1,9}S)?|"
                 "T([0-9]{1,9}H)?([0-9]{1,9}M)?[0-9]{1,9}S|T[0-9]{1,9}[HM])"},
    {"uuid", "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"},
    {"email", "[A-Za-z0-9_+-]{1,32}(\\.[A-Za-z0-9_+-]{1,16}){0,3}@" LABEL "(\\." LABEL "){1,4}"},
    {"hostname", LABEL "(\\." LABEL "){0,4}"},
    {"ipv4", BYTE "\\." BYTE "\\." BYTE "\\." BYTE},
    {"ipv6", "((" HEX4 ":){7}" HEX4 "|(" HEX4 ":){1,6}:" HEX4 "|::(" HEX4 ")?)"},
    {"uri", "[A-Za-z][A-Za-z0-9+.-]{0,20}:[A-Za-z0-9._~:/?#@!$&'()*+,;=%-]{1,2000}"},
};

// What follows a backslash: a letter, or a code point that is no half of a pair, or a pair.
static uint32_t make_escape(struct nfa *a)
{
    struct nfa_set hex = {{0}}, letters = {{0}};
    for (const char *p = "0123456789abcdefABCDEF"; *p; p++)
        hex.bits[*p / 64] |= UINT64_C(1) << (*p % 64);
    for (const char *p = "\"\\/bfnrt"; *p; p++)
        letters.bits[*p / 64] |= UINT64_C(1) << (*p % 64);
    const uint32_t last = nfa_bytes_of(a, &hex, 0), two = nfa_bytes_of(a, &hex, last),
                   three = nfa_bytes_of(a, &hex, two);
    struct expr *low = expr_regex_str(a, "\\\\u[dD][c-fC-F][0-9a-fA-F]{2}");
    struct expr *high = expr_regex_str(a, "[dD][89abAB][0-9a-fA-F]{2}");
    struct expr *plain_d = expr_regex_str(a, "[dD][0-7]");
    struct expr *first = expr_regex_str(a, "[1-9a-cefA-CEF]");
    struct expr *zero = expr_regex_str(a, "0(0(0[1-9a-fA-F]|[1-9a-fA-F][0-9a-fA-F])|"
                                          "[1-9a-fA-F][0-9a-fA-F]{2})");
    uint32_t code = expr_emit(a, first, false, three);
    code = nfa_split(a, code, expr_emit(a, plain_d, false, two));
    code = nfa_split(a, code, expr_emit(a, high, false, expr_emit(a, low, false, 0)));
    code = nfa_split(a, code, expr_emit(a, zero, false, 0));
    return nfa_split(a, nfa_byte(a, 'u', 'u', code), nfa_bytes_of(a, &letters, 0));
}

static uint32_t escape(struct nfa *a, uint32_t next)
{
    if (!a->shared[SHARED_ESCAPE] && nfa_ok(a)) {
        a->shared[SHARED_ESCAPE] = nfa_rule(a);
        nfa_rule_set(a, a->shared[SHARED_ESCAPE], make_escape(a));
    }
    return nfa_byte(a, '\\', '\\', nfa_call(a, a->shared[SHARED_ESCAPE], next));
}

// One character of a string, in any spelling.
static uint32_t any_char(struct nfa *a, enum nfa_loop loop, uint32_t next)
{
    struct nfa_class plain = {0};
    nfa_class_add(a, &plain, 0x20, '"' - 1);
    nfa_class_add(a, &plain, '"' + 1, '\\' - 1);
    nfa_class_add(a, &plain, '\\' + 1, NFA_CHAR_MAX);
    return nfa_split(a, nfa_char(a, &plain, false, loop, next), escape(a, next));
}

static uint32_t make_string(struct nfa *a)
{
    const uint32_t hub = nfa_hub(a);
    nfa_hub_set(a, hub, any_char(a, NFA_LOOP_STAR, hub), nfa_str(a, "\"", 0));
    return nfa_str(a, "\"", hub);
}

uint32_t schema_any_string(struct nfa *a, uint32_t next)
{
    if (!a->shared[SHARED_STRING] && nfa_ok(a)) {
        a->shared[SHARED_STRING] = nfa_rule(a);
        nfa_rule_set(a, a->shared[SHARED_STRING], make_string(a));
    }
    return nfa_call(a, a->shared[SHARED_STRING], next);
}

// A pattern's length within bounds: nothing to do if it is so anyway; a class repeated is repeated
// otherwise; anything else would need both automata at once.
static struct expr *bounded(struct schema *s, struct expr *e, uint32_t min, uint32_t max)
{
    uint32_t lo, hi;
    const bool is_whole = expr_regex_anchored(e);
    expr_length(e, &lo, &hi);
    if (is_whole && lo >= min && hi <= max) return e;
    struct expr *times = expr_only(e);
    if (is_whole && times->kind == EXPR_TIMES && times->child->kind == EXPR_CLASS) {
        if (times->min < min) times->min = min;
        if (times->max > max) times->max = max;
        if (times->min <= times->max) return e;
        schema_fail(s, ERR_INVALID, "'pattern' and the lengths exclude one another");
        return NULL;
    }
    schema_fail(s, ERR_UNSUPPORTED, "'%s' together with this 'pattern' is not supported",
                min ? "minLength" : "maxLength");
    return NULL;
}

static uint32_t patterned(struct schema *s, const char *regex, size_t len, bool whole,
                          const struct json *j, uint32_t next)
{
    const uint32_t min = schema_count(s, j, "minLength", 0),
                   max = schema_count(s, j, "maxLength", NFA_NO_MAX);
    struct expr *e = expr_regex(s->a, regex, len);
    if (!e || !nfa_ok(s->a)) return 0;
    if (!whole && (min || max != NFA_NO_MAX)) {
        e = bounded(s, e, min, max);
        whole = true;
    }
    next = nfa_str(s->a, "\"", next);
    return e ? nfa_str(s->a, "\"", expr_regex_emit(s->a, e, whole, true, next)) : 0;
}

uint32_t schema_string(struct schema *s, const struct json *j, uint32_t next)
{
    const struct json *pattern = json_get(j, "pattern"), *format = json_get(j, "format");
    if (pattern && pattern->kind != J_STR)
        return schema_fail(s, ERR_INVALID, "'pattern' must be a string");
    if (pattern) return patterned(s, pattern->str.s, pattern->str.len, false, j, next);
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (json_is(format, formats[i].name))
            return patterned(s, formats[i].regex, strlen(formats[i].regex), true, NULL, next);
    const uint32_t min = schema_count(s, j, "minLength", 0),
                   max = schema_count(s, j, "maxLength", NFA_NO_MAX);
    if (min > max) return schema_fail(s, ERR_INVALID, "'minLength' is above 'maxLength'");
    if (min == 0 && max == NFA_NO_MAX) return schema_any_string(s->a, next);
    next = nfa_str(s->a, "\"", next);
    next = nfa_times(s->a, max ? any_char(s->a, NFA_LOOP_COUNT, 0) : 0, min, max, next);
    return nfa_str(s->a, "\"", next);
}
