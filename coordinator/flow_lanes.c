// flow_lanes: which lane has which request. Requests change lanes whole, between steps, with their
// token history: when their lane is lost and another serves, and when they wait in a full lane
// while another has room.
#include "coordinator/coordinator_priv.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"

bool flow_is_open(const struct flow_lane *l)
{
    const struct fleet_lane *fl = fleet_lane(l->owner->fleet, l->number);
    return fl && l->is_serving && !fl->is_draining;
}

// -- choosing --

static struct steer_lane figures(const struct flow_lane *l, const struct request *r)
{
    const struct fleet_lane *fl = fleet_lane(l->owner->fleet, l->number);
    const struct sched_stats s = sched_stats_get(l->sched);
    return (struct steer_lane){.is_open = flow_is_open(l),
                               .is_far = fl && fleet_lane_is_far(fl),
                               .n_slot = s.n_slot,
                               .n_running = s.n_running,
                               .n_waiting = s.n_waiting,
                               .n_page_room = s.n_page - s.n_page_used + s.n_page_cached,
                               .n_page = sched_pages(l->sched, r),
                               .n_known = sched_known(l->sched, r),
                               .step_us = l->speed.step_us,
                               .row_us = l->speed.row_us,
                               .prompt_us = l->speed.prompt_us};
}

static struct steer_ask ask_of(const struct request *r)
{
    return (struct steer_ask){.session = r->session,
                              .n_choice = r->n_live,
                              .n_prompt = r->n_prompt,
                              .n_output = r->max_tokens};
}

// Lanes in `refused` count as closed.
static struct flow_lane *choose_open(struct coordinator *c, const struct request *r,
                                     uint32_t refused)
{
    struct steer_lane lanes[FLEET_LANES_MAX];
    for (uint32_t i = 0; i < FLEET_LANES_MAX; i++) {
        lanes[i] = figures(&c->lanes[i], r);
        if (refused >> i & 1) lanes[i].is_open = false;
    }
    const struct steer_ask ask = ask_of(r);
    const uint32_t at = steer_choose(&c->steer, lanes, FLEET_LANES_MAX, &ask);
    return at == STEER_NONE ? NULL : &c->lanes[at];
}

struct flow_lane *flow_choose(struct coordinator *c, const struct request *r, uint32_t refused)
{
    struct flow_lane *l = choose_open(c, r, refused);
    if (l) {
        steer_remember(&c->steer, r->session, l->number);
        return l;
    }
    // One that serves, though it is being drained, rather than one that does not.
    for (int is_serving = 1; is_serving >= 0; is_serving--)
        for (uint32_t i = 0; i < FLEET_LANES_MAX; i++)
            if (fleet_lane(c->fleet, i) && !(refused >> i & 1) &&
                c->lanes[i].is_serving == is_serving)
                return &c->lanes[i];
    return NULL;
}

// -- moving --

// False: it cannot be there, and stays where it is.
static bool move(struct request *r, struct flow_lane *to)
{
    struct flow_live *live = r->engine;
    struct flow_lane *from = live->lane;
    struct err_text why;
    sched_release(from->sched, r);
    const bool is_moved = sched_adopt(to->sched, r, &why) == OK;
    // Where it came from there was room for it, and no memory is needed that it did not have.
    if (!is_moved && sched_adopt(from->sched, r, NULL) != OK) BUG("a request without a lane");
    if (!is_moved) {
        log_warn("request %s cannot go on in lane %u: %s", r->id, to->number, why.s);
        return false;
    }
    live->lane = to;
    return true;
}

// Requests in lanes that do not serve go to one that does.
static void rehome(struct coordinator *c)
{
    for (uint32_t i = 0; i < FLEET_LANES_MAX; i++) {
        if (c->lanes[i].is_serving) continue;
        const struct request *r = sched_request_next(c->lanes[i].sched, NULL), *next;
        for (; r; r = next) {
            next = sched_request_next(c->lanes[i].sched, r);
            uint32_t refused = 0;
            struct flow_lane *to;
            while ((to = choose_open(c, r, refused)) && !move((struct request *)r, to))
                refused |= 1u << to->number;
        }
    }
}

static bool is_waiting(const struct request *r)
{
    for (uint32_t i = 0; i < r->n_choice; i++)
        if (r->choices[i].slot >= 0) return false;
    return true;
}

// The oldest request of the lane that runs nowhere.
static struct request *waiting(const struct flow_lane *l)
{
    const struct request *r = NULL;
    while ((r = sched_request_next(l->sched, r)))
        if (is_waiting(r)) return (struct request *)r;
    return NULL;
}

static bool relieve(struct flow_lane *l)
{
    struct coordinator *c = l->owner;
    struct request *r = waiting(l);
    if (!r) return false;
    const struct steer_lane here = figures(l, r);
    if (!steer_is_full(&here, r->n_live)) return false;
    struct flow_lane *to = choose_open(c, r, 1u << l->number);
    if (!to) return false;
    const struct steer_lane there = figures(to, r);
    return steer_has_room(&there, r->n_live) && move(r, to);
}

void flow_level(struct coordinator *c)
{
    for (uint32_t i = 0; i < FLEET_LANES_MAX; i++) {
        struct flow_lane *l = &c->lanes[i];
        if (!l->is_serving || sched_stats_get(l->sched).n_waiting == 0) continue;
        while (relieve(l))
            ;
    }
}

// -- what the fleet tells --

static void on_serve(void *arg, uint32_t lane, const struct place *p, uint64_t epoch)
{
    struct coordinator *c = arg;
    struct flow_lane *l = &c->lanes[lane];
    struct sched_config s = {.epoch = epoch,
                             .n_stage = p->settings.in_flight - 1,
                             .in_flight = p->settings.in_flight,
                             .n_slot = p->settings.n_slot,
                             .n_page = p->settings.n_page,
                             .n_page_local = p->settings.n_page_local,
                             .window = p->window,
                             .chunk = p->chunk,
                             .n_snapshot = p->settings.n_snapshot,
                             .recurrent = p->recurrent,
                             .page_tok = p->settings.page_tok,
                             .max_tok = p->settings.max_tok,
                             .max_rows = p->settings.max_rows,
                             .piece_tok = p->piece_tok,
                             .ctx = p->settings.ctx,
                             .dim = (uint32_t)l->owner->model->shape.dim,
                             .queue_max = c->config.queue_max,
                             .prefix_cache = !c->config.no_prefix_cache,
                             .chain = !c->config.no_chain};
    err_t err = sched_configure(l->sched, &s);
    flow_collect(l);
    if (err) {
        log_error("no scheduling for epoch %llu: %s", (unsigned long long)epoch, err_name(err));
        flow_fail_lane(l, err, "the scheduler cannot be set up for this placement", 0);
        return;
    }
    l->is_serving = true;
    l->speed = p->speed;
    l->result_us = clock_now_us();
    rehome(c);
    flow_go_on(c);
}

static bool is_running(const struct request *r)
{
    for (uint32_t i = 0; i < r->n_choice; i++)
        if (r->choices[i].slot >= 0) return true;
    return false;
}

// Some of it is in the steps that are on their way.
static bool is_in_steps(const struct request *r)
{
    for (uint32_t i = 0; i < r->n_choice; i++)
        if (r->choices[i].slot >= 0 && r->choices[i].n_sent > r->choices[i].n_done) return true;
    return false;
}

// Requests that were running go on by themselves, but one that was in the steps of loss after loss
// without a new token between them may be what the workers die of.
static void on_suspend(void *arg, uint32_t lane)
{
    struct coordinator *c = arg;
    struct flow_lane *l = &c->lanes[lane];
    l->is_serving = false;
    const struct request *r = sched_request_next(l->sched, NULL), *next;
    for (; r; r = next) {
        next = sched_request_next(l->sched, r);
        struct flow_live *live = r->engine;
        if (!is_running(r)) continue;
        c->metrics.moved++;
        if (!is_in_steps(r)) continue;
        if (++live->n_move <= COORDINATOR_MOVES_MAX || live->failed) continue;
        live->failed = err_say(&live->why, ERR_CAPACITY,
                               "workers were lost %u times while they computed this request's "
                               "next token",
                               live->n_move);
        live->retry_after_s = COORDINATOR_RETRY_S;
        sched_cancel(l->sched, (struct request *)r, clock_now_us());
        flow_collect(l);
    }
    sched_suspend(l->sched);
    rehome(c);
    flow_go_on(c);
}

// True: a lane serves, or will soon.
static bool is_any_coming(const struct coordinator *c)
{
    for (uint32_t i = 0; i < FLEET_LANES_MAX; i++) {
        const struct fleet_lane *fl = fleet_lane(c->fleet, i);
        if (fl && (fl->lane.state == LANE_LOADING || fl->lane.state == LANE_LINKING ||
                   fl->lane.state == LANE_READY))
            return true;
    }
    return false;
}

static void on_give_up(void *arg, uint32_t lane, const char *sentence)
{
    (void)lane;
    struct coordinator *c = arg;
    struct err_text why;
    if (is_any_coming(c)) return;
    err_say(&why, ERR_CAPACITY, "no placement of the model is left: %s", sentence);
    flow_fail_all(c, ERR_CAPACITY, why.s, COORDINATOR_RETRY_S);
}

// What could not go to a lane that serves waits in the first one.
static void on_close(void *arg, uint32_t lane)
{
    struct coordinator *c = arg;
    const struct request *r;
    while ((r = sched_request_next(c->lanes[lane].sched, NULL)))
        if (!move((struct request *)r, &c->lanes[0])) {
            flow_fail_lane(&c->lanes[lane], ERR_CAPACITY, "no lane is left that can hold this",
                           COORDINATOR_RETRY_S);
            break;
        }
    flow_go_on(c);
}

static bool is_busy(void *arg, uint32_t lane)
{
    struct coordinator *c = arg;
    return !flow_lane_is_idle(&c->lanes[lane]) || c->n_event != 0;
}

const struct fleet_listener flow_listener = {.on_serve = on_serve,
                                             .on_suspend = on_suspend,
                                             .on_result = flow_result,
                                             .on_give_up = on_give_up,
                                             .on_close = on_close,
                                             .is_busy = is_busy};
