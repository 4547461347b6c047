#include "proto/base/map.h"

#include <stdatomic.h>
#include <sys/mman.h>

enum { HUGE_BYTES = 2 << 20 };

// Of this process; whoever plans memory compares with it.
static atomic_uint_least64_t taken;

static uint64_t least(uint64_t bytes)
{
    return bytes ? bytes : 1;
}

err_t map_take(uint64_t bytes, const char *what, void **out, struct err_text *why)
{
    void *p = MAP_FAILED;
    if (bytes < (uint64_t)1 << 47)
        p = mmap(NULL, least(bytes), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return err_say(why, ERR_MEMORY, "no memory for %s: %.1f MiB", what,
                       (double)bytes / (1 << 20));
    if (bytes >= HUGE_BYTES) madvise(p, bytes, MADV_HUGEPAGE); // a hint: may be refused
    atomic_fetch_add_explicit(&taken, bytes, memory_order_relaxed);
    *out = p;
    return OK;
}

void map_give(void *data, uint64_t bytes)
{
    if (!data) return;
    munmap(data, least(bytes));
    atomic_fetch_sub_explicit(&taken, bytes, memory_order_relaxed);
}

uint64_t map_taken(void)
{
    return atomic_load_explicit(&taken, memory_order_relaxed);
}
