// mem: memory of the CPU backend is the host's own, so most of this is plain C.
#include "kernels/cpu/cpu.h"
#include "proto/base/map.h"

#include <string.h>

err_t mem_take_pages(struct kernels *k, uint64_t bytes, const char *what, void **out,
                     struct err_text *why)
{
    (void)k;
    return map_take(bytes, what, out, why);
}

void mem_give_pages(struct kernels *k, void *data, uint64_t bytes)
{
    (void)k;
    map_give(data, bytes);
}

void mem_move(struct kernels *k, void *dst, const void *src, uint64_t bytes)
{
    (void)k;
    if (bytes) memcpy(dst, src, bytes);
}

void mem_copy(struct kernels *k, float *dst, int64_t dst_ld, const float *src, int64_t src_ld,
              int64_t n_row, int64_t n)
{
    (void)k;
    for (int64_t i = 0; i < n_row; i++)
        memcpy(dst + i * dst_ld, src + i * src_ld, (size_t)n * sizeof *dst);
}

void mem_zero(struct kernels *k, void *dst, uint64_t bytes)
{
    (void)k;
    if (bytes) memset(dst, 0, bytes);
}

err_t mem_status(struct kernels *k, struct err_text *why)
{
    (void)k;
    (void)why;
    return OK;
}

bool mem_enter(struct kernels *k, const struct kernels_step *s)
{
    (void)k;
    (void)s;
    return false;
}

void mem_leave(struct kernels *k)
{
    (void)k;
}
