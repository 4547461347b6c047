// module: what libtrireme-cuda.so shows: one symbol, kernels_cuda_module. kernels/module.c opens
// it.
#pragma once
#include "kernels/cuda/device.h"

enum { KERNELS_MODULE_VERSION = 5 }; // changes with this header, kernels.h and group.h

struct kernels_module {
    int32_t version;                              // KERNELS_MODULE_VERSION
    uint32_t ops_bytes, limits_bytes, step_bytes; // sizeof of the structs of kernels.h
    const char *name;                             // "cuda", "cuda on host"
    err_t (*count)(int32_t *n_device, struct err_text *why);
    err_t (*about)(int32_t device, struct device_info *out, struct err_text *why);
    err_t (*open)(int32_t device, const struct kernels_limits *limits, struct kernels **out,
                  struct err_text *why);
    // kernels_measure_peaks_of
    err_t (*peaks)(int32_t device, int32_t budget_ms, struct kernels_peaks *out,
                   struct err_text *why);
    err_t (*group)(struct kernels *k, const struct kernels_group_config *c,
                   struct kernels_group **out, struct err_text *why);
};
#define KERNELS_MODULE_SYMBOL "kernels_cuda_module"
