// An id drawn from what a device tells of a row is the id drawn from the row.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "kernels/weight.h"
#include "worker/draw.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N = 3000, CHUNKS = (N + KERNELS_TOP_CHUNK - 1) / KERNELS_TOP_CHUNK, EXTRA = 50 };

static uint64_t seed = 88172645463325252u;
static uint32_t rng(void) // xorshift64*
{
    seed ^= seed >> 12;
    seed ^= seed << 25;
    seed ^= seed >> 27;
    return (uint32_t)(seed * 0x2545f4914f6cdd1d >> 32);
}

static float normal(void)
{
    float s = 0;
    for (int i = 0; i < 4; i++)
        s += (float)(rng() & 0xffff) / 0x8000 - 1;
    return s;
}

struct row {
    float logits[N]; // adjusted
    bool counts[N];  // among those that are not adjusted
    float value[KERNELS_TOP_MAX];
    int32_t id[KERNELS_TOP_MAX];
    double mass[CHUNKS];
    struct sample_cand extra[EXTRA], all[N], cands[KERNELS_TOP_MAX + EXTRA];
    int32_t n, n_extra;
};

// As the contract of kernels' top says.
static void tell(struct row *r, int32_t n_top, float per_t)
{
    int32_t n = 0;
    for (int32_t i = 0; i < N; i++)
        if (r->counts[i]) r->all[n++] = (struct sample_cand){.logit = r->logits[i], .id = i};
    sample_sort_ranks(r->all, n);
    r->n = n < n_top ? n : n_top;
    for (int32_t i = 0; i < r->n; i++) {
        r->value[i] = r->all[i].logit;
        r->id[i] = r->all[i].id;
    }
    memset(r->mass, 0, sizeof r->mass);
    for (int32_t i = N - 1; i >= 0; i--) {
        const float d = r->counts[i] ? (r->logits[i] - r->value[0]) * per_t : -100;
        if (d >= -(float)WEIGHT_NATS) r->mass[i / KERNELS_TOP_CHUNK] += (double)weight_of(d);
    }
}

// spread: of the logits; some ids are adjusted, some masked, some equal.
static void make(struct row *r, float spread, bool is_adjusted)
{
    r->n_extra = 0;
    for (int32_t i = 0; i < N; i++) {
        r->logits[i] = spread * normal();
        if (i % 7 == 0) r->logits[i] = floorf(r->logits[i]);
        r->counts[i] = true;
        if (is_adjusted && i % 100 == 3 && r->n_extra < EXTRA) {
            r->counts[i] = false;
            r->extra[r->n_extra++] = (struct sample_cand){.logit = r->logits[i], .id = i};
        } else if (is_adjusted && rng() % 3 == 0) {
            r->counts[i] = false;
            r->logits[i] = -INFINITY;
        }
    }
}

static struct sampling settings(int kind)
{
    static const float temperatures[] = {1, 0.7f, 0.2f, 0, 1.5f}, top_ps[] = {1, 0.9f, 0.5f, 1};
    static const float min_ps[] = {0, 0.05f, 0.3f};
    static const int32_t top_ks[] = {0, 1, 40, 1000};
    return (struct sampling){.temperature = temperatures[kind % 5],
                             .top_p = top_ps[kind / 5 % 4],
                             .min_p = min_ps[kind / 20 % 3],
                             .top_k = top_ks[kind / 60 % 4],
                             .seed = (uint64_t)kind,
                             .repetition = 1,
                             .n_logprobs = -1};
}

static void the_id_is_that_of_the_row(void **state)
{
    (void)state;
    struct row *r = malloc(sizeof *r);
    int n_done = 0, n_all = 0, n_chunk = 0;
    assert_non_null(r);
    for (int kind = 0; kind < 240; kind++)
        for (int i = 0; i < 4; i++) {
            const struct sampling s = settings(kind);
            const float per_t = sample_per_temperature(&s);
            const int32_t n_top = s.top_k ? s.top_k + 1 : i % 2 ? 64 : KERNELS_TOP_MAX;
            make(r, i < 2 ? 8 : 2, i % 2);
            tell(r, n_top, per_t);
            struct draw d = {.s = &s,
                             .position = (uint32_t)(kind * 4 + i),
                             .n_vocab = N,
                             .value = r->value,
                             .id = r->id,
                             .n = r->n,
                             .is_all = r->n < n_top,
                             .mass = r->mass,
                             .extra = r->extra,
                             .n_extra = r->n_extra,
                             .cands = r->cands};
            struct drawn got = draw_short(&d);
            n_chunk += got.kind == DRAW_CHUNK;
            if (got.kind == DRAW_CHUNK)
                got = draw_from_chunk(&d, &got, r->logits + got.chunk * KERNELS_TOP_CHUNK);
            n_all++;
            if (got.kind != DRAW_DONE) continue;
            n_done++;
            const int32_t want = s.temperature == 0
                                     ? sample_best(r->logits, N)
                                     : sample_draw(r->logits, N, &s, d.position, r->all);
            assert_int_equal(got.id, want);
            if (r->counts[got.id]) assert_true(got.logit == r->logits[got.id] || got.logit == 0);
        }
    free(r);
    // It is for most of them enough: not for flat rows of which top-p keeps thousands.
    assert_true(n_done > n_all * 8 / 10);
    assert_true(n_chunk > 0);
}

// What the sums of the device may miss is not decided upon.
static void a_doubtful_point_takes_the_row(void **state)
{
    (void)state;
    struct row *r = malloc(sizeof *r);
    struct sampling s = settings(0);
    assert_non_null(r);
    make(r, 2, false);
    tell(r, 64, 1);
    struct draw d = {.s = &s,
                     .n_vocab = N,
                     .value = r->value,
                     .id = r->id,
                     .n = r->n,
                     .mass = r->mass,
                     .cands = r->cands};
    struct drawn at = draw_short(&d);
    assert_int_equal(at.kind, DRAW_CHUNK);
    const float *logits = r->logits + at.chunk * KERNELS_TOP_CHUNK;
    const struct drawn sure = draw_from_chunk(&d, &at, logits);
    assert_int_equal(sure.kind, DRAW_DONE);
    at.slack = 1;
    assert_int_equal(draw_from_chunk(&d, &at, logits).kind, DRAW_ROW);
    // top-p whose mass the known ids do not reach
    s.top_p = 0.99f;
    tell(r, 64, 1);
    assert_int_equal(draw_short(&d).kind, DRAW_ROW);
    free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_id_is_that_of_the_row),
                                       cmocka_unit_test(a_doubtful_point_takes_the_row)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
