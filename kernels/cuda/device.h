// device: the run-time of a device in one place, so that nothing else calls it: device.cu over the
// CUDA run-time, device_host.cc on the host, where a device is a part of the address space that
// can be touched only while its work is done.
//
// A device has one stream of work; what is given to it is done in order, later. On the host it is
// done when somebody waits. Functions without err_t keep what went wrong for device_error. The
// compute thread owns the stream; take, give and error may be called by any thread.
#pragma once
#include "kernels/cuda/contract.h"

#ifdef __cplusplus
extern "C" {
#endif

struct device;
struct device_event;
struct device_graph;
struct CUstream_st; // a cudaStream_t points to it

struct device_info {
    char name[256];
    int32_t sm;   // compute capability: 86, 90, 121
    int32_t code; // that for which this module's kernels were compiled, of those the device takes
    int32_t n_processor;
    uint64_t memory, memory_free;          // bytes; of an integrated device those of the machine
    bool is_integrated;                    // memory is the machine's own
    bool is_emulated;                      // a part of this process
    char driver[32];                       // version
    uint64_t l2_bytes, shared_block_bytes; // of a block, when it asks for more than 48 KiB
};

// Devices of this machine. ERR_UNSUPPORTED: no driver; the sentence says what it said.
err_t device_count(int32_t *out, struct err_text *why);
err_t device_about(int32_t index, struct device_info *out, struct err_text *why);

err_t device_open(int32_t index, struct device **out, struct err_text *why);
// One that only counts: what is taken from it cannot be used, and it does nothing. For asking what
// code that opens something takes. ERR_MEMORY.
err_t device_open_counter(struct device **out, struct err_text *why);
bool device_is_counter(const struct device *d);
void device_close(struct device *d);
struct CUstream_st *device_stream(struct device *d);
// Makes the device that of the calling thread.
void device_enter(struct device *d);

// Zeroed, aligned to 256 bytes. ERR_MEMORY.
err_t device_take(struct device *d, uint64_t bytes, const char *what, void **out,
                  struct err_text *why);
void device_give(struct device *d, void *data);
// Host memory that copies may read and write at any time.
err_t device_pinned_take(struct device *d, uint64_t bytes, void **out, struct err_text *why);
void device_pinned_give(struct device *d, void *data);
// What this process holds of the device's memory, and of pinned memory for all devices; of a
// counter, what was taken from it.
void device_taken(struct device *d, struct kernels_bytes *out);

// In the stream's order. The host's side is pinned and stays as it is until the copy is done.
void device_put(struct device *d, void *dst, const void *pinned, uint64_t bytes);
void device_get(struct device *d, void *pinned, const void *src, uint64_t bytes);
void device_copy(struct device *d, void *dst, uint64_t dst_pitch, const void *src,
                 uint64_t src_pitch, uint64_t row_bytes, uint64_t n_row);
void device_zero(struct device *d, void *dst, uint64_t bytes);
void device_wait(struct device *d); // until everything is done
// Whether it is; where a device does nothing by itself (on the host) this helps it on.
bool device_idle(struct device *d);
// From now on every wait for the device calls this too, again and again, on the thread that waits;
// since_us: how long it has lasted. It may end what the device waits for. False: no room for one
// more. `arg` tells the watchers apart.
bool device_watch(struct device *d, void (*rest)(void *arg, int64_t since_us), void *arg);
void device_unwatch(struct device *d, const void *arg);

// Memory that others of this machine may work on too, other processes included, as device_take's.
// Whoever maps it gives it back (device_unmap) before its owner does. ERR_UNSUPPORTED: not between
// these two.
struct device_shared {
    uint64_t process; // of the owner, by chance
    uint64_t address; // there
    char device[32];  // the owner's, by its place on the bus
    uint8_t handle[64];
};
err_t device_share_take(struct device *d, uint64_t bytes, struct device_shared *about, void **out,
                        struct err_text *why);
err_t device_map(struct device *d, const struct device_shared *about, uint64_t bytes, void **out,
                 struct err_text *why);
void device_unmap(struct device *d, const struct device_shared *about, void *data, uint64_t bytes);

err_t device_event_open(struct device *d, struct device_event **out, struct err_text *why);
void device_event_close(struct device *d, struct device_event *e);
void device_event_record(struct device *d, struct device_event *e);
void device_event_wait(struct device *d, struct device_event *e); // the host waits

// How long the device was at work between begin and end, of all such pairs: of steps (on the host
// of all work), and of what waits in a queue for others. ns: waits.
enum device_work { DEVICE_STEPS, DEVICE_QUEUES, DEVICE_WORKS };
void device_work_begin(struct device *d, enum device_work kind);
void device_work_end(struct device *d, enum device_work kind);
uint64_t device_work_ns(struct device *d, enum device_work kind);

// What is given to the stream between begin and end is recorded, not done. end: NULL if it could
// not be (device_error knows).
void device_graph_begin(struct device *d);
struct device_graph *device_graph_end(struct device *d);
void device_graph_launch(struct device *d, struct device_graph *g);
void device_graph_close(struct device *d, struct device_graph *g);

// First error since opening. ERR_DEVICE.
err_t device_error(struct device *d, struct err_text *why);

#ifdef __cplusplus
}
#endif
