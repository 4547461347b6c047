// From a model's numbers to its shape: one reader for every architecture and container. What an
// architecture does not have is absent in its numbers; what differs is in its row's traits and
// defaults.
#include "topology/arch.h"

#include <math.h>
#include <string.h>

enum { HEADS_MAX = 65536, HEAD_DIM_MAX = 4096, WIDTH_MAX = 1 << 22 };

static err_t attn_numbers(const struct config *c, struct model_shape *s)
{
    int32_t value_dim;
    err_t e = config_count(c, KEY_HEADS, HEADS_MAX, -1, &s->n_head);
    if (e || (e = config_count(c, KEY_HEADS_KV, HEADS_MAX, s->n_head, &s->n_head_kv))) return e;
    if (s->n_head % s->n_head_kv)
        return config_fail(c, "%d heads are not a multiple of %d key/value heads", s->n_head,
                           s->n_head_kv);
    const struct json *given;
    if ((e = config_get(c, KEY_HEAD_DIM, NULL, &given))) return e;
    if (!given && s->dim % s->n_head)
        return config_fail(c, "%s %d is not a multiple of %d heads",
                           c->gguf ? "embedding length" : "hidden size", s->dim, s->n_head);
    int32_t share = s->dim >= s->n_head ? s->dim / s->n_head : 1;
    if ((e = config_count(c, KEY_HEAD_DIM, HEAD_DIM_MAX, share, &s->head_dim))) return e;
    if ((e = config_count(c, KEY_VALUE_DIM, HEAD_DIM_MAX, s->head_dim, &value_dim))) return e;
    if (value_dim != s->head_dim)
        return config_fail(c, "key length %d differs from value length %d, allowed equal ones",
                           s->head_dim, value_dim);
    if (s->head_dim % 2 || s->head_dim > HEAD_DIM_MAX)
        return config_fail(c, "heads of %d elements, allowed even numbers up to %d", s->head_dim,
                           HEAD_DIM_MAX);
    s->attn_scale = (float)(1 / sqrt((double)s->head_dim));
    return OK;
}

static err_t mla_numbers(const struct config *c, struct model_shape *s)
{
    struct model_mla *m = &s->mla;
    int32_t key_dim;
    err_t e = config_count(c, KEY_HEADS, HEADS_MAX, -1, &s->n_head);
    if (e || (e = config_count(c, KEY_Q_RANK, 1 << 20, 0, &m->q_rank))) return e;
    if ((e = config_count(c, KEY_KV_RANK, HEAD_DIM_MAX, -1, &m->kv_rank))) return e;
    if ((e = config_count(c, KEY_ROPE_DIM, HEAD_DIM_MAX, -1, &m->rope_dim))) return e;
    if ((e = config_count(c, KEY_V_DIM, HEAD_DIM_MAX, -1, &m->v_dim))) return e;
    if (c->gguf) {
        if ((e = config_count(c, KEY_KEY_DIM_MLA, HEAD_DIM_MAX, -1, &key_dim))) return e;
        m->nope_dim = key_dim - m->rope_dim;
        if (m->nope_dim < 1)
            return config_fail(c, "keys of %d elements, %d of them rotated: none is left", key_dim,
                               m->rope_dim);
    } else if ((e = config_count(c, KEY_NOPE_DIM, HEAD_DIM_MAX, -1, &m->nope_dim))) {
        return e;
    }
    if (m->kv_rank + m->rope_dim > HEAD_DIM_MAX)
        return config_fail(c, "latent keys of %d + %d elements, allowed up to %d", m->kv_rank,
                           m->rope_dim, HEAD_DIM_MAX);
    s->n_head_kv = 1;
    s->head_dim = m->nope_dim + m->rope_dim;
    s->attn_scale = (float)(1 / sqrt((double)s->head_dim));
    return OK;
}

static err_t delta_numbers(const struct config *c, const struct arch *a, struct model_shape *s)
{
    struct model_delta *d = &s->delta;
    int32_t inner;
    err_t e = config_count(c, KEY_DELTA_HEADS_K, HEADS_MAX, -1, &d->n_head_k);
    if (e || (e = config_count(c, KEY_DELTA_HEADS_V, HEADS_MAX, -1, &d->n_head_v))) return e;
    if ((e = config_count(c, KEY_DELTA_DIM_K, HEAD_DIM_MAX, -1, &d->dim_k))) return e;
    if ((e = config_count(c, KEY_DELTA_TAPS, 8, -1, &d->n_tap))) return e;
    if (c->gguf) {
        if ((e = config_count(c, KEY_DELTA_INNER, WIDTH_MAX, -1, &inner))) return e;
        if (inner % d->n_head_v)
            return config_fail(c, "key '%s': found %d, no multiple of %d value heads",
                               config_key_name(c, KEY_DELTA_INNER), inner, d->n_head_v);
        d->dim_v = inner / d->n_head_v;
    } else if ((e = config_count(c, KEY_DELTA_DIM_V, HEAD_DIM_MAX, -1, &d->dim_v))) {
        return e;
    }
    if (d->n_head_v % d->n_head_k)
        return config_fail(c, "%d value heads are not a multiple of %d key heads", d->n_head_v,
                           d->n_head_k);
    if (d->dim_v > HEAD_DIM_MAX || d->n_tap < 2)
        return config_fail(c, "value heads of %d elements and %d taps, allowed up to %d and 2 to 8",
                           d->dim_v, d->n_tap, HEAD_DIM_MAX);
    d->tiled = c->gguf && (a->traits & ARCH_GGUF_TILED);
    return OK;
}

static err_t scale_numbers(const struct config *c, const struct arch *a, struct model_shape *s)
{
    double v, scalar, embed, residual, divisor, cap, final_cap;
    err_t e = config_positive(c, KEY_QUERY_SCALAR, NULL, 0, &scalar);
    if (e || (e = config_positive(c, KEY_ATTN_SCALE, NULL, 0, &v))) return e;
    if (scalar > 0) s->attn_scale = (float)(1 / sqrt(scalar));
    if (v > 0) s->attn_scale = (float)v;
    if (c->gguf && a->gguf_dim_scale_layers == s->n_layer)
        s->attn_scale = (float)(1 / sqrt((double)s->dim / s->n_head));
    embed = a->traits & ARCH_EMBED_SQRT ? sqrt((double)s->dim) : 1;
    if ((e = config_positive(c, KEY_EMBED_SCALE, NULL, embed, &embed))) return e;
    if ((e = config_positive(c, KEY_RESIDUAL_SCALE, NULL, 1, &residual))) return e;
    if ((e = config_positive(c, KEY_LOGITS_DIVISOR, NULL, 1, &divisor))) return e;
    if ((e = config_positive(c, KEY_ATTN_CAP, NULL, 0, &cap))) return e;
    if ((e = config_positive(c, KEY_FINAL_CAP, NULL, 0, &final_cap))) return e;
    s->embed_scale = (float)embed;
    s->residual_scale = (float)residual;
    s->logit_scale = (float)(1 / divisor);
    s->attn_softcap = (float)cap;
    s->logit_softcap = (float)final_cap;
    return OK;
}

// Queries grow with their position: Llama 4 and the later Mistrals.
static err_t beta_numbers(const struct config *c, struct model_shape *s)
{
    bool on, llama4 = s->chunk != 0;
    double beta;
    int32_t span;
    err_t e = config_flag(c, KEY_BETA_ON, true, &on);
    if (e || (e = config_positive(c, KEY_BETA, NULL, 0, &beta))) return e;
    if (!on || beta <= 0) return OK;
    if ((e = config_count(c, llama4 ? KEY_BETA_SPAN : KEY_ROPE_ORIGINAL, 1 << 30, -1, &span)))
        return e;
    s->q_beta = (float)beta;
    s->q_span = span;
    s->q_shift = llama4 ? 1 : 0;
    s->q_no_rope_only = llama4;
    return OK;
}

// ---- experts

static err_t route_numbers(const struct config *c, const struct arch *a, struct model_shape *s)
{
    static const char *const scorings[] = {"softmax", "sigmoid", NULL};
    static const char *const methods[] = {"greedy", "group_limited_greedy", "noaux_tc", NULL};
    struct model_moe *m = &s->moe;
    int32_t func = -1, method = -1;
    double scale;
    m->sigmoid = a->traits & ARCH_SIGMOID;
    m->late_softmax = a->traits & ARCH_LATE_SOFTMAX;
    m->weigh_input = a->traits & ARCH_WEIGH_INPUT;
    err_t e = config_positive(c, KEY_EXPERT_SCALE, NULL, 0, &scale);
    if (e || (e = config_flag(c, KEY_EXPERT_NORM, false, &m->normalise))) return e;
    if (c->gguf) {
        if ((e = config_count(c, KEY_SCORING, 3, 0, &func))) return e;
        if (func) {
            m->sigmoid = func == 2;
            m->late_softmax = func == 3 || (m->late_softmax && func == 1);
        }
    } else {
        if ((e = config_word(c, KEY_SCORING, NULL, scorings, m->sigmoid, &func))) return e;
        if ((e = config_word(c, KEY_TOPK_METHOD, NULL, methods, -1, &method))) return e;
        m->sigmoid = func == 1;
    }
    m->group_by_two = (a->traits & ARCH_GROUP_BY_TWO) || m->sigmoid;
    m->scale = scale > 0 ? (float)scale : 1;
    if ((e = config_count(c, KEY_GROUPS, m->n_expert, 0, &m->n_group))) return e;
    if (m->n_group <= 1 || method == 0) {
        m->n_group = 0;
        return OK;
    }
    if ((e = config_count(c, KEY_GROUPS_USED, m->n_group, -1, &m->n_group_used))) return e;
    if (m->n_expert % m->n_group)
        return config_fail(c, "%d experts are not a multiple of %d groups", m->n_expert,
                           m->n_group);
    if (m->n_used > m->n_expert / m->n_group * m->n_group_used)
        return config_fail(c, "%d experts for each token, the groups chosen hold %d", m->n_used,
                           m->n_expert / m->n_group * m->n_group_used);
    return OK;
}

static err_t moe_numbers(const struct config *c, const struct arch *a, struct model_shape *s)
{
    struct model_moe *m = &s->moe;
    int32_t n_shared;
    int32_t otherwise = a->traits & ARCH_EXPERTS ? -1 : 0;
    err_t e = config_count(c, KEY_EXPERTS, MODEL_EXPERTS_MAX, otherwise, &m->n_expert);
    if (e || m->n_expert == 0) return e;
    if ((e = config_count(c, KEY_EXPERTS_USED, m->n_expert, -1, &m->n_used))) return e;
    if ((e = config_count(c, KEY_EXPERT_FFN, WIDTH_MAX, -1, &m->dim))) return e;
    if ((e = config_count(c, KEY_SHARED_FFN, WIDTH_MAX, 0, &m->shared_dim))) return e;
    if ((e = config_count(c, KEY_SHARED_EXPERTS, 1024, 0, &n_shared))) return e;
    if (!m->shared_dim && n_shared) {
        if ((int64_t)n_shared * m->dim > WIDTH_MAX)
            return config_fail(c, "%d shared experts of %d are too wide, allowed up to %d",
                               n_shared, m->dim, WIDTH_MAX);
        m->shared_dim = n_shared * m->dim;
    }
    return route_numbers(c, a, s);
}

// ---- layers

// An array of one element for each layer, or *out NULL.
static err_t per_layer(const struct config *c, enum key key, const struct model_shape *s,
                       const struct json **out)
{
    err_t e = config_get(c, key, NULL, out);
    if (e || !*out) return e;
    if ((*out)->kind != J_ARR || (*out)->arr.n < (size_t)s->n_layer)
        return config_fail(c, "key '%s': found %s of %zu, allowed one for each of %d layers",
                           config_key_name(c, key), json_kind_name((*out)->kind),
                           (*out)->kind == J_ARR ? (*out)->arr.n : 1, s->n_layer);
    return OK;
}

static bool is_true(const struct json *j)
{
    return j->kind == J_BOOL ? j->b : json_number(j, 0) != 0;
}

// An array of layer numbers, or *out NULL.
static err_t layer_list(const struct config *c, enum key key, const struct model_shape *s,
                        const struct json **out)
{
    err_t e = config_get(c, key, NULL, out);
    if (e || !*out) return e;
    bool right = (*out)->kind == J_ARR;
    for (size_t i = 0; right && i < (*out)->arr.n; i++) {
        const struct json *layer = &(*out)->arr.items[i];
        right = layer->kind == J_INT && layer->i >= 0 && layer->i < s->n_layer;
    }
    if (right) return OK;
    return config_fail(c, "key '%s': not a list of layers, 0 to %d", config_key_name(c, key),
                       s->n_layer - 1);
}

static bool in_list(const struct json *list, int32_t layer)
{
    for (size_t i = 0; list && i < list->arr.n; i++)
        if (list->arr.items[i].i == layer) return true;
    return false;
}

static err_t ffn_kinds(const struct config *c, struct model_shape *s)
{
    int32_t dense_first, every, freq = 1;
    const struct json *dense, *moe, *freq_list;
    err_t e = config_count(c, KEY_DENSE_FIRST, MODEL_LAYERS_MAX, 0, &dense_first);
    if (e || (e = config_count(c, KEY_MOE_EVERY, MODEL_LAYERS_MAX, 1, &every))) return e;
    if ((e = layer_list(c, KEY_DENSE_LAYERS, s, &dense))) return e;
    if ((e = layer_list(c, KEY_MOE_LAYERS, s, &moe))) return e;
    if ((e = config_get(c, KEY_MOE_FREQ, NULL, &freq_list))) return e;
    if (freq_list && freq_list->kind == J_ARR) { // one flag for each layer
        if ((e = per_layer(c, KEY_MOE_FREQ, s, &freq_list))) return e;
    } else {
        if ((e = config_count(c, KEY_MOE_FREQ, MODEL_LAYERS_MAX, 1, &freq))) return e;
        freq_list = NULL;
    }
    for (int32_t i = 0; i < s->n_layer; i++) {
        bool is_moe = i >= dense_first && (i + 1) % every == 0 && i % freq == 0;
        if (freq_list) is_moe = is_true(&freq_list->arr.items[i]);
        if (moe) is_moe = in_list(moe, i);
        if (in_list(dense, i)) is_moe = false;
        s->layers[i].ffn = s->moe.n_expert && is_moe ? FFN_MOE : FFN_DENSE;
    }
    return OK;
}

static err_t typed_layers(const struct config *c, const struct json *types, struct model_shape *s)
{
    static const char *const words[] = {"full_attention", "sliding_attention", "chunked_attention",
                                        "linear_attention"};
    for (int32_t i = 0; i < s->n_layer; i++) {
        const struct json *t = &types->arr.items[i];
        int w = 0;
        while (w < 4 && !json_is(t, words[w]))
            w++;
        bool possible = w == 0 || (w == 1 && s->window) || (w == 2 && s->chunk) ||
                        (w == 3 && s->delta.n_head_k);
        if (!possible)
            return config_fail(c, "key '%s': layer %d is '%s', which this model has no numbers for",
                               config_key_name(c, KEY_LAYER_TYPES), i,
                               t->kind == J_STR ? t->str.s : json_kind_name(t->kind));
        s->layers[i].is_local = w == 1 || w == 2;
        if (w == 3) s->layers[i].mixer = MIXER_DELTA;
    }
    return OK;
}

// Which layers see a window or chunk only, by rule.
static err_t local_layers(const struct config *c, struct model_shape *s)
{
    const struct json *uses, *flags;
    bool use = true;
    int32_t from = 0, every = 0;
    err_t e = config_get(c, KEY_USE_WINDOW, NULL, &uses);
    if (e || (e = config_flag(c, KEY_USE_WINDOW, true, &use))) return e;
    if (!use) s->window = 0;
    if (!s->window) return OK;
    if (uses && (e = config_count(c, KEY_WINDOW_FROM, 1 << 20, -1, &from))) return e;
    if ((e = config_get(c, KEY_WINDOW_EVERY, NULL, &flags))) return e;
    if (flags && flags->kind == J_ARR) {
        if ((e = per_layer(c, KEY_WINDOW_EVERY, s, &flags))) return e;
    } else {
        if ((e = config_count(c, KEY_WINDOW_EVERY, MODEL_LAYERS_MAX, 0, &every))) return e;
        flags = NULL;
    }
    for (int32_t i = 0; i < s->n_layer; i++)
        s->layers[i].is_local = flags   ? is_true(&flags->arr.items[i])
                                : every ? (i + 1) % every != 0
                                        : i >= from;
    return OK;
}

static err_t delta_layers(const struct config *c, struct model_shape *s)
{
    const struct json *flags;
    int32_t every;
    err_t e = per_layer(c, KEY_RECURRENT, s, &flags);
    if (e || (e = config_count(c, KEY_ATTN_EVERY, MODEL_LAYERS_MAX, -1, &every))) return e;
    for (int32_t i = 0; i < s->n_layer; i++)
        if (flags ? is_true(&flags->arr.items[i]) : (i + 1) % every != 0)
            s->layers[i].mixer = MIXER_DELTA;
    return OK;
}

static err_t rope_layers(const struct config *c, struct model_shape *s)
{
    const struct json *flags;
    int32_t every;
    err_t e = config_get(c, KEY_ROPE_LAYERS, NULL, &flags);
    if (e) return e;
    bool given = flags && (flags->kind != J_ARR || flags->arr.n); // empty: by rule
    if (given && (e = per_layer(c, KEY_ROPE_LAYERS, s, &flags))) return e;
    if (!given) flags = NULL;
    if ((e = config_count(c, KEY_NO_ROPE_EVERY, MODEL_LAYERS_MAX, 0, &every))) return e;
    for (int32_t i = 0; i < s->n_layer; i++)
        s->layers[i].no_rope =
            flags ? !is_true(&flags->arr.items[i]) : every && (i + 1) % every == 0;
    return OK;
}

static err_t layer_kinds(const struct config *c, const struct arch *a, struct model_shape *s)
{
    const struct json *types;
    err_t e = config_count(c, KEY_WINDOW, 1 << 30, 0, &s->window);
    if (e) return e;
    if (a->traits & ARCH_CHUNKED) {
        if (c->gguf && !s->window && config_has(c, KEY_WINDOW))
            return config_fail(c, "key '%s': found 0, %s without chunks cannot be run",
                               config_key_name(c, KEY_WINDOW), a->name);
        s->window = 0;
        if ((e = config_count(c, KEY_CHUNK, 1 << 30, 0, &s->chunk))) return e;
    }
    for (int32_t i = 0; i < s->n_layer; i++)
        s->layers[i].mixer = a->traits & ARCH_MLA ? MIXER_MLA : MIXER_ATTN;
    if ((e = rope_layers(c, s)) || (e = ffn_kinds(c, s))) return e;
    if ((e = per_layer(c, KEY_LAYER_TYPES, s, &types))) return e;
    if (types) {
        if ((e = typed_layers(c, types, s))) return e;
    } else if (s->chunk) {
        for (int32_t i = 0; i < s->n_layer; i++)
            s->layers[i].is_local = !s->layers[i].no_rope;
    } else if ((e = local_layers(c, s))) {
        return e;
    } else if ((a->traits & ARCH_DELTA) && (e = delta_layers(c, s))) {
        return e;
    }
    bool any = false;
    for (int32_t i = 0; i < s->n_layer; i++)
        any |= s->layers[i].is_local;
    if (!any) s->window = s->chunk = 0;
    // the prediction head's layer is like the last kind of attention layer
    s->mtp = (struct model_layer){.mixer = a->traits & ARCH_MLA ? MIXER_MLA : MIXER_ATTN,
                                  .ffn = s->moe.n_expert ? FFN_MOE : FFN_DENSE};
    return OK;
}

// ---- all

static err_t act_numbers(const struct config *c, const struct arch *a, struct model_shape *s)
{
    static const char *const words[] = {"silu",     "swish", "gelu_pytorch_tanh",
                                        "gelu_new", "gelu",  NULL};
    static const uint8_t kinds[] = {ACT_SILU, ACT_SILU, ACT_GELU_TANH, ACT_GELU_TANH, ACT_GELU};
    int32_t word;
    double alpha, limit;
    err_t e = config_word(c, KEY_ACT, NULL, words, 0, &word);
    if (e) return e;
    s->act = kinds[word];
    if (!(a->traits & ARCH_SWIGLU_OAI)) return OK;
    if ((e = config_positive(c, KEY_SWIGLU_ALPHA, NULL, NAN, &alpha))) return e;
    if ((e = config_positive(c, KEY_SWIGLU_LIMIT, NULL, NAN, &limit))) return e;
    s->act = ACT_SWIGLU_OAI;
    s->act_alpha = (float)alpha;
    s->act_limit = (float)limit;
    return OK;
}

static err_t vocab_numbers(const struct config *c, const struct arch_file *file,
                           struct model_shape *s)
{
    enum { VOCAB_MAX = 1 << 24 };
    int32_t said;
    if (file->n_vocab > VOCAB_MAX)
        return config_fail(c, "the embedding has %lld rows, allowed up to %d",
                           (long long)file->n_vocab, VOCAB_MAX);
    s->n_vocab = (int32_t)file->n_vocab;
    if (!s->n_vocab) return config_count(c, KEY_VOCAB, VOCAB_MAX, -1, &s->n_vocab);
    if (!config_has(c, KEY_VOCAB)) return OK;
    err_t e = config_count(c, KEY_VOCAB, INT32_MAX, s->n_vocab, &said);
    if (e) return e;
    if (said != s->n_vocab)
        return config_fail(c, "key '%s': found %d, the embedding has %d rows",
                           config_key_name(c, KEY_VOCAB), said, s->n_vocab);
    return OK;
}

// What would change the result and is not computed here.
static err_t refusals(const struct config *c, const struct arch *a)
{
    bool bias, causal;
    const struct json *clip;
    err_t e = config_flag(c, KEY_MLP_BIAS, false, &bias);
    if (e || (e = config_flag(c, KEY_CAUSAL, true, &causal))) return e;
    if ((e = config_get(c, KEY_CLIP_QKV, NULL, &clip))) return e;
    if (bias)
        return config_fail(c, "key '%s': true, allowed false", config_key_name(c, KEY_MLP_BIAS));
    if (!causal)
        return config_fail(c, "key '%s': false, allowed true", config_key_name(c, KEY_CAUSAL));
    if (clip && json_number(clip, 1) != 0)
        return config_fail(c, "key '%s': clamped queries, keys and values cannot be run",
                           config_key_name(c, KEY_CLIP_QKV));
    if (!(a->traits & ARCH_MLA)) return OK;
    if ((e = config_flag(c, KEY_ATTN_BIAS, false, &bias))) return e;
    if (bias)
        return config_fail(c, "key '%s': true, allowed false", config_key_name(c, KEY_ATTN_BIAS));
    return OK;
}

static err_t slots(const struct config *c, const struct arch *a, const struct arch_file *file,
                   struct model_shape *s, struct arch_needs *needs)
{
    const slot_set qkv =
        SLOT_BIT(SLOT_ATTN_Q_BIAS) | SLOT_BIT(SLOT_ATTN_K_BIAS) | SLOT_BIT(SLOT_ATTN_V_BIAS);
    const slot_set out = SLOT_BIT(SLOT_ATTN_OUT_BIAS);
    const slot_set norms = SLOT_BIT(SLOT_ATTN_Q_NORM) | SLOT_BIT(SLOT_ATTN_K_NORM);
    const struct json *tie;
    bool bias, by_key;
    err_t e = config_flag(c, KEY_ATTN_BIAS, false, &bias);
    if (e || (e = config_flag(c, KEY_QK_NORM, file->has_q_norm, &by_key))) return e;
    needs->must = a->must;
    if (a->traits & ARCH_CORRECTION) needs->must |= SLOT_BIT(SLOT_MOE_CORRECTION);
    if (bias) needs->must |= a->traits & ARCH_NO_OUT_BIAS ? qkv : qkv | out;
    if (c->gguf) needs->may |= qkv | out | SLOT_BIT(SLOT_MOE_CORRECTION);
    s->qk_norm = a->qk_norm;
    // Llama 4 with 128 experts has no norm there, and no key of GGUF says so.
    if (c->gguf && a->qk_norm == QK_NORM_L2 && s->moe.n_expert == 128) by_key = false;
    if ((a->traits & ARCH_QK_NORM_BY_KEY) && !by_key) {
        s->qk_norm = QK_NORM_NONE;
        needs->must &= ~norms;
    }
    if ((e = config_flag(c, KEY_TIE, false, &needs->tied))) return e;
    if ((e = config_get(c, KEY_TIE, NULL, &tie))) return e;
    needs->tie_said = tie != NULL;
    return OK;
}

err_t arch_numbers(const struct config *c, const struct arch *a, const struct arch_file *file,
                   struct model_shape *s, struct arch_needs *needs)
{
    double eps;
    err_t e = config_check(c);
    if (e || (e = config_count(c, KEY_LAYERS, MODEL_LAYERS_MAX, -1, &s->n_layer))) return e;
    if ((e = config_count(c, KEY_NEXTN, MODEL_LAYERS_MAX, 0, &needs->n_nextn))) return e;
    if (c->gguf && needs->n_nextn >= s->n_layer)
        return config_fail(c, "key '%s': found %d, the model has %d layers",
                           config_key_name(c, KEY_NEXTN), needs->n_nextn, s->n_layer);
    if (c->gguf) s->n_layer -= needs->n_nextn; // GGUF counts them all
    if ((e = config_count(c, KEY_DIM, 1 << 20, -1, &s->dim))) return e;
    if ((e = moe_numbers(c, a, s))) return e;
    if ((e = config_count(c, KEY_FFN, WIDTH_MAX, s->moe.n_expert ? 0 : -1, &s->ffn_dim))) return e;
    if ((e = config_count(c, KEY_CTX, 1 << 30, -1, &s->ctx_train))) return e;
    if ((e = config_positive(c, KEY_EPS, NULL, NAN, &eps))) return e;
    s->norm_eps = (float)eps;
    if ((e = refusals(c, a)) || (e = vocab_numbers(c, file, s))) return e;
    if ((e = a->traits & ARCH_MLA ? mla_numbers(c, s) : attn_numbers(c, s))) return e;
    if ((a->traits & ARCH_DELTA) && (e = delta_numbers(c, a, s))) return e;
    if ((e = act_numbers(c, a, s)) || (e = layer_kinds(c, a, s))) return e;
    for (int32_t i = 0; i < s->n_layer; i++)
        if (s->layers[i].ffn == FFN_DENSE && !s->ffn_dim)
            return config_fail(c, "key '%s' is missing", config_key_name(c, KEY_FFN));
    if ((e = scale_numbers(c, a, s)) || (e = beta_numbers(c, s))) return e;
    if ((e = slots(c, a, file, s, needs)) || (e = arch_rope(c, a, s))) return e;
    // A window that never closes is none (phi3 says so with one of 262144).
    if (s->window >= s->ctx_train && s->rope_local.theta == s->rope.theta) {
        s->window = 0;
        for (int32_t i = 0; i < s->n_layer; i++)
            s->layers[i].is_local = false;
    }
    return OK;
}
