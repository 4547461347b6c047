// arch_key: the numbers of a model, whoever wrote them down: config.json (old and new key names,
// nested text configs), GGUF metadata, or, where both are silent, the defaults of the architecture.
// One row of names for each number; what is read is a JSON value in all cases.
#pragma once
#include "proto/base/json.h"
#include "topology/gguf.h"

// Numbers by meaning. arch_key.c has the names.
enum key {
    KEY_LAYERS,
    KEY_DIM,
    KEY_FFN, // of dense layers
    KEY_CTX,
    KEY_VOCAB,
    KEY_EPS,
    KEY_ACT,
    KEY_TIE,
    KEY_NEXTN, // layers after the last that predict further tokens
    KEY_CAUSAL,
    // attention
    KEY_HEADS,
    KEY_HEADS_KV,
    KEY_HEAD_DIM,
    KEY_VALUE_DIM,
    KEY_ATTN_BIAS,
    KEY_MLP_BIAS,
    KEY_QK_NORM,
    KEY_CLIP_QKV,
    KEY_WINDOW,
    KEY_USE_WINDOW,
    KEY_WINDOW_FROM,  // first layer with a window
    KEY_WINDOW_EVERY, // every n-th layer has none; GGUF: or one flag for each layer
    KEY_CHUNK,
    KEY_LAYER_TYPES,
    KEY_ATTN_EVERY, // every n-th layer is attention, the others DeltaNet
    KEY_RECURRENT,  // GGUF: one flag for each layer
    KEY_ROPE_LAYERS,
    KEY_NO_ROPE_EVERY,
    KEY_ATTN_CAP,
    KEY_FINAL_CAP,
    KEY_ATTN_SCALE,
    KEY_QUERY_SCALAR,
    KEY_EMBED_SCALE,
    KEY_RESIDUAL_SCALE,
    KEY_LOGITS_DIVISOR,
    KEY_BETA,
    KEY_BETA_ON,
    KEY_BETA_SPAN,
    // experts
    KEY_EXPERTS,
    KEY_EXPERTS_USED,
    KEY_EXPERT_FFN,
    KEY_SHARED_EXPERTS,
    KEY_SHARED_FFN,
    KEY_GROUPS,
    KEY_GROUPS_USED,
    KEY_EXPERT_SCALE,
    KEY_EXPERT_NORM,
    KEY_SCORING,
    KEY_TOPK_METHOD,
    KEY_DENSE_FIRST,
    KEY_MOE_EVERY,
    KEY_MOE_FREQ,
    KEY_DENSE_LAYERS,
    KEY_MOE_LAYERS,
    KEY_SWIGLU_ALPHA,
    KEY_SWIGLU_LIMIT,
    // multi-head latent attention
    KEY_Q_RANK,
    KEY_KV_RANK,
    KEY_NOPE_DIM,
    KEY_ROPE_DIM,
    KEY_V_DIM,
    KEY_KEY_DIM_MLA, // nope and rope together
    // DeltaNet
    KEY_DELTA_HEADS_K,
    KEY_DELTA_HEADS_V,
    KEY_DELTA_DIM_K,
    KEY_DELTA_DIM_V,
    KEY_DELTA_INNER, // all value heads
    KEY_DELTA_TAPS,
    // rotation
    KEY_THETA,
    KEY_THETA_LOCAL,
    KEY_ROTARY_DIM,
    KEY_ROTARY_PART,
    KEY_ROPE_TYPE,
    KEY_ROPE_FACTOR,
    KEY_ROPE_ORIGINAL,
    KEY_ROPE_ATTN,
    KEY_ROPE_FAST,
    KEY_ROPE_SLOW,
    KEY_ROPE_LOW,
    KEY_ROPE_HIGH,
    KEY_ROPE_MSCALE,
    KEY_ROPE_MSCALE_ALL,
    KEY_ROPE_TRUNCATE,
    KEY_ROPE_SHORT,
    KEY_ROPE_LONG,
    KEY_ROPE_INTERLEAVE,
    KEY_COUNT
};

// Where a model's numbers are read. Either text (and outer) or gguf is set.
struct config {
    const char *path;         // for sentences
    const struct json *text;  // config.json, or its part about the text model
    const struct json *outer; // all of it
    const struct gguf *gguf;
    const char *prefix;             // of GGUF keys: the architecture
    const struct json *defaults[2]; // of the architecture: objects with keys as in config.json
    struct arena *arena;
    struct err_text *why;
};

// Sets text and outer: some models wrap the text model's config.
void config_of_json(struct config *c, const struct json *root);
// What holds other keys is an object where it is there at all.
err_t config_check(const struct config *c);
// "path: ..." and ERR_MODEL.
err_t config_fail(const struct config *c, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
// The value, or NULL where it is absent or null. `group` is the kind of layer ("full_attention",
// "sliding_attention") for the keys of a rotation that differ by it, else NULL.
// ERR_MODEL only for values of GGUF that JSON has no word for.
err_t config_get(const struct config *c, enum key key, const char *group, const struct json **out);
// Its name as this model spells it, for sentences: "key 'num_hidden_layers'".
const char *config_key_name(const struct config *c, enum key key);
bool config_has(const struct config *c, enum key key);

// Typed and bounded; ERR_MODEL names key, found, allowed. `otherwise` < 0 (number: NAN): required.
// Zero is allowed where otherwise is 0: it says "none".
err_t config_count(const struct config *c, enum key key, int32_t max, int32_t otherwise,
                   int32_t *out); // up to max
err_t config_positive(const struct config *c, enum key key, const char *group, double otherwise,
                      double *out);
err_t config_flag(const struct config *c, enum key key, bool otherwise, bool *out);
// A string of a list ("a\0b\0"); *out its number, or `otherwise`.
err_t config_word(const struct config *c, enum key key, const char *group, const char *const *words,
                  int32_t otherwise, int32_t *out);
