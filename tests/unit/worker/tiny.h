// A tiny llama with random weights as a GGUF file, made on the spot, so that the worker's tests
// need no fixtures.
#pragma once
#include "tests/unit/topology/gguf_make.h"
#include "topology/model.h"

enum {
    TINY_LAYERS = 4,
    TINY_DIM = 64,
    TINY_HEADS = 4,
    TINY_KV = 2,
    TINY_HEAD_DIM = 16,
    TINY_FFN = 96,
    TINY_VOCAB = 160,
    TINY_EXPERTS = 8,
    TINY_USED = 3,
    TINY_EXPERT_FFN = 32
};

struct tiny_tensor {
    char name[64];
    uint64_t dims[3]; // innermost first
    uint32_t n_dim;
    uint64_t offset;
};

struct tiny_file {
    struct tiny_tensor tensors[64];
    uint32_t n;
    uint64_t bytes;
    uint64_t data_from;
    char path[64];
};

static inline void tiny_add(struct tiny_file *f, const char *name, uint64_t rows, uint64_t cols)
{
    struct tiny_tensor *t = &f->tensors[f->n++];
    snprintf(t->name, sizeof t->name, "%s", name);
    t->n_dim = rows ? 2 : 1;
    t->dims[0] = cols;
    t->dims[1] = rows;
    t->offset = f->bytes;
    f->bytes += ((rows ? rows : 1) * cols * 4 + 31) & ~(uint64_t)31;
}

// n matrices of rows x cols.
static inline void tiny_add_stack(struct tiny_file *f, const char *name, uint64_t n, uint64_t rows,
                                  uint64_t cols)
{
    tiny_add(f, name, n * rows, cols);
    struct tiny_tensor *t = &f->tensors[f->n - 1];
    t->n_dim = 3;
    t->dims[1] = rows;
    t->dims[2] = n;
}

static inline void tiny_layer(struct tiny_file *f, int layer, bool has_experts)
{
    static const struct {
        const char *name;
        uint64_t rows, cols;
    } all[] = {
        {"attn_norm", 0, TINY_DIM},
        {"attn_q", TINY_HEADS * TINY_HEAD_DIM, TINY_DIM},
        {"attn_k", TINY_KV * TINY_HEAD_DIM, TINY_DIM},
        {"attn_v", TINY_KV * TINY_HEAD_DIM, TINY_DIM},
        {"attn_output", TINY_DIM, TINY_HEADS * TINY_HEAD_DIM},
        {"ffn_norm", 0, TINY_DIM},
        {"ffn_gate", TINY_FFN, TINY_DIM},
        {"ffn_up", TINY_FFN, TINY_DIM},
        {"ffn_down", TINY_DIM, TINY_FFN},
        {"ffn_gate_inp", TINY_EXPERTS, TINY_DIM},
    };
    static const struct {
        const char *name;
        uint64_t rows, cols;
    } stacks[] = {
        {"ffn_gate_exps", TINY_EXPERT_FFN, TINY_DIM},
        {"ffn_up_exps", TINY_EXPERT_FFN, TINY_DIM},
        {"ffn_down_exps", TINY_DIM, TINY_EXPERT_FFN},
    };
    char name[64];
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (i > 5 && (i == 9) != has_experts) continue;
        snprintf(name, sizeof name, "blk.%d.%s.weight", layer, all[i].name);
        tiny_add(f, name, all[i].rows, all[i].cols);
    }
    for (size_t i = 0; has_experts && i < sizeof stacks / sizeof *stacks; i++) {
        snprintf(name, sizeof name, "blk.%d.%s.weight", layer, stacks[i].name);
        tiny_add_stack(f, name, TINY_EXPERTS, stacks[i].rows, stacks[i].cols);
    }
}

// Norms are near one, matrices have entries of about 1/sqrt(cols).
static inline void tiny_data(struct buf *b, const struct tiny_file *f, uint32_t seed)
{
    uint32_t rnd = seed;
    for (uint32_t i = 0; i < f->n; i++) {
        const struct tiny_tensor *t = &f->tensors[i];
        uint64_t n = t->dims[0];
        for (uint32_t d = 1; d < t->n_dim; d++)
            n *= t->dims[d];
        make_pad(b, 32);
        for (uint64_t j = 0; j < n; j++) {
            rnd = rnd * 1664525 + 1013904223;
            const float u = (float)(rnd >> 8) / (1 << 23) - 1;
            const float v = t->n_dim == 1 ? 1 + 0.1f * u : u * 0.25f;
            buf_add(b, &v, 4);
        }
    }
}

static inline void tiny_write(struct tiny_file *f, uint32_t seed, bool head, bool has_experts)
{
    *f = (struct tiny_file){0};
    tiny_add(f, "token_embd.weight", TINY_VOCAB, TINY_DIM);
    for (int i = 0; i < TINY_LAYERS; i++)
        tiny_layer(f, i, has_experts);
    tiny_add(f, "output_norm.weight", 0, TINY_DIM);
    if (head) tiny_add(f, "output.weight", TINY_VOCAB, TINY_DIM);
    struct buf b = {0};
    make_head(&b, 3, f->n, has_experts ? 13 : 10);
    make_str(&b, "general.architecture", "llama");
    make_u32(&b, "llama.block_count", TINY_LAYERS);
    make_u32(&b, "llama.embedding_length", TINY_DIM);
    make_u32(&b, "llama.feed_forward_length", TINY_FFN);
    make_u32(&b, "llama.attention.head_count", TINY_HEADS);
    make_u32(&b, "llama.attention.head_count_kv", TINY_KV);
    make_u32(&b, "llama.context_length", 4096);
    make_f32(&b, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    make_f32(&b, "llama.rope.freq_base", 10000);
    make_u32(&b, "llama.test_seed", seed); // so that other weights have another hash
    if (has_experts) {
        make_u32(&b, "llama.expert_count", TINY_EXPERTS);
        make_u32(&b, "llama.expert_used_count", TINY_USED);
        make_u32(&b, "llama.expert_feed_forward_length", TINY_EXPERT_FFN);
    }
    for (uint32_t i = 0; i < f->n; i++)
        make_tensor(&b, f->tensors[i].name, f->tensors[i].n_dim, f->tensors[i].dims, 0,
                    f->tensors[i].offset);
    make_pad(&b, 32);
    f->data_from = b.len;
    tiny_data(&b, f, seed);
    make_file(&b, f->path, sizeof f->path);
    buf_fini(&b);
}

// head: an output matrix of its own; else tied.
static inline void tiny_make(struct tiny_file *f, uint32_t seed, bool head)
{
    tiny_write(f, seed, head, false);
}

// All layers have experts.
static inline void tiny_make_moe(struct tiny_file *f, uint32_t seed)
{
    tiny_write(f, seed, true, true);
}

static inline uint64_t tiny_offset(const struct tiny_file *f, const char *name)
{
    for (uint32_t i = 0; i < f->n; i++)
        if (!strcmp(f->tensors[i].name, name)) return f->data_from + f->tensors[i].offset;
    abort();
}
