// texts: fields that hold one text or several, as text or as ids: "prompt" of completions, "input"
// of embeddings.
#pragma once
#include "coordinator/door/prepare.h"

struct texts {
    const char *field;
    const struct json *value; // NULL: not given
    size_t n_max;             // texts
    bool keep;                // the text goes with its request, for echo
    // As llama.cpp takes them: texts and ids may be mixed, among the texts and within one, and a
    // text may be an object with "prompt_string".
    bool mixes;
    bool bare; // nothing is put before a text, whatever the model begins one with
};

// What does not fit is refused: ids outside the vocabulary, a mixture, more than n_max texts.
err_t texts_check(const struct texts *t, const struct prepare *p, struct refusal *no);
// Of checked ones: a request for each. Ids are taken as they are: no BOS is added.
err_t texts_encode(const struct texts *t, const struct prepare *p, struct prepared *out,
                   struct refusal *no);
