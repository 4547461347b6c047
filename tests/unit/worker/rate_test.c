// Measured rates of this machine and of a device: sensible, and read back as they were kept.
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

// Measured once, sensible, and read back; `key` tells whose they are.
static void check_rates(const char *device, int32_t least_types, char key[MEASURE_KEY_BYTES])
{
    char dir[] = "/tmp/trireme-rate-XXXXXX", isa[32], file[512];
    struct probe p = {0};
    struct rates first, again;
    struct err_text why = {{0}};
    assert_non_null(mkdtemp(dir));
    assert_int_equal(probe_read(&p, &why), OK);
    if (measure_isa(device, isa, &why)) fail_msg("%s", why.s);
    const struct measure_ask ask = {.dir = dir, .isa = isa, .device = device, .n_threads = 1};
    if (rate_machine(&p, &ask, &first, &why)) fail_msg("%s", why.s);
    assert_int_equal(rates_check(&first, &why), OK);
    assert_true(first.n_type >= least_types);
    // What a device has no time for within the limit is taken to be as fast as its like.
    if (!device) assert_non_null(rates_find(&first, DT_F16));
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

static void rates_are_measured_once(void **state)
{
    (void)state;
    char key[MEASURE_KEY_BYTES];
    if (SANITIZED) skip(); // a minute, to learn how fast the sanitizer is
    check_rates(NULL, 8, key);
}

// Of the module that runs on the host, beside this program; they are kept as another machine's.
static void rates_of_a_device(void **state)
{
    (void)state;
    char self[512], module[600], cpu[MEASURE_KEY_BYTES], key[MEASURE_KEY_BYTES], isa[32];
    struct probe p = {0};
    if (SANITIZED) skip();
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(n > 0);
    self[n] = 0;
    for (int i = 0; i < 2; i++)
        *strrchr(self, '/') = 0; // BUILD/tests/this
    snprintf(module, sizeof module, "%s/libtrireme-cuda-host.so", self);
    if (access(module, R_OK)) {
        print_message("SKIPPED: no %s\n", module);
        skip();
    }
    setenv("TRIREME_CUDA", module, 1);
    check_rates("cuda", 1, key);
    assert_int_equal(probe_read(&p, NULL), OK);
    assert_int_equal(measure_isa(NULL, isa, NULL), OK);
    measure_key(&p, &(struct measure_ask){.isa = isa, .n_threads = 1}, cpu);
    assert_string_not_equal(cpu, key);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rates_are_measured_once),
                                       cmocka_unit_test(rates_of_a_device)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
