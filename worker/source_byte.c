#include "worker/source_priv.h"

#include <string.h>

// Scales of a matrix lie in a grid (ceil(out / rows), ceil(in / cols)) of blocks; one scale for
// all, and one for each row, are grids too. Read are the lines that the job's rows need.
struct grid {
    int64_t rows, cols; // of the weights that share a scale
    int64_t n_col;      // scales in a line
    int64_t first;      // number of the first line that is read
    float *scales;
};

static err_t read_scales(struct source_job *j, struct grid *g, struct err_text *why)
{
    const struct model_tensor *t = j->src->scale;
    if (!t) return source_say(j->reader, j->src->main, why, "has no scales");
    const uint32_t size = dtype_info(t->dtype)->bytes;
    const int64_t count = size ? (int64_t)(t->bytes / size) : 0;
    const bool each = j->n_matrix > 1 && count > 1; // matrices do not share one scale
    const int64_t own = each ? count / j->n_matrix : count;
    *g = (struct grid){j->w->block_rows, j->w->block_cols, 1, 0, NULL};
    if (own == 1 || g->rows == 0) g->rows = own == 1 ? j->out : 1;
    if (own == 1 || g->cols == 0) g->cols = j->in;
    g->n_col = (j->in + g->cols - 1) / g->cols;
    const int64_t n_line = (j->out + g->rows - 1) / g->rows;
    if (own * (each ? j->n_matrix : 1) != count || own != n_line * g->n_col)
        return source_say(j->reader, t, why, "does not have one scale for each block of weights");
    g->first = j->lo / g->rows;
    const int64_t n = (j->lo + j->n_src - 1) / g->rows - g->first + 1;
    const struct source_lines l = {(each ? j->matrix * own : 0) + g->first * g->n_col, n * g->n_col,
                                   n * g->n_col, 1};
    err_t e = source_buffer(j->reader, SOURCE_BUFFER_SCALE, (uint64_t)(l.n * 4), &g->scales, why);
    return e ? e : source_floats(j->reader, t, &l, g->scales, why);
}

// FP8 blocks: float d, 32 codes. INT8 blocks: float d, i16 z, 32 codes.
static void put_blocks(const struct source_job *j, const struct grid *g, const float *scales,
                       const uint8_t *codes, uint8_t *dst)
{
    const uint32_t head = j->w->dtype == DT_FP8 ? 4 : 6;
    for (int64_t c = 0; c < j->in; c += 32, dst += head + 32) {
        memset(dst, 0, head);
        memcpy(dst, &scales[c / g->cols], 4);
        memcpy(dst + head, codes + c, 32);
    }
}

static void put_floats(const struct source_job *j, const struct grid *g, const float *scales,
                       const uint8_t *codes, const float values[256], float *dst)
{
    for (int64_t c = 0; c < j->in; c++)
        dst[c] = values[codes[c]] * scales[c / g->cols];
}

static err_t check(const struct source_job *j, const struct grid *g, struct err_text *why)
{
    const enum dtype block = j->w->kind == SOURCE_FP8 ? DT_FP8 : DT_INT8;
    if (j->w->turn == TURN_COLUMNS)
        return source_say(j->reader, j->src->main, why, "is quantised and cannot be transposed");
    if (j->w->dtype == DT_F32) return OK;
    if (j->w->dtype != block || j->in % 32 || (g->n_col > 1 && g->cols % 32))
        return source_say(j->reader, j->src->main, why, "does not fit blocks of 32 columns");
    return OK;
}

err_t source_byte_rows(struct source_job *j, uint8_t *dst, struct err_text *why)
{
    const struct model_tensor *t = j->src->main;
    const uint64_t row_bytes = dtype_row_bytes(j->w->dtype, (uint64_t)j->in);
    struct grid g;
    uint8_t *raw;
    err_t e = read_scales(j, &g, why);
    if (!e) e = check(j, &g, why);
    if (!e)
        e = source_buffer(j->reader, SOURCE_BUFFER_RAW, (uint64_t)(j->n_src * j->in), &raw, why);
    if (!e)
        e = source_read(j->reader, t, (uint64_t)((j->matrix * j->out + j->lo) * j->in),
                        (uint64_t)(j->n_src * j->in), raw, why);
    if (e) return e;
    float values[256];
    for (int v = 0; v < 256; v++)
        values[v] = j->w->kind == SOURCE_FP8 ? dtype_f8_to_f32((uint8_t)v) : (float)(int8_t)v;
    for (int64_t i = 0; i < j->n; i++) {
        const float *scales = g.scales + ((j->lo + j->at[i]) / g.rows - g.first) * g.n_col;
        const uint8_t *codes = raw + j->at[i] * j->in;
        uint8_t *row = dst + (uint64_t)i * row_bytes;
        if (j->w->dtype == DT_F32)
            put_floats(j, &g, scales, codes, values, (float *)row);
        else
            put_blocks(j, &g, scales, codes, row);
    }
    return OK;
}
