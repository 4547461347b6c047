// FP4 (E2M1) with a scale for each 16 values (NVFP4: E4M3, and one factor of all) or 32 (MXFP4:
// E8M0; Open Compute Project, Microscaling Formats 1.0). Files keep neighbours in a byte, GGML's
// blocks values that are half a group apart.
#include "worker/source_priv.h"

#include <math.h>
#include <string.h>

static const float values[16] = {0,    .5f,  1,  1.5f,  2,  3,  4,  6,
                                 -0.f, -.5f, -1, -1.5f, -2, -3, -4, -6};

// 64 values, 4 scales: GGML's NVFP4 keeps values i and i + 8 of each 16 in a byte.
static void put_nvfp4(const uint8_t *codes, const uint8_t *scales, uint8_t *dst)
{
    memcpy(dst, scales, 4);
    for (int g = 0; g < 4; g++) {
        uint32_t w[2];
        memcpy(w, codes + 8 * g, 8);
        const uint64_t x = source_spread(w[0]) | source_spread(w[1]) << 4;
        memcpy(dst + 4 + 8 * g, &x, 8);
    }
}

// 32 values, one scale: values i and i + 16 in a byte.
static void put_mxfp4(const uint8_t *codes, const uint8_t *scale, uint8_t *dst)
{
    uint32_t w[4];
    memcpy(w, codes, 16);
    *dst = *scale;
    for (int h = 0; h < 2; h++) {
        const uint64_t x = source_spread(w[h]) | source_spread(w[2 + h]) << 4;
        memcpy(dst + 1 + 8 * h, &x, 8);
    }
}

static void put_floats(const struct source_job *j, const uint8_t *codes, const uint8_t *scales,
                       float factor, float *dst)
{
    const bool is_nv = j->w->kind == SOURCE_NVFP4;
    for (int64_t c = 0; c < j->in; c++) {
        const uint8_t s = scales[c / (is_nv ? 16 : 32)];
        const float scale = is_nv ? dtype_f8_to_f32(s) : s == 255 ? NAN : ldexpf(1, s - 127);
        dst[c] = values[codes[c / 2] >> 4 * (c & 1) & 15] * scale * factor;
    }
}

static err_t check(const struct source_job *j, int64_t group, struct err_text *why)
{
    const enum dtype block = j->w->kind == SOURCE_NVFP4 ? DT_NVFP4 : DT_MXFP4;
    const struct model_tensor *t = j->src->main;
    if (!j->src->scale) return source_say(j->reader, t, why, "has no scales");
    if (j->w->turn == TURN_COLUMNS)
        return source_say(j->reader, t, why, "is quantised and cannot be transposed");
    if (j->w->dtype != DT_F32 && j->w->dtype != block)
        return source_say(j->reader, t, why, "is of another type than its values");
    const uint32_t unit = j->w->dtype == DT_F32 ? (uint32_t)group : dtype_info(block)->block;
    if (j->in % unit) return source_say(j->reader, t, why, "does not fit whole groups of columns");
    return OK;
}

// Scales of NVFP4 are magnitudes; GGML's blocks have no place for a sign.
static err_t check_signs(const struct source_job *j, const uint8_t *scales, int64_t n,
                         struct err_text *why)
{
    uint8_t all = 0;
    for (int64_t i = 0; i < n; i++)
        all |= scales[i];
    return all & 0x80 ? source_say(j->reader, j->src->scale, why, "holds a negative scale") : OK;
}

static void put_row(const struct source_job *j, const uint8_t *codes, const uint8_t *scales,
                    float factor, uint8_t *dst)
{
    if (j->w->dtype == DT_F32)
        put_floats(j, codes, scales, factor, (float *)dst);
    else if (j->w->dtype == DT_NVFP4)
        for (int64_t b = 0; b < j->in / 64; b++)
            put_nvfp4(codes + 32 * b, scales + 4 * b, dst + 36 * b);
    else
        for (int64_t b = 0; b < j->in / 32; b++)
            put_mxfp4(codes + 16 * b, scales + b, dst + 17 * b);
}

err_t source_fp4_rows(struct source_job *j, uint8_t *dst, struct err_text *why)
{
    const bool is_nv = j->w->kind == SOURCE_NVFP4;
    const int64_t group = is_nv ? 16 : 32, per_row = j->in / group;
    const int64_t from = j->matrix * j->out + j->lo;
    struct source_reader *r = j->reader;
    uint8_t *raw, *scales;
    float factor = 1;
    err_t e = check(j, group, why);
    // the weight's own factor is applied by the kernels; floats take it here
    if (!e && j->w->dtype == DT_F32 && j->src->global)
        e = source_factor(r, j->w, j->w->n_source > 1 ? j->src - j->w->sources : j->matrix, &factor,
                          why);
    if (!e) e = source_buffer(r, SOURCE_BUFFER_SCALE, (uint64_t)(j->n_src * per_row), &scales, why);
    if (!e)
        e = source_read(r, j->src->scale, (uint64_t)(from * per_row),
                        (uint64_t)(j->n_src * per_row), scales, why);
    if (!e && is_nv) e = check_signs(j, scales, j->n_src * per_row, why);
    if (!e) e = source_buffer(r, SOURCE_BUFFER_RAW, (uint64_t)(j->n_src * j->in / 2), &raw, why);
    if (!e)
        e = source_read(r, j->src->main, (uint64_t)(from * j->in / 2),
                        (uint64_t)(j->n_src * j->in / 2), raw, why);
    if (e) return e;
    const uint64_t row_bytes = dtype_row_bytes(j->w->dtype, (uint64_t)j->in);
    for (int64_t i = 0; i < j->n; i++)
        put_row(j, raw + j->at[i] * j->in / 2, scales + j->at[i] * per_row, factor,
                dst + (uint64_t)i * row_bytes);
    return OK;
}
