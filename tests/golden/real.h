// golden --real: greedy continuations and best logits of a real model. With --precision fast: mean
// Kullback-Leibler divergence of fast from exact over the same tokens instead.
#pragma once
#include "proto/base/clock.h"
#include "tests/golden/compare.h"
#include "tests/golden/lane.h"

#include <jansson.h>

#define REAL_KL_MAX 1e-3    // mean over all tokens
#define REAL_TOP_MAX 2e-2   // best logits
#define REAL_MARGIN 0.02    // a smaller margin may turn either way
#define REAL_CLEAR_MIN 0.99 // share of the others where fast agrees on the best
enum { REAL_GREEDY_MAX = 256, REAL_CHUNK = 64, REAL_CTX_SPARE = 300 };

static inline int real_fail(const char *what, const char *name)
{
    printf("FAIL %s: %s\n", name, what);
    return 1;
}

static inline uint32_t int_list(const json_t *array, int32_t *out, uint32_t max)
{
    const size_t n = json_array_size(array);
    for (size_t i = 0; i < n && i < max; i++)
        out[i] = (int32_t)json_integer_value(json_array_get(array, i));
    return n < max ? (uint32_t)n : max;
}

struct top_check {
    const json_t *top, *margins;
    double max;
};

// Until a margin is too small to be sure of, both runs continue the same text.
static inline void see_top(void *arg, uint32_t i, const float *logits)
{
    struct top_check *c = arg;
    const json_t *t = json_array_get(c->top, i);
    for (uint32_t k = 0; k < i; k++)
        if (json_number_value(json_array_get(c->margins, k)) < REAL_MARGIN) return;
    const json_t *ids = json_object_get(t, "ids"), *values = json_object_get(t, "logits");
    for (size_t k = 0; k < json_array_size(ids); k++) {
        const double want = json_number_value(json_array_get(values, k));
        const double e = fabs((double)logits[json_integer_value(json_array_get(ids, k))] - want);
        if (!(e <= c->max)) c->max = e;
    }
}

static inline int check_case(struct lane *l, const json_t *c, int32_t *ids, uint32_t n_prompt,
                             double *worst)
{
    const json_t *margins = json_object_get(c, "margins");
    int32_t want[REAL_GREEDY_MAX], got[REAL_GREEDY_MAX];
    const uint32_t n = int_list(json_object_get(c, "greedy_ids"), want, REAL_GREEDY_MAX);
    struct top_check top = {.top = json_object_get(c, "top"), .margins = margins};
    const int64_t t0 = clock_now_us();
    if (!lane_generate(l, ids, n_prompt, n, got, see_top, &top))
        return real_fail("run failed", "case");
    const double seconds = (double)(clock_now_us() - t0) * 1e-6;
    uint32_t same = 0;
    while (same < n && got[same] == want[same])
        same++;
    const double margin = same < n ? json_number_value(json_array_get(margins, same)) : INFINITY;
    printf("     prompt %4u: greedy %2u of %u%s, best logits within %.2e, %.1f s\n", n_prompt, same,
           n, same < n ? " (margin below the limit)" : "", top.max, seconds);
    if (top.max > *worst) *worst = top.max;
    int bad = 0;
    if (margin >= REAL_MARGIN && same < n) bad += real_fail("greedy differs", "case");
    if (!(top.max <= REAL_TOP_MAX)) bad += real_fail("best logits differ", "case");
    return bad;
}

struct kl_sum {
    double kl, nll_exact, nll_fast;
    uint64_t n, n_top1, n_nll;
    uint64_t n_clear, n_clear_top1; // where exact is sure of the best
};

static inline double nll_of(const float *logits, int32_t n, int32_t id)
{
    return log_sum_exp(logits, n) - (double)logits[id];
}

// Both precisions read the same tokens, chunk by chunk.
static inline int add_kl(struct lane *exact, struct lane *fast, const int32_t *ids, uint32_t n,
                         struct kl_sum *sum)
{
    const int32_t n_vocab = exact->model->shape.n_vocab;
    for (uint32_t pos = 0; pos < n; pos += REAL_CHUNK) {
        const uint32_t take = n - pos < REAL_CHUNK ? n - pos : REAL_CHUNK;
        struct step_row r = {
            .pos = pos, .n_tok = take, .ids = ids + pos, .flags = ROW_SCORE, .next_id = -1};
        struct step_result result;
        if (!lane_rows(exact, &r, 1, &result) || !lane_rows(fast, &r, 1, &result))
            return real_fail("run failed", "kl");
        for (uint32_t i = 0; i < take; i++) {
            const float *p = exact->logits + (size_t)i * (size_t)n_vocab;
            const float *q = fast->logits + (size_t)i * (size_t)n_vocab;
            sum->kl += kl_of(p, q, n_vocab);
            const bool same = best_of(p, n_vocab) == best_of(q, n_vocab);
            sum->n_top1 += same;
            sum->n_clear += margin_of(p, n_vocab) >= REAL_MARGIN;
            sum->n_clear_top1 += same && margin_of(p, n_vocab) >= REAL_MARGIN;
            sum->n++;
            if (pos + i + 1 >= n) continue;
            sum->nll_exact += nll_of(p, n_vocab, ids[pos + i + 1]);
            sum->nll_fast += nll_of(q, n_vocab, ids[pos + i + 1]);
            sum->n_nll++;
        }
    }
    return 0;
}

static inline uint32_t longest_prompt(const json_t *cases)
{
    uint32_t longest = 0;
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const size_t n = json_array_size(json_object_get(json_array_get(cases, i), "prompt_ids"));
        if (n > longest) longest = (uint32_t)n;
    }
    return longest;
}

static inline int run_cases(const struct model *m, const json_t *cases,
                            const struct lane_options *options)
{
    const bool is_exact = options->precision == PRECISION_EXACT;
    struct lane_options o = *options, f = *options;
    o.ctx = f.ctx = longest_prompt(cases) + REAL_CTX_SPARE;
    o.precision = PRECISION_EXACT;
    o.deterministic = false;
    o.kv_dtype = DT_F32;
    o.n_slot = f.n_slot = 1;
    int32_t *ids = calloc(o.ctx, sizeof *ids);
    struct lane exact, fast = {0};
    if (!ids || !lane_open(&exact, m, &o) || (!is_exact && !lane_open(&fast, m, &f))) return 1;
    struct kl_sum sum = {0};
    double worst = 0;
    int bad = 0;
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, i);
        uint32_t n = int_list(json_object_get(c, "prompt_ids"), ids, o.ctx);
        if (is_exact) {
            bad += check_case(&exact, c, ids, n, &worst);
        } else {
            n += int_list(json_object_get(c, "greedy_ids"), ids + n, o.ctx - n);
            bad += add_kl(&exact, &fast, ids, n, &sum);
        }
    }
    if (is_exact) {
        printf("     best logits within %.2e (limit %.0e)\n", worst, REAL_TOP_MAX);
    } else {
        const double kl = sum.kl / (double)sum.n, ppl = exp(sum.nll_exact / (double)sum.n_nll);
        const double ppl_fast = exp(sum.nll_fast / (double)sum.n_nll);
        printf("     %llu tokens: mean KL %.2e (limit %.0e), top-1 %.2f %% (%.2f %% of the "
               "clear ones), perplexity %.4f exact, %.4f fast\n",
               (unsigned long long)sum.n, kl, REAL_KL_MAX, 100 * (double)sum.n_top1 / (double)sum.n,
               100 * (double)sum.n_clear_top1 / (double)sum.n_clear, ppl, ppl_fast);
        if (!(kl <= REAL_KL_MAX) || (double)sum.n_clear_top1 < REAL_CLEAR_MIN * (double)sum.n_clear)
            bad += real_fail("fast strays from exact", "kl");
        lane_close(&fast);
    }
    lane_close(&exact);
    free(ids);
    return bad;
}

static inline int real_run(const char *path, const char *answers,
                           const struct lane_options *options)
{
    struct err_text why = {0};
    struct model *m = NULL;
    if (model_open(path, &m, &why)) {
        printf("SKIP %s: %s\n", path, why.s);
        return 77;
    }
    json_t *j = json_load_file(answers, 0, NULL);
    const json_t *cases = json_object_get(j, "cases");
    int bad =
        json_array_size(cases) ? run_cases(m, cases, options) : real_fail("no cases", answers);
    json_decref(j);
    model_close(m);
    if (!bad) printf("ok   %s\n", path);
    return bad != 0;
}
