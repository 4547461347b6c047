// The whole coordinator but its front door: requests through the engine's operations, tokens from
// workers that only pretend. Every stream is checked token by token.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#include "coordinator/canary.h"
#include "coordinator/coordinator_priv.h"
#include "proto/base/json.h"
#include "tests/unit/fleet/rower.h"

enum { ROWERS = 4, CALLS = 64, CHOICES = 3, TOKENS = 256 };

struct scene;
// One caller.
struct call {
    struct scene *scene;
    struct request *r; // NULL: the caller's no more
    uint32_t n_prompt, n_got[CHOICES];
    int32_t last[CHOICES]; // last id of the history
    uint32_t stop_after;   // finish the choice after so many tokens; 0: never
    uint32_t cancel_after; // cancel the request after so many tokens; 0: never
    bool submit_again;     // another request from inside on_finish
    uint32_t n_finish, n_last, n_error, n_score;
    enum finish finish;
    err_t error;
    uint32_t retry_after_s;
};

struct scene {
    struct coordinator *c;
    struct engine *e;
    struct coordinator_config config;
    struct link *links[ROWERS];
    struct rower rowers[ROWERS];
    bool is_up[ROWERS];
    struct call calls[CALLS];
    uint32_t n_call;
};

static const char *fixture_path(char path[512])
{
    const char *root = getenv("TRIREME_FIXTURES");
    snprintf(path, 512, "%s/gguf/llama-F32/model.gguf", root ? root : "../shared/fixtures");
    return path;
}

static struct model *the_model;
static char model_path[512];

// -- callers --

static struct call *call_of(struct request *r)
{
    return r->owner;
}

static void on_token(struct request *r, struct choice *c, const struct step_item *item)
{
    struct call *call = call_of(r);
    uint32_t i = c->index;
    uint32_t pos = call->n_prompt + call->n_got[i] - 1;
    int32_t want = rower_draw(call->last[i], pos, (uint32_t)the_model->shape.n_vocab);
    assert_int_equal(item->id, want);
    call->last[i] = item->id;
    call->n_got[i]++;
    if (call->stop_after && call->n_got[i] == call->stop_after)
        call->scene->e->ops->finish(call->scene->e, c, FINISH_STOP);
    if (call->cancel_after && call->n_got[i] == call->cancel_after)
        call->scene->e->ops->cancel(call->scene->e, r);
}

static void on_scores(struct request *r, const float *scores, uint32_t from, uint32_t n)
{
    struct call *call = call_of(r);
    assert_int_equal(from, call->n_score + 1);
    for (uint32_t i = 0; i < n; i++)
        assert_true(scores[i] == -(float)(from + i));
    call->n_score += n;
}

static struct call *submit(struct scene *s, uint32_t n_prompt, uint32_t max_tokens, uint32_t n);

static void on_finish(struct request *r, struct choice *c, bool is_last)
{
    struct call *call = call_of(r);
    call->n_finish++;
    call->finish = c->finish;
    assert_int_equal(call->n_last, 0);
    assert_int_equal(call->n_error, 0);
    if (!is_last) return;
    call->n_last++;
    call->r = NULL;
    request_free(r);
    if (call->submit_again) submit(call->scene, 4, 3, 1);
}

static void on_error(struct request *r, err_t code, const char *sentence, uint32_t retry_after_s)
{
    struct call *call = call_of(r);
    assert_int_equal(call->n_last, 0);
    assert_int_equal(call->n_error, 0);
    assert_true(strlen(sentence) > 0);
    call->n_error++;
    call->error = code;
    call->retry_after_s = retry_after_s;
    call->r = NULL;
    request_free(r);
}

static const struct engine_listener listener = {
    .on_token = on_token, .on_scores = on_scores, .on_finish = on_finish, .on_error = on_error};

static struct call *make(struct scene *s, uint32_t n_prompt, uint32_t max_tokens, uint32_t n)
{
    assert_true(s->n_call < CALLS);
    struct call *call = &s->calls[s->n_call++];
    memset(call, 0, sizeof *call);
    call->scene = s;
    struct request *r = call->r = request_new(1 << 20);
    assert_non_null(r);
    snprintf(r->id, sizeof r->id, "test-%u", s->n_call);
    int32_t *prompt = arena_take_n(&r->arena, n_prompt, sizeof *prompt);
    for (uint32_t i = 0; i < n_prompt; i++)
        prompt[i] = (int32_t)((s->n_call * 31 + i * 7) % (uint32_t)the_model->shape.n_vocab);
    r->prompt = prompt;
    r->n_prompt = call->n_prompt = n_prompt;
    r->max_tokens = max_tokens;
    r->owner = call;
    assert_int_equal(request_init_choices(r, n), OK);
    for (uint32_t i = 0; i < n; i++)
        call->last[i] = prompt[n_prompt - 1];
    return call;
}

static err_t try_submit(struct scene *s, struct call *call, uint32_t *retry_after_s)
{
    struct err_text why = {""};
    struct request *r = call->r;
    err_t err = s->e->ops->submit(s->e, r, &listener, retry_after_s, &why);
    if (err) {
        assert_true(strlen(why.s) > 0);
        request_free(r);
        call->r = NULL;
    }
    return err;
}

static struct call *submit(struct scene *s, uint32_t n_prompt, uint32_t max_tokens, uint32_t n)
{
    uint32_t retry;
    struct call *call = make(s, n_prompt, max_tokens, n);
    assert_int_equal(try_submit(s, call, &retry), OK);
    return call;
}

static bool all_over(const struct scene *s)
{
    for (uint32_t i = 0; i < s->n_call; i++)
        if (s->calls[i].r) return false;
    return true;
}

// Every call ended once and whole.
static void check_all_whole(const struct scene *s, uint32_t max_tokens, uint32_t n)
{
    for (uint32_t i = 0; i < s->n_call; i++) {
        const struct call *c = &s->calls[i];
        assert_int_equal(c->n_error, 0);
        assert_int_equal(c->n_last, 1);
        assert_int_equal(c->n_finish, n);
        for (uint32_t k = 0; k < n; k++)
            assert_int_equal(c->n_got[k], max_tokens);
    }
}

// -- the coordinator --

static void hire(struct scene *s, int i)
{
    static const char *const names[ROWERS] = {"anna", "bert", "carl", "dora"};
    s->links[i] = rower_start(&s->rowers[i], names[i], the_model);
    assert_non_null(s->links[i]);
    s->is_up[i] = true;
}

static struct scene *scene_open(uint32_t n_worker, uint32_t n_stage)
{
    struct scene *s = calloc(1, sizeof *s);
    assert_non_null(s);
    for (uint32_t i = 0; i < n_worker; i++)
        hire(s, (int)i);
    s->config = (struct coordinator_config){.model = model_path,
                                            .local = s->links,
                                            .n_local = n_worker,
                                            .n_expect = n_worker,
                                            .n_stage = n_stage,
                                            .ctx = 512,
                                            .kv_tokens = 4096,
                                            .max_tok = 64,
                                            .n_slot = 16,
                                            .queue_max = 256,
                                            .grace_ms = 500,
                                            .drain_ms = 400};
    return s;
}

static void scene_start(struct scene *s)
{
    struct err_text why;
    if (coordinator_open(&s->config, &s->c, &why) != OK) fail_msg("%s", why.s);
    s->e = coordinator_engine(s->c);
    for (uint32_t i = 0; i < s->config.n_local; i++)
        rower_go(&s->rowers[i]);
}

static void stop(struct scene *s, int i)
{
    if (s->is_up[i]) rower_stop(&s->rowers[i]);
    s->is_up[i] = false;
}

static void restart(struct scene *s, int i)
{
    stop(s, i);
    hire(s, i);
    rower_go(&s->rowers[i]);
    assert_int_equal(coordinator_join(s->c, s->links[i]), OK);
}

static void scene_close(struct scene *s)
{
    coordinator_close(s->c);
    for (int i = 0; i < ROWERS; i++)
        stop(s, i);
    for (uint32_t i = 0; i < s->n_call; i++)
        assert_null(s->calls[i].r);
    free(s);
}

#define UNTIL(scene, seconds, condition)                                                           \
    do {                                                                                           \
        int64_t end_us = clock_now_us() + (int64_t)(1e6 * (seconds));                              \
        while (!(condition)) {                                                                     \
            if (clock_now_us() > end_us)                                                           \
                fail_msg("not within %g s: %s", (double)(seconds), #condition);                    \
            uv_run(&(scene)->c->loop, UV_RUN_ONCE);                                                \
        }                                                                                          \
    } while (0)

static enum engine_state state_of(struct scene *s)
{
    const char *reason;
    return s->e->ops->state(s->e, &reason);
}

static struct scene *serving(uint32_t n_worker, uint32_t n_stage)
{
    struct scene *s = scene_open(n_worker, n_stage);
    scene_start(s);
    UNTIL(s, 5, state_of(s) == ENGINE_READY);
    return s;
}

// -- tests --

static void test_streams(void **state)
{
    (void)state;
    for (uint32_t n_stage = 1; n_stage <= 2; n_stage++) {
        struct scene *s = serving(n_stage, n_stage);
        for (uint32_t i = 0; i < 40; i++)
            submit(s, 1 + i * 9, 20, 1 + i % CHOICES);
        UNTIL(s, 10, all_over(s));
        for (uint32_t i = 0; i < s->n_call; i++) {
            assert_int_equal(s->calls[i].n_last, 1);
            assert_int_equal(s->calls[i].finish, FINISH_LENGTH);
            for (uint32_t k = 0; k < 1 + i % CHOICES; k++)
                assert_int_equal(s->calls[i].n_got[k], 20);
        }
        scene_close(s);
    }
}

static void test_speed(void **state)
{
    (void)state;
    struct scene *s = serving(1, 1);
    int64_t begun = clock_now_us();
    submit(s, 8, 500, 1);
    UNTIL(s, 20, all_over(s));
    // Two threads hand a step to and fro: what is measured is the coordinator's and the link's
    // part.
    print_message("one stream: %.1f us per step and token\n",
                  (double)(clock_now_us() - begun) / 500);
    check_all_whole(s, 500, 1);
    scene_close(s);
}

static void test_listeners_act_inside(void **state)
{
    (void)state;
    struct scene *s = serving(2, 2);
    struct call *stopped = submit(s, 10, 100, 2);
    stopped->stop_after = 7;
    struct call *left = submit(s, 10, 100, 3);
    left->cancel_after = 5;
    struct call *again = submit(s, 10, 5, 1);
    again->submit_again = true;
    UNTIL(s, 5, all_over(s) && s->n_call == 4);
    assert_int_equal(stopped->finish, FINISH_STOP);
    assert_int_equal(stopped->n_finish, 2);
    assert_int_equal(stopped->n_got[0], 7);
    assert_int_equal(left->finish, FINISH_CANCELLED);
    assert_int_equal(left->n_finish, 3);
    assert_int_equal(s->calls[3].n_got[0], 3);
    scene_close(s);
}

static void test_cancel_is_at_once(void **state)
{
    (void)state;
    struct scene *s = serving(2, 2);
    s->rowers[0].step_us = s->rowers[1].step_us = 20000;
    struct call *call = submit(s, 200, 100, 2);
    s->e->ops->cancel(s->e, call->r);
    assert_int_equal(call->n_finish, 2);
    assert_int_equal(call->n_last, 1);
    struct call *other = submit(s, 20, 3, 1);
    UNTIL(s, 5, all_over(s));
    assert_int_equal(other->finish, FINISH_LENGTH);
    scene_close(s);
}

static void test_scores(void **state)
{
    (void)state;
    struct scene *s = serving(2, 2);
    struct call *call = make(s, 150, 2, 1);
    call->r->score_prompt = true;
    uint32_t retry;
    assert_int_equal(try_submit(s, call, &retry), OK);
    UNTIL(s, 5, all_over(s));
    assert_int_equal(call->n_score, 149);
    scene_close(s);
}

static void test_crash_loses_nothing(void **state)
{
    (void)state;
    struct scene *s = serving(3, 2);
    for (int i = 0; i < 3; i++)
        s->rowers[i].step_us = 500;
    for (uint32_t i = 0; i < 12; i++)
        submit(s, 5 + i * 20, 100, 1);
    UNTIL(s, 5, s->calls[0].n_got[0] >= 10);
    const struct lane *l = &fleet_lane(s->c->fleet, 0)->lane;
    for (uint32_t stage = 0; stage < 2; stage++) {
        uint32_t member = l->place.members[stage].worker;
        const char *name = fleet_worker(s->c->fleet, member)->hello.name;
        for (int i = 0; i < 3; i++)
            if (s->is_up[i] && strcmp(s->rowers[i].name, name) == 0)
                atomic_store(&s->rowers[i].fault, ROWER_CRASH);
        UNTIL(s, 1, state_of(s) != ENGINE_READY);
        UNTIL(s, 2, state_of(s) == ENGINE_READY);
        uint32_t had = s->calls[0].n_got[0];
        UNTIL(s, 5, s->calls[0].n_got[0] > had);
    }
    UNTIL(s, 20, all_over(s));
    check_all_whole(s, 100, 1);
    assert_true(s->c->metrics.moved >= 12);
    scene_close(s);
}

static uint32_t n_got_all(const struct scene *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_call; i++)
        n += s->calls[i].n_got[0];
    return n;
}

// Time for the next fault: after 25 ms, when streams go on again, or it has been long. (Who loses
// workers again and again on the same token is given up, as a slow machine would bring about.)
static void between_faults(struct scene *s)
{
    const int64_t from = clock_now_us(), next = from + 25000, end = from + 500000;
    const uint32_t had = n_got_all(s);
    for (int64_t now = from; now < next || (now < end && n_got_all(s) < had + 8 * s->n_call);
         now = clock_now_us()) {
        if (all_over(s)) return;
        uv_run(&s->c->loop, UV_RUN_ONCE);
    }
}

static void run_chaos(uint32_t n_lane)
{
    struct scene *s = scene_open(4, 2);
    s->config.n_lane = n_lane;
    scene_start(s);
    UNTIL(s, 5, state_of(s) == ENGINE_READY);
    srand(7);
    for (int i = 0; i < ROWERS; i++)
        s->rowers[i].step_us = 300;
    for (uint32_t i = 0; i < 32; i++)
        submit(s, 5 + i * 3, TOKENS, 1);
    int n_fault = 0;
    while (!all_over(s)) {
        between_faults(s);
        int i = rand() % ROWERS;
        int fault = (const int[]){ROWER_CRASH,   ROWER_BAD_ID,     ROWER_TWICE,
                                  ROWER_GARBAGE, ROWER_EXTRA_ITEM, ROWER_FAIL_STEP}[rand() % 6];
        if (n_fault++ > 200) fail_msg("it does not end");
        if (fleet_worker(s->c->fleet, (uint32_t)i) && rand() % 2)
            atomic_store(&s->rowers[i].fault, fault);
        else {
            restart(s, i);
            s->rowers[i].step_us = 300;
        }
    }
    check_all_whole(s, TOKENS, 1);
    print_message("32 streams of 256 tokens through %d faults, %llu worker deaths, epoch %llu\n",
                  n_fault, (unsigned long long)fleet_stats_get(s->c->fleet).deaths,
                  (unsigned long long)fleet_epoch(s->c->fleet));
    scene_close(s);
}

static void test_chaos(void **state)
{
    (void)state;
    run_chaos(1);
    run_chaos(2);
}

// -- several lanes --

// Two lanes of one worker each.
static struct scene *two_lanes(uint32_t n_slot)
{
    struct scene *s = scene_open(2, 1);
    s->config.n_lane = 2;
    s->config.n_slot = n_slot;
    scene_start(s);
    for (int i = 0; i < 2; i++)
        s->rowers[i].step_us = 1000;
    UNTIL(s, 5, s->c->lanes[0].is_serving && s->c->lanes[1].is_serving);
    return s;
}

static struct call *submit_session(struct scene *s, uint64_t session)
{
    uint32_t retry;
    struct call *call = make(s, 5, 100, 1);
    call->r->session = session;
    assert_int_equal(try_submit(s, call, &retry), OK);
    return call;
}

static uint32_t lane_of(const struct call *call)
{
    const struct flow_live *live = call->r->engine;
    return live->lane->number;
}

static void test_sessions_stick_and_spill(void **state)
{
    (void)state;
    struct scene *s = two_lanes(2);
    struct call *a = submit_session(s, 11), *b = submit_session(s, 22);
    const uint32_t home = lane_of(a);
    assert_int_not_equal(lane_of(b), home); // the less loaded one
    struct call *again = submit_session(s, 11);
    assert_int_equal(lane_of(again), home);
    struct call *over = submit_session(s, 11); // full there
    assert_int_equal(lane_of(over), 1 - home);
    // Both are full: it waits at home, and goes where there is room first.
    struct call *waits = submit_session(s, 22);
    s->e->ops->cancel(s->e, b->r);
    UNTIL(s, 5, waits->n_got[0] > 0);
    UNTIL(s, 10, all_over(s));
    assert_int_equal(again->n_got[0], 100);
    assert_int_equal(waits->n_got[0], 100);
    scene_close(s);
}

// A prompt goes where its pages are.
static void test_prefixes_stick(void **state)
{
    (void)state;
    struct scene *s = two_lanes(8);
    uint32_t retry;
    struct call *first = make(s, 200, 4, 1);
    const int32_t *prompt = first->r->prompt;
    int32_t ids[200];
    memcpy(ids, prompt, sizeof ids);
    assert_int_equal(try_submit(s, first, &retry), OK);
    const uint32_t home = lane_of(first);
    UNTIL(s, 5, all_over(s));
    for (int i = 0; i < 3; i++) {
        struct call *next = make(s, 200, 20, 1);
        memcpy((int32_t *)(uintptr_t)next->r->prompt, ids, sizeof ids);
        next->last[0] = ids[199];
        assert_int_equal(try_submit(s, next, &retry), OK);
        assert_int_equal(lane_of(next), home);
    }
    UNTIL(s, 5, all_over(s));
    scene_close(s);
}

static void test_a_lane_dies(void **state)
{
    (void)state;
    struct scene *s = two_lanes(16);
    for (uint32_t i = 0; i < 8; i++)
        submit(s, 5 + i * 20, 200, 2);
    UNTIL(s, 5, s->calls[0].n_got[0] >= 10);
    const uint32_t dead = lane_of(&s->calls[0]);
    const uint32_t worker = fleet_lane(s->c->fleet, dead)->lane.place.members[0].worker;
    const char *name = fleet_worker(s->c->fleet, worker)->hello.name;
    for (int i = 0; i < 2; i++)
        if (!strcmp(s->rowers[i].name, name)) atomic_store(&s->rowers[i].fault, ROWER_CRASH);
    UNTIL(s, 2, !s->c->lanes[dead].is_serving);
    assert_int_equal(state_of(s), ENGINE_READY); // the other one serves
    for (uint32_t i = 0; i < 8; i++)
        if (s->calls[i].r) assert_int_equal(lane_of(&s->calls[i]), 1 - dead);
    UNTIL(s, 20, all_over(s));
    check_all_whole(s, 200, 2);
    scene_close(s);
}

static void test_a_lane_is_drained(void **state)
{
    (void)state;
    struct scene *s = two_lanes(16);
    struct err_text why;
    struct call *a = submit_session(s, 1), *b = submit_session(s, 2);
    const uint32_t leaves = lane_of(a), stays = lane_of(b);
    assert_int_equal(s->e->ops->drain(s->e, "nobody", 0, &why), ERR_NOT_FOUND);
    assert_int_equal(s->e->ops->drain(s->e, fleet_lane(s->c->fleet, leaves)->name, 0, &why), OK);
    struct call *next = submit_session(s, 1); // its home takes nothing new
    assert_int_equal(lane_of(next), stays);
    UNTIL(s, 5, !a->r);
    assert_int_equal(a->n_got[0], 100);
    UNTIL(s, 5, fleet_stats_get(s->c->fleet).drained == 1);
    UNTIL(s, 10, all_over(s));
    check_all_whole(s, 100, 1);
    // When the last one leaves too, nobody may come any more.
    assert_int_equal(s->e->ops->drain(s->e, fleet_lane(s->c->fleet, stays)->name, 1, &why), OK);
    uint32_t retry = 0;
    assert_int_equal(try_submit(s, make(s, 4, 4, 1), &retry), ERR_CAPACITY);
    assert_true(retry > 0);
    scene_close(s);
}

static void test_capacity_lost_and_back(void **state)
{
    (void)state;
    struct scene *s = serving(2, 2);
    for (int i = 0; i < 2; i++)
        s->rowers[i].step_us = 2000;
    struct call *call = submit(s, 10, 200, 2);
    UNTIL(s, 5, call->n_got[0] > 3);
    for (int i = 0; i < 2; i++)
        atomic_store(&s->rowers[i].fault, ROWER_CRASH);
    UNTIL(s, 1, state_of(s) == ENGINE_NO_CAPACITY);
    uint32_t retry = 0;
    struct call *late = make(s, 4, 4, 1);
    assert_int_equal(try_submit(s, late, &retry), ERR_CAPACITY);
    assert_true(retry > 0);
    UNTIL(s, 2, all_over(s));
    assert_int_equal(call->n_error, 1);
    assert_int_equal(call->error, ERR_CAPACITY);
    assert_true(call->retry_after_s > 0);
    restart(s, 0);
    UNTIL(s, 2, state_of(s) == ENGINE_READY);
    struct call *next = submit(s, 4, 4, 1);
    UNTIL(s, 2, all_over(s));
    assert_int_equal(next->n_last, 1);
    // Back within the grace: nobody notices but by the pause.
    s->rowers[0].step_us = 2000;
    struct call *patient = submit(s, 10, 50, 1);
    UNTIL(s, 5, patient->n_got[0] > 3);
    atomic_store(&s->rowers[0].fault, ROWER_CRASH);
    UNTIL(s, 1, state_of(s) == ENGINE_NO_CAPACITY);
    restart(s, 1);
    UNTIL(s, 5, all_over(s));
    assert_int_equal(patient->n_got[0], 50);
    assert_int_equal(patient->n_error, 0);
    scene_close(s);
}

static void test_not_finite(void **state)
{
    (void)state;
    struct scene *s = serving(1, 1);
    s->rowers[0].step_us = 1000;
    struct call *call = submit(s, 10, 200, 1);
    UNTIL(s, 5, call->n_got[0] > 3);
    atomic_store(&s->rowers[0].fault, ROWER_NOT_FINITE);
    UNTIL(s, 5, all_over(s));
    assert_int_equal(call->n_error, 1);
    assert_int_equal(s->c->metrics.nonfinite, 1);
    scene_close(s);
}

static void test_a_request_that_kills_workers(void **state)
{
    (void)state;
    struct scene *s = serving(4, 1);
    s->config.grace_ms = 5000;
    for (int i = 0; i < 4; i++)
        atomic_store(&s->rowers[i].fault, ROWER_BAD_ID);
    struct call *call = submit(s, 10, 200, 1);
    UNTIL(s, 5, all_over(s));
    assert_int_equal(call->n_error, 1);
    assert_int_equal(call->error, ERR_CAPACITY);
    assert_int_equal(fleet_stats_get(s->c->fleet).deaths, 4);
    scene_close(s);
}

static void test_refusals(void **state)
{
    (void)state;
    struct scene *s = scene_open(1, 1);
    s->config.queue_max = 2;
    s->config.n_slot = 1;
    struct err_text why;
    assert_int_equal(coordinator_open(&s->config, &s->c, &why), OK);
    s->e = coordinator_engine(s->c);
    uint32_t retry = 0;
    assert_int_equal(state_of(s), ENGINE_LOADING);
    assert_int_equal(try_submit(s, make(s, 4, 4, 1), &retry), ERR_CAPACITY);
    assert_true(retry > 0);
    rower_go(&s->rowers[0]);
    UNTIL(s, 5, state_of(s) == ENGINE_READY);
    s->rowers[0].step_us = 5000;
    submit(s, 10, 20, 1);
    submit(s, 10, 20, 1);
    submit(s, 10, 20, 1);
    retry = 0;
    err_t err = try_submit(s, make(s, 10, 20, 1), &retry);
    assert_int_equal(err, ERR_BUSY);
    assert_in_range(retry, 1, 60);
    assert_int_equal(s->c->metrics.refused_busy, 1);
    UNTIL(s, 10, all_over(s));
    scene_close(s);
}

static void test_drain(void **state)
{
    (void)state;
    struct scene *s = serving(1, 1);
    s->rowers[0].step_us = 2000;
    struct call *quick = submit(s, 10, 20, 1), *slow = submit(s, 10, 400, 1);
    atomic_int halt = 1;
    assert_int_equal(coordinator_run(s->c, &halt), OK);
    assert_int_equal(quick->n_last, 1);
    assert_int_equal(quick->n_got[0], 20);
    assert_int_equal(slow->n_error, 1);
    assert_int_equal(slow->error, ERR_CAPACITY);
    assert_int_equal(state_of(s), ENGINE_DRAINING);
    uint32_t retry;
    assert_int_equal(try_submit(s, make(s, 4, 4, 1), &retry), ERR_CAPACITY);
    scene_close(s);
}

static void test_close_with_work(void **state)
{
    (void)state;
    struct scene *s = serving(2, 2);
    struct call *call = submit(s, 10, 400, 2);
    UNTIL(s, 5, call->n_got[0] > 3);
    atomic_int halt = 2;
    assert_int_equal(coordinator_run(s->c, &halt), OK);
    scene_close(s); // checks that the request came back
}

static void test_hopeless(void **state)
{
    (void)state;
    struct scene *s = scene_open(1, 1);
    atomic_store(&s->rowers[0].fault, ROWER_FAIL_PLAN);
    scene_start(s);
    atomic_int halt = 0;
    assert_int_equal(coordinator_run(s->c, &halt), ERR_MODEL);
    scene_close(s);
}

static void on_canary_timer(uv_timer_t *t)
{
    canary_tick(t->data, clock_now_us());
}

// Nobody asks for anything, and the only worker that answers is one that cannot compute.
static void test_canary(void **state)
{
    (void)state;
    struct scene *s = scene_open(2, 1);
    s->config.canary_ms = 100;
    scene_start(s);
    UNTIL(s, 5, state_of(s) == ENGINE_READY);
    uv_timer_t timer;
    uv_timer_init(&s->c->loop, &timer);
    timer.data = s->c;
    uv_timer_start(&timer, on_canary_timer, 10, 10);
    uint64_t before = fleet_stats_get(s->c->fleet).results;
    UNTIL(s, 2, fleet_stats_get(s->c->fleet).results >= before + 3);
    assert_int_equal(s->c->metrics.generated, 0); // it is not a caller
    const struct lane *l = &fleet_lane(s->c->fleet, 0)->lane;
    uint32_t serving = l->place.members[0].worker;
    const char *name = fleet_worker(s->c->fleet, serving)->hello.name;
    for (int i = 0; i < 2; i++)
        if (strcmp(s->rowers[i].name, name) == 0) atomic_store(&s->rowers[i].fault, ROWER_STALL);
    int64_t begun = clock_now_us();
    UNTIL(s, 12, fleet_stats_get(s->c->fleet).deaths == 1);
    print_message("a worker that cannot compute was found after %.1f s\n",
                  (double)(clock_now_us() - begun) / 1e6);
    UNTIL(s, 2, state_of(s) == ENGINE_READY);
    uv_close((uv_handle_t *)&timer, NULL);
    uv_run(&s->c->loop, UV_RUN_NOWAIT);
    scene_close(s);
}

static void test_bad_configuration(void **state)
{
    (void)state;
    struct err_text why;
    struct coordinator *c;
    struct coordinator_config bad[] = {
        {.model = "/nonexistent.gguf"},
        {.model = model_path, .ctx = 1 << 20},
        {.model = model_path, .kv_tokens = 8},
        {.model = model_path, .max_tok = 1},
        {.model = model_path, .n_slot = STEP_SLOTS_MAX + 1},
        {.model = model_path, .n_stage = 3}, // of a model of two layers
        {.model = model_path, .n_expect = LANE_WORKERS_MAX + 1},
        {.model = model_path, .n_expect = 1, .n_lane = 2},
        {.model = model_path, .part = {1, 1}}, // of what?
        {.model = model_path, .n_expect = 2, .split = SPLIT_TENSOR, .part = {1, 1, 1}},
        {.model = model_path, .join_listen = "127.0.0.1:0"}, // no state folder
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        why.s[0] = 0;
        assert_int_not_equal(coordinator_open(&bad[i], &c, &why), OK);
        assert_true(strlen(why.s) > 0);
    }
}

static const struct json *parse(struct buf *b, struct arena *a)
{
    const struct json *j;
    struct err_text why;
    assert_true(buf_ok(b));
    if (json_read(b->data, b->len, a, &j, NULL, &why) != OK) fail_msg("%s in %s", why.s, b->data);
    return j;
}

static void test_status(void **state)
{
    (void)state;
    struct scene *s = serving(2, 2);
    for (int i = 0; i < 2; i++)
        s->rowers[i].step_us = 1000;
    submit(s, 10, 3, 1);
    UNTIL(s, 5, all_over(s));
    struct call *call = submit(s, 40, 100, 2);
    UNTIL(s, 5, call->n_got[0] > 3);
    struct buf b = {0};
    struct arena a;
    arena_init(&a, 0);
    s->e->ops->cluster(s->e, &b);
    const struct json *j = parse(&b, &a);
    assert_true(json_is(json_get(j, "state"), "ready"));
    const struct json *lane = &json_get(j, "lanes")->arr.items[0];
    assert_int_equal(json_get(lane, "stages")->arr.n, 2);
    assert_int_equal(json_get(j, "workers")->arr.n, 2);
    assert_int_equal(json_get(j, "links")->arr.n, 1);
    const struct json *r = &json_get(j, "requests")->arr.items[0];
    assert_int_equal(json_get(j, "requests")->arr.n, 1);
    assert_true(json_is(json_get(r, "phase"), "decode"));
    assert_int_equal(json_get(r, "n_prompt")->i, 40);
    assert_int_equal(json_get(json_get(j, "totals"), "running")->i, 2);
    buf_clear(&b);
    s->e->ops->metrics(s->e, &b);
    assert_non_null(
        strstr(b.data, "vllm:num_requests_running{model_name=\"model\",engine=\"0\"} 2"));
    assert_non_null(strstr(b.data, "vllm:e2e_request_latency_seconds_count{model_name=\"model\","
                                   "engine=\"0\"} 1\n"));
    assert_non_null(strstr(b.data, "finished_reason=\"length\"} 1\n"));
    assert_non_null(strstr(b.data, "worker_up{model_name=\"model\",engine=\"0\",node=\"anna\"} 1"));
    s->e->ops->cancel(s->e, call->r);
    atomic_store(&s->rowers[0].fault, ROWER_CRASH);
    atomic_store(&s->rowers[1].fault, ROWER_CRASH);
    UNTIL(s, 2, state_of(s) == ENGINE_NO_CAPACITY);
    buf_clear(&b);
    s->e->ops->cluster(s->e, &b);
    assert_true(json_is(json_get(parse(&b, &a), "state"), "no_capacity"));
    const struct engine_model *m = s->e->ops->model(s->e);
    assert_string_equal(m->id, "model");
    assert_true(m->n_end > 0);
    buf_fini(&b);
    arena_fini(&a);
    scene_close(s);
}

int main(void)
{
    struct err_text why;
    log_set_who("coordinator");
    log_set_level(getenv("VERBOSE") ? LOG_INFO : LOG_ERROR);
    if (access(fixture_path(model_path), R_OK) != 0) {
        printf("SKIPPED: no %s\n", model_path);
        return 0;
    }
    if (model_open(model_path, &the_model, &why) != OK) {
        printf("%s\n", why.s);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streams),
        cmocka_unit_test(test_speed),
        cmocka_unit_test(test_listeners_act_inside),
        cmocka_unit_test(test_cancel_is_at_once),
        cmocka_unit_test(test_scores),
        cmocka_unit_test(test_crash_loses_nothing),
        cmocka_unit_test(test_chaos),
        cmocka_unit_test(test_sessions_stick_and_spill),
        cmocka_unit_test(test_prefixes_stick),
        cmocka_unit_test(test_a_lane_dies),
        cmocka_unit_test(test_a_lane_is_drained),
        cmocka_unit_test(test_capacity_lost_and_back),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_a_request_that_kills_workers),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_close_with_work),
        cmocka_unit_test(test_hopeless),
        cmocka_unit_test(test_canary),
        cmocka_unit_test(test_bad_configuration),
        cmocka_unit_test(test_status),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    model_close(the_model);
    return failed;
}
