#include "worker/weights.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    PIECE_BYTES = 4 << 20, // read and packed at once by one thread
    PACK_ROWS = 64,        // weight_pack wants multiples of it
    LOAD_THREADS_MAX = 16,
};

// The other parts a stage needs besides its layers. A tied head is the embedding table.
static int32_t other_parts(const struct stage_config *c, int32_t out[3])
{
    int32_t n = 0;
    if (c->embed || (c->head && c->model->shape.tied_head)) out[n++] = PART_EMBED;
    if (c->head) out[n++] = PART_HEAD;
    out[n++] = PART_SHARED;
    return n;
}

static int32_t part_id(const struct stage_config *c, const int32_t *others, int32_t i)
{
    const int32_t n_layer = (int32_t)(c->layer_to - c->layer_from);
    return i < n_layer ? (int32_t)c->layer_from + i : others[i - n_layer];
}

// Lays out one part's tensors; with base NULL it only counts. Vectors stay F32, matrices are
// packed.
static err_t layout(const struct stage_config *c, struct kernels *k, struct part *p, char *base,
                    uint64_t *bytes, struct err_text *why)
{
    const struct arch *arch = arch_find(c->model->shape.arch);
    struct mem_carver carver = {.base = base};
    for (enum slot s = 0; s < SLOT_COUNT; s++) {
        if (arch_slot_part(s, p->id) != p->id) continue;
        if (s == SLOT_HEAD && c->model->shape.tied_head) continue;
        const struct model_tensor *t = arch_tensor(arch, c->model, s, p->id);
        if (!t) continue;
        struct view v = {.dtype = t->dtype, .layout = LAYOUT_ROWS, .n_dim = t->n_dim};
        memcpy(v.shape, t->shape, sizeof v.shape);
        uint64_t need = t->bytes;
        if (arch_slot_is_matrix(s)) {
            v.layout = LAYOUT_PACKED;
            need = t->n_dim == 2 ? k->ops->weight_bytes(k, t->dtype, t->shape[0], t->shape[1]) : 0;
        } else if (t->dtype != DT_F32 || t->n_dim != 1) {
            need = 0;
        }
        if (need == 0)
            return err_say(why, ERR_MODEL, "tensor %s: no kernel for %s of this shape (%s)",
                           t->name, dtype_info(t->dtype)->name, c->model->path);
        v.data = mem_carve(&carver, need, 1);
        p->w[s] = v;
    }
    *bytes = carver.used;
    return OK;
}

err_t weights_bytes(const struct stage_config *c, struct kernels *k, uint64_t *out,
                    struct err_text *why)
{
    int32_t others[3];
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
    const struct model_tensor *tensor;
    struct view *dst;
    int64_t row_from, n_row; // of a matrix; a vector is one piece of one row
};

struct reader {
    const struct stage_config *config;
    struct kernels *k;
    int fd;
    struct piece *pieces;
    size_t n_piece, cap_piece;
    uint64_t buffer_bytes; // largest piece
    atomic_size_t next;
    atomic_bool failed;
    pthread_mutex_t lock; // of the first error
    err_t err;
    struct err_text why;
};

static uint64_t row_bytes(const struct model_tensor *t)
{
    return dtype_row_bytes(t->dtype, (uint64_t)t->shape[t->n_dim - 1]);
}

static err_t add_pieces(struct reader *r, struct part *p, struct err_text *why)
{
    const struct arch *arch = arch_find(r->config->model->shape.arch);
    for (enum slot s = 0; s < SLOT_COUNT; s++) {
        if (!p->w[s].data) continue;
        const struct model_tensor *t = arch_tensor(arch, r->config->model, s, p->id);
        const int64_t n_row = t->n_dim == 2 ? t->shape[0] : 1;
        const uint64_t per_row = row_bytes(t);
        int64_t step = (int64_t)(PIECE_BYTES / (per_row ? per_row : 1)) / PACK_ROWS * PACK_ROWS;
        if (step < PACK_ROWS) step = PACK_ROWS;
        for (int64_t from = 0; from < n_row; from += step) {
            if (r->n_piece == r->cap_piece) {
                size_t cap = r->cap_piece ? 2 * r->cap_piece : 256;
                struct piece *more = realloc(r->pieces, cap * sizeof *more);
                if (!more) return err_say(why, ERR_MEMORY, "no memory for the list of tensors");
                r->pieces = more;
                r->cap_piece = cap;
            }
            const int64_t n = n_row - from < step ? n_row - from : step;
            r->pieces[r->n_piece++] =
                (struct piece){.tensor = t, .dst = &p->w[s], .row_from = from, .n_row = n};
            if ((uint64_t)n * per_row > r->buffer_bytes) r->buffer_bytes = (uint64_t)n * per_row;
        }
    }
    return OK;
}

static err_t read_all(struct reader *r, void *dst, uint64_t bytes, uint64_t offset,
                      struct err_text *why)
{
    char *p = dst;
    while (bytes) {
        ssize_t n = pread(r->fd, p, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            return err_say(why, ERR_SYSTEM, "cannot read weights: %s (%s)", strerror(errno),
                           r->config->model->path);
        if (n == 0)
            return err_say(why, ERR_MODEL, "model file ended at byte %llu while it was read (%s)",
                           (unsigned long long)offset, r->config->model->path);
        p += n;
        bytes -= (uint64_t)n;
        offset += (uint64_t)n;
    }
    return OK;
}

static err_t load_piece(struct reader *r, const struct piece *p, void *buffer, struct err_text *why)
{
    const struct model_tensor *t = p->tensor;
    const uint64_t per_row = row_bytes(t), bytes = per_row * (uint64_t)p->n_row;
    err_t e = read_all(r, buffer, bytes, t->offset + per_row * (uint64_t)p->row_from, why);
    if (e) return e;
    if (!weights_are_finite(t->dtype, buffer, bytes))
        return err_say(why, ERR_MODEL, "tensor %s holds NaN or infinity (%s)", t->name,
                       r->config->model->path);
    if (p->dst->layout == LAYOUT_PACKED)
        r->k->ops->weight_pack(r->k, buffer, p->row_from, p->n_row, p->dst);
    else
        memcpy(p->dst->data, buffer, bytes);
    return OK;
}

static void *reader_main(void *arg)
{
    struct reader *r = arg;
    struct stage_load *load = r->config->load;
    struct mem buffer = {0};
    struct err_text why = {0};
    err_t e = mem_take(r->buffer_bytes, 0, "reading weights", &buffer, &why);
    while (!e && !atomic_load(&r->failed)) {
        const size_t i = atomic_fetch_add(&r->next, 1);
        if (i >= r->n_piece) break;
        if (load && atomic_load(&load->cancel))
            e = err_say(&why, ERR_CANCELLED, "loading was cancelled");
        else
            e = load_piece(r, &r->pieces[i], buffer.data, &why);
        if (load) atomic_fetch_add(&load->pieces, 1);
    }
    mem_give(&buffer);
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

// The calling thread reads too; fewer threads than wished are no error.
static err_t read_pieces(struct reader *r, struct err_text *why)
{
    pthread_t threads[LOAD_THREADS_MAX];
    int32_t n = 0, wish = r->config->n_threads - 1;
    if (wish > LOAD_THREADS_MAX) wish = LOAD_THREADS_MAX;
    while (n < wish && !pthread_create(&threads[n], NULL, reader_main, r))
        n++;
    reader_main(r);
    for (int32_t i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    if (r->err && why) *why = r->why;
    return r->err;
}

static err_t open_file(const struct model *m, int *out, struct err_text *why)
{
    int fd = open(m->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_say(why, ERR_SYSTEM, "cannot open model: %s (%s)", strerror(errno), m->path);
    struct stat st;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode) ||
        (uint64_t)st.st_size != gguf_file_bytes(m->gguf)) {
        close(fd);
        return err_say(why, ERR_MODEL, "model file has changed since its header was read (%s)",
                       m->path);
    }
    *out = fd;
    return OK;
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
    int32_t others[3];
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
            if (!e) e = mem_take(bytes, 0, "weights", &p->mem, why);
            if (!e) e = layout(c, r->k, p, p->mem.data, &bytes, why);
            if (!e) e = add_pieces(r, p, why);
        }
        if (e) return e;
        w->bytes += p->mem.bytes;
    }
    return OK;
}

err_t weights_load(const struct stage_config *c, struct kernels *k, struct weights *reuse,
                   struct weights *out, struct err_text *why)
{
    struct reader r = {.config = c, .k = k, .fd = -1, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct weights w = {0};
    err_t e = open_file(c->model, &r.fd, why);
    if (!e) e = gather_parts(&r, reuse, &w, why);
    if (!e) e = read_pieces(&r, why);
    if (r.fd >= 0) close(r.fd);
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
