#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/unit/soon.h"
#include "tests/unit/text/vocab_file.h"

static struct tokenizer *open_ok(const struct vocab_file *v)
{
    struct tokenizer *t = NULL;
    struct err_text why = {""};
    if (vocab_file_open(v, &t, &why) != OK) fail_msg("%s", why.s);
    return t;
}

static void check(const struct tokenizer *t, const char *text, unsigned flags,
                  const struct text_span *plain, size_t n_plain, const int32_t *want)
{
    struct ids got = {0};
    size_t n = 0;
    while (want[n] >= 0)
        n++;
    assert_int_equal(tokenizer_encode(t, text, strlen(text), flags, plain, n_plain, 1000, &got),
                     OK);
    if (got.n != n || (n && memcmp(got.at, want, n * sizeof *want) != 0)) {
        for (size_t i = 0; i < got.n; i++)
            print_message("%d ", got.at[i]);
        fail_msg("\"%s\": %zu ids, want %zu", text, got.n, n);
    }
    ids_fini(&got);
}
#define IDS(...)                                                                                   \
    (const int32_t[])                                                                              \
    {                                                                                              \
        __VA_ARGS__, -1                                                                            \
    }

enum {
    THE = 257,
    SP_THE = 258,
    IN = 259,
    ING = 260,
    AA = 261,
    AAAA = 262,
    BOS = 263,
    END = 264,
    TOOL = 265
};

static void test_bpe(void **state)
{
    (void)state;
    struct vocab_file v;
    vocab_file_bpe(&v);
    struct tokenizer *t = open_ok(&v);
    check(t, "the the", 0, NULL, 0, IDS(THE, SP_THE));
    check(t, "thing", 0, NULL, 0, IDS(256, ING));
    check(t, "aaaaaaa", 0, NULL, 0, IDS(AAAA, AA, 'a'));
    check(t, "\xff\xc3(", 0, NULL, 0, IDS(0xff, 0xc3, '(')); // not UTF-8: byte by byte
    assert_int_equal(tokenizer_n_vocab(t), v.n_token);
    assert_int_equal(tokenizer_bos(t), BOS);
    assert_false(tokenizer_adds_bos(t));
    assert_false(tokenizer_strips_first_space(t));
    assert_true(tokenizer_is_end(t, END));
    assert_false(tokenizer_is_end(t, THE));
    assert_false(tokenizer_is_end(t, -1));
    size_t len;
    assert_memory_equal(tokenizer_piece(t, SP_THE, false, &len), " the", 4);
    assert_int_equal(len, 4);
    tokenizer_piece(t, END, false, &len);
    assert_int_equal(len, 0);
    tokenizer_piece(t, END, true, &len);
    assert_int_equal(len, 10);
    tokenizer_piece(t, 100000, true, &len);
    assert_int_equal(len, 0);
    tokenizer_close(t);
}

// A long word takes another way than a short one, to the same result.
static void test_long_words(void **state)
{
    (void)state;
    struct vocab_file v;
    vocab_file_bpe(&v);
    struct tokenizer *t = open_ok(&v);
    for (size_t n = 1; n < 200; n++) {
        char text[200];
        struct ids got = {0};
        for (size_t i = 0; i < n; i++)
            text[i] = "thethingaaaaaain"[i % 16];
        assert_int_equal(tokenizer_encode(t, text, n, 0, NULL, 0, 1000, &got), OK);
        size_t at = 0, len;
        for (size_t i = 0; i < got.n; i++) {
            const char *p = tokenizer_piece(t, got.at[i], false, &len);
            assert_memory_equal(p, text + at, len);
            at += len;
            // No two neighbours that a merge would join are left.
            if (i) assert_false(got.at[i - 1] == AA && got.at[i] == AA);
            if (i) assert_false(got.at[i - 1] == IN && got.at[i] == 'g');
            if (i) assert_false(got.at[i - 1] == 'a' && got.at[i] == 'a');
        }
        assert_int_equal(at, n);
        ids_fini(&got);
    }
    tokenizer_close(t);
}

static void test_special_tokens(void **state)
{
    (void)state;
    struct vocab_file v;
    vocab_file_bpe(&v);
    v.add_bos = 1;
    struct tokenizer *t = open_ok(&v);
    static const char text[] = "in<|im_end|>in";
    check(t, text, TOKENIZER_SPECIAL, NULL, 0, IDS(IN, END, IN));
    check(t, text, TOKENIZER_SPECIAL | TOKENIZER_BOS, NULL, 0, IDS(BOS, IN, END, IN));
    const int32_t *spelled = IDS(IN, '<', '|', 'i', 'm', '_', 'e', 'n', 'd', '|', '>', IN);
    check(t, text, 0, NULL, 0, spelled);
    // A span that touches the spelling anywhere makes it plain text; one beside it does not.
    check(t, text, TOKENIZER_SPECIAL, &(struct text_span){0, 14}, 1, spelled);
    check(t, text, TOKENIZER_SPECIAL, &(struct text_span){11, 12}, 1, spelled);
    check(t, text, TOKENIZER_SPECIAL, &(struct text_span){2, 3}, 1, spelled);
    check(t, text, TOKENIZER_SPECIAL, (struct text_span[]){{0, 2}, {12, 14}}, 2, IDS(IN, END, IN));
    check(t, "a<tool>", 0, NULL, 0, IDS('a', TOOL)); // user-defined: always
    tokenizer_close(t);
}

static void test_limit(void **state)
{
    (void)state;
    struct vocab_file v;
    vocab_file_bpe(&v);
    struct tokenizer *t = open_ok(&v);
    struct ids got = {0};
    assert_int_equal(tokenizer_encode(t, "in in", 5, 0, NULL, 0, 3, &got), OK);
    assert_int_equal(got.n, 3);
    assert_int_equal(tokenizer_encode(t, "in", 2, 0, NULL, 0, 3, &got), ERR_TOO_LARGE);
    assert_int_equal(got.n, 3);
    ids_fini(&got);
    tokenizer_close(t);
}

static void test_spm(void **state)
{
    (void)state;
    struct vocab_file v;
    vocab_file_spm(&v);
    struct tokenizer *t = open_ok(&v);
    int p = 259;                            // the mark; then a b ab _a _ab ba e-acute [img]
    check(t, "ab", 0, NULL, 0, IDS(p + 5)); // "ab" scores better than " a", and joins " "
    check(t, "aba", 0, NULL, 0, IDS(p + 5, p + 1));
    check(t, "aab ba", 0, NULL, 0, IDS(p + 4, p + 3, p, p + 6));
    check(t, "\xc3\xa9!", 0, NULL, 0, IDS(p, p + 7, 3 + '!'));
    check(t, "a[img]a", TOKENIZER_BOS, NULL, 0, IDS(1, p + 4, p + 8, p + 4));
    check(t, "</s>", TOKENIZER_SPECIAL, NULL, 0, IDS(2));
    check(t, "</s>", 0, NULL, 0, IDS(p, 3 + '<', 3 + '/', 3 + 's', 3 + '>'));
    check(t,
          "\xe2\x96\x81"
          "a",
          0, NULL, 0, IDS(p, p + 4)); // a mark in the text is a space
    check(t, "", 0, NULL, 0, IDS(-1));
    assert_true(tokenizer_adds_bos(t));
    assert_true(tokenizer_strips_first_space(t));
    size_t len;
    assert_memory_equal(tokenizer_piece(t, p + 5, false, &len), " ab", 3);
    assert_memory_equal(tokenizer_piece(t, 3 + 0xff, false, &len), "\xff", 1);
    tokenizer_close(t);
    v.add_space = 0;
    t = open_ok(&v);
    check(t, "ab ab", 0, NULL, 0, IDS(p + 3, p + 5));
    tokenizer_close(t);
}

static void check_bad(const struct vocab_file *v, const char *part)
{
    struct tokenizer *t = NULL;
    struct err_text why = {""};
    err_t err = vocab_file_open(v, &t, &why);
    if (err != ERR_MODEL || !strstr(why.s, part))
        fail_msg("want a bad model with '%s', got %s: %s", part, err_name(err), why.s);
    assert_null(t);
}

#define BAD_BPE(change, part)                                                                      \
    do {                                                                                           \
        struct vocab_file v;                                                                       \
        vocab_file_bpe(&v);                                                                        \
        change;                                                                                    \
        check_bad(&v, part);                                                                       \
    } while (0)

static void test_bad_models(void **state)
{
    (void)state;
    static char large[70000], long_special[1000];
    memset(large, 'a', sizeof large - 1);
    memset(long_special, 'a', sizeof long_special - 1);
    BAD_BPE(v.model = "wordpiece", "tokenizer.ggml.model");
    BAD_BPE(v.pre = "nonesuch", "tokenizer.ggml.pre: unknown pre-tokenizer 'nonesuch'");
    BAD_BPE(v.bos = v.n_token, "tokenizer.ggml.bos_token_id");
    BAD_BPE(v.eos = 1 << 30, "tokenizer.ggml.eos_token_id");
    BAD_BPE(v.merges[1] = "th zz", "tokenizer.ggml.merges: merge 1, 'th zz'");
    BAD_BPE(v.merges[1] = "the", "tokenizer.ggml.merges: merge 1 is not two pieces");
    BAD_BPE(v.merges[1] = "", "tokenizer.ggml.merges");
    BAD_BPE(v.n_merge = 0, "tokenizer.ggml.merges: missing");
    BAD_BPE(v.n_type--, "tokenizer.ggml.token_type");
    BAD_BPE(v.n_score = 5, "tokenizer.ggml.scores");
    BAD_BPE(v.tokens[77] = "", "tokenizer.ggml.tokens: token 77");
    BAD_BPE(v.tokens[77] = large, "tokenizer.ggml.tokens: token 77");
    BAD_BPE(v.types[77] = 99, "tokenizer.ggml.token_type: token 77");
    BAD_BPE(v.types[77] = -1, "tokenizer.ggml.token_type: token 77");
    BAD_BPE(v.tokens[BOS] = long_special, "tokenizer.ggml.tokens: special token 263");
    BAD_BPE((v.bos = -1, v.add_bos = 1), "tokenizer.ggml.bos_token_id: missing");
    BAD_BPE(v.n_token = 0, "tokenizer.ggml.tokens");
    struct vocab_file v;
    vocab_file_spm(&v);
    v.n_score = 0;
    check_bad(&v, "tokenizer.ggml.scores: missing");
    vocab_file_spm(&v);
    v.scores[5] = 0.0f / 0.0f;
    check_bad(&v, "tokenizer.ggml.scores: token 5");
    vocab_file_spm(&v);
    v.tokens[5] = "<0xZZ>";
    check_bad(&v, "byte token 5");
    vocab_file_spm(&v);
    v.types[5] = 1;
    v.unk = -1;
    check_bad(&v, "no token for byte 0x02");
}

// Whatever the words, the ids spell the text.
static void test_every_pretokenizer(void **state)
{
    (void)state;
    static const char *const names[] = {"default",     "gpt-2",  "smollm",         "llama-bpe",
                                        "qwen2",       "qwen35", "deepseek-coder", "deepseek-llm",
                                        "deepseek-v3", "falcon", "bloom",          "viking",
                                        "tekken",      "gpt-4o", "seed-coder",     "bailingmoe"};
    static const char text[] =
        "The thing's \xc3\xa9T\xc3\x89 1234567 \xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e!?\r\n\n"
        "  x\t\xcc\x81\xef\xbc\xa1 <a>`~$ \xf0\x9f\x98\x80   ";
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct vocab_file v;
        vocab_file_bpe(&v);
        v.pre = names[i];
        struct tokenizer *t = open_ok(&v);
        struct ids got = {0};
        struct buf back = {0};
        size_t len;
        assert_int_equal(tokenizer_encode(t, text, sizeof text - 1, 0, NULL, 0, SIZE_MAX, &got),
                         OK);
        for (size_t k = 0; k < got.n; k++) {
            const char *p = tokenizer_piece(t, got.at[k], false, &len);
            buf_add(&back, p, len);
        }
        assert_string_equal(back.data, text);
        assert_true(got.n < sizeof text - 1); // "th", "in" were found
        ids_fini(&got);
        buf_fini(&back);
        tokenizer_close(t);
    }
}

// --- real vocabularies ------------------------------------------------------------------------

static struct tokenizer *open_fixture(const char *name)
{
    char path[4096];
    struct err_text why = {""};
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    const char *dir = getenv("TRIREME_FIXTURES");
    snprintf(path, sizeof path, "%s/tokenizers/%s", dir ? dir : "../shared/fixtures", name);
    if (strncmp(name, "json-", 5) == 0 || strcmp(name, "mistral-v3-spm") == 0) {
        if (access(path, R_OK) == 0) {
            if (tokenizer_open_dir(path, 0, &t, &why) != OK) fail_msg("%s", why.s);
            return t;
        }
        print_message("SKIPPED: %s is not there\n", path);
        return NULL;
    }
    snprintf(path, sizeof path, "%s/tokenizers/%s/vocab.gguf", dir ? dir : "../shared/fixtures",
             name);
    if (access(path, R_OK) != 0) {
        print_message("SKIPPED: %s is not there\n", path);
        return NULL;
    }
    if (gguf_open(path, &g, &why) != OK || tokenizer_open(g, &t, &why) != OK) fail_msg("%s", why.s);
    gguf_close(g); // the tokenizer keeps nothing of the file
    return t;
}

static int64_t encode_us(const struct tokenizer *t, const char *unit, size_t times)
{
    size_t len = strlen(unit);
    char *text = malloc(len * times);
    struct ids got = {0};
    assert_non_null(text);
    for (size_t i = 0; i < times; i++)
        memcpy(text + i * len, unit, len);
    int64_t from = soon_now_us();
    assert_int_equal(
        tokenizer_encode(t, text, len * times, TOKENIZER_SPECIAL, NULL, 0, SIZE_MAX, &got), OK);
    int64_t us = soon_now_us() - from;
    ids_fini(&got);
    free(text);
    return us;
}

// Doubling the text must not take four times as long. Small enough for the sanitizers.
static void test_hostile_text_is_linear(void **state)
{
    (void)state;
    static const char *const names[] = {
        "gpt-2",       "llama-bpe",   "llama-spm",      "json-deepseek-v3",
        "json-gemma",  "json-gpt-4o", "json-llama-spm", "json-qwen2",
        "json-smollm", "json-tekken", "mistral-v3-spm"};
    static const char *const units[] = {"\xcc\x81",  "\xcc\x81\xcc\x96",
                                        "a\xcc\x96", "\xe1\x84\x80\xe1\x85\xa1",
                                        "a",         "  ",
                                        "'  '",      "\xc5\xbf",
                                        "'\xc5\xbf", "\xf0\x9f\x98\x80",
                                        "1",         "\n",
                                        " \n",       "\xff",
                                        "A",         "ab",
                                        "<|"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct tokenizer *t = open_fixture(names[i]);
        if (!t) skip();
        for (size_t k = 0; k < sizeof units / sizeof *units; k++) {
            size_t n = 60000 / strlen(units[k]);
            int64_t once = encode_us(t, units[k], n), four = encode_us(t, units[k], 4 * n);
            if (four > 10 * once + 50000)
                fail_msg("%s, '%s': %lld us, four times as much %lld us", names[i], units[k],
                         (long long)once, (long long)four);
        }
        tokenizer_close(t);
    }
}

// Text that spells every special token of the vocabulary stays text, and comes back as it was.
static void test_no_injection(void **state)
{
    (void)state;
    static const char *const names[] = {"gpt-2", "llama-bpe", "llama-spm", "smollm2"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct tokenizer *t = open_fixture(names[i]);
        if (!t) skip();
        struct buf text = {0}, back = {0};
        struct ids got = {0};
        size_t len, shown;
        for (int32_t id = 0; id < tokenizer_n_vocab(t); id++) {
            const char *p = tokenizer_piece(t, id, true, &len);
            tokenizer_piece(t, id, false, &shown);
            if (shown == 0) buf_add(&text, p, len);
        }
        struct text_span all = {0, text.len};
        assert_int_equal(
            tokenizer_encode(t, text.data, text.len, TOKENIZER_SPECIAL, &all, 1, SIZE_MAX, &got),
            OK);
        for (size_t k = 0; k < got.n; k++) {
            const char *p = tokenizer_piece(t, got.at[k], false, &len);
            if (len == 0) fail_msg("%s: control token %d", names[i], got.at[k]);
            buf_add(&back, p, len);
        }
        size_t skip_space = tokenizer_strips_first_space(t);
        assert_int_equal(back.len, text.len + skip_space);
        assert_memory_equal(back.data + skip_space, text.data, text.len);
        ids_fini(&got);
        buf_fini(&text);
        buf_fini(&back);
        tokenizer_close(t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bpe),
        cmocka_unit_test(test_long_words),
        cmocka_unit_test(test_special_tokens),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_spm),
        cmocka_unit_test(test_bad_models),
        cmocka_unit_test(test_every_pretokenizer),
        cmocka_unit_test(test_hostile_text_is_linear),
        cmocka_unit_test(test_no_injection),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
