// turn_grammar: what a turn must look like, as a grammar, when the caller asks for a call: any of
// the functions or one of them, in the way in which this model writes calls (text/turn.h), after
// its thoughts if it has some.
#pragma once
#include "coordinator/text/grammar.h"
#include "coordinator/text/turn.h"

struct turn_ask {
    const struct turn_format *format; // one that has calls
    const struct tokenizer *tokenizer;
    const struct json *tools; // as OpenAI lists them
    const char *name;         // the one function that may be called; NULL: any
    bool one_call;            // no second one
    bool is_thinking;         // the prompt has opened the thoughts
};

// The spec lies in `a`, and borrows from the ask. ERR_INVALID: there is no such function.
// ERR_MEMORY.
err_t turn_grammar(const struct turn_ask *ask, struct arena *a, const struct grammar_spec **out,
                   struct err_text *why);
