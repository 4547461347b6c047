#include "coordinator/door/rules.h"
#include "coordinator/text/stream.h"
#include "proto/base/idset.h"

#include <stdlib.h>
#include <string.h>

enum { CLOSE_MAX = 64 }; // tokens

struct idset {
    const uint8_t *set;
    size_t len;
};

// In the request's arena.
struct ruled {
    struct rules_want want;
    struct idset close[CLOSE_MAX]; // what ends the thoughts: one after the other
    uint32_t n_close;              // 0: no budget
    struct idset early, late;      // ids before and from min_tokens on; len 0: all
    struct follower *followers;    // (n_choice)
};

// A choice on its way.
struct follower {
    struct grammar_state *state;
    struct stream stream;
    struct turn turn;
    struct buf text; // scratch
    uint64_t *bits;  // scratch of meet: two sets
    uint8_t *met;    // a mask, or NULL until it is needed
    int64_t n_thought;
    uint32_t at; // of the close: forced so far; 0: none
    bool is_new;
};

// -- budgets --

static void ignore(void *arg, const struct turn_event *e)
{
    (void)arg, (void)e;
}

static uint32_t n_vocab_of(const struct rules_want *w)
{
    return (uint32_t)tokenizer_n_vocab(w->tokenizer);
}

static void set_bit(uint64_t *bits, int32_t id, bool value)
{
    const uint64_t bit = 1ull << id % 64;
    bits[id / 64] = value ? bits[id / 64] | bit : bits[id / 64] & ~bit;
}

static bool pack_bits(struct arena *a, uint32_t n_vocab, const uint64_t *bits, struct idset *out)
{
    uint8_t *set = malloc(idset_bound(n_vocab));
    out->len = set ? idset_pack(bits, n_vocab, set) : 0;
    out->set = out->len ? arena_copy(a, set, out->len) : NULL;
    free(set);
    return out->set;
}

static bool pack(struct arena *a, const struct rules_want *w, const int32_t *ids, size_t n,
                 struct idset *out)
{
    uint64_t *bits = calloc(n_vocab_of(w) / 64 + 1, sizeof *bits);
    for (size_t i = 0; bits && i < n; i++)
        set_bit(bits, ids[i], true);
    const bool ok = bits && pack_bits(a, n_vocab_of(w), bits, out);
    free(bits);
    return ok;
}

static bool encode(const struct rules_want *w, const char *text, struct ids *out)
{
    return tokenizer_encode(w->tokenizer, text, strlen(text), TOKENIZER_SPECIAL, NULL, 0,
                            out->n + strlen(text) + 1, out) == OK;
}

// Where analysis may not follow.
static bool pack_channels(struct arena *a, const struct rules_want *w, struct idset *out)
{
    static const char *const names[] = {"final", "commentary"};
    int32_t first[2];
    size_t n = 0;
    for (size_t i = 0; i < (w->tools ? 2 : 1); i++) {
        struct ids ids = {0};
        if (encode(w, names[i], &ids) && ids.n) first[n++] = ids.at[0];
        ids_fini(&ids);
    }
    return n && pack(a, w, first, n, out);
}

// A format without thoughts has nothing to close.
static bool make_close(struct arena *a, struct ruled *r)
{
    const struct rules_want *w = &r->want;
    const bool harmony = w->format->name_kind == TURN_NAME_HEADER;
    const char *close = harmony ? "<|end|><|start|>assistant<|channel|>" : w->format->think_close;
    struct ids ids = {0};
    uint32_t n = 0;
    if (!close || (uint32_t)tokenizer_n_vocab(w->tokenizer) > IDSET_IDS_MAX) return true;
    bool ok = encode(w, close, &ids) && ids.n < CLOSE_MAX;
    for (size_t i = 0; ok && i < ids.n; i++)
        ok = pack(a, w, &ids.at[i], 1, &r->close[n++]);
    if (ok && harmony) ok = pack_channels(a, w, &r->close[n++]);
    ids_fini(&ids);
    r->n_close = ok ? n : 0;
    return ok;
}

static void count(const struct ruled *r, struct follower *f, int32_t id)
{
    stream_push(&f->stream, id, &f->text);
    if (f->text.len) turn_push(&f->turn, f->text.data, f->text.len);
    buf_clear(&f->text);
    f->n_thought += f->turn.state == TURN_IN_THINK;
    if (f->at == r->n_close) f->at = 0;
}

// The answer has begun, or a call.
static bool has_begun(const struct turn *t)
{
    return t->had_text || t->n_call || t->state == TURN_IN_ARGS || t->state == TURN_IN_NAME;
}

// What must come, if anything must; what the grammar lets through otherwise.
static void force(const struct ruled *r, struct follower *f, struct choice *c)
{
    const bool thinks = f->turn.state == TURN_IN_THINK;
    // Where a row could be chained to the last one, its id is drawn already.
    const bool is_over = thinks && f->n_thought >= r->want.budget && !c->may_chain;
    const bool is_free = !thinks && has_begun(&f->turn);
    const bool closes = f->at || is_over;
    c->may_chain = !r->want.grammar && !closes && (is_free || f->n_thought + 1 < r->want.budget);
    if (!closes) return;
    const struct idset *close = &r->close[f->at];
    struct idset_runs runs = {.set = close->set, .len = close->len};
    uint32_t from, to;
    while (c->mask && idset_next(&runs, &from, &to))
        for (; from < to; from++)
            if (!idset_has(c->mask, c->n_mask, from)) return; // the grammar has another way
    c->mask = close->set;
    c->n_mask = (uint32_t)close->len;
    f->at++;
}

// -- ids that are allowed, and ends that come too early --

static bool make_allowed(struct request *req, struct ruled *r)
{
    const struct rules_want *w = &r->want;
    const struct json *list = w->allowed;
    const uint32_t n_vocab = n_vocab_of(w);
    const bool is_early = w->min_tokens && req->n_end;
    if (!list && !is_early) return true;
    uint64_t *bits = calloc(n_vocab / 64 + 1, sizeof *bits);
    if (!bits) return false;
    for (uint32_t i = 0; !list && i < n_vocab; i++)
        set_bit(bits, (int32_t)i, true);
    for (size_t i = 0; list && i < list->arr.n; i++)
        set_bit(bits, (int32_t)list->arr.items[i].i, true);
    bool ok = !list || pack_bits(&req->arena, n_vocab, bits, &r->late);
    for (uint32_t i = 0; i < req->n_end && is_early; i++)
        set_bit(bits, req->end_ids[i], false);
    bool any = false;
    for (uint32_t i = 0; i <= n_vocab / 64; i++)
        any |= bits[i] != 0;
    // Where only ends are allowed, one of them it is.
    if (ok && is_early && any) ok = pack_bits(&req->arena, n_vocab, bits, &r->early);
    if (!r->early.len) r->early = r->late;
    free(bits);
    return ok;
}

static void fill(const uint8_t *set, size_t len, uint64_t *bits)
{
    struct idset_runs runs = {.set = set, .len = len};
    uint32_t from, to;
    while (idset_next(&runs, &from, &to))
        for (; from < to; from++)
            set_bit(bits, (int32_t)from, true);
}

// The choice's mask without what is not in the set, unless nothing were left. False: no memory.
static bool meet(const struct ruled *r, struct follower *f, struct choice *c,
                 const struct idset *set)
{
    const uint32_t n_vocab = n_vocab_of(&r->want), n_word = n_vocab / 64 + 1;
    bool any = false;
    if (!f->bits) f->bits = malloc(2 * n_word * sizeof *f->bits);
    if (!f->met) f->met = malloc(idset_bound(n_vocab));
    if (!f->bits || !f->met) return false;
    memset(f->bits, 0, 2 * n_word * sizeof *f->bits);
    fill(c->mask, c->n_mask, f->bits);
    fill(set->set, set->len, f->bits + n_word);
    for (uint32_t i = 0; i < n_word; i++)
        any |= (f->bits[i] &= f->bits[n_word + i]) != 0;
    if (!any) return true;
    c->n_mask = (uint32_t)idset_pack(f->bits, n_vocab, f->met);
    c->mask = f->met;
    return true;
}

static const struct idset *allowed(const struct ruled *r, uint32_t n_generated)
{
    return n_generated < r->want.min_tokens ? &r->early : &r->late;
}

static bool apply_allowed(const struct ruled *r, struct follower *f, struct choice *c)
{
    const struct idset *set = allowed(r, c->n_generated);
    if (!set->len) return true;
    if (c->mask) return meet(r, f, c, set);
    c->mask = set->set;
    c->n_mask = (uint32_t)set->len;
    return true;
}

// -- following --

// A failure of the grammar is the request's, not the server's.
static err_t of_request(err_t err)
{
    return err == ERR_TOO_LARGE || err == ERR_UNSUPPORTED ? ERR_INVALID : err;
}

static err_t begin(struct choice *c, struct err_text *why)
{
    struct ruled *r = c->req->ruled;
    struct follower *f = &r->followers[c->index];
    const struct rules_want *w = &r->want;
    const struct turn_config turn = {.format = w->format,
                                     .tools = w->tools,
                                     .prompt = w->tail,
                                     .prompt_len = w->tail_len,
                                     .sink = ignore};
    if (w->grammar) f->state = grammar_begin(w->grammar, w->tight_start);
    if (w->grammar && !f->state)
        return err_say(why, ERR_MEMORY, "no memory to follow the answer's grammar");
    c->ruled = f;
    f->is_new = true;
    if (!r->n_close) return OK;
    stream_init(&f->stream, w->tokenizer, NULL, 0, true);
    f->stream.marks = w->format;
    turn_init(&f->turn, &turn);
    return OK;
}

static err_t next(struct choice *c, struct err_text *why)
{
    const struct ruled *r = c->req->ruled;
    err_t err = c->ruled ? OK : begin(c, why);
    if (err) return err;
    struct follower *f = c->ruled;
    for (uint32_t i = f->is_new ? 0 : c->n_generated - 1; i < c->n_generated && !err; i++) {
        if (f->state) err = grammar_advance(f->state, c->generated[i], why);
        if (r->n_close) count(r, f, c->generated[i]);
    }
    f->is_new = false;
    size_t len = 0;
    c->mask = NULL;
    if (!err && f->state) err = grammar_mask(f->state, &c->mask, &len, why);
    c->n_mask = (uint32_t)len;
    if (!err && !apply_allowed(r, f, c)) err = err_say(why, ERR_MEMORY, "no memory for a mask");
    if (!err && r->n_close)
        force(r, f, c);
    else
        c->may_chain = !r->want.grammar;
    c->may_chain = c->may_chain && !allowed(r, c->n_generated + 1)->len;
    return of_request(err);
}

static void gone(struct request *req)
{
    struct ruled *r = req->ruled;
    for (uint32_t i = 0; i < req->n_choice; i++) {
        struct follower *f = &r->followers[i];
        grammar_end(f->state);
        stream_fini(&f->stream);
        turn_fini(&f->turn);
        buf_fini(&f->text);
        free(f->bits);
        free(f->met);
    }
    grammar_give(r->want.grammar);
}

bool rules_request(struct request *r, const struct rules_want *w)
{
    static const struct request_rules rules = {.next = next, .free = gone};
    if (!w->grammar && w->budget < 0 && !w->min_tokens && !w->allowed) return true;
    struct ruled *ruled = arena_take(&r->arena, sizeof *ruled);
    if (!ruled) return false;
    ruled->want = *w;
    ruled->followers = arena_take_n(&r->arena, r->n_choice, sizeof *ruled->followers);
    if (!ruled->followers || (w->budget >= 0 && !make_close(&r->arena, ruled)) ||
        !make_allowed(r, ruled))
        return false;
    ruled->want.allowed = NULL; // of the body
    if (!w->grammar && !ruled->n_close && !ruled->early.len) return true;
    if (w->grammar) grammar_take(w->grammar);
    r->rules = &rules;
    r->ruled = ruled;
    return true;
}
