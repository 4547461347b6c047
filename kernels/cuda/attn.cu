// attn: KV pages and which kernel attends to them.
//
// A page holds, for each KV head, its keys and then its values, token by token:
//     keys    (page_tok, k_ld), k_ld = head_dim rounded up to 16 bytes
//     values  (page_tok, v_ld), v_ld = head_dim_v likewise; none if v_in_k
// and of types of 8 bits (attn.h) float scales of the keys (page_tok, k_scales), then of the
// values.
#include "kernels/cuda/attn.h"

enum {
    ATTN_PART_BYTES = 32 << 20, // for partial softmaxes
    ATTN_SPLIT_TOK = 128,       // fewest positions of a split where splits are absolute
    ATTN_FEW_ROWS = 16,
    ATTN_UNEVEN = 8, // pieces that a long run among short ones may have when no length is known
    ATTN_AT_ONCE = 4 // thread blocks that a processor has registers for
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
    return t == DT_F32 ? 4 : t == DT_F16 || t == DT_BF16 ? 2 : 1;
}

static int32_t row_elems(const struct kv_view *kv, int32_t dim)
{
    const int32_t n = 16 / elem_bytes(kv->dtype);
    return (dim + n - 1) / n * n;
}

// Of a token's vector of `dim` elements.
static int32_t n_scale(const struct kv_view *kv, int32_t dim)
{
    if (kv->dtype == DT_Q8_0) return cuda_ceil(dim, ATTN_Q8_COLS);
    return kv->dtype == DT_F8_E4M3;
}

static int64_t keys_bytes(const struct kv_view *kv)
{
    return (int64_t)kv->page_tok * row_elems(kv, kv->head_dim) * elem_bytes(kv->dtype);
}
static int64_t values_bytes(const struct kv_view *kv)
{
    if (kv->v_in_k) return 0;
    return (int64_t)kv->page_tok * row_elems(kv, kv->head_dim_v) * elem_bytes(kv->dtype);
}

static int64_t head_bytes(const struct kv_view *kv)
{
    const int32_t n = n_scale(kv, kv->head_dim) + (kv->v_in_k ? 0 : n_scale(kv, kv->head_dim_v));
    return keys_bytes(kv) + values_bytes(kv) + (int64_t)kv->page_tok * n * (int64_t)sizeof(float);
}

static bool takes(enum dtype t)
{
    return t == DT_F32 || t == DT_F16 || t == DT_BF16 || t == DT_F8_E4M3 || t == DT_Q8_0;
}

uint64_t cuda_attn_kv_page_bytes(struct kernels *k, const struct kv_view *kv)
{
    const struct kernels_limits *l = &cuda_of(k)->lim;
    if (kv->page_tok < 16 || kv->page_tok > 256 || (kv->page_tok & (kv->page_tok - 1))) return 0;
    if (!takes(kv->dtype)) return 0;
    if (kv->n_head_kv < 1 || kv->n_head_kv > l->max_head) return 0;
    if (kv->head_dim < 1 || kv->head_dim > l->max_head_dim || kv->head_dim > ATTN_DIM_MAX) return 0;
    if (kv->head_dim_v < 1 || kv->head_dim_v > kv->head_dim) return 0;
    return (uint64_t)(kv->n_head_kv * head_bytes(kv) + 255) / 256 * 256;
}

struct attn_dev attn_dev_of(struct cuda *c, const struct kv_view *kv, const struct attn_run *runs,
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
    a.is_f8 = kv->dtype == DT_F8_E4M3;
    a.v_ld = kv->v_in_k ? a.k_ld : row_elems(kv, kv->head_dim_v);
    a.v_at = kv->v_in_k ? 0 : keys_bytes(kv);
    a.k_scales = n_scale(kv, kv->head_dim);
    a.k_scale_at = a.v_scale_at = keys_bytes(kv) + values_bytes(kv);
    a.v_scales = a.k_scales;
    if (!kv->v_in_k) {
        a.v_scales = n_scale(kv, kv->head_dim_v);
        a.v_scale_at += (int64_t)kv->page_tok * a.k_scales * (int64_t)sizeof(float);
    }
    return a;
}

// What one launch of a kernel has before it.
struct attn_plan {
    int64_t n_block;
    int32_t n_row;  // of a block, at most
    int32_t sees;   // positions from a run's first seen to its last, at most
    int32_t splits; // absolute ones that they lie in, at most
    double all;     // positions that all blocks see
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
    struct attn_plan p = {0, 0, 0, 0, 0};
    for (int32_t i = 0; i < a->n_run; i++) {
        const struct attn_run *r = &a->runs[i];
        const int32_t rows = r->n_tok * d->group;
        if (rows < d->rows_min || rows > d->rows_max) continue;
        const int32_t blocks = (rows + d->block_rows - 1) / d->block_rows;
        const int32_t lo = sight(a, r->pos_from), last = r->pos_from + r->n_tok - 1;
        const int32_t splits = last / tok - lo / tok + 1;
        p.n_block += blocks;
        p.n_row = rows > p.n_row ? rows : p.n_row;
        p.sees = last + 1 - lo > p.sees ? last + 1 - lo : p.sees;
        p.splits = splits > p.splits ? splits : p.splits;
        p.all += (double)blocks * (last + 1 - lo);
    }
    if (p.n_row > d->block_rows) p.n_row = d->block_rows;
    if (cuda_is_fixed(c)) { // one token each, as far on as may be
        p.sees = c->lim.max_ctx;
        if (a->window > 0 && a->window < p.sees) p.sees = a->window;
        if (a->chunk > 0 && a->chunk < p.sees) p.sees = a->chunk;
        p.splits = (c->lim.max_ctx + tok - 1) / tok;
        if ((p.sees + tok - 2) / tok + 1 < p.splits) p.splits = (p.sees + tok - 2) / tok + 1;
    }
    return p;
}

// Whether a row's sums depend on the row alone.
static bool is_invariant(const struct cuda *c)
{
    return c->lim.precision == PRECISION_EXACT || c->lim.deterministic;
}

// Pieces that blocks may be cut into where all are even, so that those of all KV heads fill the
// device once: more would wait for the others' end, and each has its partial softmax to be joined.
// How long pieces really are is decided on the device (attn_even_piece). Where lengths are known,
// as many as the longest then has.
static int32_t even_pieces(struct cuda *c, const struct attn_dev *a, const struct attn_plan *p,
                           int64_t room)
{
    const int64_t all = p->n_block * a->n_head_kv;
    const double share = p->all * a->n_head_kv / a->slots;
    int64_t n = a->slots / all, most = cuda_ceil(p->sees, ATTN_EVEN_TOK);
    if (cuda_is_fixed(c))
        n = n > ATTN_UNEVEN || p->n_block == 1 ? n : (int64_t)ATTN_UNEVEN;
    else if (p->sees <= 2 * share)
        n = 1;
    else if (p->sees / share > (double)n)
        n = cuda_ceil(p->sees, (int64_t)share + 1);
    most = most < room ? most : room;
    n = n < most ? n : most;
    return (int32_t)min(max(n, (int64_t)1), (int64_t)ATTN_SPLITS_MAX);
}

// The launches of one kernel: as many blocks at a time as have room for their partial softmaxes.
static void attend(struct cuda *c, const struct attn_args *args, struct attn_dev *a,
                   const struct attn_kernel *k)
{
    a->block_rows = k->block_rows;
    a->tile = k->tile;
    const struct attn_plan p = plan_of(c, args, a);
    if (p.n_block == 0) return;
    const int64_t heads = a->n_head_kv, all = p.n_block * heads;
    const int64_t one = a->block_rows * attn_part_ld(a->head_dim_v) * (int64_t)sizeof(float);
    const int64_t at_once = (int64_t)(c->info.shared_block_bytes / (k->shared + 1024));
    a->slots = (int32_t)(c->n_sm * min(max(at_once, (int64_t)1), (int64_t)ATTN_AT_ONCE));
    if (is_invariant(c)) {
        a->n_split = p.splits;
        a->split_tok = c->attn->split_tok;
    } else {
        a->n_split = even_pieces(c, a, &p, ATTN_PART_BYTES / (one * all));
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
            LAUNCH_NEXT(c, k->fn, dim3(x, (unsigned)a->n_split, z), (unsigned)k->threads, k->shared,
                        *a);
            if (a->n_split > 1) attn_plain_combine(c, a, (int32_t)x, (int32_t)z, p.n_row);
        }
}

void cuda_attn_run(struct kernels *k, const struct attn_args *args)
{
    struct cuda *c = cuda_of(k);
    if (args->n_run == 0) return;
    struct attn_dev a = attn_dev_of(c, &args->kv, args->runs, args->n_run);
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
    // Runs of few rows and the others have kernels of their own; the plain one takes all, and so
    // does that for the others where a row's sums must not depend on the run.
    const bool exact = c->lim.precision == PRECISION_EXACT;
    const size_t shared = c->info.shared_block_bytes;
    struct attn_kernel kernel;
    a.rows_min = 1;
    a.rows_max = ATTN_FEW_ROWS;
    if (!is_invariant(c) && attn_mma_kernel(&args->kv, true, shared, &kernel)) {
        attend(c, args, &a, &kernel);
        a.rows_min = ATTN_FEW_ROWS + 1;
    }
    a.rows_max = INT32_MAX;
    if (exact || !attn_mma_kernel(&args->kv, false, shared, &kernel))
        kernel = attn_plain_kernel(&args->kv);
    attend(c, args, &a, &kernel);
}
