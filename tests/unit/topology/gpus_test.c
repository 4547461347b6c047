// GPUs as a made-up management library tells of them (fake_nvml.c, built here with the system's
// compiler), and this machine as it is.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "topology/gpus.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PAIR_3090, SPARK, EIGHT_H100, TWO_4090, NO_DRIVER, LOST, LIAR, TOO_MANY, NONE };

static char library[64];
static void *handle;
static int *machine, *is_open;

static int build(void **state)
{
    (void)state;
    char command[256];
    snprintf(library, sizeof library, "/tmp/trireme-fake-nvml-%d.so", (int)getpid());
    snprintf(command, sizeof command, "cc -shared -fPIC -o %s tests/unit/topology/fake_nvml.c",
             library);
    if (system(command)) return -1;
    handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!handle) return -1;
    machine = dlsym(handle, "fake_machine");
    is_open = dlsym(handle, "fake_is_open");
    return machine && is_open ? 0 : -1;
}

static int drop(void **state)
{
    (void)state;
    if (handle) dlclose(handle);
    return unlink(library);
}

static struct gpus *look(int which)
{
    static struct gpus g;
    struct err_text why = {{0}};
    *machine = which;
    memset(&g, 0xa5, sizeof g);
    if (gpus_read(library, &g, &why)) fail_msg("%s", why.s);
    assert_int_equal(*is_open, 0); // closed again
    return &g;
}

static void two_with_a_bridge(void **state)
{
    (void)state;
    const struct gpus *g = look(PAIR_3090);
    assert_int_equal(g->n, 2);
    assert_string_equal(g->none, "");
    assert_string_equal(g->driver, "580.95.05");
    const struct gpu *a = &g->at[0];
    assert_string_equal(a->name, "NVIDIA GeForce RTX 3090");
    assert_string_equal(g->at[1].bus, "00000000:0B:00.0");
    assert_int_equal(a->mem_bytes, 25769803776);
    assert_int_equal(a->mem_free_bytes, 25769803776 - (512 << 20));
    assert_false(a->unified);
    assert_int_equal(a->cc_major * 10 + a->cc_minor, 86);
    assert_int_equal(a->pcie_gen, 4);
    assert_int_equal(a->pcie_lanes, 16);
    assert_int_equal(a->n_nvlink, 4);
    assert_int_equal(g->paths[0][1], GPUS_NVLINK);
    assert_int_equal(g->paths[1][0], GPUS_NVLINK);
    // The data sheet: 936 GB/s, 35.6 TFLOP/s, 284 TOP/s, and 56.25 GB/s each way of the bridge.
    assert_float_equal(g->path_bytes_per_s[0][1], 56.25e9, 0.1e9);
    assert_float_equal(a->read_bytes_per_s, 936e9, 1e9);
    assert_float_equal(a->f32_flops_per_s, 35.6e12, 0.1e12);
    assert_float_equal(a->int8_ops_per_s, 284e12, 2e12);
}

static void one_that_shares_the_memory(void **state)
{
    (void)state;
    const struct gpus *g = look(SPARK);
    assert_int_equal(g->n, 1);
    assert_true(g->at[0].unified);
    assert_int_equal(g->at[0].mem_bytes, 0);
    assert_int_equal(g->at[0].pcie_lanes, 0);
    assert_float_equal(g->at[0].read_bytes_per_s, 273e9, 1e9);
    assert_float_equal(g->at[0].f32_flops_per_s, 31e12, 0.1e12);
}

static void eight_behind_a_switch(void **state)
{
    (void)state;
    const struct gpus *g = look(EIGHT_H100);
    assert_int_equal(g->n, 8);
    for (int i = 0; i < 8; i++)
        for (int k = 0; k < 8; k++)
            if (i != k) assert_int_equal(g->paths[i][k], GPUS_NVLINK);
    assert_float_equal(g->path_bytes_per_s[0][7], 478e9, 1e9);
    assert_float_equal(g->at[3].read_bytes_per_s, 3352e9, 1e9);
    assert_float_equal(g->at[3].f32_flops_per_s, 67e12, 0.1e12);
}

static void two_without_a_bridge(void **state)
{
    (void)state;
    const struct gpus *g = look(TWO_4090);
    assert_int_equal(g->at[0].n_nvlink, 0);
    assert_int_equal(g->paths[0][1], GPUS_BRIDGE);
    assert_float_equal(g->path_bytes_per_s[0][1], 31.5e9, 0.1e9); // PCIe 4.0 x16
}

static void no_gpu_is_no_failure(void **state)
{
    (void)state;
    struct err_text why;
    struct gpus g = {.n = 5};
    assert_int_equal(gpus_read("/no/such/library.so", &g, &why), OK);
    assert_int_equal(g.n, 0);
    assert_string_equal(g.none, "no NVIDIA driver: no GPU");
    assert_int_equal(look(NO_DRIVER)->n, 0);
    assert_string_equal(look(NO_DRIVER)->none, "NVIDIA driver not loaded: no GPU");
    assert_int_equal(look(NONE)->n, 0);
    assert_non_null(strstr(look(NONE)->none, "knows no GPU"));
}

static void nonsense_is_refused(void **state)
{
    (void)state;
    static const struct {
        int machine;
        const char *says;
    } cases[] = {
        {LOST, "name of GPU 0: GPU is lost"},
        {LIAR, "has 51539607552 bytes free of 25769803776"},
        {TOO_MANY, "17 GPUs, allowed 16"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct gpus g = {.n = 5};
        struct err_text why = {{0}};
        *machine = cases[i].machine;
        assert_int_equal(gpus_read(library, &g, &why), ERR_DEVICE);
        if (!strstr(why.s, cases[i].says)) fail_msg("%s", why.s);
        assert_int_equal(g.n, 5); // untouched
        assert_int_equal(*is_open, 0);
    }
    // A library of another kind.
    struct gpus g;
    struct err_text why = {{0}};
    assert_int_equal(gpus_read("libm.so.6", &g, &why), ERR_DEVICE);
    assert_non_null(strstr(why.s, "has no nvmlInit_v2"));
}

static void this_machine(void **state)
{
    (void)state;
    struct gpus g;
    struct err_text why = {{0}};
    if (gpus_read(NULL, &g, &why)) fail_msg("%s", why.s);
    assert_true(g.n > 0 ? g.none[0] == 0 : g.none[0] != 0);
    print_message("%d GPUs%s%s\n", g.n, g.n ? ": " : "; ", g.n ? g.at[0].name : g.none);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_with_a_bridge),     cmocka_unit_test(one_that_shares_the_memory),
        cmocka_unit_test(eight_behind_a_switch), cmocka_unit_test(two_without_a_bridge),
        cmocka_unit_test(no_gpu_is_no_failure),  cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(this_machine),
    };
    return cmocka_run_group_tests(tests, build, drop);
}
