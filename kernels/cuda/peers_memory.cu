// peers_memory: each member's memory that the others may write, and how it is given back. A member
// that goes raises a word in the memory of every other one, and waits until they have raised theirs
// here: from then on nobody touches anything. Who has not within LEAVE_US has died, or computes
// still; it is told by another word that we are gone for good, and finds either word before it
// writes to us again. Memory is unmapped before its owner frees it, as CUDA wants it: both ends
// unmap as soon as they know of each other, and free GRACE_US later.
#include "kernels/cuda/peers.h"
#include "proto/base/clock.h"

#include <unistd.h>

enum { LEAVE_US = 300000, LOOK_US = 200, GRACE_US = 2000 };
enum { WORD_LEAVES = 1, WORD_GONE };

err_t peers_memory_open(const struct members_config *c, const uint64_t *bytes,
                        struct peers_memory *m, struct err_text *why)
{
    struct device *d = c->c->dev;
    void *mine = NULL;
    m->config = *c;
    m->view.n_member = c->n_member;
    m->view.member = c->member;
    for (int32_t i = 0; i < c->n_member; i++)
        m->bytes[i] = PEERS_HEAD_BYTES + bytes[i];
    err_t e = device_pinned_take(d, sizeof(int32_t), (void **)&m->view.word, why);
    if (!e) *m->view.word = PEERS_HERE;
    if (!e) e = device_pinned_take(d, PEERS_HEAD_BYTES, (void **)&m->left, why);
    if (!e) e = device_share_take(d, m->bytes[c->member], &m->own, &mine, why);
    m->view.memory[c->member] = (char *)mine;
    return e;
}

err_t peers_memory_connect(struct peers_memory *m, const struct device_shared *of,
                           struct err_text *why)
{
    const struct peers_view *v = &m->view;
    m->is_shared = true;
    for (int32_t i = 0; i < v->n_member; i++) {
        void *mapped;
        if (i == v->member) continue;
        err_t e = device_map(m->config.c->dev, &of[i], m->bytes[i], &mapped, why);
        if (e) return e;
        m->others[i] = of[i];
        m->view.memory[i] = (char *)mapped;
        m->is_mapped[i] = true;
    }
    return OK;
}

void peers_memory_end(struct peers_memory *m)
{
    if (m->view.word && !*m->view.word) *m->view.word = PEERS_GIVEN_UP;
}

err_t peers_memory_status(const struct peers_memory *m, struct err_text *why)
{
    if (*m->view.word != PEERS_ONE_LEFT) return OK;
    return err_say(why, ERR_LINK, "peers: another member has left");
}

// Raises our word where we are mapped, but not in what may be freed.
static __global__ void __launch_bounds__(32)
    leave_run(struct peers_view v, uint32_t mapped, uint32_t word)
{
    const int other = (int)threadIdx.x;
    const uint32_t *words = (const uint32_t *)(const void *)v.memory[v.member];
    if (other >= v.n_member || !(mapped >> other & 1) || peers_read(words + other) == WORD_GONE)
        return;
    peers_raise((uint32_t *)(void *)v.memory[other] + v.member, word);
}

static bool have_all_left(struct peers_memory *m)
{
    const struct peers_view *v = &m->view;
    struct device *d = m->config.c->dev;
    bool all = true;
    device_get(d, m->left, v->memory[v->member], KERNELS_MEMBERS_MAX * sizeof *m->left);
    device_wait(d);
    for (int32_t i = 0; i < v->n_member; i++)
        all &= i == v->member || m->left[i];
    return all || device_error(d, NULL);
}

static void take_leave(struct peers_memory *m)
{
    const struct peers_view *v = &m->view;
    struct device *d = m->config.c->dev;
    const int64_t until = clock_now_us() + LEAVE_US;
    uint32_t mapped = 0;
    bool all = !m->is_shared;
    for (int32_t i = 0; i < v->n_member; i++)
        mapped |= (uint32_t)m->is_mapped[i] << i;
    if (mapped) LAUNCH(leave_run, 1, 32, 0, m->config.c->stream, *v, mapped, WORD_LEAVES);
    while (!all && !(all = have_all_left(m)) && clock_now_us() < until)
        usleep(LOOK_US);
    if (mapped && !all) LAUNCH(leave_run, 1, 32, 0, m->config.c->stream, *v, mapped, WORD_GONE);
    device_wait(d);
    for (int32_t i = 0; i < v->n_member; i++)
        if (m->is_mapped[i]) device_unmap(d, &m->others[i], v->memory[i], m->bytes[i]);
    if (m->is_shared) usleep(GRACE_US);
}

void peers_memory_close(struct peers_memory *m)
{
    if (!m->config.c) return;
    struct device *d = m->config.c->dev;
    char *mine = m->view.memory[m->view.member];
    peers_memory_end(m);
    device_wait(d);
    if (mine) take_leave(m);
    device_give(d, mine);
    device_pinned_give(d, m->left);
    device_pinned_give(d, (void *)m->view.word);
}
