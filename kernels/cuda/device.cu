// device: over the CUDA run-time. Errors of calls that are not checked by their callers stick in
// the device; errors of kernels come to light at the next wait, as CUDA has it.
#include "kernels/cuda/device.h"

#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct device {
    int index;
    cudaStream_t stream;
    cudaError_t first; // error
    const char *where;
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
    cudaSetDevice(before);
    if (e != cudaSuccess) return say(why, ERR_DEVICE, e, "memory of the device");
    *out = {};
    snprintf(out->name, sizeof out->name, "%s", p.name);
    out->sm = p.major * 10 + p.minor;
    out->n_processor = p.multiProcessorCount;
    out->is_integrated = p.integrated;
    out->memory = total;
    // Pages of files count as taken there, although they make room.
    const uint64_t available = p.integrated ? machine_available() : 0;
    out->memory_free = available > free ? available : free;
    out->l2_bytes = (uint64_t)p.l2CacheSize;
    out->shared_block_bytes = p.sharedMemPerBlockOptin;
    return OK;
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
    if (e != cudaSuccess) {
        free(d);
        return say(why, ERR_DEVICE, e, "opening the device");
    }
    *out = d;
    return OK;
}

void device_close(struct device *d)
{
    if (!d) return;
    cudaSetDevice(d->index);
    cudaStreamSynchronize(d->stream);
    cudaStreamDestroy(d->stream);
    free(d);
}

struct CUstream_st *device_stream(struct device *d)
{
    return d->stream;
}

void device_enter(struct device *d)
{
    keep(d, cudaSetDevice(d->index), "choosing the device");
}

err_t device_take(struct device *d, uint64_t bytes, const char *what, void **out,
                  struct err_text *why)
{
    void *p = NULL;
    cudaError_t e = cudaSetDevice(d->index);
    if (e == cudaSuccess) e = cudaMalloc(&p, bytes ? bytes : 256);
    if (e == cudaSuccess) e = cudaMemsetAsync(p, 0, bytes, d->stream);
    if (e == cudaSuccess) e = cudaStreamSynchronize(d->stream);
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
    if (!data) return;
    cudaSetDevice(d->index);
    keep(d, cudaStreamSynchronize(d->stream), "giving memory back");
    keep(d, cudaFree(data), "giving memory back");
}

err_t device_pinned_take(struct device *d, uint64_t bytes, void **out, struct err_text *why)
{
    cudaSetDevice(d->index);
    cudaError_t e = cudaHostAlloc(out, bytes, cudaHostAllocDefault);
    return e == cudaSuccess ? OK : say(why, ERR_MEMORY, e, "pinned memory");
}

void device_pinned_give(struct device *d, void *data)
{
    if (data) keep(d, cudaFreeHost(data), "giving pinned memory back");
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

void device_wait(struct device *d)
{
    keep(d, cudaStreamSynchronize(d->stream), "work on the device");
}

err_t device_event_open(struct device *d, struct device_event **out, struct err_text *why)
{
    struct device_event *v = (struct device_event *)calloc(1, sizeof *v);
    if (!v) return err_say(why, ERR_MEMORY, "cuda: no memory");
    cudaSetDevice(d->index);
    cudaError_t e = cudaEventCreateWithFlags(&v->event, cudaEventDisableTiming);
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
    keep(d, cudaEventDestroy(e->event), "an event");
    free(e);
}
void device_event_record(struct device *d, struct device_event *e)
{
    keep(d, cudaEventRecord(e->event, d->stream), "an event");
}
void device_event_wait(struct device *d, struct device_event *e)
{
    keep(d, cudaEventSynchronize(e->event), "work on the device");
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
