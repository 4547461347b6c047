// surveying: carries out what the survey of links decides, and lets first plans wait for it.
#include "coordinator/fleet/fleet_priv.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

void surveying_open(struct fleet *f)
{
    uint64_t first = 0;
    // Never short and never interrupted for so few bytes (getrandom(2)).
    if (getrandom(&first, sizeof first, 0) != sizeof first) BUG("getrandom");
    survey_init(&f->survey, first >> 1);
}

// The ports of one round know each other by one key.
static const uint8_t *key_of(struct fleet *f, uint64_t round)
{
    if (f->survey_round != round) {
        if (getrandom(f->survey_key, sizeof f->survey_key, 0) != sizeof f->survey_key)
            BUG("getrandom");
        f->survey_round = round;
    }
    return f->survey_key;
}

static void ask(struct fleet *f, const struct survey_action *a)
{
    const struct survey_worker *to = &f->survey.workers[a->to];
    const struct msg_target target = {
        .worker = a->to, .address = to->address, .n_address = to->n_address};
    const bool is_link = a->kind == SURVEY_ASK_LINK;
    struct msg m = {.kind = MSG_SURVEY,
                    .survey = {.round = a->round,
                               .road = a->kind == SURVEY_END ? 0 : ROAD_UCX,
                               .targets = is_link ? &target : NULL,
                               .n_target = is_link}};
    memcpy(m.survey.key, key_of(f, a->round), sizeof m.survey.key);
    fleet_tell(&f->workers[a->worker], &m);
}

static void tell(const struct fleet *f, const struct survey_action *a)
{
    const struct survey_link *l = &f->survey.links[a->worker][a->to];
    const char *from = f->workers[a->worker].hello.name, *to = f->workers[a->to].hello.name;
    if (l->state == SURVEY_BROKEN)
        log_error("the link from worker %s to worker %s delivers wrong bytes, and no plan uses it: "
                  "%s",
                  from, to, l->why);
    else
        log_warn("the link from worker %s to worker %s is not measured: %s", from, to, l->why);
}

static void carry_out(struct fleet *f, int64_t now_us)
{
    struct survey_action a;
    while (survey_next(&f->survey, now_us, &a)) {
        if (a.kind == SURVEY_TELL)
            tell(f, &a);
        else
            ask(f, &a);
    }
}

static void hold(struct fleet *f, int64_t now_us)
{
    const bool is_held = survey_holds(&f->survey, now_us);
    for (uint32_t i = 0; i < FLEET_LANES_MAX; i++) {
        if (!f->lanes[i].is_on) continue;
        lane_hold(&f->lanes[i].lane, is_held, now_us);
        orders_carry_out(&f->lanes[i]);
    }
}

// Measuring spins, and so disturbs whatever else computes.
static bool is_quiet(const struct fleet *f)
{
    const struct fleet_listener *up = &f->config.listener;
    for (uint32_t i = 0; i < FLEET_LANES_MAX; i++) {
        const enum lane_state s = f->lanes[i].lane.state;
        if (!f->lanes[i].is_on) continue;
        if (s == LANE_LOADING || s == LANE_LINKING) return false;
        if (s == LANE_READY && up->is_busy(up->arg, i)) return false;
    }
    return true;
}

void surveying_join(struct fleet_worker *w, int64_t now_us)
{
    struct fleet *f = w->fleet;
    const struct survey_facts facts = {.instance = w->hello.instance,
                                       .process = w->hello.process,
                                       .host = w->hello.host,
                                       .n_core = w->hello.devices[0].n_core};
    survey_join(&f->survey, w->number, &facts, now_us);
    hold(f, now_us);
}

void surveying_leave(struct fleet_worker *w)
{
    survey_leave(&w->fleet->survey, w->number);
}

err_t surveying_take(struct fleet_worker *w, const struct msg_surveyed *m, int64_t now_us,
                     struct err_text *why)
{
    struct fleet *f = w->fleet;
    err_t e = survey_heard(&f->survey, w->number, m, now_us, why);
    if (e) return e;
    carry_out(f, now_us);
    hold(f, now_us);
    return OK;
}

void surveying_tick(struct fleet *f, int64_t now_us)
{
    survey_tick(&f->survey, is_quiet(f), now_us);
    carry_out(f, now_us);
    hold(f, now_us);
}

const struct survey *fleet_survey(const struct fleet *f)
{
    return &f->survey;
}
