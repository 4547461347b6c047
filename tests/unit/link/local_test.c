// Links and ports inside one process.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/link/link.h"
#include "proto/link/port.h"
#include "proto/link/port_priv.h"
#include "proto/wire/wire.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_readable(int fd, int ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, ms) == 1;
}

static bool link_readable(struct link *l, int ms)
{
    short events;
    int fd = link_poll_fd(l, &events);
    assert_int_equal(events, POLLIN);
    return is_readable(fd, ms);
}

// -- links --

static void test_link_order_and_end(void **state)
{
    (void)state;
    struct link *a, *b;
    struct err_text why;
    const void *data;
    size_t len;
    assert_int_equal(link_local_pair("coordinator", "worker", &a, &b), OK);
    assert_string_equal(a->peer, "worker");
    assert_string_equal(b->peer, "coordinator");
    assert_true(a->is_authenticated && b->is_authenticated);
    assert_int_equal(link_recv(a, &data, &len, &why), ERR_AGAIN);
    assert_false(link_readable(a, 0));
    assert_int_equal(link_send(b, "one", 3), OK);
    assert_int_equal(link_send(b, "", 0), OK);
    assert_int_equal(link_send(b, "three", 5), OK);
    assert_true(link_readable(a, 0));
    assert_int_equal(link_recv(a, &data, &len, &why), OK);
    assert_int_equal(len, 3);
    assert_memory_equal(data, "one", 3);
    assert_int_equal(link_send(b, "4", 1), OK);
    assert_int_equal(link_recv(a, &data, &len, &why), OK);
    assert_int_equal(len, 0);
    assert_int_equal(link_recv(a, &data, &len, &why), OK);
    assert_memory_equal(data, "three", 5);
    assert_int_equal(link_recv(a, &data, &len, &why), OK);
    assert_memory_equal(data, "4", 1);
    assert_int_equal(link_recv(a, &data, &len, &why), ERR_AGAIN);
    assert_false(link_readable(a, 0));
    // What was sent before closing arrives, then the end, again and again.
    assert_int_equal(link_send(b, "last", 4), OK);
    link_close(b);
    assert_true(link_readable(a, 0));
    assert_int_equal(link_recv(a, &data, &len, &why), OK);
    assert_memory_equal(data, "last", 4);
    assert_int_equal(link_recv(a, &data, &len, &why), ERR_END);
    assert_int_equal(link_recv(a, &data, &len, &why), ERR_END);
    assert_true(link_readable(a, 0));
    assert_int_equal(link_send(a, "x", 1), ERR_LINK);
    link_close(a);
    link_close(NULL);
}

static void test_link_limits(void **state)
{
    (void)state;
    struct link *a, *b;
    const void *data;
    size_t len, n = 0;
    assert_int_equal(link_local_pair("a", "b", &a, &b), OK);
    char *big = calloc(1, WIRE_MESSAGE_MAX + 1);
    big[WIRE_MESSAGE_MAX - 1] = 'z';
    assert_int_equal(link_send(a, big, WIRE_MESSAGE_MAX + 1), ERR_TOO_LARGE);
    while (link_send(a, big, WIRE_MESSAGE_MAX) == OK)
        n++;
    assert_int_equal(n, LINK_BACKLOG_MAX / WIRE_MESSAGE_MAX - 1);
    assert_int_equal(link_send(a, big, WIRE_MESSAGE_MAX), ERR_AGAIN);
    assert_int_equal(link_recv(b, &data, &len, NULL), OK);
    assert_int_equal(len, WIRE_MESSAGE_MAX);
    assert_memory_equal(data, big, WIRE_MESSAGE_MAX);
    assert_int_equal(link_send(a, big, 1), OK);
    while (--n)
        assert_int_equal(link_recv(b, &data, &len, NULL), OK);
    assert_int_equal(link_recv(b, &data, &len, NULL), OK);
    assert_int_equal(len, 1);
    free(big);
    link_close(a);
    link_close(b);
}

enum { N_RACE = 20000 };

static void *race_sender(void *arg)
{
    struct link *l = arg;
    for (uint32_t i = 0; i < N_RACE; i++)
        while (link_send(l, &i, sizeof i) == ERR_AGAIN)
            ;
    link_close(l);
    return NULL;
}

static void test_link_threads(void **state)
{
    (void)state;
    struct link *a, *b;
    pthread_t t;
    assert_int_equal(link_local_pair("a", "b", &a, &b), OK);
    assert_int_equal(pthread_create(&t, NULL, race_sender, a), 0);
    uint32_t want = 0, got;
    for (;;) {
        const void *data;
        size_t len;
        err_t e = link_recv(b, &data, &len, NULL);
        if (e == ERR_END) break;
        if (e == ERR_AGAIN) {
            assert_true(link_readable(b, 10000)); // a lost wake-up would end here
            continue;
        }
        assert_int_equal(e, OK);
        memcpy(&got, data, sizeof got);
        assert_int_equal(got, want++);
    }
    assert_int_equal(want, N_RACE);
    pthread_join(t, NULL);
    link_close(b);
}

// -- ports --

static struct port_config config(void)
{
    return (struct port_config){
        .road = ROAD_LOCAL, .epoch = 7, .key = {1}, .n_frame = 4, .max_bytes = 1 << 16};
}

static void connect_to(struct port *p, uint32_t stage, struct port *peer)
{
    const uint8_t *address;
    uint32_t len;
    struct err_text why;
    port_address(peer, &address, &len);
    assert_int_equal(port_connect(p, stage, address, len, &why), OK);
}

static struct frame ids_frame(uint64_t step, void *payload, uint32_t n_row)
{
    return (struct frame){.kind = FRAME_IDS,
                          .dtype = DT_I32,
                          .epoch = 7,
                          .step = step,
                          .stage = 1,
                          .n_row = n_row,
                          .n_col = 2,
                          .bytes = n_row * 8,
                          .payload = payload};
}

static void test_port(void **state)
{
    (void)state;
    struct port_config c = config();
    struct port *a, *b;
    struct err_text why;
    assert_int_equal(port_open(&c, &a, &why), OK);
    assert_int_equal(port_open(&c, &b, &why), OK);
    connect_to(a, 1, b);
    assert_string_equal(port_transport(a, 1), "local");
    int32_t ids[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    struct frame f = ids_frame(10, ids, 4);
    assert_int_equal(port_send(a, 2, &f), ERR_NOT_FOUND);
    assert_int_equal(port_send(a, 64, &f), ERR_INVALID);
    assert_int_equal(port_arm(b), OK);
    assert_false(is_readable(port_fd(b), 0));
    assert_int_equal(port_send(a, 1, &f), OK);
    assert_true(is_readable(port_fd(b), 0));
    f.step = 11;
    assert_int_equal(port_send(a, 1, &f), OK);
    assert_int_equal(port_arm(b), ERR_AGAIN);
    assert_int_equal(port_progress(b, &why), OK);
    assert_null(port_find(b, FRAME_IDS, 12));
    assert_null(port_find(b, FRAME_ACTIVATIONS, 10));
    struct frame *g = port_find(b, FRAME_IDS, 11), *h = port_find(b, FRAME_IDS, 10);
    assert_non_null(g);
    assert_non_null(h);
    assert_true(g->epoch == 7 && g->stage == 1 && g->n_row == 4 && g->bytes == 32);
    assert_memory_equal(g->payload, ids, 32);
    assert_int_equal((uintptr_t)g->payload % 64, 0);
    assert_null(port_find(b, FRAME_IDS, 11)); // given out once
    port_give(b, g);
    port_give(b, h);
    assert_int_equal(port_arm(b), OK);
    // Another epoch, or too large: not for us.
    f.epoch = 6;
    assert_int_equal(port_send(a, 1, &f), OK);
    f.epoch = 7;
    f.bytes = (1 << 16) + 4;
    assert_int_equal(port_send(a, 1, &f), ERR_TOO_LARGE);
    port_progress(b, NULL);
    assert_null(port_find(b, FRAME_IDS, 11));
    assert_int_equal(port_stats_get(b).dropped, 1);
    assert_int_equal(port_stats_get(b).frames_in, 2);
    assert_int_equal(port_stats_get(b).bytes_in, 2 * (64 + 32));
    assert_int_equal(port_stats_get(a).frames_out, 3);
    port_close(b);
    assert_int_equal(port_send(a, 1, &f), ERR_TOO_LARGE);
    f.bytes = 32;
    assert_int_equal(port_send(a, 1, &f), ERR_LINK);
    assert_int_equal(port_progress(a, &why), ERR_LINK);
    assert_non_null(strstr(why.s, "peer 1"));
    port_close(a);
    port_close(NULL);
}

static void test_port_back_pressure(void **state)
{
    (void)state;
    struct port_config c = config();
    struct port *a, *b;
    assert_int_equal(port_open(&c, &a, NULL), OK);
    assert_int_equal(port_open(&c, &b, NULL), OK);
    connect_to(a, 1, b);
    int32_t ids[2] = {0};
    struct frame f = ids_frame(0, ids, 1);
    for (f.step = 0; f.step < 4; f.step++)
        assert_int_equal(port_send(a, 1, &f), OK);
    assert_int_equal(port_send(a, 1, &f), ERR_AGAIN);
    assert_int_equal(port_progress(a, NULL), OK);
    assert_int_equal(port_arm(a), OK);
    assert_false(is_readable(port_fd(a), 0));
    struct frame *g = port_find(b, FRAME_IDS, 2);
    assert_non_null(g);
    assert_false(is_readable(port_fd(a), 0));
    port_give(b, g);
    assert_true(is_readable(port_fd(a), 0)); // there is room again
    assert_int_equal(port_send(a, 1, &f), OK);
    port_close(a);
    port_close(b);
}

static void test_port_addresses(void **state)
{
    (void)state;
    struct port_config c = config();
    struct port *a, *b;
    struct err_text why;
    const uint8_t *address;
    uint32_t len;
    uint8_t copy[64];
    assert_int_equal(port_open(&c, &a, &why), OK);
    assert_int_equal(port_open(&c, &b, &why), OK);
    port_address(b, &address, &len);
    assert_true(len <= sizeof copy);
    memcpy(copy, address, len);
    assert_int_equal(port_connect(a, 64, copy, len, &why), ERR_INVALID);
    assert_int_equal(port_connect(a, 1, copy, len - 1, &why), ERR_LINK_PROTOCOL);
    for (uint32_t i = 0; i < len; i++) {
        copy[i] ^= 1; // other pid, other process, other port
        err_t e = port_connect(a, 1, copy, len, &why);
        assert_true(e == ERR_LINK_PROTOCOL || e == ERR_LINK);
        copy[i] ^= 1;
    }
    port_close(b);
    assert_int_equal(port_connect(a, 1, copy, len, &why), ERR_LINK);
    c.n_frame = 0;
    assert_int_equal(port_open(&c, &b, &why), ERR_INVALID);
    c = config();
    c.road = 77;
    assert_int_equal(port_open(&c, &b, &why), ERR_UNSUPPORTED);
    c = config();
    c.max_bytes = UINT64_MAX - 3;
    assert_int_equal(port_open(&c, &b, &why), ERR_MEMORY);
    port_close(a);
}

struct echo {
    struct port *port;
    bool stop;
};

// A stage that answers frame n with frame n, sleeping in between.
static void *echo_main(void *arg)
{
    struct echo *e = arg;
    for (uint64_t step = 0; !__atomic_load_n(&e->stop, __ATOMIC_ACQUIRE);) {
        port_progress(e->port, NULL);
        struct frame *f = port_find(e->port, FRAME_IDS, step);
        if (f) {
            while (port_send(e->port, 0, f) == ERR_AGAIN)
                port_progress(e->port, NULL);
            port_give(e->port, f);
            step++;
        } else if (port_arm(e->port) == OK) {
            is_readable(port_fd(e->port), 100);
        }
    }
    return NULL;
}

static const struct port_ops *true_ops;

// A road that spoils one byte of what is longer than a small message.
static err_t spoiling_send(struct port *p, uint32_t peer, const struct frame *f, port_fill_fn *fill,
                           void *arg)
{
    uint8_t *bytes = arg;
    const bool spoil = f->kind == FRAME_PING && f->n_row && f->bytes > 777;
    if (spoil) bytes[777] ^= 0x10;
    err_t e = true_ops->send(p, peer, f, fill, arg);
    if (spoil) bytes[777] ^= 0x10;
    return e;
}

static void test_port_wrong_bytes(void **state)
{
    (void)state;
    struct port_config c = config();
    struct port_ops ops;
    struct port *a;
    struct echo e = {0};
    struct err_text why = {{0}};
    pthread_t t;
    c.max_bytes = 5000;
    assert_int_equal(port_open(&c, &a, NULL), OK);
    assert_int_equal(port_open(&c, &e.port, NULL), OK);
    connect_to(a, 1, e.port);
    connect_to(e.port, 0, a);
    assert_int_equal(pthread_create(&t, NULL, echo_main, &e), 0);
    double latency_us = -1, bytes_per_s = -1;
    true_ops = a->ops;
    ops = *a->ops;
    ops.send = spoiling_send;
    a->ops = &ops;
    assert_int_equal(port_measure(a, 1, 5000, &latency_us, &bytes_per_s, &why), ERR_LINK_PROTOCOL);
    if (!strstr(why.s, "byte 777 of 5000 came back as 0x")) fail_msg("%s", why.s);
    assert_true(latency_us == -1 && bytes_per_s == -1);
    a->ops = true_ops;
    if (port_measure(a, 1, 5000, &latency_us, &bytes_per_s, &why)) fail_msg("%s", why.s);
    assert_true(latency_us >= 0 && bytes_per_s > 0);
    __atomic_store_n(&e.stop, true, __ATOMIC_RELEASE);
    pthread_join(t, NULL);
    port_close(a);
    port_close(e.port);
}

static void test_port_threads(void **state)
{
    (void)state;
    struct port_config c = config();
    struct port *a;
    struct echo e = {0};
    pthread_t t;
    assert_int_equal(port_open(&c, &a, NULL), OK);
    assert_int_equal(port_open(&c, &e.port, NULL), OK);
    connect_to(a, 1, e.port);
    connect_to(e.port, 0, a);
    assert_int_equal(pthread_create(&t, NULL, echo_main, &e), 0);
    uint64_t sent = 0, back = 0;
    while (back < 5000) {
        int32_t ids[64];
        for (int i = 0; i < 64; i++)
            ids[i] = (int32_t)(sent * 64) + i;
        struct frame f = ids_frame(sent, ids, 32);
        if (sent < 5000 && sent - back < 6 && port_send(a, 1, &f) == OK) sent++;
        assert_int_equal(port_progress(a, NULL), OK);
        struct frame *g = port_find(a, FRAME_IDS, back);
        if (g) {
            for (int i = 0; i < 64; i++)
                assert_int_equal(((int32_t *)g->payload)[i], (int32_t)(back * 64) + i);
            port_give(a, g);
            back++;
        } else if (port_arm(a) == OK) {
            assert_true(is_readable(port_fd(a), 10000));
        }
    }
    double latency_us, bytes_per_s;
    assert_int_equal(port_measure(a, 1, 100, &latency_us, &bytes_per_s, NULL), OK);
    print_message("local: %.1f us one way, %.2f GB/s\n", latency_us, bytes_per_s / 1e9);
    assert_true(latency_us >= 0 && bytes_per_s > 1e6);
    __atomic_store_n(&e.stop, true, __ATOMIC_RELEASE);
    pthread_join(t, NULL);
    // Nobody answers now.
    assert_int_equal(port_measure(a, 1, 20, &latency_us, &bytes_per_s, NULL), ERR_TIMEOUT);
    assert_int_equal(port_measure(a, 5, 20, &latency_us, &bytes_per_s, NULL), ERR_NOT_FOUND);
    port_progress(e.port, NULL); // late answers find nobody waiting
    port_progress(a, NULL);
    struct frame f = ids_frame(6000, NULL, 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(port_send(e.port, 0, &f), OK);
    port_close(a);
    port_close(e.port);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_link_order_and_end), cmocka_unit_test(test_link_limits),
        cmocka_unit_test(test_link_threads),       cmocka_unit_test(test_port),
        cmocka_unit_test(test_port_back_pressure), cmocka_unit_test(test_port_addresses),
        cmocka_unit_test(test_port_threads),       cmocka_unit_test(test_port_wrong_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
