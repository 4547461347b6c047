// Integers of 2, 3, 4 or 8 bits in 32-bit words, a scale and a zero for each group of columns:
//     value = scale[group] * (code - zero[group])
// GPTQ (Frantar et al. 2022; words run down the columns of the transposed matrix), AWQ (Lin et al.
// 2023; a word holds 8 neighbouring rows, nibbles in the order 0 2 4 6 1 3 5 7) and
// compressed-tensors (words run along the rows). Act-order: a list says which group a column is in.
#include "worker/source_priv.h"

#include <string.h>

struct ints {
    int64_t n_group, group_size;
    int64_t n_word;        // of a row
    const uint32_t *words; // (n_src, n_word) codes, bit 0 first
    float *scales;         // (n_src, n_group)
    uint16_t *zeros;       // (n_src, n_group)
    int32_t *groups;       // (in) group of each column, or NULL: column / group_size
    const int32_t *order;  // (in) columns sorted by group, or NULL
    uint8_t *codes;        // (2, in)
};

static bool is_by_row(const struct source_job *j)
{
    return j->w->kind == SOURCE_CT_INT;
}

// Which of a word's nibbles holds row r of the 8.
static int awq_nibble(int64_t r)
{
    return (int)(r % 2 * 4 + r % 8 / 2);
}

static uint32_t bits_at(const uint32_t *words, int64_t bit, uint32_t bits)
{
    const uint32_t *w = words + bit / 32;
    const uint32_t off = (uint32_t)(bit % 32);
    uint32_t v = w[0] >> off;
    if (off + bits > 32) v |= w[1] << (32 - off);
    return v & ((1u << bits) - 1);
}

// -- scales, zeros, groups --

static err_t read_scales(struct source_job *j, struct ints *n, struct err_text *why)
{
    const struct model_tensor *t = j->src->scale;
    if (!t) return source_say(j->reader, j->src->main, why, "has no scales");
    const int64_t per_group = j->out * j->n_matrix * dtype_info(t->dtype)->bytes;
    n->n_group = per_group ? (int64_t)t->bytes / per_group : 0;
    if (n->n_group < 1 || n->n_group > j->in || (uint64_t)(n->n_group * per_group) != t->bytes)
        return source_say(j->reader, t, why, "does not have one scale for each group");
    n->group_size = j->w->block_cols ? j->w->block_cols : (j->in + n->n_group - 1) / n->n_group;
    if ((j->in + n->group_size - 1) / n->group_size != n->n_group)
        return source_say(j->reader, t, why, "does not have one scale for each group");
    const int64_t count = j->n_src * n->n_group;
    float *s;
    err_t e = source_buffer(j->reader, SOURCE_BUFFER_SCALE, (uint64_t)count * 8, &s, why);
    if (e) return e;
    n->scales = s;
    if (is_by_row(j)) {
        const struct source_lines l = {(j->matrix * j->out + j->lo) * n->n_group, count, count, 1};
        return source_floats(j->reader, t, &l, s, why);
    }
    const struct source_lines l = {j->matrix * n->n_group * j->out + j->lo, j->n_src, j->out,
                                   n->n_group};
    float *columns = s + count;
    e = source_floats(j->reader, t, &l, columns, why);
    for (int64_t r = 0; !e && r < j->n_src; r++)
        for (int64_t g = 0; g < n->n_group; g++)
            s[r * n->n_group + g] = columns[g * j->n_src + r];
    return e;
}

// Zeros are packed along the rows of the matrix: 32 / bits of them (3 bits: 32 in 3 words) make a
// word, for each group by itself.
static err_t read_zeros(struct source_job *j, struct ints *n, struct err_text *why)
{
    const struct model_tensor *t = j->src->zero;
    const uint32_t bits = j->w->bits;
    const int64_t count = j->n_src * n->n_group, words = (j->out * bits + 31) / 32;
    const int64_t from = j->lo * bits / 32, to = ((j->lo + j->n_src) * bits + 31) / 32;
    const struct source_lines by_row = {4 * (j->matrix * words + from) * n->n_group,
                                        4 * (to - from) * n->n_group, 4 * (to - from) * n->n_group,
                                        1};
    const struct source_lines by_group = {4 * (j->matrix * n->n_group * words + from),
                                          4 * (to - from), 4 * words, n->n_group};
    uint32_t *raw;
    err_t e = source_buffer(j->reader, SOURCE_BUFFER_ZERO, (uint64_t)count * 2, &n->zeros, why);
    for (int64_t i = 0; !e && !t && i < count; i++)
        n->zeros[i] = (uint16_t)(1u << (bits - 1));
    if (e || !t) return e;
    if (t->bytes != (uint64_t)(4 * words * n->n_group * j->n_matrix))
        return source_say(j->reader, t, why, "does not have one zero for each group");
    e = source_buffer(j->reader, SOURCE_BUFFER_RAW, 4 * (uint64_t)((to - from) * n->n_group), &raw,
                      why);
    if (!e) e = source_read_lines(j->reader, t, is_by_row(j) ? &by_row : &by_group, raw, why);
    for (int64_t r = 0; !e && r < j->n_src; r++) {
        int64_t row = j->lo + r;
        if (j->w->kind == SOURCE_AWQ) row += awq_nibble(row) - row % 8;
        const int64_t bit = row * bits - 32 * from;
        for (int64_t g = 0; g < n->n_group; g++) {
            const uint32_t z = is_by_row(j)
                                   ? bits_at(&raw[bit / 32 * n->n_group + g], bit % 32, bits)
                                   : bits_at(&raw[g * (to - from)], bit, bits);
            n->zeros[r * n->n_group + g] = (uint16_t)(z + j->w->zero_is_plus_one);
        }
    }
    return e;
}

// Columns by group, those of a group in their own order.
static void sort_columns(const struct source_job *j, const struct ints *n, int32_t *order)
{
    int64_t p = 0;
    for (int64_t g = 0; g < n->n_group; g++)
        for (int64_t c = 0; c < j->in; c++)
            if (n->groups[c] == g) order[p++] = (int32_t)c;
}

static err_t read_groups(struct source_job *j, struct ints *n, struct err_text *why)
{
    const struct model_tensor *t = j->src->order;
    if (!t) return OK;
    if (t->dtype != DT_I32 || t->bytes != (uint64_t)(4 * j->in * j->n_matrix))
        return source_say(j->reader, t, why, "does not have one group for each column");
    int32_t *groups;
    err_t e = source_buffer(j->reader, SOURCE_BUFFER_GROUP, 8 * (uint64_t)j->in, &groups, why);
    if (!e)
        e = source_read(j->reader, t, (uint64_t)(4 * j->matrix * j->in), 4 * (uint64_t)j->in,
                        groups, why);
    if (e) return e;
    bool is_unset = true, is_plain = true;
    for (int64_t c = 0; c < j->in; c++) {
        is_unset &= groups[c] == -1; // compressed-tensors: no order after all
        is_plain &= groups[c] == c / n->group_size;
    }
    if (is_unset || is_plain) return OK;
    for (int64_t c = 0; c < j->in; c++)
        if (groups[c] < 0 || groups[c] >= n->n_group)
            return source_say(j->reader, t, why, "names a group that has no scale");
    n->groups = groups;
    if (j->w->dtype == DT_F32) return OK;
    if (j->w->n != j->w->n_source)
        return source_say(j->reader, t, why, "orders the columns of one expert: not supported");
    int32_t *order = groups + j->in;
    sort_columns(j, n, order);
    for (int64_t p = 0; p < j->in; p++)
        if (groups[order[p]] != p / n->group_size)
            return source_say(j->reader, t, why, "has groups of different sizes");
    n->order = order;
    j->is_ordered = true;
    if (j->order) memcpy(j->order, order, 4 * (size_t)j->in);
    return OK;
}

// -- codes --

// Words (n_word, n_src) to (n_src, n_word), some rows at a time so that what is written stays near.
static void turn_words(const uint32_t *src, int64_t n_src, int64_t n_word, uint32_t *dst)
{
    enum { TILE = 16 };
    for (int64_t from = 0; from < n_src; from += TILE) {
        const int64_t to = from + TILE < n_src ? from + TILE : n_src;
        for (int64_t k = 0; k < n_word; k++)
            for (int64_t r = from; r < to; r++)
                dst[r * n_word + k] = src[k * n_src + r];
    }
}

// Nibble p of word q becomes nibble q of word p.
static void turn_nibbles(uint32_t w[8])
{
    static const uint32_t low[3] = {0x0000ffff, 0x00ff00ff, 0x0f0f0f0f};
    for (int s = 0, d = 4; d; s++, d /= 2)
        for (int i = 0; i < 8; i++) {
            if (i & d) continue;
            const uint32_t x = (w[i] >> 4 * d ^ w[i + d]) & low[s];
            w[i + d] ^= x;
            w[i] ^= x << 4 * d;
        }
}

// AWQ: (in, n_col) words, each of 8 rows, to (8 n_col, in / 8) words of 8 columns.
static void turn_awq(const uint32_t *src, int64_t in, int64_t n_col, uint32_t *dst)
{
    const int64_t n_word = (in + 7) / 8;
    for (int64_t k = 0; k < n_col; k++)
        for (int64_t c = 0; c < n_word; c++) {
            uint32_t w[8] = {0};
            for (int64_t i = 0; i < 8 && 8 * c + i < in; i++)
                w[i] = src[(8 * c + i) * n_col + k];
            turn_nibbles(w);
            for (int r = 0; r < 8; r++)
                dst[(8 * k + r) * n_word + c] = w[awq_nibble(r)];
        }
}

// The codes of all rows that are read, as words that run along the rows.
static err_t read_words(struct source_job *j, struct ints *n, struct err_text *why)
{
    const bool is_awq = j->w->kind == SOURCE_AWQ;
    n->n_word = (j->in * j->w->bits + 31) / 32;
    const int64_t lo = is_awq ? j->lo / 8 : j->lo; // of what lies side by side in the file
    const int64_t hi = is_awq ? (j->lo + j->n_src + 7) / 8 : j->lo + j->n_src;
    const int64_t width = is_awq ? j->out / 8 : j->out, height = is_awq ? j->in : n->n_word;
    const struct source_lines columns = {4 * (j->matrix * height * width + lo), 4 * (hi - lo),
                                         4 * width, height};
    const struct source_lines rows = {4 * (j->matrix * j->out + j->lo) * n->n_word,
                                      4 * j->n_src * n->n_word, 4 * j->n_src * n->n_word, 1};
    const uint64_t bytes = (uint64_t)(is_by_row(j) ? rows.n : columns.n * columns.n_line);
    uint32_t *raw, *words;
    err_t e = source_buffer(j->reader, SOURCE_BUFFER_RAW, bytes, &raw, why);
    if (!e)
        e = source_read_lines(j->reader, j->src->main, is_by_row(j) ? &rows : &columns, raw, why);
    n->words = raw;
    if (e || is_by_row(j)) return e;
    e = source_buffer(j->reader, SOURCE_BUFFER_WORD,
                      4 * (uint64_t)((is_awq ? 8 * (hi - lo) : j->n_src) * n->n_word), &words, why);
    if (e) return e;
    if (is_awq)
        turn_awq(raw, j->in, hi - lo, words);
    else
        turn_words(raw, j->n_src, n->n_word, words);
    n->words = words + (is_awq ? j->lo % 8 * n->n_word : 0);
    return OK;
}

// The codes of one row, in the order of the columns that is wanted.
static const uint8_t *row_codes(const struct source_job *j, const struct ints *n, int64_t row)
{
    const uint32_t *words = n->words + row * n->n_word;
    const uint32_t bits = j->w->bits;
    uint8_t *codes = n->codes, *sorted = codes + j->in;
    int64_t c = 0;
    for (; bits == 4 && c + 8 <= j->in; c += 8) {
        const uint64_t x = source_spread(words[c / 8]);
        memcpy(codes + c, &x, 8);
    }
    if (bits == 8) memcpy(codes, words, (size_t)(c = j->in));
    for (; c < j->in; c++)
        codes[c] = (uint8_t)bits_at(words, c * bits, bits);
    if (!n->order) return codes;
    for (c = 0; c < j->in; c++)
        sorted[c] = codes[n->order[c]];
    return sorted;
}

// -- rows --

static void put_nibbles(const uint8_t *codes, uint8_t *dst)
{
    uint64_t x[4];
    memcpy(x, codes, 32);
    x[0] |= x[2] << 4;
    x[1] |= x[3] << 4;
    memcpy(dst, x, 16);
}

// INT8: float d, i16 z, 32 i8; codes of 8 bits are moved into the range of a signed byte.
static void put_bytes(const uint8_t *codes, float d, int z, uint32_t bits, uint8_t *dst)
{
    const uint8_t flip = bits == 8 ? 0x80 : 0;
    const int16_t zero = (int16_t)(z - flip);
    memcpy(dst, &d, 4);
    memcpy(dst + 4, &zero, 2);
    for (int i = 0; i < 32; i++)
        dst[6 + i] = codes[i] ^ flip;
}

static void put_blocks(const struct source_job *j, const struct ints *n, int64_t row,
                       const uint8_t *codes, uint8_t *dst)
{
    const float *scales = n->scales + row * n->n_group;
    const uint16_t *zeros = n->zeros + row * n->n_group;
    for (int64_t g = 0; g < n->n_group; g++) {
        const uint16_t half = dtype_f32_to_f16(scales[g]);
        int64_t to = (g + 1) * n->group_size;
        if (to > j->in) to = j->in;
        for (int64_t c = g * n->group_size; c < to; c += 32) {
            if (j->w->dtype == DT_INT8) {
                put_bytes(codes + c, scales[g], zeros[g], j->w->bits, dst);
                dst += 38;
                continue;
            }
            memcpy(dst, &half, 2);
            dst += 2;
            if (j->w->dtype == DT_INT4) *dst++ = (uint8_t)zeros[g];
            put_nibbles(codes + c, dst);
            dst += 16;
        }
    }
}

static void put_floats(const struct source_job *j, const struct ints *n, int64_t row,
                       const uint8_t *codes, float *dst)
{
    const float *scales = n->scales + row * n->n_group;
    const uint16_t *zeros = n->zeros + row * n->n_group;
    for (int64_t c = 0; c < j->in; c++) {
        const int64_t g = n->groups ? n->groups[c] : c / n->group_size;
        dst[c] = (float)(codes[c] - zeros[g]) * scales[g];
    }
}

static err_t check(const struct source_job *j, const struct ints *n, struct err_text *why)
{
    const struct model_weight *w = j->w;
    const struct model_tensor *t = j->src->main;
    if (w->turn == TURN_COLUMNS)
        return source_say(j->reader, t, why, "is quantised and cannot be transposed");
    if (w->dtype == DT_F32) return OK;
    const bool fits = w->dtype == DT_INT8 || (w->dtype == DT_INT4 && w->bits <= 4) ||
                      (w->dtype == DT_Q4_0 && w->bits == 4);
    if (!fits || j->in % 32 || (n->n_group > 1 && n->group_size % 32))
        return source_say(j->reader, t, why, "does not fit blocks of 32 columns");
    for (int64_t i = 0; w->dtype == DT_Q4_0 && i < j->n_src * n->n_group; i++)
        if (n->zeros[i] != 8)
            return source_say(j->reader, j->src->zero, why,
                              "has zeros although the configuration says symmetric");
    return OK;
}

err_t source_int_rows(struct source_job *j, uint8_t *dst, struct err_text *why)
{
    const uint32_t bits = j->w->kind == SOURCE_AWQ ? 4 : j->w->bits;
    struct ints n = {0};
    err_t e = OK;
    const bool is_known = bits == 2 || (bits == 3 && !is_by_row(j)) || bits == 4 || bits == 8;
    if (bits != j->w->bits || !is_known)
        e = source_say(j->reader, j->src->main, why, "has integers of an unknown size");
    if (!e) e = read_scales(j, &n, why);
    if (!e) e = read_zeros(j, &n, why);
    if (!e) e = check(j, &n, why);
    if (!e) e = read_groups(j, &n, why);
    if (!e) e = read_words(j, &n, why);
    if (!e) e = source_buffer(j->reader, SOURCE_BUFFER_CODE, 2 * (uint64_t)j->in, &n.codes, why);
    if (e) return e;
    const uint64_t row_bytes = dtype_row_bytes(j->w->dtype, (uint64_t)j->in);
    for (int64_t i = 0; i < j->n; i++) {
        const uint8_t *codes = row_codes(j, &n, j->at[i]);
        if (j->w->dtype == DT_F32)
            put_floats(j, &n, j->at[i], codes, (float *)(dst + (uint64_t)i * row_bytes));
        else
            put_blocks(j, &n, j->at[i], codes, dst + (uint64_t)i * row_bytes);
    }
    return OK;
}
