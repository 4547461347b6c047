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

// Room was made when the requests came (flow_submit).
static void collect(struct coordinator *c)
{
    uint32_t n;
    const struct sched_event *e = sched_events(c->sched, &n);
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

static void tell(struct coordinator *c)
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

static void pump(struct coordinator *c)
{
    struct step s;
    while (c->is_serving && sched_next(c->sched, clock_now_us(), &s)) {
        metrics_observe(&c->metrics, METRICS_STEP_TOKENS, step_tokens(&s));
        err_t err = fleet_send(c->fleet, &s);
        if (err == OK) continue;
        log_error("step %llu cannot be sent: %s", (unsigned long long)s.number, err_name(err));
        flow_fail_all(c, err, "a step of this request cannot be sent", 0);
        fleet_renew(c->fleet);
    }
}

// After anything that may have changed what can run and what is to be told.
static void go_on(struct coordinator *c)
{
    collect(c);
    pump(c);
    if (c->is_telling) return;
    tell(c);
    pump(c); // what the listeners ended made room
    tell(c);
}

static err_t on_result(void *arg, const struct step_result *r, struct err_text *why)
{
    struct coordinator *c = arg;
    int64_t now = clock_now_us();
    err_t err = sched_commit(c->sched, r, c->n_vocab, now, why);
    if (err) return err;
    c->result_us = now;
    go_on(c);
    return OK;
}

static void on_serve(void *arg, const struct place *p, uint64_t epoch)
{
    struct coordinator *c = arg;
    struct sched_config s = {.epoch = epoch,
                             .n_stage = p->n_stage,
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
                             .ctx = p->settings.ctx,
                             .queue_max = c->config.queue_max,
                             .prefix_cache = !c->config.no_prefix_cache,
                             .chain = !c->config.no_chain};
    err_t err = sched_configure(c->sched, &s);
    if (err) {
        log_error("no scheduling for epoch %llu: %s", (unsigned long long)epoch, err_name(err));
        collect(c);
        flow_fail_all(c, err, "the scheduler cannot be set up for this placement", 0);
        return;
    }
    c->is_serving = true;
    c->result_us = clock_now_us();
    go_on(c);
}

// Requests that were running go on by themselves, but one that sees loss after loss without a new
// token may be what the workers die of.
static void on_suspend(void *arg)
{
    struct coordinator *c = arg;
    c->is_serving = false;
    const struct request *r = sched_request_next(c->sched, NULL), *next;
    for (; r; r = next) {
        next = sched_request_next(c->sched, r);
        struct flow_live *live = r->engine;
        bool is_running = false;
        for (uint32_t i = 0; i < r->n_choice; i++)
            is_running |= r->choices[i].slot >= 0;
        if (!is_running) continue;
        c->metrics.moved++;
        if (++live->n_move <= COORDINATOR_MOVES_MAX || live->failed) continue;
        live->failed = err_say(&live->why, ERR_CAPACITY,
                               "workers were lost %u times while they computed this request's "
                               "next token",
                               live->n_move);
        live->retry_after_s = COORDINATOR_RETRY_S;
        sched_cancel(c->sched, (struct request *)r, clock_now_us());
        collect(c);
    }
    sched_suspend(c->sched);
    tell(c);
}

void flow_fail_all(struct coordinator *c, err_t code, const char *sentence, uint32_t retry_after_s)
{
    const struct request *r = sched_request_next(c->sched, NULL), *next;
    for (; r; r = next) {
        next = sched_request_next(c->sched, r);
        struct flow_live *live = r->engine;
        if (!live->failed) {
            live->failed = err_say(&live->why, code, "%s", sentence);
            live->retry_after_s = retry_after_s;
        }
        sched_cancel(c->sched, (struct request *)r, clock_now_us());
        collect(c);
    }
    tell(c);
}

static void on_give_up(void *arg, const char *sentence)
{
    struct coordinator *c = arg;
    struct err_text why;
    err_say(&why, ERR_CAPACITY, "no placement of the model is left: %s", sentence);
    flow_fail_all(c, ERR_CAPACITY, why.s, COORDINATOR_RETRY_S);
}

bool flow_is_idle(const struct coordinator *c)
{
    return sched_request_next(c->sched, NULL) == NULL && c->n_event == 0;
}

static bool is_busy(void *arg)
{
    return !flow_is_idle(arg);
}

const struct fleet_listener flow_listener = {.on_serve = on_serve,
                                             .on_suspend = on_suspend,
                                             .on_result = on_result,
                                             .on_give_up = on_give_up,
                                             .is_busy = is_busy};

// -- what the front door asks --

static enum engine_state op_state(struct engine *e, const char **reason)
{
    struct coordinator *c = of(e);
    const struct lane *l = fleet_lane(c->fleet);
    lane_describe(l, &c->reason);
    if (reason) *reason = c->reason.s;
    if (c->is_draining) {
        err_say(&c->reason, OK, "shutting down");
        return ENGINE_DRAINING;
    }
    switch (l->state) {
    case LANE_NO_CAPACITY:
        return ENGINE_NO_CAPACITY;
    case LANE_READY:
        return c->is_serving ? ENGINE_READY : ENGINE_DEGRADED;
    default:
        return l->was_ready ? ENGINE_DEGRADED : ENGINE_LOADING;
    }
}

// Whether a request may come in now. One that can be served soon waits in the queue instead.
static err_t admit(struct coordinator *c, uint32_t *retry_after_s, struct err_text *why)
{
    const char *reason, *what;
    *retry_after_s = COORDINATOR_RETRY_S;
    switch (op_state(&c->engine, &reason)) {
    case ENGINE_READY:
    case ENGINE_DEGRADED:
        return OK;
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

// When a caller that is sent away now would find room, if requests go on as they did.
static uint32_t guess_wait_s(const struct coordinator *c)
{
    const struct metrics_histogram *h = &c->metrics.histograms[METRICS_E2E];
    struct sched_stats s = sched_stats_get(c->sched);
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

static err_t op_submit(struct engine *e, struct request *r, const struct engine_listener *l,
                       uint32_t *retry_after_s, struct err_text *why)
{
    struct coordinator *c = of(e);
    err_t err = admit(c, retry_after_s, why);
    if (err) return err;
    struct flow_live *live = arena_take(&r->arena, sizeof *live + r->n_choice * sizeof(int64_t));
    if (!live || !reserve_events(c, r->n_choice))
        return err_say(why, ERR_MEMORY, "no memory for another request");
    live->listener = l;
    r->engine = live;
    err = sched_submit(c->sched, r, clock_now_us(), why);
    if (err) {
        r->engine = NULL;
        c->metrics.refused_busy += err == ERR_BUSY;
        *retry_after_s = err == ERR_BUSY ? guess_wait_s(c) : 0;
        return err;
    }
    c->n_choice += r->n_choice;
    *retry_after_s = 0;
    go_on(c);
    return OK;
}

static void op_finish(struct engine *e, struct choice *choice, enum finish reason)
{
    struct coordinator *c = of(e);
    if (choice->state == CHOICE_DONE) return; // its end is on the way to the listener already
    sched_finish(c->sched, choice, reason, clock_now_us());
    go_on(c);
}

static void op_cancel(struct engine *e, struct request *r)
{
    struct coordinator *c = of(e);
    struct flow_live *live = r->engine;
    live->is_cancelled = true;
    if (r->n_live == 0) return;
    sched_cancel(c->sched, r, clock_now_us());
    go_on(c);
}

static const struct engine_model *op_model(struct engine *e)
{
    return &of(e)->engine_model;
}

static struct metrics_view view(const struct coordinator *c)
{
    return (struct metrics_view){
        .metrics = &c->metrics, .sched = c->sched, .fleet = c->fleet, .model = c->engine_model.id};
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
                             .n_stage_wanted = c->want.n_stage,
                             .now_us = clock_now_us(),
                             .started_us = c->started_us};
    cluster_json_write(&j, out);
}

const struct engine_ops flow_ops = {
    .submit = op_submit,
    .finish = op_finish,
    .cancel = op_cancel,
    .model = op_model,
    .state = op_state,
    .metrics = op_metrics,
    .cluster = op_cluster,
};
