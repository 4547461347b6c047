// sim: a lane that runs steps in order as stages do, and jobs that know what must come out.
//
// A KV position holds a hash of the tenant and all tokens up to it, so a page of another prefix, of
// another tenant, overwritten too early or never written is seen at the first row that attends to
// it. Local pages are kept and looked at in the same way, as far as a window or chunk lets a token
// see; recurrent state is the hash itself, carried along. The id drawn is a hash of the whole
// history, the seed, the choice and the position, so each stream is known in full beforehand.
#pragma once
#include "coordinator/schedule/sched.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { SIM_VOCAB = 61, SIM_CHOICES = 3 };

static uint64_t sim_seed; // named when a check fails

#define SIM_CHECK(cond, ...)                                                                       \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "seed %llu: ", (unsigned long long)sim_seed);                          \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fputc('\n', stderr);                                                                   \
            fail_msg("%s", #cond);                                                                 \
        }                                                                                          \
    } while (0)

static inline uint64_t sim_mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0xff51afd7ed558ccdu;
    h ^= h >> 32;
    h *= 0xc4ceb9fe1a85ec53u;
    return h ^ h >> 29;
}

static inline uint32_t sim_rand(uint64_t *rng, uint32_t n)
{
    *rng = sim_mix(*rng + 1, 0x1234567);
    return (uint32_t)(*rng >> 20) % n;
}

// -- jobs --

struct job {
    uint64_t id; // also the sampling seed
    uint64_t tenant;
    uint32_t n_prompt, max_tokens, n_choice, n_known;
    int32_t *ids[SIM_CHOICES]; // (n_prompt + max_tokens) what will have been said
    uint64_t *kv[SIM_CHOICES]; // the same, what KV must hold
    enum pooling pooling;      // a vector is all it wants, which here is {length}
    uint32_t poison_pos;       // logits at this position are not finite; UINT32_MAX: none
    struct request *req;       // NULL: given back
    uint32_t n_seen[SIM_CHOICES], n_score;
    bool is_over[SIM_CHOICES], is_ended[SIM_CHOICES]; // FINISH seen; ended by the test
};

static inline int32_t job_draw(const struct job *j, uint32_t choice, uint32_t pos)
{
    uint64_t h = sim_mix(j->kv[choice][pos - 1], sim_mix(j->id, choice * 7919u + pos));
    return (int32_t)(h % SIM_VOCAB);
}

static inline float job_score(uint64_t kv, int32_t next)
{
    return -(float)(sim_mix(kv, (uint64_t)next) % 1000) / 64;
}

static inline uint64_t kv_next(uint64_t tenant, uint64_t before, uint32_t pos, int32_t id)
{
    return sim_mix(pos ? before : sim_mix(77, tenant), (uint64_t)(uint32_t)id);
}

static inline struct job *job_new(uint64_t id, const int32_t *prompt, uint32_t n_prompt,
                                  uint32_t max_tokens, uint32_t n_choice)
{
    struct job *j = calloc(1, sizeof *j);
    *j = (struct job){.id = id, .n_prompt = n_prompt, .max_tokens = max_tokens};
    j->n_choice = n_choice;
    j->n_known = n_prompt + max_tokens;
    j->poison_pos = UINT32_MAX;
    for (uint32_t c = 0; c < n_choice; c++) {
        j->ids[c] = calloc(j->n_known, sizeof(int32_t));
        j->kv[c] = calloc(j->n_known, sizeof(uint64_t));
        memcpy(j->ids[c], prompt, n_prompt * sizeof *prompt);
    }
    return j;
}

// Once the tenant is known: what must come out.
static inline void job_foresee(struct job *j)
{
    for (uint32_t c = 0; c < j->n_choice; c++)
        for (uint32_t i = 0; i < j->n_known; i++) {
            if (i >= j->n_prompt) j->ids[c][i] = job_draw(j, c, i);
            j->kv[c][i] = kv_next(j->tenant, i ? j->kv[c][i - 1] : 0, i, j->ids[c][i]);
        }
}

static inline void job_free(struct job *j)
{
    for (uint32_t c = 0; c < j->n_choice; c++) {
        free(j->ids[c]);
        free(j->kv[c]);
    }
    request_free(j->req);
    free(j);
}

static inline struct request *job_request(struct job *j)
{
    job_foresee(j);
    struct request *r = request_new(0);
    r->prompt = arena_copy(&r->arena, j->ids[0], j->n_prompt * sizeof(int32_t));
    r->n_prompt = j->n_prompt;
    r->max_tokens = j->max_tokens;
    r->tenant = j->tenant;
    r->pooling = j->pooling;
    r->sampling.seed = j->id;
    r->owner = j;
    assert_int_equal(request_init_choices(r, j->n_choice), OK);
    return j->req = r;
}

// -- the lane --

struct lane_slot {
    struct job *job;
    uint32_t choice, len, n_table;
    uint32_t *table;
    uint32_t local_from, n_local;
    uint32_t *locals;
    bool starts; // no row yet
    enum pooling pooling;
    uint32_t n_passed; // tokens since the bind, when all of them count
    uint64_t state;    // of the recurrent layers
    int32_t drawn;
    uint64_t drawn_in;
    bool penalised;
    int32_t n_logprobs;
};

struct lane_step { // a step on its way, copied: the scheduler's memory is its own again
    struct step step;
    struct arena arena;
};

struct lane {
    struct sched_config cfg;
    struct lane_slot *slots;
    uint64_t *kv;            // (n_page, page_tok)
    uint64_t *local_kv;      // (n_page_local, page_tok)
    uint64_t *snapshots;     // (n_snapshot)
    struct job **jobs;       // by id - 1
    struct lane_step *queue; // FIFO
    uint32_t head, n_queue, cap_queue;
    uint64_t last_number;
    struct arena arena; // the last result
};

static inline void lane_init(struct lane *l, const struct sched_config *cfg, struct job **jobs)
{
    *l = (struct lane){.cfg = *cfg, .jobs = jobs, .cap_queue = cfg->in_flight};
    l->slots = calloc(cfg->n_slot, sizeof *l->slots);
    uint32_t table = cfg->ctx / cfg->page_tok + 2 + cfg->n_page;
    for (uint32_t i = 0; i < cfg->n_slot; i++) {
        l->slots[i].table = calloc(table, sizeof(uint32_t));
        l->slots[i].locals = calloc(table, sizeof(uint32_t));
    }
    l->kv = calloc((size_t)cfg->n_page * cfg->page_tok, sizeof *l->kv);
    l->local_kv = calloc((size_t)cfg->n_page_local * cfg->page_tok + 1, sizeof *l->local_kv);
    l->snapshots = calloc((size_t)cfg->n_snapshot + 1, sizeof *l->snapshots);
    l->queue = calloc(cfg->in_flight, sizeof *l->queue);
    arena_init(&l->arena, 0);
}

static inline void lane_fini(struct lane *l)
{
    for (uint32_t i = 0; i < l->n_queue; i++)
        arena_fini(&l->queue[(l->head + i) % l->cap_queue].arena);
    for (uint32_t i = 0; i < l->cfg.n_slot; i++) {
        free(l->slots[i].table);
        free(l->slots[i].locals);
    }
    free(l->slots);
    free(l->kv);
    free(l->local_kv);
    free(l->snapshots);
    free(l->queue);
    arena_fini(&l->arena);
}

static inline void lane_send(struct lane *l, const struct step *st)
{
    SIM_CHECK(l->n_queue < l->cap_queue, "more than in_flight steps on their way");
    SIM_CHECK(st->epoch == l->cfg.epoch && st->number == ++l->last_number, "epoch or number");
    SIM_CHECK(st->n_row && st->n_row <= l->cfg.max_rows, "%u rows", st->n_row);
    struct lane_step *q = &l->queue[(l->head + l->n_queue++) % l->cap_queue];
    arena_init(&q->arena, 0);
    struct step_bind *binds = arena_copy(&q->arena, st->binds, st->n_bind * sizeof *binds);
    struct step_row *rows = arena_copy(&q->arena, st->rows, st->n_row * sizeof *rows);
    uint32_t n_tok = 0;
    for (uint32_t i = 0; i < st->n_bind; i++)
        binds[i].history =
            arena_copy(&q->arena, binds[i].history, binds[i].n_history * sizeof(int32_t));
    for (uint32_t i = 0; i < st->n_row; i++) {
        n_tok += rows[i].n_tok;
        if (rows[i].ids)
            rows[i].ids = arena_copy(&q->arena, rows[i].ids, rows[i].n_tok * sizeof(int32_t));
        rows[i].pages = arena_copy(&q->arena, rows[i].pages, rows[i].n_page * sizeof(uint32_t));
        rows[i].locals = arena_copy(&q->arena, rows[i].locals, rows[i].n_local * sizeof(uint32_t));
    }
    SIM_CHECK(n_tok <= l->cfg.max_tok, "%u tokens in a step", n_tok);
    q->step = *st;
    q->step.binds = binds;
    q->step.rows = rows;
}

static inline void lane_bind(struct lane *l, const struct step_bind *b)
{
    SIM_CHECK(b->slot < l->cfg.n_slot, "bind of slot %u", b->slot);
    struct lane_slot *s = &l->slots[b->slot];
    s->job = l->jobs[b->sampling.seed - 1];
    s->choice = b->sampling.choice;
    s->len = UINT32_MAX; // the first row says
    s->n_table = s->local_from = s->n_local = 0;
    s->starts = true;
    SIM_CHECK(b->snapshot <= l->cfg.n_snapshot, "snapshot %u", b->snapshot);
    s->state = b->snapshot ? l->snapshots[b->snapshot - 1] : 0;
    s->drawn_in = 0;
    s->pooling = b->pooling;
    s->n_passed = 0;
    SIM_CHECK(b->pooling == s->job->pooling, "bind: pooling");
    s->n_logprobs = b->sampling.n_logprobs;
    s->penalised =
        b->sampling.presence != 0 || b->sampling.frequency != 0 || b->sampling.repetition != 1;
    SIM_CHECK(s->choice < s->job->n_choice && b->n_prompt == s->job->n_prompt, "bind: prompt");
    SIM_CHECK(!memcmp(b->history ? b->history : s->job->ids[0], s->job->ids[s->choice],
                      b->n_history * sizeof(int32_t)),
              "bind: history");
    if (s->penalised) s->len = b->n_history;
    SIM_CHECK(s->penalised || !b->n_history, "history without need");
}

static inline uint64_t *lane_at(const struct lane *l, const struct lane_slot *s, uint32_t pos)
{
    uint32_t page_tok = l->cfg.page_tok;
    return &l->kv[(size_t)s->table[pos / page_tok] * page_tok + pos % page_tok];
}

static inline uint64_t *lane_local_at(const struct lane *l, const struct lane_slot *s, uint32_t pos)
{
    uint32_t page_tok = l->cfg.page_tok;
    SIM_CHECK(pos / page_tok >= s->local_from && pos / page_tok < s->n_local,
              "local page of %u was never given", pos);
    return &l->local_kv[(size_t)s->locals[pos / page_tok] * page_tok + pos % page_tok];
}

static inline void lane_write_locals(struct lane *l, const struct step_row *r, struct lane_slot *s)
{
    if (!l->cfg.n_page_local) {
        SIM_CHECK(!r->n_local, "local pages");
        return;
    }
    if (s->starts) s->local_from = s->n_local = r->local_from;
    SIM_CHECK(r->local_from == s->n_local, "local pages from %u, table has %u", r->local_from,
              s->n_local);
    for (uint32_t i = 0; i < r->n_local; i++) {
        SIM_CHECK(r->locals[i] < l->cfg.n_page_local, "local page %u", r->locals[i]);
        s->locals[s->n_local++] = r->locals[i];
    }
    for (uint32_t pos = r->pos; pos < r->pos + r->n_tok; pos++)
        *lane_local_at(l, s, pos) = s->job->kv[s->choice][pos];
}

// Takes the row's pages and tokens in.
static inline void lane_write(struct lane *l, const struct step_row *r)
{
    SIM_CHECK(r->slot < l->cfg.n_slot && l->slots[r->slot].job, "row of unbound slot %u", r->slot);
    struct lane_slot *s = &l->slots[r->slot];
    if (s->len == UINT32_MAX) s->len = r->pos;
    SIM_CHECK(r->pos == s->len, "row at %u, sequence has %u", r->pos, s->len);
    SIM_CHECK(r->page_from == s->n_table, "pages from %u, table has %u", r->page_from, s->n_table);
    for (uint32_t i = 0; i < r->n_page; i++) {
        SIM_CHECK(r->pages[i] < l->cfg.n_page, "page %u", r->pages[i]);
        s->table[s->n_table++] = r->pages[i];
    }
    uint32_t page_tok = l->cfg.page_tok, end = r->pos + r->n_tok;
    SIM_CHECK(end <= s->n_table * page_tok && end <= l->cfg.ctx, "row ends at %u", end);
    SIM_CHECK(end < s->job->n_known + !!s->pooling, "row at %u that nobody needs", r->pos);
    lane_write_locals(l, r, s);
    s->starts = false;
    SIM_CHECK(s->pooling <= POOLING_LAST || r->pos == s->n_passed, "row at %u, %u have passed",
              r->pos, s->n_passed);
    s->n_passed += r->n_tok;
    bool chain = r->flags & ROW_CHAIN;
    SIM_CHECK(chain ? r->n_tok == 1 && !r->ids && s->drawn_in == r->from_step && s->drawn_in != 0
                    : r->ids != NULL,
              "chain from step %llu", (unsigned long long)r->from_step);
    for (uint32_t i = 0; i < r->n_tok; i++) {
        uint32_t pos = r->pos + i;
        int32_t id = chain ? s->drawn : r->ids[i];
        SIM_CHECK(id == s->job->ids[s->choice][pos], "token at %u", pos);
        uint64_t before = pos ? *lane_at(l, s, pos - 1) : 0;
        *lane_at(l, s, pos) = kv_next(s->job->tenant, before, pos, id);
        s->state = kv_next(s->job->tenant, s->state, pos, id);
    }
    s->len = end;
}

static inline void lane_score(struct lane *l, const struct step_row *r, struct step_item *it)
{
    const struct lane_slot *s = &l->slots[r->slot];
    const int32_t *ids = s->job->ids[s->choice];
    uint32_t end = r->pos + r->n_tok;
    SIM_CHECK(r->next_id < 0 || r->next_id == ids[end], "next_id");
    it->n_score = r->n_tok - (r->next_id < 0);
    SIM_CHECK(it->n_score > 0, "nothing to score");
    float *scores = arena_take_n(&l->arena, it->n_score, sizeof *scores);
    for (uint32_t i = 0; i < it->n_score; i++)
        scores[i] = job_score(s->job->kv[s->choice][r->pos + i], ids[r->pos + i + 1]);
    it->scores = scores;
}

static inline void lane_draw(struct lane *l, uint64_t number, const struct step_row *r,
                             struct step_item *it)
{
    struct lane_slot *s = &l->slots[r->slot];
    uint32_t end = r->pos + r->n_tok;
    it->id = job_draw(s->job, s->choice, end);
    it->nonfinite = s->job->poison_pos == end;
    s->drawn = it->id;
    s->drawn_in = number;
    if (s->n_logprobs <= 0) return;
    struct token_prob *top = arena_take_n(&l->arena, (size_t)s->n_logprobs, sizeof *top);
    it->top = top;
    it->n_top = (uint32_t)s->n_logprobs;
}

static inline void lane_pool(struct lane *l, const struct step_row *r, struct step_item *it)
{
    const struct lane_slot *s = &l->slots[r->slot];
    float *v = arena_take_n(&l->arena, 1, sizeof *v);
    SIM_CHECK(s->pooling && s->len == s->job->n_prompt, "a vector at %u", s->len);
    *v = (float)s->len;
    it->vector = v;
    it->n_vector = 1;
    it->nonfinite = s->job->poison_pos == s->len;
}

// Runs the oldest step. The result is valid until the next run.
static inline struct step_result lane_run(struct lane *l)
{
    struct lane_step *q = &l->queue[l->head];
    const struct step *st = &q->step;
    arena_reset(&l->arena);
    struct step_item *items = arena_take_n(&l->arena, st->n_row, sizeof *items);
    uint32_t n_item = 0;
    for (uint32_t i = 0; i < st->n_bind; i++)
        lane_bind(l, &st->binds[i]);
    for (uint32_t i = 0; i < st->n_row; i++) {
        for (uint32_t k = 0; k < i; k++)
            SIM_CHECK(st->rows[k].slot != st->rows[i].slot, "slot twice in a step");
        lane_write(l, &st->rows[i]);
    }
    // All rows have written: a page given to two of them shows here.
    for (uint32_t i = 0; i < st->n_row; i++) {
        const struct step_row *r = &st->rows[i];
        const struct lane_slot *s = &l->slots[r->slot];
        const uint64_t *want = s->job->kv[s->choice];
        const unsigned long long id = s->job->id;
        uint32_t sees = step_sees_from(r->pos, l->cfg.window, l->cfg.chunk);
        for (uint32_t pos = 0; pos < s->len; pos++)
            SIM_CHECK(*lane_at(l, s, pos) == want[pos],
                      "job %llu choice %u: KV at %u of %u is another's", id, s->choice, pos,
                      s->len);
        for (uint32_t pos = sees; l->cfg.n_page_local && pos < s->len; pos++)
            SIM_CHECK(*lane_local_at(l, s, pos) == want[pos],
                      "job %llu choice %u: local KV at %u of %u is another's", id, s->choice, pos,
                      s->len);
        if (l->cfg.recurrent)
            SIM_CHECK(s->state == want[s->len - 1], "job %llu choice %u: state at %u is another's",
                      id, s->choice, s->len);
        if (!(r->flags & (ROW_SAMPLE | ROW_SCORE | ROW_POOL))) continue;
        struct step_item *it = &items[n_item++];
        *it = (struct step_item){.row = i, .slot = r->slot, .id = -1};
        if (r->flags & ROW_SCORE) lane_score(l, r, it);
        if (r->flags & ROW_SAMPLE) lane_draw(l, st->number, r, it);
        if (r->flags & ROW_POOL) lane_pool(l, r, it);
    }
    for (uint32_t i = 0; i < st->n_row; i++) {
        uint32_t snapshot = st->rows[i].snapshot;
        SIM_CHECK(snapshot <= l->cfg.n_snapshot, "snapshot %u", snapshot);
        if (snapshot) l->snapshots[snapshot - 1] = l->slots[st->rows[i].slot].state;
    }
    struct step_result res = {.epoch = st->epoch, .number = st->number};
    res.items = items;
    res.n_item = n_item;
    arena_fini(&q->arena);
    l->head = (l->head + 1) % l->cap_queue;
    l->n_queue--;
    return res;
}
