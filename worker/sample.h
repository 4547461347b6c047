// sample: from a row of logits to an id, as struct sampling says (proto/wire/step.h). Pure
// functions of the row, the settings, the position and work space; no clock, no state, nothing
// allocated.
//
// Reproducible: sums run in the order of ids or of rank, ties go to the lower id, exp is our own,
// and the random numbers are counter-based (Salmon et al. 2011): a function of seed, choice and
// position only. So a choice draws the same ids alone, in a batch, and after a recovery.
#pragma once
#include "proto/wire/step.h"

struct sample_cand {
    float logit;
    float weight; // exp((logit - largest) / temperature), 0..1
    int32_t id;
};

// Takes away all ids but those of the set (a row's mask, checked): their logits become -infinity.
void sample_mask(float *logits, int32_t n_vocab, const uint8_t *set, size_t len);
// Draws an id for `position`. logits: (n_vocab), after bias, penalties and mask; finite, but those
// that the mask took; temperature > 0.
// cands: work space of n_vocab.
int32_t sample_draw(const float *logits, int32_t n_vocab, const struct sampling *s,
                    uint32_t position, struct sample_cand *cands);

// The parts of it, for who has not the whole row (worker/draw.h).
float sample_per_temperature(const struct sampling *s);
// The weight of an id beside the best one. False: it cannot be drawn.
bool sample_weigh(float logit, int32_t id, float best, float per_t, struct sample_cand *out);
// True if a ranks before b: it is more likely, or as likely with a lower id.
bool sample_ranks_before(const struct sample_cand *a, const struct sample_cand *b);
// By rank; by ids.
void sample_sort_ranks(struct sample_cand *c, int32_t n);
void sample_sort_ids(struct sample_cand *c, int32_t n);
// The number in [0, 1) that decides.
double sample_uniform(const struct sampling *s, uint32_t position);
// Of all n > 0 ids that can be drawn, by ids: what sample_draw draws; and of those that top-k and
// top-p leave, as they lie (by rank where one of these is in use, else by ids).
int32_t sample_pick(struct sample_cand *cands, int32_t n, const struct sampling *s,
                    uint32_t position);
int32_t sample_pick_left(struct sample_cand *cands, int32_t n, const struct sampling *s,
                         uint32_t position);

// Lowest id of the largest logit; NaN never wins.
int32_t sample_best(const float *logits, int32_t n_vocab);
// The n most likely ids, most likely first, lower id first among equals; their logits in logprob.
void sample_top(const float *logits, int32_t n_vocab, uint32_t n, struct token_prob *out);
// 64 bits that depend on every bit of the row: equal rows, equal digests; of unequal rows about one
// pair in 2^64. Not 0.
uint64_t sample_digest(const float *logits, int32_t n_vocab);

// Philox4x32-10.
void sample_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);
