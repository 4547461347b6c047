// layer_moe: what the two sides of a layer of experts share; for layer_moe*.c only.
#pragma once
#include "worker/layer.h"

// Products [from, from + n) of the sorted list: row[i] of x (n_x, dim) with the expert that lies at
// place[i] of this member's stacks; their results into y (n, dim).
struct moe_products {
    const float *x;
    int32_t n_x, n;
    const int32_t *row, *place;
    float *y;
};
void moe_compute(struct pass *p, const struct part *w, const struct moe_products *a);

// Lead of a group of experts: each owner's rows, then what they made of them, into y.
void moe_send(struct pass *p);
void moe_receive(struct pass *p);
// Products that this member computes at most in one step, and rows that travel at most.
int64_t moe_products_max(const struct pass_limits *l);
int64_t moe_rows_max(const struct pass_limits *l);
