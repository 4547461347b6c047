// tokenizer_cases [--vocab PATH] DIR...: checks every case of DIR/cases.jsonl against the tokenizer
// of DIR: vocab.gguf, or one of the files of a Hugging Face directory. Where DIR has none of them,
// its info.json says in words where one is to be had; then PATH names it (a GGUF, or a directory).
// Prints passed/total and the first failing case per directory; exits with 1 if a case failed.
#include "coordinator/text/tokenizer.h"
#include "proto/base/clock.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool read_file(const char *path, struct buf *out)
{
    char chunk[65536];
    size_t n;
    FILE *f = fopen(path, "rb");
    if (!f) return false;
    while ((n = fread(chunk, 1, sizeof chunk, f)) > 0)
        buf_add(out, chunk, n);
    bool ok = !ferror(f) && buf_ok(out);
    fclose(f);
    return ok;
}

static void print_ids(const char *what, const json_t *want, const struct ids *got)
{
    printf("  %s:", what);
    for (size_t i = 0; i < json_array_size(want) && i < 40; i++)
        printf(" %lld", (long long)json_integer_value(json_array_get(want, i)));
    for (size_t i = 0; got && i < got->n && i < 40; i++)
        printf(" %d", (int)got->at[i]);
    printf("\n");
}

static bool check_encode(const struct tokenizer *t, const json_t *c, bool tell)
{
    const json_t *text = json_object_get(c, "text"), *want = json_object_get(c, "ids");
    struct ids got = {0};
    unsigned flags = json_is_true(json_object_get(c, "parse_special")) ? TOKENIZER_SPECIAL : 0;
    err_t err = tokenizer_encode(t, json_string_value(text), json_string_length(text), flags, NULL,
                                 0, SIZE_MAX, &got);
    bool ok = err == OK && got.n == json_array_size(want);
    for (size_t i = 0; ok && i < got.n; i++)
        ok = got.at[i] == json_integer_value(json_array_get(want, i));
    if (!ok && tell) {
        printf("  text: %.200s (%s)\n", json_string_value(text), err_name(err));
        print_ids("want", want, NULL);
        print_ids("got", NULL, &got);
    }
    ids_fini(&got);
    return ok;
}

// "decoded": the text of the ids, special tokens included.
static bool check_decoded(const struct tokenizer *t, const json_t *c, bool tell)
{
    const json_t *ids = json_object_get(c, "ids"), *want = json_object_get(c, "decoded");
    struct buf got = {0};
    size_t len;
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const char *p =
            tokenizer_piece(t, (int32_t)json_integer_value(json_array_get(ids, i)), true, &len);
        bool strip = i == 0 && len && *p == ' ' && tokenizer_strips_first_space(t);
        buf_add(&got, p + strip, len - strip);
    }
    bool ok = got.len == json_string_length(want) &&
              memcmp(got.data ? got.data : "", json_string_value(want), got.len) == 0;
    if (!ok && tell)
        printf("  decoded, want: %.200s\n  decoded, got:  %.200s\n", json_string_value(want),
               got.data ? got.data : "");
    buf_fini(&got);
    return ok;
}

static bool check_decode(const struct tokenizer *t, const json_t *c, bool tell)
{
    const json_t *ids = json_object_get(c, "decode_ids");
    const char *want = json_string_value(json_object_get(c, "bytes_hex"));
    struct buf hex = {0};
    for (size_t i = 0; i < json_array_size(ids); i++) {
        size_t len;
        int32_t id = (int32_t)json_integer_value(json_array_get(ids, i));
        const char *p = tokenizer_piece(t, id, true, &len);
        for (size_t k = 0; k < len; k++)
            buf_printf(&hex, "%02x", (unsigned)(unsigned char)p[k]);
    }
    const char *got = hex.data ? hex.data : "";
    bool ok = want && strcmp(want, got) == 0;
    if (!ok && tell) {
        print_ids("decode", ids, NULL);
        printf("  want: %s\n  got:  %s\n", want ? want : "nothing", got);
    }
    buf_fini(&hex);
    return ok;
}

// The cases hold NUL characters, which json_read refuses: so jansson itself.
static void run_lines(const struct tokenizer *t, struct buf *cases, size_t *passed, size_t *total)
{
    char *save = NULL;
    for (char *line = strtok_r(cases->data, "\n", &save); line;
         line = strtok_r(NULL, "\n", &save)) {
        json_error_t e;
        json_t *c = json_loads(line, JSON_ALLOW_NUL, &e);
        bool tell = *passed == *total;
        ++*total;
        if (!c)
            printf("  %s\n", e.text);
        else if (json_object_get(c, "text"))
            *passed += check_encode(t, c, tell) &&
                       (!json_object_get(c, "decoded") || check_decoded(t, c, tell));
        else
            *passed += check_decode(t, c, tell);
        json_decref(c);
    }
}

static err_t open_any(const char *path, struct tokenizer **out, struct err_text *why)
{
    struct stat st;
    struct gguf *g = NULL;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) return tokenizer_open_dir(path, 0, out, why);
    err_t err = gguf_open(path, &g, why);
    if (!err) err = tokenizer_open(g, out, why);
    if (g) gguf_close(g);
    return err;
}

static bool run_dir(const char *dir, const char *vocab)
{
    char path[4096], cases_path[4096];
    struct tokenizer *t = NULL;
    struct buf cases = {0};
    struct err_text why = {""};
    size_t passed = 0, total = 0;
    snprintf(path, sizeof path, "%s/vocab.gguf", dir);
    snprintf(cases_path, sizeof cases_path, "%s/cases.jsonl", dir);
    if (access(path, R_OK) != 0) snprintf(path, sizeof path, "%s", dir);
    int64_t from = clock_now_us();
    err_t err = open_any(vocab ? vocab : path, &t, &why);
    int64_t ms = (clock_now_us() - from) / 1000;
    if (!err && !read_file(cases_path, &cases))
        err = err_say(&why, ERR_NOT_FOUND, "no cases.jsonl");
    if (!err) run_lines(t, &cases, &passed, &total);
    if (err)
        printf("%s: %s\n", dir, why.s);
    else
        printf("%s: %zu/%zu (opened in %lld ms)\n", dir, passed, total, (long long)ms);
    tokenizer_close(t);
    buf_fini(&cases);
    return total > 0 && passed == total;
}

int main(int argc, char **argv)
{
    const char *vocab = NULL;
    int first = 1;
    if (argc > 2 && strcmp(argv[1], "--vocab") == 0) {
        vocab = argv[2];
        first = 3;
    }
    if (argc <= first) {
        fprintf(stderr, "usage: tokenizer_cases [--vocab PATH] DIR...\n");
        return 2;
    }
    bool ok = true;
    for (int i = first; i < argc; i++)
        ok &= run_dir(argv[i], vocab);
    return ok ? 0 : 1;
}
