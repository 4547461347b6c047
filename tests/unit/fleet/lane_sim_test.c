// The lane against random histories: workers crash, freeze, stall, fail, break the protocol, lose
// their links and come back, with delays on every message. Time, network and workers are made up,
// so a seed gives the same history every time. Ten thousand seeds, two
// under sanitizers; SIM_SEEDS and SIM_FIRST change which.
//
// What must hold: epochs only grow; a plan's messages go to connected workers only; steps are sent
// and results taken only while the lane serves, each once and in order; and when the faults end,
// the lane serves again if enough workers are there, and every request was answered or given up,
// once.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/sanitized.h"
#include "coordinator/fleet/lane.h"

enum { WORKERS = 5, LAYERS = 12, TICK_US = 25000, QUEUE = 512, S = 1000000, IN_FLIGHT = 3 };

struct note {
    int64_t at_us; // arrives then
    enum msg_kind kind;
    uint64_t epoch, number;
    bool is_close;
};
struct wire_end {
    struct note notes[QUEUE];
    uint32_t from, to;
    int64_t last_us;
};

struct worker {
    bool is_up;      // the process lives
    bool is_linked;  // it believes so
    bool is_known;   // the coordinator believes so
    bool is_stalled; // its compute loop stands
    bool fails_plan, fails_step, lies;
    int64_t back_us;   // next dial
    int64_t frozen_us; // until
    int64_t load_us;   // PREPARED then; 0: not loading
    int64_t beat_us;
    uint32_t room; // layers it can take
    bool has_lied;
    uint64_t epoch, step_got, step_done, progress;
    uint64_t prepared;               // epoch that PREPARED was said for
    uint32_t stage, n_stage, before; // before: the lead of the previous stage
    uint32_t partner;                // the other member of the stage, or itself
    bool is_lead;
    bool is_serving;
    struct wire_end in, out;
};

struct sim {
    uint64_t random;
    int64_t now;
    struct lane lane;
    struct worker workers[WORKERS];
    uint64_t epochs, epoch_seen;
    bool is_serving;
    bool has_groups;                                      // stages may be of two workers
    uint64_t step_sent, step_done;                        // of the epoch that serves
    uint32_t n_open, n_submitted, n_answered, n_given_up; // units of work
    uint32_t n_serve, n_drop;
};

static uint64_t roll(struct sim *s, uint64_t n)
{
    s->random += 0x9e3779b97f4a7c15u;
    uint64_t z = s->random;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (z ^ (z >> 31)) % n;
}

static void put(struct sim *s, struct wire_end *r, struct note n)
{
    if (r->to - r->from == QUEUE)
        return; // a full road loses nothing that matters: the peer is dead
    n.at_us = s->now + 1000 + (int64_t)roll(s, 50000);
    if (n.at_us < r->last_us) n.at_us = r->last_us; // in order
    r->last_us = n.at_us;
    r->notes[r->to++ % QUEUE] = n;
}

static bool next(struct sim *s, struct wire_end *r, struct note *out)
{
    if (r->from == r->to || r->notes[r->from % QUEUE].at_us > s->now) return false;
    *out = r->notes[r->from++ % QUEUE];
    return true;
}

// -- placement: contiguous, by room --

static uint32_t room_of(const struct sim *s, const uint32_t *workers, uint32_t n)
{
    uint32_t room = 0;
    for (uint32_t i = 0; i < n; i++)
        room += s->workers[workers[i]].room;
    return room;
}

static err_t place(void *arg, const uint32_t *workers, uint32_t n, struct place *out,
                   struct err_text *why)
{
    struct sim *s = arg;
    memset(out, 0, sizeof *out);
    uint32_t most = n < s->lane.config.n_wanted ? n : s->lane.config.n_wanted;
    if (room_of(s, workers, most) < LAYERS) {
        most = n; // more stages than wanted rather than none
        if (room_of(s, workers, n) < LAYERS) return err_say(why, ERR_CAPACITY, "no room");
    }
    for (uint32_t i = 0, at = 0; i < most && at < LAYERS;) {
        // Two in a row that have room for the same layers may share them.
        uint32_t left = LAYERS - at, room = s->workers[workers[i]].room;
        uint32_t share = left < room ? left : room, m = 1;
        if (s->has_groups && i + 1 < most && s->workers[workers[i + 1]].room >= share &&
            (room_of(s, workers + i + 2, most - i - 2) >= left - share))
            m = 2;
        out->stages[out->n_stage] = (struct place_stage){
            .layer_from = at, .layer_to = at + share, .first = out->n_member, .n_member = m};
        for (uint32_t k = 0; k < m; k++)
            out->members[out->n_member++] =
                (struct place_member){.worker = workers[i++], .stage = out->n_stage};
        out->n_stage++;
        at += share;
    }
    return OK;
}

// -- the coordinator's end --

static void drain(struct sim *s)
{
    struct lane_action a;
    while (lane_next(&s->lane, &a)) {
        struct worker *w = &s->workers[a.worker];
        switch (a.kind) {
        case LANE_SEND_PLAN:
            assert_true(s->lane.epoch >= s->epoch_seen);
            s->epoch_seen = s->lane.epoch;
            // fall through
        case LANE_SEND_CONNECT:
            assert_true(w->is_known);
            assert_false(s->is_serving);
            put(s, &w->in,
                (struct note){.kind = a.kind == LANE_SEND_PLAN ? MSG_PLAN : MSG_CONNECT,
                              .epoch = s->lane.epoch});
            break;
        case LANE_DROP:
        case LANE_LEFT:
            assert_true(w->is_known);
            if (a.kind == LANE_DROP && a.code == ERR_LINK_PROTOCOL) assert_true(w->has_lied);
            w->is_known = false;
            s->n_drop += a.kind == LANE_DROP;
            put(s, &w->in, (struct note){.is_close = true});
            break;
        case LANE_STRUCK:
            break;
        case LANE_SUSPEND:
            assert_true(s->is_serving);
            s->is_serving = false;
            break;
        case LANE_SERVE:
            assert_false(s->is_serving);
            assert_int_equal(s->lane.epoch, s->epoch_seen);
            for (uint32_t i = 0; i < s->lane.place.n_member; i++)
                assert_true(s->workers[s->lane.place.members[i].worker].is_known);
            s->is_serving = true;
            s->step_sent = s->step_done = 0;
            s->n_serve++;
            break;
        case LANE_GIVE_UP:
            s->n_given_up += s->n_open;
            s->n_open = 0;
            break;
        }
    }
}

static void hear(struct sim *s, uint32_t i, const struct note *n)
{
    struct worker *w = &s->workers[i];
    struct lane *l = &s->lane;
    if (n->kind == MSG_HELLO) {
        if (w->is_known) {
            lane_replaced(l, i, "again");
            drain(s);
            w->in.from = w->in.to; // the close was for the old connection
        }
        w->is_known = true;
        lane_join(l, i, true, s->now);
        drain(s);
        return;
    }
    if (!w->is_known) return; // of a link that was closed
    struct msg_heartbeat beat = {
        .epoch = n->epoch, .progress = n->number, .step_done = w->step_done};
    struct msg_prepared prepared = {.epoch = n->epoch, .settings = l->place.settings};
    struct msg_linked linked = {.epoch = n->epoch};
    struct msg_failed failed = {.epoch = n->epoch, .code = ERR_SYSTEM, .why = "sim"};
    if (n->is_close)
        lane_lost(l, i, "closed", s->now);
    else if (n->kind == MSG_HEARTBEAT)
        lane_beat(l, i, &beat, s->now);
    else if (n->kind == MSG_PREPARED)
        lane_prepared(l, i, &prepared, s->now);
    else if (n->kind == MSG_LINKED)
        lane_linked(l, i, &linked, s->now);
    else if (n->kind == MSG_FAILED)
        lane_failed(l, i, &failed, s->now);
    else if (n->kind == MSG_RESULT && lane_result(l, i, n->epoch, n->number, s->now)) {
        assert_true(s->is_serving);
        assert_int_equal(n->epoch, l->epoch);
        assert_int_equal(n->number, s->step_done + 1);
        s->step_done++;
        if (s->n_open > 0) {
            s->n_open--;
            s->n_answered++;
        }
    }
    drain(s);
}

static void send_steps(struct sim *s)
{
    while (s->is_serving && s->n_open > s->step_sent - s->step_done &&
           s->step_sent - s->step_done < IN_FLIGHT) {
        lane_sent(&s->lane, ++s->step_sent, s->now);
        for (uint32_t i = 0; i < s->lane.place.n_member; i++)
            put(s, &s->workers[s->lane.place.members[i].worker].in,
                (struct note){.kind = MSG_STEP, .epoch = s->lane.epoch, .number = s->step_sent});
    }
}

// -- the workers' end --

static void say(struct sim *s, struct worker *w, enum msg_kind kind, uint64_t number)
{
    put(s, &w->out, (struct note){.kind = kind, .epoch = w->epoch, .number = number});
}

static void lose_link(struct sim *s, struct worker *w)
{
    w->is_linked = w->is_serving = false;
    w->load_us = 0;
    w->in.from = w->in.to;
    w->back_us = s->now + 200000 + (int64_t)roll(s, 2 * S);
}

static void die(struct sim *s, struct worker *w)
{
    w->is_up = w->is_stalled = false;
    put(s, &w->out, (struct note){.is_close = true});
    lose_link(s, w);
    w->epoch = 0;
}

// Where the worker stands in the current plan.
static void take_post(struct sim *s, struct worker *w)
{
    const struct place *p = &s->lane.place;
    for (uint32_t i = 0; i < p->n_member; i++) {
        if (&s->workers[p->members[i].worker] != w) continue;
        const struct place_stage *st = &p->stages[p->members[i].stage];
        w->stage = p->members[i].stage;
        w->n_stage = p->n_stage;
        w->is_lead = i == st->first;
        w->before = w->stage ? p->members[p->stages[w->stage - 1].first].worker : 0;
        w->partner = (uint32_t)(w - s->workers);
        if (st->n_member == 2) w->partner = p->members[2 * st->first + 1 - i].worker;
    }
}

static void listen(struct sim *s, struct worker *w)
{
    struct note n;
    while (w->is_linked && next(s, &w->in, &n)) {
        if (n.is_close) {
            if (w->is_stalled)
                w->is_up = w->is_stalled = false; // whoever finds it stuck restarts it
            lose_link(s, w);
            return;
        }
        if (n.epoch < w->epoch) continue;
        switch (n.kind) {
        case MSG_PLAN:
            w->epoch = n.epoch;
            w->is_serving = false;
            w->step_got = w->step_done = 0;
            if (w->fails_plan) {
                say(s, w, MSG_FAILED, 0);
                w->fails_plan = roll(s, 2);
                break;
            }
            w->load_us = s->now + (int64_t)roll(s, 3 * S) + 1;
            break;
        case MSG_CONNECT: // stages are told to the simulated worker by the plan that is current
            if (n.epoch == s->lane.epoch) take_post(s, w);
            assert_int_equal(n.epoch, w->prepared);
            w->is_serving = true;
            say(s, w, MSG_LINKED, 0);
            break;
        case MSG_STEP:
            w->step_got = n.number;
            break;
        default:
            break;
        }
    }
}

static void compute(struct sim *s, struct worker *w)
{
    if (!w->is_serving || w->is_stalled || w->step_done >= w->step_got) return;
    const struct worker *before = &s->workers[w->before];
    if (w->stage && (before->epoch != w->epoch || before->step_done <= w->step_done)) return;
    // They hand each other pieces all the time: nobody gets ahead of one that stands.
    const struct worker *partner = &s->workers[w->partner];
    if (partner->epoch != w->epoch || !partner->is_serving || partner->is_stalled ||
        partner->step_done < w->step_done)
        return;
    if (w->fails_step) {
        w->fails_step = false;
        say(s, w, MSG_FAILED, 0);
        return;
    }
    w->step_done++;
    if (w->lies) {
        w->lies = false;
        w->has_lied = true;
        w->epoch += roll(s, 2); // the future, or a stage that may not answer
        say(s, w, MSG_RESULT, w->step_done + roll(s, 2));
    } else if (w->stage + 1 == w->n_stage && w->is_lead)
        say(s, w, MSG_RESULT, w->step_done);
}

static void work(struct sim *s, struct worker *w)
{
    if (!w->is_up || !w->is_linked) {
        if (s->now < w->back_us || s->now < w->frozen_us) return;
        w->is_up = w->is_linked = true;
        w->in.from = w->in.to;
        w->beat_us = s->now;
        w->is_serving = false;
        say(s, w, MSG_HELLO, 0);
        return;
    }
    if (s->now < w->frozen_us) return;
    listen(s, w);
    if (!w->is_linked) return;
    if (w->load_us && s->now >= w->load_us) {
        w->load_us = 0;
        say(s, w, MSG_PREPARED, 0);
        w->prepared = w->epoch;
    }
    compute(s, w);
    w->progress += !w->is_stalled;
    if (s->now - w->beat_us >= 250000) {
        w->beat_us = s->now;
        say(s, w, MSG_HEARTBEAT, w->progress);
    }
}

static void hurt(struct sim *s)
{
    struct worker *w = &s->workers[roll(s, WORKERS)];
    if (!w->is_up) return;
    switch (roll(s, 8)) {
    case 0:
        die(s, w);
        break;
    case 1:
        w->frozen_us = s->now + (int64_t)roll(s, 10 * S);
        break;
    case 2:
        w->is_stalled = true;
        break;
    case 3:
        w->fails_plan = true;
        break;
    case 4:
        w->fails_step = true;
        break;
    case 5:
        w->lies = true;
        break;
    case 6: // the network drops the link; each side hears of it on its own
        put(s, &w->out, (struct note){.is_close = true});
        put(s, &w->in, (struct note){.is_close = true});
        break;
    case 7:
        s->now += (int64_t)roll(s, 6 * S);
        break; // the coordinator stands still itself
    }
}

static void turn(struct sim *s)
{
    s->now += TICK_US;
    for (uint32_t i = 0; i < WORKERS; i++)
        work(s, &s->workers[i]);
    for (uint32_t i = 0; i < WORKERS; i++) {
        struct note n;
        while (next(s, &s->workers[i].out, &n))
            hear(s, i, &n);
    }
    if (s->now / TICK_US % 5 == 0) {
        lane_tick(&s->lane, s->n_open > 0, s->now);
        drain(s);
    }
    send_steps(s);
}

static void heal(struct sim *s)
{
    for (uint32_t i = 0; i < WORKERS; i++) {
        struct worker *w = &s->workers[i];
        w->fails_plan = w->fails_step = w->lies = false;
        if (w->frozen_us > s->now) w->frozen_us = s->now;
        // A worker that was put out waits for somebody to start it again.
        if (w->is_up && s->lane.workers[i].role == LANE_OUT) die(s, w);
    }
}

static void run_seed(uint64_t seed, uint64_t totals[4])
{
    struct sim *s = calloc(1, sizeof *s);
    assert_non_null(s);
    s->random = seed;
    s->now = S;
    s->has_groups = roll(s, 2);
    for (uint32_t i = 0; i < WORKERS; i++) {
        s->workers[i].room = 3 + (uint32_t)roll(s, 8);
        s->workers[i].back_us = s->now + (int64_t)roll(s, 2 * S);
    }
    struct lane_config c = {.n_expect = 1 + (uint32_t)roll(s, WORKERS),
                            .n_wanted = 1 + (uint32_t)roll(s, 4),
                            .grace_us = 5 * S,
                            .last_epoch = &s->epochs,
                            .place = place,
                            .place_arg = s};
    lane_init(&s->lane, &c, s->now);
    uint64_t rate = 20 + roll(s, 200);
    while (s->now < 60 * S) {
        if (roll(s, rate) == 0) hurt(s);
        if (roll(s, 4) == 0) {
            s->n_open++;
            s->n_submitted++;
        }
        turn(s);
    }
    heal(s);
    for (int64_t end = s->now + 60 * S; s->now < end;) {
        // Those that the last faults put out are started again as well.
        if (s->now > end - 30 * S && s->now <= end - 30 * S + TICK_US) heal(s);
        turn(s);
    }
    uint32_t all[WORKERS] = {0, 1, 2, 3, 4};
    if (room_of(s, all, WORKERS) >= LAYERS) {
        assert_int_equal(s->lane.state, LANE_READY);
        assert_int_equal(lane_n_usable(&s->lane), WORKERS);
        assert_int_equal(s->n_open, 0);
    } else {
        assert_int_equal(s->lane.state, LANE_NO_CAPACITY);
    }
    assert_int_equal(s->n_submitted, s->n_answered + s->n_given_up + s->n_open);
    totals[0] += s->n_serve;
    totals[1] += s->n_drop;
    totals[2] += s->n_answered;
    totals[3] += s->n_given_up;
    free(s);
}

static uint64_t setting(const char *name, uint64_t usual)
{
    const char *v = getenv(name);
    return v ? strtoull(v, NULL, 10) : usual;
}

static uint64_t current_seed;

static void test_random_histories(void **state)
{
    (void)state;
    uint64_t first = setting("SIM_FIRST", 1), n = setting("SIM_SEEDS", SANITIZED ? 2000 : 10000),
             totals[4] = {0};
    for (uint64_t i = 0; i < n; i++) {
        current_seed = first + i;
        run_seed(current_seed, totals);
    }
    print_message("%llu seeds: served %llu times, dropped %llu workers, answered %llu units, gave "
                  "up %llu\n",
                  (unsigned long long)n, (unsigned long long)totals[0],
                  (unsigned long long)totals[1], (unsigned long long)totals[2],
                  (unsigned long long)totals[3]);
}

static int say_seed(void **state)
{
    (void)state;
    print_message("last seed: %llu\n", (unsigned long long)current_seed);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_random_histories, say_seed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
