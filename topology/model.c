#include "topology/model.h"

#include "topology/arch_weights.h"
#include "topology/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// A model and what keeps its files' tables.
struct opened {
    struct model model; // first: what callers hold
    struct tensors *tensors;
    struct quant *quant;
};

// ---- which architecture

static err_t unknown_arch(const struct opening *o, const char *key, const char *name)
{
    char known[220];
    arch_list(o->config.gguf != NULL, known, sizeof known);
    return config_fail(&o->config, "key '%s': found '%.32s', allowed %s", key, name, known);
}

static err_t find_gguf_arch(struct opening *o)
{
    struct gguf_str name;
    err_t e = gguf_get_str(o->t->gguf, "general.architecture", &name, o->why);
    if (e == ERR_NOT_FOUND) return config_fail(&o->config, "key 'general.architecture' is missing");
    if (e) return e;
    const char *s = arena_copy_str(&o->m->arena, name.s, name.len < 64 ? name.len : 64);
    if (!s) return err_say(o->why, ERR_MEMORY, "%s: no memory for its numbers", o->config.path);
    o->config.prefix = s;
    o->arch = arch_of_gguf(s);
    return o->arch ? OK : unknown_arch(o, "general.architecture", s);
}

static err_t find_hf_arch(struct opening *o)
{
    const struct json *inner = json_get(o->config.text, "model_type");
    const struct json *outer = json_get(o->config.outer, "model_type");
    const struct json *types[] = {inner, outer};
    for (int i = 0; i < 2 && !o->arch; i++)
        if (types[i] && types[i]->kind == J_STR) o->arch = arch_of_hf(types[i]->str.s);
    if (o->arch) return OK;
    const struct json *said = inner ? inner : outer;
    if (!said || said->kind != J_STR) return config_fail(&o->config, "key 'model_type' is missing");
    return unknown_arch(o, "model_type", said->str.s);
}

static err_t read_defaults(struct opening *o)
{
    const struct arch *a = o->arch;
    const char *texts[] = {a->defaults, o->config.gguf ? a->gguf_defaults : a->hf_defaults};
    for (int i = 0; i < 2; i++) {
        struct err_text why;
        if (!texts[i]) continue;
        if (json_read(texts[i], strlen(texts[i]), &o->m->arena, &o->config.defaults[i], NULL, &why))
            BUG(why.s);
    }
    return OK;
}

// ---- the model

static void set_name(struct opening *o)
{
    struct model_shape *s = &o->m->shape;
    struct gguf_str name = {0};
    if (o->made)
        name = (struct gguf_str){o->made->name, strlen(o->made->name)};
    else if (!o->t->gguf || gguf_get_str(o->t->gguf, "general.name", &name, NULL) || !name.len) {
        size_t stem;
        name.s = file_stem(o->m->path, &stem);
        name.len = stem;
    }
    size_t max = sizeof s->name - 1, len = name.len < max ? name.len : max;
    while (len && len < name.len && ((uint8_t)name.s[len] & 0xc0) == 0x80)
        len--; // not through the middle of a character
    for (size_t i = 0; i < len; i++)
        s->name[i] = (uint8_t)name.s[i] < 0x20 || name.s[i] == 0x7f ? '?' : name.s[i];
    s->name[len] = 0;
}

// The prediction head is loaded where it is one layer of its own that shares embedding and output.
static bool finds_mtp(const struct opening *o)
{
    if (!o->t || !(o->arch->traits & ARCH_DELTA)) return false;
    if (!arch_find_tensor(o, PART_MTP, SLOT_MTP_FC)) return false;
    if (!o->config.gguf) return true;
    struct arch_text own = arch_name_in_file(o, PART_MTP, "nextn.embed_tokens.weight", 0);
    return o->needs.n_nextn == 1 && !tensors_find(o->t, own.s) &&
           arch_find_tensor(o, PART_MTP, SLOT_MTP_NORM);
}

static err_t check_tokens(const struct opening *o)
{
    const struct gguf *g = o->config.gguf;
    const struct gguf_kv *tokens = g ? gguf_find(g, "tokenizer.ggml.tokens") : NULL;
    if (tokens && (tokens->type != GGUF_ARR || tokens->elem != GGUF_STR))
        return config_fail(&o->config, "key 'tokenizer.ggml.tokens' is not an array of strings");
    if (tokens && tokens->n != (uint64_t)o->m->shape.n_vocab)
        return config_fail(&o->config,
                           "key 'tokenizer.ggml.tokens': %llu tokens, the embedding has %d rows",
                           (unsigned long long)tokens->n, o->m->shape.n_vocab);
    return OK;
}

static err_t describe_file(struct opening *o, struct arch_file *file)
{
    if (!o->t) return OK;
    arch_find_prefix(o);
    const struct model_tensor *t = arch_find_tensor(o, PART_EMBED, SLOT_EMBED);
    if (!t)
        return config_fail(
            &o->config, "tensor '%s' is missing",
            arch_name_in_file(o, PART_EMBED,
                              o->config.gguf ? "token_embd.weight" : "embed_tokens.weight", 0)
                .s);
    if (t->n_dim != 2)
        return config_fail(&o->config, "tensor '%s': %d dimensions, allowed 2", t->name, t->n_dim);
    file->n_vocab = t->shape[0];
    file->has_q_norm = o->config.gguf &&
                       (arch_find_tensor(o, 0, SLOT_ATTN_Q_NORM) || o->arch->qk_norm == QK_NORM_L2);
    return OK;
}

// What most bytes are of.
static const char *main_dtype(const struct model *m)
{
    uint64_t bytes[DT_COUNT] = {0};
    int best = DT_F32;
    for (int32_t i = 0; i < m->n_weight; i++)
        if (m->weights[i].is_matrix && m->weights[i].part >= 0)
            bytes[m->weights[i].dtype] += m->weights[i].bytes;
    for (int i = 0; i < DT_COUNT; i++)
        if (bytes[i] > bytes[best]) best = i;
    return dtype_info((enum dtype)best)->name;
}

static err_t fill(struct opening *o)
{
    struct model *m = o->m;
    struct arch_file file = {0};
    err_t e = o->config.gguf ? find_gguf_arch(o) : find_hf_arch(o);
    if (e || (e = read_defaults(o)) || (e = describe_file(o, &file))) return e;
    snprintf(m->shape.arch, sizeof m->shape.arch, "%s",
             o->config.gguf ? o->config.prefix : o->arch->name);
    e = arch_numbers(&o->config, o->arch, &file, &m->shape, &o->needs);
    if (e || (e = check_tokens(o))) return e;
    m->shape.tied_head = o->needs.tie_said ? o->needs.tied : o->t && !arch_has_head(o);
    m->shape.has_mtp = finds_mtp(o);
    set_name(o);
    o->used = arena_take_n(&m->arena, o->t ? (size_t)o->t->n + 1 : 1, sizeof *o->used);
    if (!o->used) return err_say(o->why, ERR_MEMORY, "%s: no memory for its tables", m->path);
    if ((e = arch_fill(o)) || (e = arch_check_rest(o))) return e;
    m->weights = o->weights;
    m->n_weight = o->n_weight;
    const char *words = o->made ? o->made->quant : quant_words(o->quant);
    m->quant = words ? words : main_dtype(m);
    return OK;
}

static err_t open_files(const char *path, struct opened *x, struct opening *o)
{
    struct model *m = &x->model;
    err_t e = tensors_open(path, &m->arena, &x->tensors, o->why);
    if (e || (e = quant_open(x->tensors, &m->arena, &x->quant, o->why))) return e;
    const struct tensors *t = x->tensors;
    m->path = t->path;
    m->files = t->files;
    m->n_file = t->n_file;
    m->file_bytes = t->file_bytes;
    m->gguf = t->gguf;
    m->text_dir = t->dir;
    memcpy(m->hash, t->hash, sizeof m->hash);
    o->t = t;
    o->quant = x->quant;
    o->config.gguf = t->gguf;
    if (!t->gguf) config_of_json(&o->config, t->config);
    return OK;
}

static err_t open_made(const char *path, struct opened *x, struct opening *o, struct shape *made)
{
    struct model *m = &x->model;
    err_t e = shape_open(path, &m->arena, made, o->why);
    if (e) return e;
    m->path = made->word;
    memcpy(m->hash, made->hash, sizeof m->hash);
    o->made = made;
    config_of_json(&o->config, made->config);
    return OK;
}

err_t model_open(const char *path, struct model **out, struct err_text *why)
{
    struct opened *x = calloc(1, sizeof *x);
    struct shape made;
    if (!x) return err_say(why, ERR_MEMORY, "no memory for a model");
    struct model *m = &x->model;
    arena_init(&m->arena, (size_t)512 << 20);
    struct opening o = {.m = m, .why = why, .config = {.path = path, .why = why}};
    o.config.arena = &m->arena;
    err_t e = shape_is(path) ? open_made(path, x, &o, &made) : open_files(path, x, &o);
    if (!e) {
        o.config.path = m->path;
        e = fill(&o);
    }
    if (e) {
        model_close(m);
        return e;
    }
    *out = m;
    return OK;
}

void model_close(struct model *m)
{
    if (!m) return;
    struct opened *x = (struct opened *)m;
    quant_close(x->quant);
    tensors_close(x->tensors);
    arena_fini(&m->arena);
    free(x);
}

// ---- questions

const struct model_weight *model_weight_find(const struct model *m, int32_t part, enum slot s)
{
    int32_t lo = 0, hi = m->n_weight;
    while (lo < hi) {
        int32_t mid = lo + (hi - lo) / 2;
        const struct model_weight *w = &m->weights[mid];
        if (w->part < part || (w->part == part && w->slot < s))
            lo = mid + 1;
        else
            hi = mid;
    }
    const struct model_weight *w = &m->weights[lo];
    return lo < m->n_weight && w->part == part && w->slot == s ? w : NULL;
}

uint64_t model_part_bytes(const struct model *m, int32_t part)
{
    uint64_t sum = part == PART_HEAD && m->shape.tied_head ? model_part_bytes(m, PART_EMBED) : 0;
    for (int32_t i = 0; i < m->n_weight; i++)
        if (m->weights[i].part == part) sum += m->weights[i].bytes;
    return sum;
}

uint64_t model_expert_bytes(const struct model *m, int32_t layer)
{
    uint64_t sum = 0;
    for (int s = SLOT_MOE_GATE; s <= SLOT_MOE_DOWN_BIAS; s++) {
        const struct model_weight *w = model_weight_find(m, layer, (enum slot)s);
        if (w) sum += w->bytes;
    }
    return sum;
}

uint64_t model_kv_bytes(const struct model *m, int32_t layer, uint32_t elem_bytes)
{
    const struct model_shape *s = &m->shape;
    switch (s->layers[layer].mixer) {
    case MIXER_ATTN:
        return (uint64_t)2 * (uint64_t)s->n_head_kv * (uint64_t)s->head_dim * elem_bytes;
    case MIXER_MLA:
        return (uint64_t)(s->mla.kv_rank + s->mla.rope_dim) * elem_bytes;
    default:
        return 0;
    }
}

uint64_t model_state_bytes(const struct model *m, int32_t layer)
{
    const struct model_delta *d = &m->shape.delta;
    if (m->shape.layers[layer].mixer != MIXER_DELTA) return 0;
    uint64_t k = (uint64_t)d->n_head_k * (uint64_t)d->dim_k;
    uint64_t v = (uint64_t)d->n_head_v * (uint64_t)d->dim_v;
    uint64_t conv = (uint64_t)(d->n_tap - 1) * (2 * k + v);
    return (conv + v * (uint64_t)d->dim_k) * sizeof(float);
}
