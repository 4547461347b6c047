#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/unit/text/grammar_rig.h"
#include "tests/unit/text/json_valid.h"
#include "tests/unit/text/schema_cases.h"

#include <time.h>

static struct rig rig;

static const struct json *tree(struct arena *a, const char *text)
{
    const struct json *j;
    struct err_text why;
    if (json_read(text, strlen(text), a, &j, NULL, &why) != OK) fail_msg("%s: %s", text, why.s);
    return j;
}

static err_t open_spec(const struct grammar_spec *spec, struct grammar **g, struct err_text *why)
{
    return grammar_open(rig.book, spec, g, why);
}

static struct grammar *open_ok(struct grammar_spec spec)
{
    struct grammar *g = NULL;
    struct err_text why = {""};
    if (open_spec(&spec, &g, &why) != OK) fail_msg("%s", why.s);
    return g;
}

static struct grammar *of_text(enum grammar_kind kind, const char *text)
{
    return open_ok((struct grammar_spec){.kind = kind, .text = text, .len = strlen(text)});
}

static struct grammar *of_schema(const char *text)
{
    struct arena a;
    arena_init(&a, 0);
    struct grammar *g = NULL;
    struct err_text why = {""};
    const struct grammar_spec spec = {.kind = GRAMMAR_SCHEMA, .json = tree(&a, text)};
    if (open_spec(&spec, &g, &why) != OK) fail_msg("%s: %s", text, why.s);
    arena_fini(&a);
    return g;
}

static void takes(struct grammar *g, const char *text, bool wanted, const char *what)
{
    if (rig_takes(g, text) != wanted)
        fail_msg("%s: '%s' %s", what, text, wanted ? "refused" : "taken");
}

static void test_schemas_take_and_refuse(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof schema_cases / sizeof *schema_cases; i++) {
        const struct schema_case *c = &schema_cases[i];
        struct grammar *g = of_schema(c->schema);
        json_t *s = json_loads(c->schema, JSON_DECODE_ANY, NULL);
        for (int k = 0; k < 6 && c->good[k]; k++) {
            takes(g, c->good[k], true, c->schema);
            json_t *v = json_loads(c->good[k], JSON_DECODE_ANY, NULL);
            assert_non_null(v);
            if (!valid(s, s, v) && !strstr(c->schema, "additionalItems"))
                fail_msg("%s: the judge refuses %s", c->schema, c->good[k]);
            json_decref(v);
        }
        for (int k = 0; k < 8 && c->bad[k]; k++)
            takes(g, c->bad[k], false, c->schema);
        json_decref(s);
        grammar_give(g);
    }
}

// Whatever is written at random from the masks alone is a document that the schema allows.
static void test_schemas_write_only_valid_texts(void **state)
{
    (void)state;
    struct buf out = {0};
    uint32_t n_done = 0, n_all = 0;
    for (size_t i = 0; i < sizeof schema_cases / sizeof *schema_cases; i++) {
        const char *schema = schema_cases[i].schema;
        struct grammar *g = of_schema(schema);
        json_t *s = json_loads(schema, JSON_DECODE_ANY, NULL);
        for (int k = 0; k < 12; k++) {
            json_error_t why;
            n_all++;
            if (!rig_write(&rig, g, &out)) continue;
            n_done++;
            json_t *v = json_loadb(out.data, out.len, JSON_DECODE_ANY, &why);
            if (!v) fail_msg("%s: '%s': %s", schema, out.data, why.text);
            if (!valid(s, s, v)) fail_msg("%s: '%s'", schema, out.data);
            json_decref(v);
        }
        json_decref(s);
        grammar_give(g);
    }
    buf_fini(&out);
    if (n_done < n_all * 9 / 10) fail_msg("only %u of %u came to an end", n_done, n_all);
}

static void test_any_object(void **state)
{
    (void)state;
    struct buf out = {0};
    struct grammar *g = open_ok((struct grammar_spec){.kind = GRAMMAR_OBJECT});
    takes(g, "{\"a\": {\"b\": [1, {\"c\": \"\"}]}}", true, "object");
    takes(g, "[1]", false, "object");
    takes(g, " {}", false, "object");
    takes(g, "{} ", false, "object");
    for (int k = 0; k < 100; k++) {
        if (!rig_write(&rig, g, &out)) continue;
        json_t *v = json_loadb(out.data, out.len, 0, NULL);
        if (!json_is_object(v)) fail_msg("'%s'", out.data);
        json_decref(v);
    }
    buf_fini(&out);
    grammar_give(g);
}

// Nesting is bounded, and what was begun can always be ended.
static void test_depth(void **state)
{
    (void)state;
    struct grammar *g = open_ok((struct grammar_spec){.kind = GRAMMAR_OBJECT});
    char text[400];
    bool may_end;
    memcpy(text, "{\"a\":", 5);
    memset(text + 5, '[', 200);
    const size_t n = rig_feed(g, text, 205, &may_end) - 5;
    assert_in_range(n, 40, 64);
    memset(text + 5 + n, ']', n);
    text[5 + 2 * n] = '}';
    text[6 + 2 * n] = 0;
    takes(g, text, true, "depth");
    grammar_give(g);
}

static const struct {
    const char *regex;
    const char *good[5], *bad[5];
} regexes[] = {
    {"", {""}, {"a"}},
    {"abc", {"abc"}, {"ab", "abcd", "xabc"}},
    {"^abc$", {"abc"}, {"ab", "abcd"}},
    {"a|bc|", {"a", "bc", ""}, {"b", "abc"}},
    {"[^a-c]", {"d", "\xc3\xa9", "\n"}, {"a", "", "dd", "\xc3"}},
    {"[\\]a-]+", {"]", "a-]"}, {"b", ""}},
    {"[]x]", {"]", "x"}, {"a"}},
    {"a{3}", {"aaa"}, {"aa", "aaaa"}},
    {"a{2,}", {"aa", "aaaaaaa"}, {"a"}},
    {"a{,2}", {"", "aa"}, {"aaa"}},
    {"(ab){100,200}x", {NULL}, {"abx", "x"}},
    {"(?:a(?<n>b)?)+?c*", {"a", "abac", "ab"}, {"c", "b"}},
    {"(a*)*b", {"b", "aaab"}, {"a", "ba"}},
    {"(a?){3}", {"", "aaa"}, {"aaaa"}},
    {"(a?){2,}b", {"b", "aaaab"}, {"a"}},
    {"(a|aa)+", {"a", "aaaaa"}, {"", "b"}},
    {"\\d+\\.\\d{2}", {"1.25", "100.00"}, {"1.2", ".25"}},
    {"\\w\\W\\s\\S", {"a-\tb", "_ \nx"}, {"--  ", "ab b"}},
    {"\\x41\\u00e9\\u{1F600}\\/", {"A\xc3\xa9\xf0\x9f\x98\x80/"}, {"A"}},
    {".", {"a", "\xf0\x9f\x98\x80"}, {"\n", "", "ab"}},
    {"[\\u0800-\\uffff]{2}",
     {"\xe0\xa0\x80\xef\xbf\xbf"},
     {"\xf0\x90\x80\x80", "\xed\xa0\x80\xed\xa0\x80"}},
    {"(0|[1-9][0-9]*)(\\.[0-9]+)?", {"0", "10.50"}, {"01", "1."}},
};

static void test_regexes(void **state)
{
    (void)state;
    struct buf out = {0};
    char whole[200];
    for (size_t i = 0; i < sizeof regexes / sizeof *regexes; i++) {
        struct grammar *g = of_text(GRAMMAR_REGEX, regexes[i].regex);
        snprintf(whole, sizeof whole, "^(?:%s)$", regexes[i].regex);
        for (int k = 0; k < 5 && regexes[i].good[k]; k++)
            takes(g, regexes[i].good[k], true, regexes[i].regex);
        for (int k = 0; k < 5 && regexes[i].bad[k]; k++)
            takes(g, regexes[i].bad[k], false, regexes[i].regex);
        for (int k = 0; k < 10; k++)
            if (rig_write(&rig, g, &out) && !strpbrk(whole, "su") && !strstr(whole, "[]") &&
                !strstr(whole, "{,") && !valid_match(whole, out.data, out.len))
                fail_msg("%s: '%s'", whole, out.data);
        grammar_give(g);
    }
    buf_fini(&out);
}

static void test_notation(void **state)
{
    (void)state;
    struct grammar *g = of_text(GRAMMAR_NOTATION, "# sums\n"
                                                  "root ::= term (op term)* \"\\n\"?\n"
                                                  "op   ::= \" \" [-+*/] \" \"\n"
                                                  "term ::= num | \"(\" root \")\" |\n"
                                                  "         \"-\" term\n"
                                                  "num ::= [0-9]{1,3}");
    takes(g, "1", true, "sums");
    takes(g, "-(12 + 3) * 999\n", true, "sums");
    takes(g, "1 +", false, "sums");
    takes(g, "1234", false, "sums");
    takes(g, "((1)", false, "sums");
    grammar_give(g);
    // A list by recursion at its end is not nesting, and may be long.
    g = of_text(GRAMMAR_NOTATION, "root ::= \"a\" root | \"b\"");
    char text[5001];
    memset(text, 'a', sizeof text - 2);
    text[sizeof text - 2] = 'b';
    text[sizeof text - 1] = 0;
    takes(g, text, true, "list");
    grammar_give(g);
}

static void test_choices(void **state)
{
    (void)state;
    const struct grammar_spec words[] = {
        {.kind = GRAMMAR_LITERAL, .text = "yes", .len = 3},
        {.kind = GRAMMAR_LITERAL, .text = "yesterday", .len = 9},
        {.kind = GRAMMAR_LITERAL, .text = "no", .len = 2},
        {.kind = GRAMMAR_LITERAL, .text = "yes", .len = 3},
        {.kind = GRAMMAR_LITERAL, .text = "\xc3\xa9", .len = 2},
    };
    struct grammar *g =
        open_ok((struct grammar_spec){.kind = GRAMMAR_ANY, .parts = words, .n_part = 5});
    takes(g, "yes", true, "choice");
    takes(g, "yesterday", true, "choice");
    takes(g, "no", true, "choice");
    takes(g, "\xc3\xa9", true, "choice");
    takes(g, "yest", false, "choice");
    takes(g, "", false, "choice");
    takes(g, "noyes", false, "choice");
    grammar_give(g);
}

#define LITERAL(s)                                                                                 \
    {                                                                                              \
        .kind = GRAMMAR_LITERAL, .text = s, .len = sizeof(s) - 1                                   \
    }

// Free text, then calls of tools: the way out is the whole call.
static void test_text_until_call(void **state)
{
    (void)state;
    struct arena a;
    arena_init(&a, 0);
    const struct json *args = tree(&a, "{\"type\":\"object\",\"properties\":{\"x\":{\"type\":"
                                       "\"integer\"}},\"required\":[\"x\"]}");
    const struct grammar_spec call[] = {LITERAL("{\"name\": \"f\", \"arguments\": "),
                                        {.kind = GRAMMAR_SCHEMA, .json = args},
                                        LITERAL("}</tool_call>")};
    const struct grammar_spec tool = {.kind = GRAMMAR_SEQ, .parts = call, .n_part = 3};
    const struct grammar_spec calls[] = {{.kind = GRAMMAR_UNTIL, .text = "<tool_call>", .len = 11},
                                         tool};
    const struct grammar_spec ways[] = {{.kind = GRAMMAR_WITHOUT, .text = "<tool_call>", .len = 11},
                                        {.kind = GRAMMAR_SEQ, .parts = calls, .n_part = 2}};
    struct grammar *g =
        open_ok((struct grammar_spec){.kind = GRAMMAR_ANY, .parts = ways, .n_part = 2});
    takes(g, "", true, "auto");
    takes(g, "no call, < just <tool_cal text", true, "auto");
    takes(g, "let me<tool_call>{\"name\": \"f\", \"arguments\": {\"x\":1}}</tool_call>", true,
          "auto");
    takes(g, "<<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": -3}}</tool_call>", true, "auto");
    takes(g, "<tool_call>", false, "auto");
    takes(g, "<tool_call>{\"name\": \"g\"", false, "auto");
    takes(g, "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>", false, "auto");
    takes(g, "<tool_call>{\"name\": \"f\", \"arguments\": {\"x\":1}}</tool_call>.", false, "auto");
    struct buf out = {0};
    for (int k = 0; k < 100; k++) {
        if (!rig_write(&rig, g, &out)) continue;
        const char *at = strstr(out.data, "<tool_call>");
        if (at && !strstr(at, "}</tool_call>")) fail_msg("'%s'", out.data);
    }
    buf_fini(&out);
    grammar_give(g);
    arena_fini(&a);
}

// A control token in the role of the tag: no text can stand for it.
static void test_control_tokens(void **state)
{
    (void)state;
    struct err_text why;
    const struct grammar_spec parts[] = {{.kind = GRAMMAR_UNTIL, .token = rig.tool}, LITERAL("ok")};
    struct grammar *g =
        open_ok((struct grammar_spec){.kind = GRAMMAR_SEQ, .parts = parts, .n_part = 2});
    struct grammar_state *s = grammar_begin(g, false);
    const uint8_t *set;
    size_t len;
    assert_int_equal(grammar_mask(s, &set, &len, &why), OK);
    assert_true(idset_has(set, len, (uint32_t)rig.tool));
    assert_true(idset_has(set, len, 'x'));
    assert_false(idset_has(set, len, (uint32_t)rig.end));
    assert_int_equal(grammar_advance(s, '<', &why), OK);
    assert_int_equal(grammar_advance(s, rig.end, &why), ERR_INVALID);
    assert_int_equal(grammar_advance(s, rig.tool, &why), OK);
    assert_int_equal(grammar_mask(s, &set, &len, &why), OK);
    assert_false(idset_has(set, len, (uint32_t)rig.tool));
    assert_true(idset_has(set, len, 'o'));
    assert_int_equal(grammar_advance(s, 'o', &why), OK);
    assert_int_equal(grammar_advance(s, 'k', &why), OK);
    assert_int_equal(grammar_mask(s, &set, &len, &why), ERR_END);
    assert_int_equal(grammar_advance(s, rig.end, &why), ERR_END);
    grammar_end(s);
    grammar_give(g);
}

// Where the tokenizer strips a space from the front, the text begins behind it.
static void test_stripped_space(void **state)
{
    (void)state;
    struct err_text why;
    const uint8_t *set;
    size_t len;
    struct grammar *g = of_text(GRAMMAR_REGEX, "\"a\"");
    for (int tight = 0; tight < 2; tight++) {
        struct grammar_state *s = grammar_begin(g, tight);
        assert_int_equal(grammar_mask(s, &set, &len, &why), OK);
        const int32_t spaced = 256 + 7 + 3 + 21; // " \""
        size_t n;
        const char *piece = tokenizer_piece(rig.tok, spaced, false, &n);
        assert_int_equal(n, 2);
        assert_memory_equal(piece, " \"", 2);
        assert_int_equal(idset_has(set, len, (uint32_t)spaced), tight);
        assert_int_equal(idset_has(set, len, ' '), tight);
        assert_int_equal(grammar_advance(s, spaced, &why), tight ? OK : ERR_INVALID);
        if (tight) assert_int_equal(grammar_advance(s, ' ', &why), ERR_INVALID);
        grammar_end(s);
    }
    grammar_give(g);
}

// -- what is refused --

static const struct {
    enum grammar_kind kind;
    const char *text;
    err_t err;
    const char *says;
} refused[] = {
    {GRAMMAR_SCHEMA, "{\"not\":{\"type\":\"null\"}}", ERR_UNSUPPORTED, "'not'"},
    {GRAMMAR_SCHEMA, "{\"properties\":{\"a\":{\"uniqueItems\":true}}}", ERR_UNSUPPORTED,
     "$.a: 'uniqueItems'"},
    {GRAMMAR_SCHEMA, "{\"if\":{},\"then\":{}}", ERR_UNSUPPORTED, "'if'"},
    {GRAMMAR_SCHEMA, "{\"type\":\"integer\",\"multipleOf\":3}", ERR_UNSUPPORTED, "'multipleOf'"},
    {GRAMMAR_SCHEMA, "{\"$ref\":\"http://x/y\"}", ERR_UNSUPPORTED, "'$ref'"},
    {GRAMMAR_SCHEMA, "{\"$ref\":\"#/$defs/a\"}", ERR_INVALID, "not there"},
    {GRAMMAR_SCHEMA, "{\"$ref\":\"#\"}", ERR_TOO_LARGE, "cycle"},
    {GRAMMAR_SCHEMA,
     "{\"$defs\":{\"a\":{\"$ref\":\"#/$defs/"
     "b\"},\"b\":{\"anyOf\":[{\"type\":\"null\"},{\"$ref\":\"#/$defs/a\"}]}},\"$ref\":\"#/$defs/"
     "a\"}",
     ERR_TOO_LARGE, "cycle"},
    {GRAMMAR_SCHEMA, "{\"$ref\":\"#\",\"minimum\":1}", ERR_TOO_LARGE, "deep"},
    {GRAMMAR_SCHEMA,
     "{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}",
     ERR_INVALID, "no text"},
    {GRAMMAR_SCHEMA, "false", ERR_INVALID, "no text"},
    {GRAMMAR_SCHEMA, "{\"enum\":[]}", ERR_INVALID, "no text"},
    {GRAMMAR_SCHEMA, "7", ERR_INVALID, "schema"},
    {GRAMMAR_SCHEMA, "{\"type\":\"strin\"}", ERR_INVALID, "'type'"},
    {GRAMMAR_SCHEMA, "{\"type\":[]}", ERR_INVALID, "empty list"},
    {GRAMMAR_SCHEMA, "{\"type\":\"string\",\"minLength\":-1}", ERR_INVALID, "'minLength'"},
    {GRAMMAR_SCHEMA, "{\"type\":\"string\",\"maxLength\":1000000000}", ERR_TOO_LARGE,
     "'maxLength'"},
    {GRAMMAR_SCHEMA, "{\"type\":\"string\",\"pattern\":\"^+\"}", ERR_INVALID, "repetition"},
    {GRAMMAR_SCHEMA, "{\"type\":\"string\",\"pattern\":\"{2}\"}", ERR_INVALID, "nothing"},
    {GRAMMAR_SCHEMA, "{\"type\":\"string\",\"pattern\":\"(a\"}", ERR_INVALID, "')'"},
    {GRAMMAR_SCHEMA, "{\"type\":\"string\",\"pattern\":\"a\",\"maxLength\":3}", ERR_UNSUPPORTED,
     "maxLength"},
    {GRAMMAR_SCHEMA, "{\"type\":\"integer\",\"minimum\":5,\"maximum\":4}", ERR_INVALID, "no text"},
    {GRAMMAR_SCHEMA, "{\"anyOf\":[]}", ERR_INVALID, "'anyOf'"},
    {GRAMMAR_REGEX, "a(?=b)", ERR_UNSUPPORTED, "look-around"},
    {GRAMMAR_REGEX, "(a)\\1", ERR_UNSUPPORTED, "'\\1'"},
    {GRAMMAR_REGEX, "\\bword", ERR_UNSUPPORTED, "'\\b'"},
    {GRAMMAR_REGEX, "a)", ERR_INVALID, "')'"},
    {GRAMMAR_REGEX, "[a", ERR_INVALID, "'['"},
    {GRAMMAR_REGEX, "[z-a]", ERR_INVALID, "backwards"},
    {GRAMMAR_REGEX, "a**", ERR_INVALID, "repetition"},
    {GRAMMAR_REGEX, "a{3,1}", ERR_INVALID, "down"},
    {GRAMMAR_REGEX, "a^b", ERR_UNSUPPORTED, "'^'"},
    {GRAMMAR_REGEX, "\xff", ERR_INVALID, "UTF-8"},
    {GRAMMAR_REGEX, "a\\", ERR_INVALID, "backslash"},
    {GRAMMAR_REGEX, "((a?){1000}){1000}", ERR_TOO_LARGE, "too large"},
    {GRAMMAR_REGEX, "a{9999999}", ERR_TOO_LARGE, "counted"},
    {GRAMMAR_NOTATION, "", ERR_INVALID, "'root'"},
    {GRAMMAR_NOTATION, "root ::= other", ERR_INVALID, "'other'"},
    {GRAMMAR_NOTATION, "root ::= root \"a\" | \"b\"", ERR_TOO_LARGE, "cycle"},
    {GRAMMAR_NOTATION, "root ::= x root\nx ::= \"a\"?", ERR_TOO_LARGE, "cycle"},
    {GRAMMAR_NOTATION, "root ::= \"a\" root", ERR_INVALID, "no text"},
    {GRAMMAR_NOTATION, "root ::= \"a\nroot", ERR_INVALID, "'\"'"},
    {GRAMMAR_NOTATION, "root ::= (\"a\"", ERR_INVALID, "')'"},
    {GRAMMAR_NOTATION, "root ::= \"a\"\nroot ::= \"b\"", ERR_INVALID, "twice"},
    {GRAMMAR_NOTATION, "start: \"a\"", ERR_INVALID, "rule"},
    {GRAMMAR_NOTATION, "root ::= \"\\q\"", ERR_INVALID, "escape"},
};

static void test_refusals(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct arena a;
        struct err_text why = {""};
        struct grammar *g = NULL;
        arena_init(&a, 0);
        struct grammar_spec spec = {
            .kind = refused[i].kind, .text = refused[i].text, .len = strlen(refused[i].text)};
        if (spec.kind == GRAMMAR_SCHEMA)
            spec = (struct grammar_spec){.kind = spec.kind, .json = tree(&a, refused[i].text)};
        const err_t err = open_spec(&spec, &g, &why);
        if (err != refused[i].err || !strstr(why.s, refused[i].says))
            fail_msg("%s: %d '%s'", refused[i].text, err, why.s);
        arena_fini(&a);
    }
}

static double cpu_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void bomb(const struct grammar_spec *spec, const char *what)
{
    struct err_text why = {""};
    struct grammar *g = NULL;
    const double from = cpu_ms();
    const err_t err = open_spec(spec, &g, &why);
    print_message("%s: %s, %.0f ms %s\n", what, err_name(err), cpu_ms() - from, why.s);
    if (err != ERR_TOO_LARGE) fail_msg("%s: %d %s", what, err, why.s);
}

// H27: each is refused, soon, and with little memory.
static void test_bombs(void **state)
{
    (void)state;
    struct buf b = {0};
    struct arena a;
    arena_init(&a, 0);
    for (int i = 0; i < 60000; i++)
        buf_char(&b, '(');
    bomb(&(struct grammar_spec){.kind = GRAMMAR_REGEX, .text = b.data, .len = b.len}, "60k groups");
    buf_clear(&b);
    buf_str(&b, "root ::= ");
    for (int i = 0; i < 60000; i++)
        buf_char(&b, '(');
    bomb(&(struct grammar_spec){.kind = GRAMMAR_NOTATION, .text = b.data, .len = b.len}, "groups");
    buf_clear(&b);
    buf_str(&b, "{\"enum\":[");
    for (int i = 0; i < 300000; i++)
        buf_printf(&b, i ? ",%d" : "%d", i * 71);
    buf_str(&b, "]}");
    bomb(&(struct grammar_spec){.kind = GRAMMAR_SCHEMA, .json = tree(&a, b.data)}, "enum");
    // Doubles with each definition.
    buf_clear(&b);
    buf_str(&b, "{\"$defs\":{\"d0\":{\"type\":\"object\",\"properties\":{\"x\":true}}");
    for (int i = 1; i < 60; i++)
        buf_printf(&b,
                   ",\"d%d\":{\"anyOf\":[{\"$ref\":\"#/$defs/d%d\"},{\"$ref\":\"#/$defs/d%d\"}],"
                   "\"minProperties\":1}",
                   i, i - 1, i - 1);
    buf_str(&b, "},\"$ref\":\"#/$defs/d59\"}");
    bomb(&(struct grammar_spec){.kind = GRAMMAR_SCHEMA, .json = tree(&a, b.data)}, "doubling");
    // Each compared with each.
    buf_clear(&b);
    buf_str(&b, "{\"allOf\":[{\"enum\":[0");
    for (int i = 1; i < 60000; i++)
        buf_printf(&b, i == 30000 ? "]},{\"enum\":[0" : ",%d", i);
    buf_str(&b, "]}]}");
    bomb(&(struct grammar_spec){.kind = GRAMMAR_SCHEMA, .json = tree(&a, b.data)}, "enums");
    buf_clear(&b);
    for (int i = 0; i < 20; i++)
        buf_str(&b, "[\\u0080-\\uffff]{900}(a|b){900}");
    struct grammar *g = of_text(GRAMMAR_REGEX, b.data); // counted: small
    grammar_give(g);
    buf_clear(&b);
    buf_str(&b, "(");
    for (int i = 0; i < 40000; i++)
        buf_printf(&b, "[\\u0801-\\u%04x]|", 0x900 + i);
    buf_str(&b, ")");
    bomb(&(struct grammar_spec){.kind = GRAMMAR_REGEX, .text = b.data, .len = b.len}, "classes");
    buf_clear(&b);
    for (int i = 0; i < (GRAMMAR_SOURCE_MAX) + 10; i++)
        buf_char(&b, 'a');
    bomb(&(struct grammar_spec){.kind = GRAMMAR_LITERAL, .text = b.data, .len = b.len}, "long");
    buf_fini(&b);
    arena_fini(&a);
}

// What is only found out while it runs: places multiply, the text fails, nothing else does.
static void test_ambiguity_is_bounded(void **state)
{
    (void)state;
    struct grammar *g = of_text(GRAMMAR_REGEX, "((a{1,900}){1,900}){1,900}b");
    struct grammar_state *s = grammar_begin(g, false);
    struct err_text why = {""};
    const uint8_t *set;
    size_t len;
    const double from = cpu_ms();
    err_t err = OK;
    for (int i = 0; i < 2000 && !err; i++) {
        err = grammar_mask(s, &set, &len, &why);
        if (!err) err = grammar_advance(s, 'a', &why);
    }
    assert_int_equal(err, ERR_TOO_LARGE);
    print_message("%.0f ms, %s\n", cpu_ms() - from, why.s);
    grammar_end(s);
    grammar_give(g);
}

// A long counted text: the machine forgets what nobody stands in, and goes on.
static void test_machine_is_renewed(void **state)
{
    (void)state;
    struct arena a;
    arena_init(&a, 0);
    struct grammar *g =
        of_schema("{\"type\":\"string\",\"maxLength\":300000,\"minLength\":120000}");
    struct grammar_state *s = grammar_begin(g, false), *other = grammar_begin(g, false);
    struct err_text why = {""};
    uint32_t n;
    assert_int_equal(grammar_advance(s, '"', &why), OK);
    assert_int_equal(grammar_advance(other, '"', &why), OK);
    assert_int_equal(grammar_advance(other, '\\', &why), OK);
    for (int i = 0; i < 120000; i++) {
        const uint8_t *set;
        size_t len;
        if (i % 1000 == 0) {
            assert_int_equal(grammar_mask(s, &set, &len, &why), OK);
            assert_false(idset_has(set, len, '"'));
        }
        if (grammar_advance(s, 'x', &why) != OK) fail_msg("%d: %s", i, why.s);
    }
    assert_true(grammar_book_bytes(rig.book, &n) < 40 << 20);
    assert_int_equal(grammar_advance(other, 'n', &why), OK);
    assert_int_equal(grammar_advance(other, '"', &why), ERR_INVALID);
    assert_int_equal(grammar_advance(s, '"', &why), OK);
    assert_true(grammar_may_end(s));
    grammar_end(s);
    grammar_end(other);
    grammar_give(g);
    arena_fini(&a);
}

// H28: many different schemas, one after the other.
static void test_cache_is_bounded(void **state)
{
    (void)state;
    struct buf b = {0};
    uint32_t n;
    for (int i = 0; i < 1000; i++) {
        buf_clear(&b);
        buf_printf(
            &b, "{\"type\":\"object\",\"properties\":{\"a%d\":{\"type\":\"string\"},\"b\":true}}",
            i);
        struct grammar *g = of_schema(b.data);
        struct grammar_state *s = grammar_begin(g, false);
        const uint8_t *set;
        size_t len;
        struct err_text why;
        assert_int_equal(grammar_mask(s, &set, &len, &why), OK);
        grammar_end(s);
        grammar_give(g);
        assert_true(grammar_book_bytes(rig.book, &n) <= GRAMMAR_CACHE_BYTES + (1 << 20));
        assert_true(n <= GRAMMAR_CACHE_MAX);
    }
    buf_fini(&b);
    // The same again is the same one.
    struct grammar *one = of_schema("{\"type\":\"null\"}"),
                   *two = of_schema("{\"type\": \"null\"}");
    assert_ptr_equal(one, two);
    grammar_give(one);
    grammar_give(two);
}

static int setup(void **state)
{
    (void)state;
    rig_open(&rig);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    rig_close(&rig);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_schemas_take_and_refuse),
        cmocka_unit_test(test_schemas_write_only_valid_texts),
        cmocka_unit_test(test_any_object),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_regexes),
        cmocka_unit_test(test_notation),
        cmocka_unit_test(test_choices),
        cmocka_unit_test(test_text_until_call),
        cmocka_unit_test(test_control_tokens),
        cmocka_unit_test(test_stripped_space),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_bombs),
        cmocka_unit_test(test_ambiguity_is_bounded),
        cmocka_unit_test(test_machine_is_renewed),
        cmocka_unit_test(test_cache_is_bounded),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
