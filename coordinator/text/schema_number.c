#include "coordinator/text/schema.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Numbers within bounds, digit by digit. A bound is written out in decimal, and a digit string is
// walked along both: as long as it agrees with a bound it is tight there, and its next digit may
// not be beyond the bound's; once it differs, any digits may come.

enum { DIGITS_MAX = 18, FRACTION_MAX = 18, TEXT_MAX = 400 };

// |v| as whole number and digits behind the point; `strict`: the bound itself is not allowed.
struct bound {
    uint64_t whole;
    char digits[TEXT_MAX];
    int n;
    bool strict;
};
static const uint64_t WHOLE_MAX = 999999999999999999u; // 18 digits

struct digits {
    struct nfa *a;
    const char *lo, *hi; // of the whole part: equally long
    int n;
    struct bound from, to; // of the fraction
    uint32_t next;
    uint32_t free[DIGITS_MAX + 1]; // that many digits, then next; 0: not made yet
};

static uint32_t either(struct nfa *a, uint32_t way, uint32_t one)
{
    return way ? nfa_split(a, way, one) : one;
}

static uint32_t free_digits(struct digits *d, int n)
{
    if (n == 0) return d->next;
    if (!d->free[n]) d->free[n] = nfa_byte(d->a, '0', '9', free_digits(d, n - 1));
    return d->free[n];
}

// Digits i.. of a whole number between lo and hi of the same length.
static uint32_t between(struct digits *d, int i, bool tight_lo, bool tight_hi)
{
    uint32_t way = 0;
    int from = '0', to = '9';
    if (i == d->n) return d->next;
    if (!tight_lo && !tight_hi) return free_digits(d, d->n - i);
    if (tight_lo) from = d->lo[i];
    if (tight_hi) to = d->hi[i];
    if (tight_lo && tight_hi && from == to)
        return nfa_byte(d->a, (uint8_t)from, (uint8_t)from, between(d, i + 1, true, true));
    if (tight_lo) {
        way = nfa_byte(d->a, (uint8_t)from, (uint8_t)from, between(d, i + 1, true, false));
        from++;
    }
    if (tight_hi) {
        way = either(d->a, way,
                     nfa_byte(d->a, (uint8_t)to, (uint8_t)to, between(d, i + 1, false, true)));
        to--;
    }
    if (from > to) return way;
    return either(d->a, way,
                  nfa_byte(d->a, (uint8_t)from, (uint8_t)to, free_digits(d, d->n - i - 1)));
}

// Whole numbers from lo to hi, without leading zeros.
static uint32_t whole(struct nfa *a, uint64_t lo, uint64_t hi, uint32_t next)
{
    uint32_t way = 0;
    struct digits d = {.a = a, .next = next};
    for (uint64_t first = 0, last = 9; first <= hi && nfa_ok(a);) {
        const uint64_t from = lo > first ? lo : first, to = hi < last ? hi : last;
        if (from <= to) {
            char s[2][24];
            d.n = snprintf(s[0], sizeof s[0], "%llu", (unsigned long long)from);
            snprintf(s[1], sizeof s[1], "%llu", (unsigned long long)to);
            d.lo = s[0];
            d.hi = s[1];
            way = either(a, way, between(&d, 0, true, true));
        }
        if (last >= WHOLE_MAX) break;
        first = last + 1;
        last = last * 10 + 9;
    }
    return way ? way : nfa_never(a);
}

// -- fractions --

static bool zeros_from(const struct bound *b, int i)
{
    for (; i < b->n; i++)
        if (b->digits[i] != '0') return false;
    return true;
}

static int digit_at(const struct bound *b, int i)
{
    return i < b->n ? b->digits[i] : '0';
}

static uint32_t any_digits(struct nfa *a, int max, uint32_t next)
{
    return max > 0 ? nfa_times(a, nfa_byte(a, '0', '9', 0), 0, (uint32_t)max, next) : next;
}

// What may follow i digits behind the point.
static uint32_t fraction(struct digits *d, int i, bool tight_lo, bool tight_hi)
{
    struct nfa *a = d->a;
    const bool ends = (!tight_lo || (zeros_from(&d->from, i) && !d->from.strict)) &&
                      (!tight_hi || !zeros_from(&d->to, i) || !d->to.strict);
    uint32_t way = 0;
    if (!nfa_ok(a)) return 0;
    if (!tight_lo && !tight_hi) return any_digits(a, FRACTION_MAX - i, d->next);
    if (i < FRACTION_MAX) {
        int from = tight_lo ? digit_at(&d->from, i) : '0',
            to = tight_hi ? digit_at(&d->to, i) : '9';
        if (tight_lo && tight_hi && from == to) {
            way = nfa_byte(a, (uint8_t)from, (uint8_t)from, fraction(d, i + 1, true, true));
        } else {
            if (tight_lo) {
                way = nfa_byte(a, (uint8_t)from, (uint8_t)from, fraction(d, i + 1, true, false));
                from++;
            }
            if (tight_hi) {
                const uint32_t on = fraction(d, i + 1, false, true);
                way = either(a, way, nfa_byte(a, (uint8_t)to, (uint8_t)to, on));
                to--;
            }
            if (from <= to) {
                const uint32_t on = any_digits(a, FRACTION_MAX - i - 1, d->next);
                way = either(a, way, nfa_byte(a, (uint8_t)from, (uint8_t)to, on));
            }
        }
    }
    if (ends) way = either(a, way, d->next);
    return way ? way : nfa_never(a);
}

// A point with digits, or nothing.
static uint32_t point(struct digits *d, bool tight_lo, bool tight_hi)
{
    struct nfa *a = d->a;
    const bool may_lack = (!tight_lo || (zeros_from(&d->from, 0) && !d->from.strict)) &&
                          (!tight_hi || !zeros_from(&d->to, 0) || !d->to.strict);
    uint32_t digits = 0;
    if (!tight_lo && !tight_hi) {
        digits = nfa_times(a, nfa_byte(a, '0', '9', 0), 1, FRACTION_MAX, d->next);
    } else {
        // At least one: the ways of fraction() but its end.
        for (int c = '0'; c <= '9'; c++) {
            const int lo = tight_lo ? digit_at(&d->from, 0) : '0',
                      hi = tight_hi ? digit_at(&d->to, 0) : '9';
            if (c < lo || c > hi) continue;
            const uint32_t on = fraction(d, 1, tight_lo && c == lo, tight_hi && c == hi);
            digits = either(a, digits, nfa_byte(a, (uint8_t)c, (uint8_t)c, on));
        }
    }
    uint32_t way = digits ? nfa_str(a, ".", digits) : 0;
    if (may_lack) way = either(a, way, d->next);
    return way ? way : nfa_never(a);
}

// Magnitudes from lo to hi.
static uint32_t magnitude(struct nfa *a, const struct bound *lo, const struct bound *hi,
                          uint32_t next)
{
    struct digits d = {.a = a, .from = *lo, .to = *hi, .next = next};
    if (lo->whole > hi->whole) return nfa_never(a);
    if (lo->whole == hi->whole) return whole(a, lo->whole, lo->whole, point(&d, true, true));
    uint32_t way = whole(a, lo->whole, lo->whole, point(&d, true, false));
    way = nfa_split(a, way, whole(a, hi->whole, hi->whole, point(&d, false, true)));
    if (hi->whole - lo->whole < 2) return way;
    return nfa_split(a, way, whole(a, lo->whole + 1, hi->whole - 1, point(&d, false, false)));
}

// -- bounds of a schema --

struct limits {
    double lo, hi; // infinite: none
    bool lo_strict, hi_strict;
};

static void tighten(struct limits *l, double v, bool is_low, bool strict)
{
    if (is_low && (v > l->lo || (v == l->lo && strict))) {
        l->lo = v;
        l->lo_strict = strict;
    }
    if (!is_low && (v < l->hi || (v == l->hi && strict))) {
        l->hi = v;
        l->hi_strict = strict;
    }
}

static bool read_limits(struct schema *s, const struct json *j, struct limits *out)
{
    static const char *const keys[] = {"minimum", "maximum", "exclusiveMinimum",
                                       "exclusiveMaximum"};
    *out = (struct limits){.lo = -INFINITY, .hi = INFINITY};
    for (int i = 0; i < 4; i++) {
        const struct json *v = json_get(j, keys[i]);
        // Draft 4: a boolean that makes the other one strict.
        const bool draft4 = i >= 2 && v && v->kind == J_BOOL;
        if (draft4 && v->b)
            v = json_get(j, keys[i - 2]);
        else if (draft4)
            continue;
        if (!v) continue;
        if (v->kind != J_INT && v->kind != J_REAL) {
            schema_fail(s, ERR_INVALID, "'%s' must be a number", keys[i]);
            return false;
        }
        tighten(out, json_number(v, 0), i % 2 == 0, i >= 2);
    }
    return true;
}

// |v| in decimal, in the shortest spelling that reads back. Too large ones: as large as can be.
static struct bound bound_of(double v, bool strict)
{
    struct bound b = {.strict = strict};
    char text[40], digits[40];
    v = fabs(v);
    if (v > (double)WHOLE_MAX) return (struct bound){.whole = WHOLE_MAX};
    for (int precision = 1; precision <= 17; precision++) {
        snprintf(text, sizeof text, "%.*e", precision - 1, v);
        if (strtod(text, NULL) == v) break;
    }
    const int exponent = atoi(strchr(text, 'e') + 1);
    int n = 0;
    for (const char *p = text; *p != 'e'; p++)
        if (*p != '.') digits[n++] = *p;
    for (int i = 0; i <= exponent; i++)
        b.whole = b.whole * 10 + (uint64_t)(i < n ? digits[i] - '0' : 0);
    for (int i = exponent + 1; i < n && b.n < TEXT_MAX; i++)
        b.digits[b.n++] = i < 0 ? '0' : digits[i];
    return b;
}

static uint32_t signed_number(struct nfa *a, const struct limits *l, uint32_t next)
{
    const struct bound zero = {0}, low = bound_of(l->lo, l->lo_strict),
                       high = bound_of(l->hi, l->hi_strict);
    uint32_t way = 0;
    if (l->hi > 0 || (l->hi == 0 && !l->hi_strict))
        way = magnitude(a, l->lo >= 0 ? &low : &zero, &high, next);
    if (l->lo < 0) {
        const struct bound above_zero = {.strict = true};
        const uint32_t size = magnitude(a, l->hi < 0 ? &high : &above_zero, &low, next);
        way = either(a, way, nfa_str(a, "-", size));
    }
    return way ? way : nfa_never(a);
}

static uint32_t signed_integer(struct nfa *a, const struct limits *l, uint32_t next)
{
    double lo = ceil(l->lo), hi = floor(l->hi);
    const double most = (double)WHOLE_MAX;
    uint32_t way = 0;
    if (lo == l->lo && l->lo_strict) lo++;
    if (hi == l->hi && l->hi_strict) hi--;
    if (lo < -most) lo = -most;
    if (hi > most) hi = most;
    if (lo > hi) return nfa_never(a);
    // The double next to the largest number may be above it.
    const uint64_t size_lo = fabs(lo) >= most ? WHOLE_MAX : (uint64_t)fabs(lo),
                   size_hi = fabs(hi) >= most ? WHOLE_MAX : (uint64_t)fabs(hi);
    if (hi >= 0) way = whole(a, lo > 0 ? size_lo : 0, size_hi, next);
    if (lo < 0) {
        const uint32_t size = whole(a, hi < 0 ? size_hi : 1, size_lo, next);
        way = either(a, way, nfa_str(a, "-", size));
    }
    return way;
}

// How many digits `multipleOf` allows behind the point; -1: any.
static int digits_behind(struct schema *s, const struct json *j, bool is_integer)
{
    const struct json *v = json_get(j, "multipleOf");
    if (!v) return -1;
    double d = json_number(v, 0), unit = 1;
    for (int n = 0; n <= 9; n++, unit *= 10)
        if (d == 1 / unit) return n;
    schema_fail(s, ERR_UNSUPPORTED, "'multipleOf' other than 1, 0.1, 0.01 ... is not supported%s",
                is_integer ? " (of integers: other than 1)" : "");
    return -1;
}

// -[whole][.digits][exponent]
static uint32_t make_number(struct nfa *a)
{
    struct expr *behind = expr_regex_str(a, "(\\.[0-9]{1,18})?([eE][+-]?[0-9]{1,2})?");
    const uint32_t size = whole(a, 0, WHOLE_MAX, expr_emit(a, behind, false, 0));
    return nfa_split(a, nfa_str(a, "-", size), size);
}

uint32_t schema_any_number(struct nfa *a, uint32_t next)
{
    if (!a->shared[SHARED_NUMBER] && nfa_ok(a)) {
        a->shared[SHARED_NUMBER] = nfa_rule(a);
        nfa_rule_set(a, a->shared[SHARED_NUMBER], make_number(a));
    }
    return nfa_call(a, a->shared[SHARED_NUMBER], next);
}

uint32_t schema_number(struct schema *s, const struct json *j, bool is_integer, uint32_t next)
{
    struct nfa *a = s->a;
    struct limits l;
    const int behind = digits_behind(s, j, is_integer);
    if (!read_limits(s, j, &l) || !nfa_ok(a)) return 0;
    const bool is_free = l.lo == -INFINITY && l.hi == INFINITY;
    if (is_integer || behind == 0) return signed_integer(a, &l, next);
    if (behind > 0 && !is_free)
        return schema_fail(s, ERR_UNSUPPORTED,
                           "'multipleOf' below 1 together with bounds is not "
                           "supported");
    if (behind < 0 && is_free) return schema_any_number(a, next);
    if (behind < 0) return signed_number(a, &l, next);
    const uint32_t digits = nfa_times(a, nfa_byte(a, '0', '9', 0), 1, (uint32_t)behind, next);
    const uint32_t size = whole(a, 0, WHOLE_MAX, nfa_split(a, nfa_str(a, ".", digits), next));
    return nfa_split(a, nfa_str(a, "-", size), size);
}
