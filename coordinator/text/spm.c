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

// SentencePiece makes no difference between a space and U+2581. It turns both into the mark, we
// turn both into spaces (as vocab.c does with the pieces).
static void normalise(struct buf *out, const char *text, size_t len, bool space_before)
{
    buf_clear(out);
    if (space_before) buf_char(out, ' ');
    for (size_t at = 0, end; at < len; at = end + 3) {
        const char *mark = memmem(text + at, len - at, "\xe2\x96\x81", 3);
        end = mark ? (size_t)(mark - text) : len;
        buf_add(out, text + at, end - at);
        if (!mark) break;
        buf_char(out, ' ');
    }
}

err_t spm_encode(struct vocab_sink *s, const char *text, size_t len, bool space_before)
{
    struct merge *m = &s->merge;
    normalise(&s->text, text, len, space_before);
    if (!buf_ok(&s->text) || s->text.len >= UINT32_MAX / 4) return ERR_MEMORY;
    if (s->text.len == 0) return OK;
    m->text = s->text.data;
    m->text_len = (uint32_t)s->text.len;
    m->pair = pair_by_text;
    m->n_sym = 0;
    if (!merge_reserve(m, s->text.len)) return ERR_MEMORY;
    for (uint32_t at = 0; at < m->text_len;) {
        size_t seq = utf8_len(m->text + at, m->text_len - at);
        m->syms[m->n_sym++] = (struct merge_sym){.id = -1, .at = at};
        at += seq ? (uint32_t)seq : 1;
    }
    err_t err = merge_run(m);
    for (int32_t i = 0; !err && i >= 0; i = m->syms[i].next)
        err = put_symbol(s, &m->syms[i]);
    return err;
}
