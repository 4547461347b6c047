// The fleet against workers that only pretend, over local links: the happy path, and each way in
// which a worker can go wrong.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#include "coordinator/fleet/fleet.h"
#include "tests/unit/fleet/rower.h"

enum { LAYERS = 12, VOCAB = 320, ROWERS = 4 };

// A model without a file: one weight for each part.
static struct model_weight weights[LAYERS + 2];
static struct model model = {
    .path = "none",
    .hash = {1, 2, 3},
    .shape = {.arch = "llama",
              .name = "pretended",
              .n_layer = LAYERS,
              .dim = 64,
              .ffn_dim = 128,
              .n_vocab = VOCAB,
              .ctx_train = 512,
              .n_head = 4,
              .n_head_kv = 4,
              .head_dim = 16},
    .weights = weights,
    .n_weight = LAYERS + 2,
};

struct scene {
    uv_loop_t loop;
    uv_timer_t timer;
    struct fleet *fleet;
    struct rower rowers[ROWERS];
    bool is_up[ROWERS];

    // What the fleet told its owner, of all lanes and then of the first.
    bool serving[FLEET_LANES_MAX], busy[FLEET_LANES_MAX];
    uint64_t epochs[FLEET_LANES_MAX];
    uint32_t n_close;
    bool is_serving, is_busy;
    uint64_t epoch;
    uint32_t n_stage, n_serve, n_suspend, n_give_up;
    uint64_t n_result, n_sent;
    int32_t last_id;
    const char *refuse; // on_result says that this is wrong
};

static void on_serve(void *arg, uint32_t lane, const struct place *p, uint64_t epoch)
{
    struct scene *s = arg;
    assert_false(s->serving[lane]);
    for (int i = 0; i < FLEET_LANES_MAX; i++)
        assert_int_not_equal(epoch, s->epochs[i]); // no two lanes have one in common
    assert_true(epoch > s->epochs[lane]);
    s->serving[lane] = true;
    s->epochs[lane] = epoch;
    if (lane) return;
    s->is_serving = true;
    s->epoch = epoch;
    s->n_stage = p->n_stage;
    s->n_serve++;
    s->n_sent = s->n_result = 0;
}

static void on_suspend(void *arg, uint32_t lane)
{
    struct scene *s = arg;
    assert_true(s->serving[lane]);
    s->serving[lane] = false;
    if (lane) return;
    s->is_serving = false;
    s->n_suspend++;
}

static err_t on_result(void *arg, uint32_t lane, const struct step_result *r, struct err_text *why)
{
    struct scene *s = arg;
    assert_int_equal(lane, 0);
    assert_int_equal(r->epoch, s->epoch);
    assert_int_equal(r->number, s->n_result + 1);
    if (s->refuse) return err_say(why, ERR_LINK_PROTOCOL, "%s", s->refuse);
    s->n_result++;
    if (r->n_item) s->last_id = r->items[0].id;
    return OK;
}

static void on_give_up(void *arg, uint32_t lane, const char *sentence)
{
    struct scene *s = arg;
    assert_non_null(sentence);
    s->n_give_up += lane == 0;
}

static void on_close(void *arg, uint32_t lane)
{
    struct scene *s = arg;
    assert_false(s->serving[lane]);
    s->n_close++;
}

static bool is_busy(void *arg, uint32_t lane)
{
    struct scene *s = arg;
    return lane ? s->busy[lane] : s->is_busy;
}

static void on_timer(uv_timer_t *t)
{
    struct scene *s = t->data;
    (void)s;
}

struct scene_ask {
    uint32_t n_lane, n_expect, n_stage;
    enum share_split split;
    uint64_t kv_tokens; // 0: 512
};

static void scene_open_as(struct scene *s, const struct scene_ask *ask)
{
    memset(s, 0, sizeof *s);
    for (int i = 0; i < LAYERS + 2; i++)
        weights[i] = (struct model_weight){.slot = SLOT_FFN_UP,
                                           .dtype = DT_F32,
                                           .is_matrix = true,
                                           .n = 1,
                                           .rows = 64,
                                           .cols = 64,
                                           .part = i < LAYERS    ? i
                                                   : i == LAYERS ? PART_EMBED
                                                                 : PART_HEAD,
                                           .bytes = 1 << 20};
    uv_loop_init(&s->loop);
    uv_timer_init(&s->loop, &s->timer);
    s->timer.data = s;
    uv_timer_start(&s->timer, on_timer, 10, 10);
    struct fleet_config c = {
        .loop = &s->loop,
        .cluster = "test",
        .want = {.model = &model,
                 .n_stage = ask->n_stage,
                 .split = ask->split,
                 .ctx = 128,
                 .n_slot = 4,
                 .max_tok = 64,
                 .kv_tokens = ask->kv_tokens ? ask->kv_tokens : 512,
                 .kv_dtype = DT_F16},
        .n_lane = ask->n_lane,
        .n_expect = ask->n_expect,
        .far_us = 10000,
        .grace_us = 500000,
        .listener = {.arg = s,
                     .on_serve = on_serve,
                     .on_suspend = on_suspend,
                     .on_result = on_result,
                     .on_give_up = on_give_up,
                     .on_close = on_close,
                     .is_busy = is_busy},
    };
    struct err_text why;
    assert_int_equal(fleet_open(&c, &s->fleet, &why), OK);
}

static void scene_open(struct scene *s, uint32_t n_expect, uint32_t n_stage)
{
    scene_open_as(s, &(struct scene_ask){.n_lane = 1, .n_expect = n_expect, .n_stage = n_stage});
}

static struct rower *hire(struct scene *s, int i)
{
    static const char *const names[ROWERS] = {"anna", "bert", "carl", "dora"};
    struct rower *r = &s->rowers[i];
    struct link *end = rower_start(r, names[i], &model);
    assert_non_null(end);
    assert_int_equal(fleet_add(s->fleet, end), OK);
    s->is_up[i] = true;
    return r;
}

static void start(struct scene *s, int i)
{
    hire(s, i);
    rower_go(&s->rowers[i]);
}

static void stop(struct scene *s, int i)
{
    if (s->is_up[i]) rower_stop(&s->rowers[i]);
    s->is_up[i] = false;
}

static void scene_close(struct scene *s)
{
    fleet_close(s->fleet);
    for (int i = 0; i < ROWERS; i++)
        stop(s, i);
    uv_close((uv_handle_t *)&s->timer, NULL);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&s->loop), 0);
}

// Turns the loop until the condition holds; fails after `seconds`.
#define UNTIL(scene, seconds, condition)                                                           \
    do {                                                                                           \
        int64_t end_us = clock_now_us() + (int64_t)(1e6 * (seconds));                              \
        while (!(condition)) {                                                                     \
            if (clock_now_us() > end_us)                                                           \
                fail_msg("not within %g s: %s", (double)(seconds), #condition);                    \
            uv_run(&(scene)->loop, UV_RUN_ONCE);                                                   \
        }                                                                                          \
    } while (0)

static void turn(struct scene *s, double seconds)
{
    int64_t end = clock_now_us() + (int64_t)(seconds * 1e6);
    while (clock_now_us() < end)
        uv_run(&s->loop, UV_RUN_ONCE);
}

static void send_step(struct scene *s)
{
    int32_t ids[3] = {5, 6, 7};
    struct step_row row = {.slot = 1, .flags = ROW_SAMPLE, .n_tok = 3, .ids = ids, .next_id = -1};
    struct step_bind bind = {.slot = 1,
                             .sampling = {.top_p = 1, .repetition = 1, .n_logprobs = -1}};
    struct step step = {.epoch = s->epoch,
                        .number = ++s->n_sent,
                        .binds = &bind,
                        .n_bind = 1,
                        .rows = &row,
                        .n_row = 1};
    assert_int_equal(fleet_send(s->fleet, 0, &step), OK);
}

// Two of two workers serve two stages.
static void scene_serving(struct scene *s)
{
    scene_open(s, 2, 2);
    start(s, 0);
    start(s, 1);
    UNTIL(s, 5, s->is_serving);
    assert_int_equal(s->n_stage, 2);
    s->is_busy = true;
}

// The number of the rower that has this stage.
static int rower_of(struct scene *s, uint32_t stage)
{
    const struct lane *l = &fleet_lane(s->fleet, 0)->lane;
    const char *name =
        fleet_worker(s->fleet, l->place.members[l->place.stages[stage].first].worker)->hello.name;
    for (int i = 0; i < ROWERS; i++)
        if (s->is_up[i] && strcmp(s->rowers[i].name, name) == 0) return i;
    fail_msg("no rower %s", name);
    return -1;
}

static void test_steps(void **state)
{
    (void)state;
    struct scene s;
    scene_serving(&s);
    for (int i = 0; i < 100; i++) {
        send_step(&s);
        UNTIL(&s, 2, s.n_result == s.n_sent);
        assert_int_equal(s.last_id, rower_draw(7, 2, VOCAB));
    }
    // The same bytes went to every stage.
    UNTIL(&s, 2, atomic_load(&s.rowers[0].n_step) == 100);
    UNTIL(&s, 2, atomic_load(&s.rowers[1].n_step) == 100);
    const struct lane *l = &fleet_lane(s.fleet, 0)->lane;
    assert_int_equal(l->place.stages[0].layer_from, 0);
    assert_int_equal(l->place.stages[0].layer_to, l->place.stages[1].layer_from);
    assert_int_equal(l->place.stages[1].layer_to, LAYERS);
    assert_true(l->place.stages[0].embed && l->place.stages[1].head);
    scene_close(&s);
}

static void test_crash(void **state)
{
    (void)state;
    struct scene s;
    scene_serving(&s);
    int64_t begun = clock_now_us();
    atomic_store(&s.rowers[0].fault, ROWER_CRASH);
    UNTIL(&s, 0.5, !s.is_serving);
    UNTIL(&s, 2, s.is_serving);
    print_message("crash to serving again: %.1f ms\n", (double)(clock_now_us() - begun) / 1e3);
    assert_int_equal(s.n_stage, 1);
    send_step(&s);
    UNTIL(&s, 2, s.n_result == 1);
    // It comes back; the wider plan waits until nothing runs.
    stop(&s, 0);
    start(&s, 0);
    turn(&s, 0.5);
    assert_int_equal(s.n_stage, 1);
    s.is_busy = false;
    UNTIL(&s, 2, s.is_serving && s.n_stage == 2);
    scene_close(&s);
}

static void test_standby_takes_over(void **state)
{
    (void)state;
    struct scene s;
    scene_serving(&s);
    start(&s, 2);
    turn(&s, 0.3);
    int dead = rower_of(&s, 0), alive = rower_of(&s, 1);
    unsigned from = atomic_load(&s.rowers[dead].layer_from);
    unsigned to = atomic_load(&s.rowers[dead].layer_to);
    unsigned kept = atomic_load(&s.rowers[alive].layer_from);
    atomic_store(&s.rowers[dead].fault, ROWER_CRASH);
    UNTIL(&s, 1, !s.is_serving);
    UNTIL(&s, 2, s.is_serving);
    assert_int_equal(s.n_stage, 2);
    // The standby got exactly what was lost; the survivor keeps its layers.
    assert_int_equal(atomic_load(&s.rowers[2].layer_from), from);
    assert_int_equal(atomic_load(&s.rowers[2].layer_to), to);
    assert_int_equal(atomic_load(&s.rowers[alive].layer_from), kept);
    scene_close(&s);
}

static void test_freeze(void **state)
{
    (void)state;
    struct scene s;
    scene_serving(&s);
    atomic_store(&s.rowers[1].fault, ROWER_FREEZE);
    turn(&s, 1);
    atomic_store(&s.rowers[1].fault, ROWER_FINE);
    turn(&s, 1);
    assert_int_equal(s.n_suspend, 0); // one second is no death
    int64_t begun = clock_now_us();
    atomic_store(&s.rowers[1].fault, ROWER_FREEZE);
    UNTIL(&s, 10, !s.is_serving);
    print_message("silence noticed after %.2f s\n", (double)(clock_now_us() - begun) / 1e6);
    UNTIL(&s, 2, s.is_serving);
    assert_int_equal(s.n_stage, 1);
    scene_close(&s);
}

static void test_all_gone(void **state)
{
    (void)state;
    struct scene s;
    scene_serving(&s);
    atomic_store(&s.rowers[0].fault, ROWER_CRASH);
    atomic_store(&s.rowers[1].fault, ROWER_CRASH);
    UNTIL(&s, 1, fleet_lane(s.fleet, 0)->lane.state == LANE_NO_CAPACITY);
    assert_int_equal(s.n_give_up, 0);
    UNTIL(&s, 2, s.n_give_up == 1);
    stop(&s, 1);
    start(&s, 1);
    UNTIL(&s, 2, s.is_serving);
    assert_int_equal(s.n_give_up, 1);
    scene_close(&s);
}

// The worker with this stage misbehaves; it must be dropped, and the other go on alone.
static void check_dropped(uint32_t stage, enum rower_fault fault, const char *why)
{
    struct scene s;
    scene_serving(&s);
    send_step(&s);
    UNTIL(&s, 2, s.n_result == 1);
    int bad = rower_of(&s, stage);
    atomic_store(&s.rowers[bad].fault, (int)fault);
    send_step(&s);
    UNTIL(&s, 2, s.n_suspend == 1);
    UNTIL(&s, 2, s.is_serving);
    assert_int_equal(s.n_stage, 1);
    assert_int_not_equal(rower_of(&s, 0), bad);
    UNTIL(&s, 2, atomic_load(&s.rowers[bad].is_refused));
    assert_false(atomic_load(&s.rowers[bad].is_refused_for_good));
    send_step(&s);
    UNTIL(&s, 2, s.n_result == 1);
    print_message("dropped: %s\n", why);
    scene_close(&s);
}

static void test_violations(void **state)
{
    (void)state;
    check_dropped(0, ROWER_GARBAGE, "bytes that are no message");
    check_dropped(0, ROWER_FROM_ANY_STAGE, "result from a stage that is not the last");
    check_dropped(1, ROWER_FUTURE, "epoch from the future");
    check_dropped(1, ROWER_TWICE, "a result twice");
}

static void test_owner_refuses_a_result(void **state)
{
    (void)state;
    struct scene s;
    scene_serving(&s);
    int last = rower_of(&s, 1);
    s.refuse = "an id over the vocabulary";
    send_step(&s);
    UNTIL(&s, 2, s.n_suspend == 1);
    UNTIL(&s, 2, s.is_serving);
    assert_int_not_equal(rower_of(&s, 0), last);
    scene_close(&s);
}

static void test_failed_step_is_tried_again(void **state)
{
    (void)state;
    struct scene s;
    scene_serving(&s);
    atomic_store(&s.rowers[0].fault, ROWER_FAIL_STEP);
    send_step(&s);
    UNTIL(&s, 2, s.n_suspend == 1);
    UNTIL(&s, 2, s.is_serving);
    assert_int_equal(s.n_stage, 2); // once is forgiven
    scene_close(&s);
}

static void test_failing_plans(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s, 2, 2);
    atomic_store(&hire(&s, 0)->fault, ROWER_FAIL_PLAN);
    rower_go(&s.rowers[0]);
    start(&s, 1);
    UNTIL(&s, 5, s.is_serving);
    assert_int_equal(s.n_stage, 1);
    assert_int_equal(rower_of(&s, 0), 1);
    assert_int_equal(atomic_load(&s.rowers[0].n_plan), 3);
    scene_close(&s);
}

static void test_other_settings_are_refused(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s, 1, 1);
    atomic_store(&hire(&s, 0)->fault, ROWER_OTHER_SETTINGS);
    rower_go(&s.rowers[0]);
    UNTIL(&s, 2, fleet_lane(s.fleet, 0)->lane.state == LANE_NO_CAPACITY);
    UNTIL(&s, 2, atomic_load(&s.rowers[0].is_refused));
    assert_true(atomic_load(&s.rowers[0].is_refused_for_good));
    assert_non_null(strstr(fleet_lane(s.fleet, 0)->lane.why.s, "n_slot"));
    scene_close(&s);
}

// A coordinator starts again: the workers tell what they hold, and nothing moves.
static void test_workers_keep_what_they_hold(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s, 3, 3);
    const uint32_t held[3][2] = {{7, LAYERS}, {0, 3}, {3, 7}};
    for (int i = 0; i < 3; i++) {
        struct rower *r = hire(&s, i);
        r->held_from = held[i][0];
        r->held_to = held[i][1];
        rower_go(r);
    }
    UNTIL(&s, 5, s.is_serving);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(atomic_load(&s.rowers[i].layer_from), held[i][0]);
        assert_int_equal(atomic_load(&s.rowers[i].layer_to), held[i][1]);
    }
    scene_close(&s);
}

static void test_same_name_again(void **state)
{
    (void)state;
    struct scene s;
    scene_serving(&s);
    // The same worker connects while its old link still looks alive.
    struct rower *old = &s.rowers[0];
    struct rower again;
    struct link *end = rower_start(&again, old->name, &model);
    assert_int_equal(fleet_add(s.fleet, end), OK);
    again.held_from = atomic_load(&old->layer_from);
    again.held_to = atomic_load(&old->layer_to);
    rower_go(&again);
    UNTIL(&s, 2, s.n_suspend == 1);
    UNTIL(&s, 3, s.is_serving);
    // It is back in its old stage, and no plan without it was made.
    assert_int_equal(s.n_stage, 2);
    assert_int_equal(s.epoch, 2);
    assert_int_equal(atomic_load(&again.layer_from), again.held_from);
    assert_int_equal(atomic_load(&again.layer_to), again.held_to);
    fleet_close(s.fleet);
    rower_stop(&again);
    s.fleet = NULL;
    scene_close(&s);
}

static void test_wrong_name_is_refused(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s, 1, 1);
    struct rower *r = &s.rowers[0];
    struct link *end = rower_start(r, "anna", &model);
    r->name = "bert";
    assert_int_equal(fleet_add(s.fleet, end), OK);
    s.is_up[0] = true;
    rower_go(r);
    UNTIL(&s, 2, atomic_load(&r->is_refused));
    assert_null(fleet_worker(s.fleet, 0));
    scene_close(&s);
}

static void test_does_not_fit(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s, 1, 1);
    hire(&s, 0)->mem_free_bytes = 8 << 20; // 14 MiB of weights
    rower_go(&s.rowers[0]);
    UNTIL(&s, 2, fleet_lane(s.fleet, 0)->lane.state == LANE_NO_CAPACITY);
    assert_non_null(strstr(fleet_lane(s.fleet, 0)->lane.why.s, "does not fit"));
    assert_non_null(strstr(fleet_lane(s.fleet, 0)->lane.why.s, "short by "));
    assert_int_equal(atomic_load(&s.rowers[0].n_plan), 0);
    scene_close(&s);
}

// Four workers make two lanes of two stages; what one lane loses the other does not notice.
static void test_two_lanes(void **state)
{
    (void)state;
    struct scene s;
    scene_open_as(&s, &(struct scene_ask){.n_lane = 2, .n_expect = 4});
    for (int i = 0; i < 4; i++)
        start(&s, i);
    UNTIL(&s, 5, s.serving[0] && s.serving[1]);
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(fleet_lane(s.fleet, i)->lane.place.n_stage, 2);
    assert_null(fleet_lane(s.fleet, 2));
    const uint64_t before = s.epochs[1];
    s.is_busy = s.busy[1] = true;
    atomic_store(&s.rowers[rower_of(&s, 1)].fault, ROWER_CRASH);
    UNTIL(&s, 2, s.n_suspend == 1);
    UNTIL(&s, 2, s.is_serving);
    assert_int_equal(s.n_stage, 1);
    assert_int_equal(s.epochs[1], before);
    // Both of one lane are lost: a spare one of the other would come over, but there is none.
    atomic_store(&s.rowers[rower_of(&s, 0)].fault, ROWER_CRASH);
    UNTIL(&s, 2, fleet_lane(s.fleet, 0)->lane.state == LANE_NO_CAPACITY);
    turn(&s, 0.4);
    assert_int_equal(fleet_lane(s.fleet, 0)->lane.state, LANE_NO_CAPACITY);
    assert_true(s.serving[1]);
    scene_close(&s);
}

static void test_spare_hands_change_lanes(void **state)
{
    (void)state;
    struct scene s;
    scene_open_as(&s, &(struct scene_ask){.n_lane = 2, .n_expect = 2, .n_stage = 1});
    for (int i = 0; i < 3; i++) // the third has nothing to do
        start(&s, i);
    UNTIL(&s, 5, s.serving[0] && s.serving[1] && fleet_worker(s.fleet, 2));
    const uint32_t helped = 1 - fleet_worker(s.fleet, 2)->lane;
    assert_int_equal(fleet_worker_role(fleet_worker(s.fleet, 2)), LANE_STANDBY);
    const uint32_t lost = fleet_lane(s.fleet, helped)->lane.place.members[0].worker;
    for (int i = 0; i < 3; i++)
        if (!strcmp(s.rowers[i].name, fleet_worker(s.fleet, lost)->hello.name))
            atomic_store(&s.rowers[i].fault, ROWER_CRASH);
    UNTIL(&s, 2, !s.serving[helped]);
    UNTIL(&s, 2, s.serving[helped]);
    assert_int_equal(fleet_worker(s.fleet, 2)->lane, helped);
    scene_close(&s);
}

static void test_a_lane_of_its_own(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s, 2, 0);
    hire(&s, 0)->own_lane = true;
    rower_go(&s.rowers[0]);
    start(&s, 1);
    UNTIL(&s, 5, s.serving[0] && s.serving[1]); // it was one of the two that were waited for
    const struct fleet_lane *own = fleet_lane(s.fleet, 1);
    assert_string_equal(own->name, "anna");
    assert_int_equal(own->lane.place.n_stage, 1);
    assert_false(fleet_lane_is_far(own));
    atomic_store(&s.rowers[0].fault, ROWER_CRASH);
    UNTIL(&s, 2, s.n_close == 1);
    assert_null(fleet_lane(s.fleet, 1));
    // One that cannot hold the model alone is like the others.
    struct rower *small = hire(&s, 2);
    small->own_lane = true;
    small->mem_free_bytes = 12 << 20;
    rower_go(small);
    UNTIL(&s, 2, fleet_worker(s.fleet, 0));
    assert_int_equal(fleet_worker(s.fleet, 0)->lane, 0);
    scene_close(&s);
}

static void test_groups(void **state)
{
    (void)state;
    struct scene s;
    scene_open_as(
        &s, &(struct scene_ask){.n_lane = 1, .n_expect = 4, .n_stage = 2, .split = SPLIT_TENSOR});
    for (int i = 0; i < 4; i++)
        start(&s, i);
    UNTIL(&s, 5, s.is_serving);
    assert_int_equal(s.n_stage, 2);
    s.is_busy = true;
    for (int i = 0; i < 4; i++)
        assert_int_equal(atomic_load(&s.rowers[i].n_member), 2);
    for (int i = 0; i < 10; i++) {
        send_step(&s);
        UNTIL(&s, 2, s.n_result == s.n_sent);
    }
    for (int i = 0; i < 4; i++) // every member gets every step
        UNTIL(&s, 2, atomic_load(&s.rowers[i].n_step) == 10);
    for (int i = 0; i < 4; i++)
        if (atomic_load(&s.rowers[i].member) == 1) {
            atomic_store(&s.rowers[i].fault, ROWER_CRASH);
            break;
        }
    UNTIL(&s, 2, s.n_suspend == 1);
    UNTIL(&s, 2, s.is_serving);
    assert_int_equal(fleet_lane(s.fleet, 0)->lane.place.n_member, 2); // of three
    send_step(&s);
    UNTIL(&s, 2, s.n_result == 1);
    scene_close(&s);
}

static void test_drain(void **state)
{
    (void)state;
    struct scene s;
    struct err_text why;
    scene_serving(&s);
    assert_int_equal(fleet_drain(s.fleet, "nobody", 0, &why), ERR_NOT_FOUND);
    const int leaves = rower_of(&s, 1);
    assert_int_equal(fleet_drain(s.fleet, s.rowers[leaves].name, 60000000, &why), OK);
    assert_true(fleet_lane(s.fleet, 0)->is_draining);
    turn(&s, 0.5);
    assert_int_equal(s.n_suspend, 0); // requests run
    assert_false(atomic_load(&s.rowers[leaves].is_drained));
    s.is_busy = false;
    UNTIL(&s, 2, s.n_suspend == 1);
    UNTIL(&s, 2, s.is_serving);
    assert_int_equal(s.n_stage, 1);
    assert_false(fleet_lane(s.fleet, 0)->is_draining);
    UNTIL(&s, 2, atomic_load(&s.rowers[leaves].is_drained));
    assert_true(fleet_has_hands(s.fleet));
    assert_int_equal(fleet_stats_get(s.fleet).deaths, 0);
    // The last one goes when its time is over, busy or not.
    s.is_busy = true;
    assert_int_equal(fleet_drain(s.fleet, "lane-0", 300000, &why), OK);
    assert_false(fleet_has_hands(s.fleet));
    UNTIL(&s, 2, s.n_suspend == 2);
    UNTIL(&s, 2, !fleet_worker(s.fleet, 0) && !fleet_worker(s.fleet, 1));
    assert_int_equal(fleet_stats_get(s.fleet).drained, 2);
    scene_close(&s);
}

// A worker that has less memory than it said is given less.
static void test_memory_that_is_not_there(void **state)
{
    (void)state;
    struct scene s;
    scene_open_as(
        &s, &(struct scene_ask){.n_lane = 1, .n_expect = 1, .n_stage = 1, .kv_tokens = 65536});
    struct rower *r = hire(&s, 0);
    r->page_max = 65536 / PLACE_PAGE_TOK - 1;
    rower_go(r);
    UNTIL(&s, 5, s.is_serving);
    assert_int_equal(atomic_load(&r->n_plan), 2);
    assert_in_range(fleet_lane(s.fleet, 0)->lane.place.settings.n_page, r->page_max / 2,
                    r->page_max);
    scene_close(&s);
}

int main(void)
{
    log_set_who("fleet");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps),
        cmocka_unit_test(test_crash),
        cmocka_unit_test(test_standby_takes_over),
        cmocka_unit_test(test_freeze),
        cmocka_unit_test(test_all_gone),
        cmocka_unit_test(test_violations),
        cmocka_unit_test(test_owner_refuses_a_result),
        cmocka_unit_test(test_failed_step_is_tried_again),
        cmocka_unit_test(test_failing_plans),
        cmocka_unit_test(test_other_settings_are_refused),
        cmocka_unit_test(test_workers_keep_what_they_hold),
        cmocka_unit_test(test_same_name_again),
        cmocka_unit_test(test_wrong_name_is_refused),
        cmocka_unit_test(test_does_not_fit),
        cmocka_unit_test(test_two_lanes),
        cmocka_unit_test(test_spare_hands_change_lanes),
        cmocka_unit_test(test_a_lane_of_its_own),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_memory_that_is_not_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
