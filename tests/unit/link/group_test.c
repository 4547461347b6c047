// Groups over ports: whatever is cut how, everybody ends up with the same numbers, over the local
// road and over UCX; a member that dies, says the wrong thing or never comes ends it with a
// sentence. UCX peers in the latency test are this program again ("peer ...").
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/base/clock.h"
#include "proto/link/group_link.c" // to send what a member would not
#include "proto/wire/wire.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { EPOCH = 9, DEADLINE_US = 20000000 };

// -- members as threads --

static err_t rest_polite(void *arg, struct port *port, int64_t since_us, struct err_text *why)
{
    if (arg && __atomic_load_n((bool *)arg, __ATOMIC_RELAXED))
        return err_say(why, ERR_CANCELLED, "asked to stop");
    if (since_us < 50) {
        sched_yield();
        return OK;
    }
    if (port_arm(port)) return OK;
    struct pollfd p = {.fd = port_fd(port), .events = POLLIN};
    poll(&p, 1, 20);
    return OK;
}

static struct group *open_member(uint32_t road, int32_t n, int32_t me, uint64_t frame_bytes,
                                 bool *stop)
{
    struct err_text why = {{0}};
    struct group *g = NULL;
    const struct group_link_config c = {
        .port = {.road = road, .epoch = EPOCH, .key = {1, 2, 3}},
        .n_member = n,
        .member = me,
        .frame_bytes = frame_bytes,
        .deadline_us = DEADLINE_US,
        .rest = rest_polite,
        .rest_arg = stop,
    };
    if (group_link_open(&c, &g, &why)) fail_msg("%s", why.s);
    return g;
}

static uint16_t counters_from;

static void connect_all(struct group **g, int32_t n)
{
    struct err_text why = {{0}};
    const uint8_t *address;
    uint32_t len;
    for (int32_t i = 0; i < n; i++)
        for (int32_t k = 0; k < n; k++) {
            if (i == k) continue;
            group_link_address(g[k], &address, &len);
            if (group_link_connect(g[i], k, address, len, &why)) fail_msg("%s", why.s);
            struct peer *p = &of(g[i])->peers[k];
            p->n_sent = p->n_known = p->n_used = p->n_told = counters_from;
        }
}

static void close_all(struct group **g, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        group_close(g[i]);
}

static uint64_t rng_next(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

// The value of element i of operation `op`: bits of any pattern, also NaNs.
static uint32_t value(uint64_t op, int64_t i)
{
    return (uint32_t)((uint64_t)i * 2654435761u + op * 40503u * 65537u + 12345u);
}

struct script {
    struct group *group;
    uint64_t seed;
    int32_t n_op;
    int64_t most; // elements of one operation, about
    int32_t n_wrong;
    bool *stop;
};

enum { Y_MAX = 1 << 16 };

static void check(struct script *s, uint64_t op, const uint32_t *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        s->n_wrong += y[i] != value(op, i);
}

static void one_gather(struct script *s, uint64_t op, uint64_t *rng, uint32_t *y)
{
    struct group *g = s->group;
    const int64_t n_row = (int64_t)(rng_next(rng) % 40), ld = 1 + (int64_t)(rng_next(rng) % 100);
    const int32_t root = (int32_t)(rng_next(rng) % (uint64_t)(g->n_member + 1)) - 1;
    int64_t from[GROUP_MEMBERS_MAX + 1] = {0};
    for (int32_t i = 0; i < g->n_member; i++)
        from[i + 1] = from[i] + (int64_t)(rng_next(rng) % (uint64_t)(ld - from[i] + 1));
    from[g->n_member] = ld;
    memset(y, 0, (size_t)(n_row * ld) * sizeof *y);
    for (int64_t r = 0; r < n_row; r++)
        for (int64_t c = 0; c < ld; c++)
            if (c >= from[g->member] && c < from[g->member + 1])
                y[r * ld + c] = value(op, r * ld + c);
    g->ops->gather(g, (float *)y, n_row, ld, from, root);
    if (root < 0 || root == g->member) check(s, op, y, n_row * ld);
}

static void one_block(struct script *s, uint64_t op, uint64_t *rng, uint32_t *y)
{
    struct group *g = s->group;
    const int32_t n = g->n_member, from = (int32_t)(rng_next(rng) % (uint64_t)n);
    const int32_t to = (from + 1 + (int32_t)(rng_next(rng) % (uint64_t)(n - 1))) % n;
    const int64_t n_row = (int64_t)(rng_next(rng) % 200), n_col = 1 + (int64_t)(rng_next(rng) % 16);
    const bool is_known = rng_next(rng) % 2;
    if (g->member == from) {
        for (int64_t i = 0; i < n_row * n_col; i++)
            y[i] = value(op, i);
        g->ops->send(g, to, y, n_row, n_col);
    }
    if (g->member == to) {
        memset(y, 0, (size_t)(n_row * n_col) * sizeof *y);
        const int64_t got = g->ops->recv(g, from, y, is_known ? n_row : -1, n_col, n_row + 3);
        s->n_wrong += got != n_row;
        check(s, op, y, n_row * n_col);
    }
}

static void *run_script(void *arg)
{
    struct script *s = arg;
    uint64_t rng = s->seed, pace = s->seed + 77 * (uint64_t)s->group->member;
    uint32_t *y = calloc(Y_MAX, sizeof *y);
    for (int32_t i = 0; i < s->n_op && !s->group->ops->status(s->group, NULL); i++) {
        if (i % 10 == 0) s->group->ops->begin(s->group, 1 + (uint64_t)i / 10);
        if (rng_next(&pace) % 50 == 0) usleep(200); // members get ahead of each other
        switch (rng_next(&rng) % 4) {
        case 0:
        case 1:
            one_gather(s, (uint64_t)i, &rng, y);
            break;
        default:
            one_block(s, (uint64_t)i, &rng, y);
        }
    }
    free(y);
    return NULL;
}

// Returns how many frames the first member has sent.
static uint64_t scripted(uint32_t road, int32_t n, uint64_t frame_bytes, int32_t n_op)
{
    struct group *g[GROUP_MEMBERS_MAX];
    struct script s[GROUP_MEMBERS_MAX];
    pthread_t t[GROUP_MEMBERS_MAX];
    for (int32_t i = 0; i < n; i++)
        g[i] = open_member(road, n, i, frame_bytes, NULL);
    connect_all(g, n);
    for (int32_t i = 0; i < n; i++) {
        s[i] = (struct script){.group = g[i], .seed = 88172645463325252u + (uint64_t)n_op};
        s[i].n_op = n_op;
        pthread_create(&t[i], NULL, run_script, &s[i]);
    }
    for (int32_t i = 0; i < n; i++)
        pthread_join(t[i], NULL);
    for (int32_t i = 0; i < n; i++) {
        struct err_text why = {{0}};
        if (g[i]->ops->status(g[i], &why)) fail_msg("member %d of %d: %s", i, n, why.s);
        assert_int_equal(s[i].n_wrong, 0);
        assert_int_equal(port_stats_get(of(g[i])->port).dropped, 0);
    }
    const uint64_t n_sent = port_stats_get(of(g[0])->port).frames_out;
    close_all(g, n);
    return n_sent;
}

static void test_local(void **state)
{
    (void)state;
    scripted(ROAD_LOCAL, 2, 0, 500);
    scripted(ROAD_LOCAL, 3, 200, 500);
    scripted(ROAD_LOCAL, 5, 64, 100); // 16 elements a piece: many pieces, the window at work
    scripted(ROAD_LOCAL, GROUP_MEMBERS_MAX, 0, 20);
}

static void test_ucx(void **state)
{
    (void)state;
    scripted(ROAD_UCX, 2, 64, 200);
    scripted(ROAD_UCX, 3, 0, 200);
}

static void test_counters_pass_their_end(void **state)
{
    (void)state;
    counters_from = UINT16_MAX - 100;
    assert_true(scripted(ROAD_LOCAL, 2, 64, 200) > 200);
    counters_from = 0;
}

// -- what goes wrong --

struct pair {
    struct group *g[2];
};

static struct pair pair_open(void)
{
    struct pair p;
    for (int32_t i = 0; i < 2; i++)
        p.g[i] = open_member(ROAD_LOCAL, 2, i, 64, NULL);
    connect_all(p.g, 2);
    for (int32_t i = 0; i < 2; i++)
        p.g[i]->ops->begin(p.g[i], 7);
    return p;
}

static void expect(struct pair *p, err_t want, const char *text)
{
    struct err_text why = {{0}};
    err_t e = p->g[0]->ops->status(p->g[0], &why);
    if (e != want || !strstr(why.s, text)) fail_msg("%d: %s, expected %s", e, why.s, text);
    // It sticks, and nothing is touched any more.
    float y[4] = {1, 2, 3, 4};
    const int64_t from[3] = {0, 2, 4};
    p->g[0]->ops->gather(p->g[0], y, 1, 4, from, -1);
    p->g[0]->ops->send(p->g[0], 1, y, 1, 4);
    assert_int_equal(p->g[0]->ops->recv(p->g[0], 1, y, 1, 4, 1), 0);
    assert_true(y[0] == 1 && y[3] == 4);
    assert_int_equal(p->g[0]->ops->status(p->g[0], NULL), want);
    close_all(p->g, 2);
}

static void say(struct pair *p, struct frame f)
{
    float payload[16] = {0};
    f.kind = f.kind ? f.kind : FRAME_PIECE;
    f.dtype = f.dtype ? f.dtype : DT_F32;
    f.epoch = EPOCH;
    f.step = f.step ? f.step : 7;
    f.bytes = (uint64_t)f.n_row * f.n_col * 4;
    f.payload = payload;
    assert_int_equal(port_send(of(p->g[1])->port, 0, &f), OK);
}

static void gather_two(struct pair *p)
{
    float y[8] = {0};
    const int64_t from[3] = {0, 4, 8};
    p->g[0]->ops->gather(p->g[0], y, 1, 8, from, 0);
    assert_true(y[4] == 0);
}

static void wrong_piece(struct frame f, const char *text)
{
    struct pair p = pair_open();
    say(&p, f);
    gather_two(&p);
    expect(&p, ERR_LINK_PROTOCOL, text);
}

static void test_wrong_pieces(void **state)
{
    (void)state;
    wrong_piece((struct frame){.stage = 1, .n_row = 1, .n_col = 5}, "member 1 sent a piece of");
    wrong_piece((struct frame){.stage = 1, .n_row = 2, .n_col = 2}, "another shape");
    wrong_piece((struct frame){.stage = 1, .dtype = DT_I32, .n_row = 1, .n_col = 4}, "shape");
    wrong_piece((struct frame){.stage = 1, .step = 8, .n_row = 1, .n_col = 4}, "another step");
    wrong_piece((struct frame){.stage = 0, .n_row = 1, .n_col = 4}, "what no member sends");
    wrong_piece((struct frame){.stage = 2, .n_row = 1, .n_col = 4}, "what no member sends");
    wrong_piece((struct frame){.kind = FRAME_ACTIVATIONS, .stage = 1, .n_row = 1, .n_col = 4},
                "what no member sends");
    wrong_piece((struct frame){.stage = 1, .tag = WINDOW, .n_row = 1, .n_col = 4}, "out of order");
    wrong_piece((struct frame){.stage = 1, .tag = 0xffff, .n_row = 1, .n_col = 4}, "out of order");
    struct err_text why;
    struct pair p = pair_open();
    say(&p, (struct frame){.stage = 1, .n_row = 1, .n_col = 5});
    gather_two(&p);
    assert_int_equal(p.g[0]->ops->status(p.g[0], &why), ERR_LINK_PROTOCOL);
    assert_non_null(strstr(why.s, "step 7, operation 0 (gathering columns)"));
    close_all(p.g, 2);
}

static void wrong_block(struct frame f, int64_t n_row, int64_t cap, const char *text)
{
    float y[64] = {0};
    struct pair p = pair_open();
    f.stage = 1;
    say(&p, f);
    assert_int_equal(p.g[0]->ops->recv(p.g[0], 1, y, n_row, 4, cap), 0);
    expect(&p, ERR_LINK_PROTOCOL, text);
}

static void test_wrong_blocks(void **state)
{
    (void)state;
    wrong_block((struct frame){.dtype = DT_I32, .n_row = 2, .n_col = 5}, 2, 2, "another shape");
    wrong_block((struct frame){.dtype = DT_I32, .n_row = 3, .n_col = 4}, 2, 9, "another shape");
    wrong_block((struct frame){.dtype = DT_I32, .n_row = 3, .n_col = 4}, -1, 2, "another shape");
    wrong_block((struct frame){.dtype = DT_F32, .n_row = 2, .n_col = 4}, 2, 2, "another shape");
    wrong_block((struct frame){.dtype = DT_I32, .n_row = 1, .n_col = 4}, 2, 2, "fewer rows");
    // A row that no frame takes.
    float y[17] = {0};
    struct pair p = pair_open();
    p.g[0]->ops->send(p.g[0], 1, y, 1, 17);
    expect(&p, ERR_TOO_LARGE, "larger frames");
}

static void *dies_later(void *arg)
{
    usleep(30000);
    group_close(arg);
    return NULL;
}

static void test_member_dies(void **state)
{
    (void)state;
    struct pair p = pair_open();
    pthread_t t;
    pthread_create(&t, NULL, dies_later, p.g[1]);
    gather_two(&p);
    pthread_join(t, NULL);
    p.g[1] = NULL;
    expect(&p, ERR_LINK, "peer 1 closed its port");
}

static void test_nobody_comes(void **state)
{
    (void)state;
    struct pair p = pair_open();
    of(p.g[0])->config.deadline_us = 30000;
    gather_two(&p);
    assert_true(p.g[0]->ops->wait_us(p.g[0]) >= 30000);
    expect(&p, ERR_TIMEOUT, "member 1 was waited for too long");
    // Neither does who is asked for nothing: more than a window is not sent.
    p = pair_open();
    of(p.g[0])->config.deadline_us = 30000;
    float y[16 * (WINDOW + 1)] = {0};
    p.g[0]->ops->send(p.g[0], 1, y, WINDOW - 1, 16); // and the empty one that ends it
    assert_int_equal(p.g[0]->ops->status(p.g[0], NULL), OK);
    p.g[0]->ops->send(p.g[0], 1, y, 0, 16);
    expect(&p, ERR_TIMEOUT, "(sending): member 1");
}

static void test_stop(void **state)
{
    (void)state;
    bool stop = true;
    struct pair p = pair_open();
    of(p.g[0])->config.rest_arg = &stop;
    gather_two(&p);
    expect(&p, ERR_CANCELLED, "asked to stop");
}

static void test_open(void **state)
{
    (void)state;
    struct group *g;
    struct err_text why;
    struct group_link_config c = {.port = {.road = ROAD_LOCAL, .epoch = 1}, .n_member = 1};
    assert_int_equal(group_link_open(&c, &g, &why), ERR_INVALID);
    c.n_member = GROUP_MEMBERS_MAX + 1;
    assert_int_equal(group_link_open(&c, &g, &why), ERR_INVALID);
    c.n_member = c.member = 2;
    assert_int_equal(group_link_open(&c, &g, &why), ERR_INVALID);
    c.member = 1;
    c.frame_bytes = 8;
    assert_int_equal(group_link_open(&c, &g, &why), ERR_INVALID);
    c.frame_bytes = 0;
    assert_int_equal(group_link_open(&c, &g, &why), OK);
    assert_int_equal(group_link_connect(g, 1, (const uint8_t *)"x", 1, &why), ERR_INVALID);
    assert_int_equal(group_link_connect(g, 2, (const uint8_t *)"x", 1, &why), ERR_INVALID);
    assert_int_equal(group_link_connect(g, 0, (const uint8_t *)"x", 1, &why), ERR_LINK_PROTOCOL);
    assert_true(group_link_bytes(2, 0) >=
                2 * (uint64_t)of(g)->config.port.n_frame * of(g)->config.port.max_bytes);
    group_close(g);
    group_close(NULL);
}

// -- two processes: how long an exchange takes --

static bool write_whole(int fd, const void *p, size_t n)
{
    return write(fd, p, n) == (ssize_t)n;
}

static bool read_whole(int fd, void *p, size_t n)
{
    for (size_t got = 0; got < n;) {
        ssize_t r = read(fd, (char *)p + got, n - got);
        if (r <= 0) return false;
        got += (size_t)r;
    }
    return true;
}

static bool swap_addresses(int fd, struct group *g)
{
    const uint8_t *mine;
    uint8_t theirs[WIRE_ADDRESS_MAX];
    uint32_t n_mine, n_theirs;
    struct err_text why;
    group_link_address(g, &mine, &n_mine);
    return write_whole(fd, &n_mine, 4) && write_whole(fd, mine, n_mine) &&
           read_whole(fd, &n_theirs, 4) && n_theirs <= sizeof theirs &&
           read_whole(fd, theirs, n_theirs) &&
           group_link_connect(g, !g->member, theirs, n_theirs, &why) == OK;
}

static err_t rest_spin(void *arg, struct port *port, int64_t since_us, struct err_text *why)
{
    (void)arg, (void)port, (void)why;
    if (since_us > 20) sched_yield();
    return OK;
}

static const struct {
    int64_t n_row, ld;
    int32_t n;
} sizes[] = {{1, 64, 300}, {1, 4096, 300}, {16, 4096, 30}, {512, 4096, 3}};
enum { N_SIZE = sizeof sizes / sizeof *sizes, N_MOST = 300 };

static int by_number(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static err_t exchanges(struct group *g, bool is_loud, const char *name)
{
    static int64_t took[N_MOST];
    for (int s = 0; s < N_SIZE && !g->ops->status(g, NULL); s++) {
        const int64_t n_row = sizes[s].n_row, ld = sizes[s].ld, from[3] = {0, ld / 2, ld};
        float *y = calloc((size_t)(n_row * ld), sizeof *y);
        g->ops->begin(g, (uint64_t)s + 1);
        for (int i = 0; i < sizes[s].n; i++) {
            const int64_t at = clock_now_us();
            for (int k = 0; k < 10; k++)
                g->ops->gather(g, y, n_row, ld, from, -1);
            took[i] = clock_now_us() - at;
        }
        free(y);
        qsort(took, (size_t)sizes[s].n, sizeof *took, by_number);
        if (is_loud)
            print_message("%s: gather of %lld x %lld floats: p50 %.2f us, p99 %.1f us\n", name,
                          (long long)n_row, (long long)ld, (double)took[sizes[s].n / 2] / 10,
                          (double)took[sizes[s].n * 99 / 100] / 10);
    }
    return g->ops->status(g, NULL);
}

static struct group *open_fast(const char *transports, int32_t me)
{
    struct group *g = NULL;
    struct err_text why = {{0}};
    const struct group_link_config c = {
        .port = {.road = ROAD_UCX, .epoch = EPOCH, .key = {4}, .transports = transports},
        .n_member = 2,
        .member = me,
        .deadline_us = DEADLINE_US,
        .rest = rest_spin,
    };
    return group_link_open(&c, &g, &why) ? NULL : g;
}

static int peer_main(char **argv)
{
    const int fd = atoi(argv[3]);
    char c;
    struct group *g = open_fast(argv[2], 1);
    if (!g || !swap_addresses(fd, g)) return 3;
    const err_t e = exchanges(g, false, "");
    read_whole(fd, &c, 1);
    group_close(g);
    return e ? 4 : 0;
}

static void latency(const char *transports, const char *name)
{
    int fds[2], status;
    char fd_text[16];
    pid_t pid;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    fcntl(fds[0], F_SETFD, FD_CLOEXEC);
    snprintf(fd_text, sizeof fd_text, "%d", fds[1]);
    char *argv[] = {"group_test", "peer", (char *)transports, fd_text, NULL};
    assert_int_equal(posix_spawn(&pid, "/proc/self/exe", NULL, NULL, argv, environ), 0);
    close(fds[1]);
    struct group *g = open_fast(transports, 0);
    assert_non_null(g);
    assert_true(swap_addresses(fds[0], g));
    struct err_text why = {{0}};
    if (exchanges(g, true, name)) {
        g->ops->status(g, &why);
        fail_msg("%s", why.s);
    }
    assert_int_equal(port_stats_get(of(g)->port).dropped, 0);
    close(fds[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    group_close(g);
}

static void test_latency(void **state)
{
    (void)state;
    latency("self,posix,tcp", "ucx shm");
    latency("self,tcp", "ucx tcp");
}

int main(int argc, char **argv)
{
    if (argc > 1) return peer_main(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open),         cmocka_unit_test(test_local),
        cmocka_unit_test(test_ucx),          cmocka_unit_test(test_counters_pass_their_end),
        cmocka_unit_test(test_wrong_pieces), cmocka_unit_test(test_wrong_blocks),
        cmocka_unit_test(test_member_dies),  cmocka_unit_test(test_nobody_comes),
        cmocka_unit_test(test_stop),         cmocka_unit_test(test_latency),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
