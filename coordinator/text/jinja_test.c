#include "coordinator/text/jinja.h"

#include <utf8proc.h>

#define TEST(name)                                                                                 \
    static struct jinja_value test_##name(struct jinja *J, struct jinja_value v,                   \
                                          const struct jinja_args *args)
#define UNUSED (void)J, (void)args

TEST(defined)
{
    UNUSED;
    return jinja_bool(v.kind != JINJA_UNDEF);
}

TEST(undefined)
{
    UNUSED;
    return jinja_bool(v.kind == JINJA_UNDEF);
}

TEST(none)
{
    UNUSED;
    return jinja_bool(v.kind == JINJA_NONE);
}

TEST(string)
{
    UNUSED;
    return jinja_bool(v.kind == JINJA_STR);
}

TEST(mapping)
{
    UNUSED;
    return jinja_bool(v.kind == JINJA_DICT);
}

TEST(iterable)
{
    UNUSED;
    return jinja_bool(jinja_value_iterable(v));
}

// Jinja asks for a length and items by number: everything we can go over has both.
TEST(sequence)
{
    UNUSED;
    return jinja_bool(jinja_value_iterable(v));
}

TEST(number)
{
    double d;
    UNUSED;
    return jinja_bool(jinja_value_is_number(v, &d));
}

TEST(integer)
{
    UNUSED;
    return jinja_bool(v.kind == JINJA_INT);
}

TEST(float)
{
    UNUSED;
    return jinja_bool(v.kind == JINJA_REAL);
}

TEST(boolean)
{
    UNUSED;
    return jinja_bool(v.kind == JINJA_BOOL);
}

TEST(true)
{
    UNUSED;
    return jinja_bool(v.kind == JINJA_BOOL && v.b);
}

TEST(false)
{
    UNUSED;
    return jinja_bool(v.kind == JINJA_BOOL && !v.b);
}

TEST(callable)
{
    UNUSED;
    return jinja_bool(v.kind >= JINJA_MACRO);
}

TEST(eq)
{
    return jinja_bool(jinja_value_equal(J, v, args->at[0]));
}

TEST(ne)
{
    return jinja_bool(!jinja_value_equal(J, v, args->at[0]));
}

TEST(lt)
{
    return jinja_bool(jinja_value_order(J, v, args->at[0]) < 0);
}

TEST(le)
{
    return jinja_bool(jinja_value_order(J, v, args->at[0]) <= 0);
}

TEST(gt)
{
    return jinja_bool(jinja_value_order(J, v, args->at[0]) > 0);
}

TEST(ge)
{
    return jinja_bool(jinja_value_order(J, v, args->at[0]) >= 0);
}

TEST(in)
{
    return jinja_bool(jinja_value_contains(J, args->at[0], v));
}

static bool divisible(struct jinja *J, struct jinja_value v, int64_t by)
{
    int64_t i = jinja_call_int(J, v, 0);
    if (by == 0) jinja_fail(J, "division by zero");
    return by == -1 || i % by == 0;
}

TEST(odd)
{
    (void)args;
    return jinja_bool(!divisible(J, v, 2));
}

TEST(even)
{
    (void)args;
    return jinja_bool(divisible(J, v, 2));
}

TEST(divisibleby)
{
    return jinja_bool(divisible(J, v, jinja_call_int(J, args->at[0], 0)));
}

// Python's isupper and islower: at least one cased letter, and none of the other case.
static bool all_of_case(struct jinja *J, struct jinja_value v, bool upper)
{
    struct jinja_str *text = jinja_value_str(J, v);
    const struct jinja_str *s = jinja_str_flat(J, text);
    bool any = false;
    jinja_charge_bytes(J, s->len);
    for (const char *p = s->p, *end = p + s->len; p < end;) {
        int32_t c;
        p = jinja_str_char(p, &c);
        bool is_upper = utf8proc_tolower(c) != c, is_lower = utf8proc_toupper(c) != c;
        if (upper ? is_lower : is_upper) return false;
        any |= is_upper || is_lower;
    }
    return any;
}

TEST(upper)
{
    (void)args;
    return jinja_bool(all_of_case(J, v, true));
}

TEST(lower)
{
    (void)args;
    return jinja_bool(all_of_case(J, v, false));
}

const struct jinja_builtin *jinja_test_find(const char *name, size_t len)
{
    static const struct jinja_builtin tests[] = {
        {"defined", test_defined, 0, 0, {NULL}},
        {"undefined", test_undefined, 0, 0, {NULL}},
        {"none", test_none, 0, 0, {NULL}},
        {"string", test_string, 0, 0, {NULL}},
        {"mapping", test_mapping, 0, 0, {NULL}},
        {"iterable", test_iterable, 0, 0, {NULL}},
        {"sequence", test_sequence, 0, 0, {NULL}},
        {"number", test_number, 0, 0, {NULL}},
        {"integer", test_integer, 0, 0, {NULL}},
        {"float", test_float, 0, 0, {NULL}},
        {"boolean", test_boolean, 0, 0, {NULL}},
        {"true", test_true, 0, 0, {NULL}},
        {"false", test_false, 0, 0, {NULL}},
        {"callable", test_callable, 0, 0, {NULL}},
        {"eq", test_eq, 1, 0, {"other"}},
        {"equalto", test_eq, 1, 0, {"other"}},
        {"==", test_eq, 1, 0, {"other"}},
        {"sameas", test_eq, 1, 0, {"other"}},
        {"ne", test_ne, 1, 0, {"other"}},
        {"!=", test_ne, 1, 0, {"other"}},
        {"lt", test_lt, 1, 0, {"other"}},
        {"lessthan", test_lt, 1, 0, {"other"}},
        {"<", test_lt, 1, 0, {"other"}},
        {"le", test_le, 1, 0, {"other"}},
        {"<=", test_le, 1, 0, {"other"}},
        {"gt", test_gt, 1, 0, {"other"}},
        {"greaterthan", test_gt, 1, 0, {"other"}},
        {">", test_gt, 1, 0, {"other"}},
        {"ge", test_ge, 1, 0, {"other"}},
        {">=", test_ge, 1, 0, {"other"}},
        {"in", test_in, 1, 0, {"seq"}},
        {"odd", test_odd, 0, 0, {NULL}},
        {"even", test_even, 0, 0, {NULL}},
        {"divisibleby", test_divisibleby, 1, 0, {"num"}},
        {"upper", test_upper, 0, 0, {NULL}},
        {"lower", test_lower, 0, 0, {NULL}},
        {NULL, NULL, 0, 0, {NULL}},
    };
    return jinja_call_find(tests, name, len, 0);
}
