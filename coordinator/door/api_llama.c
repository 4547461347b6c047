// llama.cpp's own endpoints that ask for tokens or vectors: /completion, /infill, /embedding.
//
// Streams are events of one token each, then one with all that an answer in one body has; there is
// no [DONE]. Of several prompts, or several answers to one, the body is a list.
#include "coordinator/door/api.h"
#include "coordinator/door/constrain.h"
#include "coordinator/door/fim.h"
#include "coordinator/door/llama.h"
#include "coordinator/door/sse.h"
#include "coordinator/door/texts.h"
#include "proto/base/clock.h"

#include <math.h>
#include <string.h>

// -- in: completions --

static struct texts prompts(const struct prepare *p)
{
    return (struct texts){.field = "prompt",
                          .value = p->p.prompt,
                          .n_max = PREPARE_CHOICES_MAX / (size_t)p->p.n,
                          .mixes = true};
}

static err_t completion_read(struct prepare *p, struct prepared *out, struct refusal *no)
{
    const struct texts t = prompts(p);
    err_t err = llama_read(p, out, no);
    return err ? err : texts_check(&t, p, no);
}

static err_t completion_encode(struct prepare *p, struct prepared *out, struct refusal *no)
{
    const struct texts t = prompts(p);
    err_t err = out->prompt_only ? OK : constrain_open(p, out, no);
    return err ? err : texts_encode(&t, p, out, no);
}

// Clients of OpenAI's form always name a model; llama.cpp's rarely do, and have names of their own.
static const struct api *completion_choose(const struct json *body)
{
    static const char *const own[] = {"n_predict",     "n_probs", "cache_prompt",
                                      "return_tokens", "id_slot", "samplers"};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        if (json_get(body, own[i])) return &api_llama;
    return json_get(body, "model") ? &api_completions : &api_llama;
}

// -- in: infill --

static err_t infill_read(struct prepare *p, struct prepared *out, struct refusal *no)
{
    const struct params *q = &p->p;
    if (!q->input_prefix) return refusal_field(no, "input_prefix", "'input_prefix' is missing");
    if (!q->input_suffix) return refusal_field(no, "input_suffix", "'input_suffix' is missing");
    if (q->prompt && q->prompt->kind != J_STR)
        return refusal_field(no, "prompt", "'prompt' must be a string here, not %s",
                             json_kind_name(q->prompt->kind));
    for (size_t i = 0; q->input_extra && i < q->input_extra->arr.n; i++) {
        const struct json *text = json_get(&q->input_extra->arr.items[i], "text");
        const struct json *name = json_get(&q->input_extra->arr.items[i], "filename");
        if (!text || text->kind != J_STR || (name && name->kind != J_STR))
            return refusal_field(no, "input_extra",
                                 "'input_extra[%zu]' must have 'text' and may have 'filename', "
                                 "both strings",
                                 i);
    }
    return llama_read(p, out, no);
}

struct hole {
    const struct tokenizer *tokenizer;
    struct ids ids;
    bool ok;
};

static void put_mark(struct hole *h, int32_t id)
{
    h->ok = h->ok && (id < 0 || ids_add(&h->ids, id));
}

// What marks are called inside a caller's text is text.
static void put_plain(struct hole *h, const char *s, size_t len)
{
    h->ok = h->ok &&
            tokenizer_encode(h->tokenizer, s, len, 0, NULL, 0, h->ids.n + len + 64, &h->ids) == OK;
}

static void put_string(struct hole *h, const struct json *s)
{
    if (s) put_plain(h, s->str.s, s->str.len);
}

// Other files, before the one with the hole.
static void put_files(struct hole *h, const struct fim *f, const struct json *list)
{
    const bool is_marked = f->repo >= 0 && f->file >= 0;
    if (is_marked) put_mark(h, f->repo);
    if (is_marked) put_plain(h, "myproject\n", 10);
    for (size_t i = 0; list && i < list->arr.n; i++) {
        const struct json *name = json_get(&list->arr.items[i], "filename");
        if (is_marked) put_mark(h, f->file);
        if (is_marked && name) put_string(h, name);
        if (is_marked && !name) put_plain(h, "tmp", 3);
        if (is_marked) put_plain(h, "\n", 1);
        put_string(h, json_get(&list->arr.items[i], "text"));
        if (!is_marked) put_plain(h, "\n", 1);
    }
    if (is_marked) put_mark(h, f->file);
    if (is_marked) put_plain(h, "filename\n", 9);
}

// A model of holes ends its file with one of these marks, too.
static bool add_ends(struct prepare *p, const struct fim *f)
{
    const int32_t marks[] = {f->repo, f->file, f->pad};
    int32_t *ends = arena_take_n(&p->scratch, 3, sizeof *ends);
    for (size_t i = 0; ends && i < 3; i++)
        if (marks[i] >= 0) ends[p->n_more_end++] = marks[i];
    p->more_ends = ends;
    return ends;
}

static err_t infill_encode(struct prepare *p, struct prepared *out, struct refusal *no)
{
    const struct params *q = &p->p;
    struct hole h = {.tokenizer = p->in->model->tokenizer, .ok = true};
    struct fim f;
    if (!fim_find(h.tokenizer, &f))
        return refusal_set(no, 501, "not_supported",
                           "The model '%.100s' has no tokens for filling in the middle",
                           p->in->model->id);
    err_t err = out->prompt_only ? OK : constrain_open(p, out, no);
    if (err) return err;
    if (tokenizer_adds_bos(h.tokenizer)) put_mark(&h, tokenizer_bos(h.tokenizer));
    put_files(&h, &f, q->input_extra);
    put_mark(&h, f.prefix);
    put_string(&h, q->input_prefix);
    put_mark(&h, f.suffix);
    put_string(&h, q->input_suffix);
    put_mark(&h, f.middle);
    put_string(&h, q->prompt);
    out->prompts = arena_take(&out->arena, sizeof *out->prompts);
    if (!h.ok || !out->prompts || !add_ends(p, &f))
        err = refusal_set(no, 500, "internal_error", "the prompt could not be tokenised");
    else
        err = prepare_add(p, out, &h.ids, NULL, no);
    ids_fini(&h.ids);
    return err;
}

// -- out: completions --

static const struct reply_request *request_of(const struct reply *r, const struct reply_choice *c)
{
    return &r->requests[c->prompt];
}

static void put_token(const struct reply *r, int32_t id, struct buf *out)
{
    size_t len;
    const char *s = api_token(r, id, &len);
    buf_printf(out, "{\"id\":%d,\"token\":", id);
    buf_json_str(out, s, len);
    buf_str(out, ",\"bytes\":[");
    for (size_t i = 0; i < len; i++)
        buf_printf(out, i ? ",%u" : "%u", (unsigned)(unsigned char)s[i]);
    buf_char(out, ']');
}

static void put_logprob(float logprob, struct buf *out)
{
    buf_str(out, ",\"logprob\":");
    buf_json_num(out, logprob);
}

// Sampled greedily, one token has all of it.
static void put_post_probs(const struct reply *r, const struct reply_choice *c,
                           const struct reply_token *t, struct buf *out)
{
    uint32_t n = 1;
    put_token(r, t->id, out);
    buf_str(out, ",\"prob\":1.0,\"top_probs\":[");
    put_token(r, t->id, out);
    buf_str(out, ",\"prob\":1.0}");
    for (uint32_t k = 0; k < t->n_top && n < r->p.llama->n_probs; k++) {
        if (c->top[t->top + k].id == t->id) continue;
        buf_char(out, ',');
        put_token(r, c->top[t->top + k].id, out);
        buf_str(out, ",\"prob\":0.0}");
        n++;
    }
    buf_str(out, "]}");
}

static void put_probs(const struct reply *r, const struct reply_choice *c,
                      const struct reply_token *t, struct buf *out)
{
    if (r->p.llama->post_probs) {
        put_post_probs(r, c, t, out);
        return;
    }
    put_token(r, t->id, out);
    put_logprob(t->logprob, out);
    buf_str(out, ",\"top_logprobs\":[");
    for (uint32_t k = 0; k < t->n_top; k++) {
        const struct token_prob *top = &c->top[t->top + k];
        if (k) buf_char(out, ',');
        put_token(r, top->id, out);
        put_logprob(top->logprob, out);
        buf_char(out, '}');
    }
    buf_str(out, "]}");
}

// The tokens [from, to) and what is known of them.
static void put_tokens(const struct reply *r, const struct reply_choice *c, size_t from, size_t to,
                       bool ids, struct buf *out)
{
    buf_str(out, ",\"tokens\":[");
    for (size_t i = from; i < to && ids; i++)
        buf_printf(out, i > from ? ",%d" : "%d", c->tokens[i].id);
    buf_char(out, ']');
    if (r->p.n_logprobs < 0) return;
    buf_str(out, ",\"completion_probabilities\":[");
    for (size_t i = from; i < to; i++) {
        if (i > from) buf_char(out, ',');
        put_probs(r, c, &c->tokens[i], out);
    }
    buf_char(out, ']');
}

static void put_head(const struct reply *r, const struct reply_choice *c, const char *s, size_t len,
                     bool stop, struct buf *out)
{
    buf_printf(out, "{\"index\":%u,\"content\":", c->index);
    buf_json_str(out, s ? s : "", len);
    buf_printf(out, ",\"stop\":%s,\"id_slot\":-1,\"tokens_predicted\":%u,\"tokens_evaluated\":%u",
               stop ? "true" : "false", c->n_generated, request_of(r, c)->n_prompt);
}

// How it ended, and what it was asked with.
static void put_end(const struct reply *r, const struct reply_choice *c, struct buf *out)
{
    const enum reply_end end = reply_end_of(c);
    const struct reply_request *q = request_of(r, c);
    const struct prepared_prompt *p = &r->p.prompts[c->prompt];
    const bool is_limit = end == REPLY_LENGTH || r->p.prompt_only;
    const bool is_full = is_limit && q->n_prompt + c->n_generated >= r->p.model->ctx;
    buf_str(out, ",\"model\":");
    buf_json_str(out, r->p.name, strlen(r->p.name));
    buf_printf(out,
               ",\"generation_settings\":%s,\"ignored\":[%s],\"prompt\":", r->p.llama->settings,
               r->p.llama->ignored);
    buf_json_str(out, p->text, p->text_len);
    buf_printf(out, ",\"has_new_line\":%s,\"truncated\":%s,\"stop_type\":\"%s\"",
               c->has_newline ? "true" : "false", is_full ? "true" : "false",
               is_limit                 ? "limit"
               : end == REPLY_STOP_TEXT ? "word"
                                        : "eos");
    buf_str(out, ",\"stopping_word\":");
    buf_json_str(out, c->stop ? c->stop : "", c->stop_len);
    buf_printf(out, ",\"tokens_cached\":%u,", q->n_cached);
    api_put_timings(r, q, c->n_generated, out);
    buf_char(out, '}');
}

// Some members of the object in `whole`; those inside of others get the whole path as their name.
static void put_chosen(const struct llama_want *want, const struct buf *whole, struct buf *out)
{
    struct arena a;
    const struct json *all = NULL;
    bool any = false;
    arena_init(&a, PREPARE_TREE_BYTES);
    if (!buf_ok(whole) || json_read(whole->data, whole->len, &a, &all, NULL, NULL) != OK)
        out->broken = true;
    buf_char(out, '{');
    for (uint32_t i = 0; i < want->n_field && all; i++) {
        const char *name = want->fields[i];
        const struct json *at = all;
        while (at && *name) {
            char part[64];
            const size_t len = strcspn(name, "/");
            if (len >= sizeof part) break;
            memcpy(part, name, len);
            part[len] = 0;
            at = json_get(at, part);
            name += len + (name[len] == '/');
        }
        if (!at || *name || at == all) continue;
        if (any) buf_char(out, ',');
        any = true;
        buf_json_str(out, want->fields[i], strlen(want->fields[i]));
        buf_char(out, ':');
        json_write(out, at);
    }
    buf_char(out, '}');
    arena_fini(&a);
}

// All that ends a choice; of a stream only what was not told before.
static void put_whole(struct reply *r, struct reply_choice *c, size_t from, struct buf *out)
{
    const struct llama_want *want = r->p.llama;
    const char *s = c->text.data ? c->text.data + from : "";
    const size_t len = c->text.len - from;
    struct buf tmp = {0}, *to = want->n_field ? &tmp : out;
    c->has_newline |= memchr(s, '\n', len) != NULL;
    put_head(r, c, s, len, true, to);
    put_tokens(r, c, r->p.stream ? c->n_token : 0, c->n_token, want->return_tokens && !r->p.stream,
               to);
    put_end(r, c, to);
    if (want->n_field) put_chosen(want, &tmp, out);
    buf_fini(&tmp);
}

static void flush_choice(struct reply *r, struct reply_choice *c, struct buf *out)
{
    size_t at = 0;
    for (size_t i = 0; i < c->n_token; i++) {
        const size_t to = c->tokens[i].text_end;
        c->has_newline |= to > at && memchr(c->text.data + at, '\n', to - at);
        sse_begin(out);
        put_head(r, c, to > at ? c->text.data + at : "", to - at, false, out);
        put_tokens(r, c, i, i + 1, true, out);
        if (r->p.llama->token_timings) {
            buf_char(out, ',');
            api_put_timings(r, request_of(r, c), c->n_generated, out);
        }
        buf_char(out, '}');
        sse_end(out);
        at = to;
    }
    if (c->finish) {
        c->closed = true;
        sse_begin(out);
        put_whole(r, c, at, out);
        sse_end(out);
    }
    reply_sent(c);
}

static void llama_flush(struct reply *r, bool is_final, struct buf *out)
{
    (void)is_final; // each choice says itself that it is over
    for (uint32_t i = 0; i < r->n_choice; i++)
        if (!r->choices[i].closed) flush_choice(r, &r->choices[i], out);
}

static void llama_failed(struct reply *r, struct buf *out)
{
    sse_begin(out);
    refusal_json(out, &r->failed);
    sse_end(out);
}

static void llama_progress(struct reply *r, struct buf *out)
{
    for (uint32_t i = 0; i < r->n_choice; i++) {
        struct reply_choice *c = &r->choices[i];
        struct reply_request *q = &r->requests[c->prompt];
        if (!q->req || q->req->n_prefilled <= q->n_told) continue;
        q->n_told = q->req->n_prefilled;
        sse_begin(out);
        put_head(r, c, "", 0, false, out);
        buf_printf(out,
                   ",\"tokens\":[],\"prompt_progress\":{\"total\":%u,\"cache\":%u,"
                   "\"processed\":%u,\"time_ms\":%lld}}",
                   q->n_prompt, q->req->n_cached, q->n_told,
                   (long long)(clock_now_us() - q->req->arrived_us) / 1000);
        sse_end(out);
    }
}

static void llama_keep_alive(struct reply *r, struct buf *out)
{
    (void)r;
    sse_keep_alive(out);
}

static void llama_body(struct reply *r, struct buf *out)
{
    const bool is_list = r->n_choice > 1;
    if (is_list) buf_char(out, '[');
    for (uint32_t i = 0; i < r->n_choice; i++) {
        if (i) buf_char(out, ',');
        put_whole(r, &r->choices[i], 0, out);
    }
    if (is_list) buf_char(out, ']');
}

static void llama_refused(const struct refusal *no, const char *request_id, struct buf *out)
{
    (void)request_id;
    refusal_json(out, no);
}

static const struct dialect dialect_llama = {
    .flush = llama_flush,
    .failed = llama_failed,
    .progress = llama_progress,
    .keep_alive = llama_keep_alive,
    .body = llama_body,
    .refused = llama_refused,
};

// -- vectors --

enum { INPUTS_MAX = 2048 };

static struct texts inputs(const struct prepare *p)
{
    return (struct texts){
        .field = "content", .value = p->p.input, .n_max = INPUTS_MAX, .mixes = true};
}

static err_t embedding_read(struct prepare *p, struct prepared *out, struct refusal *no)
{
    const struct texts t = inputs(p);
    err_t err = api_read_pooling(p, out, no);
    out->llama = arena_take(&out->arena, sizeof *out->llama);
    if (!out->llama) return refusal_set(no, 500, "internal_error", "out of memory");
    *out->llama = (struct llama_want){.normalize = (int)p->p.normalize};
    return err ? err : texts_check(&t, p, no);
}

static err_t embedding_encode(struct prepare *p, struct prepared *out, struct refusal *no)
{
    const struct texts t = inputs(p);
    return texts_encode(&t, p, out, no);
}

// What the numbers are divided by; 0: as they are.
static double length_of(const float *v, uint32_t n, int normalize)
{
    double sum = 0, most = 0;
    for (uint32_t i = 0; i < n && normalize >= 0; i++) {
        const double d = fabs((double)v[i]);
        most = fmax(most, d);
        if (normalize > 0) sum += normalize == 2 ? d * d : pow(d, normalize);
    }
    if (normalize == 0) return most / 32760; // the numbers fill 16 bits
    if (normalize == 2) return sqrt(sum);
    return normalize > 0 ? pow(sum, 1.0 / normalize) : 0;
}

static void embedding_vector(const struct prepared *p, const float *v, uint32_t n, struct buf *out)
{
    const double length = length_of(v, n, p->llama->normalize);
    for (uint32_t i = 0; i < n; i++)
        buf_printf(out, "%c%.9g", i ? ',' : '[',
                   (double)(length > 0 ? (float)((double)v[i] / length) : v[i]));
    buf_char(out, ']');
}

static void embedding_body(struct reply *r, struct buf *out)
{
    buf_char(out, '[');
    for (uint32_t i = 0; i < r->n_choice; i++) {
        const struct buf *text = &r->choices[i].text;
        buf_printf(out, "%s{\"index\":%u,\"embedding\":[", i ? "," : "", i);
        buf_add(out, text->data, text->len);
        buf_str(out, "]}");
    }
    buf_char(out, ']');
}

static const struct api *embedding_choose(const struct json *body)
{
    return json_get(body, "content") && !json_get(body, "input") ? &api_llama_embedding
                                                                 : &api_embeddings;
}

static const struct dialect dialect_llama_vectors = {.body = embedding_body,
                                                     .refused = llama_refused};

// -- the rows --

const struct api api_llama = {
    .id_prefix = "cmpl-",
    .prompt_field = "prompt",
    .fields = FIELD_LLAMA,
    .stops_max = STREAM_STOPS_MAX,
    .fills = true,
    .shows_prompt = true,
    .dialect = &dialect_llama,
    .read = completion_read,
    .encode = completion_encode,
};

const struct api api_llama_or_completions = {
    .dialect = &dialect_llama,
    .choose = completion_choose,
};

const struct api api_llama_infill = {
    .id_prefix = "cmpl-",
    .prompt_field = "prompt",
    .fields = FIELD_LLAMA | FIELD_INFILL,
    .stops_max = STREAM_STOPS_MAX,
    .fills = true,
    .shows_prompt = true,
    .dialect = &dialect_llama,
    .read = infill_read,
    .encode = infill_encode,
};

const struct api api_llama_embedding = {
    .id_prefix = "embd-",
    .prompt_field = "content",
    .fields = FIELD_LLAMA_EMBED,
    .dialect = &dialect_llama_vectors,
    .read = embedding_read,
    .encode = embedding_encode,
    .vector = embedding_vector,
};

const struct api api_llama_or_embeddings = {
    .dialect = &dialect_llama_vectors,
    .choose = embedding_choose,
};
