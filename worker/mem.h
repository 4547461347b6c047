// mem: large blocks for weights, pages and work space; zeroed. What kernels read and write is
// memory of their backend, which may be a device's: no code of ours touches it but through the
// operations.
#pragma once
#include "kernels/kernels.h"

struct mem {
    struct kernels *k; // whose; NULL: the host's
    void *data;
    uint64_t bytes;
};

// Pages cost nothing until they are used, but on devices. ERR_MEMORY: `what` and the size.
err_t mem_take(uint64_t bytes, const char *what, struct mem *out, struct err_text *why);
err_t mem_take_of(struct kernels *k, uint64_t bytes, const char *what, struct mem *out,
                  struct err_text *why);
// Makes the system back every page now, so that a later write cannot be the one that runs out of
// memory. Only of a block that nobody has written to yet: it stays zeroed.
void mem_touch(const struct mem *m);
// A struct of zeros is fine; leaves one.
void mem_give(struct mem *m);

uint64_t mem_used_bytes(void); // resident memory of this process

// Hands out consecutive, 64-byte aligned pieces of a block. With base NULL it only counts, so that
// one function both sizes a block and lays it out.
struct mem_carver {
    char *base;
    uint64_t used;
};
void *mem_carve(struct mem_carver *c, uint64_t n, uint64_t size);

// Two blocks carved side by side: what the backend's operations work on, and what the host does.
struct mem_plan {
    struct mem_carver kernels, host;
    bool is_one; // the backend's memory is the host's: pieces of the one can be used as the other
};
// What the host and the backend both have of a piece: `k` of the backend, lying on the host too.
void *mem_mirror(struct mem_plan *p, void *k, uint64_t n, uint64_t size);
