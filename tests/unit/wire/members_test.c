// What groups, surveys, copies of files and counts of experts add to the conversation: there and
// back, and every rule.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/base/dtype.h"
#include "proto/wire/control.pb-c.h"
#include "tests/unit/wire/trip.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// -- plan --

static const uint8_t owner[12] = {0, 1, 2, 0, 1, 2, 2, 1, 0, 2, 1, 0};
static const uint32_t replicas[9] = {4, 0, 1, 4, 0, 2, 6, 3, 1};

// Layers 4 to 7, four experts each, three members.
static struct msg good_plan(void)
{
    return (struct msg){.kind = MSG_PLAN,
                        .plan = {.epoch = 5,
                                 .model = "m",
                                 .stage = 1,
                                 .n_stage = 3,
                                 .layer_from = 4,
                                 .layer_to = 7,
                                 .settings = {.ctx = 1,
                                              .page_tok = 1,
                                              .n_page = 1,
                                              .n_slot = 1,
                                              .max_tok = 1,
                                              .max_rows = 1,
                                              .in_flight = 1,
                                              .kv_dtype = DT_F32},
                                 .road = ROAD_UCX,
                                 .lane = 7,
                                 .split = 2,
                                 .member = 2,
                                 .n_member = {1, 3, WIRE_MEMBERS_MAX},
                                 .part = {1, WIRE_PART_MAX, 3},
                                 .n_expert = 4,
                                 .owner = owner,
                                 .replicas = replicas,
                                 .n_replica = 3}};
}

static void test_plan(void **state)
{
    (void)state;
    struct msg m = good_plan();
    struct trip t;
    trip_ok(&t, &m);
    const struct msg_plan *p = &t.out.plan;
    assert_true(p->lane == 7 && p->split == 2 && p->member == 2 && p->n_expert == 4);
    assert_true(p->n_member[0] == 1 && p->n_member[1] == 3);
    assert_int_equal(p->n_member[2], WIRE_MEMBERS_MAX);
    assert_memory_equal(p->part, m.plan.part, sizeof p->part);
    assert_memory_equal(p->owner, owner, sizeof owner);
    assert_int_equal(p->n_replica, 3);
    assert_memory_equal(p->replicas, replicas, sizeof replicas);
    trip_fini(&t);

    // Alone: however it is said, it is one member and no parts.
    for (uint32_t n = 0; n < 2; n++) {
        m = good_plan();
        m.plan.member = m.plan.n_expert = m.plan.n_replica = 0;
        for (int i = 0; i < 3; i++)
            m.plan.n_member[i] = n;
        trip_ok(&t, &m);
        for (int i = 0; i < 3; i++)
            assert_int_equal(p->n_member[i], 1);
        assert_true(p->part[0] == 0 && !p->owner && !p->replicas);
        trip_fini(&t);
    }
}

static void test_largest_plan(void **state)
{
    (void)state;
    uint8_t *all = calloc(WIRE_EXPERTS_MAX + 512, 1);
    uint32_t *copies = calloc(WIRE_REPLICAS_MAX + 1, 3 * sizeof *copies);
    for (uint32_t i = 0; i <= WIRE_REPLICAS_MAX; i++) {
        copies[3 * i] = i / 512;
        copies[3 * i + 1] = i % 512;
        copies[3 * i + 2] = WIRE_MEMBERS_MAX - 1;
    }
    struct msg m = good_plan();
    m.plan.layer_from = 0;
    m.plan.layer_to = WIRE_EXPERTS_MAX / 512;
    m.plan.n_expert = 512;
    m.plan.owner = all;
    m.plan.replicas = copies;
    m.plan.n_replica = WIRE_REPLICAS_MAX;
    m.plan.n_member[1] = WIRE_MEMBERS_MAX;
    for (int i = 0; i < WIRE_MEMBERS_MAX; i++)
        m.plan.part[i] = 1;
    struct trip t;
    trip_ok(&t, &m);
    assert_memory_equal(t.out.plan.replicas, copies, 12 * WIRE_REPLICAS_MAX);
    trip_fini(&t);
    m.plan.n_replica++;
    refused(&m, "a copy too many");
    m.plan.n_replica = 0;
    m.plan.layer_to++;
    refused(&m, "a layer of experts too many");
    m = good_plan();
    m.plan.n_stage = WIRE_STAGES_MAX;
    for (int i = 0; i < WIRE_STAGES_MAX; i++)
        m.plan.n_member[i] = i == 1 ? 3 : 1;
    refused(&m, "more members than a lane has");
    free(all);
    free(copies);
}

static void test_rules_plan(void **state)
{
    (void)state;
    uint8_t o[12];
    uint32_t r[9];
    REFUSED(good_plan(), m.plan.n_member[0] = WIRE_MEMBERS_MAX + 1);
    REFUSED(good_plan(), m.plan.n_member[1] = WIRE_MEMBERS_MAX + 1);
    REFUSED(good_plan(), m.plan.layer_from = 8);
    REFUSED(good_plan(), m.plan.member = 3);
    REFUSED(good_plan(), m.plan.split = 256);
    REFUSED(good_plan(), m.plan.part[0] = 0);
    REFUSED(good_plan(), m.plan.part[2] = WIRE_PART_MAX + 1);
#define OWNER(change) REFUSED(good_plan(), (memcpy(o, owner, sizeof o), m.plan.owner = o, change))
    OWNER(o[11] = 3);
    OWNER(o[0] = 255);
#define COPY(change)                                                                               \
    REFUSED(good_plan(), (memcpy(r, replicas, sizeof r), m.plan.replicas = r, change))
    COPY(r[0] = 3);
    COPY(r[6] = 7);
    COPY(r[1] = 4);
    COPY(r[2] = 3);
    COPY(r[2] = 0);             // its owner
    COPY(r[2] = 2);             // twice
    COPY((r[2] = 2, r[5] = 1)); // not in order
    COPY((r[3] = 6, r[4] = 3, r[5] = 2));
    COPY((r[6] = 4, r[7] = 0, r[8] = 1));
}

// Bytes that wire_pack would not make.
static void test_foreign_plans(void **state)
{
    (void)state;
    static const struct {
        size_t n_member, n_part, n_owner, n_replica;
        uint32_t n_expert, member;
        err_t want;
    } cases[] = {
        {0, 0, 0, 0, 0, 0, OK},
        {1, 2, 0, 0, 0, 1, OK},
        {2, 2, 0, 0, 0, 0, ERR_LINK_PROTOCOL}, // members of two stages, there is one
        {1, 0, 0, 0, 0, 0, ERR_LINK_PROTOCOL}, // two members without parts
        {1, 1, 0, 0, 0, 0, ERR_LINK_PROTOCOL},
        {0, 1, 0, 0, 0, 0, ERR_LINK_PROTOCOL}, // alone with a part
        {0, 0, 0, 0, 0, 1, ERR_LINK_PROTOCOL},
        {1, 2, 4, 3, 2, 0, OK},
        {1, 2, 3, 0, 2, 0, ERR_LINK_PROTOCOL},
        {1, 2, 4, 0, 0, 0, ERR_LINK_PROTOCOL},
        {1, 2, 0, 0, 2, 0, ERR_LINK_PROTOCOL},
        {1, 2, 0, 3, 0, 0, ERR_LINK_PROTOCOL}, // a copy of nothing
        {1, 2, 4, 2, 2, 0, ERR_LINK_PROTOCOL},
        {1, 2, 0, 0, UINT32_MAX, 0, ERR_LINK_PROTOCOL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t hash[32] = {0}, zeros[4] = {0};
        uint32_t members[2] = {2, 2}, parts[2] = {1, 1}, copy[3] = {0, 1, 1};
        Trireme__Settings s = TRIREME__SETTINGS__INIT;
        s.ctx = s.page_tok = s.n_page = s.n_slot = s.max_tok = s.max_rows = s.in_flight = 1;
        s.kv_dtype = 1;
        Trireme__Plan plan = TRIREME__PLAN__INIT;
        plan.epoch = plan.n_stage = plan.road = 1;
        plan.layer_to = 2;
        plan.plan_hash = plan.model_hash = (ProtobufCBinaryData){32, hash};
        plan.key = (ProtobufCBinaryData){16, hash};
        plan.settings = &s;
        plan.n_member = members, plan.n_n_member = cases[i].n_member;
        plan.part = parts, plan.n_part = cases[i].n_part;
        plan.owner = (ProtobufCBinaryData){cases[i].n_owner, zeros};
        plan.replica = copy, plan.n_replica = cases[i].n_replica;
        plan.n_expert = cases[i].n_expert;
        plan.member = cases[i].member;
        Trireme__Envelope env = TRIREME__ENVELOPE__INIT;
        env.kind_case = TRIREME__ENVELOPE__KIND_PLAN;
        env.plan = &plan;
        uint8_t bytes[1024];
        const size_t len = trireme__envelope__get_packed_size(&env);
        assert_true(len <= sizeof bytes);
        trireme__envelope__pack(&env, bytes);
        struct arena a;
        struct msg out;
        struct err_text why;
        arena_init(&a, 0);
        if (wire_unpack(bytes, len, &a, &out, &why) != cases[i].want) fail_msg("case %zu", i);
        arena_fini(&a);
    }
}

static void test_connect(void **state)
{
    (void)state;
    uint8_t address[WIRE_ADDRESS_MAX + 1] = {1, 2, 3};
    struct msg_peer peers[2] = {{.stage = 1, .member = 2}, {.stage = 1, .member = 3}};
    struct msg m = {.kind = MSG_CONNECT, .connect = {1, peers, 2}};
    struct trip t;
    trip_ok(&t, &m); // two members of one stage
    trip_fini(&t);
    peers[1].member = 2;
    refused(&m, "a member named twice");
    peers[1].member = WIRE_MEMBERS_MAX;
    refused(&m, "a member out of range");
    peers[1].member = 1;
    peers[1].group_address = address;
    peers[1].n_group_address = sizeof address;
    refused(&m, "a group's address too long");
    struct msg prepared = {.kind = MSG_PREPARED, .prepared = {.epoch = 1}};
    prepared.prepared.settings = good_plan().plan.settings;
    prepared.prepared.group_address = address;
    prepared.prepared.n_group_address = 3;
    trip_ok(&t, &prepared);
    assert_int_equal(t.out.prepared.n_group_address, 3);
    assert_memory_equal(t.out.prepared.group_address, address, 3);
    trip_fini(&t);
    prepared.prepared.n_group_address = sizeof address;
    refused(&prepared, "a group's address too long");
}

// -- surveys --

static const uint8_t address[] = {9, 8, 7};
static const struct msg_target targets[2] = {{3, address, 3}, {4, address, 1}};
static const struct msg_path paths[2] = {{3, 1.5, 2e9, "ucx tcp", OK, ""},
                                         {4, 0, 0, "", ERR_LINK_PROTOCOL, "byte 7 of 9"}};

static struct msg good_survey(void)
{
    return (struct msg){
        .kind = MSG_SURVEY,
        .survey = {
            .round = 9, .road = ROAD_UCX, .key = {1, [15] = 2}, .targets = targets, .n_target = 2}};
}

static struct msg good_surveyed(void)
{
    return (struct msg){
        .kind = MSG_SURVEYED,
        .surveyed = {.round = 9, .address = address, .n_address = 3, .paths = paths, .n_path = 2}};
}

static void test_surveys(void **state)
{
    (void)state;
    struct trip t;
    struct msg m = good_survey();
    trip_ok(&t, &m);
    const struct msg_survey *s = &t.out.survey;
    assert_true(s->round == 9 && s->road == ROAD_UCX && s->n_target == 2);
    assert_memory_equal(s->key, m.survey.key, 16);
    assert_true(s->targets[0].worker == 3 && s->targets[0].n_address == 3);
    assert_memory_equal(s->targets[0].address, address, 3);
    trip_fini(&t);
    m = good_surveyed();
    trip_ok(&t, &m);
    const struct msg_surveyed *r = &t.out.surveyed;
    assert_true(r->round == 9 && r->n_address == 3 && r->n_path == 2);
    assert_true(r->paths[0].worker == 3 && r->paths[0].latency_us == 1.5);
    assert_true(r->paths[0].bytes_per_s == 2e9 && r->paths[0].code == OK);
    assert_string_equal(r->paths[0].transport, "ucx tcp");
    assert_int_equal(r->paths[1].code, ERR_LINK_PROTOCOL);
    assert_string_equal(r->paths[1].why, "byte 7 of 9");
    trip_fini(&t);
}

static void test_rules_surveys(void **state)
{
    (void)state;
    uint8_t far[WIRE_ADDRESS_MAX + 1] = {0};
    struct msg_target to[WIRE_SURVEY_MAX + 1];
    struct msg_path p[WIRE_SURVEY_MAX + 1];
    struct trip t;
    REFUSED(good_survey(), m.survey.round = 0);
    REFUSED(good_survey(), m.survey.road = 0);
    REFUSED(good_survey(), m.survey.road = ROAD_LOCAL | ROAD_UCX);
#define TO(change) REFUSED(good_survey(), (memcpy(to, targets, sizeof targets), change))
    TO((m.survey.targets = to, to[1].worker = 3));
    TO((m.survey.targets = to, to[1].n_address = 0));
    TO((m.survey.targets = to, to[1].address = far, to[1].n_address = sizeof far));
    REFUSED(good_surveyed(), m.surveyed.round = 0);
    REFUSED(good_surveyed(), (m.surveyed.address = far, m.surveyed.n_address = sizeof far));
#define PATH(change)                                                                               \
    REFUSED(good_surveyed(), (memcpy(p, paths, sizeof paths), m.surveyed.paths = p, change))
    PATH(p[0].latency_us = -1);
    PATH(p[0].bytes_per_s = INFINITY);
    PATH(p[0].transport = "a\nb");
    PATH(p[1].why = "\x1b");
    for (uint32_t i = 0; i <= WIRE_SURVEY_MAX; i++) {
        to[i] = (struct msg_target){i, address, 1};
        p[i] = paths[0];
    }
    struct msg m = good_survey(), r = good_surveyed();
    m.survey.targets = to, m.survey.n_target = WIRE_SURVEY_MAX;
    r.surveyed.paths = p, r.surveyed.n_path = WIRE_SURVEY_MAX;
    trip_ok(&t, &m);
    trip_fini(&t);
    trip_ok(&t, &r);
    trip_fini(&t);
    m.survey.n_target++;
    r.surveyed.n_path++;
    refused(&m, "too many targets");
    refused(&r, "too many paths");
}

// -- files --

static const struct msg_file files[2] = {{"model.gguf", UINT64_MAX, 77}, {"config.json", 0, 0}};

static struct msg good_welcome(void)
{
    return (struct msg){
        .kind = MSG_WELCOME,
        .welcome = {
            .worker = 1, .cluster = "c", .model_hash = {5, [31] = 6}, .files = files, .n_file = 2}};
}

static struct msg good_fetch(void)
{
    return (struct msg){.kind = MSG_FETCH,
                        .fetch = {.id = 3,
                                  .model_hash = {1, [31] = 2},
                                  .file = WIRE_FILES_MAX - 1,
                                  .offset = 1ull << 40,
                                  .bytes = WIRE_CHUNK_MAX}};
}

static struct msg good_chunk(void)
{
    return (struct msg){
        .kind = MSG_CHUNK,
        .chunk = {.id = 3, .why = "", .checksum = UINT32_MAX, .data = address, .n_data = 3}};
}

static void test_files(void **state)
{
    (void)state;
    struct trip t;
    struct msg m = good_welcome();
    trip_ok(&t, &m);
    const struct msg_welcome *w = &t.out.welcome;
    assert_int_equal(w->n_file, 2);
    assert_memory_equal(w->model_hash, m.welcome.model_hash, 32);
    assert_string_equal(w->files[0].name, "model.gguf");
    assert_true(w->files[0].bytes == UINT64_MAX && w->files[0].header_bytes == 77);
    trip_fini(&t);
    m.welcome.n_file = 0;
    trip_ok(&t, &m);
    assert_true(w->n_file == 0 && w->model_hash[0] == 0); // not offered: not said either
    trip_fini(&t);
    m = good_fetch();
    trip_ok(&t, &m);
    assert_memory_equal(&t.out.fetch, &m.fetch, sizeof m.fetch);
    trip_fini(&t);
    m = good_chunk();
    trip_ok(&t, &m);
    const struct msg_chunk *c = &t.out.chunk;
    assert_true(c->id == 3 && c->code == OK && c->checksum == UINT32_MAX && c->n_data == 3);
    assert_memory_equal(c->data, address, 3);
    trip_fini(&t);
    m = (struct msg){.kind = MSG_CHUNK, .chunk = {.id = 4, .code = ERR_BUSY, .why = "later"}};
    trip_ok(&t, &m);
    assert_int_equal(c->code, ERR_BUSY);
    assert_string_equal(c->why, "later");
    trip_fini(&t);
}

static void test_rules_files(void **state)
{
    (void)state;
    static const char *const names[] = {"", ".", "..", ".hidden", "a/b", "/etc/passwd", "a\nb"};
    struct msg_file many[WIRE_FILES_MAX + 1];
    char long_name[257];
    memset(long_name, 'n', 256);
    long_name[256] = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        many[0] = (struct msg_file){names[i], 1, 1};
        REFUSED(good_welcome(), (m.welcome.files = many, m.welcome.n_file = 1));
    }
    many[0] = (struct msg_file){long_name, 1, 1};
    REFUSED(good_welcome(), (m.welcome.files = many, m.welcome.n_file = 1));
    many[0] = (struct msg_file){"short", 1, 2};
    REFUSED(good_welcome(), (m.welcome.files = many, m.welcome.n_file = 1));
    for (int i = 0; i <= WIRE_FILES_MAX; i++)
        many[i] = files[0];
    REFUSED(good_welcome(), (m.welcome.files = many, m.welcome.n_file = WIRE_FILES_MAX + 1));
    REFUSED(good_fetch(), m.fetch.file = WIRE_FILES_MAX);
    REFUSED(good_fetch(), m.fetch.bytes = 0);
    REFUSED(good_fetch(), m.fetch.bytes++);
    REFUSED(good_fetch(), m.fetch.offset = UINT64_MAX);
    REFUSED(good_chunk(), m.chunk.n_data = 0);
    REFUSED(good_chunk(), m.chunk.code = ERR_BUSY);
    REFUSED(good_chunk(), m.chunk.why = "\x01");
    uint8_t *data = calloc(1, WIRE_CHUNK_MAX + 1);
    struct msg m = good_chunk();
    m.chunk.data = data;
    m.chunk.n_data = WIRE_CHUNK_MAX;
    struct trip t;
    trip_ok(&t, &m);
    trip_fini(&t);
    m.chunk.n_data++;
    refused(&m, "a chunk too long");
    free(data);
}

// -- use of experts --

static void test_usage(void **state)
{
    (void)state;
    static uint32_t count[WIRE_EXPERTS_MAX + 4];
    for (uint32_t i = 0; i < WIRE_EXPERTS_MAX; i++)
        count[i] = UINT32_MAX - i;
    struct msg m = {.kind = MSG_USAGE, .usage = {4, 9, WIRE_EXPERTS_MAX / 4, 4, count}};
    struct trip t;
    trip_ok(&t, &m);
    const struct msg_usage *u = &t.out.usage;
    assert_true(u->epoch == 4 && u->layer_from == 9 && u->n_expert == 4);
    assert_int_equal(u->n_layer, WIRE_EXPERTS_MAX / 4);
    assert_memory_equal(u->count, count, 4 * WIRE_EXPERTS_MAX);
    trip_fini(&t);
    m.usage.n_layer++;
    refused(&m, "too many experts");
    m.usage.n_layer = 2;
    m.usage.layer_from = UINT32_MAX - 1;
    refused(&m, "layers past the end");
    m.usage.layer_from = 0;
    m.usage.epoch = 0;
    refused(&m, "no epoch");
    m.usage.epoch = 1;
    m.usage.n_layer = 0;
    refused(&m, "no layers");
    Trireme__Usage bad = TRIREME__USAGE__INIT;
    Trireme__Envelope env = TRIREME__ENVELOPE__INIT;
    env.kind_case = TRIREME__ENVELOPE__KIND_USAGE;
    env.usage = &bad;
    bad.epoch = 1;
    bad.count = count;
    for (int i = 0; i < 2; i++) { // counts of no experts, and of half a layer
        bad.n_count = 3;
        bad.n_expert = i ? 2 : 0;
        uint8_t bytes[64];
        const size_t len = trireme__envelope__pack(&env, bytes);
        struct arena a;
        struct msg out;
        struct err_text why;
        arena_init(&a, 0);
        assert_int_equal(wire_unpack(bytes, len, &a, &out, &why), ERR_LINK_PROTOCOL);
        arena_fini(&a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan),          cmocka_unit_test(test_largest_plan),
        cmocka_unit_test(test_rules_plan),    cmocka_unit_test(test_foreign_plans),
        cmocka_unit_test(test_connect),       cmocka_unit_test(test_surveys),
        cmocka_unit_test(test_rules_surveys), cmocka_unit_test(test_files),
        cmocka_unit_test(test_rules_files),   cmocka_unit_test(test_usage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
