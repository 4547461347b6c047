#include "worker/source_priv.h"
#include "proto/base/log.h"
#include "worker/weights.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    PACK_ROWS = 64, // weight_pack wants multiples of it
    SPAN_MAX = 4,   // rows that lie apart are read together unless that reads so many times more
    AHEAD_BYTES = 128 << 10,
    DIRECT_LEAST = 64 << 10, // bytes of a read that goes past the page cache
    DIRECT_ALIGN = 4096,     // of its places and sizes: no disk wants more
};

// -- files --

static const char *path_of(const struct source_files *f, const struct model_tensor *t)
{
    return f->model->files[t->file].path;
}

// Past the page cache; -1: not here.
static int open_direct(const char *path)
{
    static atomic_bool is_told;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (fd < 0 && !atomic_exchange(&is_told, true))
        log_info("weights are read through the page cache: the file system has no direct reads "
                 "(%s: %s)",
                 path, strerror(errno));
    return fd;
}

static err_t open_one(struct source_files *f, const struct model_tensor *t, struct err_text *why)
{
    if (!t || f->fds[t->file] >= 0) return OK;
    const struct model_file *file = &f->model->files[t->file];
    int fd = open(file->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_say(why, ERR_SYSTEM, "cannot open model: %s (%s)", strerror(errno), file->path);
    struct stat st;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != file->bytes) {
        close(fd);
        return err_say(why, ERR_MODEL, "model file has changed since its header was read (%s)",
                       file->path);
    }
    f->fds[t->file] = fd;
    if (f->is_direct) f->direct_fds[t->file] = open_direct(file->path);
    return OK;
}

static err_t list_files(struct source_files *f, int **fds, struct err_text *why)
{
    *fds = malloc((size_t)f->model->n_file * sizeof **fds);
    if (!*fds) return err_say(why, ERR_MEMORY, "no memory for the list of files");
    for (int32_t i = 0; i < f->model->n_file; i++)
        (*fds)[i] = -1;
    return OK;
}

err_t source_open(struct source_files *f, const struct model_weight *w, struct err_text *why)
{
    if (w->kind == SOURCE_MADE) return OK;
    err_t err = f->fds ? OK : list_files(f, &f->fds, why);
    if (!err && f->is_direct && !f->direct_fds) err = list_files(f, &f->direct_fds, why);
    if (err) return err;
    for (int32_t i = 0; i < w->n_source; i++) {
        const struct model_source *s = &w->sources[i];
        const struct model_tensor *all[] = {s->main, s->scale, s->zero, s->order, s->global};
        for (size_t t = 0; t < sizeof all / sizeof *all; t++) {
            err_t e = open_one(f, all[t], why);
            if (e) return e;
        }
    }
    return OK;
}

void source_close(struct source_files *f)
{
    for (int32_t i = 0; f->fds && i < f->model->n_file; i++) {
        if (f->fds[i] >= 0 && f->drops) posix_fadvise(f->fds[i], 0, 0, POSIX_FADV_DONTNEED);
        if (f->fds[i] >= 0) close(f->fds[i]);
        if (f->direct_fds && f->direct_fds[i] >= 0) close(f->direct_fds[i]);
    }
    free(f->fds);
    free(f->direct_fds);
    f->fds = f->direct_fds = NULL;
}

// -- reading --

err_t source_say(const struct source_reader *r, const struct model_tensor *t, struct err_text *why,
                 const char *sentence)
{
    return err_say(why, ERR_MODEL, "tensor %s %s (%s)", t->name, sentence, path_of(r->files, t));
}

err_t source_buffer(struct source_reader *r, enum source_buffer b, uint64_t bytes, void *out,
                    struct err_text *why)
{
    struct mem *m = &r->buffers[b];
    if (!m->data || m->bytes < bytes) {
        mem_give(m);
        err_t e = mem_take(bytes, "reading weights", m, why);
        if (e) return e;
    }
    *(void **)out = m->data;
    return OK;
}

void source_reader_fini(struct source_reader *r)
{
    for (int b = 0; b < SOURCE_BUFFER_COUNT; b++)
        mem_give(&r->buffers[b]);
}

// The whole blocks around [offset, offset + bytes), past the page cache. False: in the usual way
// then, which knows the errors too.
static bool read_direct(struct source_reader *r, const struct model_tensor *t, uint64_t offset,
                        uint64_t bytes, void *dst)
{
    const int fd = r->files->is_direct ? r->files->direct_fds[t->file] : -1;
    const uint64_t from = offset / DIRECT_ALIGN * DIRECT_ALIGN;
    const uint64_t to = (offset + bytes + DIRECT_ALIGN - 1) / DIRECT_ALIGN * DIRECT_ALIGN;
    const uint64_t need = offset + bytes - from;
    char *p;
    if (fd < 0 || bytes < DIRECT_LEAST) return false;
    if (source_buffer(r, SOURCE_BUFFER_DIRECT, to - from, &p, NULL)) return false;
    for (uint64_t at = 0; at < need;) {
        const ssize_t n = pread(fd, p + at, to - from - at, (off_t)(from + at));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        at += (uint64_t)n;
        if (at < need && at % DIRECT_ALIGN) return false;
    }
    memcpy(dst, p + (offset - from), bytes);
    return true;
}

err_t source_read(struct source_reader *r, const struct model_tensor *t, uint64_t from,
                  uint64_t bytes, void *dst, struct err_text *why)
{
    if (from > t->bytes || bytes > t->bytes - from)
        return source_say(r, t, why, "is too small for the weight that it belongs to");
    char *p = dst;
    uint64_t offset = t->offset + from;
    if (read_direct(r, t, offset, bytes, dst)) return OK;
    while (bytes) {
        ssize_t n = pread(r->files->fds[t->file], p, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            return err_say(why, ERR_SYSTEM, "cannot read weights: %s (%s)", strerror(errno),
                           path_of(r->files, t));
        if (n == 0)
            return err_say(why, ERR_MODEL, "model file ended at byte %llu while it was read (%s)",
                           (unsigned long long)offset, path_of(r->files, t));
        p += n;
        bytes -= (uint64_t)n;
        offset += (uint64_t)n;
    }
    return OK;
}

err_t source_read_lines(struct source_reader *r, const struct model_tensor *t,
                        const struct source_lines *l, void *dst, struct err_text *why)
{
    if (l->n == l->stride || l->n_line == 1)
        return source_read(r, t, (uint64_t)l->from, (uint64_t)(l->n * l->n_line), dst, why);
    for (int64_t i = 0; i < l->n_line; i++) {
        err_t e = source_read(r, t, (uint64_t)(l->from + i * l->stride), (uint64_t)l->n,
                              (char *)dst + i * l->n, why);
        if (e) return e;
    }
    return OK;
}

void source_to_f32(enum dtype t, const void *src, int64_t n, float *dst)
{
    const uint16_t *half = src;
    const double *wide = src;
    if (t == DT_F32) memcpy(dst, src, (size_t)n * 4);
    for (int64_t i = 0; t == DT_F16 && i < n; i++)
        dst[i] = dtype_f16_to_f32(half[i]);
    for (int64_t i = 0; t == DT_BF16 && i < n; i++)
        dst[i] = dtype_bf16_to_f32(half[i]);
    for (int64_t i = 0; t == DT_F64 && i < n; i++)
        dst[i] = (float)wide[i];
}

static bool is_plain_float(enum dtype t)
{
    return t == DT_F32 || t == DT_F16 || t == DT_BF16 || t == DT_F64;
}

err_t source_floats(struct source_reader *r, const struct model_tensor *t,
                    const struct source_lines *l, float *dst, struct err_text *why)
{
    if (!is_plain_float(t->dtype))
        return source_say(r, t, why, "should hold floating-point numbers");
    const int64_t size = dtype_info(t->dtype)->bytes, n = l->n * l->n_line;
    const struct source_lines bytes = {l->from * size, l->n * size, l->stride * size, l->n_line};
    void *raw;
    err_t e = source_buffer(r, SOURCE_BUFFER_RAW, (uint64_t)(n * size), &raw, why);
    if (!e) e = source_read_lines(r, t, &bytes, raw, why);
    if (!e) source_to_f32(t->dtype, raw, n, dst);
    return e;
}

// -- pieces --

static bool is_list(const struct model_weight *w)
{
    return !w->is_matrix && w->rows == 1;
}

int64_t source_n_row(const struct model_weight *w)
{
    return is_list(w) ? w->cols : w->rows;
}

int64_t source_n_col(const struct model_weight *w)
{
    return is_list(w) ? 1 : w->cols;
}

int64_t source_step(const struct model_weight *w, uint64_t bytes)
{
    const int64_t n_row = source_n_row(w);
    const uint64_t per_row = dtype_row_bytes(w->dtype, (uint64_t)source_n_col(w));
    if (w->turn == TURN_HEADS || per_row == 0) return n_row;
    int64_t step = (int64_t)(bytes / per_row) / PACK_ROWS * PACK_ROWS;
    if (step < PACK_ROWS) step = PACK_ROWS;
    return step < n_row ? step : n_row;
}

// Where pieces read a bit of every line of a matrix, the system's own reading ahead does not help:
// the first piece asks for all of it.
static void read_ahead(const struct source_job *j)
{
    const struct model_tensor *t = j->src->main;
    const uint64_t bytes = t->bytes / (uint64_t)j->n_matrix;
    const uint64_t from = t->offset + (uint64_t)j->matrix * bytes;
    for (uint64_t at = 0; at < bytes; at += AHEAD_BYTES)
        posix_fadvise(j->reader->files->fds[t->file], (off_t)(from + at),
                      (off_t)(bytes - at < AHEAD_BYTES ? bytes - at : AHEAD_BYTES),
                      POSIX_FADV_WILLNEED);
}

static bool is_strided(const struct model_weight *w)
{
    return w->kind == SOURCE_GPTQ || w->kind == SOURCE_AWQ || w->turn == TURN_COLUMNS;
}

// Bits that a row of `in` values takes in the main tensor, on average where rows interleave.
static uint64_t main_row_bits(const struct source_job *j)
{
    switch (j->w->kind) {
    case SOURCE_ROWS:
        return 8 * dtype_row_bytes(j->src->main->dtype, (uint64_t)j->in);
    case SOURCE_GPTQ:
    case SOURCE_CT_INT:
        return (uint64_t)j->in * j->w->bits;
    case SOURCE_AWQ:
    case SOURCE_NVFP4:
    case SOURCE_MXFP4:
        return (uint64_t)j->in * 4;
    default:
        return (uint64_t)j->in * 8;
    }
}

// The job but its rows: which matrix of which tensors.
static err_t begin(struct source_reader *r, const struct source_piece *p, struct source_job *j,
                   struct err_text *why)
{
    const struct model_weight *w = p->w;
    const bool one = w->n_source == 1;
    *j = (struct source_job){.reader = r, .w = w, .order = p->order};
    j->src = &w->sources[one ? 0 : p->i];
    j->n_matrix = one && !w->heads_in_rows && w->turn != TURN_HEADS ? w->n : 1;
    j->matrix = j->n_matrix > 1 ? p->i : 0;
    j->in = w->turn == TURN_HEADS ? source_n_row(w) : source_n_col(w);
    const struct model_tensor *t = j->src->main;
    const uint64_t row_bits = main_row_bits(j) * (uint64_t)j->n_matrix;
    if (row_bits == 0 || t->bytes > UINT64_MAX / 8 || 8 * t->bytes % row_bits)
        return source_say(r, t, why, "does not have the size of the weight that it belongs to");
    j->out = (int64_t)(8 * t->bytes / row_bits);
    return OK;
}

static err_t decode(struct source_job *j, uint8_t *dst, struct err_text *why)
{
    switch (j->w->kind) {
    case SOURCE_ROWS:
        return source_float_rows(j, dst, why);
    case SOURCE_GPTQ:
    case SOURCE_AWQ:
    case SOURCE_CT_INT:
        return source_int_rows(j, dst, why);
    case SOURCE_INT8:
    case SOURCE_FP8:
        return source_byte_rows(j, dst, why);
    case SOURCE_NVFP4:
    case SOURCE_MXFP4:
        return source_fp4_rows(j, dst, why);
    default:
        BUG("a source without a file has no rows to decode");
    }
}

// How many of the rows at (numbers in the source) are read at once from the first on: all if they
// lie close together, else those that follow each other. Their lowest, and how many there are
// between it and the highest.
static int64_t chunk_of(const int32_t *at, int64_t n, int64_t *lo, int64_t *n_src)
{
    int32_t min = at[0], max = at[0];
    for (int64_t i = 1; i < n; i++) {
        min = at[i] < min ? at[i] : min;
        max = at[i] > max ? at[i] : max;
    }
    if (max - (int64_t)min >= SPAN_MAX * n) {
        min = max = at[0];
        int64_t run = 1;
        while (run < n && at[run] == at[run - 1] + 1)
            max = at[run++];
        n = run;
    }
    *lo = min;
    *n_src = max - (int64_t)min + 1;
    return n;
}

// Decodes the source rows that `at` names.
static err_t decode_at(struct source_job *j, int32_t *at, int64_t n, uint8_t *dst,
                       struct err_text *why)
{
    const uint64_t row_bytes = dtype_row_bytes(j->w->dtype, (uint64_t)j->in);
    err_t e = OK;
    for (int64_t done = 0; !e && done < n; done += j->n) {
        j->at = at + done;
        j->n = chunk_of(at + done, n - done, &j->lo, &j->n_src);
        if (j->lo < 0 || j->lo + j->n_src > j->out)
            return source_say(j->reader, j->src->main, why,
                              "has fewer rows than the weight that it belongs to");
        j->is_run = true;
        for (int64_t i = 0; i < j->n; i++) {
            at[done + i] -= (int32_t)j->lo;
            j->is_run &= at[done + i] == i;
        }
        e = decode(j, dst + (uint64_t)done * row_bytes, why);
    }
    return e;
}

// Numbers in the source of n rows from `from` on.
static err_t rows_at(struct source_reader *r, const struct model_weight *w, int64_t from, int64_t n,
                     int32_t **out, struct err_text *why)
{
    int32_t *at;
    err_t e = source_buffer(r, SOURCE_BUFFER_AT, (uint64_t)n * sizeof *at, &at, why);
    for (int64_t i = 0; !e && i < n; i++) {
        const int64_t row = model_weight_row(w, from + i);
        at[i] = row < 0 || row > INT32_MAX ? -1 : (int32_t)row;
    }
    if (!e) *out = at;
    return e;
}

// (n, m) elements of `size` bytes to (m, n).
static void transpose(const uint8_t *src, int64_t n, int64_t m, uint32_t size, uint8_t *dst)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < m; k++)
            memcpy(dst + (k * n + i) * size, src + (i * m + k) * size, size);
}

static err_t read_rows(struct source_job *j, const struct source_piece *p, uint8_t *rows,
                       struct err_text *why)
{
    const struct model_weight *w = p->w;
    struct source_reader *r = j->reader;
    const bool is_turned = w->turn == TURN_HEADS;
    const uint32_t size = dtype_info(w->dtype)->bytes;
    const int64_t per = is_turned ? w->cols : source_n_row(w), n = is_turned ? per : p->n_row;
    const int64_t from = (w->heads_in_rows || is_turned ? p->i * per : 0) + p->row_from;
    int32_t *at;
    uint8_t *turned = rows;
    err_t e = rows_at(r, w, from, n, &at, why);
    if (!e && is_turned) {
        BUG_ON(p->row_from || p->n_row != w->rows);
        if (dtype_info(w->dtype)->block > 1)
            return source_say(r, j->src->main, why, "is in blocks and cannot be transposed");
        e = source_buffer(r, SOURCE_BUFFER_TURN, (uint64_t)(n * j->in) * size, &turned, why);
    }
    if (!e) e = decode_at(j, at, n, turned, why);
    if (!e && is_turned) transpose(turned, n, j->in, size, rows);
    return e;
}

static err_t transform(const struct source_job *j, float *x, int64_t n, struct err_text *why)
{
    if (j->w->transform == TRANSFORM_NONE) return OK;
    if (j->w->dtype != DT_F32)
        return source_say(j->reader, j->src->main, why, "is changed at load and must be F32");
    for (int64_t i = 0; i < n; i++)
        x[i] = j->w->transform == TRANSFORM_PLUS_ONE ? 1 + x[i] : -expf(x[i]);
    return OK;
}

err_t source_rows(struct source_reader *r, const struct source_piece *p, const void **rows,
                  bool *is_ordered, struct err_text *why)
{
    const struct model_weight *w = p->w;
    const uint64_t row_bytes = dtype_row_bytes(w->dtype, (uint64_t)source_n_col(w));
    const uint64_t bytes = row_bytes * (uint64_t)p->n_row;
    void *out;
    err_t e = source_buffer(r, SOURCE_BUFFER_ROWS, bytes, &out, why);
    if (e) return e;
    struct source_job j = {0};
    if (w->kind == SOURCE_MADE) {
        source_made_rows(p, out);
    } else {
        e = begin(r, p, &j, why);
        if (!e && is_strided(w) && p->row_from == 0) read_ahead(&j);
        if (!e) e = read_rows(&j, p, out, why);
        if (!e) e = transform(&j, out, p->n_row * source_n_col(w), why);
        if (!e && !weights_are_finite(w->dtype, out, bytes))
            e = source_say(r, j.src->main, why, "holds NaN or infinity");
    }
    if (e) return e;
    *rows = out;
    *is_ordered = j.is_ordered;
    return OK;
}

// -- what belongs to a weight besides its values --

bool source_may_order(const struct model_weight *w)
{
    const bool each_its_own = w->n_source == w->n;
    return w->kind != SOURCE_MADE && each_its_own && w->dtype != DT_F32 && w->sources[0].order;
}

bool source_has_factor(const struct model_weight *w)
{
    return w->kind == SOURCE_MADE ? w->dtype == DT_NVFP4
                                  : w->dtype != DT_F32 && w->sources[0].global;
}

err_t source_factor(struct source_reader *r, const struct model_weight *w, int64_t i, float *out,
                    struct err_text *why)
{
    if (w->kind == SOURCE_MADE) {
        *out = source_made_factor(w);
        return OK;
    }
    const struct model_tensor *t = w->sources[w->n_source == 1 ? 0 : i].global;
    if (!t || !is_plain_float(t->dtype))
        return source_say(r, t ? t : w->sources[0].main, why, "needs a scale of floating point");
    // one for all of a stack, or one each
    const bool each = w->n_source == 1 && t->bytes > dtype_info(t->dtype)->bytes;
    const struct source_lines l = {each ? i : 0, 1, 1, 1};
    float f;
    err_t e = source_floats(r, t, &l, &f, why);
    if (e) return e;
    if (w->global_divides) f = 1 / f;
    if (!isfinite(f) || f == 0) return source_say(r, t, why, "holds no usable scale");
    *out = f;
    return OK;
}
