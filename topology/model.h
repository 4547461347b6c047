// model: the static picture of one model: its shape and its tensor table. Read from headers only,
// by the coordinator (to plan and to find the tokenizer) and by each worker (to load its part).
#pragma once
#include "topology/gguf.h"

enum { MODEL_LAYERS_MAX = 512 };

struct model_rope {
    double theta;
    double freq_scale; // 1 / linear scaling factor
    double attn_factor;
    int32_t n_rot;
};

// Numbers every architecture shares. What an architecture computes (norm places, activation, rope
// pairing) is a row of data in worker/arch.c.
struct model_shape {
    char arch[32]; // "llama", "gemma3"
    char name[96]; // general.name, or the file's stem
    int32_t n_layer, dim, ffn_dim, n_vocab, ctx_train;
    int32_t n_head, n_head_kv, head_dim;
    float norm_eps;
    float attn_scale;  // of q.k
    float embed_scale; // 1 unless the architecture scales embeddings (gemma: sqrt(dim))
    float attn_softcap, logit_softcap;  // 0: none
    int32_t window;                     // sliding window of local layers, 0: none
    uint8_t is_local[MODEL_LAYERS_MAX]; // layer uses window and rope_local
    struct model_rope rope, rope_local;
    bool tied_head; // the output matrix is the embedding matrix
};

// Where a tensor belongs when layers are split over workers.
// >= 0: layer number. Every stage holds its own copy of the (tiny) shared tensors.
enum { PART_EMBED = -1, PART_HEAD = -2, PART_SHARED = -3 };
struct model_tensor {
    const char *name; // NUL-terminated, as in the file
    enum dtype dtype;
    int32_t n_dim;
    int64_t shape[4]; // outermost first
    int32_t part;
    uint64_t offset, bytes; // in the model file
};

struct model {
    const char *path; // real path
    uint8_t hash[32]; // same on every machine that has the same file
    struct model_shape shape;
    struct model_tensor *tensors;
    int32_t n_tensor;
    struct gguf *gguf; // tokenizer and template live in its metadata
    struct arena arena;
};

// MODEL as given on the command line: a .gguf file. Checks that the architecture is known, the
// numbers agree with each other, and every tensor the architecture needs is there with the right
// shape and a type it may have. ERR_MODEL: the sentence names file, tensor or key, found, allowed.
err_t model_open(const char *path, struct model **out, struct err_text *why);
void model_close(struct model *m);
const struct model_tensor *model_tensor_find(const struct model *m, const char *name);
// Sum of file bytes of a part (PART_EMBED, PART_HEAD, PART_SHARED, or a layer). A tied head counts
// the embedding again: the last stage holds its own copy unless it is also the first.
uint64_t model_part_bytes(const struct model *m, int32_t part);
// Bytes of keys and values of one token in one layer at the given element size.
uint64_t model_kv_bytes(const struct model *m, uint32_t elem_bytes);
