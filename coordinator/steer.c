#include "coordinator/steer.h"

uint32_t steer_home(const struct steer *s, uint64_t session)
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

// Most answers end long before they may.
static const double OUTPUT_USUAL = 256;

static double token_us(const struct steer_lane *l, double n_running)
{
    return l->step_us + l->row_us * n_running;
}

double steer_finish_us(const struct steer_lane *l, const struct steer_ask *ask)
{
    if (!(l->step_us > 0)) return 0;
    const double output = ask->n_output < OUTPUT_USUAL ? ask->n_output : OUTPUT_USUAL;
    const double known = l->n_known < ask->n_prompt ? l->n_known : ask->n_prompt;
    const double n = (double)l->n_running + l->n_waiting + ask->n_choice;
    const double side_by_side = n < l->n_slot ? n : l->n_slot;
    const double own = (ask->n_prompt - known) * l->prompt_us + output * token_us(l, side_by_side);
    // Those who wait are taken for requests like this one; so many end in the time of one.
    const double later = n > l->n_slot && l->n_slot ? (n - l->n_slot) / l->n_slot : 0;
    return own + later * (ask->n_prompt * l->prompt_us + output * token_us(l, side_by_side));
}

static double load(const struct steer_lane *l)
{
    return ((double)l->n_running + l->n_waiting) / (l->n_slot ? l->n_slot : 1);
}

static double queue(const struct steer_lane *l)
{
    return (double)l->n_waiting / (l->n_slot ? l->n_slot : 1);
}

// Tokens that make the lane the conversation's: a beginning that many share does not.
static uint32_t own_tokens(const struct steer_lane *l, const struct steer_ask *ask)
{
    return (uint64_t)2 * l->n_known >= ask->n_prompt ? l->n_known : 0;
}

// True if a would be done with it before b; without speeds, if it is less loaded.
static bool is_sooner(const struct steer_lane *a, const struct steer_lane *b,
                      const struct steer_ask *ask)
{
    const double x = steer_finish_us(a, ask), y = steer_finish_us(b, ask);
    return x > 0 && y > 0 ? x < y : load(a) < load(b);
}

// True if a is the better of two lanes that both have room.
static bool is_better(const struct steer_lane *a, const struct steer_lane *b,
                      const struct steer_ask *ask, bool a_is_home, bool b_is_home)
{
    const uint32_t x = own_tokens(a, ask), y = own_tokens(b, ask);
    if (x != y) return x > y;
    if (a_is_home != b_is_home) return a_is_home;
    return is_sooner(a, b, ask);
}

static uint32_t with_room(const struct steer_lane *lanes, uint32_t n, bool is_far, uint32_t home,
                          const struct steer_ask *ask)
{
    uint32_t best = STEER_NONE;
    for (uint32_t i = 0; i < n; i++) {
        if (lanes[i].is_far != is_far || !steer_has_room(&lanes[i], ask->n_choice)) continue;
        if (best == STEER_NONE || is_better(&lanes[i], &lanes[best], ask, i == home, best == home))
            best = i;
    }
    return best;
}

// True if it is better to wait for a.
static bool is_shorter(const struct steer_lane *a, const struct steer_lane *b,
                       const struct steer_ask *ask, bool a_is_home, bool b_is_home)
{
    if (steer_finish_us(a, ask) > 0 && steer_finish_us(b, ask) > 0) return is_sooner(a, b, ask);
    return queue(a) < queue(b) ||
           (queue(a) == queue(b) && is_better(a, b, ask, a_is_home, b_is_home));
}

static uint32_t shortest_queue(const struct steer_lane *lanes, uint32_t n, bool is_far,
                               uint32_t home, const struct steer_ask *ask)
{
    uint32_t best = STEER_NONE;
    for (uint32_t i = 0; i < n; i++) {
        if (!lanes[i].is_open || lanes[i].is_far != is_far) continue;
        if (best == STEER_NONE || is_shorter(&lanes[i], &lanes[best], ask, i == home, best == home))
            best = i;
    }
    return best;
}

uint32_t steer_choose(const struct steer *s, const struct steer_lane *lanes, uint32_t n,
                      const struct steer_ask *ask)
{
    const uint32_t home = steer_home(s, ask->session);
    uint32_t at = with_room(lanes, n, false, home, ask);
    if (at == STEER_NONE) at = with_room(lanes, n, true, home, ask);
    if (at == STEER_NONE) at = shortest_queue(lanes, n, false, home, ask);
    if (at == STEER_NONE) at = shortest_queue(lanes, n, true, home, ask);
    return at;
}
