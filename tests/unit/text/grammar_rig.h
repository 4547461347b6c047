// What tests of constrained output share: a vocabulary with tokens that cross the borders of
// JSON's, feeding a text, and writing one at random from what the masks allow.
#pragma once
#include "coordinator/text/grammar.h"
#include "proto/base/buf.h"
#include "proto/base/idset.h"
#include "tests/unit/text/vocab_file.h"

enum { RIG_TOKENS_MAX = 4000 };

struct rig {
    struct tokenizer *tok;
    struct grammar_book *book;
    int32_t end, tool; // a token that ends a text, and a control token that does not
    uint64_t random;
    const char *hurry[2]; // what free text has to come to, or NULL
};

static inline uint32_t rig_random(struct rig *r, uint32_t below)
{
    r->random = r->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((r->random >> 33) % below);
}

static inline void rig_open(struct rig *r)
{
    static const char *const more[] = {"{\"",
                                       "\":",
                                       "\",",
                                       "\"}",
                                       "\"]",
                                       "}}",
                                       "},",
                                       "true",
                                       "null",
                                       "[]",
                                       "{}",
                                       "12",
                                       "-1",
                                       ".5",
                                       "e+",
                                       "\\\"",
                                       "\\u",
                                       "\\n",
                                       "00",
                                       "abc",
                                       "name",
                                       "\xc4\xa0\"",
                                       ":\xc4\xa0",
                                       ",\xc4\xa0\"",
                                       "\xc4\x8a\xc4\xa0\xc4\xa0",
                                       "\xc3\x83\xc2\xa9",
                                       "</think>",
                                       "<tool_call>",
                                       "a\xc4\xa0x",
                                       "]}",
                                       "\":\"",
                                       "\":\xc4\xa0["};
    static struct vocab_file v;
    struct err_text why;
    vocab_file_bpe(&v);
    for (size_t i = 0; i < sizeof more / sizeof *more; i++)
        vocab_file_add(&v, more[i], 1, 0);
    r->tool = vocab_file_add(&v, "<|tool|>", 3, 0);
    v.n_score = 0;
    if (vocab_file_open(&v, &r->tok, &why) != OK) {
        fprintf(stderr, "%s\n", why.s);
        abort();
    }
    r->end = (int32_t)v.eos;
    r->book = grammar_book_new(r->tok);
    r->random = 1;
}

static inline void rig_close(struct rig *r)
{
    grammar_book_free(r->book);
    tokenizer_close(r->tok);
}

// How far the grammar follows the text, byte by byte; *may_end: it may end there.
static inline size_t rig_feed(struct grammar *g, const char *text, size_t len, bool *may_end)
{
    struct grammar_state *s = grammar_begin(g, false);
    struct err_text why;
    size_t n = 0;
    if (!s) abort();
    while (n < len && grammar_advance(s, (uint8_t)text[n], &why) == OK)
        n++;
    *may_end = grammar_may_end(s);
    grammar_end(s);
    return n;
}

static inline bool rig_takes(struct grammar *g, const char *text)
{
    bool may_end;
    const size_t len = strlen(text);
    return rig_feed(g, text, len, &may_end) == len && may_end;
}

// One of the ids in the set: any, or (eager) one that brings the text to its end, if there is one.
static inline int32_t rig_pick(struct rig *r, const uint8_t *set, size_t len, bool eager)
{
    const int32_t ends[] = {r->end, '"', '}', ']', 'e', 'l', '>', ':', ','};
    for (size_t i = 0; eager && i < sizeof ends / sizeof *ends; i++)
        if (idset_has(set, len, (uint32_t)ends[i])) return ends[i];
    struct idset_runs it = {.set = set, .len = len};
    uint32_t from, to, n = 0;
    while (idset_next(&it, &from, &to))
        n += to - from;
    uint32_t k = rig_random(r, n);
    it = (struct idset_runs){.set = set, .len = len};
    while (idset_next(&it, &from, &to)) {
        if (k < to - from) return (int32_t)(from + k);
        k -= to - from;
    }
    abort();
}

// In turns: what ends JSON, and the marks that end free text, spelled out.
static inline int32_t rig_eager(struct rig *r, uint32_t i, const uint8_t *set, size_t len)
{
    enum { TURN = 24 };
    const char *mark = i / TURN % 3 ? r->hurry[i / TURN % 3 - 1] : NULL;
    if (mark && i % TURN < strlen(mark)) {
        const uint8_t c = (uint8_t)mark[i % TURN];
        if (idset_has(set, len, c)) return c;
    }
    return rig_pick(r, set, len, true);
}

// Writes a text as the grammar wants, at first at random and then to its end. False: too long.
// Every mask is also tried against grammar_advance.
static inline bool rig_write(struct rig *r, struct grammar *g, struct buf *out)
{
    struct grammar_state *s = grammar_begin(g, false);
    struct err_text why;
    const uint32_t calm = 5 + rig_random(r, 60);
    bool done = false;
    buf_clear(out);
    for (uint32_t i = 0; i < RIG_TOKENS_MAX && !done; i++) {
        const uint8_t *set;
        size_t len, n;
        err_t err = grammar_mask(s, &set, &len, &why);
        if (err == ERR_END) {
            done = true;
            break;
        }
        if (err) {
            fprintf(stderr, "after '%.*s': %s\n", (int)out->len, out->data ? out->data : "", why.s);
            abort();
        }
        if (!idset_ok(set, len, (uint32_t)tokenizer_n_vocab(r->tok))) abort();
        const int32_t other = (int32_t)rig_random(r, (uint32_t)tokenizer_n_vocab(r->tok));
        if (!idset_has(set, len, (uint32_t)other)) {
            if (grammar_advance(s, other, &why) != ERR_INVALID) abort();
        }
        const bool eager = i > calm;
        const int32_t id = eager ? rig_eager(r, i, set, len) : rig_pick(r, set, len, false);
        err = grammar_advance(s, id, &why);
        if (err != (id == r->end ? ERR_END : OK)) {
            fprintf(stderr, "id %d: %s\n", id, why.s);
            abort();
        }
        const char *piece = tokenizer_piece(r->tok, id, false, &n);
        if (err == OK && piece) buf_add(out, piece, n);
        done = err == ERR_END;
    }
    buf_char(out, 0);
    out->len--;
    grammar_end(s);
    return done;
}
