// The tree that templates see.
#include "coordinator/door/messages.h"
#include "proto/base/buf.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

static void check(const char *in, const char *want)
{
    struct arena a;
    const struct json *j, *out;
    struct refusal no;
    struct buf text = {0};
    arena_init(&a, 1 << 20);
    assert_int_equal(json_read(in, strlen(in), &a, &j, NULL, NULL), OK);
    err_t err = messages_read(j, &a, &out, &no);
    if (err) fail_msg("%s: %s", in, no.text.s);
    json_write(&text, out);
    assert_string_equal(text.data, want);
    buf_fini(&text);
    arena_fini(&a);
}

static void shapes(void **state)
{
    (void)state;
    check("[{\"role\":\"developer\",\"content\":\"x\",\"extra\":1}]",
          "[{\"role\":\"system\",\"content\":\"x\"}]");
    check("[{\"role\":\"user\",\"name\":\"n\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
          "{\"type\":\"text\",\"text\":\"\"},{\"type\":\"text\",\"text\":\"b\"}]}]",
          "[{\"role\":\"user\",\"content\":\"ab\",\"name\":\"n\"}]");
    check("[{\"role\":\"assistant\",\"reasoning\":\"r\"}]",
          "[{\"role\":\"assistant\",\"content\":\"\",\"reasoning_content\":\"r\",\"reasoning\":"
          "\"r\"}]");
    check("[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"1\",\"function\":"
          "{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":[1]}\"}},{\"function\":{\"name\":\"g\","
          "\"arguments\":\"{oops\"}},{\"function\":{\"name\":\"h\"}}]}]",
          "[{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"id\":\"1\",\"type\":"
          "\"function\",\"function\":{\"name\":\"f\",\"arguments\":{\"a\":[1]}}},{\"type\":"
          "\"function\",\"function\":{\"name\":\"g\",\"arguments\":\"{oops\"}},{\"type\":"
          "\"function\",\"function\":{\"name\":\"h\",\"arguments\":{}}}]}]");
    check("[{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"x\"},{\"role\":\"function\","
          "\"name\":\"f\",\"content\":\"y\"}]",
          "[{\"role\":\"tool\",\"content\":\"x\",\"tool_call_id\":\"1\"},{\"role\":\"tool\","
          "\"content\":\"y\",\"name\":\"f\"}]");
}

static void repeats(void **state)
{
    (void)state;
    struct arena a;
    const struct json *j;
    const char *in = "[{\"role\":\"system\"},{\"role\":\"system\"},{\"role\":\"user\"},"
                     "{\"role\":\"assistant\"},{\"role\":\"assistant\"}]";
    arena_init(&a, 1 << 20);
    assert_int_equal(json_read(in, strlen(in), &a, &j, NULL, NULL), OK);
    assert_int_equal(messages_repeat(j), 4);
    arena_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(shapes), cmocka_unit_test(repeats)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
