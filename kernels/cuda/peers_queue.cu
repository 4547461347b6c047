// peers_queue: rows from member 0 to all others, which need not be there yet: they lie in slots of
// the others' memory until they are taken. The giver waits only for a free slot.
//
// What is handed over is cut into stripes; stripe i is the business of block i % PEERS_BLOCKS at
// both ends, so each block has its part of every slot to itself, counts what passes through it, and
// waits for nobody but the same block of the other side: the flag `given` says how many of its
// parts have come, `taken` how many were read. Both follow the block's reads and writes (a barrier,
// then a release for the whole system; see peers.cu).
#include "kernels/cuda/peers.h"

enum { STRIPE = PEERS_THREADS * 4 }; // floats

struct part {
    struct peers_queue q;
    int64_t n; // floats
    bool wide; // 16 bytes at a time
};

// Flags lie behind the head: a block's `given` of a taker, its `taken` by each member of the giver.
static __device__ __forceinline__ uint32_t *given_of(const struct peers_queue *q, int member,
                                                     int block)
{
    return (uint32_t *)(void *)(q->view.memory[member] + PEERS_HEAD_BYTES) + block;
}
static __device__ __forceinline__ uint32_t *taken_of(const struct peers_queue *q, int block, int by)
{
    return (uint32_t *)(void *)(q->view.memory[0] + PEERS_HEAD_BYTES) +
           block * KERNELS_MEMBERS_MAX + by;
}
static const uint64_t GIVEN_BYTES = PEERS_BLOCKS * sizeof(uint32_t);
static const uint64_t TAKEN_BYTES = GIVEN_BYTES * KERNELS_MEMBERS_MAX;

static __device__ __forceinline__ float *slot_of(const struct peers_queue *q, int member,
                                                 uint32_t count)
{
    const int64_t slot = count % (uint32_t)q->n_slot;
    return (float *)(void *)(q->view.memory[member] + PEERS_HEAD_BYTES +
                             PEERS_BLOCKS * sizeof(uint32_t)) +
           slot * q->slot_floats;
}

// The block's stripes.
static __device__ __forceinline__ void copy_stripes(const struct part *p, float *to,
                                                    const float *from)
{
    for (int64_t at = (int64_t)blockIdx.x * STRIPE; at < p->n; at += (int64_t)PEERS_BLOCKS * STRIPE)
        if (p->wide) {
            const int64_t i = at + threadIdx.x * 4;
            if (i < p->n) *(float4 *)(void *)(to + i) = *(const float4 *)(const void *)(from + i);
        } else {
            for (int64_t i = at + threadIdx.x; i < at + STRIPE && i < p->n; i += blockDim.x)
                to[i] = from[i];
        }
}

static __global__ void __launch_bounds__(PEERS_THREADS) give_run(const float *x, struct part p)
{
    __shared__ uint32_t is_over;
    const struct peers_queue *q = &p.q;
    const uint32_t count = q->count[blockIdx.x];
    const int other = (int)threadIdx.x, block = (int)blockIdx.x;
    const bool has_other = other > 0 && other < q->view.n_member;
    if (threadIdx.x == 0) is_over = 0;
    __syncthreads();
    if (has_other &&
        (peers_has_left(&q->view, other) ||
         !peers_await(&q->view, other, taken_of(q, block, other), count + 1 - (uint32_t)q->n_slot)))
        is_over = 1;
    __syncthreads();
    if (is_over) return;
    for (int i = 1; i < q->view.n_member; i++)
        copy_stripes(&p, slot_of(q, i, count), x);
    __syncthreads();
    if (has_other) peers_raise(given_of(q, other, block), count + 1);
    if (threadIdx.x == 0) q->count[block] = count + 1;
}

static __global__ void __launch_bounds__(PEERS_THREADS) take_run(float *y, struct part p)
{
    __shared__ uint32_t is_over;
    const struct peers_queue *q = &p.q;
    const uint32_t count = q->count[blockIdx.x];
    const int block = (int)blockIdx.x, me = q->view.member;
    if (threadIdx.x == 0) is_over = !peers_await(&q->view, 0, given_of(q, me, block), count + 1);
    __syncthreads();
    if (is_over) return;
    copy_stripes(&p, y, slot_of(q, me, count));
    __syncthreads();
    if (threadIdx.x == 0) peers_raise(taken_of(q, block, me), count + 1);
    if (threadIdx.x == 0) q->count[block] = count + 1;
}

#ifndef __CUDACC__
// On the host a kernel that waits for another process would keep everybody else waiting.
struct all_up {
    struct part part;
    int blocks;
};
static bool is_there(const struct peers_queue *q, int other, const uint32_t *flag, uint32_t count)
{
    return *q->view.word || peers_has_left(&q->view, other) || peers_is_up(flag, count);
}
static bool can_give(void *arg)
{
    const struct all_up *a = (const struct all_up *)arg;
    const struct peers_queue *q = &a->part.q;
    bool all = true;
    for (int b = 0; b < a->blocks; b++)
        for (int i = 1; i < q->view.n_member; i++)
            all = all && is_there(q, i, taken_of(q, b, i), q->count[b] + 1 - (uint32_t)q->n_slot);
    return all;
}
static bool can_take(void *arg)
{
    const struct all_up *a = (const struct all_up *)arg;
    const struct peers_queue *q = &a->part.q;
    bool all = true;
    for (int b = 0; b < a->blocks; b++)
        all = all && is_there(q, 0, given_of(q, q->view.member, b), q->count[b] + 1);
    return all;
}
static void wait_for(cudaStream_t stream, device_host_try *f, const struct part *part, int blocks)
{
    const struct all_up a = {*part, blocks};
    device_host_call(stream, f, &a, sizeof a);
}
#endif

static int32_t blocks_of(int64_t n)
{
    const int32_t want = cuda_ceil(n, STRIPE);
    return want < PEERS_BLOCKS ? want : (int32_t)PEERS_BLOCKS;
}

static struct part part_of(const struct peers *p, const float *x, int64_t n)
{
    return {p->queue, n, ((uintptr_t)x / sizeof(float) | (uint64_t)n) % 4 == 0};
}

void peers_give(struct peers *p, const float *x, int64_t n)
{
    cudaStream_t stream = p->memory.config.c->stream;
    for (int64_t at = 0, take; at < n && !*p->queue.view.word; at += take) {
        take = n - at < p->queue.slot_floats ? n - at : p->queue.slot_floats;
        const struct part part = part_of(p, x + at, take);
#ifndef __CUDACC__
        wait_for(stream, can_give, &part, blocks_of(take));
#endif
        LAUNCH(give_run, blocks_of(take), PEERS_THREADS, 0, stream, x + at, part);
    }
}

void peers_take(struct peers *p, float *y, int64_t n)
{
    cudaStream_t stream = p->memory.config.c->stream;
    for (int64_t at = 0, take; at < n && !*p->queue.view.word; at += take) {
        take = n - at < p->queue.slot_floats ? n - at : p->queue.slot_floats;
        const struct part part = part_of(p, y + at, take);
#ifndef __CUDACC__
        wait_for(stream, can_take, &part, blocks_of(take));
#endif
        LAUNCH(take_run, blocks_of(take), PEERS_THREADS, 0, stream, y + at, part);
    }
}

// -- opening --

err_t peers_queue_open(struct peers *p, const struct members_config *c, struct err_text *why)
{
    struct peers_queue *q = &p->queue;
    uint64_t bytes[KERNELS_MEMBERS_MAX];
    q->slot_floats = (int64_t)(group_bytes_buffer(GROUP_BYTES_SLOT, c->row_bytes) /
                               sizeof(float));
    q->n_slot = group_bytes_slots(c->row_bytes, c->queue_bytes);
    for (int32_t i = 0; i < c->n_member; i++)
        bytes[i] = i ? GIVEN_BYTES + (uint64_t)q->n_slot * (uint64_t)q->slot_floats * sizeof(float)
                     : TAKEN_BYTES;
    err_t e = peers_memory_open(c, bytes, &p->memory, why);
    if (!e)
        e = cuda_take(c->c, PEERS_BLOCKS * sizeof *q->count, "counts of what was handed on",
                      (void **)&q->count, why);
    q->view = p->memory.view;
    return e;
}
