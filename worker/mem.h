// mem: large anonymous mappings for weights, pages and work space; zeroed, aligned to the system's
// pages.
#pragma once
#include "proto/base/err.h"
#include <stdbool.h>

struct mem {
    void *data;
    uint64_t bytes;
};

// MEM_TOUCH makes the system back every page now, so that a later write cannot be the one that runs
// out of memory; without it pages cost nothing until they are used. ERR_MEMORY: `what` and the
// size.
enum { MEM_TOUCH = 1 };
err_t mem_take(uint64_t bytes, int flags, const char *what, struct mem *out, struct err_text *why);
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
