// cuda: the CUDA backend's own state, shared by the .cu files of this folder. One file per kind of
// operation, as in kernels/cpu; device.h stands between them and the run-time.
//
// Operations given to the stream must not read host memory later: lists come through `enter` to
// fixed addresses on the device (cuda_list_of, cuda_ints_of), other host values go by value in the
// kernels' arguments. While a step is recorded (its key is not 0), grids are chosen by what the key
// fixes: the numbers of rows and runs, never lengths, which are read on the device.
#pragma once
#include "kernels/cuda/simt.h"
#include "kernels/cuda/device.h"
#include <pthread.h>

// attn_run as kernels read it. The table of pages begins at pages + page_at.
struct alignas(16) cuda_run {
    int32_t tok_from, n_tok, pos_from, page_at;
    uint32_t slot;
    int32_t pad[3];
};
struct cuda_list {
    const struct cuda_run *runs;
    const int32_t *pages;
};

struct cuda_stage;  // cuda_step.cu: pinned memory, lists, graphs
struct cuda_gemm;   // gemm.cu
struct cuda_attn;   // attn.cu
struct cuda_sample; // sample.cu
struct cuda_top;    // top.cu

struct cuda {
    struct kernels base; // first: the ops take struct kernels *
    struct kernels_limits lim;
    struct device *dev;
    struct device_info info;
    cudaStream_t stream;
    int32_t n_sm; // multiprocessors
    struct cuda_stage *stage;
    struct cuda_gemm *gemm;
    struct cuda_attn *attn;
    struct cuda_sample *sample;
    struct cuda_top *top;
    int32_t *counts;       // (CUDA_EXPERTS_MAX + 1) of route_sort
    uint64_t n_op;         // progress
    bool is_behind_kernel; // what the compute thread gave to the stream last
    uint64_t n_given;      // how much it has given
    pthread_mutex_t lock;
    err_t err; // first of our own; the device has others
    struct err_text why;
};

enum { CUDA_EXPERTS_MAX = 4096 };

static inline struct cuda *cuda_of(struct kernels *k)
{
    return (struct cuda *)(void *)k;
}
static inline int32_t cuda_ceil(int64_t n, int64_t by)
{
    return (int32_t)((n + by - 1) / by);
}

// Whether a kernel that is launched now may begin while the one before it ends (LAUNCH_NEXT):
// behind another kernel, on devices that can, for which the module has such code, and where nothing
// else was asked for. Not yet on those of 12.x, where others found that it could not be recorded
// (github.com/sgl-project/sglang/pull/18596).
static inline bool cuda_begins_early(struct cuda *c)
{
    const bool follows = c->is_behind_kernel;
    c->n_given++;
    c->is_behind_kernel = true;
    return follows && c->info.sm >= 90 && c->info.sm < 120 && c->info.code >= 90 && !c->lim.eager;
}
// Something else was given to the stream.
static inline void cuda_no_kernel(struct cuda *c)
{
    c->n_given++;
    c->is_behind_kernel = false;
}

// -- cuda_step.cu: from the host to the device --
err_t cuda_step_open(struct cuda *c, struct err_text *why);
void cuda_step_close(struct cuda *c);
// Lists of this step (told to enter), else uploaded at once.
struct cuda_list cuda_list_of(struct cuda *c, const struct attn_run *runs, int32_t n_run,
                              int32_t page_tok, const uint32_t *slots);
const int32_t *cuda_ints_of(struct cuda *c, const int32_t *host, int32_t n);
// The operations of this step may be repeated with other lists: lengths on the host are not those
// that the kernels will see. All runs have one token.
bool cuda_is_fixed(const struct cuda *c);
// Through pinned memory, in the stream's order; src may change at once. Any thread.
void cuda_step_put(struct kernels *k, void *dst, const void *src, uint64_t bytes);
// The same without a copy: pinned memory of cuda_step_loan_bytes to be filled, then sent and no
// longer touched. Any thread; one that has a loan asks for no other.
uint64_t cuda_step_loan_bytes(const struct cuda *c);
void *cuda_step_borrow(struct cuda *c, int32_t *loan);
void cuda_step_send(struct cuda *c, int32_t loan, void *dst, uint64_t bytes);
// Waits for everything given to the stream before.
void cuda_step_get(struct kernels *k, void *dst, const void *src, uint64_t bytes);
bool cuda_step_enter(struct kernels *k, const struct kernels_step *s);
void cuda_step_leave(struct kernels *k);

// Keeps the first error for `status`.
void cuda_fail(struct cuda *c, err_t e, const char *why);
// Memory of this backend for its own use. ERR_MEMORY.
err_t cuda_take(struct cuda *c, uint64_t bytes, const char *what, void **out, struct err_text *why);

// -- each file's scratch --
err_t cuda_gemm_open(struct cuda *c, struct err_text *why);
void cuda_gemm_close(struct cuda *c);
err_t cuda_attn_open(struct cuda *c, struct err_text *why);
void cuda_attn_close(struct cuda *c);
err_t cuda_sample_open(struct cuda *c, struct err_text *why);
void cuda_sample_close(struct cuda *c);
err_t cuda_top_open(struct cuda *c, struct err_text *why);
void cuda_top_close(struct cuda *c);

// -- group.cu --
err_t cuda_group_open(struct kernels *k, const struct kernels_group_config *c,
                      struct kernels_group **out, struct err_text *why);

// -- operations --
uint64_t cuda_quant_weight_bytes(struct kernels *k, enum dtype t, int64_t rows, int64_t cols);
void cuda_quant_weight_pack(struct kernels *k, const void *src, int64_t row_from, int64_t n_row,
                            struct view *dst);
void cuda_quant_embed(struct kernels *k, const struct view *table, const int32_t *ids,
                      int32_t n_tok, float *out);
void cuda_gemm_run(struct kernels *k, const float *x, int32_t n_tok, int32_t cols,
                   const struct gemm_job *jobs, int32_t n_job);
void cuda_gemm_each(struct kernels *k, const struct view *w, const float *x, int32_t n_tok,
                    float *y);
void cuda_gemm_experts(struct kernels *k, const struct expert_gemm *e);
uint64_t cuda_attn_kv_page_bytes(struct kernels *k, const struct kv_view *kv);
void cuda_attn_kv_store(struct kernels *k, const struct kv_view *kv, const struct attn_run *runs,
                        int32_t n_run, const float *key, const float *value);
void cuda_attn_place(struct kernels *k, const struct attn_place *a);
void cuda_attn_run(struct kernels *k, const struct attn_args *a);
void cuda_conv_run(struct kernels *k, const struct conv_args *a);
void cuda_delta_run(struct kernels *k, const struct delta_args *a);
void cuda_norm_rms(struct kernels *k, const float *x, const float *w, int64_t n_row, int32_t dim,
                   float eps, float *y);
void cuda_norm_add(struct kernels *k, const struct add_norm *a, int64_t n_row);
void cuda_ffn_run(struct kernels *k, const struct ffn *f, int32_t n_tok);
void cuda_ffn_experts(struct kernels *k, const struct expert_ffn *f);
void cuda_rope_table(struct kernels *k, const struct rope *r, const int32_t *pos, int32_t n_tok,
                     float *cos_sin);
void cuda_rope_turn(struct kernels *k, const struct rope *r, const float *cos_sin, int32_t n_tok,
                    int32_t n_head, int32_t head_dim, float *x);
void cuda_moe_route(struct kernels *k, const struct route_args *a, int32_t n_tok);
void cuda_moe_route_sort(struct kernels *k, const struct route_sort *a, int32_t n_tok);
void cuda_moe_combine(struct kernels *k, const float *y, const int32_t *at, const float *weights,
                      int32_t n_tok, int32_t n_used, int32_t dim, float *out);
void cuda_act_gather(struct kernels *k, const float *x, const int32_t *order, int32_t n_tok,
                     int32_t cols, float *out);
void cuda_act_gather_experts(struct kernels *k, const float *x, const int32_t *row,
                             const int32_t *order, const int32_t *expert, int32_t n, int32_t cols,
                             float *out);
void cuda_moe_spread(struct kernels *k, const float *x, const int32_t *at, float *weights,
                     int32_t n_tok, int32_t n_used, int32_t dim, float *out);
void cuda_act_glu(struct kernels *k, const struct glu *kind, const float *gate, const float *up,
                  int64_t n, float *out);
void cuda_act_gate(struct kernels *k, float *x, const float *gate, int64_t n);
void cuda_act_gate_rows(struct kernels *k, float *x, const float *gate, int32_t n_tok, int32_t dim);
void cuda_act_scale_rows(struct kernels *k, float *x, const float *s, int32_t n_tok, int32_t dim);
void cuda_act_add(struct kernels *k, float *x, const float *y, int64_t n);
void cuda_act_scale(struct kernels *k, float *x, float s, int64_t n);
void cuda_act_softcap(struct kernels *k, float *x, float cap, int64_t n);
void cuda_sample_argmax(struct kernels *k, const float *x, int32_t n_row, int64_t n, int32_t *out);
void cuda_sample_finite(struct kernels *k, const float *x, int32_t n_row, int64_t n, bool *out);
void cuda_top_run(struct kernels *k, const float *x, int64_t n, int32_t n_top, struct top_row *rows,
                  int32_t n_row);
void cuda_sample_logsumexp(struct kernels *k, const float *x, int32_t n_row, int64_t n,
                           double *out);
