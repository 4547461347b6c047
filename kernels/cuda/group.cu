// group: what members hand each other, over one of two roads (members.h): peers for what is small
// and recorded steps, NCCL for the rest. Whatever waits for the device meanwhile waits with the
// group's deadline; when it passes, or somebody says stop, both roads are ended, which lets the
// device finish what it has.
#include "kernels/cuda/members.h"
#include "proto/base/clock.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { SPIN_US = 20000, NAP_US = 100, ONE_SHOT_FLOATS = 128 << 10 };

struct offer {
    uint32_t magic, roads;
    uint64_t machine;
    int32_t nccl_version;
    uint8_t id[NCCL_ID_BYTES]; // the lead's
    struct device_shared shared;
};
enum { OFFER_MAGIC = 0x31524754 };
static_assert(sizeof(struct offer) <= KERNELS_OFFER_BYTES, "an offer has room");

struct agreement {
    err_t (*ask)(void *arg, bool mine, bool *all);
    void *arg;
};

struct cuda_group {
    struct kernels_group base;
    struct cuda *c;
    struct kernels_group_config config;
    struct nccl *nccl;   // NULL: not offered, or not in use since connect
    struct peers *peers; // likewise
    float *test;         // (TEST_ROWS, TEST_COLS) while it connects
    int64_t deadline_us; // of waits now
    bool is_closing;
    err_t err;
    struct err_text why;
    struct offer offer; // ours
};

static struct cuda_group *group_of(struct kernels_group *g)
{
    return (struct cuda_group *)(void *)g;
}

// -- errors and waiting --

static void group_fail(struct cuda_group *g, err_t e, const char *why)
{
    if (!g->err) err_say(&g->why, e, "%s", why);
    if (!g->err) g->err = e;
    if (g->nccl) nccl_abort(g->nccl);
    if (g->peers) peers_abort(g->peers);
}

// What the roads say of themselves.
static err_t roads_status(struct cuda_group *g, struct err_text *why)
{
    err_t e = g->err || !g->nccl ? OK : nccl_status(g->nccl, why);
    return e || g->err || !g->peers ? e : peers_status(g->peers, why);
}

// What a wait does between two looks. False: it is over.
static bool group_rest(void *arg, int64_t since_us)
{
    struct cuda_group *g = (struct cuda_group *)arg;
    struct err_text why;
    err_t e = roads_status(g, &why);
    if (!e && !g->is_closing) e = g->config.rest(g->config.rest_arg, since_us, &why);
    if (!e && since_us > g->deadline_us)
        e = err_say(&why, ERR_TIMEOUT, "the device, or another member's, was waited for too long");
    if (e && !g->err) group_fail(g, e, why.s);
    if (since_us < SPIN_US)
        sched_yield();
    else
        usleep(NAP_US);
    return !g->err;
}

static void group_watch(void *arg, int64_t since_us)
{
    group_rest(arg, since_us);
}

// -- operations --

// Numbers of one exchange. Both roads can be chosen only if all members choose the same.
static void exchange(struct cuda_group *g, float *y, const struct members_parts *p, int32_t root,
                     int64_t floats)
{
    const bool fits = g->peers && floats <= (int64_t)peers_most(g->peers);
    if (g->err) return;
    __atomic_fetch_add(&g->c->n_op, 1, __ATOMIC_RELAXED);
    cuda_no_kernel(g->c);
    if (fits && (floats <= ONE_SHOT_FLOATS || !g->nccl))
        peers_exchange(g->peers, y, p, root);
    else if (g->nccl)
        nccl_exchange(g->nccl, y, p, root);
    else
        group_fail(g, ERR_TOO_LARGE, "a row is larger than what members hand each other");
}

// Floats of an exchange that can be cut.
static int64_t most_of(const struct cuda_group *g)
{
    return g->nccl ? (int64_t)nccl_most(g->nccl) : (int64_t)peers_most(g->peers);
}

static void cuda_group_gather(struct kernels_group *base, float *y, int64_t n_row, int64_t ld,
                              const int64_t *from, int32_t root)
{
    struct cuda_group *g = group_of(base);
    if (g->err) return;
    const int64_t rows = most_of(g) > ld ? most_of(g) / ld : 1;
    for (int64_t i = 0, take; i < n_row; i += take) {
        struct members_parts p = {};
        take = n_row - i < rows ? n_row - i : rows;
        for (int32_t k = 0; k < g->config.n_member; k++)
            p.of[k] = {from[k], from[k + 1] - from[k], take, ld};
        exchange(g, y + i * ld, &p, root, take * ld);
    }
}

static void cuda_group_send(struct kernels_group *base, int32_t to, const float *x,
                            const int32_t *row, int64_t n_row, int64_t n_col)
{
    struct cuda_group *g = group_of(base);
    if (!g->err && !g->nccl) group_fail(g, ERR_UNSUPPORTED, "rows are sent over NCCL only");
    if (g->err) return;
    __atomic_fetch_add(&g->c->n_op, 1, __ATOMIC_RELAXED);
    cuda_no_kernel(g->c);
    nccl_send(g->nccl, to, x, row, n_row, n_col);
}

static void cuda_group_recv(struct kernels_group *base, int32_t from, float *y, int64_t n_row,
                            int64_t n_col)
{
    struct cuda_group *g = group_of(base);
    if (!g->err && !g->nccl) group_fail(g, ERR_UNSUPPORTED, "rows are sent over NCCL only");
    if (g->err) return;
    __atomic_fetch_add(&g->c->n_op, 1, __ATOMIC_RELAXED);
    cuda_no_kernel(g->c);
    nccl_recv(g->nccl, from, y, n_row, n_col);
}

static void cuda_group_give(struct kernels_group *base, const float *x, int64_t n_row,
                            int64_t n_col)
{
    struct cuda_group *g = group_of(base);
    if (g->err || n_row <= 0) return;
    __atomic_fetch_add(&g->c->n_op, 1, __ATOMIC_RELAXED);
    cuda_no_kernel(g->c);
    device_work_begin(g->c->dev, DEVICE_QUEUES);
    if (g->peers)
        peers_give(g->peers, x, n_row * n_col);
    else
        nccl_give(g->nccl, x, n_row * n_col);
    device_work_end(g->c->dev, DEVICE_QUEUES);
}

static void cuda_group_take(struct kernels_group *base, float *y, int64_t n_row, int64_t n_col)
{
    struct cuda_group *g = group_of(base);
    if (g->err || n_row <= 0) return;
    __atomic_fetch_add(&g->c->n_op, 1, __ATOMIC_RELAXED);
    cuda_no_kernel(g->c);
    device_work_begin(g->c->dev, DEVICE_QUEUES);
    if (g->peers)
        peers_take(g->peers, y, n_row * n_col);
    else
        nccl_take(g->nccl, y, n_row * n_col);
    device_work_end(g->c->dev, DEVICE_QUEUES);
}

static uint64_t cuda_group_queue_ns(const struct kernels_group *base)
{
    const struct cuda_group *g = (const struct cuda_group *)(const void *)base;
    return g->err ? 0 : device_work_ns(g->c->dev, DEVICE_QUEUES);
}

static bool cuda_group_is_recordable(const struct kernels_group *base, int64_t n_row, int64_t ld)
{
    const struct cuda_group *g = (const struct cuda_group *)(const void *)base;
    return g->peers && n_row * ld <= (int64_t)peers_most(g->peers) &&
           (n_row * ld <= ONE_SHOT_FLOATS || !g->nccl);
}

static err_t cuda_group_progress(struct kernels_group *base, struct err_text *why)
{
    struct cuda_group *g = group_of(base);
    struct err_text said;
    device_idle(g->c->dev);
    const err_t e = roads_status(g, &said);
    if (e) group_fail(g, e, said.s);
    return g->err ? err_say(why, g->err, "%s", g->why.s) : OK;
}

static err_t cuda_group_status(struct kernels_group *base, struct err_text *why)
{
    struct cuda_group *g = group_of(base);
    device_wait(g->c->dev);
    return cuda_group_progress(base, why);
}

// -- connecting --

enum { TEST_ROWS = 3, TEST_COLS = 1000, TEST_ROUNDS = 5 };

static int64_t test_from(const struct cuda_group *g, int32_t member, int round)
{
    const int64_t even = (int64_t)TEST_COLS * member / g->config.n_member;
    return round % 2 || !member || member == g->config.n_member ? even : even - 3;
}

static uint32_t test_word(int round, int64_t i)
{
    return (uint32_t)(i + 1) * 2654435761u + (uint32_t)round * 40503u;
}

// One way.
static bool test_queue(struct cuda_group *g, int round)
{
    uint32_t words[TEST_ROWS * TEST_COLS];
    const int64_t n = (round % 3 ? TEST_ROWS : 1) * TEST_COLS - round;
    for (int64_t i = 0; i < n; i++)
        words[i] = g->config.member ? 0 : test_word(round, i);
    cuda_step_put(&g->c->base, g->test, words, (uint64_t)n * sizeof *words);
    if (g->config.member)
        cuda_group_take(&g->base, g->test, 1, n);
    else
        cuda_group_give(&g->base, g->test, 1, n);
    cuda_step_get(&g->c->base, words, g->test, (uint64_t)n * sizeof *words);
    for (int64_t i = 0; i < n; i++)
        if (words[i] != test_word(round, i)) return false;
    return !g->err;
}

// Hands numbers over and looks whether they come as they were.
static bool test_round(struct cuda_group *g, int round)
{
    uint32_t words[TEST_ROWS * TEST_COLS];
    const int64_t n_row = round % 3 ? TEST_ROWS : 1;
    const int32_t me = g->config.member;
    struct members_parts p = {};
    for (int32_t k = 0; k < g->config.n_member; k++)
        p.of[k] = {test_from(g, k, round), test_from(g, k + 1, round) - test_from(g, k, round),
                   n_row, TEST_COLS};
    for (int64_t i = 0; i < n_row * TEST_COLS; i++) {
        const int64_t col = i % TEST_COLS - p.of[me].at;
        words[i] = col >= 0 && col < p.of[me].width ? test_word(round, i) : 0;
    }
    const uint64_t bytes = (uint64_t)(n_row * TEST_COLS) * sizeof *words;
    cuda_step_put(&g->c->base, g->test, words, bytes);
    if (g->peers)
        peers_exchange(g->peers, g->test, &p, -1);
    else
        nccl_exchange(g->nccl, g->test, &p, -1);
    cuda_step_get(&g->c->base, words, g->test, bytes);
    for (int64_t i = 0; i < n_row * TEST_COLS; i++)
        if (words[i] != test_word(round, i)) return false;
    return !g->err;
}

static bool test_all(struct cuda_group *g)
{
    bool ok = !g->err;
    for (int round = 0; round < TEST_ROUNDS && ok; round++)
        ok = g->config.queue_bytes ? test_queue(g, round) : test_round(g, round);
    if (!ok && !g->err) group_fail(g, ERR_UNSUPPORTED, "what members hand each other is damaged");
    return ok;
}

static bool all_offer(const struct cuda_group *g, const struct offer *of, uint32_t road)
{
    bool all = true;
    for (int32_t i = 0; i < g->config.n_member; i++) {
        all &= of[i].magic == OFFER_MAGIC && (of[i].roads & road);
        if (road == KERNELS_ROAD_NCCL) all &= of[i].nccl_version == of[0].nccl_version;
        if (road == KERNELS_ROAD_PEERS) all &= of[i].machine == of[0].machine;
    }
    return all;
}

// A road that one member could not open is given up by all; a stop is not forgotten.
static err_t try_road(struct cuda_group *g, uint32_t road, const struct offer *of,
                      const struct agreement *agree, struct err_text *why)
{
    struct nccl *nccl = g->nccl;
    struct peers *peers = g->peers;
    struct device_shared shared[KERNELS_MEMBERS_MAX];
    struct err_text said = {};
    bool all = false;
    err_t e = OK;
    g->nccl = road == KERNELS_ROAD_NCCL ? nccl : NULL; // the other one rests
    g->peers = road == KERNELS_ROAD_PEERS ? peers : NULL;
    for (int32_t i = 0; i < g->config.n_member; i++)
        shared[i] = of[i].shared;
    const err_t mine =
        g->nccl ? nccl_connect(g->nccl, of[0].id, &said) : peers_connect(g->peers, shared, &said);
    if (mine && !g->err) group_fail(g, mine, said.s);
    if (g->err != ERR_CANCELLED) e = agree->ask(agree->arg, !g->err, &all);
    if (!e && all) {
        test_all(g);
        if (g->err != ERR_CANCELLED) e = agree->ask(agree->arg, !g->err, &all);
    }
    if (!e && g->err == ERR_CANCELLED) e = g->err;
    if (e || !all) {
        if (!e) *why = g->err ? g->why : (struct err_text){"another member cannot"};
        if (g->nccl) nccl_close(nccl);
        if (g->peers) peers_close(peers);
        if (g->nccl) nccl = NULL;
        if (g->peers) peers = NULL;
        if (!e) g->err = OK;
    }
    g->nccl = nccl;
    g->peers = peers;
    return e;
}

// What not all members offer needs no trial.
static void drop(struct cuda_group *g, bool nccl, bool peers)
{
    if (nccl) {
        nccl_close(g->nccl);
        g->nccl = NULL;
    }
    if (peers) {
        peers_close(g->peers);
        g->peers = NULL;
    }
}

static err_t cuda_group_connect(struct kernels_group *base,
                                const uint8_t (*offers)[KERNELS_OFFER_BYTES],
                                err_t (*agree)(void *arg, bool mine, bool *all), void *arg,
                                struct err_text *why)
{
    struct cuda_group *g = group_of(base);
    struct offer of[KERNELS_MEMBERS_MAX];
    for (int32_t i = 0; i < g->config.n_member; i++)
        memcpy(&of[i], offers[i], sizeof of[i]);
    const bool nccl = all_offer(g, of, KERNELS_ROAD_NCCL);
    const bool peers = all_offer(g, of, KERNELS_ROAD_PEERS);
    struct err_text said[2] = {{"not offered by all members"}, {"not offered by all members"}};
    const struct agreement agreement = {agree, arg};
    drop(g, !nccl, !peers);
    err_t e = cuda_take(g->c, TEST_ROWS * TEST_COLS * sizeof *g->test, "a test of the road",
                        (void **)&g->test, why);
    // Those who wait for our word have more patience than we have here.
    g->deadline_us = g->config.deadline_us * 3 / 4;
    if (!e && peers) e = try_road(g, KERNELS_ROAD_PEERS, of, &agreement, &said[1]);
    // Of two ways one is enough.
    const bool is_enough = g->config.queue_bytes && g->peers;
    if (is_enough) drop(g, true, false);
    if (!e && nccl && !is_enough) e = try_road(g, KERNELS_ROAD_NCCL, of, &agreement, &said[0]);
    g->deadline_us = g->config.deadline_us;
    device_give(g->c->dev, g->test);
    g->test = NULL;
    if (e) group_fail(g, e, "connecting");
    if (e) return e == ERR_UNSUPPORTED ? ERR_LINK : e;
    if (g->nccl || g->peers) return OK;
    return err_say(why, ERR_UNSUPPORTED, "nccl: %.120s; peers: %.120s", said[0].s, said[1].s);
}

static uint32_t cuda_group_roads(const struct kernels_group *base)
{
    const struct cuda_group *g = (const struct cuda_group *)(const void *)base;
    return (g->nccl ? KERNELS_ROAD_NCCL : 0) | (g->peers ? KERNELS_ROAD_PEERS : 0);
}

static void cuda_group_offer(const struct kernels_group *base, uint8_t out[KERNELS_OFFER_BYTES])
{
    const struct cuda_group *g = (const struct cuda_group *)(const void *)base;
    memset(out, 0, KERNELS_OFFER_BYTES);
    memcpy(out, &g->offer, sizeof g->offer);
}

// -- opening --

static void cuda_group_end(struct kernels_group *base)
{
    struct cuda_group *g = group_of(base);
    device_enter(g->c->dev);
    if (!g->err) group_fail(g, ERR_CANCELLED, "ended");
}

static void cuda_group_close(struct kernels_group *base)
{
    if (!base) return;
    struct cuda_group *g = group_of(base);
    device_enter(g->c->dev);
    g->is_closing = true;
    if (g->nccl) nccl_abort(g->nccl);
    if (g->peers) peers_abort(g->peers);
    device_wait(g->c->dev);
    device_unwatch(g->c->dev, g);
    drop(g, true, true);
    free(g);
}

static const struct kernels_group_ops ops = {
    .close = cuda_group_close,
    .offer = cuda_group_offer,
    .connect = cuda_group_connect,
    .roads = cuda_group_roads,
    .gather = cuda_group_gather,
    .send = cuda_group_send,
    .recv = cuda_group_recv,
    .give = cuda_group_give,
    .take = cuda_group_take,
    .queue_ns = cuda_group_queue_ns,
    .is_recordable = cuda_group_is_recordable,
    .progress = cuda_group_progress,
    .status = cuda_group_status,
    .end = cuda_group_end,
};

// The machine since it was started, as far as memory is shared. 0: not known.
static uint64_t machine_number()
{
    char text[64] = {};
    uint64_t h = 1469598103934665603u;
    const int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    const ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text);
    if (fd >= 0) close(fd);
    for (ssize_t i = 0; i < n; i++)
        h = (h ^ (uint8_t)text[i]) * 1099511628211u;
    return n > 0 ? h : 0;
}

static err_t open_roads(struct cuda_group *g, struct err_text *why)
{
    const struct members_config m = {g->c,
                                     g->config.n_member,
                                     g->config.member,
                                     g->config.row_bytes,
                                     g->config.queue_bytes,
                                     group_rest,
                                     g};
    struct err_text said[2] = {{"not wanted"}, {"not wanted"}};
    g->offer.magic = OFFER_MAGIC;
    g->offer.machine = machine_number();
    if (g->config.roads & KERNELS_ROAD_NCCL && !nccl_open(&m, &g->nccl, &said[0])) {
        g->offer.nccl_version = nccl_version(g->nccl);
        const bool has_id = g->config.member || !nccl_id(g->nccl, g->offer.id, &said[0]);
        if (has_id) g->offer.roads |= KERNELS_ROAD_NCCL;
    }
    if (g->config.roads & KERNELS_ROAD_PEERS && g->offer.machine &&
        !peers_open(&m, &g->peers, &said[1])) {
        g->offer.shared = *peers_shared(g->peers);
        g->offer.roads |= KERNELS_ROAD_PEERS;
    }
    if (g->offer.roads) return OK;
    return err_say(why, ERR_UNSUPPORTED, "%.120s; peers: %.120s", said[0].s, said[1].s);
}

err_t cuda_group_open(struct kernels *k, const struct kernels_group_config *c,
                      struct kernels_group **out, struct err_text *why)
{
    if (c->n_member < 2 || c->n_member > KERNELS_MEMBERS_MAX || c->member < 0 ||
        c->member >= c->n_member)
        return err_say(why, ERR_INVALID, "group: member %d of %d", c->member, c->n_member);
    struct cuda_group *g = (struct cuda_group *)calloc(1, sizeof *g);
    if (!g) return err_say(why, ERR_MEMORY, "group: no memory");
    g->base.ops = &ops;
    g->c = cuda_of(k);
    g->config = *c;
    g->deadline_us = c->deadline_us;
    device_enter(g->c->dev);
    err_t e = device_watch(g->c->dev, group_watch, g)
                  ? open_roads(g, why)
                  : err_say(why, ERR_UNSUPPORTED, "too many groups of one device");
    if (e) {
        cuda_group_close(&g->base);
        return e;
    }
    *out = &g->base;
    return OK;
}
