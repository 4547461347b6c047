#include "proto/base/hex.h"

#include <stdarg.h>
#include <stdlib.h>
#include <setjmp.h>
#include <string.h>
#include <cmocka.h>

static void both_ways(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {0x00, 0x09, 0x9f, 0xa0, 0xff};
    char text[2 * sizeof bytes + 1];
    uint8_t back[sizeof bytes];
    hex_write(bytes, sizeof bytes, text);
    assert_string_equal(text, "00099fa0ff");
    assert_true(hex_read(text, sizeof bytes, back));
    assert_memory_equal(back, bytes, sizeof bytes);
    assert_true(hex_read("00099FA0fF", sizeof bytes, back));
    assert_memory_equal(back, bytes, sizeof bytes);
}

// Nothing behind a text's end is looked at.
static void refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"",     "0",    "0g",   "g0",   "00 1", "0x00",
                                      "00/0", "00:0", "00@0", "00`0", "000"};
    uint8_t out[2];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char *text = strdup(bad[i]);
        assert_non_null(text);
        assert_false(hex_read(text, sizeof out, out));
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_ways),
        cmocka_unit_test(refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
