#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/unit/worker/exact_kernels.h"
#include "worker/penalty.h"
#include "worker/sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BIG = 262144 };

static struct sampling plain(void)
{
    return (struct sampling){.temperature = 1, .top_p = 1, .repetition = 1, .n_logprobs = -1};
}

static void philox_has_the_published_values(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], want[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t got[4];
        sample_philox(cases[i].counter, cases[i].key, got);
        assert_memory_equal(got, cases[i].want, sizeof got);
    }
}

// Draws many positions and compares how often each id came with the probabilities.
static void check_distribution(const float *logits, const struct sampling *s, const double *want,
                               int n)
{
    enum { DRAWS = 40000 };
    struct sample_cand cands[16];
    int count[16] = {0};
    for (uint32_t pos = 0; pos < DRAWS; pos++)
        count[sample_draw(logits, n, s, pos, cands)]++;
    for (int i = 0; i < n; i++) {
        const double mean = DRAWS * want[i], sigma = sqrt(mean * (1 - want[i]));
        if (want[i] == 0)
            assert_int_equal(count[i], 0);
        else
            assert_true(fabs(count[i] - mean) < 5 * sigma + 1e-9);
    }
}

static void draws_follow_the_softmax(void **state)
{
    (void)state;
    const float logits[8] = {1.0f, 0.5f, -1.0f, 2.0f, 2.0f, -3.0f, 0.0f, 1.5f};
    for (int t = 0; t < 3; t++) {
        struct sampling s = plain();
        s.temperature = (float[]){1, 0.5f, 2}[t];
        s.seed = 7 + (uint64_t)t;
        double p[8], sum = 0;
        for (int i = 0; i < 8; i++)
            sum += p[i] = exp(logits[i] / s.temperature);
        for (int i = 0; i < 8; i++)
            p[i] /= sum;
        check_distribution(logits, &s, p, 8);
    }
}

static void top_k_top_p_and_min_p_cut_the_tail(void **state)
{
    (void)state;
    // probabilities 0.4 0.3 0.2 0.1, not in order of ids
    const float logits[4] = {logf(0.2f), logf(0.4f), logf(0.1f), logf(0.3f)};
    struct sampling s = plain();
    s.top_k = 2;
    check_distribution(logits, &s, (double[]){0, 4.0 / 7, 0, 3.0 / 7}, 4);
    s = plain();
    s.top_p = 0.65f; // 0.4 is not enough, 0.7 is
    check_distribution(logits, &s, (double[]){0, 4.0 / 7, 0, 3.0 / 7}, 4);
    s.top_p = 0.75f;
    check_distribution(logits, &s, (double[]){2.0 / 9, 4.0 / 9, 0, 3.0 / 9}, 4);
    s.top_p = 1e-6f;
    check_distribution(logits, &s, (double[]){0, 1, 0, 0}, 4);
    s = plain();
    s.min_p = 0.6f; // of 0.4: keeps 0.4 and 0.3
    check_distribution(logits, &s, (double[]){0, 4.0 / 7, 0, 3.0 / 7}, 4);
    // top-p counts what top-k left: 0.4/0.7 reaches 0.55
    s = plain();
    s.top_k = 2;
    s.top_p = 0.55f;
    check_distribution(logits, &s, (double[]){0, 1, 0, 0}, 4);
    s = plain();
    s.top_k = 1000; // more than there are: off
    check_distribution(logits, &s, (double[]){0.2, 0.4, 0.1, 0.3}, 4);
}

static void ties_go_to_the_lower_id(void **state)
{
    (void)state;
    const float logits[5] = {1, 3, 3, 3, 0};
    struct sample_cand cands[5];
    struct sampling s = plain();
    s.top_k = 1;
    for (uint32_t pos = 0; pos < 50; pos++)
        assert_int_equal(sample_draw(logits, 5, &s, pos, cands), 1);
    struct token_prob top[3];
    sample_top(logits, 5, 3, top);
    assert_int_equal(top[0].id, 1);
    assert_int_equal(top[1].id, 2);
    assert_int_equal(top[2].id, 3);
    sample_top(logits, 5, 0, top);
    sample_top(logits, 5, 1, top);
    assert_int_equal(top[0].id, 1);
}

static void the_draw_depends_on_seed_choice_and_position_only(void **state)
{
    (void)state;
    float *logits = malloc(BIG * sizeof *logits);
    struct sample_cand *cands = malloc(BIG * sizeof *cands);
    assert_non_null(logits);
    assert_non_null(cands);
    for (int i = 0; i < BIG; i++)
        logits[i] = (float)(i * 7919 % 1000) * 0.01f;
    struct sampling s = plain();
    s.top_p = 0.9f;
    s.seed = 42;
    const int32_t first = sample_draw(logits, BIG, &s, 17, cands);
    memset(cands, 0xff, BIG * sizeof *cands);
    assert_int_equal(sample_draw(logits, BIG, &s, 17, cands), first);
    int changed = 0;
    for (uint32_t k = 0; k < 8; k++) {
        struct sampling other = s;
        other.choice = k + 1;
        changed += sample_draw(logits, BIG, &other, 17, cands) != first;
        changed += sample_draw(logits, BIG, &s, 18 + k, cands) != first;
        other = s;
        other.seed += k + 1;
        changed += sample_draw(logits, BIG, &other, 17, cands) != first;
    }
    assert_true(changed >= 22);
    free(logits);
    free(cands);
}

// The partial selection against a full sort.
static const float *sort_by;
static int by_rank(const void *a, const void *b)
{
    const int x = *(const int *)a, y = *(const int *)b;
    if (sort_by[x] != sort_by[y]) return sort_by[x] > sort_by[y] ? -1 : 1;
    return x - y;
}

static void selection_equals_a_full_sort(void **state)
{
    (void)state;
    enum { N = 3000 };
    static float logits[N];
    static struct sample_cand cands[N];
    static int order[N];
    static bool allowed[N];
    uint32_t rnd = 1;
    for (int round = 0; round < 60; round++) {
        for (int i = 0; i < N; i++) {
            rnd = rnd * 1664525 + 1013904223;
            logits[i] = (float)(rnd >> 8) / (1 << 24) * (round % 2 ? 30 : 3) - 5;
            if (round % 5 == 0) logits[i] = roundf(logits[i]); // many ties
            order[i] = i;
        }
        sort_by = logits;
        qsort(order, N, sizeof *order, by_rank);
        struct sampling s = plain();
        s.temperature = 0.7f;
        s.top_k = (int[]){0, 1, 5, 40, 500, 2999}[round % 6];
        s.top_p = (float[]){0.1f, 0.5f, 0.95f, 0.999f, 1}[round % 5];
        double total = 0, in = 0;
        const int k = s.top_k ? s.top_k : N;
        for (int i = 0; i < k; i++)
            total += exp((double)(logits[order[i]] - logits[order[0]]) / s.temperature);
        memset(allowed, 0, sizeof allowed);
        for (int i = 0; i < k && in < total * s.top_p * (1 + 1e-6); i++) {
            in += exp((double)(logits[order[i]] - logits[order[0]]) / s.temperature);
            allowed[order[i]] = true;
        }
        for (uint32_t pos = 0; pos < 200; pos++)
            assert_true(allowed[sample_draw(logits, N, &s, pos, cands)]);
    }
}

static void extreme_settings_stay_in_range(void **state)
{
    (void)state;
    float logits[6] = {-1e30f, 1e30f, 0, 5, -5, 1e30f};
    struct sample_cand cands[6];
    const float temperatures[] = {1e-30f, 1e-6f, 2};
    for (int t = 0; t < 3; t++)
        for (int k = 0; k < 4; k++) {
            struct sampling s = plain();
            s.temperature = temperatures[t];
            s.top_k = k;
            s.top_p = k % 2 ? 0.3f : 1;
            s.min_p = k % 3 ? 1 : 0;
            const int32_t id = sample_draw(logits, 6, &s, 3, cands);
            assert_true(id == 1 || id == 5);
        }
    struct sampling s = plain();
    assert_int_equal(sample_draw((float[]){-7}, 1, &s, 0, cands), 0);
}

static bool is_finite(struct kernels *k, const float *x, int n)
{
    bool finite[2] = {false, false};
    k->ops->finite(k, x, 1, n, finite);
    assert_false(finite[1]);
    return finite[0];
}

static void digests_and_finiteness_see_every_element(void **state)
{
    (void)state;
    struct kernels *k = open_kernels();
    for (int n = 1; n < 40; n++) {
        float x[40];
        for (int i = 0; i < n; i++)
            x[i] = (float)i * 0.25f - 3;
        const uint64_t digest = sample_digest(x, n);
        assert_true(is_finite(k, x, n));
        assert_true(sample_digest(x, n) == digest);
        for (int i = 0; i < n; i++) {
            const float kept = x[i];
            x[i] = nextafterf(kept, 100);
            assert_true(sample_digest(x, n) != digest);
            const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
            for (int b = 0; b < 4; b++) {
                x[i] = bad[b];
                assert_false(is_finite(k, x, n));
            }
            x[i] = kept;
        }
        x[0] = 3.4e38f; // the largest exponent that is a number
        assert_true(is_finite(k, x, n));
    }
    k->ops->close(k);
}

static void the_best_is_the_lowest_of_the_largest(void **state)
{
    (void)state;
    for (int n = 1; n < 70; n++)
        for (int at = 0; at < n; at++) {
            float x[70];
            for (int i = 0; i < n; i++)
                x[i] = i % 3 ? NAN : -5;
            x[at] = 2;
            for (int i = at + 1; i < n; i += 2)
                x[i] = 2;
            assert_int_equal(sample_best(x, n), at);
        }
    assert_int_equal(sample_best((float[]){NAN, NAN}, 2), 0);
    assert_int_equal(sample_best((float[]){-INFINITY, -3e38f, -INFINITY}, 3), 1);
}

static void penalties_follow_the_counts(void **state)
{
    (void)state;
    struct penalty p;
    assert_int_equal(penalty_open(&p, 2, 100, NULL), OK);
    penalty_add(&p, 1, 3, false);
    penalty_add(&p, 1, 4, true);
    penalty_add(&p, 1, 4, true);
    penalty_add(&p, 1, 3, true);
    penalty_add(&p, 0, 5, true);
    struct sampling s = plain();
    s.presence = 0.5f;
    s.frequency = 0.25f;
    s.repetition = 2;
    float l[6] = {1, 1, 1, 1, -1, 1};
    penalty_apply(&p, 1, &s, l);
    const float want[6] = {1, 1, 1, 0.5f - 0.75f, -2 - 1.0f, 1};
    assert_memory_equal(l, want, sizeof l);
    penalty_clear(&p, 1);
    float again[6] = {1, 1, 1, 1, 1, 1}, same[6] = {1, 1, 1, 1, 1, 1};
    penalty_apply(&p, 1, &s, again);
    assert_memory_equal(again, same, sizeof again);
    penalty_apply(&p, 0, &s, again);
    assert_true(again[5] != 1);
    for (int32_t id = 0; id < 200; id++)
        penalty_add(&p, 1, id * 1000003, id % 2); // full
    assert_true(s.repetition == 2 && sampling_is_penalised(&s));
    struct sampling none = plain();
    assert_false(sampling_is_penalised(&none));
    penalty_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_has_the_published_values),
        cmocka_unit_test(draws_follow_the_softmax),
        cmocka_unit_test(top_k_top_p_and_min_p_cut_the_tail),
        cmocka_unit_test(ties_go_to_the_lower_id),
        cmocka_unit_test(the_draw_depends_on_seed_choice_and_position_only),
        cmocka_unit_test(selection_equals_a_full_sort),
        cmocka_unit_test(extreme_settings_stay_in_range),
        cmocka_unit_test(digests_and_finiteness_see_every_element),
        cmocka_unit_test(the_best_is_the_lowest_of_the_largest),
        cmocka_unit_test(penalties_follow_the_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
