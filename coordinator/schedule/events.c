#include "coordinator/schedule/events.h"
#include "coordinator/schedule/seat.h"

#include <stdlib.h>

err_t events_reserve(struct sched *s, uint32_t n)
{
    uint64_t need = (uint64_t)n + s->n_waiting + s->n_running;
    if (!s->events_given) need += s->n_event;
    if (need <= s->cap_event) return OK;
    if (need > UINT32_MAX / 2) return ERR_MEMORY;
    struct sched_event *e = realloc(s->events, 2 * need * sizeof *e);
    if (!e) return ERR_MEMORY;
    s->events = e;
    s->cap_event = 2 * (uint32_t)need;
    return OK;
}

void events_add(struct sched *s, struct sched_event e)
{
    if (s->events_given) {
        s->n_event = 0;
        s->events_given = false;
    }
    BUG_ON(s->n_event == s->cap_event);
    s->events[s->n_event++] = e;
}

void events_finish(struct sched *s, struct choice *c, enum finish reason, int64_t now_us)
{
    struct request *r = c->req;
    if (c->slot >= 0) {
        seat_give(s, c);
        s->n_running--;
    } else {
        s->n_waiting--;
    }
    list_remove(&c->node);
    c->state = CHOICE_DONE;
    c->finish = reason;
    bool is_last = --r->n_live == 0;
    if (is_last) {
        r->finished_us = now_us;
        list_remove(&r->node);
    }
    events_add(s, (struct sched_event){.kind = EVENT_FINISH, .choice = c, .request_done = is_last});
}

void events_fail(struct sched *s, struct request *r, err_t code, const struct err_text *why,
                 int64_t now_us)
{
    r->error = code;
    r->why = *why;
    for (uint32_t i = 0; i < r->n_choice; i++)
        if (r->choices[i].state != CHOICE_DONE)
            events_finish(s, &r->choices[i], FINISH_ERROR, now_us);
}
