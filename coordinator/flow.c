// flow: the coordinator's work between the front door and the fleet. A result is committed, what it
// makes possible is sent at once, and only then are the listeners told: the next step does not wait
// for anybody's text.
//
// Listeners may finish, cancel and submit from inside their callbacks. So events are copied out of
// the scheduler before anyone is told, and whoever causes more of them while telling goes on only
// appends; the outermost teller tells them all.
#include "coordinator/canary.h"
#include "coordinator/coordinator_priv.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct coordinator *of(struct engine *e)
{
    return (struct coordinator *)e;
}

// -- telling --

// Room was made when the requests came (op_submit).
void flow_collect(struct flow_lane *l)
{
    uint32_t n;
    struct coordinator *c = l->owner;
    const struct sched_event *e = sched_events(l->sched, &n);
    BUG_ON(c->n_event + n > c->cap_event);
    if (n) memcpy(c->events + c->n_event, e, n * sizeof *e);
    c->n_event += n;
}

static void tell_token(struct coordinator *c, struct flow_live *live, const struct sched_event *e)
{
    struct choice *choice = e->choice;
    int64_t now = clock_now_us(), *last = &live->last_token_us[choice->index];
    if (live->listener == &canary_listener) return;
    if (*last) metrics_observe(&c->metrics, METRICS_ITL, (double)(now - *last) / 1e6);
    *last = now;
    live->n_move = 0;
    metrics_token(&c->metrics, now);
    if (live->is_cancelled || live->failed) return;
    live->listener->on_token(choice->req, choice, e->item);
}

static void tell_finish(struct coordinator *c, struct flow_live *live, const struct sched_event *e)
{
    struct choice *choice = e->choice;
    struct request *r = choice->req;
    const struct engine_listener *l = live->listener;
    c->n_choice--;
    if (choice->finish == FINISH_ERROR && !live->failed) {
        live->failed = r->error;
        live->why = r->why;
        c->metrics.nonfinite += r->error == ERR_DEVICE;
    }
    if (e->request_done) {
        r->engine = NULL;
        if (l != &canary_listener)
            metrics_request(&c->metrics, r, live->failed ? FINISH_ERROR : choice->finish);
    }
    if (!live->failed)
        l->on_finish(r, choice, e->request_done);
    else if (e->request_done)
        l->on_error(r, live->failed, live->why.s, live->retry_after_s);
}

void flow_tell(struct coordinator *c)
{
    if (c->is_telling) return;
    c->is_telling = true;
    while (c->event_at < c->n_event) {
        struct sched_event e = c->events[c->event_at++];
        struct flow_live *live = e.choice->req->engine;
        switch (e.kind) {
        case EVENT_TOKEN:
            tell_token(c, live, &e);
            break;
        case EVENT_FINISH:
            tell_finish(c, live, &e);
            break;
        case EVENT_SCORES:
            if (!live->is_cancelled && !live->failed)
                live->listener->on_scores(e.choice->req, e.scores, e.from, e.n_score);
            break;
        case EVENT_VECTOR:
            if (!live->is_cancelled && !live->failed)
                live->listener->on_vector(e.choice->req, e.choice, e.item->vector,
                                          e.item->n_vector);
            break;
        }
    }
    c->event_at = c->n_event = 0;
    c->is_telling = false;
}

// -- steps --

static uint32_t step_tokens(const struct step *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_row; i++)
        n += s->rows[i].n_tok;
    return n;
}

static void pump(struct flow_lane *l)
{
    struct coordinator *c = l->owner;
    struct step s;
    while (l->is_serving && sched_next(l->sched, clock_now_us(), &s)) {
        metrics_observe(&c->metrics, METRICS_STEP_TOKENS, step_tokens(&s));
        err_t err = fleet_send(c->fleet, l->number, &s);
        if (err == OK) continue;
        log_error("step %llu cannot be sent: %s", (unsigned long long)s.number, err_name(err));
        flow_fail_lane(l, err, "a step of this request cannot be sent", 0);
        fleet_renew(c->fleet, l->number);
    }
}

static void pump_all(struct coordinator *c)
{
    for (uint32_t i = 0; i < FLEET_LANES_MAX; i++)
        pump(&c->lanes[i]);
}

void flow_go_on(struct coordinator *c)
{
    for (uint32_t i = 0; i < FLEET_LANES_MAX; i++)
        flow_collect(&c->lanes[i]);
    pump_all(c);
    if (c->is_telling) return;
    flow_tell(c);
    pump_all(c); // what the listeners ended made room
    flow_tell(c);
}

err_t flow_result(void *arg, uint32_t lane, const struct step_result *r, struct err_text *why)
{
    struct coordinator *c = arg;
    struct flow_lane *l = &c->lanes[lane];
    int64_t now = clock_now_us();
    err_t err = sched_commit(l->sched, r, c->n_vocab, now, why);
    if (err) return err;
    l->result_us = now;
    flow_collect(l);
    flow_level(c);
    flow_go_on(c);
    return OK;
}

void flow_fail_lane(struct flow_lane *l, err_t code, const char *sentence, uint32_t retry_after_s)
{
    struct coordinator *c = l->owner;
    const struct request *r = sched_request_next(l->sched, NULL), *next;
    for (; r; r = next) {
        next = sched_request_next(l->sched, r);
        struct flow_live *live = r->engine;
        if (!live->failed) {
            live->failed = err_say(&live->why, code, "%s", sentence);
            live->retry_after_s = retry_after_s;
        }
        sched_cancel(l->sched, (struct request *)r, clock_now_us());
        flow_collect(l);
    }
    flow_tell(c);
}

void flow_fail_all(struct coordinator *c, err_t code, const char *sentence, uint32_t retry_after_s)
{
    for (uint32_t i = 0; i < FLEET_LANES_MAX; i++)
        flow_fail_lane(&c->lanes[i], code, sentence, retry_after_s);
}

bool flow_lane_is_idle(const struct flow_lane *l)
{
    return sched_request_next(l->sched, NULL) == NULL;
}

bool flow_is_idle(const struct coordinator *c)
{
    for (uint32_t i = 0; i < FLEET_LANES_MAX; i++)
        if (!flow_lane_is_idle(&c->lanes[i])) return false;
    return c->n_event == 0;
}

// -- what the front door asks --

static enum engine_state lane_engine_state(const struct coordinator *c, uint32_t i,
                                           const struct lane *l)
{
    switch (l->state) {
    case LANE_NO_CAPACITY:
        return ENGINE_NO_CAPACITY;
    case LANE_READY:
        return c->lanes[i].is_serving ? ENGINE_READY : ENGINE_DEGRADED;
    default:
        return l->was_ready ? ENGINE_DEGRADED : ENGINE_LOADING;
    }
}

// The best of all lanes is what callers get; the reason tells of the first that falls short.
static enum engine_state op_state(struct engine *e, const char **reason)
{
    static const uint8_t rank[ENGINE_DRAINING + 1] = {
        [ENGINE_READY] = 3, [ENGINE_DEGRADED] = 2, [ENGINE_LOADING] = 1};
    struct coordinator *c = of(e);
    enum engine_state best = ENGINE_NO_CAPACITY;
    uint32_t n = 0, n_ready = 0;
    bool is_fine = true; // the lane that `word` is of
    struct err_text word = {0};
    for (uint32_t i = 0; i < FLEET_LANES_MAX; i++) {
        const struct fleet_lane *fl = fleet_lane(c->fleet, i);
        if (!fl) continue;
        const enum engine_state s = lane_engine_state(c, i, &fl->lane);
        n++;
        n_ready += s == ENGINE_READY;
        if (rank[s] > rank[best]) best = s;
        if (n > 1 && (s == ENGINE_READY || !is_fine)) continue;
        is_fine = s == ENGINE_READY;
        lane_describe(&fl->lane, &c->reason);
        err_say(&word, OK, "%s: %s", fl->name, c->reason.s);
    }
    if (n > 1) err_say(&c->reason, OK, "%u of %u lanes serve; %s", n_ready, n, word.s);
    if (reason) *reason = c->reason.s;
    if (!c->is_draining) return best;
    err_say(&c->reason, OK, "shutting down");
    return ENGINE_DRAINING;
}

// Whether a request may come in now. One that can be served soon waits in the queue instead.
static err_t admit(struct coordinator *c, uint32_t *retry_after_s, struct err_text *why)
{
    const char *reason, *what;
    *retry_after_s = COORDINATOR_RETRY_S;
    switch (op_state(&c->engine, &reason)) {
    case ENGINE_READY:
    case ENGINE_DEGRADED:
        if (fleet_has_hands(c->fleet)) return OK;
        what = "every worker is being drained";
        break;
    case ENGINE_LOADING:
        what = "the model is loading";
        break;
    case ENGINE_DRAINING:
        what = "the server is shutting down";
        break;
    default:
        what = "no capacity";
        break;
    }
    c->metrics.refused_capacity++;
    return err_say(why, ERR_CAPACITY, "%s: %s", what, reason);
}

static struct metrics_view view(const struct coordinator *c)
{
    struct metrics_view v = {
        .metrics = &c->metrics, .fleet = c->fleet, .model = c->engine_model.id};
    for (uint32_t i = 0; i < FLEET_LANES_MAX; i++) {
        const struct flow_lane *l = &c->lanes[i];
        v.scheds[i] = l->sched;
        if (l->result_us > v.result_us) v.result_us = l->result_us;
    }
    return v;
}

// When a caller that is sent away now would find room, if requests go on as they did.
static uint32_t guess_wait_s(const struct coordinator *c)
{
    const struct metrics_histogram *h = &c->metrics.histograms[METRICS_E2E];
    struct metrics_view v = view(c);
    const struct sched_stats s = metrics_sum(&v);
    double each = h->n ? h->sum / (double)h->n : 1;
    double wait = ceil(each * s.n_waiting / (s.n_slot ? s.n_slot : 1));
    return wait < 1 ? 1 : wait > 60 ? 60 : (uint32_t)wait;
}

static bool reserve_events(struct coordinator *c, uint32_t n_more)
{
    // A commit gives at most a token, scores and an end for each choice.
    uint64_t need = 3 * ((uint64_t)c->n_choice + n_more);
    if (need <= c->cap_event) return true;
    struct sched_event *e = realloc(c->events, 2 * need * sizeof *e);
    if (!e) return false;
    c->events = e;
    c->cap_event = (uint32_t)(2 * need);
    return true;
}

err_t flow_submit_to(struct flow_lane *l, struct request *r, const struct engine_listener *e,
                     struct err_text *why)
{
    struct coordinator *c = l->owner;
    struct flow_live *live = arena_take(&r->arena, sizeof *live + r->n_choice * sizeof(int64_t));
    if (!live || !reserve_events(c, r->n_choice))
        return err_say(why, ERR_MEMORY, "no memory for another request");
    live->listener = e;
    live->lane = l;
    r->engine = live;
    err_t err = sched_submit(l->sched, r, clock_now_us(), why);
    if (err)
        r->engine = NULL;
    else
        c->n_choice += r->n_choice;
    return err;
}

// A lane whose pages are too few, or whose queue is full, is not the last word.
static err_t submit_somewhere(struct coordinator *c, struct request *r,
                              const struct engine_listener *l, struct err_text *why)
{
    err_t err = ERR_BUSY;
    uint32_t refused = 0;
    struct flow_lane *lane;
    while ((lane = flow_choose(c, r, refused))) {
        err = flow_submit_to(lane, r, l, why);
        if (err != ERR_TOO_LARGE && err != ERR_BUSY) return err;
        refused |= 1u << lane->number;
    }
    return err;
}

static err_t op_submit(struct engine *e, struct request *r, const struct engine_listener *l,
                       uint32_t *retry_after_s, struct err_text *why)
{
    struct coordinator *c = of(e);
    err_t err = admit(c, retry_after_s, why);
    if (err) return err;
    err = submit_somewhere(c, r, l, why);
    if (err) {
        c->metrics.refused_busy += err == ERR_BUSY;
        *retry_after_s = err == ERR_BUSY ? guess_wait_s(c) : 0;
        return err;
    }
    *retry_after_s = 0;
    flow_go_on(c);
    return OK;
}

static struct sched *sched_of(const struct request *r)
{
    const struct flow_live *live = r->engine;
    return live->lane->sched;
}

static void op_finish(struct engine *e, struct choice *choice, enum finish reason)
{
    struct coordinator *c = of(e);
    if (choice->state == CHOICE_DONE) return; // its end is on the way to the listener already
    sched_finish(sched_of(choice->req), choice, reason, clock_now_us());
    flow_go_on(c);
}

static void op_cancel(struct engine *e, struct request *r)
{
    struct coordinator *c = of(e);
    struct flow_live *live = r->engine;
    live->is_cancelled = true;
    if (r->n_live == 0) return;
    sched_cancel(live->lane->sched, r, clock_now_us());
    flow_go_on(c);
}

static err_t op_drain(struct engine *e, const char *name, uint32_t grace_s, struct err_text *why)
{
    struct coordinator *c = of(e);
    const int64_t grace_us = grace_s ? grace_s * 1000000LL : c->config.drain_ms * 1000LL;
    return fleet_drain(c->fleet, name, grace_us, why);
}

static const struct engine_model *op_model(struct engine *e)
{
    return &of(e)->engine_model;
}

static void op_metrics(struct engine *e, struct buf *out)
{
    struct metrics_view v = view(of(e));
    metrics_write(&v, out);
}

static void op_cluster(struct engine *e, struct buf *out)
{
    static const char *const words[] = {"loading", "ready", "degraded", "no_capacity", "draining"};
    struct coordinator *c = of(e);
    const char *reason;
    enum engine_state state = op_state(e, &reason);
    struct cluster_json j = {.view = view(c),
                             .model = c->model,
                             .state = words[state],
                             .reason = reason,
                             .ctx = c->want.ctx,
                             .now_us = clock_now_us(),
                             .started_us = c->started_us};
    cluster_json_write(&j, out);
}

static void op_experts(struct engine *e, struct buf *out)
{
    struct cluster_json j = {.view = view(of(e))};
    cluster_json_experts(&j, out);
}

const struct engine_ops flow_ops = {
    .submit = op_submit,
    .finish = op_finish,
    .cancel = op_cancel,
    .model = op_model,
    .state = op_state,
    .metrics = op_metrics,
    .cluster = op_cluster,
    .experts = op_experts,
    .drain = op_drain,
};
