#include "kernels/cuda/pack.h"
#include "kernels/cpu/packed.h"

#include <math.h>
#include <string.h>

enum { TILE = 16, CHUNK = 256, UNIT = 64 };

static enum dtype form_type(enum dtype t)
{
    switch (t) {
    case DT_IQ2_XXS:
    case DT_IQ2_XS:
    case DT_IQ2_S:
    case DT_IQ3_XXS:
    case DT_IQ1_S:
    case DT_IQ1_M:
        return DT_IQ3_S;
    case DT_TQ1_0:
        return DT_TQ2_0;
    default:
        return t;
    }
}

struct pack_size pack_sizes(enum dtype form)
{
    static const struct pack_size sizes[DT_COUNT] = {
        [DT_Q4_0] = {0, 256, 512},    [DT_Q4_1] = {0, 512, 512},   [DT_Q5_0] = {512, 256, 512},
        [DT_Q5_1] = {512, 512, 512},  [DT_Q8_0] = {0, 256, 1024},  [DT_Q2_K] = {0, 320, 256},
        [DT_Q3_K] = {512, 288, 256},  [DT_Q4_K] = {0, 320, 512},   [DT_Q5_K] = {512, 320, 512},
        [DT_Q6_K] = {1024, 288, 512}, [DT_IQ4_NL] = {0, 256, 512}, [DT_IQ4_XS] = {0, 160, 512},
        [DT_TQ2_0] = {0, 32, 256},    [DT_IQ3_S] = {0, 320, 512},  [DT_MXFP4] = {0, 128, 512},
        [DT_NVFP4] = {0, 256, 512},   [DT_INT4] = {0, 384, 512},   [DT_INT8] = {0, 768, 1024},
        [DT_FP8] = {0, 512, 1024},    [DT_BF16] = {0, 0, 2048},    [DT_F16] = {0, 0, 2048},
        [DT_F32] = {0, 0, 4096},
    };
    return sizes[form];
}

int64_t pack_tile_bytes(enum dtype t, int64_t cols)
{
    const struct pack_size s = pack_sizes(form_type(t));
    return (cols + CHUNK - 1) / CHUNK * (s.planes + s.scales) + (cols + UNIT - 1) / UNIT * s.unit;
}

void pack_levels(enum dtype t, int8_t out[16])
{
    static const int8_t iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                   1,    13,   25,  38,  53,  69,  89,  113};
    static const int8_t e2m1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    static const int8_t iq3_s[16] = {1, 3, 5, 7, 9, 11, 13, 15, -1, -3, -5, -7, -9, -11, -13, -15};
    static const int8_t iq3_xxs[16] = {4,  12,  20,  28,  36,  44,  52,  62,
                                       -4, -12, -20, -28, -36, -44, -52, -62};
    static const int8_t iq2[16] = {8, 25, 43, -8, -25, -43};
    static const int8_t iq1[16] = {-9, -7, -1, 1, 7, 9};
    const int8_t *from = NULL;
    switch (t) {
    case DT_IQ4_NL:
    case DT_IQ4_XS:
        from = iq4;
        break;
    case DT_MXFP4:
    case DT_NVFP4:
        from = e2m1;
        break;
    case DT_IQ3_S:
        from = iq3_s;
        break;
    case DT_IQ3_XXS:
        from = iq3_xxs;
        break;
    case DT_IQ2_XXS:
    case DT_IQ2_XS:
    case DT_IQ2_S:
        from = iq2;
        break;
    case DT_IQ1_S:
    case DT_IQ1_M:
        from = iq1;
        break;
    default:
        break;
    }
    if (from)
        memcpy(out, from, 16);
    else
        memset(out, 0, 16);
}

// One chunk of one row on its way into a tile.
struct spot {
    uint8_t *chunk, *scales, *units;
    int g, h;
    uint8_t code[CHUNK];
};

// -- codes --

static void put_plane1(const uint32_t *w, int bit, int u, int h, uint8_t *lane)
{
    uint32_t v;
    memcpy(&v, lane + 4 * u, 4);
    for (int s = 0; s < 4; s++)
        v |= (w[s] >> bit & 0x01010101) << (s + 4 * h);
    memcpy(lane + 4 * u, &v, 4);
}

static void put_plane2(const uint32_t *w, int bit, int u, int h, uint8_t *lane)
{
    uint32_t v = 0;
    for (int s = 0; s < 4; s++)
        v |= (w[s] >> bit & 0x03030303) << 2 * s;
    memcpy(lane + u / 2 * 512 + (u % 2 * 2 + h) * 4, &v, 4);
}

static void put_codes(enum dtype t, const struct spot *o, int n_unit)
{
    for (int u = 0; u < n_unit; u++)
        for (int i = 0; i < 4; i++) {
            const int lane = 16 * (4 * o->g + i);
            uint32_t w[4], v[2];
            for (int s = 0; s < 4; s++)
                memcpy(&w[s], o->code + UNIT * u + 16 * s + 4 * i, 4);
            switch (t) {
            case DT_Q8_0:
            case DT_INT8:
            case DT_FP8:
                memcpy(o->units + 1024 * u + 512 * o->h + lane, w, 16);
                continue;
            case DT_Q2_K:
            case DT_TQ2_0:
                put_plane2(w, 0, u, o->h, o->units + lane);
                continue;
            case DT_Q3_K:
                put_plane2(w, 0, u, o->h, o->units + lane);
                put_plane1(w, 2, u, o->h, o->chunk + lane);
                continue;
            case DT_Q5_0:
            case DT_Q5_1:
            case DT_Q5_K:
                put_plane1(w, 4, u, o->h, o->chunk + lane);
                break;
            case DT_Q6_K:
                put_plane2(w, 4, u, o->h, o->chunk + lane);
                break;
            default:
                break;
            }
            v[0] = (w[0] & 0x0f0f0f0f) | (w[1] & 0x0f0f0f0f) << 4;
            v[1] = (w[2] & 0x0f0f0f0f) | (w[3] & 0x0f0f0f0f) << 4;
            memcpy(o->units + 512 * u + lane + 8 * o->h, v, 8);
        }
}

// -- scales --

static void put_2(const struct spot *o, int at, int b, const void *v) // of 32 columns
{
    memcpy(o->scales + at + 32 * o->g + 16 * o->h + 2 * b, v, 2);
}
static void put_4(const struct spot *o, int b, const void *v) // of 32 columns
{
    memcpy(o->scales + 64 * o->g + 32 * o->h + 4 * b, v, 4);
}
static uint8_t *byte_32(const struct spot *o, int at, int b)
{
    return o->scales + at + 16 * o->g + 8 * o->h + b;
}
static uint8_t *byte_16(const struct spot *o, int b)
{
    return o->scales + 32 * o->g + 16 * o->h + b;
}

static void nibbles(const uint8_t *restrict p, uint8_t *restrict code) // 32 of 16 bytes
{
    for (int i = 0; i < 16; i++) {
        code[i] = p[i] & 15;
        code[i + 16] = p[i] >> 4;
    }
}
static void fifth_bits(const uint8_t *p, uint8_t *code)
{
    for (int i = 0; i < 32; i++)
        code[i] |= (uint8_t)((p[i / 8] >> i % 8 & 1) << 4);
}

// -- types of blocks of 32 (NVFP4: 64) columns; block b of the chunk, at p --

static void nvfp4_block(struct spot *o, int b, const uint8_t *p)
{
    for (int j = 0; j < 4; j++) {
        *byte_16(o, 4 * b + j) = p[j] == 0x7f ? 0 : p[j] & 0x7f; // no sign; GGML reads 0x7f as 0
        for (int i = 0; i < 8; i++) {
            o->code[64 * b + 16 * j + i] = p[4 + 8 * j + i] & 15;
            o->code[64 * b + 16 * j + 8 + i] = p[4 + 8 * j + i] >> 4;
        }
    }
}

static void fp8_block(struct spot *o, int b, const uint8_t *p)
{
    float d;
    memcpy(&d, p, 4);
    memcpy(o->code + 32 * b, p + 4, 32);
    for (int i = 0; i < 32; i++)
        if ((p[4 + i] & 0x7f) == 0x7f) d = NAN;
    put_4(o, b, &d);
}

static void small_block(enum dtype t, struct spot *o, int b, const uint8_t *p)
{
    uint8_t *code = o->code + 32 * b;
    switch (t) {
    case DT_NVFP4:
        nvfp4_block(o, b, p);
        return;
    case DT_FP8:
        fp8_block(o, b, p);
        return;
    case DT_MXFP4:
        *byte_32(o, 0, b) = p[0];
        nibbles(p + 1, code);
        return;
    case DT_INT8:
        put_4(o, b, p);
        put_2(o, 512, b, p + 4);
        memcpy(code, p + 6, 32);
        return;
    default:
        break;
    }
    put_2(o, 0, b, p); // the others begin with a half
    switch (t) {
    case DT_Q8_0:
        memcpy(code, p + 2, 32);
        break;
    case DT_INT4:
        *byte_32(o, 256, b) = p[2];
        nibbles(p + 3, code);
        break;
    case DT_Q5_0:
        nibbles(p + 6, code);
        fifth_bits(p + 2, code);
        break;
    case DT_Q4_1:
        put_2(o, 256, b, p + 2);
        nibbles(p + 4, code);
        break;
    case DT_Q5_1:
        put_2(o, 256, b, p + 2);
        nibbles(p + 8, code);
        fifth_bits(p + 4, code);
        break;
    default: // Q4_0, IQ4_NL
        nibbles(p + 2, code);
        break;
    }
}

// -- types of blocks of 256 columns --

// 256 of 64 bytes: two halves of 128, in each four fields of 32.
static void pairs(const uint8_t *restrict p, uint8_t *restrict code)
{
    for (int h = 0; h < 2; h++, p += 32, code += 128)
        for (int i = 0; i < 32; i++) {
            code[i] = p[i] & 3;
            code[i + 32] = p[i] >> 2 & 3;
            code[i + 64] = p[i] >> 4 & 3;
            code[i + 96] = p[i] >> 6;
        }
}

// Bit j of byte i is bit `to` of column i of each 32.
static void add_bits(const uint8_t *restrict p, int to, uint8_t *restrict code)
{
    for (int j = 0; j < 8; j++, code += 32)
        for (int i = 0; i < 32; i++)
            code[i] |= (uint8_t)((p[i] >> j & 1) << to);
}

static void k4_codes(const uint8_t *restrict q, uint8_t *restrict code)
{
    for (int j = 0; j < 4; j++, q += 32, code += 64)
        for (int i = 0; i < 32; i++) {
            code[i] = q[i] & 15;
            code[i + 32] = q[i] >> 4;
        }
}

static void k4_block(enum dtype t, struct spot *o, const uint8_t *p)
{
    const uint8_t *s = p + 4;
    memcpy(o->scales + 256 + 8 * o->g + 4 * o->h, p, 4);
    for (int j = 0; j < 8; j++) {
        uint8_t *at = o->scales + 32 * o->g + 8 * o->h + j;
        at[0] = j < 4 ? s[j] & 63 : (uint8_t)((s[j + 4] & 15) | s[j - 4] >> 6 << 4);
        at[16] = j < 4 ? s[j + 4] & 63 : (uint8_t)(s[j + 4] >> 4 | s[j] >> 6 << 4);
    }
    k4_codes(p + (t == DT_Q5_K ? 48 : 16), o->code);
    if (t == DT_Q5_K) add_bits(p + 16, 4, o->code);
}

static void q6_codes(const uint8_t *restrict p, uint8_t *restrict code)
{
    for (int h = 0; h < 2; h++, code += 128) {
        const uint8_t *lo = p + 64 * h, *hi = p + 128 + 32 * h;
        for (int i = 0; i < 32; i++) {
            code[i] = (uint8_t)((lo[i] & 15) | (hi[i] & 3) << 4);
            code[i + 32] = (uint8_t)((lo[i + 32] & 15) | (hi[i] >> 2 & 3) << 4);
            code[i + 64] = (uint8_t)(lo[i] >> 4 | (hi[i] >> 4 & 3) << 4);
            code[i + 96] = (uint8_t)(lo[i + 32] >> 4 | hi[i] >> 6 << 4);
        }
    }
}

static void q6_block(struct spot *o, const uint8_t *p)
{
    memcpy(o->scales + 256 + 4 * o->g + 2 * o->h, p + 208, 2);
    memcpy(byte_16(o, 0), p + 192, 16);
    q6_codes(p, o->code);
}

static void q3_block(struct spot *o, const uint8_t *p)
{
    const uint8_t *s = p + 96;
    memcpy(o->scales + 256 + 4 * o->g + 2 * o->h, p + 108, 2);
    for (int j = 0; j < 16; j++) {
        const int lo = j < 8 ? s[j] & 15 : s[j - 8] >> 4, hi = s[8 + j % 4] >> j / 4 * 2 & 3;
        *byte_16(o, j) = (uint8_t)((lo | hi << 4) - 32);
    }
    pairs(p + 32, o->code);
    add_bits(p, 2, o->code);
}

static void large_block(enum dtype t, struct spot *o, const uint8_t *p)
{
    switch (t) {
    case DT_Q2_K:
        memcpy(o->scales + 256 + 8 * o->g + 4 * o->h, p + 80, 4);
        memcpy(byte_16(o, 0), p, 16);
        pairs(p + 16, o->code);
        break;
    case DT_Q3_K:
        q3_block(o, p);
        break;
    case DT_Q6_K:
        q6_block(o, p);
        break;
    case DT_TQ2_0:
        memcpy(o->scales + 4 * o->g + 2 * o->h, p + 64, 2);
        pairs(p, o->code);
        break;
    case DT_IQ4_XS:
        memcpy(o->scales + 128 + 4 * o->g + 2 * o->h, p, 2);
        for (int j = 0; j < 8; j++) {
            const int lo = p[4 + j / 2] >> j % 2 * 4 & 15, hi = p[2 + j / 4] >> j % 4 * 2 & 3;
            *byte_32(o, 0, j) = (uint8_t)((lo | hi << 4) - 32);
            nibbles(p + 8 + 16 * j, o->code + 32 * j);
        }
        break;
    default:
        k4_block(t, o, p);
        break;
    }
}

// -- types that the CPU decodes, 8 rows at a time --

static void put_decoded(enum dtype t, const uint8_t *coded, const uint8_t *number, const uint8_t *p,
                        struct spot *o)
{
    const int r = o->g;
    if (t == DT_TQ1_0)
        memcpy(o->scales + 4 * o->g + 2 * o->h, p + 52, 2);
    else
        memcpy(o->scales + 256 + 8 * o->g + 4 * o->h, coded + 4 * r, 4);
    for (int b = 0; b < 8; b++) {
        const uint8_t *block = coded + CODES_HEAD + b * CODES_BLOCK;
        if (t != DT_TQ1_0) memcpy(byte_16(o, 2 * b), block + 2 * r, 2);
        for (int c = 0; c < 32; c++)
            o->code[32 * b + c] = number[block[16 + 32 * (c / 4) + 4 * r + c % 4]];
    }
}

static void decoded_chunk(enum dtype t, const uint8_t *const *rows, int n_row, struct spot *o)
{
    const uint32_t bytes = dtype_info(t)->bytes;
    uint8_t run[PANEL_ROWS * 128], coded[CODES_BYTES], number[256] = {0};
    int8_t level[16];
    pack_levels(t, level);
    for (int i = 0; i < 16; i++)
        if (level[i]) number[(uint8_t)level[i]] = (uint8_t)i;
    if (t == DT_TQ1_0) // codes -1, 0, 1 are 0, 1, 2 in TQ2_0
        for (int i = 0; i < 3; i++)
            number[(uint8_t)(i - 1)] = (uint8_t)i;
    quant_grid_open();
    for (int from = 0; from < n_row; from += PANEL_ROWS) {
        const int n = n_row - from < PANEL_ROWS ? n_row - from : PANEL_ROWS;
        memset(run, 0, sizeof run);
        for (int r = 0; r < n; r++)
            memcpy(run + (uint32_t)r * bytes, rows[from + r], bytes);
        quant_decode(t, run, coded);
        for (o->g = 0, o->h = from / PANEL_ROWS; o->g < n; o->g++) {
            put_decoded(t, coded, number, rows[from + o->g], o);
            put_codes(form_type(t), o, 4);
        }
    }
}

// -- floats --

static void float_chunk(uint32_t size, const uint8_t *p, int64_t cols, const struct spot *o)
{
    uint8_t row[4 * CHUNK] = {0};
    memcpy(row, p, (size_t)cols * size);
    for (int c = 0; c < (cols + UNIT - 1) / UNIT * UNIT; c += 4) { // a group
        const int u = c / UNIT, s = c % UNIT / 16, lane = 16 * (4 * o->g + c % 16 / 4);
        if (size == 4) {
            memcpy(o->units + 4096 * u + 512 * (4 * o->h + s) + lane, row + 4 * c, 16);
            continue;
        }
        uint64_t v; // columns 0, 1, 2, 3 become 0, 2, 1, 3
        memcpy(&v, row + 2 * c, 8);
        v = (v & 0xffff00000000ffff) | (v & 0xffff0000) << 16 | (v >> 16 & 0xffff0000);
        memcpy(o->units + 2048 * u + 512 * (2 * o->h + s / 2) + lane + 8 * (s % 2), &v, 8);
    }
}

// One chunk of a tile. rows: where each row's chunk begins.
static void put_chunk(enum dtype t, const uint8_t *const *rows, int n_row, int64_t cols,
                      uint8_t *chunk)
{
    const struct dtype_info *d = dtype_info(t);
    const struct pack_size size = pack_sizes(form_type(t));
    struct spot o = {
        .chunk = chunk, .scales = chunk + size.planes, .units = chunk + size.planes + size.scales};
    if (packed_info((int)t).kind == PACKED_FILE) {
        decoded_chunk(t, rows, n_row, &o);
        return;
    }
    for (int r = 0; r < n_row; r++) {
        const uint8_t *p = rows[r];
        o.g = r % 8;
        o.h = r / 8;
        if (!d->is_quantised) {
            float_chunk(d->bytes, p, cols, &o);
            continue;
        }
        if (d->block == CHUNK) large_block(t, &o, p);
        for (int b = 0; d->block < CHUNK && b * (int)d->block < cols; b++)
            small_block(t, &o, b, p + (uint32_t)b * d->bytes);
        if (cols % UNIT) memset(o.code + cols, 0, UNIT - (size_t)(cols % UNIT));
        put_codes(t, &o, (int)((cols + UNIT - 1) / UNIT));
    }
}

void pack_rows(enum dtype t, const void *src, int64_t n_row, int64_t cols, uint8_t *out)
{
    const struct dtype_info *d = dtype_info(t);
    const struct pack_size size = pack_sizes(form_type(t));
    const int64_t row_bytes = (int64_t)dtype_row_bytes(t, (uint64_t)cols);
    const int64_t chunk_bytes = size.planes + size.scales + 4 * size.unit;
    const int64_t tile_bytes = pack_tile_bytes(t, cols);
    for (int64_t r = 0; r < n_row; r += TILE, out += tile_bytes)
        for (int64_t c = 0; c < cols; c += CHUNK) {
            const uint8_t *rows[TILE];
            const int n = n_row - r < TILE ? (int)(n_row - r) : TILE;
            for (int i = 0; i < n; i++)
                rows[i] = (const uint8_t *)src + (r + i) * row_bytes + c / d->block * d->bytes;
            put_chunk(t, rows, n, cols - c < CHUNK ? cols - c : CHUNK,
                      out + c / CHUNK * chunk_bytes);
        }
}
