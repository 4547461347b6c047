// quantization_config, as the quantisers of the Hugging Face world write it. Keys that do not
// change what the stored weights mean (calibration, kernels, activations, KV cache) are not looked
// at.
#include "topology/quant_rules.h"

#include "topology/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    RULES_MAX = 1 << 20,
    PATTERNS_MAX = 512,
    STEPS_MAX = 32 << 20, // of matching all names of a model with all patterns
};

struct reading {
    struct quant *q;
    struct arena *a;
    const struct json *config; // the quantization_config
    struct err_text *why;
    int32_t cap_rule, n_pattern;
};

__attribute__((format(printf, 2, 3))) static err_t fail(const struct reading *r, const char *fmt,
                                                        ...)
{
    char msg[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    return err_say(r->why, ERR_MODEL, "%s: quantization_config: %s", file_tail(r->q->path), msg);
}

// ---- values

static bool is_null(const struct json *j)
{
    return !j || j->kind == J_NULL;
}

// What a value is, for sentences.
struct value_text {
    char s[48];
};

static struct value_text value_text(const struct json *j)
{
    struct value_text t;
    if (!j)
        snprintf(t.s, sizeof t.s, "nothing");
    else if (j->kind == J_INT)
        snprintf(t.s, sizeof t.s, "%lld", (long long)j->i);
    else if (j->kind == J_STR)
        snprintf(t.s, sizeof t.s, "'%.40s'", j->str.s);
    else if (j->kind == J_BOOL)
        snprintf(t.s, sizeof t.s, "%s", j->b ? "true" : "false");
    else
        snprintf(t.s, sizeof t.s, "%s", json_kind_name(j->kind));
    return t;
}

static err_t get_bool(const struct reading *r, const struct json *from, const char *key,
                      bool otherwise, bool *out)
{
    const struct json *j = json_get(from, key);
    if (!is_null(j) && j->kind != J_BOOL)
        return fail(r, "%s: found %s, allowed true and false", key, value_text(j).s);
    *out = is_null(j) ? otherwise : j->b;
    return OK;
}

// `allowed` ends with 0 and is named by `words`.
static err_t get_bits(const struct reading *r, const struct json *from, const char *key,
                      const char *allowed, const char *words, uint8_t *out)
{
    const struct json *j = json_get(from, key);
    if (is_null(j) && *out) return OK;
    if (!j || j->kind != J_INT || j->i < 1 || j->i > 8 || !strchr(allowed, (char)j->i))
        return fail(r, "%s: found %s, allowed %s", key, value_text(j).s, words);
    *out = (uint8_t)j->i;
    return OK;
}

// -1, or 1 to 65536; absent: keeps *out, unless it is 0.
static err_t get_group(const struct reading *r, const struct json *from, int32_t *out)
{
    const struct json *j = json_get(from, "group_size");
    if (is_null(j) && *out) return OK;
    if (!j || j->kind != J_INT || j->i < -1 || j->i == 0 || j->i > 65536)
        return fail(r, "group_size: found %s, allowed -1 and 1 to 65536", value_text(j).s);
    *out = (int32_t)j->i;
    return OK;
}

// [rows, columns] of a block; absent or null: *out untouched.
static err_t get_block(const struct reading *r, const struct json *from, const char *key,
                       struct quant_scheme *out)
{
    const struct json *j = json_get(from, key);
    if (is_null(j)) return OK;
    for (size_t i = 0; i < 2; i++)
        if (j->kind != J_ARR || j->arr.n != 2 || j->arr.items[i].kind != J_INT ||
            j->arr.items[i].i < 1 || j->arr.items[i].i > 65536)
            return fail(r, "%s: found %s, allowed two numbers from 1 to 65536", key,
                        value_text(j).s);
    out->block_rows = (int32_t)j->arr.items[0].i;
    out->block_cols = (int32_t)j->arr.items[1].i;
    return OK;
}

// String of a key, or of its other name; `otherwise` where neither is there.
static const char *get_word(const struct json *from, const char *key, const char *other,
                            const char *otherwise)
{
    const struct json *j = json_get(from, key);
    if (is_null(j) && other) j = json_get(from, other);
    return is_null(j) ? otherwise : j->kind == J_STR ? j->str.s : "";
}

static bool is_any(const char *word, const char *const *of)
{
    for (; *of; of++)
        if (strcasecmp(word, *of) == 0) return true;
    return false;
}

static err_t no_memory(const struct reading *r)
{
    return err_say(r->why, ERR_MEMORY, "%s: no memory for its quantization_config",
                   file_tail(r->q->path));
}

static err_t set_words(const struct reading *r, const char *method, const char *what)
{
    r->q->words = arena_printf(r->a, "%s %s", method, what);
    return r->q->words ? OK : no_memory(r);
}

static const char *int_words(int bits)
{
    static const char *const words[] = {"", "", "int2", "int3", "int4", "", "", "", "int8"};
    return words[bits];
}

// ---- rules

const char *quant_bare_name(const char *name)
{
    static const char *const prefixes[] = {"model.", "language_model.", "text_model."};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        const size_t len = strlen(prefixes[i]);
        if (strncmp(name, prefixes[i], len)) continue;
        name += len;
        i = (size_t)-1;
    }
    return name;
}

static err_t add_rule(struct reading *r, struct quant_rule rule)
{
    struct quant *q = r->q;
    if (q->n_rule == RULES_MAX) return fail(r, "over %d rules", RULES_MAX);
    if (q->n_rule == r->cap_rule) {
        const int32_t cap = r->cap_rule ? 2 * r->cap_rule : 16;
        struct quant_rule *rules = realloc(q->rules, (size_t)cap * sizeof *rules);
        if (!rules) return no_memory(r);
        q->rules = rules;
        r->cap_rule = cap;
    }
    q->rules[q->n_rule++] = rule;
    return OK;
}

static err_t add_name(struct reading *r, const char *name, const struct quant_scheme *s)
{
    return add_rule(r, (struct quant_rule){.name = quant_bare_name(name), .scheme = *s});
}

static err_t add_pattern(struct reading *r, const char *text, bool anywhere,
                         const struct quant_scheme *s)
{
    const bool floats = anywhere ? text[0] != '^' : strncmp(text, ".*", 2) == 0;
    struct quant_rule rule = {.scheme = *s, .any_prefix = floats && !strstr(text, "model")};
    struct err_text inner = {{0}};
    if (r->n_pattern++ == PATTERNS_MAX) return fail(r, "over %d patterns", PATTERNS_MAX);
    err_t e = pattern_compile(text, anywhere, r->a, &rule.pattern, &inner);
    if (e == ERR_INVALID) return fail(r, "%.190s", inner.s);
    return e ? no_memory(r) : add_rule(r, rule);
}

static const char *rule_name_at(const void *table, uint32_t i, uint64_t *len)
{
    const char *name = ((const struct quant_rule *)table)[i].name;
    *len = strlen(name);
    return name;
}

static err_t index_rules(struct reading *r)
{
    struct quant *q = r->q;
    err_t e = names_init(&q->by_name, q->rules, rule_name_at, (uint64_t)q->n_rule);
    if (e) return no_memory(r);
    for (int32_t i = 0; i < q->n_rule; i++)
        if (q->rules[i].name) names_add(&q->by_name, (uint32_t)i); // of two the first counts
    return OK;
}

// Names in a config may have other prefixes than tensors: transformers renames modules over time.
static bool matches(const struct quant_rule *rule, const char *module, uint64_t *budget)
{
    static const char *const prefixes[] = {"", "model.", "model.language_model.",
                                           "language_model.model."};
    const struct pattern *p = rule->pattern;
    const char *bare = quant_bare_name(module);
    char name[640];
    if (pattern_match(p, module, budget)) return true;
    if (rule->any_prefix) return false;
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        snprintf(name, sizeof name, "%s%s", prefixes[i], bare);
        if (strcmp(name, module) && pattern_match(p, name, budget)) return true;
    }
    return false;
}

err_t quant_rules_find(const struct quant *q, const char *module, struct quant_scheme *out,
                       struct err_text *why)
{
    const char *bare = quant_bare_name(module);
    const int64_t named = names_find(&q->by_name, bare, strlen(bare));
    if (named >= 0) {
        *out = q->rules[named].scheme;
        return OK;
    }
    for (int32_t i = 0; i < q->n_rule; i++) {
        if (!q->rules[i].pattern) continue;
        if (matches(&q->rules[i], module, q->steps_left)) {
            *out = q->rules[i].scheme;
            return OK;
        }
        if (*q->steps_left == 0)
            return err_say(why, ERR_MODEL,
                           "%s: quantization_config: its patterns take too long on '%.64s'",
                           file_tail(q->path), module);
    }
    *out = q->otherwise;
    return OK;
}

// ---- gptq, awq, auto-round

static err_t read_int_scheme(const struct reading *r, const struct json *from,
                             struct quant_scheme *s)
{
    const bool awq = s->layouts & LAYOUT_AWQ;
    err_t e =
        get_bits(r, from, "bits", awq ? "\4" : "\2\3\4\10", awq ? "4" : "2, 3, 4 and 8", &s->bits);
    if (!e) e = get_group(r, from, &s->group);
    if (!e) e = get_bool(r, from, "sym", s->symmetric, &s->symmetric);
    if (!e) e = get_bool(r, from, "desc_act", s->act_order, &s->act_order);
    return e;
}

// "dynamic": {"+:pattern" or "pattern": overrides, "-:pattern": {}}; the first that matches counts.
static err_t read_dynamic(struct reading *r)
{
    const struct json *dynamic = json_get(r->config, "dynamic");
    if (is_null(dynamic)) return OK;
    if (dynamic->kind != J_OBJ)
        return fail(r, "dynamic: found %s, expected an object", value_text(dynamic).s);
    for (size_t i = 0; i < dynamic->obj.n; i++) {
        const struct json_member *m = &dynamic->obj.members[i];
        const bool minus = strncmp(m->key, "-:", 2) == 0, plus = strncmp(m->key, "+:", 2) == 0;
        struct quant_scheme s = minus ? (struct quant_scheme){0} : r->q->otherwise;
        err_t e = minus ? OK : read_int_scheme(r, &m->value, &s);
        if (!e) e = add_pattern(r, m->key + (minus || plus ? 2 : 0), false, &s);
        if (e) return e;
    }
    return OK;
}

static err_t read_gptq(struct reading *r)
{
    static const char *const formats[] = {"gptq", "gptq_v2", NULL};
    const char *format = get_word(r->config, "checkpoint_format", "format", "gptq");
    const char *word = get_word(r->config, "pack_dtype", NULL, "int32");
    struct quant_scheme *s = &r->q->otherwise;
    bool marlin;
    if (!is_any(format, formats))
        return fail(r, "checkpoint_format '%.40s', allowed gptq and gptq_v2", format);
    if (strcmp(word, "int32")) return fail(r, "pack_dtype '%.40s', allowed int32", word);
    err_t e = get_bool(r, r->config, "is_marlin_format", false, &marlin);
    if (!e && marlin) e = fail(r, "is_marlin_format: found true, allowed false");
    *s = (struct quant_scheme){.layouts = LAYOUT_GPTQ,
                               .symmetric = true,
                               .zero_is_plus_one = strcasecmp(format, "gptq") == 0};
    if (!e) e = read_int_scheme(r, r->config, s);
    if (!e) e = read_dynamic(r);
    return e ? e : set_words(r, "gptq", int_words(s->bits));
}

static err_t read_awq(struct reading *r)
{
    static const char *const versions[] = {"gemm", "exllama", "exllamav2", NULL};
    const char *version = get_word(r->config, "version", "format", "gemm");
    struct quant_scheme *s = &r->q->otherwise;
    bool zero_point;
    if (!is_any(version, versions)) return fail(r, "awq of version '%.40s', allowed gemm", version);
    err_t e = get_bool(r, r->config, "zero_point", true, &zero_point);
    if (!e && !zero_point) e = fail(r, "zero_point: found false, allowed true with awq");
    *s = (struct quant_scheme){.layouts = LAYOUT_AWQ};
    if (!e) e = read_int_scheme(r, r->config, s);
    s->symmetric = false; // there are zeros, whatever the config says
    return e ? e : set_words(r, "awq", int_words(s->bits));
}

// extra_config: {"module name, or pattern": overrides}; 16 bits and more: not quantised.
static err_t read_extra(struct reading *r)
{
    const struct json *extra = json_get(r->config, "extra_config");
    if (is_null(extra)) return OK;
    if (extra->kind != J_OBJ)
        return fail(r, "extra_config: found %s, expected an object", value_text(extra).s);
    for (size_t i = 0; i < extra->obj.n; i++) {
        const struct json_member *m = &extra->obj.members[i];
        const struct json *bits = json_get(&m->value, "bits");
        const char *type = get_word(&m->value, "data_type", NULL, "int");
        struct quant_scheme s = r->q->otherwise;
        err_t e = OK;
        if (m->value.kind != J_OBJ)
            return fail(r, "extra_config '%.60s': found %s, expected an object", m->key,
                        value_text(&m->value).s);
        if (bits && bits->kind == J_INT && bits->i >= 16)
            s = (struct quant_scheme){0};
        else if (strcmp(type, "int"))
            return fail(r, "extra_config '%.60s': data_type '%.20s', allowed int", m->key, type);
        else
            e = read_int_scheme(r, &m->value, &s);
        // A name without what makes a pattern; a dot alone does not.
        if (!e && !strpbrk(m->key, "*+?[](){}|^$\\"))
            e = add_name(r, m->key, &s);
        else if (!e)
            e = add_pattern(r, m->key, true, &s);
        if (e) return e;
    }
    return OK;
}

static err_t read_auto_round(struct reading *r)
{
    static const struct {
        const char *name;
        int layout;
        bool plus_one;
    } packings[] = {
        {"auto_round:auto_gptq", LAYOUT_GPTQ, true},
        {"auto_round:gptq", LAYOUT_GPTQ, true},
        {"auto_gptq", LAYOUT_GPTQ, true},
        {"auto_round", LAYOUT_GPTQ, false},
        {"auto_round:gptqmodel", LAYOUT_GPTQ, false},
        {"auto_round:exllamav2", LAYOUT_GPTQ, false},
        {"auto_round:tritonv2", LAYOUT_GPTQ, false},
        {"auto_round:auto_awq", LAYOUT_AWQ, false},
        {"auto_round:awq", LAYOUT_AWQ, false},
        {"auto_awq", LAYOUT_AWQ, false},
    };
    const char *packing = get_word(r->config, "packing_format", "backend", "auto_round:gptq");
    const char *type = get_word(r->config, "data_type", NULL, "int");
    struct quant_scheme *s = &r->q->otherwise;
    if (strcmp(type, "int")) return fail(r, "data_type '%.40s', allowed int", type);
    for (size_t i = 0; i < sizeof packings / sizeof *packings; i++)
        if (strcmp(packing, packings[i].name) == 0)
            *s = (struct quant_scheme){.layouts = (uint8_t)packings[i].layout,
                                       .symmetric = true,
                                       .zero_is_plus_one = packings[i].plus_one};
    if (!s->layouts)
        return fail(r,
                    "packing_format '%.40s', allowed auto_round:auto_gptq, auto_round:auto_awq, "
                    "auto_round",
                    packing);
    if (!is_null(json_get(r->config, "rotation_config")))
        return fail(r, "rotation_config is not supported");
    err_t e = read_int_scheme(r, r->config, s);
    if (!e) e = read_extra(r);
    return e ? e : set_words(r, "auto-round", int_words(s->bits));
}

// ---- compressed-tensors

static err_t weights_of(const struct reading *r, const struct json *w, const char *key,
                        const char *allowed, bool ok)
{
    if (ok) return OK;
    return fail(r, "weights.%s: found %s, allowed %s", key, value_text(json_get(w, key)).s,
                allowed);
}

static bool int_is(const struct json *from, const char *key, int64_t v)
{
    const struct json *j = json_get(from, key);
    return j && j->kind == J_INT && j->i == v;
}

static err_t read_ct_int(const struct reading *r, const struct json *w, const char *strategy,
                         struct quant_scheme *s)
{
    static const char *const strategies[] = {"group", "channel", NULL};
    const struct json *order = json_get(w, "actorder");
    err_t e = get_bits(r, w, "num_bits", "\2\4\10", "2, 4 and 8 in pack-quantized", &s->bits);
    if (!e) e = weights_of(r, w, "strategy", "group and channel", is_any(strategy, strategies));
    s->group = strcmp(strategy, "channel") ? 0 : -1;
    if (!e && !s->group) e = get_group(r, w, &s->group);
    if (!e) e = get_bool(r, w, "symmetric", true, &s->symmetric);
    // "weight" orders before packing and leaves no trace
    s->act_order = json_is(order, "group") || json_is(order, "dynamic") ||
                   (order && order->kind == J_BOOL && order->b);
    return e;
}

static err_t read_ct_8bit(const struct reading *r, const struct json *w, const char *strategy,
                          struct quant_scheme *s)
{
    static const char *const strategies[] = {"tensor", "channel", "block", NULL};
    const bool fp8 = s->layouts == LAYOUT_FP8, block = strcmp(strategy, "block") == 0;
    err_t e = weights_of(r, w, "num_bits", "8 in this format", int_is(w, "num_bits", 8));
    if (!e)
        e = weights_of(r, w, "type", fp8 ? "float in this format" : "int in this format",
                       json_is(json_get(w, "type"), fp8 ? "float" : "int"));
    if (!e)
        e = weights_of(r, w, "strategy", fp8 ? "tensor, channel and block" : "tensor and channel",
                       is_any(strategy, strategies) && (fp8 || !block));
    if (!e && !fp8) {
        e = get_bool(r, w, "symmetric", true, &s->symmetric);
        if (!e) e = weights_of(r, w, "symmetric", "true in this format", s->symmetric);
    }
    s->bits = 8;
    if (!e && block) e = get_block(r, w, "block_structure", s);
    return e;
}

static err_t read_ct_fp4(const struct reading *r, const struct json *w, struct quant_scheme *s)
{
    const int group = s->layouts == LAYOUT_NVFP4 ? 16 : 32;
    err_t e = weights_of(r, w, "num_bits", "4 in this format", int_is(w, "num_bits", 4));
    if (!e)
        e = weights_of(r, w, "type", "float in this format", json_is(json_get(w, "type"), "float"));
    if (!e)
        e = weights_of(r, w, "group_size", group == 16 ? "16 in NVFP4" : "32 in MXFP4",
                       int_is(w, "group_size", group));
    s->bits = 4;
    s->global_divides = true;
    return e;
}

static err_t read_ct_scheme(const struct reading *r, const struct json *w, const char *format,
                            struct quant_scheme *s)
{
    static const struct {
        const char *name;
        int layout;
    } formats[] = {
        {"pack-quantized", LAYOUT_CT_INT},      {"int-quantized", LAYOUT_INT8},
        {"float-quantized", LAYOUT_FP8},        {"nvfp4-pack-quantized", LAYOUT_NVFP4},
        {"mxfp4-pack-quantized", LAYOUT_MXFP4},
    };
    const char *strategy = get_word(w, "strategy", NULL, "tensor");
    *s = (struct quant_scheme){0};
    if (strcmp(format, "dense") == 0) return OK;
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (strcmp(format, formats[i].name) == 0) s->layouts = (uint8_t)formats[i].layout;
    if (strcmp(format, "naive-quantized") == 0)
        s->layouts = json_is(json_get(w, "type"), "float") ? LAYOUT_FP8 : LAYOUT_INT8;
    if (!s->layouts)
        return fail(r,
                    "format '%.40s', allowed pack-, int-, float-, nvfp4-pack- and "
                    "mxfp4-pack-quantized",
                    format);
    if (s->layouts & (LAYOUT_NVFP4 | LAYOUT_MXFP4)) return read_ct_fp4(r, w, s);
    if (s->layouts & LAYOUT_CT_INT) {
        err_t e =
            weights_of(r, w, "type", "int in this format", json_is(json_get(w, "type"), "int"));
        return e ? e : read_ct_int(r, w, strategy, s);
    }
    return read_ct_8bit(r, w, strategy, s);
}

static const char *scheme_words(const struct quant_scheme *s)
{
    return s->layouts & LAYOUT_NVFP4   ? "NVFP4"
           : s->layouts & LAYOUT_MXFP4 ? "MXFP4"
           : s->layouts & LAYOUT_FP8   ? "FP8"
           : s->layouts                ? int_words(s->bits)
                                       : "plain";
}

// Exact names and patterns before classes ("Linear"): a class is what is left over.
static err_t read_targets(struct reading *r, const struct json *group, const struct quant_scheme *s,
                          bool only, int *n_linear)
{
    const struct json *targets = json_get(group, "targets");
    if (!targets || targets->kind != J_ARR)
        return fail(r, "a config group's targets: found %s, expected an array",
                    value_text(targets).s);
    if (only) r->q->otherwise = *s;
    for (size_t i = 0; i < targets->arr.n; i++) {
        const struct json *at = &targets->arr.items[i];
        if (at->kind != J_STR)
            return fail(r, "a config group's target: found %s, expected a string",
                        value_text(at).s);
        const char *name = at->str.s;
        err_t e = OK;
        if (strncmp(name, "re:", 3) == 0) {
            e = add_pattern(r, name + 3, false, s);
        } else if (strchr(name, '.') || strcmp(name, "lm_head") == 0) {
            e = add_name(r, name, s);
        } else {
            const bool linear = strcmp(name, "Linear") == 0;
            if (linear && *n_linear) return fail(r, "two config groups with the target Linear");
            if (linear || !*n_linear) r->q->otherwise = *s;
            *n_linear += linear;
        }
        if (e) return e;
    }
    return OK;
}

static err_t read_ct_groups(struct reading *r, const struct json *groups, const char *format)
{
    int n_linear = 0;
    bool mixed = false;
    const char *words = NULL;
    for (size_t i = 0; i < groups->obj.n; i++) {
        const struct json *group = &groups->obj.members[i].value, *w = json_get(group, "weights");
        const char *own = get_word(group, "format", NULL, format);
        struct quant_scheme s;
        if (is_null(w)) continue; // of activations only
        if (w->kind != J_OBJ)
            return fail(r, "weights of '%.40s': found %s, expected an object",
                        groups->obj.members[i].key, value_text(w).s);
        err_t e = read_ct_scheme(r, w, own, &s);
        if (!e) e = read_targets(r, group, &s, groups->obj.n == 1, &n_linear);
        if (e) return e;
        mixed = mixed || (words && strcmp(words, scheme_words(&s)));
        words = scheme_words(&s);
    }
    if (!words) return fail(r, "config_groups say nothing of weights");
    return set_words(r, "compressed-tensors", mixed ? "mixed" : words);
}

static err_t read_compressed_tensors(struct reading *r)
{
    const struct json *groups = json_get(r->config, "config_groups");
    const struct json *sparsity = json_get(r->config, "sparsity_config");
    const struct json *transform =
        json_get(json_get(r->config, "transform_config"), "config_groups");
    const char *format = get_word(r->config, "format", NULL, "");
    const char *sparse = get_word(sparsity, "format", NULL, "dense");
    if (strcmp(sparse, "dense"))
        return fail(r, "sparsity_config of format '%.40s', allowed dense", sparse);
    if (transform && transform->kind == J_OBJ && transform->obj.n)
        return fail(r, "transform_config (rotations) is not supported");
    if (!groups || groups->kind != J_OBJ || groups->obj.n == 0)
        return fail(r, "config_groups: found %s, expected an object with groups",
                    groups ? value_text(groups).s : "nothing");
    return read_ct_groups(r, groups, format);
}

// ---- modelopt, fp8, mxfp4

static err_t read_modelopt(struct reading *r)
{
    static const struct {
        const char *name;
        int layouts;
    } algos[] = {
        {"NVFP4", LAYOUT_NVFP4},
        {"FP8", LAYOUT_FP8},
        {"MIXED_PRECISION", LAYOUT_NVFP4 | LAYOUT_FP8},
    };
    const struct json *inner = json_get(r->config, "quantization");
    const struct json *from = inner ? inner : r->config, *group = json_get(from, "group_size");
    const char *algo = get_word(from, "quant_algo", NULL, "nothing");
    struct quant_scheme *s = &r->q->otherwise;
    for (size_t i = 0; i < sizeof algos / sizeof *algos; i++)
        if (strcmp(algo, algos[i].name) == 0) s->layouts = (uint8_t)algos[i].layouts;
    if (!s->layouts)
        return fail(r, "quant_algo of modelopt: found %.40s, allowed NVFP4, FP8, MIXED_PRECISION",
                    algo);
    if (s->layouts == LAYOUT_NVFP4 && !is_null(group) && !int_is(from, "group_size", 16))
        return fail(r, "group_size: found %s, allowed 16 with NVFP4", value_text(group).s);
    return set_words(r, "modelopt", strcmp(algo, "MIXED_PRECISION") ? algo : "mixed");
}

static err_t read_fp8(struct reading *r)
{
    static const char *const formats[] = {"e4m3", "float8_e4m3fn", NULL};
    const char *format = get_word(r->config, "fmt", "weight_dtype", "e4m3");
    const char *expert = get_word(r->config, "expert_dtype", NULL, "fp8");
    struct quant_scheme *s = &r->q->otherwise;
    if (!is_any(format, formats)) return fail(r, "fmt '%.40s', allowed e4m3", format);
    if (strcmp(expert, "fp8")) return fail(r, "expert_dtype '%.40s', allowed fp8", expert);
    *s = (struct quant_scheme){.layouts = LAYOUT_FP8, .bits = 8};
    if (!json_get(r->config, "weight_block_size")) { // transformers' default
        s->block_rows = s->block_cols = 128;
        s->blocks_assumed = true;
    }
    err_t e = get_block(r, r->config, "weight_block_size", s);
    r->q->words = "FP8";
    return e;
}

static err_t read_fbgemm(struct reading *r)
{
    r->q->otherwise = (struct quant_scheme){.layouts = LAYOUT_FP8, .bits = 8};
    r->q->words = "fbgemm FP8";
    return OK;
}

static err_t read_mxfp4(struct reading *r)
{
    r->q->otherwise = (struct quant_scheme){.layouts = LAYOUT_MXFP4, .bits = 4};
    r->q->words = "MXFP4";
    return OK;
}

static err_t read_method(struct reading *r, const char *method)
{
    static const struct {
        const char *name;
        err_t (*read)(struct reading *r);
    } methods[] = {
        {"gptq", read_gptq},
        {"gptqmodel", read_gptq},
        {"awq", read_awq},
        {"auto-round", read_auto_round},
        {"intel/auto-round", read_auto_round},
        {"compressed-tensors", read_compressed_tensors},
        {"modelopt", read_modelopt},
        {"modelopt_fp4", read_modelopt},
        {"modelopt_mixed", read_modelopt},
        {"fp8", read_fp8},
        {"fbgemm_fp8", read_fbgemm},
        {"mxfp4", read_mxfp4},
    };
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (strcmp(method, methods[i].name) == 0) return methods[i].read(r);
    return fail(r,
                "quant_method '%.40s' is not supported; allowed are gptq, auto-round, awq, "
                "compressed-tensors, modelopt, fp8, fbgemm_fp8, mxfp4",
                method);
}

// The config that applies, or NULL: config.json's own, its text model's, modelopt's own file.
static const struct json *config_of(const struct tensors *t)
{
    static const char *const parents[] = {"text_config", "language_config", "llm_config"};
    const struct json *j = json_get(t->config, "quantization_config");
    if (is_null(j)) j = json_get(t->config, "compression_config");
    for (size_t i = 0; i < sizeof parents / sizeof *parents && is_null(j); i++)
        j = json_get(json_get(t->config, parents[i]), "quantization_config");
    return is_null(j) ? NULL : j;
}

static err_t read_config(const struct tensors *t, struct arena *a, struct quant *q,
                         struct err_text *why)
{
    struct reading r = {.q = q, .a = a, .config = config_of(t), .why = why};
    const char *otherwise = NULL;
    if (!r.config && t->quant_config) {
        r.config = t->quant_config;
        otherwise = "modelopt";
    }
    if (!r.config) return OK;
    if (r.config->kind != J_OBJ)
        return fail(&r, "found %s, expected an object", value_text(r.config).s);
    const char *method = get_word(r.config, "quant_method", "method", otherwise);
    if (!method) // MLX writes one without
        return fail(&r, "has no quant_method, so its tensors cannot be told");
    err_t e = read_method(&r, method);
    return e ? e : index_rules(&r);
}

err_t quant_open(const struct tensors *t, struct arena *a, struct quant **out, struct err_text *why)
{
    struct quant *q = calloc(1, sizeof *q);
    uint64_t *steps = arena_take(a, sizeof *steps);
    if (!q || !steps) {
        free(q);
        return err_say(why, ERR_MEMORY, "%s: no memory", file_tail(t->path));
    }
    *steps = STEPS_MAX;
    q->path = t->path;
    q->steps_left = steps;
    err_t e = read_config(t, a, q, why);
    if (e)
        quant_close(q);
    else
        *out = q;
    return e;
}

void quant_close(struct quant *q)
{
    if (!q) return;
    names_fini(&q->by_name);
    free(q->rules);
    free(q);
}

const char *quant_words(const struct quant *q)
{
    return q->words;
}
