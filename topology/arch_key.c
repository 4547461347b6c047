#include "topology/arch_key.h"

#include "topology/model.h"
#include "topology/file.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

// `rope`: may stand in rope_parameters or rope_scaling.
static const struct {
    const char *json[3];
    const char *gguf[2]; // after the architecture's name and a dot
    bool rope;
} names[KEY_COUNT] = {
    [KEY_LAYERS] = {{"num_hidden_layers"}, {"block_count"}, false},
    [KEY_DIM] = {{"hidden_size"}, {"embedding_length"}, false},
    [KEY_FFN] = {{"intermediate_size_mlp", "intermediate_size"}, {"feed_forward_length"}, false},
    [KEY_CTX] = {{"max_position_embeddings"}, {"context_length"}, false},
    [KEY_VOCAB] = {{"vocab_size"}, {"vocab_size"}, false},
    [KEY_EPS] = {{"rms_norm_eps"}, {"attention.layer_norm_rms_epsilon"}, false},
    [KEY_ACT] = {{"hidden_activation", "hidden_act"}, {NULL}, false},
    [KEY_TIE] = {{"tie_word_embeddings"}, {NULL}, false},
    [KEY_NEXTN] = {{"num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers"},
                   {"nextn_predict_layers"},
                   false},
    [KEY_CAUSAL] = {{NULL}, {"attention.causal"}, false},
    [KEY_HEADS] = {{"num_attention_heads"}, {"attention.head_count"}, false},
    [KEY_HEADS_KV] = {{"num_key_value_heads"}, {"attention.head_count_kv"}, false},
    [KEY_HEAD_DIM] = {{"head_dim"}, {"attention.key_length"}, false},
    [KEY_VALUE_DIM] = {{NULL}, {"attention.value_length"}, false},
    [KEY_ATTN_BIAS] = {{"attention_bias"}, {NULL}, false},
    [KEY_MLP_BIAS] = {{"mlp_bias"}, {NULL}, false},
    [KEY_QK_NORM] = {{"use_qk_norm"}, {NULL}, false},
    [KEY_CLIP_QKV] = {{"clip_qkv"}, {"attention.clamp_kqv"}, false},
    [KEY_WINDOW] = {{"sliding_window"}, {"attention.sliding_window"}, false},
    [KEY_USE_WINDOW] = {{"use_sliding_window"}, {NULL}, false},
    [KEY_WINDOW_FROM] = {{"max_window_layers"}, {NULL}, false},
    [KEY_WINDOW_EVERY] = {{"sliding_window_pattern", "_sliding_window_pattern"},
                          {"attention.sliding_window_pattern"},
                          false},
    [KEY_CHUNK] = {{"attention_chunk_size"}, {"attention.chunk_size"}, false},
    [KEY_LAYER_TYPES] = {{"layer_types"}, {NULL}, false},
    [KEY_ATTN_EVERY] = {{"full_attention_interval"}, {"full_attention_interval"}, false},
    [KEY_RECURRENT] = {{NULL}, {"attention.recurrent_layers"}, false},
    [KEY_ROPE_LAYERS] = {{"no_rope_layers"}, {NULL}, false},
    [KEY_NO_ROPE_EVERY] = {{"no_rope_layer_interval"}, {NULL}, false},
    [KEY_ATTN_CAP] = {{"attn_logit_softcapping"}, {"attn_logit_softcapping"}, false},
    [KEY_FINAL_CAP] = {{"final_logit_softcapping"}, {"final_logit_softcapping"}, false},
    [KEY_ATTN_SCALE] = {{"attention_multiplier"}, {"attention.scale"}, false},
    [KEY_QUERY_SCALAR] = {{"query_pre_attn_scalar"}, {NULL}, false},
    [KEY_EMBED_SCALE] = {{"embedding_multiplier"}, {"embedding_scale"}, false},
    [KEY_RESIDUAL_SCALE] = {{"residual_multiplier"}, {"residual_scale"}, false},
    [KEY_LOGITS_DIVISOR] = {{"logits_scaling"}, {"logit_scale"}, false},
    [KEY_BETA] = {{"llama_4_scaling_beta", "attn_scale"}, {"attention.temperature_scale"}, true},
    [KEY_BETA_ON] = {{"attn_temperature_tuning"}, {NULL}, false},
    [KEY_BETA_SPAN] = {{"floor_scale"}, {"attention.temperature_length"}, false},
    [KEY_EXPERTS] = {{"num_experts", "num_local_experts", "n_routed_experts"},
                     {"expert_count"},
                     false},
    [KEY_EXPERTS_USED] = {{"num_experts_per_tok"}, {"expert_used_count"}, false},
    [KEY_EXPERT_FFN] = {{"moe_intermediate_size", "intermediate_size"},
                        {"expert_feed_forward_length", "feed_forward_length"},
                        false},
    [KEY_SHARED_EXPERTS] = {{"n_shared_experts"}, {"expert_shared_count"}, false},
    [KEY_SHARED_FFN] = {{"shared_expert_intermediate_size", "shared_intermediate_size"},
                        {"expert_shared_feed_forward_length"},
                        false},
    [KEY_GROUPS] = {{"n_group"}, {"expert_group_count"}, false},
    [KEY_GROUPS_USED] = {{"topk_group"}, {"expert_group_used_count"}, false},
    [KEY_EXPERT_SCALE] = {{"routed_scaling_factor"}, {"expert_weights_scale"}, false},
    [KEY_EXPERT_NORM] = {{"norm_topk_prob"}, {"expert_weights_norm"}, false},
    [KEY_SCORING] = {{"scoring_func"}, {"expert_gating_func"}, false},
    [KEY_TOPK_METHOD] = {{"topk_method"}, {NULL}, false},
    [KEY_DENSE_FIRST] = {{"first_k_dense_replace"}, {"leading_dense_block_count"}, false},
    [KEY_MOE_EVERY] = {{"interleave_moe_layer_step", "decoder_sparse_step"},
                       {"interleave_moe_layer_step"},
                       false},
    [KEY_MOE_FREQ] = {{"moe_layer_freq"}, {NULL}, false},
    [KEY_DENSE_LAYERS] = {{"mlp_only_layers"}, {NULL}, false},
    [KEY_MOE_LAYERS] = {{"moe_layers"}, {NULL}, false},
    [KEY_SWIGLU_ALPHA] = {{"swiglu_alpha"}, {NULL}, false},
    [KEY_SWIGLU_LIMIT] = {{"swiglu_limit"}, {NULL}, false},
    [KEY_Q_RANK] = {{"q_lora_rank"}, {"attention.q_lora_rank"}, false},
    [KEY_KV_RANK] = {{"kv_lora_rank"}, {"attention.kv_lora_rank"}, false},
    [KEY_NOPE_DIM] = {{"qk_nope_head_dim"}, {NULL}, false},
    [KEY_ROPE_DIM] = {{"qk_rope_head_dim"}, {"rope.dimension_count"}, false},
    [KEY_V_DIM] = {{"v_head_dim"}, {"attention.value_length_mla", "attention.value_length"}, false},
    [KEY_KEY_DIM_MLA] = {{NULL}, {"attention.key_length_mla", "attention.key_length"}, false},
    [KEY_DELTA_HEADS_K] = {{"linear_num_key_heads"}, {"ssm.group_count"}, false},
    [KEY_DELTA_HEADS_V] = {{"linear_num_value_heads"}, {"ssm.time_step_rank"}, false},
    [KEY_DELTA_DIM_K] = {{"linear_key_head_dim"}, {"ssm.state_size"}, false},
    [KEY_DELTA_DIM_V] = {{"linear_value_head_dim"}, {NULL}, false},
    [KEY_DELTA_INNER] = {{NULL}, {"ssm.inner_size"}, false},
    [KEY_DELTA_TAPS] = {{"linear_conv_kernel_dim"}, {"ssm.conv_kernel"}, false},
    [KEY_THETA] = {{"rope_theta"}, {"rope.freq_base"}, true},
    [KEY_THETA_LOCAL] = {{"rope_local_base_freq"}, {"rope.freq_base_swa"}, false},
    [KEY_ROTARY_DIM] = {{"rotary_dim"}, {"rope.dimension_count"}, false},
    [KEY_ROTARY_PART] = {{"partial_rotary_factor"}, {NULL}, true},
    [KEY_ROPE_TYPE] = {{"rope_type", "type"}, {"rope.scaling.type"}, true},
    [KEY_ROPE_FACTOR] = {{"factor"}, {"rope.scaling.factor", "rope.scale_linear"}, true},
    [KEY_ROPE_ORIGINAL] = {{"original_max_position_embeddings"},
                           {"rope.scaling.original_context_length"},
                           true},
    [KEY_ROPE_ATTN] = {{"attention_factor"}, {"rope.scaling.attn_factor"}, true},
    [KEY_ROPE_FAST] = {{"beta_fast"}, {"rope.scaling.yarn_beta_fast"}, true},
    [KEY_ROPE_SLOW] = {{"beta_slow"}, {"rope.scaling.yarn_beta_slow"}, true},
    [KEY_ROPE_LOW] = {{"low_freq_factor"}, {NULL}, true},
    [KEY_ROPE_HIGH] = {{"high_freq_factor"}, {NULL}, true},
    [KEY_ROPE_MSCALE] = {{"mscale"}, {NULL}, true},
    [KEY_ROPE_MSCALE_ALL] = {{"mscale_all_dim"}, {"rope.scaling.yarn_log_multiplier"}, true},
    [KEY_ROPE_TRUNCATE] = {{"truncate"}, {NULL}, true},
    [KEY_ROPE_SHORT] = {{"short_factor"}, {NULL}, true},
    [KEY_ROPE_LONG] = {{"long_factor"}, {NULL}, true},
    [KEY_ROPE_INTERLEAVE] = {{"rope_interleave"}, {NULL}, false},
};

enum { N_JSON = 3, N_GGUF = 2 };
static const char *const rope_folders[] = {"rope_parameters", "rope_scaling"};

void config_of_json(struct config *c, const struct json *root)
{
    static const char *const inner[] = {"text_config", "language_config", "llm_config"};
    c->outer = c->text = root;
    for (size_t i = 0; i < sizeof inner / sizeof *inner; i++) {
        const struct json *text = json_get(root, inner[i]);
        if (!text || text->kind != J_OBJ) continue;
        c->text = text;
        return;
    }
}

err_t config_check(const struct config *c)
{
    for (int i = 0; i < 2 && !c->gguf; i++) {
        const struct json *j = json_get(c->text, rope_folders[i]);
        if (j && j->kind != J_NULL && j->kind != J_OBJ)
            return config_fail(c, "key '%s': found %s, allowed object, null", rope_folders[i],
                               json_kind_name(j->kind));
    }
    return OK;
}

err_t config_fail(const struct config *c, const char *fmt, ...)
{
    char msg[260];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    return err_say(c->why, ERR_MODEL, "%s: %s", file_tail(c->path), msg);
}

// ---- GGUF values as JSON

static bool gguf_scalar(const uint8_t *p, enum gguf_type t, struct json *out)
{
    uint64_t u = 0;
    static const uint8_t bytes[] = {[GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_U16] = 2, [GGUF_I16] = 2,
                                    [GGUF_U32] = 4, [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_BOOL] = 1,
                                    [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8};
    if (t > GGUF_F64 || t == GGUF_STR || t == GGUF_ARR) return false;
    for (int i = 0; i < bytes[t]; i++)
        u |= (uint64_t)p[i] << (8 * i);
    int shift = 64 - 8 * bytes[t];
    out->kind = J_INT;
    switch (t) {
    case GGUF_BOOL:
        out->kind = J_BOOL;
        out->b = u != 0;
        return true;
    case GGUF_F32:
    case GGUF_F64: {
        float f;
        uint32_t low = (uint32_t)u;
        memcpy(&f, &low, sizeof f);
        memcpy(&out->d, &u, sizeof out->d);
        if (t == GGUF_F32) out->d = (double)f;
        out->kind = J_REAL;
        return true;
    }
    case GGUF_I8:
    case GGUF_I16:
    case GGUF_I32:
    case GGUF_I64:
        out->i = (int64_t)(u << shift) >> shift;
        return true;
    default:
        out->i = u > INT64_MAX ? INT64_MAX : (int64_t)u;
        return true;
    }
}

static err_t gguf_array(const struct config *c, const struct gguf_kv *kv, struct json *out)
{
    static const uint8_t bytes[] = {
        [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_U16] = 2,  [GGUF_I16] = 2, [GGUF_U32] = 4,
        [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_STR] = 0, [GGUF_ARR] = 0,
        [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8};
    if (kv->n > MODEL_LAYERS_MAX || !bytes[kv->elem])
        return config_fail(c, "key '%.*s': array of %llu elements, allowed up to %d numbers",
                           (int)(kv->key.len > 64 ? 64 : kv->key.len), kv->key.s,
                           (unsigned long long)kv->n, MODEL_LAYERS_MAX);
    struct json *items = arena_take_n(c->arena, kv->n, sizeof *items);
    if (!items) return err_say(c->why, ERR_MEMORY, "%s: no memory for its numbers", c->path);
    for (uint64_t i = 0; i < kv->n; i++)
        gguf_scalar(kv->data + i * bytes[kv->elem], kv->elem, &items[i]);
    out->kind = J_ARR;
    out->arr.items = items;
    out->arr.n = kv->n;
    return OK;
}

static err_t gguf_value(const struct config *c, const struct gguf_kv *kv, const struct json **out)
{
    struct json *j = arena_take(c->arena, sizeof *j);
    if (!j) return err_say(c->why, ERR_MEMORY, "%s: no memory for its numbers", c->path);
    if (kv->type == GGUF_ARR) {
        err_t e = gguf_array(c, kv, j);
        if (e) return e;
    } else if (kv->type == GGUF_STR) {
        uint64_t len = 0;
        for (int i = 0; i < 8; i++)
            len |= (uint64_t)kv->data[i] << (8 * i);
        j->kind = J_STR;
        j->str.s = arena_copy_str(c->arena, (const char *)kv->data + 8, len < 256 ? len : 256);
        j->str.len = len < 256 ? len : 256;
        if (!j->str.s) return err_say(c->why, ERR_MEMORY, "%s: no memory for its words", c->path);
    } else {
        gguf_scalar(kv->data, kv->type, j);
    }
    *out = j;
    return OK;
}

// ---- finding

// Sets *out and returns true if one of the names is a member: null counts, it says "none".
static bool member(const struct json *obj, enum key key, const struct json **out)
{
    for (int i = 0; i < N_JSON && names[key].json[i]; i++) {
        const struct json *j = json_get(obj, names[key].json[i]);
        if (!j) continue;
        *out = j->kind == J_NULL ? NULL : j;
        return true;
    }
    return false;
}

static bool json_find(const struct config *c, enum key key, const char *group,
                      const struct json **out)
{
    for (int i = 0; names[key].rope && i < 2; i++) {
        const struct json *rope = json_get(c->text, rope_folders[i]);
        const struct json *inner = group ? json_get(rope, group) : NULL;
        if ((inner && member(inner, key, out)) || member(rope, key, out)) return true;
    }
    if (member(c->text, key, out)) return true;
    return key == KEY_TIE && member(c->outer, key, out);
}

static const struct gguf_kv *gguf_find_key(const struct config *c, enum key key)
{
    for (int i = 0; i < N_GGUF && names[key].gguf[i]; i++) {
        char name[128];
        snprintf(name, sizeof name, "%s.%s", c->prefix, names[key].gguf[i]);
        const struct gguf_kv *kv = gguf_find(c->gguf, name);
        if (kv) return kv;
    }
    return NULL;
}

err_t config_get(const struct config *c, enum key key, const char *group, const struct json **out)
{
    *out = NULL;
    if (c->gguf) {
        const struct gguf_kv *kv = gguf_find_key(c, key);
        if (kv) return gguf_value(c, kv, out);
    } else if (json_find(c, key, group, out)) {
        return OK;
    }
    if (!member(c->defaults[0], key, out)) member(c->defaults[1], key, out);
    return OK;
}

bool config_has(const struct config *c, enum key key)
{
    const struct json *j = NULL;
    return c->gguf ? gguf_find_key(c, key) != NULL : json_find(c, key, NULL, &j);
}

// The name that an object has for a key, or NULL.
static const char *name_in(const struct json *obj, enum key key)
{
    for (int i = 0; i < N_JSON && names[key].json[i]; i++) {
        const struct json *j = json_get(obj, names[key].json[i]);
        if (j && j->kind != J_NULL) return names[key].json[i];
    }
    return NULL;
}

static const char *json_key_name(const struct config *c, enum key key)
{
    const char *const *n = names[key].json;
    for (int i = 0; names[key].rope && i < 2; i++) {
        const struct json *rope = json_get(c->text, rope_folders[i]);
        const char *s = name_in(rope, key);
        if (!s) s = name_in(json_get(rope, "full_attention"), key);
        if (s) return s;
    }
    const char *s = name_in(c->text, key);
    if (s) return s;
    if (n[0] && n[1]) // absent: any of them would do
        s = arena_printf(c->arena, "%s' or '%s%s%s", n[0], n[1], n[2] ? "' or '" : "",
                         n[2] ? n[2] : "");
    else
        s = n[0];
    return s ? s : "?";
}

const char *config_key_name(const struct config *c, enum key key)
{
    if (!c->gguf) return json_key_name(c, key);
    const struct gguf_kv *kv = gguf_find_key(c, key);
    const char *s = kv ? arena_copy_str(c->arena, kv->key.s, kv->key.len)
                       : arena_printf(c->arena, "%s.%s", c->prefix,
                                      names[key].gguf[0] ? names[key].gguf[0] : "?");
    return s ? s : "?";
}

// ---- typed reads

static err_t wrong(const struct config *c, enum key key, const struct json *found,
                   const char *allowed)
{
    const char *name = config_key_name(c, key);
    switch (found->kind) {
    case J_INT:
        return config_fail(c, "key '%s': found %lld, allowed %s", name, (long long)found->i,
                           allowed);
    case J_REAL:
        return config_fail(c, "key '%s': found %g, allowed %s", name, found->d, allowed);
    case J_BOOL:
        return config_fail(c, "key '%s': found %s, allowed %s", name, found->b ? "true" : "false",
                           allowed);
    case J_STR:
        return config_fail(c, "key '%s': found '%.*s', allowed %s", name,
                           (int)(found->str.len > 32 ? 32 : found->str.len), found->str.s, allowed);
    default:
        return config_fail(c, "key '%s': found %s, allowed %s", name, json_kind_name(found->kind),
                           allowed);
    }
}

// An array of one number for each layer is that number if all are equal.
static err_t uniform(const struct config *c, enum key key, const struct json **j)
{
    if (!*j || (*j)->kind != J_ARR || (*j)->arr.n == 0) return OK;
    const struct json *items = (*j)->arr.items;
    for (size_t i = 1; i < (*j)->arr.n; i++)
        if (json_number(&items[i], NAN) != json_number(&items[0], NAN))
            return config_fail(c,
                               "key '%s': %g in layer 0 but %g in layer %zu, allowed one for all",
                               config_key_name(c, key), json_number(&items[0], NAN),
                               json_number(&items[i], NAN), i);
    *j = items;
    return OK;
}

err_t config_count(const struct config *c, enum key key, int32_t max, int32_t otherwise,
                   int32_t *out)
{
    const struct json *j;
    char allowed[48];
    err_t e = config_get(c, key, NULL, &j);
    if (e || (e = uniform(c, key, &j))) return e;
    if (!j) {
        if (otherwise < 0) return config_fail(c, "key '%s' is missing", config_key_name(c, key));
        *out = otherwise;
        return OK;
    }
    int32_t min = otherwise == 0 ? 0 : 1;
    snprintf(allowed, sizeof allowed, "%d to %d", min, max);
    // whole numbers written as 1.0 are taken
    bool whole = j->kind == J_REAL && j->d == floor(j->d) && fabs(j->d) <= max;
    int64_t v = whole ? (int64_t)j->d : j->i;
    if ((j->kind != J_INT && !whole) || v < min || v > max) return wrong(c, key, j, allowed);
    *out = (int32_t)v;
    return OK;
}

err_t config_positive(const struct config *c, enum key key, const char *group, double otherwise,
                      double *out)
{
    const struct json *j;
    err_t e = config_get(c, key, group, &j);
    if (e) return e;
    if (!j) {
        if (isnan(otherwise)) return config_fail(c, "key '%s' is missing", config_key_name(c, key));
        *out = otherwise;
        return OK;
    }
    double v = json_number(j, NAN);
    bool number = j->kind == J_INT || j->kind == J_REAL;
    bool none = v == 0 && otherwise == 0;
    // what cannot be a float is no number of a model
    if (!number || !isfinite(v) || !isfinite((float)v) || ((float)v <= 0 && !none))
        return wrong(c, key, j, "finite numbers above 0");
    *out = v;
    return OK;
}

err_t config_flag(const struct config *c, enum key key, bool otherwise, bool *out)
{
    const struct json *j;
    err_t e = config_get(c, key, NULL, &j);
    if (e) return e;
    if (j && j->kind != J_BOOL) return wrong(c, key, j, "true, false");
    *out = j ? j->b : otherwise;
    return OK;
}

err_t config_word(const struct config *c, enum key key, const char *group, const char *const *words,
                  int32_t otherwise, int32_t *out)
{
    const struct json *j;
    char allowed[128] = "";
    err_t e = config_get(c, key, group, &j);
    if (e) return e;
    if (!j) {
        *out = otherwise;
        return OK;
    }
    for (int32_t i = 0; words[i]; i++) {
        if (json_is(j, words[i])) {
            *out = i;
            return OK;
        }
        size_t at = strlen(allowed);
        snprintf(allowed + at, sizeof allowed - at, "%s%s", i ? ", " : "", words[i]);
    }
    return wrong(c, key, j, allowed);
}
