// batch: makes the next step. Admission, then decode rows, then prefill rows with what is left.
#pragma once
#include "coordinator/schedule/state.h"

// What sched_next promises.
bool batch_make(struct sched *s, int64_t now_us, struct step *out);
