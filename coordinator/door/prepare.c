#include "coordinator/door/prepare.h"
#include "coordinator/door/api.h"
#include "coordinator/door/constrain.h"
#include "coordinator/door/recall.h"
#include "coordinator/door/rules.h"
#include "coordinator/text/grammar.h"
#include "proto/base/log.h"
#include "proto/base/fnv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

void prepare_id(const char *prefix, char out[PREPARE_ID_MAX])
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    unsigned char r[24];
    // A request of so few bytes is never cut short, and only fails before the pool is seeded.
    if (getrandom(r, sizeof r, 0) != sizeof r) memset(r, 0, sizeof r);
    size_t n = strlen(prefix);
    BUG_ON(n + sizeof r >= PREPARE_ID_MAX);
    memcpy(out, prefix, n);
    for (size_t i = 0; i < sizeof r; i++)
        out[n + i] = letters[r[i] % 62];
    out[n + sizeof r] = 0;
}

uint64_t prepare_session(const char *name)
{
    // Two names of one number share a lane, nothing more.
    if (!name || !*name) return 0;
    const uint64_t h = fnv_add(FNV_BEGIN, name, strlen(name));
    return h ? h : 1;
}

static err_t read_model(const struct prepare *p, struct prepared *out, struct refusal *no)
{
    const struct json *name = p->p.model;
    const struct engine_model *m = p->in->model;
    out->name = m->id;
    if (!name || json_is(name, m->id)) return OK;
    for (size_t i = 0; m->aliases && m->aliases[i]; i++) {
        if (!json_is(name, m->aliases[i])) continue;
        out->name = m->aliases[i];
        return OK;
    }
    refusal_set(no, 404, "model_not_found", "The model '%.100s' does not exist", name->str.s);
    snprintf(no->param, sizeof no->param, "model");
    return ERR_INVALID;
}

enum { STOPS_USUAL = 4 }; // as the OpenAI API documents

static err_t add_stop(const struct json *s, struct prepared *out, struct refusal *no)
{
    if (s->kind != J_STR || s->str.len == 0 || s->str.len > STREAM_STOP_BYTES_MAX)
        return refusal_field(no, "stop", "'stop' must hold strings of 1 to %d bytes",
                             STREAM_STOP_BYTES_MAX);
    char *copy = arena_copy_str(&out->arena, s->str.s, s->str.len);
    if (!copy) return refusal_set(no, 500, "internal_error", "out of memory");
    out->stops[out->n_stop++] = (struct stream_stop){.s = copy, .len = s->str.len};
    return OK;
}

static err_t read_stop(const struct prepare *p, struct prepared *out, struct refusal *no)
{
    const struct json *s = p->p.stop;
    const size_t n_max = p->api->stops_max ? p->api->stops_max : STOPS_USUAL;
    if (!s) return OK;
    if (s->kind == J_STR) return add_stop(s, out, no);
    if (s->arr.n > n_max)
        return refusal_field(no, "stop", "'stop' must hold at most %zu strings, not %zu", n_max,
                             s->arr.n);
    for (size_t i = 0; i < s->arr.n; i++) {
        err_t err = add_stop(&s->arr.items[i], out, no);
        if (err) return err;
    }
    return OK;
}

// A decimal token id below n_vocab, or -1.
static int32_t token_of(const struct json_member *m, int32_t n_vocab)
{
    int64_t id = 0;
    if (m->key_len == 0 || m->key_len > 9) return -1;
    for (size_t i = 0; i < m->key_len; i++) {
        if (m->key[i] < '0' || m->key[i] > '9') return -1;
        id = id * 10 + (m->key[i] - '0');
    }
    return id < n_vocab ? (int32_t)id : -1;
}

static err_t read_bias(struct prepare *p, struct refusal *no)
{
    const struct json *b = p->p.logit_bias;
    if (!b || b->obj.n == 0) return OK;
    if (b->obj.n > STEP_BIAS_MAX)
        return refusal_field(no, "logit_bias", "'logit_bias' must hold at most %d tokens, not %zu",
                             STEP_BIAS_MAX, b->obj.n);
    p->bias = arena_take_n(&p->scratch, b->obj.n, sizeof *p->bias);
    if (!p->bias) return refusal_set(no, 500, "internal_error", "out of memory");
    for (size_t i = 0; i < b->obj.n; i++) {
        const struct json_member *m = &b->obj.members[i];
        int32_t id = token_of(m, p->in->n_vocab);
        double v = json_number(&m->value, 1000);
        if (id < 0)
            return refusal_field(no, "logit_bias",
                                 "'logit_bias' key '%.40s' is no token id from 0 to %d", m->key,
                                 p->in->n_vocab - 1);
        if (!(v >= -100 && v <= 100))
            return refusal_field(no, "logit_bias",
                                 "'logit_bias' of token %d must be a number from -100 to 100", id);
        p->bias[p->n_bias++] = (struct logit_bias){.id = id, .bias = (float)v};
    }
    return OK;
}

enum { STOP_IDS_MAX = 1024 };

static err_t check_ids(const struct prepare *p, const char *field, const struct json *list,
                       size_t n_max, struct refusal *no)
{
    if (list && list->arr.n > n_max)
        return refusal_field(no, field, "'%s' must hold at most %zu ids", field, n_max);
    for (size_t i = 0; list && i < list->arr.n; i++) {
        const struct json *id = &list->arr.items[i];
        if (id->kind != J_INT || id->i < 0 || id->i >= p->in->n_vocab)
            return refusal_field(no, field, "'%s' must hold token ids from 0 to %d", field,
                                 p->in->n_vocab - 1);
    }
    return OK;
}

static err_t check_lists(const struct prepare *p, struct refusal *no)
{
    const struct json *allowed = p->p.allowed;
    err_t err = check_ids(p, "stop_token_ids", p->p.stop_ids, STOP_IDS_MAX, no);
    if (err || !allowed) return err;
    if (allowed->arr.n == 0)
        return refusal_field(no, "allowed_token_ids", "'allowed_token_ids' is empty");
    return check_ids(p, "allowed_token_ids", allowed, (size_t)p->in->n_vocab, no);
}

// The model's end ids and those that the caller adds. False: no memory.
static bool set_ends(const struct prepare *p, struct request *r)
{
    const struct engine_model *m = p->in->model;
    const struct json *list = p->p.stop_ids;
    r->end_ids = m->end_ids;
    r->n_end = p->p.ignore_eos ? 0 : m->n_end;
    const size_t n_list = list ? list->arr.n : 0;
    const uint32_t n_more = p->p.ignore_eos ? 0 : p->n_more_end;
    if (n_list + n_more == 0) return true;
    int32_t *ids = arena_take_n(&r->arena, r->n_end + n_list + n_more, sizeof *ids);
    if (!ids) return false;
    for (uint32_t i = 0; i < r->n_end; i++)
        ids[i] = m->end_ids[i];
    for (size_t i = 0; i < n_list; i++)
        ids[r->n_end++] = (int32_t)list->arr.items[i].i;
    for (uint32_t i = 0; i < n_more; i++)
        ids[r->n_end++] = p->more_ends[i];
    r->end_ids = ids;
    return true;
}

static void read_wants(const struct params *p, struct prepared *out)
{
    out->stream = p->stream;
    out->include_usage = p->include_usage;
    out->continuous_usage = p->continuous_usage;
    out->echo = p->echo;
    out->digest = p->digest;
    out->token_ids = p->token_ids;
    out->progress = p->progress;
    out->n_choice = (uint32_t)p->n;
    out->n_logprobs = -1;
    out->min_tokens = (uint32_t)p->min_tokens;
    out->include_stop = p->include_stop;
    out->spells = p->skip_special && !p->skip_special->b;
    out->tokens_as_ids = p->tokens_as_ids;
    out->scores_prompt = p->prompt_logprobs == 0;
}

// What is asked for and cannot be done, or not together.
static err_t check_wants(const struct prepare *p, struct refusal *no)
{
    const struct params *q = &p->p;
    const int64_t most = q->max_completion_tokens ? q->max_completion_tokens : q->max_tokens;
    if (most && q->min_tokens > most)
        return refusal_field(no, "min_tokens",
                             "'min_tokens' must be at most %lld, the most that "
                             "may come",
                             (long long)most);
    if (q->prompt_logprobs != 0 && q->prompt_logprobs != INT64_MIN)
        return refusal_field(no, "prompt_logprobs",
                             "'prompt_logprobs' must be 0: of a prompt only its own tokens' log "
                             "probabilities are known");
    if (q->prompt_logprobs == 0 && q->stream)
        return refusal_field(no, "prompt_logprobs", "'prompt_logprobs' cannot be streamed");
    if (q->bad_words && q->bad_words->arr.n)
        return refusal_field(no, "bad_words",
                             "'bad_words' is not supported; 'logit_bias' is, of token ids");
    if ((q->allowed || q->min_tokens) && p->in->n_vocab > IDSET_IDS_MAX)
        return refusal_field(no, q->allowed ? "allowed_token_ids" : "min_tokens",
                             "the model has too many tokens for this");
    return OK;
}

err_t prepare_read(struct prepare *p, struct prepared *out, struct refusal *no)
{
    const struct json *body;
    const char *code;
    struct err_text why;
    arena_init(&p->scratch, PREPARE_TREE_BYTES);
    if (json_read(p->in->body, p->in->len, &p->scratch, &body, &code, &why) != OK)
        return refusal_set(no, 400, code, "%s", why.s);
    err_t err = OK;
    p->api = p->in->api->choose ? p->in->api->choose(body) : p->in->api;
    p->body = body;
    if (p->api->translate) err = p->api->translate(body, &p->scratch, &body, no);
    if (!err) err = fields_read(body, p->api->fields, &p->p, no);
    if (err) return err;
    if (p->p.has_stream_options && !p->p.stream)
        return refusal_field(no, "stream_options", "'stream_options' needs 'stream': true");
    read_wants(&p->p, out);
    err = read_model(p, out, no);
    if (!err) err = read_stop(p, out, no);
    if (!err) err = check_lists(p, no);
    if (!err) err = check_wants(p, no);
    if (!err) err = read_bias(p, no);
    if (!err) err = constrain_read(p, no);
    if (!err) err = p->api->read(p, out, no);
    return err;
}

void prepare_close(struct prepare *p)
{
    grammar_give(p->grammar);
    arena_fini(&p->scratch);
}

// How many tokens may be generated for a prompt of n_prompt tokens.
static err_t bound_tokens(const struct prepare *p, const struct prepared *made, size_t n_prompt,
                          uint32_t *out, struct refusal *no)
{
    const struct params *q = &p->p;
    uint32_t ctx = p->in->model->ctx;
    uint64_t asked =
        (uint64_t)(q->max_completion_tokens ? q->max_completion_tokens : q->max_tokens);
    uint64_t budget = 4 * (uint64_t)ctx, n = (uint64_t)q->n;
    if (p->api->count) { // nothing will be generated
        *out = 1;
        return OK;
    }
    if (p->api->vector || made->prompt_only) {
        *out = 0;
        return n_prompt > ctx ? refusal_overflow(no, ctx, n_prompt, 0) : OK;
    }
    if (p->api->fills && n_prompt < ctx && asked > ctx - n_prompt) asked = ctx - n_prompt;
    if (n_prompt + (asked ? asked : 1) > ctx)
        return refusal_overflow(no, ctx, n_prompt, asked ? asked : 1);
    if (asked && n * asked > budget)
        return refusal_field(no, "n", "'n' times the tokens asked for is %llu, more than %llu",
                             (unsigned long long)(n * asked), (unsigned long long)budget);
    uint64_t most = ctx - n_prompt;
    if (most > budget / n) most = budget / n;
    uint64_t usual = p->api->default_tokens;
    if (!asked) asked = usual && usual < most ? usual : most;
    *out = (uint32_t)asked;
    return OK;
}

static void set_sampling(const struct prepare *p, const struct prepared *out, struct sampling *s)
{
    const struct params *q = &p->p;
    *s = (struct sampling){
        .temperature = (float)q->temperature,
        .top_p = (float)q->top_p,
        .min_p = (float)q->min_p,
        .top_k = q->top_k < 0 ? 0 : (int32_t)q->top_k,
        .presence = (float)q->presence,
        .frequency = (float)q->frequency,
        .repetition = (float)q->repetition,
        .seed = (uint64_t)q->seed,
        .n_logprobs = out->n_logprobs,
        .digest = q->digest,
    };
    // Positive, however small, in the caller's precision must stay so in ours.
    if (s->top_p <= 0) s->top_p = 1e-30f;
    if (s->repetition <= 0) s->repetition = 1e-30f;
    if (!q->has_seed && getrandom(&s->seed, sizeof s->seed, 0) != sizeof s->seed) s->seed = 0;
}

static struct request *make_request(const struct prepare *p, const struct prepared *out,
                                    const struct ids *ids, uint32_t max_tokens)
{
    const struct engine_model *m = p->in->model;
    uint64_t n = out->n_choice;
    // The budget only bounds a mistake: ids, generated ids, and room for the scheduler's page
    // tables, which cannot have more entries than the context has tokens.
    uint64_t bytes = (256u << 10) + 4 * ((uint64_t)ids->n + n * max_tokens + n * m->ctx) +
                     p->n_bias * sizeof(struct logit_bias);
    struct request *r = request_new(bytes);
    if (!r) return NULL;
    snprintf(r->id, sizeof r->id, "%s", out->id);
    set_sampling(p, out, &r->sampling);
    struct logit_bias *bias = NULL;
    if (p->n_bias) bias = arena_copy(&r->arena, p->bias, p->n_bias * sizeof *bias);
    r->sampling.bias = bias;
    r->sampling.n_bias = p->n_bias;
    r->prompt = arena_copy(&r->arena, ids->at, ids->n * sizeof *ids->at);
    r->n_prompt = (uint32_t)ids->n;
    r->max_tokens = max_tokens;
    const bool has_ends = set_ends(p, r);
    r->pooling = out->prompt_only ? POOLING_LAST : out->pooling;
    r->score_prompt = (out->echo && out->n_logprobs >= 0) || out->scores_prompt;
    r->priority = (int32_t)p->p.priority;
    if (r->priority < p->in->priority) r->priority = p->in->priority;
    r->tenant = p->in->tenant;
    r->session = p->in->session;
    if (!r->session && p->p.user) r->session = prepare_session(p->p.user->str.s);
    const bool has_turns = p->api->has_turns;
    const struct rules_want rules = {
        .tokenizer = m->tokenizer,
        .grammar = p->grammar,
        .tight_start = has_turns && tokenizer_strips_first_space(m->tokenizer),
        .budget = has_turns ? p->p.thinking_budget : -1,
        .format = out->format,
        .tools = out->tools,
        .tail = out->tail,
        .tail_len = out->tail_len,
        .min_tokens = out->prompt_only ? 0 : out->min_tokens,
        .allowed = p->p.allowed,
    };
    if (!r->prompt || !has_ends || (p->n_bias && !bias) ||
        request_init_choices(r, out->n_choice) != OK || !rules_request(r, &rules)) {
        request_free(r);
        return NULL;
    }
    return r;
}

// Why the conversation's prefix is not found, if it was here before.
static void log_miss(const struct prepare *p, const struct request *r)
{
    struct recall_miss miss;
    struct buf text = {0};
    if (!p->in->recall || p->api->count || !recall_look(p->in->recall, r, &miss)) return;
    recall_say(&miss, p->in->model->tokenizer, &text);
    if (buf_ok(&text)) log_info("prompt of %s %s", r->id, text.data);
    buf_fini(&text);
}

// The prompt's text as its tokens have it.
static bool show_prompt(const struct prepare *p, struct prepared *out, const struct ids *ids,
                        struct prepared_prompt *slot)
{
    struct buf text = {0};
    for (size_t i = 0; i < ids->n; i++) {
        size_t len;
        const char *s = tokenizer_piece(p->in->model->tokenizer, ids->at[i], true, &len);
        if (s) buf_add(&text, s, len);
    }
    if (buf_ok(&text))
        slot->text = arena_copy_str(&out->arena, text.data ? text.data : "", text.len);
    slot->text_len = text.len;
    buf_fini(&text);
    return slot->text;
}

// The last tokens of a prompt that may be longer than it ought to be.
static struct ids truncated(const struct prepare *p, const struct ids *ids)
{
    struct ids last = *ids;
    const struct params *q = &p->p;
    const int64_t asked = q->max_completion_tokens ? q->max_completion_tokens : q->max_tokens;
    const int64_t ctx = p->in->model->ctx, room = ctx - (asked ? asked : 1);
    const int64_t most = q->truncate < 0 ? (room > 1 ? room : 1) : q->truncate;
    if (q->truncate && (int64_t)ids->n > most) {
        last.at += ids->n - (size_t)most;
        last.n = (size_t)most;
    }
    return last;
}

err_t prepare_add(const struct prepare *p, struct prepared *out, const struct ids *all,
                  const struct json *text, struct refusal *no)
{
    uint32_t max_tokens = 0;
    const struct ids ids = truncated(p, all);
    if (ids.n == 0) return refusal_field(no, p->api->prompt_field, "the prompt is empty");
    err_t err = bound_tokens(p, out, ids.n, &max_tokens, no);
    if (err) return err;
    struct prepared_prompt *slot = &out->prompts[out->n_prompt];
    bool ok = true;
    if (text && ids.n == all->n) {
        slot->text = arena_copy_str(&out->arena, text->str.s, text->str.len);
        slot->text_len = text->str.len;
        ok = slot->text;
    } else if (p->api->shows_prompt) {
        ok = show_prompt(p, out, &ids, slot);
    }
    if (out->scores_prompt) {
        slot->ids = arena_copy(&out->arena, ids.at, ids.n * sizeof *ids.at);
        ok = ok && slot->ids;
    }
    if (ok) slot->req = make_request(p, out, &ids, max_tokens);
    if (!slot->req) return refusal_set(no, 500, "internal_error", "out of memory");
    log_miss(p, slot->req);
    out->n_prompt++;
    return OK;
}

err_t prepare_run(const struct prepare_in *in, struct prepared *out, struct refusal *no)
{
    struct prepare p = {.in = in};
    struct prepared made = {.api = in->api, .model = in->model, .recall = in->recall};
    arena_init(&made.arena, 0);
    err_t err = prepare_read(&p, &made, no);
    if (!err && prepare_unwanted(in)) err = ERR_CANCELLED;
    if (!err) {
        made.api = p.api;
        prepare_id(p.api->id_prefix, made.id);
        err = p.api->encode(&p, &made, no);
    }
    prepare_close(&p);
    if (err)
        prepare_fini(&made);
    else
        *out = made;
    return err;
}

void prepare_fini(struct prepared *p)
{
    for (uint32_t i = 0; i < p->n_prompt; i++)
        request_free(p->prompts[i].req);
    arena_fini(&p->arena);
}
