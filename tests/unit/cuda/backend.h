// backend: opens the CUDA backend that runs on the host for the check programs of the CPU kernels.
// A name says in which order the threads of a block run; the bits may not depend on it.
#pragma once
#include "kernels/cuda/host.h"
#include "kernels/cuda/module.h"
#include "tests/unit/kernels/check.h"

extern const struct kernels_module kernels_cuda_module;

static const char *const cuda_orders[] = {"ascending", "descending", "shuffled"};

static err_t open_cuda(const char *name, const struct kernels_limits *l, struct kernels **out,
                       struct err_text *why)
{
    device_host_set_easy(true);
    for (int i = 0; i < 3; i++)
        if (!strcmp(name, cuda_orders[i])) simt_set_order((enum simt_order)i, 7);
    return kernels_cuda_module.open(0, l, out, why);
}

// What a device has to say of itself: kernels that failed.
static inline void check_status(struct kernels *k, const char *op)
{
    struct err_text why = {""};
    const err_t e = k->ops->status(k, &why);
    if (e) printf("%s\n", why.s);
    verdict(op, "status", e, 0);
}
