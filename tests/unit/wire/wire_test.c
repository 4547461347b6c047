// Every kind survives the wire, at its limits too; every rule of wire_unpack refuses; nothing that
// bytes can say crashes it or takes more than its budget.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/base/clock.h"
#include "proto/base/dtype.h"
#include "proto/wire/control.pb-c.h"
#include "tests/unit/wire/trip.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// -- good messages, one of each kind --

static const struct msg_device device = {
    .name = "AMD EPYC",
    .kind = "cpu",
    .isa = "cpu avx2",
    .threads = 8,
    .mem_bytes = 64e9,
    .mem_free_bytes = 32e9,
    .read_bytes_per_s = 40e9,
    .int8_ops_per_s = 1e12,
    .f32_flops_per_s = 3e11,
    .unified = true,
    .n_core = 4,
    .n_numa = 2,
    .l2_bytes = 1 << 20,
    .l3_bytes = UINT64_MAX,
    .rates = {
        .n_type = 2,
        .types = {{DT_Q4_0, {1e10, 2e10, 3e10, 4e10, 5e10}}, {DT_BF16, {1e9, 2e9, 3e9, 4e9, 5e9}}},
        .attn_one_flops_per_s = 1e10,
        .attn_many_flops_per_s = 2e10,
        .product_us = 0.5,
        .layer_us = 7,
        .float_ns = 0.25,
        .seq_us = 3,
        .logit_ns = 0.125}};
static const struct msg_model model = {"qwen3-0.6b", {1, 2, 3, [31] = 9}};

static struct msg good_hello(void)
{
    return (struct msg){.kind = MSG_HELLO,
                        .hello = {.version = WIRE_VERSION,
                                  .build = "0.1",
                                  .name = "spark-1",
                                  .instance = UINT64_MAX,
                                  .host = "spark.local",
                                  .pid = 4711,
                                  .devices = &device,
                                  .n_device = 1,
                                  .models = &model,
                                  .n_model = 1,
                                  .held_hash = {7, [31] = 8},
                                  .held_from = 3,
                                  .held_to = 12,
                                  .held_embed = true,
                                  .held_head = true,
                                  .roads = ROAD_LOCAL | ROAD_UCX,
                                  .process = 99,
                                  .store_bytes = 5e12,
                                  .disk_bytes_per_s = 2.5e9}};
}

static const struct plan_settings settings = {131072, 16, 4096,   77, STEP_SNAPSHOTS_MAX, 64, 2048,
                                              128,    4,  DT_F16, 1};

static struct msg good_plan(void)
{
    return (struct msg){.kind = MSG_PLAN,
                        .plan = {.epoch = 5,
                                 .plan_hash = {1, [31] = 2},
                                 .model_hash = {3, [31] = 4},
                                 .model = "m",
                                 .stage = 1,
                                 .n_stage = 3,
                                 .layer_from = 4,
                                 .layer_to = 9,
                                 .embed = true,
                                 .head = true,
                                 .settings = settings,
                                 .road = ROAD_UCX,
                                 .key = {1, 2, [15] = 3}}};
}

static const int32_t ids[] = {0, 7, 151935, INT32_MAX};
static const uint32_t pages[] = {0, 5, STEP_PAGES_MAX - 1};
// Ids 3 and 4 as bits; 100 gone, 50 in.
static const uint8_t mask[] = {0, 0x18}, mask_runs[] = {1, 100, 50};
static const uint32_t locals[] = {STEP_PAGES_MAX - 1, 0, 6};
static const struct logit_bias bias[] = {{0, -100}, {INT32_MAX, 0.5f}};

static const struct step_bind binds[2] = {
    {.slot = 3,
     .sampling = {.temperature = 0.7f,
                  .top_p = 0.9f,
                  .min_p = 0.05f,
                  .top_k = 40,
                  .presence = -2,
                  .frequency = 2,
                  .repetition = 1.1f,
                  .seed = UINT64_MAX,
                  .choice = 7,
                  .n_logprobs = 20,
                  .digest = true,
                  .bias = bias,
                  .n_bias = 2},
     .history = ids,
     .n_history = 4,
     .n_prompt = 9,
     .snapshot = STEP_SNAPSHOTS_MAX},
    {.slot = STEP_SLOTS_MAX - 1, .sampling = {.top_p = 1, .repetition = 1, .n_logprobs = -1}},
};

static const struct step_row rows[3] = {
    {.slot = 3,
     .flags = ROW_SAMPLE | ROW_SCORE,
     .pos = 100,
     .n_tok = 4,
     .ids = ids,
     .next_id = 17,
     .page_from = 6,
     .n_page = 3,
     .pages = pages,
     .local_from = STEP_PAGES_MAX - 3,
     .n_local = 3,
     .locals = locals,
     .mask = mask,
     .n_mask = sizeof mask},
    {.slot = 0,
     .flags = ROW_SAMPLE | ROW_CHAIN,
     .pos = 5,
     .n_tok = 1,
     .next_id = -1,
     .from_step = 41},
    {.slot = 1,
     .n_tok = 1,
     .ids = ids + 1,
     .next_id = INT32_MAX,
     .n_local = 1,
     .locals = locals + 1,
     .snapshot = STEP_SNAPSHOTS_MAX},
};

static struct msg good_step(void)
{
    return (struct msg){
        .kind = MSG_STEP,
        .step = {.epoch = 5, .number = 42, .binds = binds, .n_bind = 2, .rows = rows, .n_row = 3}};
}

static const struct token_prob top[2] = {{5, -0.25f}, {INT32_MAX, -90}};
static const float scores[3] = {-1, 0, -3.5f};
static const struct step_item items[3] = {
    {.row = 0,
     .slot = 3,
     .id = INT32_MAX,
     .logprob = -0.5f,
     .digest = UINT64_MAX,
     .top = top,
     .n_top = 2},
    {.row = 2, .slot = 9, .id = -1, .nonfinite = true, .scores = scores, .n_score = 3},
    {.row = STEP_ROWS_MAX - 1, .slot = 0, .id = 0},
};

static struct msg good_result(void)
{
    return (struct msg){
        .kind = MSG_RESULT,
        .result = {.epoch = 1, .number = 2, .compute_us = 3, .items = items, .n_item = 3}};
}

// -- round trips --

static void test_hello(void **state)
{
    (void)state;
    struct msg m = good_hello();
    struct trip t;
    trip_ok(&t, &m);
    const struct msg_hello *a = &m.hello, *b = &t.out.hello;
    assert_int_equal(a->version, b->version);
    assert_string_equal(a->build, b->build);
    assert_string_equal(a->name, b->name);
    assert_true(a->instance == b->instance && a->process == b->process);
    assert_string_equal(a->host, b->host);
    assert_int_equal(a->pid, b->pid);
    assert_memory_equal(a->held_hash, b->held_hash, 32);
    assert_int_equal(a->held_from, b->held_from);
    assert_int_equal(a->held_to, b->held_to);
    assert_true(b->held_embed && b->held_head);
    assert_int_equal(a->roads, b->roads);
    assert_int_equal(b->n_device, 1);
    assert_string_equal(b->devices->name, device.name);
    assert_string_equal(b->devices->kind, device.kind);
    assert_string_equal(b->devices->isa, device.isa);
    assert_int_equal(b->devices->threads, device.threads);
    assert_true(b->devices->mem_bytes == device.mem_bytes);
    assert_true(b->devices->mem_free_bytes == device.mem_free_bytes);
    assert_true(b->devices->read_bytes_per_s == device.read_bytes_per_s);
    assert_true(b->devices->int8_ops_per_s == device.int8_ops_per_s);
    assert_true(b->devices->f32_flops_per_s == device.f32_flops_per_s);
    assert_true(b->devices->unified && b->devices->n_core == 4 && b->devices->n_numa == 2);
    assert_true(b->devices->l2_bytes == 1 << 20 && b->devices->l3_bytes == UINT64_MAX);
    const struct rates *r = &b->devices->rates, *of = &device.rates;
    assert_int_equal(r->n_type, 2);
    for (int32_t i = 0; i < 2; i++) {
        assert_int_equal(r->types[i].dtype, of->types[i].dtype);
        assert_memory_equal(r->types[i].mul_per_s, of->types[i].mul_per_s,
                            sizeof of->types[i].mul_per_s);
    }
    assert_true(r->attn_one_flops_per_s == of->attn_one_flops_per_s &&
                r->attn_many_flops_per_s == of->attn_many_flops_per_s &&
                r->product_us == of->product_us && r->layer_us == of->layer_us &&
                r->float_ns == of->float_ns && r->seq_us == of->seq_us &&
                r->logit_ns == of->logit_ns);
    assert_true(b->store_bytes == a->store_bytes && b->disk_bytes_per_s == a->disk_bytes_per_s);
    assert_int_equal(b->n_model, 1);
    assert_string_equal(b->models->name, model.name);
    assert_memory_equal(b->models->hash, model.hash, 32);
    trip_fini(&t);
    // Nothing held, nothing there; roads of the future are not offered on.
    m = (struct msg){.kind = MSG_HELLO, .hello = {.version = 77, .name = "a", .roads = 0xff}};
    assert_int_equal(trip_try(&t, &m), OK);
    assert_int_equal(t.out.hello.version, 77);
    assert_int_equal(t.out.hello.roads, ROAD_LOCAL | ROAD_UCX);
    assert_string_equal(t.out.hello.host, "");
    trip_fini(&t);
}

static void test_plan_and_prepared(void **state)
{
    (void)state;
    struct msg m = good_plan();
    struct trip t;
    trip_ok(&t, &m);
    const struct msg_plan *p = &t.out.plan;
    assert_true(p->epoch == 5 && p->stage == 1 && p->n_stage == 3);
    assert_memory_equal(p->plan_hash, m.plan.plan_hash, 32);
    assert_memory_equal(p->model_hash, m.plan.model_hash, 32);
    assert_memory_equal(p->key, m.plan.key, 16);
    assert_string_equal(p->model, "m");
    assert_true(p->layer_from == 4 && p->layer_to == 9 && p->embed && p->head);
    assert_memory_equal(&p->settings, &settings, sizeof settings);
    assert_int_equal(p->road, ROAD_UCX);
    trip_fini(&t);

    m = (struct msg){.kind = MSG_PREPARED,
                     .prepared = {.epoch = 5,
                                  .settings = settings,
                                  .weight_bytes = 1,
                                  .kv_bytes = UINT64_MAX,
                                  .work_bytes = 3,
                                  .load_ms = 4,
                                  .address = (const uint8_t *)"a\0b",
                                  .n_address = 3}};
    trip_ok(&t, &m);
    const struct msg_prepared *r = &t.out.prepared;
    assert_true(r->epoch == 5 && r->weight_bytes == 1 && r->kv_bytes == UINT64_MAX);
    assert_true(r->work_bytes == 3 && r->load_ms == 4 && r->n_address == 3);
    assert_memory_equal(&r->settings, &settings, sizeof settings);
    assert_memory_equal(r->address, "a\0b", 3);
    trip_fini(&t);
}

static void test_step(void **state)
{
    (void)state;
    struct msg m = good_step();
    struct trip t;
    trip_ok(&t, &m);
    const struct step *s = &t.out.step;
    assert_true(s->epoch == 5 && s->number == 42 && s->n_bind == 2 && s->n_row == 3);
    const struct step_bind *b = s->binds;
    const struct sampling *x = &b->sampling, *y = &binds[0].sampling;
    assert_true(b[0].slot == 3 && b[1].slot == STEP_SLOTS_MAX - 1 && b[0].n_prompt == 9);
    assert_true(b[0].snapshot == STEP_SNAPSHOTS_MAX && b[1].snapshot == 0);
    assert_true(x->temperature == y->temperature && x->top_p == y->top_p && x->min_p == y->min_p);
    assert_true(x->top_k == y->top_k && x->presence == y->presence && x->seed == y->seed);
    assert_true(x->frequency == y->frequency && x->repetition == y->repetition);
    assert_true(x->choice == y->choice && x->n_logprobs == 20 && x->digest && x->n_bias == 2);
    assert_memory_equal(x->bias, bias, sizeof bias);
    assert_int_equal(b[0].n_history, 4);
    assert_memory_equal(b[0].history, ids, sizeof ids);
    assert_true(b[1].sampling.n_logprobs == -1 && !b[1].sampling.digest && !b[1].n_history);
    for (int i = 0; i < 3; i++) {
        const struct step_row *r = &s->rows[i], *want = &rows[i];
        assert_true(r->slot == want->slot && r->flags == want->flags && r->pos == want->pos);
        assert_true(r->n_tok == want->n_tok && r->next_id == want->next_id);
        assert_true(r->from_step == want->from_step && r->page_from == want->page_from);
        assert_int_equal(r->n_page, want->n_page);
        if (want->n_page) assert_memory_equal(r->pages, want->pages, 4 * want->n_page);
        assert_true(r->local_from == want->local_from && r->n_local == want->n_local);
        if (want->n_local) assert_memory_equal(r->locals, want->locals, 4 * want->n_local);
        assert_int_equal(r->snapshot, want->snapshot);
        assert_int_equal(r->n_mask, want->n_mask);
        if (want->n_mask) assert_memory_equal(r->mask, want->mask, want->n_mask);
        assert_true(!r->mask == !want->n_mask);
        if (want->ids)
            assert_memory_equal(r->ids, want->ids, 4 * want->n_tok);
        else
            assert_null(r->ids);
    }
    trip_fini(&t);
}

static void test_result(void **state)
{
    (void)state;
    struct msg m = good_result();
    struct trip t;
    trip_ok(&t, &m);
    const struct step_result *r = &t.out.result;
    assert_true(r->epoch == 1 && r->number == 2 && r->compute_us == 3 && r->n_item == 3);
    for (int i = 0; i < 3; i++) {
        const struct step_item *a = &r->items[i], *b = &items[i];
        assert_true(a->row == b->row && a->slot == b->slot && a->id == b->id);
        assert_true(a->logprob == b->logprob && a->nonfinite == b->nonfinite);
        assert_true(a->digest == b->digest && a->n_top == b->n_top && a->n_score == b->n_score);
    }
    assert_memory_equal(r->items[0].top, top, sizeof top);
    assert_memory_equal(r->items[1].scores, scores, sizeof scores);
    trip_fini(&t);
}

static void test_small_kinds(void **state)
{
    (void)state;
    struct trip t;
    struct msg m = {.kind = MSG_WELCOME, .welcome = {.worker = 7, .cluster = "home \xc3\xa9"}};
    trip_ok(&t, &m);
    assert_int_equal(t.out.welcome.worker, 7);
    assert_string_equal(t.out.welcome.cluster, "home \xc3\xa9");
    trip_fini(&t);

    m = (struct msg){.kind = MSG_REFUSE, .refuse = {-3, "no", true}};
    trip_ok(&t, &m);
    assert_true(t.out.refuse.code == -3 && t.out.refuse.is_final);
    assert_string_equal(t.out.refuse.why, "no");
    trip_fini(&t);

    struct msg_peer peers[2] = {{0, 2, (const uint8_t *)"xyz", 3, (const uint8_t *)"g", 1},
                                {.stage = 63}};
    m = (struct msg){.kind = MSG_CONNECT, .connect = {9, peers, 2}};
    trip_ok(&t, &m);
    assert_true(t.out.connect.epoch == 9 && t.out.connect.n_peer == 2);
    assert_true(t.out.connect.peers[1].stage == 63 && t.out.connect.peers[1].n_address == 0);
    assert_memory_equal(t.out.connect.peers[0].address, "xyz", 3);
    assert_int_equal(t.out.connect.peers[0].member, 2);
    assert_memory_equal(t.out.connect.peers[0].group_address, "g", 1);
    assert_int_equal(t.out.connect.peers[1].n_group_address, 0);
    trip_fini(&t);

    m = (struct msg){.kind = MSG_LINKED, .linked = {9, 1.5, 2e9, "ucx tcp"}};
    trip_ok(&t, &m);
    assert_true(t.out.linked.epoch == 9 && t.out.linked.next_latency_us == 1.5);
    assert_true(t.out.linked.next_bytes_per_s == 2e9);
    assert_string_equal(t.out.linked.transport, "ucx tcp");
    trip_fini(&t);

    m = (struct msg){.kind = MSG_HEARTBEAT,
                     .heartbeat = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17}};
    trip_ok(&t, &m);
    assert_memory_equal(&t.out.heartbeat, &m.heartbeat, sizeof m.heartbeat);
    trip_fini(&t);

    m = (struct msg){.kind = MSG_FAILED, .failed = {4, ERR_MEMORY, "8 GB short"}};
    trip_ok(&t, &m);
    assert_true(t.out.failed.epoch == 4 && t.out.failed.code == ERR_MEMORY);
    assert_string_equal(t.out.failed.why, "8 GB short");
    trip_fini(&t);

    m = (struct msg){.kind = MSG_DRAIN};
    trip_ok(&t, &m);
    trip_fini(&t);

    m = (struct msg){.kind = MSG_ENROLL, .enroll = {"s3cret", "w-1", "-----X\nabc\n"}};
    trip_ok(&t, &m);
    assert_string_equal(t.out.enroll.secret, "s3cret");
    assert_string_equal(t.out.enroll.name, "w-1");
    assert_string_equal(t.out.enroll.public_key_pem, "-----X\nabc\n");
    trip_fini(&t);

    m = (struct msg){.kind = MSG_ENROLLED, .enrolled = {"cert\n", "ca\n"}};
    trip_ok(&t, &m);
    assert_string_equal(t.out.enrolled.certificate_pem, "cert\n");
    assert_string_equal(t.out.enrolled.ca_pem, "ca\n");
    trip_fini(&t);

    m = (struct msg){.kind = MSG_RENEW, .renew = {"-----X\nabc\n"}};
    trip_ok(&t, &m);
    assert_string_equal(t.out.renew.request_pem, "-----X\nabc\n");
    trip_fini(&t);

    m = (struct msg){.kind = MSG_RENEWED, .renewed = {"cert\n", ERR_SYSTEM, "no disk"}};
    trip_ok(&t, &m);
    assert_string_equal(t.out.renewed.certificate_pem, "cert\n");
    assert_int_equal(t.out.renewed.code, ERR_SYSTEM);
    assert_string_equal(t.out.renewed.why, "no disk");
    trip_fini(&t);
}

// -- limits --

static void test_largest(void **state)
{
    (void)state;
    struct msg m = good_hello();
    struct msg_device devices[WIRE_DEVICES_MAX + 1];
    struct msg_model models[WIRE_MODELS_MAX + 1];
    for (int i = 0; i <= WIRE_DEVICES_MAX; i++)
        devices[i] = device;
    for (int i = 0; i <= WIRE_MODELS_MAX; i++)
        models[i] = model;
    m.hello.devices = devices;
    m.hello.models = models;
    m.hello.n_device = WIRE_DEVICES_MAX;
    m.hello.n_model = WIRE_MODELS_MAX;
    struct trip t;
    trip_ok(&t, &m);
    trip_fini(&t);
    m.hello.n_device++;
    refused(&m, "too many devices");
    m.hello.n_device--;
    m.hello.n_model++;
    refused(&m, "too many models");

    uint8_t address[WIRE_ADDRESS_MAX + 1] = {0};
    struct msg_peer peers[WIRE_STAGES_MAX + 1];
    for (uint32_t i = 0; i <= WIRE_STAGES_MAX; i++)
        peers[i] = (struct msg_peer){
            i / WIRE_MEMBERS_MAX, i % WIRE_MEMBERS_MAX, address, WIRE_ADDRESS_MAX, address,
            WIRE_ADDRESS_MAX};
    m = (struct msg){.kind = MSG_CONNECT, .connect = {1, peers, WIRE_STAGES_MAX}};
    trip_ok(&t, &m);
    trip_fini(&t);
    m.connect.n_peer++;
    refused(&m, "too many peers");
    m.connect.n_peer = 1;
    peers[0].n_address++;
    refused(&m, "address too long");
}

static void test_largest_step(void **state)
{
    (void)state;
    int32_t *many = calloc(STEP_TOKENS_MAX, sizeof *many);
    uint32_t *page = calloc(60000, sizeof *page);
    struct step_bind *bind = calloc(STEP_SLOTS_MAX, sizeof *bind);
    struct step_row row[STEP_ROWS_MAX] = {0};
    for (int i = 0; i < STEP_TOKENS_MAX; i++)
        many[i] = INT32_MAX - i;
    for (uint32_t i = 0; i < 60000; i++)
        page[i] = STEP_PAGES_MAX - 1 - i;
    for (uint32_t i = 0; i < STEP_SLOTS_MAX; i++) {
        bind[i] = binds[1];
        bind[i].slot = i;
    }
    for (uint32_t i = 0; i < STEP_ROWS_MAX; i++)
        row[i] = (struct step_row){.slot = STEP_SLOTS_MAX - 1 - i,
                                   .flags = ROW_SAMPLE,
                                   .n_tok = STEP_TOKENS_MAX / STEP_ROWS_MAX,
                                   .ids = many + i * (STEP_TOKENS_MAX / STEP_ROWS_MAX),
                                   .next_id = -1};
    row[9].pages = page;
    row[9].n_page = 60000;
    struct msg m = {.kind = MSG_STEP,
                    .step = {.epoch = UINT64_MAX,
                             .number = UINT64_MAX,
                             .binds = bind,
                             .n_bind = STEP_SLOTS_MAX,
                             .rows = row,
                             .n_row = STEP_ROWS_MAX}};
    struct trip t;
    trip_ok(&t, &m);
    assert_memory_equal(t.out.step.rows[9].pages, page, 240000);
    assert_memory_equal(t.out.step.rows[255].ids, row[255].ids, 128);
    assert_true(t.arena.used_bytes <= 2 * WIRE_ARENA_MAX);
    trip_fini(&t);
    // One token more.
    row[0].n_tok++;
    refused(&m, "too many tokens");
    free(many);
    free(page);
    free(bind);
}

static void test_too_large(void **state)
{
    (void)state;
    enum { N = 300000 };
    int32_t *history = calloc(N, sizeof *history);
    for (int i = 0; i < N; i++)
        history[i] = INT32_MAX;
    struct step_bind b = binds[1];
    b.history = history;
    b.n_history = N;
    struct msg m = {.kind = MSG_STEP, .step = {.epoch = 1, .number = 1, .binds = &b, .n_bind = 1}};
    struct buf out = {0};
    buf_str(&out, "before");
    assert_int_equal(wire_pack(&m, &out), ERR_TOO_LARGE);
    assert_string_equal(out.data, "before");
    b.n_history = 200000;
    assert_int_equal(wire_pack(&m, &out), OK);
    assert_memory_equal(out.data, "before", 6);
    buf_fini(&out);
    struct buf small = {.max = 10};
    assert_int_equal(wire_pack(&m, &small), ERR_MEMORY);
    buf_fini(&small);
    free(history);

    struct arena a;
    struct msg got;
    struct err_text why;
    arena_init(&a, 0);
    uint8_t *zeros = calloc(1, WIRE_MESSAGE_MAX + 1);
    assert_int_equal(wire_unpack(zeros, WIRE_MESSAGE_MAX + 1, &a, &got, &why), ERR_LINK_PROTOCOL);
    assert_int_equal(a.used_bytes, 0);
    free(zeros);
    arena_fini(&a);
}

// -- rules --

static void test_rules_hello(void **state)
{
    (void)state;
    char long_name[65], long_host[257];
    memset(long_name, 'a', 64);
    memset(long_host, 'h', 256);
    long_name[64] = long_host[256] = 0;
    REFUSED(good_hello(), m.hello.name = "");
    REFUSED(good_hello(), m.hello.name = "Spark");
    REFUSED(good_hello(), m.hello.name = "a b");
    REFUSED(good_hello(), m.hello.name = long_name);
    REFUSED(good_hello(), m.hello.host = long_host);
    REFUSED(good_hello(), m.hello.host = "two\nlines");
    REFUSED(good_hello(), m.hello.build = "\x1b[31m");
    REFUSED(good_hello(), m.hello.build = "\xc2\x9b");
    REFUSED(good_hello(), m.hello.host = "\x7f");
    REFUSED(good_hello(), m.hello.host = "\xc3");
    REFUSED(good_hello(), m.hello.host = "\xed\xa0\x80");
    REFUSED(good_hello(), m.hello.host = "\xf4\x90\x80\x80");
    REFUSED(good_hello(), m.hello.host = "\xc0\x80");
    REFUSED(good_hello(), m.hello.held_from = 13);
    REFUSED(good_hello(), m.hello.disk_bytes_per_s = NAN);
    struct msg_device d = device;
    REFUSED(good_hello(), (m.hello.devices = &d, d.read_bytes_per_s = NAN));
    d = device;
    REFUSED(good_hello(), (m.hello.devices = &d, d.int8_ops_per_s = INFINITY));
    d = device;
    REFUSED(good_hello(), (m.hello.devices = &d, d.f32_flops_per_s = -1));
    d = device;
    REFUSED(good_hello(), (m.hello.devices = &d, d.isa = "\t"));
    d = device;
    REFUSED(good_hello(), (m.hello.devices = &d, d.rates.types[0].dtype = DT_BOOL));
    d = device;
    REFUSED(good_hello(), (m.hello.devices = &d, d.rates.types[1].mul_per_s[4] = NAN));
    d = device;
    REFUSED(good_hello(), (m.hello.devices = &d, d.rates.layer_us = -1));
    struct msg_model mo = {"\n", {0}};
    REFUSED(good_hello(), m.hello.models = &mo);
}

static void test_rules_plan(void **state)
{
    (void)state;
    REFUSED(good_plan(), m.plan.epoch = 0);
    REFUSED(good_plan(), m.plan.n_stage = 0);
    REFUSED(good_plan(), m.plan.n_stage = WIRE_STAGES_MAX + 1);
    REFUSED(good_plan(), m.plan.stage = 3);
    REFUSED(good_plan(), m.plan.layer_from = 10);
    REFUSED(good_plan(), m.plan.road = 0);
    REFUSED(good_plan(), m.plan.road = ROAD_LOCAL | ROAD_UCX);
    REFUSED(good_plan(), m.plan.model = "\r");
    REFUSED(good_plan(), m.plan.settings.ctx = 0);
    REFUSED(good_plan(), m.plan.settings.ctx = UINT32_MAX);
    REFUSED(good_plan(), m.plan.settings.page_tok = 0);
    REFUSED(good_plan(), m.plan.settings.n_page = STEP_PAGES_MAX + 1);
    REFUSED(good_plan(), m.plan.settings.n_page_local = STEP_PAGES_MAX + 1);
    REFUSED(good_plan(), m.plan.settings.n_snapshot = STEP_SNAPSHOTS_MAX + 1);
    REFUSED(good_plan(), m.plan.settings.n_slot = STEP_SLOTS_MAX + 1);
    REFUSED(good_plan(), m.plan.settings.max_tok = STEP_TOKENS_MAX + 1);
    REFUSED(good_plan(), m.plan.settings.max_rows = STEP_ROWS_MAX + 1);
    REFUSED(good_plan(), m.plan.settings.in_flight = 0);
    REFUSED(good_plan(), m.plan.settings.in_flight = 1000);
    REFUSED(good_plan(), m.plan.settings.kv_dtype = DT_NONE);
    REFUSED(good_plan(), m.plan.settings.kv_dtype = DT_COUNT);
    REFUSED(good_plan(), m.plan.settings.precision = 1000);
}

static void test_rules_step(void **state)
{
    (void)state;
    struct step_row r[3];
    struct step_bind b[2];
    int32_t bad_ids[4] = {1, 2, -1, 3};
    uint32_t bad_pages[3] = {0, STEP_PAGES_MAX, 1};
    const uint8_t bad_mask[] = {0, 0, 1, 5};
    struct logit_bias bad_bias[2] = {{-1, 0}, {1, NAN}};
#define ROW(change) REFUSED(good_step(), (memcpy(r, rows, sizeof r), m.step.rows = r, change))
#define BIND(change) REFUSED(good_step(), (memcpy(b, binds, sizeof b), m.step.binds = b, change))
#define SAMPLING(change) BIND(b[0].sampling.change)
    REFUSED(good_step(), m.step.epoch = 0);
    REFUSED(good_step(), m.step.number = 0);
    REFUSED(good_step(), m.step.number = 41); // row 1 would chain to itself
    ROW(r[0].slot = STEP_SLOTS_MAX);
    ROW(r[0].slot = 1);
    ROW(r[0].flags = 8);
    ROW(r[0].pos = UINT32_MAX);
    ROW(r[0].pos = INT32_MAX - 3);
    ROW(r[0].ids = bad_ids);
    ROW(r[0].pages = bad_pages);
    ROW(r[0].page_from = STEP_PAGES_MAX - 2);
    ROW(r[0].page_from = UINT32_MAX);
    ROW(r[0].locals = bad_pages);
    ROW(r[0].local_from = STEP_PAGES_MAX - 2);
    ROW(r[0].local_from = UINT32_MAX);
    ROW(r[0].snapshot = STEP_SNAPSHOTS_MAX + 1);
    ROW(r[0].next_id = -2);
    ROW((r[0].mask = bad_mask, r[0].n_mask = 2)); // no id
    ROW((r[0].mask = bad_mask, r[0].n_mask = 1));
    ROW((r[0].mask = bad_mask + 2, r[0].n_mask = 2));             // half a run
    ROW((r[1].mask = mask_runs, r[1].n_mask = sizeof mask_runs)); // chained
    ROW((r[2].mask = mask_runs, r[2].n_mask = sizeof mask_runs)); // draws nothing
    ROW(r[1].n_tok = 2);
    ROW(r[1].n_tok = 0);
    ROW((r[2].n_tok = 0, r[2].ids = NULL, r[2].flags = ROW_CHAIN));
    ROW(r[1].from_step = 42);
    ROW(r[1].from_step = 43);
    ROW(r[1].from_step = 0);
    BIND(b[0].slot = STEP_SLOTS_MAX);
    BIND(b[0].slot = b[1].slot);
    BIND(b[0].history = bad_ids);
    BIND(b[0].n_prompt = UINT32_MAX);
    BIND(b[1].snapshot = STEP_SNAPSHOTS_MAX + 1);
    SAMPLING(temperature = 2.01f);
    SAMPLING(temperature = -0.1f);
    SAMPLING(temperature = NAN);
    SAMPLING(top_p = 0);
    SAMPLING(top_p = 1.01f);
    SAMPLING(top_p = NAN);
    SAMPLING(min_p = -0.1f);
    SAMPLING(min_p = 1.1f);
    SAMPLING(top_k = -1);
    SAMPLING(presence = 2.1f);
    SAMPLING(presence = NAN);
    SAMPLING(frequency = -2.1f);
    SAMPLING(repetition = 0);
    SAMPLING(repetition = INFINITY);
    SAMPLING(n_logprobs = 21);
    SAMPLING(n_logprobs = -2);
    SAMPLING(bias = bad_bias);
    bad_bias[0].id = 1;
    SAMPLING(bias = bad_bias); // the NaN
    struct logit_bias *too_many = calloc(STEP_BIAS_MAX + 1, sizeof *too_many);
    BIND((b[0].sampling.bias = too_many, b[0].sampling.n_bias = STEP_BIAS_MAX + 1));
    free(too_many);
    struct step_row more[STEP_ROWS_MAX + 1];
    for (uint32_t i = 0; i <= STEP_ROWS_MAX; i++)
        more[i] = (struct step_row){.slot = i, .n_tok = 1, .ids = ids, .next_id = -1};
    REFUSED(good_step(), (m.step.rows = more, m.step.n_row = STEP_ROWS_MAX + 1));
}

static void test_rules_result(void **state)
{
    (void)state;
    struct step_item it[3];
    struct token_prob bad_top[2] = {{-1, 0}, {0, 0}}, nan_top[2] = {{1, NAN}, {0, 0}};
    float bad_scores[3] = {0, INFINITY, 0};
    struct token_prob many[STEP_LOGPROBS_MAX + 1] = {{0, 0}};
#define ITEM(change)                                                                               \
    REFUSED(good_result(), (memcpy(it, items, sizeof it), m.result.items = it, change))
    REFUSED(good_result(), m.result.epoch = 0);
    REFUSED(good_result(), m.result.number = 0);
    ITEM(it[0].row = STEP_ROWS_MAX);
    ITEM(it[0].row = 2);
    ITEM(it[0].slot = STEP_SLOTS_MAX);
    ITEM(it[0].id = -2);
    ITEM(it[0].logprob = NAN);
    ITEM(it[0].top = bad_top);
    ITEM(it[0].top = nan_top);
    ITEM(it[1].scores = bad_scores);
    ITEM((it[0].top = many, it[0].n_top = STEP_LOGPROBS_MAX + 1));
}

static void test_rules_rest(void **state)
{
    (void)state;
    struct msg_peer twice[2] = {{.stage = 1}, {.stage = 1}}, far[1] = {{.stage = WIRE_STAGES_MAX}};
    struct msg connect = {.kind = MSG_CONNECT, .connect = {1, twice, 1}};
    struct msg linked = {.kind = MSG_LINKED, .linked = {1, 1, 1, "x"}};
    struct msg prepared = {.kind = MSG_PREPARED, .prepared = {.epoch = 1, .settings = settings}};
    uint8_t address[WIRE_ADDRESS_MAX + 1] = {0};
    char long_pem[20000], long_text[sizeof(struct err_text) + 100];
    memset(long_pem, 'p', sizeof long_pem - 1);
    memset(long_text, 't', sizeof long_text - 1);
    long_pem[sizeof long_pem - 1] = long_text[sizeof long_text - 1] = 0;
    REFUSED(connect, m.connect.epoch = 0);
    REFUSED(connect, m.connect.n_peer = 2);
    REFUSED(connect, m.connect.peers = far);
    REFUSED(linked, m.linked.epoch = 0);
    REFUSED(linked, m.linked.next_latency_us = -1);
    REFUSED(linked, m.linked.next_bytes_per_s = NAN);
    REFUSED(linked, m.linked.transport = "\n");
    REFUSED(prepared, m.prepared.epoch = 0);
    REFUSED(prepared, m.prepared.settings.n_slot = 0);
    REFUSED(prepared, (m.prepared.address = address, m.prepared.n_address = sizeof address));
    struct msg w = {.kind = MSG_WELCOME};
    REFUSED(w, m.welcome.cluster = "\x01");
    struct msg r = {.kind = MSG_REFUSE};
    REFUSED(r, m.refuse.why = long_text);
    struct msg f = {.kind = MSG_FAILED};
    REFUSED(f, m.failed.why = "a\nb");
    struct msg e = {.kind = MSG_ENROLL, .enroll = {"s", "n", "p"}};
    REFUSED(e, m.enroll.name = "../x");
    REFUSED(e, m.enroll.secret = long_text);
    REFUSED(e, m.enroll.public_key_pem = long_pem);
    struct msg d = {.kind = MSG_ENROLLED, .enrolled = {"c", "a"}};
    REFUSED(d, m.enrolled.certificate_pem = long_pem);
    REFUSED(d, m.enrolled.ca_pem = "\x1b");
    struct msg n = {.kind = MSG_RENEW, .renew = {"r"}};
    REFUSED(n, m.renew.request_pem = long_pem);
    struct msg g = {.kind = MSG_RENEWED, .renewed = {"c", 0, ""}};
    REFUSED(g, m.renewed.certificate_pem = "\x7f");
    REFUSED(g, m.renewed.why = "a\nb");
}

// -- bytes that wire_pack would not make --

static err_t unpack_env(const Trireme__Envelope *env)
{
    size_t len = trireme__envelope__get_packed_size(env);
    uint8_t *bytes = malloc(len);
    trireme__envelope__pack(env, bytes);
    struct arena a;
    struct msg out;
    struct err_text why;
    arena_init(&a, 0);
    err_t e = wire_unpack(bytes, len, &a, &out, &why);
    arena_fini(&a);
    free(bytes);
    return e;
}

static void test_foreign_bytes(void **state)
{
    (void)state;
    Trireme__Envelope env = TRIREME__ENVELOPE__INIT;
    assert_int_equal(unpack_env(&env), ERR_LINK_PROTOCOL); // no kind

    Trireme__Plan plan = TRIREME__PLAN__INIT;
    env.kind_case = TRIREME__ENVELOPE__KIND_PLAN;
    env.plan = &plan;
    uint8_t hash[33] = {0};
    plan.epoch = plan.n_stage = plan.road = 1;
    plan.plan_hash = plan.model_hash = (ProtobufCBinaryData){32, hash};
    plan.key = (ProtobufCBinaryData){16, hash};
    assert_int_equal(unpack_env(&env), ERR_LINK_PROTOCOL); // no settings
    Trireme__Settings s = TRIREME__SETTINGS__INIT;
    s.ctx = s.page_tok = s.n_page = s.n_slot = s.max_tok = s.max_rows = s.in_flight = s.kv_dtype =
        1;
    plan.settings = &s;
    assert_int_equal(unpack_env(&env), OK);
    plan.plan_hash.len = 33;
    assert_int_equal(unpack_env(&env), ERR_LINK_PROTOCOL);
    plan.plan_hash.len = 31;
    assert_int_equal(unpack_env(&env), ERR_LINK_PROTOCOL);
    plan.plan_hash.len = 32;
    plan.key.len = 15;
    assert_int_equal(unpack_env(&env), ERR_LINK_PROTOCOL);
    plan.key.len = 0;
    assert_int_equal(unpack_env(&env), ERR_LINK_PROTOCOL);

    Trireme__Hello hello = TRIREME__HELLO__INIT;
    env.kind_case = TRIREME__ENVELOPE__KIND_HELLO;
    env.hello = &hello;
    hello.name = (char[]){"a"};
    assert_int_equal(unpack_env(&env), OK);
    hello.held_to = 4;
    assert_int_equal(unpack_env(&env), ERR_LINK_PROTOCOL); // layers of no model
    hello.held_hash = (ProtobufCBinaryData){20, hash};
    assert_int_equal(unpack_env(&env), ERR_LINK_PROTOCOL);
}

static void test_columns_that_disagree(void **state)
{
    (void)state;
    Trireme__Envelope env = TRIREME__ENVELOPE__INIT;
    uint32_t one[4] = {1, 2, 3, 4}, ones[4] = {1, 1, 1, 1};
    uint64_t chain[4] = {1, 0, 0, 0};
    Trireme__Step step = TRIREME__STEP__INIT;
    env.kind_case = TRIREME__ENVELOPE__KIND_STEP;
    env.step = &step;
    step.epoch = step.number = 2;
    step.slot = one, step.n_slot = 2;
    step.n_tok = ones, step.n_n_tok = 2;
    step.ids = one, step.n_ids = 2;
    assert_int_equal(unpack_env(&env), OK);
    step.n_ids = 3;
    assert_int_equal(unpack_env(&env), ERR_LINK_PROTOCOL); // an id too many
    step.n_ids = 1;
    assert_int_equal(unpack_env(&env), ERR_LINK_PROTOCOL); // one too few
    step.n_ids = 2;
    step.pages = one, step.n_pages = 1;
    assert_int_equal(unpack_env(&env), ERR_LINK_PROTOCOL);
    step.n_page = ones, step.n_n_page = 2;
    assert_int_equal(unpack_env(&env), ERR_LINK_PROTOCOL);
    step.n_pages = 2;
    assert_int_equal(unpack_env(&env), OK);
    step.locals = one, step.n_locals = 1;
    assert_int_equal(unpack_env(&env), ERR_LINK_PROTOCOL);
    step.n_local = ones, step.n_n_local = 2;
    assert_int_equal(unpack_env(&env), ERR_LINK_PROTOCOL);
    step.n_locals = 2;
    assert_int_equal(unpack_env(&env), OK);
    uint32_t lengths[3] = {0, 2, 0};
    uint8_t bytes[4] = {0, 1, 0, 1};
    step.flags = ones, step.n_flags = 2;
    step.n_mask = lengths, step.n_n_mask = 2;
    assert_int_equal(unpack_env(&env), ERR_LINK_PROTOCOL); // no bytes
    step.masks.data = bytes, step.masks.len = 4;
    assert_int_equal(unpack_env(&env), ERR_LINK_PROTOCOL); // too many
    step.masks.len = 2;
    assert_int_equal(unpack_env(&env), OK);
    step.n_n_mask = 3;
    assert_int_equal(unpack_env(&env), ERR_LINK_PROTOCOL);
    step.n_n_mask = step.masks.len = step.n_flags = 0;
    assert_int_equal(unpack_env(&env), OK);
    step.snapshot = one, step.n_snapshot = 3;
    assert_int_equal(unpack_env(&env), ERR_LINK_PROTOCOL);
    step.n_snapshot = 2;
    assert_int_equal(unpack_env(&env), OK);
    step.flags = one, step.n_flags = 3;
    assert_int_equal(unpack_env(&env), ERR_LINK_PROTOCOL);
    step.n_flags = 0;
    step.chain = chain, step.n_chain = 2; // without ROW_CHAIN
    assert_int_equal(unpack_env(&env), ERR_LINK_PROTOCOL);
    step.n_chain = step.n_n_tok = 0;
    assert_int_equal(unpack_env(&env), ERR_LINK_PROTOCOL); // rows without tokens

    Trireme__Result r = TRIREME__RESULT__INIT;
    float probs[4] = {0};
    env.kind_case = TRIREME__ENVELOPE__KIND_RESULT;
    env.result = &r;
    r.epoch = r.number = 1;
    r.row = one, r.n_row = 2;
    assert_int_equal(unpack_env(&env), OK);
    r.scores = probs, r.n_scores = 1;
    assert_int_equal(unpack_env(&env), ERR_LINK_PROTOCOL);
    r.n_score = one, r.n_n_score = 2; // 1 + 2 of 1
    assert_int_equal(unpack_env(&env), ERR_LINK_PROTOCOL);
    r.n_scores = 3;
    assert_int_equal(unpack_env(&env), OK);
    r.top_id = one, r.n_top_id = 2;
    assert_int_equal(unpack_env(&env), ERR_LINK_PROTOCOL);
    r.top_logprob = probs, r.n_top_logprob = 2;
    assert_int_equal(unpack_env(&env), ERR_LINK_PROTOCOL); // belong to no row
    r.n_top = ones, r.n_n_top = 2;
    assert_int_equal(unpack_env(&env), OK);
    r.slot = one, r.n_slot = 1;
    assert_int_equal(unpack_env(&env), ERR_LINK_PROTOCOL);
}

// -- amplification: 2 bytes that become 50, as often as they fit --

static size_t varint(uint8_t *p, uint64_t v)
{
    size_t n = 0;
    for (; v >= 0x80; v >>= 7)
        p[n++] = (uint8_t)(v | 0x80);
    p[n++] = (uint8_t)v;
    return n;
}

static void test_amplification(void **state)
{
    (void)state;
    static const struct {
        uint8_t kind, inner_tag;
        const char *what;
    } cases[] = {
        {MSG_HELLO, 7 << 3 | 2, "empty devices"}, {MSG_HELLO, 8 << 3 | 2, "empty models"},
        {MSG_CONNECT, 2 << 3 | 2, "empty peers"}, {MSG_STEP, 3 << 3 | 2, "empty binds"},
        {MSG_STEP, 4 << 3, "unpacked numbers"},   {MSG_HELLO, 2 << 3 | 2, "strings again"},
        {MSG_WELCOME, 9 << 3, "unknown fields"},  {0, 0, "envelopes over and over"},
    };
    uint8_t *bytes = malloc(WIRE_MESSAGE_MAX);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t len = 0, inner = WIRE_MESSAGE_MAX - 8;
        if (cases[i].kind) {
            bytes[len++] = (uint8_t)(cases[i].kind << 3 | 2);
            len += varint(bytes + len, inner);
        }
        uint8_t tag = cases[i].kind ? cases[i].inner_tag : MSG_STEP << 3 | 2;
        size_t end = cases[i].kind ? len + inner : WIRE_MESSAGE_MAX - 8;
        for (; len < end; len += 2) {
            bytes[len] = tag;
            bytes[len + 1] = 0;
        }
        struct arena a;
        struct msg out;
        struct err_text why = {{0}};
        arena_init(&a, 0);
        int64_t from = clock_now_us();
        err_t e = wire_unpack(bytes, end, &a, &out, &why);
        int64_t took = clock_now_us() - from;
        if (e != ERR_LINK_PROTOCOL) fail_msg("%s: %d", cases[i].what, e);
        assert_true(a.used_bytes <= 2 * WIRE_ARENA_MAX);
        print_message("%s: %s (%zu bytes, %lld us)\n", cases[i].what, why.s, a.used_bytes,
                      (long long)took);
        arena_fini(&a);
    }
    free(bytes);
}

static void test_arena_budget(void **state)
{
    (void)state;
    struct msg m = good_step();
    struct buf bytes = {0};
    assert_int_equal(wire_pack(&m, &bytes), OK);
    for (size_t budget = 16; budget < 4096; budget += 16) {
        struct arena a;
        struct msg out = {.kind = MSG_DRAIN};
        struct err_text why = {0};
        arena_init(&a, budget);
        err_t e = wire_unpack(bytes.data, bytes.len, &a, &out, &why);
        if (e) assert_int_equal(out.kind, MSG_DRAIN); // outputs only on success
        if (e) assert_non_null(strstr(why.s, "memory"));
        arena_fini(&a);
    }
    buf_fini(&bytes);
}

static uint64_t rng_next(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static void test_mutations(void **state)
{
    (void)state;
    struct msg seeds[] = {good_hello(), good_plan(), good_step(), good_result()};
    uint64_t rng = 88172645463325252u;
    size_t n_ok = 0, n_bad = 0;
    struct arena a;
    arena_init(&a, 0);
    for (int round = 0; round < 40000; round++) {
        struct buf b = {0};
        assert_int_equal(wire_pack(&seeds[round % 4], &b), OK);
        for (uint64_t k = rng_next(&rng) % 4; k != UINT64_MAX; k--)
            b.data[rng_next(&rng) % b.len] = (char)rng_next(&rng);
        size_t len = rng_next(&rng) % 8 ? b.len : rng_next(&rng) % b.len;
        uint8_t *exact = malloc(len ? len : 1); // so that the sanitizer sees a read past the end
        memcpy(exact, b.data, len);
        struct msg out;
        struct err_text why;
        arena_reset(&a);
        err_t e = wire_unpack(exact, len, &a, &out, &why);
        assert_true(e == OK || e == ERR_LINK_PROTOCOL);
        e ? n_bad++ : n_ok++;
        free(exact);
        buf_fini(&b);
    }
    arena_fini(&a);
    assert_true(n_ok > 100 && n_bad > 100);
}

static void test_speed(void **state)
{
    (void)state;
    int32_t id = 1234;
    struct step_row row = {
        .slot = 3, .flags = ROW_SAMPLE, .pos = 5000, .n_tok = 1, .ids = &id, .next_id = -1};
    struct msg m = {.kind = MSG_STEP,
                    .step = {.epoch = 12, .number = 100000, .rows = &row, .n_row = 1}};
    struct buf b = {0};
    assert_int_equal(wire_pack(&m, &b), OK);
    struct arena a;
    arena_init(&a, 0);
    enum { N = 20000 };
    int64_t from = clock_now_us();
    for (int i = 0; i < N; i++) {
        arena_reset(&a);
        struct msg out;
        assert_int_equal(wire_unpack(b.data, b.len, &a, &out, NULL), OK);
    }
    double each = (double)(clock_now_us() - from) / N;
    from = clock_now_us();
    for (int i = 0; i < N; i++) {
        buf_clear(&b);
        assert_int_equal(wire_pack(&m, &b), OK);
    }
    print_message("decode step of one row: %zu bytes, %.2f us to unpack, %.2f us to pack\n", b.len,
                  each, (double)(clock_now_us() - from) / N);
    assert_true(b.len < 64);
    arena_fini(&a);
    buf_fini(&b);
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(wire_kind_name(MSG_HELLO), "hello");
    assert_string_equal(wire_kind_name(MSG_ENROLLED), "enrolled");
    assert_string_equal(wire_kind_name(MSG_RENEWED), "renewed");
    assert_string_equal(wire_kind_name((enum msg_kind)0), "unknown");
    assert_string_equal(wire_kind_name((enum msg_kind)99), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hello),
        cmocka_unit_test(test_plan_and_prepared),
        cmocka_unit_test(test_step),
        cmocka_unit_test(test_result),
        cmocka_unit_test(test_small_kinds),
        cmocka_unit_test(test_largest),
        cmocka_unit_test(test_largest_step),
        cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_rules_hello),
        cmocka_unit_test(test_rules_plan),
        cmocka_unit_test(test_rules_step),
        cmocka_unit_test(test_rules_result),
        cmocka_unit_test(test_rules_rest),
        cmocka_unit_test(test_foreign_bytes),
        cmocka_unit_test(test_columns_that_disagree),
        cmocka_unit_test(test_amplification),
        cmocka_unit_test(test_arena_budget),
        cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_speed),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
