#include "coordinator/schedule/batch.h"
#include "coordinator/schedule/seat.h"

#include <string.h>

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

// Choices 1.. wait until choice 0 has computed what they can share, if that is a page at least.
static bool waits_for_first(const struct sched *s, const struct choice *c)
{
    const struct choice *first = &c->req->choices[0];
    if (c == first || !s->cfg.prefix_cache || first->state == CHOICE_DONE) return false;
    uint32_t n_page = (c->req->n_prompt - 1) / s->cfg.page_tok;
    return first->n_done < n_page * s->cfg.page_tok;
}

// The local pool can hold what this choice and all the running may see at once.
static bool local_fits(const struct sched *s)
{
    return !state_has_local(s) || !s->n_running ||
           sched_local_pages(&s->cfg, s->n_running + 1) <= s->cfg.n_page_local;
}

// Pages that could be promised to a new choice: what the prefilling still need for their prompts
// and one page of growth for each running choice are spoken for.
static int64_t admission_room(struct sched *s)
{
    int64_t room = (int64_t)pages_room(&s->pages, PAGES_GLOBAL) - s->n_running;
    list_each(it, &s->prefill)
    {
        const struct choice *c = state_choice(it);
        room -= (int64_t)state_pages_for(s, choice_n_id(c)) - c->n_page;
    }
    return room;
}

static bool admit_one(struct sched *s, struct choice *c, int64_t now_us)
{
    if (!local_fits(s)) return false;
    int64_t room = admission_room(s);
    if (c->order == s->blocked_order && room <= s->blocked_room) return false;
    seat_take(s, c);
    int64_t need = (int64_t)state_pages_for(s, choice_n_id(c)) - c->n_page + 1;
    if (s->n_running && admission_room(s) < need) {
        seat_give(s, c);
        s->blocked_order = c->order;
        s->blocked_room = room;
        return false;
    }
    list_remove(&c->node);
    list_push_back(&s->prefill, &c->node);
    c->state = CHOICE_PREFILL;
    s->n_waiting--;
    s->n_running++;
    if (!c->req->admitted_us) c->req->admitted_us = now_us;
    return true;
}

static bool is_one_caller(const struct choice *a, const struct choice *b)
{
    return a->req->session == b->req->session && a->req->tenant == b->req->tenant;
}

// Choices of c's caller that run, counted up to `enough`.
static uint32_t n_running_beside(const struct sched *s, const struct choice *c, uint32_t enough)
{
    const struct list *lists[2] = {&s->prefill, &s->decode};
    uint32_t n = 0;
    for (int i = 0; i < 2; i++)
        for (struct list *it = lists[i]->next; it != lists[i] && n < enough; it = it->next)
            n += is_one_caller(state_choice(it), c);
    return n;
}

// Whose turn it is: the first by priority; among equals the caller of whom least is running, and of
// those the one who came first. NULL: nobody can begin.
static struct choice *next_waiting(const struct sched *s)
{
    struct choice *best = NULL;
    uint32_t n_best = 0;
    list_each(it, &s->queue)
    {
        struct choice *c = state_choice(it);
        if (best && (!n_best || c->req->priority > best->req->priority)) break;
        if ((best && is_one_caller(best, c)) || waits_for_first(s, c)) continue;
        const uint32_t n = n_running_beside(s, c, best ? n_best : UINT32_MAX);
        if (best && n >= n_best) continue;
        best = c;
        n_best = n;
    }
    return best;
}

static void admit(struct sched *s, int64_t now_us)
{
    struct choice *c;
    while (s->n_free_slot && (c = next_waiting(s)) && admit_one(s, c, now_us))
        ;
}

// The token drawn after position n_sent is one the caller may get.
static bool needs_row(const struct choice *c)
{
    return c->n_sent + 1 < c->req->n_prompt + c->req->max_tokens;
}

// With rules, what may come next mostly depends on what came: such a row waits until that is known.
static bool can_send(const struct sched *s, const struct choice *c)
{
    uint32_t n_id = choice_n_id(c);
    bool may_chain = s->cfg.chain && (!c->req->rules || c->may_chain);
    return needs_row(c) && (c->n_sent < n_id || (may_chain && c->n_sent == n_id));
}

static uint32_t prefill_left(const struct choice *c)
{
    return choice_n_id(c) - c->n_sent;
}

// By priority, then the shorter first, older first among equals.
static bool is_before(const struct choice *a, const struct choice *b)
{
    uint32_t left_a = prefill_left(a), left_b = prefill_left(b);
    const bool by_length = a->req->priority == b->req->priority && left_a != left_b;
    return by_length ? left_a < left_b : state_is_before(a, b);
}

// Shares the tokens among the prefilling: half to the oldest, so that nobody waits for ever, then
// the shortest first, so that a short prompt does not wait for a long one; the rest to the oldest.
static uint32_t pick_prefill(struct sched *s, uint32_t max_pick, uint32_t budget)
{
    struct pick *picks = s->batch.picks;
    struct choice *oldest = NULL;
    list_each(it, &s->prefill)
    {
        struct choice *c = state_choice(it);
        seat_match(s, c);
        if (!oldest || state_is_before(c, oldest)) oldest = c;
    }
    if (!oldest || !max_pick || !budget) return 0;
    picks[0] = (struct pick){oldest, min_u32(prefill_left(oldest), (budget + 1) / 2)};
    budget -= picks[0].n_tok;
    uint32_t n = 1;
    for (struct choice *last = NULL; n < max_pick && budget; n++) {
        struct choice *best = NULL;
        list_each(it, &s->prefill)
        {
            struct choice *c = state_choice(it);
            if (c == oldest || (last && !is_before(last, c))) continue;
            if (!best || is_before(c, best)) best = c;
        }
        if (!best) break;
        picks[n] = (struct pick){best, min_u32(prefill_left(best), budget)};
        budget -= picks[n].n_tok;
        last = best;
    }
    picks[0].n_tok = min_u32(prefill_left(oldest), picks[0].n_tok + budget);
    return n;
}

static void add_bind(struct sched *s, struct choice *c)
{
    struct request *r = c->req;
    struct step_bind *b = &s->batch.binds[s->batch.n_bind++];
    *b = (struct step_bind){.slot = (uint32_t)c->slot,
                            .sampling = r->sampling,
                            .n_prompt = r->n_prompt,
                            .pooling = r->pooling};
    b->sampling.choice = c->index;
    b->snapshot = seat_start(s, c);
    if (sampling_is_penalised(&r->sampling) && c->n_cached) {
        b->history = r->prompt;
        b->n_history = c->n_cached;
    }
    s->seats[c->slot].bound = true;
    uint32_t n_cached = min_u32(c->n_cached, r->n_prompt);
    if (!c->last_step && !c->n_generated) {
        s->stats.prefix_queries += r->n_prompt;
        s->stats.prefix_hits += n_cached;
        if (!r->n_prefilled && c->index == 0) r->n_cached = n_cached;
    }
    if (r->n_prefilled < n_cached) r->n_prefilled = n_cached;
}

// Makes room for the row: pages, and a bind if it is the first.
static bool row_room(struct sched *s, struct choice *c, uint32_t n_tok)
{
    if (c->slot < 0) return false;
    const struct seat *seat = &s->seats[c->slot];
    uint32_t n_page = state_pages_for(s, c->n_sent + n_tok), weight = 0;
    if (!seat->bound) {
        weight = n_page + 2 * c->req->sampling.n_bias;
        if (state_has_local(s)) weight += n_page - seat->local_from;
        if (sampling_is_penalised(&c->req->sampling)) weight += c->n_cached;
        if (s->batch.n_bind && weight > SEAT_BIND_WEIGHT_MAX - s->batch.bind_weight) return false;
    }
    if (!seat_grow(s, c, n_page, s->number + 1)) return false;
    if (seat->bound) return true;
    s->batch.bind_weight = min_u32(s->batch.bind_weight + weight, SEAT_BIND_WEIGHT_MAX);
    add_bind(s, c);
    return true;
}

static void add_ids(struct sched *s, struct step_row *row, const struct choice *c)
{
    struct batch *b = &s->batch;
    int32_t *ids = b->ids + b->n_tok;
    for (uint32_t i = 0; i < row->n_tok; i++)
        ids[i] = choice_id_at(c, row->pos + i);
    row->ids = ids;
    uint32_t end = row->pos + row->n_tok;
    if (end == choice_n_id(c) && c->req->pooling) {
        row->flags = ROW_POOL;
        b->n_vector += s->cfg.dim;
        return;
    }
    if (end == choice_n_id(c)) {
        row->flags |= ROW_SAMPLE;
        row->mask = c->mask;
        row->n_mask = c->n_mask;
        b->n_mask += c->n_mask;
    }
    // The prompt is all there is while scores are missing: nothing is drawn before its end.
    if (!state_scores(c)) return;
    uint32_t last = min_u32(end, c->req->n_prompt - 1);
    if (last <= row->pos || last <= c->n_scored) return;
    row->flags |= ROW_SCORE;
    if (last == end) row->next_id = choice_id_at(c, end);
}

static void add_locals(struct seat *seat, struct step_row *row)
{
    if (seat->n_local_told < seat->local_from) seat->n_local_told = seat->local_from;
    row->local_from = seat->n_local_told;
    row->n_local = seat->n_local - seat->n_local_told;
    row->locals = seat->locals + seat->n_local_told;
    seat->n_local_told = seat->n_local;
}

// The step has room for what the end of the choice's history asks for.
static bool end_fits(const struct sched *s, const struct choice *c)
{
    const struct batch *b = &s->batch;
    return c->n_mask <= STEP_MASKS_MAX - b->n_mask &&
           (!c->req->pooling || s->cfg.dim <= STEP_VECTORS_MAX - b->n_vector);
}

// Or none: preempted since it was picked, no page for it, or the step has enough to bind, of masks
// or of vectors.
static void add_row(struct sched *s, struct choice *c, uint32_t n_tok)
{
    struct batch *b = &s->batch;
    if (c->n_sent + n_tok == choice_n_id(c) && !end_fits(s, c)) return;
    if (!row_room(s, c, n_tok)) return;
    struct seat *seat = &s->seats[c->slot];
    struct step_row *row = &b->rows[b->n_row];
    *row = (struct step_row){.slot = (uint32_t)c->slot,
                             .pos = c->n_sent,
                             .n_tok = n_tok,
                             .next_id = -1,
                             .page_from = seat->n_told,
                             .n_page = c->n_page - seat->n_told,
                             .pages = c->pages + seat->n_told,
                             .snapshot = seat_save(s, c, c->n_sent + n_tok)};
    add_locals(seat, row);
    if (c->n_sent == choice_n_id(c)) {
        row->flags = ROW_CHAIN | ROW_SAMPLE;
        row->from_step = c->last_step;
    } else {
        add_ids(s, row, c);
    }
    b->sent[b->n_row++] =
        (struct sent_row){.ticket = seat->ticket,
                          .slot = row->slot,
                          .flags = row->flags,
                          .pos = row->pos,
                          .n_tok = n_tok,
                          .n_score = row->flags & ROW_SCORE ? n_tok - (row->next_id < 0) : 0,
                          .snapshot = row->snapshot,
                          .is_mark = seat_is_mark(s, c, row->pos + n_tok),
                          .n_logprobs = c->req->sampling.n_logprobs};
    b->n_tok += n_tok;
    seat->row_pos = row->pos;
    seat->n_told = c->n_page;
    c->n_sent += n_tok;
    c->last_step = s->number + 1;
    // Whoever has sent its history decodes from now on; the decoding are in order of their last
    // step.
    if (c->n_sent < choice_n_id(c)) return;
    list_remove(&c->node);
    list_push_back(&s->decode, &c->node);
}

// Decode rows of the next step, those that waited longest first: a share of 1/n_stage, so that
// n_stage steps are on their way with different choices in each. A chained row hangs on the step
// that draws its id; n_stage steps later that id is just there. A nearer one would make the stages
// wait, so it joins only if the step would have to wait anyway.
struct share {
    uint32_t n_pick; // choices that could have a row: in batch.picks
    uint32_t n_row;  // rows to make of them
    uint64_t near;   // a step that draws an id is near if it is later than this one
};

// False: better wait for the next result than send now. A step costs about the same with one decode
// row as with its full share; when every stage has a step already, a step well below its share only
// splits the running choices into more steps than needed, and they would stay split.
static bool pick_decode(struct sched *s, uint32_t cap, struct share *out)
{
    uint32_t n_more = 0, n_stage = s->cfg.n_stage;
    struct share sh = {.near = s->number + 1 > n_stage ? s->number + 1 - n_stage : 0};
    list_each(it, &s->decode)
    {
        struct choice *c = state_choice(it);
        n_more += needs_row(c);
        if (can_send(s, c)) s->batch.picks[sh.n_pick++] = (struct pick){c, 1};
    }
    sh.n_row = min_u32(cap, (n_more + n_stage - 1) / n_stage);
    *out = sh;
    return !list_empty(&s->prefill) || s->n_sent < n_stage ||
           min_u32(sh.n_pick, sh.n_row) >= min_u32(cap, n_more / n_stage);
}

static void add_decode(struct sched *s, const struct share *sh)
{
    uint64_t near = sh->near;
    for (uint32_t i = 0; i < sh->n_pick && s->batch.n_row < sh->n_row; i++) {
        struct choice *c = s->batch.picks[i].choice;
        uint64_t last_step = c->last_step;
        if (last_step > near && s->batch.n_row) continue;
        add_row(s, c, 1);
        if (last_step > near && s->batch.n_row) near = last_step;
    }
}

// Prefill tokens of this step. Several stages are all busy only once each has a piece: with P
// pieces and S stages the first S - 1 of P + S - 1 turns are lost.
static uint32_t prefill_budget(const struct sched *s)
{
    enum { PIECES = 4 }; // for each stage
    const struct sched_config *cfg = &s->cfg;
    const uint32_t room = cfg->max_tok - s->batch.n_tok, n_piece = PIECES * cfg->n_stage;
    uint64_t left = 0;
    if (cfg->n_stage < 2 || !cfg->piece_tok) return room;
    list_each(it, &s->prefill) left += prefill_left(state_choice(it));
    const uint64_t piece = (left + n_piece - 1) / n_piece;
    return min_u32(room, piece > cfg->piece_tok ? (uint32_t)piece : cfg->piece_tok);
}

static void add_prefill(struct sched *s)
{
    struct batch *b = &s->batch;
    uint32_t n = pick_prefill(s, s->cfg.max_rows - b->n_row, prefill_budget(s));
    for (uint32_t i = 0; i < n; i++)
        add_row(s, b->picks[i].choice, seat_cut(s, b->picks[i].choice, b->picks[i].n_tok));
}

bool batch_make(struct sched *s, int64_t now_us, struct step *out)
{
    const struct sched_config *cfg = &s->cfg;
    if (!s->on || s->n_sent == cfg->in_flight) return false;
    struct batch *b = &s->batch;
    struct sent_step *sent = &s->ring[(s->number + 1) % cfg->in_flight];
    b->sent = sent->rows;
    b->n_row = b->n_bind = b->n_tok = b->bind_weight = b->n_mask = b->n_vector = 0;
    admit(s, now_us);

    // However many decode, a row and a quarter of the tokens are kept for the prefilling.
    uint32_t cap = min_u32(cfg->max_rows, cfg->max_tok);
    if (!list_empty(&s->prefill))
        cap = min_u32(cfg->max_rows - 1, cfg->max_tok - (cfg->max_tok + 3) / 4);
    struct share share;
    if (!pick_decode(s, cap, &share)) return false;
    add_decode(s, &share);
    add_prefill(s);
    if (!b->n_row) return false;

    s->number++;
    s->n_sent++;
    sent->n_row = b->n_row;
    sent->sent_us = now_us;
    s->stats.steps++;
    s->stats.step_tokens += b->n_tok;
    *out = (struct step){.epoch = cfg->epoch,
                         .number = s->number,
                         .binds = b->binds,
                         .n_bind = b->n_bind,
                         .rows = b->rows,
                         .n_row = b->n_row};
    return true;
}
