// leaf: the inner loops. Each instruction set has one table of them, made from the same bodies
// (leaf_gemm.h, leaf_attn.h, leaf_elem.h) over its own vector operations (vec.h). A leaf works on
// one thread's share; gemm.c, attn.c, ... cut operations into shares.
#pragma once
#include "kernels/kernels.h"
#include "kernels/cpu/packed.h"

enum {
    TILE_TOK = 64,    // rows of x that a gemm share keeps at hand
    GEMM_PANELS = 16, // panels that a share of several rows has at most
    // Quantised x: for each tile of T rows, for each block of 32 columns: int8 q[T][32], float d[T]
    // (scale), float s[T] (d * sum of q), then negated sums of q, int16 of each: n[T][2] of the
    // halves; p[T][2] of the columns 4j and 4j + 1, and of 4j + 2 and 4j + 3, times XQ_TIMES;
    // p0[T][2], p1[T][2] the same of each half, times XQ_TIMES_HALF: what most types multiply them
    // with, and no more than 16 bits hold. A part begins at T times its number.
    XQ_SCALE = 32,
    XQ_SUM = 36,
    XQ_HALVES = 40,
    XQ_PAIRS = 44,
    XQ_PAIRS_0 = 48,
    XQ_PAIRS_1 = 52,
    XQ_BYTES = 56,
    XQ_TIMES = 16,
    XQ_TIMES_HALF = 32,

    SEG_TOK = 256,  // softmax is merged per segment of so many absolute positions
    ATTN_ROWS = 16, // queries that share a pass over keys
};

// y[0..n_tok) for panels [panel_from, panel_to) of one weight.
struct leaf_gemm {
    enum dtype dtype;
    const uint8_t *w; // of the whole weight
    int64_t panel_bytes;
    int32_t cols, rows;
    int32_t panel_from, panel_to;
    int32_t n_tok;      // of this tile, at most TILE_TOK
    const uint8_t *xq;  // the quantised tile (fast)
    const float *x;     // rows of cols elements, row stride ldx (float)
    int64_t ldx;        // floats
    const int32_t *row; // (n_tok) rows of x, or NULL: the first n_tok (float)
    float factor;       // of the sum, before the bias
    const float *bias;  // (rows) or NULL
    float *y;           // row 0 of the tile, column 0
    int64_t ldy;
    bool add;       // to what y holds
    float *scratch; // LEAF_GEMM_FLOATS, aligned to 32 bytes
};
// Sums of the panels, values of a block of two, a decoded run of two.
enum {
    LEAF_GEMM_SUMS = TILE_TOK * GEMM_PANELS * PANEL_ROWS,
    LEAF_GEMM_VALUES = 2 * BLOCK_COLS * PANEL_ROWS,
    LEAF_GEMM_FLOATS = LEAF_GEMM_SUMS + LEAF_GEMM_VALUES + 2 * CODES_BYTES / 4
};

// Up to ATTN_ROWS queries against the keys of one segment. Row r sees positions [lo[r], hi[r]) of
// the segment, counted from its beginning; empty ranges are allowed. Neither lo nor hi ever falls
// from row to row. How keys and values lie in a page: attn.c.
struct leaf_attn {
    enum dtype kv_dtype;
    int32_t head_dim, head_dim_v, v_stride; // elements
    bool v_in_k; // values are the first head_dim_v elements of the keys, and v is not read
    int32_t n_row;
    const float *q[ATTN_ROWS]; // (head_dim)
    int32_t lo[ATTN_ROWS], hi[ATTN_ROWS];
    const void *k[SEG_TOK / 16]; // keys of 16 positions: two groups
    const void *v[SEG_TOK / 16]; // values of 16 positions
    float scale, softcap;
    // Running softmax of each row: maximum, sum, unnormalised output (v_stride).
    float *m[ATTN_ROWS], *l[ATTN_ROWS], *o[ATTN_ROWS];
    float *scratch; // LEAF_ATTN_FLOATS of v_stride
};
// Scores and outputs of all rows, and LEAF_MIX elements of the values of a segment.
#define LEAF_ATTN_FLOATS(v_stride)                                                                 \
    (ATTN_ROWS * (SEG_TOK + (size_t)(v_stride)) + (size_t)LEAF_MIX * SEG_TOK)
enum { LEAF_MIX = 2 };

// Bytes of a group of keys, and of one position's values.
static inline int64_t leaf_group_bytes(enum dtype t, int32_t head_dim)
{
    if (t == DT_Q8_0) return 8 * ((head_dim + BLOCK_COLS - 1) / BLOCK_COLS * 4 + head_dim);
    if (t == DT_F8_E4M3) return 8 * (4 + head_dim);
    return (int64_t)8 * head_dim * (t == DT_F32 ? 4 : 2);
}
static inline int64_t leaf_value_bytes(enum dtype t, int32_t v_stride)
{
    if (t == DT_Q8_0) return (v_stride + BLOCK_COLS - 1) / BLOCK_COLS * 4 + v_stride;
    if (t == DT_F8_E4M3) return 4 + v_stride;
    return (int64_t)v_stride * (t == DT_F32 ? 4 : 2);
}

// A block of neighbouring channels of a run of the convolution; n at most LEAF_CONV.
struct leaf_conv {
    const float *x;    // (n_tok, ld)
    const float *w;    // (n, n_tap)
    const float *bias; // (n) or NULL
    float *state;      // (n_tap - 1, ld)
    float *out;        // (n_tok, ld)
    int64_t ld;
    int32_t n, n_tap, n_tok;
};
enum { LEAF_CONV = 64, CONV_TAPS_MAX = 8 };

// A block of neighbouring columns of one value head's state, over a run; n at most LEAF_DELTA.
struct leaf_delta {
    const float *q, *k; // (n_tok, dim_k), row stride ld
    const float *v;     // (n_tok, n), row stride ld
    const float *a, *b; // (n_tok), stride ld_ab
    float a_neg, dt_bias;
    float *state; // (dim_k, n), row stride ld_state
    float *out;   // (n_tok, n), row stride ld_out
    int64_t ld, ld_ab, ld_state, ld_out;
    int32_t dim_k, n, n_tok;
    float *scratch; // LEAF_DELTA_FLOATS
};
enum { LEAF_DELTA = 32, DELTA_K_MAX = 4096, LEAF_DELTA_FLOATS = 8 * DELTA_K_MAX };

struct leaf_isa {
    const char *name;
    // Quantises one row of x into row t of a tile of n_tok rows, and what is missing then into row
    // t of the tile `rest` unless that is NULL.
    void (*quantise)(const float *x, int32_t cols, uint8_t *tile, uint8_t *rest, int32_t n_tok,
                     int32_t t);
    void (*gemm_fast)(const struct leaf_gemm *g);  // PACKED_BLOCKS and PACKED_FILE, quantised x
    void (*gemm_float)(const struct leaf_gemm *g); // every type, float x
    // out[c] = value of column c of row `row`.
    void (*row)(enum dtype t, const uint8_t *w, int64_t panel_bytes, int64_t row, int32_t cols,
                float *out);
    void (*attn)(const struct leaf_attn *a);
    // Merges a partial softmax (m2, l2, o2[n]) into another; n is a multiple of 8.
    void (*attn_merge)(float *m, float *l, float *o, float m2, float l2, const float *o2,
                       int32_t n);
    // One token's key and value of one head into a page: the key into lane `lane` of a group.
    void (*k_put)(enum dtype t, const float *key, int32_t head_dim, void *group, int32_t lane);
    void (*v_put)(enum dtype t, const float *value, int32_t head_dim, void *v);
    void (*rms_norm)(const float *x, const float *w, int32_t dim, float eps, float *y);
    void (*rope)(const struct rope *r, const float *cos_sin, int32_t n_head, int32_t head_dim,
                 float *x);
    void (*conv)(const struct leaf_conv *c);
    void (*delta)(const struct leaf_delta *d);
    void (*softmax)(const float *x, int64_t n, float *out);
    void (*sigmoid)(const float *x, int64_t n, float *out);
    // out[c] = sum over j, ascending, of weights[j] * y[at[j] * ld + c], c < n
    void (*combine)(const float *y, int64_t ld, const int32_t *at, const float *weights,
                    int32_t n_used, int64_t n, float *out);
    void (*glu)(const struct glu *kind, const float *gate, const float *up, int64_t n, float *out);
    void (*gate)(float *x, const float *gate, int64_t n); // x *= sigmoid(gate)
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
extern const struct leaf_isa leaf_avx2, leaf_vnni;
#endif
#if defined(__aarch64__)
extern const struct leaf_isa leaf_neon, leaf_dotprod, leaf_i8mm;
#endif
