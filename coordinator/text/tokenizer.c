#include "coordinator/text/tokenizer.h"
#include "coordinator/text/vocab.h"
#include "proto/base/utf8.h"

#include <stdlib.h>
#include <utf8proc.h>

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

// --- encoding ---------------------------------------------------------------------------------

err_t vocab_put(struct vocab_sink *s, int32_t id)
{
    if (id < 0) return s->t->drops_unknown ? OK : ERR_INVALID; // no token can spell this
    if (s->out->n >= s->max_ids) return ERR_TOO_LARGE;
    return ids_add(s->out, id) ? OK : ERR_MEMORY;
}

static err_t put_word(void *arg, const char *word, size_t len)
{
    struct vocab_sink *s = arg;
    return s->t->kind == VOCAB_UNIGRAM ? unigram_word(s, word, len) : bpe_word(s, word, len);
}

// How an encoding hunts for special tokens: in the text as it came, and in normalised text.
struct hunt {
    struct vocab_sink *s;
    const struct vocab_trie *trie;
    bool control; // CONTROL and UNKNOWN ones too, where no plain span is touched
    const struct text_span *plain;
    size_t n_plain, span;
    size_t base;            // of text, in the text as it came
    const uint32_t *origin; // of each byte, from base; NULL: the text itself
    const char *text;
    size_t len;
    // Text between the tokens.
    err_t (*between)(const struct hunt *h, size_t from, size_t to);
};

static bool is_plain(struct hunt *h, size_t from, size_t to)
{
    if (h->origin) {
        to = h->origin[to - 1] + 1;
        from = h->origin[from];
    }
    from += h->base;
    to += h->base;
    while (h->span < h->n_plain && h->plain[h->span].to <= from)
        h->span++;
    return h->span < h->n_plain && h->plain[h->span].from < to;
}

// Longest token that begins at `at` and may.
static int32_t find_here(struct hunt *h, size_t at, size_t *end)
{
    const struct tokenizer *t = h->s->t;
    int32_t best = -1, node = 0;
    for (size_t i = at; i < h->len; i++) {
        node = vocab_child(h->trie, node, (uint8_t)h->text[i]);
        if (!node) break;
        int32_t id = h->trie->nodes[node].id;
        if (id < 0) continue;
        bool user = t->tokens[id].type == VOCAB_USER;
        if (user ? t->user_inside : !h->control || is_plain(h, at, i + 1)) continue;
        best = id;
        *end = i + 1;
    }
    return best;
}

static bool is_word(int32_t c)
{
    utf8proc_category_t k = utf8proc_category(c);
    return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_ND) || k == UTF8PROC_CATEGORY_NL ||
           k == UTF8PROC_CATEGORY_PC;
}

static bool is_space(int32_t c)
{
    utf8proc_category_t k = utf8proc_category(c);
    return (c >= 9 && c <= 13) || c == 0x85 ||
           (k >= UTF8PROC_CATEGORY_ZS && k <= UTF8PROC_CATEGORY_ZP);
}

// The character before or at `at`, and its bytes; -1: none.
static int32_t char_before(const struct hunt *h, size_t at, size_t *n)
{
    utf8proc_int32_t c = -1;
    for (*n = 1; *n <= 4 && *n <= at; ++*n)
        if (utf8_len(h->text + at - *n, *n) == *n) {
            utf8proc_iterate((const utf8proc_uint8_t *)h->text + at - *n, (utf8proc_ssize_t)*n, &c);
            return c;
        }
    return -1;
}

static int32_t char_at(const struct hunt *h, size_t at, size_t *n)
{
    utf8proc_int32_t c = -1;
    *n = utf8_len(h->text + at, h->len - at);
    if (*n) utf8proc_iterate((const utf8proc_uint8_t *)h->text + at, (utf8proc_ssize_t)*n, &c);
    return c;
}

// What the token takes with it of white space around, and whether it may stand here at all.
static bool fits(const struct hunt *h, int32_t id, size_t done, size_t *from, size_t *to)
{
    uint8_t flags = h->s->t->tokens[id].flags;
    size_t n;
    if (flags & VOCAB_WORD && (is_word(char_before(h, *from, &n)) || is_word(char_at(h, *to, &n))))
        return false;
    while (flags & VOCAB_LSTRIP && *from > done && is_space(char_before(h, *from, &n)))
        *from -= n;
    while (flags & VOCAB_RSTRIP && *to < h->len && is_space(char_at(h, *to, &n)))
        *to += n;
    return true;
}

static err_t hunt(struct hunt *h)
{
    size_t done = 0, end = 0;
    err_t err = OK;
    for (size_t at = 0; !err && at < h->len;) {
        if (!h->trie->first[(unsigned char)h->text[at]]) {
            at++;
            continue;
        }
        int32_t id = find_here(h, at, &end);
        if (id < 0) {
            at++;
            continue;
        }
        size_t from = at, to = end;
        at = end;
        if (!fits(h, id, done, &from, &to)) continue;
        if (from > done) err = h->between(h, done, from);
        if (!err) err = vocab_put(h->s, id);
        done = to; // white space that it took can still begin the next token
    }
    return err || done == h->len ? err : h->between(h, done, h->len);
}

// --- from normalised text to words ------------------------------------------------------------

static err_t put_words(const struct hunt *h, size_t from, size_t to)
{
    const struct tokenizer *t = h->s->t;
    bool at_start = h->base + from == 0;
    if (!t->pre) return put_word(h->s, h->text + from, to - from);
    return pretokenize_each(t->pre, &h->s->work, h->text + from, to - from, at_start, put_word,
                            h->s);
}

static err_t put_valid(const struct hunt *h, size_t from, size_t to)
{
    struct vocab_sink *s = h->s;
    struct hunt inner = *h;
    inner.base = h->base + from;
    inner.text = h->text + from;
    inner.len = to - from;
    if (s->t->norm) {
        err_t err = normalize_run(s->t->norm, &s->work.match, inner.text, inner.len, &s->normal);
        if (err) return err;
        inner.text = s->normal.text.data ? s->normal.text.data : "";
        inner.len = s->normal.text.len;
        if (s->t->norm->keeps_origin) inner.origin = (const uint32_t *)s->normal.from.data;
    }
    inner.trie = &s->t->normalized;
    inner.between = put_words;
    return hunt(&inner);
}

// Runs of bytes that are not UTF-8 are words of their own.
static err_t put_runs(const struct hunt *h, size_t from, size_t to)
{
    err_t err = OK;
    for (size_t at = from; !err && at < to;) {
        size_t end = at, seq;
        while (end < to && (seq = utf8_len(h->text + end, to - end)) > 0)
            end += seq;
        if (end > at) err = put_valid(h, at, end);
        for (at = end; end < to && utf8_len(h->text + end, to - end) == 0; end++)
            ;
        if (!err && end > at) err = put_word(h->s, h->text + at, end - at);
        at = end;
    }
    return err;
}

// SentencePiece puts a space in front of a text, and of what follows a special token.
static err_t put_spaces(const struct hunt *h, size_t from, size_t to)
{
    struct vocab_sink *s = h->s;
    err_t err = spm_text(s, h->text + from, to - from, s->t->add_space);
    if (err || s->text.len == 0) return err;
    return s->t->kind == VOCAB_UNIGRAM ? unigram_word(s, s->text.data, s->text.len)
                                       : spm_encode(s, s->text.data, s->text.len);
}

static void sink_fini(struct vocab_sink *s)
{
    merge_fini(&s->merge);
    buf_fini(&s->text);
    normal_fini(&s->normal);
    pretokenize_work_fini(&s->work);
    free(s->path);
    free(s->back);
}

err_t tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, unsigned flags,
                       const struct text_span *plain, size_t n_plain, size_t max_ids,
                       struct ids *out)
{
    struct vocab_sink s = {.t = t, .out = out, .max_ids = max_ids, .merge.t = t};
    struct hunt h = {.s = &s,
                     .trie = &t->special,
                     .control = flags & TOKENIZER_SPECIAL,
                     .plain = plain,
                     .n_plain = n_plain,
                     .text = text,
                     .len = len,
                     .between = t->spaces ? put_spaces : put_runs};
    size_t before = out->n;
    bool frame = flags & TOKENIZER_BOS;
    err_t err = OK;
    for (int i = 0; frame && !err && i < t->n_before; i++)
        err = vocab_put(&s, t->before[i]);
    if (!err) err = hunt(&h);
    for (int i = 0; frame && !err && i < t->n_after; i++)
        err = vocab_put(&s, t->after[i]);
    sink_fini(&s);
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
    *len = tok->n_shown;
    return t->blob + tok->shown;
}

bool tokenizer_strips_first_space(const struct tokenizer *t)
{
    return t->strips_space;
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
    return t->n_before > 0;
}

bool tokenizer_is_end(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->n_token && t->tokens[id].ends;
}
