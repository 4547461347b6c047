#include "proto/wire/wire_priv.h"

err_t wire_rates_in(struct wire_in *in, const Trireme__Rates *r, struct rates *out)
{
    struct err_text said = {{0}};
    *out = (struct rates){0};
    if (!r) return OK;
    WIRE_NEED(in, r->n_dtypes >= 1 && r->n_dtypes <= RATES_TYPES_MAX,
              "hello: measured rates of %zu types, allowed 1 to %d", r->n_dtypes, RATES_TYPES_MAX);
    WIRE_NEED(in, r->n_mul_per_s == r->n_dtypes * RATES_POINTS,
              "hello: %zu measured rates of %zu types, %d of each are needed", r->n_mul_per_s,
              r->n_dtypes, RATES_POINTS);
    struct rates mine = {
        .n_type = (int32_t)r->n_dtypes,
        .attn_one_flops_per_s = r->attn_one_flops_per_s,
        .attn_many_flops_per_s = r->attn_many_flops_per_s,
        .product_us = r->product_us,
        .layer_us = r->layer_us,
        .float_ns = r->float_ns,
        .seq_us = r->seq_us,
        .logit_ns = r->logit_ns,
    };
    for (int32_t i = 0; i < mine.n_type; i++) {
        // What is no type at all is refused below, together with what is no type of weights.
        const uint32_t t = r->dtypes[i];
        mine.types[i].dtype = t < DT_COUNT ? (enum dtype)t : DT_NONE;
        for (int32_t p = 0; p < RATES_POINTS; p++)
            mine.types[i].mul_per_s[p] = r->mul_per_s[i * RATES_POINTS + p];
    }
    WIRE_NEED(in, rates_check(&mine, &said) == OK, "hello: %s", said.s);
    *out = mine;
    return OK;
}

bool wire_rates_out(struct arena *a, const struct rates *r, Trireme__Rates **out)
{
    if (!r->n_type) return true;
    const size_t n = (size_t)r->n_type;
    Trireme__Rates *to = arena_take(a, sizeof *to);
    if (to) trireme__rates__init(to);
    if (to) to->dtypes = arena_take_n(a, n, sizeof *to->dtypes);
    if (to) to->mul_per_s = arena_take_n(a, n * RATES_POINTS, sizeof *to->mul_per_s);
    if (!to || !to->dtypes || !to->mul_per_s) return false;
    to->n_dtypes = n;
    to->n_mul_per_s = n * RATES_POINTS;
    for (size_t i = 0; i < n; i++) {
        to->dtypes[i] = r->types[i].dtype;
        for (size_t p = 0; p < RATES_POINTS; p++)
            to->mul_per_s[i * RATES_POINTS + p] = r->types[i].mul_per_s[p];
    }
    to->attn_one_flops_per_s = r->attn_one_flops_per_s;
    to->attn_many_flops_per_s = r->attn_many_flops_per_s;
    to->product_us = r->product_us;
    to->layer_us = r->layer_us;
    to->float_ns = r->float_ns;
    to->seq_us = r->seq_us;
    to->logit_ns = r->logit_ns;
    *out = to;
    return true;
}
