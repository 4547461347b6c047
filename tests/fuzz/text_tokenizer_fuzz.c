// First byte 'G': the rest is a GGUF file to open, and to encode a fixed text with if it opens.
// Otherwise bit 0 chooses a vocabulary, bits 1 and 2 are the flags, the next two bytes a plain
// span, and the rest is text: its ids must decode to the same bytes, through tokens and through a
// stream.
#include "coordinator/text/stream.h"
#include "tests/unit/text/vocab_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_model(const uint8_t *data, size_t size)
{
    static const char text[] = "the thing's <|im_end|> aaaa \xc3\xa9\xff 123\n\n";
    struct tokenizer *t = NULL;
    struct err_text why;
    struct ids ids = {0};
    if (vocab_file_open_bytes(data, size, &t, &why) != OK) return;
    tokenizer_encode(t, text, sizeof text - 1, TOKENIZER_BOS | TOKENIZER_SPECIAL, NULL, 0, 1000,
                     &ids);
    for (size_t i = 0; i < ids.n; i++)
        if (ids.at[i] < 0 || ids.at[i] >= tokenizer_n_vocab(t)) abort();
    ids_fini(&ids);
    tokenizer_close(t);
}

static void check_decode(const struct tokenizer *t, const struct ids *ids, const char *text,
                         size_t len)
{
    size_t at = 0, n, skip = tokenizer_strips_first_space(t);
    if (tokenizer_strips_first_space(t)) return; // spaces are added, U+2581 becomes one
    for (size_t i = 0; i < ids->n; i++) {
        const char *p = tokenizer_piece(t, ids->at[i], true, &n);
        if (n > len - at + skip || memcmp(p, text + at, n) != 0) abort();
        at += n;
    }
    if (at != len) abort();
}

static void check_stream(const struct tokenizer *t, const struct ids *ids)
{
    static const struct stream_stop stops[] = {{"the", 3},
                                               {"\xc3\xa9"
                                                "a",
                                                3}};
    struct stream s;
    struct buf out = {0};
    stream_init(&s, t, stops, 2, true);
    int stop = -1;
    for (size_t i = 0; i < ids->n && stop < 0; i++)
        stop = stream_push(&s, ids->at[i], &out);
    if (stop < 0) stream_flush(&s, &out);
    if (out.len && memmem(out.data, out.len, "the", 3)) abort();
    stream_fini(&s);
    buf_fini(&out);
}

static void fuzz_text(const uint8_t *data, size_t size)
{
    static struct tokenizer *both[2];
    struct err_text why;
    if (!both[0]) {
        struct vocab_file v;
        vocab_file_bpe(&v);
        if (vocab_file_open(&v, &both[0], &why) != OK) abort();
        vocab_file_spm(&v);
        if (vocab_file_open(&v, &both[1], &why) != OK) abort();
    }
    const struct tokenizer *t = both[data[0] & 1];
    const char *text = (const char *)data + 3;
    size_t len = size - 3;
    struct text_span span = {data[1], data[2]};
    struct ids ids = {0};
    bool use_span = span.from < span.to;
    if (tokenizer_encode(t, text, len, data[0] & 2, &span, use_span, SIZE_MAX, &ids) != OK) abort();
    check_decode(t, &ids, text, len);
    check_stream(t, &ids);
    ids_fini(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3) return 0;
    if (data[0] == 'G')
        fuzz_model(data + 1, size - 1);
    else
        fuzz_text(data, size);
    return 0;
}
