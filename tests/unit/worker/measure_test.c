// Measured figures are kept, taken again, and not trusted blindly.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "worker/measure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static char dir[64];

static int new_dir(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/trireme-measure-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int drop_dir(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

static const struct probe machine = {.cpu = "Made Up CPU",
                                     .isa = "avx2",
                                     .n_core = 2,
                                     .n_thread = 2,
                                     .n_usable = 2,
                                     .mem_total_bytes = (uint64_t)8 << 30};

static void keys_follow_the_hardware(void **state)
{
    (void)state;
    char keys[8][MEASURE_KEY_BYTES];
    struct measure_ask ask = {.isa = "cpu avx2", .n_threads = 1};
    struct probe p = machine;
    measure_key(&p, &ask, keys[0]);
    ask.n_threads = 2;
    measure_key(&p, &ask, keys[1]);
    ask.isa = "cpu reference";
    measure_key(&p, &ask, keys[2]);
    snprintf(p.cpu, sizeof p.cpu, "Another CPU");
    measure_key(&p, &ask, keys[3]);
    p.n_core = 4;
    measure_key(&p, &ask, keys[4]);
    p.mem_total_bytes *= 2;
    measure_key(&p, &ask, keys[5]);
    snprintf(p.isa, sizeof p.isa, "avx2 fma");
    measure_key(&p, &ask, keys[6]);
    for (int i = 0; i < 7; i++) {
        assert_int_equal(strspn(keys[i], "0123456789abcdef"), MEASURE_KEY_BYTES - 1);
        for (int k = 0; k < i; k++)
            assert_string_not_equal(keys[i], keys[k]);
    }
    // What differs from boot to boot does not matter.
    p.mem_total_bytes += 4 << 20;
    p.mem_available_bytes = 1;
    measure_key(&p, &ask, keys[7]);
    assert_string_equal(keys[7], keys[6]);
}

static void keeps_text(void **state)
{
    (void)state;
    struct buf in = {0}, out = {0};
    struct err_text why;
    buf_str(&in, "{\"a\":1}");
    assert_int_equal(measure_kept(dir, "rates", "00", &out), ERR_NOT_FOUND);
    assert_int_equal(measure_keep(dir, "rates", "00", &in, &why), OK);
    assert_int_equal(measure_kept(dir, "rates", "01", &out), ERR_NOT_FOUND);
    assert_int_equal(measure_kept(dir, "other", "00", &out), ERR_NOT_FOUND);
    assert_int_equal(measure_kept(dir, "rates", "00", &out), OK);
    assert_string_equal(out.data, in.data);
    // What is old is not taken.
    char path[128];
    const struct timeval old[2] = {{time(NULL) - (MEASURE_DAYS + 1) * 24 * 3600, 0},
                                   {time(NULL) - (MEASURE_DAYS + 1) * 24 * 3600, 0}};
    snprintf(path, sizeof path, "%s/rates-00.json", dir);
    assert_int_equal(utimes(path, old), 0);
    assert_int_equal(measure_kept(dir, "rates", "00", &out), ERR_NOT_FOUND);
    assert_int_equal(measure_keep("/proc/no/such/folder", "rates", "00", &in, &why), ERR_SYSTEM);
    buf_fini(&in);
    buf_fini(&out);
}

static void put_peaks(const struct measure_ask *ask, const char *text)
{
    char key[MEASURE_KEY_BYTES];
    struct buf b = {0};
    struct err_text why;
    measure_key(&machine, ask, key);
    buf_str(&b, text);
    assert_int_equal(measure_keep(ask->dir, "peaks", key, &b, &why), OK);
    buf_fini(&b);
}

static void measures_once(void **state)
{
    (void)state;
    char deep[128];
    struct measure first, again;
    struct err_text why = {{0}};
    snprintf(deep, sizeof deep, "%s/new/folder", dir);
    struct measure_ask ask = {.dir = deep, .isa = "cpu x", .n_threads = 1};
    if (measure_machine(&machine, &ask, &first, &why)) fail_msg("%s", why.s);
    assert_false(first.is_kept);
    assert_true(first.peaks.read_bytes_per_s > 1e6 && first.peaks.int8_ops_per_s > 1e6 &&
                first.peaks.f32_flops_per_s > 1e6);
    assert_int_equal(measure_machine(&machine, &ask, &again, &why), OK);
    assert_true(again.is_kept);
    assert_memory_equal(&again.peaks, &first.peaks, sizeof first.peaks);
    assert_int_equal(again.unix_s, first.unix_s);
    // Kept figures are believed when they can be, and measured anew when not.
    put_peaks(&ask, "{\"read_bytes_per_s\":5e9,\"int8_ops_per_s\":6e9,\"f32_flops_per_s\":7e9}");
    assert_int_equal(measure_machine(&machine, &ask, &again, &why), OK);
    assert_float_equal(again.peaks.int8_ops_per_s, 6e9, 0);
    put_peaks(&ask, "{\"read_bytes_per_s\":5e9,\"int8_ops_per_s\":-6e9,\"f32_flops_per_s\":7e9}");
    assert_int_equal(measure_machine(&machine, &ask, &again, &why), OK);
    assert_false(again.is_kept);
    ask.refresh = true;
    put_peaks(&ask, "{\"read_bytes_per_s\":5e9,\"int8_ops_per_s\":6e9,\"f32_flops_per_s\":7e9}");
    assert_int_equal(measure_machine(&machine, &ask, &again, &why), OK);
    assert_false(again.is_kept);
}

static void goes_on_without_a_folder(void **state)
{
    (void)state;
    struct measure m;
    struct err_text why = {{0}};
    const struct measure_ask ask = {.dir = "/proc/no/such/folder", .isa = "cpu x", .n_threads = 1};
    assert_int_equal(measure_machine(&machine, &ask, &m, &why), OK);
    assert_false(m.is_kept);
}

static void measures_disks_once(void **state)
{
    (void)state;
    char path[128], command[192];
    snprintf(path, sizeof path, "%s/file", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(ftruncate(fileno(f), 10 << 20), 0);
    fclose(f);
    const double first = measure_disk(path, dir);
    assert_true(first > 0);
    assert_true(measure_disk(path, dir) == first); // to the bit: it was read
    snprintf(command, sizeof command, "echo '{\"read_bytes_per_s\":-3}' >%s/disk-*.json", dir);
    assert_int_equal(system(command), 0);
    assert_true(measure_disk(path, dir) > 0);
    assert_true(measure_disk("/no/such/file", dir) == 0);
}

static void names_the_backend(void **state)
{
    (void)state;
    char isa[32];
    struct err_text why = {{0}};
    assert_int_equal(measure_isa("reference", isa, &why), OK);
    assert_string_equal(isa, "cpu reference");
    assert_int_equal(measure_isa("no such", isa, &why), ERR_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_follow_the_hardware),
        cmocka_unit_test_setup_teardown(keeps_text, new_dir, drop_dir),
        cmocka_unit_test_setup_teardown(measures_once, new_dir, drop_dir),
        cmocka_unit_test(goes_on_without_a_folder),
        cmocka_unit_test_setup_teardown(measures_disks_once, new_dir, drop_dir),
        cmocka_unit_test(names_the_backend),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
