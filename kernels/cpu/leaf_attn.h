// leaf_attn: bodies of attention over one segment. Included by leaf_ISA.c after leaf_gemm.h.
//
// Order for one query, whatever shares the pass with it: a score is fma over the head's dimensions
// ascending; the segment's maximum; p = e^(score - maximum), summed by lane (position mod 8) and
// then across; output = fma(p, v, output) over positions ascending, from 0; then the segment is
// merged into the running softmax. Values that lie in keys are side by side by position: output is
// fma(p, v, sum) by lane (position mod 8) over positions ascending, then across.
#pragma once

LEAF_INLINE v8 leaf_load_kv(enum dtype t, const void *p, int64_t i)
{
    return t == DT_F16 ? v8_load_f16((const uint16_t *)p + i) : v8_load((const float *)p + i);
}

// Scores of R rows against G groups of 8 keys, at k[0] and (G = 4) k[1]; R * G at most 8.
LEAF_INLINE void leaf_scores_of(enum dtype t, int R, int G, const struct leaf_attn *a, int32_t g16,
                                float *out)
{
    const int32_t hd = a->head_dim;
    v8 s[8];
    LEAF_UNROLL(8)
    for (int i = 0; i < R * G; i++)
        s[i] = v8_set(0.0f);
    for (int32_t d = 0; d < hd; d++) {
        v8 k[4];
        LEAF_UNROLL(4)
        for (int g = 0; g < G; g++)
            k[g] = leaf_load_kv(t, a->k[g16 + g / 2], 8 * ((int64_t)(g % 2) * hd + d));
        LEAF_UNROLL(4)
        for (int r = 0; r < R; r++) {
            v8 q = v8_set(a->q[r][d]);
            LEAF_UNROLL(4)
            for (int g = 0; g < G; g++)
                s[r * G + g] = v8_fma(q, k[g], s[r * G + g]);
        }
    }
    LEAF_UNROLL(8)
    for (int i = 0; i < R * G; i++)
        v8_store(out + i / G * SEG_TOK + 16 * g16 + 8 * (i % G), s[i]);
}

LEAF_INLINE void leaf_scores(enum dtype t, const struct leaf_attn *a, int32_t from, int32_t to,
                             float *out)
{
    int32_t g = from / 16, end = (to + 15) / 16;
    if (a->n_row == 1)
        for (; g + 2 <= end; g += 2)
            leaf_scores_of(t, 1, 4, a, g, out);
    if (a->n_row == 2)
        for (; g + 2 <= end; g += 2)
            leaf_scores_of(t, 2, 4, a, g, out);
    for (; g < end; g++)
        switch (a->n_row) {
        case 1:
            leaf_scores_of(t, 1, 2, a, g, out);
            break;
        case 2:
            leaf_scores_of(t, 2, 2, a, g, out);
            break;
        case 3:
            leaf_scores_of(t, 3, 2, a, g, out);
            break;
        default:
            leaf_scores_of(t, 4, 2, a, g, out);
            break;
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

// Positions [from, to) of a segment, and the first of the vectors of a head they are summed into.
struct leaf_part {
    int32_t from, to, d0;
};

// o (R, D vectors at vector d0) += p v over the part's positions. R * D at most 8, constants.
LEAF_INLINE void leaf_weigh_of(enum dtype t, int R, int D, const struct leaf_attn *a,
                               const float *p, struct leaf_part part, float *o)
{
    const int32_t vs = a->v_stride, to = part.to, d0 = part.d0;
    v8 s[8];
    LEAF_UNROLL(8)
    for (int i = 0; i < R * D; i++)
        s[i] = v8_load(o + i / D * vs + 8 * (d0 + i % D));
    for (int32_t i = part.from; i < to;) {
        const int32_t end = i / 16 * 16 + 16 < to ? i / 16 * 16 + 16 : to;
        const void *page = a->v[i / 16];
        int64_t at = (int64_t)(i % 16) * vs + 8 * d0;
        for (; i < end; i++, at += vs) {
            v8 v[8];
            LEAF_UNROLL(8)
            for (int d = 0; d < D; d++)
                v[d] = leaf_load_kv(t, page, at + 8 * d);
            LEAF_UNROLL(4)
            for (int r = 0; r < R; r++) {
                v8 w = v8_set(p[r * SEG_TOK + i]);
                LEAF_UNROLL(8)
                for (int d = 0; d < D; d++)
                    s[r * D + d] = v8_fma(w, v[d], s[r * D + d]);
            }
        }
    }
    LEAF_UNROLL(8)
    for (int i = 0; i < R * D; i++)
        v8_store(o + i / D * vs + 8 * (d0 + i % D), s[i]);
}

LEAF_INLINE void leaf_weigh_rows(enum dtype t, int R, int D, const struct leaf_attn *a,
                                 const float *p, int32_t from, int32_t to, float *o)
{
    if (from >= to) return;
    const int32_t n = a->v_stride / 8;
    int32_t d = 0;
    for (; d + D <= n; d += D)
        leaf_weigh_of(t, R, D, a, p, (struct leaf_part){from, to, d}, o);
    for (; d < n; d++)
        leaf_weigh_of(t, R, 1, a, p, (struct leaf_part){from, to, d}, o);
}

// All rows of the pass over the positions that all of them see, each over its own rest: a position
// that a row does not see never enters its sum, not even as 0 * v.
LEAF_INLINE void leaf_weigh(enum dtype t, const struct leaf_attn *a, const float *p, float *o)
{
    int32_t lo = 0, hi = SEG_TOK;
    for (int32_t r = 0; r < a->n_row; r++) {
        lo = a->lo[r] > lo ? a->lo[r] : lo;
        hi = a->hi[r] < hi ? a->hi[r] : hi;
    }
    if (hi < lo) hi = lo; // nothing in common: the first loop does all of it
    for (int32_t r = 0; r < a->n_row; r++)
        leaf_weigh_rows(t, 1, 8, a, p + r * SEG_TOK, a->lo[r], a->hi[r] < lo ? a->hi[r] : lo,
                        o + r * a->v_stride);
    switch (a->n_row) {
    case 1:
        leaf_weigh_rows(t, 1, 8, a, p, lo, hi, o);
        break;
    case 2:
        leaf_weigh_rows(t, 2, 4, a, p, lo, hi, o);
        break;
    case 3:
        leaf_weigh_rows(t, 3, 2, a, p, lo, hi, o);
        break;
    default:
        leaf_weigh_rows(t, 4, 2, a, p, lo, hi, o);
        break;
    }
    for (int32_t r = 0; r < a->n_row; r++)
        leaf_weigh_rows(t, 1, 8, a, p + r * SEG_TOK, a->lo[r] > hi ? a->lo[r] : hi, a->hi[r],
                        o + r * a->v_stride);
}

// Lanes [from, to) of a, zeros elsewhere.
LEAF_INLINE v8 leaf_keep(v8 a, int32_t from, int32_t to)
{
    const v8 lane = v8_load(vec_lanes), minus = v8_sub(v8_set(0.0f), lane);
    return v8_zero_below(v8_zero_below(a, lane, (float)from), minus, (float)(1 - to));
}

// Groups of 8 positions: seen by any row, seen wholly by all.
struct leaf_groups {
    int32_t from, to, all_from, all_to;
};

static struct leaf_groups leaf_groups_of(const struct leaf_attn *a)
{
    struct leaf_groups g = {SEG_TOK / 8, 0, 0, SEG_TOK / 8};
    for (int32_t r = 0; r < a->n_row; r++) {
        int32_t lo = a->lo[r], hi = a->hi[r];
        if (lo < hi) {
            g.from = lo / 8 < g.from ? lo / 8 : g.from;
            g.to = (hi + 7) / 8 > g.to ? (hi + 7) / 8 : g.to;
        }
        g.all_from = (lo + 7) / 8 > g.all_from ? (lo + 7) / 8 : g.all_from;
        g.all_to = hi / 8 < g.all_to ? hi / 8 : g.all_to;
    }
    return g;
}

// o (R rows, elements [d0, d0 + D)) = p v, the values being elements of the keys. What a row does
// not see is not multiplied, be it a number or not. R * D at most 12, constants.
LEAF_INLINE void leaf_mix_of(enum dtype t, int R, int D, const struct leaf_attn *a,
                             const struct leaf_groups *gs, const float *p, int32_t d0, float *o)
{
    v8 s[12];
    LEAF_UNROLL(12)
    for (int i = 0; i < R * D; i++)
        s[i] = v8_set(0.0f);
    for (int32_t g = gs->from; g < gs->to; g++) {
        const int64_t at = 8 * ((int64_t)(g % 2) * a->head_dim + d0);
        const bool is_whole = g >= gs->all_from && g < gs->all_to;
        LEAF_UNROLL(4)
        for (int r = 0; r < R; r++) {
            const int32_t lo = a->lo[r] - 8 * g, hi = a->hi[r] - 8 * g;
            if (!is_whole && (lo >= 8 || hi <= 0 || lo >= hi)) continue;
            const v8 w = v8_load(p + r * SEG_TOK + 8 * g);
            LEAF_UNROLL(12)
            for (int d = 0; d < D; d++) {
                v8 v = leaf_load_kv(t, a->k[g / 2], at + 8 * d);
                if (!is_whole) v = leaf_keep(v, lo, hi);
                s[r * D + d] = v8_fma(w, v, s[r * D + d]);
            }
        }
    }
    for (int i = 0; i < R * D; i++)
        o[i / D * a->v_stride + d0 + i % D] = v8_hsum(s[i]);
}

LEAF_INLINE void leaf_mix_rows(enum dtype t, int R, int D, const struct leaf_attn *a,
                               const struct leaf_groups *gs, const float *p, float *o)
{
    int32_t d = 0;
    for (; d + D <= a->head_dim_v; d += D)
        leaf_mix_of(t, R, D, a, gs, p, d, o);
    for (; d < a->head_dim_v; d++)
        leaf_mix_of(t, R, 1, a, gs, p, d, o);
}

LEAF_INLINE void leaf_mix(enum dtype t, const struct leaf_attn *a, const float *p, float *o)
{
    const struct leaf_groups gs = leaf_groups_of(a);
    switch (a->n_row) {
    case 1:
        leaf_mix_rows(t, 1, 8, a, &gs, p, o);
        break;
    case 2:
        leaf_mix_rows(t, 2, 4, a, &gs, p, o);
        break;
    case 3:
        leaf_mix_rows(t, 3, 4, a, &gs, p, o);
        break;
    default:
        leaf_mix_rows(t, 4, 2, a, &gs, p, o);
        break;
    }
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
    float m[ATTN_ROWS], l[ATTN_ROWS];
    for (int32_t r = 0; r < a->n_row; r++)
        l[r] = leaf_softmax(a, p + r * SEG_TOK, a->lo[r], a->hi[r], &m[r]);
    for (int32_t i = 0; i < a->n_row * a->v_stride; i += 8)
        v8_store(o + i, v8_set(0.0f));
    if (a->v_in_k)
        leaf_mix(t, a, p, o);
    else
        leaf_weigh(t, a, p, o);
    for (int32_t r = 0; r < a->n_row; r++)
        if (a->lo[r] < a->hi[r])
            leaf_merge(a->m[r], a->l[r], a->o[r], m[r], l[r], o + r * a->v_stride, a->v_stride);
}

static void leaf_attn_segment(const struct leaf_attn *a)
{
    if (a->kv_dtype == DT_F16)
        leaf_attn_of(DT_F16, a);
    else
        leaf_attn_of(DT_F32, a);
}

static void leaf_k_put(enum dtype t, const float *key, int32_t hd, void *k)
{
    for (int32_t d = 0; d < hd; d += 8) {
        int32_t n = hd - d < 8 ? hd - d : 8;
        if (t == DT_F16) {
            uint16_t h[8];
            v8_store_f16(h, v8_load_part(key + d, n, 0.0f));
            for (int32_t i = 0; i < n; i++)
                ((uint16_t *)k)[8 * (d + i)] = h[i];
        } else {
            for (int32_t i = 0; i < n; i++)
                ((float *)k)[8 * (d + i)] = key[d + i];
        }
    }
}

static void leaf_v_put(enum dtype t, const float *value, int32_t hd, void *v)
{
    for (int32_t d = 0; d < hd; d += 8) {
        v8 y = v8_load_part(value + d, hd - d < 8 ? hd - d : 8, 0.0f);
        if (t == DT_F16)
            v8_store_f16((uint16_t *)v + d, y);
        else
            v8_store((float *)v + d, y);
    }
}
