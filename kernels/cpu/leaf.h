// leaf: the inner loops. Each instruction set has one table of them, made from the same bodies
// (leaf_gemm.h, leaf_attn.h, leaf_elem.h) over its own vector operations (vec.h). A leaf works on
// one thread's share; gemm.c, attn.c, ... cut operations into shares.
#pragma once
#include "kernels/kernels.h"
#include "kernels/cpu/packed.h"

enum {
    TILE_TOK = 64, // rows of x that a gemm share keeps at hand
    // Quantised x: for each tile of T rows, for each block of 32 columns: int8 q[T][32], float d[T]
    // (scale), float s[T] (d * sum of q), int16 n[T][2] (negated sums of the halves).
    XQ_BYTES = 32 + 4 + 4 + 4,

    SEG_TOK = 256, // softmax is merged per segment of so many absolute positions
    ATTN_ROWS = 4, // queries that share a pass over keys
};

// y[0..n_tok) for panels [panel_from, panel_to) of one weight.
struct leaf_gemm {
    enum dtype dtype;
    const uint8_t *w; // of the whole weight
    int64_t panel_bytes;
    int32_t cols, rows;
    int32_t panel_from, panel_to;
    int32_t n_tok;     // of this tile, at most TILE_TOK
    const uint8_t *xq; // the quantised tile (fast)
    const float *x;    // (n_tok, cols) (float)
    const float *bias; // (rows) or NULL
    float *y;          // row 0 of the tile, column 0
    int64_t ldy;
    float *scratch; // LEAF_GEMM_FLOATS
};
enum { LEAF_GEMM_FLOATS = TILE_TOK * 2 * PANEL_ROWS + 2 * BLOCK_COLS * PANEL_ROWS };

// Up to ATTN_ROWS queries against the keys of one segment. Row r sees positions [lo[r], hi[r]) of
// the segment, counted from its beginning; empty ranges are allowed.
struct leaf_attn {
    enum dtype kv_dtype;
    int32_t head_dim, v_stride; // elements
    int32_t n_row;
    const float *q[ATTN_ROWS]; // (head_dim)
    int32_t lo[ATTN_ROWS], hi[ATTN_ROWS];
    const void *k[SEG_TOK / 16]; // keys of 16 positions: two groups (head_dim, 8)
    const void *v[SEG_TOK / 16]; // values of 16 positions: (16, v_stride)
    float scale, softcap;
    // Running softmax of each row: maximum, sum, unnormalised output (v_stride).
    float *m[ATTN_ROWS], *l[ATTN_ROWS], *o[ATTN_ROWS];
    float *scratch; // ATTN_ROWS * (SEG_TOK + v_stride) floats
};

struct leaf_isa {
    const char *name;
    // Quantises one row of x into row t of a tile of n_tok rows.
    void (*quantise)(const float *x, int32_t cols, uint8_t *tile, int32_t n_tok, int32_t t);
    void (*gemm_fast)(const struct leaf_gemm *g);  // quantised types, quantised x
    void (*gemm_float)(const struct leaf_gemm *g); // every type, float x
    // out[c] = value of column c of row `row`.
    void (*row)(enum dtype t, const uint8_t *w, int64_t panel_bytes, int64_t row, int32_t cols,
                float *out);
    void (*attn)(const struct leaf_attn *a);
    // Merges a partial softmax (m2, l2, o2[n]) into another; n is a multiple of 8.
    void (*attn_merge)(float *m, float *l, float *o, float m2, float l2, const float *o2,
                       int32_t n);
    // One token's K and V of one head into a page: see attn.c for the layout.
    void (*kv_put)(enum dtype t, const float *key, const float *value, int32_t head_dim, void *k,
                   void *v);
    void (*rms_norm)(const float *x, const float *w, int32_t dim, float eps, float *y);
    void (*rope)(const struct rope *r, const float *cos_sin, int32_t n_head, int32_t head_dim,
                 float *x);
    void (*glu)(enum glu_kind kind, const float *gate, const float *up, int64_t n, float *out);
    void (*add)(float *x, const float *y, int64_t n);
    void (*scale)(float *x, float s, int64_t n);
    void (*softcap)(float *x, float cap, int64_t n);
    float (*max)(const float *x, int64_t n);                 // -inf if all are NaN
    double (*sum_exp)(const float *x, float max, int64_t n); // of e^(x - max)
    // Peaks: runs about n multiply-adds of each kind; the result only keeps the work alive.
    float (*spin_f32)(int64_t n);
    int32_t (*spin_int8)(int64_t n);
    uint64_t (*read)(const void *p, int64_t bytes); // in four streams; bytes % 256 == 0
};

extern const struct leaf_isa leaf_reference;
#if defined(__x86_64__)
extern const struct leaf_isa leaf_avx2;
#endif
#if defined(__aarch64__)
extern const struct leaf_isa leaf_neon;
#endif
