// device_host: a device that is part of this process. Its work is kept in a list and done when
// somebody waits for it, so an operation that reads host memory too late reads what has become of
// it. Its memory lies in a range of addresses that can be touched only while work is done.
#include "kernels/cuda/device.h"
#include "kernels/cuda/device_host.h"
#include "kernels/cuda/simt.h"
#include "kernels/cuda/taken.h"
#include "kernels/cuda/watch.h"
#include "proto/base/clock.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
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
    int fd;               // of memory that other processes may map; -1: none
    bool is_shared;
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

enum work_kind { WORK_CALL, WORK_COPY, WORK_ZERO, WORK_PUT, WORK_GET, WORK_TRY, WORK_MARK };
struct alignas(16) work {
    enum work_kind kind;
    uint32_t bytes;        // with what follows
    struct simt_call call; // args: behind this struct
    void *dst;
    const void *src;
    uint64_t dst_pitch, src_pitch, row_bytes, n_row;
    bool is_end;            // WORK_MARK
    device_host_try *tried; // WORK_TRY; its argument: behind this struct
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
    uint64_t todo_at;               // what lies before it is done
    struct device_graph *recording; // or NULL
    struct watchers watchers;
    bool failed;
    struct simt_why why;
    uint64_t work_ns;
    int64_t queue_ns; // the sum of the ends less that of the beginnings
    bool is_counter;  // everything else is zeros then but `counted`
    struct kernels_bytes counted;
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
    if (d->is_counter) {
        d->counted.own += bytes;
        *out = d; // something
        return OK;
    }
    const uint64_t need = (bytes + PAGE - 1) / PAGE * PAGE + (bytes ? 0 : PAGE);
    pthread_mutex_lock(&arena.lock);
    uint64_t at = 0;
    int i = 0;
    for (; i < arena.n && arena.extents[i].from < at + need + PAGE; i++)
        at = arena.extents[i].from + arena.extents[i].bytes + PAGE;
    bool ok = at + need + PAGE <= arena_bytes && taken_add(0, arena.device + at, bytes);
    if (ok && arena.n == arena.cap) {
        const int cap = arena.cap ? 2 * arena.cap : 64;
        void *p = realloc(arena.extents, (size_t)cap * sizeof *arena.extents);
        ok = p;
        if (!ok) taken_remove(arena.device + at);
        if (p) {
            arena.extents = (struct extent *)p;
            arena.cap = cap;
        }
    }
    if (ok) {
        memmove(arena.extents + i + 1, arena.extents + i,
                (size_t)(arena.n - i) * sizeof *arena.extents);
        arena.extents[i] = {at, need, -1, false};
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
    if (e.is_shared)
        mmap(arena.device + e.from, e.bytes, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    else
        madvise(arena.device + e.from, e.bytes, MADV_DONTNEED); // zero again for who takes it next
    if (e.fd >= 0) close(e.fd);
    memmove(arena.extents + i, arena.extents + i + 1,
            (size_t)(arena.n - i - 1) * sizeof *arena.extents);
    arena.n--;
}

// What others have to do that can be done now: they may wait for each other.
static void wait_for_all(struct device *me)
{
    if (me) device_wait(me);
    for (int i = 0;; i++) {
        pthread_mutex_lock(&arena.lock);
        struct device *d = arena.devices;
        for (int j = 0; d && j < i; j++)
            d = d->next;
        pthread_mutex_unlock(&arena.lock);
        if (!d) return;
        device_idle(d);
    }
}

void device_give(struct device *d, void *data)
{
    if (!data || d->is_counter) return;
    wait_for_all(d); // what others of this device do with it
    BUG_ON(!in_arena(data));
    taken_remove(data);
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
    if (d->is_counter) {
        d->counted.host += bytes;
        *out = d;
        return OK;
    }
    void *p = aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (p && !taken_add(TAKEN_PINNED, p, bytes)) {
        free(p);
        p = NULL;
    }
    if (!p) return err_say(why, ERR_MEMORY, "cuda on host: no pinned memory");
    *out = p;
    return OK;
}

void device_pinned_give(struct device *d, void *data)
{
    if (!data || d->is_counter) return;
    device_wait(d);
    taken_remove(data);
    free(data);
}

void device_taken(struct device *d, struct kernels_bytes *out)
{
    *out = d->is_counter ? d->counted
                         : (struct kernels_bytes){taken_bytes(0), taken_bytes(TAKEN_PINNED)};
}

// -- memory of others --

// This process among those that have been: a child that was forked is another one.
static uint64_t process_number()
{
    return (uint64_t)getpid();
}

// Lays the file over the extent.
static bool cover(void *data, uint64_t bytes, int fd, bool keeps_fd)
{
    const uint64_t at = (uint64_t)((char *)data - arena.device);
    bytes = (bytes + PAGE - 1) / PAGE * PAGE;
    pthread_mutex_lock(&arena.lock);
    const int prot = arena.is_open ? PROT_READ | PROT_WRITE : PROT_NONE;
    const bool ok = mmap(data, bytes, prot, MAP_SHARED | MAP_FIXED, fd, 0) == data;
    for (int i = 0; i < arena.n && ok; i++) {
        if (arena.extents[i].from != at) continue;
        arena.extents[i].is_shared = true;
        if (keeps_fd) arena.extents[i].fd = fd;
    }
    pthread_mutex_unlock(&arena.lock);
    return ok;
}

err_t device_share_take(struct device *d, uint64_t bytes, struct device_shared *about, void **out,
                        struct err_text *why)
{
    void *p;
    err_t e = device_take(d, bytes, "what members hand each other", &p, why);
    if (e) return e;
    const int fd = memfd_create("trireme-members", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)((bytes + PAGE - 1) / PAGE * PAGE)) ||
        !cover(p, bytes, fd, true)) {
        if (fd >= 0) close(fd);
        device_give(d, p);
        return err_say(why, ERR_UNSUPPORTED, "cuda on host: no memory for other processes");
    }
    *about = {};
    about->process = process_number();
    about->address = (uint64_t)(uintptr_t)p;
    snprintf(about->device, sizeof about->device, "host");
    snprintf((char *)about->handle, sizeof about->handle, "/proc/%d/fd/%d", (int)getpid(), fd);
    *out = p;
    return OK;
}

err_t device_map(struct device *d, const struct device_shared *about, uint64_t bytes, void **out,
                 struct err_text *why)
{
    char path[sizeof about->handle + 1] = {};
    if (about->process == process_number()) {
        *out = (void *)(uintptr_t)about->address;
        return OK;
    }
    memcpy(path, about->handle, sizeof about->handle);
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    struct stat st = {};
    void *p = NULL;
    if (fd < 0 || fstat(fd, &st) || (uint64_t)st.st_size < bytes ||
        device_take(d, bytes, "a member's memory", &p, why) || !cover(p, bytes, fd, false)) {
        if (fd >= 0) close(fd);
        device_give(d, p);
        return err_say(why, ERR_UNSUPPORTED, "cuda on host: a member's memory is out of reach");
    }
    close(fd);
    *out = p;
    return OK;
}

void device_unmap(struct device *d, const struct device_shared *about, void *data, uint64_t bytes)
{
    (void)bytes;
    if (about->process != process_number()) device_give(d, data);
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
    out->sm = out->code = 86;
    out->n_processor = 4;
    out->memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    out->memory_free = (uint64_t)sysconf(_SC_AVPHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    out->is_integrated = true;
    out->is_emulated = true;
    snprintf(out->driver, sizeof out->driver, "none");
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
    wait_for_all(NULL); // what an older one was given is there
    d->stream.device = d;
    pthread_mutex_init(&d->lock, NULL);
    pthread_mutex_lock(&arena.lock);
    d->next = arena.devices;
    arena.devices = d;
    pthread_mutex_unlock(&arena.lock);
    *out = d;
    return OK;
}

err_t device_open_counter(struct device **out, struct err_text *why)
{
    struct device *d = (struct device *)calloc(1, sizeof *d);
    if (!d) return err_say(why, ERR_MEMORY, "cuda on host: no memory");
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
    if (d->is_counter) {
        free(d);
        return;
    }
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

// False: not yet.
static bool run_work(struct device *d, struct work *w)
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
    case WORK_TRY:
        return w->tried((void *)(w + 1));
    case WORK_MARK:
        d->queue_ns += w->is_end ? clock_now_ns() : -clock_now_ns();
        break;
    }
    return true;
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

// Does what can be done. False: something waits for others.
static bool run_todo(struct device *d)
{
    if (!d->todo.n) return true;
    bool is_done = true;
    const int64_t from = clock_now_ns();
    arena_unlock(true);
    while (d->todo_at < d->todo.used && !d->failed && is_done) {
        struct work *w = (struct work *)(void *)(d->todo.data + d->todo_at);
        is_done = run_work(d, w);
        if (is_done) d->todo_at += w->bytes;
    }
    arena_unlock(false);
    d->work_ns += (uint64_t)(clock_now_ns() - from);
    if (!is_done) return false;
    d->todo.used = d->todo_at = 0;
    d->todo.n = 0;
    return true;
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

void device_host_call(struct CUstream_st *stream, device_host_try *f, const void *arg,
                      uint64_t bytes)
{
    struct work w = {};
    w.kind = WORK_TRY;
    w.tried = f;
    add(stream->device, &w, arg, bytes);
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

bool device_idle(struct device *d)
{
    pthread_mutex_lock(&d->lock);
    const bool is_idle = run_todo(d);
    pthread_mutex_unlock(&d->lock);
    return is_idle;
}

bool device_watch(struct device *d, void (*rest)(void *arg, int64_t since_us), void *arg)
{
    return watch_add(&d->watchers, rest, arg);
}

void device_unwatch(struct device *d, const void *arg)
{
    watch_remove(&d->watchers, arg);
}

void device_wait(struct device *d)
{
    if (d->is_counter) return;
    int64_t from = 0;
    while (!device_idle(d)) {
        const int64_t now = clock_now_us();
        if (!from) from = now;
        watch_rest(&d->watchers, now - from);
        if (!d->watchers.n) usleep(50);
    }
}

static void mark(struct device *d, enum device_work kind, bool is_end)
{
    struct work w = {};
    if (kind == DEVICE_STEPS) return; // all that it does counts
    w.kind = WORK_MARK;
    w.is_end = is_end;
    add(d, &w, NULL, 0);
}
void device_work_begin(struct device *d, enum device_work kind)
{
    mark(d, kind, false);
}
void device_work_end(struct device *d, enum device_work kind)
{
    mark(d, kind, true);
}
uint64_t device_work_ns(struct device *d, enum device_work kind)
{
    device_wait(d);
    return kind == DEVICE_STEPS ? d->work_ns : (uint64_t)(d->queue_ns > 0 ? d->queue_ns : 0);
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
    for (uint64_t at = 0; at < g->list.used;) {
        const struct work *w = (const struct work *)(void *)(g->list.data + at);
        add(d, w, w + 1, w->bytes - sizeof *w);
        at += w->bytes;
    }
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
