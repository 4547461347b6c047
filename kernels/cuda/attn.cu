// attn: KV pages and which kernel attends to them.
//
// A page holds, for each KV head, its keys and then its values, token by token:
//     keys    (page_tok, k_ld), k_ld = head_dim rounded up to 16 bytes
//     values  (page_tok, v_ld), v_ld = head_dim_v likewise; none if v_in_k
#include "kernels/cuda/attn.h"

enum {
    ATTN_PART_BYTES = 32 << 20, // for partial softmaxes
    ATTN_SPLIT_TOK = 128,       // fewest positions of a split where splits are absolute
    ATTN_EVEN_TOK = 128,        // about as few are worth one where they are not
    ATTN_FEW_ROWS = 16,
    ATTN_WAVES = 4, // blocks of threads for each processor that splits are made for
    STORE_THREADS = 128
};

struct cuda_attn {
    float *part;
    int32_t split_tok; // positions of an absolute split
};

err_t cuda_attn_open(struct cuda *c, struct err_text *why)
{
    struct cuda_attn *t = (struct cuda_attn *)calloc(1, sizeof *t);
    if (!t) return err_say(why, ERR_MEMORY, "no memory for the state of attention");
    err_t e = cuda_take(c, ATTN_PART_BYTES, "partial sums of attention", (void **)&t->part, why);
    if (e) {
        free(t);
        return e;
    }
    t->split_tok = ATTN_SPLIT_TOK;
    while ((int64_t)t->split_tok * (ATTN_SPLITS_MAX / 2) < c->lim.max_ctx)
        t->split_tok *= 2;
    c->attn = t;
    return OK;
}

void cuda_attn_close(struct cuda *c)
{
    if (c->attn && c->attn->part) c->base.ops->give(&c->base, c->attn->part, ATTN_PART_BYTES);
    free(c->attn);
    c->attn = NULL;
}

static int32_t elem_bytes(enum dtype t)
{
    return t == DT_F16 ? 2 : 4;
}

static int32_t row_elems(const struct kv_view *kv, int32_t dim)
{
    const int32_t n = 16 / elem_bytes(kv->dtype);
    return (dim + n - 1) / n * n;
}

static int64_t head_bytes(const struct kv_view *kv)
{
    const int32_t n =
        row_elems(kv, kv->head_dim) + (kv->v_in_k ? 0 : row_elems(kv, kv->head_dim_v));
    return (int64_t)kv->page_tok * n * elem_bytes(kv->dtype);
}

uint64_t cuda_attn_kv_page_bytes(struct kernels *k, const struct kv_view *kv)
{
    const struct kernels_limits *l = &cuda_of(k)->lim;
    if (kv->page_tok < 16 || kv->page_tok > 256 || (kv->page_tok & (kv->page_tok - 1))) return 0;
    if (kv->dtype != DT_F16 && kv->dtype != DT_F32) return 0;
    if (kv->n_head_kv < 1 || kv->n_head_kv > l->max_head) return 0;
    if (kv->head_dim < 1 || kv->head_dim > l->max_head_dim || kv->head_dim > ATTN_DIM_MAX) return 0;
    if (kv->head_dim_v < 1 || kv->head_dim_v > kv->head_dim) return 0;
    return (uint64_t)(kv->n_head_kv * head_bytes(kv) + 255) / 256 * 256;
}

static struct attn_dev dev_of(struct cuda *c, const struct kv_view *kv, const struct attn_run *runs,
                              int32_t n_run)
{
    struct attn_dev a;
    memset(&a, 0, sizeof a);
    a.kv = (const char *)kv->data;
    a.page_bytes = kv->page_bytes;
    a.head_bytes = head_bytes(kv);
    a.list = cuda_list_of(c, runs, n_run, kv->page_tok, NULL);
    a.n_run = n_run;
    a.n_head_kv = kv->n_head_kv;
    a.head_dim = kv->head_dim;
    a.head_dim_v = kv->head_dim_v;
    a.page_tok = kv->page_tok;
    a.page_shift = __builtin_ctz((unsigned)kv->page_tok);
    a.k_ld = row_elems(kv, kv->head_dim);
    a.v_in_k = kv->v_in_k;
    a.v_ld = kv->v_in_k ? a.k_ld : row_elems(kv, kv->head_dim_v);
    a.v_at = kv->v_in_k ? 0 : (int64_t)kv->page_tok * a.k_ld * elem_bytes(kv->dtype);
    return a;
}

static __device__ __forceinline__ void store_one(float *to, float x)
{
    *to = x;
}
static __device__ __forceinline__ void store_one(__half *to, float x)
{
    *to = __float2half_rn(x);
}

// One token and KV head; zeros behind each row's end, which tiles may read.
template <class T>
static __global__ void __launch_bounds__(STORE_THREADS)
    store_kernel(struct attn_dev a, const float *key, const float *value)
{
    int32_t number = (int32_t)blockIdx.x;
    const int32_t r = attn_run_of(a.list.runs, a.n_run, 1, 1, INT32_MAX, 1, &number);
    if (r < 0) return;
    struct attn_block b;
    b.run = a.list.runs[r];
    b.head_kv = (int32_t)blockIdx.y;
    const int32_t pos = b.run.pos_from + number, at = pos & (a.page_tok - 1);
    const int64_t row = (int64_t)(b.run.tok_from + number) * a.n_head_kv + b.head_kv;
    char *page = (char *)attn_page(&a, &b, pos);
    T *k = (T *)page + (int64_t)at * a.k_ld, *v = (T *)(page + a.v_at) + (int64_t)at * a.v_ld;
    for (int32_t d = (int32_t)threadIdx.x; d < a.k_ld; d += STORE_THREADS)
        store_one(k + d, d < a.head_dim ? key[row * a.head_dim + d] : 0.0f);
    if (a.v_in_k) return;
    for (int32_t d = (int32_t)threadIdx.x; d < a.v_ld; d += STORE_THREADS)
        store_one(v + d, d < a.head_dim_v ? value[row * a.head_dim_v + d] : 0.0f);
}

void cuda_attn_kv_store(struct kernels *k, const struct kv_view *kv, const struct attn_run *runs,
                        int32_t n_run, const float *key, const float *value)
{
    struct cuda *c = cuda_of(k);
    unsigned n_tok = 0;
    for (int32_t i = 0; i < n_run; i++)
        n_tok += (unsigned)runs[i].n_tok;
    if (n_tok == 0) return;
    const struct attn_dev a = dev_of(c, kv, runs, n_run);
    const dim3 grid(n_tok, (unsigned)kv->n_head_kv);
    if (kv->dtype == DT_F16)
        LAUNCH(store_kernel<__half>, grid, STORE_THREADS, 0, c->stream, a, key, value);
    else
        LAUNCH(store_kernel<float>, grid, STORE_THREADS, 0, c->stream, a, key, value);
}

// What one launch of a kernel has before it: blocks of the runs it takes and the most positions
// that any of their rows sees.
struct attn_plan {
    int64_t n_block;
    int32_t sees;   // positions from a run's first seen to its last
    int32_t splits; // absolute ones that they lie in, at most
};

static int32_t sight(const struct attn_args *a, int32_t pos)
{
    const int32_t w = a->window > 0 && pos >= a->window ? pos - a->window + 1 : 0;
    const int32_t c = a->chunk > 0 ? pos - pos % a->chunk : 0;
    return w > c ? w : c;
}

// Of runs with rows_min to rows_max rows of a KV head.
static struct attn_plan plan_of(struct cuda *c, const struct attn_args *a, const struct attn_dev *d)
{
    const int32_t tok = c->attn->split_tok;
    struct attn_plan p = {0, 0, 0};
    for (int32_t i = 0; i < a->n_run; i++) {
        const struct attn_run *r = &a->runs[i];
        const int32_t rows = r->n_tok * d->group;
        if (rows < d->rows_min || rows > d->rows_max) continue;
        p.n_block += (rows + d->block_rows - 1) / d->block_rows;
        const int32_t lo = sight(a, r->pos_from), last = r->pos_from + r->n_tok - 1;
        const int32_t splits = last / tok - lo / tok + 1;
        p.sees = last + 1 - lo > p.sees ? last + 1 - lo : p.sees;
        p.splits = splits > p.splits ? splits : p.splits;
    }
    if (cuda_is_fixed(c)) { // one token each, as far on as may be
        p.sees = c->lim.max_ctx;
        if (a->window > 0 && a->window < p.sees) p.sees = a->window;
        if (a->chunk > 0 && a->chunk < p.sees) p.sees = a->chunk;
        p.splits = (c->lim.max_ctx + tok - 1) / tok;
        if ((p.sees + tok - 2) / tok + 1 < p.splits) p.splits = (p.sees + tok - 2) / tok + 1;
    }
    return p;
}

// The launches of one kernel: as many blocks at a time as have room for their partial softmaxes.
static void attend(struct cuda *c, const struct attn_args *args, struct attn_dev *a,
                   const struct attn_kernel *k)
{
    a->block_rows = k->block_rows;
    const struct attn_plan p = plan_of(c, args, a);
    if (p.n_block == 0) return;
    const int64_t heads = a->n_head_kv, all = p.n_block * heads;
    const int64_t one = a->block_rows * attn_part_ld(a->head_dim_v) * (int64_t)sizeof(float);
    if (c->lim.precision == PRECISION_EXACT) {
        a->n_split = p.splits;
        a->split_tok = c->attn->split_tok;
    } else {
        int64_t n = (ATTN_WAVES * c->n_sm + all - 1) / all, most = cuda_ceil(p.sees, ATTN_EVEN_TOK);
        most = most < ATTN_PART_BYTES / (one * all) ? most : ATTN_PART_BYTES / (one * all);
        n = n < most ? n : most;
        a->n_split = (int32_t)min(max(n, (int64_t)1), (int64_t)ATTN_SPLITS_MAX);
        a->split_tok = 0;
    }
    BUG_ON(a->n_split > ATTN_SPLITS_MAX);
    const int64_t room = a->n_split > 1 ? ATTN_PART_BYTES / (one * a->n_split) : all;
    const int64_t n_head = room < heads ? room : heads, n_block = room < heads ? 1 : room / heads;
    for (int64_t b = 0; b < p.n_block; b += n_block)
        for (int64_t h = 0; h < heads; h += n_head) {
            a->block_from = (int32_t)b;
            a->head_kv_from = (int32_t)h;
            const unsigned x = (unsigned)(p.n_block - b < n_block ? p.n_block - b : n_block);
            const unsigned z = (unsigned)(heads - h < n_head ? heads - h : n_head);
            LAUNCH(k->fn, dim3(x, (unsigned)a->n_split, z), (unsigned)k->threads, k->shared,
                   c->stream, *a);
            if (a->n_split > 1) attn_plain_combine(c, a, (int32_t)x, (int32_t)z);
        }
}

void cuda_attn_run(struct kernels *k, const struct attn_args *args)
{
    struct cuda *c = cuda_of(k);
    if (args->n_run == 0) return;
    struct attn_dev a = dev_of(c, &args->kv, args->runs, args->n_run);
    BUG_ON(!args->group && args->n_head % args->kv.n_head_kv);
    a.q = args->q;
    a.out = args->out;
    a.sinks = args->sinks;
    a.part = c->attn->part;
    a.n_head = args->n_head;
    a.group = args->group ? args->group : args->n_head / args->kv.n_head_kv;
    a.head_from = args->head_from;
    a.scale = args->scale;
    a.softcap = args->softcap;
    a.window = args->window;
    a.chunk = args->chunk;
    BUG_ON(a.head_from + a.n_head > a.group * a.n_head_kv || a.head_dim > ATTN_DIM_MAX);
    // Runs of few rows and the others have kernels of their own; the plain one takes all.
    const int32_t edge[3] = {0, ATTN_FEW_ROWS, INT32_MAX};
    struct attn_kernel kernel;
    for (int i = 0; i < 2; i++) {
        a.rows_min = edge[i] + 1;
        a.rows_max = edge[i + 1];
        if (c->lim.precision == PRECISION_EXACT ||
            !attn_mma_kernel(&args->kv, edge[i + 1], c->info.shared_block_bytes, &kernel)) {
            a.rows_max = INT32_MAX;
            kernel = attn_plain_kernel(&args->kv);
            i = 1;
        }
        attend(c, args, &a, &kernel);
    }
}
