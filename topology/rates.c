#include "topology/rates.h"

#include <math.h>
#include <stddef.h>

const int32_t rates_rows[RATES_POINTS] = {1, 4, 16, 64, 512};

static double bits_of(enum dtype t)
{
    const struct dtype_info *i = dtype_info(t);
    return 8.0 * i->bytes / i->block;
}

const struct rates_type *rates_find(const struct rates *r, enum dtype t)
{
    const struct rates_type *best = NULL;
    double best_far = INFINITY;
    for (int32_t i = 0; i < r->n_type; i++) {
        const struct rates_type *one = &r->types[i];
        if (one->dtype == t) return one;
        if (dtype_info(one->dtype)->is_quantised != dtype_info(t)->is_quantised) continue;
        const double far = fabs(bits_of(one->dtype) - bits_of(t));
        if (far >= best_far) continue;
        best = one;
        best_far = far;
    }
    return best;
}

// Seconds of one element for all rows at a measured point.
static double at(const struct rates_type *t, int32_t i)
{
    return rates_rows[i] / t->mul_per_s[i];
}

double rates_seconds(const struct rates_type *t, double rows, double n)
{
    int32_t i = 0;
    while (i + 2 < RATES_POINTS && rows > rates_rows[i + 1])
        i++;
    const double slope = (at(t, i + 1) - at(t, i)) / (rates_rows[i + 1] - rates_rows[i]);
    const double s = at(t, i) + slope * (rows - rates_rows[i]);
    // Noise in the last two points must not make more rows cheaper than fewer.
    const double least = at(t, i) < at(t, i + 1) ? at(t, i) : at(t, i + 1);
    return n * (s > least ? s : least);
}
