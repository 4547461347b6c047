// Measured rates of this machine: sensible, and read back as they were kept.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/unit/sanitized.h"
#include "worker/rate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void rates_are_measured_once(void **state)
{
    (void)state;
    if (SANITIZED) skip(); // a minute, to learn how fast the sanitizer is
    char dir[] = "/tmp/trireme-rate-XXXXXX", isa[32], file[512], key[MEASURE_KEY_BYTES];
    struct probe p = {0};
    struct rates first, again;
    struct err_text why = {{0}};
    assert_non_null(mkdtemp(dir));
    assert_int_equal(probe_read(&p, &why), OK);
    assert_int_equal(measure_isa(NULL, isa, &why), OK);
    const struct measure_ask ask = {.dir = dir, .isa = isa, .n_threads = 1};
    if (rate_machine(&p, &ask, &first, &why)) fail_msg("%s", why.s);
    assert_int_equal(rates_check(&first, &why), OK);
    assert_true(first.n_type >= 8);
    assert_non_null(rates_find(&first, DT_F16));
    assert_int_equal(rate_machine(&p, &ask, &again, &why), OK);
    assert_int_equal(again.n_type, first.n_type);
    for (int32_t i = 0; i < first.n_type; i++) {
        assert_int_equal(again.types[i].dtype, first.types[i].dtype);
        const double x = again.types[i].mul_per_s[0] / first.types[i].mul_per_s[0];
        assert_true(x > 0.9999 && x < 1.0001); // six digits are kept; two runs never agree so well
    }
    measure_key(&p, &ask, key);
    snprintf(file, sizeof file, "%s/rates-%s.json", dir, key);
    assert_int_equal(unlink(file), 0);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rates_are_measured_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
