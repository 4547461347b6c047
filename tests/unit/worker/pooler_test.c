// Vectors out of hidden states: the same bits however the tokens were cut, batched and divided.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/golden/lane.h"
#include "tests/unit/worker/tiny.h"
#include "worker/pooler.h"

#include <math.h>
#include <unistd.h>

enum { N_PROMPT = 37, CTX = 128, MAX_TOK = 64 };

static struct tiny_file file;
static struct model *model;
static int32_t prompt[N_PROMPT];

static int setup(void **state)
{
    (void)state;
    struct err_text why = {0};
    for (int32_t i = 0; i < N_PROMPT; i++)
        prompt[i] = (i * 53 + 7) % TINY_VOCAB;
    tiny_make(&file, 1, false);
    if (model_open(file.path, &model, &why) == OK) return 0;
    fprintf(stderr, "%s\n", why.s);
    return 1;
}

static int teardown(void **state)
{
    (void)state;
    model_close(model);
    unlink(file.path);
    return 0;
}

static struct lane_options options(uint32_t n_stage, int32_t n_member)
{
    return (struct lane_options){.n_stage = n_stage,
                                 .n_slot = 4,
                                 .ctx = CTX,
                                 .max_tok = MAX_TOK,
                                 .split = n_member > 1 ? SPLIT_TENSOR : SPLIT_NONE,
                                 .n_member = n_member,
                                 .precision = PRECISION_EXACT,
                                 .kv_dtype = DT_F32,
                                 .n_threads = 1};
}

// The prompt in slot 1, in rows of `chunk`, beside `n_beside` rows of others; out (TINY_DIM).
static void vector_of(struct lane *l, enum pooling kind, uint32_t chunk, uint32_t n_beside,
                      float *out)
{
    int32_t other[N_PROMPT];
    l->pooling = kind;
    for (uint32_t i = 0; i < N_PROMPT; i++)
        other[i] = (int32_t)i;
    for (uint32_t pos = 0; pos < N_PROMPT; pos += chunk) {
        const bool is_last = pos + chunk >= N_PROMPT;
        const uint32_t take = is_last ? N_PROMPT - pos : chunk;
        struct step_row rows[3];
        uint32_t n = 0;
        for (uint32_t i = 0; i < n_beside; i++)
            rows[n++] = (struct step_row){.slot = 2 * i,
                                          .pos = pos ? pos * (i + 2) / chunk : 0,
                                          .n_tok = i + 2,
                                          .ids = other,
                                          .next_id = -1,
                                          .flags = i ? ROW_SAMPLE : 0};
        rows[n++] = (struct step_row){.slot = 1,
                                      .pos = pos,
                                      .n_tok = take,
                                      .ids = prompt + pos,
                                      .next_id = -1,
                                      .flags = is_last ? ROW_POOL : 0};
        struct step_result r = {0};
        assert_true(lane_rows(l, rows, n, &r));
        assert_int_equal(r.n_item, (uint32_t)is_last + (n_beside > 1));
        if (!is_last) continue;
        const struct step_item *it = &r.items[r.n_item - 1];
        assert_int_equal(it->row, n - 1);
        assert_int_equal(it->id, -1);
        assert_false(it->nonfinite);
        assert_int_equal(it->n_vector, TINY_DIM);
        memcpy(out, it->vector, TINY_DIM * sizeof *out);
    }
}

// What the vectors are: of the residual stream after the last layer, through the final norm (of
// which the tiny model's weights are read here).
static void vectors_are_those_of_the_hidden_states(void **state)
{
    (void)state;
    struct lane_options o = options(1, 1);
    struct lane l;
    o.watch = true;
    assert_true(lane_open(&l, model, &o));
    float norm[TINY_DIM], got[TINY_DIM];
    double h[N_PROMPT][TINY_DIM], mean[TINY_DIM] = {0};
    FILE *f = fopen(file.path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, (long)tiny_offset(&file, "output_norm.weight"), SEEK_SET), 0);
    assert_int_equal(fread(norm, sizeof *norm, TINY_DIM, f), TINY_DIM);
    fclose(f);
    for (int kind = POOLING_LAST; kind < POOLINGS; kind++) {
        vector_of(&l, (enum pooling)kind, N_PROMPT, 0, got);
        const float *x = l.seen.hidden[TINY_LAYERS];
        memset(mean, 0, sizeof mean);
        for (int i = 0; i < N_PROMPT; i++) {
            double sum = 0;
            for (int k = 0; k < TINY_DIM; k++)
                sum += (double)x[i * TINY_DIM + k] * (double)x[i * TINY_DIM + k];
            const double scale = 1 / sqrt(sum / TINY_DIM + (double)model->shape.norm_eps);
            for (int k = 0; k < TINY_DIM; k++) {
                h[i][k] = (double)x[i * TINY_DIM + k] * scale * (double)norm[k];
                mean[k] += h[i][k] / N_PROMPT;
            }
        }
        const double *want = kind == POOLING_MEAN   ? mean
                             : kind == POOLING_LAST ? h[N_PROMPT - 1]
                                                    : h[0];
        double largest = 0;
        for (int k = 0; k < TINY_DIM; k++) {
            assert_true(fabs((double)got[k] - want[k]) < 1e-5 * (1 + fabs(want[k])));
            largest = fmax(largest, fabs(want[k]));
        }
        assert_true(largest > 0.01);
    }
    lane_close(&l);
}

static void every_way_gives_the_same_bits(void **state)
{
    (void)state;
    static const struct {
        uint32_t n_stage;
        int32_t n_member;
    } ways[] = {{1, 1}, {2, 1}, {1, 2}};
    static const uint32_t chunks[] = {N_PROMPT, 1, 5, 33};
    float want[POOLINGS][TINY_DIM], got[TINY_DIM];
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        const struct lane_options o = options(ways[w].n_stage, ways[w].n_member);
        struct lane l;
        assert_true(lane_open(&l, model, &o));
        for (int kind = POOLING_LAST; kind < POOLINGS; kind++)
            for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++)
                for (uint32_t beside = 0; beside < 3; beside++) {
                    const bool is_first = w == 0 && i == 0 && beside == 0;
                    vector_of(&l, (enum pooling)kind, chunks[i], beside,
                              is_first ? want[kind] : got);
                    if (!is_first) assert_memory_equal(got, want[kind], sizeof got);
                }
        lane_close(&l);
    }
    assert_memory_not_equal(want[POOLING_LAST], want[POOLING_MEAN], sizeof got);
    assert_memory_not_equal(want[POOLING_FIRST], want[POOLING_MEAN], sizeof got);
}

static void check(const struct pooler *p, struct step_row r, const struct step_bind *bind,
                  const char *word)
{
    struct err_text why = {0};
    const err_t e = pooler_check_row(p, &r, bind, &why);
    assert_int_equal(e, word ? ERR_LINK_PROTOCOL : OK);
    if (word && !strstr(why.s, word)) fail_msg("%s", why.s);
}

static void rows_that_leave_tokens_out_are_refused(void **state)
{
    (void)state;
    struct pooler_slot slots[2] = {0};
    double sums[2 * 3];
    float out[3];
    struct pooler p = {.slots = slots, .sums = sums, .dim = 3};
    const struct step_bind mean = {.slot = 1, .pooling = POOLING_MEAN},
                           last = {.slot = 1, .pooling = POOLING_LAST}, none = {.slot = 1};
    struct step_row r = {.slot = 1, .n_tok = 2, .flags = ROW_POOL};
    check(&p, r, NULL, "no vector");
    check(&p, r, &none, "no vector");
    check(&p, r, &mean, NULL);
    r.pos = 16; // after a prefix that was reused
    check(&p, r, &last, NULL);
    check(&p, r, &mean, "position 16");

    pooler_bind(&p, &mean);
    r.pos = 0;
    r.flags = 0;
    pooler_take(&p, &r);
    pooler_add(&p, 1, (const float[]){1, 2, 3, 3, 4, 5}, 2);
    check(&p, r, NULL, "position 0");
    r.pos = 2;
    check(&p, r, NULL, NULL);
    assert_true(pooler_give(&p, 1, out));
    assert_true(out[0] == 2 && out[1] == 3 && out[2] == 4);

    pooler_bind(&p, &last);
    pooler_add(&p, 1, (const float[]){1, NAN, INFINITY}, 1);
    assert_false(pooler_give(&p, 1, out));
    assert_true(out[0] == 0 && out[1] == 0 && out[2] == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_are_those_of_the_hidden_states),
        cmocka_unit_test(every_way_gives_the_same_bits),
        cmocka_unit_test(rows_that_leave_tokens_out_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
