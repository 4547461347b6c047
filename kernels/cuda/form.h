// form: how weights lie on the device, and how a warp reads them. One form of a type serves the
// product with one row, the matrix units and the expansion to bf16.
//
// A weight is a row of tiles of 16 rows (the last one padded with zero rows). Along a tile lie
// chunks of 256 columns; a chunk is a head (scales, and planes of single bits) and up to 4 units of
// 64 columns, as many as there are columns (the last one padded). Of a unit, lane 4 g + t of a warp
// has the columns 16 s + 4 t + {0, 1, 2, 3}, s = 0..3, of rows g and g + 8 (h = 0, 1): a group of
// four for each s and h. That is what mma.m16n8k16 wants of its first operand but for the order of
// the columns in a group of 16, which is the same on the other side; and each of a lane's loads is
// 16 bytes beside its neighbours' 16. Codes of a group, a byte each once unpacked:
//     code4   nibbles: word 2 h + s / 2 of a lane's 16 bytes for a unit, low ones for even s
//     code5   code4, and before the units 16 bytes for each lane: bit s + 4 h + 8 i of word u is
//             bit 4 of column i of the group
//     code6   code4, and before the units as in code2 the bits 4 and 5
//     code2   two units in 16 bytes of a lane: word 2 (u % 2) + h, bits 2 s + 8 i and one more are
//             column i (whole chunks only)
//     code3   code2, and bit 2 as the fifth bits of code5
//     code8   word s of 16 bytes for each h
//     code16  two words, columns 0, 2 and 1, 3; 16 bytes hold two groups
//     code32  four words
// The scales in a head lie as (g, h, block), so that the four lanes of a row read the same address;
// a block is 32 columns, of some types 16. value = d * (code - zero) + least, where
//     Q4_0 Q5_0 Q8_0 IQ4_NL  d half                   Q4_1 Q5_1   d, least halves
//     MXFP4    d 2^(e - 128) (codes are doubled)      NVFP4       d e4m3 / 2 of 16 columns,
//     likewise INT4     d half, zero u8                        INT8        d float, zero i16 FP8 d
//     float (NaN where a code was) Q4_K Q5_K  d dmin of a row; sc, mn u8: d sc, -dmin mn Q2_K d
//     dmin; sc | mn << 4 of 16 columns   Q3_K Q6_K   d; sc i8 of 16 columns IQ4_XS     d; sc i8
//     TQ2_0       d grids      d float; sc u8 of 16 columns; a code is one of at most 16 levels of
//     the type. The
//                points of the grids have no more levels, so that the types of 1 to 3 bits come to
//                4.6 bits here, exactly; TQ1_0 becomes TQ2_0.
// Types of 4 bits take 4.5 to 4.8 bits in memory, and are read once per product.
#pragma once
#include "kernels/cuda/simt.h"
#include "kernels/cuda/contract.h"

enum { TILE_ROWS = 16, CHUNK_COLS = 256, UNIT_COLS = 64, UNITS = 4 };

// The type whose form type t has, DT_NONE if t is no type of weights.
static inline enum dtype form_of(enum dtype t)
{
    switch (t) {
    case DT_IQ2_XXS:
    case DT_IQ2_XS:
    case DT_IQ2_S:
    case DT_IQ3_XXS:
    case DT_IQ3_S:
    case DT_IQ1_S:
    case DT_IQ1_M:
        return DT_IQ3_S;
    case DT_TQ1_0:
        return DT_TQ2_0;
    default:
        return dtype_is_weight(t) ? t : DT_NONE;
    }
}

// The types with a form of their own, for switches over them. Floats last.
// clang-format off
#define FORM_EACH_CODES(X)                                                                         \
    X(DT_Q4_0) X(DT_Q4_1) X(DT_Q5_0) X(DT_Q5_1) X(DT_Q8_0) X(DT_Q2_K) X(DT_Q3_K) X(DT_Q4_K)        \
    X(DT_Q5_K) X(DT_Q6_K) X(DT_IQ4_NL) X(DT_IQ4_XS) X(DT_TQ2_0) X(DT_IQ3_S) X(DT_MXFP4)            \
    X(DT_NVFP4) X(DT_INT4) X(DT_INT8) X(DT_FP8)
#define FORM_EACH_FAST(X) FORM_EACH_CODES(X) X(DT_BF16) X(DT_F16)
#define FORM_EACH(X) FORM_EACH_FAST(X) X(DT_F32)
// clang-format on

// Levels of the types whose codes are numbers of levels: 16 bytes, signed.
struct form_levels {
    uint32_t w[4];
};

// -- reading --

// Weights are read once: they need no room in the first cache, which holds the rows of x.
static __device__ __forceinline__ void form_load16(uint32_t *to, const uint8_t *from)
{
#ifdef __CUDACC__
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "l"(from));
#else
    const uint4 v = *(const uint4 *)from;
    to[0] = v.x;
    to[1] = v.y;
    to[2] = v.z;
    to[3] = v.w;
#endif
}

// n (1, 2 or a multiple of 4) words.
template <int n> static __device__ __forceinline__ void form_load(uint32_t *to, const uint8_t *from)
{
    if (n == 1) to[0] = __ldg((const uint32_t *)from);
    if (n == 2) {
        const uint2 v = __ldg((const uint2 *)from);
        to[0] = v.x;
        to[n - 1] = v.y;
    }
    SIMT_UNROLL
    for (int i = 0; i + 4 <= n; i += 4)
        form_load16(to + i, from + 4 * i);
}

static __device__ __forceinline__ float form_half(uint32_t word, int high)
{
    return __half2float(__ushort_as_half((unsigned short)(word >> 16 * high)));
}
static __device__ __forceinline__ uint32_t form_byte(uint32_t word, int i)
{
    return word >> 8 * i & 255;
}

// A warp's units of one chunk, each of `bytes` bytes and `words` words of a lane.
template <int bytes>
static __device__ __forceinline__ void form_units(uint32_t *q, const uint8_t *units, int lane,
                                                  int n_unit)
{
    SIMT_UNROLL
    for (int u = 0; u < UNITS; u++)
        SIMT_UNROLL
    for (int i = 0; i < bytes / 512; i++) {
        uint32_t *to = q + bytes / 128 * u + 4 * i;
        if (u < n_unit)
            form_load16(to, units + bytes * u + 512 * i + 16 * lane);
        else
            to[0] = to[1] = to[2] = to[3] = 0;
    }
}

// -- codes: words of a lane, bytes of its planes and of a unit; codes of a group --

struct code4 {
    static constexpr int WORDS = 16, PLANES = 0, UNIT = 512;
    static __device__ __forceinline__ void load(uint32_t *q, const uint8_t *, const uint8_t *units,
                                                int lane, int n_unit)
    {
        form_units<UNIT>(q, units, lane, n_unit);
    }
    static __device__ __forceinline__ uint32_t pair(const uint32_t *q, int u, int s, int h)
    {
        return q[4 * u + 2 * h + s / 2];
    }
    static __device__ __forceinline__ uint32_t codes(const uint32_t *q, int u, int s, int h)
    {
        return pair(q, u, s, h) >> s % 2 * 4 & 0x0f0f0f0f;
    }
};

static __device__ __forceinline__ uint32_t plane1(const uint32_t *q, int u, int s, int h)
{
    return q[u] >> (s + 4 * h) & 0x01010101;
}
static __device__ __forceinline__ uint32_t plane2(const uint32_t *q, int u, int s, int h)
{
    return q[2 * u + h] >> 2 * s & 0x03030303;
}

struct code5 : code4 {
    static constexpr int WORDS = 20, PLANES = 512;
    static __device__ __forceinline__ void load(uint32_t *q, const uint8_t *planes,
                                                const uint8_t *units, int lane, int n_unit)
    {
        code4::load(q, planes, units, lane, n_unit);
        form_load16(q + 16, planes + 16 * lane);
    }
    static __device__ __forceinline__ uint32_t codes(const uint32_t *q, int u, int s, int h)
    {
        return code4::codes(q, u, s, h) | plane1(q + 16, u, s, h) << 4;
    }
};

struct code6 : code4 {
    static constexpr int WORDS = 24, PLANES = 1024;
    static __device__ __forceinline__ void load(uint32_t *q, const uint8_t *planes,
                                                const uint8_t *units, int lane, int n_unit)
    {
        code4::load(q, planes, units, lane, n_unit);
        form_load16(q + 16, planes + 16 * lane);
        form_load16(q + 20, planes + 512 + 16 * lane);
    }
    static __device__ __forceinline__ uint32_t codes(const uint32_t *q, int u, int s, int h)
    {
        return code4::codes(q, u, s, h) | plane2(q + 16, u, s, h) << 4;
    }
};

struct code2 {
    static constexpr int WORDS = 8, PLANES = 0, UNIT = 256;
    static __device__ __forceinline__ void load(uint32_t *q, const uint8_t *, const uint8_t *units,
                                                int lane, int)
    {
        form_load16(q, units + 16 * lane);
        form_load16(q + 4, units + 512 + 16 * lane);
    }
    static __device__ __forceinline__ uint32_t codes(const uint32_t *q, int u, int s, int h)
    {
        return plane2(q, u, s, h);
    }
};

struct code3 : code2 {
    static constexpr int WORDS = 12, PLANES = 512;
    static __device__ __forceinline__ void load(uint32_t *q, const uint8_t *planes,
                                                const uint8_t *units, int lane, int n_unit)
    {
        code2::load(q, planes, units, lane, n_unit);
        form_load16(q + 8, planes + 16 * lane);
    }
    static __device__ __forceinline__ uint32_t codes(const uint32_t *q, int u, int s, int h)
    {
        return plane2(q, u, s, h) | plane1(q + 8, u, s, h) << 2;
    }
};

// Whole words; `of` counts words of a group.
template <int words> struct code_words {
    static constexpr int WORDS = 32 * words, PLANES = 0, UNIT = 1024 * words;
    static __device__ __forceinline__ void load(uint32_t *q, const uint8_t *, const uint8_t *units,
                                                int lane, int n_unit)
    {
        form_units<UNIT>(q, units, lane, n_unit);
    }
    static __device__ __forceinline__ uint32_t word(const uint32_t *q, int u, int s, int h, int i)
    {
        return q[(8 * u + 4 * h + s) * words + i];
    }
    static __device__ __forceinline__ uint32_t codes(const uint32_t *q, int u, int s, int h)
    {
        return word(q, u, s, h, 0);
    }
};

// -- scales: words of a lane, bytes in the head; of block b of row h --

struct scale_base {
    static constexpr int COLS = 32, HAS_LEAST = 0, HAS_ZERO = 0;
    static __device__ __forceinline__ float least(const uint32_t *, int, int)
    {
        return 0;
    }
    static __device__ __forceinline__ float zero(const uint32_t *, int, int)
    {
        return 0;
    }
};

struct scale_none : scale_base {
    static constexpr int WORDS = 1, BYTES = 0;
    static __device__ __forceinline__ void load(uint32_t *, const uint8_t *, int) {}
    static __device__ __forceinline__ float d(const uint32_t *, int, int)
    {
        return 1;
    }
};

struct scale_half : scale_base {
    static constexpr int WORDS = 8, BYTES = 256;
    static __device__ __forceinline__ void load(uint32_t *s, const uint8_t *head, int g)
    {
        form_load<8>(s, head + 32 * g);
    }
    static __device__ __forceinline__ float d(const uint32_t *s, int h, int b)
    {
        return form_half(s[4 * h + b / 2], b % 2);
    }
};

struct scale_half_least : scale_half {
    static constexpr int WORDS = 16, BYTES = 512, HAS_LEAST = 1;
    static __device__ __forceinline__ void load(uint32_t *s, const uint8_t *head, int g)
    {
        form_load<8>(s, head + 32 * g);
        form_load<8>(s + 8, head + 256 + 32 * g);
    }
    static __device__ __forceinline__ float least(const uint32_t *s, int h, int b)
    {
        return form_half(s[8 + 4 * h + b / 2], b % 2);
    }
};

struct scale_half_zero : scale_half {
    static constexpr int WORDS = 12, BYTES = 384, HAS_ZERO = 1;
    static __device__ __forceinline__ void load(uint32_t *s, const uint8_t *head, int g)
    {
        form_load<8>(s, head + 32 * g);
        form_load<4>(s + 8, head + 256 + 16 * g);
    }
    static __device__ __forceinline__ float zero(const uint32_t *s, int h, int b)
    {
        return (float)form_byte(s[8 + 2 * h + b / 4], b % 4);
    }
};

struct scale_float : scale_base {
    static constexpr int WORDS = 16, BYTES = 512;
    static __device__ __forceinline__ void load(uint32_t *s, const uint8_t *head, int g)
    {
        form_load<16>(s, head + 64 * g);
    }
    static __device__ __forceinline__ float d(const uint32_t *s, int h, int b)
    {
        return __uint_as_float(s[8 * h + b]);
    }
};

struct scale_float_zero : scale_float {
    static constexpr int WORDS = 24, BYTES = 768, HAS_ZERO = 1;
    static __device__ __forceinline__ void load(uint32_t *s, const uint8_t *head, int g)
    {
        form_load<16>(s, head + 64 * g);
        form_load<8>(s + 16, head + 512 + 32 * g);
    }
    static __device__ __forceinline__ float zero(const uint32_t *s, int h, int b)
    {
        return (float)(int16_t)(s[16 + 4 * h + b / 2] >> b % 2 * 16);
    }
};

struct scale_e8 : scale_base {
    static constexpr int WORDS = 4, BYTES = 128;
    static __device__ __forceinline__ void load(uint32_t *s, const uint8_t *head, int g)
    {
        form_load<4>(s, head + 16 * g);
    }
    static __device__ __forceinline__ float d(const uint32_t *s, int h, int b)
    {
        const uint32_t e = form_byte(s[2 * h + b / 4], b % 4);
        return __uint_as_float(e < 2 ? 0x00200000u << e : (e - 1) << 23);
    }
};

struct scale_e4m3 : scale_base {
    static constexpr int WORDS = 8, BYTES = 256, COLS = 16;
    static __device__ __forceinline__ void load(uint32_t *s, const uint8_t *head, int g)
    {
        form_load<8>(s, head + 32 * g);
    }
    static __device__ __forceinline__ float d(const uint32_t *s, int h, int b)
    {
        return __uint_as_float(form_byte(s[4 * h + b / 4], b % 4) << 20) * 0x1p119f;
    }
};

// One half for a row, and a byte for each block.
struct scale_row : scale_base {
    static constexpr int WORDS = 1, BYTES = 32;
    static __device__ __forceinline__ void load(uint32_t *s, const uint8_t *head, int g)
    {
        form_load<1>(s, head + 4 * g);
    }
    static __device__ __forceinline__ float d(const uint32_t *s, int h, int)
    {
        return form_half(s[0], h);
    }
};

struct scale_row_i8 : scale_base { // IQ4_XS
    static constexpr int WORDS = 5, BYTES = 160;
    static __device__ __forceinline__ void load(uint32_t *s, const uint8_t *head, int g)
    {
        form_load<4>(s, head + 16 * g);
        form_load<1>(s + 4, head + 128 + 4 * g);
    }
    static __device__ __forceinline__ float d(const uint32_t *s, int h, int b)
    {
        return form_half(s[4], h) * (float)(int8_t)form_byte(s[2 * h + b / 4], b % 4);
    }
};

struct scale_row_i8_16 : scale_base { // Q3_K, Q6_K
    static constexpr int WORDS = 9, BYTES = 288, COLS = 16;
    static __device__ __forceinline__ void load(uint32_t *s, const uint8_t *head, int g)
    {
        form_load<8>(s, head + 32 * g);
        form_load<1>(s + 8, head + 256 + 4 * g);
    }
    static __device__ __forceinline__ float d(const uint32_t *s, int h, int b)
    {
        return form_half(s[8], h) * (float)(int8_t)form_byte(s[4 * h + b / 4], b % 4);
    }
};

struct scale_k4 : scale_base { // Q4_K, Q5_K
    static constexpr int WORDS = 10, BYTES = 320, HAS_LEAST = 1;
    static __device__ __forceinline__ void load(uint32_t *s, const uint8_t *head, int g)
    {
        form_load<8>(s, head + 32 * g);
        form_load<2>(s + 8, head + 256 + 8 * g);
    }
    static __device__ __forceinline__ float d(const uint32_t *s, int h, int b)
    {
        return form_half(s[8 + h], 0) * (float)form_byte(s[2 * h + b / 4], b % 4);
    }
    static __device__ __forceinline__ float least(const uint32_t *s, int h, int b)
    {
        return -form_half(s[8 + h], 1) * (float)form_byte(s[4 + 2 * h + b / 4], b % 4);
    }
};

struct scale_k2 : scale_base { // Q2_K
    static constexpr int WORDS = 10, BYTES = 320, COLS = 16, HAS_LEAST = 1;
    static __device__ __forceinline__ void load(uint32_t *s, const uint8_t *head, int g)
    {
        form_load<8>(s, head + 32 * g);
        form_load<2>(s + 8, head + 256 + 8 * g);
    }
    static __device__ __forceinline__ float d(const uint32_t *s, int h, int b)
    {
        return form_half(s[8 + h], 0) * (float)(s[4 * h + b / 4] >> b % 4 * 8 & 15);
    }
    static __device__ __forceinline__ float least(const uint32_t *s, int h, int b)
    {
        return -form_half(s[8 + h], 1) * (float)(s[4 * h + b / 4] >> (b % 4 * 8 + 4) & 15);
    }
};

struct scale_grid : scale_base {
    static constexpr int WORDS = 10, BYTES = 320, COLS = 16;
    static __device__ __forceinline__ void load(uint32_t *s, const uint8_t *head, int g)
    {
        form_load<8>(s, head + 32 * g);
        form_load<2>(s + 8, head + 256 + 8 * g);
    }
    static __device__ __forceinline__ float d(const uint32_t *s, int h, int b)
    {
        return __uint_as_float(s[8 + h]) * (float)form_byte(s[4 * h + b / 4], b % 4);
    }
};

// -- what a code means --

enum form_kind {
    FORM_LESS,   // unsigned, under 128, less `less`
    FORM_SIGNED, // int8
    FORM_LEVELS, // the number of a level
    FORM_F8,     // e4m3
    FORM_BF16,
    FORM_F16,
    FORM_F32
};

template <class C, class S, int kind, int less = 0> struct form_base {
    typedef C code;
    typedef S scale;
    static constexpr int KIND = kind, LESS = less, HEAD = C::PLANES + S::BYTES;
    static constexpr int CHUNK = HEAD + UNITS * C::UNIT, UNIT = C::UNIT;
};
template <int t> struct form;
// clang-format off
template <> struct form<DT_Q4_0> : form_base<code4, scale_half, FORM_LESS, 8> {};
template <> struct form<DT_Q4_1> : form_base<code4, scale_half_least, FORM_LESS> {};
template <> struct form<DT_Q5_0> : form_base<code5, scale_half, FORM_LESS, 16> {};
template <> struct form<DT_Q5_1> : form_base<code5, scale_half_least, FORM_LESS> {};
template <> struct form<DT_Q8_0> : form_base<code_words<1>, scale_half, FORM_SIGNED> {};
template <> struct form<DT_Q2_K> : form_base<code2, scale_k2, FORM_LESS> {};
template <> struct form<DT_Q3_K> : form_base<code3, scale_row_i8_16, FORM_LESS, 4> {};
template <> struct form<DT_Q4_K> : form_base<code4, scale_k4, FORM_LESS> {};
template <> struct form<DT_Q5_K> : form_base<code5, scale_k4, FORM_LESS> {};
template <> struct form<DT_Q6_K> : form_base<code6, scale_row_i8_16, FORM_LESS, 32> {};
template <> struct form<DT_IQ4_NL> : form_base<code4, scale_half, FORM_LEVELS> {};
template <> struct form<DT_IQ4_XS> : form_base<code4, scale_row_i8, FORM_LEVELS> {};
template <> struct form<DT_TQ2_0> : form_base<code2, scale_row, FORM_LESS, 1> {};
template <> struct form<DT_IQ3_S> : form_base<code4, scale_grid, FORM_LEVELS> {};
template <> struct form<DT_MXFP4> : form_base<code4, scale_e8, FORM_LEVELS> {};
template <> struct form<DT_NVFP4> : form_base<code4, scale_e4m3, FORM_LEVELS> {};
template <> struct form<DT_INT4> : form_base<code4, scale_half_zero, FORM_LESS> {};
template <> struct form<DT_INT8> : form_base<code_words<1>, scale_float_zero, FORM_SIGNED> {};
template <> struct form<DT_FP8> : form_base<code_words<1>, scale_float, FORM_F8> {};
template <> struct form<DT_BF16> : form_base<code_words<2>, scale_none, FORM_BF16> {};
template <> struct form<DT_F16> : form_base<code_words<2>, scale_none, FORM_F16> {};
template <> struct form<DT_F32> : form_base<code_words<4>, scale_none, FORM_F32> {};
// clang-format on

// What a lane holds of a chunk.
template <int t> struct form_chunk {
    uint32_t q[form<t>::code::WORDS];
    uint32_t s[form<t>::scale::WORDS];
};

template <int t>
static __device__ __forceinline__ void form_chunk_load(struct form_chunk<t> *r, const uint8_t *at,
                                                       int lane, int n_unit)
{
    typedef form<t> f;
    f::code::load(r->q, at, at + f::HEAD, lane, n_unit);
    f::scale::load(r->s, at + f::code::PLANES, lane / 4);
}

// The block of group s of unit u.
template <int t> static __device__ __forceinline__ int form_block(int u, int s)
{
    return form<t>::scale::COLS == 16 ? 4 * u + s : 2 * u + s / 2;
}

// Levels of the groups 2 (s / 2) and 2 (s / 2) + 1 from their nibbles; those of group s.
static __device__ __forceinline__ uint32_t form_level4(const struct form_levels &l,
                                                       uint32_t nibbles)
{
    const uint32_t pick = nibbles & 0x7777;
    return __byte_perm(__byte_perm(l.w[0], l.w[1], pick), __byte_perm(l.w[2], l.w[3], pick),
                       0x3210 | (nibbles >> 1 & 0x4444));
}
static __device__ __forceinline__ uint32_t form_levels_of(const struct form_levels &l,
                                                          uint32_t pair, int s)
{
    return __byte_perm(form_level4(l, pair), form_level4(l, pair >> 16), s % 2 ? 0x7531 : 0x6420);
}

// The four bytes of a group: codes, or levels where codes are numbers of them.
template <int t>
static __device__ __forceinline__ uint32_t form_codes(const struct form_chunk<t> &r,
                                                      const struct form_levels &l, int u, int s,
                                                      int h)
{
    typedef form<t> f;
    if constexpr (f::KIND == FORM_LEVELS)
        return form_levels_of(l, f::code::pair(r.q, u, s, h), s);
    else
        return f::code::codes(r.q, u, s, h);
}

// -- as floats --

static __device__ __forceinline__ float form_f8(uint32_t x) // no NaN: the scale is, then
{
    return __uint_as_float((x & 0x7f) << 20 | (x & 0x80) << 24) * 0x1p120f;
}

// The values of a group, exactly (rounded once where a least is added).
template <int t>
static __device__ __forceinline__ void form_values(const struct form_chunk<t> &r,
                                                   const struct form_levels &l, int u, int s, int h,
                                                   float v[4])
{
    typedef form<t> f;
    typedef typename f::scale S;
    if constexpr (f::KIND >= FORM_BF16) {
        constexpr int n = f::KIND == FORM_F32 ? 4 : 2;
        const uint32_t *w = r.q + (8 * u + 4 * h + s) * n;
        SIMT_UNROLL
        for (int i = 0; i < 4; i++)
            v[i] = f::KIND == FORM_F32 ? __uint_as_float(w[i % n])
                   : f::KIND == FORM_F16
                       ? form_half(w[i % 2], i / 2)
                       : __uint_as_float(i / 2 ? w[i % 2] & 0xffff0000 : w[i % 2] << 16);
    } else {
        const uint32_t q = form_codes<t>(r, l, u, s, h);
        const int b = form_block<t>(u, s);
        const float d = S::d(r.s, h, b);
        SIMT_UNROLL
        for (int i = 0; i < 4; i++) {
            const uint32_t c = form_byte(q, i);
            v[i] = f::KIND == FORM_LESS ? (float)((int)c - f::LESS)
                   : f::KIND == FORM_F8 ? form_f8(c)
                                        : (float)(int8_t)c;
            if (S::HAS_ZERO) v[i] -= S::zero(r.s, h, b);
            v[i] = S::HAS_LEAST ? fmaf(d, v[i], S::least(r.s, h, b)) : d * v[i];
        }
    }
}

// -- as operands of the matrix units --

// a + b of two bf16 each; here always exact.
static __device__ __forceinline__ uint32_t form_add_bf16(uint32_t a, uint32_t b)
{
#ifdef __CUDACC__
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(0x3f803f80u), "r"(b));
    return d;
#else
    const float lo = __uint_as_float(a << 16) + __uint_as_float(b << 16);
    const float hi = __uint_as_float(a & 0xffff0000) + __uint_as_float(b & 0xffff0000);
    return __float_as_uint(lo) >> 16 | (__float_as_uint(hi) & 0xffff0000);
#endif
}
// a * 2^120, exact for the codes of e4m3.
static __device__ __forceinline__ uint32_t form_raise_bf16(uint32_t a)
{
#ifdef __CUDACC__
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(0x7b807b80u), "r"(0x80008000u));
    return d;
#else
    const float lo = __uint_as_float(a << 16) * 0x1p120f;
    const float hi = __uint_as_float(a & 0xffff0000) * 0x1p120f;
    return __float_as_uint(lo) >> 16 | (__float_as_uint(hi) & 0xffff0000);
#endif
}

// Two floats as bf16, a in the low half.
static __device__ __forceinline__ uint32_t form_bf16x2(float a, float b)
{
#ifdef __CUDACC__
    uint32_t d;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(b), "f"(a));
    return d;
#else
    return (uint32_t)__bfloat16_as_ushort(__float2bfloat16_rn(b)) << 16 |
           __bfloat16_as_ushort(__float2bfloat16_rn(a));
#endif
}
// What those two miss.
static __device__ __forceinline__ uint32_t form_bf16x2_rest(float a, float b, uint32_t taken)
{
    return form_bf16x2(a - __uint_as_float(taken << 16), b - __uint_as_float(taken & 0xffff0000));
}

// Bytes 0 and 2 of w, less what the form says, as bf16: exact. 128 + n is 0x4300 | n.
template <int t> static __device__ __forceinline__ uint32_t form_pair_bf16(uint32_t w)
{
    typedef form<t> f;
    const uint32_t two = w & 0x00ff00ff;
    if (f::KIND == FORM_LESS)
        return form_add_bf16(two | 0x43004300, (0xc300u + f::LESS) * 0x10001u);
    if (f::KIND == FORM_F8) {
        const uint32_t sign = two & 0x00800080;
        return form_raise_bf16((two ^ sign) << 4 | sign << 8);
    }
    return form_add_bf16((two & 0x007f007f) | 0x43004300, (two & 0x00800080) | 0xc300c300);
}

// The operand A of group s: codes without their scales, floats as they are; F16: what bf16 holds of
// them in a, the rest in rest.
template <int t>
static __device__ __forceinline__ void form_operand(const struct form_chunk<t> &r,
                                                    const struct form_levels &l, int u, int s,
                                                    uint32_t a[4], uint32_t rest[4])
{
    typedef form<t> f;
    SIMT_UNROLL
    for (int h = 0; h < 2; h++) {
        if constexpr (f::KIND >= FORM_BF16) {
            SIMT_UNROLL
            for (int i = 0; i < 2; i++) {
                const uint32_t w = f::code::word(r.q, u, s, h, i);
                const float x = form_half(w, 0), y = form_half(w, 1);
                a[2 * i + h] = f::KIND == FORM_F16 ? form_bf16x2(x, y) : w;
                if (f::KIND == FORM_F16) rest[2 * i + h] = form_bf16x2_rest(x, y, a[2 * i + h]);
            }
        } else {
            const uint32_t w = form_codes<t>(r, l, u, s, h);
            a[h] = form_pair_bf16<t>(w);
            a[2 + h] = form_pair_bf16<t>(w >> 8);
        }
    }
}
