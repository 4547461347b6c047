// quant: from GGML's blocks (https://github.com/ggml-org/ggml, ggml-common.h) to packed panels, and
// single rows back to float.
#include "kernels/cpu/cpu.h"

#include <string.h>

// The 32 values of sub-block `sub` of a GGML block at p, unsigned (Q8_0: the signed bytes).
static void values_of(enum dtype t, const uint8_t *p, int sub, uint8_t q[32])
{
    switch (t) {
    case DT_Q4_0:
    case DT_Q4_1:
        p += t == DT_Q4_0 ? 2 : 4;
        for (int i = 0; i < 16; i++) {
            q[i] = p[i] & 15;
            q[i + 16] = p[i] >> 4;
        }
        break;
    case DT_Q5_0:
    case DT_Q5_1: {
        p += t == DT_Q5_0 ? 2 : 4;
        uint32_t h;
        memcpy(&h, p, 4);
        for (int i = 0; i < 16; i++) {
            q[i] = (uint8_t)((p[4 + i] & 15) | (h >> i & 1) << 4);
            q[i + 16] = (uint8_t)(p[4 + i] >> 4 | (h >> (i + 16) & 1) << 4);
        }
        break;
    }
    case DT_Q8_0:
        memcpy(q, p + 2, 32);
        break;
    case DT_Q4_K:
    case DT_Q5_K: {
        const uint8_t *lo = p + (t == DT_Q4_K ? 16 : 48) + 32 * (sub / 2);
        for (int i = 0; i < 32; i++)
            q[i] = sub % 2 ? lo[i] >> 4 : lo[i] & 15;
        for (int i = 0; t == DT_Q5_K && i < 32; i++)
            q[i] |= (uint8_t)((p[16 + i] >> sub & 1) << 4);
        break;
    }
    default: { // DT_Q6_K: two halves of 128; in each, low nibbles of 2 x 32 then high nibbles
        int part = sub % 4;
        const uint8_t *lo = p + 64 * (sub / 4) + 32 * (part % 2), *hi = p + 128 + 32 * (sub / 4);
        for (int i = 0; i < 32; i++)
            q[i] = (uint8_t)((part < 2 ? lo[i] & 15 : lo[i] >> 4) | (hi[i] >> 2 * part & 3) << 4);
        break;
    }
    }
}

// 6-bit scale and minimum of sub-block j of Q4_K and Q5_K, from the 12 bytes at s.
static void k4_scale(const uint8_t *s, int j, uint8_t *sc, uint8_t *mn)
{
    if (j < 4) {
        *sc = s[j] & 63;
        *mn = s[j + 4] & 63;
    } else {
        *sc = (uint8_t)((s[j + 4] & 15) | (s[j - 4] >> 6) << 4);
        *mn = (uint8_t)(s[j + 4] >> 4 | (s[j] >> 6) << 4);
    }
}

// The planes of one block, as described in packed.h.
static void put_values(uint32_t bits, const uint8_t q[PANEL_ROWS][BLOCK_COLS], uint8_t *out)
{
    uint8_t w[8][32];
    for (int j = 0; j < 8; j++)
        for (int r = 0; r < PANEL_ROWS; r++)
            memcpy(&w[j][4 * r], &q[r][4 * j], 4);
    if (bits == 8) {
        memcpy(out, w, sizeof w);
        return;
    }
    uint8_t *lo = out + (bits - 4) * 32;
    for (int l = 0; l < 4; l++)
        for (int i = 0; i < 32; i++)
            lo[32 * l + i] = (uint8_t)((w[l][i] & 15) | (w[l + 4][i] & 15) << 4);
    for (int i = 0; bits == 5 && i < 32; i++) {
        uint8_t h = 0;
        for (int j = 0; j < 8; j++)
            h |= (uint8_t)((w[j][i] >> 4 & 1) << j);
        out[i] = h;
    }
    for (int i = 0; bits == 6 && i < 64; i++) {
        uint8_t h = 0;
        for (int c = 0; c < 4; c++)
            h |= (uint8_t)((w[4 * (i / 32) + c][i % 32] >> 4 & 3) << 2 * c);
        out[i] = h;
    }
}

static const uint8_t no_block[256]; // a padding row: zeros mean zero in every type

// Block b of a panel from the GGML blocks of its 8 rows.
static void put_block(enum dtype t, const uint8_t *const src[PANEL_ROWS], int32_t b, uint8_t *panel)
{
    const struct packed_info pi = packed_info(t);
    const int sub = (int)((uint32_t)b % pi.run);
    uint8_t *out = panel + packed_block_at(t, b), *run = panel + packed_run_at(t, b);
    uint8_t q[PANEL_ROWS][BLOCK_COLS];
    const bool has_m = t == DT_Q4_1 || t == DT_Q5_1;
    for (int r = 0; r < PANEL_ROWS; r++) {
        const uint8_t *p = src[r];
        values_of(t, p, sub, q[r]);
        switch (t) {
        case DT_Q4_K:
        case DT_Q5_K:
            k4_scale(p + 4, sub, &out[r], &out[8 + r]);
            if (sub == 0) {
                memcpy(run + 2 * r, p, 2);
                memcpy(run + 16 + 2 * r, p + 2, 2);
            }
            break;
        case DT_Q6_K:
            memcpy(out + 2 * r, p + 192 + 2 * sub, 2);
            if (sub == 0) memcpy(run + 2 * r, p + 208, 2);
            break;
        default:
            memcpy(out + 2 * r, p, 2);
            if (has_m) memcpy(out + 16 + 2 * r, p + 2, 2);
            break;
        }
    }
    put_values(pi.bits, q, out + (has_m ? 32 : 16));
}

static void put_panel(enum dtype t, const uint8_t *src, int64_t row_bytes, int n_row, int64_t cols,
                      uint8_t *panel)
{
    const struct packed_info pi = packed_info(t);
    if (pi.is_float) {
        const uint32_t size = pi.block / PANEL_ROWS;
        for (int64_t c = 0; c < cols; c++)
            for (int r = 0; r < PANEL_ROWS; r++) {
                uint8_t *to = panel + c * pi.block + (uint32_t)r * size;
                if (r < n_row)
                    memcpy(to, src + r * row_bytes + c * size, size);
                else
                    memset(to, 0, size);
            }
        return;
    }
    const struct dtype_info *di = dtype_info(t);
    for (int32_t b = 0; b < cols / BLOCK_COLS; b++) {
        const uint8_t *rows[PANEL_ROWS];
        int64_t at = (int64_t)(b * BLOCK_COLS / (int32_t)di->block) * di->bytes;
        for (int r = 0; r < PANEL_ROWS; r++)
            rows[r] = r < n_row ? src + r * row_bytes + at : no_block;
        put_block(t, rows, b, panel);
    }
}

uint64_t quant_weight_bytes(struct kernels *k, enum dtype t, int64_t rows, int64_t cols)
{
    const struct kernels_limits *l = &cpu_of(k)->lim;
    if (!packed_info(t).is_supported || rows < 1 || cols < 1) return 0;
    if (rows > l->max_rows || cols > l->max_cols || cols % dtype_info(t)->block) return 0;
    return (uint64_t)((rows + PANEL_ROWS - 1) / PANEL_ROWS * packed_panel_bytes(t, cols));
}

void quant_weight_pack(struct kernels *k, const void *src, int64_t row_from, int64_t n_row,
                       struct view *dst)
{
    (void)k;
    const enum dtype t = dst->dtype;
    const int64_t cols = dst->shape[1], row_bytes = (int64_t)dtype_row_bytes(t, (uint64_t)cols);
    const int64_t panel_bytes = packed_panel_bytes(t, cols);
    BUG_ON(row_from % 64 || row_from + n_row > dst->shape[0]);
    BUG_ON(n_row % 64 && row_from + n_row != dst->shape[0]);
    for (int64_t r = 0; r < n_row; r += PANEL_ROWS) {
        int64_t n = n_row - r < PANEL_ROWS ? n_row - r : PANEL_ROWS;
        put_panel(t, (const uint8_t *)src + r * row_bytes, row_bytes, (int)n, cols,
                  (uint8_t *)dst->data + (row_from + r) / PANEL_ROWS * panel_bytes);
    }
}

struct embed_call {
    const struct view *table;
    const int32_t *ids;
    float *out;
};

static void embed_rows(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    const struct embed_call *e = arg;
    const int64_t cols = e->table->shape[1];
    for (int64_t i = from; i < to; i++)
        c->isa->row(e->table->dtype, e->table->data, packed_panel_bytes(e->table->dtype, cols),
                    e->ids[i], (int32_t)cols, e->out + i * cols);
}

void quant_embed(struct kernels *k, const struct view *table, const int32_t *ids, int32_t n_tok,
                 float *out)
{
    struct embed_call e = {table, ids, out};
    BUG_ON(table->layout != LAYOUT_PACKED);
    for (int32_t i = 0; i < n_tok; i++)
        BUG_ON(ids[i] < 0 || ids[i] >= table->shape[0]);
    cpu_for(cpu_of(k), n_tok, 16, embed_rows, &e);
}
