#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/base/idset.h"

#include <stdlib.h>
#include <string.h>

static bool bit(const uint64_t *bits, uint32_t i)
{
    return bits[i / 64] >> (i % 64) & 1;
}

// Packs, and reads back in all three ways.
static size_t check(const uint64_t *bits, uint32_t n)
{
    uint8_t *set = malloc(idset_bound(n));
    const size_t len = idset_pack(bits, n, set);
    assert_true(len <= idset_bound(n));
    uint32_t last = 0, count = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (bit(bits, i)) last = i + 1;
        count += bit(bits, i);
        assert_int_equal(idset_has(set, len, i), bit(bits, i));
    }
    assert_false(idset_has(set, len, n));
    assert_int_equal(idset_ok(set, len, n), count > 0);
    if (count) assert_true(idset_ok(set, len, last) && !idset_ok(set, len, last - 1));
    struct idset_runs it = {.set = set, .len = len};
    uint32_t from, to, at = 0;
    while (count && idset_next(&it, &from, &to)) {
        assert_true(from < to && to <= n && (at == 0 || from > at));
        for (; at < from; at++)
            assert_false(bit(bits, at));
        for (; at < to; at++)
            assert_true(bit(bits, at));
        count -= to - from;
    }
    assert_int_equal(count, 0);
    for (; at < n; at++)
        assert_false(bit(bits, at));
    free(set);
    return len;
}

static void test_round_trips(void **state)
{
    (void)state;
    uint64_t x = 1, *bits = calloc(20, 8);
    for (int round = 0; round < 400; round++) {
        const uint32_t n = 1 + (uint32_t)(round * 13) % 1200;
        // Noise, long runs, and single ids in turn.
        for (uint32_t i = 0; i < 20; i++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            const uint64_t noise = x ^ x >> 29, run = x >> 62 ? 0 : UINT64_MAX;
            bits[i] = round % 3 == 0   ? noise
                      : round % 3 == 1 ? run
                                       : noise & noise >> 1 & noise >> 3;
        }
        check(bits, n);
    }
    memset(bits, 0xff, 160);
    assert_true(check(bits, 1200) <= 4);
    memset(bits, 0, 160);
    check(bits, 1200);
    bits[18] = 1u << 20;
    assert_true(check(bits, 1200) <= 5);
    free(bits);
}

static void test_malformed(void **state)
{
    (void)state;
    static const struct {
        uint8_t set[8];
        size_t len;
    } bad[] = {
        {{0}, 0},
        {{0}, 1},
        {{0, 0}, 2},          // no id
        {{0, 1, 0}, 3},       // more bytes than it needs
        {{2, 1}, 2},          // another kind
        {{1}, 1},             // no runs
        {{1, 3}, 2},          // half a run
        {{1, 3, 0}, 3},       // a run of nothing
        {{1, 0, 1, 0, 1}, 5}, // two runs that are one
        {{1, 0, 0x80}, 3},    // a number without its end
        {{1, 0, 0x81, 0}, 4}, // a number longer than it needs
        {{1, 0xff, 0xff, 0xff, 0xff, 0x1f, 1}, 7},
        {{1, 0xff, 0xff, 0xff, 0xff, 0x0f, 2}, 7}, // beyond all ids
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (idset_ok(bad[i].set, bad[i].len, UINT32_MAX)) fail_msg("%zu", i);
    const uint8_t good[] = {1, 0, 5};
    assert_true(idset_ok(good, 3, 5));
    assert_false(idset_ok(good, 3, 4));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_malformed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
