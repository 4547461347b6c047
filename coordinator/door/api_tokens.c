// POST /tokenize and /detokenize, in the forms of vLLM ({prompt} or {messages} -> count, tokens;
// {tokens} -> prompt) and of llama.cpp ({content} -> tokens; {tokens} -> content).
#include "coordinator/door/api.h"
#include "proto/base/utf8.h"

#include <string.h>

static err_t tokenize_read(struct prepare *p, struct prepared *out, struct refusal *no)
{
    out->n_choice = 1;
    out->with_pieces = p->p.with_pieces;
    out->as_content = p->p.content;
    p->p.n = 1;
    if (p->p.messages) return api_chat_read(p, out, no);
    if (p->p.prompt || p->p.content) return OK;
    return refusal_field(no, "prompt", "'prompt', 'content' or 'messages' is missing");
}

static err_t tokenize_encode(struct prepare *p, struct prepared *out, struct refusal *no)
{
    const struct json *text = p->p.prompt ? p->p.prompt : p->p.content;
    const struct json *special = p->p.add_special;
    if (p->p.messages) return api_chat_encode(p, out, no);
    // By default vLLM's form adds what the model begins a text with, llama.cpp's does not.
    const struct json *parse = p->p.parse_special;
    const unsigned reads = parse && !parse->b ? 0 : TOKENIZER_SPECIAL;
    const bool adds = special ? special->b : !p->p.content;
    struct ids ids = {0};
    err_t err =
        tokenizer_encode(p->in->model->tokenizer, text->str.s, text->str.len,
                         reads | (adds ? TOKENIZER_BOS : 0), NULL, 0, text->str.len + 64, &ids);
    out->prompts = arena_take(&out->arena, sizeof *out->prompts);
    if (err || !out->prompts)
        err = refusal_set(no, 500, "internal_error", "the text could not be tokenised");
    else if (ids.n)
        err = prepare_add(p, out, &ids, NULL, no);
    ids_fini(&ids);
    return err;
}

// A part of a character cannot be a string: its bytes.
static void put_piece(const char *s, size_t len, struct buf *out)
{
    size_t at = 0, n = 1;
    while (at < len && (n = utf8_len(s + at, len - at)) != 0)
        at += n;
    if (at == len) {
        buf_json_str(out, s, len);
        return;
    }
    buf_char(out, '[');
    for (size_t i = 0; i < len; i++)
        buf_printf(out, i ? ",%u" : "%u", (unsigned)(unsigned char)s[i]);
    buf_char(out, ']');
}

static void put_tokens(const struct prepared *p, bool pieces, struct buf *out)
{
    const struct request *r = p->n_prompt ? p->prompts[0].req : NULL;
    buf_str(out, "\"tokens\":[");
    for (uint32_t i = 0; r && i < r->n_prompt; i++) {
        if (i) buf_char(out, ',');
        if (!pieces) {
            buf_printf(out, "%d", r->prompt[i]);
            continue;
        }
        size_t len;
        const char *s = tokenizer_piece(p->model->tokenizer, r->prompt[i], true, &len);
        buf_printf(out, "{\"id\":%d,\"piece\":", r->prompt[i]);
        put_piece(s ? s : "", len, out);
        buf_char(out, '}');
    }
    buf_char(out, ']');
}

static void tokenize_put(const struct prepared *p, struct buf *out)
{
    buf_char(out, '{');
    if (!p->as_content)
        buf_printf(out, "\"count\":%u,\"max_model_len\":%u,",
                   p->n_prompt ? p->prompts[0].req->n_prompt : 0, p->model->ctx);
    put_tokens(p, p->with_pieces, out);
    buf_char(out, '}');
}

static err_t detokenize_read(struct prepare *p, struct prepared *out, struct refusal *no)
{
    const struct json *list = p->p.tokens;
    out->n_choice = 1;
    p->p.n = 1;
    if (!list) return refusal_field(no, "tokens", "'tokens' is missing");
    for (size_t i = 0; i < list->arr.n; i++) {
        const struct json *id = &list->arr.items[i];
        if (id->kind != J_INT || id->i < 0 || id->i >= p->in->n_vocab)
            return refusal_field(no, "tokens", "'tokens' must hold token ids from 0 to %d",
                                 p->in->n_vocab - 1);
    }
    return OK;
}

static err_t detokenize_encode(struct prepare *p, struct prepared *out, struct refusal *no)
{
    const struct json *list = p->p.tokens;
    struct ids ids = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < list->arr.n; i++)
        ok = ids_add(&ids, (int32_t)list->arr.items[i].i);
    out->prompts = arena_take(&out->arena, sizeof *out->prompts);
    err_t err = OK;
    if (!ok || !out->prompts)
        err = refusal_set(no, 500, "internal_error", "out of memory");
    else if (ids.n)
        err = prepare_add(p, out, &ids, NULL, no);
    ids_fini(&ids);
    return err;
}

static void detokenize_put(const struct prepared *p, struct buf *out)
{
    const struct request *r = p->n_prompt ? p->prompts[0].req : NULL;
    struct buf text = {0};
    for (uint32_t i = 0; r && i < r->n_prompt; i++) {
        size_t len;
        const char *s = tokenizer_piece(p->model->tokenizer, r->prompt[i], true, &len);
        if (s) buf_add(&text, s, len);
    }
    buf_str(out, "{\"prompt\":");
    buf_json_str(out, text.data ? text.data : "", text.len);
    buf_str(out, ",\"content\":");
    buf_json_str(out, text.data ? text.data : "", text.len);
    buf_char(out, '}');
    if (!buf_ok(&text)) out->broken = true;
    buf_fini(&text);
}

const struct api api_tokenize = {
    .id_prefix = "tok_",
    .prompt_field = "prompt",
    .fields = FIELD_TOKENS,
    .has_turns = true,
    .read = tokenize_read,
    .encode = tokenize_encode,
    .count = tokenize_put,
    .dialect = &dialect_chunks,
};

const struct api api_detokenize = {
    .id_prefix = "tok_",
    .prompt_field = "tokens",
    .fields = FIELD_TOKENS,
    .read = detokenize_read,
    .encode = detokenize_encode,
    .count = detokenize_put,
    .dialect = &dialect_chunks,
};
