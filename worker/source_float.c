#include "worker/source_priv.h"

#include <string.h>

static bool is_plain(enum dtype t)
{
    return t == DT_F32 || t == DT_F16 || t == DT_BF16 || t == DT_F64;
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
    if (from != to && !(to == DT_F32 && is_plain(from)))
        return source_say(j->reader, j->src->main, why, "is of a type that cannot become F32 here");
    if (is_turned && !is_plain(from))
        return source_say(j->reader, j->src->main, why, "is in blocks and cannot be transposed");
    return is_turned ? read_columns(j, dst, why) : read_straight(j, dst, why);
}
