// clock: CLOCK_MONOTONIC in microseconds (and, for durations of operations, nanoseconds). Pure
// state machines take `now_us` as an argument instead of calling this; only the loops call it.
#pragma once
#include <stdint.h>
#include <time.h>

static inline int64_t clock_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline int64_t clock_now_us(void)
{
    return clock_now_ns() / 1000;
}
