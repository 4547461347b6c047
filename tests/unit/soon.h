// soon: tells "at once" from "grows with the square" or "hangs" in tests. Time of the processor,
// not of the wall: others may be running; with room for slow machines and for sanitizers. What is
// fast and by how much is for tests/bench.
#pragma once
#include "tests/unit/sanitized.h"
#include <stdint.h>
#include <time.h>

enum { SOON_ROOM = SANITIZED ? 20 : 4 };

static inline int64_t soon_now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}
// What should take at most `usual_us` took no more than that with room.
static inline int soon_is(int64_t from_us, int64_t usual_us)
{
    return soon_now_us() - from_us < usual_us * SOON_ROOM;
}
