#include "coordinator/schedule/commit.h"
#include "coordinator/schedule/events.h"
#include "coordinator/schedule/seat.h"

#include <math.h>

static const struct sent_step *oldest(const struct sched *s)
{
    return &s->ring[(s->number - s->n_sent + 1) % s->cfg.in_flight];
}

// Rows that have an item in the result.
static bool has_item(const struct sent_row *row)
{
    return row->flags & (ROW_SAMPLE | ROW_SCORE | ROW_POOL);
}

static err_t check_vector(const struct sent_row *row, const struct step_item *it, uint32_t dim,
                          struct err_text *why)
{
    const uint32_t due = row->flags & ROW_POOL ? dim : 0;
    if (it->n_vector != due || (due && !it->vector))
        return err_say(why, ERR_LINK_PROTOCOL, "row %u: a vector of %u numbers where %u are due",
                       it->row, it->n_vector, due);
    for (uint32_t i = 0; i < due; i++)
        if (!isfinite(it->vector[i]))
            return err_say(why, ERR_LINK_PROTOCOL, "row %u: number %u is not finite", it->row, i);
    return OK;
}

static err_t check_drawn(const struct sent_row *row, const struct step_item *it, int32_t n_vocab,
                         struct err_text *why)
{
    if (!(row->flags & ROW_SAMPLE)) {
        if (it->id == -1 && !it->n_top) return OK;
        return err_say(why, ERR_LINK_PROTOCOL, "row %u did not sample, but has an id", it->row);
    }
    // Nothing of a meaningless draw is used.
    if (it->nonfinite) return OK;
    if (it->id < 0 || it->id >= n_vocab)
        return err_say(why, ERR_LINK_PROTOCOL, "row %u: id %d is outside the vocabulary of %d",
                       it->row, it->id, n_vocab);
    uint32_t top_max = row->n_logprobs > 0 ? (uint32_t)row->n_logprobs : 0;
    if (it->n_top > top_max || (it->n_top && !it->top))
        return err_say(why, ERR_LINK_PROTOCOL, "row %u: %u likely ids where at most %u were asked",
                       it->row, it->n_top, top_max);
    if (row->n_logprobs >= 0 && !isfinite(it->logprob))
        return err_say(why, ERR_LINK_PROTOCOL, "row %u: logprob is not finite", it->row);
    for (uint32_t i = 0; i < it->n_top; i++)
        if (it->top[i].id < 0 || it->top[i].id >= n_vocab || !isfinite(it->top[i].logprob))
            return err_say(why, ERR_LINK_PROTOCOL, "row %u: bad likely id %d", it->row,
                           it->top[i].id);
    return OK;
}

// The id is one that the row's mask let through; of choices that are still there.
static err_t check_mask(const struct sched *s, const struct sent_row *row,
                        const struct step_item *it, struct err_text *why)
{
    const struct seat *seat = &s->seats[row->slot];
    const struct choice *c = seat->choice;
    const bool draws = (row->flags & (ROW_SAMPLE | ROW_CHAIN)) == ROW_SAMPLE && !it->nonfinite;
    if (!draws || !c || seat->ticket != row->ticket || !c->mask ||
        idset_has(c->mask, c->n_mask, (uint32_t)it->id))
        return OK;
    return err_say(why, ERR_LINK_PROTOCOL, "row %u: id %d is not in the row's mask", it->row,
                   it->id);
}

static err_t check_item(const struct sent_row *row, uint32_t i, const struct step_item *it,
                        int32_t n_vocab, struct err_text *why)
{
    if (it->row != i || it->slot != row->slot)
        return err_say(why, ERR_LINK_PROTOCOL,
                       "item for row %u slot %u where row %u slot %u is due", it->row, it->slot, i,
                       row->slot);
    if (it->n_score != row->n_score || (it->n_score && !it->scores))
        return err_say(why, ERR_LINK_PROTOCOL, "row %u: %u scores where %u are due", i, it->n_score,
                       row->n_score);
    for (uint32_t k = 0; k < it->n_score && !it->nonfinite; k++)
        if (!isfinite(it->scores[k]))
            return err_say(why, ERR_LINK_PROTOCOL, "row %u: score %u is not finite", i, k);
    return check_drawn(row, it, n_vocab, why);
}

err_t commit_check(const struct sched *s, const struct step_result *r, int32_t n_vocab,
                   struct err_text *why)
{
    if (!s->n_sent)
        return err_say(why, ERR_LINK_PROTOCOL, "result of step %llu while none is on its way",
                       (unsigned long long)r->number);
    uint64_t due = s->number - s->n_sent + 1;
    if (r->number != due)
        return err_say(why, ERR_LINK_PROTOCOL, "result of step %llu where step %llu is due",
                       (unsigned long long)r->number, (unsigned long long)due);
    const struct sent_step *sent = oldest(s);
    uint32_t k = 0;
    for (uint32_t i = 0; i < sent->n_row; i++) {
        const struct sent_row *row = &sent->rows[i];
        if (!has_item(row)) continue;
        if (k == r->n_item || !r->items)
            return err_say(why, ERR_LINK_PROTOCOL, "no item for row %u", i);
        err_t e = check_item(row, i, &r->items[k], n_vocab, why);
        if (!e) e = check_vector(row, &r->items[k], s->cfg.dim, why);
        if (!e) e = check_mask(s, row, &r->items[k++], why);
        if (e) return e;
    }
    if (k == r->n_item) return OK;
    return err_say(why, ERR_LINK_PROTOCOL, "%u items where %u are due", r->n_item, k);
}

static void take_scores(struct sched *s, struct choice *c, const struct sent_row *row,
                        const struct step_item *it)
{
    // The row gives positions pos + 1 .. pos + n_score, at least the last of them for the first
    // time; after a recovery others were told before.
    uint32_t n_old = c->n_scored > row->pos ? c->n_scored - row->pos : 0;
    events_add(s, (struct sched_event){.kind = EVENT_SCORES,
                                       .choice = c,
                                       .scores = it->scores + n_old,
                                       .from = row->pos + 1 + n_old,
                                       .n_score = row->n_score - n_old});
    c->n_scored = row->pos + row->n_score;
}

static bool is_end(const struct request *r, int32_t id)
{
    for (uint32_t i = 0; i < r->n_end; i++)
        if (r->end_ids[i] == id) return true;
    return false;
}

static void take_id(struct sched *s, struct choice *c, const struct step_item *it, int64_t now_us)
{
    struct request *r = c->req;
    BUG_ON(c->n_done != choice_n_id(c) || c->n_generated == r->max_tokens);
    c->state = CHOICE_DECODE;
    c->generated[c->n_generated++] = it->id;
    s->stats.generated_tokens++;
    if (!r->first_token_us) {
        r->first_token_us = now_us;
        s->stats.prompt_tokens += r->n_prompt;
    }
    if (is_end(r, it->id)) {
        events_finish(s, c, FINISH_STOP, now_us);
        return;
    }
    events_add(s, (struct sched_event){.kind = EVENT_TOKEN, .choice = c, .item = it});
    struct err_text why;
    err_t e = r->rules ? r->rules->next(c, &why) : OK;
    if (e == ERR_END)
        events_finish(s, c, FINISH_STOP, now_us);
    else if (c->n_generated == r->max_tokens)
        events_finish(s, c, FINISH_LENGTH, now_us);
    else if (e)
        events_fail(s, r, e, &why, now_us);
}

// The end of a request with pooling.
static void take_vector(struct sched *s, struct choice *c, const struct step_item *it,
                        int64_t now_us)
{
    c->req->first_token_us = now_us;
    s->stats.prompt_tokens += c->req->n_prompt;
    events_add(s, (struct sched_event){.kind = EVENT_VECTOR, .choice = c, .item = it});
    events_finish(s, c, FINISH_STOP, now_us);
}

static void take_row(struct sched *s, const struct sent_row *row, const struct step_item *it,
                     int64_t now_us)
{
    struct seat *seat = &s->seats[row->slot];
    struct choice *c = seat->choice;
    bool is_gone = !c || seat->ticket != row->ticket; // finished or preempted since
    bool is_bad = it && it->nonfinite;
    if (row->snapshot && (is_gone || is_bad))
        pages_give(&s->pages, PAGES_SNAPSHOT, row->snapshot - 1, true);
    if (is_gone) return;
    if (is_bad) {
        struct err_text why;
        err_say(&why, ERR_DEVICE, "the model's output holds values that are not finite");
        seat_unlist(s, c);
        events_fail(s, c->req, ERR_DEVICE, &why, now_us);
        return;
    }
    c->n_done = row->pos + row->n_tok;
    seat_list(s, c);
    if (row->snapshot) seat_keep(s, c, row);
    if (state_has_local(s)) seat_forget(s, c, c->n_done);
    struct request *r = c->req;
    uint32_t n_prefilled = c->n_done < r->n_prompt ? c->n_done : r->n_prompt;
    if (r->n_prefilled < n_prefilled) r->n_prefilled = n_prefilled;
    if (row->n_score) take_scores(s, c, row, it);
    if (row->flags & ROW_SAMPLE) take_id(s, c, it, now_us);
    if (row->flags & ROW_POOL) take_vector(s, c, it, now_us);
}

void commit_apply(struct sched *s, const struct step_result *r, int64_t now_us)
{
    const struct sent_step *sent = oldest(s);
    const struct step_item *items = r->items;
    for (uint32_t i = 0; i < sent->n_row; i++) {
        const struct sent_row *row = &sent->rows[i];
        take_row(s, row, has_item(row) ? items++ : NULL, now_us);
    }
    s->n_sent--;
}
