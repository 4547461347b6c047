// peaks: what a device reaches at most, measured (kernels_measure_peaks_of).
#pragma once
#include "kernels/cuda/contract.h"

#ifdef __cplusplus
extern "C" {
#endif

// Each figure takes about budget_ms. Takes up to 1 GiB of the device, less where less is free.
err_t peaks_measure(int32_t device, int32_t budget_ms, struct kernels_peaks *out,
                    struct err_text *why);

#ifdef __cplusplus
}
#endif
