// tokenizer: text <-> token ids, from what a model brings with it: a GGUF's metadata, or a Hugging
// Face directory (tokenizer.json, else tekken.json, else SentencePiece's tokenizer.model).
//
// Immutable after opening: any number of threads may encode and decode at once. Encoding is linear
// in the text for every input.
#pragma once
#include "proto/base/buf.h"
#include "topology/gguf.h"

struct tokenizer;
struct model;

// Of the model's ids, those that the tokenizer lacks (padded embeddings) are bad ids: they give no
// bytes, and no text becomes them. Special tokens that the model lacks are left out; that it lacks
// others is an error. Of shape:NAME the tokens are bytes. ERR_MODEL names file and key at fault.
err_t tokenizer_open_model(const struct model *m, struct tokenizer **out, struct err_text *why);
// n_max: ids that the model has; 0: not known.
err_t tokenizer_open_dir(const char *dir, int32_t n_max, struct tokenizer **out,
                         struct err_text *why);
err_t tokenizer_open(const struct gguf *g, struct tokenizer **out, struct err_text *why);
void tokenizer_close(struct tokenizer *t);

// A growable list of ids. Zero-initialise; ids_fini when done.
struct ids {
    int32_t *at;
    size_t n, cap;
};
bool ids_add(struct ids *l, int32_t id);
void ids_fini(struct ids *l);

// A byte range of the text that came from a user: special tokens spelled inside it are plain text.
struct text_span {
    size_t from, to;
};

enum { TOKENIZER_BOS = 1, TOKENIZER_SPECIAL = 2 };
// Appends the ids of text to out. TOKENIZER_BOS: put the model's BOS (and EOS, where the model says
// so) around it as its metadata asks. TOKENIZER_SPECIAL: special tokens spelled in the text become
// their ids, unless the spelling touches one of the `plain` spans (sorted, disjoint).
// max_ids bounds the total in out; over it: ERR_TOO_LARGE. Invalid UTF-8 is encoded by bytes.
err_t tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, unsigned flags,
                       const struct text_span *plain, size_t n_plain, size_t max_ids,
                       struct ids *out);

// Bytes of one token as they appear in running text (SPM: leading-space marks become spaces).
// Control tokens give no bytes unless `special`. Borrowed. Bad ids give no bytes.
const char *tokenizer_piece(const struct tokenizer *t, int32_t id, bool special, size_t *len);
// SPM: the first piece of a text loses its leading space. True if this tokenizer does that.
bool tokenizer_strips_first_space(const struct tokenizer *t);

int32_t tokenizer_n_vocab(const struct tokenizer *t);
int32_t tokenizer_bos(const struct tokenizer *t); // -1: none
int32_t tokenizer_eos(const struct tokenizer *t);
bool tokenizer_adds_bos(const struct tokenizer *t);
// True for every id that ends a turn (eos, eot, eom, and control tokens with the usual spellings).
bool tokenizer_is_end(const struct tokenizer *t, int32_t id);
