// vocab: the inside of a tokenizer, shared by the files that make one up: tokens and their bytes,
// the hash from bytes to ids, the merges, special tokens. Loaders (from_gguf.c, from_json.c,
// from_spm.c, from_tekken.c) describe every id as a struct vocab_piece and hand the list to
// vocab_build.
#pragma once
#include "coordinator/text/sidecar.h"
#include "coordinator/text/normalize.h"
#include "coordinator/text/pretokenize.h"
#include "coordinator/text/tokenizer.h"

enum vocab_kind {
    VOCAB_BPE,    // words by `pre`, neighbours joined in the order of a list of merges
    VOCAB_SPM,    // SentencePiece's BPE: the whole text, joined in the order of the pieces' scores
    VOCAB_UNIGRAM // the best sum of scores (Kudo 2018, arXiv 1804.10959)
};

// tokenizer.ggml.token_type, and what the other formats call by other names. 0: no such token.
enum vocab_type {
    VOCAB_NORMAL = 1,
    VOCAB_UNKNOWN,
    VOCAB_CONTROL,
    VOCAB_USER,
    VOCAB_UNUSED,
    VOCAB_BYTE
};

// What is particular about a token. The last four are those of added_tokens in tokenizer.json.
enum {
    VOCAB_FIND = 1, // text can become it: it is in the hash
    VOCAB_LSTRIP = 2,
    VOCAB_RSTRIP = 4,
    VOCAB_WORD = 8,
    VOCAB_NORMALIZED = 16 // looked for after normalisation
};

enum {
    VOCAB_TOKENS_MAX = 1 << 22,
    VOCAB_FRAME_MAX = 4,       // tokens around a text
    VOCAB_PIECE_MAX = 1 << 16, // bytes of one token
    VOCAB_SPECIAL_MAX = 512    // bytes of one that is looked for in text
};

struct vocab_piece {
    const char *s;     // the bytes of text that become it
    const char *shown; // its bytes in running text
    uint32_t len, n_shown;
    double score;
    uint8_t type, flags;
};

struct vocab_token {
    uint32_t at, len;        // in the blob: what text has
    uint32_t shown, n_shown; // in the blob: what it is in running text
    uint32_t rank;           // SPM: 0 is the best score
    uint8_t type, flags;
    bool ends;
};
struct vocab_slot {
    uint32_t tag; // other bits of the hash, to skip most comparisons
    int32_t id;   // -1: free
};
struct vocab_merge {
    uint64_t pair; // left id << 32 | right id; UINT64_MAX: free
    int32_t rank, id;
};
// A trie over spellings. Node 0 is the root; children are a list.
struct vocab_node {
    int32_t child, sibling; // 0: none
    int32_t id;             // -1: no token ends here
    uint8_t byte;
};
struct vocab_trie {
    struct vocab_node *nodes;
    int32_t n_node;
    int32_t first[256]; // children of the root, 0: none
};

struct tokenizer {
    enum vocab_kind kind;
    struct arena mem;
    struct vocab_token *tokens;
    int32_t n_token;
    char *blob;
    uint64_t seed; // of the hashes: files cannot aim at collisions
    struct vocab_slot *slots;
    uint32_t n_slot; // power of two
    struct vocab_merge *merges;
    uint32_t n_merge_slot; // power of two
    uint32_t n_rank;       // BPE: merges, SPM: different scores
    uint32_t piece_max;    // longest token that text can become
    double *scores;        // UNIGRAM
    double unk_score;
    int32_t bytes[256];    // id that stands for a single byte, -1: none
    int32_t bos, eos, unk; // -1: none
    bool add_bos, add_eos, add_space, ignore_merges, strips_space;
    // What TOKENIZER_BOS puts around a text. Empty, but add_bos or add_eos: bos, eos.
    int32_t before[VOCAB_FRAME_MAX], after[VOCAB_FRAME_MAX];
    int n_before, n_after;
    int32_t n_max;  // ids that the model has; 0: any
    bool by_chars;  // BPE: symbols are characters, bytes only stand for unknown ones; else bytes
    bool fuse_unk;  // neighbouring unknown characters are one unknown token
    bool has_bytes; // unknown characters become bytes
    bool drops_unknown; // what no token can spell is left out (no unknown token), not an error
    bool spaces;        // text as SentencePiece sees it: spm_text instead of norm and pre
    bool tight_spaces;  // with that: spaces at the ends go, runs of them become one
    bool user_inside;   // SPM: a user's own symbols are found in the text that spm_text made
    bool floats;        // UNIGRAM: sums as SentencePiece makes them
    struct vocab_trie special;    // looked for in text as it came
    struct vocab_trie normalized; // looked for in normalised text
    struct vocab_trie pieces;     // UNIGRAM: all
    struct normalizer *norm;      // NULL: none
    struct pretokenize *pre;      // NULL: a text is one word
};

// --- building ---------------------------------------------------------------------------------

// Everything but merges, ranks and facts. Ids from t->n_max on are left out if they are special.
// Copies; `where` ("tokenizer.json") begins sentences.
err_t vocab_build(struct tokenizer *t, const struct vocab_piece *pieces, int32_t n,
                  const char *where, struct err_text *why);
// Makes room for n merges. Then one by one; of two of the same pair the first counts.
bool vocab_merges_room(struct tokenizer *t, uint64_t n);
void vocab_merge_add(struct tokenizer *t, int32_t left, int32_t right, int32_t both, int32_t rank);
// tiktoken's rule: any two tokens whose bytes together are a token join, lower `rank` first.
// rank_of (n_token), -1: joins to nothing.
err_t vocab_merges_by_rank(struct tokenizer *t, const int32_t *rank_of, struct err_text *why);
// SPM: ranks from scores. UNIGRAM: keeps them and builds the trie.
err_t vocab_scores(struct tokenizer *t, const struct vocab_piece *pieces, const char *where,
                   struct err_text *why);
// Marks control tokens of the usual spellings as ends of a turn.
void vocab_find_ends(struct tokenizer *t);
// Id of the token, of any type, that is shown like this; -1. Slow.
int32_t vocab_spelled(const struct tokenizer *t, const char *s, size_t len);
// The bytes that a byte-level spelling stands for (GPT-2's alphabet), into `out` (len bytes); false
// if it uses other letters.
bool vocab_letters(const char *s, size_t len, char *out, size_t *n);
uint32_t vocab_letter(uint8_t byte); // the other way
// "<0x0A>" -> 10; else -1.
int vocab_byte_name(const char *s, size_t len);
// U+2581 becomes a space; the length.
size_t vocab_marks(const char *s, size_t len, char *out);

// --- looking up -------------------------------------------------------------------------------

// Id of the token that these bytes of text become, or -1.
int32_t vocab_find(const struct tokenizer *t, const char *s, size_t len);
// The merge of two tokens, or NULL.
const struct vocab_merge *vocab_merge_find(const struct tokenizer *t, int32_t left, int32_t right);
// Node of the child, 0: none.
int32_t vocab_child(const struct vocab_trie *t, int32_t node, uint8_t byte);

// --- loaders ----------------------------------------------------------------------------------

// Each fills t (which the caller frees on failure): pieces, merges, steps, bos/eos/unk as far as
// the format knows them.
err_t from_gguf(const struct gguf *g, struct tokenizer *t, struct err_text *why);
err_t from_json(const char *data, size_t len, const struct sidecar *c, struct tokenizer *t,
                struct err_text *why);
err_t from_spm(const char *data, size_t len, const struct sidecar *c, struct tokenizer *t,
               struct err_text *why);
err_t from_tekken(const char *data, size_t len, struct tokenizer *t, struct err_text *why);

// --- merge.c, bpe.c, spm.c, unigram.c ---------------------------------------------------------

struct merge_sym {
    int32_t id;         // BPE
    int32_t prev, next; // -1: none
    uint32_t at;        // SPM: first byte
    uint32_t rank;      // of the pair with the next symbol, UINT32_MAX: no merge
    int32_t joined;     // id of that pair
};
// Joins neighbours, always the pair with the lowest rank, leftmost first among equals. Nearly
// linear: pairs of one rank turn up mostly in order, and wait in a list; only the others (and one
// entry per rank) go through a heap.
struct merge {
    const struct tokenizer *t;
    // Rank and id of the pair (left, right); false if it cannot be joined.
    bool (*pair)(struct merge *m, const struct merge_sym *left, const struct merge_sym *right,
                 uint32_t *rank, int32_t *id);
    const char *text; // SPM
    uint32_t text_len;
    struct merge_sym *syms;
    size_t n_sym, cap_sym;
    struct merge_item {
        int32_t pos, next;
    } * items;
    int32_t n_item, free_item;
    size_t cap_item;
    struct merge_list {
        int32_t head, tail; // -1: empty
        uint32_t rank;
    } * lists;
    int32_t n_list;
    size_t cap_list;
    int32_t *list_of_rank; // index + 1
    uint64_t *heap; // rank << 32 | pos of pairs out of order; pos UINT32_MAX: look at the list
    size_t n_heap, cap_heap;
};
void merge_fini(struct merge *m);
bool merge_reserve(struct merge *m, size_t n_sym); // room in syms
// Links and joins syms[0..n_sym); what is left is the chain from symbol 0 by `next`.
err_t merge_run(struct merge *m);

// Where an encoding puts its ids, and what it works with.
struct vocab_sink {
    const struct tokenizer *t;
    struct ids *out;
    size_t max_ids;
    struct merge merge;
    struct buf text;      // made by spm_text
    struct normal normal; // text after t->norm
    struct pretokenize_work work;
    struct unigram_node *path; // UNIGRAM
    size_t cap_path;
    int32_t *back; // UNIGRAM: where pieces end, last first; (cap_path)
};
err_t vocab_put(struct vocab_sink *s, int32_t id);
// Any bytes.
err_t bpe_word(struct vocab_sink *s, const char *word, size_t len);
err_t unigram_word(struct vocab_sink *s, const char *word, size_t len);
err_t spm_encode(struct vocab_sink *s, const char *text, size_t len);
// Into s->text.
err_t spm_text(struct vocab_sink *s, const char *text, size_t len, bool space_before);
