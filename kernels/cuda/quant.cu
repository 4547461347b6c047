// quant: weights to the device and back: packing (pack.c, on the host), rows of a table, and panels
// of bf16 for blas.
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/pack.h"

uint64_t cuda_quant_weight_bytes(struct kernels *k, enum dtype t, int64_t rows, int64_t cols)
{
    const struct kernels_limits *l = &cuda_of(k)->lim;
    if (form_of(t) == DT_NONE || rows < 1 || cols < 1) return 0;
    if (rows > l->max_rows || cols > l->max_cols || cols % dtype_info(t)->block) return 0;
    return (uint64_t)((rows + TILE_ROWS - 1) / TILE_ROWS * pack_tile_bytes(t, cols));
}

void cuda_quant_weight_pack(struct kernels *k, const void *src, int64_t row_from, int64_t n_row,
                            struct view *dst)
{
    const int64_t cols = dst->shape[1], tile = pack_tile_bytes(dst->dtype, cols);
    BUG_ON(row_from % 64 || row_from + n_row > dst->shape[0]);
    BUG_ON(n_row % 64 && row_from + n_row != dst->shape[0]);
    struct cuda *c = cuda_of(k);
    const uint64_t row_bytes = dtype_row_bytes(dst->dtype, (uint64_t)cols);
    const int64_t most = (int64_t)cuda_step_loan_bytes(c) / tile * TILE_ROWS;
    for (int64_t r = 0; r < n_row; r += most) {
        const int64_t n = n_row - r < most ? n_row - r : most;
        const int64_t bytes = (n + TILE_ROWS - 1) / TILE_ROWS * tile;
        int32_t loan;
        uint8_t *packed = (uint8_t *)cuda_step_borrow(c, &loan);
        memset(packed, 0, (size_t)bytes);
        pack_rows(dst->dtype, (const uint8_t *)src + (uint64_t)r * row_bytes, n, cols, packed);
        cuda_step_send(c, loan, (uint8_t *)dst->data + (row_from + r) / TILE_ROWS * tile,
                       (uint64_t)bytes);
    }
}

struct form_levels quant_levels(enum dtype t)
{
    struct form_levels l;
    int8_t bytes[16];
    pack_levels(t, bytes);
    memcpy(l.w, bytes, 16);
    return l;
}

// Groups of one row: 64 columns of a unit are 4 groups of each of 4 lanes.
template <int t>
static __device__ __forceinline__ void embed_chunk(const uint8_t *at, struct form_levels levels,
                                                   int lane, int h, int left, float factor,
                                                   float *out)
{
    struct form_chunk<t> r;
    form_chunk_load<t>(&r, at, lane, (left + UNIT_COLS - 1) / UNIT_COLS);
#pragma unroll 1 // few rows: short code rather than fast
    for (int u = 0; u < UNITS; u++)
#pragma unroll 1
        for (int s = 0; s < 4; s++) {
            const int col = u * UNIT_COLS + s * 16 + lane % 4 * 4;
            float v[4];
            form_values<t>(r, levels, u, s, h, v);
            for (int i = 0; i < 4; i++)
                if (col + i < left) out[col + i] = factor == 1.0f ? v[i] : v[i] * factor;
        }
}

template <int t>
static __global__ void __launch_bounds__(128)
    embed(const uint8_t *table, int64_t tile_bytes, const int32_t *ids, int cols, float factor,
          struct form_levels levels, float *out)
{
    simt_follow();
    const int id = ids[blockIdx.x], r = id % TILE_ROWS;
    const int n_chunk = (cols + CHUNK_COLS - 1) / CHUNK_COLS;
    for (int i = (int)threadIdx.x; i < 4 * n_chunk; i += (int)blockDim.x)
        embed_chunk<t>(table + id / TILE_ROWS * tile_bytes + (int64_t)(i / 4) * form<t>::CHUNK,
                       levels, r % 8 * 4 + i % 4, r / 8, cols - i / 4 * CHUNK_COLS, factor,
                       out + (int64_t)blockIdx.x * cols + i / 4 * CHUNK_COLS);
}

void cuda_quant_embed(struct kernels *k, const struct view *table, const int32_t *ids,
                      int32_t n_tok, float *out)
{
    struct cuda *c = cuda_of(k);
    const int64_t cols = table->shape[1], tile = pack_tile_bytes(table->dtype, cols);
    const float factor = table->factor == 0.0f ? 1.0f : table->factor;
    BUG_ON(table->layout != LAYOUT_PACKED);
    for (int32_t i = 0; i < n_tok; i++)
        BUG_ON(ids[i] < 0 || ids[i] >= table->shape[0]);
    if (n_tok == 0) return;
    const int32_t *on_device = cuda_ints_of(c, ids, n_tok);
    const unsigned n_thread = cols >= 32 * CHUNK_COLS ? 128 : 32;
    c->n_op++;
    switch (form_of(table->dtype)) {
#define CASE(t)                                                                                    \
    case t:                                                                                        \
        LAUNCH_NEXT(c, embed<t>, (unsigned)n_tok, n_thread, 0, (const uint8_t *)table->data, tile, \
                    on_device, (int)cols, factor, quant_levels(table->dtype), out);                \
        break;
        FORM_EACH(CASE)
#undef CASE
    default:
        BUG("table of a type without a form");
    }
}

// A warp a chunk of a tile: 16 rows of 256 columns.
template <int t>
static __global__ void __launch_bounds__(256)
    expand(const uint8_t *w, int64_t tile_bytes, int rows, int cols, struct form_levels levels,
           uint16_t *out)
{
    simt_follow();
    const int n_chunk = (cols + CHUNK_COLS - 1) / CHUNK_COLS;
    const int64_t i = (int64_t)blockIdx.x * 8 + threadIdx.x / 32;
    const int tile = (int)(i / n_chunk), chunk = (int)(i % n_chunk);
    if (tile * TILE_ROWS >= rows) return;
    const int lane = (int)threadIdx.x % 32, left = cols - chunk * CHUNK_COLS;
    struct form_chunk<t> r;
    form_chunk_load<t>(&r, w + tile * tile_bytes + (int64_t)chunk * form<t>::CHUNK, lane,
                       left < CHUNK_COLS ? (left + UNIT_COLS - 1) / UNIT_COLS : UNITS);
#pragma unroll 1 // from local memory: what is written weighs more
    for (int u = 0; u < UNITS; u++)
        SIMT_UNROLL
    for (int k = 0; k < 8; k++) {
        const int h = k % 2, s = k / 2, row = tile * TILE_ROWS + 8 * h + lane / 4;
        const int col = u * UNIT_COLS + s * 16 + lane % 4 * 4;
        float v[4];
        form_values<t>(r, levels, u, s, h, v);
        if (row < rows && col < left) // cols is a multiple of 4
            *(uint2 *)(out + (int64_t)row * cols + chunk * CHUNK_COLS + col) =
                make_uint2(form_bf16x2(v[0], v[1]), form_bf16x2(v[2], v[3]));
    }
}

void quant_expand(struct cuda *c, const struct view *w, int64_t row_from, int64_t n_row, void *out)
{
    const int64_t cols = w->shape[1], tile = pack_tile_bytes(w->dtype, cols);
    const uint8_t *from = (const uint8_t *)w->data + row_from / TILE_ROWS * tile;
    const int64_t n = (n_row + TILE_ROWS - 1) / TILE_ROWS * ((cols + CHUNK_COLS - 1) / CHUNK_COLS);
    BUG_ON(cols % 4 || row_from % TILE_ROWS);
    switch (form_of(w->dtype)) {
#define CASE(t)                                                                                    \
    case t:                                                                                        \
        LAUNCH_NEXT(c, expand<t>, (unsigned)((n + 7) / 8), 256, 0, from, tile, (int)n_row,         \
                    (int)cols, quant_levels(w->dtype), (uint16_t *)out);                           \
        break;
        FORM_EACH_FAST(CASE)
#undef CASE
    default:
        BUG("weights of a type without a form");
    }
}
