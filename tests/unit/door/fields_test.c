// H05: each field of the table with each kind it does not take, and with values outside its range.
// The cases are generated from the table, so a new row is a tested row.
#include "coordinator/door/fields.h"
#include "proto/base/buf.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    enum json_kind kind;
    const char *text;
} samples[] = {
    {J_BOOL, "true"},
    {J_BOOL, "false"},
    {J_INT, "1"},
    {J_INT, "0"},
    {J_INT, "-1"},
    {J_REAL, "1.5"},
    {J_REAL, "-1e300"},
    {J_STR, "\"\""},
    {J_STR, "\"text\""},
    {J_STR, "\"1\""},
    {J_ARR, "[]"},
    {J_ARR, "[1]"},
    {J_OBJ, "{\"a\":1}"},
    {J_OBJ, "{}"},
    {J_INT, "9223372036854775807"},
    {J_INT, "-9223372036854775808"},
};

static err_t read_text(const char *text, unsigned api, struct params *out, struct refusal *no,
                       struct arena *a)
{
    const struct json *j;
    struct err_text why;
    arena_init(a, 1 << 20);
    assert_int_equal(json_read(text, strlen(text), a, &j, NULL, &why), OK);
    return fields_read(j, api, out, no);
}

static bool fits(const struct field *f, enum json_kind kind, const char *text)
{
    if (!(f->kinds & 1u << kind)) return false;
    if (f->store != STORE_INT && f->store != STORE_NUM) return true;
    double v = strtod(text, NULL);
    if (f->min == f->max) return true;
    return v <= f->max && (f->above_min ? v > f->min : v >= f->min);
}

static int check_field(const struct field *f, const char *outer, unsigned api)
{
    int n = 0;
    char body[200], path[100];
    snprintf(path, sizeof path, "%s%s%s", outer ? outer : "", outer ? "." : "", f->name);
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++, n++) {
        struct params p;
        struct refusal no = {0};
        struct arena a;
        if (outer)
            snprintf(body, sizeof body, "{\"%s\":{\"%s\":%s}}", outer, f->name, samples[i].text);
        else
            snprintf(body, sizeof body, "{\"%s\":%s}", f->name, samples[i].text);
        err_t err = read_text(body, api, &p, &no, &a);
        bool ok = fits(f, samples[i].kind, samples[i].text);
        // What a TREE or OBJECT holds is checked by others; best_of depends on n.
        if ((err == OK) != ok && strcmp(f->name, "best_of") != 0)
            fail_msg("%s: %s", body, err ? no.text.s : "accepted");
        if (err) {
            assert_int_equal(no.status, 400);
            assert_string_equal(no.param, path);
            assert_non_null(strstr(no.text.s, f->name));
        }
        arena_fini(&a);
    }
    return n;
}

static void each_field_and_each_kind(void **state)
{
    (void)state;
    size_t n;
    int cases = 0;
    const struct field *t = fields_table(&n);
    for (unsigned api = FIELD_CHAT; api <= FIELD_COMPLETIONS; api++)
        for (size_t i = 0; i < n; i++) {
            if (!(t[i].apis & api)) continue;
            cases += check_field(&t[i], NULL, api);
            for (size_t k = 0; k < t[i].n_sub; k++)
                cases += check_field(&t[i].sub[k], t[i].name, api);
        }
    print_message("%d generated cases\n", cases);
    assert_true(cases > 500);
}

static void limits_are_inside_and_named(void **state)
{
    (void)state;
    size_t n;
    const struct field *t = fields_table(&n);
    for (size_t i = 0; i < n; i++) {
        if (t[i].min >= t[i].max || strcmp(t[i].name, "best_of") == 0) continue;
        const double values[] = {t[i].min, t[i].max, t[i].min - 1, t[i].max + 1};
        for (int k = 0; k < 4; k++) {
            char body[100], limit[40];
            struct params p;
            struct refusal no;
            struct arena a;
            snprintf(body, sizeof body, "{\"%s\":%.15g}", t[i].name, values[k]);
            const unsigned apis = t[i].apis;
            err_t err = read_text(body, apis & FIELD_CHAT ? FIELD_CHAT : apis & -apis, &p, &no, &a);
            bool ok = k == 1 || (k == 0 && !t[i].above_min);
            assert_int_equal(err == OK, ok);
            snprintf(limit, sizeof limit, "%.15g", t[i].max);
            if (err) assert_non_null(strstr(no.text.s, limit));
            arena_fini(&a);
        }
    }
}

static void null_is_not_given(void **state)
{
    (void)state;
    size_t n;
    const struct field *t = fields_table(&n);
    struct params none, p;
    struct refusal no;
    struct arena a, b;
    assert_int_equal(read_text("{}", FIELD_CHAT, &none, &no, &a), OK);
    for (size_t i = 0; i < n; i++) {
        char body[100];
        snprintf(body, sizeof body, "{\"%s\":null}", t[i].name);
        assert_int_equal(read_text(body, FIELD_CHAT, &p, &no, &b), OK);
        assert_memory_equal(&p, &none, sizeof p);
        arena_fini(&b);
    }
    arena_fini(&a);
    assert_int_equal(none.n, 1);
    assert_int_equal(none.max_tokens, 0);
    assert_true(none.temperature == 1 && none.top_p == 1 && none.repetition == 1);
    assert_false(none.has_seed);
}

static void values_arrive(void **state)
{
    (void)state;
    struct params p;
    struct refusal no;
    struct arena a;
    assert_int_equal(read_text("{\"seed\":-5,\"stream\":true,\"stream_options\":{\"include_usage\":"
                               "true},\"temperature\":0.5,\"stop\":\"x\",\"n\":3,\"other\":[]}",
                               FIELD_CHAT, &p, &no, &a),
                     OK);
    assert_true(p.has_seed && p.seed == -5 && p.stream && p.include_usage && p.n == 3);
    assert_true(p.temperature == 0.5 && json_is(p.stop, "x"));
    arena_fini(&a);
}

static void not_an_object_or_too_wide(void **state)
{
    (void)state;
    struct params p;
    struct refusal no;
    struct arena a;
    assert_int_equal(read_text("[1]", FIELD_CHAT, &p, &no, &a), ERR_INVALID);
    arena_fini(&a);
    struct buf b = {0};
    buf_char(&b, '{');
    for (int i = 0; i <= FIELDS_KEYS_MAX; i++)
        buf_printf(&b, "%s\"k%d\":1", i ? "," : "", i);
    buf_char(&b, '}');
    assert_int_equal(read_text(b.data, FIELD_CHAT, &p, &no, &a), ERR_INVALID);
    assert_string_equal(no.code, "json_too_large");
    arena_fini(&a);
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_field_and_each_kind),  cmocka_unit_test(limits_are_inside_and_named),
        cmocka_unit_test(null_is_not_given),         cmocka_unit_test(values_arrive),
        cmocka_unit_test(not_an_object_or_too_wide),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
