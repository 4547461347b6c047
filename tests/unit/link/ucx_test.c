// Ports over UCX between processes: every size arrives whole, and a peer that is killed, stopped or
// lying neither crashes nor holds up the other. The peers are this program again ("peer MODE ..."),
// started afresh, because UCX does not survive a fork.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/link/link_ucx.c" // to send what port_send would not

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_BYTES = 4 << 20, N_FRAME = 6, EPOCH = 3 };

static const char TCP[] = "self,tcp", BOTH[] = "self,posix,sysv,tcp";

static struct port_config config(const char *transports)
{
    return (struct port_config){.road = ROAD_UCX,
                                .epoch = EPOCH,
                                .key = {9, 8, 7},
                                .n_frame = N_FRAME,
                                .max_bytes = MAX_BYTES,
                                .transports = transports};
}

// Payload of frame `step`: no two are alike, and a shifted one shows.
static void fill(uint32_t *p, uint64_t bytes, uint64_t step)
{
    for (uint64_t i = 0; i < bytes / 4; i++)
        p[i] = (uint32_t)(i * 2654435761u + step * 40503u + 1);
}

static bool is_filled(const uint32_t *p, uint64_t bytes, uint64_t step)
{
    for (uint64_t i = 0; i < bytes / 4; i++)
        if (p[i] != (uint32_t)(i * 2654435761u + step * 40503u + 1)) return false;
    return true;
}

static struct frame activations(uint64_t step, uint64_t bytes, void *payload)
{
    return (struct frame){.kind = FRAME_ACTIVATIONS,
                          .dtype = DT_F32,
                          .epoch = EPOCH,
                          .step = step,
                          .n_row = 1,
                          .n_col = (uint32_t)(bytes / 4),
                          .bytes = bytes,
                          .payload = payload};
}

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

static bool swap_addresses(int fd, struct port *p, uint32_t stage)
{
    const uint8_t *mine;
    uint8_t theirs[WIRE_ADDRESS_MAX];
    uint32_t n_mine, n_theirs;
    struct err_text why;
    port_address(p, &mine, &n_mine);
    return write_whole(fd, &n_mine, 4) && write_whole(fd, mine, n_mine) &&
           read_whole(fd, &n_theirs, 4) && n_theirs <= sizeof theirs &&
           read_whole(fd, theirs, n_theirs) && port_connect(p, stage, theirs, n_theirs, &why) == OK;
}

// -- the peer --

static bool is_over(int fd)
{
    char c;
    return recv(fd, &c, 1, MSG_DONTWAIT | MSG_PEEK) == 0;
}

// Answers frame n with frame n; sleeps when there was nothing to do for a while.
static void peer_echo(struct port *p, int fd)
{
    uint64_t step = 0;
    int64_t last = clock_now_us();
    while (!is_over(fd) && port_progress(p, NULL) == OK) {
        struct frame *f = port_find(p, FRAME_ACTIVATIONS, step);
        if (f) {
            while (port_send(p, 0, f) == ERR_AGAIN)
                port_progress(p, NULL);
            port_give(p, f);
            step++;
            last = clock_now_us();
        } else if (clock_now_us() - last > 100 && port_arm(p) == OK) {
            struct pollfd fds[2] = {{.fd = port_fd(p), .events = POLLIN},
                                    {.fd = fd, .events = POLLIN | POLLRDHUP}};
            poll(fds, 2, 1000);
        }
    }
}

// Sends as much as it can, and takes what comes.
static void peer_stream(struct port *p, int fd, uint64_t bytes)
{
    uint32_t *payload = calloc(1, MAX_BYTES);
    for (uint64_t step = 0, want = 0; !is_over(fd) && port_progress(p, NULL) == OK;) {
        struct frame f = activations(step, bytes, payload);
        if (port_send(p, 0, &f) == OK) step++;
        struct frame *g = port_find(p, FRAME_ACTIVATIONS, want);
        if (!g) continue;
        port_give(p, g);
        want++;
    }
    free(payload);
}

// Takes nothing until told to, then everything in order; says how many were right.
static void peer_hold(struct port *p, int fd, uint64_t n)
{
    char go;
    uint64_t n_right = 0;
    if (!read_whole(fd, &go, 1)) return;
    for (uint64_t step = 0; step < n && !is_over(fd) && port_progress(p, NULL) == OK;) {
        struct frame *f = port_find(p, FRAME_ACTIVATIONS, step);
        if (!f) continue;
        n_right += is_filled(f->payload, f->bytes, step);
        port_give(p, f);
        step++;
    }
    write_whole(fd, &n_right, sizeof n_right);
    while (!is_over(fd))
        port_progress(p, NULL);
}

static void raw_send(struct ucx_port *p, struct frame *f, int flip_header, bool flip_payload,
                     uint64_t bytes)
{
    struct ucx_send *s;
    while (!(s = send_take(p)))
        progress(p);
    fill((uint32_t *)s->payload, f->bytes, f->step);
    f->payload = s->payload;
    frame_pack(f, p->port.key, s->header);
    if (flip_header >= 0) s->header[flip_header] ^= 1;
    if (flip_payload) s->payload[f->bytes / 2] ^= 1;
    send_start(s, p->peers[0].ep, bytes, 0);
}

// Bad ones of both ways of sending (by copy, by rendezvous), then one good frame.
static void peer_lie(struct port *port, int fd)
{
    struct ucx_port *p = (struct ucx_port *)port;
    static const uint64_t sizes[] = {64, 1 << 20};
    for (int i = 0; i < 2; i++) {
        uint64_t n = sizes[i];
        struct frame f = activations(1, n, NULL);
        raw_send(p, &f, 60, false, n); // MAC
        raw_send(p, &f, 16, false, n); // step
        raw_send(p, &f, 0, false, n);  // magic
        raw_send(p, &f, -1, true, n);  // payload
        raw_send(p, &f, -1, false, n / 2);
        raw_send(p, &f, -1, false, n * 2);
        f.epoch = EPOCH - 1;
        raw_send(p, &f, -1, false, n);
        f = activations(1, n, NULL);
        p->port.key[0] ^= 1;
        raw_send(p, &f, -1, false, n);
        p->port.key[0] ^= 1;
    }
    struct frame large = activations(1, MAX_BYTES + 64, NULL); // the sender has the room
    raw_send(p, &large, -1, false, MAX_BYTES + 64);
    struct frame ping = {.kind = FRAME_PING, .dtype = DT_F32, .epoch = EPOCH};
    raw_send(p, &ping, -1, false, 0); // without a way to answer
    struct frame good = activations(2, 64, NULL);
    raw_send(p, &good, -1, false, 64);
    while (!is_over(fd))
        port_progress(port, NULL);
}

static int peer_main(char **argv)
{
    const char *mode = argv[2], *transports = argv[3];
    int fd = atoi(argv[4]);
    uint64_t n = strtoull(argv[5], NULL, 10);
    struct port_config c = config(transports);
    if (strcmp(mode, "lie") == 0) c.max_bytes *= 2;
    struct port *p;
    struct err_text why;
    log_set_who("peer");
    if (port_open(&c, &p, &why) || !swap_addresses(fd, p, 0)) return 3;
    if (strcmp(mode, "echo") == 0) peer_echo(p, fd);
    if (strcmp(mode, "stream") == 0) peer_stream(p, fd, n);
    if (strcmp(mode, "hold") == 0) peer_hold(p, fd, n);
    if (strcmp(mode, "lie") == 0) peer_lie(p, fd);
    port_close(p);
    return 0;
}

// -- this side --

struct side {
    struct port *port;
    pid_t pid;
    int fd;
    uint32_t *buf;
};

static void open_side(struct side *s, const char *transports, const char *mode, uint64_t n)
{
    int fds[2];
    char fd_text[16], n_text[32];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    fcntl(fds[0], F_SETFD, FD_CLOEXEC);
    snprintf(fd_text, sizeof fd_text, "%d", fds[1]);
    snprintf(n_text, sizeof n_text, "%llu", (unsigned long long)n);
    char *argv[] = {"ucx_test", "peer", (char *)mode, (char *)transports, fd_text, n_text, NULL};
    assert_int_equal(posix_spawn(&s->pid, "/proc/self/exe", NULL, NULL, argv, environ), 0);
    close(fds[1]);
    s->fd = fds[0];
    s->buf = malloc(MAX_BYTES);
    struct port_config c = config(transports);
    struct err_text why = {{0}};
    if (port_open(&c, &s->port, &why)) fail_msg("%s", why.s);
    if (!swap_addresses(s->fd, s->port, 1)) fail_msg("no peer");
}

// Closing takes no longer than this, whatever state the peer is in.
static void close_side(struct side *s, int want_exit)
{
    int status;
    int64_t from = clock_now_us();
    port_close(s->port);
    int64_t took = clock_now_us() - from;
    if (took > 200000) fail_msg("port_close took %lld us", (long long)took);
    close(s->fd);
    if (want_exit < 0 && s->pid) kill(s->pid, SIGKILL);
    if (s->pid) assert_int_equal(waitpid(s->pid, &status, 0), s->pid);
    if (want_exit >= 0) assert_true(WIFEXITED(status) && WEXITSTATUS(status) == want_exit);
    free(s->buf);
}

static void round_trips(const char *transports, const char *want_name)
{
    struct side s;
    struct err_text why = {{0}};
    open_side(&s, transports, "echo", 0);
    uint64_t step = 0, bytes_out = 0;
    for (uint64_t bytes = 64; bytes <= MAX_BYTES; bytes *= 4) {
        int n = bytes >= 1 << 20 ? 20 : 300;
        int64_t best = INT64_MAX;
        for (int i = 0; i < n; i++, step++) {
            fill(s.buf, bytes, step);
            struct frame f = activations(step, bytes, s.buf), *g;
            int64_t from = clock_now_ns();
            assert_int_equal(port_send(s.port, 1, &f), OK);
            bytes_out += bytes + 64;
            while (!(g = port_find(s.port, FRAME_ACTIVATIONS, step)))
                if (port_progress(s.port, &why)) fail_msg("%s", why.s);
            int64_t took = clock_now_ns() - from;
            if (took < best) best = took;
            assert_int_equal((uintptr_t)g->payload % 64, 0);
            assert_true(g->bytes == bytes && g->epoch == EPOCH && g->n_col == bytes / 4);
            if (!is_filled(g->payload, bytes, step)) fail_msg("step %d differs", (int)step);
            port_give(s.port, g);
        }
        print_message("%s: %8llu bytes: %.1f us one way, %.2f GB/s\n", want_name,
                      (unsigned long long)bytes, (double)best / 2e3,
                      (double)bytes / ((double)best / 2));
    }
    struct port_stats st = port_stats_get(s.port);
    assert_true(st.frames_out == step && st.frames_in == step && st.dropped == 0);
    assert_true(st.bytes_out == bytes_out && st.bytes_in == bytes_out);
    assert_string_equal(port_transport(s.port, 1), want_name);
    double latency_us, bytes_per_s;
    assert_int_equal(port_measure(s.port, 1, 200, &latency_us, &bytes_per_s, NULL), OK);
    print_message("%s: measured %.1f us, %.2f GB/s\n", want_name, latency_us, bytes_per_s / 1e9);
    assert_true(latency_us > 0 && latency_us < 50000 && bytes_per_s > 1e6);
    close_side(&s, 0);
}

static void test_shared_memory(void **state)
{
    (void)state;
    round_trips(BOTH, "ucx shm");
}

static void test_tcp(void **state)
{
    (void)state;
    round_trips(TCP, "ucx tcp");
}

// The receiver sleeps; more is sent than it has frames for; all of it arrives. Long ones wait at
// the sender, of the short ones the receiver keeps as many again as it has frames.
static void hold(const char *transports, uint64_t bytes, uint64_t n)
{
    struct side s;
    struct err_text why = {{0}};
    open_side(&s, transports, "hold", n);
    uint64_t step = 0, n_right = 0;
    struct pollfd p = {.fd = s.fd, .events = POLLIN};
    int64_t from = clock_now_us();
    for (bool is_told = false; poll(&p, 1, 0) == 0;) {
        assert_true(clock_now_us() - from < 30000000);
        if (!is_told && clock_now_us() - from > 300000) is_told = write_whole(s.fd, "g", 1);
        fill(s.buf, bytes, step);
        struct frame f = activations(step, bytes, s.buf);
        err_t e = step < n ? port_send(s.port, 1, &f) : ERR_AGAIN;
        assert_true(e == OK || e == ERR_AGAIN);
        if (e == OK) step++;
        if (port_progress(s.port, &why)) fail_msg("%s", why.s);
        if (!is_told && bytes > EAGER_MAX) assert_true(step <= 2 * N_FRAME);
    }
    assert_int_equal(step, n);
    assert_true(read_whole(s.fd, &n_right, sizeof n_right));
    assert_int_equal(n_right, n);
    close_side(&s, 0);
}

static void test_slow_receiver(void **state)
{
    (void)state;
    hold(BOTH, 4096, 2 * N_FRAME);
    hold(BOTH, 1 << 20, 40);
    hold(TCP, 4096, 2 * N_FRAME);
    hold(TCP, 1 << 20, 40);
}

// More short frames than the receiver will ever keep: dropped and counted, not hoarded.
static void test_flood(void **state)
{
    (void)state;
    struct side s;
    open_side(&s, TCP, "stream", 64);
    for (int64_t until = clock_now_us() + 300000; clock_now_us() < until;)
        port_progress(s.port, NULL); // and nothing is given back
    struct port_stats st = port_stats_get(s.port);
    assert_int_equal(st.frames_in, N_FRAME);
    assert_true(st.dropped > 100);
    struct frame *f = port_find(s.port, FRAME_ACTIVATIONS, 0);
    assert_non_null(f);
    port_give(s.port, f);
    close_side(&s, 0);
}

// -- death --

static void kill_peer(const char *transports, const char *mode, uint64_t bytes, int after_us)
{
    struct side s;
    struct err_text why = {{0}};
    open_side(&s, transports, mode, bytes);
    uint64_t step = 0, want = 0;
    int64_t from = clock_now_us(), killed = 0, noticed = 0, slowest = 0;
    int n_link = 0, status;
    while (clock_now_us() - from < after_us + 3000000 && !(noticed && n_link > 3)) {
        int64_t t = clock_now_us();
        if (!killed && t - from > after_us) {
            kill(s.pid, SIGKILL);
            waitpid(s.pid, &status, 0); // UCX takes a dead process that nobody reaped for alive
            s.pid = 0;
            killed = t;
        }
        struct frame f = activations(step, bytes, s.buf);
        err_t e = port_send(s.port, 1, &f);
        if (e == OK) step++;
        assert_true(e == OK || e == ERR_AGAIN || e == ERR_LINK);
        if (e == ERR_LINK) n_link++;
        e = port_progress(s.port, &why);
        assert_true(e == OK || e == ERR_LINK);
        assert_true(killed || e == OK);
        if (e && !noticed) noticed = clock_now_us();
        struct frame *g = port_find(s.port, FRAME_ACTIVATIONS, want);
        if (g) {
            port_give(s.port, g);
            want++;
        }
        int64_t took = clock_now_us() - t;
        if (took > slowest) slowest = took;
    }
    if (noticed) {
        assert_non_null(strstr(why.s, "peer 1"));
        print_message("%s %s %llu bytes: killed, noticed after %.1f ms, slowest turn %.1f ms\n",
                      transports, mode, (unsigned long long)bytes, (double)(noticed - killed) / 1e3,
                      (double)slowest / 1e3);
    } else {
        print_message("%s %s %llu bytes: killed, not noticed in 3 s, slowest turn %.1f ms\n",
                      transports, mode, (unsigned long long)bytes, (double)slowest / 1e3);
    }
    assert_true(slowest < 500000);
    close_side(&s, -1);
}

static void test_killed_peer(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        kill_peer(BOTH, "echo", 64, 20000 + i * 777);
        kill_peer(BOTH, "stream", 1 << 20, 20000 + i * 3777);
        kill_peer(TCP, "echo", 64, 20000 + i * 777);
        kill_peer(TCP, "stream", 1 << 20, 20000 + i * 3777);
        kill_peer(TCP, "stream", MAX_BYTES, 15000 + i * 3777);
    }
}

// A stopped peer is never noticed: sends pile up and every call returns.
static void stop_peer(const char *transports, const char *mode, uint64_t bytes)
{
    struct side s;
    open_side(&s, transports, mode, bytes);
    for (int64_t until = clock_now_us() + 30000; clock_now_us() < until;)
        assert_int_equal(port_progress(s.port, NULL), OK);
    kill(s.pid, SIGSTOP);
    err_t e = OK;
    uint64_t n = 0;
    int64_t slowest = 0;
    for (int64_t until = clock_now_us() + 400000; clock_now_us() < until;) {
        int64_t t = clock_now_us();
        struct frame f = activations(n, bytes, s.buf);
        e = port_send(s.port, 1, &f);
        if (e == OK) n++;
        assert_true(e == OK || e == ERR_AGAIN);
        assert_int_equal(port_progress(s.port, NULL), OK);
        if (clock_now_us() - t > slowest) slowest = clock_now_us() - t;
    }
    print_message("%s %s %llu bytes: stopped, %llu sent, then %s, slowest turn %.1f ms\n",
                  transports, mode, (unsigned long long)bytes, (unsigned long long)n, err_name(e),
                  (double)slowest / 1e3);
    assert_int_equal(e, bytes > 64 ? ERR_AGAIN : e);
    double latency_us, bytes_per_s;
    int64_t from = clock_now_us();
    assert_int_equal(port_measure(s.port, 1, 100, &latency_us, &bytes_per_s, NULL), ERR_TIMEOUT);
    assert_true(clock_now_us() - from < 400000);
    close_side(&s, -1);
}

static void test_stopped_peer(void **state)
{
    (void)state;
    stop_peer(BOTH, "echo", 64);
    stop_peer(BOTH, "echo", 1 << 20);
    stop_peer(BOTH, "stream", 1 << 20);
    stop_peer(TCP, "echo", 64);
    stop_peer(TCP, "echo", 1 << 20);
    stop_peer(TCP, "stream", 1 << 20);
}

// Closing in the middle of everything, with a peer that is well.
static void test_close_under_way(void **state)
{
    (void)state;
    const char *const roads[] = {BOTH, TCP};
    for (int i = 0; i < 8; i++) {
        struct side s;
        open_side(&s, roads[i % 2], "stream", i % 5 ? 1 << 20 : 4096);
        for (int64_t until = clock_now_us() + 5000 + i * 1000; clock_now_us() < until;) {
            struct frame f = activations(0, 1 << 20, s.buf);
            port_send(s.port, 1, &f);
            port_progress(s.port, NULL);
        }
        close_side(&s, 0);
    }
}

// A long frame is on its way to a port that closes, and its sender makes no turn: as over a link
// with a delay. The endpoint that it comes from is one that UCX made.
static void closed_while_receiving(const char *transports)
{
    const struct port_config c = config(transports);
    struct port *a, *b;
    const uint8_t *address;
    uint32_t len;
    uint8_t *memory = port_pool_memory(1, 1 << 20);
    assert_non_null(memory);
    assert_int_equal(port_open(&c, &a, NULL), OK);
    assert_int_equal(port_open(&c, &b, NULL), OK);
    port_address(b, &address, &len);
    assert_int_equal(port_connect(a, 1, address, len, NULL), OK);
    const struct ucx_port *to = (const struct ucx_port *)b;
    const struct frame f = activations(1, 1 << 20, (uint32_t *)memory);
    assert_int_equal(port_send(a, 1, &f), OK);
    for (int64_t until = clock_now_us() + 20000000; !to->n_receiving;) {
        assert_true(clock_now_us() < until);
        port_progress(a, NULL);
        port_progress(b, NULL);
    }
    port_close(b);
    port_close(a);
    free(memory);
}

static void test_close_while_receiving(void **state)
{
    (void)state;
    closed_while_receiving("self,tcp");
    closed_while_receiving("self,posix");
}

// -- a peer of this machine that shares no memory with us --

static void move_next_door(struct port *port)
{
    struct ucx_port *p = (struct ucx_port *)port;
    p->room.net++;
    assert_int_equal(address_get(p), UCS_OK); // tells it to the others
}

// Long frames as well as short ones, the receiver asleep until its descriptor says so.
static void cross(struct port *from, struct port *to, uint64_t step, uint64_t bytes,
                  uint8_t *memory)
{
    fill((uint32_t *)(void *)memory, bytes, step);
    const struct frame f = activations(step, bytes, (uint32_t *)(void *)memory);
    assert_int_equal(port_send(from, 1, &f), OK);
    struct frame *g;
    for (int64_t until = clock_now_us() + 20000000;
         !(g = port_find(to, FRAME_ACTIVATIONS, step));) {
        struct pollfd fd = {.fd = port_fd(to), .events = POLLIN};
        assert_true(clock_now_us() < until);
        port_progress(from, NULL);
        if (port_arm(to) == OK && !port_is_sending(from)) assert_int_equal(poll(&fd, 1, 10000), 1);
        assert_int_equal(port_progress(to, NULL), OK);
    }
    assert_true(is_filled(g->payload, bytes, step));
    port_give(to, g);
}

static void test_next_door(void **state)
{
    (void)state;
    const struct port_config c = config(NULL);
    struct port *a, *b;
    const uint8_t *address;
    uint32_t len;
    uint8_t *memory = port_pool_memory(1, 1 << 20);
    assert_non_null(memory);
    assert_int_equal(port_open(&c, &a, NULL), OK);
    assert_int_equal(port_open(&c, &b, NULL), OK);
    move_next_door(b);
    port_address(b, &address, &len);
    assert_int_equal(port_connect(a, 1, address, len, NULL), OK);
    port_address(a, &address, &len);
    assert_int_equal(port_connect(b, 1, address, len, NULL), OK);
    for (uint64_t step = 0; step < 6; step++) {
        cross(a, b, step, step % 2 ? 1 << 20 : 64, memory);
        cross(b, a, step, step % 2 ? 1 << 20 : 64, memory);
    }
    assert_string_equal(port_transport(a, 1), "ucx tcp");
    assert_string_equal(port_transport(b, 1), "ucx tcp");
    port_close(b);
    port_close(a);
    free(memory);
}

static void test_next_door_without_a_way(void **state)
{
    (void)state;
    const struct port_config c = config("self,posix");
    struct port *a, *b;
    const uint8_t *address;
    uint32_t len;
    struct err_text why = {{0}};
    assert_int_equal(port_open(&c, &a, NULL), OK);
    assert_int_equal(port_open(&c, &b, NULL), OK);
    move_next_door(b);
    port_address(b, &address, &len);
    assert_true(err_is_link(port_connect(a, 1, address, len, &why)));
    port_close(b);
    port_close(a);
}

// -- lies --

static void lies(const char *transports)
{
    struct side s;
    struct err_text why = {{0}};
    open_side(&s, transports, "lie", 0);
    struct frame *f = NULL;
    for (int64_t until = clock_now_us() + 10000000; clock_now_us() < until;) {
        if (port_progress(s.port, &why)) fail_msg("%s", why.s);
        if (!f) f = port_find(s.port, FRAME_ACTIVATIONS, 2);
        if (f && port_stats_get(s.port).dropped >= 18) break;
    }
    assert_non_null(f);
    assert_true(is_filled(f->payload, 64, 2));
    assert_null(port_find(s.port, FRAME_ACTIVATIONS, 1));
    port_give(s.port, f);
    assert_int_equal(port_stats_get(s.port).dropped, 18);
    assert_int_equal(port_stats_get(s.port).frames_in, 1);
    close_side(&s, 0);
}

static void test_lies(void **state)
{
    (void)state;
    lies(BOTH);
    lies(TCP);
}

static void test_configurations(void **state)
{
    (void)state;
    struct port *p;
    struct err_text why;
    struct port_config c = config("no-such-transport");
    assert_int_equal(port_open(&c, &p, &why), ERR_SYSTEM);
    c = config(TCP);
    c.devices = "lo,no-such-device0";
    assert_int_equal(port_open(&c, &p, &why), ERR_CONFIG);
    assert_non_null(strstr(why.s, "no-such-device0"));
    c = config(NULL);
    assert_int_equal(port_open(&c, &p, &why), OK);
    struct frame f = activations(1, 64, NULL);
    assert_int_equal(port_send(p, 1, &f), ERR_NOT_FOUND);
    assert_int_equal(port_connect(p, 1, (const uint8_t *)"short", 5, &why), ERR_LINK_PROTOCOL);
    // Altered, cut short, of another epoch or key: none of these reaches UCX.
    const uint8_t *address;
    uint8_t copy[WIRE_ADDRESS_MAX];
    uint32_t len;
    port_address(p, &address, &len);
    for (uint32_t i = 0; i < len; i++) {
        memcpy(copy, address, len);
        copy[i] ^= 0x10;
        assert_true(err_is_link(port_connect(p, 1, copy, len, &why)));
        assert_true(err_is_link(port_connect(p, 1, address, i, &why)));
    }
    struct port *other;
    c.epoch++;
    assert_int_equal(port_open(&c, &other, &why), OK);
    port_address(other, &address, &len);
    assert_int_equal(port_connect(p, 1, address, len, &why), ERR_LINK_PROTOCOL);
    port_close(other);
    c.key[3] ^= 1;
    assert_int_equal(port_open(&c, &other, &why), OK);
    port_address(other, &address, &len);
    assert_int_equal(port_connect(p, 1, address, len, &why), ERR_LINK_AUTH);
    port_close(other);
    // UCX's handlers for crashes would hide ours and the system's.
    static const int signals[] = {SIGILL, SIGSEGV, SIGBUS, SIGFPE};
    for (int i = 0; i < 4; i++) {
        struct sigaction sa;
        Dl_info who = {0};
        sigaction(signals[i], NULL, &sa);
        if (sa.sa_handler == SIG_DFL) continue;
        dladdr((void *)sa.sa_sigaction, &who);
        assert_true(!who.dli_fname || !strstr(who.dli_fname, "libuc")); // a sanitizer's is fine
    }
    port_close(p);
}

static int n_fds(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void test_no_leaks(void **state)
{
    (void)state;
    struct port_config c = config(NULL);
    struct port *p;
    c.max_bytes = 4096;
    assert_int_equal(port_open(&c, &p, NULL), OK);
    port_close(p);
    int before = n_fds();
    int64_t from = clock_now_us();
    for (int i = 0; i < 5; i++) {
        assert_int_equal(port_open(&c, &p, NULL), OK);
        port_close(p);
    }
    print_message("open and close: %.1f ms\n", (double)(clock_now_us() - from) / 5e3);
    assert_int_equal(n_fds(), before);
}

int main(int argc, char **argv)
{
    if (argc == 6 && strcmp(argv[1], "peer") == 0) return peer_main(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shared_memory),
        cmocka_unit_test(test_tcp),
        cmocka_unit_test(test_slow_receiver),
        cmocka_unit_test(test_flood),
        cmocka_unit_test(test_killed_peer),
        cmocka_unit_test(test_stopped_peer),
        cmocka_unit_test(test_close_under_way),
        cmocka_unit_test(test_next_door),
        cmocka_unit_test(test_next_door_without_a_way),
        cmocka_unit_test(test_lies),
        cmocka_unit_test(test_close_while_receiving),
        cmocka_unit_test(test_configurations),
        cmocka_unit_test(test_no_leaks),
    };
    if (argc == 2) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
