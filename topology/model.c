#include "topology/model.h"

#include "proto/base/buf.h"
#include "proto/base/log.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- what an architecture's file must hold

enum dim { D_NONE, D_VOCAB, D_DIM, D_FFN, D_Q, D_KV, D_HEAD, D_HALF_ROT, D_COUNT };
enum kind { MATRIX, NORM };
enum need { REQUIRED, OPTIONAL, REFUSED }; // refused: it would change the result, nobody applies it
enum { PART_LAYER = 0 };                   // of a row: named blk.N.*, part N

struct row {
    const char *name; // after "blk.N." where part is PART_LAYER
    int32_t part;
    enum need need;
    enum kind kind;
    enum dim shape[2]; // rows, cols; one dimension: {n, D_NONE}
};

struct opening {
    struct model *m;
    struct model_shape *s;
    const struct gguf *g;
    struct err_text *why;
    int64_t dims[D_COUNT];
};

struct arch {
    const char *name;
    const struct row *rows;
    int32_t n_row;
    err_t (*numbers)(struct opening *o);
};

static err_t llama_numbers(struct opening *o);
static err_t gemma3_numbers(struct opening *o);

#define COMMON_ROWS                                                                                \
    {"token_embd.weight", PART_EMBED, REQUIRED, MATRIX, {D_VOCAB, D_DIM}},                         \
        {"output_norm.weight", PART_HEAD, REQUIRED, NORM, {D_DIM}},                                \
        {"output.weight", PART_HEAD, OPTIONAL, MATRIX, {D_VOCAB, D_DIM}},                          \
        {"attn_norm.weight", PART_LAYER, REQUIRED, NORM, {D_DIM}},                                 \
        {"attn_q.weight", PART_LAYER, REQUIRED, MATRIX, {D_Q, D_DIM}},                             \
        {"attn_k.weight", PART_LAYER, REQUIRED, MATRIX, {D_KV, D_DIM}},                            \
        {"attn_v.weight", PART_LAYER, REQUIRED, MATRIX, {D_KV, D_DIM}},                            \
        {"attn_output.weight", PART_LAYER, REQUIRED, MATRIX, {D_DIM, D_Q}},                        \
        {"ffn_norm.weight", PART_LAYER, REQUIRED, NORM, {D_DIM}},                                  \
        {"ffn_gate.weight", PART_LAYER, REQUIRED, MATRIX, {D_FFN, D_DIM}},                         \
        {"ffn_up.weight", PART_LAYER, REQUIRED, MATRIX, {D_FFN, D_DIM}},                           \
    {                                                                                              \
        "ffn_down.weight", PART_LAYER, REQUIRED, MATRIX,                                           \
        {                                                                                          \
            D_DIM, D_FFN                                                                           \
        }                                                                                          \
    }

static const struct row llama_rows[] = {
    COMMON_ROWS,
    {"rope_freqs.weight", PART_SHARED, OPTIONAL, NORM, {D_HALF_ROT}},
    {"attn_q.bias", PART_LAYER, REFUSED, NORM, {D_Q}},
    {"attn_k.bias", PART_LAYER, REFUSED, NORM, {D_KV}},
    {"attn_v.bias", PART_LAYER, REFUSED, NORM, {D_KV}},
    {"attn_output.bias", PART_LAYER, REFUSED, NORM, {D_DIM}},
    {"ffn_gate.bias", PART_LAYER, REFUSED, NORM, {D_FFN}},
    {"ffn_up.bias", PART_LAYER, REFUSED, NORM, {D_FFN}},
    {"ffn_down.bias", PART_LAYER, REFUSED, NORM, {D_DIM}},
};
static const struct row gemma3_rows[] = {
    COMMON_ROWS,
    {"attn_q_norm.weight", PART_LAYER, REQUIRED, NORM, {D_HEAD}},
    {"attn_k_norm.weight", PART_LAYER, REQUIRED, NORM, {D_HEAD}},
    {"post_attention_norm.weight", PART_LAYER, REQUIRED, NORM, {D_DIM}},
    {"post_ffw_norm.weight", PART_LAYER, REQUIRED, NORM, {D_DIM}},
};

#define N_OF(a) ((int32_t)(sizeof(a) / sizeof *(a)))
static const struct arch archs[] = {
    {"llama", llama_rows, N_OF(llama_rows), llama_numbers},
    {"gemma3", gemma3_rows, N_OF(gemma3_rows), gemma3_numbers},
};

// ---- sentences and keys

__attribute__((format(printf, 2, 3))) static err_t fail(const struct opening *o, const char *fmt,
                                                        ...)
{
    char msg[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    const char *path = gguf_path(o->g);
    size_t len = strlen(path), tail = len > 80 ? len - 80 : 0;
    return err_say(o->why, ERR_MODEL, "%s: %s", path + tail, msg);
}

struct key {
    char s[96];
};

static struct key key_of(const struct opening *o, const char *name)
{
    struct key k;
    snprintf(k.s, sizeof k.s, "%s.%s", o->s->arch, name);
    return k;
}

// One number, or an array of the same number for each layer. ERR_NOT_FOUND if absent.
static err_t get_uniform(const struct opening *o, const char *key, uint32_t *out)
{
    const struct gguf_kv *kv = gguf_find(o->g, key);
    if (!kv || kv->type != GGUF_ARR) return gguf_get_u32(o->g, key, out, o->why);
    if (kv->n < 1 || kv->n > MODEL_LAYERS_MAX)
        return fail(o, "key '%s': array of %llu numbers, allowed 1 to %d", key,
                    (unsigned long long)kv->n, MODEL_LAYERS_MAX);
    const int32_t *v;
    uint64_t n;
    err_t e = gguf_get_i32s(o->g, key, &o->m->arena, &v, &n, o->why);
    if (e) return e;
    for (uint64_t i = 1; i < n; i++)
        if (v[i] != v[0])
            return fail(o, "key '%s': %d in layer 0 but %d in layer %llu, allowed one for all", key,
                        v[0], v[i], (unsigned long long)i);
    if (v[0] < 0) return fail(o, "key '%s': found %d, allowed 0 and above", key, v[0]);
    *out = (uint32_t)v[0];
    return OK;
}

// `otherwise` < 0: the key is required.
static err_t get_count(const struct opening *o, const char *name, int32_t max, int32_t otherwise,
                       int32_t *out)
{
    struct key k = key_of(o, name);
    uint32_t v;
    err_t e = get_uniform(o, k.s, &v);
    if (e == ERR_NOT_FOUND) {
        if (otherwise < 0) return fail(o, "key '%s' is missing", k.s);
        *out = otherwise;
        return OK;
    }
    if (e) return e;
    if (v < 1 || v > (uint32_t)max)
        return fail(o, "key '%s': found %u, allowed 1 to %d", k.s, v, max);
    *out = (int32_t)v;
    return OK;
}

// A finite number above 0. `otherwise` < 0: the key is required.
static err_t get_positive(const struct opening *o, const char *name, float otherwise, float *out)
{
    struct key k = key_of(o, name);
    float v;
    err_t e = gguf_get_f32(o->g, k.s, &v, o->why);
    if (e == ERR_NOT_FOUND) {
        if (otherwise < 0) return fail(o, "key '%s' is missing", k.s);
        *out = otherwise;
        return OK;
    }
    if (e) return e;
    if (!isfinite(v) || v <= 0)
        return fail(o, "key '%s': found %g, allowed finite numbers above 0", k.s, (double)v);
    *out = v;
    return OK;
}

static bool str_is(struct gguf_str s, const char *with)
{
    return s.len == strlen(with) && memcmp(s.s, with, s.len) == 0;
}

// ---- numbers

static err_t rope_numbers(struct opening *o)
{
    struct model_shape *s = o->s;
    float theta, factor, attn;
    err_t e = get_count(o, "rope.dimension_count", s->head_dim, s->head_dim, &s->rope.n_rot);
    if (e || (e = get_positive(o, "rope.freq_base", 10000, &theta))) return e;
    if (s->rope.n_rot % 2)
        return fail(o, "key '%s': found %d, allowed even numbers",
                    key_of(o, "rope.dimension_count").s, s->rope.n_rot);
    if ((e = get_positive(o, "rope.scale_linear", 1, &factor))) return e; // name of old files
    if ((e = get_positive(o, "rope.scaling.factor", factor, &factor))) return e;
    if ((e = get_positive(o, "rope.scaling.attn_factor", 1, &attn))) return e;
    struct key k = key_of(o, "rope.scaling.type");
    struct gguf_str type = {"linear", 6};
    e = gguf_get_str(o->g, k.s, &type, o->why);
    if (e && e != ERR_NOT_FOUND) return e;
    if (str_is(type, "none"))
        factor = 1;
    else if (!str_is(type, "linear"))
        return fail(o, "key '%s': found '%.*s', allowed none, linear", k.s,
                    (int)(type.len > 32 ? 32 : type.len), type.s);
    s->rope.theta = (double)theta;
    s->rope.freq_scale = 1 / (double)factor;
    s->rope.attn_factor = (double)attn;
    s->rope_local = s->rope;
    return OK;
}

static err_t head_numbers(struct opening *o)
{
    struct model_shape *s = o->s;
    int32_t value_dim;
    err_t e = get_count(o, "attention.head_count", 65536, -1, &s->n_head);
    if (e || (e = get_count(o, "attention.head_count_kv", 65536, s->n_head, &s->n_head_kv)))
        return e;
    if (s->n_head % s->n_head_kv)
        return fail(o, "%d heads are not a multiple of %d key/value heads", s->n_head,
                    s->n_head_kv);
    bool has_key = gguf_find(o->g, key_of(o, "attention.key_length").s) != NULL;
    if (!has_key && s->dim % s->n_head)
        return fail(o, "embedding length %d is not a multiple of %d heads", s->dim, s->n_head);
    int32_t even_share = s->dim >= s->n_head ? s->dim / s->n_head : 1;
    if ((e = get_count(o, "attention.key_length", 4096, even_share, &s->head_dim))) return e;
    if ((e = get_count(o, "attention.value_length", 4096, s->head_dim, &value_dim))) return e;
    if (value_dim != s->head_dim)
        return fail(o, "key length %d differs from value length %d, allowed equal ones",
                    s->head_dim, value_dim);
    if (s->head_dim % 2 || s->head_dim > 4096)
        return fail(o, "heads of %d elements, allowed even numbers up to 4096", s->head_dim);
    return OK;
}

static err_t vocab_numbers(struct opening *o)
{
    const struct gguf_tensor *t = gguf_tensor_find(o->g, "token_embd.weight");
    if (!t) return fail(o, "tensor 'token_embd.weight' is missing");
    if (t->n_dim != 2 || t->shape[0] > 1 << 24)
        return fail(o,
                    "tensor 'token_embd.weight': %d dimensions, the first %lld, allowed 2 and "
                    "up to %d",
                    t->n_dim, (long long)t->shape[0], 1 << 24);
    o->s->n_vocab = (int32_t)t->shape[0];
    o->s->tied_head = !gguf_tensor_find(o->g, "output.weight");
    const struct gguf_kv *tokens = gguf_find(o->g, "tokenizer.ggml.tokens");
    if (tokens && (tokens->type != GGUF_ARR || tokens->elem != GGUF_STR))
        return fail(o, "key 'tokenizer.ggml.tokens' is not an array of strings");
    if (tokens && tokens->n != (uint64_t)o->s->n_vocab)
        return fail(o, "key 'tokenizer.ggml.tokens': %llu tokens, the embedding has %d rows",
                    (unsigned long long)tokens->n, o->s->n_vocab);
    int32_t said;
    err_t e = get_count(o, "vocab_size", INT32_MAX, o->s->n_vocab, &said);
    if (e) return e;
    if (said != o->s->n_vocab)
        return fail(o, "key '%s': found %d, the embedding has %d rows", key_of(o, "vocab_size").s,
                    said, o->s->n_vocab);
    return OK;
}

static err_t refuse_if_set(const struct opening *o, const char *name, const char *what)
{
    struct key k = key_of(o, name);
    uint32_t v = 0;
    err_t e = gguf_get_u32(o->g, k.s, &v, o->why);
    if (e == ERR_NOT_FOUND) return OK;
    if (e) return e;
    return v ? fail(o, "key '%s': found %u, %s", k.s, v, what) : OK;
}

static err_t common_numbers(struct opening *o)
{
    struct model_shape *s = o->s;
    bool causal = true;
    err_t e = get_count(o, "block_count", MODEL_LAYERS_MAX, -1, &s->n_layer);
    if (e || (e = get_count(o, "embedding_length", 1 << 20, -1, &s->dim))) return e;
    if ((e = get_count(o, "feed_forward_length", 1 << 22, -1, &s->ffn_dim))) return e;
    if ((e = get_count(o, "context_length", 1 << 30, -1, &s->ctx_train))) return e;
    if ((e = get_positive(o, "attention.layer_norm_rms_epsilon", -1, &s->norm_eps))) return e;
    if ((e = refuse_if_set(o, "expert_count", "mixtures of experts cannot be run yet"))) return e;
    e = gguf_get_bool(o->g, key_of(o, "attention.causal").s, &causal, o->why);
    if (e && e != ERR_NOT_FOUND) return e;
    if (!causal) return fail(o, "key '%s': false, allowed true", key_of(o, "attention.causal").s);
    if ((e = head_numbers(o)) || (e = rope_numbers(o)) || (e = vocab_numbers(o))) return e;
    s->attn_scale = (float)(1 / sqrt((double)s->head_dim));
    s->embed_scale = 1;
    return OK;
}

static err_t llama_numbers(struct opening *o)
{
    return common_numbers(o);
}

// Which layers use the window: every n-th layer does not (default 6), or one flag per layer.
static err_t gemma3_pattern(struct opening *o)
{
    struct key k = key_of(o, "attention.sliding_window_pattern");
    const struct gguf_kv *kv = gguf_find(o->g, k.s);
    if (kv && kv->type == GGUF_ARR) {
        if (kv->elem != GGUF_BOOL || kv->n != (uint64_t)o->s->n_layer)
            return fail(o, "key '%s': an array of %llu elements, allowed %d booleans", k.s,
                        (unsigned long long)kv->n, o->s->n_layer);
        memcpy(o->s->is_local, kv->data, (size_t)o->s->n_layer);
        return OK;
    }
    int32_t every;
    err_t e = get_count(o, "attention.sliding_window_pattern", MODEL_LAYERS_MAX, 6, &every);
    if (e) return e;
    for (int32_t i = 0; i < o->s->n_layer; i++)
        o->s->is_local[i] = i % every != every - 1;
    return OK;
}

// Gemma 3 report (arXiv 2503.19786) and its reference code.
static err_t gemma3_numbers(struct opening *o)
{
    enum { LAYERS_27B = 62 };
    struct model_shape *s = o->s;
    float theta;
    err_t e = common_numbers(o);
    if (e || (e = get_count(o, "attention.sliding_window", 1 << 30, 0, &s->window))) return e;
    if (s->window && (e = gemma3_pattern(o))) return e;
    if ((e = get_positive(o, "rope.freq_base_swa", 10000, &theta))) return e;
    if ((e = get_positive(o, "final_logit_softcapping", 0, &s->logit_softcap))) return e;
    s->rope_local.theta = (double)theta;
    s->rope_local.freq_scale = 1; // position scaling is for the global layers only
    s->embed_scale = (float)sqrt((double)s->dim);
    // The largest was trained with another scale, and no key of the file says so.
    if (s->n_layer == LAYERS_27B) s->attn_scale = (float)(1 / sqrt((double)s->dim / s->n_head));
    return OK;
}

// ---- tensors

static bool may_be_matrix(enum dtype t)
{
    return t == DT_F32 || t == DT_F16 || t == DT_BF16 || dtype_info(t)->is_quantised;
}

// Layer of "blk.N.rest", and the rest; -1 and the name itself if it is not of that form.
static int32_t layer_of(struct gguf_str name, struct gguf_str *rest)
{
    *rest = name;
    if (name.len < 6 || memcmp(name.s, "blk.", 4)) return -1;
    uint64_t i = 4;
    int32_t n = 0;
    for (; i < name.len && name.s[i] >= '0' && name.s[i] <= '9'; i++)
        n = n < 100000 ? n * 10 + (name.s[i] - '0') : n;
    if (i == 4 || i >= name.len || name.s[i] != '.' || (name.s[4] == '0' && i > 5)) return -1;
    *rest = (struct gguf_str){name.s + i + 1, name.len - i - 1};
    return n;
}

static const struct row *row_of(const struct arch *a, struct gguf_str name, int32_t layer)
{
    for (int32_t i = 0; i < a->n_row; i++)
        if ((a->rows[i].part == PART_LAYER) == (layer >= 0) && str_is(name, a->rows[i].name))
            return &a->rows[i];
    return NULL;
}

static void shape_words(char *dst, size_t size, const int64_t *shape, int32_t n_dim)
{
    size_t at = 0;
    for (int32_t i = 0; i < n_dim && at < size; i++)
        at += (size_t)snprintf(dst + at, size - at, "%s%lld", i ? " x " : "", (long long)shape[i]);
}

static err_t check_tensor(const struct opening *o, const struct row *row,
                          const struct gguf_tensor *t)
{
    int name_len = (int)t->name.len;
    if (row->need == REFUSED)
        return fail(o, "tensor '%.*s' is part of the model but cannot be applied yet", name_len,
                    t->name.s);
    int64_t want[2];
    int32_t n_dim = 0;
    for (; n_dim < 2 && row->shape[n_dim] != D_NONE; n_dim++)
        want[n_dim] = o->dims[row->shape[n_dim]];
    if (t->n_dim != n_dim || memcmp(t->shape, want, (size_t)n_dim * sizeof *want)) {
        char found[96], needed[48];
        shape_words(found, sizeof found, t->shape, t->n_dim);
        shape_words(needed, sizeof needed, want, n_dim);
        return fail(o, "tensor '%.*s': shape %s, allowed %s", name_len, t->name.s, found, needed);
    }
    if (row->kind == NORM ? t->dtype == DT_F32 : may_be_matrix(t->dtype)) return OK;
    struct buf list = {0};
    for (int i = DT_NONE + 1; i < DT_COUNT; i++)
        if (row->kind == NORM ? i == DT_F32 : may_be_matrix((enum dtype)i))
            buf_printf(&list, "%s%s", list.len ? " " : "", dtype_info((enum dtype)i)->name);
    err_t e = fail(o, "tensor '%.*s': type %s, allowed %s", name_len, t->name.s,
                   dtype_ggml_name(t->ggml_type), list.data ? list.data : "others");
    buf_fini(&list);
    return e;
}

static err_t no_memory(const struct opening *o)
{
    return err_say(o->why, ERR_MEMORY, "%s: no memory for its tables", o->m->path);
}

static err_t add_tensor(struct opening *o, const struct row *row, int32_t layer,
                        const struct gguf_tensor *t)
{
    err_t e = check_tensor(o, row, t);
    if (e) return e;
    struct model_tensor *mt = &o->m->tensors[o->m->n_tensor];
    mt->name = arena_copy_str(&o->m->arena, t->name.s, t->name.len);
    if (!mt->name) return no_memory(o);
    mt->dtype = t->dtype;
    mt->n_dim = t->n_dim;
    memcpy(mt->shape, t->shape, sizeof mt->shape);
    mt->part = row->part == PART_LAYER ? layer : row->part;
    mt->offset = t->offset;
    mt->bytes = t->bytes;
    o->m->n_tensor++;
    return OK;
}

static err_t check_missing(const struct opening *o, const struct arch *a, const uint8_t *seen)
{
    for (int32_t r = 0; r < a->n_row; r++) {
        bool per_layer = a->rows[r].part == PART_LAYER;
        if (a->rows[r].need != REQUIRED) continue;
        for (int32_t l = 0; l < (per_layer ? o->s->n_layer : 1); l++) {
            if (seen[r * MODEL_LAYERS_MAX + l]) continue;
            if (!per_layer) return fail(o, "tensor '%s' is missing", a->rows[r].name);
            return fail(o, "tensor 'blk.%d.%s' is missing", l, a->rows[r].name);
        }
    }
    return OK;
}

// Fills m->tensors in the order of the file, which is also the order of offsets.
static err_t take_tensors(struct opening *o, const struct arch *a)
{
    uint64_t n = gguf_n_tensor(o->g), n_unknown = 0;
    struct gguf_str rest, unknown = {0};
    uint8_t *seen = arena_take_n(&o->m->arena, (size_t)a->n_row, MODEL_LAYERS_MAX);
    o->m->tensors = arena_take_n(&o->m->arena, n, sizeof *o->m->tensors);
    if (!seen || !o->m->tensors) return no_memory(o);
    for (uint64_t i = 0; i < n; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(o->g, i);
        int32_t layer = layer_of(t->name, &rest);
        if (layer >= o->s->n_layer)
            return fail(o, "tensor '%.*s' is of layer %d, allowed 0 to %d", (int)t->name.len,
                        t->name.s, layer, o->s->n_layer - 1);
        const struct row *row = row_of(a, rest, layer);
        if (!row) {
            if (n_unknown++ == 0) unknown = t->name;
            continue;
        }
        err_t e = add_tensor(o, row, layer, t);
        if (e) return e;
        seen[(row - a->rows) * MODEL_LAYERS_MAX + (layer < 0 ? 0 : layer)] = 1;
    }
    if (n_unknown)
        log_warn("%s: %llu tensors are of no use to %s, the first is '%.*s'", gguf_path(o->g),
                 (unsigned long long)n_unknown, a->name, (int)unknown.len, unknown.s);
    return check_missing(o, a, seen);
}

// ---- the model

// One piece of a file that was cut in pieces names itself, by metadata or by file name.
static err_t refuse_split(const struct opening *o)
{
    uint32_t n = 1;
    err_t e = gguf_get_u32(o->g, "split.count", &n, o->why);
    if (e && e != ERR_NOT_FOUND) return e;
    const char *path = gguf_path(o->g), *of = strstr(path, "-of-");
    size_t len = strlen(path);
    bool named = len > 19 && of == path + len - 14 && of[-6] == '-';
    for (int i = -5; named && i < 0; i++)
        named = of[i] >= '0' && of[i] <= '9';
    if (n > 1 || named)
        return fail(o, "is one piece of a model split over several files, which cannot be read; "
                       "join them with llama-gguf-split --merge");
    return OK;
}

static err_t find_arch(struct opening *o, const struct arch **out)
{
    struct gguf_str name;
    err_t e = gguf_get_str(o->g, "general.architecture", &name, o->why);
    if (e == ERR_NOT_FOUND) return fail(o, "key 'general.architecture' is missing");
    if (e) return e;
    for (int32_t i = 0; i < N_OF(archs); i++) {
        if (!str_is(name, archs[i].name)) continue;
        snprintf(o->s->arch, sizeof o->s->arch, "%s", archs[i].name);
        *out = &archs[i];
        return OK;
    }
    char known[64] = "";
    for (int32_t i = 0; i < N_OF(archs); i++) {
        size_t at = strlen(known);
        snprintf(known + at, sizeof known - at, "%s%s", i ? ", " : "", archs[i].name);
    }
    return fail(o, "key 'general.architecture': found '%.*s', allowed %s",
                (int)(name.len > 48 ? 48 : name.len), name.s, known);
}

static void set_name(struct opening *o)
{
    struct gguf_str name;
    if (gguf_get_str(o->g, "general.name", &name, NULL) || name.len == 0) {
        const char *base = strrchr(o->m->path, '/');
        name.s = base ? base + 1 : o->m->path;
        name.len = strlen(name.s);
        if (name.len > 5 && memcmp(name.s + name.len - 5, ".gguf", 5) == 0) name.len -= 5;
    }
    size_t max = sizeof o->s->name - 1, len = name.len < max ? name.len : max;
    while (len && len < name.len && ((uint8_t)name.s[len] & 0xc0) == 0x80)
        len--; // not through the middle of a character
    for (size_t i = 0; i < len; i++)
        o->s->name[i] = (uint8_t)name.s[i] < 0x20 || name.s[i] == 0x7f ? '?' : name.s[i];
    o->s->name[len] = 0;
}

static err_t fill(struct opening *o)
{
    struct model_shape *s = o->s;
    const struct arch *a = NULL;
    err_t e = refuse_split(o);
    if (e || (e = find_arch(o, &a)) || (e = a->numbers(o))) return e;
    o->dims[D_VOCAB] = s->n_vocab;
    o->dims[D_DIM] = s->dim;
    o->dims[D_FFN] = s->ffn_dim;
    o->dims[D_Q] = (int64_t)s->n_head * s->head_dim;
    o->dims[D_KV] = (int64_t)s->n_head_kv * s->head_dim;
    o->dims[D_HEAD] = s->head_dim;
    o->dims[D_HALF_ROT] = s->rope.n_rot / 2;
    set_name(o);
    return take_tensors(o, a);
}

err_t model_open(const char *path, struct model **out, struct err_text *why)
{
    struct model *m = calloc(1, sizeof *m);
    if (!m) return err_say(why, ERR_MEMORY, "no memory for a model");
    arena_init(&m->arena, (size_t)128 << 20);
    err_t e = gguf_open(path, &m->gguf, why);
    if (!e) {
        char *real = realpath(path, NULL);
        m->path = real ? arena_copy_str(&m->arena, real, strlen(real)) : NULL;
        if (!m->path) e = err_say(why, ERR_SYSTEM, "%s: cannot resolve: %m", path);
        free(real);
    }
    struct opening o = {.m = m, .s = &m->shape, .g = m->gguf, .why = why};
    if (e || (e = fill(&o))) {
        model_close(m);
        return e;
    }
    memcpy(m->hash, gguf_hash(m->gguf), sizeof m->hash);
    *out = m;
    return OK;
}

void model_close(struct model *m)
{
    if (!m) return;
    gguf_close(m->gguf);
    arena_fini(&m->arena);
    free(m);
}

const struct model_tensor *model_tensor_find(const struct model *m, const char *name)
{
    const struct gguf_tensor *t = gguf_tensor_find(m->gguf, name);
    int32_t lo = 0, hi = m->n_tensor;
    if (!t) return NULL;
    while (lo < hi) { // offsets ascend
        int32_t mid = lo + (hi - lo) / 2;
        if (m->tensors[mid].offset < t->offset)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < m->n_tensor && m->tensors[lo].offset == t->offset ? &m->tensors[lo] : NULL;
}

uint64_t model_part_bytes(const struct model *m, int32_t part)
{
    uint64_t sum = part == PART_HEAD && m->shape.tied_head ? model_part_bytes(m, PART_EMBED) : 0;
    for (int32_t i = 0; i < m->n_tensor; i++)
        if (m->tensors[i].part == part) sum += m->tensors[i].bytes;
    return sum;
}

uint64_t model_kv_bytes(const struct model *m, uint32_t elem_bytes)
{
    return (uint64_t)2 * (uint64_t)m->shape.n_head_kv * (uint64_t)m->shape.head_dim * elem_bytes;
}
