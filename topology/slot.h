// slot: what a weight is for. Names differ by architecture and container, slots do not. The
// worker's layers look weights up by slot; topology finds the tensors that fill them.
#pragma once
#include "proto/base/dtype.h"

struct model_shape;
struct model_layer;

// Shapes: (rows, cols) of matrices, (n) of vectors; E experts, m the middle of an expert.
enum slot {
    // attention
    SLOT_ATTN_NORM,   // (dim)
    SLOT_ATTN_Q,      // (n_head * head_dim, dim); MLA without q_rank: (n_head * (nope + rope), dim)
    SLOT_ATTN_K,      // (n_head_kv * head_dim, dim)
    SLOT_ATTN_V,      // (n_head_kv * head_dim, dim)
    SLOT_ATTN_GATE,   // (n_head * head_dim, dim): out *= sigmoid(gate), before SLOT_ATTN_OUT
    SLOT_ATTN_OUT,    // (dim, n_head * head_dim); MLA (dim, n_head * v_dim); delta (dim, v)
    SLOT_ATTN_Q_BIAS, // (n_head * head_dim)
    SLOT_ATTN_K_BIAS, // (n_head_kv * head_dim)
    SLOT_ATTN_V_BIAS, // (n_head_kv * head_dim)
    SLOT_ATTN_OUT_BIAS, // (dim)
    SLOT_ATTN_Q_NORM,   // see enum qk_norm
    SLOT_ATTN_K_NORM,
    SLOT_ATTN_SINKS,     // (n_head)
    SLOT_ATTN_POST_NORM, // (dim)
    // multi-head latent attention
    SLOT_MLA_Q_A,      // (q_rank, dim)
    SLOT_MLA_Q_A_NORM, // (q_rank)
    SLOT_MLA_Q_B,      // (n_head * (nope_dim + rope_dim), q_rank)
    SLOT_MLA_KV_A,     // (kv_rank + rope_dim, dim)
    SLOT_MLA_KV_NORM,  // (kv_rank)
    SLOT_MLA_K_B,      // stack of n_head: (kv_rank, nope_dim), the transpose of what files hold
    SLOT_MLA_V_B,      // stack of n_head: (v_dim, kv_rank)
    // Gated DeltaNet; k = n_head_k * dim_k, v = n_head_v * dim_v
    SLOT_DELTA_QKV,     // (2 k + v, dim): q rows, k rows, v rows
    SLOT_DELTA_Z,       // (v, dim)
    SLOT_DELTA_A,       // (n_head_v, dim)
    SLOT_DELTA_B,       // (n_head_v, dim)
    SLOT_DELTA_CONV,    // vector (2 k + v, n_tap)
    SLOT_DELTA_A_NEG,   // (n_head_v) -exp(A_log)
    SLOT_DELTA_DT_BIAS, // (n_head_v)
    SLOT_DELTA_NORM,    // (dim_v)
    // feed-forward, dense
    SLOT_FFN_NORM,      // (dim)
    SLOT_FFN_GATE,      // (ffn_dim, dim)
    SLOT_FFN_UP,        // (ffn_dim, dim)
    SLOT_FFN_DOWN,      // (dim, ffn_dim)
    SLOT_FFN_POST_NORM, // (dim)
    // feed-forward, experts (SLOT_FFN_NORM and POST_NORM as above)
    SLOT_MOE_ROUTER,      // (E, dim)
    SLOT_MOE_ROUTER_BIAS, // (E), part of the logits
    SLOT_MOE_CORRECTION,  // (E), for the choice only
    SLOT_MOE_GATE,        // stack of E: (m, dim)
    SLOT_MOE_UP,          // stack of E: (m, dim)
    SLOT_MOE_DOWN,        // stack of E: (dim, m)
    SLOT_MOE_GATE_BIAS,   // vector stack of E: (m)
    SLOT_MOE_UP_BIAS,     // vector stack of E: (m)
    SLOT_MOE_DOWN_BIAS,   // vector stack of E: (dim)
    SLOT_SHARED_ROUTER,   // (1, dim): the shared expert's share is its sigmoid
    SLOT_SHARED_GATE,     // (shared_dim, dim)
    SLOT_SHARED_UP,       // (shared_dim, dim)
    SLOT_SHARED_DOWN,     // (dim, shared_dim)
    // of PART_MTP besides a layer's own
    SLOT_MTP_EMBED_NORM,  // (dim)
    SLOT_MTP_HIDDEN_NORM, // (dim)
    SLOT_MTP_FC,          // (dim, 2 dim): of [embedding, hidden]
    SLOT_MTP_NORM,        // (dim)
    // of the model
    SLOT_EMBED,           // (n_vocab, dim)
    SLOT_FINAL_NORM,      // (dim)
    SLOT_HEAD,            // (n_vocab, dim), absent when the head is tied to SLOT_EMBED
    SLOT_HEAD_BIAS,       // (n_vocab)
    SLOT_ROPE_FREQS,      // (n_rot / 2) divisors of the rotation frequencies (GGUF)
    SLOT_ROPE_FREQS_LONG, // (n_rot / 2) instead, when the plan's context is over rope.long_from
    SLOT_COUNT
};

// Sets of slots.
typedef uint64_t slot_set;
#define SLOT_BIT(s) ((slot_set)1 << (s))

const char *slot_name(enum slot s); // "attn_q", for logs and tests
bool slot_is_matrix(enum slot s);
// The slots that a layer of these kinds has (without what only some architectures have: biases,
// norms after, gates, sinks), and those it can have.
slot_set slot_needed(const struct model_shape *s, const struct model_layer *layer);
slot_set slot_possible(const struct model_layer *layer);
// Slots of PART_EMBED, PART_HEAD, PART_SHARED; of PART_MTP besides its layer's.
slot_set slot_of_part(int32_t part);
// Size of a slot in a layer of this kind (layer NULL: a slot of the model): a stack of *n matrices
// of rows x cols; vectors have rows 1.
void slot_size(const struct model_shape *s, const struct model_layer *layer, enum slot slot,
               int64_t *n, int64_t *rows, int64_t *cols);
