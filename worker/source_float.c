#include "kernels/kernels.h"
#include "worker/source_priv.h"

#include <string.h>

static bool is_plain(enum dtype t)
{
    return t == DT_F32 || t == DT_F16 || t == DT_BF16 || t == DT_F64;
}

// Rows in blocks as floats, by the backend that knows what the blocks mean: kept packed for a
// moment, and looked up one by one as an embedding's are.
static err_t decode_blocks(struct source_job *j, const uint8_t *raw, uint8_t *dst,
                           struct err_text *why)
{
    const struct kernels_limits limits = {.n_threads = 1,
                                          .precision = PRECISION_EXACT,
                                          .max_tok = 1,
                                          .max_cols = (int32_t)j->in,
                                          .max_rows = (int32_t)j->n_src,
                                          .max_head = 1,
                                          .max_head_dim = 32,
                                          .max_ctx = 1};
    struct view v = {.dtype = j->src->main->dtype,
                     .layout = LAYOUT_PACKED,
                     .n_dim = 2,
                     .shape = {j->n_src, j->in}};
    struct kernels *k;
    err_t e = kernels_open_cpu(NULL, &limits, &k, why);
    if (e) return e;
    const uint64_t bytes = k->ops->weight_bytes(k, v.dtype, j->n_src, j->in);
    if (!bytes)
        e = source_say(j->reader, j->src->main, why, "is of a type that cannot become F32 here");
    if (!e) e = source_buffer(j->reader, SOURCE_BUFFER_WORD, bytes, &v.data, why);
    if (!e) k->ops->weight_pack(k, raw, 0, j->n_src, &v); // the last that needs raw
    if (!e && j->src->global) e = source_factor(j->reader, j->w, j->matrix, &v.factor, why);
    for (int64_t i = 0; !e && i < j->n; i++)
        k->ops->embed(k, &v, &j->at[i], 1, (float *)dst + i * j->in);
    k->ops->close(k);
    return e;
}

// Rows as they are in the file, and as they are wanted.
static err_t read_straight(struct source_job *j, uint8_t *dst, struct err_text *why)
{
    const struct model_tensor *t = j->src->main;
    const uint64_t row = dtype_row_bytes(t->dtype, (uint64_t)j->in);
    const uint64_t from = (uint64_t)(j->matrix * j->out + j->lo) * row;
    if (j->is_run && t->dtype == j->w->dtype)
        return source_read(j->reader, t, from, (uint64_t)j->n * row, dst, why);
    uint8_t *raw;
    err_t e = source_buffer(j->reader, SOURCE_BUFFER_RAW, (uint64_t)j->n_src * row, &raw, why);
    if (!e) e = source_read(j->reader, t, from, (uint64_t)j->n_src * row, raw, why);
    if (e) return e;
    if (t->dtype != j->w->dtype && !is_plain(t->dtype)) return decode_blocks(j, raw, dst, why);
    const uint64_t to = dtype_row_bytes(j->w->dtype, (uint64_t)j->in);
    for (int64_t i = 0; i < j->n; i++) {
        const uint8_t *src = raw + (uint64_t)j->at[i] * row;
        if (t->dtype == j->w->dtype)
            memcpy(dst + (uint64_t)i * to, src, row);
        else
            source_to_f32(t->dtype, src, j->in, (float *)(dst + (uint64_t)i * to));
    }
    return OK;
}

// TURN_COLUMNS: the source is (in, out); of each of its rows the columns [lo, lo + n_src) are read.
static err_t read_columns(struct source_job *j, uint8_t *dst, struct err_text *why)
{
    const struct model_tensor *t = j->src->main;
    const int64_t size = dtype_info(t->dtype)->bytes;
    const struct source_lines l = {(j->matrix * j->in * j->out + j->lo) * size, j->n_src * size,
                                   j->out * size, j->in};
    uint8_t *raw;
    err_t e =
        source_buffer(j->reader, SOURCE_BUFFER_RAW, (uint64_t)(j->n_src * j->in * size), &raw, why);
    if (!e) e = source_read_lines(j->reader, t, &l, raw, why);
    if (e) return e;
    const uint32_t to = dtype_info(j->w->dtype)->bytes;
    for (int64_t i = 0; i < j->n; i++) {
        const uint8_t *column = raw + j->at[i] * size;
        uint8_t *row = dst + (uint64_t)(i * j->in) * to;
        for (int64_t c = 0; c < j->in; c++) {
            const uint8_t *src = column + c * j->n_src * size;
            if (t->dtype == j->w->dtype)
                memcpy(row + c * size, src, (size_t)size);
            else
                source_to_f32(t->dtype, src, 1, (float *)row + c);
        }
    }
    return OK;
}

err_t source_float_rows(struct source_job *j, uint8_t *dst, struct err_text *why)
{
    const enum dtype from = j->src->main->dtype, to = j->w->dtype;
    const bool is_turned = j->w->turn == TURN_COLUMNS;
    if (from != to && to != DT_F32)
        return source_say(j->reader, j->src->main, why, "is of a type that cannot become F32 here");
    if (is_turned && !is_plain(from))
        return source_say(j->reader, j->src->main, why, "is in blocks and cannot be transposed");
    return is_turned ? read_columns(j, dst, why) : read_straight(j, dst, why);
}
