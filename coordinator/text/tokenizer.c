#include "coordinator/text/tokenizer.h"
#include "coordinator/text/vocab.h"

#include <stdlib.h>
#include <string.h>

// --- lists of ids -----------------------------------------------------------------------------

bool ids_add(struct ids *l, int32_t id)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 64;
        int32_t *at = realloc(l->at, cap * sizeof *at);
        if (!at) return false;
        l->at = at;
        l->cap = cap;
    }
    l->at[l->n++] = id;
    return true;
}

void ids_fini(struct ids *l)
{
    free(l->at);
    *l = (struct ids){0};
}

// --- opening ----------------------------------------------------------------------------------

static err_t open_kind(const struct gguf *g, struct tokenizer *t, struct err_text *why)
{
    struct gguf_str model, pre = {"default", 7};
    err_t err = gguf_get_str(g, "tokenizer.ggml.model", &model, why);
    if (err == ERR_NOT_FOUND) return err_say(why, ERR_MODEL, "tokenizer.ggml.model: missing");
    if (err) return err;
    if (model.len == 5 && memcmp(model.s, "llama", 5) == 0) {
        t->kind = VOCAB_SPM;
        t->add_bos = t->add_space = true;
        return OK;
    }
    if (model.len != 4 || memcmp(model.s, "gpt2", 4) != 0)
        return err_say(why, ERR_MODEL, "tokenizer.ggml.model: '%.*s' is not supported",
                       model.len > 60 ? 60 : (int)model.len, model.s);
    t->kind = VOCAB_BPE;
    err = gguf_get_str(g, "tokenizer.ggml.pre", &pre, why);
    if (err && err != ERR_NOT_FOUND) return err;
    return pretokenize_open(pre.s, pre.len, &t->pre, &t->ignore_merges, &t->add_bos, why);
}

err_t tokenizer_open(const struct gguf *g, struct tokenizer **out, struct err_text *why)
{
    struct tokenizer *t = calloc(1, sizeof *t);
    if (!t) return err_say(why, ERR_MEMORY, "tokenizer: out of memory");
    arena_init(&t->mem, 0);
    err_t err = open_kind(g, t, why);
    if (!err) err = vocab_load(g, t, why);
    if (err) {
        tokenizer_close(t);
        return err;
    }
    if (t->bos < 0) t->add_bos = false;
    *out = t;
    return OK;
}

void tokenizer_close(struct tokenizer *t)
{
    if (!t) return;
    pretokenize_close(t->pre);
    arena_fini(&t->mem);
    free(t);
}

// --- encoding ---------------------------------------------------------------------------------

err_t vocab_put(struct vocab_sink *s, int32_t id)
{
    if (id < 0) return ERR_INVALID; // a byte that the vocabulary cannot spell
    if (s->out->n >= s->max_ids) return ERR_TOO_LARGE;
    return ids_add(s->out, id) ? OK : ERR_MEMORY;
}

// Text without special tokens. SPM puts a space in front of a text, and of what follows a special
// token, as llama.cpp does.
static err_t encode_plain(struct vocab_sink *s, const char *text, size_t len)
{
    if (len == 0) return OK;
    if (s->t->kind == VOCAB_BPE) return bpe_encode(s, text, len);
    return spm_encode(s, text, len, s->t->add_space);
}

// A cursor over the plain spans: bytes from `at` up to the next one.
static size_t clear_ahead(const struct text_span *plain, size_t n_plain, size_t *span, size_t at,
                          size_t len)
{
    while (*span < n_plain && plain[*span].to <= at)
        ++*span;
    if (*span == n_plain) return len - at;
    return plain[*span].from <= at ? 0 : plain[*span].from - at;
}

static err_t encode_text(struct vocab_sink *s, const char *text, size_t len, bool special,
                         const struct text_span *plain, size_t n_plain)
{
    const struct tokenizer *t = s->t;
    size_t from = 0, span = 0, used = 0;
    err_t err = OK;
    for (size_t at = 0; !err && at < len;) {
        if (!t->first[(unsigned char)text[at]]) {
            at++;
            continue;
        }
        size_t clear = special ? clear_ahead(plain, n_plain, &span, at, len) : 0;
        int32_t id = vocab_special(t, text + at, len - at, special, clear, &used);
        if (id < 0) {
            at++;
            continue;
        }
        err = encode_plain(s, text + from, at - from);
        if (!err) err = vocab_put(s, id);
        from = at += used;
    }
    return err ? err : encode_plain(s, text + from, len - from);
}

err_t tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, unsigned flags,
                       const struct text_span *plain, size_t n_plain, size_t max_ids,
                       struct ids *out)
{
    struct vocab_sink s = {.t = t, .out = out, .max_ids = max_ids, .merge.t = t};
    size_t before = out->n;
    bool frame = flags & TOKENIZER_BOS;
    err_t err = frame && t->add_bos ? vocab_put(&s, t->bos) : OK;
    if (!err) err = encode_text(&s, text, len, flags & TOKENIZER_SPECIAL, plain, n_plain);
    if (!err && frame && t->add_eos) err = vocab_put(&s, t->eos);
    merge_fini(&s.merge);
    buf_fini(&s.text);
    if (err) out->n = before;
    return err;
}

// --- decoding and facts -----------------------------------------------------------------------

const char *tokenizer_piece(const struct tokenizer *t, int32_t id, bool special, size_t *len)
{
    *len = 0;
    if (id < 0 || id >= t->n_token) return "";
    const struct vocab_token *tok = &t->tokens[id];
    bool hidden =
        tok->type == VOCAB_CONTROL || tok->type == VOCAB_UNKNOWN || tok->type == VOCAB_UNUSED;
    if (hidden && !special) return "";
    *len = tok->len;
    return t->blob + tok->at;
}

bool tokenizer_strips_first_space(const struct tokenizer *t)
{
    return t->kind == VOCAB_SPM && t->add_space;
}

int32_t tokenizer_n_vocab(const struct tokenizer *t)
{
    return t->n_token;
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

bool tokenizer_adds_bos(const struct tokenizer *t)
{
    return t->add_bos;
}

bool tokenizer_is_end(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->n_token && t->tokens[id].ends;
}
