// draw: an id from what a backend tells of a row of logits (kernels' top) instead of the row: its
// largest values, what each chunk of it weighs, and the values of the ids that are adjusted. The id
// is the one that sample_draw draws from the whole row, or it is said that this cannot be known:
// every choice is made from what is certain, whatever the values that are not here. Pure functions.
#pragma once
#include "kernels/kernels.h"
#include "worker/sample.h"

struct draw {
    const struct sampling *s;
    uint32_t position;
    int32_t n_vocab;
    // The largest of the ids that are not adjusted, largest first, n_top of them; fewer (is_all):
    // there are no others.
    const float *value;
    const int32_t *id;
    int32_t n;
    bool is_all;
    double *mass; // of top_row; spent
    // Adjusted ids that may be drawn, with their logits.
    const struct sample_cand *extra;
    int32_t n_extra;
    struct sample_cand *cands; // work space of n + n_extra
};
enum draw_kind {
    DRAW_DONE,  // out->id
    DRAW_CHUNK, // it is one of chunk out->chunk: draw_from_chunk
    DRAW_ROW    // the whole row is needed
};
struct drawn {
    enum draw_kind kind;
    int32_t id, chunk;
    float logit;              // of id
    float best;               // what follows: for draw_from_chunk
    double before, at, slack; // weight of the chunks before, the point that is drawn, its error
};

// temperature >= 0.
struct drawn draw_short(const struct draw *d);
// logits: of chunk `chunk`, those that may not be drawn -infinity, adjusted ones as in `extra`.
// DRAW_DONE or DRAW_ROW.
struct drawn draw_from_chunk(const struct draw *d, const struct drawn *from, const float *logits);
