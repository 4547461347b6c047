// Calls as grammars: what is written at random from the masks is read back as calls that were asked
// for, with arguments that their schemas allow; in every format.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "coordinator/text/turn_grammar.h"
#include "tests/unit/text/grammar_rig.h"
#include "tests/unit/text/json_valid.h"

static const char tools_text[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"parameters\":{\"type\":"
    "\"object\",\"properties\":{\"city\":{\"type\":\"string\"},\"days\":{\"type\":\"integer\","
    "\"minimum\":1,\"maximum\":9},\"unit\":{\"type\":\"string\",\"enum\":[\"C\",\"F\"]},\"at\":{"
    "\"$ref\":\"#/$defs/p\"},\"list\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/p\"}}},"
    "\"required\":[\"city\",\"unit\"],\"$defs\":{\"p\":{\"type\":\"object\",\"properties\":{\"x\":"
    "{\"type\":\"number\"}},\"required\":[\"x\"]}}}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"now\",\"parameters\":{\"type\":\"object\","
    "\"properties\":{\"zone\":{\"type\":\"boolean\"}}}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"odd\",\"parameters\":{\"type\":\"object\","
    "\"properties\":{\"n\":{\"type\":\"integer\",\"not\":{\"const\":3}}}}}}]";

static struct rig rig;
static struct arena mem;
static const struct json *tools;
static json_t *judge;

// What was read back.
struct calls {
    uint32_t n;
    char name[16][32];
    struct buf args[16], text, thoughts;
};

static void sink(void *arg, const struct turn_event *e)
{
    struct calls *c = arg;
    if (e->kind == TURN_TEXT) buf_add(&c->text, e->s, e->len);
    if (e->kind == TURN_REASONING) buf_add(&c->thoughts, e->s, e->len);
    if (e->kind == TURN_CALL && c->n < 16)
        snprintf(c->name[c->n++], sizeof c->name[0], "%.*s", (int)e->len, e->s);
    if (e->kind == TURN_ARGUMENTS && e->call < 16) buf_add(&c->args[e->call], e->s, e->len);
}

static void forget(struct calls *c)
{
    for (int i = 0; i < 16; i++)
        buf_fini(&c->args[i]);
    buf_fini(&c->text);
    buf_fini(&c->thoughts);
    *c = (struct calls){0};
}

static uint32_t read_back(const struct turn_ask *ask, const char *tail, const struct buf *text,
                          struct calls *out)
{
    struct turn t;
    const struct turn_config c = {.format = ask->format,
                                  .tools = tools,
                                  .prompt = tail,
                                  .prompt_len = strlen(tail),
                                  .sink = sink,
                                  .arg = out};
    turn_init(&t, &c);
    assert_int_equal(turn_push(&t, text->data, text->len), OK);
    assert_int_equal(turn_end(&t), OK);
    const uint32_t n_garbled = t.n_garbled;
    turn_fini(&t);
    return n_garbled;
}

static struct grammar *grammar_of(const struct turn_ask *ask)
{
    const struct grammar_spec *spec = NULL;
    struct grammar *g = NULL;
    struct err_text why = {""};
    if (turn_grammar(ask, &mem, &spec, &why) != OK) fail_msg("%s", why.s);
    if (!spec) return NULL;
    if (grammar_open(rig.book, spec, &g, &why) != OK) fail_msg("%s: %s", ask->format->name, why.s);
    return g;
}

static const json_t *parameters_of(const char *name)
{
    for (size_t i = 0; i < json_array_size(judge); i++) {
        const json_t *f = json_object_get(json_array_get(judge, i), "function");
        if (!strcmp(json_string_value(json_object_get(f, "name")), name))
            return json_object_get(f, "parameters");
    }
    return NULL;
}

static void check_call(const struct turn_ask *ask, const struct calls *c, uint32_t i,
                       const struct buf *text)
{
    const json_t *schema = parameters_of(c->name[i]);
    const char *format = ask->format->name;
    if (!schema || (ask->name && strcmp(ask->name, c->name[i])))
        fail_msg("%s: %s", format, text->data);
    const char *args = c->args[i].len ? c->args[i].data : "{}";
    json_t *v = json_loads(args, 0, NULL);
    if (!v || !valid(schema, schema, v)) fail_msg("%s: '%s' from '%s'", format, args, text->data);
    json_decref(v);
}

static void run(const struct turn_ask *ask, const char *tail, int n)
{
    struct grammar *g = grammar_of(ask);
    struct buf text = {0};
    int n_done = 0;
    char close[64] = "";
    if (!g) fail_msg("%s: no grammar", ask->format->name);
    if (ask->format->value_close)
        snprintf(close, sizeof close, "%s%s", ask->format->value_lines ? "\n" : "",
                 ask->format->value_close);
    const bool has_header = ask->format->name_kind == TURN_NAME_HEADER;
    rig.hurry[0] = has_header ? "<|end|>" : ask->format->think_close;
    rig.hurry[1] = close;
    for (int k = 0; k < n; k++) {
        struct calls c = {0};
        if (!rig_write(&rig, g, &text)) continue;
        if (memchr(text.data, 0, text.len)) continue; // no argument that is read again holds one
        n_done++;
        const uint32_t n_garbled = read_back(ask, tail, &text, &c);
        // A message that ends with the turn has no mark behind it.
        if (n_garbled && !has_header) fail_msg("%s: garbled '%s'", ask->format->name, text.data);
        const bool answered = ask->answer && c.text.len && !strcmp(c.text.data, "yes");
        if (!c.n && !answered && !ask->free_text)
            fail_msg("%s: no call in '%s' (%s)", ask->format->name, text.data, c.text.data);
        if (ask->one_call && c.n > 1)
            fail_msg("%s: two calls in '%s'", ask->format->name, text.data);
        for (uint32_t i = 0; i < c.n && i < 16; i++)
            check_call(ask, &c, i, &text);
        forget(&c);
    }
    if (n_done < n / 2) fail_msg("%s: %d of %d", ask->format->name, n_done, n);
    buf_fini(&text);
    grammar_give(g);
}

static struct turn_ask ask_of(size_t format)
{
    return (struct turn_ask){
        .format = &turn_formats[format], .tokenizer = rig.tok, .book = rig.book, .tools = tools};
}

static void test_calls_of_every_format(void **state)
{
    (void)state;
    for (size_t i = 0; i < turn_n_format; i++) {
        struct turn_ask ask = ask_of(i);
        if (!turn_format_has_calls(ask.format)) continue;
        run(&ask, "", 40);
        ask.one_call = true;
        run(&ask, "", 10);
        ask.name = "now";
        run(&ask, "", 10);
        if (!ask.format->think_open) continue;
        ask.is_thinking = true;
        run(&ask, ask.format->think_open, 20);
    }
}

static void test_answers_or_calls(void **state)
{
    (void)state;
    const struct grammar_spec yes = {.kind = GRAMMAR_LITERAL, .text = "yes", .len = 3};
    for (size_t i = 0; i < turn_n_format; i++) {
        struct turn_ask ask = ask_of(i);
        ask.answer = &yes;
        if (!turn_format_has_calls(ask.format)) ask.tools = NULL;
        run(&ask, "", 20);
        ask.tools = NULL;
        run(&ask, "", 5);
        if (!ask.format->think_open) continue;
        ask.is_thinking = true;
        run(&ask, ask.format->think_open, 10);
    }
}

static void test_free_text_before_calls(void **state)
{
    (void)state;
    for (size_t i = 0; i < turn_n_format; i++) {
        struct turn_ask ask = ask_of(i);
        ask.free_text = true;
        if (!turn_format_has_calls(ask.format)) continue;
        struct grammar *g = grammar_of(&ask);
        const bool has_mark = !ask.format->bare && ask.format->name_kind != TURN_NAME_HEADER;
        assert_int_equal(g != NULL, has_mark);
        if (!g) continue;
        const char *mark = ask.format->open ? ask.format->open : ask.format->call_open;
        char text[200];
        assert_true(rig_takes(g, "just text"));
        assert_true(rig_takes(g, ""));
        assert_false(rig_takes(g, mark));
        snprintf(text, sizeof text, "text%stext", mark);
        assert_false(rig_takes(g, text));
        grammar_give(g);
    }
}

// Of a function that is not strict, a schema that cannot be kept gives way; of a strict one it is
// an error.
static void test_strict_functions(void **state)
{
    (void)state;
    struct err_text why = {""};
    const struct grammar_spec *spec;
    struct grammar *g;
    struct turn_ask ask = {.format = turn_format_named("hermes"),
                           .tokenizer = rig.tok,
                           .book = rig.book,
                           .tools = tools,
                           .name = "odd"};
    run(&ask, "", 20);
    static const char strict[] =
        "[{\"type\":\"function\",\"function\":{\"name\":\"odd\",\"strict\":true,\"parameters\":{"
        "\"type\":\"object\",\"properties\":{\"n\":{\"not\":{}}}}}}]";
    assert_int_equal(json_read(strict, sizeof strict - 1, &mem, &ask.tools, NULL, NULL), OK);
    assert_int_equal(turn_grammar(&ask, &mem, &spec, &why), OK);
    assert_int_equal(grammar_open(rig.book, spec, &g, &why), ERR_UNSUPPORTED);
    assert_non_null(strstr(why.s, "'not'"));
}

static int setup(void **state)
{
    (void)state;
    rig_open(&rig);
    arena_init(&mem, 0);
    judge = json_loads(tools_text, 0, NULL);
    return json_read(tools_text, sizeof tools_text - 1, &mem, &tools, NULL, NULL);
}

static int teardown(void **state)
{
    (void)state;
    json_decref(judge);
    arena_fini(&mem);
    rig_close(&rig);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calls_of_every_format),
        cmocka_unit_test(test_answers_or_calls),
        cmocka_unit_test(test_free_text_before_calls),
        cmocka_unit_test(test_strict_functions),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
