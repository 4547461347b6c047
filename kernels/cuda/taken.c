#include "kernels/cuda/taken.h"

#include <pthread.h>
#include <stdlib.h>

struct block {
    const void *at;
    uint64_t bytes;
    int32_t device;
};

// Of the whole process, as a device's memory is: what one backend took another may give back.
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct block *blocks;
static size_t n_block, cap_block;

bool taken_add(int32_t device, const void *at, uint64_t bytes)
{
    pthread_mutex_lock(&lock);
    if (n_block == cap_block) {
        const size_t cap = cap_block ? 2 * cap_block : 64;
        struct block *more = realloc(blocks, cap * sizeof *more);
        if (more) {
            blocks = more;
            cap_block = cap;
        }
    }
    const bool ok = n_block < cap_block;
    if (ok) blocks[n_block++] = (struct block){at, bytes, device};
    pthread_mutex_unlock(&lock);
    return ok;
}

void taken_remove(const void *at)
{
    pthread_mutex_lock(&lock);
    size_t i = 0;
    while (i < n_block && blocks[i].at != at)
        i++;
    BUG_ON(i == n_block);
    blocks[i] = blocks[--n_block];
    if (!n_block) { // nothing is left for whoever looks for leaks
        free(blocks);
        blocks = NULL;
        cap_block = 0;
    }
    pthread_mutex_unlock(&lock);
}

uint64_t taken_bytes(int32_t device)
{
    uint64_t sum = 0;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < n_block; i++)
        if (blocks[i].device == device) sum += blocks[i].bytes;
    pthread_mutex_unlock(&lock);
    return sum;
}
