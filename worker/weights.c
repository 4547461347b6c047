#include "worker/weights_priv.h"
#include "worker/source.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    PIECE_BYTES = 512 << 10, // read and packed at once by one thread
    LOAD_THREADS_MAX = 16,
    DEVICE_READERS = 8,     // at least, for a device: they wait for the disk more than they compute
    TOUCH_BYTES = 64 << 20, // between two looks whether loading goes on
};

// Of one weight, or of one of a stack; 0: cannot be computed with.
static uint64_t bytes_of(struct kernels *k, const struct model_weight *w)
{
    if (w->is_matrix) return k->ops->weight_bytes(k, w->dtype, w->rows, w->cols);
    return w->dtype == DT_F32 ? (uint64_t)w->rows * (uint64_t)w->cols * 4 : 0;
}

// n: how many of a stack.
static struct weight lay_out(const struct model_weight *w, struct share_range rows, int64_t n,
                             struct kernels *k, struct mem_carver *c)
{
    struct model_weight mine = *w; // its rows, as if that were all of it
    if (source_n_row(w) == w->rows)
        mine.rows = rows.to - rows.from;
    else
        mine.cols = rows.to - rows.from;
    uint64_t bytes = bytes_of(k, &mine);
    struct weight x = {.rows = rows};
    x.view = (struct view){.dtype = w->dtype, .n_dim = 2, .shape = {mine.rows, mine.cols}};
    x.view.layout = w->is_matrix ? LAYOUT_PACKED : LAYOUT_ROWS;
    if (w->n > 1) {
        if (w->is_matrix) bytes = (bytes + 63) & ~(uint64_t)63;
        x.view.n_dim = 3;
        x.view.shape[0] = n;
        x.view.shape[1] = mine.rows;
        x.view.shape[2] = mine.cols;
        x.view.stride[0] = (int64_t)bytes;
    }
    x.view.data = mem_carve(c, (uint64_t)n, bytes);
    if (w->n > 1 && source_has_factor(w)) x.factors = mem_carve(c, (uint64_t)n, sizeof *x.factors);
    if (source_may_order(w)) x.order = mem_carve(c, (uint64_t)(n * w->cols), sizeof *x.order);
    return x;
}

static int64_t n_held(const struct stage_config *c, const struct model_weight *w)
{
    int64_t n = 0;
    for (int64_t i = 0; i < w->n; i++)
        n += weights_holds(c, w, i);
    return n;
}

// Lays out one part's weights; with base NULL it only counts. Vectors stay F32, matrices are
// packed.
static err_t layout(const struct stage_config *c, struct kernels *k, struct part *p, char *base,
                    uint64_t *bytes, struct err_text *why)
{
    struct mem_carver carver = {.base = base};
    for (int32_t i = 0; i < c->model->n_weight; i++) {
        const struct model_weight *w = &c->model->weights[i];
        if (w->part != p->id) continue;
        if (bytes_of(k, w) == 0)
            return err_say(why, ERR_MODEL, "weight %s: no kernel for %s of shape %lld x %lld (%s)",
                           w->n_source ? w->sources[0].main->name : "made up",
                           dtype_info(w->dtype)->name, (long long)w->rows, (long long)w->cols,
                           c->model->path);
        const struct share_range rows = weights_rows(c, w);
        const int64_t n = n_held(c, w);
        if (n && rows.from < rows.to) p->w[w->slot] = lay_out(w, rows, n, k, &carver);
    }
    *bytes = carver.used;
    return OK;
}

err_t weights_bytes(const struct stage_config *c, struct kernels *k, uint64_t *out,
                    struct err_text *why)
{
    const int32_t n = weights_n_part(c);
    uint64_t sum = 0;
    for (int32_t i = 0; i < n; i++) {
        struct part p = {.id = weights_part_id(c, i)};
        uint64_t bytes = 0;
        err_t e = layout(c, k, &p, NULL, &bytes, why);
        if (e) return e;
        sum += bytes;
    }
    *out = sum;
    return OK;
}

// -- reading: a list of pieces that several threads take from --

// Rows as the model counts them; matrix i of the model's stack is `place` of ours.
struct piece {
    const struct model_weight *w;
    struct weight *dst;
    int64_t i, place, row_from, n_row;
};

// The first piece of a matrix brings what belongs to all of it.
static bool is_first(const struct piece *p)
{
    return p->row_from == p->dst->rows.from;
}

struct reader {
    const struct stage_config *config;
    struct kernels *k;
    struct source_files files;
    const struct mem *const *beside;
    struct piece *pieces;
    size_t n_piece, cap_piece;
    atomic_size_t next;
    atomic_bool failed;
    pthread_mutex_t lock; // of the first error
    err_t err;
    struct err_text why;
};

// What one thread needs for itself.
struct loader {
    struct source_reader source;
    struct mem order; // the columns of the matrix at hand
};

static err_t add_piece(struct reader *r, const struct piece *p, struct err_text *why)
{
    if (r->n_piece == r->cap_piece) {
        const size_t cap = r->cap_piece ? 2 * r->cap_piece : 256;
        struct piece *more = realloc(r->pieces, cap * sizeof *more);
        if (!more) return err_say(why, ERR_MEMORY, "no memory for the list of weights");
        r->pieces = more;
        r->cap_piece = cap;
    }
    r->pieces[r->n_piece++] = *p;
    return OK;
}

// The pieces of one matrix.
static err_t add_matrix(struct reader *r, struct piece p, struct err_text *why)
{
    const struct share_range rows = p.dst->rows;
    const int64_t step = source_step(p.w, PIECE_BYTES);
    err_t e = OK;
    for (p.row_from = rows.from; !e && p.row_from < rows.to; p.row_from += step) {
        p.n_row = rows.to - p.row_from < step ? rows.to - p.row_from : step;
        e = add_piece(r, &p, why);
    }
    return e;
}

static err_t add_pieces(struct reader *r, struct part *part, struct err_text *why)
{
    const struct model *m = r->config->model;
    err_t e = OK;
    for (int32_t x = 0; x < m->n_weight && !e; x++) {
        struct piece p = {.w = &m->weights[x], .dst = &part->w[m->weights[x].slot]};
        if (p.w->part != part->id || !p.dst->view.data) continue;
        e = source_open(&r->files, p.w, why);
        for (; !e && p.i < p.w->n; p.i++)
            if (weights_holds(r->config, p.w, p.i)) {
                e = add_matrix(r, p, why);
                p.place++;
            }
    }
    return e;
}

static err_t load_factor(struct kernels *k, struct source_reader *s, const struct piece *p,
                         struct err_text *why)
{
    if (!is_first(p) || !source_has_factor(p->w)) return OK;
    float f;
    err_t e = source_factor(s, p->w, p->i, &f, why);
    if (e) return e;
    if (p->dst->factors)
        k->ops->put(k, (float *)p->dst->factors + p->place, &f, sizeof f);
    else
        p->dst->view.factor = f;
    return OK;
}

// Where the first piece of a matrix lists its columns.
static err_t order_of(const struct piece *p, struct loader *l, int32_t **out, struct err_text *why)
{
    *out = NULL;
    if (!is_first(p) || !p->dst->order) return OK;
    const uint64_t bytes = (uint64_t)p->w->cols * sizeof **out;
    if (l->order.bytes < bytes) {
        mem_give(&l->order);
        err_t e = mem_take(bytes, "an order of columns", &l->order, why);
        if (e) return e;
    }
    *out = l->order.data;
    return OK;
}

// If the columns of this matrix are in the model's order, alone it needs no list; in a stack it has
// a plain one beside the others.
static void keep_order(struct kernels *k, const struct piece *p, int32_t *order, bool is_ordered)
{
    if (!is_ordered && p->w->n == 1) {
        p->dst->order = NULL;
        return;
    }
    for (int64_t c = 0; !is_ordered && c < p->w->cols; c++)
        order[c] = (int32_t)c;
    k->ops->put(k, (int32_t *)p->dst->order + p->place * p->w->cols, order,
                (uint64_t)p->w->cols * sizeof *order);
}

static err_t load_piece(struct reader *r, struct loader *l, const struct piece *p,
                        struct err_text *why)
{
    struct kernels *k = r->k;
    int32_t *order;
    err_t e = order_of(p, l, &order, why);
    if (e) return e;
    const struct source_piece rows_of = {p->w, p->i, p->row_from, p->n_row, order};
    const int64_t row_to = p->row_from - p->dst->rows.from; // of ours
    const void *rows;
    bool is_ordered;
    e = load_factor(k, &l->source, p, why);
    if (!e) e = source_rows(&l->source, &rows_of, &rows, &is_ordered, why);
    if (e) return e;
    if (order) keep_order(k, p, order, is_ordered);
    const struct view *v = &p->dst->view;
    if (p->w->is_matrix) {
        struct view one = *v;
        if (p->w->n > 1) one = view_of_stack(v, p->place);
        k->ops->weight_pack(k, rows, row_to, p->n_row, &one);
        return OK;
    }
    const uint64_t row_bytes = 4 * (uint64_t)source_n_col(p->w);
    const int64_t at = p->place * (p->dst->rows.to - p->dst->rows.from) + row_to;
    k->ops->put(k, (char *)v->data + (uint64_t)at * row_bytes, rows,
                (uint64_t)p->n_row * row_bytes);
    return OK;
}

static bool is_cancelled(const struct reader *r)
{
    const struct stage_load *load = r->config->load;
    return load && atomic_load(&load->cancel);
}

static void *reader_main(void *arg)
{
    struct reader *r = arg;
    struct stage_load *load = r->config->load;
    struct loader l = {.source.files = &r->files};
    struct err_text why = {0};
    err_t e = OK;
    while (!e && !atomic_load(&r->failed)) {
        const size_t i = atomic_fetch_add(&r->next, 1);
        if (i >= r->n_piece) break;
        if (is_cancelled(r))
            e = err_say(&why, ERR_CANCELLED, "loading was cancelled");
        else
            e = load_piece(r, &l, &r->pieces[i], &why);
        if (load) atomic_fetch_add(&load->pieces, 1);
    }
    source_reader_fini(&l.source);
    mem_give(&l.order);
    if (e) {
        pthread_mutex_lock(&r->lock);
        if (!r->err) {
            r->err = e;
            r->why = why;
        }
        pthread_mutex_unlock(&r->lock);
        atomic_store(&r->failed, true);
    }
    return NULL;
}

static void touch(struct reader *r, const struct mem *m)
{
    for (uint64_t at = 0; at < m->bytes && !is_cancelled(r) && !atomic_load(&r->failed);
         at += TOUCH_BYTES) {
        const uint64_t left = m->bytes - at;
        mem_touch(&(struct mem){.k = m->k,
                                .data = (char *)m->data + at,
                                .bytes = left < TOUCH_BYTES ? left : TOUCH_BYTES});
        if (r->config->load) atomic_fetch_add(&r->config->load->pieces, 1);
    }
}

static void *toucher_main(void *arg)
{
    struct reader *r = arg;
    for (const struct mem *const *m = r->beside; m && *m; m++)
        touch(r, *m);
    return NULL;
}

// The calling thread reads too; fewer threads than wished are no error.
static err_t read_pieces(struct reader *r, struct err_text *why)
{
    pthread_t threads[LOAD_THREADS_MAX], toucher;
    int32_t n = 0, wish = r->config->n_threads - 1;
    if (!r->k->is_host && wish < DEVICE_READERS - 1) wish = DEVICE_READERS - 1;
    if (wish > LOAD_THREADS_MAX) wish = LOAD_THREADS_MAX;
    const bool is_beside = !pthread_create(&toucher, NULL, toucher_main, r);
    while (n < wish && !pthread_create(&threads[n], NULL, reader_main, r))
        n++;
    reader_main(r);
    for (int32_t i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    if (is_beside)
        pthread_join(toucher, NULL);
    else
        toucher_main(r);
    if (!r->err && is_cancelled(r)) return err_say(why, ERR_CANCELLED, "loading was cancelled");
    if (r->err && why) *why = r->why;
    return r->err;
}

// -- parts --

// Whether a part holds what this stage needs of it, no more and no less.
static bool is_same(const struct stage_config *c, const struct part *p)
{
    for (int32_t x = 0; x < c->model->n_weight; x++) {
        const struct model_weight *w = &c->model->weights[x];
        if (w->part != p->id) continue;
        const struct weight *have = &p->w[w->slot];
        const struct share_range rows = weights_rows(c, w);
        const bool is_empty = rows.from == rows.to || n_held(c, w) == 0;
        if (is_empty != !have->view.data) return false;
        if (is_empty) continue;
        if (rows.from != have->rows.from || rows.to != have->rows.to) return false;
        for (int64_t i = 0; i < w->n && w->n > 1; i++) {
            const bool is_here = !p->place || !weights_is_by_expert(c, w) || p->place[i] >= 0;
            if (weights_holds(c, w, i) != is_here) return false;
        }
    }
    return true;
}

static bool take_over(const struct reader *r, struct weights *from, int32_t id, struct part *out)
{
    for (int32_t i = 0; from && i < from->n_part; i++) {
        struct part *p = &from->parts[i];
        if (p->id != id || !p->mem.data || !is_same(r->config, p)) continue;
        *out = *p;
        out->mem.k = r->k;
        from->bytes -= p->mem.bytes;
        *p = (struct part){.id = id};
        return true;
    }
    return false;
}

// Where the experts of a part lie that are here.
static err_t list_places(const struct stage_config *c, struct part *p, struct err_text *why)
{
    const struct model *m = c->model;
    for (int32_t i = 0; i < m->n_weight && !p->place; i++) {
        const struct model_weight *w = &m->weights[i];
        if (w->part != p->id || !weights_is_by_expert(c, w)) continue;
        p->place = malloc((size_t)w->n * sizeof *p->place);
        if (!p->place) return err_say(why, ERR_MEMORY, "no memory for a list of experts");
        for (int64_t e = 0, at = 0; e < w->n; e++)
            p->place[e] = weights_holds(c, w, e) ? (int32_t)at++ : -1;
    }
    return OK;
}

// Moves or lays out every part; the new ones' pieces go on the reader's list. Everything that is
// not taken over is freed before memory for new parts is asked for.
static err_t gather_parts(struct reader *r, struct weights *reuse, struct weights *w,
                          struct err_text *why)
{
    const struct stage_config *c = r->config;
    w->n_part = weights_n_part(c);
    w->parts = calloc((size_t)w->n_part, sizeof *w->parts);
    if (!w->parts) return err_say(why, ERR_MEMORY, "no memory for the list of layers");
    for (int32_t i = 0; i < w->n_part; i++) {
        w->parts[i].id = weights_part_id(c, i);
        take_over(r, reuse, w->parts[i].id, &w->parts[i]);
    }
    if (reuse) weights_free(reuse);

    for (int32_t i = 0; i < w->n_part; i++) {
        struct part *p = &w->parts[i];
        uint64_t bytes = 0;
        err_t e = OK;
        if (!p->mem.data) {
            e = list_places(c, p, why);
            if (!e) e = layout(c, r->k, p, NULL, &bytes, why);
            if (!e && bytes == 0) continue; // a layer that others compute
            if (!e) e = mem_take_of(r->k, bytes, "weights", &p->mem, why);
            if (!e) e = layout(c, r->k, p, p->mem.data, &bytes, why);
            if (!e) e = add_pieces(r, p, why);
        }
        if (e) return e;
        w->bytes += p->mem.bytes;
    }
    return OK;
}

err_t weights_load(const struct stage_config *c, struct kernels *k, struct weights *reuse,
                   const struct mem *const *beside, struct weights *out, struct err_text *why)
{
    struct reader r = {.config = c, .k = k, .beside = beside, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct weights w = {0};
    r.files.model = c->model;
    // What goes to a device is read once. On the CPU a second start is glad of the page cache.
    struct kernels_about about = {.is_host = true};
    r.files.is_direct = !k->is_host;
    if (!k->is_host && kernels_about(c->device, &about, NULL) == OK)
        r.files.drops = about.is_unified;
    err_t e = gather_parts(&r, reuse, &w, why);
    if (!e) e = read_pieces(&r, why);
    source_close(&r.files);
    free(r.pieces);
    if (e)
        weights_free(&w);
    else
        *out = w;
    return e;
}

void weights_free(struct weights *w)
{
    for (int32_t i = 0; i < w->n_part; i++) {
        mem_give(&w->parts[i].mem);
        free(w->parts[i].place);
    }
    free(w->parts);
    *w = (struct weights){0};
}

const struct part *weights_part(const struct weights *w, int32_t id)
{
    for (int32_t i = 0; i < w->n_part; i++)
        if (w->parts[i].id == id) return &w->parts[i];
    return NULL;
}
