#include "kernels/cuda/gemm.h"
#include "kernels/cuda/pack.h"

#include <stdlib.h>

// -- rows of x as bf16 --

static __device__ __forceinline__ float value_of(const struct gemm_rows &r, int64_t at)
{
    return r.up ? r.glu(r.x[at], r.up[at]) : r.x[at];
}

// Thread by thread 16 bytes of rows of ldq times 16: for lane t of the matrix units the groups 2
// pair and 2 pair + 1 of unit u of a row.
static __global__ void prepare(const struct gemm_rows x, int64_t n, int cols, int ldq, uint4 *xq,
                               uint4 *xr)
{
    simt_follow();
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n * ldq) return;
    const int64_t row = i / ldq * cols;
    const int at = (int)(i % ldq), col = at / 8 * UNIT_COLS + at / 4 % 2 * 32 + at % 4 * 4;
    float v[8];
    for (int k = 0; k < 8; k++) {
        const int c = col + k / 4 * 16 + k % 4;
        v[k] = c < cols ? value_of(x, row + c) : 0.0f;
    }
    const uint4 q = make_uint4(form_bf16x2(v[0], v[2]), form_bf16x2(v[1], v[3]),
                               form_bf16x2(v[4], v[6]), form_bf16x2(v[5], v[7]));
    xq[i] = q;
    if (xr)
        xr[i] = make_uint4(form_bf16x2_rest(v[0], v[2], q.x), form_bf16x2_rest(v[1], v[3], q.y),
                           form_bf16x2_rest(v[4], v[6], q.z), form_bf16x2_rest(v[5], v[7], q.w));
}

// The same in plain order, n pairs, for blas.
static __global__ void prepare_plain(const struct gemm_rows x, int64_t n, uint32_t *xq)
{
    simt_follow();
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) xq[i] = form_bf16x2(value_of(x, 2 * i), value_of(x, 2 * i + 1));
}

static __global__ void add_bias(float *y, int64_t ldy, const float *bias, int rows, int64_t n)
{
    simt_follow();
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i / rows * ldy + i % rows] += bias[i % rows];
}

static unsigned blocks_of(int64_t n)
{
    return (unsigned)((n + 255) / 256);
}

static int32_t row_of_xq(int32_t cols) // in 16 bytes
{
    return cuda_ceil(cols, UNIT_COLS) * 8;
}

void gemm_ready(struct cuda *c, const struct gemm_rows *rows, int64_t n, int32_t cols, bool is_fine)
{
    const int32_t ldq = row_of_xq(cols);
    LAUNCH_NEXT(c, prepare, blocks_of(n * ldq), 256, 0, *rows, n, cols, ldq, c->gemm->xq,
                is_fine ? c->gemm->xr : NULL);
}

static void ready_x(struct cuda *c, const float *x, int64_t n, int32_t cols, bool is_fine)
{
    const struct gemm_rows rows = {x, NULL, {}};
    gemm_ready(c, &rows, n, cols, is_fine);
}

struct gemm_next gemm_next_of(struct cuda *c, int64_t n, int32_t cols)
{
    const struct cuda_gemm *g = c->gemm;
    const int32_t ldq = row_of_xq(cols);
    struct gemm_next next = {};
    if (n <= THIN_TOK || n >= GEMM_LARGE || n > c->lim.max_tok) return next;
    if (!g->xr || cols % UNIT_COLS || cols > c->lim.max_cols) return next;
    next.xq = (uint2 *)g->xq;
    next.xr = (uint2 *)g->xr;
    next.ldq = 2 * ldq;
    return next;
}

void gemm_next_is(struct cuda *c, const float *x, int64_t n, int32_t cols)
{
    c->gemm->ready.x = x;
    c->gemm->ready.n = n;
    c->gemm->ready.cols = cols;
    c->gemm->ready.when = c->n_given;
}

static bool is_ready(const struct cuda *c, const struct gemm_rows *rows, int64_t n, int32_t cols)
{
    const struct cuda_gemm *g = c->gemm;
    return g->ready.when == c->n_given && g->ready.x == rows->x && !rows->up && g->ready.n == n &&
           g->ready.cols == cols;
}

// -- arguments --

static float factor_of(float f)
{
    return f == 0.0f ? 1.0f : f;
}

struct product_args gemm_args(const struct view *w, const float *x, int64_t ldx, int32_t cols)
{
    struct product_args p = {};
    p.tile_bytes = pack_tile_bytes(w->dtype, cols);
    p.cols = cols;
    p.n_chunk = cuda_ceil(cols, CHUNK_COLS);
    p.levels = quant_levels(w->dtype);
    p.x = x;
    p.ldx = ldx;
    p.is_aligned = (uintptr_t)x % 16 == 0 && ldx % 4 == 0 && cols % 4 == 0;
    BUG_ON(dtype_info(w->dtype)->is_quantised && !p.is_aligned); // rows of whole blocks
    p.ldq = row_of_xq(cols);
    p.n_split = p.n_order = 1;
    return p;
}

void gemm_add_job(struct product_args *p, const struct gemm_job *job)
{
    struct product_job *o = &p->jobs[p->n_job++];
    o->w = (const uint8_t *)job->w->data;
    o->bias = job->bias;
    o->y = job->y;
    o->ldy = job->ldy;
    o->factor = factor_of(job->w->factor);
    o->rows = (int32_t)job->w->shape[0];
    o->is_fine = job->fine;
}

bool gemm_is_exact(const struct cuda *c, enum dtype t)
{
    return c->lim.precision == PRECISION_EXACT || t == DT_F32;
}

// Numbers the blocks of all jobs, each of `rows` rows.
void gemm_number_blocks(struct product_args *p, int32_t rows)
{
    p->n_block = 0;
    for (int32_t j = 0; j < p->n_job; j++) {
        p->jobs[j].from = p->n_block;
        p->n_block += cuda_ceil(p->jobs[j].rows, rows);
    }
}

static void run_exact(struct cuda *c, enum dtype t, struct product_args *p, int32_t n_z)
{
    gemm_number_blocks(p, TILE_ROWS);
    product_exact(c, form_of(t), p, n_z);
}

static void run_thin(struct cuda *c, enum dtype t, struct product_args *p, int32_t n_z)
{
    gemm_number_blocks(p, TILE_ROWS);
    product_thin(c, form_of(t), p, n_z);
}

// Blocks that are too few for the device share their columns. How they do depends on the weights;
// where sums must have the order of those of few rows, either each of these has a block, or one has
// them all.
void gemm_wide(struct cuda *c, enum dtype t, struct product_args *p, int32_t n_z)
{
    struct cuda_gemm *g = c->gemm;
    gemm_number_blocks(p, WIDE_ROWS);
    p->xq = g->xq;
    p->xr = g->xr;
    if (n_z == 1 && !p->expert) {
        int32_t n = g->n_shared / p->n_block;
        n = n < GEMM_SPLIT_MAX ? n : GEMM_SPLIT_MAX;
        p->n_split = n < 1 ? 1 : n < p->n_chunk ? n : p->n_chunk;
    }
    p->n_order = p->n_split;
    if (c->lim.deterministic) {
        p->n_order = (int32_t)product_warps(p);
        if (p->n_split < p->n_order) p->n_split = 1;
    }
    p->partial = g->partial;
    p->arrived = g->arrived;
    product_wide(c, form_of(t), p, n_z);
}

// -- gemm --

// A product with many rows: the weight is expanded, panel by panel. False: not done.
static bool run_large(struct cuda *c, const struct gemm_job *job, int32_t n_tok, int32_t cols)
{
    struct cuda_gemm *g = c->gemm;
    const int64_t rows = job->w->shape[0], most = GEMM_PANEL_BYTES / 2 / cols / 16 * 16;
    for (int64_t from = 0; from < rows; from += most) {
        const int64_t n = rows - from < most ? rows - from : most;
        struct blas_call call = {g->panel,   g->xq, job->y + from, job->ldy,
                                 (int32_t)n, n_tok, cols,          factor_of(job->w->factor)};
        quant_expand(c, job->w, from, n, g->panel);
        cuda_no_kernel(c);
        if (!blas_run(g->blas, &call)) return false;
    }
    if (job->bias)
        LAUNCH_NEXT(c, add_bias, blocks_of(n_tok * rows), 256, 0, job->y, job->ldy, job->bias,
                    (int)rows, n_tok * rows);
    return true;
}

// The jobs whose weights have the type of jobs[from].
static void run_type(struct cuda *c, const float *x, int32_t n_tok, int32_t cols,
                     const struct gemm_job *jobs, int32_t n_job, int32_t from)
{
    const enum dtype t = jobs[from].w->dtype;
    struct product_args p = gemm_args(jobs[from].w, x, cols, cols);
    for (int32_t j = from; j < n_job; j++)
        if (jobs[j].w->dtype == t) gemm_add_job(&p, &jobs[j]);
    p.n_tok = n_tok;
    if (gemm_is_exact(c, t)) {
        p.n_tile = cuda_ceil(n_tok, EXACT_TOK);
        run_exact(c, t, &p, p.n_tile);
    } else if (n_tok <= THIN_TOK) {
        p.n_tile = 1;
        run_thin(c, t, &p, 1);
    } else {
        p.n_tile = cuda_ceil(n_tok, n_tok <= 16 ? 16 : WIDE_TOK);
        gemm_wide(c, t, &p, p.n_tile);
    }
}

// Fine products need more of the weights than bf16 holds.
static bool is_large(const struct cuda *c, const struct gemm_job *job, int32_t n_tok)
{
    const int64_t cols = job->w->shape[1];
    return c->gemm->blas && n_tok >= GEMM_LARGE && !c->lim.deterministic && !job->fine &&
           !gemm_is_exact(c, job->w->dtype) && cols % 8 == 0 && GEMM_PANEL_BYTES / 2 / cols >= 16;
}

// Does the jobs that are large; `left` gets the others. Returns how many those are.
static int32_t run_all_large(struct cuda *c, const struct gemm_rows *rows, int32_t n_tok,
                             int32_t cols, const struct gemm_job *jobs, int32_t n_job,
                             struct gemm_job *left)
{
    int32_t n_left = 0;
    bool is_ready = false;
    for (int32_t j = 0; j < n_job; j++) {
        const bool large = is_large(c, &jobs[j], n_tok);
        if (large && !is_ready) {
            const int64_t n = (int64_t)n_tok * cols / 2;
            LAUNCH_NEXT(c, prepare_plain, blocks_of(n), 256, 0, *rows, n, (uint32_t *)c->gemm->xq);
            is_ready = true;
        }
        if (!large || !run_large(c, &jobs[j], n_tok, cols)) left[n_left++] = jobs[j];
    }
    return n_left;
}

void gemm_jobs(struct cuda *c, const struct gemm_rows *rows, int32_t n_tok, int32_t cols,
               const struct gemm_job *jobs, int32_t n_job)
{
    BUG_ON(n_tok < 0 || n_tok > c->lim.max_tok || cols > c->lim.max_cols);
    BUG_ON(n_job > PRODUCT_JOBS);
    if (n_tok == 0) return;
    for (int32_t j = 0; j < n_job; j++)
        BUG_ON(jobs[j].w->layout != LAYOUT_PACKED || jobs[j].w->shape[1] != cols);
    c->n_op++;
    struct gemm_job left[PRODUCT_JOBS];
    const int32_t n = run_all_large(c, rows, n_tok, cols, jobs, n_job, left);
    bool is_fine = false, all_exact = true;
    for (int32_t j = 0; j < n; j++) {
        is_fine |= left[j].fine;
        all_exact &= gemm_is_exact(c, left[j].w->dtype);
    }
    BUG_ON(rows->up && n && (all_exact || n_tok <= THIN_TOK));
    if (!all_exact && n_tok > THIN_TOK && !is_ready(c, rows, n_tok, cols))
        gemm_ready(c, rows, n_tok, cols, is_fine);
    for (int32_t j = 0; j < n; j++) {
        int32_t before = 0;
        while (left[before].w->dtype != left[j].w->dtype)
            before++;
        if (before == j) run_type(c, rows->x, n_tok, cols, left, n, j);
    }
}

void cuda_gemm_run(struct kernels *k, const float *x, int32_t n_tok, int32_t cols,
                   const struct gemm_job *jobs, int32_t n_job)
{
    const struct gemm_rows rows = {x, NULL, {}};
    gemm_jobs(cuda_of(k), &rows, n_tok, cols, jobs, n_job);
}

// -- gemm_each --

struct product_args gemm_stack_args(const struct view *w, const float *x, int64_t ldx)
{
    struct product_args p = gemm_args(w, x, ldx, (int32_t)w->shape[2]);
    p.n_job = 1;
    p.jobs[0].w = (const uint8_t *)w->data;
    p.jobs[0].rows = (int32_t)w->shape[1];
    p.jobs[0].factor = factor_of(w->factor);
    p.w_step = w->stride[0];
    return p;
}

void cuda_gemm_each(struct kernels *k, const struct view *w, const float *x, int32_t n_tok,
                    float *y)
{
    struct cuda *c = cuda_of(k);
    const int64_t n = w->shape[0], rows = w->shape[1], cols = w->shape[2];
    BUG_ON(n_tok < 0 || n_tok > c->lim.max_tok || cols > c->lim.max_cols);
    BUG_ON(w->layout != LAYOUT_PACKED || w->n_dim != 3);
    if (n_tok == 0) return;
    struct product_args p = gemm_stack_args(w, x, n * cols);
    p.jobs[0].y = y;
    p.jobs[0].ldy = n * rows;
    p.n_tok = n_tok;
    p.x_step = cols;
    p.y_step = rows;
    c->n_op++;
    if (gemm_is_exact(c, w->dtype)) {
        p.n_tile = cuda_ceil(n_tok, EXACT_TOK);
        run_exact(c, w->dtype, &p, p.n_tile * (int32_t)n);
    } else if (n_tok <= THIN_TOK || n_tok * n * p.ldq > c->gemm->xq_size) {
        p.n_tile = cuda_ceil(n_tok, THIN_TOK);
        run_thin(c, w->dtype, &p, p.n_tile * (int32_t)n);
    } else {
        ready_x(c, x, n_tok * n, (int32_t)cols, false);
        p.q_step = p.ldq;
        p.ldq *= (int32_t)n;
        p.n_tile = cuda_ceil(n_tok, n_tok <= 16 ? 16 : WIDE_TOK);
        gemm_wide(c, w->dtype, &p, p.n_tile * (int32_t)n);
    }
}

// -- gemm_experts --

static __device__ int first_of(const int32_t *expert, int n, int e) // not below e
{
    int lo = 0, hi = n;
    while (lo < hi) {
        const int at = (lo + hi) / 2;
        if (expert[at] < e)
            lo = at + 1;
        else
            hi = at;
    }
    return lo;
}

// Cuts the products of each expert into tiles of at most `most`. One block.
static __global__ void expert_tiles(const int32_t *expert, int n, int n_expert, int most,
                                    int4 *tiles, int32_t *n_list)
{
    SIMT_DYNAMIC_SHARED(int, at); // (n_expert + 1) the first tile of each
    simt_follow();
    for (int e = (int)threadIdx.x; e < n_expert; e += (int)blockDim.x)
        at[e] = (first_of(expert, n, e + 1) - first_of(expert, n, e) + most - 1) / most;
    __syncthreads();
    if (threadIdx.x < 32) { // sums of those before
        int before = 0;
        for (int from = 0; from < n_expert; from += 32) {
            const int e = from + (int)threadIdx.x, mine = e < n_expert ? at[e] : 0;
            int sum = mine;
            for (int d = 1; d < 32; d *= 2) {
                const int v = __shfl_up_sync(SIMT_FULL, sum, d);
                if ((int)threadIdx.x >= d) sum += v;
            }
            if (e < n_expert) at[e] = before + sum - mine;
            before += __shfl_sync(SIMT_FULL, sum, 31);
        }
        if (threadIdx.x == 0) {
            at[n_expert] = before;
            *n_list = before;
        }
    }
    __syncthreads();
    for (int e = (int)threadIdx.x; e < n_expert; e += (int)blockDim.x) {
        const int from = first_of(expert, n, e), to = first_of(expert, n, e + 1);
        for (int i = at[e]; i < at[e + 1]; i++) {
            const int first = from + (i - at[e]) * most, left = to - first;
            tiles[i] = make_int4(e, first, left < most ? left : most, 0);
        }
    }
}

// Where each block finds its tile: how many there may be at most.
int32_t gemm_find_tiles(struct cuda *c, const struct expert_gemm *e, int32_t most,
                        struct product_args *p)
{
    const int32_t n_expert = (int32_t)e->w->shape[0];
    if (e->n <= DIRECT_MAX) return e->n;
    p->tiles = c->gemm->tiles;
    p->n_list = c->gemm->n_list;
    LAUNCH_NEXT(c, expert_tiles, 1, 256, (size_t)(n_expert + 1) * 4, e->expert, e->n, n_expert,
                most, c->gemm->tiles, c->gemm->n_list);
    return e->n / most + (e->n < n_expert ? e->n : n_expert);
}

struct product_args gemm_expert_args(const struct expert_gemm *e)
{
    BUG_ON(e->w->layout != LAYOUT_PACKED || e->w->n_dim != 3);
    struct product_args p = gemm_stack_args(e->w, e->x, (int64_t)e->w->shape[2]);
    p.jobs[0].y = e->y;
    p.jobs[0].ldy = e->w->shape[1];
    p.jobs[0].bias = e->bias;
    p.jobs[0].factors = e->factors;
    p.row = e->row;
    p.expert = e->expert;
    p.n_product = e->n;
    p.n_tile = 1;
    return p;
}

bool gemm_is_few(const struct cuda *c, const struct expert_gemm *e)
{
    return e->n <= 8 * e->w->shape[0] ||
           (int64_t)e->n_x * row_of_xq((int32_t)e->w->shape[2]) > c->gemm->xq_size;
}

void cuda_gemm_experts(struct kernels *k, const struct expert_gemm *e)
{
    struct cuda *c = cuda_of(k);
    const struct view *w = e->w;
    const int32_t cols = (int32_t)w->shape[2];
    BUG_ON(e->n < 0 || e->n > c->lim.max_expert_rows || e->n_x < 0 || cols > c->lim.max_cols);
    if (e->n == 0) return;
    struct product_args p = gemm_expert_args(e);
    c->n_op++;
    if (gemm_is_exact(c, w->dtype)) {
        run_exact(c, w->dtype, &p, gemm_find_tiles(c, e, EXACT_TOK, &p));
    } else if (gemm_is_few(c, e)) {
        run_thin(c, w->dtype, &p, gemm_find_tiles(c, e, THIN_TOK, &p));
    } else {
        ready_x(c, e->x, e->n_x, cols, false);
        gemm_wide(c, w->dtype, &p, gemm_find_tiles(c, e, WIDE_TOK, &p));
    }
}

// -- memory --

static bool has_true_sizes(void)
{
    bool ok = true;
#define CHECK(t)                                                                                   \
    {                                                                                              \
        const struct pack_size s = pack_sizes(t);                                                  \
        ok &= s.planes == form<t>::code::PLANES && s.scales == form<t>::scale::BYTES;              \
        ok &= s.unit == form<t>::UNIT;                                                             \
    }
    FORM_EACH(CHECK)
#undef CHECK
    return ok;
}

static err_t take_fast(struct cuda *c, struct cuda_gemm *g, struct err_text *why)
{
    const struct kernels_limits *l = &c->lim;
    const int64_t ldq = row_of_xq(l->max_cols), n_fine = l->max_tok * ldq;
    // Products of experts are many, and their middles narrow.
    g->xq_size = l->max_expert_rows / 2 * ldq > n_fine ? l->max_expert_rows / 2 * ldq : n_fine;
    g->n_shared = 2 * c->n_sm;
    const struct {
        void **to;
        int64_t bytes;
    } all[] = {
        {(void **)&g->xq, g->xq_size * 16},
        {(void **)&g->xr, n_fine * 16},
        {(void **)&g->partial, (int64_t)g->n_shared * WIDE_ROWS * WIDE_TOK * 4},
        {(void **)&g->arrived, (int64_t)g->n_shared * 4},
        {&g->panel, l->max_tok < GEMM_LARGE || l->deterministic ? 0 : GEMM_PANEL_BYTES},
        {(void **)&g->few, FEW_STATE * sizeof *g->few},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        err_t e = OK;
        if (all[i].bytes)
            e = cuda_take(c, (uint64_t)all[i].bytes, "rows of products", all[i].to, why);
        if (e) return e;
    }
    return g->panel ? blas_open(c->dev, &g->blas, why) : OK;
}

err_t cuda_gemm_open(struct cuda *c, struct err_text *why)
{
    BUG_ON(!has_true_sizes());
    struct cuda_gemm *g = (struct cuda_gemm *)calloc(1, sizeof *g);
    if (!g) return err_say(why, ERR_MEMORY, "cuda backend: no memory");
    c->gemm = g;
    const uint64_t n = (uint64_t)c->lim.max_expert_rows;
    err_t e = OK;
    if (n) e = cuda_take(c, n * sizeof *g->tiles, "tiles of experts", (void **)&g->tiles, why);
    if (n && !e) e = cuda_take(c, 256, "tiles of experts", (void **)&g->n_list, why);
    if (!e && c->lim.precision == PRECISION_FAST) e = take_fast(c, g, why);
    return e;
}

void cuda_gemm_close(struct cuda *c)
{
    struct cuda_gemm *g = c->gemm;
    if (!g) return;
    blas_close(g->blas);
    void *const all[] = {g->xq,      g->xr,    g->panel,  g->partial,
                         g->arrived, g->tiles, g->n_list, g->few};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i]) device_give(c->dev, all[i]);
    free(g);
    c->gemm = NULL;
}
