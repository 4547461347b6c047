// api: one way of asking for tokens (one path, one shape of JSON) as a row of functions. What all
// have in common is elsewhere: prepare.c reads bodies, reply.c follows the engine, exchange.c
// carries bytes.
#pragma once
#include "coordinator/door/prepare.h"
#include "coordinator/door/reply.h"

struct api {
    const char *id_prefix;    // "chatcmpl-"
    const char *object;       // of whole answers
    const char *chunk_object; // of streamed ones
    const char *prompt_field; // named when the prompt is at fault
    unsigned fields;          // FIELD_*
    bool has_turns; // answers are turns of a conversation: thoughts and calls are told apart
    uint32_t default_tokens; // generated if the caller does not say; 0: what the context holds
    uint32_t stops_max;      // stop strings of a body; 0: the usual number
    bool fills;              // more tokens than the context holds may be asked for
    bool keeps_text;         // prepared_prompt.text is what the template wrote
    bool shows_prompt;       // prepared_prompt.text is what was tokenised

    // On a thread of the pool, as are the next ones. Which dialect a body of this path is; NULL:
    // this one.
    const struct api *(*choose)(const struct json *body);
    err_t (*read)(struct prepare *p, struct prepared *out, struct refusal *no);
    err_t (*encode)(struct prepare *p, struct prepared *out, struct refusal *no);

    // Another dialect's body as one of chat completions; NULL: it is one.
    err_t (*translate)(const struct json *body, struct arena *a, const struct json **out,
                       struct refusal *no);
    // Answers are vectors: one as JSON, when it comes; NULL: tokens. Loop's thread.
    void (*vector)(const struct prepared *p, const float *v, uint32_t n, struct buf *out);
    // Only counts: the body of an answer that asks nothing of the engine; NULL: it generates.
    void (*count)(const struct prepared *p, struct buf *out);
    const struct dialect *dialect;
    // Of chunks.c, on the loop's thread: one element of "choices". `piece` (of one event, or
    // NULL for what stands beside events only) and `last` are streamed; `whole` is of the answer in
    // one body. `first` may be NULL.
    void (*first)(const struct reply *r, const struct reply_choice *c, struct buf *out);
    void (*piece)(const struct reply *r, const struct reply_choice *c, const struct reply_event *e,
                  struct buf *out);
    void (*last)(const struct reply *r, const struct reply_choice *c, struct buf *out);
    void (*whole)(const struct reply *r, const struct reply_choice *c, struct buf *out);
};

// How answers are written. On the loop's thread; `out` gets whole server-sent events.
struct dialect {
    void (*begin)(struct reply *r, struct buf *out); // before the first token; may be NULL
    // All that is new; `is_final`: every choice has ended, this is the stream's end.
    void (*flush)(struct reply *r, bool is_final, struct buf *out);
    void (*failed)(struct reply *r, struct buf *out);   // r->failed; the stream's end
    void (*progress)(struct reply *r, struct buf *out); // may be NULL
    void (*keep_alive)(struct reply *r, struct buf *out);
    void (*body)(struct reply *r, struct buf *out);
    void (*refused)(const struct refusal *no, const char *request_id, struct buf *out);
    int status_503; // what this dialect says instead; 0: nothing
};
extern const struct dialect dialect_chunks; // completions, of chats and of texts

extern const struct api api_chat;        // POST /v1/chat/completions
extern const struct api api_completions; // POST /v1/completions
extern const struct api api_messages;    // POST /v1/messages
extern const struct api api_responses;   // POST /v1/responses
extern const struct api api_embeddings;  // POST /v1/embeddings
// The same bodies, only counted: POST /v1/chat/completions/input_tokens,
// /v1/responses/input_tokens, /v1/messages/count_tokens.
extern const struct api api_chat_count_only, api_responses_count, api_messages_count;

extern const struct api api_tokenize, api_detokenize; // POST /tokenize, /detokenize
// llama.cpp's own: POST /completion, /completions (or OpenAI's form, by the body), /infill,
// /embedding, /embeddings (likewise), /apply-template.
extern const struct api api_llama, api_llama_or_completions, api_llama_infill;
extern const struct api api_llama_embedding, api_llama_or_embeddings;
extern const struct api api_chat_apply;

// Of api_chat, which the others are translated into.
err_t api_chat_read(struct prepare *p, struct prepared *out, struct refusal *no);
// Whether an answer can go on with this message: an assistant's, of text alone.
bool api_chat_can_continue(const struct json *message);
err_t api_chat_encode(struct prepare *p, struct prepared *out, struct refusal *no);
void api_chat_count(const struct prepared *p, struct buf *out);

// Parts that shapes share.
// Which vector a body asks for.
err_t api_read_pooling(const struct prepare *p, struct prepared *out, struct refusal *no);
// The bytes of a token, control tokens spelled out; never NULL.
const char *api_token(const struct reply *r, int32_t id, size_t *len);
const char *api_finish_reason(const struct reply_choice *c);
// "timings":{...} of a request that made so many tokens.
void api_put_timings(const struct reply *r, const struct reply_request *q, uint64_t made,
                     struct buf *out);
// {"token":...,"logprob":...,"bytes":[...],"top_logprobs":[...]}
void api_put_token(const struct reply *r, const struct reply_choice *c, const struct reply_token *t,
                   struct buf *out);
// "prompt_logprobs":[...] of a prompt.
void api_put_prompt_logprobs(const struct reply *r, uint32_t prompt, struct buf *out);
// ,"stop_reason":... ,"logits_digest":[...] ,"token_ids":[...] where they apply.
void api_extensions(const struct reply *r, const struct reply_choice *c, struct buf *out);
