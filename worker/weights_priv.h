// weights_priv: which rows of which weights a stage holds; for weights*.c only.
#pragma once
#include "worker/weights.h"

// Parts of a stage: its layers in order, then the others.
int32_t weights_n_part(const struct stage_config *c);
int32_t weights_part_id(const struct stage_config *c, int32_t i);

// Of each matrix of a weight; from == to: nothing of it.
struct share_range weights_rows(const struct stage_config *c, const struct model_weight *w);
// Which of a stack are held is asked of weights_holds.
bool weights_is_by_expert(const struct stage_config *c, const struct model_weight *w);
bool weights_holds(const struct stage_config *c, const struct model_weight *w, int64_t i);
