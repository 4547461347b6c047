// Groups between devices, run on the host: whatever is cut how, everybody ends up with the same
// bits, over NCCL's twin and over shared memory; a member that dies, stops or cannot ends it with a
// sentence. Members are threads; where one is to die, processes.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "kernels/cuda/module.h"
#include "kernels/cuda/taken.h"
#include "proto/base/clock.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern const struct kernels_module kernels_cuda_module;

enum {
    MEMBERS = 3,
    MOST = 1 << 19, // floats of an operation; more than one exchange of peers takes
    DEADLINE_US = 20000000,
    BOTH = KERNELS_ROAD_NCCL | KERNELS_ROAD_PEERS,
};

// -- members as threads --

struct party {
    int32_t n;
    pthread_barrier_t barrier;
    bool all;
    uint64_t queue_bytes; // of the config
    bool is_ragged;       // members close when they are done, others still at it or not
    uint8_t offers[KERNELS_MEMBERS_MAX][KERNELS_OFFER_BYTES];
};
struct member {
    struct party *party;
    struct kernels *k;
    struct kernels_group *g;
    int32_t me;
    uint32_t roads;
    bool *stop;
    float *y; // (MOST) the backend's
    uint32_t *host;
    int32_t n_wrong;
    err_t err; // of opening and connecting
    struct err_text why;
    void (*play)(struct member *m);
};

static err_t rest(void *arg, int64_t since_us, struct err_text *why)
{
    const struct member *m = arg;
    (void)since_us;
    if (m->stop && __atomic_load_n(m->stop, __ATOMIC_RELAXED))
        return err_say(why, ERR_CANCELLED, "asked to stop");
    return OK;
}

static err_t agree(void *arg, bool mine, bool *all)
{
    struct member *m = arg;
    struct party *p = m->party;
    pthread_barrier_wait(&p->barrier);
    if (!m->me) p->all = true;
    pthread_barrier_wait(&p->barrier);
    if (!mine) __atomic_store_n(&p->all, false, __ATOMIC_RELAXED);
    pthread_barrier_wait(&p->barrier);
    *all = __atomic_load_n(&p->all, __ATOMIC_RELAXED);
    return OK;
}

static err_t open_backend(struct member *m)
{
    const struct kernels_limits limits = {.n_threads = 1,
                                          .max_tok = 32,
                                          .max_cols = 64,
                                          .max_rows = 100,
                                          .max_head = 4,
                                          .max_head_dim = 64,
                                          .max_ctx = 256};
    err_t e = kernels_cuda_module.open(0, &limits, &m->k, &m->why);
    void *y = NULL;
    if (!e) e = m->k->ops->take(m->k, MOST * sizeof(float), "a test", &y, &m->why);
    m->y = y;
    m->host = calloc(MOST, sizeof *m->host);
    return e;
}

static err_t open_group(struct member *m, int32_t n, int64_t deadline_us)
{
    const struct kernels_group_config c = {.n_member = n,
                                           .member = m->me,
                                           .roads = m->roads,
                                           .row_bytes = 4000,
                                           .queue_bytes = m->party ? m->party->queue_bytes : 0,
                                           .deadline_us = deadline_us,
                                           .rest = rest,
                                           .rest_arg = m};
    return kernels_cuda_module.group(m->k, &c, &m->g, &m->why);
}

static void *member_main(void *arg)
{
    struct member *m = arg;
    struct party *p = m->party;
    m->err = open_backend(m);
    if (!m->err) m->err = open_group(m, p->n, DEADLINE_US);
    if (!m->err) m->g->ops->offer(m->g, p->offers[m->me]);
    pthread_barrier_wait(&p->barrier);
    if (!m->err)
        m->err = m->g->ops->connect(m->g, (const uint8_t(*)[KERNELS_OFFER_BYTES])p->offers, agree,
                                    m, &m->why);
    if (!m->err) m->play(m);
    if (!p->is_ragged) pthread_barrier_wait(&p->barrier);
    if (m->g) m->g->ops->close(m->g);
    if (m->y) m->k->ops->give(m->k, m->y, MOST * sizeof(float));
    if (m->k) m->k->ops->close(m->k);
    free(m->host);
    return NULL;
}

// roads: of each member. Returns the first error, and its sentence.
static err_t run_party_of(struct party p, const uint32_t *roads, bool *stop,
                          void (*play)(struct member *), struct err_text *why)
{
    const int32_t n = p.n;
    struct member m[MEMBERS] = {{0}};
    pthread_t t[MEMBERS];
    err_t e = OK;
    pthread_barrier_init(&p.barrier, NULL, (unsigned)n);
    for (int32_t i = 0; i < n; i++) {
        m[i] = (struct member){.party = &p, .me = i, .roads = roads[i], .stop = stop, .play = play};
        assert_int_equal(pthread_create(&t[i], NULL, member_main, &m[i]), 0);
    }
    for (int32_t i = 0; i < n; i++)
        pthread_join(t[i], NULL);
    for (int32_t i = 0; i < n; i++) {
        assert_int_equal(m[i].n_wrong, 0);
        if (!e && m[i].err) *why = m[i].why;
        if (!e) e = m[i].err;
    }
    pthread_barrier_destroy(&p.barrier);
    return e;
}

static err_t run_party(int32_t n, const uint32_t *roads, bool *stop, void (*play)(struct member *),
                       struct err_text *why)
{
    return run_party_of((struct party){.n = n}, roads, stop, play, why);
}

// -- operations --

static uint64_t rng_next(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

// Bits of any pattern, also NaNs.
static uint32_t value(uint64_t op, int64_t i)
{
    return (uint32_t)((uint64_t)i * 2654435761u + op * 40503u * 65537u + 12345u);
}

static void put(struct member *m, int64_t n)
{
    m->k->ops->put(m->k, m->y, m->host, (uint64_t)n * sizeof *m->host);
}

static void check(struct member *m, uint64_t op, int64_t n)
{
    m->k->ops->get(m->k, m->host, m->y, (uint64_t)n * sizeof *m->host);
    for (int64_t i = 0; i < n; i++)
        m->n_wrong += m->host[i] != value(op, i);
}

static void gather(struct member *m, uint64_t op, int64_t n_row, int64_t ld, const int64_t *from,
                   int32_t root)
{
    for (int64_t i = 0; i < n_row * ld; i++)
        m->host[i] = i % ld >= from[m->me] && i % ld < from[m->me + 1] ? value(op, i) : 0;
    put(m, n_row * ld);
    m->g->ops->gather(m->g, m->y, n_row, ld, from, root);
    if (root < 0 || root == m->me) check(m, op, n_row * ld);
}

// Rows 2 i + 1 of the sender's.
static void send_some(struct member *m, uint64_t op, int32_t from, int32_t to, int64_t n_row,
                      int64_t n_col)
{
    int32_t row[64];
    if (m->me == to) {
        m->g->ops->recv(m->g, from, m->y, n_row, n_col);
        check(m, op, n_row * n_col);
    }
    if (m->me != from) return;
    for (int64_t i = 0; i < n_row; i++)
        row[i] = (int32_t)(2 * i + 1);
    for (int64_t i = 0; i < 2 * n_row * n_col; i++) {
        const int64_t r = i / n_col;
        m->host[i] = r % 2 ? value(op, r / 2 * n_col + i % n_col) : 7;
    }
    put(m, 2 * n_row * n_col);
    m->g->ops->send(m->g, to, m->y, row, n_row, n_col);
}

static void play_any(struct member *m)
{
    const int32_t n = m->party->n;
    uint64_t rng = 88172645463325252u;
    for (uint64_t op = 0; op < 60 && !m->g->ops->status(m->g, NULL); op++) {
        const int64_t n_row = (int64_t)(rng_next(&rng) % 9),
                      ld = 1 + (int64_t)(rng_next(&rng) % 90);
        const int32_t root = (int32_t)(rng_next(&rng) % (uint64_t)(n + 1)) - 1;
        const int32_t from_member = (int32_t)(rng_next(&rng) % (uint64_t)n);
        const int32_t to_member = (from_member + 1) % n;
        const uint64_t kind = rng_next(&rng) % 3;
        int64_t from[MEMBERS + 1] = {0};
        const int64_t each = 1 + ld / n; // of even cuts
        for (int32_t i = 1; i < n; i++)
            from[i] = kind == 1 ? i * each
                                : from[i - 1] +
                                      (int64_t)(rng_next(&rng) % (uint64_t)(ld - from[i - 1] + 1));
        from[n] = kind == 1 ? n * each : ld;
        if (kind < 2)
            gather(m, op, n_row, from[n], from, root);
        else if (m->g->ops->roads(m->g) & KERNELS_ROAD_NCCL)
            send_some(m, op, from_member, to_member, n_row, ld);
    }
    // More than goes at once.
    const int64_t ld = 1000, from[] = {0, 333, n == 2 ? ld : 700, ld};
    gather(m, 1000, MOST / ld, ld, from, -1);
    m->n_wrong += m->g->ops->status(m->g, &m->why) != OK;
}

static void test_bits(void **state)
{
    (void)state;
    static const uint32_t roads[] = {KERNELS_ROAD_NCCL, KERNELS_ROAD_PEERS, BOTH};
    for (int32_t n = 2; n <= MEMBERS; n++)
        for (int i = 0; i < 3; i++) {
            struct err_text why = {{0}};
            const uint32_t all[MEMBERS] = {roads[i], roads[i], roads[i]};
            if (run_party(n, all, NULL, play_any, &why))
                fail_msg("%d members, roads %u: %s", n, all[0], why.s);
        }
}

// -- recorded steps --

static void play_recorded(struct member *m)
{
    const int64_t ld = 64, from[] = {0, 24, 64};
    int n_repeated = 0;
    m->n_wrong += !m->g->ops->is_recordable(m->g, 2, ld);
    for (uint64_t step = 0; step < 5; step++) {
        const int32_t pos[2] = {0, 1};
        const struct kernels_step s = {.pos = pos, .n_tok = 2, .page_tok = 16, .key = 2};
        for (int64_t i = 0; i < 2 * ld; i++)
            m->host[i] = i % ld >= from[m->me] && i % ld < from[m->me + 1] ? value(step, i) : 0;
        put(m, 2 * ld);
        if (m->k->ops->enter(m->k, &s))
            n_repeated++;
        else
            m->g->ops->gather(m->g, m->y, 2, ld, from, -1);
        m->k->ops->leave(m->k);
        check(m, step, 2 * ld);
    }
    m->n_wrong += n_repeated != 3; // once as it comes, once recorded
    m->n_wrong += m->g->ops->status(m->g, &m->why) != OK;
}

static void test_recorded(void **state)
{
    (void)state;
    const uint32_t roads[] = {BOTH, BOTH};
    struct err_text why = {{0}};
    if (run_party(2, roads, NULL, play_recorded, &why)) fail_msg("%s", why.s);
}

// -- one way --

static void hand_on(struct member *m, uint64_t op, int64_t n_row, int64_t n_col)
{
    const int64_t n = n_row * n_col;
    for (int64_t i = 0; i < n && !m->me; i++)
        m->host[i] = value(op, i);
    if (!m->me) put(m, n);
    if (m->me)
        m->g->ops->take(m->g, m->y, n_row, n_col);
    else
        m->g->ops->give(m->g, m->y, n_row, n_col);
    if (m->me) check(m, op, n);
}

// Member 0 is ahead of the others, as far as there is room; then pieces of any size, larger than a
// slot too, often round the queue.
static void play_queue(struct member *m)
{
    enum { AHEAD = 3, PIECES = 12 };
    const bool is_ahead = m->g->ops->roads(m->g) == KERNELS_ROAD_PEERS;
    if (m->me && is_ahead) pthread_barrier_wait(&m->party->barrier);
    for (uint64_t op = 0; op < AHEAD; op++)
        hand_on(m, op, 2, 777);
    if (!m->me && m->g->ops->status(m->g, &m->why)) m->n_wrong++;
    if (!m->me && is_ahead) pthread_barrier_wait(&m->party->barrier);
    uint64_t rng = 88172645463325252u;
    for (uint64_t op = AHEAD; op < PIECES; op++) {
        const int64_t n_row = 1 + (int64_t)(rng_next(&rng) % 300),
                      n_col = 1 + (int64_t)(rng_next(&rng) % 1000);
        hand_on(m, op, n_row, n_col);
    }
    m->n_wrong += m->g->ops->status(m->g, &m->why) != OK;
}

static void test_queue(void **state)
{
    (void)state;
    for (int road = KERNELS_ROAD_NCCL; road <= KERNELS_ROAD_PEERS; road++)
        for (int32_t n = 2; n <= MEMBERS; n++) {
            const uint32_t roads[MEMBERS] = {(uint32_t)road, (uint32_t)road, (uint32_t)road};
            struct err_text why = {{0}};
            if (run_party_of((struct party){.n = n, .queue_bytes = 1 << 20}, roads, NULL,
                             play_queue, &why))
                fail_msg("%d members, road %d: %s", n, road, why.s);
        }
}

// What planner and worker count is what a group takes, to a few flags.
static void test_bytes(void **state)
{
    (void)state;
    for (int32_t me = 0; me < 2; me++)
        for (uint64_t queue = 0; queue <= 40 << 20; queue += 20 << 20)
            for (uint64_t row = 4000; row <= 2 << 20; row *= 500) {
                const struct kernels_group_config c = {.n_member = 3,
                                                       .member = me,
                                                       .roads = KERNELS_ROAD_PEERS,
                                                       .row_bytes = row,
                                                       .queue_bytes = queue,
                                                       .deadline_us = DEADLINE_US,
                                                       .rest = rest};
                const struct group_bytes_of counted = {.n_member = 3,
                                                       .gives = me == 0,
                                                       .peers = true,
                                                       .row_bytes = row,
                                                       .queue_bytes = queue};
                struct member m = {0};
                struct kernels_group *g;
                assert_int_equal(open_backend(&m), OK);
                const uint64_t before = taken_bytes(0);
                assert_int_equal(kernels_cuda_module.group(m.k, &c, &g, &m.why), OK);
                const uint64_t taken = taken_bytes(0) - before, most = group_bytes(&counted);
                assert_true(taken > 0 && taken <= most && most - taken <= 64 << 10);
                g->ops->close(g);
                assert_int_equal(taken_bytes(0), before);
                m.k->ops->give(m.k, m.y, MOST * sizeof(float));
                m.k->ops->close(m.k);
                free(m.host);
            }
}

// -- what goes wrong --

// Member 0 goes, the others wait for it: they hear of it long before the deadline.
static void play_left(struct member *m)
{
    const int64_t from[] = {0, 8, 16}, begin = clock_now_us();
    if (!m->me) return;
    if (m->party->queue_bytes)
        m->g->ops->take(m->g, m->y, 1, 16);
    else
        m->g->ops->gather(m->g, m->y, 1, 16, from, -1);
    m->n_wrong += m->g->ops->status(m->g, &m->why) != ERR_LINK;
    m->n_wrong += clock_now_us() > begin + DEADLINE_US / 2;
}

// The other way round: nobody takes, and there is no room for more.
static void play_left_full(struct member *m)
{
    if (m->me) return;
    for (int i = 0; i < 8 && !m->g->ops->progress(m->g, NULL); i++)
        m->g->ops->give(m->g, m->y, 1, MOST);
    m->n_wrong += m->g->ops->status(m->g, &m->why) != ERR_LINK;
}

static void test_left(void **state)
{
    (void)state;
    for (int road = KERNELS_ROAD_NCCL; road <= KERNELS_ROAD_PEERS; road++)
        for (int kind = 0; kind < 3; kind++) {
            const uint32_t roads[] = {(uint32_t)road, (uint32_t)road};
            const struct party p = {.n = 2, .queue_bytes = kind ? 1 << 20 : 0, .is_ragged = true};
            struct err_text why = {{0}};
            if (run_party_of(p, roads, NULL, kind < 2 ? play_left : play_left_full, &why))
                fail_msg("road %d, kind %d: %s", road, kind, why.s);
        }
}

static void test_not_everywhere(void **state)
{
    (void)state;
    const uint32_t roads[] = {KERNELS_ROAD_NCCL, KERNELS_ROAD_PEERS};
    struct err_text why = {{0}};
    assert_int_equal(run_party(2, roads, NULL, play_any, &why), ERR_UNSUPPORTED);
    assert_non_null(strstr(why.s, "not offered by all"));
}

static bool stop;
static void play_stopped(struct member *m)
{
    const int64_t from[] = {0, 8, 16};
    if (m->me) {
        usleep(20000); // the other one is waiting by now
        __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
        return;
    }
    m->g->ops->gather(m->g, m->y, 1, 16, from, -1);
    m->n_wrong += m->g->ops->status(m->g, &m->why) != ERR_CANCELLED;
}

static void test_stop(void **state)
{
    (void)state;
    for (int road = KERNELS_ROAD_NCCL; road <= KERNELS_ROAD_PEERS; road++) {
        const uint32_t roads[] = {(uint32_t)road, (uint32_t)road};
        struct err_text why = {{0}};
        stop = false;
        if (run_party(2, roads, &stop, play_stopped, &why)) fail_msg("%s", why.s);
    }
}

// -- members as processes --

static err_t agree_far(void *arg, bool mine, bool *all)
{
    const int fd = *(int *)arg;
    bool theirs = false;
    if (write(fd, &mine, 1) != 1 || read(fd, &theirs, 1) != 1) return ERR_LINK;
    *all = mine && theirs;
    return OK;
}

static err_t meet(struct member *m, int fd, int64_t deadline_us)
{
    uint8_t offers[2][KERNELS_OFFER_BYTES];
    err_t e = open_backend(m);
    if (!e) e = open_group(m, 2, deadline_us);
    if (e) return e;
    m->g->ops->offer(m->g, offers[m->me]);
    if (write(fd, offers[m->me], KERNELS_OFFER_BYTES) != KERNELS_OFFER_BYTES ||
        recv(fd, offers[1 - m->me], KERNELS_OFFER_BYTES, MSG_WAITALL) != KERNELS_OFFER_BYTES)
        return ERR_LINK;
    return m->g->ops->connect(m->g, (const uint8_t(*)[KERNELS_OFFER_BYTES])offers, agree_far, &fd,
                              &m->why);
}

enum { FAR_STEPS = 5 };

static void steps_far(struct member *m)
{
    const int64_t from[] = {0, 100, 160};
    for (uint64_t op = 0; op < FAR_STEPS; op++)
        gather(m, op, 3, 160, from, -1);
}

static void one_dies(uint32_t road, int64_t deadline_us)
{
    int fds[2];
    const int64_t from[] = {0, 100, 160};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    const pid_t child = fork();
    struct member m = {.me = child == 0, .roads = road};
    const err_t e = meet(&m, fds[m.me], deadline_us);
    if (!e) steps_far(&m);
    if (child == 0) {
        char word = e || m.n_wrong ? 'x' : 'k';
        if (write(fds[1], &word, 1) == 1) raise(SIGKILL); // before the next gather
        _exit(1);
    }
    char word = 0;
    assert_int_equal(read(fds[0], &word, 1), 1);
    if (e) fail_msg("%s", m.why.s);
    assert_int_equal(word, 'k');
    assert_int_equal(m.n_wrong, 0);
    m.g->ops->gather(m.g, m.y, 3, 160, from, -1);
    const err_t after = m.g->ops->status(m.g, &m.why);
    assert_true(after == ERR_LINK || after == ERR_TIMEOUT);
    m.g->ops->gather(m.g, m.y, 3, 160, from, -1); // nothing any more
    assert_int_equal(m.g->ops->status(m.g, NULL), after);
    m.g->ops->close(m.g);
    m.k->ops->give(m.k, m.y, MOST * sizeof(float));
    m.k->ops->close(m.k);
    free(m.host);
    waitpid(child, NULL, 0);
    close(fds[0]);
    close(fds[1]);
}

static void test_death(void **state)
{
    (void)state;
    one_dies(KERNELS_ROAD_NCCL, DEADLINE_US);
    one_dies(KERNELS_ROAD_PEERS, 1000000); // memory does not tell
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_death), // first: forks
        cmocka_unit_test(test_bits),  cmocka_unit_test(test_recorded),
        cmocka_unit_test(test_queue), cmocka_unit_test(test_left),
        cmocka_unit_test(test_stop),  cmocka_unit_test(test_not_everywhere),
        cmocka_unit_test(test_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
