// grammar: constrained output. What a text may be is described by a small tree (struct
// grammar_spec), compiled once (grammar_open; bounded in time and memory whatever the caller sent),
// and followed token by token by one grammar_state for each text that is generated: grammar_mask
// says which tokens may come, grammar_advance takes the one that came. Both depend on nothing but
// the tokens so far, so a state can be made again from a history at any time.
//
//   book     what belongs to one model's vocabulary: its tokens by bytes, and the grammars compiled
//            lately, found by content (at most GRAMMAR_CACHE_BYTES; nothing is ever written down)
//   grammar  immutable to its users, counted references
//   state    one per text
//
// All functions may be called on any thread; one state by one at a time.
#pragma once
#include "coordinator/text/tokenizer.h"
#include "proto/base/json.h"

struct grammar_book;
struct grammar;
struct grammar_state;

enum {
    GRAMMAR_CACHE_BYTES = 64 << 20,
    GRAMMAR_CACHE_MAX = 256,      // grammars
    GRAMMAR_SOURCE_MAX = 1 << 20, // bytes of a description, written down
    GRAMMAR_SPEC_DEPTH_MAX = 32,
};

enum grammar_kind {
    GRAMMAR_SCHEMA,   // json: a JSON Schema; a JSON text that it allows (schema.h says which)
    GRAMMAR_OBJECT,   // any JSON object
    GRAMMAR_REGEX,    // text: the whole of it matches
    GRAMMAR_NOTATION, // text: a grammar in the notation of expr.h
    GRAMMAR_LITERAL,  // text
    GRAMMAR_TOKEN,    // token: a control token, which has no bytes
    // Free text: up to and including the first `text` (1 to 64 bytes; NULL: the control token
    // `token`); or without it, to wherever it ends. Other control tokens pass.
    GRAMMAR_UNTIL,
    GRAMMAR_WITHOUT,
    GRAMMAR_SEQ,   // parts, one after the other; none: nothing
    GRAMMAR_ANY,   // one of the parts
    GRAMMAR_REPEAT // its one part, min to max times (max 0: any number of times); not what may be
                   // empty
};

// Borrowed by grammar_open. For example, a reasoning model that must call one of two tools:
//   SEQ { UNTIL "</think>", REGEX "\s{0,4}", ANY { SEQ { LITERAL "<tool_call>\n{\"name\": \"f\",
//         \"arguments\": ", SCHEMA f's parameters, LITERAL "}\n</tool_call>" }, SEQ { ... } } }
struct grammar_spec {
    enum grammar_kind kind;
    const char *text;
    size_t len;
    const struct json *json, *root; // root: what "#" in references is; NULL: json itself
    int32_t token;
    uint32_t min, max;
    const struct grammar_spec *parts;
    size_t n_part;
};

// The tokenizer is borrowed. Allocates little: the vocabulary is looked at when the first grammar
// is opened. NULL: no memory.
struct grammar_book *grammar_book_new(const struct tokenizer *t);
// All grammars must have been given back.
void grammar_book_free(struct grammar_book *b);
size_t grammar_book_bytes(struct grammar_book *b, uint32_t *n_grammar); // held by the cache
struct grammar_stats {
    uint64_t n_found, n_compiled; // grammars that were asked for: in the cache, or not
    uint64_t n_known, n_made;     // masks: of a state that was seen before, or not
    uint64_t make_us;             // time in those that were made
};
struct grammar_stats grammar_book_stats(struct grammar_book *b);

// A reference to the grammar. ERR_INVALID, ERR_UNSUPPORTED (a keyword that cannot be kept): the
// sentence names the place; ERR_TOO_LARGE: over a budget; ERR_MEMORY.
err_t grammar_open(struct grammar_book *b, const struct grammar_spec *spec, struct grammar **out,
                   struct err_text *why);
struct grammar *grammar_take(struct grammar *g); // one more reference
void grammar_give(struct grammar *g);            // NULL is fine

// Follows a new text; holds a reference. tight_start: the tokenizer strips a space from the front
// of the text. NULL: no memory.
struct grammar_state *grammar_begin(struct grammar *g, bool tight_start);
void grammar_end(struct grammar_state *s); // NULL is fine
// The next token came. ERR_END: it ends the text, which may end here. ERR_INVALID: it may not come
// here (the state is as before). ERR_TOO_LARGE: over a budget.
err_t grammar_advance(struct grammar_state *s, int32_t id, struct err_text *why);
// The tokens that may come, as an idset that is valid until the state is advanced or ended; tokens
// that end a text are among them where it may end. ERR_END: nothing but the end may come.
// ERR_TOO_LARGE: over a budget. ERR_UNSUPPORTED: no token of this vocabulary goes on.
err_t grammar_mask(struct grammar_state *s, const uint8_t **set, size_t *len, struct err_text *why);
bool grammar_may_end(struct grammar_state *s); // here

// -- grammar_spec.c --

struct nfa;
// What the grammar is found by: SHA-256 of the description, written down. ERR_TOO_LARGE,
// ERR_INVALID.
err_t grammar_spec_key(const struct grammar_spec *spec, uint8_t key[32], struct err_text *why);
// The graph of the description, closed. `out` is to be given back in any case.
err_t grammar_spec_compile(const struct grammar_spec *spec, struct nfa *out, struct err_text *why);
