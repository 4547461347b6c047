#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/golden/compare.h"
#include "tests/golden/lane.h"
#include "tests/unit/worker/made.h"
#include "worker/stage_priv.h"

enum { N_PROMPT = 75, N_MTP = 20 };

static int32_t prompt[N_PROMPT];
static struct made *models[MADE_KINDS];

static int setup(void **state)
{
    (void)state;
    for (int i = 0; i < N_PROMPT; i++)
        prompt[i] = (i * 37 + i * i) % MADE_VOCAB;
    for (int k = 0; k < MADE_KINDS; k++)
        models[k] = made_new((enum made_kind)k);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (int k = 0; k < MADE_KINDS; k++)
        free(models[k]);
    return 0;
}

static struct lane_options options(void)
{
    return (struct lane_options){.n_stage = 1,
                                 .n_slot = 4,
                                 .ctx = 160,
                                 .max_tok = 80,
                                 .precision = PRECISION_FAST,
                                 .kv_dtype = DT_F32,
                                 .n_threads = 2};
}

static void open_lane(struct lane *l, int kind, const struct lane_options *o)
{
    if (!lane_open(l, &models[kind]->model, o)) fail_msg("kind %d does not open", kind);
}

// Logits of the whole prompt, in chunks.
static void run_prompt(struct lane *l, uint32_t slot, uint32_t chunk, float *out)
{
    for (uint32_t pos = 0; pos < N_PROMPT; pos += chunk) {
        const uint32_t take = N_PROMPT - pos < chunk ? N_PROMPT - pos : chunk;
        struct step_row row = {.slot = slot,
                               .pos = pos,
                               .n_tok = take,
                               .ids = prompt + pos,
                               .flags = ROW_SCORE,
                               .next_id = -1};
        struct step_result r;
        assert_true(lane_rows(l, &row, 1, &r));
        assert_int_equal(l->n_logits, take);
        memcpy(out + pos * MADE_VOCAB, l->logits, take * MADE_VOCAB * sizeof *out);
    }
}

// Every kind: whole, token by token, in odd chunks, in every number of stages, with
// local pages of their own: the same bits. And a token's neighbours matter, so that this says
// something.
static void splits_and_chunks_give_the_same_bits(void **state)
{
    (void)state;
    static float want[N_PROMPT * MADE_VOCAB], got[N_PROMPT * MADE_VOCAB];
    for (int kind = 0; kind < MADE_KINDS; kind++) {
        for (uint32_t split = 0; split < 4; split++) {
            struct lane_options o = options();
            o.n_stage = split + 1;
            o.local_pages = split % 2;
            struct lane l;
            open_lane(&l, kind, &o);
            run_prompt(&l, 1, split == 0 ? N_PROMPT : split == 1 ? 1 : 13, got);
            if (split == 0) memcpy(want, got, sizeof want);
            assert_memory_equal(got, want, sizeof want);
            lane_close(&l);
        }
        for (int i = 0; i < N_PROMPT * MADE_VOCAB; i++)
            assert_true(isfinite(want[i]));
        prompt[N_PROMPT - 2] ^= 1;
        struct lane l;
        const struct lane_options o = options();
        open_lane(&l, kind, &o);
        run_prompt(&l, 1, N_PROMPT, got);
        prompt[N_PROMPT - 2] ^= 1;
        const size_t before = (size_t)(N_PROMPT - 2) * MADE_VOCAB;
        assert_memory_equal(got, want, before * sizeof *want);
        assert_true(max_diff(got + before + MADE_VOCAB, want + before + MADE_VOCAB, MADE_VOCAB) >
                    1e-4);
        lane_close(&l);
    }
}

// So does any division among members; and each holds less than all.
static void members_give_the_same_bits(void **state)
{
    (void)state;
    static const struct {
        enum share_split split;
        int32_t n_member;
        double part[LANE_MEMBERS_MAX];
        bool has_table;
        uint32_t n_stage, chunk;
    } ways[] = {
        {SPLIT_TENSOR, 2, {1, 1}, false, 1, 1},
        {SPLIT_TENSOR, 3, {5, 1, 3}, false, 2, 13},
        {SPLIT_EXPERTS, 2, {1, 2}, false, 1, 1},
        {SPLIT_EXPERTS, 3, {1, 1, 1}, true, 1, N_PROMPT},
        {SPLIT_EXPERTS, 4, {2, 1, 1, 3}, true, 2, 13},
    };
    static float want[N_PROMPT * MADE_VOCAB], got[N_PROMPT * MADE_VOCAB];
    for (int kind = 0; kind < MADE_KINDS; kind++) {
        struct lane_options o = options();
        struct lane l;
        open_lane(&l, kind, &o);
        run_prompt(&l, 1, N_PROMPT, want);
        const struct stage_sizes alone = stage_sizes_get(l.stages[0][0]);
        lane_close(&l);
        for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
            if (ways[i].split == SPLIT_EXPERTS && kind == MADE_WINDOW) continue; // has none
            o.split = ways[i].split;
            o.n_member = ways[i].n_member;
            o.has_table = ways[i].has_table;
            o.n_stage = ways[i].n_stage;
            memcpy(o.part, ways[i].part, sizeof o.part);
            open_lane(&l, kind, &o);
            run_prompt(&l, 1, ways[i].chunk, got);
            assert_memory_equal(got, want, sizeof want);
            for (int32_t k = 0; k < l.n_member[0]; k++) {
                const struct stage_sizes z = stage_sizes_get(l.stages[0][k]);
                assert_true(z.weight_bytes < alone.weight_bytes);
                if (k && o.split == SPLIT_EXPERTS) assert_int_equal(z.kv_bytes, 0);
            }
            lane_close(&l);
        }
    }
}

// A step large enough for two halves, the second of which begins inside a row.
static void large_steps_run_in_halves(void **state)
{
    (void)state;
    enum { ROWS = 3, LONG = 70, ALL = ROWS * LONG };
    static float want[ALL * MADE_VOCAB];
    for (int kind = MADE_CHUNK; kind < MADE_KINDS; kind++)
        for (int32_t n_member = 1; n_member <= 3; n_member++) {
            struct lane_options o = options();
            o.max_tok = ALL;
            o.split = n_member > 1 ? SPLIT_EXPERTS : SPLIT_NONE;
            o.n_member = n_member;
            o.has_table = n_member == 3;
            o.local_pages = n_member == 2;
            struct lane l;
            open_lane(&l, kind, &o);
            for (uint32_t pos = 0; pos < 2 * LONG; pos += LONG) {
                struct step_row rows[ROWS];
                for (uint32_t i = 0; i < ROWS; i++)
                    rows[i] = (struct step_row){.slot = i,
                                                .pos = pos,
                                                .n_tok = LONG,
                                                .ids = prompt + i,
                                                .flags = ROW_SCORE,
                                                .next_id = -1};
                struct step_result r;
                assert_true(lane_rows(&l, rows, ROWS, &r));
                assert_int_equal(l.n_logits, ALL);
                assert_true(stage_has_halves(l.stages[0][0]) == (n_member > 1));
            }
            if (n_member == 1) memcpy(want, l.logits, sizeof want);
            assert_memory_equal(l.logits, want, sizeof want);
            lane_close(&l);
        }
}

static void experts_are_counted(void **state)
{
    (void)state;
    static float out[N_PROMPT * MADE_VOCAB];
    uint32_t count[MADE_LAYERS * MADE_EXPERTS];
    for (int split = SPLIT_NONE; split <= SPLIT_EXPERTS; split++) {
        struct lane_options o = options();
        struct lane l;
        o.split = (enum share_split)split;
        o.n_member = split ? 2 : 1;
        open_lane(&l, MADE_LATENT, &o);
        assert_false(stage_usage(l.stages[0][0], count));
        run_prompt(&l, 1, 13, out);
        assert_true(stage_usage(l.stages[0][0], count));
        for (int i = 0; i < MADE_LAYERS; i++) {
            uint32_t sum = 0;
            for (int e = 0; e < MADE_EXPERTS; e++)
                sum += count[i * MADE_EXPERTS + e];
            assert_int_equal(sum, i ? N_PROMPT * MADE_USED : 0); // the first layer is dense
        }
        assert_false(stage_usage(l.stages[0][0], count));
        if (split == SPLIT_EXPERTS) assert_false(stage_usage(l.stages[0][1], count));
        lane_close(&l);
    }
}

// -- what a member may be told --

struct liar {
    struct group group;
    const int32_t (*ids)[MADE_USED]; // of the rows it sends
    int64_t n_row;
    err_t err;
    int n_send;
};

static void liar_begin(struct group *g, uint64_t step)
{
    (void)g, (void)step;
}
static void liar_gather(struct group *g, float *y, int64_t n_row, int64_t ld, const int64_t *from,
                        int32_t root)
{
    (void)g, (void)y, (void)n_row, (void)ld, (void)from, (void)root;
}
static void liar_send(struct group *g, int32_t to, const void *data, int64_t n_row, int64_t n_col)
{
    (void)to, (void)data, (void)n_row, (void)n_col;
    ((struct liar *)(void *)g)->n_send++;
}
static int64_t liar_recv(struct group *g, int32_t from, void *data, int64_t n_row, int64_t n_col,
                         int64_t cap_row)
{
    const struct liar *l = (struct liar *)(void *)g;
    (void)from;
    if (l->err || n_row >= 0) return l->err ? 0 : n_row;
    assert_true(l->n_row <= cap_row && n_col == MADE_DIM + MADE_USED);
    for (int64_t i = 0; i < l->n_row; i++) {
        float *row = (float *)data + i * n_col;
        memset(row, 0, MADE_DIM * sizeof *row);
        memcpy(row + MADE_DIM, l->ids[i], MADE_USED * sizeof *row);
    }
    return l->n_row;
}
static err_t liar_status(struct group *g, struct err_text *why)
{
    const struct liar *l = (struct liar *)(void *)g;
    return l->err ? err_say(why, l->err, "lost") : OK;
}
static const struct group_ops liar_ops = {.name = "liar",
                                          .begin = liar_begin,
                                          .gather = liar_gather,
                                          .send = liar_send,
                                          .recv = liar_recv,
                                          .status = liar_status};

// One step of a member among two whose group says whatever it likes.
static err_t run_with(struct liar *g, enum share_split split, int32_t member)
{
    struct err_text why = {0};
    struct stage *s;
    g->group = (struct group){.ops = &liar_ops, .n_member = 2, .member = member};
    struct stage_config c = {.model = &models[MADE_LATENT]->model,
                             .layer_to = MADE_LAYERS,
                             .embed = true,
                             .head = true,
                             .settings = {.ctx = 64,
                                          .page_tok = 16,
                                          .n_page = 4,
                                          .n_slot = 1,
                                          .max_tok = 4,
                                          .max_rows = 1,
                                          .in_flight = 1,
                                          .kv_dtype = DT_F32},
                             .n_threads = 1,
                             .share = {.split = split, .n_member = 2, .member = member},
                             .group = &g->group};
    share_parts((double[]){1, 1}, 2, c.share.part);
    if (stage_open(&c, NULL, &s, &why)) fail_msg("%s", why.s);
    const uint32_t page = 0;
    const struct step_bind b = {.sampling = {.top_p = 1, .repetition = 1, .n_logprobs = -1}};
    const struct step_row row = {
        .n_tok = 3, .ids = prompt, .next_id = -1, .n_page = 1, .pages = &page, .flags = ROW_SAMPLE};
    const struct step st = {
        .epoch = 1, .number = 1, .binds = &b, .n_bind = 1, .rows = &row, .n_row = 1};
    static float x[4 * MADE_DIM];
    struct step_result r = {0};
    struct arena arena;
    arena_init(&arena, 0);
    if (stage_check(s, &st, &why)) fail_msg("%s", why.s);
    const err_t e = stage_run(s, &st, x, NULL, &arena, &r);
    arena_fini(&arena);
    stage_close(s);
    return e;
}

// Member 1 holds experts 4 to 7.
static void owners_check_what_they_are_asked(void **state)
{
    (void)state;
    static const int32_t good[3][MADE_USED] = {{-1, 4, 7}, {5, 6, 7}, {-1, -1, -1}};
    static const int32_t bad[][MADE_USED] = {{3, 4, 5},  {4, 8, -1}, {7, 5, -1},
                                             {4, 4, -1}, {-2, 4, 5}, {INT32_MAX, -1, -1}};
    struct liar g = {.ids = good, .n_row = 3};
    assert_int_equal(run_with(&g, SPLIT_EXPERTS, 1), OK);
    assert_int_equal(g.n_send, MADE_LAYERS - 1);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        g = (struct liar){.ids = &bad[i], .n_row = 1};
        assert_int_equal(run_with(&g, SPLIT_EXPERTS, 1), ERR_LINK_PROTOCOL);
        assert_int_equal(g.n_send, 0);
    }
    g = (struct liar){.n_row = 0}; // nobody chose any
    assert_int_equal(run_with(&g, SPLIT_EXPERTS, 1), OK);
    assert_int_equal(g.n_send, 0);
}

static void a_lost_group_ends_the_step(void **state)
{
    (void)state;
    for (int split = SPLIT_TENSOR; split <= SPLIT_EXPERTS; split++)
        for (int32_t member = 0; member < 2; member++) {
            struct liar g = {.err = ERR_LINK};
            assert_int_equal(run_with(&g, (enum share_split)split, member), ERR_LINK);
        }
}

// Local layers do not see what lies before their window or chunk.
static void local_layers_forget(void **state)
{
    (void)state;
    for (int kind = MADE_WINDOW; kind <= MADE_CHUNK; kind++) {
        for (int all_local = 0; all_local < 2; all_local++) {
            static float want[N_PROMPT * MADE_VOCAB], got[N_PROMPT * MADE_VOCAB];
            struct model_shape *s = &models[kind]->model.shape;
            const struct model_layer kept[] = {s->layers[1], s->layers[3]};
            if (all_local) s->layers[1].is_local = s->layers[3].is_local = true;
            struct lane l;
            const struct lane_options o = options();
            open_lane(&l, kind, &o);
            run_prompt(&l, 0, N_PROMPT, want);
            // 4 layers of 24 tokens see less than 93 tokens back: too many. The chunk's end is
            // sharp: position 64 on sees nothing before 64.
            prompt[0] ^= 1;
            run_prompt(&l, 0, N_PROMPT, got);
            prompt[0] ^= 1;
            lane_close(&l);
            const size_t last = (size_t)(N_PROMPT - 1) * MADE_VOCAB;
            const bool same = !memcmp(got + last, want + last, MADE_VOCAB * sizeof *got);
            if (kind == MADE_CHUNK)
                assert_true(same == (all_local == 1));
            else
                assert_false(same);
            s->layers[1] = kept[0];
            s->layers[3] = kept[1];
        }
    }
}

// The rows of a step do not see each other, nor what their slot held before.
static void rows_are_alone(void **state)
{
    (void)state;
    static float want[N_PROMPT * MADE_VOCAB];
    for (int kind = 0; kind < MADE_KINDS; kind++) {
        struct lane l;
        struct lane_options o = options();
        o.local_pages = true;
        open_lane(&l, kind, &o);
        run_prompt(&l, 0, N_PROMPT, want);
        for (uint32_t pos = 0; pos < 25; pos++) {
            struct step_row rows[3] = {
                {.slot = 3, .pos = pos, .n_tok = 1, .ids = prompt + 25 - pos, .next_id = -1},
                {.slot = 0,
                 .pos = 3 * pos,
                 .n_tok = 3,
                 .ids = prompt + 3 * pos,
                 .flags = ROW_SCORE,
                 .next_id = -1},
                {.slot = 2, .pos = 5 * pos, .n_tok = 5, .ids = prompt + pos, .next_id = -1},
            };
            struct step_result r;
            assert_true(lane_rows(&l, rows, 3, &r));
            assert_memory_equal(l.logits, want + 3 * pos * MADE_VOCAB,
                                3 * MADE_VOCAB * sizeof *want);
        }
        lane_close(&l);
    }
}

static void count_tick(void *arg)
{
    ++*(int32_t *)arg;
}

// A sequence that starts from a snapshot and a page of another one goes on with the same bits.
static void snapshots_stand_for_what_was_computed(void **state)
{
    (void)state;
    static float x[32 * MADE_DIM];
    int32_t n_tick = 0;
    const struct model *m = &models[MADE_HYBRID]->model;
    const struct stage_config c = {.model = m,
                                   .layer_to = MADE_LAYERS,
                                   .embed = true,
                                   .head = true,
                                   .settings = {.ctx = 64,
                                                .page_tok = 16,
                                                .n_page = 8,
                                                .n_snapshot = 2,
                                                .n_slot = 2,
                                                .max_tok = 32,
                                                .max_rows = 2,
                                                .in_flight = 1,
                                                .kv_dtype = DT_F32},
                                   .n_threads = 1,
                                   .tick = count_tick,
                                   .tick_arg = &n_tick};
    struct stage *s;
    struct err_text why = {0};
    if (stage_open(&c, NULL, &s, &why)) fail_msg("%s", why.s);
    struct arena arena;
    arena_init(&arena, 0);
    const uint32_t pages[] = {5, 2, 7};
    uint64_t digests[3] = {0};
    for (int i = 0; i < 4; i++) {
        // 0: the whole; 1: the first page, kept as snapshot 2; 2: the rest from there in another
        // slot; 3: the rest from nothing is refused
        struct step_bind b = {.slot = i == 2, .snapshot = i == 2 ? 2 : 0};
        b.sampling = (struct sampling){.top_p = 1, .repetition = 1, .n_logprobs = -1};
        b.sampling.digest = true;
        struct step_row row = {.slot = b.slot, .ids = prompt, .next_id = -1, .flags = ROW_SAMPLE};
        row.n_tok = i == 1 ? 16 : 30;
        row.pages = pages;
        row.n_page = 2;
        if (i == 1) row.snapshot = 2;
        if (i >= 2) {
            row.pos = 16;
            row.n_tok = 14;
            row.ids = prompt + 16;
        }
        const struct step st = {.epoch = 1,
                                .number = (uint64_t)i + 1,
                                .binds = &b,
                                .n_bind = 1,
                                .rows = &row,
                                .n_row = 1};
        if (i == 3) {
            assert_int_equal(stage_check(s, &st, &why), ERR_LINK_PROTOCOL);
            break;
        }
        struct step_result r;
        if (stage_check(s, &st, &why)) fail_msg("%s", why.s);
        assert_int_equal(stage_run(s, &st, x, NULL, &arena, &r), OK);
        digests[i] = r.items[0].digest;
        assert_int_equal(n_tick, 2 * MADE_LAYERS * (i + 1)); // whoever waits may look in between
    }
    assert_true(digests[0] == digests[2]);
    assert_true(digests[0] != digests[1]);
    arena_fini(&arena);
    stage_close(s);
}

// The prediction head's logits of each token do not depend on how the prompt was cut.
static void prediction_head_is_cut_like_the_rest(void **state)
{
    (void)state;
    static float want[N_MTP * MADE_VOCAB], got[N_MTP * MADE_VOCAB];
    for (uint32_t n_stage = 1; n_stage <= 3; n_stage++) {
        const uint32_t chunk = n_stage == 1 ? N_MTP : 2 * n_stage - 1;
        struct lane l;
        struct lane_options o = options();
        o.n_stage = n_stage;
        o.mtp = true;
        open_lane(&l, MADE_HYBRID, &o);
        for (uint32_t pos = 0; pos < N_MTP; pos += chunk) {
            const uint32_t take = N_MTP - pos < chunk ? N_MTP - pos : chunk;
            struct step_row row = {.pos = pos, .n_tok = take, .ids = prompt + pos, .next_id = -1};
            struct step_result r;
            assert_true(lane_rows(&l, &row, 1, &r));
            stage_mtp(l.stages[n_stage - 1][0], l.x, prompt + pos + 1, got + pos * MADE_VOCAB);
        }
        if (n_stage == 1) memcpy(want, got, sizeof want);
        assert_memory_equal(got, want, sizeof want);
        lane_close(&l);
    }
    for (int i = 0; i < N_MTP * MADE_VOCAB; i++)
        assert_true(isfinite(want[i]));
}

static void refuses(const struct stage_config *c, const char *word)
{
    struct stage *s = NULL;
    struct err_text why = {0};
    assert_int_equal(stage_open(c, NULL, &s, &why), ERR_CONFIG);
    if (!strstr(why.s, word)) fail_msg("\"%s\" does not say \"%s\"", why.s, word);
}

static void bad_configs_are_refused_by_name(void **state)
{
    (void)state;
    struct lane l;
    const struct lane_options o = options();
    open_lane(&l, MADE_HYBRID, &o);
    struct stage_config c = *stage_config_get(l.stages[0][0]);
    c.share.n_member = 2;
    refuses(&c, "split by none");
    c.share.split = SPLIT_COUNT;
    refuses(&c, "split by unknown");
    c.share.split = SPLIT_TENSOR;
    c.share.part[1] = 1;
    refuses(&c, "65537");
    c.share.part[0]--;
    refuses(&c, "another group");
    c.share.member = 2;
    refuses(&c, "member 2 of 2");
    c.share.member = 1;
    c.mtp = true;
    refuses(&c, "prediction head");
    c.mtp = false;
    const uint8_t owner[MADE_EXPERTS] = {0, 1, 2};
    c.share.experts = (struct share_experts){0, 1, MADE_EXPERTS, owner, NULL, 0};
    refuses(&c, "member 2 of 2");
    c.share.experts.n_layer = MADE_LAYERS + 1;
    refuses(&c, "a table");
    const struct share_replica copy = {0, 0, 2};
    c.share.experts = (struct share_experts){0, 0, MADE_EXPERTS, NULL, &copy, 1};
    refuses(&c, "a copy");
    c.share.experts = (struct share_experts){0};
    c.share.split = SPLIT_EXPERTS;
    c.model = &models[MADE_WINDOW]->model;
    refuses(&c, "without experts");
    c = *stage_config_get(l.stages[0][0]);
    c.mtp = true;
    c.head = false;
    refuses(&c, "output head");
    c.head = true;
    c.model = &models[MADE_LATENT]->model;
    refuses(&c, "has none");
    lane_close(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(splits_and_chunks_give_the_same_bits),
        cmocka_unit_test(members_give_the_same_bits),
        cmocka_unit_test(large_steps_run_in_halves),
        cmocka_unit_test(experts_are_counted),
        cmocka_unit_test(owners_check_what_they_are_asked),
        cmocka_unit_test(a_lost_group_ends_the_step),
        cmocka_unit_test(local_layers_forget),
        cmocka_unit_test(rows_are_alone),
        cmocka_unit_test(snapshots_stand_for_what_was_computed),
        cmocka_unit_test(prediction_head_is_cut_like_the_rest),
        cmocka_unit_test(bad_configs_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
