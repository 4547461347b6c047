// gpus: the NVIDIA GPUs of this machine as their management library (NVML) tells, which is opened
// at run time: no driver, no GPUs, and nothing to link with. Nothing runs on the GPUs: bandwidth
// and peaks here follow from widths and clocks, as a data sheet's do.
//
// Entry points and layouts: NVML API Reference Guide (docs.nvidia.com/deploy/nvml-api).
#pragma once
#include "proto/base/err.h"
#include <stdbool.h>

enum { GPUS_MAX = 16 };

enum gpus_path {
    GPUS_UNKNOWN,
    GPUS_NVLINK,  // lanes of their own, directly or through a switch
    GPUS_SWITCH,  // the same PCIe switch
    GPUS_BRIDGE,  // the same host bridge or NUMA node
    GPUS_SOCKETS, // between sockets
};

struct gpu {
    char name[96]; // "NVIDIA GeForce RTX 3090"
    char bus[32];  // PCI address
    bool unified;  // shares the host's memory; mem_* are 0: ask the host
    uint64_t mem_bytes, mem_free_bytes;
    int32_t cc_major, cc_minor;               // compute capability
    uint32_t pcie_gen, pcie_lanes;            // at most; 0: unknown, or none (unified)
    uint32_t n_core, bus_bits;                // 0: unknown
    uint32_t core_mhz, mem_mhz;               // at most; 0: unknown
    uint32_t n_nvlink, nvlink_mbyte_s;        // active links; of one link, one way
    double read_bytes_per_s, f32_flops_per_s; // derived; 0: unknown
    double int8_ops_per_s;                    // derived
};

struct gpus {
    char none[160];  // why there are none, for people; empty when there are some
    char driver[80]; // version
    int32_t n;
    struct gpu at[GPUS_MAX];
    enum gpus_path paths[GPUS_MAX][GPUS_MAX];    // between two
    double path_bytes_per_s[GPUS_MAX][GPUS_MAX]; // one way, derived; 0: unknown
};

// library: NULL for the driver's own, "libnvidia-ml.so.1". Without a driver this is no failure:
// n is 0 and `none` says why. ERR_DEVICE: there is a driver, and it does not answer as documented.
err_t gpus_read(const char *library, struct gpus *out, struct err_text *why);
// Of the GPU's own connection, one way, less what the encoding takes; 0: unknown, or none.
double gpus_pcie_bytes_per_s(const struct gpu *g);
const char *gpus_path_name(enum gpus_path p); // "NVLink", "PCIe switch", ...
