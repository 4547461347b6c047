#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#define OPS_CHECK_NO_MAIN
#include "tests/unit/kernels/ops_check.c"
#include "kernels/weight.h"
#include "tests/unit/cuda/backend.h"

static int32_t *random_ints(int n, int below)
{
    int32_t *p = malloc((size_t)n * sizeof *p);
    if (!p) exit(2);
    for (int i = 0; i < n; i++)
        p[i] = (int32_t)(rng() % (uint32_t)below);
    return p;
}

// Both backends do the same; whole numbers and copies must agree in every bit.
static void check_sort(struct kernels *k, struct kernels *cpu, int n_tok, int n_used, int n_expert,
                       bool with_place)
{
    const int n = n_tok * n_used;
    int32_t *ids = random_ints(n, n_expert), *out = calloc((size_t)n * 6, sizeof *out);
    int32_t *place = random_ints(n_expert, 1000);
    uint32_t *count = calloc((size_t)n_expert * 2, sizeof *count);
    if (!out || !count) exit(2);
    for (int e = 1; e < n_expert; e++)
        place[e] += place[e - 1];
    struct kernels *both[] = {k, cpu};
    for (int i = 0; i < 2; i++) {
        int32_t *o = out + 3 * n * i;
        const struct route_sort a = {.ids = ids,
                                     .place = with_place ? place : NULL,
                                     .n_expert = n_expert,
                                     .n_used = n_used,
                                     .at = o,
                                     .row = o + n,
                                     .expert = o + 2 * n,
                                     .count = count + n_expert * i};
        both[i]->ops->route_sort(both[i], &a, n_tok);
    }
    same_bits("route_sort", "order", out, out + 3 * n, (size_t)n * 3 * sizeof *out);
    same_bits("route_sort", "counts", count, count + n_expert, (size_t)n_expert * sizeof *count);
    free(ids);
    free(out);
    free(place);
    free(count);
}

// Choosing and sorting at once, and one after the other.
static void check_route_sorted(struct kernels *k, int n_tok)
{
    enum { EXPERTS = 40, USED = 6 };
    const int n = n_tok * USED;
    float *logits = floats(n_tok * EXPERTS), *weights = floats(2 * n);
    int32_t *out = calloc((size_t)n * 8, sizeof *out);
    if (!out) exit(2);
    for (int i = 0; i < 2; i++) {
        int32_t *o = out + 4 * n * i;
        const struct route_sort sort = {.ids = o,
                                        .n_expert = EXPERTS,
                                        .n_used = USED,
                                        .at = o + n,
                                        .row = o + 2 * n,
                                        .expert = o + 3 * n};
        const struct route_args a = {.logits = logits,
                                     .n_expert = EXPERTS,
                                     .n_used = USED,
                                     .n_group = 4,
                                     .n_group_used = 2,
                                     .normalise = true,
                                     .scale = 1,
                                     .ids = o,
                                     .weights = weights + n * i,
                                     .sort = i ? &sort : NULL};
        k->ops->route(k, &a, n_tok);
        if (!i) k->ops->route_sort(k, &sort, n_tok);
    }
    same_bits("route", "sorted", out, out + 4 * n, (size_t)n * 4 * sizeof *out);
    same_bits("route", "weights of sorted", weights, weights + n, (size_t)n * sizeof *weights);
    free(logits);
    free(weights);
    free(out);
}

static void check_spread(struct kernels *k, struct kernels *cpu, int n_tok, int n_used, int dim)
{
    const int n = n_tok * n_used;
    float *x = floats(n_tok * dim), *out = floats(2 * n * dim), *w = floats(2 * n);
    int32_t *at = malloc((size_t)n * sizeof *at);
    if (!at) exit(2);
    for (int i = 0; i < n; i++)
        at[i] = n - 1 - i;
    memcpy(w + n, w, (size_t)n * sizeof *w);
    k->ops->spread(k, x, at, w, n_tok, n_used, dim, out);
    cpu->ops->spread(cpu, x, at, w + n, n_tok, n_used, dim, out + n * dim);
    same_bits("spread", "values", out, out + n * dim, (size_t)(n * dim) * sizeof *out);
    same_bits("spread", "weights", w, w + n, (size_t)n * sizeof *w);
    free(x);
    free(out);
    free(w);
    free(at);
}

static void check_orders(struct kernels *k, struct kernels *cpu)
{
    enum { ROWS = 9, COLS = 301, N = 40, EXPERTS = 5 };
    float *x = floats(ROWS * COLS), *out = floats(2 * N * COLS);
    int32_t *row = random_ints(N, ROWS), *expert = random_ints(N, EXPERTS);
    int32_t *order = random_ints(EXPERTS * COLS, COLS);
    k->ops->gather_experts(k, x, row, order, expert, N, COLS, out);
    cpu->ops->gather_experts(cpu, x, row, order, expert, N, COLS, out + N * COLS);
    same_bits("gather", "experts", out, out + N * COLS, N * COLS * sizeof *out);
    k->ops->gather(k, x, order, ROWS, COLS, out);
    cpu->ops->gather(cpu, x, order, ROWS, COLS, out + N * COLS);
    same_bits("gather", "rows", out, out + N * COLS, ROWS * COLS * sizeof *out);
    free(x);
    free(out);
    free(row);
    free(expert);
    free(order);
}

static void check_finite(struct kernels *k, int n)
{
    enum { ROWS = 5 };
    float *x = floats(ROWS * n);
    bool out[ROWS];
    x[n - 1] = NAN;
    x[2 * n] = INFINITY;
    x[3 * n + n / 2] = -INFINITY;
    x[4 * n + n / 3] = -3e38f;
    k->ops->finite(k, x, ROWS, n, out);
    verdict("finite", "rows", out[0] || !out[1] || out[2] || out[3] || !out[4], 0);
    free(x);
}

// Rows of values of which many are equal; every third row has a mask, each second one picks.
struct top_case {
    int n, n_top, levels; // 0: as many as there are floats
    int n_row;
};
static const struct top_case top_cases[] = {
    {70, 4, 0, 3}, {70, 256, 7, 3}, {5000, 16, 0, 3}, {40000, 1024, 3, 2}, {40000, 900, 5000, 2}};

static bool counts_at(const struct top_row *r, int i)
{
    return !r->mask || r->mask[i / 32] >> i % 32 & 1;
}

// Against all values, one after the other.
static int top_faults(const struct top_row *r, const float *x, int n, int n_top)
{
    int wrong = 0, n_in = 0, better = 0;
    double mass[64] = {0};
    for (int j = 0; j < r->n; j++) {
        const bool falls = j == 0 || r->value[j] < r->value[j - 1] ||
                           (r->value[j] == r->value[j - 1] && r->id[j] > r->id[j - 1]);
        wrong += !falls || !counts_at(r, r->id[j]) || x[r->id[j]] != r->value[j];
    }
    for (int i = 0; i < n; i++) {
        if (!counts_at(r, i)) continue;
        n_in++;
        const float last = r->value[r->n - 1], d = (x[i] - r->value[0]) * r->per_t;
        better += x[i] > last || (x[i] == last && i <= r->id[r->n - 1]);
        if (d >= -(float)WEIGHT_NATS) mass[i / KERNELS_TOP_CHUNK] += (double)weight_of(d);
    }
    wrong += r->n != (n_in < n_top ? n_in : n_top) || better != r->n;
    for (int i = 0; i * KERNELS_TOP_CHUNK < n; i++)
        wrong += !(fabs(r->mass[i] - mass[i]) <= 1e-12 * (mass[i] + 1e-9));
    for (int i = 0; i < r->n_pick; i++)
        wrong += r->pick[i] != x[r->picks[i]];
    return wrong;
}

static void check_top(struct kernels *k, const struct top_case *t)
{
    enum { PICKS = 5, MOST = 64 };
    const int n_word = (t->n + 31) / 32;
    float *x = floats((t->n_row + 1) * t->n), *value = floats(t->n_row * t->n_top);
    uint32_t *mask = calloc((size_t)n_word, sizeof *mask);
    int32_t *id = calloc((size_t)(t->n_row * t->n_top), sizeof *id);
    int32_t *picks = random_ints(PICKS, t->n);
    struct top_row rows[3];
    float pick[3][PICKS];
    double mass[3][MOST];
    if (!mask || !id) exit(2);
    for (int i = 0; i < n_word; i++)
        mask[i] = i % 5 ? 0x10204081u << i % 7 : 0; // a few
    for (int i = 0; t->levels && i < (t->n_row + 1) * t->n; i++)
        x[i] = (float)(rng() % (uint32_t)t->levels) - 2;
    for (int i = 0; i < t->n_row; i++)
        rows[i] = (struct top_row){.row = t->n_row - i,
                                   .mask = i == 1 ? mask : NULL,
                                   .picks = picks,
                                   .n_pick = i % 2 ? 0 : PICKS,
                                   .per_t = i ? 1.25f : 30,
                                   .value = value + i * t->n_top,
                                   .id = id + i * t->n_top,
                                   .pick = pick[i],
                                   .mass = mass[i]};
    k->ops->top(k, x, t->n, t->n_top, rows, t->n_row);
    int wrong = 0;
    for (int i = 0; i < t->n_row; i++)
        wrong += top_faults(&rows[i], x + rows[i].row * t->n, t->n, t->n_top);
    verdict("top", "rows", wrong, 0);
    free(x);
    free(value);
    free(mask);
    free(id);
    free(picks);
}

// What lies before attention in one operation, and one operation after the other.
struct place_case {
    enum dtype dtype;
    int n_head, n_kv, hd, n_rot; // n_rot 0: no turning
    enum rope_kind kind;
    bool has_norms, is_unit, has_scale;
};
static const struct place_case place_cases[] = {
    {DT_F16, 4, 2, 128, 128, ROPE_NEOX, true, false, false},
    {DT_BF16, 3, 1, 64, 64, ROPE_INTERLEAVED, false, false, false},
    {DT_F8_E4M3, 4, 4, 80, 20, ROPE_NEOX, true, false, true},
    {DT_Q8_0, 2, 1, 96, 96, ROPE_INTERLEAVED, false, true, false},
    {DT_F32, 5, 1, 256, 0, ROPE_NEOX, false, false, true}};

static void place_apart(struct kernels *k, const struct attn_place *a)
{
    const struct kernels_ops *o = k->ops;
    const int n_q = a->n_tok * a->n_head, n_k = a->n_tok * a->kv.n_head_kv, hd = a->kv.head_dim;
    if (a->q_norm) o->rms_norm(k, a->q, a->q_norm, n_q, hd, a->eps, a->q);
    if (a->k_norm) o->rms_norm(k, a->key, a->k_norm, n_k, hd, a->eps, a->key);
    if (a->rope) o->rope(k, a->rope, a->cos_sin, a->n_tok, a->n_head, hd, a->q);
    if (a->rope) o->rope(k, a->rope, a->cos_sin, a->n_tok, a->kv.n_head_kv, hd, a->key);
    if (a->is_unit) o->rms_norm(k, a->q, NULL, n_q, hd, a->eps, a->q);
    if (a->is_unit) o->rms_norm(k, a->key, NULL, n_k, hd, a->eps, a->key);
    if (a->q_scale) o->scale_rows(k, a->q, a->q_scale, a->n_tok, a->n_head * hd);
    o->kv_store(k, &a->kv, a->runs, a->n_run, a->key, a->value);
}

static void check_place(struct kernels *k, const struct place_case *c)
{
    enum { TOK = 7, PAGES = 3 };
    const int n_q = TOK * c->n_head * c->hd, n_k = TOK * c->n_kv * c->hd;
    const int32_t pages[2][2] = {{2, 0}, {1, -1}}, pos[TOK] = {14, 15, 16, 17, 18, 3, 4};
    const struct attn_run runs[] = {{0, 5, 14, pages[0]}, {5, 2, 3, pages[1]}};
    const struct rope rope = {
        .kind = c->kind, .n_rot = c->n_rot, .theta = 1e4, .freq_scale = 1, .attn_factor = 1};
    float *q = floats(n_q), *key = floats(n_k), *value = floats(n_k), *table = floats(TOK * 256);
    float *norms = floats(2 * c->hd), *scale = floats(TOK), *both = floats(2 * (n_q + n_k));
    struct kv_view kv = {.page_tok = 16,
                         .n_head_kv = c->n_kv,
                         .head_dim = c->hd,
                         .head_dim_v = c->hd,
                         .dtype = c->dtype};
    kv.page_bytes = (int64_t)k->ops->kv_page_bytes(k, &kv);
    const size_t bytes = (size_t)kv.page_bytes * PAGES;
    char *memory = aligned_alloc(256, 2 * bytes);
    if (!memory || !kv.page_bytes) exit(2);
    memset(memory, 0xff, 2 * bytes);
    if (c->n_rot) k->ops->rope_table(k, &rope, pos, TOK, table);
    for (int i = 0; i < 2; i++) {
        float *mine = both + i * (n_q + n_k);
        memcpy(mine, q, (size_t)n_q * sizeof *q);
        memcpy(mine + n_q, key, (size_t)n_k * sizeof *key);
        kv.data = memory + (size_t)i * bytes;
        const struct attn_place a = {.q = mine,
                                     .key = mine + n_q,
                                     .value = value,
                                     .n_tok = TOK,
                                     .n_head = c->n_head,
                                     .q_norm = c->has_norms ? norms : NULL,
                                     .k_norm = c->has_norms ? norms + c->hd : NULL,
                                     .eps = 1e-6f,
                                     .rope = c->n_rot ? &rope : NULL,
                                     .cos_sin = table,
                                     .is_unit = c->is_unit,
                                     .q_scale = c->has_scale ? scale : NULL,
                                     .kv = kv,
                                     .runs = runs,
                                     .n_run = 2};
        if (i)
            k->ops->place(k, &a);
        else
            place_apart(k, &a);
        check_status(k, "place"); // and waits
    }
    same_bits("place", "queries", both, both + n_q + n_k, (size_t)n_q * sizeof *q);
    same_bits("place", "pages", memory, memory + bytes, bytes);
    free(q);
    free(key);
    free(value);
    free(table);
    free(norms);
    free(scale);
    free(both);
    free(memory);
}

static void check_memory(struct kernels *k)
{
    enum { ROWS = 7, LD = 11, N = 5 };
    float *x = floats(ROWS * LD), *y = floats(ROWS * N);
    k->ops->copy(k, y, N, x + 2, LD, ROWS, N);
    int wrong = 0;
    for (int i = 0; i < ROWS * N; i++)
        wrong += y[i] != x[i / N * LD + 2 + i % N];
    k->ops->zero(k, y, ROWS * N * sizeof *y);
    for (int i = 0; i < ROWS * N; i++)
        wrong += y[i] != 0;
    verdict("memory", "copies", wrong, 0);
    free(x);
    free(y);
}

static void check_simple_ops(void)
{
    struct kernels *k = open_ops(1), *cpu;
    struct kernels_limits l = ops_limits;
    if (kernels_open_cpu("reference", &l, &cpu, NULL)) exit(2);
    rng_seed(1);
    check_rows(k);
    for (int i = 0; i < N_ROUTE; i++)
        check_route(k, &route_cases[i]);
    check_combine(k, 2880, 4);
    check_combine(k, 77, 8);
    check_combine(k, 5, 1);
    check_sort(k, cpu, 1, 8, 128, true);
    check_sort(k, cpu, 40, 4, 7, false);
    check_sort(k, cpu, 300, 4, 33, true); // by counting
    check_route_sorted(k, 1);
    check_route_sorted(k, 13);
    check_route_sorted(k, 50);
    check_spread(k, cpu, 6, 3, 70);
    check_orders(k, cpu);
    check_finite(k, 1000);
    check_finite(k, 3);
    for (size_t i = 0; i < sizeof top_cases / sizeof *top_cases; i++)
        check_top(k, &top_cases[i]);
    for (size_t i = 0; i < sizeof place_cases / sizeof *place_cases; i++) {
        check_place(k, &place_cases[i]);
        check_place(cpu, &place_cases[i]);
    }
    check_memory(k);
    check_status(k, "all");
    k->ops->close(k);
    cpu->ops->close(cpu);
}

// Everything that is neither a product of weights nor attention, with the same bits in three orders
// of threads.
static void test_operations(void **state)
{
    (void)state;
    open_backend = open_cuda;
    always_brief = true;
    assert_int_equal(check_all(cuda_orders, 3, check_simple_ops), 0);
}

int main(void)
{
    (void)check_ops;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_operations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
