#include "coordinator/fleet/survey.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

// ---- links

static bool is_pair(const struct survey *s, uint32_t a, uint32_t b)
{
    return a != b && s->workers[a].is_here && s->workers[b].is_here;
}

static bool is_one_host(const struct survey *s, uint32_t a, uint32_t b)
{
    return strcmp(s->workers[a].host, s->workers[b].host) == 0;
}

// Of two on one host only the first measures, for both.
static bool is_asked(const struct survey *s, uint32_t from, uint32_t to)
{
    return is_pair(s, from, to) && s->links[from][to].state == SURVEY_DUE &&
           (from < to || !is_one_host(s, from, to));
}

static bool is_due(const struct survey *s, uint32_t worker)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (is_asked(s, worker, i) || is_asked(s, i, worker)) return true;
    return false;
}

static bool is_anything_due(const struct survey *s)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (s->workers[i].is_here && is_due(s, i)) return true;
    return false;
}

static bool is_measuring(const struct survey *s)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (s->workers[i].is_measuring) return true;
    return false;
}

// The clock of survey_holds starts when there is something to do and stops when all is done.
static void keep_since(struct survey *s, int64_t now_us)
{
    if (!is_anything_due(s))
        s->since_us = 0;
    else if (s->since_us == 0)
        s->since_us = now_us;
}

static void set_link(struct survey *s, uint32_t from, uint32_t to, const struct survey_link *l)
{
    s->links[from][to] = *l;
    if (!is_one_host(s, from, to)) return;
    s->links[to][from] = *l;
    s->links[to][from].is_told = true; // once is enough
}

static void fail_link(struct survey *s, uint32_t from, uint32_t to, enum survey_state state,
                      const char *why)
{
    struct survey_link l = {.state = state, .n_try = s->links[from][to].n_try};
    snprintf(l.why, sizeof l.why, "%s", why);
    set_link(s, from, to, &l);
}

static void clear_link(struct survey *s, uint32_t a, uint32_t b, enum survey_state state)
{
    const struct survey_link l = {.state = state,
                                  .latency_us = cluster_same_host.latency_us,
                                  .bytes_per_s = cluster_same_host.bytes_per_s,
                                  .transport = "local"};
    const struct survey_link none = {.state = state};
    s->links[a][b] = s->links[b][a] = state == SURVEY_SHARED ? l : none;
}

// ---- events

void survey_init(struct survey *s, uint64_t first_round)
{
    *s = (struct survey){.round = first_round ? first_round : 1};
    for (uint32_t i = 0; i < SURVEY_WORKERS_MAX; i++)
        s->workers[i].with = -1;
}

static void part(struct survey *s, uint32_t worker)
{
    struct survey_worker *w = &s->workers[worker];
    if (w->with < 0) return;
    struct survey_worker *other = &s->workers[w->with];
    w->with = other->with = -1;
    w->is_excused |= w->is_measuring;
    other->is_excused |= other->is_measuring;
    w->is_measuring = other->is_measuring = false;
}

static void mute(struct survey *s, uint32_t worker, const char *why)
{
    bool is_told = false; // one line says it for all its links
    s->workers[worker].port = SURVEY_MUTE;
    for (uint32_t i = 0; i < s->n; i++) {
        for (int way = 0; way < 2; way++) {
            const uint32_t from = way ? i : worker, to = way ? worker : i;
            if (!is_asked(s, from, to)) continue;
            fail_link(s, from, to, SURVEY_FAILED, why);
            s->links[from][to].is_told = is_told;
            is_told = true;
        }
    }
}

void survey_join(struct survey *s, uint32_t worker, const struct survey_facts *f, int64_t now_us)
{
    struct survey_worker *w = &s->workers[worker];
    const bool is_known = w->instance == f->instance && f->instance;
    if (worker >= s->n) s->n = worker + 1;
    w->is_here = true;
    w->port = SURVEY_CLOSED;
    w->with = -1;
    w->is_measuring = w->is_excused = false;
    w->instance = f->instance;
    w->process = f->process;
    w->n_core = f->n_core;
    snprintf(w->host, sizeof w->host, "%s", f->host);
    for (uint32_t i = 0; i < s->n; i++) {
        if (i == worker) continue;
        const enum survey_state there = s->links[worker][i].state;
        // What is known also of links to those that are not here now: they may come back.
        if (is_known && there != SURVEY_NONE && there != SURVEY_FAILED) continue;
        if (!s->workers[i].is_here)
            clear_link(s, worker, i, SURVEY_NONE);
        else
            clear_link(s, worker, i,
                       s->workers[i].process == f->process ? SURVEY_SHARED : SURVEY_DUE);
    }
    for (uint32_t i = 0; i < s->n; i++)
        if (s->workers[i].port == SURVEY_MUTE) mute(s, i, "it did not answer before");
    keep_since(s, now_us);
}

void survey_leave(struct survey *s, uint32_t worker)
{
    struct survey_worker *w = &s->workers[worker];
    // Ports that were connected to its port report failure from now on.
    s->is_stale |= w->port == SURVEY_OPEN;
    part(s, worker);
    w->is_here = false;
    w->port = SURVEY_CLOSED;
}

static void take_path(struct survey *s, uint32_t from, const struct msg_path *p)
{
    struct survey_link *l = &s->links[from][p->worker];
    if (l->state != SURVEY_DUE) return;
    l->n_try++;
    if (p->code == OK && p->bytes_per_s > 0) {
        struct survey_link got = {.state = SURVEY_MEASURED,
                                  .n_try = l->n_try,
                                  .latency_us = p->latency_us,
                                  .bytes_per_s = p->bytes_per_s};
        snprintf(got.transport, sizeof got.transport, "%s", p->transport ? p->transport : "");
        set_link(s, from, p->worker, &got);
        return;
    }
    const char *why = p->why && p->why[0] ? p->why : err_name(p->code);
    if (p->code == ERR_LINK_PROTOCOL) {
        fail_link(s, from, p->worker, SURVEY_BROKEN, why);
    } else if (l->n_try >= SURVEY_TRIES) {
        fail_link(s, from, p->worker, SURVEY_FAILED, why);
    } else {
        // A port may suffer from a peer that is none of the two: with fresh ones it is seen.
        s->is_stale = true;
    }
}

static err_t take_port(struct survey *s, uint32_t worker, const struct msg_surveyed *m,
                       struct err_text *why)
{
    struct survey_worker *w = &s->workers[worker];
    if (w->port == SURVEY_MUTE) return OK; // too late
    if (w->port != SURVEY_ASKED)
        return err_say(why, ERR_LINK_PROTOCOL, "surveyed: nobody asked for an address");
    if (m->n_address == 0) {
        mute(s, worker, "it cannot open a data port");
        return OK;
    }
    memcpy(w->address, m->address, m->n_address);
    w->n_address = m->n_address;
    w->port = SURVEY_OPEN;
    return OK;
}

err_t survey_heard(struct survey *s, uint32_t worker, const struct msg_surveyed *m, int64_t now_us,
                   struct err_text *why)
{
    struct survey_worker *w = &s->workers[worker];
    if (m->round != s->round || !w->is_here) return OK;
    err_t e = OK;
    if (m->n_path == 0) {
        e = take_port(s, worker, m, why);
    } else if (w->is_measuring && m->n_path == 1 && m->paths[0].worker == (uint32_t)w->with) {
        take_path(s, worker, &m->paths[0]);
        part(s, worker);
        w->is_excused = false;
    } else if (w->is_excused) {
        w->is_excused = false;
    } else if (w->port != SURVEY_MUTE) {
        e = err_say(why, ERR_LINK_PROTOCOL, "surveyed: nobody asked for these %u paths", m->n_path);
    }
    keep_since(s, now_us);
    return e;
}

void survey_tick(struct survey *s, bool may_run, int64_t now_us)
{
    s->may_run = may_run;
    for (uint32_t i = 0; i < s->n; i++) {
        struct survey_worker *w = &s->workers[i];
        if (!w->is_here || now_us < w->deadline_us) continue;
        if (w->port == SURVEY_ASKED || w->is_measuring || w->is_excused) {
            part(s, i);
            mute(s, i, "it did not answer");
        }
    }
    keep_since(s, now_us);
}

// ---- what to do next

static bool next_untold(struct survey *s, struct survey_action *out)
{
    for (uint32_t i = 0; i < s->n; i++) {
        for (uint32_t k = 0; k < s->n; k++) {
            struct survey_link *l = &s->links[i][k];
            if (l->is_told || (l->state != SURVEY_FAILED && l->state != SURVEY_BROKEN)) continue;
            if (!is_pair(s, i, k)) continue;
            l->is_told = true;
            *out = (struct survey_action){.kind = SURVEY_TELL, .worker = i, .to = k};
            return true;
        }
    }
    return false;
}

// The end of a round: ports of this one are closed, or, if it is stale, forgotten: opening a new
// one closes them.
static bool next_end(struct survey *s, struct survey_action *out)
{
    if (!s->is_open) return false;
    for (uint32_t i = 0; i < s->n; i++) {
        struct survey_worker *w = &s->workers[i];
        if (!w->is_here || w->port != SURVEY_OPEN) continue;
        w->port = SURVEY_CLOSED;
        *out = (struct survey_action){.kind = SURVEY_END, .worker = i, .round = s->round};
        return true;
    }
    s->round++;
    s->is_open = s->is_stale = false;
    for (uint32_t i = 0; i < s->n; i++) { // answers to come are of the old round
        s->workers[i].is_excused = false;
        if (s->workers[i].port == SURVEY_ASKED) s->workers[i].port = SURVEY_CLOSED;
    }
    return false;
}

static bool next_port(struct survey *s, int64_t now_us, struct survey_action *out)
{
    for (uint32_t i = 0; i < s->n; i++) {
        struct survey_worker *w = &s->workers[i];
        if (!w->is_here || w->port != SURVEY_CLOSED || !is_due(s, i)) continue;
        s->is_open = true;
        w->port = SURVEY_ASKED;
        w->deadline_us = now_us + SURVEY_PORT_US;
        *out = (struct survey_action){.kind = SURVEY_ASK_PORT, .worker = i, .round = s->round};
        return true;
    }
    return false;
}

// Both ends of a measurement spin: on a host with fewer cores than ends they would measure each
// other's turns.
static bool has_cores(const struct survey *s, uint32_t a, uint32_t b)
{
    uint32_t n = is_one_host(s, a, b) ? 2 : 1, most = 2;
    for (uint32_t i = 0; i < s->n; i++) {
        const struct survey_worker *w = &s->workers[i];
        if (!w->is_here || strcmp(w->host, s->workers[a].host) != 0) continue;
        n += w->with >= 0;
        if (w->n_core > most) most = w->n_core;
    }
    return n <= most;
}

static bool is_idle(const struct survey_worker *w)
{
    return w->is_here && w->port == SURVEY_OPEN && w->with < 0 && !w->is_excused;
}

static bool next_link(struct survey *s, int64_t now_us, struct survey_action *out)
{
    for (uint32_t i = 0; i < s->n; i++) {
        for (uint32_t k = 0; is_idle(&s->workers[i]) && k < s->n; k++) {
            if (!is_idle(&s->workers[k]) || !is_asked(s, i, k)) continue;
            if (!has_cores(s, i, k) || !has_cores(s, k, i)) continue;
            s->workers[i].with = (int32_t)k;
            s->workers[k].with = (int32_t)i;
            s->workers[i].is_measuring = true;
            s->workers[i].deadline_us = now_us + SURVEY_LINK_US;
            *out = (struct survey_action){
                .kind = SURVEY_ASK_LINK, .worker = i, .to = k, .round = s->round};
            return true;
        }
    }
    return false;
}

bool survey_next(struct survey *s, int64_t now_us, struct survey_action *out)
{
    if (next_untold(s, out)) return true;
    const bool is_over = s->is_stale || !is_anything_due(s);
    if (!is_measuring(s) && is_over && next_end(s, out)) return true;
    if (!s->may_run || s->is_stale) return false;
    return next_port(s, now_us, out) || next_link(s, now_us, out);
}

// ---- what is known

bool survey_holds(const struct survey *s, int64_t now_us)
{
    return s->since_us && now_us - s->since_us < SURVEY_HOLD_US;
}

static double in_steps(double v)
{
    return v > 0 ? exp2(round(log2(v) * 4) / 4) : 0;
}

bool survey_link(const struct survey *s, uint32_t from, uint32_t to, struct cluster_link *out)
{
    const struct survey_link *l = &s->links[from][to];
    if (!is_pair(s, from, to)) return false;
    if (l->state == SURVEY_BROKEN)
        *out = (struct cluster_link){0, 0};
    else if (l->state == SURVEY_SHARED)
        *out = (struct cluster_link){l->latency_us, l->bytes_per_s};
    else if (l->state == SURVEY_MEASURED)
        *out = (struct cluster_link){in_steps(l->latency_us), in_steps(l->bytes_per_s)};
    else
        return false;
    return true;
}

const char *survey_state_name(enum survey_state s)
{
    static const char *const names[] = {"none",     "due",    "one process",
                                        "measured", "failed", "broken"};
    return names[s];
}
