// pooler: the hidden states of a sequence, after the final norm, become one vector (enum pooling).
// What a slot has collected lies here between its rows, in double: rows of any length give the same
// bits, because tokens are added one by one in their order.
#pragma once
#include "proto/wire/step.h"
#include "worker/mem.h"

struct pooler_slot {
    enum pooling kind;
    uint32_t n_seen; // positions that have passed
};

struct pooler {
    struct pooler_slot *slots; // (n_slot)
    double *sums;              // (n_slot, dim)
    size_t dim;
};

// Tokens of a row.
struct pooler_part {
    uint32_t from, to;
};

// Sizes the memory, or lays it out (mem_carve).
void pooler_carve(struct pooler *p, uint32_t n_slot, int32_t dim, struct mem_carver *carver);
void pooler_bind(struct pooler *p, const struct step_bind *b);
// `bind`: the row's, in the same step, or NULL. ERR_LINK_PROTOCOL: the row asks for a vector of a
// slot that has none, or leaves tokens out that belong to it.
err_t pooler_check_row(const struct pooler *p, const struct step_row *r,
                       const struct step_bind *bind, struct err_text *why);
// The tokens of the row that are to be added.
struct pooler_part pooler_part_of(const struct pooler *p, const struct step_row *r);
// The same; all of the row have passed with that.
struct pooler_part pooler_take(struct pooler *p, const struct step_row *r);
// h (n, dim)
void pooler_add(struct pooler *p, uint32_t slot, const float *h, uint32_t n);
// out (dim). False: something was not finite, and out is zeros.
bool pooler_give(const struct pooler *p, uint32_t slot, float *out);
