// What another stage may send: activations of any bits (not numbers, infinities, the largest there
// are) through the last layers of every kind, in both precisions, to the drawn id. Whoever sends
// them is enrolled and has the epoch's key, so nothing before this refuses them. The step ends, and
// what it draws is an id or said to be meaningless.
#include "proto/base/log.h"
#include "tests/unit/worker/made.h"
#include "worker/stage.h"

#include <math.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TOK_MAX = 4, PAGE_TOK = 16 };

static struct stage *stages[MADE_KINDS][2];

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    log_set_level(LOG_ERROR);
    return 0;
}

// Kept: opening costs more than a step.
static struct stage *stage_of(uint32_t kind, uint32_t precision)
{
    struct stage **s = &stages[kind][precision];
    if (*s) return *s;
    const struct stage_config c = {
        .model = &made_new((enum made_kind)kind)->model,
        .layer_from = MADE_LAYERS / 2,
        .layer_to = MADE_LAYERS,
        .head = true,
        .settings = {.ctx = 64,
                     .page_tok = PAGE_TOK,
                     .n_page = 4,
                     .n_page_local = 4,
                     .n_slot = 1,
                     .n_snapshot = 1,
                     .max_tok = TOK_MAX,
                     .max_rows = 1,
                     .in_flight = 1,
                     .precision = precision ? PRECISION_FAST : PRECISION_EXACT,
                     .kv_dtype = precision ? DT_F16 : DT_F32},
        .n_threads = 1,
    };
    struct err_text why;
    if (stage_open(&c, NULL, s, &why)) {
        fprintf(stderr, "%s\n", why.s);
        abort();
    }
    return *s;
}

// Each value is four bytes of the input, or one of those that break things.
static float value(const uint8_t *data, size_t size, size_t i)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY, 3.4e38f, -3.4e38f, 1e-45f, -0.0f, 1};
    float v;
    uint32_t bits = 0;
    if (size < 4) return odd[size ? (data[0] + i) % 8 : i % 8];
    const size_t at = i * 4 % (size - 3);
    memcpy(&bits, data + at, sizeof bits);
    if (bits % 5 == 0) return odd[bits / 5 % 8];
    memcpy(&v, &bits, sizeof v);
    return v;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static float x[TOK_MAX * MADE_DIM];
    static struct arena arena;
    static const int32_t ids[TOK_MAX];
    static const uint32_t pages[2] = {0, 1};
    if (size < 2) return 0;
    struct stage *s = stage_of(data[0] % MADE_KINDS, data[0] >> 2 & 1);
    const struct step_bind bind = {.sampling = {.temperature = data[0] & 16 ? 0.8f : 0,
                                                .top_p = data[0] & 32 ? 0.9f : 1,
                                                .min_p = data[0] & 64 ? 0.1f : 0,
                                                .top_k = data[0] & 128 ? 20 : 0,
                                                .repetition = 1,
                                                .n_logprobs = data[1] >> 4}};
    const struct step_row row = {.flags = ROW_SAMPLE | (data[1] & 8 ? ROW_SCORE : 0),
                                 .n_tok = 1 + data[1] % TOK_MAX,
                                 .ids = ids,
                                 .next_id = 1,
                                 .n_page = 1,
                                 .pages = pages,
                                 .n_local = 1,
                                 .locals = pages};
    const struct step st = {
        .epoch = 1, .number = 1, .binds = &bind, .n_bind = 1, .rows = &row, .n_row = 1};
    struct step_result r = {0};
    struct err_text why;
    for (size_t i = 0; i < row.n_tok * MADE_DIM; i++)
        x[i] = value(data + 2, size - 2, i);
    arena_reset(&arena);
    stage_reset(s);
    if (stage_check(s, &st, &why)) {
        fprintf(stderr, "%s\n", why.s);
        abort();
    }
    if (stage_run(s, &st, x, NULL, &arena, &r) != OK || r.n_item != 1) abort();
    if (r.items[0].id < 0 || r.items[0].id >= MADE_VOCAB) abort();
    for (uint32_t i = 0; i < r.items[0].n_top; i++)
        if (r.items[0].top[i].id < 0 || r.items[0].top[i].id >= MADE_VOCAB) abort();
    return 0;
}
