// store_need: which bytes of a model's files loading a stage reads. It asks the loader itself which
// rows those are (weights_each), and finds them in the tensors: rows where a tensor lies row by
// row, whole matrices where rows interleave.
#pragma once
#include "worker/stage.h"
#include "worker/store.h"

// What opening the model reads.
void store_need_opening(struct store *s);
// What stage_open(c) reads. ERR_MODEL if the store lacks a file of the model; ERR_MEMORY.
err_t store_need_stage(struct store *s, const struct stage_config *c, struct err_text *why);
