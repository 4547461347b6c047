// limits: how much may come through one API key: so many requests at once, so many a minute. The
// rate is a token bucket that holds a minute's worth: after a pause that many may come together,
// then one every 60/N seconds. A refused request costs nothing.
//
// Loop's thread only. Times are of the loop's clock, in microseconds.
#pragma once
#include <stdint.h>

enum { LIMITS_AT_ONCE_MAX = 100000, LIMITS_PER_MIN_MAX = 100000 };

struct limit {
    uint32_t at_once, per_min; // 0: any number
    uint32_t n_now;            // entered, not left
    int64_t full_ns;           // when the bucket is full again, if nothing more is taken
    uint64_t n_refused;
};

enum limits_answer { LIMITS_OK, LIMITS_AT_ONCE, LIMITS_RATE };

// LIMITS_OK: the request is counted until limits_leave. Otherwise in how many whole seconds (at
// least 1) it is worth trying again: LIMITS_RATE: the bucket has a token again by then, if nobody
// else takes it; LIMITS_AT_ONCE: nobody knows, 1.
enum limits_answer limits_enter(struct limit *l, int64_t now_us, uint32_t *retry_after_s);
void limits_leave(struct limit *l);
