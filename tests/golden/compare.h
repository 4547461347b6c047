// How far two rows of logits are from each other.
#pragma once
#include <math.h>
#include <stdint.h>

static inline int32_t best_of(const float *logits, int32_t n)
{
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

// How far the best is above the second.
static inline double margin_of(const float *logits, int32_t n)
{
    const int32_t best = best_of(logits, n);
    double second = -INFINITY;
    for (int32_t i = 0; i < n; i++)
        if (i != best && (double)logits[i] > second) second = (double)logits[i];
    return (double)logits[best] - second;
}

// Largest difference; NaN if there is one.
static inline double max_diff(const float *a, const float *b, uint64_t n)
{
    double max = 0;
    for (uint64_t i = 0; i < n; i++) {
        const double e = fabs((double)a[i] - (double)b[i]);
        if (!(e <= max)) max = e;
    }
    return max;
}

static inline double log_sum_exp(const float *x, int32_t n)
{
    double max = x[0], sum = 0;
    for (int32_t i = 1; i < n; i++)
        if (x[i] > max) max = x[i];
    for (int32_t i = 0; i < n; i++)
        sum += exp((double)x[i] - max);
    return max + log(sum);
}

// Kullback-Leibler divergence of softmax(q) from softmax(p).
static inline double kl_of(const float *p, const float *q, int32_t n)
{
    const double log_p = log_sum_exp(p, n), log_q = log_sum_exp(q, n);
    double kl = 0;
    for (int32_t i = 0; i < n; i++) {
        const double lp = (double)p[i] - log_p;
        if (lp > -40) kl += exp(lp) * (lp - ((double)q[i] - log_q));
    }
    return kl;
}
