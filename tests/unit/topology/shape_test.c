// shape:NAME: every name opens as a model of the size its release has; options; sentences.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/base/log.h"
#include "topology/shape.h"

#include <stdio.h>
#include <string.h>

static double gigabytes(const struct model *m)
{
    uint64_t bytes = 0;
    for (int32_t i = 0; i < m->n_weight; i++)
        if (m->weights[i].part != PART_MTP) bytes += m->weights[i].bytes;
    return (double)bytes / 1e9;
}

// Sizes of the releases' files: without vision towers and prediction layers, which are not loaded,
// and with what our memory layouts take more (FP8: a float for every 32).
static void every_name_opens(void **state)
{
    (void)state;
    static const struct {
        const char *name, *arch, *quant;
        int n_layer;
        double gb, tolerance;
    } shapes[] = {
        {"deepseek-v3", "deepseek_v3", "FP8", 61, 671 * 1.125, 15},
        {"gemma-3-27b", "gemma3", "BF16", 62, 54.0, 1},
        {"glm-4.5-air", "glm4_moe", "BF16", 46, 213, 5},
        {"gpt-oss-20b", "gpt_oss", "MXFP4", 24, 13.8, 0.2},
        {"gpt-oss-120b", "gpt_oss", "MXFP4", 36, 65.2, 0.5},
        {"llama-3.1-8b", "llama", "BF16", 32, 16.06, 0.1},
        {"llama-3.2-1b", "llama", "BF16", 16, 2.47, 0.02},
        {"llama-3.3-70b-int4", "llama", "int4", 80, 39.8 * 1.03, 2},
        {"minimax-m2", "minimax_m2", "FP8", 62, 230 * 1.125, 5},
        {"mistral-small-4-119b-nvfp4", "mistral4", "NVFP4", 36, 72, 3},
        {"mixtral-8x7b", "mixtral", "BF16", 32, 93.4, 0.2},
        {"qwen3-0.6b", "qwen3", "BF16", 28, 1.19, 0.05},
        {"qwen3-8b", "qwen3", "BF16", 36, 16.4, 0.1},
        {"qwen3-32b", "qwen3", "BF16", 64, 65.5, 0.3},
        {"qwen3-30b-a3b", "qwen3_moe", "BF16", 48, 61.1, 0.3},
        {"qwen3-next-80b-a3b", "qwen3_next", "BF16", 48, 159, 2},
        {"qwen3.6-35b-a3b", "qwen3_5_moe", "BF16", 40, 69.3, 1},
        {"qwen3.6-35b-a3b-int4", "qwen3_5_moe", "int4", 40, 20.5, 2},
        {"smollm2-135m", "llama", "BF16", 30, 0.269, 0.01},
    };
    struct err_text all = {{0}};
    struct model *m;
    assert_int_equal(model_open("shape:", &m, &all), ERR_MODEL);
    int n_name = 0;
    for (const char *p = strstr(all.s, "not one of "); *p; p++)
        n_name += *p == ' ';
    assert_int_equal(n_name, 2 + sizeof shapes / sizeof *shapes); // "not one of": three more blanks
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        char path[64];
        struct err_text why = {{0}};
        assert_non_null(strstr(all.s, shapes[i].name)); // the sentence for others lists it
        snprintf(path, sizeof path, "shape:%s", shapes[i].name);
        if (model_open(path, &m, &why)) fail_msg("%s", why.s);
        const double gb = gigabytes(m);
        if (gb < shapes[i].gb - shapes[i].tolerance || gb > shapes[i].gb + shapes[i].tolerance)
            fail_msg("%s: %.3f GB, expected %.3f", path, gb, shapes[i].gb);
        assert_string_equal(m->shape.arch, shapes[i].arch);
        assert_string_equal(m->quant, shapes[i].quant);
        assert_string_equal(m->path, path);
        assert_int_equal(m->shape.n_layer, shapes[i].n_layer);
        assert_int_equal(m->n_file, 0);
        for (int32_t k = 0; k < m->n_weight; k++)
            assert_int_equal(m->weights[k].kind, SOURCE_MADE);
        model_close(m);
    }
}

static void options(void **state)
{
    (void)state;
    struct model *a, *b, *c;
    struct err_text why = {{0}};
    if (model_open("shape:llama-3.1-8b@layers=2:Q4_K", &a, &why)) fail_msg("%s", why.s);
    if (model_open("shape:llama-3.1-8b:Q4_K@layers=2", &b, &why)) fail_msg("%s", why.s);
    if (model_open("shape:llama-3.1-8b@layers=32", &c, &why)) fail_msg("%s", why.s);
    assert_string_equal(a->path, "shape:llama-3.1-8b@layers=2:Q4_K");
    assert_string_equal(a->path, b->path);
    assert_string_equal(a->quant, "Q4_K");
    assert_string_equal(c->path, "shape:llama-3.1-8b");
    assert_memory_equal(a->hash, b->hash, 32);
    assert_memory_not_equal(a->hash, c->hash, 32);
    assert_int_equal(a->shape.n_layer, 2);
    for (int32_t i = 0; i < a->n_weight; i++)
        assert_int_equal(a->weights[i].dtype, a->weights[i].is_matrix ? DT_Q4_K : DT_F32);
    model_close(a);
    model_close(b);
    model_close(c);
    // routers stay as they are
    if (model_open("shape:qwen3-30b-a3b@layers=1:Q6_K", &a, &why)) fail_msg("%s", why.s);
    assert_int_equal(model_weight_find(a, 0, SLOT_MOE_ROUTER)->dtype, DT_BF16);
    assert_int_equal(model_weight_find(a, 0, SLOT_MOE_DOWN)->dtype, DT_Q6_K);
    model_close(a);
    // latent attention in any type
    if (model_open("shape:deepseek-v3@layers=4:Q4_K", &a, &why)) fail_msg("%s", why.s);
    assert_int_equal(model_weight_find(a, 3, SLOT_MOE_GATE)->dtype, DT_Q4_K);
    assert_int_equal(model_weight_find(a, 3, SLOT_MLA_K_B)->dtype, DT_BF16);
    model_close(a);
}

static void refused(void **state)
{
    (void)state;
    static const struct {
        const char *path, *needle;
    } cases[] = {
        {"shape:", "not one of deepseek-v3"},
        {"shape:gpt-oss", "not one of"},
        {"shape:GPT-OSS-20B", "not one of"},
        {"shape:gpt-oss-20b@", "allowed @layers=1 to @layers=24"},
        {"shape:gpt-oss-20b@layers", "allowed @layers=1"},
        {"shape:gpt-oss-20b@layers=", "allowed @layers=1"},
        {"shape:gpt-oss-20b@layers=0", "allowed @layers=1"},
        {"shape:gpt-oss-20b@layers=-1", "allowed @layers=1"},
        {"shape:gpt-oss-20b@layers=25", "allowed @layers=1"},
        {"shape:gpt-oss-20b@layers=99999999999999999999", "allowed @layers=1"},
        {"shape:gpt-oss-20b@layers=4x", "allowed @layers=1"},
        {"shape:gpt-oss-20b@layers= 4", "allowed @layers=1"},
        {"shape:gpt-oss-20b@layers=4@layers=4", "'@' is there twice"},
        {"shape:gpt-oss-20b:Q8_0:Q8_0", "':' is there twice"},
        {"shape:gpt-oss-20b:", "type '', allowed F32"},
        {"shape:gpt-oss-20b:q8_0", "type 'q8_0', allowed F32"},
        {"shape:gpt-oss-20b:I32", "type 'I32', allowed F32"},
        {"shape:gpt-oss-20b:none", "type 'none', allowed F32"},
        {"shape:smollm2-135m:Q4_K", "allowed with Q4_K: multiples of 256"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model *m = NULL;
        struct err_text why = {{0}};
        err_t e = model_open(cases[i].path, &m, &why);
        if (e != ERR_MODEL || !strstr(why.s, cases[i].needle))
            fail_msg("%s: error %d, '%s'", cases[i].path, e, why.s);
        assert_null(m);
    }
}

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_name_opens),
        cmocka_unit_test(options),
        cmocka_unit_test(refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
