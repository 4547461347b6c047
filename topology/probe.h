// probe: what a machine says of itself, without running anything on it. Bandwidth and peaks are
// measured by the worker; links by the coordinator.
#pragma once
#include "proto/base/err.h"
#include <stdbool.h>

// Instruction sets that some kernel cares about.
enum probe_isa {
    PROBE_AVX2 = 1 << 0,
    PROBE_FMA = 1 << 1,
    PROBE_F16C = 1 << 2,
    PROBE_AVX_VNNI = 1 << 3,
    PROBE_AVX512F = 1 << 4,
    PROBE_AVX512BW = 1 << 5,
    PROBE_AVX512_VNNI = 1 << 6,
    PROBE_AMX_INT8 = 1 << 7,
    PROBE_NEON = 1 << 8,
    PROBE_DOTPROD = 1 << 9,
    PROBE_I8MM = 1 << 10,
    PROBE_SVE = 1 << 11,
};

struct probe {
    char host[64];
    char cpu[96];  // model name
    char arch[16]; // "x86_64", "aarch64"
    char isa[160]; // words of `isa_bits`, for people
    uint32_t isa_bits;
    int32_t n_package, n_core, n_thread, n_numa; // of the machine
    int32_t n_usable; // threads this process may keep busy (affinity, cgroup quota)
    double quota;     // processors' worth of time that cgroups leave us; 0: no bound
    uint64_t l1d_bytes, l2_bytes, l3_bytes; // of one core, one core, one L3 domain; 0: unknown
    uint64_t page_bytes;
    uint64_t mem_total_bytes;     // of the machine, or the cgroup's limit where that is lower
    uint64_t mem_available_bytes; // without swapping, within the cgroup's limit
    bool is_limited;              // a cgroup limit is in force
};

// ERR_SYSTEM if the machine does not say. Slow (tens of milliseconds): once at start.
err_t probe_read(struct probe *out, struct err_text *why);

// Memory and CPU quota as the files below `root` tell: "" for this machine, a copy of /proc and
// /sys/fs/cgroup in tests. Fills mem_*, is_limited, quota, and n_usable (0: none).
err_t probe_limits(const char *root, struct probe *out, struct err_text *why);
// The part of a thread's time that each of n threads has under the quota: 1 without one.
double probe_part(const struct probe *p, int32_t n_threads);
// n_usable alone, of this process and at once: for a number of threads.
int32_t probe_usable(void);
// Instruction sets in the text of /proc/cpuinfo.
uint32_t probe_isa_of(const char *cpuinfo);
