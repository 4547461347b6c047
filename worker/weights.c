#include "worker/weights.h"
#include "worker/source.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    PIECE_BYTES = 512 << 10, // read and packed at once by one thread
    LOAD_THREADS_MAX = 16,
    TOUCH_BYTES = 64 << 20, // between two looks whether loading goes on
    OTHERS_MAX = 4, // parts besides the layers
};

// The other parts a stage needs besides its layers. A tied head is the embedding table; what
// predicts the token after the next embeds the next.
static int32_t other_parts(const struct stage_config *c, int32_t out[OTHERS_MAX])
{
    int32_t n = 0;
    if (c->embed || c->mtp || (c->head && c->model->shape.tied_head)) out[n++] = PART_EMBED;
    if (c->head) out[n++] = PART_HEAD;
    if (c->mtp) out[n++] = PART_MTP;
    out[n++] = PART_SHARED;
    return n;
}

static int32_t part_id(const struct stage_config *c, const int32_t *others, int32_t i)
{
    const int32_t n_layer = (int32_t)(c->layer_to - c->layer_from);
    return i < n_layer ? (int32_t)c->layer_from + i : others[i - n_layer];
}

// Of one weight, or of one of a stack; 0: cannot be computed with.
static uint64_t bytes_of(struct kernels *k, const struct model_weight *w)
{
    if (w->is_matrix) return k->ops->weight_bytes(k, w->dtype, w->rows, w->cols);
    return w->dtype == DT_F32 ? (uint64_t)w->rows * (uint64_t)w->cols * 4 : 0;
}

static struct weight lay_out(const struct model_weight *w, uint64_t bytes, struct mem_carver *c)
{
    struct weight x = {.view = {.dtype = w->dtype, .n_dim = 2, .shape = {w->rows, w->cols}}};
    x.view.layout = w->is_matrix ? LAYOUT_PACKED : LAYOUT_ROWS;
    if (w->n > 1) {
        if (w->is_matrix) bytes = (bytes + 63) & ~(uint64_t)63;
        x.view.n_dim = 3;
        x.view.shape[0] = w->n;
        x.view.shape[1] = w->rows;
        x.view.shape[2] = w->cols;
        x.view.stride[0] = (int64_t)bytes;
    }
    x.view.data = mem_carve(c, (uint64_t)w->n, bytes);
    if (w->n > 1 && source_has_factor(w))
        x.factors = mem_carve(c, (uint64_t)w->n, sizeof *x.factors);
    if (source_may_order(w)) x.order = mem_carve(c, (uint64_t)w->cols, sizeof *x.order);
    return x;
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
        const uint64_t need = bytes_of(k, w);
        if (need == 0)
            return err_say(why, ERR_MODEL, "weight %s: no kernel for %s of shape %lld x %lld (%s)",
                           w->n_source ? w->sources[0].main->name : "made up",
                           dtype_info(w->dtype)->name, (long long)w->rows, (long long)w->cols,
                           c->model->path);
        p->w[w->slot] = lay_out(w, need, &carver);
    }
    *bytes = carver.used;
    return OK;
}

err_t weights_bytes(const struct stage_config *c, struct kernels *k, uint64_t *out,
                    struct err_text *why)
{
    int32_t others[OTHERS_MAX];
    const int32_t n = (int32_t)(c->layer_to - c->layer_from) + other_parts(c, others);
    uint64_t sum = 0;
    for (int32_t i = 0; i < n; i++) {
        struct part p = {.id = part_id(c, others, i)};
        uint64_t bytes = 0;
        err_t e = layout(c, k, &p, NULL, &bytes, why);
        if (e) return e;
        sum += bytes;
    }
    *out = sum;
    return OK;
}

// -- reading: a list of pieces that several threads take from --

struct piece {
    const struct model_weight *w;
    struct weight *dst;
    int64_t i, row_from, n_row;
};

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

static err_t add_pieces(struct reader *r, struct part *part, struct err_text *why)
{
    const struct model *m = r->config->model;
    err_t e = OK;
    for (int32_t x = 0; x < m->n_weight && !e; x++) {
        const struct model_weight *w = &m->weights[x];
        if (w->part != part->id) continue;
        const int64_t n_row = source_n_row(w), step = source_step(w, PIECE_BYTES);
        struct piece p = {.w = w, .dst = &part->w[w->slot]};
        e = source_open(&r->files, w, why);
        for (p.i = 0; !e && p.i < w->n; p.i++)
            for (p.row_from = 0; !e && p.row_from < n_row; p.row_from += step) {
                p.n_row = n_row - p.row_from < step ? n_row - p.row_from : step;
                e = add_piece(r, &p, why);
            }
    }
    return e;
}

// The first piece of a matrix brings what belongs to all of it.
static err_t load_factor(struct source_reader *s, const struct piece *p, struct err_text *why)
{
    if (p->row_from || !source_has_factor(p->w)) return OK;
    float f;
    err_t e = source_factor(s, p->w, p->i, &f, why);
    if (e) return e;
    if (p->dst->factors)
        ((float *)p->dst->factors)[p->i] = f;
    else
        p->dst->view.factor = f;
    return OK;
}

static err_t load_piece(struct reader *r, struct source_reader *s, const struct piece *p,
                        struct err_text *why)
{
    const bool is_first = p->row_from == 0;
    const struct source_piece rows_of = {p->w, p->i, p->row_from, p->n_row,
                                         is_first ? (int32_t *)p->dst->order : NULL};
    const void *rows;
    bool is_ordered;
    err_t e = load_factor(s, p, why);
    if (!e) e = source_rows(s, &rows_of, &rows, &is_ordered, why);
    if (e) return e;
    if (is_first && !is_ordered) p->dst->order = NULL;
    const struct view *v = &p->dst->view;
    if (p->w->is_matrix) {
        struct view one = *v;
        if (p->w->n > 1) one = view_of_stack(v, p->i);
        r->k->ops->weight_pack(r->k, rows, p->row_from, p->n_row, &one);
        return OK;
    }
    const uint64_t row_bytes = 4 * (uint64_t)source_n_col(p->w);
    memcpy((char *)v->data + (uint64_t)(p->i * source_n_row(p->w) + p->row_from) * row_bytes, rows,
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
    struct source_reader source = {.files = &r->files};
    struct err_text why = {0};
    err_t e = OK;
    while (!e && !atomic_load(&r->failed)) {
        const size_t i = atomic_fetch_add(&r->next, 1);
        if (i >= r->n_piece) break;
        if (is_cancelled(r))
            e = err_say(&why, ERR_CANCELLED, "loading was cancelled");
        else
            e = load_piece(r, &source, &r->pieces[i], &why);
        if (load) atomic_fetch_add(&load->pieces, 1);
    }
    source_reader_fini(&source);
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
        mem_touch(&(struct mem){(char *)m->data + at, left < TOUCH_BYTES ? left : TOUCH_BYTES});
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
    if (!r->err && is_cancelled(r))
        return err_say(why, ERR_CANCELLED, "loading was cancelled");
    if (r->err && why) *why = r->why;
    return r->err;
}

// -- parts --

static bool take_over(struct weights *from, int32_t id, struct part *out)
{
    for (int32_t i = 0; from && i < from->n_part; i++) {
        struct part *p = &from->parts[i];
        if (p->id != id || !p->mem.data) continue;
        *out = *p;
        from->bytes -= p->mem.bytes;
        *p = (struct part){.id = id};
        return true;
    }
    return false;
}

// Moves or lays out every part; the new ones' pieces go on the reader's list. Everything that is
// not taken over is freed before memory for new parts is asked for.
static err_t gather_parts(struct reader *r, struct weights *reuse, struct weights *w,
                          struct err_text *why)
{
    const struct stage_config *c = r->config;
    int32_t others[OTHERS_MAX];
    w->n_part = (int32_t)(c->layer_to - c->layer_from) + other_parts(c, others);
    w->parts = calloc((size_t)w->n_part, sizeof *w->parts);
    if (!w->parts) return err_say(why, ERR_MEMORY, "no memory for the list of layers");
    for (int32_t i = 0; i < w->n_part; i++) {
        w->parts[i].id = part_id(c, others, i);
        take_over(reuse, w->parts[i].id, &w->parts[i]);
    }
    if (reuse) weights_free(reuse);

    for (int32_t i = 0; i < w->n_part; i++) {
        struct part *p = &w->parts[i];
        uint64_t bytes = 0;
        err_t e = OK;
        if (!p->mem.data) {
            e = layout(c, r->k, p, NULL, &bytes, why);
            if (!e) e = mem_take(bytes, "weights", &p->mem, why);
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
    for (int32_t i = 0; i < w->n_part; i++)
        mem_give(&w->parts[i].mem);
    free(w->parts);
    *w = (struct weights){0};
}

const struct part *weights_part(const struct weights *w, int32_t id)
{
    for (int32_t i = 0; i < w->n_part; i++)
        if (w->parts[i].id == id) return &w->parts[i];
    return NULL;
}
