#include "worker/head_short.h"
#include "worker/head.h"

#include <math.h>
#include <string.h>

// Of what a row's settings keep of its ids by their likelihood, this much is asked for.
enum { TOP_ENOUGH = 1024, TOP_LEAST = 32 };

static uint64_t n_word(int32_t n_vocab)
{
    return ((uint64_t)n_vocab + 31) / 32;
}

static uint64_t n_chunk(int32_t n_vocab)
{
    return ((uint64_t)n_vocab + KERNELS_TOP_CHUNK - 1) / KERNELS_TOP_CHUNK;
}

void head_short_carve(struct head_short *s, int32_t n_vocab, struct mem_carver *host)
{
    const uint64_t rows = HEAD_SHORT_ROWS;
    s->value = mem_carve(host, rows * KERNELS_TOP_MAX, sizeof *s->value);
    s->id = mem_carve(host, rows * KERNELS_TOP_MAX, sizeof *s->id);
    s->pick = mem_carve(host, rows * KERNELS_TOP_PICKS, sizeof *s->pick);
    s->picks = mem_carve(host, rows * KERNELS_TOP_PICKS, sizeof *s->picks);
    s->masks = mem_carve(host, rows * n_word(n_vocab), sizeof *s->masks);
    s->mass = mem_carve(host, rows * n_chunk(n_vocab), sizeof *s->mass);
    s->extra = mem_carve(host, KERNELS_TOP_PICKS, sizeof *s->extra);
    s->cands = mem_carve(host, KERNELS_TOP_PICKS + KERNELS_TOP_MAX, sizeof *s->cands);
    s->chunk = mem_carve(host, KERNELS_TOP_CHUNK, sizeof *s->chunk);
}

// -- asking --

static bool fits(const struct head *h, uint32_t i)
{
    const struct head_want *w = &h->wants[i];
    const struct head_slot *slot = &h->slots[w->row->slot];
    const struct sampling *s = &slot->sampling;
    const bool is_adjusted = head_is_adjusted(slot, w->row);
    uint64_t n_pick = s->n_bias;
    if (slot->counts) n_pick += h->penalty.n_used[w->row->slot];
    if (h->tap || !h->finite[i] || !head_draws(w) || head_is_greedy(h, w) || s->digest)
        return false;
    // The most likely ids are told as they are before the adjustments.
    return !(is_adjusted && s->n_logprobs >= 0) && s->top_k < KERNELS_TOP_MAX &&
           n_pick <= KERNELS_TOP_PICKS;
}

// An id that is adjusted does not count among the others; its value is asked for, if it can be
// drawn at all and is not asked for already.
static void pick(struct top_row *r, uint32_t *mask, int32_t *picks, int32_t id)
{
    uint32_t *word = &mask[id / 32];
    const uint32_t bit = 1u << id % 32;
    if (!(*word & bit)) return;
    *word &= ~bit;
    picks[r->n_pick++] = id;
}

static void fill_mask(const struct step_row *r, int32_t n_vocab, uint32_t *mask)
{
    struct idset_runs runs = {.set = r->mask, .len = r->n_mask};
    uint32_t from, to;
    memset(mask, r->mask ? 0 : 0xff, n_word(n_vocab) * sizeof *mask);
    while (r->mask && idset_next(&runs, &from, &to))
        for (uint32_t i = from; i < to; i++)
            mask[i / 32] |= 1u << i % 32;
}

static void fill(struct head *h, struct head_want *w, int32_t row)
{
    struct head_short *o = &h->told;
    const struct head_slot *slot = &h->slots[w->row->slot];
    const struct sampling *s = &slot->sampling;
    const int32_t n_vocab = h->shape->n_vocab;
    const uint64_t at = (uint64_t)o->n_row;
    struct top_row *r = &o->rows[o->n_row++];
    uint32_t *mask = o->masks + at * n_word(n_vocab);
    int32_t *picks = o->picks + at * KERNELS_TOP_PICKS;
    *r = (struct top_row){.row = row,
                          .per_t = sample_per_temperature(s),
                          .value = o->value + at * KERNELS_TOP_MAX,
                          .id = o->id + at * KERNELS_TOP_MAX,
                          .picks = picks,
                          .pick = o->pick + at * KERNELS_TOP_PICKS,
                          .mass = o->mass + at * n_chunk(n_vocab)};
    w->top = r;
    int32_t n_top = s->top_k > 0                   ? s->top_k + 1
                    : s->top_p < 1 || s->min_p > 0 ? TOP_ENOUGH
                                                   : TOP_LEAST;
    if (n_top < s->n_logprobs) n_top = s->n_logprobs;
    if (n_top > o->n_top) o->n_top = n_top;
    if (!head_is_adjusted(slot, w->row)) return;
    r->mask = mask;
    fill_mask(w->row, n_vocab, mask);
    for (uint32_t i = 0; i < s->n_bias; i++)
        pick(r, mask, picks, s->bias[i].id);
    uint32_t next = 0;
    for (int32_t id; slot->counts && (id = penalty_next(&h->penalty, w->row->slot, &next)) >= 0;)
        pick(r, mask, picks, id);
}

uint32_t head_short_ask(struct head *h, uint32_t from, uint32_t n)
{
    struct head_short *o = &h->told;
    const int64_t n_vocab = h->shape->n_vocab;
    const bool can = !h->k->is_host && h->k->ops->top;
    uint32_t i = from;
    o->n_row = 0;
    o->n_top = 1;
    for (; i < n && o->n_row < HEAD_SHORT_ROWS; i++) {
        h->wants[i].top = NULL;
        if (can && fits(h, i)) fill(h, &h->wants[i], (int32_t)i);
    }
    if (o->n_row) h->k->ops->top(h->k, h->logits, n_vocab, o->n_top, o->rows, o->n_row);
    return i - from;
}

// -- drawing --

// The logits of adjusted ids, as the whole row would have them.
static int32_t adjust(struct head *h, const struct head_want *w, const struct top_row *r)
{
    const struct head_slot *slot = &h->slots[w->row->slot];
    struct sample_cand *extra = h->told.extra;
    for (int32_t i = 0; i < r->n_pick; i++)
        h->adjusted[r->picks[i]] = r->pick[i];
    head_adjust(h, slot, w->row, h->adjusted); // what is not picked there means nothing
    for (int32_t i = 0; i < r->n_pick; i++)
        extra[i] = (struct sample_cand){.logit = head_in_range(h->adjusted[r->picks[i]]),
                                        .id = r->picks[i]};
    return r->n_pick;
}

// The logits of one chunk, adjusted.
static void fetch_chunk(struct head *h, uint32_t row, const struct draw *d, int32_t chunk)
{
    const struct top_row *r = h->wants[row].top;
    const int32_t first = chunk * KERNELS_TOP_CHUNK, left = d->n_vocab - first;
    const int32_t n = left < KERNELS_TOP_CHUNK ? left : KERNELS_TOP_CHUNK;
    float *logits = h->told.chunk;
    h->k->ops->get(h->k, logits, h->logits + (int64_t)row * d->n_vocab + first,
                   (uint64_t)n * sizeof *logits);
    for (int32_t i = 0; i < n && r->mask; i++)
        if (!(r->mask[(first + i) / 32] >> (first + i) % 32 & 1)) logits[i] = -INFINITY;
    for (int32_t i = 0; i < d->n_extra; i++)
        if (d->extra[i].id / KERNELS_TOP_CHUNK == chunk)
            logits[d->extra[i].id - first] = d->extra[i].logit;
}

bool head_short_draw(struct head *h, uint32_t i, struct drawn *out)
{
    const struct head_want *w = &h->wants[i];
    const struct top_row *r = w->top;
    struct draw d = {.s = &h->slots[w->row->slot].sampling,
                     .position = w->row->pos + w->row->n_tok,
                     .n_vocab = h->shape->n_vocab,
                     .value = r->value,
                     .id = r->id,
                     .n = r->n,
                     .is_all = r->n < h->told.n_top,
                     .mass = r->mass,
                     .extra = h->told.extra,
                     .cands = h->told.cands};
    if (r->mask) {
        // Values so far out that the whole row's would be brought into range.
        for (int32_t j = 0; j < r->n; j++)
            if (head_in_range(r->value[j]) != r->value[j]) return false;
        d.n_extra = adjust(h, w, r);
    }
    *out = draw_short(&d);
    if (out->kind == DRAW_CHUNK) {
        fetch_chunk(h, i, &d, out->chunk);
        *out = draw_from_chunk(&d, out, h->told.chunk);
    }
    return out->kind == DRAW_DONE;
}
