// reply: from the engine's events to text. Follows all requests of one call, turns ids into pieces
// of text that may be sent, and writes chunks or the whole body out of the same pieces.
//
//   reply_new -> reply_start -> (engine events -> wake)* -> finished or failed -> reply_free
//                                  any time: reply_free, when the caller left
//
// Loop's thread only. Requests belong to the engine between start and their last event.
#pragma once
#include "coordinator/door/prepare.h"

// A generated (or echoed) token with its probabilities.
struct reply_token {
    int32_t id;
    float logprob;       // NaN: none (first token of a text)
    uint32_t text_at;    // characters before it in this choice's text
    uint32_t top, n_top; // in reply_choice.top
};

struct reply_choice {
    struct reply *reply;
    uint32_t index;  // in the answer
    uint32_t prompt; // of the call
    struct stream stream;
    struct buf text;            // streaming: not sent yet; else everything
    struct reply_token *tokens; // only if log probabilities are asked for; like text
    struct token_prob *top;
    size_t n_token, cap_token, n_top, cap_top;
    struct buf digests; // JSON strings with commas, like text
    struct buf ids;     // of the generated tokens, JSON numbers with commas, like text
    uint32_t n_chars;   // text_at of the next token
    uint32_t n_generated;
    const char *stop; // the stop string that ended it
    size_t stop_len;
    enum finish finish;          // FINISH_NONE while it runs
    bool opened, echoed, closed; // first and last chunks were written
};

struct reply_request {
    struct reply *reply;
    struct request *req; // NULL: given back
    struct reply_choice *choices;
    float *scores; // of the prompt's tokens, if asked for
    uint32_t n_prompt, n_cached;
    uint32_t n_told; // prompt tokens reported as processed
};

struct reply {
    struct engine *engine;
    struct prepared p;
    int64_t created_s;
    struct reply_request *requests; // (p.n_prompt)
    struct reply_choice *choices;   // (n_choice)
    uint32_t n_choice, n_finished;
    uint32_t n_out;        // requests at the engine
    struct buf head, tail; // of each chunk, around the choices
    struct refusal failed; // status 0: not
    bool ended;            // the last chunk was written
    bool orphan;           // freed when the last request comes back
    int64_t arrived_us, admitted_us, first_us, finished_us; // of the first request
    void (*wake)(void *owner);
    void *owner;
};

// Takes `p` over when it succeeds. NULL: no memory.
struct reply *reply_new(struct engine *e, struct prepared *p, void (*wake)(void *), void *owner);
// Submits all requests. ERR_INVALID with the refusal: none runs.
err_t reply_start(struct reply *r, struct refusal *no);
// Cancels what still runs.
void reply_free(struct reply *r);

static inline bool reply_finished(const struct reply *r)
{
    return r->failed.status || r->n_finished == r->n_choice;
}
// Streaming: appends events for all that happened since the last call; after the last one, `ended`.
void reply_flush(struct reply *r, struct buf *out);
// Streaming: appends progress of the prompt if it was asked for and moved.
void reply_progress(struct reply *r, struct buf *out);
// Not streaming, finished: appends the body.
void reply_body(const struct reply *r, struct buf *out);
