// A small vocabulary as a GGUF file, made on the spot: tests change a field and see what happens.
#pragma once
#include "coordinator/text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { VOCAB_FILE_TOKENS = 320, VOCAB_FILE_MERGES = 16 };

struct vocab_file {
    const char *model, *pre; // pre NULL: no key
    char letters[256][8];
    const char *tokens[VOCAB_FILE_TOKENS];
    int32_t types[VOCAB_FILE_TOKENS];
    float scores[VOCAB_FILE_TOKENS];
    int n_token, n_type, n_score; // 0 types or scores: no key
    const char *merges[VOCAB_FILE_MERGES];
    int n_merge;
    int64_t bos, eos, unk;  // -1: no key
    int add_bos, add_space; // -1: no key
};

static inline int vocab_file_add(struct vocab_file *v, const char *text, int type, float score)
{
    v->tokens[v->n_token] = text;
    v->types[v->n_token] = type;
    v->scores[v->n_token] = score;
    v->n_type = v->n_score = v->n_token + 1;
    return v->n_token++;
}

// The letter that stands for a byte in byte-level BPE.
static inline void vocab_file_letter(char out[8], int byte)
{
    int c = byte, other = 0;
    bool same = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
    for (int i = 0; !same && i < byte; i++)
        other += !((i >= 33 && i <= 126) || (i >= 161 && i != 173));
    if (!same) c = 256 + other;
    if (c < 128)
        snprintf(out, 8, "%c", c);
    else
        snprintf(out, 8, "%c%c", 0xc0 | c >> 6, 0x80 | (c & 63));
}

// Bytes are 0-255, then merges from 256 on, then specials.
static inline void vocab_file_bpe(struct vocab_file *v)
{
    static const char *const merges[] = {"t h",  "th e", "\xc4\xa0 the", "i n",
                                         "in g", "a a",  "aa aa"};
    static const char *const made[] = {"th", "the", "\xc4\xa0the", "in", "ing", "aa", "aaaa"};
    *v = (struct vocab_file){
        .model = "gpt2", .pre = "gpt-2", .add_bos = -1, .add_space = -1, .unk = -1};
    for (int i = 0; i < 256; i++) {
        vocab_file_letter(v->letters[i], i);
        vocab_file_add(v, v->letters[i], 1, 0);
    }
    for (; v->n_merge < 7; v->n_merge++) {
        v->merges[v->n_merge] = merges[v->n_merge];
        vocab_file_add(v, made[v->n_merge], 1, 0);
    }
    v->bos = vocab_file_add(v, "<s>", 3, 0);
    v->eos = vocab_file_add(v, "<|im_end|>", 3, 0);
    vocab_file_add(v, "<tool>", 4, 0);
    v->n_score = 0;
}

// 0 <unk>, 1 <s>, 2 </s>, bytes from 3 on, then pieces.
static inline void vocab_file_spm(struct vocab_file *v)
{
    static const char *const pieces[] = {"\xe2\x96\x81",
                                         "a",
                                         "b",
                                         "ab",
                                         "\xe2\x96\x81"
                                         "a",
                                         "\xe2\x96\x81"
                                         "ab",
                                         "ba",
                                         "\xc3\xa9"};
    *v = (struct vocab_file){
        .model = "llama", .bos = 1, .eos = 2, .unk = 0, .add_bos = 1, .add_space = -1};
    vocab_file_add(v, "<unk>", 2, 0);
    vocab_file_add(v, "<s>", 3, 0);
    vocab_file_add(v, "</s>", 3, 0);
    for (int i = 0; i < 256; i++) {
        snprintf(v->letters[i], 8, "<0x%02X>", (unsigned)i & 255u);
        vocab_file_add(v, v->letters[i], 6, 0);
    }
    for (int i = 0; i < 8; i++)
        vocab_file_add(v, pieces[i], 1, -(float)i);
    vocab_file_add(v, "[img]", 4, 0);
}

static inline void vocab_file_u64(struct buf *b, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        buf_char(b, (char)(v >> (8 * i)));
}

static inline void vocab_file_str(struct buf *b, const char *s)
{
    vocab_file_u64(b, strlen(s), 8);
    buf_str(b, s);
}

static inline void vocab_file_key(struct buf *b, uint64_t *n_kv, const char *key, uint32_t type)
{
    ++*n_kv;
    vocab_file_str(b, key);
    vocab_file_u64(b, type, 4);
}

static inline void vocab_file_array(struct buf *b, uint64_t *n_kv, const char *key, uint32_t elem,
                                    int n)
{
    vocab_file_key(b, n_kv, key, 9);
    vocab_file_u64(b, elem, 4);
    vocab_file_u64(b, (uint64_t)n, 8);
}

static inline void vocab_file_strs(struct buf *b, uint64_t *n_kv, const char *key,
                                   const char *const *s, int n)
{
    vocab_file_array(b, n_kv, key, 8, n);
    for (int i = 0; i < n; i++)
        vocab_file_str(b, s[i]);
}

static inline void vocab_file_words(struct buf *b, uint64_t *n_kv, const char *key, uint32_t elem,
                                    const void *words, int n)
{
    if (n == 0) return;
    vocab_file_array(b, n_kv, key, elem, n);
    buf_add(b, words, (size_t)n * 4);
}

static inline void vocab_file_id(struct buf *b, uint64_t *n_kv, const char *key, int64_t id)
{
    if (id < 0) return;
    vocab_file_key(b, n_kv, key, 4);
    vocab_file_u64(b, (uint64_t)id, 4);
}

static inline void vocab_file_flag(struct buf *b, uint64_t *n_kv, const char *key, int on)
{
    if (on < 0) return;
    vocab_file_key(b, n_kv, key, 7);
    buf_char(b, (char)on);
}

static inline void vocab_file_write(const struct vocab_file *v, struct buf *out)
{
    struct buf b = {0};
    uint64_t n = 0;
    vocab_file_key(&b, &n, "tokenizer.ggml.model", 8);
    vocab_file_str(&b, v->model);
    if (v->pre) vocab_file_key(&b, &n, "tokenizer.ggml.pre", 8);
    if (v->pre) vocab_file_str(&b, v->pre);
    vocab_file_strs(&b, &n, "tokenizer.ggml.tokens", v->tokens, v->n_token);
    vocab_file_words(&b, &n, "tokenizer.ggml.token_type", 5, v->types, v->n_type);
    vocab_file_words(&b, &n, "tokenizer.ggml.scores", 6, v->scores, v->n_score);
    if (v->n_merge) vocab_file_strs(&b, &n, "tokenizer.ggml.merges", v->merges, v->n_merge);
    vocab_file_id(&b, &n, "tokenizer.ggml.bos_token_id", v->bos);
    vocab_file_id(&b, &n, "tokenizer.ggml.eos_token_id", v->eos);
    vocab_file_id(&b, &n, "tokenizer.ggml.unknown_token_id", v->unk);
    vocab_file_flag(&b, &n, "tokenizer.ggml.add_bos_token", v->add_bos);
    vocab_file_flag(&b, &n, "tokenizer.ggml.add_space_prefix", v->add_space);
    buf_str(out, "GGUF");
    vocab_file_u64(out, 3, 4);
    vocab_file_u64(out, 0, 8);
    vocab_file_u64(out, n, 8);
    buf_add(out, b.data, b.len);
    buf_fini(&b);
}

// Opens the tokenizer in these bytes of a GGUF file.
static inline err_t vocab_file_open_bytes(const void *bytes, size_t len, struct tokenizer **out,
                                          struct err_text *why)
{
    char path[64];
    struct gguf *g = NULL;
    int fd = memfd_create("vocab", MFD_CLOEXEC);
    if (fd < 0 || write(fd, bytes, len) != (ssize_t)len) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    err_t err = gguf_open(path, &g, why);
    if (!err) err = tokenizer_open(g, out, why);
    if (g) gguf_close(g);
    close(fd);
    return err;
}

static inline err_t vocab_file_open(const struct vocab_file *v, struct tokenizer **out,
                                    struct err_text *why)
{
    struct buf b = {0};
    vocab_file_write(v, &b);
    err_t err = vocab_file_open_bytes(b.data, b.len, out, why);
    buf_fini(&b);
    return err;
}
