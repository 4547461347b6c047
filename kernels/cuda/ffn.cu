// ffn: whole feed-forward parts, dense and of experts. What one decode step needs is one launch for
// gate, up and act, and one for down; of few experts one launch for everything. With more rows the
// middle goes from act into bf16 for the matrix units at once.
#include "kernels/cuda/gemm.h"

// -- dense --

static bool is_same_form(const struct view *a, const struct view *b)
{
    return a->dtype == b->dtype && a->shape[0] == b->shape[0];
}

// gate, up and act of up to THIN_TOK rows, into gate.y
static void run_pair(struct cuda *c, const struct ffn *f, int32_t n_tok)
{
    const enum dtype t = f->gate.w->dtype;
    struct product_args p = gemm_args(f->gate.w, f->x, f->cols, f->cols);
    gemm_add_job(&p, &f->gate);
    gemm_number_blocks(&p, TILE_ROWS);
    gemm_add_job(&p, &f->up);
    p.n_tok = n_tok;
    p.n_tile = 1;
    c->n_op++;
    product_pair(c, form_of(t), &p, 1, &f->glu);
}

void cuda_ffn_run(struct kernels *k, const struct ffn *f, int32_t n_tok)
{
    struct cuda *c = cuda_of(k);
    const int32_t middle = (int32_t)f->gate.w->shape[0];
    struct gemm_job in[3] = {f->gate, f->up, {}};
    if (n_tok == 0) return;
    BUG_ON(f->gate.ldy != middle || f->up.ldy != middle || f->up.w->shape[0] != middle);
    const bool is_thin = n_tok <= THIN_TOK && !gemm_is_exact(c, f->gate.w->dtype);
    if (is_thin && is_same_form(f->gate.w, f->up.w)) {
        if (f->beside) cuda_gemm_run(k, f->x, n_tok, f->cols, f->beside, 1);
        run_pair(c, f, n_tok);
        if (f->down.w) cuda_gemm_run(k, f->gate.y, n_tok, middle, &f->down, 1);
        return;
    }
    if (f->beside) in[2] = *f->beside;
    cuda_gemm_run(k, f->x, n_tok, f->cols, in, f->beside ? 3 : 2);
    if (f->down.w && n_tok > THIN_TOK && !gemm_is_exact(c, f->down.w->dtype)) {
        const struct gemm_rows rows = {f->gate.y, f->up.y, glu_of(&f->glu)};
        gemm_jobs(c, &rows, n_tok, middle, &f->down, 1);
        return;
    }
    cuda_act_glu(k, &f->glu, f->gate.y, f->up.y, (int64_t)n_tok * middle, f->gate.y);
    if (f->down.w) cuda_gemm_run(k, f->gate.y, n_tok, middle, &f->down, 1);
}

// -- experts --

static struct expert_gemm product_of(const struct expert_ffn *f, const struct expert_stack *s,
                                     float *y)
{
    return {s->w, s->factors, s->bias, f->x, f->n, f->n_x, f->row, f->expert, y};
}
// down, of what lies in middle[0]
static struct expert_gemm last_of(const struct expert_ffn *f)
{
    struct expert_gemm g = product_of(f, &f->down, f->y);
    g.x = f->middle[0];
    g.n_x = f->n;
    g.row = f->seq;
    return g;
}

// Both products of x as two jobs.
static struct product_args first_args(const struct expert_ffn *f)
{
    const struct expert_gemm gate = product_of(f, &f->gate, f->middle[0]);
    const struct expert_gemm up = product_of(f, &f->up, f->middle[1]);
    struct product_args p = gemm_expert_args(&gate);
    p.jobs[1] = gemm_expert_args(&up).jobs[0];
    p.n_job = 2;
    return p;
}

// The last product's launch has the sums too.
static bool run_few(struct cuda *c, const struct expert_ffn *f)
{
    const struct expert_gemm last = last_of(f);
    const enum dtype in = form_of(f->gate.w->dtype), out = form_of(f->down.w->dtype);
    struct few_args a = {};
    a.in = first_args(f);
    a.in.n_job = 1;
    gemm_number_blocks(&a.in, TILE_ROWS);
    a.out = gemm_expert_args(&last);
    gemm_number_blocks(&a.out, TILE_ROWS);
    if (f->n > DIRECT_MAX || !a.out.is_aligned || (f->out && f->n_used > FEW_USED_MAX))
        return false;
    if (f->out) {
        a.at = f->at;
        a.weights = f->weights;
        a.n_used = f->n_used;
        a.out.jobs[0].y = f->out;
    }
    const int32_t n_in = a.in.n_block * f->n, n_out = a.out.n_block * (f->out ? f->n_tok : f->n);
    a.glu = glu_of(&f->glu);
    a.state = c->gemm->few;
    a.n_in = n_in;
    a.n_out = in == out ? n_out : 0;
    product_few(c, in, &a);
    if (in == out) return true;
    a.n_in = 0;
    a.n_out = n_out;
    product_few(c, out, &a);
    return true;
}

static void run_thin(struct kernels *k, const struct expert_ffn *f)
{
    struct cuda *c = cuda_of(k);
    const struct expert_gemm gate = product_of(f, &f->gate, f->middle[0]), last = last_of(f);
    struct product_args p = first_args(f);
    p.n_job = 1;
    gemm_number_blocks(&p, TILE_ROWS);
    const int32_t n_z = gemm_find_tiles(c, &gate, THIN_TOK, &p);
    product_pair(c, form_of(f->gate.w->dtype), &p, n_z, &f->glu);
    if (f->down.w) cuda_gemm_experts(k, &last);
}

static void run_wide(struct kernels *k, const struct expert_ffn *f)
{
    struct cuda *c = cuda_of(k);
    const struct expert_gemm gate = product_of(f, &f->gate, f->middle[0]), last = last_of(f);
    const struct gemm_rows x = {f->x, NULL, {}};
    struct gemm_rows middle = {f->middle[0], f->middle[1], glu_of(&f->glu)};
    const int32_t dim = (int32_t)f->gate.w->shape[2], cols = (int32_t)f->gate.w->shape[1];
    struct product_args p = first_args(f);
    const int32_t n_z = gemm_find_tiles(c, &gate, WIDE_TOK, &p);
    gemm_ready(c, &x, f->n_x, dim, false);
    gemm_wide(c, f->gate.w->dtype, &p, n_z);
    if (!f->down.w || gemm_is_few(c, &last)) {
        cuda_act_glu(k, &f->glu, f->middle[0], f->middle[1], (int64_t)f->n * cols, f->middle[0]);
        if (f->down.w) cuda_gemm_experts(k, &last);
        return;
    }
    struct product_args q = gemm_expert_args(&last);
    q.tiles = p.tiles;
    q.n_list = p.n_list;
    gemm_ready(c, &middle, f->n, cols, false);
    gemm_wide(c, f->down.w->dtype, &q, n_z);
}

static void run_one_by_one(struct kernels *k, const struct expert_ffn *f)
{
    const struct expert_gemm gate = product_of(f, &f->gate, f->middle[0]);
    const struct expert_gemm up = product_of(f, &f->up, f->middle[1]), last = last_of(f);
    cuda_gemm_experts(k, &gate);
    cuda_gemm_experts(k, &up);
    cuda_act_glu(k, &f->glu, f->middle[0], f->middle[1], f->n * f->gate.w->shape[1], f->middle[0]);
    if (f->down.w) cuda_gemm_experts(k, &last);
}

void cuda_ffn_experts(struct kernels *k, const struct expert_ffn *f)
{
    struct cuda *c = cuda_of(k);
    const struct expert_gemm gate = product_of(f, &f->gate, f->middle[0]);
    const bool has_down = f->down.w;
    const bool is_exact =
        gemm_is_exact(c, f->gate.w->dtype) || (has_down && gemm_is_exact(c, f->down.w->dtype));
    BUG_ON(f->n < 0 || f->n > c->lim.max_expert_rows || f->n_x < 0 || (f->out && !has_down));
    if (f->n == 0) return;
    c->n_op++;
    if (is_exact || f->gate.w->dtype != f->up.w->dtype)
        run_one_by_one(k, f);
    else if (has_down && run_few(c, f))
        return;
    else if (gemm_is_few(c, &gate))
        run_thin(k, f);
    else
        run_wide(k, f);
    if (f->out)
        cuda_moe_combine(k, f->y, f->at, f->weights, f->n_tok, f->n_used,
                         (int32_t)f->down.w->shape[1], f->out);
}
