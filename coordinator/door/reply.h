// reply: from the engine's events to what was said. Follows all requests of one call and turns ids
// into events (text, thoughts, tool calls; text/turn.h) that may be sent; a dialect writes them, as
// they come or all in one body, out of the same list.
//
//   reply_new -> reply_start -> (engine events -> wake)* -> finished or failed -> reply_free
//                                  any time: reply_free, when the caller left
//
// Loop's thread only. Requests belong to the engine between start and their last event.
#pragma once
#include "coordinator/door/prepare.h"
#include "coordinator/door/replay.h"

// A generated (or echoed) token with its probabilities.
struct reply_token {
    int32_t id;
    float logprob;       // NaN: none (first token of a text)
    uint32_t text_at;    // characters before it in this choice's text
    uint32_t top, n_top; // in reply_choice.top
    uint32_t text_end;   // bytes of reply_choice.text when it had been read
};

// One piece of an answer. Neighbours of one kind are joined while they wait.
struct reply_event {
    enum turn_kind kind;
    uint32_t call;    // of a tool call: 0, 1, ..
    uint32_t at, len; // in reply_choice.text: text, thoughts, the function's name, its arguments
    char id[PREPARE_ID_MAX]; // of TURN_CALL: "call_" and random letters
};

struct reply_choice {
    struct reply *reply;
    uint32_t index;  // in the answer
    uint32_t prompt; // of the call
    struct stream stream;
    struct turn turn;           // of dialects that have turns
    struct buf text;            // of the events; or the vector, as JSON
    struct reply_event *events; // streaming: not sent yet; else everything
    size_t n_event, cap_event;
    struct reply_token *tokens; // only if log probabilities are asked for; like events
    struct token_prob *top;
    size_t n_token, cap_token, n_top, cap_top;
    struct buf digests; // JSON strings with commas, like text
    struct buf ids;     // of the generated tokens, JSON numbers with commas, like text
    uint32_t n_chars;   // text_at of the next token
    uint32_t n_generated, n_reasoning;
    uint32_t n_call;           // begun
    struct replay_notes notes; // if the turn is to be kept
    bool muted;                // one call is all that was asked for: the rest is not told
    const char *stop;          // the stop string that ended it
    size_t stop_len;
    int32_t stop_id;             // the caller's own end token that ended it; -1
    enum finish finish;          // FINISH_NONE while it runs
    bool opened, echoed, closed; // first and last chunks were written
    bool has_newline;            // what was written holds one (api_llama.c)
};

// What a dialect's stream has open: Messages' blocks, Responses' items.
struct reply_open {
    bool began;
    int kind;         // enum turn_kind of the block that is open, -1: none
    uint32_t n_block; // opened so far
    uint32_t n_event; // sequence numbers
    char id[PREPARE_ID_MAX], call_id[PREPARE_ID_MAX];
    struct buf text, name; // of the open block
    struct buf items;      // finished ones, as JSON with commas
    struct buf probs;      // of the open block's tokens, likewise
    size_t n_token;        // of the choice's tokens, told
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
    uint32_t n_begun;      // requests that were given to the engine
    uint32_t n_out;        // that are there now
    uint32_t n_garbled;    // calls that could not be read, in ended choices
    struct buf fresh;      // text on its way to a choice
    struct buf head, tail; // of each chunk, around the choices (chunks.c)
    struct reply_open open;
    struct refusal failed; // status 0: not
    bool ended;            // the last chunk was written
    bool orphan;           // freed when the last request comes back
    int64_t arrived_us, admitted_us, first_us, finished_us; // of the first request
    void (*wake)(void *owner);
    void *owner;
};

// Takes `p` over when it succeeds. NULL: no memory.
struct reply *reply_new(struct engine *e, struct prepared *p, void (*wake)(void *), void *owner);
// Submits the requests; of many, some wait until others have ended. ERR_INVALID with the refusal:
// none runs.
err_t reply_start(struct reply *r, struct refusal *no);
// Cancels what still runs.
void reply_free(struct reply *r);

static inline bool reply_finished(const struct reply *r)
{
    return r->failed.status || r->n_finished == r->n_choice;
}
// Streaming: appends what happened since the last call; after the last one, `ended`.
void reply_flush(struct reply *r, struct buf *out);
// Streaming: appends progress of the prompt if it was asked for and moved.
void reply_progress(struct reply *r, struct buf *out);
// Streaming: something to show that we live.
void reply_keep_alive(struct reply *r, struct buf *out);
// Not streaming, finished: appends the body.
void reply_body(struct reply *r, struct buf *out);

// For dialects. Sums over all requests and choices.
struct reply_usage {
    uint64_t prompt, cached, made, reasoning;
};
struct reply_usage reply_usage_get(const struct reply *r);
// How long the first request waited at the engine; -1: it waits still, or was never begun.
int64_t reply_queue_us(const struct reply *r);
// Why a choice ended: its calls, its length, a stop string, or of itself.
enum reply_end { REPLY_STOP, REPLY_STOP_TEXT, REPLY_LENGTH, REPLY_CALLS };
enum reply_end reply_end_of(const struct reply_choice *c);
// A stream of blocks, of which one is open at a time: thoughts, text, a call with its arguments.
struct reply_blocks {
    void (*open)(struct reply *r, const struct reply_choice *c, const struct reply_event *e,
                 struct buf *out); // sets r->open.kind
    void (*more)(struct reply *r, const struct reply_choice *c, const struct reply_event *e,
                 struct buf *out);
    void (*close)(struct reply *r, bool is_cut, struct buf *out); // nothing if none is open
};
// What is new of the only choice, as blocks; the last one closes with the choice.
void reply_put_blocks(struct reply *r, const struct reply_blocks *b, bool is_final,
                      struct buf *out);
// Forgets what was written.
void reply_sent(struct reply_choice *c);
// All text of one kind in the list of events.
void reply_join(const struct reply_choice *c, enum turn_kind kind, uint32_t call, struct buf *out);
// A call's arguments as an object; what the model wrote instead of one as a string inside one.
void reply_put_object(const struct buf *arguments, struct buf *out);
