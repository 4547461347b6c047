// leaf_attn: bodies of attention over one segment. Included by leaf_ISA.c after leaf_gemm.h.
//
// Order for one query, whatever shares the pass with it: a score is fma over the head's dimensions
// ascending; the segment's maximum; p = e^(score - maximum), summed by lane (position mod 8) and
// then across; output = fma(p, v, output) over positions ascending, from 0; then the segment is
// merged into the running softmax. Values that lie in keys are side by side by position: output is
// fma(p, v, sum) by lane (position mod 8) over positions ascending, then across.
#pragma once

// Types of 8 bits are multiplied by a scale.
LEAF_INLINE bool leaf_is_scaled(enum dtype t)
{
    return t == DT_Q8_0 || t == DT_F8_E4M3;
}

// Vector i of p, without its scale.
LEAF_INLINE v8 leaf_load_kv(enum dtype t, const uint8_t *p, int64_t i)
{
    if (t == DT_Q8_0) return v8_load_s8(p + 8 * i);
    if (t == DT_F8_E4M3) return v8_load_f8(p + 8 * i);
    if (t == DT_F16) return v8_load_f16(p + 16 * i);
    if (t == DT_BF16) return v8_load_bf16(p + 16 * i);
    return v8_load((const float *)(const void *)(p + 32 * i));
}

// Elements of a head's vector that have one scale.
LEAF_INLINE int32_t leaf_kv_block(enum dtype t, int32_t n)
{
    return t == DT_Q8_0 ? BLOCK_COLS : n;
}

// Keys of group g of a segment from dimension d on, the first of a block: their scales, if any.
LEAF_INLINE const uint8_t *leaf_keys(enum dtype t, const struct leaf_attn *a, int32_t g, int32_t d,
                                     v8 *scale)
{
    const uint8_t *p = (const uint8_t *)a->k[g / 2] + g % 2 * leaf_group_bytes(t, a->head_dim);
    if (!leaf_is_scaled(t)) return p + d * leaf_group_bytes(t, 1);
    if (t == DT_Q8_0) p += d / BLOCK_COLS * leaf_group_bytes(t, BLOCK_COLS);
    *scale = v8_load((const float *)(const void *)p);
    return p + 32;
}

// Types that are rarely kept on a CPU have fewer bodies of loops: tiles of 4 rows and of 1.
LEAF_INLINE bool leaf_is_rare(enum dtype t)
{
    return t == DT_BF16 || t == DT_F8_E4M3;
}

// Rows of a tile that begins with `left` rows to go: as many as hide the latency of their chains.
LEAF_INLINE int32_t leaf_tile(enum dtype t, int32_t left)
{
    if (leaf_is_rare(t)) return left >= 4 ? 4 : 1;
    if (left == 5) return 3;
    return left >= 6 && left != 7 && left != 8 ? 6 : left >= 4 ? 4 : left;
}

LEAF_INLINE void leaf_prefetch(const void *p, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += 64)
        __builtin_prefetch((const char *)p + i, 0, 2); // not into the first cache
}

// Scores of R rows from r0 on against G groups of 8 keys, at k[g16] and (G = 4) k[g16 + 1]; R * G
// at most 12.
LEAF_INLINE void leaf_scores_of(enum dtype t, int R, int G, const struct leaf_attn *a, int32_t r0,
                                int32_t g16, float *out)
{
    const int32_t hd = a->head_dim;
    const float *const *q = a->q + r0;
    v8 s[12], k[4], scale[4];
    const uint8_t *p[4];
    LEAF_UNROLL(12)
    for (int i = 0; i < R * G; i++)
        s[i] = v8_set(0.0f);
    for (int32_t from = 0, to; from < hd; from = to) {
        to = from + leaf_kv_block(t, hd) < hd ? from + leaf_kv_block(t, hd) : hd;
        LEAF_UNROLL(4)
        for (int g = 0; g < G; g++)
            p[g] = leaf_keys(t, a, 2 * g16 + g, from, &scale[g]);
        for (int32_t d = from; d < to; d++) {
            LEAF_UNROLL(4)
            for (int g = 0; g < G; g++) {
                k[g] = leaf_load_kv(t, p[g], d - from);
                if (leaf_is_scaled(t)) k[g] = v8_mul(k[g], scale[g]);
            }
            LEAF_UNROLL(6)
            for (int r = 0; r < R; r++) {
                v8 x = v8_set(q[r][d]);
                LEAF_UNROLL(4)
                for (int g = 0; g < G; g++)
                    s[r * G + g] = v8_fma(x, k[g], s[r * G + g]);
            }
        }
    }
    LEAF_UNROLL(12)
    for (int i = 0; i < R * G; i++)
        v8_store(out + (r0 + i / G) * SEG_TOK + 16 * g16 + 8 * (i % G), s[i]);
}

LEAF_INLINE void leaf_scores_tile(enum dtype t, const struct leaf_attn *a, int32_t r0, int32_t rows,
                                  int32_t g16, float *out)
{
    if (leaf_is_rare(t)) {
        if (rows == 4)
            leaf_scores_of(t, 4, 2, a, r0, g16, out);
        else
            leaf_scores_of(t, 1, 2, a, r0, g16, out);
        return;
    }
    switch (rows) {
    case 1:
        leaf_scores_of(t, 1, 2, a, r0, g16, out);
        break;
    case 2:
        leaf_scores_of(t, 2, 2, a, r0, g16, out);
        break;
    case 3:
        leaf_scores_of(t, 3, 2, a, r0, g16, out);
        break;
    case 4:
        leaf_scores_of(t, 4, 2, a, r0, g16, out);
        break;
    default:
        leaf_scores_of(t, 6, 2, a, r0, g16, out);
        break;
    }
}
// Up to 3 rows in all: against 32 keys.
LEAF_INLINE void leaf_scores_few(enum dtype t, const struct leaf_attn *a, int32_t g16, float *out)
{
    switch (a->n_row) {
    case 1:
        leaf_scores_of(t, 1, 4, a, 0, g16, out);
        break;
    case 2:
        leaf_scores_of(t, 2, 4, a, 0, g16, out);
        break;
    default:
        leaf_scores_of(t, 3, 4, a, 0, g16, out);
        break;
    }
}

// Scores of all rows against positions [from, to), in whole groups of 16.
LEAF_INLINE void leaf_scores(enum dtype t, const struct leaf_attn *a, int32_t from, int32_t to,
                             float *out)
{
    const int32_t end = (to + 15) / 16;
    const int64_t bytes = 2 * leaf_group_bytes(t, a->head_dim);
    int32_t g = from / 16;
    for (; a->n_row <= 3 && !leaf_is_rare(t) && g + 2 <= end; g += 2) {
        for (int32_t i = g + 2; i < g + 4 && i < end; i++)
            leaf_prefetch(a->k[i], bytes);
        leaf_scores_few(t, a, g, out);
    }
    for (; g < end; g++) {
        if (g + 1 < end) leaf_prefetch(a->k[g + 1], bytes);
        for (int32_t r = 0, rows; r < a->n_row; r += rows) {
            rows = leaf_tile(t, a->n_row - r);
            if (a->lo[r] >= 16 * (g + 1) || a->hi[r + rows - 1] <= 16 * g) continue;
            leaf_scores_tile(t, a, r, rows, g, out);
        }
    }
}

// Scores of [lo, hi) in s become probabilities relative to *max; their sum is returned. Whole
// groups of 8 are rewritten: 0 outside the range.
static float leaf_softmax(const struct leaf_attn *a, float *s, int32_t lo, int32_t hi, float *max)
{
    const float inf = __builtin_inff();
    const v8 scale = v8_set(a->scale), cap = v8_set(a->softcap);
    v8 m = v8_set(-inf), sum = v8_set(0.0f);
    for (int32_t i = lo / 8 * 8; i < hi; i += 8) {
        v8 x = v8_mul(v8_load(s + i), scale);
        if (a->softcap != 0.0f) x = v8_mul(cap, v8_tanh(v8_div(x, cap)));
        v8_store(s + i, x);
        if (i < lo || i + 8 > hi) {
            for (int32_t j = i; j < i + 8; j++)
                if (j < lo || j >= hi) s[j] = -inf;
            x = v8_load(s + i);
        }
        m = v8_max(x, m);
    }
    float top = v8_hmax(m);
    v8 base = v8_set(top > -inf ? top : 0.0f);
    for (int32_t i = lo / 8 * 8; i < hi; i += 8) {
        v8 p = v8_exp(v8_sub(v8_load(s + i), base));
        v8_store(s + i, p);
        sum = v8_add(sum, p);
    }
    *max = top;
    return v8_hsum(sum);
}

// Positions [from, to) of a segment and the first of the rows that see them all.
struct leaf_part {
    int32_t from, to, r0;
};

// o (R rows, D vectors from element 8 * d0 on) += p v over the part. R * D at most 12, constants.
LEAF_INLINE void leaf_weigh_of(enum dtype t, int R, int D, const struct leaf_attn *a,
                               const float *p, struct leaf_part part, int32_t d0, float *o)
{
    const int32_t vs = a->v_stride, to = part.to;
    const int64_t ld = leaf_value_bytes(t, vs), scales = leaf_is_scaled(t) ? ld - vs : 0;
    v8 s[12];
    p += part.r0 * SEG_TOK;
    o += part.r0 * vs + 8 * d0;
    LEAF_UNROLL(12)
    for (int i = 0; i < R * D; i++)
        s[i] = v8_load(o + i / D * vs + 8 * (i % D));
    for (int32_t i = part.from; i < to;) {
        const int32_t end = i / 16 * 16 + 16 < to ? i / 16 * 16 + 16 : to;
        const uint8_t *at = (const uint8_t *)a->v[i / 16] + i % 16 * ld;
        for (; i < end; i++, at += ld) {
            v8 v[8];
            LEAF_UNROLL(8)
            for (int d = 0; d < D; d++) {
                v[d] = leaf_load_kv(t, at + scales, d0 + d);
                if (!leaf_is_scaled(t)) continue;
                const int32_t block = t == DT_Q8_0 ? d0 / 4 + d / 4 : 0;
                v[d] = v8_mul(v[d], v8_set(leaf_float_at(at, block)));
            }
            LEAF_UNROLL(6)
            for (int r = 0; r < R; r++) {
                v8 w = v8_set(p[r * SEG_TOK + i]);
                LEAF_UNROLL(8)
                for (int d = 0; d < D; d++)
                    s[r * D + d] = v8_fma(w, v[d], s[r * D + d]);
            }
        }
    }
    LEAF_UNROLL(12)
    for (int i = 0; i < R * D; i++)
        v8_store(o + i / D * vs + 8 * (i % D), s[i]);
}

LEAF_INLINE void leaf_weigh_rows(enum dtype t, int R, int D, const struct leaf_attn *a,
                                 const float *p, struct leaf_part part, float *o)
{
    if (part.from >= part.to) return;
    const int32_t n = a->v_stride / 8;
    int32_t d = 0;
    for (; d + D <= n; d += D)
        leaf_weigh_of(t, R, D, a, p, part, d, o);
    for (; d < n; d++)
        leaf_weigh_of(t, R, 1, a, p, part, d, o);
}

LEAF_INLINE void leaf_weigh_tile(enum dtype t, const struct leaf_attn *a, const float *p,
                                 struct leaf_part all, int32_t rows, float *o)
{
    if (leaf_is_rare(t)) {
        if (rows == 4)
            leaf_weigh_rows(t, 4, 2, a, p, all, o);
        else
            leaf_weigh_rows(t, 1, 8, a, p, all, o);
        return;
    }
    switch (rows) {
    case 1:
        leaf_weigh_rows(t, 1, 8, a, p, all, o);
        break;
    case 2:
        leaf_weigh_rows(t, 2, 4, a, p, all, o);
        break;
    case 3:
        leaf_weigh_rows(t, 3, 4, a, p, all, o);
        break;
    case 4:
        leaf_weigh_rows(t, 4, 2, a, p, all, o);
        break;
    default:
        leaf_weigh_rows(t, 6, 2, a, p, all, o);
        break;
    }
}

// Each of `rows` rows by itself over what it sees of the part.
LEAF_INLINE void leaf_weigh_each(enum dtype t, const struct leaf_attn *a, const float *p,
                                 struct leaf_part part, int32_t rows, float *o)
{
    if (part.from >= part.to) return;
    for (int32_t r = part.r0; r < part.r0 + rows; r++) {
        struct leaf_part one = {a->lo[r] > part.from ? a->lo[r] : part.from,
                                a->hi[r] < part.to ? a->hi[r] : part.to, r};
        leaf_weigh_rows(t, 1, 8, a, p, one, o);
    }
}

enum { WEIGH_TOK = 64 };

// WEIGH_TOK positions at a time, so that their values are read once from afar: what all rows of a
// tile see together, what lies before and after row by row.
LEAF_INLINE void leaf_weigh(enum dtype t, const struct leaf_attn *a, const float *p, int32_t from,
                            int32_t to, float *o)
{
    const int64_t bytes = 16 * leaf_value_bytes(t, a->v_stride);
    for (int32_t i = from / WEIGH_TOK * WEIGH_TOK, next; i < to; i = next) {
        next = i + WEIGH_TOK;
        for (int32_t g = next / 16; g < (next + WEIGH_TOK) / 16 && 16 * g < to; g++)
            leaf_prefetch(a->v[g], bytes);
        const int32_t begin = i > from ? i : from, end = next < to ? next : to;
        for (int32_t r = 0, rows; r < a->n_row; r += rows) {
            rows = leaf_tile(t, a->n_row - r);
            struct leaf_part all = {a->lo[r + rows - 1], a->hi[r], r};
            all.from = all.from < begin ? begin : all.from > end ? end : all.from;
            all.to = all.to < all.from ? all.from : all.to > end ? end : all.to;
            leaf_weigh_each(t, a, p, (struct leaf_part){begin, all.from, r}, rows, o);
            leaf_weigh_tile(t, a, p, all, rows, o);
            leaf_weigh_each(t, a, p, (struct leaf_part){all.to, end, r}, rows, o);
        }
    }
}

// Lanes [from, to) of a, zeros elsewhere.
LEAF_INLINE v8 leaf_keep(v8 a, int32_t from, int32_t to)
{
    const v8 lane = v8_load(vec_lanes), minus = v8_sub(v8_set(0.0f), lane);
    return v8_zero_below(v8_zero_below(a, lane, (float)from), minus, (float)(1 - to));
}

// Sums of R rows from r0 on, D elements each, so far.
struct leaf_mixed {
    v8 s[8];
};

// Adds the groups of 8 positions [from, to) of values v (groups, D, 8), of which each row may see a
// part. What it does not see is not multiplied, be it a number or not.
LEAF_INLINE void leaf_mix_edge(int R, int D, const struct leaf_attn *a, const float *p,
                               struct leaf_part groups, const float *v, struct leaf_mixed *m)
{
    for (int32_t g = groups.from; g < groups.to; g++)
        LEAF_UNROLL(4)
    for (int r = 0; r < R; r++) {
        const int32_t row = groups.r0 + r, lo = a->lo[row] - 8 * g, hi = a->hi[row] - 8 * g;
        if (lo >= 8 || hi <= 0 || lo >= hi) continue;
        const v8 w = v8_load(p + row * SEG_TOK + 8 * g);
        LEAF_UNROLL(4)
        for (int d = 0; d < D; d++) {
            v8 y = leaf_keep(v8_load(v + (int64_t)8 * (D * g + d)), lo, hi);
            m->s[r * D + d] = v8_fma(w, y, m->s[r * D + d]);
        }
    }
}

// o (R rows from r0 on, D elements from d0 on) = p v over the part. R * D at most 8, constants.
LEAF_INLINE void leaf_mix_of(int R, int D, const struct leaf_attn *a, const float *p,
                             struct leaf_part part, int32_t d0, const float *v, float *o)
{
    const int32_t r0 = part.r0, end = (part.to + 7) / 8;
    int32_t from = (a->lo[r0 + R - 1] + 7) / 8, to = a->hi[r0] / 8; // seen wholly by all rows
    from = from < end ? from : end;
    to = to > from ? to : from;
    struct leaf_mixed m;
    LEAF_UNROLL(8)
    for (int i = 0; i < R * D; i++)
        m.s[i] = v8_set(0.0f);
    leaf_mix_edge(R, D, a, p, (struct leaf_part){part.from / 8, from, r0}, v, &m);
    const float *x = v + (int64_t)8 * D * from, *w = p + r0 * SEG_TOK + 8 * from;
    for (int32_t g = from; g < to; g++, x += 8 * D, w += 8) {
        v8 y[4];
        LEAF_UNROLL(4)
        for (int d = 0; d < D; d++)
            y[d] = v8_load(x + 8 * d);
        LEAF_UNROLL(4)
        for (int r = 0; r < R; r++) {
            const v8 z = v8_load(w + r * SEG_TOK);
            LEAF_UNROLL(4)
            for (int d = 0; d < D; d++)
                m.s[r * D + d] = v8_fma(z, y[d], m.s[r * D + d]);
        }
    }
    leaf_mix_edge(R, D, a, p, (struct leaf_part){to, end, r0}, v, &m);
    o += r0 * a->v_stride + d0;
    LEAF_UNROLL(8)
    for (int i = 0; i < R * D; i++)
        o[i / D * a->v_stride + i % D] = v8_hsum(m.s[i]);
}

// D elements of the values of the part, as floats, for all rows.
LEAF_INLINE void leaf_mix_elements(enum dtype t, int D, const struct leaf_attn *a, const float *p,
                                   struct leaf_part part, int32_t d0, float *o)
{
    float *v = a->scratch + ATTN_ROWS * (SEG_TOK + a->v_stride);
    const int32_t at = d0 % leaf_kv_block(t, a->head_dim);
    for (int32_t g = part.from / 8; g < (part.to + 7) / 8; g++) {
        v8 scale;
        const uint8_t *k = leaf_keys(t, a, g, d0 - at, &scale);
        for (int d = 0; d < D; d++) {
            v8 x = leaf_load_kv(t, k, at + d);
            if (leaf_is_scaled(t)) x = v8_mul(x, scale);
            v8_store(v + 8 * (D * g + d), x);
        }
    }
    for (; part.r0 + 4 <= a->n_row; part.r0 += 4)
        leaf_mix_of(4, D, a, p, part, d0, v, o);
    for (; part.r0 < a->n_row; part.r0++)
        leaf_mix_of(1, D, a, p, part, d0, v, o);
}

LEAF_INLINE void leaf_mix(enum dtype t, const struct leaf_attn *a, const float *p, int32_t from,
                          int32_t to, float *o)
{
    const struct leaf_part part = {from, to, 0};
    int32_t d = 0;
    for (; d + LEAF_MIX <= a->head_dim_v; d += LEAF_MIX)
        leaf_mix_elements(t, LEAF_MIX, a, p, part, d, o);
    for (; d < a->head_dim_v; d++)
        leaf_mix_elements(t, 1, a, p, part, d, o);
}

static float leaf_exp_one(float x)
{
    float e[8];
    v8_store(e, v8_exp(v8_set(x)));
    return e[0];
}

// Milakov and Gimelshein 2018: two partial softmaxes become one.
static void leaf_merge(float *m, float *l, float *o, float m2, float l2, const float *o2, int32_t n)
{
    float top = m2 > *m ? m2 : *m;
    if (!(top > -__builtin_inff())) return;
    float c1 = leaf_exp_one(*m - top), c2 = leaf_exp_one(m2 - top);
    *l = *l * c1 + l2 * c2;
    *m = top;
    for (int32_t d = 0; d < n; d += 8) {
        v8 x = v8_mul(v8_load(o + d), v8_set(c1));
        v8_store(o + d, v8_fma(v8_load(o2 + d), v8_set(c2), x));
    }
}

LEAF_INLINE void leaf_attn_of(enum dtype t, const struct leaf_attn *a)
{
    float *p = a->scratch, *o = p + ATTN_ROWS * SEG_TOK;
    int32_t from = SEG_TOK, to = 0;
    for (int32_t r = 0; r < a->n_row; r++) {
        if (a->lo[r] >= a->hi[r]) continue;
        from = a->lo[r] < from ? a->lo[r] : from;
        to = a->hi[r] > to ? a->hi[r] : to;
    }
    if (from >= to) return;
    leaf_scores(t, a, from, to, p);
    if (!a->v_in_k)
        for (int32_t g = from / 16; g < from / 16 + 2 && 16 * g < to; g++)
            leaf_prefetch(a->v[g], 16 * leaf_value_bytes(t, a->v_stride));
    float m[ATTN_ROWS], l[ATTN_ROWS];
    for (int32_t r = 0; r < a->n_row; r++)
        l[r] = leaf_softmax(a, p + r * SEG_TOK, a->lo[r], a->hi[r], &m[r]);
    for (int32_t i = 0; i < a->n_row * a->v_stride; i += 8)
        v8_store(o + i, v8_set(0.0f));
    if (a->v_in_k)
        leaf_mix(t, a, p, from, to, o);
    else
        leaf_weigh(t, a, p, from, to, o);
    for (int32_t r = 0; r < a->n_row; r++)
        if (a->lo[r] < a->hi[r])
            leaf_merge(a->m[r], a->l[r], a->o[r], m[r], l[r], o + r * a->v_stride, a->v_stride);
}

static void leaf_attn_segment(const struct leaf_attn *a)
{
    switch (a->kv_dtype) {
    case DT_Q8_0:
        leaf_attn_of(DT_Q8_0, a);
        break;
    case DT_F8_E4M3:
        leaf_attn_of(DT_F8_E4M3, a);
        break;
    case DT_BF16:
        leaf_attn_of(DT_BF16, a);
        break;
    case DT_F16:
        leaf_attn_of(DT_F16, a);
        break;
    default:
        leaf_attn_of(DT_F32, a);
        break;
    }
}

// Up to 32 elements to q; returns their scale.
static float leaf_kv_quantise(const float *x, int32_t n, int8_t q[BLOCK_COLS])
{
    v8 v[4];
    int16_t sums[2][2];
    for (int i = 0; i < 4; i++)
        v[i] = v8_load_part(x + 8 * i, n - 8 * i < 8 ? n - 8 * i : 8, 0.0f);
    return leaf_quantise_32(v, q, sums);
}

static void leaf_k_put_q8(const float *key, int32_t hd, uint8_t *group, int32_t lane)
{
    int8_t q[BLOCK_COLS];
    for (int32_t d = 0, n; d < hd; d += n) {
        n = hd - d < BLOCK_COLS ? hd - d : BLOCK_COLS;
        const float scale = leaf_kv_quantise(key + d, n, q);
        __builtin_memcpy(group + 4 * lane, &scale, 4);
        for (int32_t i = 0; i < n; i++)
            group[32 + 8 * i + lane] = (uint8_t)q[i];
        group += leaf_group_bytes(DT_Q8_0, n);
    }
}

static void leaf_v_put_q8(const float *value, int32_t hd, uint8_t *v)
{
    const int32_t vs = (hd + 7) / 8 * 8;
    uint8_t *to = v + leaf_value_bytes(DT_Q8_0, vs) - vs;
    int8_t q[BLOCK_COLS];
    for (int32_t d = 0; d < hd; d += BLOCK_COLS, v += 4) {
        const int32_t n = hd - d < BLOCK_COLS ? hd - d : BLOCK_COLS;
        const float scale = leaf_kv_quantise(value + d, n, q);
        __builtin_memcpy(v, &scale, 4);
        __builtin_memcpy(to + d, q, (size_t)((n + 7) / 8 * 8));
    }
}

// E4M3 of x, |x| at most 448: nearest, ties to even.
static uint8_t leaf_f8_of(float x)
{
    uint32_t u;
    __builtin_memcpy(&u, &x, 4);
    const uint32_t sign = u >> 24 & 128, a = u & 0x7fffffff;
    if (a >= 0x3c800000) return (uint8_t)(sign | (a - 0x3c000000 + 0x7ffff + (a >> 20 & 1)) >> 20);
    float r; // below 2^-6: steps of 2^-9, which the sum has for its last place
    __builtin_memcpy(&r, &a, 4);
    r += 16384.0f;
    __builtin_memcpy(&u, &r, 4);
    return (uint8_t)(sign | (u - 0x46800000));
}

// n elements, `step` bytes from one to the next at `to`; returns their scale. v8_load_f8 gives
// 1/256 of what it reads.
static float leaf_f8_put(const float *x, int32_t n, uint8_t *to, int32_t step)
{
    uint32_t most = 0, u;
    float max;
    for (int32_t i = 0; i < n; i++) {
        __builtin_memcpy(&u, x + i, 4);
        most = (u & 0x7fffffff) > most ? u & 0x7fffffff : most;
    }
    __builtin_memcpy(&max, &most, 4);
    const bool is = most < 0x7f800000;
    const float inv = is && max > 1e-30f ? 448.0f / max : 0.0f;
    for (int32_t i = 0; i < n; i++)
        to[i * step] = inv != 0.0f ? leaf_f8_of(x[i] * inv) : 0;
    return is ? max * (1.0f / 448) * 256.0f : __builtin_nanf("");
}

static uint16_t leaf_bf16_of(float x)
{
    uint32_t u;
    __builtin_memcpy(&u, &x, 4);
    if ((u & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static void leaf_k_put(enum dtype t, const float *key, int32_t hd, void *group, int32_t lane)
{
    if (t == DT_Q8_0) {
        leaf_k_put_q8(key, hd, group, lane);
        return;
    }
    if (t == DT_F8_E4M3) {
        ((float *)group)[lane] = leaf_f8_put(key, hd, (uint8_t *)group + 32 + lane, 8);
        return;
    }
    for (int32_t d = 0; t == DT_BF16 && d < hd; d++)
        ((uint16_t *)group)[8 * d + lane] = leaf_bf16_of(key[d]);
    if (t == DT_BF16) return;
    for (int32_t d = 0; d < hd; d += 8) {
        int32_t n = hd - d < 8 ? hd - d : 8;
        if (t == DT_F16) {
            uint16_t h[8];
            v8_store_f16(h, v8_load_part(key + d, n, 0.0f));
            for (int32_t i = 0; i < n; i++)
                ((uint16_t *)group)[8 * (d + i) + lane] = h[i];
        } else {
            for (int32_t i = 0; i < n; i++)
                ((float *)group)[8 * (d + i) + lane] = key[d + i];
        }
    }
}

static void leaf_v_put(enum dtype t, const float *value, int32_t hd, void *v)
{
    if (t == DT_Q8_0) {
        leaf_v_put_q8(value, hd, v);
        return;
    }
    const int32_t vs = (hd + 7) / 8 * 8;
    if (t == DT_F8_E4M3) {
        __builtin_memset((uint8_t *)v + 4, 0, (size_t)vs);
        const float scale = leaf_f8_put(value, hd, (uint8_t *)v + 4, 1);
        __builtin_memcpy(v, &scale, 4);
        return;
    }
    for (int32_t d = 0; t == DT_BF16 && d < vs; d++)
        ((uint16_t *)v)[d] = d < hd ? leaf_bf16_of(value[d]) : 0;
    if (t == DT_BF16) return;
    for (int32_t d = 0; d < hd; d += 8) {
        v8 y = v8_load_part(value + d, hd - d < 8 ? hd - d : 8, 0.0f);
        if (t == DT_F16)
            v8_store_f16((uint16_t *)v + d, y);
        else
            v8_store((float *)v + d, y);
    }
}
