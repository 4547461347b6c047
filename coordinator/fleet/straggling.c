// straggling: names workers that have become much slower than the plan took them for. The workers
// of a lane all see the same steps; so how long each worked, divided by what was planned for it, is
// compared with the others'. What a member of a group has to do with experts follows from how often
// its experts were chosen.
#include "coordinator/fleet/fleet_priv.h"
#include "proto/base/log.h"

static const double SLOW = 2, FINE = 1.5; // a worker between the two stays what it was
// It holds the others up only while it works for most of the time.
static const double BUSY = 0.5;
enum { LOOK_US = 10000000 }; // of load, between two looks

static double median_of_others(const double *ratios, uint32_t n, uint32_t at)
{
    double sorted[LANE_WORKERS_MAX];
    uint32_t n_other = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (i == at) continue;
        uint32_t k = n_other++;
        for (; k > 0 && sorted[k - 1] > ratios[i]; k--)
            sorted[k] = sorted[k - 1];
        sorted[k] = ratios[i];
    }
    return n_other ? sorted[(n_other - 1) / 2] : 0;
}

double straggling_factor(const double *ratios, uint32_t n, uint32_t at)
{
    const double others = median_of_others(ratios, n, at);
    return others > 0 ? ratios[at] / others : 0;
}

static void judge(struct fleet_worker *w, double factor, double busy)
{
    const bool was_slow = w->slow_factor > 0;
    const bool is_slow = factor > (was_slow ? FINE : SLOW) && busy > BUSY;
    w->slow_factor = is_slow ? factor : 0;
    if (is_slow == was_slow) return;
    const char *lane = fleet_lane_of(w)->name;
    if (is_slow)
        log_warn("%s: worker %s takes %.1f times as long over its part of a step as the plan says, "
                 "by the other workers of the lane",
                 lane, w->hello.name, factor);
    else
        log_info("%s: worker %s is about as fast as the plan says again", lane, w->hello.name);
}

static bool is_comparable(const struct place *p)
{
    return p->n_member > 1 && p->n_member <= LANE_WORKERS_MAX;
}

// Microseconds of each member's own work in a step of one row.
static void expect(const struct fleet_lane *fl, double *out)
{
    const struct place *p = &fl->lane.place;
    double parts[LANE_WORKERS_MAX];
    const bool is_counted = balancing_parts(fl, parts);
    for (uint32_t i = 0; i < p->n_member; i++) {
        const struct place_member *m = &p->members[i];
        out[i] = m->decode_us;
        if (is_counted && m->expert_part > 0)
            out[i] += m->expert_us * (parts[i] / m->expert_part - 1);
    }
}

void straggling_count(struct fleet_worker *w, uint64_t work_us, uint64_t span_us)
{
    w->recent_work_us += work_us;
    w->recent_span_us += span_us;
}

void straggling_reset(struct fleet_worker *w)
{
    w->recent_work_us = w->recent_span_us = 0;
    w->slow_factor = 0;
}

void straggling_tick(struct fleet_lane *fl)
{
    const struct place *p = &fl->lane.place;
    struct fleet *f = fl->fleet;
    double ratios[LANE_WORKERS_MAX], expected_us[LANE_WORKERS_MAX];
    if (fl->lane.state != LANE_READY || !is_comparable(p)) return;
    expect(fl, expected_us);
    for (uint32_t i = 0; i < p->n_member; i++) {
        const struct fleet_worker *w = &f->workers[p->members[i].worker];
        if (!w->tether || w->recent_span_us < LOOK_US) return;
        // Whose experts nobody chose tells nothing.
        ratios[i] = expected_us[i] > 0
                        ? (double)w->recent_work_us / (double)w->recent_span_us / expected_us[i]
                        : 0;
    }
    for (uint32_t i = 0; i < p->n_member; i++) {
        struct fleet_worker *w = &f->workers[p->members[i].worker];
        const double busy = (double)w->recent_work_us / (double)w->recent_span_us;
        judge(w, straggling_factor(ratios, p->n_member, i), busy);
    }
    for (uint32_t i = 0; i < p->n_member; i++) {
        struct fleet_worker *w = &f->workers[p->members[i].worker];
        w->recent_work_us = w->recent_span_us = 0;
    }
}
