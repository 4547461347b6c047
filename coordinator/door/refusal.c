#include "coordinator/door/refusal.h"

#include <stdio.h>
#include <string.h>

static const char *type_of(int status)
{
    if (status == 403) return "permission_error";
    if (status == 429) return "rate_limit_error";
    return status >= 500 ? "server_error" : "invalid_request_error";
}

static void fill(struct refusal *no, int status, const char *code)
{
    *no = (struct refusal){.status = status, .type = type_of(status), .code = code};
}

err_t refusal_field(struct refusal *no, const char *param, const char *fmt, ...)
{
    fill(no, 400, NULL);
    snprintf(no->param, sizeof no->param, "%s", param);
    va_list ap;
    va_start(ap, fmt);
    err_vsay(&no->text, ERR_INVALID, fmt, ap);
    va_end(ap);
    return ERR_INVALID;
}

err_t refusal_set(struct refusal *no, int status, const char *code, const char *fmt, ...)
{
    fill(no, status, code);
    va_list ap;
    va_start(ap, fmt);
    err_vsay(&no->text, ERR_INVALID, fmt, ap);
    va_end(ap);
    return ERR_INVALID;
}

err_t refusal_engine(struct refusal *no, err_t code, const char *sentence, uint32_t retry_after_s)
{
    static const struct {
        err_t err;
        int status;
        const char *code, *otherwise; // the sentence if the engine gave none
    } rows[] = {
        {ERR_INVALID, 400, NULL, "the request is not valid"},
        {ERR_TOO_LARGE, 400, "context_length_exceeded", "the request is too large"},
        {ERR_BUSY, 429, "rate_limit_exceeded", "the queue is full, try again later"},
        {ERR_CAPACITY, 503, "no_capacity", "no placement of the model is available now"},
        {ERR_CANCELLED, 503, "draining", "the server is shutting down"},
        {ERR_TIMEOUT, 503, "timeout", "the workers did not answer in time"},
    };
    int status = err_is_link(code) ? 503 : 500;
    const char *name = err_is_link(code) ? "worker_lost" : "internal_error";
    const char *words = "generation failed";
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (rows[i].err != code) continue;
        status = rows[i].status;
        name = rows[i].code;
        words = rows[i].otherwise;
    }
    refusal_set(no, status, name, "%s", sentence && *sentence ? sentence : words);
    if (status == 429 || status == 503) no->retry_after_s = retry_after_s ? retry_after_s : 1;
    return ERR_INVALID;
}

err_t refusal_overflow(struct refusal *no, uint32_t ctx, uint64_t n_prompt, uint64_t n_completion)
{
    refusal_set(no, 400, "context_length_exceeded",
                "This model's maximum context length is %u tokens. However, you requested %llu "
                "tokens (%llu in the messages, %llu in the completion). The prompt is too long; "
                "please reduce the length of the messages.",
                ctx, (unsigned long long)(n_prompt + n_completion), (unsigned long long)n_prompt,
                (unsigned long long)n_completion);
    no->n_prompt_tokens = n_prompt > UINT32_MAX ? UINT32_MAX : (uint32_t)n_prompt;
    no->n_ctx = ctx;
    return ERR_INVALID;
}

void refusal_json(struct buf *out, const struct refusal *no)
{
    BUG_ON(no->status == 0);
    buf_str(out, "{\"error\":{\"message\":");
    buf_json_str(out, no->text.s, strlen(no->text.s));
    buf_printf(out, ",\"type\":\"%s\",\"param\":", no->type);
    if (no->param[0])
        buf_json_str(out, no->param, strlen(no->param));
    else
        buf_str(out, "null");
    if (no->code)
        buf_printf(out, ",\"code\":\"%s\"", no->code);
    else
        buf_str(out, ",\"code\":null");
    if (no->n_ctx)
        buf_printf(out, ",\"n_prompt_tokens\":%u,\"n_ctx\":%u", no->n_prompt_tokens, no->n_ctx);
    buf_str(out, "}}");
}
