// Tests of proto/base: errors, arenas, buffers, lists, numbers, JSON.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/arena.h"
#include "proto/base/buf.h"
#include "proto/base/dtype.h"
#include "proto/base/json.h"
#include "proto/base/list.h"

static void err_sentences_are_one_escaped_line(void **state)
{
    (void)state;
    struct err_text why;
    assert_int_equal(err_say(&why, ERR_MODEL, "a %s", "x\ny\x1b[31m\xff\xc3\xa4"), ERR_MODEL);
    assert_string_equal(why.s, "a x\\x0ay\\x1b[31m\\xff\xc3\xa4");
    char longer[2000];
    memset(longer, 'q', sizeof longer);
    longer[sizeof longer - 1] = 0;
    err_say(&why, ERR_MODEL, "%s", longer);
    assert_in_range(strlen(why.s), 200, sizeof why.s - 1);
    assert_int_equal(err_say(NULL, ERR_BUSY, "nobody listens"), ERR_BUSY);
    // C1, an overlong form and a surrogate: what peers and terminals do not take
    err_say(&why, ERR_MODEL, "%s", "\xc2\x9b|\xe0\x80\x80|\xed\xa0\x80|\xc2\xa0");
    assert_string_equal(why.s, "\\xc2\\x9b|\\xe0\\x80\\x80|\\xed\\xa0\\x80|\xc2\xa0");
    assert_int_equal(err_exit_code(ERR_MODEL), 78);
    assert_int_equal(err_exit_code(OK), 0);
    assert_true(err_is_request(ERR_BUSY) && err_is_link(ERR_LINK) && err_is_node(ERR_MODEL));
}

static void arena_budget_and_alignment(void **state)
{
    (void)state;
    struct arena a;
    arena_init(&a, 1000);
    for (int i = 0; i < 10; i++) {
        unsigned char *p = arena_take(&a, 33);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 16, 0);
        for (int k = 0; k < 33; k++)
            assert_int_equal(p[k], 0);
        memset(p, 0xff, 33);
    }
    assert_null(arena_take(&a, 600));
    assert_null(arena_take(&a, SIZE_MAX));
    assert_null(arena_take_n(&a, SIZE_MAX / 2, 3));
    arena_reset(&a);
    assert_int_equal(a.used_bytes, 0);
    char *s = arena_printf(&a, "%d %s", 7, "rowers");
    assert_string_equal(s, "7 rowers");
    assert_int_equal(arena_copy_str(&a, "ab", 2)[2], 0);
    arena_fini(&a);
    arena_fini(&a);
}

static void buf_grows_drops_and_breaks(void **state)
{
    (void)state;
    struct buf b = {.max = 100};
    buf_str(&b, "hello ");
    buf_printf(&b, "%d", 42);
    assert_string_equal(b.data, "hello 42");
    buf_drop(&b, 6);
    assert_string_equal(b.data, "42");
    buf_drop(&b, 100);
    assert_int_equal(b.len, 0);
    char big[200] = {0};
    buf_add(&b, big, sizeof big);
    assert_false(buf_ok(&b));
    buf_str(&b, "ignored");
    assert_int_equal(b.len, 0);
    buf_clear(&b);
    assert_true(buf_ok(&b));
    buf_fini(&b);
}

static void buf_json_strings_are_valid_json(void **state)
{
    (void)state;
    struct buf b = {0};
    buf_json_str(&b, "a\"\\\n\t\x01\xc3\xa4\xff\xed\xa0\x80z", 13);
    assert_string_equal(b.data,
                        "\"a\\\"\\\\\\n\\t\\u0001\xc3\xa4\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
                        "\xef\xbf\xbdz\"");
    buf_clear(&b);
    buf_json_num(&b, 0.1);
    buf_char(&b, ' ');
    buf_json_num(&b, NAN);
    buf_char(&b, ' ');
    buf_json_num(&b, 1.0 / 3);
    assert_string_equal(b.data, "0.1 null 0.33333333333333331");
    buf_fini(&b);
}

static void list_add_remove(void **state)
{
    (void)state;
    struct node {
        int v;
        struct list l;
    } n[3] = {{.v = 0}, {.v = 1}, {.v = 2}};
    struct list head;
    list_init(&head);
    list_push_back(&head, &n[1].l);
    list_push_back(&head, &n[2].l);
    list_push_front(&head, &n[0].l);
    int want = 0;
    list_each(it, &head) assert_int_equal(list_item(it, struct node, l)->v, want++);
    assert_int_equal(want, 3);
    list_remove(&n[1].l);
    list_remove(&n[1].l);
    assert_false(list_linked(&n[1].l));
    assert_ptr_equal(head.next->next, &n[2].l);
}

static void f16_round_trips_and_rounds(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = dtype_f16_to_f32((uint16_t)h);
        if (isnan(f)) continue;
        assert_int_equal(dtype_f32_to_f16(f), h);
    }
    assert_int_equal(dtype_f32_to_f16(65520.0f), 0x7c00); // rounds up to infinity
    assert_int_equal(dtype_f32_to_f16(65519.0f), 0x7bff);
    assert_int_equal(dtype_f32_to_f16(0x1p-25f), 0x0000); // half of the smallest: to even
    assert_int_equal(dtype_f32_to_f16(0x1.8p-25f), 0x0001);
    assert_int_equal(dtype_f32_to_f16(1.0f + 0x1p-11f), 0x3c00);
    assert_int_equal(dtype_f32_to_f16(1.0f + 0x1.8p-11f), 0x3c01);
}

static void dtype_rows(void **state)
{
    (void)state;
    assert_int_equal(dtype_row_bytes(DT_Q4_K, 512), 288);
    assert_int_equal(dtype_row_bytes(DT_Q4_K, 500), 0);
    assert_int_equal(dtype_row_bytes(DT_F32, UINT64_MAX), 0);
    assert_int_equal(dtype_of_ggml(12), DT_Q4_K);
    assert_int_equal(dtype_of_ggml(999), DT_NONE);
    assert_string_equal(dtype_ggml_name(16), "IQ2_XXS");
    assert_null(dtype_ggml_name(4));
}

static const struct json *read_ok(struct arena *a, const char *text)
{
    const struct json *j = NULL;
    struct err_text why = {0};
    assert_int_equal(json_read(text, strlen(text), a, &j, NULL, &why), OK);
    return j;
}

static void json_reads_trees(void **state)
{
    (void)state;
    struct arena a;
    arena_init(&a, 1 << 20);
    const struct json *j = read_ok(&a, " {\"b\":[1,-2.5,\"x\\u00e4\",null,true],\"a\":{}} ");
    assert_int_equal(j->kind, J_OBJ);
    assert_string_equal(j->obj.members[0].key, "b"); // document order
    const struct json *arr = json_get(j, "b");
    assert_int_equal(arr->arr.n, 5);
    assert_int_equal(arr->arr.items[0].i, 1);
    assert_true(json_number(&arr->arr.items[1], 0) == -2.5);
    assert_true(json_is(&arr->arr.items[2], "x\xc3\xa4"));
    assert_null(json_get(arr, "a"));
    assert_null(json_get(NULL, "a"));
    struct buf b = {0};
    json_write(&b, j);
    assert_string_equal(b.data, "{\"b\":[1,-2.5,\"x\xc3\xa4\",null,true],\"a\":{}}");
    buf_fini(&b);
    assert_int_equal(read_ok(&a, "7")->i, 7);
    arena_fini(&a);
}

static void json_refuses(void **state)
{
    (void)state;
    static const struct {
        const char *text, *code;
    } bad[] = {
        {"", "invalid_json"},
        {"{\"a\":1", "invalid_json"},
        {"{} {}", "invalid_json"},
        {"\xef\xbb\xbf{}", "invalid_json"},
        {"{/*c*/}", "invalid_json"},
        {"[NaN]", "invalid_json"},
        {"[1e999]", "invalid_json"},
        {"[18446744073709551616]", "invalid_json"},
        {"[\"\\ud800\"]", "invalid_json"},
        {"[\"\\u0000\"]", "invalid_json"},
        {"[\"\xff\"]", "invalid_utf8"},
        {"{\"n\":1,\"n\":2}", "duplicate_key"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct arena a;
        arena_init(&a, 1 << 20);
        const struct json *j = (const struct json *)&a;
        const char *code = NULL;
        struct err_text why = {0};
        err_t err = json_read(bad[i].text, strlen(bad[i].text), &a, &j, &code, &why);
        assert_int_equal(err, ERR_INVALID);
        assert_ptr_equal(j, &a); // untouched on failure
        if (strcmp(code, bad[i].code)) fail_msg("%s: %s, not %s", bad[i].text, code, bad[i].code);
        assert_non_null(strstr(why.s, "byte"));
        arena_fini(&a);
    }
}

static void json_limits(void **state)
{
    (void)state;
    struct arena a;
    const struct json *j;
    const char *code;
    arena_init(&a, 64 << 20);
    size_t n = 100000;
    char *deep = malloc(n);
    memset(deep, '[', n);
    assert_int_equal(json_read(deep, n, &a, &j, &code, NULL), ERR_INVALID);
    assert_string_equal(code, "json_too_deep");
    free(deep);
    n = 3 << 20;
    char *wide = malloc(n);
    for (size_t i = 0; i < n; i++)
        wide[i] = i == 0 ? '[' : i == n - 1 ? ']' : i % 2 ? '1' : ',';
    assert_int_equal(json_read(wide, n, &a, &j, &code, NULL), ERR_TOO_LARGE);
    assert_string_equal(code, "json_too_large");
    free(wide);
    arena_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(err_sentences_are_one_escaped_line),
        cmocka_unit_test(arena_budget_and_alignment),
        cmocka_unit_test(buf_grows_drops_and_breaks),
        cmocka_unit_test(buf_json_strings_are_valid_json),
        cmocka_unit_test(list_add_remove),
        cmocka_unit_test(f16_round_trips_and_rounds),
        cmocka_unit_test(dtype_rows),
        cmocka_unit_test(json_reads_trees),
        cmocka_unit_test(json_refuses),
        cmocka_unit_test(json_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
