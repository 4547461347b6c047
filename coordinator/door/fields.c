#include "coordinator/door/fields.h"

#include <stdio.h>
#include <string.h>

#define K(kind) (1u << (kind))
#define AT(member) offsetof(struct params, member)
#define TREE(field_name, api, allowed, member)                                                     \
    {                                                                                              \
        .name = field_name, .apis = api, .kinds = allowed, .store = STORE_TREE,                    \
        .offset = AT(member)                                                                       \
    }
#define FLAG(field_name, api, member)                                                              \
    {                                                                                              \
        .name = field_name, .apis = api, .kinds = K(J_BOOL), .store = STORE_BOOL,                  \
        .offset = AT(member)                                                                       \
    }
#define INT(field_name, api, member, low, high)                                                    \
    {                                                                                              \
        .name = field_name, .apis = api, .kinds = K(J_INT), .store = STORE_INT,                    \
        .offset = AT(member), .min = low, .max = high                                              \
    }
#define NUM(field_name, api, member, low, high)                                                    \
    {                                                                                              \
        .name = field_name, .apis = api, .kinds = K(J_INT) | K(J_REAL), .store = STORE_NUM,        \
        .offset = AT(member), .min = low, .max = high                                              \
    }

enum { FIELD_EACH = FIELD_BOTH | FIELD_LLAMA };

static const struct field stream_options[] = {
    FLAG("include_usage", FIELD_BOTH, include_usage),
    FLAG("continuous_usage_stats", FIELD_BOTH, continuous_usage),
};

static const struct field reasoning[] = {
    INT("max_tokens", FIELD_CHAT, thinking_budget, 0, INT32_MAX),
    TREE("effort", FIELD_CHAT, K(J_STR), reasoning_effort),
    TREE("enabled", FIELD_CHAT, K(J_BOOL), enable_thinking),
};

// max_tokens: 0 and below are refused rather than read as "fill": a caller that computed a budget
// of 0 wants an answer of no tokens, not the longest one. Absent and null fill the context.
static const struct field table[] = {
    TREE("model", FIELD_EACH | FIELD_TOKENS | FIELD_EMBED | FIELD_LLAMA_EMBED, K(J_STR), model),
    TREE("user", FIELD_EACH | FIELD_EMBED, K(J_STR), user),
    TREE("input", FIELD_EMBED, K(J_STR) | K(J_ARR), input),
    TREE("encoding_format", FIELD_EMBED, K(J_STR), encoding_format),
    INT("dimensions", FIELD_EMBED, dimensions, 1, INT32_MAX),
    TREE("pooling", FIELD_EMBED | FIELD_LLAMA_EMBED, K(J_STR), pooling),
    TREE("messages", FIELD_CHAT | FIELD_TOKENS, K(J_ARR), messages),
    TREE("prompt", FIELD_COMPLETIONS, K(J_STR) | K(J_ARR), prompt),
    FLAG("stream", FIELD_EACH, stream),
    {.name = "stream_options",
     .apis = FIELD_BOTH,
     .kinds = K(J_OBJ),
     .store = STORE_OBJECT,
     .has = AT(has_stream_options),
     .sub = stream_options,
     .n_sub = sizeof stream_options / sizeof *stream_options},
    INT("max_tokens", FIELD_BOTH, max_tokens, 1, INT32_MAX),
    INT("max_completion_tokens", FIELD_CHAT, max_completion_tokens, 1, INT32_MAX),
    NUM("temperature", FIELD_BOTH, temperature, 0, 2),
    {.name = "top_p",
     .apis = FIELD_EACH,
     .kinds = K(J_INT) | K(J_REAL),
     .store = STORE_NUM,
     .offset = AT(top_p),
     .min = 0,
     .max = 1,
     .above_min = true},
    NUM("min_p", FIELD_EACH, min_p, 0, 1),
    INT("top_k", FIELD_EACH, top_k, -1, INT32_MAX),
    NUM("presence_penalty", FIELD_EACH, presence, -2, 2),
    NUM("frequency_penalty", FIELD_EACH, frequency, -2, 2),
    {.name = "repetition_penalty",
     .apis = FIELD_BOTH,
     .kinds = K(J_INT) | K(J_REAL),
     .store = STORE_NUM,
     .offset = AT(repetition),
     .min = 0,
     .max = 10,
     .above_min = true},
    INT("n", FIELD_EACH, n, 1, 8),
    INT("best_of", FIELD_COMPLETIONS, best_of, 1, 8),
    {.name = "seed",
     .apis = FIELD_EACH,
     .kinds = K(J_INT),
     .store = STORE_INT,
     .offset = AT(seed),
     .has = AT(has_seed)},
    TREE("stop", FIELD_EACH, K(J_STR) | K(J_ARR), stop),
    TREE("stop_token_ids", FIELD_BOTH, K(J_ARR), stop_ids),
    TREE("logit_bias", FIELD_BOTH, K(J_OBJ), logit_bias),
    TREE("logprobs", FIELD_CHAT, K(J_BOOL), logprobs),
    INT("top_logprobs", FIELD_CHAT, top_logprobs, 0, 20),
    INT("logprobs", FIELD_COMPLETIONS, top_logprobs, 0, 20),
    FLAG("echo", FIELD_COMPLETIONS, echo),
    TREE("suffix", FIELD_COMPLETIONS, K(J_STR), suffix),
    TREE("tools", FIELD_CHAT | FIELD_TOKENS, K(J_ARR), tools),
    TREE("tool_choice", FIELD_CHAT, K(J_STR) | K(J_OBJ), tool_choice),
    TREE("parallel_tool_calls", FIELD_CHAT, K(J_BOOL), parallel_calls),
    TREE("response_format", FIELD_BOTH, K(J_OBJ), response_format),
    TREE("structured_outputs", FIELD_BOTH, K(J_OBJ), structured_outputs),
    TREE("guided_json", FIELD_BOTH, K(J_OBJ) | K(J_STR) | K(J_BOOL), guided_json),
    TREE("guided_regex", FIELD_BOTH, K(J_STR), guided_regex),
    TREE("guided_choice", FIELD_BOTH, K(J_ARR), guided_choice),
    TREE("guided_grammar", FIELD_BOTH, K(J_STR), guided_grammar),
    TREE("json_schema", FIELD_EACH, K(J_OBJ) | K(J_STR) | K(J_BOOL), json_schema),
    TREE("grammar", FIELD_EACH, K(J_STR), grammar),
    {.name = "reasoning",
     .apis = FIELD_CHAT,
     .kinds = K(J_OBJ),
     .store = STORE_OBJECT,
     .sub = reasoning,
     .n_sub = sizeof reasoning / sizeof *reasoning},
    TREE("reasoning_effort", FIELD_CHAT, K(J_STR), reasoning_effort),
    TREE("enable_thinking", FIELD_CHAT, K(J_BOOL), enable_thinking),
    INT("thinking_budget", FIELD_CHAT, thinking_budget, 0, INT32_MAX),
    INT("thinking_token_budget", FIELD_CHAT, thinking_budget, 0, INT32_MAX),
    TREE("chat_template_kwargs", FIELD_CHAT | FIELD_TOKENS, K(J_OBJ), kwargs),
    TREE("prompt", FIELD_TOKENS, K(J_STR), prompt),
    TREE("content", FIELD_TOKENS, K(J_STR), content),
    TREE("tokens", FIELD_TOKENS, K(J_ARR), tokens),
    TREE("add_special_tokens", FIELD_TOKENS | FIELD_BOTH, K(J_BOOL), add_special),
    TREE("add_special", FIELD_TOKENS, K(J_BOOL), add_special),
    TREE("parse_special", FIELD_TOKENS, K(J_BOOL), parse_special),
    FLAG("with_pieces", FIELD_TOKENS, with_pieces),
    INT("priority", FIELD_EACH, priority, -1000000, 1000000),
    FLAG("return_progress", FIELD_EACH, progress),
    FLAG("ignore_eos", FIELD_EACH, ignore_eos),
    INT("min_tokens", FIELD_BOTH, min_tokens, 0, INT32_MAX),
    FLAG("include_stop_str_in_output", FIELD_BOTH, include_stop),
    TREE("skip_special_tokens", FIELD_BOTH, K(J_BOOL), skip_special),
    INT("truncate_prompt_tokens", FIELD_BOTH, truncate, -1, INT32_MAX),
    INT("prompt_logprobs", FIELD_BOTH, prompt_logprobs, 0, 0), // any: only 0 is supported
    FLAG("return_tokens_as_token_ids", FIELD_BOTH, tokens_as_ids),
    TREE("allowed_token_ids", FIELD_BOTH, K(J_ARR), allowed),
    TREE("bad_words", FIELD_BOTH, K(J_ARR), bad_words),
    FLAG("logits_digest", FIELD_BOTH, digest),
    FLAG("return_token_ids", FIELD_BOTH, token_ids),
    FLAG("merge_consecutive_roles", FIELD_CHAT, merge_roles),
    FLAG("strict", FIELD_CHAT, strict),
    FLAG("continue_final_message", FIELD_CHAT | FIELD_TOKENS, continues),
    TREE("add_generation_prompt", FIELD_CHAT | FIELD_TOKENS, K(J_BOOL), generation_prompt),
    // llama.cpp's names and ranges.
    TREE("prompt", FIELD_LLAMA, K(J_STR) | K(J_ARR) | K(J_OBJ), prompt),
    INT("max_tokens", FIELD_LLAMA, n_predict, -2, INT32_MAX),
    INT("n_predict", FIELD_LLAMA, n_predict, -2, INT32_MAX),
    INT("n_cmpl", FIELD_LLAMA, n, 1, 8),
    NUM("temperature", FIELD_LLAMA, temperature, -100, 2),
    NUM("repeat_penalty", FIELD_LLAMA, repetition, 0.01, 10),
    INT("repeat_last_n", FIELD_LLAMA, last_n, -1, INT32_MAX),
    INT("n_probs", FIELD_LLAMA, top_logprobs, 0, 20),
    FLAG("post_sampling_probs", FIELD_LLAMA, post_probs),
    FLAG("return_tokens", FIELD_LLAMA, return_tokens),
    FLAG("timings_per_token", FIELD_LLAMA, token_timings),
    TREE("logit_bias", FIELD_LLAMA, K(J_ARR) | K(J_OBJ), bias_forms),
    TREE("response_fields", FIELD_LLAMA, K(J_ARR), response_fields),
    TREE("input_prefix", FIELD_INFILL, K(J_STR), input_prefix),
    TREE("input_suffix", FIELD_INFILL, K(J_STR), input_suffix),
    TREE("input_extra", FIELD_INFILL, K(J_ARR), input_extra),
    TREE("content", FIELD_LLAMA_EMBED, K(J_STR) | K(J_ARR) | K(J_OBJ), input),
    TREE("input", FIELD_LLAMA_EMBED, K(J_STR) | K(J_ARR) | K(J_OBJ), input),
    INT("embd_normalize", FIELD_LLAMA_EMBED, normalize, -1, 64),
};

const struct field *fields_table(size_t *n)
{
    *n = sizeof table / sizeof *table;
    return table;
}

// "a number above 0 and at most 1", "an integer from 1 to 8", "a string or an array"
static void say_allowed(const struct field *f, char *s, size_t cap)
{
    static const char *const words[] = {"null",     "a boolean", "an integer", "a number",
                                        "a string", "an array",  "an object"};
    size_t at = 0;
    s[0] = 0;
    // A number may be written as an integer: say "a number" once.
    unsigned kinds = f->store == STORE_NUM ? K(J_REAL) : f->kinds;
    for (unsigned k = 0; k < sizeof words / sizeof *words; k++) {
        if (!(kinds & K(k))) continue;
        at += (size_t)snprintf(s + at, cap - at, "%s%s", at ? " or " : "", words[k]);
    }
    if (f->store != STORE_INT && f->store != STORE_NUM) return;
    if (f->min < f->max && f->above_min)
        snprintf(s + at, cap - at, " above %.15g and at most %.15g", f->min, f->max);
    else if (f->min < f->max)
        snprintf(s + at, cap - at, " from %.15g to %.15g", f->min, f->max);
}

static bool in_range(const struct field *f, double v)
{
    if (f->min >= f->max) return true;
    // Written so that a NaN, which the reader refuses anyway, would be outside.
    return (f->above_min ? v > f->min : v >= f->min) && v <= f->max;
}

static err_t read_one(const struct field *f, const struct json *v, const char *path,
                      struct params *out, struct refusal *no);

static err_t read_members(const struct field *f, const struct json *v, struct params *out,
                          struct refusal *no)
{
    for (size_t i = 0; i < f->n_sub; i++) {
        const struct json *m = json_get(v, f->sub[i].name);
        if (!m || m->kind == J_NULL) continue;
        char path[96];
        snprintf(path, sizeof path, "%s.%s", f->name, f->sub[i].name);
        err_t err = read_one(&f->sub[i], m, path, out, no);
        if (err) return err;
    }
    return OK;
}

static err_t read_one(const struct field *f, const struct json *v, const char *path,
                      struct params *out, struct refusal *no)
{
    char allowed[120];
    say_allowed(f, allowed, sizeof allowed);
    if (!(f->kinds & K(v->kind)))
        return refusal_field(no, path, "'%s' must be %s, not %s", path, allowed,
                             json_kind_name(v->kind));
    if ((f->store == STORE_INT || f->store == STORE_NUM) && !in_range(f, json_number(v, 0)))
        return refusal_field(no, path, "'%s' must be %s, not %.15g", path, allowed,
                             json_number(v, 0));
    char *at = (char *)out + f->offset;
    if (f->has) *(bool *)((char *)out + f->has) = true;
    switch (f->store) {
    case STORE_BOOL:
        *(bool *)at = v->b;
        break;
    case STORE_INT:
        *(int64_t *)at = v->i;
        break;
    case STORE_NUM:
        *(double *)at = json_number(v, 0);
        break;
    case STORE_TREE:
        *(const struct json **)at = v;
        break;
    case STORE_OBJECT:
        return read_members(f, v, out, no);
    }
    return OK;
}

struct params fields_usual(unsigned api)
{
    struct params p = {.n = 1,
                       .best_of = 1,
                       .top_logprobs = -1,
                       .temperature = 1,
                       .top_p = 1,
                       .repetition = 1,
                       .thinking_budget = -1,
                       .prompt_logprobs = INT64_MIN,
                       .n_predict = -1,
                       .last_n = -1,
                       .normalize = 2};
    if (api & FIELD_LLAMA) {
        p.temperature = 0.8;
        p.top_k = 40;
        p.top_p = 0.95;
        p.min_p = 0.05;
        p.top_logprobs = 0;
    }
    return p;
}

err_t fields_read(const struct json *body, unsigned api, struct params *out, struct refusal *no)
{
    if (body->kind != J_OBJ)
        return refusal_set(no, 400, "invalid_json", "the body must be a JSON object, not %s",
                           json_kind_name(body->kind));
    if (body->obj.n > FIELDS_KEYS_MAX)
        return refusal_set(no, 400, "json_too_large", "the body has %zu fields, more than %d",
                           body->obj.n, FIELDS_KEYS_MAX);
    struct params p = fields_usual(api);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (!(table[i].apis & api)) continue;
        const struct json *v = json_get(body, table[i].name);
        if (!v || v->kind == J_NULL) continue;
        err_t err = read_one(&table[i], v, table[i].name, &p, no);
        if (err) return err;
    }
    if (p.best_of > 1 && p.best_of != p.n)
        return refusal_field(no, "best_of", "'best_of' must be 1 or equal to 'n'");
    *out = p;
    return OK;
}
