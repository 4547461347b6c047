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
    uint32_t default_tokens;  // generated if the caller does not say; 0: what the context holds

    // On a thread of the pool.
    err_t (*read)(struct prepare *p, struct prepared *out, struct refusal *no);
    err_t (*encode)(struct prepare *p, struct prepared *out, struct refusal *no);

    // On the loop's thread: one element of "choices". `piece` and `last` are streamed; `whole`
    // is of the answer in one body. `first` may be NULL.
    void (*first)(const struct reply *r, const struct reply_choice *c, struct buf *out);
    void (*piece)(const struct reply *r, const struct reply_choice *c, struct buf *out);
    void (*last)(const struct reply *r, const struct reply_choice *c, struct buf *out);
    void (*whole)(const struct reply *r, const struct reply_choice *c, struct buf *out);
};

extern const struct api api_chat;        // POST /v1/chat/completions
extern const struct api api_completions; // POST /v1/completions

// Parts that shapes share.
// The bytes of a token, control tokens spelled out; never NULL.
const char *api_token(const struct reply *r, int32_t id, size_t *len);
// The choice's text as a JSON string.
void api_text(const struct reply_choice *c, struct buf *out);
const char *api_finish_reason(const struct reply_choice *c);
// ,"stop_reason":... ,"logits_digest":[...] ,"token_ids":[...] where they apply.
void api_extensions(const struct reply *r, const struct reply_choice *c, struct buf *out);
