// prepare: the bytes of a body -> requests the engine can run, or the refusal the caller gets. Pure
// work without the loop: it runs on a thread of the pool, so that a long prompt delays nobody
// else's tokens. Every 4xx that depends on the body is decided here.
#pragma once
#include "coordinator/door/engine.h"
#include "coordinator/door/fields.h"
#include "coordinator/text/stream.h"
#include <stdatomic.h>

struct api;
struct grammar;
struct grammar_spec;
struct recall;
struct replay;

enum {
    PREPARE_CHOICES_MAX = 128,     // prompts * n of one body
    PREPARE_TREE_BYTES = 96 << 20, // budget of the body's tree and what is derived from it
    PREPARE_ID_MAX = 40,
};

struct prepare_in {
    const struct api *api;
    const struct engine_model *model; // lives at least as long as the door
    int32_t n_vocab;
    uint64_t tenant;
    int32_t priority; // of the key: no request of it comes earlier; INT32_MIN: there is none
    uint64_t session; // prepare_session of the header; 0: the body's "user" counts
    bool strict;      // conversations that the template refuses are not repaired
    struct replay
        *replay; // turns with calls that were written here (replay.h); NULL: none are kept
    struct recall
        *recall; // histories of late, to say why a prefix is lost (recall.h); NULL: nobody asks
    const char *body;
    size_t len;
    const atomic_bool *unwanted; // set when nobody waits any more; may be NULL
};

// A body that was read and checked, but for its length in tokens.
struct prepare {
    const struct prepare_in *in;
    const struct api *api; // of `in`, or the one that it chose for this body
    const struct json *body;
    struct arena scratch; // trees; gone when the requests are made
    struct params p;
    const struct json *messages; // chat, as templates expect them
    const struct json *tools, *kwargs;
    bool must_call; // the answer is a call: of `must_name`, or NULL of any function
    const char *must_name;
    const struct grammar_spec *answer; // what its text must be (constrain.h); NULL: anything
    const char *answer_field;          // that says so
    struct grammar *grammar;           // what all of the answer must be; given back at the end
    struct logit_bias *bias;
    uint32_t n_bias;
    const int32_t *more_ends; // that end the answer too
    uint32_t n_more_end;
    const struct json *continued; // the last message, which the answer goes on with; NULL: none
};

// One prompt and its request. Several of them only for /v1/completions and /v1/embeddings.
struct prepared_prompt {
    struct request *req; // NULL once the engine's listener owns it
    // The prompt as sent, or NULL: it was sent as ids (echo); or as it was tokenised, in text again
    // (an api that shows prompts).
    const char *text;
    size_t text_len;
    const int32_t *ids; // if the prompt's log probabilities are asked for
};

struct prepared {
    const struct api *api;
    const struct engine_model *model;
    struct arena arena; // what outlives the body: names, stops, echoed texts
    char id[PREPARE_ID_MAX];
    const char *name; // of the model, as the caller wrote it
    bool stream, include_usage, continuous_usage, echo, digest, token_ids, progress;
    int32_t n_logprobs; // -1: none
    unsigned repaired;  // enum repair_rule: what was done to the conversation
    // Of dialects with turns: how the model writes, the functions it may call (NULL: none), and
    // what the template wrote behind the last message.
    const struct turn_format *format;
    const struct json *tools;
    const char *tail;
    size_t tail_len;
    struct recall *recall; // as in prepare_in
    struct replay *replay; // keeps the answers' turns with calls; NULL: does not
    uint64_t tenant;
    uint64_t before, before_hash; // of the rendered text before the tail (struct replay_turn)
    bool one_call;                // no second one
    bool prompt_only;             // nothing is generated: the prompt is computed, and kept
    bool scores_prompt;           // its tokens' log probabilities are told
    bool include_stop, spells;    // struct stream
    bool tokens_as_ids;           // where log probabilities name them
    uint32_t min_tokens;          // before anything ends the answer
    bool keeps_ids;               // each token is told apart, not only for its probability
    // Of llama.cpp's own form (api_llama.c).
    struct llama_want *llama;
    bool with_pieces, as_content; // of /tokenize: texts beside the ids; llama.cpp's form
    enum pooling pooling;         // of embeddings: which vectors,
    uint32_t n_dim;               // how much of them,
    bool as_base64;               // and how they are written
    struct stream_stop stops[STREAM_STOPS_MAX];
    int n_stop;
    struct prepared_prompt *prompts;
    uint32_t n_prompt;
    uint32_t n_choice; // of each prompt
};

// True between two stages when the rest is not worth doing.
static inline bool prepare_unwanted(const struct prepare_in *in)
{
    return in->unwanted && atomic_load(in->unwanted);
}
// Both halves. ERR_CANCELLED when nobody waits any more, ERR_INVALID with the refusal filled; `out`
// is then untouched.
err_t prepare_run(const struct prepare_in *in, struct prepared *out, struct refusal *no);
// Frees requests that nobody took.
void prepare_fini(struct prepared *p);

// The first half: reading and checking. prepare_close in any case.
err_t prepare_read(struct prepare *p, struct prepared *out, struct refusal *no);
void prepare_close(struct prepare *p);
// For struct api: adds one prompt; `text` (may be NULL) is copied.
err_t prepare_add(const struct prepare *p, struct prepared *out, const struct ids *ids,
                  const struct json *text, struct refusal *no);
// A number for a conversation's name; 0: NULL or empty.
uint64_t prepare_session(const char *name);
// `prefix` and 24 random letters.
void prepare_id(const char *prefix, char out[PREPARE_ID_MAX]);
