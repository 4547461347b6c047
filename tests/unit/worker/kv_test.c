// Pages of layers of every kind, and the page tables of sequences that see everything, a window, or
// a chunk.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "worker/kv.h"

#include <stdlib.h>
#include <string.h>

enum { PAGE_TOK = 16 };

// As backends do: bytes of keys and values, nothing of widths they do not have.
static uint64_t page_bytes(struct kernels *k, const struct kv_view *v)
{
    (void)k;
    if (v->head_dim % 8) return 0;
    const int64_t width = v->head_dim + (v->v_in_k ? 0 : v->head_dim_v);
    return (uint64_t)(v->page_tok * v->n_head_kv * width * (v->dtype == DT_F32 ? 4 : 2));
}

static err_t take(struct kernels *k, uint64_t bytes, const char *what, void **out,
                  struct err_text *why)
{
    (void)k;
    (void)what;
    (void)why;
    *out = calloc(1, bytes);
    return *out ? OK : ERR_MEMORY;
}

static void give(struct kernels *k, void *data, uint64_t bytes)
{
    (void)k;
    (void)bytes;
    free(data);
}

static const struct kernels_ops ops = {
    .name = "pretended", .take = take, .give = give, .kv_page_bytes = page_bytes};
static struct kernels kernels = {.ops = &ops};

struct rig {
    struct plan_settings settings;
    struct model_shape shape;
    struct kv_config config;
    struct kv kv;
    char work[1 << 16];
};

// Six layers: two that see everything, two local, one recurrent, one latent.
static void rig_init(struct rig *r)
{
    memset(r, 0, sizeof *r);
    r->settings = (struct plan_settings){.ctx = 256,
                                         .page_tok = PAGE_TOK,
                                         .n_page = 40,
                                         .n_page_local = 10,
                                         .n_slot = 3,
                                         .max_tok = 64,
                                         .max_rows = 3,
                                         .in_flight = 2,
                                         .kv_dtype = DT_F16};
    struct model_shape *s = &r->shape;
    s->n_layer = 6;
    s->n_head_kv = 2;
    s->head_dim = 32;
    s->window = 40;
    s->mla = (struct model_mla){.kv_rank = 64, .rope_dim = 16};
    s->layers[1].is_local = s->layers[2].is_local = true;
    s->layers[3].mixer = MIXER_DELTA;
    s->layers[4].mixer = MIXER_MLA;
    r->config = (struct kv_config){.settings = &r->settings,
                                   .shape = &r->shape,
                                   .layer_from = 0,
                                   .layer_to = 6,
                                   .kernels = &kernels};
}

static void rig_open(struct rig *r)
{
    struct mem_carver count = {0};
    kv_carve(&r->kv, &r->config, &count);
    assert_true(count.used <= sizeof r->work - 64);
    struct mem_carver carver = {.base = r->work + (64 - (uintptr_t)r->work % 64)};
    kv_carve(&r->kv, &r->config, &carver);
    assert_int_equal(carver.used, count.used);
    assert_int_equal(kv_open(&r->kv, &r->config, NULL), OK);
}

static void test_layers(void **state)
{
    (void)state;
    static struct rig r;
    rig_init(&r);
    r.config.mtp = true;
    uint64_t bytes;
    assert_int_equal(kv_bytes(&r.config, &bytes, NULL), OK);
    const uint64_t attn = PAGE_TOK * 2 * 64 * 2, mla = PAGE_TOK * 80 * 2;
    assert_int_equal(bytes, attn * (3 * 40 + 2 * 10) + mla * 40); // the head's layer too
    rig_open(&r);
    const uint64_t of[7] = {40 * attn, 10 * attn, 10 * attn, 0, 40 * mla, 40 * attn, 40 * attn};
    char *at = r.kv.pages.data;
    for (int32_t i = 0; i < 7; i++) {
        const struct kv_view *v = kv_layer(&r.kv, i);
        assert_int_equal(kv_is_local(&r.kv, i), i == 1 || i == 2);
        if (i == 3) {
            assert_null(v->data);
            continue;
        }
        assert_ptr_equal(v->data, at);
        assert_int_equal(v->page_tok, PAGE_TOK);
        assert_int_equal(v->dtype, DT_F16);
        assert_int_equal(v->page_bytes, i == 4 ? mla : attn);
        at += of[i];
    }
    const struct kv_view *latent = kv_layer(&r.kv, 4);
    assert_true(latent->v_in_k && latent->n_head_kv == 1);
    assert_int_equal(latent->head_dim, 80);
    assert_int_equal(latent->head_dim_v, 64);
    kv_close(&r.kv);

    // Part of the model; and what the kernels cannot hold.
    r.config.mtp = false;
    r.config.layer_from = 3;
    r.config.layer_to = 4;
    assert_int_equal(kv_bytes(&r.config, &bytes, NULL), OK);
    assert_int_equal(bytes, 0);
    rig_open(&r);
    kv_close(&r.kv);
    r.shape.head_dim = 30;
    assert_int_equal(kv_bytes(&r.config, &bytes, NULL), OK);
    r.config.layer_to = 6;
    struct err_text why;
    assert_int_equal(kv_bytes(&r.config, &bytes, &why), ERR_MODEL);
    assert_non_null(strstr(why.s, "2 heads of 30"));
}

static void test_one_pool_for_all(void **state)
{
    (void)state;
    static struct rig r;
    rig_init(&r);
    r.settings.n_page_local = 0;
    uint64_t bytes;
    assert_int_equal(kv_bytes(&r.config, &bytes, NULL), OK);
    assert_int_equal(bytes, PAGE_TOK * 40 * (4 * 2 * 64 * 2 + 80 * 2));
    rig_open(&r);
    assert_false(kv_is_local(&r.kv, 1));
    const uint32_t pages[] = {7, 3};
    struct step_row row = {.slot = 1, .n_tok = 20, .n_page = 2, .pages = pages};
    struct attn_run global, local;
    struct err_text why;
    kv_bind(&r.kv, 1);
    assert_int_equal(kv_check_row(&r.kv, &row, false, &why), OK);
    kv_extend(&r.kv, &row, 5, &global, &local);
    assert_ptr_equal(global.pages, local.pages);
    assert_true(local.tok_from == 5 && local.n_tok == 20 && local.pos_from == 0);
    assert_true(global.pages[0] == 7 && global.pages[1] == 3);
    row = (struct step_row){.slot = 1, .pos = 20, .n_tok = 1, .n_local = 1, .locals = pages};
    assert_int_equal(kv_check_row(&r.kv, &row, false, &why), ERR_LINK_PROTOCOL);
    kv_close(&r.kv);
}

static void test_window(void **state)
{
    (void)state;
    static struct rig r;
    rig_init(&r);
    rig_open(&r);
    const uint32_t pages[] = {0, 1, 2, 3, 4, 5, 6, 7}, locals[] = {9, 2, 4, 6};
    struct err_text why;
    struct attn_run global, local;
    // Begins at 96, after a prefix that is there already: sees from 57 on, page 3.
    struct step_row first = {.slot = 2,
                             .pos = 96,
                             .n_tok = 10,
                             .n_page = 7,
                             .pages = pages,
                             .local_from = 3,
                             .n_local = 4,
                             .locals = locals};
    struct step_row row;
#define REFUSED(text, ...)                                                                         \
    do {                                                                                           \
        why.s[0] = 0;                                                                              \
        __VA_ARGS__;                                                                               \
        assert_int_equal(kv_check_row(&r.kv, &row, fresh, &why), ERR_LINK_PROTOCOL);               \
        assert_non_null(strstr(why.s, text));                                                      \
        row = fresh ? first : next;                                                                \
    } while (0)
    struct step_row next = {
        .slot = 2, .pos = 106, .n_tok = 10, .page_from = 7, .n_page = 1, .pages = pages + 7};
    bool fresh = true;
    row = first;
    assert_int_equal(kv_check_row(&r.kv, &row, fresh, &why), OK);
    REFUSED("from entry 3", row.local_from = 4);
    REFUSED("local page 10 of 10", row.locals = (const uint32_t[]){9, 2, 4, 10});
    REFUSED("local pages end at 96", row.n_local = 3);
    REFUSED("sets local page entries", row.n_local = 17);
    REFUSED("sets local page entries", row.local_from = UINT32_MAX);
    REFUSED("pages end at 96", row.n_page = 6);
    kv_bind(&r.kv, 2);
    kv_extend(&r.kv, &first, 0, &global, &local);
    assert_ptr_not_equal(global.pages, local.pages);
    assert_int_equal(global.pages[6], 6);
    assert_memory_equal(local.pages + 3, ((const int32_t[]){9, 2, 4, 6}), 16);

    // 106 .. 111 are on what is there, the rest needs a page of each.
    fresh = false;
    row = next;
    REFUSED("local pages end at 112", (void)0);
    next.local_from = 7;
    next.n_local = 1;
    next.locals = locals;
    row = next;
    assert_int_equal(kv_check_row(&r.kv, &row, fresh, &why), OK);
    REFUSED("sets local page entries", row.local_from = 8);
    REFUSED("from entry", row.local_from = 2);
    REFUSED("expected 106", row.pos = 107);
    kv_extend(&r.kv, &next, 0, &global, &local);
    assert_int_equal(local.pages[7], 9);
    assert_int_equal(local.pages[6], 6);

    // A slot that is bound again begins anew.
    kv_bind(&r.kv, 2);
    row = (struct step_row){.slot = 2, .n_tok = 1, .n_page = 1, .pages = pages};
    assert_int_equal(kv_check_row(&r.kv, &row, false, &why), ERR_LINK_PROTOCOL);
    row.n_local = 1;
    row.locals = locals;
    assert_int_equal(kv_check_row(&r.kv, &row, false, &why), OK);
    kv_reset(&r.kv);
    assert_int_equal(kv_check_row(&r.kv, &row, false, &why), ERR_LINK_PROTOCOL);
    kv_close(&r.kv);
#undef REFUSED
}

static void test_chunk(void **state)
{
    (void)state;
    static struct rig r;
    rig_init(&r);
    r.shape.window = 0;
    r.shape.chunk = 96;
    rig_open(&r);
    const uint32_t pages[] = {0, 1, 2, 3, 4, 5, 6};
    struct step_row row = {.slot = 0,
                           .pos = 96, // the first of a chunk sees nothing before
                           .n_tok = 1,
                           .n_page = 7,
                           .pages = pages,
                           .local_from = 6,
                           .n_local = 1,
                           .locals = pages};
    struct err_text why;
    assert_int_equal(kv_check_row(&r.kv, &row, true, &why), OK);
    row.pos = 95; // the last sees all of it
    assert_int_equal(kv_check_row(&r.kv, &row, true, &why), ERR_LINK_PROTOCOL);
    row.local_from = 0;
    row.n_local = 7;
    assert_int_equal(kv_check_row(&r.kv, &row, true, &why), OK);
    kv_close(&r.kv);
}

static void test_settings(void **state)
{
    (void)state;
    static struct rig r;
    struct err_text why;
    rig_init(&r);
    assert_int_equal(kv_check_settings(&r.settings, &why), OK);
    r.settings.n_page_local = STEP_PAGES_MAX + 1;
    assert_int_equal(kv_check_settings(&r.settings, &why), ERR_CONFIG);
    assert_non_null(strstr(why.s, "n_page_local"));
    r.settings.n_page_local = 0;
    r.settings.n_snapshot = STEP_SNAPSHOTS_MAX + 1;
    assert_int_equal(kv_check_settings(&r.settings, &why), ERR_CONFIG);
    assert_non_null(strstr(why.s, "n_snapshot"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layers),   cmocka_unit_test(test_one_pool_for_all),
        cmocka_unit_test(test_window),   cmocka_unit_test(test_chunk),
        cmocka_unit_test(test_settings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
