// cluster_rates: the part `kernels` of a device in a cluster file (rates.h); for cluster.c.
//
//     kernels:
//       attn_one_flops_per_s: 4.2e10
//       ...
//       Q4_0: 2.8e10 5.3e10 7.3e10 7.7e10 7.4e10    # at 1, 4, 16, 64, 512 rows
#pragma once
#include "proto/base/rates.h"

#include <cyaml/cyaml.h>

struct buf;

struct cluster_rates {
    char *attn_one_flops_per_s, *attn_many_flops_per_s;
    char *product_us, *layer_us, *float_ns, *seq_us, *logit_ns;
    char *types[DT_COUNT];
};

extern const cyaml_schema_field_t cluster_rates_fields[];

// `who` names the device. f NULL: none.
err_t cluster_rates_take(const char *who, const struct cluster_rates *f, struct rates *out,
                         struct err_text *why);
// Nothing if there are none.
void cluster_rates_write(const struct rates *r, struct buf *out);
