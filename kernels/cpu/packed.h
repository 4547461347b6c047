// packed: how weights lie in memory after weight_pack. The same for every instruction set, so a
// dot product can have the same bits everywhere.
//
// A weight is a row of panels, a panel is 8 rows (the last one padded with zero rows). Within a
// panel come the blocks of 32 columns, one after the other, and in a block the 8 rows lie side by
// side: lanes are rows, so a product needs no horizontal sum. The 256 quantised values of a block
// are 8 vectors w[0..7] of 32 bytes: byte 4*row + i of w[j] belongs to column 4*j + i. Stored are
//     q   4 x 32 bytes: low nibbles of vector l are those of w[l], high nibbles of w[l + 4]
//     h5  1 x 32 bytes: bit j is bit 4 of w[j]
//     h6  2 x 32 bytes: bits 2c, 2c+1 of vector g are bits 4, 5 of w[4*g + c]
//     q8  8 x 32 bytes: w[j] itself, signed
// Block by type (d, m: 8 halves each, one per row; value = d * w + m unless said otherwise):
//     Q4_0  d q        m = -8 d          Q4_1  d m q
//     Q5_0  d h5 q     m = -16 d         Q5_1  d m h5 q
//     Q8_0  d q8       m = 0
// K types begin each run of 8 blocks (256 columns) with a head, then 8 blocks:
//     Q4_K  head d dmin; block sc[8] mn[8] q      value = d * sc * w - dmin * mn
//     Q5_K  head d dmin; block sc[8] mn[8] h5 q   the same
//     Q6_K  head d; block sc[8][2] h6 q           value = d * sc[column / 16] * (w - 32)
// F32, F16, BF16: for each column 8 values, one per row.
#pragma once
#include "proto/base/dtype.h"

enum { PANEL_ROWS = 8, BLOCK_COLS = 32 };

struct packed_info {
    bool is_supported, is_float;
    uint32_t run;   // blocks in a run (float types: unused)
    uint32_t head;  // bytes before the blocks of a run
    uint32_t block; // bytes of a block; float types: of a column
    uint32_t bits;  // 4, 5, 6, 8 of a quantised value
};

static inline struct packed_info packed_info(enum dtype t)
{
    switch (t) {
    case DT_F32:
        return (struct packed_info){true, true, 0, 0, 32, 0};
    case DT_F16:
        return (struct packed_info){true, true, 0, 0, 16, 0};
    case DT_BF16:
        return (struct packed_info){true, true, 0, 0, 16, 0};
    case DT_Q4_0:
        return (struct packed_info){true, false, 1, 0, 144, 4};
    case DT_Q4_1:
        return (struct packed_info){true, false, 1, 0, 160, 4};
    case DT_Q5_0:
        return (struct packed_info){true, false, 1, 0, 176, 5};
    case DT_Q5_1:
        return (struct packed_info){true, false, 1, 0, 192, 5};
    case DT_Q8_0:
        return (struct packed_info){true, false, 1, 0, 272, 8};
    case DT_Q4_K:
        return (struct packed_info){true, false, 8, 32, 144, 4};
    case DT_Q5_K:
        return (struct packed_info){true, false, 8, 32, 176, 5};
    case DT_Q6_K:
        return (struct packed_info){true, false, 8, 16, 208, 6};
    default:
        return (struct packed_info){0};
    }
}

// Bytes of one panel. cols is a multiple of the type's block.
static inline int64_t packed_panel_bytes(enum dtype t, int64_t cols)
{
    struct packed_info p = packed_info(t);
    if (p.is_float) return cols * p.block;
    int64_t n = cols / BLOCK_COLS;
    return n / p.run * (p.head + (int64_t)p.run * p.block);
}

// Where the run of block b begins in a panel, and block b itself.
static inline int64_t packed_run_at(enum dtype t, int32_t b)
{
    struct packed_info p = packed_info(t);
    return (int64_t)(b / (int32_t)p.run) * (p.head + p.run * p.block);
}

static inline int64_t packed_block_at(enum dtype t, int32_t b)
{
    struct packed_info p = packed_info(t);
    return packed_run_at(t, b) + p.head + (uint32_t)b % p.run * p.block;
}
