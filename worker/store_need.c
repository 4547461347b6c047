#include "worker/store_need.h"

#include "worker/source.h"
#include "worker/weights.h"

#include <stdlib.h>
#include <string.h>

struct need {
    struct store *store;
    uint32_t *file; // (model->n_file) the store's number of each
};

// -- opening --

struct opening {
    struct store *store;
    uint32_t file;
};

static void on_range(void *arg, uint64_t from, uint64_t bytes)
{
    const struct opening *o = arg;
    store_need(o->store, o->file, from, bytes);
}

void store_need_opening(struct store *s)
{
    const struct offer *o = store_files(s);
    for (uint32_t i = 0; i < o->n_file; i++)
        offer_opening(&o->files[i], on_range, &(struct opening){s, i});
}

// -- rows --

// One tensor of a weight, as far as it concerns one of its matrices.
struct slice {
    const struct model_tensor *t;
    int64_t matrix, n_matrix;
    int64_t out; // rows of a matrix, if it lies row by row; else 0
};

static void mark(const struct need *n, const struct model_tensor *t, uint64_t from, uint64_t bytes)
{
    store_need(n->store, n->file[t->file], t->offset + from, bytes);
}

// All of the matrix's part, or of the tensor if it is not laid out by matrix.
static void mark_matrix(const struct need *n, const struct slice *s)
{
    if (!s->t) return;
    const bool by_matrix = s->n_matrix > 1 && s->t->n_dim > 0 && s->t->shape[0] == s->n_matrix;
    const uint64_t bytes = by_matrix ? s->t->bytes / (uint64_t)s->n_matrix : s->t->bytes;
    mark(n, s->t, by_matrix ? (uint64_t)s->matrix * bytes : 0, bytes);
}

static void mark_rows(const struct need *n, const struct slice *s, int64_t from, int64_t to)
{
    const uint64_t row = s->t->bytes / (uint64_t)(s->out * s->n_matrix);
    mark(n, s->t, (uint64_t)(s->matrix * s->out + from) * row, (uint64_t)(to - from) * row);
}

static bool is_strided(const struct model_weight *w)
{
    return w->kind == SOURCE_GPTQ || w->kind == SOURCE_AWQ || w->turn == TURN_COLUMNS;
}

// Bits that a row of `in` values takes in the main tensor.
static uint64_t row_bits(const struct model_weight *w, const struct model_tensor *t, int64_t in)
{
    switch (w->kind) {
    case SOURCE_ROWS:
        return 8 * dtype_row_bytes(t->dtype, (uint64_t)in);
    case SOURCE_CT_INT:
        return (uint64_t)in * w->bits;
    case SOURCE_NVFP4:
    case SOURCE_MXFP4:
        return (uint64_t)in * 4;
    default:
        return (uint64_t)in * 8;
    }
}

// Rows of a matrix in the source; 0: it does not lie row by row.
static int64_t n_row_of(const struct model_weight *w, const struct slice *s)
{
    const int64_t in = w->turn == TURN_HEADS ? source_n_row(w) : source_n_col(w);
    const uint64_t bits = row_bits(w, s->t, in) * (uint64_t)s->n_matrix;
    if (is_strided(w) || bits == 0 || s->t->bytes > UINT64_MAX / 8 || 8 * s->t->bytes % bits)
        return 0;
    return (int64_t)(8 * s->t->bytes / bits);
}

// Scales with a line for each row.
static bool is_by_row(const struct slice *scale, int64_t out)
{
    const struct model_tensor *t = scale->t;
    const int32_t at = scale->n_matrix > 1 ? 1 : 0;
    return t && t->n_dim > at && t->shape[at] == out && (!at || t->shape[0] == scale->n_matrix) &&
           t->bytes % (uint64_t)(out * scale->n_matrix) == 0;
}

// Source rows [from, to) of the main tensor and of the scales that go with them.
static void mark_run(const struct need *n, const struct slice *main, const struct slice *scale,
                     int64_t from, int64_t to)
{
    if (from < 0 || to > main->out) return; // loading will say what is wrong
    mark_rows(n, main, from, to);
    if (scale->out) mark_rows(n, scale, from, to);
}

static err_t on_rows(void *arg, const struct model_weight *w, int64_t i, int64_t row_from,
                     int64_t n_row)
{
    const struct need *n = arg;
    if (w->kind == SOURCE_MADE) return OK;
    const bool one = w->n_source == 1, is_turned = w->turn == TURN_HEADS;
    const struct model_source *src = &w->sources[one ? 0 : i];
    struct slice s = {.t = src->main, .n_matrix = 1};
    if (one && !w->heads_in_rows && !is_turned) s.n_matrix = w->n;
    if (s.n_matrix > 1) s.matrix = i;
    struct slice scale = s;
    s.out = n_row_of(w, &s);
    scale.t = src->scale;
    if (s.out && is_by_row(&scale, s.out)) scale.out = s.out;
    const struct model_tensor *others[] = {src->zero, src->order, src->global,
                                           scale.out ? NULL : src->scale, s.out ? NULL : src->main};
    for (size_t k = 0; k < sizeof others / sizeof *others; k++)
        mark_matrix(n, &(struct slice){others[k], s.matrix, s.n_matrix, 0});
    if (!s.out) return OK;
    const int64_t per = is_turned ? w->cols : source_n_row(w);
    const int64_t first =
        (w->heads_in_rows || is_turned ? i * per : 0) + (is_turned ? 0 : row_from);
    const int64_t end = first + (is_turned ? per : n_row);
    for (int64_t r = first; r < end;) {
        const int64_t from = model_weight_row(w, r);
        int64_t to = from;
        while (r < end && model_weight_row(w, r) == to)
            r++, to++;
        mark_run(n, &s, &scale, from, to);
    }
    return OK;
}

// -- stages --

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static err_t number_files(struct need *n, const struct model *m, struct err_text *why)
{
    const struct offer *o = store_files(n->store);
    for (int32_t i = 0; i < m->n_file; i++) {
        const char *name = last_part(m->files[i].path);
        uint32_t k = 0;
        while (k < o->n_file && strcmp(o->files[k].name, name))
            k++;
        if (k == o->n_file)
            return err_say(why, ERR_MODEL, "store: the model's file '%.60s' was not offered", name);
        n->file[i] = k;
    }
    return OK;
}

err_t store_need_stage(struct store *s, const struct stage_config *c, struct err_text *why)
{
    struct need n = {.store = s, .file = calloc((size_t)c->model->n_file + 1, sizeof *n.file)};
    if (!n.file) return err_say(why, ERR_MEMORY, "store: no memory for a list of files");
    err_t e = number_files(&n, c->model, why);
    if (!e) e = weights_each(c, on_rows, &n);
    free(n.file);
    return e;
}
