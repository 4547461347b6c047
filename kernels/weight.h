// weight: exp as the drawing of ids needs it, on hosts and devices: our own, because the C
// library's may differ from machine to machine.
#pragma once
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define WEIGHT_FN static __host__ __device__ inline
#else
#define WEIGHT_FN static inline
#endif

enum { WEIGHT_NATS = 40 };

// exp(x) for -WEIGHT_NATS <= x <= 0, to a few units of the last place of a float. Cody and Waite
// 1980: x = n ln2 + r, |r| <= ln2/2.
WEIGHT_FN float weight_of(float x)
{
    const double t = (double)x * 1.4426950408889634;
    const int32_t n = (int32_t)(t - 0.5); // nearest, as t <= 0
    const double r = (double)x - (double)n * 0.6931471805599453;
    double p = 1.0 / 5040;
    p = p * r + 1.0 / 720;
    p = p * r + 1.0 / 120;
    p = p * r + 1.0 / 24;
    p = p * r + 1.0 / 6;
    p = p * r + 0.5;
    p = p * r + 1;
    p = p * r + 1;
    const uint64_t bits = (uint64_t)(1023 + n) << 52;
    double scale;
    memcpy(&scale, &bits, 8);
    return (float)(p * scale);
}
