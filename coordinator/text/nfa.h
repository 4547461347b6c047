// nfa: a grammar as a graph over bytes, the form that every notation for constrained output is
// compiled to. A node says what comes next and where to go then:
//
//   BYTE, SET      one byte of a range or a set
//   SPLIT          either of two ways
//   CALL           a rule (a graph of its own), then `next`: what makes nesting possible
//   COUNT          a body between min and max times, then `next`; counted at run time, so that
//                  "at most a million characters" is as small as "at most two"
//   TOKEN, CONTROL one control token, or any but one: they have no bytes
//   NEVER          no way on
//   END            of a rule, of a body, of the text (node 0, shared by all)
//
// Graphs are built backwards: each function takes the node to go to afterwards and returns the node
// to begin with. A builder that failed (over a budget, bad input) keeps the first reason, and every
// later call returns node 0; it is asked once, at the end.
#pragma once
#include "proto/base/arena.h"
#include <stdbool.h>

enum {
    NFA_NODES_MAX = 1 << 18,
    NFA_RULES_MAX = 1 << 14,
    NFA_SETS_MAX = 1 << 14,
    NFA_COUNTS_MAX = 1 << 14,
    NFA_COUNT_MAX = 1 << 20, // of a repetition
    NFA_DEPTH_MAX = 64,      // calls inside one another, while the grammar runs
    NFA_WORK_BYTES = 32 << 20,
};
static const uint32_t NFA_NO_MAX = UINT32_MAX; // a repetition without an upper bound

enum nfa_kind {
    NFA_END,
    NFA_BYTE,
    NFA_SET,
    NFA_SPLIT,
    NFA_CALL,
    NFA_COUNT,
    NFA_TOKEN,
    NFA_CONTROL,
    NFA_NEVER
};
// A node that begins a loop over at least every plain character (nfa_plain) says so: a run of plain
// characters leads from it to where it began.
enum nfa_loop { NFA_LOOP_NONE, NFA_LOOP_STAR, NFA_LOOP_COUNT };

struct nfa_node {
    uint8_t kind, lo, hi;
    uint8_t loop;   // enum nfa_loop
    uint32_t next;  // of all but END and NEVER
    uint32_t other; // SET: set; SPLIT: the other way; CALL: rule; COUNT: count; TOKEN, CONTROL: id
};
struct nfa_set {
    uint64_t bits[4];
};
struct nfa_count {
    uint32_t body; // ends with END
    uint32_t min, max;
};

// Characters that a JSON string may hold as they are; whole UTF-8 sequences.
static inline bool nfa_plain(uint32_t c)
{
    return c >= 0x20 && c != '"' && c != '\\';
}

struct nfa {
    struct nfa_node *nodes;
    struct nfa_set *sets;
    struct nfa_count *counts;
    uint32_t *rules; // node that each begins with
    uint32_t n_node, n_set, n_count, n_rule;
    uint32_t cap_node, cap_set, cap_count, cap_rule;
    uint32_t root;

    // Filled by nfa_close.
    uint8_t *depth;        // (n_node) calls inside one another that it takes to get to the end of
                           // the rule, at least; NFA_NEVER_ENDS: it cannot be
    uint8_t class_of[256]; // bytes that no node tells apart
    uint8_t byte_of[256];  // one of each class
    uint32_t n_class;

    // While it is built.
    err_t err;
    struct err_text *why;
    struct arena work; // gone after nfa_close
    // Rules that many share, 0: not made yet (rule 0 is never one of them).
    uint32_t shared[8];
};
enum { NFA_NEVER_ENDS = 255 };

// A builder; all of it goes back with nfa_fini. `why` gets the sentence of the first failure.
void nfa_init(struct nfa *a, struct err_text *why);
void nfa_fini(struct nfa *a);
static inline bool nfa_ok(const struct nfa *a)
{
    return a->err == OK;
}
// The first failure counts. Returns node 0.
uint32_t nfa_fail(struct nfa *a, err_t code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
// Memory that lives until nfa_close; NULL after noting the failure.
void *nfa_take(struct nfa *a, size_t n, size_t size);
size_t nfa_bytes(const struct nfa *a); // held, for caches

uint32_t nfa_byte(struct nfa *a, uint8_t lo, uint8_t hi, uint32_t next);
uint32_t nfa_bytes_of(struct nfa *a, const struct nfa_set *s, uint32_t next);
uint32_t nfa_split(struct nfa *a, uint32_t one, uint32_t other);
uint32_t nfa_never(struct nfa *a);
uint32_t nfa_text(struct nfa *a, const char *s, size_t len, uint32_t next);
uint32_t nfa_str(struct nfa *a, const char *s, uint32_t next);
uint32_t nfa_call(struct nfa *a, uint32_t rule, uint32_t next);
uint32_t nfa_token(struct nfa *a, int32_t id, uint32_t next);
uint32_t nfa_control(struct nfa *a, int32_t but, uint32_t next); // any control token; but -1: any
// A split whose ways are set later: what loops go back to.
uint32_t nfa_hub(struct nfa *a);
void nfa_hub_set(struct nfa *a, uint32_t hub, uint32_t one, uint32_t other);
// `body` (from its first node to END) min to max times; it must not match nothing.
uint32_t nfa_times(struct nfa *a, uint32_t body, uint32_t min, uint32_t max, uint32_t next);
// A rule to be given its graph later, so that it can be called from within.
uint32_t nfa_rule(struct nfa *a);
void nfa_rule_set(struct nfa *a, uint32_t rule, uint32_t first);

// -- nfa_class.c: characters --

struct nfa_range {
    uint32_t lo, hi; // code points, inclusive
};
struct nfa_class {
    struct nfa_range *at;
    uint32_t n, cap;
};
enum { NFA_CHAR_MAX = 0x10ffff, NFA_CLASS_MAX = 4096 };
// Class memory is the builder's work memory.
void nfa_class_add(struct nfa *a, struct nfa_class *c, uint32_t lo, uint32_t hi);
void nfa_class_close(struct nfa_class *c); // sorts and joins
void nfa_class_negate(struct nfa *a, struct nfa_class *c);
// One character of a closed class, in UTF-8 (no surrogates). in_json: as it stands in a JSON
// string: quotes, backslashes and control characters in their shortest escape, NUL never.
uint32_t nfa_char(struct nfa *a, const struct nfa_class *c, bool in_json, enum nfa_loop loop,
                  uint32_t next);

// -- nfa_words.c: sets of texts --

struct nfa_word {
    const char *s;
    size_t len;
};
// Any of the words; sorts them.
uint32_t nfa_words(struct nfa *a, struct nfa_word *words, size_t n, uint32_t next);
// The inside of a JSON string that is none of the words (as they stand in JSON, escapes at their
// shortest), and the closing quote.
uint32_t nfa_other_words(struct nfa *a, struct nfa_word *words, size_t n, uint32_t next);
// Any bytes up to and including the first place where `s` stands. is_avoided: any bytes in which it
// does not stand. Control tokens pass.
uint32_t nfa_until(struct nfa *a, const char *s, size_t len, bool is_avoided, uint32_t next);

// -- nfa_close.c --

// The graph that begins with `root` is complete: finds out what can end, refuses what cannot and
// what would call itself without a byte between, sorts bytes into classes, gives work memory back.
// The status of the builder.
err_t nfa_close(struct nfa *a, uint32_t root);
