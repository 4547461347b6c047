// simt_host: runs the threads of a block as fibers of one OS thread. A fiber that comes to a
// barrier or a collective gives way to the next; a thread that never waits leaves its stack to the
// next one, so kernels without barriers need a single stack.
#include "kernels/cuda/simt.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT_ASAN 1
#endif
#endif
#ifdef SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

enum {
    THREADS_MAX = 1024,
    COPIES_MAX = 256,
    STACK_BYTES = 256 << 10,
    SHARED_MAX = 227 << 10, // of sm_90; smaller devices have their own limits
};

struct copy {
    void *to;
    const void *from;
    int bytes, zeros, group;
};
enum state { NEW, READY, AT_WARP, AT_BLOCK, DONE };
struct fiber {
    struct simt_thread is; // first: simt_now points here
    enum state state;
    int stack; // number, -1: none
    void *sp;
    void *fake; // ASan's
    const char *file;
    int line; // where it waits
    struct simt_lane lane;
    bool has_waited; // simt_wait_before
    int n_copy, n_group;
    struct copy copies[COPIES_MAX];
};
// Lanes that wait for each other.
struct meeting {
    uint32_t mask, here;
    simt_solve *solve;
    const char *file;
    int line;
};
struct warp {
    int n_meeting;
    struct meeting meetings[32];
};

struct simt_thread *simt_now;
uint3 simt_block_index;
dim3 simt_block_dim, simt_grid_dim;
void *simt_shared;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; // of all that follows
static struct {
    struct fiber fibers[THREADS_MAX];
    struct warp warps[THREADS_MAX / 32];
    char *stacks; // THREADS_MAX of STACK_BYTES, each with a guard page below
    int free_stacks[THREADS_MAX], n_free;
    void *sp, *fake; // of the scheduler
    const void *bottom;
    size_t bottom_bytes;
    const struct simt_call *call;
    bool failed;
    struct simt_why *why;
    enum simt_order order;
    uint64_t seed;
    alignas(128) char shared[SHARED_MAX + 1024];
} run;

// Saves the callee's registers on the stack, keeps the stack's place at *save, and goes on where
// `to` was saved.
extern "C" void simt_switch(void **save, void *to) __attribute__((visibility("hidden")));
#if defined(__x86_64__)
asm(".text\n.p2align 4\n.globl simt_switch\n.hidden simt_switch\n.type simt_switch,@function\n"
    "simt_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
    ".size simt_switch, .-simt_switch\n");
enum { SAVED_WORDS = 7, SAVED_RETURN = 6 };
#elif defined(__aarch64__)
asm(".text\n.p2align 4\n.globl simt_switch\n.hidden simt_switch\n.type simt_switch,%function\n"
    "simt_switch:\n"
    "sub sp, sp, #160\n"
    "stp x19, x20, [sp]\nstp x21, x22, [sp, #16]\nstp x23, x24, [sp, #32]\n"
    "stp x25, x26, [sp, #48]\nstp x27, x28, [sp, #64]\nstp x29, x30, [sp, #80]\n"
    "stp d8, d9, [sp, #96]\nstp d10, d11, [sp, #112]\nstp d12, d13, [sp, #128]\n"
    "stp d14, d15, [sp, #144]\n"
    "mov x2, sp\nstr x2, [x0]\nmov sp, x1\n"
    "ldp x19, x20, [sp]\nldp x21, x22, [sp, #16]\nldp x23, x24, [sp, #32]\n"
    "ldp x25, x26, [sp, #48]\nldp x27, x28, [sp, #64]\nldp x29, x30, [sp, #80]\n"
    "ldp d8, d9, [sp, #96]\nldp d10, d11, [sp, #112]\nldp d12, d13, [sp, #128]\n"
    "ldp d14, d15, [sp, #144]\n"
    "add sp, sp, #160\nret\n"
    ".size simt_switch, .-simt_switch\n");
enum { SAVED_WORDS = 21, SAVED_RETURN = 11 }; // one to keep the stack aligned
#else
#error "fibers know x86-64 and AArch64"
#endif

static struct fiber *now()
{
    return (struct fiber *)(void *)simt_now;
}

static char *stack_low(int i)
{
    return run.stacks + (size_t)i * STACK_BYTES;
}

// -- changing fibers --

static void to_scheduler(bool for_good)
{
    struct fiber *f = now();
#ifdef SIMT_ASAN
    __sanitizer_start_switch_fiber(for_good ? NULL : &f->fake, run.bottom, run.bottom_bytes);
#else
    (void)for_good;
#endif
    simt_switch(&f->sp, run.sp);
#ifdef SIMT_ASAN
    __sanitizer_finish_switch_fiber(f->fake, &run.bottom, &run.bottom_bytes);
#endif
}

static void finish_copies(struct fiber *f, int groups)
{
    int kept = 0;
    for (int i = 0; i < f->n_copy; i++) {
        struct copy *c = f->copies + i;
        if (c->group >= groups) {
            f->copies[kept++] = *c;
            continue;
        }
        memcpy(c->to, c->from, (size_t)c->bytes);
        memset((char *)c->to + c->bytes, 0, (size_t)c->zeros);
    }
    f->n_copy = kept;
}

static void fiber_main()
{
#ifdef SIMT_ASAN
    __sanitizer_finish_switch_fiber(NULL, &run.bottom, &run.bottom_bytes);
#endif
    run.call->run(run.call->args);
    finish_copies(now(), INT32_MAX);
    now()->state = DONE;
    to_scheduler(true);
}

static void begin_stack(struct fiber *f)
{
    f->stack = run.free_stacks[--run.n_free];
    char *low = stack_low(f->stack);
#ifdef SIMT_ASAN
    __asan_unpoison_memory_region(low + 4096, STACK_BYTES - 4096);
#endif
    // Stacks begin at different places of a page, else they fight for the same lines of a cache.
    char *top = low + STACK_BYTES - 256 - f->stack % 32 * 192;
    top -= (uintptr_t)top % 16;
    void **sp = (void **)(void *)top - SAVED_WORDS - 1; // as if fiber_main had been called
    memset(sp, 0, (SAVED_WORDS + 1) * sizeof *sp);
    sp[SAVED_RETURN] = (void *)fiber_main;
    f->sp = sp;
    f->fake = NULL;
}

static void resume(struct fiber *f)
{
    if (f->state == NEW) begin_stack(f);
    f->state = READY;
    simt_now = &f->is;
#ifdef SIMT_ASAN
    __sanitizer_start_switch_fiber(&run.fake, stack_low(f->stack) + 4096, STACK_BYTES - 4096);
#endif
    simt_switch(&run.sp, f->sp);
#ifdef SIMT_ASAN
    __sanitizer_finish_switch_fiber(run.fake, NULL, NULL);
#endif
    simt_now = NULL;
    if (f->state == DONE || run.failed) run.free_stacks[run.n_free++] = f->stack;
    if (f->state == DONE || run.failed) f->stack = -1;
}

// -- what kernels call --

__attribute__((format(printf, 4, 5))) static void blame(const struct fiber *f, const char *file,
                                                        int line, const char *fmt, ...)
{
    if (run.failed) return;
    run.failed = true;
    char what[160];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    const char *name = strrchr(file, '/');
    snprintf(run.why->s, sizeof run.why->s, "kernel %s, block (%u, %u, %u), thread %u, %s:%d: %s",
             run.call->name, simt_block_index.x, simt_block_index.y, simt_block_index.z,
             f->is.number, name ? name + 1 : file, line, what);
}

void simt_fail(const char *file, int line, const char *what)
{
    blame(now(), file, line, "%s", what);
    for (;;)
        to_scheduler(true);
}

void __syncthreads(const char *file, int line)
{
    struct fiber *f = now();
    f->state = AT_BLOCK;
    f->file = file;
    f->line = line;
    to_scheduler(false);
}

void simt_wait_before(void)
{
    now()->has_waited = true;
}

void simt_collective(uint32_t mask, simt_solve *solve, const void *in, void *out, const char *file,
                     int line)
{
    struct fiber *f = now();
    struct warp *w = run.warps + f->is.number / 32;
    const uint32_t lane = f->is.number % 32;
    if (!(mask >> lane & 1)) simt_fail(file, line, "a lane calls that its mask leaves out");
    f->lane = {in, out};
    int i = 0;
    for (; i < w->n_meeting; i++) {
        struct meeting *m = w->meetings + i;
        if (m->mask == mask && m->solve == solve && m->line == line) break;
    }
    struct meeting *m = w->meetings + i;
    if (i == w->n_meeting) {
        *m = {mask, 0, solve, file, line};
        w->n_meeting++;
    }
    m->here |= 1u << lane;
    struct fiber *first = f - lane;
    if (m->here != mask) {
        f->state = AT_WARP;
        f->file = file;
        f->line = line;
        to_scheduler(false);
        return;
    }
    *m = w->meetings[--w->n_meeting];
    struct simt_lane lanes[32];
    for (int l = 0; l < 32; l++)
        if (mask >> l & 1) lanes[l] = first[l].lane;
    solve(lanes, mask);
    for (int l = 0; l < 32; l++)
        if (mask >> l & 1) first[l].state = READY;
}

void simt_copy_async(void *shared, const void *global, int bytes, int zeros)
{
    struct fiber *f = now();
    if (f->n_copy == COPIES_MAX)
        simt_fail(__FILE__, __LINE__, "more copies under way than the host keeps");
    f->copies[f->n_copy++] = {shared, global, bytes, zeros, f->n_group};
}
void simt_copy_commit(void)
{
    now()->n_group++;
}
void simt_copy_wait(int pending)
{
    finish_copies(now(), now()->n_group - pending);
}

// -- a block --

static uint64_t next_random()
{
    run.seed ^= run.seed << 13;
    run.seed ^= run.seed >> 7;
    run.seed ^= run.seed << 17;
    return run.seed;
}

static void put_in_order(unsigned *order, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        order[i] = run.order == SIMT_DESCENDING ? n - 1 - i : i;
    for (unsigned i = n; run.order == SIMT_SHUFFLED && i > 1; i--) {
        unsigned j = (unsigned)(next_random() % i), t = order[i - 1];
        order[i - 1] = order[j];
        order[j] = t;
    }
}

// Runs the warp until no lane of it can go on.
static void run_warp(struct fiber *first, unsigned n, const unsigned *lanes)
{
    for (bool ran = true; ran && !run.failed;) {
        ran = false;
        for (unsigned i = 0; i < 32 && !run.failed; i++) {
            if (lanes[i] >= n) continue;
            struct fiber *f = first + lanes[i];
            if (f->state != NEW && f->state != READY) continue;
            resume(f);
            ran = true;
        }
    }
}

// True: the block goes on behind the barrier that all threads have reached.
static bool pass_barrier(unsigned n)
{
    const struct fiber *at = NULL, *done = NULL, *lost = NULL;
    for (unsigned i = 0; i < n; i++) {
        const struct fiber *f = run.fibers + i;
        if (f->state == DONE) done = f;
        if (f->state == AT_WARP && !lost) lost = f;
        if (f->state != AT_BLOCK) continue;
        if (at && (at->line != f->line || strcmp(at->file, f->file)))
            blame(f, f->file, f->line, "waits at a barrier while thread %u waits at line %d",
                  at->is.number, at->line);
        at = f;
    }
    if (lost)
        blame(lost, lost->file, lost->line, "waits for lanes that do not come (%s)",
              at     ? "others are at a barrier"
              : done ? "others have ended"
                     : "others are elsewhere");
    else if (at && done)
        blame(at, at->file, at->line, "waits at a barrier, thread %u has ended", done->is.number);
    if (run.failed || !at) return false;
    for (unsigned i = 0; i < n; i++)
        run.fibers[i].state = READY;
    return true;
}

static void run_block(unsigned n)
{
    const dim3 d = simt_block_dim;
    for (unsigned i = 0; i < n; i++) {
        struct fiber *f = run.fibers + i;
        f->is = {{i % d.x, i / d.x % d.y, i / d.x / d.y}, i};
        f->state = NEW;
        f->stack = -1;
        f->n_copy = f->n_group = 0;
        f->has_waited = !run.call->waits;
    }
    const unsigned n_warp = (n + 31) / 32;
    for (unsigned w = 0; w < n_warp; w++)
        run.warps[w].n_meeting = 0;
    memset(run.shared, 0xff, run.call->shared); // nothing may count on what was there
    unsigned warps[THREADS_MAX / 32], lanes[32];
    do {
        put_in_order(warps, n_warp);
        put_in_order(lanes, 32);
        for (unsigned i = 0; i < n_warp && !run.failed; i++)
            run_warp(run.fibers + warps[i] * 32, n - warps[i] * 32, lanes);
    } while (!run.failed && pass_barrier(n));
    for (unsigned i = 0; i < n && !run.failed; i++)
        if (!run.fibers[i].has_waited)
            blame(run.fibers + i, __FILE__, __LINE__, "ended and did not wait for what came before");
    for (unsigned i = 0; i < n; i++) // given up
        if (run.fibers[i].stack >= 0) run.free_stacks[run.n_free++] = run.fibers[i].stack;
}

// -- a launch --

static bool open_stacks()
{
    if (run.stacks) return true;
    void *p = mmap(NULL, (size_t)THREADS_MAX * STACK_BYTES, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return false;
    run.stacks = (char *)p;
    for (int i = 0; i < THREADS_MAX; i++) {
        if (mprotect(stack_low(i), 4096, PROT_NONE)) return false;
        run.free_stacks[run.n_free++] = THREADS_MAX - 1 - i;
    }
    if (!run.seed) run.seed = 1;
    return true;
}

static const char *check_call(const struct simt_call *c)
{
    const uint64_t threads = (uint64_t)c->block.x * c->block.y * c->block.z;
    if (!threads || threads > THREADS_MAX || c->block.z > 64) return "threads in a block";
    if (!c->grid.x || c->grid.x > INT32_MAX) return "blocks in x";
    if (!c->grid.y || c->grid.y > 65535 || !c->grid.z || c->grid.z > 65535) return "blocks in y, z";
    if (c->shared > SHARED_MAX) return "bytes of shared memory";
    return NULL;
}

bool simt_run(const struct simt_call *call, struct simt_why *why)
{
    pthread_mutex_lock(&lock);
    run.call = call;
    run.why = why;
    run.failed = false;
    const char *bad = check_call(call);
    if (bad || !open_stacks()) {
        run.failed = true;
        snprintf(why->s, sizeof why->s,
                 "kernel %s: %s: grid (%u, %u, %u), block (%u, %u, %u), %zu shared", call->name,
                 bad ? bad : "no memory for stacks", call->grid.x, call->grid.y, call->grid.z,
                 call->block.x, call->block.y, call->block.z, call->shared);
    }
    const bool ok = !run.failed;
    simt_block_dim = call->block;
    simt_grid_dim = call->grid;
    simt_shared = run.shared;
#ifdef SIMT_ASAN
    if (ok)
        __asan_poison_memory_region(run.shared + call->shared, sizeof run.shared - call->shared);
#endif
    const dim3 g = call->grid;
    const uint64_t n_block = ok ? (uint64_t)g.x * g.y * g.z : 0;
    for (uint64_t i = 0; i < n_block && !run.failed; i++) {
        const uint64_t b = run.order == SIMT_DESCENDING ? n_block - 1 - i : i;
        simt_block_index = {(unsigned)(b % g.x), (unsigned)(b / g.x % g.y),
                            (unsigned)(b / g.x / g.y)};
        run_block(call->block.x * call->block.y * call->block.z);
    }
#ifdef SIMT_ASAN
    __asan_unpoison_memory_region(run.shared, sizeof run.shared);
#endif
    const bool good = !run.failed;
    pthread_mutex_unlock(&lock);
    return good;
}

void simt_set_order(enum simt_order order, uint64_t seed)
{
    pthread_mutex_lock(&lock);
    run.order = order;
    run.seed = seed ? seed : 1;
    pthread_mutex_unlock(&lock);
}
