// The gated delta rule over prompts: in chunks on the matrix units (fast) and token after token
// (exact, deterministic) against the reference on the CPU. Runs of every length in one call, and a
// second call that goes on with what the first one left.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/unit/cuda/rig.h"

enum { N_RUN = 4, N_SLOT = 6, MAX_TOK = 160 };

struct delta_case {
    int n_head_k, n_head_v, dim_k, dim_v;
    bool tiled;
    size_t shared; // of a block, as the device has it
};
static const struct delta_case cases[] = {
    {1, 2, 128, 128, false, 227 << 10}, {2, 2, 64, 40, false, 99 << 10},
    {2, 4, 96, 64, true, 99 << 10},     {3, 3, 20, 33, false, 99 << 10},
    {1, 1, 256, 32, false, 227 << 10},  {1, 1, 200, 24, false, 99 << 10}, // no room: in tokens
};

// Tokens of each run: of less than a chunk, of several with and without a rest, one.
static const int steps[][N_RUN] = {{32, 75, 1, 17}, {40, 2, 96, 3}};
static const uint32_t slots[N_RUN] = {4, 0, 5, 2};

static const struct kernels_limits limits = {.n_threads = 1,
                                             .max_tok = MAX_TOK,
                                             .max_cols = 64,
                                             .max_rows = 64,
                                             .max_head = 8,
                                             .max_head_dim = 256,
                                             .max_ctx = 512};

struct data {
    const struct delta_case *c;
    int ld, width, n_state; // floats of a row of q, k, v; of an output row; of a slot's state
    float *qkv, *a, *b, *a_neg, *dt_bias, *state;
};

static struct data data_of(const struct delta_case *c)
{
    struct data d = {.c = c, .width = c->n_head_v * c->dim_v};
    d.ld = 2 * c->n_head_k * c->dim_k + d.width + 3;
    d.n_state = d.width * c->dim_k;
    d.qkv = rig_floats(MAX_TOK * d.ld);
    d.a = rig_floats(MAX_TOK * c->n_head_v);
    d.b = rig_floats(MAX_TOK * c->n_head_v);
    d.a_neg = rig_floats(c->n_head_v);
    d.dt_bias = rig_floats(c->n_head_v);
    d.state = rig_floats(N_SLOT * d.n_state);
    for (int h = 0; h < c->n_head_v; h++)
        d.a_neg[h] = -expf(2 * d.a_neg[h]);                         // decays from slow to fast
    d.a[5] = 300;                                                   // forgets everything
    d.a[40] = -40;                                                  // forgets nothing
    d.b[9] = -100;                                                  // leaves no trace
    memset(d.qkv + 50 * d.ld, 0, (size_t)d.ld * 4);                 // no direction
    memcpy(d.qkv + 61 * d.ld, d.qkv + 60 * d.ld, (size_t)d.ld * 4); // the same again
    return d;
}

static void data_clear(struct data *d)
{
    float *all[] = {d->qkv, d->a, d->b, d->a_neg, d->dt_bias, d->state};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

struct result {
    float *out, *state; // (steps, MAX_TOK, width), (N_SLOT, n_state)
};

// Both calls on one backend. `apart`: each run in a call of its own, its tokens a few at a time.
static struct result result_of(bool cuda, const struct kernels_limits *l, const struct data *d,
                               bool apart)
{
    enum { N_STEP = sizeof steps / sizeof *steps };
    const struct delta_case *c = d->c;
    struct kernels *k = rig_open(cuda, l, l->precision);
    float *qkv = rig_put(k, d->qkv, MAX_TOK * d->ld), *a = rig_put(k, d->a, MAX_TOK * c->n_head_v);
    float *b = rig_put(k, d->b, MAX_TOK * c->n_head_v), *an = rig_put(k, d->a_neg, c->n_head_v);
    float *dt = rig_put(k, d->dt_bias, c->n_head_v);
    float *state = rig_put(k, d->state, N_SLOT * d->n_state);
    const uint64_t n_out = (uint64_t)(MAX_TOK * d->width) * 4;
    float *out = rig_take(k, n_out);
    struct result r = {calloc(N_STEP, n_out), calloc((size_t)(N_SLOT * d->n_state), 4)};
    if (!r.out || !r.state) exit(2);
    for (int i = 0; i < N_STEP; i++) {
        int32_t tok = 0;
        // Pages that nobody has the size of are not looked at.
        static const int32_t pages[MAX_TOK];
        struct attn_run runs[N_RUN];
        for (int j = 0; j < N_RUN; tok += steps[i][j++])
            runs[j] = (struct attn_run){tok, steps[i][j], 7 * i, pages};
        struct delta_args args = {.q = qkv,
                                  .k = qkv + c->n_head_k * c->dim_k,
                                  .v = qkv + 2 * c->n_head_k * c->dim_k,
                                  .ld = d->ld,
                                  .a = a,
                                  .b = b,
                                  .a_neg = an,
                                  .dt_bias = dt,
                                  .n_head_k = c->n_head_k,
                                  .n_head_v = c->n_head_v,
                                  .dim_k = c->dim_k,
                                  .dim_v = c->dim_v,
                                  .tiled = c->tiled,
                                  .runs = runs,
                                  .n_run = N_RUN,
                                  .slots = slots,
                                  .state = state,
                                  .state_ld = d->n_state,
                                  .out = out};
        if (!apart) k->ops->delta(k, &args);
        for (int j = 0; apart && j < N_RUN; j++)
            for (int at = 0; at < steps[i][j]; at += 21) {
                const int n = steps[i][j] - at < 21 ? steps[i][j] - at : 21;
                struct attn_run piece = {runs[j].tok_from + at, n, 7 * i + at, pages};
                args.runs = &piece;
                args.slots = &slots[j];
                args.n_run = 1;
                k->ops->delta(k, &args);
            }
        k->ops->get(k, r.out + i * MAX_TOK * d->width, out, n_out);
    }
    k->ops->get(k, r.state, state, (uint64_t)(N_SLOT * d->n_state) * 4);
    rig_status(k);
    rig_give(k, qkv, MAX_TOK * d->ld);
    rig_give(k, a, MAX_TOK * c->n_head_v);
    rig_give(k, b, MAX_TOK * c->n_head_v);
    rig_give(k, an, c->n_head_v);
    rig_give(k, dt, c->n_head_v);
    rig_give(k, state, N_SLOT * d->n_state);
    rig_give(k, out, MAX_TOK * d->width);
    k->ops->close(k);
    return r;
}

// TF32 has a last place of 2^-11. Keys have length 1, so a product with a column of the state is
// off by at most 2^-11 of the column's length, some units here; errors of many elements have either
// sign, so about a root of their number less.
static const double FAST = 2e-3, FLOAT = 2e-5;

static void expect(const char *what, const struct data *d, const struct result *truth,
                   const struct result *got, double allowed)
{
    char line[96];
    snprintf(line, sizeof line, "delta %d %d %s out", d->c->dim_k, d->c->dim_v, what);
    // Queries are a root of dim_k shorter.
    rig_expect(line, rig_error(truth->out, got->out, 2 * MAX_TOK * d->width), allowed / 4);
    snprintf(line, sizeof line, "delta %d %d %s state", d->c->dim_k, d->c->dim_v, what);
    rig_expect(line, rig_error(truth->state, got->state, N_SLOT * d->n_state), allowed);
}

static void result_clear(struct result *r)
{
    free(r->out);
    free(r->state);
}

static void test_delta(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct data d = data_of(&cases[i]);
        struct kernels_limits l = limits;
        device_host_set_shared(cases[i].shared);
        l.precision = PRECISION_EXACT;
        struct result truth = result_of(false, &l, &d, false);
        l.precision = PRECISION_FAST;
        struct result fast[2];
        for (int j = 0; j < 2; j++) {
            simt_set_order((enum simt_order)((i + (size_t)j) % 3), 7);
            fast[j] = result_of(true, &l, &d, false);
        }
        expect("fast", &d, &truth, &fast[0], FAST);
        rig_expect("delta, orders of threads",
                   memcmp(fast[0].out, fast[1].out, (size_t)(2 * MAX_TOK * d.width) * 4) ? 1 : 0,
                   0);
        // Token after token, the cuts of a prompt must not show.
        l.deterministic = i % 2 == 0;
        l.precision = i % 2 == 0 ? PRECISION_FAST : PRECISION_EXACT;
        struct result whole = result_of(true, &l, &d, false), cut = result_of(true, &l, &d, true);
        expect("serial", &d, &truth, &whole, FLOAT);
        const bool same = !memcmp(whole.out, cut.out, (size_t)(2 * MAX_TOK * d.width) * 4) &&
                          !memcmp(whole.state, cut.state, (size_t)(N_SLOT * d.n_state) * 4);
        rig_expect("delta, cuts", same ? 0 : 1, 0);
        struct result *mine[] = {&truth, &fast[0], &fast[1], &whole, &cut};
        for (size_t j = 0; j < sizeof mine / sizeof *mine; j++)
            result_clear(mine[j]);
        data_clear(&d);
    }
    assert_int_equal(rig_failed, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_delta)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
