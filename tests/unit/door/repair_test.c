#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "coordinator/door/repair.h"
#include "coordinator/text/template.h"
#include "proto/base/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define M(role, text) "{\"role\":\"" role "\",\"content\":\"" text "\"}"
#define CALL                                                                                       \
    "{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"id\":\"abcdefghi\",\"type\":"     \
    "\"function\",\"function\":{\"name\":\"f\",\"arguments\":{\"x\":1}}}]}"
#define TOOL "{\"role\":\"tool\",\"content\":\"r\",\"tool_call_id\":\"abcdefghi\"}"

static void check(const char *in, unsigned rules, unsigned changed, const char *want)
{
    struct arena a;
    const struct json *j, *out;
    struct buf got = {0};
    unsigned did = 0;
    arena_init(&a, 1 << 20);
    assert_int_equal(json_read(in, strlen(in), &a, &j, NULL, NULL), OK);
    assert_int_equal(repair_apply(j, rules, &a, &out, &did), OK);
    json_write(&got, out);
    assert_string_equal(got.data, want);
    assert_int_equal(did, changed);
    buf_fini(&got);
    arena_fini(&a);
}

static void test_rules(void **state)
{
    (void)state;
    check("[" M("user", "a") "," M("user", "b") "]", REPAIR_MERGE, REPAIR_MERGE,
          "[" M("user", "a\\n\\nb") "]");
    check("[" M("user", "a") "," M("user", "") "," M("user", "c") "," M("user", "d") "," M(
              "assistant", "e") "," TOOL "]",
          REPAIR_MERGE, REPAIR_MERGE,
          "[" M("user", "a\\n\\nc\\n\\nd") "," M("assistant", "e") "," TOOL "]");
    check("[" M("system", "s") "," M("system", "t") "," M("user", "a") "," M("system", "u") "," M(
              "system", "v") "]",
          REPAIR_SYSTEM, REPAIR_SYSTEM,
          "[" M("user", "s\\n\\nt\\n\\na") "," M("user", "u\\n\\nv") "]");
    check(
        "[" CALL "," CALL "]", REPAIR_MERGE | REPAIR_TOOLS, REPAIR_MERGE | REPAIR_TOOLS,
        "[" M(
            "assistant",
            "{\\\"name\\\":\\\"f\\\",\\\"arguments\\\":{\\\"x\\\":1}}\\n\\n{\\\"name\\\":\\\"f\\\","
            "\\\"arguments\\\":{\\\"x\\\":1}}") "]");
    check("[" M("user", "a") "," M("assistant", "b") "]", REPAIR_MERGE, 0,
          "[" M("user", "a") "," M("assistant", "b") "]");
    check("[" TOOL "," TOOL "]", REPAIR_MERGE, 0, "[" TOOL "," TOOL "]");
    check("[" M("assistant", "a") "," CALL "]", REPAIR_MERGE, REPAIR_MERGE,
          "[{\"role\":\"assistant\",\"content\":\"a\",\"tool_calls\":[{\"id\":\"abcdefghi\","
          "\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":{\"x\":1}}}]}]");
    check("[" M("system", "s") "," M("user", "a") "]", REPAIR_SYSTEM, REPAIR_SYSTEM,
          "[" M("user", "s\\n\\na") "]");
    check("[" M("system", "s") "]", REPAIR_SYSTEM, REPAIR_SYSTEM, "[" M("user", "s") "]");
    check("[" M("system", "s") "," M("user", "a") "," M("system", "t") "," M("assistant", "b") "]",
          REPAIR_LATER, REPAIR_LATER,
          "[" M("system", "s") "," M("user", "a") "," M("user", "t") "," M("assistant", "b") "]");
    check("[" TOOL "," M("user", "a") "]", REPAIR_BRIDGE, REPAIR_BRIDGE,
          "[" TOOL "," M("assistant", "OK.") "," M("user", "a") "]");
    check("[" CALL "," TOOL "]", REPAIR_TOOLS, REPAIR_TOOLS,
          "[" M("assistant",
                "{\\\"name\\\":\\\"f\\\",\\\"arguments\\\":{\\\"x\\\":1}}") "," M("user", "r") "]");
}

// Whatever the arena holds, either all of it is done or ERR_MEMORY says so.
static void test_memory(void **state)
{
    static const char in[] =
        "[" M("system", "s") "," M("user", "a") "," M("user", "b") "," CALL "," TOOL
                                                                   "," M("user", "c") "]";
    (void)state;
    bool failed = false, worked = false;
    for (size_t room = 0; room < 8000; room += 100) {
        struct arena a, small;
        const struct json *j, *out = NULL;
        unsigned did;
        arena_init(&a, 1 << 20);
        arena_init(&small, room + 1);
        assert_int_equal(json_read(in, sizeof in - 1, &a, &j, NULL, NULL), OK);
        err_t err = repair_apply(j, 31, &small, &out, &did);
        if (err) assert_null(out);
        failed |= err == ERR_MEMORY;
        worked |= err == OK;
        arena_fini(&small);
        arena_fini(&a);
    }
    assert_true(failed && worked);
}

// Many messages are joined at once: in a fraction of what one join after the other would take.
static void test_many(void **state)
{
    enum { N = 2000, EACH = 1000 };
    static struct json_member members[N][2];
    static struct json items[N];
    static char text[EACH];
    struct json list = {.kind = J_ARR, .arr = {.items = items, .n = N}};
    struct arena a;
    const struct json *out;
    unsigned did;
    (void)state;
    memset(text, 'x', sizeof text);
    for (size_t i = 0; i < N; i++) {
        const struct json role = {.kind = J_STR,
                                  .str = {.s = i ? "system" : "user", .len = i ? 6 : 4}};
        const struct json content = {.kind = J_STR, .str = {.s = text, .len = EACH}};
        members[i][0] = (struct json_member){"role", 4, role};
        members[i][1] = (struct json_member){"content", 7, content};
        items[i] = (struct json){.kind = J_OBJ, .obj = {.members = members[i], .n = 2}};
    }
    arena_init(&a, 16 << 20);
    assert_int_equal(repair_apply(&list, REPAIR_SYSTEM | REPAIR_MERGE, &a, &out, &did), OK);
    assert_int_equal(did, REPAIR_SYSTEM | REPAIR_MERGE);
    assert_int_equal(out->arr.n, 1);
    assert_int_equal(json_get(out->arr.items, "content")->str.len, N * (EACH + 2) - 2);
    arena_fini(&a);
}

// What each strict template of the fixtures refuses is taken after a repair.
static void check_template(const char *name, const char *const *conversations, size_t n)
{
    char path[4096];
    static char source[1 << 20];
    struct template *t = NULL;
    struct err_text why = {""};
    const char *dir = getenv("TRIREME_FIXTURES");
    snprintf(path, sizeof path, "%s/chat_templates/%s/template.jinja",
             dir ? dir : "../shared/fixtures", name);
    FILE *f = fopen(path, "rb");
    if (!f) {
        print_message("SKIPPED: %s is not there\n", path);
        return;
    }
    size_t len = fread(source, 1, sizeof source, f);
    fclose(f);
    assert_int_equal(template_open(source, len, &t, &why), OK);
    for (size_t i = 0; i < n; i++) {
        struct arena a;
        struct template_output out = {0};
        struct template_input in = {.bos_token = "<s>", .eos_token = "</s>"};
        const struct json *j;
        unsigned did, rules;
        arena_init(&a, 1 << 20);
        assert_int_equal(json_read(conversations[i], strlen(conversations[i]), &a, &j, NULL, NULL),
                         OK);
        in.messages = j;
        err_t err = template_render(t, &in, &out, &why);
        if (err != ERR_INVALID) fail_msg("%s takes %s", name, conversations[i]);
        for (size_t k = 0; err && (rules = repair_way(k)) != 0; k++) {
            assert_int_equal(repair_apply(j, rules, &a, &in.messages, &did), OK);
            err = template_render(t, &in, &out, &why);
        }
        if (err) fail_msg("%s: %s: %s", name, conversations[i], why.s);
        template_output_fini(&out);
        arena_fini(&a);
    }
    template_close(t);
}

static void test_fixtures(void **state)
{
    static const char *const both[] = {
        "[" M("user", "a") "," M("user", "b") "]",
        "[" M("system", "s") "," M("user", "a") "," M("user", "b") "]",
        "[" M("user", "a") "," CALL "," TOOL "," M("user", "b") "]",
        "[" M("user", "a") "," CALL "," TOOL "," M("user", "b") "," M("user", "c") "]",
    };
    (void)state;
    check_template("gemma-2", both, 4);
    check_template("mistral-small-3.2", both, 2);
    check_template("mistral-small-3.2", both + 3, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rules), cmocka_unit_test(test_memory),
                                       cmocka_unit_test(test_many),
                                       cmocka_unit_test(test_fixtures)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
