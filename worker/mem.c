#include "worker/mem.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { HUGE_BYTES = 2 << 20 };

err_t mem_take(uint64_t bytes, const char *what, struct mem *out, struct err_text *why)
{
    if (bytes == 0) bytes = 1;
    void *p = MAP_FAILED;
    if (bytes < (uint64_t)1 << 47)
        p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                 -1, 0);
    if (p == MAP_FAILED)
        return err_say(why, ERR_MEMORY, "no memory for %s: %.1f MiB", what,
                       (double)bytes / (1 << 20));
    if (bytes >= HUGE_BYTES) madvise(p, bytes, MADV_HUGEPAGE); // a hint: may be refused
    *out = (struct mem){.data = p, .bytes = bytes};
    return OK;
}

void mem_touch(const struct mem *m)
{
    volatile char *c = m->data;
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    for (uint64_t i = 0; i < m->bytes; i += page)
        c[i] = 0;
}

void mem_give(struct mem *m)
{
    if (m->data) munmap(m->data, m->bytes);
    *m = (struct mem){0};
}

uint64_t mem_used_bytes(void)
{
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f) return 0;
    unsigned long long total, resident = 0;
    if (fscanf(f, "%llu %llu", &total, &resident) != 2) resident = 0;
    fclose(f);
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

void *mem_carve(struct mem_carver *c, uint64_t n, uint64_t size)
{
    void *p = c->base ? c->base + c->used : NULL;
    c->used += (n * size + 63) & ~(uint64_t)63;
    return p;
}
