// quant: from GGML's blocks (https://github.com/ggml-org/ggml, ggml-common.h) and our own
// (proto/base/dtype.h) to packed panels, and single rows back to float.
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

// 16 bytes at once; plain C would go byte by byte here.
typedef uint8_t bytes16 __attribute__((vector_size(16)));
typedef uint16_t halves8 __attribute__((vector_size(16)));
typedef uint32_t words4 __attribute__((vector_size(16)));
typedef uint64_t longs2 __attribute__((vector_size(16)));
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#ifdef __clang__ // does so by itself
#define UNROLL
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

ALWAYS_INLINE bytes16 load16(const void *p)
{
    bytes16 v;
    memcpy(&v, p, 16);
    return v;
}

// 32 nibbles: the low ones, then the high ones.
ALWAYS_INLINE void nibbles_of(const uint8_t *p, bytes16 q[2])
{
    const bytes16 v = load16(p);
    q[0] = v & 15;
    q[1] = v >> 4;
}

// The 2 bits of sub-block `sub` of 256: two halves of 128, in each four fields of 32 bytes.
ALWAYS_INLINE void pairs_of(const uint8_t *p, int sub, bytes16 q[2])
{
    for (int h = 0; h < 2; h++)
        q[h] = load16(p + 32 * (sub / 4) + 16 * h) >> (uint8_t)(2 * (sub % 4)) & 3;
}

// The 32 values of sub-block `sub` of a K type's block at p.
ALWAYS_INLINE void k_values_of(const enum dtype t, const uint8_t *p, int sub, bytes16 q[2])
{
    const uint8_t *lo, *hi;
    switch (t) {
    case DT_Q2_K:
        pairs_of(p + 16, sub, q);
        break;
    case DT_Q3_K:
        pairs_of(p + 32, sub, q);
        for (int h = 0; h < 2; h++)
            q[h] |= (load16(p + 16 * h) >> (uint8_t)sub & 1) << 2;
        break;
    case DT_Q4_K:
    case DT_Q5_K:
        lo = p + (t == DT_Q4_K ? 16 : 48) + 32 * (sub / 2);
        for (int h = 0; h < 2; h++) {
            q[h] = load16(lo + 16 * h) >> (uint8_t)(sub % 2 * 4) & 15;
            if (t == DT_Q5_K) q[h] |= (load16(p + 16 + 16 * h) >> (uint8_t)sub & 1) << 4;
        }
        break;
    default: // DT_Q6_K: two halves of 128; in each, low nibbles of 2 x 32 then high nibbles
        lo = p + 64 * (sub / 4) + 32 * (sub % 2);
        hi = p + 128 + 32 * (sub / 4);
        for (int h = 0; h < 2; h++)
            q[h] = (load16(lo + 16 * h) >> (uint8_t)(sub % 4 / 2 * 4) & 15) |
                   (load16(hi + 16 * h) >> (uint8_t)(2 * (sub % 4)) & 3) << 4;
        break;
    }
}

// Bit i of h as 16 at byte i.
ALWAYS_INLINE bytes16 fifth_bits(uint32_t h)
{
    const bytes16 bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint64_t lo = (h & 255) * 0x0101010101010101u, hi = (h >> 8 & 255) * 0x0101010101010101u;
    const bytes16 v = (bytes16)(longs2){lo, hi};
    return (bytes16)((v & bit) != 0) & 16;
}

// The 32 values of sub-block `sub` of a block at p: what packed.h calls w, and bytes of 8 bits as
// they are.
ALWAYS_INLINE void values_of(const enum dtype t, const uint8_t *p, int sub, bytes16 q[2])
{
    uint32_t h;
    switch (t) {
    case DT_Q4_0:
    case DT_IQ4_NL:
        nibbles_of(p + 2, q);
        break;
    case DT_Q4_1:
        nibbles_of(p + 4, q);
        break;
    case DT_MXFP4:
        nibbles_of(p + 1, q);
        break;
    case DT_INT4:
        nibbles_of(p + 3, q);
        break;
    case DT_IQ4_XS:
        nibbles_of(p + 8 + 16 * sub, q);
        break;
    case DT_NVFP4: { // 16 columns at a time: low nibbles of 8 bytes, then the high ones
        bytes16 v[2];
        nibbles_of(p + 4 + 16 * sub, v);
        const longs2 lo = (longs2)v[0], hi = (longs2)v[1];
        q[0] = (bytes16)(longs2){lo[0], hi[0]};
        q[1] = (bytes16)(longs2){lo[1], hi[1]};
        break;
    }
    case DT_Q5_0:
    case DT_Q5_1:
        p += t == DT_Q5_0 ? 2 : 4;
        memcpy(&h, p, 4);
        nibbles_of(p + 4, q);
        q[0] |= fifth_bits(h);
        q[1] |= fifth_bits(h >> 16);
        break;
    case DT_Q8_0:
    case DT_INT8:
        p += t == DT_Q8_0 ? 2 : 6;
        q[0] = load16(p);
        q[1] = load16(p + 16);
        break;
    case DT_TQ2_0:
        pairs_of(p, sub, q);
        break;
    default:
        k_values_of(t, p, sub, q);
        break;
    }
}

// 6-bit scale and minimum of sub-block j of Q4_K and Q5_K, from the 12 bytes at s.
ALWAYS_INLINE void k4_scale(const uint8_t *s, int j, uint8_t *sc, uint8_t *mn)
{
    if (j < 4) {
        *sc = s[j] & 63;
        *mn = s[j + 4] & 63;
    } else {
        *sc = (uint8_t)((s[j + 4] & 15) | (s[j - 4] >> 6) << 4);
        *mn = (uint8_t)(s[j + 4] >> 4 | (s[j] >> 6) << 4);
    }
}

// 6-bit scale, less 32, of the 16 columns j of Q3_K, from the 12 bytes at s.
ALWAYS_INLINE int8_t k3_scale(const uint8_t *s, int j)
{
    int lo = j < 8 ? s[j] & 15 : s[j - 8] >> 4, hi = s[8 + j % 4] >> 2 * (j / 4) & 3;
    return (int8_t)((lo | hi << 4) - 32);
}

// 6-bit scale, less 32, of sub-block j of the IQ4_XS block at p.
ALWAYS_INLINE int8_t iq4_scale(const uint8_t *p, int j)
{
    int lo = p[4 + j / 2] >> 4 * (j % 2) & 15, hi = p[2 + j / 4] >> 2 * (j % 4) & 3;
    return (int8_t)((lo | hi << 4) - 32);
}

// A scale of NVFP4, unsigned: GGML reads 0x7f as 0.
static uint8_t nv_scale(uint8_t e)
{
    return e == 0x7f ? 0 : e & 0x7f;
}

#define SHUFFLE4(a, b, ...) (words4) __builtin_shufflevector((words4)(a), (words4)(b), __VA_ARGS__)

// Words j of four rows side by side: w[j] of rows a, b, c, d.
ALWAYS_INLINE void turn4(const bytes16 a, const bytes16 b, const bytes16 c, const bytes16 d,
                         bytes16 w[8][2], int from, int half)
{
    const words4 ab_lo = SHUFFLE4(a, b, 0, 4, 1, 5), ab_hi = SHUFFLE4(a, b, 2, 6, 3, 7);
    const words4 cd_lo = SHUFFLE4(c, d, 0, 4, 1, 5), cd_hi = SHUFFLE4(c, d, 2, 6, 3, 7);
    w[from + 0][half] = (bytes16)SHUFFLE4(ab_lo, cd_lo, 0, 1, 4, 5);
    w[from + 1][half] = (bytes16)SHUFFLE4(ab_lo, cd_lo, 2, 3, 6, 7);
    w[from + 2][half] = (bytes16)SHUFFLE4(ab_hi, cd_hi, 0, 1, 4, 5);
    w[from + 3][half] = (bytes16)SHUFFLE4(ab_hi, cd_hi, 2, 3, 6, 7);
}

// The vectors of one block, as described in packed.h.
ALWAYS_INLINE void put_values(const uint32_t bits, bytes16 q[PANEL_ROWS][2], uint8_t *out)
{
    bytes16 w[8][2], v;
    UNROLL
    for (int h = 0; h < 4; h++) {
        const int r = h / 2 * 4, from = h % 2;
        turn4(q[r][from], q[r + 1][from], q[r + 2][from], q[r + 3][from], w, 4 * from, h / 2);
    }
    if (bits == 8) {
        memcpy(out, w, sizeof w);
        return;
    }
    if (bits == 3 || bits == 5) {
        const int at = bits == 3 ? 2 : 4; // where the bits begin that lie by themselves
        for (int i = 0; i < 2; i++, out += 16) {
            v = w[0][i] >> at & 1;
            UNROLL
            for (int j = 1; j < 8; j++)
                v |= (w[j][i] >> at & 1) << j;
            memcpy(out, &v, 16);
        }
    }
    if (bits <= 3 || bits == 6) {
        const int at = bits == 6 ? 4 : 0;
        UNROLL
        for (int i = 0; i < 4; i++) {
            v = w[4 * (i / 2)][i % 2] >> at & 3;
            UNROLL
            for (int c = 1; c < 4; c++)
                v |= (w[4 * (i / 2) + c][i % 2] >> at & 3) << 2 * c;
            memcpy(out + 16 * i, &v, 16);
        }
        out += 64;
    }
    if (bits < 4) return;
    UNROLL
    for (int i = 0; i < 8; i++) {
        v = (w[i / 2][i % 2] & 15) | w[i / 2 + 4][i % 2] << 4;
        memcpy(out + 16 * i, &v, 16);
    }
}

static const uint8_t no_block[256]; // a padding row: zeros mean zero in every type

// The head of row r of a run from the block at p.
ALWAYS_INLINE void put_head(const enum dtype t, const uint8_t *p, int r, uint8_t *run)
{
    switch (t) {
    case DT_Q2_K:
        memcpy(run + 2 * r, p + 80, 2);
        memcpy(run + 16 + 2 * r, p + 82, 2);
        break;
    case DT_Q4_K:
    case DT_Q5_K:
        memcpy(run + 2 * r, p, 2);
        memcpy(run + 16 + 2 * r, p + 2, 2);
        break;
    default: // d alone
        memcpy(run + 2 * r,
               p + (t == DT_Q3_K || t == DT_Q6_K ? dtype_info(t)->bytes - 2
                    : t == DT_TQ2_0              ? 64
                                                 : 0),
               2);
        break;
    }
}

// The scales of row r in sub-block `sub` of the block at p.
ALWAYS_INLINE void put_scales(const enum dtype t, const uint8_t *p, int sub, int r, uint8_t *out)
{
    switch (t) {
    case DT_Q2_K:
        memcpy(out + 2 * r, p + 2 * sub, 2);
        break;
    case DT_Q3_K:
        for (int h = 0; h < 2; h++)
            out[2 * r + h] = (uint8_t)k3_scale(p + 96, 2 * sub + h);
        break;
    case DT_Q4_K:
    case DT_Q5_K:
        k4_scale(p + 4, sub, &out[r], &out[8 + r]);
        break;
    case DT_Q6_K:
        memcpy(out + 2 * r, p + 192 + 2 * sub, 2);
        break;
    case DT_IQ4_XS:
        out[r] = (uint8_t)iq4_scale(p, sub);
        break;
    case DT_TQ2_0:
        break;
    case DT_MXFP4:
        out[r] = p[0];
        break;
    case DT_NVFP4:
        for (int h = 0; h < 2; h++)
            out[8 * h + r] = nv_scale(p[2 * sub + h]);
        break;
    case DT_INT4:
        memcpy(out + 2 * r, p, 2);
        out[16 + r] = p[2];
        break;
    case DT_INT8:
        memcpy(out + 4 * r, p, 4);
        memcpy(out + 32 + 2 * r, p + 4, 2);
        break;
    default:
        memcpy(out + 2 * r, p, 2);
        if (t == DT_Q4_1 || t == DT_Q5_1) memcpy(out + 16 + 2 * r, p + 2, 2);
        break;
    }
}

// The 8 rows of a panel in file layout; the missing ones of the last panel stay at one zero block.
struct panel_rows {
    const uint8_t *at[PANEL_ROWS];
    uint32_t step[PANEL_ROWS]; // bytes from block to block
};

// All blocks of a panel. Inlined once for each type.
ALWAYS_INLINE void put_blocks(const enum dtype t, struct panel_rows *rows, int64_t cols,
                              uint8_t *panel)
{
    const struct packed_info pi = packed_info((int)t);
    const int n_sub = t == DT_NVFP4 ? 2 : (int)pi.run;
    bytes16 q[PANEL_ROWS][2];
    for (int64_t c = 0; c < cols; c += n_sub * BLOCK_COLS) {
        for (int r = 0; r < PANEL_ROWS; r++)
            if (pi.head) put_head(t, rows->at[r], r, panel);
        panel += pi.head;
        for (int sub = 0; sub < n_sub; sub++, panel += pi.block) {
            UNROLL
            for (int r = 0; r < PANEL_ROWS; r++) {
                values_of(t, rows->at[r], sub, q[r]);
                put_scales(t, rows->at[r], sub, r, panel);
            }
            put_values(pi.bits, q, panel + pi.block - 32 * pi.bits);
        }
        for (int r = 0; r < PANEL_ROWS; r++)
            rows->at[r] += rows->step[r];
    }
}

// A block of FP8. The kernels do not look for the codes that mean NaN: their block's scale says it.
static void put_f8_block(const uint8_t *const *src, uint8_t *out)
{
    for (int r = 0; r < PANEL_ROWS; r++) {
        float d;
        memcpy(&d, src[r], 4);
        for (int c = 0; c < BLOCK_COLS; c++) {
            const uint8_t q = src[r][4 + c];
            if ((q & 0x7f) == 0x7f) d = NAN;
            out[32 + 8 * c + r] = q;
        }
        memcpy(out + 4 * r, &d, 4);
    }
}

// Columns of halves, 8 rows by 8 columns at a time.
static void put_half_columns(const uint8_t *src, int64_t row_bytes, int64_t cols, uint8_t *panel)
{
    for (int64_t c = 0; c < cols; c += 8) {
        halves8 a[8], b[8];
        for (int r = 0; r < 8; r++)
            a[r] = (halves8)load16(src + r * row_bytes + 2 * c);
        for (int s = 0; s < 3; s++) {
            for (int i = 0; i < 4; i++) {
                b[2 * i] = __builtin_shufflevector(a[i], a[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
                b[2 * i + 1] = __builtin_shufflevector(a[i], a[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
            }
            memcpy(a, b, sizeof a);
        }
        memcpy(panel + 16 * c, a, sizeof a);
    }
}

static void put_columns(enum dtype t, const uint8_t *src, int64_t row_bytes, int n_row,
                        int64_t cols, uint8_t *panel)
{
    const uint32_t block = packed_info((int)t).block, size = block / PANEL_ROWS;
    int64_t c = 0;
    if (n_row == PANEL_ROWS && size == 2) put_half_columns(src, row_bytes, c = cols & ~7, panel);
    for (; c < cols; c++)
        for (int r = 0; r < PANEL_ROWS; r++) {
            uint8_t *to = panel + c * block + (uint32_t)r * size;
            if (r < n_row)
                memcpy(to, src + r * row_bytes + c * size, size);
            else
                memset(to, 0, size);
        }
}

static void put_panel(enum dtype t, const uint8_t *src, int64_t row_bytes, int n_row, int64_t cols,
                      uint8_t *panel)
{
    const struct packed_info pi = packed_info((int)t);
    const uint32_t bytes = dtype_info(t)->bytes;
    if (pi.kind == PACKED_COLUMNS) {
        put_columns(t, src, row_bytes, n_row, cols, panel);
        return;
    }
    struct panel_rows rows;
    for (int r = 0; r < PANEL_ROWS; r++) {
        rows.at[r] = r < n_row ? src + r * row_bytes : no_block;
        rows.step[r] = r < n_row ? bytes : 0;
    }
    switch (t) {
#define CASE(T)                                                                                    \
    case T:                                                                                        \
        put_blocks(T, &rows, cols, panel);                                                         \
        return;
        PACKED_EACH_BLOCKS(CASE)
#undef CASE
    default:
        break;
    }
    const int64_t step = pi.kind == PACKED_FILE ? RUN_BLOCKS * BLOCK_COLS : BLOCK_COLS;
    for (int64_t c = 0; c < cols; c += step) {
        if (pi.kind == PACKED_FLOAT_CODES)
            put_f8_block(rows.at, panel + packed_block_at((int)t, (int32_t)(c / BLOCK_COLS)));
        for (int r = 0; r < PANEL_ROWS; r++) {
            if (pi.kind == PACKED_FILE)
                memcpy(panel + packed_run_at((int)t, (int32_t)(c / BLOCK_COLS)) +
                           (uint32_t)r * bytes,
                       rows.at[r], bytes);
            rows.at[r] += rows.step[r];
        }
    }
}

uint64_t quant_weight_bytes(struct kernels *k, enum dtype t, int64_t rows, int64_t cols)
{
    const struct kernels_limits *l = &cpu_of(k)->lim;
    if (packed_info((int)t).kind == PACKED_NONE || rows < 1 || cols < 1) return 0;
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
    const float factor = e->table->factor;
    for (int64_t i = from; i < to; i++) {
        c->isa->row(e->table->dtype, e->table->data, packed_panel_bytes(e->table->dtype, cols),
                    e->ids[i], (int32_t)cols, e->out + i * cols);
        if (factor != 0.0f && factor != 1.0f) c->isa->scale(e->out + i * cols, factor, cols);
    }
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
