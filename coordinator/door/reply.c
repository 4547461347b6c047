#include "coordinator/door/reply.h"
#include "coordinator/door/api.h"
#include "coordinator/door/sse.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const struct engine_listener listener;

const char *api_token(const struct reply *r, int32_t id, size_t *len)
{
    const char *s = tokenizer_piece(r->p.model->tokenizer, id, true, len);
    return s && *len ? s : "";
}

void api_text(const struct reply_choice *c, struct buf *out)
{
    buf_json_str(out, c->text.data ? c->text.data : "", c->text.len);
}

const char *api_finish_reason(const struct reply_choice *c)
{
    return c->finish == FINISH_LENGTH && !c->stop ? "length" : "stop";
}

static void put_list(struct buf *out, const char *key, const struct buf *items)
{
    buf_printf(out, ",\"%s\":[", key);
    buf_add(out, items->data, items->len);
    buf_char(out, ']');
}

void api_extensions(const struct reply *r, const struct reply_choice *c, struct buf *out)
{
    if (c->stop && (c->closed || !r->p.stream)) {
        buf_str(out, ",\"stop_reason\":");
        buf_json_str(out, c->stop, c->stop_len);
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

static void init_choice(struct reply *r, uint32_t i)
{
    struct reply_choice *c = &r->choices[i];
    *c = (struct reply_choice){.reply = r, .index = i, .prompt = i / r->p.n_choice};
    // A chat answer starts a text; a completion goes on with one.
    stream_init(&c->stream, r->p.model->tokenizer, r->p.stops, r->p.n_stop, r->p.api == &api_chat);
}

struct reply *reply_new(struct engine *e, struct prepared *p, void (*wake)(void *), void *owner)
{
    struct reply *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->n_choice = p->n_prompt * p->n_choice;
    r->choices = calloc(r->n_choice, sizeof *r->choices);
    r->requests = calloc(p->n_prompt, sizeof *r->requests);
    if (!r->choices || !r->requests) {
        free(r->choices);
        free(r->requests);
        free(r);
        return NULL;
    }
    r->p = *p;
    r->engine = e;
    r->created_s = time(NULL);
    r->wake = wake;
    r->owner = owner;
    for (uint32_t i = 0; i < r->n_choice; i++)
        init_choice(r, i);
    for (uint32_t i = 0; i < p->n_prompt; i++) {
        struct request *req = p->prompts[i].req;
        r->requests[i] = (struct reply_request){
            .reply = r,
            .req = req,
            .choices = &r->choices[i * p->n_choice],
            .n_prompt = req->n_prompt,
        };
        req->owner = &r->requests[i];
        r->p.prompts[i].req = NULL;
    }
    if (r->p.stream) {
        write_head(r, r->p.api->chunk_object, &r->head);
        buf_str(&r->tail, r->p.include_usage ? "],\"usage\":null}" : "]}");
    }
    return r;
}

static void release(struct reply *r)
{
    for (uint32_t i = 0; i < r->n_choice; i++) {
        struct reply_choice *c = &r->choices[i];
        stream_fini(&c->stream);
        buf_fini(&c->text);
        buf_fini(&c->digests);
        buf_fini(&c->ids);
        free(c->tokens);
        free(c->top);
    }
    for (uint32_t i = 0; i < r->p.n_prompt; i++)
        free(r->requests[i].scores);
    buf_fini(&r->head);
    buf_fini(&r->tail);
    free(r->choices);
    free(r->requests);
    prepare_fini(&r->p);
    free(r);
}

static void give_back(struct reply_request *q)
{
    struct reply *r = q->reply;
    request_free(q->req);
    q->req = NULL;
    r->n_out--;
    if (r->orphan && r->n_out == 0) release(r);
}

static void cancel_all(struct reply *r)
{
    // Kept alive over the loop: the last request to come back would free an orphan.
    r->n_out++;
    for (uint32_t i = 0; i < r->p.n_prompt; i++)
        if (r->requests[i].req) r->engine->ops->cancel(r->engine, r->requests[i].req);
    r->n_out--;
}

void reply_free(struct reply *r)
{
    r->wake = NULL;
    cancel_all(r);
    if (r->n_out == 0)
        release(r);
    else
        r->orphan = true;
}

static void wake(struct reply *r)
{
    if (r->wake) r->wake(r->owner);
}

// The call as a whole failed. What still runs of it is cancelled when the owner, woken by this,
// frees the reply: not here, where the engine may be in the middle of telling its events.
static void fail(struct reply *r, err_t code, const char *sentence, uint32_t retry_after_s)
{
    if (r->failed.status) return;
    refusal_engine(&r->failed, code, sentence, retry_after_s);
    if (r->failed.status >= 500)
        log_warn("request %s failed: %s: %s", r->p.id, err_name(code), r->failed.text.s);
    wake(r);
}

err_t reply_start(struct reply *r, struct refusal *no)
{
    struct engine *e = r->engine;
    for (uint32_t i = 0; i < r->p.n_prompt; i++) {
        struct reply_request *q = &r->requests[i];
        if (r->p.echo && r->p.n_logprobs >= 0) {
            q->scores = malloc(q->n_prompt * sizeof *q->scores);
            for (uint32_t k = 0; q->scores && k < q->n_prompt; k++)
                q->scores[k] = NAN;
        }
        struct err_text why = {.s = ""};
        uint32_t retry_after_s = 0;
        r->n_out++;
        err_t err = e->ops->submit(e, q->req, &listener, &retry_after_s, &why);
        if (!err) continue;
        // It stayed ours. Those before it are taken back; nobody hears of them.
        request_free(q->req);
        q->req = NULL;
        r->n_out--;
        for (uint32_t k = i + 1; k < r->p.n_prompt; k++) {
            request_free(r->requests[k].req);
            r->requests[k].req = NULL;
        }
        r->wake = NULL;
        cancel_all(r);
        return refusal_engine(no, err, why.s, retry_after_s);
    }
    return OK;
}

// -- events of the engine --

static bool is_end(const struct request *req, int32_t id)
{
    for (uint32_t i = 0; i < req->n_end; i++)
        if (req->end_ids[i] == id) return true;
    return false;
}

static uint32_t n_chars(const char *s, size_t len)
{
    uint32_t n = 0;
    for (size_t i = 0; i < len; i++)
        n += ((unsigned char)s[i] & 0xc0) != 0x80;
    return n;
}

static bool grow(void **at, size_t *cap, size_t need, size_t size)
{
    if (need <= *cap) return true;
    size_t more = *cap ? *cap * 2 : 16;
    while (more < need)
        more *= 2;
    void *p = realloc(*at, more * size);
    if (!p) return false;
    *at = p;
    *cap = more;
    return true;
}

static bool add_token(struct reply_choice *c, int32_t id, float logprob,
                      const struct token_prob *top, uint32_t n_top)
{
    struct reply *r = c->reply;
    if (!grow((void **)&c->tokens, &c->cap_token, c->n_token + 1, sizeof *c->tokens) ||
        !grow((void **)&c->top, &c->cap_top, c->n_top + n_top, sizeof *c->top))
        return false;
    c->tokens[c->n_token++] = (struct reply_token){.id = id,
                                                   .logprob = logprob,
                                                   .text_at = c->n_chars,
                                                   .top = (uint32_t)c->n_top,
                                                   .n_top = n_top};
    if (n_top) memcpy(c->top + c->n_top, top, n_top * sizeof *top);
    c->n_top += n_top;
    size_t len;
    const char *s = api_token(r, id, &len);
    c->n_chars += n_chars(s, len);
    return true;
}

// The prompt in front of the answer, once its scores are known: before the first token.
static bool echo(struct reply_request *q, struct reply_choice *c)
{
    struct reply *r = q->reply;
    if (!r->p.echo || c->echoed) return true;
    c->echoed = true;
    const struct prepared_prompt *p = &r->p.prompts[c->prompt];
    if (p->text) buf_add(&c->text, p->text, p->text_len);
    for (uint32_t i = 0; i < q->n_prompt; i++) {
        int32_t id = q->req->prompt[i];
        size_t len;
        const char *s = api_token(r, id, &len);
        if (!p->text) buf_add(&c->text, s, len);
        if (!q->scores) continue;
        // Only the prompt's own tokens are scored, so each is its own best known alternative.
        struct token_prob self = {.id = id, .logprob = q->scores[i]};
        bool scored = !isnan(q->scores[i]) && r->p.n_logprobs > 0;
        if (!add_token(c, id, q->scores[i], &self, scored)) return false;
    }
    return true;
}

static bool take_token(struct reply_request *q, struct reply_choice *c,
                       const struct step_item *item)
{
    struct reply *r = q->reply;
    c->n_generated++;
    if (!echo(q, c)) return false;
    if (r->p.digest)
        buf_printf(&c->digests, "%s\"%016llx\"", c->digests.len ? "," : "",
                   (unsigned long long)item->digest);
    if (r->p.token_ids) buf_printf(&c->ids, "%s%d", c->ids.len ? "," : "", item->id);
    if (is_end(q->req, item->id)) return true;
    if (r->p.n_logprobs >= 0) {
        uint32_t n =
            item->n_top < (uint32_t)r->p.n_logprobs ? item->n_top : (uint32_t)r->p.n_logprobs;
        if (!add_token(c, item->id, item->logprob, item->top, n)) return false;
    }
    int stop = stream_push(&c->stream, item->id, &c->text);
    if (stop >= 0) {
        c->stop = r->p.stops[stop].s;
        c->stop_len = r->p.stops[stop].len;
    }
    return buf_ok(&c->text) && buf_ok(&c->digests) && buf_ok(&c->ids);
}

static void on_token(struct request *req, struct choice *ch, const struct step_item *item)
{
    struct reply_request *q = req->owner;
    struct reply *r = q->reply;
    struct reply_choice *c = &q->choices[ch->index];
    if (r->failed.status || c->stop || c->finish || r->orphan) return;
    if (!r->first_us) {
        r->arrived_us = req->arrived_us;
        r->admitted_us = req->admitted_us;
        r->first_us = req->first_token_us;
        q->n_cached = req->n_cached;
    }
    if (!take_token(q, c, item)) {
        fail(r, ERR_MEMORY, NULL, 0);
        return;
    }
    wake(r);
    if (c->stop) r->engine->ops->finish(r->engine, ch, FINISH_STOP);
}

static void on_scores(struct request *req, const float *scores, uint32_t from, uint32_t n)
{
    struct reply_request *q = req->owner;
    if (!q->scores || from > q->n_prompt || n > q->n_prompt - from) return;
    memcpy(q->scores + from, scores, n * sizeof *scores);
}

static void end_choice(struct reply_request *q, const struct choice *ch)
{
    struct reply *r = q->reply;
    struct reply_choice *c = &q->choices[ch->index];
    if (c->finish) return;
    bool ok = echo(q, c);
    c->finish = ch->finish;
    c->n_generated = ch->n_generated;
    r->n_finished++;
    r->finished_us = q->req->finished_us;
    q->n_cached = q->req->n_cached;
    if (!c->stop) stream_flush(&c->stream, &c->text);
    if (!ok || !buf_ok(&c->text)) fail(r, ERR_MEMORY, NULL, 0);
}

static void on_finish(struct request *req, struct choice *ch, bool is_last)
{
    struct reply_request *q = req->owner;
    struct reply *r = q->reply;
    enum finish why = ch->finish;
    // Someone hears of it unless the call failed or its caller left, which made us cancel it.
    bool heard = !r->failed.status && !r->orphan && r->wake;
    if (heard && (why == FINISH_STOP || why == FINISH_LENGTH)) end_choice(q, ch);
    if (is_last) give_back(q);
    if (!heard) return;
    if (why == FINISH_ERROR)
        fail(r, ERR_DEVICE, NULL, 0);
    else if (why == FINISH_CANCELLED)
        fail(r, ERR_CANCELLED, NULL, 0);
    else
        wake(r);
}

static void on_error(struct request *req, err_t code, const char *sentence, uint32_t retry_after_s)
{
    struct reply_request *q = req->owner;
    struct reply *r = q->reply;
    bool heard = !r->orphan && r->wake;
    struct err_text copy;
    err_say(&copy, code, "%s", sentence ? sentence : "");
    give_back(q);
    if (heard) fail(r, code, copy.s, retry_after_s);
}

static const struct engine_listener listener = {
    .on_token = on_token, .on_scores = on_scores, .on_finish = on_finish, .on_error = on_error};

// -- writing --

static void put_usage(const struct reply *r, struct buf *out)
{
    uint64_t prompt = 0, cached = 0, made = 0;
    for (uint32_t i = 0; i < r->p.n_prompt; i++) {
        prompt += r->requests[i].n_prompt;
        cached += r->requests[i].n_cached;
    }
    for (uint32_t i = 0; i < r->n_choice; i++)
        made += r->choices[i].n_generated;
    buf_printf(out,
               "\"usage\":{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu,"
               "\"prompt_tokens_details\":{\"cached_tokens\":%llu},"
               "\"completion_tokens_details\":{\"reasoning_tokens\":0,"
               "\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}}",
               (unsigned long long)prompt, (unsigned long long)made,
               (unsigned long long)(prompt + made), (unsigned long long)cached);
}

static double per_second(uint64_t n, int64_t us)
{
    return us > 0 ? (double)n * 1e6 / (double)us : 0;
}

static void put_timings(const struct reply *r, struct buf *out)
{
    uint64_t made = 0;
    for (uint32_t i = 0; i < r->n_choice; i++)
        made += r->choices[i].n_generated;
    const struct reply_request *q = &r->requests[0];
    int64_t start = r->admitted_us ? r->admitted_us : r->arrived_us;
    int64_t prefill = r->first_us > start ? r->first_us - start : 0;
    int64_t decode = r->finished_us > r->first_us ? r->finished_us - r->first_us : 0;
    buf_printf(out,
               "\"timings\":{\"cache_n\":%u,\"prompt_n\":%u,\"prompt_ms\":%.3f,"
               "\"prompt_per_second\":%.3f,\"predicted_n\":%llu,\"predicted_ms\":%.3f,"
               "\"predicted_per_second\":%.3f}",
               q->n_cached, q->n_prompt - q->n_cached, (double)prefill / 1e3,
               per_second(q->n_prompt - q->n_cached, prefill), (unsigned long long)made,
               (double)decode / 1e3, per_second(made, decode));
}

typedef void (*put_choice)(const struct reply *, const struct reply_choice *, struct buf *);

static void put_chunk(const struct reply *r, const struct reply_choice *c, put_choice put,
                      bool timings, struct buf *out)
{
    sse_begin(out);
    buf_add(out, r->head.data, r->head.len);
    put(r, c, out);
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
    if (!c->opened && api->first) put_chunk(r, c, api->first, false, out);
    c->opened = true;
    if (c->text.len || c->n_token || c->digests.len || c->ids.len)
        put_chunk(r, c, api->piece, false, out);
    buf_clear(&c->text);
    buf_clear(&c->digests);
    buf_clear(&c->ids);
    c->n_token = c->n_top = 0;
    if (!c->finish) return;
    c->closed = true;
    put_chunk(r, c, api->last, is_final && !r->p.include_usage, out);
}

void reply_flush(struct reply *r, struct buf *out)
{
    if (r->ended) return;
    if (r->failed.status) {
        sse_begin(out);
        refusal_json(out, &r->failed);
        sse_end(out);
        r->ended = true;
        return;
    }
    uint32_t open = 0;
    for (uint32_t i = 0; i < r->n_choice; i++)
        open += !r->choices[i].closed;
    for (uint32_t i = 0; i < r->n_choice; i++) {
        struct reply_choice *c = &r->choices[i];
        if (c->closed) continue;
        open -= c->finish != FINISH_NONE;
        flush_choice(r, c, open == 0, out);
    }
    if (open) return;
    if (r->p.include_usage) {
        sse_begin(out);
        buf_add(out, r->head.data, r->head.len);
        buf_str(out, "],");
        put_usage(r, out);
        buf_char(out, ',');
        put_timings(r, out);
        buf_char(out, '}');
        sse_end(out);
    }
    sse_done(out);
    r->ended = true;
}

void reply_progress(struct reply *r, struct buf *out)
{
    if (!r->p.progress || r->first_us || r->failed.status) return;
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

void reply_body(const struct reply *r, struct buf *out)
{
    write_head(r, r->p.api->object, out);
    for (uint32_t i = 0; i < r->n_choice; i++) {
        if (i) buf_char(out, ',');
        r->p.api->whole(r, &r->choices[i], out);
    }
    buf_str(out, "],");
    put_usage(r, out);
    buf_char(out, ',');
    put_timings(r, out);
    buf_char(out, '}');
}
