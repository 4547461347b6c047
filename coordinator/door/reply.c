#include "coordinator/door/reply.h"
#include "coordinator/door/api.h"
#include "coordinator/door/recall.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const struct engine_listener listener;

// Requests of one call that are at the engine at once: more would fill everybody's queue.
enum { AT_ONCE_MAX = 128 };

const char *api_token(const struct reply *r, int32_t id, size_t *len)
{
    const char *s = tokenizer_piece(r->p.model->tokenizer, id, true, len);
    return s && *len ? s : "";
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

// -- events --

// `len` bytes at the end of c->text are more of this kind.
static bool add_event(struct reply_choice *c, enum turn_kind kind, uint32_t call, size_t len)
{
    struct reply_event *last = c->n_event ? &c->events[c->n_event - 1] : NULL;
    const bool joins = kind == TURN_TEXT || kind == TURN_REASONING || kind == TURN_ARGUMENTS;
    if (last && joins && last->kind == kind && last->call == call) {
        last->len += (uint32_t)len;
        return true;
    }
    if (!grow((void **)&c->events, &c->cap_event, c->n_event + 1, sizeof *c->events)) return false;
    c->events[c->n_event++] = (struct reply_event){
        .kind = kind, .call = call, .at = (uint32_t)(c->text.len - len), .len = (uint32_t)len};
    return true;
}

static bool is_end(const struct request *req, int32_t id)
{
    for (uint32_t i = 0; i < req->n_end; i++)
        if (req->end_ids[i] == id) return true;
    return false;
}

static void take_note(struct reply_choice *c, const struct turn_event *e)
{
    struct replay_notes *n = &c->notes;
    switch (e->kind) {
    case TURN_TEXT:
        buf_add(&n->content, e->s, e->len);
        break;
    case TURN_REASONING:
        buf_add(&n->reasoning, e->s, e->len);
        break;
    case TURN_CALL:
        buf_str(&n->calls, c->events[c->n_event - 1].id);
        buf_char(&n->calls, 0);
        buf_add(&n->calls, e->s, e->len);
        buf_char(&n->calls, 0);
        n->n_call++;
        break;
    case TURN_ARGUMENTS:
        buf_add(&n->calls, e->s, e->len);
        break;
    case TURN_CALL_END:
        buf_char(&n->calls, 0);
        break;
    }
}

// A turn with calls that the model ended by itself comes back in the next request.
static void keep_turn(const struct reply_request *q, const struct reply_choice *c,
                      const struct choice *ch)
{
    const struct prepared *p = &q->reply->p;
    uint32_t n = ch->n_generated;
    if (!p->replay || !c->n_call || c->finish != FINISH_STOP || c->stop) return;
    while (n && is_end(q->req, ch->generated[n - 1]))
        n--;
    replay_keep_notes(p->replay, &c->notes,
                      (struct replay_turn){.tenant = p->tenant,
                                           .ids = ch->generated,
                                           .n_id = n,
                                           .before = p->before,
                                           .before_hash = p->before_hash,
                                           .tail = {p->tail, p->tail_len}});
}

// turn_sink
static void on_event(void *arg, const struct turn_event *e)
{
    struct reply_choice *c = arg;
    if (c->muted) return;
    buf_add(&c->text, e->s, e->len);
    if (!buf_ok(&c->text) || !add_event(c, e->kind, e->call, e->len)) {
        c->text.broken = true;
        return;
    }
    if (e->kind == TURN_CALL) {
        prepare_id("call_", c->events[c->n_event - 1].id);
        c->n_call++;
    }
    if (c->reply->p.replay) take_note(c, e);
    if (e->kind == TURN_CALL_END && c->reply->p.one_call) c->muted = true;
}

void reply_sent(struct reply_choice *c)
{
    buf_clear(&c->text);
    buf_clear(&c->digests);
    buf_clear(&c->ids);
    c->n_event = c->n_token = c->n_top = 0;
}

void reply_join(const struct reply_choice *c, enum turn_kind kind, uint32_t call, struct buf *out)
{
    for (size_t i = 0; i < c->n_event; i++) {
        const struct reply_event *e = &c->events[i];
        if (e->kind == kind && e->call == call) buf_add(out, c->text.data + e->at, e->len);
    }
}

void reply_put_object(const struct buf *arguments, struct buf *out)
{
    struct arena a;
    const struct json *j;
    const char *s = arguments->data ? arguments->data : "";
    arena_init(&a, 64 * (arguments->len + 1024));
    if (json_read(s, arguments->len, &a, &j, NULL, NULL) == OK && j->kind == J_OBJ) {
        buf_add(out, s, arguments->len);
    } else {
        buf_str(out, "{\"invalid_json\":");
        buf_json_str(out, s, arguments->len);
        buf_char(out, '}');
    }
    arena_fini(&a);
}

enum reply_end reply_end_of(const struct reply_choice *c)
{
    if (c->stop) return REPLY_STOP_TEXT;
    if (c->finish == FINISH_LENGTH && !c->muted) return REPLY_LENGTH;
    return c->n_call ? REPLY_CALLS : REPLY_STOP;
}

static void init_choice(struct reply *r, uint32_t i)
{
    const struct prepared *p = &r->p;
    struct reply_choice *c = &r->choices[i];
    *c = (struct reply_choice){.reply = r, .index = i, .prompt = i / p->n_choice, .stop_id = -1};
    const bool has_turns = p->api->has_turns;
    // An answer starts a text; a completion goes on with one.
    stream_init(&c->stream, p->model->tokenizer, p->stops, p->min_tokens ? 0 : p->n_stop,
                has_turns);
    c->stream.include_stop = p->include_stop;
    c->stream.spells = p->spells;
    if (!has_turns) return;
    const struct turn_config turn = {.format = p->format,
                                     .tools = p->tools,
                                     .prompt = p->tail,
                                     .prompt_len = p->tail_len,
                                     .sink = on_event,
                                     .arg = c};
    c->stream.marks = p->format;
    turn_init(&c->turn, &turn);
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
    r->open.kind = -1;
    return r;
}

static void release(struct reply *r)
{
    for (uint32_t i = 0; i < r->n_choice; i++) {
        struct reply_choice *c = &r->choices[i];
        stream_fini(&c->stream);
        turn_fini(&c->turn);
        replay_notes_fini(&c->notes);
        buf_fini(&c->text);
        free(c->events);
        buf_fini(&c->digests);
        buf_fini(&c->ids);
        free(c->tokens);
        free(c->top);
    }
    for (uint32_t i = 0; i < r->p.n_prompt; i++)
        free(r->requests[i].scores);
    buf_fini(&r->fresh);
    buf_fini(&r->head);
    buf_fini(&r->tail);
    buf_fini(&r->open.text);
    buf_fini(&r->open.name);
    buf_fini(&r->open.items);
    buf_fini(&r->open.probs);
    free(r->choices);
    free(r->requests);
    prepare_fini(&r->p);
    free(r);
}

static void give_back(struct reply_request *q)
{
    struct reply *r = q->reply;
    if (!r->arrived_us) {
        r->arrived_us = q->req->arrived_us;
        r->admitted_us = q->req->admitted_us;
    }
    if (r->p.recall) recall_keep(r->p.recall, q->req);
    request_free(q->req);
    q->req = NULL;
    r->n_out--;
    if (r->orphan && r->n_out == 0) release(r);
}

static void cancel_all(struct reply *r)
{
    // Kept alive over the loop: the last request to come back would free an orphan.
    r->n_out++;
    for (uint32_t i = 0; i < r->p.n_prompt; i++) {
        struct reply_request *q = &r->requests[i];
        if (!q->req) continue;
        if (i < r->n_begun) {
            r->engine->ops->cancel(r->engine, q->req);
        } else {
            request_free(q->req);
            q->req = NULL;
        }
    }
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

// Gives the next request to the engine. On failure it stays ours.
static err_t begin_one(struct reply *r, uint32_t *retry_after_s, struct err_text *why)
{
    struct reply_request *q = &r->requests[r->n_begun];
    if (q->req->score_prompt && !q->scores) {
        q->scores = malloc(q->n_prompt * sizeof *q->scores);
        for (uint32_t k = 0; q->scores && k < q->n_prompt; k++)
            q->scores[k] = NAN;
    }
    r->n_begun++;
    r->n_out++;
    err_t err = r->engine->ops->submit(r->engine, q->req, &listener, retry_after_s, why);
    if (!err) return OK;
    r->n_begun--;
    r->n_out--;
    return err;
}

// As many requests as may run at once. When the queue is full, those of the call that run already
// bring the next one in when they end.
static err_t begin_more(struct reply *r, uint32_t *retry_after_s, struct err_text *why)
{
    err_t err = OK;
    while (!err && r->n_begun < r->p.n_prompt && r->n_out < AT_ONCE_MAX)
        err = begin_one(r, retry_after_s, why);
    return err == ERR_BUSY && r->n_out ? OK : err;
}

err_t reply_start(struct reply *r, struct refusal *no)
{
    struct err_text why = {.s = ""};
    uint32_t retry_after_s = 0;
    err_t err = begin_more(r, &retry_after_s, &why);
    if (!err) return OK;
    // Those that run are taken back; nobody hears of them.
    r->wake = NULL;
    cancel_all(r);
    return refusal_engine(no, err, why.s, retry_after_s);
}

// -- events of the engine --

static uint32_t n_chars(const char *s, size_t len)
{
    uint32_t n = 0;
    for (size_t i = 0; i < len; i++)
        n += ((unsigned char)s[i] & 0xc0) != 0x80;
    return n;
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
    return add_event(c, TURN_TEXT, 0, c->text.len);
}

// What became certain of the text goes to the turn, or is text as it is.
static bool take_text(struct reply_choice *c, struct buf *fresh)
{
    if (!fresh->len) return true;
    if (c->reply->p.api->has_turns) return turn_push(&c->turn, fresh->data, fresh->len) == OK;
    buf_add(&c->text, fresh->data, fresh->len);
    return buf_ok(&c->text) && add_event(c, TURN_TEXT, 0, fresh->len);
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
    // An end may be a mark of the turn (harmony's calls end so); it is no text by itself.
    if (is_end(q->req, item->id)) {
        if (c->stream.marks) stream_push(&c->stream, item->id, &r->fresh);
        const bool ok = take_text(c, &r->fresh);
        buf_clear(&r->fresh);
        return ok;
    }
    const bool is_told = r->p.n_logprobs >= 0 || r->p.keeps_ids;
    if (is_told) {
        const uint32_t most = r->p.n_logprobs > 0 ? (uint32_t)r->p.n_logprobs : 0;
        const uint32_t n = item->n_top < most ? item->n_top : most;
        if (!add_token(c, item->id, item->logprob, item->top, n)) return false;
    }
    if (c->n_generated > r->p.min_tokens) c->stream.n_stop = r->p.n_stop;
    int stop = stream_push(&c->stream, item->id, &r->fresh);
    if (stop >= 0) {
        c->stop = r->p.stops[stop].s;
        c->stop_len = r->p.stops[stop].len;
    }
    const bool ok = buf_ok(&r->fresh) && take_text(c, &r->fresh);
    buf_clear(&r->fresh);
    if (is_told) c->tokens[c->n_token - 1].text_end = (uint32_t)c->text.len;
    c->n_reasoning += c->turn.state == TURN_IN_THINK;
    return ok && buf_ok(&c->text) && buf_ok(&c->digests) && buf_ok(&c->ids);
}

static void on_token(struct request *req, struct choice *ch, const struct step_item *item)
{
    struct reply_request *q = req->owner;
    struct reply *r = q->reply;
    struct reply_choice *c = &q->choices[ch->index];
    if (r->failed.status || c->stop || c->muted || c->finish || r->orphan) return;
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
    if (c->stop || c->muted) r->engine->ops->finish(r->engine, ch, FINISH_STOP);
}

static void on_scores(struct request *req, const float *scores, uint32_t from, uint32_t n)
{
    struct reply_request *q = req->owner;
    if (!q->scores || from > q->n_prompt || n > q->n_prompt - from) return;
    memcpy(q->scores + from, scores, n * sizeof *scores);
}

static void on_vector(struct request *req, struct choice *ch, const float *vector, uint32_t n)
{
    struct reply_request *q = req->owner;
    struct reply *r = q->reply;
    struct reply_choice *c = &q->choices[ch->index];
    if (r->failed.status || r->orphan) return;
    if (!r->first_us) {
        r->arrived_us = req->arrived_us;
        r->admitted_us = req->admitted_us;
        r->first_us = req->first_token_us;
    }
    if (r->p.api->vector) r->p.api->vector(&r->p, vector, n, &c->text);
    if (!buf_ok(&c->text)) fail(r, ERR_MEMORY, NULL, 0);
}

// The id that ended the choice, of which nobody was told: is it text, and was it the caller's own?
static void take_end(struct reply_request *q, struct reply_choice *c, const struct choice *ch)
{
    struct reply *r = q->reply;
    const struct engine_model *m = r->p.model;
    if (c->stop || ch->finish != FINISH_STOP || !ch->n_generated) return;
    const int32_t id = ch->generated[ch->n_generated - 1];
    if (!is_end(q->req, id)) return;
    bool is_models = false;
    for (uint32_t i = 0; i < m->n_end; i++)
        is_models |= m->end_ids[i] == id;
    if (!is_models) c->stop_id = id;
    if (r->p.include_stop) stream_push(&c->stream, id, &r->fresh);
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
    take_end(q, c, ch);
    if (!c->stop) stream_flush(&c->stream, &r->fresh);
    ok = ok && take_text(c, &r->fresh);
    buf_clear(&r->fresh);
    if (r->p.api->has_turns) {
        ok = ok && turn_end(&c->turn) == OK;
        if (ok) keep_turn(q, c, ch);
        r->n_garbled += c->turn.n_garbled;
    }
    if (!ok || !buf_ok(&c->text)) fail(r, ERR_MEMORY, NULL, 0);
}

// Something ended: there may be room for what has not begun.
static void go_on(struct reply *r)
{
    struct err_text why = {.s = ""};
    uint32_t retry_after_s = 0;
    err_t err = begin_more(r, &retry_after_s, &why);
    if (err)
        fail(r, err, why.s, retry_after_s);
    else
        wake(r);
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
        go_on(r);
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

static const struct engine_listener listener = {.on_token = on_token,
                                                .on_scores = on_scores,
                                                .on_vector = on_vector,
                                                .on_finish = on_finish,
                                                .on_error = on_error};

// -- writing --

struct reply_usage reply_usage_get(const struct reply *r)
{
    struct reply_usage u = {0};
    for (uint32_t i = 0; i < r->p.n_prompt; i++) {
        u.prompt += r->requests[i].n_prompt;
        u.cached += r->requests[i].n_cached;
    }
    for (uint32_t i = 0; i < r->n_choice; i++) {
        u.made += r->choices[i].n_generated;
        u.reasoning += r->choices[i].n_reasoning;
    }
    return u;
}

int64_t reply_queue_us(const struct reply *r)
{
    const struct request *req = r->requests[0].req;
    const bool known = r->arrived_us || !req;
    const int64_t arrived = known ? r->arrived_us : req->arrived_us;
    const int64_t admitted = known ? r->admitted_us : req->admitted_us;
    return admitted ? admitted - arrived : -1;
}

void reply_put_blocks(struct reply *r, const struct reply_blocks *b, bool is_final, struct buf *out)
{
    struct reply_choice *c = &r->choices[0];
    for (size_t i = 0; i < c->n_event; i++) {
        const struct reply_event *e = &c->events[i];
        const bool goes_on = e->kind == TURN_ARGUMENTS || (int)e->kind == r->open.kind;
        if (!goes_on || e->kind == TURN_CALL) b->close(r, false, out);
        if (e->kind == TURN_CALL_END) continue;
        if (r->open.kind < 0) b->open(r, c, e, out);
        if (e->kind != TURN_CALL) b->more(r, c, e, out);
    }
    // What is known of a token waits for its text.
    if (c->n_event || is_final) reply_sent(c);
    if (!c->n_token) r->open.n_token = 0;
    if (is_final) b->close(r, reply_end_of(c) == REPLY_LENGTH, out);
}

void reply_flush(struct reply *r, struct buf *out)
{
    const struct dialect *d = r->p.api->dialect;
    if (r->ended) return;
    if (!r->open.began && d->begin) d->begin(r, out);
    r->open.began = true;
    if (r->failed.status)
        d->failed(r, out);
    else
        d->flush(r, r->n_finished == r->n_choice, out);
    r->ended = reply_finished(r);
}

void reply_progress(struct reply *r, struct buf *out)
{
    if (!r->p.progress || r->first_us || r->failed.status || !r->open.began) return;
    if (r->p.api->dialect->progress) r->p.api->dialect->progress(r, out);
}

void reply_keep_alive(struct reply *r, struct buf *out)
{
    r->p.api->dialect->keep_alive(r, out);
}

void reply_body(struct reply *r, struct buf *out)
{
    r->p.api->dialect->body(r, out);
}
