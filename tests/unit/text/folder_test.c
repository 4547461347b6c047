#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "coordinator/text/template.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// A folder with a few files; removed by the next one.
static char dir[64];

static void put(const char *name, const void *data, size_t len)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    fclose(f);
}

static void put_str(const char *name, const char *s)
{
    put(name, s, strlen(s));
}

static int clean(void **state)
{
    static const char *const names[] = {
        "tokenizer.json",        "tokenizer.model",        "tekken.json",
        "tokenizer_config.json", "generation_config.json", "chat_template.jinja",
        "chat_template.json"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    if (*dir) rmdir(dir);
    *dir = 0;
    return 0;
}

static int fresh(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/folder_test.XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static struct tokenizer *open_ok(void)
{
    struct tokenizer *t = NULL;
    struct err_text why = {""};
    if (tokenizer_open_dir(dir, 0, &t, &why) != OK) fail_msg("%s", why.s);
    return t;
}

static void check(const struct tokenizer *t, const char *text, unsigned flags, const char *want)
{
    struct ids ids = {0};
    char got[256] = "";
    assert_int_equal(tokenizer_encode(t, text, strlen(text), flags, NULL, 0, 1000, &ids), OK);
    for (size_t i = 0, at = 0; i < ids.n; i++)
        at += (size_t)snprintf(got + at, sizeof got - at, i ? " %d" : "%d", ids.at[i]);
    ids_fini(&ids);
    if (strcmp(got, want) != 0) fail_msg("\"%s\": got %s, want %s", text, got, want);
}

#define JSON(norm, pre, model)                                                                     \
    "{\"added_tokens\":[{\"id\":9,\"content\":\"<e>\",\"special\":true},"                          \
    "{\"id\":10,\"content\":\"<u>\",\"lstrip\":true,\"rstrip\":true}],"                            \
    "\"normalizer\":" norm ",\"pre_tokenizer\":" pre ",\"model\":" model "}"
#define BYTES "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}"
#define BPE                                                                                        \
    "{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"\\u0120\":2,\"ab\":3,\"\\u0120ab\":4,"         \
    "\"\\u00c3\":5,\"\\u00a9\":6,\"A\":7,\"c\":8},"                                                \
    "\"merges\":[\"a b\",[\"\\u0120\",\"ab\"]]}"

static void test_json(void **state)
{
    (void)state;
    put_str("tokenizer.json", JSON("{\"type\":\"NFC\"}", BYTES, BPE));
    struct tokenizer *t = open_ok();
    check(t, "ab ab", 0, "3 4");
    check(t, "a<e>b", TOKENIZER_SPECIAL, "0 9 1");
    check(t, "a  <u>  b", 0, "0 10 1"); // takes the spaces with it
    check(t, "e\xcc\x81", 0, "5 6");    // two characters become one
    assert_false(tokenizer_adds_bos(t));
    assert_int_equal(tokenizer_n_vocab(t), 11);
    tokenizer_close(t);
    put_str("tokenizer.json", JSON("{\"type\":\"Lowercase\"}", BYTES, BPE));
    t = open_ok();
    check(t, "AB", 0, "3");
    tokenizer_close(t);
}

static void test_facts(void **state)
{
    (void)state;
    put_str("tokenizer.json", JSON("null", BYTES, BPE));
    put_str("tokenizer_config.json", "{\"bos_token\":{\"content\":\"<e>\"},\"eos_token\":\"c\","
                                     "\"add_bos_token\":true,\"added_tokens_decoder\":{\"11\":"
                                     "{\"content\":\"<x>\",\"special\":true}}}");
    put_str("generation_config.json", "{\"eos_token_id\":[1,8,99]}");
    struct tokenizer *t = open_ok();
    assert_int_equal(tokenizer_bos(t), 9);
    assert_int_equal(tokenizer_eos(t), 8);
    assert_true(tokenizer_adds_bos(t));
    assert_true(tokenizer_is_end(t, 1));
    assert_true(tokenizer_is_end(t, 8));
    assert_false(tokenizer_is_end(t, 0));
    check(t, "<x>", TOKENIZER_BOS | TOKENIZER_SPECIAL, "9 11");
    tokenizer_close(t);
    struct err_text why = {""};
    // A model with fewer ids than the tokenizer: specials can go, others cannot.
    assert_int_equal(tokenizer_open_dir(dir, 11, &t, &why), OK);
    assert_int_equal(tokenizer_n_vocab(t), 11);
    check(t, "ab", TOKENIZER_SPECIAL, "3");
    tokenizer_close(t);
    assert_int_equal(tokenizer_open_dir(dir, 8, &t, &why), ERR_MODEL);
    assert_non_null(strstr(why.s, "token 8, but the model has 8"));
}

static void test_unigram(void **state)
{
    (void)state;
    put_str("tokenizer.json",
            "{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\\u2581\","
            "\"prepend_scheme\":\"always\"},\"decoder\":{\"type\":\"Metaspace\"},\"model\":{"
            "\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"<unk>\",0],[\"\\u2581\",-2],"
            "[\"a\",-3],[\"b\",-3],[\"ab\",-5],[\"\\u2581a\",-4]]}}");
    struct tokenizer *t = open_ok();
    check(t, "ab", 0, "1 4"); // -7: as good as " a" "b" and found first
    check(t, "a a", 0, "5 5");
    check(t, "zz", 0, "1 0"); // unknown characters are one token
    assert_true(tokenizer_strips_first_space(t));
    size_t len;
    assert_memory_equal(tokenizer_piece(t, 5, false, &len), " a", 2);
    tokenizer_close(t);
}

// As the library writes files: with white space behind values.
static void test_unigram_bytes(void **state)
{
    (void)state;
    put_str("tokenizer.json",
            "{\n  \"model\": {\n    \"type\": \"Unigram\",\n    \"unk_id\": 0,\n    \"vocab\": "
            "[[\"<unk>\", 0.0], [\"a\", -3.0], [\"<0xC3>\", 0.0], [\"<0xA9>\", 0.0]],\n"
            "    \"byte_fallback\": true\n  }\n}\n");
    struct tokenizer *t = open_ok();
    check(t, "a\xc3\xa9", 0, "1 2 3");
    check(t, "\xc3\xa8", 0, "0"); // one of its bytes has no piece
    tokenizer_close(t);
}

static void check_bad(const char *name, const char *data, size_t len, const char *part)
{
    struct tokenizer *t = NULL;
    struct err_text why = {""};
    put(name, data, len);
    err_t err = tokenizer_open_dir(dir, 0, &t, &why);
    if (err != ERR_MODEL || !strstr(why.s, part))
        fail_msg("want '%s', got %s: %s", part, err_name(err), why.s);
    assert_null(t);
}

static void test_bad_json(void **state)
{
    static const struct {
        const char *text, *part;
    } bad[] = {
        {"", "an object is expected"},
        {"{", "a string is expected"},
        {"{}", "model: missing"},
        {"{\"model\":{}} x", "something follows"},
        {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", "'WordPiece'"},
        {"{\"model\":{\"type\":\"BPE\"}}", "model.vocab: missing"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1}}}", "an id is expected"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":4000000}}}", "ids up to 4000000"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":99999999999}}}", "an id is expected"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"\\ud800\":0}}}", "a bad escape"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}", "model.merges: missing"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}",
         "unknown piece"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"ab\"]}}", "two pieces"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":\"?\"}}",
         "unk_token: '?' is no token"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\"]]}}", "a piece and its score"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",1e999]]}}", "not a number"},
        {"{\"model\":{\"end_of_word_suffix\":\"</w>\"}}", "end_of_word_suffix"},
        {JSON("{\"type\":\"Nmt\"}", BYTES, BPE), "normalizer: 'Nmt' is not supported"},
        {JSON("{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAAA\"}", BYTES, BPE),
         "precompiled_charsmap is damaged"},
        {JSON("null", "{\"type\":\"UnicodeScripts\"}", BPE), "'UnicodeScripts' is not supported"},
        {JSON("null",
              "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},"
              "\"behavior\":\"Isolated\"}",
              BPE),
         "pattern '('"},
        {JSON("null",
              "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a{1,2}+\"},"
              "\"behavior\":\"Isolated\"}",
              BPE),
         "'}+' is not supported"},
        {JSON("null",
              "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},"
              "\"behavior\":\"Sideways\"}",
              BPE),
         "unknown behavior"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        check_bad("tokenizer.json", bad[i].text, strlen(bad[i].text), bad[i].part);
    put_str("tokenizer.json", JSON("null", BYTES, BPE));
    check_bad("tokenizer_config.json", "[]", 2, "tokenizer_config.json");
}

// --- SentencePiece ----------------------------------------------------------------------------

static size_t add_piece(char *out, const char *text, float score, int type)
{
    size_t n = strlen(text), at = 0;
    out[at++] = 10; // field 1, bytes
    out[at++] = (char)(n + 9);
    out[at++] = 10;
    out[at++] = (char)n;
    memcpy(out + at, text, n);
    at += n;
    out[at++] = 21; // field 2, 32 bits
    memcpy(out + at, &score, 4);
    at += 4;
    out[at++] = 24; // field 3
    out[at++] = (char)type;
    return at;
}

static size_t make_spm(char *out)
{
    static const char specs[] = {18, 2, 24, 2, 26, 2, 32, 0}; // BPE; spaces stay as they are
    size_t at = add_piece(out, "<unk>", 0, 2);
    at += add_piece(out + at, "<s>", 0, 3);
    at += add_piece(out + at, "</s>", 0, 3);
    at += add_piece(out + at, "\xe2\x96\x81", -1, 1);
    at += add_piece(out + at, "a", -2, 1);
    at += add_piece(out + at,
                    "\xe2\x96\x81"
                    "a",
                    -0.5f, 1);
    at += add_piece(out + at, "<u>", 0, 4);
    memcpy(out + at, specs, sizeof specs);
    return at + sizeof specs;
}

static void test_spm(void **state)
{
    char file[512];
    (void)state;
    size_t len = make_spm(file);
    put("tokenizer.model", file, len);
    struct tokenizer *t = open_ok();
    check(t, "a a", 0, "5 5");
    check(t, "a<u>a", TOKENIZER_BOS, "1 5 6 4"); // no space behind a user's own symbol
    check(t, "a</s>a", TOKENIZER_SPECIAL, "5 2 5");
    check(t, "z", 0, "3 0");
    assert_int_equal(tokenizer_eos(t), 2);
    assert_true(tokenizer_is_end(t, 2));
    tokenizer_close(t);
    for (size_t n = 0; n < len; n++) {
        struct err_text why;
        put("tokenizer.model", file, n);
        t = NULL;
        if (tokenizer_open_dir(dir, 0, &t, &why) == OK) tokenizer_close(t); // between two fields
    }
    check_bad("tokenizer.model", file, len - 1, "damaged");
}

// --- tekken -----------------------------------------------------------------------------------

#define TEKKEN(config)                                                                             \
    "{\"config\":{\"pattern\":\"[a-z]+|\\\\s\"," config "},\"vocab\":["                            \
    "{\"rank\":0,\"token_bytes\":\"YQ==\",\"token_str\":\"a\"},"                                   \
    "{\"rank\":1,\"token_bytes\":\"Yg==\",\"token_str\":null},"                                    \
    "{\"rank\":2,\"token_bytes\":\"IA==\"},{\"rank\":3,\"token_bytes\":\"YWI=\"},"                 \
    "{\"rank\":4,\"token_bytes\":\"YWJi\"}]}"

static void test_tekken(void **state)
{
    static const char good[] =
        TEKKEN("\"default_vocab_size\":24,\"default_num_special_tokens\":20");
    (void)state;
    put_str("tekken.json", good);
    put_str("tokenizer.model", "not looked at");
    struct tokenizer *t = open_ok();
    check(t, "ab a", TOKENIZER_BOS, "1 23 22 20");
    check(t, "abb", 0, "23 21"); // rank 4 is beyond the vocabulary
    check(t, "[INST]b", TOKENIZER_SPECIAL, "3 21");
    assert_true(tokenizer_is_end(t, 2));
    tokenizer_close(t);
    static const char small[] = TEKKEN("\"default_vocab_size\":24");
    check_bad("tekken.json", small, sizeof small - 1, "default_num_special_tokens");
    static const char large[] =
        TEKKEN("\"default_vocab_size\":4000000,\"default_num_special_tokens\":20");
    check_bad("tekken.json", large, sizeof large - 1, "fewer tokens");
}

// --- chat templates ---------------------------------------------------------------------------

static void check_template(const char *want)
{
    struct arena a;
    struct err_text why = {""};
    const char *source = "";
    size_t len = 0;
    arena_init(&a, 0);
    err_t err = template_find_dir(dir, &a, &source, &len, &why);
    assert_int_equal(err, want ? OK : ERR_NOT_FOUND);
    if (want) assert_string_equal(source, want);
    arena_fini(&a);
}

static void test_templates(void **state)
{
    (void)state;
    check_template(NULL);
    put_str("chat_template.json", "{\"chat_template\":\"old\"}");
    check_template("old");
    put_str("tokenizer_config.json", "{\"bos_token\":\"x\"}");
    check_template("old");
    put_str("tokenizer_config.json",
            "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"tools\"},"
            "{\"name\":\"default\",\"template\":\"plain\"}]}");
    check_template("plain");
    put_str("tokenizer_config.json", "{\"chat_template\":\"one\"}");
    check_template("one");
    put_str("chat_template.jinja", "own");
    check_template("own");
}

#define IN_FOLDER(f) cmocka_unit_test_setup_teardown(f, fresh, clean)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(test_json),          IN_FOLDER(test_facts),     IN_FOLDER(test_unigram),
        IN_FOLDER(test_unigram_bytes), IN_FOLDER(test_bad_json),  IN_FOLDER(test_spm),
        IN_FOLDER(test_tekken),        IN_FOLDER(test_templates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
