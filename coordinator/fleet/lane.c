#include "coordinator/fleet/lane.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *lane_state_name(enum lane_state s)
{
    static const char *const names[] = {"waiting", "loading", "linking", "ready", "no_capacity"};
    return names[s];
}

const char *lane_role_name(enum lane_role r)
{
    static const char *const names[] = {"absent",   "standby", "failed", "loading",
                                        "prepared", "linking", "serving"};
    return names[r];
}

void lane_init(struct lane *l, const struct lane_config *c, int64_t now_us)
{
    memset(l, 0, sizeof *l);
    l->config = *c;
    l->state = LANE_WAITING;
    l->since_us = l->tick_us = now_us;
}

// -- actions --

static struct lane_action *act(struct lane *l, enum lane_action_kind kind, uint32_t worker)
{
    BUG_ON(l->n_action == LANE_ACTIONS_MAX);
    struct lane_action *a = &l->actions[l->n_action++];
    memset(a, 0, sizeof *a);
    a->kind = kind;
    a->worker = worker;
    return a;
}

bool lane_next(struct lane *l, struct lane_action *out)
{
    if (l->action_at == l->n_action) {
        l->action_at = l->n_action = 0;
        return false;
    }
    *out = l->actions[l->action_at++];
    return true;
}

// -- what there is --

static bool is_usable(const struct lane_worker *w)
{
    return w->role != LANE_ABSENT && w->role != LANE_OUT && w->is_fit;
}

uint32_t lane_n_usable(const struct lane *l)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < LANE_WORKERS_MAX; i++)
        n += is_usable(&l->workers[i]);
    return n;
}

bool lane_is_member(const struct lane *l, uint32_t worker)
{
    return l->workers[worker].role >= LANE_LOADER;
}

static bool all_members_are(const struct lane *l, enum lane_role role)
{
    for (uint32_t i = 0; i < l->place.n_member; i++)
        if (l->workers[l->place.members[i].worker].role != role) return false;
    return true;
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

int64_t lane_median_us(const struct lane *l)
{
    int64_t sorted[LANE_LATENCIES];
    size_t n = l->n_latency < LANE_LATENCIES ? l->n_latency : LANE_LATENCIES;
    if (n == 0) return 0;
    memcpy(sorted, l->latency_us, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_value);
    return sorted[n / 2];
}

// A step cannot have begun to hold things up before the one in front of it was answered.
uint64_t lane_oldest(const struct lane *l, int64_t *since_us)
{
    if (l->state != LANE_READY || l->step_done == l->step_sent) return 0;
    uint64_t number = l->step_done + 1;
    int64_t sent = l->sent_us[number % LANE_STEPS_MAX];
    *since_us = sent > l->result_us ? sent : l->result_us;
    return number;
}

void lane_describe(const struct lane *l, struct err_text *out)
{
    unsigned long long epoch = l->epoch;
    switch (l->state) {
    case LANE_WAITING: {
        uint32_t n = lane_n_usable(l), want = l->config.n_expect;
        if (n < want)
            err_say(out, OK, "waiting for %u more worker%s (%u of %u)", want - n,
                    want - n == 1 ? "" : "s", n, want);
        else
            err_say(out, OK, "measures the links between %u workers", n);
        return;
    }
    case LANE_LOADING:
        err_say(out, OK, "epoch %llu loads on %u worker%s", epoch, l->place.n_member,
                l->place.n_member == 1 ? "" : "s");
        return;
    case LANE_LINKING:
        err_say(out, OK, "epoch %llu connects %u worker%s", epoch, l->place.n_member,
                l->place.n_member == 1 ? "" : "s");
        return;
    case LANE_READY:
        if (l->place.n_member < l->config.n_wanted)
            err_say(out, OK, "epoch %llu serves on %u of %u workers", epoch, l->place.n_member,
                    l->config.n_wanted);
        else
            err_say(out, OK, "epoch %llu serves", epoch);
        return;
    case LANE_NO_CAPACITY:
        err_say(out, OK, "no placement: %s", l->why.s);
        return;
    }
}

// -- transitions --

static void enter(struct lane *l, enum lane_state s, int64_t now_us)
{
    if (s == LANE_NO_CAPACITY && l->state != LANE_NO_CAPACITY) l->gave_up = false;
    if (s != l->state) l->since_us = now_us;
    l->state = s;
}

// Ends the current epoch: from here on nothing that carries its number counts.
static void end_epoch(struct lane *l)
{
    if (l->state == LANE_READY) act(l, LANE_SUSPEND, 0);
    l->epoch = ++*l->config.last_epoch;
    l->step_sent = l->step_done = 0;
    l->all_done_us = l->busy_us = 0;
    l->n_latency = 0;
    for (uint32_t i = 0; i < LANE_WORKERS_MAX; i++) {
        struct lane_worker *w = &l->workers[i];
        if (w->role >= LANE_LOADER) w->role = LANE_STANDBY;
        w->step_done = 0;
    }
}

static void adopt(struct lane *l, const struct place *p, int64_t now_us)
{
    l->place = *p;
    for (uint32_t i = 0; i < p->n_member; i++) {
        struct lane_worker *w = &l->workers[p->members[i].worker];
        BUG_ON(!is_usable(w));
        w->role = LANE_LOADER;
        w->member = i;
        act(l, LANE_SEND_PLAN, p->members[i].worker);
    }
    enter(l, LANE_LOADING, now_us);
    l->deadline_us = now_us + LANE_LOAD_US;
}

static err_t choose(struct lane *l, struct place *out, struct err_text *why)
{
    uint32_t usable[LANE_WORKERS_MAX], n = 0;
    for (uint32_t i = 0; i < LANE_WORKERS_MAX; i++)
        if (is_usable(&l->workers[i])) usable[n++] = i;
    l->has_news = false;
    if (n == 0)
        return err_say(why, l->left_code ? l->left_code : ERR_CAPACITY,
                       "no usable worker is connected%s%s",
                       l->left_code ? "; of the last one: " : "", l->left.s);
    return l->config.place(l->config.place_arg, usable, n, out, why);
}

static void plan_anew(struct lane *l, int64_t now_us)
{
    l->is_torn = false;
    end_epoch(l);
    struct place p;
    struct err_text why;
    err_t err = choose(l, &p, &why);
    if (err == OK) {
        adopt(l, &p, now_us);
        return;
    }
    l->place.n_stage = l->place.n_member = 0;
    l->why = why;
    l->why_code = err;
    enter(l, LANE_NO_CAPACITY, now_us);
}

// Takes the worker out of all counts and says so through an action of `kind`.
static struct lane_action *leave(struct lane *l, uint32_t worker, enum lane_action_kind kind,
                                 err_t code, const char *why)
{
    struct lane_worker *w = &l->workers[worker];
    struct lane_action *a = act(l, kind, worker);
    a->code = code;
    a->had_stage = w->role >= LANE_LOADER;
    if (a->had_stage) {
        a->stage = l->place.members[w->member].stage;
        a->layer_from = l->place.stages[a->stage].layer_from;
        a->layer_to = l->place.stages[a->stage].layer_to;
    }
    err_say(&a->why, code, "%s", why);
    if (kind != LANE_STRUCK) w->role = LANE_ABSENT;
    l->left = a->why;
    l->left_code = code;
    return a;
}

static void leave_and_plan(struct lane *l, uint32_t worker, enum lane_action_kind kind, err_t code,
                           const char *why, int64_t now_us)
{
    if (l->workers[worker].role == LANE_ABSENT) return;
    if (leave(l, worker, kind, code, why)->had_stage) plan_anew(l, now_us);
}

// Counts a failure. The worker takes part in the next plan again until it has failed too often.
static void strike(struct lane *l, uint32_t worker, err_t code, const char *why, int64_t now_us)
{
    struct lane_worker *w = &l->workers[worker];
    leave(l, worker, LANE_STRUCK, code, why);
    w->strike_us[w->n_strike++ % LANE_STRIKES] = now_us;
    bool is_out = w->n_strike >= LANE_STRIKES &&
                  now_us - w->strike_us[w->n_strike % LANE_STRIKES] <= LANE_STRIKE_US;
    w->role = is_out ? LANE_OUT : LANE_STANDBY;
}

// -- events --

// The plan waits for the lane_join that follows: the worker comes back with its layers, and a plan
// without them would load them elsewhere.
void lane_replaced(struct lane *l, uint32_t worker, const char *why)
{
    if (l->workers[worker].role != LANE_ABSENT)
        l->is_torn |= leave(l, worker, LANE_LEFT, ERR_LINK, why)->had_stage;
}

// The first plan, once all are here.
static void begin(struct lane *l, int64_t now_us)
{
    if (l->state == LANE_WAITING && !l->is_held && lane_n_usable(l) >= l->config.n_expect)
        plan_anew(l, now_us);
}

void lane_join(struct lane *l, uint32_t worker, bool is_fit, int64_t now_us)
{
    BUG_ON(l->workers[worker].role != LANE_ABSENT);
    l->workers[worker] = (struct lane_worker){
        .role = LANE_STANDBY, .is_fit = is_fit, .heard_us = now_us, .progress_us = now_us};
    if (!is_fit && !l->is_torn) return;
    l->has_news = true;
    if (l->is_torn || l->state == LANE_NO_CAPACITY)
        plan_anew(l, now_us);
    else
        begin(l, now_us);
}

void lane_expect(struct lane *l, uint32_t n_expect, uint32_t n_wanted, int64_t now_us)
{
    l->config.n_expect = n_expect;
    l->config.n_wanted = n_wanted;
    begin(l, now_us);
}

void lane_hold(struct lane *l, bool is_held, int64_t now_us)
{
    l->is_held = is_held;
    begin(l, now_us);
}

void lane_spare(struct lane *l, uint32_t worker)
{
    l->workers[worker].is_fit = false;
}

void lane_dismiss(struct lane *l, uint32_t worker, int64_t now_us)
{
    const bool had_stage = lane_is_member(l, worker);
    l->workers[worker].role = LANE_ABSENT;
    if (had_stage) plan_anew(l, now_us);
}

void lane_lost(struct lane *l, uint32_t worker, const char *why, int64_t now_us)
{
    leave_and_plan(l, worker, LANE_LEFT, ERR_LINK, why, now_us);
}

void lane_violated(struct lane *l, uint32_t worker, err_t code, const char *why, int64_t now_us)
{
    leave_and_plan(l, worker, LANE_DROP, code, why, now_us);
}

// True if a message of this epoch is to be looked at. One from the future breaks the protocol.
static bool is_current(struct lane *l, uint32_t worker, uint64_t epoch, const char *what,
                       int64_t now_us)
{
    l->workers[worker].heard_us = now_us;
    if (epoch > *l->config.last_epoch) {
        struct err_text why;
        err_say(&why, ERR_LINK_PROTOCOL, "%s of epoch %llu, which was never planned (now %llu)",
                what, (unsigned long long)epoch, (unsigned long long)*l->config.last_epoch);
        lane_violated(l, worker, ERR_LINK_PROTOCOL, why.s, now_us);
        return false;
    }
    return epoch == l->epoch && lane_is_member(l, worker);
}

static bool has_role(struct lane *l, uint32_t worker, enum lane_role role, const char *what,
                     int64_t now_us)
{
    if (l->workers[worker].role == role) return true;
    struct err_text why;
    err_say(&why, ERR_LINK_PROTOCOL, "%s while %s", what, lane_role_name(l->workers[worker].role));
    lane_violated(l, worker, ERR_LINK_PROTOCOL, why.s, now_us);
    return false;
}

void lane_beat(struct lane *l, uint32_t worker, const struct msg_heartbeat *m, int64_t now_us)
{
    struct lane_worker *w = &l->workers[worker];
    if (w->role == LANE_ABSENT) return;
    if (m->progress != w->progress) {
        w->progress = m->progress;
        w->progress_us = now_us;
        // Copying its part of the model may take long, as long as bytes come.
        if (m->fetch_bytes && m->epoch == l->epoch && l->state == LANE_LOADING &&
            w->role == LANE_LOADER)
            l->deadline_us = now_us + LANE_LOAD_US;
    }
    // One that served another coordinator may still beat with an epoch we never gave.
    w->heard_us = now_us;
    if (m->epoch == l->epoch && lane_is_member(l, worker)) w->step_done = m->step_done;
}

// The first field in which two settings differ, or NULL.
static const char *settings_differ(const struct plan_settings *a, const struct plan_settings *b)
{
    if (a->ctx != b->ctx) return "ctx";
    if (a->page_tok != b->page_tok) return "page_tok";
    if (a->n_page != b->n_page) return "n_page";
    if (a->n_page_local != b->n_page_local) return "n_page_local";
    if (a->n_snapshot != b->n_snapshot) return "n_snapshot";
    if (a->n_slot != b->n_slot) return "n_slot";
    if (a->max_tok != b->max_tok) return "max_tok";
    if (a->max_rows != b->max_rows) return "max_rows";
    if (a->in_flight != b->in_flight) return "in_flight";
    if (a->kv_dtype != b->kv_dtype) return "kv_dtype";
    if (a->precision != b->precision) return "precision";
    return NULL;
}

void lane_prepared(struct lane *l, uint32_t worker, const struct msg_prepared *m, int64_t now_us)
{
    struct lane_worker *w = &l->workers[worker];
    if (w->role == LANE_ABSENT) return;
    if (!is_current(l, worker, m->epoch, "PREPARED", now_us)) return;
    if (!has_role(l, worker, LANE_LOADER, "PREPARED", now_us)) return;
    const char *field = settings_differ(&l->place.settings, &m->settings);
    if (field) {
        struct err_text why;
        err_say(&why, ERR_CONFIG, "its effective setting %s differs from the plan's", field);
        leave(l, worker, LANE_DROP, ERR_CONFIG, why.s)->is_final = true;
        plan_anew(l, now_us);
        return;
    }
    w->role = LANE_PREPARED;
    if (!all_members_are(l, LANE_PREPARED)) return;
    enter(l, LANE_LINKING, now_us);
    l->deadline_us = now_us + LANE_LINK_US;
    for (uint32_t i = 0; i < l->place.n_member; i++) {
        uint32_t member = l->place.members[i].worker;
        l->workers[member].role = LANE_LINKER;
        act(l, LANE_SEND_CONNECT, member);
    }
}

void lane_linked(struct lane *l, uint32_t worker, const struct msg_linked *m, int64_t now_us)
{
    struct lane_worker *w = &l->workers[worker];
    if (w->role == LANE_ABSENT) return;
    if (!is_current(l, worker, m->epoch, "LINKED", now_us)) return;
    if (!has_role(l, worker, LANE_LINKER, "LINKED", now_us)) return;
    w->role = LANE_SERVER;
    if (!all_members_are(l, LANE_SERVER)) return;
    enter(l, LANE_READY, now_us);
    l->was_ready = true;
    l->left_code = OK;
    l->left.s[0] = 0;
    l->result_us = now_us;
    act(l, LANE_SERVE, 0);
}

void lane_failed(struct lane *l, uint32_t worker, const struct msg_failed *m, int64_t now_us)
{
    if (l->workers[worker].role == LANE_ABSENT) return;
    if (!is_current(l, worker, m->epoch, "FAILED", now_us)) return;
    strike(l, worker, m->code, m->why, now_us);
    plan_anew(l, now_us);
}

bool lane_result(struct lane *l, uint32_t worker, uint64_t epoch, uint64_t number, int64_t now_us)
{
    struct lane_worker *w = &l->workers[worker];
    if (w->role == LANE_ABSENT) return false;
    if (!is_current(l, worker, epoch, "RESULT", now_us)) return false;
    if (!has_role(l, worker, LANE_SERVER, "RESULT", now_us)) return false;
    struct err_text why;
    const uint32_t speaker = l->place.stages[l->place.n_stage - 1].first;
    if (w->member != speaker)
        err_say(&why, ERR_LINK_PROTOCOL,
                "RESULT from member %u, which does not lead the last stage", w->member);
    else if (l->state != LANE_READY || number != l->step_done + 1 || number > l->step_sent)
        err_say(&why, ERR_LINK_PROTOCOL, "RESULT of step %llu, awaited %llu of %llu",
                (unsigned long long)number, (unsigned long long)l->step_done + 1,
                (unsigned long long)l->step_sent);
    else {
        int64_t since = now_us;
        lane_oldest(l, &since);
        l->latency_us[l->n_latency++ % LANE_LATENCIES] = now_us - since;
        l->step_done = number;
        l->result_us = now_us;
        l->all_done_us = 0;
        if (l->step_done == l->step_sent) l->busy_us = 0;
        return true;
    }
    lane_violated(l, worker, ERR_LINK_PROTOCOL, why.s, now_us);
    return false;
}

void lane_renew(struct lane *l, int64_t now_us)
{
    if (l->state == LANE_READY) plan_anew(l, now_us);
}

void lane_sent(struct lane *l, uint64_t number, int64_t now_us)
{
    BUG_ON(l->state != LANE_READY || number != l->step_sent + 1);
    BUG_ON(number - l->step_done > LANE_STEPS_MAX);
    if (l->step_done == l->step_sent) l->busy_us = now_us;
    l->step_sent = number;
    l->sent_us[number % LANE_STEPS_MAX] = now_us;
}

// -- time --

// We were not running ourselves: the others' silence proves nothing.
static void forgive_gap(struct lane *l, int64_t now_us)
{
    int64_t gap = now_us - l->tick_us;
    l->tick_us = now_us;
    if (gap <= 1000000) return;
    for (uint32_t i = 0; i < LANE_WORKERS_MAX; i++)
        l->workers[i].heard_us = l->workers[i].progress_us = now_us;
    l->result_us = now_us;
    l->deadline_us += gap;
}

static bool drop_silent(struct lane *l, int64_t now_us)
{
    bool lost_member = false;
    for (uint32_t i = 0; i < LANE_WORKERS_MAX; i++) {
        struct lane_worker *w = &l->workers[i];
        if (w->role == LANE_ABSENT || now_us - w->heard_us <= LANE_SILENCE_US) continue;
        struct err_text why;
        err_say(&why, ERR_TIMEOUT, "no heartbeat for %.1f s", (double)(now_us - w->heard_us) / 1e6);
        lost_member |= leave(l, i, LANE_DROP, ERR_TIMEOUT, why.s)->had_stage;
    }
    return lost_member;
}

// Members that did not answer a PLAN or a CONNECT in time. True if there was one.
static bool drop_late(struct lane *l, int64_t now_us)
{
    if ((l->state != LANE_LOADING && l->state != LANE_LINKING) || now_us <= l->deadline_us)
        return false;
    bool any = false;
    for (uint32_t i = 0; i < l->place.n_member; i++) {
        uint32_t worker = l->place.members[i].worker;
        enum lane_role role = l->workers[worker].role;
        if (role == LANE_LOADER) {
            leave(l, worker, LANE_DROP, ERR_TIMEOUT, "did not load its layers in 10 minutes");
            any = true;
        } else if (role == LANE_LINKER) {
            strike(l, worker, ERR_TIMEOUT, "did not reach its next stage in 10 s", now_us);
            any = true;
        }
    }
    return any;
}

// The member that holds up the oldest step: of the first stage whose heartbeats do not all say that
// it is done, the one whose compute loop has stood longest (the others wait for it, also where it
// counts the step as done itself). If all say so and the result does not come, the one that sends
// it.
static uint32_t find_suspect(struct lane *l, uint64_t step, int64_t now_us)
{
    const struct place *p = &l->place;
    for (uint32_t i = 0; i < p->n_stage; i++) {
        const struct place_stage *s = &p->stages[i];
        const struct lane_worker *suspect = NULL;
        bool is_done = true;
        for (uint32_t k = s->first; k < s->first + s->n_member; k++) {
            const struct lane_worker *w = &l->workers[p->members[k].worker];
            is_done &= w->step_done >= step;
            if (!suspect || w->progress_us < suspect->progress_us) suspect = w;
        }
        if (is_done) continue;
        l->all_done_us = 0;
        return (uint32_t)(suspect - l->workers);
    }
    if (!l->all_done_us) l->all_done_us = now_us;
    return p->members[p->stages[p->n_stage - 1].first].worker;
}

static bool drop_stuck(struct lane *l, int64_t now_us)
{
    int64_t since;
    uint64_t step = l->state == LANE_READY ? lane_oldest(l, &since) : 0;
    if (!step) return false;
    int64_t age = now_us - since, usual = lane_median_us(l);
    if (age <= LANE_STEP_US || age <= 10 * usual) return false;

    uint32_t suspect = find_suspect(l, step, now_us);
    const char *how = NULL;
    if (l->all_done_us && now_us - l->all_done_us > LANE_STAND_US)
        how = "it says that the step is done but sent no result";
    else if (!l->all_done_us && now_us - l->workers[suspect].progress_us > LANE_STAND_US)
        how = "its compute loop stands still";
    else if (age > LANE_STEP_HARD_US && age > 30 * usual)
        how = "it moves but never finishes";
    if (!how) return false;
    struct err_text why;
    err_say(&why, ERR_TIMEOUT, "step %llu is %.1f s old (usual: %.3f s): %s",
            (unsigned long long)step, (double)age / 1e6, (double)usual / 1e6, how);
    leave(l, suspect, LANE_DROP, ERR_TIMEOUT, why.s);
    return true;
}

// A worker came while fewer than wanted serve: use it when nobody would notice.
static void widen_when_idle(struct lane *l, bool is_busy, int64_t now_us)
{
    if (l->state != LANE_READY || l->is_held || is_busy || !l->has_news ||
        l->step_done != l->step_sent)
        return;
    if (l->place.n_member >= l->config.n_wanted) {
        l->has_news = false;
        return;
    }
    struct place p;
    struct err_text why;
    if (choose(l, &p, &why) != OK || p.n_member <= l->place.n_member) return;
    end_epoch(l);
    adopt(l, &p, now_us);
}

void lane_tick(struct lane *l, bool is_busy, int64_t now_us)
{
    forgive_gap(l, now_us);
    bool lost_member = drop_silent(l, now_us) | l->is_torn;
    if (!lost_member) lost_member = drop_late(l, now_us) || drop_stuck(l, now_us);
    if (lost_member) {
        plan_anew(l, now_us);
        return;
    }
    if (l->state == LANE_NO_CAPACITY && !l->gave_up && now_us - l->since_us >= l->config.grace_us) {
        l->gave_up = true;
        act(l, LANE_GIVE_UP, 0);
    }
    widen_when_idle(l, is_busy, now_us);
}
