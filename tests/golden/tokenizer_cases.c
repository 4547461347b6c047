// tokenizer_cases [--vocab FILE.gguf] DIR...: checks every case of DIR/cases.jsonl against
// DIR/vocab.gguf (or the file given). Prints passed/total and the first failing case per directory;
// exits with 1 if a case failed.
#include "coordinator/text/tokenizer.h"
#include "proto/base/clock.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
            *passed += check_encode(t, c, tell);
        else
            *passed += check_decode(t, c, tell);
        json_decref(c);
    }
}

static bool run_dir(const char *dir, const char *vocab)
{
    char path[4096], cases_path[4096];
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    struct buf cases = {0};
    struct err_text why = {""};
    size_t passed = 0, total = 0;
    snprintf(path, sizeof path, "%s/vocab.gguf", dir);
    snprintf(cases_path, sizeof cases_path, "%s/cases.jsonl", dir);
    err_t err = gguf_open(vocab ? vocab : path, &g, &why);
    int64_t from = clock_now_us();
    if (!err) err = tokenizer_open(g, &t, &why);
    int64_t ms = (clock_now_us() - from) / 1000;
    if (g) gguf_close(g);
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
        fprintf(stderr, "usage: tokenizer_cases [--vocab FILE.gguf] DIR...\n");
        return 2;
    }
    bool ok = true;
    for (int i = first; i < argc; i++)
        ok &= run_dir(argv[i], vocab);
    return ok ? 0 : 1;
}
