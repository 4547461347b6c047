// balancing: keeps the use of a lane's experts, and the table of who computes which that follows
// from it. A new table goes with a new epoch, so it waits for a moment without requests. It holds
// for the groups it was made for: when other workers make up the lane, their parts decide again.
#include "coordinator/fleet/fleet_priv.h"
#include "coordinator/fleet/usage.h"
#include "proto/base/log.h"
#include <stdlib.h>
#include <string.h>

#define PAUSE_US ((int64_t)30 * 1000000) // between looks
static const double least_mean = 64;     // products of the average expert: else chance decides
static const double least_gain = 0.15;   // a new epoch costs a pause

struct balance {
    struct usage *usage;
    struct arena arenas[2]; // of the table in use, and of the next one
    int at;
    struct share_experts table; // n_layer 0: none
    struct place made_for;
    int64_t next_us;
};

static struct balance *open_balance(struct fleet_lane *fl, struct err_text *why)
{
    if (fl->balance) return fl->balance;
    struct balance *b = calloc(1, sizeof *b);
    if (!b || usage_open(fl->want.model, &b->usage, why)) {
        free(b);
        err_say(why, ERR_MEMORY, "no memory for the use of experts");
        return NULL;
    }
    arena_init(&b->arenas[0], 0);
    arena_init(&b->arenas[1], 0);
    return fl->balance = b;
}

void balancing_close(struct fleet_lane *fl)
{
    struct balance *b = fl->balance;
    if (!b) return;
    usage_close(b->usage);
    arena_fini(&b->arenas[0]);
    arena_fini(&b->arenas[1]);
    free(b);
    fl->balance = NULL;
}

err_t balancing_take(struct fleet_worker *w, const struct msg_usage *m, int64_t now_us,
                     struct err_text *why)
{
    struct fleet_lane *fl = fleet_lane_of(w);
    if (m->epoch != fl->lane.epoch || !lane_is_member(&fl->lane, w->number)) return OK;
    struct balance *b = open_balance(fl, why);
    if (!b) {
        log_warn("%s: %s", fl->name, why->s); // no fault of the worker's
        return OK;
    }
    return usage_add(b->usage, m, now_us, why);
}

// -- placing with a table --

static bool is_same_stage(const struct place_stage *a, const struct place_stage *b)
{
    return a->layer_from == b->layer_from && a->layer_to == b->layer_to && a->split == b->split &&
           a->first == b->first && a->n_member == b->n_member;
}

// The same workers with the same parts of the same layers.
static bool is_same(const struct place *a, const struct place *b)
{
    if (a->n_stage != b->n_stage || a->n_member != b->n_member) return false;
    for (uint32_t i = 0; i < a->n_stage; i++)
        if (!is_same_stage(&a->stages[i], &b->stages[i])) return false;
    for (uint32_t i = 0; i < a->n_member; i++)
        if (a->members[i].worker != b->members[i].worker ||
            a->members[i].part != b->members[i].part)
            return false;
    return true;
}

err_t balancing_place(struct fleet_lane *fl, const uint32_t *workers, uint32_t n, struct place *out,
                      struct err_text *why)
{
    struct balance *b = fl->balance;
    struct place_want want = fl->want;
    want.experts = NULL;
    if (b && b->table.n_layer) {
        struct err_text unused;
        want.experts = &b->table;
        if (!crewing_place(fl->fleet, &want, workers, n, out, &unused) &&
            is_same(out, &b->made_for))
            return OK;
        log_info("%s: its groups changed: experts are divided by the members' parts again",
                 fl->name);
        want.experts = NULL;
        b->table.n_layer = 0;
    }
    return crewing_place(fl->fleet, &want, workers, n, out, why);
}

// -- a better table --

static void find_spare(const struct fleet_lane *fl, uint64_t *spare)
{
    const struct place *p = &fl->lane.place;
    for (uint32_t i = 0; i < p->n_member; i++) {
        const struct place_member *m = &p->members[i];
        const struct fleet_worker *w = &fl->fleet->workers[m->worker];
        const uint64_t most = w->tether ? w->hello.devices[0].mem_free_bytes : 0;
        const uint64_t planned = m->weight_bytes + m->kv_bytes + m->work_bytes;
        uint64_t room = most > planned ? most - planned : 0;
        if (room > w->beat.mem_free_bytes) room = w->beat.mem_free_bytes;
        spare[i] = room - room / 8; // its figures are a moment old
    }
}

static void adopt(struct fleet_lane *fl, const struct experts_plan *plan, int64_t now_us)
{
    struct balance *b = fl->balance;
    log_info("%s: a new table of experts: %d change hands, %u have copies; a step's experts are "
             "predicted %.0f %% faster",
             fl->name, plan->n_moved, plan->table.n_replica, 100 * experts_gain(plan));
    b->table = plan->table;
    b->made_for = fl->lane.place;
    b->at = !b->at;
    lane_renew(&fl->lane, now_us);
    orders_carry_out(fl);
}

void balancing_tick(struct fleet_lane *fl, bool is_busy, int64_t now_us)
{
    struct balance *b = fl->balance;
    if (!b || is_busy || now_us < b->next_us || fl->lane.state != LANE_READY) return;
    if (fl->fleet->config.no_rebalance || usage_mean(b->usage, now_us) < least_mean) return;
    b->next_us = now_us + PAUSE_US;
    uint64_t spare[WIRE_STAGES_MAX];
    struct experts_plan plan;
    struct arena *next = &b->arenas[!b->at];
    arena_reset(next);
    find_spare(fl, spare);
    if (usage_place(b->usage, &fl->lane.place, spare, next, &plan)) return; // no groups
    if (experts_gain(&plan) > least_gain) adopt(fl, &plan, now_us);
}

bool balancing_parts(const struct fleet_lane *fl, double *out)
{
    const struct balance *b = fl->balance;
    return b && usage_parts(b->usage, &fl->lane.place, out);
}

// -- the picture --

static const char *name_of(void *arg, uint32_t worker)
{
    const struct fleet_worker *w = fleet_worker(arg, worker);
    return w ? w->hello.name : "";
}

void balancing_json(const struct fleet_lane *fl, struct buf *out)
{
    const struct balance *b = fl->balance;
    usage_json(b && fl->lane.place.n_stage ? b->usage : NULL, &fl->lane.place, name_of, fl->fleet,
               out);
}
