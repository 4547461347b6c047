#include "worker/head.h"
#include "worker/layer.h"

#include <float.h>
#include <math.h>
#include <string.h>

static const float LOGIT_MAX = 1e30f;

void head_carve(struct head *h, const struct model_shape *shape, const struct plan_settings *s,
                struct mem_plan *plan)
{
    struct mem_carver *carver = &plan->kernels, *host = &plan->host;
    const uint64_t dim = (uint64_t)shape->dim, most = plan->is_one ? HEAD_BLOCK : HEAD_BLOCK_DEVICE;
    const uint64_t n_vocab = (uint64_t)shape->n_vocab;
    h->shape = shape;
    h->settings = s;
    h->block = s->max_tok < most ? s->max_tok : (uint32_t)most;
    h->wants = mem_carve(host, h->block, sizeof *h->wants);
    h->h = mem_carve(carver, h->block * dim, sizeof(float));
    h->ordered = mem_carve(carver, h->block * dim, sizeof(float));
    h->logits = mem_carve(carver, h->block * n_vocab, sizeof(float));
    if (!h->is_lead) return;
    h->h_seen = mem_mirror(plan, h->h, h->block * dim, sizeof(float));
    h->row_seen = plan->is_one ? NULL : mem_carve(host, n_vocab, sizeof(float));
    h->finite = mem_carve(host, h->block, sizeof *h->finite);
    h->best = mem_carve(host, h->block, sizeof *h->best);
    h->lse = mem_carve(host, h->block, sizeof *h->lse);
    h->slots = mem_carve(host, s->n_slot, sizeof *h->slots);
    pooler_carve(&h->pooler, s->n_slot, shape->dim, host);
    h->bias = mem_carve(host, (uint64_t)s->n_slot * STEP_BIAS_MAX, sizeof *h->bias);
    h->adjusted = mem_carve(host, n_vocab, sizeof(float));
    h->cands = mem_carve(host, n_vocab, sizeof *h->cands);
    if (!plan->is_one) head_short_carve(&h->told, shape->n_vocab, host);
}

void head_reset(struct head *h)
{
    memset(h->slots, 0, h->settings->n_slot * sizeof *h->slots);
    memset(h->pooler.slots, 0, h->settings->n_slot * sizeof *h->pooler.slots);
}

// -- what a slot holds --

static err_t check_ids(const struct head *h, const int32_t *ids, uint32_t n, struct err_text *why)
{
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= h->shape->n_vocab)
            return err_say(why, ERR_LINK_PROTOCOL, "step: id %d in a history, vocabulary is %d",
                           ids[i], h->shape->n_vocab);
    return OK;
}

// Written so that NaN fails.
static bool in_range(float v, float min, float max)
{
    return v >= min && v <= max;
}

err_t head_check_bind(const struct head *h, const struct step_bind *b, struct err_text *why)
{
    const struct sampling *s = &b->sampling;
    const bool ok = in_range(s->temperature, 0, 2) && in_range(s->top_p, 0, 1) && s->top_p > 0 &&
                    in_range(s->min_p, 0, 1) && in_range(s->presence, -2, 2) &&
                    in_range(s->frequency, -2, 2) && s->repetition > 0 && isfinite(s->repetition) &&
                    s->top_k >= 0 && s->n_logprobs >= -1 && s->n_logprobs <= STEP_LOGPROBS_MAX &&
                    s->n_bias <= STEP_BIAS_MAX;
    if (!ok) return err_say(why, ERR_LINK_PROTOCOL, "step: bad sampling for slot %u", b->slot);
    if (b->n_history > h->settings->ctx)
        return err_say(why, ERR_LINK_PROTOCOL, "step: history of %u tokens, context is %u",
                       b->n_history, h->settings->ctx);
    for (uint32_t i = 0; i < s->n_bias; i++)
        if (s->bias[i].id < 0 || s->bias[i].id >= h->shape->n_vocab)
            return err_say(why, ERR_LINK_PROTOCOL, "step: bias for id %d, vocabulary is %d",
                           s->bias[i].id, h->shape->n_vocab);
    return check_ids(h, b->history, b->n_history, why);
}

err_t head_check_chain(const struct head *h, const struct step_row *r, struct err_text *why)
{
    if (h->slots[r->slot].drawn_step == r->from_step) return OK;
    return err_say(why, ERR_LINK_PROTOCOL, "step: slot %u drew nothing in step %llu", r->slot,
                   (unsigned long long)r->from_step);
}

err_t head_check_mask(const struct head *h, const struct step_row *r, struct err_text *why)
{
    const bool draws = (r->flags & (ROW_SAMPLE | ROW_CHAIN)) == ROW_SAMPLE;
    if (draws && idset_ok(r->mask, r->n_mask, (uint32_t)h->shape->n_vocab)) return OK;
    return err_say(why, ERR_LINK_PROTOCOL, "step: bad mask for slot %u", r->slot);
}

void head_bind(struct head *h, const struct step_bind *b)
{
    struct head_slot *s = &h->slots[b->slot];
    struct logit_bias *bias = h->bias + (uint64_t)b->slot * STEP_BIAS_MAX;
    *s = (struct head_slot){.sampling = b->sampling, .n_prompt = b->n_prompt};
    if (b->sampling.n_bias) memcpy(bias, b->sampling.bias, b->sampling.n_bias * sizeof *bias);
    s->sampling.bias = bias;
    s->counts = sampling_is_penalised(&b->sampling);
    pooler_bind(&h->pooler, b);
    penalty_clear(&h->penalty, b->slot);
    for (uint32_t i = 0; s->counts && i < b->n_history; i++)
        penalty_add(&h->penalty, b->slot, b->history[i], i >= b->n_prompt);
}

// Tokens are counted when they pass, known or chained alike, so each is counted once.
static void count_tokens(struct head *h, const struct step_row *r)
{
    const struct head_slot *s = &h->slots[r->slot];
    for (uint32_t i = 0; s->counts && i < r->n_tok; i++)
        penalty_add(&h->penalty, r->slot, r->ids ? r->ids[i] : s->drawn_id,
                    r->pos + i >= s->n_prompt);
}

// -- from a row of logits to an item --

// A row of the block's logits, on the host.
static const float *row_of(struct head *h, uint32_t i)
{
    const uint64_t n = (uint64_t)h->shape->n_vocab;
    const float *logits = h->logits + i * n;
    if (!h->row_seen) return logits;
    h->k->ops->get(h->k, h->row_seen, logits, n * sizeof *logits);
    return h->row_seen;
}

// One number of them.
static float logit_of(struct head *h, uint32_t i, int32_t id)
{
    const float *at = h->logits + (int64_t)i * h->shape->n_vocab + id;
    float v = 0;
    h->k->ops->get(h->k, &v, at, sizeof v);
    return v;
}

// Whatever bias and penalties do, logits stay numbers that can be subtracted from one another.
float head_in_range(float logit)
{
    if (!(logit >= -LOGIT_MAX)) return -LOGIT_MAX;
    return logit > LOGIT_MAX ? LOGIT_MAX : logit;
}

bool head_is_adjusted(const struct head_slot *s, const struct step_row *r)
{
    return s->counts || s->sampling.n_bias || r->mask;
}

bool head_is_greedy(const struct head *h, const struct head_want *w)
{
    const struct head_slot *s = &h->slots[w->row->slot];
    return s->sampling.temperature == 0 && !head_is_adjusted(s, w->row);
}

bool head_draws(const struct head_want *w)
{
    return w->row->flags & ROW_SAMPLE && w->tok + 1 == w->row->n_tok;
}

void head_adjust(const struct head *h, const struct head_slot *s, const struct step_row *r,
                 float *logits)
{
    for (uint32_t i = 0; i < s->sampling.n_bias; i++)
        logits[s->sampling.bias[i].id] += s->sampling.bias[i].bias;
    if (s->counts) penalty_apply(&h->penalty, r->slot, &s->sampling, logits);
}

static int32_t choose(struct head *h, const struct head_slot *s, const struct step_row *r,
                      const float *logits)
{
    const int32_t n_vocab = h->shape->n_vocab;
    if (head_is_adjusted(s, r)) {
        memcpy(h->adjusted, logits, (size_t)n_vocab * sizeof *logits);
        head_adjust(h, s, r, h->adjusted);
        for (int32_t i = 0; i < n_vocab; i++)
            h->adjusted[i] = head_in_range(h->adjusted[i]);
        if (r->mask) sample_mask(h->adjusted, n_vocab, r->mask, r->n_mask);
        logits = h->adjusted;
    }
    if (s->sampling.temperature == 0) return sample_best(logits, n_vocab);
    return sample_draw(logits, n_vocab, &s->sampling, r->pos + r->n_tok, h->cands);
}

// Log p of an id. Logits at both ends of a float's range differ by more than a float holds, and a
// result holds finite numbers only.
static float logprob_of(float logit, double lse)
{
    const double p = (double)logit - lse;
    return p < -(double)FLT_MAX ? -FLT_MAX : (float)p;
}

// The n most likely ids of row i of the block; logits: the row, NULL: it is with the backend.
static void most_likely(const struct head *h, uint32_t i, const float *logits, uint32_t n,
                        struct token_prob *out)
{
    const struct top_row *top = h->wants[i].top;
    if (logits) sample_top(logits, h->shape->n_vocab, n, out);
    for (uint32_t k = 0; k < n && !logits; k++)
        out[k] = (struct token_prob){.id = top->id[k], .logprob = top->value[k]};
}

// logits: row i of the block, if the host has to see it; else NULL.
static err_t sample(struct head *h, const struct step *st, uint32_t i, const float *logits,
                    struct arena *arena)
{
    struct drawn drawn = {0};
    const struct head_want *w = &h->wants[i];
    struct head_slot *s = &h->slots[w->row->slot];
    struct step_item *item = w->item;
    const int32_t n_vocab = h->shape->n_vocab;
    const bool is_drawn = w->top && !logits && head_short_draw(h, i, &drawn);
    if (w->top && !logits && !is_drawn) logits = row_of(h, i);
    if (head_is_greedy(h, w) || !h->finite[i])
        item->id = h->best[i] >= 0 && h->best[i] < n_vocab ? h->best[i] : 0;
    else if (is_drawn)
        item->id = drawn.id;
    else
        item->id = item->nonfinite ? sample_best(logits, n_vocab) : choose(h, s, w->row, logits);
    if (s->sampling.digest) item->digest = sample_digest(logits, n_vocab);
    s->drawn_step = st->number;
    s->drawn_id = item->id;
    if (s->sampling.n_logprobs < 0 || item->nonfinite) return OK;

    const double lse = h->lse[i];
    item->logprob = logprob_of(logits ? logits[item->id] : drawn.logit, lse);
    const uint32_t n = (uint32_t)s->sampling.n_logprobs,
                   n_top = n < (uint32_t)n_vocab ? n : (uint32_t)n_vocab;
    struct token_prob *top = arena_take_n(arena, n_top, sizeof *top);
    if (!top) return ERR_MEMORY;
    most_likely(h, i, logits, n_top, top);
    for (uint32_t k = 0; k < n_top; k++)
        top[k].logprob = logprob_of(top[k].logprob, lse);
    item->top = top;
    item->n_top = n_top;
    return OK;
}

static void score(struct head *h, uint32_t i)
{
    const struct head_want *w = &h->wants[i];
    if (w->tok >= w->item->n_score) return;
    const int32_t next = w->tok + 1 < w->row->n_tok ? w->row->ids[w->tok + 1] : w->row->next_id;
    // The flag tells that these mean nothing.
    w->scores[w->tok] = w->item->nonfinite ? 0 : logprob_of(logit_of(h, i, next), h->lse[i]);
}

void head_logits(struct head *h, const float *x, int32_t n, float *logits)
{
    const struct kernels_ops *op = h->k->ops;
    const struct model_shape *s = h->shape;
    const int64_t all = (int64_t)n * s->n_vocab;
    const struct share_range mine = pass_mine(h->pass, CUT_VOCAB);
    const struct projection out = {.w = &h->matrix,
                                   .bias = h->matrix_bias,
                                   .y = logits + mine.from,
                                   .rows = mine.to - mine.from,
                                   .ld = s->n_vocab};
    layer_project(h->k, h->ordered, x, n, s->dim, &out, 1);
    if (pass_gathers(h->pass)) {
        struct group *g = h->pass->group;
        float *road = layer_fetch(h->pass, logits, all);
        g->ops->gather(g, road, n, s->n_vocab, h->pass->cut[CUT_VOCAB], 0);
        if (h->is_lead) layer_return(h->pass, logits, all);
    }
    if (!h->is_lead) return;
    if (s->logit_scale != 1) op->scale(h->k, logits, s->logit_scale, all);
    if (s->logit_softcap > 0) op->softcap(h->k, logits, s->logit_softcap, all);
}

// h (n, dim) = norm(x)
static void norm(struct head *h, const float *x, uint32_t n, float *out)
{
    h->k->ops->rms_norm(h->k, x, h->norm, n, h->shape->dim, h->shape->norm_eps, out);
}

// Norm and output matrix for the tokens wanted so far, of x (n_tok, dim); those that follow each
// other are normed at once.
static void compute(struct head *h, const float *x, uint32_t n)
{
    const int64_t dim = h->shape->dim;
    for (uint32_t i = 0, k; i < n; i += k) {
        for (k = 1; i + k < n && h->wants[i + k].at == h->wants[i].at + k;)
            k++;
        norm(h, x + h->wants[i].at * dim, k, h->h + i * dim);
    }
    head_logits(h, h->h, (int32_t)n, h->logits);
}

bool head_is_ahead(const struct head *h, const struct step *st)
{
    bool all = st->n_row <= h->block;
    for (uint32_t i = 0; i < st->n_row; i++) {
        const uint32_t kinds = ROW_SAMPLE | ROW_SCORE | ROW_POOL;
        all &= st->rows[i].n_tok == 1 && (st->rows[i].flags & kinds) == ROW_SAMPLE;
    }
    return all;
}

void head_ahead(struct head *h, const float *x, uint32_t n_row)
{
    norm(h, x, n_row, h->h);
    head_logits(h, h->h, (int32_t)n_row, h->logits);
}

// Whether the host has to see a row of logits.
static bool is_seen(const struct head *h, const struct head_want *w)
{
    const struct sampling *s = &h->slots[w->row->slot].sampling;
    return head_draws(w) && !w->top && (!head_is_greedy(h, w) || s->digest || s->n_logprobs >= 0);
}

static bool needs_best(const struct head *h, uint32_t i)
{
    const struct head_want *w = &h->wants[i];
    return head_draws(w) && (head_is_greedy(h, w) || !h->finite[i]);
}

static bool needs_lse(const struct head *h, uint32_t i)
{
    const struct head_want *w = &h->wants[i];
    return w->row->flags & ROW_SCORE ||
           (head_draws(w) && h->slots[w->row->slot].sampling.n_logprobs >= 0);
}

// Of the block's n rows of logits, what the backend can say. Rows of a kind that lie together are
// asked about at once.
static void reduce(struct head *h, uint32_t n)
{
    const struct kernels_ops *op = h->k->ops;
    const int64_t n_vocab = h->shape->n_vocab;
    op->finite(h->k, h->logits, (int32_t)n, n_vocab, h->finite);
    for (uint32_t i = 0, k; i < n; i += k) {
        for (k = 0; i + k < n && needs_best(h, i + k);)
            k++;
        if (k) op->argmax(h->k, h->logits + i * n_vocab, (int32_t)k, n_vocab, h->best + i);
        k += !k;
    }
    for (uint32_t i = 0, k; i < n; i += k) {
        for (k = 0; i + k < n && needs_lse(h, i + k);)
            k++;
        if (k) op->logsumexp(h->k, h->logits + i * n_vocab, (int32_t)k, n_vocab, h->lse + i);
        k += !k;
    }
}

// The items of the tokens wanted so far.
static err_t flush(struct head *h, const struct step *st, uint32_t n, const float *x,
                   struct arena *arena)
{
    if (n == 0) return OK;
    if (!h->is_ahead) compute(h, x, n);
    if (!h->is_lead) return OK;
    reduce(h, n);
    for (uint32_t i = 0, asked = 0; i < n; i++) {
        if (i == asked) asked += head_short_ask(h, i, n);
        const struct head_want *w = &h->wants[i];
        const float *logits = h->tap || is_seen(h, w) ? row_of(h, i) : NULL; // (n_vocab)
        if (h->tap) h->tap(h->tap_arg, w->index, w->tok, logits);
        w->item->nonfinite |= !h->finite[i];
        if (w->row->flags & ROW_SCORE) score(h, i);
        if (head_draws(w)) {
            err_t e = sample(h, st, i, logits, arena);
            if (e) return e;
        }
    }
    return OK;
}

static err_t new_item(const struct step_row *r, uint32_t index, struct arena *arena,
                      struct step_item *item, float **scores)
{
    *item = (struct step_item){.row = index, .slot = r->slot, .id = -1};
    *scores = NULL;
    if (!(r->flags & ROW_SCORE)) return OK;
    item->n_score = r->n_tok - 1 + (r->next_id >= 0);
    *scores = arena_take_n(arena, item->n_score, sizeof **scores);
    item->scores = *scores;
    return *scores ? OK : ERR_MEMORY;
}

// x (n_tok, dim) of the row
static err_t pool_row(struct head *h, const struct step_row *r, const float *x,
                      struct step_item *item, struct arena *arena)
{
    const size_t dim = (size_t)h->shape->dim;
    const struct pooler_part part = pooler_take(&h->pooler, r);
    for (uint32_t i = part.from, n; i < part.to; i += n) {
        n = part.to - i < h->block ? part.to - i : h->block;
        norm(h, x + i * dim, n, h->h);
        if (h->h_seen != h->h) h->k->ops->get(h->k, h->h_seen, h->h, n * dim * sizeof *x);
        pooler_add(&h->pooler, r->slot, h->h_seen, n);
    }
    if (!(r->flags & ROW_POOL)) return OK;
    float *vector = arena_take_n(arena, dim, sizeof *vector);
    if (!vector) return ERR_MEMORY;
    item->nonfinite = !pooler_give(&h->pooler, r->slot, vector);
    item->vector = vector;
    item->n_vector = (uint32_t)dim;
    return OK;
}

// Hidden states that become vectors; the block's rows are free for it.
static err_t pool(struct head *h, const struct step *st, const float *x, struct step_item *items,
                  struct arena *arena)
{
    for (uint32_t i = 0; i < st->n_row; i++) {
        const struct step_row *r = &st->rows[i];
        err_t e = pool_row(h, r, x, items, arena);
        if (e) return e;
        items += (r->flags & (ROW_SAMPLE | ROW_SCORE | ROW_POOL)) != 0;
        x += (size_t)h->shape->dim * r->n_tok;
    }
    return OK;
}

int32_t head_wanted(const struct head *h, const struct step *st, int32_t *tokens)
{
    int32_t n = 0, at = 0;
    for (uint32_t i = 0; i < st->n_row; i++) {
        const struct step_row *r = &st->rows[i];
        struct pooler_part part = pooler_part_of(&h->pooler, r);
        if (r->flags & (ROW_SAMPLE | ROW_SCORE)) {
            const uint32_t from = r->flags & ROW_SCORE ? 0 : r->n_tok - 1;
            part.from = part.from < from && part.from < part.to ? part.from : from;
            part.to = r->n_tok;
        }
        for (uint32_t j = part.from; j < part.to; j++)
            tokens[n++] = at + (int32_t)j;
        at += (int32_t)r->n_tok;
    }
    return n;
}

err_t head_run(struct head *h, const struct step *st, const float *x, struct arena *arena,
               struct step_result *out)
{
    struct step_item *items = h->is_lead ? arena_take_n(arena, st->n_row, sizeof *items) : NULL;
    if (h->is_lead && !items) return ERR_MEMORY;
    uint32_t n_item = 0, n = 0, at = 0;
    for (uint32_t i = 0; i < st->n_row; at += st->rows[i].n_tok, i++) {
        const struct step_row *r = &st->rows[i];
        if (h->is_lead) count_tokens(h, r);
        if (!(r->flags & (ROW_SAMPLE | ROW_SCORE | ROW_POOL))) continue;
        struct head_want want = {.row = r, .index = i};
        err_t e = OK;
        if (h->is_lead) {
            want.item = &items[n_item++];
            e = new_item(r, i, arena, want.item, &want.scores);
        }
        if (e) return e;
        if (r->flags & ROW_POOL) continue;
        for (want.tok = r->flags & ROW_SCORE ? 0 : r->n_tok - 1; want.tok < r->n_tok; want.tok++) {
            want.at = at + want.tok;
            h->wants[n++] = want;
            if (n < h->block) continue;
            e = flush(h, st, n, x, arena);
            if (e) return e;
            n = 0;
        }
    }
    err_t e = flush(h, st, n, x, arena);
    if (!e && h->is_lead) e = pool(h, st, x, items, arena);
    if (e) return e;
    if (out)
        *out = (struct step_result){
            .epoch = st->epoch, .number = st->number, .items = items, .n_item = n_item};
    return OK;
}
