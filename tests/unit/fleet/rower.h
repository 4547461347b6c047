// rower: a worker that only pretends: a thread on a local link that keeps the conversation of
// proto/wire and answers steps at once. The id it draws is a function of the last token and its
// position alone, so whoever sees a stream can check it, whatever happened on the way. It can be
// told to fail in all the ways in which workers do.
#pragma once
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/link/link.h"
#include "proto/wire/wire.h"
#include "topology/model.h"
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum rower_fault {
    ROWER_FINE,
    ROWER_CRASH,          // closes its link, now
    ROWER_FREEZE,         // neither reads nor writes, until told otherwise
    ROWER_STALL,          // beats, but its compute loop stands
    ROWER_BAD_ID,         // draws ids over the vocabulary
    ROWER_EXTRA_ITEM,     // answers rows that did not ask
    ROWER_FROM_ANY_STAGE, // sends results though it is not the last stage
    ROWER_FUTURE,         // results of an epoch that was never planned
    ROWER_TWICE,          // every result twice
    ROWER_GARBAGE,        // bytes that are no message
    ROWER_NOT_FINITE,     // says that logits were no numbers
    ROWER_FAIL_PLAN,      // FAILED for every PLAN
    ROWER_FAIL_STEP,      // FAILED for the next step
    ROWER_OTHER_SETTINGS, // effective settings that differ
};

struct rower {
    struct link *link;
    const char *name;
    const uint8_t *model_hash;
    uint32_t n_vocab;
    uint64_t mem_free_bytes;
    uint32_t held_from, held_to, n_layer; // what HELLO says it holds
    uint32_t step_us;                     // how long a step takes
    uint32_t page_max;                    // KV pages it has memory for; 0: for all
    atomic_int fault, stop;
    atomic_ullong n_step, n_plan, epoch;
    atomic_uint layer_from, layer_to;
    bool own_lane; // HELLO asks for it
    atomic_bool is_refused, is_refused_for_good, is_drained;
    atomic_uint member, n_member; // of its stage
    // What a lead says of its stage's experts with every heartbeat, (layers, n_expert); NULL:
    // nothing.
    const uint32_t *_Atomic use;
    uint32_t n_expert;
    atomic_uint n_owned, n_own_used; // by the plan's table: experts of this member; of these, used
    pthread_t thread;
    struct arena arena;
    struct msg_plan plan;
    int32_t last[STEP_SLOTS_MAX]; // id each slot drew last
    uint64_t progress;
    struct buf packed;
};

static inline int32_t rower_draw(int32_t last, uint32_t pos, uint32_t n_vocab)
{
    uint32_t h = ((uint32_t)last * 2654435761u) ^ (pos * 40503u + 0x9e3779b9u);
    h ^= h >> 15;
    return (int32_t)(h % n_vocab);
}

static inline bool rower_send(struct rower *r, const struct msg *m)
{
    buf_clear(&r->packed);
    return wire_pack(m, &r->packed) == OK &&
           link_send(r->link, r->packed.data, r->packed.len) == OK;
}

static inline void rower_hello(struct rower *r)
{
    struct msg_device d = {.name = "pretended",
                           .kind = "cpu",
                           .isa = "cpu reference",
                           .threads = 1,
                           .mem_bytes = 64ull << 30, // all rowers share a host
                           .mem_free_bytes = r->mem_free_bytes,
                           .read_bytes_per_s = 1e10,
                           .int8_ops_per_s = 1e11,
                           .f32_flops_per_s = 5e10};
    struct msg_model model = {.name = "model"};
    memcpy(model.hash, r->model_hash, sizeof model.hash);
    struct msg m = {.kind = MSG_HELLO,
                    .hello = {.version = WIRE_VERSION,
                              .build = TRIREME_VERSION,
                              .name = r->name,
                              .instance = 1,
                              .host = "localhost",
                              .pid = (uint32_t)getpid(),
                              .devices = &d,
                              .n_device = 1,
                              .models = &model,
                              .n_model = 1,
                              .held_from = r->held_from,
                              .held_to = r->held_to,
                              .held_embed = r->held_to > 0 && r->held_from == 0,
                              .held_head = r->held_to > 0 && r->held_to == r->n_layer,
                              .roads = ROAD_LOCAL,
                              .own_lane = r->own_lane,
                              .process = 1}};
    memcpy(m.hello.held_hash, r->model_hash, sizeof m.hello.held_hash);
    rower_send(r, &m);
}

static inline void rower_failed(struct rower *r, err_t code, const char *why)
{
    struct msg m = {.kind = MSG_FAILED,
                    .failed = {.epoch = r->plan.epoch, .code = code, .why = why}};
    rower_send(r, &m);
}

// Tables live in the message's arena only.
static inline void rower_read_table(struct rower *r)
{
    const uint32_t n = (r->plan.layer_to - r->plan.layer_from) * r->plan.n_expert;
    const uint32_t *use = atomic_load(&r->use);
    uint32_t n_owned = 0, n_used = 0;
    for (uint32_t i = 0; i < n; i++) {
        const bool is_mine = r->plan.owner[i] == r->plan.member;
        n_owned += is_mine;
        n_used += is_mine && use && use[i];
    }
    atomic_store(&r->n_owned, n_owned);
    atomic_store(&r->n_own_used, n_used);
}

static inline void rower_tell_use(struct rower *r)
{
    const uint32_t *use = atomic_load(&r->use);
    if (!use || !r->plan.epoch || r->plan.member) return;
    struct msg m = {.kind = MSG_USAGE,
                    .usage = {.epoch = r->plan.epoch,
                              .layer_from = r->plan.layer_from,
                              .n_layer = r->plan.layer_to - r->plan.layer_from,
                              .n_expert = r->n_expert,
                              .count = use}};
    rower_send(r, &m);
}

static inline void rower_prepare(struct rower *r)
{
    rower_read_table(r);
    atomic_store(&r->layer_from, r->plan.layer_from);
    atomic_store(&r->layer_to, r->plan.layer_to);
    atomic_store(&r->epoch, r->plan.epoch);
    atomic_store(&r->member, r->plan.member);
    atomic_store(&r->n_member, r->plan.n_member[r->plan.stage]);
    atomic_fetch_add(&r->n_plan, 1);
    if (atomic_load(&r->fault) == ROWER_FAIL_PLAN) {
        rower_failed(r, ERR_MODEL, "told to fail");
        return;
    }
    if (r->page_max && r->plan.settings.n_page > r->page_max) {
        rower_failed(r, ERR_MEMORY, "no memory for so many pages");
        return;
    }
    struct msg m = {.kind = MSG_PREPARED,
                    .prepared = {.epoch = r->plan.epoch,
                                 .settings = r->plan.settings,
                                 .weight_bytes = 1000,
                                 .kv_bytes = 100,
                                 .work_bytes = 10,
                                 .load_ms = 1,
                                 .address = (const uint8_t *)r->name,
                                 .n_address = (uint32_t)strlen(r->name)}};
    if (atomic_load(&r->fault) == ROWER_OTHER_SETTINGS) m.prepared.settings.n_slot++;
    rower_send(r, &m);
}

// The result of a step, as the last stage would give it.
static inline void rower_answer(struct rower *r, const struct step *s, int fault)
{
    struct step_item items[STEP_ROWS_MAX];
    struct token_prob top = {.id = 0, .logprob = -1};
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_row; i++) {
        const struct step_row *row = &s->rows[i];
        int32_t last = row->flags & ROW_CHAIN ? r->last[row->slot] : row->ids[row->n_tok - 1];
        float *scores = NULL;
        uint32_t n_score = 0;
        if (row->flags & ROW_SCORE) {
            n_score = row->n_tok - (row->next_id < 0);
            scores = arena_take_n(&r->arena, n_score, sizeof *scores);
            for (uint32_t k = 0; k < n_score; k++)
                scores[k] = -(float)(row->pos + k + 1);
        }
        bool draws = row->flags & ROW_SAMPLE;
        if (!draws && !n_score && fault != ROWER_EXTRA_ITEM) continue;
        int32_t id = rower_draw(last, row->pos + row->n_tok - 1, r->n_vocab);
        if (fault == ROWER_BAD_ID) id = (int32_t)r->n_vocab;
        r->last[row->slot] = id;
        items[n++] = (struct step_item){.row = i,
                                        .slot = row->slot,
                                        .id = draws ? id : -1,
                                        .nonfinite = draws && fault == ROWER_NOT_FINITE,
                                        .top = &top,
                                        .scores = scores,
                                        .n_score = n_score};
    }
    if (fault == ROWER_EXTRA_ITEM) items[n++] = (struct step_item){.row = s->n_row, .id = 1};
    struct msg m = {
        .kind = MSG_RESULT,
        .result = {.epoch = s->epoch, .number = s->number, .items = items, .n_item = n}};
    if (fault == ROWER_FUTURE) m.result.epoch += 5;
    rower_send(r, &m);
    if (fault == ROWER_TWICE) rower_send(r, &m);
}

static inline void rower_step(struct rower *r, const struct step *s)
{
    int fault = atomic_load(&r->fault);
    if (fault == ROWER_STALL || s->epoch != r->plan.epoch) return;
    if (fault == ROWER_FAIL_STEP) {
        atomic_store(&r->fault, ROWER_FINE);
        rower_failed(r, ERR_MODEL, "told to fail a step");
        return;
    }
    if (r->step_us) usleep(r->step_us);
    atomic_fetch_add(&r->n_step, 1);
    bool is_last = r->plan.stage + 1 == r->plan.n_stage && r->plan.member == 0;
    if (is_last || fault == ROWER_FROM_ANY_STAGE) rower_answer(r, s, fault);
}

static inline void rower_take(struct rower *r, const void *data, size_t len)
{
    struct msg m;
    struct err_text why;
    arena_reset(&r->arena);
    if (wire_unpack(data, len, &r->arena, &m, &why) != OK) {
        log_error("rower %s: %s", r->name, why.s);
        return;
    }
    switch (m.kind) {
    case MSG_PLAN:
        r->plan = m.plan;
        rower_prepare(r);
        break;
    case MSG_CONNECT: {
        struct msg linked = {
            .kind = MSG_LINKED,
            .linked = {.epoch = m.connect.epoch, .next_latency_us = 3, .transport = "pretended"}};
        if (m.connect.epoch == r->plan.epoch) rower_send(r, &linked);
        break;
    }
    case MSG_STEP:
        rower_step(r, &m.step);
        break;
    case MSG_DRAIN:
        atomic_store(&r->is_drained, true);
        atomic_store(&r->stop, 1);
        break;
    case MSG_REFUSE:
        atomic_store(&r->is_refused_for_good, m.refuse.is_final);
        atomic_store(&r->is_refused, true);
        break;
    default:
        break; // WELCOME, HEARTBEAT
    }
}

static inline void rower_beat(struct rower *r)
{
    if (atomic_load(&r->fault) != ROWER_STALL) r->progress++;
    struct msg m = {.kind = MSG_HEARTBEAT,
                    .heartbeat = {.epoch = r->plan.epoch,
                                  .step_done = atomic_load(&r->n_step),
                                  .progress = r->progress,
                                  .mem_free_bytes = r->mem_free_bytes,
                                  .busy_us = 10,
                                  .wait_us = 30}};
    rower_send(r, &m);
    rower_tell_use(r);
}

static inline void *rower_run(void *arg)
{
    struct rower *r = arg;
    int64_t beaten = 0;
    rower_hello(r);
    while (!atomic_load(&r->stop) && atomic_load(&r->fault) != ROWER_CRASH) {
        if (atomic_load(&r->fault) == ROWER_FREEZE) {
            usleep(10000);
            continue;
        }
        if (atomic_load(&r->fault) == ROWER_GARBAGE) {
            link_send(r->link, "\xff\xff\xff\xff garbage", 12);
            atomic_store(&r->fault, ROWER_FINE);
        }
        int64_t now = clock_now_us();
        if (now - beaten >= 100000) {
            rower_beat(r);
            beaten = now;
        }
        const void *data;
        size_t len;
        struct err_text why;
        err_t err = link_recv(r->link, &data, &len, &why);
        if (err == OK) {
            rower_take(r, data, len);
            continue;
        }
        if (err != ERR_AGAIN) break;
        struct pollfd p = {0};
        p.fd = link_poll_fd(r->link, &p.events);
        poll(&p, 1, 5);
    }
    link_close(r->link);
    return NULL;
}

// Gives the coordinator's end of the link.
static inline struct link *rower_start(struct rower *r, const char *name, const struct model *model)
{
    struct link *end;
    memset(r, 0, sizeof *r);
    r->name = name;
    r->model_hash = model->hash;
    r->n_vocab = (uint32_t)model->shape.n_vocab;
    r->n_layer = (uint32_t)model->shape.n_layer;
    r->mem_free_bytes = 4ull << 30;
    arena_init(&r->arena, WIRE_ARENA_MAX);
    if (link_local_pair("coordinator", name, &end, &r->link) != OK) return NULL;
    return end;
}

static inline void rower_go(struct rower *r)
{
    if (pthread_create(&r->thread, NULL, rower_run, r) != 0) abort();
}

static inline void rower_stop(struct rower *r)
{
    atomic_store(&r->stop, 1);
    pthread_join(r->thread, NULL);
    arena_fini(&r->arena);
    buf_fini(&r->packed);
}
