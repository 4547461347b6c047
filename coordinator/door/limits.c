#include "coordinator/door/limits.h"
#include "proto/base/err.h"

#define MINUTE_NS (60 * INT64_C(1000000000))

static enum limits_answer refuse(struct limit *l, enum limits_answer why, uint32_t in_s,
                                 uint32_t *retry_after_s)
{
    l->n_refused++;
    *retry_after_s = in_s;
    return why;
}

enum limits_answer limits_enter(struct limit *l, int64_t now_us, uint32_t *retry_after_s)
{
    if (l->at_once && l->n_now >= l->at_once) return refuse(l, LIMITS_AT_ONCE, 1, retry_after_s);
    if (l->per_min) {
        const int64_t now_ns = now_us * 1000, second = 1000000000;
        const int64_t full = (l->full_ns > now_ns ? l->full_ns : now_ns) + MINUTE_NS / l->per_min;
        const int64_t wait = full - now_ns - MINUTE_NS;
        if (wait > 0)
            return refuse(l, LIMITS_RATE, (uint32_t)((wait + second - 1) / second), retry_after_s);
        l->full_ns = full;
    }
    l->n_now++;
    return LIMITS_OK;
}

void limits_leave(struct limit *l)
{
    BUG_ON(l->n_now == 0);
    l->n_now--;
}
