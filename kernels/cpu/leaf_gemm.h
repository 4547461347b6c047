// leaf_gemm: bodies of the matrix products. Included by leaf_ISA.c after vec.h.
//
// Order of one output element. Fast: for each block of 32 columns, ascending,
//     y = fma(idot, d_w * d_x, y), then y = fma(m, s_x, y) where the type has an offset
// with idot exact in integers (leaf_block.h has the variants). Float: y = fma(w[c], x[c], y) for c
// ascending. Neither depends on how many rows of x or of w are worked on together. Last y * factor,
// and + bias.
#pragma once
#include "kernels/cpu/leaf_block.h"

static __attribute__((noinline)) void leaf_put(const struct leaf_gemm *g, int32_t panel, int32_t t,
                                               v8 acc)
{
    int32_t row = panel * PANEL_ROWS, n = g->rows - row;
    float *y = g->y + t * g->ldy + row;
    acc = v8_mul(acc, v8_set(g->factor));
    if (n >= PANEL_ROWS) {
        if (g->bias) acc = v8_add(acc, v8_load(g->bias + row));
        if (g->add) acc = v8_add(acc, v8_load(y));
        v8_store(y, acc);
    } else {
        if (g->bias) acc = v8_add(acc, v8_load_part(g->bias + row, n, 0.0f));
        if (g->add) acc = v8_add(acc, v8_load_part(y, n, 0.0f));
        v8_store_part(y, acc, n);
    }
}

// Unpacks block b of a panel; blocks are asked for in ascending order, from the first. The runs of
// a PACKED_FILE type (ty is DT_CODES) are decoded on the way.
LEAF_INLINE void leaf_take(int ty, const struct leaf_gemm *g, const uint8_t *panel, int32_t b,
                           struct leaf_block *o)
{
    if (ty == DT_CODES) {
        uint8_t *codes = (uint8_t *)(g->scratch + LEAF_GEMM_SUMS + LEAF_GEMM_VALUES);
        if (b % RUN_BLOCKS == 0)
            quant_decode(g->dtype, panel + packed_run_at((int)g->dtype, b), codes);
        leaf_unpack_block(DT_CODES, codes, codes + CODES_HEAD + b % RUN_BLOCKS * CODES_BLOCK, o);
        return;
    }
    leaf_unpack_block(ty, panel + packed_run_at(ty, b), panel + packed_block_at(ty, b), o);
}

// Few rows of x: memory is the limit, and the hardware's own prefetcher leaves a third of it.
LEAF_INLINE void leaf_ahead(int ty, const uint8_t *p)
{
    enum { PREFETCH_BYTES = 2048 };
    LEAF_UNROLL(5)
    for (uint32_t i = 0; i < packed_info(ty).block; i += 64)
        __builtin_prefetch((const void *)((uintptr_t)p + PREFETCH_BYTES + i));
}

// One panel against n rows of x whose sums fit registers; n is a constant at every call.
LEAF_INLINE void leaf_fast_few(int ty, const struct leaf_gemm *g, int32_t panel, int n)
{
    const uint8_t *w = g->w + panel * g->panel_bytes;
    const struct packed_info pi = packed_info(ty);
    const uint8_t *xb = g->xq, *end = xb + (int64_t)(g->cols / BLOCK_COLS) * n * XQ_BYTES;
    uint8_t *codes = (uint8_t *)(g->scratch + LEAF_GEMM_SUMS + LEAF_GEMM_VALUES);
    const uint32_t file_run = ty == DT_CODES ? packed_info((int)g->dtype).head : 0;
    v8 acc[2];
    for (int t = 0; t < n; t++)
        acc[t] = v8_set(0.0f);
    while (xb < end) {
        const uint8_t *run = ty == DT_CODES ? codes : w, *p = run + pi.head;
        if (ty == DT_CODES) quant_decode(g->dtype, w, codes);
        struct leaf_head head;
        leaf_unpack_head(ty, run, &head);
        for (uint32_t i = 0; i < pi.run; i++, p += pi.block, xb += n * XQ_BYTES) {
            struct leaf_block blk;
            leaf_unpack(ty, &head, p, &blk);
            if (ty != DT_CODES) leaf_ahead(ty, p);
            LEAF_UNROLL(2)
            for (int t = 0; t < n; t++)
                acc[t] = leaf_block_dot(ty, &blk, xb, n, t, acc[t]);
        }
        w += ty == DT_CODES ? file_run : pi.head + pi.run * pi.block;
    }
    for (int t = 0; t < n; t++)
        leaf_put(g, panel, t, acc[t]);
}

LEAF_INLINE void leaf_fast_many(int ty, const struct leaf_gemm *g, int32_t panel)
{
    const uint8_t *w = g->w + panel * g->panel_bytes;
    const int32_t n = g->n_tok;
    float *acc = g->scratch;
    for (int32_t t = 0; t < n; t++)
        v8_store(acc + 8 * t, v8_set(0.0f));
    for (int32_t b = 0; b < g->cols / BLOCK_COLS; b++) {
        struct leaf_block blk;
        leaf_take(ty, g, w, b, &blk);
        const uint8_t *xb = g->xq + (int64_t)b * n * XQ_BYTES;
        for (int32_t t = 0; t < n; t++)
            v8_store(acc + 8 * t, leaf_block_dot(ty, &blk, xb, n, t, v8_load(acc + 8 * t)));
    }
    for (int32_t t = 0; t < n; t++)
        leaf_put(g, panel, t, v8_load(acc + 8 * t));
}

#if defined(VEC_QUAD)
// Sums of two panels that lie wholly in the weight, for n rows of x.
LEAF_INLINE void leaf_put_pair(const struct leaf_gemm *g, int32_t panel, const float *acc)
{
    const v8 factor = v8_set(g->factor);
    float *y = g->y + panel * PANEL_ROWS;
    for (int32_t t = 0; t < g->n_tok; t++, y += g->ldy, acc += 16) {
        v8 a = v8_mul(v8_load(acc), factor), b = v8_mul(v8_load(acc + 8), factor);
        if (g->bias) {
            a = v8_add(a, v8_load(g->bias + panel * PANEL_ROWS));
            b = v8_add(b, v8_load(g->bias + panel * PANEL_ROWS + 8));
        }
        if (g->add) {
            a = v8_add(a, v8_load(y));
            b = v8_add(b, v8_load(y + 8));
        }
        v8_store(y, a);
        v8_store(y + 8, b);
    }
}

// The part `at` of `n_part` of the lines that leaf_put_pair writes: rows of y lie pages apart, so
// that no prefetcher of the hardware's sees them coming.
LEAF_INLINE void leaf_put_ahead(const struct leaf_gemm *g, int32_t panel, int32_t at,
                                int32_t n_part)
{
    for (int32_t t = at; t < g->n_tok; t += n_part)
        __builtin_prefetch(g->y + t * g->ldy + panel * PANEL_ROWS, 1);
}

// Two panels against the tile, four rows of x at a time: blocks [from, to) to acc (n, 2, 8).
// Measured: a quarter faster from 64 rows on, no gain below 8.
enum { PAIR_MIN_TOK = 8 };
LEAF_INLINE void leaf_fast_pair(int ty, const struct leaf_gemm *g, int32_t panel, int32_t from,
                                int32_t to, float *acc)
{
    const uint8_t *w = g->w + panel * g->panel_bytes;
    const int32_t n = g->n_tok;
    const bool is_last = to == g->cols / BLOCK_COLS;
    for (int32_t i = 0; from == 0 && i < 2 * n; i++)
        v8_store(acc + 8 * i, v8_set(0.0f));
    for (int32_t b = from; b < to; b++) {
        struct leaf_block blk[2];
        struct quad_panel q[2];
        for (int p = 0; p < 2; p++) {
            leaf_take(ty, g, w + p * g->panel_bytes, b, &blk[p]);
            quad_prepare(blk[p].w, leaf_dot_of(ty) == DOT_S8, &q[p]);
        }
        if (is_last) leaf_put_ahead(g, panel, b - from, to - from);
        const uint8_t *xb = g->xq + (int64_t)b * n * XQ_BYTES;
        int32_t t = 0;
        for (; t + 4 <= n; t += 4)
            leaf_quad(ty, blk, q, xb, n, t, acc + 16 * t);
        for (; t < n; t++)
            for (int p = 0; p < 2; p++) {
                float *o = acc + 16 * t + 8 * p;
                v8_store(o, leaf_block_dot(ty, &blk[p], xb, n, t, v8_load(o)));
            }
    }
    if (!is_last) return;
    if ((panel + 2) * PANEL_ROWS <= g->rows) {
        leaf_put_pair(g, panel, acc);
        return;
    }
    for (int32_t i = 0; i < 2 * n; i++)
        leaf_put(g, panel + i % 2, i / 2, v8_load(acc + 8 * i));
}

// Pairs of panels, as many as there are, up to GEMM_PANELS of them from `panel` on; returns where
// they end. All of them take the columns of x that stay in the second cache before the next ones.
LEAF_INLINE int32_t leaf_fast_pairs(int ty, const struct leaf_gemm *g, int32_t panel)
{
    enum { X_BYTES = 1 << 17 };
    const int32_t left = (g->panel_to - panel) / 2 * 2,
                  end = left < GEMM_PANELS ? left : GEMM_PANELS;
    const int32_t n_block = g->cols / BLOCK_COLS;
    const int32_t step = X_BYTES / (g->n_tok * XQ_BYTES) / RUN_BLOCKS * RUN_BLOCKS;
    for (int32_t b = 0, to; b < n_block; b = to) {
        to = n_block - b > step + step / 2 ? b + step : n_block;
        for (int32_t p = 0; p < end; p += 2)
            leaf_fast_pair(ty, g, panel + p, b, to, g->scratch + p * PANEL_ROWS * g->n_tok);
    }
    return panel + end;
}
#endif

LEAF_INLINE void leaf_fast(int ty, const struct leaf_gemm *g)
{
    int32_t p = g->panel_from;
#if defined(VEC_QUAD)
    if (leaf_has_quad(ty) && g->n_tok >= PAIR_MIN_TOK)
        while (p + 2 <= g->panel_to)
            p = leaf_fast_pairs(ty, g, p);
#endif
    for (; p < g->panel_to; p++)
        switch (g->n_tok) {
        case 1:
            leaf_fast_few(ty, g, p, 1);
            break;
        case 2:
            leaf_fast_few(ty, g, p, 2);
            break;
        default:
            leaf_fast_many(ty, g, p);
            break;
        }
}

// One function per type: compilers take long over large ones, and keep sums in memory.
#define LEAF_FAST(T)                                                                               \
    static __attribute__((noinline)) void leaf_fast_##T(const struct leaf_gemm *g)                 \
    {                                                                                              \
        leaf_fast(T, g);                                                                           \
    }
PACKED_EACH_BLOCKS(LEAF_FAST)
LEAF_FAST(DT_CODES)

static void leaf_gemm_fast(const struct leaf_gemm *g)
{
    switch (g->dtype) {
#define LEAF_CASE_FAST(T)                                                                          \
    case T:                                                                                        \
        leaf_fast_##T(g);                                                                          \
        break;
        PACKED_EACH_BLOCKS(LEAF_CASE_FAST)
    default:
        BUG_ON(packed_info((int)g->dtype).kind != PACKED_FILE);
        leaf_fast_DT_CODES(g);
        break;
    }
}

// -- float activations --

// Row t of x from column c on.
LEAF_INLINE const float *leaf_x(const struct leaf_gemm *g, int32_t t, int32_t c)
{
    return g->x + (g->row ? g->row[t] : t) * g->ldx + c;
}

// acc (T, P, 8) after n_col more columns; w (P, 32, 8); x: T rows. T * P at most 8, constants.
LEAF_INLINE void leaf_float_micro(int T, int P, int32_t n_col, const float *w,
                                  const float *const x[4], float *acc)
{
    v8 a[8];
    LEAF_UNROLL(8)
    for (int i = 0; i < T * P; i++)
        a[i] = v8_load(acc + 8 * (i / P * 2 + i % P));
    for (int32_t c = 0; c < n_col; c++) {
        v8 wc[2];
        LEAF_UNROLL(2)
        for (int p = 0; p < P; p++)
            wc[p] = v8_load(w + 8 * (p * BLOCK_COLS + c));
        LEAF_UNROLL(4)
        for (int t = 0; t < T; t++) {
            v8 xc = v8_set(x[t][c]);
            LEAF_UNROLL(2)
            for (int p = 0; p < P; p++)
                a[t * P + p] = v8_fma(wc[p], xc, a[t * P + p]);
        }
    }
    LEAF_UNROLL(8)
    for (int i = 0; i < T * P; i++)
        v8_store(acc + 8 * (i / P * 2 + i % P), a[i]);
}

// Two panels (or the last one alone) against the tile.
LEAF_INLINE void leaf_float_panels(const struct leaf_gemm *g, int32_t panel, int P)
{
    float *acc = g->scratch, *w = acc + LEAF_GEMM_SUMS;
    uint8_t *codes = (uint8_t *)(w + LEAF_GEMM_VALUES);
    const v8 zero = v8_set(0.0f);
    for (int32_t i = 0; i < g->n_tok * 2; i++)
        v8_store(acc + 8 * i, zero);
    for (int32_t c = 0; c < g->cols; c += BLOCK_COLS) {
        int32_t n = g->cols - c < BLOCK_COLS ? g->cols - c : BLOCK_COLS;
        for (int p = 0; p < P; p++)
            leaf_values(g->dtype, g->w + (panel + p) * g->panel_bytes, c / BLOCK_COLS, n,
                        codes + p * CODES_BYTES, w + p * BLOCK_COLS * PANEL_ROWS);
        int32_t t = 0;
        for (; t + 4 <= g->n_tok; t += 4) {
            const float *const x[4] = {leaf_x(g, t, c), leaf_x(g, t + 1, c), leaf_x(g, t + 2, c),
                                       leaf_x(g, t + 3, c)};
            leaf_float_micro(4, P, n, w, x, acc + 16 * t);
        }
        for (; t < g->n_tok; t++) {
            const float *const x[4] = {leaf_x(g, t, c)};
            leaf_float_micro(1, P, n, w, x, acc + 16 * t);
        }
    }
    for (int32_t t = 0; t < g->n_tok; t++)
        for (int p = 0; p < P; p++)
            leaf_put(g, panel + p, t, v8_load(acc + 8 * (2 * t + p)));
}

// One row of x straight from a float weight, four panels at once: enough chains to hide the latency
// of each.
LEAF_INLINE void leaf_float_one(int ty, const struct leaf_gemm *g, int32_t panel)
{
    const int64_t step = packed_info(ty).block, pb = g->panel_bytes;
    const uint8_t *w = g->w + panel * pb;
    const float *x = leaf_x(g, 0, 0);
    v8 a0 = v8_set(0.0f), a1 = a0, a2 = a0, a3 = a0;
    for (int32_t c = 0; c < g->cols; c++, w += step) {
        v8 xc = v8_set(x[c]);
        a0 = v8_fma(leaf_load_column(ty, w), xc, a0);
        a1 = v8_fma(leaf_load_column(ty, w + pb), xc, a1);
        a2 = v8_fma(leaf_load_column(ty, w + 2 * pb), xc, a2);
        a3 = v8_fma(leaf_load_column(ty, w + 3 * pb), xc, a3);
    }
    leaf_put(g, panel, 0, a0);
    leaf_put(g, panel + 1, 0, a1);
    leaf_put(g, panel + 2, 0, a2);
    leaf_put(g, panel + 3, 0, a3);
}

// The same for FP8.
static __attribute__((noinline)) void leaf_f8_one(const struct leaf_gemm *g, int32_t panel)
{
    const int64_t pb = g->panel_bytes;
    const uint8_t *w = g->w + panel * pb;
    const float *x = leaf_x(g, 0, 0);
    v8 a[4] = {v8_set(0.0f), v8_set(0.0f), v8_set(0.0f), v8_set(0.0f)}, d[4];
    for (int32_t b = 0; b < g->cols / BLOCK_COLS; b++, w += packed_info(DT_FP8).block) {
        LEAF_UNROLL(4)
        for (int p = 0; p < 4; p++)
            d[p] = leaf_f8_scale(w + p * pb);
        for (int32_t c = 0; c < BLOCK_COLS; c++) {
            v8 xc = v8_set(x[b * BLOCK_COLS + c]);
            LEAF_UNROLL(4)
            for (int p = 0; p < 4; p++)
                a[p] = v8_fma(v8_mul(v8_load_f8(w + p * pb + 32 + 8 * c), d[p]), xc, a[p]);
        }
    }
    for (int p = 0; p < 4; p++)
        leaf_put(g, panel + p, 0, a[p]);
}

#define LEAF_ONE(T)                                                                                \
    static __attribute__((noinline)) void leaf_one_##T(const struct leaf_gemm *g, int32_t panel)   \
    {                                                                                              \
        leaf_float_one(T, g, panel);                                                               \
    }
PACKED_EACH_COLUMNS(LEAF_ONE)

// The four panels from `panel` on against one row, if the type has a way of its own for that.
static bool leaf_gemm_one(const struct leaf_gemm *g, int32_t panel)
{
    switch (g->dtype) {
#define LEAF_CASE_ONE(T)                                                                           \
    case T:                                                                                        \
        leaf_one_##T(g, panel);                                                                    \
        return true;
        PACKED_EACH_COLUMNS(LEAF_CASE_ONE)
    case DT_FP8:
        leaf_f8_one(g, panel);
        return true;
    default:
        return false;
    }
}

static void leaf_gemm_float(const struct leaf_gemm *g)
{
    int32_t p = g->panel_from;
    if (g->n_tok == 1)
        while (p + 4 <= g->panel_to && leaf_gemm_one(g, p))
            p += 4;
    for (; p + 2 <= g->panel_to; p += 2)
        leaf_float_panels(g, p, 2);
    if (p < g->panel_to) leaf_float_panels(g, p, 1);
}

static void leaf_row(enum dtype t, const uint8_t *w, int64_t panel_bytes, int64_t row, int32_t cols,
                     float *out)
{
    _Alignas(32) uint8_t codes[CODES_BYTES];
    float v[BLOCK_COLS * PANEL_ROWS];
    const uint8_t *panel = w + row / PANEL_ROWS * panel_bytes;
    for (int32_t c = 0; c < cols; c += BLOCK_COLS) {
        int32_t n = cols - c < BLOCK_COLS ? cols - c : BLOCK_COLS;
        leaf_values(t, panel, c / BLOCK_COLS, n, codes, v);
        for (int32_t i = 0; i < n; i++)
            out[c + i] = v[i * PANEL_ROWS + row % PANEL_ROWS];
    }
}

// Quantises 32 floats to q and returns the scale, max|x| / 127; sums: as v8_round_s8. A block
// with an infinity or a NaN gets a NaN scale, so the products show it.
LEAF_INLINE float leaf_quantise_32(const v8 x[4], int8_t *q, int16_t sums[2][2])
{
    uint32_t bits = v8_abs_bits_max(x[0], x[1], x[2], x[3]);
    float max, d, inv = 0.0f;
    __builtin_memcpy(&max, &bits, 4);
    bool is_finite = bits < 0x7f800000;
    d = is_finite ? max * (1.0f / 127) : __builtin_nanf("");
    if (is_finite && max > 1e-30f) inv = 127.0f / max;
    v8 k = v8_set(is_finite ? inv : 0.0f), zero = v8_set(0.0f), v[4];
    for (int i = 0; i < 4; i++)
        v[i] = inv == 0.0f ? zero : v8_mul(x[i], k);
    v8_round_s8(v[0], v[1], v[2], v[3], q, sums);
    return d;
}

// Quantises 32 columns into row t of a block of a tile and returns the scale.
LEAF_INLINE float leaf_quantise_block(const v8 x[4], uint8_t *xb, int32_t n_tok, int32_t t)
{
    int16_t p[2][2];
    const float d = leaf_quantise_32(x, (int8_t *)xb + 32 * t, p);
    const int32_t half[2] = {p[0][0] + p[0][1], p[1][0] + p[1][1]};
    const float s = d * (float)(half[0] + half[1]);
    enum { A = -XQ_TIMES, H = -XQ_TIMES_HALF };
    const int16_t n[4][2] = {
        {(int16_t)-half[0], (int16_t)-half[1]},
        {(int16_t)(A * (p[0][0] + p[1][0])), (int16_t)(A * (p[0][1] + p[1][1]))},
        {(int16_t)(H * p[0][0]), (int16_t)(H * p[0][1])},
        {(int16_t)(H * p[1][0]), (int16_t)(H * p[1][1])}};
    __builtin_memcpy(xb + XQ_SCALE * n_tok + 4 * t, &d, 4);
    __builtin_memcpy(xb + XQ_SUM * n_tok + 4 * t, &s, 4);
    LEAF_UNROLL(4)
    for (int i = 0; i < 4; i++)
        __builtin_memcpy(xb + (XQ_HALVES + 4 * i) * n_tok + 4 * t, n[i], 4);
    return d;
}

static void leaf_quantise(const float *x, int32_t cols, uint8_t *tile, uint8_t *rest, int32_t n_tok,
                          int32_t t)
{
    for (int32_t b = 0; b < cols / BLOCK_COLS; b++, x += BLOCK_COLS) {
        const int64_t at = (int64_t)b * n_tok * XQ_BYTES;
        v8 v[4] = {v8_load(x), v8_load(x + 8), v8_load(x + 16), v8_load(x + 24)};
        const v8 d = v8_set(leaf_quantise_block(v, tile + at, n_tok, t));
        if (!rest) continue;
        for (int i = 0; i < 4; i++)
            v[i] = v8_sub(v[i], v8_mul(v8_load_s8(tile + at + 32 * t + 8 * i), d));
        leaf_quantise_block(v, rest + at, n_tok, t);
    }
}
