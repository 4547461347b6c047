// device_host: what the twins of the device's libraries (*_host.cc) need of the device on the host.
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct CUstream_st;

// Work in the stream's order that may have to wait for others: called with a copy of `arg` again
// and again until it says true. The device's memory can be touched meanwhile.
typedef bool device_host_try(void *arg);
void device_host_call(struct CUstream_st *stream, device_host_try *f, const void *arg,
                      uint64_t bytes);
