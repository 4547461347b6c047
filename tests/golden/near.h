// The members of a lane's stage on devices of this process hand each other numbers from device to
// device, as workers do: each member on a thread of its own, because connecting and closing wait
// for the others.
#pragma once
#include "kernels/group.h"
#include "worker/group_device.h"
#include "worker/stage.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

enum { NEAR_MEMBERS_MAX = 4, NEAR_DEADLINE_US = 60000000, NEAR_ROW_BYTES = 1 << 20 };

struct near_member {
    struct stage *stage;
    struct group *side, *group; // group: what comes out
    struct kernels_group **inner;
    uint32_t roads;
    pthread_barrier_t *barrier;
    uint8_t (*offers)[KERNELS_OFFER_BYTES];
    err_t err;
    struct err_text why;
};

// Waits for the device move what goes over the port, and the other way round (lane_rest).
static inline err_t near_rest(void *arg, int64_t since_us, struct err_text *why)
{
    (void)since_us;
    sched_yield();
    return port_progress(group_link_port(arg), why);
}

static inline void *near_open_main(void *arg)
{
    struct near_member *m = arg;
    struct kernels_group *inner = NULL;
    const struct kernels_group_config c = {.n_member = m->side->n_member,
                                           .member = m->side->member,
                                           .roads = m->roads,
                                           .row_bytes = NEAR_ROW_BYTES,
                                           .deadline_us = NEAR_DEADLINE_US,
                                           .rest = near_rest,
                                           .rest_arg = m->side};
    m->err = kernels_group_open(stage_kernels(m->stage), &c, &inner, &m->why);
    if (!m->err) inner->ops->offer(inner, m->offers[c.member]);
    pthread_barrier_wait(m->barrier);
    if (m->err) return NULL;
    m->err = inner->ops->connect(inner, (const uint8_t(*)[KERNELS_OFFER_BYTES])m->offers,
                                 group_agree, m->side, &m->why);
    if (m->err)
        inner->ops->close(inner);
    else
        m->err = group_device_open(inner, m->side, &m->group, &m->why);
    if (!m->err) *m->inner = inner;
    if (!m->err) stage_join(m->stage, m->group);
    return NULL;
}

static inline void *near_close_main(void *arg)
{
    struct near_member *m = arg;
    stage_join(m->stage, m->side);
    *m->inner = NULL;
    group_close(m->group);
    return NULL;
}

static inline void near_run(struct near_member *m, int32_t n, void *(*what)(void *))
{
    pthread_t threads[NEAR_MEMBERS_MAX];
    for (int32_t i = 0; i < n; i++)
        if (pthread_create(&threads[i], NULL, what, &m[i])) abort();
    for (int32_t i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
}

// out (n): the groups, which are open at all members or at none; inner (n): what is in them.
static inline bool near_open(struct stage *const *stages, struct group *const *sides, int32_t n,
                             uint32_t roads, struct group **out, struct kernels_group **inner)
{
    pthread_barrier_t barrier;
    uint8_t offers[NEAR_MEMBERS_MAX][KERNELS_OFFER_BYTES] = {{0}};
    struct near_member m[NEAR_MEMBERS_MAX] = {{0}};
    bool ok = true;
    pthread_barrier_init(&barrier, NULL, (unsigned)n);
    for (int32_t i = 0; i < n; i++)
        m[i] = (struct near_member){.stage = stages[i],
                                    .side = sides[i],
                                    .inner = &inner[i],
                                    .roads = roads,
                                    .barrier = &barrier,
                                    .offers = offers};
    near_run(m, n, near_open_main);
    pthread_barrier_destroy(&barrier);
    for (int32_t i = 0; i < n; i++) {
        if (m[i].err) fprintf(stderr, "member %d: %s\n", i, m[i].why.s);
        ok &= !m[i].err;
    }
    for (int32_t i = 0; i < n; i++)
        out[i] = m[i].group;
    return ok;
}

static inline void near_close(struct stage *const *stages, struct group *const *sides,
                              struct group **groups, struct kernels_group **inner, int32_t n)
{
    struct near_member m[NEAR_MEMBERS_MAX] = {{0}};
    for (int32_t i = 0; i < n; i++)
        m[i] = (struct near_member){
            .stage = stages[i], .side = sides[i], .inner = &inner[i], .group = groups[i]};
    if (groups[0]) near_run(m, n, near_close_main);
}
