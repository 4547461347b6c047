// product: what the kernels of a product share: their arguments, and which rows of which weight
// with which rows of x a block has. Three kernels do the work, each for every form (form.h):
//     exact  floats and fma; the order of a sum depends on its columns alone
//     thin   up to 8 rows of x: the weights are read once, at the speed of memory; the matrix units
//            take the codes as they are unpacked (exactly, as bf16), a scale multiplies the sum of
//            its block in float, and the zeros and leasts multiply sums of x. A block has one tile
//            of rows, its warps share the columns.
//     wide   the same for up to 64 rows of x, which lie ready as bf16; a block has 8 tiles of rows,
//            blocks share the columns where there are few tiles, and the last one to come adds up
// What memory must bring is 16 bytes for each lane at a time, a chunk of 2 KB and more for each
// warp in flight (thin: two), with 8 warps and more to an SM: past the 20 to 40 KB that its share
// of the bandwidth times the latency comes to on the devices we know. Unpacking takes about 7
// instructions for 4 codes; the matrix units replace one fma per code and row of x.
#pragma once
#include "kernels/cuda/act.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/form.h"

enum {
    PRODUCT_JOBS = 16,
    PRODUCT_WARPS = 8,
    THIN_TOK = 8,
    EXACT_TOK = 8,
    WIDE_TOK = 64,
    WIDE_ROWS = PRODUCT_WARPS * TILE_ROWS,
    DIRECT_MAX = 64 // products of experts up to which blocks find their tile by themselves
};

struct product_job {
    const uint8_t *w;
    const float *bias;
    float *y;
    int64_t ldy;
    const float *factors; // of experts, or NULL: `factor` is everybody's
    float factor;
    int32_t rows, is_fine;
    int32_t from; // first block of it
};

// One kind of product at a time: jobs; or `n_each` weights with x and y of their own; or experts.
struct product_args {
    struct product_job jobs[PRODUCT_JOBS];
    int32_t n_job, n_block; // blocks of all jobs for one tile of rows of x
    int64_t tile_bytes;
    int32_t cols, n_chunk;
    struct form_levels levels;

    const float *x;
    int64_t ldx;
    const uint4 *xq, *xr;  // wide: rows of bf16, and of what those miss
    int32_t ldq;           // in 16 bytes
    int32_t n_tok, n_tile; // tiles of rows of x
    bool is_aligned;       // x can be read 16 bytes at a time

    int64_t w_step, x_step, y_step; // from weight to weight (bytes, floats, floats)
    int32_t q_step;                 // in xq

    const int32_t *row, *expert; // experts: (n_product)
    const int4 *tiles;           // x expert, y first product, z products; NULL: see DIRECT_MAX
    const int32_t *n_list;       // how many of them
    int32_t n_product;

    // wide: blocks that share columns; and sums that are added up in order, each of every
    // n_order-th chunk. Of thin and exact the warps are what n_order says.
    int32_t n_split, n_order;
    float *partial;
    unsigned *arrived;
};

// What one block has.
struct product {
    const uint8_t *w;
    const float *bias;
    float *y;
    int64_t ldy;
    float factor;
    int32_t rows; // of the weight
    int32_t block, is_fine;
    const float *x;
    int64_t ldx;
    const int32_t *row; // rows of x, NULL: one after the other
    int32_t q_at;       // else: where the first of them is in xq
    int32_t n;          // rows of x
};

// Tile z of an experts call; false: it has none.
static __device__ __forceinline__ bool product_expert(const struct product_args &p, int z, int most,
                                                      const float *factors, struct product *o)
{
    int expert, from = z, n = 1;
    if (p.tiles) {
        if (z >= *p.n_list) return false;
        const int4 t = p.tiles[z];
        expert = t.x;
        from = t.y;
        n = t.z;
    } else {
        expert = p.expert[z];
        int before = 0;
        while (before < z && p.expert[z - 1 - before] == expert)
            before++;
        if (before % most) return false;
        while (n < most && z + n < p.n_product && p.expert[z + n] == expert)
            n++;
    }
    o->w += expert * p.w_step;
    if (o->bias) o->bias += (int64_t)expert * o->rows;
    if (factors) o->factor = __ldg(factors + expert);
    if (o->factor == 0.0f) o->factor = 1.0f;
    o->y += from * o->ldy;
    o->row = p.row + from;
    o->n = n;
    return true;
}

// Block b of job j with tile z of rows of x, up to `most` of them.
static __device__ __forceinline__ bool product_pick(const struct product_args &p, int j, int b,
                                                    int z, int most, struct product *o)
{
    const struct product_job &job = p.jobs[j];
    o->w = job.w;
    o->bias = job.bias;
    o->y = job.y;
    o->ldy = job.ldy;
    o->factor = job.factor;
    o->rows = job.rows;
    o->block = b;
    o->is_fine = job.is_fine;
    o->x = p.x;
    o->ldx = p.ldx;
    o->row = NULL;
    o->q_at = 0;
    if (p.expert) return product_expert(p, z, most, job.factors, o);
    const int each = z / p.n_tile, from = z % p.n_tile * most;
    o->w += each * p.w_step;
    o->x += each * p.x_step + from * p.ldx;
    o->y += each * p.y_step + from * o->ldy;
    o->q_at = each * p.q_step + from * p.ldq;
    o->n = p.n_tok - from < most ? p.n_tok - from : most;
    return true;
}

// Block number `at` of all jobs', n_z for each block of rows.
static __device__ __forceinline__ int product_job_of(const struct product_args &p, int b)
{
    int j = 0;
    while (j + 1 < p.n_job && b >= p.jobs[j + 1].from)
        j++;
    return j;
}
static __device__ __forceinline__ bool product_at(const struct product_args &p, int at, int n_z,
                                                  int most, struct product *o)
{
    const int b = at / n_z, j = product_job_of(p, b);
    return product_pick(p, j, b - p.jobs[j].from, at % n_z, most, o);
}
// Where its first tile of weights lies; not of experts.
static __device__ __forceinline__ const uint8_t *product_tile(const struct product_args &p, int at,
                                                              int n_z)
{
    const int b = at / n_z, j = product_job_of(p, b);
    return p.jobs[j].w + at % n_z / p.n_tile * p.w_step + (b - p.jobs[j].from) * p.tile_bytes;
}

// Columns col to col + 3 of a row of x; 0 where there is none. Where weights are floats there may
// be any number of columns. is_new: the row was written by this kernel (and is aligned).
template <int t, bool is_new = false>
static __device__ __forceinline__ float4 product_x(const struct product_args &p, const float *row,
                                                   int col)
{
    float4 v = make_float4(0, 0, 0, 0);
    if (is_new) {
        if (col < p.cols) v = __ldcg((const float4 *)(row + col));
        return v;
    }
    if (form<t>::KIND < FORM_BF16 || p.is_aligned) {
        if (col < p.cols) v = *(const float4 *)(row + col);
        return v;
    }
    if (col < p.cols) v.x = row[col];
    if (col + 1 < p.cols) v.y = row[col + 1];
    if (col + 2 < p.cols) v.z = row[col + 2];
    if (col + 3 < p.cols) v.w = row[col + 3];
    return v;
}
static __device__ __forceinline__ const float *product_row(const struct product &o, int i)
{
    return o.x + (o.row ? o.row[i] : i) * o.ldx;
}

static __device__ __forceinline__ int product_units(const struct product_args &p, int chunk)
{
    const int left = (p.cols - chunk * CHUNK_COLS + UNIT_COLS - 1) / UNIT_COLS;
    return left < UNITS ? left : UNITS;
}

static __device__ __forceinline__ float product_end(const struct product &o, int row, float sum)
{
    sum *= o.factor;
    return o.bias ? sum + __ldg(o.bias + row) : sum;
}
static __device__ __forceinline__ void product_store(const struct product &o, int tok, int row,
                                                     float sum)
{
    if (row < o.rows && tok < o.n) o.y[tok * o.ldy + row] = product_end(o, row, sum);
}

// -- on the matrix units --

// The scales of row h of block b: what multiplies the sum of code times x, and the sum of x.
template <int t> struct product_scale {
    float d[2], m[2];
};
template <int t>
static __device__ __forceinline__ void product_scales(const struct form_chunk<t> &r, int b,
                                                      struct product_scale<t> *o)
{
    typedef typename form<t>::scale S;
    SIMT_UNROLL
    for (int h = 0; h < 2; h++) {
        o->d[h] = S::d(r.s, h, b);
        o->m[h] = S::HAS_ZERO ? -o->d[h] * S::zero(r.s, h, b) : S::least(r.s, h, b);
    }
}
// acc += scale * sum of one operand D.
template <int t>
static __device__ __forceinline__ void product_add(float acc[4], const struct product_scale<t> &s,
                                                   const float c[4], const float x[4])
{
    SIMT_UNROLL
    for (int i = 0; i < 4; i++) {
        acc[i] = fmaf(s.d[i / 2], c[i], acc[i]);
        if (form<t>::scale::HAS_ZERO || form<t>::scale::HAS_LEAST)
            acc[i] = fmaf(s.m[i / 2], x[i], acc[i]);
    }
}

// Launches a kernel that is one for each form. n_z: grid.x is n_block * n_z.
void product_exact(struct cuda *c, enum dtype form, const struct product_args *p, int32_t n_z);
void product_thin(struct cuda *c, enum dtype form, const struct product_args *p, int32_t n_z);
// The jobs 0 and 1 have the same rows; glu of what they make is written where the first one writes.
void product_pair(struct cuda *c, enum dtype form, const struct product_args *p, int32_t n_z,
                  const struct glu *glu);
void product_wide(struct cuda *c, enum dtype form, const struct product_args *p, int32_t n_z);

// The whole of a feed-forward part of few experts: `in` (gate and up, as product_pair) and `out`
// (one job), whose products lie in the same order; out.x is in.jobs[0].y.
struct few_args {
    struct product_args in, out;
    struct op_glu glu;
    int32_t n_in, n_out; // tiles of the one and of the other; 0: not done
    // What the products of tile z of `out` come to is added up: at (n_z, n_used), weights, out.y
    // (n_z, rows). NULL: tile z is product z.
    const int32_t *at;
    const float *weights;
    int32_t n_used;
    unsigned *state; // FEW_STATE zeros, which are zeros again at the end
};
enum { FEW_USED_MAX = 32, FEW_STATE = 3 };
void product_few(struct cuda *c, enum dtype form, const struct few_args *a);

static inline unsigned product_warps(const struct product_args *p)
{
    return p->n_chunk < PRODUCT_WARPS ? (unsigned)p->n_chunk : (unsigned)PRODUCT_WARPS;
}
