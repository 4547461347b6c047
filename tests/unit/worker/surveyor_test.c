// Surveyors measure each other over real ports, in this process and over UCX, and answer every
// question: also those that cannot be answered well.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "worker/surveyor.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

enum { PATIENCE_MS = 60000 };

struct crew {
    struct surveyor *at[3];
    struct arena arena; // of the last answer
    struct msg said;
};

static void begin(struct crew *c, int n)
{
    const struct surveyor_config config = {.transports = "self,posix,tcp", .devices = "lo"};
    struct err_text why = {{0}};
    *c = (struct crew){0};
    arena_init(&c->arena, WIRE_ARENA_MAX);
    for (int i = 0; i < n; i++)
        if (surveyor_open(&config, &c->at[i], &why)) fail_msg("%s", why.s);
}

static void end(struct crew *c)
{
    for (int i = 0; i < 3; i++)
        surveyor_close(c->at[i]);
    arena_fini(&c->arena);
}

static void ask(struct crew *c, int i, const struct msg_survey *m)
{
    // As over a link: packed and unpacked.
    struct compute_parcel *p = compute_parcel_new();
    const struct msg in = {.kind = MSG_SURVEY, .survey = *m};
    struct buf b = {0};
    struct err_text why = {{0}};
    assert_non_null(p);
    assert_int_equal(wire_pack(&in, &b), OK);
    if (wire_unpack(b.data, b.len, &p->arena, &p->msg, &why)) fail_msg("%s", why.s);
    buf_fini(&b);
    surveyor_hand(c->at[i], p);
}

static const struct msg_surveyed *hear(struct crew *c, int i)
{
    const int64_t until = clock_now_us() + PATIENCE_MS * 1000LL;
    struct compute_letter *l;
    struct err_text why = {{0}};
    while (!(l = surveyor_letter(c->at[i]))) {
        struct pollfd fd = {.fd = surveyor_fd(c->at[i]), .events = POLLIN};
        poll(&fd, 1, 100);
        assert_true(clock_now_us() < until);
    }
    arena_reset(&c->arena);
    if (wire_unpack(l->bytes.data, l->bytes.len, &c->arena, &c->said, &why)) fail_msg("%s", why.s);
    compute_letter_free(l);
    assert_int_equal(c->said.kind, MSG_SURVEYED);
    return &c->said.surveyed;
}

struct address {
    uint8_t data[WIRE_ADDRESS_MAX];
    uint32_t n;
};

static void open_port(struct crew *c, int i, uint64_t round, uint32_t road, struct address *out)
{
    const struct msg_survey open = {.round = round, .road = road, .key = "0123456789abcde"};
    ask(c, i, &open);
    const struct msg_surveyed *m = hear(c, i);
    assert_int_equal(m->round, round);
    assert_int_equal(m->n_path, 0);
    assert_true(m->n_address > 0);
    memcpy(out->data, m->address, m->n_address);
    out->n = m->n_address;
}

static void measure(struct crew *c, int i, uint64_t round, uint32_t road, const struct address *a,
                    uint32_t n)
{
    struct msg_target targets[3];
    for (uint32_t k = 0; k < n; k++)
        targets[k] = (struct msg_target){.worker = k, .address = a[k].data, .n_address = a[k].n};
    const struct msg_survey m = {
        .round = round, .road = road, .key = "0123456789abcde", .targets = targets, .n_target = n};
    ask(c, i, &m);
}

static void measured(const struct msg_path *p, uint32_t worker, const char *transport)
{
    if (p->code) fail_msg("%s", p->why);
    assert_int_equal(p->worker, worker);
    assert_string_equal(p->transport, transport);
    assert_true(p->latency_us >= 0 && p->latency_us < 1e6);
    assert_true(p->bytes_per_s > 1e6 && p->bytes_per_s < 1e13);
    print_message("%s: %.1f us, %.2f GB/s\n", p->transport, p->latency_us, p->bytes_per_s * 1e-9);
}

static void over_road(uint32_t road, const char *transport)
{
    struct crew c;
    struct address a[3];
    begin(&c, 3);
    for (int i = 0; i < 3; i++)
        open_port(&c, i, 5, road, &a[i]);
    // The third measures both others, twice: it is connected by then.
    for (int turn = 0; turn < 2; turn++) {
        measure(&c, 2, 5, road, a, 2);
        const struct msg_surveyed *m = hear(&c, 2);
        assert_int_equal(m->n_path, 2);
        measured(&m->paths[0], 0, transport);
        measured(&m->paths[1], 1, transport);
    }
    // And is measured by one that it measures at the same time.
    measure(&c, 0, 5, road, a, 3);
    measure(&c, 2, 5, road, a, 1);
    measured(&hear(&c, 2)->paths[0], 0, transport);
    const struct msg_surveyed *m = hear(&c, 0);
    assert_int_equal(m->n_path, 3);
    measured(&m->paths[2], 2, transport);
    end(&c);
}

static void over_queues(void **state)
{
    (void)state;
    over_road(ROAD_LOCAL, "local");
}

static void over_ucx(void **state)
{
    (void)state;
    over_road(ROAD_UCX, "ucx shm");
}

static void rounds_are_apart(void **state)
{
    (void)state;
    struct crew c;
    struct address a[2], fresh;
    begin(&c, 2);
    open_port(&c, 0, 5, ROAD_LOCAL, &a[0]);
    open_port(&c, 1, 5, ROAD_LOCAL, &a[1]);
    // A port that is gone, and one of another round.
    measure(&c, 0, 6, ROAD_LOCAL, a, 2);
    const struct msg_surveyed *m = hear(&c, 0);
    assert_int_equal(m->round, 6);
    assert_int_equal(m->paths[1].code, ERR_LINK);
    assert_string_equal(m->paths[1].why, "its port of this round is closed");
    open_port(&c, 1, 6, ROAD_LOCAL, &fresh);
    measure(&c, 0, 5, ROAD_LOCAL, a, 2);
    m = hear(&c, 0);
    assert_int_equal(m->n_path, 2);
    assert_true(m->paths[1].code != OK && m->paths[1].why[0]);
    assert_true(m->paths[1].bytes_per_s == 0);
    // Asked twice, a port says the same address; after the end of the round there is none.
    struct address again;
    open_port(&c, 1, 6, ROAD_LOCAL, &again);
    assert_int_equal(again.n, fresh.n);
    assert_memory_equal(again.data, fresh.data, fresh.n);
    const struct msg_survey over = {.round = 6};
    ask(&c, 1, &over);
    measure(&c, 1, 6, ROAD_LOCAL, a, 1);
    assert_int_equal(hear(&c, 1)->paths[0].code, ERR_LINK);
    open_port(&c, 1, 7, ROAD_LOCAL, &again);
    surveyor_shut(c.at[1]);
    measure(&c, 1, 7, ROAD_LOCAL, a, 1);
    assert_int_equal(hear(&c, 1)->paths[0].code, ERR_LINK);
    end(&c);
}

static void nonsense_is_answered(void **state)
{
    (void)state;
    struct crew c;
    struct address a[2];
    begin(&c, 1);
    open_port(&c, 0, 5, ROAD_UCX, &a[0]);
    memset(a[1].data, 'x', 100);
    a[1].n = 100;
    struct msg_target targets[2] = {{.worker = 1, .address = a[1].data, .n_address = a[1].n},
                                    {.worker = 4000, .address = a[1].data, .n_address = a[1].n}};
    const struct msg_survey m = {.round = 5, .road = ROAD_UCX, .targets = targets, .n_target = 2};
    ask(&c, 0, &m);
    const struct msg_surveyed *said = hear(&c, 0);
    assert_int_equal(said->n_path, 2);
    assert_true(said->paths[0].code != OK && said->paths[0].why[0]);
    assert_int_equal(said->paths[1].code, ERR_INVALID);
    assert_string_equal(said->paths[1].why, "worker 4000, limit 64");
    end(&c);
    // Closed with questions that nobody answered, and answers that nobody took.
    begin(&c, 2);
    for (int i = 0; i < 5; i++) {
        const struct msg_survey open = {.round = 1 + (uint64_t)i, .road = ROAD_LOCAL};
        ask(&c, i % 2, &open);
    }
    end(&c);
    // A port that cannot be opened.
    const struct surveyor_config bad = {.devices = "no-such-device"};
    c = (struct crew){0};
    arena_init(&c.arena, WIRE_ARENA_MAX);
    assert_int_equal(surveyor_open(&bad, &c.at[0], NULL), OK);
    const struct msg_survey open = {.round = 1, .road = ROAD_UCX};
    ask(&c, 0, &open);
    said = hear(&c, 0);
    assert_int_equal(said->n_address, 0);
    assert_int_equal(said->n_path, 0);
    end(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(over_queues),
        cmocka_unit_test(over_ucx),
        cmocka_unit_test(rounds_are_apart),
        cmocka_unit_test(nonsense_is_answered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
