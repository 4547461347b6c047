// Attention over many keys: blocks that are cut into pieces, of runs of very different lengths, in
// pages of every size, behind windows and in chunks; decoded (recorded and repeated, so that
// lengths are the device's to know) and as the end of a prompt. Against the reference on the CPU.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/unit/cuda/rig.h"

enum { N_SEQ = 4, N_DECODE = 3, N_TAIL = 11, MAX_TOK = 128, LEN_MAX = 820 };

struct long_case {
    enum dtype kv;
    int n_head, n_kv, hd, page_tok, window, chunk;
    bool sinks;
};
static const struct long_case cases[] = {
    {DT_F16, 4, 2, 32, 16, 0, 0, false},       {DT_Q8_0, 4, 1, 64, 64, 500, 0, true},
    {DT_F8_E4M3, 2, 1, 32, 128, 0, 512, true}, {DT_BF16, 3, 1, 32, 256, 300, 0, false},
    {DT_F32, 2, 1, 16, 32, 0, 600, false},
};
// Keys before the steps: one run is longer than all others together.
static const int lengths[N_SEQ] = {800, 5, 150, 60};

struct data {
    const struct long_case *c;
    float *q, *k, *v, *sinks; // (N_SEQ, LEN_MAX, heads, hd)
};

struct stand {
    struct kernels *k;
    struct kv_view kv;
    float *q, *key, *value, *sinks, *out;
    int32_t *tables; // (N_SEQ, n_page)
    int n_page, at[N_SEQ];
};

static int width_q(const struct data *d)
{
    return d->c->n_head * d->c->hd;
}
static int width_k(const struct data *d)
{
    return d->c->n_kv * d->c->hd;
}

static struct stand stand_of(struct kernels *k, const struct data *d)
{
    const struct long_case *c = d->c;
    struct stand s = {.k = k,
                      .kv = {.page_tok = c->page_tok,
                             .n_head_kv = c->n_kv,
                             .head_dim = c->hd,
                             .head_dim_v = c->hd,
                             .dtype = c->kv}};
    s.kv.page_bytes = (int64_t)k->ops->kv_page_bytes(k, &s.kv);
    assert_true(s.kv.page_bytes > 0);
    s.n_page = (LEN_MAX + c->page_tok - 1) / c->page_tok;
    s.kv.data = rig_take(k, (uint64_t)(N_SEQ * s.n_page * s.kv.page_bytes));
    s.tables = malloc((size_t)(N_SEQ * s.n_page) * sizeof *s.tables);
    if (!s.tables) exit(2);
    for (int i = 0; i < N_SEQ * s.n_page; i++)
        s.tables[i % N_SEQ * s.n_page + i / N_SEQ] = i * 211 % (N_SEQ * s.n_page);
    s.q = rig_take(k, (uint64_t)(MAX_TOK * width_q(d)) * 4);
    s.key = rig_take(k, (uint64_t)(MAX_TOK * width_k(d)) * 4);
    s.value = rig_take(k, (uint64_t)(MAX_TOK * width_k(d)) * 4);
    s.out = rig_take(k, (uint64_t)(MAX_TOK * width_q(d)) * 4);
    s.sinks = c->sinks ? rig_put(k, d->sinks, c->n_head) : NULL;
    return s;
}

// n_tok of each sequence; with `out` attention too, appended there. Returns floats appended.
static int step(struct stand *s, const struct data *d, const int n_tok[N_SEQ], uint64_t key,
                float *out)
{
    const struct kernels_ops *ops = s->k->ops;
    struct attn_run runs[N_SEQ];
    int32_t pos[MAX_TOK];
    int rows = 0, n_run = 0;
    for (int i = 0; i < N_SEQ; i++) {
        const int n = n_tok[i], from = i * LEN_MAX + s->at[i];
        if (!n) continue;
        ops->put(s->k, s->q + rows * width_q(d), d->q + from * width_q(d),
                 (uint64_t)(n * width_q(d)) * 4);
        ops->put(s->k, s->key + rows * width_k(d), d->k + from * width_k(d),
                 (uint64_t)(n * width_k(d)) * 4);
        ops->put(s->k, s->value + rows * width_k(d), d->v + from * width_k(d),
                 (uint64_t)(n * width_k(d)) * 4);
        for (int j = 0; j < n; j++)
            pos[rows + j] = s->at[i] + j;
        runs[n_run++] = (struct attn_run){rows, n, s->at[i], s->tables + i * s->n_page};
        rows += n;
        s->at[i] += n;
    }
    const struct kernels_step told = {.pos = pos,
                                      .n_tok = rows,
                                      .runs = {runs},
                                      .n_run = {n_run},
                                      .n_list = 1,
                                      .page_tok = d->c->page_tok,
                                      .key = key};
    if (!ops->enter(s->k, &told)) {
        const struct attn_args a = {.q = s->q,
                                    .out = s->out,
                                    .n_head = d->c->n_head,
                                    .kv = s->kv,
                                    .runs = runs,
                                    .n_run = n_run,
                                    .scale = 0.3f,
                                    .window = d->c->window,
                                    .chunk = d->c->chunk,
                                    .sinks = s->sinks};
        ops->kv_store(s->k, &s->kv, runs, n_run, s->key, s->value);
        if (out) ops->attention(s->k, &a);
        ops->leave(s->k);
    }
    if (!out) return 0;
    ops->get(s->k, out, s->out, (uint64_t)(rows * width_q(d)) * 4);
    return rows * width_q(d);
}

enum { OUT_ROWS = N_DECODE * N_SEQ + N_TAIL * 2 };

// The keys stored, N_DECODE steps of a token each, and the next N_TAIL of the first and the third.
static float *outputs(bool cuda, const struct kernels_limits *l, const struct data *d)
{
    struct kernels *k = rig_open(cuda, l, l->precision);
    struct stand s = stand_of(k, d);
    float *out = calloc((size_t)(OUT_ROWS * width_q(d)), sizeof *out);
    if (!out) exit(2);
    for (int i = 0; i < N_SEQ; i++)
        while (s.at[i] < lengths[i]) {
            int n[N_SEQ] = {0};
            n[i] = lengths[i] - s.at[i] < MAX_TOK ? lengths[i] - s.at[i] : MAX_TOK;
            step(&s, d, n, 0, NULL);
        }
    int at = 0;
    for (int i = 0; i < N_DECODE; i++)
        at += step(&s, d, (const int[N_SEQ]){1, 1, 1, 1}, 9, out + at);
    at += step(&s, d, (const int[N_SEQ]){N_TAIL, 0, N_TAIL, 0}, 0, out + at);
    assert_int_equal(at, OUT_ROWS * width_q(d));
    rig_status(k);
    rig_give(k, s.q, MAX_TOK * width_q(d));
    rig_give(k, s.key, MAX_TOK * width_k(d));
    rig_give(k, s.value, MAX_TOK * width_k(d));
    rig_give(k, s.out, MAX_TOK * width_q(d));
    rig_give(k, s.sinks, d->c->n_head);
    k->ops->give(k, s.kv.data, (uint64_t)(N_SEQ * s.n_page * s.kv.page_bytes));
    k->ops->close(k);
    free(s.tables);
    return out;
}

static void test_long(void **state)
{
    (void)state;
    device_host_set_shared(99 << 10); // as sm_86 and sm_121 have
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct long_case *c = &cases[i];
        const int all = N_SEQ * LEN_MAX;
        struct data d = {c, rig_floats(all * c->n_head * c->hd), rig_floats(all * c->n_kv * c->hd),
                         rig_floats(all * c->n_kv * c->hd), rig_floats(c->n_head)};
        struct kernels_limits l = {.n_threads = 1,
                                   .precision = PRECISION_EXACT,
                                   .max_tok = MAX_TOK,
                                   .max_cols = 64,
                                   .max_rows = 64,
                                   .max_head = 8,
                                   .max_head_dim = 128,
                                   .max_ctx = 1024};
        const int n = OUT_ROWS * c->n_head * c->hd;
        char what[96];
        float *truth = outputs(false, &l, &d);
        // 0 exact, 1 fast, 2 fast but deterministic, each in another order of threads.
        for (int mode = 0; mode < 3; mode++) {
            l.precision = mode ? PRECISION_FAST : PRECISION_EXACT;
            l.deterministic = mode == 2;
            simt_set_order((enum simt_order)((i + (size_t)mode) % 3), 11);
            float *got = outputs(true, &l, &d);
            snprintf(what, sizeof what, "long %s page %d window %d chunk %d mode %d",
                     dtype_info(c->kv)->name, c->page_tok, c->window, c->chunk, mode);
            const double tolerance = c->kv == DT_F16 ? 3e-3 : c->kv == DT_BF16 ? 2e-2 : 8e-3;
            rig_expect(what, rig_error(truth, got, n),
                       mode == 0 || c->kv == DT_F32 ? 5e-6 : tolerance);
            free(got);
        }
        float *mine[] = {d.q, d.k, d.v, d.sinks, truth};
        for (size_t j = 0; j < sizeof mine / sizeof *mine; j++)
            free(mine[j]);
    }
    assert_int_equal(rig_failed, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_long)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
