#include "coordinator/schedule/seat.h"

#include <string.h>

// Tokens of the choice's page i, all known.
static const int32_t *ids_of_page(const struct sched *s, const struct choice *c, uint32_t i)
{
    const struct request *r = c->req;
    uint32_t page_tok = s->cfg.page_tok, from = i * page_tok;
    if (from + page_tok <= r->n_prompt) return r->prompt + from;
    if (from >= r->n_prompt) return c->generated + (from - r->n_prompt);
    uint32_t n_first = r->n_prompt - from;
    memcpy(s->page_ids, r->prompt + from, n_first * sizeof *s->page_ids);
    memcpy(s->page_ids + n_first, c->generated, (page_tok - n_first) * sizeof *s->page_ids);
    return s->page_ids;
}

// Pages of the cache that may be taken over. The last known token is always computed: its logits
// are needed. With penalties, the tokens of the cached prefix go with the bind; it ends inside the
// prompt, so that they lie in one piece.
static uint32_t match_limit(const struct sched *s, const struct choice *c)
{
    if (state_scores(c)) return 0;
    const struct sampling *p = &c->req->sampling;
    uint32_t n_tok = choice_n_id(c) - 1, per_page = 1;
    if (sampling_is_penalised(p)) {
        if (n_tok > c->req->n_prompt) n_tok = c->req->n_prompt;
        per_page += s->cfg.page_tok;
    }
    uint32_t most = (SEAT_BIND_WEIGHT_MAX - 2 * p->n_bias) / per_page;
    uint32_t n = n_tok / s->cfg.page_tok;
    return n < most ? n : most;
}

void seat_match(struct sched *s, struct choice *c)
{
    struct seat *seat = &s->seats[c->slot];
    if (seat->bound || c->n_page != seat->n_listed) return;
    uint32_t limit = match_limit(s, c), page;
    while (c->n_page < limit &&
           pages_find(&s->pages, &seat->key, ids_of_page(s, c, c->n_page), &page))
        c->pages[c->n_page++] = page;
    seat->n_listed = c->n_page;
    c->n_cached = c->n_sent = c->n_done = c->n_page * s->cfg.page_tok;
}

void seat_take(struct sched *s, struct choice *c)
{
    uint32_t slot = s->free_slots[--s->n_free_slot];
    s->seats[slot] =
        (struct seat){.choice = c, .ticket = ++s->last_ticket, .key = {.tenant = c->req->tenant}};
    c->slot = (int32_t)slot;
    c->pages = s->tables + (size_t)slot * s->table_cap;
    c->n_page = 0;
    seat_match(s, c);
}

void seat_give(struct sched *s, struct choice *c)
{
    // From the end: an unused prefix is lost from its end.
    while (c->n_page)
        pages_give(&s->pages, c->pages[--c->n_page]);
    s->seats[c->slot].choice = NULL;
    s->free_slots[s->n_free_slot++] = (uint32_t)c->slot;
    c->slot = -1;
    c->pages = NULL;
    c->n_sent = c->n_done = c->n_cached = 0;
}

void seat_list(struct sched *s, struct choice *c)
{
    if (!s->cfg.prefix_cache) return;
    struct seat *seat = &s->seats[c->slot];
    for (; (seat->n_listed + 1) * s->cfg.page_tok <= c->n_done; seat->n_listed++)
        pages_list(&s->pages, &seat->key, ids_of_page(s, c, seat->n_listed),
                   c->pages[seat->n_listed]);
}

void seat_unlist(struct sched *s, struct choice *c)
{
    for (uint32_t i = 0; i < c->n_page; i++)
        pages_unlist(&s->pages, c->pages[i]);
}

void seat_enqueue(struct sched *s, struct choice *c)
{
    // A new one goes to the end; a preempted one is older than nearly all that wait.
    struct list *at = &s->queue;
    if (!list_empty(at) && state_choice(at->prev)->order > c->order)
        for (at = at->next; state_choice(at)->order < c->order;)
            at = at->next;
    list_push_back(at, &c->node);
    c->state = CHOICE_QUEUED;
    s->n_waiting++;
}

static void preempt(struct sched *s, struct choice *c)
{
    seat_give(s, c);
    list_remove(&c->node);
    s->n_running--;
    s->stats.preemptions++;
    seat_enqueue(s, c);
}

// The newest choice that is newer than c, holds pages and has no row in the step in the making (its
// pages are in use there).
static struct choice *victim(struct sched *s, const struct choice *c, uint64_t making)
{
    struct choice *best = NULL;
    struct list *lists[2] = {&s->prefill, &s->decode};
    for (int i = 0; i < 2; i++)
        list_each(it, lists[i])
        {
            struct choice *v = state_choice(it);
            if (v->order > c->order && v->n_page && v->last_step != making &&
                (!best || v->order > best->order))
                best = v;
        }
    return best;
}

bool seat_grow(struct sched *s, struct choice *c, uint32_t n_page, uint64_t making)
{
    BUG_ON(n_page > s->table_cap);
    while (c->n_page < n_page) {
        if (pages_take(&s->pages, &c->pages[c->n_page])) {
            c->n_page++;
            continue;
        }
        struct choice *v = victim(s, c, making);
        if (!v) return false;
        preempt(s, v);
    }
    return true;
}
