// canary: one token of our own whenever nothing else has gone through the lane for a while. So a
// worker that is connected and beats but can compute no more is found (by the lane's step deadline)
// before a caller does, and readiness means that a token was made moments ago.
#pragma once
#include "coordinator/coordinator_priv.h"

extern const struct engine_listener canary_listener; // tells our own requests from callers'
// From the loop's timer.
void canary_tick(struct coordinator *c, int64_t now_us);
