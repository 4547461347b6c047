// history: what an assistant said before, on its way into the prompt again.
//
// Before the template: ids of calls in the form that the model's template demands, thoughts under
// the name that it looks for, and thoughts of turns with calls that the caller left out.
//
// After it: turns with calls that come back as the model wrote them (replay.h) become the very
// tokens that it wrote. A turn's place in the rendered text is certain, or the text stays:
//   - the text before it is the one that its own prompt had (length and number);
//   - it ends with the last end token that the template wrote before the next message's content;
//     that is found by rendering once more with a mark before that content: without the marks both
//     texts are the same
//   - that end token is not one that stood there when the model began, and what lies between holds
//     the turn's first call and its thoughts (templates drop those of older turns).
// The text between such turns is tokenised piece by piece, each cut at an end token, as it was when
// the turn that follows was asked for; so the prompt begins with all that the model had computed.
#pragma once
#include "coordinator/door/prepare.h"
#include "coordinator/door/replay.h"

struct history {
    const struct replay_turn **turns; // (n) of each message; NULL: it was never written here
    size_t n;
    uint32_t n_found;
};

// Replaces p->messages where something has to change.
err_t history_adapt(struct prepare *p, struct history *h, struct refusal *no);
// The prompt of a rendered conversation; `in` is what gave `text`. ERR_MEMORY.
err_t history_encode(const struct prepare *p, const struct history *h,
                     const struct template_input *in, const struct template_output *text,
                     struct ids *out);
