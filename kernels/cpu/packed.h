// packed: how weights lie in memory after weight_pack. The same for every instruction set, so a
// dot product can have the same bits everywhere.
//
// A weight is a row of panels, a panel is 8 rows (the last one padded with zero rows). Within a
// panel come the blocks of 32 columns, one after the other, and in a block the 8 rows lie side by
// side: lanes are rows, so a product needs no horizontal sum. The 256 quantised values of a block
// are 8 vectors w[0..7] of 32 bytes: byte 4*row + i of w[j] belongs to column 4*j + i. Stored are
//     q2  2 x 32 bytes: bits 2c, 2c+1 of vector g are bits 0, 1 of w[4*g + c]
//     q   4 x 32 bytes: low nibbles of vector l are those of w[l], high nibbles of w[l + 4]
//     h3  1 x 32 bytes: bit j is bit 2 of w[j]
//     h5  1 x 32 bytes: bit j is bit 4 of w[j]
//     h6  2 x 32 bytes: bits 2c, 2c+1 of vector g are bits 4, 5 of w[4*g + c]
//     q8  8 x 32 bytes: w[j] itself, signed
// Block by type (d, m: 8 halves each, one per row; value = d * w + m unless said otherwise):
//     Q4_0    d q          m = -8 d          Q4_1  d m q
//     Q5_0    d h5 q       m = -16 d         Q5_1  d m h5 q
//     Q8_0    d q8         m = 0
//     IQ4_NL  d q          value = d * iq4(w)
//     MXFP4   e[8] q       value = 2^(e-128) * (w - 12), the codes 0..15 made into 0..24 by e2m1
//     NVFP4   e[2][8] q    value = e4m3(e[column / 16]) / 2 * (w - 12), likewise
//     INT4    d z[8] q     value = d * (w - z)
//     INT8    d z q8       value = d * (w - z), d floats, z int16
//     FP8     d f[32][8]   value = d * e4m3(f[column][row]), d floats; NaN for a row whose block
//                          has a NaN, so that no step looks for them
// K types begin each run of 8 blocks (256 columns) with a head, then 8 blocks:
//     Q2_K    head d dmin; block s[8][2] q2     value = d * sc[column / 16] * w - dmin * mn[same],
//                                               s is sc | mn << 4
//     Q3_K    head d; block sc[8][2] h3 q2      value = d * sc[column / 16] * (w - 4)
//     Q4_K    head d dmin; block sc[8] mn[8] q      value = d * sc * w - dmin * mn
//     Q5_K    head d dmin; block sc[8] mn[8] h5 q   the same
//     Q6_K    head d; block sc[8][2] h6 q           value = d * sc[column / 16] * (w - 32)
//     IQ4_XS  head d; block sc[8] q                 value = d * sc * iq4(w)
//     TQ2_0   head d; block q2                      value = d * (w - 1)
// The types whose values come from grids, and TQ1_0, stay as in the file but for the order of their
// blocks: the 8 rows' blocks of 256 columns, then the next 8. They are decoded (quant_grid.c) into
//     codes   head d, floats; block sc[8][2] q8     value = d * sc[column / 16] * w
// F32, F16, BF16: for each column 8 values, one per row.
#pragma once
#include "proto/base/dtype.h"

enum { PANEL_ROWS = 8, BLOCK_COLS = 32, RUN_BLOCKS = 8 };

enum packed_kind {
    PACKED_NONE,
    PACKED_COLUMNS,     // floats, any number of columns
    PACKED_FLOAT_CODES, // blocks that are multiplied in float in both precisions
    PACKED_BLOCKS,
    PACKED_FILE // blocks as in the file, to be decoded to DT_CODES
};

// What PACKED_FILE is decoded to; no tensor has it.
enum { DT_CODES = DT_COUNT };
enum { CODES_HEAD = 32, CODES_BLOCK = 272, CODES_BYTES = CODES_HEAD + RUN_BLOCKS * CODES_BLOCK };

struct packed_info {
    enum packed_kind kind;
    uint32_t run;   // blocks in a run
    uint32_t head;  // bytes before the blocks of a run
    uint32_t block; // bytes of a block; columns: of a column
    uint32_t bits;  // 2, 3, 4, 5, 6, 8 of a stored value
};

// The types that have a form of their own here, for switches over them.
// clang-format off
#define PACKED_EACH_BLOCKS(X)                                                                      \
    X(DT_Q4_0) X(DT_Q4_1) X(DT_Q5_0) X(DT_Q5_1) X(DT_Q8_0) X(DT_Q2_K) X(DT_Q3_K) X(DT_Q4_K)        \
    X(DT_Q5_K) X(DT_Q6_K) X(DT_IQ4_NL) X(DT_IQ4_XS) X(DT_TQ2_0) X(DT_MXFP4) X(DT_NVFP4)            \
    X(DT_INT4) X(DT_INT8)
// clang-format on
#define PACKED_EACH_COLUMNS(X) X(DT_F32) X(DT_F16) X(DT_BF16)

static inline struct packed_info packed_info(int t)
{
    switch (t) {
    case DT_F32:
        return (struct packed_info){PACKED_COLUMNS, 1, 0, 32, 0};
    case DT_F16:
    case DT_BF16:
        return (struct packed_info){PACKED_COLUMNS, 1, 0, 16, 0};
    case DT_Q4_0:
    case DT_IQ4_NL:
    case DT_NVFP4:
        return (struct packed_info){PACKED_BLOCKS, 1, 0, 144, 4};
    case DT_Q4_1:
        return (struct packed_info){PACKED_BLOCKS, 1, 0, 160, 4};
    case DT_Q5_0:
        return (struct packed_info){PACKED_BLOCKS, 1, 0, 176, 5};
    case DT_Q5_1:
        return (struct packed_info){PACKED_BLOCKS, 1, 0, 192, 5};
    case DT_Q8_0:
        return (struct packed_info){PACKED_BLOCKS, 1, 0, 272, 8};
    case DT_MXFP4:
        return (struct packed_info){PACKED_BLOCKS, 1, 0, 136, 4};
    case DT_INT4:
        return (struct packed_info){PACKED_BLOCKS, 1, 0, 152, 4};
    case DT_INT8:
        return (struct packed_info){PACKED_BLOCKS, 1, 0, 304, 8};
    case DT_FP8:
        return (struct packed_info){PACKED_FLOAT_CODES, 1, 0, 288, 8};
    case DT_Q2_K:
        return (struct packed_info){PACKED_BLOCKS, RUN_BLOCKS, 32, 80, 2};
    case DT_Q3_K:
        return (struct packed_info){PACKED_BLOCKS, RUN_BLOCKS, 16, 112, 3};
    case DT_Q4_K:
        return (struct packed_info){PACKED_BLOCKS, RUN_BLOCKS, 32, 144, 4};
    case DT_Q5_K:
        return (struct packed_info){PACKED_BLOCKS, RUN_BLOCKS, 32, 176, 5};
    case DT_Q6_K:
        return (struct packed_info){PACKED_BLOCKS, RUN_BLOCKS, 16, 208, 6};
    case DT_IQ4_XS:
        return (struct packed_info){PACKED_BLOCKS, RUN_BLOCKS, 16, 136, 4};
    case DT_TQ2_0:
        return (struct packed_info){PACKED_BLOCKS, RUN_BLOCKS, 16, 64, 2};
    case DT_IQ2_XXS:
    case DT_IQ2_XS:
    case DT_IQ2_S:
    case DT_IQ3_XXS:
    case DT_IQ3_S:
    case DT_IQ1_S:
    case DT_IQ1_M:
    case DT_TQ1_0: {
        const uint32_t bytes = PANEL_ROWS * dtype_info((enum dtype)t)->bytes;
        return (struct packed_info){PACKED_FILE, RUN_BLOCKS, bytes, 0, 8};
    }
    case DT_CODES:
        return (struct packed_info){PACKED_BLOCKS, RUN_BLOCKS, CODES_HEAD, CODES_BLOCK, 8};
    default:
        return (struct packed_info){0};
    }
}

// Bytes of one panel. cols is a multiple of the type's block.
static inline int64_t packed_panel_bytes(enum dtype t, int64_t cols)
{
    struct packed_info p = packed_info((int)t);
    if (p.kind == PACKED_COLUMNS) return cols * p.block;
    int64_t n = cols / BLOCK_COLS;
    return n / p.run * (p.head + (int64_t)p.run * p.block);
}

// Where the run of block b begins in a panel, and block b itself.
static inline int64_t packed_run_at(int t, int32_t b)
{
    struct packed_info p = packed_info(t);
    return (int64_t)(b / (int32_t)p.run) * (p.head + p.run * p.block);
}

static inline int64_t packed_block_at(int t, int32_t b)
{
    struct packed_info p = packed_info(t);
    return packed_run_at(t, b) + p.head + (uint32_t)b % p.run * p.block;
}

// Makes the tables of quant_decode; any number of times, on any thread.
void quant_grid_open(void);
// Decodes one run (256 columns of 8 rows) of a PACKED_FILE type into the form `codes`, exactly.
void quant_decode(enum dtype t, const uint8_t *run, uint8_t out[CODES_BYTES]);
