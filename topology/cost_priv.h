// cost_priv: what cost.c and cost_time.c share.
#pragma once
#include "topology/cost.h"

// Tokens that a local layer lets one see at most; 0: no bound.
int64_t cost_sight(const struct cost_model *m);
// Rows that s->member holds of a matrix, all of a stack counted.
int64_t cost_rows_of(const struct cost_model *m, const struct share *s, int32_t layer,
                     const struct cost_matrix *w);
// Key/value heads that s->member's query heads read.
struct share_range cost_kv_heads(const struct cost_model *m, const struct share *s);
