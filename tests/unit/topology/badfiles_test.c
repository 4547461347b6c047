// Whole models that are wrong in one place each, through model_open: refused with ERR_MODEL and one
// line of at most 300 bytes that names the place, within a second, without growing the process.
// (Reliability catalogue, M01-M11; headers and containers by themselves: gguf_test,
// safetensors_test.)
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/base/log.h"
#include "tests/unit/soon.h"
#include "tests/unit/topology/folder_make.h"
#include "tests/unit/topology/gguf_make.h"
#include "topology/model.h"

#include <sys/resource.h>

static int n_refused;

static void refused(const char *path, const char *what, const char *needle)
{
    struct model *m = NULL;
    struct err_text why = {{0}};
    const int64_t t0 = soon_now_us();
    const err_t e = model_open(path, &m, &why);
    const bool soon = soon_is(t0, 1000000);
    if (e != ERR_MODEL || !strstr(why.s, needle))
        fail_msg("%s: error %d: '%s', expected '%s'", what, e, why.s, needle);
    if (strlen(why.s) >= 300 || strchr(why.s, '\n') || !soon)
        fail_msg("%s: %zu bytes%s: '%s'", what, strlen(why.s), soon ? "" : ", late", why.s);
    assert_null(m);
    n_refused++;
}

static void accepted(const char *path, const char *what)
{
    struct model *m;
    struct err_text why = {{0}};
    if (model_open(path, &m, &why)) fail_msg("%s: %s", what, why.s);
    model_close(m);
}

// ---- Hugging Face folders

// A good model is a config and lines of tensors; a bad one has `from` replaced by `to` in one of
// them.
struct base {
    const char *name, *config, *tensors;
};

#define DENSE_TENSORS                                                                              \
    "model.embed_tokens.weight BF16 32,64\n"                                                       \
    "model.norm.weight BF16 64\n"                                                                  \
    "lm_head.weight BF16 32,64\n"                                                                  \
    "model.layers.0.input_layernorm.weight BF16 64\n"                                              \
    "model.layers.0.post_attention_layernorm.weight BF16 64\n"                                     \
    "model.layers.0.self_attn.q_proj.weight BF16 64,64\n"                                          \
    "model.layers.0.self_attn.k_proj.weight BF16 32,64\n"                                          \
    "model.layers.0.self_attn.v_proj.weight BF16 32,64\n"                                          \
    "model.layers.0.self_attn.o_proj.weight BF16 64,64\n"                                          \
    "model.layers.0.mlp.gate_proj.weight BF16 128,64\n"                                            \
    "model.layers.0.mlp.up_proj.weight BF16 128,64\n"
#define DOWN "model.layers.0.mlp.down_proj."
#define LLAMA                                                                                      \
    "\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":128,"                       \
    "\"num_hidden_layers\":1,\"num_attention_heads\":2,\"num_key_value_heads\":1,"                 \
    "\"head_dim\":32,\"vocab_size\":32,\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,"              \
    "\"max_position_embeddings\":2048,\"hidden_act\":\"silu\",\"tie_word_embeddings\":false"
#define CT(format, weights)                                                                        \
    "{" LLAMA                                                                                      \
    ",\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"format\":\"" format       \
    "\",\"config_groups\":{\"group_0\":{\"targets\":[\"Linear\"],\"weights\":{" weights            \
    "}}},\"ignore\":[\"lm_head\"]}}"

enum { DENSE, MOE, GPTQ, AUTOROUND, AWQ, CT_INT, CT_INT8, FP8, CT_NVFP4, MODELOPT, MXFP4 };

static const struct base bases[] = {
    [DENSE] = {"dense",
               "{" LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,"
               "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
               "\"original_max_position_embeddings\":64}}",
               DENSE_TENSORS DOWN "weight BF16 64,128\n"},
    [MOE] = {"moe",
             "{\"model_type\":\"mixtral\",\"hidden_size\":64,\"intermediate_size\":128,"
             "\"num_hidden_layers\":1,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
             "\"head_dim\":32,\"vocab_size\":32,\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,"
             "\"num_local_experts\":2,\"num_experts_per_tok\":1,\"hidden_act\":\"silu\","
             "\"max_position_embeddings\":2048,\"tie_word_embeddings\":false}",
             "model.embed_tokens.weight BF16 32,64\n"
             "model.norm.weight BF16 64\n"
             "lm_head.weight BF16 32,64\n"
             "model.layers.0.input_layernorm.weight BF16 64\n"
             "model.layers.0.post_attention_layernorm.weight BF16 64\n"
             "model.layers.0.self_attn.q_proj.weight BF16 64,64\n"
             "model.layers.0.self_attn.k_proj.weight BF16 32,64\n"
             "model.layers.0.self_attn.v_proj.weight BF16 32,64\n"
             "model.layers.0.self_attn.o_proj.weight BF16 64,64\n"
             "model.layers.0.block_sparse_moe.gate.weight BF16 2,64\n"
             "model.layers.0.block_sparse_moe.experts.0.w1.weight BF16 128,64\n"
             "model.layers.0.block_sparse_moe.experts.0.w2.weight BF16 64,128\n"
             "model.layers.0.block_sparse_moe.experts.0.w3.weight BF16 128,64\n"
             "model.layers.0.block_sparse_moe.experts.1.w1.weight BF16 128,64\n"
             "model.layers.0.block_sparse_moe.experts.1.w2.weight BF16 64,128\n"
             "model.layers.0.block_sparse_moe.experts.1.w3.weight BF16 128,64\n"},
    [GPTQ] = {"gptq",
              "{" LLAMA ",\"quantization_config\":{\"quant_method\":\"gptq\",\"bits\":4,"
              "\"group_size\":32,\"desc_act\":true,\"sym\":true,\"checkpoint_format\":\"gptq\","
              "\"dynamic\":{\"-:.*lm_head\":{}}}}",
              DENSE_TENSORS DOWN "qweight I32 16,64\n" DOWN "qzeros I32 4,8\n" DOWN
                                 "scales F16 4,64\n" DOWN "g_idx I32 128\n"},
    [AUTOROUND] = {"auto-round",
                   "{" LLAMA ",\"quantization_config\":{\"quant_method\":\"auto-round\","
                   "\"bits\":4,\"group_size\":32,\"sym\":true,\"data_type\":\"int\","
                   "\"packing_format\":\"auto_round:auto_gptq\","
                   "\"extra_config\":{\"model.layers.0.x\":{\"bits\":16}}}}",
                   DENSE_TENSORS DOWN "qweight I32 16,64\n" DOWN "qzeros I32 4,8\n" DOWN
                                      "scales F16 4,64\n"},
    [AWQ] = {"awq",
             "{" LLAMA ",\"quantization_config\":{\"quant_method\":\"awq\",\"bits\":4,"
             "\"group_size\":32,\"zero_point\":true,\"version\":\"gemm\"}}",
             DENSE_TENSORS DOWN "qweight I32 128,8\n" DOWN "qzeros I32 4,8\n" DOWN
                                "scales F16 4,64\n"},
    [CT_INT] = {"compressed-tensors int4",
                CT("pack-quantized",
                   "\"num_bits\":4,\"type\":\"int\",\"strategy\":\"group\",\"group_size\":32,"
                   "\"symmetric\":false,\"actorder\":\"group\""),
                DENSE_TENSORS DOWN "weight_packed I32 64,16\n" DOWN "weight_scale BF16 64,4\n" DOWN
                                   "weight_zero_point I32 8,4\n" DOWN "weight_g_idx I32 128\n" DOWN
                                   "weight_shape I64 2\n"},
    [CT_INT8] = {"compressed-tensors int8",
                 CT("int-quantized", "\"num_bits\":8,\"type\":\"int\",\"strategy\":\"channel\","
                                     "\"symmetric\":true"),
                 DENSE_TENSORS DOWN "weight I8 64,128\n" DOWN "weight_scale BF16 64,1\n"},
    [FP8] = {"fp8",
             "{" LLAMA ",\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\","
             "\"activation_scheme\":\"dynamic\",\"weight_block_size\":[32,64]}}",
             DENSE_TENSORS DOWN "weight F8_E4M3 64,128\n" DOWN "weight_scale_inv F32 2,2\n"},
    [CT_NVFP4] = {"compressed-tensors nvfp4",
                  CT("nvfp4-pack-quantized", "\"num_bits\":4,\"type\":\"float\","
                                             "\"strategy\":\"tensor_group\",\"group_size\":16"),
                  DENSE_TENSORS DOWN "weight_packed U8 64,64\n" DOWN
                                     "weight_scale F8_E4M3 64,8\n" DOWN
                                     "weight_global_scale F32 1\n"},
    [MODELOPT] = {"modelopt",
                  "{" LLAMA ",\"quantization_config\":{\"quant_method\":\"modelopt\","
                  "\"quant_algo\":\"NVFP4\",\"group_size\":16}}",
                  DENSE_TENSORS DOWN "weight U8 64,64\n" DOWN "weight_scale F8_E4M3 64,8\n" DOWN
                                     "weight_scale_2 F32 -\n"},
    [MXFP4] = {"mxfp4",
               CT("mxfp4-pack-quantized", "\"num_bits\":4,\"type\":\"float\","
                                          "\"strategy\":\"group\",\"group_size\":32"),
               DENSE_TENSORS DOWN "weight_packed U8 64,64\n" DOWN "weight_scale U8 64,4\n"},
};

static void put_model(const struct folder *f, const char *config, const char *tensors)
{
    folder_text(f, "config.json", config);
    folder_tensors(f, "model.safetensors", tensors);
}

static void good_ones_open(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bases / sizeof *bases; i++) {
        struct folder f = folder_new();
        put_model(&f, bases[i].config, bases[i].tensors);
        accepted(f.path, bases[i].name);
        folder_remove(&f);
    }
}

struct change {
    const char *from, *to, *needle;
};

static void refused_changes(int base, bool in_config, const struct change *changes, size_t n)
{
    const struct base *b = &bases[base];
    for (size_t i = 0; i < n; i++) {
        struct folder f = folder_new();
        char what[256];
        char *text =
            make_replaced(in_config ? b->config : b->tensors, changes[i].from, changes[i].to);
        put_model(&f, in_config ? text : b->config, in_config ? b->tensors : text);
        snprintf(what, sizeof what, "%s, '%s' to '%s'", b->name, changes[i].from, changes[i].to);
        refused(f.path, what, changes[i].needle);
        free(text);
        folder_remove(&f);
    }
}
#define N(a) (sizeof(a) / sizeof *(a))

static void m11_numbers(void **state)
{
    (void)state;
    static const struct change changes[] = {
        {"\"llama\"", "\"lama\"", "lama"},
        {"\"llama\"", "\"\"", "model_type"},
        {"\"llama\"", "3", "model_type"},
        {"\"model_type\":\"llama\",", "", "model_type"},
        {"\"hidden_size\":64", "\"hidden_size\":0", "hidden_size"},
        {"\"hidden_size\":64", "\"hidden_size\":-64", "hidden_size"},
        {"\"hidden_size\":64", "\"hidden_size\":\"64\"", "hidden_size"},
        {"\"hidden_size\":64", "\"hidden_size\":64.5", "hidden_size"},
        {"\"hidden_size\":64", "\"hidden_size\":null", "hidden_size"},
        {"\"hidden_size\":64", "\"hidden_size\":[64,32]", "hidden_size"},
        {"\"hidden_size\":64", "\"hidden_size\":9223372036854775807", "hidden_size"},
        {"\"hidden_size\":64", "\"hidden_size\":9223372036854775808", "config.json"},
        {"\"hidden_size\":64", "\"hidden_size\":1e400", "config.json"},
        {"\"hidden_size\":64", "\"hidden_size\":NaN", "config.json"},
        {"\"hidden_size\":64", "\"hidden_size\":96", "shape"},
        {"\"hidden_size\":64,", "", "hidden_size"},
        {"\"intermediate_size\":128", "\"intermediate_size\":0", "intermediate_size"},
        {"\"intermediate_size\":128", "\"intermediate_size\":256", "shape"},
        {"\"intermediate_size\":128,", "", "intermediate_size"},
        {"\"num_hidden_layers\":1", "\"num_hidden_layers\":0", "num_hidden_layers"},
        {"\"num_hidden_layers\":1", "\"num_hidden_layers\":2", "model.layers.1"},
        {"\"num_hidden_layers\":1", "\"num_hidden_layers\":1000000", "num_hidden_layers"},
        {"\"num_hidden_layers\":1", "\"num_hidden_layers\":true", "num_hidden_layers"},
        {"\"num_hidden_layers\":1,", "", "num_hidden_layers"},
        {"\"num_attention_heads\":2", "\"num_attention_heads\":0", "num_attention_heads"},
        {"\"num_attention_heads\":2", "\"num_attention_heads\":4", "shape"},
        {"\"num_attention_heads\":2", "\"num_attention_heads\":2147483648", "num_attention_heads"},
        {"\"num_key_value_heads\":1", "\"num_key_value_heads\":0", "num_key_value_heads"},
        {"\"num_attention_heads\":2,\"num_key_value_heads\":1",
         "\"num_attention_heads\":3,\"num_key_value_heads\":2", "3 heads are not a multiple of 2"},
        {"\"num_key_value_heads\":1", "\"num_key_value_heads\":2", "shape"},
        {"\"head_dim\":32", "\"head_dim\":0", "head_dim"},
        {"\"head_dim\":32", "\"head_dim\":31", "heads of 31"},
        {"\"head_dim\":32", "\"head_dim\":64", "shape"},
        {"\"head_dim\":32", "\"head_dim\":1000000000", "head_dim"},
        {"\"vocab_size\":32", "\"vocab_size\":0", "vocab_size"},
        {"\"vocab_size\":32", "\"vocab_size\":33", "found 33, the embedding has 32 rows"},
        {"\"vocab_size\":32", "\"vocab_size\":\"32\"", "vocab_size"},
        {"\"rms_norm_eps\":1e-5", "\"rms_norm_eps\":-1", "rms_norm_eps"},
        {"\"rms_norm_eps\":1e-5", "\"rms_norm_eps\":\"small\"", "rms_norm_eps"},
        {"\"rope_theta\":10000.0", "\"rope_theta\":0", "rope_theta"},
        {"\"rope_theta\":10000.0", "\"rope_theta\":-1.0", "rope_theta"},
        {"\"rope_theta\":10000.0", "\"rope_theta\":\"x\"", "rope_theta"},
        {"\"max_position_embeddings\":2048", "\"max_position_embeddings\":0",
         "max_position_embeddings"},
        {"\"hidden_act\":\"silu\"", "\"hidden_act\":\"relu\"", "hidden_act"},
        {"\"hidden_act\":\"silu\"", "\"hidden_act\":1", "hidden_act"},
        {"\"tie_word_embeddings\":false", "\"tie_word_embeddings\":\"no\"", "tie_word_embeddings"},
        {"\"llama3\"", "\"llama4\"", "llama4"},
        {"\"llama3\"", "7", "rope"},
        {"\"factor\":8.0", "\"factor\":0", "factor"},
        {"\"factor\":8.0", "\"factor\":-8.0", "factor"},
        {"\"factor\":8.0,", "", "factor"},
        {"\"low_freq_factor\":1.0,", "", "low_freq_factor"},
        {"\"high_freq_factor\":4.0", "\"high_freq_factor\":1.0", "high_freq_factor"},
        {"\"rope_scaling\":{", "\"rope_scaling\":[], \"x\":{", "rope_scaling"},
        {"\"original_max_position_embeddings\":64", "\"original_max_position_embeddings\":0",
         "original_max_position_embeddings"},
    };
    refused_changes(DENSE, true, changes, N(changes));
}

static void m11_tensors(void **state)
{
    (void)state;
    static const struct change changes[] = {
        {"model.embed_tokens.weight", "model.embed.weight", "embed_tokens"},
        {"model.norm.weight", "model.normal.weight", "norm"},
        {"lm_head.weight", "head.weight", "lm_head"},
        {"model.layers.0.input_layernorm.weight BF16 64\n", "", "input_layernorm"},
        {"self_attn.q_proj.weight", "self_attn.query.weight", "q_proj"},
        {"self_attn.k_proj.weight", "self_attn.key.weight", "k_proj"},
        {"self_attn.v_proj.weight", "self_attn.value.weight", "v_proj"},
        {"self_attn.o_proj.weight", "self_attn.out.weight", "o_proj"},
        {"mlp.gate_proj.weight", "mlp.gate.weight", "gate_proj"},
        {"mlp.up_proj.weight", "mlp.upper.weight", "up_proj"},
        {DOWN "weight", DOWN "wait", "down_proj"},
        {"model.embed_tokens.weight BF16 32,64", "model.embed_tokens.weight BF16 64,32",
         "the embedding has 64 rows"},
        {"model.norm.weight BF16 64", "model.norm.weight BF16 63", "shape"},
        {"model.norm.weight BF16 64", "model.norm.weight BF16 8,8", "shape"},
        {"model.norm.weight BF16 64", "model.norm.weight BF16 -", "shape"},
        {"model.norm.weight BF16 64", "model.norm.weight BF16 0", "shape"},
        {"model.norm.weight BF16 64", "model.norm.weight I32 64", "model.norm.weight"},
        {"model.norm.weight BF16 64", "model.norm.weight F8_E4M3 64", "model.norm.weight"},
        {"q_proj.weight BF16 64,64", "q_proj.weight BF16 64,65", "shape"},
        {"q_proj.weight BF16 64,64", "q_proj.weight BF16 4096", "shape"},
        {"q_proj.weight BF16 64,64", "q_proj.weight BF16 64,64,1,1,1", "shape"},
        {"q_proj.weight BF16 64,64", "q_proj.weight BF16 0,64", "shape"},
        {"q_proj.weight BF16 64,64", "q_proj.weight I32 64,64", "q_proj"},
        {"q_proj.weight BF16 64,64", "q_proj.weight I64 64,64", "q_proj"},
        {"q_proj.weight BF16 64,64", "q_proj.weight F8_E5M2 64,64", "q_proj"},
        {"q_proj.weight BF16 64,64", "q_proj.weight F8_E4M3 64,64", "no quantization_config"},
        {"q_proj.weight BF16 64,64", "q_proj.weight I8 64,64", "no quantization_config"},
        {"q_proj.weight BF16 64,64", "q_proj.weight U8 64,32", "no quantization_config"},
        {"q_proj.weight BF16 64,64", "q_proj.qweight I32 8,64", "no quantization_config"},
        {"q_proj.weight BF16 64,64", "q_proj.weight_packed I32 64,8", "no quantization_config"},
        {"v_proj.weight BF16 32,64", "v_proj.weight BF16 64,64", "shape"},
        {DOWN "weight BF16 64,128", DOWN "weight BF16 128,64", "shape"},
        {"lm_head.weight BF16 32,64", "lm_head.weight BF16 31,64", "shape"},
    };
    refused_changes(DENSE, false, changes, N(changes));
    static const struct change experts[] = {
        {"experts.1.w2.weight BF16 64,128\n", "experts.1.w2.weight BF16 64,64\n", "shape"},
        {"experts.1.w2.weight BF16 64,128\n", "experts.1.w2.weight F32 64,128\n", "w2"},
        {"experts.1.w2.weight", "experts.2.w2.weight", "experts.1.w2"},
        {"experts.0.w1.weight", "experts.2.w1.weight", "experts.0"},
        {"gate.weight BF16 2,64", "gate.weight BF16 3,64", "shape"},
        {"block_sparse_moe.gate.weight", "block_sparse_moe.router.weight", "gate"},
    };
    refused_changes(MOE, false, experts, N(experts));
    static const struct change numbers[] = {
        {"\"num_local_experts\":2", "\"num_local_experts\":0", "num_local_experts"},
        {"\"num_local_experts\":2", "\"num_local_experts\":3", "expected (3, 64)"},
        {"\"num_local_experts\":2", "\"num_local_experts\":100000", "num_local_experts"},
        {"\"num_local_experts\":2,", "", "experts"},
        {"\"num_experts_per_tok\":1", "\"num_experts_per_tok\":0", "num_experts_per_tok"},
        {"\"num_experts_per_tok\":1", "\"num_experts_per_tok\":3", "num_experts_per_tok"},
    };
    refused_changes(MOE, true, numbers, N(numbers));
}

static void m11_gptq(void **state)
{
    (void)state;
    static const struct change config[] = {
        {"\"gptq\"", "\"bitsandbytes\"", "quant_method 'bitsandbytes' is not supported"},
        {"\"gptq\"", "\"hqq\"", "quant_method 'hqq' is not supported"},
        {"\"gptq\"", "\"aqlm\"", "quant_method 'aqlm' is not supported"},
        {"\"gptq\"", "\"quanto\"", "quant_method 'quanto' is not supported"},
        {"\"gptq\"", "\"torchao\"", "quant_method 'torchao' is not supported"},
        {"\"gptq\"", "\"\"", "quant_method '' is not supported"},
        {"\"gptq\"", "{}", "quant_method '' is not supported"},
        {"\"quant_method\":\"gptq\",", "", "has no quant_method"},
        {"\"gptq\",\"bits\":4", "\"awq\",\"bits\":4", "shape"}, // the tensors say otherwise
        {"\"gptq\"", "\"fp8\"", "says otherwise"},
        {"\"bits\":4", "\"bits\":5", "bits: found 5, allowed 2, 3, 4 and 8"},
        {"\"bits\":4", "\"bits\":0", "bits: found 0"},
        {"\"bits\":4", "\"bits\":-4", "bits: found -4"},
        {"\"bits\":4", "\"bits\":\"4\"", "bits: found '4'"},
        {"\"bits\":4", "\"bits\":260", "bits: found 260"},
        {"\"bits\":4", "\"bits\":8", "shape (16, 64), expected (32, 64)"},
        {"\"bits\":4", "\"bits\":3", "shape (16, 64), expected (12, 64)"},
        {"\"bits\":4,", "", "bits: found nothing"},
        {"\"group_size\":32", "\"group_size\":64", "shape (4, 8), expected (2, 8)"},
        {"\"group_size\":32", "\"group_size\":-1", "shape (4, 8), expected (1, 8)"},
        {"\"group_size\":32", "\"group_size\":0", "group_size: found 0"},
        {"\"group_size\":32", "\"group_size\":-2", "group_size: found -2"},
        {"\"group_size\":32", "\"group_size\":48", "shape (4, 8), expected (3, 8)"},
        {"\"group_size\":32", "\"group_size\":1e2", "group_size: found"},
        {"\"group_size\":32", "\"group_size\":9999999999", "group_size: found"},
        {"\"group_size\":32,", "", "group_size: found nothing"},
        {"\"desc_act\":true", "\"desc_act\":1", "desc_act: found 1"},
        {"\"sym\":true", "\"sym\":\"yes\"", "sym: found 'yes'"},
        {"\"checkpoint_format\":\"gptq\"", "\"checkpoint_format\":\"marlin\"",
         "checkpoint_format 'marlin'"},
        {"\"checkpoint_format\":\"gptq\"", "\"is_marlin_format\":true", "is_marlin_format"},
        {"\"checkpoint_format\":\"gptq\"", "\"pack_dtype\":\"int16\"", "pack_dtype 'int16'"},
        {"{\"-:.*lm_head\":{}}", "[]", "dynamic: found"},
        {"-:.*lm_head", "-:(", "pattern '('"},
        {"-:.*lm_head", "+:(?<=x)a", "pattern '(?<=x)a'"},
        {"\"-:.*lm_head\":{}", "\".*down\":{\"bits\":7}", "bits: found 7"},
        {"\"-:.*lm_head\":{}", "\".*down\":{\"bits\":8}", "expected (32, 64)"},
        {"-:.*lm_head", "-:.*down_proj", "says otherwise"},
        {"{\"quant_method\"", "[{\"quant_method\"", "config.json: invalid JSON"},
    };
    refused_changes(GPTQ, true, config, N(config));
    static const struct change tensors[] = {
        {DOWN "qzeros", DOWN "zeros", "qzeros' is missing"},
        {DOWN "scales", DOWN "scale", "scales' is missing"},
        {DOWN "g_idx", DOWN "perm", "g_idx' is missing"},
        {"qweight I32 16,64", "qweight I32 64,16", "shape"},
        {"qweight I32 16,64", "qweight F32 16,64", "type F32, expected I32"},
        {"qzeros I32 4,8", "qzeros I32 4,64", "shape"},
        {"qzeros I32 4,8", "qzeros U8 4,8", "type U8, expected I32"},
        {"scales F16 4,64", "scales F16 64,4", "shape"},
        {"scales F16 4,64", "scales I32 4,64", "type I32, expected F32, F16 or BF16"},
        {"g_idx I32 128", "g_idx I32 64", "shape"},
        {"g_idx I32 128", "g_idx I64 128", "type I64, expected I32"},
    };
    refused_changes(GPTQ, false, tensors, N(tensors));
}

static void m11_auto_round_and_awq(void **state)
{
    (void)state;
    static const struct change auto_round[] = {
        {"\"data_type\":\"int\"", "\"data_type\":\"mx_fp\"", "data_type 'mx_fp'"},
        {"auto_round:auto_gptq", "auto_round:marlin", "packing_format 'auto_round:marlin'"},
        {"auto_round:auto_gptq", "auto_round:auto_awq", "shape"},
        {"\"auto_round:auto_gptq\"", "4", "packing_format ''"},
        {"\"data_type\":\"int\"", "\"rotation_config\":{}", "rotation_config"},
        {"{\"model.layers.0.x\":{\"bits\":16}}", "7", "extra_config: found 7"},
        {"{\"bits\":16}", "16", "extra_config 'model.layers.0.x': found 16"},
        {"{\"bits\":16}", "{\"bits\":6}", "bits: found 6"},
        {"{\"bits\":16}", "{\"data_type\":\"fp\"}", "data_type 'fp', allowed int"},
        {"model.layers.0.x", "model.layers.0.mlp.down_proj", "says otherwise"},
        {"model.layers.0.x\":{\"bits\":16", "model.layers.0.mlp.down_proj\":{\"bits\":8",
         "expected (32, 64)"},
        {"model.layers.0.x", ".*(down|", "pattern '.*(down|'"},
    };
    refused_changes(AUTOROUND, true, auto_round, N(auto_round));
    static const struct change awq[] = {
        {"\"gemm\"", "\"gemv\"", "awq of version 'gemv', allowed gemm"},
        {"\"gemm\"", "\"gemv_fast\"", "awq of version 'gemv_fast'"},
        {"\"gemm\"", "\"marlin\"", "awq of version 'marlin'"},
        {"\"zero_point\":true", "\"zero_point\":false", "zero_point: found false"},
        {"\"bits\":4", "\"bits\":8", "bits: found 8, allowed 4"},
        {"\"bits\":4", "\"bits\":3", "bits: found 3, allowed 4"},
        {"\"group_size\":32", "\"group_size\":128", "shape (4, 8), expected (1, 8)"},
    };
    refused_changes(AWQ, true, awq, N(awq));
    static const struct change tensors[] = {
        {DOWN "qzeros", DOWN "zeros", "qzeros' is missing"},
        {DOWN "scales", DOWN "scale", "scales' is missing"},
        {"qweight I32 128,8", "qweight I32 16,64", "shape"},
    };
    refused_changes(AWQ, false, tensors, N(tensors));
}

static void m11_compressed_tensors(void **state)
{
    (void)state;
    static const struct change ints[] = {
        {"\"pack-quantized\"", "\"marlin-24\"", "format 'marlin-24'"},
        {"\"pack-quantized\"", "\"mixed-precision\"", "format 'mixed-precision'"},
        {"\"pack-quantized\"", "\"int-quantized\"", "num_bits: found 4"},
        {"\"pack-quantized\"", "\"nvfp4-pack-quantized\"", "type: found 'int'"},
        {"\"pack-quantized\"", "\"dense\"", "says otherwise"},
        {"\"format\":\"pack-quantized\",", "", "format ''"},
        {"\"num_bits\":4", "\"num_bits\":3", "num_bits: found 3"},
        {"\"num_bits\":4", "\"num_bits\":8", "shape (64, 16), expected (64, 32)"},
        {"\"num_bits\":4", "\"num_bits\":null", "num_bits: found null"},
        {"\"type\":\"int\"", "\"type\":\"float\"", "type: found 'float'"},
        {"\"strategy\":\"group\"", "\"strategy\":\"tensor\"", "strategy: found 'tensor'"},
        {"\"strategy\":\"group\"", "\"strategy\":\"channel\"", "shape (64, 4), expected (64, 1)"},
        {"\"group_size\":32", "\"group_size\":64", "shape (64, 4), expected (64, 2)"},
        {"\"group_size\":32", "\"group_size\":null", "group_size: found null"},
        {"\"symmetric\":false", "\"symmetric\":0", "symmetric: found 0"},
        {"[\"Linear\"]", "\"Linear\"", "targets: found 'Linear'"},
        {"[\"Linear\"]", "[1]", "target: found 1"},
        {"[\"Linear\"]", "[\"re:[\"]", "pattern '['"},
        {"\"weights\":{", "\"input\":{", "say nothing of weights"},
        {"\"weights\":{", "\"weights\":[],\"input\":{", "weights of 'group_0': found"},
        {"\"config_groups\":{\"group_0\"", "\"config_groups\":[],\"groups\":{\"group_0\"",
         "config_groups: found"},
        {"\"config_groups\"", "\"groups\"", "config_groups: found nothing"},
        {"\"ignore\"", "\"sparsity_config\":{\"format\":\"sparse-24-bitmask\"},\"ignore\"",
         "sparsity_config of format 'sparse-24-bitmask'"},
        {"\"ignore\"", "\"transform_config\":{\"config_groups\":{\"R1\":{}}},\"ignore\"",
         "transform_config"},
        {"{\"group_0\":",
         "{\"g\":{\"targets\":[\"Linear\"],\"weights\":{\"num_bits\":8,"
         "\"type\":\"int\",\"strategy\":\"channel\"}},\"group_0\":",
         "two config groups with the target Linear"},
    };
    refused_changes(CT_INT, true, ints, N(ints));
    static const struct change tensors[] = {
        {DOWN "weight_scale", DOWN "scale", "weight_scale' is missing"},
        {DOWN "weight_zero_point", DOWN "zero", "weight_zero_point' is missing"},
        {DOWN "weight_g_idx", DOWN "order", "weight_g_idx' is missing"},
        {"weight_packed I32", "weight_packed I64", "type I64, expected U8"},
        {"weight_packed I32 64,16", "weight_packed I32 16,64", "shape"},
        {"weight_scale BF16 64,4", "weight_scale BF16 64,8", "shape"},
        {"weight_zero_point I32 8,4", "weight_zero_point I8 64,4", "type I8, expected I32"},
    };
    refused_changes(CT_INT, false, tensors, N(tensors));
    static const struct change int8[] = {
        {"\"num_bits\":8", "\"num_bits\":4", "num_bits: found 4"},
        {"\"strategy\":\"channel\"", "\"strategy\":\"group\"", "strategy: found 'group'"},
        {"\"symmetric\":true", "\"symmetric\":false", "symmetric: found false"},
        {"\"type\":\"int\"", "\"type\":\"float\"", "type: found 'float'"},
        {"\"int-quantized\"", "\"float-quantized\"", "type: found 'int'"},
    };
    refused_changes(CT_INT8, true, int8, N(int8));
    static const struct change int8_tensors[] = {
        {DOWN "weight_scale", DOWN "scale", "weight_scale' is missing"},
        {"weight_scale BF16 64,1", "weight_scale BF16 64,2", "shape"},
        {"weight_scale BF16 64,1", "weight_scale I8 64,1", "type I8"},
        {"weight I8 64,128", "weight I8 128,64", "shape"},
        {"weight I8 64,128", "weight F8_E4M3 64,128", "says otherwise"},
    };
    refused_changes(CT_INT8, false, int8_tensors, N(int8_tensors));
}

static void m11_floats(void **state)
{
    (void)state;
    static const struct change fp8[] = {
        {"[32,64]", "[32]", "weight_block_size: found"},
        {"[32,64]", "[32,0]", "weight_block_size: found"},
        {"[32,64]", "[32,-64]", "weight_block_size: found"},
        {"[32,64]", "[32,\"64\"]", "weight_block_size: found"},
        {"[32,64]", "32", "weight_block_size: found 32"},
        {"[32,64]", "[64,64]", "shape (2, 2), expected (1, 2)"},
        {"[32,64]", "null", "shape (2, 2), allowed one scale"},
        {"\"e4m3\"", "\"e5m2\"", "fmt 'e5m2'"},
        {"\"fmt\":\"e4m3\"", "\"expert_dtype\":\"fp4\"", "expert_dtype 'fp4'"},
    };
    refused_changes(FP8, true, fp8, N(fp8));
    static const struct change fp8_tensors[] = {
        {DOWN "weight_scale_inv", DOWN "inv", "weight_scale' is missing"},
        {"weight_scale_inv F32 2,2", "weight_scale_inv F32 2,3", "shape"},
        {"weight_scale_inv F32 2,2", "weight_scale_inv F32 -", "shape"},
        {"weight_scale_inv F32 2,2", "weight_scale_inv U8 2,2", "type U8"},
        {"weight F8_E4M3 64,128", "weight F8_E4M3 64,64", "shape"},
        {"weight F8_E4M3 64,128", "weight I8 64,128", "says otherwise"},
    };
    refused_changes(FP8, false, fp8_tensors, N(fp8_tensors));
    static const struct change nvfp4[] = {
        {"\"group_size\":16", "\"group_size\":32", "group_size: found 32, allowed 16"},
        {"\"num_bits\":4", "\"num_bits\":8", "num_bits: found 8"},
        {"\"nvfp4-pack-quantized\"", "\"mxfp4-pack-quantized\"", "group_size: found 16"},
    };
    refused_changes(CT_NVFP4, true, nvfp4, N(nvfp4));
    static const struct change nvfp4_tensors[] = {
        {DOWN "weight_scale", DOWN "scale", "weight_scale' is missing"},
        {DOWN "weight_global_scale", DOWN "global", "weight_global_scale' is missing"},
        {"weight_scale F8_E4M3 64,8", "weight_scale F8_E4M3 64,4", "shape"},
        {"weight_scale F8_E4M3 64,8", "weight_scale U8 64,8", "says otherwise"},
        {"weight_scale F8_E4M3 64,8", "weight_scale F32 64,8", "type F32, expected F8_E4M3"},
        {"weight_global_scale F32 1", "weight_global_scale F32 2", "shape"},
        {"weight_packed U8 64,64", "weight_packed U8 64,128", "shape"},
    };
    refused_changes(CT_NVFP4, false, nvfp4_tensors, N(nvfp4_tensors));
    static const struct change modelopt[] = {
        {"\"NVFP4\"", "\"W4A8_AWQ\"", "found W4A8_AWQ, allowed NVFP4"},
        {"\"NVFP4\"", "\"FP8\"", "says otherwise"},
        {"\"quant_algo\":\"NVFP4\",", "", "found nothing, allowed NVFP4"},
        {"\"group_size\":16", "\"group_size\":32", "group_size: found 32"},
    };
    refused_changes(MODELOPT, true, modelopt, N(modelopt));
    static const struct change modelopt_tensors[] = {
        {DOWN "weight_scale_2", DOWN "scale_2", "weight_scale_2' is missing"},
        {DOWN "weight_scale ", DOWN "other ", "weight_scale' is missing"},
        {DOWN "weight U8 64,64\n", DOWN "weight U8 64,64\n" DOWN "pre_quant_scale F32 128\n",
         "pre_quant_scale"},
    };
    refused_changes(MODELOPT, false, modelopt_tensors, N(modelopt_tensors));
    static const struct change mxfp4[] = {
        {DOWN "weight_scale", DOWN "scale", "weight_scale' is missing"},
        {"weight_scale U8 64,4", "weight_scale U8 64,8", "shape"},
        {"weight_packed U8 64,64", "weight_packed U8 64,32", "shape"},
    };
    refused_changes(MXFP4, false, mxfp4, N(mxfp4));
}

static void m10_containers(void **state)
{
    (void)state;
    struct folder f = folder_new();
    const struct base *b = &bases[DENSE];
    char path[512];
    put_model(&f, b->config, b->tensors);
    folder_path(&f, "model.safetensors", path, sizeof path);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    for (int i = 0; i < 16; i++) { // cut short at 16 places
        assert_int_equal(truncate(path, st.st_size * i / 16), 0);
        refused(f.path, "truncated", "model.safetensors: ");
        folder_tensors(&f, "model.safetensors", b->tensors);
    }
    assert_int_equal(truncate(path, st.st_size + 1), 0);
    refused(f.path, "longer", "tensors end at byte");
    unlink(path);
    refused(f.path, "no file", "has no *.safetensors");
    folder_text(&f, "model.safetensors.index.json", "{\"weight_map\":{\"a\":\"../x\"}}");
    refused(f.path, "index", "is no *.safetensors");
    folder_text(&f, "config.json", "");
    refused(f.path, "empty config", "config.json: invalid JSON");
    folder_text(&f, "config.json", "\xef\xbb\xbf{}");
    refused(f.path, "byte order mark", "config.json: invalid JSON");
    folder_text(&f, "config.json", "{\"a\":1,\"a\":2}");
    refused(f.path, "twice", "config.json: invalid JSON");
    folder_text(&f, "config.json", "{\"a\":\"\xff\"}");
    refused(f.path, "no UTF-8", "config.json: invalid JSON");
    folder_text(&f, "config.json", "{\"a\":1}{");
    refused(f.path, "two", "config.json: invalid JSON");
    folder_put(&f, "config.json", "{", 1, (64 << 20) + 1);
    refused(f.path, "too large", "allowed 67108864");
    folder_remove(&f);
}

static void json_bombs(void **state)
{
    (void)state;
    static const struct {
        const char *unit, *needle;
        size_t bytes;
    } bombs[] = {
        {"[", "nested deeper", 1 << 20}, {"{\"a\":", "nested deeper", 1 << 20},
        {"[],", "JSON", 8 << 20},        {"0,", "JSON has more than", 8 << 20},
        {"\"", "invalid JSON", 1 << 20}, {"\\", "invalid JSON", 1 << 20},
        {"9", "invalid JSON", 1 << 20},  {"{}", "invalid JSON", 1 << 20},
    };
    struct folder f = folder_new();
    for (size_t i = 0; i < N(bombs); i++) {
        struct buf b = {0};
        buf_char(&b, '[');
        while (b.len < bombs[i].bytes)
            buf_str(&b, bombs[i].unit);
        folder_put(&f, "config.json", b.data, b.len, 0);
        refused(f.path, bombs[i].unit, bombs[i].needle);
        buf_fini(&b);
    }
    folder_remove(&f);
}

// ---- GGUF

static const char gguf_base[] = "general.architecture str llama\n"
                                "llama.block_count u32 1\n"
                                "llama.context_length u32 2048\n"
                                "llama.embedding_length u32 64\n"
                                "llama.feed_forward_length u32 128\n"
                                "llama.attention.head_count u32 2\n"
                                "llama.attention.head_count_kv u32 1\n"
                                "llama.attention.layer_norm_rms_epsilon f32 1e-5\n"
                                "llama.rope.freq_base f32 10000\n"
                                "llama.vocab_size u32 32\n"
                                "T token_embd.weight 0 64,32\n"
                                "T output_norm.weight 0 64\n"
                                "T output.weight 8 64,32\n"
                                "T blk.0.attn_norm.weight 0 64\n"
                                "T blk.0.attn_q.weight 8 64,64\n"
                                "T blk.0.attn_k.weight 2 64,32\n"
                                "T blk.0.attn_v.weight 8 64,32\n"
                                "T blk.0.attn_output.weight 1 64,64\n"
                                "T blk.0.ffn_norm.weight 0 64\n"
                                "T blk.0.ffn_gate.weight 8 64,128\n"
                                "T blk.0.ffn_up.weight 8 64,128\n"
                                "T blk.0.ffn_down.weight 8 128,64\n";

// Lines "KEY TYPE VALUE" and "T NAME GGMLTYPE DIMS" (innermost first) as a GGUF file.
static void put_gguf(const struct folder *f, const char *name, const char *lines)
{
    struct buf kvs = {0}, tensors = {0}, b = {0};
    uint64_t n_kv = 0, n_tensor = 0, at = 0;
    for (const char *line = lines; *line;) {
        char first[80], second[80], third[80], fourth[80] = "";
        if (sscanf(line, "%79s %79s %79s %79[0-9,]", first, second, third, fourth) < 3) abort();
        if (strcmp(first, "T") == 0) {
            uint64_t dims[4], n = 1;
            uint32_t n_dim = 0;
            const uint32_t type = (uint32_t)strtoul(third, NULL, 10);
            for (char *d = fourth; *d && n_dim < 4; d += *d == ',')
                n *= dims[n_dim++] = strtoull(d, &d, 10);
            make_tensor(&tensors, second, n_dim, dims, type, at);
            const enum dtype t = dtype_of_ggml(type);
            at += (dtype_row_bytes(t, n) + 31) / 32 * 32;
            n_tensor++;
        } else if (strcmp(second, "str") == 0) {
            make_str(&kvs, first, third);
            n_kv++;
        } else if (strcmp(second, "f32") == 0) {
            make_f32(&kvs, first, strtof(third, NULL));
            n_kv++;
        } else {
            make_int(&kvs, first, strcmp(second, "i32") ? GGUF_U32 : GGUF_I32,
                     strtoull(third, NULL, 10), 4);
            n_kv++;
        }
        line += strcspn(line, "\n");
        line += *line == '\n';
    }
    make_head(&b, 3, n_tensor, n_kv);
    buf_add(&b, kvs.data, kvs.len);
    buf_add(&b, tensors.data, tensors.len);
    make_pad(&b, 32);
    folder_put(f, name, b.data, b.len, b.len + at);
    buf_fini(&kvs);
    buf_fini(&tensors);
    buf_fini(&b);
}

static void m11_gguf(void **state)
{
    (void)state;
    static const struct change changes[] = {
        {"str llama", "str lama", "lama"},
        {"general.architecture", "general.arch", "general.architecture"},
        {"general.architecture str llama", "general.architecture u32 7", "general.architecture"},
        {"llama.block_count u32 1", "llama.block_count u32 0", "block_count"},
        {"llama.block_count u32 1", "llama.block_count u32 2", "blk.1."},
        {"llama.block_count u32 1", "llama.block_count u32 1000000", "block_count"},
        {"llama.block_count u32 1", "llama.block_count str one", "block_count"},
        {"llama.block_count u32 1", "llama.block_count i32 -1", "block_count"},
        {"llama.block_count u32 1\n", "", "block_count"},
        {"llama.context_length u32 2048", "llama.context_length u32 0", "context_length"},
        {"llama.embedding_length u32 64", "llama.embedding_length u32 0", "embedding_length"},
        {"llama.embedding_length u32 64", "llama.embedding_length u32 96", "shape"},
        {"llama.embedding_length u32 64", "llama.embedding_length u32 4294967295",
         "embedding_length"},
        {"llama.embedding_length u32 64\n", "", "embedding_length"},
        {"llama.feed_forward_length u32 128", "llama.feed_forward_length u32 256", "shape"},
        {"llama.feed_forward_length u32 128\n", "", "feed_forward_length"},
        {"llama.attention.head_count u32 2", "llama.attention.head_count u32 0", "head_count"},
        {"llama.attention.head_count u32 2", "llama.attention.head_count u32 3", "3 heads"},
        {"llama.attention.head_count_kv u32 1", "llama.attention.head_count_kv u32 0",
         "head_count_kv"},
        {"llama.attention.head_count_kv u32 1", "llama.attention.head_count_kv u32 3",
         "not a multiple of 3"},
        {"rms_epsilon f32 1e-5", "rms_epsilon f32 -1", "rms_epsilon"},
        {"rms_epsilon f32 1e-5", "rms_epsilon f32 nan", "rms_epsilon"},
        {"rms_epsilon f32 1e-5", "rms_epsilon str x", "rms_epsilon"},
        {"freq_base f32 10000", "freq_base f32 0", "freq_base"},
        {"freq_base f32 10000", "freq_base f32 inf", "freq_base"},
        {"freq_base f32 10000", "freq_base f32 nan", "freq_base"},
        {"llama.rope.freq_base f32 10000", "llama.rope.scaling.type str magic", "scaling.type"},
        {"token_embd.weight 0 64,32", "token_embd.weight 0 64,33", "the embedding has 33 rows"},
        {"token_embd.weight", "token_embedding.weight", "token_embd"},
        {"output_norm.weight 0 64", "output_norm.weight 8 64", "output_norm"},
        {"output_norm.weight 0 64", "output_norm.weight 0 64,64", "shape"},
        {"T output_norm.weight 0 64\n", "", "output_norm"},
        {"T blk.0.attn_norm.weight 0 64\n", "", "attn_norm"},
        {"attn_q.weight 8 64,64", "attn_q.weight 8 64,32", "shape"},
        {"attn_q.weight 8 64,64", "attn_q.weight 26 64,64", "attn_q"},
        {"attn_q.weight 8 64,64", "attn_q.weight 12 64,64", "multiples of 256"},
        {"attn_q.weight 8 64,64", "attn_q.weight 4 64,64", "type number 4"},
        {"attn_q.weight 8 64,64", "attn_q.weight 99 64,64", "type number 99"},
        {"attn_q.weight 8 64,64", "attn_q.weight 0 0,64", "dimension"},
        {"T blk.0.attn_k.weight 2 64,32\n", "", "attn_k"},
        {"blk.0.attn_v.weight", "blk.0.attn_k.weight", "is there twice"},
        {"T blk.0.ffn_gate.weight 8 64,128\n", "", "ffn_gate"},
        {"T blk.0.ffn_down.weight 8 128,64\n", "", "ffn_down"},
        {"ffn_down.weight 8 128,64", "ffn_down.weight 8 64,128", "shape"},
    };
    struct folder f = folder_new();
    char path[512];
    folder_path(&f, "m.gguf", path, sizeof path);
    put_gguf(&f, "m.gguf", gguf_base);
    accepted(path, "gguf");
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    for (int i = 0; i < 16; i++) {
        assert_int_equal(truncate(path, st.st_size * i / 16), 0);
        refused(path, "gguf truncated", "m.gguf: ");
        put_gguf(&f, "m.gguf", gguf_base);
    }
    for (size_t i = 0; i < N(changes); i++) {
        char *text = make_replaced(gguf_base, changes[i].from, changes[i].to);
        put_gguf(&f, "m.gguf", text);
        refused(path, changes[i].to, changes[i].needle);
        free(text);
    }
    folder_remove(&f);
}

static void enough_and_small(void **state)
{
    (void)state;
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    print_message("%d bad models refused, peak %ld KiB\n", n_refused, use.ru_maxrss);
    assert_true(n_refused >= 200);
    assert_true(SANITIZED ||
                use.ru_maxrss < 256 << 10); // with the largest JSON that is read at all
}

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_ones_open),
        cmocka_unit_test(m11_numbers),
        cmocka_unit_test(m11_tensors),
        cmocka_unit_test(m11_gptq),
        cmocka_unit_test(m11_auto_round_and_awq),
        cmocka_unit_test(m11_compressed_tensors),
        cmocka_unit_test(m11_floats),
        cmocka_unit_test(m10_containers),
        cmocka_unit_test(json_bombs),
        cmocka_unit_test(m11_gguf),
        cmocka_unit_test(enough_and_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
