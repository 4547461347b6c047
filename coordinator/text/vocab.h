// vocab: the inside of a tokenizer, shared by the files that make one up: tokens and their bytes,
// the hash from bytes to ids, the merges, special tokens.
#pragma once
#include "coordinator/text/tokenizer.h"

enum vocab_kind { VOCAB_BPE, VOCAB_SPM };

// tokenizer.ggml.token_type
enum vocab_type {
    VOCAB_NORMAL = 1,
    VOCAB_UNKNOWN,
    VOCAB_CONTROL,
    VOCAB_USER,
    VOCAB_UNUSED,
    VOCAB_BYTE
};

enum {
    VOCAB_TOKENS_MAX = 1 << 22,
    VOCAB_PIECE_MAX = 1 << 16, // bytes of one token
    VOCAB_SPECIAL_MAX = 512    // bytes of one that is looked for in text
};

struct vocab_token {
    uint32_t at, len; // its bytes in running text, in the blob
    uint32_t rank;    // SPM: 0 is the best score
    uint8_t type;
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
// A trie over the spellings of special tokens. Node 0 is the root; children are a list.
struct vocab_node {
    int32_t child, sibling; // 0: none
    int32_t id;             // -1: no token ends here
    uint8_t byte;
};

struct pretokenize;
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
    uint32_t piece_max;    // longest NORMAL token
    int32_t bytes[256];    // id that stands for a single byte, -1: none
    int32_t bos, eos, unk; // -1: none
    bool add_bos, add_eos, add_space, ignore_merges;
    struct vocab_node *nodes;
    int32_t n_node;
    int32_t first[256];      // children of the root, 0: none
    struct pretokenize *pre; // BPE
};

// Id of the NORMAL token with these bytes, or -1.
int32_t vocab_find(const struct tokenizer *t, const char *s, size_t len);
// The merge of two tokens, or NULL.
const struct vocab_merge *vocab_merge_find(const struct tokenizer *t, int32_t left, int32_t right);
// Reads everything but t->pre. On failure the caller frees t.
err_t vocab_load(const struct gguf *g, struct tokenizer *t, struct err_text *why);
// Longest special token that begins at s; `control`: also CONTROL and UNKNOWN ones, which may reach
// at most to control_len. Returns its id or -1.
int32_t vocab_special(const struct tokenizer *t, const char *s, size_t len, bool control,
                      size_t control_len, size_t *used);

// --- pretokenize.c ----------------------------------------------------------------------------

// The splitter for a tokenizer.ggml.pre name: ERR_MODEL if it is not known.
err_t pretokenize_open(const char *name, size_t len, struct pretokenize **out, bool *ignore_merges,
                       bool *add_bos, struct err_text *why);
void pretokenize_close(struct pretokenize *p);
// Called with each word of the text, in order; stops at the first error.
typedef err_t pretokenize_fn(void *arg, const char *word, size_t len);
// text is valid UTF-8.
err_t pretokenize_each(const struct pretokenize *p, const char *text, size_t len,
                       pretokenize_fn *fn, void *arg);

// --- merge.c, bpe.c, spm.c --------------------------------------------------------------------

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
    struct buf text; // SPM: normalised
};
err_t vocab_put(struct vocab_sink *s, int32_t id);
err_t bpe_encode(struct vocab_sink *s, const char *text, size_t len);
err_t spm_encode(struct vocab_sink *s, const char *text, size_t len, bool space_before);
