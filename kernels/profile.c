// profile: a backend in front of another one, that notes how long each operation took.
#include "kernels/kernels.h"
#include "proto/base/clock.h"

#include <stdlib.h>

// The operations that are timed; what follows is made of this list.
// clang-format off
#define PROFILE_OPS(X) \
    X(embed) X(rms_norm) X(add_norm) X(gemm) X(ffn) X(gemm_each) X(gather) X(gather_experts) X(rope_table) X(rope) \
    X(kv_store) X(place) X(attention) X(conv) X(delta) X(route) X(route_sort) X(gemm_experts) X(expert_ffn) X(spread) \
    X(combine) X(glu) X(gate) X(gate_rows) X(scale_rows) X(add) X(scale) X(softcap) X(argmax) \
    X(finite) X(logsumexp) X(top) X(copy) X(zero) X(put) X(get)
// clang-format on
#define AS_NUMBER(op) PROFILE_##op,
#define AS_NAME(op) #op,
enum { PROFILE_OPS(AS_NUMBER) PROFILE_N };
static const char *const names[] = {PROFILE_OPS(AS_NAME)};
_Static_assert((int)PROFILE_N <= (int)KERNELS_PROFILE_OPS, "kernels_profile.ops is too small");

struct profile {
    struct kernels base; // first
    struct kernels *inner;
    struct kernels_profile counts;
    uint64_t wait_ns; // of inner when it was last asked
};

static struct profile *profile_of(struct kernels *k)
{
    return (struct profile *)(void *)k;
}

static void note(struct profile *p, int op, uint64_t from)
{
    if (!p->inner->is_host) p->inner->ops->get(p->inner, NULL, NULL, 0);
    // Loading puts from several threads.
    __atomic_fetch_add(&p->counts.ops[op].n, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&p->counts.ops[op].ns, (uint64_t)clock_now_ns() - from, __ATOMIC_RELAXED);
}

#define TIMED(op, params, ...)                                                                     \
    static void timed_##op params                                                                  \
    {                                                                                              \
        struct profile *p = profile_of(k);                                                         \
        const uint64_t from = (uint64_t)clock_now_ns();                                            \
        p->inner->ops->op(p->inner, __VA_ARGS__);                                                  \
        note(p, PROFILE_##op, from);                                                               \
    }
#define PASSED(type, op, params, ...)                                                              \
    static type passed_##op params                                                                 \
    {                                                                                              \
        struct kernels *in = profile_of(k)->inner;                                                 \
        return in->ops->op(__VA_ARGS__);                                                           \
    }

// clang-format off
PASSED(err_t, take, (struct kernels *k, uint64_t bytes, const char *what, void **out, struct err_text *why), in, bytes, what, out, why)
PASSED(void, give, (struct kernels *k, void *data, uint64_t bytes), in, data, bytes)
PASSED(err_t, status, (struct kernels *k, struct err_text *why), in, why)
PASSED(uint64_t, weight_bytes, (struct kernels *k, enum dtype t, int64_t rows, int64_t cols), in, t, rows, cols)
PASSED(void, weight_pack, (struct kernels *k, const void *src, int64_t row_from, int64_t n_row, struct view *dst), in, src, row_from, n_row, dst)
PASSED(uint64_t, kv_page_bytes, (struct kernels *k, const struct kv_view *kv), in, kv)
PASSED(void, leave, (struct kernels *k), in)
PASSED(uint64_t, progress, (struct kernels *k), in)
PASSED(uint64_t, wait_ns, (struct kernels *k), in)
PASSED(uint64_t, busy_ns, (struct kernels *k), in)
PASSED(void, scratch_bytes, (struct kernels *k, const struct kernels_limits *l, struct kernels_bytes *out), in, l, out)
PASSED(void, taken_bytes, (struct kernels *k, struct kernels_bytes *out), in, out)
TIMED(copy, (struct kernels *k, float *dst, int64_t dst_ld, const float *src, int64_t src_ld, int64_t n_row, int64_t n), dst, dst_ld, src, src_ld, n_row, n)
TIMED(zero, (struct kernels *k, void *dst, uint64_t bytes), dst, bytes)
TIMED(put, (struct kernels *k, void *dst, const void *src, uint64_t bytes), dst, src, bytes)
TIMED(get, (struct kernels *k, void *dst, const void *src, uint64_t bytes), dst, src, bytes)
TIMED(embed, (struct kernels *k, const struct view *table, const int32_t *ids, int32_t n_tok, float *out), table, ids, n_tok, out)
TIMED(rms_norm, (struct kernels *k, const float *x, const float *w, int64_t n_row, int32_t dim, float eps, float *y), x, w, n_row, dim, eps, y)
TIMED(gemm, (struct kernels *k, const float *x, int32_t n_tok, int32_t cols, const struct gemm_job *jobs, int32_t n_job), x, n_tok, cols, jobs, n_job)
TIMED(add_norm, (struct kernels *k, const struct add_norm *a, int64_t n_row), a, n_row)
TIMED(ffn, (struct kernels *k, const struct ffn *f, int32_t n_tok), f, n_tok)
TIMED(expert_ffn, (struct kernels *k, const struct expert_ffn *f), f)
TIMED(top, (struct kernels *k, const float *x, int64_t n, int32_t n_top, struct top_row *rows, int32_t n_row), x, n, n_top, rows, n_row)
TIMED(gemm_each, (struct kernels *k, const struct view *w, const float *x, int32_t n_tok, float *y), w, x, n_tok, y)
TIMED(gather, (struct kernels *k, const float *x, const int32_t *order, int32_t n_tok, int32_t cols, float *out), x, order, n_tok, cols, out)
TIMED(gather_experts, (struct kernels *k, const float *x, const int32_t *row, const int32_t *order, const int32_t *expert, int32_t n, int32_t cols, float *out), x, row, order, expert, n, cols, out)
TIMED(rope_table, (struct kernels *k, const struct rope *r, const int32_t *pos, int32_t n_tok, float *cos_sin), r, pos, n_tok, cos_sin)
TIMED(rope, (struct kernels *k, const struct rope *r, const float *cos_sin, int32_t n_tok, int32_t n_head, int32_t head_dim, float *x), r, cos_sin, n_tok, n_head, head_dim, x)
TIMED(kv_store, (struct kernels *k, const struct kv_view *kv, const struct attn_run *runs, int32_t n_run, const float *key, const float *value), kv, runs, n_run, key, value)
TIMED(place, (struct kernels *k, const struct attn_place *a), a)
TIMED(attention, (struct kernels *k, const struct attn_args *a), a)
TIMED(conv, (struct kernels *k, const struct conv_args *a), a)
TIMED(delta, (struct kernels *k, const struct delta_args *a), a)
TIMED(route, (struct kernels *k, const struct route_args *a, int32_t n_tok), a, n_tok)
TIMED(route_sort, (struct kernels *k, const struct route_sort *a, int32_t n_tok), a, n_tok)
TIMED(gemm_experts, (struct kernels *k, const struct expert_gemm *g), g)
TIMED(spread, (struct kernels *k, const float *x, const int32_t *at, float *weights, int32_t n_tok, int32_t n_used, int32_t dim, float *out), x, at, weights, n_tok, n_used, dim, out)
TIMED(combine, (struct kernels *k, const float *y, const int32_t *at, const float *weights, int32_t n_tok, int32_t n_used, int32_t dim, float *out), y, at, weights, n_tok, n_used, dim, out)
TIMED(glu, (struct kernels *k, const struct glu *kind, const float *gate, const float *up, int64_t n, float *out), kind, gate, up, n, out)
TIMED(gate, (struct kernels *k, float *x, const float *gate, int64_t n), x, gate, n)
TIMED(gate_rows, (struct kernels *k, float *x, const float *gate, int32_t n_tok, int32_t dim), x, gate, n_tok, dim)
TIMED(scale_rows, (struct kernels *k, float *x, const float *s, int32_t n_tok, int32_t dim), x, s, n_tok, dim)
TIMED(add, (struct kernels *k, float *x, const float *y, int64_t n), x, y, n)
TIMED(scale, (struct kernels *k, float *x, float s, int64_t n), x, s, n)
TIMED(softcap, (struct kernels *k, float *x, float cap, int64_t n), x, cap, n)
TIMED(argmax, (struct kernels *k, const float *x, int32_t n_row, int64_t n, int32_t *out), x, n_row, n, out)
TIMED(finite, (struct kernels *k, const float *x, int32_t n_row, int64_t n, bool *out), x, n_row, n, out)
TIMED(logsumexp, (struct kernels *k, const float *x, int32_t n_row, int64_t n, double *out), x, n_row, n, out)
// clang-format on

static bool counted_enter(struct kernels *k, const struct kernels_step *s)
{
    struct profile *p = profile_of(k);
    struct kernels_step each = *s;
    each.key = 0; // what is repeated as a whole cannot be timed
    p->counts.n_step++;
    return p->inner->ops->enter(p->inner, &each);
}

static void profile_close(struct kernels *k)
{
    struct profile *p = profile_of(k);
    if (p->inner) p->inner->ops->close(p->inner);
    free(p);
}

#define AS_TIMED(op) .op = timed_##op,
static const struct kernels_ops profile_ops = {.name = "profile",
                                               .close = profile_close,
                                               .take = passed_take,
                                               .give = passed_give,
                                               .status = passed_status,
                                               .weight_bytes = passed_weight_bytes,
                                               .weight_pack = passed_weight_pack,
                                               .kv_page_bytes = passed_kv_page_bytes,
                                               .enter = counted_enter,
                                               .leave = passed_leave,
                                               .progress = passed_progress,
                                               .wait_ns = passed_wait_ns,
                                               .busy_ns = passed_busy_ns,
                                               .scratch_bytes = passed_scratch_bytes,
                                               .taken_bytes = passed_taken_bytes,
                                               PROFILE_OPS(AS_TIMED)};

err_t kernels_profile_open(struct kernels *inner, struct kernels **out)
{
    struct profile *p = calloc(1, sizeof *p);
    if (!p) {
        inner->ops->close(inner);
        return ERR_MEMORY;
    }
    p->base = *inner; // whose memory, which device
    p->base.ops = &profile_ops;
    p->inner = inner;
    p->counts.n_op = PROFILE_N;
    for (int i = 0; i < PROFILE_N; i++)
        p->counts.ops[i].name = names[i];
    *out = &p->base;
    return OK;
}

struct kernels *kernels_profile_inner(struct kernels *k)
{
    return k->ops == &profile_ops ? profile_of(k)->inner : k;
}

bool kernels_profile_take(struct kernels *k, struct kernels_profile *out)
{
    if (k->ops != &profile_ops) return false;
    struct profile *p = profile_of(k);
    const uint64_t wait = p->inner->ops->wait_ns(p->inner);
    *out = p->counts;
    out->wait_ns = wait - p->wait_ns;
    p->wait_ns = wait;
    p->counts.n_step = 0;
    for (int i = 0; i < PROFILE_N; i++)
        p->counts.ops[i].n = p->counts.ops[i].ns = 0;
    return true;
}
