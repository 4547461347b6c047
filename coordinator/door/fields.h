// fields: the fields of request bodies as a table: name, kinds, range, where the value goes. One
// table drives the reading, the sentences and the tests. Unknown fields are ignored; null means
// "not given" for every field; a wrong kind or a value outside the range is a 400 that names the
// field and the range.
#pragma once
#include "coordinator/door/refusal.h"
#include "proto/base/json.h"

enum {
    FIELD_CHAT = 1,
    FIELD_COMPLETIONS = 2,
    FIELD_BOTH = 3,
    FIELD_TOKENS = 4,
    FIELD_EMBED = 8,
    FIELD_LLAMA = 16,  // llama.cpp's own completions
    FIELD_INFILL = 32, // and what else its /infill takes
    FIELD_LLAMA_EMBED = 64,
};

// What a caller asked for. Trees point into the body.
struct params {
    const struct json *model, *user, *messages, *prompt, *stop, *logit_bias, *tools, *tool_choice,
        *parallel_calls, *structured_outputs, *guided_json, *guided_regex, *guided_choice,
        *guided_grammar, *json_schema, *grammar, *content, *tokens, *add_special, *parse_special,
        *input, *encoding_format, *pooling, *skip_special, *allowed, *bad_words;
    const struct json *bias_forms, *response_fields, *input_prefix, *input_suffix, *input_extra;
    const struct json *response_format, *kwargs, *suffix, *reasoning_effort, *logprobs,
        *enable_thinking, *stop_ids, *generation_prompt;
    bool stream, include_usage, continuous_usage, echo, ignore_eos, digest, token_ids, progress,
        merge_roles, strict, with_pieces, continues, has_stream_options, return_tokens, post_probs,
        include_stop, tokens_as_ids, token_timings;
    int64_t max_tokens, max_completion_tokens; // 0: not given
    int64_t top_logprobs;                      // -1: not given
    int64_t dimensions;                        // 0: not given
    int64_t min_tokens;
    int64_t truncate;          // prompts to so many tokens; 0: not given, -1: to what fits
    int64_t prompt_logprobs;   // INT64_MIN: not given
    int64_t thinking_budget;   // tokens of thoughts; -1: not given
    int64_t priority;          // lower is earlier
    int64_t n_predict;         // llama.cpp's: -1, -2: any number
    int64_t last_n, normalize; // likewise
    int64_t n, best_of, top_k, seed;
    bool has_seed;
    double temperature, top_p, min_p, presence, frequency, repetition;
};

enum field_store { STORE_BOOL, STORE_INT, STORE_NUM, STORE_TREE, STORE_OBJECT };

struct field {
    const char *name;
    unsigned apis;  // FIELD_*
    unsigned kinds; // 1 << enum json_kind, each that is allowed
    enum field_store store;
    size_t offset;           // in struct params; of STORE_OBJECT: unused
    double min, max;         // of STORE_INT and STORE_NUM; equal: any value
    bool above_min;          // min itself is not allowed
    size_t has;              // offset of a bool that is set when the field is given; 0: none
    const struct field *sub; // STORE_OBJECT: the fields inside
    size_t n_sub;
};

enum { FIELDS_KEYS_MAX = 1000 }; // members of the body's outermost object

// Reads a body. ERR_INVALID with the refusal filled.
err_t fields_read(const struct json *body, unsigned api, struct params *out, struct refusal *no);
// What a body of no fields asks for.
struct params fields_usual(unsigned api);
const struct field *fields_table(size_t *n);
