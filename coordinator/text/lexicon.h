// lexicon: all tokens of a vocabulary by their bytes, as tries that a grammar's machine is walked
// over: which tokens may come next. Tokens of plain characters only (nfa_plain) are kept apart:
// inside of strings they may all come, and are not looked at one by one.
//
// Immutable: any number of threads.
#pragma once
#include "coordinator/text/machine.h"
#include "coordinator/text/tokenizer.h"

enum { LEXICON_PIECE_MAX = 512 }; // bytes; longer tokens never come

struct lexicon_node {
    uint32_t past; // node after all that begin like this one
    int32_t id;    // token that ends here, -1: none
    uint8_t byte;
    uint16_t depth; // bytes before it
};
struct lexicon_trie {
    struct lexicon_node *nodes;
    uint32_t n;
};
struct lexicon {
    const struct tokenizer *tok;
    uint32_t n_vocab, n_word; // words of 64 bits for a bit per id
    struct lexicon_trie plain, other;
    uint64_t *plain_bits, *control_bits, *end_bits; // (n_word)
    struct lexicon_twin {
        int32_t id, twin; // same bytes; id is in a trie
    } * twins;
    uint32_t n_twin;
    uint32_t longest; // bytes of a token
};

// ERR_MEMORY; ERR_UNSUPPORTED: more ids than a set can have.
err_t lexicon_open(const struct tokenizer *t, struct lexicon **out);
void lexicon_close(struct lexicon *x);
// Sets the bits of the tokens with bytes, and of control tokens, that may come in a state;
// tight_start: a space at the front of the token is not part of the text. bits: (n_word), zeros.
void lexicon_mask(const struct lexicon *x, struct machine *m, uint32_t state, bool tight_start,
                  uint64_t *bits);
static inline bool lexicon_has(const uint64_t *bits, int32_t id)
{
    return bits[id / 64] >> (id % 64) & 1;
}
