// Models: a synthetic llama and gemma3 are read back exactly, every departure from what the
// architecture needs is refused with a sentence (M08, M11), and real files give the known numbers.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/base/log.h"
#include "tests/unit/topology/gguf_make.h"
#include "topology/model.h"

#include <math.h>
#include <sys/stat.h>

// What to do differently when the file is written.
struct twist {
    const char *key; // this key (without "ARCH.") gets...
    uint32_t type;   // ...this type and payload; GGUF_ARR: the key is left out
    uint64_t bits;
    const char *key2; // the same for one more
    uint32_t type2;
    uint64_t bits2;
    const char *tensor; // this tensor gets...
    uint64_t dims[2];   // ...these dimensions; 0: it is left out
    uint32_t ggml_type; // with dims
    const char *extra;  // one more tensor, F32, of extra_dim elements
    uint64_t extra_dim;
    const char *arch; // general.architecture
    uint64_t n_token; // of the tokenizer; 0: 24
};

enum { DIM = 32, FFN = 64, VOCAB = 24, LAYERS = 2, HEADS = 4, HEADS_KV = 2, HEAD = 8, ROT = 4 };

struct writer {
    struct buf b;
    const struct twist *t;
    const char *arch;
    uint64_t offset;
    uint64_t n_kv, n_tensor;
    size_t counts_at;
};

static void key(struct writer *w, const char *name, uint32_t type, uint64_t bits)
{
    static const int bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    char full[96];
    if (w->t->key && strcmp(w->t->key, name) == 0) {
        type = w->t->type;
        bits = w->t->bits;
    } else if (w->t->key2 && strcmp(w->t->key2, name) == 0) {
        type = w->t->type2;
        bits = w->t->bits2;
    }
    if (type == GGUF_ARR) return;
    snprintf(full, sizeof full, "%s.%s", w->arch, name);
    if (type == GGUF_STR)
        make_str(&w->b, full, (const char *)(uintptr_t)bits);
    else
        make_int(&w->b, full, type, bits, bytes[type]);
    w->n_kv++;
}

static uint64_t f32_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

// `cols` 0: one dimension.
static void tensor(struct writer *w, const char *name, uint64_t rows, uint64_t cols)
{
    uint64_t dims[2] = {cols ? cols : rows, rows};
    uint32_t n_dim = cols ? 2 : 1, type = 0;
    if (w->t->tensor && strcmp(w->t->tensor, name) == 0) {
        if (!w->t->dims[0]) return;
        dims[0] = w->t->dims[0];
        dims[1] = w->t->dims[1];
        n_dim = dims[1] ? 2 : 1;
        type = w->t->ggml_type;
    }
    enum dtype dt = dtype_of_ggml(type);
    uint64_t bytes = dt == DT_NONE ? 32 : dtype_row_bytes(dt, dims[0]) * (n_dim == 2 ? dims[1] : 1);
    make_tensor(&w->b, name, n_dim, dims, type, w->offset);
    w->offset = (w->offset + bytes + 31) / 32 * 32;
    w->n_tensor++;
}

static void layer_tensor(struct writer *w, int layer, const char *name, uint64_t rows,
                         uint64_t cols)
{
    char full[64];
    snprintf(full, sizeof full, "blk.%d.%s", layer, name);
    tensor(w, full, rows, cols);
}

static void write_keys(struct writer *w)
{
    const char *arch = w->t->arch ? w->t->arch : w->arch;
    make_str(&w->b, "general.architecture", arch);
    w->n_kv++;
    key(w, "block_count", GGUF_U32, LAYERS);
    key(w, "context_length", GGUF_U32, 512);
    key(w, "embedding_length", GGUF_U32, DIM);
    key(w, "feed_forward_length", GGUF_U32, FFN);
    key(w, "attention.head_count", GGUF_U32, HEADS);
    key(w, "attention.head_count_kv", GGUF_U32, HEADS_KV);
    key(w, "attention.layer_norm_rms_epsilon", GGUF_F32, f32_bits(1e-5f));
    key(w, "attention.key_length", GGUF_U32, HEAD);
    key(w, "attention.value_length", GGUF_U32, HEAD);
    key(w, "rope.freq_base", GGUF_F32, f32_bits(10000));
    key(w, "rope.dimension_count", GGUF_U32, ROT);
    key(w, "vocab_size", GGUF_ARR, 0); // these are absent unless a twist sets them
    key(w, "rope.scaling.type", GGUF_ARR, 0);
    key(w, "rope.scaling.factor", GGUF_ARR, 0);
    key(w, "expert_count", GGUF_ARR, 0);
    key(w, "attention.causal", GGUF_ARR, 0);
    key(w, "attention.sliding_window", GGUF_ARR, 0);
    key(w, "attention.sliding_window_pattern", GGUF_ARR, 0);
    uint64_t n = w->t->n_token ? w->t->n_token : VOCAB;
    make_arr(&w->b, "tokenizer.ggml.tokens", GGUF_STR, n);
    for (uint64_t i = 0; i < n; i++)
        make_bytes(&w->b, "t", 1);
    w->n_kv++;
}

static void write_tensors(struct writer *w)
{
    bool gemma = strcmp(w->arch, "gemma3") == 0;
    tensor(w, "token_embd.weight", VOCAB, DIM);
    tensor(w, "output_norm.weight", DIM, 0);
    if (!gemma) tensor(w, "output.weight", VOCAB, DIM);
    for (int i = 0; i < LAYERS; i++) {
        layer_tensor(w, i, "attn_norm.weight", DIM, 0);
        layer_tensor(w, i, "attn_q.weight", HEADS * HEAD, DIM);
        layer_tensor(w, i, "attn_k.weight", HEADS_KV * HEAD, DIM);
        layer_tensor(w, i, "attn_v.weight", HEADS_KV * HEAD, DIM);
        layer_tensor(w, i, "attn_output.weight", DIM, HEADS * HEAD);
        layer_tensor(w, i, "ffn_norm.weight", DIM, 0);
        layer_tensor(w, i, "ffn_gate.weight", FFN, DIM);
        layer_tensor(w, i, "ffn_up.weight", FFN, DIM);
        layer_tensor(w, i, "ffn_down.weight", DIM, FFN);
        if (!gemma) continue;
        layer_tensor(w, i, "attn_q_norm.weight", HEAD, 0);
        layer_tensor(w, i, "attn_k_norm.weight", HEAD, 0);
        layer_tensor(w, i, "post_attention_norm.weight", DIM, 0);
        layer_tensor(w, i, "post_ffw_norm.weight", DIM, 0);
    }
    if (w->t->extra) tensor(w, w->t->extra, w->t->extra_dim, 0);
}

static void write_model(const char *arch, const struct twist *t, char *path, size_t size)
{
    struct writer w = {.t = t, .arch = arch};
    make_head(&w.b, 3, 0, 0);
    write_keys(&w);
    write_tensors(&w);
    make_pad(&w.b, 32);
    for (uint64_t i = 0; i < w.offset; i++)
        buf_char(&w.b, 0);
    memcpy(w.b.data + 8, &w.n_tensor, 8); // the tests run on little-endian machines
    memcpy(w.b.data + 16, &w.n_kv, 8);
    make_file(&w.b, path, size);
    buf_fini(&w.b);
}

static struct model *opened(const char *arch, const struct twist *t)
{
    char path[64];
    struct model *m = NULL;
    struct err_text why = {{0}};
    write_model(arch, t, path, sizeof path);
    if (model_open(path, &m, &why)) fail_msg("%s", why.s);
    unlink(path);
    return m;
}

static void refused(const char *arch, const struct twist *t, const char *needle)
{
    char path[64];
    struct model *m = (struct model *)(uintptr_t)1;
    struct err_text why = {{0}};
    write_model(arch, t, path, sizeof path);
    err_t e = model_open(path, &m, &why);
    if (e != ERR_MODEL || !strstr(why.s, needle) || !strstr(why.s, path))
        fail_msg("error %d: '%s', expected '%s'", e, why.s, needle);
    assert_ptr_equal(m, (void *)(uintptr_t)1);
    unlink(path);
}

static void reads_a_llama(void **state)
{
    (void)state;
    struct model *m =
        opened("llama", &(struct twist){.extra = "rope_freqs.weight", .extra_dim = 2});
    const struct model_shape *s = &m->shape;
    assert_string_equal(s->arch, "llama");
    assert_non_null(strstr(s->name, "trireme-gguf-"));
    assert_int_equal(s->n_layer, LAYERS);
    assert_int_equal(s->dim, DIM);
    assert_int_equal(s->ffn_dim, FFN);
    assert_int_equal(s->n_vocab, VOCAB);
    assert_int_equal(s->ctx_train, 512);
    assert_int_equal(s->n_head, HEADS);
    assert_int_equal(s->n_head_kv, HEADS_KV);
    assert_int_equal(s->head_dim, HEAD);
    assert_float_equal(s->attn_scale, 1 / sqrtf(HEAD), 1e-7);
    assert_float_equal(s->embed_scale, 1, 0);
    assert_int_equal(s->rope.n_rot, ROT);
    assert_int_equal(s->window, 0);
    assert_false(s->tied_head);
    assert_int_equal(m->n_weight, 3 + 9 * LAYERS + 1);
    assert_int_equal(model_part_bytes(m, PART_EMBED), 4 * VOCAB * DIM);
    assert_int_equal(model_part_bytes(m, PART_HEAD), 4 * (VOCAB * DIM + DIM));
    assert_int_equal(model_part_bytes(m, PART_SHARED), 4 * ROT / 2);
    assert_int_equal(model_part_bytes(m, 1), 4 * (2 * DIM + 2 * DIM * HEADS * HEAD +
                                                  2 * DIM * HEADS_KV * HEAD + 3 * DIM * FFN));
    assert_int_equal(model_part_bytes(m, LAYERS), 0);
    assert_int_equal(model_kv_bytes(m, 0, 2), 2 * 2 * HEADS_KV * HEAD);
    assert_int_equal(model_state_bytes(m, 0), 0);
    assert_int_equal(model_expert_bytes(m, 0), 0);
    for (int32_t i = 0; i < m->n_weight; i++)
        assert_ptr_equal(model_weight_find(m, m->weights[i].part, m->weights[i].slot),
                         &m->weights[i]);
    const struct model_weight *w = model_weight_find(m, 1, SLOT_ATTN_K);
    assert_int_equal(w->part, 1);
    assert_int_equal(w->rows, HEADS_KV * HEAD);
    assert_int_equal(w->cols, DIM);
    assert_string_equal(w->sources[0].main->name, "blk.1.attn_k.weight");
    assert_null(model_weight_find(m, 2, SLOT_ATTN_K));
    assert_null(model_weight_find(m, 1, SLOT_ATTN_SINKS));
    model_close(m);
}

static void reads_a_gemma3(void **state)
{
    (void)state;
    struct model *m = opened(
        "gemma3", &(struct twist){.key = "attention.sliding_window", .type = GGUF_U32, .bits = 16});
    const struct model_shape *s = &m->shape;
    assert_float_equal(s->embed_scale, sqrtf(DIM), 1e-6);
    assert_int_equal(s->window, 16);
    assert_int_equal(s->layers[0].is_local, 1);
    assert_int_equal(s->layers[1].is_local, 1);
    assert_float_equal(s->rope_local.theta, 10000, 0);
    assert_true(s->tied_head);
    assert_int_equal(model_part_bytes(m, PART_HEAD), 4 * (VOCAB * DIM + DIM));
    model_close(m);
    m = opened("gemma3", &(struct twist){
                             .key = "rope.scaling.factor", .type = GGUF_F32, .bits = f32_bits(8)});
    assert_float_equal(m->shape.rope.freq_scale, 0.125, 0);
    assert_float_equal(m->shape.rope_local.freq_scale, 1, 0);
    assert_int_equal(m->shape.layers[0].is_local, 0); // no window, no local layers
    model_close(m);
}

static void takes_numbers_of_other_types(void **state)
{
    (void)state;
    static const struct twist same[] = {
        {.key = "block_count", .type = GGUF_U64, .bits = LAYERS},
        {.key = "embedding_length", .type = GGUF_U8, .bits = DIM},
        {.key = "attention.head_count_kv", .type = GGUF_I32, .bits = HEADS_KV},
        {.key = "vocab_size", .type = GGUF_U32, .bits = VOCAB},
        {.key = "rope.freq_base", .type = GGUF_F64, .bits = 0x40c3880000000000},
        {.key = "expert_count", .type = GGUF_U32, .bits = 0},
        {.key = "block_count", .type = GGUF_F32, .bits = 0x40000000}, // 2.0
        {.key = "attention.causal", .type = GGUF_BOOL, .bits = 1},
        {.extra = "unknown.weight", .extra_dim = 8}, // of no use, not an error
        {.extra = "blk.1.unknown", .extra_dim = 8},
        {.extra = "blk.x.attn_q.weight", .extra_dim = 8},
        {.extra = "blk.01.attn_q.weight", .extra_dim = 8},
    };
    log_set_level(LOG_ERROR);
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        struct model *m = opened("llama", &same[i]);
        assert_int_equal(m->shape.n_layer, LAYERS);
        assert_int_equal(m->n_weight, 3 + 9 * LAYERS);
        assert_float_equal(m->shape.rope.theta, 10000, 0);
        model_close(m);
    }
    log_set_level(LOG_INFO);
    // GGML's defaults for what is not said.
    struct model *m =
        opened("llama", &(struct twist){.key = "rope.dimension_count", .type = GGUF_ARR});
    assert_int_equal(m->shape.rope.n_rot, HEAD);
    model_close(m);
    m = opened("llama", &(struct twist){.tensor = "output.weight"});
    assert_true(m->shape.tied_head);
    model_close(m);
    m = opened(
        "llama",
        &(struct twist){.key = "rope.scaling.type", .type = GGUF_STR, .bits = (uintptr_t) "none"});
    assert_float_equal(m->shape.rope.freq_scale, 1, 0);
    model_close(m);
}

static void m11_contradictory_numbers(void **state)
{
    (void)state;
    static const struct {
        struct twist t;
        const char *needle;
    } cases[] = {
        {{.key = "block_count", .type = GGUF_U32, .bits = 1000000},
         "found 1000000, allowed 1 to 512"},
        {{.key = "block_count", .type = GGUF_U32, .bits = 0}, "found 0, allowed 1 to 512"},
        {{.key = "block_count", .type = GGUF_ARR}, "key 'llama.block_count' is missing"},
        {{.key = "block_count", .type = GGUF_F32}, "found 0, allowed 1 to 512"},
        {{.key = "block_count", .type = GGUF_I32, .bits = 0xffffffff},
         "found -1, allowed 1 to 512"},
        {{.key = "block_count", .type = GGUF_U32, .bits = 3},
         "tensor 'blk.2.attn_norm.weight' is missing"},
        {{.key = "block_count", .type = GGUF_U32, .bits = 1}, "is of layer 1, allowed 0 to 0"},
        {{.key = "embedding_length", .type = GGUF_U32, .bits = 64},
         "tensor 'output_norm.weight': shape (32), expected (64)"},
        {{.key = "embedding_length", .type = GGUF_U32, .bits = 1 << 30}, "allowed 1 to 1048576"},
        {{.key = "feed_forward_length", .type = GGUF_U32, .bits = 60},
         "shape (64, 32), expected (60, 32)"},
        {{.key = "context_length", .type = GGUF_ARR}, "key 'llama.context_length' is missing"},
        {{.key = "attention.head_count", .type = GGUF_U32, .bits = 0}, "found 0, allowed 1 to"},
        {{.key = "attention.head_count", .type = GGUF_U32, .bits = 5},
         "5 heads are not a multiple of 2 key/value heads"},
        {{.key = "attention.head_count_kv", .type = GGUF_U32, .bits = 3},
         "4 heads are not a multiple of 3 key/value heads"},
        {{.key = "attention.head_count_kv", .type = GGUF_U32, .bits = 0}, "found 0, allowed 1 to"},
        {{.key = "attention.key_length", .type = GGUF_U32, .bits = 16},
         "key length 16 differs from value length 8"},
        {{.key = "attention.value_length", .type = GGUF_U32, .bits = 4},
         "differs from value length 4"},
        {{.key = "attention.layer_norm_rms_epsilon", .type = GGUF_F32, .bits = 0},
         "found 0, allowed finite"},
        {{.key = "attention.layer_norm_rms_epsilon", .type = GGUF_F32, .bits = 0x7fc00000},
         "found nan"},
        {{.key = "attention.layer_norm_rms_epsilon", .type = GGUF_F32, .bits = 0x7f800000},
         "found inf"},
        {{.key = "attention.layer_norm_rms_epsilon", .type = GGUF_F32, .bits = 0xbf800000},
         "found -1"},
        {{.key = "attention.layer_norm_rms_epsilon", .type = GGUF_ARR}, "is missing"},
        {{.key = "rope.freq_base", .type = GGUF_F32, .bits = 0},
         "key 'llama.rope.freq_base': found 0"},
        {{.key = "rope.freq_base", .type = GGUF_F32, .bits = 0x7fc00000}, "found nan"},
        {{.key = "rope.freq_base", .type = GGUF_F64, .bits = 0x7fe0000000000000},
         "found 8.98847e+307"},
        {{.key = "rope.dimension_count", .type = GGUF_U32, .bits = 3}, "found 3, allowed even"},
        {{.key = "rope.dimension_count", .type = GGUF_U32, .bits = 10}, "found 10, allowed 1 to 8"},
        {{.key = "rope.scaling.type", .type = GGUF_STR, .bits = (uintptr_t) "dynamic"},
         "found 'dynamic', allowed none, default, linear"},
        {{.key = "rope.scaling.factor", .type = GGUF_F32, .bits = 0}, "found 0, allowed finite"},
        {{.key = "vocab_size", .type = GGUF_U32, .bits = 25},
         "found 25, the embedding has 24 rows"},
        {{.n_token = 23}, "23 tokens, the embedding has 24 rows"},
        {{.key = "expert_count", .type = GGUF_U32, .bits = 8},
         "key 'llama.expert_used_count' is missing"},
        {{.key = "expert_count", .type = GGUF_U32, .bits = 5000}, "found 5000, allowed 0 to 4096"},
        {{.key = "attention.causal", .type = GGUF_BOOL, .bits = 0}, "false, allowed true"},
        {{.arch = "bloom"}, "found 'bloom', allowed llama qwen2 qwen3"},
        {{.arch = "../../etc\nx"}, "found '../../etc\\x0ax', allowed"},
        {{.arch = ""}, "found '', allowed"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused("llama", &cases[i].t, cases[i].needle);
}

static void m11_two_keys_that_disagree(void **state)
{
    (void)state;
    refused("llama",
            &(struct twist){.key = "attention.key_length",
                            .type = GGUF_U32,
                            .bits = 7,
                            .key2 = "attention.value_length",
                            .type2 = GGUF_U32,
                            .bits2 = 7},
            "heads of 7 elements, allowed even numbers");
    refused("llama",
            &(struct twist){.key = "attention.key_length",
                            .type = GGUF_ARR,
                            .key2 = "embedding_length",
                            .type2 = GGUF_U32,
                            .bits2 = 33},
            "embedding length 33 is not a multiple of 4 heads");
    refused("gemma3",
            &(struct twist){.key = "attention.sliding_window",
                            .type = GGUF_U32,
                            .bits = 8,
                            .key2 = "attention.sliding_window_pattern",
                            .type2 = GGUF_F32,
                            .bits2 = 0x3f000000},
            "sliding_window_pattern': found 0.5, allowed 0 to 512");
    struct model *m = opened("gemma3", &(struct twist){.key = "attention.sliding_window",
                                                       .type = GGUF_U32,
                                                       .bits = 8,
                                                       .key2 = "attention.sliding_window_pattern",
                                                       .type2 = GGUF_U32,
                                                       .bits2 = 2});
    assert_int_equal(m->shape.layers[0].is_local, 1);
    assert_int_equal(m->shape.layers[1].is_local, 0);
    model_close(m);
}

static void m11_tensors(void **state)
{
    (void)state;
    static const struct {
        const char *arch;
        struct twist t;
        const char *needle;
    } cases[] = {
        {"llama", {.tensor = "token_embd.weight"}, "tensor 'token_embd.weight' is missing"},
        {"llama", {.tensor = "output_norm.weight"}, "tensor 'output_norm.weight' is missing"},
        {"llama", {.tensor = "blk.1.ffn_down.weight"}, "tensor 'blk.1.ffn_down.weight' is missing"},
        {"gemma3",
         {.tensor = "blk.0.attn_q_norm.weight"},
         "tensor 'blk.0.attn_q_norm.weight' is missing"},
        {"gemma3",
         {.tensor = "blk.1.post_ffw_norm.weight"},
         "tensor 'blk.1.post_ffw_norm.weight' is"},
        {"llama",
         {.tensor = "blk.0.attn_q.weight", .dims = {32, 16}},
         "tensor 'blk.0.attn_q.weight': shape (16, 32), expected (32, 32)"},
        {"llama",
         {.tensor = "blk.0.attn_q.weight", .dims = {1024}},
         "shape (1024), expected (32, 32)"},
        {"llama",
         {.tensor = "blk.0.attn_norm.weight", .dims = {32, 2}},
         "shape (2, 32), expected (32)"},
        {"llama",
         {.tensor = "output.weight", .dims = {32, 25}},
         "shape (25, 32), expected (24, 32)"},
        {"llama",
         {.tensor = "token_embd.weight", .dims = {768}},
         "tensor 'token_embd.weight': 1 dim"},
        {"llama",
         {.tensor = "blk.0.ffn_norm.weight", .dims = {32}, .ggml_type = 8},
         "type Q8_0, allowed F32 F16 BF16 F64"},
        {"llama",
         {.tensor = "blk.1.ffn_up.weight", .dims = {32, 64}, .ggml_type = 26},
         "tensor 'blk.1.ffn_up.weight': type I32"},
        {"llama",
         {.extra = "blk.2.attn_norm.weight", .extra_dim = 32},
         "is of layer 2, allowed 0 to 1"},
        {"llama", {.extra = "blk.99999999999.x", .extra_dim = 32}, "allowed 0 to 1"},
        {"llama",
         {.extra = "blk.1.ffn_up.bias", .extra_dim = 64},
         "'blk.1.ffn_up.bias' is part of the model"},
        {"llama", {.extra = "blk.1.attn_q.bias", .extra_dim = 31}, "shape (31), expected (32)"},
        {"llama", {.extra = "rope_freqs.weight", .extra_dim = 4}, "shape (4), expected (2)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused(cases[i].arch, &cases[i].t, cases[i].needle);
}

// ---- real files

static const char *folder(const char *variable, const char *otherwise)
{
    const char *dir = getenv(variable);
    return dir ? dir : otherwise;
}

static struct model *real(const char *file)
{
    char path[512];
    struct model *m = NULL;
    struct err_text why;
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", folder("TRIREME_MODELS", "build/models"), file);
    if (stat(path, &st)) {
        print_message("SKIPPED: no %s (set TRIREME_MODELS)\n", path);
        skip();
    }
    if (model_open(path, &m, &why)) fail_msg("%s", why.s);
    return m;
}

static void reads_smollm2(void **state)
{
    (void)state;
    struct model *m = real("SmolLM2-135M-Instruct.Q4_1.gguf");
    const struct model_shape *s = &m->shape;
    assert_int_equal(s->n_layer, 30);
    assert_int_equal(s->dim, 576);
    assert_int_equal(s->ffn_dim, 1536);
    assert_int_equal(s->n_vocab, 49152);
    assert_int_equal(s->n_head, 9);
    assert_int_equal(s->n_head_kv, 3);
    assert_int_equal(s->head_dim, 64);
    assert_int_equal(s->rope.n_rot, 64);
    assert_float_equal(s->rope.theta, 100000, 0);
    assert_true(s->tied_head);
    assert_int_equal(model_part_bytes(m, PART_EMBED), 30081024);
    model_close(m);
}

static void reads_gemma3_270m(void **state)
{
    (void)state;
    struct model *m = real("gemma-3-270m-q4_k_m.gguf");
    const struct model_shape *s = &m->shape;
    assert_int_equal(s->n_layer, 18);
    assert_int_equal(s->head_dim, 256);
    assert_int_equal(s->window, 512);
    assert_float_equal(s->rope.theta, 1e6, 0);
    assert_float_equal(s->rope_local.theta, 1e4, 0);
    assert_float_equal(s->attn_scale, 1.0 / 16, 0);
    assert_float_equal(s->embed_scale, 25.298221, 1e-5);
    for (int i = 0; i < 18; i++)
        assert_int_equal(s->layers[i].is_local, i % 6 != 5);
    model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_a_llama),
        cmocka_unit_test(reads_a_gemma3),
        cmocka_unit_test(takes_numbers_of_other_types),
        cmocka_unit_test(m11_contradictory_numbers),
        cmocka_unit_test(m11_two_keys_that_disagree),
        cmocka_unit_test(m11_tensors),
        cmocka_unit_test(reads_smollm2),
        cmocka_unit_test(reads_gemma3_270m),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
