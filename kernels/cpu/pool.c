#include "kernels/cpu/pool.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"

#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

// The state word. A thread joins by adding 1 to the count of a region that is open; the generation
// only tells it not to join the same region twice, so its wrapping is harmless.
enum {
    POOL_COUNT = 0x0000ffff,
    POOL_OPEN = 0x00010000,
    POOL_CALLER_SLEEPS = 0x00020000,
    POOL_STOP = 0x00040000,
    POOL_GENERATION = 0x00080000, // one generation; uses the bits above, too
};
static const uint32_t generation_mask = ~(uint32_t)(POOL_GENERATION - 1);

enum { POOL_SPIN_US = 50, POOL_SPINS_PER_LOOK = 64 };

struct pool_thread {
    struct pool *pool;
    pthread_t id;
    int32_t index;
};

struct pool {
    _Alignas(64) _Atomic uint32_t state;
    _Alignas(64) _Atomic int32_t next; // item
    _Alignas(64) _Atomic int32_t n_asleep;
    pool_fn *fn;
    void *arg;
    int32_t n_item;
    _Alignas(64) _Atomic uint64_t progress;
    _Atomic uint64_t wait_ns;
    int32_t n_threads, n_started;
    struct pool_thread threads[];
};

static void futex_wait(_Atomic uint32_t *word, uint32_t seen)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static inline void pause_a_little(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

// Waits until `state & mask` differs from `seen & mask`; returns false when the spinning time is
// over without a change.
static bool spin_while(struct pool *p, uint32_t mask, uint32_t seen)
{
    int64_t until = 0;
    for (;;) {
        for (int i = 0; i < POOL_SPINS_PER_LOOK; i++) {
            uint32_t s = atomic_load_explicit(&p->state, memory_order_acquire);
            if ((s & mask) != (seen & mask)) return true;
            pause_a_little();
        }
        int64_t now = clock_now_us();
        if (!until) until = now + POOL_SPIN_US;
        if (now >= until) return false;
    }
}

static void take_items(struct pool *p, int32_t thread)
{
    for (;;) {
        int32_t i = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (i >= p->n_item) return;
        p->fn(p->arg, i, thread);
        if (thread == 0) {
            uint64_t n = atomic_load_explicit(&p->progress, memory_order_relaxed);
            atomic_store_explicit(&p->progress, n + 1, memory_order_relaxed);
        }
    }
}

// Joins the open region if there is one that this thread has not seen; true if it took part.
static bool join_region(struct pool *p, struct pool_thread *t, uint32_t *seen)
{
    uint32_t s = atomic_load(&p->state);
    for (;;) {
        if (!(s & POOL_OPEN) || (s & generation_mask) == (*seen & generation_mask)) {
            *seen = s; // a region that closed without us is over for us
            return false;
        }
        if (atomic_compare_exchange_weak(&p->state, &s, s + 1)) break;
    }
    *seen = s;
    take_items(p, t->index);
    s = atomic_fetch_sub(&p->state, 1);
    if ((s & POOL_COUNT) == 1 && (s & POOL_CALLER_SLEEPS)) futex_wake(&p->state);
    return true;
}

static void *pool_thread_main(void *arg)
{
    struct pool_thread *t = arg;
    struct pool *p = t->pool;
    uint32_t seen = 0; // generation 0 is never open
    for (;;) {
        if (join_region(p, t, &seen)) continue;
        uint32_t s = atomic_load(&p->state);
        if (s & POOL_STOP) return NULL;
        if (spin_while(p, generation_mask | POOL_STOP, seen)) continue;
        atomic_fetch_add(&p->n_asleep, 1);
        s = atomic_load(&p->state);
        if (!(s & POOL_STOP) && (s & generation_mask) == (seen & generation_mask))
            futex_wait(&p->state, s);
        atomic_fetch_sub(&p->n_asleep, 1);
    }
}

err_t pool_open(int32_t n_threads, struct pool **out)
{
    if (n_threads < 1 || n_threads > POOL_THREADS_MAX) return ERR_CONFIG;
    size_t bytes = sizeof(struct pool) + (size_t)n_threads * sizeof(struct pool_thread);
    struct pool *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) return ERR_MEMORY;
    memset(p, 0, bytes);
    p->n_threads = n_threads;
    for (int32_t i = 1; i < n_threads; i++) {
        struct pool_thread *t = &p->threads[p->n_started];
        *t = (struct pool_thread){.pool = p, .index = i};
        int e = pthread_create(&t->id, NULL, pool_thread_main, t);
        if (e) {
            log_error("compute pool: thread %d of %d refused: %s", (int)i, (int)n_threads,
                      strerror(e));
            pool_close(p);
            return ERR_SYSTEM;
        }
        p->n_started++;
    }
    *out = p;
    return OK;
}

void pool_close(struct pool *p)
{
    if (!p) return;
    atomic_fetch_or(&p->state, POOL_STOP);
    futex_wake(&p->state);
    for (int32_t i = 0; i < p->n_started; i++)
        pthread_join(p->threads[i].id, NULL);
    free(p);
}

static void wait_for_the_others(struct pool *p)
{
    uint32_t s = atomic_fetch_and(&p->state, ~(uint32_t)POOL_OPEN) & ~(uint32_t)POOL_OPEN;
    if (!(s & POOL_COUNT)) return;
    const int64_t from = clock_now_ns();
    while (s & POOL_COUNT) {
        if (!spin_while(p, POOL_COUNT, s)) {
            s = atomic_fetch_or(&p->state, POOL_CALLER_SLEEPS) | POOL_CALLER_SLEEPS;
            if (s & POOL_COUNT) futex_wait(&p->state, s);
        }
        s = atomic_load(&p->state);
    }
    const uint64_t waited = atomic_load_explicit(&p->wait_ns, memory_order_relaxed);
    atomic_store_explicit(&p->wait_ns, waited + (uint64_t)(clock_now_ns() - from),
                          memory_order_relaxed);
}

void pool_run(struct pool *p, int32_t n_item, pool_fn *fn, void *arg)
{
    uint64_t n = atomic_load_explicit(&p->progress, memory_order_relaxed);
    atomic_store_explicit(&p->progress, n + 1, memory_order_relaxed);
    if (p->n_threads == 1 || n_item <= 1) {
        for (int32_t i = 0; i < n_item; i++) {
            fn(arg, i, 0);
            atomic_store_explicit(&p->progress, n + 2 + (uint64_t)i, memory_order_relaxed);
        }
        return;
    }
    p->fn = fn;
    p->arg = arg;
    p->n_item = n_item;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    // No thread is inside: the count is 0, and the flags of the last region go.
    uint32_t s = atomic_load_explicit(&p->state, memory_order_relaxed) & generation_mask;
    s += POOL_GENERATION;
    if (!(s & generation_mask)) s += POOL_GENERATION;
    atomic_store(&p->state, s | POOL_OPEN);
    if (atomic_load(&p->n_asleep)) futex_wake(&p->state);
    take_items(p, 0);
    wait_for_the_others(p);
}

uint64_t pool_progress(const struct pool *p)
{
    return atomic_load_explicit(&((struct pool *)p)->progress, memory_order_relaxed);
}

uint64_t pool_wait_ns(const struct pool *p)
{
    return atomic_load_explicit(&((struct pool *)p)->wait_ns, memory_order_relaxed);
}
