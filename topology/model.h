// model: the static picture of one model: its shape and the list of its weights. Read from headers
// only, by the coordinator (to plan and to find the tokenizer) and by each worker (to load its
// part).
//
//   containers   gguf.h, safetensors.h          file -> table of tensors (name, dtype, shape,
//   place) arch.h       one row per architecture       config or metadata -> struct model_shape
//   slot.h       what a tensor is for           tensors -> struct model_weight, one per slot and
//   part quant.h      quantization_config            which tensors of a file make one weight, and
//   how shape.h      shape:NAME                     a config without files: weights are made up at
//   load
//
// Everything that reads the files afterwards (worker/weights.c) needs struct model_weight only.
#pragma once
#include "proto/base/arena.h"
#include "topology/gguf.h"
#include "topology/slot.h"

enum { MODEL_LAYERS_MAX = 512, MODEL_EXPERTS_MAX = 4096 };

enum mixer_kind {
    MIXER_ATTN,
    MIXER_MLA,  // multi-head latent attention (DeepSeek-AI 2024, arXiv 2405.04434)
    MIXER_DELTA // Gated DeltaNet (arXiv 2412.06464)
};
enum ffn_kind { FFN_DENSE, FFN_MOE };
enum act_kind { ACT_SILU, ACT_GELU_TANH, ACT_GELU, ACT_SWIGLU_OAI };
enum qk_norm {
    QK_NORM_NONE,
    QK_NORM_HEAD, // weights (head_dim), each head by itself
    QK_NORM_ALL,  // weights (n_head * head_dim), the whole projection at once: olmoe, minimax_m2
    QK_NORM_L2    // no weights, each head, after the rotation and only where there is one: llama4
};

struct model_layer {
    uint8_t mixer; // enum mixer_kind
    uint8_t ffn;   // enum ffn_kind
    bool is_local; // uses window or chunk, and rope_local
    bool no_rope;
};

struct model_rope {
    double theta;
    double freq_scale; // 1 / linear scaling factor
    double attn_factor;
    int32_t n_rot;
    bool interleaved; // neighbours turn together (GGUF's llama), else halves
    // (n_rot / 2) divisors of the frequencies, or NULL: llama3, yarn, longrope. A GGUF may have
    // them as a tensor instead (SLOT_ROPE_FREQS).
    const double *factors;
    const double *long_factors; // instead of `factors` when the plan's context is over long_from
    int32_t long_from;
};

struct model_moe {
    int32_t n_expert, n_used, dim;                       // dim: of one expert's middle
    int32_t n_group, n_group_used;                       // 0: no groups
    int32_t shared_dim;                                  // 0: no shared expert
    float scale;                                         // of the weights
    bool sigmoid, late_softmax, normalise, group_by_two; // as in kernels.h, struct route_args
    bool weigh_input; // an expert's weight multiplies its input, not its output: llama4
};

struct model_mla {
    int32_t q_rank; // 0: queries are not compressed
    int32_t kv_rank, nope_dim, rope_dim, v_dim;
};

struct model_delta {
    int32_t n_head_k, n_head_v, dim_k, dim_v, n_tap;
    bool tiled; // value head h uses key head h % n_head_k (GGUF's qwen35), else h / (n_head_v /
                // n_head_k)
};

// Numbers every architecture shares. What differs otherwise shows in which slots have a weight
// (biases, norms after, sinks, gates).
struct model_shape {
    char arch[32]; // as the file says: "llama", "qwen3_5_moe"
    char name[96]; // general.name, or the file's stem
    int32_t n_layer, dim, ffn_dim, n_vocab, ctx_train;
    int32_t n_head, n_head_kv, head_dim; // of MIXER_ATTN; of MLA n_head only
    float norm_eps;
    float attn_scale;     // of q.k
    float embed_scale;    // 1 unless the architecture scales embeddings (gemma: sqrt(dim))
    float residual_scale; // of what each half of a layer adds (granite), else 1
    float logit_scale;    // logits are multiplied by it, before the soft-cap; else 1
    float attn_softcap, logit_softcap; // 0: none
    int32_t window, chunk;             // of local layers, 0: none (kernels.h, struct attn_args)
    struct model_layer layers[MODEL_LAYERS_MAX];
    enum qk_norm qk_norm;
    enum act_kind act;
    float act_alpha, act_limit; // ACT_SWIGLU_OAI
    struct model_rope rope, rope_local;
    // Queries at position p are multiplied by 1 + q_beta * ln(1 + floor((p + q_shift) / q_span)):
    // mistral4, ministral3 in all layers, llama4 in those without rotation. q_beta 0: no.
    float q_beta;
    int32_t q_span, q_shift;
    bool q_no_rope_only;
    struct model_moe moe;
    struct model_mla mla;
    struct model_delta delta;
    bool tied_head;         // the output matrix is the embedding matrix
    struct model_layer mtp; // the layer of the prediction head, where has_mtp
    bool has_mtp;           // one more layer predicts the token after the next (PART_MTP)
};

// Where a weight belongs when layers are split over workers. >= 0: layer number. Every stage holds
// its own copy of the (tiny) shared ones; the MTP part lives with the head.
enum { PART_EMBED = -1, PART_HEAD = -2, PART_SHARED = -3, PART_MTP = -4 };

struct model_file {
    const char *path;
    uint64_t bytes; // a file of another size has changed since
};

// One tensor as a file holds it.
struct model_tensor {
    const char *name; // NUL-terminated, as in the file
    enum dtype dtype;
    int32_t n_dim;    // 0..4 (0: a scalar)
    int64_t shape[4]; // outermost first
    int32_t file;     // index into model.files
    uint64_t offset, bytes;
};

// How the tensors of one matrix make its values (fixtures: W is (out, in) = (rows, cols)).
enum source_kind {
    SOURCE_ROWS, // main (rows, cols): plain floats or GGML blocks, row after row. For vectors too
    SOURCE_GPTQ, // main I32 (in * bits / 32, out), scale (g, out), zero I32 (g, out * bits / 32),
                 // order I32 g_idx (in) or NULL
    SOURCE_AWQ,  // main I32 (in, out / 8), scale (g, out), zero I32 (g, out / 8), nibbles 02461357
    SOURCE_CT_INT, // main I32 (out, in * bits / 32), scale (out, g), zero or NULL, order or NULL
    SOURCE_INT8,   // main I8 (out, in), scale (1) or (out, 1)
    SOURCE_FP8,    // main F8_E4M3 (out, in), scale: scalar, (out, 1) or a grid of blocks
    SOURCE_NVFP4,  // main U8 (out, in / 2), scale F8_E4M3 (out, in / 16), global (1)
    SOURCE_MXFP4,  // main U8 (.., in / 2) and scale U8 E8M0 (.., in / 32), low nibble first
    SOURCE_MADE    // no file: shape:NAME
};
struct model_source {
    const struct model_tensor *main, *scale, *zero, *order, *global; // NULL: has none
};

// Values on their way into memory.
enum { TRANSFORM_NONE, TRANSFORM_PLUS_ONE /* 1 + w */, TRANSFORM_NEG_EXP /* -exp(w) */ };

// Some rows of a source, n of them: row r of these is row first + (r / per) * stride + (r % per) *
// step: halves of a fused tensor, rows that alternate, rows grouped by head.
struct model_rows {
    int64_t n, first, per, stride, step;
};

// How the matrices of a source lie.
enum weight_turn {
    TURN_NONE,    // row r of a weight is row take(r) of its source
    TURN_COLUMNS, // row r of a weight is column take(r) of its source: llama4's experts
    // One source for the stack: column c of weight i is row take(i * cols + c) of it, whose columns
    // are the weight's rows: the keys of kv_b_proj, (n_head * (nope + v), kv_rank).
    TURN_HEADS
};

// One weight that a slot holds: a vector (rows 1), a matrix, or a stack of n of either.
struct model_weight {
    enum slot slot;
    int32_t part;
    int64_t n, rows, cols; // n: of a stack (experts, heads), else 1
    enum dtype dtype;      // in memory: vectors F32, matrices what dtype_is_weight says
    bool is_matrix;
    enum source_kind kind;
    uint8_t transform;
    // SOURCE_GPTQ, AWQ, CT_INT
    uint8_t bits;
    bool zero_is_plus_one; // stored zeros are one too low (GPTQ before v2)
    bool global_divides;   // SOURCE_NVFP4 of compressed-tensors: value / global, else * global
    // FP8: rows and columns of one scale (0: all)
    int32_t block_rows, block_cols;
    uint8_t turn; // enum weight_turn
    // The pieces that make all rows, one after another: model_weight_row. Mostly one piece that is
    // the whole source; three where queries, keys and values lie apart (qwen3_next).
    struct model_rows take[3];
    int32_t n_take;
    // n_source n: one each. n_source 1: all of the stack is in one tensor, of outermost dimension n
    // and then `take` is of each; or, where heads_in_rows, weight i begins with row i * rows (of
    // TURN_HEADS i * cols), to which `take` is applied.
    bool heads_in_rows;
    const struct model_source *sources;
    int32_t n_source;
    uint64_t bytes; // in memory, before packing: n * rows * bytes of a row of dtype
};

struct model {
    const char *path; // real path; of shape:NAME the word itself
    uint8_t hash[32]; // same on every machine that has the same files
    struct model_shape shape;
    const struct model_file *files;
    int32_t n_file;
    const struct model_weight *weights; // by part, then slot
    int32_t n_weight;
    uint64_t file_bytes; // of all files
    const char *quant;   // words for status: "Q4_K", "gptq int4", "BF16"
    struct gguf *gguf; // a GGUF's first file: tokenizer and template live in its metadata; or NULL
    const char *text_dir; // the folder of tokenizer.json and the like, or NULL
    struct arena arena;
};

// MODEL as given on the command line: a .gguf file (of a split model: the first piece), a Hugging
// Face directory, or shape:NAME. Checks that the architecture is known, the numbers agree with each
// other, and every weight the architecture needs is there with the right shape and a type it may
// have. ERR_MODEL: the sentence names file, tensor or key, found, allowed.
err_t model_open(const char *path, struct model **out, struct err_text *why);
void model_close(struct model *m);
// NULL if the model has none.
const struct model_weight *model_weight_find(const struct model *m, int32_t part, enum slot s);
// Row of the source that holds row r (TURN_COLUMNS: the column; TURN_HEADS: see there).
static inline int64_t model_weight_row(const struct model_weight *w, int64_t r)
{
    const struct model_rows *t = w->take;
    while (t < w->take + w->n_take - 1 && r >= t->n)
        r -= t++->n;
    return t->first + r / t->per * t->stride + r % t->per * t->step;
}
// Bytes in memory of a part. A tied head counts the embedding again: the last stage holds its own
// copy unless it is also the first.
uint64_t model_part_bytes(const struct model *m, int32_t part);
// Of a layer, how many of these bytes are routed experts' (model_part_bytes counts them too).
uint64_t model_expert_bytes(const struct model *m, int32_t layer);
// Bytes of keys and values of one token in one layer at the given element size; 0 for DeltaNet.
uint64_t model_kv_bytes(const struct model *m, int32_t layer, uint32_t elem_bytes);
// Bytes of recurrent state of one sequence in one layer (F32); 0 for attention.
uint64_t model_state_bytes(const struct model *m, int32_t layer);
