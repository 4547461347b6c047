// arch: architectures as rows of data: what config.json and GGUF call them, what is the case where
// both are silent, which slots they have besides a layer's usual ones, under which names, and the
// few traits in which architectures differ. Adding one whose layer kinds exist is a row here, and
// names where they are new; arch_key.c knows how numbers are called, arch_numbers.c reads them.
#pragma once
#include "topology/arch_key.h"
#include "topology/model.h"

// How a slot's rows lie in the tensor that holds them.
enum take {
    TAKE_ALL,   // the tensor is the slot; of a stack, n is its outermost dimension
    TAKE_EACH,  // one tensor for each matrix of the stack, whose number replaces the '*'
    TAKE_QKV_Q, // queries, keys, values one after another
    TAKE_QKV_K,
    TAKE_QKV_V,
    TAKE_HALF_0, // two of the slot's size, one after the other
    TAKE_HALF_1,
    TAKE_EVEN, // two of the slot's size, their rows alternate
    TAKE_ODD,
    TAKE_PAIR_0, // two of the slot's size, head_dim rows of each in turn
    TAKE_PAIR_1,
    TAKE_HEADS_K, // kv_b_proj: of each head nope_dim rows, then v_dim rows
    TAKE_HEADS_V,
    TAKE_QKVZ_QKV, // for each key head its query, key, values and gates
    TAKE_QKVZ_Z,
    TAKE_BA_B, // for each key head b and a of its value heads
    TAKE_BA_A,
    TAKE_TURNED = 32 // flag: each matrix of the tensor is (cols, rows)
};

// A name that may fill a slot. Of matrices it is the module's (".weight" and what quantisation puts
// there follow), of vectors the whole; after "model.layers.N." or "blk.N.". The first that the file
// has is taken, an architecture's own before the common ones.
struct arch_name {
    uint8_t slot, take;
    const char *text; // NULL: end of a list
};

enum arch_trait {
    ARCH_MLA = 1 << 0,
    ARCH_DELTA = 1 << 1,             // some layers are DeltaNet
    ARCH_PLUS_ONE = 1 << 2,          // norms of config.json's world are 1 + w
    ARCH_HF_INTERLEAVED = 1 << 3,    // rotation of neighbours, see struct model_rope
    ARCH_GGUF_INTERLEAVED = 1 << 4,  // the same of GGUF
    ARCH_SIGMOID = 1 << 5,           // struct model_moe
    ARCH_LATE_SOFTMAX = 1 << 6,      //
    ARCH_GROUP_BY_TWO = 1 << 7,      //
    ARCH_WEIGH_INPUT = 1 << 8,       //
    ARCH_CORRECTION = 1 << 9,        // experts are chosen with SLOT_MOE_CORRECTION
    ARCH_SWIGLU_OAI = 1 << 10,       // experts' activation: gpt-oss
    ARCH_EMBED_SQRT = 1 << 11,       // embeddings are multiplied by sqrt(dim)
    ARCH_CHUNKED = 1 << 12,          // local layers see a chunk, not a window
    ARCH_NO_OUT_BIAS = 1 << 13,      // attention_bias is of queries, keys, values only
    ARCH_QK_NORM_BY_KEY = 1 << 14,   // qk_norm only if use_qk_norm (GGUF: if it has the tensors)
    ARCH_GGUF_TILED = 1 << 15,       // struct model_delta
    ARCH_EXPERTS = 1 << 16,          // never without experts
    ARCH_GGUF_MSCALE_TENTH = 1 << 17 // yarn_log_multiplier is a tenth of mscale_all_dim
};

struct arch {
    const char *name;    // as config.json has it
    const char *hf[3];   // model_type
    const char *gguf[2]; // general.architecture
    // JSON objects with the values of absent keys, or NULL: in both worlds, or only in one.
    const char *defaults, *hf_defaults, *gguf_defaults;
    // The largest was trained with a scale of sqrt(dim / n_head), and no key of GGUF says so: it is
    // known by its number of layers.
    int32_t gguf_dim_scale_layers;
    const struct arch_name *hf_names, *gguf_names; // its own, or NULL
    slot_set must;                                 // where a layer can have them
    uint32_t traits;                               // enum arch_trait
    uint8_t qk_norm;                               // enum qk_norm
};

// NULL if there is none.
const struct arch *arch_of_hf(const char *model_type);
const struct arch *arch_of_gguf(const char *architecture);
// All names, separated by spaces: for sentences.
void arch_list(bool gguf, char *dst, size_t size);
// Names common to all, in order.
const struct arch_name *arch_common_names(bool gguf);

// What a model's numbers say beyond its shape.
struct arch_needs {
    slot_set must;   // of layers where possible
    slot_set may;    // only if the file has it
    int32_t n_nextn; // layers after the last one that predict further tokens
    bool tie_said, tied;
};

// Fills shape (all but name and has_mtp) and *needs. n_vocab: rows of the embedding matrix, 0 if
// there are no files. has(user, slot): the file has a tensor for it in layer 0, for what GGUF does
// not write down. ERR_MODEL.
struct arch_file {
    int64_t n_vocab;
    bool has_q_norm;
};
err_t arch_numbers(const struct config *c, const struct arch *a, const struct arch_file *file,
                   struct model_shape *s, struct arch_needs *needs);
// The part of it about rotation; head_dim (of MLA rope_dim), ctx_train and attn_scale are set.
err_t arch_rope(const struct config *c, const struct arch *a, struct model_shape *s);
