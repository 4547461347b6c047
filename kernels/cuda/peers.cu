// peers: parts of an array between devices that reach each other's memory, in one kernel: each
// block writes its slice of our part into every other member's buffer and raises a flag there,
// waits for the flags of the others' same blocks, and takes their slices out of our buffer. One way
// over the bus and no host in between, for what is small.
//
// Flags count the exchanges, from opening on; the count lies in the device's memory, so that a
// recorded step goes on counting: once for each block, because others of the same exchange may not
// have begun. All members do the same exchanges with the same number of blocks and slices. The
// buffer is a double one: a member begins exchange k + 2 when everybody has raised the flags of k +
// 1, that is, has taken what it was given in k.
//
// The flag is released and acquired for the whole system after a barrier of the block (PTX ISA,
// memory consistency model: both are cumulative), so the block's slices are seen with it.
#include "kernels/cuda/members.h"
#ifndef __CUDACC__
#include "kernels/cuda/device_host.h"
#endif

#include <stdlib.h>

enum {
    THREADS = 256,
    BLOCKS = 32,
    BLOCK_FLOATS = THREADS * 8, // of all parts together; below, fewer blocks
    FLAGS = 16,                 // words of a block: one of each member
    LOOKS = 1 << 10,            // between looks whether it was given up
};
static_assert((int)KERNELS_MEMBERS_MAX <= (int)FLAGS, "a word for each");
static const uint64_t FLAG_BYTES = BLOCKS * FLAGS * sizeof(uint32_t);

// What the kernel knows of it.
struct exchange {
    int32_t n_member, member, root;
    bool wide;                         // parts are made of four floats
    char *shared[KERNELS_MEMBERS_MAX]; // flags, then two buffers
    int64_t most;                      // floats of a buffer
    uint32_t *count;                   // (BLOCKS) the same in all between two exchanges
    const volatile int32_t *given_up;  // pinned
    struct members_parts parts;
};
enum { GIVE = 1, TAKE = 2 };

struct peers {
    struct members_config config;
    struct device_shared shared, others[KERNELS_MEMBERS_MAX];
    struct exchange x;
    void *mine;
    uint64_t bytes;
    int32_t *given_up;
};

#ifdef __CUDACC__
static __device__ __forceinline__ void raise_flag(uint32_t *flag, uint32_t value)
{
    __threadfence_system();
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
static __device__ __forceinline__ uint32_t read_flag(const uint32_t *flag)
{
    uint32_t value;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
    return value;
}
#else
static void raise_flag(uint32_t *flag, uint32_t value)
{
    __atomic_store_n(flag, value, __ATOMIC_RELEASE);
}
static uint32_t read_flag(const uint32_t *flag)
{
    return __atomic_load_n(flag, __ATOMIC_ACQUIRE);
}
#endif

static __device__ __forceinline__ uint32_t *flag_of(char *shared, int block, int member)
{
    return (uint32_t *)(void *)shared + block * FLAGS + member;
}
static __device__ __forceinline__ float *buffer_of(const struct exchange *x, int member,
                                                   uint32_t count)
{
    return (float *)(void *)(x->shared[member] + FLAG_BYTES) + (count & 1) * x->most;
}

// The block's slice of part i from one array into another one of the same layout.
template <class T>
static __device__ __forceinline__ void copy_slice(const struct members_part *p, T *to,
                                                  const T *from)
{
    const int64_t unit = sizeof(T) / sizeof(float), width = p->width / unit;
    const int64_t n = p->n_row * width, fours = (p->n_row * p->width + 3) / 4;
    // In fours, however they are copied: it depends on where y lies, which is each member's own.
    const int64_t first = fours * blockIdx.x / gridDim.x * (4 / unit);
    const int64_t to_end = fours * (blockIdx.x + 1) / gridDim.x * (4 / unit);
    const int64_t end = to_end < n ? to_end : n;
    for (int64_t i = first + threadIdx.x; i < end; i += blockDim.x) {
        const int64_t at = (p->at + i / width * p->ld) / unit + i % width;
        to[at] = from[at];
    }
}

static __device__ __forceinline__ void copy_part(const struct exchange *x, int part, float *to,
                                                 const float *from)
{
    if (x->wide)
        copy_slice(&x->parts.of[part], (float4 *)(void *)to, (const float4 *)(const void *)from);
    else
        copy_slice(&x->parts.of[part], to, from);
}

static __global__ void __launch_bounds__(THREADS)
    exchange_run(float *y, struct exchange x, int what)
{
    __shared__ uint32_t gone;
    const uint32_t count = x.count[blockIdx.x] + 1;
    const int other = (int)threadIdx.x; // of the threads that have one
    const bool has_other = other < x.n_member && other != x.member;
    if (threadIdx.x == 0) gone = 0;
    if (what & GIVE) {
        for (int i = 0; i < x.n_member; i++)
            if (i != x.member && (x.root < 0 || x.root == i))
                copy_part(&x, x.member, buffer_of(&x, i, count), y);
        __syncthreads();
        if (has_other) raise_flag(flag_of(x.shared[other], (int)blockIdx.x, x.member), count);
    }
    if (!(what & TAKE)) return;
    __syncthreads();
    const uint32_t *flag = flag_of(x.shared[x.member], (int)blockIdx.x, other % FLAGS);
    for (int look = 1; has_other && (int32_t)(read_flag(flag) - count) < 0; look++)
        if (look % LOOKS == 0 && *x.given_up) {
            gone = 1;
            break;
        }
    __syncthreads();
    for (int i = 0; i < x.n_member && !gone; i++)
        if (i != x.member && (x.root < 0 || x.root == x.member))
            copy_part(&x, i, y, buffer_of(&x, x.member, count));
    if (threadIdx.x == 0) x.count[blockIdx.x] = count;
    for (unsigned b = gridDim.x + threadIdx.x; blockIdx.x == 0 && b < BLOCKS; b += blockDim.x)
        x.count[b] = count; // of those that had nothing to do
}

#ifndef __CUDACC__
// On the host a kernel that waits for another process would keep everybody else waiting.
struct all_here {
    struct exchange x;
    int blocks;
};
static bool are_all_here(void *arg)
{
    const struct all_here *a = (const struct all_here *)arg;
    if (*a->x.given_up) return true;
    for (int b = 0; b < a->blocks; b++)
        for (int i = 0; i < a->x.n_member; i++)
            if (i != a->x.member && (int32_t)(read_flag(flag_of(a->x.shared[a->x.member], b, i)) -
                                              a->x.count[b] - 1) < 0)
                return false;
    return true;
}
#endif

static bool is_wide(const struct members_parts *p, int32_t n_member, const float *y)
{
    int64_t any = (int64_t)((uintptr_t)y / sizeof(float));
    for (int32_t i = 0; i < n_member; i++)
        any |= p->of[i].at | p->of[i].width | p->of[i].ld;
    return any % 4 == 0;
}

void peers_exchange(struct peers *p, float *y, const struct members_parts *parts, int32_t root)
{
    struct cuda *c = p->config.c;
    struct exchange x = p->x;
    int64_t n = 0;
    if (*p->given_up) return;
    x.root = root;
    x.parts = *parts;
    x.wide = is_wide(parts, x.n_member, y);
    for (int32_t i = 0; i < x.n_member; i++)
        n += parts->of[i].n_row * parts->of[i].width;
    const int32_t want = cuda_ceil(n, BLOCK_FLOATS);
    const int32_t blocks = want < 1 ? 1 : want < BLOCKS ? want : (int32_t)BLOCKS;
#ifdef __CUDACC__
    LAUNCH(exchange_run, blocks, THREADS, 0, c->stream, y, x, GIVE | TAKE);
#else
    const struct all_here here = {x, blocks};
    LAUNCH(exchange_run, blocks, THREADS, 0, c->stream, y, x, GIVE);
    device_host_call(c->stream, are_all_here, &here, sizeof here);
    LAUNCH(exchange_run, blocks, THREADS, 0, c->stream, y, x, TAKE);
#endif
}

// -- opening --

err_t peers_open(const struct members_config *c, struct peers **out, struct err_text *why)
{
    struct device *d = c->c->dev;
    struct peers *p = (struct peers *)calloc(1, sizeof *p);
    if (!p) return err_say(why, ERR_MEMORY, "peers: no memory");
    const uint64_t bytes = kernels_group_buffer_bytes(KERNELS_GROUP_PEERS_BYTES, c->row_bytes);
    p->config = *c;
    p->bytes = FLAG_BYTES + 2 * bytes;
    p->x.n_member = c->n_member;
    p->x.member = c->member;
    p->x.most = (int64_t)(bytes / sizeof(float));
    err_t e = device_share_take(d, p->bytes, &p->shared, &p->mine, why);
    if (!e)
        e = cuda_take(c->c, BLOCKS * sizeof *p->x.count, "counts of exchanges",
                      (void **)&p->x.count, why);
    if (!e) e = device_pinned_take(d, sizeof *p->given_up, (void **)&p->given_up, why);
    if (e) {
        peers_close(p);
        return e;
    }
    *p->given_up = 0;
    p->x.given_up = p->given_up;
    *out = p;
    return OK;
}

void peers_close(struct peers *p)
{
    if (!p) return;
    struct device *d = p->config.c->dev;
    peers_abort(p);
    device_wait(d);
    for (int32_t i = 0; i < p->x.n_member; i++)
        if (i != p->x.member) device_unmap(d, &p->others[i], p->x.shared[i], p->bytes);
    device_give(d, p->mine);
    device_give(d, p->x.count);
    device_pinned_give(d, p->given_up);
    free(p);
}

const struct device_shared *peers_shared(const struct peers *p)
{
    return &p->shared;
}

err_t peers_connect(struct peers *p, const struct device_shared *of, struct err_text *why)
{
    for (int32_t i = 0; i < p->x.n_member; i++) {
        void *mapped = p->mine;
        err_t e =
            i == p->x.member ? OK : device_map(p->config.c->dev, &of[i], p->bytes, &mapped, why);
        if (e) return e;
        p->others[i] = of[i];
        p->x.shared[i] = (char *)mapped;
    }
    return OK;
}

uint64_t peers_most(const struct peers *p)
{
    return (uint64_t)p->x.most;
}

void peers_abort(struct peers *p)
{
    if (p->given_up) *(volatile int32_t *)p->given_up = 1;
}
