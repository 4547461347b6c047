#include "topology/slot.h"

#include "topology/model.h"

enum use {
    IN_ATTN = 1,
    IN_MLA = 2,
    IN_DELTA = 4,
    IN_ANY_MIXER = 7,
    IN_DENSE = 8,
    IN_MOE = 16,
    IN_ANY_FFN = 24,
    IN_MTP = 32,
    IN_EMBED = 64,
    IN_HEAD = 128,
    IN_SHARED = 256
};

// The sizes that slots are made of.
enum size {
    ONE,
    DIM,
    Q,      // all query heads
    KV,     // all key heads
    N_HEAD, // how many
    MIXED,  // what the mixer gives to its last matrix
    Q_NORM, // as the kind of norm on queries and keys says
    K_NORM,
    Q_RANK,
    KV_RANK,
    KV_LATENT, // rank and rotated part
    NOPE,
    V_DIM,
    D_QKV,
    D_V,
    D_HEADS,
    D_DIM,
    D_TAP,
    FFN,
    EXPERTS,
    EXPERT,
    SHARED,
    TWO_DIM,
    VOCAB,
    HALF_ROT
};

struct row {
    const char *name;
    uint16_t in;           // enum use
    bool matrix, some;     // some: only some architectures, or a rule below
    uint8_t n, rows, cols; // enum size
};

#define MATRIX(text, use, n, r, c)                                                                 \
    {                                                                                              \
        text, use, true, false, n, r, c                                                            \
    }
#define VECTOR(text, use, c)                                                                       \
    {                                                                                              \
        text, use, false, false, ONE, ONE, c                                                       \
    }
#define SOME(text, use, n, c)                                                                      \
    {                                                                                              \
        text, use, false, true, n, ONE, c                                                          \
    }

static const struct row rows[SLOT_COUNT] = {
    [SLOT_ATTN_NORM] = VECTOR("attn_norm", IN_ANY_MIXER, DIM),
    [SLOT_ATTN_Q] = {"attn_q", IN_ATTN | IN_MLA, true, true, ONE, Q, DIM},
    [SLOT_ATTN_K] = MATRIX("attn_k", IN_ATTN, ONE, KV, DIM),
    [SLOT_ATTN_V] = MATRIX("attn_v", IN_ATTN, ONE, KV, DIM),
    [SLOT_ATTN_GATE] = {"attn_gate", IN_ATTN, true, true, ONE, Q, DIM},
    [SLOT_ATTN_OUT] = MATRIX("attn_out", IN_ANY_MIXER, ONE, DIM, MIXED),
    [SLOT_ATTN_Q_BIAS] = SOME("attn_q_bias", IN_ATTN, ONE, Q),
    [SLOT_ATTN_K_BIAS] = SOME("attn_k_bias", IN_ATTN, ONE, KV),
    [SLOT_ATTN_V_BIAS] = SOME("attn_v_bias", IN_ATTN, ONE, KV),
    [SLOT_ATTN_OUT_BIAS] = SOME("attn_out_bias", IN_ATTN, ONE, DIM),
    [SLOT_ATTN_Q_NORM] = SOME("attn_q_norm", IN_ATTN, ONE, Q_NORM),
    [SLOT_ATTN_K_NORM] = SOME("attn_k_norm", IN_ATTN, ONE, K_NORM),
    [SLOT_ATTN_SINKS] = SOME("attn_sinks", IN_ATTN, ONE, N_HEAD),
    [SLOT_ATTN_POST_NORM] = SOME("attn_post_norm", IN_ANY_MIXER, ONE, DIM),
    [SLOT_MLA_Q_A] = {"mla_q_a", IN_MLA, true, true, ONE, Q_RANK, DIM},
    [SLOT_MLA_Q_A_NORM] = SOME("mla_q_a_norm", IN_MLA, ONE, Q_RANK),
    [SLOT_MLA_Q_B] = {"mla_q_b", IN_MLA, true, true, ONE, Q, Q_RANK},
    [SLOT_MLA_KV_A] = MATRIX("mla_kv_a", IN_MLA, ONE, KV_LATENT, DIM),
    [SLOT_MLA_KV_NORM] = VECTOR("mla_kv_norm", IN_MLA, KV_RANK),
    [SLOT_MLA_K_B] = MATRIX("mla_k_b", IN_MLA, N_HEAD, KV_RANK, NOPE),
    [SLOT_MLA_V_B] = MATRIX("mla_v_b", IN_MLA, N_HEAD, V_DIM, KV_RANK),
    [SLOT_DELTA_QKV] = MATRIX("delta_qkv", IN_DELTA, ONE, D_QKV, DIM),
    [SLOT_DELTA_Z] = MATRIX("delta_z", IN_DELTA, ONE, D_V, DIM),
    [SLOT_DELTA_A] = MATRIX("delta_a", IN_DELTA, ONE, D_HEADS, DIM),
    [SLOT_DELTA_B] = MATRIX("delta_b", IN_DELTA, ONE, D_HEADS, DIM),
    [SLOT_DELTA_CONV] = {"delta_conv", IN_DELTA, false, false, ONE, D_QKV, D_TAP},
    [SLOT_DELTA_A_NEG] = VECTOR("delta_a_neg", IN_DELTA, D_HEADS),
    [SLOT_DELTA_DT_BIAS] = VECTOR("delta_dt_bias", IN_DELTA, D_HEADS),
    [SLOT_DELTA_NORM] = VECTOR("delta_norm", IN_DELTA, D_DIM),
    [SLOT_FFN_NORM] = VECTOR("ffn_norm", IN_ANY_FFN, DIM),
    [SLOT_FFN_GATE] = MATRIX("ffn_gate", IN_DENSE, ONE, FFN, DIM),
    [SLOT_FFN_UP] = MATRIX("ffn_up", IN_DENSE, ONE, FFN, DIM),
    [SLOT_FFN_DOWN] = MATRIX("ffn_down", IN_DENSE, ONE, DIM, FFN),
    [SLOT_FFN_POST_NORM] = SOME("ffn_post_norm", IN_ANY_FFN, ONE, DIM),
    [SLOT_MOE_ROUTER] = MATRIX("moe_router", IN_MOE, ONE, EXPERTS, DIM),
    [SLOT_MOE_ROUTER_BIAS] = SOME("moe_router_bias", IN_MOE, ONE, EXPERTS),
    [SLOT_MOE_CORRECTION] = SOME("moe_correction", IN_MOE, ONE, EXPERTS),
    [SLOT_MOE_GATE] = MATRIX("moe_gate", IN_MOE, EXPERTS, EXPERT, DIM),
    [SLOT_MOE_UP] = MATRIX("moe_up", IN_MOE, EXPERTS, EXPERT, DIM),
    [SLOT_MOE_DOWN] = MATRIX("moe_down", IN_MOE, EXPERTS, DIM, EXPERT),
    [SLOT_MOE_GATE_BIAS] = SOME("moe_gate_bias", IN_MOE, EXPERTS, EXPERT),
    [SLOT_MOE_UP_BIAS] = SOME("moe_up_bias", IN_MOE, EXPERTS, EXPERT),
    [SLOT_MOE_DOWN_BIAS] = SOME("moe_down_bias", IN_MOE, EXPERTS, DIM),
    [SLOT_SHARED_ROUTER] = {"shared_router", IN_MOE, true, true, ONE, ONE, DIM},
    [SLOT_SHARED_GATE] = {"shared_gate", IN_MOE, true, true, ONE, SHARED, DIM},
    [SLOT_SHARED_UP] = {"shared_up", IN_MOE, true, true, ONE, SHARED, DIM},
    [SLOT_SHARED_DOWN] = {"shared_down", IN_MOE, true, true, ONE, DIM, SHARED},
    [SLOT_MTP_EMBED_NORM] = VECTOR("mtp_embed_norm", IN_MTP, DIM),
    [SLOT_MTP_HIDDEN_NORM] = VECTOR("mtp_hidden_norm", IN_MTP, DIM),
    [SLOT_MTP_FC] = MATRIX("mtp_fc", IN_MTP, ONE, DIM, TWO_DIM),
    [SLOT_MTP_NORM] = VECTOR("mtp_norm", IN_MTP, DIM),
    [SLOT_EMBED] = MATRIX("embed", IN_EMBED, ONE, VOCAB, DIM),
    [SLOT_FINAL_NORM] = VECTOR("final_norm", IN_HEAD, DIM),
    [SLOT_HEAD] = MATRIX("head", IN_HEAD, ONE, VOCAB, DIM),
    [SLOT_HEAD_BIAS] = SOME("head_bias", IN_HEAD, ONE, VOCAB),
    [SLOT_ROPE_FREQS] = SOME("rope_freqs", IN_SHARED, ONE, HALF_ROT),
    [SLOT_ROPE_FREQS_LONG] = SOME("rope_freqs_long", IN_SHARED, ONE, HALF_ROT),
};

_Static_assert(SLOT_COUNT <= 64, "sets of slots are words");

const char *slot_name(enum slot s)
{
    return rows[s].name;
}

bool slot_is_matrix(enum slot s)
{
    return rows[s].matrix;
}

static slot_set set_of(unsigned use, bool with_some)
{
    slot_set set = 0;
    for (int s = 0; s < SLOT_COUNT; s++)
        if ((rows[s].in & use) && (with_some || !rows[s].some)) set |= SLOT_BIT(s);
    return set;
}

static unsigned use_of(const struct model_layer *layer)
{
    static const unsigned mixers[] = {
        [MIXER_ATTN] = IN_ATTN, [MIXER_MLA] = IN_MLA, [MIXER_DELTA] = IN_DELTA};
    return mixers[layer->mixer] | (layer->ffn == FFN_MOE ? IN_MOE : IN_DENSE);
}

slot_set slot_possible(const struct model_layer *layer)
{
    return set_of(use_of(layer), true);
}

slot_set slot_needed(const struct model_shape *s, const struct model_layer *layer)
{
    slot_set set = set_of(use_of(layer), false);
    if (layer->mixer == MIXER_ATTN || (layer->mixer == MIXER_MLA && !s->mla.q_rank))
        set |= SLOT_BIT(SLOT_ATTN_Q);
    if (layer->mixer == MIXER_MLA && s->mla.q_rank)
        set |= SLOT_BIT(SLOT_MLA_Q_A) | SLOT_BIT(SLOT_MLA_Q_A_NORM) | SLOT_BIT(SLOT_MLA_Q_B);
    if (layer->ffn == FFN_MOE && s->moe.shared_dim)
        set |= SLOT_BIT(SLOT_SHARED_GATE) | SLOT_BIT(SLOT_SHARED_UP) | SLOT_BIT(SLOT_SHARED_DOWN);
    return set;
}

slot_set slot_of_part(int32_t part)
{
    switch (part) {
    case PART_EMBED:
        return set_of(IN_EMBED, true);
    case PART_HEAD:
        return set_of(IN_HEAD, true);
    case PART_SHARED:
        return set_of(IN_SHARED, true);
    case PART_MTP:
        return set_of(IN_MTP, true);
    default:
        return 0;
    }
}

static int64_t mixer_size(const struct model_shape *s, const struct model_layer *layer,
                          enum size size)
{
    int64_t n_head = s->n_head, n_kv = s->n_head_kv, head = s->head_dim;
    uint8_t mixer = layer ? layer->mixer : MIXER_ATTN;
    bool all = s->qk_norm == QK_NORM_ALL;
    switch (size) {
    case Q:
        return mixer == MIXER_MLA ? n_head * (s->mla.nope_dim + s->mla.rope_dim) : n_head * head;
    case KV:
        return n_kv * head;
    case Q_NORM:
        return all ? n_head * head : head;
    case K_NORM:
        return all ? n_kv * head : head;
    case MIXED:
        if (mixer == MIXER_MLA) return n_head * s->mla.v_dim;
        if (mixer == MIXER_DELTA) return (int64_t)s->delta.n_head_v * s->delta.dim_v;
        return n_head * head;
    case D_V:
        return (int64_t)s->delta.n_head_v * s->delta.dim_v;
    case D_QKV:
        return 2 * (int64_t)s->delta.n_head_k * s->delta.dim_k +
               (int64_t)s->delta.n_head_v * s->delta.dim_v;
    case KV_LATENT:
        return (int64_t)s->mla.kv_rank + s->mla.rope_dim;
    default:
        BUG("size of a slot");
    }
}

static int64_t size_of(const struct model_shape *s, const struct model_layer *layer, enum size size)
{
    switch (size) {
    case ONE:
        return 1;
    case DIM:
        return s->dim;
    case N_HEAD:
        return s->n_head;
    case Q_RANK:
        return s->mla.q_rank;
    case KV_RANK:
        return s->mla.kv_rank;
    case NOPE:
        return s->mla.nope_dim;
    case V_DIM:
        return s->mla.v_dim;
    case D_HEADS:
        return s->delta.n_head_v;
    case D_DIM:
        return s->delta.dim_v;
    case D_TAP:
        return s->delta.n_tap;
    case FFN:
        return s->ffn_dim;
    case EXPERTS:
        return s->moe.n_expert;
    case EXPERT:
        return s->moe.dim;
    case SHARED:
        return s->moe.shared_dim;
    case TWO_DIM:
        return 2 * (int64_t)s->dim;
    case VOCAB:
        return s->n_vocab;
    case HALF_ROT:
        return s->rope.n_rot / 2;
    default:
        return mixer_size(s, layer, size);
    }
}

void slot_size(const struct model_shape *s, const struct model_layer *layer, enum slot slot,
               int64_t *n, int64_t *rows_out, int64_t *cols)
{
    const struct row *row = &rows[slot];
    *n = size_of(s, layer, row->n);
    *rows_out = size_of(s, layer, row->rows);
    *cols = size_of(s, layer, row->cols);
}
