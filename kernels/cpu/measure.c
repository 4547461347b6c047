// measure: peaks of this machine. The best of several passes counts: a peak is what the machine can
// do, not what its neighbours left of it.
#include "kernels/cpu/cpu.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"

#include <stdlib.h>
#include <string.h>

enum { MEASURE_CHUNK = 1 << 20, MEASURE_CHUNKS = 256, MEASURE_OPS = 1 << 23 };

struct measure_call {
    const struct leaf_isa *isa;
    uint8_t *data;
    uint64_t seen[POOL_THREADS_MAX]; // results, so that the work is not left out
};

static void fill_item(void *arg, int32_t item, int32_t thread)
{
    (void)thread;
    struct measure_call *m = arg;
    memset(m->data + (int64_t)item * MEASURE_CHUNK, item + 1, MEASURE_CHUNK);
}

static void read_item(void *arg, int32_t item, int32_t thread)
{
    struct measure_call *m = arg;
    m->seen[thread] ^= m->isa->read(m->data + (int64_t)item * MEASURE_CHUNK, MEASURE_CHUNK);
}

static void int8_item(void *arg, int32_t item, int32_t thread)
{
    (void)item;
    struct measure_call *m = arg;
    m->seen[thread] ^= (uint64_t)m->isa->spin_int8(MEASURE_OPS);
}

static void f32_item(void *arg, int32_t item, int32_t thread)
{
    (void)item;
    struct measure_call *m = arg;
    m->seen[thread] ^= (uint64_t)(m->isa->spin_f32(MEASURE_OPS) * 1000);
}

// Work per second of the best pass; one pass is n_item items of `work` each.
static double best_rate(struct pool *p, int32_t n_item, double work, pool_fn *fn,
                        struct measure_call *m, int32_t budget_ms)
{
    double best = 0;
    int64_t end = clock_now_us() + (int64_t)budget_ms * 1000;
    do {
        int64_t t = clock_now_us();
        pool_run(p, n_item, fn, m);
        t = clock_now_us() - t;
        double rate = n_item * work * 1e6 / (double)(t > 0 ? t : 1);
        best = rate > best ? rate : best;
    } while (clock_now_us() < end);
    return best;
}

err_t kernels_measure_peaks(int32_t n_threads, int32_t budget_ms, struct kernels_peaks *out)
{
    struct pool *p;
    err_t e = pool_open(n_threads, &p);
    if (e) return e;
    struct measure_call *m = calloc(1, sizeof *m);
    uint8_t *data = aligned_alloc(4096, (size_t)MEASURE_CHUNK * MEASURE_CHUNKS);
    if (m && data) {
        *m = (struct measure_call){.isa = cpu_isa(NULL), .data = data};
        pool_run(p, MEASURE_CHUNKS, fill_item, m);
        struct kernels_peaks peaks = {
            .read_bytes_per_s =
                best_rate(p, MEASURE_CHUNKS, MEASURE_CHUNK, read_item, m, budget_ms),
            .int8_ops_per_s =
                best_rate(p, 8 * n_threads, 2.0 * MEASURE_OPS, int8_item, m, budget_ms),
            .f32_flops_per_s =
                best_rate(p, 8 * n_threads, 2.0 * MEASURE_OPS, f32_item, m, budget_ms),
        };
        *out = peaks;
    } else {
        e = ERR_MEMORY;
        log_error("measuring peaks: no memory for a buffer of %d MiB", (int)MEASURE_CHUNKS);
    }
    free(data);
    free(m);
    pool_close(p);
    return e;
}
