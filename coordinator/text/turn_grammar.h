// turn_grammar: what a turn must look like, as a grammar: calls of the functions that may be
// called, in the way in which this model writes calls (text/turn.h), or an answer of a given form,
// or free text; after its thoughts if it has some.
#pragma once
#include "coordinator/text/grammar.h"
#include "coordinator/text/turn.h"

struct turn_ask {
    const struct turn_format *format;
    const struct tokenizer *tokenizer;
    struct grammar_book *book; // to try schemas with
    // As OpenAI lists them; NULL: no calls. Parameters of functions that are not "strict" are kept
    // to as far as their schema can be; where it cannot, any object will do.
    const struct json *tools;
    const char *name;                  // the one function that may be called; NULL: any
    const struct grammar_spec *answer; // the text that may stand instead of a call; NULL: none
    bool free_text;                    // any text may come instead of a call, or before it
    bool one_call;                     // no second one
    bool is_thinking;                  // the prompt has opened the thoughts
};

// The spec lies in `a`, and borrows from the ask. NULL: with free_text, where calls of this format
// have no mark of their own: nothing to hold on to. ERR_INVALID: there is no such function.
// ERR_MEMORY.
err_t turn_grammar(const struct turn_ask *ask, struct arena *a, const struct grammar_spec **out,
                   struct err_text *why);
