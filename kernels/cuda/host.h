// host: settings of the device that is part of this process, for tests.
#pragma once
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// The order in which threads run between barriers, and blocks.
enum simt_order { SIMT_ASCENDING, SIMT_DESCENDING, SIMT_SHUFFLED };
void simt_set_order(enum simt_order order, uint64_t seed);

// Easy: operations are done at once, with host memory as well as with the device's, and the
// device's can be touched at any time. For checks that know no other memory. Set before a device is
// opened.
void device_host_set_easy(bool easy);

// Shared memory that a block may have, 99 KiB unless set. Set before a device is opened.
void device_host_set_shared(uint64_t bytes);

#ifdef __cplusplus
}
#endif
