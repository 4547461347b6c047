// golden: compares our forward pass with the answers of an independent implementation, and with
// itself under every split, chunking and batch.
//
//   golden [options] DIR [DIR...]
//     DIR holds golden.safetensors, golden.json and a checkpoint (model.gguf, or config.json with
//     its files): logits at every position of prompts p1 and p2, greedy continuations; of some
//     models chosen experts and the prediction head's logits. One line for each DIR.
//   golden [options] --real JSON FILE.gguf
//     greedy continuations and best logits of a real model.
//
//   --precision exact   against golden.json's tolerance (the default)
//   --precision fast    the kernels of every day against exact: mean Kullback-Leibler divergence of
//                       each DIR, and the best token, counted over all of them
//   --precision deterministic   fast with the sums' order fixed, on devices too
//   --stages N             computed in N stages
//   --split tensor|experts --members N   each of them by N members
//   --threads N, --device NAME; --alone: not compared with itself
//   --group nccl|peers|both   members, on devices, hand each other numbers so
//   --table FILE        adds a line "architecture container quant ok" for each DIR
//   --verbose           where the residual stream parts from the golden one
//
// In any case the same bits must come out of 1 stage and of 2 (or N), of every kind of group, of
// odd chunks, and of a batch. Exit code 0: all within tolerance. 1: not. 2: usage.
#include "proto/base/map.h"
#include "tests/golden/compare.h"
#include "tests/golden/lane.h"
#include "tests/golden/real.h"
#include "tests/golden/safetensors.h"

#include <glob.h>
#include <strings.h>
#include <unistd.h>

static const double KL_MAX = 1e-3;       // mean of fast from exact, of quantised models
static const double KL_MAX_PLAIN = 2e-3; // of others: keys of 16 bits may turn a router
// Of keys and values in floats of 8 bits, which have 4 bits where Q8_0 has 8: these models' heads
// are small and their experts many, so every fixture is far from what real ones show.
static const double KL_MAX_F8 = 5e-2, TOP_MIN_F8 = 0.8;
static const double TOP_MIN = 0.99;    // share of positions where they agree on the best
static const double TIE = 0.02;        // positions with a smaller margin are not counted
static const double WEIGHT_MAX = 1e-3; // of an expert's weight
enum { GREEDY_MAX = 256, CTX = 512, STEP = 256 };

struct settings {
    struct lane_options lane;
    const char *table;
    bool is_verbose, is_alone;
};

// What one directory's line says.
struct report {
    char why[128]; // first thing that is wrong
    double max, mtp, vector, kl;
    uint64_t n_pos, n_top;
    uint64_t n_clear, n_clear_same; // positions where exact is sure of the best, fast too
    uint32_t n_new, n_same;
    uint64_t n_choice, n_choice_same;
    bool has_experts, has_mtp;
};

struct check {
    const struct settings *set;
    const struct model *model;
    const struct st_file *golden;
    const char *prompt; // "p1"
    const int32_t *ids, *greedy;
    const float *logits;
    uint32_t n, n_new;
    uint32_t ctx, max_tok;
    double tolerance;
    struct report *r;
};

static void wrong(struct check *c, const char *what)
{
    if (!c->r->why[0])
        snprintf(c->r->why, sizeof c->r->why, "%s: %s", c->prompt ? c->prompt : "", what);
}

static bool find(const struct check *c, const char *what, const char *dtype, struct st_tensor *out)
{
    char name[64];
    snprintf(name, sizeof name, "%s.%s", c->prompt, what);
    return st_find(c->golden, name, dtype, out);
}

// All logits of the prompt in slot `slot`, in chunks of `chunk`; out (n, n_vocab).
static bool prompt_logits(const struct check *c, struct lane *l, uint32_t slot, uint32_t chunk,
                          float *out)
{
    const size_t row = (size_t)c->model->shape.n_vocab;
    for (uint32_t pos = 0; pos < c->n; pos += chunk) {
        const uint32_t take = c->n - pos < chunk ? c->n - pos : chunk;
        struct step_row r = {.slot = slot,
                             .pos = pos,
                             .n_tok = take,
                             .ids = c->ids + pos,
                             .flags = ROW_SCORE,
                             .next_id = -1};
        struct step_result result;
        if (!lane_rows(l, &r, 1, &result) || l->n_logits != take) return false;
        memcpy(out + pos * row, l->logits, take * row * sizeof *out);
    }
    return true;
}

static struct lane_options lane_options(const struct check *c)
{
    struct lane_options o = c->set->lane;
    o.ctx = c->ctx;
    o.max_tok = c->max_tok;
    return o;
}

// -- against itself --

// Each token of the prompt beside rows of other lengths in other slots.
static bool same_in_a_batch(const struct check *c, struct lane *l, const float *want)
{
    enum { ROWS = 4 };
    const size_t row = (size_t)c->model->shape.n_vocab;
    int32_t tail[ROWS];
    for (uint32_t i = 0; i < ROWS; i++)
        tail[i] = c->ids[i % c->n];
    for (uint32_t pos = 0; pos < c->n && ROWS * (pos + 1) <= c->ctx; pos++) {
        struct step_row rows[ROWS];
        for (uint32_t k = 0; k < ROWS; k++) {
            const bool is_it = k == 2;
            const uint32_t take = is_it ? 1 : k + 1;
            rows[k] = (struct step_row){.slot = k,
                                        .pos = pos * take,
                                        .n_tok = take,
                                        .ids = is_it ? c->ids + pos : tail,
                                        .flags = is_it ? ROW_SAMPLE : 0,
                                        .next_id = -1};
        }
        struct step_result result;
        if (!lane_rows(l, rows, ROWS, &result) || l->n_logits != 1 ||
            memcmp(l->logits, want + pos * row, row * sizeof *want) != 0)
            return false;
    }
    return true;
}

// Every way to divide a model. A chunk of 0: all of CHUNKS, and a batch.
static const struct division {
    const char *name;
    uint32_t n_stage, chunk;
    bool local_pages; // local layers have pages of their own
    enum share_split split;
    int32_t n_member;
    double part[LANE_MEMBERS_MAX];
    bool has_table;
} divisions[] = {
    {"one stage", .n_stage = 1},
    {"two stages", .n_stage = 2, .local_pages = true},
    {"two halves of every matrix", 1, 0, false, SPLIT_TENSOR, 2, {1, 1}, false},
    {"three quarters and one", 1, 64, true, SPLIT_TENSOR, 2, {3, 1}, false},
    {"two stages of three thirds", 2, 7, false, SPLIT_TENSOR, 3, {1, 1, 1}, false},
    {"experts at two", 1, 0, false, SPLIT_EXPERTS, 2, {1, 1}, false},
    {"experts at three, some twice", 1, 7, false, SPLIT_EXPERTS, 3, {2, 1, 3}, true},
    {"two stages, experts at two", 2, 64, true, SPLIT_EXPERTS, 2, {1, 3}, true},
};
static const uint32_t CHUNKS[] = {1, 7, 64};
enum { N_DIVISION = sizeof divisions / sizeof *divisions };

// True if the prompt's logits come out as `want` in every way.
static bool same_divided(struct check *c, const struct division *d, const float *want, float *got)
{
    const size_t bytes = (size_t)c->n * (size_t)c->model->shape.n_vocab * sizeof *want;
    struct lane_options o = lane_options(c);
    o.mtp = o.watch = false;
    o.n_stage = d->n_stage > 1 && o.n_stage > 1 ? o.n_stage : d->n_stage;
    o.local_pages = d->local_pages;
    o.split = d->split;
    o.n_member = d->n_member;
    o.has_table = d->has_table;
    memcpy(o.part, d->part, sizeof o.part);
    struct lane l;
    if (!lane_open(&l, c->model, &o)) return false;
    bool same = true;
    for (size_t i = 0; i < sizeof CHUNKS / sizeof *CHUNKS && same; i++)
        if (!d->chunk || d->chunk == CHUNKS[i])
            same = prompt_logits(c, &l, (uint32_t)i % o.n_slot, CHUNKS[i], got) &&
                   !memcmp(got, want, bytes);
    if (same && !d->chunk) same = same_in_a_batch(c, &l, want);
    lane_close(&l);
    return same;
}

// The same prompt token by token, in odd chunks, and in a batch beside others must give the same
// bits; so must any division into stages and among members.
static void check_invariance(struct check *c, const float *want)
{
    const bool has_experts = lane_has_experts(c->model, 0, (uint32_t)c->model->shape.n_layer);
    float *got = malloc((size_t)c->n * (size_t)c->model->shape.n_vocab * sizeof *want);
    if (!got) abort();
    for (int i = 0; i < N_DIVISION; i++) {
        char text[96];
        if (divisions[i].split == SPLIT_EXPERTS && !has_experts) continue;
        snprintf(text, sizeof text, "chunks, a batch or %s change the logits", divisions[i].name);
        if (!same_divided(c, &divisions[i], want, got)) wrong(c, text);
    }
    free(got);
}

// -- against the golden answers --

static void check_logits(struct check *c, const float *got)
{
    const int32_t n = c->model->shape.n_vocab;
    const double d = max_diff(got, c->logits, (uint64_t)c->n * (uint64_t)n);
    if (!(d <= c->r->max)) c->r->max = d;
    for (uint32_t i = 0; i < c->n; i++)
        c->r->n_top += best_of(got + (size_t)i * (size_t)n, n) ==
                       best_of(c->logits + (size_t)i * (size_t)n, n);
    c->r->n_pos += c->n;
    if (c->set->lane.precision == PRECISION_EXACT && !(d <= c->tolerance))
        wrong(c, "logits differ");
}

// One token's experts as a set, each with its weight.
static bool same_experts(const int32_t *ids, const float *weights, const int32_t *want,
                         const float *want_weights, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        int32_t k = 0;
        while (k < n && ids[k] != want[i])
            k++;
        if (k == n) return false;
        if (want_weights && !(fabsf(weights[k] - want_weights[i]) <= WEIGHT_MAX)) return false;
    }
    return true;
}

static void check_experts(struct check *c, const struct lane_seen *seen)
{
    const int32_t k = c->model->shape.moe.n_used;
    for (int32_t l = 0; l < c->model->shape.n_layer; l++) {
        char name[64];
        struct st_tensor want, weights = {0};
        snprintf(name, sizeof name, "experts.%d", l);
        if (!find(c, name, "I32", &want)) continue;
        snprintf(name, sizeof name, "expert_weights.%d", l);
        if (c->set->lane.precision == PRECISION_EXACT) find(c, name, "F32", &weights);
        c->r->has_experts = true;
        c->r->n_choice += c->n;
        if (!seen->experts[l + 1] || want.shape[0] != c->n || want.shape[1] != k) {
            wrong(c, "other layers or numbers of experts");
            continue;
        }
        for (uint32_t i = 0; i < c->n; i++) {
            const int64_t at = (int64_t)i * k;
            c->r->n_choice_same +=
                same_experts(seen->experts[l + 1] + at, seen->weights[l + 1] + at,
                             (const int32_t *)want.data + at,
                             weights.data ? (const float *)weights.data + at : NULL, k);
        }
    }
    if (c->set->lane.precision == PRECISION_EXACT && c->r->n_choice_same != c->r->n_choice)
        wrong(c, "experts differ");
}

// The lane has just run the prompt as one step.
static void check_mtp(struct check *c, struct lane *l)
{
    struct st_tensor want;
    if (!find(c, "mtp_logits", "F32", &want)) return;
    if (!c->model->shape.has_mtp) {
        wrong(c, "the prediction head is not loaded");
        return;
    }
    const size_t n = (size_t)c->n * (size_t)c->model->shape.n_vocab;
    int32_t *next = malloc(c->n * sizeof *next);
    float *got = malloc(n * sizeof *got);
    if (!next || !got) abort();
    memcpy(next, c->ids + 1, (c->n - 1) * sizeof *next);
    next[c->n - 1] = c->greedy[0];
    stage_mtp(l->stages[l->n_stage - 1][0], l->x, next, got);
    const double d = max_diff(got, want.data, n);
    c->r->has_mtp = true;
    if (!(d <= c->r->mtp)) c->r->mtp = d;
    if (c->set->lane.precision == PRECISION_EXACT && !(d <= c->tolerance))
        wrong(c, "the prediction head's logits differ");
    free(next);
    free(got);
}

// One vector (enum pooling) of golden states (n, dim).
static void vector_of(enum pooling kind, const float *states, uint32_t n, uint32_t dim, float *out)
{
    const uint32_t from = kind == POOLING_LAST ? n - 1 : 0, to = kind == POOLING_FIRST ? 1 : n;
    for (uint32_t k = 0; k < dim; k++) {
        double sum = 0;
        for (uint32_t i = from; i < to; i++)
            sum += (double)states[(size_t)i * dim + k];
        out[k] = (float)(sum / (to - from));
    }
}

// The prompt's vectors, of the states after the final norm, by which they are measured.
static void check_vectors(struct check *c, struct lane *l)
{
    struct st_tensor states;
    const uint32_t dim = (uint32_t)c->model->shape.dim;
    const struct step_row row = {.n_tok = c->n, .ids = c->ids, .next_id = -1, .flags = ROW_POOL};
    float *want = malloc(dim * sizeof *want);
    if (!want) abort();
    if (find(c, "hidden.norm", "F32", &states) && states.shape[1] == dim)
        for (int kind = POOLING_LAST; kind < POOLINGS; kind++) {
            struct step_row r = row;
            struct step_result result = {0};
            l->pooling = (enum pooling)kind;
            if (!lane_rows(l, &r, 1, &result) || result.items[0].n_vector != dim) {
                wrong(c, "no vector");
                continue;
            }
            vector_of(l->pooling, states.data, c->n, dim, want);
            const double d = max_diff(result.items[0].vector, want, dim);
            if (!(d <= c->r->vector)) c->r->vector = d;
            if (c->set->lane.precision == PRECISION_EXACT && !(d <= c->tolerance))
                wrong(c, "vectors differ");
        }
    l->pooling = POOLING_NONE;
    free(want);
}

// Where the residual stream parts from the golden one.
static void tell_hidden(const struct check *c, const struct lane_seen *seen)
{
    for (int32_t l = -1; l < c->model->shape.n_layer; l++) {
        char name[64];
        struct st_tensor want;
        snprintf(name, sizeof name, l < 0 ? "hidden.embed" : "hidden.%d", l);
        const float *got = seen->hidden[l + 1];
        if (!got || !find(c, name, "F32", &want)) continue;
        const uint64_t n = (uint64_t)c->n * (uint64_t)c->model->shape.dim;
        double largest = 0;
        for (uint64_t i = 0; i < n; i++)
            largest = fmax(largest, fabs((double)((const float *)want.data)[i]));
        printf("     %s %s: differs by at most %.2e, its largest is %.2e\n", c->prompt, name,
               max_diff(got, want.data, n), largest);
    }
}

struct draws {
    int32_t n_vocab;
    int32_t ids[GREEDY_MAX], best[GREEDY_MAX];
};

static void see_best(void *arg, uint32_t i, const float *logits)
{
    struct draws *d = arg;
    d->best[i] = best_of(logits, d->n_vocab);
}

static void check_greedy(struct check *c, struct lane *l)
{
    struct draws d = {.n_vocab = c->model->shape.n_vocab};
    if (!lane_generate(l, c->ids, c->n, c->n_new, d.ids, see_best, &d)) {
        wrong(c, "generation failed");
        return;
    }
    uint32_t same = 0;
    while (same < c->n_new && d.ids[same] == c->greedy[same])
        same++;
    for (uint32_t i = 0; i < c->n_new; i++)
        if (d.ids[i] != d.best[i]) wrong(c, "a greedy token is not the best");
    c->r->n_new += c->n_new;
    c->r->n_same += same;
    if (c->set->lane.precision == PRECISION_EXACT && same < c->n_new) wrong(c, "greedy differs");
}

// fast (n, n_vocab) against the same prompt in exact precision.
static void check_fast(struct check *c, const float *fast)
{
    const int32_t n = c->model->shape.n_vocab;
    struct lane_options o = lane_options(c);
    o.precision = PRECISION_EXACT;
    o.deterministic = false;
    o.kv_dtype = DT_F32;
    o.mtp = o.watch = false;
    float *exact = malloc((size_t)c->n * (size_t)n * sizeof *exact);
    struct lane l;
    if (!exact) abort();
    if (!lane_open(&l, c->model, &o)) {
        free(exact);
        wrong(c, "cannot open in exact precision");
        return;
    }
    if (!prompt_logits(c, &l, 0, c->max_tok, exact)) wrong(c, "run failed in exact precision");
    for (uint32_t i = 0; i < c->n; i++) {
        const float *p = exact + (size_t)i * (size_t)n, *q = fast + (size_t)i * (size_t)n;
        c->r->kl += kl_of(p, q, n);
        if (margin_of(p, n) < TIE) continue;
        c->r->n_clear++;
        c->r->n_clear_same += best_of(p, n) == best_of(q, n);
    }
    lane_close(&l);
    free(exact);
}

static bool is_near(uint64_t planned, uint64_t taken)
{
    return planned <= taken + taken / 20 && taken <= planned + planned / 20;
}

// Memory as it was planned, from headers, and what was taken for it, as the backend and the
// mappings count it. before: mappings from before the lane.
static void check_memory(struct check *c, const struct lane *l, uint64_t before)
{
    uint64_t planned = 0, planned_host = 0, taken = 0;
    struct kernels_bytes b = {0};
    const uint64_t mapped = map_taken();
    for (uint32_t i = 0; i < l->n_stage; i++) {
        const struct stage_sizes s = stage_sizes_get(l->stages[i][0]);
        planned += s.weight_bytes + s.kv_bytes + s.work_bytes;
        planned_host += s.host_bytes;
        stage_taken(l->stages[i][0], &b);
        taken += b.own - mapped; // on the host: what this backend has besides
    }
    const bool is_device = planned_host > 0;
    if (is_device)
        taken = b.own; // of all together
    else
        taken += mapped - before;
    const bool host_ok = !is_device || is_near(planned_host, b.host - before);
    char text[120];
    snprintf(text, sizeof text, "%s memory: %llu bytes were planned, %llu taken",
             host_ok ? "the backend's" : "the host's",
             (unsigned long long)(host_ok ? planned : planned_host),
             (unsigned long long)(host_ok ? taken : b.host - before));
    if (!host_ok || !is_near(planned, taken)) wrong(c, text);
    if (c->set->is_verbose) printf("%s\n", text);
}

static void run_prompt(struct check *c)
{
    const bool whole = c->n <= c->max_tok;
    struct lane_options o = lane_options(c);
    o.watch = true;
    o.mtp = c->model->shape.has_mtp && o.n_member == 1;
    struct lane l;
    float *got = malloc((size_t)c->n * (size_t)c->model->shape.n_vocab * sizeof *got);
    if (!got) abort();
    const uint64_t before = map_taken();
    if (!lane_open(&l, c->model, &o)) {
        free(got);
        wrong(c, "cannot load");
        return;
    }
    if (o.n_member == 1) check_memory(c, &l, before);
    if (!prompt_logits(c, &l, 0, c->max_tok, got)) {
        wrong(c, "run failed");
    } else {
        check_logits(c, got);
        if (whole) check_experts(c, &l.seen);
        if (whole && o.n_member == 1) check_mtp(c, &l);
        if (whole && c->set->is_verbose) tell_hidden(c, &l.seen);
        if (whole) check_vectors(c, &l);
        lane_unwatch(&l);
        check_greedy(c, &l);
        if (!c->set->is_alone) check_invariance(c, got);
        if (c->set->lane.precision == PRECISION_FAST) check_fast(c, got);
    }
    lane_close(&l);
    free(got);
}

// A model with two lists of rotation factors takes the short one for as long as its text is short:
// the plan's context decides that here.
static uint32_t context_for(const struct model *m, uint32_t n)
{
    const struct model_rope *r = &m->shape.rope;
    const uint32_t ctx = n > CTX ? n : CTX;
    const bool is_short = r->long_factors && r->long_from > 0 && n <= (uint32_t)r->long_from;
    return is_short && ctx > (uint32_t)r->long_from ? (uint32_t)r->long_from : ctx;
}

static void check_prompt(struct check *c, const char *prompt)
{
    struct st_tensor ids, logits, greedy;
    c->prompt = prompt;
    if (!find(c, "input_ids", "I32", &ids) || !find(c, "logits", "F32", &logits) ||
        !find(c, "greedy", "I32", &greedy) || greedy.shape[0] > GREEDY_MAX || ids.shape[0] < 1 ||
        greedy.shape[0] < 1) {
        wrong(c, "golden tensors are missing");
        return;
    }
    if (logits.shape[1] != c->model->shape.n_vocab || logits.shape[0] != ids.shape[0]) {
        wrong(c, "golden logits are of another vocabulary");
        return;
    }
    c->ids = ids.data;
    c->logits = logits.data;
    c->greedy = greedy.data;
    c->n = (uint32_t)ids.shape[0];
    c->n_new = (uint32_t)greedy.shape[0];
    c->ctx = context_for(c->model, c->n + c->n_new);
    c->max_tok = c->ctx < STEP ? c->ctx : STEP;
    run_prompt(c);
}

// -- directories --

// model.gguf, or the directory itself, or its first (piece of a) GGUF file.
static void find_model(const char *dir, char *path, size_t cap)
{
    snprintf(path, cap, "%s/model.gguf", dir);
    if (!access(path, R_OK)) return;
    snprintf(path, cap, "%s/config.json", dir);
    const bool is_hf = !access(path, R_OK);
    glob_t found = {0};
    snprintf(path, cap, "%s/*.gguf", dir);
    if (!is_hf && !glob(path, 0, NULL, &found) && found.gl_pathc)
        snprintf(path, cap, "%s", found.gl_pathv[0]);
    else
        snprintf(path, cap, "%s", dir);
    globfree(&found);
}

static double tolerance_of(const char *dir)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/golden.json", dir);
    json_t *info = json_load_file(path, 0, NULL);
    const json_t *t = json_object_get(info, "tolerance");
    const double max = json_number_value(json_object_get(t, "f32_logits_max_abs"));
    json_decref(info);
    return max;
}

static void tell(const char *dir, const struct settings *set, const struct report *r)
{
    printf("%s %s: logits within %.2e, top-1 %llu of %llu, greedy %u of %u",
           r->why[0] ? "FAIL" : "ok  ", dir, r->max, (unsigned long long)r->n_top,
           (unsigned long long)r->n_pos, r->n_same, r->n_new);
    if (r->has_experts)
        printf(", experts %llu of %llu", (unsigned long long)r->n_choice_same,
               (unsigned long long)r->n_choice);
    if (r->has_mtp) printf(", mtp within %.2e", r->mtp);
    if (r->vector > 0) printf(", vectors within %.2e", r->vector);
    if (set->lane.precision == PRECISION_FAST && r->n_pos)
        printf(", to exact: KL %.2e, top-1 %llu of %llu", r->kl / (double)r->n_pos,
               (unsigned long long)r->n_clear_same, (unsigned long long)r->n_clear);
    printf("%s%s\n", r->why[0] ? " -- " : "", r->why);
}

static bool is_quantised(const struct model *m)
{
    for (int32_t i = 0; i < m->n_weight; i++)
        if (m->weights[i].is_matrix && dtype_info(m->weights[i].dtype)->is_quantised) return true;
    return false;
}

static void check_dir(const char *dir, const struct model *m, const struct settings *set,
                      struct report *r)
{
    char path[4096];
    struct st_file golden;
    struct check c = {.set = set, .model = m, .golden = &golden, .r = r};
    c.tolerance = tolerance_of(dir);
    snprintf(path, sizeof path, "%s/golden.safetensors", dir);
    if (!st_open(&golden, path) || !(c.tolerance > 0)) {
        wrong(&c, "cannot read golden.safetensors and golden.json");
        return;
    }
    check_prompt(&c, "p1");
    check_prompt(&c, "p2");
    c.prompt = "all";
    const double kl_max = set->lane.kv_dtype == DT_F8_E4M3 ? KL_MAX_F8
                          : is_quantised(m)                ? KL_MAX
                                                           : KL_MAX_PLAIN;
    if (set->lane.precision == PRECISION_FAST && !(r->kl <= kl_max * (double)r->n_pos))
        wrong(&c, "fast strays from exact");
    st_close(&golden);
}

static bool add_row(const char *table, const struct model *m, bool is_ok)
{
    FILE *f = fopen(table, "a");
    if (!f) return false;
    fprintf(f, "%s\t%s\t%s\t%s\n", m->shape.arch, m->gguf ? "GGUF" : "Hugging Face", m->quant,
            is_ok ? "ok" : "no");
    return fclose(f) == 0;
}

// Adds the positions that were compared in fast precision to *sum.
static int run_dir(const char *dir, const struct settings *set, struct report *sum)
{
    char path[4096];
    struct err_text why = {0};
    struct report r = {0};
    struct model *m = NULL;
    find_model(dir, path, sizeof path);
    if (model_open(path, &m, &why)) {
        printf("FAIL %s: %s\n", dir, why.s);
        return 1;
    }
    check_dir(dir, m, set, &r);
    tell(dir, set, &r);
    if (set->table && !add_row(set->table, m, !r.why[0])) {
        fprintf(stderr, "cannot write %s\n", set->table);
        r.why[0] = '!';
    }
    model_close(m);
    sum->n_clear += r.n_clear;
    sum->n_clear_same += r.n_clear_same;
    return r.why[0] != 0;
}

// False if the best tokens of fast and exact differ too often.
static bool tell_sum(const struct report *sum, const struct settings *set)
{
    const double least = set->lane.kv_dtype == DT_F8_E4M3 ? TOP_MIN_F8 : TOP_MIN;
    if (sum->n_clear == 0) return true;
    const double share = (double)sum->n_clear_same / (double)sum->n_clear;
    printf("%s top-1 of fast and exact: %llu of %llu, %.2f %%\n", share >= least ? "ok  " : "FAIL",
           (unsigned long long)sum->n_clear_same, (unsigned long long)sum->n_clear, 100 * share);
    return share >= least;
}

// -- command line --

static int usage(void)
{
    fprintf(stderr, "usage: golden [--precision exact|fast|deterministic] [--stages N] "
                    "[--split tensor|experts --members N] [--threads N] [--device NAME] [--alone] "
                    "[--group nccl|peers|both] [--kv TYPE] [--table FILE] [--verbose] DIR... | "
                    "--real JSON FILE.gguf\n");
    return 2;
}

static uint32_t roads_of(const char *name)
{
    if (!strcmp(name, "both")) return KERNELS_ROAD_NCCL | KERNELS_ROAD_PEERS;
    if (!strcmp(name, "nccl")) return KERNELS_ROAD_NCCL;
    return strcmp(name, "peers") ? 0 : KERNELS_ROAD_PEERS;
}

// Of keys and values by name, "BF16"; DT_NONE: no such.
static enum dtype kv_type(const char *name)
{
    for (int t = DT_NONE + 1; t < DT_COUNT; t++)
        if (!strcasecmp(dtype_info((enum dtype)t)->name, name)) return (enum dtype)t;
    return DT_NONE;
}

// Takes the option at argv[i] (and its value); false if there is no such.
static bool take_option(struct settings *s, const char **real, const char *a, const char *v)
{
    if (!strcmp(a, "--precision")) {
        s->lane.precision = strcmp(v, "exact") ? PRECISION_FAST : PRECISION_EXACT;
        s->lane.deterministic = !strcmp(v, "deterministic");
    } else if (!strcmp(a, "--stages"))
        s->lane.n_stage = (uint32_t)atoi(v);
    else if (!strcmp(a, "--split"))
        s->lane.split = !strcmp(v, "tensor") ? SPLIT_TENSOR : SPLIT_EXPERTS;
    else if (!strcmp(a, "--members"))
        s->lane.n_member = atoi(v);
    else if (!strcmp(a, "--threads"))
        s->lane.n_threads = atoi(v);
    else if (!strcmp(a, "--device"))
        s->lane.device = v;
    else if (!strcmp(a, "--group") && roads_of(v))
        s->lane.roads = roads_of(v);
    else if (!strcmp(a, "--kv") && kv_type(v))
        s->lane.kv_dtype = kv_type(v);
    else if (!strcmp(a, "--table"))
        s->table = v;
    else if (!strcmp(a, "--real"))
        *real = v;
    else
        return false;
    return true;
}

int main(int argc, char **argv)
{
    struct settings s = {.lane = {.n_stage = 1, .n_member = 1, .n_slot = 4, .n_threads = 1}};
    const char *real = NULL;
    s.lane.precision = PRECISION_EXACT;
    int n_dir = 0;
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] != '-')
            argv[n_dir++] = argv[i];
        else if (!strcmp(argv[i], "--verbose"))
            s.is_verbose = true;
        else if (!strcmp(argv[i], "--alone"))
            s.is_alone = true;
        else if (i + 1 == argc || !take_option(&s, &real, argv[i], argv[i + 1]))
            return usage();
        else
            i++;
    }
    if (!n_dir || s.lane.n_stage < 1 || s.lane.n_stage >= LANE_STAGES_MAX || s.lane.n_member < 1 ||
        s.lane.n_member > LANE_MEMBERS_MAX || (s.lane.n_member > 1 && !s.lane.split) ||
        s.lane.n_threads < 1 || (real && n_dir != 1))
        return usage();
    if (!s.lane.kv_dtype) s.lane.kv_dtype = s.lane.precision == PRECISION_EXACT ? DT_F32 : DT_F16;
    s.lane.max_tok = STEP;
    if (real) return real_run(argv[0], real, &s.lane);
    struct report sum = {0};
    int bad = 0;
    for (int i = 0; i < n_dir; i++) {
        bad += run_dir(argv[i], &s, &sum);
        fflush(stdout);
    }
    const bool agrees = tell_sum(&sum, &s);
    if (n_dir > 1) printf("%d of %d good\n", n_dir - bad, n_dir);
    return bad || !agrees;
}
