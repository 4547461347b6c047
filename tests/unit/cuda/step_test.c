// Memory, the lists of a step and recorded steps of the CUDA backend, run on the host.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "kernels/cuda/host.h"
#include "kernels/cuda/module.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const struct kernels_module kernels_cuda_module;

enum { TOK = 8, HALF = 4, CHANNELS = 6, SLOTS = 16, PAGE_TOK = 16 };

static const struct kernels_limits limits = {.n_threads = 1,
                                             .max_tok = 32,
                                             .max_cols = 64,
                                             .max_rows = 100,
                                             .max_head = 4,
                                             .max_head_dim = 64,
                                             .max_ctx = 256};
static const struct rope turn = {
    .kind = ROPE_NEOX, .n_rot = 2 * HALF, .theta = 100, .freq_scale = 1, .attn_factor = 1};

// What a step needs, on either backend.
struct rig {
    struct kernels *k;
    float *table, *x, *w, *state, *out; // the backend's memory
};

static void *take(struct kernels *k, uint64_t n)
{
    void *p;
    assert_int_equal(k->ops->take(k, n * sizeof(float), "a test", &p, NULL), OK);
    return p;
}

static void open_rig(struct rig *r, struct kernels *k)
{
    float w[CHANNELS * 2], x[TOK * CHANNELS];
    for (int i = 0; i < CHANNELS * 2; i++)
        w[i] = (float)(i + 1) / 8;
    for (int i = 0; i < TOK * CHANNELS; i++)
        x[i] = (float)(i % 7) - 2;
    *r = (struct rig){k,
                      take(k, TOK * HALF * 2),
                      take(k, TOK * CHANNELS),
                      take(k, CHANNELS * 2),
                      take(k, SLOTS * CHANNELS),
                      take(k, TOK * CHANNELS)};
    k->ops->put(k, r->w, w, sizeof w);
    k->ops->put(k, r->x, x, sizeof x);
}

static void close_rig(struct rig *r)
{
    struct err_text why = {""};
    if (r->k->ops->status(r->k, &why)) fail_msg("%s", why.s);
    float *all[] = {r->table, r->x, r->w, r->state, r->out};
    for (int i = 0; i < 5; i++)
        r->k->ops->give(r->k, all[i], 0);
    r->k->ops->close(r->k);
}

struct lists {
    int32_t pos[TOK], pages[TOK][32], n_tok;
    uint32_t slots[TOK];
    struct attn_run runs[TOK];
};

// Runs of one token each; every step other positions, slots and lengths.
static void fill_lists(struct lists *l, int32_t n_tok, int number)
{
    l->n_tok = n_tok;
    for (int32_t i = 0; i < n_tok; i++) {
        l->pos[i] = 10 * number + 3 * i;
        l->slots[i] = (uint32_t)((5 * i + number) % SLOTS);
        l->runs[i] = (struct attn_run){i, 1, l->pos[i], l->pages[i]};
    }
}

// Whether the step was a repetition.
static bool run_step(struct rig *r, const struct lists *l, uint64_t key, bool looks)
{
    const struct kernels_ops *op = r->k->ops;
    const struct kernels_step s = {.pos = l->pos,
                                   .n_tok = l->n_tok,
                                   .runs = {l->runs},
                                   .slots = {l->slots},
                                   .n_run = {l->n_tok},
                                   .n_list = 1,
                                   .page_tok = PAGE_TOK,
                                   .key = key};
    const struct conv_args c = {.x = r->x,
                                .w = r->w,
                                .n_channel = CHANNELS,
                                .n_tap = 2,
                                .runs = l->runs,
                                .n_run = l->n_tok,
                                .slots = l->slots,
                                .state = r->state,
                                .state_ld = CHANNELS,
                                .out = r->out};
    const bool again = op->enter(r->k, &s);
    if (!again) {
        float seen;
        op->rope_table(r->k, &turn, l->pos, l->n_tok, r->table);
        if (looks) op->get(r->k, &seen, r->table, sizeof seen);
        op->conv(r->k, &c);
        op->add(r->k, r->x, r->out, (int64_t)l->n_tok * CHANNELS);
    }
    op->leave(r->k);
    return again;
}

static void same(struct rig *a, struct rig *b, const char *what)
{
    float x[SLOTS * CHANNELS], y[SLOTS * CHANNELS];
    float *const from[2][3] = {{a->table, a->state, a->x}, {b->table, b->state, b->x}};
    const size_t n[3] = {TOK * HALF * 2, SLOTS * CHANNELS, TOK * CHANNELS};
    for (int i = 0; i < 3; i++) {
        a->k->ops->get(a->k, x, from[0][i], n[i] * sizeof *x);
        b->k->ops->get(b->k, y, from[1][i], n[i] * sizeof *y);
        for (size_t j = 0; j < n[i]; j++)
            if (!(fabsf(x[j] - y[j]) <= 1e-5f * (1 + fabsf(y[j]))))
                fail_msg("%s: array %d, element %d: %g, not %g", what, i, (int)j, (double)x[j],
                         (double)y[j]);
    }
}

static void open_both(struct rig *gpu, struct rig *cpu)
{
    struct kernels *k;
    assert_int_equal(kernels_cuda_module.open(0, &limits, &k, NULL), OK);
    open_rig(gpu, k);
    assert_int_equal(kernels_open_cpu("reference", &limits, &k, NULL), OK);
    open_rig(cpu, k);
}

static void test_recorded_steps(void **state)
{
    (void)state;
    struct rig gpu, cpu;
    open_both(&gpu, &cpu);
    // Numbers of rows, and whether the step is one that was recorded before.
    static const struct {
        int32_t n_tok;
        uint64_t key;
        bool looks, again;
    } steps[] = {
        {5, 5, false, false}, {5, 5, false, false}, {5, 5, false, true}, {3, 0, false, false},
        {8, 8, false, false}, {8, 8, false, false}, {5, 5, false, true}, {8, 8, false, true},
        {4, 5, false, false}, {4, 5, false, true},  {2, 2, true, false}, {2, 2, true, false},
        {2, 2, true, false},  {5, 5, false, false}, {5, 5, false, true}, {8, 8, false, true},
    };
    static struct lists l; // the same addresses in each step
    for (int i = 0; i < (int)(sizeof steps / sizeof *steps); i++) {
        char what[16];
        fill_lists(&l, steps[i].n_tok, i);
        const bool again = run_step(&gpu, &l, steps[i].key, steps[i].looks);
        // The step is given to the device: what comes next on the host is not seen by it.
        run_step(&cpu, &l, steps[i].key, steps[i].looks);
        memset(&l, 0x5a, sizeof l);
        snprintf(what, sizeof what, "step %d", i);
        same(&gpu, &cpu, what);
        if (again != steps[i].again) fail_msg("%s: %d", what, again);
    }
    close_rig(&gpu);
    close_rig(&cpu);
}

// Longer tables than there was room for: the lists move, and what was recorded is forgotten.
static void test_long_lists(void **state)
{
    (void)state;
    struct rig gpu, cpu;
    open_both(&gpu, &cpu);
    static struct lists l;
    int32_t *pages = calloc(1 << 16, sizeof *pages);
    assert_non_null(pages);
    for (int i = 0; i < 6; i++) {
        fill_lists(&l, 3, i);
        l.runs[1].pages = i >= 3 ? pages : l.runs[1].pages;
        l.runs[1].pos_from = i >= 3 ? (1 << 20) - 2 : l.runs[1].pos_from;
        const bool again = run_step(&gpu, &l, 3, false);
        run_step(&cpu, &l, 3, false);
        same(&gpu, &cpu, "long");
        assert_int_equal(again, i == 2 || i == 5);
    }
    free(pages);
    close_rig(&gpu);
    close_rig(&cpu);
}

static void test_memory(void **state)
{
    (void)state;
    struct kernels *k, *other;
    struct err_text why = {""};
    assert_int_equal(kernels_cuda_module.open(0, &limits, &k, NULL), OK);
    const uint64_t n =
        (9u << 20) / sizeof(uint32_t); // more than goes through pinned memory at once
    uint32_t *host = malloc(n * sizeof *host), *dev = take(k, n);
    assert_non_null(host);
    k->ops->get(k, host, dev, n * sizeof *host);
    for (uint64_t i = 0; i < n; i++)
        assert_int_equal(host[i], 0);
    for (uint64_t i = 0; i < n; i++)
        host[i] = (uint32_t)i * 2654435761u;
    k->ops->put(k, dev, host, n * sizeof *host);
    memset(host, 0, n * sizeof *host); // put has taken it
    // Memory outlives the backend that took it.
    assert_int_equal(kernels_cuda_module.open(0, &limits, &other, NULL), OK);
    k->ops->close(k);
    other->ops->get(other, host, dev, n * sizeof *host);
    for (uint64_t i = 0; i < n; i++)
        assert_int_equal(host[i], (uint32_t)i * 2654435761u);
    other->ops->give(other, dev, n * sizeof *host);
    assert_int_equal(other->ops->status(other, &why), OK);
    // Host memory is not the device's.
    other->ops->scale(other, (float *)host, 2, 4);
    assert_int_equal(other->ops->status(other, &why), ERR_DEVICE);
    assert_non_null(strstr(why.s, "host memory"));
    other->ops->close(other);
    free(host);
}

static void test_opening(void **state)
{
    (void)state;
    struct kernels *k = NULL;
    struct err_text why;
    struct kernels_limits l = limits;
    int32_t n;
    struct device_info about;
    assert_int_equal(kernels_cuda_module.count(&n, &why), OK);
    assert_int_equal(kernels_cuda_module.about(0, &about, &why), OK);
    assert_true(n == 1 && about.memory > about.memory_free && about.shared_block_bytes > 0);
    assert_int_equal(kernels_cuda_module.open(n, &limits, &k, &why), ERR_UNSUPPORTED);
    l.max_cols = 0;
    assert_int_equal(kernels_cuda_module.open(0, &l, &k, &why), ERR_CONFIG);
    assert_null(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recorded_steps),
        cmocka_unit_test(test_long_lists),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_opening),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
