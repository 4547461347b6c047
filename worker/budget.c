#include "worker/budget.h"
#include "kernels/kernels.h"
#include "topology/probe.h"

#include <stdio.h>

// Of a device of its own: what its driver and run-time take beside us as time goes by.
static const uint64_t RESERVE_BYTES = (uint64_t)256 << 20;
// Of memory that the whole machine lives in.
static const uint64_t UNIFIED_RESERVE_BYTES = (uint64_t)8 << 30;
static const double UNIFIED_RESERVE = 0.08;

static uint64_t less(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

static uint64_t unified_reserve(uint64_t total)
{
    const uint64_t part = (uint64_t)((double)total * UNIFIED_RESERVE);
    return part > UNIFIED_RESERVE_BYTES ? part : UNIFIED_RESERVE_BYTES;
}

err_t budget_read(const char *device, double share, struct budget *out, struct err_text *why)
{
    struct kernels_about about;
    struct probe host = {0};
    struct budget b = {0};
    err_t e = kernels_about(device, &about, why);
    if (!e && (about.is_host || about.is_unified)) e = probe_limits("", &host, why);
    if (e) return e;
    b.is_host = about.is_host;
    b.is_unified = about.is_unified;
    b.is_emulated = about.is_emulated;
    snprintf(b.name, sizeof b.name, "%s", about.name);
    b.total_bytes = b.is_host || b.is_unified ? host.mem_total_bytes : about.memory_bytes;
    if (b.is_host)
        b.free_bytes = host.mem_available_bytes;
    else if (b.is_unified)
        b.free_bytes = less(host.mem_available_bytes, unified_reserve(b.total_bytes));
    else
        b.free_bytes = less(about.memory_free_bytes, RESERVE_BYTES);
    b.most_bytes = share > 0 ? (uint64_t)((double)b.total_bytes * share) : b.total_bytes;
    *out = b;
    return OK;
}
