#include "coordinator/door/llama.h"

#include <string.h>

enum { FIELDS_MAX = 64, SEED_ANY = -1 };
static const int64_t seed_any_too = UINT32_MAX; // how llama.cpp writes -1

// -- what is ignored, openly --

// Numbers that ask for nothing when they are `idle` (or below it, where that is not above 0).
static const struct {
    const char *name;
    double idle;
} unknown[] = {
    {"dynatemp_range", 0},  {"typical_p", 1},       {"top_n_sigma", 0}, {"dry_multiplier", 0},
    {"xtc_probability", 0}, {"mirostat", 0},        {"min_keep", 0},    {"t_max_predict_ms", 0},
    {"n_indent", 0},        {"n_discard", 0},       {"n_keep", 0},      {"n_cache_reuse", 0},
    {"adaptive_target", 0}, {"thinking_forced", 0},
};

static void add_name(struct buf *out, const char *name)
{
    buf_printf(out, "%s\"%s\"", out->len ? "," : "", name);
}

static err_t find_ignored(const struct prepare *p, struct buf *out, struct refusal *no)
{
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        const struct json *v = json_get(p->body, unknown[i].name);
        if (!v || v->kind == J_NULL) continue;
        if (v->kind != J_INT && v->kind != J_REAL)
            return refusal_field(no, unknown[i].name, "'%s' must be a number, not %s",
                                 unknown[i].name, json_kind_name(v->kind));
        const double d = json_number(v, 0), idle = unknown[i].idle;
        if (idle > 0 ? d != idle : d > idle) add_name(out, unknown[i].name);
    }
    const struct json *samplers = json_get(p->body, "samplers");
    const struct json *lora = json_get(p->body, "lora");
    const struct params *q = &p->p;
    const bool penalises = q->repetition != 1 || q->presence != 0 || q->frequency != 0;
    if (samplers && samplers->kind != J_NULL) add_name(out, "samplers");
    if (q->last_n > 0 && penalises) add_name(out, "repeat_last_n");
    if (lora && lora->kind == J_ARR && lora->arr.n)
        return refusal_field(no, "lora", "'lora': there are no adapters");
    return OK;
}

// -- bias --

static err_t no_memory(struct refusal *no)
{
    return refusal_set(no, 500, "internal_error", "out of memory");
}

static err_t add_bias(struct prepare *p, int64_t id, float bias, struct refusal *no)
{
    if (id < 0 || id >= p->in->n_vocab)
        return refusal_field(no, "logit_bias", "'logit_bias': %lld is no token id from 0 to %d",
                             (long long)id, p->in->n_vocab - 1);
    if (p->n_bias == STEP_BIAS_MAX)
        return refusal_field(no, "logit_bias", "'logit_bias' must hold at most %d tokens",
                             STEP_BIAS_MAX);
    p->bias[p->n_bias++] = (struct logit_bias){.id = (int32_t)id, .bias = bias};
    return OK;
}

static err_t add_bias_of_text(struct prepare *p, const char *text, size_t len, float bias,
                              struct refusal *no)
{
    struct ids ids = {0};
    err_t err = tokenizer_encode(p->in->model->tokenizer, text, len, 0, NULL, 0, len + 64, &ids);
    if (err) err = no_memory(no);
    for (size_t i = 0; i < ids.n && !err; i++)
        err = add_bias(p, ids.at[i], bias, no);
    ids_fini(&ids);
    return err;
}

static const float NEVER = -1e30f;

// A number, or false for "never".
static err_t read_weight(const struct json *v, float *out, struct refusal *no)
{
    const bool is_never = v->kind == J_BOOL && !v->b;
    const double d = json_number(v, 1000);
    if (!is_never && !(d >= -100 && d <= 100))
        return refusal_field(no, "logit_bias",
                             "'logit_bias' must have numbers from -100 to 100, or false");
    *out = is_never ? NEVER : (float)d;
    return OK;
}

static err_t read_pair(struct prepare *p, const struct json *pair, struct refusal *no)
{
    float bias = 0;
    const struct json *what = pair->kind == J_ARR && pair->arr.n == 2 ? pair->arr.items : NULL;
    if (!what || (what->kind != J_INT && what->kind != J_STR))
        return refusal_field(no, "logit_bias",
                             "'logit_bias' must hold pairs of a token (id or text) and a number");
    err_t err = read_weight(&pair->arr.items[1], &bias, no);
    if (err) return err;
    return what->kind == J_INT ? add_bias(p, what->i, bias, no)
                               : add_bias_of_text(p, what->str.s, what->str.len, bias, no);
}

// Keys that are numbers are ids.
static err_t read_member(struct prepare *p, const struct json_member *m, struct refusal *no)
{
    float bias = 0;
    int64_t id = 0;
    bool is_id = m->key_len > 0 && m->key_len < 10;
    for (size_t i = 0; i < m->key_len && is_id; i++) {
        is_id = m->key[i] >= '0' && m->key[i] <= '9';
        id = id * 10 + (m->key[i] - '0');
    }
    err_t err = read_weight(&m->value, &bias, no);
    if (err) return err;
    return is_id ? add_bias(p, id, bias, no) : add_bias_of_text(p, m->key, m->key_len, bias, no);
}

static err_t read_bias(struct prepare *p, struct refusal *no)
{
    const struct json *b = p->p.bias_forms;
    if (!b) return OK;
    err_t err = OK;
    p->bias = arena_take_n(&p->scratch, STEP_BIAS_MAX, sizeof *p->bias);
    if (!p->bias) return no_memory(no);
    for (size_t i = 0; b->kind == J_ARR && i < b->arr.n && !err; i++)
        err = read_pair(p, &b->arr.items[i], no);
    for (size_t i = 0; b->kind == J_OBJ && i < b->obj.n && !err; i++)
        err = read_member(p, &b->obj.members[i], no);
    return err;
}

// -- the rest --

static err_t read_fields(const struct prepare *p, struct prepared *out, struct refusal *no)
{
    const struct json *list = p->p.response_fields;
    const size_t n = list ? list->arr.n : 0;
    if (n > FIELDS_MAX)
        return refusal_field(no, "response_fields", "'response_fields' must hold at most %d names",
                             FIELDS_MAX);
    const char **names = arena_take_n(&out->arena, n ? n : 1, sizeof *names);
    if (!names) return no_memory(no);
    for (size_t i = 0; i < n; i++) {
        const struct json *s = &list->arr.items[i];
        if (s->kind != J_STR)
            return refusal_field(no, "response_fields", "'response_fields' must hold strings");
        names[i] = arena_copy_str(&out->arena, s->str.s, s->str.len);
        if (!names[i]) return no_memory(no);
    }
    out->llama->fields = names;
    out->llama->n_field = (uint32_t)n;
    return OK;
}

static err_t read_probs(struct prepare *p, struct prepared *out, struct refusal *no)
{
    const struct params *q = &p->p;
    out->llama->n_probs = (uint32_t)q->top_logprobs;
    out->llama->post_probs = q->post_probs;
    out->n_logprobs = q->top_logprobs > 0 ? (int32_t)q->top_logprobs : -1;
    // What is left after sampling is known here only where that is one token.
    if (q->post_probs && q->top_logprobs > 0 && q->temperature > 0)
        return refusal_field(no, "post_sampling_probs",
                             "'post_sampling_probs' needs 'temperature': 0; 'n_probs' alone gives "
                             "the model's own probabilities");
    return OK;
}

// Puts the names' meanings right: what is no number for us, and what other names say.
static void settle(struct params *q)
{
    if (q->temperature < 0) q->temperature = 0;
    if (q->last_n == 0) q->repetition = 1;
    if (q->last_n == 0) q->presence = q->frequency = 0;
    if (q->seed == SEED_ANY || q->seed == seed_any_too) q->has_seed = false;
    q->max_tokens = q->n_predict > 0 ? q->n_predict : 0;
}

static char *keep(struct prepared *out, struct buf *b)
{
    char *s = buf_ok(b) ? arena_copy_str(&out->arena, b->data ? b->data : "", b->len) : NULL;
    buf_fini(b);
    return s;
}

err_t llama_read(struct prepare *p, struct prepared *out, struct refusal *no)
{
    struct buf ignored = {0}, settings = {0};
    struct params *q = &p->p;
    out->llama = arena_take(&out->arena, sizeof *out->llama);
    if (!out->llama) return no_memory(no);
    *out->llama =
        (struct llama_want){.return_tokens = q->return_tokens, .token_timings = q->token_timings};
    out->keeps_ids = true;
    out->prompt_only = q->n_predict == 0;
    if (out->prompt_only && q->n > 1)
        return refusal_field(no, "n_predict", "'n_predict': 0 makes no answers, so not several");
    err_t err = find_ignored(p, &ignored, no);
    settle(q);
    llama_put_settings(q, out, &settings);
    out->llama->ignored = keep(out, &ignored);
    out->llama->settings = keep(out, &settings);
    if (!err && (!out->llama->ignored || !out->llama->settings)) err = no_memory(no);
    if (!err) err = read_bias(p, no);
    if (!err) err = read_probs(p, out, no);
    if (out->prompt_only) out->n_logprobs = -1;
    return err ? err : read_fields(p, out, no);
}

static void put_num(struct buf *out, const char *name, double v)
{
    buf_printf(out, "\"%s\":", name);
    buf_json_num(out, v);
    buf_char(out, ',');
}

void llama_put_settings(const struct params *q, const struct prepared *made, struct buf *out)
{
    buf_printf(out, "{\"n_predict\":%lld,\"max_tokens\":%lld,\"seed\":%lld,",
               (long long)q->n_predict, (long long)q->n_predict,
               (long long)(q->has_seed ? q->seed : seed_any_too));
    put_num(out, "temperature", q->temperature);
    put_num(out, "top_p", q->top_p);
    put_num(out, "min_p", q->min_p);
    put_num(out, "repeat_penalty", q->repetition);
    put_num(out, "presence_penalty", q->presence);
    put_num(out, "frequency_penalty", q->frequency);
    // What there is not has the value that does nothing.
    buf_printf(out,
               "\"top_k\":%lld,\"repeat_last_n\":-1,\"dynatemp_range\":0.0,"
               "\"dynatemp_exponent\":1.0,\"typical_p\":1.0,\"top_n_sigma\":-1.0,"
               "\"xtc_probability\":0.0,\"xtc_threshold\":0.1,\"dry_multiplier\":0.0,"
               "\"dry_base\":1.75,\"dry_allowed_length\":2,\"dry_penalty_last_n\":-1,"
               "\"dry_sequence_breakers\":[],\"mirostat\":0,\"mirostat_tau\":5.0,"
               "\"mirostat_eta\":0.1,\"n_keep\":0,\"n_discard\":0,\"min_keep\":0,\"stop\":[",
               (long long)(q->top_k > 0 ? q->top_k : 0));
    for (int i = 0; made && i < made->n_stop; i++) {
        if (i) buf_char(out, ',');
        buf_json_str(out, made->stops[i].s, made->stops[i].len);
    }
    buf_printf(out,
               "],\"ignore_eos\":%s,\"stream\":%s,\"n_probs\":%lld,\"post_sampling_probs\":%s,"
               "\"timings_per_token\":%s,\"grammar\":",
               q->ignore_eos ? "true" : "false", q->stream ? "true" : "false",
               (long long)(q->top_logprobs > 0 ? q->top_logprobs : 0),
               q->post_probs ? "true" : "false", q->token_timings ? "true" : "false");
    if (q->grammar)
        buf_json_str(out, q->grammar->str.s, q->grammar->str.len);
    else
        buf_str(out, "\"\"");
    buf_str(out, ",\"samplers\":[\"penalties\",\"temperature\",\"top_k\",\"top_p\",\"min_p\"],"
                 "\"lora\":[]}");
}
