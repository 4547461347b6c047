// map: large anonymous mappings; zeroed, aligned to the system's pages, which cost nothing until
// they are used.
#pragma once
#include "proto/base/err.h"

// bytes 0 counts as 1. ERR_MEMORY: `what` and the size.
err_t map_take(uint64_t bytes, const char *what, void **out, struct err_text *why);
void map_give(void *data, uint64_t bytes); // what map_take was asked for; NULL: nothing
// Bytes of all mappings that are there now. Any thread.
uint64_t map_taken(void);
