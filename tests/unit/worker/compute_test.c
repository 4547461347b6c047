// Computes as threads over the local road, every stage alone or a group: the same digests however
// the model is divided; members that die, stand still or come to nothing end the epoch with a
// sentence.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "kernels/kernels.h"
#include "proto/base/clock.h"
#include "tests/unit/worker/tiny.h"
#include "worker/compute.h"

#include <poll.h>
#include <unistd.h>

enum { RIG_MAX = 8, WAIT_US = 30000000, N_PROMPT = 120, N_NEW = 8 };

static void make_prompts(void);

static struct tiny_file files[2]; // without and with experts
static uint8_t hashes[2][32];

static int setup(void **state)
{
    (void)state;
    make_prompts();
    tiny_make(&files[0], 21, true);
    tiny_make_moe(&files[1], 22);
    for (int i = 0; i < 2; i++) {
        struct model *m;
        struct err_text why = {0};
        if (model_open(files[i].path, &m, &why)) fail_msg("%s", why.s);
        memcpy(hashes[i], m->hash, 32);
        model_close(m);
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++)
        unlink(files[i].path);
    return 0;
}

// -- a lane of computes --

// How a model is divided. Zeros: one stage, alone.
struct division {
    int model;
    uint32_t n_stage;
    uint32_t split[4], n_member[4];
    uint32_t part[WIRE_MEMBERS_MAX]; // of all groups; none: alike
    bool by_table;                   // experts by owner, one of them with a copy
};

struct rig {
    uint32_t n;
    struct compute *computes[RIG_MAX];
    uint32_t stage[RIG_MAX], member[RIG_MAX];
    uint32_t last; // the lead of the last stage
    uint64_t epoch;
    struct arena arena;
    struct msg msg; // the last one read
    uint8_t addresses[2][RIG_MAX][64];
    uint32_t lens[2][RIG_MAX];
};

static const uint64_t EPOCH = 3;

static struct plan_settings settings(void)
{
    return (struct plan_settings){.ctx = 256,
                                  .page_tok = 16,
                                  .n_page = 32,
                                  .n_slot = 4,
                                  .max_tok = 256,
                                  .max_rows = 4,
                                  .in_flight = 3,
                                  .kv_dtype = DT_F32,
                                  .precision = PRECISION_EXACT};
}

static struct msg_plan plan_of(const struct division *d, uint32_t stage, uint32_t member)
{
    static uint8_t owner[TINY_LAYERS * TINY_EXPERTS];
    static uint32_t replica[3];
    struct msg_plan p = {.epoch = EPOCH,
                         .model = "tiny",
                         .stage = stage,
                         .n_stage = d->n_stage ? d->n_stage : 1,
                         .embed = stage == 0,
                         .settings = settings(),
                         .road = ROAD_LOCAL,
                         .split = d->split[stage],
                         .member = member};
    p.layer_from = TINY_LAYERS * stage / p.n_stage;
    p.layer_to = TINY_LAYERS * (stage + 1) / p.n_stage;
    p.head = stage + 1 == p.n_stage;
    memcpy(p.model_hash, hashes[d->model], 32);
    uint32_t left = SHARE_TOTAL;
    for (uint32_t i = 0; i < p.n_stage; i++)
        p.n_member[i] = d->n_member[i] ? d->n_member[i] : 1;
    const uint32_t n = p.n_member[stage];
    for (uint32_t i = 0; n > 1 && i < n; i++) {
        p.part[i] = i + 1 == n ? left : d->part[i] ? d->part[i] : SHARE_TOTAL / n;
        left -= p.part[i];
    }
    if (!d->by_table || n == 1) return p;
    p.n_expert = TINY_EXPERTS;
    for (uint32_t i = 0; i < (p.layer_to - p.layer_from) * TINY_EXPERTS; i++)
        owner[i] = (uint8_t)(i * 7 / 3 % n);
    memcpy(replica, (uint32_t[]){p.layer_from, 2, (owner[2] + 1) % n}, sizeof replica);
    p.owner = owner;
    p.replicas = replica;
    p.n_replica = 1;
    return p;
}

static bool next_letter(struct compute *c, struct arena *a, struct msg *out, int64_t deadline_us)
{
    for (;;) {
        struct compute_letter *l = compute_letter(c);
        if (l && l->is_end) {
            compute_letter_done(c, l);
            return false;
        }
        if (l) {
            struct err_text why = {0};
            arena_reset(a);
            if (wire_unpack(l->bytes.data, l->bytes.len, a, out, &why)) fail_msg("%s", why.s);
            compute_letter_done(c, l);
            return true;
        }
        if (clock_now_us() > deadline_us) fail_msg("nothing is said");
        struct pollfd p = {.fd = compute_fd(c), .events = POLLIN};
        poll(&p, 1, 100);
    }
}

// The next letter of compute i, which must be of this kind.
static const struct msg *hear(struct rig *r, uint32_t i, enum msg_kind kind)
{
    if (!next_letter(r->computes[i], &r->arena, &r->msg, clock_now_us() + WAIT_US))
        fail_msg("compute %u ended", i);
    if (r->msg.kind == MSG_FAILED && kind != MSG_FAILED) fail_msg("%u: %s", i, r->msg.failed.why);
    assert_int_equal(r->msg.kind, kind);
    return &r->msg;
}

static void hand(struct rig *r, uint32_t i, const struct msg *m)
{
    struct compute_parcel *p = compute_parcel_new();
    struct buf b = {0};
    struct err_text why = {0};
    assert_int_equal(wire_pack(m, &b), OK);
    if (wire_unpack(b.data, b.len, &p->arena, &p->msg, &why)) fail_msg("%s", why.s);
    buf_fini(&b);
    compute_parcel_free(compute_hand(r->computes[i], p));
}

static struct compute *start(const struct msg_plan *plan, int model)
{
    struct compute_config c = {.plan = *plan,
                               .model_path = files[model].path,
                               .n_threads = 1,
                               .mem_max_bytes = UINT64_MAX};
    struct compute *out;
    struct err_text why = {0};
    if (compute_start(&c, &out, &why)) fail_msg("%s", why.s);
    return out;
}

static void keep(struct rig *r, int which, uint32_t i, const uint8_t *address, uint32_t len)
{
    assert_true(len <= sizeof r->addresses[which][i]);
    if (len) memcpy(r->addresses[which][i], address, len);
    r->lens[which][i] = len;
}

static void rig_open(struct rig *r, const struct division *d)
{
    *r = (struct rig){.epoch = EPOCH};
    arena_init(&r->arena, WIRE_ARENA_MAX);
    const uint32_t n_stage = d->n_stage ? d->n_stage : 1;
    for (uint32_t s = 0; s < n_stage; s++)
        for (uint32_t m = 0; m < (d->n_member[s] ? d->n_member[s] : 1); m++, r->n++) {
            const struct msg_plan p = plan_of(d, s, m);
            if (m == 0) r->last = r->n;
            r->stage[r->n] = s;
            r->member[r->n] = m;
            r->computes[r->n] = start(&p, d->model);
        }
    struct msg_peer peers[RIG_MAX];
    for (uint32_t i = 0; i < r->n; i++) {
        const struct msg_prepared *p = &hear(r, i, MSG_PREPARED)->prepared;
        keep(r, 0, i, p->address, p->n_address);
        keep(r, 1, i, p->group_address, p->n_group_address);
        peers[i] = (struct msg_peer){.stage = r->stage[i],
                                     .member = r->member[i],
                                     .address = r->addresses[0][i],
                                     .n_address = r->lens[0][i],
                                     .group_address = r->addresses[1][i],
                                     .n_group_address = r->lens[1][i]};
    }
    const struct msg m = {.kind = MSG_CONNECT,
                          .connect = {.epoch = EPOCH, .peers = peers, .n_peer = r->n}};
    for (uint32_t i = 0; i < r->n; i++)
        hand(r, i, &m);
    for (uint32_t i = 0; i < r->n; i++)
        assert_string_equal(hear(r, i, MSG_LINKED)->linked.transport, r->n > 1 ? "local" : "none");
}

static void end(struct rig *r, uint32_t i)
{
    struct compute_held held;
    compute_cancel(r->computes[i]);
    compute_join(r->computes[i], &held);
    compute_held_free(&held);
    r->computes[i] = NULL;
}

static void rig_close(struct rig *r)
{
    const int64_t from = clock_now_us();
    for (uint32_t i = 0; i < r->n; i++)
        if (r->computes[i]) compute_cancel(r->computes[i]);
    for (uint32_t i = 0; i < r->n; i++)
        if (r->computes[i]) end(r, i);
    assert_true(clock_now_us() - from < WAIT_US);
    arena_fini(&r->arena);
}

// -- steps --

// Long enough together that an experts group divides the step.
static int32_t prompt[2][N_PROMPT];
static uint32_t pages[2][16];

static void make_prompts(void)
{
    for (int32_t i = 0; i < N_PROMPT; i++) {
        prompt[0][i] = (i * i + 3 * i + 5) % TINY_VOCAB;
        prompt[1][i] = (7 * i * i + i) % TINY_VOCAB;
    }
    for (uint32_t i = 0; i < 16; i++) {
        pages[0][i] = (5 * i + 3) % 32;
        pages[1][i] = (5 * i + 83) % 32;
    }
}

// Step `number` of two sequences: their prompts, the second in two pieces, then a token each that
// chains on the one before.
static void send_step(struct rig *r, uint64_t number, uint32_t only)
{
    struct step_bind binds[2];
    struct step_row rows[2];
    for (uint32_t i = 0; i < 2; i++) {
        binds[i] = (struct step_bind){
            .slot = i + 1,
            .n_prompt = N_PROMPT,
            .sampling = {.top_p = 1, .repetition = 1, .n_logprobs = -1, .digest = true}};
        if (i) binds[i].sampling.temperature = 1;
        rows[i] = (struct step_row){.slot = i + 1, .flags = ROW_SAMPLE, .n_tok = 1, .next_id = -1};
        if (number == 1) {
            rows[i].n_tok = i ? N_PROMPT - 4 : N_PROMPT;
            rows[i].ids = prompt[i];
            rows[i].pages = pages[i];
            rows[i].n_page = 16;
            if (i) rows[i].flags = 0;
        } else if (number == 2 && i) {
            rows[i].pos = N_PROMPT - 4;
            rows[i].n_tok = 4;
            rows[i].ids = prompt[i] + N_PROMPT - 4;
        } else {
            rows[i].pos = N_PROMPT + (uint32_t)number - 2 - i;
            rows[i].flags |= ROW_CHAIN;
            rows[i].from_step = number - 1;
        }
    }
    const struct msg m = {.kind = MSG_STEP,
                          .step = {.epoch = EPOCH,
                                   .number = number,
                                   .binds = binds,
                                   .n_bind = number == 1 ? 2 : 0,
                                   .rows = rows,
                                   .n_row = 2}};
    for (uint32_t i = 0; i < r->n; i++)
        if (only == UINT32_MAX || only == i) hand(r, i, &m);
}

struct answer {
    int32_t id;
    uint64_t digest;
};

static uint32_t hear_result(struct rig *r, uint64_t number, struct answer *out)
{
    const struct msg *m;
    do {
        if (!next_letter(r->computes[r->last], &r->arena, &r->msg, clock_now_us() + WAIT_US))
            fail_msg("the last stage ended");
        m = &r->msg;
        if (m->kind == MSG_FAILED) fail_msg("%s", m->failed.why);
    } while (m->kind == MSG_USAGE);
    assert_int_equal(m->kind, MSG_RESULT);
    assert_int_equal(m->result.number, number);
    for (uint32_t i = 0; i < m->result.n_item; i++)
        out[i] = (struct answer){m->result.items[i].id, m->result.items[i].digest};
    return m->result.n_item;
}

static uint32_t generate(struct rig *r, struct answer *out)
{
    uint32_t n = 0;
    uint64_t sent = 0;
    for (uint64_t done = 1; done <= N_NEW; done++) {
        for (; sent < N_NEW && sent < done + 2; sent++)
            send_step(r, sent + 1, UINT32_MAX);
        n += hear_result(r, done, out + n);
    }
    return n;
}

static void expected(int model, struct answer *out)
{
    const struct division alone = {.model = model};
    struct rig r;
    rig_open(&r, &alone);
    assert_int_equal(generate(&r, out), 2 * N_NEW - 1);
    for (uint32_t i = 0; i < 2 * N_NEW - 1; i++)
        assert_true(out[i].digest && (!i || out[i].digest != out[i - 1].digest));
    rig_close(&r);
}

static void same(const struct division *d)
{
    static struct answer want[2][2 * N_NEW];
    static bool is_known[2];
    struct answer got[2 * N_NEW] = {{0}};
    if (!is_known[d->model]) expected(d->model, want[d->model]);
    is_known[d->model] = true;
    struct rig r;
    rig_open(&r, d);
    assert_int_equal(generate(&r, got), 2 * N_NEW - 1);
    for (uint32_t i = 0; i < 2 * N_NEW - 1; i++)
        if (got[i].id != want[d->model][i].id || got[i].digest != want[d->model][i].digest)
            fail_msg("item %u: id %d, expected %d", i, got[i].id, want[d->model][i].id);
    for (uint32_t i = 0; i < r.n; i++) {
        const struct compute_stats s = compute_stats_get(r.computes[i]);
        if (r.n == 1 || d->n_member[r.stage[i]] < 2) assert_int_equal(s.exchange_us, 0);
        if (r.n > 1) assert_true(s.busy_us >= s.exchange_us);
    }
    rig_close(&r);
}

static void tensor_groups_give_the_same_digests(void **state)
{
    (void)state;
    for (int model = 0; model < 2; model++) {
        same(&(struct division){.model = model, .split = {SPLIT_TENSOR}, .n_member = {2}});
        same(&(struct division){
            .model = model, .split = {SPLIT_TENSOR}, .n_member = {3}, .part = {40000, 9000}});
        same(&(struct division){.model = model,
                                .n_stage = 2,
                                .split = {SPLIT_TENSOR, SPLIT_TENSOR},
                                .n_member = {2, 3}});
        same(&(struct division){
            .model = model, .n_stage = 3, .split = {0, SPLIT_TENSOR}, .n_member = {1, 2, 1}});
    }
    same(
        &(struct division){.model = 1, .split = {SPLIT_TENSOR}, .n_member = {2}, .by_table = true});
}

static void expert_groups_give_the_same_digests(void **state)
{
    (void)state;
    same(&(struct division){.model = 1, .split = {SPLIT_EXPERTS}, .n_member = {2}});
    same(&(struct division){
        .model = 1, .split = {SPLIT_EXPERTS}, .n_member = {3}, .part = {60000, 3000}});
    same(&(struct division){
        .model = 1, .split = {SPLIT_EXPERTS}, .n_member = {3}, .by_table = true});
    same(&(struct division){.model = 1,
                            .n_stage = 2,
                            .split = {SPLIT_EXPERTS, SPLIT_EXPERTS},
                            .n_member = {2, 2},
                            .by_table = true});
    same(&(struct division){
        .model = 1, .n_stage = 2, .split = {SPLIT_EXPERTS, SPLIT_TENSOR}, .n_member = {3, 2}});
}

static void the_lead_tells_which_experts_are_used(void **state)
{
    (void)state;
    const struct division d = {.model = 1, .split = {SPLIT_EXPERTS}, .n_member = {2}};
    struct rig r;
    rig_open(&r, &d);
    send_step(&r, 1, UINT32_MAX);
    hear(&r, 0, MSG_RESULT);
    const struct msg_usage *u = &hear(&r, 0, MSG_USAGE)->usage;
    assert_true(u->epoch == EPOCH && u->layer_from == 0 && u->n_layer == TINY_LAYERS);
    assert_int_equal(u->n_expert, TINY_EXPERTS);
    for (uint32_t l = 0; l < TINY_LAYERS; l++) {
        uint32_t sum = 0;
        for (uint32_t e = 0; e < TINY_EXPERTS; e++)
            sum += u->count[l * TINY_EXPERTS + e];
        assert_int_equal(sum, TINY_USED * (2 * N_PROMPT - 4));
    }
    rig_close(&r);
}

// -- what goes wrong --

// One member is given no step: the others wait for it, and show that they do.
static void others_wait(struct rig *r, const struct division *d, uint32_t missing)
{
    rig_open(r, d);
    for (uint32_t i = 0; i < r->n; i++)
        if (i != missing) send_step(r, 1, i);
    usleep(50000);
    struct compute_stats before[RIG_MAX];
    for (uint32_t i = 0; i < r->n; i++)
        before[i] = compute_stats_get(r->computes[i]);
    usleep(300000);
    for (uint32_t i = 0; i < r->n; i++) {
        const struct compute_stats s = compute_stats_get(r->computes[i]);
        assert_true(s.progress > before[i].progress);
        assert_int_equal(s.step_now, i != missing);
    }
}

static void a_late_member_is_waited_for(void **state)
{
    (void)state;
    struct answer got[2], want[2 * N_NEW];
    for (uint32_t missing = 0; missing < 2; missing++)
        for (uint32_t split = SPLIT_TENSOR; split <= SPLIT_EXPERTS; split++) {
            struct rig r;
            const struct division d = {.model = 1, .split = {split}, .n_member = {2}};
            others_wait(&r, &d, missing);
            send_step(&r, 1, missing);
            hear_result(&r, 1, got);
            expected(1, want);
            assert_true(got[0].id == want[0].id && got[0].digest == want[0].digest);
            rig_close(&r);
        }
}

static void expect_failed(struct rig *r, uint32_t i, err_t code, const char *text)
{
    const struct msg_failed *f = &hear(r, i, MSG_FAILED)->failed;
    if (f->code != code || !strstr(f->why, text)) fail_msg("%u: %d %s", i, f->code, f->why);
}

static void a_member_that_dies_ends_the_epoch(void **state)
{
    (void)state;
    struct rig r;
    const struct division d = {.model = 1, .split = {SPLIT_TENSOR}, .n_member = {3}};
    others_wait(&r, &d, 1);
    end(&r, 1);
    expect_failed(&r, 0, ERR_LINK, "peer 1");
    expect_failed(&r, 2, ERR_LINK, "peer 1");
    rig_close(&r);
    // And between steps.
    const struct division e = {.model = 1, .split = {SPLIT_EXPERTS}, .n_member = {2}};
    rig_open(&r, &e);
    end(&r, 0);
    expect_failed(&r, 1, ERR_LINK, "peer 0");
    rig_close(&r);
}

static void a_stop_ends_an_exchange(void **state)
{
    (void)state;
    struct rig r;
    const struct division d = {.model = 1, .split = {SPLIT_EXPERTS}, .n_member = {2}};
    others_wait(&r, &d, 1);
    compute_stop(r.computes[0]);
    struct msg m;
    assert_false(next_letter(r.computes[0], &r.arena, &m, clock_now_us() + WAIT_US));
    rig_close(&r);
}

static void refused(const struct division *d, void change(struct msg_plan *), const char *text)
{
    struct rig r = {.n = 1, .epoch = EPOCH};
    arena_init(&r.arena, WIRE_ARENA_MAX);
    struct msg_plan p = plan_of(d, 0, 0);
    change(&p);
    r.computes[0] = start(&p, d->model);
    expect_failed(&r, 0, ERR_CONFIG, text);
    rig_close(&r);
}

static void no_split(struct msg_plan *p)
{
    p->split = SPLIT_NONE;
}
static void new_split(struct msg_plan *p)
{
    p->split = SPLIT_COUNT;
}
static void small_parts(struct msg_plan *p)
{
    p->part[0]--;
}
static void no_part(struct msg_plan *p)
{
    p->part[1] += p->part[0];
    p->part[0] = 0;
}
static void no_member(struct msg_plan *p)
{
    p->member = 2;
}
static void other_experts(struct msg_plan *p)
{
    p->n_expert--;
}
static void nothing(struct msg_plan *p)
{
    (void)p;
}

static void bad_groups_fail_with_a_sentence(void **state)
{
    (void)state;
    const struct division tensor = {.split = {SPLIT_TENSOR}, .n_member = {2}};
    const struct division many = {.split = {SPLIT_TENSOR}, .n_member = {TINY_HEADS + 1}};
    const struct division dense = {.split = {SPLIT_EXPERTS}, .n_member = {2}};
    const struct division table = {
        .model = 1, .split = {SPLIT_EXPERTS}, .n_member = {2}, .by_table = true};
    refused(&tensor, no_split, "by split 0");
    refused(&tensor, new_split, "by split 3");
    refused(&tensor, small_parts, "parts of 65535");
    refused(&tensor, no_part, "nothing of the stage for member 0");
    refused(&tensor, no_member, "member 2 of 2");
    refused(&many, nothing, "5 members for 4 heads");
    refused(&dense, nothing, "the model has none");
    refused(&table, other_experts, "7 experts of a model of 8");
}

static void bad_connections_fail_with_a_sentence(void **state)
{
    (void)state;
    const struct division d = {.split = {SPLIT_TENSOR}, .n_member = {2}};
    static const struct {
        uint32_t n, stage, member;
        err_t code;
        const char *text;
    } cases[] = {{1, 0, 1, ERR_LINK_PROTOCOL, "1 addresses for 2 workers"},
                 {2, 1, 0, ERR_LINK_PROTOCOL, "no member 0 of stage 1"},
                 {2, 0, 2, ERR_LINK_PROTOCOL, "no member 2 of stage 0"},
                 {2, 0, 1, ERR_LINK_PROTOCOL, "the address of member 1 is damaged"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rig r = {.n = 1, .epoch = EPOCH};
        arena_init(&r.arena, WIRE_ARENA_MAX);
        const struct msg_plan p = plan_of(&d, 0, 0);
        r.computes[0] = start(&p, 0);
        hear(&r, 0, MSG_PREPARED);
        const struct msg_peer peers[2] = {{0},
                                          {.stage = cases[i].stage, .member = cases[i].member}};
        const struct msg m = {.kind = MSG_CONNECT, .connect = {EPOCH, peers, cases[i].n}};
        hand(&r, 0, &m);
        expect_failed(&r, 0, cases[i].code, cases[i].text);
        rig_close(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensor_groups_give_the_same_digests),
        cmocka_unit_test(expert_groups_give_the_same_digests),
        cmocka_unit_test(the_lead_tells_which_experts_are_used),
        cmocka_unit_test(a_late_member_is_waited_for),
        cmocka_unit_test(a_member_that_dies_ends_the_epoch),
        cmocka_unit_test(a_stop_ends_an_exchange),
        cmocka_unit_test(bad_groups_fail_with_a_sentence),
        cmocka_unit_test(bad_connections_fail_with_a_sentence),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
