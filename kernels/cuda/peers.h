// peers: what the files of this road share: peers.cu the exchange of all members, peers_queue.cu
// the way from one member to all others, peers_memory.cu the memory under both.
#pragma once
#include "kernels/cuda/members.h"
#ifndef __CUDACC__
#include "kernels/cuda/device_host.h"
#endif

enum { PEERS_THREADS = 256, PEERS_BLOCKS = 32 };

// Each member's memory begins with words of those that left: word i is raised by member i, which
// touches it no more.
enum { PEERS_HEAD_BYTES = 256 };
static_assert(PEERS_HEAD_BYTES >= KERNELS_MEMBERS_MAX * sizeof(uint32_t), "a word for each");

// `word`: what ends waiting kernels, and how it came about.
enum { PEERS_HERE, PEERS_GIVEN_UP, PEERS_ONE_LEFT };

// What kernels know of the members.
struct peers_view {
    int32_t n_member, member;
    char *memory[KERNELS_MEMBERS_MAX]; // of each: head, then what the road keeps there
    volatile int32_t *word;            // pinned
};

struct peers_memory {
    struct members_config config;
    struct peers_view view;
    uint64_t bytes[KERNELS_MEMBERS_MAX];
    struct device_shared own, others[KERNELS_MEMBERS_MAX];
    bool is_mapped[KERNELS_MEMBERS_MAX];
    bool is_shared; // others may have mapped ours
    uint32_t *left; // pinned, (KERNELS_MEMBERS_MAX)
};

// bytes: of each member behind its head.
err_t peers_memory_open(const struct members_config *c, const uint64_t *bytes,
                        struct peers_memory *m, struct err_text *why);
err_t peers_memory_connect(struct peers_memory *m, const struct device_shared *of,
                           struct err_text *why);
// Ends what waits, takes leave of the others and waits a little until they have taken leave too:
// nobody's memory may go while others use it. Who died does not keep us.
void peers_memory_close(struct peers_memory *m);
void peers_memory_end(struct peers_memory *m); // ends what waits
err_t peers_memory_status(const struct peers_memory *m, struct err_text *why);

// The sequence of one block's part in what one member hands the others, round and round in slots of
// the others' memory (peers_queue.cu).
struct peers_queue {
    struct peers_view view;
    int64_t slot_floats;
    int32_t n_slot;
    uint32_t *count; // (PEERS_BLOCKS)
};

// One exchange of all members (peers.cu).
struct peers_exchange {
    struct peers_view view;
    int32_t root;
    bool wide;       // parts are made of four floats
    int64_t most;    // floats of a buffer; each member has two behind its flags
    uint32_t *count; // (PEERS_BLOCKS) the same in all between two exchanges
    struct members_parts parts;
};

// One of the two, by config.queue_bytes.
struct peers {
    struct peers_memory memory;
    struct peers_exchange x;
    struct peers_queue queue;
};

err_t peers_queue_open(struct peers *p, const struct members_config *c, struct err_text *why);

#ifdef __CUDACC__
static __device__ __forceinline__ void peers_raise(uint32_t *flag, uint32_t value)
{
    __threadfence_system();
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
static __device__ __forceinline__ uint32_t peers_read(const uint32_t *flag)
{
    uint32_t value;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
    return value;
}
#else
static inline void peers_raise(uint32_t *flag, uint32_t value)
{
    __atomic_store_n(flag, value, __ATOMIC_RELEASE);
}
static inline uint32_t peers_read(const uint32_t *flag)
{
    return __atomic_load_n(flag, __ATOMIC_ACQUIRE);
}
#endif

// Whether flag has come as far as count, which goes on behind 2^32.
static __device__ __forceinline__ bool peers_is_up(const uint32_t *flag, uint32_t count)
{
    return (int32_t)(peers_read(flag) - count) >= 0;
}

// Whether `other` has left; then everybody waits in vain, and the host is told.
static __device__ __forceinline__ bool peers_has_left(const struct peers_view *v, int other)
{
    const uint32_t *words = (const uint32_t *)(const void *)v->memory[v->member];
    if (!peers_read(words + other)) return false;
    if (!*v->word) *v->word = PEERS_ONE_LEFT;
    return true;
}

// Until the flag is up. False: it will not be.
static __device__ __forceinline__ bool peers_await(const struct peers_view *v, int other,
                                                   const uint32_t *flag, uint32_t count)
{
    enum { LOOKS = 1 << 10 }; // between looks whether it is over
    for (int look = 1; !peers_is_up(flag, count); look++)
        if (look % LOOKS == 0 && (*v->word || peers_has_left(v, other))) return false;
    return true;
}
