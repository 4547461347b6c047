#include "kernels/cpu/cpu.h"
#include "proto/base/log.h"
#include "proto/base/map.h"

#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

static void cpu_close(struct kernels *k)
{
    if (!k) return;
    struct cpu *c = cpu_of(k);
    pool_close(c->pool);
    for (int32_t i = 0; c->scratch && i < c->lim.n_threads; i++)
        free(c->scratch[i]);
    free(c->scratch);
    free(c->xq);
    free(c->xe);
    free(c->xr);
    free(c->parts);
    free(c->share_at);
    free(c->row_at);
    free(c->part_attn);
    free(c->freq);
    free(c->part_sum);
    free(c->part_max);
    free(c);
}

static void cpu_scratch_bytes(struct kernels *k, const struct kernels_limits *l,
                              struct kernels_bytes *out);
static void cpu_taken_bytes(struct kernels *k, struct kernels_bytes *out);

static uint64_t cpu_busy_ns(struct kernels *k)
{
    (void)k;
    return 0;
}

static uint64_t cpu_wait_ns(struct kernels *k)
{
    return pool_wait_ns(cpu_of(k)->pool);
}

static uint64_t cpu_progress(struct kernels *k)
{
    return pool_progress(cpu_of(k)->pool);
}

#define CPU_OPS(isa)                                                                               \
    {                                                                                              \
        .name = "cpu " isa, .close = cpu_close, .take = mem_take_pages, .give = mem_give_pages,    \
        .put = mem_move, .get = mem_move, .copy = mem_copy, .zero = mem_zero,                      \
        .status = mem_status, .weight_bytes = quant_weight_bytes,                                  \
        .weight_pack = quant_weight_pack, .kv_page_bytes = attn_kv_page_bytes, .enter = mem_enter, \
        .leave = mem_leave, .embed = quant_embed, .rms_norm = norm_rms, .add_norm = norm_add,      \
        .gemm = gemm_run, .ffn = ffn_run, .expert_ffn = ffn_run_experts,                           \
        .gemm_each = gemm_run_each, .gemm_experts = gemm_run_experts, .gather = gemm_gather,       \
        .gather_experts = gemm_gather_experts, .rope_table = rope_table, .rope = rope_turn,        \
        .kv_store = attn_kv_store, .place = place_run, .attention = attn_run_all,                  \
        .conv = conv_run, .delta = delta_run, .route = moe_route, .route_sort = moe_route_sort,    \
        .spread = moe_spread, .combine = moe_combine, .glu = act_glu, .gate = act_gate,            \
        .gate_rows = act_gate_rows, .scale_rows = act_scale_rows, .add = act_add,                  \
        .scale = act_scale, .softcap = act_softcap, .argmax = sample_argmax,                       \
        .finite = sample_finite, .logsumexp = sample_logsumexp, .progress = cpu_progress,          \
        .wait_ns = cpu_wait_ns, .busy_ns = cpu_busy_ns, .scratch_bytes = cpu_scratch_bytes,        \
        .taken_bytes = cpu_taken_bytes,                                                            \
    }

// Best first.
static const struct {
    const char *name;
    const struct leaf_isa *leaf;
    struct kernels_ops ops;
} isas[] = {
#if defined(__x86_64__)
    {"vnni", &leaf_vnni, CPU_OPS("vnni")},
    {"avx2", &leaf_avx2, CPU_OPS("avx2")},
#endif
#if defined(__aarch64__)
    {"i8mm", &leaf_i8mm, CPU_OPS("i8mm")},
    {"dotprod", &leaf_dotprod, CPU_OPS("dotprod")},
    {"neon", &leaf_neon, CPU_OPS("neon")},
#endif
    {"reference", &leaf_reference, CPU_OPS("reference")},
};
enum { N_ISA = sizeof isas / sizeof *isas };

#if defined(__x86_64__)
static bool machine_can(const char *isa)
{
    // The builtin also asks whether the system saves the registers; it does not know F16C.
    unsigned a, b, c, d;
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                          __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
    if (!strcmp(isa, "vnni"))
        return has_avx2 && __builtin_cpu_supports("avx512vnni") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
    return has_avx2 || strcmp(isa, "avx2");
}
#else
static bool machine_can(const char *isa)
{
#if defined(__aarch64__)
    const bool has_dot = getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
    if (!strcmp(isa, "i8mm")) return has_dot && getauxval(AT_HWCAP2) & HWCAP2_I8MM;
    if (!strcmp(isa, "dotprod")) return has_dot;
#endif
    (void)isa;
    return true; // NEON is part of every AArch64
}
#endif

static int find_isa(const char *isa)
{
    for (int i = 0; i < N_ISA; i++)
        if ((!isa || !strcmp(isa, isas[i].name)) && machine_can(isas[i].name)) return i;
    return -1;
}

const struct leaf_isa *cpu_isa(const char *isa)
{
    int i = find_isa(isa);
    return i < 0 ? NULL : isas[i].leaf;
}

enum kernels_path kernels_path_of(enum dtype t)
{
    static const enum kernels_path paths[] = {
        [PACKED_NONE] = KERNELS_PATH_NONE,         [PACKED_COLUMNS] = KERNELS_PATH_FLOAT,
        [PACKED_FLOAT_CODES] = KERNELS_PATH_FLOAT, [PACKED_BLOCKS] = KERNELS_PATH_BLOCKS,
        [PACKED_FILE] = KERNELS_PATH_DECODED,
    };
    return paths[packed_info((int)t).kind];
}

static err_t check_limits(const struct kernels_limits *l, struct err_text *why)
{
    const struct {
        const char *name;
        int64_t value, max;
    } all[] = {
        {"threads", l->n_threads, POOL_THREADS_MAX},
        {"rows in one call", l->max_tok, 1 << 16},
        {"gemm columns", l->max_cols, 1 << 20},
        {"gemm rows", l->max_rows, 1 << 24},
        {"heads", l->max_head, 1 << 12},
        {"head dimension", l->max_head_dim, 1 << 12},
        {"context", l->max_ctx, 1 << 28},
        {"rows of experts", l->max_expert_rows, 1 << 24},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].value < (all[i].value == l->max_expert_rows ? 0 : 1) ||
            all[i].value > all[i].max)
            return err_say(why, ERR_CONFIG, "cpu backend: %lld %s, allowed are 1 to %lld",
                           (long long)all[i].value, all[i].name, (long long)all[i].max);
    if (l->precision != PRECISION_FAST && l->precision != PRECISION_EXACT)
        return err_say(why, ERR_CONFIG, "cpu backend: unknown precision %d", (int)l->precision);
    return OK;
}

static void *zeroed(size_t bytes)
{
    bytes = (bytes + 63) / 64 * 64;
    void *p = aligned_alloc(64, bytes);
    if (p) memset(p, 0, bytes);
    return p;
}

enum { SCRATCH_HEAD = (sizeof(struct cpu_scratch) + 63) / 64 * 64 };

static size_t v_stride_of(const struct kernels_limits *l)
{
    return ((size_t)l->max_head_dim + 7) / 8 * 8;
}

// Of one thread.
static size_t scratch_bytes(size_t vs)
{
    const size_t n_attn = LEAF_ATTN_FLOATS(vs);
    const size_t n = LEAF_GEMM_FLOATS + n_attn + ATTN_BLOCK * vs + LEAF_DELTA_FLOATS;
    return SCRATCH_HEAD + n * sizeof(float) + 64;
}

static struct cpu_scratch *scratch_new(size_t vs)
{
    const size_t n_attn = LEAF_ATTN_FLOATS(vs), head = SCRATCH_HEAD;
    char *p = zeroed(scratch_bytes(vs));
    if (!p) return NULL;
    struct cpu_scratch *s = (void *)p;
    s->gemm = (void *)(p + head);
    s->attn = s->gemm + LEAF_GEMM_FLOATS;
    s->o = s->attn + n_attn;
    s->delta = s->o + ATTN_BLOCK * vs;
    return s;
}

// What a backend takes for all its threads, for those who take it and those who count.
struct part {
    void *to; // a pointer's address
    size_t bytes;
};
enum { PARTS_MAX = 16 };

static int32_t parts_of(struct cpu *c, struct part out[PARTS_MAX])
{
    const struct kernels_limits *l = &c->lim;
    const bool fast = l->precision != PRECISION_EXACT;
    const size_t n_tok = (size_t)l->max_tok, n_expert_row = (size_t)l->max_expert_rows;
    const size_t chunks = ((size_t)l->max_rows - 1) / REDUCE_CHUNK + 1;
    const size_t row = ((size_t)l->max_cols / BLOCK_COLS + 1) * XQ_BYTES;
    const size_t most = n_tok > n_expert_row ? n_tok : n_expert_row;
    const struct part all[] = {
        {&c->share_at, n_tok * sizeof *c->share_at},
        {&c->row_at, n_tok * sizeof *c->row_at},
        {&c->part_attn, ATTN_PART_FLOATS * (size_t)l->n_threads * sizeof *c->part_attn},
        {&c->freq, ((size_t)l->max_head_dim / 2 + 1) * sizeof *c->freq},
        {&c->part_sum, n_tok * chunks * sizeof *c->part_sum},
        {&c->part_max, n_tok * chunks * sizeof *c->part_max},
        {&c->scratch, (size_t)l->n_threads * sizeof *c->scratch},
        {&c->parts, (n_expert_row + 1) * sizeof *c->parts},
        {&c->xq, fast ? most * row : 0},
        {&c->xr, fast ? n_tok * row : 0},
        {&c->xe, fast ? n_expert_row * row : 0},
    };
    memcpy(out, all, sizeof all);
    return sizeof all / sizeof *all;
}

static bool take_memory(struct cpu *c)
{
    struct part parts[PARTS_MAX];
    const int32_t n = parts_of(c, parts);
    for (int32_t i = 0; i < n; i++) {
        void *p = parts[i].bytes ? zeroed(parts[i].bytes) : NULL;
        if (!p && parts[i].bytes) return false;
        memcpy(parts[i].to, &p, sizeof p);
    }
    for (int32_t i = 0; i < c->lim.n_threads; i++)
        if (!(c->scratch[i] = scratch_new(v_stride_of(&c->lim)))) return false;
    return true;
}

static void cpu_scratch_bytes(struct kernels *k, const struct kernels_limits *l,
                              struct kernels_bytes *out)
{
    struct cpu like = {.lim = *l};
    struct part parts[PARTS_MAX];
    const int32_t n = parts_of(&like, parts);
    uint64_t sum = (uint64_t)l->n_threads * scratch_bytes(v_stride_of(l));
    (void)k;
    for (int32_t i = 0; i < n; i++)
        sum += parts[i].bytes;
    *out = (struct kernels_bytes){.own = sum};
}

static void cpu_taken_bytes(struct kernels *k, struct kernels_bytes *out)
{
    cpu_scratch_bytes(k, &cpu_of(k)->lim, out);
    out->own += map_taken();
}

err_t kernels_open_cpu(const char *isa, const struct kernels_limits *limits, struct kernels **out,
                       struct err_text *why)
{
    int i = find_isa(isa);
    if (i < 0)
        return err_say(why, ERR_UNSUPPORTED, "cpu backend: this machine cannot run \"%s\"", isa);
    err_t e = check_limits(limits, why);
    if (e) return e;
    struct cpu *c = zeroed(sizeof *c);
    if (!c) return err_say(why, ERR_MEMORY, "cpu backend: no memory");
    quant_grid_open();
    c->base.ops = &isas[i].ops;
    c->base.is_host = true;
    c->isa = isas[i].leaf;
    c->lim = *limits;
    e = take_memory(c) ? pool_open(limits->n_threads, &c->pool) : ERR_MEMORY;
    if (e) {
        cpu_close(&c->base);
        return err_say(why, e, "cpu backend: no %s for %d threads and %d rows",
                       e == ERR_MEMORY ? "memory" : "threads", (int)limits->n_threads,
                       (int)limits->max_tok);
    }
    *out = &c->base;
    return OK;
}

struct range_call {
    struct cpu *c;
    cpu_range_fn *fn;
    void *arg;
    int64_t n, grain;
};

static void range_item(void *arg, int32_t item, int32_t thread)
{
    (void)thread;
    struct range_call *r = arg;
    int64_t from = item * r->grain, to = from + r->grain;
    r->fn(r->c, r->arg, from, to < r->n ? to : r->n);
}

void cpu_for(struct cpu *c, int64_t n, int64_t grain, cpu_range_fn *fn, void *arg)
{
    struct range_call r = {c, fn, arg, n, grain < 1 ? 1 : grain};
    while ((n + r.grain - 1) / r.grain > INT32_MAX)
        r.grain *= 2;
    pool_run(c->pool, (int32_t)((n + r.grain - 1) / r.grain), range_item, &r);
}
