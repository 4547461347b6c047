// What folders and GGUF files say of their vectors.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "coordinator/text/pooling.h"
#include "tests/unit/topology/folder_make.h"
#include "tests/unit/topology/gguf_make.h"
#include "topology/model.h"

// NULL: there is no such file.
static struct pooling_said of_folder(const char *modules, const char *config)
{
    struct folder f = folder_new(), inside;
    folder_path(&f, "1_Pooling", inside.path, sizeof inside.path);
    if (modules) folder_text(&f, "modules.json", modules);
    if (config) {
        assert_int_equal(mkdir(inside.path, 0700), 0);
        folder_text(&inside, "config.json", config);
    }
    const struct model m = {.text_dir = f.path};
    const struct pooling_said said = pooling_find(&m);
    if (config) folder_remove(&inside);
    folder_remove(&f);
    assert_true(!said.why == (said.kind != POOLING_NONE));
    return said;
}

static void folders(void **state)
{
    (void)state;
    static const struct {
        const char *modules, *config;
        enum pooling kind;
    } cases[] = {
        {NULL, NULL, POOLING_LAST},
        {"[]", NULL, POOLING_LAST},
        {NULL,
         "{\"word_embedding_dimension\":64,\"pooling_mode_cls_token\":false,"
         "\"pooling_mode_mean_tokens\":true,\"pooling_mode_max_tokens\":false}",
         POOLING_MEAN},
        {NULL, "{\"pooling_mode_cls_token\":true,\"pooling_mode_mean_tokens\":false}",
         POOLING_FIRST},
        {NULL, "{\"pooling_mode_lasttoken\":true,\"include_prompt\":true}", POOLING_LAST},
        {NULL, "{\"pooling_mode\":\"mean\"}", POOLING_MEAN},
        {NULL, "{\"pooling_mode_mean_tokens\":true,\"pooling_mode_max_tokens\":true}",
         POOLING_NONE},
        {NULL, "{\"pooling_mode_mean_tokens\":true,\"pooling_mode_cls_token\":true}", POOLING_NONE},
        {NULL, "{\"pooling_mode_weightedmean_tokens\":true}", POOLING_NONE},
        {NULL, "{\"pooling_mode\":\"max\"}", POOLING_NONE},
        {NULL, "{}", POOLING_NONE},
        {NULL, "[]", POOLING_NONE},
        {NULL, "{\"pooling_mode_mean_tokens\":", POOLING_NONE},
        {"{", NULL, POOLING_NONE},
        {"[{\"type\":\"sentence_transformers.models.Transformer\"},"
         "{\"type\":\"sentence_transformers.models.Pooling\",\"path\":\"1_Pooling\"},"
         "{\"type\":\"sentence_transformers.models.Normalize\"}]",
         "{\"pooling_mode_mean_tokens\":true}", POOLING_MEAN},
        {"[{\"type\":\"sentence_transformers.models.Transformer\"},"
         "{\"type\":\"sentence_transformers.models.Dense\"}]",
         "{\"pooling_mode_mean_tokens\":true}", POOLING_NONE},
        {"[{\"type\":7}]", NULL, POOLING_NONE},
        {"[7]", NULL, POOLING_NONE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const enum pooling kind = of_folder(cases[i].modules, cases[i].config).kind;
        if (kind != cases[i].kind) fail_msg("case %zu: %d", i, kind);
    }
}

static void ggufs(void **state)
{
    (void)state;
    static const enum pooling want[] = {POOLING_LAST, POOLING_MEAN, POOLING_FIRST, POOLING_LAST,
                                        POOLING_NONE};
    for (uint32_t type = 0; type < 6; type++) {
        struct buf b = {0};
        struct model m = {.shape = {.arch = "qwen3"}};
        struct err_text why = {0};
        char path[64];
        const bool has_key = type < 5;
        make_head(&b, 3, 0, 1 + has_key);
        make_str(&b, "general.architecture", "qwen3");
        if (has_key) make_u32(&b, "qwen3.pooling_type", type);
        make_pad(&b, 32);
        make_file(&b, path, sizeof path);
        if (gguf_open(path, &m.gguf, &why)) fail_msg("%s", why.s);
        const struct pooling_said said = pooling_find(&m);
        assert_int_equal(said.kind, has_key ? want[type] : POOLING_LAST);
        assert_true(!said.why == (said.kind != POOLING_NONE));
        gguf_close(m.gguf);
        unlink(path);
        buf_fini(&b);
    }
    const struct model made = {.path = "shape:x"};
    assert_int_equal(pooling_find(&made).kind, POOLING_LAST);
}

static void words(void **state)
{
    (void)state;
    assert_int_equal(pooling_named("mean"), POOLING_MEAN);
    assert_int_equal(pooling_named("cls"), POOLING_FIRST);
    assert_int_equal(pooling_named("last"), POOLING_LAST);
    assert_int_equal(pooling_named("lasttoken"), POOLING_NONE);
    assert_int_equal(pooling_named(""), POOLING_NONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(folders),
        cmocka_unit_test(ggufs),
        cmocka_unit_test(words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
