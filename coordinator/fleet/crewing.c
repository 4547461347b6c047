// crewing: which worker is in which lane.
//
//   joined --near at once (our own process or host), or by its round trips--> home lane
//     |  `--far, or it asks for it: if it can hold the model alone--> a lane of its own
//     |      else: a home lane, like a near one (links decide whether it gets a stage)
//     `-- until that is known it waits in the first home lane, without a part in plans
//
//   home lane --spare there, needed in another--> the other
//   any --drain: lane idle, or grace over--> dismissed: DRAIN is sent, the link's end forgets it
#include "coordinator/fleet/fleet_priv.h"
#include "proto/base/log.h"
#include "topology/plan.h"
#include <arpa/inet.h>
#include <math.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

enum { HOP_ANY_US = 60000000 };
enum { UNDEALT_US = 3000000 }; // a worker that tells no round trip counts as near after so long

// -- nearness --

// It is in this process, or reaches us through loopback.
static bool is_here(const struct fleet_worker *w)
{
    struct sockaddr_storage a;
    socklen_t len = sizeof a;
    if (getpeername(w->tether->fd, (struct sockaddr *)&a, &len)) return true; // no socket
    if (a.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)&a;
        return ntohl(in->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
    }
    if (a.ss_family != AF_INET6) return true;
    const struct in6_addr *in6 = &((const struct sockaddr_in6 *)&a)->sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(in6) || (IN6_IS_ADDR_V4MAPPED(in6) && in6->s6_addr[12] == 127);
}

// -- lanes --

static bool is_hand(const struct fleet_worker *w)
{
    return w->tether && w->is_dealt && w->has_model && !w->is_leaving;
}

static uint32_t hands(const struct fleet *f, uint32_t lane)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < LANE_WORKERS_MAX; i++)
        n += is_hand(&f->workers[i]) && f->workers[i].lane == lane;
    return n;
}

bool fleet_has_hands(const struct fleet *f)
{
    for (uint32_t i = 0; i < FLEET_LANES_MAX; i++)
        if (hands(f, i)) return true;
    return false;
}

static struct place_worker candidate(const struct fleet_worker *w)
{
    const struct msg_hello *h = &w->hello;
    const struct msg_device *d = &h->devices[0];
    return (struct place_worker){
        .number = w->number,
        .name = h->name,
        .host = h->host,
        .process = h->process,
        .roads = h->roads,
        .threads = d->threads,
        .has_cpu = strcmp(d->kind, "cpu") == 0,
        .mem_bytes = d->mem_bytes,
        .mem_free_bytes = w->mem_most_bytes ? w->mem_most_bytes : d->mem_free_bytes,
        .read_bytes_per_s = d->read_bytes_per_s,
        .int8_ops_per_s = d->int8_ops_per_s,
        .f32_flops_per_s = d->f32_flops_per_s,
        .n_core = d->n_core,
        .host_read_bytes_per_s = d->host_read_bytes_per_s,
        .rates = &d->rates,
        .trip_us = (double)w->trip_us,
        .held_from = h->held_from,
        .held_to = h->held_to,
        .held_embed = h->held_embed,
        .held_head = h->held_head,
    };
}

err_t crewing_place(const struct fleet *f, const struct place_want *want, const uint32_t *workers,
                    uint32_t n, struct place *out, struct err_text *why)
{
    struct place_worker candidates[LANE_WORKERS_MAX], beside[LANE_WORKERS_MAX];
    struct place_want all = *want;
    all.beside = beside;
    all.n_beside = 0;
    for (uint32_t i = 0; i < n; i++)
        candidates[i] = candidate(&f->workers[workers[i]]);
    for (uint32_t i = 0; n && i < LANE_WORKERS_MAX; i++)
        if (is_hand(&f->workers[i]) && f->workers[i].lane != f->workers[workers[0]].lane)
            beside[all.n_beside++] = candidate(&f->workers[i]);
    return place_make(&all, candidates, n, out, why);
}

static err_t place_lane(void *arg, const uint32_t *usable, uint32_t n, struct place *out,
                        struct err_text *why)
{
    return balancing_place(arg, usable, n, out, why);
}

// Sets up a lane for n workers.
static void shape(struct fleet_lane *fl, uint32_t n)
{
    fl->want = fl->fleet->config.want;
    fl->want.survey = &fl->fleet->survey;
    // Workers that are not too far for a lane are not too far from each other.
    const int64_t far_us = fl->fleet->config.far_us;
    fl->want.hop_us_max = far_us ? fmax((double)far_us / 2, PLAN_HOP_US) : HOP_ANY_US;
    if (fl->is_own) {
        fl->want.n_stage = 1;
        fl->want.split = SPLIT_NONE;
    }
    place_shape(&fl->want, n);
}

static void start(struct fleet_lane *fl, uint32_t n, int64_t now_us)
{
    shape(fl, n);
    const struct lane_config c = {.n_expect = n,
                                  .n_wanted = fl->want.n_stage * fl->want.n_member,
                                  .grace_us = fl->fleet->config.grace_us,
                                  .last_epoch = &fl->fleet->last_epoch,
                                  .place = place_lane,
                                  .place_arg = fl};
    lane_init(&fl->lane, &c, now_us);
    fl->is_on = true;
    fl->is_draining = false;
    fl->key_epoch = 0;
    fl->told_us = 0;
}

// How many workers home lane i waits for. Those that are lanes of their own were waited for too,
// but for those that we started ourselves.
static uint32_t expected(const struct fleet *f, uint32_t i)
{
    uint32_t n_own = 0, rest = f->config.n_expect;
    for (uint32_t k = f->config.n_lane; k < FLEET_LANES_MAX; k++)
        n_own += f->lanes[k].is_on;
    rest = rest > n_own ? rest - n_own : 0;
    if (rest < f->config.n_home) rest = f->config.n_home;
    const uint32_t n = rest / f->config.n_lane + (i < rest % f->config.n_lane);
    return n ? n : 1;
}

static void expect_anew(struct fleet *f, int64_t now_us)
{
    for (uint32_t i = 0; i < f->config.n_lane; i++) {
        struct fleet_lane *fl = &f->lanes[i];
        if (fl->lane.state != LANE_WAITING) continue;
        const uint32_t n = expected(f, i);
        shape(fl, n);
        lane_expect(&fl->lane, n, fl->want.n_stage * fl->want.n_member, now_us);
        orders_carry_out(fl);
    }
}

void crewing_open(struct fleet *f, int64_t now_us)
{
    for (uint32_t i = 0; i < FLEET_LANES_MAX; i++) {
        struct fleet_lane *fl = &f->lanes[i];
        fl->fleet = f;
        fl->number = i;
        fl->is_own = i >= f->config.n_lane;
        snprintf(fl->name, sizeof fl->name, "lane-%u", i);
        if (!fl->is_own) start(fl, expected(f, i), now_us);
    }
}

// -- dealing --

static void enter(struct fleet_worker *w, uint32_t lane, int64_t now_us)
{
    struct fleet_lane *fl = &w->fleet->lanes[lane];
    w->lane = lane;
    lane_join(&fl->lane, w->number, is_hand(w), now_us);
    orders_carry_out(fl);
}

static bool open_own(struct fleet_worker *w, int64_t now_us)
{
    struct fleet *f = w->fleet;
    struct fleet_lane *fl = NULL;
    for (uint32_t i = f->config.n_lane; i < FLEET_LANES_MAX && !fl; i++)
        if (!f->lanes[i].is_on) fl = &f->lanes[i];
    if (!fl || !w->has_model) return false;
    shape(fl, 1);
    struct place p;
    struct err_text why;
    if (crewing_place(f, &fl->want, &w->number, 1, &p, &why) != OK) {
        log_info("worker %s is no lane of its own: %s", w->hello.name, why.s);
        return false;
    }
    snprintf(fl->name, sizeof fl->name, "%s", w->hello.name);
    start(fl, 1, now_us);
    log_info("worker %s is a lane of its own%s (round trip %.1f ms)", w->hello.name,
             w->is_far ? ", far away" : "", (double)w->trip_us / 1e3);
    expect_anew(f, now_us);
    enter(w, fl->number, now_us);
    return true;
}

// Somebody in the lane holds layers that this worker holds too.
static bool doubles(const struct fleet_worker *w, uint32_t lane)
{
    for (uint32_t i = 0; i < LANE_WORKERS_MAX; i++) {
        const struct fleet_worker *o = &w->fleet->workers[i];
        if (o != w && is_hand(o) && o->lane == lane && o->hello.held_from < w->hello.held_to &&
            w->hello.held_from < o->hello.held_to)
            return true;
    }
    return false;
}

// What the lane's hands read in a second, all together: unequal workers make equal lanes where they
// can.
static double speed(const struct fleet *f, uint32_t lane, const struct fleet_worker *but)
{
    double sum = 0;
    for (uint32_t i = 0; i < LANE_WORKERS_MAX; i++)
        if (&f->workers[i] != but && is_hand(&f->workers[i]) && f->workers[i].lane == lane)
            sum += f->workers[i].hello.devices[0].read_bytes_per_s;
    return sum;
}

// The home lane with the fewest hands; of equals one to which its layers are new; of these the
// slowest.
static uint32_t home_for(const struct fleet_worker *w)
{
    const struct fleet *f = w->fleet;
    uint32_t best = 0, least = UINT32_MAX;
    for (uint32_t i = 0; i < f->config.n_lane; i++) {
        const uint32_t others = hands(f, i) - (is_hand(w) && w->lane == i);
        const uint32_t score = 4 * others + 2 * (uint32_t)doubles(w, i) +
                               (f->lanes[i].is_draining ? 4 * LANE_WORKERS_MAX : 0);
        if (score > least || (score == least && speed(f, i, w) >= speed(f, best, w))) continue;
        best = i;
        least = score;
    }
    return best;
}

static void deal(struct fleet_worker *w, int64_t now_us)
{
    w->is_dealt = true;
    if ((w->is_far || w->hello.own_lane) && open_own(w, now_us)) return;
    enter(w, home_for(w), now_us);
}

// The worker that waited in the first lane is dealt out.
static void deal_waiting(struct fleet_worker *w, int64_t now_us)
{
    lane_dismiss(&fleet_lane_of(w)->lane, w->number, now_us);
    deal(w, now_us);
}

void crewing_join(struct fleet_worker *w, bool is_back, int64_t now_us)
{
    if (is_back) {
        enter(w, w->lane, now_us);
    } else if (w->fleet->config.far_us == 0 || is_here(w)) {
        deal(w, now_us);
    } else {
        enter(w, 0, now_us);
    }
}

void crewing_trip(struct fleet_worker *w, int64_t trip_us, int64_t now_us)
{
    if (w->n_trip++ == 0 || trip_us < w->trip_us) w->trip_us = trip_us;
    if (w->is_dealt) return;
    const bool is_near = w->trip_us <= w->fleet->config.far_us;
    if (!is_near && w->n_trip < FLEET_BEATS_MIN) return;
    w->is_far = !is_near;
    deal_waiting(w, now_us);
}

// -- spare hands --

static bool is_spare(const struct fleet_worker *w)
{
    return is_hand(w) && fleet_lane_of(w)->lane.workers[w->number].role == LANE_STANDBY;
}

static bool is_short(const struct lane *l)
{
    return l->state == LANE_NO_CAPACITY ||
           (l->state == LANE_READY && l->place.n_member < l->config.n_wanted);
}

// A worker without a part in its lane that `to` could use better.
static struct fleet_worker *spare_for(struct fleet *f, const struct fleet_lane *to)
{
    for (uint32_t i = 0; i < LANE_WORKERS_MAX; i++) {
        struct fleet_worker *w = &f->workers[i];
        if (!is_spare(w) || w->lane == to->number || w->lane >= f->config.n_lane) continue;
        const struct lane *from = &fleet_lane_of(w)->lane;
        // Of two lanes that cannot serve the first one gathers the hands of both.
        const bool is_idle = from->state == LANE_NO_CAPACITY &&
                             (to->lane.state != LANE_NO_CAPACITY || w->lane > to->number);
        if (is_idle || (from->state == LANE_READY && !is_short(from))) return w;
    }
    return NULL;
}

static void share_hands(struct fleet *f, int64_t now_us)
{
    for (uint32_t i = 0; i < f->config.n_lane; i++) {
        struct fleet_lane *to = &f->lanes[i];
        if (to->is_draining || !is_short(&to->lane)) continue;
        struct fleet_worker *w = spare_for(f, to);
        if (!w) continue;
        log_info("worker %s goes from %s to %s", w->hello.name, fleet_lane_of(w)->name, to->name);
        lane_dismiss(&fleet_lane_of(w)->lane, w->number, now_us);
        enter(w, i, now_us);
    }
}

// -- memory --

// Plans may count on all of the worker's memory again; a lane that found no placement tries again.
static void trust_memory(struct fleet_worker *w, int64_t now_us)
{
    struct lane *l = &fleet_lane_of(w)->lane;
    if (!w->mem_most_bytes || now_us < w->mem_until_us) return;
    w->mem_most_bytes = 0;
    if (l->state != LANE_NO_CAPACITY || l->workers[w->number].role != LANE_STANDBY) return;
    lane_dismiss(l, w->number, now_us);
    enter(w, w->lane, now_us);
}

// -- leaving --

static void mark_leaving(struct fleet_worker *w, int64_t until_us)
{
    w->is_leaving = true;
    w->leave_us = until_us;
    fleet_lane_of(w)->is_draining = true;
    lane_spare(&fleet_lane_of(w)->lane, w->number);
}

err_t crewing_drain(struct fleet *f, const char *name, int64_t until_us, struct err_text *why)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < LANE_WORKERS_MAX; i++) {
        struct fleet_worker *w = &f->workers[i];
        if (!w->tether || w->is_leaving) continue;
        if (strcmp(w->hello.name, name) && strcmp(fleet_lane_of(w)->name, name)) continue;
        log_info("worker %s is being drained", w->hello.name);
        mark_leaving(w, until_us);
        n++;
    }
    if (n) return OK;
    return err_say(why, ERR_NOT_FOUND, "no worker or lane with workers is called %s", name);
}

static void dismiss(struct fleet_worker *w, int64_t now_us)
{
    struct fleet *f = w->fleet;
    struct fleet_lane *fl = fleet_lane_of(w);
    const struct msg m = {.kind = MSG_DRAIN};
    log_info("worker %s leaves %s", w->hello.name, fl->name);
    fleet_tell(w, &m);
    w->is_dismissed = true;
    w->leave_us = now_us;
    f->stats.drained++;
    fl->is_draining = false;
    for (uint32_t i = 0; i < LANE_WORKERS_MAX; i++)
        if (f->workers[i].tether && f->workers[i].lane == w->lane && f->workers[i].is_leaving &&
            !f->workers[i].is_dismissed)
            fl->is_draining = true;
    lane_dismiss(&fl->lane, w->number, now_us);
    orders_carry_out(fl);
}

static void let_go(struct fleet_worker *w, int64_t now_us)
{
    const struct fleet_listener *up = &w->fleet->config.listener;
    if (w->is_dismissed && now_us - w->leave_us > FLEET_PARTING_US)
        fleet_forget(w);
    else if (w->is_leaving && !w->is_dismissed &&
             (now_us >= w->leave_us || !up->is_busy(up->arg, w->lane)))
        dismiss(w, now_us);
}

static void close_empty(struct fleet *f, struct fleet_lane *fl)
{
    if (!fl->is_on || !fl->is_own) return;
    for (uint32_t i = 0; i < LANE_WORKERS_MAX; i++)
        if (f->workers[i].tether && f->workers[i].lane == fl->number && !f->workers[i].is_dismissed)
            return;
    log_info("lane %s is gone", fl->name);
    fl->is_on = false;
    balancing_close(fl);
    f->config.listener.on_close(f->config.listener.arg, fl->number);
}

void crewing_tick(struct fleet *f, int64_t now_us)
{
    for (uint32_t i = 0; i < LANE_WORKERS_MAX; i++) {
        struct fleet_worker *w = &f->workers[i];
        if (!w->tether) continue;
        if (!w->is_dealt && now_us - w->joined_us > UNDEALT_US) deal_waiting(w, now_us);
        trust_memory(w, now_us);
        let_go(w, now_us);
    }
    for (uint32_t i = 0; i < FLEET_LANES_MAX; i++)
        close_empty(f, &f->lanes[i]);
    share_hands(f, now_us);
}
