// arch: one architecture is a row of data: which tensors it has and under which names, which code
// computes a layer, and the few flags in which architectures of one layer kind differ.
//
// A layer is a mixer (tokens see each other) and then a feed-forward part (each token alone), each
// one function. An architecture whose layers are not all alike (experts in some layers, recurrent
// mixers in others) will pick the function by layer in arch_layer; nothing else has to know.
#pragma once
#include "kernels/kernels.h"
#include "topology/model.h"

struct pass;
struct part;

// One half of a layer: reads p->x (n_tok, dim), adds its result to it. `index` counts the stage's
// own layers from 0, `layer` the model's.
typedef void layer_fn(struct pass *p, const struct part *w, int32_t index, int32_t layer);

// What a tensor is for. Names differ by architecture, slots do not.
enum slot {
    // of a layer
    SLOT_ATTN_NORM,      // (dim)
    SLOT_ATTN_Q,         // (n_head * head_dim, dim)
    SLOT_ATTN_K,         // (n_head_kv * head_dim, dim)
    SLOT_ATTN_V,         // (n_head_kv * head_dim, dim)
    SLOT_ATTN_OUT,       // (dim, n_head * head_dim)
    SLOT_ATTN_Q_NORM,    // (head_dim)
    SLOT_ATTN_K_NORM,    // (head_dim)
    SLOT_ATTN_POST_NORM, // (dim)
    SLOT_FFN_NORM,       // (dim)
    SLOT_FFN_GATE,       // (ffn_dim, dim)
    SLOT_FFN_UP,         // (ffn_dim, dim)
    SLOT_FFN_DOWN,       // (dim, ffn_dim)
    SLOT_FFN_POST_NORM,  // (dim)
    // of the model
    SLOT_EMBED,      // (n_vocab, dim)
    SLOT_FINAL_NORM, // (dim)
    SLOT_HEAD,       // (n_vocab, dim), absent when the head is tied to SLOT_EMBED
    SLOT_ROPE_FREQS, // (n_rot / 2) divisors of the rotation frequencies
    SLOT_COUNT
};

struct arch {
    const char *name; // GGUF's general.architecture
    enum rope_kind rope;
    enum glu_kind glu;
    layer_fn *mixer, *ffn;
    const char *tensors[SLOT_COUNT]; // "%d" stands for the layer; NULL: has no such tensor
};

// NULL if this build has no such architecture.
const struct arch *arch_find(const char *name);
// The part (layer number or PART_...) that a slot's tensor belongs to.
int32_t arch_slot_part(enum slot s, int32_t layer);
bool arch_slot_is_matrix(enum slot s);
// The tensor of a slot, or NULL when this architecture or this file has none.
const struct model_tensor *arch_tensor(const struct arch *a, const struct model *m, enum slot s,
                                       int32_t layer);
