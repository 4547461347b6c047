#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "coordinator/text/template.h"
#include "coordinator/text/turn.h"
#include "tests/unit/soon.h"
#include "tests/unit/text/turn_log.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char tools_text[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"parameters\":{\"type\":"
    "\"object\",\"properties\":{\"city\":{\"type\":\"string\"},\"days\":{\"type\":\"integer\"},"
    "\"code\":{\"type\":[\"string\",\"null\"]},\"opts\":{\"type\":\"object\"}}}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"now\"}}]";

struct rig {
    struct arena arena;
    const struct json *tools;
};

static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof *r);
    arena_init(&r->arena, 0);
    assert_int_equal(json_read(tools_text, strlen(tools_text), &r->arena, &r->tools, NULL, NULL),
                     OK);
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;
    arena_fini(&r->arena);
    free(r);
    return 0;
}

// The events of a text that comes in pieces of `step` bytes, moved to ends of characters.
static char *events(const struct rig *r, const char *format, const char *prompt, const char *text,
                    size_t len, size_t step, uint32_t *n_garbled)
{
    struct turn_log log = {0};
    struct turn t;
    const struct turn_config c = {.format = turn_format_named(format),
                                  .tools = r->tools,
                                  .prompt = prompt,
                                  .prompt_len = prompt ? strlen(prompt) : 0,
                                  .sink = turn_log_event,
                                  .arg = &log};
    assert_non_null(c.format);
    turn_init(&t, &c);
    for (size_t at = 0, n; at < len; at += n) {
        n = step < len - at ? step : len - at;
        while (at + n < len && ((unsigned char)text[at + n] & 0xc0) == 0x80)
            n++;
        assert_int_equal(turn_push(&t, text + at, n), OK);
    }
    assert_int_equal(turn_end(&t), OK);
    if (n_garbled) *n_garbled = t.n_garbled;
    turn_fini(&t);
    assert_true(turn_log_is_paired(&log));
    return turn_log_text(&log);
}

struct one {
    const char *format, *prompt, *text, *expected;
    uint32_t n_garbled;
};

static const struct one cases[] = {
    // plain text stays as it is
    {"hermes", "", " Hello\n world. \n", "T[ Hello\n world. \n]", 0},
    {"none", "", "a <b> </c>\n", "T[a <b> </c>\n]", 0},
    // thoughts
    {"hermes", "", "<think>\nhm, <b\n</think>\n\nYes.", "R[hm, <b]T[Yes.]", 0},
    {"hermes", "<think>\n", "hm\n</think>\n\nYes.\n", "R[hm]T[Yes.\n]", 0},
    {"hermes", "<think>\n\n</think>\n\n", "Yes.", "T[Yes.]", 0},
    {"hermes", "", "<think>cut o", "R[cut o]", 0},
    {"mistral", "", "[THINK]hm[/THINK]Yes.", "R[hm]T[Yes.]", 0},
    {"gemma", "", "<|channel>thought\nhm\n<channel|>Yes.", "R[hm]T[Yes.]", 0},
    // objects
    {"hermes", "",
     "I look.\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Os}lo\\\"\"}}\n"
     "</tool_call>\n<tool_call>{\"arguments\": {}, \"name\": \"now\"}</tool_call>",
     "T[I look.]C[get_weather]A[{\"city\": \"Os}lo\\\"\"}]EC[now]A[{}]E", 0},
    {"hermes", "", "<tool_call>{\"name\": \"now\"}</tool_call> bye", "C[now]A[{}]ET[bye]", 0},
    {"hermes", "", "<tool_call>{\"name\":\"now\",\"arguments\":\"{\\\"a\\\":1}\"}</tool_call>",
     "C[now]A[{\"a\":1}]E", 0},
    {"hermes", "", "<tool_call>{\"nome\": 3}</tool_call>x",
     "T[<tool_call>{\"nome\": 3}</tool_call>x]", 1},
    {"hermes", "", "<tool_call>\nhello</tool_call>", "T[<tool_call>\nhello</tool_call>]", 1},
    {"hermes", "", "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": [1,",
     "C[now]A[{\"a\": [1,]E", 1},
    {"hermes", "", "<tool_call>{\"name\": \"now\", 5}</tool_call>x", "C[now]ET[5}</tool_call>x]",
     1},
    {"qwen-xml", "",
     "<tool_call>{\"arguments\": {\"a\": 1}, \"name\": \"now\"}\n{\"name\": \"now\"}</tool_call>",
     "C[now]A[{\"a\": 1}]EC[now]A[{}]E", 0},
    {"hermes", "", "<tool_call>{\"name\": \"no", "T[<tool_call>{\"name\": \"no]", 1},
    {"mistral-list", "",
     "[TOOL_CALLS][{\"name\": \"now\", \"arguments\": {}}, {\"name\": \"get_weather\", "
     "\"arguments\": {\"city\": \"Rome\"}, \"id\": \"abc\"}]",
     "C[now]A[{}]EC[get_weather]A[{\"city\": \"Rome\"}]E", 0},
    {"mistral", "", "[TOOL_CALLS]now[ARGS]{\"a\": 1}[TOOL_CALLS]now[CALL_ID]123456789[ARGS]{}",
     "C[now]A[{\"a\": 1}]EC[now]A[{}]E", 0},
    {"mistral", "", "Ok.[TOOL_CALLS][{\"name\": \"now\", \"arguments\": {\"a\": 1}}]",
     "T[Ok.]C[now]A[{\"a\": 1}]E", 0},
    {"llama3", "", "{\"name\": \"now\", \"parameters\": {\"a\": 1}}", "C[now]A[{\"a\": 1}]E", 0},
    {"llama3", "",
     "<|python_tag|>{\"name\": \"now\", \"parameters\": {}}; {\"name\": \"now\", \"parameters\": "
     "{\"b\": 2}}",
     "C[now]A[{}]EC[now]A[{\"b\": 2}]E", 0},
    {"llama3", "", "{\"name\": \"Ada\", \"born\": 1815}", "T[{\"name\": \"Ada\", \"born\": 1815}]",
     1},
    {"llama3", "", "{\"x\": {\"name\": \"now\"}}", "T[{\"x\": {\"name\": \"now\"}}]", 1},
    {"deepseek-v3.1", "<think>",
     "so</think><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{\"a\": 1}"
     "<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
     "<｜tool▁calls▁end｜>",
     "R[so]C[now]A[{\"a\": 1}]EC[now]A[{}]E", 0},
    {"deepseek-v3", "",
     "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{\"a\": "
     "1}\n```"
     "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
     "C[now]A[{\"a\": 1}]E", 0},
    // tags
    {"qwen-xml", "<think>\n",
     "ok\n</think>\n\nText\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nOs\"lo\n"
     "ü</p\n</parameter>\n<parameter=days>\n2\n</parameter>\n<parameter=code>\n12\n</parameter>\n"
     "<parameter=opts>\n{\"a\": [1]}\n</parameter>\n<parameter=new>\nx y\n</parameter>\n"
     "</function>\n</tool_call>",
     "R[ok]T[Text]C[get_weather]A[{\"city\":\"Os\\\"lo\\nü</p\",\"days\":2,\"code\":\"12\","
     "\"opts\":{\"a\": [1]},\"new\":\"x y\"}]E",
     0},
    {"qwen-xml", "",
     "<tool_call>\n<function=now>\n</function>\n</tool_call>\n<tool_call>\n"
     "<function=now>\n</function>\n</tool_call>",
     "C[now]A[{}]EC[now]A[{}]E", 0},
    {"qwen-xml", "", "<function=now>\n</function>\n</tool_call>", "C[now]A[{}]ET[</tool_call>]", 0},
    {"qwen-xml", "", "<tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>",
     "C[now]A[{}]E", 0},
    {"glm", "",
     "\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n"
     "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>",
     "C[get_weather]A[{\"city\":\"Oslo\",\"days\":2}]E", 0},
    {"glm", "", "<tool_call>now</tool_call>", "C[now]A[{}]E", 0},
    {"minimax", "",
     "<minimax:tool_call>\n<invoke name=\"get_weather\">\n<parameter name=\"city\">Oslo"
     "</parameter>\n</invoke>\n<invoke name=\"now\">\n</invoke>\n</minimax:tool_call>",
     "C[get_weather]A[{\"city\":\"Oslo\"}]EC[now]A[{}]E", 0},
    {"seed", "<seed:think>",
     "so</seed:think><seed:tool_call>\n<function=get_weather>\n<parameter=city>Oslo\nü</parameter>"
     "\n<parameter=days>2</parameter>\n</function>\n</seed:tool_call>",
     "R[so]C[get_weather]A[{\"city\":\"Oslo\\nü\",\"days\":2}]E", 0},
    {"functionary", "",
     "<function=get_weather>{\"city\": \"Oslo\"}</function><function=now>{}</function>",
     "C[get_weather]A[{\"city\": \"Oslo\"}]EC[now]A[{}]E", 0},
    {"kimi", "",
     "Ok.<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
     "<|tool_call_argument_begin|>{\"city\": \"Oslo\"}<|tool_call_end|><|tool_call_begin|>"
     "functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
     "T[Ok.]C[get_weather]A[{\"city\": \"Oslo\"}]EC[now]A[{}]E", 0},
    {"tool-calls", "",
     "\n<tool_calls>[{\"name\": \"now\", \"arguments\": {}, \"id\": \"1\"}, {\"name\": \"now\", "
     "\"arguments\": {\"a\": 1}}]</tool_calls>",
     "C[now]A[{}]EC[now]A[{\"a\": 1}]E", 0},
    {"nemotron", "", "<TOOLCALL>[{\"name\": \"now\", \"arguments\": {\"a\": 1}}]</TOOLCALL>",
     "C[now]A[{\"a\": 1}]E", 0},
    {"granite", "", "<|tool_call|>[{\"name\": \"now\", \"arguments\": {\"a\": 1}}]",
     "C[now]A[{\"a\": 1}]E", 0},
    {"firefunction", "", " functools[{\"name\": \"now\", \"arguments\": {\"a\": 1}}]",
     "C[now]A[{\"a\": 1}]E", 0},
    {"lfm2", "", "<|tool_call_start|>[now(), get_weather(city=\"Oslo\")]<|tool_call_end|>Done.",
     "C[now]A[{}]EC[get_weather]A[{\"city\":\"Oslo\"}]ET[Done.]", 0},
    // braces
    {"gemma", "",
     "<|tool_call>call:get_weather{city:<|\"|>Os{l}o<|\"|>,days:2,opts:{a:[true,null]}}"
     "<tool_call|>",
     "C[get_weather]A[{\"city\":\"Os{l}o\",\"days\":2,\"opts\":{\"a\":[true,null]}}]E", 0},
    {"gemma", "", "<|tool_call>call:now{a:}<tool_call|>", "C[now]A[{a:}]E", 1},
    // Python
    {"pythonic", "",
     "[get_weather(city='It\\'s \"x\"', days=-2), now(a=[True, None], b={'k': 1.5})]",
     "C[get_weather]A[{\"city\":\"It's \\\"x\\\"\",\"days\":-2}]E"
     "C[now]A[{\"a\":[true,null],\"b\":{\"k\":1.5}}]E",
     0},
    {"pythonic", "", "[now(a='b\\", "T[[now(a='b\\]", 1},
    {"pythonic", "", "[now(a='b\"\\]\"", "T[[now(a='b\"\\]\"]", 1},
    {"pythonic", "", "[now(a=[\"'\\\"'])]", "T[[now(a=[\"'\\\"'])]]", 1},
    {"pythonic", "", "<|python_start|>5now(a='b\\", "T[<|python_start|>5now(a='b\\]", 1},
    {"pythonic", "", "[1, 2, 3]", "T[[1, 2, 3]]", 1},
    {"pythonic", "", "<|python_start|>[now()]<|python_end|>", "C[now]A[{}]E", 0},
    // harmony
    {"harmony", "",
     "<|channel|>analysis<|message|>hm <b<|end|><|start|>assistant<|channel|>commentary "
     "to=functions.now <|constrain|>json<|message|>{\"a\": 1}<|call|>",
     "R[hm <b]C[now]A[{\"a\": 1}]E", 0},
    {"harmony", "", " to=functions.now<|channel|>commentary json<|message|>{}<|call|>",
     "C[now]A[{}]E", 0},
    {"harmony", "",
     "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>final<|message|>"
     "Done. <|return|>",
     "T[I look.Done. ]", 0},
    {"harmony", "", "Hello", "T[Hello]", 0},
};

static void test_cases(void **state)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct one *c = &cases[i];
        const size_t len = strlen(c->text);
        for (size_t step = 1; step <= len; step = step < 9 ? step + 1 : step + len) {
            uint32_t n_garbled;
            char *got = events(*state, c->format, c->prompt, c->text, len, step, &n_garbled);
            if (strcmp(got, c->expected) || n_garbled != c->n_garbled)
                fail_msg("case %zu (%s) in pieces of %zu:\n  %s\n  gave     %s (%u garbled)\n"
                         "  expected %s (%u)",
                         i, c->format, step, c->text, got, n_garbled, c->expected, c->n_garbled);
            free(got);
        }
    }
}

// One cut at every place.
static void test_every_cut(void **state)
{
    struct rig *r = *state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct one *c = &cases[i];
        const size_t len = strlen(c->text);
        for (size_t cut = 0; cut <= len; cut++) {
            if (cut < len && ((unsigned char)c->text[cut] & 0xc0) == 0x80) continue;
            struct turn_log log = {0};
            struct turn t;
            const struct turn_config config = {.format = turn_format_named(c->format),
                                               .tools = r->tools,
                                               .prompt = c->prompt,
                                               .prompt_len = strlen(c->prompt),
                                               .sink = turn_log_event,
                                               .arg = &log};
            turn_init(&t, &config);
            assert_int_equal(turn_push(&t, c->text, cut), OK);
            assert_int_equal(turn_push(&t, c->text + cut, len - cut), OK);
            assert_int_equal(turn_end(&t), OK);
            turn_fini(&t);
            char *got = turn_log_text(&log);
            assert_string_equal(got, c->expected);
            free(got);
        }
    }
}

// Without functions nothing is a call; without marks nothing is changed.
static void test_no_tools(void **state)
{
    (void)state;
    const struct rig none = {.tools = NULL};
    static const char text[] = "x <tool_call>{\"name\": \"now\"}</tool_call>\n ";
    char *got = events(&none, "hermes", "", text, strlen(text), 3, NULL);
    assert_string_equal(got, "T[x <tool_call>{\"name\": \"now\"}</tool_call>\n ]");
    free(got);
}

// -- what templates write for a call is what is read --

static char *read_file(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    *len = (size_t)ftell(f);
    rewind(f);
    char *s = malloc(*len + 1);
    *len = fread(s, 1, *len, f);
    s[*len] = 0;
    fclose(f);
    return s;
}

static const char ask[] = "[{\"role\":\"user\",\"content\":\"Weather?\"}]";
static const char call[] =
    "[{\"role\":\"user\",\"content\":\"Weather?\"},{\"role\":\"assistant\",\"content\":\"\","
    "\"tool_calls\":[{\"id\":\"abcdef123\",\"type\":\"function\",\"function\":{\"name\":"
    "\"get_weather\",\"arguments\":{\"city\":\"Oslo \\\"x\\\"\",\"days\":2}}}]}]";

static bool render(const struct template *t, const struct rig *r, const char *messages, bool prompt,
                   struct template_output *out)
{
    struct arena a;
    arena_init(&a, 0);
    const struct json *j;
    assert_int_equal(json_read(messages, strlen(messages), &a, &j, NULL, NULL), OK);
    const struct template_input in = {.messages = j,
                                      .tools = r->tools,
                                      .bos_token = "",
                                      .eos_token = "",
                                      .add_generation_prompt = prompt};
    struct err_text why;
    const bool ok = template_render(t, &in, out, &why) == OK;
    arena_fini(&a);
    return ok;
}

// A template that spells what a row looks for gets that row, not one before it.
static void test_signs(void **state)
{
    (void)state;
    for (size_t i = 0; i < turn_n_format; i++) {
        struct buf source = {0};
        for (const char *const *sign = turn_formats[i].signs; *sign; sign++)
            buf_printf(&source, "{{ '%s' }}\n", *sign);
        assert_string_equal(turn_format_of(source.data, source.len)->name, turn_formats[i].name);
        buf_fini(&source);
    }
}

// True if this template could be asked.
static bool round_trip(struct rig *r, const char *dir, const char *name)
{
    char path[4400];
    size_t len;
    snprintf(path, sizeof path, "%s/%s/template.jinja", dir, name);
    char *source = read_file(path, &len);
    struct template *t;
    struct err_text why;
    if (!source) return false;
    assert_int_equal(template_open(source, len, &t, &why), OK);
    const struct turn_format *f = turn_format_of(source, len);
    struct template_output before = {0}, after = {0};
    bool asked = strcmp(f->name, "none") && render(t, r, ask, true, &before) &&
                 render(t, r, call, false, &after) && before.text.len < after.text.len &&
                 !memcmp(before.text.data, after.text.data, before.text.len);
    if (asked) {
        const char *text = after.text.data + before.text.len;
        size_t n = after.text.len - before.text.len;
        static const char *const ends[] = {"<|im_end|>",      "</s>",
                                           "<|eot_id|>",      "<|tool_response>",
                                           "<|observation|>", "<｜end▁of▁sentence｜>"};
        for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
            const char *end = memmem(text, n, ends[i], strlen(ends[i]));
            if (end) n = (size_t)(end - text);
        }
        char *got = events(r, f->name, "", text, n, 2, NULL);
        const char *args = strstr(got, "A[");
        bool ok = !strncmp(got, "C[get_weather]A[", 16) && strstr(args, "Oslo \\\"x\\\"") &&
                  strstr(args, "2}]E");
        if (!ok) fail_msg("%s (%s): %.*s\ngave %s", name, f->name, (int)n, text, got);
        free(got);
        printf("%-18s %s\n", name, f->name);
    }
    template_output_fini(&before);
    template_output_fini(&after);
    template_close(t);
    free(source);
    return asked;
}

static void test_templates(void **state)
{
    const char *fixtures = getenv("TRIREME_FIXTURES");
    char dir[4000];
    snprintf(dir, sizeof dir, "%s/chat_templates", fixtures ? fixtures : "../shared/fixtures");
    DIR *d = opendir(dir);
    if (!d) {
        printf("SKIPPED: no fixtures in %s (set TRIREME_FIXTURES)\n", dir);
        return;
    }
    int n = 0;
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.') n += round_trip(*state, dir, e->d_name);
    closedir(d);
    assert_true(n >= 5);
}

// -- hostile text --

static void test_linear(void **state)
{
    static const char *const units[] = {
        "<tool_call>",
        "<tool_call>{",
        "[TOOL_CALLS]",
        "<think>",
        "{\"a\":",
        "[",
        "</think>",
        "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": \"b\"}}</tool_call>",
        "<function=now><parameter=a>b",
        "<|channel|>",
        "[now(",
        "<|tool_call>call:now{",
        " ",
        "<"};
    for (size_t f = 0; f < turn_n_format; f++)
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            const size_t size = 200000, unit = strlen(units[u]);
            char *text = malloc(size);
            for (size_t i = 0; i < size; i++)
                text[i] = units[u][i % unit];
            const int64_t from = soon_now_us();
            free(events(*state, turn_formats[f].name, "", text, size, 4, NULL));
            assert_true(soon_is(from, 250000));
            free(text);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),     cmocka_unit_test(test_every_cut),
        cmocka_unit_test(test_no_tools),  cmocka_unit_test(test_signs),
        cmocka_unit_test(test_templates), cmocka_unit_test(test_linear),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
