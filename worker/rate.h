// rate: the speed of this machine's own operations (proto/base/rates.h), or a device's, measured by
// running them on made-up data for two or three seconds.
#pragma once
#include "proto/base/rates.h"
#include "worker/measure.h"

// Measured now, in 3 s on a device. device: kernels_open's. ERR_MEMORY, ERR_UNSUPPORTED.
err_t rate_measure(const char *device, int32_t n_threads, struct rates *out, struct err_text *why);
// The figures kept for this machine, or measured and kept.
err_t rate_machine(const struct probe *p, const struct measure_ask *ask, struct rates *out,
                   struct err_text *why);
