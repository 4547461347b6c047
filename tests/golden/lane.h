// One lane in one process: the stages of a model called one after the other, no links between. What
// golden and the stage tests drive. The members of a stage are threads, and what they hand each
// other goes over local ports, or from device to device.
#pragma once
#include "proto/wire/wire.h"
#include "tests/golden/near.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LANE_STAGES_MAX = 16, LANE_MEMBERS_MAX = 4, LANE_DEADLINE_US = 60000000 };

// What was seen inside during the last step, with `watch`; index layer + 1, 0 is the embedding.
struct lane_seen {
    float *hidden[MODEL_LAYERS_MAX + 1];    // (n_tok, dim)
    int32_t *experts[MODEL_LAYERS_MAX + 1]; // (n_tok, n_used), NULL: the layer has none
    float *weights[MODEL_LAYERS_MAX + 1];
};

struct lane {
    const struct model *model;
    struct stage *stages[LANE_STAGES_MAX][LANE_MEMBERS_MAX];
    struct group *groups[LANE_STAGES_MAX][LANE_MEMBERS_MAX];
    struct group *near[LANE_STAGES_MAX][LANE_MEMBERS_MAX];          // in their place, with `roads`
    struct kernels_group *inner[LANE_STAGES_MAX][LANE_MEMBERS_MAX]; // of near
    int32_t n_member[LANE_STAGES_MAX];
    uint32_t n_stage;
    struct plan_settings settings;
    uint32_t ring;                   // local pages of one slot, used in turn
    float *x;                        // of the leads
    float *theirs[LANE_MEMBERS_MAX]; // of the others
    struct arena arena;
    uint64_t step;
    enum pooling pooling; // of sequences that begin
    // logits of the step, as the tap saw them
    float *logits; // (cap, n_vocab)
    uint32_t n_logits, cap;
    struct lane_seen seen;
};

struct lane_options {
    uint32_t n_stage, n_slot, ctx, max_tok;
    // Members of each stage (0: 1) and their parts (all 0: equal). has_table: experts lie here and
    // there, some of them twice.
    enum share_split split;
    int32_t n_member;
    double part[LANE_MEMBERS_MAX];
    bool has_table;
    enum precision precision;
    bool deterministic; // of fast
    enum dtype kv_dtype;
    int32_t n_threads;
    const char *device;
    uint32_t roads; // KERNELS_ROAD_*: members are devices and hand each other numbers so; 0: ports
    bool mtp, watch;
    bool local_pages; // layers that see a window or chunk have few pages of their own
};

static inline void *lane_grow(void *old, size_t n, size_t size)
{
    void *p = realloc(old, n * size);
    if (!p) abort();
    return p;
}

static inline void lane_tap(void *arg, uint32_t row, uint32_t tok, const float *logits)
{
    (void)row;
    (void)tok;
    struct lane *l = arg;
    const size_t n = (size_t)l->model->shape.n_vocab;
    if (l->n_logits == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 64;
        l->logits = lane_grow(l->logits, l->cap * n, sizeof *l->logits);
    }
    memcpy(l->logits + l->n_logits++ * n, logits, n * sizeof *logits);
}

static inline void lane_see_hidden(void *arg, int32_t layer, int32_t n_tok, const float *x)
{
    struct lane *l = arg;
    if (layer < PART_EMBED) return; // the prediction head's
    float **p = &l->seen.hidden[layer + 1];
    const size_t n = (size_t)n_tok * (size_t)l->model->shape.dim;
    *p = lane_grow(*p, n, sizeof **p);
    memcpy(*p, x, n * sizeof **p);
}

static inline void lane_see_experts(void *arg, int32_t layer, int32_t n_tok, const int32_t *ids,
                                    const float *weights)
{
    struct lane *l = arg;
    if (layer < 0) return;
    int32_t **p = &l->seen.experts[layer + 1];
    float **w = &l->seen.weights[layer + 1];
    const size_t n = (size_t)n_tok * (size_t)l->model->shape.moe.n_used;
    *p = lane_grow(*p, n, sizeof **p);
    *w = lane_grow(*w, n, sizeof **w);
    memcpy(*p, ids, n * sizeof **p);
    memcpy(*w, weights, n * sizeof **w);
}

static inline void lane_close(struct lane *l)
{
    for (uint32_t i = 0; i < l->n_stage; i++)
        near_close(l->stages[i], l->groups[i], l->near[i], l->inner[i], l->n_member[i]);
    for (uint32_t i = 0; i < l->n_stage; i++)
        for (int32_t k = 0; k < LANE_MEMBERS_MAX; k++) {
            stage_close(l->stages[i][k]);
            group_close(l->groups[i][k]);
        }
    for (int i = 0; i <= MODEL_LAYERS_MAX; i++) {
        free(l->seen.hidden[i]);
        free(l->seen.experts[i]);
        free(l->seen.weights[i]);
    }
    for (int32_t k = 0; k < LANE_MEMBERS_MAX; k++)
        free(l->theirs[k]);
    free(l->x);
    free(l->logits);
    arena_fini(&l->arena);
    *l = (struct lane){0};
}

// -- members --

static inline err_t lane_rest(void *arg, struct port *port, int64_t since_us, struct err_text *why)
{
    struct kernels_group *const *inner = arg;
    if (*inner) { // the device does nothing by itself where it is run on the host
        sched_yield();
        return (*inner)->ops->progress(*inner, why);
    }
    struct pollfd p = {.fd = port_fd(port), .events = POLLIN};
    if (since_us < 200)
        sched_yield();
    else if (!port_arm(port))
        poll(&p, 1, 20);
    return OK;
}

static inline bool lane_open_groups(struct group **g, struct kernels_group **inner, int32_t n)
{
    struct err_text why = {0};
    for (int32_t i = 0; i < n; i++) {
        const struct group_link_config c = {.port = {.road = ROAD_LOCAL, .epoch = 1},
                                            .n_member = n,
                                            .member = i,
                                            .deadline_us = LANE_DEADLINE_US,
                                            .rest = lane_rest,
                                            .rest_arg = &inner[i]};
        if (group_link_open(&c, &g[i], &why)) return false;
    }
    for (int32_t i = 0; i < n * n; i++) {
        const uint8_t *address;
        uint32_t len;
        group_link_address(g[i % n], &address, &len);
        if (i / n != i % n && group_link_connect(g[i / n], i % n, address, len, &why)) return false;
    }
    return true;
}

static inline bool lane_has_experts(const struct model *m, uint32_t from, uint32_t to)
{
    bool has = false;
    for (uint32_t i = from; i < to; i++)
        has |= m->shape.layers[i].ffn == FFN_MOE;
    return has;
}

// Experts dealt out without any order; every third has a copy with the next member.
struct lane_table {
    uint8_t *owner;
    struct share_replica *copies;
};
static inline void lane_deal(struct lane_table *t, const struct model *m, struct share *s)
{
    const int32_t n = m->shape.moe.n_expert, n_layer = m->shape.n_layer;
    const size_t all = (size_t)(n_layer * n);
    uint32_t n_copy = 0;
    t->owner = lane_grow(NULL, all + 1, 1);
    t->copies = lane_grow(NULL, all + 1, sizeof *t->copies);
    for (int32_t i = 0; i < n_layer * n; i++) {
        const uint32_t any = (uint32_t)i * 2654435761u >> 16;
        t->owner[i] = (uint8_t)(any % (uint32_t)s->n_member);
        if (any % 3 == 0)
            t->copies[n_copy++] = (struct share_replica){
                (uint32_t)(i / n), (uint32_t)(i % n), (t->owner[i] + 1u) % (uint32_t)s->n_member};
    }
    s->experts = (struct share_experts){0, n_layer, n, t->owner, t->copies, n_copy};
}

static inline void lane_undeal(struct lane_table *t)
{
    free(t->owner);
    free(t->copies);
}

// Local pages of one slot: what the oldest token of a step may see, the step, and a page's rest.
static inline uint32_t lane_ring(const struct model_shape *s, uint32_t max_tok, uint32_t page_tok)
{
    bool has_local = false;
    for (int32_t i = 0; i < s->n_layer; i++)
        has_local |= s->layers[i].is_local;
    const uint32_t sight = (uint32_t)(s->window > s->chunk ? s->window : s->chunk);
    return has_local ? (sight + max_tok + page_tok - 1) / page_tok + 1 : 0;
}

// All members of stage i.
static inline bool lane_open_stage(struct lane *l, uint32_t i, const struct lane_options *o)
{
    const struct model *m = l->model;
    const uint32_t n = (uint32_t)m->shape.n_layer;
    struct stage_config c = {.model = m,
                             .layer_from = n * i / l->n_stage,
                             .layer_to = n * (i + 1) / l->n_stage,
                             .embed = i == 0,
                             .head = i + 1 == l->n_stage,
                             .mtp = o->mtp && i + 1 == l->n_stage,
                             .settings = l->settings,
                             .n_threads = o->n_threads,
                             .share = share_alone(),
                             .device = o->device};
    struct lane_table table = {0};
    const bool is_group = o->n_member > 1 && (o->split != SPLIT_EXPERTS ||
                                              lane_has_experts(m, c.layer_from, c.layer_to));
    l->n_member[i] = is_group ? o->n_member : 1;
    if (is_group) {
        const double equal[LANE_MEMBERS_MAX] = {1, 1, 1, 1};
        c.share.split = o->split;
        c.share.n_member = o->n_member;
        share_parts(o->part[0] > 0 ? o->part : equal, o->n_member, c.share.part);
        if (o->has_table) lane_deal(&table, m, &c.share);
        if (!lane_open_groups(l->groups[i], l->inner[i], o->n_member)) return false;
    }
    struct err_text why = {0};
    err_t e = OK;
    for (int32_t k = 0; k < l->n_member[i] && !e; k++) {
        c.share.member = k;
        c.group = l->groups[i][k];
        e = stage_open(&c, NULL, &l->stages[i][k], &why);
    }
    lane_undeal(&table);
    if (e) fprintf(stderr, "stage %u: %s\n", i, why.s);
    if (e || !is_group || !o->roads) return !e;
    // Experts' rows go to one member alone, which is NCCL's.
    const uint32_t roads = o->split == SPLIT_EXPERTS ? (uint32_t)KERNELS_ROAD_NCCL : o->roads;
    return near_open(l->stages[i], l->groups[i], o->n_member, roads, l->near[i], l->inner[i]);
}

static inline bool lane_open(struct lane *l, const struct model *m, const struct lane_options *o)
{
    enum { PAGE_TOK = 16 };
    const uint32_t per_slot = (o->ctx + PAGE_TOK - 1) / PAGE_TOK, n = (uint32_t)m->shape.n_layer;
    *l = (struct lane){.model = m, .n_stage = o->n_stage < n ? o->n_stage : n};
    l->ring = o->local_pages ? lane_ring(&m->shape, o->max_tok, PAGE_TOK) : 0;
    arena_init(&l->arena, 0);
    l->settings =
        (struct plan_settings){.ctx = o->ctx,
                               .page_tok = PAGE_TOK,
                               .n_page = per_slot * o->n_slot,
                               .n_page_local = l->ring * o->n_slot,
                               .n_slot = o->n_slot,
                               .max_tok = o->max_tok,
                               .max_rows = o->n_slot,
                               .in_flight = 1,
                               .kv_dtype = o->kv_dtype,
                               .precision = o->deterministic ? PLAN_DETERMINISTIC : o->precision};
    l->x = calloc((size_t)o->max_tok * (size_t)m->shape.dim, sizeof *l->x);
    for (int32_t k = 1; k < o->n_member; k++)
        l->theirs[k] = calloc((size_t)o->max_tok * (size_t)m->shape.dim, sizeof *l->x);
    for (uint32_t i = 0; i < l->n_stage; i++) {
        if (!lane_open_stage(l, i, o)) {
            lane_close(l);
            return false;
        }
        const struct stage_watch watch = {l, lane_see_hidden, lane_see_experts}, nobody = {0};
        for (int32_t k = 0; k < l->n_member[i]; k++)
            if (stage_watch(l->stages[i][k], o->watch ? k ? &nobody : &watch : NULL)) abort();
    }
    stage_tap(l->stages[l->n_stage - 1][0], lane_tap, l);
    return true;
}

// Steps that are watched are not recorded by devices.
static inline void lane_unwatch(struct lane *l)
{
    for (uint32_t i = 0; i < l->n_stage; i++)
        for (int32_t k = 0; k < l->n_member[i]; k++)
            stage_watch(l->stages[i][k], NULL);
}

// Page numbers go backwards and the slots' are interleaved, so that no test passes because pages
// lie in order.
static inline void lane_pages(struct lane *l, struct step_row *r)
{
    const struct plan_settings *s = &l->settings;
    const uint32_t per_slot = s->n_page / s->n_slot;
    const uint32_t from = (r->pos + s->page_tok - 1) / s->page_tok;
    const uint32_t n = (r->pos + r->n_tok + s->page_tok - 1) / s->page_tok - from;
    uint32_t *pages = arena_take_n(&l->arena, n, sizeof *pages);
    uint32_t *locals = arena_take_n(&l->arena, n, sizeof *locals);
    for (uint32_t p = 0; p < n; p++) {
        pages[p] = (per_slot - 1 - (from + p)) * s->n_slot + r->slot;
        if (l->ring) locals[p] = (from + p) % l->ring * s->n_slot + r->slot;
    }
    r->page_from = from;
    r->n_page = n;
    r->pages = pages;
    if (!l->ring) return;
    r->local_from = from;
    r->n_local = n;
    r->locals = locals;
}

struct lane_part {
    struct stage *stage;
    const struct step *st;
    float *x;
    struct arena arena;
    err_t err;
};

static inline void *lane_part_main(void *arg)
{
    struct lane_part *p = arg;
    struct err_text why = {0};
    p->err = stage_check(p->stage, p->st, &why);
    if (!p->err) p->err = stage_run(p->stage, p->st, p->x, NULL, &p->arena, NULL);
    return NULL;
}

// Stage i, all its members at once.
static inline err_t lane_run_stage(struct lane *l, uint32_t i, const struct step *st,
                                   struct step_result *result, struct err_text *why)
{
    pthread_t threads[LANE_MEMBERS_MAX];
    struct lane_part parts[LANE_MEMBERS_MAX] = {{0}};
    const size_t bytes = stage_n_tok(st) * (size_t)l->model->shape.dim * sizeof *l->x;
    for (int32_t k = 1; k < l->n_member[i]; k++) {
        parts[k] = (struct lane_part){.stage = l->stages[i][k], .st = st, .x = l->theirs[k]};
        arena_init(&parts[k].arena, 0);
        memcpy(parts[k].x, l->x, bytes);
        if (pthread_create(&threads[k], NULL, lane_part_main, &parts[k])) abort();
    }
    err_t e = stage_check(l->stages[i][0], st, why);
    if (!e) e = stage_run(l->stages[i][0], st, l->x, NULL, &l->arena, result);
    for (int32_t k = 1; k < l->n_member[i]; k++) {
        pthread_join(threads[k], NULL);
        arena_fini(&parts[k].arena);
        if (!e) e = parts[k].err;
    }
    struct group *g = l->near[i][0] ? l->near[i][0] : l->groups[i][0];
    if (e && g) g->ops->status(g, why);
    return e;
}

// Runs rows, whose pages are filled in here. Rows at position 0 bind their slot to greedy sampling.
// Pointers in result live until the next call.
static inline bool lane_rows(struct lane *l, struct step_row *rows, uint32_t n_row,
                             struct step_result *result)
{
    arena_reset(&l->arena);
    l->n_logits = 0;
    struct step_bind *binds = arena_take_n(&l->arena, n_row, sizeof *binds);
    struct step st = {
        .epoch = 1, .number = ++l->step, .binds = binds, .rows = rows, .n_row = n_row};
    for (uint32_t i = 0; i < n_row; i++) {
        if (rows[i].pos == 0)
            binds[st.n_bind++] = (struct step_bind){
                .slot = rows[i].slot,
                .pooling = l->pooling,
                .sampling = {.top_p = 1, .repetition = 1, .n_logprobs = -1, .digest = true}};
        lane_pages(l, &rows[i]);
    }
    struct err_text why = {0};
    for (uint32_t i = 0; i < l->n_stage; i++) {
        if (!lane_run_stage(l, i, &st, result, &why)) continue;
        fprintf(stderr, "stage %u: %s\n", i, why.s);
        return false;
    }
    return true;
}

// Prefills a prompt (without logits) and generates n ids in slot 0; logits of step i are handed to
// `seen`.
typedef void lane_seen_fn(void *arg, uint32_t i, const float *logits);
static inline bool lane_generate(struct lane *l, const int32_t *prompt, uint32_t n_prompt,
                                 uint32_t n, int32_t *ids, lane_seen_fn *seen, void *arg)
{
    for (uint32_t pos = 0, i = 0; i < n;) {
        const bool is_prompt = pos < n_prompt;
        uint32_t take = is_prompt ? n_prompt - pos : 1;
        if (take > l->settings.max_tok) take = l->settings.max_tok;
        const bool samples = pos + take >= n_prompt;
        struct step_row r = {.pos = pos,
                             .n_tok = take,
                             .next_id = -1,
                             .ids = is_prompt ? prompt + pos : &ids[i - 1],
                             .flags = samples ? ROW_SAMPLE : 0};
        struct step_result result;
        if (!lane_rows(l, &r, 1, &result)) return false;
        pos += take;
        if (!samples) continue;
        ids[i] = result.items[0].id;
        if (seen) seen(arg, i, l->logits);
        i++;
    }
    return true;
}
