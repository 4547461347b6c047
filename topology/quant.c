#include "topology/quant_rules.h"

#include "topology/file.h"

#include <stdio.h>
#include <string.h>

enum { NAME_BYTES = 640 };

// One question while it is being answered.
struct find {
    const struct quant *q;
    const struct tensors *t;
    const struct quant_want *want;
    struct quant_scheme scheme;
    struct quant_found found;
    struct err_text *why;
};

__attribute__((format(printf, 2, 3))) static err_t fail(const struct find *f, const char *fmt, ...)
{
    char msg[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    return err_say(f->why, ERR_MODEL, "%s: %s", file_tail(f->t->path), msg);
}

static const struct model_tensor *look(const struct find *f, const char *ending)
{
    char name[NAME_BYTES];
    int n = snprintf(name, sizeof name, "%s%s", f->want->module, ending);
    return n < (int)sizeof name ? tensors_find(f->t, name) : NULL;
}

static err_t need(const struct find *f, const char *ending, const struct model_tensor **out)
{
    *out = look(f, ending);
    return *out ? OK : fail(f, "tensor '%.90s%s' is missing", f->want->module, ending);
}

// ---- shapes

struct dims {
    int n;
    int64_t d[5];
};

static struct dims dims_of(const struct model_tensor *t)
{
    struct dims d = {.n = t->n_dim};
    memcpy(d.d, t->shape, sizeof t->shape);
    return d;
}

static struct dims dims2(int64_t a, int64_t b)
{
    return (struct dims){2, {a, b}};
}

// Without the dimensions of 1 at the front: some files keep them.
static struct dims trimmed(struct dims d)
{
    while (d.n && d.d[0] == 1)
        memmove(d.d, d.d + 1, (size_t)--d.n * sizeof *d.d);
    return d;
}

static bool dims_same(struct dims a, struct dims b)
{
    a = trimmed(a);
    b = trimmed(b);
    return a.n == b.n && memcmp(a.d, b.d, (size_t)a.n * sizeof *a.d) == 0;
}

struct dims_text {
    char s[64];
};

static struct dims_text dims_text(struct dims d)
{
    struct dims_text t = {"("};
    for (int i = 0; i < d.n; i++) {
        size_t len = strlen(t.s);
        snprintf(t.s + len, sizeof t.s - len, "%s%lld", i ? ", " : "", (long long)d.d[i]);
    }
    size_t len = strlen(t.s);
    snprintf(t.s + len, sizeof t.s - len, ")");
    return t;
}

static err_t check_shape(const struct find *f, const struct model_tensor *t, struct dims want)
{
    if (dims_same(dims_of(t), want)) return OK;
    return fail(f, "tensor '%.90s': shape %s, expected %s", t->name, dims_text(dims_of(t)).s,
                dims_text(want).s);
}

static err_t check_type(const struct find *f, const struct model_tensor *t, enum dtype type)
{
    if (t->dtype == type) return OK;
    return fail(f, "tensor '%.90s': type %s, expected %s", t->name, dtype_info(t->dtype)->name,
                dtype_info(type)->name);
}

static err_t check_float(const struct find *f, const struct model_tensor *t)
{
    if (t->dtype == DT_F32 || t->dtype == DT_F16 || t->dtype == DT_BF16) return OK;
    return fail(f, "tensor '%.90s': type %s, expected F32, F16 or BF16", t->name,
                dtype_info(t->dtype)->name);
}

static err_t needs(const struct find *f, const char *ending, enum dtype type, struct dims shape,
                   const struct model_tensor **out)
{
    err_t e = need(f, ending, out);
    if (!e) e = type ? check_type(f, *out, type) : check_float(f, *out);
    return e ? e : check_shape(f, *out, shape);
}

static bool is_single(const struct model_tensor *t)
{
    return trimmed(dims_of(t)).n == 0;
}

// ---- what the config says of this module

static err_t check_layout(struct find *f, int layout, const char *words)
{
    err_t e = quant_rules_find(f->q, f->want->module, &f->scheme, f->why);
    if (e || f->scheme.layouts & layout) return e;
    if (!f->q->words)
        return fail(f, "module '%.90s' has %s, but config.json has no quantization_config",
                    f->want->module, words);
    return fail(f, "module '%.90s' has %s, but quantization_config (%s) says otherwise",
                f->want->module, words, f->q->words);
}

static err_t check_one(const struct find *f, const char *words)
{
    if (f->want->n == 1) return OK;
    return fail(f, "module '%.90s': %lld matrices in one tensor of %s, allowed one",
                f->want->module, (long long)f->want->n, words);
}

// Columns of one scale of integers; the last group may have fewer.
static int64_t group_size(const struct find *f)
{
    const int64_t cols = f->want->cols, group = f->scheme.group;
    return group < 0 || group > cols ? cols : group;
}

static int64_t count_groups(const struct find *f)
{
    return (f->want->cols + group_size(f) - 1) / group_size(f);
}

static err_t check_words(const struct find *f, int64_t n, const char *what)
{
    if (n * f->scheme.bits % 32 == 0) return OK;
    return fail(f, "module '%.90s': %lld %s of %d bits do not fill words of 32", f->want->module,
                (long long)n, what, f->scheme.bits);
}

// Blocks of 32 columns must not straddle two scales.
static enum dtype int_dtype(const struct find *f)
{
    const int64_t cols = f->want->cols, group = group_size(f);
    if (cols % 32 || (group < cols && group % 32)) return DT_F32;
    return f->scheme.bits == 8                          ? DT_INT8
           : f->scheme.bits == 4 && f->scheme.symmetric ? DT_Q4_0
                                                        : DT_INT4;
}

static void take_int(struct find *f, enum source_kind kind)
{
    f->found.kind = kind;
    f->found.bits = f->scheme.bits;
    f->found.zero_is_plus_one = f->scheme.zero_is_plus_one;
    f->found.block_cols = (int32_t)group_size(f);
    f->found.dtype = int_dtype(f);
}

// ---- layouts

static err_t find_gptq(struct find *f, int64_t n_group)
{
    const int64_t rows = f->want->rows, cols = f->want->cols, bits = f->scheme.bits;
    struct model_source *s = &f->found.source;
    err_t e = check_words(f, cols, "columns");
    if (!e) e = check_words(f, rows, "rows");
    if (!e) e = needs(f, ".qweight", DT_I32, dims2(cols * bits / 32, rows), &s->main);
    if (!e) e = needs(f, ".qzeros", DT_I32, dims2(n_group, rows * bits / 32), &s->zero);
    if (!e) e = needs(f, ".scales", DT_NONE, dims2(n_group, rows), &s->scale);
    if (!e && f->scheme.act_order && n_group > 1) // else it is there, but says nothing
        e = needs(f, ".g_idx", DT_I32, (struct dims){1, {cols}}, &s->order);
    if (!e) take_int(f, SOURCE_GPTQ);
    return e;
}

static err_t find_awq(struct find *f, int64_t n_group)
{
    const int64_t rows = f->want->rows, cols = f->want->cols, bits = f->scheme.bits;
    struct model_source *s = &f->found.source;
    err_t e = check_words(f, rows, "rows");
    if (!e) e = needs(f, ".qweight", DT_I32, dims2(cols, rows * bits / 32), &s->main);
    if (!e) e = needs(f, ".qzeros", DT_I32, dims2(n_group, rows * bits / 32), &s->zero);
    if (!e) e = needs(f, ".scales", DT_NONE, dims2(n_group, rows), &s->scale);
    if (!e) take_int(f, SOURCE_AWQ);
    return e;
}

static err_t find_qweight(struct find *f)
{
    err_t e = check_layout(f, LAYOUT_GPTQ | LAYOUT_AWQ, "qweight");
    if (!e) e = check_one(f, "integers");
    if (e) return e;
    return f->scheme.layouts & LAYOUT_AWQ ? find_awq(f, count_groups(f))
                                          : find_gptq(f, count_groups(f));
}

static err_t find_ct_int(struct find *f)
{
    const int64_t rows = f->want->rows, cols = f->want->cols;
    struct model_source *s = &f->found.source;
    err_t e = check_layout(f, LAYOUT_CT_INT, "packed integers");
    if (e) return e;
    const int64_t bits = f->scheme.bits, n_group = count_groups(f);
    e = check_words(f, cols, "columns");
    if (!e) e = needs(f, ".weight_packed", DT_I32, dims2(rows, cols * bits / 32), &s->main);
    if (!e) e = needs(f, ".weight_scale", DT_NONE, dims2(rows, n_group), &s->scale);
    if (!e && !f->scheme.symmetric) {
        e = check_words(f, rows, "rows");
        if (!e)
            e = needs(f, ".weight_zero_point", DT_I32, dims2(rows * bits / 32, n_group), &s->zero);
    }
    if (!e && f->scheme.act_order && n_group > 1)
        e = needs(f, ".weight_g_idx", DT_I32, (struct dims){1, {cols}}, &s->order);
    if (e) return e;
    take_int(f, SOURCE_CT_INT);
    return OK;
}

static err_t find_int8(struct find *f, const struct model_tensor *main)
{
    struct model_source *s = &f->found.source;
    err_t e = check_layout(f, LAYOUT_INT8, "integers of 8 bits");
    if (!e) e = check_one(f, "integers");
    if (!e) e = check_shape(f, main, dims2(f->want->rows, f->want->cols));
    if (!e) e = need(f, ".weight_scale", &s->scale);
    if (!e) e = check_float(f, s->scale);
    if (!e && !is_single(s->scale)) e = check_shape(f, s->scale, dims2(f->want->rows, 1));
    if (e) return e;
    s->main = main;
    f->found.kind = SOURCE_INT8;
    f->found.bits = 8;
    f->found.dtype = f->want->cols % 32 ? DT_F32 : DT_INT8;
    return OK;
}

// (rows, cols) of each of n matrices; n 1: no dimension for it.
static struct dims stacked(int64_t n, int64_t rows, int64_t cols)
{
    return n == 1 ? dims2(rows, cols) : (struct dims){3, {n, rows, cols}};
}

// Scales of FP8: one, one for each row, a grid of blocks; or halves of a fused matrix, one each.
static err_t fp8_blocks(struct find *f, const struct model_tensor *scale)
{
    const int64_t n = f->want->n, rows = f->want->rows, cols = f->want->cols;
    const int64_t by = f->scheme.block_rows, bx = f->scheme.block_cols;
    const struct dims have = dims_of(scale);
    struct quant_found *out = &f->found;
    if (by && !(f->scheme.blocks_assumed && is_single(scale))) {
        out->block_rows = (int32_t)by;
        out->block_cols = (int32_t)bx;
        return check_shape(f, scale, stacked(n, (rows + by - 1) / by, (cols + bx - 1) / bx));
    }
    if (is_single(scale) || dims_same(have, stacked(n, 1, 1)) ||
        dims_same(have, (struct dims){1, {n}}))
        return OK;
    const int64_t split = have.n >= 2 ? have.d[have.n - 2] : have.d[0];
    if (split < 1 || rows % split || rows / split > INT32_MAX ||
        !(dims_same(have, stacked(n, split, 1)) ||
          (n == 1 && dims_same(have, (struct dims){1, {rows}}))))
        return fail(f, "tensor '%.90s': shape %s, allowed one scale, one for each row, or %s",
                    scale->name, dims_text(have).s, "the blocks that the config names");
    out->block_rows = (int32_t)(rows / split);
    return OK;
}

static err_t find_fp8(struct find *f, const struct model_tensor *main)
{
    static const char *const scales[] = {".weight_scale_inv", ".weight_scale", "_scale_inv",
                                         "_scale"};
    struct model_source *s = &f->found.source;
    const struct quant_want *w = f->want;
    err_t e = check_layout(f, LAYOUT_FP8, "FP8 values");
    if (!e) e = check_shape(f, main, stacked(w->n, w->rows, w->cols));
    if (e) return e;
    for (size_t i = 0; i < sizeof scales / sizeof *scales && !s->scale; i++)
        s->scale = look(f, scales[i]);
    if (!s->scale) return fail(f, "tensor '%.90s.weight_scale' is missing", w->module);
    if ((e = check_float(f, s->scale)) || (e = fp8_blocks(f, s->scale))) return e;
    s->main = main;
    f->found.kind = SOURCE_FP8;
    f->found.bits = 8;
    f->found.dtype = w->cols % 32 || f->found.block_cols % 32 ? DT_F32 : DT_FP8;
    return OK;
}

static err_t find_nvfp4(struct find *f, const struct model_tensor *main, const char *global)
{
    struct model_source *s = &f->found.source;
    const int64_t rows = f->want->rows, cols = f->want->cols;
    err_t e = check_layout(f, LAYOUT_NVFP4, "NVFP4 values");
    if (!e) e = check_one(f, "NVFP4");
    if (!e && cols % 16)
        e = fail(f, "module '%.90s': %lld columns, allowed with NVFP4: multiples of 16",
                 f->want->module, (long long)cols);
    if (!e) e = check_shape(f, main, dims2(rows, cols / 2));
    if (!e) e = needs(f, ".weight_scale", DT_F8_E4M3, dims2(rows, cols / 16), &s->scale);
    if (!e) e = needs(f, global, DT_F32, (struct dims){0}, &s->global);
    if (!e && look(f, ".pre_quant_scale"))
        e = fail(f, "tensor '%.90s.pre_quant_scale': scales of inputs in NVFP4 are not supported",
                 f->want->module);
    if (e) return e;
    s->main = main;
    f->found.kind = SOURCE_NVFP4;
    f->found.bits = 4;
    f->found.global_divides = f->scheme.global_divides;
    f->found.dtype = cols % 64 ? DT_F32 : DT_NVFP4;
    return OK;
}

// gpt-oss: blocks (n, rows, cols / 32, 16); compressed-tensors: packed (rows, cols / 2).
static err_t find_mxfp4(struct find *f, const struct model_tensor *main, bool in_blocks)
{
    struct model_source *s = &f->found.source;
    const int64_t n = f->want->n, rows = f->want->rows, cols = f->want->cols;
    struct dims values = stacked(n, rows, cols / 2);
    if (in_blocks) {
        values.d[values.n - 1] = cols / 32;
        values.d[values.n++] = 16;
    }
    err_t e = check_layout(f, LAYOUT_MXFP4, "MXFP4 values");
    if (!e && cols % 32)
        e = fail(f, "module '%.90s': %lld columns, allowed with MXFP4: multiples of 32",
                 f->want->module, (long long)cols);
    if (!e) e = check_type(f, main, DT_U8);
    if (!e) e = check_shape(f, main, values);
    if (!e)
        e = needs(f, in_blocks ? "_scales" : ".weight_scale", DT_U8, stacked(n, rows, cols / 32),
                  &s->scale);
    if (e) return e;
    s->main = main;
    f->found.kind = SOURCE_MXFP4;
    f->found.bits = 4;
    f->found.dtype = DT_MXFP4;
    return OK;
}

static err_t find_packed(struct find *f, const struct model_tensor *packed)
{
    const struct model_tensor *scale;
    err_t e = check_one(f, "packed values");
    if (!e && packed->dtype == DT_I32) return find_ct_int(f);
    if (!e) e = check_type(f, packed, DT_U8);
    if (!e) e = need(f, ".weight_scale", &scale);
    if (e) return e;
    return scale->dtype == DT_U8 ? find_mxfp4(f, packed, false)
                                 : find_nvfp4(f, packed, ".weight_global_scale");
}

static err_t find_plain(struct find *f, const struct model_tensor *t)
{
    const struct quant_want *w = f->want;
    const struct dims shape =
        w->transposed ? stacked(w->n, w->cols, w->rows) : stacked(w->n, w->rows, w->cols);
    if (!dtype_is_weight(t->dtype) && t->dtype != DT_F64)
        return fail(f, "tensor '%.90s': type %s, which is no weight's", t->name,
                    dtype_info(t->dtype)->name);
    f->found.kind = SOURCE_ROWS;
    f->found.source.main = t;
    f->found.dtype = t->dtype == DT_F64 ? DT_F32 : t->dtype;
    return check_shape(f, t, shape);
}

static err_t find_weight(struct find *f, const struct model_tensor *t)
{
    const bool quantised = t->dtype == DT_F8_E4M3 || t->dtype == DT_I8 || t->dtype == DT_U8;
    if (quantised && f->want->transposed)
        return fail(f, "tensor '%.90s': type %s, which is not supported lying (in, out)", t->name,
                    dtype_info(t->dtype)->name);
    if (t->dtype == DT_F8_E4M3) return find_fp8(f, t);
    if (t->dtype == DT_I8) return find_int8(f, t);
    if (t->dtype == DT_U8) return find_nvfp4(f, t, ".weight_scale_2");
    return find_plain(f, t);
}

static err_t find(struct find *f)
{
    const struct model_tensor *t;
    if (look(f, ".qweight")) return find_qweight(f);
    if ((t = look(f, ".weight_packed"))) return find_packed(f, t);
    if ((t = look(f, "_blocks"))) return find_mxfp4(f, t, true);
    if ((t = look(f, ".weight")) || (t = look(f, ""))) return find_weight(f, t);
    return ERR_NOT_FOUND;
}

err_t quant_find(const struct quant *q, const struct tensors *t, const struct quant_want *want,
                 struct quant_found *out, struct err_text *why)
{
    struct find f = {.q = q, .t = t, .want = want, .why = why};
    BUG_ON(want->n < 1 || want->rows < 1 || want->cols < 1);
    err_t e = find(&f);
    if (!e) *out = f.found;
    return e;
}

bool quant_same(const struct quant_found *a, const struct quant_found *b)
{
    return a->kind == b->kind && a->dtype == b->dtype && a->bits == b->bits &&
           a->zero_is_plus_one == b->zero_is_plus_one && a->global_divides == b->global_divides &&
           a->block_rows == b->block_rows && a->block_cols == b->block_cols;
}
