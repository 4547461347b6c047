// act: activations that other kernels take into their own work.
#pragma once
#include "kernels/cuda/simt.h"
#include "kernels/cuda/contract.h"

static __device__ __forceinline__ float sigmoid_of(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

struct op_glu {
    int kind;
    float alpha, limit;
    __device__ __forceinline__ float operator()(float g, float u) const
    {
        if (kind == GLU_SILU) return g / (1.0f + expf(-g)) * u;
        if (kind == GLU_GELU_TANH) {
            // x (1 + tanh v) / 2 = x / (1 + e^(-2v)), v = sqrt(2/pi) (x + 0.044715 x^3)
            const float v = g * fmaf(g * g, 0.044715f, 1.0f);
            return g / (1.0f + expf(v * -1.59576912f)) * u;
        }
        if (kind == GLU_GELU) return 0.5f * g * (1.0f + erff(g * 0.70710678f)) * u;
        g = fminf(limit, g);
        u = fmaxf(-limit, fminf(limit, u));
        return g / (1.0f + expf(-alpha * g)) * (u + 1.0f);
    }
};
static inline struct op_glu glu_of(const struct glu *g)
{
    return {(int)g->kind, g->alpha, g->limit};
}
