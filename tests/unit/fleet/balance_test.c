// Experts are dealt out anew when their use says so and nothing runs; the table goes with its
// workers.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "coordinator/fleet/fleet.h"
#include "tests/unit/fleet/rower.h"

#include <stdio.h>

enum { LAYERS = 4, EXPERTS = 128, N_ROWER = 3, WARM = 16 };

struct scene {
    uv_loop_t loop;
    uv_timer_t timer;
    struct fleet *fleet;
    struct rower rowers[N_ROWER];
    bool is_up[N_ROWER];
    bool is_busy, is_serving;
    uint32_t n_serve;
};

static struct model *model;
static uint32_t warm[LAYERS * EXPERTS]; // the first experts of every layer

static void on_serve(void *arg, uint32_t lane, const struct place *p, uint64_t epoch)
{
    struct scene *s = arg;
    (void)lane, (void)p, (void)epoch;
    s->is_serving = true;
    s->n_serve++;
}

static void on_suspend(void *arg, uint32_t lane)
{
    (void)lane;
    ((struct scene *)arg)->is_serving = false;
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

static void on_close(void *arg, uint32_t lane)
{
    (void)arg, (void)lane;
}

static bool is_busy(void *arg, uint32_t lane)
{
    (void)lane;
    return ((struct scene *)arg)->is_busy;
}

static void on_timer(uv_timer_t *t)
{
    (void)t;
}

static void start(struct scene *s, int i)
{
    static const char *const names[N_ROWER] = {"anna", "bert", "carl"};
    struct rower *r = &s->rowers[i];
    struct link *end = rower_start(r, names[i], model);
    assert_non_null(end);
    r->mem_free_bytes = 20ull << 30;
    r->n_expert = EXPERTS;
    assert_int_equal(fleet_add(s->fleet, end), OK);
    s->is_up[i] = true;
    rower_go(r);
}

static void stop(struct scene *s, int i)
{
    if (s->is_up[i]) rower_stop(&s->rowers[i]);
    s->is_up[i] = false;
}

#define UNTIL(scene, condition)                                                                    \
    do {                                                                                           \
        const int64_t end_us = clock_now_us() + 20000000;                                          \
        while (!(condition)) {                                                                     \
            if (clock_now_us() > end_us) fail_msg("not within 20 s: %s", #condition);              \
            uv_run(&(scene)->loop, UV_RUN_ONCE);                                                   \
        }                                                                                          \
    } while (0)

static void turn(struct scene *s, int64_t us)
{
    const int64_t end_us = clock_now_us() + us;
    while (clock_now_us() < end_us)
        uv_run(&s->loop, UV_RUN_ONCE);
}

// Two workers that share every layer's experts, by halves.
static void open_scene(struct scene *s, bool no_rebalance)
{
    memset(s, 0, sizeof *s);
    uv_loop_init(&s->loop);
    uv_timer_init(&s->loop, &s->timer);
    uv_timer_start(&s->timer, on_timer, 10, 10);
    const struct fleet_config c = {
        .loop = &s->loop,
        .cluster = "test",
        .want = {.model = model,
                 .split = SPLIT_EXPERTS,
                 .part = {1 << 15, 1 << 15},
                 .n_stage = 1,
                 .ctx = 128,
                 .n_slot = 4,
                 .max_tok = 64,
                 .kv_tokens = 512,
                 .kv_dtype = DT_F16},
        .n_lane = 1,
        .n_expect = 2,
        .grace_us = 500000,
        .no_rebalance = no_rebalance,
        .listener = {.arg = s,
                     .on_serve = on_serve,
                     .on_suspend = on_suspend,
                     .on_result = on_result,
                     .on_give_up = on_give_up,
                     .on_close = on_close,
                     .is_busy = is_busy},
    };
    struct err_text why;
    if (fleet_open(&c, &s->fleet, &why)) fail_msg("%s", why.s);
    s->is_busy = true;
    start(s, 0);
    start(s, 1);
    UNTIL(s, s->is_serving);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(atomic_load(&s->rowers[i].n_member), 2);
        assert_int_equal(atomic_load(&s->rowers[i].n_owned), 0); // no table: by parts
    }
}

static void close_scene(struct scene *s)
{
    fleet_close(s->fleet);
    for (int i = 0; i < N_ROWER; i++)
        stop(s, i);
    uv_close((uv_handle_t *)&s->timer, NULL);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&s->loop), 0);
}

static void use_warm(struct scene *s)
{
    for (int i = 0; i < N_ROWER; i++)
        atomic_store(&s->rowers[i].use, warm);
}

static uint64_t picture_bytes(const struct scene *s)
{
    struct buf b = {0};
    fleet_experts_json(fleet_lane(s->fleet, 0), &b);
    const uint64_t n = b.len;
    buf_fini(&b);
    return n;
}

static void a_table_comes_in_a_quiet_moment(void **state)
{
    (void)state;
    struct scene s;
    open_scene(&s, false);
    assert_int_equal(picture_bytes(&s), strlen("null"));
    use_warm(&s);
    UNTIL(&s, picture_bytes(&s) > 1000);
    turn(&s, 500000);
    assert_int_equal(s.n_serve, 1); // requests run
    s.is_busy = false;
    UNTIL(&s, s.n_serve == 2);
    uint32_t owned = 0, used = 0;
    for (int i = 0; i < 2; i++) {
        owned += atomic_load(&s.rowers[i].n_owned);
        used += atomic_load(&s.rowers[i].n_own_used);
        assert_int_equal(atomic_load(&s.rowers[i].n_own_used), LAYERS * WARM / 2);
    }
    assert_int_equal(owned, LAYERS * EXPERTS);
    assert_int_equal(used, LAYERS * WARM);
    turn(&s, 500000);
    assert_int_equal(s.n_serve, 2); // that was it

    // Another worker in one's place: what was right for that one is given up.
    s.is_busy = true;
    atomic_store(&s.rowers[1].fault, ROWER_CRASH);
    UNTIL(&s, s.n_serve == 3);
    start(&s, 2);
    s.is_busy = false;
    UNTIL(&s, s.n_serve == 4);
    for (int i = 0; i < N_ROWER; i += 2) {
        assert_int_equal(atomic_load(&s.rowers[i].n_member), 2);
        assert_int_equal(atomic_load(&s.rowers[i].n_owned), 0);
    }
    close_scene(&s);
}

static void it_can_be_forbidden(void **state)
{
    (void)state;
    struct scene s;
    open_scene(&s, true);
    use_warm(&s);
    UNTIL(&s, picture_bytes(&s) > 1000);
    s.is_busy = false;
    turn(&s, 500000);
    assert_int_equal(s.n_serve, 1);
    close_scene(&s);
}

static void use_of_what_there_is_not(void **state)
{
    (void)state;
    struct scene s;
    open_scene(&s, false);
    int lead = 0;
    while (atomic_load(&s.rowers[lead].member))
        lead++;
    s.rowers[lead].n_expert = EXPERTS / 2; // the message is whole, but of no such model
    atomic_store(&s.rowers[lead].use, warm);
    UNTIL(&s, fleet_stats_get(s.fleet).deaths == 1);
    close_scene(&s);
}

static int setup(void **state)
{
    (void)state;
    struct err_text why;
    for (int l = 0; l < LAYERS; l++)
        for (int e = 0; e < WARM; e++)
            warm[l * EXPERTS + e] = 2000;
    if (model_open("shape:qwen3-30b-a3b@layers=4", &model, &why)) fail_msg("%s", why.s);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    model_close(model);
    return 0;
}

int main(void)
{
    log_set_who("fleet");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_table_comes_in_a_quiet_moment),
        cmocka_unit_test(it_can_be_forbidden),
        cmocka_unit_test(use_of_what_there_is_not),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
