// rate: the speed of this machine's own operations (proto/base/rates.h), measured by running them
// on made-up data for about two seconds.
#pragma once
#include "proto/base/rates.h"
#include "worker/measure.h"

// Measured now. ERR_MEMORY, ERR_UNSUPPORTED.
err_t rate_measure(const char *isa, int32_t n_threads, struct rates *out, struct err_text *why);
// The figures kept for this machine, or measured and kept.
err_t rate_machine(const struct probe *p, const struct measure_ask *ask, struct rates *out,
                   struct err_text *why);
