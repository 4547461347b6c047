// quantization_config: which tensors make a matrix and how, for every quantiser's layout;
// per-module rules; patterns; and what contradicts is refused with one sentence (M11).
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/base/log.h"
#include "tests/unit/soon.h"
#include "tests/unit/topology/folder_make.h"
#include "topology/pattern.h"
#include "topology/quant.h"

// ---- patterns

static void patterns_match_as_in_python(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *text;
        bool at_start, anywhere; // what re.match and re.search find
    } cases[] = {
        {"", "", true, true},
        {"abc", "abcd", true, true},
        {"bc", "abcd", false, true},
        {"a.c", "abc", true, true},
        {"a.c", "a\nc", false, false},
        {".*mlp\\.gate$", "model.layers.0.mlp.gate", true, true},
        {".*mlp\\.gate$", "model.layers.0.mlp.gate_proj", false, false},
        {"(q|k|v)_proj", "self_attn.k_proj", false, true},
        {"model\\.layers\\.(0|1|2)\\..*", "model.layers.2.x", true, true},
        {"model\\.layers\\.(0|1|2)\\..*", "model.layers.20.x", false, false},
        {".*\\.layers\\.\\d+\\.mlp", "model.layers.123.mlp.x", true, true},
        {".*\\.layers\\.\\d+\\.mlp", "model.layers.x.mlp.x", false, false},
        {"^lm_head$", "lm_head", true, true},
        {"^lm_head$", "lm_head2", false, false},
        {"[^.]*\\.x", "abc.x", true, true},
        {"[a-c]+x", "abcabcx", true, true},
        {"[a-c]+x", "abdx", false, false},
        {"[]x]+$", "]x]", true, true},
        {"[\\d_-]{2,3}$", "1_-", true, true},
        {"[\\d_-]{2,3}$", "1_-2", false, true},
        {"a{2}b", "aab", true, true},
        {"a{2}b", "ab", false, false},
        {"a{2,}b", "aaaab", true, true},
        {"a{,2}b", "aab", true, true},
        {"a{,2}b$", "aaab", false, true},
        {"a{x", "a{x", true, true},
        {"(ab){1,2}c", "ababc", true, true},
        {"(a?){3}b", "b", true, true},
        {"(a*)*b", "aaaaac", false, false},
        {"x*?y", "xxy", true, true},
        {"(?:a|bc)d", "bcd", true, true},
        {"^(?!.*vision).*proj", "model.q_proj", true, true},
        {"^(?!.*vision).*proj", "vision.q_proj", false, false},
        {"(?=model).*x", "modelx", true, true},
        {"(?=model).*x", "x", false, false},
        {"a\\b.b", "a.b", true, true},
        {"a\\bb", "ab", false, false},
        {"\\w+\\.\\w+", "ab.cd", true, true},
        {"\\S\\s\\D\\W", "a b.", true, true},
        {"a||b", "", true, true},
        {"\\Aab\\Z", "ab", true, true},
        {"(((((((((((a)))))))))))", "a", true, true},
    };
    for (size_t i = 0; i < 2 * sizeof cases / sizeof *cases; i++) {
        const bool anywhere = i & 1,
                   expect = anywhere ? cases[i / 2].anywhere : cases[i / 2].at_start;
        struct arena a;
        struct pattern *p;
        struct err_text why = {{0}};
        uint64_t budget = 100000;
        arena_init(&a, 0);
        if (pattern_compile(cases[i / 2].pattern, anywhere, &a, &p, &why)) fail_msg("%s", why.s);
        if (pattern_match(p, cases[i / 2].text, &budget) != expect)
            fail_msg("'%s' on '%s'", cases[i / 2].pattern, cases[i / 2].text);
        arena_fini(&a);
    }
}

static void patterns_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "(",
        ")",
        "a)",
        "(a",
        "[",
        "[a",
        "[b-a]",
        "*",
        "a**",
        "a*+",
        "+a",
        "(?",
        "(?<=a)b",
        "(?i)a",
        "(?P<n>a)",
        "(a)\\1",
        "\\",
        "\\q",
        "a{3,2}",
        "a{2000}",
        "(a{100}){100}",
        "a{1,2000}",
        "((((((((((((((((((((a))))))))))))))))))))",
        "(?!(?!(?!(?!a))))",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct arena a;
        struct pattern *p = NULL;
        struct err_text why = {{0}};
        arena_init(&a, 1 << 20);
        assert_int_equal(pattern_compile(bad[i], false, &a, &p, &why), ERR_INVALID);
        assert_null(p);
        assert_non_null(strstr(why.s, "pattern '"));
        arena_fini(&a);
    }
}

static void patterns_take_bounded_time(void **state)
{
    (void)state;
    static const char *const hard[] = {"(a*)*(a*)*(a*)*b", "(a|a|a)*(a|aa)*b", "(.*)*(.*)*(.*)*x$",
                                       "(?!(?!(?!(.*a)*b)(.*a)*b)(.*a)*b)(a*)*b"};
    char text[601];
    memset(text, 'a', 600);
    text[600] = 0;
    for (size_t i = 0; i < sizeof hard / sizeof *hard; i++) {
        struct arena a;
        struct pattern *p;
        uint64_t budget = 1 << 20;
        arena_init(&a, 0);
        assert_int_equal(pattern_compile(hard[i], true, &a, &p, NULL), OK);
        const int64_t t0 = soon_now_us();
        assert_false(pattern_match(p, text, &budget));
        assert_true(soon_is(t0, 1000000));
        arena_fini(&a);
    }
}

// ---- one module of each layout

#define W4 "\"num_bits\":4,\"type\":\"int\",\"strategy\":\"group\",\"group_size\":32"
#define CT(format, weights)                                                                        \
    "{\"quant_method\":\"compressed-tensors\",\"format\":\"" format                                \
    "\",\"config_groups\":{\"group_0\":{\"targets\":[\"Linear\"],\"weights\":{" weights "}}}}"
#define GPTQ "\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":32,\"desc_act\":false,\"sym\":"

struct want {
    const char *config, *tensors; // of module m, 64 rows of 128 columns
    const char *words;
    struct quant_found found; // but for the source
    const char *main, *scale, *zero, *order, *global;
};

static const char gptq_tensors[] =
    "m.qweight I32 16,64\nm.qzeros I32 4,8\nm.scales F16 4,64\nm.g_idx I32 128\n";
static const char ct_tensors[] = "m.weight_packed I32 64,16\nm.weight_scale BF16 64,4\n"
                                 "m.weight_shape I64 2\n";

static const struct want wants[] = {
    {"{" GPTQ "true}",
     gptq_tensors,
     "gptq int4",
     {.kind = SOURCE_GPTQ, .dtype = DT_Q4_0, .bits = 4, .zero_is_plus_one = true},
     "m.qweight",
     "m.scales",
     "m.qzeros",
     NULL,
     NULL},
    {"{" GPTQ "false,\"checkpoint_format\":\"gptq_v2\"}",
     gptq_tensors,
     "gptq int4",
     {.kind = SOURCE_GPTQ, .dtype = DT_INT4, .bits = 4},
     "m.qweight",
     "m.scales",
     "m.qzeros",
     NULL,
     NULL},
    {"{\"quant_method\":\"gptq\",\"bits\":8,\"group_size\":-1,\"sym\":true}",
     "m.qweight I32 32,64\nm.qzeros I32 1,16\nm.scales F16 1,64\n",
     "gptq int8",
     {.kind = SOURCE_GPTQ, .dtype = DT_INT8, .bits = 8, .zero_is_plus_one = true},
     "m.qweight",
     "m.scales",
     "m.qzeros",
     NULL,
     NULL},
    {"{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":32,\"sym\":true,\"desc_act\":true}",
     gptq_tensors,
     "gptq int4",
     {.kind = SOURCE_GPTQ, .dtype = DT_Q4_0, .bits = 4, .zero_is_plus_one = true},
     "m.qweight",
     "m.scales",
     "m.qzeros",
     "m.g_idx",
     NULL},
    {"{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":96,\"sym\":true}", // the last has 32
     "m.qweight I32 16,64\nm.qzeros I32 2,8\nm.scales F16 2,64\n",
     "gptq int4",
     {.kind = SOURCE_GPTQ, .dtype = DT_Q4_0, .bits = 4, .zero_is_plus_one = true},
     "m.qweight",
     "m.scales",
     "m.qzeros",
     NULL,
     NULL},
    {"{\"quant_method\":\"gptq\",\"bits\":3,\"group_size\":64,\"sym\":true}",
     "m.qweight I32 12,64\nm.qzeros I32 2,6\nm.scales F16 2,64\n",
     "gptq int3",
     {.kind = SOURCE_GPTQ, .dtype = DT_INT4, .bits = 3, .zero_is_plus_one = true},
     "m.qweight",
     "m.scales",
     "m.qzeros",
     NULL,
     NULL},
    {"{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":16,\"sym\":true}", // 32 straddle 16
     "m.qweight I32 16,64\nm.qzeros I32 8,8\nm.scales F16 8,64\n",
     "gptq int4",
     {.kind = SOURCE_GPTQ, .dtype = DT_F32, .bits = 4, .zero_is_plus_one = true},
     "m.qweight",
     "m.scales",
     "m.qzeros",
     NULL,
     NULL},
    {"{\"quant_method\":\"auto-round\",\"bits\":4,\"group_size\":32,\"sym\":true,"
     "\"packing_format\":\"auto_round:auto_gptq\"}",
     gptq_tensors,
     "auto-round int4",
     {.kind = SOURCE_GPTQ, .dtype = DT_Q4_0, .bits = 4, .zero_is_plus_one = true},
     "m.qweight",
     "m.scales",
     "m.qzeros",
     NULL,
     NULL},
    {"{\"quant_method\":\"auto-round\",\"bits\":4,\"group_size\":32,\"sym\":false,"
     "\"packing_format\":\"auto_round\"}",
     gptq_tensors,
     "auto-round int4",
     {.kind = SOURCE_GPTQ, .dtype = DT_INT4, .bits = 4},
     "m.qweight",
     "m.scales",
     "m.qzeros",
     NULL,
     NULL},
    {"{\"quant_method\":\"auto-round\",\"bits\":4,\"group_size\":64,\"sym\":true,"
     "\"packing_format\":\"auto_round:auto_awq\"}",
     "m.qweight I32 128,8\nm.qzeros I32 2,8\nm.scales F16 2,64\n",
     "auto-round int4",
     {.kind = SOURCE_AWQ, .dtype = DT_Q4_0, .bits = 4},
     "m.qweight",
     "m.scales",
     "m.qzeros",
     NULL,
     NULL},
    {"{\"quant_method\":\"awq\",\"bits\":4,\"group_size\":64,\"zero_point\":true,"
     "\"version\":\"GEMM\"}",
     "m.qweight I32 128,8\nm.qzeros I32 2,8\nm.scales F16 2,64\n",
     "awq int4",
     {.kind = SOURCE_AWQ, .dtype = DT_INT4, .bits = 4},
     "m.qweight",
     "m.scales",
     "m.qzeros",
     NULL,
     NULL},
    {CT("pack-quantized", W4 ",\"symmetric\":true"),
     ct_tensors,
     "compressed-tensors int4",
     {.kind = SOURCE_CT_INT, .dtype = DT_Q4_0, .bits = 4},
     "m.weight_packed",
     "m.weight_scale",
     NULL,
     NULL,
     NULL},
    {CT("pack-quantized", W4 ",\"symmetric\":false,\"actorder\":\"group\""),
     "m.weight_packed I32 64,16\nm.weight_scale BF16 64,4\nm.weight_zero_point I32 8,4\n"
     "m.weight_g_idx I32 128\n",
     "compressed-tensors int4",
     {.kind = SOURCE_CT_INT, .dtype = DT_INT4, .bits = 4},
     "m.weight_packed",
     "m.weight_scale",
     "m.weight_zero_point",
     "m.weight_g_idx",
     NULL},
    {CT("pack-quantized", "\"num_bits\":8,\"type\":\"int\",\"strategy\":\"channel\""),
     "m.weight_packed I32 64,32\nm.weight_scale BF16 64,1\n",
     "compressed-tensors int8",
     {.kind = SOURCE_CT_INT, .dtype = DT_INT8, .bits = 8},
     "m.weight_packed",
     "m.weight_scale",
     NULL,
     NULL,
     NULL},
    {CT("int-quantized", "\"num_bits\":8,\"type\":\"int\",\"strategy\":\"channel\""),
     "m.weight I8 64,128\nm.weight_scale BF16 64,1\n",
     "compressed-tensors int8",
     {.kind = SOURCE_INT8, .dtype = DT_INT8, .bits = 8},
     "m.weight",
     "m.weight_scale",
     NULL,
     NULL,
     NULL},
    {CT("naive-quantized", "\"num_bits\":8,\"type\":\"float\",\"strategy\":\"tensor\""),
     "m.weight F8_E4M3 64,128\nm.weight_scale F32 1\nm.input_scale F32 1\n",
     "compressed-tensors FP8",
     {.kind = SOURCE_FP8, .dtype = DT_FP8, .bits = 8},
     "m.weight",
     "m.weight_scale",
     NULL,
     NULL,
     NULL},
    {CT("float-quantized", "\"num_bits\":8,\"type\":\"float\",\"strategy\":\"channel\""),
     "m.weight F8_E4M3 64,128\nm.weight_scale F32 64,1\n",
     "compressed-tensors FP8",
     {.kind = SOURCE_FP8, .dtype = DT_FP8, .bits = 8, .block_rows = 1},
     "m.weight",
     "m.weight_scale",
     NULL,
     NULL,
     NULL},
    {CT("float-quantized", "\"num_bits\":8,\"type\":\"float\",\"strategy\":\"block\","
                           "\"block_structure\":[48,96]"),
     "m.weight F8_E4M3 64,128\nm.weight_scale BF16 2,2\n",
     "compressed-tensors FP8",
     {.kind = SOURCE_FP8, .dtype = DT_FP8, .bits = 8, .block_rows = 48, .block_cols = 96},
     "m.weight",
     "m.weight_scale",
     NULL,
     NULL,
     NULL},
    {CT("nvfp4-pack-quantized", "\"num_bits\":4,\"type\":\"float\",\"strategy\":\"tensor_group\","
                                "\"group_size\":16"),
     "m.weight_packed U8 64,64\nm.weight_scale F8_E4M3 64,8\nm.weight_global_scale F32 1\n",
     "compressed-tensors NVFP4",
     {.kind = SOURCE_NVFP4, .dtype = DT_NVFP4, .bits = 4, .global_divides = true},
     "m.weight_packed",
     "m.weight_scale",
     NULL,
     NULL,
     "m.weight_global_scale"},
    {CT("mxfp4-pack-quantized", "\"num_bits\":4,\"type\":\"float\",\"strategy\":\"group\","
                                "\"group_size\":32"),
     "m.weight_packed U8 64,64\nm.weight_scale U8 64,4\n",
     "compressed-tensors MXFP4",
     {.kind = SOURCE_MXFP4, .dtype = DT_MXFP4, .bits = 4},
     "m.weight_packed",
     "m.weight_scale",
     NULL,
     NULL,
     NULL},
    {"{\"quant_method\":\"modelopt\",\"quant_algo\":\"NVFP4\"}",
     "m.weight U8 64,64\nm.weight_scale F8_E4M3 64,8\nm.weight_scale_2 F32 -\n",
     "modelopt NVFP4",
     {.kind = SOURCE_NVFP4, .dtype = DT_NVFP4, .bits = 4},
     "m.weight",
     "m.weight_scale",
     NULL,
     NULL,
     "m.weight_scale_2"},
    {"{\"quant_method\":\"modelopt\",\"quantization\":{\"quant_algo\":\"FP8\"}}",
     "m.weight F8_E4M3 64,128\nm.weight_scale F32 -\n",
     "modelopt FP8",
     {.kind = SOURCE_FP8, .dtype = DT_FP8, .bits = 8},
     "m.weight",
     "m.weight_scale",
     NULL,
     NULL,
     NULL},
    {"{\"quant_method\":\"fp8\",\"weight_block_size\":[32,64]}",
     "m.weight F8_E4M3 64,128\nm.weight_scale_inv F32 2,2\n",
     "FP8",
     {.kind = SOURCE_FP8, .dtype = DT_FP8, .bits = 8, .block_rows = 32, .block_cols = 64},
     "m.weight",
     "m.weight_scale_inv",
     NULL,
     NULL,
     NULL},
    {"{\"quant_method\":\"fp8\",\"weight_block_size\":null}",
     "m.weight F8_E4M3 64,128\nm.weight_scale_inv BF16 -\nm.activation_scale F32 -\n",
     "FP8",
     {.kind = SOURCE_FP8, .dtype = DT_FP8, .bits = 8},
     "m.weight",
     "m.weight_scale_inv",
     NULL,
     NULL,
     NULL},
    {"{\"quant_method\":\"fp8\",\"weight_block_size\":null}", // a fused matrix, each half its own
     "m F8_E4M3 64,128\nm_scale_inv F32 2,1\n",
     "FP8",
     {.kind = SOURCE_FP8, .dtype = DT_FP8, .bits = 8, .block_rows = 32},
     "m",
     "m_scale_inv",
     NULL,
     NULL,
     NULL},
    {"{\"quant_method\":\"fp8\"}",
     "m.weight F8_E4M3 64,128\nm.weight_scale F32 1,1\n",
     "FP8",
     {.kind = SOURCE_FP8, .dtype = DT_FP8, .bits = 8},
     "m.weight",
     "m.weight_scale",
     NULL,
     NULL,
     NULL},
    {"{\"quant_method\":\"mxfp4\"}",
     "m_blocks U8 64,4,16\nm_scales U8 64,4\n",
     "MXFP4",
     {.kind = SOURCE_MXFP4, .dtype = DT_MXFP4, .bits = 4},
     "m_blocks",
     "m_scales",
     NULL,
     NULL,
     NULL},
    {"{" GPTQ "true}",
     "m.weight BF16 64,128\n",
     "gptq int4", // left alone by the quantiser
     {.kind = SOURCE_ROWS, .dtype = DT_BF16},
     "m.weight",
     NULL,
     NULL,
     NULL,
     NULL},
    {"null",
     "m.weight F64 64,128\n",
     NULL,
     {.kind = SOURCE_ROWS, .dtype = DT_F32},
     "m.weight",
     NULL,
     NULL,
     NULL,
     NULL},
};

// Opens a folder with this quantization_config and these tensors; *t stays NULL if that fails.
struct opened {
    struct folder f;
    struct arena a;
    struct tensors *t;
    struct quant *q;
    struct err_text why;
    err_t e;
};

static void open_with(struct opened *o, const char *config, const char *tensors)
{
    struct buf b = {0};
    *o = (struct opened){.f = folder_new()};
    arena_init(&o->a, 0);
    buf_printf(&b, "{\"quantization_config\":%s}", config);
    folder_text(&o->f, "config.json", b.data);
    buf_fini(&b);
    folder_tensors(&o->f, "model.safetensors", tensors);
    o->e = tensors_open(o->f.path, &o->a, &o->t, &o->why);
    if (!o->e) o->e = quant_open(o->t, &o->a, &o->q, &o->why);
}

static err_t find_module(struct opened *o, const char *module, int64_t n, int64_t rows,
                         int64_t cols, struct quant_found *found)
{
    const struct quant_want want = {.module = module, .n = n, .rows = rows, .cols = cols};
    return quant_find(o->q, o->t, &want, found, &o->why);
}

static void close_it(struct opened *o)
{
    quant_close(o->q);
    tensors_close(o->t);
    arena_fini(&o->a);
    folder_remove(&o->f);
}

// Of integers block_cols is the size of a group.
static struct quant_found expected(const struct want *w)
{
    struct quant_found x = w->found;
    const char *group = strstr(w->config, "\"group_size\":");
    const long size = group ? strtol(group + 13, NULL, 10) : -1;
    if (x.kind == SOURCE_GPTQ || x.kind == SOURCE_AWQ || x.kind == SOURCE_CT_INT)
        x.block_cols = size < 0 ? 128 : (int32_t)size;
    return x;
}

static void is_tensor(const struct model_tensor *t, const char *name)
{
    assert_int_equal(t != NULL, name != NULL);
    if (name) assert_string_equal(t->name, name);
}

static void finds_every_layout(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof wants / sizeof *wants; i++) {
        const struct want *w = &wants[i];
        struct opened o;
        struct quant_found found;
        open_with(&o, w->config, w->tensors);
        if (o.e || find_module(&o, "m", 1, 64, 128, &found)) fail_msg("row %zu: %s", i, o.why.s);
        const struct quant_found expect = expected(w);
        if (!quant_same(&found, &expect))
            fail_msg("row %zu (%s): kind %d dtype %s bits %d blocks %d %d", i, w->config,
                     found.kind, dtype_info(found.dtype)->name, found.bits, found.block_rows,
                     found.block_cols);
        is_tensor(found.source.main, w->main);
        is_tensor(found.source.scale, w->scale);
        is_tensor(found.source.zero, w->zero);
        is_tensor(found.source.order, w->order);
        is_tensor(found.source.global, w->global);
        assert_int_equal(w->words != NULL, quant_words(o.q) != NULL);
        if (w->words) assert_string_equal(quant_words(o.q), w->words);
        assert_int_equal(find_module(&o, "absent", 1, 64, 128, &found), ERR_NOT_FOUND);
        close_it(&o);
    }
}

// Each tensor of each layout, left out or misshaped in turn, is noticed.
static void misses_every_tensor(void **state)
{
    (void)state;
    int n = 0;
    for (size_t i = 0; i < sizeof wants / sizeof *wants; i++) {
        const struct want *w = &wants[i];
        const char *named[] = {w->main, w->scale, w->zero, w->order, w->global};
        for (size_t k = 0; k < 10; k++) {
            const char *name = named[k / 2];
            struct opened o;
            struct quant_found found;
            char from[64], to[64];
            if (!name) continue;
            // a tensor is left out by its name, misshaped by one more dimension
            snprintf(from, sizeof from, "%s ", name);
            snprintf(to, sizeof to, k & 1 ? "%s " : "other%s ", name);
            char *text = make_replaced(w->tensors, from, to);
            if (k & 1) {
                char *at = strstr(text, from);
                char *end = at + strcspn(at, "\n");
                *end = 0;
                char *longer = NULL;
                if (asprintf(&longer, "%s,3\n%s", text, end + 1) < 0) abort();
                free(text);
                text = longer;
                if (strstr(text, "-,3")) memmove(strstr(text, "-,3"), "2  ", 3);
            }
            open_with(&o, w->config, text);
            assert_int_equal(o.e, OK);
            err_t e = find_module(&o, "m", 1, 64, 128, &found);
            if (k == 0 ? e != ERR_NOT_FOUND : e != ERR_MODEL)
                fail_msg("row %zu, tensor %s, change %zu: error %d %s", i, name, k & 1, e, o.why.s);
            if (e == ERR_MODEL) assert_non_null(strstr(o.why.s, "'m"));
            n++;
            free(text);
            close_it(&o);
        }
    }
    assert_true(n > 100);
}

static void finds_stacks(void **state)
{
    (void)state;
    struct opened o;
    struct quant_found found;
    open_with(&o, "{\"quant_method\":\"mxfp4\"}",
              "e_blocks U8 3,64,4,16\ne_scales U8 3,64,4\np BF16 3,64,128\nq BF16 3,128,64\n");
    assert_int_equal(find_module(&o, "e", 3, 64, 128, &found), OK);
    assert_int_equal(found.kind, SOURCE_MXFP4);
    assert_int_equal(find_module(&o, "e", 2, 64, 128, &found), ERR_MODEL);
    assert_int_equal(find_module(&o, "p", 3, 64, 128, &found), OK);
    assert_int_equal(find_module(&o, "p", 3, 128, 64, &found), ERR_MODEL);
    const struct quant_want turned = {
        .module = "q", .n = 3, .rows = 64, .cols = 128, .transposed = true};
    assert_int_equal(quant_find(o.q, o.t, &turned, &found, &o.why), OK);
    close_it(&o);
    open_with(&o, "{\"quant_method\":\"fp8\",\"weight_block_size\":[128,128]}",
              "e F8_E4M3 3,64,128\ne_scale_inv F32 3,1,1\n");
    assert_int_equal(find_module(&o, "e", 3, 64, 128, &found), OK);
    assert_int_equal(found.block_rows, 128);
    close_it(&o);
    open_with(&o, "{\"quant_method\":\"fp8\",\"weight_block_size\":null}",
              "e F8_E4M3 3,64,128\ne_scale_inv F32 3,2,1\nd F8_E4M3 3,64,128\nd_scale_inv F32 3\n");
    assert_int_equal(find_module(&o, "e", 3, 64, 128, &found), OK);
    assert_int_equal(found.block_rows, 32);
    assert_int_equal(find_module(&o, "d", 3, 64, 128, &found), OK);
    assert_int_equal(found.block_rows, 0);
    close_it(&o);
}

// ---- rules

static void rules_of_auto_round(void **state)
{
    (void)state;
    struct opened o;
    struct quant_found found;
    open_with(&o,
              "{\"quant_method\":\"auto-round\",\"bits\":4,\"group_size\":32,\"sym\":true,"
              "\"extra_config\":{\"model.language_model.layers.0.a\":{\"bits\":8},"
              "\".*\\\\.b$\":{\"bits\":2,\"group_size\":64},"
              "\"layers\\\\.0\\\\.c\":{\"bits\":16,\"data_type\":\"float\"}}}",
              "model.layers.0.a.qweight I32 32,64\nmodel.layers.0.a.qzeros I32 4,16\n"
              "model.layers.0.a.scales F16 4,64\n"
              "model.layers.0.b.qweight I32 8,64\nmodel.layers.0.b.qzeros I32 2,4\n"
              "model.layers.0.b.scales F16 2,64\n"
              "model.layers.0.c.qweight I32 16,64\n"
              "model.layers.0.d.qweight I32 16,64\nmodel.layers.0.d.qzeros I32 4,8\n"
              "model.layers.0.d.scales F16 4,64\n");
    assert_int_equal(o.e, OK);
    assert_int_equal(find_module(&o, "model.layers.0.a", 1, 64, 128, &found), OK);
    assert_int_equal(found.dtype, DT_INT8);
    assert_int_equal(find_module(&o, "model.layers.0.b", 1, 64, 128, &found), OK);
    assert_int_equal(found.bits, 2);
    assert_int_equal(found.dtype, DT_INT4);
    assert_int_equal(find_module(&o, "model.layers.0.c", 1, 64, 128, &found), ERR_MODEL);
    assert_non_null(strstr(o.why.s, "says otherwise"));
    assert_int_equal(find_module(&o, "model.layers.0.d", 1, 64, 128, &found), OK);
    assert_int_equal(found.dtype, DT_Q4_0);
    close_it(&o);
}

static void rules_of_gptqmodel(void **state)
{
    (void)state;
    struct opened o;
    struct quant_found found;
    open_with(&o,
              "{" GPTQ "true,\"dynamic\":{\"-:.*\\\\.z\":{},"
              "\"+:.*\\\\.[12]\\\\.\":{\"bits\":8,\"sym\":false},\".*\\\\.1\":{\"bits\":2}}}",
              "l.1.m.qweight I32 32,64\nl.1.m.qzeros I32 4,16\nl.1.m.scales F16 4,64\n"
              "l.1.z.qweight I32 32,64\n"
              "l.3.m.qweight I32 16,64\nl.3.m.qzeros I32 4,8\nl.3.m.scales F16 4,64\n");
    assert_int_equal(o.e, OK);
    assert_int_equal(find_module(&o, "l.1.m", 1, 64, 128, &found), OK);
    assert_int_equal(found.dtype, DT_INT8);
    assert_int_equal(find_module(&o, "l.3.m", 1, 64, 128, &found), OK);
    assert_int_equal(found.dtype, DT_Q4_0);
    assert_int_equal(find_module(&o, "l.1.z", 1, 64, 128, &found), ERR_MODEL);
    close_it(&o);
}

static void rules_of_compressed_tensors(void **state)
{
    (void)state;
    struct opened o;
    struct quant_found found;
    open_with(&o,
              "{\"quant_method\":\"compressed-tensors\",\"format\":\"mixed-precision\","
              "\"config_groups\":{\"g0\":{\"targets\":[\"Linear\"],\"format\":\"pack-quantized\","
              "\"weights\":{" W4 "}},"
              "\"g1\":{\"targets\":[\"re:.*down_proj\",\"model.layers.0.x\"],"
              "\"format\":\"float-quantized\",\"weights\":{\"num_bits\":8,\"type\":\"float\","
              "\"strategy\":\"channel\"}},\"g2\":{\"targets\":[\"Attention\"],\"weights\":null}},"
              "\"ignore\":[\"lm_head\"],\"kv_cache_scheme\":{\"num_bits\":8},"
              "\"sparsity_config\":{\"format\":\"dense\"},\"transform_config\":{}}",
              "language_model.model.layers.0.x.weight F8_E4M3 64,128\n"
              "language_model.model.layers.0.x.weight_scale F32 64,1\n"
              "model.layers.0.down_proj.weight F8_E4M3 64,128\n"
              "model.layers.0.down_proj.weight_scale F32 64,1\n"
              "m.weight_packed I32 64,16\nm.weight_scale BF16 64,4\n"
              "y.weight F8_E4M3 64,128\ny.weight_scale F32 64,1\n");
    if (o.e) fail_msg("%s", o.why.s);
    assert_string_equal(quant_words(o.q), "compressed-tensors mixed");
    assert_int_equal(find_module(&o, "language_model.model.layers.0.x", 1, 64, 128, &found), OK);
    assert_int_equal(find_module(&o, "model.layers.0.down_proj", 1, 64, 128, &found), OK);
    assert_int_equal(found.kind, SOURCE_FP8);
    assert_int_equal(find_module(&o, "m", 1, 64, 128, &found), OK);
    assert_int_equal(found.kind, SOURCE_CT_INT);
    assert_int_equal(find_module(&o, "y", 1, 64, 128, &found), ERR_MODEL);
    close_it(&o);
}

static void modelopt_in_a_file_of_its_own(void **state)
{
    (void)state;
    struct folder f = folder_new();
    struct arena a;
    struct tensors *t;
    struct quant *q;
    struct quant_found found;
    const struct quant_want want = {.module = "m", .n = 1, .rows = 64, .cols = 128};
    arena_init(&a, 0);
    folder_text(&f, "config.json", "{}");
    folder_text(&f, "hf_quant_config.json",
                "{\"producer\":{\"name\":\"modelopt\"},\"quantization\":{\"quant_algo\":\"NVFP4\","
                "\"group_size\":16}}");
    folder_tensors(&f, "model.safetensors",
                   "m.weight U8 64,64\nm.weight_scale F8_E4M3 64,8\nm.weight_scale_2 F32 -\n");
    assert_int_equal(tensors_open(f.path, &a, &t, NULL), OK);
    assert_int_equal(quant_open(t, &a, &q, NULL), OK);
    assert_string_equal(quant_words(q), "modelopt NVFP4");
    assert_int_equal(quant_find(q, t, &want, &found, NULL), OK);
    assert_int_equal(found.kind, SOURCE_NVFP4);
    quant_close(q);
    tensors_close(t);
    arena_fini(&a);
    folder_remove(&f);
}

static void patterns_have_a_budget(void **state)
{
    (void)state;
    struct opened o;
    struct buf b = {0};
    struct quant_found found;
    char module[512];
    memset(module, 'a', sizeof module - 1);
    memcpy(module, "b", 1);
    module[100] = 0;
    buf_str(&b, "{" GPTQ "true,\"dynamic\":{");
    for (int i = 0; i < 500; i++)
        buf_printf(&b, "%s\"(a|a?){0,150}(a*)*[x%d]b\":{\"bits\":8}", i ? "," : "", i);
    buf_str(&b, "}}");
    char tensors[600];
    snprintf(tensors, sizeof tensors, "%s.qweight I32 16,64\n", module);
    open_with(&o, b.data, tensors);
    assert_int_equal(o.e, OK);
    err_t e = OK;
    const int64_t t0 = soon_now_us();
    for (int i = 0; i < 1000 && !(e && strstr(o.why.s, "take too long")); i++)
        e = find_module(&o, module, 1, 64, 128, &found);
    assert_int_equal(e, ERR_MODEL);
    assert_non_null(strstr(o.why.s, "take too long"));
    print_message("budget: %.1f s\n", (double)(soon_now_us() - t0) / 1e6);
    close_it(&o);
    buf_fini(&b);
}

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(patterns_match_as_in_python),
        cmocka_unit_test(patterns_refused),
        cmocka_unit_test(patterns_take_bounded_time),
        cmocka_unit_test(finds_every_layout),
        cmocka_unit_test(misses_every_tensor),
        cmocka_unit_test(finds_stacks),
        cmocka_unit_test(rules_of_auto_round),
        cmocka_unit_test(rules_of_gptqmodel),
        cmocka_unit_test(rules_of_compressed_tensors),
        cmocka_unit_test(modelopt_in_a_file_of_its_own),
        cmocka_unit_test(patterns_have_a_budget),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
