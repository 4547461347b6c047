#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/golden/lane.h"
#include "tests/unit/worker/tiny.h"
#include "worker/sample.h"
#include "worker/weights.h"

#include <fcntl.h>
#include <math.h>
#include <unistd.h>

static struct tiny_file file, file_head;
static struct model *model, *model_head;

static int setup(void **state)
{
    (void)state;
    struct err_text why = {0};
    tiny_make(&file, 1, false);
    tiny_make(&file_head, 2, true);
    if (model_open(file.path, &model, &why) || model_open(file_head.path, &model_head, &why)) {
        fprintf(stderr, "%s\n", why.s);
        return 1;
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    model_close(model);
    model_close(model_head);
    unlink(file.path);
    unlink(file_head.path);
    return 0;
}

static struct plan_settings settings(void)
{
    return (struct plan_settings){.ctx = 128,
                                  .page_tok = 16,
                                  .n_page = 32,
                                  .n_slot = 4,
                                  .max_tok = 64,
                                  .max_rows = 4,
                                  .in_flight = 2,
                                  .kv_dtype = DT_F32,
                                  .precision = PRECISION_EXACT};
}

static struct stage_config config(const struct model *m, uint32_t from, uint32_t to)
{
    return (struct stage_config){.model = m,
                                 .layer_from = from,
                                 .layer_to = to,
                                 .embed = from == 0,
                                 .head = to == TINY_LAYERS,
                                 .settings = settings(),
                                 .n_threads = 1};
}

static struct stage *open_stage(const struct stage_config *c, struct stage *reuse)
{
    struct stage *s = NULL;
    struct err_text why = {0};
    if (stage_open(c, reuse, &s, &why)) fail_msg("%s", why.s);
    return s;
}

static struct lane_options lane_of(uint32_t n_stage)
{
    return (struct lane_options){.n_stage = n_stage,
                                 .n_slot = 4,
                                 .ctx = 128,
                                 .max_tok = 64,
                                 .precision = PRECISION_EXACT,
                                 .kv_dtype = DT_F32,
                                 .n_threads = 2};
}

static const int32_t prompt[] = {5,  17, 3, 99, 120, 7,  7,  150, 0,
                                 42, 88, 1, 63, 64,  65, 31, 12,  77};
enum { N_PROMPT = sizeof prompt / sizeof *prompt };

// -- loading --

static void parts_move_to_the_next_plan(void **state)
{
    (void)state;
    for (int with_head = 0; with_head < 2; with_head++) {
        const struct model *m = with_head ? model_head : model;
        const uint32_t cuts[][2] = {{0, 4}, {0, 2}, {1, 3}, {1, 4}, {0, 4}, {2, 4}};
        struct stage *kept = NULL;
        for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
            const struct stage_config c = config(m, cuts[i][0], cuts[i][1]);
            kept = open_stage(&c, kept);
            struct stage *fresh = open_stage(&c, NULL);
            float x[2 * TINY_DIM], y[2 * TINY_DIM];
            for (int j = 0; j < 2 * TINY_DIM; j++)
                x[j] = y[j] = sinf((float)j);
            const int32_t ids[2] = {9, 10};
            const uint32_t page = 3;
            const struct step_row row = {.n_tok = 2,
                                         .ids = ids,
                                         .next_id = -1,
                                         .n_page = 1,
                                         .pages = &page,
                                         .flags = ROW_SAMPLE};
            const struct step_bind bind = {
                .sampling = {.top_p = 1, .repetition = 1, .n_logprobs = -1, .digest = true}};
            const struct step st = {
                .epoch = 1, .number = 1, .binds = &bind, .n_bind = 1, .rows = &row, .n_row = 1};
            struct step_result a = {0}, b = {0};
            struct arena arena;
            arena_init(&arena, 0);
            assert_int_equal(stage_check(kept, &st, NULL), OK);
            assert_int_equal(stage_run(kept, &st, x, NULL, &arena, &a), OK);
            assert_int_equal(stage_run(fresh, &st, y, NULL, &arena, &b), OK);
            assert_memory_equal(x, y, sizeof x);
            if (c.head) assert_true(a.items[0].digest == b.items[0].digest);
            const struct stage_sizes s = stage_sizes_get(kept), t = stage_sizes_get(fresh);
            assert_true(s.weight_bytes == t.weight_bytes && s.kv_bytes == t.kv_bytes);
            arena_fini(&arena);
            stage_close(fresh);
        }
        stage_close(kept);
    }
}

static void sizes_are_known_before_loading(void **state)
{
    (void)state;
    const struct stage_config c = config(model, 0, 4);
    struct stage_sizes before, tied;
    assert_int_equal(stage_sizes(&c, &before, NULL), OK);
    struct stage *s = open_stage(&c, NULL);
    const struct stage_sizes after = stage_sizes_get(s);
    assert_memory_equal(&before, &after, sizeof after);
    // one page of one layer: keys and values of 16 tokens of 2 heads of 16 floats
    assert_true(before.kv_bytes >= 4ull * 32 * 2 * 16 * 2 * 16 * 4);
    stage_close(s);
    const struct stage_config with_head = config(model_head, 0, 4);
    assert_int_equal(stage_sizes(&with_head, &tied, NULL), OK);
    assert_true(tied.weight_bytes >= before.weight_bytes + TINY_VOCAB * TINY_DIM * 4);
}

static void refuses(const struct stage_config *c, err_t code, const char *word)
{
    struct stage *s = NULL;
    struct err_text why = {0};
    assert_int_equal(stage_open(c, NULL, &s, &why), code);
    assert_null(s);
    if (!strstr(why.s, word)) fail_msg("\"%s\" does not name %s", why.s, word);
    assert_null(strchr(why.s, '\n'));
}

static void bad_settings_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        size_t offset;
        uint32_t value;
        const char *name;
    } cases[] = {
        {offsetof(struct plan_settings, ctx), 0, "ctx"},
        {offsetof(struct plan_settings, ctx), ~0u, "ctx"},
        {offsetof(struct plan_settings, page_tok), 8, "page_tok"},
        {offsetof(struct plan_settings, page_tok), 48, "page_tok"},
        {offsetof(struct plan_settings, n_page), 0, "n_page"},
        {offsetof(struct plan_settings, n_page), STEP_PAGES_MAX + 1, "n_page"},
        {offsetof(struct plan_settings, n_slot), 0, "n_slot"},
        {offsetof(struct plan_settings, n_slot), STEP_SLOTS_MAX + 1, "n_slot"},
        {offsetof(struct plan_settings, max_tok), 0, "max_tok"},
        {offsetof(struct plan_settings, max_tok), STEP_TOKENS_MAX + 1, "max_tok"},
        {offsetof(struct plan_settings, max_rows), 0, "max_rows"},
        {offsetof(struct plan_settings, max_rows), STEP_ROWS_MAX + 1, "max_rows"},
        {offsetof(struct plan_settings, in_flight), 0, "in_flight"},
        {offsetof(struct plan_settings, in_flight), 65, "in_flight"},
        {offsetof(struct plan_settings, kv_dtype), DT_Q4_0, "kv_dtype"},
        {offsetof(struct plan_settings, kv_dtype), 1000, "kv_dtype"},
        {offsetof(struct plan_settings, precision), 3, "precision"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct stage_config c = config(model, 0, 4);
        memcpy((char *)&c.settings + cases[i].offset, &cases[i].value, 4);
        refuses(&c, ERR_CONFIG, cases[i].name);
    }
    struct stage_config c = config(model, 0, 4);
    c.layer_to = 5;
    refuses(&c, ERR_CONFIG, "layers");
    c.layer_from = c.layer_to = 2;
    refuses(&c, ERR_CONFIG, "layers");
    c = config(model, 0, 4);
    c.n_threads = 0;
    refuses(&c, ERR_CONFIG, "threads");
}

static void patch(const struct tiny_file *f, uint64_t at, const void *data, size_t n)
{
    int fd = open(f->path, O_WRONLY);
    assert_true(fd >= 0 && pwrite(fd, data, n, (off_t)at) == (ssize_t)n);
    close(fd);
}

static void bad_weights_are_refused_by_name(void **state)
{
    (void)state;
    static const char *const names[] = {"blk.2.ffn_norm.weight", "blk.1.attn_q.weight",
                                        "token_embd.weight", "output_norm.weight"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct tiny_file f;
        tiny_make(&f, 3, false);
        struct model *m;
        assert_int_equal(model_open(f.path, &m, NULL), OK);
        const float bad[] = {NAN, INFINITY};
        patch(&f, tiny_offset(&f, names[i]) + 40, &bad[i % 2], 4);
        const struct stage_config c = config(m, 0, 4);
        refuses(&c, ERR_MODEL, names[i]);
        model_close(m);
        unlink(f.path);
    }
}

static void scales_of_every_type_are_looked_at(void **state)
{
    (void)state;
    const enum dtype types[] = {DT_F32,  DT_F16,  DT_BF16, DT_Q4_0, DT_Q4_1, DT_Q5_0,
                                DT_Q5_1, DT_Q8_0, DT_Q4_K, DT_Q5_K, DT_Q6_K};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        const struct dtype_info *info = dtype_info(types[i]);
        uint8_t bytes[3 * 256] = {0};
        const uint64_t n = 3ull * info->bytes;
        assert_true(weights_are_finite(types[i], bytes, n));
        // each 16-bit word (32-bit for F32) of all ones in turn: seen where it is a scale
        uint32_t seen = 0;
        for (uint64_t at = 0; at + 4 <= n; at += 2) {
            memset(bytes + at, 0xff, types[i] == DT_F32 ? 4 : 2);
            seen += !weights_are_finite(types[i], bytes, n);
            memset(bytes, 0, n);
        }
        assert_true(seen >= 2);
    }
}

static void a_shrinking_file_is_an_error(void **state)
{
    (void)state;
    struct tiny_file f;
    tiny_make(&f, 4, false);
    struct model *m;
    assert_int_equal(model_open(f.path, &m, NULL), OK);
    assert_int_equal(truncate(f.path, (off_t)(f.data_from + 1000)), 0);
    const struct stage_config c = config(m, 0, 4);
    refuses(&c, ERR_MODEL, "changed");
    unlink(f.path);
    refuses(&c, ERR_SYSTEM, "cannot open");
    model_close(m);
}

static void loading_can_be_cancelled(void **state)
{
    (void)state;
    struct stage_load load = {.cancel = true};
    struct stage_config c = config(model, 0, 4);
    c.load = &load;
    refuses(&c, ERR_CANCELLED, "cancelled");
    atomic_store(&load.cancel, false);
    struct stage *s = open_stage(&c, NULL);
    assert_true(atomic_load(&load.pieces) > 0);
    stage_close(s);
}

// -- what comes out --

static void splits_and_batches_give_the_same_bits(void **state)
{
    (void)state;
    float *want = malloc(N_PROMPT * TINY_VOCAB * sizeof *want);
    for (uint32_t n_stage = 1; n_stage <= 4; n_stage++) {
        struct lane l;
        const struct lane_options o = lane_of(n_stage);
        assert_true(lane_open(&l, model, &o));
        struct step_result r;
        struct step_row whole = {
            .slot = 1, .n_tok = N_PROMPT, .ids = prompt, .flags = ROW_SCORE, .next_id = -1};
        assert_true(lane_rows(&l, &whole, 1, &r));
        assert_int_equal(l.n_logits, N_PROMPT);
        if (n_stage == 1) memcpy(want, l.logits, N_PROMPT * TINY_VOCAB * sizeof *want);
        assert_memory_equal(l.logits, want, N_PROMPT * TINY_VOCAB * sizeof *want);
        for (uint32_t i = 0; i < N_PROMPT; i++) {
            struct step_row rows[2] = {
                {.slot = 0,
                 .pos = i,
                 .n_tok = 1,
                 .ids = prompt + i,
                 .flags = ROW_SAMPLE,
                 .next_id = -1},
                {.slot = 3, .pos = 3 * i, .n_tok = 3, .ids = prompt + i % 15, .next_id = -1}};
            assert_true(lane_rows(&l, rows, 2, &r));
            assert_memory_equal(l.logits, want + i * TINY_VOCAB, TINY_VOCAB * sizeof *want);
        }
        lane_close(&l);
    }
    free(want);
}

// One stage, slot 0, full control over the bind.
struct solo {
    struct stage *s;
    struct arena arena;
    uint64_t number;
    float x[64 * TINY_DIM];
    float logits[64][TINY_VOCAB];
    uint32_t n_logits;
};

static void solo_tap(void *arg, uint32_t row, uint32_t tok, const float *logits)
{
    (void)row;
    (void)tok;
    struct solo *o = arg;
    memcpy(o->logits[o->n_logits++], logits, sizeof o->logits[0]);
}

static struct step_item solo_run(struct solo *o, const struct step_bind *bind, struct step_row row,
                                 const int32_t *chained)
{
    static const uint32_t pages[8] = {7, 2, 5, 0, 1, 3, 4, 6};
    if (bind) {
        row.n_page = 8;
        row.pages = pages;
    }
    const struct step st = {.epoch = 1,
                            .number = ++o->number,
                            .binds = bind,
                            .n_bind = bind != NULL,
                            .rows = &row,
                            .n_row = 1};
    struct step_result r = {0};
    struct err_text why = {0};
    arena_reset(&o->arena);
    o->n_logits = 0;
    if (stage_check(o->s, &st, &why)) fail_msg("%s", why.s);
    assert_int_equal(stage_run(o->s, &st, o->x, chained, &o->arena, &r), OK);
    assert_int_equal(r.n_item, 1);
    assert_int_equal(r.number, o->number);
    return r.items[0];
}

static struct solo *solo_open(void)
{
    struct solo *o = calloc(1, sizeof *o);
    const struct stage_config c = config(model_head, 0, 4);
    o->s = open_stage(&c, NULL);
    arena_init(&o->arena, 0);
    stage_tap(o->s, solo_tap, o);
    return o;
}

static void solo_close(struct solo *o)
{
    stage_close(o->s);
    arena_fini(&o->arena);
    free(o);
}

static double log_prob(const float *logits, int32_t id)
{
    double sum = 0, max = logits[0];
    for (int i = 0; i < TINY_VOCAB; i++)
        if (logits[i] > max) max = logits[i];
    for (int i = 0; i < TINY_VOCAB; i++)
        sum += exp(logits[i] - max);
    return logits[id] - max - log(sum);
}

static int32_t best(const float *x)
{
    int32_t b = 0;
    for (int32_t i = 1; i < TINY_VOCAB; i++)
        if (x[i] > x[b]) b = i;
    return b;
}

static struct step_bind greedy(void)
{
    return (struct step_bind){.sampling = {.top_p = 1, .repetition = 1, .n_logprobs = -1}};
}

static struct step_row row_of(uint32_t pos, uint32_t n, const int32_t *ids, uint32_t flags)
{
    return (struct step_row){.pos = pos, .n_tok = n, .ids = ids, .flags = flags, .next_id = -1};
}

// A step of four rows that ask for nothing, the next token, scores and a vector, and one more token
// of the first: all logits that the head sees, and the vector behind them.
static uint32_t run_mixed(struct solo *o, float vector[TINY_DIM])
{
    static const uint32_t pages[4] = {7, 2, 5, 0};
    struct step_bind binds[4];
    struct step_row rows[4] = {row_of(0, 9, prompt, 0), row_of(0, 5, prompt + 2, ROW_SAMPLE),
                               row_of(0, 7, prompt + 4, ROW_SCORE | ROW_SAMPLE),
                               row_of(0, 6, prompt + 7, ROW_POOL)};
    uint32_t n = 0;
    for (uint32_t i = 0; i < 4; i++) {
        binds[i] = greedy();
        binds[i].slot = rows[i].slot = i;
        rows[i].pages = &pages[i];
        rows[i].n_page = 1;
    }
    binds[3].pooling = POOLING_LAST;
    struct step st = {
        .epoch = 1, .number = 1, .binds = binds, .n_bind = 4, .rows = rows, .n_row = 4};
    for (int i = 0; i < 2; i++) {
        struct step_result r = {0};
        struct err_text why = {0};
        if (stage_check(o->s, &st, &why)) fail_msg("%s", why.s);
        o->n_logits = 0;
        assert_int_equal(stage_run(o->s, &st, o->x, NULL, &o->arena, &r), OK);
        if (i == 0) {
            assert_int_equal(r.n_item, 3);
            memcpy(vector, r.items[2].vector, TINY_DIM * sizeof *vector);
            n = o->n_logits;
            memcpy(o->logits[32], o->logits, n * sizeof o->logits[0]);
        }
        rows[0] = row_of(9, 1, prompt, ROW_SAMPLE);
        st = (struct step){.epoch = 1, .number = 2, .rows = rows, .n_row = 1};
    }
    memcpy(o->logits[32 + n], o->logits, sizeof o->logits[0]);
    return n + 1;
}

static void nobody_misses_what_the_last_layer_leaves_out(void **state)
{
    (void)state;
    const struct stage_watch all = {0}; // whoever watches is shown every row
    struct solo *o = solo_open(), *whole = solo_open();
    float vector[2][TINY_DIM];
    assert_int_equal(stage_watch(whole->s, &all), OK);
    const uint32_t n = run_mixed(o, vector[0]);
    assert_int_equal(n, 1 + 7 + 1);
    assert_int_equal(run_mixed(whole, vector[1]), n);
    assert_memory_equal(o->logits[32], whole->logits[32], n * sizeof o->logits[0]);
    assert_memory_equal(vector[0], vector[1], sizeof vector[0]);
    solo_close(o);
    solo_close(whole);
}

static void items_say_what_was_asked(void **state)
{
    (void)state;
    struct solo *o = solo_open();
    struct step_bind b = greedy();
    b.sampling.n_logprobs = 5;
    b.sampling.digest = true;
    struct step_row row = row_of(0, N_PROMPT, prompt, ROW_SAMPLE | ROW_SCORE);
    row.next_id = 33;
    const struct step_item item = solo_run(o, &b, row, NULL);
    assert_int_equal(o->n_logits, N_PROMPT);
    const float *last = o->logits[N_PROMPT - 1];
    assert_int_equal(item.id, best(last));
    assert_true(fabs(item.logprob - log_prob(last, item.id)) < 1e-5);
    assert_true(item.digest == sample_digest(last, TINY_VOCAB));
    assert_false(item.nonfinite);
    assert_int_equal(item.n_top, 5);
    assert_int_equal(item.top[0].id, item.id);
    for (uint32_t i = 1; i < 5; i++)
        assert_true(item.top[i].logprob <= item.top[i - 1].logprob);
    assert_int_equal(item.n_score, N_PROMPT);
    for (uint32_t i = 0; i < N_PROMPT; i++) {
        const int32_t next = i + 1 < N_PROMPT ? prompt[i + 1] : 33;
        assert_true(fabs(item.scores[i] - log_prob(o->logits[i], next)) < 1e-5);
    }
    // nothing asked, nothing told
    b = greedy();
    const struct step_item bare = solo_run(o, &b, row_of(0, 3, prompt, ROW_SAMPLE), NULL);
    assert_true(bare.digest == 0 && bare.n_top == 0 && bare.n_score == 0);
    b = greedy();
    const struct step_item scored = solo_run(o, &b, row_of(0, 3, prompt, ROW_SCORE), NULL);
    assert_true(scored.id == -1 && scored.n_score == 2);
    solo_close(o);
}

static void bias_and_penalties_turn_the_choice(void **state)
{
    (void)state;
    struct solo *o = solo_open();
    struct step_bind b = greedy();
    const int32_t plain = solo_run(o, &b, row_of(0, 4, prompt, ROW_SAMPLE), NULL).id;
    const struct logit_bias push = {.id = 11, .bias = 100}, drop = {.id = plain, .bias = -100};
    b.sampling.bias = &push;
    b.sampling.n_bias = 1;
    assert_int_equal(solo_run(o, &b, row_of(0, 4, prompt, ROW_SAMPLE), NULL).id, 11);
    b.sampling.bias = &drop;
    b.sampling.n_logprobs = 0;
    const struct step_item item = solo_run(o, &b, row_of(0, 4, prompt, ROW_SAMPLE), NULL);
    assert_true(item.id != plain);
    assert_true(fabs(item.logprob - log_prob(o->logits[0], item.id)) < 1e-5); // raw logits
    solo_close(o);
}

// Penalties count the same whether a token came in the history, in a row, or chained.
static void history_and_rows_count_alike(void **state)
{
    (void)state;
    struct solo *o = solo_open();
    for (int kind = 0; kind < 3; kind++) {
        struct step_bind b = greedy();
        b.sampling.presence = kind == 0;
        b.sampling.frequency = kind == 1 ? 0.7f : 0;
        b.sampling.repetition = kind == 2 ? 1.5f : 1;
        b.n_prompt = 6;
        int32_t ids[40];
        memcpy(ids, prompt, sizeof prompt);
        // token by token; ids after the first 6 are generated
        uint32_t n = 6;
        int32_t id = solo_run(o, &b, row_of(0, n, ids, ROW_SAMPLE), NULL).id;
        while (n < 30) {
            ids[n] = id;
            struct step_row row = row_of(n, 1, ids + n, ROW_SAMPLE);
            if (n % 2) {
                row.ids = NULL;
                row.flags |= ROW_CHAIN;
                row.from_step = o->number;
            }
            id = solo_run(o, NULL, row, &ids[n]).id;
            n++;
        }
        // all again in one row
        assert_int_equal(solo_run(o, &b, row_of(0, n, ids, ROW_SAMPLE), NULL).id, id);
        // only the last tokens in a row, the others (their keys are in the pages) as history
        b.history = ids;
        b.n_history = 20;
        assert_int_equal(solo_run(o, &b, row_of(20, n - 20, ids + 20, ROW_SAMPLE), NULL).id, id);
        // a bind without penalties forgets the counts
        struct step_bind none = greedy();
        const int32_t other = solo_run(o, &none, row_of(0, n, ids, ROW_SAMPLE), NULL).id;
        assert_int_equal(other, best(o->logits[0]));
    }
    solo_close(o);
}

static void nonfinite_logits_are_flagged(void **state)
{
    (void)state;
    struct tiny_file f;
    tiny_make(&f, 5, true);
    struct model *m;
    const float huge = 3e38f; // finite, but its products are not
    for (int i = 0; i < TINY_DIM; i++)
        patch(&f, tiny_offset(&f, "output.weight") + 4ull * (uint64_t)i, &huge, 4);
    assert_int_equal(model_open(f.path, &m, NULL), OK);
    struct solo *o = calloc(1, sizeof *o);
    const struct stage_config c = config(m, 0, 4);
    o->s = open_stage(&c, NULL);
    arena_init(&o->arena, 0);
    stage_tap(o->s, solo_tap, o);
    for (int t = 0; t < 2; t++) {
        struct step_bind b = greedy();
        b.sampling.temperature = (float)t;
        b.sampling.n_logprobs = 3;
        struct step_row row = row_of(0, 3, prompt, ROW_SAMPLE | ROW_SCORE);
        row.next_id = 0;
        const struct step_item item = solo_run(o, &b, row, NULL);
        assert_true(item.nonfinite);
        assert_true(item.id >= 0 && item.id < TINY_VOCAB && item.n_top == 0);
        for (uint32_t i = 0; i < item.n_score; i++)
            assert_true(isfinite(item.scores[i]));
    }
    solo_close(o);
    model_close(m);
    unlink(f.path);
}

// Rows 0 and 1 of the head are w and -w on the first element of h: logits w h and -w h. Gives the
// first, and log p of the second.
static void opposite_logits(float w, float *first, float *score)
{
    struct tiny_file f;
    tiny_make(&f, 5, true);
    for (int i = 0; i < 2 * TINY_DIM; i++) {
        const float v = i == 0 ? w : i == TINY_DIM ? -w : 0;
        patch(&f, tiny_offset(&f, "output.weight") + 4ull * (uint64_t)i, &v, 4);
    }
    struct model *m;
    assert_int_equal(model_open(f.path, &m, NULL), OK);
    struct solo *o = calloc(1, sizeof *o);
    const struct stage_config c = config(m, 0, 4);
    o->s = open_stage(&c, NULL);
    arena_init(&o->arena, 0);
    stage_tap(o->s, solo_tap, o);
    const struct step_bind b = greedy();
    struct step_row row = row_of(0, 1, prompt, ROW_SCORE);
    row.next_id = 1;
    const struct step_item item = solo_run(o, &b, row, NULL);
    assert_false(item.nonfinite);
    *first = o->logits[0][0];
    *score = item.scores[0];
    solo_close(o);
    model_close(m);
    unlink(f.path);
}

// A result holds finite numbers only, or the coordinator would drop the worker for it.
static void logprobs_stay_finite(void **state)
{
    (void)state;
    float h, logit, score;
    opposite_logits(1, &h, &score);
    opposite_logits(2.5e38f / h, &logit, &score);
    assert_true(logit > 2e38f); // so the other lies further below than a float can say
    assert_true(isfinite(score) && score < -3e38f);
}

// -- checking --

static const uint32_t some_pages[8] = {0, 1, 2, 3, 4, 5, 6, 7};

struct trial {
    struct step_bind bind;
    struct step_row rows[6];
    struct step st;
};

static struct trial good(void)
{
    struct trial t = {.bind = greedy()};
    t.bind.slot = 2;
    t.rows[0] = row_of(0, 20, prompt, ROW_SAMPLE);
    t.rows[0].n_tok = 16;
    t.rows[0].slot = 2;
    t.rows[0].n_page = 1;
    t.rows[0].pages = some_pages;
    t.st = (struct step){.epoch = 1, .number = 1, .n_bind = 1, .n_row = 1};
    return t;
}

static void expect(const struct stage *s, struct trial *t, const char *word)
{
    struct err_text why = {0};
    t->st.binds = &t->bind;
    t->st.rows = t->rows;
    const err_t e = stage_check(s, &t->st, &why);
    if (!word) {
        if (e) fail_msg("%s", why.s);
        return;
    }
    assert_int_equal(e, ERR_LINK_PROTOCOL);
    if (!strstr(why.s, word)) fail_msg("\"%s\" does not say \"%s\"", why.s, word);
}

#define REFUSED(word, change)                                                                      \
    do {                                                                                           \
        struct trial t = good();                                                                   \
        change;                                                                                    \
        expect(s, &t, word);                                                                       \
        struct trial after = good(); /* and a good one still passes: nothing sticks */             \
        expect(s, &after, NULL);                                                                   \
    } while (0)

static void malicious_steps_are_refused(void **state)
{
    (void)state;
    const struct stage_config c = config(model, 0, 4);
    struct stage *s = open_stage(&c, NULL);
    const int32_t bad_ids[] = {-1, TINY_VOCAB, INT32_MAX, INT32_MIN};
    const uint32_t bad_page = 32, far_page = ~0u;
    const struct logit_bias bad_bias = {.id = TINY_VOCAB}, worse_bias = {.id = -1};
    REFUSED(NULL, (void)t);
    REFUSED("rows", t.st.n_row = 0);
    REFUSED("rows", t.st.n_row = 5);
    REFUSED("slot 4", t.rows[0].slot = 4);
    REFUSED("slot", t.rows[0].slot = ~0u);
    REFUSED("no sequence", t.rows[0].slot = 1);
    REFUSED("no sequence", t.st.n_bind = 0);
    REFUSED("bind of slot", t.bind.slot = 4);
    REFUSED("bind of slot", t.bind.slot = ~0u);
    REFUSED("binds", t.st.n_bind = 5);
    REFUSED("tokens", t.rows[0].n_tok = 0);
    REFUSED("tokens", t.rows[0].n_tok = 65);
    REFUSED("tokens", t.rows[0].n_tok = ~0u);
    REFUSED("context", t.rows[0].pos = 113);
    REFUSED("context", t.rows[0].pos = ~0u);
    REFUSED("pages end", t.rows[0].pos = 1);
    REFUSED("pages end", t.rows[0].n_page = 0);
    REFUSED("page entries", t.rows[0].page_from = 1);
    REFUSED("page entries", t.rows[0].page_from = ~0u);
    REFUSED("page entries", t.rows[0].n_page = 9);
    REFUSED("page entries", t.rows[0].n_page = ~0u);
    REFUSED("page 32", t.rows[0].pages = &bad_page);
    REFUSED("page", t.rows[0].pages = &far_page);
    REFUSED("ids or is chained", t.rows[0].ids = NULL);
    REFUSED("ids or is chained", t.rows[0].flags |= ROW_CHAIN);
    REFUSED("new sequence", t.rows[0].flags |= ROW_CHAIN; t.rows[0].ids = NULL;
            t.rows[0].n_tok = 1);
    REFUSED("next id", t.rows[0].flags = ROW_SCORE; t.rows[0].next_id = TINY_VOCAB);
    REFUSED("next id", t.rows[0].flags = ROW_SCORE; t.rows[0].next_id = -2);
    const uint8_t masks[] = {0, 0, 1, 0, 0xa0, 1, 1, 0, 0xa1, 1}; // TINY_VOCAB, and one more
    REFUSED(NULL, t.rows[0].mask = masks + 2; t.rows[0].n_mask = 4);
    REFUSED("mask", t.rows[0].mask = masks; t.rows[0].n_mask = 1);
    REFUSED("mask", t.rows[0].mask = masks; t.rows[0].n_mask = 2);
    REFUSED("mask", t.rows[0].mask = masks + 6; t.rows[0].n_mask = 4);
    REFUSED("mask", t.rows[0].mask = masks + 2; t.rows[0].n_mask = 4; t.rows[0].flags = ROW_SCORE;
            t.rows[0].next_id = -1);
    REFUSED("two rows", t.rows[1] = t.rows[0]; t.st.n_row = 2);
    REFUSED("history", t.bind.n_history = 129; t.bind.history = prompt);
    REFUSED("bias", t.bind.sampling.bias = &bad_bias; t.bind.sampling.n_bias = 1);
    REFUSED("bias", t.bind.sampling.bias = &worse_bias; t.bind.sampling.n_bias = 1);
    REFUSED("sampling", t.bind.sampling.n_bias = STEP_BIAS_MAX + 1);
    REFUSED("sampling", t.bind.sampling.n_logprobs = 21);
    REFUSED("sampling", t.bind.sampling.temperature = NAN);
    REFUSED("sampling", t.bind.sampling.top_p = 0);
    REFUSED("sampling", t.bind.sampling.repetition = 0);
    REFUSED("sampling", t.bind.sampling.repetition = INFINITY);
    for (int i = 0; i < 4; i++) {
        REFUSED("vocabulary", t.rows[0].ids = &bad_ids[i]; t.rows[0].n_tok = 1);
        REFUSED("vocabulary", t.bind.history = &bad_ids[i]; t.bind.n_history = 1);
    }
    stage_close(s);
}

// Of any two ids the mask leaves, the likelier is drawn, and its probability is what it was.
static void masks_are_kept(void **state)
{
    (void)state;
    struct solo *o = solo_open();
    for (int32_t id = 0; id < 110; id += 5) {
        struct step_bind b = greedy();
        const uint8_t mask[] = {1, (uint8_t)id, 1, 6, 1};
        struct step_row row = row_of(0, 5, prompt, ROW_SAMPLE);
        b.sampling.n_logprobs = 0;
        b.sampling.temperature = id % 2 ? 1.5f : 0;
        row.mask = mask;
        row.n_mask = sizeof mask;
        stage_reset(o->s);
        const struct step_item item = solo_run(o, &b, row, NULL);
        const float *logits = o->logits[o->n_logits - 1];
        assert_true(item.id == id || item.id == id + 7);
        if (b.sampling.temperature == 0)
            assert_int_equal(item.id, logits[id] >= logits[id + 7] ? id : id + 7);
        assert_true(fabs(item.logprob - log_prob(logits, item.id)) < 1e-5);
    }
    solo_close(o);
}

static void a_slot_goes_on_where_it_was(void **state)
{
    (void)state;
    struct solo *o = solo_open();
    struct step_bind b = greedy();
    solo_run(o, &b, row_of(0, 5, prompt, ROW_SAMPLE), NULL);
    struct trial t = {.rows = {row_of(5, 1, prompt, ROW_SAMPLE)}, .st = {.number = 2, .n_row = 1}};
    expect(o->s, &t, NULL);
    t.rows[0].pos = 4;
    expect(o->s, &t, "expected 5");
    t.rows[0].pos = 6;
    expect(o->s, &t, "expected 5");
    t.rows[0] = row_of(5, 1, NULL, ROW_SAMPLE | ROW_CHAIN);
    t.rows[0].from_step = 1;
    expect(o->s, &t, NULL);
    t.rows[0].from_step = 7;
    expect(o->s, &t, "drew nothing");
    stage_reset(o->s);
    t.rows[0] = row_of(5, 1, prompt, 0);
    expect(o->s, &t, "no sequence");
    solo_close(o);
}

static uint32_t below(uint32_t *rnd, uint32_t n)
{
    *rnd = *rnd * 1664525 + 1013904223;
    return (*rnd >> 8) % n;
}

// Steps of random numbers, mostly near the limits: whatever passes the check runs, and the
// sanitizer sees that it stays within its memory.
static void random_steps_stay_in_their_memory(void **state)
{
    (void)state;
    const struct stage_config c = config(model_head, 0, 4);
    struct stage *s = open_stage(&c, NULL);
    struct arena arena;
    arena_init(&arena, 0);
    static float x[64 * TINY_DIM];
    uint32_t rnd = 99, n_run = 0, n_refused = 0;
#define RND(n) below(&rnd, n)
    for (int i = 0; i < 6000; i++) {
        int32_t ids[64];
        uint32_t pages[4][9];
        struct step_bind binds[3];
        struct step_row rows[4];
        struct step st = {.epoch = 1, .number = (uint64_t)i + 1, .binds = binds, .rows = rows};
        for (int j = 0; j < 64; j++)
            ids[j] = (int32_t)(RND(TINY_VOCAB + (RND(200) == 0)));
        st.n_bind = RND(3);
        for (uint32_t j = 0; j < st.n_bind; j++) {
            binds[j] = greedy();
            binds[j].slot = RND(4);
            binds[j].sampling.temperature = (float)(RND(3));
            binds[j].sampling.frequency = (float)(RND(2));
            binds[j].sampling.n_logprobs = (int32_t)(RND(22)) - 1;
            binds[j].history = ids;
            binds[j].n_history = RND(64);
        }
        st.n_row = RND(4) + 1;
        for (uint32_t j = 0; j < st.n_row; j++) {
            rows[j] = row_of(RND(3) ? 0 : RND(130), RND(3) ? 1 : RND(40), ids, RND(4));
            rows[j].slot = (RND(4) ? j : RND(5));
            rows[j].page_from = RND(4) ? 0 : RND(9);
            rows[j].n_page = RND(9);
            rows[j].next_id = (int32_t)(RND(TINY_VOCAB + 2)) - 1;
            for (int k = 0; k < 9; k++)
                pages[j][k] = RND(32 + (RND(50) == 0));
            rows[j].pages = pages[j];
        }
        arena_reset(&arena);
        struct step_result r;
        if (stage_check(s, &st, NULL)) {
            n_refused++;
            continue;
        }
        n_run++;
        assert_int_equal(stage_run(s, &st, x, NULL, &arena, &r), OK);
    }
    assert_true(n_run > 100 && n_refused > 100);
    arena_fini(&arena);
    stage_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_move_to_the_next_plan),
        cmocka_unit_test(sizes_are_known_before_loading),
        cmocka_unit_test(bad_settings_are_refused_by_name),
        cmocka_unit_test(bad_weights_are_refused_by_name),
        cmocka_unit_test(scales_of_every_type_are_looked_at),
        cmocka_unit_test(a_shrinking_file_is_an_error),
        cmocka_unit_test(loading_can_be_cancelled),
        cmocka_unit_test(splits_and_batches_give_the_same_bits),
        cmocka_unit_test(nobody_misses_what_the_last_layer_leaves_out),
        cmocka_unit_test(items_say_what_was_asked),
        cmocka_unit_test(bias_and_penalties_turn_the_choice),
        cmocka_unit_test(history_and_rows_count_alike),
        cmocka_unit_test(nonfinite_logits_are_flagged),
        cmocka_unit_test(logprobs_stay_finite),
        cmocka_unit_test(malicious_steps_are_refused),
        cmocka_unit_test(masks_are_kept),
        cmocka_unit_test(a_slot_goes_on_where_it_was),
        cmocka_unit_test(random_steps_stay_in_their_memory),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
