// cpu: the CPU backend's own state, shared by the files of this folder. One file per kind of
// operation cuts the work into shares for the pool; the inner loops are the leaves' (leaf.h).
#pragma once
#include "kernels/cpu/leaf.h"
#include "kernels/cpu/pool.h"
#include "kernels/kernels.h"

enum {
    ATTN_BLOCK = 32,            // most query rows of one share of attention
    ATTN_PART_FLOATS = 1 << 17, // of partial softmaxes, for each thread
    REDUCE_CHUNK = 1 << 14      // elements of a row that argmax and logsumexp take at once
};

// What one thread works in; never shared, so no two threads write to one cache line.
struct cpu_scratch {
    float *gemm;  // LEAF_GEMM_FLOATS
    float *attn;  // LEAF_ATTN_FLOATS
    float *o;     // (ATTN_BLOCK, v_stride)
    float *delta; // LEAF_DELTA_FLOATS
    float m[ATTN_BLOCK], l[ATTN_BLOCK];
};

// Up to TILE_TOK products of a gemm_experts call with one expert.
struct gemm_part {
    int32_t from, n, expert;
};

struct cpu {
    struct kernels base; // first: the ops take struct kernels *
    const struct leaf_isa *isa;
    struct kernels_limits lim;
    struct pool *pool;
    uint8_t *xq;                  // quantised x of the gemm call under way
    uint8_t *xr;                  // (max_tok rows) what xq misses, for jobs that are fine
    uint8_t *xe;                  // quantised x of each expert's rows, side by side
    struct gemm_part *parts;      // (max_expert_rows + 1)
    struct cpu_scratch **scratch; // one per thread
    int32_t *share_at;            // (max_tok): first share of each run of attention
    int64_t *row_at;              // (max_tok): first row of each run of attention
    float *part_attn;             // ATTN_PART_FLOATS for each thread
    double *freq;                 // (max_head_dim / 2)
    double *part_sum;             // (max_tok, chunks of max_rows): partial reductions
    float *part_max;
};

static inline struct cpu *cpu_of(struct kernels *k)
{
    return (struct cpu *)(void *)k;
}

// Runs fn for [0, n) in shares of `grain`; a single share stays on the calling thread.
typedef void cpu_range_fn(struct cpu *c, void *arg, int64_t from, int64_t to);
void cpu_for(struct cpu *c, int64_t n, int64_t grain, cpu_range_fn *fn, void *arg);

err_t mem_take_pages(struct kernels *k, uint64_t bytes, const char *what, void **out,
                     struct err_text *why);
void mem_give_pages(struct kernels *k, void *data, uint64_t bytes);
void mem_move(struct kernels *k, void *dst, const void *src, uint64_t bytes);
void mem_copy(struct kernels *k, float *dst, int64_t dst_ld, const float *src, int64_t src_ld,
              int64_t n_row, int64_t n);
void mem_zero(struct kernels *k, void *dst, uint64_t bytes);
err_t mem_status(struct kernels *k, struct err_text *why);
bool mem_enter(struct kernels *k, const struct kernels_step *s);
void mem_leave(struct kernels *k);
uint64_t quant_weight_bytes(struct kernels *k, enum dtype t, int64_t rows, int64_t cols);
void quant_weight_pack(struct kernels *k, const void *src, int64_t row_from, int64_t n_row,
                       struct view *dst);
void quant_embed(struct kernels *k, const struct view *table, const int32_t *ids, int32_t n_tok,
                 float *out);
void gemm_run(struct kernels *k, const float *x, int32_t n_tok, int32_t cols,
              const struct gemm_job *jobs, int32_t n_job);
void gemm_run_each(struct kernels *k, const struct view *w, const float *x, int32_t n_tok,
                   float *y);
void gemm_run_experts(struct kernels *k, const struct expert_gemm *e);
// Several that differ in weights, bias and y only: x is quantised once, in one region.
void gemm_run_experts_of(struct kernels *k, const struct expert_gemm *g, int32_t n_job);
void gemm_gather(struct kernels *k, const float *x, const int32_t *order, int32_t n_tok,
                 int32_t cols, float *out);
void gemm_gather_experts(struct kernels *k, const float *x, const int32_t *row,
                         const int32_t *order, const int32_t *expert, int32_t n, int32_t cols,
                         float *out);
uint64_t attn_kv_page_bytes(struct kernels *k, const struct kv_view *kv);
void attn_kv_store(struct kernels *k, const struct kv_view *kv, const struct attn_run *runs,
                   int32_t n_run, const float *key, const float *value);
void place_run(struct kernels *k, const struct attn_place *a);
void attn_run_all(struct kernels *k, const struct attn_args *a);
void norm_rms(struct kernels *k, const float *x, const float *w, int64_t n_row, int32_t dim,
              float eps, float *y);
void norm_add(struct kernels *k, const struct add_norm *a, int64_t n_row);
void ffn_run(struct kernels *k, const struct ffn *f, int32_t n_tok);
void ffn_run_experts(struct kernels *k, const struct expert_ffn *f);
void rope_table(struct kernels *k, const struct rope *r, const int32_t *pos, int32_t n_tok,
                float *cos_sin);
void rope_turn(struct kernels *k, const struct rope *r, const float *cos_sin, int32_t n_tok,
               int32_t n_head, int32_t head_dim, float *x);
void conv_run(struct kernels *k, const struct conv_args *a);
void delta_run(struct kernels *k, const struct delta_args *a);
void moe_route(struct kernels *k, const struct route_args *a, int32_t n_tok);
void moe_route_sort(struct kernels *k, const struct route_sort *a, int32_t n_tok);
void moe_spread(struct kernels *k, const float *x, const int32_t *at, float *weights, int32_t n_tok,
                int32_t n_used, int32_t dim, float *out);
void moe_combine(struct kernels *k, const float *y, const int32_t *at, const float *weights,
                 int32_t n_tok, int32_t n_used, int32_t dim, float *out);
void act_glu(struct kernels *k, const struct glu *kind, const float *gate, const float *up,
             int64_t n, float *out);
void act_gate(struct kernels *k, float *x, const float *gate, int64_t n);
void act_gate_rows(struct kernels *k, float *x, const float *gate, int32_t n_tok, int32_t dim);
void act_scale_rows(struct kernels *k, float *x, const float *s, int32_t n_tok, int32_t dim);
void act_add(struct kernels *k, float *x, const float *y, int64_t n);
void act_scale(struct kernels *k, float *x, float s, int64_t n);
void act_softcap(struct kernels *k, float *x, float cap, int64_t n);
void sample_argmax(struct kernels *k, const float *x, int32_t n_row, int64_t n, int32_t *out);
void sample_finite(struct kernels *k, const float *x, int32_t n_row, int64_t n, bool *out);
void sample_logsumexp(struct kernels *k, const float *x, int32_t n_row, int64_t n, double *out);

// The leaves of `isa` (NULL: the best of this machine), or NULL if this machine cannot run them.
const struct leaf_isa *cpu_isa(const char *isa);
