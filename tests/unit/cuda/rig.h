// rig: two backends, the one of the CPU and the kernels of the device run on the host, and arrays
// in the memory of either. A test does the same on both and compares.
#pragma once
#include "kernels/cuda/host.h"
#include "kernels/cuda/module.h"
#include "proto/base/err.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t rig_seed = 88172645463325252u;
static uint32_t rig_random(void) // xorshift64*
{
    rig_seed ^= rig_seed >> 12;
    rig_seed ^= rig_seed << 25;
    rig_seed ^= rig_seed >> 27;
    return (uint32_t)(rig_seed * 0x2545f4914f6cdd1d >> 32);
}

// n floats about normal, on the host; the caller frees them.
static float *rig_floats(int64_t n)
{
    float *p = malloc((size_t)n * sizeof *p + 1);
    if (!p) exit(2);
    for (int64_t i = 0; i < n; i++) {
        int32_t s = 0;
        for (int j = 0; j < 4; j++)
            s += (int32_t)(rig_random() & 0xffff) - 0x8000;
        p[i] = (float)s / 0x8000;
    }
    return p;
}

extern const struct kernels_module kernels_cuda_module;

static struct kernels *rig_open(bool cuda, const struct kernels_limits *limits,
                                enum precision precision)
{
    struct kernels_limits l = *limits;
    struct err_text why;
    struct kernels *k;
    l.precision = precision;
    // The module in a file, of a real device perhaps, where the environment names one.
    const err_t e = !cuda                    ? kernels_open_cpu(NULL, &l, &k, &why)
                    : getenv("TRIREME_CUDA") ? kernels_open_cuda(0, &l, &k, &why)
                                             : kernels_cuda_module.open(0, &l, &k, &why);
    if (e) {
        printf("%s\n", why.s);
        exit(2);
    }
    return k;
}

static void *rig_take(struct kernels *k, uint64_t bytes)
{
    void *p;
    struct err_text why;
    if (k->ops->take(k, bytes, "a test", &p, &why)) {
        printf("%s\n", why.s);
        exit(2);
    }
    return p;
}

// A copy of n host floats in the backend's memory.
static float *rig_put(struct kernels *k, const float *from, int64_t n)
{
    float *p = rig_take(k, (uint64_t)n * sizeof *p);
    k->ops->put(k, p, from, (uint64_t)n * sizeof *p);
    return p;
}

static void rig_give(struct kernels *k, void *p, int64_t n_float)
{
    if (p) k->ops->give(k, p, (uint64_t)n_float * sizeof(float));
}

// Largest difference, by the size of the numbers where they are larger than 1; NaN if there is one.
static double rig_error(const float *a, const float *b, int64_t n)
{
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
        const double e = fabs((double)a[i] - (double)b[i]) / fmax(1, fabs((double)a[i]));
        if (isnan(e)) return e;
        worst = fmax(worst, e);
    }
    return worst;
}

static int rig_failed;
static void rig_expect(const char *what, double error, double allowed)
{
    const bool ok = error <= allowed; // a NaN fails
    if (!ok || getenv("KERNELS_CHECK_ALL"))
        printf("%-58s error %-10.3g allowed %-10.3g %s\n", what, error, allowed,
               ok ? "ok" : "FAILED");
    rig_failed += !ok;
}

static void rig_status(struct kernels *k)
{
    struct err_text why;
    if (k->ops->status(k, &why) == OK) return;
    printf("%s: %s\n", k->ops->name, why.s);
    rig_failed++;
}
