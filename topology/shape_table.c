// Numbers are those of the releases' config.json, from model cards, papers and the defaults of
// transformers. Which matrices a release quantises: of AutoRound and compressed-tensors int4 all of
// the layers but routers; of gpt-oss and of Mistral Small 4 the routed experts (the latter from the
// size of the release); of FP8 all of the layers but routers.
#include "topology/shape_table.h"

#define LAYERS_OF(t)                                                                               \
    {                                                                                              \
        [CLASS_EMBED] = DT_BF16, [CLASS_HEAD] = DT_BF16, [CLASS_MIXER] = t, [CLASS_DENSE] = t,     \
        [CLASS_EXPERT] = t, [CLASS_SHARED] = t, [CLASS_FLOAT] = DT_BF16                            \
    }
#define EXPERTS_OF(t)                                                                              \
    {                                                                                              \
        [CLASS_EMBED] = DT_BF16, [CLASS_HEAD] = DT_BF16, [CLASS_MIXER] = DT_BF16,                  \
        [CLASS_DENSE] = DT_BF16, [CLASS_EXPERT] = t, [CLASS_SHARED] = DT_BF16,                     \
        [CLASS_FLOAT] = DT_BF16                                                                    \
    }

static const struct shape_type bf16 = {"BF16", LAYERS_OF(DT_BF16)};
static const struct shape_type int4 = {"int4", LAYERS_OF(DT_Q4_0)};
static const struct shape_type fp8 = {"FP8", LAYERS_OF(DT_FP8)};
static const struct shape_type mxfp4 = {"MXFP4", EXPERTS_OF(DT_MXFP4)};
static const struct shape_type nvfp4 = {"NVFP4", EXPERTS_OF(DT_NVFP4)};

#define LLAMA3_ROPE(factor)                                                                        \
    "\"rope_theta\":500000.0,\"rope_scaling\":{\"factor\":" factor ",\"high_freq_factor\":4.0,"    \
    "\"low_freq_factor\":1.0,\"original_max_position_embeddings\":8192,"                           \
    "\"rope_type\":\"llama3\"},\"max_position_embeddings\":131072,"

static const char llama_3_1_8b[] =
    "\"model_type\":\"llama\",\"hidden_size\":4096,\"intermediate_size\":14336,"
    "\"num_attention_heads\":32,\"num_key_value_heads\":8,"
    "\"vocab_size\":128256," LLAMA3_ROPE(
        "8.0") "\"rms_norm_eps\":1e-5,\"tie_word_embeddings\":false";

static const char llama_3_2_1b[] =
    "\"model_type\":\"llama\",\"hidden_size\":2048,\"intermediate_size\":8192,"
    "\"num_attention_heads\":32,\"num_key_value_heads\":8,\"head_dim\":64,"
    "\"vocab_size\":128256," LLAMA3_ROPE(
        "32.0") "\"rms_norm_eps\":1e-5,\"tie_word_embeddings\":true";

static const char llama_3_3_70b[] =
    "\"model_type\":\"llama\",\"hidden_size\":8192,\"intermediate_size\":28672,"
    "\"num_attention_heads\":64,\"num_key_value_heads\":8,\"head_dim\":128,"
    "\"vocab_size\":128256," LLAMA3_ROPE(
        "8.0") "\"rms_norm_eps\":1e-5,\"tie_word_embeddings\":false";

static const char smollm2_135m[] =
    "\"model_type\":\"llama\",\"hidden_size\":576,\"intermediate_size\":1536,"
    "\"num_attention_heads\":9,\"num_key_value_heads\":3,\"vocab_size\":49152,"
    "\"rope_theta\":100000.0,\"max_position_embeddings\":8192,\"rms_norm_eps\":1e-5,"
    "\"tie_word_embeddings\":true";

#define QWEN3                                                                                      \
    "\"model_type\":\"qwen3\",\"head_dim\":128,\"num_key_value_heads\":8,"                         \
    "\"vocab_size\":151936,\"rope_theta\":1000000.0,\"max_position_embeddings\":40960,"            \
    "\"rms_norm_eps\":1e-6,"

static const char qwen3_0_6b[] =
    QWEN3 "\"hidden_size\":1024,\"intermediate_size\":3072,\"num_attention_heads\":16,"
          "\"tie_word_embeddings\":true";

static const char qwen3_8b[] =
    QWEN3 "\"hidden_size\":4096,\"intermediate_size\":12288,\"num_attention_heads\":32,"
          "\"tie_word_embeddings\":false";

static const char qwen3_32b[] =
    QWEN3 "\"hidden_size\":5120,\"intermediate_size\":25600,\"num_attention_heads\":64,"
          "\"tie_word_embeddings\":false";

static const char qwen3_30b_a3b[] =
    "\"model_type\":\"qwen3_moe\",\"hidden_size\":2048,\"intermediate_size\":6144,"
    "\"num_attention_heads\":32,\"num_key_value_heads\":4,\"head_dim\":128,"
    "\"moe_intermediate_size\":768,\"num_experts\":128,\"num_experts_per_tok\":8,"
    "\"norm_topk_prob\":true,\"decoder_sparse_step\":1,\"mlp_only_layers\":[],"
    "\"vocab_size\":151936,\"rope_theta\":1000000.0,\"max_position_embeddings\":40960,"
    "\"rms_norm_eps\":1e-6,\"tie_word_embeddings\":false";

#define QWEN_DELTA                                                                                 \
    "\"hidden_size\":2048,\"num_attention_heads\":16,\"num_key_value_heads\":2,\"head_dim\":256,"  \
    "\"full_attention_interval\":4,\"linear_conv_kernel_dim\":4,\"linear_key_head_dim\":128,"      \
    "\"linear_value_head_dim\":128,\"linear_num_key_heads\":16,\"linear_num_value_heads\":32,"     \
    "\"moe_intermediate_size\":512,\"shared_expert_intermediate_size\":512,"                       \
    "\"max_position_embeddings\":262144,\"rms_norm_eps\":1e-6,\"tie_word_embeddings\":false,"

static const char qwen3_next_80b_a3b[] =
    "\"model_type\":\"qwen3_next\"," QWEN_DELTA "\"intermediate_size\":5120,\"num_experts\":512,"
    "\"num_experts_per_tok\":10,\"norm_topk_prob\":true,\"decoder_sparse_step\":1,"
    "\"mlp_only_layers\":[],\"vocab_size\":151936,\"rope_theta\":10000000.0,"
    "\"partial_rotary_factor\":0.25";

static const char qwen3_6_35b_a3b[] =
    "\"model_type\":\"qwen3_5_moe_text\",\"mtp_num_hidden_layers\":1," QWEN_DELTA
    "\"num_experts\":256,"
    "\"num_experts_per_tok\":8,\"vocab_size\":248320,"
    "\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":10000000.0,"
    "\"partial_rotary_factor\":0.25,\"mrope_interleaved\":true,\"mrope_section\":[11,11,10]}";

static const char mistral_small_4_119b[] =
    "\"model_type\":\"mistral4\",\"hidden_size\":4096,\"intermediate_size\":12288,"
    "\"moe_intermediate_size\":2048,\"num_attention_heads\":32,\"num_key_value_heads\":32,"
    "\"n_shared_experts\":1,\"n_routed_experts\":128,\"num_experts_per_tok\":4,"
    "\"routed_scaling_factor\":1.0,\"n_group\":1,\"topk_group\":1,\"norm_topk_prob\":true,"
    "\"first_k_dense_replace\":0,\"kv_lora_rank\":256,\"q_lora_rank\":1024,"
    "\"qk_rope_head_dim\":64,\"qk_nope_head_dim\":64,\"v_head_dim\":128,\"head_dim\":128,"
    "\"vocab_size\":131072,\"max_position_embeddings\":1048576,\"rms_norm_eps\":1e-6,"
    "\"rope_interleave\":true,\"rope_parameters\":{\"rope_type\":\"yarn\",\"rope_theta\":10000.0,"
    "\"factor\":128.0,\"original_max_position_embeddings\":8192,"
    "\"max_position_embeddings\":1048576,\"beta_fast\":32.0,\"beta_slow\":1.0,"
    "\"mscale\":1.0,\"mscale_all_dim\":1.0,\"llama_4_scaling_beta\":0.1,"
    "\"partial_rotary_factor\":0.5},\"tie_word_embeddings\":false";

#define GPT_OSS                                                                                    \
    "\"model_type\":\"gpt_oss\",\"hidden_size\":2880,\"intermediate_size\":2880,"                  \
    "\"num_attention_heads\":64,\"num_key_value_heads\":8,\"head_dim\":64,"                        \
    "\"attention_bias\":true,\"sliding_window\":128,\"num_experts_per_tok\":4,"                    \
    "\"swiglu_limit\":7.0,\"vocab_size\":201088,\"max_position_embeddings\":131072,"               \
    "\"initial_context_length\":4096,\"rope_theta\":150000.0,\"rope_scaling\":{"                   \
    "\"rope_type\":\"yarn\",\"factor\":32.0,\"beta_fast\":32.0,\"beta_slow\":1.0,"                 \
    "\"truncate\":false,\"original_max_position_embeddings\":4096},\"rms_norm_eps\":1e-5,"         \
    "\"tie_word_embeddings\":false,"

static const char gpt_oss_20b[] = GPT_OSS "\"num_local_experts\":32";
static const char gpt_oss_120b[] = GPT_OSS "\"num_local_experts\":128";

#define GEMMA3                                                                                     \
    "\"model_type\":\"gemma3_text\",\"hidden_activation\":\"gelu_pytorch_tanh\","                  \
    "\"sliding_window_pattern\":6,\"rope_theta\":1000000.0,\"rope_local_base_freq\":10000.0,"      \
    "\"max_position_embeddings\":131072,\"rms_norm_eps\":1e-6,\"tie_word_embeddings\":true,"       \
    "\"vocab_size\":262208,\"rope_scaling\":{\"factor\":8.0,\"rope_type\":\"linear\"},"            \
    "\"sliding_window\":1024,"

static const char gemma_3_27b[] =
    GEMMA3 "\"hidden_size\":5376,\"intermediate_size\":21504,\"num_attention_heads\":32,"
           "\"num_key_value_heads\":16,\"head_dim\":128,\"query_pre_attn_scalar\":168";

static const char deepseek_v3[] =
    "\"model_type\":\"deepseek_v3\",\"hidden_size\":7168,\"intermediate_size\":18432,"
    "\"moe_intermediate_size\":2048,\"num_attention_heads\":128,\"num_key_value_heads\":128,"
    "\"n_shared_experts\":1,\"n_routed_experts\":256,\"num_experts_per_tok\":8,"
    "\"routed_scaling_factor\":2.5,\"n_group\":8,\"topk_group\":4,\"norm_topk_prob\":true,"
    "\"topk_method\":\"noaux_tc\",\"scoring_func\":\"sigmoid\",\"first_k_dense_replace\":3,"
    "\"moe_layer_freq\":1,\"kv_lora_rank\":512,\"q_lora_rank\":1536,\"qk_rope_head_dim\":64,"
    "\"qk_nope_head_dim\":128,\"v_head_dim\":128,\"vocab_size\":129280,"
    "\"max_position_embeddings\":163840,\"rms_norm_eps\":1e-6,\"rope_theta\":10000.0,"
    "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":40.0,\"beta_fast\":32.0,\"beta_slow\":1.0,"
    "\"mscale\":1.0,\"mscale_all_dim\":1.0,\"original_max_position_embeddings\":4096},"
    "\"tie_word_embeddings\":false";

static const char glm_4_5_air[] =
    "\"model_type\":\"glm4_moe\",\"hidden_size\":4096,\"intermediate_size\":10944,"
    "\"moe_intermediate_size\":1408,\"num_attention_heads\":96,\"num_key_value_heads\":8,"
    "\"head_dim\":128,\"attention_bias\":true,\"use_qk_norm\":false,\"n_shared_experts\":1,"
    "\"n_routed_experts\":128,\"num_experts_per_tok\":8,\"routed_scaling_factor\":1.0,"
    "\"n_group\":1,\"topk_group\":1,\"norm_topk_prob\":true,\"first_k_dense_replace\":1,"
    "\"partial_rotary_factor\":0.5,\"rope_theta\":1000000.0,\"vocab_size\":151552,"
    "\"max_position_embeddings\":131072,\"rms_norm_eps\":1e-5,\"tie_word_embeddings\":false";

static const char mixtral_8x7b[] =
    "\"model_type\":\"mixtral\",\"hidden_size\":4096,\"intermediate_size\":14336,"
    "\"num_attention_heads\":32,\"num_key_value_heads\":8,\"num_local_experts\":8,"
    "\"num_experts_per_tok\":2,\"vocab_size\":32000,\"rope_theta\":1000000.0,"
    "\"max_position_embeddings\":32768,\"rms_norm_eps\":1e-5,\"tie_word_embeddings\":false";

static const char minimax_m2[] =
    "\"model_type\":\"minimax_m2\",\"hidden_size\":3072,\"intermediate_size\":1536,"
    "\"num_attention_heads\":48,\"num_key_value_heads\":8,\"head_dim\":128,"
    "\"rotary_dim\":64,\"use_qk_norm\":true,\"qk_norm_type\":\"per_layer\","
    "\"num_local_experts\":256,\"num_experts_per_tok\":8,\"scoring_func\":\"sigmoid\","
    "\"use_routing_bias\":true,\"vocab_size\":200064,\"rope_theta\":5000000.0,"
    "\"max_position_embeddings\":196608,\"rms_norm_eps\":1e-6,\"tie_word_embeddings\":false";

const struct shape_entry shape_table[] = {
    {"deepseek-v3", &fp8, 61, deepseek_v3},
    {"gemma-3-27b", &bf16, 62, gemma_3_27b},
    {"glm-4.5-air", &bf16, 46, glm_4_5_air},
    {"gpt-oss-20b", &mxfp4, 24, gpt_oss_20b},
    {"gpt-oss-120b", &mxfp4, 36, gpt_oss_120b},
    {"llama-3.1-8b", &bf16, 32, llama_3_1_8b},
    {"llama-3.2-1b", &bf16, 16, llama_3_2_1b},
    {"llama-3.3-70b-int4", &int4, 80, llama_3_3_70b},
    {"minimax-m2", &fp8, 62, minimax_m2},
    {"mistral-small-4-119b-nvfp4", &nvfp4, 36, mistral_small_4_119b},
    {"mixtral-8x7b", &bf16, 32, mixtral_8x7b},
    {"qwen3-0.6b", &bf16, 28, qwen3_0_6b},
    {"qwen3-8b", &bf16, 36, qwen3_8b},
    {"qwen3-32b", &bf16, 64, qwen3_32b},
    {"qwen3-30b-a3b", &bf16, 48, qwen3_30b_a3b},
    {"qwen3-next-80b-a3b", &bf16, 48, qwen3_next_80b_a3b},
    {"qwen3.6-35b-a3b", &bf16, 40, qwen3_6_35b_a3b},
    {"qwen3.6-35b-a3b-int4", &int4, 40, qwen3_6_35b_a3b},
    {"smollm2-135m", &bf16, 30, smollm2_135m},
};
const int32_t shape_table_n = sizeof shape_table / sizeof *shape_table;
