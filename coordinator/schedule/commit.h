// commit: a step's result. Checked as a whole against what was sent, then taken over.
#pragma once
#include "coordinator/schedule/state.h"

// The result answers the oldest step on its way, item by item. ERR_LINK_PROTOCOL, sentence.
err_t commit_check(const struct sched *s, const struct step_result *r, int32_t n_vocab,
                   struct err_text *why);
// Takes a checked result over. Room for two events a row must have been reserved.
void commit_apply(struct sched *s, const struct step_result *r, int64_t now_us);
