// taken: what of a device's memory, and of host memory that its copies use, this process holds,
// block by block. Any thread.
#pragma once
#include "kernels/cuda/contract.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TAKEN_PINNED = -1 }; // in place of a device's number: host memory

// False: no memory for the list.
bool taken_add(int32_t device, const void *block, uint64_t bytes);
void taken_remove(const void *block);
uint64_t taken_bytes(int32_t device); // or of TAKEN_PINNED

#ifdef __cplusplus
}
#endif
