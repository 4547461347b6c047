#include "coordinator/canary.h"
#include "coordinator/coordinator_priv.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "coordinator/text/pooling.h"
#include "topology/file.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CTX_USUAL = 8192,
    STEP_TOKENS_USUAL = 256,
    SLOTS_USUAL = 32,
    QUEUE_USUAL = 256,
    GRACE_MS_USUAL = 10000,
    DRAIN_MS_USUAL = 30000,
    CANARY_MS_USUAL = 10000,
    TOKEN_TEXT_MAX = 256,
    EXACT = 1, // PRECISION_EXACT of kernels.h, whose includes end at the workers
};

static const char cluster_name[] = "trireme";

// -- the model, as callers see it --

static const char *token_text(struct coordinator *c, int32_t id)
{
    size_t len = 0;
    const char *s = id >= 0 ? tokenizer_piece(c->tokenizer, id, true, &len) : NULL;
    return len && len <= TOKEN_TEXT_MAX ? arena_copy_str(&c->arena, s, len) : "";
}

// The name of the file without its ending, or of the folder: what the user typed is what callers
// may say.
static const char *model_id(struct coordinator *c)
{
    size_t len;
    const char *stem = file_stem(c->config.model, &len);
    return arena_copy_str(&c->arena, stem, len);
}

// The configured aliases, and the name that the model gives itself.
static const char *const *all_aliases(struct coordinator *c)
{
    size_t n = 0;
    while (c->config.aliases && c->config.aliases[n])
        n++;
    const char **all = arena_take_n(&c->arena, n + 2, sizeof *all);
    if (!all) return NULL;
    if (n) memcpy(all, c->config.aliases, n * sizeof *all);
    all[n] = c->model->shape.name;
    return all;
}

static bool find_end_ids(struct coordinator *c)
{
    uint32_t n = 0;
    for (int32_t i = 0; i < c->n_vocab; i++)
        n += tokenizer_is_end(c->tokenizer, i);
    int32_t *ids = arena_take_n(&c->arena, n, sizeof *ids);
    if (!ids) return false;
    n = 0;
    for (int32_t i = 0; i < c->n_vocab; i++)
        if (tokenizer_is_end(c->tokenizer, i)) ids[n++] = i;
    c->engine_model.end_ids = ids;
    c->engine_model.n_end = n;
    return true;
}

static err_t open_template(struct coordinator *c, struct err_text *why)
{
    const char *source;
    size_t len;
    struct arena mem;
    arena_init(&mem, 0);
    err_t err = template_find(c->model, &mem, &source, &len, why);
    bool is_base = err == ERR_NOT_FOUND;
    if (err == OK) err = template_open(source, len, &c->template, why);
    arena_fini(&mem);
    return is_base ? OK : err;
}

static const char *file_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static err_t open_text(struct coordinator *c, struct err_text *why)
{
    err_t err = tokenizer_open_model(c->model, &c->tokenizer, why);
    if (err == OK) err = open_template(c, why);
    if (err) return err;
    c->n_vocab = c->model->shape.n_vocab;
    struct engine_model *m = &c->engine_model;
    const struct pooling_said pooling = pooling_find(c->model);
    *m = (struct engine_model){.id = model_id(c),
                               .aliases = all_aliases(c),
                               .created_s = time(NULL),
                               .file = file_name(c->model->path),
                               .ctx = c->want.ctx,
                               .n_slot = c->want.n_slot * c->config.n_lane,
                               .tokenizer = c->tokenizer,
                               .template = c->template,
                               .format = c->template ? template_turn(c->template)
                                                     : turn_format_named("none"),
                               .grammars = grammar_book_new(c->tokenizer),
                               .dim = (uint32_t)c->model->shape.dim,
                               .pooling = pooling.kind,
                               .pooling_why = pooling.why,
                               .bos = token_text(c, tokenizer_bos(c->tokenizer)),
                               .eos = token_text(c, tokenizer_eos(c->tokenizer))};
    if (!find_end_ids(c) || !m->id || !m->aliases || !m->grammars || !m->bos || !m->eos)
        return err_say(why, ERR_MEMORY, "out of memory");
    return OK;
}

// -- opening --

static uint32_t or_usual(uint32_t v, uint32_t usual)
{
    return v ? v : usual;
}

static err_t check_range(const char *what, uint64_t v, uint64_t min, uint64_t max,
                         struct err_text *why)
{
    if (v >= min && v <= max) return OK;
    return err_say(why, ERR_CONFIG, "%s is %llu, allowed are %llu to %llu", what,
                   (unsigned long long)v, (unsigned long long)min, (unsigned long long)max);
}

// Parts that were given are for groups of n_member.
static err_t settle_parts(struct place_want *w, uint32_t n_member, struct err_text *why)
{
    uint32_t n = 0;
    double speed[WIRE_MEMBERS_MAX];
    for (uint32_t i = 0; i < WIRE_MEMBERS_MAX; i++) {
        speed[i] = w->part[i];
        if (w->part[i]) n = i + 1;
    }
    if (w->split == SPLIT_NONE)
        return n ? err_say(why, ERR_CONFIG, "parts are of a tensor or experts split") : OK;
    if (w->split == SPLIT_EXPERTS && !w->model->shape.moe.n_expert)
        return err_say(why, ERR_CONFIG, "the model has no experts that workers could divide");
    err_t err = check_range("workers of a stage", n_member, 1, WIRE_MEMBERS_MAX, why);
    if (err || !n) return err;
    if (n != n_member)
        return err_say(why, ERR_CONFIG, "%u parts for the %u workers of a stage", n, n_member);
    w->n_member = n;
    share_parts(speed, (int32_t)n, w->part);
    return OK;
}

// Defaults and limits of what the placement is asked for.
static err_t settle(struct coordinator *c, struct err_text *why)
{
    struct coordinator_config *g = &c->config;
    struct place_want *w = &c->want;
    uint32_t ctx_train = (uint32_t)c->model->shape.ctx_train;
    uint32_t n_layer = (uint32_t)c->model->shape.n_layer;
    g->n_expect = or_usual(g->n_expect, or_usual(g->n_local, 1));
    g->queue_max = or_usual(g->queue_max, QUEUE_USUAL);
    g->grace_ms = or_usual(g->grace_ms, GRACE_MS_USUAL);
    g->drain_ms = or_usual(g->drain_ms, DRAIN_MS_USUAL);
    g->canary_ms = or_usual(g->canary_ms, CANARY_MS_USUAL);
    *w = (struct place_want){
        .model = c->model,
        .n_stage = g->n_stage,
        .split = (enum share_split)g->split,
        .ctx = or_usual(g->ctx, ctx_train < CTX_USUAL ? ctx_train : CTX_USUAL),
        .n_slot = or_usual(g->n_slot, SLOTS_USUAL),
        .max_tok = or_usual(g->max_tok, STEP_TOKENS_USUAL),
        .precision = g->precision,
        .kv_dtype = or_usual(g->kv_dtype, g->precision == EXACT ? DT_F32 : DT_F16),
        .road = g->road,
    };
    w->kv_tokens = g->kv_tokens ? g->kv_tokens : 4 * (uint64_t)w->ctx;
    memcpy(w->part, g->part, sizeof w->part);
    g->n_lane = or_usual(g->n_lane, 1);
    struct place_want whole = *w; // of a lane with all its workers
    place_shape(&whole, g->n_expect / g->n_lane);
    uint64_t kv_max = (uint64_t)STEP_PAGES_MAX * PLACE_PAGE_TOK;
    uint32_t stage_max = n_layer < WIRE_STAGES_MAX ? n_layer : WIRE_STAGES_MAX;
    err_t err = check_range("ctx", w->ctx, PLACE_PAGE_TOK, ctx_train, why);
    if (!err) err = check_range("kv tokens", w->kv_tokens, w->ctx, kv_max, why);
    if (!err) err = check_range("tokens of a step", w->max_tok, 2, STEP_TOKENS_MAX, why);
    if (!err) err = check_range("sequences at once", w->n_slot, 1, STEP_SLOTS_MAX, why);
    if (!err) err = check_range("stages", whole.n_stage, 1, stage_max, why);
    if (!err) err = check_range("lanes", g->n_lane, 1, FLEET_LANES_MAX / 2, why);
    if (!err && g->n_lane > g->n_expect)
        err = err_say(why, ERR_CONFIG, "%u lanes of %u workers", g->n_lane, g->n_expect);
    if (!err) err = settle_parts(w, whole.n_member, why);
    if (!err) err = check_range("workers to wait for", g->n_expect, 1, LANE_WORKERS_MAX, why);
    return err;
}

static void on_joined(uv_async_t *h)
{
    struct coordinator *c = h->data;
    struct link *links[COORDINATOR_JOINS_MAX];
    pthread_mutex_lock(&c->join_lock);
    uint32_t n = c->n_join;
    memcpy(links, c->joins, n * sizeof *links);
    c->n_join = 0;
    pthread_mutex_unlock(&c->join_lock);
    for (uint32_t i = 0; i < n; i++)
        fleet_add(c->fleet, links[i]);
}

err_t coordinator_join(struct coordinator *c, struct link *link)
{
    pthread_mutex_lock(&c->join_lock);
    bool has_room = c->n_join < COORDINATOR_JOINS_MAX;
    if (has_room) c->joins[c->n_join++] = link;
    pthread_mutex_unlock(&c->join_lock);
    if (!has_room) {
        link_close(link);
        return ERR_BUSY;
    }
    uv_async_send(&c->joined);
    return OK;
}

static err_t open_fleet(struct coordinator *c, struct err_text *why)
{
    struct fleet_config f = {.loop = &c->loop,
                             .cluster = cluster_name,
                             .state_dir = c->config.state_dir,
                             .join_listen = c->config.join_listen,
                             .life_s = c->config.cert_life_s,
                             .want = c->want,
                             .n_lane = c->config.n_lane,
                             .n_expect = c->config.n_expect,
                             .n_home = c->config.n_home,
                             .far_us = (int64_t)c->config.far_ms * 1000,
                             .no_rebalance = c->config.no_rebalance,
                             .grace_us = (int64_t)c->config.grace_ms * 1000,
                             .listener = flow_listener};
    f.listener.arg = c;
    err_t err = fleet_open(&f, &c->fleet, why);
    while (err == OK && c->n_taken < c->config.n_local) {
        err = fleet_add(c->fleet, c->config.local[c->n_taken++]); // the fleet's, also on error
        if (err) err_say(why, err, "a local worker's link cannot be used (%s)", err_name(err));
    }
    return err;
}

static err_t open_lanes(struct coordinator *c, struct err_text *why)
{
    for (uint32_t i = 0; i < FLEET_LANES_MAX; i++) {
        c->lanes[i].owner = c;
        c->lanes[i].number = i;
        c->lanes[i].sched = sched_new(c->config.queue_max);
        if (!c->lanes[i].sched) return err_say(why, ERR_MEMORY, "out of memory");
        sched_count_with(c->lanes[i].sched, &c->last_order);
    }
    return OK;
}

static err_t open_all(struct coordinator *c, struct err_text *why)
{
    err_t err = model_open(c->config.model, &c->model, why);
    if (err == OK) err = settle(c, why);
    if (err == OK) err = open_text(c, why);
    if (err) return err;
    err = open_lanes(c, why);
    if (!err) err = open_fleet(c, why);
    if (err || !c->config.door.listen) return err;
    return door_open(&c->loop, &c->config.door, &c->engine, &c->door, why);
}

err_t coordinator_open(const struct coordinator_config *config, struct coordinator **out,
                       struct err_text *why)
{
    struct coordinator *c = calloc(1, sizeof *c);
    if (!c) return err_say(why, ERR_MEMORY, "out of memory");
    c->engine.ops = &flow_ops;
    c->config = *config;
    c->started_us = clock_now_us();
    arena_init(&c->arena, 0);
    if (uv_loop_init(&c->loop) != 0) {
        free(c);
        return err_say(why, ERR_SYSTEM, "cannot make an event loop");
    }
    pthread_mutex_init(&c->join_lock, NULL);
    uv_timer_init(&c->loop, &c->timer);
    uv_async_init(&c->loop, &c->joined, on_joined);
    c->timer.data = c->joined.data = c;
    err_t err = open_all(c, why);
    if (err) {
        coordinator_close(c);
        return err;
    }
    log_info("model %s (%s, %s, %d layers, %.1f MiB), %u tokens of context", c->engine_model.id,
             c->model->shape.arch, c->model->quant, c->model->shape.n_layer,
             (double)c->model->file_bytes / (1 << 20), c->want.ctx);
    *out = c;
    return OK;
}

int coordinator_http_port(const struct coordinator *c)
{
    return c->door ? door_port(c->door) : 0;
}

int coordinator_join_port(const struct coordinator *c)
{
    return fleet_port(c->fleet);
}

struct engine *coordinator_engine(struct coordinator *c)
{
    return &c->engine;
}

// -- running --

static void begin_drain(struct coordinator *c, int64_t now)
{
    log_info("shutting down: running requests have %u s", c->config.drain_ms / 1000);
    c->is_draining = true;
    c->drain_us = now; // new callers are answered 503 until the door closes
}

// True: nothing is left to wait for.
static bool is_drained(struct coordinator *c, int64_t now)
{
    if (!flow_is_idle(c) && now - c->drain_us >= (int64_t)c->config.drain_ms * 1000)
        flow_fail_all(c, ERR_CAPACITY, "the server shut down before this request was done",
                      COORDINATOR_RETRY_S);
    if (!flow_is_idle(c)) return false;
    if (!c->parting_us) {
        c->parting_us = now;
        if (c->door) door_drain(c->door);
    }
    return !c->door || door_n_active(c->door) == 0 ||
           now - c->parting_us >= COORDINATOR_PARTING_MS * 1000;
}

// Nobody else can come, and those who are here cannot do it.
static bool is_hopeless(const struct coordinator *c)
{
    for (uint32_t i = 0; i < FLEET_LANES_MAX; i++) {
        const struct fleet_lane *fl = fleet_lane(c->fleet, i);
        if (fl && (fl->lane.state != LANE_NO_CAPACITY || fl->lane.was_ready)) return false;
    }
    return !c->config.join_listen;
}

static void on_timer(uv_timer_t *t)
{
    struct coordinator *c = t->data;
    int64_t now = clock_now_us();
    int stop = atomic_load(c->stop);
    canary_tick(c, now);
    if (is_hopeless(c)) {
        c->result = fleet_lane(c->fleet, 0)->lane.why_code;
        uv_stop(&c->loop);
    } else if (stop > 1) {
        uv_stop(&c->loop);
    } else if (stop == 1) {
        if (!c->drain_us) begin_drain(c, now);
        if (is_drained(c, now)) uv_stop(&c->loop);
    }
}

err_t coordinator_run(struct coordinator *c, atomic_int *stop)
{
    c->stop = stop;
    c->result = OK;
    uv_timer_start(&c->timer, on_timer, COORDINATOR_POLL_MS, COORDINATOR_POLL_MS);
    uv_run(&c->loop, UV_RUN_DEFAULT);
    uv_timer_stop(&c->timer);
    return c->result;
}

void coordinator_close(struct coordinator *c)
{
    if (!c) return;
    c->is_draining = true;
    if (c->fleet) flow_fail_all(c, ERR_CAPACITY, "the server shut down", COORDINATOR_RETRY_S);
    if (c->door) door_close(c->door);
    fleet_close(c->fleet);
    for (uint32_t i = 0; i < c->n_join; i++)
        link_close(c->joins[i]);
    while (c->n_taken < c->config.n_local)
        link_close(c->config.local[c->n_taken++]);
    uv_close((uv_handle_t *)&c->timer, NULL);
    uv_close((uv_handle_t *)&c->joined, NULL);
    uv_run(&c->loop, UV_RUN_DEFAULT); // the handles' last words
    if (uv_loop_close(&c->loop) != 0) log_warn("the event loop still had work when it was closed");
    for (uint32_t i = 0; i < FLEET_LANES_MAX; i++)
        sched_free(c->lanes[i].sched);
    template_close(c->template);
    grammar_book_free(c->engine_model.grammars);
    tokenizer_close(c->tokenizer);
    model_close(c->model);
    free(c->events);
    pthread_mutex_destroy(&c->join_lock);
    arena_fini(&c->arena);
    free(c);
}
