// POST /v1/completions: text or ids in, text out, no template. Each prompt of an array is a request
// of its own; choices are numbered prompt by prompt. lm-evaluation-harness scores texts through it
// (echo with logprobs).
#include "coordinator/door/api.h"
#include "coordinator/door/constrain.h"
#include "coordinator/door/texts.h"

static struct texts prompts(const struct prepare *p)
{
    return (struct texts){.field = "prompt",
                          .value = p->p.prompt,
                          .n_max = PREPARE_CHOICES_MAX / (size_t)p->p.n,
                          .keep = true,
                          .bare = p->p.add_special && !p->p.add_special->b};
}

static err_t completions_read(struct prepare *p, struct prepared *out, struct refusal *no)
{
    if (p->p.suffix) return refusal_field(no, "suffix", "'suffix' is not supported");
    out->n_logprobs = (int32_t)p->p.top_logprobs;
    const struct texts t = prompts(p);
    return texts_check(&t, p, no);
}

static err_t completions_encode(struct prepare *p, struct prepared *out, struct refusal *no)
{
    const struct texts t = prompts(p);
    err_t err = constrain_open(p, out, no);
    return err ? err : texts_encode(&t, p, out, no);
}

static void put_text(const struct reply *r, int32_t id, struct buf *out)
{
    size_t len;
    const char *s = api_token(r, id, &len);
    if (r->p.tokens_as_ids)
        buf_printf(out, "\"token_id:%d\"", id);
    else
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
    if (r->p.scores_prompt) {
        buf_char(out, ',');
        api_put_prompt_logprobs(r, c->prompt, out);
    }
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
