#include "worker/mem.h"
#include "proto/base/map.h"

#include <stdio.h>
#include <unistd.h>

err_t mem_take(uint64_t bytes, const char *what, struct mem *out, struct err_text *why)
{
    void *data;
    err_t e = map_take(bytes, what, &data, why);
    if (!e) *out = (struct mem){.data = data, .bytes = bytes};
    return e;
}

err_t mem_take_of(struct kernels *k, uint64_t bytes, const char *what, struct mem *out,
                  struct err_text *why)
{
    void *data;
    err_t e = k->ops->take(k, bytes, what, &data, why);
    if (!e) *out = (struct mem){.k = k, .data = data, .bytes = bytes};
    return e;
}

void mem_touch(const struct mem *m)
{
    volatile char *c = m->data;
    if (m->k && !m->k->is_host) return; // a device's is there from the start
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    for (uint64_t i = 0; i < m->bytes; i += page)
        c[i] = 0;
}

void mem_give(struct mem *m)
{
    if (m->k)
        m->k->ops->give(m->k, m->data, m->bytes);
    else
        map_give(m->data, m->bytes);
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

void *mem_mirror(struct mem_plan *p, void *k, uint64_t n, uint64_t size)
{
    return p->is_one ? k : mem_carve(&p->host, n, size);
}
