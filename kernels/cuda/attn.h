// attn: what the attention kernels share: the call as the device sees it, how blocks of query
// rows and splits of the keys are found there, and how partial softmaxes become outputs.
//
// A row is one query head of one token. The rows of a KV head of a run are numbered token by token,
// so that positions ascend with them; a block takes up to block_rows of them. What a block sees is
// cut into pieces, one thread block each; of more than one piece partial results (maximum, sum,
// output) go to `part` and the joining kernel joins them, pieces ascending. Lengths are read on the
// device, so that a recorded step serves runs that have grown: thread blocks without a piece end.
//
// Exactness. With split_tok the pieces are at absolute positions, and each kernel walks absolute
// tiles, so what a row's sums are made of depends on the row alone (PRECISION_EXACT, deterministic;
// the latter with one kernel for all runs). Without it
// all runs' keys are shared out evenly over what the device runs at once; results are then the same
// for the same call only.
#pragma once
#include "kernels/cuda/cuda.h"

enum {
    ATTN_DIM_MAX = 576,   // of keys
    ATTN_SPLITS_MAX = 64, // of one block
    ATTN_EVEN_TOK = 128,  // fewest positions of a piece where all are even
    ATTN_PLAIN_ROWS = 8,  // block_rows of the plain kernel
    ATTN_PLAIN_TOK = 32,  // its tile of keys
    ATTN_PART_HEAD = 4    // floats of a partial softmax before its output: maximum, sum
};

struct attn_dev {
    const float *q;
    float *out;
    const char *kv;                       // page p at kv + p * page_bytes
    int64_t page_bytes, head_bytes, v_at; // a KV head's keys; its values v_at bytes behind
    struct cuda_list list;
    const float *sinks;
    float *part;
    int32_t n_run, n_head, n_head_kv, group, head_from, head_dim, head_dim_v;
    int32_t page_tok, page_shift, k_ld, v_ld; // elements from key to key, value to value
    // Types of 8 bits: where a KV head's scales begin and how many floats a token has there.
    int64_t k_scale_at, v_scale_at;
    int32_t k_scales, v_scales;
    bool v_in_k, is_f8;
    float scale, softcap;
    int32_t window, chunk;
    // This launch: runs with rows (n_tok * group) in [rows_min, rows_max], blocks from block_from
    // on (blockIdx.x), KV heads from head_kv_from on (blockIdx.z).
    int32_t rows_min, rows_max, block_rows, block_from, head_kv_from;
    int32_t n_split, split_tok; // pieces of a block (blockIdx.y), at most; positions or 0: even
    int32_t tile, slots;        // positions of a tile; thread blocks that the device runs at once
};

// What the pages of these runs and keys and values are (attn.cu); the rest is 0.
struct attn_dev attn_dev_of(struct cuda *c, const struct kv_view *kv, const struct attn_run *runs,
                            int32_t n_run);

// A kernel of attention, of struct attn_dev; grid (blocks, splits, KV heads).
struct attn_kernel {
    void (*fn)(struct attn_dev a);
    int32_t block_rows, threads, tile;
    size_t shared; // dynamic shared memory, bytes
};

// attn_plain.cu: any call.
struct attn_kernel attn_plain_kernel(const struct kv_view *kv);
// After a kernel with more than one split, with its grid's first and last number and the most rows
// of a block.
void attn_plain_combine(struct cuda *c, const struct attn_dev *a, int32_t n_block, int32_t n_head,
                        int32_t n_row);
// attn_mma.cu: for runs of up to 16 rows of a KV head (`few`) or of any number, whose sums then
// depend on the row alone. False: none.
bool attn_mma_kernel(const struct kv_view *kv, bool few, size_t shared_max,
                     struct attn_kernel *out);

struct attn_block {
    struct cuda_run run;
    int32_t head_kv, head_at, n_head; // KV head, first query head that reads it, how many do
    int32_t row_from, n_row;          // 0: nothing to do
    int32_t lo, hi;                   // positions that the rows see in this piece; none: both 0
    int32_t n_piece;                  // what the rows see lies in so many
    int64_t part;                     // number of its first row in `part`
};

static __device__ __forceinline__ int32_t attn_clamp(int32_t x, int32_t lo, int32_t hi)
{
    return x < lo ? lo : x > hi ? hi : x;
}

// First position that a query at pos sees.
static __device__ __forceinline__ int32_t attn_sight(const struct attn_dev *a, int32_t pos)
{
    int32_t w = a->window > 0 && pos >= a->window ? pos - a->window + 1 : 0;
    int32_t c = a->chunk > 0 ? pos - pos % a->chunk : 0;
    return w > c ? w : c;
}

// The run in which block `number` lies, by a warp; *number becomes the block's number there. Runs
// outside [rows_min, rows_max] have none. -1: there is no such block.
static __device__ __forceinline__ int32_t attn_run_of(const struct cuda_run *runs, int32_t n_run,
                                                      int32_t group, int32_t rows_min,
                                                      int32_t rows_max, int32_t block_rows,
                                                      int32_t *number)
{
    const int32_t lane = (int32_t)(threadIdx.x % 32);
    for (int32_t base = 0; base < n_run; base += 32) {
        int32_t n = 0;
        if (base + lane < n_run) {
            const int32_t rows = runs[base + lane].n_tok * group;
            if (rows >= rows_min && rows <= rows_max) n = (rows + block_rows - 1) / block_rows;
        }
        int32_t sum = n;
        for (int32_t i = 1; i < 32; i *= 2) {
            const int32_t below = __shfl_sync(0xffffffffu, sum, lane >= i ? lane - i : lane);
            if (lane >= i) sum += below;
        }
        const int32_t total = __shfl_sync(0xffffffffu, sum, 31);
        if (*number < total) {
            const int32_t at = __popc(__ballot_sync(0xffffffffu, sum <= *number));
            *number -= __shfl_sync(0xffffffffu, sum - n, at);
            return base + at;
        }
        *number -= total;
    }
    return -1;
}

static __device__ __forceinline__ int32_t attn_row_pos(const struct attn_block *b, int32_t row)
{
    return b->run.pos_from + (b->row_from + row) / b->n_head;
}

// Number of the (token, head) of row `row` in q and out.
static __device__ __forceinline__ int64_t attn_row_at(const struct attn_dev *a,
                                                      const struct attn_block *b, int32_t row)
{
    const int32_t i = b->row_from + row;
    return (int64_t)(b->run.tok_from + i / b->n_head) * a->n_head + b->head_at + i % b->n_head;
}

// Positions of a piece where all are even, of a block that sees `n`: no fewer than its share of
// what all blocks see, unless it would be cut in two. By a warp.
static __device__ __forceinline__ int32_t attn_even_piece(const struct attn_dev *a, int32_t n)
{
    float sees = 0.0f;
    for (int32_t i = (int32_t)(threadIdx.x % 32); i < a->n_run; i += 32) {
        const struct cuda_run r = a->list.runs[i];
        const int32_t rows = r.n_tok * a->group;
        if (rows < a->rows_min || rows > a->rows_max) continue;
        const int32_t blocks = (rows + a->block_rows - 1) / a->block_rows;
        sees += (float)blocks * (float)(r.pos_from + r.n_tok - attn_sight(a, r.pos_from));
    }
    const int32_t share = (int32_t)ceilf(warp_sum(sees) * (float)a->n_head_kv / (float)a->slots);
    if (n <= 2 * share) return n;
    int32_t per = (n + a->n_split - 1) / a->n_split;
    per = per > share ? per : share;
    per = per > ATTN_EVEN_TOK ? per : ATTN_EVEN_TOK;
    return (per + a->tile - 1) / a->tile * a->tile;
}

// The block of this thread block and its piece `split`, by all its threads; the keys in whole tiles
// except at the ends.
static __device__ __forceinline__ struct attn_block attn_block_of(const struct attn_dev *a,
                                                                  int32_t split)
{
    struct attn_block b;
    int32_t number = a->block_from + (int32_t)blockIdx.x;
    const int32_t head = (int32_t)blockIdx.z,
                  r = attn_run_of(a->list.runs, a->n_run, a->group, a->rows_min, a->rows_max,
                                  a->block_rows, &number);
    b.n_row = 0;
    b.lo = b.hi = 0;
    b.n_piece = 1;
    b.head_kv = a->head_kv_from + head;
    b.part = ((int64_t)blockIdx.x * gridDim.z + blockIdx.z) * a->block_rows;
    if (r < 0) return b;
    b.run = a->list.runs[r];
    const int32_t first = b.head_kv * a->group - a->head_from;
    b.head_at = attn_clamp(first, 0, a->n_head);
    b.n_head = attn_clamp(first + a->group, 0, a->n_head) - b.head_at;
    b.row_from = number * a->block_rows;
    b.n_row = attn_clamp(b.run.n_tok * b.n_head - b.row_from, 0, a->block_rows);
    if (b.n_row == 0) return b;
    const int32_t lo = attn_sight(a, attn_row_pos(&b, 0)), hi = attn_row_pos(&b, b.n_row - 1) + 1;
    int32_t per = a->split_tok, base = lo / a->tile * a->tile;
    if (per)
        base = lo / per * per;
    else
        per = a->n_split > 1 ? attn_even_piece(a, hi - base) : hi - base;
    b.n_piece = (hi - base + per - 1) / per;
    if (split >= b.n_piece) b.n_row = 0;
    const int64_t from = base + (int64_t)split * per, to = from + per;
    b.lo = from < lo ? lo : from > hi ? hi : (int32_t)from;
    b.hi = to < hi ? (int32_t)to : hi;
    if (b.lo >= b.hi) b.lo = b.hi = 0;
    return b;
}

// Where position `pos` of the run begins in its page: byte offset of the page and number of the
// token there.
static __device__ __forceinline__ const char *attn_page(const struct attn_dev *a,
                                                        const struct attn_block *b, int32_t pos)
{
    const int32_t page = __ldg(a->list.pages + b->run.page_at + (pos >> a->page_shift));
    return a->kv + page * a->page_bytes + b->head_kv * a->head_bytes;
}

// Elements of pages: float, __half, __nv_bfloat16, int8_t (Q8_0), uint8_t (E4M3). Those of 8 bits
// are to be multiplied by a scale: Q8_0 has one for every ATTN_Q8_COLS of a head's vector. E4M3 has
// one for the whole of it: not for a page, whose later tokens may be larger than those that are
// stored, and not for fewer elements, since these are floats already and a scale only moves their
// range.
enum { ATTN_Q8_COLS = 32 };
static __device__ __forceinline__ float attn_load(const float *p, const float *scale, int32_t d)
{
    (void)scale;
    return p[d];
}
static __device__ __forceinline__ float attn_load(const __half *p, const float *scale, int32_t d)
{
    (void)scale;
    return __half2float(p[d]);
}
static __device__ __forceinline__ float attn_load(const __nv_bfloat16 *p, const float *scale,
                                                  int32_t d)
{
    (void)scale;
    return __bfloat162float(p[d]);
}
static __device__ __forceinline__ float attn_load(const int8_t *p, const float *scale, int32_t d)
{
    return __fmul_rn((float)p[d], scale[d / ATTN_Q8_COLS]);
}
static __device__ __forceinline__ float attn_load(const uint8_t *p, const float *scale, int32_t d)
{
    return __fmul_rn(simt_f8_to_float(p[d]), scale[0]);
}

// A partial softmax: floats from one to the next.
static inline __host__ __device__ int64_t attn_part_ld(int32_t head_dim_v)
{
    return ATTN_PART_HEAD + (head_dim_v + 3) / 4 * 4;
}

static __device__ __forceinline__ float *attn_part_at(const struct attn_dev *a, int64_t row,
                                                      int32_t split)
{
    return a->part + (row * a->n_split + split) * attn_part_ld(a->head_dim_v);
}

// The weight of a partial softmax with maximum m among those whose maximum is top.
static __device__ __forceinline__ float attn_weight(float m, float top)
{
    return m > -INFINITY ? expf(m - top) : 0.0f;
}

// Score of a product.
static __device__ __forceinline__ float attn_score(const struct attn_dev *a, float x)
{
    x *= a->scale;
    return a->softcap != 0.0f ? a->softcap * tanhf(x / a->softcap) : x;
}

// Where the output of a row goes that has seen all keys of its piece, whose softmax is m, l: to
// `part` or, if there is one piece, times its factors to `out` (the steps of the joining kernel).
struct attn_out {
    float *to;
    float weight, inv;
    bool is_part;
};

static __device__ __forceinline__ struct attn_out
attn_out_of(const struct attn_dev *a, const struct attn_block *b, int32_t row, float m, float l)
{
    struct attn_out o = {NULL, 1.0f, 1.0f, b->n_piece > 1};
    if (o.is_part) {
        o.to = attn_part_at(a, b->part + row, (int32_t)blockIdx.y) + ATTN_PART_HEAD;
        return o;
    }
    const int64_t at = attn_row_at(a, b, row);
    const float sink = a->sinks ? a->sinks[at % a->n_head] : -INFINITY, top = fmaxf(m, sink);
    o.to = a->out + at * a->head_dim_v;
    o.weight = attn_weight(m, top);
    o.inv = 1.0f / __fadd_rn(__fmul_rn(l, o.weight), attn_weight(sink, top));
    return o;
}

// By one thread of each row.
static __device__ __forceinline__ void attn_put_sums(const struct attn_out *o, float m, float l)
{
    if (!o->is_part) return;
    o->to[-ATTN_PART_HEAD] = m;
    o->to[1 - ATTN_PART_HEAD] = l;
}

// Whether a row with maximum m has no output that anybody reads: it saw nothing of its piece.
static __device__ __forceinline__ bool attn_is_nothing(const struct attn_out *o, float m)
{
    return o->is_part && !(m > -INFINITY);
}

static __device__ __forceinline__ void attn_put(const struct attn_out *o, int32_t d, float x)
{
    o->to[d] = __fmul_rn(__fmul_rn(x, o->weight), o->inv);
}
