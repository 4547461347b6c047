// What workers of one host leave each other.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "topology/crowd.h"

// Each alone reads 20 GB/s; the host's 4 cores together 30.
static void fill(struct cluster *c, int32_t n, int32_t threads)
{
    memset(c, 0, sizeof *c);
    c->n_device = n;
    for (int32_t i = 0; i < n; i++) {
        struct cluster_device *d = &c->devices[i];
        *d = (struct cluster_device){.host = "here",
                                     .threads = threads,
                                     .read_bytes_per_s = 20e9,
                                     .int8_ops_per_s = 400e9,
                                     .f32_flops_per_s = 100e9,
                                     .host_cores = 4,
                                     .host_read_bytes_per_s = 30e9,
                                     .rates = {.n_type = 1, .layer_us = 6}};
        snprintf(d->name, sizeof d->name, "w%d", i);
        d->rates.types[0].dtype = DT_Q8_0;
        for (int p = 0; p < RATES_POINTS; p++)
            d->rates.types[0].mul_per_s[p] = 18e9;
    }
}

static bool near(double a, double b)
{
    return fabs(a / b - 1) < 1e-9;
}

static void alone_nothing_changes(void **state)
{
    (void)state;
    struct cluster c, before;
    fill(&c, 1, 4);
    before = c;
    crowd_apply(&c, 0);
    assert_memory_equal(&c, &before, sizeof c);
    // Its bandwidth was measured while somebody else had the machine.
    c.devices[0].read_bytes_per_s = c.devices[0].host_read_bytes_per_s = 5e9;
    before = c;
    crowd_apply(&c, 0);
    assert_memory_equal(&c, &before, sizeof c);
    fill(&c, 3, 2);
    before = c;
    crowd_apply(&c, 1); // one after the other
    assert_memory_equal(&c, &before, sizeof c);
}

static void bandwidth_is_shared(void **state)
{
    (void)state;
    struct cluster c;
    fill(&c, 2, 2);
    crowd_apply(&c, 0);
    const struct rates *r = &c.devices[1].rates;
    const double byte = 34.0 / 32; // of an element
    assert_true(near(c.devices[1].read_bytes_per_s, 15e9));
    assert_true(near(c.devices[1].int8_ops_per_s, 400e9)); // there are cores for all
    assert_true(near(r->types[0].mul_per_s[0], 15e9 / byte));
    assert_true(near(r->types[0].mul_per_s[1], 18e9)); // four rows read once
    assert_true(near(r->layer_us, 6));
}

static void cores_take_turns(void **state)
{
    (void)state;
    struct cluster c;
    fill(&c, 2, 4); // each would have them all
    crowd_apply(&c, 0);
    assert_true(near(c.devices[0].int8_ops_per_s, 200e9));
    assert_true(near(c.devices[0].rates.layer_us, 12));
    assert_true(near(c.devices[0].rates.types[0].mul_per_s[2], 9e9));
    assert_true(near(c.devices[0].read_bytes_per_s, 10e9));
}

static void other_hosts_and_gpus_are_left_alone(void **state)
{
    (void)state;
    struct cluster c;
    fill(&c, 3, 4);
    snprintf(c.devices[1].host, sizeof c.devices[1].host, "there");
    c.devices[2].kind = CLUSTER_CUDA;
    c.devices[2].threads = 0;
    const struct cluster before = c;
    crowd_apply(&c, 0);
    assert_memory_equal(&c, &before, sizeof c);
    fill(&c, 2, 4);
    for (int i = 0; i < 2; i++)
        c.devices[i].host_cores = c.devices[i].host_read_bytes_per_s = 0; // nobody says
    crowd_apply(&c, 0);
    assert_true(near(c.devices[0].read_bytes_per_s, 20e9));
    assert_true(near(c.devices[0].int8_ops_per_s, 400e9));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alone_nothing_changes),
        cmocka_unit_test(bandwidth_is_shared),
        cmocka_unit_test(cores_take_turns),
        cmocka_unit_test(other_hosts_and_gpus_are_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
