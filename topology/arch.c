#include "topology/arch.h"

#include <stdio.h>
#include <string.h>

#define S(x) SLOT_BIT(SLOT_##x)
#define QKV_BIAS (S(ATTN_Q_BIAS) | S(ATTN_K_BIAS) | S(ATTN_V_BIAS))
#define QK_NORM (S(ATTN_Q_NORM) | S(ATTN_K_NORM))
#define POST_NORMS (S(ATTN_POST_NORM) | S(FFN_POST_NORM))

// ---- names in config.json's world

static const struct arch_name hf_common[] = {
    {SLOT_ATTN_NORM, TAKE_ALL, "input_layernorm.weight"},
    {SLOT_ATTN_Q, TAKE_ALL, "self_attn.q_proj"},
    {SLOT_ATTN_Q, TAKE_QKV_Q, "self_attn.qkv_proj"},
    {SLOT_ATTN_K, TAKE_ALL, "self_attn.k_proj"},
    {SLOT_ATTN_K, TAKE_QKV_K, "self_attn.qkv_proj"},
    {SLOT_ATTN_V, TAKE_ALL, "self_attn.v_proj"},
    {SLOT_ATTN_V, TAKE_QKV_V, "self_attn.qkv_proj"},
    {SLOT_ATTN_OUT, TAKE_ALL, "self_attn.o_proj"},
    {SLOT_ATTN_OUT, TAKE_ALL, "linear_attn.out_proj"},
    {SLOT_ATTN_Q_BIAS, TAKE_ALL, "self_attn.q_proj.bias"},
    {SLOT_ATTN_K_BIAS, TAKE_ALL, "self_attn.k_proj.bias"},
    {SLOT_ATTN_V_BIAS, TAKE_ALL, "self_attn.v_proj.bias"},
    {SLOT_ATTN_OUT_BIAS, TAKE_ALL, "self_attn.o_proj.bias"},
    {SLOT_ATTN_Q_NORM, TAKE_ALL, "self_attn.q_norm.weight"},
    {SLOT_ATTN_K_NORM, TAKE_ALL, "self_attn.k_norm.weight"},
    {SLOT_ATTN_SINKS, TAKE_ALL, "self_attn.sinks"},
    {SLOT_MLA_Q_A, TAKE_ALL, "self_attn.q_a_proj"},
    {SLOT_MLA_Q_A_NORM, TAKE_ALL, "self_attn.q_a_layernorm.weight"},
    {SLOT_MLA_Q_B, TAKE_ALL, "self_attn.q_b_proj"},
    {SLOT_MLA_KV_A, TAKE_ALL, "self_attn.kv_a_proj_with_mqa"},
    {SLOT_MLA_KV_NORM, TAKE_ALL, "self_attn.kv_a_layernorm.weight"},
    {SLOT_MLA_K_B, TAKE_HEADS_K, "self_attn.kv_b_proj"},
    {SLOT_MLA_V_B, TAKE_HEADS_V, "self_attn.kv_b_proj"},
    {SLOT_DELTA_QKV, TAKE_ALL, "linear_attn.in_proj_qkv"},
    {SLOT_DELTA_QKV, TAKE_QKVZ_QKV, "linear_attn.in_proj_qkvz"},
    {SLOT_DELTA_Z, TAKE_ALL, "linear_attn.in_proj_z"},
    {SLOT_DELTA_Z, TAKE_QKVZ_Z, "linear_attn.in_proj_qkvz"},
    {SLOT_DELTA_A, TAKE_ALL, "linear_attn.in_proj_a"},
    {SLOT_DELTA_A, TAKE_BA_A, "linear_attn.in_proj_ba"},
    {SLOT_DELTA_B, TAKE_ALL, "linear_attn.in_proj_b"},
    {SLOT_DELTA_B, TAKE_BA_B, "linear_attn.in_proj_ba"},
    {SLOT_DELTA_CONV, TAKE_ALL, "linear_attn.conv1d.weight"},
    {SLOT_DELTA_A_NEG, TAKE_ALL, "linear_attn.A_log"},
    {SLOT_DELTA_DT_BIAS, TAKE_ALL, "linear_attn.dt_bias"},
    {SLOT_DELTA_NORM, TAKE_ALL, "linear_attn.norm.weight"},
    {SLOT_FFN_NORM, TAKE_ALL, "post_attention_layernorm.weight"},
    {SLOT_FFN_GATE, TAKE_ALL, "mlp.gate_proj"},
    {SLOT_FFN_GATE, TAKE_HALF_0, "mlp.gate_up_proj"},
    {SLOT_FFN_GATE, TAKE_ALL, "feed_forward.gate_proj"},
    {SLOT_FFN_UP, TAKE_ALL, "mlp.up_proj"},
    {SLOT_FFN_UP, TAKE_HALF_1, "mlp.gate_up_proj"},
    {SLOT_FFN_UP, TAKE_ALL, "feed_forward.up_proj"},
    {SLOT_FFN_DOWN, TAKE_ALL, "mlp.down_proj"},
    {SLOT_FFN_DOWN, TAKE_ALL, "feed_forward.down_proj"},
    {SLOT_MOE_ROUTER, TAKE_ALL, "mlp.gate"},
    {SLOT_MOE_ROUTER, TAKE_ALL, "mlp.router"},
    {SLOT_MOE_ROUTER, TAKE_ALL, "block_sparse_moe.gate"},
    {SLOT_MOE_ROUTER, TAKE_ALL, "block_sparse_moe.router.layer"},
    {SLOT_MOE_ROUTER, TAKE_ALL, "feed_forward.router"},
    {SLOT_MOE_ROUTER_BIAS, TAKE_ALL, "mlp.router.bias"},
    {SLOT_MOE_CORRECTION, TAKE_ALL, "mlp.gate.e_score_correction_bias"},
    {SLOT_MOE_CORRECTION, TAKE_ALL, "block_sparse_moe.e_score_correction_bias"},
    {SLOT_MOE_CORRECTION, TAKE_ALL, "mlp.e_score_correction_bias"},
    {SLOT_MOE_GATE, TAKE_EACH, "mlp.experts.*.gate_proj"},
    {SLOT_MOE_GATE, TAKE_HALF_0, "mlp.experts.gate_up_proj"},
    {SLOT_MOE_GATE, TAKE_EACH, "block_sparse_moe.experts.*.w1"},
    {SLOT_MOE_GATE, TAKE_HALF_0, "block_sparse_moe.input_linear"},
    {SLOT_MOE_GATE, TAKE_EACH, "feed_forward.experts.*.gate_proj"},
    {SLOT_MOE_UP, TAKE_EACH, "mlp.experts.*.up_proj"},
    {SLOT_MOE_UP, TAKE_HALF_1, "mlp.experts.gate_up_proj"},
    {SLOT_MOE_UP, TAKE_EACH, "block_sparse_moe.experts.*.w3"},
    {SLOT_MOE_UP, TAKE_HALF_1, "block_sparse_moe.input_linear"},
    {SLOT_MOE_UP, TAKE_EACH, "feed_forward.experts.*.up_proj"},
    {SLOT_MOE_DOWN, TAKE_EACH, "mlp.experts.*.down_proj"},
    {SLOT_MOE_DOWN, TAKE_ALL, "mlp.experts.down_proj"},
    {SLOT_MOE_DOWN, TAKE_EACH, "block_sparse_moe.experts.*.w2"},
    {SLOT_MOE_DOWN, TAKE_ALL, "block_sparse_moe.output_linear"},
    {SLOT_MOE_DOWN, TAKE_EACH, "feed_forward.experts.*.down_proj"},
    {SLOT_SHARED_ROUTER, TAKE_ALL, "mlp.shared_expert_gate"},
    {SLOT_SHARED_GATE, TAKE_ALL, "mlp.shared_experts.gate_proj"},
    {SLOT_SHARED_GATE, TAKE_ALL, "mlp.shared_expert.gate_proj"},
    {SLOT_SHARED_GATE, TAKE_ALL, "feed_forward.shared_expert.gate_proj"},
    {SLOT_SHARED_GATE, TAKE_HALF_0, "shared_mlp.input_linear"},
    {SLOT_SHARED_UP, TAKE_ALL, "mlp.shared_experts.up_proj"},
    {SLOT_SHARED_UP, TAKE_ALL, "mlp.shared_expert.up_proj"},
    {SLOT_SHARED_UP, TAKE_ALL, "feed_forward.shared_expert.up_proj"},
    {SLOT_SHARED_UP, TAKE_HALF_1, "shared_mlp.input_linear"},
    {SLOT_SHARED_DOWN, TAKE_ALL, "mlp.shared_experts.down_proj"},
    {SLOT_SHARED_DOWN, TAKE_ALL, "mlp.shared_expert.down_proj"},
    {SLOT_SHARED_DOWN, TAKE_ALL, "feed_forward.shared_expert.down_proj"},
    {SLOT_SHARED_DOWN, TAKE_ALL, "shared_mlp.output_linear"},
    {SLOT_MTP_EMBED_NORM, TAKE_ALL, "pre_fc_norm_embedding.weight"},
    {SLOT_MTP_HIDDEN_NORM, TAKE_ALL, "pre_fc_norm_hidden.weight"},
    {SLOT_MTP_FC, TAKE_ALL, "fc"},
    {SLOT_MTP_NORM, TAKE_ALL, "norm.weight"},
    {SLOT_EMBED, TAKE_ALL, "embed_tokens"},
    {SLOT_FINAL_NORM, TAKE_ALL, "norm.weight"},
    {SLOT_HEAD, TAKE_ALL, "lm_head"},
    {SLOT_HEAD_BIAS, TAKE_ALL, "lm_head.bias"},
    {0, 0, NULL},
};

static const struct arch_name hf_gated[] = {
    {SLOT_ATTN_Q, TAKE_PAIR_0, "self_attn.q_proj"},
    {SLOT_ATTN_GATE, TAKE_PAIR_1, "self_attn.q_proj"},
    {0, 0, NULL},
};
static const struct arch_name hf_gemma[] = {
    {SLOT_ATTN_POST_NORM, TAKE_ALL, "post_attention_layernorm.weight"},
    {SLOT_FFN_NORM, TAKE_ALL, "pre_feedforward_layernorm.weight"},
    {SLOT_FFN_POST_NORM, TAKE_ALL, "post_feedforward_layernorm.weight"},
    {0, 0, NULL},
};
static const struct arch_name hf_gpt_oss[] = {
    {SLOT_MOE_GATE, TAKE_EVEN, "mlp.experts.gate_up_proj"},
    {SLOT_MOE_UP, TAKE_ODD, "mlp.experts.gate_up_proj"},
    {SLOT_MOE_GATE_BIAS, TAKE_EVEN, "mlp.experts.gate_up_proj_bias"},
    {SLOT_MOE_UP_BIAS, TAKE_ODD, "mlp.experts.gate_up_proj_bias"},
    {SLOT_MOE_DOWN_BIAS, TAKE_ALL, "mlp.experts.down_proj_bias"},
    {0, 0, NULL},
};
static const struct arch_name hf_llama4[] = {
    {SLOT_MOE_GATE, TAKE_HALF_0 | TAKE_TURNED, "feed_forward.experts.gate_up_proj"},
    {SLOT_MOE_UP, TAKE_HALF_1 | TAKE_TURNED, "feed_forward.experts.gate_up_proj"},
    {SLOT_MOE_DOWN, TAKE_ALL | TAKE_TURNED, "feed_forward.experts.down_proj"},
    {0, 0, NULL},
};

// ---- names in GGUF, as llama.cpp writes them

static const struct arch_name gguf_common[] = {
    {SLOT_ATTN_NORM, TAKE_ALL, "attn_norm.weight"},
    {SLOT_ATTN_Q, TAKE_ALL, "attn_q"},
    {SLOT_ATTN_Q, TAKE_QKV_Q, "attn_qkv"},
    {SLOT_ATTN_K, TAKE_ALL, "attn_k"},
    {SLOT_ATTN_K, TAKE_QKV_K, "attn_qkv"},
    {SLOT_ATTN_V, TAKE_ALL, "attn_v"},
    {SLOT_ATTN_V, TAKE_QKV_V, "attn_qkv"},
    {SLOT_ATTN_OUT, TAKE_ALL, "attn_output"},
    {SLOT_ATTN_OUT, TAKE_ALL, "ssm_out"},
    {SLOT_ATTN_Q_BIAS, TAKE_ALL, "attn_q.bias"},
    {SLOT_ATTN_Q_BIAS, TAKE_QKV_Q, "attn_qkv.bias"},
    {SLOT_ATTN_K_BIAS, TAKE_ALL, "attn_k.bias"},
    {SLOT_ATTN_K_BIAS, TAKE_QKV_K, "attn_qkv.bias"},
    {SLOT_ATTN_V_BIAS, TAKE_ALL, "attn_v.bias"},
    {SLOT_ATTN_V_BIAS, TAKE_QKV_V, "attn_qkv.bias"},
    {SLOT_ATTN_OUT_BIAS, TAKE_ALL, "attn_output.bias"},
    {SLOT_ATTN_Q_NORM, TAKE_ALL, "attn_q_norm.weight"},
    {SLOT_ATTN_K_NORM, TAKE_ALL, "attn_k_norm.weight"},
    {SLOT_ATTN_SINKS, TAKE_ALL, "attn_sinks.weight"},
    {SLOT_ATTN_POST_NORM, TAKE_ALL, "post_attention_norm.weight"},
    {SLOT_MLA_Q_A, TAKE_ALL, "attn_q_a"},
    {SLOT_MLA_Q_A_NORM, TAKE_ALL, "attn_q_a_norm.weight"},
    {SLOT_MLA_Q_B, TAKE_ALL, "attn_q_b"},
    {SLOT_MLA_KV_A, TAKE_ALL, "attn_kv_a_mqa"},
    {SLOT_MLA_KV_NORM, TAKE_ALL, "attn_kv_a_norm.weight"},
    {SLOT_MLA_K_B, TAKE_ALL, "attn_k_b"},
    {SLOT_MLA_K_B, TAKE_HEADS_K, "attn_kv_b"}, // old files
    {SLOT_MLA_V_B, TAKE_ALL, "attn_v_b"},
    {SLOT_MLA_V_B, TAKE_HEADS_V, "attn_kv_b"},
    {SLOT_DELTA_QKV, TAKE_ALL, "attn_qkv"},
    {SLOT_DELTA_QKV, TAKE_QKVZ_QKV, "ssm_in"}, // old files
    {SLOT_DELTA_Z, TAKE_ALL, "attn_gate"},
    {SLOT_DELTA_Z, TAKE_QKVZ_Z, "ssm_in"},
    {SLOT_DELTA_A, TAKE_ALL, "ssm_alpha"},
    {SLOT_DELTA_A, TAKE_BA_A, "ssm_ba"},
    {SLOT_DELTA_B, TAKE_ALL, "ssm_beta"},
    {SLOT_DELTA_B, TAKE_BA_B, "ssm_ba"},
    {SLOT_DELTA_CONV, TAKE_ALL, "ssm_conv1d.weight"},
    {SLOT_DELTA_A_NEG, TAKE_ALL, "ssm_a"},
    {SLOT_DELTA_DT_BIAS, TAKE_ALL, "ssm_dt.bias"},
    {SLOT_DELTA_NORM, TAKE_ALL, "ssm_norm.weight"},
    {SLOT_FFN_NORM, TAKE_ALL, "ffn_norm.weight"},
    {SLOT_FFN_NORM, TAKE_ALL, "post_attention_norm.weight"}, // gpt-oss, glm4moe, qwen3next
    {SLOT_FFN_GATE, TAKE_ALL, "ffn_gate"},
    {SLOT_FFN_UP, TAKE_ALL, "ffn_up"},
    {SLOT_FFN_DOWN, TAKE_ALL, "ffn_down"},
    {SLOT_FFN_POST_NORM, TAKE_ALL, "post_ffw_norm.weight"},
    {SLOT_MOE_ROUTER, TAKE_ALL, "ffn_gate_inp"},
    {SLOT_MOE_ROUTER_BIAS, TAKE_ALL, "ffn_gate_inp.bias"},
    {SLOT_MOE_CORRECTION, TAKE_ALL, "exp_probs_b.bias"},
    {SLOT_MOE_CORRECTION, TAKE_ALL, "exp_probs_b"},
    {SLOT_MOE_GATE, TAKE_ALL, "ffn_gate_exps"},
    {SLOT_MOE_GATE, TAKE_HALF_0, "ffn_gate_up_exps"},
    {SLOT_MOE_GATE, TAKE_EACH, "ffn_gate.*"}, // old files
    {SLOT_MOE_UP, TAKE_ALL, "ffn_up_exps"},
    {SLOT_MOE_UP, TAKE_HALF_1, "ffn_gate_up_exps"},
    {SLOT_MOE_UP, TAKE_EACH, "ffn_up.*"},
    {SLOT_MOE_DOWN, TAKE_ALL, "ffn_down_exps"},
    {SLOT_MOE_DOWN, TAKE_EACH, "ffn_down.*"},
    {SLOT_MOE_GATE_BIAS, TAKE_ALL, "ffn_gate_exps.bias"},
    {SLOT_MOE_UP_BIAS, TAKE_ALL, "ffn_up_exps.bias"},
    {SLOT_MOE_DOWN_BIAS, TAKE_ALL, "ffn_down_exps.bias"},
    {SLOT_SHARED_ROUTER, TAKE_ALL, "ffn_gate_inp_shexp"},
    {SLOT_SHARED_GATE, TAKE_ALL, "ffn_gate_shexp"},
    {SLOT_SHARED_UP, TAKE_ALL, "ffn_up_shexp"},
    {SLOT_SHARED_DOWN, TAKE_ALL, "ffn_down_shexp"},
    {SLOT_MTP_EMBED_NORM, TAKE_ALL, "nextn.enorm.weight"},
    {SLOT_MTP_HIDDEN_NORM, TAKE_ALL, "nextn.hnorm.weight"},
    {SLOT_MTP_FC, TAKE_ALL, "nextn.eh_proj"},
    {SLOT_MTP_NORM, TAKE_ALL, "nextn.shared_head_norm.weight"},
    {SLOT_EMBED, TAKE_ALL, "token_embd"},
    {SLOT_FINAL_NORM, TAKE_ALL, "output_norm.weight"},
    {SLOT_HEAD, TAKE_ALL, "output"},
    {SLOT_HEAD_BIAS, TAKE_ALL, "output.bias"},
    {SLOT_ROPE_FREQS, TAKE_ALL, "rope_freqs.weight"},
    {SLOT_ROPE_FREQS, TAKE_ALL, "rope_factors_short.weight"},
    {SLOT_ROPE_FREQS_LONG, TAKE_ALL, "rope_factors_long.weight"},
    {0, 0, NULL},
};
static const struct arch_name gguf_gated[] = {
    {SLOT_ATTN_Q, TAKE_PAIR_0, "attn_q"},
    {SLOT_ATTN_GATE, TAKE_PAIR_1, "attn_q"},
    {0, 0, NULL},
};
static const struct arch_name gguf_phi3[] = {
    {SLOT_FFN_GATE, TAKE_HALF_0, "ffn_up"},
    {SLOT_FFN_UP, TAKE_HALF_1, "ffn_up"},
    {0, 0, NULL},
};

// ---- the architectures

static const struct arch archs[] = {
    {
        // Touvron et al. 2023; grouped queries: Ainslie et al. 2023. GGUF's has Mixtral too.
        .name = "llama",
        .hf = {"llama"},
        .gguf = {"llama"},
        .defaults = "{\"norm_topk_prob\": true}",
        .traits = ARCH_GGUF_INTERLEAVED,
    },
    {
        .name = "qwen2",
        .hf = {"qwen2"},
        .gguf = {"qwen2"},
        .defaults = "{\"use_sliding_window\": false, \"max_window_layers\": 28}",
        .must = QKV_BIAS,
    },
    {
        .name = "qwen3",
        .hf = {"qwen3"},
        .gguf = {"qwen3"},
        .defaults = "{\"use_sliding_window\": false, \"max_window_layers\": 28}",
        .must = QK_NORM,
        .qk_norm = QK_NORM_HEAD,
    },
    {
        .name = "qwen3_moe",
        .hf = {"qwen3_moe"},
        .gguf = {"qwen3moe"},
        .defaults = "{\"use_sliding_window\": false, \"max_window_layers\": 0}",
        .gguf_defaults = "{\"norm_topk_prob\": true}",
        .must = QK_NORM,
        .qk_norm = QK_NORM_HEAD,
        .traits = ARCH_EXPERTS,
    },
    {
        .name = "qwen3_next",
        .hf = {"qwen3_next"},
        .gguf = {"qwen3next"},
        .defaults = "{\"full_attention_interval\": 4, \"partial_rotary_factor\": 0.25,"
                    " \"norm_topk_prob\": true}",
        .hf_names = hf_gated,
        .gguf_names = gguf_gated,
        .must = QK_NORM | S(ATTN_GATE) | S(SHARED_ROUTER),
        .traits = ARCH_EXPERTS | ARCH_DELTA | ARCH_PLUS_ONE,
        .qk_norm = QK_NORM_HEAD,
    },
    {
        .name = "qwen3_5",
        .hf = {"qwen3_5", "qwen3_5_text"},
        .gguf = {"qwen35"},
        .defaults = "{\"full_attention_interval\": 4, \"partial_rotary_factor\": 0.25}",
        .hf_names = hf_gated,
        .gguf_names = gguf_gated,
        .must = QK_NORM | S(ATTN_GATE),
        .traits = ARCH_DELTA | ARCH_PLUS_ONE | ARCH_GGUF_TILED,
        .qk_norm = QK_NORM_HEAD,
    },
    {
        .name = "qwen3_5_moe",
        .hf = {"qwen3_5_moe", "qwen3_5_moe_text"},
        .gguf = {"qwen35moe"},
        .defaults = "{\"full_attention_interval\": 4, \"partial_rotary_factor\": 0.25,"
                    " \"norm_topk_prob\": true}",
        .hf_names = hf_gated,
        .gguf_names = gguf_gated,
        .must = QK_NORM | S(ATTN_GATE) | S(SHARED_ROUTER),
        .traits = ARCH_EXPERTS | ARCH_DELTA | ARCH_PLUS_ONE | ARCH_GGUF_TILED,
        .qk_norm = QK_NORM_HEAD,
    },
    {
        .name = "mistral",
        .hf = {"mistral", "mistral3"}, // the wrapper, where it does not say what is inside
        .hf_defaults = "{\"sliding_window\": 4096}",
    },
    {
        .name = "ministral3",
        .hf = {"ministral3"},
        .gguf = {"mistral3"},
        .defaults = "{\"rope_theta\": 1000000.0, \"norm_topk_prob\": true}",
        .traits = ARCH_GGUF_INTERLEAVED,
    },
    {
        .name = "mistral4",
        .hf = {"mistral4"},
        .gguf = {"mistral4"},
        .defaults = "{\"norm_topk_prob\": true, \"first_k_dense_replace\": 0,"
                    " \"n_shared_experts\": 1, \"rope_interleave\": true}",
        .traits = ARCH_EXPERTS | ARCH_MLA | ARCH_HF_INTERLEAVED | ARCH_GGUF_INTERLEAVED |
                  ARCH_GROUP_BY_TWO | ARCH_GGUF_MSCALE_TENTH,
    },
    {
        .name = "mixtral",
        .hf = {"mixtral"},
        .defaults = "{\"norm_topk_prob\": true, \"rope_theta\": 1000000.0}",
        .traits = ARCH_EXPERTS,
    },
    {
        // DeepSeek-AI 2024 (arXiv 2405.04434). GGUF's is DeepSeek V3 too.
        .name = "deepseek_v2",
        .hf = {"deepseek_v2"},
        .gguf = {"deepseek2"},
        .defaults = "{\"first_k_dense_replace\": 0, \"topk_method\": \"greedy\"}",
        .traits = ARCH_EXPERTS | ARCH_MLA | ARCH_HF_INTERLEAVED | ARCH_GGUF_INTERLEAVED |
                  ARCH_GGUF_MSCALE_TENTH,
    },
    {
        // DeepSeek-AI 2024 (arXiv 2412.19437)
        .name = "deepseek_v3",
        .hf = {"deepseek_v3", "kimi_k2"}, // Kimi K2: the same with one group
        .defaults = "{\"norm_topk_prob\": true, \"first_k_dense_replace\": 3, \"n_group\": 8,"
                    " \"topk_group\": 4, \"routed_scaling_factor\": 2.5, \"n_shared_experts\": 1,"
                    " \"rope_interleave\": true}",
        .traits = ARCH_EXPERTS | ARCH_MLA | ARCH_HF_INTERLEAVED | ARCH_SIGMOID | ARCH_GROUP_BY_TWO |
                  ARCH_CORRECTION,
    },
    {
        // OpenAI 2025 (arXiv 2508.10925)
        .name = "gpt_oss",
        .hf = {"gpt_oss"},
        .gguf = {"gpt-oss"},
        .defaults = "{\"sliding_window_pattern\": 2, \"attention_bias\": true,"
                    " \"rope_theta\": 150000.0, \"truncate\": false,"
                    " \"swiglu_alpha\": 1.702, \"swiglu_limit\": 7.0}",
        .hf_defaults = "{\"sliding_window\": 128}",
        .hf_names = hf_gpt_oss,
        .must = QKV_BIAS | S(ATTN_OUT_BIAS) | S(ATTN_SINKS) | S(MOE_ROUTER_BIAS) |
                S(MOE_GATE_BIAS) | S(MOE_UP_BIAS) | S(MOE_DOWN_BIAS),
        .traits = ARCH_EXPERTS | ARCH_LATE_SOFTMAX | ARCH_SWIGLU_OAI,
    },
    {
        // Gemma Team 2024 (arXiv 2408.00118)
        .name = "gemma2",
        .hf = {"gemma2"},
        .gguf = {"gemma2"},
        .defaults = "{\"sliding_window_pattern\": 2,"
                    " \"hidden_activation\": \"gelu_pytorch_tanh\","
                    " \"final_logit_softcapping\": 30.0, \"attn_logit_softcapping\": 50.0}",
        .hf_defaults = "{\"sliding_window\": 4096, \"head_dim\": 256,"
                       " \"query_pre_attn_scalar\": 256, \"tie_word_embeddings\": true}",
        .gguf_dim_scale_layers = 46,
        .hf_names = hf_gemma,
        .must = POST_NORMS,
        .traits = ARCH_PLUS_ONE | ARCH_EMBED_SQRT,
    },
    {
        // Gemma Team 2025 (arXiv 2503.19786): norms on queries and keys
        .name = "gemma3",
        .hf = {"gemma3", "gemma3_text"},
        .gguf = {"gemma3"},
        .defaults = "{\"hidden_activation\": \"gelu_pytorch_tanh\","
                    " \"sliding_window_pattern\": 6, \"rope_local_base_freq\": 10000.0}",
        .hf_defaults = "{\"hidden_size\": 2304, \"intermediate_size\": 9216,"
                       " \"num_hidden_layers\": 26, \"num_attention_heads\": 8,"
                       " \"num_key_value_heads\": 4, \"head_dim\": 256, \"rms_norm_eps\": 1e-6,"
                       " \"vocab_size\": 262208, \"max_position_embeddings\": 131072,"
                       " \"sliding_window\": 4096, \"rope_theta\": 1000000.0,"
                       " \"query_pre_attn_scalar\": 256, \"tie_word_embeddings\": true}",
        .gguf_dim_scale_layers = 62,
        .hf_names = hf_gemma,
        .must = QK_NORM | POST_NORMS,
        .traits = ARCH_PLUS_ONE | ARCH_EMBED_SQRT,
        .qk_norm = QK_NORM_HEAD,
    },
    {
        // Abdin et al. 2024 (arXiv 2404.14219)
        .name = "phi3",
        .hf = {"phi3"},
        .gguf = {"phi3"},
        .gguf_names = gguf_phi3,
    },
    {
        .name = "smollm3",
        .hf = {"smollm3"},
        .gguf = {"smollm3"},
        .defaults = "{\"no_rope_layer_interval\": 4, \"use_sliding_window\": false,"
                    " \"rope_theta\": 2000000.0}",
        .traits = ARCH_GGUF_INTERLEAVED,
    },
    {
        // GLM-4.5 Team 2025 (arXiv 2508.06471)
        .name = "glm4_moe",
        .hf = {"glm4_moe"},
        .gguf = {"glm4moe"},
        .defaults = "{\"norm_topk_prob\": true, \"first_k_dense_replace\": 1,"
                    " \"partial_rotary_factor\": 0.5, \"n_shared_experts\": 1,"
                    " \"routed_scaling_factor\": 1.0}",
        .must = QK_NORM,
        .traits = ARCH_EXPERTS | ARCH_SIGMOID | ARCH_GROUP_BY_TWO | ARCH_CORRECTION |
                  ARCH_NO_OUT_BIAS | ARCH_QK_NORM_BY_KEY,
        .qk_norm = QK_NORM_HEAD,
    },
    {
        // Muennighoff et al. 2024 (arXiv 2409.02060)
        .name = "olmoe",
        .hf = {"olmoe"},
        .gguf = {"olmoe"},
        .must = QK_NORM,
        .qk_norm = QK_NORM_ALL,
        .traits = ARCH_EXPERTS,
    },
    {
        .name = "granite",
        .hf = {"granite"},
        .gguf = {"granite"},
        .traits = ARCH_GGUF_INTERLEAVED,
    },
    {
        .name = "granitemoe",
        .hf = {"granitemoe", "granitemoeshared"},
        .gguf = {"granitemoe"},
        .traits = ARCH_EXPERTS | ARCH_LATE_SOFTMAX | ARCH_GGUF_INTERLEAVED,
    },
    {
        .name = "llama4",
        .hf = {"llama4_text", "llama4"},
        .gguf = {"llama4"},
        .defaults = "{\"no_rope_layer_interval\": 4, \"interleave_moe_layer_step\": 1,"
                    " \"attention_chunk_size\": 8192, \"n_shared_experts\": 1,"
                    " \"use_qk_norm\": true, \"attn_temperature_tuning\": true,"
                    " \"attn_scale\": 0.1, \"floor_scale\": 8192,"
                    " \"rope_theta\": 500000.0, \"norm_topk_prob\": false}",
        .hf_defaults = "{\"head_dim\": 128}",
        .hf_names = hf_llama4,
        .traits = ARCH_EXPERTS | ARCH_HF_INTERLEAVED | ARCH_GGUF_INTERLEAVED | ARCH_SIGMOID |
                  ARCH_WEIGH_INPUT | ARCH_CHUNKED | ARCH_QK_NORM_BY_KEY,
        .qk_norm = QK_NORM_L2,
    },
    {
        .name = "minimax_m2",
        .hf = {"minimax_m2"},
        .gguf = {"minimax-m2"},
        .defaults = "{\"norm_topk_prob\": true, \"rope_theta\": 5000000.0}",
        .must = QK_NORM,
        .traits = ARCH_EXPERTS | ARCH_SIGMOID | ARCH_CORRECTION,
        .qk_norm = QK_NORM_ALL,
    },
};

enum { N_ARCH = sizeof archs / sizeof *archs };

static bool listed(const char *const *list, size_t n, const char *name)
{
    for (size_t i = 0; i < n && list[i]; i++)
        if (!strcmp(list[i], name)) return true;
    return false;
}

const struct arch *arch_of_hf(const char *model_type)
{
    for (size_t i = 0; i < N_ARCH; i++)
        if (listed(archs[i].hf, sizeof archs->hf / sizeof *archs->hf, model_type)) return &archs[i];
    return NULL;
}

const struct arch *arch_of_gguf(const char *architecture)
{
    for (size_t i = 0; i < N_ARCH; i++)
        if (listed(archs[i].gguf, sizeof archs->gguf / sizeof *archs->gguf, architecture))
            return &archs[i];
    return NULL;
}

void arch_list(bool gguf, char *dst, size_t size)
{
    size_t at = 0;
    for (size_t i = 0; i < N_ARCH && at < size; i++) {
        const char *name = gguf ? archs[i].gguf[0] : archs[i].name;
        if (name) at += (size_t)snprintf(dst + at, size - at, "%s%s", at ? " " : "", name);
    }
}

const struct arch_name *arch_common_names(bool gguf)
{
    return gguf ? gguf_common : hf_common;
}
