// BPE of one word: bytes (or characters) to ids, merges in order of rank.
#include "coordinator/text/vocab.h"
#include "proto/base/utf8.h"

#include <stdlib.h>
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

// An unknown character: its bytes, if all of them are tokens, else the unknown token, if there is
// one. -1 alone: no token can spell it.
static size_t unknown(const struct tokenizer *t, const char *s, size_t len, int32_t *ids)
{
    bool all = t->has_bytes;
    for (size_t i = 0; all && i < len; i++)
        all = t->bytes[(unsigned char)s[i]] >= 0;
    for (size_t i = 0; all && i < len; i++)
        ids[i] = t->bytes[(unsigned char)s[i]];
    if (all) return len;
    ids[0] = t->unk;
    return 1;
}

// The symbols of a word: at most one for each byte. ids and syms are two ways to keep them.
static err_t symbols(struct vocab_sink *s, const char *word, size_t len, int32_t *ids, size_t *n)
{
    const struct tokenizer *t = s->t;
    bool was_unknown = false;
    *n = 0;
    for (size_t at = 0, seq = 1; at < len; at += seq) {
        int32_t made[4];
        size_t n_made = 1;
        made[0] = t->by_chars ? -1 : t->bytes[(unsigned char)word[at]];
        if (t->by_chars) {
            seq = utf8_len(word + at, len - at);
            if (seq) made[0] = vocab_find(t, word + at, seq);
            if (!seq) seq = 1;
        }
        bool is_unknown = made[0] < 0;
        if (is_unknown) n_made = unknown(t, word + at, seq, made);
        is_unknown &= made[0] == t->unk && n_made == 1;
        bool fused = is_unknown && was_unknown && t->fuse_unk;
        was_unknown = is_unknown;
        if (made[0] < 0 && !t->drops_unknown) return ERR_INVALID;
        if (fused || made[0] < 0) continue;
        memcpy(ids + *n, made, n_made * sizeof *ids);
        *n += n_made;
    }
    return OK;
}

static err_t encode_long(struct vocab_sink *s, const char *word, size_t len)
{
    struct merge *m = &s->merge;
    int32_t *ids = malloc(len * sizeof *ids);
    if (!ids || !merge_reserve(m, len)) {
        free(ids);
        return ERR_MEMORY;
    }
    err_t err = symbols(s, word, len, ids, &m->n_sym);
    for (size_t i = 0; !err && i < m->n_sym; i++)
        m->syms[i].id = ids[i];
    free(ids);
    m->pair = pair_by_id;
    if (!err) err = merge_run(m);
    for (int32_t i = m->n_sym ? 0 : -1; !err && i >= 0; i = m->syms[i].next)
        err = vocab_put(s, m->syms[i].id);
    return err;
}

err_t bpe_word(struct vocab_sink *s, const char *word, size_t len)
{
    int32_t ids[SHORT_WORD];
    size_t n;
    if (s->t->ignore_merges && len <= s->t->piece_max) {
        int32_t whole = vocab_find(s->t, word, len);
        if (whole >= 0) return vocab_put(s, whole);
    }
    if (len > SHORT_WORD) return encode_long(s, word, len);
    err_t err = symbols(s, word, len, ids, &n);
    return err ? err : encode_short(s, ids, n);
}
