// chunks: how OpenAI's completions, of chats and of texts, write answers: chunks of one shape, or
// the same as one body.
#include "coordinator/door/api.h"
#include "coordinator/door/sse.h"
#include "proto/base/clock.h"

#include <math.h>
#include <string.h>

const char *api_finish_reason(const struct reply_choice *c)
{
    static const char *const words[] = {[REPLY_STOP] = "stop",
                                        [REPLY_STOP_TEXT] = "stop",
                                        [REPLY_LENGTH] = "length",
                                        [REPLY_CALLS] = "tool_calls"};
    return words[reply_end_of(c)];
}

static void put_list(struct buf *out, const char *key, const struct buf *items)
{
    buf_printf(out, ",\"%s\":[", key);
    buf_add(out, items->data, items->len);
    buf_char(out, ']');
}

void api_put_prompt_logprobs(const struct reply *r, uint32_t prompt, struct buf *out)
{
    const struct prepared_prompt *p = &r->p.prompts[prompt];
    const struct reply_request *q = &r->requests[prompt];
    buf_str(out, "\"prompt_logprobs\":[");
    for (uint32_t i = 0; i < q->n_prompt; i++) {
        if (i) buf_char(out, ',');
        if (!q->scores || isnan(q->scores[i])) { // nothing comes before the first
            buf_str(out, "null");
            continue;
        }
        size_t len;
        const char *s = api_token(r, p->ids[i], &len);
        buf_printf(out, "{\"%d\":{\"logprob\":", p->ids[i]);
        buf_json_num(out, q->scores[i]);
        buf_str(out, ",\"rank\":null,\"decoded_token\":");
        buf_json_str(out, s, len);
        buf_str(out, "}}");
    }
    buf_char(out, ']');
}

void api_extensions(const struct reply *r, const struct reply_choice *c, struct buf *out)
{
    if (c->stop && (c->closed || !r->p.stream)) {
        buf_str(out, ",\"stop_reason\":");
        buf_json_str(out, c->stop, c->stop_len);
    } else if (c->stop_id >= 0 && (c->closed || !r->p.stream)) {
        buf_printf(out, ",\"stop_reason\":%d", c->stop_id);
    }
    if (c->closed && r->p.stream) return;
    if (r->p.digest) put_list(out, "logits_digest", &c->digests);
    if (r->p.token_ids) put_list(out, "token_ids", &c->ids);
}

static void write_head(const struct reply *r, const char *object, struct buf *out)
{
    buf_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", r->p.id, object,
               (long long)r->created_s);
    buf_json_str(out, r->p.name, strlen(r->p.name));
    buf_str(out, ",\"system_fingerprint\":\"trireme-" TRIREME_VERSION "\",\"choices\":[");
}

static void put_usage(const struct reply *r, struct buf *out)
{
    const struct reply_usage u = reply_usage_get(r);
    buf_printf(out,
               "\"usage\":{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu,"
               "\"prompt_tokens_details\":{\"cached_tokens\":%llu},"
               "\"completion_tokens_details\":{\"reasoning_tokens\":%llu,"
               "\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}}",
               (unsigned long long)u.prompt, (unsigned long long)u.made,
               (unsigned long long)(u.prompt + u.made), (unsigned long long)u.cached,
               (unsigned long long)u.reasoning);
}

static double per_second(uint64_t n, int64_t us)
{
    return us > 0 ? (double)n * 1e6 / (double)us : 0;
}

static double per_token(int64_t us, uint64_t n)
{
    return n ? (double)us / 1e3 / (double)n : 0;
}

void api_put_timings(const struct reply *r, const struct reply_request *q, uint64_t made,
                     struct buf *out)
{
    const uint32_t n_prompt = q->n_prompt - q->n_cached;
    int64_t start = r->admitted_us ? r->admitted_us : r->arrived_us;
    int64_t prefill = r->first_us > start ? r->first_us - start : 0;
    int64_t decode = r->finished_us > r->first_us ? r->finished_us - r->first_us : 0;
    buf_printf(out,
               "\"timings\":{\"cache_n\":%u,\"prompt_n\":%u,\"prompt_ms\":%.3f,"
               "\"prompt_per_token_ms\":%.3f,\"prompt_per_second\":%.3f,\"predicted_n\":%llu,"
               "\"predicted_ms\":%.3f,\"predicted_per_token_ms\":%.3f,"
               "\"predicted_per_second\":%.3f}",
               q->n_cached, n_prompt, (double)prefill / 1e3, per_token(prefill, n_prompt),
               per_second(n_prompt, prefill), (unsigned long long)made, (double)decode / 1e3,
               per_token(decode, made), per_second(made, decode));
}

static void put_timings(const struct reply *r, struct buf *out)
{
    api_put_timings(r, &r->requests[0], reply_usage_get(r).made, out);
}

// One chunk around what was put after open_chunk.
static void open_chunk(const struct reply *r, struct buf *out)
{
    sse_begin(out);
    buf_add(out, r->head.data, r->head.len);
}

static void close_chunk(const struct reply *r, bool timings, struct buf *out)
{
    if (r->p.continuous_usage || timings) {
        buf_str(out, "],");
        if (r->p.continuous_usage)
            put_usage(r, out);
        else if (r->p.include_usage)
            buf_str(out, "\"usage\":null");
        if (timings) {
            if (r->p.continuous_usage || r->p.include_usage) buf_char(out, ',');
            put_timings(r, out);
        }
        buf_char(out, '}');
    } else {
        buf_add(out, r->tail.data, r->tail.len);
    }
    sse_end(out);
}

static void flush_choice(struct reply *r, struct reply_choice *c, bool is_final, struct buf *out)
{
    const struct api *api = r->p.api;
    if (!c->opened && api->first) {
        open_chunk(r, out);
        api->first(r, c, out);
        close_chunk(r, false, out);
    }
    c->opened = true;
    // What stands beside the events (probabilities, digests) goes with the first of them.
    bool more = c->n_token || c->digests.len || c->ids.len;
    for (size_t i = 0; i < c->n_event || more; i++) {
        const struct reply_event *e = i < c->n_event ? &c->events[i] : NULL;
        if (e && e->kind == TURN_CALL_END) continue;
        open_chunk(r, out);
        api->piece(r, c, e, out);
        close_chunk(r, false, out);
        c->n_token = c->n_top = 0;
        buf_clear(&c->digests);
        buf_clear(&c->ids);
        more = false;
    }
    reply_sent(c);
    if (!c->finish) return;
    c->closed = true;
    open_chunk(r, out);
    api->last(r, c, out);
    close_chunk(r, is_final && !r->p.include_usage, out);
}

static void chunks_begin(struct reply *r, struct buf *out)
{
    (void)out;
    write_head(r, r->p.api->chunk_object, &r->head);
    buf_str(&r->tail, r->p.include_usage ? "],\"usage\":null}" : "]}");
}

static void chunks_failed(struct reply *r, struct buf *out)
{
    sse_begin(out);
    refusal_json(out, &r->failed);
    sse_end(out);
}

static void chunks_flush(struct reply *r, bool is_final, struct buf *out)
{
    uint32_t open = 0;
    for (uint32_t i = 0; i < r->n_choice; i++)
        open += !r->choices[i].closed;
    for (uint32_t i = 0; i < r->n_choice; i++) {
        struct reply_choice *c = &r->choices[i];
        if (c->closed) continue;
        open -= c->finish != FINISH_NONE;
        flush_choice(r, c, open == 0, out);
    }
    if (!is_final) return;
    if (r->p.include_usage) {
        open_chunk(r, out);
        buf_str(out, "],");
        put_usage(r, out);
        buf_char(out, ',');
        put_timings(r, out);
        buf_char(out, '}');
        sse_end(out);
    }
    sse_done(out);
}

static void chunks_keep_alive(struct reply *r, struct buf *out)
{
    (void)r;
    sse_keep_alive(out);
}

static void chunks_progress(struct reply *r, struct buf *out)
{
    for (uint32_t i = 0; i < r->p.n_prompt; i++) {
        struct reply_request *q = &r->requests[i];
        if (!q->req || q->req->n_prefilled <= q->n_told) continue;
        q->n_told = q->req->n_prefilled;
        sse_begin(out);
        buf_add(out, r->head.data, r->head.len);
        buf_printf(out,
                   "],\"prompt_progress\":{\"total\":%u,\"cache\":%u,\"processed\":%u,"
                   "\"time_ms\":%lld}}",
                   q->n_prompt, q->req->n_cached, q->n_told,
                   (long long)(clock_now_us() - q->req->arrived_us) / 1000);
        sse_end(out);
    }
}

static void chunks_body(struct reply *r, struct buf *out)
{
    write_head(r, r->p.api->object, out);
    for (uint32_t i = 0; i < r->n_choice; i++) {
        if (i) buf_char(out, ',');
        r->p.api->whole(r, &r->choices[i], out);
    }
    buf_str(out, "],");
    put_usage(r, out);
    buf_char(out, ',');
    if (r->p.scores_prompt && r->p.api->has_turns) {
        api_put_prompt_logprobs(r, 0, out);
        buf_char(out, ',');
    }
    put_timings(r, out);
    buf_char(out, '}');
}

static void chunks_refused(const struct refusal *no, const char *request_id, struct buf *out)
{
    (void)request_id;
    refusal_json(out, no);
}

const struct dialect dialect_chunks = {
    .begin = chunks_begin,
    .flush = chunks_flush,
    .failed = chunks_failed,
    .progress = chunks_progress,
    .keep_alive = chunks_keep_alive,
    .body = chunks_body,
    .refused = chunks_refused,
};
