// leaf_block: one block of a packed weight (8 rows x 32 columns), for each type: unpacked, its
// product with a quantised row, its values. Included by leaf_gemm.h.
#pragma once

// Under a sanitizer compilers need minutes for what is made of constants here; the reference leaves
// both to the compiler.
#if !defined(LEAF_INLINE) && defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LEAF_INLINE static
#define LEAF_UNROLL(n)
#endif
#endif
#ifndef LEAF_INLINE
#define LEAF_INLINE static inline __attribute__((always_inline))
#define LEAF_PRAGMA(text) _Pragma(#text)
#define LEAF_UNROLL(n) LEAF_PRAGMA(GCC unroll n)
#endif

// How the integers of a block become a product. a, b: sums of w * x over the columns, of the halves
// where there are two scales; n: negated sums of x over the halves. Where w has a middle, its
// distance from there is what is summed: that fits 16 bits.
enum leaf_dot {
    DOT_U4,     // d * a + m * sum(x), w <= 15
    DOT_M4,     // d * (a of w - 8), w <= 15
    DOT_U5,     // d * (a of w - 16) + z * sum(x), w <= 31, z = m + 16 * d
    DOT_S8,     // d * a + m * sum(x), w signed
    DOT_E2M1,   // d * (a of w - 12)
    DOT_HALVES, // d * (a of w - 12) + d2 * (b of w - 12)
    DOT_K3,     // d * (sc0 * a + sc1 * b) + m * (mn0 * n0 + mn1 * n1), w <= 7
    DOT_K6,     // d * (sc0 * (a of w - 32) + sc1 * (b of w - 32)), w <= 63
    DOT_K8      // d * (sc0 * a + sc1 * b), w signed
};

// Whether a sum of x takes part; of Q5_0 z is 0.
static inline bool leaf_has_offset(int t)
{
    switch (t) {
    case DT_Q4_0:
    case DT_Q5_0:
    case DT_Q8_0:
    case DT_IQ4_NL:
    case DT_IQ4_XS:
    case DT_MXFP4:
    case DT_NVFP4:
    case DT_Q6_K:
    case DT_CODES:
        return false;
    default:
        return true;
    }
}

static inline enum leaf_dot leaf_dot_of(int t)
{
    switch (t) {
    case DT_Q4_0:
        return DOT_M4;
    case DT_Q5_0:
    case DT_Q5_1:
    case DT_Q5_K:
        return DOT_U5;
    case DT_Q8_0:
    case DT_INT8:
    case DT_IQ4_NL:
    case DT_IQ4_XS:
        return DOT_S8;
    case DT_MXFP4:
        return DOT_E2M1;
    case DT_NVFP4:
        return DOT_HALVES;
    case DT_Q2_K:
    case DT_Q3_K:
        return DOT_K3;
    case DT_Q6_K:
        return DOT_K6;
    case DT_CODES:
        return DOT_K8;
    default: // Q4_1, Q4_K, INT4, TQ2_0
        return DOT_U4;
    }
}

// 8 rows x 32 columns, unpacked. What a type does not use is not set.
struct leaf_block {
    q32 w[8];
    v8 d, d2; // of all columns or of the first 16, of the last 16
    v8 m;
    v8 z; // INT8: the value of 0; DOT_U5: see there
    k6s sc, mn;
};

// 12 more than twice the values of E2M1 (OCP Microscaling Formats 1.0): 0 0.5 1 1.5 2 3 4 6, then
// the same with a minus.
static const uint8_t leaf_e2m1[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
// IQ4_NL's steps, -127 to 113, as bytes.
static const uint8_t leaf_iq4[16] = {129, 152, 173, 191, 207, 221, 234, 246,
                                     1,   13,  25,  38,  53,  69,  89,  113};

LEAF_INLINE void leaf_unpack_bits(int t, const uint8_t *p, q32 w[8])
{
    const uint32_t bits = packed_info(t).bits;
    if (bits == 8) {
        LEAF_UNROLL(8)
        for (int j = 0; j < 8; j++)
            w[j] = q32_load(p + 32 * j);
        return;
    }
    if (bits <= 3) {
        const uint8_t *q = p + (bits - 2) * 32;
        q32 v[2] = {q32_load(q), q32_load(q + 32)};
        LEAF_UNROLL(8)
        for (int j = 0; j < 8; j++)
            w[j] = q32_field(v[j / 4], -2 * (j % 4), 3);
    } else {
        const uint8_t *q = p + (bits - 4) * 32;
        LEAF_UNROLL(4)
        for (int l = 0; l < 4; l++) {
            q32 v = q32_load(q + 32 * l);
            w[l] = q32_field(v, 0, 15);
            w[l + 4] = q32_field(v, -4, 15);
        }
    }
    if (bits == 3 || bits == 5) {
        const int at = bits == 3 ? 2 : 4;
        q32 h = q32_load(p);
        LEAF_UNROLL(8)
        for (int j = 0; j < 8; j++)
            w[j] = q32_or(w[j], q32_field(h, at - j, (uint8_t)(1 << at)));
    }
    if (bits == 6) {
        q32 h[2] = {q32_load(p), q32_load(p + 32)};
        LEAF_UNROLL(8)
        for (int j = 0; j < 8; j++)
            w[j] = q32_or(w[j], q32_field(h[j / 4], 4 - 2 * (j % 4), 48));
    }
    const bool is_iq4 = t == DT_IQ4_NL || t == DT_IQ4_XS, is_e2m1 = t == DT_MXFP4 || t == DT_NVFP4;
    if (!is_iq4 && !is_e2m1) return;
    LEAF_UNROLL(8)
    for (int j = 0; j < 8; j++)
        w[j] = q32_table(w[j], is_iq4 ? leaf_iq4 : leaf_e2m1);
}

// What the blocks of a run have in common.
struct leaf_head {
    v8 d, m;
};

LEAF_INLINE void leaf_unpack_head(int t, const uint8_t *run, struct leaf_head *o)
{
    const v8 zero = v8_set(0.0f);
    switch (t) {
    case DT_Q2_K:
        o->d = v8_load_f16(run);
        o->m = v8_load_f16(run + 16);
        break;
    case DT_Q3_K:
        o->d = v8_load_f16(run);
        o->m = v8_mul(o->d, v8_set(4.0f));
        break;
    case DT_Q4_K:
    case DT_Q5_K:
        o->d = v8_load_f16(run);
        o->m = v8_sub(zero, v8_load_f16(run + 16));
        break;
    case DT_TQ2_0:
        o->d = v8_load_f16(run);
        o->m = v8_sub(zero, o->d);
        break;
    case DT_IQ4_XS:
    case DT_Q6_K:
        o->d = v8_load_f16(run);
        o->m = zero;
        break;
    case DT_CODES:
        o->d = v8_load((const float *)(const void *)run);
        o->m = zero;
        break;
    default: // no head
        o->d = o->m = zero;
        break;
    }
}

// Scales of the types with a head.
LEAF_INLINE void leaf_unpack_k(int t, const struct leaf_head *head, const uint8_t *p,
                               struct leaf_block *o)
{
    o->d = head->d;
    o->m = head->m;
    switch (t) {
    case DT_Q2_K:
        o->sc = k6_low(p);
        o->mn = k6_high(p);
        break;
    case DT_Q3_K:
        o->sc = o->mn = k6_scales(p);
        break;
    case DT_Q4_K:
    case DT_Q5_K:
        o->d = v8_mul(head->d, v8_load_u8(p));
        o->m = v8_mul(head->m, v8_load_u8(p + 8));
        o->z = v8_fma(v8_set(16.0f), o->d, o->m);
        break;
    case DT_IQ4_XS:
        o->d = v8_mul(head->d, v8_load_s8(p));
        break;
    case DT_TQ2_0:
        break;
    default: // DT_Q6_K, DT_CODES
        o->sc = k6_scales(p);
        break;
    }
}

// The block at p.
LEAF_INLINE void leaf_unpack(int t, const struct leaf_head *head, const uint8_t *p,
                             struct leaf_block *o)
{
    const v8 zero = v8_set(0.0f);
    switch (t) {
    case DT_Q4_0:
        o->d = v8_load_f16(p);
        o->m = v8_mul(o->d, v8_set(-8.0f));
        break;
    case DT_Q5_0:
        o->d = v8_load_f16(p);
        o->m = v8_mul(o->d, v8_set(-16.0f));
        break;
    case DT_Q4_1:
    case DT_Q5_1:
        o->d = v8_load_f16(p);
        o->m = v8_load_f16(p + 16);
        o->z = v8_fma(v8_set(16.0f), o->d, o->m);
        break;
    case DT_Q8_0:
    case DT_IQ4_NL:
        o->d = v8_load_f16(p);
        o->m = zero;
        break;
    case DT_MXFP4:
        o->d = v8_load_e8(p);
        break;
    case DT_NVFP4:
        o->d = v8_mul(v8_load_f8(p), v8_set(128.0f));
        o->d2 = v8_mul(v8_load_f8(p + 8), v8_set(128.0f));
        break;
    case DT_INT4:
        o->d = v8_load_f16(p);
        o->m = v8_mul(v8_sub(zero, o->d), v8_load_u8(p + 16));
        break;
    case DT_INT8:
        o->d = v8_load((const float *)(const void *)p);
        o->z = v8_load_s16(p + 32);
        o->m = v8_mul(v8_sub(zero, o->d), o->z);
        break;
    default:
        leaf_unpack_k(t, head, p, o);
        break;
    }
    const struct packed_info pi = packed_info(t);
    leaf_unpack_bits(t, p + pi.block - 32 * pi.bits, o->w);
}

// The block at p, of the run that begins at `run`.
LEAF_INLINE void leaf_unpack_block(int t, const uint8_t *run, const uint8_t *p,
                                   struct leaf_block *o)
{
    struct leaf_head head;
    leaf_unpack_head(t, run, &head);
    leaf_unpack(t, &head, p, o);
}

LEAF_INLINE float leaf_float_at(const uint8_t *p, int32_t i)
{
    float f;
    __builtin_memcpy(&f, p + 4 * i, 4);
    return f;
}

LEAF_INLINE int32_t leaf_pair_at(const uint8_t *p, int32_t i)
{
    int32_t v;
    __builtin_memcpy(&v, p + 4 * i, 4);
    return v;
}

// acc of row t after one more block whose sums are a (and b); xb: this block of the x tile of n
// rows.
LEAF_INLINE v8 leaf_block_add(int ty, const struct leaf_block *w, v8i a, v8i b, const uint8_t *xb,
                              int32_t n, int32_t t, v8 acc)
{
    const v8 dx = v8_set(leaf_float_at(xb + XQ_SCALE * n, t));
    acc = v8_fma(v8_of_int(a), v8_mul(w->d, dx), acc);
    if (leaf_dot_of(ty) == DOT_HALVES) return v8_fma(v8_of_int(b), v8_mul(w->d2, dx), acc);
    if (leaf_dot_of(ty) == DOT_K3)
        return v8_fma(v8_of_int(k6_sums(w->mn, leaf_pair_at(xb + XQ_HALVES * n, t))),
                      v8_mul(w->m, dx), acc);
    if (!leaf_has_offset(ty)) return acc;
    return v8_fma(leaf_dot_of(ty) == DOT_U5 ? w->z : w->m,
                  v8_set(leaf_float_at(xb + XQ_SUM * n, t)), acc);
}

LEAF_INLINE v8 leaf_block_dot(int ty, const struct leaf_block *w, const uint8_t *xb, int32_t n,
                              int32_t t, v8 acc)
{
    const int8_t *x = (const int8_t *)xb + 32 * t;
    const int32_t sums = leaf_pair_at(xb + XQ_HALVES * n, t);
    v8i i[2];
    switch (leaf_dot_of(ty)) {
    case DOT_U4:
        i[0] = dot_u4(w->w, x);
        break;
    case DOT_M4:
        i[0] = v8i_add_sums(dot_u4(w->w, x), sums, 8, 8);
        break;
    case DOT_U5:
        i[0] = v8i_add_sums(dot_u5(w->w, x), sums, 16, 16);
        break;
    case DOT_E2M1:
        i[0] = v8i_add_sums(dot_u5(w->w, x), sums, 12, 12);
        break;
    case DOT_S8:
        i[0] = dot_s8(w->w, x);
        break;
    case DOT_HALVES:
        dot_halves(w->w, x, i);
        return leaf_block_add(ty, w, v8i_add_sums(i[0], sums, 12, 0),
                              v8i_add_sums(i[1], sums, 0, 12), xb, n, t, acc);
    case DOT_K3:
        i[0] = dot_k3(w->w, w->sc, x);
        break;
    case DOT_K6:
        i[0] = dot_k6(w->w, w->sc, x, sums);
        break;
    default: // DOT_K8
        i[0] = dot_k8(w->w, w->sc, x);
        break;
    }
    return leaf_block_add(ty, w, i[0], i[0], xb, n, t, acc);
}

#if defined(VEC_QUAD)
// Two panels are worked on together: fewer loads for each product. Measured: no gain for DOT_K8,
// where the multiplier is the limit.
static inline bool leaf_has_quad(int ty)
{
    return leaf_dot_of(ty) != DOT_K8;
}

// acc (4, 2, 8) of rows t to t + 3 after one more block of two panels; q: the same two.
LEAF_INLINE void leaf_quad(int ty, const struct leaf_block w[2], const struct quad_panel q[2],
                           const uint8_t *xb, int32_t n, int32_t t, float *acc)
{
    const int8_t *x = (const int8_t *)xb + 32 * t;
    const uint8_t *p = xb + XQ_PAIRS * n + 4 * t, *p0 = xb + XQ_PAIRS_0 * n + 4 * t,
                  *p1 = xb + XQ_PAIRS_1 * n + 4 * t;
    v8i dot[2][8];
    const v8i *second = dot[0];
    switch (leaf_dot_of(ty)) {
    case DOT_U4:
        dot_quad_u4(q, x, p, dot[0]);
        break;
    case DOT_M4:
        dot_quad_middle(q, x, p, 8, dot[0]);
        break;
    case DOT_S8:
        dot_quad_s8(q, x, p, dot[0]);
        break;
    case DOT_HALVES:
        dot_quad_half(q, x, 0, p0, 12, dot[0]);
        dot_quad_half(q, x, 4, p1, 12, dot[1]);
        second = dot[1];
        break;
    case DOT_K3:
        dot_quad_k3(q, &w[0].sc, &w[1].sc, x, p0, p1, dot[0]);
        break;
    case DOT_K6:
        dot_quad_k6(q, &w[0].sc, &w[1].sc, x, p0, p1, dot[0]);
        break;
    default: // DOT_U5, DOT_E2M1
        dot_quad_middle(q, x, p, leaf_dot_of(ty) == DOT_U5 ? 16 : 12, dot[0]);
        break;
    }
    LEAF_UNROLL(4)
    for (int i = 0; i < 8; i += 2) { // both before a store: what they share is loaded once
        v8 a = v8_load(acc + 8 * i), b = v8_load(acc + 8 * i + 8);
        a = leaf_block_add(ty, &w[0], dot[0][i], second[i], xb, n, t + i / 2, a);
        b = leaf_block_add(ty, &w[1], dot[0][i + 1], second[i + 1], xb, n, t + i / 2, b);
        v8_store(acc + 8 * i, a);
        v8_store(acc + 8 * i + 8, b);
    }
}
#endif

// Values of columns 4 * j + i of the 8 rows. Each is what the type's definition gives, rounded
// once: products of a scale and a code are exact but for INT8 and FP8.
LEAF_INLINE v8 leaf_value(int t, const struct leaf_block *w, int j, int i)
{
    const v8 d_half = j < 4 ? w->d : w->d2;
    switch (leaf_dot_of(t)) {
    case DOT_S8:
        if (t == DT_INT8) return v8_mul(v8_sub(q32_column_s8(w->w[j], i), w->z), w->d);
        return v8_mul(q32_column_s8(w->w[j], i), w->d);
    case DOT_E2M1:
        return v8_mul(v8_sub(q32_column_u8(w->w[j], i), v8_set(12.0f)), w->d);
    case DOT_HALVES:
        return v8_mul(v8_sub(q32_column_u8(w->w[j], i), v8_set(12.0f)), d_half);
    case DOT_K8:
        return v8_mul(q32_column_s8(w->w[j], i), v8_mul(w->d, k6_scale_of(w->sc, j / 4)));
    case DOT_K3: {
        v8 m = v8_mul(v8_sub(v8_set(0.0f), w->m), k6_scale_of(w->mn, j / 4));
        return v8_fma(q32_column_u8(w->w[j], i), v8_mul(w->d, k6_scale_of(w->sc, j / 4)), m);
    }
    case DOT_K6: {
        v8 d = v8_mul(w->d, k6_scale_of(w->sc, j / 4));
        return v8_fma(q32_column_u8(w->w[j], i), d, v8_mul(d, v8_set(-32.0f)));
    }
    default:
        return v8_fma(q32_column_u8(w->w[j], i), w->d, w->m);
    }
}

LEAF_INLINE void leaf_block_values(int t, const uint8_t *run, const uint8_t *p, float *out)
{
    struct leaf_block blk;
    leaf_unpack_block(t, run, p, &blk);
    LEAF_UNROLL(8)
    for (int j = 0; j < 8; j++) {
        LEAF_UNROLL(4)
        for (int i = 0; i < 4; i++)
            v8_store(out + 8 * (4 * j + i), leaf_value(t, &blk, j, i));
    }
}

LEAF_INLINE v8 leaf_load_column(int t, const uint8_t *p)
{
    return t == DT_F32   ? v8_load((const float *)(const void *)p)
           : t == DT_F16 ? v8_load_f16(p)
                         : v8_load_bf16(p);
}

// Of an FP8 block, for v8_load_f8.
LEAF_INLINE v8 leaf_f8_scale(const uint8_t *p)
{
    return v8_mul(v8_load((const float *)(const void *)p), v8_set(256.0f));
}

// Values of block b of a panel, (32, 8): column by column. The last block of columns may have
// fewer of them. `decoded` holds the run of a PACKED_FILE type: blocks of a panel are asked for in
// ascending order, from the first.
static void leaf_values(enum dtype t, const uint8_t *panel, int32_t b, int32_t n_col,
                        uint8_t *decoded, float *out)
{
    const struct packed_info pi = packed_info((int)t);
    const uint8_t *run = panel + packed_run_at((int)t, b), *p = panel + packed_block_at((int)t, b);
    switch (t) {
#define LEAF_COLUMNS(T)                                                                            \
    case T:                                                                                        \
        for (int32_t c = 0; c < n_col; c++)                                                        \
            v8_store(out + 8 * c,                                                                  \
                     leaf_load_column(T, panel + ((int64_t)b * BLOCK_COLS + c) * pi.block));       \
        break;
        PACKED_EACH_COLUMNS(LEAF_COLUMNS)
#define LEAF_VALUES(T)                                                                             \
    case T:                                                                                        \
        leaf_block_values(T, run, p, out);                                                         \
        break;
        PACKED_EACH_BLOCKS(LEAF_VALUES)
    case DT_FP8: {
        v8 d = leaf_f8_scale(p);
        for (int32_t c = 0; c < BLOCK_COLS; c++)
            v8_store(out + 8 * c, v8_mul(v8_load_f8(p + 32 + 8 * c), d));
        break;
    }
    default:
        BUG_ON(pi.kind != PACKED_FILE);
        if (b % RUN_BLOCKS == 0) quant_decode(t, run, decoded);
        leaf_block_values(DT_CODES, decoded, decoded + CODES_HEAD + b % RUN_BLOCKS * CODES_BLOCK,
                          out);
        break;
    }
}
