// device: over the CUDA run-time. Errors of calls that are not checked by their callers stick in
// the device; errors of kernels come to light at the next wait, as CUDA has it.
#include "kernels/cuda/device.h"
#include "kernels/cuda/taken.h"
#include "kernels/cuda/watch.h"
#include "proto/base/clock.h"

#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WORK_TIMES = 32 };

struct times {
    cudaEvent_t at[WORK_TIMES][2]; // begin and end of the last ones
    uint64_t n, n_counted, ns;
};

struct device {
    int index;
    bool is_counter; // everything below is zeros then but `counted`
    struct kernels_bytes counted;
    cudaStream_t stream;
    cudaError_t first; // error
    const char *where;
    struct times work[DEVICE_WORKS];
    struct watchers watchers;
};
struct device_event {
    cudaEvent_t event;
};
struct device_graph {
    cudaGraphExec_t exec;
};

static void keep(struct device *d, cudaError_t e, const char *where)
{
    if (e == cudaSuccess) return;
    cudaGetLastError(); // told once
    if (d->first != cudaSuccess) return;
    d->first = e;
    d->where = where;
}

static err_t say(struct err_text *why, err_t code, cudaError_t e, const char *what)
{
    cudaGetLastError();
    return err_say(why, code, "cuda: %s: %s", what, cudaGetErrorString(e));
}

err_t device_count(int32_t *out, struct err_text *why)
{
    int n = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e != cudaSuccess) return say(why, ERR_UNSUPPORTED, e, "no device");
    *out = n;
    return OK;
}

// Memory of the machine that can be had without swapping.
static uint64_t machine_available()
{
    FILE *f = fopen("/proc/meminfo", "re");
    if (!f) return 0;
    char line[128];
    unsigned long long kib = 0;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) break;
    fclose(f);
    return kib << 10;
}

static __global__ void about_code(void) {}

// What the kernels that this device would get were compiled for; 0: there are none.
static int32_t code_of(void)
{
    cudaFuncAttributes a = {};
    if (cudaFuncGetAttributes(&a, (const void *)about_code) == cudaSuccess) return a.ptxVersion;
    cudaGetLastError();
    return 0;
}

err_t device_about(int32_t index, struct device_info *out, struct err_text *why)
{
    cudaDeviceProp p;
    cudaError_t e = cudaGetDeviceProperties(&p, index);
    if (e != cudaSuccess) return say(why, ERR_UNSUPPORTED, e, "no such device");
    int before = 0;
    cudaGetDevice(&before);
    size_t free = 0, total = 0;
    e = cudaSetDevice(index);
    if (e == cudaSuccess) e = cudaMemGetInfo(&free, &total);
    const int32_t code = e == cudaSuccess ? code_of() : 0;
    cudaSetDevice(before);
    if (e != cudaSuccess) return say(why, ERR_DEVICE, e, "memory of the device");
    *out = {};
    out->code = code;
    snprintf(out->name, sizeof out->name, "%s", p.name);
    out->sm = p.major * 10 + p.minor;
    out->n_processor = p.multiProcessorCount;
    out->is_integrated = p.integrated;
    int driver = 0;
    if (cudaDriverGetVersion(&driver) == cudaSuccess)
        snprintf(out->driver, sizeof out->driver, "%d.%d", driver / 1000, driver % 1000 / 10);
    out->memory = total;
    // Pages of files count as taken there, although they make room.
    const uint64_t available = p.integrated ? machine_available() : 0;
    out->memory_free = available > free ? available : free;
    out->l2_bytes = (uint64_t)p.l2CacheSize;
    out->shared_block_bytes = p.sharedMemPerBlockOptin;
    return OK;
}

static cudaEvent_t *event_of(struct device *d, int i)
{
    return &d->work[i / (2 * WORK_TIMES)].at[i / 2 % WORK_TIMES][i % 2];
}

err_t device_open(int32_t index, struct device **out, struct err_text *why)
{
    int32_t n = 0;
    err_t err = device_count(&n, why);
    if (err) return err;
    if (index < 0 || index >= n)
        return err_say(why, ERR_UNSUPPORTED, "cuda: there is no device %d, there are %d",
                       (int)index, (int)n);
    struct device *d = (struct device *)calloc(1, sizeof *d);
    if (!d) return err_say(why, ERR_MEMORY, "cuda: no memory");
    d->index = index;
    cudaError_t e = cudaSetDevice(index);
    if (e == cudaSuccess) e = cudaDeviceSynchronize(); // what an older one was given is there
    if (e == cudaSuccess) e = cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking);
    for (int i = 0; i < DEVICE_WORKS * 2 * WORK_TIMES && e == cudaSuccess; i++)
        e = cudaEventCreate(event_of(d, i));
    if (e != cudaSuccess) {
        device_close(d);
        return say(why, ERR_DEVICE, e, "opening the device");
    }
    *out = d;
    return OK;
}

err_t device_open_counter(struct device **out, struct err_text *why)
{
    struct device *d = (struct device *)calloc(1, sizeof *d);
    if (!d) return err_say(why, ERR_MEMORY, "cuda: no memory");
    d->is_counter = true;
    *out = d;
    return OK;
}

bool device_is_counter(const struct device *d)
{
    return d->is_counter;
}

void device_close(struct device *d)
{
    if (!d) return;
    if (!d->is_counter) cudaSetDevice(d->index);
    for (int i = 0; i < DEVICE_WORKS * 2 * WORK_TIMES; i++)
        if (*event_of(d, i)) cudaEventDestroy(*event_of(d, i));
    if (d->stream) {
        cudaStreamSynchronize(d->stream);
        cudaStreamDestroy(d->stream);
    }
    free(d);
}

struct CUstream_st *device_stream(struct device *d)
{
    return d->stream;
}

void device_enter(struct device *d)
{
    if (!d->is_counter) keep(d, cudaSetDevice(d->index), "choosing the device");
}

err_t device_take(struct device *d, uint64_t bytes, const char *what, void **out,
                  struct err_text *why)
{
    void *p = NULL;
    if (d->is_counter) {
        d->counted.own += bytes;
        *out = d; // something
        return OK;
    }
    cudaError_t e = cudaSetDevice(d->index);
    if (e == cudaSuccess) e = cudaMalloc(&p, bytes ? bytes : 256);
    if (e == cudaSuccess) e = cudaMemsetAsync(p, 0, bytes, d->stream);
    if (e == cudaSuccess) e = cudaStreamSynchronize(d->stream);
    if (e == cudaSuccess && !taken_add(d->index, p, bytes)) e = cudaErrorMemoryAllocation;
    if (e != cudaSuccess) {
        if (p) cudaFree(p);
        cudaGetLastError();
        return err_say(why, ERR_MEMORY, "cuda: %llu MiB for %s: %s",
                       (unsigned long long)(bytes >> 20), what, cudaGetErrorString(e));
    }
    *out = p;
    return OK;
}

void device_give(struct device *d, void *data)
{
    if (!data || d->is_counter) return;
    taken_remove(data);
    cudaSetDevice(d->index);
    keep(d, cudaStreamSynchronize(d->stream), "giving memory back");
    keep(d, cudaFree(data), "giving memory back");
}

err_t device_pinned_take(struct device *d, uint64_t bytes, void **out, struct err_text *why)
{
    if (d->is_counter) {
        d->counted.host += bytes;
        *out = d;
        return OK;
    }
    void *p = NULL;
    cudaSetDevice(d->index);
    cudaError_t e = cudaHostAlloc(&p, bytes, cudaHostAllocDefault);
    if (e == cudaSuccess && !taken_add(TAKEN_PINNED, p, bytes)) {
        cudaFreeHost(p);
        e = cudaErrorMemoryAllocation;
    }
    if (e != cudaSuccess) return say(why, ERR_MEMORY, e, "pinned memory");
    *out = p;
    return OK;
}

void device_pinned_give(struct device *d, void *data)
{
    if (!data || d->is_counter) return;
    taken_remove(data);
    keep(d, cudaFreeHost(data), "giving pinned memory back");
}

void device_taken(struct device *d, struct kernels_bytes *out)
{
    *out = d->is_counter ? d->counted
                         : (struct kernels_bytes){taken_bytes(d->index), taken_bytes(TAKEN_PINNED)};
}

// -- memory of others --

static uint64_t process_number()
{
    static uint64_t number; // of this process, once
    uint64_t want = 0, have = 0;
    if (__atomic_load_n(&number, __ATOMIC_ACQUIRE)) return number;
    if (getentropy(&want, sizeof want)) want = (uint64_t)getpid() << 32 | (uint64_t)clock_now_us();
    want |= 1;
    return __atomic_compare_exchange_n(&number, &have, want, false, __ATOMIC_ACQ_REL,
                                       __ATOMIC_ACQUIRE)
               ? want
               : have;
}

err_t device_share_take(struct device *d, uint64_t bytes, struct device_shared *about, void **out,
                        struct err_text *why)
{
    void *p = NULL;
    static_assert(sizeof(cudaIpcMemHandle_t) == sizeof about->handle, "as it comes");
    err_t err = device_take(d, bytes, "what members hand each other", &p, why);
    if (err) return err;
    *about = {};
    about->process = process_number();
    about->address = (uint64_t)(uintptr_t)p;
    cudaError_t e = cudaDeviceGetPCIBusId(about->device, sizeof about->device, d->index);
    if (e == cudaSuccess) e = cudaIpcGetMemHandle((cudaIpcMemHandle_t *)about->handle, p);
    if (e != cudaSuccess) {
        device_give(d, p);
        return say(why, ERR_UNSUPPORTED, e, "memory for other processes");
    }
    *out = p;
    return OK;
}

err_t device_map(struct device *d, const struct device_shared *about, uint64_t bytes, void **out,
                 struct err_text *why)
{
    (void)bytes;
    char bus[sizeof about->device];
    int other = -1, can = 0;
    snprintf(bus, sizeof bus, "%.*s", (int)sizeof bus - 1, about->device);
    cudaError_t e = cudaSetDevice(d->index);
    if (e == cudaSuccess) e = cudaDeviceGetByPCIBusId(&other, bus);
    if (e != cudaSuccess) return say(why, ERR_UNSUPPORTED, e, "a member's device");
    if (other != d->index) {
        e = cudaDeviceCanAccessPeer(&can, d->index, other);
        if (e != cudaSuccess || !can)
            return err_say(why, ERR_UNSUPPORTED, "cuda: device %d does not reach device %d",
                           d->index, other);
    }
    if (about->process == process_number()) {
        e = other == d->index ? cudaSuccess : cudaDeviceEnablePeerAccess(other, 0);
        if (e == cudaErrorPeerAccessAlreadyEnabled) e = cudaSuccess;
        if (e != cudaSuccess) return say(why, ERR_UNSUPPORTED, e, "a member's device");
        cudaGetLastError();
        *out = (void *)(uintptr_t)about->address;
        return OK;
    }
    cudaIpcMemHandle_t handle;
    memcpy(&handle, about->handle, sizeof handle);
    e = cudaIpcOpenMemHandle(out, handle, cudaIpcMemLazyEnablePeerAccess);
    return e == cudaSuccess ? OK : say(why, ERR_UNSUPPORTED, e, "a member's memory");
}

void device_unmap(struct device *d, const struct device_shared *about, void *data, uint64_t bytes)
{
    (void)bytes;
    if (!data || about->process == process_number()) return;
    cudaSetDevice(d->index);
    keep(d, cudaStreamSynchronize(d->stream), "a member's memory");
    keep(d, cudaIpcCloseMemHandle(data), "a member's memory");
}

void device_put(struct device *d, void *dst, const void *pinned, uint64_t bytes)
{
    keep(d, cudaMemcpyAsync(dst, pinned, bytes, cudaMemcpyHostToDevice, d->stream),
         "copy to device");
}
void device_get(struct device *d, void *pinned, const void *src, uint64_t bytes)
{
    keep(d, cudaMemcpyAsync(pinned, src, bytes, cudaMemcpyDeviceToHost, d->stream), "copy to host");
}
void device_zero(struct device *d, void *dst, uint64_t bytes)
{
    keep(d, cudaMemsetAsync(dst, 0, bytes, d->stream), "zeroing");
}
void device_copy(struct device *d, void *dst, uint64_t dst_pitch, const void *src,
                 uint64_t src_pitch, uint64_t row_bytes, uint64_t n_row)
{
    if (!row_bytes || !n_row) return;
    if (n_row == 1 || (dst_pitch == row_bytes && src_pitch == row_bytes))
        keep(d, cudaMemcpyAsync(dst, src, row_bytes * n_row, cudaMemcpyDeviceToDevice, d->stream),
             "copy");
    else
        keep(d,
             cudaMemcpy2DAsync(dst, dst_pitch, src, src_pitch, row_bytes, n_row,
                               cudaMemcpyDeviceToDevice, d->stream),
             "copy of rows");
}

bool device_idle(struct device *d)
{
    const cudaError_t e = cudaStreamQuery(d->stream);
    if (e == cudaErrorNotReady) return false;
    keep(d, e, "work on the device");
    return true;
}

bool device_watch(struct device *d, void (*rest)(void *arg, int64_t since_us), void *arg)
{
    return watch_add(&d->watchers, rest, arg);
}

void device_unwatch(struct device *d, const void *arg)
{
    watch_remove(&d->watchers, arg);
}

// event NULL: the stream
static cudaError_t wait_watched(struct device *d, cudaEvent_t event)
{
    cudaError_t e;
    int64_t from = 0;
    while ((e = event ? cudaEventQuery(event) : cudaStreamQuery(d->stream)) == cudaErrorNotReady) {
        const int64_t now = clock_now_us();
        if (!from) from = now;
        watch_rest(&d->watchers, now - from);
    }
    return e;
}

void device_wait(struct device *d)
{
    if (d->is_counter) return;
    keep(d, d->watchers.n ? wait_watched(d, NULL) : cudaStreamSynchronize(d->stream),
         "work on the device");
}

err_t device_event_open(struct device *d, struct device_event **out, struct err_text *why)
{
    struct device_event *v = (struct device_event *)calloc(1, sizeof *v);
    if (!v) return err_say(why, ERR_MEMORY, "cuda: no memory");
    cudaError_t e = cudaSuccess;
    if (!d->is_counter) {
        cudaSetDevice(d->index);
        e = cudaEventCreateWithFlags(&v->event, cudaEventDisableTiming);
    }
    if (e != cudaSuccess) {
        free(v);
        return say(why, ERR_DEVICE, e, "an event");
    }
    *out = v;
    return OK;
}
void device_event_close(struct device *d, struct device_event *e)
{
    if (!e) return;
    if (e->event) keep(d, cudaEventDestroy(e->event), "an event");
    free(e);
}
void device_event_record(struct device *d, struct device_event *e)
{
    keep(d, cudaEventRecord(e->event, d->stream), "an event");
}
void device_event_wait(struct device *d, struct device_event *e)
{
    keep(d, d->watchers.n ? wait_watched(d, e->event) : cudaEventSynchronize(e->event),
         "work on the device");
}

// -- how long it works --

// Adds up the oldest pair that is not counted yet.
static void count_work(struct device *d, struct times *t)
{
    cudaEvent_t *pair = t->at[t->n_counted++ % WORK_TIMES];
    float ms = 0;
    cudaError_t e = cudaEventSynchronize(pair[1]);
    if (e == cudaSuccess) e = cudaEventElapsedTime(&ms, pair[0], pair[1]);
    if (e == cudaSuccess) t->ns += (uint64_t)((double)ms * 1e6);
    keep(d, e, "work on the device");
}

void device_work_begin(struct device *d, enum device_work kind)
{
    struct times *t = &d->work[kind];
    if (t->n - t->n_counted == WORK_TIMES) count_work(d, t);
    keep(d, cudaEventRecord(t->at[t->n % WORK_TIMES][0], d->stream), "an event");
}

void device_work_end(struct device *d, enum device_work kind)
{
    struct times *t = &d->work[kind];
    keep(d, cudaEventRecord(t->at[t->n++ % WORK_TIMES][1], d->stream), "an event");
}

uint64_t device_work_ns(struct device *d, enum device_work kind)
{
    struct times *t = &d->work[kind];
    while (t->n_counted < t->n)
        count_work(d, t);
    return t->ns;
}

void device_graph_begin(struct device *d)
{
    keep(d, cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal), "recording");
}

struct device_graph *device_graph_end(struct device *d)
{
    cudaGraph_t graph = NULL;
    cudaError_t e = cudaStreamEndCapture(d->stream, &graph);
    struct device_graph *g = NULL;
    if (e == cudaSuccess) g = (struct device_graph *)calloc(1, sizeof *g);
    if (g) e = cudaGraphInstantiate(&g->exec, graph, 0);
    if (graph) cudaGraphDestroy(graph);
    if (e == cudaSuccess) return g;
    keep(d, e, "recording");
    free(g);
    return NULL;
}

void device_graph_launch(struct device *d, struct device_graph *g)
{
    keep(d, cudaGraphLaunch(g->exec, d->stream), "a recorded step");
}

void device_graph_close(struct device *d, struct device_graph *g)
{
    if (!g) return;
    keep(d, cudaStreamSynchronize(d->stream), "closing a recorded step");
    keep(d, cudaGraphExecDestroy(g->exec), "closing a recorded step");
    free(g);
}

err_t device_error(struct device *d, struct err_text *why)
{
    keep(d, cudaPeekAtLastError(), "a launch");
    if (d->first == cudaSuccess) return OK;
    return err_say(why, d->first == cudaErrorMemoryAllocation ? ERR_MEMORY : ERR_DEVICE,
                   "cuda: device %d: %s: %s", d->index, d->where, cudaGetErrorString(d->first));
}
