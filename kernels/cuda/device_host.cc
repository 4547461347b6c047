// device_host: a device that is part of this process. Its work is kept in a list and done when
// somebody waits for it, so an operation that reads host memory too late reads what has become of
// it. Its memory lies in a range of addresses that can be touched only while work is done.
#include "kernels/cuda/device.h"
#include "kernels/cuda/simt.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#if defined(__SANITIZE_ADDRESS__)
#define DEVICE_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define DEVICE_ASAN 1
#endif
#endif
#ifdef DEVICE_ASAN
#include <sanitizer/asan_interface.h>
#endif

enum { PAGE = 4096, WORK_MAX = 1 << 13 /* operations kept */, CLOSE_EVERY = 8 };
static const uint64_t arena_bytes = 1ull << 38; // of addresses

struct extent {
    uint64_t from, bytes; // from the arena's beginning, in whole pages
};

static struct {
    pthread_mutex_t lock;
    char *device;
    struct extent *extents; // ascending
    int n, cap;
    int n_running;
    unsigned n_flush;
    bool is_open;
    struct device *devices;
    bool is_easy;
} arena = {PTHREAD_MUTEX_INITIALIZER, NULL, NULL, 0, 0, 0, 0, false, NULL, false};

enum work_kind { WORK_CALL, WORK_COPY, WORK_ZERO, WORK_PUT, WORK_GET, WORK_GRAPH };
struct alignas(16) work {
    enum work_kind kind;
    uint32_t bytes;        // with what follows
    struct simt_call call; // args: behind this struct
    void *dst;
    const void *src;
    uint64_t dst_pitch, src_pitch, row_bytes, n_row;
    struct device_graph *graph;
};
struct work_list {
    char *data;
    uint64_t used, cap;
    int n;
};
struct device_graph {
    struct work_list list;
};
struct CUstream_st {
    struct device *device;
};
struct device {
    struct CUstream_st stream;
    struct device *next;
    pthread_mutex_t lock; // of the lists and the error
    struct work_list todo;
    struct device_graph *recording; // or NULL
    bool failed;
    struct simt_why why;
};

// -- the arena --

static bool arena_open()
{
    if (arena.device) return true;
    void *p =
        mmap(NULL, arena_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return false;
    arena.device = (char *)p;
    return true;
}

static bool in_arena(const void *p)
{
    const char *c = (const char *)p;
    return arena.device && c >= arena.device && c < arena.device + arena_bytes;
}

// While work is done; several devices may do it at once. Closing costs much and finds the same
// faults again and again: it is done one time in CLOSE_EVERY.
static void arena_unlock(bool open)
{
    pthread_mutex_lock(&arena.lock);
    arena.n_running += open ? 1 : -1;
    const bool is_last = !arena.n_running && !(++arena.n_flush % CLOSE_EVERY);
    const bool change = open ? !arena.is_open : is_last;
    // The pages between the extents stay closed.
    for (int i = 0; change && i < arena.n; i++)
        mprotect(arena.device + arena.extents[i].from, arena.extents[i].bytes,
                 open ? PROT_READ | PROT_WRITE : PROT_NONE);
    if (change) arena.is_open = open;
    pthread_mutex_unlock(&arena.lock);
}

err_t device_take(struct device *d, uint64_t bytes, const char *what, void **out,
                  struct err_text *why)
{
    (void)d;
    const uint64_t need = (bytes + PAGE - 1) / PAGE * PAGE + (bytes ? 0 : PAGE);
    pthread_mutex_lock(&arena.lock);
    uint64_t at = 0;
    int i = 0;
    for (; i < arena.n && arena.extents[i].from < at + need + PAGE; i++)
        at = arena.extents[i].from + arena.extents[i].bytes + PAGE;
    bool ok = at + need + PAGE <= arena_bytes;
    if (ok && arena.n == arena.cap) {
        const int cap = arena.cap ? 2 * arena.cap : 64;
        void *p = realloc(arena.extents, (size_t)cap * sizeof *arena.extents);
        ok = p;
        if (p) {
            arena.extents = (struct extent *)p;
            arena.cap = cap;
        }
    }
    if (ok) {
        memmove(arena.extents + i + 1, arena.extents + i,
                (size_t)(arena.n - i) * sizeof *arena.extents);
        arena.extents[i] = {at, need};
        arena.n++;
        if (arena.is_open) mprotect(arena.device + at, need, PROT_READ | PROT_WRITE);
    }
    pthread_mutex_unlock(&arena.lock);
    if (!ok)
        return err_say(why, ERR_MEMORY, "cuda on host: no %llu bytes for %s",
                       (unsigned long long)bytes, what);
#ifdef DEVICE_ASAN
    __asan_unpoison_memory_region(arena.device + at, bytes);
    __asan_poison_memory_region(arena.device + at + bytes, need - bytes);
#endif
    *out = arena.device + at;
    return OK;
}

static void give_extent(int i)
{
    const struct extent e = arena.extents[i];
    mprotect(arena.device + e.from, e.bytes, PROT_NONE);
#ifdef DEVICE_ASAN
    __asan_unpoison_memory_region(arena.device + e.from, e.bytes);
#endif
    madvise(arena.device + e.from, e.bytes, MADV_DONTNEED); // zero again, when it is taken again
    memmove(arena.extents + i, arena.extents + i + 1,
            (size_t)(arena.n - i - 1) * sizeof *arena.extents);
    arena.n--;
}

static void wait_for_all()
{
    for (int i = 0;; i++) {
        pthread_mutex_lock(&arena.lock);
        struct device *d = arena.devices;
        for (int j = 0; d && j < i; j++)
            d = d->next;
        pthread_mutex_unlock(&arena.lock);
        if (!d) return;
        device_wait(d);
    }
}

void device_give(struct device *d, void *data)
{
    if (!data) return;
    (void)d;
    wait_for_all(); // what others of this device do with it
    BUG_ON(!in_arena(data));
    const uint64_t at = (uint64_t)((char *)data - arena.device);
    pthread_mutex_lock(&arena.lock);
    int i = 0;
    while (i < arena.n && arena.extents[i].from != at)
        i++;
    BUG_ON(i == arena.n);
    give_extent(i);
    pthread_mutex_unlock(&arena.lock);
}

err_t device_pinned_take(struct device *d, uint64_t bytes, void **out, struct err_text *why)
{
    (void)d;
    void *p = aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (!p) return err_say(why, ERR_MEMORY, "cuda on host: no pinned memory");
    *out = p;
    return OK;
}

void device_pinned_give(struct device *d, void *data)
{
    if (data) device_wait(d);
    free(data);
}

// -- devices --

err_t device_count(int32_t *out, struct err_text *why)
{
    (void)why;
    *out = 1;
    return OK;
}

static uint64_t shared_bytes = 99u << 10; // as much as sm_86 and sm_121 have

err_t device_about(int32_t index, struct device_info *out, struct err_text *why)
{
    if (index) return err_say(why, ERR_UNSUPPORTED, "cuda on host: there is device 0 only");
    *out = {};
    snprintf(out->name, sizeof out->name, "cuda on host");
    out->sm = 86;
    out->n_processor = 4;
    out->memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    out->memory_free = (uint64_t)sysconf(_SC_AVPHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    out->is_integrated = true;
    out->l2_bytes = 6u << 20;
    out->shared_block_bytes = shared_bytes;
    return OK;
}

err_t device_open(int32_t index, struct device **out, struct err_text *why)
{
    struct device_info info;
    err_t e = device_about(index, &info, why);
    if (e) return e;
    pthread_mutex_lock(&arena.lock);
    const bool ok = arena_open();
    pthread_mutex_unlock(&arena.lock);
    struct device *d = ok ? (struct device *)calloc(1, sizeof *d) : NULL;
    if (!d) return err_say(why, ERR_MEMORY, "cuda on host: no address space for a device");
    wait_for_all(); // what an older one was given is there
    d->stream.device = d;
    pthread_mutex_init(&d->lock, NULL);
    pthread_mutex_lock(&arena.lock);
    d->next = arena.devices;
    arena.devices = d;
    pthread_mutex_unlock(&arena.lock);
    *out = d;
    return OK;
}

void device_close(struct device *d)
{
    if (!d) return;
    device_wait(d);
    pthread_mutex_lock(&arena.lock);
    struct device **at = &arena.devices;
    while (*at != d)
        at = &(*at)->next;
    *at = d->next;
    pthread_mutex_unlock(&arena.lock);
    pthread_mutex_destroy(&d->lock);
    free(d->todo.data);
    free(d);
}

struct CUstream_st *device_stream(struct device *d)
{
    return &d->stream;
}

void device_enter(struct device *d)
{
    (void)d;
}

// -- work --

static void fail(struct device *d, const char *why)
{
    if (!d->failed) snprintf(d->why.s, sizeof d->why.s, "%s", why);
    d->failed = true;
}

static void run_work(struct device *d, const struct work *w);

static void run_list(struct device *d, const struct work_list *l)
{
    for (uint64_t at = 0; at < l->used && !d->failed;) {
        const struct work *w = (const struct work *)(void *)(l->data + at);
        run_work(d, w);
        at += w->bytes;
    }
}

static void run_work(struct device *d, const struct work *w)
{
    const char *src = (const char *)w->src;
    char *dst = (char *)w->dst;
    switch (w->kind) {
    case WORK_CALL: {
        struct simt_call c = w->call;
        struct simt_why why;
        c.args = (void *)(w + 1);
        if (!simt_run(&c, &why)) fail(d, why.s);
        break;
    }
    case WORK_COPY:
        for (uint64_t i = 0; i < w->n_row; i++)
            memmove(dst + i * w->dst_pitch, src + i * w->src_pitch, w->row_bytes);
        break;
    case WORK_ZERO:
        memset(dst, 0, w->row_bytes);
        break;
    case WORK_PUT:
    case WORK_GET:
        memcpy(dst, src, w->row_bytes);
        break;
    case WORK_GRAPH:
        run_list(d, &w->graph->list);
        break;
    }
}

void device_host_set_shared(uint64_t bytes)
{
    shared_bytes = bytes;
}

void device_host_set_easy(bool easy)
{
    if (arena.is_easy != easy) arena_unlock(easy);
    arena.is_easy = easy;
}

static void run_todo(struct device *d)
{
    if (!d->todo.n) return;
    arena_unlock(true);
    run_list(d, &d->todo);
    arena_unlock(false);
    d->todo.used = 0;
    d->todo.n = 0;
}

static void add(struct device *d, const struct work *w, const void *extra, uint64_t n_extra)
{
    pthread_mutex_lock(&d->lock);
    if (!d->recording && d->todo.n >= WORK_MAX) run_todo(d);
    struct work_list *l = d->recording ? &d->recording->list : &d->todo;
    const uint64_t bytes = (sizeof *w + n_extra + 15) / 16 * 16;
    if (l->used + bytes > l->cap) {
        const uint64_t cap = 2 * l->cap + bytes + PAGE;
        void *p = realloc(l->data, cap);
        if (p) {
            l->data = (char *)p;
            l->cap = cap;
        } else {
            fail(d, "cuda on host: no memory for operations");
        }
    }
    if (l->used + bytes <= l->cap) {
        struct work *to = (struct work *)(void *)(l->data + l->used);
        *to = *w;
        to->bytes = (uint32_t)bytes;
        if (n_extra) memcpy((void *)(to + 1), extra, n_extra);
        l->used += bytes;
        l->n++;
    }
    if (arena.is_easy && !d->recording) run_todo(d);
    pthread_mutex_unlock(&d->lock);
}

void simt_enqueue(cudaStream_t stream, const struct simt_call *call)
{
    struct work w = {};
    w.kind = WORK_CALL;
    w.call = *call;
    add(stream->device, &w, call->args, call->args_bytes);
}

void simt_check_pointer(cudaStream_t stream, const char *kernel, const void *p)
{
    if (!p || in_arena(p) || arena.is_easy) return;
    char why[200];
    snprintf(why, sizeof why, "kernel %s is given a pointer to host memory", kernel);
    pthread_mutex_lock(&stream->device->lock);
    fail(stream->device, why);
    pthread_mutex_unlock(&stream->device->lock);
}

static void add_copy(struct device *d, enum work_kind kind, void *dst, const void *src,
                     uint64_t bytes)
{
    const bool easy = arena.is_easy;
    const bool dst_ok = easy || in_arena(dst) == (kind != WORK_GET);
    const bool src_ok = easy || kind == WORK_ZERO || in_arena(src) == (kind != WORK_PUT);
    struct work w = {};
    w.kind = kind;
    w.dst = dst;
    w.src = src;
    w.row_bytes = w.dst_pitch = w.src_pitch = bytes;
    w.n_row = 1;
    if (dst_ok && src_ok) {
        if (bytes) add(d, &w, NULL, 0);
        return;
    }
    pthread_mutex_lock(&d->lock);
    fail(d, "cuda on host: a copy takes host memory for device memory, or the other way round");
    pthread_mutex_unlock(&d->lock);
}

void device_put(struct device *d, void *dst, const void *pinned, uint64_t bytes)
{
    add_copy(d, WORK_PUT, dst, pinned, bytes);
}
void device_get(struct device *d, void *pinned, const void *src, uint64_t bytes)
{
    add_copy(d, WORK_GET, pinned, src, bytes);
}
void device_zero(struct device *d, void *dst, uint64_t bytes)
{
    add_copy(d, WORK_ZERO, dst, NULL, bytes);
}

void device_copy(struct device *d, void *dst, uint64_t dst_pitch, const void *src,
                 uint64_t src_pitch, uint64_t row_bytes, uint64_t n_row)
{
    if (!arena.is_easy && (!in_arena(dst) || !in_arena(src))) {
        add_copy(d, WORK_COPY, dst, src, 0);
        return;
    }
    struct work w = {};
    w.kind = WORK_COPY;
    w.dst = dst;
    w.src = src;
    w.dst_pitch = dst_pitch;
    w.src_pitch = src_pitch;
    w.row_bytes = row_bytes;
    w.n_row = n_row;
    add(d, &w, NULL, 0);
}

void device_wait(struct device *d)
{
    pthread_mutex_lock(&d->lock);
    run_todo(d);
    pthread_mutex_unlock(&d->lock);
}

// -- events: the list has one order, so that whoever waits does all of it --

struct device_event {
    bool recorded;
};

err_t device_event_open(struct device *d, struct device_event **out, struct err_text *why)
{
    (void)d;
    struct device_event *e = (struct device_event *)calloc(1, sizeof *e);
    if (!e) return err_say(why, ERR_MEMORY, "cuda on host: no memory");
    *out = e;
    return OK;
}
void device_event_close(struct device *d, struct device_event *e)
{
    (void)d;
    free(e);
}
void device_event_record(struct device *d, struct device_event *e)
{
    (void)d;
    e->recorded = true;
}
void device_event_wait(struct device *d, struct device_event *e)
{
    if (e->recorded) device_wait(d);
    e->recorded = false;
}

// -- graphs --

void device_graph_begin(struct device *d)
{
    struct device_graph *g = (struct device_graph *)calloc(1, sizeof *g);
    pthread_mutex_lock(&d->lock);
    BUG_ON(d->recording);
    d->recording = g;
    if (!g) fail(d, "cuda on host: no memory for a graph");
    pthread_mutex_unlock(&d->lock);
}

struct device_graph *device_graph_end(struct device *d)
{
    pthread_mutex_lock(&d->lock);
    struct device_graph *g = d->recording;
    d->recording = NULL;
    pthread_mutex_unlock(&d->lock);
    return g;
}

void device_graph_launch(struct device *d, struct device_graph *g)
{
    struct work w = {};
    w.kind = WORK_GRAPH;
    w.graph = g;
    add(d, &w, NULL, 0);
}

void device_graph_close(struct device *d, struct device_graph *g)
{
    if (!g) return;
    device_wait(d);
    free(g->list.data);
    free(g);
}

err_t device_error(struct device *d, struct err_text *why)
{
    pthread_mutex_lock(&d->lock);
    const bool failed = d->failed;
    pthread_mutex_unlock(&d->lock);
    return failed ? err_say(why, ERR_DEVICE, "%s", d->why.s) : OK;
}
