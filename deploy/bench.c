#include "deploy/bench.h"

#include "coordinator/text/tokenizer.h"
#include "proto/base/clock.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE_TOK = 32, PEAK_MS = 300, TEXT_MAX = 64 << 20 };

// Of a layer's experts, what one token does not read.
static uint64_t idle_expert_bytes(const struct model *m, int32_t layer)
{
    const struct model_moe *moe = &m->shape.moe;
    const uint64_t bytes = model_expert_bytes(m, layer);
    return bytes ? bytes - bytes / (uint64_t)moe->n_expert * (uint64_t)moe->n_used : 0;
}

static void count_work(struct bench *b)
{
    const struct model *m = b->model;
    const struct model_moe *moe = &m->shape.moe;
    for (int32_t i = 0; i < m->n_weight; i++) {
        const struct model_weight *w = &m->weights[i];
        if (!w->is_matrix || w->part < 0) continue;
        uint64_t n = (uint64_t)w->n; // of experts each token visits a few
        if (moe->n_expert && w->n == moe->n_expert) n = (uint64_t)moe->n_used;
        b->matrix_elems += n * (uint64_t)(w->rows * w->cols);
    }
    b->head_elems = (uint64_t)m->shape.n_vocab * (uint64_t)m->shape.dim;
    for (int32_t l = 0; l < m->shape.n_layer; l++)
        b->decode_bytes += model_part_bytes(m, l) - idle_expert_bytes(m, l);
    b->decode_bytes += model_part_bytes(m, PART_HEAD);
}

err_t bench_open(struct bench *b, const char *path, struct err_text *why)
{
    arena_init(&b->arena, 0);
    err_t err = model_open(path, &b->model, why);
    if (err) return err;
    if (b->ctx > (uint32_t)b->model->shape.ctx_train) b->ctx = (uint32_t)b->model->shape.ctx_train;
    uint32_t pages = (b->ctx + PAGE_TOK - 1) / PAGE_TOK;
    struct stage_config c = {
        .model = b->model,
        .layer_to = (uint32_t)b->model->shape.n_layer,
        .embed = true,
        .head = true,
        .settings = {.ctx = b->ctx,
                     .page_tok = PAGE_TOK,
                     .n_page = pages * b->n_slot,
                     .n_slot = b->n_slot,
                     .max_tok = b->max_tok,
                     .max_rows = b->n_slot,
                     .in_flight = 1,
                     .kv_dtype = b->kv_dtype,
                     .precision =
                         b->deterministic && b->precision == 0 ? PLAN_DETERMINISTIC : b->precision},
        .n_threads = (int32_t)b->n_threads,
        .device = b->device,
        .profile = b->profile,
        .eager = b->eager,
    };
    if (!b->no_limits)
        err = kernels_measure_peaks_of(b->device, (int32_t)b->n_threads, PEAK_MS, &b->peaks, why);
    const int64_t from = clock_now_us();
    if (!err) err = stage_open(&c, NULL, &b->stage, why);
    if (err) return err;
    struct kernels_bytes taken;
    b->load_s = (double)(clock_now_us() - from) * 1e-6;
    stage_taken(b->stage, &taken);
    b->taken_bytes = taken.own;
    b->x = calloc((size_t)b->max_tok * (size_t)b->model->shape.dim, sizeof *b->x);
    if (!b->x) return err_say(why, ERR_MEMORY, "out of memory");
    count_work(b);
    return OK;
}

void bench_close(struct bench *b)
{
    if (b->stage) stage_close(b->stage);
    if (b->model) model_close(b->model);
    free(b->x);
    arena_fini(&b->arena);
}

// One step of `n` equal rows: row i extends slot i at `pos` by n_tok ids. Binds slots at pos 0.
static err_t run_rows(struct bench *b, struct step_row *rows, uint32_t n,
                      struct step_result *result, struct err_text *why)
{
    uint32_t per_slot = (b->ctx + PAGE_TOK - 1) / PAGE_TOK;
    struct step_bind *binds = arena_take_n(&b->arena, n, sizeof *binds);
    uint32_t n_bind = 0;
    if (!binds) return err_say(why, ERR_MEMORY, "out of memory");
    for (uint32_t i = 0; i < n; i++) {
        struct step_row *r = &rows[i];
        if (r->pos == 0) {
            binds[n_bind++] = (struct step_bind){
                .slot = r->slot,
                .sampling = {.top_p = 1, .repetition = 1, .n_logprobs = -1},
            };
        }
        r->page_from = (r->pos + PAGE_TOK - 1) / PAGE_TOK;
        uint32_t page_to = (r->pos + r->n_tok + PAGE_TOK - 1) / PAGE_TOK;
        r->n_page = page_to - r->page_from;
        uint32_t *pages = arena_take_n(&b->arena, r->n_page, sizeof *pages);
        if (!pages) return err_say(why, ERR_MEMORY, "out of memory");
        for (uint32_t p = 0; p < r->n_page; p++)
            pages[p] = r->slot * per_slot + r->page_from + p;
        r->pages = pages;
    }
    struct step st = {.epoch = 1,
                      .number = ++b->step,
                      .binds = binds,
                      .n_bind = n_bind,
                      .rows = rows,
                      .n_row = n};
    err_t err = stage_check(b->stage, &st, why);
    if (!err) err = stage_run(b->stage, &st, b->x, NULL, &b->arena, result);
    return err;
}

// Positions [from, to) of a slot.
static err_t prefill(struct bench *b, uint32_t slot, const int32_t *ids, uint32_t from, uint32_t to,
                     struct err_text *why)
{
    for (uint32_t pos = from; pos < to;) {
        uint32_t take = to - pos < b->max_tok ? to - pos : b->max_tok;
        struct step_row row = {.slot = slot,
                               .pos = pos,
                               .n_tok = take,
                               .ids = ids + pos,
                               .next_id = -1,
                               .flags = pos + take == to ? ROW_SAMPLE : 0};
        struct step_result result;
        arena_reset(&b->arena);
        err_t err = run_rows(b, &row, 1, &result, why);
        if (err) return err;
        pos += take;
    }
    return OK;
}

static err_t decode(struct bench *b, uint32_t batch, uint32_t pos, int32_t *ids,
                    struct err_text *why)
{
    struct step_row rows[STEP_ROWS_MAX] = {0};
    struct step_result result;
    for (uint32_t i = 0; i < batch; i++)
        rows[i] = (struct step_row){
            .slot = i, .pos = pos, .n_tok = 1, .ids = &ids[i], .next_id = -1, .flags = ROW_SAMPLE};
    arena_reset(&b->arena);
    err_t err = run_rows(b, rows, batch, &result, why);
    for (uint32_t i = 0; !err && i < result.n_item && i < batch; i++)
        ids[i] = result.items[i].id;
    return err;
}

// The ids of sequence `seq`, made up.
static void make_prompt(const struct bench *b, uint32_t seq, int32_t *ids, uint32_t n)
{
    uint32_t rnd = 12345 + seq;
    for (uint32_t i = 0; i < n; i++) {
        rnd = rnd * 1664525 + 1013904223;
        ids[i] = (int32_t)(rnd >> 8) % b->model->shape.n_vocab;
    }
}

static double share(double part, double all)
{
    return all > 0 ? part / all : 0;
}

err_t bench_run(struct bench *b, const struct bench_ask *ask, struct bench_row *out,
                struct err_text *why)
{
    const uint32_t batch = ask->batch, depth = ask->depth, end = depth + ask->n_prompt;
    int32_t *prompt = calloc(end, sizeof *prompt), ids[STEP_ROWS_MAX];
    if (!prompt) return err_say(why, ERR_MEMORY, "out of memory");
    err_t err = OK;
    for (uint32_t s = 0; !err && s < batch; s++) {
        make_prompt(b, s, prompt, depth);
        err = prefill(b, s, prompt, 0, depth, why);
    }
    if (b->profile) stage_profile(b->stage, &out->prompt); // begins here
    const uint64_t busy0 = stage_busy_ns(b->stage);
    int64_t t0 = clock_now_us();
    for (uint32_t s = 0; !err && s < batch; s++) {
        make_prompt(b, s, prompt, end);
        ids[s] = prompt[end - 1];
        err = prefill(b, s, prompt, depth, end, why);
    }
    int64_t t1 = clock_now_us();
    const uint64_t busy1 = stage_busy_ns(b->stage);
    if (b->profile) stage_profile(b->stage, &out->prompt);
    for (uint32_t i = 0; !err && i < ask->n_decode; i++)
        err = decode(b, batch, end + i, ids, why);
    int64_t t2 = clock_now_us();
    const uint64_t busy2 = stage_busy_ns(b->stage);
    if (b->profile) stage_profile(b->stage, &out->decode);
    free(prompt);
    if (err) return err;
    double prompt_s = (double)(t1 - t0) * 1e-6, decode_s = (double)(t2 - t1) * 1e-6;
    double n_tok = (double)batch * ask->n_prompt;
    double ops = 2 * (n_tok * (double)b->matrix_elems + batch * (double)b->head_elems);
    double peak = b->precision                    ? b->peaks.f32_flops_per_s
                  : b->peaks.half_flops_per_s > 0 ? b->peaks.half_flops_per_s
                                                  : b->peaks.int8_ops_per_s;
    out->batch = batch;
    out->prompt_tok_s = n_tok / prompt_s;
    out->decode_tok_s = (double)batch * ask->n_decode / decode_s;
    out->prompt_share = share(ops / prompt_s, peak);
    out->decode_share =
        share((double)b->decode_bytes * ask->n_decode / decode_s, b->peaks.read_bytes_per_s);
    out->prompt_busy = share((double)(busy1 - busy0) * 1e-9, prompt_s);
    out->decode_busy = share((double)(busy2 - busy1) * 1e-9, decode_s);
    out->prompt_us = (uint64_t)(t1 - t0);
    out->decode_us = (uint64_t)(t2 - t1);
    return OK;
}

static err_t read_file(const char *path, struct buf *out, struct err_text *why)
{
    FILE *f = fopen(path, "rb");
    if (!f) return err_say(why, ERR_CONFIG, "%s: %s", path, strerror(errno));
    char piece[65536];
    size_t n;
    out->max = TEXT_MAX;
    while ((n = fread(piece, 1, sizeof piece, f)) > 0)
        buf_add(out, piece, n);
    fclose(f);
    return buf_ok(out) ? OK : err_say(why, ERR_TOO_LARGE, "%s: over 64 MiB", path);
}

// Adds -log p of the tokens window/2+1 .. window-1 to *nll.
static err_t score_window(struct bench *b, int32_t *ids, uint32_t window, double *nll, uint32_t *n,
                          struct err_text *why)
{
    for (uint32_t pos = 0; pos < window;) {
        uint32_t take = window - pos < b->max_tok ? window - pos : b->max_tok;
        struct step_row row = {.slot = 0,
                               .pos = pos,
                               .n_tok = take,
                               .ids = ids + pos,
                               .flags = ROW_SCORE,
                               .next_id = pos + take < window ? ids[pos + take] : -1};
        struct step_result result;
        arena_reset(&b->arena);
        err_t err = run_rows(b, &row, 1, &result, why);
        if (err) return err;
        for (uint32_t i = 0; i < result.items[0].n_score; i++) {
            if (pos + i < window / 2) continue;
            *nll -= result.items[0].scores[i];
            ++*n;
        }
        pos += take;
    }
    return OK;
}

err_t bench_perplexity(struct bench *b, const char *file, uint32_t window, uint32_t windows,
                       double *perplexity, uint32_t *n_scored, struct err_text *why)
{
    struct buf text = {0};
    struct tokenizer *tok = NULL;
    struct ids ids = {0};
    err_t err = read_file(file, &text, why);
    if (!err) err = tokenizer_open_model(b->model, &tok, why);
    if (!err &&
        tokenizer_encode(tok, text.data, text.len, TOKENIZER_BOS, NULL, 0, SIZE_MAX / 8, &ids))
        err = err_say(why, ERR_MEMORY, "%s: cannot be tokenised", file);
    if (!err && ids.n < window)
        err =
            err_say(why, ERR_CONFIG, "%s: %zu tokens, at least %u are needed", file, ids.n, window);
    double nll = 0;
    uint32_t n = 0;
    for (size_t w = 0; !err && (w + 1) * window <= ids.n && (!windows || w < windows); w++) {
        if (tokenizer_adds_bos(tok)) ids.at[w * window] = tokenizer_bos(tok);
        err = score_window(b, ids.at + w * window, window, &nll, &n, why);
    }
    if (!err) {
        *perplexity = exp(nll / n);
        *n_scored = n;
    }
    ids_fini(&ids);
    tokenizer_close(tok);
    buf_fini(&text);
    return err;
}
