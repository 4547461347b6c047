#include "tests/unit/door/mock_engine.h"
#include "proto/base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SAYS = 64, SLOW_US = 20000, PREFILL_US = 2000000, DIM = MOCK_DIM };

struct mock {
    struct engine engine; // first
    struct mock_config config;
    struct engine_model model;
    struct gguf *gguf;
    struct tokenizer *tokenizer;
    struct template *template;
    struct ids text;
    int32_t end_ids[16];
    enum engine_state state;
    struct list running;
    uint32_t n_running;
    uint64_t kv_used, generated, prompts;
    uv_idle_t idle;
    uv_timer_t timer;
    int n_handle;
    const struct request *gone; // the last one that ended
};

struct running {
    struct list node;
    struct request *r;
    const struct engine_listener *l;
    int64_t next_us; // not before
};

static struct mock *mock_of(const struct engine *e)
{
    return (struct mock *)(uintptr_t)e;
}

static void on_idle(uv_idle_t *h);
static void on_timer(uv_timer_t *t);

static void keep_stepping(struct mock *m)
{
    if (m->config.step_us) {
        const uint64_t ms = (m->config.step_us + 999) / 1000; // the loop's clock ticks in them
        if (!uv_is_active((uv_handle_t *)&m->timer)) uv_timer_start(&m->timer, on_timer, ms, ms);
    } else if (!uv_is_active((uv_handle_t *)&m->idle)) {
        uv_idle_start(&m->idle, on_idle);
    }
}

static void forget(struct mock *m, struct running *x)
{
    m->gone = x->r;
    list_remove(&x->node);
    m->n_running--;
    m->kv_used -= x->r->n_prompt;
    for (uint32_t i = 0; i < x->r->n_choice; i++)
        m->kv_used -= x->r->choices[i].n_generated;
    free(x);
    if (m->n_running == 0) {
        uv_idle_stop(&m->idle);
        uv_timer_stop(&m->timer);
    }
}

static void end_choice(struct mock *m, struct running *x, struct choice *c, enum finish why)
{
    struct request *r = x->r;
    const struct engine_listener *l = x->l;
    if (c->state == CHOICE_DONE) return;
    c->state = CHOICE_DONE;
    c->finish = why;
    r->finished_us = clock_now_us();
    bool is_last = --r->n_live == 0;
    if (is_last) forget(m, x);
    l->on_finish(r, c, is_last);
}

static void fail(struct mock *m, struct running *x)
{
    struct request *r = x->r;
    const struct engine_listener *l = x->l;
    for (uint32_t i = 0; i < r->n_choice; i++)
        r->choices[i].state = CHOICE_DONE;
    forget(m, x);
    l->on_error(r, ERR_LINK, "worker 2 was lost and could not be replaced", 4);
}

static int32_t next_id(const struct mock *m, const struct request *r, const struct choice *c)
{
    uint32_t i = c->n_generated;
    if (r->sampling.seed == MOCK_ECHO) return i < r->n_prompt ? r->prompt[i] : m->end_ids[0];
    if (i >= (m->config.say ? m->text.n : SAYS) && r->n_end) return m->end_ids[0];
    return m->text.at[i % m->text.n];
}

static bool is_end(const struct request *r, int32_t id)
{
    for (uint32_t i = 0; i < r->n_end; i++)
        if (r->end_ids[i] == id) return true;
    return false;
}

// Where the text has to be another than it would have been: the first that may come of what brings
// it to its end, or of all.
static int32_t allowed(const struct mock *m, const struct choice *c)
{
    static const char *const soon[] = {"\"", "}", "]", ":", ",", "0", "e"};
    struct idset_runs runs = {.set = c->mask, .len = c->n_mask};
    uint32_t from = 0, to;
    if (idset_has(c->mask, c->n_mask, (uint32_t)m->end_ids[0])) return m->end_ids[0];
    for (size_t i = 0; i < sizeof soon / sizeof *soon; i++) {
        struct ids ids = {0};
        bool ok = tokenizer_encode(m->tokenizer, soon[i], 1, 0, NULL, 0, 1, &ids) == OK && ids.n;
        const int32_t id = ok ? ids.at[0] : -1;
        ids_fini(&ids);
        if (ok && idset_has(c->mask, c->n_mask, (uint32_t)id)) return id;
    }
    idset_next(&runs, &from, &to);
    return (int32_t)from;
}

// One token of one choice; may end it, or the whole request.
static void step_choice(struct mock *m, struct running *x, struct choice *c)
{
    struct request *r = x->r;
    uint64_t seed = r->sampling.seed;
    if (seed == MOCK_FAIL_FIRST || (seed == MOCK_FAIL_LATER && c->n_generated == 3)) {
        fail(m, x);
        return;
    }
    if (seed == MOCK_NONFINITE && c->n_generated == 2) {
        end_choice(m, x, c, FINISH_ERROR);
        return;
    }
    int32_t id = next_id(m, r, c);
    if (c->mask && !idset_has(c->mask, c->n_mask, (uint32_t)id)) id = allowed(m, c);
    c->generated[c->n_generated++] = id;
    m->generated++;
    m->kv_used++;
    if (is_end(r, id)) {
        end_choice(m, x, c, FINISH_STOP);
        return;
    }
    struct token_prob top[STEP_LOGPROBS_MAX];
    struct step_item item = {.id = id, .logprob = -0.5f, .top = top};
    for (int32_t k = 0; k < r->sampling.n_logprobs; k++)
        top[item.n_top++] = (struct token_prob){.id = id + k, .logprob = -0.5f - (float)k};
    if (r->sampling.digest) item.digest = 0x1234000000000000u + c->n_generated;
    bool last = c->n_generated == r->max_tokens;
    const bool over = r->rules && r->rules->next(c, NULL) != OK;
    m->gone = NULL;
    x->l->on_token(r, c, &item);
    // The listener may have ended the choice, and the request with it.
    if (m->gone == r || c->state == CHOICE_DONE) return;
    if (over || last) end_choice(m, x, c, over ? FINISH_STOP : FINISH_LENGTH);
}

static void prefill(struct running *x, int64_t now)
{
    struct request *r = x->r;
    if (r->sampling.seed == MOCK_SLOW_PREFILL && now - r->admitted_us < PREFILL_US) {
        r->n_prefilled = (uint32_t)((now - r->admitted_us) * r->n_prompt / PREFILL_US);
        x->next_us = now + 50000;
        return;
    }
    r->n_prefilled = r->n_prompt;
    if (r->score_prompt) {
        float *s = calloc(r->n_prompt, sizeof *s);
        for (uint32_t i = 1; s && i < r->n_prompt; i++)
            s[i] = -(float)i;
        if (s && r->n_prompt > 1) x->l->on_scores(r, s + 1, 1, r->n_prompt - 1);
        free(s);
    }
    r->first_token_us = now;
    for (uint32_t i = 0; i < r->n_choice; i++)
        r->choices[i].state = CHOICE_DECODE;
}

// A vector that depends on the prompt and on the pooling, and that a test can compute.
static void give_vector(struct mock *m, struct running *x)
{
    struct request *r = x->r;
    float v[DIM];
    for (uint32_t k = 0; k < DIM; k++)
        v[k] = (float)(r->prompt[k % r->n_prompt] % 97 + (int32_t)k + (int32_t)r->pooling);
    x->l->on_vector(r, &r->choices[0], v, DIM);
    end_choice(m, x, &r->choices[0], FINISH_STOP);
}

static void step_request(struct mock *m, struct running *x, int64_t now)
{
    struct request *r = x->r;
    if (now < x->next_us || r->sampling.seed == MOCK_NEVER) return;
    if (!r->first_token_us) {
        prefill(x, now);
        return;
    }
    if (r->pooling) {
        give_vector(m, x);
        return;
    }
    if (r->sampling.seed == MOCK_SLOW) x->next_us = now + SLOW_US;
    uint32_t turns = m->config.per_turn ? m->config.per_turn : 1;
    uint32_t n = r->n_choice;
    for (uint32_t t = 0; t < turns; t++) {
        for (uint32_t i = 0; i < n; i++) {
            struct choice *c = &r->choices[i];
            if (c->state == CHOICE_DONE) continue;
            m->gone = NULL;
            step_choice(m, x, c);
            if (m->gone == r) return;
        }
    }
}

static void step(struct mock *m)
{
    int64_t now = clock_now_us();
    list_each(it, &m->running) step_request(m, list_item(it, struct running, node), now);
}

static void on_idle(uv_idle_t *h)
{
    step(h->data);
}

static void on_timer(uv_timer_t *t)
{
    step(t->data);
}

static err_t submit(struct engine *e, struct request *r, const struct engine_listener *l,
                    uint32_t *retry_after_s, struct err_text *why)
{
    struct mock *m = mock_of(e);
    uint32_t max = m->config.queue_max ? m->config.queue_max : 4096;
    if (r->sampling.seed == MOCK_BUSY || m->n_running >= max) {
        *retry_after_s = 7;
        return err_say(why, ERR_BUSY, "%u requests are waiting", max);
    }
    if (r->sampling.seed == MOCK_NO_CAPACITY) {
        *retry_after_s = 3;
        return err_say(why, ERR_CAPACITY, "no worker holds layers 4 to 8");
    }
    err_t err = OK;
    for (uint32_t i = 0; r->rules && i < r->n_choice && !err; i++)
        err = r->rules->next(&r->choices[i], why);
    if (err) return err_say(why, ERR_INVALID, "the answer cannot begin");
    struct running *x = calloc(1, sizeof *x);
    if (!x) return err_say(why, ERR_MEMORY, "out of memory");
    *x = (struct running){.r = r, .l = l};
    r->arrived_us = r->admitted_us = clock_now_us();
    r->n_cached = r->n_prompt / 2;
    list_push_back(&m->running, &x->node);
    m->n_running++;
    m->prompts++;
    m->kv_used += r->n_prompt;
    keep_stepping(m);
    return OK;
}

static struct running *find(struct mock *m, const struct request *r)
{
    list_each(it, &m->running)
    {
        struct running *x = list_item(it, struct running, node);
        if (x->r == r) return x;
    }
    return NULL;
}

static void finish(struct engine *e, struct choice *c, enum finish reason)
{
    struct mock *m = mock_of(e);
    struct running *x = find(m, c->req);
    BUG_ON(!x);
    end_choice(m, x, c, reason);
}

static void cancel(struct engine *e, struct request *r)
{
    struct mock *m = mock_of(e);
    struct running *x = find(m, r);
    BUG_ON(!x);
    uint32_t n = r->n_choice;
    for (uint32_t i = 0; i < n; i++) {
        struct choice *c = &r->choices[i];
        if (c->state == CHOICE_DONE) continue;
        bool last = r->n_live == 1;
        end_choice(m, x, c, FINISH_CANCELLED);
        if (last) return;
    }
}

static const struct engine_model *model(struct engine *e)
{
    struct mock *m = mock_of(e);
    return m->state == ENGINE_LOADING ? NULL : &m->model;
}

static enum engine_state state(struct engine *e, const char **reason)
{
    struct mock *m = mock_of(e);
    *reason = m->state == ENGINE_READY ? NULL : "the mock was told so";
    return m->state;
}

static void metrics(struct engine *e, struct buf *out)
{
    const struct mock *m = mock_of(e);
    buf_printf(out, "mock_running %u\nmock_kv_used %llu\nmock_generated_total %llu\n", m->n_running,
               (unsigned long long)m->kv_used, (unsigned long long)m->generated);
    buf_printf(out, "mock_requests_total %llu\n", (unsigned long long)m->prompts);
}

static void cluster(struct engine *e, struct buf *out)
{
    (void)e;
    buf_str(out, "{\"workers\":[]}");
}

static void experts(struct engine *e, struct buf *out)
{
    (void)e;
    buf_str(out, "{\"lanes\":[]}");
}

static err_t drain(struct engine *e, const char *name, uint32_t grace_s, struct err_text *why)
{
    (void)e, (void)grace_s;
    if (strcmp(name, "anna") == 0) return OK;
    return err_say(why, ERR_NOT_FOUND, "no worker or lane is called %s", name);
}

static const struct engine_ops ops = {.submit = submit,
                                      .finish = finish,
                                      .cancel = cancel,
                                      .model = model,
                                      .state = state,
                                      .metrics = metrics,
                                      .cluster = cluster,
                                      .experts = experts,
                                      .drain = drain};

static err_t read_template(struct mock *m, const char *path, struct err_text *why)
{
    struct buf source = {.max = TEMPLATE_SOURCE_MAX};
    char part[4096];
    size_t n;
    FILE *f = fopen(path, "r");
    if (!f) return err_say(why, ERR_SYSTEM, "cannot read %s", path);
    while ((n = fread(part, 1, sizeof part, f)) > 0)
        buf_add(&source, part, n);
    fclose(f);
    err_t err = template_open(source.data ? source.data : "", source.len, &m->template, why);
    buf_fini(&source);
    return err;
}

static void fill_model(struct mock *m)
{
    uint32_t n = 0;
    for (int32_t id = 0; id < tokenizer_n_vocab(m->tokenizer) && n < 16; id++)
        if (tokenizer_is_end(m->tokenizer, id)) m->end_ids[n++] = id;
    size_t len;
    int32_t bos = tokenizer_bos(m->tokenizer), eos = tokenizer_eos(m->tokenizer);
    m->model = (struct engine_model){
        .id = "mock/tiny-1",
        .aliases = m->config.aliases,
        .created_s = 1700000000,
        .file = "tiny-1.gguf",
        .n_slot = 8,
        .ctx = m->config.ctx ? m->config.ctx : 4096,
        .tokenizer = m->tokenizer,
        .template = m->template,
        .format = m->template ? template_turn(m->template) : turn_format_named("none"),
        .grammars = grammar_book_new(m->tokenizer),
        .bos = bos < 0 ? "" : tokenizer_piece(m->tokenizer, bos, true, &len),
        .eos = eos < 0 ? "" : tokenizer_piece(m->tokenizer, eos, true, &len),
        .end_ids = m->end_ids,
        .n_end = n,
        .dim = DIM,
        .pooling = POOLING_LAST,
    };
}

err_t mock_engine_open(uv_loop_t *loop, const struct mock_config *c, struct engine **out,
                       struct err_text *why)
{
    struct mock *m = calloc(1, sizeof *m);
    if (!m) return err_say(why, ERR_MEMORY, "out of memory");
    m->engine.ops = &ops;
    m->config = *c;
    m->state = ENGINE_READY;
    list_init(&m->running);
    err_t err = gguf_open(c->vocab, &m->gguf, why);
    if (!err) err = tokenizer_open(m->gguf, &m->tokenizer, why);
    if (!err && c->chat_template) err = read_template(m, c->chat_template, why);
    if (!err)
        err = tokenizer_encode(m->tokenizer, c->say ? c->say : MOCK_TEXT,
                               strlen(c->say ? c->say : MOCK_TEXT), TOKENIZER_SPECIAL, NULL, 0,
                               4096, &m->text);
    if (err) {
        template_close(m->template);
        grammar_book_free(m->model.grammars);
        tokenizer_close(m->tokenizer);
        gguf_close(m->gguf);
        free(m);
        return err;
    }
    fill_model(m);
    uv_idle_init(loop, &m->idle);
    uv_timer_init(loop, &m->timer);
    m->idle.data = m->timer.data = m;
    m->n_handle = 2;
    *out = &m->engine;
    return OK;
}

void mock_engine_set_state(struct engine *e, enum engine_state s)
{
    mock_of(e)->state = s;
}

uint32_t mock_engine_n_running(const struct engine *e)
{
    return mock_of(e)->n_running;
}

static void on_closed(uv_handle_t *h)
{
    struct mock *m = h->data;
    if (--m->n_handle > 0) return;
    template_close(m->template);
    grammar_book_free(m->model.grammars);
    tokenizer_close(m->tokenizer);
    gguf_close(m->gguf);
    ids_fini(&m->text);
    free(m);
}

void mock_engine_close(struct engine *e)
{
    struct mock *m = mock_of(e);
    BUG_ON(m->n_running > 0);
    uv_close((uv_handle_t *)&m->idle, on_closed);
    uv_close((uv_handle_t *)&m->timer, on_closed);
}
