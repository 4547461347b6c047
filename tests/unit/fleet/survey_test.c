// The survey's state machine against made-up workers with a made-up clock: everything is measured
// once, disjoint pairs at once, nobody waits for the mute, wrong bytes are known by their links;
// and what may join at all.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "coordinator/fleet/muster.h"
#include "coordinator/fleet/survey.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MS = 1000, LINK_MS = 100, PORT_MS = 30 };

// What the made-up workers are asked and answer when their time has come.
struct answer {
    bool is_due;
    struct survey_action action;
    int64_t at_us;
};

struct world {
    struct survey s;
    int64_t now_us;
    struct answer answers[SURVEY_WORKERS_MAX];
    bool is_mute[SURVEY_WORKERS_MAX];
    err_t code[SURVEY_WORKERS_MAX][SURVEY_WORKERS_MAX];
    uint32_t n_port, n_link, n_end, n_tell, n_at_once, most_at_once;
    struct survey_action told;
};

static struct world *world_new(void)
{
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->now_us = 1000000;
    survey_init(&w->s, 77);
    return w;
}

static void join(struct world *w, uint32_t worker, const char *host, uint32_t n_core)
{
    const struct survey_facts f = {
        .instance = 100 + worker, .process = 200 + worker, .host = host, .n_core = n_core};
    survey_join(&w->s, worker, &f, w->now_us);
}

static void take_actions(struct world *w)
{
    struct survey_action a;
    while (survey_next(&w->s, w->now_us, &a)) {
        int64_t ms = a.kind == SURVEY_ASK_LINK ? LINK_MS : PORT_MS;
        if (a.kind == SURVEY_TELL) {
            w->told = a;
            w->n_tell++;
            continue;
        }
        assert_int_equal(a.round, w->s.round);
        if (a.kind == SURVEY_END) {
            w->n_end++;
            continue;
        }
        // One question at a time; what an ended round asked is not waited for.
        assert_true(!w->answers[a.worker].is_due || w->answers[a.worker].action.round != a.round);
        w->n_port += a.kind == SURVEY_ASK_PORT;
        w->n_link += a.kind == SURVEY_ASK_LINK;
        if (a.kind == SURVEY_ASK_LINK && ++w->n_at_once > w->most_at_once)
            w->most_at_once = w->n_at_once;
        w->answers[a.worker] = (struct answer){!w->is_mute[a.worker], a, w->now_us + ms * MS};
    }
}

// Between workers i and k: 10 + i us and (1 + k) * 1e9 bytes/s.
static void answer(struct world *w, const struct survey_action *a)
{
    struct err_text why = {{0}};
    const uint8_t address[3] = {1, 2, (uint8_t)a->worker};
    const err_t code = w->code[a->worker][a->to];
    const struct msg_path path = {.worker = a->to,
                                  .latency_us = code ? 0 : 10.0 + a->worker,
                                  .bytes_per_s = code ? 0 : (1.0 + a->to) * 1e9,
                                  .transport = "ucx tcp",
                                  .code = code,
                                  .why = code ? "byte 7 came back as 0x01" : NULL};
    struct msg_surveyed m = {.round = a->round};
    if (a->kind == SURVEY_ASK_PORT) {
        m.address = address;
        m.n_address = sizeof address;
    } else {
        m.paths = &path;
        m.n_path = 1;
        w->n_at_once--;
    }
    if (survey_heard(&w->s, a->worker, &m, w->now_us, &why)) fail_msg("%s", why.s);
}

static void run(struct world *w, int64_t ms, bool may_run)
{
    const int64_t until = w->now_us + ms * MS;
    while (w->now_us < until) {
        w->now_us += 10 * MS;
        survey_tick(&w->s, may_run, w->now_us);
        take_actions(w);
        for (uint32_t i = 0; i < SURVEY_WORKERS_MAX; i++) {
            struct answer *at = &w->answers[i];
            if (!at->is_due || w->now_us < at->at_us) continue;
            at->is_due = false;
            answer(w, &at->action);
        }
        take_actions(w);
    }
}

static void measures_every_pair_once(void **state)
{
    (void)state;
    struct world *w = world_new();
    char host[8];
    for (uint32_t i = 0; i < 8; i++) {
        snprintf(host, sizeof host, "h%u", i);
        join(w, i, host, 4);
    }
    assert_true(survey_holds(&w->s, w->now_us));
    run(w, 4000, true);
    assert_false(survey_holds(&w->s, w->now_us)); // 8 hosts in less than 4 s
    assert_int_equal(w->n_port, 8);
    assert_int_equal(w->n_link, 8 * 7);
    assert_int_equal(w->n_end, 8);
    assert_int_equal(w->most_at_once, 4); // disjoint pairs
    for (uint32_t i = 0; i < 8; i++)
        for (uint32_t k = 0; k < 8; k++) {
            struct cluster_link l;
            if (i == k) continue;
            assert_true(survey_link(&w->s, i, k, &l));
            assert_true(l.latency_us > (10 + i) * 0.9 && l.latency_us < (10 + i) * 1.1);
            assert_true(l.bytes_per_s > (1 + k) * 0.9e9 && l.bytes_per_s < (1 + k) * 1.1e9);
            assert_float_equal(w->s.links[i][k].latency_us, 10 + i, 0); // shown as it is
        }
    // Nothing more to do, and a newcomer is measured with all, in a round of its own.
    const uint64_t round = w->s.round;
    join(w, 8, "h8", 4);
    run(w, 3000, true);
    assert_true(w->s.round > round); // its ports are not those of before
    assert_int_equal(w->n_link, 9 * 8);
    assert_int_equal(w->n_tell, 0);
    free(w);
}

static void one_host_is_measured_once(void **state)
{
    (void)state;
    struct world *w = world_new();
    struct cluster_link there, back;
    for (uint32_t i = 0; i < 4; i++)
        join(w, i, "box", 2);
    run(w, 4000, true);
    assert_int_equal(w->n_link, 6);
    assert_int_equal(w->most_at_once, 1); // two ends of a pair need two cores
    assert_true(survey_link(&w->s, 1, 3, &there) && survey_link(&w->s, 3, 1, &back));
    assert_memory_equal(&there, &back, sizeof there);
    free(w);
}

static void one_process_needs_no_measuring(void **state)
{
    (void)state;
    struct world *w = world_new();
    struct survey_facts f = {.instance = 1, .process = 9, .host = "box", .n_core = 2};
    struct cluster_link l;
    survey_join(&w->s, 0, &f, w->now_us);
    f.instance = 2;
    survey_join(&w->s, 1, &f, w->now_us);
    assert_false(survey_holds(&w->s, w->now_us));
    run(w, 200, true);
    assert_int_equal(w->n_port, 0);
    assert_true(survey_link(&w->s, 0, 1, &l));
    assert_float_equal(l.bytes_per_s, cluster_same_host.bytes_per_s, 0);
    assert_int_equal(w->s.links[1][0].state, SURVEY_SHARED);
    free(w);
}

static void waits_for_quiet(void **state)
{
    (void)state;
    struct world *w = world_new();
    struct cluster_link l;
    join(w, 0, "a", 2);
    join(w, 1, "b", 2);
    run(w, SURVEY_HOLD_US / MS + 100, false);
    assert_int_equal(w->n_port, 0);
    assert_false(survey_holds(&w->s, w->now_us)); // plans do not wait for ever
    assert_false(survey_link(&w->s, 0, 1, &l));
    run(w, 1000, true);
    assert_true(survey_link(&w->s, 0, 1, &l));
    free(w);
}

static void the_mute_are_left_out(void **state)
{
    (void)state;
    struct world *w = world_new();
    struct cluster_link l;
    join(w, 0, "a", 2);
    join(w, 1, "b", 2);
    join(w, 2, "c", 2);
    w->is_mute[1] = true;
    run(w, SURVEY_PORT_US / MS + 500, true);
    assert_true(survey_link(&w->s, 0, 2, &l) && survey_link(&w->s, 2, 0, &l));
    assert_false(survey_link(&w->s, 0, 1, &l));
    assert_int_equal(w->s.links[0][1].state, SURVEY_FAILED);
    assert_string_equal(w->s.links[0][1].why, "it did not answer");
    assert_int_equal(w->n_tell, 1); // one line for all its links
    assert_false(survey_holds(&w->s, w->now_us));
    // Newcomers do not ask it either; when it joins again it is asked again.
    join(w, 3, "d", 2);
    run(w, 1000, true);
    assert_false(survey_holds(&w->s, w->now_us));
    assert_int_equal(w->s.links[3][1].state, SURVEY_FAILED);
    survey_leave(&w->s, 1);
    w->is_mute[1] = false;
    join(w, 1, "b", 2);
    run(w, 2000, true);
    assert_true(survey_link(&w->s, 0, 1, &l) && survey_link(&w->s, 1, 3, &l));
    free(w);
}

// A worker that takes its question and then falls silent, or goes.
static void silence_and_loss_while_measuring(void **state)
{
    (void)state;
    struct world *w = world_new();
    struct cluster_link l;
    join(w, 0, "a", 2);
    join(w, 1, "b", 2);
    join(w, 2, "c", 2);
    run(w, PORT_MS + 20, true); // ports are open, the first pair measures
    assert_true(w->n_link >= 1);
    const uint32_t busy = w->s.workers[0].is_measuring ? 0 : 1;
    w->answers[busy].is_due = false;
    w->n_at_once--;
    run(w, SURVEY_LINK_US / MS + 1500, true);
    assert_int_equal(w->s.workers[busy].port, SURVEY_MUTE);
    assert_true(survey_link(&w->s, 1 - busy, 2, &l));
    // Another one leaves in the middle: what it was asked is forgotten, the rest goes on afresh.
    survey_leave(&w->s, busy);
    join(w, busy, "a", 2);
    join(w, 3, "d", 2);
    run(w, PORT_MS + 20, true);
    const uint64_t round = w->s.round;
    survey_leave(&w->s, 2);
    w->answers[2].is_due = false;
    run(w, 5000, true);
    assert_true(w->s.round > round);
    assert_true(survey_link(&w->s, 0, 3, &l) && survey_link(&w->s, 3, 1, &l));
    assert_true(survey_link(&w->s, 0, 1, &l));
    assert_false(survey_link(&w->s, 0, 2, &l));
    assert_false(survey_holds(&w->s, w->now_us));
    free(w);
}

static void failures_and_wrong_bytes(void **state)
{
    (void)state;
    struct world *w = world_new();
    struct cluster_link l;
    join(w, 0, "a", 2);
    join(w, 1, "b", 2);
    join(w, 2, "c", 2);
    w->code[0][1] = ERR_TIMEOUT;
    w->code[2][0] = ERR_LINK_PROTOCOL;
    run(w, 6000, true);
    assert_int_equal(w->s.links[0][1].state, SURVEY_FAILED);
    assert_int_equal(w->s.links[0][1].n_try, SURVEY_TRIES);
    assert_false(survey_link(&w->s, 0, 1, &l)); // guessed
    assert_true(survey_link(&w->s, 1, 0, &l));
    assert_int_equal(w->s.links[2][0].state, SURVEY_BROKEN);
    assert_int_equal(w->s.links[2][0].n_try, 1);
    assert_true(survey_link(&w->s, 2, 0, &l));
    assert_float_equal(l.bytes_per_s, 0, 0); // no plan may use it
    assert_string_equal(w->s.links[2][0].why, "byte 7 came back as 0x01");
    assert_int_equal(w->n_tell, 2);
    assert_false(survey_holds(&w->s, w->now_us));
    free(w);
}

static void what_comes_back_is_known(void **state)
{
    (void)state;
    struct world *w = world_new();
    struct cluster_link l;
    join(w, 0, "a", 2);
    join(w, 1, "b", 2);
    run(w, 1000, true);
    assert_int_equal(w->n_link, 2);
    survey_leave(&w->s, 1);
    assert_false(survey_link(&w->s, 0, 1, &l));
    join(w, 1, "b", 2); // the same process over a new connection
    assert_true(survey_link(&w->s, 0, 1, &l));
    assert_false(survey_holds(&w->s, w->now_us));
    run(w, 1000, true);
    assert_int_equal(w->n_link, 2);
    // Another process under the same number is another worker.
    survey_leave(&w->s, 1);
    const struct survey_facts other = {.instance = 9, .process = 9, .host = "b", .n_core = 2};
    survey_join(&w->s, 1, &other, w->now_us);
    assert_false(survey_link(&w->s, 0, 1, &l));
    run(w, 1000, true);
    assert_int_equal(w->n_link, 4);
    free(w);
}

static void answers_that_nobody_asked_for(void **state)
{
    (void)state;
    struct world *w = world_new();
    struct err_text why;
    const uint8_t address[2] = {1, 2};
    const struct msg_path path = {.worker = 1, .latency_us = 1, .bytes_per_s = 1e9};
    struct msg_surveyed port = {.round = 77, .address = address, .n_address = 2};
    struct msg_surveyed link = {.round = 77, .paths = &path, .n_path = 1};
    join(w, 0, "a", 2);
    join(w, 1, "b", 2);
    assert_int_equal(survey_heard(&w->s, 0, &port, w->now_us, &why), ERR_LINK_PROTOCOL);
    assert_int_equal(survey_heard(&w->s, 0, &link, w->now_us, &why), ERR_LINK_PROTOCOL);
    port.round = link.round = 76; // another round's, perhaps another coordinator's
    assert_int_equal(survey_heard(&w->s, 0, &port, w->now_us, &why), OK);
    assert_int_equal(survey_heard(&w->s, 0, &link, w->now_us, &why), OK);
    assert_int_equal(w->s.workers[0].port, SURVEY_CLOSED);
    assert_int_equal(w->s.links[0][1].state, SURVEY_DUE);
    free(w);
}

// Workers come and go as they like, some mute, some with failing links: the machine never holds for
// more than its time, and comes to rest when they do.
static void comes_to_rest(void **state)
{
    (void)state;
    uint32_t random = 12345;
    for (int round = 0; round < 12; round++) {
        struct world *w = world_new();
        for (int step = 0; step < 60; step++) {
            random = random * 1664525 + 1013904223;
            const uint32_t i = random >> 24 & 7, what = random >> 16 & 7;
            char host[8];
            snprintf(host, sizeof host, "h%u", i / 3);
            if (w->s.workers[i].is_here && what < 3) {
                survey_leave(&w->s, i);
                if (w->answers[i].is_due && w->answers[i].action.kind == SURVEY_ASK_LINK)
                    w->n_at_once--;
                w->answers[i].is_due = false;
            } else if (!w->s.workers[i].is_here) {
                w->is_mute[i] = what == 5;
                w->code[i][(i + 1) & 7] = what == 6 ? ERR_TIMEOUT : what == 7 ? ERR_LINK : OK;
                join(w, i, host, 1 + (random >> 8 & 3));
            }
            run(w, random >> 20 & 255, (random >> 12 & 7) != 0);
        }
        run(w, 20000, true);
        for (uint32_t i = 0; i < SURVEY_WORKERS_MAX; i++) {
            assert_int_equal(w->s.workers[i].with, -1);
            assert_true(w->s.workers[i].port == SURVEY_CLOSED ||
                        w->s.workers[i].port == SURVEY_MUTE);
            for (uint32_t k = 0; k < SURVEY_WORKERS_MAX; k++)
                if (i != k && w->s.workers[i].is_here && w->s.workers[k].is_here)
                    assert_true(w->s.links[i][k].state > SURVEY_DUE);
        }
        assert_false(survey_holds(&w->s, w->now_us));
        free(w);
    }
}

// ---- who may join

static struct msg_device good_device(void)
{
    return (struct msg_device){.name = "a CPU",
                               .kind = "cpu",
                               .isa = "cpu avx2",
                               .threads = 4,
                               .mem_bytes = 16ull << 30,
                               .mem_free_bytes = 8ull << 30,
                               .read_bytes_per_s = 2e10,
                               .int8_ops_per_s = 1e11,
                               .f32_flops_per_s = 5e10};
}

static void refused(const struct msg_hello *h, err_t code, const char *says)
{
    struct err_text why = {{0}};
    assert_int_equal(muster_check("rower", h, &why), code);
    if (!strstr(why.s, says)) fail_msg("\"%s\" instead of \"%s\"", why.s, says);
}

static void impossible_workers_are_refused(void **state)
{
    (void)state;
    struct err_text why = {{0}};
    struct msg_device d[2] = {good_device(), good_device()};
    struct msg_hello h = {.version = WIRE_VERSION,
                          .build = TRIREME_VERSION,
                          .name = "rower",
                          .host = "there",
                          .devices = d,
                          .n_device = 1};
    if (muster_check("rower", &h, &why)) fail_msg("%s", why.s);
    d[0].read_bytes_per_s = d[0].int8_ops_per_s = d[0].f32_flops_per_s = 0; // not measured
    d[0].threads = 0;
    if (muster_check("rower", &h, &why)) fail_msg("%s", why.s);
    d[0] = good_device();
    d[0].mem_free_bytes = 32ull << 30;
    refused(&h, ERR_CONFIG, "claims 34359738368 bytes of free memory and has 17179869184 in all");
    d[0] = good_device();
    d[0].mem_bytes = d[0].mem_free_bytes = 1ull << 60;
    refused(&h, ERR_CONFIG, "mem_bytes is 1.15292");
    d[0] = good_device();
    d[0].read_bytes_per_s = 1e30;
    refused(&h, ERR_CONFIG, "read_bytes_per_s is 1e+30");
    d[0] = good_device();
    d[0].threads = 1000000;
    refused(&h, ERR_CONFIG, "threads is 1000000");
    d[0] = good_device();
    d[0].kind = "abacus";
    refused(&h, ERR_CONFIG, "of kind abacus");
    d[0] = good_device();
    h.n_device = 2;
    refused(&h, ERR_CONFIG, "its devices 0 and 1 are both called a CPU");
    h.n_device = 0;
    refused(&h, ERR_LINK_PROTOCOL, "no device");
    h.n_device = 1;
    h.build = "0.0.7";
    refused(&h, ERR_LINK_VERSION, "it runs trireme 0.0.7 and we run " TRIREME_VERSION);
    h.build = TRIREME_VERSION;
    h.version = 1;
    refused(&h, ERR_LINK_VERSION, "protocol 1");
    h.version = WIRE_VERSION;
    h.name = "other";
    refused(&h, ERR_LINK_AUTH, "it calls itself other");
}

static void other_models_are_no_use(void **state)
{
    (void)state;
    struct err_text why = {{0}};
    struct model *model = calloc(1, sizeof *model);
    assert_non_null(model);
    memset(model->hash, 0xab, sizeof model->hash);
    struct msg_model has[2] = {{.name = "llama"}, {.name = "qwen"}};
    memset(has[0].hash, 0x12, sizeof has[0].hash);
    struct msg_hello h = {.models = has, .n_model = 2};
    assert_int_equal(muster_check_model(&h, model, true, &why), ERR_MODEL);
    assert_string_equal(why.s, "this model's hash is abababababab, of its 2 models llama has "
                               "121212121212, and it has no room for a copy");
    h.n_model = 0;
    assert_int_equal(muster_check_model(&h, model, true, &why), ERR_MODEL);
    h.store_bytes = 1 << 30;
    assert_int_equal(muster_check_model(&h, model, true, &why), OK);
    assert_int_equal(muster_check_model(&h, model, false, &why), ERR_MODEL);
    h.n_model = 2;
    memset(has[1].hash, 0xab, sizeof has[1].hash);
    assert_int_equal(muster_check_model(&h, model, false, &why), OK);
    free(model);
}

static void two_of_one_name(void **state)
{
    (void)state;
    struct err_text why = {{0}};
    struct fleet_worker owner = {.tether = (struct tether *)&owner,
                                 .hello = {.name = "rower", .instance = 1, .pid = 42, .host = "a"},
                                 .beat_us = 10000000};
    struct msg_hello h = {.name = "rower", .instance = 2, .pid = 43, .host = "b"};
    assert_int_equal(muster_check_name(&owner, &h, 10100000, &why), ERR_BUSY);
    if (!strstr(why.s, "pid 42 on a, heard 100 ms ago")) fail_msg("%s", why.s);
    // One that fell silent is taken for dead, one that comes back is itself, and a free number has
    // no owner.
    assert_int_equal(muster_check_name(&owner, &h, 10000001 + MUSTER_ALIVE_US, &why), OK);
    h.instance = 1;
    assert_int_equal(muster_check_name(&owner, &h, 10100000, &why), OK);
    h.instance = 2;
    owner.tether = NULL;
    assert_int_equal(muster_check_name(&owner, &h, 10100000, &why), OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(measures_every_pair_once),
        cmocka_unit_test(one_host_is_measured_once),
        cmocka_unit_test(one_process_needs_no_measuring),
        cmocka_unit_test(waits_for_quiet),
        cmocka_unit_test(the_mute_are_left_out),
        cmocka_unit_test(silence_and_loss_while_measuring),
        cmocka_unit_test(failures_and_wrong_bytes),
        cmocka_unit_test(what_comes_back_is_known),
        cmocka_unit_test(answers_that_nobody_asked_for),
        cmocka_unit_test(comes_to_rest),
        cmocka_unit_test(impossible_workers_are_refused),
        cmocka_unit_test(other_models_are_no_use),
        cmocka_unit_test(two_of_one_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
