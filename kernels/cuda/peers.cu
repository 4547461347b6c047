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
#include "kernels/cuda/peers.h"

#include <stdlib.h>

enum {
    BLOCK_FLOATS = PEERS_THREADS * 8, // of all parts together; below, fewer blocks
    FLAGS = 16,                       // words of a block: one of each member
};
static_assert((int)KERNELS_MEMBERS_MAX <= (int)FLAGS, "a word for each");
static const uint64_t FLAG_BYTES = sizeof(uint32_t) * PEERS_BLOCKS * FLAGS;
enum { GIVE = 1, TAKE = 2 };

static __device__ __forceinline__ uint32_t *flag_of(const struct peers_exchange *x, int of,
                                                    int block, int member)
{
    return (uint32_t *)(void *)(x->view.memory[of] + PEERS_HEAD_BYTES) + block * FLAGS + member;
}
static __device__ __forceinline__ float *buffer_of(const struct peers_exchange *x, int member,
                                                   uint32_t count)
{
    char *flags = x->view.memory[member] + PEERS_HEAD_BYTES;
    return (float *)(void *)(flags + sizeof(uint32_t) * PEERS_BLOCKS * FLAGS) +
           (count & 1) * x->most;
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

static __device__ __forceinline__ void copy_part(const struct peers_exchange *x, int part,
                                                 float *to, const float *from)
{
    if (x->wide)
        copy_slice(&x->parts.of[part], (float4 *)(void *)to, (const float4 *)(const void *)from);
    else
        copy_slice(&x->parts.of[part], to, from);
}

static __global__ void __launch_bounds__(PEERS_THREADS)
    exchange_run(float *y, struct peers_exchange x, int what)
{
    __shared__ uint32_t gone;
    const uint32_t count = x.count[blockIdx.x] + 1;
    const int n_member = x.view.n_member, me = x.view.member, block = (int)blockIdx.x;
    const int other = (int)threadIdx.x; // of the threads that have one
    const bool has_other = other < n_member && other != me;
    if (threadIdx.x == 0) gone = 0;
    __syncthreads();
    if (has_other && peers_has_left(&x.view, other)) gone = 1;
    __syncthreads();
    if (gone) return;
    if (what & GIVE) {
        for (int i = 0; i < n_member; i++)
            if (i != me && (x.root < 0 || x.root == i))
                copy_part(&x, me, buffer_of(&x, i, count), y);
        __syncthreads();
        if (has_other) peers_raise(flag_of(&x, other, block, me), count);
    }
    if (!(what & TAKE)) return;
    __syncthreads();
    if (has_other && !peers_await(&x.view, other, flag_of(&x, me, block, other % FLAGS), count))
        gone = 1;
    __syncthreads();
    for (int i = 0; i < n_member && !gone; i++)
        if (i != me && (x.root < 0 || x.root == me)) copy_part(&x, i, y, buffer_of(&x, me, count));
    if (threadIdx.x == 0) x.count[block] = count;
    for (unsigned b = gridDim.x + threadIdx.x; blockIdx.x == 0 && b < PEERS_BLOCKS; b += blockDim.x)
        x.count[b] = count; // of those that had nothing to do
}

#ifndef __CUDACC__
// On the host a kernel that waits for another process would keep everybody else waiting.
struct all_here {
    struct peers_exchange x;
    int blocks;
};
static bool are_all_here(void *arg)
{
    const struct all_here *a = (const struct all_here *)arg;
    const struct peers_exchange *x = &a->x;
    const int me = x->view.member;
    bool all = true;
    for (int b = 0; b < a->blocks; b++)
        for (int i = 0; i < x->view.n_member; i++)
            all = all && (i == me || *x->view.word || peers_has_left(&x->view, i) ||
                          peers_is_up(flag_of(x, me, b, i), x->count[b] + 1));
    return all;
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
    struct cuda *c = p->memory.config.c;
    struct peers_exchange x = p->x;
    int64_t n = 0;
    if (*x.view.word) return;
    x.root = root;
    x.parts = *parts;
    x.wide = is_wide(parts, x.view.n_member, y);
    for (int32_t i = 0; i < x.view.n_member; i++)
        n += parts->of[i].n_row * parts->of[i].width;
    const int32_t want = cuda_ceil(n, BLOCK_FLOATS);
    const int32_t blocks = want < 1 ? 1 : want < PEERS_BLOCKS ? want : (int32_t)PEERS_BLOCKS;
#ifdef __CUDACC__
    LAUNCH(exchange_run, blocks, PEERS_THREADS, 0, c->stream, y, x, GIVE | TAKE);
#else
    const struct all_here here = {x, blocks};
    LAUNCH(exchange_run, blocks, PEERS_THREADS, 0, c->stream, y, x, GIVE);
    device_host_call(c->stream, are_all_here, &here, sizeof here);
    LAUNCH(exchange_run, blocks, PEERS_THREADS, 0, c->stream, y, x, TAKE);
#endif
}

// -- opening --

static err_t exchange_open(struct peers *p, const struct members_config *c, struct err_text *why)
{
    const uint64_t bytes = group_bytes_buffer(GROUP_BYTES_PEERS, c->row_bytes);
    uint64_t each[KERNELS_MEMBERS_MAX];
    for (int32_t i = 0; i < c->n_member; i++)
        each[i] = FLAG_BYTES + 2 * bytes;
    p->x.most = (int64_t)(bytes / sizeof(float));
    err_t e = peers_memory_open(c, each, &p->memory, why);
    if (!e)
        e = cuda_take(c->c, PEERS_BLOCKS * sizeof *p->x.count, "counts of exchanges",
                      (void **)&p->x.count, why);
    p->x.view = p->memory.view;
    return e;
}

err_t peers_open(const struct members_config *c, struct peers **out, struct err_text *why)
{
    struct peers *p = (struct peers *)calloc(1, sizeof *p);
    if (!p) return err_say(why, ERR_MEMORY, "peers: no memory");
    err_t e = c->queue_bytes ? peers_queue_open(p, c, why) : exchange_open(p, c, why);
    if (e) {
        peers_close(p);
        return e;
    }
    *out = p;
    return OK;
}

void peers_close(struct peers *p)
{
    if (!p) return;
    struct device *d = p->memory.config.c->dev;
    peers_memory_close(&p->memory);
    device_give(d, p->x.count);
    device_give(d, p->queue.count);
    free(p);
}

const struct device_shared *peers_shared(const struct peers *p)
{
    return &p->memory.own;
}

err_t peers_connect(struct peers *p, const struct device_shared *of, struct err_text *why)
{
    err_t e = peers_memory_connect(&p->memory, of, why);
    p->x.view = p->queue.view = p->memory.view;
    return e;
}

uint64_t peers_most(const struct peers *p)
{
    return (uint64_t)p->x.most;
}

void peers_abort(struct peers *p)
{
    peers_memory_end(&p->memory);
}

err_t peers_status(const struct peers *p, struct err_text *why)
{
    return peers_memory_status(&p->memory, why);
}
