// Memory that a plan may take where the CPU computes, and a device that is not there.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "worker/budget.h"

#include <stdlib.h>

static void test_cpu(void **state)
{
    (void)state;
    struct budget all, half;
    assert_int_equal(budget_read(NULL, 0, &all, NULL), OK);
    assert_true(all.is_host && !all.is_unified);
    assert_true(all.free_bytes > 0 && all.free_bytes <= all.total_bytes);
    assert_true(all.most_bytes == all.total_bytes);
    assert_int_equal(budget_read("reference", 0.5, &half, NULL), OK);
    assert_true(half.total_bytes == all.total_bytes);
    assert_true(half.most_bytes == all.total_bytes / 2);
}

static void test_no_device(void **state)
{
    (void)state;
    struct budget b = {.total_bytes = 7};
    struct err_text why = {0};
    setenv("TRIREME_CUDA", "/proc/no/such/file.so", 1);
    assert_int_equal(budget_read("cuda", 0, &b, &why), ERR_UNSUPPORTED);
    assert_true(why.s[0] && b.total_bytes == 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cpu),
        cmocka_unit_test(test_no_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
