#include "coordinator/steer.h"

static uint32_t home_of(const struct steer *s, uint64_t session)
{
    const struct steer_home *h = &s->homes[session % STEER_HOMES];
    return session && h->session == session ? h->lane : STEER_NONE;
}

void steer_remember(struct steer *s, uint64_t session, uint32_t lane)
{
    if (session) s->homes[session % STEER_HOMES] = (struct steer_home){session, lane};
}

bool steer_has_room(const struct steer_lane *l, uint32_t n_choice)
{
    return l->is_open && l->n_running + l->n_waiting + n_choice <= l->n_slot &&
           l->n_page <= l->n_page_room;
}

bool steer_is_full(const struct steer_lane *l, uint32_t n_choice)
{
    return l->n_running + n_choice > l->n_slot || l->n_page > l->n_page_room;
}

static double load(const struct steer_lane *l)
{
    return ((double)l->n_running + l->n_waiting) / (l->n_slot ? l->n_slot : 1);
}

static double queue(const struct steer_lane *l)
{
    return (double)l->n_waiting / (l->n_slot ? l->n_slot : 1);
}

// True if a is the better of two lanes that both have room.
static bool is_better(const struct steer_lane *a, const struct steer_lane *b, bool a_is_home,
                      bool b_is_home)
{
    if (a->n_known != b->n_known) return a->n_known > b->n_known;
    if (a_is_home != b_is_home) return a_is_home;
    return load(a) < load(b);
}

static uint32_t with_room(const struct steer_lane *lanes, uint32_t n, bool is_far, uint32_t home,
                          uint32_t n_choice)
{
    uint32_t best = STEER_NONE;
    for (uint32_t i = 0; i < n; i++) {
        if (lanes[i].is_far != is_far || !steer_has_room(&lanes[i], n_choice)) continue;
        if (best == STEER_NONE || is_better(&lanes[i], &lanes[best], i == home, best == home))
            best = i;
    }
    return best;
}

static uint32_t shortest_queue(const struct steer_lane *lanes, uint32_t n, bool is_far,
                               uint32_t home)
{
    uint32_t best = STEER_NONE;
    for (uint32_t i = 0; i < n; i++) {
        const struct steer_lane *a = &lanes[i], *b = &lanes[best == STEER_NONE ? i : best];
        if (!a->is_open || a->is_far != is_far) continue;
        if (best == STEER_NONE || queue(a) < queue(b) ||
            (queue(a) == queue(b) && is_better(a, b, i == home, best == home)))
            best = i;
    }
    return best;
}

uint32_t steer_choose(const struct steer *s, const struct steer_lane *lanes, uint32_t n,
                      uint64_t session, uint32_t n_choice)
{
    const uint32_t home = home_of(s, session);
    uint32_t at = with_room(lanes, n, false, home, n_choice);
    if (at == STEER_NONE) at = with_room(lanes, n, true, home, n_choice);
    if (at == STEER_NONE) at = shortest_queue(lanes, n, false, home);
    if (at == STEER_NONE) at = shortest_queue(lanes, n, true, home);
    return at;
}
