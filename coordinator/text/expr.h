// expr: a regular expression, or a rule of a grammar, as a tree; from text to graph (nfa.h) in two
// steps, because graphs are built from their end.
#pragma once
#include "coordinator/text/nfa.h"

enum { EXPR_DEPTH_MAX = 32, EXPR_UNROLL_MAX = 4096 };

enum expr_kind {
    EXPR_CLASS, // one character
    EXPR_TEXT,
    EXPR_SEQ, // of its children; none: the empty text
    EXPR_ALT,
    EXPR_TIMES, // its child, min to max times
    EXPR_RULE,
    EXPR_BEGIN, // the text begins or ends here
    EXPR_FINISH
};
struct expr {
    enum expr_kind kind;
    struct expr *child, *last; // first and last
    struct expr *next;         // sibling
    struct nfa_class chars;    // closed
    const char *s;
    size_t len;
    uint32_t min, max; // NFA_NO_MAX
    uint32_t rule;
};

// Trees live in the builder's work memory. NULL: the builder has failed.
struct expr *expr_new(struct nfa *a, enum expr_kind kind);
void expr_add(struct expr *parent, struct expr *child);
// A sequence or choice of one is that one.
struct expr *expr_only(struct expr *e);
// Repetitions, from what stands behind an element: "*", "+", "?", "{2}", "{2,}", "{2,5}". Moves *at
// beyond it and wraps e, or leaves both. `e` NULL: there is nothing to repeat, an error.
struct expr *expr_quantified(struct nfa *a, struct expr *e, const char **at, const char *end);
// A hexadecimal number of n digits at *at, or NFA_CHAR_MAX + 1.
uint32_t expr_hex(const char **at, const char *end, int n);

// Characters of what it matches; *max NFA_NO_MAX: any number.
void expr_length(const struct expr *e, uint32_t *min, uint32_t *max);
// The graph. in_json: as part of a JSON string (nfa_char).
uint32_t expr_emit(struct nfa *a, const struct expr *e, bool in_json, uint32_t next);

// -- expr_regex.c --

// The dialect that JSON Schema and Python share: classes, groups, choices, repetitions, \d \w \s
// (ASCII), escapes. Refused by name: look-around, back references, word boundaries, properties.
struct expr *expr_regex(struct nfa *a, const char *s, size_t len);
struct expr *expr_regex_str(struct nfa *a, const char *s);
// `whole`: it must match all of the text; else anywhere in it, as `pattern` does: any text before
// and after, but where ^ or $ stands. Those may stand at the outer ends only.
uint32_t expr_regex_emit(struct nfa *a, struct expr *e, bool whole, bool in_json, uint32_t next);
// Removes ^ and $ from the outer ends if that makes it match whole texts. False: it is to be found
// anywhere.
bool expr_regex_anchored(struct expr *e);

// -- expr_notation.c --

// A grammar in the notation of llama.cpp ("GBNF"): name ::= "text" [a-z]+ (other | "x"){2,5}; the
// first to be matched is `root`. The graph of the whole.
uint32_t expr_notation(struct nfa *a, const char *s, size_t len, uint32_t next);
