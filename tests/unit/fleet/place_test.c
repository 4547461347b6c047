// Placements: as many stages as wanted, what is held stays, memory is respected.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "coordinator/fleet/place.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"

enum { LAYERS = 32, WORKERS = 16, GIB = 1 << 30, MIB = 1 << 20 };

static struct model_weight weights[LAYERS + 2];
static struct model model = {
    .path = "none",
    .hash = {7},
    .shape = {.arch = "llama",
              .name = "pretended",
              .n_layer = LAYERS,
              .dim = 1024,
              .ffn_dim = 4096,
              .n_vocab = 32000,
              .ctx_train = 8192,
              .n_head = 16,
              .n_head_kv = 4,
              .head_dim = 64},
    .weights = weights,
    .n_weight = LAYERS + 2,
};
static const char *const names[WORKERS] = {"a", "b", "c", "d", "e", "f", "g", "h",
                                           "i", "j", "k", "l", "m", "n", "o", "p"};

struct bench {
    struct place_want want;
    struct place_worker workers[WORKERS];
    struct place place;
    struct err_text why;
};

// 10 MiB a layer, 60 MiB for the embedding and for the head each; n equal workers.
static void bench_init(struct bench *b, uint32_t n, uint32_t n_stage)
{
    memset(b, 0, sizeof *b);
    for (int i = 0; i < LAYERS + 2; i++)
        weights[i] = (struct model_weight){.slot = SLOT_FFN_UP,
                                           .dtype = DT_F16,
                                           .is_matrix = true,
                                           .n = 1,
                                           .rows = 5 * MIB / 1024,
                                           .cols = 1024,
                                           .part = i < LAYERS    ? i
                                                   : i == LAYERS ? PART_EMBED
                                                                 : PART_HEAD,
                                           .bytes = (i < LAYERS ? 10u : 60u) * MIB};
    memset(model.shape.layers, 0, sizeof model.shape.layers);
    memset(&model.shape.delta, 0, sizeof model.shape.delta);
    model.shape.window = model.shape.chunk = 0;
    b->want = (struct place_want){.model = &model,
                                  .n_stage = n_stage,
                                  .n_member = 1,
                                  .ctx = 2048,
                                  .n_slot = 32,
                                  .max_tok = 256,
                                  .kv_tokens = 8192,
                                  .kv_dtype = DT_F16};
    for (uint32_t i = 0; i < n; i++)
        b->workers[i] = (struct place_worker){.number = i,
                                              .name = names[i],
                                              .host = names[i],
                                              .process = 100 + i,
                                              .roads = ROAD_UCX,
                                              .threads = 8,
                                              .has_cpu = true,
                                              .mem_bytes = 8ull * GIB,
                                              .mem_free_bytes = 4ull * GIB,
                                              .read_bytes_per_s = 3e10,
                                              .int8_ops_per_s = 1e12,
                                              .f32_flops_per_s = 5e11};
}

static void make(struct bench *b, uint32_t n)
{
    if (place_make(&b->want, b->workers, n, &b->place, &b->why) != OK) fail_msg("%s", b->why.s);
    const struct place *p = &b->place;
    uint32_t at = 0;
    for (uint32_t i = 0; i < p->n_stage; i++) {
        const struct place_stage *s = &p->stages[i];
        assert_int_equal(s->layer_from, at);
        assert_true(s->layer_to > at);
        assert_int_equal(s->embed, i == 0);
        assert_int_equal(s->head, i == p->n_stage - 1);
        assert_true(s->decode_us > 0);
        assert_int_equal(s->first, i ? p->stages[i - 1].first + p->stages[i - 1].n_member : 0);
        at = s->layer_to;
        uint32_t parts = 0;
        for (uint32_t k = s->first; k < s->first + s->n_member; k++) {
            const struct place_member *m = &p->members[k];
            assert_true(m->weight_bytes > 0);
            assert_int_equal(m->stage, i);
            parts += m->part;
        }
        assert_int_equal(parts, SHARE_TOTAL);
    }
    for (uint32_t i = 0; i < p->n_member; i++)
        for (uint32_t k = 0; k < i; k++)
            assert_int_not_equal(p->members[k].worker, p->members[i].worker);
    const struct place_stage *last = &p->stages[p->n_stage - 1];
    assert_int_equal(p->n_member, last->first + last->n_member);
    assert_int_equal(at, LAYERS);
    assert_true(p->settings.n_page * p->settings.page_tok >= b->want.ctx);
    assert_in_range(p->settings.in_flight, p->n_stage + 1, p->n_stage + 17);
}

static void hold(struct bench *b, uint32_t worker, uint32_t from, uint32_t to)
{
    b->workers[worker].held_from = from;
    b->workers[worker].held_to = to;
    b->workers[worker].held_embed = from == 0;
    b->workers[worker].held_head = to == LAYERS;
}

static const struct place_stage *stage_of(const struct bench *b, uint32_t worker)
{
    for (uint32_t i = 0; i < b->place.n_member; i++)
        if (b->place.members[i].worker == worker)
            return &b->place.stages[b->place.members[i].stage];
    return NULL;
}

static void test_as_many_stages_as_wanted(void **state)
{
    (void)state;
    struct bench b;
    for (uint32_t n = 1; n <= 6; n++)
        for (uint32_t wanted = 1; wanted <= 4; wanted++) {
            bench_init(&b, n, wanted);
            make(&b, n);
            assert_int_equal(b.place.n_stage, n < wanted ? n : wanted);
            assert_int_equal(b.place.settings.n_page, 8192 / PLACE_PAGE_TOK);
        }
}

static void test_same_again(void **state)
{
    (void)state;
    struct bench a, b;
    bench_init(&a, 4, 4);
    bench_init(&b, 4, 4);
    make(&a, 4);
    // Measurements are never twice the same.
    for (uint32_t i = 0; i < 4; i++) {
        b.workers[i].read_bytes_per_s *= 1.01 - 0.005 * i;
        b.workers[i].f32_flops_per_s *= 0.99 + 0.004 * i;
        b.workers[i].mem_free_bytes -= i * MIB;
    }
    make(&b, 4);
    assert_memory_equal(a.place.hash, b.place.hash, sizeof a.place.hash);
    b.want.n_slot = 16;
    make(&b, 4);
    assert_memory_not_equal(a.place.hash, b.place.hash, sizeof a.place.hash);
}

static void test_faster_workers_get_more(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 2, 2);
    b.workers[1].read_bytes_per_s *= 4;
    b.workers[1].int8_ops_per_s *= 4;
    b.workers[1].f32_flops_per_s *= 4;
    make(&b, 2);
    const struct place_stage *slow = stage_of(&b, 0), *fast = stage_of(&b, 1);
    assert_true(fast->layer_to - fast->layer_from > 2 * (slow->layer_to - slow->layer_from));
}

static struct rates rates_of(double mul_per_s)
{
    struct rates r = {.n_type = 1,
                      .types = {{.dtype = DT_BF16}},
                      .attn_one_flops_per_s = 1e10,
                      .attn_many_flops_per_s = 1e10,
                      .layer_us = 5};
    for (int p = 0; p < RATES_POINTS; p++)
        r.types[0].mul_per_s[p] = mul_per_s;
    return r;
}

// What operations measured counts, not the peaks, if everybody has measured.
static void test_measured_rates_count(void **state)
{
    (void)state;
    struct bench b;
    const struct rates one = rates_of(1e10), four = rates_of(4e10);
    bench_init(&b, 2, 2);
    b.workers[0].rates = &one;
    b.workers[1].rates = &four;
    make(&b, 2);
    const struct place_stage *slow = stage_of(&b, 0), *fast = stage_of(&b, 1);
    assert_true(fast->layer_to - fast->layer_from > 2 * (slow->layer_to - slow->layer_from));
    b.workers[1].rates = NULL;
    make(&b, 2);
    const uint32_t half = b.place.stages[0].layer_to;
    assert_true(half > LAYERS / 2 - 6 && half < LAYERS / 2 + 6);
}

static void test_what_is_held_stays(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 4, 3);
    hold(&b, 3, 0, 5);
    hold(&b, 1, 5, 20);
    hold(&b, 0, 20, LAYERS);
    make(&b, 4);
    assert_int_equal(stage_of(&b, 3)->layer_to, 5);
    assert_int_equal(stage_of(&b, 1)->layer_to, 20);
    assert_null(stage_of(&b, 2));
    // One of them is lost: the spare takes its layers, wherever they were.
    for (uint32_t lost = 0; lost < 4; lost++) {
        struct bench c = b;
        if (lost == 2) continue;
        uint32_t from = c.workers[lost].held_from, to = c.workers[lost].held_to;
        memmove(&c.workers[lost], &c.workers[lost + 1], (3 - lost) * sizeof c.workers[0]);
        make(&c, 3);
        assert_int_equal(stage_of(&c, 2)->layer_from, from);
        assert_int_equal(stage_of(&c, 2)->layer_to, to);
    }
    // No spare: cut anew.
    b.workers[2] = b.workers[3];
    make(&b, 3);
    hold(&b, 1, 6, 20); // a gap that nobody can take
    make(&b, 3);
    assert_int_equal(b.place.n_stage, 3);
}

static void test_bad_claims_are_ignored(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 2, 2);
    const uint32_t claims[][4] = {{0, 0, 0, 0},   {0, LAYERS, 0, LAYERS}, {0, 20, 10, LAYERS},
                                  {0, 20, 0, 20}, {5, 9, 9, 30},          {0, 1, 31, LAYERS}};
    for (size_t i = 0; i < sizeof claims / sizeof *claims; i++) {
        hold(&b, 0, claims[i][0], claims[i][1]);
        hold(&b, 1, claims[i][2], claims[i][3]);
        make(&b, 2);
        assert_int_equal(b.place.n_stage, 2);
    }
    hold(&b, 0, 0, 20);
    hold(&b, 1, 20, LAYERS);
    b.workers[1].held_head = false; // holds the layers but not the head
    make(&b, 2);
    assert_int_not_equal(b.place.stages[0].layer_to, 20);
}

static void test_short_memory_means_fewer_pages(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, 1);
    b.want.kv_tokens = 1 << 20; // 32 GiB of KV
    make(&b, 1);
    uint64_t tokens = (uint64_t)b.place.settings.n_page * PLACE_PAGE_TOK;
    assert_true(tokens < b.want.kv_tokens);
    const struct place_member *s = &b.place.members[0];
    uint64_t sum = s->weight_bytes + s->kv_bytes + s->work_bytes;
    assert_true(sum <= 4ull * GIB);
    assert_true(sum > 3ull * GIB); // what there is is used, but for the reserve
}

// Every layer but each fourth sees 512 tokens.
static void make_local(void)
{
    model.shape.window = 512;
    for (int i = 0; i < LAYERS; i++)
        model.shape.layers[i].is_local = i % 4 != 3;
}

static uint64_t kv_of(const struct place *p)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < p->n_stage; i++)
        sum += p->members[i].kv_bytes;
    return sum;
}

static void test_windows_have_pages_of_their_own(void **state)
{
    (void)state;
    struct bench b;
    const uint64_t page_bytes = PLACE_PAGE_TOK * 2 * 4 * 64 * 2;
    bench_init(&b, 2, 2);
    make_local();
    b.want.n_slot = 4;
    b.want.kv_tokens = 64 << 10;
    make(&b, 2);
    const struct plan_settings *s = &b.place.settings;
    assert_int_equal(s->n_page, 2048);
    assert_int_equal(s->n_page_local, 2 * 4 * (512 / 32 + 2) + 256 / 32);
    assert_int_equal(b.place.window, 512);
    assert_int_equal(kv_of(&b.place), page_bytes * (8 * 2048 + 24 * (uint64_t)s->n_page_local));
    // No longer than the window: nothing ever falls out of sight.
    b.want.ctx = 512;
    make(&b, 2);
    assert_int_equal(s->n_page_local, 0);
    assert_int_equal(kv_of(&b.place), page_bytes * 32 * 2048);
    // So many sequences that all pages are in sight of somebody.
    b.want.ctx = 2048;
    b.want.n_slot = 128;
    make(&b, 2);
    assert_int_equal(s->n_page_local, 0);
    // Short memory: less is kept of sequences, before tokens go.
    b.want.n_slot = 32;
    b.want.kv_tokens = 256 << 10;
    make(&b, 2);
    const uint32_t n_much = s->n_page_local;
    assert_int_equal(n_much, 2 * 32 * 18 + 8);
    for (int i = 0; i < 2; i++)
        b.workers[i].mem_bytes = b.workers[i].mem_free_bytes = 1700ull * MIB;
    make(&b, 2);
    assert_int_equal(s->n_page, 8192);
    assert_true(s->n_page_local < n_much && s->n_page_local >= 4 * 18 + 8);
}

static void test_recurrent_models_have_snapshots(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 2, 2);
    model.shape.delta =
        (struct model_delta){.n_head_k = 8, .n_head_v = 16, .dim_k = 128, .dim_v = 128, .n_tap = 4};
    for (int i = 0; i < LAYERS; i++)
        if (i % 4 != 3) model.shape.layers[i].mixer = MIXER_DELTA;
    const uint64_t state_bytes = 4 * (16 * 128 * 128 + 3 * (2 * 8 * 128 + 16 * 128));
    const uint64_t page_bytes = PLACE_PAGE_TOK * 2 * 4 * 64 * 2;
    b.want.n_slot = 4;
    make(&b, 2);
    assert_true(b.place.recurrent);
    assert_int_equal(b.place.settings.n_snapshot, 8);
    assert_int_equal(kv_of(&b.place), 24 * state_bytes * (4 + 8) + 8 * page_bytes * (8192 / 32));
    // 1.6 GiB of state and twice that of snapshots do not fit: fewer snapshots.
    b.want.n_slot = 64;
    for (int i = 0; i < 2; i++)
        b.workers[i].mem_bytes = b.workers[i].mem_free_bytes = 2000ull * MIB;
    make(&b, 2);
    assert_true(b.place.settings.n_snapshot < 128 && b.place.settings.n_snapshot >= 4);
    assert_int_equal(b.place.settings.n_page, 8192 / PLACE_PAGE_TOK);
    bench_init(&b, 1, 1);
    make(&b, 1);
    assert_int_equal(b.place.settings.n_snapshot, 0);
    assert_false(b.place.recurrent);
}

static void test_does_not_fit(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 2, 2);
    b.workers[0].mem_free_bytes = b.workers[1].mem_free_bytes = 100 * MIB;
    assert_int_equal(place_make(&b.want, b.workers, 2, &b.place, &b.why), ERR_CAPACITY);
    assert_non_null(strstr(b.why.s, "fit"));
    // Neither the one nor the other alone, but both.
    bench_init(&b, 2, 2);
    b.workers[0].mem_free_bytes = b.workers[1].mem_free_bytes = 1400ull * MIB;
    b.workers[0].mem_bytes = b.workers[1].mem_bytes = 1400ull * MIB;
    b.want.kv_tokens = b.want.ctx;
    make(&b, 2);
    // One of two is too small for anything: the other serves alone.
    bench_init(&b, 2, 2);
    b.workers[0].mem_free_bytes = 8 * MIB;
    make(&b, 2);
    assert_int_equal(b.place.n_stage, 1);
    assert_int_equal(b.place.members[0].worker, 1);
}

// A worker of another lane on the host of the first one takes half of its cores: the other one, as
// fast by itself, has more layers.
static void test_other_lanes_take_their_part_of_a_host(void **state)
{
    (void)state;
    struct bench b, beside;
    bench_init(&b, 2, 2);
    bench_init(&beside, 1, 1);
    for (int i = 0; i < 2; i++)
        b.workers[i].n_core = 8;
    make(&b, 2);
    assert_int_equal(b.place.members[0].worker, 0);
    const uint32_t even = b.place.stages[0].layer_to;
    beside.workers[0].number = 7;
    beside.workers[0].n_core = 8;
    b.want.beside = beside.workers;
    b.want.n_beside = 1;
    make(&b, 2);
    const bool is_first = b.place.members[0].worker == 0;
    const uint32_t less =
        is_first ? b.place.stages[0].layer_to : LAYERS - b.place.stages[1].layer_from;
    assert_true(less < even);
}

static void test_one_host_has_its_memory_once(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 2, 2);
    // Each process sees all 600 MiB of the machine; both need 500.
    for (int i = 0; i < 2; i++) {
        b.workers[i].mem_bytes = b.workers[i].mem_free_bytes = 480 * MIB;
        b.workers[i].host = "same";
    }
    assert_int_equal(place_make(&b.want, b.workers, 2, &b.place, &b.why), ERR_CAPACITY);
    b.workers[1].host = "other";
    make(&b, 2);
}

static void test_roads(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 2, 2);
    make(&b, 2);
    assert_int_equal(b.place.road, ROAD_UCX);
    b.workers[0].process = b.workers[1].process;
    b.workers[0].roads = b.workers[1].roads = ROAD_LOCAL | ROAD_UCX;
    make(&b, 2);
    assert_int_equal(b.place.road, ROAD_LOCAL);
    b.want.road = ROAD_UCX;
    make(&b, 2);
    assert_int_equal(b.place.road, ROAD_UCX);
    b.want.road = 0;
    b.workers[0].process = 1;
    b.workers[0].roads = ROAD_LOCAL;
    make(&b, 2); // cannot reach the other: one of them serves alone
    assert_int_equal(b.place.n_stage, 1);
}

static void test_many(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, WORKERS, WORKERS);
    int64_t begun = clock_now_us();
    make(&b, WORKERS);
    print_message("%d equal workers: %.1f ms\n", WORKERS, (double)(clock_now_us() - begun) / 1e3);
    for (uint32_t i = 0; i < WORKERS; i++)
        b.workers[i].read_bytes_per_s *= 1 + i;
    begun = clock_now_us();
    make(&b, WORKERS);
    print_message("%d different workers: %.1f ms\n", WORKERS,
                  (double)(clock_now_us() - begun) / 1e3);
    bench_init(&b, 8, 8);
    for (uint32_t i = 0; i < 8; i++)
        b.workers[i].read_bytes_per_s *= 1 + i;
    begun = clock_now_us();
    make(&b, 8);
    print_message("8 different workers: %.1f ms\n", (double)(clock_now_us() - begun) / 1e3);
}

// -- groups --

static void test_groups(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 6, 0);
    b.want.split = SPLIT_TENSOR;
    b.want.n_member = 0;
    place_shape(&b.want, 6);
    assert_int_equal(b.want.n_stage, 1);
    assert_int_equal(b.want.n_member, 6);
    b.want.n_stage = 2;
    b.want.n_member = 3;
    make(&b, 6);
    assert_int_equal(b.place.n_stage, 2);
    assert_int_equal(b.place.n_member, 6);
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(b.place.stages[i].split, SPLIT_TENSOR);
    // Of five workers, two groups of two and one to spare; of one, no group at all.
    make(&b, 5);
    assert_int_equal(b.place.n_member, 4);
    make(&b, 1);
    assert_int_equal(b.place.n_member, 1);
    assert_int_equal(b.place.stages[0].split, SPLIT_NONE);
    b.want.split = SPLIT_EXPERTS; // of a model that has none
    assert_int_not_equal(place_make(&b.want, b.workers, 6, &b.place, &b.why), OK);
}

static void test_given_parts(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 3, 1);
    b.want.split = SPLIT_TENSOR;
    b.want.n_member = 3;
    share_parts((double[]){4, 2, 2}, 3, b.want.part);
    make(&b, 3);
    uint32_t largest = 0;
    for (uint32_t i = 0; i < 3; i++)
        if (b.place.members[i].part > largest) largest = b.place.members[i].part;
    assert_int_equal(largest, SHARE_TOTAL / 2);
    // They were given for three: two divide by their speed.
    make(&b, 2);
    assert_int_equal(b.place.members[0].part, SHARE_TOTAL / 2);
    assert_int_equal(b.place.members[1].part, SHARE_TOTAL / 2);
}

static void test_shapes(void **state)
{
    (void)state;
    struct place_want w = {.model = &model};
    place_shape(&w, 4);
    assert_int_equal(w.n_stage, 4);
    assert_int_equal(w.n_member, 1);
    w = (struct place_want){.model = &model};
    place_shape(&w, LAYERS + 7); // no more stages than layers
    assert_int_equal(w.n_stage, LAYERS);
    w = (struct place_want){.model = &model, .split = SPLIT_TENSOR, .n_stage = 3};
    place_shape(&w, 7);
    assert_int_equal(w.n_stage, 3);
    assert_int_equal(w.n_member, 2);
    w = (struct place_want){.model = &model, .split = SPLIT_EXPERTS, .n_stage = 3};
    place_shape(&w, 2);
    assert_int_equal(w.n_member, 1);
}

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_many_stages_as_wanted),
        cmocka_unit_test(test_same_again),
        cmocka_unit_test(test_faster_workers_get_more),
        cmocka_unit_test(test_measured_rates_count),
        cmocka_unit_test(test_what_is_held_stays),
        cmocka_unit_test(test_bad_claims_are_ignored),
        cmocka_unit_test(test_short_memory_means_fewer_pages),
        cmocka_unit_test(test_windows_have_pages_of_their_own),
        cmocka_unit_test(test_recurrent_models_have_snapshots),
        cmocka_unit_test(test_does_not_fit),
        cmocka_unit_test(test_other_lanes_take_their_part_of_a_host),
        cmocka_unit_test(test_one_host_has_its_memory_once),
        cmocka_unit_test(test_roads),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_given_parts),
        cmocka_unit_test(test_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
