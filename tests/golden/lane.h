// One lane in one process: the stages of a model called one after the other, no links between. What
// golden and the stage tests drive.
#pragma once
#include "worker/stage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LANE_STAGES_MAX = 16 };

struct lane {
    const struct model *model;
    struct stage *stages[LANE_STAGES_MAX];
    uint32_t n_stage;
    struct plan_settings settings;
    float *x;
    struct arena arena;
    uint64_t step;
    // logits of the step, as the tap saw them
    float *logits; // (cap, n_vocab)
    uint32_t n_logits, cap;
};

struct lane_options {
    uint32_t n_stage, n_slot, ctx, max_tok;
    enum precision precision;
    enum dtype kv_dtype;
    int32_t n_threads;
    const char *isa;
};

static inline void lane_tap(void *arg, uint32_t row, uint32_t tok, const float *logits)
{
    (void)row;
    (void)tok;
    struct lane *l = arg;
    const size_t n = (size_t)l->model->shape.n_vocab;
    if (l->n_logits == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 64;
        l->logits = realloc(l->logits, l->cap * n * sizeof *l->logits);
        if (!l->logits) abort();
    }
    memcpy(l->logits + l->n_logits++ * n, logits, n * sizeof *logits);
}

static inline void lane_close(struct lane *l)
{
    for (uint32_t i = 0; i < l->n_stage; i++)
        stage_close(l->stages[i]);
    free(l->x);
    free(l->logits);
    arena_fini(&l->arena);
    *l = (struct lane){0};
}

static inline bool lane_open(struct lane *l, const struct model *m, const struct lane_options *o)
{
    enum { PAGE_TOK = 16 };
    const uint32_t per_slot = (o->ctx + PAGE_TOK - 1) / PAGE_TOK, n = (uint32_t)m->shape.n_layer;
    *l = (struct lane){.model = m, .n_stage = o->n_stage < n ? o->n_stage : n};
    arena_init(&l->arena, 0);
    l->settings = (struct plan_settings){.ctx = o->ctx,
                                         .page_tok = PAGE_TOK,
                                         .n_page = per_slot * o->n_slot,
                                         .n_slot = o->n_slot,
                                         .max_tok = o->max_tok,
                                         .max_rows = o->n_slot,
                                         .in_flight = 1,
                                         .kv_dtype = o->kv_dtype,
                                         .precision = o->precision};
    l->x = calloc((size_t)o->max_tok * (size_t)m->shape.dim, sizeof *l->x);
    for (uint32_t i = 0; i < l->n_stage; i++) {
        const struct stage_config c = {.model = m,
                                       .layer_from = n * i / l->n_stage,
                                       .layer_to = n * (i + 1) / l->n_stage,
                                       .embed = i == 0,
                                       .head = i + 1 == l->n_stage,
                                       .settings = l->settings,
                                       .n_threads = o->n_threads,
                                       .isa = o->isa};
        struct err_text why = {0};
        if (stage_open(&c, NULL, &l->stages[i], &why)) {
            fprintf(stderr, "stage %u: %s\n", i, why.s);
            lane_close(l);
            return false;
        }
    }
    stage_tap(l->stages[l->n_stage - 1], lane_tap, l);
    return true;
}

// Runs rows, whose pages are filled in here: backwards and with the slots' pages interleaved, so
// that no test passes because pages lie in order. Rows at position 0 bind their slot to greedy
// sampling. Pointers in result live until the next call.
static inline bool lane_rows(struct lane *l, struct step_row *rows, uint32_t n_row,
                             struct step_result *result)
{
    const struct plan_settings *s = &l->settings;
    const uint32_t per_slot = s->n_page / s->n_slot;
    arena_reset(&l->arena);
    l->n_logits = 0;
    struct step_bind *binds = arena_take_n(&l->arena, n_row, sizeof *binds);
    struct step st = {
        .epoch = 1, .number = ++l->step, .binds = binds, .rows = rows, .n_row = n_row};
    for (uint32_t i = 0; i < n_row; i++) {
        struct step_row *r = &rows[i];
        if (r->pos == 0)
            binds[st.n_bind++] = (struct step_bind){
                .slot = r->slot,
                .sampling = {.top_p = 1, .repetition = 1, .n_logprobs = -1, .digest = true}};
        r->page_from = (r->pos + s->page_tok - 1) / s->page_tok;
        r->n_page = (r->pos + r->n_tok + s->page_tok - 1) / s->page_tok - r->page_from;
        uint32_t *pages = arena_take_n(&l->arena, r->n_page, sizeof *pages);
        for (uint32_t p = 0; p < r->n_page; p++)
            pages[p] = (per_slot - 1 - (r->page_from + p)) * s->n_slot + r->slot;
        r->pages = pages;
    }
    struct err_text why = {0};
    for (uint32_t i = 0; i < l->n_stage; i++) {
        err_t e = stage_check(l->stages[i], &st, &why);
        if (!e) e = stage_run(l->stages[i], &st, l->x, NULL, &l->arena, result);
        if (!e) continue;
        fprintf(stderr, "stage %u: %s\n", i, why.s);
        return false;
    }
    return true;
}
