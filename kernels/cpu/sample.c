// sample: reductions over the vocabulary. A row is reduced in chunks of REDUCE_CHUNK elements and
// the chunks are merged in order, on whichever threads they were.
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

struct reduce_call {
    const float *x;
    int64_t n;
    int32_t chunks;
    bool with_sum;
};

static void reduce_chunks(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    const struct reduce_call *r = arg;
    for (int64_t i = from; i < to; i++) {
        int64_t at = i % r->chunks * REDUCE_CHUNK, left = r->n - at;
        const float *x = r->x + i / r->chunks * r->n + at;
        int64_t n = left < REDUCE_CHUNK ? left : REDUCE_CHUNK;
        c->part_max[i] = c->isa->max(x, n);
        if (r->with_sum)
            c->part_sum[i] = c->isa->sum_exp(x, isfinite(c->part_max[i]) ? c->part_max[i] : 0, n);
    }
}

static struct reduce_call reduce(struct cpu *c, const float *x, int32_t n_row, int64_t n,
                                 bool with_sum)
{
    BUG_ON(n < 1 || n > c->lim.max_rows || n_row > c->lim.max_tok);
    struct reduce_call r = {x, n, (int32_t)((n - 1) / REDUCE_CHUNK + 1), with_sum};
    cpu_for(c, (int64_t)n_row * r.chunks, 1, reduce_chunks, &r);
    return r;
}

void sample_argmax(struct kernels *k, const float *x, int32_t n_row, int64_t n, int32_t *out)
{
    struct cpu *c = cpu_of(k);
    struct reduce_call r = reduce(c, x, n_row, n, false);
    for (int32_t i = 0; i < n_row; i++) {
        const float *max = c->part_max + (int64_t)i * r.chunks, *row = x + i * n;
        int32_t best = 0;
        for (int32_t j = 1; j < r.chunks; j++)
            if (max[j] > max[best]) best = j;
        int64_t at = (int64_t)best * REDUCE_CHUNK;
        while (at < n && row[at] != max[best])
            at++;
        out[i] = at < n ? (int32_t)at : 0; // only NaN: nothing equals
    }
}

void sample_logsumexp(struct kernels *k, const float *x, int32_t n_row, int64_t n, double *out)
{
    struct cpu *c = cpu_of(k);
    struct reduce_call r = reduce(c, x, n_row, n, true);
    for (int32_t i = 0; i < n_row; i++) {
        const float *max = c->part_max + (int64_t)i * r.chunks;
        const double *part = c->part_sum + (int64_t)i * r.chunks;
        float top = max[0];
        for (int32_t j = 1; j < r.chunks; j++)
            top = max[j] > top ? max[j] : top;
        double base = isfinite(top) ? (double)top : 0, sum = 0;
        for (int32_t j = 0; j < r.chunks; j++)
            sum += part[j] * exp((isfinite(max[j]) ? (double)max[j] : 0) - base);
        out[i] = base + log(sum);
    }
}

struct finite_call {
    const float *x;
    int64_t n;
    bool *out;
};

// Two floats at a time: adding one to an exponent of all ones carries into the sign bit.
static void finite_rows(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    (void)c;
    const struct finite_call *f = arg;
    const uint64_t exponents = 0x7f8000007f800000, one = 0x0080000000800000;
    for (int64_t row = from; row < to; row++) {
        const float *x = f->x + row * f->n;
        uint64_t seen = 0;
        int64_t i = 0;
        for (; i + 2 <= f->n; i += 2) {
            uint64_t two;
            memcpy(&two, x + i, 8);
            seen |= (two & exponents) + one;
        }
        f->out[row] = !(seen & 0x8000000080000000) && (i == f->n || isfinite(x[i]));
    }
}

void sample_finite(struct kernels *k, const float *x, int32_t n_row, int64_t n, bool *out)
{
    struct finite_call f = {x, n, out};
    cpu_for(cpu_of(k), n_row, 1, finite_rows, &f);
}
