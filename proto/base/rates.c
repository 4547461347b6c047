#include "proto/base/rates.h"

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

void rates_scale(struct rates *r, double part)
{
    for (int32_t i = 0; i < r->n_type; i++)
        for (int p = 0; p < RATES_POINTS; p++)
            r->types[i].mul_per_s[p] *= part;
    r->attn_one_flops_per_s *= part;
    r->attn_many_flops_per_s *= part;
    double *const times[] = {&r->product_us, &r->layer_us, &r->float_ns, &r->seq_us, &r->logit_ns};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++)
        *times[i] /= part;
}

double rates_read_bytes(const struct rates *r)
{
    double most = 0;
    for (int32_t i = 0; i < r->n_type; i++)
        most = fmax(most, r->types[i].mul_per_s[0] * bits_of(r->types[i].dtype) / 8);
    return most;
}

void rates_bound(struct rates *r, double read_bytes_per_s)
{
    for (int32_t i = 0; i < r->n_type; i++)
        for (int p = 0; p < RATES_POINTS; p++) {
            struct rates_type *t = &r->types[i];
            const double most = read_bytes_per_s * 8 / bits_of(t->dtype) * rates_rows[p];
            if (t->mul_per_s[p] > most) t->mul_per_s[p] = most;
        }
}

double rates_speed(const struct rates *r)
{
    enum { POINTS = 3 };
    double sum = 0;
    for (int32_t i = 0; i < r->n_type; i++)
        for (int p = 0; p < POINTS; p++)
            sum += log(r->types[i].mul_per_s[p]);
    return r->n_type ? exp(sum / (r->n_type * POINTS)) : 0;
}

static err_t check_type(const struct rates *r, int32_t i, struct err_text *why)
{
    const struct rates_type *t = &r->types[i];
    if (t->dtype <= DT_NONE || t->dtype >= DT_COUNT || !dtype_is_weight(t->dtype))
        return err_say(why, ERR_CONFIG, "measured rates of type %d, allowed are types of weights",
                       (int)t->dtype);
    for (int32_t k = 0; k < i; k++)
        if (r->types[k].dtype == t->dtype)
            return err_say(why, ERR_CONFIG, "measured rates of %s are there twice, allowed once",
                           dtype_info(t->dtype)->name);
    for (int p = 0; p < RATES_POINTS; p++)
        if (!(t->mul_per_s[p] >= 1e6 && t->mul_per_s[p] <= 1e19))
            return err_say(why, ERR_CONFIG,
                           "measured rate of %s at %d rows is %g, allowed 1e6 to 1e19",
                           dtype_info(t->dtype)->name, rates_rows[p], t->mul_per_s[p]);
    return OK;
}

err_t rates_check(const struct rates *r, struct err_text *why)
{
    const struct {
        const char *what;
        double v, min, max;
    } rules[] = {
        {"attn_one_flops_per_s", r->attn_one_flops_per_s, 1e6, 1e19},
        {"attn_many_flops_per_s", r->attn_many_flops_per_s, 1e6, 1e19},
        {"product_us", r->product_us, 0, 1e6},
        {"layer_us", r->layer_us, 0, 1e6},
        {"float_ns", r->float_ns, 0, 1e6},
        {"seq_us", r->seq_us, 0, 1e6},
        {"logit_ns", r->logit_ns, 0, 1e6},
    };
    if (r->n_type == 0) return OK;
    if (r->n_type < 0 || r->n_type > RATES_TYPES_MAX)
        return err_say(why, ERR_CONFIG, "measured rates of %d types, allowed 1 to %d", r->n_type,
                       RATES_TYPES_MAX);
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (!(rules[i].v >= rules[i].min && rules[i].v <= rules[i].max))
            return err_say(why, ERR_CONFIG, "measured %s is %g, allowed %g to %g", rules[i].what,
                           rules[i].v, rules[i].min, rules[i].max);
    err_t e = OK;
    for (int32_t i = 0; !e && i < r->n_type; i++)
        e = check_type(r, i, why);
    return e;
}
