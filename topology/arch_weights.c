#include "topology/arch_weights.h"

#include "proto/base/log.h"

#include <stdio.h>
#include <string.h>

// ---- names

static bool has_tensor(const struct opening *o, const char *prefix, const char *name)
{
    struct arch_text x;
    snprintf(x.s, sizeof x.s, "%s%s", prefix, name);
    return tensors_find(o->t, x.s) != NULL;
}

void arch_find_prefix(struct opening *o)
{
    static const char *const prefixes[] = {"model.", "model.language_model.",
                                           "language_model.model.", "language_model.", ""};
    o->prefix = prefixes[0];
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        if (!has_tensor(o, prefixes[i], "layers.0.input_layernorm.weight") &&
            !has_tensor(o, prefixes[i], "embed_tokens.weight"))
            continue;
        o->prefix = prefixes[i];
        return;
    }
}

// NULL if the file has no output matrix.
static const char *head_prefix(const struct opening *o)
{
    static const char *const prefixes[] = {"", "language_model.", "model."};
    static const char *const tails[] = {"lm_head.weight", "lm_head.qweight",
                                        "lm_head.weight_packed"};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        for (size_t k = 0; k < sizeof tails / sizeof *tails; k++)
            if (has_tensor(o, prefixes[i], tails[k])) return prefixes[i];
    return NULL;
}

bool arch_has_head(const struct opening *o)
{
    return o->config.gguf ? has_tensor(o, "", "output.weight") : head_prefix(o) != NULL;
}

static bool begins(const char *s, const char *with)
{
    return !strncmp(s, with, strlen(with));
}

static bool ends(const char *s, const char *with)
{
    size_t n = strlen(s), k = strlen(with);
    return n >= k && !strcmp(s + n - k, with);
}

struct arch_text arch_name_in_file(const struct opening *o, int32_t part, const char *text,
                                   int32_t number)
{
    struct arch_text x, y;
    const char *star = strchr(text, '*');
    if (star)
        snprintf(y.s, sizeof y.s, "%.*s%d%s", (int)(star - text), text, number, star + 1);
    else
        snprintf(y.s, sizeof y.s, "%s", text);
    if (o->config.gguf) {
        int32_t layer = part == PART_MTP ? o->m->shape.n_layer : part;
        if (layer < 0) return y;
        snprintf(x.s, sizeof x.s, "blk.%d.%.160s", layer, y.s);
    } else if (part == PART_MTP) {
        // what is not a layer's own stands beside it
        bool own = begins(text, "pre_fc_") || !strcmp(text, "fc") || !strcmp(text, "norm.weight");
        snprintf(x.s, sizeof x.s, "mtp.%s%.160s", own ? "" : "layers.0.", y.s);
    } else if (part >= 0) {
        snprintf(x.s, sizeof x.s, "%slayers.%d.%.140s", o->prefix, part, y.s);
    } else {
        const char *prefix = begins(text, "lm_head") ? head_prefix(o) : o->prefix;
        snprintf(x.s, sizeof x.s, "%s%.160s", prefix ? prefix : "", y.s);
    }
    return x;
}

// The k-th name of a slot: an architecture's own come first. NULL after the last.
static const struct arch_name *nth_name(const struct opening *o, enum slot slot, int k)
{
    bool gguf = o->config.gguf != NULL;
    const struct arch_name *lists[] = {gguf ? o->arch->gguf_names : o->arch->hf_names,
                                       arch_common_names(gguf)};
    for (int i = 0; i < 2; i++)
        for (const struct arch_name *n = lists[i]; n && n->text; n++)
            if (n->slot == slot && k-- == 0) return n;
    return NULL;
}

const struct model_tensor *arch_find_tensor(const struct opening *o, int32_t part, enum slot slot)
{
    const struct arch_name *n;
    for (int k = 0; (n = nth_name(o, slot, k)); k++) {
        struct arch_text x = arch_name_in_file(o, part, n->text, 0);
        const struct model_tensor *t = tensors_find(o->t, x.s);
        if (t) return t;
        size_t len = strlen(x.s);
        snprintf(x.s + len, sizeof x.s - len, ".weight");
        if ((t = tensors_find(o->t, x.s))) return t;
    }
    return NULL;
}

// ---- rows

static struct model_rows whole(int64_t n)
{
    return (struct model_rows){.n = n, .first = 0, .per = n, .stride = n, .step = 1};
}

static struct model_rows part_of(int64_t first, int64_t n)
{
    return (struct model_rows){.n = n, .first = first, .per = n, .stride = n, .step = 1};
}

// `per` rows at a time, every `stride` rows.
static struct model_rows groups(int64_t n, int64_t first, int64_t per, int64_t stride)
{
    return (struct model_rows){.n = n, .first = first, .per = per, .stride = stride, .step = 1};
}

static void take_delta(const struct model_shape *s, enum take take, struct model_weight *w)
{
    const struct model_delta *d = &s->delta;
    int64_t k = d->dim_k, each = d->n_head_v / d->n_head_k, v = each * d->dim_v;
    int64_t qkvz = 2 * k + 2 * v, heads = d->n_head_k;
    if (take == TAKE_BA_A || take == TAKE_BA_B) {
        w->take[0] = groups(d->n_head_v, take == TAKE_BA_A ? each : 0, each, 2 * each);
    } else if (take == TAKE_QKVZ_Z) {
        w->take[0] = groups(heads * v, 2 * k + v, v, qkvz);
    } else {
        w->take[0] = groups(heads * k, 0, k, qkvz);
        w->take[1] = groups(heads * k, k, k, qkvz);
        w->take[2] = groups(heads * v, 2 * k, v, qkvz);
        w->n_take = 3;
    }
}

// How the weight's rows lie in their source, and how many rows that has. Vectors with one row: the
// same of elements.
static int64_t take_rows(const struct model_shape *s, enum take take, struct model_weight *w)
{
    const struct model_mla *m = &s->mla;
    int64_t n = w->rows == 1 && !w->is_matrix ? w->cols : w->rows;
    int64_t q = (int64_t)s->n_head * s->head_dim, kv = (int64_t)s->n_head_kv * s->head_dim;
    w->n_take = 1;
    switch (take & ~TAKE_TURNED) {
    case TAKE_QKV_Q:
        w->take[0] = part_of(0, q);
        return q + 2 * kv;
    case TAKE_QKV_K:
    case TAKE_QKV_V:
        w->take[0] = part_of(take == TAKE_QKV_K ? q : q + kv, kv);
        return q + 2 * kv;
    case TAKE_HALF_0:
    case TAKE_HALF_1:
        w->take[0] = part_of((take & ~TAKE_TURNED) == TAKE_HALF_1 ? n : 0, n);
        return 2 * n;
    case TAKE_EVEN:
    case TAKE_ODD:
        w->take[0] = groups(n, take == TAKE_ODD, 1, 2);
        return 2 * n;
    case TAKE_PAIR_0:
    case TAKE_PAIR_1:
        w->take[0] =
            groups(n, take == TAKE_PAIR_1 ? s->head_dim : 0, s->head_dim, 2 * (int64_t)s->head_dim);
        return 2 * n;
    case TAKE_HEADS_K:
    case TAKE_HEADS_V: {
        int64_t first = take == TAKE_HEADS_V ? m->nope_dim : 0;
        int64_t per = take == TAKE_HEADS_V ? m->v_dim : m->nope_dim;
        w->take[0] = groups(s->n_head * per, first, per, (int64_t)m->nope_dim + m->v_dim);
        w->heads_in_rows = true;
        return (int64_t)s->n_head * (m->nope_dim + m->v_dim);
    }
    case TAKE_QKVZ_QKV:
    case TAKE_QKVZ_Z:
        take_delta(s, take, w);
        return 2 * ((int64_t)s->delta.n_head_k * s->delta.dim_k +
                    (int64_t)s->delta.n_head_v * s->delta.dim_v);
    case TAKE_BA_A:
    case TAKE_BA_B:
        take_delta(s, take, w);
        return 2 * (int64_t)s->delta.n_head_v;
    default:
        w->take[0] = whole(n);
        return n;
    }
}

// ---- one weight

static err_t no_memory(const struct opening *o)
{
    return err_say(o->why, ERR_MEMORY, "%s: no memory for its tables", o->config.path);
}

static void mark(struct opening *o, const struct model_source *s)
{
    const struct model_tensor *all[] = {s->main, s->scale, s->zero, s->order, s->global};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i]) o->used[all[i] - o->t->items] = true;
}

static err_t one_source(struct opening *o, const struct model_source *from, struct model_weight *w)
{
    struct model_source *s = arena_copy(&o->m->arena, from, sizeof *from);
    if (!s) return no_memory(o);
    mark(o, s);
    w->sources = s;
    w->n_source = 1;
    return OK;
}

static bool is_float(enum dtype t)
{
    return t == DT_F32 || t == DT_F16 || t == DT_BF16 || t == DT_F64;
}

static void shape_words(char *dst, size_t size, const int64_t *shape, int32_t n_dim)
{
    size_t at = 0;
    dst[0] = 0;
    for (int32_t i = 0; i < n_dim && at < size; i++)
        at += (size_t)snprintf(dst + at, size - at, "%s%lld", i ? ", " : "", (long long)shape[i]);
}

static err_t check_vector(const struct opening *o, const struct model_tensor *t,
                          const int64_t *want, int32_t n_want)
{
    int64_t found[4];
    int32_t n = 0, w = 0;
    // ones among the dimensions say nothing: (C, 1, taps), (1, n)
    for (int32_t i = 0; i < t->n_dim; i++)
        if (t->shape[i] != 1) found[n++] = t->shape[i];
    bool same = true;
    for (int32_t i = 0; i < n_want; i++)
        if (want[i] != 1) same = same && w < n && found[w++] == want[i];
    if (!same || w != n) {
        char f[96], a[48];
        shape_words(f, sizeof f, t->shape, t->n_dim);
        shape_words(a, sizeof a, want, n_want);
        return config_fail(&o->config, "tensor '%s': shape (%s), expected (%s)", t->name, f, a);
    }
    if (is_float(t->dtype)) return OK;
    return config_fail(&o->config, "tensor '%s': type %s, allowed F32 F16 BF16 F64", t->name,
                       dtype_info(t->dtype)->name);
}

static err_t try_vector(struct opening *o, int32_t part, const struct arch_name *name,
                        struct model_weight *w)
{
    struct arch_text x = arch_name_in_file(o, part, name->text, 0);
    const struct model_tensor *t = tensors_find(o->t, x.s);
    if (!t) return ERR_NOT_FOUND;
    int64_t elements = take_rows(&o->m->shape, name->take, w), want[3];
    int32_t n_want = 0;
    if (w->n > 1) want[n_want++] = w->n;
    if (w->rows > 1) want[n_want++] = w->rows;
    want[n_want++] = w->rows > 1 ? w->cols : elements;
    err_t e = check_vector(o, t, want, n_want);
    if (e) return e;
    w->kind = SOURCE_ROWS;
    w->dtype = DT_F32;
    return one_source(o, &(struct model_source){.main = t}, w);
}

static void copy_found(struct model_weight *w, const struct quant_found *f)
{
    w->kind = f->kind;
    w->dtype = f->dtype;
    w->bits = f->bits;
    w->zero_is_plus_one = f->zero_is_plus_one;
    w->global_divides = f->global_divides;
    w->block_rows = f->block_rows;
    w->block_cols = f->block_cols;
}

// GGUF: NVFP4 tensors have a factor beside them, for all or for each of a stack.
static void find_factor(const struct opening *o, const char *module, struct quant_found *f)
{
    if (!o->config.gguf || f->dtype != DT_NVFP4) return;
    struct arch_text x;
    snprintf(x.s, sizeof x.s, "%.190s.scale", module);
    f->source.global = tensors_find(o->t, x.s);
}

static err_t try_each(struct opening *o, int32_t part, const struct arch_name *name,
                      struct model_weight *w)
{
    struct quant_found first = {0}, f = {0};
    struct model_source *sources = NULL;
    for (int32_t i = 0; i < w->n; i++) {
        struct arch_text x = arch_name_in_file(o, part, name->text, i);
        struct quant_want want = {.module = x.s, .n = 1, .rows = w->rows, .cols = w->cols};
        err_t e = quant_find(o->quant, o->t, &want, &f, o->why);
        if (e == ERR_NOT_FOUND && i == 0) return e;
        if (e == ERR_NOT_FOUND)
            return config_fail(&o->config, "tensor '%s.weight' is missing", x.s);
        if (e) return e;
        find_factor(o, x.s, &f);
        if (i == 0) {
            first = f;
            sources = arena_take_n(&o->m->arena, (size_t)w->n, sizeof *sources);
            if (!sources) return no_memory(o);
        }
        if (!quant_same(&f, &first))
            return config_fail(&o->config, "tensor '%s' is not of the type of its layer's first",
                               f.source.main->name);
        sources[i] = f.source;
        mark(o, &f.source);
    }
    take_rows(&o->m->shape, TAKE_ALL, w);
    copy_found(w, &first);
    w->sources = sources;
    w->n_source = (int32_t)w->n;
    return OK;
}

// GGUF has a matrix of one row as a vector.
static err_t try_one_row(struct opening *o, const char *module, struct model_weight *w)
{
    struct arch_text x;
    snprintf(x.s, sizeof x.s, "%.190s.weight", module);
    const struct model_tensor *t = tensors_find(o->t, x.s);
    if (!t || t->n_dim != 1 || w->rows != 1) return ERR_NOT_FOUND;
    err_t e = check_vector(o, t, &w->cols, 1);
    if (e) return e;
    w->kind = SOURCE_ROWS;
    w->dtype = DT_F32;
    w->take[0] = whole(1);
    w->n_take = 1;
    return one_source(o, &(struct model_source){.main = t}, w);
}

static err_t try_matrix(struct opening *o, int32_t part, const struct arch_name *name,
                        struct model_weight *w)
{
    if (name->take == TAKE_EACH) return try_each(o, part, name, w);
    struct arch_text x = arch_name_in_file(o, part, name->text, 0);
    err_t e = try_one_row(o, x.s, w);
    if (e != ERR_NOT_FOUND) return e;
    bool heads = name->take == TAKE_HEADS_K || name->take == TAKE_HEADS_V;
    struct quant_want want = {
        .module = x.s,
        .n = heads ? 1 : w->n,
        .rows = take_rows(&o->m->shape, name->take, w),
        .cols = heads ? o->m->shape.mla.kv_rank : w->cols,
        .transposed = name->take & TAKE_TURNED,
    };
    struct quant_found f = {0};
    e = quant_find(o->quant, o->t, &want, &f, o->why);
    if (e) return e;
    find_factor(o, x.s, &f);
    copy_found(w, &f);
    if (name->take & TAKE_TURNED) w->turn = TURN_COLUMNS;
    if (name->take == TAKE_HEADS_K) w->turn = TURN_HEADS;
    // what is turned, or taken apart into a stack, has no blocks along its columns any more
    bool apart = w->turn != TURN_NONE || (w->n > 1 && f.source.order);
    if (apart && !is_float(w->dtype)) w->dtype = DT_F32;
    return one_source(o, &f.source, w);
}

static uint8_t transform_of(const struct opening *o, enum slot slot)
{
    const slot_set norms = SLOT_BIT(SLOT_ATTN_NORM) | SLOT_BIT(SLOT_ATTN_Q_NORM) |
                           SLOT_BIT(SLOT_ATTN_K_NORM) | SLOT_BIT(SLOT_ATTN_POST_NORM) |
                           SLOT_BIT(SLOT_FFN_NORM) | SLOT_BIT(SLOT_FFN_POST_NORM) |
                           SLOT_BIT(SLOT_MTP_EMBED_NORM) | SLOT_BIT(SLOT_MTP_HIDDEN_NORM) |
                           SLOT_BIT(SLOT_MTP_NORM) | SLOT_BIT(SLOT_FINAL_NORM);
    if (o->config.gguf) return TRANSFORM_NONE; // done by who wrote the file
    if (slot == SLOT_DELTA_A_NEG) return TRANSFORM_NEG_EXP;
    bool plus_one = (o->arch->traits & ARCH_PLUS_ONE) && (norms & SLOT_BIT(slot));
    return plus_one ? TRANSFORM_PLUS_ONE : TRANSFORM_NONE;
}

static err_t make(struct opening *o, struct model_weight *w)
{
    w->kind = SOURCE_MADE;
    w->dtype = DT_F32;
    take_rows(&o->m->shape, TAKE_ALL, w);
    if (!w->is_matrix) return OK;
    return shape_dtype(o->made, w->slot, w->cols, &w->dtype, o->why);
}

static err_t find(struct opening *o, struct model_weight *w)
{
    const struct arch_name *name;
    for (int k = 0; (name = nth_name(o, w->slot, k)); k++) {
        err_t e = w->is_matrix ? try_matrix(o, w->part, name, w) : try_vector(o, w->part, name, w);
        if (e != ERR_NOT_FOUND) return e;
    }
    return ERR_NOT_FOUND;
}

static err_t missing(const struct opening *o, const struct model_weight *w)
{
    const struct arch_name *name = nth_name(o, w->slot, 0);
    if (!name)
        return config_fail(&o->config, "no name is known for %s of %s", slot_name(w->slot),
                           o->arch->name);
    return config_fail(&o->config, "tensor '%s%s' is missing",
                       arch_name_in_file(o, w->part, name->text, 0).s,
                       w->is_matrix ? ".weight" : "");
}

static err_t fill_slot(struct opening *o, int32_t part, const struct model_layer *layer,
                       enum slot slot, bool required)
{
    struct model_weight *w = &o->weights[o->n_weight];
    *w = (struct model_weight){.slot = slot, .part = part, .is_matrix = slot_is_matrix(slot)};
    slot_size(&o->m->shape, layer, slot, &w->n, &w->rows, &w->cols);
    if (!required && o->made) return OK;
    err_t e = o->made ? make(o, w) : find(o, w);
    if (e == ERR_NOT_FOUND) return required ? missing(o, w) : OK;
    if (e) return e;
    w->transform = transform_of(o, slot);
    uint64_t row = dtype_row_bytes(w->dtype, (uint64_t)w->cols);
    if (!row)
        return config_fail(&o->config, "%s of %s: rows of %lld elements do not fit type %s",
                           slot_name(slot), o->arch->name, (long long)w->cols,
                           dtype_info(w->dtype)->name);
    w->bytes = (uint64_t)w->n * (uint64_t)w->rows * row;
    o->n_weight++;
    return OK;
}

// ---- all weights

struct wanted {
    slot_set must, may;
};

static struct wanted wanted_in_layer(const struct opening *o, const struct model_layer *layer)
{
    slot_set possible = slot_possible(layer);
    struct wanted w = {.must = slot_needed(&o->m->shape, layer) | (o->needs.must & possible),
                       .may = o->needs.may & possible};
    const slot_set shared = SLOT_BIT(SLOT_SHARED_ROUTER);
    if (!o->m->shape.moe.shared_dim) w.must &= ~shared;
    return w;
}

static struct wanted wanted_in(const struct opening *o, int32_t part)
{
    const struct model_shape *s = &o->m->shape;
    struct wanted w = {.must = slot_of_part(part)};
    if (part >= 0) return wanted_in_layer(o, &s->layers[part]);
    if (part == PART_MTP) {
        w = wanted_in_layer(o, &s->mtp);
        w.must |= slot_of_part(PART_MTP);
    } else if (part == PART_HEAD) {
        w.must &= ~SLOT_BIT(SLOT_HEAD_BIAS);
        w.may = SLOT_BIT(SLOT_HEAD_BIAS);
        if (s->tied_head) w.must &= ~SLOT_BIT(SLOT_HEAD);
    } else if (part == PART_SHARED) {
        w = (struct wanted){.may = w.must};
    }
    return w;
}

err_t arch_fill(struct opening *o)
{
    const struct model_shape *s = &o->m->shape;
    size_t n = 0;
    int32_t from = s->has_mtp ? PART_MTP : PART_SHARED;
    for (int32_t part = from; part < s->n_layer; part++) {
        struct wanted w = wanted_in(o, part);
        n += (size_t)__builtin_popcountll(w.must | w.may);
    }
    o->weights = arena_take_n(&o->m->arena, n + 1, sizeof *o->weights);
    if (!o->weights) return no_memory(o);
    for (int32_t part = from; part < s->n_layer; part++) {
        struct wanted w = wanted_in(o, part);
        const struct model_layer *layer = part >= 0          ? &s->layers[part]
                                          : part == PART_MTP ? &s->mtp
                                                             : NULL;
        for (int i = 0; i < SLOT_COUNT; i++) {
            if (!((w.must | w.may) & SLOT_BIT(i))) continue;
            err_t e = fill_slot(o, part, layer, (enum slot)i, w.must & SLOT_BIT(i));
            if (e) return e;
        }
    }
    return OK;
}

// ---- the rest

// Layer of a name of the text model, or -1.
static int64_t layer_of(const struct opening *o, const char *name)
{
    struct arch_text start;
    int64_t n = 0;
    snprintf(start.s, sizeof start.s, "%s", o->config.gguf ? "blk." : o->prefix);
    size_t len = strlen(start.s);
    if (!o->config.gguf) len += (size_t)snprintf(start.s + len, sizeof start.s - len, "layers.");
    if (!begins(name, start.s)) return -1;
    const char *p = name + len;
    if (*p < '0' || *p > '9') return -1;
    for (; *p >= '0' && *p <= '9'; p++)
        n = n < 100000 ? n * 10 + (*p - '0') : n;
    return *p == '.' ? n : -1;
}

static bool is_of_other_senses(const char *name)
{
    static const char *const words[] = {"visual.",      "vision", "multi_modal_projector",
                                        "mm_projector", "audio",  "patch_merger",
                                        "image_",       "speech", "embed_vision"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strstr(name, words[i])) return true;
    return begins(name, "v.") || begins(name, "mm.") || begins(name, "a.");
}

// Stand beside what was taken, or have been computed from the numbers.
static bool is_accessory(const char *name)
{
    static const char *const tails[] = {
        ".input_scale", ".activation_scale", ".input_global_scale", ".weight_shape", ".k_scale",
        ".v_scale",     ".q_scale",          ".kv_scale",           ".output_scale", ".g_idx",
        ".qzeros",      ".inv_freq",         ".input_zero_point",   ".prob_scale",   "k_zero_point",
        "v_zero_point", ".weight_g_idx",     ".qweight_type",       ".bias_zero"};
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++)
        if (ends(name, tails[i])) return true;
    return strstr(name, "rotary_emb") || strstr(name, "rope_factors");
}

static err_t refuse(const struct opening *o, const char *name, int64_t layer)
{
    const struct model_shape *s = &o->m->shape;
    if (layer >= s->n_layer + o->needs.n_nextn)
        return config_fail(&o->config, "tensor '%s' is of layer %lld, allowed 0 to %d", name,
                           (long long)layer, s->n_layer - 1);
    // config.json's world drops biases that its config does not speak of; GGUF has no such config
    bool matters = o->config.gguf && layer >= 0 && layer < s->n_layer &&
                   (ends(name, ".bias") || ends(name, ".scale"));
    if (matters)
        return config_fail(&o->config, "tensor '%s' is part of the model but cannot be applied",
                           name);
    return OK;
}

err_t arch_check_rest(const struct opening *o)
{
    const struct model_shape *s = &o->m->shape;
    int64_t n_other = 0, n_next = 0, n_unknown = 0;
    const char *unknown = NULL;
    for (int32_t i = 0; o->t && i < o->t->n; i++) {
        const char *name = o->t->items[i].name;
        if (o->used[i]) continue;
        int64_t layer = layer_of(o, name);
        err_t e = refuse(o, name, layer);
        if (e) return e;
        if (layer >= s->n_layer || begins(name, "mtp.") || begins(name, "model.mtp."))
            n_next++;
        else if (is_of_other_senses(name))
            n_other++;
        else if (!is_accessory(name) && !(s->tied_head && strstr(name, "lm_head")) &&
                 n_unknown++ == 0)
            unknown = name;
    }
    if (n_other)
        log_info("%s: %lld tensors for pictures and sound are skipped", o->config.path,
                 (long long)n_other);
    if (n_next)
        log_info("%s: %lld tensors that predict further tokens are skipped", o->config.path,
                 (long long)n_next);
    if (n_unknown)
        log_warn("%s: %lld tensors are of no use to %s, the first is '%s'", o->config.path,
                 (long long)n_unknown, o->arch->name, unknown);
    return OK;
}
