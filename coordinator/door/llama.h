// llama: llama.cpp's own form of completions, beside what all dialects have: how its options are
// read (llama.c), how its answers look (api_llama.c).
//
// What of its sampling we do not have is not refused, as its clients send all options that they
// know: "ignored" in the answer names what was asked for and had no effect.
#pragma once
#include "coordinator/door/prepare.h"

struct llama_want {
    const char *settings; // "generation_settings", JSON
    const char *ignored;  // names, JSON strings with commas
    const char *const *fields;
    uint32_t n_field; // of the answer that are wanted, "a/b" inside of others; 0: all
    uint32_t n_probs;
    bool post_probs, return_tokens, token_timings;
    int normalize; // of embeddings
};

// Of a body with FIELD_LLAMA: the settings behind all names, out->llama, and the bias.
err_t llama_read(struct prepare *p, struct prepared *out, struct refusal *no);
// The settings of these fields as a JSON object.
void llama_put_settings(const struct params *q, const struct prepared *made, struct buf *out);
