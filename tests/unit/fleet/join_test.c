// Workers from outside: enrolment with a token, joining with the certificate, and what strangers
// may not do. Real sockets on the loopback.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <ftw.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "coordinator/fleet/fleet.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/link/identity.h"

enum { LAYERS = 2, STRANGERS = 24 };

static struct model_weight weights[LAYERS] = {{.part = 0, .bytes = 1000},
                                              {.part = 1, .bytes = 1000}};
static struct model model = {.path = "none",
                             .hash = {9},
                             .shape = {.arch = "llama",
                                       .name = "pretended",
                                       .n_layer = LAYERS,
                                       .dim = 64,
                                       .ffn_dim = 128,
                                       .n_vocab = 320,
                                       .ctx_train = 512,
                                       .n_head = 4,
                                       .n_head_kv = 4,
                                       .head_dim = 16},
                             .weights = weights,
                             .n_weight = LAYERS};

struct scene {
    uv_loop_t loop;
    uv_timer_t timer;
    struct fleet *fleet;
    char dir[64], server[96], worker[96], address[64];
    struct buf packed;
    struct arena arena;
};

static void on_serve(void *arg, uint32_t lane, const struct place *p, uint64_t epoch)
{
    (void)arg, (void)lane, (void)p, (void)epoch;
}
static void on_lane(void *arg, uint32_t lane)
{
    (void)arg, (void)lane;
}
static err_t on_result(void *arg, uint32_t lane, const struct step_result *r, struct err_text *why)
{
    (void)arg, (void)lane, (void)r, (void)why;
    return OK;
}
static void on_give_up(void *arg, uint32_t lane, const char *sentence)
{
    (void)arg, (void)lane, (void)sentence;
}
static bool is_busy(void *arg, uint32_t lane)
{
    (void)arg, (void)lane;
    return false;
}
static void on_timer(uv_timer_t *t)
{
    (void)t; // only keeps the loop turning
}

static void scene_open(struct scene *s)
{
    memset(s, 0, sizeof *s);
    strcpy(s->dir, "/tmp/trireme-join-XXXXXX");
    assert_non_null(mkdtemp(s->dir));
    snprintf(s->server, sizeof s->server, "%s/server", s->dir);
    snprintf(s->worker, sizeof s->worker, "%s/worker", s->dir);
    arena_init(&s->arena, WIRE_ARENA_MAX);
    uv_loop_init(&s->loop);
    uv_timer_init(&s->loop, &s->timer);
    uv_timer_start(&s->timer, on_timer, 2, 2);
    struct fleet_config c = {.loop = &s->loop,
                             .cluster = "test",
                             .state_dir = s->server,
                             .join_listen = "127.0.0.1:0",
                             .want = {.model = &model,
                                      .n_stage = 1,
                                      .ctx = 64,
                                      .n_slot = 4,
                                      .max_tok = 64,
                                      .kv_tokens = 64,
                                      .kv_dtype = DT_F16},
                             .n_lane = 1,
                             .n_expect = 1,
                             .listener = {.arg = s,
                                          .on_serve = on_serve,
                                          .on_suspend = on_lane,
                                          .on_close = on_lane,
                                          .on_result = on_result,
                                          .on_give_up = on_give_up,
                                          .is_busy = is_busy}};
    struct err_text why;
    if (fleet_open(&c, &s->fleet, &why) != OK) fail_msg("%s", why.s);
    assert_true(fleet_port(s->fleet) > 0);
    snprintf(s->address, sizeof s->address, "127.0.0.1:%d", fleet_port(s->fleet));
}

static int unlink_any(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type, (void)at;
    return remove(path);
}

static void scene_close(struct scene *s)
{
    fleet_close(s->fleet);
    uv_close((uv_handle_t *)&s->timer, NULL);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&s->loop), 0);
    buf_fini(&s->packed);
    arena_fini(&s->arena);
    nftw(s->dir, unlink_any, 16, FTW_DEPTH | FTW_PHYS);
}

static struct link *dial(struct scene *s, struct identity *id)
{
    struct link *l;
    struct err_text why;
    if (link_tls_dial(s->address, id, &l, &why) != OK) fail_msg("%s", why.s);
    return l;
}

static void say(struct scene *s, struct link *l, const struct msg *m)
{
    buf_clear(&s->packed);
    assert_int_equal(wire_pack(m, &s->packed), OK);
    assert_int_equal(link_send(l, s->packed.data, s->packed.len), OK);
}

// What the fleet answers: OK and the message, or how the link ended.
static err_t hear(struct scene *s, struct link *l, double seconds, struct msg *m)
{
    int64_t end = clock_now_us() + (int64_t)(seconds * 1e6);
    while (clock_now_us() < end) {
        const void *data;
        size_t len;
        struct err_text why;
        err_t err = link_recv(l, &data, &len, &why);
        if (err == OK) {
            arena_reset(&s->arena);
            assert_int_equal(wire_unpack(data, len, &s->arena, m, &why), OK);
            return OK;
        }
        if (err != ERR_AGAIN) return err;
        uv_run(&s->loop, UV_RUN_ONCE);
    }
    return ERR_TIMEOUT;
}

static struct identity *with_token(struct scene *s, struct buf *token)
{
    struct identity *id;
    struct err_text why;
    if (!token->len && identity_token_new(s->server, time(NULL), token, &why) != OK)
        fail_msg("%s", why.s);
    if (identity_open_worker(s->worker, token->data, &id, &why) != OK) fail_msg("%s", why.s);
    return id;
}

static void say_enroll(struct scene *s, struct link *l, const struct identity *id)
{
    struct msg m = {.kind = MSG_ENROLL,
                    .enroll = {.secret = identity_token_secret(id),
                               .name = "anna",
                               .public_key_pem = identity_public_key_pem(id)}};
    say(s, l, &m);
}

static void say_hello(struct scene *s, struct link *l, const char *name)
{
    struct msg_device d = {.name = "d",
                           .kind = "cpu",
                           .isa = "x",
                           .mem_bytes = 1ull << 34,
                           .mem_free_bytes = 1ull << 33};
    struct msg m = {.kind = MSG_HELLO,
                    .hello = {.version = WIRE_VERSION,
                              .build = TRIREME_VERSION,
                              .name = name,
                              .instance = 1,
                              .host = "there",
                              .pid = 1,
                              .devices = &d,
                              .n_device = 1,
                              .roads = ROAD_UCX,
                              .process = 1}};
    say(s, l, &m);
}

static void enroll(struct scene *s, struct identity *id)
{
    struct msg m;
    struct err_text why;
    struct link *l = dial(s, id);
    say_enroll(s, l, id);
    assert_int_equal(hear(s, l, 5, &m), OK);
    assert_int_equal(m.kind, MSG_ENROLLED);
    if (identity_accept(id, m.enrolled.certificate_pem, m.enrolled.ca_pem, &why) != OK)
        fail_msg("%s", why.s);
    assert_true(identity_is_enrolled(id));
    link_close(l);
}

static void test_enroll_and_join(void **state)
{
    (void)state;
    struct scene s;
    struct buf token = {0};
    struct msg m;
    scene_open(&s);
    struct identity *id = with_token(&s, &token);
    enroll(&s, id);
    assert_int_equal(fleet_stats_get(s.fleet).enrolled, 1);
    struct link *l = dial(&s, id);
    say_hello(&s, l, "anna");
    assert_int_equal(hear(&s, l, 5, &m), OK);
    assert_int_equal(m.kind, MSG_WELCOME);
    assert_string_equal(m.welcome.cluster, "test");
    assert_non_null(fleet_worker(s.fleet, m.welcome.worker));
    assert_int_equal(hear(&s, l, 5, &m), OK);
    assert_int_equal(m.kind, MSG_HEARTBEAT);
    link_close(l);
    for (int64_t end = clock_now_us() + 500000; fleet_worker(s.fleet, 0);) {
        assert_true(clock_now_us() < end); // a closed link is seen at once
        uv_run(&s.loop, UV_RUN_ONCE);
    }
    // The name is the certificate's, not the worker's to choose.
    l = dial(&s, id);
    say_hello(&s, l, "bert");
    assert_int_equal(hear(&s, l, 5, &m), OK);
    assert_int_equal(m.kind, MSG_REFUSE);
    link_close(l);
    identity_close(id);
    buf_fini(&token);
    scene_close(&s);
}

static void test_a_token_serves_once(void **state)
{
    (void)state;
    struct scene s;
    struct buf token = {0};
    struct msg m;
    scene_open(&s);
    struct identity *id = with_token(&s, &token);
    enroll(&s, id);
    identity_close(id);
    snprintf(s.worker, sizeof s.worker, "%s/other", s.dir);
    id = with_token(&s, &token);
    struct link *l = dial(&s, id);
    say_enroll(&s, l, id);
    assert_int_equal(hear(&s, l, 5, &m), OK);
    assert_int_equal(m.kind, MSG_REFUSE);
    assert_int_equal(m.refuse.code, ERR_LINK_AUTH);
    assert_int_not_equal(hear(&s, l, 5, &m), OK);
    link_close(l);
    identity_close(id);
    buf_fini(&token);
    scene_close(&s);
}

static void test_strangers_may_only_enroll(void **state)
{
    (void)state;
    struct scene s;
    struct buf token = {0};
    struct msg m;
    scene_open(&s);
    struct identity *id = with_token(&s, &token);
    struct link *l = dial(&s, id);
    say_hello(&s, l, "anna");
    assert_int_equal(hear(&s, l, 5, &m), OK);
    assert_int_equal(m.kind, MSG_REFUSE);
    assert_null(fleet_worker(s.fleet, 0));
    link_close(l);
    identity_close(id);
    buf_fini(&token);
    scene_close(&s);
}

static void hear_kind(struct scene *s, struct link *l, enum msg_kind kind, struct msg *m)
{
    do {
        assert_int_equal(hear(s, l, 10, m), OK);
    } while (m->kind != kind);
}

static struct link *come_in(struct scene *s, struct identity *id)
{
    struct msg m;
    struct link *l = dial(s, id);
    say_hello(s, l, "anna");
    hear_kind(s, l, MSG_WELCOME, &m);
    return l;
}

// Over the connection that the old certificate proved, which goes on; for no other name.
static void test_renewal(void **state)
{
    (void)state;
    struct scene s;
    struct buf token = {0};
    struct msg m;
    struct err_text why;
    scene_open(&s);
    struct identity *id = with_token(&s, &token);
    enroll(&s, id);
    const int64_t expires_s = identity_expires(id);
    struct link *l = come_in(&s, id);
    const struct fleet_worker *w = fleet_worker(s.fleet, 0);
    assert_non_null(w);
    assert_int_equal(w->tether->link->expires_s, expires_s);
    struct msg ask = {.kind = MSG_RENEW,
                      .renew = {.request_pem = identity_renewal(id, expires_s - 86400)}};
    assert_non_null(ask.renew.request_pem);
    say(&s, l, &ask);
    hear_kind(&s, l, MSG_RENEWED, &m);
    assert_int_equal(m.renewed.code, OK);
    if (identity_renewed(id, m.renewed.certificate_pem, &why) != OK) fail_msg("%s", why.s);
    assert_true(identity_is_stale(id) && identity_expires(id) >= expires_s);
    assert_int_equal(w->tether->link->expires_s, identity_expires(id));
    assert_int_equal(fleet_stats_get(s.fleet).renewed, 1);
    hear_kind(&s, l, MSG_HEARTBEAT, &m);
    // What is no request is answered with a reason; the connection goes on.
    usleep(600000);
    ask.renew.request_pem = "hello";
    say(&s, l, &ask);
    hear_kind(&s, l, MSG_RENEWED, &m);
    assert_int_equal(m.renewed.code, ERR_LINK_AUTH);
    assert_true(m.renewed.why[0] && !m.renewed.certificate_pem[0]);
    hear_kind(&s, l, MSG_HEARTBEAT, &m);
    // Again and again is once too often.
    say(&s, l, &ask);
    while (hear(&s, l, 10, &m) == OK)
        assert_int_not_equal(m.kind, MSG_RENEWED);
    link_close(l);
    identity_close(id);
    // With the new one it comes back.
    if (identity_open_worker(s.worker, NULL, &id, &why) != OK) fail_msg("%s", why.s);
    link_close(come_in(&s, id));
    identity_close(id);
    buf_fini(&token);
    scene_close(&s);
}

static time_t later_than_now(time_t *out)
{
    const time_t t = time(NULL) + 2 * 86400;
    if (out) *out = t;
    return t;
}

// By the coordinator's clock, which is ahead of the worker's: the worker is told how to come in
// again, and one that has a token does.
static void test_expired(void **state)
{
    (void)state;
    struct scene s;
    struct buf token = {0}, pem = {0};
    struct msg m;
    struct err_text why;
    struct identity *id, *ca;
    const int64_t then = time(NULL) - 89 * 86400;
    scene_open(&s);
    if (identity_token_new(s.server, then, &token, &why) != OK) fail_msg("%s", why.s);
    if (identity_open_coordinator(s.server, "test", &ca, &why) != OK) fail_msg("%s", why.s);
    id = with_token(&s, &token);
    assert_int_equal(identity_enroll(ca, identity_token_secret(id), "anna",
                                     identity_public_key_pem(id), then, &pem, &why),
                     OK);
    assert_int_equal(identity_accept(id, pem.data, identity_ca_pem(ca), &why), OK);
    identity_close(id);
    if (identity_open_worker(s.worker, NULL, &id, &why) != OK) fail_msg("%s", why.s);
    struct link *open = come_in(&s, id);
    gnutls_global_set_time_function(later_than_now);
    struct link *l = dial(&s, id);
    const void *data;
    size_t len;
    err_t e;
    for (int64_t end = clock_now_us() + 10000000;
         (e = link_recv(l, &data, &len, &why)) == ERR_AGAIN && clock_now_us() < end;)
        uv_run(&s.loop, UV_RUN_ONCE);
    assert_int_equal(e, ERR_LINK_AUTH);
    assert_non_null(strstr(why.s, "expired"));
    assert_non_null(strstr(why.s, "trireme token new"));
    assert_true(identity_is_enrolled(id)); // it has nothing else
    link_close(l);
    // The connection that was open goes on, and could still renew it.
    const struct msg ask = {.kind = MSG_RENEW,
                            .renew = {.request_pem = identity_renewal(id, time(NULL))}};
    say(&s, open, &ask);
    hear_kind(&s, open, MSG_RENEWED, &m);
    assert_int_equal(m.renewed.code, OK);
    link_close(open);
    identity_close(id);
    buf_clear(&token);
    id = with_token(&s, &token);
    assert_true(identity_is_enrolled(id)); // by its clock the certificate is good
    l = dial(&s, id);
    while ((e = hear(&s, l, 10, &m)) == OK)
        ;
    assert_int_equal(e, ERR_LINK_AUTH);
    assert_false(identity_is_enrolled(id));
    link_close(l);
    enroll(&s, id);
    link_close(come_in(&s, id));
    gnutls_global_set_time_function(time);
    identity_close(id);
    identity_close(ca);
    buf_fini(&token);
    buf_fini(&pem);
    scene_close(&s);
}

static void test_silent_strangers_are_sent_away(void **state)
{
    (void)state;
    struct scene s;
    struct buf token = {0};
    struct msg m;
    struct link *links[STRANGERS];
    scene_open(&s);
    struct identity *id = with_token(&s, &token);
    for (int i = 0; i < STRANGERS; i++)
        links[i] = dial(&s, id);
    int64_t begun = clock_now_us();
    int n_left = 0;
    // All but sixteen go at once, these after five seconds; nobody stays.
    for (int i = 0; i < STRANGERS; i++) {
        err_t err = hear(&s, links[i], 8, &m);
        if (err == OK) err = hear(&s, links[i], 2, &m); // REFUSE came first
        assert_int_not_equal(err, OK);
        assert_int_not_equal(err, ERR_TIMEOUT);
        n_left++;
    }
    assert_int_equal(n_left, STRANGERS);
    assert_true(clock_now_us() - begun < 12000000);
    for (int i = 0; i < STRANGERS; i++)
        link_close(links[i]);
    // Who comes next is served.
    enroll(&s, id);
    identity_close(id);
    buf_fini(&token);
    scene_close(&s);
}

int main(void)
{
    log_set_who("join");
    log_set_level(getenv("VERBOSE") ? LOG_INFO : LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_enroll_and_join),
        cmocka_unit_test(test_a_token_serves_once),
        cmocka_unit_test(test_strangers_may_only_enroll),
        cmocka_unit_test(test_renewal),
        cmocka_unit_test(test_expired),
        cmocka_unit_test(test_silent_strangers_are_sent_away),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
