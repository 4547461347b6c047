// gemm: cuts products into (panels x tile of rows) shares. No share splits a sum.
#include "kernels/cpu/cpu.h"

enum { GEMM_JOBS_MAX = 16, SHARE_PANELS = 8 };

struct gemm_call {
    struct cpu *c;
    const float *x;
    int32_t n_tok, cols, n_tile;
    const struct gemm_job *jobs;
    int32_t n_job, share_panels;
    int32_t first[GEMM_JOBS_MAX + 1]; // share at which each job begins
};

static bool is_fast(const struct cpu *c, enum dtype t)
{
    return c->lim.precision == PRECISION_FAST && !packed_info(t).is_float;
}

static uint8_t *tile_at(const struct gemm_call *g, int32_t tile)
{
    return g->c->xq + (int64_t)tile * TILE_TOK * (g->cols / BLOCK_COLS) * XQ_BYTES;
}

static int32_t tile_rows(const struct gemm_call *g, int32_t tile)
{
    int32_t n = g->n_tok - tile * TILE_TOK;
    return n < TILE_TOK ? n : TILE_TOK;
}

static void quantise_rows(struct cpu *c, void *arg, int64_t from, int64_t to)
{
    const struct gemm_call *g = arg;
    for (int32_t i = (int32_t)from; i < to; i++) {
        int32_t tile = i / TILE_TOK;
        c->isa->quantise(g->x + (int64_t)i * g->cols, g->cols, tile_at(g, tile), tile_rows(g, tile),
                         i % TILE_TOK);
    }
}

static void gemm_share(void *arg, int32_t item, int32_t thread)
{
    const struct gemm_call *g = arg;
    int32_t j = 0;
    while (item >= g->first[j + 1])
        j++;
    const struct gemm_job *job = &g->jobs[j];
    const struct view *w = job->w;
    const int32_t tile = (item - g->first[j]) % g->n_tile;
    const int32_t from = (item - g->first[j]) / g->n_tile * g->share_panels;
    const int32_t n_panel = (int32_t)((w->shape[0] + PANEL_ROWS - 1) / PANEL_ROWS);
    struct leaf_gemm l = {
        .dtype = w->dtype,
        .w = w->data,
        .panel_bytes = packed_panel_bytes(w->dtype, g->cols),
        .cols = g->cols,
        .rows = (int32_t)w->shape[0],
        .panel_from = from,
        .panel_to = from + g->share_panels < n_panel ? from + g->share_panels : n_panel,
        .n_tok = tile_rows(g, tile),
        .bias = job->bias,
        .y = job->y + (int64_t)tile * TILE_TOK * job->ldy,
        .ldy = job->ldy,
        .scratch = g->c->scratch[thread]->gemm,
    };
    if (is_fast(g->c, w->dtype)) {
        l.xq = tile_at(g, tile);
        g->c->isa->gemm_fast(&l);
    } else {
        l.x = g->x + (int64_t)tile * TILE_TOK * g->cols;
        g->c->isa->gemm_float(&l);
    }
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
        panels += (jobs[j].w->shape[0] + PANEL_ROWS - 1) / PANEL_ROWS;
    }
    // About 16 shares a thread, so that the last ones end together; of 4 panels at least, which is
    // what the kernel for one row works on at once.
    int64_t want = panels * g.n_tile / (16 * c->lim.n_threads), most = n_tok == 1 ? 1024 : 8;
    g.share_panels = (int32_t)(want < 4 ? 4 : want > most ? most : want / 4 * 4);
    for (int32_t j = 0; j < n_job; j++) {
        int32_t n = (int32_t)((jobs[j].w->shape[0] + PANEL_ROWS - 1) / PANEL_ROWS);
        g.first[j + 1] = g.first[j] + (n + g.share_panels - 1) / g.share_panels * g.n_tile;
    }
    int64_t grain = (1 << 14) / cols;
    if (quantise) cpu_for(c, n_tok, grain < 1 ? 1 : grain, quantise_rows, &g);
    pool_run(c->pool, g.first[n_job], gemm_share, &g);
}
