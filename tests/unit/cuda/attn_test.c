// Attention and its pages on a device against the reference on the CPU: three sequences in steps of
// mixed lengths, first in chunks, then token by token as recorded steps.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/unit/cuda/rig.h"
#include "tests/unit/soon.h"

enum { N_SEQ = 3, MAX_TOK = 96, MAX_LEN = 96, MAX_PAGES = 16 };

struct attn_case {
    enum dtype kv;
    int n_head, n_kv, group, head_from, hd, hd_v, page_tok, window, chunk;
    float softcap;
    bool v_in_k, sinks;
};

// type, heads, KV heads, group, first, dim of keys, of values, page, window, chunk, cap, in keys,
// sinks
static const struct attn_case cases[] = {
    {DT_F16, 6, 2, 0, 0, 64, 64, 16, 0, 0, 0, false, false},
    {DT_F32, 4, 2, 0, 0, 16, 16, 32, 0, 0, 0, false, false},
    {DT_F16, 5, 3, 3, 2, 128, 128, 64, 0, 0, 0, false, true},
    {DT_F16, 2, 1, 0, 0, 256, 256, 64, 50, 0, 0, false, false},
    {DT_F16, 4, 4, 0, 0, 20, 20, 16, 0, 0, 30.0f, false, false},
    {DT_F32, 5, 1, 0, 0, 36, 36, 256, 33, 0, 0, false, true},
    {DT_F16, 3, 1, 0, 0, 24, 24, 16, 8, 0, 0, false, true},
    {DT_F16, 20, 1, 0, 0, 96, 24, 128, 0, 64, 5.0f, false, false},
    {DT_F16, 2, 2, 0, 0, 80, 80, 32, 0, 0, 0, false, false},
    {DT_F32, 2, 1, 0, 0, 192, 128, 16, 30, 64, 0, false, true},
    {DT_F16, 2, 1, 0, 0, 192, 128, 16, 0, 0, 0, false, true},
    {DT_F16, 4, 1, 0, 0, 40, 32, 32, 0, 0, 0, true, false},
    {DT_F32, 6, 2, 0, 0, 28, 21, 16, 77, 0, 0, true, true},
    {DT_F16, 2, 1, 0, 0, 576, 512, 64, 0, 0, 0, true, false},
    {DT_F16, 17, 1, 0, 0, 560, 500, 64, 40, 0, 0, true, true},
    {DT_BF16, 6, 2, 0, 0, 64, 64, 16, 0, 0, 0, false, true},
    {DT_BF16, 3, 1, 0, 0, 100, 70, 32, 0, 64, 5.0f, false, false},
    {DT_BF16, 2, 1, 0, 0, 560, 512, 64, 0, 0, 0, true, false},
    {DT_Q8_0, 4, 2, 0, 0, 64, 64, 16, 0, 0, 0, false, false},
    {DT_Q8_0, 5, 3, 3, 2, 100, 36, 32, 33, 0, 5.0f, false, true},
    {DT_Q8_0, 2, 1, 0, 0, 130, 130, 64, 0, 0, 0, false, false},
    {DT_Q8_0, 6, 1, 0, 0, 40, 33, 16, 0, 0, 0, true, false},
    {DT_Q8_0, 17, 1, 0, 0, 576, 512, 64, 0, 0, 0, true, false},
    {DT_F8_E4M3, 6, 2, 0, 0, 64, 64, 16, 0, 0, 0, false, true},
    {DT_F8_E4M3, 20, 1, 0, 0, 128, 90, 128, 20, 0, 0, false, false},
    {DT_F8_E4M3, 3, 1, 0, 0, 20, 20, 256, 0, 50, 0, false, false},
    {DT_F8_E4M3, 2, 1, 0, 0, 576, 512, 16, 0, 0, 0, true, true},
};

// What the matrix units make of a difference, against float products with the same pages. Queries
// and weights have the precision of the pages' floats; what is kept in 8 bits is rounded once more,
// to halves, with its scale.
static double allowed(enum dtype t)
{
    return t == DT_F32 ? 5e-6 : t == DT_F16 ? 3e-3 : t == DT_BF16 ? 2e-2 : 6e-3;
}

// Tokens of each sequence in each step. Steps of one token of each are recorded.
static const int mixed[][N_SEQ] = {{70, 17, 0}, {1, 1, 12}, {1, 1, 1}, {3, 1, 0},
                                   {1, 1, 1},   {1, 1, 1},  {1, 1, 1}, {12, 5, 4}};
static const int whole[][N_SEQ] = {{90, 0, 0}, {0, 28, 20}};
static const int lengths[N_SEQ] = {90, 28, 20};

struct data {
    const struct attn_case *c;
    float *q, *k, *v, *sinks; // (N_SEQ, MAX_LEN, heads, dim)
};

static const struct kernels_limits limits = {.n_threads = 1,
                                             .max_tok = MAX_TOK,
                                             .max_cols = 64,
                                             .max_rows = 64,
                                             .max_head = 32,
                                             .max_head_dim = 576,
                                             .max_ctx = 512};

struct stand { // one backend's memory and lists
    struct kernels *k;
    struct kv_view kv;
    float *q, *key, *value, *sinks, *out;
    uint64_t pages_bytes;
    int32_t tables[N_SEQ][MAX_PAGES];
    int at[N_SEQ];
};

static struct stand stand_of(struct kernels *k, const struct data *d)
{
    const struct attn_case *c = d->c;
    struct stand s = {.k = k,
                      .kv = {.page_tok = c->page_tok,
                             .n_head_kv = c->n_kv,
                             .head_dim = c->hd,
                             .head_dim_v = c->hd_v,
                             .v_in_k = c->v_in_k,
                             .dtype = c->kv}};
    s.kv.page_bytes = (int64_t)k->ops->kv_page_bytes(k, &s.kv);
    assert_true(s.kv.page_bytes > 0);
    const int n_page = N_SEQ * MAX_PAGES;
    s.pages_bytes = (uint64_t)(n_page * s.kv.page_bytes);
    s.kv.data = rig_take(k, s.pages_bytes);
    void *poison = malloc(s.pages_bytes); // what was never stored is NaN
    if (!poison) exit(2);
    memset(poison, 0xff, s.pages_bytes);
    k->ops->put(k, s.kv.data, poison, s.pages_bytes);
    free(poison);
    for (int i = 0; i < n_page; i++)
        s.tables[i % N_SEQ][i / N_SEQ] = (i * 37 + 11) % n_page;
    s.q = rig_take(k, (uint64_t)(MAX_TOK * c->n_head * c->hd) * 4);
    s.key = rig_take(k, (uint64_t)(MAX_TOK * c->n_kv * c->hd) * 4);
    s.value = rig_take(k, (uint64_t)(MAX_TOK * c->n_kv * c->hd_v) * 4);
    s.out = rig_take(k, (uint64_t)(MAX_TOK * c->n_head * c->hd_v) * 4);
    s.sinks = c->sinks ? rig_put(k, d->sinks, c->n_head) : NULL;
    return s;
}

static void stand_clear(struct stand *s, const struct attn_case *c)
{
    rig_give(s->k, s->q, MAX_TOK * c->n_head * c->hd);
    rig_give(s->k, s->key, MAX_TOK * c->n_kv * c->hd);
    rig_give(s->k, s->value, MAX_TOK * c->n_kv * c->hd_v);
    rig_give(s->k, s->out, MAX_TOK * c->n_head * c->hd_v);
    rig_give(s->k, s->sinks, c->n_head);
    s->k->ops->give(s->k, s->kv.data, s->pages_bytes);
}

static void put_rows(struct stand *s, float *to, int row, const float *from, int seq, int n,
                     int width)
{
    s->k->ops->put(s->k, to + row * width, from + (seq * MAX_LEN + s->at[seq]) * width,
                   (uint64_t)(n * width) * 4);
}

// One step; outputs into out (N_SEQ, MAX_LEN, heads, hd_v).
static void step(struct stand *s, const struct data *d, const int n_tok[N_SEQ], bool told,
                 float *out)
{
    const struct attn_case *c = d->c;
    const struct kernels_ops *ops = s->k->ops;
    struct attn_run runs[N_SEQ];
    int32_t pos[MAX_TOK], seq_of[N_SEQ];
    int n_run = 0, rows = 0;
    bool ones = true;
    for (int i = 0; i < N_SEQ; i++) {
        const int n = n_tok[i];
        ones = ones && n == 1;
        if (!n) continue;
        put_rows(s, s->q, rows, d->q, i, n, c->n_head * c->hd);
        put_rows(s, s->key, rows, d->k, i, n, c->n_kv * c->hd);
        put_rows(s, s->value, rows, d->v, i, n, c->n_kv * c->hd_v);
        for (int j = 0; j < n; j++)
            pos[rows + j] = s->at[i] + j;
        seq_of[n_run] = i;
        runs[n_run++] = (struct attn_run){rows, n, s->at[i], s->tables[i]};
        rows += n;
    }
    const struct kernels_step told_step = {.pos = pos,
                                           .n_tok = rows,
                                           .runs = {runs},
                                           .n_run = {n_run},
                                           .n_list = 1,
                                           .page_tok = c->page_tok,
                                           .key = ones ? 7 : 0};
    if (!told || !ops->enter(s->k, &told_step)) {
        const struct attn_args a = {.q = s->q,
                                    .out = s->out,
                                    .n_head = c->n_head,
                                    .group = c->group,
                                    .head_from = c->head_from,
                                    .kv = s->kv,
                                    .runs = runs,
                                    .n_run = n_run,
                                    .scale = (float)(1 / sqrt(c->hd)),
                                    .softcap = c->softcap,
                                    .window = c->window,
                                    .chunk = c->chunk,
                                    .sinks = s->sinks};
        ops->kv_store(s->k, &s->kv, runs, n_run, s->key, c->v_in_k ? NULL : s->value);
        ops->attention(s->k, &a);
        if (told) ops->leave(s->k);
    }
    const int width = c->n_head * c->hd_v;
    for (int i = 0; i < n_run; i++) {
        const int seq = seq_of[i];
        ops->get(s->k, out + (seq * MAX_LEN + s->at[seq]) * width,
                 s->out + runs[i].tok_from * width, (uint64_t)(runs[i].n_tok * width) * 4);
        s->at[seq] += runs[i].n_tok;
    }
}

enum mode { FAST, SAME, EXACT }; // SAME: fast but deterministic

// All steps of a plan; the outputs of all sequences one after another, which the caller frees.
static float *outputs(bool cuda, enum mode mode, const struct data *d, const int (*plan)[N_SEQ],
                      int n_step, bool told)
{
    const int width = d->c->n_head * d->c->hd_v;
    struct kernels_limits l = limits;
    l.deterministic = mode == SAME;
    struct kernels *k = rig_open(cuda, &l, mode == EXACT ? PRECISION_EXACT : PRECISION_FAST);
    struct stand s = stand_of(k, d);
    float *out = calloc((size_t)(N_SEQ * MAX_LEN * width), sizeof *out);
    if (!out) exit(2);
    for (int i = 0; i < n_step; i++)
        step(&s, d, plan[i], told, out);
    int n = 0;
    for (int i = 0; i < N_SEQ; n += lengths[i++]) {
        assert_int_equal(s.at[i], lengths[i]);
        memmove(out + n * width, out + i * MAX_LEN * width, (size_t)(lengths[i] * width) * 4);
    }
    rig_status(k);
    stand_clear(&s, d->c);
    k->ops->close(k);
    return out;
}

static void check_case(const struct attn_case *c)
{
    const int all = N_SEQ * MAX_LEN,
              n = (lengths[0] + lengths[1] + lengths[2]) * c->n_head * c->hd_v;
    struct data d = {c, rig_floats(all * c->n_head * c->hd), rig_floats(all * c->n_kv * c->hd),
                     rig_floats(all * c->n_kv * c->hd_v), rig_floats(c->n_head)};
    enum { N_MIXED = sizeof mixed / sizeof *mixed, N_WHOLE = sizeof whole / sizeof *whole };
    char what[96];
    const int len =
        snprintf(what, sizeof what, "%s hd %d %d page %d window %d chunk %d ",
                 dtype_info(c->kv)->name, c->hd, c->hd_v, c->page_tok, c->window, c->chunk);
    // The order in which a block's threads run must not matter.
    const int i = (int)(c - cases);
    float *truth = outputs(false, EXACT, &d, whole, N_WHOLE, false);
    simt_set_order((enum simt_order)(i % 3), 7);
    float *got = outputs(true, FAST, &d, mixed, N_MIXED, true);
    snprintf(what + len, sizeof what - (size_t)len, "fast");
    rig_expect(what, rig_error(truth, got, n), allowed(c->kv));
    if (c->kv != DT_F32 && i % 5 == 0) {
        // Not the same tokens together, and still the same bits.
        float *same[2] = {outputs(true, SAME, &d, mixed, N_MIXED, true),
                          outputs(true, SAME, &d, whole, N_WHOLE, false)};
        snprintf(what + len, sizeof what - (size_t)len, "deterministic");
        rig_expect(what, memcmp(same[0], same[1], (size_t)n * 4) ? 1 : 0, 0);
        rig_expect(what, rig_error(truth, same[0], n), allowed(c->kv));
        free(same[0]);
        free(same[1]);
    }
    if (c->n_head * c->hd < 2000 && (SOON_ROOM <= 4 || i % 4 == 0)) { // else it would take long
        simt_set_order((enum simt_order)((i + 1) % 3), 5);
        float *exact = outputs(true, EXACT, &d, mixed, N_MIXED, true);
        snprintf(what + len, sizeof what - (size_t)len, "exact");
        rig_expect(what, rig_error(truth, exact, n), 5e-6);
        if (i % 4 == 0) {
            free(got);
            simt_set_order((enum simt_order)((i + 2) % 3), 3);
            got = outputs(true, EXACT, &d, whole, N_WHOLE, false);
            snprintf(what + len, sizeof what - (size_t)len, "chunks");
            rig_expect(what, memcmp(exact, got, (size_t)n * 4) ? 1 : 0, 0);
        }
        free(exact);
    }
    float *mine[] = {d.q, d.k, d.v, d.sinks, truth, got};
    for (size_t j = 0; j < sizeof mine / sizeof *mine; j++)
        free(mine[j]);
}

static void test_attention(void **state)
{
    (void)state;
    device_host_set_shared(227 << 10); // as sm_90 has: all kernels
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_case(&cases[i]);
    assert_int_equal(rig_failed, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_attention)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
