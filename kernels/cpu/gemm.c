// gemm: cuts products into (panels x tile of rows) shares. No share splits a sum.
#include "kernels/cpu/cpu.h"

#include <string.h>

enum { GEMM_JOBS_MAX = 16 };

static bool is_fast(const struct cpu *c, enum dtype t)
{
    const enum packed_kind kind = packed_info((int)t).kind;
    return c->lim.precision == PRECISION_FAST && (kind == PACKED_BLOCKS || kind == PACKED_FILE);
}

static int32_t panels_of(int64_t rows)
{
    return (int32_t)((rows + PANEL_ROWS - 1) / PANEL_ROWS);
}

// Bytes of `n` quantised rows.
static int64_t xq_bytes(int64_t n, int32_t cols)
{
    return n * (cols / BLOCK_COLS) * XQ_BYTES;
}

static float factor_of(float f)
{
    return f == 0.0f ? 1.0f : f;
}

static int32_t min_of(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

// How many panels a share has. About 16 shares a thread, so that the last ones end together; of 4
// panels at least, which is what the kernel for one row works on at once.
static int32_t share_of(const struct cpu *c, int64_t panels, int64_t most)
{
    int64_t want = panels / (16 * c->lim.n_threads);
    return (int32_t)(want < 4 ? 4 : want > most ? most : want / 4 * 4);
}

// What a leaf needs to know of the weight `w` (rows, cols) at `data`.
static struct leaf_gemm leaf_of(const struct view *w, const void *data, int64_t rows, int32_t cols)
{
    return (struct leaf_gemm){
        .dtype = w->dtype,
        .w = data,
        .panel_bytes = packed_panel_bytes(w->dtype, cols),
        .cols = cols,
        .rows = (int32_t)rows,
        .factor = factor_of(w->factor),
    };
}

static void run_leaf(struct cpu *c, int32_t thread, int32_t share, int32_t share_panels,
                     struct leaf_gemm *l)
{
    l->panel_from = share * share_panels;
    l->panel_to = min_of(l->panel_from + share_panels, panels_of(l->rows));
    l->scratch = c->scratch[thread]->gemm;
    if (is_fast(c, l->dtype))
        c->isa->gemm_fast(l);
    else
        c->isa->gemm_float(l);
}

// -- gemm --

struct gemm_call {
    struct cpu *c;
    const float *x;
    int32_t n_tok, cols, n_tile;
    const struct gemm_job *jobs;
    int32_t n_job, share_panels;
    bool is_fine;                     // a job is
    int32_t first[GEMM_JOBS_MAX + 1]; // share at which each job begins
};

static int64_t tile_at(const struct gemm_call *g, int32_t tile)
{
    return xq_bytes((int64_t)tile * TILE_TOK, g->cols);
}

static int32_t tile_rows(int32_t n_tok, int32_t tile)
{
    return min_of(n_tok - tile * TILE_TOK, TILE_TOK);
}

static void quantise_rows(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    const struct gemm_call *g = arg;
    for (int32_t i = (int32_t)from; i < to; i++) {
        int32_t tile = i / TILE_TOK;
        const int64_t at = tile_at(g, tile);
        c->isa->quantise(g->x + (int64_t)i * g->cols, g->cols, c->xq + at,
                         g->is_fine ? c->xr + at : NULL, tile_rows(g->n_tok, tile), i % TILE_TOK);
    }
}

static void gemm_share(void *arg, int32_t item, int32_t thread)
{
    const struct gemm_call *g = arg;
    int32_t j = 0;
    while (item >= g->first[j + 1])
        j++;
    const struct gemm_job *job = &g->jobs[j];
    const int32_t tile = (item - g->first[j]) % g->n_tile;
    struct leaf_gemm l = leaf_of(job->w, job->w->data, job->w->shape[0], g->cols);
    l.n_tok = tile_rows(g->n_tok, tile);
    l.bias = job->bias;
    l.y = job->y + (int64_t)tile * TILE_TOK * job->ldy;
    l.ldy = job->ldy;
    if (is_fast(g->c, l.dtype)) l.xq = g->c->xq + tile_at(g, tile);
    l.x = g->x + (int64_t)tile * TILE_TOK * g->cols;
    l.ldx = g->cols;
    const int32_t share = (item - g->first[j]) / g->n_tile;
    run_leaf(g->c, thread, share, g->share_panels, &l);
    if (!job->fine || !is_fast(g->c, l.dtype)) return;
    l.xq = g->c->xr + tile_at(g, tile);
    l.bias = NULL;
    l.add = true;
    run_leaf(g->c, thread, share, g->share_panels, &l);
}

void gemm_run(struct kernels *k, const float *x, int32_t n_tok, int32_t cols,
              const struct gemm_job *jobs, int32_t n_job)
{
    struct cpu *c = cpu_of(k);
    struct gemm_call g = {
        .c = c, .x = x, .n_tok = n_tok, .cols = cols, .jobs = jobs, .n_job = n_job};
    BUG_ON(n_tok < 0 || n_tok > c->lim.max_tok || cols > c->lim.max_cols);
    BUG_ON(n_job > GEMM_JOBS_MAX);
    if (n_tok == 0) return;
    g.n_tile = (n_tok + TILE_TOK - 1) / TILE_TOK;
    bool quantise = false;
    int64_t panels = 0;
    for (int32_t j = 0; j < n_job; j++) {
        BUG_ON(jobs[j].w->layout != LAYOUT_PACKED || jobs[j].w->shape[1] != cols);
        quantise |= is_fast(c, jobs[j].w->dtype);
        g.is_fine |= jobs[j].fine;
        panels += panels_of(jobs[j].w->shape[0]);
    }
    g.share_panels = share_of(c, panels * g.n_tile, n_tok == 1 ? 1024 : GEMM_PANELS);
    for (int32_t j = 0; j < n_job; j++) {
        int32_t n = (panels_of(jobs[j].w->shape[0]) + g.share_panels - 1) / g.share_panels;
        g.first[j + 1] = g.first[j] + n * g.n_tile;
    }
    if (quantise) cpu_for(c, n_tok, (1 << 14) / cols, quantise_rows, &g);
    pool_run(c->pool, g.first[n_job], gemm_share, &g);
}

// -- gemm_each --

struct each_call {
    struct cpu *c;
    const struct view *w;
    const float *x;
    int32_t n_tok, cols, n_tile, n_share, share_panels;
    int32_t from; // first weight of this round
    float *y;
};

// Tile `tile` of weight `from + i`; each weight has n_tok rows.
static uint8_t *each_tile_at(const struct each_call *e, int32_t i, int32_t tile)
{
    return e->c->xq + xq_bytes((int64_t)i * e->n_tok + tile * TILE_TOK, e->cols);
}

static void each_quantise(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    const struct each_call *e = arg;
    for (int64_t item = from; item < to; item++) {
        int32_t i = (int32_t)(item / e->n_tok), t = (int32_t)(item % e->n_tok);
        int32_t tile = t / TILE_TOK;
        const float *x = e->x + (t * e->w->shape[0] + e->from + i) * e->cols;
        c->isa->quantise(x, e->cols, each_tile_at(e, i, tile), NULL, tile_rows(e->n_tok, tile),
                         t % TILE_TOK);
    }
}

static void each_share(void *arg, int32_t item, int32_t thread)
{
    const struct each_call *e = arg;
    const int32_t share = item % e->n_share, i = item / e->n_share / e->n_tile;
    const int32_t tile = item / e->n_share % e->n_tile;
    const struct view *w = e->w;
    const char *data = (const char *)w->data + (e->from + i) * w->stride[0];
    const int64_t at = (int64_t)tile * TILE_TOK * w->shape[0] + e->from + i;
    struct leaf_gemm l = leaf_of(w, data, w->shape[1], e->cols);
    l.n_tok = tile_rows(e->n_tok, tile);
    l.y = e->y + at * w->shape[1];
    l.ldy = w->shape[0] * w->shape[1];
    if (is_fast(e->c, l.dtype)) l.xq = each_tile_at(e, i, tile);
    l.x = e->x + at * e->cols;
    l.ldx = w->shape[0] * e->cols;
    run_leaf(e->c, thread, share, e->share_panels, &l);
}

void gemm_run_each(struct kernels *k, const struct view *w, const float *x, int32_t n_tok, float *y)
{
    struct cpu *c = cpu_of(k);
    const int32_t n = (int32_t)w->shape[0], cols = (int32_t)w->shape[2];
    const int32_t panels = panels_of(w->shape[1]);
    struct each_call e = {.c = c, .w = w, .x = x, .n_tok = n_tok, .cols = cols, .y = y};
    BUG_ON(n_tok < 0 || n_tok > c->lim.max_tok || cols > c->lim.max_cols);
    BUG_ON(w->layout != LAYOUT_PACKED || w->n_dim != 3);
    if (n_tok == 0) return;
    e.n_tile = (n_tok + TILE_TOK - 1) / TILE_TOK;
    e.share_panels = share_of(c, (int64_t)panels * n * e.n_tile, n_tok == 1 ? 1024 : GEMM_PANELS);
    e.n_share = (panels + e.share_panels - 1) / e.share_panels;
    // As many weights at once as have room for their quantised rows.
    int32_t round = n;
    if (is_fast(c, w->dtype)) {
        int64_t room = xq_bytes(c->lim.max_tok, c->lim.max_cols) / xq_bytes(n_tok, cols);
        round = room < n ? (int32_t)room : n;
    }
    for (e.from = 0; e.from < n; e.from += round) {
        const int32_t m = min_of(n - e.from, round);
        if (is_fast(c, w->dtype))
            cpu_for(c, (int64_t)m * n_tok, (1 << 14) / cols, each_quantise, &e);
        pool_run(c->pool, m * e.n_tile * e.n_share, each_share, &e);
    }
}

// -- gemm_experts --

// Several products of the same rows with the same experts.
struct experts_call {
    struct cpu *c;
    const struct expert_gemm *g; // n_job of them, which differ in weights, bias and y alone
    int32_t cols, n_part, n_share, share_panels;
};

static void experts_quantise(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    const struct experts_call *e = arg;
    for (int64_t i = from; i < to; i++)
        c->isa->quantise(e->g->x + i * e->cols, e->cols, c->xq + xq_bytes(i, e->cols), NULL, 1, 0);
}

// Makes the tile of a part from rows that are quantised one by one.
static void experts_tile(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    const struct experts_call *e = arg;
    for (int64_t p = from; p < to; p++) {
        const struct gemm_part *part = &c->parts[p];
        uint8_t *tile = c->xe + xq_bytes(part->from, e->cols);
        for (int32_t t = 0; part->n > 1 && t < part->n; t++) {
            const uint8_t *row = c->xq + xq_bytes(e->g->row[part->from + t], e->cols);
            for (int32_t b = 0; b < e->cols / BLOCK_COLS; b++, row += XQ_BYTES) {
                uint8_t *to_b = tile + (int64_t)b * part->n * XQ_BYTES;
                memcpy(to_b + 32 * t, row, 32);
                for (int i = XQ_SCALE; i < XQ_BYTES; i += 4)
                    memcpy(to_b + i * part->n + 4 * t, row + i, 4);
            }
        }
    }
}

static void experts_share(void *arg, int32_t item, int32_t thread)
{
    const struct experts_call *e = arg;
    const struct gemm_part *part = &e->c->parts[item / e->n_share % e->n_part];
    const struct expert_gemm *g = &e->g[item / e->n_share / e->n_part];
    const int64_t rows = g->w->shape[1];
    const char *data = (const char *)g->w->data + part->expert * g->w->stride[0];
    struct leaf_gemm l = leaf_of(g->w, data, rows, e->cols);
    if (g->factors) l.factor = factor_of(g->factors[part->expert]);
    l.n_tok = part->n;
    l.bias = g->bias ? g->bias + part->expert * rows : NULL;
    l.y = g->y + part->from * rows;
    l.ldy = rows;
    if (is_fast(e->c, l.dtype))
        l.xq = part->n == 1 ? e->c->xq + xq_bytes(g->row[part->from], e->cols)
                            : e->c->xe + xq_bytes(part->from, e->cols);
    l.x = g->x;
    l.ldx = e->cols;
    l.row = g->row + part->from;
    run_leaf(e->c, thread, item % e->n_share, e->share_panels, &l);
}

// Cuts the products into parts of one expert each; returns how many.
static int32_t experts_cut(struct cpu *c, const struct expert_gemm *g)
{
    int32_t n_part = 0;
    struct gemm_part *last = NULL;
    for (int32_t i = 0; i < g->n; i++) {
        const int32_t expert = g->expert[i];
        BUG_ON(expert < 0 || expert >= g->w->shape[0] || (last && expert < last->expert));
        BUG_ON(g->row[i] < 0 || g->row[i] >= g->n_x);
        if (last && last->expert == expert && last->n < TILE_TOK) {
            last->n++;
        } else {
            last = &c->parts[n_part++];
            *last = (struct gemm_part){i, 1, expert};
        }
    }
    return n_part;
}

void gemm_run_experts_of(struct kernels *k, const struct expert_gemm *g, int32_t n_job)
{
    struct cpu *c = cpu_of(k);
    struct experts_call e = {.c = c, .g = g, .cols = (int32_t)g->w->shape[2]};
    const int32_t most_x =
        c->lim.max_tok > c->lim.max_expert_rows ? c->lim.max_tok : c->lim.max_expert_rows;
    bool quantise = false;
    int32_t panels = 0;
    BUG_ON(g->n < 0 || g->n > c->lim.max_expert_rows || g->n_x < 0 || g->n_x > most_x);
    for (int32_t j = 0; j < n_job; j++) {
        const struct view *w = g[j].w;
        BUG_ON(w->layout != LAYOUT_PACKED || w->n_dim != 3 || e.cols > c->lim.max_cols);
        BUG_ON(g[j].x != g->x || w->shape[2] != e.cols);
        quantise |= is_fast(c, w->dtype);
        panels = panels_of(w->shape[1]) > panels ? panels_of(w->shape[1]) : panels;
    }
    if (g->n == 0) return;
    e.n_part = experts_cut(c, g);
    const bool is_few = g->n < 4 * e.n_part; // memory is the limit
    e.share_panels = share_of(c, (int64_t)panels * e.n_part * n_job, is_few ? 64 : GEMM_PANELS);
    e.n_share = (panels + e.share_panels - 1) / e.share_panels;
    if (quantise) {
        cpu_for(c, g->n_x, (1 << 14) / e.cols, experts_quantise, &e);
        if (g->n > e.n_part) cpu_for(c, e.n_part, 1, experts_tile, &e);
    }
    pool_run(c->pool, n_job * e.n_part * e.n_share, experts_share, &e);
}

void gemm_run_experts(struct kernels *k, const struct expert_gemm *g)
{
    gemm_run_experts_of(k, g, 1);
}

// -- gather --

struct gather_call {
    const float *x;
    const int32_t *order;
    int32_t cols;
    float *out;
};

static void gather_rows(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    (void)c;
    const struct gather_call *g = arg;
    for (int64_t i = from; i < to; i++)
        for (int32_t j = 0; j < g->cols; j++)
            g->out[i * g->cols + j] = g->x[i * g->cols + g->order[j]];
}

void gemm_gather(struct kernels *k, const float *x, const int32_t *order, int32_t n_tok,
                 int32_t cols, float *out)
{
    struct gather_call g = {x, order, cols, out};
    cpu_for(cpu_of(k), n_tok, (1 << 14) / cols, gather_rows, &g);
}

struct gather_experts_call {
    const float *x;
    const int32_t *row, *order, *expert;
    int32_t cols;
    float *out;
};

static void gather_products(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    (void)c;
    const struct gather_experts_call *g = arg;
    for (int64_t i = from; i < to; i++) {
        const float *x = g->x + (int64_t)g->row[i] * g->cols;
        const int32_t *order = g->order + (int64_t)g->expert[i] * g->cols;
        for (int32_t j = 0; j < g->cols; j++)
            g->out[i * g->cols + j] = x[order[j]];
    }
}

void gemm_gather_experts(struct kernels *k, const float *x, const int32_t *row,
                         const int32_t *order, const int32_t *expert, int32_t n, int32_t cols,
                         float *out)
{
    struct gather_experts_call g = {x, row, order, expert, cols, out};
    cpu_for(cpu_of(k), n, (1 << 14) / cols, gather_products, &g);
}
