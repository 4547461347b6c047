// config.json: whatever the text, model_open ends with a model whose every weight's sources lie
// inside the file, or with one sentence. The first byte chooses among tensors of small models as
// quantisers write them, so that a config that fits gets through to them.
#include "proto/base/log.h"
#include "tests/unit/topology/folder_make.h"
#include "topology/model.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define DENSE                                                                                      \
    "model.embed_tokens.weight BF16 32,64\nmodel.norm.weight BF16 64\nlm_head.weight BF16 32,64\n" \
    "model.layers.0.input_layernorm.weight BF16 64\n"                                              \
    "model.layers.0.post_attention_layernorm.weight BF16 64\n"                                     \
    "model.layers.0.self_attn.q_proj.weight BF16 64,64\n"                                          \
    "model.layers.0.self_attn.k_proj.weight BF16 32,64\n"                                          \
    "model.layers.0.self_attn.v_proj.weight BF16 32,64\n"                                          \
    "model.layers.0.self_attn.o_proj.weight BF16 64,64\n"                                          \
    "model.layers.0.mlp.gate_proj.weight BF16 128,64\n"                                            \
    "model.layers.0.mlp.up_proj.weight BF16 128,64\n"
#define DOWN "model.layers.0.mlp.down_proj."

static const char *const tensors[] = {
    DENSE DOWN "weight BF16 64,128\n",
    DENSE DOWN "qweight I32 16,64\n" DOWN "qzeros I32 4,8\n" DOWN "scales F16 4,64\n" DOWN
               "g_idx I32 128\n",
    DENSE DOWN "qweight I32 128,8\n" DOWN "qzeros I32 4,8\n" DOWN "scales F16 4,64\n",
    DENSE DOWN "weight_packed I32 64,16\n" DOWN "weight_scale BF16 64,4\n" DOWN
               "weight_zero_point I32 8,4\n" DOWN "weight_g_idx I32 128\n",
    DENSE DOWN "weight I8 64,128\n" DOWN "weight_scale BF16 64,1\n",
    DENSE DOWN "weight F8_E4M3 64,128\n" DOWN "weight_scale_inv F32 2,2\n",
    DENSE DOWN "weight_packed U8 64,64\n" DOWN "weight_scale F8_E4M3 64,8\n" DOWN
               "weight_global_scale F32 1\n",
    DENSE DOWN "weight U8 64,64\n" DOWN "weight_scale F8_E4M3 64,8\n" DOWN "weight_scale_2 F32 -\n",
    "model.embed_tokens.weight BF16 32,64\nmodel.norm.weight BF16 64\nlm_head.weight BF16 32,64\n"
    "model.layers.0.input_layernorm.weight BF16 64\n"
    "model.layers.0.post_attention_layernorm.weight BF16 64\n"
    "model.layers.0.self_attn.q_proj.weight BF16 64,64\n"
    "model.layers.0.self_attn.k_proj.weight BF16 32,64\n"
    "model.layers.0.self_attn.v_proj.weight BF16 32,64\n"
    "model.layers.0.self_attn.o_proj.weight BF16 64,64\n"
    "model.layers.0.block_sparse_moe.gate.weight BF16 2,64\n"
    "model.layers.0.block_sparse_moe.experts.0.w1.weight BF16 128,64\n"
    "model.layers.0.block_sparse_moe.experts.0.w2.weight BF16 64,128\n"
    "model.layers.0.block_sparse_moe.experts.0.w3.weight BF16 128,64\n"
    "model.layers.0.block_sparse_moe.experts.1.w1.weight BF16 128,64\n"
    "model.layers.0.block_sparse_moe.experts.1.w2.weight BF16 64,128\n"
    "model.layers.0.block_sparse_moe.experts.1.w3.weight BF16 128,64\n",
};
enum { N_FOLDER = sizeof tensors / sizeof *tensors };
static struct folder folders[N_FOLDER];

static void remove_folders(void)
{
    for (int i = 0; i < N_FOLDER; i++)
        folder_remove(&folders[i]);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    log_set_level(LOG_ERROR);
    for (int i = 0; i < N_FOLDER; i++) {
        folders[i] = folder_new();
        folder_tensors(&folders[i], "model.safetensors", tensors[i]);
    }
    atexit(remove_folders);
    return 0;
}

static void check(const struct model *m, const struct model_tensor *t)
{
    if (!t) return;
    BUG_ON(t->file < 0 || t->file >= m->n_file);
    BUG_ON(t->offset > m->files[t->file].bytes || t->bytes > m->files[t->file].bytes - t->offset);
}

static void check_model(const struct model *m)
{
    for (int32_t i = 0; i < m->n_weight; i++) {
        const struct model_weight *w = &m->weights[i];
        BUG_ON(w->n < 1 || w->rows < 1 || w->cols < 1 || w->n_source < 1);
        BUG_ON(!dtype_row_bytes(w->dtype, (uint64_t)w->cols));
        for (int32_t k = 0; k < w->n_source; k++) {
            const struct model_source *s = &w->sources[k];
            BUG_ON(!s->main);
            check(m, s->main);
            check(m, s->scale);
            check(m, s->zero);
            check(m, s->order);
            check(m, s->global);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct model *m;
    struct err_text why = {{0}};
    if (size == 0) return 0;
    const struct folder *f = &folders[data[0] % N_FOLDER];
    folder_put(f, "config.json", data + 1, size - 1, 0);
    err_t e = model_open(f->path, &m, &why);
    if (e) {
        BUG_ON(e != ERR_MODEL && e != ERR_MEMORY);
        BUG_ON(!why.s[0] || strchr(why.s, '\n'));
        return 0;
    }
    check_model(m);
    for (int32_t part = PART_MTP; part < m->shape.n_layer; part++)
        model_part_bytes(m, part);
    model_close(m);
    return 0;
}
