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
    if (!s->cfg.prefix_cache || state_scores(c) || state_needs_all(c)) return 0;
    const struct sampling *p = &c->req->sampling;
    uint32_t n_tok = choice_n_id(c) - 1, per_page = state_has_local(s) ? 2 : 1;
    if (sampling_is_penalised(p)) {
        if (n_tok > c->req->n_prompt) n_tok = c->req->n_prompt;
        per_page += s->cfg.page_tok;
    }
    uint32_t most = (SEAT_BIND_WEIGHT_MAX - 2 * p->n_bias) / per_page;
    uint32_t n = n_tok / s->cfg.page_tok;
    return n < most ? n : most;
}

// How far the listed pages go, and how far of that a sequence can begin.
struct match {
    uint32_t n_start, n_listed; // pages
    struct pages_key key;       // after n_start pages
};

// Enters what it finds into the tables beyond the entries that are held; holds nothing yet.
static struct match look_up(const struct sched *s, struct choice *c)
{
    const struct seat *seat = &s->seats[c->slot];
    struct match m = {.n_start = c->n_page, .n_listed = c->n_page, .key = seat->key};
    struct pages_key k = seat->key;
    uint32_t limit = match_limit(s, c), local_from = seat->local_from;
    for (uint32_t i = c->n_page; i < limit; i++) {
        uint32_t page = pages_find(&s->pages, &k, ids_of_page(s, c, i));
        if (page == POOL_NONE) break;
        c->pages[i] = page;
        m.n_listed = i + 1;
        if (state_has_local(s)) {
            seat->locals[i] = pages_attached(&s->pages, page, PAGES_LOCAL);
            if (seat->locals[i] == POOL_NONE) local_from = i + 1;
            if (local_from > state_local_from(s, (i + 1) * s->cfg.page_tok)) continue;
        }
        if (s->cfg.recurrent && pages_attached(&s->pages, page, PAGES_SNAPSHOT) == POOL_NONE)
            continue;
        m.n_start = i + 1;
        m.key = k;
    }
    return m;
}

static void hold_locals(struct sched *s, struct seat *seat, uint32_t n_page)
{
    uint32_t from = state_local_from(s, n_page * s->cfg.page_tok), i = seat->n_local;
    for (i = i < from ? from : i; i < n_page; i++)
        pages_hold(&s->pages, PAGES_LOCAL, seat->locals[i]);
    for (i = seat->local_from; i < from && i < seat->n_local; i++)
        pages_give(&s->pages, PAGES_LOCAL, seat->locals[i], false);
    seat->local_from = from;
    seat->n_local = n_page;
}

static void drop_snapshot(struct sched *s, uint32_t *held, bool is_spare)
{
    if (*held != POOL_NONE) pages_give(&s->pages, PAGES_SNAPSHOT, *held, is_spare);
    *held = POOL_NONE;
}

void seat_match(struct sched *s, struct choice *c)
{
    struct seat *seat = &s->seats[c->slot];
    if (seat->bound || c->n_page != seat->n_listed) return;
    struct match m = look_up(s, c);
    seat->branch = m.n_listed > m.n_start ? m.n_listed * s->cfg.page_tok : 0;
    if (m.n_start == c->n_page) return;
    for (uint32_t i = c->n_page; i < m.n_start; i++)
        pages_hold(&s->pages, PAGES_GLOBAL, c->pages[i]);
    if (state_has_local(s)) hold_locals(s, seat, m.n_start);
    if (s->cfg.recurrent) {
        drop_snapshot(s, &seat->start, false);
        seat->start = pages_attached(&s->pages, c->pages[m.n_start - 1], PAGES_SNAPSHOT);
        pages_hold(&s->pages, PAGES_SNAPSHOT, seat->start);
    }
    seat->key = m.key;
    seat->n_listed = c->n_page = m.n_start;
    seat->saved = c->n_cached = c->n_sent = c->n_done = c->n_page * s->cfg.page_tok;
}

uint32_t seat_known(const struct sched *s, const struct request *r)
{
    struct pages_key k = {.tenant = r->tenant};
    uint32_t page_tok = s->cfg.page_tok, known = 0, local_from = 0;
    for (uint32_t i = 0; (i + 1) * page_tok < r->n_prompt; i++) {
        const uint32_t page = pages_find(&s->pages, &k, r->prompt + (size_t)i * page_tok);
        if (page == POOL_NONE) break;
        if (state_has_local(s)) {
            if (pages_attached(&s->pages, page, PAGES_LOCAL) == POOL_NONE) local_from = i + 1;
            if (local_from > state_local_from(s, (i + 1) * page_tok)) continue;
        }
        if (s->cfg.recurrent && pages_attached(&s->pages, page, PAGES_SNAPSHOT) == POOL_NONE)
            continue;
        known = (i + 1) * page_tok;
    }
    return known;
}

void seat_take(struct sched *s, struct choice *c)
{
    uint32_t slot = s->free_slots[--s->n_free_slot];
    s->seats[slot] = (struct seat){.choice = c,
                                   .ticket = ++s->last_ticket,
                                   .key = {.tenant = c->req->tenant},
                                   .locals = s->local_tables + (size_t)slot * s->table_cap,
                                   .start = POOL_NONE,
                                   .trail = POOL_NONE};
    c->slot = (int32_t)slot;
    c->pages = s->tables + (size_t)slot * s->table_cap;
    c->n_page = 0;
    seat_match(s, c);
}

// What computed a history as short as this is soon computed again: a side request (a title, a
// check) shall not push out what a long conversation will want.
static bool is_tiny(const struct sched *s, const struct choice *c)
{
    enum { TINY_PAGES = 4, TINY_SHARE = 64 };
    const uint32_t share = s->cfg.n_page / TINY_SHARE;
    return c->n_page <= (share > TINY_PAGES ? share : TINY_PAGES);
}

void seat_give(struct sched *s, struct choice *c)
{
    struct seat *seat = &s->seats[c->slot];
    const bool is_spare = is_tiny(s, c);
    const uint32_t n_local = seat->n_local - seat->local_from;
    uint32_t *locals = seat->locals + seat->local_from;
    // From the end: an unused prefix is lost from its end. Of spare ones the last given goes first.
    for (uint32_t i = 0; i < c->n_page; i++)
        pages_give(&s->pages, PAGES_GLOBAL, c->pages[is_spare ? i : c->n_page - 1 - i], is_spare);
    for (uint32_t i = 0; i < n_local; i++)
        pages_give(&s->pages, PAGES_LOCAL, locals[is_spare ? i : n_local - 1 - i], is_spare);
    drop_snapshot(s, &seat->start, false);
    drop_snapshot(s, &seat->trail, is_spare);
    c->n_page = 0;
    seat->choice = NULL;
    s->free_slots[s->n_free_slot++] = (uint32_t)c->slot;
    c->slot = -1;
    c->pages = NULL;
    c->n_sent = c->n_done = c->n_cached = 0;
}

void seat_list(struct sched *s, struct choice *c)
{
    if (!s->cfg.prefix_cache) return;
    struct seat *seat = &s->seats[c->slot];
    for (; (seat->n_listed + 1) * s->cfg.page_tok <= c->n_done; seat->n_listed++) {
        uint32_t i = seat->n_listed;
        seat->tip = pages_list(&s->pages, &seat->key, ids_of_page(s, c, i), c->pages[i]);
        if (state_has_local(s) && i >= seat->local_from)
            pages_attach(&s->pages, seat->tip, PAGES_LOCAL, seat->locals[i]);
    }
}

void seat_unlist(struct sched *s, struct choice *c)
{
    // Equal pages of others that were listed first go too: what is attached may be this one's.
    struct pages_key k = {.tenant = c->req->tenant};
    for (uint32_t i = 0; i < s->seats[c->slot].n_listed; i++) {
        uint32_t page = pages_find(&s->pages, &k, ids_of_page(s, c, i));
        if (page == POOL_NONE) break;
        pages_unlist(&s->pages, page);
    }
    for (uint32_t i = 0; i < c->n_page; i++)
        pages_unlist(&s->pages, c->pages[i]);
}

// -- local pages --

static bool forget(struct sched *s, struct seat *seat, uint32_t pos)
{
    uint32_t from = state_local_from(s, pos), was = seat->local_from;
    while (seat->local_from < from && seat->local_from < seat->n_local)
        pages_give(&s->pages, PAGES_LOCAL, seat->locals[seat->local_from++], true);
    return seat->local_from > was;
}

void seat_forget(struct sched *s, struct choice *c, uint32_t pos)
{
    forget(s, &s->seats[c->slot], pos);
}

// What no row that is still to be made will see. Not yet committed, so not listed: lost to the
// cache. False: there was nothing.
static bool forget_early(struct sched *s, uint64_t making)
{
    bool any = false;
    for (uint32_t i = 0; i < s->cfg.n_slot; i++) {
        struct seat *seat = &s->seats[i];
        if (!seat->choice) continue;
        bool is_used = seat->choice->last_step == making;
        any |= forget(s, seat, is_used ? seat->row_pos : seat->choice->n_sent);
    }
    return any;
}

// -- snapshots --

uint32_t seat_start(struct sched *s, struct choice *c)
{
    struct seat *seat = &s->seats[c->slot];
    uint32_t start = seat->start;
    drop_snapshot(s, &seat->start, false);
    return start == POOL_NONE ? 0 : start + 1;
}

// The last page's end before the last known token: where the same prompt and its continuations will
// begin.
static uint32_t last_boundary(const struct sched *s, const struct choice *c)
{
    return (choice_n_id(c) - 1) / s->cfg.page_tok * s->cfg.page_tok;
}

// In the middle of a long prompt there is one after as many tokens as a step may have.
static bool is_due(const struct sched *s, const struct seat *seat, uint32_t end)
{
    return end - seat->saved >= state_pages_for(s, s->cfg.max_tok) * s->cfg.page_tok;
}

uint32_t seat_cut(const struct sched *s, const struct choice *c, uint32_t n_tok)
{
    if (!state_saves(s) || c->slot < 0) return n_tok;
    const struct seat *seat = &s->seats[c->slot];
    uint32_t from = c->n_sent, end = from + n_tok;
    uint32_t marks[2] = {last_boundary(s, c), seat->branch};
    for (int i = 0; i < 2; i++)
        if (marks[i] > from && marks[i] < end) end = marks[i];
    if (end < from + n_tok || end == choice_n_id(c)) return end - from;
    end -= end % s->cfg.page_tok;
    return end > from && is_due(s, seat, end) ? end - from : n_tok;
}

bool seat_is_mark(const struct sched *s, const struct choice *c, uint32_t end)
{
    return end == last_boundary(s, c) || end == s->seats[c->slot].branch;
}

uint32_t seat_save(struct sched *s, struct choice *c, uint32_t end)
{
    struct seat *seat = &s->seats[c->slot];
    if (!state_saves(s) || end % s->cfg.page_tok) return 0;
    bool is_wanted = seat_is_mark(s, c, end) || end >= choice_n_id(c);
    if (!is_wanted && !(is_due(s, seat, end) && pool_has_spare(&s->pages.pool[PAGES_SNAPSHOT])))
        return 0;
    uint32_t got;
    if (!pages_take(&s->pages, PAGES_SNAPSHOT, &got)) return 0;
    seat->saved = end;
    return got + 1;
}

void seat_keep(struct sched *s, struct choice *c, const struct sent_row *row)
{
    struct seat *seat = &s->seats[c->slot];
    uint32_t snapshot = row->snapshot - 1;
    BUG_ON(seat->n_listed * s->cfg.page_tok != row->pos + row->n_tok);
    if (!pages_attach(&s->pages, seat->tip, PAGES_SNAPSHOT, snapshot)) {
        pages_give(&s->pages, PAGES_SNAPSHOT, snapshot, true);
        return;
    }
    if (seat->trail != POOL_NONE)
        pages_give(&s->pages, PAGES_SNAPSHOT, seat->trail, !seat->trail_is_mark);
    seat->trail = snapshot;
    seat->trail_is_mark = row->is_mark;
}

// -- room --

static void preempt(struct sched *s, struct choice *c)
{
    seat_give(s, c);
    list_remove(&c->node);
    s->n_running--;
    s->stats.preemptions++;
    seat_enqueue(s, c);
}

// The last choice of those behind c that holds pages and has no row in the step in the making
// (its pages are in use there).
static struct choice *victim(struct sched *s, const struct choice *c, uint64_t making)
{
    struct choice *best = NULL;
    struct list *lists[2] = {&s->prefill, &s->decode};
    for (int i = 0; i < 2; i++)
        list_each(it, lists[i])
        {
            struct choice *v = state_choice(it);
            if (state_is_before(c, v) && v->n_page && v->last_step != making &&
                (!best || state_is_before(best, v)))
                best = v;
        }
    return best;
}

static bool take_page(struct sched *s, struct choice *c, enum pages_kind kind, uint64_t making,
                      uint32_t *got)
{
    while (!pages_take(&s->pages, kind, got)) {
        if (kind == PAGES_LOCAL && forget_early(s, making)) continue;
        struct choice *v = victim(s, c, making);
        if (!v) return false;
        preempt(s, v);
    }
    return true;
}

bool seat_grow(struct sched *s, struct choice *c, uint32_t n_page, uint64_t making)
{
    BUG_ON(n_page > s->table_cap);
    struct seat *seat = &s->seats[c->slot];
    for (; c->n_page < n_page; c->n_page++)
        if (!take_page(s, c, PAGES_GLOBAL, making, &c->pages[c->n_page])) return false;
    for (; state_has_local(s) && seat->n_local < n_page; seat->n_local++)
        if (!take_page(s, c, PAGES_LOCAL, making, &seat->locals[seat->n_local])) return false;
    return true;
}

void seat_enqueue(struct sched *s, struct choice *c)
{
    // A new one goes to the end; a preempted one is older than nearly all that wait.
    struct list *at = &s->queue;
    if (!list_empty(at) && state_is_before(c, state_choice(at->prev)))
        for (at = at->next; state_is_before(state_choice(at), c);)
            at = at->next;
    list_push_back(at, &c->node);
    c->state = CHOICE_QUEUED;
    s->n_waiting++;
}
