// Architectures: every fixture gives the layers and numbers its config asks for, and weights whose
// rows together take every row of their sources exactly once; GGUF and Hugging Face names, old and
// new keys; what does not fit is refused by name.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/base/log.h"
#include "tests/unit/topology/arch_make.h"
#include "topology/model.h"

#include <math.h>

// ---- what holds for every model

static int64_t elements(const struct model_tensor *t)
{
    int64_t n = 1;
    for (int32_t i = 0; i < t->n_dim; i++)
        n *= t->shape[i];
    return n;
}

static void check_place(const struct model *m, const struct model_tensor *t)
{
    if (!t) return;
    assert_in_range(t->file, 0, (uint64_t)m->n_file - 1);
    assert_true(t->bytes <= m->files[t->file].bytes);
    assert_true(t->offset <= m->files[t->file].bytes - t->bytes);
}

static void check_sources(const struct model *m, const struct model_weight *w)
{
    assert_true(w->n_source == 1 || w->n_source == w->n);
    for (int32_t i = 0; i < w->n_source; i++) {
        const struct model_source *s = &w->sources[i];
        assert_non_null(s->main);
        check_place(m, s->main);
        check_place(m, s->scale);
        check_place(m, s->zero);
        check_place(m, s->order);
        check_place(m, s->global);
    }
}

// Rows (of vectors with one row: elements) that the weight takes of one source.
static int64_t rows_taken(const struct model_weight *w)
{
    int64_t rows = w->rows == 1 && !w->is_matrix ? w->cols : w->rows;
    if (w->turn == TURN_HEADS) return w->n * w->cols;
    return w->heads_in_rows ? w->n * rows : rows;
}

// How many rows a source of plain values has of each matrix.
static int64_t rows_held(const struct model_weight *w)
{
    const struct model_tensor *t = w->sources[0].main;
    if (w->turn == TURN_COLUMNS) return t->shape[t->n_dim - 1];
    if (w->rows == 1 && !w->is_matrix) return elements(t) / w->n;
    if (w->turn == TURN_HEADS || w->heads_in_rows) return t->shape[0];
    return elements(t) / ((w->n_source == 1 ? w->n : 1) * w->cols);
}

// All weights made of one tensor take each of its rows once.
static void check_rows(const struct model *m, const struct model_weight *w)
{
    const struct model_tensor *t = w->sources[0].main;
    if (w->kind != SOURCE_ROWS) return;
    int64_t held = rows_held(w);
    uint8_t *seen = calloc((size_t)held, 1);
    for (int32_t i = 0; i < m->n_weight; i++) {
        const struct model_weight *o = &m->weights[i];
        if (!o->n_source || o->sources[0].main != t) continue;
        for (int64_t r = 0; r < rows_taken(o); r++) {
            int64_t row = model_weight_row(o, r);
            if (row < 0 || row >= held || seen[row]++)
                fail_msg("%s: row %lld of %s is row %lld of %lld", m->path, (long long)r,
                         slot_name(o->slot), (long long)row, (long long)held);
        }
    }
    for (int64_t r = 0; r < held; r++)
        if (!seen[r])
            fail_msg("%s: row %lld of %s is in no weight", m->path, (long long)r, t->name);
    free(seen);
}

static void check_weight(const struct model *m, const struct model_weight *w)
{
    const struct model_layer *layer = w->part >= 0          ? &m->shape.layers[w->part]
                                      : w->part == PART_MTP ? &m->shape.mtp
                                                            : NULL;
    int64_t n, rows, cols;
    slot_size(&m->shape, layer, w->slot, &n, &rows, &cols);
    assert_int_equal(w->n, n);
    assert_int_equal(w->rows, rows);
    assert_int_equal(w->cols, cols);
    assert_int_equal(w->is_matrix, slot_is_matrix(w->slot));
    assert_true(w->is_matrix ? dtype_is_weight(w->dtype) : w->dtype == DT_F32);
    assert_int_equal(w->bytes, (uint64_t)(n * rows) * dtype_row_bytes(w->dtype, (uint64_t)cols));
    assert_ptr_equal(model_weight_find(m, w->part, w->slot), w);
    int64_t taken = 0;
    for (int32_t i = 0; i < w->n_take; i++)
        taken += w->take[i].n;
    assert_int_equal(taken, rows_taken(w));
    if (w->kind == SOURCE_MADE) {
        assert_int_equal(w->n_source, 0);
        return;
    }
    check_sources(m, w);
    check_rows(m, w);
}

static void check_model(const struct model *m)
{
    const struct model_shape *s = &m->shape;
    for (int32_t i = 0; i < m->n_weight; i++) {
        check_weight(m, &m->weights[i]);
        if (i == 0) continue;
        const struct model_weight *a = &m->weights[i - 1], *b = &m->weights[i];
        assert_true(a->part < b->part || (a->part == b->part && a->slot < b->slot));
    }
    for (int32_t l = 0; l < s->n_layer; l++) {
        slot_set set = slot_needed(s, &s->layers[l]);
        for (int i = 0; i < SLOT_COUNT; i++)
            if (set & SLOT_BIT(i)) assert_non_null(model_weight_find(m, l, (enum slot)i));
    }
    assert_non_null(model_weight_find(m, PART_EMBED, SLOT_EMBED));
    assert_non_null(model_weight_find(m, PART_HEAD, SLOT_FINAL_NORM));
    assert_int_equal(!model_weight_find(m, PART_HEAD, SLOT_HEAD), s->tied_head);
    assert_int_equal(model_weight_find(m, PART_MTP, SLOT_MTP_FC) != NULL, s->has_mtp);
}

// One letter each: mixer a m d, feed-forward f e, then l (local), n (no rotation).
static void layer_words(const struct model_shape *s, char *dst, size_t size)
{
    size_t at = 0;
    for (int32_t i = 0; i < s->n_layer && at < size; i++) {
        const struct model_layer *l = &s->layers[i];
        at += (size_t)snprintf(dst + at, size - at, "%s%c%c%s%s", i ? " " : "", "amd"[l->mixer],
                               "fe"[l->ffn], l -> is_local ? "l" : "", l->no_rope ? "n" : "");
    }
}

static void check_layers(const struct model *m, const char *want)
{
    char found[256];
    layer_words(&m->shape, found, sizeof found);
    if (strcmp(found, want)) fail_msg("%s: layers '%s', expected '%s'", m->path, found, want);
}

// ---- fixtures

static const char *fixtures(void)
{
    const char *dir = getenv("TRIREME_FIXTURES");
    return dir ? dir : "../shared/fixtures";
}

static struct model *open_or_fail(const char *path)
{
    struct model *m = NULL;
    struct err_text why = {{0}};
    if (model_open(path, &m, &why)) fail_msg("%s", why.s);
    return m;
}

struct known {
    const char *dir, *layers;
    int32_t n_rot, n_weight;
    double attn_scale;
    slot_set also; // slots of layer 1 besides the usual
    bool tied, mtp, interleaved;
};

#define B(x) SLOT_BIT(SLOT_##x)
#define QKV_BIAS (B(ATTN_Q_BIAS) | B(ATTN_K_BIAS) | B(ATTN_V_BIAS))
#define QK_NORM (B(ATTN_Q_NORM) | B(ATTN_K_NORM))
#define POST (B(ATTN_POST_NORM) | B(FFN_POST_NORM))

static const struct known knowns[] = {
    {"arch/deepseek_v2", "mf me me", 8, 44, 0.297843, 0, false, false, true},
    {"arch/deepseek_v3", "mf me me", 8, 52, 0.297843, B(MOE_CORRECTION), false, false, true},
    {"arch/deepseek_v3_headdims", "mf me", 64, 34, 0.0721688, B(MOE_CORRECTION), false, false,
     true},
    {"arch/gemma2", "afl af afl", 32, 35, 0.176777, POST, true, false, false},
    {"arch/gemma3", "afl afl af afl afl af", 32, 80, 0.176777, POST | QK_NORM, true, false, false},
    {"arch/glm4_moe", "af ae ae", 16, 55, 0.176777, QK_NORM | QKV_BIAS | B(MOE_CORRECTION), false,
     false, false},
    {"arch/gpt_oss", "ael ae ael ae", 16, 79, 0.25,
     QKV_BIAS | B(ATTN_OUT_BIAS) | B(ATTN_SINKS) | B(MOE_ROUTER_BIAS) | B(MOE_GATE_BIAS) |
         B(MOE_UP_BIAS) | B(MOE_DOWN_BIAS),
     false, false, false},
    {"arch/granitemoe", "ae ae ae", 16, 32, 0.125, 0, true, false, false},
    {"arch/llama", "af af af", 16, 29, 0.25, 0, true, false, false},
    {"arch/llama4_text", "afl ael afl aen", 16, 47, 0.25, 0, false, false, true},
    {"arch/llama_f32", "af af af", 16, 30, 0.25, 0, false, false, false},
    {"arch/minimax_m2", "ae ae ae", 16, 42, 0.176777, QK_NORM | B(MOE_CORRECTION), false, false,
     false},
    {"arch/ministral3", "af af af", 32, 29, 0.176777, 0, true, false, false},
    {"arch/mistral", "afl afl afl", 24, 30, 0.204124, 0, false, false, false},
    {"arch/mistral4", "me me me", 8, 54, 0.333006, 0, false, false, true},
    {"arch/mixtral", "ae ae ae", 16, 33, 0.25, 0, false, false, false},
    {"arch/olmoe", "ae ae ae", 16, 39, 0.25, QK_NORM, false, false, false},
    {"arch/phi3", "afl afl afl", 16, 30, 0.25, 0, false, false, false},
    {"arch/qwen2", "af af af", 16, 38, 0.25, QKV_BIAS, true, false, false},
    {"arch/qwen3", "af af af", 32, 35, 0.176777, QK_NORM, true, false, false},
    {"arch/qwen3_5", "df df df af", 64, 73, 0.0625, 0, false, true, false},
    {"arch/qwen3_5_moe", "de de de ae", 8, 98, 0.176777, B(SHARED_ROUTER), false, true, false},
    {"arch/qwen3_moe", "ae ae ae", 32, 39, 0.176777, QK_NORM, false, false, false},
    {"arch/qwen3_next", "de de de ae", 8, 98, 0.176777, B(SHARED_ROUTER), false, true, false},
    {"arch/smollm3", "af af af afn", 16, 38, 0.25, 0, true, false, false},
    {"quant/deepseek_v3-fp8-block", "mf me", 16, 34, 0.144338, B(MOE_CORRECTION), false, false,
     true},
    {"quant/llama-awq-int4", "af af", 32, 21, 0.176777, 0, false, false, false},
    {"quant/llama-ct-fp8", "af af", 32, 21, 0.176777, 0, false, false, false},
    {"quant/llama-ct-fp8-dynamic", "af af", 32, 21, 0.176777, 0, false, false, false},
    {"quant/llama-ct-mxfp4", "af af", 32, 21, 0.176777, 0, false, false, false},
    {"quant/llama-gptq-int4", "af af", 32, 21, 0.176777, 0, false, false, false},
    {"quant/llama-modelopt-nvfp4", "af af", 32, 21, 0.176777, 0, false, false, false},
    {"quant/ministral3-fp8-static", "af af", 32, 21, 0.176777, 0, false, false, false},
    {"quant/qwen3-autoround-int4", "af af", 32, 25, 0.176777, QK_NORM, false, false, false},
    {"quant/qwen3-ct-nvfp4", "af af", 32, 25, 0.176777, QK_NORM, false, false, false},
    {"quant/qwen3-ct-w4a16", "af af", 32, 25, 0.176777, QK_NORM, false, false, false},
    {"quant/qwen3-ct-w8a8", "af af", 32, 25, 0.176777, QK_NORM, false, false, false},
    {"quant/qwen3-fp8-block", "af af", 32, 25, 0.176777, QK_NORM, false, false, false},
    {"quant/qwen3-gptq-int4-actorder", "af af", 32, 25, 0.176777, QK_NORM, false, false, false},
    {"quant/qwen3_moe-autoround-int4", "ae ae", 32, 27, 0.176777, QK_NORM, false, false, false},
    {"quant/qwen3_moe-ct-nvfp4", "ae ae", 32, 27, 0.176777, QK_NORM, false, false, false},
    {"gguf/llama-F32/model.gguf", "af af", 16, 21, 0.25, 0, true, false, true},
    {"gguf/llama-F16/model.gguf", "af af", 16, 21, 0.25, 0, true, false, true},
    {"gguf/llama-BF16/model.gguf", "af af", 16, 21, 0.25, 0, false, false, true},
    {"gguf/llama-Q8_0/model.gguf", "af af", 16, 21, 0.25, 0, false, false, true},
    {"gguf/llama-Q4_0/model.gguf", "af af", 16, 21, 0.25, 0, false, false, true},
    {"gguf/llama-Q4_1/model.gguf", "af af", 16, 21, 0.25, 0, false, false, true},
    {"gguf/llama-Q5_0/model.gguf", "af af", 16, 21, 0.25, 0, false, false, true},
    {"gguf/llama-Q5_1/model.gguf", "af af", 16, 21, 0.25, 0, false, false, true},
    {"gguf/llama-IQ4_NL/model.gguf", "af af", 16, 21, 0.25, 0, false, false, true},
    {"gguf/llama-MXFP4/model.gguf", "af af", 16, 21, 0.25, 0, false, false, true},
    {"gguf/llama-IQ4_XS/model.gguf", "af af", 64, 21, 0.125, 0, false, false, true},
    {"gguf/llama-Q2_K/model.gguf", "af af", 64, 21, 0.125, 0, false, false, true},
    {"gguf/llama-Q3_K/model.gguf", "af af", 64, 21, 0.125, 0, false, false, true},
    {"gguf/llama-Q4_K_M/model.gguf", "af af", 64, 21, 0.125, 0, false, false, true},
    {"gguf/qwen3-Q8_0/model.gguf", "af af", 32, 24, 0.176777, QK_NORM, true, false, false},
    {"gguf/qwen3-Q5_K_M/model.gguf", "af af", 128, 24, 0.0883883, QK_NORM, true, false, false},
    {"gguf/qwen3moe-BF16/model.gguf", "ae ae", 16, 27, 0.25, QK_NORM, false, false, false},
    {"gguf/qwen3moe-MXFP4/model.gguf", "ae ae", 16, 27, 0.25, QK_NORM, false, false, false},
    {"gguf/qwen3moe-Q4_K_M/model.gguf", "ae", 64, 15, 0.125, QK_NORM, false, false, false},
};

static void check_known(const struct model *m, const struct known *k)
{
    const struct model_shape *s = &m->shape;
    check_layers(m, k->layers);
    check_model(m);
    if (s->rope.n_rot != k->n_rot || m->n_weight != k->n_weight)
        fail_msg("%s: %d rotated, %d weights", k->dir, s->rope.n_rot, m->n_weight);
    assert_float_equal(s->attn_scale, k->attn_scale, 1e-5);
    assert_int_equal(s->tied_head, k->tied);
    assert_int_equal(s->has_mtp, k->mtp);
    assert_int_equal(s->rope.interleaved, k->interleaved);
    const int32_t layer = s->n_layer > 1;
    for (int i = 0; i < SLOT_COUNT; i++)
        if ((k->also & SLOT_BIT(i)) && !model_weight_find(m, layer, (enum slot)i))
            fail_msg("%s: no %s", k->dir, slot_name((enum slot)i));
}

static void opens_every_fixture(void **state)
{
    (void)state;
    int n = 0;
    log_set_level(LOG_WARN); // towers that are skipped are told at info
    for (size_t i = 0; i < sizeof knowns / sizeof *knowns; i++) {
        char path[512];
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", fixtures(), knowns[i].dir);
        if (stat(path, &st)) continue;
        struct model *m = open_or_fail(path);
        check_known(m, &knowns[i]);
        model_close(m);
        n++;
    }
    log_set_level(LOG_INFO);
    if (n == 0) {
        print_message("SKIPPED: no fixtures (set TRIREME_FIXTURES)\n");
        skip();
    }
}

// ---- the same architectures as GGUF has them

#define G_ENDS "token_embd.weight 24 32\noutput_norm.weight 32\noutput.weight 24 32\n"
#define G_ATTN                                                                                     \
    "blk.#.attn_norm.weight 32\nblk.#.attn_q.weight 32 32\nblk.#.attn_k.weight 16 32\n"            \
    "blk.#.attn_v.weight 16 32\nblk.#.attn_output.weight 32 32\n"
#define G_QK_NORM "blk.#.attn_q_norm.weight 8\nblk.#.attn_k_norm.weight 8\n"
#define G_FFN                                                                                      \
    "blk.#.ffn_gate.weight 64 32\nblk.#.ffn_up.weight 64 32\nblk.#.ffn_down.weight 32 64\n"
#define G_NORM "blk.#.ffn_norm.weight 32\n"
#define G_MOE                                                                                      \
    "blk.#.ffn_gate_inp.weight 6 32\nblk.#.ffn_gate_exps.weight 6 16 32\n"                         \
    "blk.#.ffn_up_exps.weight 6 16 32\nblk.#.ffn_down_exps.weight 6 32 16\n"
#define G_SHARED                                                                                   \
    "blk.#.ffn_gate_shexp.weight 16 32\nblk.#.ffn_up_shexp.weight 16 32\n"                         \
    "blk.#.ffn_down_shexp.weight 32 16\n"
#define G_BIAS "blk.#.attn_q.bias 32\nblk.#.attn_k.bias 16\nblk.#.attn_v.bias 16\n"
#define G_KEYS                                                                                     \
    "block_count 2\ncontext_length 512\nembedding_length 32\nattention.head_count 4\n"             \
    "attention.head_count_kv 2\nattention.layer_norm_rms_epsilon 1e-5\nrope.freq_base 10000.0\n"
#define G_MOE_KEYS "expert_count 6\nexpert_used_count 2\nexpert_feed_forward_length 16\n"
#define G_FF "feed_forward_length 64\n"
#define G_MLA                                                                                      \
    "blk.#.attn_norm.weight 32\nblk.#.attn_q_a.weight 12 32\nblk.#.attn_q_a_norm.weight 12\n"      \
    "blk.#.attn_q_b.weight 48 12\nblk.#.attn_kv_a_mqa.weight 20 32\n"                              \
    "blk.#.attn_kv_a_norm.weight 16\nblk.#.attn_output.weight 32 40\n"
#define G_MLA_KEYS                                                                                 \
    "attention.q_lora_rank 12\nattention.kv_lora_rank 16\nattention.key_length 20\n"               \
    "attention.value_length 16\nattention.key_length_mla 12\nattention.value_length_mla 10\n"      \
    "rope.dimension_count 4\n"
#define G_DELTA                                                                                    \
    "blk.0.attn_norm.weight 32\nblk.0.attn_qkv.weight 64 32\nblk.0.attn_gate.weight 32 32\n"       \
    "blk.0.ssm_conv1d.weight 64 4\nblk.0.ssm_dt.bias 4\nblk.0.ssm_a 4\nblk.0.ssm_norm.weight 8\n"  \
    "blk.0.ssm_out.weight 32 32\n"
#define G_DELTA_KEYS                                                                               \
    "ssm.conv_kernel 4\nssm.inner_size 32\nssm.state_size 8\nssm.time_step_rank 4\n"               \
    "ssm.group_count 2\nfull_attention_interval 2\nattention.key_length 8\n"                       \
    "attention.value_length 8\nrope.dimension_count 2\n"
#define G_GATED                                                                                    \
    "blk.1.attn_norm.weight 32\nblk.1.attn_q.weight 64 32\nblk.1.attn_k.weight 16 32\n"            \
    "blk.1.attn_v.weight 16 32\nblk.1.attn_output.weight 32 32\nblk.1.attn_q_norm.weight 8\n"      \
    "blk.1.attn_k_norm.weight 8\n"
#define G_AFTER "blk.#.post_attention_norm.weight 32\n"

struct gguf_case {
    const char *arch, *keys, *tensors, *layers;
    bool interleaved;
    int32_t n_weight;
};

static const struct gguf_case gguf_cases[] = {
    {"llama", G_KEYS G_FF "rope.dimension_count 8\n",
     G_ENDS "rope_freqs.weight 4\n" G_ATTN G_NORM G_FFN, "af af", true, 22},
    {"llama", G_KEYS G_MOE_KEYS G_FF, G_ENDS G_ATTN G_NORM G_MOE, "ae ae", true, 23},
    {"llama", G_KEYS "expert_count 2\nexpert_used_count 1\nfeed_forward_length 16\n",
     G_ENDS G_ATTN G_NORM "blk.#.ffn_gate_inp.weight 2 32\nblk.#.ffn_gate.0.weight 16 32\n"
                          "blk.#.ffn_gate.1.weight 16 32\nblk.#.ffn_up.0.weight 16 32\n"
                          "blk.#.ffn_up.1.weight 16 32\nblk.#.ffn_down.0.weight 32 16\n"
                          "blk.#.ffn_down.1.weight 32 16\n",
     "ae ae", true, 23},
    {"qwen2", G_KEYS G_FF, G_ENDS G_ATTN G_BIAS G_NORM G_FFN, "af af", false, 27},
    {"qwen3", G_KEYS G_FF, G_ENDS G_ATTN G_QK_NORM G_NORM G_FFN, "af af", false, 25},
    {"qwen3moe", G_KEYS G_MOE_KEYS G_FF, G_ENDS G_ATTN G_QK_NORM G_NORM G_MOE, "ae ae", false, 27},
    {"qwen3next", G_KEYS G_MOE_KEYS G_FF G_DELTA_KEYS "expert_shared_feed_forward_length 16\n",
     G_ENDS G_DELTA G_GATED G_AFTER G_MOE G_SHARED
     "blk.#.ffn_gate_inp_shexp.weight 32\nblk.0.ssm_ba.weight 8 32\n",
     "de ae", false, 39},
    {"qwen35", G_KEYS G_FF G_DELTA_KEYS,
     G_ENDS G_DELTA G_GATED G_AFTER G_FFN
     "blk.0.ssm_alpha.weight 4 32\nblk.0.ssm_beta.weight 4 32\n",
     "df af", false, 29},
    {"qwen35moe", G_KEYS G_MOE_KEYS G_DELTA_KEYS "expert_shared_feed_forward_length 16\n",
     G_ENDS G_DELTA G_GATED G_AFTER G_MOE G_SHARED
     "blk.#.ffn_gate_inp_shexp.weight 32\nblk.0.ssm_alpha.weight 4 32\nblk.0.ssm_beta.weight 4 "
     "32\n",
     "de ae", false, 39},
    {"mistral3",
     G_KEYS G_FF "rope.scaling.type yarn\nrope.scaling.factor 16.0\n"
                 "rope.scaling.original_context_length 32\nrope.scaling.yarn_log_multiplier 1.0\n"
                 "attention.temperature_scale 0.1\n",
     G_ENDS G_ATTN G_NORM G_FFN, "af af", true, 21},
    {"mistral4", G_KEYS G_MLA_KEYS G_MOE_KEYS G_FF "expert_shared_count 1\nexpert_gating_func 1\n",
     G_ENDS G_MLA
     "blk.#.attn_k_b.weight 4 16 8\nblk.#.attn_v_b.weight 4 10 16\n" G_NORM G_MOE G_SHARED,
     "me me", true, 37},
    {"deepseek2",
     G_KEYS G_MLA_KEYS G_MOE_KEYS G_FF "expert_shared_count 1\nleading_dense_block_count 1\n"
                                       "expert_gating_func 2\nexpert_weights_norm true\n",
     G_ENDS G_MLA
     "blk.#.attn_kv_b.weight 72 16\n" G_NORM
     "blk.0.ffn_gate.weight 64 32\nblk.0.ffn_up.weight 64 32\nblk.0.ffn_down.weight 32 64\n"
     "blk.1.ffn_gate_inp.weight 6 32\nblk.1.ffn_gate_up_exps.weight 6 32 32\n"
     "blk.1.ffn_down_exps.weight 6 32 16\nblk.1.exp_probs_b.bias 6\n"
     "blk.1.ffn_gate_shexp.weight 16 32\nblk.1.ffn_up_shexp.weight 16 32\n"
     "blk.1.ffn_down_shexp.weight 32 16\n",
     "mf me", true, 34},
    {"gpt-oss", G_KEYS G_MOE_KEYS "attention.sliding_window 16\n",
     G_ENDS G_ATTN G_BIAS
     "blk.#.attn_output.bias 32\nblk.#.attn_sinks.weight 4\n" G_AFTER G_MOE
     "blk.#.ffn_gate_inp.bias 6\nblk.#.ffn_gate_exps.bias 6 16\nblk.#.ffn_up_exps.bias 6 16\n"
     "blk.#.ffn_down_exps.bias 6 32\n",
     "ael ae", false, 41},
    {"gemma2", G_KEYS G_FF "attention.sliding_window 16\n",
     G_ENDS G_ATTN G_AFTER G_NORM G_FFN "blk.#.post_ffw_norm.weight 32\n", "afl af", false, 25},
    {"gemma3", G_KEYS G_FF "attention.sliding_window 16\n",
     G_ENDS G_ATTN G_QK_NORM G_AFTER G_NORM G_FFN "blk.#.post_ffw_norm.weight 32\n", "afl afl",
     false, 29},
    {"phi3", G_KEYS G_FF "rope.scaling.original_context_length 64\nrope.scaling.attn_factor 1.2\n",
     G_ENDS "rope_factors_long.weight 4\nrope_factors_short.weight 4\nblk.#.attn_norm.weight 32\n"
            "blk.#.attn_qkv.weight 64 32\nblk.#.attn_output.weight 32 32\n" G_NORM
            "blk.#.ffn_up.weight 128 32\nblk.#.ffn_down.weight 32 64\n",
     "af af", false, 23},
    {"smollm3", G_KEYS G_FF, G_ENDS G_ATTN G_NORM G_FFN, "af af", true, 21},
    {"glm4moe",
     "block_count 3\nnextn_predict_layers 1\n"
     "context_length 512\nembedding_length 32\nattention.head_count 4\nattention.head_count_kv 2\n"
     "attention.layer_norm_rms_epsilon 1e-5\n" G_MOE_KEYS G_FF
     "expert_shared_count 1\nleading_dense_block_count 0\nexpert_gating_func 2\n",
     G_ENDS G_ATTN G_BIAS G_AFTER G_MOE G_SHARED
     "blk.#.exp_probs_b.bias 6\nblk.2.nextn.enorm.weight 32\n",
     "ae ae", false, 37},
    {"olmoe", G_KEYS G_MOE_KEYS,
     G_ENDS G_ATTN "blk.#.attn_q_norm.weight 32\nblk.#.attn_k_norm.weight 16\n" G_NORM G_MOE,
     "ae ae", false, 27},
    {"granite", G_KEYS G_FF "attention.scale 0.5\nembedding_scale 12.0\nlogit_scale 8.0\n",
     G_ENDS G_ATTN G_NORM G_FFN, "af af", true, 21},
    {"granitemoe", G_KEYS G_MOE_KEYS "expert_shared_feed_forward_length 16\nresidual_scale 0.2\n",
     G_ENDS G_ATTN G_NORM G_MOE G_SHARED, "ae ae", true, 29},
    {"llama4", G_KEYS G_MOE_KEYS G_FF "interleave_moe_layer_step 2\n",
     G_ENDS G_ATTN G_NORM
     "blk.0.ffn_gate.weight 64 32\nblk.0.ffn_up.weight 64 32\nblk.0.ffn_down.weight 32 64\n"
     "blk.1.ffn_gate_inp.weight 6 32\nblk.1.ffn_gate_exps.weight 6 16 32\n"
     "blk.1.ffn_up_exps.weight 6 16 32\nblk.1.ffn_down_exps.weight 6 32 16\n"
     "blk.1.ffn_gate_shexp.weight 16 32\nblk.1.ffn_up_shexp.weight 16 32\n"
     "blk.1.ffn_down_shexp.weight 32 16\n",
     "afl ael", true, 25},
    {"minimax-m2", G_KEYS G_MOE_KEYS "expert_gating_func 2\nrope.dimension_count 4\n",
     G_ENDS G_ATTN "blk.#.attn_q_norm.weight 32\nblk.#.attn_k_norm.weight 16\n" G_NORM G_MOE
                   "blk.#.exp_probs_b.bias 6\n",
     "ae ae", false, 29},
};

static struct model *open_gguf(const struct gguf_case *c)
{
    char path[64];
    make_gguf(c->arch, c->keys, c->tensors, 2, path, sizeof path);
    struct model *m = open_or_fail(path);
    unlink(path);
    return m;
}

static void knows_the_names_of_gguf(void **state)
{
    (void)state;
    log_set_level(LOG_WARN);
    for (size_t i = 0; i < sizeof gguf_cases / sizeof *gguf_cases; i++) {
        const struct gguf_case *c = &gguf_cases[i];
        struct model *m = open_gguf(c);
        assert_string_equal(m->shape.arch, c->arch);
        check_layers(m, c->layers);
        check_model(m);
        assert_int_equal(m->shape.rope.interleaved, c->interleaved);
        if (m->n_weight != c->n_weight)
            fail_msg("%s: %d weights, expected %d", c->arch, m->n_weight, c->n_weight);
        for (int32_t w = 0; w < m->n_weight; w++)
            assert_int_equal(m->weights[w].transform, TRANSFORM_NONE);
        model_close(m);
    }
    log_set_level(LOG_INFO);
}

static const struct gguf_case *gguf_case_of(const char *arch)
{
    for (size_t i = 0; i < sizeof gguf_cases / sizeof *gguf_cases; i++)
        if (!strcmp(gguf_cases[i].arch, arch)) return &gguf_cases[i];
    return NULL;
}

static void numbers_of_gguf(void **state)
{
    (void)state;
    log_set_level(LOG_WARN);
    struct model *m = open_gguf(gguf_case_of("mistral3"));
    const struct model_shape *s = &m->shape;
    assert_float_equal(s->q_beta, 0.1, 1e-7);
    assert_int_equal(s->q_span, 32);
    assert_float_equal(s->rope.attn_factor, 1, 1e-9);
    assert_non_null(s->rope.factors);
    assert_float_equal(s->rope.factors[0], 1, 0);
    assert_float_equal(s->rope.factors[3], 16, 1e-9);
    model_close(m);
    m = open_gguf(gguf_case_of("phi3"));
    s = &m->shape;
    assert_float_equal(s->rope.attn_factor, 1.2, 1e-6);
    assert_int_equal(s->rope.long_from, 64);
    assert_non_null(model_weight_find(m, PART_SHARED, SLOT_ROPE_FREQS));
    assert_non_null(model_weight_find(m, PART_SHARED, SLOT_ROPE_FREQS_LONG));
    model_close(m);
    m = open_gguf(gguf_case_of("granite"));
    s = &m->shape;
    assert_float_equal(s->attn_scale, 0.5, 0);
    assert_float_equal(s->embed_scale, 12, 0);
    assert_float_equal(s->logit_scale, 0.125, 0);
    model_close(m);
    m = open_gguf(gguf_case_of("deepseek2"));
    s = &m->shape;
    assert_true(s->moe.sigmoid && s->moe.normalise && s->moe.group_by_two);
    assert_int_equal(s->mla.nope_dim, 8);
    assert_int_equal(s->mla.v_dim, 10);
    assert_int_equal(model_kv_bytes(m, 0, 2), 2 * 20);
    model_close(m);
    m = open_gguf(gguf_case_of("qwen35"));
    assert_true(m->shape.delta.tiled);
    assert_int_equal(m->shape.delta.dim_v, 8);
    assert_int_equal(model_kv_bytes(m, 0, 2), 0);
    assert_int_equal(model_state_bytes(m, 0), 4 * (3 * 64 + 4 * 8 * 8));
    assert_int_equal(model_state_bytes(m, 1), 0);
    model_close(m);
    m = open_gguf(gguf_case_of("gemma3"));
    s = &m->shape;
    assert_float_equal(s->rope_local.theta, 10000, 0);
    assert_float_equal(s->embed_scale, sqrtf(32), 1e-6);
    assert_int_equal(s->act, ACT_GELU_TANH);
    model_close(m);
    m = open_gguf(gguf_case_of("llama4"));
    s = &m->shape;
    assert_int_equal(s->chunk, 8192);
    assert_float_equal(s->q_beta, 0.1, 1e-7);
    assert_true(s->q_no_rope_only && s->q_shift == 1 && s->moe.weigh_input);
    assert_int_equal(s->qk_norm, QK_NORM_L2);
    model_close(m);
    log_set_level(LOG_INFO);
}

// ---- Hugging Face: spellings

#define H_LAYER(p)                                                                                 \
    p "layers.#.input_layernorm.weight 32\n" p "layers.#.post_attention_layernorm.weight 32\n" p   \
      "layers.#.self_attn.q_proj.weight 32 32\n" p "layers.#.self_attn.k_proj.weight 16 32\n" p    \
      "layers.#.self_attn.v_proj.weight 16 32\n" p "layers.#.self_attn.o_proj.weight 32 32\n"
#define H_FFN(p)                                                                                   \
    p "layers.#.mlp.gate_proj.weight 64 32\n" p "layers.#.mlp.up_proj.weight 64 32\n" p            \
      "layers.#.mlp.down_proj.weight 32 64\n"
#define H_ENDS(p) p "embed_tokens.weight 24 32\n" p "norm.weight 32\n"
#define H_LLAMA(p) H_ENDS(p) H_LAYER(p) H_FFN(p)
#define H_NUMBERS                                                                                  \
    "\"num_hidden_layers\": 2, \"hidden_size\": 32, \"intermediate_size\": 64, "                   \
    "\"vocab_size\": 24, \"max_position_embeddings\": 512, \"rms_norm_eps\": 1e-6, "               \
    "\"num_attention_heads\": 4, \"num_key_value_heads\": 2"
#define H_CONFIG "{\"model_type\": \"llama\", " H_NUMBERS "}"

static struct model *open_hf(const char *config, const char *tensors)
{
    struct make_folder d = make_hf(config, tensors, 2);
    struct model *m = open_or_fail(d.dir);
    make_hf_gone(&d);
    check_model(m);
    return m;
}

static void prefixes_and_heads(void **state)
{
    (void)state;
    static const struct {
        const char *tensors;
        bool tied;
    } cases[] = {
        {H_LLAMA("model."), true},
        {H_LLAMA("model.") "lm_head.weight 24 32\n", false},
        {H_LLAMA("model.language_model.") "lm_head.weight 24 32\n", false},
        {H_LLAMA("language_model.model.") "language_model.lm_head.weight 24 32\n", false},
        {H_LLAMA(""), true},
        {H_LLAMA("model.language_model.") "model.visual.blocks.0.norm1.weight 7\n"
                                          "vision_tower.x.weight 3 3\n",
         true},
    };
    log_set_level(LOG_WARN);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model *m = open_hf(H_CONFIG, cases[i].tensors);
        assert_int_equal(m->shape.tied_head, cases[i].tied);
        assert_int_equal(m->shape.head_dim, 8);
        assert_string_equal(m->quant, "BF16");
        model_close(m);
    }
    // the config's word counts where the file has both
    struct model *m =
        open_hf("{\"model_type\": \"llama\", \"tie_word_embeddings\": true, " H_NUMBERS "}",
                H_LLAMA("model.") "lm_head.weight 24 32\n");
    assert_true(m->shape.tied_head);
    model_close(m);
    log_set_level(LOG_INFO);
}

static void old_and_new_rotations(void **state)
{
    (void)state;
#define ROPE(text) "{\"model_type\": \"llama\", " text ", " H_NUMBERS "}"
    static const struct {
        const char *config;
        double theta, scale, attn, last; // last: divisor of the slowest
    } cases[] = {
        {ROPE("\"rope_theta\": 500000.0"), 500000, 1, 1, 0},
        {ROPE("\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 77.0}"), 77, 1, 1,
         0},
        {ROPE("\"rope_theta\": 9.0, \"rope_scaling\": null"), 9, 1, 1, 0},
        {ROPE("\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4.0}"), 10000, 0.25, 1, 0},
        {ROPE("\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0, "
              "\"original_max_position_embeddings\": 64}"),
         10000, 1, 0.1 * 1.3862943611198906 + 1, 4},
        {ROPE("\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4.0, \"attention_factor\": 1.5, "
              "\"original_max_position_embeddings\": 64}"),
         10000, 1, 1.5, 4},
        {ROPE("\"rope_parameters\": {\"rope_type\": \"llama3\", \"rope_theta\": 10000.0, "
              "\"factor\": 8.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
              "\"original_max_position_embeddings\": 64}"),
         10000, 1, 1, 8},
        {ROPE("\"rope_scaling\": {\"type\": \"longrope\", \"short_factor\": [1, 1, 1, 2.5], "
              "\"long_factor\": [1, 2, 3, 4]}, \"original_max_position_embeddings\": 256"),
         10000, 1, 1.0606601717798212, 2.5},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model *m = open_hf(cases[i].config, H_LLAMA("model."));
        const struct model_rope *r = &m->shape.rope;
        assert_float_equal(r->theta, cases[i].theta, 0);
        assert_float_equal(r->freq_scale, cases[i].scale, 0);
        assert_float_equal(r->attn_factor, cases[i].attn, 1e-12);
        assert_int_equal(r->factors != NULL, cases[i].last > 0);
        if (r->factors) assert_float_equal(r->factors[r->n_rot / 2 - 1], cases[i].last, 1e-12);
        model_close(m);
    }
    struct model *m = open_hf(cases[7].config, H_LLAMA("model."));
    assert_int_equal(m->shape.rope.long_from, 256);
    assert_float_equal(m->shape.rope.long_factors[3], 4, 0);
    model_close(m);
}

#define H_GEMMA                                                                                    \
    H_LLAMA("model.")                                                                              \
    "model.layers.#.pre_feedforward_layernorm.weight 32\n"                                         \
    "model.layers.#.post_feedforward_layernorm.weight 32\n"                                        \
    "model.layers.#.self_attn.q_norm.weight 8\nmodel.layers.#.self_attn.k_norm.weight 8\n"

// A rotation for each kind of layer, defaults for what the config leaves out, 1 + w.
static void gemma3_in_its_newest_spelling(void **state)
{
    (void)state;
    struct model *m = open_hf(
        "{\"model_type\": \"gemma3\", \"text_config\": {\"model_type\": \"gemma3_text\", "
        "\"num_hidden_layers\": 2, \"hidden_size\": 32, \"intermediate_size\": 64, "
        "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"head_dim\": 8, "
        "\"layer_types\": [\"full_attention\", \"sliding_attention\"], \"sliding_window\": 16, "
        "\"rope_parameters\": {\"full_attention\": {\"rope_type\": \"linear\", \"factor\": 8.0, "
        "\"rope_theta\": 1000000.0}, \"sliding_attention\": {\"rope_type\": \"default\", "
        "\"rope_theta\": 5000.0}}}}",
        H_GEMMA);
    const struct model_shape *s = &m->shape;
    check_layers(m, "af afl");
    assert_float_equal(s->rope.theta, 1000000, 0);
    assert_float_equal(s->rope.freq_scale, 0.125, 0);
    assert_float_equal(s->rope_local.theta, 5000, 0);
    assert_float_equal(s->rope_local.freq_scale, 1, 0);
    assert_float_equal(s->norm_eps, 1e-6, 1e-12);
    assert_float_equal(s->attn_scale, 1.0 / 16, 0); // query_pre_attn_scalar 256
    assert_int_equal(s->ctx_train, 131072);
    assert_true(s->tied_head);
    assert_int_equal(s->n_vocab, 24); // of the file, the default gives way
    const enum slot norms[] = {SLOT_ATTN_NORM,     SLOT_ATTN_POST_NORM, SLOT_FFN_NORM,
                               SLOT_FFN_POST_NORM, SLOT_ATTN_Q_NORM,    SLOT_ATTN_K_NORM};
    for (size_t i = 0; i < sizeof norms / sizeof *norms; i++)
        assert_int_equal(model_weight_find(m, 0, norms[i])->transform, TRANSFORM_PLUS_ONE);
    assert_int_equal(model_weight_find(m, PART_HEAD, SLOT_FINAL_NORM)->transform,
                     TRANSFORM_PLUS_ONE);
    assert_int_equal(model_weight_find(m, 0, SLOT_ATTN_Q)->transform, TRANSFORM_NONE);
    assert_string_equal(model_weight_find(m, 0, SLOT_FFN_NORM)->sources[0].main->name,
                        "model.layers.0.pre_feedforward_layernorm.weight");
    model_close(m);
}

#define H_EXPERT(i)                                                                                \
    "model.layers.#.mlp.experts." #i ".gate_proj.weight 16 32\n"                                   \
    "model.layers.#.mlp.experts." #i ".up_proj.weight 16 32\n"                                     \
    "model.layers.#.mlp.experts." #i ".down_proj.weight 32 16\n"
#define H_QWEN3                                                                                    \
    H_ENDS("model.")                                                                               \
    H_LAYER("model.")                                                                              \
    "model.layers.#.self_attn.q_norm.weight 8\nmodel.layers.#.self_attn.k_norm.weight 8\n"
#define H_QWEN3_MOE                                                                                \
    H_QWEN3 "model.layers.1.mlp.gate.weight 2 32\n"                                                \
            "model.layers.0.mlp.gate_proj.weight 64 32\nmodel.layers.0.mlp.up_proj.weight 64 32\n" \
            "model.layers.0.mlp.down_proj.weight 32 64\n"
#define H_MOE_NUMBERS                                                                              \
    "\"num_experts\": 2, \"num_experts_per_tok\": 1, \"moe_intermediate_size\": 16, " H_NUMBERS

// Which layers have experts is said in many ways; fused or one by one is all the same.
static void experts_in_some_layers(void **state)
{
    (void)state;
#define MOE(text) "{\"model_type\": \"qwen3_moe\", " text ", " H_MOE_NUMBERS "}"
    static const char *const configs[] = {
        MOE("\"mlp_only_layers\": [0]"),     MOE("\"decoder_sparse_step\": 2"),
        MOE("\"first_k_dense_replace\": 1"), MOE("\"moe_layer_freq\": [0, 1]"),
        MOE("\"moe_layers\": [1]"),          MOE("\"interleave_moe_layer_step\": 2"),
    };
    static const char *const files[] = {
        H_QWEN3_MOE "model.layers.1.mlp.experts.0.gate_proj.weight 16 32\n"
                    "model.layers.1.mlp.experts.1.gate_proj.weight 16 32\n"
                    "model.layers.1.mlp.experts.0.up_proj.weight 16 32\n"
                    "model.layers.1.mlp.experts.1.up_proj.weight 16 32\n"
                    "model.layers.1.mlp.experts.0.down_proj.weight 32 16\n"
                    "model.layers.1.mlp.experts.1.down_proj.weight 32 16\n",
        H_QWEN3_MOE "model.layers.1.mlp.experts.gate_up_proj 2 32 32\n"
                    "model.layers.1.mlp.experts.down_proj 2 32 16\n",
    };
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        struct model *m = open_hf(configs[i], files[i % 2]);
        check_layers(m, "af ae");
        const struct model_weight *w = model_weight_find(m, 1, SLOT_MOE_UP);
        assert_int_equal(w->n, 2);
        assert_int_equal(w->n_source, i % 2 ? 1 : 2);
        assert_int_equal(model_weight_row(w, 0), i % 2 ? 16 : 0);
        assert_int_equal(model_expert_bytes(m, 1), 3 * 2 * 16 * 32 * 2);
        model_close(m);
    }
}

static void rotation_in_some_layers(void **state)
{
    (void)state;
    static const struct {
        const char *config, *layers;
    } cases[] = {
        {"{\"model_type\": \"smollm3\", \"no_rope_layers\": [0, 1], " H_NUMBERS "}", "afn af"},
        {"{\"model_type\": \"smollm3\", \"no_rope_layers\": [], " H_NUMBERS "}", "af af"},
        {"{\"model_type\": \"smollm3\", \"no_rope_layer_interval\": 2, " H_NUMBERS "}", "af afn"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model *m = open_hf(cases[i].config, H_LLAMA("model."));
        check_layers(m, cases[i].layers);
        model_close(m);
    }
}

static void windows_by_rule(void **state)
{
    (void)state;
#define WINDOW(type, text)                                                                         \
    "{\"model_type\": \"" type "\", \"sliding_window\": 16, " text H_NUMBERS "}"
    static const struct {
        const char *config, *layers;
        int32_t window;
    } cases[] = {
        {WINDOW("qwen3", ""), "af af", 0},
        {WINDOW("qwen3", "\"use_sliding_window\": true, \"max_window_layers\": 1, "), "af afl", 16},
        {WINDOW("qwen3", "\"use_sliding_window\": false, "), "af af", 0},
        {WINDOW("qwen3", "\"layer_types\": [\"sliding_attention\", \"full_attention\"], "),
         "afl af", 16},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model *m = open_hf(cases[i].config, H_QWEN3 H_FFN("model."));
        check_layers(m, cases[i].layers);
        assert_int_equal(m->shape.window, cases[i].window);
        model_close(m);
    }
}

// ---- Hugging Face: what is refused

static void refused(const char *config, const char *tensors, const char *needle)
{
    struct make_folder d = make_hf(config, tensors, 2);
    struct model *m = (struct model *)(uintptr_t)1;
    struct err_text why = {{0}};
    err_t e = model_open(d.dir, &m, &why);
    make_hf_gone(&d);
    if (e != ERR_MODEL || !strstr(why.s, needle) || !strstr(why.s, d.dir))
        fail_msg("error %d: '%s', expected '%s'", e, why.s, needle);
    assert_ptr_equal(m, (void *)(uintptr_t)1);
}

static void m11_configs(void **state)
{
    (void)state;
    static const struct {
        const char *config, *needle;
    } cases[] = {
        {"{" H_NUMBERS "}", "key 'model_type' is missing"},
        {"{\"model_type\": \"bloom\", " H_NUMBERS "}", "found 'bloom', allowed llama qwen2"},
        {"{\"model_type\": 3, " H_NUMBERS "}", "key 'model_type' is missing"},
        {"{\"model_type\": \"llama\"}", "key 'num_hidden_layers' is missing"},
        {ROPE("\"num_key_value_heads\": 2, \"num_hidden_layers\": 9"), "duplicate"},
        {ROPE("\"head_dim\": 7"), "heads of 7 elements, allowed even"},
        {ROPE("\"head_dim\": 16"), "shape (32, 32), expected (64, 32)"},
        {ROPE("\"head_dim\": \"8\""), "key 'head_dim': found '8', allowed 1 to 4096"},
        {ROPE("\"head_dim\": 8.5"), "key 'head_dim': found 8.5, allowed 1 to 4096"},
        {ROPE("\"rope_theta\": 0"), "key 'rope_theta': found 0, allowed finite"},
        {ROPE("\"rope_theta\": -1e400"), "config.json"},
        {ROPE("\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2.0}"),
         "found 'dynamic', allowed"},
        {ROPE("\"rope_scaling\": {\"type\": \"linear\"}"), "key 'factor' is missing"},
        {ROPE("\"rope_scaling\": {\"type\": \"longrope\", \"short_factor\": [1, 1], "
              "\"long_factor\": [1, 1]}"),
         "found 2 factors, allowed 4"},
        {ROPE("\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, "
              "\"high_freq_factor\": 4}"),
         "allowed more than 4"},
        {ROPE("\"rope_scaling\": []"), "key 'rope_scaling': found array, allowed object, null"},
        {ROPE("\"rope_parameters\": 3"), "key 'rope_parameters': found"},
        {"{\"model_type\": \"mixtral\", " H_NUMBERS "}",
         "key 'num_experts' or 'num_local_experts' or 'n_routed_experts' is missing"},
        {"{\"model_type\": \"mixtral\", \"num_local_experts\": 0, " H_NUMBERS "}",
         "key 'num_local_experts': found 0, allowed 1 to 4096"},
        {ROPE("\"partial_rotary_factor\": 1.5"), "found 1.5, allowed up to 1"},
        {ROPE("\"partial_rotary_factor\": 0.01"), "found 0, allowed even"},
        {ROPE("\"hidden_act\": \"relu\""), "found 'relu', allowed silu"},
        {ROPE("\"mlp_bias\": true"), "key 'mlp_bias': true, allowed false"},
        {ROPE("\"clip_qkv\": 8.0"), "clamped queries"},
        {ROPE("\"attention_bias\": true"),
         "tensor 'model.layers.0.self_attn.q_proj.bias' is missing"},
        {ROPE("\"tie_word_embeddings\": false"), "tensor 'lm_head.weight' is missing"},
        {ROPE("\"tie_word_embeddings\": \"yes\""), "found 'yes', allowed true, false"},
        {ROPE("\"layer_types\": [\"full_attention\"]"),
         "found array of 1, allowed one for each of 2"},
        {ROPE("\"layer_types\": [\"full_attention\", \"linear_attention\"]"),
         "layer 1 is 'linear_attention', which this model has no numbers for"},
        {ROPE("\"layer_types\": [\"mamba\", \"full_attention\"]"), "layer 0 is 'mamba'"},
        {ROPE("\"mlp_only_layers\": 1"), "key 'mlp_only_layers': not a list of layers, 0 to 1"},
        {ROPE("\"moe_layers\": [2]"), "key 'moe_layers': not a list of layers, 0 to 1"},
        {ROPE("\"no_rope_layers\": [1]"), "found array of 1, allowed one for each of 2"},
        {ROPE("\"num_experts\": 4, \"num_experts_per_tok\": 5"), "found 5, allowed 1 to 4"},
        {ROPE("\"num_experts\": 4, \"num_experts_per_tok\": 2, \"n_group\": 3, \"topk_group\": 1"),
         "4 experts are not a multiple of 3 groups"},
        {ROPE("\"num_experts\": 4, \"num_experts_per_tok\": 3, \"n_group\": 2, \"topk_group\": 1"),
         "3 experts for each token, the groups chosen hold 2"},
        {ROPE("\"num_experts\": 4, \"num_experts_per_tok\": 2"),
         "tensor 'model.layers.0.mlp.gate.weight' is missing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused(cases[i].config, H_LLAMA("model."), cases[i].needle);
}

#define H_WITHOUT_UP                                                                               \
    H_ENDS("model.")                                                                               \
    H_LAYER("model.")                                                                              \
    "model.layers.#.mlp.gate_proj.weight 64 32\nmodel.layers.#.mlp.down_proj.weight 32 64\n"

static void m11_files(void **state)
{
    (void)state;
    static const struct {
        const char *config, *tensors, *needle;
    } cases[] = {
        {H_CONFIG, "model.norm.weight 32\n", "tensor 'model.embed_tokens.weight' is missing"},
        {H_CONFIG, "model.embed_tokens.weight 24 32\n", "tensor 'model.norm.weight' is missing"},
        {H_CONFIG, "model.embed_tokens.weight 24\n", "1 dimensions, allowed 2"},
        {H_CONFIG, H_WITHOUT_UP, "tensor 'model.layers.0.mlp.up_proj.weight' is missing"},
        {H_CONFIG, H_WITHOUT_UP "model.layers.#.mlp.up_proj.weight 63 32\n",
         "tensor 'model.layers.0.mlp.up_proj.weight': shape (63, 32), expected (64, 32)"},
        {H_CONFIG, H_LLAMA("model.") "model.layers.2.input_layernorm.weight 32\n",
         "is of layer 2, allowed 0 to 1"},
        {H_CONFIG, H_LLAMA("model.") "lm_head.weight 25 32\n", "shape (25, 32), expected (24, 32)"},
        {"{\"model_type\": \"llama\", \"num_hidden_layers\": 2, \"hidden_size\": 32, "
         "\"intermediate_size\": 64, \"vocab_size\": 25, \"max_position_embeddings\": 512, "
         "\"rms_norm_eps\": 1e-6, \"num_attention_heads\": 4, \"num_key_value_heads\": 2}",
         H_LLAMA("model."), "key 'vocab_size': found 25, the embedding has 24 rows"},
        {MOE("\"mlp_only_layers\": [0]"),
         H_QWEN3_MOE "model.layers.1.mlp.experts.0.gate_proj.weight 16 32\n",
         "tensor 'model.layers.1.mlp.experts.1.gate_proj.weight' is missing"},
        {MOE("\"mlp_only_layers\": [0]"),
         H_QWEN3_MOE "model.layers.1.mlp.experts.gate_up_proj 2 31 32\n",
         "shape (2, 31, 32), expected (2, 32, 32)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused(cases[i].config, cases[i].tensors, cases[i].needle);
}

// ---- no files

static void shapes_without_files(void **state)
{
    (void)state;
    static const char *const names[] = {"shape:qwen3.6-35b-a3b-int4", "shape:gpt-oss-20b",
                                        "shape:deepseek-v3@layers=4", "shape:smollm2-135m:Q8_0"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct model *m = open_or_fail(names[i]);
        check_model(m);
        assert_int_equal(m->n_file, 0);
        model_close(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opens_every_fixture),
        cmocka_unit_test(knows_the_names_of_gguf),
        cmocka_unit_test(numbers_of_gguf),
        cmocka_unit_test(prefixes_and_heads),
        cmocka_unit_test(old_and_new_rotations),
        cmocka_unit_test(gemma3_in_its_newest_spelling),
        cmocka_unit_test(experts_in_some_layers),
        cmocka_unit_test(rotation_in_some_layers),
        cmocka_unit_test(windows_by_rule),
        cmocka_unit_test(m11_configs),
        cmocka_unit_test(m11_files),
        cmocka_unit_test(shapes_without_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
