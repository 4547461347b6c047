// exact_kernels: the reference backend as tests of loading need it.
#pragma once
#include "kernels/kernels.h"

static inline struct kernels *open_kernels(void)
{
    const struct kernels_limits l = {.n_threads = 1,
                                     .precision = PRECISION_EXACT,
                                     .max_tok = 8,
                                     .max_cols = 1 << 16,
                                     .max_rows = 1 << 20,
                                     .max_head = 4,
                                     .max_head_dim = 64,
                                     .max_ctx = 64};
    struct kernels *k;
    struct err_text why;
    if (kernels_open_cpu("reference", &l, &k, &why)) fail_msg("%s", why.s);
    return k;
}
