// leaf_gemm: bodies of the matrix products. Included by leaf_ISA.c after vec.h.
//
// Order of one output element. Fast: for each block of 32 columns, ascending,
//     y = fma(idot, d_w * d_x, y), then y = fma(m, s_x, y) where the type has an offset
// with idot exact in integers. Float: y = fma(w[c], x[c], y) for c ascending. Neither depends on
// how many rows of x or of w are worked on together.
#pragma once

#ifndef LEAF_INLINE // the reference leaves both to the compiler
#define LEAF_INLINE static inline __attribute__((always_inline))
#define LEAF_PRAGMA(text) _Pragma(#text)
#define LEAF_UNROLL(n) LEAF_PRAGMA(GCC unroll n)
#endif

// 8 rows x 32 columns, unpacked.
struct leaf_block {
    q32 w[8];
    v8 d, m;
    k6s k6;
};

LEAF_INLINE void leaf_unpack_bits(enum dtype t, const uint8_t *p, q32 w[8])
{
    const uint32_t bits = packed_info(t).bits;
    if (bits == 8) {
        LEAF_UNROLL(8)
        for (int j = 0; j < 8; j++)
            w[j] = q32_load(p + 32 * j);
        return;
    }
    const uint8_t *q = p + (bits - 4) * 32;
    LEAF_UNROLL(4)
    for (int l = 0; l < 4; l++) {
        q32 v = q32_load(q + 32 * l);
        w[l] = q32_field(v, 0, 15);
        w[l + 4] = q32_field(v, -4, 15);
    }
    if (bits == 5) {
        q32 h = q32_load(p);
        LEAF_UNROLL(8)
        for (int j = 0; j < 8; j++)
            w[j] = q32_or(w[j], q32_field(h, 4 - j, 16));
    }
    if (bits == 6) {
        q32 h[2] = {q32_load(p), q32_load(p + 32)};
        LEAF_UNROLL(8)
        for (int j = 0; j < 8; j++)
            w[j] = q32_or(w[j], q32_field(h[j / 4], 4 - 2 * (j % 4), 48));
    }
}

// Q6_K leaves d without the scale of the 16 columns, which is in k6, and m unset.
LEAF_INLINE void leaf_unpack(enum dtype t, const uint8_t *panel, int32_t b, struct leaf_block *o)
{
    const uint8_t *p = panel + packed_block_at(t, b), *run = panel + packed_run_at(t, b);
    switch (t) {
    case DT_Q4_0:
        o->d = v8_load_f16(p);
        o->m = v8_mul(o->d, v8_set(-8.0f));
        p += 16;
        break;
    case DT_Q5_0:
        o->d = v8_load_f16(p);
        o->m = v8_mul(o->d, v8_set(-16.0f));
        p += 16;
        break;
    case DT_Q4_1:
    case DT_Q5_1:
        o->d = v8_load_f16(p);
        o->m = v8_load_f16(p + 16);
        p += 32;
        break;
    case DT_Q8_0:
        o->d = v8_load_f16(p);
        p += 16;
        break;
    case DT_Q4_K:
    case DT_Q5_K:
        o->d = v8_mul(v8_load_f16(run), v8_load_u8(p));
        o->m = v8_mul(v8_sub(v8_set(0.0f), v8_load_f16(run + 16)), v8_load_u8(p + 8));
        p += 16;
        break;
    default: // DT_Q6_K
        o->d = v8_load_f16(run);
        o->k6 = k6_scales(p);
        p += 16;
        break;
    }
    leaf_unpack_bits(t, p, o->w);
}

LEAF_INLINE float leaf_float_at(const uint8_t *p, int32_t i)
{
    float f;
    __builtin_memcpy(&f, p + 4 * i, 4);
    return f;
}

// acc of row t after one more block; xb: this block of the x tile of n rows.
LEAF_INLINE v8 leaf_block_dot(enum dtype ty, const struct leaf_block *w, const uint8_t *xb,
                              int32_t n, int32_t t, v8 acc)
{
    const int8_t *x = (const int8_t *)xb + 32 * t;
    v8 d = v8_mul(w->d, v8_set(leaf_float_at(xb + 32 * n, t)));
    if (ty == DT_Q6_K) {
        int32_t sums;
        __builtin_memcpy(&sums, xb + 40 * n + 4 * t, 4);
        return v8_fma(v8_of_int(dot_k6(w->w, w->k6, x, sums)), d, acc);
    }
    if (ty == DT_Q8_0) return v8_fma(v8_of_int(dot_s8(w->w, x)), d, acc);
    v8i i = packed_info(ty).bits == 5 ? dot_u5(w->w, x) : dot_u4(w->w, x);
    acc = v8_fma(v8_of_int(i), d, acc);
    return v8_fma(w->m, v8_set(leaf_float_at(xb + 36 * n, t)), acc);
}

LEAF_INLINE void leaf_put(const struct leaf_gemm *g, int32_t panel, int32_t t, v8 acc)
{
    int32_t row = panel * PANEL_ROWS, n = g->rows - row;
    float *y = g->y + t * g->ldy + row;
    if (n >= PANEL_ROWS) {
        if (g->bias) acc = v8_add(acc, v8_load(g->bias + row));
        v8_store(y, acc);
    } else {
        if (g->bias) acc = v8_add(acc, v8_load_part(g->bias + row, n, 0.0f));
        v8_store_part(y, acc, n);
    }
}

// Few rows of x: memory is the limit, and the hardware's own prefetcher leaves a third of it.
enum { PREFETCH_BYTES = 2048 };
LEAF_INLINE void leaf_prefetch(enum dtype ty, const uint8_t *block)
{
    uintptr_t at = (uintptr_t)block + PREFETCH_BYTES;
    LEAF_UNROLL(5)
    for (uint32_t i = 0; i < packed_info(ty).block; i += 64)
        __builtin_prefetch((const void *)(at + i));
}

// One panel against n rows of x whose sums fit registers; n is a constant at every call.
LEAF_INLINE void leaf_fast_few(enum dtype ty, const struct leaf_gemm *g, int32_t panel, int n)
{
    const uint8_t *w = g->w + panel * g->panel_bytes;
    v8 acc[2];
    for (int t = 0; t < n; t++)
        acc[t] = v8_set(0.0f);
    for (int32_t b = 0; b < g->cols / BLOCK_COLS; b++) {
        struct leaf_block blk;
        leaf_unpack(ty, w, b, &blk);
        leaf_prefetch(ty, w + packed_block_at(ty, b));
        const uint8_t *xb = g->xq + (int64_t)b * n * XQ_BYTES;
        LEAF_UNROLL(2)
        for (int t = 0; t < n; t++)
            acc[t] = leaf_block_dot(ty, &blk, xb, n, t, acc[t]);
    }
    for (int t = 0; t < n; t++)
        leaf_put(g, panel, t, acc[t]);
}

LEAF_INLINE void leaf_fast_many(enum dtype ty, const struct leaf_gemm *g, int32_t panel)
{
    const uint8_t *w = g->w + panel * g->panel_bytes;
    const int32_t n = g->n_tok;
    float *acc = g->scratch;
    for (int32_t t = 0; t < n; t++)
        v8_store(acc + 8 * t, v8_set(0.0f));
    for (int32_t b = 0; b < g->cols / BLOCK_COLS; b++) {
        struct leaf_block blk;
        leaf_unpack(ty, w, b, &blk);
        leaf_prefetch(ty, w + packed_block_at(ty, b));
        const uint8_t *xb = g->xq + (int64_t)b * n * XQ_BYTES;
        for (int32_t t = 0; t < n; t++)
            v8_store(acc + 8 * t, leaf_block_dot(ty, &blk, xb, n, t, v8_load(acc + 8 * t)));
    }
    for (int32_t t = 0; t < n; t++)
        leaf_put(g, panel, t, v8_load(acc + 8 * t));
}

#if defined(VEC_QUAD)
// acc (4, 2, 8) of rows t to t + 3 after one more block of two panels.
LEAF_INLINE void leaf_quad(enum dtype ty, const struct leaf_block w[2], const uint8_t *xb,
                           int32_t n, int32_t t, float *acc)
{
    const int8_t *x = (const int8_t *)xb + 32 * t;
    v8i dot[8];
    if (packed_info(ty).bits == 5)
        dot_quad_u5(w[0].w, w[1].w, x, dot);
    else
        dot_quad_u4(w[0].w, w[1].w, x, dot);
    LEAF_UNROLL(8)
    for (int i = 0; i < 8; i++) {
        v8 d = v8_mul(w[i % 2].d, v8_set(leaf_float_at(xb + 32 * n, t + i / 2)));
        v8 y = v8_fma(v8_of_int(dot[i]), d, v8_load(acc + 8 * i));
        y = v8_fma(w[i % 2].m, v8_set(leaf_float_at(xb + 36 * n, t + i / 2)), y);
        v8_store(acc + 8 * i, y);
    }
}

// Two panels against the tile, four rows of x at a time: fewer loads for each product. Measured: a
// quarter faster from 64 rows on, no gain below 8, and none for 6 and 8 bits, where the multiplier
// is the limit.
enum { PAIR_MIN_TOK = 8 };
LEAF_INLINE void leaf_fast_pair(enum dtype ty, const struct leaf_gemm *g, int32_t panel)
{
    const uint8_t *w = g->w + panel * g->panel_bytes;
    const int32_t n = g->n_tok;
    float *acc = g->scratch; // (n, 2, 8)
    for (int32_t i = 0; i < 2 * n; i++)
        v8_store(acc + 8 * i, v8_set(0.0f));
    for (int32_t b = 0; b < g->cols / BLOCK_COLS; b++) {
        struct leaf_block blk[2];
        for (int p = 0; p < 2; p++) {
            leaf_unpack(ty, w + p * g->panel_bytes, b, &blk[p]);
            leaf_prefetch(ty, w + p * g->panel_bytes + packed_block_at(ty, b));
        }
        const uint8_t *xb = g->xq + (int64_t)b * n * XQ_BYTES;
        int32_t t = 0;
        for (; t + 4 <= n; t += 4)
            leaf_quad(ty, blk, xb, n, t, acc + 16 * t);
        for (; t < n; t++)
            for (int p = 0; p < 2; p++) {
                float *o = acc + 16 * t + 8 * p;
                v8_store(o, leaf_block_dot(ty, &blk[p], xb, n, t, v8_load(o)));
            }
    }
    for (int32_t i = 0; i < 2 * n; i++)
        leaf_put(g, panel + i % 2, i / 2, v8_load(acc + 8 * i));
}
#endif

LEAF_INLINE void leaf_fast(enum dtype ty, const struct leaf_gemm *g)
{
    int32_t p = g->panel_from;
#if defined(VEC_QUAD)
    if (packed_info(ty).bits <= 5 && g->n_tok >= PAIR_MIN_TOK)
        for (; p + 2 <= g->panel_to; p += 2)
            leaf_fast_pair(ty, g, p);
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

static void leaf_gemm_fast(const struct leaf_gemm *g)
{
    switch (g->dtype) {
    case DT_Q4_0:
        leaf_fast(DT_Q4_0, g);
        break;
    case DT_Q4_1:
        leaf_fast(DT_Q4_1, g);
        break;
    case DT_Q5_0:
        leaf_fast(DT_Q5_0, g);
        break;
    case DT_Q5_1:
        leaf_fast(DT_Q5_1, g);
        break;
    case DT_Q8_0:
        leaf_fast(DT_Q8_0, g);
        break;
    case DT_Q4_K:
        leaf_fast(DT_Q4_K, g);
        break;
    case DT_Q5_K:
        leaf_fast(DT_Q5_K, g);
        break;
    case DT_Q6_K:
        leaf_fast(DT_Q6_K, g);
        break;
    default:
        BUG("type without a fast product");
    }
}

// -- float activations --

LEAF_INLINE v8 leaf_load_column(enum dtype t, const uint8_t *p)
{
    return t == DT_F32   ? v8_load((const float *)(const void *)p)
           : t == DT_F16 ? v8_load_f16(p)
                         : v8_load_bf16(p);
}

// Values of block b of a panel, (32, 8): column by column. The last block of a float type may have
// fewer columns.
LEAF_INLINE void leaf_values_of(enum dtype t, const uint8_t *panel, int32_t b, int32_t n_col,
                                float *out)
{
    if (packed_info(t).is_float) {
        const int64_t step = packed_info(t).block;
        const uint8_t *p = panel + (int64_t)b * BLOCK_COLS * step;
        for (int32_t c = 0; c < n_col; c++)
            v8_store(out + 8 * c, leaf_load_column(t, p + c * step));
        return;
    }
    struct leaf_block blk;
    leaf_unpack(t, panel, b, &blk);
    v8 d6[2], m6[2];
    if (t == DT_Q6_K)
        for (int h = 0; h < 2; h++) {
            d6[h] = v8_mul(blk.d, k6_scale_of(blk.k6, h));
            m6[h] = v8_mul(d6[h], v8_set(-32.0f));
        }
    LEAF_UNROLL(8)
    for (int j = 0; j < 8; j++) {
        LEAF_UNROLL(4)
        for (int i = 0; i < 4; i++) {
            float *o = out + 8 * (4 * j + i);
            if (t == DT_Q8_0)
                v8_store(o, v8_mul(q32_column_s8(blk.w[j], i), blk.d));
            else if (t == DT_Q6_K)
                v8_store(o, v8_fma(q32_column_u8(blk.w[j], i), d6[j / 4], m6[j / 4]));
            else
                v8_store(o, v8_fma(q32_column_u8(blk.w[j], i), blk.d, blk.m));
        }
    }
}

static void leaf_values(enum dtype t, const uint8_t *panel, int32_t b, int32_t n_col, float *out)
{
    switch (t) {
    case DT_F32:
        leaf_values_of(DT_F32, panel, b, n_col, out);
        break;
    case DT_F16:
        leaf_values_of(DT_F16, panel, b, n_col, out);
        break;
    case DT_BF16:
        leaf_values_of(DT_BF16, panel, b, n_col, out);
        break;
    case DT_Q4_0:
        leaf_values_of(DT_Q4_0, panel, b, n_col, out);
        break;
    case DT_Q4_1:
        leaf_values_of(DT_Q4_1, panel, b, n_col, out);
        break;
    case DT_Q5_0:
        leaf_values_of(DT_Q5_0, panel, b, n_col, out);
        break;
    case DT_Q5_1:
        leaf_values_of(DT_Q5_1, panel, b, n_col, out);
        break;
    case DT_Q8_0:
        leaf_values_of(DT_Q8_0, panel, b, n_col, out);
        break;
    case DT_Q4_K:
        leaf_values_of(DT_Q4_K, panel, b, n_col, out);
        break;
    case DT_Q5_K:
        leaf_values_of(DT_Q5_K, panel, b, n_col, out);
        break;
    case DT_Q6_K:
        leaf_values_of(DT_Q6_K, panel, b, n_col, out);
        break;
    default:
        BUG("type without values");
    }
}

// acc (T, P, 8) after n_col more columns; w (P, 32, 8); x (T, ldx). T * P at most 8, constants.
LEAF_INLINE void leaf_float_micro(int T, int P, int32_t n_col, const float *w, const float *x,
                                  int64_t ldx, float *acc)
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
            v8 xc = v8_set(x[t * ldx + c]);
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
    float *acc = g->scratch, *w = acc + TILE_TOK * 2 * PANEL_ROWS;
    const v8 zero = v8_set(0.0f);
    for (int32_t i = 0; i < g->n_tok * 2; i++)
        v8_store(acc + 8 * i, zero);
    for (int32_t c = 0; c < g->cols; c += BLOCK_COLS) {
        int32_t n = g->cols - c < BLOCK_COLS ? g->cols - c : BLOCK_COLS;
        for (int p = 0; p < P; p++)
            leaf_values(g->dtype, g->w + (panel + p) * g->panel_bytes, c / BLOCK_COLS, n,
                        w + p * BLOCK_COLS * PANEL_ROWS);
        int32_t t = 0;
        for (; t + 4 <= g->n_tok; t += 4)
            leaf_float_micro(4, P, n, w, g->x + (int64_t)t * g->cols + c, g->cols, acc + 16 * t);
        for (; t < g->n_tok; t++)
            leaf_float_micro(1, P, n, w, g->x + (int64_t)t * g->cols + c, g->cols, acc + 16 * t);
    }
    for (int32_t t = 0; t < g->n_tok; t++)
        for (int p = 0; p < P; p++)
            leaf_put(g, panel + p, t, v8_load(acc + 8 * (2 * t + p)));
}

// One row of x straight from a float weight, four panels at once: enough chains to hide the latency
// of each.
LEAF_INLINE void leaf_float_one(enum dtype ty, const struct leaf_gemm *g, int32_t panel)
{
    const int64_t step = packed_info(ty).block, pb = g->panel_bytes;
    const uint8_t *w = g->w + panel * pb;
    v8 a0 = v8_set(0.0f), a1 = a0, a2 = a0, a3 = a0;
    for (int32_t c = 0; c < g->cols; c++, w += step) {
        v8 x = v8_set(g->x[c]);
        a0 = v8_fma(leaf_load_column(ty, w), x, a0);
        a1 = v8_fma(leaf_load_column(ty, w + pb), x, a1);
        a2 = v8_fma(leaf_load_column(ty, w + 2 * pb), x, a2);
        a3 = v8_fma(leaf_load_column(ty, w + 3 * pb), x, a3);
    }
    leaf_put(g, panel, 0, a0);
    leaf_put(g, panel + 1, 0, a1);
    leaf_put(g, panel + 2, 0, a2);
    leaf_put(g, panel + 3, 0, a3);
}

static void leaf_gemm_float(const struct leaf_gemm *g)
{
    int32_t p = g->panel_from;
    if (g->n_tok == 1)
        for (; packed_info(g->dtype).is_float && p + 4 <= g->panel_to; p += 4)
            switch (g->dtype) {
            case DT_F32:
                leaf_float_one(DT_F32, g, p);
                break;
            case DT_F16:
                leaf_float_one(DT_F16, g, p);
                break;
            default:
                leaf_float_one(DT_BF16, g, p);
                break;
            }
    for (; p + 2 <= g->panel_to; p += 2)
        leaf_float_panels(g, p, 2);
    if (p < g->panel_to) leaf_float_panels(g, p, 1);
}

static void leaf_row(enum dtype t, const uint8_t *w, int64_t panel_bytes, int64_t row, int32_t cols,
                     float *out)
{
    float v[BLOCK_COLS * PANEL_ROWS];
    const uint8_t *panel = w + row / PANEL_ROWS * panel_bytes;
    for (int32_t c = 0; c < cols; c += BLOCK_COLS) {
        int32_t n = cols - c < BLOCK_COLS ? cols - c : BLOCK_COLS;
        leaf_values(t, panel, c / BLOCK_COLS, n, v);
        for (int32_t i = 0; i < n; i++)
            out[c + i] = v[i * PANEL_ROWS + row % PANEL_ROWS];
    }
}

// A block's scale is max|x| / 127. A block with an infinity or a NaN gets a NaN scale, so the
// products show it.
static void leaf_quantise(const float *x, int32_t cols, uint8_t *tile, int32_t n_tok, int32_t t)
{
    for (int32_t b = 0; b < cols / BLOCK_COLS; b++, x += BLOCK_COLS) {
        uint8_t *xb = tile + (int64_t)b * n_tok * XQ_BYTES;
        v8 v[4] = {v8_load(x), v8_load(x + 8), v8_load(x + 16), v8_load(x + 24)};
        uint32_t bits = v8_abs_bits_max(v[0], v[1], v[2], v[3]);
        float max, d, s, inv = 0.0f;
        int32_t sums[2];
        __builtin_memcpy(&max, &bits, 4);
        bool is_finite = bits < 0x7f800000;
        d = is_finite ? max * (1.0f / 127) : __builtin_nanf("");
        if (is_finite && max > 1e-30f) inv = 127.0f / max;
        v8 k = v8_set(is_finite ? inv : 0.0f), zero = v8_set(0.0f);
        for (int i = 0; i < 4; i++)
            v[i] = inv == 0.0f ? zero : v8_mul(v[i], k);
        v8_round_s8(v[0], v[1], v[2], v[3], (int8_t *)xb + 32 * t, sums);
        s = d * (float)(sums[0] + sums[1]);
        int16_t n[2] = {(int16_t)-sums[0], (int16_t)-sums[1]};
        __builtin_memcpy(xb + 32 * n_tok + 4 * t, &d, 4);
        __builtin_memcpy(xb + 36 * n_tok + 4 * t, &s, 4);
        __builtin_memcpy(xb + 40 * n_tok + 4 * t, n, 4);
    }
}
