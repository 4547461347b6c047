// device_bench: what the benchmarks of single operations on a device share: memory, timing of work
// that is recorded and repeated as a step is, and what a copy on the device reaches.
#pragma once
#include "kernels/kernels.h"
#include "proto/base/clock.h"

#include <stdio.h>
#include <stdlib.h>

enum { ROUNDS = 5 };

struct bench {
    struct kernels *k;
    bool tiny; // to see that it works
    double copy_bytes_per_s;
    float *y; // memory of the backend that waits look at
    uint64_t key;
};

static void *take(struct bench *b, uint64_t bytes)
{
    struct err_text why;
    void *p;
    if (b->k->ops->take(b->k, bytes, "a benchmark", &p, &why)) {
        printf("%s\n", why.s);
        exit(2);
    }
    return p;
}

static void wait_all(struct bench *b)
{
    float one;
    b->k->ops->get(b->k, &one, b->y, sizeof one);
}

typedef void work_fn(struct bench *b, void *arg);

// Least seconds of a few rounds of `work`. A step with a key is recorded in the second.
static double seconds_of(struct bench *b, work_fn *work, void *arg, struct kernels_step s)
{
    double best = 1e9;
    for (int i = 0; i < (b->tiny ? 2 : ROUNDS + 3); i++) {
        wait_all(b);
        const int64_t from = clock_now_ns();
        if (!b->k->ops->enter(b->k, &s)) {
            work(b, arg);
            b->k->ops->leave(b->k);
        }
        wait_all(b);
        const double t = (double)(clock_now_ns() - from) * 1e-9;
        if ((i >= 3 || b->tiny) && t < best) best = t;
    }
    return best;
}

struct copy_work {
    float *from, *to;
    int64_t n;
};
static void copy_once(struct bench *b, void *arg)
{
    const struct copy_work *w = arg;
    b->k->ops->copy(b->k, w->to, w->n, w->from, w->n, 1, w->n);
}

// A copy reads and writes; what reading alone reaches is a little more, so shares of it are a
// little high.
static void measure_copy(struct bench *b)
{
    struct copy_work w = {.n = b->tiny ? 1 << 16 : 1 << 28};
    w.from = take(b, (uint64_t)w.n * 4);
    w.to = take(b, (uint64_t)w.n * 4);
    const double t =
        seconds_of(b, copy_once, &w, (struct kernels_step){.n_tok = 1, .key = ++b->key});
    b->copy_bytes_per_s = 2.0 * 4.0 * (double)w.n / t;
    printf("# copy %.0f GB/s (read and written)\n", b->copy_bytes_per_s / 1e9);
    b->k->ops->give(b->k, w.from, (uint64_t)w.n * 4);
    b->k->ops->give(b->k, w.to, (uint64_t)w.n * 4);
}
