// cuda: opening and closing the backend, its table, and what the module shows.
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/module.h"
#include "kernels/cuda/peaks.h"
extern "C" {
#include "proto/base/map.h"
}

#include <stdlib.h>

#ifdef __CUDACC__
#define CUDA_NAME "cuda"
#else
#define CUDA_NAME "cuda on host"
#endif

static err_t cuda_take_memory(struct kernels *k, uint64_t bytes, const char *what, void **out,
                              struct err_text *why)
{
    return device_take(cuda_of(k)->dev, bytes, what, out, why);
}

static void cuda_give_memory(struct kernels *k, void *data, uint64_t bytes)
{
    (void)bytes;
    device_give(cuda_of(k)->dev, data);
}

static void cuda_copy(struct kernels *k, float *dst, int64_t dst_ld, const float *src,
                      int64_t src_ld, int64_t n_row, int64_t n)
{
    cuda_no_kernel(cuda_of(k));
    device_copy(cuda_of(k)->dev, dst, (uint64_t)dst_ld * sizeof *dst, src,
                (uint64_t)src_ld * sizeof *src, (uint64_t)n * sizeof *dst, (uint64_t)n_row);
}

static void cuda_zero(struct kernels *k, void *dst, uint64_t bytes)
{
    cuda_no_kernel(cuda_of(k));
    device_zero(cuda_of(k)->dev, dst, bytes);
}

void cuda_fail(struct cuda *c, err_t e, const char *why)
{
    pthread_mutex_lock(&c->lock);
    if (!c->err) err_say(&c->why, e, "%s", why);
    if (!c->err) c->err = e;
    pthread_mutex_unlock(&c->lock);
}

static err_t cuda_status(struct kernels *k, struct err_text *why)
{
    struct cuda *c = cuda_of(k);
    pthread_mutex_lock(&c->lock);
    const err_t e = c->err;
    pthread_mutex_unlock(&c->lock);
    return e ? err_say(why, e, "%s", c->why.s) : device_error(c->dev, why);
}

static uint64_t cuda_wait_ns(struct kernels *k)
{
    (void)k; // no pool
    return 0;
}

static uint64_t cuda_progress(struct kernels *k)
{
    return __atomic_load_n(&cuda_of(k)->n_op, __ATOMIC_RELAXED);
}

static void cuda_close(struct kernels *k)
{
    if (!k) return;
    struct cuda *c = cuda_of(k);
    device_enter(c->dev);
    cuda_gemm_close(c);
    cuda_attn_close(c);
    cuda_sample_close(c);
    cuda_top_close(c);
    device_give(c->dev, c->counts);
    cuda_step_close(c);
    device_close(c->dev);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static uint64_t cuda_busy_ns(struct kernels *k)
{
    device_enter(cuda_of(k)->dev);
    return device_work_ns(cuda_of(k)->dev, DEVICE_STEPS);
}

static void cuda_taken_bytes(struct kernels *k, struct kernels_bytes *out)
{
    device_taken(cuda_of(k)->dev, out);
    out->host += map_taken();
}

static void cuda_scratch_bytes(struct kernels *k, const struct kernels_limits *l,
                               struct kernels_bytes *out);

static const struct kernels_ops ops = {
    .name = CUDA_NAME,
    .close = cuda_close,
    .take = cuda_take_memory,
    .give = cuda_give_memory,
    .put = cuda_step_put,
    .get = cuda_step_get,
    .copy = cuda_copy,
    .zero = cuda_zero,
    .status = cuda_status,
    .scratch_bytes = cuda_scratch_bytes,
    .taken_bytes = cuda_taken_bytes,
    .weight_bytes = cuda_quant_weight_bytes,
    .weight_pack = cuda_quant_weight_pack,
    .kv_page_bytes = cuda_attn_kv_page_bytes,
    .enter = cuda_step_enter,
    .leave = cuda_step_leave,
    .embed = cuda_quant_embed,
    .rms_norm = cuda_norm_rms,
    .add_norm = cuda_norm_add,
    .gemm = cuda_gemm_run,
    .ffn = cuda_ffn_run,
    .gemm_each = cuda_gemm_each,
    .gather = cuda_act_gather,
    .gather_experts = cuda_act_gather_experts,
    .rope_table = cuda_rope_table,
    .rope = cuda_rope_turn,
    .kv_store = cuda_attn_kv_store,
    .place = cuda_attn_place,
    .attention = cuda_attn_run,
    .conv = cuda_conv_run,
    .delta = cuda_delta_run,
    .route = cuda_moe_route,
    .route_sort = cuda_moe_route_sort,
    .gemm_experts = cuda_gemm_experts,
    .expert_ffn = cuda_ffn_experts,
    .spread = cuda_moe_spread,
    .combine = cuda_moe_combine,
    .glu = cuda_act_glu,
    .gate = cuda_act_gate,
    .gate_rows = cuda_act_gate_rows,
    .scale_rows = cuda_act_scale_rows,
    .add = cuda_act_add,
    .scale = cuda_act_scale,
    .softcap = cuda_act_softcap,
    .argmax = cuda_sample_argmax,
    .finite = cuda_sample_finite,
    .logsumexp = cuda_sample_logsumexp,
    .top = cuda_top_run,
    .progress = cuda_progress,
    .wait_ns = cuda_wait_ns,
    .busy_ns = cuda_busy_ns,
};

static err_t check_limits(const struct kernels_limits *l, struct err_text *why)
{
    const struct {
        const char *name;
        int64_t value, min, max;
    } all[] = {
        {"threads", l->n_threads, 1, 1 << 12},
        {"rows in one call", l->max_tok, 1, 1 << 16},
        {"gemm columns", l->max_cols, 1, 1 << 20},
        {"gemm rows", l->max_rows, 1, 1 << 24},
        {"heads", l->max_head, 1, 1 << 12},
        {"head dimension", l->max_head_dim, 1, 1 << 12},
        {"context", l->max_ctx, 1, 1 << 28},
        {"rows of experts", l->max_expert_rows, 0, 1 << 24},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].value < all[i].min || all[i].value > all[i].max)
            return err_say(why, ERR_CONFIG, "cuda backend: %lld %s, allowed are %lld to %lld",
                           (long long)all[i].value, all[i].name, (long long)all[i].min,
                           (long long)all[i].max);
    if (l->precision != PRECISION_FAST && l->precision != PRECISION_EXACT)
        return err_say(why, ERR_CONFIG, "cuda backend: unknown precision %d", (int)l->precision);
    return OK;
}

static err_t take_parts(struct cuda *c, struct err_text *why)
{
    err_t e = cuda_step_open(c, why);
    if (!e)
        e = cuda_take(c, (CUDA_EXPERTS_MAX + 1) * sizeof *c->counts, "counts of experts",
                      (void **)&c->counts, why);
    if (!e) e = cuda_gemm_open(c, why);
    if (!e) e = cuda_attn_open(c, why);
    if (!e) e = cuda_sample_open(c, why);
    if (!e) e = cuda_top_open(c, why);
    return e;
}

// Everything is opened on a device that counts.
static void cuda_scratch_bytes(struct kernels *k, const struct kernels_limits *l,
                               struct kernels_bytes *out)
{
    struct kernels_bytes none = {};
    struct cuda *c = (struct cuda *)calloc(1, sizeof *c);
    *out = none;
    if (!c || device_open_counter(&c->dev, NULL)) {
        free(c);
        cuda_fail(cuda_of(k), ERR_MEMORY, "cuda: no memory");
        return;
    }
    c->base = *k;
    c->lim = *l;
    c->info = cuda_of(k)->info;
    c->n_sm = cuda_of(k)->n_sm;
    pthread_mutex_init(&c->lock, NULL);
    if (take_parts(c, NULL)) cuda_fail(cuda_of(k), ERR_MEMORY, "cuda: no memory");
    device_taken(c->dev, out);
    cuda_close(&c->base);
}

static err_t cuda_open(int32_t device, const struct kernels_limits *limits, struct kernels **out,
                       struct err_text *why)
{
    struct device_info info;
    err_t e = check_limits(limits, why);
    if (!e) e = device_about(device, &info, why);
    if (e) return e;
    struct device *dev;
    e = device_open(device, &dev, why);
    if (e) return e;
    struct cuda *c = (struct cuda *)calloc(1, sizeof *c);
    if (!c) {
        device_close(dev);
        return err_say(why, ERR_MEMORY, "cuda: no memory");
    }
    c->base.ops = &ops;
    c->base.is_host = false;
    c->base.device = device;
    c->lim = *limits;
    c->dev = dev;
    c->info = info;
    c->stream = device_stream(dev);
    c->n_sm = info.n_processor;
    pthread_mutex_init(&c->lock, NULL);
    e = take_parts(c, why);
    if (e) {
        cuda_close(&c->base);
        return e;
    }
    *out = &c->base;
    return OK;
}

extern "C" {
extern const struct kernels_module kernels_cuda_module __attribute__((visibility("default")));
const struct kernels_module kernels_cuda_module = {
    .version = KERNELS_MODULE_VERSION,
    .ops_bytes = sizeof(struct kernels_ops),
    .limits_bytes = sizeof(struct kernels_limits),
    .step_bytes = sizeof(struct kernels_step),
    .name = CUDA_NAME,
    .count = device_count,
    .about = device_about,
    .open = cuda_open,
    .peaks = peaks_measure,
    .group = cuda_group_open,
};
}
