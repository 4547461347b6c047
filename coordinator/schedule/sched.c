#include "coordinator/schedule/sched.h"
#include "coordinator/schedule/batch.h"
#include "coordinator/schedule/commit.h"
#include "coordinator/schedule/events.h"
#include "coordinator/schedule/seat.h"

#include <stdlib.h>

struct sched *sched_new(uint32_t queue_max)
{
    struct sched *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->cfg.queue_max = queue_max;
    s->last_order = &s->own_order;
    list_init(&s->requests);
    list_init(&s->queue);
    list_init(&s->prefill);
    list_init(&s->decode);
    return s;
}

void sched_free(struct sched *s)
{
    if (!s) return;
    arena_fini(&s->mem);
    free(s->events);
    free(s);
}

void sched_suspend(struct sched *s)
{
    if (!s->on) return;
    s->on = false;
    s->n_sent = 0;
    s->n_waiting = s->n_running = 0;
    list_init(&s->prefill);
    list_init(&s->decode);
    list_init(&s->queue);
    list_each(it, &s->requests)
    {
        struct request *r = list_item(it, struct request, node);
        for (uint32_t i = 0; i < r->n_choice; i++) {
            struct choice *c = &r->choices[i];
            if (c->state == CHOICE_DONE) continue;
            if (c->slot >= 0) seat_give(s, c);
            c->last_step = 0;
            list_init(&c->node);
            seat_enqueue(s, c);
        }
    }
}

// Everything whose size the configuration decides.
static err_t take_memory(struct sched *s, struct arena *a)
{
    const struct sched_config *cfg = &s->cfg;
    struct batch *b = &s->batch;
    const struct pages_config pages = {.n = {cfg->n_page, cfg->n_page_local, cfg->n_snapshot},
                                       .page_tok = cfg->page_tok,
                                       .cache = cfg->prefix_cache};
    err_t e = pages_init(&s->pages, a, &pages);
    if (e) return e;
    uint32_t table = state_pages_for(s, cfg->ctx);
    s->table_cap = table < cfg->n_page ? table : cfg->n_page;
    s->n_free_slot = cfg->n_slot;
    s->seats = arena_take_n(a, cfg->n_slot, sizeof *s->seats);
    s->free_slots = arena_take_n(a, cfg->n_slot, sizeof *s->free_slots);
    const size_t n_entry = (size_t)cfg->n_slot * s->table_cap;
    s->tables = arena_take_n(a, n_entry, sizeof *s->tables);
    s->local_tables = arena_take_n(a, cfg->n_page_local ? n_entry : 0, sizeof *s->local_tables);
    s->page_ids = arena_take_n(a, cfg->page_tok, sizeof *s->page_ids);
    b->rows = arena_take_n(a, cfg->max_rows, sizeof *b->rows);
    b->binds = arena_take_n(a, cfg->max_rows, sizeof *b->binds);
    b->picks = arena_take_n(a, cfg->n_slot, sizeof *b->picks);
    b->ids = arena_take_n(a, cfg->max_tok, sizeof *b->ids);
    s->ring = arena_take_n(a, cfg->in_flight, sizeof *s->ring);
    struct sent_row *rows = arena_take_n(a, (size_t)cfg->in_flight * cfg->max_rows, sizeof *rows);
    if (!s->seats || !s->free_slots || !s->tables || !s->local_tables || !s->page_ids || !b->rows ||
        !b->binds || !b->picks || !b->ids || !s->ring || !rows)
        return ERR_MEMORY;
    for (uint32_t i = 0; i < cfg->n_slot; i++)
        s->free_slots[i] = cfg->n_slot - 1 - i;
    for (uint32_t i = 0; i < cfg->in_flight; i++)
        s->ring[i].rows = rows + (size_t)i * cfg->max_rows;
    return OK;
}

static err_t check_fits(const struct sched *s, const struct request *r, struct err_text *why)
{
    uint64_t n_tok = (uint64_t)r->n_prompt + r->max_tokens;
    if (n_tok > s->cfg.ctx)
        return err_say(why, ERR_TOO_LARGE,
                       "prompt and max_tokens are %llu tokens together, the context holds %u",
                       (unsigned long long)n_tok, s->cfg.ctx);
    if (r->pooling && s->cfg.dim > STEP_VECTORS_MAX)
        return err_say(why, ERR_TOO_LARGE, "vectors of %u numbers, at most %d are supported",
                       s->cfg.dim, STEP_VECTORS_MAX);
    // The last token is drawn, not computed.
    uint32_t n_page = state_pages_for(s, (uint32_t)n_tok - !r->pooling);
    if (n_page <= s->cfg.n_page) return OK;
    return err_say(why, ERR_TOO_LARGE,
                   "prompt and max_tokens are %llu tokens together, the KV cache holds %llu",
                   (unsigned long long)n_tok, (unsigned long long)s->cfg.n_page * s->cfg.page_tok);
}

static bool config_ok(const struct sched_config *c)
{
    return c->n_stage && c->in_flight && c->n_slot && c->n_page && c->page_tok && c->ctx &&
           c->max_tok >= 2 && c->max_rows >= 2 && c->max_tok <= STEP_TOKENS_MAX &&
           c->max_rows <= STEP_ROWS_MAX && c->n_slot <= STEP_SLOTS_MAX &&
           c->n_page <= STEP_PAGES_MAX && c->n_page_local <= STEP_PAGES_MAX &&
           c->n_snapshot <= STEP_SNAPSHOTS_MAX &&
           (!c->n_page_local || c->n_page_local >= sched_local_pages(c, 1)) &&
           c->in_flight <= 1024 && c->ctx <= INT32_MAX;
}

err_t sched_configure(struct sched *s, const struct sched_config *c)
{
    sched_suspend(s);
    if (!config_ok(c)) return ERR_INVALID;
    arena_fini(&s->mem);
    arena_init(&s->mem, 0);
    s->cfg = *c;
    err_t e = events_reserve(s, 0);
    if (!e) e = take_memory(s, &s->mem);
    if (e) return e;
    s->on = true;
    s->number = 0;
    s->blocked_order = 0;
    list_each(it, &s->requests)
    {
        struct request *r = list_item(it, struct request, node);
        struct err_text why;
        e = check_fits(s, r, &why);
        if (e) events_fail(s, r, e, &why, 0);
    }
    return OK;
}

static err_t first_masks(struct request *r, struct err_text *why)
{
    err_t e = OK;
    for (uint32_t i = 0; r->rules && i < r->n_choice && !e; i++)
        e = r->rules->next(&r->choices[i], why);
    return e == ERR_END ? err_say(why, ERR_INVALID, "nothing but the empty text may come") : e;
}

err_t sched_submit(struct sched *s, struct request *r, int64_t now_us, struct err_text *why)
{
    BUG_ON(!r->n_choice || r->n_live != r->n_choice || list_linked(&r->node));
    if (r->sampling.n_bias > STEP_BIAS_MAX)
        return err_say(why, ERR_TOO_LARGE, "%u biases, at most %u are allowed", r->sampling.n_bias,
                       STEP_BIAS_MAX);
    err_t e = s->on ? check_fits(s, r, why) : OK;
    if (e) return e;
    if ((uint64_t)s->n_waiting + r->n_choice > s->cfg.queue_max)
        return err_say(why, ERR_BUSY, "%u are waiting already, the queue holds %u", s->n_waiting,
                       s->cfg.queue_max);
    e = events_reserve(s, r->n_choice);
    if (e) return err_say(why, e, "no memory for another request");
    e = first_masks(r, why);
    if (e) return e;
    r->arrived_us = now_us;
    list_push_back(&s->requests, &r->node);
    for (uint32_t i = 0; i < r->n_choice; i++) {
        r->choices[i].order = ++*s->last_order;
        seat_enqueue(s, &r->choices[i]);
    }
    return OK;
}

void sched_count_with(struct sched *s, uint64_t *last_order)
{
    s->last_order = last_order;
}

void sched_release(struct sched *s, struct request *r)
{
    for (uint32_t i = 0; i < r->n_choice; i++) {
        struct choice *c = &r->choices[i];
        if (c->state == CHOICE_DONE) continue;
        if (c->slot >= 0) {
            seat_give(s, c);
            s->n_running--;
        } else {
            s->n_waiting--;
        }
        list_remove(&c->node);
        c->state = CHOICE_QUEUED;
        c->last_step = 0;
    }
    list_remove(&r->node);
}

err_t sched_adopt(struct sched *s, struct request *r, struct err_text *why)
{
    err_t e = s->on ? check_fits(s, r, why) : OK;
    if (!e && events_reserve(s, r->n_choice))
        e = err_say(why, ERR_MEMORY, "no memory for another request");
    if (e) return e;
    struct list *at = s->requests.prev;
    while (at != &s->requests &&
           list_item(at, struct request, node)->choices[0].order > r->choices[0].order)
        at = at->prev;
    list_push_back(at->next, &r->node);
    for (uint32_t i = 0; i < r->n_choice; i++)
        if (r->choices[i].state != CHOICE_DONE) seat_enqueue(s, &r->choices[i]);
    return OK;
}

uint32_t sched_known(const struct sched *s, const struct request *r)
{
    const bool may_begin_later = s->on && s->cfg.prefix_cache && !state_needs_all(r->choices);
    return may_begin_later ? seat_known(s, r) : 0;
}

uint32_t sched_pages(const struct sched *s, const struct request *r)
{
    return s->on ? state_pages_for(s, r->n_prompt + 1) : 0;
}

void sched_finish(struct sched *s, struct choice *c, enum finish reason, int64_t now_us)
{
    if (c->state != CHOICE_DONE) events_finish(s, c, reason, now_us);
}

void sched_cancel(struct sched *s, struct request *r, int64_t now_us)
{
    for (uint32_t i = 0; i < r->n_choice; i++)
        sched_finish(s, &r->choices[i], FINISH_CANCELLED, now_us);
}

bool sched_next(struct sched *s, int64_t now_us, struct step *out)
{
    return batch_make(s, now_us, out);
}

err_t sched_commit(struct sched *s, const struct step_result *r, int32_t n_vocab, int64_t now_us,
                   struct err_text *why)
{
    if (!s->on || r->epoch != s->cfg.epoch) return OK;
    err_t e = commit_check(s, r, n_vocab, why);
    if (e) return e;
    e = events_reserve(s, 2 * s->cfg.max_rows);
    if (e) return err_say(why, e, "no memory for the events of a step");
    commit_apply(s, r, now_us);
    return OK;
}

const struct sched_event *sched_events(struct sched *s, uint32_t *n)
{
    *n = s->events_given ? 0 : s->n_event;
    s->events_given = true;
    return s->events;
}

struct sched_stats sched_stats_get(const struct sched *s)
{
    struct sched_stats t = s->stats;
    t.n_running = s->n_running;
    t.n_waiting = s->n_waiting;
    if (!s->on) return t;
    t.n_slot = s->cfg.n_slot;
    t.n_page = s->cfg.n_page;
    t.n_page_used = s->cfg.n_page - pages_room(&s->pages, PAGES_GLOBAL);
    t.n_page_cached = s->pages.pool[PAGES_GLOBAL].n_idle;
    t.n_page_local = s->cfg.n_page_local;
    t.n_page_local_used = s->cfg.n_page_local - pages_room(&s->pages, PAGES_LOCAL);
    t.n_page_local_cached = s->pages.pool[PAGES_LOCAL].n_idle;
    t.n_snapshot = s->cfg.n_snapshot;
    t.n_snapshot_cached = s->pages.pool[PAGES_SNAPSHOT].n_idle;
    t.in_flight = s->n_sent;
    return t;
}

uint64_t sched_oldest_step(const struct sched *s, int64_t *sent_us)
{
    if (!s->n_sent) return 0;
    uint64_t number = s->number - s->n_sent + 1;
    *sent_us = s->ring[number % s->cfg.in_flight].sent_us;
    return number;
}

const struct request *sched_request_next(const struct sched *s, const struct request *after)
{
    const struct list *next = after ? after->node.next : s->requests.next;
    return next == &s->requests ? NULL : list_item(next, struct request, node);
}

static const char *check_locals(const struct sched *s, const struct choice *c)
{
    const struct seat *seat = &s->seats[c->slot];
    if (!state_has_local(s)) return seat->n_local ? "local pages where there are none" : NULL;
    if (seat->local_from < state_local_from(s, c->n_done)) return "local pages out of sight";
    if (seat->local_from > state_local_from(s, c->n_sent)) return "local pages in sight are gone";
    if ((uint64_t)seat->n_local * s->cfg.page_tok < c->n_sent) return "sent without a local page";
    for (uint32_t i = seat->local_from; i < seat->n_local; i++)
        if (!pool_refs(&s->pages.pool[PAGES_LOCAL], seat->locals[i]))
            return "a local page table names a page that is not held";
    return NULL;
}

static const char *check_running(const struct sched *s, const struct choice *c, bool decodes)
{
    uint32_t n_id = choice_n_id(c);
    if (c->slot < 0 || s->seats[c->slot].choice != c) return "a running choice without its slot";
    if (c->n_done > c->n_sent || (!s->n_sent && c->n_done != c->n_sent))
        return "more committed than sent, or less with nothing on its way";
    if ((uint64_t)c->n_page * s->cfg.page_tok < c->n_sent) return "positions sent without a page";
    if (!decodes && c->n_sent >= n_id) return "prefill: nothing left to send";
    if (decodes && (c->n_sent + 1 < n_id || c->n_sent > n_id + 1)) return "decode: wrong n_sent";
    for (uint32_t i = 0; i < c->n_page; i++)
        if (!pool_refs(&s->pages.pool[PAGES_GLOBAL], c->pages[i]))
            return "a page table names a page that is not held";
    return check_locals(s, c);
}

static const char *check_queue(const struct sched *s)
{
    uint32_t n = 0;
    const struct choice *before = NULL;
    list_each(it, &s->queue)
    {
        const struct choice *c = state_choice(it);
        if (c->state != CHOICE_QUEUED || c->slot >= 0 || c->n_sent) return "queue: wrong state";
        if (before && !state_is_before(before, c)) return "queue: out of order";
        before = c;
        n++;
    }
    return n == s->n_waiting ? NULL : "queue: wrong count";
}

// References that seats and rows on their way have, against those of the pools.
static const char *check_held(const struct sched *s)
{
    uint64_t named[PAGES_KINDS] = {0};
    for (uint32_t i = 0; i < s->cfg.n_slot; i++) {
        const struct seat *seat = &s->seats[i];
        if (!seat->choice) continue;
        named[PAGES_GLOBAL] += seat->choice->n_page;
        named[PAGES_LOCAL] += seat->n_local - seat->local_from;
        named[PAGES_SNAPSHOT] += (seat->start != POOL_NONE) + (seat->trail != POOL_NONE);
    }
    for (uint32_t i = 0; i < s->n_sent; i++) {
        const struct sent_step *st = &s->ring[(s->number - i) % s->cfg.in_flight];
        for (uint32_t k = 0; k < st->n_row; k++)
            named[PAGES_SNAPSHOT] += st->rows[k].snapshot != 0;
    }
    for (int kind = 0; kind < PAGES_KINDS; kind++) {
        for (uint32_t i = 0; i < s->pages.pool[kind].n; i++)
            named[kind] -= pool_refs(&s->pages.pool[kind], i);
        if (named[kind]) return "pages: references are not those of seats and rows";
    }
    return NULL;
}

const char *sched_check(const struct sched *s)
{
    uint32_t n_running = 0;
    const char *e = check_queue(s);
    const struct list *lists[2] = {&s->prefill, &s->decode};
    for (int i = 0; i < 2 && !e; i++)
        list_each(it, lists[i])
        {
            if (!e) e = check_running(s, state_choice(it), i == 1);
            n_running++;
        }
    if (e) return e;
    if (n_running != s->n_running) return "wrong counts";
    if (!s->on) return n_running ? "running while suspended" : NULL;
    if (n_running + s->n_free_slot != s->cfg.n_slot) return "slots: free + taken is not n_slot";
    e = check_held(s);
    return e ? e : pages_check(&s->pages);
}
