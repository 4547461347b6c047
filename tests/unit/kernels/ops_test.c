#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#define OPS_CHECK_NO_MAIN
#include "tests/unit/kernels/ops_check.c"

// Every operation on the instruction sets of this machine, which give the same bits.
static void test_operations(void **state)
{
    (void)state;
#if defined(__aarch64__)
    static const char *const names[] = {"reference", "neon", "dotprod", "i8mm"};
#else
    static const char *const names[] = {"reference", "avx2", "vnni"};
#endif
    assert_int_equal(check_all(names, sizeof names / sizeof *names, check_ops), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_operations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
