// mem: large anonymous mappings for weights, pages and work space; zeroed, aligned to the system's
// pages.
#pragma once
#include "proto/base/err.h"
#include <stdbool.h>

struct mem {
    void *data;
    uint64_t bytes;
};

// Pages cost nothing until they are used. ERR_MEMORY: `what` and the size.
err_t mem_take(uint64_t bytes, const char *what, struct mem *out, struct err_text *why);
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
