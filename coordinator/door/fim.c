#include "coordinator/door/fim.h"

#include <string.h>

// Families, each with all of its marks; NULL: it has none of that kind.
static const struct {
    const char *prefix, *suffix, *middle, *repo, *file, *pad;
} families[] = {
    {"<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>",
     "<|fim_pad|>"},
    {"<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<repo_name>", "<file_sep>", "<fim_pad>"},
    {"<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<reponame>", "<filename>", "<fim_pad>"},
    {"<fim-prefix>", "<fim-suffix>", "<fim-middle>", NULL, NULL, "<fim-pad>"},
    {"<\xef\xbd\x9c"
     "fim\xe2\x96\x81"
     "begin\xef\xbd\x9c>",
     "<\xef\xbd\x9c"
     "fim\xe2\x96\x81"
     "hole\xef\xbd\x9c>",
     "<\xef\xbd\x9c"
     "fim\xe2\x96\x81"
     "end\xef\xbd\x9c>",
     NULL, NULL, NULL},
    {"\xe2\x96\x81<PRE>", "\xe2\x96\x81<SUF>", "\xe2\x96\x81<MID>", NULL, NULL, NULL},
    {"<PRE>", "<SUF>", "<MID>", NULL, NULL, NULL},
    {"[PREFIX]", "[SUFFIX]", "[MIDDLE]", NULL, NULL, NULL},
    {"<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>", NULL, NULL, NULL},
};

// The one special token that this text is, or -1.
static int32_t mark(const struct tokenizer *t, const char *text)
{
    struct ids ids = {0};
    int32_t id = -1;
    if (text &&
        tokenizer_encode(t, text, strlen(text), TOKENIZER_SPECIAL, NULL, 0, strlen(text) + 1,
                         &ids) == OK &&
        ids.n == 1)
        id = ids.at[0];
    ids_fini(&ids);
    return id;
}

bool fim_find(const struct tokenizer *t, struct fim *out)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        const struct fim f = {.prefix = mark(t, families[i].prefix),
                              .suffix = mark(t, families[i].suffix),
                              .middle = mark(t, families[i].middle),
                              .repo = mark(t, families[i].repo),
                              .file = mark(t, families[i].file),
                              .pad = mark(t, families[i].pad)};
        if (f.prefix < 0 || f.suffix < 0 || f.middle < 0) continue;
        *out = f;
        return true;
    }
    return false;
}
