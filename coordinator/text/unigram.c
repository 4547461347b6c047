// Unigram: of all ways to spell a text with pieces, the one with the best sum of scores (Viterbi;
// the recurrence and its order are SentencePiece's unigram_model, so that ties fall the same way).
#include "coordinator/text/vocab.h"
#include "proto/base/utf8.h"

#include <stdlib.h>

struct unigram_node {
    double score; // of the best way to here
    uint32_t from;
    int32_t id; // -1: no way yet; -2: an unknown character
};
enum { NO_WAY = -1, UNKNOWN = -2 };

static bool room(struct vocab_sink *s, size_t n)
{
    if (s->cap_path >= n) return true;
    struct unigram_node *path = realloc(s->path, n * sizeof *path);
    if (path) s->path = path;
    int32_t *back = realloc(s->back, n * sizeof *back);
    if (back) s->back = back;
    if (path && back) s->cap_path = n;
    return path && back;
}

static void offer(const struct vocab_sink *s, size_t from, size_t to, int32_t id, double score)
{
    double sum = s->path[from].score + score;
    if (s->t->floats) sum = (double)(float)sum;
    struct unigram_node *n = &s->path[to];
    if (n->id == NO_WAY || sum > n->score) *n = (struct unigram_node){sum, (uint32_t)from, id};
}

static void reach(const struct vocab_sink *s, const char *text, size_t len, size_t at)
{
    const struct tokenizer *t = s->t;
    size_t seq = utf8_len(text + at, len - at);
    bool has_single = false;
    int32_t node = 0;
    if (seq == 0) seq = 1;
    for (size_t i = at; i < len; i++) {
        node = vocab_child(&t->pieces, node, (uint8_t)text[i]);
        if (!node) break;
        int32_t id = t->pieces.nodes[node].id;
        if (id < 0) continue;
        offer(s, at, i + 1, id, t->scores[id]);
        has_single |= i + 1 - at == seq;
    }
    if (!has_single) offer(s, at, at + seq, UNKNOWN, t->unk_score);
}

static err_t put_unknown(struct vocab_sink *s, const char *text, size_t len, bool again)
{
    const struct tokenizer *t = s->t;
    bool all = t->has_bytes;
    err_t err = OK;
    for (size_t i = 0; all && i < len; i++)
        all = t->bytes[(unsigned char)text[i]] >= 0;
    for (size_t i = 0; all && !err && i < len; i++)
        err = vocab_put(s, t->bytes[(unsigned char)text[i]]);
    if (all || again) return err; // neighbouring unknown characters are one unknown token
    return vocab_put(s, t->unk);
}

err_t unigram_word(struct vocab_sink *s, const char *word, size_t len)
{
    if (len >= UINT32_MAX / 4) return ERR_TOO_LARGE;
    if (!room(s, len + 1)) return ERR_MEMORY;
    for (size_t i = 0; i <= len; i++)
        s->path[i].id = NO_WAY;
    s->path[0] = (struct unigram_node){.id = UNKNOWN};
    for (size_t at = 0; at < len; at++)
        if (s->path[at].id != NO_WAY) reach(s, word, len, at);
    size_t n = 0;
    for (size_t at = len; at > 0; at = s->path[at].from)
        s->back[n++] = (int32_t)at;
    err_t err = OK;
    bool unknown = false;
    for (size_t from = 0; !err && n-- > 0;) {
        size_t to = (size_t)s->back[n];
        int32_t id = s->path[to].id;
        if (id == UNKNOWN)
            err = put_unknown(s, word + from, to - from, unknown);
        else
            err = vocab_put(s, id);
        unknown = id == UNKNOWN;
        from = to;
    }
    return err;
}
