// sidecar: what the small JSON files beside a tokenizer in a Hugging Face directory say:
// tokenizer_config.json, special_tokens_map.json, added_tokens.json, generation_config.json,
// config.json. All are optional; one that is there must be well-formed.
#pragma once
#include "proto/base/arena.h"
#include "proto/base/json.h"
#include <stdint.h>

enum { SIDECAR_ENDS_MAX = 64, SIDECAR_FILE_MAX = 64 << 20 };

// One of tokenizer.json's added_tokens, or of added_tokens_decoder.
struct sidecar_token {
    const char *s;
    size_t len;
    int32_t id;
    uint8_t flags; // VOCAB_LSTRIP and so on
    bool special;
};
struct sidecar {
    struct arena mem;
    // Spellings; NULL: not told.
    const struct json *bos, *eos, *unk;
    int32_t bos_id, eos_id; // of config.json, -1
    int add_bos, add_eos;   // -1: not told
    bool adds_bos_by_class; // a class that does so unless told otherwise
    struct sidecar_token *added;
    size_t n_added;
    int32_t ends[SIDECAR_ENDS_MAX]; // generation_config.json's eos_token_id, or config.json's
    int n_end;
    const struct json *tokenizer; // the tree of tokenizer_config.json, NULL: no file
};

err_t sidecar_open(const char *dir, struct sidecar *c, struct err_text *why);
void sidecar_fini(struct sidecar *c);
// Reads one of added_tokens' objects. `id` -1: it has its own.
err_t sidecar_token_read(const struct json *j, int32_t id, struct sidecar_token *out,
                         struct err_text *why);
