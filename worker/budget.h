// budget: how much memory a plan may take where a worker computes: the host's for the CPU, the
// device's for a device. An integrated device shares the host's, where the rest of the system must
// live too: 8 % of it, 8 GiB at least, stay free whatever is asked for.
#pragma once
#include "proto/base/err.h"
#include <stdbool.h>

struct budget {
    bool is_host, is_unified; // the CPU; a device in the host's memory
    bool is_emulated;         // kernels_about's
    char name[64];            // of a device
    uint64_t total_bytes;
    uint64_t free_bytes; // now, less what is to stay free
    uint64_t most_bytes; // `share` of all
};

// device: kernels_open's. share: of a device's memory, that several workers divide; 0: all of it.
// The host's is looked up; a device's is asked for (kernels_about), which takes longer.
err_t budget_read(const char *device, double share, struct budget *out, struct err_text *why);
