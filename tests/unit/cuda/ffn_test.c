// Whole feed-forward parts, dense and of experts, on every backend: the same bits as their
// operations one by one where every sum has one order, close to them elsewhere; and there the same
// bits for a row alone and among others. The same for a residual stream and its norm.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#pragma GCC diagnostic ignored "-Wunused-function"
#include "tests/unit/kernels/blocks.h"
#include "tests/unit/cuda/rig.h"

enum { DIM = 512, MIDDLE = 256, TOK = 38, N = 9, USED = 2 };

static const struct kernels_limits limits = {.n_threads = 1,
                                             .max_tok = TOK,
                                             .max_cols = DIM,
                                             .max_rows = DIM,
                                             .max_head = 1,
                                             .max_head_dim = 2,
                                             .max_ctx = 16,
                                             .max_expert_rows = TOK * USED};

// gate and up, down
static const enum dtype kinds[][2] = {
    {DT_Q4_K, DT_Q6_K}, {DT_MXFP4, DT_MXFP4}, {DT_BF16, DT_BF16}, {DT_F32, DT_Q8_0}};

struct rig {
    struct kernels *k;
    bool is_bits;               // sums have one order
    struct view gate, up, down; // stacks; a dense part is the first expert
    float *x, *more, *y, *out, *middle[2], *bias[3], *factors;
    int32_t *seq, *at, *row, *expert;
    float *weights;
};

static struct view pack_stack(struct kernels *k, enum dtype t, int rows, int cols)
{
    const uint64_t row = dtype_row_bytes(t, (uint64_t)cols);
    struct view v = {.dtype = t, .layout = LAYOUT_PACKED, .n_dim = 3, .shape = {N, rows, cols}};
    v.stride[0] = (int64_t)((k->ops->weight_bytes(k, t, rows, cols) + 63) / 64 * 64);
    v.data = rig_take(k, (uint64_t)v.stride[0] * N);
    uint8_t *src = random_weight(t, N * rows, cols);
    for (int i = 0; i < N; i++) {
        struct view one = view_of_stack(&v, i);
        k->ops->weight_pack(k, src + (uint64_t)(i * rows) * row, 0, rows, &one);
    }
    free(src);
    return v;
}

static float *some_floats(struct kernels *k, int64_t n)
{
    float *host = rig_floats(n), *p = rig_put(k, host, n);
    free(host);
    return p;
}

static struct rig make(struct kernels *k, int kind)
{
    struct rig r = {.k = k};
    rng_seed((uint32_t)kind + 1);
    rig_seed = 88172645463325252u;
    r.gate = pack_stack(k, kinds[kind][0], MIDDLE, DIM);
    r.up = pack_stack(k, kinds[kind][0], MIDDLE, DIM);
    r.down = pack_stack(k, kinds[kind][1], DIM, MIDDLE);
    r.x = some_floats(k, TOK * DIM);
    r.more = some_floats(k, TOK * DIM);
    r.weights = some_floats(k, TOK * USED);
    r.y = some_floats(k, TOK * USED * DIM);
    r.out = some_floats(k, TOK * DIM);
    r.factors = some_floats(k, N);
    for (int i = 0; i < 2; i++)
        r.middle[i] = some_floats(k, TOK * USED * MIDDLE);
    for (int i = 0; i < 3; i++)
        r.bias[i] = some_floats(k, N * DIM);
    int32_t **lists[] = {&r.seq, &r.at, &r.row, &r.expert}, seq[TOK * USED];
    for (int i = 0; i < 4; i++)
        *lists[i] = rig_take(k, sizeof seq);
    for (int i = 0; i < TOK * USED; i++)
        seq[i] = i;
    k->ops->put(k, r.seq, seq, sizeof seq);
    return r;
}

static void unmake(struct rig *r)
{
    void *const all[] = {r->gate.data, r->up.data, r->down.data, r->x,       r->more,
                         r->weights,   r->y,       r->out,       r->factors, r->middle[0],
                         r->middle[1], r->bias[0], r->bias[1],   r->bias[2], r->seq,
                         r->at,        r->row,     r->expert};
    rig_status(r->k);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        r->k->ops->give(r->k, all[i], 0);
}

// Fused against one by one.
static void compare(const struct rig *r, const char *what, int n_tok, const float *got,
                    const float *want)
{
    char text[96];
    double worst = 0, size = 1e-3;
    for (int i = 0; i < n_tok * DIM; i++)
        size = fmax(size, fabs((double)want[i]));
    for (int i = 0; i < n_tok * DIM; i++)
        worst = fmax(worst, fabs((double)got[i] - (double)want[i]) / size);
    snprintf(text, sizeof text, "%s %s %s %s %d rows", r->k->ops->name, what,
             dtype_info(r->gate.dtype)->name, dtype_info(r->down.dtype)->name, n_tok);
    if (r->is_bits && memcmp(got, want, (size_t)(n_tok * DIM) * sizeof *got)) worst += 1;
    rig_expect(text, worst, r->is_bits ? 0 : 4e-3);
}

static float *fetch(const struct rig *r, const float *from, int64_t n)
{
    float *p = rig_floats(n);
    r->k->ops->get(r->k, p, from, (uint64_t)n * sizeof *p);
    return p;
}

// The first row of what came of many is that which comes of it alone.
static void compare_first(const struct rig *r, const char *what, int n_tok, const float *got,
                          float *first)
{
    char text[96];
    if (n_tok == 1) memcpy(first, got, DIM * sizeof *first);
    if (!r->is_bits) return;
    snprintf(text, sizeof text, "%s %s %s: a row alone and among %d", r->k->ops->name, what,
             dtype_info(r->gate.dtype)->name, n_tok);
    rig_expect(text, memcmp(got, first, DIM * sizeof *first) != 0, 0);
}

static void check_dense(const struct rig *r)
{
    static const int toks[] = {1, 8, 33};
    const struct kernels_ops *op = r->k->ops;
    struct view gate = view_of_stack(&r->gate, 0), up = view_of_stack(&r->up, 0);
    struct view down = view_of_stack(&r->down, 0), beside = gate;
    float first[DIM];
    gate.factor = 0.75f;
    const struct gemm_job side = {&beside, NULL, r->y, MIDDLE, false};
    const struct ffn f = {.x = r->x,
                          .cols = DIM,
                          .gate = {&gate, r->bias[0], r->middle[0], MIDDLE, false},
                          .up = {&up, NULL, r->middle[1], MIDDLE, true},
                          .beside = &side,
                          .glu = {.kind = GLU_GELU_TANH},
                          .down = {&down, r->bias[1], r->out, DIM, false}};
    for (size_t i = 0; i < sizeof toks / sizeof *toks; i++) {
        const int n = toks[i];
        const struct gemm_job in[3] = {f.gate, f.up, side};
        op->ffn(r->k, &f, n);
        float *got = fetch(r, r->out, n * DIM), *got_side = fetch(r, r->y, n * MIDDLE);
        op->gemm(r->k, r->x, n, DIM, in, 3);
        op->glu(r->k, &f.glu, f.gate.y, f.up.y, n * MIDDLE, f.gate.y);
        op->gemm(r->k, f.gate.y, n, MIDDLE, &f.down, 1);
        float *want = fetch(r, r->out, n * DIM), *want_side = fetch(r, r->y, n * MIDDLE);
        compare(r, "ffn", n, got, want);
        compare_first(r, "ffn", n, got, first);
        if (r->is_bits)
            rig_expect("ffn beside", memcmp(got_side, want_side, MIDDLE * sizeof(float)) != 0, 0);
        free(got);
        free(want);
        free(got_side);
        free(want_side);
    }
}

static void sort(const struct rig *r, int n_tok)
{
    int32_t ids[TOK * USED];
    for (int i = 0; i < n_tok; i++) {
        ids[2 * i] = (i * 5 + 1) % (N - 1);
        ids[2 * i + 1] = N - 1; // which everybody chooses
    }
    int32_t *on_device = rig_take(r->k, sizeof ids);
    r->k->ops->put(r->k, on_device, ids, sizeof ids);
    const struct route_sort s = {.ids = on_device,
                                 .n_expert = N,
                                 .n_used = USED,
                                 .at = r->at,
                                 .row = r->row,
                                 .expert = r->expert};
    r->k->ops->route_sort(r->k, &s, n_tok);
    rig_give(r->k, on_device, 0);
}

static void one_by_one(const struct rig *r, const struct expert_ffn *f)
{
    const struct kernels_ops *op = r->k->ops;
    const struct expert_stack *s[] = {&f->gate, &f->up, &f->down};
    float *const y[] = {f->middle[0], f->middle[1], f->y};
    for (int i = 0; i < 3; i++) {
        const struct expert_gemm g = {.w = s[i]->w,
                                      .factors = s[i]->factors,
                                      .bias = s[i]->bias,
                                      .x = i < 2 ? f->x : f->middle[0],
                                      .n = f->n,
                                      .n_x = i < 2 ? f->n_x : f->n,
                                      .row = i < 2 ? f->row : f->seq,
                                      .expert = f->expert,
                                      .y = y[i]};
        if (i == 2) op->glu(r->k, &f->glu, y[0], y[1], f->n * MIDDLE, y[0]);
        op->gemm_experts(r->k, &g);
    }
    op->combine(r->k, f->y, f->at, f->weights, f->n_tok, USED, DIM, r->out);
}

// With the sum of each token's products, and (odd cases) with the products alone, without biases.
static void check_experts(const struct rig *r)
{
    // few, few without their sums, by tiles (more than 64 products), many (more than 8 N)
    static const int toks[] = {1, 6, 34, 38};
    float first[DIM];
    for (int i = 0; i < (int)(sizeof toks / sizeof *toks); i++) {
        const int n = toks[i];
        const bool is_plain = i == 1;
        struct expert_ffn f = {.gate = {&r->gate, r->factors, r->bias[0]},
                               .up = {&r->up, NULL, r->bias[1]},
                               .down = {&r->down, r->factors, r->bias[2]},
                               .glu = {.kind = GLU_SWIGLU_OAI, .alpha = 1.702f, .limit = 7},
                               .x = r->x,
                               .n = n * USED,
                               .n_x = n,
                               .row = r->row,
                               .expert = r->expert,
                               .seq = r->seq,
                               .middle = {r->middle[0], r->middle[1]},
                               .y = r->y,
                               .at = r->at,
                               .weights = r->weights,
                               .n_tok = n,
                               .n_used = USED,
                               .out = is_plain ? NULL : r->out};
        if (is_plain) f.gate.bias = f.up.bias = f.down.bias = f.down.factors = NULL;
        sort(r, n);
        r->k->ops->expert_ffn(r->k, &f);
        if (is_plain) r->k->ops->combine(r->k, f.y, f.at, f.weights, n, USED, DIM, r->out);
        float *got = fetch(r, r->out, n * DIM);
        one_by_one(r, &f);
        float *want = fetch(r, r->out, n * DIM);
        compare(r, is_plain ? "products" : "experts", n, got, want);
        if (!is_plain) compare_first(r, "experts", n, got, first);
        free(got);
        free(want);
    }
}

// Rows of several lengths; with all of it, and with parts left out.
static void check_add_norm(const struct rig *r, struct kernels *cpu, int dim, int parts)
{
    struct kernels *const both[] = {r->k, cpu};
    enum { ROWS = 3 };
    float *got[2][2];
    for (int i = 0; i < 2; i++) {
        struct kernels *k = both[i];
        rig_seed = 88172645463325252u;
        float *x = some_floats(k, ROWS * dim), *y = some_floats(k, ROWS * dim);
        float *more = some_floats(k, ROWS * dim), *w = some_floats(k, dim);
        float *post = some_floats(k, dim);
        const struct add_norm a = {.x = x,
                                   .y = parts & 1 ? y : NULL,
                                   .more = parts & 2 ? more : NULL,
                                   .post = parts & 4 ? post : NULL,
                                   .scale = parts & 8 ? 0.25f : 1,
                                   .w = parts & 16 ? w : NULL,
                                   .out = parts & 32 ? y : NULL,
                                   .dim = dim,
                                   .eps = 1e-5f};
        k->ops->add_norm(k, &a, ROWS);
        const struct rig at = {.k = k};
        got[i][0] = fetch(&at, x, ROWS * dim);
        got[i][1] = fetch(&at, y, ROWS * dim);
        float *const all[] = {x, y, more, w, post};
        for (int j = 0; j < 5; j++)
            rig_give(k, all[j], 0);
    }
    char what[64];
    snprintf(what, sizeof what, "%s add_norm of %d, parts %d", r->k->ops->name, dim, parts);
    rig_expect(what, rig_error(got[0][0], got[1][0], ROWS * dim), 2e-6);
    if (parts & 32) rig_expect(what, rig_error(got[0][1], got[1][1], ROWS * dim), 4e-6);
    for (int i = 0; i < 4; i++)
        free(got[i / 2][i % 2]);
}

// from, to: kinds of weights
// Products of what a norm has just written, which may have made it ready for them, and of a copy of
// it; also where somebody has changed it meanwhile.
static void check_after_norm(const struct rig *r, int n_tok, bool is_changed)
{
    const struct kernels_ops *o = r->k->ops;
    const struct view gate = view_of_stack(&r->gate, 0), up = view_of_stack(&r->up, 0);
    const struct add_norm norm = {
        .x = r->x, .scale = 1, .w = r->bias[0], .out = r->out, .dim = DIM, .eps = 1e-6f};
    float *both[2] = {malloc(TOK * DIM * sizeof(float)), malloc(TOK * DIM * sizeof(float))};
    if (!both[0] || !both[1]) exit(2);
    for (int i = 0; i < 2; i++) {
        const struct gemm_job jobs[] = {
            {.w = &gate, .y = r->middle[0], .ldy = DIM},
            {.w = &up, .y = r->middle[0] + MIDDLE, .ldy = DIM, .fine = true}};
        o->add_norm(r->k, &norm, n_tok);
        if (is_changed) o->scale(r->k, r->out, 3, (int64_t)n_tok * DIM);
        if (i) o->copy(r->k, r->y, DIM, r->out, DIM, n_tok, DIM);
        o->gemm(r->k, i ? r->y : r->out, n_tok, DIM, jobs, 2);
        o->get(r->k, both[i], r->middle[0], (uint64_t)n_tok * DIM * sizeof(float));
    }
    struct rig same = *r;
    same.is_bits = true;
    compare(&same, is_changed ? "after a changed norm" : "after a norm", n_tok, both[0], both[1]);
    free(both[0]);
    free(both[1]);
}

static void check(struct kernels *k, struct kernels *cpu, bool is_bits, int from, int to)
{
    static const int dims[] = {96, 1032, 514}, parts[] = {63, 49, 33, 32, 57, 7};
    for (int i = from; i < to; i++) {
        struct rig r = make(k, i);
        r.is_bits = is_bits;
        check_dense(&r);
        check_experts(&r);
        check_after_norm(&r, TOK, false);
        check_after_norm(&r, TOK, true);
        check_after_norm(&r, 3, false);
        unmake(&r);
    }
    const struct rig r = {.k = k};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        check_add_norm(&r, cpu, dims[i % 3], parts[i]);
    rig_status(k);
}

static void test_parts(void **state)
{
    (void)state;
    rig_failed = 0;
    struct kernels *cpu = rig_open(false, &limits, PRECISION_FAST);
    check(cpu, cpu, true, 0, 4);
    // fast, fast with one order of sums, exact; each with another order of threads
    for (int i = 0; i < 3; i++) {
        struct kernels_limits l = limits;
        l.deterministic = i == 1;
        simt_set_order((enum simt_order)i, 7);
        struct kernels *k = rig_open(true, &l, i < 2 ? PRECISION_FAST : PRECISION_EXACT);
        check(k, cpu, i > 0, i == 0 ? 2 : i == 1 ? 0 : 3, i == 0 ? 3 : i == 1 ? 2 : 4);
        k->ops->close(k);
    }
    cpu->ops->close(cpu);
    assert_int_equal(rig_failed, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_parts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
