// refusal: the one form of every error an HTTP caller sees:
//   {"error":{"message":...,"type":...,"param":...|null,"code":...|null}}
// Functions that refuse return an err_t, so that checks can `return refusal_field(...)`.
#pragma once
#include "proto/base/buf.h"

struct refusal {
    int status;       // HTTP status; 0: nothing was refused
    const char *type; // static
    const char *code; // static; NULL: null
    char param[96];   // "": null
    struct err_text text;
    uint32_t retry_after_s;          // 0: no Retry-After
    uint32_t n_prompt_tokens, n_ctx; // of a context overflow; n_ctx 0: not told
};

// 400 with the field at fault. ERR_INVALID.
err_t refusal_field(struct refusal *no, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
// Any status; the type follows from it. `code` must be static. ERR_INVALID.
err_t refusal_set(struct refusal *no, int status, const char *code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
// What an engine error looks like from outside. ERR_INVALID.
err_t refusal_engine(struct refusal *no, err_t code, const char *sentence, uint32_t retry_after_s);
// The two numbers, in words that every known client's overflow detection matches. ERR_INVALID.
err_t refusal_overflow(struct refusal *no, uint32_t ctx, uint64_t n_prompt, uint64_t n_completion);

// Appends the JSON object. A refusal with status 0 is a broken invariant.
void refusal_json(struct buf *out, const struct refusal *no);
