// Limits of a key: what is let in, what is refused, and that the advice on when to come back holds.
#include "coordinator/door/limits.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>

#define S INT64_C(1000000)

static void none_is_any_number(void **state)
{
    (void)state;
    struct limit l = {0};
    uint32_t in_s = 0;
    for (int i = 0; i < 10000; i++)
        assert_int_equal(limits_enter(&l, 5 * S, &in_s), LIMITS_OK);
    assert_int_equal(l.n_now, 10000);
    assert_int_equal(l.n_refused, 0);
}

static void so_many_at_once(void **state)
{
    (void)state;
    struct limit l = {.at_once = 2, .per_min = 3};
    uint32_t in_s = 0;
    assert_int_equal(limits_enter(&l, S, &in_s), LIMITS_OK);
    assert_int_equal(limits_enter(&l, S, &in_s), LIMITS_OK);
    for (int i = 0; i < 5; i++) { // costs no token
        in_s = 0;
        assert_int_equal(limits_enter(&l, S, &in_s), LIMITS_AT_ONCE);
        assert_int_equal(in_s, 1);
    }
    limits_leave(&l);
    assert_int_equal(limits_enter(&l, S, &in_s), LIMITS_OK);
    limits_leave(&l);
    assert_int_equal(limits_enter(&l, S, &in_s), LIMITS_RATE);
    assert_int_equal(l.n_now, 1);
    assert_int_equal(l.n_refused, 6);
}

// After a pause a minute's worth at once, then one each time the advice is followed.
static void so_many_a_minute(void **state)
{
    (void)state;
    static const uint32_t rates[] = {1, 2, 7, 60, 61, 1000, LIMITS_PER_MIN_MAX};
    for (size_t k = 0; k < sizeof rates / sizeof *rates; k++) {
        struct limit l = {.per_min = rates[k]};
        int64_t now = 7 * S;
        uint32_t in_s = 0;
        for (uint32_t i = 0; i < rates[k]; i++)
            assert_int_equal(limits_enter(&l, now, &in_s), LIMITS_OK);
        for (int i = 0; i < 20; i++) {
            assert_int_equal(limits_enter(&l, now, &in_s), LIMITS_RATE);
            assert_true(in_s >= 1 && in_s <= (60 + rates[k] - 1) / rates[k]);
            uint32_t again_s = 0; // not earlier than needed either
            const int64_t early = now + (int64_t)(in_s - 1) * S;
            assert_int_equal(limits_enter(&l, early, &again_s), LIMITS_RATE);
            assert_int_equal(again_s, 1);
            now += in_s * S;
            assert_int_equal(limits_enter(&l, now, &in_s), LIMITS_OK);
            while (limits_enter(&l, now, &in_s) == LIMITS_OK) // what else came meanwhile
                ;
        }
    }
}

// Whoever asks without pause gets N a minute, and the burst.
static void over_a_long_time(void **state)
{
    (void)state;
    struct limit l = {.per_min = 30};
    uint32_t in_s, n = 0;
    srand(3);
    for (int64_t now = S; now < 3600 * S; now += rand() % S)
        n += limits_enter(&l, now, &in_s) == LIMITS_OK;
    assert_true(n <= 60 * 30 + 30 && n >= 60 * 30);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(none_is_any_number),
        cmocka_unit_test(so_many_at_once),
        cmocka_unit_test(so_many_a_minute),
        cmocka_unit_test(over_a_long_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
