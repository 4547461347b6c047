// SentencePiece's BPE: characters joined in order of the score of what they become; characters that
// are no piece become bytes (https://github.com/google/sentencepiece, bpe_model).
#include "coordinator/text/vocab.h"
#include "proto/base/utf8.h"

#include <string.h>

static uint32_t end_of(const struct merge *m, const struct merge_sym *s)
{
    return s->next < 0 ? m->text_len : m->syms[s->next].at;
}

static bool pair_by_text(struct merge *m, const struct merge_sym *left,
                         const struct merge_sym *right, uint32_t *rank, int32_t *id)
{
    const struct vocab_token *tokens = m->t->tokens;
    if (left->id >= 0 && tokens[left->id].type == VOCAB_USER) return false;
    if (right->id >= 0 && tokens[right->id].type == VOCAB_USER) return false;
    uint32_t len = end_of(m, right) - left->at;
    if (len > m->t->piece_max) return false;
    *id = vocab_find(m->t, m->text + left->at, len);
    if (*id < 0) return false;
    *rank = m->t->tokens[*id].rank;
    return true;
}

static err_t put_symbol(struct vocab_sink *s, const struct merge_sym *sym)
{
    const struct merge *m = &s->merge;
    uint32_t end = end_of(m, sym);
    int32_t id = sym->id;
    if (id < 0 && end - sym->at <= s->t->piece_max)
        id = vocab_find(s->t, m->text + sym->at, end - sym->at);
    if (id >= 0) return vocab_put(s, id);
    err_t err = OK;
    for (uint32_t i = sym->at; !err && i < end; i++)
        err = vocab_put(s, s->t->bytes[(unsigned char)m->text[i]]);
    return err;
}

// A user's own symbol stays as it is.
static int32_t own_symbol(const struct merge *m, uint32_t at, uint32_t *len)
{
    const struct vocab_trie *trie = &m->t->special;
    int32_t best = -1, node = 0;
    if (!m->t->user_inside) return -1;
    for (uint32_t i = at; i < m->text_len; i++) {
        node = vocab_child(trie, node, (uint8_t)m->text[i]);
        if (!node) break;
        int32_t id = trie->nodes[node].id;
        if (id < 0 || m->t->tokens[id].type != VOCAB_USER) continue;
        best = id;
        *len = i + 1 - at;
    }
    return best;
}

err_t spm_encode(struct vocab_sink *s, const char *text, size_t len)
{
    struct merge *m = &s->merge;
    if (len >= UINT32_MAX / 4) return ERR_TOO_LARGE;
    if (len == 0) return OK;
    m->text = text;
    m->text_len = (uint32_t)len;
    m->pair = pair_by_text;
    m->n_sym = 0;
    if (!merge_reserve(m, len)) return ERR_MEMORY;
    for (uint32_t at = 0, seq = 0; at < m->text_len; at += seq) {
        int32_t id = own_symbol(m, at, &seq);
        if (id < 0) seq = (uint32_t)utf8_len(m->text + at, m->text_len - at);
        if (seq == 0) seq = 1;
        m->syms[m->n_sym++] = (struct merge_sym){.id = id, .at = at};
    }
    err_t err = merge_run(m);
    for (int32_t i = 0; !err && i >= 0; i = m->syms[i].next)
        err = put_symbol(s, &m->syms[i]);
    return err;
}

// --- the text as SentencePiece sees it --------------------------------------------------------

// SentencePiece makes no difference between a space and U+2581. It turns both into the mark, we
// turn both into spaces (as loaders do with the pieces).
static void put_spaces(struct buf *out, const char *text, size_t len)
{
    for (size_t at = 0, end; at < len; at = end + 3) {
        const char *mark = memmem(text + at, len - at, "\xe2\x96\x81", 3);
        end = mark ? (size_t)(mark - text) : len;
        buf_add(out, text + at, end - at);
        if (!mark) break;
        buf_char(out, ' ');
    }
}

// Spaces at both ends go, runs of them become one. The first byte stays where it is.
static void tighten(struct buf *b, size_t first)
{
    size_t n = first;
    for (size_t i = first; i < b->len; i++) {
        bool leads = n == first || b->data[n - 1] == ' ';
        if (b->data[i] != ' ' || !leads) b->data[n++] = b->data[i];
    }
    while (n > first && b->data[n - 1] == ' ')
        n--;
    b->len = n;
}

// Runs of bytes that are no UTF-8 pass the table by.
static err_t by_table(struct vocab_sink *s, const char *text, size_t len)
{
    err_t err = OK;
    for (size_t at = 0; !err && at < len;) {
        size_t end = at, seq;
        while (end < len && (seq = utf8_len(text + end, len - end)) > 0)
            end += seq;
        if (end > at)
            err = normalize_run(s->t->norm, &s->work.match, text + at, end - at, &s->normal);
        if (!err && end > at) put_spaces(&s->text, s->normal.text.data, s->normal.text.len);
        for (at = end; end < len && utf8_len(text + end, len - end) == 0; end++)
            ;
        buf_add(&s->text, text + at, end - at);
        at = end;
    }
    return err;
}

err_t spm_text(struct vocab_sink *s, const char *text, size_t len, bool space_before)
{
    err_t err = OK;
    buf_clear(&s->text);
    if (space_before) buf_char(&s->text, ' ');
    size_t first = s->text.len;
    if (s->t->norm)
        err = by_table(s, text, len);
    else
        put_spaces(&s->text, text, len);
    if (err) return err;
    if (!buf_ok(&s->text)) return ERR_MEMORY;
    if (s->t->tight_spaces && s->text.len) tighten(&s->text, first);
    if (s->text.len == first) s->text.len = 0; // nothing is left: no prefix either
    return OK;
}
