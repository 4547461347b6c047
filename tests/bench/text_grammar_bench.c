// text_grammar_bench: time per token of constrained output with a real vocabulary: masks and steps,
// the first time through a document and when all of its states have been seen before.
//
//     text_grammar_bench TOKENIZER_DIR|FILE.gguf
#include "coordinator/text/grammar.h"
#include "proto/base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    enum grammar_kind kind;
    const char *grammar, *text;
} cases[] = {
    {"json_object", GRAMMAR_OBJECT, "",
     "{\"name\": \"Anna K\xc3\xa4rki\", \"age\": 31, \"tags\": [\"chess\", \"tea & biscuits\", \"a "
     "longer text, with punctuation; and \\\"quotes\\\" inside\"], \"address\": {\"street\": "
     "\"Mannerheimintie 5\", \"geo\": {\"lat\": 60.1708, \"lon\": 24.9375}}, \"active\": true, "
     "\"notes\": null}"},
    {"schema", GRAMMAR_SCHEMA,
     "{\"type\":\"object\",\"properties\":{\"path\":{\"type\":\"string\"},\"old\":{\"type\":"
     "\"string\"},\"new\":{\"type\":\"string\"},\"line\":{\"type\":\"integer\",\"minimum\":1},"
     "\"mode\":{\"enum\":[\"replace\",\"insert\",\"delete\"]}},\"required\":[\"path\",\"old\","
     "\"new\",\"line\"]}",
     "{\"path\": \"src/main/app.c\", \"old\": \"    int x = read(fd, buf, sizeof buf);\\n    if (x "
     "< 0) return -1;\\n\", \"new\": \"    ssize_t n = read(fd, buf, sizeof buf);\\n    if (n < 0) "
     "return -errno;\\n\", \"line\": 1042, \"mode\": \"replace\"}"},
    {"maxLength", GRAMMAR_SCHEMA,
     "{\"type\":\"object\",\"properties\":{\"text\":{\"type\":\"string\",\"maxLength\":4000}},"
     "\"required\":[\"text\"]}",
     "{\"text\": \"The quick brown fox jumps over the lazy dog, again and again, until the "
     "sentence has become long enough to be of some use in a measurement like this one.\"}"},
    {"regex", GRAMMAR_REGEX, "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z [A-Z]+ .*",
     "2026-11-23T05:19:09Z WARN the reader was two seconds late and had to be told twice"},
};

struct times {
    double mask_us, mask_max_us, step_us;
    size_t bytes;
    uint32_t n;
};

static void follow(struct grammar *g, const struct ids *ids, struct times *out)
{
    struct grammar_state *s = grammar_begin(g, false);
    struct err_text why;
    *out = (struct times){.n = (uint32_t)ids->n};
    for (size_t i = 0; i < ids->n; i++) {
        const uint8_t *set;
        size_t len;
        const int64_t a = clock_now_us();
        if (grammar_mask(s, &set, &len, &why) != OK) exit(fprintf(stderr, "%s\n", why.s));
        const int64_t b = clock_now_us();
        if (grammar_advance(s, ids->at[i], &why) != OK) exit(fprintf(stderr, "%s\n", why.s));
        out->step_us += (double)(clock_now_us() - b);
        out->mask_us += (double)(b - a);
        if ((double)(b - a) > out->mask_max_us) out->mask_max_us = (double)(b - a);
        out->bytes += len;
    }
    grammar_end(s);
}

static void print(const char *name, const char *when, const struct times *t)
{
    printf("%-12s %-6s %4u tokens: mask %8.1f us (most %8.1f), step %6.2f us, %6zu bytes\n", name,
           when, t->n, t->mask_us / t->n, t->mask_max_us, t->step_us / t->n, t->bytes / t->n);
}

static err_t open_tokenizer(const char *path, struct tokenizer **out, struct err_text *why)
{
    const char *dot = strrchr(path, '.');
    if (!dot || strcmp(dot, ".gguf")) return tokenizer_open_dir(path, 0, out, why);
    struct gguf *g;
    err_t err = gguf_open(path, &g, why);
    if (err) return err;
    err = tokenizer_open(g, out, why);
    gguf_close(g);
    return err;
}

int main(int argc, char **argv)
{
    struct tokenizer *tok;
    struct err_text why;
    if (argc != 2) return 2;
    if (open_tokenizer(argv[1], &tok, &why) != OK) return fprintf(stderr, "%s\n", why.s);
    struct grammar_book *book = grammar_book_new(tok);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena a;
        struct ids ids = {0};
        struct times cold, warm;
        struct grammar *g;
        arena_init(&a, 0);
        struct grammar_spec spec = {
            .kind = cases[i].kind, .text = cases[i].grammar, .len = strlen(cases[i].grammar)};
        if (spec.kind == GRAMMAR_SCHEMA &&
            json_read(cases[i].grammar, spec.len, &a, &spec.json, NULL, &why) != OK)
            return fprintf(stderr, "%s\n", why.s);
        if (spec.json) spec.text = NULL;
        const int64_t began = clock_now_us();
        if (grammar_open(book, &spec, &g, &why) != OK) return fprintf(stderr, "%s\n", why.s);
        printf("%-12s compiled in %lld us%s\n", cases[i].name, (long long)(clock_now_us() - began),
               i ? "" : " (and the vocabulary)");
        tokenizer_encode(tok, cases[i].text, strlen(cases[i].text), 0, NULL, 0, 10000, &ids);
        follow(g, &ids, &cold);
        follow(g, &ids, &warm);
        print(cases[i].name, "first", &cold);
        print(cases[i].name, "again", &warm);
        grammar_give(g);
        ids_fini(&ids);
        arena_fini(&a);
    }
    printf("vocabulary of %d tokens\n", tokenizer_n_vocab(tok));
    grammar_book_free(book);
    tokenizer_close(tok);
    return 0;
}
