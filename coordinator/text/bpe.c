// Byte-level BPE: words from the pre-tokenizer, bytes to ids, merges in order of rank.
#include "coordinator/text/vocab.h"
#include "proto/base/utf8.h"

#include <string.h>

enum { SHORT_WORD = 32 };

static bool pair_by_id(struct merge *m, const struct merge_sym *left, const struct merge_sym *right,
                       uint32_t *rank, int32_t *id)
{
    const struct vocab_merge *merge = vocab_merge_find(m->t, left->id, right->id);
    if (!merge) return false;
    *rank = (uint32_t)merge->rank;
    *id = merge->id;
    return true;
}

static err_t put_all(struct vocab_sink *s, const int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        err_t err = vocab_put(s, ids[i]);
        if (err) return err;
    }
    return OK;
}

// Short words, nearly all there are: look for the best pair again after each merge.
static err_t encode_short(struct vocab_sink *s, int32_t *ids, size_t n)
{
    const struct vocab_merge *pairs[SHORT_WORD];
    for (size_t i = 0; i + 1 < n; i++)
        pairs[i] = vocab_merge_find(s->t, ids[i], ids[i + 1]);
    while (n > 1) {
        size_t best = n;
        for (size_t i = 0; i + 1 < n; i++)
            if (pairs[i] && (best == n || pairs[i]->rank < pairs[best]->rank)) best = i;
        if (best == n) break;
        ids[best] = pairs[best]->id;
        n--;
        memmove(ids + best + 1, ids + best + 2, (n - best - 1) * sizeof *ids);
        if (best + 1 < n) memmove(pairs + best, pairs + best + 1, (n - best - 1) * sizeof *pairs);
        if (best + 1 < n) pairs[best] = vocab_merge_find(s->t, ids[best], ids[best + 1]);
        if (best > 0) pairs[best - 1] = vocab_merge_find(s->t, ids[best - 1], ids[best]);
    }
    return put_all(s, ids, n);
}

static err_t encode_long(struct vocab_sink *s, const char *word, size_t len)
{
    struct merge *m = &s->merge;
    if (!merge_reserve(m, len)) return ERR_MEMORY;
    for (size_t i = 0; i < len; i++)
        m->syms[i].id = s->t->bytes[(unsigned char)word[i]];
    m->n_sym = len;
    m->pair = pair_by_id;
    err_t err = merge_run(m);
    for (int32_t i = 0; !err && i >= 0; i = m->syms[i].next)
        err = vocab_put(s, m->syms[i].id);
    return err;
}

static err_t encode_word(void *arg, const char *word, size_t len)
{
    struct vocab_sink *s = arg;
    int32_t ids[SHORT_WORD];
    if (s->t->ignore_merges && len <= s->t->piece_max) {
        int32_t whole = vocab_find(s->t, word, len);
        if (whole >= 0) return vocab_put(s, whole);
    }
    if (len > SHORT_WORD) return encode_long(s, word, len);
    for (size_t i = 0; i < len; i++)
        ids[i] = s->t->bytes[(unsigned char)word[i]];
    return encode_short(s, ids, len);
}

// Runs of bytes that are not UTF-8 are words of their own.
err_t bpe_encode(struct vocab_sink *s, const char *text, size_t len)
{
    err_t err = OK;
    for (size_t at = 0; !err && at < len;) {
        size_t end = at, seq;
        while (end < len && (seq = utf8_len(text + end, len - end)) > 0)
            end += seq;
        if (end > at) err = pretokenize_each(s->t->pre, text + at, end - at, encode_word, s);
        for (at = end; end < len && utf8_len(text + end, len - end) == 0; end++)
            ;
        if (!err && end > at) err = encode_word(s, text + at, end - at);
        at = end;
    }
    return err;
}
