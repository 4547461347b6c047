#include "worker/head.h"
#include "worker/layer.h"

#include <float.h>
#include <math.h>
#include <string.h>

static const float LOGIT_MAX = 1e30f;

void head_carve(struct head *h, const struct model_shape *shape, const struct plan_settings *s,
                struct mem_carver *carver)
{
    const uint64_t n_vocab = (uint64_t)shape->n_vocab;
    h->shape = shape;
    h->settings = s;
    h->block = s->max_tok < HEAD_BLOCK ? s->max_tok : HEAD_BLOCK;
    h->wants = mem_carve(carver, h->block, sizeof *h->wants);
    h->h = mem_carve(carver, (uint64_t)h->block * (uint64_t)shape->dim, sizeof(float));
    h->ordered = mem_carve(carver, (uint64_t)h->block * (uint64_t)shape->dim, sizeof(float));
    h->logits = mem_carve(carver, h->block * n_vocab, sizeof(float));
    if (!h->is_lead) return;
    h->slots = mem_carve(carver, s->n_slot, sizeof *h->slots);
    pooler_carve(&h->pooler, s->n_slot, shape->dim, carver);
    h->bias = mem_carve(carver, (uint64_t)s->n_slot * STEP_BIAS_MAX, sizeof *h->bias);
    h->adjusted = mem_carve(carver, n_vocab, sizeof(float));
    h->cands = mem_carve(carver, n_vocab, sizeof *h->cands);
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

static int32_t argmax(struct head *h, const float *logits)
{
    int32_t id = 0;
    h->k->ops->argmax(h->k, logits, 1, h->shape->n_vocab, &id);
    return id >= 0 && id < h->shape->n_vocab ? id : 0;
}

// Whatever bias and penalties do, logits stay numbers that can be subtracted from one another.
static void keep_in_range(float *logits, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        if (!(logits[i] >= -LOGIT_MAX)) logits[i] = -LOGIT_MAX;
        if (logits[i] > LOGIT_MAX) logits[i] = LOGIT_MAX;
    }
}

static int32_t choose(struct head *h, const struct head_slot *s, const struct step_row *r,
                      const float *logits)
{
    const int32_t n_vocab = h->shape->n_vocab;
    if (s->counts || s->sampling.n_bias || r->mask) {
        memcpy(h->adjusted, logits, (size_t)n_vocab * sizeof *logits);
        for (uint32_t i = 0; i < s->sampling.n_bias; i++)
            h->adjusted[s->sampling.bias[i].id] += s->sampling.bias[i].bias;
        if (s->counts) penalty_apply(&h->penalty, r->slot, &s->sampling, h->adjusted);
        keep_in_range(h->adjusted, n_vocab);
        if (r->mask) sample_mask(h->adjusted, n_vocab, r->mask, r->n_mask);
        logits = h->adjusted;
    }
    if (s->sampling.temperature == 0) return argmax(h, logits);
    return sample_draw(logits, n_vocab, &s->sampling, r->pos + r->n_tok, h->cands);
}

// Log p of an id. Logits at both ends of a float's range differ by more than a float holds, and a
// result holds finite numbers only.
static float logprob_of(float logit, double lse)
{
    const double p = (double)logit - lse;
    return p < -(double)FLT_MAX ? -FLT_MAX : (float)p;
}

static err_t sample(struct head *h, const struct step *st, const struct head_want *w,
                    const float *logits, struct arena *arena)
{
    struct head_slot *s = &h->slots[w->row->slot];
    struct step_item *item = w->item;
    const int32_t n_vocab = h->shape->n_vocab;
    item->id = item->nonfinite ? argmax(h, logits) : choose(h, s, w->row, logits);
    if (s->sampling.digest) item->digest = sample_digest(logits, n_vocab);
    s->drawn_step = st->number;
    s->drawn_id = item->id;
    if (s->sampling.n_logprobs < 0 || item->nonfinite) return OK;

    double lse = 0;
    h->k->ops->logsumexp(h->k, logits, 1, n_vocab, &lse);
    item->logprob = logprob_of(logits[item->id], lse);
    const uint32_t n = (uint32_t)s->sampling.n_logprobs,
                   n_top = n < (uint32_t)n_vocab ? n : (uint32_t)n_vocab;
    struct token_prob *top = arena_take_n(arena, n_top, sizeof *top);
    if (!top) return ERR_MEMORY;
    sample_top(logits, n_vocab, n_top, top);
    for (uint32_t i = 0; i < n_top; i++)
        top[i].logprob = logprob_of(top[i].logprob, lse);
    item->top = top;
    item->n_top = n_top;
    return OK;
}

static void score(struct head *h, const struct head_want *w, const float *logits)
{
    if (w->tok >= w->item->n_score) return;
    const int32_t next = w->tok + 1 < w->row->n_tok ? w->row->ids[w->tok + 1] : w->row->next_id;
    double lse = 0;
    h->k->ops->logsumexp(h->k, logits, 1, h->shape->n_vocab, &lse);
    // The flag tells that these mean nothing.
    w->scores[w->tok] = w->item->nonfinite ? 0 : logprob_of(logits[next], lse);
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
        g->ops->gather(g, logits, n, s->n_vocab, h->pass->cut[CUT_VOCAB], 0);
    }
    if (!h->is_lead) return;
    if (s->logit_scale != 1) op->scale(h->k, logits, s->logit_scale, all);
    if (s->logit_softcap > 0) op->softcap(h->k, logits, s->logit_softcap, all);
}

// Norm and output matrix for the rows wanted so far, then each row's item.
static err_t flush(struct head *h, const struct step *st, uint32_t n, struct arena *arena)
{
    const struct model_shape *s = h->shape;
    if (n == 0) return OK;
    h->k->ops->rms_norm(h->k, h->h, h->norm, n, s->dim, s->norm_eps, h->h);
    head_logits(h, h->h, (int32_t)n, h->logits);
    if (!h->is_lead) return OK;
    for (uint32_t i = 0; i < n; i++) {
        const struct head_want *w = &h->wants[i];
        const float *logits = h->logits + (int64_t)i * s->n_vocab; // (n_vocab)
        if (h->tap) h->tap(h->tap_arg, w->index, w->tok, logits);
        w->item->nonfinite |= !sample_is_finite(logits, s->n_vocab);
        if (w->row->flags & ROW_SCORE) score(h, w, logits);
        if (w->row->flags & ROW_SAMPLE && w->tok + 1 == w->row->n_tok) {
            err_t e = sample(h, st, w, logits, arena);
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
        h->k->ops->rms_norm(h->k, x + i * dim, h->norm, n, h->shape->dim, h->shape->norm_eps, h->h);
        pooler_add(&h->pooler, r->slot, h->h, n);
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

err_t head_run(struct head *h, const struct step *st, const float *x, struct arena *arena,
               struct step_result *out)
{
    struct step_item *items = h->is_lead ? arena_take_n(arena, st->n_row, sizeof *items) : NULL;
    if (h->is_lead && !items) return ERR_MEMORY;
    const size_t dim = (size_t)h->shape->dim;
    const float *const first = x;
    uint32_t n_item = 0, n = 0;
    for (uint32_t i = 0; i < st->n_row; x += dim * st->rows[i].n_tok, i++) {
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
            memcpy(h->h + n * dim, x + want.tok * dim, dim * sizeof *x);
            h->wants[n++] = want;
            if (n < h->block) continue;
            e = flush(h, st, n, arena);
            if (e) return e;
            n = 0;
        }
    }
    err_t e = flush(h, st, n, arena);
    if (!e && h->is_lead) e = pool(h, st, first, items, arena);
    if (e) return e;
    if (out)
        *out = (struct step_result){
            .epoch = st->epoch, .number = st->number, .items = items, .n_item = n_item};
    return OK;
}
