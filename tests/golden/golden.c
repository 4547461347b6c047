// golden: compares our forward pass with the answers of an independent implementation, and with
// itself under every split, chunking and batch.
//
//   golden [--precision exact|fast] [--stages N] [--threads N] [--isa NAME] DIR
//     DIR holds model.gguf, golden.safetensors, golden.json: logits at every position of prompts p1
//     and p2, greedy continuation.
//   golden ... --real JSON FILE.gguf
//     greedy continuations and best logits of a real model. With --precision fast: mean
//     Kullback-Leibler divergence of fast from exact over the same tokens instead.
//
// Exit code 0: within tolerance. 1: not. 77: this build refuses the model (says why). 2: usage.
#include "tests/golden/lane.h"
#include "tests/golden/safetensors.h"
#include "proto/base/clock.h"

#include <math.h>

static const double FAST_RMS_MAX = 0.15;  // logit error with 8-bit activations, fixtures' README
static const double FAST_KL_MAX = 3e-3;   // mean over all tokens
static const double EXACT_TOP_MAX = 2e-2; // real models' best logits
static const double EXACT_MARGIN = 0.02;  // a smaller margin may turn either way
enum { TOP_STEPS = 16, GREEDY_MAX = 256, CHUNK = 64, CTX_SPARE = 300 };

static struct lane_options options = {.n_stage = 1, .n_slot = 4, .n_threads = 1, .max_tok = 256};

static int fail(const char *what, const char *name)
{
    printf("FAIL %s: %s\n", name, what);
    return 1;
}

static int32_t best_of(const float *logits, int32_t n)
{
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

// All logits of a prompt in slot `slot`, in chunks of `chunk`; copied to out (n, n_vocab).
static bool prompt_logits(struct lane *l, uint32_t slot, const int32_t *ids, uint32_t n,
                          uint32_t chunk, float *out)
{
    const size_t row = (size_t)l->model->shape.n_vocab;
    for (uint32_t pos = 0; pos < n; pos += chunk) {
        const uint32_t take = n - pos < chunk ? n - pos : chunk;
        struct step_row r = {.slot = slot,
                             .pos = pos,
                             .n_tok = take,
                             .ids = ids + pos,
                             .flags = ROW_SCORE,
                             .next_id = -1};
        struct step_result result;
        if (!lane_rows(l, &r, 1, &result) || l->n_logits != take) return false;
        memcpy(out + pos * row, l->logits, take * row * sizeof *out);
    }
    return true;
}

// Prefills a prompt (without logits) and generates n ids; logits of step i are handed to `seen`.
typedef void seen_fn(void *arg, uint32_t i, const float *logits);
static bool generate(struct lane *l, const int32_t *prompt, uint32_t n_prompt, uint32_t n,
                     int32_t *ids, seen_fn *seen, void *arg)
{
    for (uint32_t pos = 0, i = 0; i < n;) {
        const bool is_prompt = pos < n_prompt;
        uint32_t take = is_prompt ? n_prompt - pos : 1;
        if (take > l->settings.max_tok) take = l->settings.max_tok;
        const bool samples = pos + take >= n_prompt;
        struct step_row r = {.pos = pos,
                             .n_tok = take,
                             .next_id = -1,
                             .ids = is_prompt ? prompt + pos : &ids[i - 1],
                             .flags = samples ? ROW_SAMPLE : 0};
        struct step_result result;
        if (!lane_rows(l, &r, 1, &result)) return false;
        pos += take;
        if (!samples) continue;
        ids[i] = result.items[0].id;
        if (ids[i] != best_of(l->logits, l->model->shape.n_vocab)) return false;
        if (seen) seen(arg, i, l->logits);
        i++;
    }
    return true;
}

// -- against itself --

// The same prompt token by token, in odd chunks, and in a batch beside others must give the same
// bits; so must any split into stages.
static int check_invariance(const struct model *m, const struct lane_options *o, const int32_t *ids,
                            uint32_t n, const float *want)
{
    const size_t row = (size_t)m->shape.n_vocab, bytes = n * row * sizeof(float);
    static const uint32_t chunks[] = {1, 7, 64};
    float *got = malloc(bytes);
    int bad = 0;
    const uint32_t n_stages[] = {1, o->n_stage > 1 ? o->n_stage : 2};
    for (size_t s = 0; s < 2 && got; s++) {
        struct lane_options split = *o;
        split.n_stage = n_stages[s];
        struct lane l;
        if (!lane_open(&l, m, &split)) return fail("cannot open", "split");
        for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
            if (!prompt_logits(&l, (uint32_t)i % o->n_slot, ids, n, chunks[i], got) ||
                memcmp(got, want, bytes) != 0)
                bad += fail("chunks change the logits", "invariance");
        }
        // Each token of the prompt beside rows of other lengths in other slots.
        for (uint32_t pos = 0; pos < n; pos++) {
            struct step_row rows[4];
            for (uint32_t k = 0; k < 4; k++) {
                const uint32_t take = k == 2 ? 1 : k + 1;
                const uint32_t at = k == 2 ? pos : pos * take;
                rows[k] = (struct step_row){.slot = k,
                                            .pos = at,
                                            .n_tok = take,
                                            .ids = ids + (k == 2 ? pos : pos % (n - 4)),
                                            .flags = k == 2 ? ROW_SAMPLE : 0,
                                            .next_id = -1};
            }
            struct step_result result;
            if (!lane_rows(&l, rows, 4, &result) || l.n_logits != 1 ||
                memcmp(l.logits, want + pos * row, row * sizeof(float)) != 0) {
                bad += fail("a batch changes the logits", "invariance");
                break;
            }
        }
        lane_close(&l);
    }
    free(got);
    if (!bad)
        printf("     same bits in chunks of 1, 7, 64, in a batch, and in %u stages\n", n_stages[1]);
    return bad;
}

// -- small models --

struct diff {
    double max, sum2;
    uint64_t n, n_top1, n_row;
};

static void compare(struct diff *d, const float *got, const float *want, uint32_t n_row, int32_t n)
{
    for (uint32_t r = 0; r < n_row; r++, got += n, want += n) {
        for (int32_t i = 0; i < n; i++) {
            const double e = fabs((double)got[i] - (double)want[i]);
            if (!(e <= d->max)) d->max = e; // NaN stays
            d->sum2 += e * e;
        }
        d->n += (uint64_t)n;
        d->n_row++;
        d->n_top1 += best_of(got, n) == best_of(want, n);
    }
}

static int check_prompt(struct lane *l, const struct st_file *golden, const char *prompt,
                        double tolerance)
{
    char name[32];
    struct st_tensor ids, logits, greedy;
    snprintf(name, sizeof name, "%s.input_ids", prompt);
    bool ok = st_find(golden, name, "I32", &ids);
    snprintf(name, sizeof name, "%s.logits", prompt);
    ok = ok && st_find(golden, name, "F32", &logits);
    snprintf(name, sizeof name, "%s.greedy", prompt);
    ok = ok && st_find(golden, name, "I32", &greedy) && greedy.shape[0] <= GREEDY_MAX;
    if (!ok) return fail("golden tensors are missing", prompt);

    const uint32_t n = (uint32_t)ids.shape[0], n_new = (uint32_t)greedy.shape[0];
    const bool is_exact = options.precision == PRECISION_EXACT;
    float *got = malloc(n * (size_t)l->model->shape.n_vocab * sizeof *got);
    int32_t drawn[GREEDY_MAX];
    if (!got || !prompt_logits(l, 0, ids.data, n, l->settings.max_tok, got)) {
        free(got);
        return fail("run failed", prompt);
    }
    struct diff d = {0};
    compare(&d, got, logits.data, n, l->model->shape.n_vocab);
    if (!generate(l, ids.data, n, n_new, drawn, NULL, NULL)) ok = false;
    uint32_t same = 0;
    while (same < n_new && drawn[same] == ((const int32_t *)greedy.data)[same])
        same++;
    const double rms = sqrt(d.sum2 / (double)d.n);
    printf(
        "     %s: logits differ by at most %.2e (rms %.2e), top-1 %llu of %llu, greedy %u of %u\n",
        prompt, d.max, rms, (unsigned long long)d.n_top1, (unsigned long long)d.n_row, same, n_new);
    int bad = ok ? 0 : fail("generation failed", prompt);
    if (is_exact && (d.max > tolerance || isnan(d.max))) bad += fail("logits differ", prompt);
    if (is_exact && same < n_new) bad += fail("greedy differs", prompt);
    if (!is_exact && !(rms <= FAST_RMS_MAX)) bad += fail("logits differ", prompt);
    struct lane_options o = options;
    bad += check_invariance(l->model, &o, ids.data, n, got);
    free(got);
    return bad;
}

static int run_small(const char *dir)
{
    char path[4096];
    struct err_text why = {0};
    struct model *m = NULL;
    snprintf(path, sizeof path, "%s/model.gguf", dir);
    if (model_open(path, &m, &why)) {
        printf("SKIP %s: %s\n", dir, why.s);
        return 77;
    }
    snprintf(path, sizeof path, "%s/golden.json", dir);
    json_t *info = json_load_file(path, 0, NULL);
    json_t *tolerance = json_object_get(info, "tolerance");
    const double max = json_number_value(json_object_get(tolerance, "f32_logits_max_abs"));
    struct st_file golden;
    struct lane l;
    snprintf(path, sizeof path, "%s/golden.safetensors", dir);
    struct lane_options one = options;
    one.n_stage = 1;
    int bad = max > 0 && st_open(&golden, path) ? 0 : fail("cannot read golden answers", dir);
    if (!bad) {
        if (!lane_open(&l, m, &one)) return 1;
        bad += check_prompt(&l, &golden, "p1", max) + check_prompt(&l, &golden, "p2", max);
        lane_close(&l);
        st_close(&golden);
    }
    json_decref(info);
    model_close(m);
    if (!bad) printf("ok   %s\n", dir);
    return bad != 0;
}

// -- real models --

static uint32_t int_list(const json_t *array, int32_t *out, uint32_t max)
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
static void see_top(void *arg, uint32_t i, const float *logits)
{
    struct top_check *c = arg;
    const json_t *t = json_array_get(c->top, i);
    for (uint32_t k = 0; k < i; k++)
        if (json_number_value(json_array_get(c->margins, k)) < EXACT_MARGIN) return;
    const json_t *ids = json_object_get(t, "ids"), *values = json_object_get(t, "logits");
    for (size_t k = 0; k < json_array_size(ids); k++) {
        const double want = json_number_value(json_array_get(values, k));
        const double e = fabs((double)logits[json_integer_value(json_array_get(ids, k))] - want);
        if (!(e <= c->max)) c->max = e;
    }
}

static int check_case(struct lane *l, const json_t *c, int32_t *ids, uint32_t n_prompt,
                      double *worst)
{
    const json_t *margins = json_object_get(c, "margins");
    int32_t want[GREEDY_MAX], got[GREEDY_MAX];
    const uint32_t n = int_list(json_object_get(c, "greedy_ids"), want, GREEDY_MAX);
    struct top_check top = {.top = json_object_get(c, "top"), .margins = margins};
    const int64_t t0 = clock_now_us();
    if (!generate(l, ids, n_prompt, n, got, see_top, &top)) return fail("run failed", "case");
    const double seconds = (double)(clock_now_us() - t0) * 1e-6;
    uint32_t same = 0;
    while (same < n && got[same] == want[same])
        same++;
    const double margin = same < n ? json_number_value(json_array_get(margins, same)) : INFINITY;
    printf("     prompt %4u: greedy %2u of %u%s, best logits within %.2e, %.1f s\n", n_prompt, same,
           n, same < n ? " (margin below the limit)" : "", top.max, seconds);
    if (top.max > *worst) *worst = top.max;
    int bad = 0;
    if (margin >= EXACT_MARGIN && same < n) bad += fail("greedy differs", "case");
    if (!(top.max <= EXACT_TOP_MAX)) bad += fail("best logits differ", "case");
    return bad;
}

static double kl_of(const float *p, const float *q, int32_t n)
{
    double max_p = p[0], max_q = q[0], sum_p = 0, sum_q = 0, kl = 0;
    for (int32_t i = 1; i < n; i++) {
        if (p[i] > max_p) max_p = p[i];
        if (q[i] > max_q) max_q = q[i];
    }
    for (int32_t i = 0; i < n; i++) {
        sum_p += exp((double)p[i] - max_p);
        sum_q += exp((double)q[i] - max_q);
    }
    const double log_p = max_p + log(sum_p), log_q = max_q + log(sum_q);
    for (int32_t i = 0; i < n; i++) {
        const double lp = (double)p[i] - log_p;
        if (lp > -40) kl += exp(lp) * (lp - ((double)q[i] - log_q));
    }
    return kl;
}

struct kl_sum {
    double kl, nll_exact, nll_fast;
    uint64_t n, n_top1, n_nll;
};

static double nll_of(const float *logits, int32_t n, int32_t id)
{
    double max = logits[0], sum = 0;
    for (int32_t i = 1; i < n; i++)
        if (logits[i] > max) max = logits[i];
    for (int32_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - max);
    return max + log(sum) - (double)logits[id];
}

// Both precisions read the same tokens, chunk by chunk.
static int add_kl(struct lane *exact, struct lane *fast, const int32_t *ids, uint32_t n,
                  struct kl_sum *sum)
{
    const int32_t n_vocab = exact->model->shape.n_vocab;
    for (uint32_t pos = 0; pos < n; pos += CHUNK) {
        const uint32_t take = n - pos < CHUNK ? n - pos : CHUNK;
        struct step_row r = {
            .pos = pos, .n_tok = take, .ids = ids + pos, .flags = ROW_SCORE, .next_id = -1};
        struct step_result result;
        if (!lane_rows(exact, &r, 1, &result) || !lane_rows(fast, &r, 1, &result))
            return fail("run failed", "kl");
        for (uint32_t i = 0; i < take; i++) {
            const float *p = exact->logits + (size_t)i * (size_t)n_vocab;
            const float *q = fast->logits + (size_t)i * (size_t)n_vocab;
            sum->kl += kl_of(p, q, n_vocab);
            sum->n_top1 += best_of(p, n_vocab) == best_of(q, n_vocab);
            sum->n++;
            if (pos + i + 1 >= n) continue;
            sum->nll_exact += nll_of(p, n_vocab, ids[pos + i + 1]);
            sum->nll_fast += nll_of(q, n_vocab, ids[pos + i + 1]);
            sum->n_nll++;
        }
    }
    return 0;
}

static uint32_t longest_prompt(const json_t *cases)
{
    uint32_t longest = 0;
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const size_t n = json_array_size(json_object_get(json_array_get(cases, i), "prompt_ids"));
        if (n > longest) longest = (uint32_t)n;
    }
    return longest;
}

static int run_cases(const struct model *m, const json_t *cases)
{
    const bool is_exact = options.precision == PRECISION_EXACT;
    struct lane_options o = options, f = options;
    o.ctx = f.ctx = longest_prompt(cases) + CTX_SPARE;
    o.precision = PRECISION_EXACT;
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
        printf("     best logits within %.2e (limit %.0e)\n", worst, EXACT_TOP_MAX);
    } else {
        const double kl = sum.kl / (double)sum.n, ppl = exp(sum.nll_exact / (double)sum.n_nll);
        const double ppl_fast = exp(sum.nll_fast / (double)sum.n_nll);
        printf("     %llu tokens: mean KL %.2e (limit %.0e), top-1 %.2f %%, perplexity %.4f exact, "
               "%.4f fast\n",
               (unsigned long long)sum.n, kl, FAST_KL_MAX, 100 * (double)sum.n_top1 / (double)sum.n,
               ppl, ppl_fast);
        if (!(kl <= FAST_KL_MAX)) bad += fail("fast strays from exact", "kl");
        lane_close(&fast);
    }
    lane_close(&exact);
    free(ids);
    return bad;
}

static int run_real(const char *path, const char *answers)
{
    struct err_text why = {0};
    struct model *m = NULL;
    if (model_open(path, &m, &why)) {
        printf("SKIP %s: %s\n", path, why.s);
        return 77;
    }
    json_t *j = json_load_file(answers, 0, NULL);
    const json_t *cases = json_object_get(j, "cases");
    int bad = json_array_size(cases) ? run_cases(m, cases) : fail("no cases", answers);
    json_decref(j);
    model_close(m);
    if (!bad) printf("ok   %s\n", path);
    return bad != 0;
}

int main(int argc, char **argv)
{
    const char *model = NULL, *real = NULL;
    options.precision = PRECISION_EXACT;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : "";
        if (a[0] != '-') {
            model = a;
            continue;
        }
        if (!strcmp(a, "--precision"))
            options.precision = strcmp(v, "fast") ? PRECISION_EXACT : PRECISION_FAST;
        else if (!strcmp(a, "--stages"))
            options.n_stage = (uint32_t)atoi(v);
        else if (!strcmp(a, "--threads"))
            options.n_threads = atoi(v);
        else if (!strcmp(a, "--isa"))
            options.isa = v;
        else if (!strcmp(a, "--real"))
            real = v;
        else
            model = NULL, i = argc;
        i++;
    }
    if (!model || options.n_stage < 1 || options.n_stage >= LANE_STAGES_MAX ||
        options.n_threads < 1) {
        fprintf(stderr, "usage: golden [--precision exact|fast] [--stages N] [--threads N] "
                        "[--isa NAME] DIR | --real JSON FILE.gguf\n");
        return 2;
    }
    options.kv_dtype = options.precision == PRECISION_EXACT ? DT_F32 : DT_F16;
    options.ctx = 512;
    return real ? run_real(model, real) : run_small(model);
}
