// POST /v1/completions: text or ids in, text out, no template. Each prompt of an array is a request
// of its own; choices are numbered prompt by prompt. lm-evaluation-harness scores texts through it
// (echo with logprobs).
#include "coordinator/door/api.h"
#include "coordinator/door/constrain.h"

#include <stdio.h>
#include <string.h>

static err_t refuse_prompt(struct refusal *no, size_t i)
{
    char param[48];
    snprintf(param, sizeof param, "prompt[%zu]", i);
    return refusal_field(no, param,
                         "'%s' does not fit: 'prompt' is a string, strings, token ids, or arrays "
                         "of token ids",
                         param);
}

static err_t check_ids(const struct prepare *p, const struct json *list, struct refusal *no)
{
    for (size_t i = 0; i < list->arr.n; i++) {
        const struct json *id = &list->arr.items[i];
        if (id->kind == J_INT && id->i >= 0 && id->i < p->in->n_vocab) continue;
        return refusal_field(no, "prompt",
                             "'prompt' must hold token ids from 0 to %d (element %zu)",
                             p->in->n_vocab - 1, i);
    }
    return OK;
}

static err_t check_prompt(const struct prepare *p, struct refusal *no)
{
    const struct json *q = p->p.prompt;
    if (!q) return refusal_field(no, "prompt", "'prompt' is missing");
    if (q->kind == J_STR) return OK;
    if (q->arr.n == 0) return refusal_field(no, "prompt", "'prompt' is empty");
    enum json_kind kind = q->arr.items[0].kind;
    if (kind == J_INT) return check_ids(p, q, no);
    if (kind != J_STR && kind != J_ARR) return refuse_prompt(no, 0);
    if (q->arr.n * (size_t)p->p.n > PREPARE_CHOICES_MAX)
        return refusal_field(no, "prompt", "'prompt' times 'n' must be at most %d, not %zu",
                             PREPARE_CHOICES_MAX, q->arr.n * (size_t)p->p.n);
    for (size_t i = 0; i < q->arr.n; i++) {
        const struct json *one = &q->arr.items[i];
        if (one->kind != kind) return refuse_prompt(no, i);
        err_t err = kind == J_ARR ? check_ids(p, one, no) : OK;
        if (err) return err;
    }
    return OK;
}

static err_t completions_read(struct prepare *p, struct prepared *out, struct refusal *no)
{
    if (p->p.suffix) return refusal_field(no, "suffix", "'suffix' is not supported");
    out->n_logprobs = (int32_t)p->p.top_logprobs;
    return check_prompt(p, no);
}

static err_t add_text(const struct prepare *p, struct prepared *out, const struct json *text,
                      struct refusal *no)
{
    struct ids ids = {0};
    err_t err =
        tokenizer_encode(p->in->model->tokenizer, text->str.s, text->str.len,
                         TOKENIZER_BOS | TOKENIZER_SPECIAL, NULL, 0, text->str.len + 64, &ids);
    if (err)
        err = refusal_set(no, 500, "internal_error", "the prompt could not be tokenised");
    else
        err = prepare_add(p, out, &ids, text, no);
    ids_fini(&ids);
    return err;
}

// Ids are taken as they are: no BOS is added.
static err_t add_ids(const struct prepare *p, struct prepared *out, const struct json *list,
                     struct refusal *no)
{
    struct ids ids = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < list->arr.n; i++)
        ok = ids_add(&ids, (int32_t)list->arr.items[i].i);
    err_t err = ok ? prepare_add(p, out, &ids, NULL, no)
                   : refusal_set(no, 500, "internal_error", "out of memory");
    ids_fini(&ids);
    return err;
}

static err_t completions_encode(struct prepare *p, struct prepared *out, struct refusal *no)
{
    const struct json *q = p->p.prompt;
    bool single = q->kind == J_STR || q->arr.items[0].kind == J_INT;
    size_t n = single ? 1 : q->arr.n;
    out->prompts = arena_take_n(&out->arena, n, sizeof *out->prompts);
    if (!out->prompts) return refusal_set(no, 500, "internal_error", "out of memory");
    err_t err = constrain_open(p, out, no);
    for (size_t i = 0; i < n && !err; i++) {
        const struct json *one = single ? q : &q->arr.items[i];
        err = one->kind == J_STR ? add_text(p, out, one, no) : add_ids(p, out, one, no);
    }
    return err;
}

static void put_text(const struct reply *r, int32_t id, struct buf *out)
{
    size_t len;
    const char *s = api_token(r, id, &len);
    buf_json_str(out, s, len);
}

static void put_top(const struct reply *r, const struct reply_choice *c,
                    const struct reply_token *t, struct buf *out)
{
    if (t->n_top == 0) {
        buf_str(out, "null");
        return;
    }
    buf_char(out, '{');
    for (uint32_t k = 0; k < t->n_top; k++) {
        const struct token_prob *top = &c->top[t->top + k];
        if (k) buf_char(out, ',');
        put_text(r, top->id, out);
        buf_char(out, ':');
        buf_json_num(out, top->logprob);
    }
    buf_char(out, '}');
}

static void put_logprobs(const struct reply *r, const struct reply_choice *c, struct buf *out)
{
    if (r->p.n_logprobs < 0) {
        buf_str(out, ",\"logprobs\":null");
        return;
    }
    buf_str(out, ",\"logprobs\":{\"tokens\":[");
    for (size_t i = 0; i < c->n_token; i++) {
        if (i) buf_char(out, ',');
        put_text(r, c->tokens[i].id, out);
    }
    buf_str(out, "],\"token_logprobs\":[");
    for (size_t i = 0; i < c->n_token; i++) {
        if (i) buf_char(out, ',');
        buf_json_num(out, c->tokens[i].logprob);
    }
    buf_str(out, "],\"top_logprobs\":[");
    for (size_t i = 0; i < c->n_token; i++) {
        if (i) buf_char(out, ',');
        put_top(r, c, &c->tokens[i], out);
    }
    buf_str(out, "],\"text_offset\":[");
    for (size_t i = 0; i < c->n_token; i++)
        buf_printf(out, i ? ",%u" : "%u", c->tokens[i].text_at);
    buf_str(out, "]}");
}

static void put_choice(const struct reply *r, const struct reply_choice *c, struct buf *out)
{
    buf_printf(out, "{\"index\":%u,\"text\":", c->index);
    buf_json_str(out, c->text.data ? c->text.data : "", c->text.len);
    put_logprobs(r, c, out);
}

static void completions_piece(const struct reply *r, const struct reply_choice *c,
                              const struct reply_event *e, struct buf *out)
{
    (void)e; // text is all there is
    put_choice(r, c, out);
    buf_str(out, ",\"finish_reason\":null");
    api_extensions(r, c, out);
    buf_char(out, '}');
}

static void completions_last(const struct reply *r, const struct reply_choice *c, struct buf *out)
{
    buf_printf(out, "{\"index\":%u,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"%s\"",
               c->index, api_finish_reason(c));
    api_extensions(r, c, out);
    buf_char(out, '}');
}

static void completions_whole(const struct reply *r, const struct reply_choice *c, struct buf *out)
{
    put_choice(r, c, out);
    buf_printf(out, ",\"finish_reason\":\"%s\"", api_finish_reason(c));
    api_extensions(r, c, out);
    buf_char(out, '}');
}

const struct api api_completions = {
    .id_prefix = "cmpl-",
    .object = "text_completion",
    .chunk_object = "text_completion",
    .prompt_field = "prompt",
    .fields = FIELD_COMPLETIONS,
    .dialect = &dialect_chunks,
    .default_tokens = 16, // as the OpenAI API documents for this path
    .read = completions_read,
    .encode = completions_encode,
    .piece = completions_piece,
    .last = completions_last,
    .whole = completions_whole,
};
