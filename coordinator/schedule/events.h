// events: what the caller is told, and how a choice ends.
#pragma once
#include "coordinator/schedule/state.h"

// Room for n more events besides one finish for each live choice, so that ending a choice never
// needs memory. ERR_MEMORY.
err_t events_reserve(struct sched *s, uint32_t n);
// Room must have been reserved.
void events_add(struct sched *s, struct sched_event e);
// Ends a live choice: slot and pages go back, EVENT_FINISH. The request leaves the scheduler with
// its last choice.
void events_finish(struct sched *s, struct choice *c, enum finish reason, int64_t now_us);
// Ends all live choices of the request with FINISH_ERROR.
void events_fail(struct sched *s, struct request *r, err_t code, const struct err_text *why,
                 int64_t now_us);
