// head: the end of the last stage: final norm, output matrix for the rows that need it, sampling
// and scoring. Holds what a slot needs for that between steps.
#pragma once
#include "kernels/kernels.h"
#include "proto/base/arena.h"
#include "worker/head_short.h"
#include "worker/layer.h"
#include "worker/penalty.h"
#include "worker/pooler.h"
#include "worker/sample.h"
#include "worker/stage.h"
#include "worker/weights.h"

// Logits rows computed at once, on the host and on a device.
enum { HEAD_BLOCK = 32, HEAD_BLOCK_DEVICE = 128 };

struct head_slot {
    struct sampling sampling; // bias points into the head's own memory
    uint32_t n_prompt;
    bool counts;         // penalties are in use
    uint64_t drawn_step; // step that drew drawn_id; 0: none
    int32_t drawn_id;
};

struct head_want {
    const struct step_row *row;
    uint32_t index; // of the row
    uint32_t tok;   // in the row
    uint32_t at;    // in the step
    struct step_item *item;
    float *scores;       // item's, to be written
    struct top_row *top; // what the backend says of its row of logits, or NULL
};

struct head {
    struct kernels *k;
    const struct model_shape *shape;
    const struct plan_settings *settings;
    const struct pass *pass;  // who computes which rows of the output matrix
    bool is_lead;             // draws; another member of a tensor group only gives its logits
    const float *norm;        // (dim)
    struct weight matrix;     // (n_vocab, dim), rows of this member
    const float *matrix_bias; // (n_vocab) or NULL, likewise
    uint32_t block;           // rows of h and logits
    bool is_ahead;            // the step's logits are there before head_run (the stage sets it)
    struct head_slot *slots;  // (n_slot)
    struct logit_bias *bias;  // (n_slot, STEP_BIAS_MAX)
    struct penalty penalty;
    struct pooler pooler;
    struct head_want *wants;   // (block)
    float *h;                  // (block, dim) the backend's, as are the next two
    float *ordered;            // (block, dim) scratch
    float *logits;             // (block, n_vocab)
    float *h_seen;             // (block, dim) on the host; where h is, h
    float *row_seen;           // (n_vocab) a row of logits on the host; NULL where logits are
    bool *finite;              // (block) of each row of logits
    int32_t *best;             // (block) its best id, where that is all it takes
    double *lse;               // (block) its logarithm of the sum, where it is wanted
    struct head_short told;    // of rows that need not come to the host
    float *adjusted;           // (n_vocab) one row after bias, penalties and mask
    struct sample_cand *cands; // (n_vocab)
    stage_tap_fn *tap;
    void *tap_arg;
};

// Sizes the work space, or lays it out (mem_carve).
void head_carve(struct head *h, const struct model_shape *shape, const struct plan_settings *s,
                struct mem_plan *plan);
void head_reset(struct head *h);

// What only the last stage can check. ERR_LINK_PROTOCOL.
err_t head_check_bind(const struct head *h, const struct step_bind *b, struct err_text *why);
err_t head_check_chain(const struct head *h, const struct step_row *r, struct err_text *why);
err_t head_check_mask(const struct head *h, const struct step_row *r, struct err_text *why);
void head_bind(struct head *h, const struct step_bind *b);
// Of members but the lead, their columns of logits mean something only. logits (n, n_vocab) of n <=
// h->block rows of h (n, dim), which have been normed.
void head_logits(struct head *h, const float *x, int32_t n, float *logits);
// Whether all of a step's logits can be computed before anything of the host's is asked: each row
// is one token that draws. Then head_ahead does it, and head_run the rest.
bool head_is_ahead(const struct head *h, const struct step *st);
void head_ahead(struct head *h, const float *x, uint32_t n_row);
// Tokens of the step, ascending, whose rows of x head_run will look at; returns how many. The
// lead's.
int32_t head_wanted(const struct head *h, const struct step *st, int32_t *tokens);
// -- for head_short.c --
// Whether bias, penalties or a mask change the logits.
bool head_is_adjusted(const struct head_slot *s, const struct step_row *r);
// Whether the best of the logits is drawn as they are.
bool head_is_greedy(const struct head *h, const struct head_want *w);
bool head_draws(const struct head_want *w);
// Bias and penalties, in place; then each logit head_in_range.
void head_adjust(const struct head *h, const struct head_slot *s, const struct step_row *r,
                 float *logits);
float head_in_range(float logit);

// x (n_tok, dim) after the last layer; every dense member calls it. ERR_MEMORY if the arena is
// exhausted.
err_t head_run(struct head *h, const struct step *st, const float *x, struct arena *arena,
               struct step_result *out);
