// First byte: which file of a folder the rest is ('J' tokenizer.json, 'T' tekken.json, else
// tokenizer.model). If it opens, a fixed text is encoded, and all pieces are looked at.
#include "coordinator/text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[64];

static void leave(void)
{
    rmdir(dir);
}

static void encode(const struct tokenizer *t)
{
    static const char text[] = "the thing's <|im_end|> aaaa \xc3\xa9\xff 123\n\n\xcc\x81  x";
    struct ids ids = {0};
    size_t len;
    tokenizer_encode(t, text, sizeof text - 1, TOKENIZER_BOS | TOKENIZER_SPECIAL, NULL, 0, 1000,
                     &ids);
    for (size_t i = 0; i < ids.n; i++)
        if (ids.at[i] < 0 || ids.at[i] >= tokenizer_n_vocab(t)) abort();
    for (int32_t i = 0; i < tokenizer_n_vocab(t) && i < 5000; i++)
        tokenizer_piece(t, i, true, &len);
    ids_fini(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[128];
    struct tokenizer *t = NULL;
    struct err_text why;
    if (size < 1) return 0;
    if (!*dir) {
        strcpy(dir, "/dev/shm/folder_fuzz.XXXXXX");
        if (!mkdtemp(dir)) abort();
        atexit(leave);
    }
    snprintf(path, sizeof path, "%s/%s", dir,
             data[0] == 'J'   ? "tokenizer.json"
             : data[0] == 'T' ? "tekken.json"
                              : "tokenizer.model");
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data + 1, 1, size - 1, f) != size - 1) abort();
    fclose(f);
    err_t err = tokenizer_open_dir(dir, 0, &t, &why);
    unlink(path);
    if (err) return 0;
    encode(t);
    tokenizer_close(t);
    return 0;
}
